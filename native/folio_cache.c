/* folio_cache: words of kpageflags, kept while a look lasts.
 *
 * Where a process has much of the memory there is in small folios, nearly every frame is asked for, in an order that
 * is no order in memory: then each is read once, with its neighbours, and kept. Half of a word is kept: what is asked
 * for is in the lower half. Blocks appear whole and stay, so that threads may share them.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "folios.h"

#define BLOCK 8192                  /* frames that are read at once */
#define MOST (UINT64_C(16) << 20)   /* frames: 64 MiB of words */
#define HOLES (UINT64_C(4) << 30)   /* bytes of address below 4 GiB that are devices' */

struct frame_cache {
    uint64_t blocks;
    _Atomic(uint32_t *) block[];
};

struct frame_cache *frame_cache_new(void)
{
    uint64_t frames = (uint64_t)sysconf(_SC_PHYS_PAGES), page = (uint64_t)sysconf(_SC_PAGESIZE);
    frames += frames / 8 + HOLES / page; /* what the kernel keeps for itself is not counted */
    uint64_t blocks = (frames + BLOCK - 1) / BLOCK;
    struct frame_cache *cache = frames > MOST ? NULL : calloc(1, sizeof *cache + blocks * sizeof *cache->block);
    if (cache)
        cache->blocks = blocks;
    return cache;
}

void frame_cache_free(struct frame_cache *cache)
{
    for (uint64_t i = 0; i < cache->blocks; i++)
        free(atomic_load(cache->block + i));
    free(cache);
}

/* Words of a whole block; those that the kernel does not give stay 0. 0 or an errno. */
static int fill(int fd, uint64_t first, uint32_t *words)
{
    uint64_t buffer[512];
    size_t n = sizeof buffer / sizeof *buffer, got = n;
    for (size_t done = 0; done < BLOCK && got == n; done += n) {
        int err = frame_words(fd, first + done, n, buffer, &got);
        if (err)
            return err;
        for (size_t i = 0; i < got; i++)
            words[done + i] = (uint32_t)buffer[i];
    }
    return 0;
}

int frame_cached(struct frame_cache *cache, int fd, uint64_t frame, uint64_t *word)
{
    uint64_t index = frame / BLOCK;
    if (index >= cache->blocks) {
        *word = frame_word(fd, frame);
        return 0;
    }
    uint32_t *words = atomic_load(cache->block + index), *before = NULL;
    if (!words) {
        words = calloc(BLOCK, sizeof *words);
        int err = words ? fill(fd, index * BLOCK, words) : ENOMEM;
        if (err) {
            free(words);
            return err;
        }
        if (!atomic_compare_exchange_strong(cache->block + index, &before, words)) {
            free(words); /* another thread was first */
            words = before;
        }
    }
    *word = words[frame % BLOCK];
    return 0;
}
