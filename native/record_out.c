#include "record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void out_flush(struct out *o)
{
    size_t done = 0;
    while (done < o->used && !o->error) {
        ssize_t n = write(o->fd, o->text + done, o->used - done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR)
            o->error = errno;
    }
    o->used = 0;
}

static void put(struct out *o, const char *text, size_t length)
{
    while (length) {
        if (o->used == sizeof o->text)
            out_flush(o);
        size_t room = sizeof o->text - o->used, part = length < room ? length : room;
        memcpy(o->text + o->used, text, part);
        o->used += part;
        text += part;
        length -= part;
    }
}

void out_text(struct out *o, const char *text)
{
    put(o, text, strlen(text));
}

void out_unsigned(struct out *o, uint64_t value)
{
    char digits[20];
    int at = sizeof digits;
    do
        digits[--at] = (char)('0' + value % 10);
    while (value /= 10);
    put(o, digits + at, sizeof digits - (size_t)at);
}

void out_number(struct out *o, int64_t value)
{
    if (value < 0)
        put(o, "-", 1);
    out_unsigned(o, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

/* Bytes of the UTF-8 sequence at `p`; 0 where there is none. */
static size_t sequence(const unsigned char *p, size_t left)
{
    size_t length = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;
    if (length > left)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    int overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    int beyond = (p[0] == 0xed && p[1] >= 0xa0) || (p[0] == 0xf4 && p[1] >= 0x90);
    return length > 2 && (overlong || beyond) ? 0 : length;
}

void out_string(struct out *o, const char *text, size_t length)
{
    const unsigned char *p = (const unsigned char *)text;
    char escape[8];
    put(o, "\"", 1);
    for (size_t at = 0; at < length;) {
        size_t n = sequence(p + at, length - at);
        if (n == 1 && (p[at] < 0x20 || p[at] == '"' || p[at] == '\\' || p[at] == 0x7f)) {
            snprintf(escape, sizeof escape, "\\u%04x", p[at]);
            put(o, escape, 6);
        } else if (n) {
            put(o, text + at, n);
        } else {
            snprintf(escape, sizeof escape, "\\udc%02x", p[at]);
            put(o, escape, 6);
            n = 1;
        }
        at += n;
    }
    put(o, "\"", 1);
}
