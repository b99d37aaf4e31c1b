#include "record_threads.h"

#include <stdlib.h>
#include <unistd.h>

struct thread *thread_find(struct threads *all, pid_t tid)
{
    struct thread *t = all->bucket[tid % BUCKETS];
    while (t && t->tid != tid)
        t = t->chained;
    return t;
}

struct thread *thread_of(struct threads *all, pid_t process)
{
    for (int i = 0; i < BUCKETS; i++)
        for (struct thread *t = all->bucket[i]; t; t = t->chained)
            if (t->process == process && t->mm)
                return t;
    return NULL;
}

struct thread *thread_add(struct threads *all, pid_t tid)
{
    struct thread *t = calloc(1, sizeof *t);
    if (!t)
        _exit(1); /* which kills whatever is traced (PTRACE_O_EXITKILL) */
    t->tid = t->process = tid;
    t->pidfd = -1;
    t->chained = all->bucket[tid % BUCKETS];
    all->bucket[tid % BUCKETS] = t;
    all->count++;
    return t;
}

void thread_remove(struct threads *all, struct thread *t)
{
    struct thread **at = &all->bucket[t->tid % BUCKETS];
    while (*at != t)
        at = &(*at)->chained;
    *at = t->chained;
    all->count--;
    if (t->pidfd >= 0)
        close(t->pidfd);
    thread_join(t, NULL);
    free(t);
}

struct mm *mm_new(void)
{
    struct mm *mm = calloc(1, sizeof *mm);
    if (!mm)
        _exit(1);
    mm->pagemap = -1;
    return mm;
}

void thread_join(struct thread *t, struct mm *mm)
{
    struct mm *old = t->mm;
    if (mm)
        mm->users++;
    t->mm = mm;
    if (!old)
        return;
    for (struct thread **at = &old->first; *at; at = &(*at)->waiting)
        if (*at == t) {
            *at = t->waiting;
            break;
        }
    if (old->inside == t)
        old->inside = NULL;
    if (--old->users)
        return;
    if (old->pagemap >= 0)
        close(old->pagemap);
    free(old->touched.at);
    free(old);
}
