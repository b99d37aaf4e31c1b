"""tests.lab.mm_table: docs/kernel-matrix.md, from boots of every kernel of the lab. In: a path. Out: the page.

By hand, or `make lab`:

    python -m tests.lab.mm_table --write docs/kernel-matrix.md
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.kernels import Unavailable
from tests.lab.mm_cases import Share
from tests.lab.mm_kernels import LAB
from tests.lab.mm_run import Found, under

__all__ = ["page"]

_HEAD = """\
# The kernel matrix

The model of `elfolio.kernel` held against other kernels than this machine's: Debian's, each booted under
qemu-system emulation with nothing on it but a driver in C (`tests/lab/driver.c`). Written by `make lab`, which takes
some minutes; agreed / run:

| Linux | Debian's kernel | machine | pages | addresses | cases | operations | programs | first answer | whole run |
|---|---|---|---|---|---|---|---|---|---|
"""
_ROW = (
    "| {version} | {release} | {machine} | {page} KiB | {bits} bits | {cases} | {operations} | {execs} "
    "| {boot:.0f} s | {all:.0f} s |\n"
)
_LEGEND = """
- cases: those of `tests/kernel/mm_cases.json` and `more_cases.json` that need only system calls and are about that
  kernel by its policy;
  with larger pages those that name no other size than a page. Model and kernel must both do what the case says.
- operations: random ones (`tests/kernel/sequences.py`), all kinds, half at existing boundaries, with forks and
  faults. After each, the results, and start, end, permissions, offset and VmFlags of every VMA are compared.
  With pages of 4 KiB the sequences too that once found a difference (`tests/kernel/test_mm_found.py`).
- programs: of every linker here and of Debian, and odd ones (`tests/measure/odd.py`), held at their first instruction
  with randomisation off. Every line of `/proc/PID/maps` is compared with `verify_from`'s prediction, or errno and
  signal where execve fails.
- addresses: how many bits a process can use. Mappings without a hint lie below 2^47 on all of these; where LA57 or
  LPA2 gives more, a hint above leads there, and one random address in sixteen is there. That there is more is tried
  by one mapping: arm64 shows it nowhere else.
- the policy is that of the version that the kernel's own `/proc/version` names; nothing else is given to the model
  but that and what the machine's `/proc` shows: memory, limits, the sizes of the vdso.
"""
_EXPECTED = """
## What is left out, and why

- On arm64 the highest address tried is below 2^63: some calls ignore an address's highest byte there (top-byte-ignore,
  `untagged_addr`), which the model does not.
- The programs lie on the first RAM file system: what ext4, xfs and others do to placement is for the tests on the host.
"""


def page(found: Sequence[Found]) -> str:
    """The whole text."""
    rows = "".join(
        _ROW.format(
            version=one.version,
            release=one.release,
            machine=one.machine,
            page=one.page // 1024,
            bits=one.bits,
            cases=one.cases,
            operations=one.operations,
            execs=one.execs,
            boot=one.boot_seconds,
            all=one.seconds,
        )
        for one in found
    )
    return _HEAD + rows + _LEGEND + _undecided(found) + _differences(found) + _EXPECTED


def _undecided(found: Sequence[Found]) -> str:
    lines = [
        f"- {one.release}: {count} not run: {reason}\n"
        for one in found
        for reason, count in sorted(one.cases.kinds.items())
    ]
    return "".join(("\n## Cases that are not about a kernel\n\n", *lines)) if lines else ""


def _differences(found: Sequence[Found]) -> str:
    lines = [f"- {one.release}: `{miss}`\n" for one in found for share in _shares(one) for miss in share.misses]
    return "".join(("\n## Differences\n\n", *(lines or ["None.\n"])))


def _shares(one: Found) -> tuple[Share, ...]:
    return one.cases, one.known, one.operations, one.execs


def main(arguments: Sequence[str]) -> int:
    """0; 1 where anything differs; 2 where a kernel cannot be had."""
    parser = argparse.ArgumentParser(prog="tests.lab.mm_table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there; else to standard output")
    parser.add_argument("--operations", type=int, default=8000, metavar="N", help="random operations a kernel")
    parser.add_argument("--odd", type=int, default=300, metavar="N", help="odd programs a kernel")
    chosen = parser.parse_args(arguments)
    found = []
    for name in LAB:
        try:
            found.append(under(name, chosen.operations, chosen.odd, seconds=900))
        except Unavailable as lacking:
            print(f"{name}: {lacking}", file=sys.stderr)
            return 2
        one = found[-1]
        print(f"{one.release}: cases {one.cases}, operations {one.operations}, programs {one.execs}", file=sys.stderr)
    text = page(found)
    if chosen.write is None:
        print(text, end="")
    else:
        chosen.write.write_text(text)
    return int(any(share.misses for one in found for share in _shares(one)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
