/* folio_file: a file's pages, looked at through a mapping that is there for a moment.
 *
 * The page cache tells no frames' numbers; a mapping's page table does. Only pages that mincore calls cached are
 * touched. MADV_RANDOM keeps a page that goes away in between from taking others with it when it is read again, and
 * from 6.3 (8788f6781486) it leaves the pages' references alone when the mapping goes; before that MADV_SEQUENTIAL
 * does (zap_pte_range, mm/memory.c). MADV_POPULATE_READ would mark every page as accessed, twice for a folio of two
 * pages, which then is active (FOLL_TOUCH, mm/gup.c): so the pages are touched by faults.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "folios.h"
#include "sys.h"

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

#define FAR (UINT64_C(1) << 30) /* no folio of a file that lies in the page cache is larger */
#define AROUND 65536 /* bytes that one fault maps of what is cached (fault_around_bytes) */

/* A read that fails where the file has become shorter: the kernel copies the set of signals before it finds that there
 * is no such operation (rt_sigprocmask, kernel/signal.c). */
static void touch(uintptr_t address)
{
    sys6(SYS_rt_sigprocmask, 99, (long)address, 0, 8, 0, 0);
}

static void touch_cached(uintptr_t address, uint64_t first, size_t n, const unsigned char *cached, uint64_t page)
{
    size_t around = page < AROUND ? AROUND / page : 1;
    for (size_t i = 0; i < n;) {
        size_t next = i + around - (first + i) % around;
        next = next < n ? next : n;
        for (; i < next && !(cached[i] & 1); i++)
            ;
        if (i < next)
            touch(address + i * page);
        i = next;
    }
}

/* What no fault mapped along: pages that are being read or locked, those where readahead goes on. */
static int touch_rest(struct folios *f, uintptr_t address, size_t n, const unsigned char *cached, uint64_t page)
{
    int touched = 0;
    for (size_t i = 0; i < n; i++)
        if (cached[i] & 1 && !(f->entry[i] & PM_PRESENT)) {
            touch(address + i * page);
            touched = 1;
        }
    return touched;
}

/* Where not even the own pagemap may be read (a process that is not dumpable): mincore is all there is. */
static int add_cached(struct folios *f, uint64_t first, size_t n, const unsigned char *in_core, uint64_t *cached)
{
    int err = 0;
    f->has_scan = 0;
    f->hidden = 1;
    for (size_t i = 0; !err && i < n; i++)
        if (in_core[i] & 1) {
            struct folio_run run = {(int64_t)(first + i) + f->shift, 1, FOLIO_UNSEEN, FOLIO_FILE, 0};
            err = folios_add(f, run, 0);
            ++*cached;
        }
    return err;
}

/* Frames say more than what maps them: only where they are hidden, that is asked for. */
static int read_marks(struct folios *f, uint64_t first, size_t n)
{
    int hidden = f->flags < 0;
    memset(f->mark, 0, n);
    for (size_t i = 0; i < n && !hidden; i++)
        hidden = (f->entry[i] & PM_PRESENT) && !(f->entry[i] & PM_FRAME);
    return hidden ? folios_read_marks(f, first, n) : 0;
}

static int look(struct folios *f, char *memory, uint64_t first, size_t n, unsigned char *in_core, uint64_t *cached)
{
    uint64_t page = f->page, at = (uintptr_t)memory / page;
    size_t got = n;
    int err = mincore(memory, n * page, in_core) ? errno : 0;
    if (err)
        return err;
    f->shift = (int64_t)(first - at);
    f->of_file = 1;
    if (f->pagemap < 0)
        return add_cached(f, at, n, in_core, cached);
    touch_cached((uintptr_t)memory, first, n, in_core, page);
    err = folios_read_entries(f, at, &got);
    if (!err && got == n && touch_rest(f, (uintptr_t)memory, n, in_core, page))
        err = folios_read_entries(f, at, &got);
    if (!err && got == n)
        err = read_marks(f, at, n);
    for (size_t i = 0; i < got; i++)
        *cached += f->entry[i] >> 63;
    return err || got < n ? (err ? err : EIO) : folios_walk(f, at, n);
}

int folios_of_file(struct folios *f, int fd, uint64_t first, uint64_t pages, uint64_t *cached)
{
    uint64_t page = f->page, block = f->pmd * page, size = pages * page;
    unsigned char *in_core = malloc(FOLIO_BATCH);
    *cached = 0;
    if (!in_core || !pages || pages > FOLIO_BATCH) {
        free(in_core);
        return in_core ? EINVAL : ENOMEM;
    }
    /* Where address and offset are equal modulo a PMD's size a folio of that size is mapped by one. */
    char *room = mmap(NULL, size + block, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int err = room == MAP_FAILED ? errno : 0;
    if (!err) {
        uintptr_t from = (uintptr_t)room;
        char *memory = room + (first * page - from) % block;
        if (mmap(memory, size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, (off_t)(first * page)) == MAP_FAILED)
            err = errno;
        if (!err && madvise(memory, size, MADV_RANDOM))
            err = errno;
        if (!err)
            err = look(f, memory, first, (size_t)pages, in_core, cached);
        madvise(memory, size, MADV_SEQUENTIAL);
        munmap(room, size + block);
    }
    free(in_core);
    return err;
}

int folios_truthful(int fd, uint64_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char in_core = 0;
    char *memory = mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, (off_t)((size / FAR + 2) * FAR));
    if (memory == MAP_FAILED)
        return -errno;
    int err = mincore(memory, page, &in_core) ? errno : 0;
    munmap(memory, page);
    return err ? -err : !(in_core & 1);
}

int cache_stat(int fd, uint64_t start, uint64_t length, struct cache_stat *out)
{
    uint64_t range[2] = {start, length};
    return (int)-sys6(SYS_cachestat, fd, (long)range, (long)out, 0, 0, 0);
}
