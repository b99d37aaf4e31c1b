/* buddy: free lists, fallback, watermarks, reclaim, and the page cache's reads (buddy.h). */
#include "buddy.h"

#include <stdlib.h>
#include <string.h>

#define CLUSTER 32 /* SWAP_CLUSTER_MAX */
#define COSTLY 3   /* PAGE_ALLOC_COSTLY_ORDER */
#define AT_WORK 500 /* in a thousand: how often kswapd is at work already when it is woken. Measured */
#define WAKES 5     /* of kswapd, for one of kcompactd. Measured */

static const uint8_t FALLBACKS[MIGRATE_TYPES][2] = {
    [UNMOVABLE] = {RECLAIMABLE, MOVABLE}, [MOVABLE] = {RECLAIMABLE, UNMOVABLE}, [RECLAIMABLE] = {UNMOVABLE, MOVABLE}};

static enum migrate_type type_of(enum page_kind kind)
{
    return kind == KERNEL ? UNMOVABLE : kind == SLAB ? RECLAIMABLE : MOVABLE;
}

static int is_free(enum page_kind kind)
{
    return kind >= FREE && kind < FREE + MIGRATE_TYPES;
}

static int is_cache(enum page_kind kind)
{
    return kind == CACHE || kind == BIGFILE;
}

uint64_t buddy_random(struct buddy *z)
{
    /* xorshift64*: the same on every machine. */
    z->random ^= z->random >> 12;
    z->random ^= z->random << 25;
    z->random ^= z->random >> 27;
    return z->random * 2685821657736338717u;
}

void buddy_push(struct buddy *z, struct list *l, uint32_t page, int at_tail)
{
    uint32_t *end = at_tail ? &l->tail : &l->head, other = *end;
    (at_tail ? z->prev : z->next)[page] = other;
    (at_tail ? z->next : z->prev)[page] = BUDDY_NONE;
    if (other == BUDDY_NONE)
        l->head = l->tail = page;
    else
        (at_tail ? z->next : z->prev)[other] = page;
    *end = page;
}

void buddy_unlink(struct buddy *z, struct list *l, uint32_t page)
{
    uint32_t before = z->prev[page], after = z->next[page];
    *(before == BUDDY_NONE ? &l->head : &z->next[before]) = after;
    *(after == BUDDY_NONE ? &l->tail : &z->prev[after]) = before;
}

static struct list *list_of(struct buddy *z, uint32_t page)
{
    return is_cache(z->kind[page]) ? &z->lru : &z->owners[z->owner[page]];
}

/* `page` takes the place of `old`, whose contents moved there. */
void buddy_replace(struct buddy *z, uint32_t old, uint32_t page)
{
    struct list *l = list_of(z, old);
    uint32_t before = z->prev[old], after = z->next[old];
    z->prev[page] = before;
    z->next[page] = after;
    *(before == BUDDY_NONE ? &l->head : &z->next[before]) = page;
    *(after == BUDDY_NONE ? &l->tail : &z->prev[after]) = page;
    z->kind[page] = z->kind[old];
    z->again[page] = z->again[old];
    z->owner[page] = z->owner[old];
    z->order[page] = z->order[old];
}

static void area_add(struct buddy *z, uint32_t page, unsigned order, enum migrate_type type, int at_tail)
{
    z->kind[page] = (uint8_t)(FREE + type);
    z->order[page] = (uint8_t)order;
    z->counts[type][order]++;
    z->free += 1u << order;
    buddy_push(z, &z->areas[type][order], page, at_tail);
}

void buddy_area_drop(struct buddy *z, uint32_t page)
{
    enum migrate_type type = z->kind[page] - FREE;
    unsigned order = z->order[page];
    z->counts[type][order]--;
    z->free -= 1u << order;
    buddy_unlink(z, &z->areas[type][order], page);
    z->kind[page] = TAIL;
}

static void blocks_become(struct buddy *z, uint32_t page, unsigned order, enum migrate_type type)
{
    for (uint32_t b = page >> BUDDY_BLOCK; b <= (page + (1u << order) - 1) >> BUDDY_BLOCK; b++)
        z->block_type[b] = (uint8_t)type;
}

/* Whether the buddy one order up is free too: then this block stays where it is taken last. */
static int merge_likely(const struct buddy *z, uint32_t page, unsigned order)
{
    uint32_t up = (page & ~(1u << order)) ^ (2u << order);
    return order + 2 < BUDDY_ORDERS && up < z->pages && is_free(z->kind[up]) && z->order[up] == order + 1;
}

/* __free_one_page. The page belongs to no list. */
void buddy_give(struct buddy *z, uint32_t page, unsigned order)
{
    enum migrate_type type = z->block_type[page >> BUDDY_BLOCK];
    z->kind[page] = TAIL;
    for (; order < BUDDY_ORDERS - 1; order++) {
        uint32_t other = page ^ (1u << order);
        if (other >= z->pages || !is_free(z->kind[other]) || z->order[other] != order)
            break;
        buddy_area_drop(z, other);
        if (order >= BUDDY_BLOCK)
            blocks_become(z, other, order, type);
        page &= ~(1u << order);
    }
    area_add(z, page, order, type, merge_likely(z, page, order));
}

/* Cuts `page`, which is in no list, down to `order`; the rest goes to `type`'s lists. */
static void expand(struct buddy *z, uint32_t page, unsigned have, unsigned order, enum migrate_type type)
{
    while (have-- > order)
        area_add(z, page + (1u << have), have, type, 0);
}

static uint32_t smallest(struct buddy *z, unsigned order, enum migrate_type type)
{
    for (unsigned have = order; have < BUDDY_ORDERS; have++) {
        uint32_t page = z->areas[type][have].head;
        if (page == BUDDY_NONE)
            continue;
        buddy_area_drop(z, page);
        expand(z, page, have, order, type);
        return page;
    }
    return BUDDY_NONE;
}

static uint32_t fallback(const struct buddy *z, unsigned order, enum migrate_type type)
{
    uint32_t page = z->areas[FALLBACKS[type][0]][order].head;
    return page != BUDDY_NONE ? page : z->areas[FALLBACKS[type][1]][order].head;
}

static uint32_t block_free_and_alike(const struct buddy *z, uint32_t start, enum migrate_type type,
                                     enum migrate_type block)
{
    uint32_t unused = 0, movable = 0;
    for (uint32_t at = start; at < start + (1u << BUDDY_BLOCK); at += 1u << z->order[at]) {
        if (is_free(z->kind[at]))
            unused += 1u << z->order[at];
        else if (type_of(z->kind[at]) == MOVABLE)
            movable += 1u << z->order[at];
    }
    if (type == MOVABLE)
        return unused + movable;
    return block == MOVABLE ? (1u << BUDDY_BLOCK) - movable : unused;
}

static uint32_t claim_block(struct buddy *z, uint32_t page, unsigned order, enum migrate_type type)
{
    unsigned have = z->order[page];
    enum migrate_type block = z->kind[page] - FREE;
    uint32_t start = page & ~((1u << BUDDY_BLOCK) - 1);
    if (have >= BUDDY_BLOCK) {
        buddy_area_drop(z, page);
        blocks_become(z, page, have, type);
        z->done.claimed += 1u << (have - BUDDY_BLOCK);
        expand(z, page, have, order, type);
        return page;
    }
    if (block_free_and_alike(z, start, type, block) < 1u << (BUDDY_BLOCK - 1))
        return BUDDY_NONE;
    for (uint32_t at = start; at < start + (1u << BUDDY_BLOCK); at += 1u << z->order[at]) {
        if (!is_free(z->kind[at]))
            continue;
        unsigned size = z->order[at];
        buddy_area_drop(z, at);
        area_add(z, at, size, type, 0);
    }
    z->block_type[start >> BUDDY_BLOCK] = (uint8_t)type;
    z->done.claimed++;
    return smallest(z, order, type);
}

/* __rmqueue_claim: the largest first. A movable request leaves the small blocks of others to stealing. */
static uint32_t claim(struct buddy *z, unsigned order, enum migrate_type type)
{
    for (unsigned have = BUDDY_ORDERS; have-- > order;) {
        if (have < BUDDY_BLOCK / 2 && type == MOVABLE)
            break;
        uint32_t page = fallback(z, have, type);
        page = page == BUDDY_NONE ? page : claim_block(z, page, order, type);
        if (page != BUDDY_NONE)
            return page;
    }
    return BUDDY_NONE;
}

/* __rmqueue_steal: the smallest first; the block stays another type's. */
static uint32_t steal(struct buddy *z, unsigned order, enum migrate_type type)
{
    for (unsigned have = order; have < BUDDY_ORDERS; have++) {
        uint32_t page = fallback(z, have, type);
        if (page == BUDDY_NONE)
            continue;
        enum migrate_type block = z->kind[page] - FREE;
        buddy_area_drop(z, page);
        expand(z, page, have, order, block);
        z->done.stolen++;
        return page;
    }
    return BUDDY_NONE;
}

static uint32_t rmqueue(struct buddy *z, unsigned order, enum migrate_type type)
{
    uint32_t page = smallest(z, order, type);
    if (page == BUDDY_NONE)
        page = claim(z, order, type);
    return page == BUDDY_NONE ? steal(z, order, type) : page;
}

/* get_page_from_freelist: not below the lowest watermark. */
static uint32_t from_lists(struct buddy *z, unsigned order, enum migrate_type type)
{
    return z->free >= z->min + (1u << order) ? rmqueue(z, order, type) : BUDDY_NONE;
}

/* Frees the oldest page cache, folio by folio, until so many pages are free. What was used since begins anew. Unless
 * `all` may go, it stops at the file that is being loaded, whose pages are mapped and new. */
static void reclaim(struct buddy *z, uint32_t until, uint64_t *counter, int all)
{
    while (z->free < until && z->lru.head != BUDDY_NONE) {
        uint32_t page = z->lru.head, pages = 1u << z->order[page];
        if (!all && z->kind[page] == BIGFILE)
            return;
        if (z->again[page]) {
            z->again[page]--;
            buddy_unlink(z, &z->lru, page);
            buddy_push(z, &z->lru, page, 1);
            continue;
        }
        z->done.lost[z->kind[page]] += pages;
        *counter += pages;
        buddy_put(z, page);
    }
}

/* kswapd, woken for this order: unless it is at work already, it reclaims compact_gap pages and sleeps again. Now and then
 * kcompactd runs then, and blocks that compaction failed in are looked at again. */
static void wake_kswapd(struct buddy *z, unsigned order)
{
    if (buddy_random(z) % 1000 < AT_WORK)
        return;
    reclaim(z, z->free + (2u << order), &z->done.background, 0);
    if (++z->wakes < WAKES)
        return;
    z->wakes = 0;
    memset(z->skip, 0, z->blocks);
    buddy_kcompactd(z, order);
}

/* __alloc_pages_slowpath for a request that may fail (__GFP_NORETRY): costly orders compact first, and reclaim only where
 * that was begun. Each turn wakes kswapd. */
static uint32_t slow_path(struct buddy *z, unsigned order, enum migrate_type type, int flags)
{
    uint32_t page = BUDDY_NONE;
    z->done.stalls++;
    for (int turn = order > COSTLY ? 0 : 1; page == BUDDY_NONE && turn < 2; turn++) {
        wake_kswapd(z, order);
        page = from_lists(z, order, type);
        if (page != BUDDY_NONE)
            break;
        if (turn && z->free < z->high + (2u << order))
            reclaim(z, z->free + CLUSTER, &z->done.direct, 0);
        enum compacted result = buddy_compact(z, order, flags & BUDDY_NOFS);
        if (result <= COMPACT_DEFERRED && order > COSTLY)
            break;
        page = result == COMPACT_DONE ? from_lists(z, order, type) : BUDDY_NONE;
        if (page != BUDDY_NONE)
            buddy_served(z, order);
    }
    return page;
}

uint32_t buddy_get(struct buddy *z, unsigned order, enum page_kind kind, unsigned owner, int flags)
{
    enum migrate_type type = type_of(kind);
    z->done.tried[order]++;
    if (z->free < z->low)
        reclaim(z, z->high, &z->done.background, 1);
    uint32_t page = from_lists(z, order, type);
    if (page == BUDDY_NONE && order && flags & BUDDY_DIRECT)
        page = slow_path(z, order, type, flags);
    if (page == BUDDY_NONE && !order) {
        reclaim(z, z->min + CLUSTER, &z->done.direct, 1);
        page = z->free > z->min / 2 ? rmqueue(z, 0, type) : BUDDY_NONE;
        z->done.oom += page == BUDDY_NONE;
    }
    if (page == BUDDY_NONE) {
        z->done.failed[order]++;
        return page;
    }
    z->kind[page] = (uint8_t)kind;
    z->order[page] = (uint8_t)order;
    z->owner[page] = (uint16_t)owner;
    z->again[page] = (uint8_t)(flags >> BUDDY_AGAIN);
    buddy_push(z, list_of(z, page), page, 1);
    return page;
}

void buddy_put(struct buddy *z, uint32_t page)
{
    buddy_unlink(z, list_of(z, page), page);
    buddy_give(z, page, z->order[page]);
}

/* Up to so many pages in blocks of `order`, one page each where there are none; what it got. */
uint32_t buddy_take(struct buddy *z, unsigned order, enum page_kind kind, unsigned owner, uint32_t pages, int flags)
{
    uint32_t got = 0, singles = 0;
    while (got < pages) {
        if (!singles) {
            unsigned size = (pages - got) >> order ? order : 0;
            if (size && buddy_get(z, size, kind, owner, flags) != BUDDY_NONE) {
                got += 1u << size;
                continue;
            }
            singles = 1u << size;
        }
        if (buddy_get(z, 0, kind, owner, flags) == BUDDY_NONE)
            break;
        got++;
        singles--;
    }
    return got;
}

/* page_cache_ra_order: one window. A failed allocation leaves the rest of it to single pages. */
static uint32_t read_window(struct buddy *z, enum page_kind kind, unsigned owner, uint32_t index, uint32_t end,
                            unsigned most, int flags)
{
    uint32_t first = index;
    while (index < end) {
        unsigned order = most;
        while (order && (index & ((1u << order) - 1) || index + (1u << order) > end))
            order--;
        if (buddy_get(z, order, kind, owner, flags) == BUDDY_NONE) {
            if (!order)
                break;
            most = 0;
            continue;
        }
        index += 1u << order;
    }
    return index - first;
}

/* Reads pages from..from+pages of a file: windows of `window` pages; orders rise by two from window to window up to
 * `most`, or stand there from the first where a window holds two of them (MADV_HUGEPAGE). Pages read. */
uint32_t buddy_read(struct buddy *z, enum page_kind kind, unsigned owner, uint32_t from, uint32_t pages,
                    unsigned most, unsigned window, int flags)
{
    uint32_t at = from, end = from + pages;
    while (at < end) {
        uint32_t stop = at - at % window + window, number = at / window * 2;
        unsigned order = window >= 2u << most || number > most ? most : number;
        uint32_t got = read_window(z, kind, owner, at, stop < end ? stop : end, order, flags);
        at += got;
        if (at < end && at < stop)
            break;
    }
    return at - from;
}

/* Frees what an owner has outside of the page cache: each block with this chance in a thousand. Pages freed. */
uint32_t buddy_drop(struct buddy *z, unsigned owner, unsigned per_mille)
{
    uint32_t had = z->free;
    for (uint32_t page = z->owners[owner].head, after; page != BUDDY_NONE; page = after) {
        after = z->next[page];
        if (per_mille >= 1000 || buddy_random(z) % 1000 < per_mille)
            buddy_put(z, page);
    }
    return z->free - had;
}

/* Drops an owner's page cache, as when its file is deleted. */
void buddy_forget(struct buddy *z, enum page_kind kind, unsigned owner)
{
    for (uint32_t page = z->lru.head, after; page != BUDDY_NONE; page = after) {
        after = z->next[page];
        if (z->kind[page] == kind && z->owner[page] == owner)
            buddy_put(z, page);
    }
}

/* Takes exactly this block, which must be free. 0, or -1 where it is not. */
int buddy_pin(struct buddy *z, uint32_t page, unsigned order, enum page_kind kind, unsigned owner)
{
    unsigned have = order;
    uint32_t head = page;
    for (; have < BUDDY_ORDERS; have++) {
        head = page & ~((1u << have) - 1);
        if (is_free(z->kind[head]) && z->order[head] >= have)
            break;
    }
    if (have == BUDDY_ORDERS)
        return -1;
    have = z->order[head];
    enum migrate_type type = z->kind[head] - FREE;
    buddy_area_drop(z, head);
    while (have-- > order) {
        uint32_t upper = head + (1u << have);
        area_add(z, page >= upper ? head : upper, have, type, 0);
        head = page >= upper ? upper : head;
    }
    z->kind[page] = (uint8_t)kind;
    z->order[page] = (uint8_t)order;
    z->owner[page] = (uint16_t)owner;
    z->again[page] = 0;
    buddy_push(z, list_of(z, page), page, 1);
    return 0;
}

static uint32_t root(uint64_t value)
{
    uint64_t r = 0;
    for (uint64_t bit = 1u << 31; bit; bit >>= 1)
        if ((r + bit) * (r + bit) <= value)
            r += bit;
    return (uint32_t)r;
}

/* calculate_min_free_kbytes, set_recommended_min_free_kbytes for one zone, __setup_per_zone_wmarks. */
static void set_watermarks(struct buddy *z)
{
    uint32_t min = root((uint64_t)z->pages * 4 * 16) / 4, huge = (1u << BUDDY_BLOCK) * 11, scale = z->pages / 1000;
    min = min < huge ? huge : min;
    z->min = min < z->pages / 20 ? min : z->pages / 20;
    scale = scale < z->min / 4 ? z->min / 4 : scale;
    z->low = z->min + scale;
    z->high = z->low + scale;
}

struct buddy *buddy_new(uint32_t pages, uint64_t seed)
{
    struct buddy *z = calloc(1, sizeof *z);
    if (!z)
        return NULL;
    z->pages = pages;
    z->blocks = pages >> BUDDY_BLOCK;
    z->random = (seed * 2 + 1) * 0x9e3779b97f4a7c15u;
    z->next = calloc(pages, sizeof *z->next);
    z->prev = calloc(pages, sizeof *z->prev);
    z->owner = calloc(pages, sizeof *z->owner);
    z->order = calloc(pages, 1);
    z->kind = calloc(pages, 1);
    z->again = calloc(pages, 1);
    z->block_type = calloc(z->blocks, 1);
    z->skip = calloc(z->blocks, 1);
    if (!z->next || !z->prev || !z->owner || !z->order || !z->kind || !z->again || !z->block_type || !z->skip) {
        buddy_free(z);
        return NULL;
    }
    memset(&z->lru, 0xff, sizeof z->lru);
    memset(z->areas, 0xff, sizeof z->areas);
    memset(z->owners, 0xff, sizeof z->owners);
    memset(z->stock, 0xff, sizeof z->stock);
    memset(z->block_type, MOVABLE, z->blocks);
    for (uint32_t page = 0; page < pages; page += 1u << (BUDDY_ORDERS - 1))
        area_add(z, page, BUDDY_ORDERS - 1, MOVABLE, 1);
    z->target = pages;
    set_watermarks(z);
    return z;
}

/* A copy that goes its own way; NULL without memory. */
struct buddy *buddy_copy(const struct buddy *z)
{
    struct buddy *copy = buddy_new(z->pages, 0), own;
    size_t pages = z->pages;
    if (!copy)
        return NULL;
    own = *copy;
    *copy = *z;
    copy->next = memcpy(own.next, z->next, sizeof *z->next * pages);
    copy->prev = memcpy(own.prev, z->prev, sizeof *z->prev * pages);
    copy->owner = memcpy(own.owner, z->owner, sizeof *z->owner * pages);
    copy->order = memcpy(own.order, z->order, pages);
    copy->kind = memcpy(own.kind, z->kind, pages);
    copy->again = memcpy(own.again, z->again, pages);
    copy->block_type = memcpy(own.block_type, z->block_type, z->blocks);
    copy->skip = memcpy(own.skip, z->skip, z->blocks);
    return copy;
}

void buddy_free(struct buddy *z)
{
    if (!z)
        return;
    free(z->next);
    free(z->prev);
    free(z->owner);
    free(z->order);
    free(z->kind);
    free(z->again);
    free(z->block_type);
    free(z->skip);
    free(z);
}
