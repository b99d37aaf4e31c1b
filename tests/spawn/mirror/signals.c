/* signals: mask, dispositions, pending, timers; and whether signals arrive. In: the process. Out: JSON. */
#include "out.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The kernel's, not the C library's, which hides two signals. */
struct disposition {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

static void view_dispositions(void)
{
    open_object("dispositions");
    for (int sig = 1; sig <= 64; sig++) {
        char name[8];
        struct disposition now = {0};
        snprintf(name, sizeof name, "%d", sig);
        if (syscall(SYS_rt_sigaction, sig, NULL, &now, sizeof now.mask)) {
            answer(name, -1);
        } else if (now.handler || now.flags || now.mask) {
            long values[] = {(long)now.handler, (long)now.flags, now.restorer != NULL, (long)now.mask};
            numbers(name, values, 4);
        }
    }
    close_object();
}

static void view_timers(void)
{
    struct itimerval timer;
    long values[12];
    for (int which = 0; which < 3; which++) {
        getitimer(which, &timer);
        memcpy(values + which * 4, &timer, sizeof timer);
    }
    numbers("itimers", values, 12);
    file("posix_timers", "/proc/self/timers");
}

void view_signals(void)
{
    uint64_t mask = 0, pending = 0;
    stack_t stack;
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof mask);
    syscall(SYS_rt_sigpending, &pending, sizeof pending);
    number("signal_mask", (long)mask);
    number("signals_pending", (long)pending);
    sigaltstack(NULL, &stack);
    number("altstack_flags", stack.ss_flags);
    number("altstack_size", (long)stack.ss_size);
    view_dispositions();
    view_timers();
}

static volatile sig_atomic_t arrived, carried;

static void on_signal(int sig, siginfo_t *info, void *context)
{
    (void)context;
    arrived = sig;
    carried = info->si_value.sival_int;
}

/* What became of a child that sends itself a signal with the disposition inherited. */
static long fate_of(int sig)
{
    int status = 0;
    pid_t pid = fork();
    if (!pid) {
        raise(sig);
        _exit(99);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid ? status & 0xffff : -1;
}

void act_signals(void)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    open_object("signals");
    sigprocmask(SIG_SETMASK, &none, NULL);
    answer("after_sigterm", fate_of(SIGTERM));
    answer("after_sigpipe", fate_of(SIGPIPE));
    answer("after_sigusr1", fate_of(SIGUSR1));
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR2);
    number("raised", arrived);
    sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 4711});
    number("queued", carried);
    sigprocmask(SIG_BLOCK, &all, NULL);
    arrived = 0;
    kill(getpid(), SIGUSR2);
    number("held_back", arrived);
    struct timespec at_once = {0};
    number("taken", sigtimedwait(&all, NULL, &at_once));
    sigprocmask(SIG_SETMASK, &none, NULL);
    close_object();
}
