/* launch: one child, from clone to exec.
 *
 * In: a struct launch, every pointer of which stays valid and unchanged until launch() returns.
 * Out: pid and pidfd of a child that runs the program; or where it failed, with nothing left behind.
 *
 * The rules of the code between clone and exec, which runs in the parent's memory unless the launch says
 * otherwise: it allocates nothing, takes no lock, calls no C library function (raw system calls only, so
 * that errno stays the parent's), never returns, and writes nowhere but on its own stack and into its
 * report. All signals are blocked, so that no handler of the parent runs in it.
 */
#ifndef ELFOLIO_LAUNCH_H
#define ELFOLIO_LAUNCH_H

#include <stdint.h>
#include <sys/types.h>

#include "steps.h"

struct rendezvous;

/* What a launch asks for. */
enum launch_flags {
    LAUNCH_COPY_MEMORY = 1, /* no CLONE_VM: some step would change the parent's memory descriptor */
    LAUNCH_REPEATABLE = 2,  /* the steps may run twice: ETXTBSY gets a second try */
    LAUNCH_WHOLE = 4,       /* a changed object of the warm image refuses the launch; else it is made cold */
};

/* What a launch had to do without; the caller counts them. */
enum launch_how {
    HOW_NO_CLONE3 = 1,      /* the older clone, signals reset and cgroup joined by the child */
    HOW_PIDFD_OPENED = 2,   /* the pidfd was opened for the unreaped child, not made at its birth */
    HOW_NAME_LOST = 4,      /* the named link could not be executed: the task name is the kernel's choice */
    HOW_COPIED_MEMORY = 8,
    HOW_WARM = 32,
    HOW_RETRIED_BUSY = 16,  /* ETXTBSY once: another spawn's child held a writable copy of the file */
};

enum launch_step {
    STEP_EXEC = -1,
    STEP_CGROUP = -2,
    STEP_CLONE = -3,
    STEP_PIDFD = -4,
    STEP_TRACE = -5,
    STEP_WARM = -6,
};

struct launch {
    const char *path;        /* executed by name; NULL: the descriptor alone */
    int exec_fd;             /* the pinned file; -1: the path alone */
    char *const *argv;
    char *const *envp;
    const struct step *steps;
    uint32_t step_count;
    const char *blob;
    int cgroup_fd;           /* -1: the parent's cgroup */
    uint32_t flags;
    struct rendezvous *rendezvous; /* NULL; or who traces the child from before its exec */

    pid_t pid;
    int pidfd;
    int failed;              /* index of the step, or enum launch_step */
    uint32_t how;
};

/* Returns 0, or the errno of what failed. */
int launch(struct launch *l);

/* For a child of fork(): locks may be held by threads that exist no longer. */
void launch_after_fork(void);

#endif
