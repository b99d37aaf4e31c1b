#define _GNU_SOURCE
#include "capture.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "sys.h"

enum { TAG_OUT, TAG_ERR, TAG_IN, TAG_CHILD };

static int watch(struct capture *c, int fd, uint32_t events, uint32_t tag)
{
    struct epoll_event e = {.events = events, .data.u32 = tag};
    return fd >= 0 && epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, fd, &e) ? errno : 0;
}

int capture_watch(struct capture *c)
{
    if (c->epoll_fd >= 0)
        return 0;
    c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (c->epoll_fd < 0)
        return errno;
    int err = c->alive ? watch(c, c->pidfd, EPOLLIN, TAG_CHILD) : 0;
    for (uint32_t i = 0; !err && i < CAPTURE_OUTPUTS; i++)
        err = watch(c, c->output_fd[i], EPOLLIN, TAG_OUT + i);
    return err ? err : watch(c, c->input_fd, EPOLLOUT, TAG_IN);
}

int capture_init(struct capture *c, int pidfd, int input_fd, const char *input, size_t input_size,
                 const int output_fd[CAPTURE_OUTPUTS], int64_t limit, const int spill_fd[CAPTURE_OUTPUTS])
{
    memset(c, 0, sizeof *c);
    c->epoll_fd = -1;
    c->pidfd = pidfd;
    c->alive = 1;
    c->input_fd = input_fd;
    c->input = input;
    c->input_left = input_size;
    for (int i = 0; i < CAPTURE_OUTPUTS; i++) {
        c->output_fd[i] = output_fd[i];
        sink_init(&c->output[i], limit, spill_fd[i]);
    }
    return input_fd >= 0 && fcntl(input_fd, F_SETFL, O_NONBLOCK) ? errno : 0;
}

/* Closing removes a pipe from the epoll set: nobody else holds this end. */
static void drop(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* A program that reads no input ends the pipe, and the write raises SIGPIPE, which a host may have left at
 * its default. It is blocked here, and taken away again if it came from this write. */
static ssize_t write_quietly(int fd, const char *data, size_t size)
{
    sigset_t pipe_only, pending, before;
    struct timespec now = {0, 0};
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    ssize_t n = write(fd, data, size);
    int err = errno;
    if (n < 0 && err == EPIPE && !sigismember(&pending, SIGPIPE))
        while (sigtimedwait(&pipe_only, NULL, &now) < 0 && errno == EINTR)
            ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = err;
    return n;
}

static int feed(struct capture *c)
{
    ssize_t n = c->input_left ? write_quietly(c->input_fd, c->input, c->input_left) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n < 0 && errno != EPIPE)
        return errno;
    if (n >= 0) {
        c->input += n;
        c->input_left -= (size_t)n;
    }
    if (n < 0 || !c->input_left)
        drop(&c->input_fd);
    return 0;
}

static int drain(struct capture *c, int i)
{
    size_t size;
    char *room = sink_room(&c->output[i], &size);
    if (!room)
        return ENOMEM;
    ssize_t n = read(c->output_fd[i], room, size);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : errno;
    if (n == 0)
        drop(&c->output_fd[i]);
    return sink_filled(&c->output[i], (size_t)n);
}

static int handle(struct capture *c, uint32_t tag)
{
    switch (tag) {
    case TAG_CHILD:
        c->alive = 0;
        if (c->epoll_fd >= 0)
            epoll_ctl(c->epoll_fd, EPOLL_CTL_DEL, c->pidfd, NULL);
        return 0;
    case TAG_IN:
        return c->input_fd >= 0 ? feed(c) : 0;
    default:
        return c->output_fd[tag] >= 0 ? drain(c, (int)tag) : 0;
    }
}

static int state_of(const struct capture *c)
{
    int open = c->output_fd[0] >= 0 || c->output_fd[1] >= 0;
    return (open ? CAPTURE_OPEN : 0) | (c->alive ? CAPTURE_ALIVE : 0) |
           (c->input_fd >= 0 ? CAPTURE_INPUT : 0);
}

/* Waits, and fills tags with what is ready: their number, or -errno. Without an epoll descriptor, which only
 * an event loop needs, ppoll does: four descriptors are not worth a set of their own. */
static int ready(struct capture *c, const struct timespec *timeout, uint32_t tags[4])
{
    struct pollfd set[4] = {
        [TAG_OUT] = {.fd = c->output_fd[0], .events = POLLIN},
        [TAG_ERR] = {.fd = c->output_fd[1], .events = POLLIN},
        [TAG_IN] = {.fd = c->input_fd, .events = POLLOUT},
        [TAG_CHILD] = {.fd = c->alive ? c->pidfd : -1, .events = POLLIN},
    };
    int count = 0;
    if (ppoll(set, 4, timeout, NULL) < 0)
        return -errno;
    for (uint32_t tag = 0; tag < 4; tag++)
        if (set[tag].revents)
            tags[count++] = tag;
    return count;
}

static const struct timespec *time_to(int64_t deadline, struct timespec *left)
{
    if (deadline < 0)
        return NULL;
    int64_t ns = deadline ? deadline - clock_ns() : 0;
    if (ns < 0)
        ns = 0;
    *left = (struct timespec){ns / 1000000000, ns % 1000000000};
    return left;
}

int capture_run(struct capture *c, int64_t deadline, int until)
{
    uint32_t tags[4];
    struct timespec left;
    for (;;) {
        int state = state_of(c);
        if (!(state & until))
            return state;
        const struct timespec *timeout = time_to(deadline, &left);
        int n = ready(c, timeout, tags);
        if (n < 0)
            return n;
        for (int i = 0; i < n; i++) {
            int err = handle(c, tags[i]);
            if (err)
                return -err;
        }
        /* Past the deadline even a stream that never dries up must not keep us here. */
        if (timeout && !left.tv_sec && !left.tv_nsec)
            return state_of(c);
    }
}

void capture_close(struct capture *c)
{
    drop(&c->input_fd);
    drop(&c->output_fd[0]);
    drop(&c->output_fd[1]);
    drop(&c->epoll_fd);
}

void capture_free(struct capture *c)
{
    capture_close(c);
    sink_free(&c->output[0]);
    sink_free(&c->output[1]);
}
