/* pagemap_scan: PAGEMAP_SCAN, _IOWR('f', 16, struct pm_scan_arg), and its categories (include/uapi/linux/fs.h, from 6.7),
 * which older headers lack. */
#ifndef ELFOLIO_PAGEMAP_SCAN_H
#define ELFOLIO_PAGEMAP_SCAN_H

#include <stdint.h>
#include <sys/ioctl.h>

#define SCAN_PRESENT (UINT64_C(1) << 3)
#define SCAN_SWAPPED (UINT64_C(1) << 4)
#define SCAN_ZERO (UINT64_C(1) << 5)
#define SCAN_HUGE (UINT64_C(1) << 6)

struct region {
    uint64_t start, end, categories;
};

struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t inverted, required, any_of, returned;
};

#define SCAN _IOWR('f', 16, struct scan_arg)

#endif
