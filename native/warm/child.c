/* child: from a request to the program's entry.
 *
 * Up to the owner's word only what nobody else can see is done: descriptors, arguments, what /proc shows of them. All else
 * comes after it. Each failure is told by the step that failed and its errno.
 */
#define _GNU_SOURCE
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#include "../steps.h"
#include "../sys.h"

#ifndef PR_SET_MM_MAP
#define PR_SET_MM 35
#define PR_SET_MM_MAP 14
#endif

static struct {
    struct request request;
    char rest[WARM_MESSAGE];
} message __attribute__((aligned(4096)));

static int take_request(int fds[WARM_FDS])
{
    union control control;
    struct iovec iov = {&message, sizeof message};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    long got = sys3(SYS_recvmsg, WARM_FD_CONTROL, &m, 0);
    if (got <= 0)
        leave(0); /* the owner has gone, or let go of this template */
    const struct request *r = &message.request;
    uint64_t rest = (uint64_t)got - sizeof *r;
    if ((uint64_t)got < sizeof *r || r->slot >= WARM_SLOTS)
        leave(127);
    slot = (struct slot *)at(setup.slots) + r->slot;
    slot->pid = (int32_t)sys0(SYS_getpid);
    if (r->magic != WARM_MAGIC || m.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
        rest != r->step_count * sizeof(struct step) + r->blob_bytes + r->string_bytes)
        fail(WARM_STEP_REQUEST, -EINVAL);
    int count = 0;
    if (m.msg_controllen >= CMSG_LEN(0) && control.head.cmsg_type == SCM_RIGHTS) {
        count = (int)((control.head.cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(&control.head), (size_t)count * sizeof(int));
    }
    if ((uint32_t)count != r->fd_count)
        fail(WARM_STEP_REQUEST, -EBADF);
    return count;
}

/* Received descriptors have the lowest numbers that were free, which may be others' targets: those move above
 * all of them first. */
static void place(const struct request *r, int fds[WARM_FDS], int count)
{
    int highest = r->highest, null = WARM_FD_NULL;
    if (highest >= WARM_FD_FIRST) {
        long moved = sys3(SYS_fcntl, WARM_FD_NULL, F_DUPFD_CLOEXEC, highest + 1);
        if (moved < 0)
            fail(WARM_STEP_STREAMS, moved);
        null = (int)moved;
        /* What is the template's has been of use: the numbers are the program's now. */
        sys3(SYS_close_range, WARM_FD_FIRST, WARM_FD_LAST, 0);
    }
    for (int i = 0; i < count; i++) {
        int wanted = 0;
        for (int k = 0; k < count; k++)
            wanted |= k != i && r->target[k] == fds[i];
        if (!wanted || r->target[i] == fds[i])
            continue;
        long moved = sys3(SYS_fcntl, fds[i], F_DUPFD, highest + 1);
        if (moved < 0)
            fail(WARM_STEP_STREAMS, moved);
        sys1(SYS_close, fds[i]);
        fds[i] = (int)moved;
    }
    for (int i = 0; i < count; i++) {
        if (r->target[i] < 0 || r->target[i] == fds[i])
            continue;
        long err = sys3(SYS_dup3, fds[i], r->target[i], 0);
        if (err < 0)
            fail(WARM_STEP_STREAMS, err);
        sys1(SYS_close, fds[i]);
    }
    for (int fd = 0; fd < 3; fd++) {
        if (r->flags & (REQUEST_NULL_0 << fd)) {
            /* Opened afresh: who shares an open file shares its status flags. The first one is ready. */
            int opened = fd ? (int)sys4(SYS_openat, AT_FDCWD, "/dev/null", O_WRONLY | O_CLOEXEC, 0) : null;
            long err = opened < 0 ? opened : sys3(SYS_dup3, opened, fd, 0);
            if (err < 0)
                fail(WARM_STEP_STREAMS, err);
            if (fd)
                sys1(SYS_close, opened);
        } else if (r->flags & (REQUEST_CLOSED_0 << fd)) {
            sys1(SYS_close, fd);
        }
    }
}

struct signal_action {
    uint64_t handler, flags, restorer, mask;
};

/* Dispositions as an exec would have left them: what the owner ignores is ignored. A handler that a library's
 * constructor has set stays. */
static void set_ignored(uint64_t wanted)
{
    uint64_t differs = wanted ^ setup.ignored;
    for (int sig = 1; differs && sig <= 64; sig++) {
        struct signal_action action = {0};
        uint64_t bit = 1ULL << (sig - 1);
        if (!(differs & bit))
            continue;
        differs &= ~bit;
        if (sys4(SYS_rt_sigaction, sig, 0, &action, 8) < 0 || action.handler > 1)
            continue;
        action = (struct signal_action){.handler = wanted & bit ? 1 : 0};
        sys4(SYS_rt_sigaction, sig, &action, 0, 8);
    }
}

/* Of signals that came while it stood by. One that comes once the owner has given its word is the program's: the
 * owner's caller may have sent it. */
static void drop_pending(void)
{
    uint64_t all = ~0ULL;
    struct timespec zero = {0, 0};
    while (sys4(SYS_rt_sigtimedwait, &all, 0, &zero, 8) > 0)
        ;
}

static void close_others(const struct request *r)
{
    unsigned first = 0;
    for (uint32_t i = 0; i < r->kept_count; i++) {
        if (first < (unsigned)r->kept[i])
            sys3(SYS_close_range, first, r->kept[i] - 1, 0);
        first = (unsigned)r->kept[i] + 1;
    }
    sys3(SYS_close_range, first, ~0U, 0);
}

/* What depends on nothing but the request. */
static void prepare(const struct request *r, int fds[WARM_FDS], int count, const char *strings)
{
    struct mm_map map = setup.map;
    if (r->flags & REQUEST_CWD) {
        long err = sys1(SYS_fchdir, fds[count - 1]);
        if (err < 0)
            fail(WARM_STEP_STATE, err);
        sys1(SYS_close, fds[--count]);
    }
    place(r, fds, count);
    build_stack(r, strings, &map);
    long err = sys5(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0);
    if (err < 0)
        fail(WARM_STEP_STATE, err);
    drop_pending();
}

/* What the owner has found out while we prepared: what a child inherits from it. */
static void inherit(void)
{
    long err = 0;
    if (slot->umask >= 0)
        sys1(SYS_umask, slot->umask);
    set_ignored(slot->ignored);
    for (int i = 0; i < WARM_LIMITS && err >= 0; i++)
        if (slot->limits >> i & 1)
            err = sys4(SYS_prlimit64, 0, i, slot->limit[i], 0);
    if (err >= 0 && slot->group)
        err = sys2(SYS_setpgid, 0, slot->group);
    if (err < 0)
        fail_from(SLOT_GO, WARM_STEP_STATE, err);
}

void become_program(void)
{
    int fds[WARM_FDS];
    int count = take_request(fds);
    const struct request *r = &message.request;
    const char *blob = message.rest + r->step_count * sizeof(struct step);
    struct child_state state = {.steps = (const struct step *)message.rest, .count = r->step_count, .blob = blob,
                                .parent = (int)setup.owner, .mask = r->mask};
    uint32_t failed = 0;
    prepare(r, fds, count, blob + r->blob_bytes);
    await_go();
    inherit();
    long err = run_steps(&state, &failed);
    if (err < 0)
        fail_from(SLOT_GO, (int)failed, err);
    close_others(r);
    tell_started();
    enter(state.mask);
}
