/* image: the files a template holds, checked before every launch.
 *
 * In: paths and descriptors (owned from then on), one of which is executed.
 * Out: a launch that runs the pinned file and no other; or what is stale, foreign or no longer allowed.
 */
#ifndef ELFOLIO_IMAGE_H
#define ELFOLIO_IMAGE_H

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include "identity.h"
#include "launch.h"
#include "warm.h"

/* A script, its interpreter, should that be a script its own, ...: the kernel follows five. */
#define IMAGE_FILES 6

struct held_file {
    char *path; /* NULL: held by the descriptor alone */
    int fd;
    struct file_key key;
};

struct image {
    int count;
    int executed; /* index of the file that execve maps */
    struct held_file file[IMAGE_FILES];
    struct authority authority;
    pid_t owner;
    unsigned generation; /* of the process: forks count */
    int leasable;
    int lease_users;
    pthread_mutex_t lease_lock;
};

enum image_status {
    IMAGE_READY,
    IMAGE_FOREIGN,     /* made by another process */
    IMAGE_UNAUTHORIZED, /* detail: enum authority_field */
    IMAGE_STALE,       /* index; detail: enum key_field, or 0 with error */
    IMAGE_FAILED,      /* error: an errno, launch.failed says where */
    IMAGE_CHANGED,     /* strict: the check after exec found another file; the child was killed */
    IMAGE_OBJECT,      /* as IMAGE_STALE, but index counts the warm image's objects */
};

struct image_result {
    enum image_status status;
    int index;
    uint32_t detail;
    int error;
    int64_t check_ns, launch_ns;
    enum warm_outcome warm; /* WARM_OUTCOMES: not tried */
    uint32_t warm_detail;
};

/* Reads the keys and the caller's authority. 0 or an errno. file[].path and .fd are set by the caller. */
int image_init(struct image *image, int want_lease);
void image_free(struct image *image);
void image_check(struct image *image, struct image_result *result);
/* A template's process that may serve a launch, and what it needs of the plan; both NULL: none. */
struct warm_way {
    struct warm *warm;
    const struct warm_plan *plan;
};

/* check, launch, and with `strict` the check of what really runs. */
void image_launch(struct image *image, struct launch *l, struct warm_way way, int strict, struct image_result *result);
/* Registers what must happen after fork(); once a process. */
int image_module_init(void);

#endif
