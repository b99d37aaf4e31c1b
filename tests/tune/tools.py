"""tests.tune.tools: what other programs make of a rewritten file. In: two paths. Out: complaints.

Each tool is asked about the original too: only what it does to that one without harm it must do to the other. Offsets
are masked where a tool prints them, since they are what a rewrite changes.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tune.memory import memory
from tests.tune.raw import PF_W, Raw, load

TIMEOUT = 120
_ENVIRONMENT = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}
_NUMBER = re.compile(r"\b0x[0-9a-f]+\b|\b[0-9a-f]{6,16}\b|\b\d+\b")
_OFFSET = re.compile(r"(?i)(offset:?) (?:0x)?[0-9a-f]+|(start of \w+ headers:) +\d+")


@dataclass(frozen=True)
class Editor:
    """A tool that changes a file in place."""

    name: str
    command: tuple[str, ...]
    """The file's path follows."""
    moves: bool = False
    """Whether it changes the program itself, and not only what stands beside it."""


EDITORS = (
    Editor("strip", ("strip",)),
    Editor("strip -d", ("strip", "-d")),
    Editor("objcopy", ("objcopy",)),
    Editor("eu-strip", ("eu-strip",)),
    Editor("llvm-strip", ("llvm-strip",)),
    Editor("llvm-strip-19", ("llvm-strip-19",)),
    Editor("llvm-objcopy", ("llvm-objcopy",)),
    Editor("llvm-objcopy-19", ("llvm-objcopy-19",)),
    Editor("patchelf --set-rpath", ("patchelf", "--set-rpath", "/nowhere/" + "x" * 300), moves=True),
    Editor("patchelf --page-size", ("patchelf", "--page-size", "65536", "--set-rpath", "/nowhere"), moves=True),
    Editor("patchelf --add-needed", ("patchelf", "--add-needed", "libm.so.6"), moves=True),
    Editor("patchelf --set-interpreter", ("patchelf", "--set-interpreter", "{interpreter}"), moves=True),
)


def present(editor: Editor) -> bool:
    """Whether this machine has it."""
    return shutil.which(editor.command[0]) is not None


def run(command: Sequence[str | Path], timeout: float = TIMEOUT) -> subprocess.CompletedProcess[str]:
    """Its end, whatever it is."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=_ENVIRONMENT,
        check=False,
        timeout=timeout,
    )


def complaints(before: Path, after: Path) -> list[str]:
    """What readelf and eu-elflint find in the rewritten file and not in the original."""
    found = []
    for name, say in (("readelf", _readelf), ("eu-elflint", _elflint)):
        if shutil.which(name):
            new = say(after) - say(before)
            found += [f"{name}: {line} ({count} more)" for line, count in sorted(new.items())]
    return found


def _readelf(path: Path) -> Counter[str]:
    done = run(["readelf", "-aW", path])
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "arning" in line or "rror" in line]
    return Counter(_NUMBER.sub("N", line.replace(str(path), "FILE")) for line in lines if ":" in line)


def _elflint(path: Path) -> Counter[str]:
    done = run(["eu-elflint", "--gnu-ld", path])
    return Counter(_NUMBER.sub("N", line.replace(str(path), "FILE")) for line in done.stdout.splitlines())


def tables(path: Path) -> list[str]:
    """All that readelf prints but the headers that `tests.tune.checker` compares, offsets masked: dynamic tags,
    relocations, symbols, versions, notes, unwind tables as sections or segments lead to them."""
    done = run(["readelf", "-dsrVAunW", path])
    return [_OFFSET.sub(r"\1\2 N", line) for line in done.stdout.replace(str(path), "FILE").splitlines()]


def edited(editor: Editor, source: Path, folder: Path, interpreter: str = "") -> Path | str:
    """A copy of `source` after the tool, or what it said."""
    out = folder / f"edited-{source.name}"
    shutil.copyfile(source, out)
    out.chmod(0o755)
    command = [interpreter if word == "{interpreter}" else word for word in editor.command]
    done = run([*command, out])
    return out if done.returncode == 0 else f"exit status {done.returncode}: {done.stderr.strip()[-300:]}"


def harm(original: Path, changed: Path) -> list[str]:
    """What a tool broke: bytes of memory under pages of 4 KiB, but for the headers; congruence; what it grew."""
    before, after = load(original), load(changed)
    found = memory(after, 4096)
    lines = [_masked(line) for line in found.faults]
    for segment in before.loads:
        start, size = _kept(before, segment.vaddr, segment.filesz)
        there, wanted = found.read(start, size), before.data[segment.offset + start - segment.vaddr :][:size]
        if size and there is None:
            lines.append("a segment is not mapped whole")
        elif size and there != wanted:
            lines.append(f"a segment's bytes differ, {'writable' if segment.flags & PF_W else 'read-only'}")
    bad = sum((s.offset - s.vaddr) % max(1, s.align) != 0 for s in after.loads)
    if bad > sum((s.offset - s.vaddr) % max(1, s.align) != 0 for s in before.loads):
        lines.append("offset and address differ modulo p_align")
    return lines


def _kept(raw: Raw, vaddr: int, size: int) -> tuple[int, int]:
    """The range without the header and program headers at its start, which every tool writes anew."""
    ends = [start + length for start, length in list(raw.tables())[:2]]
    for segment in raw.loads:
        if segment.vaddr == vaddr and segment.offset <= min(ends):
            skip = min(size, max(0, max(ends) - segment.offset))
            return vaddr + skip, size - skip
    return vaddr, size


def _masked(line: str) -> str:
    return _NUMBER.sub("N", line)
