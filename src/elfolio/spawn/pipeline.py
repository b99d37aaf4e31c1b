"""spawn.pipeline: a shell pipeline without the shell. In: stages, keywords as of `run`. Out: PipelineCompleted.

The stages are started from the first to the last, each from its template, and what goes from one to the next
goes through a pipe of the kernel's and never through Python. Both ends of such a pipe are close-on-exec, and
this process lets go of each as soon as its stage has started: a reader sees the end when its writer has ended,
and a writer gets SIGPIPE when its reader has.
"""

import errno
import os
import signal
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias, Unpack

from elfolio import _native
from elfolio.errors import InvalidArgument, StaleTemplate, UnholdableProgram
from elfolio.spawn.capture import RunKeywords, Running
from elfolio.spawn.child import Child
from elfolio.spawn.options import Options, SpawnKeywords
from elfolio.spawn.pool import default_pool
from elfolio.spawn.search import absolute, candidates, first_error
from elfolio.spawn.streams import PIPE, Streams
from elfolio.spawn.template import Arguments, SpawnTemplate

if TYPE_CHECKING:
    import resource

__all__ = ["PipelineCompleted", "PipelineStage", "Stage", "apipeline", "pipeline"]

Stage: TypeAlias = Arguments | tuple[SpawnTemplate, Arguments]
"""An argv, whose first item is found as `subprocess` finds it, or the template to start it from and an argv."""


class PipelineStage(NamedTuple):
    """One command of a pipeline that has ended."""

    argv: list[str | bytes]
    returncode: int
    """The negative of the signal that killed it."""
    pid: int
    temperature: str
    usage: "_native.Usage | None"

    @property
    def rusage(self) -> "resource.struct_rusage | None":
        """Resource use, as of getrusage(2); None where somebody else reaped the child."""
        if self.usage is None:
            return None
        import resource

        return resource.struct_rusage(self.usage)


class PipelineCompleted(NamedTuple):
    """A pipeline that has ended: all of its stages.

    `stdout` is the last stage's, `stderr` that of all stages in the order in which they wrote; bytes, or str with
    `text`, None where not captured. What is named as in `Completed` is the same.
    """

    stages: tuple[PipelineStage, ...]
    returncode: int
    """That of the last stage that failed, 0 where none did: `pipefail` of a shell. Whether SIGPIPE is a failure
    was said by `sigpipe_ok`."""
    stdout: bytes | str | None
    stderr: bytes | str | None
    seconds: float
    dropped: tuple[int, int]
    spilled: tuple[IO[bytes] | None, IO[bytes] | None]
    spill_errors: tuple[int, int]

    def check_returncode(self) -> None:
        """Raises subprocess.CalledProcessError, with every argv and every status, unless `returncode` is 0."""
        if self.returncode:
            from subprocess import CalledProcessError

            command: list[Any] = [stage.argv for stage in self.stages]
            error = CalledProcessError(self.returncode, command, self.stdout, self.stderr)
            error.add_note(f"the stages ended with {', '.join(str(stage.returncode) for stage in self.stages)}")
            raise error


def pipeline(*stages: Stage, sigpipe_ok: bool = True, **keywords: Unpack[RunKeywords]) -> PipelineCompleted:
    """Runs `stages` at once, each one's standard output leading into the next one's standard input.

    As a whole it is one command: `input` and `stdin` are the first stage's, `stdout` the last one's, `stderr` that of
    all of them (STDOUT: where the last one's standard output goes, like `{ a | b; } 2>&1`). `timeout` is one for
    all, and kills all. The other keywords are those of `SpawnTemplate.run`, and the options of `Options` hold for
    each stage; `process_group=0` makes one group, led by the first stage, as a shell does.

    `sigpipe_ok`: a stage killed by SIGPIPE, other than the last, has not failed: the one behind it had what it
    wanted (docs/decisions/sigpipe-is-no-failure.md). Its own `returncode` says -13 either way.

    Raises what `run` raises. Where a stage cannot be started, those before it are killed and reaped, and the
    error names it, counted from 0.
    """
    return Pipelining(stages, sigpipe_ok, keywords).run()


async def apipeline(*stages: Stage, sigpipe_ok: bool = True, **keywords: Unpack[RunKeywords]) -> PipelineCompleted:
    """`pipeline` without blocking the event loop; cancelling it kills all trees and reaps them."""
    from elfolio.spawn.aio import arun

    return await arun(Pipelining(stages, sigpipe_ok, keywords))


class Pipelining(Running[PipelineCompleted]):
    """One `pipeline`. Its outputs end when the last stage's does and all have closed their standard error; the
    end of the stages before the last is waited for after that."""

    def __init__(self, stages: Sequence[Stage], sigpipe_ok: bool, keywords: RunKeywords) -> None:
        super().__init__(keywords)
        if not stages:
            raise InvalidArgument("a pipeline has at least one stage")
        self._stages = [_checked(number, stage) for number, stage in enumerate(stages)]
        self._sigpipe_ok = sigpipe_ok
        self._inodes: list[int] = []
        """Of our outputs and of the pipes between the stages, which we hold no longer when it comes to killing."""

    def command(self) -> Sequence[object]:
        return [list(argv) for _, argv in self._stages]

    def launch(self, streams: Streams) -> None:
        source, out, err = streams.child
        self._inodes += (os.fstat(fd).st_ino for fd in streams.ours[1:] if fd >= 0)
        last = len(self._stages) - 1
        pipes: list[Streams] = []
        try:
            for number in range(last):
                pipes.append(pipe := Streams(None, PIPE, None))
                self._inodes.append(os.fstat(pipe.ours[1]).st_ino)
                self._launch_stage(number, (source, pipe.child[1], err))
                pipe.spawned()
                if number:
                    pipes[-2].close()
                source = pipe.ours[1]
            self._launch_stage(last, (source, out, err))
        finally:
            for pipe in pipes:
                pipe.close()

    def _launch_stage(self, number: int, streams: tuple[int, int, int]) -> None:
        template, argv = self._stages[number]
        if number == 1 and self._options.process_group == 0:
            self._options = _joining(self.started[0].pid, self._options)
        try:
            if template is None:
                child = _launch_found(argv, self._options, streams)
            else:
                child = template.launch(argv, self._options, streams)
        except OSError as error:
            error.strerror = f"stage {number}, {argv[0]!r}: {error.strerror}"
            raise
        except Exception as error:
            error.add_note(f"in stage {number}, {argv[0]!r}")
            raise
        self.started.append(child)

    def kill(self) -> None:
        from elfolio.spawn.tree import kill_trees

        kill_trees(self.started, {f"pipe:[{inode}]" for inode in self._inodes})

    def completed(self) -> PipelineCompleted:
        stages = tuple(PipelineStage(c.args, c.returncode or 0, c.pid, c.temperature, c.usage) for c in self.started)
        codes = [stage.returncode for stage in stages]
        if self._sigpipe_ok:
            codes[:-1] = (0 if code == -signal.SIGPIPE else code for code in codes[:-1])
        done = PipelineCompleted(stages, next((code for code in reversed(codes) if code), 0), *self.said())
        if self.check:
            done.check_returncode()
        return done


def _checked(number: int, stage: Any) -> tuple[SpawnTemplate | None, Arguments]:
    if isinstance(stage, tuple) and len(stage) == 2 and isinstance(stage[0], SpawnTemplate):
        template, argv = stage
    else:
        template, argv = None, stage
    if not isinstance(argv, list | tuple) or not argv:
        raise InvalidArgument(f"stage {number} must be an argv, which begins with the program's name, not {argv!r}")
    return template, argv


def _joining(group: int, options: Options) -> Options:
    """`options` for those behind the first. Unreaped, it has its number and group, even if it has ended."""
    given = {name: value for name, value in vars(options).items() if name in SpawnKeywords.__annotations__}
    return Options(**{**given, "process_group": group})


def _launch_found(argv: Arguments, options: Options, streams: tuple[int, int, int]) -> Child:
    """Starts what argv[0] leads to, from the pool that the drop-ins use."""
    pool = default_pool()
    failures: list[int | str] = []
    for given in candidates(os.fsdecode(argv[0]), options.env):
        path = absolute(given, options.cwd)
        if not os.access(path, os.F_OK, effective_ids=True):
            failures.append(path)
            continue
        try:
            template = pool.get(path)
        except UnholdableProgram:
            raise
        except OSError as error:
            failures.append(error.errno or errno.ENOENT)
            continue
        try:
            return pool.launch(template, argv, options, streams, None if given is path else given)
        except StaleTemplate:
            raise
        except OSError as error:
            if error.filename != path:  # it was not exec that failed: it would fail with the next one too
                raise
            failures.append(error.errno or errno.ENOENT)
    number = first_error(failures)
    raise OSError(number, os.strerror(number), argv[0])
