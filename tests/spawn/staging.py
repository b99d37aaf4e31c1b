"""Spawns carried out twice, on the same ground. In: two templates, scenes. Out: what each came to. Holds no tests.

It changes the whole process (directory, umask, signals, limits, standard streams), so it runs in a host of its own.
"""

import ctypes
import os
import pty
import resource
import signal
import tempfile
import tty
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

import elfolio
from tests.spawn.mirroring import Seen, answer_of, differences, normalised, parse
from tests.spawn.scenes import (
    COLD,
    FAULTS,
    FILES,
    FOLDERS,
    IGNORABLE,
    PIPES,
    STREAMS,
    TERMINAL,
    Drift,
    Scene,
    plain,
    scenes,
)

_CONTENT = b"0123456789" * 10
_SENTINEL = b"<end>"
PR_SET_DUMPABLE = 4
_ABOVE = 100
"""Where the host keeps descriptors of its own, out of the way of the numbers that actions work on."""


@dataclass(frozen=True)
class Outcome:
    """What a spawn came to: an exception, or what the program saw, and what was left on the ground afterwards."""

    error: tuple[str, int | None, str] | None
    status: int | None
    seen: Seen | None
    left: dict[str, Any]
    temperature: str = ""

    def unlike(self, other: "Outcome") -> list[str]:
        """How another differs, a line each."""
        return [
            line
            for name in ("error", "status", "seen", "left")
            for line in differences(getattr(self, name), getattr(other, name), "" if name == "seen" else name)
        ]


class Ground:
    """Files, folders, a terminal and a pipe under fixed numbers, and the host's own state, put back to the same
    before every spawn."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        os.environ.pop("LD_PRELOAD", None)  # a sanitizer's, which is for the host
        self.root = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ground-"))
        os.chmod(self.root, 0o755)
        os.makedirs(f"{self.root}/a/b")
        self.files = {
            fd: f"{self.root}/{name}" for fd, name in zip(FILES, ("x", "y", "a/x", "a/y", "a/b/x"), strict=True)
        }
        self.new = f"{self.root}/new"
        self.inherited = [f"{self.root}/inherited-{number}" for number in range(3)]
        self.output, self.error, self.input = (f"{self.root}/{name}" for name in ("output", "error", "input"))
        self._own: dict[str, int] = {}
        self._open()

    def _open(self) -> None:
        for fd, path in self.files.items():
            self._place(os.open(path, os.O_RDWR | os.O_CREAT), fd, fd % 2 == 0)
        for fd, path in zip(FOLDERS, (self.root, f"{self.root}/a"), strict=True):
            self._place(os.open(path, os.O_RDONLY), fd, False)
        master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(master, True)
        self._place(slave, TERMINAL, False)
        self.master = self._place(master, _ABOVE, False)
        reading, writing = os.pipe()
        for end, fd in zip((reading, writing), PIPES, strict=True):
            self._place(end, fd, True)
        for number, path in enumerate(self.inherited):
            self._stack.callback(os.dup2, self._place(os.dup(number), _ABOVE + 1 + number, False), number)
            self._place(os.open(path, os.O_RDWR | os.O_CREAT), number, True, close=False)
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        for at, (name, path, flags) in enumerate(
            (
                ("stdin", self.input, os.O_RDONLY | os.O_CREAT),
                ("stdout", self.output, os.O_WRONLY | os.O_CREAT),
                ("stderr", self.error, os.O_WRONLY | os.O_CREAT),
                ("stdout-append", self.output, append),
                ("stderr-append", self.error, append),
            )
        ):
            self._own[name] = self._place(os.open(path, flags), _ABOVE + 10 + at, False)

    def _place(self, fd: int, number: int, inheritable: bool, close: bool = True) -> int:
        os.dup2(fd, number, inheritable=inheritable)
        os.close(fd)
        if close:
            self._stack.callback(os.close, number)
        return number

    def close(self) -> None:
        os.chdir("/")
        self._stack.close()

    def reset(self, drift: Drift) -> None:
        """The same files, offsets and host state as before any other spawn with this drift."""
        with suppress(FileNotFoundError):
            os.unlink(self.new)
        for path in (*self.files.values(), self.output, self.error, self.input, *self.inherited):
            with open(path, "wb") as file:
                file.write(_CONTENT)
        for fd in (*FILES, 0, 1, 2, *self._own.values()):
            os.lseek(fd, 3 + fd % 10, os.SEEK_SET)
        self._drift(drift)

    def _drift(self, drift: Drift) -> None:
        os.umask(drift.umask)
        os.chdir(drift.folder)
        signal.pthread_sigmask(signal.SIG_SETMASK, drift.blocked)
        for sig in IGNORABLE:
            if sig not in (signal.SIGPIPE, signal.SIGXFSZ):  # Python's own, always ignored
                signal.signal(sig, signal.SIG_IGN if sig in drift.ignored else signal.SIG_DFL)
        for which, soft in ((resource.RLIMIT_NOFILE, drift.open_files), (resource.RLIMIT_CORE, drift.core)):
            hard = resource.getrlimit(which)[1]
            resource.setrlimit(which, (soft if hard < 0 else min(soft, hard), hard))
        os.environ.pop("DRIFT", None)
        if drift.variable is not None:
            os.environ["DRIFT"] = drift.variable

    def streams(self, names: tuple[str, str, str]) -> dict[str, Any]:
        """The keywords for three named streams."""
        found: dict[str, Any] = {}
        for key, name in zip(("stdin", "stdout", "stderr"), names, strict=True):
            numbers = {"terminal": TERMINAL, "passed": FILES[0], "file": self._own[key]}
            if name == "append":
                found[key] = self._own[f"{key}-append"]
            else:
                found[key] = numbers[name] if name in numbers else STREAMS[name]
        return found

    def left(self) -> dict[str, Any]:
        """What can be found here after a spawn: contents, offsets, what the terminal was told."""
        paths = (*self.files.values(), self.output, self.error, *self.inherited)
        contents = {os.path.relpath(path, self.root): Path(path).read_bytes() for path in paths}
        return {
            "contents": {name: text for name, text in contents.items() if text != _CONTENT},
            "offsets": {fd: os.lseek(fd, 0, os.SEEK_CUR) for fd in (*FILES, 0, 1, 2, *self._own.values())},
            "terminal": self._told(),
            "new": oct(os.stat(self.new).st_mode) if os.path.exists(self.new) else None,
        }

    def _told(self) -> bytes:
        """The kernel passes on what is written to a terminal in its own time, but in order."""
        os.write(TERMINAL, _SENTINEL)
        said = b""
        while not said.endswith(_SENTINEL):
            said += os.read(self.master, 4096)
        return said.removesuffix(_SENTINEL)


def perform(template: elfolio.SpawnTemplate, scene: Scene, ground: Ground) -> Outcome:
    """One spawn, to its end."""
    answer = answer_of(Path(str(template.target)))
    os.truncate(answer, 0)
    ground.reset(scene.drift)
    try:
        child = template.spawn(list(scene.argv), **ground.streams(scene.streams), **scene.options)
    except OSError as error:
        return Outcome((type(error).__name__, error.errno, str(error)), None, None, ground.left())
    made: dict[int, str] = {}
    said: dict[str, bytes] = {}
    with child:
        for name in ("stdin", "stdout", "stderr"):
            stream = getattr(child, name)
            if stream is not None:
                made[os.fstat(stream.fileno()).st_ino] = name
        if child.stdin is not None:
            with suppress(BrokenPipeError):
                child.stdin.write(b"fed\n")
            child.stdin.close()
        for name in ("stdout", "stderr"):
            if getattr(child, name) is not None:
                said[name] = getattr(child, name).readall()
        status = child.wait()
    seen = parse(answer.read_text())
    left = {**ground.left(), "said": said}
    with suppress(FileNotFoundError):
        made[os.stat(ground.new).st_ino] = "new"
    return Outcome(None, status, None if seen is None else normalised(seen, made), left, child.temperature)


def drop_to(user: int) -> None:
    """This process becomes an ordinary user's, as if that user had started it: dumpable, so that its /proc/self is
    its own again."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def compare(program: str, temperature: Any, examples: int, user: int = -1) -> dict[str, Any]:
    """Random spawns, each by a cold template and by one of `temperature`. Raises where they differ; counts.

    First each fault and each thing that only a cold start can do, by itself; the counts are of the random ones."""
    if user >= 0:
        _compared(program, "cold", 20)  # what is imported on first use may be out of an ordinary user's reach
        drop_to(user)
    return _compared(program, temperature, examples)


def _compared(program: str, temperature: Any, examples: int) -> dict[str, Any]:
    counts = {"examples": 0, "failed": 0, "started": 0, "seen": 0, "warm": 0}
    errors = Counter[str]()
    ground = Ground()
    with (
        elfolio.SpawnTemplate(program, temperature="cold") as left,
        elfolio.SpawnTemplate(program, temperature=temperature) as right,
        _closing(ground.close),
    ):

        def check(scene: Scene) -> Outcome:
            cold, other = perform(left, scene, ground), perform(right, scene, ground)
            unlike = cold.unlike(other)
            assert not unlike, "\n".join((f"cold, and {other.temperature or temperature}:", *unlike))
            assert not scene.cold or other.temperature in ("cold", ""), f"ran {other.temperature}: {scene}"
            return other

        @settings(max_examples=examples, phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck))
        @given(scene=scenes(ground.root))
        def equal(scene: Scene) -> None:
            other = check(scene)
            counts["examples"] += 1
            counts["failed"] += other.error is not None
            counts["started"] += other.error is None
            counts["seen"] += other.seen is not None
            counts["warm"] += other.temperature == "warm"
            errors[str(other.error)[:120]] += other.error is not None

        for options in (*FAULTS, *COLD):
            check(plain(ground.root, cold=options in COLD, **options))
        equal()
    return {**counts, "errors": +errors, "fallbacks": dict(elfolio.stats().programs[program].fallbacks)}


def compared_once(program: str, *keywords: dict[str, Any]) -> list[str]:
    """How two cold spawns differ that ask for different things."""
    ground = Ground()
    with elfolio.SpawnTemplate(program) as template, _closing(ground.close):
        first, second = (perform(template, plain(ground.root, **options), ground) for options in keywords)
    return first.unlike(second)


def _closing(close: Callable[[], None]) -> ExitStack:
    stack = ExitStack()
    stack.callback(close)
    return stack
