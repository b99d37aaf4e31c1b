"""pagecache.load_align: how direct reads of a file must be aligned. In: a descriptor. Out: bytes, or OSError."""

import ctypes
import errno
import mmap
import os

__all__ = ["direct_alignment"]

_DIOALIGN, _EMPTY_PATH = 0x2000, 0x1000
"""STATX_DIOALIGN (6.1), AT_EMPTY_PATH."""
_MASK, _MEMORY, _OFFSET = 0, 152, 156
"""Where struct statx has stx_mask, stx_dio_mem_align, stx_dio_offset_align (include/uapi/linux/stat.h)."""


def direct_alignment(fd: int) -> int:
    """Of offsets and addresses both; a page where the kernel does not say, which is right for all but rare disks.
    Raises OSError (EOPNOTSUPP) where the file can have no direct reads."""
    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if statx is None:
        return mmap.PAGESIZE
    found = ctypes.create_string_buffer(256)
    if statx(fd, b"", _EMPTY_PATH, _DIOALIGN, found):
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return mmap.PAGESIZE
        raise OSError(number, os.strerror(number))
    word = [int.from_bytes(found.raw[at : at + 4], "little") for at in (_MASK, _MEMORY, _OFFSET)]
    if not word[0] & _DIOALIGN:
        return mmap.PAGESIZE
    if not word[2]:
        raise OSError(errno.EOPNOTSUPP, "its file system has no direct reads of it (O_DIRECT)")
    return max(mmap.PAGESIZE, word[1], word[2])
