/* acts: a program's first deeds. In: the process. Out: JSON, whether they worked as in any other process. */
#include "out.h"

#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct late {
    int argc;
    char **argv;
    char **envp;
    const char *path_variable;
    const char *drift_variable;
};

void act_late_library(void)
{
    void *handle = dlopen("$ORIGIN/libmirror_late.so", RTLD_NOW);
    struct late *seen = handle ? dlsym(handle, "late_seen") : NULL;
    open_object("late_library");
    text("error", handle ? NULL : dlerror());
    if (seen) {
        number("argc", seen->argc);
        texts("argv", seen->argv);
        texts("envp", seen->envp);
        number("envp_is_environ", seen->envp == environ);
        text("path", seen->path_variable);
        text("drift", seen->drift_variable);
    }
    close_object();
}

/* How much the C library and the constructors had taken, and that more can be had, of every kind. */
void act_malloc(void)
{
    struct mallinfo2 before = mallinfo2();
    open_object("malloc");
    number("arena", (long)before.arena);
    number("used", (long)before.uordblks);
    number("mapped", (long)before.hblkhd);
    char *small = malloc(100), *large = malloc(1 << 20);
    number("small", small != NULL);
    number("large", large != NULL);
    if (small && large) {
        memset(small, 1, 100);
        memset(large, 1, 1 << 20);
    }
    free(small);
    free(large);
    struct mallinfo2 after = mallinfo2();
    number("mapped_again", (long)after.hblkhd);
    close_object();
}

static int after_fork(pid_t parent)
{
    pthread_mutex_t mutex = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
    int tid = (int)syscall(SYS_gettid), wrong = 0;
    wrong |= (getpid() != tid) << 0;
    wrong |= (gettid() != tid) << 1;
    wrong |= (getppid() != parent) << 2;
    pthread_mutex_lock(&mutex);
    wrong |= (mutex.__data.__owner != tid) << 3;
    wrong |= (pthread_mutex_lock(&mutex) != EDEADLK) << 4;
    wrong |= (pthread_mutex_unlock(&mutex) != 0) << 5;
    wrong |= (raise(0) != 0) << 6;
    return wrong;
}

static int prepared, in_parent, in_child;

static void prepare(void)
{
    prepared++;
}

static void parent_side(void)
{
    in_parent++;
}

static void child_side(void)
{
    in_child++;
}

void act_fork(void)
{
    int status = -1;
    pid_t parent = getpid();
    open_object("fork");
    pthread_atfork(prepare, parent_side, child_side);
    pid_t pid = fork();
    if (!pid)
        _exit(after_fork(parent) | (in_child != 1) << 7);
    answer("forked", pid < 0 ? -1 : 0);
    answer("waited", waitpid(pid, &status, 0) == pid ? 0 : -1);
    number("wrong", status);
    number("handlers", prepared == 1 && in_parent == 1 && in_child == 0);
    close_object();
}

void act_programs(void)
{
    int status = -1;
    pid_t pid = 0;
    char *argv[] = {"true", NULL};
    open_object("programs");
    answer("system", system("true"));
    number("posix_spawn", posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ));
    answer("waited", waitpid(pid, &status, 0) == pid ? 0 : -1);
    number("status", status);
    close_object();
}
