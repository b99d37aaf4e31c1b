/* late: opened by dlopen. In: what the dynamic linker gives a constructor. Out: that, for the executable to compare. */
#include <stdlib.h>

struct late {
    int argc;
    char **argv;
    char **envp;
    const char *path_variable;
    const char *drift_variable;
} late_seen;

__attribute__((constructor)) static void begin(int argc, char **argv, char **envp)
{
    late_seen = (struct late){argc, argv, envp, getenv("PATH"), getenv("DRIFT")};
}
