#define _GNU_SOURCE
#include "status.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "sys.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* struct pidfd_info up to exit_code (Linux 6.15, include/uapi/linux/pidfd.h). */
struct pidfd_info_exit {
    uint64_t mask, cgroupid;
    uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    int32_t exit_code;
};
#define PIDFD_GET_INFO_EXIT _IOWR(0xFF, 11, struct pidfd_info_exit)
#define PIDFD_INFO_EXIT (1ULL << 3)

int await_end(int pidfd, int64_t deadline)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    struct timespec left, *timeout = NULL;
    if (deadline != FOREVER) {
        int64_t ns = deadline - clock_ns();
        if (ns < 0)
            ns = 0;
        left = (struct timespec){ns / 1000000000, ns % 1000000000};
        timeout = &left;
    }
    int n = ppoll(&p, 1, timeout, NULL);
    if (n < 0)
        return -errno;
    if (n && p.revents & POLLNVAL)
        return -EBADF;
    return n > 0;
}

static int code_of(int how, int status)
{
    return how == CLD_EXITED ? status : -status;
}

/* Whoever reaps marks the task dead, at which our waitid fails, before the pidfd keeps its status; and the kernel
 * looks for the status, then for the task, so that it may find neither (ESRCH) though the status has come meanwhile.
 * Both pass at once (seen once in some thousand on 6.18). Bounded, because somebody else's zombie stays as it is. */
enum { ASKED_AT_MOST = 100 };

static int ask_kernel(int pidfd, struct ending *out)
{
    for (int i = 0; i < ASKED_AT_MOST; i++) {
        struct pidfd_info_exit info = {.mask = PIDFD_INFO_EXIT};
        int err = ioctl(pidfd, PIDFD_GET_INFO_EXIT, &info);
        if (err && errno != ESRCH)
            return ENDED_LOST;
        if (!err && info.mask & PIDFD_INFO_EXIT) {
            out->code = WIFSIGNALED(info.exit_code) ? -WTERMSIG(info.exit_code) : WEXITSTATUS(info.exit_code);
            return ENDED_TAKEN;
        }
        sched_yield();
    }
    return ENDED_LOST;
}

int take_status(int pidfd, struct ending *out)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    memset(out, 0, sizeof *out);
    /* __WALL: a child killed before its exec has no exit signal yet. The raw call gives the usage too. */
    long err = sys5(SYS_waitid, P_PIDFD, pidfd, &info, WEXITED | WNOHANG | __WALL, &out->usage);
    if (err == -ECHILD) {
        int ended = await_end(pidfd, 0);
        return ended == 1 ? ask_kernel(pidfd, out) : ended < 0 ? ended : ENDED_NOT;
    }
    if (err < 0)
        return (int)err;
    if (!info.si_pid)
        return ENDED_NOT;
    out->code = code_of(info.si_code, info.si_status);
    return ENDED;
}
