/* record_threads: who is traced, and whose memory is whose. */
#ifndef ELFOLIO_RECORD_THREADS_H
#define ELFOLIO_RECORD_THREADS_H

#include <stdint.h>
#include <sys/types.h>

#include "record.h"

/* One address space. */
struct mm {
    int users;             /* threads */
    struct thread *inside; /* the one whose call is under way */
    struct thread *first;  /* those that wait for it to return */
    int pagemap;
    pid_t pagemap_of;
    struct pages touched;
};

enum state {
    RUNNING,
    NEWBORN, /* stopped, and its maker has not been heard of */
    WAITING, /* stopped before a call, while another thread of its mm is in one */
};

struct call {
    uint64_t number, args[6];
    int pending; /* its return will be written */
    int told;    /* a fork: already written */
    char text[96];
};

struct thread {
    struct thread *chained, *waiting;
    struct mm *mm;
    pid_t tid, process;
    enum state state;
    int ended;
    int foreign; /* executes a program of another architecture, whose calls are not seen */
    struct call call;
    int pidfd; /* of the process; -1: not opened yet. Kept by its first thread. */
};

#define BUCKETS 1024
struct threads {
    struct thread *bucket[BUCKETS];
    int count;
};

struct thread *thread_find(struct threads *all, pid_t tid);
/* Any thread of the process that still has its memory. */
struct thread *thread_of(struct threads *all, pid_t process);
struct thread *thread_add(struct threads *all, pid_t tid);
void thread_remove(struct threads *all, struct thread *t);
struct mm *mm_new(void);
/* `mm` may be NULL: it belongs to none any more. */
void thread_join(struct thread *t, struct mm *mm);

#endif
