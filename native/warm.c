#define _GNU_SOURCE
#include "warm.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define PATIENCE_NS 2000000000LL /* an answer takes some tens of microseconds */
#define LOOK_NS 20000000LL       /* how often to look what one does that does not come */
#define LEAVE_NS 200000000LL     /* what a template gets to end by itself */

struct outgoing {
    struct request request;
    char rest[WARM_MESSAGE - sizeof(struct request)];
};

/* --- all of them: a forked child must not hold the sockets open ----------------------------------- */

static struct warm *all;
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;

/* A host that closes what it does not know, as daemons do, closes all of ours, and may have given the numbers to other
 * files: those are neither written to nor closed. */
static uint64_t socket_inode(int fd)
{
    struct stat st;
    return !fstat(fd, &st) && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

static int is_ours(const struct warm *w)
{
    return socket_inode(w->socket) == w->inode;
}

void warm_after_fork(void)
{
    pthread_mutex_init(&all_lock, NULL);
    for (struct warm *w = all; w; w = w->next) {
        pthread_mutex_init(&w->lock, NULL);
        w->dead = 1;
        int ours = is_ours(w);
        if (ours) {
            close(w->socket);
            close(w->taken);
            close(w->pidfd);
        }
        for (int i = 0; i <= WARM_DEPTH; i++) {
            if (ours && w->standby[i].pid)
                close(w->standby[i].pidfd);
            w->standby[i].pid = 0;
        }
        w->socket = w->taken = w->pidfd = -1;
    }
    all = NULL;
    surroundings_after_fork();
}

int warm_adopt(struct warm *w)
{
    w->outgoing = malloc(sizeof *w->outgoing);
    if (!w->outgoing)
        return ENOMEM;
    pthread_mutex_init(&w->lock, NULL);
    w->inode = socket_inode(w->socket);
    w->born_ns = w->last_ns = clock_ns();
    w->spins = WARM_SPINS;
    pthread_mutex_lock(&all_lock);
    w->next = all;
    w->before = &all;
    if (all)
        all->before = &w->next;
    all = w;
    pthread_mutex_unlock(&all_lock);
    return 0;
}

/* --- births ---------------------------------------------------------------------------------------- */

union control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(WARM_FDS * sizeof(int))];
};

/* 1: one was told; 0: none yet; -1: none will be. */
static int read_birth(struct warm *w, struct birth *birth, int *fd)
{
    union control control;
    struct iovec iov = {birth, sizeof *birth};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(sizeof(int))};
    ssize_t got = recvmsg(w->socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    *fd = -1;
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (got != sizeof *birth)
        return -1;
    if (m.msg_controllen >= CMSG_LEN(sizeof(int)) && control.head.cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(&control.head), sizeof *fd);
    if (*fd >= 0 && *fd <= 2) { /* a standard stream that the host has closed: it may open it again */
        int low = *fd;
        *fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
        close(low);
    }
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

static int has_ended(int pidfd, int64_t wait_ns)
{
    struct pollfd p = {pidfd, POLLIN, 0};
    struct timespec limit = {wait_ns / 1000000000, wait_ns % 1000000000};
    return pidfd < 0 || ppoll(&p, 1, &limit, NULL) > 0;
}

/* Our own child may not be ours to kill: we have changed our credentials since. It ends by itself, when the socket is
 * closed; who does not is left behind rather than waited for. */
static void kill_and_reap(pid_t pid, int pidfd)
{
    if (pidfd >= 0 && sys4(SYS_pidfd_send_signal, pidfd, SIGKILL, 0, 0) < 0 && !has_ended(pidfd, LOOK_NS)) {
        close(pidfd);
        return;
    }
    reap(pid, pidfd);
}

/* A child of ours that is known by its number alone; whoever else has that number by now is none. */
static void end_by_number(pid_t pid)
{
    siginfo_t info;
    if (pid <= 0 || sys5(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0) < 0)
        return;
    sys2(SYS_kill, pid, SIGKILL);
    reap(pid, -1);
}

static pid_t *born(const struct warm *w)
{
    return (pid_t *)((char *)w->slots + WARM_BORN_AT);
}

/* Somebody answers for it. */
static void known(struct warm *w, pid_t pid)
{
    for (int i = 0; i < WARM_BORN; i++)
        if (born(w)[i] == pid)
            born(w)[i] = 0;
}

static int end_born(struct warm *w)
{
    int some = 0;
    for (int i = 0; i < WARM_BORN; i++) {
        some |= born(w)[i];
        end_by_number(born(w)[i]);
    }
    return some;
}

/* The same, where the kernel has not said who was born last. It stands by at our socket. */
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

static void end_all(struct warm *w)
{
    struct birth birth;
    int fd;
    /* It ends between two births by itself; one that does not is frozen. */
    int killed = has_ended(w->pidfd, 0);
    shutdown(w->socket, SHUT_WR);
    if (!has_ended(w->pidfd, LEAVE_NS)) {
        killed = 1;
        sys4(SYS_pidfd_send_signal, w->pidfd, SIGKILL, 0, 0);
    }
    reap(w->pid, w->pidfd);
    for (int i = 0; i <= WARM_DEPTH; i++) {
        known(w, w->standby[i].pid);
        if (w->standby[i].pid)
            kill_and_reap(w->standby[i].pid, w->standby[i].pidfd);
        w->standby[i].pid = 0;
    }
    while (read_birth(w, &birth, &fd) > 0) {
        known(w, birth.pid);
        if (birth.pid && fd >= 0)
            kill_and_reap(birth.pid, fd);
        else
            end_by_number(birth.pid);
    }
    /* One that was killed may have borne a child and not come to say so. */
    if (!end_born(w) && killed)
        reap_unannounced(w);
    close(w->socket);
    close(w->taken);
}

static void end_all_by_number(struct warm *w)
{
    end_by_number(w->pid);
    for (int i = 0; i <= WARM_DEPTH; i++) {
        end_by_number(w->standby[i].pid);
        w->standby[i].pid = 0;
    }
    end_born(w);
}

void warm_close(struct warm *w)
{
    if (w->socket < 0)
        return;
    w->dead = 1;
    pthread_mutex_lock(&all_lock);
    *w->before = w->next;
    if (w->next)
        w->next->before = w->before;
    pthread_mutex_unlock(&all_lock);
    if (is_ours(w))
        end_all(w);
    else
        end_all_by_number(w);
    w->socket = w->taken = w->pidfd = -1;
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
    free(w->outgoing);
    w->outgoing = NULL;
    if (w->slots)
        munmap(w->slots, WARM_SLOT_BYTES); /* only now: a start may be waiting at one */
    w->slots = NULL;
    w->object_count = w->variable_count = 0;
}

/* --- may this spawn be done warm? ------------------------------------------------------------------ */

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

/* Fills in *out and the descriptors to send; the bytes of the message, or 0 where it is too large. */
static size_t compose(const struct launch *l, const struct warm_plan *plan, struct outgoing *out, int fds[WARM_FDS])
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
    if ((r->argc + r->envc) * sizeof(char *) + argv + envp > WARM_ROOM - 4096)
        return 0;
    r->magic = WARM_MAGIC;
    r->string_bytes = (uint32_t)(argv + envp);
    r->step_count = plan->step_count;
    r->blob_bytes = plan->blob_bytes;
    r->flags = plan->flags;
    r->highest = plan->highest;
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

static enum warm_outcome send_request(const struct warm *w, struct outgoing *out, size_t bytes, const int fds[WARM_FDS])
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

/* --- agreeing with the child ----------------------------------------------------------------------- */

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

/* Who was killed between the owner's word and its program leaves its slot behind. A number that is another process's
 * by now hides that. */
static int is_abandoned(const struct slot *slot)
{
    char letter = letter_of(slot->pid);
    return letter == 'X' || letter == 'Z';
}

static struct slot *free_slot(const struct warm *w, uint32_t *index)
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

static int standby_of(const struct warm *w, pid_t pid)
{
    for (int i = 0; i <= WARM_DEPTH; i++)
        if (w->standby[i].pid == pid)
            return i;
    return -1;
}

/* Whether the one that took the request has ended; of a request that nobody took yet, whether somebody has that may
 * have been about to. */
static int has_died(const struct warm *w, const struct slot *slot)
{
    int which = slot->pid ? standby_of(w, slot->pid) : -1;
    if (which >= 0)
        return has_ended(w->standby[which].pidfd, 0);
    for (int i = 0; i <= WARM_DEPTH; i++)
        if (w->standby[i].pid && has_ended(w->standby[i].pidfd, 0))
            return 1;
    return has_ended(w->pidfd, 0);
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
        if (has_died(w, slot) || clock_ns() >= until)
            return state_of(slot);
    }
}

/* What the template has told by now. WARM_STARTED, or why there will be no births any more. */
static enum warm_outcome note_births(struct warm *w, uint32_t *detail)
{
    struct birth birth;
    int fd, got, place;
    while ((place = standby_of(w, 0)) >= 0 && (got = read_birth(w, &birth, &fd)) != 0) {
        if (got < 0)
            return WARM_GONE;
        *detail = (uint32_t)birth.error;
        if (!birth.pid)
            return WARM_BARREN;
        if (fd < 0) { /* no descriptor is left for it */
            end_by_number(birth.pid);
            *detail = EMFILE;
            return WARM_BARREN;
        }
        w->standby[place].pid = birth.pid;
        w->standby[place].pidfd = fd;
    }
    return WARM_STARTED;
}

/* Whoever takes the request must be known, by pid and pidfd: the template tells before it bears the next. */
static enum warm_outcome await_birth(struct warm *w, pid_t pid, uint32_t *detail)
{
    int64_t until = clock_ns() + PATIENCE_NS;
    for (;;) {
        struct pollfd p[2] = {{w->socket, POLLIN, 0}, {w->pidfd, POLLIN, 0}};
        struct timespec limit = {0, LOOK_NS};
        if (standby_of(w, pid) >= 0)
            return WARM_STARTED;
        enum warm_outcome outcome = note_births(w, detail);
        if (outcome != WARM_STARTED || standby_of(w, pid) >= 0)
            return outcome;
        if (ppoll(p, 2, &limit, NULL) > 0 && !(p[0].revents & POLLIN))
            return WARM_GONE;
        if (clock_ns() >= until)
            return WARM_FROZEN;
    }
}

static enum warm_outcome still_the_same(struct warm *w, struct surroundings *now, uint32_t *detail)
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

/* It is a child like any other from now on, and the template bears the next one. Not before: woken by its child, the
 * template would wait for that one's processor (measured: for all of `true`'s life); woken by us, it has ours as soon as
 * we wait. */
static void hand_over(struct warm *w, const struct slot *slot, struct launch *l)
{
    int which = standby_of(w, slot->pid);
    l->pid = w->standby[which].pid;
    l->pidfd = w->standby[which].pidfd;
    w->standby[which].pid = 0;
    known(w, l->pid);
    w->served++;
    w->last_ns = clock_ns();
    if (send(w->taken, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        w->dead = 1;
}

/* The child of a request that is no more; one that nobody took stays, and finds it cancelled. */
static void end_child(struct warm *w, const struct slot *slot)
{
    struct launch l;
    if (!slot->pid || standby_of(w, slot->pid) < 0) {
        /* The template is killed or frozen; the child has said who it is. */
        end_by_number(slot->pid);
        w->dead = 1;
        return;
    }
    hand_over(w, slot, &l);
    kill_and_reap(l.pid, l.pidfd);
}

/* Nothing of the request runs: its child ends, and whatever is the matter is told from `outcome`. */
static enum warm_outcome take_back(struct warm *w, struct slot *slot, uint32_t from, enum warm_outcome outcome)
{
    if (!change(slot, from, SLOT_CANCELLED) && state_of(slot) == SLOT_READY)
        change(slot, SLOT_READY, SLOT_CANCELLED);
    wake(slot);
    /* Who takes it must be known, to be reaped; where patience has been lost already, all of them end. */
    int lost = outcome == WARM_GONE || outcome == WARM_FROZEN;
    int64_t until = lost ? 0 : clock_ns() + PATIENCE_NS;
    struct timespec pause = {0, 50000};
    while (!__atomic_load_n(&slot->pid, __ATOMIC_ACQUIRE) && !has_died(w, slot) && clock_ns() < until)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    uint32_t ignored;
    if (slot->pid && !lost && outcome != WARM_BARREN)
        await_birth(w, slot->pid, &ignored);
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
        if (state_of(slot) == SLOT_GO && (has_ended(l->pidfd, 0) || (clock_ns() >= until && !is_at_work(slot, plan))) &&
            change(slot, SLOT_GO, SLOT_CANCELLED))
            break;
    }
    state = state_of(slot);
    if (state == SLOT_STARTED) {
        __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_RELEASE);
        return WARM_STARTED;
    }
    l->failed = slot->failed;
    *detail = (uint32_t)slot->error;
    kill_and_reap(l->pid, l->pidfd);
    l->pid = l->pidfd = -1;
    __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_RELEASE);
    if (state == SLOT_FAILED)
        return l->failed >= 0 ? WARM_STEP_FAILED : WARM_REFUSED;
    /* It died, or was stopped, with some of its steps done: only what may be done twice is. */
    *detail = ECANCELED;
    return plan->repeatable ? WARM_REFUSED : WARM_LOST;
}

/* From the owner's word to the program. */
static enum warm_outcome go(struct warm *w, struct launch *l, const struct warm_plan *plan, struct slot *slot,
                            const struct surroundings *now, uint32_t *detail)
{
    slot->ignored = now->ignored;
    slot->umask = now->umask == w->surroundings.umask ? -1 : now->umask;
    slot->group = now->group == w->surroundings.group ? 0 : now->group;
    slot->limits = surroundings_limits_to_set(&w->surroundings, now, slot->limit);
    slot->answers = plan->may_fail || slot->group || slot->limits;
    uint32_t state = await_ready(w, slot);
    enum warm_outcome known = slot->pid ? await_birth(w, slot->pid, detail) : WARM_STARTED;
    if (known != WARM_STARTED)
        return take_back(w, slot, state, known);
    if (state == SLOT_FAILED)
        return failed_in(w, l, slot, detail);
    if (state != SLOT_READY || !change(slot, SLOT_READY, SLOT_GO))
        return take_back(w, slot, state, has_died(w, slot) ? WARM_GONE : WARM_FROZEN);
    wake(slot);
    if (!slot->answers) {
        hand_over(w, slot, l); /* nothing can fail any more: like a child that has just been executed, it is on its way */
        return WARM_STARTED;
    }
    /* Its steps may wait for another start's, as two ends of a FIFO do: from here on it is a child by itself. */
    hand_over(w, slot, l);
    pthread_mutex_unlock(&w->lock);
    enum warm_outcome outcome = await_steps(l, plan, slot, detail);
    pthread_mutex_lock(&w->lock);
    return outcome;
}

/* What is cheap to see is looked at first, then the request is sent; all else is checked while the standby wakes up and
 * prepares, which takes about as long. */
static enum warm_outcome launch_locked(struct warm *w, struct launch *l, const struct warm_plan *plan,
                                       struct warm_check check, uint32_t *detail)
{
    struct outgoing *out = w->outgoing;
    struct surroundings now;
    uint64_t cwd[3];
    int fds[WARM_FDS], cwd_fd = -1;
    uint32_t index;
    if (w->dead || !is_ours(w))
        return WARM_GONE;
    if (warm_is_idle(w))
        return WARM_IDLE;
    if (w->served >= w->rotate_after || clock_ns() - w->born_ns > w->max_age_ns)
        return WARM_WORN;
    if (!environment_fits(w, l->envp))
        return WARM_ENVIRONMENT;
    struct slot *slot = free_slot(w, &index);
    if (!slot)
        return WARM_BUSY;
    size_t bytes = compose(l, plan, out, fds);
    if (!bytes)
        return WARM_TOO_LARGE;
    out->request.slot = index;
    sys4(SYS_rt_sigprocmask, SIG_SETMASK, 0, &out->request.mask, sizeof out->request.mask);
    if (directory_read(".", cwd) || memcmp(cwd, w->surroundings.cwd, sizeof cwd)) {
        cwd_fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (cwd_fd < 0)
            return WARM_DESCRIPTOR;
        out->request.flags |= REQUEST_CWD;
        out->request.target[out->request.fd_count] = -1;
        fds[out->request.fd_count++] = cwd_fd;
    }
    enum warm_outcome outcome = note_births(w, detail);
    slot->pid = 0;
    slot->state = SLOT_ASKED;
    if (outcome == WARM_STARTED)
        outcome = send_request(w, out, bytes, fds);
    if (cwd_fd >= 0)
        close(cwd_fd);
    if (outcome != WARM_STARTED) {
        slot->state = SLOT_FREE;
        return outcome;
    }
    if (!check.passes(check.of))
        return take_back(w, slot, SLOT_ASKED, WARM_FORBIDDEN);
    outcome = still_the_same(w, &now, detail);
    if (outcome != WARM_STARTED)
        return take_back(w, slot, SLOT_ASKED, outcome);
    return go(w, l, plan, slot, &now, detail);
}

/* Told before it would be asked in vain. */
int warm_is_idle(const struct warm *w)
{
    return w->idle_ns && clock_ns() - w->last_ns > w->idle_ns - w->idle_ns / 8;
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
