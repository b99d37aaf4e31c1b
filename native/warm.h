/* warm: a template's process, asked for children.
 *
 * In: the socket to a process that stands at its entry (native/warm/stub.c), what it was born with, and requests.
 * Out: children of this process that run the program; or why this spawn is better done cold.
 */
#ifndef ELFOLIO_WARM_H
#define ELFOLIO_WARM_H

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include "identity.h"
#include "launch.h"
#include "surroundings.h"
#include "warm/protocol.h"

/* What a spawn needs of a plan to be done warm. */
struct warm_plan {
    const struct step *steps;
    uint32_t step_count;
    const char *blob;
    uint32_t blob_bytes;
    uint32_t flags; /* enum request_flags */
    uint32_t fd_count, kept_count;
    int source[WARM_FDS]; /* descriptors of ours; -1 - n: our own stream n, if it is open and not close-on-exec */
    int target[WARM_FDS];
    int kept[WARM_FDS];
    int highest; /* number that is named */
    int may_fail;  /* some step may; else nobody waits for it */
    int may_block; /* a step may wait for somebody, as opening a FIFO does */
    int repeatable;
};

enum warm_outcome {
    WARM_STARTED,
    WARM_STEP_FAILED,  /* launch.failed and the errno say which */
    WARM_LOST,         /* the child died before its program began, and its steps must not be repeated */
    WARM_FORBIDDEN,    /* the caller's own check does not pass */
    /* From here on: do it cold. */
    WARM_REFUSED,      /* the child could not prepare itself */
    WARM_GONE,         /* the template's process has ended */
    WARM_FROZEN,       /* it does not answer */
    WARM_BARREN,       /* it cannot fork; detail: errno */
    WARM_BUSY,
    WARM_DRIFTED,      /* detail: enum drift */
    WARM_STALE,        /* detail: index of the object */
    WARM_ENVIRONMENT,  /* a variable that was read before main differs */
    WARM_TOO_LARGE,    /* arguments and environment */
    WARM_DESCRIPTOR,   /* one that is to be passed is not open */
    WARM_WORN,         /* it has served often, or long, enough */
    WARM_IDLE,         /* it has not been asked for a while, and ends, or has */
    WARM_OUTCOMES
};

struct warm_object {
    char *path; /* an absolute one; what it leads to must have this key */
    int absent; /* or must not be there */
    struct file_key key;
};

struct warm {
    struct warm *next, **before; /* of all, for forked children */
    pthread_mutex_t lock;
    int socket;
    int taken; /* a socket: a byte tells the template that one of its standbys has been taken */
    uint64_t inode, peer_inode;
    pid_t pid; /* 0: there is none yet */
    int pidfd;
    struct {
        pid_t pid; /* 0: none */
        int pidfd;
    } standby[WARM_DEPTH + 1]; /* those whose birth has been told */
    struct slot *slots; /* mapped by the template too */
    struct outgoing *outgoing; /* where requests are put together; what they left of it stays */
    int dead;
    int64_t born_ns, max_age_ns;
    int64_t last_ns, idle_ns; /* it ends by itself when it has not been asked for so long; 0: never */
    uint64_t served, rotate_after;
    int spins; /* how long to look for the child, by how it went the last times */
    struct surroundings surroundings;
    struct file_key program; /* what the process itself has executed */
    struct warm_object *objects;
    uint32_t object_count;
    char *environment; /* the strings that must be the same, in order */
    size_t environment_bytes;
    int whole_environment;
    char **variables; /* else: the names that count, sorted; beside the fixed ones */
    uint32_t variable_count;
};

/* Begins with our ends of what leads to a process that is still to come. 0, or an errno: then they stay the caller's. */
int warm_adopt(struct warm *w, int socket, int taken);
/* The process is there, and this is its pidfd: it may be asked from now on. */
void warm_stand(struct warm *w, pid_t pid, int pidfd);
/* Ends the process and its standby, and reaps them. */
void warm_close(struct warm *w);
void warm_free(struct warm *w);
/* What must hold beside the template's own: called while the child prepares itself. */
struct warm_check {
    int (*passes)(void *of);
    void *of;
};

enum warm_outcome warm_launch(struct warm *w, struct launch *l, const struct warm_plan *plan, struct warm_check check,
                              uint32_t *detail);
/* Whether what it has mapped is what an exec would map now; else which object, what of its key, or an errno. */
int warm_objects_stand(const struct warm *w, uint32_t *which, uint32_t *differs, int *error);
/* Whether the variable counts for programs that have run no constructor of their own: the loader's, the C library's. */
int warm_variable_counts(const struct warm *w, const char *variable);
int warm_is_idle(const struct warm *w);
void warm_after_fork(void);

#endif
