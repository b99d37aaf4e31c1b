/* surroundings: what a child inherits and a program sees, beyond what a launch sets: held at one time, compared later.
 *
 * In: the calling thread and its process. Out: a snapshot; which part of it is no longer so.
 *
 * A warm template was born into the surroundings of one moment and keeps them. A spawn at another moment is served by it
 * only if they are still the same, or are among those that a request carries along (working directory, umask, ignored
 * signals, signal mask, process group).
 */
#ifndef ELFOLIO_SURROUNDINGS_H
#define ELFOLIO_SURROUNDINGS_H

#include <stddef.h>
#include <stdint.h>

/* What differs; the words for them are elfolio.spawn.reasons'. */
enum drift {
    DRIFT_NONE,
    DRIFT_UNREADABLE, /* something cannot be read: /proc is not there, or not ours */
    DRIFT_ROOT,
    DRIFT_LIMITS,
    DRIFT_SCHEDULING,
    DRIFT_AFFINITY,
    DRIFT_IOPRIO,
    DRIFT_TIMER_SLACK,
    DRIFT_OOM_SCORE,
    DRIFT_MEMORY_POLICY,
    DRIFT_COREDUMP_FILTER,
    DRIFT_MEMORY_FLAGS, /* THP, KSM */
    DRIFT_PERSONALITY,
    DRIFT_KEYRINGS,
    DRIFT_CGROUP,
    DRIFT_NAMESPACES,
    DRIFT_SESSION,
    DRIFT_TERMINAL,
    DRIFT_SECCOMP,
    DRIFT_CREDENTIALS,
    DRIFT_CONFINED, /* Landlock or a user namespace: the template cannot be looked at any more */
    DRIFT_COUNT
};

struct text {
    char bytes[1536];
    int length;
};

/* Of one thread at one moment. */
struct surroundings {
    /* carried along by a request */
    uint64_t cwd[3]; /* device, inode, mount */
    uint64_t ignored;
    int umask, group;
    /* compared */
    uint64_t root[3];
    uint64_t attr[7];
    uint64_t affinity[16];
    uint64_t nodes[16];
    uint64_t namespaces[8];
    int policy, ioprio, timer_slack, personality, keyring, session, terminal, thp, merge, seccomp, filters;
    char cpus_and_nodes[640]; /* of the status file: what a cpuset allows */
    char ids[512];            /* user, group and supplementary group ids */
    char capabilities[256];   /* all five sets, and no_new_privs */
    uint64_t limit[16][2];
    struct text limits, cgroup, oom_score, coredump_filter;
    int confined, leads;
};

/* 0 or an errno. `template_pid`: a process that was born into the surroundings to compare with, or 0; `had_terminal`:
 * whether those had a controlling terminal, without which only a session's leader can have got one. */
int surroundings_read(struct surroundings *s, int template_pid, int had_terminal);
/* Resource limits that a child can be given after its birth: those that nothing has read by then, and not above the
 * hard ones that the template was born with. Called where DRIFT_LIMITS is all that differs. */
int surroundings_limits_unfit(const struct surroundings *born, const struct surroundings *now);
/* Which they are, as bits; fills in the values. */
uint32_t surroundings_limits_to_set(const struct surroundings *born, const struct surroundings *now,
                                    uint64_t limit[16][2]);
/* Limits come last: where they are what differs, all else is the same. */
enum drift surroundings_differ(const struct surroundings *a, const struct surroundings *b);
/* In a forked child: the descriptors kept are of the parent's /proc files. */
void surroundings_after_fork(void);
/* Device, inode and mount of a directory. 0 or an errno. */
int directory_read(const char *path, uint64_t out[3]);

#endif
