/* buddy_compact: compaction (buddy.h). One scanner goes up and empties blocks, the other comes down and collects free
 * pages for what is moved; where they meet, the pass is over. */
#include "buddy.h"

static int is_free(enum page_kind kind)
{
    return kind >= FREE && kind < FREE + MIGRATE_TYPES;
}

static int may_move(enum page_kind kind)
{
    return kind == ANON || kind == CACHE || kind == BIGFILE;
}

/* The free pages of the page block at `start` become stock, kept by size. A block that is free as a whole stays. */
static void collect(struct buddy *z, uint32_t start)
{
    if (z->block_type[start >> BUDDY_BLOCK] != MOVABLE || z->kind[start] == TAIL)
        return;
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
            uint32_t page = z->stock[order].head;
            buddy_unlink(z, &z->stock[order], page);
            buddy_give(z, page, order);
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
        z->target -= 1u << BUDDY_BLOCK;
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

static int move(struct buddy *z, uint32_t page)
{
    uint32_t to = place_for(z, z->order[page]);
    if (to == BUDDY_NONE && z->order[page]) {
        split(z, page);
        to = place_for(z, 0);
    }
    if (to == BUDDY_NONE)
        return -1;
    unsigned order = z->order[page];
    buddy_replace(z, page, to);
    buddy_give(z, page, order);
    z->done.moved += 1u << order;
    return 0;
}

/* Whether these pages can all be freed by moving: direct compaction leaves a range at the first that cannot be. */
static int all_move(struct buddy *z, uint32_t start, uint32_t size)
{
    uint32_t movable = 0;
    for (uint32_t at = start; at < start + size; at += 1u << z->order[at]) {
        z->done.scanned++;
        if (z->kind[at] == TAIL || (1u << z->order[at] >= size))
            return 0;
        if (may_move(z->kind[at]))
            movable++;
        else if (!is_free(z->kind[at]))
            return 0;
    }
    return movable > 0;
}

static int empty(struct buddy *z, uint32_t start, uint32_t size)
{
    for (uint32_t at = start; at < start + size;) {
        /* Of a page that was given back, the free block around it may reach further than itself. */
        if (z->kind[at] == TAIL) {
            at++;
            continue;
        }
        uint32_t next = at + (1u << z->order[at]);
        if (may_move(z->kind[at])) {
            if (move(z, at))
                return -1;
            /* Split, it was one page that moved. */
            if (next > at + 1 && z->kind[at + 1] != TAIL)
                next = at + 1;
        }
        at = next;
    }
    return 0;
}

/* Asynchronous direct compaction for one block of `order`: 1 if there is one now. */
int buddy_compact(struct buddy *z, unsigned order)
{
    uint32_t size = 1u << order;
    int found = 0;
    z->done.runs++;
    z->migrate &= ~(size - 1);
    for (; !found && z->migrate + size <= z->target; z->migrate += size)
        if (z->block_type[z->migrate >> BUDDY_BLOCK] == MOVABLE && all_move(z, z->migrate, size))
            found = !empty(z, z->migrate, size);
    if (!found) {
        z->migrate = 0;
        z->target = z->pages;
    }
    release_stock(z);
    return found;
}

/* compact_memory: everything that can move, whatever lies beside it, from the bottom to the top. */
void buddy_compact_all(struct buddy *z)
{
    z->migrate = 0;
    z->target = z->pages;
    z->done.runs++;
    for (; z->migrate + (1u << BUDDY_BLOCK) <= z->target; z->migrate += 1u << BUDDY_BLOCK)
        if (z->kind[z->migrate] != TAIL && z->order[z->migrate] < BUDDY_BLOCK &&
            empty(z, z->migrate, 1u << BUDDY_BLOCK))
            break;
    z->migrate = 0;
    z->target = z->pages;
    z->shift = z->considered = 0;
    release_stock(z);
}
