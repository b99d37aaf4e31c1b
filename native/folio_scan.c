/* folio_scan: what pagemap, and its ioctl PAGEMAP_SCAN, say of pages. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "folios.h"
#include "pagemap_scan.h"

#define REGIONS 512
#define GAP 512 /* pages that are read sooner than asked about */

/* Fills arg's regions and moves its start to where it stopped: how many, or -errno. Clears has_scan and gives 0 where
 * there is no such call. */
static int scan(struct folios *f, struct scan_arg *arg)
{
    for (;;) {
        int got = ioctl(f->pagemap, SCAN, arg);
        if (got >= 0) {
            arg->start = arg->walk_end;
            return got;
        }
        if (errno == ENOTTY) {
            f->has_scan = 0;
            return 0;
        }
        if (errno != EINTR)
            return errno == ESRCH ? 0 : -errno;
    }
}

int folios_read_marks(struct folios *f, uint64_t first, size_t n)
{
    struct region regions[REGIONS];
    uint64_t page = f->page, end = (first + n) * page;
    struct scan_arg arg = {.size = sizeof arg, .start = first * page, .end = end, .vec = (uintptr_t)regions};
    memset(f->mark, 0, n);
    arg.vec_len = REGIONS;
    arg.required = SCAN_PRESENT;
    arg.any_of = arg.returned = SCAN_HUGE | SCAN_ZERO;
    while (f->has_scan && arg.start < end) {
        uint64_t before = arg.start;
        int got = scan(f, &arg);
        if (got < 0)
            return -got;
        for (int r = 0; r < got; r++) {
            uint64_t from = regions[r].start / page, to = regions[r].end / page;
            int mark = regions[r].categories & SCAN_HUGE ? FOLIO_MARK_PMD : 0;
            mark |= regions[r].categories & SCAN_ZERO ? FOLIO_MARK_ZERO : 0;
            memset(f->mark + (from - first), mark, to - from);
        }
        if (arg.start == before)
            break;
    }
    return 0;
}

int folios_next(struct folios *f, uint64_t *first, uint64_t end, size_t *n)
{
    struct region regions[REGIONS];
    uint64_t page = f->page, room = FOLIO_BATCH;
    struct scan_arg arg = {.size = sizeof arg, .start = *first * page, .end = end * page, .vec = (uintptr_t)regions};
    int got = 0;
    arg.vec_len = REGIONS;
    arg.max_pages = FOLIO_BATCH;
    arg.any_of = arg.returned = SCAN_PRESENT | SCAN_SWAPPED;
    *n = 0;
    if (f->has_scan && (got = scan(f, &arg)) < 0)
        return -got;
    if (f->has_scan) {
        if (got == 0)
            return 0;
        uint64_t stop = regions[0].end / page;
        *first = regions[0].start / page;
        for (int r = 1; r < got && regions[r].start / page <= stop + GAP; r++)
            stop = regions[r].end / page;
        end = stop;
    }
    /* Batches end where runs of contiguous PTEs do, and PMDs. */
    room -= *first % FOLIO_BATCH;
    *n = end - *first < room ? end - *first : room;
    return 0;
}

int folios_read_entries(struct folios *f, uint64_t first, size_t *n)
{
    size_t bytes = *n * 8, had = 0;
    while (had < bytes) {
        ssize_t got = pread(f->pagemap, (char *)f->entry + had, bytes - had, (off_t)(first * 8 + had));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno;
        if (got == 0) /* the process has ended, or its addresses have */
            break;
        had += (size_t)got;
    }
    *n = had / 8;
    return 0;
}
