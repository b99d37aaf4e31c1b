/* record_calls: one system call of a traced thread, read and written. */
#ifndef ELFOLIO_RECORD_CALLS_H
#define ELFOLIO_RECORD_CALLS_H

#include <linux/audit.h>

#include "record_threads.h"

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#else
#define NATIVE AUDIT_ARCH_AARCH64
#endif

/* At the stop before the call. 0 where the thread does not stand there any more. */
int call_read(struct thread *t);
/* Whether it still stands there: who is killed does not. */
int call_waits(pid_t tid);
/* At an exec: whether the program is of another architecture than the tracer, whose calls pass the filter unseen. */
int call_foreign(pid_t tid);
/* In place of a call that was not seen: flags of clone. */
void call_is_clone(struct thread *t, uint64_t flags);
int call_executes(const struct call *c);
/* Whether it makes a thread or a process. */
int call_forks(const struct call *c);
/* Whether it is short: no other thread of the process can be what it waits for. */
int call_alone(const struct call *c);
/* clone's flags, with the signal, of any call that makes a process. */
uint64_t call_clone_flags(const struct call *c);
/* At the stop after it. 0 where the thread does not stand there any more. */
int call_result(pid_t tid, int64_t *result);
/* The same where the thread was killed in the call, and stops for the last time. 0 where the call was not begun. */
int call_last_result(pid_t tid, int64_t *result);
void call_write(struct out *o, struct thread *t, int pidfd, int64_t result);

#endif
