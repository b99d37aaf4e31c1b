/* mirror: a dynamically linked program that says everything it can see of its own start, as JSON.
 *
 * In: nothing but how it was started. Out: two JSON objects, a line each, appended to the file beside the
 * executable that is called like it, with .out behind; so that argv, environ and descriptors are free to be anything.
 * The first is main's, the second the library's destructor's, which runs last.
 * Strings are bytes, each escaped as \u00XX outside printable ASCII: to be decoded as Latin-1.
 *
 * The order of main is: look without changing anything (memory first, by raw system calls into static buffers),
 * then ask what the C library believes, then do things and see whether they work.
 */
#ifndef MIRROR_OUT_H
#define MIRROR_OUT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

extern char **environ;

/* out.c: one object, written by key and value. */
void put(const char *format, ...) __attribute__((format(printf, 1, 2)));
void put_text(const char *bytes, size_t length);
void key(const char *name);
void open_object(const char *name);
void close_object(void);
void number(const char *name, long value);
void answer(const char *name, long value); /* of a call: the value, or "E" and the errno where it is -1 */
void text(const char *name, const char *string);
void texts(const char *name, char *const *strings);
void numbers(const char *name, const long *values, size_t count);
void file(const char *name, const char *path);
void target(const char *name, const char *path);
ssize_t slurp(const char *path, char *buffer, size_t size); /* NUL behind it; -1 with errno */
const char *answer_path(void);
void write_answer(void);

/* One view of the start each; all may be called once. */
void view_memory(void);               /* memory.c; first: nothing has touched the heap yet */
void view_stat(char **argv);          /* memory.c */
void view_constructors(char **argv);  /* early.c */
void view_signals(void);              /* signals.c */
void view_descriptors(void);          /* descriptors.c */
void view_terminal(void);             /* descriptors.c */
void view_start(int argc, char **argv, char **envp); /* start.c */
void view_auxv(char **envp);          /* auxv.c */
void view_credentials(void);          /* process.c */
void view_attributes(void);           /* process.c */
void view_proc(void);                 /* process.c */
void view_prctl(void);                /* prctl.c */
void view_thread(void);               /* thread.c */
void view_library(void);              /* library_state.c */
void act_late_library(void);          /* acts.c */
void act_malloc(void);
void act_threads(void);               /* thread.c */
void act_fork(void);                  /* acts.c */
void act_programs(void);
void act_signals(void);               /* signals.c */
void act_streams(void);               /* descriptors.c */

/* library.c, the shared library that the executable is linked with. */
void note(const char *event);
const char *notes(void);
void finish_into(const char *path);
extern __thread int library_thread_local;

#endif
