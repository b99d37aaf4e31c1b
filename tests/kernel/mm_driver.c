/* mm_driver: does what it is told to its own address space. In: calls on standard input. Out: results on standard output.
 *
 * Each call is seven 64-bit words: a number, six arguments; each answer is one word, the result or -errno. Numbers below
 * 1000 are those of the system calls. It is linked statically, allocates nothing and uses no thread, so that nothing
 * changes its mappings but what it was told. Whoever drives it reads /proc/PID/smaps between two calls.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/userfaultfd.h>
#include <errno.h>
#include <unistd.h>

enum { TOUCH = 1000, FORK, UFFD_OPEN, UFFD_REGISTER, UFFD_UNREGISTER, FILL, SAME, NAME };

static sigjmp_buf faulted;
static uint64_t page = 4096;

static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(faulted, 1);
}

/* Every page of a range, read, or written with its own content in one access; where it would wrap round, to the end. */
static int64_t touch(uint64_t start, uint64_t length, int write)
{
    if (sigsetjmp(faulted, 1))
        return -EFAULT;
    volatile uint64_t at = start & ~(page - 1);
    for (uint64_t left = ((start & (page - 1)) + length + page - 1) / page; left; left--, at += page) {
        volatile unsigned char *byte = (volatile unsigned char *)(uintptr_t)at;
        if (write)
            __atomic_fetch_or(byte, 0, __ATOMIC_SEQ_CST);
        else
            (void)*byte;
    }
    return 0;
}

/* The first byte of each page: first, first + step, ... modulo 251, plus 1 unless step is 0. */
static int64_t fill(volatile uint64_t start, uint64_t length, uint64_t first, uint64_t step, int compare)
{
    if (sigsetjmp(faulted, 1))
        return -EFAULT;
    for (volatile uint64_t n = 0; n * page < length; n++) {
        volatile unsigned char *byte = (volatile unsigned char *)(uintptr_t)(start + n * page);
        unsigned char want = step ? (first + n) % 251 + 1 : first;
        if (!compare)
            *byte = want;
        else if (*byte != want)
            return 1 + (int64_t)n;
    }
    return 0;
}

/* The child goes on in its parent's place; the parents wait, so that no anon_vma of theirs goes away. */
static int64_t go_on_in_a_child(void)
{
    long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); /* not every architecture has fork */
    if (pid < 0)
        return -errno;
    if (pid == 0)
        return syscall(SYS_getpid);
    syscall(SYS_wait4, pid, 0, 0, 0);
    _exit(0);
}

static int64_t uffd_open(void)
{
    int fd = syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return -errno;
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    return ioctl(fd, UFFDIO_API, &api) ? -errno : fd;
}

static int64_t uffd_register(int fd, uint64_t start, uint64_t length, uint64_t mode)
{
    struct uffdio_register wanted = {.range = {.start = start, .len = length}, .mode = mode};
    return ioctl(fd, UFFDIO_REGISTER, &wanted) ? -errno : 0;
}

static int64_t uffd_unregister(int fd, uint64_t start, uint64_t length)
{
    struct uffdio_range wanted = {.start = start, .len = length};
    return ioctl(fd, UFFDIO_UNREGISTER, &wanted) ? -errno : 0;
}

static int64_t name(uint64_t start, uint64_t length, uint64_t which)
{
    static const char *const names[] = {0, "one", "two", "[three]"};
    return prctl(0x53564d41, 0, start, length, names[which & 3]) ? -errno : 0;
}

static int64_t call(const uint64_t *w)
{
    switch (w[0]) {
    case TOUCH:
        return touch(w[1], w[2], w[3]);
    case FORK:
        return go_on_in_a_child();
    case UFFD_OPEN:
        return uffd_open();
    case UFFD_REGISTER:
        return uffd_register(w[1], w[2], w[3], w[4]);
    case UFFD_UNREGISTER:
        return uffd_unregister(w[1], w[2], w[3]);
    case FILL:
    case SAME:
        return fill(w[1], w[2], w[3], w[4], w[0] == SAME);
    case NAME:
        return name(w[1], w[2], w[3]);
    }
    errno = 0;
    /* A 32-bit program's words are half as wide, and its addresses above the second gigabyte no negative numbers. */
    unsigned long result = syscall((long)w[0], (long)w[1], (long)w[2], (long)w[3], (long)w[4], (long)w[5], (long)w[6]);
    return errno ? -errno : (int64_t)result;
}

int main(int argc, char **argv)
{
    /* Without randomisation every address follows from the rules. */
    if (!(personality(0xffffffff) & ADDR_NO_RANDOMIZE)) {
        personality(personality(0xffffffff) | ADDR_NO_RANDOMIZE);
        execv(argv[0], argv);
        return 127;
    }
    (void)argc;
    page = sysconf(_SC_PAGESIZE);
    struct sigaction action = {.sa_handler = on_fault};
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    uint64_t words[7];
    while (read(0, words, sizeof words) == sizeof words) {
        int64_t result = call(words);
        if (write(1, &result, sizeof result) != sizeof result)
            return 1;
    }
    return 0;
}
