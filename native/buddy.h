/* buddy: a model of one memory zone: free lists by order and migrate type, page blocks, fallback, watermarks, reclaim
 * of clean page cache, compaction. It models; it touches no memory but its own arrays.
 *
 * Rules: mm/page_alloc.c of Linux 6.12 to 7.2 (__rmqueue_smallest, __rmqueue_claim, __rmqueue_steal,
 * try_to_claim_block, __free_one_page), mm/compaction.c (the migrate scanner goes up, the free scanner down),
 * mm/vmscan.c (kswapd), mm/readahead.c (page_cache_ra_order). */
#ifndef ELFOLIO_BUDDY_H
#define ELFOLIO_BUDDY_H

#include <stdint.h>

#define BUDDY_ORDERS 11
#define BUDDY_BLOCK 9 /* pageblock_order with huge pages of 2 MiB */
#define BUDDY_OWNERS 65536
#define BUDDY_NONE UINT32_MAX

enum migrate_type { UNMOVABLE, MOVABLE, RECLAIMABLE, MIGRATE_TYPES };

/* What the first page of a block is; all others of it are TAIL. Free ones: FREE + the list's migrate type. */
enum page_kind { TAIL, FREE, KERNEL = FREE + MIGRATE_TYPES, SLAB, ANON, CACHE, BIGFILE, HELD, PAGE_KINDS };

/* May reclaim and compact for this order, as page-cache readahead does; for a file system (memalloc_nofs_save in
 * page_cache_ra_order), whose compaction leaves all page cache where it is (isolate_migratepages_block); and from bit 2
 * on, how often the page cache is used again before it is reclaimed. */
enum { BUDDY_DIRECT = 1, BUDDY_NOFS = 2, BUDDY_AGAIN = 2, BUDDY_MOST_AGAIN = 7 };

enum compacted { COMPACT_SKIPPED, COMPACT_DEFERRED, COMPACT_FAILED, COMPACT_DONE };

struct list {
    uint32_t head, tail;
};

/* All counts in pages, unless named otherwise. */
struct buddy_counts {
    uint64_t background, direct; /* reclaimed by kswapd; by the allocation itself */
    uint64_t moved, scanned;     /* by compaction */
    uint64_t stalls, runs, skipped; /* slow paths taken; compactions begun; not begun for want of free pages */
    uint64_t claimed, stolen;    /* page blocks taken over; allocations from another type's block */
    uint64_t oom;
    uint64_t tried[BUDDY_ORDERS], failed[BUDDY_ORDERS];
    uint64_t lost[PAGE_KINDS];   /* reclaimed, by kind */
};

struct buddy {
    uint32_t pages, blocks, free, min, low, high;
    uint32_t migrate, target;    /* where compaction's two scanners stand */
    uint32_t wakes;              /* of kswapd, since kcompactd last ran */
    uint32_t considered, shift, failed_order; /* compact_considered, compact_defer_shift, compact_order_failed */
    uint64_t random;
    uint32_t *next, *prev;       /* by page number: of its free list, owner or the page cache */
    uint16_t *owner;
    uint8_t *order, *kind, *again, *block_type;
    uint8_t *skip;               /* by page block: compaction failed there (PB_migrate_skip) */
    struct list areas[MIGRATE_TYPES][BUDDY_ORDERS], lru, owners[BUDDY_OWNERS], stock[BUDDY_ORDERS];
    uint32_t counts[MIGRATE_TYPES][BUDDY_ORDERS];
    struct buddy_counts done;
};

struct buddy *buddy_new(uint32_t pages, uint64_t seed);
struct buddy *buddy_copy(const struct buddy *z);
void buddy_free(struct buddy *z);
uint32_t buddy_get(struct buddy *z, unsigned order, enum page_kind kind, unsigned owner, int flags);
void buddy_put(struct buddy *z, uint32_t page);
uint32_t buddy_take(struct buddy *z, unsigned order, enum page_kind kind, unsigned owner, uint32_t pages, int flags);
uint32_t buddy_read(struct buddy *z, enum page_kind kind, unsigned owner, uint32_t from, uint32_t pages,
                    unsigned most, unsigned window, int flags);
uint32_t buddy_drop(struct buddy *z, unsigned owner, unsigned per_mille);
void buddy_forget(struct buddy *z, enum page_kind kind, unsigned owner);
int buddy_pin(struct buddy *z, uint32_t page, unsigned order, enum page_kind kind, unsigned owner);
enum compacted buddy_compact(struct buddy *z, unsigned order, int nofs);
void buddy_kcompactd(struct buddy *z, unsigned order);
void buddy_served(struct buddy *z, unsigned order);
void buddy_compact_all(struct buddy *z);
uint64_t buddy_random(struct buddy *z);
void buddy_map(struct buddy *z, const uint64_t *flags, uint32_t count, unsigned unused, unsigned used);

/* For buddy_compact.c alone. */
void buddy_area_drop(struct buddy *z, uint32_t page);
void buddy_give(struct buddy *z, uint32_t page, unsigned order);
void buddy_replace(struct buddy *z, uint32_t old, uint32_t page);
void buddy_push(struct buddy *z, struct list *l, uint32_t page, int at_tail);
void buddy_unlink(struct buddy *z, struct list *l, uint32_t page);

#endif
