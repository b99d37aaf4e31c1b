/* out: the JSON writer, and what is read whole. In: keys and values. Out: static memory, then a file. */
#include "out.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char buffer[8 << 20];
static size_t used;
static int first = 1;

/* What is longer is told by its beginning, its length and a hash: there are arguments of 20 KB. */
enum { WHOLE = 600, BEGINNING = 80 };

void put(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    used += (size_t)vsnprintf(buffer + used, sizeof buffer - used, format, list);
    va_end(list);
}

static uint64_t hash(const char *bytes, size_t length)
{
    uint64_t h = 14695981039346656037U; /* FNV-1a */
    for (size_t i = 0; i < length; i++)
        h = (h ^ (unsigned char)bytes[i]) * 1099511628211U;
    return h;
}

void put_text(const char *bytes, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    size_t shown = length > WHOLE ? BEGINNING : length;
    buffer[used++] = '"';
    for (size_t i = 0; i < shown; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c >= ' ' && c < 127 && c != '"' && c != '\\') {
            buffer[used++] = (char)c;
        } else {
            memcpy(buffer + used, "\\u00", 4);
            buffer[used + 4] = digits[c >> 4];
            buffer[used + 5] = digits[c & 15];
            used += 6;
        }
    }
    if (shown < length)
        put("... %zu bytes, %016lx", length, (unsigned long)hash(bytes, length));
    buffer[used++] = '"';
}

void key(const char *name)
{
    put("%s\"%s\": ", first ? "" : ", ", name);
    first = 0;
}

void open_object(const char *name)
{
    if (name)
        key(name);
    put("{");
    first = 1;
}

void close_object(void)
{
    put("}");
    first = 0;
}

void number(const char *name, long value)
{
    key(name);
    put("%ld", value);
}

void answer(const char *name, long value)
{
    int error = errno;
    key(name);
    if (value == -1)
        put("\"E%d\"", error);
    else
        put("%ld", value);
}

void text(const char *name, const char *string)
{
    key(name);
    if (string)
        put_text(string, strlen(string));
    else
        put("null");
}

void texts(const char *name, char *const *strings)
{
    key(name);
    put("[");
    for (size_t i = 0; strings && strings[i]; i++) {
        put(i ? ", " : "");
        put_text(strings[i], strlen(strings[i]));
    }
    put("]");
}

void numbers(const char *name, const long *values, size_t count)
{
    key(name);
    put("[");
    for (size_t i = 0; i < count; i++)
        put("%s%ld", i ? ", " : "", values[i]);
    put("]");
}

ssize_t slurp(const char *path, char *into, size_t size)
{
    size_t got = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    into[0] = 0;
    if (fd < 0)
        return -1;
    for (ssize_t n; got < size - 1 && (n = read(fd, into + got, size - 1 - got)) > 0;)
        got += (size_t)n;
    close(fd);
    into[got] = 0;
    return (ssize_t)got;
}

void file(const char *name, const char *path)
{
    static char whole[1 << 14];
    ssize_t n = slurp(path, whole, sizeof whole);
    if (n < 0)
        answer(name, -1);
    else {
        key(name);
        put_text(whole, (size_t)n);
    }
}

void target(const char *name, const char *path)
{
    char link[4096];
    ssize_t n = readlink(path, link, sizeof link);
    if (n < 0)
        answer(name, -1);
    else {
        key(name);
        put_text(link, (size_t)n);
    }
}

const char *answer_path(void)
{
    static char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 8);
    if (n > 0)
        strcpy(path + n, ".out");
    return path;
}

void write_answer(void)
{
    int fd = open(answer_path(), O_WRONLY | O_APPEND | O_CLOEXEC);
    put("\n");
    for (size_t at = 0; fd >= 0 && at < used;) {
        ssize_t n = write(fd, buffer + at, used - at);
        if (n <= 0)
            break;
        at += (size_t)n;
    }
    close(fd);
}
