/* start: argv, environ, where they stand, and what the C library made of them. In: main's own. Out: JSON. */
#include "out.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

extern void *__libc_stack_end;
extern char *__progname, *__progname_full;

/* Whether each string begins where the one before it ends; *end is where the last one ends. */
static int contiguous(char *const *strings, const char **end)
{
    for (; *strings; strings++) {
        if (*end && *strings != *end)
            return 0;
        *end = *strings + strlen(*strings) + 1;
    }
    return 1;
}

static void view_layout(int argc, char **argv, char **envp)
{
    const char *end = NULL;
    open_object("layout");
    number("argc_before_argv", ((long *)argv)[-1] == argc);
    number("argv_ends", argv[argc] == NULL);
    number("envp_is_environ", envp == environ);
    number("envp_behind_argv", envp == argv + argc + 1);
    number("argv_contiguous", contiguous(argv, &end));
    number("env_contiguous", contiguous(envp, &end));
    number("execfn_behind_env", end == (const char *)getauxval(AT_EXECFN));
    number("aligned", ((uintptr_t)(argv - 1) & 15) == 0);
    number("vectors_below_strings", (char *)argv < argv[0]);
    close_object();
}

static void view_pointers(char **argv)
{
    char ***linker_argv = dlvsym(RTLD_DEFAULT, "_dl_argv", "GLIBC_PRIVATE");
    int *linker_argc = dlvsym(RTLD_DEFAULT, "_dl_argc", "GLIBC_PRIVATE");
    open_object("library_pointers");
    number("stack_end_is_argc", __libc_stack_end == (void *)(argv - 1));
    number("invocation_name_is_argv0", program_invocation_name == argv[0] && __progname_full == argv[0]);
    text("invocation_name", program_invocation_name);
    text("short_name", program_invocation_short_name);
    number("progname_is_short_name", __progname == program_invocation_short_name);
    number("linker_argv", linker_argv ? *linker_argv == argv : -1);
    number("linker_argc", linker_argc ? *linker_argc : -1);
    number("secure_getenv_as_getenv", secure_getenv("PATH") == getenv("PATH"));
    close_object();
}

/* Two passes over a file that may be longer than any buffer: equal to these strings, one behind the other? */
static void view_proc_strings(const char *name, const char *path, char *const *strings)
{
    static char text_of[4 << 20];
    ssize_t length = slurp(path, text_of, sizeof text_of), at = 0;
    int same = length >= 0;
    for (; same && *strings; strings++) {
        ssize_t n = (ssize_t)strlen(*strings) + 1;
        same = at + n <= length && !memcmp(text_of + at, *strings, (size_t)n);
        at += n;
    }
    open_object(name);
    number("same", same && at == length);
    number("length", length);
    key("text");
    put_text(text_of, length < 0 ? 0 : (size_t)length);
    close_object();
}

void view_start(int argc, char **argv, char **envp)
{
    number("errno_at_main", errno);
    number("argc", argc);
    texts("argv", argv);
    texts("environ", envp);
    view_proc_strings("cmdline", "/proc/self/cmdline", argv);
    view_proc_strings("proc_environ", "/proc/self/environ", envp);
    view_layout(argc, argv, envp);
    view_pointers(argv);
}
