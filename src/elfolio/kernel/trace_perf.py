"""kernel.trace_perf: what perf trace prints. In: its lines. Out: events; problems go to the Log.

perf writes arguments by name, and leaves out those that are zero. It shows an event once its call is over, and one that
was interrupted by another thread's as `[continued]`. It says nothing of threads that end, nor what a clone3 makes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from elfolio.kernel.adopting import known_file
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.space import OpenFile
from elfolio.kernel.trace import FORKS, Call, Ended, Event, Log
from elfolio.kernel.trace_shapes import ERRNOS, SHAPES, number_of

__all__ = ["looks_like_perf", "read_perf"]

_LINE = re.compile(
    r" *(?:\?|\d+\.\d+) \( *(?:\d+\.\d+ ms|\?)? *\): (?:.*?/(?P<pid>\d{1,10}) )?"
    r"(?P<continued> *\.\.\. \[continued\]: )?(?P<name>[a-z_0-9]+)\("
)
_TAIL = re.compile(
    r"(.*?)\)\)? +(?P<cut>\.\.\.$|= (?P<result>0x[0-9a-f]{1,16}|-?[1-9]\d{0,18}|0|\?|$)(?: (?P<errno>E[A-Z0-9]+))?)"
)
_FAULT = re.compile(r" *\d+\.\d+ \( *\d+\.\d+ ms\): .*?/\d{1,10} (?:min|maj)fault \[")
"""Of -F, which names where a fault was by symbol, not by address."""
_BESIDE = re.compile(r" {20,}\S.*\)$|#|\s*$")
"""Stacks of --call-graph, comments."""
_SUMMARY = " Summary of events:"
"""Of -s and -S: no call comes behind it."""
_PAIR = re.compile(r"(\w+): ((?:[^,<(]|<[^>]*>|\([^)]*\))*)(?:, |$)")

_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mmap": ("addr", "len", "prot", "flags", "fd", "off"),
        "munmap": ("addr", "len"),
        "mprotect": ("start", "len", "prot"),
        "pkey_mprotect": ("start", "len", "prot", "pkey"),
        "mremap": ("addr", "old_len", "new_len", "flags", "new_addr"),
        "brk": ("brk",),
        "madvise": ("start", "len_in", "behavior"),
        "mlock": ("start", "len"),
        "mlock2": ("start", "len", "flags"),
        "munlock": ("start", "len"),
        "mlockall": ("flags",),
        "munlockall": (),
        "mseal": ("start", "len", "flags"),
        "shmat": ("shmid", "shmaddr", "shmflg"),
        "shmdt": ("shmaddr",),
    }
)
"""Its name for each argument (the kernel's own, SYSCALL_DEFINE), in order."""
_ENDS = frozenset({"exit", "exit_group"})
_CLONE_VFORK = 0x4000 | 0x100 | 17
_THREAD = 0x100 | 0x400 | 0x10000
"""CLONE_VM, CLONE_FILES, CLONE_THREAD."""
_ANONYMOUS = 0x20


def looks_like_perf(line: str) -> bool:
    """Whether a line is one of perf trace's."""
    return _LINE.match(line) is not None or _FAULT.match(line) is not None


def read_perf(lines: Iterable[str], log: Log) -> Iterator[Event]:
    """The events of a log, in its order: by the time at which each call began, mostly."""
    reader = _Reader(log)
    lines = iter(lines)
    for line in lines:
        log.lines += 1
        text = line.rstrip("\r\n")
        found = _LINE.match(text)
        if found is not None:
            yield from reader.event(found, text)
        elif text.startswith(_SUMMARY):
            break
        elif text.startswith("LOST "):
            log.note(log.lines, 0, "events were lost here")
        elif not _FAULT.match(text) and not _BESIDE.match(text):
            log.note(log.lines, 0, "no line of perf trace")
    log.lines += sum(1 for _ in lines)
    reader.finish()


Pairs = Mapping[str, tuple[str, int]]
"""An argument's name -> its text and column."""


class _Reader:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._begun: dict[tuple[int, str], Pairs] = {}
        """Arguments of calls that were interrupted."""
        self._born: dict[int, list[Event]] = {}
        """Events of threads that were seen to return from their own making, until their maker is seen to."""
        self._made: set[int] = set()

    def event(self, found: re.Match[str], text: str) -> Iterator[Event]:
        thread, name = int(found["pid"] or 0), found["name"]
        if name in _ENDS:
            yield from self._told(Ended(thread, self._log.lines))
        if name not in _NAMES and name not in FORKS and not name.startswith("execve"):
            return
        tail = _TAIL.match(text, found.end())
        if tail is None:
            self._log.note(self._log.lines, found.end(), f"{name}: no result")
            return
        pairs: Pairs = {pair[1]: (pair[2], pair.start(2)) for pair in _PAIR.finditer(text, found.end(), tail.end(1))}
        if tail["cut"] == "...":
            self._begun[thread, name] = pairs
            return
        if found["continued"]:
            pairs = self._begun.pop((thread, name), {})
        if name in FORKS and tail["result"] in ("", "0"):
            if thread not in self._made:
                self._born.setdefault(thread, [])
            return
        args = _arguments(name, pairs, self._log)
        result, errno = _result(tail, self._log)
        if args is None or errno < 0:
            return
        if name == "clone3" and "flags" not in pairs and result and not errno:
            # Its flags lie in memory. glibc makes threads with it, and processes with clone and vfork.
            self._log.assumed_threads += 1
            args = (_THREAD,)
        call = Call(thread, name.removesuffix("at"), args, result, errno, self._log.lines, _file(pairs))
        yield from self._told(call)
        if name in FORKS and result and errno == 0:
            self._made.add(result)
            yield from self._born.pop(result, ())

    def _told(self, event: Event) -> Iterator[Event]:
        if event.pid in self._born:
            self._born[event.pid].append(event)
        else:
            yield event

    def finish(self) -> None:
        """What is still held back has no maker in this trace."""
        for thread in self._born:
            self._log.note(self._log.lines, 0, f"thread {thread}: it is not seen who made it")


def _arguments(name: str, pairs: Pairs, log: Log) -> tuple[int | str, ...] | None:
    if name.startswith("execve"):
        path = pairs.get("filename", ("", 0))[0]
        return (path.strip('"') if path.startswith(('"', "/")) else "",)  # often only where it stands
    if name in ("fork", "vfork"):
        return (17 if name == "fork" else _CLONE_VFORK,)
    if name in FORKS:
        wanted: tuple[tuple[str, str], ...] = (("flags" if "flags" in pairs else "clone_flags", "CLONE"),)
    else:
        wanted = tuple(zip(_NAMES[name], (kind.rstrip("?") for kind in SHAPES[name]), strict=True))
    values: list[int | str] = []
    for key, kind in wanted:
        word, column = pairs.get(key, ("0", 0))
        value = _value(word, kind)
        if value is None:
            log.note(log.lines, column, f"{name}: {word!r} is no {kind}")
            return None
        values.append(value)
    # A descriptor that is not shown is 0 or not asked for; -1 is what programs give then.
    if name == "mmap" and "fd" not in pairs and isinstance(values[3], int) and values[3] & _ANONYMOUS:
        values[4] = -1
    return tuple(values)


def _value(word: str, kind: str) -> int | None:
    try:
        if kind.isupper():
            return number_of(word.strip(), kind)
        return int(re.split(r"[<(]", word.strip(), maxsplit=1)[0], 0)
    except (KeyError, ValueError):
        return None


def _result(tail: re.Match[str], log: Log) -> tuple[int | None, int]:
    if tail["result"] in ("?", ""):
        return None, 0
    value, name = int(tail["result"], 0), tail["errno"]
    if value != -1 or not name:
        return value, 0
    if name not in ERRNOS:
        log.note(log.lines, tail.start("errno"), f"{name!r} is no errno")
        return None, -1
    return -1, ERRNOS[name]


def _file(pairs: Pairs) -> Mappable | None:
    found = re.search(r"[<(](/[^>)]*)[>)]", pairs.get("fd", ("", 0))[0])
    return known_file(OpenFile(found[1])) if found else None
