/* load: reads by io_uring, by its system calls alone.
 *
 * The kernel writes into the memory of a request until its answer is there, whoever has lost interest meanwhile: so
 * ring_end waits for every answer, and only then may the caller unmap. A signal ends the wait of one step, never the
 * requests. Pages are faulted in before they are sent: btrfs turns a direct read into memory that is not there yet
 * into a buffered one (btrfs_dio_iov_iter reads with page faults off).
 */
#include "load.h"

#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sys.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif
#ifndef SYS_io_uring_enter
#define SYS_io_uring_enter 426
#endif

static unsigned *word(const struct ring_read *r, unsigned at)
{
    return (unsigned *)((char *)r->rings + at);
}

static int map_rings(struct ring_read *r, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(unsigned);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    r->rings_size = sq > cq ? sq : cq;
    r->entries_size = p->sq_entries * sizeof(struct io_uring_sqe);
    r->rings = mmap(NULL, r->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED, r->ring, IORING_OFF_SQ_RING);
    if (r->rings == MAP_FAILED)
        return errno;
    r->entries = mmap(NULL, r->entries_size, PROT_READ | PROT_WRITE, MAP_SHARED, r->ring, IORING_OFF_SQES);
    if (r->entries == MAP_FAILED) {
        int err = errno;
        munmap(r->rings, r->rings_size);
        return err;
    }
    r->sq_tail = p->sq_off.tail, r->sq_array = p->sq_off.array, r->sq_mask = *word(r, p->sq_off.ring_mask);
    r->cq_head = p->cq_off.head, r->cq_tail = p->cq_off.tail, r->cqes = p->cq_off.cqes;
    r->cq_mask = *word(r, p->cq_off.ring_mask);
    return 0;
}

int ring_begin(struct ring_read *r)
{
    struct io_uring_params p;
    memset(&p, 0, sizeof p);
    r->next = r->done = 0;
    r->flying = 0;
    r->err = 0;
    for (r->spares = 0; r->spares < r->depth; r->spares++)
        r->spare[r->spares] = r->spares;
    long fd = sys2(SYS_io_uring_setup, r->depth, &p);
    if (fd < 0)
        return (int)-fd;
    r->ring = (int)fd;
    /* One mapping for both rings came in 5.4; IORING_OP_READ in 5.6, which this flag came with. */
    unsigned need = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_RW_CUR_POS;
    int err = (p.features & need) == need ? map_rings(r, &p) : ENOSYS;
    if (err)
        close(r->ring);
    return err;
}

static void put(struct ring_read *r, unsigned slot)
{
    struct ring_slot *s = &r->slots[slot];
    unsigned tail = *word(r, r->sq_tail), at = tail & r->sq_mask;
    struct io_uring_sqe *sqe = (struct io_uring_sqe *)r->entries + at;
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_READ;
    sqe->fd = r->fd;
    sqe->addr = (uint64_t)(uintptr_t)(r->to + s->at + s->got);
    sqe->len = (unsigned)(s->want - s->got);
    sqe->off = r->offset + s->at + s->got;
    sqe->user_data = slot;
    word(r, r->sq_array)[at] = at;
    __atomic_store_n(word(r, r->sq_tail), tail + 1, __ATOMIC_RELEASE);
    r->flying++;
}

static unsigned fill(struct ring_read *r)
{
    unsigned sent = 0;
    while (!r->err && r->spares && r->next < r->room) {
        unsigned slot = r->spare[--r->spares];
        size_t left = r->room - r->next;
        r->slots[slot] = (struct ring_slot){r->next, left < r->chunk ? left : r->chunk, 0};
        /* ENOMEM and the like will be said by the read itself. */
        (void)madvise(r->to + r->next, r->slots[slot].want, MADV_POPULATE_WRITE);
        r->next += r->slots[slot].want;
        put(r, slot);
        sent++;
    }
    return sent;
}

/* Whether the request goes on. */
static int answered(struct ring_read *r, unsigned slot, int res)
{
    struct ring_slot *s = &r->slots[slot];
    if (res == -EINTR || res == -EAGAIN)
        return !r->err;
    if (res == -EINVAL && s->got)
        res = 0; /* behind a file's end a direct read cannot go on: it is not aligned */
    if (res < 0) {
        r->err = r->err ? r->err : res;
        return 0;
    }
    s->got += (size_t)res;
    r->done += (size_t)res;
    size_t end = s->at + s->got;
    if (res == 0 && end < r->least)
        r->err = r->err ? r->err : -ESTALE;
    return res && s->got < s->want && end < r->least && !r->err;
}

static unsigned take(struct ring_read *r)
{
    unsigned again = 0, head = *word(r, r->cq_head);
    while (head != __atomic_load_n(word(r, r->cq_tail), __ATOMIC_ACQUIRE)) {
        const struct io_uring_cqe *cqe =
            (const struct io_uring_cqe *)((char *)r->rings + r->cqes) + (head & r->cq_mask);
        unsigned slot = (unsigned)cqe->user_data;
        int res = cqe->res;
        __atomic_store_n(word(r, r->cq_head), ++head, __ATOMIC_RELEASE);
        r->flying--;
        if (answered(r, slot, res)) {
            put(r, slot);
            again++;
        } else {
            r->spare[r->spares++] = slot;
        }
    }
    return again;
}

/* Sends all that is put, and waits for one answer unless it is there already. */
static int enter(struct ring_read *r, unsigned send, int wait)
{
    long sent = sys6(SYS_io_uring_enter, r->ring, send, wait, wait ? IORING_ENTER_GETEVENTS : 0, 0, 0);
    return (int)sent;
}

static int send_all(struct ring_read *r, unsigned count)
{
    while (count) {
        int sent = enter(r, count, 0);
        if (sent == -EINTR || sent == -EAGAIN || sent == -EBUSY)
            continue;
        if (sent <= 0) {
            r->flying -= count; /* they never began */
            return sent ? sent : -EIO;
        }
        count -= (unsigned)sent;
    }
    return 0;
}

int ring_step(struct ring_read *r)
{
    int err = send_all(r, fill(r));
    if (!err && r->flying) {
        int waited = enter(r, 0, 1);
        if (waited < 0 && waited != -EINTR)
            err = waited;
        if (!err)
            err = send_all(r, take(r));
    }
    r->err = r->err ? r->err : err;
    if (r->err)
        return r->err;
    return r->flying || r->next < r->room;
}

void ring_end(struct ring_read *r)
{
    if (!r->err)
        r->err = -ECANCELED;
    while (r->flying) {
        int waited = enter(r, 0, 1);
        if (waited < 0 && waited != -EINTR && waited != -EAGAIN)
            break;
        take(r);
    }
    munmap(r->entries, r->entries_size);
    munmap(r->rings, r->rings_size);
    close(r->ring);
}
