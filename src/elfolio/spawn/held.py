"""spawn.held: the files that a template holds. In: a path or a descriptor. Out: Held, or the kernel's errno.

A native program is one file. A script is several: itself, the interpreter of its first line, and should that
be a script too, its interpreter, up to five; what is executed is the last one, with the arguments that the
kernel would have put together (fs/binfmt_script.c).
"""

import errno
import fcntl
import os
import stat
import struct
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from elfolio import _native
from elfolio.errors import InvalidArgument, UnholdableProgram
from elfolio.spawn.names import needs_link

if TYPE_CHECKING:
    from elfolio.spawn.tuned import Tuned

__all__ = ["Held", "hold"]

_HEAD = 256  # BINPRM_BUF_SIZE: what the kernel reads to tell the format
_BLANKS = b" \t"
_FILES = 6  # fs/exec.c, exec_binprm: five rewrites, then ELOOP

# e_machine of what this kernel may execute without binfmt_misc: itself, and its 32-bit sibling.
_MACHINES = {"x86_64": (62, 3), "aarch64": (183, 40)}


@dataclass(frozen=True, slots=True)
class Held:
    """Pinned files. `image` owns the descriptors."""

    image: _native.Image
    target: str | int
    """The path, or the descriptor that was given."""
    name: str
    """The task's name after a normal exec."""
    plain_name: bool
    """Whether executing the descriptor itself gives that name."""
    direct: bool
    """Whether the descriptor is executed with the caller's arguments and nothing else."""
    exec_fd: int
    files: tuple[str, ...]
    """What `image`'s indices stand for, in words."""
    prefix: tuple[bytes, ...]
    """For a script: interpreter and arguments up to and including the script, which take argv[0]'s place."""
    passed: int
    """A descriptor that the interpreter opens as /dev/fd/N, so that the child must inherit it; or -1."""
    original_fd: int
    """The file of which the copy was made; else as `exec_fd`."""
    tuned: "Tuned | None" = None
    """Where a tuned copy was asked for: the copy, which is the last of the files and is what is executed; or why there
    is none."""


_COPIES = 3
"""How often a copy is looked for of a program that is being changed meanwhile."""


def hold(target: str | int, *, lease: bool, by_path: bool = False, tuned: bool = False) -> Held:
    """Opens and pins `target` and what it needs to run. `by_path`: the path will be executed all the same. `tuned`:
    execute a tuned copy of it, where there can be one (`elfolio.spawn.tuned`).

    Raises InvalidArgument for a relative path, PermissionError for what may not be executed (no permission,
    a directory, a noexec mount), `ENOEXEC` for an unknown format, UnholdableProgram for one that the kernel
    would run but that cannot be pinned.
    """
    for _ in range(_COPIES if tuned else 0):
        held = _hold(target, lease, by_path, tuned=True)
        copy = held.tuned
        # The image has read both identities after the copy was looked for: they must be those that it was found by.
        if not copy or (held.image.key(0), held.image.key(1)) == (copy.of, copy.key):
            return held
    held = _hold(target, lease, by_path, tuned=False)
    if not tuned:
        return held
    from elfolio.spawn.tuned import untuned

    return replace(held, tuned=untuned("changing"))


def _hold(target: str | int, lease: bool, by_path: bool, *, tuned: bool) -> Held:
    opened: list[tuple[bytes | None, int]] = []
    files: list[str] = []
    prefix: list[bytes] = []
    try:
        where: str | int = target
        while True:
            path, fd = _open(where)
            opened.append((path, fd))
            files.append(str(where))
            interpreter = _interpreter(fd, where)
            if interpreter is None:
                break
            if len(opened) == _FILES:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), target)
            script = os.fsencode(where) if isinstance(where, str) else b"/dev/fd/%d" % fd
            prefix[:1] = [*interpreter, script]
            where = os.fsdecode(interpreter[0])
        passed = opened[0][1] if prefix and isinstance(target, int) else -1
        original = fd
        copy = _copy(fd, by_path, bool(prefix)) if tuned else None
        if copy:
            fd = copy.fd
            opened.append((None, fd))
            files.append(copy.path)
        image = _native.Image(opened, len(opened) - 1, lease)
    except BaseException:
        for _, fd in opened:
            os.close(fd)
        raise
    name = _name(target)
    plain = not needs_link(fd, name)
    direct = plain and not prefix and not by_path
    return Held(image, target, name, plain, direct, fd, tuple(files), tuple(prefix), passed, original, copy)


def _copy(fd: int, by_path: bool, is_script: bool) -> "Tuned":
    from elfolio.spawn.tuned import tuned_copy, untuned

    if by_path or is_script:
        return untuned("audit strict" if by_path else "script")
    return tuned_copy(fd)


def _name(target: str | int) -> str:
    if isinstance(target, str):
        return os.path.basename(target)
    try:
        return os.path.basename(os.readlink(f"/proc/self/fd/{target}").removesuffix(" (deleted)"))
    except OSError:
        return str(target)


def _open(where: str | int) -> tuple[bytes | None, int]:
    if isinstance(where, int):
        if where < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), where)
        path, fd = None, _reopened(where)
    else:
        path, fd = os.fsencode(where), _open_path(where)
    try:
        _check(fd, where)
    except BaseException:
        os.close(fd)
        raise
    return path, fd


def _reopened(fd: int) -> int:
    """The same file as `fd`, open anew where that can be: a lease belongs to an open file description, and the
    caller's own must not come and go with ours."""
    try:
        return _above_streams(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _above_streams(fd: int) -> int:
    """`fd` under a number that no standard stream of a child takes."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _open_path(path: str) -> int:
    if not path.startswith("/"):
        raise InvalidArgument(
            f"a template takes an absolute path, not {path!r}: a relative one means another file elsewhere"
        )
    # O_PATH first: opening a FIFO or a device for reading could block, or have effects.
    probe = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(probe).st_mode):
            raise PermissionError(errno.EACCES, "not a regular file", path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        except PermissionError:
            # Executable but not readable: it can be pinned and run, its format is the kernel's to tell.
            fd = fcntl.fcntl(probe, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(probe)
    return _above_streams(fd)


def _check(fd: int, where: str | int) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise PermissionError(errno.EACCES, "not a regular file", where)
    if not os.access(where if isinstance(where, str) else f"/proc/self/fd/{fd}", os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), where)
    if _on_noexec(fd, where):
        raise PermissionError(errno.EACCES, "on a file system mounted noexec", where)


def _on_noexec(fd: int, where: str | int) -> bool:
    return bool(os.statvfs(where if isinstance(where, str) else fd).f_flag & os.ST_NOEXEC)


def _interpreter(fd: int, where: str | int) -> list[bytes] | None:
    """None for a native program; for a script, its interpreter's path and, where there is one, the argument."""
    try:
        head = os.pread(fd, _HEAD, 0)
    except OSError:
        return None  # not readable: see _open_path
    if head[:4] == b"\x7fELF" and _is_native(head):
        return None
    if head[:2] != b"#!":
        if _other_formats():
            raise UnholdableProgram(where, "its format is binfmt_misc's, whose interpreter opens it by path")
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), where)
    words = _first_line(head)
    if not words:
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), where)
    if not words[0].startswith(b"/"):
        raise UnholdableProgram(where, f"its interpreter {os.fsdecode(words[0])!r} is a relative path")
    return words


def _first_line(head: bytes) -> list[bytes]:
    """The interpreter and, where the kernel passes one, its argument: load_script() of fs/binfmt_script.c step by
    step, because each of its edges shows. Its buffer is padded with NULs, which end a line, a path and an argument;
    its last byte counts for a newline only."""
    buffer = head.ljust(_HEAD, b"\0")
    last = _HEAD - 1
    end = buffer.partition(b"\0")[0].find(b"\n")
    if end < 0:
        path = _skip(buffer, 2, last)
        if path > last or _terminator(buffer, path, last) > last:
            return []  # blanks only, or a path that the buffer cuts off
        end = last
    while buffer[end - 1] in _BLANKS:
        end -= 1
    path = _skip(buffer, 2, end)
    if path >= end:
        return []
    stop = _terminator(buffer, path, end)
    name = buffer[path : min(stop, end)]
    if stop > end or buffer[stop] == 0:
        return [name]
    argument = _skip(buffer, stop, end)
    return [name] if argument > end else [name, buffer[argument:end].partition(b"\0")[0]]


def _skip(buffer: bytes, at: int, end: int) -> int:
    """next_non_spacetab(): the first byte from `at` to `end`, inclusive, that is no blank; beyond `end` if none."""
    while at <= end and buffer[at] in _BLANKS:
        at += 1
    return at


def _terminator(buffer: bytes, at: int, end: int) -> int:
    """next_terminator(): the first blank or NUL."""
    while at <= end and buffer[at] not in _BLANKS and buffer[at]:
        at += 1
    return at


def _is_native(head: bytes) -> bool:
    if len(head) < 20:
        return False
    (machine,) = struct.unpack_from("<H" if sys.byteorder == "little" else ">H", head, 18)
    return machine in _MACHINES.get(os.uname().machine, (machine,))


def _other_formats() -> bool:
    try:
        return bool(set(os.listdir("/proc/sys/fs/binfmt_misc")) - {"register", "status"})
    except OSError:
        return False
