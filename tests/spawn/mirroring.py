"""What the mirror (tests/spawn/mirror) saw, as data, and what of it can never be equal. Holds no tests.

`REMOVED`, `RELATIVE`, `REWRITTEN`, `MASKED`, `GROWING` and `MOMENTARY_AREA_FLAGS` are the whole list of what two
starts of one program may show differently.
"""

import copy
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.spawn.probing import HERE

Seen = dict[str, Any]

REMOVED = {
    "pid": "each process has its own",
    "status.Pid": "as pid",
    "status.Tgid": "as pid",
    "status.NSpid": "as pid",
    "status.NStgid": "as pid",
    "random_bytes": "AT_RANDOM is random for each start",
    "statm": "pages touched, whose number depends on the page cache",
    "status.VmPeak": "the heap and the stack grow by use",
    "status.VmSize": "as VmPeak",
    "status.VmHWM": "as statm",
    "status.VmRSS": "as statm",
    "status.RssAnon": "as statm",
    "status.RssFile": "as statm",
    "status.RssShmem": "as statm",
    "status.VmData": "as VmPeak",
    "status.VmStk": "as VmPeak",
    "status.VmPTE": "as statm: page tables, by where the layout happens to lie",
    "status.VmSwap": "memory may be swapped out at any time",
    "status.FDSize": "room in the descriptor table, which is that of the process cloned, not of those open",
    "status.State": "what the scheduler does at that moment",
    "status.voluntary_ctxt_switches": "as State",
    "status.nonvoluntary_ctxt_switches": "as State",
    "proc.arch_status": "milliseconds since AVX-512 was last used",
    "proc.seccomp_cache": "for whom may read it: system calls already seen",
}
"""Paths of what is left out, each with the reason."""

RELATIVE = {
    "session": "own number or the host's: what counts is whose",
    "group": "as session",
    "stat.session": "as session",
    "stat.pgrp": "as session",
    "stat.tpgid": "as session",
    "status.NSsid": "as session",
    "status.NSpgid": "as session",
    "terminal.session": "as session",
    "terminal.foreground": "as session",
}
"""Paths where the process's own pid is written as "own"."""

REWRITTEN = {
    "proc.autogroup": (r"autogroup-\d+", "autogroup-N", "the kernel counts sessions"),
    "auxv.31": (r"\d+", "N", "AT_EXECFN names the descriptor executed, and each template holds one of its own"),
    "status.SigQ": (r"^\d+/", "N/", "signals queued for all processes of the user"),
}
"""Paths, what is replaced there, by what, and why."""

MASKED = {
    "stat.flags": (
        ~0x0000_0940,
        "PF_FORKNOEXEC: nothing was exec'd in a warm child; PF_SUPERPRIV: has used a privilege; PF_MEMALLOC: just then",
    ),
}
"""Paths of numbers, the bits that count, and why the others do not."""

GROWING = {"": "merged with its neighbour or not", "[heap]": "grows by use", "[stack]": "grows by use"}
"""Areas whose size does not count, and why."""

MOMENTARY_AREA_FLAGS = {"sd": "soft-dirty: written to since the last look"}


def compile_mirror(folder: Path, gcc: str = "gcc") -> Path:
    """Compiles the mirror and its libraries into `folder`, where any user may run it and it may write its answer."""
    source = HERE / "mirror"
    compiler = [gcc, "-O1", "-Wall", "-Wextra", "-Werror"]
    apart = {"library.c": "libmirror.so", "late.c": "libmirror_late.so"}
    for name, library in apart.items():
        subprocess.run([*compiler, "-shared", "-fPIC", "-o", folder / library, source / name], check=True)
    own = [path for path in sorted(source.glob("*.c")) if path.name not in apart]
    program = folder / "mirror"
    link = ["-L", str(folder), "-lmirror", "-lm", "-ldl", "-pthread", "-Wl,-rpath,$ORIGIN"]
    subprocess.run([*compiler, "-o", program, *own, *link], check=True)
    answer_of(program).touch()
    answer_of(program).chmod(0o666)
    return program


def answer_of(program: Path) -> Path:
    """The file that the mirror appends its two lines to."""
    return program.with_name(program.name + ".out")


def parse(text: str) -> Seen | None:
    """What the mirror wrote, "ended" being what its last destructor wrote; None if it never came to write."""
    lines = [json.loads(line) for line in text.splitlines()]
    if not lines:
        return None
    seen: Seen = lines[0]
    seen["ended"] = lines[1:]
    return seen


def normalised(seen: Seen, own_inodes: Mapping[int, str] | None = None) -> Seen:
    """`seen` without what can never be equal. `own_inodes`: inode to name of pipes and files made for this spawn."""
    seen = copy.deepcopy(seen)
    pid = seen["pid"]
    for path in RELATIVE:
        _change(seen, path, lambda value: "own" if str(value) == str(pid) else value)
    for path, (pattern, by, _) in REWRITTEN.items():
        _change(seen, path, lambda value, pattern=pattern, by=by: re.sub(pattern, by, str(value)))
    for path, (bits, _) in MASKED.items():
        _change(seen, path, lambda value, bits=bits: value & bits)
    for path in REMOVED:
        _remove(seen, path)
    seen["maps"] = _counted([name, mode, 0 if name in GROWING else size] for name, mode, size in seen["maps"])
    seen["vm_flags"] = _counted(
        [name, *sorted(set(flags.split()) - MOMENTARY_AREA_FLAGS.keys())] for name, flags in seen["vm_flags"]
    )
    for descriptor in seen["descriptors"].values():
        _name_inode(descriptor, own_inodes or {})
    return seen


def has(seen: Seen, path: str) -> bool:
    """Whether there is such an entry."""
    parent, name = _place(seen, path)
    return name in parent


def differences(left: Any, right: Any, path: str = "") -> Iterator[str]:
    """What differs, a line each."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted(left.keys() | right.keys(), key=str):
            yield from differences(left.get(name), right.get(name), f"{path}.{name}" if path else str(name))
    elif left != right:
        yield f"{path}: {left!r} is not {right!r}"


def _place(seen: Seen, path: str) -> tuple[dict[str, Any], str]:
    parent, _, name = path.rpartition(".")
    return (seen.get(parent, {}) if parent else seen), name


def _change(seen: Seen, path: str, change: Any) -> None:
    parent, name = _place(seen, path)
    if name in parent:
        parent[name] = change(parent[name])


def _remove(seen: Seen, path: str) -> None:
    parent, name = _place(seen, path)
    parent.pop(name, None)


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(map(str, values)).items()))


def _name_inode(descriptor: dict[str, Any], own_inodes: Mapping[int, str]) -> None:
    """The inode of what was made for this spawn: its name instead."""
    name = own_inodes.get(descriptor.get("inode", -1))
    if name is not None:
        inode = str(descriptor.pop("inode"))
        descriptor.update({key: str(value).replace(inode, name) for key, value in descriptor.items()})
