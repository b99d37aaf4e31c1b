"""measure.record: runs a command and writes down what it does to its memory. In: a command, a path. Out: Recorded.

The C core traces it and all that it starts (native/record.h); the format is that of kernel.trace_record. Only calls
that concern memory stop the command. What it touches is sampled where the kernel lets us: with CAP_PERFMON every page
fault, else those outside of system calls, or none (vm.perf_event_paranoid above 2); the record's last line says which.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from elfolio import _native
from elfolio.kernel.trace_record import VERSION

__all__ = ["RecordError", "Recorded", "record"]


class RecordError(OSError):
    """It was not run. `step` is the system call that failed: `execve` for the command's own fault."""

    def __init__(self, number: int, step: str, path: str) -> None:
        super().__init__(number, os.strerror(number), path)
        self.step = step


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run that has ended."""

    returncode: int
    """Negative for a signal."""
    write_error: int
    """errno where the record could not be written to its end, else 0."""


def record(
    path: str,
    argv: Sequence[str | bytes],
    out: int,
    environment: Mapping[str, str] | None = None,
    *,
    faults: bool = True,
) -> Recorded:
    """Runs the program at `path` to its end, and whatever it started to theirs; the record goes to `out`, a descriptor.
    Its streams, directory and signals are this process's; a set-id bit has no effect on it. Raises RecordError."""
    _head(out, argv)
    words = [os.fsencode(word) for word in argv]
    pairs = os.environb if environment is None else {os.fsencode(k): os.fsencode(v) for k, v in environment.items()}
    variables = [name + b"=" + value for name, value in pairs.items()]
    status, error, step, write_error = _native.record(os.fsencode(path), words, variables, out, faults)
    if error:
        raise RecordError(error, step or "", path)
    return Recorded(os.waitstatus_to_exitcode(status), write_error)


def _head(out: int, argv: Sequence[str | bytes]) -> None:
    first = {
        "elfolio": "record",
        "version": VERSION,
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "page": os.sysconf("SC_PAGE_SIZE"),
        "argv": [os.fsdecode(word) for word in argv],
    }
    data = json.dumps(first, separators=(",", ":")).encode() + b"\n"
    while data:
        data = data[os.write(out, data) :]
