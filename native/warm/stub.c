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
#include "protocol.h"

#include <fcntl.h>
#include <linux/auxvec.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <ucontext.h>

#include "../clone.h"
#include "../steps.h"
#include "../sys.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef PR_SET_MM_MAP
#define PR_SET_MM 35
#define PR_SET_MM_MAP 14
#endif
#ifndef AT_HWCAP2
#define AT_HWCAP2 26
#endif

/* By its exported name it would be reached through a table that needs a relocation. */
struct setup setup __attribute__((visibility("hidden"), section(".data")));
extern struct setup stub_setup __attribute__((visibility("default"), alias("setup")));

static struct {
    struct request request;
    char rest[WARM_MESSAGE];
} message __attribute__((aligned(4096)));

/* Its own: the program's is being built meanwhile. */
char stub_stack[16384] __attribute__((visibility("default"), aligned(16)));

union control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(WARM_FDS * sizeof(int))];
};

static inline void *at(uint64_t address)
{
    return (void *)address;
}

/* The compiler may turn a loop into a call of these; there is no library to call. */
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

static __attribute__((noreturn)) void leave(int code)
{
    for (;;)
        sys1(SYS_exit_group, code);
}

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

#define WARM_WAITS 30 /* of a second each, until an owner has been silent for good */

/* --- the slot: agreeing with the owner -------------------------------------------------------------- */

static struct slot *slot;

static int change(uint32_t from, uint32_t to)
{
    return __atomic_compare_exchange_n(&slot->state, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static void wake_owner(void)
{
    sys3(SYS_futex, &slot->state, FUTEX_WAKE, 1);
}

/* The owner has taken it back. */
static __attribute__((noreturn)) void give_up(void)
{
    __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_RELEASE);
    leave(127);
}

static __attribute__((noreturn)) void fail_from(uint32_t state, int step, long error)
{
    slot->failed = step;
    slot->error = (int32_t)-error;
    if (!change(state, SLOT_FAILED))
        give_up();
    wake_owner();
    leave(127);
}

/* Before the owner's word: nothing has happened that a second try would repeat. */
static __attribute__((noreturn)) void fail(int step, long error)
{
    fail_from(SLOT_ASKED, step, error);
}

/* The owner checks while the child prepares, and is mostly done first: then nobody sleeps. An owner that is killed or
 * executes something meanwhile says nothing. */
static void await_go(void)
{
    if (!change(SLOT_ASKED, SLOT_READY))
        give_up();
    wake_owner();
    struct timespec second = {1, 0};
    for (int i = 0; i < WARM_SPINS && __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == SLOT_READY; i++)
        relax();
    for (int waits = 0; waits < WARM_WAITS; waits++) {
        uint32_t state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
        if (state == SLOT_GO)
            return;
        if (state != SLOT_READY)
            give_up();
        sys4(SYS_futex, &slot->state, FUTEX_WAIT, SLOT_READY, &second);
        if (sys0(SYS_getppid) != (long)setup.owner)
            leave(127);
    }
    fail_from(SLOT_READY, WARM_STEP_REQUEST, -ETIMEDOUT);
}

/* --- the child: from a request to the program's entry ---------------------------------------------- */

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

static char *put_strings(char *to, const char *from, uint32_t count, uint64_t *pointers)
{
    for (uint32_t i = 0; i < count; i++) {
        pointers[i] = (uint64_t)to;
        while ((*to++ = *from++))
            ;
    }
    pointers[count] = 0;
    return to;
}

static uint64_t *auxv_entry(uint64_t type)
{
    uint64_t *entry = at(setup.auxv);
    while (entry[0] && entry[0] != type)
        entry += 2;
    return entry + 1;
}

/* The initial stack as the kernel builds it (fs/binfmt_elf.c, create_elf_tables): argc, argv, envp, the auxiliary
 * vector, and above them the strings. It begins where the template's owner has told the C library that it does, below
 * the template's own, which constructors may have kept pointers to; the library's pointer to the auxiliary vector keeps
 * its value too, and what programs find behind envp is a copy. */
static void build_stack(const struct request *r, const char *strings, struct mm_map *map)
{
    uint64_t *word = at(setup.stack), *argv = word + 1, *envp = argv + r->argc + 1, *auxv = envp + r->envc + 1;
    uint64_t *execfn = auxv_entry(AT_EXECFN);
    char *to = (char *)auxv + setup.auxv_bytes;
    uint64_t name = *execfn;
    *word = r->argc;
    map->start_stack = (uint64_t)word;
    map->arg_start = (uint64_t)to;
    to = put_strings(to, strings, r->argc, argv);
    map->arg_end = map->env_start = (uint64_t)to;
    strings += map->arg_end - map->arg_start;
    to = put_strings(to, strings, r->envc, envp);
    map->env_end = *execfn = (uint64_t)to;
    for (const char *from = at(name); (*to++ = *from++);)
        ;
    memcpy(auxv, at(setup.auxv), setup.auxv_bytes);
    map->auxv = (uint64_t)auxv;
    map->auxv_size = (uint32_t)setup.auxv_bytes;
    *(uint64_t **)at(setup.environ) = envp;
    *(int *)at(setup.libc_argc) = (int)r->argc;
    char *base = at(argv[0]);
    *(char **)at(setup.program_name) = base;
    for (char *c = base; *c; c++)
        base = *c == '/' ? c + 1 : base;
    *(char **)at(setup.program_short_name) = base;
}

#if defined(__aarch64__)
/* What the kernel reads at the end of a signal handler (arch/arm64/kernel/signal.c); ucontext_t ends with room for the
 * records, which end with an empty one. */
struct signal_frame {
    siginfo_t info;
    ucontext_t context;
};

struct poe_record {
    struct _aarch64_ctx head;
    uint64_t por_el0;
};

#define POE_RECORD 0x504f4530
#define HWCAP2_PERMISSION_OVERLAY (1ULL << 63)

/* From which the kernel makes the program's first registers, signal mask and, as it must, floating point state. */
static struct signal_frame *build_frame(uint64_t mask)
{
    struct signal_frame *frame = at(setup.stack - (sizeof *frame + 15) / 16 * 16);
    mcontext_t *registers = &frame->context.uc_mcontext;
    struct fpsimd_context *simd = (struct fpsimd_context *)registers->__reserved;
    struct poe_record *poe = (struct poe_record *)(simd + 1);
    uint64_t status, control;
    memset(frame, 0, (size_t)((char *)(poe + 2) - (char *)frame));
    sys2(SYS_sigaltstack, 0, &frame->context.uc_stack);
    *(uint64_t *)&frame->context.uc_sigmask = mask;
    registers->regs[0] = setup.entry_argument;
    registers->sp = setup.stack;
    registers->pc = setup.entry;
    registers->pstate = setup.state;
    /* A library's constructor may have changed them. */
    __asm__ volatile("mrs %0, fpsr\n\tmrs %1, fpcr" : "=r"(status), "=r"(control));
    simd->head.magic = FPSIMD_MAGIC;
    simd->head.size = sizeof *simd;
    simd->fpsr = (uint32_t)status;
    simd->fpcr = (uint32_t)control;
    /* Without this record Linux 6.12 to 7.0 set the register at random, and a kernel that does not know it takes none. */
    if (*auxv_entry(AT_HWCAP2) & HWCAP2_PERMISSION_OVERLAY) {
        poe->head.magic = POE_RECORD;
        poe->head.size = sizeof *poe;
        __asm__ volatile("mrs %0, s3_3_c10_c2_4" : "=r"(poe->por_el0));
    }
    return frame;
}
#endif

/* Everything the program has is in place; what is left of us is unmapped by the C library's own munmap, which returns
 * to the program's entry: by itself on x86-64; on aarch64, where it would leave its 0 in the register that the entry
 * finds its argument in, as if from a signal handler. */
static __attribute__((noreturn)) void enter(uint64_t mask)
{
#if defined(__x86_64__)
    sys4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
    /* The word below sp is where munmap finds its return address. */
    ((uint64_t *)at(setup.stack))[-1] = setup.entry;
    __asm__ volatile("movq %[stack], %%rsp\n\t"
                     "subq $8, %%rsp\n\t"
                     "xorl %%ebx, %%ebx\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "xorl %%r12d, %%r12d\n\t"
                     "xorl %%r13d, %%r13d\n\t"
                     "xorl %%r14d, %%r14d\n\t"
                     "xorl %%r15d, %%r15d\n\t"
                     "jmp *%[munmap]"
                     :
                     : [stack] "a"(setup.stack), "D"(setup.stub), "S"(setup.stub_bytes), "d"(setup.entry_argument),
                       [munmap] "c"(setup.munmap)
                     : "memory");
#else
    struct signal_frame *frame = build_frame(mask); /* before the registers below are in use */
    register uint64_t x0 __asm__("x0") = setup.stub;
    register uint64_t x1 __asm__("x1") = setup.stub_bytes;
    register uint64_t x9 __asm__("x9") = setup.sigreturn;
    register struct signal_frame *x10 __asm__("x10") = frame;
    register uint64_t x16 __asm__("x16") = setup.munmap; /* from there a branch may go to any function */
    __asm__ volatile("mov sp, x10\n\t"
                     "mov x29, xzr\n\t"
                     "mov x30, x9\n\t"
                     "br x16"
                     :
                     : "r"(x0), "r"(x1), "r"(x9), "r"(x10), "r"(x16)
                     : "memory");
#endif
    __builtin_unreachable();
}

static __attribute__((noreturn)) void become_program(void)
{
    int fds[WARM_FDS];
    uint32_t failed = 0;
    struct mm_map map = setup.map;
    int count = take_request(fds);
    const struct request *r = &message.request;
    const char *blob = message.rest + r->step_count * sizeof(struct step);
    struct child_state state = {.steps = (const struct step *)message.rest, .count = r->step_count, .blob = blob,
                                .parent = (int)setup.owner, .mask = r->mask};
    if (r->flags & REQUEST_CWD) {
        long err = sys1(SYS_fchdir, fds[count - 1]);
        if (err < 0)
            fail(WARM_STEP_STATE, err);
        sys1(SYS_close, fds[--count]);
    }
    place(r, fds, count);
    build_stack(r, blob + r->blob_bytes, &map);
    long err = sys5(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0);
    if (err < 0)
        fail(WARM_STEP_STATE, err);
    drop_pending();
    await_go();
    if (slot->umask >= 0)
        sys1(SYS_umask, slot->umask);
    set_ignored(slot->ignored);
    for (int i = 0; i < WARM_LIMITS && err >= 0; i++)
        if (slot->limits >> i & 1)
            err = sys4(SYS_prlimit64, 0, i, slot->limit[i], 0);
    if (err < 0)
        fail_from(SLOT_GO, WARM_STEP_STATE, err);
    if (slot->group) {
        err = sys2(SYS_setpgid, 0, slot->group);
        failed = (uint32_t)WARM_STEP_STATE;
    }
    if (!err)
        err = run_steps(&state, &failed);
    if (err < 0)
        fail_from(SLOT_GO, (int)failed, err);
    close_others(r);
    if (slot->answers) {
        if (!change(SLOT_GO, SLOT_STARTED))
            give_up();
        wake_owner();
    } else {
        __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_RELEASE);
    }
    enter(state.mask);
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
