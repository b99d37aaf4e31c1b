/* steps: what a child does to itself between clone and exec, as data.
 *
 * In: an array of steps and the bytes they point into, both checked by the parent.
 * Out: 0, or the index of the step that failed and its errno.
 * Never allocates, takes no lock, calls no C library function: it may run in the parent's memory.
 */
#ifndef ELFOLIO_STEPS_H
#define ELFOLIO_STEPS_H

#include <stddef.h>
#include <stdint.h>

/* The numbers are shared with elfolio.spawn.plan (exported by the module, so they cannot drift). */
enum step_op {
    OP_CLOSE,       /* fd */
    OP_DUP2,        /* fd -> newfd; flags: O_CLOEXEC. Equal: only checks that it is open */
    OP_FCHDIR,      /* fd */
    OP_CHDIR,       /* arg: path */
    OP_OPEN,        /* newfd; fd: directory; arg: path; arg2: struct open_how */
    OP_CLOSE_RANGE, /* fd: first, newfd: last (-1: the highest possible); flags: CLOSE_RANGE_* */
    OP_SIGMASK,     /* arg: the set, 64 bits; takes effect right before exec */
    OP_SIGDEFAULT,  /* arg: the set, 64 bits */
    OP_SAVE,        /* fd is duplicated above the standard three into slot newfd */
    OP_RESTORE,     /* slot fd -> newfd */
    OP_KEEP,        /* fd: close-on-exec off */
    OP_UMASK,       /* arg */
    OP_RLIMIT,      /* fd: resource; arg: soft, arg2: hard */
    OP_NICE,        /* fd: increment */
    OP_SETSID,
    OP_SETPGID, /* fd: process group, 0 for a new one */
    OP_TERMINAL, /* fd: becomes the controlling terminal */
    OP_GROUPS,   /* arg: array of gid_t, flags: how many */
    OP_GID,      /* arg: real, effective, saved */
    OP_UID,      /* arg: real, effective, saved */
    OP_NO_NEW_PRIVS,
    OP_PDEATHSIG, /* fd: signal */
    OP_OOM_SCORE, /* arg: text for /proc/self/oom_score_adj */
    OP_AFFINITY,  /* arg: mask, flags: its bytes */
    OP_MERGE,     /* PR_SET_MEMORY_MERGE */
    OP_COUNT
};

struct step {
    uint32_t op;
    uint32_t flags;
    int32_t fd;
    int32_t newfd;
    uint64_t arg;  /* a value, or an offset into the blob */
    uint64_t arg2;
};

#define STEP_SLOTS 4

struct child_state {
    const struct step *steps;
    uint32_t count;
    const char *blob;
    int parent;         /* the pid that must still be the parent once PDEATHSIG is set */
    uint64_t mask;      /* in: the signal mask wanted at exec; OP_SIGMASK changes it */
    int slots[STEP_SLOTS];
};

/* Bytes of the blob that a step reads at arg and at arg2; -1: a string, which must end inside the blob. */
int step_reads(const struct step *step, long *at_arg, long *at_arg2);

/* Runs the steps in order; returns 0, or -errno with *failed set to the index. */
long run_steps(struct child_state *state, uint32_t *failed);

#endif
