/* protocol: what a warm template and its owner say to each other, and what the owner writes into the stub.
 *
 * A seqpacket socket: owner to standby one struct request, with what follows it, and descriptors; template to owner
 * one struct birth for each child. And a page of memory that both have, with a slot for each request, in which they
 * agree on whether it happens. Both ends are built from this file, at one time.
 */
#ifndef ELFOLIO_WARM_PROTOCOL_H
#define ELFOLIO_WARM_PROTOCOL_H

#include <stdint.h>

#define WARM_MAGIC 0x656c666f6c696f31ULL
#define WARM_FDS 64        /* descriptors of one request; SCM_RIGHTS carries 253 */
#define WARM_MESSAGE 163840 /* bytes of one request, all told: a socket takes 208 KiB unless told otherwise */
#define WARM_ROOM (2 * WARM_MESSAGE) /* bytes of stack for the strings and the pointers to them */
#define WARM_SLOTS 8
/* How long one side looks for the other before it sleeps: sleeping and being woken costs tens of microseconds, most of
 * all where an idle processor is a virtual one. Some 100 us; measured: with a fifth of it a start takes a tenth longer. */
#define WARM_SPINS 5000
#define WARM_SPINS_LEAST 250 /* where that is in vain, because all processors are busy */
#define WARM_DEPTH 2 /* children that stand by at a time */
#define WARM_LIMITS 16 /* RLIM_NLIMITS */
#define WARM_SLOT_BYTES 4096

/* The template's own descriptors stand here. The table of 64 that every task has is not outgrown by them. */
enum warm_fd {
    WARM_FD_FIRST = 58,
    WARM_FD_CONTROL = 58,
    WARM_FD_OWNER = 59,
    WARM_FD_TAKEN = 60,
    WARM_FD_NULL = 61,
    WARM_FD_LAST = 61,
    WARM_FD_SLOTS = 62, /* until it has been mapped */
};

/* Where a request stands. Each change is one compare-and-swap, so that the two sides cannot disagree: what its owner
 * has taken back never runs, and what runs cannot be taken back. */
enum slot_state {
    SLOT_FREE,
    SLOT_ASKED,     /* owner: sent, and being checked meanwhile */
    SLOT_READY,     /* child: everything prepared that depends on nothing else */
    SLOT_GO,        /* owner: all checks passed; the steps may be taken */
    SLOT_CANCELLED, /* owner: nothing of it may run. The owner frees the slot, once the child has ended */
    SLOT_FAILED,    /* child: `failed` and `error` say where. The owner frees the slot */
    SLOT_STARTED,   /* child: the program runs. The owner frees the slot */
};

struct slot {
    uint32_t state; /* a futex */
    int32_t failed; /* the step, or enum warm_step */
    int32_t error;
    uint32_t answers; /* whether the owner waits for SLOT_STARTED; else the child frees the slot */
    uint64_t ignored; /* signals that the program starts with ignored */
    int32_t umask;    /* -1: the template's */
    int32_t group;    /* process group to join; 0: the template's */
    int32_t pid;      /* child: who it is */
    uint32_t limits;  /* bits of the resource limits to set */
    uint64_t limit[WARM_LIMITS][2]; /* soft, hard */
    uint64_t reserved[26];
};

/* Behind the slots: the numbers of those who stand by, 0 where there is none. The kernel writes one at the birth itself
 * (CLONE_PARENT_SETTID): a template that is killed does not come to tell. The owner sets back who has been taken. */
#define WARM_BORN_AT (WARM_SLOT_BYTES - 16)
#define WARM_BORN (WARM_DEPTH + 1)
_Static_assert(WARM_SLOTS * sizeof(struct slot) <= WARM_BORN_AT, "slots");

enum request_flags {
    REQUEST_NULL_0 = 1, /* /dev/null, freshly opened, is descriptor 0; likewise 1 and 2 */
    REQUEST_NULL_1 = 2,
    REQUEST_NULL_2 = 4,
    REQUEST_CLOSED_0 = 8, /* descriptor 0 stays closed; likewise 1 and 2 */
    REQUEST_CLOSED_1 = 16,
    REQUEST_CLOSED_2 = 32,
    REQUEST_CWD = 64, /* the last descriptor is the working directory */
};

struct request {
    uint64_t magic;
    uint32_t argc, envc;
    uint32_t string_bytes; /* of argv, then of the environment, each with its NUL */
    uint32_t step_count, blob_bytes;
    uint32_t fd_count, kept_count;
    uint32_t flags;
    uint32_t slot;
    int32_t highest;          /* number that a descriptor gets or is named by */
    uint64_t mask;            /* the signal mask wanted at the start */
    int32_t target[WARM_FDS]; /* the number that each descriptor gets */
    int32_t kept[WARM_FDS];   /* numbers that stay open, ascending */
    /* then: steps, blob, strings */
};

/* From the template: with the pidfd; or with pid 0 and the errno of a fork that failed. */
struct birth {
    int32_t pid;
    int32_t error;
};

/* Where a child fails that is not a step of the plan. */
enum warm_step { WARM_STEP_REQUEST = -16, WARM_STEP_STATE = -17, WARM_STEP_STREAMS = -18 };

/* struct prctl_mm_map (include/uapi/linux/prctl.h). */
struct mm_map {
    uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
    uint64_t arg_start, arg_end, env_start, env_end;
    uint64_t auxv;
    uint32_t auxv_size;
    uint32_t exe_fd;
};

/* Written by the owner into the stub before it first runs. Addresses are the template's. */
struct setup {
    uint64_t magic;
    uint64_t stub, stub_bytes; /* unmapped by the last thing a child does in it; the slots are its end */
    uint64_t slots;
    uint64_t entry;            /* the program's e_entry, mapped */
    uint64_t entry_argument;   /* rdx or x0 at the entry: the dynamic linker's finaliser */
    uint64_t stack;            /* where sp stands at every child's entry; its initial stack is built from here up */
    uint64_t auxv, auxv_bytes; /* stays where it is: the C library holds a pointer to it */
    uint64_t random;           /* 16 bytes: AT_RANDOM */
    uint64_t tid;              /* the C library's cached thread id */
    uint64_t robust, robust_bytes;
    uint64_t environ, program_name, program_short_name; /* variables */
    uint64_t libc_argc;        /* a hidden one */
    uint64_t munmap;           /* the C library's function: outlives the stub */
    uint64_t page;             /* its bytes */
    uint64_t sigreturn;        /* aarch64: the vdso's __kernel_rt_sigreturn */
    uint64_t state;            /* aarch64: the program's pstate at its entry */
    uint64_t idle_ns;          /* after so long without a request it ends; 0: never */
    uint64_t ignored;          /* signals that the template was born with ignored */
    uint64_t owner;            /* its pid */
    struct mm_map map;
};

#endif
