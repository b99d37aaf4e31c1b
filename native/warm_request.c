/* warm_request: one start as a message: put together, and sent with its descriptors. */
#define _GNU_SOURCE
#include "warm_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "sys.h"

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

size_t request_compose(const struct launch *l, const struct warm_plan *plan, struct outgoing *out, int fds[WARM_FDS])
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
    sys4(SYS_rt_sigprocmask, SIG_SETMASK, 0, &r->mask, sizeof r->mask);
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

enum warm_outcome request_add_directory(const struct warm *w, struct outgoing *out, int fds[WARM_FDS], int *directory)
{
    struct request *r = &out->request;
    uint64_t cwd[3];
    *directory = -1;
    if (!directory_read(".", cwd) && !memcmp(cwd, w->surroundings.cwd, sizeof cwd))
        return WARM_STARTED;
    *directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*directory < 0)
        return WARM_DESCRIPTOR;
    r->flags |= REQUEST_CWD;
    r->target[r->fd_count] = -1;
    fds[r->fd_count++] = *directory;
    return WARM_STARTED;
}

enum warm_outcome request_send(const struct warm *w, struct outgoing *out, size_t bytes, const int fds[WARM_FDS])
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
