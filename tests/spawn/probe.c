/* probe: what a program sees of itself at its start, as one JSON object.
 *
 * probe OUT [ARG...]   snapshot first, then OUT is opened ("-": standard output) and written.
 * Strings are bytes, each escaped as \u00XX outside printable ASCII: to be decoded as Latin-1.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE 68
#endif

extern char **environ;
static char buffer[1 << 20];
static size_t used;

static void put(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    used += (size_t)vsnprintf(buffer + used, sizeof buffer - used, format, list);
    va_end(list);
}

static void put_string(const char *s)
{
    put("\"");
    for (; *s; s++)
        if (*s >= ' ' && *s < 127 && *s != '"' && *s != '\\')
            put("%c", *s);
        else
            put("\\u%04x", (unsigned char)*s);
    put("\"");
}

static void put_strings(const char *key, char **strings)
{
    put("\"%s\": [", key);
    for (int i = 0; strings[i]; i++) {
        put(i ? ", " : "");
        put_string(strings[i]);
    }
    put("], ");
}

static void put_link(const char *key, const char *path)
{
    char target[4096];
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n < 0 ? 0 : n] = 0;
    put("\"%s\": ", key);
    put_string(target);
    put(", ");
}

static void put_descriptors(void)
{
    char path[64], target[4096];
    const char *comma = "";
    DIR *dir = opendir("/proc/self/fd");
    put("\"fds\": {");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        int fd = atoi(e->d_name);
        if (e->d_name[0] == '.' || fd == dirfd(dir))
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, target, sizeof target - 1);
        target[n < 0 ? 0 : n] = 0;
        put("%s\"%d\": [", comma, fd);
        put_string(target);
        put(", %d, %d]", fcntl(fd, F_GETFD), fcntl(fd, F_GETFL));
        comma = ", ";
    }
    if (dir)
        closedir(dir);
    put("}, ");
}

static void put_file(const char *key, const char *path)
{
    char text[4096];
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    text[n < 0 ? 0 : n] = 0;
    if (fd >= 0)
        close(fd);
    put("\"%s\": ", key);
    put_string(text);
    put(", ");
}

static void put_ids(void)
{
    uid_t u[3];
    gid_t g[3], groups[256];
    getresuid(&u[0], &u[1], &u[2]);
    getresgid(&g[0], &g[1], &g[2]);
    put("\"uids\": [%u, %u, %u], \"gids\": [%u, %u, %u], \"groups\": [", u[0], u[1], u[2], g[0], g[1], g[2]);
    int n = getgroups(256, groups);
    for (int i = 0; i < n; i++)
        put("%s%u", i ? ", " : "", groups[i]);
    put("], ");
}

static void put_rest(void)
{
    int sig = 0;
    cpu_set_t set;
    struct rlimit limit;
    const char *comma = "";
    mode_t mask = umask(0);
    umask(mask);
    prctl(PR_GET_PDEATHSIG, &sig);
    put("\"umask\": %d, \"nice\": %d, \"pdeathsig\": %d, ", (int)mask, getpriority(PRIO_PROCESS, 0), sig);
    put("\"no_new_privs\": %d, ", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    put("\"memory_merge\": %d, ", prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
    put("\"pid\": %d, \"ppid\": %d, \"session\": %d, \"group\": %d, ", getpid(), getppid(), getsid(0), getpgrp());
    put("\"cpus\": [");
    sched_getaffinity(0, sizeof set, &set);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set)) {
            put("%s%d", comma, i);
            comma = ", ";
        }
    put("], \"rlimits\": {");
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        getrlimit(i, &limit);
        put("%s\"%d\": [%ld, %ld]", i ? ", " : "", i, (long)limit.rlim_cur, (long)limit.rlim_max);
    }
    put("}");
}

int main(int argc, char **argv)
{
    (void)argc;
    put("{");
    put_descriptors();
    put_strings("argv", argv);
    put_strings("env", environ);
    put_link("exe", "/proc/self/exe");
    put_link("cwd", "/proc/self/cwd");
    put_file("comm", "/proc/self/comm");
    put_file("status", "/proc/self/status");
    put_file("cgroup", "/proc/self/cgroup");
    put_file("oom_score_adj", "/proc/self/oom_score_adj");
    put_file("tty", "/proc/self/stat");
    put("\"execfn\": ");
    put_string((const char *)getauxval(AT_EXECFN));
    put(", ");
    put_ids();
    put_rest();
    put("}\n");
    int out = argv[1] && strcmp(argv[1], "-") ? open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0666) : 1;
    return out < 0 || write(out, buffer, used) != (ssize_t)used;
}
