/* warm_family: the template's process and the children that stand by: who is born, who has ended, and how each is reaped.
 *
 * All of them are children of ours. Each has a pidfd here, which came with the news of its birth, and a number in the page
 * that we share, which the kernel wrote at its birth: one of the two is known even of one whose template was killed.
 */
#define _GNU_SOURCE
#include "warm_parts.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define LEAVE_NS 200000000LL /* what a template gets to end by itself */

/* --- one child ------------------------------------------------------------------------------------- */

static void reap(pid_t pid, int pidfd)
{
    siginfo_t info;
    long id = pidfd >= 0 ? pidfd : pid;
    while (sys5(SYS_waitid, pidfd >= 0 ? P_PIDFD : P_PID, id, &info, WEXITED | __WALL, 0) == -EINTR)
        ;
    if (pidfd >= 0)
        close(pidfd);
}

int child_has_ended(int pidfd, int64_t wait_ns)
{
    struct pollfd p = {pidfd, POLLIN, 0};
    struct timespec limit = {wait_ns / 1000000000, wait_ns % 1000000000};
    return pidfd < 0 || ppoll(&p, 1, &limit, NULL) > 0;
}

/* Our own child may not be ours to kill: we have changed our credentials since. It ends by itself, when the socket is
 * closed; who does not is left behind rather than waited for. */
void child_kill_and_reap(pid_t pid, int pidfd)
{
    if (pidfd >= 0 && sys4(SYS_pidfd_send_signal, pidfd, SIGKILL, 0, 0) < 0 && !child_has_ended(pidfd, LOOK_NS)) {
        close(pidfd);
        return;
    }
    reap(pid, pidfd);
}

/* A child of ours that is known by its number alone; whoever else has that number by now is none. */
void child_end_by_number(pid_t pid)
{
    siginfo_t info;
    if (pid <= 0 || sys5(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0) < 0)
        return;
    sys2(SYS_kill, pid, SIGKILL);
    reap(pid, -1);
}

/* --- births ---------------------------------------------------------------------------------------- */

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

int family_place_of(const struct warm *w, pid_t pid)
{
    for (int i = 0; i <= WARM_DEPTH; i++)
        if (w->standby[i].pid == pid)
            return i;
    return -1;
}

/* What the template has told by now. WARM_STARTED, or why there will be no births any more. */
enum warm_outcome family_note_births(struct warm *w, uint32_t *detail)
{
    struct birth birth;
    int fd, got, place;
    while ((place = family_place_of(w, 0)) >= 0 && (got = read_birth(w, &birth, &fd)) != 0) {
        if (got < 0)
            return WARM_GONE;
        *detail = (uint32_t)birth.error;
        if (!birth.pid)
            return WARM_BARREN;
        if (fd < 0) { /* no descriptor is left for it */
            child_end_by_number(birth.pid);
            *detail = EMFILE;
            return WARM_BARREN;
        }
        w->standby[place].pid = birth.pid;
        w->standby[place].pidfd = fd;
    }
    return WARM_STARTED;
}

/* Whoever takes the request must be known, by pid and pidfd: the template tells before it bears the next. */
enum warm_outcome family_await_birth(struct warm *w, pid_t pid, uint32_t *detail)
{
    int64_t until = clock_ns() + PATIENCE_NS;
    for (;;) {
        struct pollfd p[2] = {{w->socket, POLLIN, 0}, {w->pidfd, POLLIN, 0}};
        struct timespec limit = {0, LOOK_NS};
        if (family_place_of(w, pid) >= 0)
            return WARM_STARTED;
        enum warm_outcome outcome = family_note_births(w, detail);
        if (outcome != WARM_STARTED || family_place_of(w, pid) >= 0)
            return outcome;
        if (ppoll(p, 2, &limit, NULL) > 0 && !(p[0].revents & POLLIN))
            return WARM_GONE;
        if (clock_ns() >= until)
            return WARM_FROZEN;
    }
}

/* It is a child like any other from now on, and the template bears the next one. Not before: woken by its child, the
 * template would wait for that one's processor (measured: for all of `true`'s life); woken by us, it has ours as soon as
 * we wait. */
void family_hand_over(struct warm *w, const struct slot *slot, struct launch *l)
{
    int which = family_place_of(w, slot->pid);
    l->pid = w->standby[which].pid;
    l->pidfd = w->standby[which].pidfd;
    w->standby[which].pid = 0;
    known(w, l->pid);
    w->served++;
    w->last_ns = clock_ns();
    if (send(w->taken, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        w->dead = 1;
}

/* --- ends ------------------------------------------------------------------------------------------- */

/* Whether the one that took the request has ended; of a request that nobody took yet, whether somebody has that may
 * have been about to. */
int family_has_died(const struct warm *w, const struct slot *slot)
{
    int which = slot->pid ? family_place_of(w, slot->pid) : -1;
    if (which >= 0)
        return child_has_ended(w->standby[which].pidfd, 0);
    for (int i = 0; i <= WARM_DEPTH; i++)
        if (w->standby[i].pid && child_has_ended(w->standby[i].pidfd, 0))
            return 1;
    return child_has_ended(w->pidfd, 0);
}

static int end_born(struct warm *w)
{
    int some = 0;
    for (int i = 0; i < WARM_BORN; i++) {
        some |= born(w)[i];
        child_end_by_number(born(w)[i]);
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
                child_kill_and_reap(pid, pidfd);
        }
        if (children)
            fclose(children);
    }
    if (tasks)
        closedir(tasks);
}

/* It ends between two births by itself; one that does not is frozen. Whether it did not come to that. */
static int end_process(struct warm *w)
{
    int killed = child_has_ended(w->pidfd, 0);
    shutdown(w->socket, SHUT_WR);
    if (!child_has_ended(w->pidfd, LEAVE_NS)) {
        killed = 1;
        sys4(SYS_pidfd_send_signal, w->pidfd, SIGKILL, 0, 0);
    }
    reap(w->pid, w->pidfd);
    return killed;
}

void family_end(struct warm *w)
{
    struct birth birth;
    int fd;
    int killed = w->pid ? end_process(w) : 0;
    for (int i = 0; i <= WARM_DEPTH; i++) {
        known(w, w->standby[i].pid);
        if (w->standby[i].pid)
            child_kill_and_reap(w->standby[i].pid, w->standby[i].pidfd);
        w->standby[i].pid = 0;
    }
    while (read_birth(w, &birth, &fd) > 0) {
        known(w, birth.pid);
        if (birth.pid && fd >= 0)
            child_kill_and_reap(birth.pid, fd);
        else
            child_end_by_number(birth.pid);
    }
    /* One that was killed may have borne a child and not come to say so. */
    if (!end_born(w) && killed)
        reap_unannounced(w);
    close(w->socket);
    close(w->taken);
}

void family_end_by_number(struct warm *w)
{
    child_end_by_number(w->pid);
    for (int i = 0; i <= WARM_DEPTH; i++) {
        child_end_by_number(w->standby[i].pid);
        w->standby[i].pid = 0;
    }
    end_born(w);
}
