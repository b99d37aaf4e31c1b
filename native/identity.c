#define _GNU_SOURCE
#include "identity.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

#define LSM_ATTR_CURRENT 100

/* --- files --------------------------------------------------------------------------------------- */

int file_key_read(const char *path, int fd, struct file_key *key)
{
    struct stat st;
    if (path ? stat(path, &st) : fstat(fd, &st))
        return errno;
    *key = (struct file_key){
        .device = st.st_dev,
        .inode = st.st_ino,
        .size = (uint64_t)st.st_size,
        .mode = st.st_mode,
        .owner = st.st_uid,
        .group = st.st_gid,
        .ctime_s = st.st_ctim.tv_sec,
        .ctime_ns = st.st_ctim.tv_nsec,
        .mtime_s = st.st_mtim.tv_sec,
        .mtime_ns = st.st_mtim.tv_nsec,
    };
    return 0;
}

uint32_t file_key_differs(const struct file_key *a, const struct file_key *b)
{
    uint32_t out = 0;
    out |= a->device != b->device ? KEY_DEVICE : 0;
    out |= a->inode != b->inode ? KEY_INODE : 0;
    out |= a->size != b->size ? KEY_SIZE : 0;
    out |= a->mode != b->mode ? KEY_MODE : 0;
    out |= a->owner != b->owner ? KEY_OWNER : 0;
    out |= a->group != b->group ? KEY_GROUP : 0;
    out |= a->ctime_s != b->ctime_s || a->ctime_ns != b->ctime_ns ? KEY_CTIME : 0;
    out |= a->mtime_s != b->mtime_s || a->mtime_ns != b->mtime_ns ? KEY_MTIME : 0;
    return out;
}

/* --- authority ----------------------------------------------------------------------------------- */

static void read_ids(uint32_t ids[8])
{
    uid_t u[3] = {0};
    gid_t g[3] = {0};
    getresuid(&u[0], &u[1], &u[2]);
    getresgid(&g[0], &g[1], &g[2]);
    for (int i = 0; i < 3; i++) {
        ids[i] = u[i];
        ids[4 + i] = g[i];
    }
    /* An impossible id changes nothing and returns the present one. */
    ids[3] = (uint32_t)sys1(SYS_setfsuid, -1);
    ids[7] = (uint32_t)sys1(SYS_setfsgid, -1);
}

static int read_capabilities(struct authority *a)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    long err = sys2(SYS_capget, &head, data);
    if (err < 0)
        return (int)-err;
    a->effective = data[0].effective | (uint64_t)data[1].effective << 32;
    a->permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
    a->inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
    return 0;
}

/* Only CAP_SETPCAP can shrink the bounding set, so that without it forty calls are saved. The ambient
 * set lies within the inheritable one and needs no look where that is empty. */
static uint64_t read_bounding(uint64_t effective)
{
    uint64_t out = 0;
    if (!(effective >> CAP_SETPCAP & 1))
        return 0;
    for (int cap = 0; cap < 64; cap++) {
        long has = sys2(SYS_prctl, PR_CAPBSET_READ, cap);
        if (has < 0)
            break;
        out |= (uint64_t)has << cap;
    }
    return out;
}

static uint64_t read_ambient(uint64_t inheritable)
{
    uint64_t out = 0;
    for (int cap = 0; cap < 64 && inheritable >> cap; cap++)
        if (inheritable >> cap & 1 && sys5(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1)
            out |= 1ULL << cap;
    return out;
}

/* lsm_get_self_attr (Linux 6.8) gives all modules' labels; before it, the first module's file. */
static int read_label(char *label)
{
    uint32_t size = LABEL_BYTES;
    long got = sys4(SYS_lsm_get_self_attr, LSM_ATTR_CURRENT, label, &size, 0);
    if (got >= 0)
        return (int)size;
    if (got != -ENOSYS && got != -EPERM)
        return got == -EOPNOTSUPP ? -1 : 0;
    int fd = open("/proc/thread-self/attr/current", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t length = read(fd, label, LABEL_BYTES);
    close(fd);
    return length < 0 ? -1 : (int)length;
}

static int read_groups(struct authority *a)
{
    a->groups = a->few;
    a->group_count = getgroups(GROUPS_INLINE, a->few);
    if (a->group_count >= 0)
        return 0;
    if (errno != EINVAL) /* EINVAL: there are more */
        return errno;
    int count = getgroups(0, NULL);
    a->groups = malloc((size_t)count * sizeof *a->groups);
    if (!a->groups)
        return ENOMEM;
    a->group_count = getgroups(count, a->groups);
    return a->group_count < 0 ? errno : 0;
}

int authority_read(struct authority *a)
{
    a->groups = NULL;
    read_ids(a->ids);
    int err = read_capabilities(a);
    if (!err)
        err = read_groups(a);
    if (err) {
        authority_free(a);
        return err;
    }
    a->bounding = read_bounding(a->effective);
    a->ambient = read_ambient(a->inheritable);
    a->securebits = (int)sys1(SYS_prctl, PR_GET_SECUREBITS);
    a->no_new_privs = (int)sys5(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    a->label_length = read_label(a->label);
    return 0;
}

void authority_free(struct authority *a)
{
    if (a->groups != a->few)
        free(a->groups);
    a->groups = NULL;
}

uint32_t authority_differs(const struct authority *a, int *error)
{
    struct authority now;
    uint32_t out = 0;
    *error = authority_read(&now);
    if (*error)
        return 0;
    out |= memcmp(a->ids, now.ids, sizeof a->ids) ? AUTH_IDS : 0;
    if (a->group_count != now.group_count ||
        memcmp(a->groups, now.groups, (size_t)a->group_count * sizeof *a->groups))
        out |= AUTH_GROUPS;
    if (a->effective != now.effective || a->permitted != now.permitted ||
        a->inheritable != now.inheritable || a->bounding != now.bounding || a->ambient != now.ambient)
        out |= AUTH_CAPABILITIES;
    out |= a->securebits != now.securebits ? AUTH_SECUREBITS : 0;
    out |= a->no_new_privs != now.no_new_privs ? AUTH_NO_NEW_PRIVS : 0;
    if (a->label_length != now.label_length ||
        (now.label_length > 0 && memcmp(a->label, now.label, (size_t)now.label_length)))
        out |= AUTH_LABEL;
    authority_free(&now);
    return out;
}

uint32_t authority_rest_differs(const struct authority *a)
{
    char label[LABEL_BYTES];
    uint32_t out = 0;
    int length = read_label(label);
    out |= a->securebits != (int)sys1(SYS_prctl, PR_GET_SECUREBITS) ? AUTH_SECUREBITS : 0;
    if (a->label_length != length || (length > 0 && memcmp(a->label, label, (size_t)length)))
        out |= AUTH_LABEL;
    return out;
}
