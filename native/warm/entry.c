/* entry: the initial stack of a program, and the jump to its first instruction. */
#define _GNU_SOURCE
#include "parts.h"

#include <linux/auxvec.h>
#include <signal.h>
#include <ucontext.h>

#include "../sys.h"

#ifndef AT_HWCAP2
#define AT_HWCAP2 26
#endif

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
void build_stack(const struct request *r, const char *strings, struct mm_map *map)
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
void enter(uint64_t mask)
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
