#define _GNU_SOURCE
#include "record.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "sys.h"

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* Two descriptors may be one opening, by dup or by fork, and two openings of one inode never merge. So the tracer holds
 * the last few that were mapped, and asks the kernel whether a descriptor is one of them. It holds none that is open for
 * writing: a program that is still held so could not be executed (ETXTBSY). Of those it asks whether a descriptor is
 * what has the number that was mapped; where that has been closed since, one opening counts as two. */
#define HELD 64

static struct held {
    dev_t device;
    ino_t inode;
    pid_t process;
    int fd, theirs;
    unsigned opening;
} held[HELD];
static unsigned openings;

static int same(const struct held *h, const struct stat *st, pid_t process, int fd)
{
    if (!h->opening || h->device != st->st_dev || h->inode != st->st_ino)
        return 0;
    if (h->fd < 0)
        return (h->process == process && h->theirs == fd) ||
               sys5(SYS_kcmp, h->process, process, KCMP_FILE, h->theirs, fd) == 0;
    return sys5(SYS_kcmp, getpid(), process, KCMP_FILE, h->fd, fd) == 0;
}

/* Where the descriptor itself cannot be had (before 5.6), /proc says how it was opened. */
static int access_of(pid_t process, int fd)
{
    char path[64], line[128];
    unsigned flags = O_RDWR;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", process, fd);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "flags: %o", &flags) == 1)
            break;
    if (file)
        fclose(file);
    return (int)flags & O_ACCMODE;
}

static unsigned opening_of(const struct stat *st, pid_t process, int pidfd, int fd, int *access)
{
    long mine = sys3(SYS_pidfd_getfd, pidfd, fd, 0);
    *access = mine < 0 ? access_of(process, fd) : fcntl((int)mine, F_GETFL) & O_ACCMODE;
    for (int i = 0; i < HELD; i++)
        if (same(&held[i], st, process, fd)) {
            if (mine >= 0)
                close((int)mine);
            return held[i].opening;
        }
    struct held *h = &held[openings % HELD];
    if (h->opening && h->fd >= 0)
        close(h->fd);
    *h = (struct held){st->st_dev, st->st_ino, process, (int)mine, fd, ++openings};
    if (mine >= 0 && *access != O_RDONLY) {
        close((int)mine);
        h->fd = -1;
    }
    return h->opening;
}

void file_write(struct out *o, pid_t process, int pidfd, int fd)
{
    char link[64], path[4096];
    struct stat st;
    struct statfs fs = {0};
    int access = O_RDONLY;
    snprintf(link, sizeof link, "/proc/%d/fd/%d", process, fd);
    ssize_t length = readlink(link, path, sizeof path);
    if (length < 0 || stat(link, &st))
        return;
    statfs(link, &fs);
    unsigned opening = opening_of(&st, process, pidfd, fd, &access);
    const uint64_t numbers[] = {major(st.st_dev), minor(st.st_dev), st.st_ino, opening, (uint64_t)st.st_size,
                                (uint32_t)fs.f_type, (uint64_t)access, st.st_mode & S_IFMT};
    out_text(o, ",\"f\":[");
    out_string(o, path, (size_t)length);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        out_text(o, ",");
        out_unsigned(o, numbers[i]);
    }
    out_text(o, "]");
}
