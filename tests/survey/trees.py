"""Small trees of files for the survey's tests."""

from pathlib import Path

from tests import elfwriter as w
from tests.elfwriter import Elf, Ph

MIB = 1 << 20


def program(text: int = 0x1000, skew: int = 0, flags: int = 5, stack: int = 6, align: int = 0x1000) -> Elf:
    """A position-independent program with `text` bytes of text, whose address is `skew` bytes off its offset, modulo
    2 MiB."""
    return Elf(
        type=w.ET_DYN,
        segments=[
            Ph(w.PT_LOAD, 4, 0, 4 * MIB, filesz=0x200, align=align),
            Ph(w.PT_LOAD, flags, 2 * MIB, 6 * MIB + skew, filesz=text, align=align),
            Ph(w.PT_GNU_STACK, stack, 0, 0, filesz=0),
        ],
        size=2 * MIB + text + 0x2000,
    )


def plant(root: Path) -> dict[str, Path]:
    """A tree with one of each: ELF files that gain by each remedy and by none, links, and what is no ELF file."""
    (root / "bin").mkdir(parents=True)
    (root / "lib/deep").mkdir(parents=True)
    files = {
        "small": program(),
        "congruent": program(5 * MIB),
        "skewed": program(7 * MIB, skew=0x1000),
        "rwx": program(flags=7, stack=7),
        "readable": Elf(type=w.ET_DYN, segments=[Ph(w.PT_LOAD, 4, filesz=0x100, align=0x10000)], size=0x1000),
        "object": Elf(type=w.ET_REL, size=0x100),
    }
    paths = {}
    for name, elf in files.items():
        paths[name] = root / ("lib/deep" if name in ("readable", "object") else "bin") / name
        paths[name].write_bytes(b"")
        _write_sparse(paths[name], elf)
    (root / "bin/again").hardlink_to(paths["small"])
    (root / "lib/link").symlink_to(paths["congruent"])
    (root / "lib/folder").symlink_to(root / "bin")
    (root / "lib/text").write_text("#!/bin/sh\n")
    (root / "lib/empty").write_bytes(b"")
    (root / "lib/broken").write_bytes(Elf(segments=[Ph(filesz=1)], header={"e_phentsize": 7}).build())
    return paths


def _write_sparse(path: Path, elf: Elf) -> None:
    """Only the head has bytes: the rest is a hole, so that a large text costs nothing."""
    size, elf.size = elf.size, 0
    with path.open("wb") as file:
        file.write(elf.build())
        file.truncate(max(size, file.tell()))
