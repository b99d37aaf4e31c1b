/* status: how a child ended, asked through its pidfd.
 *
 * In: a pidfd. Out: exit status and resource use, or that they are lost.
 * Polling and reaping are apart, so that nobody holds a lock while waiting.
 */
#ifndef ELFOLIO_STATUS_H
#define ELFOLIO_STATUS_H

#include <stdint.h>
#include <sys/resource.h>

enum ended {
    ENDED_NOT = 0,    /* it runs */
    ENDED = 1,        /* status and usage are valid */
    ENDED_TAKEN = 2,  /* reaped by somebody else; the kernel still told the status (PIDFD_GET_INFO) */
    ENDED_LOST = 3,   /* reaped by somebody else, and the kernel has no way to tell */
};

struct ending {
    int code; /* exit status, or the negative of the signal */
    struct rusage usage;
};

#define FOREVER (-1)

/* Waits until the process has ended: 1, 0 at the deadline (CLOCK_MONOTONIC, ns, or FOREVER), or -errno;
 * -EINTR whenever a signal handler ran. */
int await_end(int pidfd, int64_t deadline);

/* Takes the status, once; does not block. enum ended, or -errno. */
int take_status(int pidfd, struct ending *out);

#endif
