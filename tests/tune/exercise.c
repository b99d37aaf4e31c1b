/* What a rewritten program must still do: constructors, IFUNC, thread-local and zeroed data, RELRO, weak symbols, its
   own headers through AT_PHDR, the address of everything by name. Prints one line for each; exit status 7. */
#define _GNU_SOURCE
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int counter = 1;
__thread int tls_data = 41;
__thread char tls_bss[300];
static char zeroes[100000];
static const char text[] = "read-only";
#ifndef TABLE
#define TABLE 40000
#endif
const char table[TABLE] = {1, 2, [TABLE - 1] = 3};
const char *const relro[] = {text, text + 5};
extern void absent(void) __attribute__((weak));

__attribute__((constructor(200))) static void early(void) { counter *= 3; }
__attribute__((constructor(300))) static void late(void) { counter += 4; }

static void leaving(void) { printf("left %d\n", counter); }

#ifndef NO_IFUNC
static int chosen(void) { return 11; }
static int (*resolve(void))(void) { return chosen; }
int indirect(void) __attribute__((ifunc("resolve")));
#else
static int indirect(void) { return 11; }
#endif

__attribute__((aligned(4096))) char page[5000] = {1};

static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size;
    int *count = data;
    unsigned long memory = 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD)
            memory += info->dlpi_phdr[i].p_memsz;
    if ((*count)++ == 0)
        printf("memory %d\n", memory > 0);
    return 0;
}

#ifdef BULK
#include "bulk.h"
#endif

int main(int argc, char **argv)
{
    int objects = 0, sum = 0;
    atexit(leaving);
    for (unsigned i = 0; i < sizeof zeroes; i++)
        sum += zeroes[i];
    for (unsigned i = 0; i < sizeof table; i++)
        sum += table[i];
    for (unsigned i = 0; i < sizeof tls_bss; i++)
        sum += tls_bss[i];
    printf("counter %d tls %d zero %d indirect %d\n", counter, tls_data, sum, indirect());
    printf("relro %s %s absent %d page %d\n", relro[0], relro[1], absent == 0, page[0] + page[4999]);
#ifndef NO_DL
    dl_iterate_phdr(visit, &objects);
    printf("objects %d\n", objects > 0);
#endif
#ifdef BULK
    printf("bulk %d\n", bulk(argc));
#endif
    (void)argv;
    zeroes[argc] = 1;
    return 6 + zeroes[argc];
}
