"""Run as a program: replaces a file again and again, and is killed at each call of it in turn.

Prints for each the call, what each name leads to afterwards (old, new, or what is wrong), and how many hidden names are
left. With a second word: `links`, the file has two names, and both are replaced; `named`, the file system has no files
without names, and cannot swap two.
"""

import errno
import os
import signal
import sys
from pathlib import Path

from elfolio.pagecache import names
from elfolio.pagecache.names import Directory
from elfolio.pagecache.replace import Links, NewFile
from tests.pagecache.points import install

SIZE = 5 << 20
OLD, NEW = b"old!" * (SIZE // 8), bytes(range(256)) * (SIZE // 256)
MODE = 0o750


def replace_once(path: Path) -> None:
    """In pieces that are not the blocks'. All names it has."""
    with NewFile(path, SIZE, times=True, links=Links.ALL) as new:
        for at in range(0, SIZE, 3 << 20):
            new.write(at, NEW[at : at + (3 << 20)])
        new.commit()


def make_old(path: Path) -> None:
    """The file that is there before; with an attribute, so that one must be set."""
    path.unlink(missing_ok=True)
    path.write_bytes(OLD)
    path.chmod(MODE)
    os.setxattr(path, "user.elfolio", b"kept")


def found(path: Path) -> str:
    """What the name leads to."""
    try:
        data, status = path.read_bytes(), path.stat()
    except OSError as error:
        return str(error)
    kind = {OLD: "old", NEW: "new"}.get(data, f"{len(data)} bytes of neither")
    kept = status.st_mode & 0o7777 == MODE and os.getxattr(path, "user.elfolio") == b"kept"
    return kind if kept else f"{kind}, mode {status.st_mode:o}, {os.listxattr(path)}"


def die_at(number: int) -> None:
    """Installs it in this process."""
    left = [number]

    def callback(call: str, when: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.write(1, f"{call} {when}: ".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    install(callback)


def poor_file_system() -> None:
    """As NFS is, from now on in this process."""
    opened = os.open

    def refusing(path: str, flags: int, *args: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "as NFS says")
        return opened(path, flags, *args, **named)

    os.open = refusing  # type: ignore[assignment]
    names._exchange = lambda *_: False


def killed_at(number: int, path: Path, how: str) -> bool:
    """False: it came to its end before that."""
    child = os.fork()
    if child == 0:
        if how == "named":
            poor_file_system()
        die_at(number)
        try:
            replace_once(path)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def main(folder: Path, how: str = "") -> None:
    """Until a replacement is finished without having been killed."""
    paths = [folder / "file"] + ([folder / "other"] if how == "links" else [])
    number = 1
    prepare(paths)
    while killed_at(number, paths[0], how):
        print(*map(found, paths), len(os.listdir(folder)) - len(paths), flush=True)
        directory = Directory(str(folder))
        for path in paths:
            directory.sweep(path.name)
        directory.close()
        assert sorted(os.listdir(folder)) == [path.name for path in paths], "the next replacement removes what is left"
        prepare(paths)
        number += 1
    print("end:", *map(found, paths), len(os.listdir(folder)) - len(paths))


def prepare(paths: list[Path]) -> None:
    """The old file, under all its names."""
    make_old(paths[0])
    for other in paths[1:]:
        other.unlink(missing_ok=True)
        os.link(paths[0], other)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
