/* main: the order in which everything is looked at, and how the program ends. In: its start. Out: see out.h. */
#include "out.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static void first_registered(void)
{
    note("atexit-1");
}

static void second_registered(void)
{
    note("atexit-2");
}

static void on_exit_handler(int status, void *argument)
{
    (void)argument;
    note(status == 7 ? "on_exit-7" : "on_exit");
}

/* "end:7" as the last argument: exit with 7. "end:kill": by SIGTERM, if that is not ignored. */
static int end(const char *last)
{
    int status = !strncmp(last, "end:", 4) ? atoi(last + 4) : 0;
    atexit(first_registered);
    on_exit(on_exit_handler, NULL);
    atexit(second_registered);
    if (!strcmp(last, "end:kill"))
        raise(SIGTERM);
    return status;
}

int main(int argc, char **argv, char **envp)
{
    int error = errno;
    finish_into(answer_path());
    open_object(NULL);
    view_memory();
    view_descriptors();
    view_signals();
    view_stat(argv);
    view_proc();
    errno = error;
    view_start(argc, argv, envp);
    view_auxv(envp);
    view_constructors(argv);
    view_credentials();
    view_attributes();
    view_prctl();
    view_thread();
    view_terminal();
    act_malloc();
    view_library();
    act_late_library();
    act_threads();
    act_fork();
    act_signals();
    act_programs();
    act_streams();
    close_object();
    write_answer();
    return end(argv[argc - 1]);
}
