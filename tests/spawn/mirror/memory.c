/* memory: the address space by name, and the fields of /proc/self/stat. In: argv, to compare with. Out: JSON.
 *
 * Addresses never equal; names, permissions, sizes of what is mapped from files, and kernel flags of areas may.
 */
#include "out.h"

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

extern char __executable_start[];
extern void *__libc_stack_end;

static char maps[1 << 16], areas[1 << 19];

/* One area: its name ("" where it has none), permissions, size in KB. */
static void put_area(const char *line, const char *name, const char *comma)
{
    unsigned long start, end;
    char permissions[8];
    if (sscanf(line, "%lx-%lx %7s", &start, &end, permissions) != 3)
        return;
    put("%s[", comma);
    put_text(name, strlen(name));
    put(", \"%s\", %lu]", permissions, (end - start) >> 10);
}

/* The sixth field of a line of maps; it is padded, and may contain spaces. */
static const char *name_in(const char *line)
{
    for (int field = 0; field < 5; field++) {
        line += strcspn(line, " ");
        line += strspn(line, " ");
    }
    return line;
}

static void put_areas(void)
{
    const char *comma = "";
    int anonymous_code = 0;
    key("maps");
    put("[");
    for (char *line = maps, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        const char *name = name_in(line);
        put_area(line, name, comma);
        comma = ", ";
        const char *permissions = strchr(line, ' ') + 1;
        anonymous_code += permissions[2] == 'x' && (!name[0] || !strncmp(name, "[anon", 5) || !strcmp(name, "[heap]"));
        *end = '\n';
    }
    put("]");
    number("executable_anonymous", anonymous_code);
}

/* VmFlags of each area (locked, mergeable, huge pages, not for children, ...): Documentation/filesystems/proc.rst */
static void put_area_flags(void)
{
    const char *comma = "";
    char name[512] = "";
    slurp("/proc/self/smaps", areas, sizeof areas);
    key("vm_flags");
    put("[");
    for (char *line = areas, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        if (!strncmp(line, "VmFlags:", 8)) {
            put("%s[", comma);
            put_text(name, strlen(name));
            put(", \"%s\"]", line + 9);
            comma = ", ";
        } else if (line[0] < 'A' || line[0] > 'Z') {
            snprintf(name, sizeof name, "%s", name_in(line));
        }
    }
    put("]");
}

/* What the linker, the C library and the constructors had taken: nothing below has asked for memory yet. */
static void put_heap(void)
{
    struct mallinfo2 info = mallinfo2();
    long values[] = {(long)info.arena, (long)info.hblkhd, (long)info.uordblks};
    numbers("heap_at_start", values, 3);
}

static void view_stack(void)
{
    int local;
    void *address;
    size_t size;
    pthread_attr_t attributes;
    unsigned long start = 0, end = 0;
    const char *line = strstr(maps, "[stack]");
    while (line && line > maps && line[-1] != '\n')
        line--;
    if (line)
        sscanf(line, "%lx-%lx", &start, &end);
    struct rlimit limit;
    getrlimit(RLIMIT_STACK, &limit);
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &address, &size);
    open_object("stack");
    number("holds_local", (char *)&local >= (char *)address && (char *)&local < (char *)address + size);
    number("inside_mapping", (uintptr_t)&local >= start && (uintptr_t)&local < end);
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), top = (uintptr_t)address + size;
    number("ends_with_first_frame", top == (((uintptr_t)__libc_stack_end + page) & -page));
    number("size_by_limit", limit.rlim_cur == RLIM_INFINITY ? -1 : size == ((limit.rlim_cur - (end - top)) & -page));
    pthread_attr_destroy(&attributes);
    pthread_getattr_default_np(&attributes);
    pthread_attr_getstacksize(&attributes, &size);
    number("default_size", (long)size);
    pthread_attr_getguardsize(&attributes, &size);
    number("default_guard", (long)size);
    close_object();
}

void view_memory(void)
{
    slurp("/proc/self/maps", maps, sizeof maps);
    put_areas();
    put_area_flags();
    put_heap();
    file("statm", "/proc/self/statm");
    view_stack();
}

/* Fields by their numbers in proc(5). */
void view_stat(char **argv)
{
    char line[2048];
    unsigned long field[60] = {0};
    slurp("/proc/self/stat", line, sizeof line);
    char *at = strrchr(line, ')') + 4;
    for (int number_of = 4; number_of < 53 && *at; number_of++) {
        field[number_of] = strtoul(at, &at, 10);
        at += *at == ' ';
    }
    unsigned long base = (unsigned long)__executable_start;
    char **envp = argv;
    const char *argv_end = argv[0], *env_end;
    for (; *envp; envp++)
        argv_end = *envp + strlen(*envp) + 1;
    for (env_end = argv_end, envp++; *envp; envp++)
        env_end = *envp + strlen(*envp) + 1;
    open_object("stat");
    number("ppid", (long)field[4]);
    number("pgrp", (long)field[5]);
    number("session", (long)field[6]);
    number("tty_nr", (long)field[7]);
    number("tpgid", (long)(int)field[8]);
    number("flags", (long)field[9]);
    number("cminflt", (long)field[11]);
    number("cutime", (long)(field[16] + field[17]));
    number("priority", (long)field[18]);
    number("nice", (long)field[19]);
    number("threads", (long)field[20]);
    number("itrealvalue", (long)field[21]);
    number("rsslim", (long)field[25]);
    number("startcode", (long)(field[26] - base));
    number("endcode", (long)(field[27] - base));
    number("startstack_is_argc", field[28] == (unsigned long)(argv - 1));
    number("exit_signal", (long)field[38]);
    number("rt_priority", (long)field[40]);
    number("policy", (long)field[41]);
    number("start_data", (long)(field[45] - base));
    number("end_data", (long)(field[46] - base));
    number("brk_behind_data", field[47] >= field[46]);
    number("arg_start_is_argv0", field[48] == (unsigned long)argv[0]);
    number("arg_end", field[49] == (unsigned long)argv_end);
    number("env_start", field[50] == (unsigned long)argv_end);
    number("env_end", field[51] == (unsigned long)env_end);
    close_object();
}
