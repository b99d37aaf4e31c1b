/* clone: a child on a stack of its own, in this process's memory.
 *
 * A C function cannot do it: after the call the child's stack is empty, so nothing may be popped, and its entry is
 * called at once.
 */
#ifndef ELFOLIO_CLONE_H
#define ELFOLIO_CLONE_H

#include <stddef.h>
#include <stdint.h>

#include "sys.h"

/* struct clone_args as of Linux 5.7; spelled out because <linux/sched.h> of older systems ends earlier. */
struct clone3_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    uint64_t set_tid, set_tid_size, cgroup;
};
#define CLONE3_SIZE_5_3 64
#define CLONE3_SIZE_5_7 88

/* A system call that makes a child, with its first five arguments; the child calls entry(arg), which never returns.
 * The pid, or -errno. */
static inline long call_onto(long number, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                             void (*entry)(void *), void *arg)
{
#if defined(__x86_64__)
    long ret;
    register uint64_t r10 __asm__("r10") = a3;
    register uint64_t r8 __asm__("r8") = a4;
    register void *kept __asm__("r12") = arg;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r12, %%rdi\n\t"
                     "call *%[entry]\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(ret)
                     : "a"(number), "D"(a0), "S"(a1), "d"(a2), "r"(r10), "r"(r8), "r"(kept), [entry] "r"(entry)
                     : "rcx", "r11", "memory");
    return ret;
#else
    register long x8 __asm__("x8") = number;
    register uint64_t x0 __asm__("x0") = a0;
    register uint64_t x1 __asm__("x1") = a1;
    register uint64_t x2 __asm__("x2") = a2;
    register uint64_t x3 __asm__("x3") = a3;
    register uint64_t x4 __asm__("x4") = a4;
    register void *x9 __asm__("x9") = arg;
    register void (*x10)(void *) __asm__("x10") = entry;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x30, xzr\n\t"
                     "mov x0, x9\n\t"
                     "blr x10\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x9), "r"(x10)
                     : "memory");
    return (long)x0;
#endif
}

static inline long clone3_onto(struct clone3_args *args, size_t size, void (*entry)(void *), void *arg)
{
    return call_onto(SYS_clone3, (uint64_t)args, size, 0, 0, 0, entry, arg);
}

/* The older call: 32 bits of flags with the exit signal, and the stack's top. */
static inline long clone_onto(uint64_t flags, void *stack_top, int *pidfd, void (*entry)(void *), void *arg)
{
    return call_onto(SYS_clone, flags, (uint64_t)stack_top, (uint64_t)pidfd, 0, 0, entry, arg);
}

#endif
