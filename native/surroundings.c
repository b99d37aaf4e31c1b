#define _GNU_SOURCE
#include "surroundings.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE 68
#endif
#ifndef SYS_kcmp
#if defined(__x86_64__)
#define SYS_kcmp 312
#else
#define SYS_kcmp 272
#endif
#endif
#define KCMP_FS 3

/* --- files of /proc ------------------------------------------------------------------------------ */

enum source { SOURCE_STATUS, SOURCE_CGROUP, SOURCE_LIMITS, SOURCE_OOM, SOURCE_COREDUMP, SOURCE_STAT, SOURCE_NS, SOURCES };

static const char *const names[SOURCES] = {"status", "cgroup", "limits", "oom_score_adj", "coredump_filter", "stat", "ns"};

/* Kept open for the main thread, whose files /proc/self has: opening one costs more than reading it. Other threads
 * have their own status and cgroup, and open them each time. */
static int kept[SOURCES] = {-1, -1, -1, -1, -1, -1, -1};
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

void surroundings_after_fork(void)
{
    pthread_mutex_init(&kept_lock, NULL);
    for (int i = 0; i < SOURCES; i++) {
        if (kept[i] >= 0)
            close(kept[i]);
        kept[i] = -1;
    }
}

static int is_main_thread(void)
{
    return sys0(SYS_gettid) == sys0(SYS_getpid);
}

static int open_source(enum source which, const char *of)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/%s", of, names[which]);
    int flags = which == SOURCE_NS ? O_RDONLY | O_DIRECTORY : O_RDONLY;
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0 || fd > 2)
        return fd;
    int higher = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* a standard stream that the host has closed stays closed */
    close(fd);
    return higher;
}

static int is_same_file(int a, int b)
{
    struct stat x, y;
    return b >= 0 && !fstat(a, &x) && !fstat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A host may close what it does not know, and reuse the number: what is read is then another file, or nothing. The
 * caller finds a difference, and asks again with `fresh`. */
static int kept_source(enum source which, int fresh)
{
    pthread_mutex_lock(&kept_lock);
    int fd = kept[which];
    if (fresh || fd < 0) {
        fd = open_source(which, "self");
        if (fd >= 0 && is_same_file(fd, kept[which])) {
            close(fd); /* it was something else that could not be read */
            fd = kept[which];
        }
        if (fd >= 0)
            kept[which] = fd;
    }
    pthread_mutex_unlock(&kept_lock);
    return fd;
}

static int read_source(enum source which, int of_thread, int fresh, char *to, size_t size)
{
    int own = of_thread && !is_main_thread();
    int fd = own ? open_source(which, "thread-self") : kept_source(which, fresh);
    if (fd < 0)
        return -1;
    long got = pread(fd, to, size - 1, 0);
    if (own)
        close(fd);
    if (got <= 0 || (size_t)got >= size - 1)
        return -1;
    to[got] = 0;
    return (int)got;
}

static int read_text(enum source which, int of_thread, int fresh, struct text *text)
{
    text->length = read_source(which, of_thread, fresh, text->bytes, sizeof text->bytes);
    return text->length > 0;
}

/* --- status -------------------------------------------------------------------------------------- */

static const char *field(const char *status, const char *name)
{
    const char *found = strstr(status, name);
    return found ? found + strlen(name) : "";
}

/* Copies what stands from one field to another; 0: it is not there, or too long. */
static int part_of(const char *status, const char *first, const char *behind, char *to, size_t size)
{
    const char *from = strstr(status, first), *end = from ? strstr(from, behind) : NULL;
    if (!end || (size_t)(end - from) >= size)
        return 0;
    memcpy(to, from, (size_t)(end - from));
    return 1;
}

static int read_status(struct surroundings *s, int fresh)
{
    char status[4096];
    if (read_source(SOURCE_STATUS, 1, fresh, status, sizeof status) < 0 || memcmp(status, "Name:", 5))
        return 0;
    s->umask = (int)strtol(field(status, "\nUmask:"), NULL, 8);
    const char *at = field(status, "\nTHP_enabled:"); /* the order of fs/proc/array.c: each is looked for behind the last */
    s->thp = *at ? atoi(at) : -1;
    s->ignored = strtoull(field(*at ? at : status, "\nSigIgn:"), NULL, 16);
    at = field(status, "\nSeccomp:");
    s->seccomp = atoi(at);
    s->filters = atoi(field(at, "\nSeccomp_filters:"));
    return part_of(at, "\nCpus_allowed:", "\nvoluntary_ctxt", s->cpus_and_nodes, sizeof s->cpus_and_nodes) &&
           part_of(status, "\nUid:", "\nFDSize:", s->ids, sizeof s->ids / 2) &&
           part_of(status, "\nGroups:", "\nNStgid:", s->ids + sizeof s->ids / 2, sizeof s->ids / 2) &&
           part_of(status, "\nCapInh:", "\nSeccomp:", s->capabilities, sizeof s->capabilities);
}

/* --- the rest ------------------------------------------------------------------------------------ */

int directory_read(const char *path, uint64_t out[3])
{
    struct statx x;
    if (statx(AT_FDCWD, path, AT_NO_AUTOMOUNT, STATX_INO | STATX_MNT_ID, &x))
        return errno;
    out[0] = (uint64_t)x.stx_dev_major << 32 | x.stx_dev_minor;
    out[1] = x.stx_ino;
    out[2] = x.stx_mnt_id; /* a mount namespace's own */
    return 0;
}

/* Only with CAP_SYS_ADMIN can they be changed without a new user namespace, at which `confined` shows. */
static int read_namespaces(struct surroundings *s, int fresh)
{
    /* A mount namespace of its own shows in `root`, a user namespace in `confined`. */
    static const char *const kinds[] = {"net", "ipc", "uts", "cgroup", "pid_for_children", "time_for_children"};
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (sys2(SYS_capget, &head, data) < 0 || !(data[0].permitted >> CAP_SYS_ADMIN & 1))
        return 1;
    int own = !is_main_thread();
    int fd = own ? open_source(SOURCE_NS, "thread-self") : kept_source(SOURCE_NS, fresh);
    if (fd < 0)
        return 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char link[64] = "";
        ssize_t n = readlinkat(fd, kinds[i], link, sizeof link - 1);
        const char *number = n > 0 ? strchr(link, '[') : NULL;
        s->namespaces[i] = number ? strtoull(number + 1, NULL, 10) : 0;
    }
    if (own)
        close(fd);
    return 1;
}

/* tty_nr: the seventh field, the fifth behind the name's last parenthesis. Only who has a terminal can lose it, and
 * only a session's leader can get one. */
static int read_terminal(struct surroundings *s, int fresh)
{
    char stat[1024];
    if (read_source(SOURCE_STAT, 0, fresh, stat, sizeof stat) < 0)
        return 0;
    const char *at = strrchr(stat, ')');
    int ppid, group, session;
    return at && sscanf(at + 2, "%*c %d %d %d %d", &ppid, &group, &session, &s->terminal) == 4;
}

static int read_once(struct surroundings *s, int template_pid, int had_terminal, int fresh)
{
    memset(s, 0, sizeof *s);
    if (!read_status(s, fresh) || !read_text(SOURCE_LIMITS, 0, fresh, &s->limits) ||
        !read_text(SOURCE_CGROUP, 1, fresh, &s->cgroup) || !read_text(SOURCE_OOM, 0, fresh, &s->oom_score) ||
        !read_text(SOURCE_COREDUMP, 0, fresh, &s->coredump_filter) || !read_namespaces(s, fresh) ||
        directory_read(".", s->cwd) || directory_read("/", s->root))
        return 0;
    s->group = (int)sys1(SYS_getpgid, 0);
    s->session = (int)sys1(SYS_getsid, 0);
    s->leads = s->session == (int)sys0(SYS_getpid);
    if ((had_terminal || s->leads) && !read_terminal(s, fresh))
        return 0;
    sys4(SYS_sched_getattr, 0, s->attr, 48, 0);
    sys3(SYS_sched_getaffinity, 0, sizeof s->affinity, s->affinity);
    s->ioprio = (int)sys2(SYS_ioprio_get, 1, 0);
    s->timer_slack = (int)sys1(SYS_prctl, PR_GET_TIMERSLACK);
    s->personality = (int)sys1(SYS_personality, 0xffffffff);
    s->keyring = (int)sys3(SYS_keyctl, 0, -3, 0); /* the session keyring's id, making none */
    s->merge = (int)sys5(SYS_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
    sys5(SYS_get_mempolicy, &s->policy, s->nodes, sizeof s->nodes * 8, 0, 0);
    if (!template_pid)
        for (int i = 0; i < 16; i++)
            sys4(SYS_prlimit64, 0, i, 0, s->limit[i]);
    /* A process in a Landlock domain, or a user namespace, of its own may look at nobody outside of it. A thread of
     * another root or umask than its process's shows too. */
    if (template_pid)
        s->confined = sys5(SYS_kcmp, sys0(SYS_getpid), template_pid, 1, 0, 0) < 0;
    if (!is_main_thread() && sys5(SYS_kcmp, sys0(SYS_getpid), sys0(SYS_gettid), KCMP_FS, 0, 0) != 0)
        return 0;
    return 1;
}

int surroundings_read(struct surroundings *s, int template_pid, int had_terminal)
{
    return read_once(s, template_pid, had_terminal, 0) || read_once(s, template_pid, had_terminal, 1) ? 0 : EIO;
}

static int same_text(const struct text *a, const struct text *b)
{
    return a->length == b->length && !memcmp(a->bytes, b->bytes, (size_t)a->length);
}

uint32_t surroundings_limits_to_set(const struct surroundings *born, const struct surroundings *now,
                                    uint64_t limit[16][2])
{
    uint32_t differs = 0;
    if (same_text(&born->limits, &now->limits))
        return 0;
    for (int i = 0; i < 16; i++) {
        sys4(SYS_prlimit64, 0, i, 0, limit[i]);
        differs |= memcmp(limit[i], born->limit[i], sizeof limit[i]) ? 1U << i : 0;
    }
    return differs;
}

int surroundings_limits_unfit(const struct surroundings *born, const struct surroundings *now)
{
    uint64_t limit[16][2];
    uint32_t differs = surroundings_limits_to_set(born, now, limit);
    for (int i = 0; i < 16; i++)
        if (differs >> i & 1 && limit[i][1] > born->limit[i][1])
            return 1;
    /* The kernel reads them at exec, the C library at its start. */
    return (differs & (1U << RLIMIT_STACK | 1U << RLIMIT_AS | 1U << RLIMIT_DATA)) != 0;
}

#define SAME(field) (!memcmp(&a->field, &b->field, sizeof a->field))

enum drift surroundings_differ(const struct surroundings *a, const struct surroundings *b)
{
    const struct {
        enum drift what;
        int same;
    } parts[] = {
        {DRIFT_ROOT, SAME(root)},
        {DRIFT_SCHEDULING, SAME(attr)},
        {DRIFT_AFFINITY, SAME(affinity) && SAME(cpus_and_nodes)},
        {DRIFT_IOPRIO, SAME(ioprio)},
        {DRIFT_TIMER_SLACK, SAME(timer_slack)},
        {DRIFT_OOM_SCORE, same_text(&a->oom_score, &b->oom_score)},
        {DRIFT_MEMORY_POLICY, SAME(policy) && SAME(nodes)},
        {DRIFT_COREDUMP_FILTER, same_text(&a->coredump_filter, &b->coredump_filter)},
        {DRIFT_MEMORY_FLAGS, SAME(thp) && SAME(merge)},
        {DRIFT_PERSONALITY, SAME(personality)},
        {DRIFT_KEYRINGS, SAME(keyring)},
        {DRIFT_CGROUP, same_text(&a->cgroup, &b->cgroup)},
        {DRIFT_NAMESPACES, SAME(namespaces)},
        {DRIFT_SESSION, SAME(session)},
        {DRIFT_TERMINAL, SAME(terminal)},
        {DRIFT_SECCOMP, SAME(seccomp) && SAME(filters)},
        {DRIFT_CREDENTIALS, SAME(ids) && SAME(capabilities)},
        {DRIFT_CONFINED, !b->confined},
        {DRIFT_LIMITS, same_text(&a->limits, &b->limits)},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!parts[i].same)
            return parts[i].what;
    return DRIFT_NONE;
}
