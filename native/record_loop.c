#define _GNU_SOURCE
#include "record_loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "record_calls.h"
#include "sys.h"

#define SYSCALL_STOP (SIGTRAP | 0x80)

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
    t->call.pending = !call_executes(&t->call);
    go(t, t->call.pending ? PTRACE_SYSCALL : PTRACE_CONT, 0);
}

static void leave(struct recorder *r, struct mm *mm, struct thread *t)
{
    if (!mm || mm->inside != t)
        return;
    mm->inside = NULL;
    while (mm->first && !mm->inside) {
        struct thread *next = mm->first;
        mm->first = next->waiting;
        /* One that was killed meanwhile stands at its end, and is not to be let go unseen. */
        if (call_waits(next->tid))
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
    if (t->call.pending && !t->call.told) {
        if (!call_result(t->tid, &result))
            return; /* killed as it stood here: at_exit asks what came of the call, and until then nobody else calls */
        call_write(&r->out, t, pidfd_of(r, t), result);
    }
    t->call.pending = 0;
    leave(r, t->mm, t);
    go(t, PTRACE_CONT, 0);
}

/* --- threads ------------------------------------------------------------------------------------- */

static void adopt(struct recorder *r, struct thread *t, pid_t made)
{
    uint64_t flags = call_clone_flags(&t->call);
    struct thread *child = thread_find(&r->threads, made);
    int stands = child != NULL;
    if (!child)
        child = thread_add(&r->threads, made);
    child->foreign = t->foreign;
    if (flags & CLONE_THREAD)
        child->process = t->process;
    thread_join(child, flags & CLONE_VM ? t->mm : mm_new());
    call_write(&r->out, t, -1, made);
    t->call.told = 1;
    leave(r, t->mm, t);
    if (stands)
        go(child, PTRACE_CONT, 0);
}

/* What a call of another architecture made shows by whose it is. */
static uint64_t foreign_flags(const struct thread *t, int event, pid_t made)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d", t->process, made);
    if (!access(path, F_OK))
        return CLONE_VM | CLONE_FILES | CLONE_THREAD;
    return SIGCHLD | (event == PTRACE_EVENT_VFORK ? CLONE_VM | CLONE_VFORK : 0);
}

static void at_fork(struct recorder *r, struct thread *t, int event)
{
    unsigned long made = 0;
    if (sys4(SYS_ptrace, PTRACE_GETEVENTMSG, t->tid, 0, &made) < 0)
        return; /* killed as it stood here: at_exit asks whom it made */
    if (t->foreign)
        call_is_clone(t, foreign_flags(t, event, (pid_t)made));
    adopt(r, t, (pid_t)made);
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
    out_text(&r->out, t->foreign ? ",\"foreign\":1,\"v\":" : ",\"v\":");
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
    t->foreign = call_foreign(t->tid);
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
    if (alive && !t->foreign && t->mm && t->mm->users == 1) {
        out_text(&r->out, ",\"v\":");
        maps_rows(&r->out, t->tid);
    }
    out_text(&r->out, "}\n");
}

static void at_exit(struct recorder *r, struct thread *t)
{
    unsigned long status = 0;
    struct mm *mm = t->mm;
    int64_t result;
    sys4(SYS_ptrace, PTRACE_GETEVENTMSG, t->tid, 0, &status);
    if (t->call.pending && !t->call.told && t->state != WAITING && call_last_result(t->tid, &result)) {
        if (call_forks(&t->call) && result > 0)
            adopt(r, t, (pid_t)result);
        else
            call_write(&r->out, t, pidfd_of(r, t), result);
    }
    t->call.pending = 0;
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
        at_fork(r, t, event);
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

void record_loop(struct recorder *r)
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
