/* capture: feeds a child's input, drains its outputs, and sees it end, all in one wait.
 *
 * In: the parent's ends of the pipes (owned from then on) and the pidfd (borrowed).
 * Out: two sinks. Never blocks longer than asked, whoever holds the other ends.
 */
#ifndef ELFOLIO_CAPTURE_H
#define ELFOLIO_CAPTURE_H

#include <stddef.h>
#include <stdint.h>

#include "sink.h"

#define CAPTURE_OUTPUTS 2

enum capture_state {
    CAPTURE_OPEN = 1,  /* an output has not ended */
    CAPTURE_ALIVE = 2, /* the child has not ended */
    CAPTURE_INPUT = 4, /* input is left to write */
};

struct capture {
    int epoll_fd; /* -1 until capture_watch */
    int input_fd;
    const char *input;
    size_t input_left;
    int output_fd[CAPTURE_OUTPUTS]; /* -1: not captured, or ended */
    struct sink output[CAPTURE_OUTPUTS];
    int pidfd;
    int alive;
};

/* 0 or an errno; the descriptors are owned either way, until capture_free. Each may be -1. */
int capture_init(struct capture *c, int pidfd, int input_fd, const char *input, size_t input_size,
                 const int output_fd[CAPTURE_OUTPUTS], int64_t limit, const int spill_fd[CAPTURE_OUTPUTS]);

/* Makes epoll_fd, which an event loop can watch: it is readable whenever capture_run has work. */
int capture_watch(struct capture *c);

/* Moves what can be moved until nothing in `until` (enum capture_state) is left or the deadline has
 * passed (CLOCK_MONOTONIC ns; 0: one turn without waiting; -1: none). Returns the state, or -errno;
 * -EINTR whenever a signal handler ran. */
int capture_run(struct capture *c, int64_t deadline, int until);

/* Closes the pipes; what came stays readable. */
void capture_close(struct capture *c);
void capture_free(struct capture *c);

#endif
