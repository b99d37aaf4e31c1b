/* sink: the bytes of one stream, whole or head and tail, and beyond that in a file.
 *
 * In: bytes in order. Out: what was kept, and how much was not.
 * With a limit, memory stays bounded by it however much comes.
 */
#ifndef ELFOLIO_SINK_H
#define ELFOLIO_SINK_H

#include <stddef.h>
#include <stdint.h>

#define NO_LIMIT (-1)

struct sink {
    char *head; /* everything, without a limit; else the first half of it */
    size_t head_used, head_size, head_max;
    char *ring; /* the last half, from ring_at on, oldest first */
    size_t ring_used, ring_at, ring_max;
    uint64_t total;
    int spill_fd;     /* -1: none */
    int spilling;     /* the file holds the head already */
    int spill_error;  /* errno of the write that failed; the stream is drained all the same */
};

/* limit: bytes kept, or NO_LIMIT. spill_fd: gets the whole stream once it exceeds the limit; -1: dropped. */
int sink_init(struct sink *s, int64_t limit, int spill_fd);
void sink_free(struct sink *s);
/* Room to read into, at least one byte; NULL without memory. sink_filled says how much came. */
char *sink_room(struct sink *s, size_t *size);
int sink_filled(struct sink *s, size_t size);
uint64_t sink_dropped(const struct sink *s);
/* Copies the tail, ring_used bytes, in order. */
void sink_tail(const struct sink *s, char *out);

#endif
