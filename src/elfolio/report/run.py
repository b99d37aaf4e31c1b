"""report.run: how a command ran. In: Ran. Out: text for people, one JSON object for programs."""

import base64
import errno
import json
import signal
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import resource

    from elfolio.spawn.command import Ran
    from elfolio.spawn.relay import Said

__all__ = ["Report", "as_json", "as_report", "dropped", "summary"]


class _Stream(TypedDict):
    bytes: int
    """All that was written; of these `dropped` are missing, where a line says so."""
    dropped: int


class TextStream(_Stream):
    """An output that is UTF-8."""

    text: str


class BinaryStream(_Stream):
    """An output that is not."""

    base64: str


class Usage(TypedDict):
    """getrusage(2), of the command and the descendants that it waited for."""

    user_seconds: float
    system_seconds: float
    max_rss_kib: int
    """At least this process's own: until exec the child is counted with its parent's memory."""
    minor_faults: int
    major_faults: int
    voluntary_switches: int
    involuntary_switches: int
    blocks_in: int
    blocks_out: int


class Report(TypedDict):
    """The object of `elfolio run --json`."""

    elfolio: str
    version: int
    argv: list[str]
    path: str
    pid: int
    temperature: str
    returncode: int | None
    """Negative for a signal; None for a command that could not be killed at its deadline."""
    signal: str | None
    timed_out: bool
    seconds: float
    check_us: float
    launch_us: float
    rusage: Usage | None
    fallbacks: dict[str, int]
    stdout: TextStream | BinaryStream
    stderr: TextStream | BinaryStream


def as_json(ran: "Ran") -> str:
    """The object, on one line."""
    return json.dumps(as_report(ran))


def as_report(ran: "Ran") -> Report:
    """What `as_json` writes. `ran` must have both outputs."""
    out, err = ran.outputs
    return {
        "elfolio": "run",
        "version": 1,
        "argv": [str(word) for word in ran.argv],
        "path": ran.path,
        "pid": ran.pid,
        "temperature": ran.temperature,
        "returncode": ran.returncode,
        "signal": _signal_name(ran.returncode),
        "timed_out": ran.timed_out,
        "seconds": round(ran.seconds, 6),
        "check_us": ran.check_ns / 1000,
        "launch_us": ran.launch_ns / 1000,
        "rusage": None if ran.rusage is None else _usage(ran.rusage),
        "fallbacks": dict(ran.fallbacks),
        "stdout": _stream(out),
        "stderr": _stream(err),
    }


def _signal_name(returncode: int | None) -> str | None:
    if returncode is None or returncode >= 0:
        return None
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"  # real-time signals have numbers only


def _usage(usage: "resource.struct_rusage") -> Usage:
    return {
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "max_rss_kib": usage.ru_maxrss,
        "minor_faults": usage.ru_minflt,
        "major_faults": usage.ru_majflt,
        "voluntary_switches": usage.ru_nvcsw,
        "involuntary_switches": usage.ru_nivcsw,
        "blocks_in": usage.ru_inblock,
        "blocks_out": usage.ru_oublock,
    }


def _stream(said: "Said") -> TextStream | BinaryStream:
    head, tail, missing = said.head, said.tail, said.dropped
    if missing:
        # The limit may have cut a character; its rest is no text, and is dropped as well.
        whole, rest = _cut_end(head), _cut_start(tail)
        try:
            (whole + rest).decode()
        except UnicodeDecodeError:
            pass
        else:
            missing += len(head) - len(whole) + len(tail) - len(rest)
            head, tail = whole, rest
    notice = b"\n[... %d bytes dropped ...]\n" % missing if missing else b""
    data = head + notice + tail
    try:
        return {"text": data.decode(), "bytes": said.total, "dropped": missing}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode(), "bytes": said.total, "dropped": missing}


def _cut_end(data: bytes) -> bytes:
    """Without the beginning of a UTF-8 character at the end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return data[:-back] if back < length else data
    return data


def _cut_start(data: bytes) -> bytes:
    """Without the end of a UTF-8 character at the start."""
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]


def dropped(ran: "Ran") -> list[str]:
    """A line for each output of which bytes are missing, or that could not be passed on."""
    lines = []
    for name, said, error in zip(("standard output", "standard error"), ran.outputs, ran.errors, strict=True):
        if error and error != errno.EPIPE:
            lines.append(f"{name} cannot be written: {errno.errorcode.get(error, error)}")
        elif said.dropped and not error:
            lines.append(f"{said.dropped} of {said.total} bytes of {name} dropped (--limit)")
    return lines


def summary(ran: "Ran") -> str:
    """One line: what ran, how it ended, what it cost."""
    name = _signal_name(ran.returncode)
    end = "still there" if ran.returncode is None else f"killed by {name}" if name else f"status {ran.returncode}"
    check, launch = ran.check_ns / 1000, ran.launch_ns / 1000
    times = f"check {check:.0f} us, launch {launch:.0f} us, {ran.seconds * 1000:.1f} ms in all"
    how = "".join(f"; {reason}" for reason in ran.fallbacks)
    late = "; timed out" if ran.timed_out else ""
    return f"{ran.path}, pid {ran.pid}, {ran.temperature}: {end}; {times}{how}{late}"
