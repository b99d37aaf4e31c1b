#define _GNU_SOURCE
#include "proxy.h"

#include <linux/futex.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clone.h"
#include "sys.h"

#ifdef ELFOLIO_ASAN
#include <sanitizer/asan_interface.h>
#endif

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef PR_SET_PTRACER
#define PR_SET_PTRACER 0x59616d61
#endif

enum turn { TURN_IDLE, TURN_COMMAND, TURN_DONE, TURN_QUIT };

#define MEET_SECONDS 5
#define STACK_BYTES (32 * 1024)

/* Private futexes are keyed by the address space, which all of us share. */
static void wait_while(uint32_t *word, uint32_t value, int seconds)
{
    struct timespec limit = {seconds, 0};
    sys4(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &limit);
}

static void set_and_wake(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    sys3(SYS_futex, word, FUTEX_WAKE_PRIVATE, 64);
}

/* --- in the child that is to be traced ----------------------------------------------------------- */

long meet_tracer(struct rendezvous *r)
{
    uint32_t answer;
    sys2(SYS_prctl, PR_SET_PTRACER, r->tracer); /* Yama: the tracer is no ancestor of ours */
    set_and_wake(&r->child, (uint32_t)sys0(SYS_getpid));
    for (int waits = 0; !(answer = __atomic_load_n(&r->answer, __ATOMIC_ACQUIRE)); waits++) {
        if (waits == MEET_SECONDS)
            return -ETIMEDOUT; /* a filter has killed the tracer, or it is stopped */
        wait_while(&r->answer, 0, 1);
        if (sys0(SYS_getppid) != r->owner)
            return -ESRCH; /* killed, and the tracer with it */
    }
    return answer & 1 ? 0 : -(long)(answer >> 1);
}

/* --- in the proxy -------------------------------------------------------------------------------- */

static long meet(struct proxy *p, long options)
{
    uint32_t child;
    while (!(child = __atomic_load_n(&p->rendezvous.child, __ATOMIC_ACQUIRE))) {
        wait_while(&p->rendezvous.child, 0, 1);
        if (__atomic_load_n(&p->turn, __ATOMIC_ACQUIRE) == TURN_QUIT)
            return -ECANCELED; /* it could not be launched */
    }
    long err = sys4(SYS_ptrace, PTRACE_SEIZE, child, 0, options);
    set_and_wake(&p->rendezvous.answer, err < 0 ? (uint32_t)-err << 1 : 1);
    return err < 0 ? err : (long)child;
}

static void serve(void *proxy)
{
    struct proxy *p = proxy;
    /* It may be waiting for a tracee that does not come when its owner is killed. The thread that started it outlives
     * it otherwise. */
    sys2(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        uint32_t turn = __atomic_load_n(&p->turn, __ATOMIC_ACQUIRE);
        if (turn == TURN_QUIT || sys0(SYS_getppid) != p->owner)
            break;
        if (turn != TURN_COMMAND) {
            wait_while(&p->turn, turn, 1);
            continue;
        }
        const long *a = p->argument;
        p->result = p->number == PROXY_MEET ? meet(p, a[0]) : sys6(p->number, a[0], a[1], a[2], a[3], a[4], a[5]);
        uint32_t command = TURN_COMMAND; /* unless we have been told to go meanwhile */
        __atomic_compare_exchange_n(&p->turn, &command, TURN_DONE, 0, __ATOMIC_RELEASE, __ATOMIC_ACQUIRE);
        sys3(SYS_futex, &p->turn, FUTEX_WAKE_PRIVATE, 64);
    }
    for (;;)
        sys1(SYS_exit, 0);
}

/* --- in the owner -------------------------------------------------------------------------------- */

int proxy_start(struct proxy *p)
{
    uint64_t all = ~0ULL, before;
    *p = (struct proxy){.pidfd = -1, .owner = getpid()};
    p->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (p->stack == MAP_FAILED) {
        p->stack = NULL;
        return errno;
    }
    struct clone3_args args = {
        .flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_PIDFD,
        .pidfd = (uint64_t)&p->pidfd,
        .stack = (uint64_t)p->stack,
        .stack_size = STACK_BYTES,
    };
    sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof before);
    long pid = clone3_onto(&args, CLONE3_SIZE_5_3, serve, p);
    sys4(SYS_rt_sigprocmask, SIG_SETMASK, &before, 0, sizeof before);
    if (pid < 0) {
        munmap(p->stack, STACK_BYTES);
        p->stack = NULL;
        return (int)-pid;
    }
    p->pid = p->rendezvous.tracer = (pid_t)pid;
    p->rendezvous.owner = p->owner;
    return 0;
}

void proxy_stop(struct proxy *p)
{
    siginfo_t info;
    if (!p->stack)
        return;
    __atomic_store_n(&p->turn, TURN_QUIT, __ATOMIC_RELEASE);
    sys4(SYS_pidfd_send_signal, p->pidfd, SIGKILL, 0, 0); /* it may be in a call that blocks */
    while (sys5(SYS_waitid, P_PIDFD, p->pidfd, &info, WEXITED | __WALL, 0) == -EINTR)
        ;
    close(p->pidfd);
#ifdef ELFOLIO_ASAN
    /* It never returned from its frames: what they poisoned would stay so for who gets this memory next. */
    __asan_unpoison_memory_region(p->stack, STACK_BYTES);
#endif
    munmap(p->stack, STACK_BYTES);
    p->stack = NULL;
    p->pidfd = -1;
}

void proxy_post(struct proxy *p, long number, const long argument[6])
{
    p->number = number;
    memcpy(p->argument, argument, sizeof p->argument);
    set_and_wake(&p->turn, TURN_COMMAND);
}

int proxy_result(struct proxy *p, long *result)
{
    siginfo_t info = {0};
    for (;;) {
        uint32_t turn = __atomic_load_n(&p->turn, __ATOMIC_ACQUIRE);
        if (turn == TURN_DONE)
            break;
        wait_while(&p->turn, turn, 1);
        if (sys5(SYS_waitid, P_PIDFD, p->pidfd, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0) < 0 || info.si_pid)
            return ESRCH;
    }
    *result = p->result;
    return 0;
}
