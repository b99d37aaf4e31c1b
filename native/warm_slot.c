/* warm_slot: owner and child agree, in one slot of the page that both have, on whether a start happens.
 *
 * Every change of a slot's state is one compare-and-swap (native/warm/protocol.h, enum slot_state): what we have taken
 * back never runs, and what runs cannot be taken back.
 */
#define _GNU_SOURCE
#include "warm_parts.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sys.h"

static int change(struct slot *slot, uint32_t from, uint32_t to)
{
    return __atomic_compare_exchange_n(&slot->state, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static uint32_t state_of(const struct slot *slot)
{
    return __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
}

static void wake(struct slot *slot)
{
    sys3(SYS_futex, &slot->state, FUTEX_WAKE, 1);
}

static char letter_of(pid_t pid)
{
    char path[32], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n < 0 ? 0 : n] = 0;
    const char *at = strrchr(text, ')');
    return at && at[1] ? at[2] : 'X';
}

/* Who was killed between the owner's word and its program leaves its slot behind, unless a thread of ours waits for its
 * answer and frees the slot. A number that is another process's by now hides that. */
static int is_abandoned(const struct slot *slot)
{
    if (slot->answers)
        return 0;
    char letter = letter_of(slot->pid);
    return letter == 'X' || letter == 'Z';
}

struct slot *slot_free(const struct warm *w, uint32_t *index)
{
    for (int looks = 0; looks < 2; looks++)
        for (uint32_t i = 0; i < WARM_SLOTS; i++) {
            *index = (uint32_t)(w->served + i) % WARM_SLOTS;
            struct slot *slot = &w->slots[*index];
            if (state_of(slot) == SLOT_FREE || (looks && is_abandoned(slot)))
                return slot;
        }
    return NULL; /* so many stopped children */
}

/* A step may take its time, as opening a FIFO does; being stopped is another matter. */
static int is_at_work(const struct slot *slot, const struct warm_plan *plan)
{
    char letter = letter_of(slot->pid);
    return plan->may_block && letter != 'T' && letter != 't' && letter != 'X' && letter != 'Z';
}

/* Until the request has been taken and prepared, or has failed: the slot's state then; SLOT_ASKED where the child has
 * ended, or does not come. */
static uint32_t await_ready(struct warm *w, struct slot *slot)
{
    int64_t until = clock_ns() + PATIENCE_NS;
    struct timespec look = {0, LOOK_NS};
    for (int i = 0; i < w->spins && state_of(slot) == SLOT_ASKED; i++)
        relax();
    if (state_of(slot) != SLOT_ASKED)
        w->spins = w->spins * 2 < WARM_SPINS ? w->spins * 2 : WARM_SPINS;
    else
        w->spins = w->spins / 2 > WARM_SPINS_LEAST ? w->spins / 2 : WARM_SPINS_LEAST;
    for (;;) {
        uint32_t state = state_of(slot);
        if (state != SLOT_ASKED)
            return state;
        sys4(SYS_futex, &slot->state, FUTEX_WAIT, SLOT_ASKED, &look);
        if (state_of(slot) != SLOT_ASKED)
            continue;
        if (family_has_died(w, slot) || clock_ns() >= until)
            return state_of(slot);
    }
}

/* The child of a request that is no more; one that nobody took stays, and finds it cancelled. */
static void end_child(struct warm *w, const struct slot *slot)
{
    struct launch l;
    if (!slot->pid || family_place_of(w, slot->pid) < 0) {
        /* The template is killed or frozen; the child has said who it is. */
        child_end_by_number(slot->pid);
        w->dead = 1;
        return;
    }
    family_hand_over(w, slot, &l);
    child_kill_and_reap(l.pid, l.pidfd);
}

enum warm_outcome slot_take_back(struct warm *w, struct slot *slot, uint32_t from, enum warm_outcome outcome)
{
    if (!change(slot, from, SLOT_CANCELLED) && state_of(slot) == SLOT_READY)
        change(slot, SLOT_READY, SLOT_CANCELLED);
    wake(slot);
    /* Who takes it must be known, to be reaped; where patience has been lost already, all of them end. */
    int lost = outcome == WARM_GONE || outcome == WARM_FROZEN;
    int64_t until = lost ? 0 : clock_ns() + PATIENCE_NS;
    struct timespec pause = {0, 50000};
    while (!__atomic_load_n(&slot->pid, __ATOMIC_ACQUIRE) && !family_has_died(w, slot) && clock_ns() < until)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    uint32_t ignored;
    if (slot->pid && !lost && outcome != WARM_BARREN)
        family_await_birth(w, slot->pid, &ignored);
    end_child(w, slot);
    if (!w->dead)
        __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_RELEASE);
    return outcome;
}

static enum warm_outcome failed_in(struct warm *w, struct launch *l, struct slot *slot, uint32_t *detail)
{
    l->failed = slot->failed;
    *detail = (uint32_t)slot->error;
    end_child(w, slot);
    __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_RELEASE);
    return l->failed >= 0 ? WARM_STEP_FAILED : WARM_REFUSED;
}

/* Until the steps are taken, by a child that is in nobody's table any more. The slots stay mapped as long as the
 * object that a caller of ours holds. */
static enum warm_outcome await_steps(struct launch *l, const struct warm_plan *plan, struct slot *slot,
                                     uint32_t *detail)
{
    int64_t until = clock_ns() + PATIENCE_NS;
    struct timespec look = {0, LOOK_NS};
    uint32_t state = state_of(slot);
    for (int i = 0; i < WARM_SPINS && state == SLOT_GO; i++) {
        relax();
        state = state_of(slot);
    }
    while ((state = state_of(slot)) == SLOT_GO) {
        sys4(SYS_futex, &slot->state, FUTEX_WAIT, SLOT_GO, &look);
        int lost = child_has_ended(l->pidfd, 0) || (clock_ns() >= until && !is_at_work(slot, plan));
        if (lost && change(slot, SLOT_GO, SLOT_CANCELLED))
            break;
    }
    state = state_of(slot);
    if (state == SLOT_STARTED) {
        __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_RELEASE);
        return WARM_STARTED;
    }
    l->failed = slot->failed;
    *detail = (uint32_t)slot->error;
    child_kill_and_reap(l->pid, l->pidfd);
    l->pid = l->pidfd = -1;
    __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_RELEASE);
    if (state == SLOT_FAILED)
        return l->failed >= 0 ? WARM_STEP_FAILED : WARM_REFUSED;
    /* It died, or was stopped, with some of its steps done: only what may be done twice is. */
    *detail = ECANCELED;
    return plan->repeatable ? WARM_REFUSED : WARM_LOST;
}

enum warm_outcome slot_go(struct warm *w, struct launch *l, const struct warm_plan *plan, struct slot *slot,
                          const struct surroundings *now, uint32_t *detail)
{
    slot->ignored = now->ignored;
    slot->umask = now->umask == w->surroundings.umask ? -1 : now->umask;
    slot->group = now->group == w->surroundings.group ? 0 : now->group;
    slot->limits = surroundings_limits_to_set(&w->surroundings, now, slot->limit);
    slot->answers = plan->may_fail || slot->group || slot->limits;
    uint32_t state = await_ready(w, slot);
    enum warm_outcome known = slot->pid ? family_await_birth(w, slot->pid, detail) : WARM_STARTED;
    if (known != WARM_STARTED)
        return slot_take_back(w, slot, state, known);
    if (state == SLOT_FAILED)
        return failed_in(w, l, slot, detail);
    if (state != SLOT_READY || !change(slot, SLOT_READY, SLOT_GO))
        return slot_take_back(w, slot, state, family_has_died(w, slot) ? WARM_GONE : WARM_FROZEN);
    wake(slot);
    family_hand_over(w, slot, l);
    if (!slot->answers) /* nothing can fail any more: like a child that has just been executed, it is on its way */
        return WARM_STARTED;
    /* Its steps may wait for another start's, as two ends of a FIFO do: from here on it is a child by itself. */
    pthread_mutex_unlock(&w->lock);
    enum warm_outcome outcome = await_steps(l, plan, slot, detail);
    pthread_mutex_lock(&w->lock);
    return outcome;
}
