/* auxv: the auxiliary vector, entry by entry, from all three places. In: envp, behind whose NULL it stands. Out: JSON. */
#include "out.h"

#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

extern char _start[];
extern char __executable_start[];

static uintptr_t mapped_at(const char *name)
{
    static char maps[1 << 16];
    slurp("/proc/self/maps", maps, sizeof maps);
    char *found = strstr(maps, name);
    while (found && found > maps && found[-1] != '\n')
        found--;
    unsigned long start = 0;
    return found && sscanf(found, "%lx", &start) == 1 ? start : 0;
}

static void put_entry(const ElfW(auxv_t) * entry)
{
    char name[32];
    unsigned long value = entry->a_un.a_val;
    snprintf(name, sizeof name, "%lu", (unsigned long)entry->a_type);
    switch (entry->a_type) {
    case AT_PHDR:
        number(name, (long)(value - (uintptr_t)__executable_start));
        break;
    case AT_ENTRY:
        number(name, value == (uintptr_t)_start);
        break;
    case AT_BASE: {
        /* The first mapping of the interpreter. */
        uintptr_t at = mapped_at("/ld-linux");
        number(name, value == (at ? at : mapped_at("/ld-")));
        break;
    }
    case AT_SYSINFO_EHDR:
        number(name, value == mapped_at("[vdso]"));
        break;
    case AT_RANDOM:
        number(name, value != 0);
        break;
    case AT_EXECFN:
    case AT_PLATFORM:
    case AT_BASE_PLATFORM:
        text(name, (const char *)value);
        break;
    default:
        number(name, (long)value);
    }
}

static void view_random(void)
{
    const unsigned char *random = (const unsigned char *)getauxval(AT_RANDOM);
    key("random_bytes");
    put("\"");
    for (int i = 0; random && i < 16; i++)
        put("%02x", random[i]);
    put("\"");
#ifdef __x86_64__
    unsigned long canary, expected;
    __asm__("mov %%fs:0x28, %0" : "=r"(canary));
    memcpy(&expected, random, sizeof expected);
    number("canary_is_of_random", canary == (expected & ~0xffUL));
    number("canary_low_byte", (long)(canary & 0xff));
#elif defined(__aarch64__)
    extern unsigned long __stack_chk_guard; /* the dynamic linker's */
    unsigned long expected;
    memcpy(&expected, random, sizeof expected);
    number("canary_is_of_random", __stack_chk_guard == (expected & ~0xffUL));
#endif
}

void view_auxv(char **envp)
{
    static ElfW(auxv_t) kernel[64];
    while (*envp)
        envp++;
    const ElfW(auxv_t) *own = (const ElfW(auxv_t) *)(envp + 1);
    open_object("auxv");
    size_t count = 0, unlike = 0;
    long types[64], unlike_types[64];
    for (; count < 63 && own[count].a_type != AT_NULL; count++) {
        put_entry(&own[count]);
        types[count] = (long)own[count].a_type;
        if (getauxval(own[count].a_type) != own[count].a_un.a_val)
            unlike_types[unlike++] = types[count];
    }
    close_object();
    numbers("auxv_unlike_getauxval", unlike_types, unlike);
    ssize_t length = slurp("/proc/self/auxv", (char *)kernel, sizeof kernel);
    number("auxv_proc_length", length);
    number("auxv_as_in_proc", !memcmp(kernel, own, (count + 1) * sizeof *own));
    numbers("auxv_order", types, count);
    view_random();
}
