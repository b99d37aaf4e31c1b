#define _GNU_SOURCE
#include "record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void row_end(struct out *o, const char *flags, unsigned long anonymous)
{
    out_text(o, ",");
    out_string(o, flags, strlen(flags));
    out_text(o, ",");
    out_unsigned(o, anonymous);
    out_text(o, "]");
}

/* A line of maps begins with an address, an item of smaps with a capital letter. */
static int row_begin(struct out *o, const char *line, int rows)
{
    unsigned long start, end, offset, inode;
    unsigned int major, minor;
    char perms[5];
    int name = 0;
    if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %n", &start, &end, perms, &offset, &major, &minor, &inode, &name) < 7)
        return 0;
    out_text(o, rows ? ",[" : "[");
    for (int i = 0; i < 2; i++) {
        out_unsigned(o, i ? end : start);
        out_text(o, ",");
    }
    out_string(o, perms, 4);
    const unsigned long numbers[] = {offset, major, minor, inode};
    for (int i = 0; i < 4; i++) {
        out_text(o, ",");
        out_unsigned(o, numbers[i]);
    }
    out_text(o, ",");
    out_string(o, line + name, strcspn(line + name, "\n"));
    return 1;
}

void maps_rows(struct out *o, pid_t pid)
{
    char path[64], flags[256] = "", *line = NULL;
    size_t room = 0;
    unsigned long anonymous = 0;
    int rows = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps", pid);
    FILE *file = fopen(path, "re");
    out_text(o, "[");
    while (file && getline(&line, &room, file) > 0) {
        if (*line >= 'A' && *line <= 'Z') {
            sscanf(line, "Anonymous: %lu", &anonymous);
            if (!strncmp(line, "VmFlags: ", 9))
                snprintf(flags, sizeof flags, "%.*s", (int)strcspn(line + 9, "\n"), line + 9);
            continue;
        }
        if (rows)
            row_end(o, flags, anonymous);
        rows += row_begin(o, line, rows);
        *flags = 0;
        anonymous = 0;
    }
    if (rows)
        row_end(o, flags, anonymous);
    out_text(o, "]");
    free(line);
    if (file)
        fclose(file);
}

/* Field 47 of stat; the second, a name, may contain anything but ends with the last parenthesis. */
uint64_t maps_start_brk(pid_t pid)
{
    char path[64], text[2048];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 47; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}
