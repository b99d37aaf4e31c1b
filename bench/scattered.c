/* scattered: 16 MiB of text, a function in each of its pages, called in an order that no cache foresees.
 *
 * scattered plain|madvise|remap CALLS [wait]: prepares its text as the first word says, touches every block of
 * 2 MiB once, calls, and prints what it saw as one line of JSON. `wait`: until its input ends, so that it can be
 * looked at. SPAWNED is CLOCK_MONOTONIC in nanoseconds when its caller began to start it.
 *
 * remap is what iodlr and node --use-largepages do: the whole blocks of the text are copied to anonymous huge pages,
 * which take the text's place.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define BLOCK (2UL << 20)
#define COUNT 4096

#define F(n)                                                                                                          \
    __attribute__((noinline, aligned(4096), used)) unsigned scattered_##n(unsigned x) { return x * 3 + 0x##n; }
#define F16(p) F(p##0) F(p##1) F(p##2) F(p##3) F(p##4) F(p##5) F(p##6) F(p##7) F(p##8) F(p##9) F(p##a) F(p##b) F(p##c) \
    F(p##d) F(p##e) F(p##f)
#define F256(p) F16(p##0) F16(p##1) F16(p##2) F16(p##3) F16(p##4) F16(p##5) F16(p##6) F16(p##7) F16(p##8) F16(p##9)    \
    F16(p##a) F16(p##b) F16(p##c) F16(p##d) F16(p##e) F16(p##f)
F256(0) F256(1) F256(2) F256(3) F256(4) F256(5) F256(6) F256(7) F256(8) F256(9) F256(a) F256(b) F256(c) F256(d)
F256(e) F256(f)

typedef unsigned function(unsigned);
static char *first, *end; /* the text's functions */

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static function *at(unsigned n)
{
    return (function *)(void *)(first + n * 4096UL);
}

/* The whole blocks that the text has in memory. */
static void blocks(char **from, size_t *size)
{
    uintptr_t a = ((uintptr_t)first + BLOCK - 1) & ~(BLOCK - 1), b = (uintptr_t)end & ~(BLOCK - 1);
    *from = (char *)a;
    *size = b > a ? b - a : 0;
}

/* None of this is in the whole blocks: it stands behind them in the source, and so in the text. */
static int remap(char *text, size_t size)
{
    char *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return -1;
    memcpy(copy, text, size);
    if (mmap(text, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != text ||
        madvise(text, size, MADV_HUGEPAGE))
        return -1;
    memcpy(text, copy, size);
    munmap(copy, size);
    return mprotect(text, size, PROT_READ | PROT_EXEC);
}

int main(int argc, char **argv)
{
    first = (char *)(void *)scattered_000, end = (char *)(void *)scattered_fff + 4096;
    if (argc < 3 || end - first != COUNT * 4096L)
        return 2;
    char *text;
    size_t size;
    blocks(&text, &size);
    if (!strcmp(argv[1], "madvise"))
        madvise(text, size, MADV_HUGEPAGE); /* a kernel that does not take it leaves all as it is: that is measured */
    if (!strcmp(argv[1], "remap") && remap(text, size))
        return 3;
    unsigned x = 1;
    for (char *p = first; p < end; p += BLOCK)
        x = ((function *)(void *)p)(x);
    x = at(COUNT - 1)(x);
    const char *spawned = getenv("SPAWNED");
    int64_t ready = spawned ? now() - strtoll(spawned, NULL, 10) : 0;
    struct rusage use;
    static uint16_t order[COUNT];
    for (unsigned i = 0; i < COUNT; i++)
        order[i] = (uint16_t)i;
    for (unsigned i = COUNT - 1; i; i--) {
        x = x * 1664525 + 1013904223;
        unsigned k = x % (i + 1), n = order[i];
        order[i] = order[k], order[k] = (uint16_t)n;
    }
    long calls = strtol(argv[2], NULL, 10);
    for (unsigned i = 0; i < COUNT; i++) /* the first time each faults, perhaps */
        x = at(order[i])(x);
    getrusage(RUSAGE_SELF, &use);
    int64_t begin = now();
    for (long i = 0; i < calls; i++)
        x = at(order[i % COUNT])(x);
    int64_t taken = now() - begin;
    printf("{\"ready\": %lld, \"call\": %.3f, \"minor\": %ld, \"major\": %ld, \"x\": %u, \"text\": %lu, \"size\": %lu}\n",
           (long long)ready, calls ? (double)taken / (double)calls : 0.0, use.ru_minflt, use.ru_majflt, x,
           (unsigned long)first, (unsigned long)(end - first));
    fflush(stdout);
    if (argc > 3)
        while (read(0, &x, 1) > 0)
            ;
    return 0;
}
