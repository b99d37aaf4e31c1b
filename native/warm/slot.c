/* slot: the child's half of the agreement on whether its start happens (enum slot_state in protocol.h). */
#define _GNU_SOURCE
#include "parts.h"

#include <errno.h>
#include <linux/futex.h>
#include <time.h>

#include "../sys.h"

#define WARM_WAITS 30 /* of a second each, until an owner has been silent for good */

struct slot *slot;

static int change(uint32_t from, uint32_t to)
{
    return __atomic_compare_exchange_n(&slot->state, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static void wake_owner(void)
{
    sys3(SYS_futex, &slot->state, FUTEX_WAKE, 1);
}

/* The owner has taken it back. It also frees the slot, once we have ended: it may be another start's by then. */
static __attribute__((noreturn)) void give_up(void)
{
    leave(127);
}

void fail_from(uint32_t state, int step, long error)
{
    slot->failed = step;
    slot->error = (int32_t)-error;
    if (!change(state, SLOT_FAILED))
        give_up();
    wake_owner();
    leave(127);
}

void fail(int step, long error)
{
    fail_from(SLOT_ASKED, step, error);
}

/* The owner checks while the child prepares, and is mostly done first: then nobody sleeps. An owner that is killed or
 * executes something meanwhile says nothing. */
void await_go(void)
{
    if (!change(SLOT_ASKED, SLOT_READY))
        give_up();
    wake_owner();
    struct timespec second = {1, 0};
    for (int i = 0; i < WARM_SPINS && __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == SLOT_READY; i++)
        relax();
    for (int waits = 0; waits < WARM_WAITS; waits++) {
        uint32_t state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
        if (state == SLOT_GO)
            return;
        if (state != SLOT_READY)
            give_up();
        sys4(SYS_futex, &slot->state, FUTEX_WAIT, SLOT_READY, &second);
        if (sys0(SYS_getppid) != (long)setup.owner)
            leave(127);
    }
    fail_from(SLOT_READY, WARM_STEP_REQUEST, -ETIMEDOUT);
}

void tell_started(void)
{
    if (!slot->answers) {
        __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_RELEASE);
        return;
    }
    if (!change(SLOT_GO, SLOT_STARTED))
        give_up();
    wake_owner();
}
