"""cgroup v2: children born into one, and private ones that end and go with their child."""

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import elfolio
from elfolio.spawn.cgroup import own_cgroup
from tests.spawn.probing import alive, await_gone, children, in_fresh_host, look

_numbers = itertools.count()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A new cgroup v2 directory below this process's own."""
    try:
        path = own_cgroup() / f"test-{os.getpid()}-{next(_numbers)}"
        path.mkdir()
    except OSError as error:
        pytest.skip(f"needs a writable cgroup v2 directory ({error}); to force: run as root with cgroup2 mounted")
    try:
        yield path
        assert [entry.name for entry in path.iterdir() if entry.is_dir()] == []
    finally:
        for inner in path.iterdir():
            if inner.is_dir():
                inner.rmdir()
        path.rmdir()


def inside(path: Path) -> str:
    """What /proc/PID/cgroup says for the v2 hierarchy."""
    own = own_cgroup()
    prefix = next(e for e in Path("/proc/self/cgroup").read_text().splitlines() if e.startswith("0::"))[3:]
    return "0::" + os.path.join(prefix, path.relative_to(own))


def test_a_child_is_born_into_its_cgroup(cgroup: Path, probe: elfolio.SpawnTemplate) -> None:
    """By path or by descriptor, the child is in that cgroup, and the host is not."""
    assert inside(cgroup) in look(probe, cgroup=cgroup).cgroup.splitlines()
    assert inside(cgroup) in look(probe, cgroup=str(cgroup)).cgroup.splitlines()
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    assert inside(cgroup) in look(probe, cgroup=fd).cgroup.splitlines()
    os.close(fd)
    assert inside(cgroup) not in Path("/proc/self/cgroup").read_text().splitlines()


def test_a_cgroup_and_another_user(cgroup: Path, probe: elfolio.SpawnTemplate) -> None:
    """Birth into a cgroup goes together with options that copy memory."""
    if os.geteuid():
        pytest.skip("needs root to become another user; to force: sudo")
    seen = look(probe, cgroup=cgroup, user=65534)
    assert inside(cgroup) in seen.cgroup.splitlines()
    assert seen.uids == [65534] * 3


def test_what_is_no_cgroup_is_refused(probe: elfolio.SpawnTemplate, tmp_path: Path) -> None:
    """A directory elsewhere is EINVAL, a missing one ENOENT, a foreign descriptor EBADF; nothing is left."""
    for where, number in ((tmp_path, errno.EINVAL), (tmp_path / "none", errno.ENOENT), ("/dev/null", errno.ENOTDIR)):
        with pytest.raises(OSError) as caught:
            probe.spawn(["probe"], cgroup=where)
        assert caught.value.errno == number
    with pytest.raises(OSError) as caught:
        probe.spawn(["probe"], cgroup=0)
    assert caught.value.errno == errno.EBADF
    assert children() == []


def test_a_private_cgroup_goes_with_its_child(cgroup: Path, probe: elfolio.SpawnTemplate) -> None:
    """A private cgroup lies below the one asked for, holds the child, and is removed with it."""
    seen = look(probe, cgroup=cgroup, private_cgroup=True)
    assert any(line.startswith(inside(cgroup) + "/elfolio-") for line in seen.cgroup.splitlines())
    assert [entry for entry in cgroup.iterdir() if entry.is_dir()] == []


def test_a_failed_start_leaves_no_private_cgroup(cgroup: Path, probe: elfolio.SpawnTemplate) -> None:
    """Whatever fails, before or in the child, the private cgroup is gone."""
    for keywords in ({"cwd": "/no/such"}, {"actions": [elfolio.Close(900)]}, {"user": "no-such"}):
        with pytest.raises((OSError, KeyError)):
            probe.spawn(["probe"], cgroup=cgroup, private_cgroup=True, **keywords)
        assert [entry for entry in cgroup.iterdir() if entry.is_dir()] == []


ESCAPE = "setsid sh -c 'echo $$; exec sleep 1000' & setsid setsid sh -c 'echo $$; exec sleep 1000' & "


def test_kill_tree_reaches_all_of_a_private_cgroup(cgroup: Path, sh: elfolio.SpawnTemplate) -> None:
    """Orphans in sessions of their own that hold no pipe end by kill_tree, and the directory is gone; 20 times."""
    for _ in range(20):
        child = sh.spawn(
            ["sh", "-c", ESCAPE + "exec sleep 1000"], stdout=elfolio.PIPE, cgroup=cgroup, private_cgroup=True
        )
        assert child.stdout
        orphans = [int(child.stdout.readline()) for _ in range(2)]
        assert child.kill_tree() >= 1
        assert child.wait() == -9
        child.stdout.close()
        for pid in orphans:
            await_gone(pid)
        assert [entry for entry in cgroup.iterdir() if entry.is_dir()] == []


def test_orphans_that_outlive_their_root(cgroup: Path, sh: elfolio.SpawnTemplate) -> None:
    """After the child has ended by itself and been reaped, kill_tree still ends its orphans and removes the cgroup."""
    child = sh.spawn(["sh", "-c", ESCAPE + "exit 3"], stdout=elfolio.PIPE, cgroup=cgroup, private_cgroup=True)
    assert child.stdout
    orphans = [int(child.stdout.readline()) for _ in range(2)]
    assert child.wait() == 3
    assert all(alive(pid) for pid in orphans)
    child.kill_tree()
    child.stdout.close()
    for pid in orphans:
        await_gone(pid)
    assert [entry for entry in cgroup.iterdir() if entry.is_dir()] == []


def test_a_deadline_in_a_private_cgroup(cgroup: Path, sh: elfolio.SpawnTemplate) -> None:
    """run with a timeout and a private cgroup leaves neither orphans nor the directory."""
    import subprocess

    with pytest.raises(subprocess.TimeoutExpired) as caught:
        sh.run(["sh", "-c", ESCAPE + "exec sleep 1000"], timeout=0.3, cgroup=cgroup, private_cgroup=True)
    for pid in (caught.value.output or b"").split():
        await_gone(int(pid))
    assert [entry for entry in cgroup.iterdir() if entry.is_dir()] == []


def test_a_directory_left_by_a_killed_host(cgroup: Path) -> None:
    """A private cgroup that a killed host of the same pid left behind is no obstacle."""

    def host(cgroup: str) -> list[int]:
        import os
        from pathlib import Path

        import elfolio

        left = [Path(cgroup, f"elfolio-{os.getpid()}-{i}") for i in range(3)]
        for path in left:
            path.mkdir()
        code = elfolio.SpawnTemplate("/bin/true").spawn(["true"], cgroup=cgroup, private_cgroup=True).wait()
        for path in left:
            if path.exists():
                path.rmdir()
        return [code]

    assert in_fresh_host(host, str(cgroup)) == [0]


def test_the_hosts_own_cgroup_is_found(tmp_path: Path) -> None:
    """The hierarchy is found wherever it is mounted, with blanks in its path, and its absence is ENOENT."""
    own = tmp_path / "self"
    own.mkdir()
    (own / "cgroup").write_text("1:cpu:/x\n0::/user/me\n")
    line = "41 31 0:38 / {} rw,relatime - cgroup2 cgroup2 rw\n"
    (own / "mountinfo").write_text("1 1 0:1 / / rw - ext4 /dev/x rw\n" + line.format("/mnt/a\\040b"))
    assert own_cgroup(str(tmp_path)) == Path("/mnt/a b/user/me")
    (own / "mountinfo").write_text("1 1 0:1 / / rw - ext4 /dev/x rw\n")
    with pytest.raises(FileNotFoundError):
        own_cgroup(str(tmp_path))
