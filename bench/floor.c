/* floor: what starting a program costs a plain C program. Compiled and driven by bench/floor.py.
 *
 * In: commands on standard input, one a line, words separated by tabs:
 *         spawn <TAB> N <TAB> path <TAB> argument ...      vfork, execve, waitpid
 *         capture <TAB> N <TAB> path <TAB> argument ...    two pipes, vfork, dup2, execve, poll, waitpid
 * Out: one line for each: N latencies in nanoseconds; or "error" and what failed.
 *
 * It runs beside the Python that is measured, in the same environment, and takes its turn in every round.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS 64
#define LINE 8192
#define ROOM (1 << 20) /* of captured output, for each stream */

extern char **environ;

static char room[2][ROOM];

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* An exit status other than 0 would mean that something else was measured. */
static int ended_well(pid_t pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid && status == 0;
}

static int spawn(char **argv)
{
    pid_t pid = vfork();
    if (pid == 0) {
        execve(argv[0], argv, environ);
        _exit(127);
    }
    return pid > 0 && ended_well(pid);
}

static int drain(int out, int err)
{
    struct pollfd p[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    size_t used[2] = {0, 0};
    int open = 2;
    while (open) {
        if (poll(p, 2, -1) < 0)
            return 0;
        for (int i = 0; i < 2; i++) {
            if (p[i].fd < 0 || !p[i].revents)
                continue;
            ssize_t n = read(p[i].fd, room[i] + used[i], ROOM - used[i]);
            if (n < 0)
                return 0;
            used[i] += (size_t)n;
            if (n == 0) {
                close(p[i].fd);
                p[i].fd = -1; /* poll skips it */
                open--;
            }
        }
    }
    return 1;
}

static int capture(char **argv)
{
    int out[2], err[2];
    if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
        return 0;
    pid_t pid = vfork();
    if (pid == 0) {
        dup2(out[1], 1);
        dup2(err[1], 2);
        execve(argv[0], argv, environ);
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    return pid > 0 && drain(out[0], err[0]) && ended_well(pid);
}

static void serve(FILE *report, int (*start)(char **), long count, char **argv)
{
    for (long i = 0; i < count; i++) {
        int64_t from = now();
        if (!start(argv)) {
            fprintf(report, "error %s: %s", argv[0], errno ? strerror(errno) : "ended with an error");
            break;
        }
        fprintf(report, "%lld ", (long long)(now() - from));
    }
    fputc('\n', report);
    fflush(report);
}

int main(void)
{
    static char line[LINE];
    /* The children inherit standard output, which is therefore led away before the first one. */
    FILE *report = fdopen(fcntl(1, F_DUPFD_CLOEXEC, 3), "w");
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (!report || null < 0 || dup2(null, 1) < 0)
        return 1;
    close(null);
    memset(room, 1, sizeof room);
    while (fgets(line, sizeof line, stdin)) {
        char *words[WORDS + 1] = {NULL};
        int count = 0;
        line[strcspn(line, "\n")] = 0;
        for (char *word = strtok(line, "\t"); word && count < WORDS; word = strtok(NULL, "\t"))
            words[count++] = word;
        if (count < 3)
            return 2;
        errno = 0;
        serve(report, strcmp(words[0], "capture") ? spawn : capture, atol(words[1]), words + 2);
    }
    return 0;
}
