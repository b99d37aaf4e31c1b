#include "steps.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "sys.h"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif
#ifndef TIOCSCTTY
#define TIOCSCTTY 0x540E
#endif

/* The kernel's struct sigaction (asm-generic and x86-64 agree); the C library's differs. */
struct kernel_sigaction {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

struct dirent64_head {
    uint64_t ino;
    int64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
};

int step_reads(const struct step *step, long *at_arg, long *at_arg2)
{
    *at_arg = *at_arg2 = 0;
    switch ((enum step_op)step->op) {
    case OP_CHDIR:
    case OP_OOM_SCORE:
        *at_arg = -1;
        break;
    case OP_OPEN:
        *at_arg = -1;
        *at_arg2 = sizeof(struct open_how);
        break;
    case OP_GROUPS:
        *at_arg = (long)step->flags * (long)sizeof(uint32_t);
        break;
    case OP_AFFINITY:
        *at_arg = step->flags;
        break;
    case OP_SAVE:
        return step->newfd >= 0 && step->newfd < STEP_SLOTS ? 0 : -1;
    case OP_RESTORE:
        return step->fd >= 0 && step->fd < STEP_SLOTS ? 0 : -1;
    default:
        break;
    }
    return step->op < OP_COUNT ? 0 : -1;
}

static int is_digits(const char *text)
{
    return text[0] >= '0' && text[0] <= '9';
}

static long parse_fd(const char *text)
{
    long fd = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        fd = fd * 10 + (*text - '0');
    return fd;
}

static long close_one(int fd, uint32_t flags)
{
    if (flags & CLOSE_RANGE_CLOEXEC)
        return sys3(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
    return sys1(SYS_close, fd);
}

/* close_range is missing before Linux 5.9 (its CLOEXEC flag before 5.11) and under old seccomp
 * profiles. /proc/self/fd lists what is open, also above a limit that was lowered later; without /proc
 * every number up to the hard limit is tried. */
static long close_range_by_hand(int first, int last, uint32_t flags)
{
    char buffer[1024];
    int dir = (int)sys4(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0) {
        struct rlimit limit;
        sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &limit);
        for (unsigned long fd = (unsigned)first; fd < limit.rlim_max && fd <= (unsigned)last; fd++)
            close_one((int)fd, flags);
        return 0;
    }
    for (;;) {
        long got = sys3(SYS_getdents64, dir, buffer, sizeof buffer);
        if (got <= 0)
            break;
        for (long at = 0; at < got;) {
            struct dirent64_head *entry = (struct dirent64_head *)(buffer + at);
            long fd = is_digits(entry->name) ? parse_fd(entry->name) : -1;
            if (fd >= first && (unsigned long)fd <= (unsigned)last && fd != dir)
                close_one((int)fd, flags);
            at += entry->reclen;
        }
    }
    sys1(SYS_close, dir);
    return 0;
}

static long do_close_range(const struct step *step)
{
    long err = sys3(SYS_close_range, (unsigned)step->fd, (unsigned)step->newfd, step->flags);
    if (err == -ENOSYS || err == -EPERM || (err == -EINVAL && (step->flags & CLOSE_RANGE_CLOEXEC)))
        return close_range_by_hand(step->fd, step->newfd, step->flags);
    return err;
}

static long keep(int fd)
{
    return sys3(SYS_fcntl, fd, F_SETFD, 0);
}

static long do_dup2(const struct step *step)
{
    if (step->fd == step->newfd) {
        long flags = sys2(SYS_fcntl, step->fd, F_GETFD);
        return flags < 0 ? flags : 0;
    }
    return sys3(SYS_dup3, step->fd, step->newfd, step->flags);
}

static long do_open(const struct step *step, const char *blob)
{
    const struct open_how *how = (const struct open_how *)(blob + step->arg2);
    const char *path = blob + step->arg;
    long fd = sys4(SYS_openat2, step->fd, path, how, sizeof *how);
    /* openat2 came with Linux 5.6; without RESOLVE_* flags openat says the same. */
    if ((fd == -ENOSYS || fd == -EPERM) && !how->resolve)
        fd = sys4(SYS_openat, step->fd, path, how->flags, how->mode);
    if (fd < 0)
        return fd;
    if (fd == step->newfd)
        return 0;
    long err = sys3(SYS_dup3, fd, step->newfd, how->flags & O_CLOEXEC);
    sys1(SYS_close, fd);
    return err;
}

static long set_default(uint64_t signals)
{
    struct kernel_sigaction action = {0};
    for (int sig = 1; sig <= 64; sig++) {
        if (!(signals >> (sig - 1) & 1) || sig == SIGKILL || sig == SIGSTOP)
            continue;
        long err = sys4(SYS_rt_sigaction, sig, &action, 0, sizeof action.mask);
        if (err < 0)
            return err;
    }
    return 0;
}

static long set_nice(int increment)
{
    /* The raw getpriority returns 20 - nice, so that it is never negative. */
    long raw = sys2(SYS_getpriority, PRIO_PROCESS, 0);
    if (raw < 0)
        return raw;
    return sys3(SYS_setpriority, PRIO_PROCESS, 0, 20 - raw + increment);
}

static long set_pdeathsig(int sig, int parent)
{
    long err = sys2(SYS_prctl, PR_SET_PDEATHSIG, sig);
    if (err < 0)
        return err;
    /* A parent that died before the call will send no signal any more. */
    if (sys0(SYS_getppid) != parent)
        sys2(SYS_kill, sys0(SYS_getpid), SIGKILL);
    return 0;
}

static long write_file(const char *path, const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    int fd = (int)sys4(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long err = sys3(SYS_write, fd, text, length);
    sys1(SYS_close, fd);
    return err < 0 ? err : 0;
}

static long save(struct child_state *state, const struct step *step)
{
    long fd = sys3(SYS_fcntl, step->fd, F_DUPFD_CLOEXEC, 3);
    if (fd >= 0)
        state->slots[step->newfd] = (int)fd;
    return fd < 0 ? fd : 0;
}

static long restore(const struct child_state *state, const struct step *step)
{
    int saved = state->slots[step->fd];
    long err = sys3(SYS_dup3, saved, step->newfd, 0);
    sys1(SYS_close, saved);
    return err;
}

static long run_step(struct child_state *state, const struct step *step)
{
    const char *blob = state->blob;
    switch ((enum step_op)step->op) {
    case OP_CLOSE:
        return sys1(SYS_close, step->fd);
    case OP_DUP2:
        return do_dup2(step);
    case OP_FCHDIR:
        return sys1(SYS_fchdir, step->fd);
    case OP_CHDIR:
        return sys1(SYS_chdir, blob + step->arg);
    case OP_OPEN:
        return do_open(step, blob);
    case OP_CLOSE_RANGE:
        return do_close_range(step);
    case OP_SIGMASK:
        state->mask = step->arg;
        return 0;
    case OP_SIGDEFAULT:
        return set_default(step->arg);
    case OP_SAVE:
        return save(state, step);
    case OP_RESTORE:
        return restore(state, step);
    case OP_KEEP:
        return keep(step->fd);
    case OP_UMASK:
        sys1(SYS_umask, step->arg);
        return 0;
    case OP_RLIMIT: {
        struct rlimit limit = {step->arg, step->arg2};
        return sys4(SYS_prlimit64, 0, step->fd, &limit, 0);
    }
    case OP_NICE:
        return set_nice(step->fd);
    case OP_SETSID:
        return sys0(SYS_setsid);
    case OP_SETPGID:
        return sys2(SYS_setpgid, 0, step->fd);
    case OP_TERMINAL:
        return sys3(SYS_ioctl, step->fd, TIOCSCTTY, 0);
    case OP_GROUPS:
        return sys2(SYS_setgroups, step->flags, blob + step->arg);
    case OP_GID:
        return sys3(SYS_setresgid, step->arg, step->arg, step->arg);
    case OP_UID:
        return sys3(SYS_setresuid, step->arg, step->arg, step->arg);
    case OP_NO_NEW_PRIVS:
        return sys5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    case OP_PDEATHSIG:
        return set_pdeathsig(step->fd, state->parent);
    case OP_OOM_SCORE:
        return write_file("/proc/self/oom_score_adj", blob + step->arg);
    case OP_AFFINITY:
        return sys3(SYS_sched_setaffinity, 0, step->flags, blob + step->arg);
    case OP_MERGE:
        return sys5(SYS_prctl, PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
    case OP_COUNT:
        break;
    }
    return -EINVAL;
}

long run_steps(struct child_state *state, uint32_t *failed)
{
    for (uint32_t i = 0; i < state->count; i++) {
        long err = run_step(state, &state->steps[i]);
        if (err < 0) {
            *failed = i;
            return err;
        }
    }
    return 0;
}
