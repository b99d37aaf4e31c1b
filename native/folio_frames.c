/* folio_frames: words of /proc/kpageflags and kpagecount for many frames.
 *
 * A read costs a microsecond, and each frame in it a tenth of one: frames are sorted, and small gaps are read too. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "folios.h"

#define GAP 8        /* frames that cost as much as another read */
#define WINDOW 8192  /* frames a read */

/* Neighbours in the address space that are neighbours in memory. */
struct extent {
    uint64_t frame;
    uint32_t index, length;
};

struct frames {
    struct extent extents[FOLIO_BATCH];
    uint64_t window[WINDOW];
};

struct frames *frames_new(void)
{
    return malloc(sizeof(struct frames));
}

void frames_free(struct frames *frames)
{
    free(frames);
}

uint64_t frame_word(int fd, uint64_t frame)
{
    uint64_t word;
    return pread(fd, &word, sizeof word, (off_t)(frame * 8)) == sizeof word ? word : 0;
}

static int by_frame(const void *a, const void *b)
{
    uint64_t x = ((const struct extent *)a)->frame, y = ((const struct extent *)b)->frame;
    return (x > y) - (x < y);
}

static size_t gather(struct extent *extents, const uint64_t *entry, const uint8_t *wanted, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t frame = entry[i] & PM_FRAME;
        struct extent *last = extents + count - 1;
        if (!wanted[i])
            continue;
        if (count && last->index + last->length == i && last->frame + last->length == frame)
            last->length++;
        else
            extents[count++] = (struct extent){frame, (uint32_t)i, 1};
    }
    return count;
}

int frame_words(int fd, uint64_t first, size_t n, uint64_t *words, size_t *got)
{
    size_t bytes = n * 8, had = 0;
    while (had < bytes) {
        ssize_t more = pread(fd, (char *)words + had, bytes - had, (off_t)(first * 8 + had));
        if (more < 0 && errno == EINTR)
            continue;
        if (more < 0 && errno != EINVAL) /* beyond the last frame: memory of a device */
            return errno;
        if (more <= 0)
            break;
        had += (size_t)more;
    }
    *got = had / 8;
    return 0;
}

/* Reads frames from `from` up to, not including, `to`, at most WINDOW; those that the kernel does not give are 0. */
static int read_window(struct frames *frames, int fd, uint64_t from, uint64_t to)
{
    size_t got;
    int err = frame_words(fd, from, (size_t)(to - from), frames->window, &got);
    for (size_t i = err ? to - from : got; i < to - from; i++)
        frames->window[i] = 0;
    return err;
}

int frames_read(struct frames *frames, int fd, const uint64_t *entry, const uint8_t *wanted, size_t n, uint64_t *out)
{
    struct extent *extents = frames->extents;
    size_t count = gather(extents, entry, wanted, n);
    uint64_t from = 0, to = 0; /* what the window has */
    qsort(extents, count, sizeof *extents, by_frame);
    for (size_t e = 0; e < count; e++) {
        for (uint32_t done = 0; done < extents[e].length;) {
            uint64_t frame = extents[e].frame + done;
            if (frame < from || frame >= to) {
                /* As far as the next extents go on without a gap worth another read. */
                from = frame;
                to = extents[e].frame + extents[e].length;
                for (size_t next = e + 1; next < count && to - from < WINDOW; next++) {
                    uint64_t end = extents[next].frame + extents[next].length;
                    if (extents[next].frame > to + GAP)
                        break;
                    to = end > to ? end : to;
                }
                to = to - from > WINDOW ? from + WINDOW : to;
                int err = read_window(frames, fd, from, to);
                if (err)
                    return err;
            }
            out[extents[e].index + done++] = frames->window[frame - from];
        }
    }
    return 0;
}
