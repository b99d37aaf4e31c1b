#define _GNU_SOURCE
#include "image.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sys.h"

static unsigned generation;

static void in_forked_child(void)
{
    generation++;
    launch_after_fork();
    warm_after_fork();
}

int image_module_init(void)
{
    return pthread_atfork(NULL, NULL, in_forked_child);
}

/* --- leases -------------------------------------------------------------------------------------- */

/* A read lease holds off whoever opens the file for writing, from before the check until exec itself
 * denies writing. Its notice is SIGIO, which would end a host without a handler: it is turned into SIGURG,
 * whose default is to be ignored. fcntl(2): owner of the file or CAP_LEASE only, no O_PATH descriptor. */
static int lease_take(int fd)
{
    /* A writer may come between the last two calls, and SIGIO would end a host: SIGURG, ignored by default. Set
     * each time, because letting go of a lease resets signal and owner (fs/locks.c, lease_modify). */
    if (fcntl(fd, F_SETSIG, SIGURG) || fcntl(fd, F_SETLEASE, F_RDLCK))
        return errno;
    fcntl(fd, F_SETOWN, 0); /* nobody is told: taking a lease made this process the owner */
    return 0;
}

static void lease_begin(struct image *image)
{
    if (!image->leasable)
        return;
    pthread_mutex_lock(&image->lease_lock);
    /* A failure here means that the file is open for writing: exec will say ETXTBSY. */
    if (image->lease_users++ == 0)
        lease_take(image->file[image->executed].fd);
    pthread_mutex_unlock(&image->lease_lock);
}

static void lease_end(struct image *image)
{
    if (!image->leasable)
        return;
    pthread_mutex_lock(&image->lease_lock);
    if (--image->lease_users == 0)
        fcntl(image->file[image->executed].fd, F_SETLEASE, F_UNLCK);
    pthread_mutex_unlock(&image->lease_lock);
}

static int lease_works(int fd)
{
    if (lease_take(fd))
        return 0;
    return fcntl(fd, F_SETLEASE, F_UNLCK) == 0;
}

/* --- life ---------------------------------------------------------------------------------------- */

/* Before Linux 6.13 (multigrain timestamps) ctime is the time of the last tick, so that of two writes within a
 * tick the second leaves no trace. Only what changed before the present tick has a key that any later write
 * changes; for a file that has just been written the tick is waited out, 10 ms at HZ=100. A ctime further ahead
 * is another clock's (a file server's, one set back): nothing to wait for. */
#define TICK_NS 10000000LL

static int read_settled_key(const char *path, int fd, struct file_key *key)
{
    struct timespec pause = {0, TICK_NS / 10};
    for (int turns = 0;; turns++) {
        struct timespec tick;
        clock_gettime(CLOCK_REALTIME_COARSE, &tick); /* before the key: a write in between is later than both */
        int err = file_key_read(path, fd, key);
        if (err)
            return err;
        int64_t ahead = (key->ctime_s - tick.tv_sec) * 1000000000LL + (key->ctime_ns - tick.tv_nsec);
        if (ahead < 0 || ahead > TICK_NS || turns == 20)
            return 0;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
}

int image_init(struct image *image, int want_lease)
{
    image->owner = getpid();
    image->generation = generation;
    pthread_mutex_init(&image->lease_lock, NULL);
    for (int i = 0; i < image->count; i++) {
        struct held_file *f = &image->file[i];
        int err = read_settled_key(f->fd >= 0 ? NULL : f->path, f->fd, &f->key);
        if (err)
            return err;
    }
    image->leasable = want_lease && lease_works(image->file[image->executed].fd);
    return authority_read(&image->authority);
}

void image_free(struct image *image)
{
    for (int i = 0; i < image->count; i++) {
        struct held_file *f = &image->file[i];
        struct file_key now;
        /* Somebody else's by now, if the host closed it (see check_file). */
        if (f->fd >= 0 && !file_key_read(NULL, f->fd, &now) &&
            !(file_key_differs(&f->key, &now) & (KEY_DEVICE | KEY_INODE)))
            close(f->fd);
        free(f->path);
    }
    image->count = 0;
    authority_free(&image->authority);
}

/* --- use ----------------------------------------------------------------------------------------- */

static int same_file(const struct held_file *f, const char *path, struct image_result *result)
{
    struct file_key now;
    result->error = file_key_read(path, f->fd, &now);
    if (result->error)
        return 0;
    result->detail = file_key_differs(&f->key, &now);
    return !result->detail;
}

/* The path: what it leads to now. The descriptor: a host that closes what it does not know, as daemons do, may
 * have given its number to another file. */
static int check_file(const struct held_file *f, struct image_result *result)
{
    return (!f->path || same_file(f, f->path, result)) && same_file(f, NULL, result);
}

static void check_files(struct image *image, struct image_result *result)
{
    for (int i = 0; i < image->count; i++) {
        result->index = i;
        if (!check_file(&image->file[i], result)) {
            result->status = IMAGE_STALE;
            return;
        }
    }
}

void image_check(struct image *image, struct image_result *result)
{
    *result = (struct image_result){.status = IMAGE_READY, .warm = WARM_OUTCOMES};
    if (getpid() != image->owner || generation != image->generation) {
        result->status = IMAGE_FOREIGN;
        return;
    }
    result->detail = authority_differs(&image->authority, &result->error);
    if (result->detail || result->error) {
        result->status = IMAGE_UNAUTHORIZED;
        return;
    }
    check_files(image, result);
}

/* What really runs, asked of the process itself. Where that is another file, or the kernel will not say (a
 * set-id program), the path decides: a program may have executed something else already, as env does, but a
 * path that led elsewhere in between leads back to a file whose ctime has changed. */
static int runs_other_file(struct image *image, struct launch *l, struct image_result *result)
{
    char exe[32];
    struct file_key now;
    snprintf(exe, sizeof exe, "/proc/%d/exe", (int)l->pid);
    if (!file_key_read(exe, -1, &now) && !file_key_differs(&image->file[image->executed].key, &now))
        return 0;
    for (int i = 0; i < image->count; i++) {
        result->index = i;
        if (!check_file(&image->file[i], result))
            return 1;
    }
    return 0;
}

static void kill_and_reap(struct launch *l)
{
    siginfo_t info;
    sys4(SYS_pidfd_send_signal, l->pidfd, SIGKILL, 0, 0);
    while (sys5(SYS_waitid, 3 /* P_PIDFD */, l->pidfd, &info, WEXITED | __WALL, 0) == -EINTR)
        ;
    close(l->pidfd);
    l->pid = l->pidfd = -1;
}

struct checked {
    struct image *image;
    struct image_result *result;
};

static int check_passes(void *of)
{
    struct checked *c = of;
    int64_t start = clock_ns();
    /* Ids, groups and capabilities are among the surroundings that the warm template compares itself. */
    c->result->detail = authority_rest_differs(&c->image->authority);
    if (c->result->detail)
        c->result->status = IMAGE_UNAUTHORIZED;
    else
        check_files(c->image, c->result);
    c->result->check_ns = clock_ns() - start;
    return c->result->status == IMAGE_READY;
}

/* Whether the launch has come to an end, good or bad; 0: it is to be done cold. */
static int launch_warm(struct image *image, struct launch *l, struct warm_way way, struct image_result *result)
{
    struct checked checked = {image, result};
    int64_t start = clock_ns();
    *result = (struct image_result){.status = IMAGE_READY, .warm = WARM_OUTCOMES};
    if (getpid() != image->owner || generation != image->generation)
        return 0; /* said by the cold way */
    /* One that was started for the file held before this one, or for the one held since by another thread. */
    if (file_key_differs(&image->file[image->executed].key, &way.warm->program)) {
        result->warm = WARM_STALE;
        result->warm_detail = way.warm->object_count;
        return 0;
    }
    result->warm = warm_launch(way.warm, l, way.plan, (struct warm_check){check_passes, &checked},
                               &result->warm_detail);
    result->launch_ns = clock_ns() - start - result->check_ns;
    if (result->warm == WARM_FORBIDDEN)
        return 1;
    if (result->warm == WARM_STARTED) {
        l->how |= HOW_WARM;
        return 1;
    }
    if (result->warm == WARM_STEP_FAILED || result->warm == WARM_LOST) {
        result->status = IMAGE_FAILED;
        result->index = -1;
        result->error = result->warm == WARM_LOST ? ECANCELED : (int)result->warm_detail;
        if (result->warm == WARM_LOST)
            l->failed = STEP_WARM;
        return 1;
    }
    uint32_t index;
    if (l->flags & LAUNCH_WHOLE && !warm_objects_stand(way.warm, &index, &result->detail, &result->error)) {
        result->status = IMAGE_OBJECT;
        result->index = (int)index;
        return 1;
    }
    return 0;
}

void image_launch(struct image *image, struct launch *l, struct warm_way way, int strict, struct image_result *result)
{
    enum warm_outcome warm = WARM_OUTCOMES;
    uint32_t detail = 0;
    if (way.warm) {
        if (launch_warm(image, l, way, result))
            return;
        warm = result->warm;
        detail = result->warm_detail;
    }
    int64_t start = clock_ns();
    lease_begin(image);
    image_check(image, result);
    int64_t checked = clock_ns();
    if (result->status == IMAGE_READY) {
        result->error = launch(l);
        if (result->error) {
            result->status = IMAGE_FAILED;
        } else if (strict && runs_other_file(image, l, result)) {
            kill_and_reap(l);
            result->status = IMAGE_CHANGED;
        }
    }
    lease_end(image);
    result->warm = warm;
    result->warm_detail = detail;
    result->check_ns = checked - start;
    result->launch_ns = clock_ns() - checked;
}
