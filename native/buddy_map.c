/* buddy_map: a zone as /proc/kpageflags shows memory (buddy.h). Flags: include/uapi/linux/kernel-page-flags.h. */
#include "buddy.h"

#include <string.h>

enum {
    KPF_REFERENCED = 2, KPF_LRU = 5, KPF_ACTIVE = 6, KPF_SLAB = 7, KPF_BUDDY = 10, KPF_ANON = 12, KPF_SWAPBACKED = 14,
    KPF_COMPOUND_HEAD = 15, KPF_COMPOUND_TAIL = 16, KPF_HUGE = 17, KPF_HWPOISON = 19, KPF_NOPAGE = 20, KPF_OFFLINE = 23,
    KPF_RESERVED = 32
};

static int has(uint64_t flags, unsigned bit)
{
    return flags >> bit & 1;
}

/* What no policy moves: holes, reserved pages, hugetlb's; tmpfs's too, which only kcompactd moves. */
static enum page_kind kind_of(uint64_t flags)
{
    if (has(flags, KPF_NOPAGE) || has(flags, KPF_RESERVED) || has(flags, KPF_HUGE) || has(flags, KPF_HWPOISON) ||
        has(flags, KPF_OFFLINE) || has(flags, KPF_BUDDY))
        return HELD;
    if (has(flags, KPF_ANON))
        return ANON;
    if (has(flags, KPF_LRU))
        return has(flags, KPF_SWAPBACKED) ? HELD : CACHE;
    return has(flags, KPF_SLAB) ? SLAB : KERNEL;
}

/* The folio that begins at `page`: orders that cannot be (it changed while it was read) are single pages. */
static unsigned order_at(const uint64_t *flags, uint32_t count, uint32_t page)
{
    uint32_t size = 1;
    if (!has(flags[page], KPF_COMPOUND_HEAD) || has(flags[page], KPF_HUGE))
        return 0;
    while (page + size < count && has(flags[page + size], KPF_COMPOUND_TAIL) &&
           !has(flags[page + size], KPF_COMPOUND_HEAD) && size < 1u << (BUDDY_ORDERS - 1))
        size++;
    unsigned order = 31u - (unsigned)__builtin_clz(size);
    return size == 1u << order && page % size == 0 ? order : 0;
}

static void use(struct buddy *z, uint32_t page, unsigned order, enum page_kind kind, unsigned owner)
{
    z->kind[page] = (uint8_t)kind;
    z->order[page] = (uint8_t)order;
    z->owner[page] = (uint16_t)owner;
    z->again[page] = 0;
    buddy_push(z, kind == CACHE ? &z->lru : &z->owners[owner], page, 1);
}

/* Page cache that is active goes behind what is not: `active` chooses. All else comes with the first. */
static void map_block(struct buddy *z, const uint64_t *flags, uint32_t count, uint32_t start, int active,
                      unsigned unused, unsigned used)
{
    for (uint32_t at = start, size; at < start + (1u << BUDDY_BLOCK); at += size) {
        uint64_t its = at < count ? flags[at] : (uint64_t)1 << KPF_NOPAGE;
        unsigned order = at < count ? order_at(flags, count, at) : 0;
        enum page_kind kind = kind_of(its);
        size = 1u << order;
        if (z->kind[at] != TAIL || z->order[at] == 0xff)
            continue;
        if ((kind == CACHE && has(its, KPF_ACTIVE) && has(its, KPF_REFERENCED)) != active)
            continue;
        use(z, at, order, kind, has(its, KPF_BUDDY) ? unused : used);
        memset(z->order + at + 1, 0xff, size - 1);
    }
}

static uint32_t common(uint32_t a, uint32_t b)
{
    return b ? common(b, a % b) : a;
}

/* Everything in use, a page for each of `flags`; what is free belongs to the owner `unused` for now, so that page blocks
 * can be given their types before it is freed. Nothing tells how old page cache is: it ages block by block, in an order
 * by chance, since what was read together lies together. */
void buddy_map(struct buddy *z, const uint64_t *flags, uint32_t count, unsigned unused, unsigned used)
{
    memset(z->areas, 0xff, sizeof z->areas);
    memset(z->counts, 0, sizeof z->counts);
    memset(z->kind, TAIL, z->pages);
    memset(z->order, 0, z->pages);
    z->free = 0;
    uint32_t first = (uint32_t)(buddy_random(z) % z->blocks), step = 2654435761u % z->blocks | 1;
    while (common(step, z->blocks) > 1)
        step += 2;
    for (int active = 0; active < 2; active++)
        for (uint32_t i = 0; i < z->blocks; i++)
            map_block(z, flags, count, (uint32_t)((first + (uint64_t)i * step) % z->blocks) << BUDDY_BLOCK, active,
                      unused, used);
}
