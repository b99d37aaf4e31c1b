"""spawn.capture: a command from start to end. In: a template, argv, keywords. Out: Completed.

Feeding, draining and waiting are one wait, on one epoll descriptor, in C (native/capture.c). With
`output_limit` memory stays bounded however much comes: head and tail are kept, the rest is drained and
counted, or spilled to a file. The deadline holds whoever keeps the pipes; then the whole tree is killed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from elfolio import _native
from elfolio.errors import InvalidArgument
from elfolio.spawn.child import Child, deadline_after
from elfolio.spawn.options import Options, SpawnKeywords, StrPath
from elfolio.spawn.streams import PIPE, Streams, StreamTarget

if TYPE_CHECKING:
    import resource
    import subprocess

    from elfolio.spawn.template import Arguments, SpawnTemplate

__all__ = ["Capturing", "Completed", "RunKeywords"]

ALL = _native.CAPTURE_OPEN | _native.CAPTURE_ALIVE | _native.CAPTURE_INPUT
OUTPUTS = _native.CAPTURE_OPEN | _native.CAPTURE_ALIVE
GRACE = 0.5
"""Seconds that a killed tree gets to let go of its pipes before they are given up."""
_NO_LIMIT = -1


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


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended.

    `stdout` and `stderr` are bytes, or str with `text`; None where not captured. Where `dropped` says that
    bytes are missing, a line in their place says how many. `spilled` holds, for a stream that exceeded the
    limit with `spill_dir`, an unnamed file with all of it, open at its start.
    """

    args: list[str | bytes]
    returncode: int
    stdout: bytes | str | None
    stderr: bytes | str | None
    pid: int
    rusage: "resource.struct_rusage | None"
    temperature: str
    seconds: float
    """From before the start to after the end."""
    dropped: tuple[int, int] = (0, 0)
    """Bytes of stdout and of stderr that are not in memory."""
    spilled: tuple[IO[bytes] | None, IO[bytes] | None] = (None, None)
    spill_errors: tuple[int, int] = (0, 0)
    """errno of a write to the spill file that failed, which then ends there; else 0."""

    def check_returncode(self) -> None:
        """Raises subprocess.CalledProcessError unless the command ended with 0."""
        if self.returncode:
            from subprocess import CalledProcessError

            raise CalledProcessError(self.returncode, self.args, self.stdout, self.stderr)


class Capturing:
    """One `run`: `input` is written to the child's standard input, and ends it.

    `capture_output` (the default) captures what of stdout and stderr is not led elsewhere by keyword. `text`,
    `encoding`, `errors` decode as in subprocess, newlines included. `timeout` in seconds; when it has passed the
    tree is killed and subprocess.TimeoutExpired carries what came until then. `check` raises
    subprocess.CalledProcessError. `output_limit`: bytes kept of each stream, half from its start and half from
    its end. `spill_dir`: a directory for an unnamed file, beyond the limit.
    """

    def __init__(self, template: "SpawnTemplate", argv: "Arguments", keywords: RunKeywords) -> None:
        rest = dict(keywords)
        take: Callable[..., object] = rest.pop
        self.input = take("input", None)
        self.encoding, self.errors = take("encoding", None), take("errors", None)
        self.text = bool(take("text", False) or self.encoding or self.errors)
        self.timeout: float | None = take("timeout", None)  # type: ignore[assignment]
        self.check = take("check", False)
        self.limit = self._checked_limit(take("output_limit", None))
        self._spill_dir = take("spill_dir", None)
        if self._spill_dir is not None and self.limit == _NO_LIMIT:
            raise InvalidArgument("spill_dir goes with output_limit")
        self._streams = self._targets(rest)
        self._template = template
        self._argv = argv
        self._options = Options(**rest)  # type: ignore[arg-type]
        self._files: tuple[IO[bytes] | None, IO[bytes] | None] = (None, None)
        self._captured = (False, False)
        self._pipes: tuple[int, int] = (-1, -1)
        self._start_ns = 0
        self.child: Child
        self.pipes: _native.Capture

    @staticmethod
    def _checked_limit(limit: object) -> int:
        if limit is None:
            return _NO_LIMIT
        if not isinstance(limit, int) or limit < 0:
            raise InvalidArgument(f"output_limit must be a number of bytes, not {limit!r}")
        return limit

    def _targets(self, rest: dict[str, object]) -> tuple[StreamTarget, StreamTarget, StreamTarget]:
        default = PIPE if rest.pop("capture_output", True) else None
        stdin, out, err = rest.pop("stdin", None), rest.pop("stdout", None), rest.pop("stderr", None)
        if self.input is not None:
            if stdin is not None:
                raise InvalidArgument("stdin and input exclude each other")
            stdin = PIPE
        elif isinstance(stdin, int) and stdin == PIPE:
            stdin, self.input = PIPE, b""
        return stdin, default if out is None else out, default if err is None else err  # type: ignore[return-value]

    def start(self) -> None:
        """Spawns the child and takes hold of its pipes."""
        self._start_ns = time.monotonic_ns()
        streams = Streams(*self._streams)
        try:
            self._files = self._spill_files(streams)
            self.child = self._template.launch(self._argv, self._options, streams.child)
        except BaseException:
            streams.close()
            self._close_files()
            raise
        streams.spawned()
        self._captured = (streams.ours[1] >= 0, streams.ours[2] >= 0)
        self._pipes = (streams.ours[1], streams.ours[2])
        try:
            self.pipes = _native.Capture(
                self.child.pidfd,
                streams.ours[0],
                self._encoded_input(),
                streams.ours[1],
                streams.ours[2],
                self.limit,
                *(-1 if file is None else file.fileno() for file in self._files),
            )
        except BaseException:
            streams.close()
            self.abandon()
            raise

    def _encoded_input(self) -> bytes | bytearray | memoryview | None:
        data = self.input
        if isinstance(data, str):
            return data.encode(self._codec(), str(self.errors or "strict"))
        return data  # type: ignore[return-value]

    def _codec(self) -> str:
        if self.encoding:
            return str(self.encoding)
        import locale

        return locale.getencoding()

    def _spill_files(self, streams: Streams) -> tuple[IO[bytes] | None, IO[bytes] | None]:
        if self._spill_dir is None:
            return None, None
        from tempfile import TemporaryFile

        def file(which: int) -> IO[bytes] | None:
            return TemporaryFile(dir=self._spill_dir) if streams.ours[which] >= 0 else None  # type: ignore[call-overload,no-any-return]

        return file(1), file(2)

    def _close_files(self) -> None:
        for file in self._files:
            if file is not None:
                file.close()

    @property
    def deadline(self) -> int:
        """When the timeout has passed, CLOCK_MONOTONIC nanoseconds; -1 for never."""
        return -1 if self.timeout is None else max(1, self._start_ns + int(self.timeout * 1e9))

    def remaining(self) -> float | None:
        """Seconds until then; None for ever."""
        return None if self.timeout is None else (self.deadline - time.monotonic_ns()) / 1e9

    def run(self) -> Completed:
        """The whole, blocking."""
        self.start()
        try:
            if self.pipes.run(self.deadline, ALL) & ALL:
                self.kill()
                self.pipes.run(deadline_after(GRACE), OUTPUTS)
                raise self.expired()
            self.child.wait()
        except BaseException:
            self.abandon()
            raise
        return self.completed()

    def kill(self) -> None:
        """Kills the tree."""
        self.child.kill_tree(self._pipes)

    def abandon(self) -> None:
        """After an error: kills what still runs, lets go of the pipes, reaps."""
        child = self.child
        if child.returncode is None and child.poll() is None:
            self.kill()
            _native.await_end(child.pidfd, deadline_after(GRACE))
            child.poll()
        if hasattr(self, "pipes"):
            self.pipes.close()
        self._close_files()

    def expired(self) -> "subprocess.TimeoutExpired":
        """The error of a deadline that has passed, with what came until then."""
        from subprocess import TimeoutExpired

        out, err = self._output(0)[0], self._output(1)[0]
        return TimeoutExpired(self._argv, self.timeout or 0.0, out, err)  # type: ignore[arg-type]

    def completed(self) -> Completed:
        """The result; the child has been reaped."""
        self.pipes.close()
        outputs = self._output(0), self._output(1)
        for file, spilled in zip(self._files, outputs, strict=True):
            if file is not None:
                file.seek(0) if spilled[1] else file.close()
        done = Completed(
            args=self.child.args,
            returncode=self.child.returncode or 0,
            stdout=outputs[0][0],
            stderr=outputs[1][0],
            pid=self.child.pid,
            rusage=self.child.rusage,
            temperature=self.child.temperature,
            seconds=(time.monotonic_ns() - self._start_ns) / 1e9,
            dropped=(outputs[0][1], outputs[1][1]),
            spilled=tuple(f if o[1] else None for f, o in zip(self._files, outputs, strict=True)),  # type: ignore[arg-type]
            spill_errors=(outputs[0][2], outputs[1][2]),
        )
        if self.check:
            done.check_returncode()
        return done

    def _output(self, which: int) -> tuple[bytes | str | None, int, int]:
        """What is there of a stream, how many bytes are not, and the spill file's errno."""
        if not self._captured[which]:
            return None, 0, 0
        head, tail, _, dropped, error = self.pipes.output(which)
        notice = b"\n[... %d bytes dropped ...]\n" % dropped if dropped else b""
        if not self.text:
            return head + notice + tail if tail or notice else head, dropped, error
        # A cut may go through the middle of a character.
        errors = str(self.errors or ("replace" if dropped else "strict"))
        codec = self._codec()
        text = (head + tail).decode(codec, errors) if not dropped else (
            head.decode(codec, errors) + notice.decode() + tail.decode(codec, errors)
        )  # fmt: skip
        return text.replace("\r\n", "\n").replace("\r", "\n"), dropped, error


