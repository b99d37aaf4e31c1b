#define _GNU_SOURCE
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "record_calls.h"
#include "sys.h"

#define OPTIONS                                                                                                        \
    (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |  \
     PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL)
#define SYSCALL_STOP (SIGTRAP | 0x80)

struct recorder {
    struct out out;
    struct threads threads;
    struct faults faults;
    pid_t root;
    int status;
};

static void go(struct thread *t, long request, long signal)
{
    t->state = RUNNING;
    sys4(SYS_ptrace, request, t->tid, 0, signal); /* ESRCH: killed meanwhile, and about to be reaped */
}

static struct pages *pages_for(void *context, pid_t process)
{
    struct recorder *r = context;
    struct thread *t = thread_find(&r->threads, process);
    if (!t || !t->mm) /* the first thread of a process may end before others */
        t = thread_of(&r->threads, process);
    return t ? &t->mm->touched : NULL;
}

/* What this address space has touched by now, before something changes in it. */
static void write_touched(struct recorder *r, struct thread *t)
{
    struct mm *mm = t->mm;
    char path[64];
    faults_drain(&r->faults, pages_for, r);
    if (!mm || !mm->touched.count)
        return;
    if (mm->pagemap < 0) {
        snprintf(path, sizeof path, "/proc/%d/pagemap", t->tid);
        mm->pagemap = open(path, O_RDONLY | O_CLOEXEC);
    }
    faults_write(&r->faults, &mm->touched, mm->pagemap, &r->out, "{\"p\":", t->tid);
}

static int pidfd_of(struct recorder *r, struct thread *t)
{
    struct thread *first = thread_find(&r->threads, t->process);
    if (!first)
        return -1;
    if (first->pidfd < 0)
        first->pidfd = (int)sys2(SYS_pidfd_open, t->process, 0);
    return first->pidfd;
}

/* --- calls --------------------------------------------------------------------------------------- */

static void enter(struct recorder *r, struct thread *t)
{
    struct mm *mm = t->mm;
    if (call_alone(&t->call)) {
        if (mm->inside) {
            struct thread **at = &mm->first;
            while (*at)
                at = &(*at)->waiting;
            *at = t;
            t->waiting = NULL;
            t->state = WAITING;
            return;
        }
        mm->inside = t;
    }
    if (!call_executes(&t->call) || mm->users > 1) /* else nobody will have this memory any more */
        write_touched(r, t);
    go(t, call_executes(&t->call) ? PTRACE_CONT : PTRACE_SYSCALL, 0);
}

static void leave(struct recorder *r, struct mm *mm, struct thread *t)
{
    if (!mm || mm->inside != t)
        return;
    mm->inside = NULL;
    struct thread *next = mm->first;
    if (next) {
        mm->first = next->waiting;
        enter(r, next);
    }
}

static void at_entry(struct recorder *r, struct thread *t)
{
    if (call_read(t))
        enter(r, t);
}

static void at_return(struct recorder *r, struct thread *t)
{
    int64_t result;
    if (t->call.pending && !t->call.told && call_result(t->tid, &result))
        call_write(&r->out, t, pidfd_of(r, t), result);
    t->call.pending = 0;
    leave(r, t->mm, t);
    go(t, PTRACE_CONT, 0);
}

/* --- threads ------------------------------------------------------------------------------------- */

static void at_fork(struct recorder *r, struct thread *t)
{
    unsigned long made = 0;
    uint64_t flags = call_clone_flags(&t->call);
    sys4(SYS_ptrace, PTRACE_GETEVENTMSG, t->tid, 0, &made);
    struct thread *child = thread_find(&r->threads, (pid_t)made);
    int stands = child != NULL;
    if (!child)
        child = thread_add(&r->threads, (pid_t)made);
    if (flags & CLONE_THREAD)
        child->process = t->process;
    thread_join(child, flags & CLONE_VM ? t->mm : mm_new());
    call_write(&r->out, t, -1, (int64_t)made);
    t->call.told = 1;
    leave(r, t->mm, t);
    if (stands)
        go(child, PTRACE_CONT, 0);
    go(t, PTRACE_SYSCALL, 0);
}

static void write_image(struct recorder *r, struct thread *t)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/%d/exe", t->tid);
    ssize_t length = readlink(link, path, sizeof path);
    out_text(&r->out, "{\"p\":");
    out_number(&r->out, t->tid);
    out_text(&r->out, ",\"x\":");
    out_string(&r->out, path, length < 0 ? 0 : (size_t)length);
    out_text(&r->out, ",\"b\":");
    out_unsigned(&r->out, maps_start_brk(t->tid));
    out_text(&r->out, ",\"v\":");
    maps_rows(&r->out, t->tid);
    out_text(&r->out, "}\n");
}

/* Whoever executes becomes its process's first thread, under that one's number; the others are gone by now. */
static void at_exec(struct recorder *r, struct thread *t)
{
    unsigned long before = 0;
    sys4(SYS_ptrace, PTRACE_GETEVENTMSG, t->tid, 0, &before);
    struct thread *old = (pid_t)before != t->tid ? thread_find(&r->threads, (pid_t)before) : NULL;
    /* Faults since the call began are of the address space to come, whose pages maps show. */
    faults_drain(&r->faults, pages_for, r);
    if (t->mm)
        t->mm->touched.count = 0;
    if (old)
        thread_remove(&r->threads, old);
    thread_join(t, mm_new());
    t->process = t->tid;
    t->ended = 0;
    t->call.pending = 0;
    write_image(r, t);
    go(t, PTRACE_CONT, 0);
}

static void write_end(struct recorder *r, struct thread *t, unsigned long status, int alive)
{
    if (t->ended)
        return;
    t->ended = 1;
    if (alive && t->mm)
        write_touched(r, t);
    out_text(&r->out, "{\"p\":");
    out_number(&r->out, t->tid);
    out_text(&r->out, ",\"e\":");
    out_unsigned(&r->out, status);
    if (alive && t->mm && t->mm->users == 1) {
        out_text(&r->out, ",\"v\":");
        maps_rows(&r->out, t->tid);
    }
    out_text(&r->out, "}\n");
}

static void at_exit(struct recorder *r, struct thread *t)
{
    unsigned long status = 0;
    struct mm *mm = t->mm;
    sys4(SYS_ptrace, PTRACE_GETEVENTMSG, t->tid, 0, &status);
    write_end(r, t, status, 1);
    /* From here on it does nothing to its memory: whoever ends after it may be the last. */
    if (mm && mm->users > 1) {
        leave(r, mm, t);
        thread_join(t, NULL);
    }
    go(t, PTRACE_CONT, 0);
}

static void at_end(struct recorder *r, struct thread *t, int status)
{
    struct mm *mm = t->mm && t->mm->users > 1 ? t->mm : NULL;
    if (t->tid == r->root)
        r->status = status;
    write_end(r, t, (unsigned long)status, 0);
    leave(r, mm, t);
    thread_remove(&r->threads, t);
}

/* --- stops --------------------------------------------------------------------------------------- */

static void at_event(struct recorder *r, struct thread *t, int event, int signal)
{
    switch (event) {
    case PTRACE_EVENT_SECCOMP:
        at_entry(r, t);
        break;
    case PTRACE_EVENT_FORK:
    case PTRACE_EVENT_VFORK:
    case PTRACE_EVENT_CLONE:
        at_fork(r, t);
        break;
    case PTRACE_EVENT_EXEC:
        at_exec(r, t);
        break;
    case PTRACE_EVENT_EXIT:
        at_exit(r, t);
        break;
    case PTRACE_EVENT_STOP:
        /* A stop of the whole group stays one; the other stop is a newborn's. */
        go(t, signal == SIGTRAP ? PTRACE_CONT : PTRACE_LISTEN, 0);
        break;
    default:
        go(t, PTRACE_CONT, 0);
    }
}

static void at_stop(struct recorder *r, pid_t tid, int status)
{
    struct thread *t = thread_find(&r->threads, tid);
    int signal = WSTOPSIG(status), event = status >> 16;
    if (!t) {
        t = thread_add(&r->threads, tid);
        t->state = NEWBORN;
    }
    if (!t->mm && event == PTRACE_EVENT_STOP && t->state == NEWBORN)
        return; /* at_fork lets it go */
    if (event)
        at_event(r, t, event, signal);
    else if (signal == SYSCALL_STOP)
        at_return(r, t);
    else
        go(t, PTRACE_CONT, signal);
}

static void loop(struct recorder *r)
{
    while (r->threads.count) {
        int status;
        pid_t tid = waitpid(-1, &status, __WALL);
        if (tid < 0 && errno != EINTR)
            break;
        if (tid < 0)
            faults_drain(&r->faults, pages_for, r);
        else if (WIFSTOPPED(status))
            at_stop(r, tid, status);
        else if (thread_find(&r->threads, tid))
            at_end(r, thread_find(&r->threads, tid), status);
    }
}

/* --- the beginning ------------------------------------------------------------------------------- */

static void on_io(int signal)
{
    (void)signal;
}

static void trace(struct recorder *r, const struct record_plan *plan, struct record_result *result, int go_on)
{
    if (plan->faults)
        faults_open(&r->faults, r->root);
    struct thread *t = thread_add(&r->threads, r->root);
    thread_join(t, mm_new());
    if (sys4(SYS_ptrace, PTRACE_SEIZE, r->root, 0, OPTIONS) < 0) {
        result->error = EPERM;
        result->step = "ptrace";
        kill(r->root, SIGKILL);
        waitpid(r->root, NULL, __WALL);
        return;
    }
    out_text(&r->out, "{\"facts\":1,\"faults\":");
    out_text(&r->out, !r->faults.count ? "\"none\"}\n" : r->faults.kernel ? "\"all\"}\n" : "\"user\"}\n");
    close(go_on);
    loop(r);
    out_text(&r->out, "{\"facts\":2,\"zero_pages\":");
    out_text(&r->out, r->faults.scans ? "true" : "false");
    out_text(&r->out, ",\"lost\":");
    out_unsigned(&r->out, r->faults.lost);
    out_text(&r->out, "}\n");
    out_flush(&r->out);
    result->status = r->status;
    result->write_error = r->out.error;
}

/* In the child: waits until it is traced, which closes the pipe. */
static void become(const struct record_plan *plan, int wait, int failed)
{
    char nothing;
    int error[2] = {0, 0};
    while (read(wait, &nothing, 1) < 0 && errno == EINTR)
        ;
    long err = filter_install();
    if (!err) {
        execve(plan->path, plan->argv, plan->env);
        err = -errno;
        error[1] = 1;
    }
    error[0] = (int)-err;
    while (write(failed, error, sizeof error) < 0 && errno == EINTR)
        ;
    _exit(127);
}

/* The tracer, a process of its own; the program is its child. */
static void tracer(const struct record_plan *plan, struct record_result *result, const struct sigaction *saved)
{
    /* Who ignores SIGCHLD has its children's statuses thrown away. */
    struct sigaction plain = {.sa_handler = SIG_DFL}, child;
    sigaction(SIGCHLD, &plain, &child);
    struct recorder *r = calloc(1, sizeof *r);
    int begin[2], failed[2], error[2];
    sigset_t none;
    if (!r || pipe2(begin, O_CLOEXEC) || pipe2(failed, O_CLOEXEC)) {
        result->error = errno;
        result->step = "pipe2";
        return;
    }
    r->out.fd = plan->out;
    r->root = fork();
    if (!r->root) {
        sigaction(SIGINT, &saved[0], NULL);
        sigaction(SIGQUIT, &saved[1], NULL);
        sigaction(SIGCHLD, &child, NULL);
        signal(SIGPIPE, SIG_DFL); /* Python ignores these two */
        signal(SIGXFSZ, SIG_DFL);
        sigprocmask(SIG_SETMASK, (sigemptyset(&none), &none), NULL);
        close(begin[1]);
        become(plan, begin[0], failed[1]);
    }
    close(failed[1]);
    if (r->root < 0) {
        result->error = errno;
        result->step = "fork";
        return;
    }
    sigaction(SIGIO, &(struct sigaction){.sa_handler = on_io}, NULL);
    sigprocmask(SIG_SETMASK, (sigemptyset(&none), &none), NULL);
    trace(r, plan, result, begin[1]);
    if (read(failed[0], error, sizeof error) == sizeof error) {
        result->error = error[0];
        result->step = error[1] ? "execve" : "seccomp";
    }
}

void record_run(const struct record_plan *plan, struct record_result *result)
{
    struct sigaction saved[2], ignore = {.sa_handler = SIG_IGN};
    int answer[2];
    *result = (struct record_result){0};
    if (pipe2(answer, O_CLOEXEC)) {
        result->error = errno;
        result->step = "pipe2";
        return;
    }
    /* The keyboard's signals are the program's: it decides what becomes of them. */
    sigaction(SIGINT, &ignore, &saved[0]);
    sigaction(SIGQUIT, &ignore, &saved[1]);
    pid_t owner = getpid(), pid = fork();
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != owner)
            _exit(1);
        tracer(plan, result, saved);
        while (write(answer[1], result, sizeof *result) < 0 && errno == EINTR)
            ;
        _exit(0);
    }
    close(answer[1]);
    if (pid < 0) {
        result->error = errno;
        result->step = "fork";
    } else {
        ssize_t n;
        while ((n = read(answer[0], result, sizeof *result)) < 0 && errno == EINTR)
            ;
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        if (n != sizeof *result)
            *result = (struct record_result){.error = ECHILD, .step = "tracer"};
    }
    close(answer[0]);
    sigaction(SIGINT, &saved[0], NULL);
    sigaction(SIGQUIT, &saved[1], NULL);
}
