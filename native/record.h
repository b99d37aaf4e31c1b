/* record: what a program and all that it starts do to their memory, as JSON lines.
 *
 * In: a program, a descriptor to write to. Out: its wait status. The format is that of kernel/trace_record.py.
 *
 * A seccomp filter stops the traced at calls that concern memory or make processes, and at no others; ptrace then shows
 * arguments and result. Threads of one address space pass such calls one at a time, so that the order of the record is
 * the order in which the kernel did them. What was touched in between comes from samples of page faults, held against
 * the page tables at the next stop: what a fault left there is what decides about merging.
 *
 * The tracer is a process of its own: it waits for whatever it traces, and nothing else may take its children's status.
 */
#ifndef ELFOLIO_RECORD_H
#define ELFOLIO_RECORD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What is to be run: all of it as for execve(2). */
struct record_plan {
    const char *path;
    char *const *argv, *const *env;
    int out;    /* where the record goes */
    int faults; /* whether to sample page faults */
};

struct record_result {
    int status; /* of wait(2), of the program itself */
    int error;  /* errno of what failed before it ran; 0: it ran */
    const char *step;
    int write_error; /* errno of the first write that failed: the record ends there */
};

void record_run(const struct record_plan *plan, struct record_result *result);

/* --- between the parts --------------------------------------------------------------------------- */

/* record_out.c: lines of JSON, gathered. */
struct out {
    int fd, error;
    size_t used;
    char text[1 << 16];
};
void out_flush(struct out *o);
void out_text(struct out *o, const char *text);
void out_number(struct out *o, int64_t value);
void out_unsigned(struct out *o, uint64_t value);
/* In quotes. Bytes that are no UTF-8 become what Python's surrogateescape makes of them. */
void out_string(struct out *o, const char *text, size_t length);

/* record_filter.c: in the child, before exec. 0 or -errno. */
long filter_install(void);

/* record_maps.c: the mappings of a process, as rows. */
void maps_rows(struct out *o, pid_t pid);
uint64_t maps_start_brk(pid_t pid);

/* record_faults.c */
struct ring;
struct faults {
    struct ring *rings;
    int count;
    int kernel; /* those that system calls cause are seen too */
    int scans;  /* PAGEMAP_SCAN is there: zero pages are told from anonymous ones */
    uint64_t lost;
};
struct pages {
    uint64_t *at;
    size_t count, room;
};
typedef struct pages *pages_of(void *context, pid_t process);
/* For a process that has not run yet, and all that it will start. */
void faults_open(struct faults *f, pid_t pid);
/* Moves what was sampled to where `find` says; NULL drops it. */
void faults_drain(struct faults *f, pages_of *find, void *context);
/* Writes the anonymous ones among `pages` as [start,end] pairs, and empties it; 0 where there were none. */
int faults_write(struct faults *f, struct pages *pages, int pagemap, struct out *o, const char *head, pid_t pid);

/* record_files.c: the file behind a descriptor, as `,"f":[...]`. */
void file_write(struct out *o, pid_t process, int pidfd, int fd);

#endif
