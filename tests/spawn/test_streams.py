"""Standard streams: every way they can cross, and hosts that have closed their own."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

import elfolio
from elfolio import Close, CloseRange, Dup2, Open
from elfolio.spawn.actions import Action
from tests.spawn.probing import ROOT, in_fresh_host, look


def crossed(probe: str, folder: str, closed: list[int]) -> list[Any]:
    """In a host with `closed` among 0 to 2 closed: spawns with every triple of sources, and returns the triples
    for which the child saw something else than the model."""
    import itertools
    import os
    from pathlib import Path

    import elfolio
    from tests.spawn.probing import snapshot

    names = [f"{folder}/{i}" for i in range(4)]
    for i in range(3):
        fd = os.open(names[i], os.O_RDWR | os.O_CREAT)
        os.dup2(fd, i)
        os.close(fd)
    os.dup2(os.open(names[3], os.O_RDWR | os.O_CREAT), 9, inheritable=False)
    for fd in closed:
        os.close(fd)
    here = {fd: names[min(fd, 3)] for fd in (0, 1, 2, 9) if fd not in closed}
    template, wrong = elfolio.SpawnTemplate(probe), []
    sources = [0, 1, 2, 9, elfolio.DEVNULL, elfolio.INHERIT]
    for triple in itertools.product(sources, repeat=3):
        if set(triple) & set(closed):
            continue
        expected = {}
        for target, source in enumerate(triple):
            name = (
                "/dev/null" if source == elfolio.DEVNULL else here.get(target if source == elfolio.INHERIT else source)
            )
            if name is not None:
                expected[target] = name
        out = Path(folder, "answer")
        out.unlink(missing_ok=True)
        stdin, stdout, stderr = triple
        child = template.spawn(["probe", str(out)], stdin=stdin, stdout=stdout, stderr=stderr)
        seen = snapshot(out.read_text()).targets if child.wait() == 0 else {}
        if seen != expected:
            wrong.append([triple, {str(k): v for k, v in seen.items()}])
    # run()'s own pipes get the numbers that are free
    shell = elfolio.SpawnTemplate("/bin/sh")
    done = shell.run(["sh", "-c", "cat; echo err >&2"], input=b"in")
    if (done.stdout, done.stderr) != (b"in", b"err\n"):
        wrong.append([repr(done)])
    return wrong


@pytest.mark.parametrize("closed", [list(c) for n in range(4) for c in itertools.combinations(range(3), n)], ids=str)
def test_streams_cross_in_every_way(closed: list[int], probe_path: Path, tmp_path: Path) -> None:
    """Any of 0 to 2 may be the source of any other, whichever of them the host has closed itself."""
    answer = tmp_path / "result"
    code = f"from tests.spawn.test_streams import crossed; open({str(answer)!r}, 'w').write("
    code += f"__import__('json').dumps(crossed({str(probe_path)!r}, {str(tmp_path)!r}, {closed})))"
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    assert answer.read_text() == "[]"


def test_stderr_follows_stdout(sh: elfolio.SpawnTemplate, tmp_path: Path) -> None:
    """STDOUT leads stderr where stdout goes: to a pipe, to a file, to the host's own."""
    both = ["sh", "-c", "echo a; echo b >&2"]
    done = sh.run(both, stderr=elfolio.STDOUT)
    assert (done.stdout, done.stderr) == (b"a\nb\n", None)
    with open(tmp_path / "f", "wb") as file:
        assert sh.spawn(both, stdout=file, stderr=elfolio.STDOUT).wait() == 0
    assert (tmp_path / "f").read_bytes() == b"a\nb\n"


@pytest.mark.parametrize("make", ["dup2", "open", "close", "range", "everything", "twice"])
def test_an_action_on_the_pinned_descriptor_still_runs_the_program(make: str, probe: elfolio.SpawnTemplate) -> None:
    """Whatever an action does to the number of the pinned descriptor, the pinned program runs, as the same task."""
    assert probe._held is not None
    fd = probe._held.exec_fd
    actions: dict[str, list[Action]] = {
        "dup2": [Dup2(1, fd)],
        "open": [Open(fd, "/bin/false")],
        "close": [Close(fd)],
        "range": [CloseRange(fd, fd + 100)],
        "everything": [CloseRange(3)],
        "twice": [Open(fd, "/bin/false"), CloseRange(3), Open(fd, "/bin/false"), Dup2(fd, fd + 1)],
    }
    before = os.listdir("/proc/self/fd")
    seen = look(probe, actions=actions[make])
    assert seen.comm == "probe"
    assert seen.exe == str(probe.target)
    assert os.listdir("/proc/self/fd") == before
    expected = {"dup2": {fd}, "open": {fd}, "twice": {fd, fd + 1}}
    assert set(seen.fds) - {0, 1, 2} == expected.get(make, set())


def test_a_script_by_descriptor_whose_number_an_action_takes(open_folder: Path) -> None:
    """A script held by descriptor alone is what its interpreter reads, though an action takes the number."""
    script, other = open_folder / "script", open_folder / "other"
    script.write_text("#!/bin/sh\nexit 7\n")
    other.write_text("#!/bin/sh\nexit 8\n")
    script.chmod(0o755)
    fd = os.open(script, os.O_RDONLY)
    with elfolio.SpawnTemplate(fd) as template:
        assert template._held is not None
        taken = template._held.passed
        assert template.spawn(["script"]).wait() == 7
        assert template.spawn(["script"], actions=[Open(taken, str(other))]).wait() == 7
        assert template.spawn(["script"], actions=[CloseRange(3)]).wait() == 7
    os.close(fd)


def test_every_number_taken(probe_path: Path, tmp_path: Path) -> None:
    """With one free descriptor left a spawn works; with none it is EMFILE, and nothing is left."""

    def host(probe: str) -> list[Any]:
        import os
        import resource

        import elfolio

        template = elfolio.SpawnTemplate(probe)
        template.spawn(["probe", "/dev/null"]).wait()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        out: list[Any] = []
        try:
            template.spawn(["probe", "/dev/null"], stdin=elfolio.INHERIT)
        except OSError as error:
            out.append([error.errno, str(error)])
        try:
            template.run(["probe", "-"])
        except OSError as error:
            out.append([error.errno, str(error)])
        os.close(taken.pop())
        out.append(template.spawn(["probe", "/dev/null"]).wait())
        return [*out, len(os.listdir("/proc/self/fd")) - 1 - len(taken)]

    fails, fails_run, works, _ = in_fresh_host(host, str(probe_path))
    assert fails == [24, "[Errno 24] no process could be made: Too many open files"]
    assert fails_run[0] == 24
    assert works == 0
