"""Run as a program: replaces a file again and again, and is killed at each call of it in turn.

Prints for each the call, what the name leads to afterwards (old, new, or what is wrong), and how many files are left.
"""

import os
import signal
import sys
from pathlib import Path

from elfolio.pagecache.names import Directory
from elfolio.pagecache.replace import NewFile
from tests.pagecache.points import install

SIZE = 5 << 20
OLD, NEW = b"old!" * (SIZE // 8), bytes(range(256)) * (SIZE // 256)
MODE = 0o750


def replace_once(path: Path) -> None:
    """In pieces that are not the blocks'."""
    with NewFile(path, SIZE, times=True) as new:
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


def killed_at(number: int, path: Path) -> bool:
    """False: it came to its end before that."""
    child = os.fork()
    if child == 0:
        die_at(number)
        try:
            replace_once(path)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def main(folder: Path) -> None:
    """Until a replacement is finished without having been killed."""
    path = folder / "file"
    number = 1
    make_old(path)
    while killed_at(number, path):
        left = len(os.listdir(folder)) - 1
        directory = Directory(str(folder))
        print(found(path), left, flush=True)
        directory.sweep("file")
        directory.close()
        assert os.listdir(folder) == ["file"], "the next replacement removes what is left"
        make_old(path)
        number += 1
    print("end:", found(path), len(os.listdir(folder)) - 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
