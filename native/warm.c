/* warm: one start, from what is cheap to see to the owner's word. */
#define _GNU_SOURCE
#include "warm_parts.h"

#include <unistd.h>

#include "sys.h"

/* What is cheap to see is looked at first, then the request is sent; all else is checked while the standby wakes up and
 * prepares, which takes about as long. */
static enum warm_outcome launch_locked(struct warm *w, struct launch *l, const struct warm_plan *plan,
                                       struct warm_check check, uint32_t *detail)
{
    struct outgoing *out = w->outgoing;
    struct surroundings now;
    int fds[WARM_FDS], directory;
    uint32_t index;
    if (w->dead || !warm_is_ours(w))
        return WARM_GONE;
    if (warm_is_idle(w))
        return WARM_IDLE;
    if (w->served >= w->rotate_after || clock_ns() - w->born_ns > w->max_age_ns)
        return WARM_WORN;
    if (!warm_environment_fits(w, l->envp))
        return WARM_ENVIRONMENT;
    struct slot *slot = slot_free(w, &index);
    if (!slot)
        return WARM_BUSY;
    size_t bytes = request_compose(l, plan, out, fds);
    if (!bytes)
        return WARM_TOO_LARGE;
    out->request.slot = index;
    enum warm_outcome outcome = request_add_directory(w, out, fds, &directory);
    if (outcome != WARM_STARTED)
        return outcome;
    outcome = family_note_births(w, detail);
    slot->pid = 0;
    slot->state = SLOT_ASKED;
    if (outcome == WARM_STARTED)
        outcome = request_send(w, out, bytes, fds);
    if (directory >= 0)
        close(directory);
    if (outcome != WARM_STARTED) {
        slot->state = SLOT_FREE;
        return outcome;
    }
    if (!check.passes(check.of))
        return slot_take_back(w, slot, SLOT_ASKED, WARM_FORBIDDEN);
    outcome = warm_still_fits(w, &now, detail);
    if (outcome != WARM_STARTED)
        return slot_take_back(w, slot, SLOT_ASKED, outcome);
    return slot_go(w, l, plan, slot, &now, detail);
}

enum warm_outcome warm_launch(struct warm *w, struct launch *l, const struct warm_plan *plan, struct warm_check check,
                              uint32_t *detail)
{
    *detail = 0;
    l->how = 0;
    l->pid = l->pidfd = -1;
    pthread_mutex_lock(&w->lock);
    enum warm_outcome outcome = launch_locked(w, l, plan, check, detail);
    /* Not where each start is to be told what has changed. */
    int stale = outcome == WARM_STALE && !(l->flags & LAUNCH_WHOLE);
    if (outcome == WARM_GONE || outcome == WARM_FROZEN || outcome == WARM_BARREN ||
        outcome == WARM_WORN || outcome == WARM_IDLE || stale)
        w->dead = 1;
    pthread_mutex_unlock(&w->lock);
    return outcome;
}
