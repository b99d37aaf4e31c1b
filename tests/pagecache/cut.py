"""Run as a program: replaces a file on a mounted image, and copies the image at every call. In: point, image, copies.

A copy is what a disk has when the power is cut there: what the file system has handed to it, and nothing of what it
still keeps. Prints the call of each, in order.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.pagecache.killed import make_old, replace_once
from tests.pagecache.points import install


class Copier:
    """Copies, but not while it copies: that makes calls of its own."""

    def __init__(self, image: str, folder: Path) -> None:
        self.image = image
        self.folder = folder
        self.count = 0
        self.busy = False

    def __call__(self, call: str, when: str) -> None:
        if self.busy or when == "before":
            return
        self.busy = True
        name = str(self.folder / f"{self.count:03}")
        subprocess.run(["cp", "--sparse=always", self.image, name], check=True)
        print(f"{call} {when}")
        self.count += 1
        self.busy = False


def main(point: Path, image: str, folder: Path) -> None:
    """The old file is on the disk before the first copy."""
    make_old(point / "file")
    os.sync()
    install(Copier(image, folder))
    replace_once(point / "file")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
