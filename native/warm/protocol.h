/* protocol: what a warm template and its owner say to each other, and what the owner writes into the stub.
 *
 * One seqpacket socket. Owner to standby: one struct request, with what follows it, and descriptors. Back: one
 * struct reply for each birth, and one for each request. Both ends are built from this file, at one time.
 */
#ifndef ELFOLIO_WARM_PROTOCOL_H
#define ELFOLIO_WARM_PROTOCOL_H

#include <stdint.h>

#define WARM_MAGIC 0x656c666f6c696f31ULL
#define WARM_FDS 64       /* descriptors of one request; SCM_RIGHTS carries 253 */
#define WARM_MESSAGE 65536 /* bytes of one request, all told */
#define WARM_RANGES 96    /* of memory that a standby populates before it is asked for */

/* The template's own descriptors stand here. The table of 64 that every task has is not outgrown by them. */
enum warm_fd { WARM_FD_FIRST = 58, WARM_FD_CONTROL = 58, WARM_FD_OWNER = 59, WARM_FD_TAKEN = 60, WARM_FD_NULL = 61,
               WARM_FD_LAST = 63 };

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
    uint64_t mask;    /* the signal mask wanted at the start */
    uint64_t ignored; /* signals that the program starts with ignored */
    int32_t umask;    /* -1: the template's */
    int32_t group;    /* process group to join; 0: the template's */
    int32_t target[WARM_FDS]; /* the number that each descriptor gets */
    int32_t kept[WARM_FDS];   /* numbers above 2 that stay open, ascending */
    /* then: steps, blob, strings */
};

enum reply_kind { REPLY_BORN = 1, REPLY_STARTED = 2, REPLY_FAILED = 3, REPLY_BARREN = 4 };

struct reply {
    uint32_t kind;
    int32_t pid;
    int32_t failed; /* the step, or enum warm_step */
    int32_t error;
};

enum warm_step { WARM_STEP_REQUEST = -16, WARM_STEP_STATE = -17, WARM_STEP_STREAMS = -18 };

/* struct prctl_mm_map (include/uapi/linux/prctl.h). */
struct mm_map {
    uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
    uint64_t arg_start, arg_end, env_start, env_end;
    uint64_t auxv;
    uint32_t auxv_size;
    uint32_t exe_fd;
};

struct range {
    uint64_t start, bytes;
    uint64_t advice;
};

/* Written by the owner into the stub before it first runs. Addresses are the template's; 0: there is none. */
struct setup {
    uint64_t magic;
    uint64_t stub, stub_bytes;   /* unmapped by the last thing a child does in it */
    uint64_t entry;              /* the program's e_entry, mapped */
    uint64_t entry_argument;     /* rdx or x0 at the entry: the dynamic linker's finaliser */
    uint64_t stack;              /* where sp stands at every child's entry; its initial stack is built from here up */
    uint64_t auxv, auxv_bytes;   /* stays where it is: the C library holds a pointer to it */
    uint64_t random;             /* 16 bytes: AT_RANDOM */
    uint64_t tid;                /* the C library's cached thread id */
    uint64_t robust, robust_bytes;
    uint64_t environ, program_name, program_short_name; /* variables */
    uint64_t libc_argc;          /* a hidden one */
    uint64_t munmap;             /* the C library's function: outlives the stub */
    uint64_t ignored;            /* what the template was born with */
    uint32_t range_count, owner;
    struct mm_map map;
    struct range range[WARM_RANGES];
};

#endif
