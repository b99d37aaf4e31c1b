#define _GNU_SOURCE
#include "launch.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clone.h"
#include "proxy.h"
#include "sys.h"

#ifdef ELFOLIO_ASAN
#include <sanitizer/asan_interface.h>
#endif

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* Written by the child, read by the parent after the child has executed or ended. MAP_SHARED: it must
 * reach the parent also where the child has a copy of the memory. */
struct report {
    int32_t error;
    int32_t failed;
    uint32_t how;
};

#define STACK_BYTES (64 * 1024)
#define GUARD_BYTES (64 * 1024) /* the largest page size of either architecture */

struct stage {
    struct stage *next;
    char *stack; /* guard, then stack */
    struct report *report;
};

struct child {
    const struct launch *launch;
    struct report *report;
    struct child_state state;
    int reset_handlers;
    int join_cgroup;
};

/* --- stages: a stack and a report, kept for the next launch ------------------------------------- */

#define STAGES_KEPT 64

static pthread_mutex_t stages_lock = PTHREAD_MUTEX_INITIALIZER;
static struct stage *stages;
static int stages_kept;

static void stage_unmap(struct stage *s)
{
    if (s->stack != MAP_FAILED)
        munmap(s->stack, GUARD_BYTES + STACK_BYTES);
    if ((void *)s->report != MAP_FAILED)
        munmap(s->report, sizeof *s->report);
    free(s);
}

static struct stage *stage_map(void)
{
    struct stage *s = malloc(sizeof *s);
    if (!s)
        return NULL;
    s->stack = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    s->report = mmap(NULL, sizeof *s->report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s->stack == MAP_FAILED || (void *)s->report == MAP_FAILED ||
        mprotect(s->stack + GUARD_BYTES, STACK_BYTES, PROT_READ | PROT_WRITE)) {
        stage_unmap(s);
        return NULL;
    }
    return s;
}

static struct stage *stage_take(void)
{
    pthread_mutex_lock(&stages_lock);
    struct stage *s = stages;
    if (s) {
        stages = s->next;
        stages_kept--;
    }
    pthread_mutex_unlock(&stages_lock);
    if (!s)
        s = stage_map();
    if (s)
        memset(s->report, 0, sizeof *s->report);
    return s;
}

static void stage_give(struct stage *s)
{
    pthread_mutex_lock(&stages_lock);
    int keep = stages_kept < STAGES_KEPT;
    if (keep) {
        s->next = stages;
        stages = s;
        stages_kept++;
    }
    pthread_mutex_unlock(&stages_lock);
    if (!keep)
        stage_unmap(s);
}

/* Launches hold it shared; one that met ETXTBSY takes it alone, when no other child stands between its
 * clone and its exec with a copy of somebody's writable descriptor (golang/go#22315). */
static pthread_rwlock_t exec_gate = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static const pthread_rwlock_t exec_gate_new = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
#define GATE_WAIT_SECONDS 1 /* a child may hang in an Open action on a FIFO: then the error stands */

void launch_after_fork(void)
{
    pthread_mutex_init(&stages_lock, NULL);
    exec_gate = exec_gate_new;
    /* A launch of another thread may have been using a stage: forget them, the copies cost nothing. */
    stages = NULL;
    stages_kept = 0;
}

/* --- in the child -------------------------------------------------------------------------------- */

/* Without CLONE_CLEAR_SIGHAND: handlers go, what is ignored stays ignored, as over exec. */
static void reset_handlers(void)
{
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } action, none = {0};
    for (int sig = 1; sig <= 64; sig++) {
        if (sys4(SYS_rt_sigaction, sig, 0, &action, 8) < 0)
            continue;
        if (action.handler != (void *)SIG_IGN && action.handler != (void *)SIG_DFL)
            sys4(SYS_rt_sigaction, sig, &none, 0, 8);
    }
}

static long join_cgroup(int cgroup_fd)
{
    int fd = (int)sys4(SYS_openat, cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long err = sys3(SYS_write, fd, "0", 1);
    sys1(SYS_close, fd);
    return err < 0 ? err : 0;
}

static long execute(const struct launch *l, struct report *report)
{
    if (l->path) {
        long err = sys3(SYS_execve, l->path, l->argv, l->envp);
        if (l->exec_fd < 0)
            return err;
        report->how |= HOW_NAME_LOST;
    }
    return sys5(SYS_execveat, l->exec_fd, "", l->argv, l->envp, AT_EMPTY_PATH);
}

static __attribute__((noreturn)) void child_main(void *child)
{
    struct child *c = child;
    uint32_t failed = 0;
    long err = 0;
    struct report *report = c->report;

    if (c->reset_handlers)
        reset_handlers();
    if (c->join_cgroup) {
        err = join_cgroup(c->launch->cgroup_fd);
        failed = (uint32_t)STEP_CGROUP;
    }
    if (!err)
        err = run_steps(&c->state, &failed);
    if (!err && c->launch->rendezvous) {
        err = meet_tracer(c->launch->rendezvous);
        failed = (uint32_t)STEP_TRACE;
    }
    if (!err) {
        sys4(SYS_rt_sigprocmask, SIG_SETMASK, &c->state.mask, 0, sizeof c->state.mask);
        err = execute(c->launch, report);
        failed = (uint32_t)STEP_EXEC;
    }
    report->failed = (int32_t)failed;
    report->error = (int32_t)-err;
    for (;;)
        sys1(SYS_exit_group, 127);
}

/* --- in the parent ------------------------------------------------------------------------------- */

/* clone3 is refused with ENOSYS by kernels before 5.3 and by container profiles that let programs fall
 * back, with EPERM by older profiles, with EINVAL or E2BIG where a flag or the cgroup field is unknown. */
static int is_missing(long err)
{
    return err == -ENOSYS || err == -EPERM || err == -EINVAL || err == -E2BIG;
}

static long start_clone3(struct launch *l, struct stage *s, struct child *c, int *pidfd)
{
    struct clone3_args args = {
        /* No exit signal: until its exec the child is nobody's to see, neither a SIGCHLD nor a
         * waitpid(-1) of the host meets one that failed. exec sets SIGCHLD (fs/exec.c, de_thread). */
        .flags = CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        .pidfd = (uint64_t)pidfd,
        .stack = (uint64_t)(s->stack + GUARD_BYTES),
        .stack_size = STACK_BYTES,
    };
    if (!(l->flags & LAUNCH_COPY_MEMORY))
        args.flags |= CLONE_VM;
    if (l->cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)l->cgroup_fd;
    }
    return clone3_onto(&args, l->cgroup_fd >= 0 ? CLONE3_SIZE_5_7 : CLONE3_SIZE_5_3, child_main, c);
}

static long start_clone(struct launch *l, struct stage *s, struct child *c, int *pidfd)
{
    uint64_t flags = CLONE_VFORK | (l->flags & LAUNCH_COPY_MEMORY ? 0 : CLONE_VM);
    char *top = s->stack + GUARD_BYTES + STACK_BYTES;
    c->reset_handlers = 1;
    c->join_cgroup = l->cgroup_fd >= 0;
    l->how |= HOW_NO_CLONE3;
    long pid = clone_onto(flags | CLONE_PIDFD, top, pidfd, child_main, c);
    if (pid != -EINVAL && pid != -EPERM)
        return pid;
    *pidfd = -1;
    return clone_onto(flags, top, NULL, child_main, c);
}

static void reap(pid_t pid, int pidfd)
{
    siginfo_t info;
    long id = pidfd >= 0 ? pidfd : pid;
    int type = pidfd >= 0 ? P_PIDFD : P_PID;
    while (sys5(SYS_waitid, type, id, &info, WEXITED | __WALL, 0) == -EINTR)
        ;
}

static int settle(struct launch *l, struct report *report, long pid, int pidfd)
{
    l->how |= report->how;
    if (!report->error && pidfd < 0) {
        l->how |= HOW_PIDFD_OPENED;
        pidfd = (int)sys2(SYS_pidfd_open, pid, 0);
        if (pidfd < 0) {
            report->error = -pidfd;
            report->failed = STEP_PIDFD;
            sys2(SYS_kill, pid, SIGKILL); /* unreaped: the number is still the child's */
        }
    }
    if (report->error) {
        reap((pid_t)pid, pidfd);
        if (pidfd >= 0)
            sys1(SYS_close, pidfd);
        l->failed = report->failed;
        return report->error;
    }
    l->pid = (pid_t)pid;
    l->pidfd = pidfd;
    return 0;
}

static int launch_once(struct launch *l, struct stage *s)
{
    uint64_t all = ~0ULL, before;
    int pidfd = -1, cancel_state;
    struct child c = {.launch = l, .report = s->report};

    memset(s->report, 0, sizeof *s->report);
    l->how = l->flags & LAUNCH_COPY_MEMORY ? HOW_COPIED_MEMORY : 0;
    l->failed = STEP_CLONE;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    /* Raw, so that the C library's own signals (cancellation, setxid) are held off as well. */
    sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof before);
    c.state = (struct child_state){.steps = l->steps, .count = l->step_count, .blob = l->blob,
                                   .parent = getpid(), .mask = before};
    long pid = start_clone3(l, s, &c, &pidfd);
    if (is_missing(pid))
        pid = start_clone(l, s, &c, &pidfd);
    sys4(SYS_rt_sigprocmask, SIG_SETMASK, &before, 0, sizeof before);
    pthread_setcancelstate(cancel_state, &cancel_state);
#ifdef ELFOLIO_ASAN
    /* The child never returned from its frames: what they poisoned would stay so for the next one. */
    __asan_unpoison_memory_region(s->stack + GUARD_BYTES, STACK_BYTES);
#endif
    return pid < 0 ? (int)-pid : settle(l, s->report, pid, pidfd);
}

static int gate_alone(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += GATE_WAIT_SECONDS;
    return pthread_rwlock_timedwrlock(&exec_gate, &until) == 0;
}

int launch(struct launch *l)
{
    struct stage *s = stage_take();
    l->pid = l->pidfd = -1;
    if (!s) {
        l->failed = STEP_CLONE;
        return ENOMEM;
    }
    pthread_rwlock_rdlock(&exec_gate);
    int err = launch_once(l, s);
    pthread_rwlock_unlock(&exec_gate);
    if (err == ETXTBSY && l->failed == STEP_EXEC && l->flags & LAUNCH_REPEATABLE && gate_alone()) {
        err = launch_once(l, s);
        pthread_rwlock_unlock(&exec_gate);
        l->how |= HOW_RETRIED_BUSY;
    }
    stage_give(s);
    return err;
}
