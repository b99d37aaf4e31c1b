/* load: many reads of one file in flight, by io_uring; the rules for its memory stand in load.c. */
#ifndef ELFOLIO_LOAD_H
#define ELFOLIO_LOAD_H

#include <stddef.h>
#include <stdint.h>

#define RING_DEPTH 64

/* One request: `got` of `want` bytes, from `at` within the part that is read. */
struct ring_slot {
    size_t at, want, got;
};

struct ring_read {
    int ring, fd;
    char *to;
    uint64_t offset;
    size_t room, least, chunk; /* bytes that are asked for; that must come; of one request */
    size_t next, done;
    unsigned depth, flying;
    int err;
    struct ring_slot slots[RING_DEPTH];
    unsigned spare[RING_DEPTH], spares;
    void *rings, *entries;
    size_t rings_size, entries_size;
    unsigned sq_tail, sq_mask, sq_array, cq_head, cq_tail, cq_mask, cqes; /* offsets in `rings` */
};

/* 0, or an errno: ENOSYS, EPERM, ENOMEM where this process may have no ring. */
int ring_begin(struct ring_read *r);
/* Sends what there is room for, and waits for one answer. 1: call again. 0: all has been read. -errno: a read
 * failed, or the file ends before `least` (-ESTALE). */
int ring_step(struct ring_read *r);
/* Waits for what is in flight: until then the kernel writes into the memory. */
void ring_end(struct ring_read *r);

#endif
