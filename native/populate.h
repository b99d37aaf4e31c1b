/* populate: a mapping of a file filled for reading, block by block; why it goes so stands in populate.c. */
#ifndef ELFOLIO_POPULATE_H
#define ELFOLIO_POPULATE_H

#include <stddef.h>

struct populated {
    size_t done;  /* bytes from the beginning that are mapped, also after an error */
    size_t whole; /* whole huge pages among them, */
    size_t huge;  /* and those of them that one entry maps */
};

/* Reads and maps `size` bytes at `at`, both whole pages; `pagemap`: of this process, -1 where it is hidden.
 * 0, or -errno of madvise: -EFAULT where a load would be SIGBUS, -EINVAL before Linux 5.14, -EINTR, -EAGAIN. */
int populate(char *at, size_t size, size_t huge, int pagemap, struct populated *p);

#endif
