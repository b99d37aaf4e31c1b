#define _GNU_SOURCE
#include "sink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 65536 /* a pipe's default capacity: one read empties it */

int sink_init(struct sink *s, int64_t limit, int spill_fd)
{
    memset(s, 0, sizeof *s);
    s->spill_fd = spill_fd;
    s->head_max = limit == NO_LIMIT ? SIZE_MAX : (size_t)(limit - limit / 2);
    s->ring_max = limit == NO_LIMIT ? 0 : (size_t)(limit / 2);
    return 0;
}

void sink_free(struct sink *s)
{
    free(s->head);
    free(s->ring);
    s->head = s->ring = NULL;
}

static int grow(struct sink *s, size_t want)
{
    size_t size = s->head_size ? s->head_size : CHUNK;
    while (size < want)
        size *= 2;
    char *bigger = realloc(s->head, size);
    if (!bigger)
        return ENOMEM;
    s->head = bigger;
    s->head_size = size;
    return 0;
}

/* Reads always land behind the head, where they belong as long as there is room for them, and are moved
 * on from there when there is none: one buffer, one copy for the bytes that are kept. */
char *sink_room(struct sink *s, size_t *size)
{
    if (s->head_size - s->head_used < CHUNK && grow(s, s->head_used + CHUNK))
        return NULL;
    *size = s->head_size - s->head_used;
    return s->head + s->head_used;
}

static void spill(struct sink *s, const char *data, size_t size)
{
    while (size && !s->spill_error) {
        ssize_t n = write(s->spill_fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            s->spill_error = errno;
            return;
        }
        data += n;
        size -= (size_t)n;
    }
}

static void ring_put(struct sink *s, const char *data, size_t size)
{
    if (size > s->ring_max) {
        data += size - s->ring_max;
        size = s->ring_max;
    }
    size_t at = s->ring_max ? (s->ring_at + s->ring_used) % s->ring_max : 0;
    size_t first = s->ring_max - at < size ? s->ring_max - at : size;
    memcpy(s->ring + at, data, first);
    memcpy(s->ring, data + first, size - first);
    s->ring_used += size;
    if (s->ring_used > s->ring_max) {
        s->ring_at = (s->ring_at + s->ring_used - s->ring_max) % s->ring_max;
        s->ring_used = s->ring_max;
    }
}

/* What is kept in memory goes first: when the limit is passed, that is all that came. */
static void start_spilling(struct sink *s)
{
    size_t first = s->ring_max - s->ring_at < s->ring_used ? s->ring_max - s->ring_at : s->ring_used;
    s->spilling = 1;
    spill(s, s->head, s->head_used);
    spill(s, s->ring + s->ring_at, first);
    spill(s, s->ring, s->ring_used - first);
}

int sink_filled(struct sink *s, size_t size)
{
    const char *data = s->head + s->head_used;
    size_t fits = s->head_max - s->head_used < size ? s->head_max - s->head_used : size;
    s->total += size;
    s->head_used += fits;
    data += fits;
    size -= fits;
    if (!size)
        return 0;
    if (!s->ring && !(s->ring = malloc(s->ring_max + 1)))
        return ENOMEM;
    if (s->spill_fd >= 0 && s->total > s->head_max + s->ring_max) {
        if (!s->spilling)
            start_spilling(s);
        spill(s, data, size);
    }
    ring_put(s, data, size);
    return 0;
}

uint64_t sink_dropped(const struct sink *s)
{
    return s->total - s->head_used - s->ring_used;
}

void sink_tail(const struct sink *s, char *out)
{
    size_t first = s->ring_max - s->ring_at < s->ring_used ? s->ring_max - s->ring_at : s->ring_used;
    if (!s->ring_used)
        return;
    memcpy(out, s->ring + s->ring_at, first);
    memcpy(out + first, s->ring, s->ring_used - first);
}
