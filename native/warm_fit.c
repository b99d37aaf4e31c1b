/* warm_fit: may this start be warm? Whether what the template's process was born with is what an exec would meet now:
 * variables, what is mapped, surroundings.
 */
#define _GNU_SOURCE
#include "warm_parts.h"

#include <errno.h>
#include <string.h>

static int starts(const char *s, const char *prefix)
{
    return !strncmp(s, prefix, strlen(prefix));
}

int warm_variable_counts(const struct warm *w, const char *variable)
{
    size_t n = strcspn(variable, "=");
    /* The dynamic linker's own, and the C library's tunables, are read without getenv. All else was seen to be read. */
    if (w->whole_environment || starts(variable, "LD_") || starts(variable, "GLIBC_") || starts(variable, "MALLOC_"))
        return 1;
    for (uint32_t i = 0; i < w->variable_count; i++)
        if (!strncmp(variable, w->variables[i], n) && !w->variables[i][n])
            return 1;
    return 0;
}

int warm_environment_fits(const struct warm *w, char *const *envp)
{
    const char *at = w->environment, *end = at + w->environment_bytes;
    for (; *envp; envp++) {
        if (!warm_variable_counts(w, *envp))
            continue;
        size_t n = strlen(*envp) + 1;
        if ((size_t)(end - at) < n || memcmp(at, *envp, n))
            return 0;
        at += n;
    }
    return at == end;
}

int warm_objects_stand(const struct warm *w, uint32_t *which, uint32_t *differs, int *error)
{
    for (uint32_t i = 0; i < w->object_count; i++) {
        const struct warm_object *o = &w->objects[i];
        struct file_key now;
        int err = file_key_read(o->path, -1, &now);
        *which = i;
        *error = o->absent ? EEXIST : err;
        *differs = o->absent || err ? 0 : file_key_differs(&o->key, &now);
        if (o->absent ? err != ENOENT && err != ENOTDIR : err || *differs)
            return 0;
    }
    *error = 0;
    return 1;
}

enum warm_outcome warm_still_fits(struct warm *w, struct surroundings *now, uint32_t *detail)
{
    uint32_t differs;
    int error;
    if (!warm_objects_stand(w, detail, &differs, &error))
        return WARM_STALE;
    if (surroundings_read(now, w->pid, w->surroundings.terminal != 0))
        *detail = DRIFT_UNREADABLE;
    else
        *detail = surroundings_differ(&w->surroundings, now);
    if (*detail == DRIFT_LIMITS && !surroundings_limits_unfit(&w->surroundings, now))
        *detail = DRIFT_NONE;
    return *detail ? WARM_DRIFTED : WARM_STARTED;
}
