/* driver: the hands of the lab in a machine without any other program. In: requests on a port. Out: answers on it.
 *
 * As a kernel's first process it mounts what it needs, loads the modules in /modules and takes the virtio port; else
 * its port is standard input and output, so that the same program serves on the host. It judges nothing: whoever is at
 * the other end reads what the kernel shows, and compares.
 *
 * A request is seven 64-bit words, the seventh the length of what follows: a path, or words for mm_driver. An answer is
 * two, a result or -errno and a length, and what follows. The program that does operations on its own memory is
 * mm_driver, a child with pipes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START = 1, CALL, SMAPS, READ, MEMORY, OPEN, TRUNCATE, END, HOLD, RELEASE, POWER_OFF };

/* How HOLD says that a signal came out of execve; no errno is as large. */
enum { SIGNALLED = 10000 };

/* What is read at once: for a file below /proc/sys the kernel allocates a buffer of that size. */
enum { PIECE = 1 << 16 };

static int in = 0, out = 1;
static int to_driver = -1, from_driver = -1;
static char data[8 << 20];

static int read_all(int fd, void *buffer, size_t length)
{
    for (size_t got = 0; got < length;) {
        ssize_t n = read(fd, (char *)buffer + got, length - got);
        if (n > 0)
            got += n;
        else if (n == 0 && getpid() == 1 && fd == in)
            usleep(1000); /* a virtio port gives 0 until the other side is there */
        else if (n == 0 || errno != EINTR)
            return -1;
    }
    return 0;
}

static int write_all(int fd, const void *buffer, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = write(fd, (const char *)buffer + done, length - done);
        if (n > 0)
            done += n;
        else if (errno != EINTR)
            return -1;
    }
    return 0;
}

/* ---- mm_driver ---- */

static int64_t start(const char *path)
{
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) || pipe2(up, O_CLOEXEC))
        return -errno;
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[] = {(char *)path, 0}, *envp[] = {0};
        dup2(down[0], 0);
        dup2(up[1], 1);
        personality(personality(0xffffffff) | ADDR_NO_RANDOMIZE);
        execve(path, argv, envp);
        _exit(127);
    }
    close(down[0]);
    close(up[1]);
    to_driver = down[1];
    from_driver = up[0];
    return pid;
}

static int64_t call(const void *words, uint64_t length)
{
    int64_t result;
    if (write_all(to_driver, words, length) || read_all(from_driver, &result, sizeof result))
        return -SIGNALLED;
    return result;
}

static int64_t end(void)
{
    close(to_driver);
    close(from_driver);
    to_driver = from_driver = -1;
    int status = 0;
    while (wait(&status) > 0)
        ;
    return status;
}

/* ---- what the kernel shows ---- */

static int64_t slurp(const char *path, uint64_t *length)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = 1;
    while (n > 0 && *length + PIECE < sizeof data)
        if ((n = read(fd, data + *length, PIECE)) > 0)
            *length += n;
    data[*length] = 0;
    close(fd);
    return n < 0 ? -errno : 0;
}

/* Of smaps the lines that say where a mapping is and what its flags are: a tenth of the text, and the port is slow. */
static int64_t smaps(uint64_t pid, uint64_t *length)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%llu/smaps", (unsigned long long)pid);
    uint64_t all = 0;
    int64_t result = slurp(path, &all);
    char *to = data;
    for (char *line = data, *next; line < data + all; line = next) {
        char *newline = memchr(line, '\n', data + all - line);
        next = newline ? newline + 1 : data + all;
        if ((*line >= 'A' && *line <= 'Z') && strncmp(line, "VmFlags:", 8))
            continue;
        memmove(to, line, next - line);
        to += next - line;
    }
    *length = to - data;
    return result;
}

/* ---- programs at their first instruction ---- */

static int64_t hold(char *path)
{
    int failed[2], status, number = 0;
    if (pipe2(failed, O_CLOEXEC))
        return -errno;
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[] = {path, 0}, *envp[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", 0};
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        personality(ADDR_NO_RANDOMIZE);
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        execve(path, argv, envp);
        number = errno;
        write_all(failed[1], &number, sizeof number);
        _exit(127);
    }
    close(failed[1]);
    waitpid(pid, &status, 0);
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) {
        ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL);
        close(failed[0]);
        return pid;
    }
    int signal = WIFSTOPPED(status) ? WSTOPSIG(status) : WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (WIFSTOPPED(status)) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    read_all(failed[0], &number, sizeof number);
    close(failed[0]);
    return signal ? -SIGNALLED - signal : -number;
}

static int64_t release(pid_t pid)
{
    kill(pid, SIGKILL);
    return waitpid(pid, 0, 0) == pid ? 0 : -errno;
}

/* ---- requests ---- */

static int64_t done(int64_t result)
{
    return result < 0 ? -errno : result;
}

static int64_t answer(const uint64_t *w, uint64_t *length)
{
    uint64_t given = w[6];
    *length = 0;
    switch (w[0]) {
    case START:
        return start(data);
    case CALL:
        return call(data, given);
    case SMAPS:
        return smaps(w[1], length);
    case READ:
        return slurp(strcpy(data + sizeof data / 2, data), length);
    case MEMORY:
        return done(memfd_create(data, 0));
    case OPEN:
        return done(open(data, w[1], 0600));
    case TRUNCATE:
        return done(ftruncate(w[1], w[2]));
    case END:
        return end();
    case HOLD:
        return hold(data);
    case RELEASE:
        return release(w[1]);
    case POWER_OFF:
        sync();
        return done(reboot(RB_POWER_OFF));
    }
    return -ENOSYS;
}

static int serve(void)
{
    uint64_t words[7];
    while (!read_all(in, words, sizeof words)) {
        if (words[6] >= sizeof data / 2 || read_all(in, data, words[6]))
            return 1;
        data[words[6]] = 0;
        uint64_t head[2];
        head[0] = answer(words, &head[1]);
        if (write_all(out, head, sizeof head) || write_all(out, data, head[1]))
            return 1;
    }
    return 0;
}

/* ---- the first process ---- */

static void load_modules(void)
{
    char path[64];
    for (int n = 0;; n++) {
        snprintf(path, sizeof path, "/modules/%d", n);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return;
        if (syscall(SYS_finit_module, fd, "", 0))
            fprintf(stderr, "%s: %s\n", path, strerror(errno));
        close(fd);
    }
}

static void take_port(void)
{
    for (int tries = 0; tries < 3000; tries++, usleep(10000)) {
        int fd = open("/dev/vport0p1", O_RDWR | O_CLOEXEC);
        if (fd >= 0) {
            in = out = fd;
            return;
        }
    }
    fprintf(stderr, "no port\n");
    reboot(RB_POWER_OFF);
}

static void begin(void)
{
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    for (int n = 0; n < 3; n++)
        open("/dev/console", O_RDWR);
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    mount("ramfs", "/ramfs", "ramfs", 0, "");
    load_modules();
    take_port();
}

int main(void)
{
    if (getpid() == 1)
        begin();
    return serve();
}
