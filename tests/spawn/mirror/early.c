/* early: the executable's own constructors and destructor. In: what they are given. Out: events, and view_constructors. */
#include "out.h"

#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

static struct {
    int argc, error;
    char **argv, **envp, **environment;
    const char *path, *home;
    unsigned long random;
} seen[2];

static void look(int which, int argc, char **argv, char **envp)
{
    seen[which].error = errno;
    seen[which].argc = argc;
    seen[which].argv = argv;
    seen[which].envp = envp;
    seen[which].environment = environ;
    seen[which].path = getenv("PATH");
    seen[which].home = getenv("HOME");
    seen[which].random = getauxval(AT_RANDOM);
}

/* In the order of their priorities, not of the file. */
__attribute__((constructor(202))) static void second(int argc, char **argv, char **envp)
{
    note("constructor-202");
    look(1, argc, argv, envp);
}

__attribute__((constructor(201))) static void earliest(int argc, char **argv, char **envp)
{
    note("constructor-201");
    look(0, argc, argv, envp);
}

__attribute__((destructor(201))) static void last(void)
{
    note("destructor-201");
}

#ifdef PREINIT
static void preinit(void)
{
    note("preinit");
}

/* Only an executable may have one; it runs before the constructors of all libraries. */
__attribute__((section(".preinit_array"), used)) static void (*const before_all)(void) = preinit;
#endif

void view_constructors(char **argv)
{
    static const char *const names[] = {"constructor_201", "constructor_202"};
    text("before_main", notes());
    for (int i = 0; i < 2; i++) {
        open_object(names[i]);
        number("argc", seen[i].argc);
        number("errno", seen[i].error);
        number("same_argv", seen[i].argv == argv);
        number("same_envp", seen[i].envp == argv + seen[i].argc + 1 && seen[i].environment == seen[i].envp);
        text("path", seen[i].path);
        text("home", seen[i].home);
        number("same_random", seen[i].random == getauxval(AT_RANDOM));
        close_object();
    }
}
