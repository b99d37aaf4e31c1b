"""pagecache.replace: a file replaced by a new one, at once or not at all. In: a path, pieces. Out: the file, new.

    with NewFile(path, size) as new:
        new.write(0, first)
        new.write(len(first), rest)
        new.commit()

The new file is written beside the old one, in blocks as large as huge pages, gets what the old one has beside its
contents, is forced to the disk, and then takes the name. Whoever is killed before that has changed nothing: a file
without a name goes with its writer. After it the old file lives on in those who have it open or mapped.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from types import TracebackType

from elfolio.errors import InvalidArgument
from elfolio.pagecache import attributes
from elfolio.pagecache.attributes import Attributes, CannotReplace
from elfolio.pagecache.names import Directory, lock
from elfolio.pagecache.stage import Buffer, Stage

__all__ = ["CannotReplace", "Links", "NewFile"]


class Links(Enum):
    """What is done with a file that has several names (hard links)."""

    REFUSE = "refuse"
    LEAVE = "leave"
    """The other names keep the old file."""
    ALL = "all"
    """All of them come to lead to the new one, each at once; refused unless they are in one directory."""


class NewFile:
    """A new file of `size` bytes, under way to `path`. Links are followed: what they lead to is replaced.

    `like` is the file whose owner, mode, extended attributes and flags it gets, `path` itself if it is there and `like`
    is not given; with neither it is an ordinary new file. `times`: its access and modification times too. `expected`
    is the status of the file at `path` as the caller has read it: what differs from it is not replaced (ESTALE).
    `sparse`: what is not written takes no room on the disk; else all of it is set aside at once, so that none can lack
    later. `huge` is in bytes. Raises OSError; CannotReplace where something would be lost.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int,
        *,
        like: str | os.PathLike[str] | None = None,
        expected: os.stat_result | None = None,
        links: Links = Links.REFUSE,
        sparse: bool = False,
        times: bool = False,
        huge: int = 2 << 20,
    ) -> None:
        if size < 0 or huge < 4096:
            raise InvalidArgument(f"a file of {size} bytes, in blocks of {huge}")
        self.path = os.path.realpath(os.fspath(path))
        self.size = size
        self.committed = False
        self._like = None if like is None else os.fspath(like)
        self._expected = expected
        self._links, self._sparse, self._times, self._huge = links, sparse, times, huge

    def __enter__(self) -> "NewFile":
        with ExitStack() as stack:
            folder, self._name = os.path.split(self.path)
            self._directory = Directory(folder)
            stack.callback(self._directory.close)
            self._old, own = self._look(stack)
            self._attributes = own if self._like is None else _attributes(self._like)
            self._names = [self._name] if self._old is None else self._all_names(self._old)
            self._directory.sweep(self._name)
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def _look(self, stack: ExitStack) -> tuple[os.stat_result | None, Attributes | None]:
        """The file there is. It stays open, so that its inode number stays its own."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if self._expected is not None:
                raise OSError(errno.ESTALE, "it is gone", self.path) from None
            return None, None
        stack.callback(os.close, fd)
        found = attributes.read(fd, self.path)
        old = self._expected or found.status
        self._directory.check(self._name, old)
        return old, found

    def _all_names(self, old: os.stat_result) -> list[str]:
        if old.st_nlink == 1 or self._links is Links.LEAVE:
            return [self._name]
        if self._links is Links.REFUSE:
            why = f"it has {old.st_nlink} names (hard links), and others would keep the old file: --links leave, or all"
            raise CannotReplace(errno.EMLINK, why, self.path)
        names = self._directory.names_of(old)
        if len(names) != old.st_nlink:
            why = f"only {len(names)} of its {old.st_nlink} names (hard links) are in this directory; --links leave"
            raise CannotReplace(errno.EMLINK, why, self.path)
        return names

    def _open(self, stack: ExitStack) -> None:
        self._fd, self._hidden = self._directory.open_new(self._name, 0o600 if self._attributes else 0o666)
        stack.callback(self._discard)
        _make_room(self._fd, self.size, self.path, sparse=self._sparse)
        self._stage = Stage(self._fd, self.size, self._huge)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, offset: int, data: Buffer) -> None:
        """Puts the bytes there. In ascending order they become large folios; what is never written is zeros."""
        self._stage.put(offset, data)

    def commit(self, check: Callable[[int], None] | None = None) -> None:
        """Finishes the file and gives it its name, or names. `check` is called before that with a descriptor of it, for
        reading: all of it is on the disk, nobody has it open for writing, and what `check` raises leaves the old file
        as it was."""
        with self._naming_errors():
            self._finish()
            if check is not None:
                check(self._fd)
            self._give_names()
            self.committed = True
            os.fsync(self._directory.fd)

    def _finish(self) -> None:
        self._stage.flush()
        if self._attributes is not None:
            attributes.apply(self._fd, self._attributes, self.path, times=self._times)
        os.fsync(self._fd)
        # While anyone has it open for writing it cannot be executed (ETXTBSY), nor its pages collapsed.
        reading = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(reading, self._fd, inheritable=False)
        os.close(reading)
        lock(self._fd)

    def _give_names(self) -> None:
        if self._old is None:
            self._directory.link(self._fd, self._name)
            return
        self._directory.check(self._name, self._old)
        for name in self._names:
            self._directory.replace(self._fd, self._hidden, name, self._old)
            self._hidden = None

    def _discard(self) -> None:
        os.close(self._fd)
        if self._hidden is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._hidden, dir_fd=self._directory.fd)

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """Errors of calls that take descriptors name the file."""
        try:
            yield
        except OSError as error:
            if not isinstance(error.filename, str) or error.filename.startswith("/proc/self/fd/"):
                error.filename = self.path
            raise


def _attributes(path: str) -> Attributes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return attributes.read(fd, path)
    finally:
        os.close(fd)


def _make_room(fd: int, size: int, path: str, *, sparse: bool) -> None:
    """Makes the file that long. Raises OSError with ENOSPC before anything is written, if that is how it would end."""
    if not sparse and size and not _fallocate(fd, size, path):
        free = os.fstatvfs(fd)
        if size > free.f_bavail * free.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    os.ftruncate(fd, size)


def _fallocate(fd: int, size: int, path: str) -> bool:
    """False where the file system has no such thing. posix_fallocate would write to each block then, and so make the
    smallest folios."""
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    if function(fd, 0, 0, size) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), path)
