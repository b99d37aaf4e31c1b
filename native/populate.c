/* populate: a mapping of a file filled for reading, block by block.
 *
 * MADV_POPULATE_READ over small folios walks the page tables again for every page, also for the fifteen that the fault
 * for the first one has mapped beside it (do_fault_around, mm/memory.c): so it is asked for one page in sixteen. Where
 * that leaves a page out (not read yet, or the kernel maps less around a fault) the page table shows it, and all of the
 * block is asked for. A block in one huge folio is mapped by its first fault, all of it: once some have been, the next
 * ones are asked for together, since a walk passes over a huge entry in one step.
 */
#include "populate.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pagemap_scan.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* fault_around_bytes; who sets it lower (debugfs) pays for whole blocks. */
#define AROUND 65536
#define PRESENT (UINT64_C(1) << 63)
/* Huge blocks in a row after which the next are expected to be huge too. */
#define STREAK 4

static int ask(char *at, size_t size)
{
    return madvise(at, size, MADV_POPULATE_READ) ? -errno : 0;
}

static int is_present(int pagemap, const char *at, size_t page)
{
    uint64_t entry;
    off_t where = (off_t)((uintptr_t)at / page * sizeof entry);
    return pread(pagemap, &entry, sizeof entry, where) == sizeof entry && entry & PRESENT;
}

/* Whether any page is not mapped, as far as that can be seen. */
static int has_gap(int pagemap, const char *at, size_t size)
{
    struct region found;
    struct scan_arg arg = {.size = sizeof arg, .start = (uintptr_t)at, .end = (uintptr_t)at + size};
    arg.vec = (uintptr_t)&found;
    arg.vec_len = arg.max_pages = 1;
    arg.inverted = arg.required = arg.returned = SCAN_PRESENT;
    return ioctl(pagemap, SCAN, &arg) != 0; /* ENOTTY before 6.7 */
}

/* Whether huge entries map all of it: one region from end to end. No before 6.7. */
static int is_huge(int pagemap, const char *at, size_t size)
{
    struct region found = {0, 0, 0};
    struct scan_arg arg = {.size = sizeof arg, .start = (uintptr_t)at, .end = (uintptr_t)at + size};
    arg.vec = (uintptr_t)&found;
    arg.vec_len = 1;
    arg.required = arg.returned = SCAN_HUGE;
    return ioctl(pagemap, SCAN, &arg) == 1 && found.start == arg.start && found.end == arg.end;
}

static int by_strides(char *at, size_t size, size_t page, int pagemap)
{
    size_t stride = page > AROUND ? page : AROUND;
    for (char *to = at; to < at + size; to = (char *)(((uintptr_t)to & ~(stride - 1)) + stride)) {
        int err = ask(to, page);
        if (err)
            return err;
    }
    return has_gap(pagemap, at, size) ? ask(at, size) : 0;
}

/* One huge page, which begins at `at`, and none of which is mapped. */
static int one_block(char *at, size_t huge, size_t page, int pagemap, struct populated *p)
{
    int err = ask(at, page);
    if (err)
        return err;
    p->whole++;
    if (is_present(pagemap, at + huge - page, page)) {
        p->huge++;
        return 0;
    }
    return by_strides(at, huge, page, pagemap);
}

/* Huge pages of which every one is expected to be in one folio. */
static int several(char *at, size_t count, size_t huge, int pagemap, struct populated *p)
{
    int err = ask(at, count * huge);
    if (err)
        return err;
    p->whole += count;
    if (is_huge(pagemap, at, count * huge)) {
        p->huge += count;
        return 0;
    }
    for (; count; count--, at += huge)
        p->huge += (size_t)is_huge(pagemap, at, huge);
    return 0;
}

int populate(char *at, size_t size, size_t huge, int pagemap, struct populated *p)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), streak = 0;
    *p = (struct populated){0, 0, 0};
    while (p->done < size) {
        char *here = at + p->done;
        size_t in = (uintptr_t)here % huge, left = size - p->done, to_next = huge - in;
        size_t step = left < to_next ? left : to_next;
        int err;
        if (pagemap < 0)
            err = ask(here, step = left);
        else if (streak >= STREAK && left >= huge)
            err = several(here, left / huge, huge, pagemap, p), step = left / huge * huge;
        else if (step == huge)
            err = one_block(here, huge, page, pagemap, p);
        else
            err = by_strides(here, step, page, pagemap);
        if (err)
            return err;
        p->done += step;
        streak = step >= huge && pagemap >= 0 && is_huge(pagemap, here, step) ? streak + 1 : 0;
    }
    return 0;
}
