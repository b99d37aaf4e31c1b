"""pipeline: what a shell's pipeline does, stage by stage, with one capture, one deadline, and nothing left behind."""

import asyncio
import errno
import os
import shlex
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import elfolio
from elfolio import apipeline, pipeline
from tests.spawn.comparing import Run, script
from tests.spawn.probing import alive, await_gone, children, open_fds

pytestmark = pytest.mark.usefixtures("empty_pool")
SIGPIPE = -signal.SIGPIPE
SLEEP = ["sh", "-c", "exec sleep 1000"]
MEGABYTES_50 = 50_000_000
Argv = list[str]

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash; to force: apt-get install bash")


def pipefail(codes: list[int]) -> int:
    """The model: the last that is not 0."""
    failed = [code for code in codes if code]
    return failed[-1] if failed else 0


def by_bash(argvs: list[Argv], data: bytes) -> tuple[bytes, int, list[int]]:
    """Output, status under pipefail, and the status of each stage."""
    line = " | ".join(map(shlex.join, argvs))
    with_status = f'set -o pipefail; {line}; s=($? "${{PIPESTATUS[@]}}"); echo "${{s[@]}}" >&2'
    done = subprocess.run(["bash", "-c", with_status], input=data, capture_output=True, check=False)
    status, *codes = map(int, done.stderr.splitlines()[-1].split())
    return done.stdout, status, codes


def as_shell(code: int) -> int:
    return code if code >= 0 else 128 - code


def without_sigpipe(codes: list[int]) -> list[int]:
    """Whether a writer still gets through before its reader ends is chance, in a shell too."""
    return [0 if code == 128 + signal.SIGPIPE else code for code in codes[:-1]] + codes[-1:]


def assert_as_in_bash(argvs: list[Argv], data: bytes) -> None:
    out, status, codes = by_bash(argvs, data)
    strict = pipeline(*argvs, input=data, sigpipe_ok=False)
    ours = [as_shell(stage.returncode) for stage in strict.stages]
    assert strict.stdout == out
    assert without_sigpipe(ours) == without_sigpipe(codes)
    assert status == pipefail(codes)
    assert as_shell(strict.returncode) == pipefail(ours)
    assert as_shell(pipeline(*argvs, input=data).returncode) == pipefail(without_sigpipe(codes))


@needs_bash
@pytest.mark.parametrize(
    "line",
    [
        "cat",
        "false",
        "cat | cat",
        "grep -c a | cat",
        "grep nothing | cat",
        "cat | grep nothing | wc -l",
        "true | false | true",
        "sh -c 'exit 3' | sh -c 'exit 4' | true",
        "sh -c 'exit 4' | true | sh -c 'exit 3'",
        "sh -c 'kill -9 $$' | cat",
        "cat | sh -c 'kill -TERM $$'",
        "sort -r | uniq -c | sort -n | tail -n 1",
        "sed -n 2p | tr a-z A-Z",
        "cat /nonexistent | wc -c",
        "yes | head -n 3",
        "yes | sh -c 'head -n 1; exit 7'",
        "seq 100000 | sort -n | sha256sum",
        "head -c 3 | od -c",
    ],
)
def test_as_in_bash(line: str) -> None:
    """Output and every status are those of the same pipeline in bash, and pipefail is bash's."""
    assert_as_in_bash([shlex.split(stage) for stage in line.split(" | ")], b"a\nab\nb\n")


# Where a reader ends early, chance decides whether the writer is killed. So none of these fails after it has written
# something itself: killed, it would not have.
STAGES = st.one_of(
    st.sampled_from([["cat"], ["true"], ["false"], ["sort"], ["wc", "-c"], ["sed", "s/a/bb/"], ["sed", "-n", "2p"]]),
    st.tuples(st.sampled_from(["head", "tail"]), st.sampled_from(["-n", "-c"]), st.integers(0, 9).map(str)).map(list),
    st.tuples(st.just("grep"), st.sampled_from(["-q", "-v", "-x"]), st.sampled_from(["a", "b", "."])).map(list),
    st.integers(0, 255).map(lambda code: ["sh", "-c", f"exit {code}"]),
    st.integers(0, 3).map(lambda code: ["sh", "-c", f"cat; exit {code}"]),
)


@needs_bash
@settings(max_examples=80)
@given(
    argvs=st.lists(STAGES, min_size=1, max_size=5),
    lines=st.lists(st.text("ab", max_size=5), max_size=10),
    times=st.sampled_from([1, 1, 1, 20000]),
)
def test_any_pipeline_is_as_in_bash(argvs: list[Argv], lines: list[str], times: int) -> None:
    """Whatever the stages and however much goes in, output and statuses are bash's."""
    assert_as_in_bash(argvs, "".join(f"{line}\n" for line in lines).encode() * times)


def test_a_result_tells_of_each_stage() -> None:
    """Each stage has argv, status, pid, temperature and resource use; the whole has one status, output, errors."""
    done = pipeline(["sh", "-c", "echo one >&2; echo 1; exit 3"], ["sh", "-c", "cat; echo two >&2"], text=True)
    assert [stage.argv[0] for stage in done.stages] == ["sh", "sh"]
    assert [stage.returncode for stage in done.stages] == [3, 0]
    assert len({stage.pid for stage in done.stages}) == 2
    assert {stage.temperature for stage in done.stages} <= {"cold", "warm"}
    assert all(stage.rusage is not None and stage.rusage.ru_minflt > 0 for stage in done.stages)
    assert (done.returncode, done.stdout, done.stderr) == (3, "1\n", "one\ntwo\n")
    assert (done.dropped, done.spilled, done.spill_errors) == ((0, 0), (None, None), (0, 0))
    assert 0 < done.seconds < 60


def test_a_reader_that_ends_early() -> None:
    """The writer is killed by SIGPIPE: no failure unless it is to be one, and told of the stage either way. A
    failure of the reader's own is one, and so is SIGPIPE of the last stage."""
    for reader, code, strict in (
        ("head -n 1", 0, SIGPIPE),
        ("head -n 1; exit 5", 5, 5),
        ("kill -PIPE $$", SIGPIPE, SIGPIPE),
    ):
        for sigpipe_ok, wanted in ((True, code), (False, strict)):
            done = pipeline(["yes"], ["sh", "-c", reader], sigpipe_ok=sigpipe_ok)
            assert (done.stages[0].returncode, done.returncode) == (SIGPIPE, wanted)
    assert pipeline(["yes"], ["head", "-n", "1"], check=True).stdout == b"y\n"
    with pytest.raises(subprocess.CalledProcessError):
        pipeline(["yes"], ["head", "-n", "1"], check=True, sigpipe_ok=False)


def test_much_goes_through() -> None:
    """Fifty megabytes pass three stages without deadlock, and so does an input larger than any pipe."""
    done = pipeline(["head", "-c", str(MEGABYTES_50), "/dev/zero"], ["cat"], ["wc", "-c"], text=True)
    assert done.stdout == f"{MEGABYTES_50}\n"
    data = bytes(range(256)) * 20000
    assert pipeline(["cat"], ["cat"], input=data).stdout == data
    assert pipeline(["cat"], ["tee", "/dev/stderr"], input=data)[2:4] == (data, data)
    assert pipeline(["head", "-c", "1"], ["cat"], input=data).stdout == data[:1]


def test_twenty_stages() -> None:
    """Twenty stages are as good as two."""
    done = pipeline(*[["sed", "s/$/x/"]] * 20, input="a\n", text=True)
    assert done.stdout == "a" + "x" * 20 + "\n"
    assert len({stage.pid for stage in done.stages}) == 20


def test_one_stage_is_run(sh: elfolio.SpawnTemplate) -> None:
    """A pipeline of one is a run, with its default standard input too."""
    argv = ["sh", "-c", "cat; echo out; echo err >&2; exit 3"]
    ours, theirs = pipeline(argv), sh.run(argv)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)


@pytest.mark.parametrize("stages", [[], [[]], [["cat"], []], ["cat"], [["cat"], "cat"], [("cat", ["cat"])], [None]])
def test_what_is_no_pipeline(stages: list[Any]) -> None:
    """No stages, one without a program's name, and a string are refused before anything starts."""
    with pytest.raises((elfolio.InvalidArgument, TypeError)):
        pipeline(*stages, timeout=1)
    for keywords in ({"output_limit": -1}, {"input": b"", "stdin": elfolio.PIPE}, {"nonsense": 1}):
        with pytest.raises((elfolio.InvalidArgument, TypeError)):
            pipeline(["cat"], **keywords)
    assert children() == []


def test_streams(tmp_path: Path) -> None:
    """Standard input is the first stage's, output the last one's, errors all of them's; STDOUT merges them."""
    (tmp_path / "in").write_text("b\na\n")
    speaking = ["sh", "-c", "echo error >&2; cat"]
    with open(tmp_path / "in") as given, open(tmp_path / "out", "w") as out:
        done = pipeline(speaking, ["sort"], speaking, stdin=given, stdout=out, text=True)
    assert (tmp_path / "out").read_text() == "a\nb\n"
    assert (done.stdout, done.stderr) == (None, "error\nerror\n")
    merged = pipeline(speaking, ["cat"], input="x\n", stderr=elfolio.STDOUT, text=True)
    assert isinstance(merged.stdout, str)
    assert (sorted(merged.stdout.split()), merged.stderr) == (["error", "x"], None)
    assert pipeline(["cat"], speaking, stdout=elfolio.DEVNULL, stderr=elfolio.DEVNULL)[2:4] == (None, None)


def test_errors_of_all_go_where_the_output_goes(capfd: pytest.CaptureFixture[str]) -> None:
    """Merged into a standard output that is this process's own, errors of the first stage go there, past the pipe."""
    done = pipeline(["sh", "-c", "echo e >&2; echo o"], ["wc", "-c"], capture_output=False, stderr=elfolio.STDOUT)
    assert done[2:4] == (None, None)
    assert sorted(capfd.readouterr().out.split()) == ["2", "e"]


def test_text_limits_and_files(tmp_path: Path) -> None:
    """Text, limits and spill files are those of run."""
    done = pipeline(["seq", "100000"], ["cat"], output_limit=10, spill_dir=tmp_path, encoding="ascii")
    assert isinstance(done.stdout, str)
    assert done.stdout.startswith("1\n2\n")
    assert done.dropped == (588895 - 10, 0)
    assert done.spilled[0] is not None
    with done.spilled[0] as file:
        assert file.read() == b"".join(b"%d\n" % i for i in range(1, 100001))
    assert pipeline(["cat"], input="ä\r\n", encoding="latin-1").stdout == "ä\n"


def test_options_hold_for_each_stage(tmp_path: Path) -> None:
    """Working directory, environment and umask are every stage's."""
    show = ["sh", "-c", 'cat; echo "$PWD $A $(umask)"']
    done = pipeline(show, show, cwd=tmp_path, env={"A": "1", "PATH": os.environ["PATH"]}, umask=0o27, text=True)
    assert done.stdout == f"{tmp_path} 1 0027\n" * 2
    os.environ["ELFOLIO_SECRET"] = "1"
    try:
        assert pipeline(["env"], ["grep", "-c", "SECRET"], env_allow=("PATH",)).stdout == b"0\n"
    finally:
        del os.environ["ELFOLIO_SECRET"]


@pytest.mark.parametrize("first", ["exit 0", "cat"])
def test_one_group(first: str) -> None:
    """A new process group is one for all, led by the first stage, though that may have ended already."""
    group = "cut -d ' ' -f 5 /proc/$$/stat >&2"
    done = pipeline(*[["sh", "-c", f"{group}; {first}"]] * 3, process_group=0, text=True)
    assert done.stderr == f"{done.stages[0].pid}\n" * 3
    session = pipeline(*[["sh", "-c", "cut -d ' ' -f 6 /proc/$$/stat >&2"]] * 2, start_new_session=True, text=True)
    assert sorted(str(session.stderr).split()) == sorted(str(stage.pid) for stage in session.stages)


def test_programs_are_found_as_by_subprocess(tmp_path: Path) -> None:
    """In PATH, of `env` if that is given; with a slash from the child's working directory, under that name."""
    script(tmp_path / "tool", "#!/bin/sh\necho $0\n")
    (tmp_path / "empty").mkdir()
    search = {"PATH": f"{tmp_path}/empty:{tmp_path}:{os.environ['PATH']}"}
    for argv, keywords in (
        (["tool"], {"env": search}),
        (["./tool"], {"cwd": tmp_path}),
        ([f"{tmp_path}/tool"], {}),
        ([b"tool"], {"env": search}),
    ):
        theirs: Any = subprocess.run(argv, stdout=subprocess.PIPE, check=True, **keywords)
        assert pipeline(argv, ["cat"], **keywords).stdout == theirs.stdout


def test_templates_of_ones_own(program: Path) -> None:
    """A stage may bring its template; without a rebuild a changed file is refused, by its number."""
    with elfolio.SpawnTemplate(program) as template:
        done = pipeline(["echo"], (template, ["any name", "x"]))
        assert (done.stages[1].returncode, done.stages[1].argv) == (7, ["any name", "x"])
        os.utime(program)
        with pytest.raises(elfolio.StaleTemplate, match="stage 1, 'any name'"):
            pipeline(SLEEP, (template, ["any name"]))
    assert children() == []


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_stage_that_cannot_start(at: int, tmp_path: Path) -> None:
    """The error is what subprocess raises, and names the stage; those already started are dead and reaped."""
    (tmp_path / "plain").write_text("")
    before = open_fds()
    for bad, number in (("no-such-program", errno.ENOENT), (f"{tmp_path}/plain", errno.EACCES), ("./", errno.EACCES)):
        stages = [SLEEP, SLEEP, SLEEP]
        stages[at] = [bad]
        with pytest.raises(OSError) as caught:
            pipeline(*stages, input=b"x")
        assert (caught.value.errno, caught.value.filename) == (number, bad)
        assert f"stage {at}, {bad!r}: " in str(caught.value)
        assert children() == []
    with pytest.raises(ValueError) as other:
        pipeline(*[SLEEP] * at, ["sh", "nul\0"])
    assert other.value.__notes__ == [f"in stage {at}, 'sh'"]
    with pytest.raises(FileNotFoundError) as nowhere:
        pipeline(*[SLEEP] * 3, cwd=tmp_path / "none")
    assert nowhere.value.filename == tmp_path / "none"
    assert open_fds() - before <= pool_fds()


def pool_fds() -> set[int]:
    """What the pool's templates hold: programs."""
    return {fd for fd in open_fds() if os.readlink(f"/proc/self/fd/{fd}").startswith("/")}


def test_a_deadline_keeps_what_came() -> None:
    """One deadline for all: what came until then is in the exception, every stage is dead and reaped."""
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        pipeline(["sh", "-c", "echo out; echo err >&2; exec sleep 1000"], ["cat"], timeout=0.3, text=True)
    assert (caught.value.stdout, caught.value.stderr) == ("out\n", "err\n")  # type: ignore[comparison-overlap]
    assert (caught.value.cmd[1], caught.value.timeout) == (["cat"], 0.3)
    for stages in ([["yes"], ["cat"]], [["yes"], SLEEP], [SLEEP, ["true"]], [["true"], SLEEP]):
        with pytest.raises(subprocess.TimeoutExpired):
            pipeline(*stages, timeout=0.2, output_limit=100)
        assert children() == []


@pytest.mark.parametrize("holds", ["2>&-", ">&-", ">&- 2>/dev/null", "2>/dev/null"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_deadline_holds_though_a_grandchild_keeps_a_pipe(at: int, holds: str, tmp_path: Path) -> None:
    """An orphan in a session of its own that keeps a pipe, be it between two stages, delays nothing and dies."""
    note = tmp_path / "pid"
    orphan = f"(setsid sh -c 'echo $$ >{note}; exec sleep 1000 {holds}' &); while [ ! -s {note} ]; do :; done"
    stages = [["cat"], ["cat"], ["cat"]]
    stages[at] = ["sh", "-c", orphan]
    if holds == ">&- 2>/dev/null":  # it holds nothing: nobody waits for it
        assert pipeline(*stages, timeout=60).returncode == 0
        assert alive(int(note.read_text()))
        os.kill(int(note.read_text()), signal.SIGKILL)
    else:
        with pytest.raises(subprocess.TimeoutExpired):
            pipeline(*stages, timeout=0.5)
    await_gone(int(note.read_text()))


@pytest.mark.parametrize("moment", [0.05, 0.06, 0.1])
def test_an_interrupt_leaves_nothing(moment: float) -> None:
    """KeyboardInterrupt while it waits: all trees are dead, reaped, and no pipe is left."""

    def handler(sig: int, frame: object) -> None:
        raise KeyboardInterrupt

    pipeline(["sh", "-c", "true"], ["cat"])
    before, old = open_fds(), signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, moment)
        with pytest.raises(KeyboardInterrupt):
            pipeline(["sh", "-c", "sleep 1000 & sleep 1000"], *[["cat"]] * 9, input=b"x" * 1000000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert children() == []
    assert open_fds() == before


def test_many_at_once() -> None:
    """Threads that start pipelines at once hold none of each other's pipes: all end."""
    with ThreadPoolExecutor(8) as pool:
        every = [pool.submit(pipeline, ["cat"], ["cat"], ["cat"], input=b"%d" % i, timeout=60) for i in range(64)]
        assert [done.result().stdout for done in every] == [b"%d" % i for i in range(64)]


def test_on_a_loop(run: Run[Any]) -> None:
    """apipeline gives what pipeline gives: results, errors, deadlines; several at once."""

    async def main() -> None:
        every = [apipeline(["cat"], ["wc", "-c"], input=b"x" * size, text=True) for size in (0, 10, 300000)]
        assert [done.stdout for done in await asyncio.gather(*every)] == ["0\n", "10\n", "300000\n"]
        done = await apipeline(["yes"], ["head", "-n", "1"])
        assert ([stage.returncode for stage in done.stages], done.returncode) == ([SIGPIPE, 0], 0)
        late = await apipeline(["sh", "-c", "exec >&- 2>&-; sleep 0.2; exit 4"], ["cat"])
        assert late.returncode == 4
        with pytest.raises(FileNotFoundError, match="stage 1"):
            await apipeline(SLEEP, ["no-such-program"])
        for stages in (
            [["echo", "x"], ["sh", "-c", "cat; sleep 1000"]],
            [["sh", "-c", "exec >&- 2>&-; sleep 1000"], ["echo", "x"]],
        ):
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                await apipeline(*stages, timeout=0.3)
            assert caught.value.stdout == b"x\n"
        assert children() == []

    run(main())


@pytest.mark.parametrize("last", [SLEEP, ["true"]])
def test_cancelling(last: Argv, run: Run[Any]) -> None:
    """Cancelled, in the beginning or later, it kills all trees and reaps; the loop goes on meanwhile."""

    async def main() -> None:
        for pause in (0, 0.01, 0.2):
            first = ["sh", "-c", "exec >&- 2>&-; sleep 1000 & sleep 1000"]
            task = asyncio.create_task(apipeline(first, ["sh", "-c", "sleep 1000"], last))
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert children() == []

    run(main())


async def settled(pid: int) -> dict[str, str]:
    """What SLEEP has open, by number, when its loader has closed the libraries."""
    for _ in range(1000):
        with suppress(FileNotFoundError):
            held = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            if sorted(held) == ["0", "1", "2"] and Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                return held
        await asyncio.sleep(0.01)
    raise AssertionError(held)


@pytest.mark.usefixtures("cold")  # the numbers of warm children do not rise with their starts
def test_nobody_holds_an_end_that_is_not_its_own(run: Run[Any]) -> None:
    """While it runs each stage has its three streams, and this process none of the pipes between."""

    async def main() -> None:
        task = asyncio.create_task(apipeline(SLEEP, SLEEP, SLEEP))
        await asyncio.sleep(0)
        pids = children()
        assert len(pids) == 3
        held = [await settled(pid) for pid in sorted(pids)]
        assert held[0]["0"] == "/dev/null"
        assert held[0]["1"] == held[1]["0"]
        assert held[1]["1"] == held[2]["0"]
        between = {held[0]["1"], held[1]["1"]}
        assert len(between | {held[2]["1"], held[2]["2"]}) == 4
        assert not between & {os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds()}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
