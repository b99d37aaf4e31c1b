#define _GNU_SOURCE
#include "record_calls.h"

#include <elf.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "sys.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#define GET_SYSCALL_INFO 0x420e
#define RETURN_STOP 2  /* PTRACE_SYSCALL_INFO_EXIT */
#define SECCOMP_STOP 3 /* PTRACE_SYSCALL_INFO_SECCOMP */
#define POPULATE_READ 22
#define POPULATE_WRITE 23
#define PR_SET_VMA 0x53564d41

/* include/uapi/linux/ptrace.h, whose header and the C library's exclude each other */
struct info {
    uint8_t op, reserved, flags[2];
    uint32_t arch;
    uint64_t ip, sp;
    union {
        struct {
            uint64_t number, args[6];
            uint32_t data;
        } entry;
        struct {
            int64_t value;
            uint8_t is_error;
        } exit;
    };
};

static const struct {
    int number, args;
    const char *name;
} names[] = {
    {SYS_mmap, 6, "mmap"},
    {SYS_munmap, 2, "munmap"},
    {SYS_mprotect, 3, "mprotect"},
    {SYS_brk, 1, "brk"},
    {SYS_mremap, 5, "mremap"},
    {SYS_madvise, 3, "madvise"},
    {SYS_pkey_mprotect, 4, "pkey_mprotect"},
    {SYS_mlock, 2, "mlock"},
    {SYS_mlock2, 3, "mlock2"},
    {SYS_munlock, 2, "munlock"},
    {SYS_mlockall, 1, "mlockall"},
    {SYS_munlockall, 0, "munlockall"},
    {SYS_mseal, 3, "mseal"},
    {SYS_shmat, 3, "shmat"},
    {SYS_shmdt, 1, "shmdt"},
    {SYS_mbind, 6, "mbind"},
    {SYS_remap_file_pages, 5, "remap_file_pages"},
    {SYS_prctl, 5, "prctl"},
    {SYS_ioctl, 4, "ioctl"},
    {SYS_clone, 1, "clone"},
    {SYS_clone3, 1, "clone3"},
#if defined(__x86_64__)
    {SYS_fork, 1, "fork"},
    {SYS_vfork, 1, "vfork"},
#endif
};
#define NAMES (sizeof names / sizeof *names)

/* Whether it still stands there: one that is killed leaves its stop by itself, and then stands at its end or nowhere. */
static int stands_at(pid_t tid, int stop, struct info *info)
{
    return sys4(SYS_ptrace, GET_SYSCALL_INFO, tid, sizeof *info, info) > 0 && info->op == stop;
}

static size_t peek(pid_t tid, uint64_t address, void *to, size_t length)
{
    struct iovec mine = {to, length}, theirs = {(void *)(uintptr_t)address, length};
    ssize_t n = process_vm_readv(tid, &mine, 1, &theirs, 1, 0);
    return n < 0 ? 0 : (size_t)n;
}

static int is_naming(const struct call *c)
{
    return c->number == SYS_prctl && c->args[0] == PR_SET_VMA && c->args[1] == 0;
}

/* A name of at most 80 bytes; what lies on two pages of which one is not there comes in two parts. */
static void read_name(struct thread *t)
{
    uint64_t at = t->call.args[4];
    size_t first = 4096 - at % 4096, room = sizeof t->call.text - 1;
    size_t n = at ? peek(t->tid, at, t->call.text, first < room ? first : room) : 0;
    if (n == first && n < room)
        n += peek(t->tid, at + n, t->call.text + n, room - n);
    t->call.text[n] = 0;
}

int call_read(struct thread *t)
{
    struct info info;
    struct call *c = &t->call;
    if (!stands_at(t->tid, SECCOMP_STOP, &info))
        return 0;
    c->number = info.entry.number;
    memcpy(c->args, info.entry.args, sizeof c->args);
    c->told = 0;
    if (is_naming(c))
        read_name(t);
    if (c->number == SYS_clone3) {
        uint64_t head[5] = {0}; /* flags, pidfd, child_tid, parent_tid, exit_signal */
        peek(t->tid, c->args[0], head, sizeof head);
        c->args[0] = head[0] | head[4];
    }
#if defined(__x86_64__)
    if (c->number == SYS_fork || c->number == SYS_vfork)
        c->args[0] = SIGCHLD | (c->number == SYS_vfork ? CLONE_VM | CLONE_VFORK : 0);
#endif
    return 1;
}

int call_waits(pid_t tid)
{
    struct info info;
    return stands_at(tid, SECCOMP_STOP, &info);
}

int call_foreign(pid_t tid)
{
    struct info info;
    return sys4(SYS_ptrace, GET_SYSCALL_INFO, tid, sizeof info, &info) > 0 && info.arch != NATIVE;
}

void call_is_clone(struct thread *t, uint64_t flags)
{
    t->call = (struct call){.number = SYS_clone, .args = {flags}};
}

int call_executes(const struct call *c)
{
    return c->number == SYS_execve || c->number == SYS_execveat;
}

int call_forks(const struct call *c)
{
    switch (c->number) {
#if defined(__x86_64__)
    case SYS_fork:
    case SYS_vfork:
#endif
    case SYS_clone:
    case SYS_clone3:
        return 1;
    default:
        return 0;
    }
}

uint64_t call_clone_flags(const struct call *c)
{
    return c->args[0];
}

/* What faults pages in may wait for another thread, a userfaultfd's say. */
int call_alone(const struct call *c)
{
    switch (c->number) {
    case SYS_mmap:
        return !(c->args[3] & (MAP_POPULATE | MAP_LOCKED));
    case SYS_madvise:
        return c->args[2] != POPULATE_READ && c->args[2] != POPULATE_WRITE;
    case SYS_mlock:
    case SYS_mlock2:
    case SYS_mlockall:
    case SYS_execve:
    case SYS_execveat:
        return 0;
    default:
        return 1;
    }
}

int call_result(pid_t tid, int64_t *result)
{
    struct info info;
    if (!stands_at(tid, RETURN_STOP, &info))
        return 0;
    *result = info.exit.value;
    return 1;
}

/* Whoever is killed has no stop after its call, though the call may be done: the register that says what came of it
 * does. The kernel sets it to ENOSYS before it looks whether the call is to be made. */
int call_last_result(pid_t tid, int64_t *result)
{
    uint64_t regs[64] = {0};
    struct iovec all = {regs, sizeof regs};
    if (sys4(SYS_ptrace, PTRACE_GETREGSET, tid, NT_PRSTATUS, &all) < 0)
        return 0;
#if defined(__x86_64__)
    *result = (int64_t)regs[10]; /* ax in struct user_regs_struct */
#else
    *result = (int64_t)regs[0];
#endif
    return *result != -ENOSYS;
}

static void head(struct out *o, pid_t tid, const char *name)
{
    out_text(o, "{\"p\":");
    out_number(o, tid);
    out_text(o, ",\"c\":\"");
    out_text(o, name);
    out_text(o, "\",\"a\":[");
}

/* ioctl(UFFDIO_REGISTER): descriptor, start, length, mode. */
static void write_watch(struct out *o, struct thread *t)
{
    uint64_t range[3] = {0};
    int on = (uint32_t)t->call.args[1] == (uint32_t)UFFDIO_REGISTER;
    peek(t->tid, t->call.args[2], range, on ? 24 : 16);
    head(o, t->tid, on ? "UFFDIO_REGISTER" : "UFFDIO_UNREGISTER");
    out_number(o, (int)t->call.args[0]);
    for (int i = 0; i < 3; i++) {
        out_text(o, ",");
        out_unsigned(o, range[i]);
    }
}

static void write_arguments(struct out *o, struct thread *t, size_t i)
{
    const struct call *c = &t->call;
    head(o, t->tid, names[i].name);
    for (int k = 0; k < names[i].args; k++) {
        if (k)
            out_text(o, ",");
        if (c->number == SYS_mmap && k == 4)
            out_number(o, (int)c->args[k]); /* a descriptor is an int */
        else if (k == 4 && is_naming(c) && c->args[k])
            out_string(o, c->text, strlen(c->text));
        else
            out_unsigned(o, c->args[k]);
    }
}

void call_write(struct out *o, struct thread *t, int pidfd, int64_t result)
{
    const struct call *c = &t->call;
    size_t i = 0;
    while (i < NAMES && (uint64_t)names[i].number != c->number)
        i++;
    if (i == NAMES)
        return;
    if (c->number == SYS_ioctl)
        write_watch(o, t);
    else
        write_arguments(o, t, i);
    out_text(o, "],\"r\":");
    if (result <= -512 && result >= -516)
        out_text(o, "null"); /* ERESTARTSYS and its like: it is begun again */
    else
        out_number(o, result);
    if (c->number == SYS_mmap && !(c->args[3] & MAP_ANONYMOUS) && result >= 0)
        file_write(o, t->process, pidfd, (int)c->args[4]);
    out_text(o, "}\n");
}
