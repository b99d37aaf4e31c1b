/* stub: what runs inside a warm template, and in each of its children up to the program's first instruction.
 *
 * In: a struct setup, written into it by the template's owner; requests on a socket.
 * Out: children of the *owner* (CLONE_PARENT) that stand at the program's entry as the kernel and the dynamic linker
 * would have left them, with the request's arguments, environment, descriptors and state.
 *
 * It has no C library: it is copied into a stranger's address space as it is, so nothing in it may need a
 * relocation, thread-local storage or a stack canary. A child ends by unmapping it.
 */
#define _GNU_SOURCE
#include "parts.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#include "../clone.h"
#include "../sys.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

/* By its exported name it would be reached through a table that needs a relocation. */
struct setup setup __attribute__((visibility("hidden"), section(".data")));
extern struct setup stub_setup __attribute__((visibility("default"), alias("setup")));

/* Its own: the program's is being built meanwhile. */
char stub_stack[16384] __attribute__((visibility("default"), aligned(16)));

__attribute__((used)) void *memcpy(void *to, const void *from, size_t n)
{
    char *t = to;
    const char *f = from;
#if defined(__x86_64__)
    __asm__ volatile("rep movsb" : "+D"(t), "+S"(f), "+c"(n) : : "memory");
#else
    while (n--)
        *t++ = *f++;
#endif
    return to;
}

__attribute__((used)) void *memset(void *to, int byte, size_t n)
{
    char *t = to;
#if defined(__x86_64__)
    __asm__ volatile("rep stosb" : "+D"(t), "+c"(n) : "a"(byte) : "memory");
#else
    while (n--)
        *t++ = (char)byte;
#endif
    return to;
}

void leave(int code)
{
    for (;;)
        sys1(SYS_exit_group, code);
}

/* --- the standby: a child that has not been asked for yet ------------------------------------------ */

/* A fresh AT_RANDOM, and the canary that the C library makes of it (sysdeps/unix/sysv/linux/dl-osinfo.h): no frame
 * that checks the old one is left. The pointer guard stays: atexit handlers are mangled with it. On aarch64 both stay
 * the template's: the canary stands in memory of the dynamic linker's that is read-only by now, and the two must agree. */
static void refresh_canary(void)
{
#if defined(__x86_64__)
    uint64_t *random = at(setup.random);
    if (sys3(SYS_getrandom, random, 16, 0) != 16)
        leave(127);
    __asm__ volatile("movq %0, %%fs:0x28" : : "r"(random[0] & ~0xffULL));
#endif
}

/* struct sched_attr as of Linux 3.14 (include/uapi/linux/sched/types.h). */
static struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
} scheduling;

/* The template works beside those it has made: it must not take a processor from them, when it is woken to make the
 * next one. A batch task preempts nobody on waking, and is preempted by those that do (sched(7)). Its children are
 * what it was. */
static void step_back(void)
{
    struct { int32_t priority; } none = {0};
    if (sys4(SYS_sched_getattr, 0, &scheduling, sizeof scheduling, 0) == 0 && scheduling.policy == SCHED_OTHER &&
        sys3(SYS_sched_setattr, 0, &scheduling, 0) == 0) /* and it can be put back */
        sys3(SYS_sched_setscheduler, 0, SCHED_BATCH, &none);
    else
        scheduling.size = 0;
}

static __attribute__((noreturn)) void stand_by(void)
{
    if (scheduling.size)
        sys3(SYS_sched_setattr, 0, &scheduling, 0);
    sys2(SYS_set_robust_list, setup.robust, setup.robust_bytes);
    refresh_canary();
    long null = sys4(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY | O_CLOEXEC, 0);
    if (null != WARM_FD_NULL) {
        sys3(SYS_dup3, null, WARM_FD_NULL, O_CLOEXEC);
        sys1(SYS_close, null);
    }
    become_program();
}

/* --- the template ---------------------------------------------------------------------------------- */

static long tell_birth(int pid, long error, int pidfd)
{
    struct birth birth = {pid, (int32_t)error};
    struct iovec iov = {&birth, sizeof birth};
    union control control;
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (pidfd >= 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(sizeof pidfd);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof pidfd);
        *(int *)CMSG_DATA(&control.head) = pidfd;
    }
    return sys3(SYS_sendmsg, WARM_FD_CONTROL, &m, MSG_NOSIGNAL);
}

static uint64_t place_for_number(void)
{
    uint64_t place = setup.slots + WARM_BORN_AT;
    for (int i = 1; i < WARM_BORN && *(volatile int *)at(place); i++)
        place += sizeof(int);
    return place;
}

static long fork_sibling(int *pidfd)
{
    uint64_t flags = CLONE_PARENT | CLONE_PIDFD | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    struct clone3_args args = {.flags = flags | CLONE_PARENT_SETTID, .pidfd = (uint64_t)pidfd, .child_tid = setup.tid,
                               .parent_tid = place_for_number()};
    long pid = sys2(SYS_clone3, &args, CLONE3_SIZE_5_3);
    if (pid != -ENOSYS && pid != -EPERM && pid != -EINVAL)
        return pid;
#if defined(__x86_64__)
    return sys5(SYS_clone, flags, 0, pidfd, setup.tid, 0);
#else
    return sys5(SYS_clone, flags, 0, pidfd, 0, setup.tid);
#endif
}

static void bear(void)
{
    int pidfd = -1;
    long pid = fork_sibling(&pidfd);
    if (pid == 0)
        stand_by();
    if (pid < 0)
        tell_birth(0, -pid, -1);
    else if (tell_birth((int)pid, 0, pidfd) < 0)
        leave(0);
    if (pidfd >= 0)
        sys1(SYS_close, pidfd);
}

/* Runs until the owner lets go of the socket or ends. More than one child stands by, so that there is one while the
 * next is being made: the template may get its turn late. */
__attribute__((noreturn, visibility("default"))) void stub_start(void)
{
    /* The page with the entry is a copy that was written to: back to the file's own. */
    sys3(SYS_madvise, setup.entry & -setup.page, setup.page, MADV_DONTNEED);
    step_back();
    (void)*(volatile char *)at(setup.stack); /* the stack grows once, not in every child */
    for (int i = 0; i < WARM_DEPTH; i++)
        bear();
    for (;;) {
        struct pollfd p[3] = {{WARM_FD_TAKEN, POLLIN, 0}, {WARM_FD_CONTROL, POLLRDHUP, 0}, {WARM_FD_OWNER, POLLIN, 0}};
        char taken[64];
        struct timespec idle = {(time_t)(setup.idle_ns / 1000000000), (long)(setup.idle_ns % 1000000000)};
        long ready = sys5(SYS_ppoll, p, 3, setup.idle_ns ? &idle : 0, 0, 8);
        if (ready == 0)
            sys2(SYS_shutdown, WARM_FD_CONTROL, SHUT_RDWR); /* those that stand by find it shut, and end too */
        if (ready <= 0 || !(p[0].revents & POLLIN) || p[1].revents || p[2].revents)
            leave(0);
        for (long count = sys3(SYS_read, WARM_FD_TAKEN, taken, sizeof taken); count > 0; count--)
            bear();
    }
}
