/* process: ids, limits, scheduling, and what /proc says. In: the process. Out: JSON. */
#include "out.h"

#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void view_capabilities(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    syscall(SYS_capget, &head, data);
    long values[] = {data[0].effective, data[0].permitted, data[0].inheritable,
                     data[1].effective, data[1].permitted, data[1].inheritable};
    numbers("capabilities", values, 6);
}

void view_credentials(void)
{
    uid_t u[3];
    gid_t g[3], groups[256];
    getresuid(&u[0], &u[1], &u[2]);
    getresgid(&g[0], &g[1], &g[2]);
    long uids[] = {u[0], u[1], u[2], setfsuid((uid_t)-1)};
    long gids[] = {g[0], g[1], g[2], setfsgid((gid_t)-1)};
    numbers("uids", uids, 4);
    numbers("gids", gids, 4);
    long wide[256];
    int n = getgroups(256, groups);
    for (int i = 0; i < n; i++)
        wide[i] = groups[i];
    numbers("groups", wide, n < 0 ? 0 : (size_t)n);
    view_capabilities();
    number("pid", getpid());
    number("ppid", getppid());
    number("session", getsid(0));
    number("group", getpgrp());
    answer("children", waitpid(-1, NULL, WNOHANG | __WALL));
}

static void view_limits(void)
{
    open_object("limits");
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        char name[8];
        struct rlimit limit;
        getrlimit(i, &limit);
        long values[] = {(long)limit.rlim_cur, (long)limit.rlim_max};
        snprintf(name, sizeof name, "%d", i);
        numbers(name, values, 2);
    }
    close_object();
}

/* The kernel's struct sched_attr; the C library of today has none. */
struct scheduling {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
};

static void view_scheduling(void)
{
    struct scheduling s = {0};
    cpu_set_t set;
    CPU_ZERO(&set);
    answer("sched_getattr", syscall(SYS_sched_getattr, 0, &s, sizeof s, 0));
    long values[] = {s.policy, (long)s.flags, s.nice, s.priority, (long)s.runtime,
                     (long)s.deadline, (long)s.period, s.util_min, s.util_max};
    numbers("scheduling", values, 9);
    number("nice", getpriority(PRIO_PROCESS, 0));
    sched_getaffinity(0, sizeof set, &set);
    long cpus[CPU_SETSIZE];
    size_t count = 0;
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set))
            cpus[count++] = i;
    numbers("affinity", cpus, count);
    answer("ioprio", syscall(SYS_ioprio_get, 1, 0));
}

/* KEYCTL_GET_KEYRING_ID without creating: thread, process, session, user, user session. */
static void view_keyrings(void)
{
    static const char *const names[] = {"thread", "process", "session", "user", "user_session"};
    open_object("keyrings");
    for (int i = 0; i < 5; i++)
        answer(names[i], syscall(SYS_keyctl, 0, -1 - i, 0));
    close_object();
}

static void view_memory_policy(void)
{
    int mode = -1;
    unsigned long nodes[16] = {0};
    answer("get_mempolicy", syscall(SYS_get_mempolicy, &mode, nodes, 1024, NULL, 0));
    number("memory_policy", mode);
    number("memory_nodes", (long)nodes[0]);
}

static void view_place(void)
{
    char path[4096];
    struct stat here, root;
    mode_t mask = umask(0);
    umask(mask);
    number("umask", mask);
    text("getcwd", getcwd(path, sizeof path));
    target("cwd", "/proc/self/cwd");
    target("root", "/proc/self/root");
    target("exe", "/proc/self/exe");
    if (!stat(".", &here) && !stat("/", &root)) {
        long values[] = {(long)here.st_dev, (long)here.st_ino, (long)root.st_dev, (long)root.st_ino};
        numbers("places", values, 4);
    }
}

void view_attributes(void)
{
    view_place();
    view_limits();
    view_scheduling();
    view_keyrings();
    view_memory_policy();
}

/* What was used up by children: none have been. */
static void view_children_usage(void)
{
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    long values[] = {usage.ru_utime.tv_sec, usage.ru_utime.tv_usec, usage.ru_stime.tv_usec, usage.ru_maxrss,
                     usage.ru_minflt, usage.ru_majflt, usage.ru_nvcsw};
    numbers("children_usage", values, 7);
    getrusage(RUSAGE_SELF, &usage);
    number("cpu_seconds", usage.ru_utime.tv_sec + usage.ru_stime.tv_sec);
}

void view_proc(void)
{
    static const char *const whole[] = {"comm", "cgroup", "cpuset", "oom_score_adj", "coredump_filter", "loginuid",
                                        "sessionid", "personality", "timerslack_ns", "attr/current", "attr/exec",
                                        "uid_map", "gid_map", "projid_map", "setgroups", "timens_offsets",
                                        "autogroup", "ksm_stat", "ksm_merging_pages", "seccomp_cache"};
    static const char *const spaces[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time",
                                         "time_for_children", "user", "uts"};
    static char lines[1 << 14];
    char path[64];
    open_object("proc");
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        snprintf(path, sizeof path, "/proc/self/%s", whole[i]);
        file(whole[i], path);
    }
    file("arch_status", "/proc/self/arch_status");
    close_object();
    open_object("namespaces");
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", spaces[i]);
        target(spaces[i], path);
    }
    close_object();
    /* Line by line, so that what is too long to be shown is not hidden behind a hash of the whole. */
    slurp("/proc/self/status", lines, sizeof lines);
    open_object("status");
    for (char *line = lines, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        char *colon = strchr(line, ':');
        *colon = 0;
        text(line, colon + 1 + strspn(colon + 1, " \t"));
    }
    close_object();
    view_children_usage();
}
