/* buddy_compact: compaction (buddy.h). One scanner goes up and empties blocks, the other comes down and collects free
 * pages for what is moved; where they meet, the pass is over. */
#include "buddy.h"

#include <string.h>

#define CLUSTER 32 /* COMPACT_CLUSTER_MAX */
#define COSTLY 3   /* PAGE_ALLOC_COSTLY_ORDER */
#define MOST_DEFERRED 6 /* COMPACT_MAX_DEFER_SHIFT */
#define CONTENDED 10 /* in a thousand, for each page block. Measured */

/* PB_migrate_skip, apart for the two scanners. */
enum { NO_SOURCE = 1, NO_TARGET = 2 };

static int is_free(enum page_kind kind)
{
    return kind >= FREE && kind < FREE + MIGRATE_TYPES;
}

static int may_move(enum page_kind kind, int nofs)
{
    return kind == ANON || (!nofs && (kind == CACHE || kind == BIGFILE));
}

/* The free pages of the page block at `start` become stock, kept by size. A block that is free as a whole stays. */
static void collect(struct buddy *z, uint32_t start)
{
    uint8_t *skip = &z->skip[start >> BUDDY_BLOCK];
    if (*skip & NO_TARGET || z->block_type[start >> BUDDY_BLOCK] != MOVABLE || z->kind[start] == TAIL)
        return;
    *skip |= NO_TARGET;
    for (uint32_t at = start, size; at < start + (1u << BUDDY_BLOCK); at += size) {
        size = 1u << z->order[at];
        z->done.scanned++;
        if (!is_free(z->kind[at]) || z->order[at] >= BUDDY_BLOCK)
            continue;
        buddy_area_drop(z, at);
        z->kind[at] = HELD;
        buddy_push(z, &z->stock[z->order[at]], at, 1);
    }
}

static uint32_t from_stock(struct buddy *z, unsigned order)
{
    for (unsigned have = order; have < BUDDY_BLOCK; have++) {
        uint32_t page = z->stock[have].head;
        if (page == BUDDY_NONE)
            continue;
        buddy_unlink(z, &z->stock[have], page);
        while (have-- > order) {
            uint32_t upper = page + (1u << have);
            z->kind[upper] = HELD;
            z->order[upper] = (uint8_t)have;
            buddy_push(z, &z->stock[have], upper, 0);
        }
        return page;
    }
    return BUDDY_NONE;
}

static void release_stock(struct buddy *z)
{
    for (unsigned order = 0; order < BUDDY_BLOCK; order++)
        while (z->stock[order].head != BUDDY_NONE) {
            uint32_t page = z->stock[order].head, end = (page | ((1u << BUDDY_BLOCK) - 1)) + 1;
            buddy_unlink(z, &z->stock[order], page);
            buddy_give(z, page, order);
            /* What was not used is found again. */
            z->target = z->target < end ? end : z->target;
            z->skip[page >> BUDDY_BLOCK] &= (uint8_t)~NO_TARGET;
        }
}

/* A place for 2^order pages above the block that is being emptied. */
static uint32_t place_for(struct buddy *z, unsigned order)
{
    uint32_t above = (z->migrate | ((1u << BUDDY_BLOCK) - 1)) + 1;
    for (;;) {
        uint32_t page = from_stock(z, order);
        if (page != BUDDY_NONE || z->target <= above)
            return page;
        do
            z->target -= 1u << BUDDY_BLOCK;
        while (z->target > above && z->skip[z->target >> BUDDY_BLOCK] & NO_TARGET);
        collect(z, z->target);
    }
}

/* A folio for which no place of its size is left moves as single pages. */
static void split(struct buddy *z, uint32_t page)
{
    unsigned order = z->order[page];
    enum page_kind kind = z->kind[page];
    struct list *l = kind == ANON ? &z->owners[z->owner[page]] : &z->lru;
    z->order[page] = 0;
    for (uint32_t at = page + 1; at < page + (1u << order); at++) {
        uint32_t after = z->next[at - 1];
        z->kind[at] = (uint8_t)kind;
        z->order[at] = 0;
        z->owner[at] = z->owner[page];
        z->again[at] = z->again[page];
        z->prev[at] = at - 1;
        z->next[at] = after;
        *(after == BUDDY_NONE ? &l->tail : &z->prev[after]) = at;
        z->next[at - 1] = at;
    }
}

static int move(struct buddy *z, uint32_t page, uint32_t to)
{
    unsigned order = z->order[page];
    buddy_replace(z, page, to);
    buddy_give(z, page, order);
    z->done.moved += 1u << order;
    return 0;
}

/* The folio at `page`, as one where there is room, else page by page. -1: there is no room for all of it. */
static int move_all(struct buddy *z, uint32_t page)
{
    uint32_t size = 1u << z->order[page], to = place_for(z, z->order[page]);
    if (to != BUDDY_NONE)
        return move(z, page, to);
    if (size > 1)
        split(z, page);
    for (uint32_t at = page; at < page + size; at++) {
        to = size > 1 ? place_for(z, 0) : BUDDY_NONE;
        if (to == BUDDY_NONE)
            return -1;
        move(z, at, to);
    }
    return 0;
}

/* Moves what can move out of start..start+size. `whole`: ends at the first page that cannot, in clusters of 32 as
 * direct compaction isolates them, so that what came before the cluster has moved in vain. 0, or -1. */
static int empty(struct buddy *z, uint32_t start, uint32_t size, int nofs, int whole)
{
    uint32_t cluster[CLUSTER], count = 0, pages = 0, at = start;
    while (at < start + size || count) {
        int full = pages >= CLUSTER || at >= start + size;
        if (!full) {
            /* Of a page that was given back, the free block around it may reach further than itself. */
            if (z->kind[at] == TAIL) {
                at++;
                continue;
            }
            z->done.scanned++;
            if (may_move(z->kind[at], nofs) && 1u << z->order[at] < 1u << BUDDY_BLOCK) {
                cluster[count++] = at;
                pages += 1u << z->order[at];
            } else if (whole && !is_free(z->kind[at])) {
                return -1;
            }
            at += 1u << z->order[at];
            continue;
        }
        for (uint32_t i = 0; i < count; i++)
            if (move_all(z, cluster[i]))
                return -1;
        count = pages = 0;
    }
    return 0;
}

static int has_free(const struct buddy *z, unsigned order)
{
    for (unsigned have = order; have < BUDDY_ORDERS; have++)
        for (unsigned type = 0; type < MIGRATE_TYPES; type++)
            if (z->counts[type][have])
                return 1;
    return 0;
}

static void begin_anew(struct buddy *z)
{
    z->migrate = 0;
    z->target = z->pages;
}

/* fast_find_migrateblock: a page block below the middle (later, an eighth) of what lies between the scanners, with a
 * large free piece. How many pieces are looked at halves with each failure (freelist_scan_limit). */
static uint32_t block_with_pieces(struct buddy *z, unsigned order, unsigned *failures)
{
    uint32_t reach = (z->target - z->migrate) >> (z->migrate ? 3 : 1), seen = 0;
    uint32_t limit = (CLUSTER >> (*failures < 6 ? *failures : 6)) + 1;
    for (unsigned have = order; have-- > COSTLY && seen < limit;) {
        struct list *l = &z->areas[MOVABLE][have];
        for (uint32_t page = l->head, next; page != BUDDY_NONE && seen < limit; page = next) {
            next = z->next[page];
            seen++;
            if (page >= z->migrate + reach || z->skip[page >> BUDDY_BLOCK] & NO_SOURCE)
                continue;
            buddy_unlink(z, l, page);
            buddy_push(z, l, page, 1);
            *failures = 0;
            return page >> BUDDY_BLOCK;
        }
    }
    ++*failures;
    return BUDDY_NONE;
}

/* The next page block to be emptied, or BUDDY_NONE when the scanners meet. `any`: of whatever type. */
static uint32_t source(struct buddy *z, unsigned order, int any, unsigned *failures)
{
    uint32_t block = order > COSTLY ? block_with_pieces(z, order, failures) : BUDDY_NONE;
    while (block == BUDDY_NONE && z->migrate + (1u << BUDDY_BLOCK) <= z->target) {
        uint32_t start = z->migrate, its = start >> BUDDY_BLOCK;
        z->migrate += 1u << BUDDY_BLOCK;
        if (!(z->skip[its] & NO_SOURCE) && (any || z->block_type[its] == MOVABLE) && z->kind[start] != TAIL &&
            z->order[start] < BUDDY_BLOCK)
            block = its;
    }
    if (block != BUDDY_NONE)
        z->skip[block] |= NO_SOURCE;
    return block;
}

/* compaction_deferred: after each pass of kcompactd in vain, twice as many requests go without compaction, up to 63. */
static int deferred(struct buddy *z, unsigned order)
{
    if (order < z->failed_order)
        return 0;
    if (++z->considered < 1u << z->shift)
        return 1;
    z->considered = 1u << z->shift;
    return 0;
}

/* defer_compaction. */
static void defer(struct buddy *z, unsigned order)
{
    z->considered = 0;
    z->shift += z->shift < MOST_DEFERRED;
    z->failed_order = order < z->failed_order ? order : z->failed_order;
}

/* compaction_defer_reset: a request for `order` was met after compaction. */
void buddy_served(struct buddy *z, unsigned order)
{
    z->considered = z->shift = 0;
    z->failed_order = order >= z->failed_order ? order + 1 : z->failed_order;
}

/* compact_zone, asynchronous, for one block of `order`: movable page blocks, each left at the first page that cannot be
 * moved and skipped from then on. It gives up where others hold a lock that it wants (COMPACT_CONTENDED): CONTENDED. */
enum compacted buddy_compact(struct buddy *z, unsigned order, int nofs)
{
    uint32_t size = order < BUDDY_BLOCK ? 1u << order : 1u << BUDDY_BLOCK, block = 0;
    unsigned failures = 0;
    if (deferred(z, order))
        return COMPACT_DEFERRED;
    if (z->free < z->low + (2u << order)) {
        z->done.skipped++;
        return COMPACT_SKIPPED;
    }
    z->done.runs++;
    do {
        block = source(z, order, 0, &failures);
        for (uint32_t part = 0; block != BUDDY_NONE && part < 1u << BUDDY_BLOCK; part += size)
            empty(z, (block << BUDDY_BLOCK) + part, size, nofs, 1);
    } while (!has_free(z, order) && block != BUDDY_NONE && buddy_random(z) % 1000 >= CONTENDED);
    if (block == BUDDY_NONE)
        begin_anew(z);
    release_stock(z);
    return has_free(z, order) ? COMPACT_DONE : COMPACT_FAILED;
}

/* kcompactd: all that is movable, in page blocks of every type, until there is a block of `order`. */
void buddy_kcompactd(struct buddy *z, unsigned order)
{
    unsigned failures = 0;
    uint32_t block = 0;
    if (deferred(z, order))
        return;
    while (!has_free(z, order) && block != BUDDY_NONE) {
        block = source(z, order, 1, &failures);
        if (block != BUDDY_NONE && empty(z, block << BUDDY_BLOCK, 1u << BUDDY_BLOCK, 0, 0))
            block = BUDDY_NONE;
    }
    if (block == BUDDY_NONE)
        begin_anew(z);
    release_stock(z);
    if (!has_free(z, order))
        defer(z, order);
    else if (order >= z->failed_order)
        z->failed_order = order + 1;
}

/* compact_memory: everything that can move, whatever lies beside it, from the bottom to the top. */
void buddy_compact_all(struct buddy *z)
{
    begin_anew(z);
    z->done.runs++;
    for (; z->migrate + (1u << BUDDY_BLOCK) <= z->target; z->migrate += 1u << BUDDY_BLOCK)
        if (z->kind[z->migrate] != TAIL && z->order[z->migrate] < BUDDY_BLOCK &&
            empty(z, z->migrate, 1u << BUDDY_BLOCK, 0, 0))
            break;
    begin_anew(z);
    memset(z->skip, 0, z->blocks);
    release_stock(z);
}
