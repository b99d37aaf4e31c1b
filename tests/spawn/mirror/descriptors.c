/* descriptors: what is open, terminals, stdio. In: the process. Out: JSON, and a line on each output. */
#include "out.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <string.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

static void put_descriptor(int fd)
{
    char name[16], path[64];
    struct stat status;
    snprintf(name, sizeof name, "%d", fd);
    open_object(name);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    target("target", path);
    answer("descriptor_flags", fcntl(fd, F_GETFD));
    answer("status_flags", fcntl(fd, F_GETFL));
    answer("offset", lseek(fd, 0, SEEK_CUR));
    answer("owner", fcntl(fd, F_GETOWN));
    answer("signal", fcntl(fd, F_GETSIG));
    answer("lease", fcntl(fd, F_GETLEASE));
    if (!fstat(fd, &status)) {
        number("type", status.st_mode);
        number("inode", (long)status.st_ino);
    }
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    file("fdinfo", path);
    close_object();
}

/* By the system call: opendir would use the heap. */
void view_descriptors(void)
{
    static char list[1 << 16];
    int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    open_object("descriptors");
    for (long got; dir >= 0 && (got = syscall(SYS_getdents64, dir, list, sizeof list)) > 0;)
        for (long at = 0; at < got; at += ((struct dirent64 *)(list + at))->d_reclen) {
            const char *name = ((struct dirent64 *)(list + at))->d_name;
            if (name[0] != '.' && atoi(name) != dir)
                put_descriptor(atoi(name));
        }
    close_object();
    close(dir);
}

void view_terminal(void)
{
    char name[256];
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    open_object("terminal");
    answer("open", fd < 0 ? -1 : 0);
    if (fd >= 0) {
        answer("foreground", tcgetpgrp(fd));
        answer("session", tcgetsid(fd));
        close(fd);
    }
    for (int i = 0; i < 3; i++) {
        char label[16];
        struct winsize size = {0};
        snprintf(label, sizeof label, "name_%d", i);
        text(label, ttyname_r(i, name, sizeof name) ? NULL : name);
        snprintf(label, sizeof label, "columns_%d", i);
        answer(label, ioctl(i, TIOCGWINSZ, &size) ? -1 : size.ws_col);
    }
    close_object();
}

static void view_stream(const char *name, FILE *stream)
{
    open_object(name);
    number("number", fileno(stream));
    number("buffer", (long)__fbufsize(stream));
    number("line_buffered", __flbf(stream));
    number("pending", (long)__fpending(stream));
    number("readable", __freadable(stream));
    number("writable", __fwritable(stream));
    number("reading", __freading(stream));
    number("writing", __fwriting(stream));
    number("wide", fwide(stream, 0));
    number("error", ferror(stream));
    number("end", feof(stream));
    number("terminal", isatty(fileno(stream)));
    close_object();
}

static void view_streams(const char *name)
{
    open_object(name);
    view_stream("stdin", stdin);
    view_stream("stdout", stdout);
    view_stream("stderr", stderr);
    close_object();
}

/* Who reads an output can tell from the order of these lines how it was buffered. */
void act_streams(void)
{
    char start[17] = "";
    struct stat status;
    view_streams("streams");
    if (!fstat(0, &status) && S_ISREG(status.st_mode)) {
        answer("stdin_read", fread(start, 1, 16, stdin) ? 0 : -1);
        text("stdin_text", start);
    }
    printf("stdio to stdout\n");
    fprintf(stderr, "stdio to stderr\n");
    answer("stdout_written", write(1, "raw to stdout\n", 14));
    answer("stderr_written", write(2, "raw to stderr\n", 14));
    view_streams("streams_used");
}
