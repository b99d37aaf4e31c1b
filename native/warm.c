#define _GNU_SOURCE
#include "warm.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef SIOCOUTQ
#define SIOCOUTQ 0x5411 /* include/uapi/linux/sockios.h: TIOCOUTQ */
#endif

#define PATIENCE_NS 2000000000LL /* an answer takes some tens of microseconds */
#define LOOK_NS 200000000LL      /* how often to look what one does that does not come */

/* --- all of them: a forked child must not hold the sockets open ----------------------------------- */

static struct warm *all;
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;

void warm_after_fork(void)
{
    pthread_mutex_init(&all_lock, NULL);
    for (struct warm *w = all; w; w = w->next) {
        pthread_mutex_init(&w->lock, NULL);
        w->dead = 1;
        close(w->socket);
        close(w->taken);
        close(w->pidfd);
        if (w->standby_pidfd >= 0)
            close(w->standby_pidfd);
        if (w->next_pidfd >= 0)
            close(w->next_pidfd);
        w->socket = w->taken = w->pidfd = w->standby_pidfd = w->next_pidfd = -1;
    }
    all = NULL;
    surroundings_after_fork();
}

void warm_adopt(struct warm *w)
{
    pthread_mutex_init(&w->lock, NULL);
    w->standby = w->next_standby = 0;
    w->standby_pidfd = w->next_pidfd = -1;
    w->born_ns = clock_ns();
    pthread_mutex_lock(&all_lock);
    w->next = all;
    w->before = &all;
    if (all)
        all->before = &w->next;
    all = w;
    pthread_mutex_unlock(&all_lock);
}

/* --- replies --------------------------------------------------------------------------------------- */

union control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(WARM_FDS * sizeof(int))];
};

/* 1: one came; 0: none yet; -1: none will. */
static int read_reply(struct warm *w, struct reply *reply, int *fd)
{
    union control control;
    struct iovec iov = {reply, sizeof *reply};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(sizeof(int))};
    ssize_t got = recvmsg(w->socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    *fd = -1;
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (got != sizeof *reply)
        return -1;
    if (m.msg_controllen >= CMSG_LEN(sizeof(int)) && control.head.cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(&control.head), sizeof *fd);
    return 1;
}

static void reap(pid_t pid, int pidfd)
{
    siginfo_t info;
    long id = pidfd >= 0 ? pidfd : pid;
    while (sys5(SYS_waitid, pidfd >= 0 ? P_PIDFD : P_PID, id, &info, WEXITED | __WALL, 0) == -EINTR)
        ;
    if (pidfd >= 0)
        close(pidfd);
}

static void kill_and_reap(pid_t pid, int pidfd)
{
    if (pidfd >= 0)
        sys4(SYS_pidfd_send_signal, pidfd, SIGKILL, 0, 0);
    reap(pid, pidfd);
}

static int has_ended(int pidfd, int64_t wait_ns)
{
    struct pollfd p = {pidfd, POLLIN, 0};
    struct timespec limit = {wait_ns / 1000000000, wait_ns % 1000000000};
    return pidfd < 0 || ppoll(&p, 1, &limit, NULL) > 0;
}

static void note_birth(struct warm *w, const struct reply *reply, int fd)
{
    if (!w->standby) {
        w->standby = reply->pid;
        w->standby_pidfd = fd;
    } else {
        w->next_standby = reply->pid;
        w->next_pidfd = fd;
    }
}

/* A template that was killed may have borne a child and not come to say so. It stands by at our socket. */
static void reap_unannounced(struct warm *w)
{
    char path[64], link[64];
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/self/task/%.16s/children", task->d_name);
        FILE *children = task->d_name[0] == '.' ? NULL : fopen(path, "re");
        int pid;
        while (children && fscanf(children, "%d", &pid) == 1) {
            uint64_t inode = 0;
            snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, WARM_FD_CONTROL);
            ssize_t n = readlink(path, link, sizeof link - 1);
            link[n < 0 ? 0 : n] = 0;
            if (sscanf(link, "socket:[%lu]", &inode) != 1 || inode != w->peer_inode || pid == w->pid)
                continue;
            int pidfd = (int)sys2(SYS_pidfd_open, pid, 0);
            if (pidfd >= 0)
                kill_and_reap(pid, pidfd);
        }
        if (children)
            fclose(children);
    }
    if (tasks)
        closedir(tasks);
}

void warm_close(struct warm *w)
{
    struct reply reply;
    int fd;
    if (w->socket < 0)
        return;
    w->dead = 1;
    pthread_mutex_lock(&all_lock);
    *w->before = w->next;
    if (w->next)
        w->next->before = w->before;
    pthread_mutex_unlock(&all_lock);
    /* It ends between two births by itself; one that does not is frozen. */
    int killed = has_ended(w->pidfd, 0);
    shutdown(w->socket, SHUT_WR);
    if (!has_ended(w->pidfd, LOOK_NS)) {
        killed = 1;
        sys4(SYS_pidfd_send_signal, w->pidfd, SIGKILL, 0, 0);
    }
    reap(w->pid, w->pidfd);
    while (read_reply(w, &reply, &fd) > 0) {
        if (reply.kind == REPLY_BORN)
            note_birth(w, &reply, fd);
        else if (fd >= 0)
            close(fd);
    }
    if (w->standby)
        kill_and_reap(w->standby, w->standby_pidfd);
    if (w->next_standby)
        kill_and_reap(w->next_standby, w->next_pidfd);
    if (killed)
        reap_unannounced(w);
    close(w->socket);
    close(w->taken);
    w->socket = w->taken = w->pidfd = w->standby_pidfd = w->next_pidfd = -1;
    w->standby = w->next_standby = 0;
}

void warm_free(struct warm *w)
{
    warm_close(w);
    for (uint32_t i = 0; i < w->object_count; i++)
        free(w->objects[i].path);
    for (uint32_t i = 0; i < w->variable_count; i++)
        free(w->variables[i]);
    free(w->objects);
    free(w->variables);
    free(w->environment);
    w->object_count = w->variable_count = 0;
}

/* --- may this spawn be done warm? ------------------------------------------------------------------ */

static int starts(const char *s, const char *prefix)
{
    return !strncmp(s, prefix, strlen(prefix));
}

/* What the loader and the C library read by themselves, at their start or in what constructors call (glibc's
 * sysdeps/generic/unsecvars.h, and the locale's). */
static int is_fixed(const char *variable, size_t n)
{
    static const char *const fixed[] = {"GCONV_PATH", "GETCONF_DIR", "HOSTALIASES", "LANG", "LANGUAGE", "LOCALDOMAIN",
                                        "LOCPATH", "NIS_PATH", "NLSPATH", "OUTPUT_CHARSET", "POSIXLY_CORRECT",
                                        "RESOLV_HOST_CONF", "RES_OPTIONS", "TMPDIR", "TZ", "TZDIR"};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (!strncmp(variable, fixed[i], n) && !fixed[i][n])
            return 1;
    return 0;
}

int warm_variable_counts(const struct warm *w, const char *variable)
{
    size_t n = strcspn(variable, "=");
    if (w->whole_environment || starts(variable, "LD_") || starts(variable, "GLIBC_") || starts(variable, "MALLOC_") ||
        starts(variable, "LC_") || is_fixed(variable, n))
        return 1;
    for (uint32_t i = 0; i < w->variable_count; i++)
        if (!strncmp(variable, w->variables[i], n) && !w->variables[i][n])
            return 1;
    return 0;
}

static int environment_fits(const struct warm *w, char *const *envp)
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

static int objects_stand(const struct warm *w, uint32_t *which)
{
    for (uint32_t i = 0; i < w->object_count; i++) {
        const struct warm_object *o = &w->objects[i];
        struct file_key now;
        int err = file_key_read(o->path, -1, &now);
        *which = i;
        if (o->absent ? err != ENOENT && err != ENOTDIR : err || file_key_differs(&o->key, &now))
            return 0;
    }
    return 1;
}

/* --- the request ----------------------------------------------------------------------------------- */

static size_t put_strings(char *to, size_t room, char *const *strings, uint32_t *count)
{
    size_t used = 0;
    for (*count = 0; strings[*count]; ++*count) {
        size_t n = strlen(strings[*count]) + 1;
        if (n > room - used)
            return SIZE_MAX;
        memcpy(to + used, strings[*count], n);
        used += n;
    }
    return used;
}

/* Our own stream as a child would inherit it over exec: not at all, where it is closed or close-on-exec. */
static int is_inherited(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    return flags >= 0 && !(flags & FD_CLOEXEC);
}

struct outgoing {
    struct request request;
    char rest[WARM_MESSAGE - sizeof(struct request)];
};

/* Fills in *out and the descriptors to send; the bytes of the message, or 0 where it is too large. */
static size_t compose(const struct warm *w, const struct launch *l, const struct warm_plan *plan,
                      const struct surroundings *now, struct outgoing *out, int fds[WARM_FDS])
{
    struct request *r = &out->request;
    size_t steps = plan->step_count * sizeof *plan->steps, used = steps + plan->blob_bytes;
    if (used > sizeof out->rest)
        return 0;
    memcpy(out->rest, plan->steps, steps);
    memcpy(out->rest + steps, plan->blob, plan->blob_bytes);
    size_t argv = put_strings(out->rest + used, sizeof out->rest - used, l->argv, &r->argc);
    if (argv == SIZE_MAX)
        return 0;
    used += argv;
    size_t envp = put_strings(out->rest + used, sizeof out->rest - used, l->envp, &r->envc);
    if (envp == SIZE_MAX)
        return 0;
    r->magic = WARM_MAGIC;
    r->string_bytes = (uint32_t)(argv + envp);
    r->step_count = plan->step_count;
    r->blob_bytes = plan->blob_bytes;
    r->flags = plan->flags;
    r->ignored = now->ignored;
    r->umask = now->umask == w->surroundings.umask ? -1 : now->umask;
    r->group = now->group == w->surroundings.group ? 0 : now->group;
    r->fd_count = 0;
    for (uint32_t i = 0; i < plan->fd_count; i++) {
        int source = plan->source[i];
        if (source < 0) {
            source = -1 - source;
            if (!is_inherited(source)) {
                r->flags |= (uint32_t)REQUEST_CLOSED_0 << plan->target[i];
                continue;
            }
        }
        r->target[r->fd_count] = plan->target[i];
        fds[r->fd_count++] = source;
    }
    r->kept_count = plan->kept_count;
    memcpy(r->kept, plan->kept, sizeof *plan->kept * plan->kept_count);
    return sizeof *r + used + envp;
}

static enum warm_outcome send_request(struct warm *w, struct outgoing *out, size_t bytes, const int fds[WARM_FDS])
{
    union control control;
    struct iovec iov = {out, bytes};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    size_t fd_bytes = out->request.fd_count * sizeof(int);
    if (fd_bytes) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(fd_bytes);
        control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(fd_bytes), .cmsg_level = SOL_SOCKET,
                                        .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), fds, fd_bytes);
    }
    if (sendmsg(w->socket, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return WARM_STARTED;
    switch (errno) {
    case EBADF:
        return WARM_DESCRIPTOR;
    case EMSGSIZE:
    case ENOBUFS:
    case ETOOMANYREFS:
        return WARM_TOO_LARGE;
    case EAGAIN:
        return WARM_FROZEN;
    default:
        return WARM_GONE;
    }
}

/* --- the answer ------------------------------------------------------------------------------------ */

static char state_of(pid_t pid)
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

static int request_is_unread(const struct warm *w)
{
    int queued = 0;
    return ioctl(w->socket, SIOCOUTQ, &queued) == 0 && queued > 0;
}

/* Whether to go on waiting for one that has not answered for a while. A step may take its time, as opening a FIFO
 * does; being stopped, or never even reading the request, is another matter. */
static int is_at_work(const struct warm *w, const struct warm_plan *plan)
{
    if (request_is_unread(w) || !w->standby || !plan->may_block)
        return 0;
    char state = state_of(w->standby);
    return state != 'T' && state != 't' && state != 'X' && state != 'Z';
}

/* The socket decides: what was answered before it is shut has begun; what was not finds it shut, and ends. */
static void take_back(struct warm *w)
{
    shutdown(w->socket, SHUT_RD);
}

struct answer {
    struct reply reply;
    int came;
};

static void read_all(struct warm *w, struct answer *answer)
{
    struct reply reply;
    int fd;
    while (!(answer->came && w->standby) && read_reply(w, &reply, &fd) > 0) {
        if (reply.kind == REPLY_BORN) {
            note_birth(w, &reply, fd);
            continue;
        }
        answer->reply = reply;
        answer->came = 1;
    }
}

/* Until the answer is there, and the pidfd of who gave it. */
static enum warm_outcome await_answer(struct warm *w, const struct warm_plan *plan, struct answer *answer)
{
    int64_t until = clock_ns() + PATIENCE_NS;
    for (;;) {
        struct pollfd p[3] = {{w->socket, POLLIN, 0}, {w->pidfd, POLLIN, 0}, {w->standby_pidfd, POLLIN, 0}};
        struct timespec limit = {0, LOOK_NS};
        read_all(w, answer);
        if (answer->came && (answer->reply.kind == REPLY_BARREN || w->standby))
            return WARM_STARTED;
        if (ppoll(p, 3, &limit, NULL) > 0) {
            if (p[0].revents & POLLIN)
                continue;
            read_all(w, answer); /* what was said before the end */
            if (answer->came)
                return WARM_STARTED;
            if (p[2].revents || (p[1].revents && !w->standby))
                return WARM_GONE;
            if (!p[1].revents)
                return WARM_GONE; /* the socket has hung up */
            if (has_ended(w->standby_pidfd, LOOK_NS))
                continue;
        }
        if (clock_ns() >= until && !is_at_work(w, plan)) {
            take_back(w);
            read_all(w, answer);
            return answer->came ? WARM_STARTED : WARM_FROZEN;
        }
    }
}

/* The standby has answered: it is a child like any other from now on. */
static void hand_over(struct warm *w, struct launch *l)
{
    l->pid = w->standby;
    l->pidfd = w->standby_pidfd;
    w->standby = w->next_standby;
    w->standby_pidfd = w->next_pidfd;
    w->next_standby = 0;
    w->next_pidfd = -1;
    w->served++;
    /* The next one is born from here on, not when the request was read: woken by the child, the template would wait for
     * its processor (measured: for all of `true`'s life); woken by us, it has ours as soon as we wait. */
    uint64_t one = 1;
    if (write(w->taken, &one, sizeof one) < 0)
        w->dead = 1;
}

static enum warm_outcome settle(struct warm *w, struct launch *l, const struct answer *answer, uint32_t *detail)
{
    const struct reply *reply = &answer->reply;
    *detail = (uint32_t)reply->error;
    if (reply->kind == REPLY_BARREN)
        return WARM_BARREN;
    if (!w->standby) {
        /* The template died before it could tell of the birth. */
        w->standby = reply->pid;
        w->standby_pidfd = (int)sys2(SYS_pidfd_open, reply->pid, 0);
        l->how |= HOW_PIDFD_OPENED;
        if (w->standby_pidfd < 0)
            return WARM_LOST;
    }
    hand_over(w, l);
    if (reply->kind == REPLY_STARTED)
        return WARM_STARTED;
    reap(l->pid, l->pidfd);
    l->pid = l->pidfd = -1;
    l->failed = reply->failed;
    return reply->failed >= 0 ? WARM_STEP_FAILED : WARM_GONE;
}

static enum warm_outcome launch_locked(struct warm *w, struct launch *l, const struct warm_plan *plan, uint32_t *detail)
{
    struct outgoing out;
    struct surroundings now;
    struct answer answer = {.came = 0};
    int fds[WARM_FDS], cwd = -1;
    if (w->dead)
        return WARM_GONE;
    if (w->served >= w->rotate_after || clock_ns() - w->born_ns > w->max_age_ns)
        return WARM_WORN;
    if (!environment_fits(w, l->envp))
        return WARM_ENVIRONMENT;
    if (!objects_stand(w, detail))
        return WARM_STALE;
    if (surroundings_read(&now, w->pid)) {
        *detail = DRIFT_UNREADABLE;
        return WARM_DRIFTED;
    }
    if ((*detail = (uint32_t)surroundings_differ(&w->surroundings, &now)))
        return WARM_DRIFTED;
    size_t bytes = compose(w, l, plan, &now, &out, fds);
    if (!bytes)
        return WARM_TOO_LARGE;
    sys4(SYS_rt_sigprocmask, SIG_SETMASK, 0, &out.request.mask, sizeof out.request.mask);
    if (memcmp(now.cwd, w->surroundings.cwd, sizeof now.cwd)) {
        cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (cwd < 0 || out.request.fd_count == WARM_FDS)
            return WARM_DESCRIPTOR;
        out.request.flags |= REQUEST_CWD;
        out.request.target[out.request.fd_count] = -1;
        fds[out.request.fd_count++] = cwd;
    }
    enum warm_outcome outcome = send_request(w, &out, bytes, fds);
    if (cwd >= 0)
        close(cwd);
    if (outcome == WARM_STARTED)
        outcome = await_answer(w, plan, &answer);
    if (outcome == WARM_STARTED)
        outcome = settle(w, l, &answer, detail);
    if (outcome == WARM_GONE || outcome == WARM_FROZEN || outcome == WARM_BARREN || outcome == WARM_LOST)
        w->dead = 1;
    /* Died with some of its steps done: only what may be done twice is. */
    if ((outcome == WARM_GONE || outcome == WARM_FROZEN) && answer.came == 0 && !plan->repeatable && !request_is_unread(w))
        outcome = WARM_LOST;
    return outcome;
}

enum warm_outcome warm_launch(struct warm *w, struct launch *l, const struct warm_plan *plan, uint32_t *detail)
{
    *detail = 0;
    l->how = 0;
    l->pid = l->pidfd = -1;
    pthread_mutex_lock(&w->lock);
    enum warm_outcome outcome = launch_locked(w, l, plan, detail);
    pthread_mutex_unlock(&w->lock);
    return outcome;
}
