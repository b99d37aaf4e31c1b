"""kernel.trace_strace: logs of strace. In: lines of `strace -f`, plain. Out: events; problems go to the Log.

All of strace's columns are understood (pid, `[pid N]`, -Y, -t, -tt, -ttt, -r, -i, -n, -T, -y, -yy), calls cut in two by
another thread (`<unfinished ...>`, `<... resumed>`), signals and ends. Only calls that concern memory are read whole.
"""

import re
from collections.abc import Iterable, Iterator

from elfolio.kernel.adopting import known_file
from elfolio.kernel.space import OpenFile
from elfolio.kernel.trace import FORKS, Call, Ended, Event, Log, Unreadable
from elfolio.kernel.trace_shapes import DESCRIPTORS, NEW_CALLS, SHAPES
from elfolio.kernel.trace_words import read_call, split_words

__all__ = ["looks_like_strace", "read_strace"]

_LINE = re.compile(
    r"(?:\[pid +(?P<bracket>\d{1,10})(?:<[^>]*>)?\] +|(?P<pid>\d{1,10})(?:<[^>]*>)? +)?"
    r"(?: *(?:\d+:\d\d:\d\d(?:\.\d+)?|\d+\.\d+) )?"
    r"(?:\[ *\d{1,3}\] )?(?:\[(?:[0-9a-f]{8,16}|\?+)\] )?"
    r"(?:(?P<name>[a-z_?][a-z0-9_?]*)\(|<\.\.\. (?P<resumed>[a-z0-9_?]+) resumed>|(?P<end>\+\+\+) |(?P<signal>---) )"
)
_TAIL = re.compile(
    r"([^()\"{}\[\]<>]*?)(?:<(/[^<>\\\"]*)>(, (?:0x[0-9a-f]+|0)))?\) += "
    r"(0x[0-9a-f]{1,16}|[1-9]\d{0,18}|0)(?: <\d+\.\d+>)?$"
)
"""What follows the name of a successful call whose arguments are plain, or of a mapping whose file -y names; all others
go the long way."""
_UNFINISHED = " <unfinished ...>"
_ATTACHED = re.compile(r"strace: Process (\d{1,10})(?:<[^>]*>)? (?:attached|detached)(?: with (\d{1,7}) threads)?$")
_UNKNOWN = re.compile(r"syscall_(0x[0-9a-f]{1,8}|\d{1,8})$")
_EXECS = frozenset({"execve", "execveat"})
_EXITS = frozenset({"exit", "exit_group"})
_OTHERS = frozenset({"prctl", "ioctl"}) | FORKS | DESCRIPTORS | _EXECS
_CHANGING = SHAPES.keys() | FORKS | _EXECS
"""Calls whose result is missed where the log does not have it."""
_THREAD = 0x100 | 0x400 | 0x10000
"""CLONE_VM, CLONE_FILES, CLONE_THREAD."""

_CUT = re.compile(r"(?:exited with|killed by|superseded by execve in pid (\d{1,10}))")
_STRAY = (" > ", "strace: ", " + ", " ? ")
"""Beginnings of what strace says beside the calls: stacks of -k, its own messages."""
_SUMMARY = re.compile(r"% time  |-{6} -{4}| *\d+\.\d\d +\d+\.\d+ +\d")
"""The table of -C, behind all calls."""


def looks_like_strace(line: str) -> bool:
    """Whether a line is one of strace's."""
    return _LINE.match(line) is not None or _ATTACHED.search(line) is not None


def read_strace(lines: Iterable[str], log: Log) -> Iterator[Event]:
    """The events of a log, each at the line where the call returned."""
    reader = _Reader(log)
    for line in lines:
        log.lines += 1
        text = reader.mended(line.rstrip("\r\n"))
        found = _LINE.match(text)
        if found is None:
            reader.other(text)
            continue
        pid, name = found["pid"] or found["bracket"], found["name"]
        if name is None:
            yield from reader.rest(found, text)
        elif name in SHAPES:
            yield from reader.memory(pid, name, text, found.end())
        elif name == "mmap2":  # of 32-bit machines; strace shows its offset in bytes too
            yield from reader.memory(pid, "mmap", text, found.end())
        elif name in _EXITS:
            yield from reader.exits(pid)
        elif name in _OTHERS or name.startswith("syscall_"):
            yield from reader.call(pid, name, text, found.end())
    reader.finish()


class _Reader:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._unfinished: dict[int, tuple[str, str, int]] = {}
        """By thread: the call's name, its line up to where it was cut, and that line's number."""
        self._alive: set[int] = set()
        self._waiting: dict[int, list[Event]] = {}
        """Events of threads that nobody is known to have made yet: two unfinished forks could each be theirs."""
        self._made: set[int] = set()
        """Threads whose making has been told before their maker's call was resumed."""
        self._sole = 0
        self._broken = ""
        self._attached: set[int] = set()
        self._alias: dict[int, int] = {}
        self._leader, self._threads = 0, 0
        """A process to which strace attached, and how many of its threads have not shown themselves."""
        self._exited: set[int] = set()
        """Threads that were seen to exit; that they are gone may follow, or not (-qq)."""

    # --- lines ------------------------------------------------------------------------------------

    def mended(self, text: str) -> str:
        """On a terminal strace's own message may stand inside of a line, whose rest is the next one."""
        if self._broken:
            text, self._broken = self._broken + text, ""
        if text.endswith(("ed", " threads")):
            message = _ATTACHED.search(text)
            if message is not None:
                self._broken, text = text[: message.start()], ""
                self._attached.add(int(message[1]))
                if message[2] is not None:
                    self._leader, self._threads = int(message[1]), int(message[2]) - 1
        return text

    def memory(self, pid: str | None, name: str, text: str, at: int) -> Iterator[Event]:
        """A call that only has plain arguments, most of the time."""
        thread = self._thread(pid)
        tail = _TAIL.match(text, at)
        if tail is None:
            yield from self._long(thread, name, text, at)
            return
        try:
            args = split_words(tail[1] + (tail[3] or ""), SHAPES[name], at)
        except Unreadable as error:
            self._log.note(self._log.lines, error.column, f"{name}: {error.what}")
            return
        file = known_file(OpenFile(tail[2])) if tail[2] else None
        call = Call(thread, name, args, int(tail[4], 0), 0, self._log.lines, file)
        if thread in self._alive and not self._waiting and thread not in self._unfinished:
            yield call
        else:
            self._lost(thread)
            yield from self._told(call)

    def exits(self, pid: str | None) -> Iterator[Event]:
        """A thread on its way out."""
        thread = self._thread(pid)
        if thread in self._alive:
            yield Ended(thread, self._log.lines)
            self._alive.discard(thread)
            self._exited.add(thread)

    def call(self, pid: str | None, name: str, text: str, at: int) -> Iterator[Event]:
        """Any other."""
        if name == "ioctl" and "UFFDIO_" not in text and not text.endswith(_UNFINISHED):
            return
        yield from self._long(self._thread(pid), name, text, at)

    def rest(self, found: re.Match[str], text: str) -> Iterator[Event]:
        """A resumed call, an end, a signal."""
        pid = found["pid"] or found["bracket"]
        thread = self._thread(pid)
        if found["resumed"]:
            yield from self._resumed(thread, found["resumed"], text, found)
        elif found["end"]:
            yield from self._ended(thread, text, found.end())

    def other(self, text: str) -> None:
        """A line that is no event of a thread."""
        if text.strip() and not text.startswith(_STRAY) and not _SUMMARY.match(text):
            self._log.note(self._log.lines, 0, "no line of strace")

    def finish(self) -> None:
        """What is still held back has no maker in this trace; what is unfinished has no result."""
        for thread in self._waiting:
            self._log.note(self._log.lines, 0, f"process {thread}: it is not seen who made it")
        for thread in list(self._unfinished):
            self._lost(thread)

    def _lost(self, thread: int) -> None:
        """Another call begins, or the log ends: what was unfinished will never be resumed."""
        name, text, line = self._unfinished.pop(thread, ("", "", 0))
        if name in _CHANGING:
            self._log.note(line, text.index(f"{name}("), f"{name}: begun, and never resumed")

    # --- threads ----------------------------------------------------------------------------------

    def _thread(self, pid: str | None) -> int:
        """On a terminal strace names no thread while there is only one: the first has no number until there are more,
        and is then the one that was not attached."""
        if pid is None:
            return next(iter(self._alive)) if len(self._alive) == 1 else self._sole
        number = int(pid)
        if self._attached and number not in self._attached and number not in self._alive and 0 in self._alive:
            self._alias[number] = 0
        return self._alias.get(number, number)

    def _told(self, event: Event) -> Iterator[Event]:
        """The event, after what makes its thread known."""
        thread = event.pid
        if thread not in self._alive and thread not in self._waiting:
            yield from self._appears(thread)
        if thread in self._waiting:
            self._waiting[thread].append(event)
        else:
            yield event

    def _appears(self, thread: int) -> Iterator[Event]:
        makers = [pid for pid, (name, _, _) in self._unfinished.items() if name in FORKS and pid != thread]
        self._exited.discard(thread)
        if self._threads and not makers and thread != self._leader:
            self._threads -= 1
            self._alive |= {thread, self._leader}
            yield Call(self._leader, "clone", (_THREAD,), thread, 0, self._log.lines)
            return
        if not self._alive:
            self._sole = thread
        if len(makers) > 1:
            self._waiting[thread] = []
            return
        self._alive.add(thread)
        if makers:
            yield from self._early(makers[0], thread)

    def _early(self, maker: int, made: int) -> Iterator[Event]:
        """A fork that its child shows to have happened, before it is resumed."""
        name, text, line = self._unfinished[maker]
        try:
            args = read_call(name, text + ") = 0", text.index(f"{name}(") + len(name) + 1).args
        except Unreadable as error:
            self._log.note(line, error.column, f"{name}: {error.what}")
            return
        self._made.add(made)
        yield Call(maker, name, args, made, 0, line)

    def _forked(self, call: Call) -> Iterator[Event]:
        made = call.result or 0
        self._exited.discard(made)
        if made in self._made:
            self._made.discard(made)
            return
        yield call
        self._alive.add(made)
        yield from self._waiting.pop(made, ())

    def _ended(self, thread: int, text: str, at: int) -> Iterator[Event]:
        found = _CUT.match(text, at)
        if found is None:
            self._log.note(self._log.lines, at, "neither an exit nor a signal")
            return
        cut = self._unfinished.pop(thread, None)
        if found[1]:
            yield from self._superseded(thread, int(found[1]))
            return
        if thread in self._exited:
            self._exited.discard(thread)
            return
        if cut is not None and cut[0] in SHAPES:
            yield from self._told(Call(thread, cut[0], (), None, 0, self._log.lines))
        yield from self._told(Ended(thread, self._log.lines))
        self._alive.discard(thread)

    def _superseded(self, first: int, thread: int) -> Iterator[Event]:
        """A thread that executes takes the number of its process's first; that one's memory is its own."""
        begun = self._unfinished.pop(thread, None)
        if begun is not None:
            self._unfinished[first] = begun
        yield from self._told(Ended(thread, self._log.lines))
        self._alive.discard(thread)

    # --- calls ------------------------------------------------------------------------------------

    def _resumed(self, thread: int, name: str, text: str, found: re.Match[str]) -> Iterator[Event]:
        cut = self._unfinished.pop(thread, None)
        if cut is None:
            if name in _CHANGING:
                self._log.note(self._log.lines, found.start("resumed"), f"{name}: resumed, and never begun")
            return
        if cut[0] != name:
            self._log.note(self._log.lines, found.start("resumed"), f"{name}: resumed, and {cut[0]} was begun")
            return
        whole = cut[1] + text[found.end() :]
        yield from self._long(thread, name, whole, whole.index(f"{name}(") + len(name) + 1)

    def _long(self, thread: int, name: str, text: str, at: int) -> Iterator[Event]:
        self._lost(thread)
        if text.endswith(_UNFINISHED):
            self._unfinished[thread] = (name, text.removesuffix(_UNFINISHED), self._log.lines)
            if thread not in self._alive and thread not in self._waiting:
                yield from self._appears(thread)
            return
        known = _named(name)
        if known is None:
            return
        try:
            read = read_call(known, text, at, by_number=known != name)
        except Unreadable as error:
            self._log.note(self._log.lines, error.column, f"{name}: {error.what}")
            return
        if read.name:
            call = Call(thread, read.name, read.args, read.result, read.errno, self._log.lines, read.file)
            if known in FORKS and call.result and not call.errno:
                for event in self._told(call):
                    yield from self._forked(call) if event is call else (event,)
            else:
                yield from self._told(call)


def _named(name: str) -> str | None:
    """The name of a call that an older strace knows by number only; None for one that is of no interest."""
    unknown = _UNKNOWN.match(name)
    return NEW_CALLS.get(int(unknown[1], 0)) if unknown else name
