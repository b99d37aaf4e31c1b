"""report.explain_text: `elfolio explain` for a terminal or a pipe. In: its Report, a width. Out: text."""

from collections import Counter
from collections.abc import Iterator, Sequence

from elfolio.report.columns import PLAIN, Ink, columns, plain, size, wrapped
from elfolio.report.explain import BlockRow, FindingRow, Mapping, Relink, Report, Segment, Under, Verify
from elfolio.report.strip import strip
from elfolio.span import Span

__all__ = ["OBSTACLES", "as_text", "bias_sentence", "counted_blocks", "kind", "side_by_side"]

OBSTACLES = {
    "": "could be huge",
    "skewed": "the file has it at an offset that does not fit",
    "base": "the load address is no multiple",
    "edge": "part of it lies outside of the mapping",
    "end": "the file ends there",
    "filesystem": "the file system has no such folios",
    "not-exec": "not executable, which this kernel asks for",
    "writer": "the file is open for writing",
    "never": "huge pages are switched off",
    "advice": "the mapping is marked MADV_NOHUGEPAGE",
    "process": "the process has switched huge pages off for itself",
}
"""kernel.blocks.Obstacle, in words."""


def as_text(report: Report, width: int = 100, ink: Ink = PLAIN) -> str:
    """Everything, for one policy after the other."""
    lines = list(_head(report, width, ink))
    if report["compared"]:
        rows = side_by_side(report)
        lines += ["", *columns(rows[0], rows[1:], ink=ink)]
    for under in (report, *report["compared"]):
        lines += ["", *_under(under, report, width, ink)]
    if report["relink"]:
        lines += ["", *_relinked(report["relink"], report, ink)]
    if report["verify"] is not None:
        lines += ["", *_verified(report["verify"], ink)]
    return "\n".join(lines)


def side_by_side(report: Report) -> list[tuple[str, ...]]:
    """What differs between the policies, and what they are compared for: a row of names, then one for each thing."""
    unders: list[Under] = [report, *report["compared"]]
    rows = [
        ("", *(under["policy"] for under in unders)),
        ("load bias", *(f"{under['load_bias']:#x}" for under in unders)),
        ("random bits", *("" if under["random_bits"] is None else str(under["random_bits"]) for under in unders)),
        ("VMAs", *(str(len(under["vmas"])) for under in unders)),
        ("largest folio", *(size(under["rules"]["largest_folio"]) for under in unders)),
    ]
    for block in sorted({row["size"] for under in unders for row in under["blocks"]}):
        rows.append((f"huge blocks of {size(block)}", *(_could(under["blocks"], block) for under in unders)))
    for name in report["rules"]["switches"]:
        values = [str(under["rules"]["switches"][name]) or "no" for under in unders]
        if len(set(values)) > 1:
            rows.append((name, *values))
    return rows


def counted_blocks(rows: Sequence[BlockRow], block: int) -> tuple[list[BlockRow], int]:
    """The blocks of this size that stay the file's, and how many of them could be huge mappings."""
    of_size = [row for row in rows if row["size"] == block and not row["copied"]]
    return of_size, sum(row["way"] != "none" for row in of_size)


def _could(rows: Sequence[BlockRow], block: int) -> str:
    of_size, could = counted_blocks(rows, block)
    return f"{could} of {len(of_size)}"


def kind(perms: str) -> str:
    """A style's name for permissions: r, rx, rw, rwx or none."""
    return "".join(letter for letter in perms[:3] if letter != "-") or "none"


def _head(report: Report, width: int, ink: Ink) -> Iterator[str]:
    said = (
        f"{report['bits']}-bit {report['machine']}, {report['type']}, {size(report['size'])}; "
        f"linked by {report['linker']}, {report['linked_as']}"
    )
    yield ink("strong", plain(report["path"]))
    yield from wrapped(said, width, "  ")
    if report["interpreter"]:
        yield f"  interpreter {plain(report['interpreter'])}"


def _under(under: Under, report: Report, width: int, ink: Ink) -> Iterator[str]:
    rules = under["rules"]
    yield ink("strong", f"Under {under['policy']}") + (
        f": {size(rules['page_size'])} pages, {size(rules['huge_page'])} huge pages, {rules['fs']} with folios up to "
        f"{size(rules['largest_folio'])}{' (tried)' if rules['probed'] else ''}, {rules['libc']}"
    )
    yield from wrapped(bias_sentence(under), width, "  ")
    yield ""
    yield from columns(
        ("#", "perms", "file offset", "in file", "linked", "in memory", "align", "mapped", "sections"),
        [_segment(segment) for segment in under["segments"]],
        right="r rrrrrr",
        ink=ink,
    )
    yield ""
    yield from _picture(under, report["size"], width, ink)
    if under["vmas"]:
        yield ""
        title = "At its first instruction" if under["placed"] else "Once loaded, from its base"
        yield ink("strong", title)
        yield from _mappings(under["vmas"], ink)
    if under["linked"] and under["linked"] != under["vmas"]:
        yield ""
        yield ink("strong", "After dynamic linking, its own")
        yield from _mappings(under["linked"], ink)
    yield from _blocks(under["blocks"], width, ink)
    if under["findings"]:
        yield ""
        yield ink("strong", "Findings")
        for finding in under["findings"]:
            yield from _finding(finding, width, ink)


def bias_sentence(under: Under) -> str:
    """Where it lies, and how random that is."""
    if under["refusal"]:
        return f"It is not mapped: {under['refusal']}."
    if not under["placed"]:
        return "A shared object: where it lies is decided when it is loaded; addresses are from its base."
    bits = under["random_bits"]
    random = "it lies at the same place always" if not bits else f"{bits} bits of it are random when that is on"
    return f"Load bias {under['load_bias']:#x} with address randomisation off; {random}."


def _segment(segment: Segment) -> tuple[str, ...]:
    names = segment["sections"]
    shown = " ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (
        str(segment["index"]),
        segment["perms"],
        f"{segment['offset']:#x}",
        size(segment["filesz"]),
        f"{segment['vaddr']:#x}",
        size(segment["memsz"]),
        size(segment["align"]),
        f"{segment['mapped']:#x}",
        shown,
    )


def _mappings(mappings: Sequence[Mapping], ink: Ink) -> Iterator[str]:
    for m in mappings:
        line = f"{m['start']:012x}-{m['end']:012x} {m['perms']} {m['offset']:08x} {size(m['end'] - m['start']):>9}"
        yield f"{ink(kind(m['perms']), line)}  {plain(m['name'])}".rstrip()


def _picture(under: Under, file_size: int, width: int, ink: Ink) -> Iterator[str]:
    """The file's pages, and those of them that lie in memory; letters are permissions."""
    page = under["rules"]["page_size"]
    segments = [s for s in under["segments"] if s["memsz"]]
    if not segments:
        return
    letters = {"r": "r", "rx": "x", "rw": "w", "rwx": "#", "none": "-"}
    file = [(Span(s["offset"], s["offset"] + s["filesz"]).pages(page), letters[kind(s["perms"])]) for s in segments]
    memory = [(Span(s["vaddr"], s["vaddr"] + s["memsz"]).pages(page), letters[kind(s["perms"])]) for s in segments]
    room = max(20, width - 8)
    line, step = strip(file, Span(0, file_size).pages(page), page, room, "#xwr-")
    yield f"file    {_coloured(line, ink)}"
    whole = Span(min(span.start for span, _ in memory), max(span.end for span, _ in memory))
    line, memory_step = strip(memory, whole, page, room, "#xwr-", rest=" ")
    yield f"memory  {_coloured(line, ink)}"
    each = f"{size(step)} in the file, {size(memory_step)} in memory" if step != memory_step else size(step)
    yield ink("soft", f"        each letter {each}: r read, x execute, w write, # write and execute, . in no segment")


def _coloured(line: str, ink: Ink) -> str:
    names = {"r": "r", "x": "rx", "w": "rw", "#": "rwx"}
    return "".join(ink(names[letter], letter) if letter in names else letter for letter in line)


def _blocks(rows: Sequence[BlockRow], width: int, ink: Ink) -> Iterator[str]:
    """One line a mapping and size of block: what each block could be, and why the others cannot."""
    for block in sorted({row["size"] for row in rows if not row["copied"]}):
        of_size, could = counted_blocks(rows, block)
        yield ""
        reasons = Counter(row["obstacle"] for row in of_size if row["way"] == "none")
        why = "; ".join(f"{count} not: {OBSTACLES[name]}" for name, count in reasons.most_common())
        yield ink("strong", f"Blocks of {size(block)}") + f": {could} of {len(of_size)} could be huge mappings"
        if why:
            yield from wrapped(why, width, "  ")
        line = "".join(_letter(row) for row in of_size)
        for at in range(0, min(len(line), 8 * width), width - 2):
            yield "  " + "".join(ink(_SHADES[c], c) for c in line[at : at + width - 2])


_SHADES = {"#": "good", "+": "good", "b": "warn", "s": "warn", "f": "bad", ".": "soft"}


def _letter(row: BlockRow) -> str:
    """# by a fault, + by a collapse, b for the base, s for skewed, f for a lack of folios, . for an edge."""
    if row["way"] != "none":
        return "#" if row["way"] == "fault" else "+"
    return {"base": "b", "skewed": "s", "edge": ".", "end": "."}.get(row["obstacle"], "f")


def _finding(finding: FindingRow, width: int, ink: Ink) -> Iterator[str]:
    cost = f" [{size(finding['bytes'])}]" if finding["bytes"] else ""
    first, *rest = wrapped(f"{finding['severity']}{cost}: {finding['message']}", width, "  ")
    yield ink(finding["severity"], first)
    yield from rest
    if finding["remedy"]:
        yield from wrapped(f"-> {finding['remedy']}", width, "     ")


def _relinked(found: Sequence[Relink], report: Report, ink: Ink) -> Iterator[str]:
    yield ink("strong", "Linked otherwise, from the same sections")
    rows = [(one["mode"], size(one["size"]), f"{one['size'] - report['size']:+d}", _loads(one)) for one in found]
    yield from columns(("mode", "file", "against now", "PT_LOAD: offset linked perms"), rows, right=" rr", ink=ink)
    for doubt in dict.fromkeys(doubt for one in found for doubt in one["uncertain"]):
        yield f"  uncertain: {plain(doubt)}"


def _loads(one: Relink) -> str:
    letters = ((4, "r"), (2, "w"), (1, "x"))
    return ", ".join(
        f"{s['offset']:#x} {s['vaddr']:#x} {''.join(x if s['flags'] & bit else '-' for bit, x in letters)}"
        for s in one["segments"]
        if s["type"] == 1
    )


def _verified(verify: Verify, ink: Ink) -> Iterator[str]:
    scope = f"{verify['vmas']} VMAs, {verify['objects']} objects after dynamic linking"
    count = len(verify["differences"])
    verdict = ink("good", "equal") if verify["equal"] else ink("error", f"{count} difference{'s' * (count > 1)}")
    yield f"{ink('strong', 'Held against a real process')} ({scope}): {verdict}"
    for line in verify["differences"]:
        yield f"  {plain(line)}"
