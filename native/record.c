#define _GNU_SOURCE
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "record_loop.h"
#include "sys.h"

#define OPTIONS                                                                                                        \
    (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |  \
     PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL)

static void on_alarm(int signal)
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
    /* It ends the wait for the next stop before a ring of samples is full: a fault takes about half a microsecond. */
    struct itimerval often = {{0, 4000}, {0, 4000}};
    if (r->faults.count)
        setitimer(ITIMER_REAL, &often, NULL);
    close(go_on);
    record_loop(r);
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
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
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
