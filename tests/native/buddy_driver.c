/* buddy_driver: a random course of requests, and after every few of them the invariants of the zone's arrays. */
#include <stdio.h>
#include <stdlib.h>

#include "buddy.h"

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
            exit(1); \
        } \
    } while (0)
#define OWNERS 32

static uint64_t state = 88172645463325252u;

static unsigned below(unsigned limit)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % limit;
}

/* Pages of a list whose links agree in both directions. */
static uint32_t linked(const struct buddy *z, const struct list *l)
{
    uint32_t pages = 0, before = BUDDY_NONE;
    for (uint32_t page = l->head; page != BUDDY_NONE; before = page, page = z->next[page]) {
        CHECK(z->prev[page] == before);
        pages += 1u << z->order[page];
    }
    CHECK(l->tail == before);
    return pages;
}

/* Every block is aligned, nothing lies inside of another, and a free one is of its page block's type. */
static void check_blocks(const struct buddy *z)
{
    uint32_t unused = 0, at = 0;
    for (; at < z->pages; at += 1u << z->order[at]) {
        CHECK(z->kind[at] != TAIL && !(at & ((1u << z->order[at]) - 1)));
        for (uint32_t inside = at + 1; inside < at + (1u << z->order[at]); inside++)
            CHECK(z->kind[inside] == TAIL);
        if (z->kind[at] >= KERNEL)
            continue;
        unused += 1u << z->order[at];
        CHECK(z->block_type[at >> BUDDY_BLOCK] == z->kind[at] - FREE);
    }
    CHECK(at == z->pages && unused == z->free);
}

static void check_lists(const struct buddy *z)
{
    uint32_t used = linked(z, &z->lru), unused = 0;
    for (int owner = 0; owner < OWNERS; owner++)
        used += linked(z, &z->owners[owner]);
    for (int type = 0; type < MIGRATE_TYPES; type++)
        for (int order = 0; order < BUDDY_ORDERS; order++) {
            uint32_t pages = linked(z, &z->areas[type][order]);
            CHECK(pages == z->counts[type][order] << order);
            unused += pages;
        }
    for (int order = 0; order < BUDDY_ORDERS; order++)
        CHECK(z->stock[order].head == BUDDY_NONE);
    CHECK(unused == z->free && used + unused == z->pages);
}

static struct buddy *step(struct buddy *z)
{
    unsigned order = below(10);
    struct buddy *copy;
    switch (below(10)) {
    case 0:
    case 1:
        buddy_take(z, below(4), below(2) ? KERNEL : SLAB, below(8), below(30), 0);
        break;
    case 2:
    case 3:
        buddy_take(z, below(2) ? 9 : below(6), ANON, 8 + below(8), below(1500), BUDDY_DIRECT);
        break;
    case 4:
    case 5:
        buddy_read(z, CACHE, 20, below(100), below(3000), below(2) ? 5 : 9, below(2) ? 32 : 1024,
                   BUDDY_DIRECT | BUDDY_NOFS | (int)below(3) << BUDDY_AGAIN);
        break;
    case 6:
        buddy_read(z, BIGFILE, 21, 0, below(3000), 9, 1024, BUDDY_DIRECT | BUDDY_NOFS);
        break;
    case 7:
        buddy_pin(z, below(z->pages) & ~((1u << order) - 1), order, HELD, 22);
        break;
    case 8:
        if (!below(10))
            buddy_compact_all(z);
        else if (!below(10))
            buddy_forget(z, BIGFILE, 21);
        else if (!below(20) && (copy = buddy_copy(z))) {
            buddy_free(z);
            z = copy;
        }
        break;
    default:
        buddy_drop(z, below(24), below(2) ? 1000 : 400);
    }
    return z;
}

/* Flags of all kinds, in no order: what cannot be is single pages, and nothing is lost. */
static void lay(struct buddy *z)
{
    static const unsigned kinds[] = {2, 5, 6, 7, 10, 12, 14, 15, 16, 16, 16, 17, 20, 32};
    uint64_t *flags = calloc(z->pages, sizeof *flags);
    CHECK(flags);
    for (uint32_t at = 0; at < z->pages; at++)
        for (unsigned bits = below(4); bits; bits--)
            flags[at] |= (uint64_t)1 << kinds[below(sizeof kinds / sizeof *kinds)];
    flags[z->pages - 1] |= 1u << 15;
    buddy_map(z, flags, z->pages - 700, 30, 31);
    free(flags);
    buddy_drop(z, 30, 1000);
    check_blocks(z);
    check_lists(z);
    buddy_read(z, BIGFILE, 21, 0, 3000, 9, 1024, BUDDY_DIRECT | BUDDY_NOFS);
    check_lists(z);
}

int main(void)
{
    for (int course = 0; course < 4; course++) {
        struct buddy *z = buddy_new(1024 * 12, (uint64_t)course);
        CHECK(z);
        for (int i = 0; i < 1500; i++) {
            z = step(z);
            if (i % 10 == 0) {
                check_blocks(z);
                check_lists(z);
            }
        }
        /* A course in which these never happened would show nothing. */
        CHECK(z->done.moved && z->done.claimed && z->done.stolen && z->done.background);
        buddy_free(z);
        z = buddy_new(1024 * 12, (uint64_t)course);
        CHECK(z);
        lay(z);
        buddy_free(z);
    }
    return 0;
}
