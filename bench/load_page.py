"""bench.load_page: docs/load-bench.md. In: files that bench/load.py --raw wrote. Out: the page. Never measures.

Of a case that was measured more than once, a subject's last samples count.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load_tables import Case, Samples, against, cost, rate, table
from bench.table import show

__all__ = ["page", "taken"]

_MAPPED = "elfolio mmap"
_SHORT = ("", "auto GB/s", "fastest peer", "GB/s", "auto / peer", "auto / itself", "CPU / read()", "CPU / mmap")

_HEAD = """\
# Loads beside their peers

Written by `bench/load_page.py` from what `bench/load.py --raw` measured; what they load is one safetensors file of
tensors of 32 MiB, and for torch.load the same tensors as torch.save writes them. [load](load.md) says what `auto` does,
[tensors](tensors.md) how models are opened.

- Every load is a process of its own, in which all is imported beforehand. Subjects take turns, round by round; `auto`
  has two turns (A/A), so that noise is seen. Figures are medians, "of" is the range of the rounds.
- **GB/s and CPU s/GB** are until every page has been touched, so that what comes on demand is counted where it
  belongs. Processor time is that of the process and all its threads; not of the kernel's own threads, such as those of
  a loop device, or btrfs's, which check sums.
- **first pass**: the sum of all words, right afterwards. **random**: the largest byte of a quarter of all MiB, in no
  order.
- **Cold**: the file alone was dropped from the page cache. Memory for the load had been touched just before: in a
  virtual machine, what has been free for two seconds may have gone back to the host, and costs up to 2 s a GB.
- File systems are images on loop devices with direct I/O. `read_ahead_kb` is 128, Linux's default, where nothing else
  is said (btrfs has its own 4096): plain mappings and reads live by it, `auto` does not.
- fastsafetensors and runai-model-streamer load into the processor's memory here; they are made for others.
"""


def taken(lines: Iterable[str]) -> tuple[dict[Case, Samples], dict[str, Any]]:
    """Samples by case, in the order of the lines, and the machine of the last line."""
    cases: dict[Case, Samples] = {}
    told: dict[str, Any] = {}
    for line in lines:
        entry = json.loads(line)
        told = entry["machine"]
        cases.setdefault(Case(**entry["case"]), {}).update(entry["samples"])
    return cases, told


def page(cases: dict[Case, Samples], told: dict[str, Any], note: str = "") -> str:
    """All of it. `note`: what else is to be said of the machine."""
    whole = {case: found for case, found in cases.items() if case.way == "whole" and case.share is None}
    some = {case: found for case, found in cases.items() if case.way == "by tensor"}
    parts = {case: found for case, found in cases.items() if case.share is not None}
    machine = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())
    said = f"{machine}; {note}" if note else machine
    pieces = [_HEAD, f"{fill(said, 120)}\n", "## In short\n", _short(whole | some)]
    if parts:
        pieces += ["## On a part of a processor\n", *_shares(parts)]
    for title, held in (("Whole files", whole), ("Some tensors by name", some)):
        if held:
            pieces += [f"## {title}\n", *(table(case, found, markdown=True) for case, found in held.items())]
    return "\n".join(pieces)


def _short(cases: dict[Case, Samples]) -> str:
    rows = []
    for case, found in cases.items():
        standing = against(found)
        if standing is not None:
            control = "" if standing.control is None else f"{standing.control:.2f}"
            figures = (f"{standing.over_peer:.2f}", control, f"{standing.of_read:.3f}", f"{standing.of_mmap:.3f}")
            rows.append((str(case), f"{standing.rate:.2f}", standing.peer, f"{standing.peers_rate:.2f}", *figures))
    said = "Medians of `auto` over those of the fastest peer, of itself measured again, of read() and of plain mmap"
    return show(said, _SHORT, rows, markdown=True)


_HELD = """\
The loader alone is held, in a control group, in periods of 10 ms: not the kernel's threads. What a strategy gives is
then bounded by the device, or by what a GB costs it: "CPU s/GB" is the median of all rounds at all parts, "keeps up
from" that times the highest rate of any row, the part of a processor at which it stops saturating the device. Above
100% one processor is not enough. `ext4-small` is ext4 with data=journal, which has folios of one page only: the same
file system, device and code, small folios.
"""
_CLAIM = """\
The claim ([PATCH v2] f2fs: another way to set large folio by remembering inode number, linux-f2fs-devel, May 2026) is
that large folios saturate a device of 4 GB/s also at medium and low clock rates, where small ones end at 2 GB/s, the
difference being the allocation of pages. {said}
"""


def _shares(cases: dict[Case, Samples]) -> list[str]:
    """A table a file system, a column a share, and what the folios' size makes of the rate."""
    kinds = dict.fromkeys(case.kind for case in cases)
    by_kind = {kind: {case.share or 1: found for case, found in cases.items() if case.kind == kind} for kind in kinds}
    everything = [samples for found in by_kind.values() for subjects in found.values() for samples in subjects.values()]
    most = max(map(rate, everything), default=0.0)
    pieces = [_HELD]
    for kind, found in by_kind.items():
        head = ("", *(f"{share:.0%}" for share in sorted(found)), "CPU s/GB", "keeps up from")
        names = dict.fromkeys(name for samples in found.values() for name in samples)
        rows = [_row(name, found, most) for name in names]
        pieces.append(show(f"{kind}, cold: GB/s by part of a processor", head, rows, markdown=True))
    large, small = (by_kind.get(kind, {}) for kind in ("ext4", "ext4-small"))
    return [*pieces, *_claim(large, small)]


def _row(name: str, found: dict[float, Samples], most: float) -> tuple[str, ...]:
    rates = (f"{rate(found[share][name]):.2f}" if name in found[share] else "" for share in sorted(found))
    a_gb = cost([sample for samples in found.values() for sample in samples.get(name, [])])
    return (name, *rates, f"{a_gb:.3f}", f"{a_gb * most:.0%}")


def _claim(large: dict[float, Samples], small: dict[float, Samples]) -> list[str]:
    """What large folios gain at each share, both mapped by the same calls."""
    both = [share for share in sorted(large) if _MAPPED in large[share] and _MAPPED in small.get(share, {})]
    if not both:
        return []
    rates = {share: [rate(one[share][_MAPPED]) for one in (large, small)] for share in both}
    rows = [(f"{share:.0%}", f"{a:.2f}", f"{b:.2f}", f"{a / b:.1f}") for share, (a, b) in rates.items()]
    head = ("of a processor", "huge folios GB/s", "folios of one page GB/s", "times")
    (least, (a, b)), (whole, (c, d)) = min(rates.items()), max(rates.items())
    said = (
        f"Here, where a device of less than 3 GB/s is all there is: huge folios give {a:.1f} GB/s on {least:.0%} of a "
        f"processor and {c:.1f} on {whole:.0%}, folios of one page {b:.1f} and {d:.1f}."
    )
    title = "The same calls (MADV_HUGEPAGE, MADV_POPULATE_READ), two sizes of folios"
    return [fill(_CLAIM.format(said=said), 120) + "\n", show(title, head, rows, markdown=True)]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", nargs="+", type=Path, metavar="RAW", help="what bench/load.py --raw wrote")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="where to (standard output)")
    parser.add_argument("--note", default="", metavar="TEXT", help="what else is to be said of the machine")
    options = parser.parse_args(argv)
    cases, told = taken(line for path in options.raw for line in path.read_text().splitlines())
    text = page(cases, told, options.note)
    if options.write is None:
        print(text, end="")
    else:
        options.write.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
