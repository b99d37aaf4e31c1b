/* What reading the head of a file costs at least: open, a read of 4 KiB, close.
 * In: "list", paths on stdin, one a line; or "tree", directories as arguments.
 * Out: the nanoseconds that it took, the files opened, and how many begin as ELF files do.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char buffer[4096];
static long files, elves;

static void look(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return;
    files++;
    elves += pread(fd, buffer, sizeof buffer, 0) >= 4 && memcmp(buffer, "\177ELF", 4) == 0;
    close(fd);
}

static int visit(const char *path, const struct stat *facts, int kind, struct FTW *where)
{
    (void)facts, (void)where;
    if (kind == FTW_F)
        look(path);
    return 0;
}

int main(int argc, char **argv)
{
    static char paths[1 << 24];
    struct timespec began, ended;
    size_t length = strcmp(argv[1], "list") ? 0 : fread(paths, 1, sizeof paths - 1, stdin);

    paths[length] = 0;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (char *path = strtok(paths, "\n"); path; path = strtok(NULL, "\n"))
        look(path);
    for (int i = 2; i < argc; i++)
        nftw(argv[i], visit, 64, FTW_PHYS);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%lld %ld %ld\n",
           (ended.tv_sec - began.tv_sec) * 1000000000LL + ended.tv_nsec - began.tv_nsec, files, elves);
    return 0;
}
