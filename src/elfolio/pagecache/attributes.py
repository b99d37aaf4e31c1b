"""pagecache.attributes: what a file has beside its contents. In: descriptors. Out: Attributes, set on a new file.

Owner, mode, extended attributes (access lists, capabilities and security labels are some), inode flags, times. The
order in which they are set is the kernel's doing: chown clears set-id bits (setattr_should_drop_sgid) and removes file
capabilities (security_inode_killpriv), an access list changes the mode's group bits (posix_acl_update_mode).
"""

import array
import errno
import fcntl
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Attributes", "CannotReplace", "apply", "read"]

_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS where a long has 8 bytes (include/uapi/linux/fs.h)."""
_IMMUTABLE, _APPEND, _VERITY = 0x10, 0x20, 0x100000
_KEPT = 0x4 | 0x8 | 0x40 | 0x80 | 0x400 | 0x4000 | 0x8000 | 0x800000
"""FS_COMPR_FL, SYNC, NODUMP, NOATIME, NOCOMP, JOURNAL_DATA, NOTAIL, NOCOW: what an owner may set. The others say how
the file system stores the file, or are refused."""
_SIGNED = ("security.ima", "security.evm")
_UNSUPPORTED = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class CannotReplace(OSError):
    """A file that cannot be replaced without a loss. `strerror` says which, and what to do."""

    def __init__(self, number: int, why: str, filename: str) -> None:
        super().__init__(number, why, filename)


@dataclass(frozen=True, slots=True)
class Attributes:
    """As fstat, listxattr and FS_IOC_GETFLAGS tell them."""

    status: os.stat_result
    xattrs: tuple[tuple[str, bytes], ...] = ()
    flags: int = 0


def read(fd: int, name: str) -> Attributes:
    """Of an open file that is called `name` in errors. Raises CannotReplace for one that a copy of the same contents
    would not be: immutable, append-only, under fs-verity, signed for IMA or EVM; not a regular file."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise CannotReplace(errno.EINVAL, "not a regular file", name)
    found = Attributes(status, _xattrs(fd), _flags(fd))
    for bit, why in _REFUSED.items():
        if found.flags & bit:
            raise CannotReplace(errno.EPERM, why, name)
    for key, _ in found.xattrs:
        if key in _SIGNED:
            raise CannotReplace(errno.EPERM, f"it is signed ({key}), and a new file would not be", name)
    return found


_REFUSED = {
    _IMMUTABLE: "it is immutable; chattr -i takes that away",
    _APPEND: "it can only be appended to; chattr -a takes that away",
    _VERITY: "it is under fs-verity, and a new file would not be",
}


def apply(fd: int, wanted: Attributes, name: str, *, times: bool) -> None:
    """Gives them to the open file, all but `times` always. Raises CannotReplace where this process may not."""
    _chown(fd, wanted.status, name)
    _set_xattrs(fd, wanted, name)
    os.fchmod(fd, stat.S_IMODE(wanted.status.st_mode))
    _set_flags(fd, wanted.flags, name)
    if times:
        os.utime(fd, ns=(wanted.status.st_atime_ns, wanted.status.st_mtime_ns))


def _chown(fd: int, status: os.stat_result, name: str) -> None:
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) == (status.st_uid, status.st_gid):
        return
    try:
        os.fchown(fd, status.st_uid, status.st_gid)
    except PermissionError:
        whose = f"owner {status.st_uid} and group {status.st_gid}"
        raise CannotReplace(errno.EPERM, f"a new file cannot be given its {whose}; run as root", name) from None


def _xattrs(fd: int) -> tuple[tuple[str, bytes], ...]:
    """Without those of the namespace `trusted` where the process is not privileged: they are not listed to it."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return ()
        raise
    return tuple((name, os.getxattr(fd, name)) for name in names)


def _set_xattrs(fd: int, wanted: Attributes, name: str) -> None:
    here = dict(_xattrs(fd))
    for key in here.keys() - dict(wanted.xattrs).keys():
        # Inherited from the directory: a default access list. A security module's label cannot be taken away.
        with suppress(OSError):
            os.removexattr(fd, key)
    for key, value in wanted.xattrs:
        if here.get(key) == value:
            continue
        try:
            os.setxattr(fd, key, value)
        except OSError as error:
            why = f"a new file cannot be given its attribute {key} ({error.strerror}); run as root"
            raise CannotReplace(error.errno or errno.EPERM, why, name) from None


def _flags(fd: int) -> int:
    word = array.array("L", [0])
    try:
        fcntl.ioctl(fd, _GETFLAGS, word)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return 0
        raise
    return word[0] & 0xFFFFFFFF  # the kernel writes an int, in spite of the request's number


def _set_flags(fd: int, flags: int, name: str) -> None:
    here = _flags(fd)
    wanted = here & ~_KEPT | flags & _KEPT
    if wanted == here:
        return
    try:
        fcntl.ioctl(fd, _SETFLAGS, array.array("L", [wanted]))
    except OSError as error:
        why = f"a new file cannot be given its flags {flags & _KEPT:#x} ({error.strerror}); see lsattr"
        raise CannotReplace(error.errno or errno.EPERM, why, name) from None
