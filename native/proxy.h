/* proxy: a process that makes system calls for this one, as a tracer must be one of its own.
 *
 * In: a system call's number and arguments. Out: what it returned there.
 *
 * Were the tracer a thread of this process, every stop of the tracee would send it SIGCHLD and could be taken by any
 * thread that waits for a child. The proxy shares our memory and descriptors, so that pointers mean the same; it has
 * no exit signal, so that no waitpid(-1) meets it.
 */
#ifndef ELFOLIO_PROXY_H
#define ELFOLIO_PROXY_H

#include <stdint.h>
#include <sys/types.h>

/* Where the child of a launch meets its tracer, before it executes. */
struct rendezvous {
    uint32_t child;  /* its pid, once it is there */
    uint32_t answer; /* 1: traced; else an errno, shifted left by one */
    pid_t tracer, owner;
};

struct proxy {
    uint32_t turn;
    long number, argument[6], result;
    struct rendezvous rendezvous;
    pid_t owner, pid;
    int pidfd;
    char *stack;
};

/* 0 or an errno. */
int proxy_start(struct proxy *p);
/* Ends it; whatever it traces dies with it. */
void proxy_stop(struct proxy *p);
/* Hands the call over; proxy_result waits for what came of it: 0, or ESRCH if the proxy has died. */
void proxy_post(struct proxy *p, long number, const long argument[6]);
int proxy_result(struct proxy *p, long *result);

/* Not a system call: waits at the rendezvous and traces who comes, with these PTRACE_O_* options. */
#define PROXY_MEET (-1)

/* In the child. 0 or -errno. */
long meet_tracer(struct rendezvous *r);

#endif
