/* parts: what the files of the stub (native/warm) have of each other.
 *
 * stub.c is the template's: its loop, and the fork of a standby. child.c is the child's way from a request to the program,
 * slot.c its agreement with the owner, entry.c the stack and the registers that the program begins with.
 *
 * All of it is hidden: what is exported would be reached through a table that needs a relocation.
 */
#ifndef ELFOLIO_WARM_STUB_PARTS_H
#define ELFOLIO_WARM_STUB_PARTS_H

#include <stdint.h>
#include <sys/socket.h>

#include "protocol.h"

#pragma GCC visibility push(hidden)

extern struct setup setup;

union control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(WARM_FDS * sizeof(int))];
};

static inline void *at(uint64_t address)
{
    return (void *)address;
}

/* --- stub.c --- */

/* There is no library: the compiler may turn a loop into a call of these. */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
__attribute__((noreturn)) void leave(int code);

/* --- child.c --- */

/* A standby's life: waits for a request, and becomes the program. */
__attribute__((noreturn)) void become_program(void);

/* --- slot.c --- */

/* The request's, once there is one. */
extern struct slot *slot;
/* Fails before the owner's word: nothing has happened that a second try would repeat. `error` is -errno. */
__attribute__((noreturn)) void fail(int step, long error);
/* The same, from the owner's word on. */
__attribute__((noreturn)) void fail_from(uint32_t state, int step, long error);
/* Everything is prepared: returns when the owner has given its word, or ends the child. */
void await_go(void);
/* The program runs now. */
void tell_started(void);

/* --- entry.c --- */

/* `strings`: argv's, then the environment's. Fills in of the map what depends on them. */
void build_stack(const struct request *r, const char *strings, struct mm_map *map);
/* Into the program, with this signal mask. */
__attribute__((noreturn)) void enter(uint64_t mask);

#pragma GCC visibility pop

#endif


