#include "folios.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bits of kpageflags (include/uapi/linux/kernel-page-flags.h). */
#define KPF_DIRTY (UINT64_C(1) << 4)
#define KPF_SLAB (UINT64_C(1) << 7)
#define KPF_WRITEBACK (UINT64_C(1) << 8)
#define KPF_BUDDY (UINT64_C(1) << 10)
#define KPF_ANON (UINT64_C(1) << 12)
#define KPF_SWAPBACKED (UINT64_C(1) << 14)
#define KPF_HEAD (UINT64_C(1) << 15)
#define KPF_TAIL (UINT64_C(1) << 16)
#define KPF_HUGETLB (UINT64_C(1) << 17)
#define KPF_NOPAGE (UINT64_C(1) << 20)
#define KPF_KSM (UINT64_C(1) << 21)
#define KPF_ZERO (UINT64_C(1) << 24)
#define KPF_PGTABLE (UINT64_C(1) << 26)
#define NOBODYS (KPF_SLAB | KPF_BUDDY | KPF_NOPAGE | KPF_PGTABLE)

#define ORDER_MOST 18 /* 1 GiB in pages of 4 KiB: the largest of hugetlb */

int folios_begin(struct folios *f, int pagemap, int flags, int counts, unsigned pmd, unsigned cont, int summing)
{
    *f = (struct folios){.pagemap = pagemap, .flags = flags, .counts = counts, .pmd = pmd, .cont = cont};
    f->page = (uint64_t)sysconf(_SC_PAGESIZE);
    f->last = UINT64_MAX;
    f->has_scan = 1;
    f->frames = frames_new();
    f->entry = malloc(FOLIO_BATCH * sizeof *f->entry);
    f->flag = malloc(FOLIO_BATCH * sizeof *f->flag);
    f->count = malloc(FOLIO_BATCH * sizeof *f->count);
    f->mark = malloc(FOLIO_BATCH);
    f->wanted = malloc(FOLIO_BATCH);
    f->sums = summing ? calloc(FOLIO_SUMS, sizeof *f->sums) : NULL;
    if (f->frames && f->entry && f->flag && f->count && f->mark && f->wanted && (f->sums || !summing))
        return 0;
    folios_end(f);
    return ENOMEM;
}

void folios_end(struct folios *f)
{
    frames_free(f->frames);
    free(f->entry);
    free(f->flag);
    free(f->count);
    free(f->mark);
    free(f->wanted);
    free(f->sums);
    free(f->runs);
    *f = (struct folios){0};
}

int folio_log2(uint64_t power)
{
    return 63 - __builtin_clzll(power | 1);
}

static int add_sum(struct folios *f, const struct folio_run *run, uint64_t share)
{
    uint32_t slot = (run->kind * 0x9E3779B1u ^ (uint32_t)run->order * 0x85EBCA6Bu) % FOLIO_SUMS;
    for (unsigned tried = 0; tried < FOLIO_SUMS; tried++, slot = (slot + 1) % FOLIO_SUMS) {
        struct folio_sum *sum = f->sums + slot;
        if (!sum->pages)
            *sum = (struct folio_sum){.order = run->order, .kind = run->kind};
        if (sum->order == run->order && sum->kind == run->kind) {
            sum->pages += run->pages;
            sum->folios += run->folios;
            sum->share += share;
            return 0;
        }
    }
    return E2BIG;
}

int folios_add(struct folios *f, struct folio_run run, uint64_t share)
{
    if (f->sums)
        return add_sum(f, &run, share);
    if (f->run_count) {
        struct folio_run *last = f->runs + f->run_count - 1;
        if (last->start + last->pages == run.start && last->order == run.order && last->kind == run.kind) {
            last->pages += run.pages;
            last->folios += run.folios;
            return 0;
        }
    }
    if (f->run_count == f->run_room) {
        size_t room = f->run_room ? f->run_room * 2 : 64;
        struct folio_run *more = realloc(f->runs, room * sizeof *more);
        if (!more)
            return ENOMEM;
        f->runs = more;
        f->run_room = room;
    }
    f->runs[f->run_count++] = run;
    return 0;
}

static int has_frame(uint64_t entry)
{
    return (entry & PM_PRESENT) && (entry & PM_FRAME);
}

/* Whether page i begins a block of memory as large as a PMD maps, which the batch has whole and in order. */
static int begins_block(const struct folios *f, size_t n, size_t i)
{
    uint64_t frame = f->entry[i] & PM_FRAME;
    if (frame % f->pmd || i + f->pmd > n || !has_frame(f->entry[i]))
        return 0;
    for (size_t at = 1; at < f->pmd; at++)
        if (!(f->entry[i + at] & PM_PRESENT) || (f->entry[i + at] & PM_FRAME) != frame + at)
            return 0;
    return 1;
}

/* kpageflags of any frame; 0 where there is none. */
static uint64_t flags_of(const struct folios *f, uint64_t frame)
{
    uint64_t word = 0;
    if (!f->dense)
        return frame_word(f->flags, frame);
    frame_cached(f->cache, f->flags, frame, &word);
    return word;
}

/* Whether the folio that begins at `head` is as large as a PMD maps. */
static int is_huge(const struct folios *f, uint64_t head)
{
    for (uint64_t at = 1; at < f->pmd; at *= 2)
        if (!(flags_of(f, head + at) & KPF_TAIL))
            return 0;
    return 1;
}

static int read_cached(struct folios *f, size_t n)
{
    int err = 0;
    for (size_t i = 0; !err && i < n; i++)
        if (f->wanted[i])
            err = frame_cached(f->cache, f->flags, f->entry[i] & PM_FRAME, f->flag + i);
    return err;
}

/* All flags but those of huge folios' tails: a tenth of a microsecond each. */
static int read_flags(struct folios *f, size_t n)
{
    size_t wanted = 0;
    f->dense = 0;
    for (size_t i = 0; i < n; i++) {
        f->wanted[i] = has_frame(f->entry[i]);
        f->flag[i] = 0;
        f->hidden |= (f->entry[i] & PM_PRESENT) && !(f->entry[i] & PM_FRAME);
    }
    for (size_t i = 0; i < n;) {
        if (begins_block(f, n, i) && is_huge(f, f->entry[i] & PM_FRAME)) {
            memset(f->wanted + i + 1, 0, f->pmd - 1);
            i += f->pmd;
        } else {
            i++;
        }
        wanted++;
    }
    f->dense = f->cache && wanted > n / 8;
    return f->dense ? read_cached(f, n) : frames_read(f->frames, f->flags, f->entry, f->wanted, n, f->flag);
}

/* How often those pages are mapped that are mapped more than once. */
static int read_counts(struct folios *f, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        f->wanted[i] = has_frame(f->entry[i]) && !(f->entry[i] & PM_EXCLUSIVE);
        f->count[i] = 0;
    }
    return frames_read(f->frames, f->counts, f->entry, f->wanted, n, f->count);
}

struct folio {
    uint64_t head, flags; /* its first frame, and the flags of that: older kernels do not repeat them in the others */
    int order;
};

/* The flags of a frame near that of page i: from the batch, where it has them. */
static uint64_t flags_near(const struct folios *f, size_t n, size_t i, uint64_t frame)
{
    uint64_t at = i + (frame - (f->entry[i] & PM_FRAME)); /* wraps for what lies in front of the batch */
    if (at < n && f->flag[at] && has_frame(f->entry[at]) && (f->entry[at] & PM_FRAME) == frame)
        return f->flag[at];
    return flags_of(f, frame);
}

/* The folio of page i. Folios are aligned to their size in memory: only so many frames can be its head, and so many
 * can follow its end. */
static struct folio folio_at(const struct folios *f, size_t n, size_t i)
{
    uint64_t frame = f->entry[i] & PM_FRAME, flags = f->flag[i];
    struct folio found = {frame, flags, 0};
    int order = 0;
    if (!flags || flags & NOBODYS) {
        found.order = FOLIO_UNSEEN; /* a device's memory; or freed, and taken by another */
        return found;
    }
    if (!(flags & (KPF_HEAD | KPF_TAIL)))
        return found;
    while (!(found.flags & KPF_HEAD) && order < ORDER_MOST) {
        found.head = frame & ~((UINT64_C(1) << ++order) - 1);
        found.flags = flags_near(f, n, i, found.head);
    }
    order = order ? order : 1;
    while (order <= ORDER_MOST && flags_near(f, n, i, found.head + (UINT64_C(1) << order)) & KPF_TAIL)
        order++;
    found.order = order > ORDER_MOST || !(found.flags & KPF_HEAD) ? FOLIO_UNSEEN : order;
    return found;
}

/* Of kind's bits those that the folio decides. */
static uint32_t kind_of(uint64_t entry, uint64_t flags)
{
    uint32_t kind = 0;
    if (flags & KPF_ZERO)
        return FOLIO_ZERO;
    if (flags & KPF_ANON)
        kind |= FOLIO_ANON | (flags & KPF_KSM ? FOLIO_KSM : 0);
    else if (entry & PM_FILE)
        kind |= FOLIO_FILE | (flags & KPF_SWAPBACKED ? FOLIO_SHMEM : 0);
    kind |= flags & KPF_HUGETLB ? FOLIO_HUGETLB : 0;
    kind |= flags & KPF_DIRTY ? FOLIO_DIRTY : 0;
    return kind | (flags & KPF_WRITEBACK ? FOLIO_WRITEBACK : 0);
}

/* Without frames' numbers: what pagemap and its scan say. */
static uint32_t kind_unseen(uint64_t entry, uint8_t mark)
{
    if (mark & FOLIO_MARK_ZERO)
        return FOLIO_ZERO;
    return entry & PM_FILE ? FOLIO_FILE : FOLIO_ANON;
}

/* Of kind's bits those that differ from page to page. `cont`: a block of so many pages is whole, and lies so. */
static uint32_t kind_here(const struct folios *f, size_t i, uint32_t kind, int cont)
{
    if (f->of_file)
        return kind;
    if (f->mark[i] & FOLIO_MARK_PMD)
        kind |= FOLIO_PMD;
    else if (cont)
        kind |= FOLIO_CONTPTE;
    return kind | (kind & FOLIO_ZERO || f->entry[i] & PM_EXCLUSIVE ? 0 : FOLIO_SHARED);
}

/* As smaps divides it. */
static uint64_t share_of(const struct folios *f, size_t i, uint32_t kind)
{
    uint64_t count = f->counts >= 0 ? f->count[i] : 0;
    if (kind & FOLIO_ZERO || (!(f->entry[i] & PM_EXCLUSIVE) && f->counts < 0))
        return 0;
    return (f->page << 12) / (f->entry[i] & PM_EXCLUSIVE || count < 2 ? 1 : count);
}

/* Adds pages i up to `end` of the batch, one folio's, in pieces that are equal. */
static int add_pieces(struct folios *f, uint64_t first, size_t i, size_t end, uint32_t kind, int order, int folios)
{
    uint64_t frame = f->entry[i] & PM_FRAME, whole = 0, rest = 0;
    if (f->cont && order >= folio_log2(f->cont) && (first + i - frame) % f->cont == 0) {
        whole = (first + i + f->cont - 1) / f->cont * f->cont - first;
        rest = (first + end) / f->cont * f->cont - first;
    }
    for (size_t at = i; f->of_file && at < end; at++)
        kind |= f->entry[at] & PM_EXCLUSIVE ? 0 : FOLIO_SHARED;
    while (i < end) {
        uint32_t here = kind_here(f, i, kind, i >= whole && i < rest);
        uint64_t share = share_of(f, i, here);
        size_t to = i + 1;
        for (; to < end && kind_here(f, to, kind, to >= whole && to < rest) == here; to++)
            share += share_of(f, to, here);
        struct folio_run run = {(int64_t)(first + i) + f->shift, (int64_t)(to - i), order, here, folios};
        int err = folios_add(f, run, share);
        if (err)
            return err;
        folios = 0;
        i = to;
    }
    return 0;
}

/* Where the pages end that follow page i in one folio, or one PMD whose frames are hidden. */
static size_t end_of(const struct folios *f, uint64_t first, size_t n, size_t i, const struct folio *folio)
{
    uint64_t frame = f->entry[i] & PM_FRAME;
    uint64_t room = folio->order > 0 ? folio->head + (UINT64_C(1) << folio->order) - frame : 1;
    size_t end = i + 1;
    if (!frame && f->mark[i] & FOLIO_MARK_PMD)
        room = f->pmd - (first + i) % f->pmd;
    while (end < n && end - i < room && f->entry[end] & PM_PRESENT &&
           (f->entry[end] & PM_FRAME) == (frame ? frame + (end - i) : 0))
        end++;
    return end;
}

static int add_present(struct folios *f, uint64_t first, size_t n, size_t *i)
{
    uint64_t entry = f->entry[*i];
    int seen = has_frame(entry) && f->flags >= 0, huge = f->mark[*i] & FOLIO_MARK_PMD;
    struct folio folio = {entry & PM_FRAME, 0, huge ? folio_log2(f->pmd) : FOLIO_UNSEEN};
    int fresh = huge && (first + *i) % f->pmd == 0; /* what can be said where its frame is hidden */
    if (seen) {
        folio = folio_at(f, n, *i);
        fresh = folio.head != f->last;
        f->last = folio.head;
    }
    size_t from = *i;
    *i = end_of(f, first, n, from, &folio);
    uint32_t kind = seen ? kind_of(entry, folio.flags) : kind_unseen(entry, f->mark[from]);
    return add_pieces(f, first, from, *i, kind, folio.order, fresh);
}

int folios_walk(struct folios *f, uint64_t first, size_t n)
{
    int err = f->flags >= 0 ? read_flags(f, n) : 0;
    if (!err && f->counts >= 0)
        err = read_counts(f, n);
    for (size_t i = 0; !err && i < n;) {
        uint64_t entry = f->entry[i];
        if (entry & PM_PRESENT) {
            err = add_present(f, first, n, &i);
            continue;
        }
        if (entry & PM_SWAPPED && !(entry & PM_GUARD)) {
            struct folio_run run = {(int64_t)(first + i) + f->shift, 1, FOLIO_UNSEEN, FOLIO_SWAPPED | FOLIO_ANON, 0};
            err = folios_add(f, run, 0);
        }
        i++;
    }
    return err;
}

int folios_pages(struct folios *f, uint64_t first, uint64_t pages)
{
    uint64_t end = first + pages;
    int err = 0;
    while (!err && first < end) {
        size_t n;
        err = folios_next(f, &first, end, &n);
        if (err || !n)
            break;
        size_t asked = n;
        err = folios_read_entries(f, first, &n);
        if (!err && n && !(err = folios_read_marks(f, first, n)))
            err = folios_walk(f, first, n);
        if (n < asked)
            break;
        first += n;
    }
    return err;
}
