"""Races between check and exec: whatever is swapped in meanwhile, the pinned program runs or none does."""

import os
import random
import select
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import elfolio
from tests.spawn.probing import answer_file, between_check_and_exec, look, snapshot


@contextmanager
def replacer(path: Path, programs: Path) -> Iterator[None]:
    """A process that renames two programs over `path` in turn, and rests at random: a template of a file this new waits
    for the next tick of the clock, and what comes without a rest is gone by then."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writing)
        spare = f"{path}.spare"
        rest = random.Random(1)
        while not select.select([reading], [], [], rest.choice((0, 0.03 * rest.random())))[0]:
            for code in ("7", "8"):
                shutil.copy(programs / f"exit-{code}", spare)
                os.rename(spare, path)
        os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        os.waitpid(pid, 0)
        Path(f"{path}.spare").unlink(missing_ok=True)


@pytest.mark.parametrize("audit", ["descriptor", pytest.param("strict", marks=pytest.mark.slow)])
def test_a_race_with_a_replacer(audit: str, program: Path, programs: Path) -> None:
    """However often another program is renamed over the path, each of 3,000 spawns runs the pinned file or
    raises StaleTemplate, and an alias held by descriptor always runs."""
    outcomes = {"ran": 0, "stale": 0, "killed": 0}
    with replacer(program, programs):
        attempts = 0
        while attempts < 3000:
            template = elfolio.SpawnTemplate(program, audit=audit)  # type: ignore[arg-type]
            assert template._held is not None
            code = 7 if os.pread(template._held.exec_fd, 10**6, 0) == (programs / "exit-7").read_bytes() else 8
            # One template serves until it is stale: the race is between its check and its exec.
            while attempts < 3000:
                attempts += 1
                try:
                    child = template.spawn(["x"])
                except elfolio.StaleTemplate as error:
                    outcomes["killed" if "killed" in str(error) else "stale"] += 1
                    break
                except OSError:
                    if audit == "strict":
                        break  # the path may hold a file that is being written
                    raise
                assert child.wait() == code
                outcomes["ran"] += 1
            template.close()
    assert outcomes["ran"]
    assert outcomes["stale"]


def test_rebuilding_in_a_race(program: Path, programs: Path) -> None:
    """With rebuild=True and a replacer at work a spawn runs one of the two, whole, or is stale; nothing leaks."""
    with elfolio.SpawnTemplate(program, rebuild=True) as template, replacer(program, programs):
        codes = set()
        for _ in range(150):
            try:
                codes.add(template.spawn(["x"]).wait())
            except elfolio.StaleTemplate:
                continue
        assert codes <= {7, 8}
        assert codes


def test_strict_is_exact(probe_path: Path, open_folder: Path) -> None:
    """audit="strict" gives the AT_EXECFN, task name and exe of a plain execve; the default gives the last two."""
    alias = open_folder / "alias"
    alias.symlink_to(probe_path)
    with answer_file() as answer:
        pid = os.posix_spawn(alias, ["probe", str(answer)], {})
        os.waitpid(pid, 0)
        plain = snapshot(answer.read_text())
    with elfolio.SpawnTemplate(alias, audit="strict") as template:
        strict = look(template)
    with elfolio.SpawnTemplate(alias) as template:
        default = look(template)
    assert (strict.execfn, strict.comm, strict.exe) == (plain.execfn, plain.comm, plain.exe)
    assert (default.comm, default.exe) == (plain.comm, plain.exe)
    assert plain.execfn == str(alias)


@pytest.mark.parametrize("audit", ["descriptor", "strict"])
def test_a_swap_between_check_and_exec(audit: str, program: Path, programs: Path) -> None:
    """By descriptor the pinned file runs nevertheless; by path the other one is found afterwards and killed."""
    other, mark = program.with_name("other"), f"mark-{os.getpid()}"
    shutil.copy("/bin/sleep", other)
    with (
        elfolio.SpawnTemplate(program, audit=audit) as template,  # type: ignore[arg-type]
        between_check_and_exec(program.parent, lambda: other.rename(program)) as actions,
    ):
        if audit == "descriptor":
            assert template.spawn([mark, "1000"], actions=actions).wait() == 7
        else:
            with pytest.raises(elfolio.StaleTemplate, match="the child was killed"):
                template.spawn([mark, "1000"], actions=actions)
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            assert not cmdline.read_bytes().startswith(mark.encode())


def test_strict_lets_a_child_execute_something_else() -> None:
    """A program that itself executes another one at once, as env does, is not taken for a swap."""
    with elfolio.SpawnTemplate("/usr/bin/env", audit="strict") as template:
        for _ in range(300):
            child = template.spawn(["env", "/bin/cat"], stdin=elfolio.PIPE)
            with child:
                pass
            assert child.returncode == 0
