#define _GNU_SOURCE
#include "record.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sys.h"

#define RING_PAGES 128 /* with its first page what perf_event_mlock_kb allows everybody */

struct ring {
    struct perf_event_mmap_page *page;
    size_t bytes;
    int fd;
};

struct sample {
    struct perf_event_header header;
    uint32_t pid, tid;
    uint64_t address;
};

/* include/uapi/linux/fs.h, from 6.7 */
struct scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t inverted, mask, any_of, shown;
};
struct region {
    uint64_t start, end, categories;
};
#define SCAN _IOWR('f', 16, struct scan)
#define IS_FILE (1 << 2)
#define IS_PRESENT (1 << 3)
#define IS_SWAPPED (1 << 4)
#define IS_PFNZERO (1 << 5)

static int ring_open(struct ring *r, pid_t pid, int cpu, int user_only)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attr,
        .config = PERF_COUNT_SW_PAGE_FAULTS,
        .sample_period = 1,
        .sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_ADDR,
        .inherit = 1,
        .exclude_kernel = (unsigned)user_only & 1,
        .watermark = 1, /* nobody waits for it: a wakeup for each sample would cost more than the fault */
    };
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    attr.wakeup_watermark = (uint32_t)(RING_PAGES * page);
    long fd = sys5(SYS_perf_event_open, &attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        return (int)-fd;
    r->bytes = RING_PAGES * page;
    void *at = mmap(NULL, r->bytes + page, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0);
    if (at == MAP_FAILED) {
        int err = errno;
        close((int)fd);
        return err;
    }
    r->page = at;
    r->fd = (int)fd;
    return 0;
}

void faults_open(struct faults *f, pid_t pid)
{
    long cpus = sysconf(_SC_NPROCESSORS_CONF);
    f->rings = calloc((size_t)cpus, sizeof *f->rings);
    f->kernel = f->scans = 1;
    for (int cpu = 0; f->rings && cpu < cpus; cpu++) {
        int err = ring_open(&f->rings[f->count], pid, cpu, !f->kernel);
        if (err == EACCES && !f->count) {
            f->kernel = 0;
            err = ring_open(&f->rings[f->count], pid, cpu, 1);
        }
        f->count += !err;
        if (err && err != ENODEV) { /* ENODEV: a processor that is off */
            while (f->count)
                close(f->rings[--f->count].fd);
            return;
        }
    }
}

static void keep(struct pages *p, uint64_t address)
{
    if (p->count == p->room) {
        size_t room = p->room ? 2 * p->room : 256;
        uint64_t *at = realloc(p->at, room * sizeof *at);
        if (!at)
            return;
        p->at = at;
        p->room = room;
    }
    p->at[p->count++] = address;
}

/* What wraps around the ring's end is copied out in two parts. */
static void ring_copy(const struct ring *r, uint64_t at, void *to, size_t length)
{
    const char *data = (const char *)r->page + sysconf(_SC_PAGESIZE);
    size_t offset = at % r->bytes, first = r->bytes - offset < length ? r->bytes - offset : length;
    memcpy(to, data + offset, first);
    memcpy((char *)to + first, data, length - first);
}

void faults_drain(struct faults *f, pages_of *find, void *context)
{
    uint64_t mask = ~(uint64_t)(sysconf(_SC_PAGESIZE) - 1), lost[3];
    struct sample s;
    for (int i = 0; i < f->count; i++) {
        struct ring *r = &f->rings[i];
        uint64_t head = __atomic_load_n(&r->page->data_head, __ATOMIC_ACQUIRE), tail = r->page->data_tail;
        while (tail < head) {
            ring_copy(r, tail, &s.header, sizeof s.header);
            if (s.header.type == PERF_RECORD_SAMPLE) {
                ring_copy(r, tail, &s, sizeof s);
                struct pages *p = find(context, (pid_t)s.pid);
                if (p)
                    keep(p, s.address & mask);
            } else if (s.header.type == PERF_RECORD_LOST) {
                ring_copy(r, tail, lost, sizeof lost);
                f->lost += lost[2];
            }
            tail += s.header.size;
        }
        __atomic_store_n(&r->page->data_tail, tail, __ATOMIC_RELEASE);
    }
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The bits of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst): without PAGEMAP_SCAN a zero page looks like
 * an anonymous one. */
static int anonymous(int pagemap, uint64_t address, size_t page)
{
    uint64_t entry = 0;
    if (pread(pagemap, &entry, sizeof entry, (off_t)(address / page * sizeof entry)) != sizeof entry)
        return 0;
    return (entry >> 62 & 3) && !(entry >> 61 & 1);
}

static long scan(struct faults *f, int pagemap, uint64_t start, uint64_t end, struct region *found, size_t room)
{
    struct scan s = {
        .size = sizeof s,
        .start = start,
        .end = end,
        .vec = (uintptr_t)found,
        .vec_len = room,
        .inverted = IS_FILE | IS_PFNZERO,
        .mask = IS_FILE | IS_PFNZERO,
        .any_of = IS_PRESENT | IS_SWAPPED,
        .shown = IS_PRESENT,
    };
    long n = f->scans ? sys3(SYS_ioctl, pagemap, SCAN, &s) : -ENOTTY;
    if (n == -ENOTTY || n == -EINVAL)
        f->scans = 0;
    return n;
}

int faults_write(struct faults *f, struct pages *p, int pagemap, struct out *o, const char *head, pid_t pid)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct region found[64];
    int written = 0;
    qsort(p->at, p->count, sizeof *p->at, ascending);
    for (size_t i = 0, next; i < p->count; i = next) {
        uint64_t start = p->at[i], end = start + page;
        for (next = i + 1; next < p->count && p->at[next] <= end && end - start < 64 * page; next++)
            end = p->at[next] + page;
        long n = scan(f, pagemap, start, end, found, 64);
        if (n < 0 && !f->scans)
            for (n = 0; start < end; start += page)
                if (anonymous(pagemap, start, page))
                    found[n++] = (struct region){start, start + page, 0};
        for (long k = 0; k < n; k++) {
            if (!written++) {
                out_text(o, head);
                out_number(o, pid);
                out_text(o, ",\"t\":[");
            }
            out_text(o, written > 1 ? ",[" : "[");
            out_unsigned(o, found[k].start);
            out_text(o, ",");
            out_unsigned(o, found[k].end);
            out_text(o, "]");
        }
    }
    if (written)
        out_text(o, "]}\n");
    p->count = 0;
    return written;
}
