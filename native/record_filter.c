#include "record.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <string.h>
#include <sys/prctl.h>

#include "record_calls.h"
#include "sys.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

static const int wanted[] = {
    SYS_mmap,    SYS_munmap,  SYS_mprotect, SYS_pkey_mprotect,    SYS_mremap, SYS_brk,   SYS_madvise,
    SYS_mlock,   SYS_mlock2,  SYS_munlock,  SYS_mlockall,         SYS_mseal,  SYS_shmat, SYS_munlockall,
    SYS_shmdt,   SYS_mbind,   SYS_clone,    SYS_remap_file_pages, SYS_execve, SYS_clone3, SYS_execveat,
#if defined(__x86_64__)
    SYS_fork,    SYS_vfork,
#endif
};
#define WANTED (sizeof wanted / sizeof *wanted)

/* Of calls that do many things, those that concern memory: the argument that says so. */
static const struct {
    int number, argument;
    uint32_t value;
} chosen[] = {
    {SYS_prctl, 0, 35 /* PR_SET_MM */},        {SYS_prctl, 0, 41 /* PR_SET_THP_DISABLE */},
    {SYS_prctl, 0, 65 /* PR_SET_MDWE */},      {SYS_prctl, 0, 67 /* PR_SET_MEMORY_MERGE */},
    {SYS_prctl, 0, 0x53564d41 /* PR_SET_VMA */}, {SYS_ioctl, 1, (uint32_t)UFFDIO_REGISTER},
    {SYS_ioctl, 1, (uint32_t)UFFDIO_UNREGISTER},
};
#define CHOSEN (sizeof chosen / sizeof *chosen)

static struct sock_filter *say(struct sock_filter *at, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
    *at = (struct sock_filter){code, yes, no, k};
    return at + 1;
}

static struct sock_filter *load(struct sock_filter *at, size_t offset)
{
    return say(at, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static struct sock_filter *equals(struct sock_filter *at, uint32_t value, uint8_t otherwise)
{
    return say(at, BPF_JMP | BPF_JEQ | BPF_K, value, 0, otherwise);
}

static struct sock_filter *answer(struct sock_filter *at, uint32_t value)
{
    return say(at, BPF_RET | BPF_K, value, 0, 0);
}

/* Arguments are compared by their lower halves, which on little-endian machines stand first. */
long filter_install(void)
{
    struct sock_filter code[8 + 2 * WANTED + 6 * CHOSEN], *at = code;
    at = load(at, offsetof(struct seccomp_data, arch));
    at = equals(at, NATIVE, 1);
    at = say(at, BPF_JMP | BPF_JA, 1, 0, 0);
    at = answer(at, SECCOMP_RET_ALLOW);
    at = load(at, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < WANTED; i++) {
        at = equals(at, (uint32_t)wanted[i], 1);
        at = answer(at, SECCOMP_RET_TRACE);
    }
    for (size_t i = 0; i < CHOSEN; i++) {
        at = load(at, offsetof(struct seccomp_data, nr));
        at = equals(at, (uint32_t)chosen[i].number, 3);
        at = load(at, offsetof(struct seccomp_data, args) + 8 * (size_t)chosen[i].argument);
        at = equals(at, chosen[i].value, 1);
        at = answer(at, SECCOMP_RET_TRACE);
    }
    at = answer(at, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {(unsigned short)(at - code), code};
    long err = sys3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
    if (err == -EACCES) {
        /* Without CAP_SYS_ADMIN a filter may only be had by who gives up set-id programs, which the traced cannot
         * profit from anyway. */
        sys5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        err = sys3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
    }
    return err;
}
