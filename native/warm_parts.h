/* warm_parts: what the files of the owner's side of a warm template (native/warm*.c) have of each other.
 *
 * Top down: warm.c makes one start. warm_fit.c says whether it may be warm, warm_request.c tells the child what is asked
 * for, warm_slot.c agrees with it. Below them warm_family.c knows the processes, and warm_life.c begins and ends a template.
 */
#ifndef ELFOLIO_WARM_PARTS_H
#define ELFOLIO_WARM_PARTS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "warm.h"

#define PATIENCE_NS 2000000000LL /* an answer takes some tens of microseconds */
#define LOOK_NS 20000000LL       /* how often to look what one does that does not come */

struct outgoing {
    struct request request;
    char rest[WARM_MESSAGE - sizeof(struct request)];
};

union control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(WARM_FDS * sizeof(int))];
};

/* --- warm_life.c --- */

/* Whether the socket is still the one that we opened: a host may have closed it and given its number away. */
int warm_is_ours(const struct warm *w);

/* --- warm_fit.c --- */

/* Whether the variables that count are those that the process was born with, in their order. */
int warm_environment_fits(const struct warm *w, char *const *envp);
/* WARM_STARTED, or what is another now than at its birth; *now: the surroundings of the calling thread. */
enum warm_outcome warm_still_fits(struct warm *w, struct surroundings *now, uint32_t *detail);

/* --- warm_request.c --- */

/* Fills in *out and the descriptors to send; the bytes of the message, or 0 where it is too large. */
size_t request_compose(const struct launch *l, const struct warm_plan *plan, struct outgoing *out, int fds[WARM_FDS]);
/* Adds our working directory, where it is not the template's; its descriptor is the last of fds and to be closed, -1
 * where there is none. WARM_STARTED, or why not. */
enum warm_outcome request_add_directory(const struct warm *w, struct outgoing *out, int fds[WARM_FDS], int *directory);
enum warm_outcome request_send(const struct warm *w, struct outgoing *out, size_t bytes, const int fds[WARM_FDS]);

/* --- warm_slot.c --- */

/* One that is free, and its number; NULL where all are held by children that were stopped. */
struct slot *slot_free(const struct warm *w, uint32_t *index);
/* From SLOT_ASKED to the program: the owner's word, and what came of it. */
enum warm_outcome slot_go(struct warm *w, struct launch *l, const struct warm_plan *plan, struct slot *slot,
                          const struct surroundings *now, uint32_t *detail);
/* Nothing of the request runs: its child ends, and whatever is the matter is told from `outcome`, which is returned. */
enum warm_outcome slot_take_back(struct warm *w, struct slot *slot, uint32_t from, enum warm_outcome outcome);

/* --- warm_family.c --- */

int child_has_ended(int pidfd, int64_t wait_ns);
/* Closes the pidfd. */
void child_kill_and_reap(pid_t pid, int pidfd);
void child_end_by_number(pid_t pid);
/* Where in w->standby that child is; -1: it is not known. With 0: a place that is free. */
int family_place_of(const struct warm *w, pid_t pid);
/* What the template has told by now. WARM_STARTED, or why there will be no births any more. */
enum warm_outcome family_note_births(struct warm *w, uint32_t *detail);
/* The same, until that child is known. */
enum warm_outcome family_await_birth(struct warm *w, pid_t pid, uint32_t *detail);
int family_has_died(const struct warm *w, const struct slot *slot);
/* The slot's child becomes the launch's, and the template is told to bear another. */
void family_hand_over(struct warm *w, const struct slot *slot, struct launch *l);
/* Ends and reaps all of them, and closes what leads to them. */
void family_end(struct warm *w);
/* The same, where the descriptors are not ours any more. */
void family_end_by_number(struct warm *w);

#endif
