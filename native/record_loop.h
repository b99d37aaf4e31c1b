/* record_loop: the stops of whatever is traced, until nothing is left. */
#ifndef ELFOLIO_RECORD_LOOP_H
#define ELFOLIO_RECORD_LOOP_H

#include "record_threads.h"

struct recorder {
    struct out out;
    struct threads threads;
    struct faults faults;
    pid_t root;
    int status; /* of the root, once it has ended */
};

/* The root is stopped or will be, and traced with these options. */
void record_loop(struct recorder *r);

#endif
