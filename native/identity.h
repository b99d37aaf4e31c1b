/* identity: what a template holds of the files it runs and of the one who made it.
 *
 * In: paths and descriptors; the calling thread's credentials.
 * Out: keys and snapshots that can be compared, and which field differs.
 */
#ifndef ELFOLIO_IDENTITY_H
#define ELFOLIO_IDENTITY_H

#include <stdint.h>
#include <sys/types.h>

/* The fields of the kernel proposal's struct spawn_template_file_key. */
struct file_key {
    uint64_t device, inode, size;
    uint32_t mode, owner, group;
    int64_t ctime_s, ctime_ns, mtime_s, mtime_ns;
};

enum key_field {
    KEY_DEVICE = 1,
    KEY_INODE = 2,
    KEY_SIZE = 4,
    KEY_MODE = 8,
    KEY_OWNER = 16,
    KEY_GROUP = 32,
    KEY_CTIME = 64,
    KEY_MTIME = 128,
};

/* path: what it leads to now; NULL: the open file. 0 or an errno. */
int file_key_read(const char *path, int fd, struct file_key *key);
uint32_t file_key_differs(const struct file_key *a, const struct file_key *b);

#define LABEL_BYTES 256
#define GROUPS_INLINE 64 /* more are rare, and then allocated */

/* The authority a template was made with. Linux keeps it by thread; it is the calling thread's. */
struct authority {
    uint32_t ids[8]; /* real, effective, saved, filesystem: user, then group */
    uint64_t effective, permitted, inheritable, bounding, ambient;
    int securebits, no_new_privs;
    int group_count;
    gid_t *groups; /* points to few, or is allocated */
    gid_t few[GROUPS_INLINE];
    int label_length; /* -1: no security module labels tasks here */
    char label[LABEL_BYTES];
};

enum authority_field {
    AUTH_IDS = 1,
    AUTH_GROUPS = 2,
    AUTH_CAPABILITIES = 4,
    AUTH_SECUREBITS = 8,
    AUTH_NO_NEW_PRIVS = 16,
    AUTH_LABEL = 32,
};

/* Of a thread whose ids, groups, capabilities and no_new_privs are known to be the same: only the rest is asked for. */
uint32_t authority_rest_differs(const struct authority *a);

/* The result must not be moved: it may point into itself. */
int authority_read(struct authority *a);
void authority_free(struct authority *a);
/* Which fields of the calling thread differ from *a; 0: none. *error: an errno, when it cannot be told. */
uint32_t authority_differs(const struct authority *a, int *error);

#endif
