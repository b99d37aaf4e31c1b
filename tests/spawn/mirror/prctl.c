/* prctl: every attribute that prctl and its like can ask for. In: the process. Out: JSON. */
#include "out.h"

#include <stdio.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By number: older headers lack the later ones (include/uapi/linux/prctl.h). */
enum {
    GET_THP_DISABLE = 42,
    GET_SPECULATION = 52,
    GET_IO_FLUSHER = 58,
    GET_MDWE = 66,
    GET_MEMORY_MERGE = 68,
    SVE_GET_VL = 51,
    GET_TAGGED_ADDR = 56,
    PAC_GET_KEYS = 61,
    SCHED_CORE = 62,
    GET_AUXV = 0x41555856,
};

static long by_pointer(int option)
{
    int value = 0;
    long err = prctl(option, &value, 0, 0, 0);
    return err ? err : value;
}

static void view_architecture(void)
{
#ifdef __x86_64__
    unsigned long value = 0;
    answer("gs_base", syscall(SYS_arch_prctl, 0x1004 /* ARCH_GET_GS */, &value) ? -1 : (long)value);
    answer("cpuid_enabled", syscall(SYS_arch_prctl, 0x1011 /* ARCH_GET_CPUID */, 0));
    answer("extended_states", syscall(SYS_arch_prctl, 0x1022 /* ARCH_GET_XCOMP_PERM */, &value) ? -1 : (long)value);
    answer("shadow_stack", syscall(SYS_arch_prctl, 0x5005 /* ARCH_SHSTK_STATUS */, &value) ? -1 : (long)value);
    unsigned mxcsr;
    unsigned short control;
    unsigned segments[4];
    __asm__("stmxcsr %0" : "=m"(mxcsr));
    __asm__("fnstcw %0" : "=m"(control));
    __asm__("mov %%ds, %0; mov %%es, %1; mov %%fs, %2; mov %%gs, %3"
            : "=r"(segments[0]), "=r"(segments[1]), "=r"(segments[2]), "=r"(segments[3]));
    number("mxcsr", mxcsr);
    number("x87_control", control);
    long wide[] = {segments[0], segments[1], segments[2], segments[3]};
    numbers("segments", wide, 4);
    unsigned long rflags;
    __asm__("pushfq; pop %0" : "=r"(rflags));
    number("direction_and_alignment_flags", (long)(rflags & 0x40400));
#elif defined(__aarch64__)
    unsigned long control, status;
    __asm__("mrs %0, fpcr" : "=r"(control));
    __asm__("mrs %0, fpsr" : "=r"(status));
    number("floating_point_control", (long)control);
    number("floating_point_status", (long)status);
    answer("vector_length", prctl(51 /* PR_SVE_GET_VL */, 0, 0, 0, 0));
    answer("matrix_vector_length", prctl(64 /* PR_SME_GET_VL */, 0, 0, 0, 0));
    answer("tagged_addresses", prctl(56 /* PR_GET_TAGGED_ADDR_CTRL */, 0, 0, 0, 0));
    answer("pointer_keys", prctl(61 /* PR_PAC_GET_ENABLED_KEYS */, 0, 0, 0, 0));
#endif
}

void view_prctl(void)
{
    char name[17] = "";
    char vector[1024];
    unsigned long cookie = 0;
    open_object("prctl");
    prctl(PR_GET_NAME, name, 0, 0, 0);
    text("name", name);
    answer("dumpable", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    answer("keepcaps", prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
    answer("securebits", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
    answer("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    answer("seccomp", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
    answer("timing", prctl(PR_GET_TIMING, 0, 0, 0, 0));
    answer("timerslack", prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
    answer("mce_kill", prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
    answer("thp_disable", prctl(GET_THP_DISABLE, 0, 0, 0, 0));
    answer("memory_merge", prctl(GET_MEMORY_MERGE, 0, 0, 0, 0));
    answer("io_flusher", prctl(GET_IO_FLUSHER, 0, 0, 0, 0));
    answer("mdwe", prctl(GET_MDWE, 0, 0, 0, 0));
    answer("store_bypass", prctl(GET_SPECULATION, 0, 0, 0, 0));
    answer("indirect_branch", prctl(GET_SPECULATION, 1, 0, 0, 0));
    answer("l1d_flush", prctl(GET_SPECULATION, 2, 0, 0, 0));
    answer("pdeathsig", by_pointer(PR_GET_PDEATHSIG));
    answer("child_subreaper", by_pointer(PR_GET_CHILD_SUBREAPER));
    answer("timestamp_counter", by_pointer(PR_GET_TSC));
    answer("vector_length", prctl(SVE_GET_VL, 0, 0, 0, 0));
    answer("tagged_addresses", prctl(GET_TAGGED_ADDR, 0, 0, 0, 0));
    answer("pointer_keys", prctl(PAC_GET_KEYS, 0, 0, 0, 0));
    answer("core_cookie", prctl(SCHED_CORE, 0, 0, 0, &cookie) ? -1 : (long)cookie);
    answer("auxv_length", prctl(GET_AUXV, vector, sizeof vector, 0, 0));
    answer("personality", personality(0xffffffff));
    view_architecture();
    close_object();
}
