/* library: linked with the executable, so its constructor runs before the executable's and its destructor last.
 *
 * In: events noted by anybody. Out: their order, and the last line of the answer.
 * The constructor reads neither environ nor argv: a warm template has run it long before either was known.
 */
#include "out.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

__thread int library_thread_local = 77;

static char events[1024];
static char path[4096];

void note(const char *event)
{
    size_t length = strlen(events);
    snprintf(events + length, sizeof events - length, "%s%s", length ? " " : "", event);
}

const char *notes(void)
{
    return events;
}

void finish_into(const char *where)
{
    snprintf(path, sizeof path, "%s", where);
}

__attribute__((constructor)) static void begin(void)
{
    note("library-constructor");
}

__attribute__((destructor)) static void end(void)
{
    char line[1200];
    note("library-destructor");
    int fd = path[0] ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    int length = snprintf(line, sizeof line, "{\"ended\": \"%s\", \"thread_local\": %d}\n", events, library_thread_local);
    if (fd >= 0 && write(fd, line, (size_t)length) != length)
        _exit(97);
    close(fd);
}
