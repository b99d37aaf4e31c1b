"""report.load: what a load cost, and strategies side by side. In: LoadReport, Model, Trials. Out: text, JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from elfolio.report.columns import Ink, columns, plain, size, wrapped

if TYPE_CHECKING:
    from elfolio.pagecache.formats.model import Model
    from elfolio.pagecache.load import LoadReport
    from elfolio.pagecache.load_compare import Trial

__all__ = ["Loaded", "as_json", "as_text", "compared_as_json", "compared_as_text"]

Loaded = tuple["LoadReport", dict[int, int] | None]
"""A report, and the orders of the folios that the page cache has of the file afterwards."""


def as_json(
    found: Sequence[Loaded], page: int, problems: Sequence[tuple[str, str]] = (), models: "Sequence[Model]" = ()
) -> str:
    """One object: a list of files, of those that could not be loaded, each with its reason, and of models."""
    failed = [{"path": path, "reason": why} for path, why in problems]
    files = [_entry(*one) for one in found]
    held = [{**asdict(one), "tensors": one.tensors, "size": one.size} for one in models]
    whole = {"elfolio": "load", "version": 1, "page": page, "files": files, "problems": failed, "models": held}
    return json.dumps(whole)


def _entry(report: "LoadReport", orders: dict[int, int] | None) -> dict[str, object]:
    found = asdict(report)
    for name in ("free_before", "free_after"):
        found[name] = _keyed(found[name])
    return {**found, "rate": report.rate, "processor_per_gb": report.processor_per_gb, "cached_orders": _keyed(orders)}


def _keyed(found: dict[int, int] | None) -> dict[str, int] | None:
    """JSON has names for keys."""
    return None if found is None else {str(order): count for order, count in sorted(found.items())}


def as_text(found: Sequence[Loaded], page: int, width: int, ink: Ink, models: "Sequence[Model]" = ()) -> str:
    """A line a file, then what is to be said of each, and what models hold."""
    head = ("size", "time", "GB/s", "CPU s/GB", "faults", "strategy", "file")
    lines = columns(head, (_cells(report) for report, _ in found), right="rrrrr", ink=ink)
    for report, orders in found:
        lines += _remarks(report, orders, page, width)
    for model in models:
        lines += wrapped(_holds(model), width, "  ")
    return "".join(f"{line}\n" for line in lines)


def _cells(report: "LoadReport") -> tuple[str, ...]:
    faults = f"{report.minor_faults + report.major_faults:,}"
    time, cost = f"{report.seconds:.3f} s", f"{report.processor_per_gb:.3f}"
    return (size(report.length), time, f"{report.rate:.2f}", cost, faults, report.strategy.value, plain(report.path))


def _remarks(report: "LoadReport", orders: dict[int, int] | None, page: int, width: int) -> Iterator[str]:
    yield from wrapped(f"{plain(report.path)}: {report.how}", width, "  ")
    for why in report.why:
        yield from wrapped(why, width, "    ")
    if report.blocks is not None:
        yield f"    huge pages: {report.huge_blocks:,} of {report.blocks:,} are mapped by one entry"
    if orders:
        yield from wrapped(f"in the page cache now: {_sizes(orders, page)}", width, "    ")
    if report.requests is not None and report.transferred and report.device is not None:
        said = f"{report.device.name}: {report.requests:,} requests, {size(report.transferred)}"
        yield from wrapped(f"{said}; {_limits(report)}", width, "    ")
    if report.free_before is not None and report.free_after is not None:
        huge = [sum(count << (order - 9) for order, count in free.items() if order >= 9)
                for free in (report.free_before, report.free_after)]  # fmt: skip
        yield f"    free blocks of order 9: {huge[0]:,} before, {huge[1]:,} after"
    if report.pressure:
        said = ", ".join(f"{count:,} {name}" for name, count in report.pressure.items())
        yield from wrapped(f"on this machine meanwhile: {said}", width, "    ")


def _holds(model: "Model") -> str:
    """In one sentence."""
    kinds = ", ".join(f"{amount.tensors:,} {word} ({size(amount.size)})" for word, amount in model.dtypes.items())
    files = f" in {len(model.files):,} files" if len(model.files) > 1 else ""
    tensors = "1 tensor" if model.tensors == 1 else f"{model.tensors:,} tensors"
    said = f"{plain(model.path)}: {model.format}, {tensors}{files}, {size(model.size)}"
    return f"{said}: {kinds}" if kinds else said


def _limits(report: "LoadReport") -> str:
    device = report.device
    if device is None or device.max_segments is None or device.max_transfer is None:
        return "its limits are hidden"
    return f"at most {device.max_segments} pieces of memory and {size(device.max_transfer)} in one"


def _sizes(orders: dict[int, int], page: int) -> str:
    """The largest folios first."""
    return ", ".join(
        f"{size(count)} in folios of {size(page << order) if order >= 0 else 'unknown size'}"
        for order, count in sorted(orders.items(), reverse=True)
    )


def compared_as_json(path: str, trials: "Sequence[Trial]") -> str:
    """Every sample of every strategy."""
    entries = [
        {
            "strategy": one.name,
            "warm": one.warm,
            "rate": one.rate,
            "processor_per_gb": one.processor_per_gb,
            "error": one.error,
            "stayed": one.stayed,
            "samples": [
                {"seconds": report.seconds, "processor": report.processor, "how": report.how, "used": report.strategy}
                for report in one.reports
            ],
        }
        for one in trials
    ]
    return json.dumps({"elfolio": "load", "version": 1, "compared": path, "trials": entries})


def compared_as_text(path: str, trials: "Sequence[Trial]", width: int, ink: Ink) -> str:
    """Cold beside warm: medians, and the range of all rounds."""
    cold = [one for one in trials if not one.warm]
    warm = {one.name: one for one in trials if one.warm}
    head = ("cold GB/s", "range", "CPU s/GB", "warm GB/s", "range", "CPU s/GB", "strategy")
    rows = [(*_figures(one), *_figures(warm[one.name]), one.name) for one in cold]
    lines = [f"{plain(path)}: medians of {max((len(one.reports) for one in trials), default=0)}"]
    lines += columns(head, rows, right="rrrrrr", ink=ink)
    for one in trials:
        if one.error:
            lines += wrapped(f"{one.name}, {'warm' if one.warm else 'cold'}: {one.error}", width, "  ")
    stayed = max((one.stayed for one in cold), default=0)
    if stayed:
        said = f"{size(stayed)} stayed in the page cache before cold loads: mapped by a process, or not written yet"
        lines += wrapped(said, width, "  ")
    return "".join(f"{line}\n" for line in lines)


def _figures(one: "Trial") -> tuple[str, str, str]:
    if one.rate is None or one.processor_per_gb is None:
        return "-", "-", "-"
    rates = [report.rate for report in one.reports]
    return f"{one.rate:.2f}", f"{min(rates):.2f}..{max(rates):.2f}", f"{one.processor_per_gb:.3f}"
