/* thread: what kernel and C library agree on about a thread; and that threads work. In: the process. Out: JSON. */
#include "out.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static __thread int thread_local = 4242;
static __thread int thread_zero;

/* The C library's own idea of the tid, from whom it writes as owner into an error-checking mutex. */
static int cached_tid(void)
{
    pthread_mutex_t mutex = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
    pthread_mutex_lock(&mutex);
    int owner = mutex.__data.__owner;
    pthread_mutex_unlock(&mutex);
    return owner;
}

/* The tid in a thread's processor clock (include/linux/posix-timers.h). */
static int clock_tid(void)
{
    clockid_t clock;
    return pthread_getcpuclockid(pthread_self(), &clock) ? -1 : ~(clock >> 3);
}

static void view_robust_list(void)
{
    struct {
        void *next;
        long offset;
        void *pending;
    } *head = NULL;
    size_t length = 0;
    answer("robust", syscall(SYS_get_robust_list, 0, &head, &length));
    number("robust_length", (long)length);
    number("robust_where", head ? (long)((char *)head - (char *)__builtin_thread_pointer()) : -1);
    number("robust_empty", head && head->next == head && !head->pending);
    number("robust_offset", head ? head->offset : -1);
}

static void view_rseq(void)
{
    volatile struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
    number("rseq_size", __rseq_size);
    number("rseq_flags", __rseq_flags);
    number("rseq_where", __rseq_offset);
    number("rseq_running", __rseq_size && (int)area->cpu_id >= 0 && area->cpu_id == area->cpu_id_start);
    number("rseq_section", area->rseq_cs != 0);
    /* Registered already, with this signature: EBUSY. */
    answer("rseq_again", syscall(SYS_rseq, area, 32, 0, RSEQ_SIG));
}

void view_thread(void)
{
    int *clear = NULL;
    int tid = (int)syscall(SYS_gettid);
    open_object("thread");
    number("tid_is_pid", tid == getpid());
    number("gettid", gettid() == tid);
    number("cached_tid", cached_tid() == tid);
    number("clock_tid", clock_tid() == tid);
    answer("tid_address", prctl(PR_GET_TID_ADDRESS, &clear, 0, 0, 0));
    number("tid_at_address", clear && *clear == tid);
    number("tid_address_where", clear ? (long)((char *)clear - (char *)__builtin_thread_pointer()) : -1);
    view_robust_list();
    view_rseq();
    number("thread_local", thread_local);
    number("thread_zero", thread_zero);
    number("library_thread_local", library_thread_local);
    number("getcpu", sched_getcpu() >= 0);
    close_object();
}

struct report {
    int tid, cached, clock, local, zero, same_group;
    size_t size, guard;
};

static void *in_thread(void *into)
{
    struct report *r = into;
    pthread_attr_t attributes;
    r->tid = gettid();
    r->cached = cached_tid() == r->tid;
    r->clock = clock_tid() == r->tid;
    r->local = thread_local++;
    r->zero = thread_zero++;
    r->same_group = getpid() != r->tid;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstacksize(&attributes, &r->size);
    pthread_attr_getguardsize(&attributes, &r->guard);
    pthread_attr_destroy(&attributes);
    return into;
}

static void *dies_holding(void *mutex)
{
    pthread_mutex_lock(mutex);
    return NULL;
}

/* Its owner ends while it holds the mutex: the next one is told, EOWNERDEAD, and may mend it. */
static void act_robust_mutex(void)
{
    pthread_mutex_t mutex;
    pthread_mutexattr_t robust;
    pthread_t thread;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&mutex, &robust);
    number("robust_lock", pthread_mutex_lock(&mutex));
    number("robust_owner", mutex.__data.__owner == gettid());
    number("robust_unlock", pthread_mutex_unlock(&mutex));
    if (!pthread_create(&thread, NULL, dies_holding, &mutex)) {
        pthread_join(thread, NULL);
        number("robust_dead", pthread_mutex_lock(&mutex));
        number("robust_mended", pthread_mutex_consistent(&mutex));
        number("robust_free", pthread_mutex_unlock(&mutex));
    }
}

void act_threads(void)
{
    struct report r = {0};
    pthread_t thread;
    open_object("threads");
    int err = pthread_create(&thread, NULL, in_thread, &r);
    number("created", err);
    if (!err)
        number("joined", pthread_join(thread, NULL));
    number("cached_tid", r.cached);
    number("clock_tid", r.clock);
    number("thread_local", r.local);
    number("thread_zero", r.zero);
    number("same_group", r.same_group);
    number("stack_size", (long)r.size);
    number("guard_size", (long)r.guard);
    number("mine_untouched", thread_local == 4242 && thread_zero == 0);
    number("tid_still_cached", cached_tid() == gettid());
    act_robust_mutex();
    close_object();
}
