"""spawn.capture: a command from start to end. In: a template, argv, keywords. Out: Completed.

Feeding, draining and waiting are one wait, in C (native/capture.c). With
`output_limit` memory stays bounded however much comes: head and tail are kept, the rest is drained and
counted, or spilled to a file. The deadline holds whoever keeps the pipes; then the whole tree is killed.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Generic, NamedTuple, TypeVar

from elfolio import _native
from elfolio.errors import InvalidArgument
from elfolio.spawn.child import FOREVER, Child, deadline_after
from elfolio.spawn.options import NO_OPTIONS, Options, SpawnKeywords, StrPath
from elfolio.spawn.streams import PIPE, Streams, StreamTarget

if TYPE_CHECKING:
    import resource
    import subprocess

    from elfolio.spawn.template import Arguments, SpawnTemplate

__all__ = ["Capturing", "Completed", "RunKeywords", "Running"]

ALL = _native.CAPTURE_OPEN | _native.CAPTURE_ALIVE | _native.CAPTURE_INPUT
OUTPUTS = _native.CAPTURE_OPEN | _native.CAPTURE_ALIVE
GRACE = 0.5
"""Seconds that a killed tree gets to let go of its pipes before they are given up."""
_NO_LIMIT = -1
_PAST = 1
"""A deadline that has passed: ask, do not wait."""


class RunKeywords(SpawnKeywords, total=False):
    """What `run` and `arun` take by keyword, beside those of `spawn`; `Capturing` says what each one does."""

    input: bytes | bytearray | memoryview | str | None
    stdin: StreamTarget
    stdout: StreamTarget
    stderr: StreamTarget
    capture_output: bool
    text: bool
    encoding: str | None
    errors: str | None
    timeout: float | None
    check: bool
    output_limit: int | None
    spill_dir: StrPath | None


class Said(NamedTuple):
    """What came of the outputs; `Completed` says what each one is."""

    stdout: bytes | str | None
    stderr: bytes | str | None
    seconds: float
    dropped: tuple[int, int]
    spilled: tuple[IO[bytes] | None, IO[bytes] | None]
    spill_errors: tuple[int, int]


class Completed(NamedTuple):
    """A command that has ended.

    `stdout` and `stderr` are bytes, or str with `text`; None where not captured. Where `dropped` says that
    bytes are missing, a line in their place says how many.
    """

    args: list[str | bytes]
    returncode: int
    stdout: bytes | str | None
    stderr: bytes | str | None
    pid: int
    temperature: str
    seconds: float
    """From before the start to after the end."""
    dropped: tuple[int, int]
    """Bytes of stdout and of stderr that are not in memory."""
    spilled: tuple[IO[bytes] | None, IO[bytes] | None]
    """For a stream that exceeded the limit, with `spill_dir`: an unnamed file with all of it, at its start."""
    spill_errors: tuple[int, int]
    """errno of a write to the spill file that failed, which then ends there; else 0."""
    usage: "_native.Usage | None"

    @property
    def rusage(self) -> "resource.struct_rusage | None":
        """Resource use, as of getrusage(2); None where somebody else reaped the child."""
        if self.usage is None:
            return None
        import resource

        return resource.struct_rusage(self.usage)

    def check_returncode(self) -> None:
        """Raises subprocess.CalledProcessError unless the command ended with 0."""
        if self.returncode:
            from subprocess import CalledProcessError

            raise CalledProcessError(self.returncode, self.args, self.stdout, self.stderr)


_Result = TypeVar("_Result")


class Running(Generic[_Result]):
    """Something that is started, fed, drained and waited for, as its keywords ask: `input` is written to its standard
    input, and ends it.

    `capture_output` (the default) captures what of stdout and stderr is not led elsewhere by keyword. `text`,
    `encoding`, `errors` decode as in subprocess, newlines included. `timeout` in seconds; when it has passed the
    tree is killed and subprocess.TimeoutExpired carries what came until then. `check` raises
    subprocess.CalledProcessError. `output_limit`: bytes kept of each stream, half from its start and half from
    its end. `spill_dir`: a directory for an unnamed file, beyond the limit.
    """

    # Keywords that are given overlay these; see Options.
    input: bytes | bytearray | memoryview | str | None = None
    stdin: StreamTarget = None
    stdout: StreamTarget = None
    stderr: StreamTarget = None
    capture_output = True
    text = False
    encoding: str | None = None
    errors: str | None = None
    timeout: float | None = None
    check = False
    output_limit: int | None = None
    spill_dir: StrPath | None = None

    started: list[Child]
    """In their order. `move` sees the end of the last one."""
    pipes: _native.Capture | None = None
    _files: tuple[IO[bytes] | None, IO[bytes] | None] = (None, None)
    _ends: tuple[int, int] = (-1, -1)

    def __init__(self, keywords: RunKeywords) -> None:
        self.started = []
        options: dict[str, object] = {}
        for name, value in keywords.items():
            (self.__dict__ if name in _KEYWORDS else options)[name] = value
        self._options = Options(**options) if options else NO_OPTIONS  # type: ignore[arg-type]
        if keywords:
            self._check()

    def _check(self) -> None:
        if self.output_limit is not None and not 0 <= self.output_limit < 1 << 63:
            raise InvalidArgument(f"output_limit must be a number of bytes, not {self.output_limit}")
        if self.spill_dir is not None and self.output_limit is None:
            raise InvalidArgument("spill_dir goes with output_limit")
        if self.input is not None:
            if self.stdin is not None:
                raise InvalidArgument("stdin and input exclude each other")
            self.stdin = PIPE
        self.text = bool(self.text or self.encoding or self.errors)

    def _streams(self) -> Streams:
        default = PIPE if self.capture_output else None
        return Streams(
            self.stdin,
            default if self.stdout is None else self.stdout,
            default if self.stderr is None else self.stderr,
        )

    def command(self) -> "Sequence[object]":
        """What errors call it."""
        raise NotImplementedError

    def launch(self, streams: Streams) -> None:
        """Starts it on the child's side of `streams`, and adds every child to `started`."""
        raise NotImplementedError

    def completed(self) -> _Result:
        """The result; everything has been reaped."""
        raise NotImplementedError

    def start(self) -> None:
        """Spawns, and takes hold of the pipes. After an error `abandon` is the caller's to call."""
        self._start_ns = time.monotonic_ns()
        self.deadline = deadline_after(self.timeout)
        data = self._encoded_input()
        streams = self._streams()
        try:
            if self.spill_dir is not None:
                self._files = self._spill_files(streams)
            self.launch(streams)
            streams.spawned()
            self._ends = streams.ours[1], streams.ours[2]
            limit = _NO_LIMIT if self.output_limit is None else self.output_limit
            out, err = self._files
            self.pipes = _native.Capture(
                self.started[-1].pidfd,
                streams.ours,
                data,
                limit,
                -1 if out is None else out.fileno(),
                -1 if err is None else err.fileno(),
            )
        except BaseException:
            streams.close()
            raise

    def _encoded_input(self) -> bytes | bytearray | memoryview | None:
        data = self.input
        if isinstance(data, str):
            return data.encode(self._codec(), self.errors or "strict")
        return data

    def _codec(self) -> str:
        if self.encoding:
            return self.encoding
        import locale

        return locale.getencoding()

    def _spill_files(self, streams: Streams) -> tuple[IO[bytes] | None, IO[bytes] | None]:
        from tempfile import TemporaryFile

        def file(which: int) -> IO[bytes] | None:
            return TemporaryFile(dir=self.spill_dir) if streams.ours[which] >= 0 else None

        return file(1), file(2)

    def _close_files(self) -> None:
        for file in self._files:
            if file is not None:
                file.close()

    def remaining(self) -> float | None:
        """Seconds until then; None for ever."""
        return None if self.deadline == FOREVER else (self.deadline - time.monotonic_ns()) / 1e9

    def run(self) -> _Result:
        """The whole, blocking."""
        try:
            self.start()
            if self.move(self.deadline, ALL) or not self._others_ended():
                self.kill()
                self.move(deadline_after(GRACE), OUTPUTS)
                raise self.expired()
            self.reap()
        except BaseException:
            self.abandon()
            raise
        return self.completed()

    def _others_ended(self) -> bool:
        return all(_native.await_end(child.pidfd, self.deadline) for child in self.started[:-1])

    def move(self, deadline: int, until: int) -> bool:
        """Moves what comes; whether anything of `until` was left at the deadline."""
        return self.pipes is not None and bool(self.pipes.run(deadline, until) & until)

    def fileno(self) -> int:
        """The descriptor that is readable whenever `move` has something to do."""
        return -1 if self.pipes is None else self.pipes.fileno()

    def reap(self) -> None:
        """Takes the status of what has ended."""
        for child in self.started:
            child.wait()

    def running(self) -> bool:
        """Whether there is somebody left to kill. Nobody is reaped: what else belongs to an ended one's tree is
        known by the number that it still has."""
        return not all(_native.await_end(child.pidfd, _PAST) for child in self._unreaped())

    def _unreaped(self) -> list[Child]:
        return [child for child in self.started if child.pidfd >= 0]

    def kill(self) -> None:
        """Kills the tree."""
        # Not by the numbers of the start: one whose pipe has ended may be another thread's pipe by now, and
        # those that write to it strangers.
        self.started[-1].kill_tree(() if self.pipes is None else self.pipes.ends())

    def abandon(self) -> None:
        """After an error: kills what still runs, lets go of the pipes, reaps."""
        if self.running():
            self.kill()
        end = deadline_after(GRACE)
        for child in self._unreaped():
            _native.await_end(child.pidfd, end)
            with suppress(ChildProcessError):  # somebody else reaped it: there is another error to tell of
                child.poll()
        if self.pipes is not None:
            self.pipes.close()
        self._close_files()

    def expired(self) -> "subprocess.TimeoutExpired":
        """The error of a deadline that has passed, with what came until then."""
        from subprocess import TimeoutExpired

        out, err = self._output(0)[0], self._output(1)[0]
        return TimeoutExpired(self.command(), self.timeout or 0.0, out, err)  # type: ignore[arg-type]

    def said(self) -> Said:
        """What there is to tell of the outputs; the pipes are closed."""
        out, out_dropped, out_error = self._output(0)
        err, err_dropped, err_error = self._output(1)
        if self.pipes is not None:
            self.pipes.close()
        return Said(
            out,
            err,
            (time.monotonic_ns() - self._start_ns) / 1e9,
            (out_dropped, err_dropped),
            self._kept_files((out_dropped, err_dropped)) if self.spill_dir is not None else (None, None),
            (out_error, err_error),
        )

    def _kept_files(self, dropped: tuple[int, int]) -> tuple[IO[bytes] | None, IO[bytes] | None]:
        for file, missing in zip(self._files, dropped, strict=True):
            if file is not None:
                file.seek(0) if missing else file.close()
        return self._files[0] if dropped[0] else None, self._files[1] if dropped[1] else None

    def _output(self, which: int) -> tuple[bytes | str | None, int, int]:
        """What is there of a stream, how many bytes are not, and the spill file's errno."""
        if self.pipes is None or self._ends[which] < 0:
            return None, 0, 0
        head, tail, _, dropped, error = self.pipes.output(which)
        if not dropped:
            whole = head + tail if tail else head
            return self._decoded(whole, self.errors or "strict") if self.text else whole, 0, error
        notice = b"\n[... %d bytes dropped ...]\n" % dropped
        if not self.text:
            return head + notice + tail, dropped, error
        # The cuts may go through the middle of a character.
        errors = self.errors or "replace"
        text = self._decoded(head, errors) + notice.decode() + self._decoded(tail, errors)
        return text, dropped, error

    def _decoded(self, data: bytes, errors: str) -> str:
        return data.decode(self._codec(), errors).replace("\r\n", "\n").replace("\r", "\n")


class Capturing(Running[Completed]):
    """One `run` of one template."""

    def __init__(self, template: "SpawnTemplate", argv: "Arguments", keywords: RunKeywords) -> None:
        super().__init__(keywords)
        self._template = template
        self._argv = argv

    def command(self) -> "Sequence[object]":
        return list(self._argv)

    def launch(self, streams: Streams) -> None:
        self.started.append(self._template.launch(self._argv, self._options, streams.child))

    def completed(self) -> Completed:
        child, said = self.started[0], self.said()
        done = Completed(
            child.args,
            child.returncode or 0,
            said.stdout,
            said.stderr,
            child.pid,
            child.temperature,
            said.seconds,
            said.dropped,
            said.spilled,
            said.spill_errors,
            child.usage,
        )
        if self.check:
            done.check_returncode()
        return done


_KEYWORDS = RunKeywords.__annotations__.keys() - SpawnKeywords.__annotations__.keys()
