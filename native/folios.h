/* folios: which folios stand behind pages of an address space, or behind a file's pages in the page cache.
 *
 * In: pagemap of a process; kpageflags and kpagecount, where the caller may read them.
 * Out: runs of neighbouring pages with equal folios, or sums over them.
 *
 * Sources: Documentation/admin-guide/mm/pagemap.rst; include/uapi/linux/kernel-page-flags.h; include/uapi/linux/fs.h.
 */
#ifndef ELFOLIO_FOLIOS_H
#define ELFOLIO_FOLIOS_H

#include <stddef.h>
#include <stdint.h>

/* What is known of a page. The numbers are those of kernel/folio.py. */
enum folio_kind {
    FOLIO_FILE = 1 << 0,
    FOLIO_ANON = 1 << 1,
    FOLIO_SHMEM = 1 << 2, /* beside FILE: tmpfs, memfd, shared anonymous memory */
    FOLIO_ZERO = 1 << 3,
    FOLIO_SWAPPED = 1 << 4,
    FOLIO_KSM = 1 << 5,
    FOLIO_DIRTY = 1 << 6,
    FOLIO_WRITEBACK = 1 << 7,
    FOLIO_PMD = 1 << 8,
    FOLIO_CONTPTE = 1 << 9,
    FOLIO_SHARED = 1 << 10,
    FOLIO_HUGETLB = 1 << 11,
};

#define FOLIO_UNSEEN (-1)

struct folio_run {
    int64_t start, pages;
    int32_t order; /* FOLIO_UNSEEN where it cannot be told */
    uint32_t kind;
    int64_t folios; /* that begin to be seen in it: a folio whose pages fall into several runs counts in the first */
};

struct folio_sum {
    int64_t pages, folios;
    int32_t order;
    uint32_t kind;
    uint64_t share; /* bytes << 12, each page's divided by how often it is mapped, as Pss is; 0 where it is hidden */
};

#define FOLIO_BATCH 65536 /* pages that are looked at in one go: it bounds the memory: 3 MiB */
#define FOLIO_SUMS 2048   /* slots; kinds and orders that occur together are some dozens */

struct frames;      /* folio_frames.c */
struct frame_cache; /* folio_cache.c */

struct folios {
    int pagemap;
    int flags, counts; /* kpageflags and kpagecount; -1 where they may not be read */
    struct frame_cache *cache; /* the caller's, of kpageflags; or NULL */
    int dense;         /* so many frames of this batch are asked for that the cache pays */
    uint64_t page;     /* bytes */
    unsigned pmd;      /* pages that a PMD maps */
    unsigned cont;     /* pages of a contiguous run of PTEs; 0: the machine has none */
    int64_t shift;     /* added to the page numbers of an address space: it makes them those of a file */
    uint64_t last;     /* the first frame of the folio seen last, so that it counts once */
    int has_scan;      /* PAGEMAP_SCAN: 6.7 */
    int of_file;       /* what a folio's pages differ in is said of the folio; how this process maps it is left out */
    int hidden;        /* a page without its frame's number was met */

    struct folio_run *runs;
    size_t run_count, run_room;
    struct folio_sum *sums; /* FOLIO_SUMS, by hash; pages == 0: free. NULL: runs are wanted */

    /* Of one batch: */
    struct frames *frames;
    uint64_t *entry; /* of pagemap */
    uint64_t *flag;  /* of kpageflags */
    uint64_t *count; /* of kpagecount */
    uint8_t *mark;   /* FOLIO_MARK_..., of PAGEMAP_SCAN */
    uint8_t *wanted;
};

enum { FOLIO_MARK_PMD = 1, FOLIO_MARK_ZERO = 2 };

/* 0 or an errno. The descriptors stay the caller's. */
int folios_begin(struct folios *f, int pagemap, int flags, int counts, unsigned pmd, unsigned cont, int summing);
void folios_end(struct folios *f);

/* Looks at pages of the address space, by page number. 0 or an errno. */
int folios_pages(struct folios *f, uint64_t first, uint64_t pages);

/* Adds pages; share is in bytes << 12 for all of them. 0, ENOMEM, or E2BIG where the sums have no room. */
int folios_add(struct folios *f, struct folio_run run, uint64_t share);

/* Looks at the cached pages of a file, by page number in it, at most FOLIO_BATCH of them. It maps them for a moment,
 * touches none that mincore calls absent, and leaves no reference to those that it touches. `pagemap` must be this
 * process's own; without it (-1) orders are unseen, and nothing is touched. *cached: how many are. 0 or an errno; ENODEV for what cannot be mapped. */
int folios_of_file(struct folios *f, int fd, uint64_t first, uint64_t pages, uint64_t *cached);

/* Whether mincore answers truthfully: others than the file's owner and those who may write to it are told that all is
 * cached (can_do_mincore, mm/mincore.c). So it is asked of a place far behind the file's end. 1, 0 or -errno. */
int folios_truthful(int fd, uint64_t size);

struct cache_stat {
    uint64_t cached, dirty, writeback, evicted, recently_evicted; /* pages */
};

/* cachestat(2), from 6.5. 0 or an errno. */
int cache_stat(int fd, uint64_t start, uint64_t length, struct cache_stat *out);

/* The parts. Each gives 0 or an errno; n is at most FOLIO_BATCH. */

/* Reads pagemap's entries and PAGEMAP_SCAN's marks of *n pages, less where the address space ends. */
int folios_read_entries(struct folios *f, uint64_t first, size_t *n);
int folios_read_marks(struct folios *f, uint64_t first, size_t n);
/* The next pages between *first and `end` that are there or swapped, a batch at most. *n == 0: none. */
int folios_next(struct folios *f, uint64_t *first, uint64_t end, size_t *n);
/* Looks at the frames of the entries read, and adds what they tell. */
int folios_walk(struct folios *f, uint64_t first, size_t n);

struct frames *frames_new(void);
void frames_free(struct frames *frames);
/* For every i below n with wanted[i] nonzero: out[i], the word of frame number entry[i] in kpageflags or kpagecount. */
int frames_read(struct frames *frames, int fd, const uint64_t *entry, const uint8_t *wanted, size_t n, uint64_t *out);
/* Words of n frames from `first`, in *got; fewer where memory ends. 0 or an errno. */
int frame_words(int fd, uint64_t first, size_t n, uint64_t *words, size_t *got);
/* The word of one frame; 0 where there is none. */
uint64_t frame_word(int fd, uint64_t frame);

/* NULL: no memory, or more frames than it is for. */
struct frame_cache *frame_cache_new(void);
void frame_cache_free(struct frame_cache *cache);
/* The lower half of a frame's word in kpageflags, which may be as old as the cache. 0 or an errno. */
int frame_cached(struct frame_cache *cache, int fd, uint64_t frame, uint64_t *word);

int folio_log2(uint64_t power);

#define PM_FRAME ((UINT64_C(1) << 55) - 1)
#define PM_EXCLUSIVE (UINT64_C(1) << 56)
#define PM_GUARD (UINT64_C(1) << 58)
#define PM_FILE (UINT64_C(1) << 61)
#define PM_SWAPPED (UINT64_C(1) << 62)
#define PM_PRESENT (UINT64_C(1) << 63)

#endif
