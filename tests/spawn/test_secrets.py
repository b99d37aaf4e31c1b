"""A child that was not given a secret does not get it, by any of the ways a secret could travel."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import elfolio
from tests.spawn.probing import in_fresh_host, look

SECRET = "s3cr3t-" + "x" * 20
SAFE_ENV: list[dict[str, Any]] = [{"env": {}}, {"env_allow": ["PATH"]}, {"env": {"PATH": "/bin"}}]


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A secret in an inheritable descriptor 7 and in the environment."""
    saved = os.dup(7) if os.path.lexists("/proc/self/fd/7") else -1
    path = tmp_path / "secret"
    path.write_text(SECRET)
    fd = os.open(path, os.O_RDONLY)
    os.dup2(fd, 7, inheritable=True)
    os.close(fd)
    monkeypatch.setenv("SECRET", SECRET)
    try:
        yield str(path)
    finally:
        if saved >= 0:
            os.dup2(saved, 7, inheritable=False)
            os.close(saved)
        else:
            os.close(7)


@pytest.mark.parametrize("env", SAFE_ENV, ids=str)
def test_descriptor_7_and_the_environment(env: dict[str, Any], secret: str, probe: elfolio.SpawnTemplate) -> None:
    """By default descriptor 7 does not reach the child, nor does a variable that env or env_allow leaves out."""
    seen = look(probe, **env)
    assert 7 not in seen.fds
    assert secret not in seen.targets.values()
    assert SECRET not in "".join(seen.env)
    for options in ({"actions": [elfolio.Dup2(1, 9)]}, {"pass_fds": [1, 2]}, {"close_targets": True}, {"user": None}):
        assert secret not in look(probe, **env, **options).targets.values()


def test_it_reaches_a_child_that_was_given_it(secret: str, probe: elfolio.SpawnTemplate) -> None:
    """The control: passed, inherited or duplicated on purpose the descriptor arrives, and so does the variable."""
    assert look(probe, pass_fds=[7]).targets[7] == secret
    assert look(probe, inherit_fds=True).targets[7] == secret
    assert look(probe, actions=[elfolio.Dup2(7, 20)]).targets[20] == secret
    assert f"SECRET={SECRET}" in look(probe).env
    assert look(probe, env_allow=["SECRET"]).env == [f"SECRET={SECRET}"]


@pytest.mark.usefixtures("secret")
def test_what_the_child_can_read(sh: elfolio.SpawnTemplate) -> None:
    """A shell that tries its own descriptors, environment and memory map of itself finds no secret."""
    script = "cat <&7; for f in /proc/self/fd/*; do readlink $f; done; env; cat /proc/$$/environ"
    done = sh.run(["sh", "-c", script], env={"PATH": "/usr/bin:/bin"})
    assert isinstance(done.stdout, bytes)
    assert isinstance(done.stderr, bytes)
    assert SECRET.encode() not in done.stdout + done.stderr
    assert b"/secret" not in done.stdout


def test_elfolios_own_descriptors_stay_at_home(probe: elfolio.SpawnTemplate, sh: elfolio.SpawnTemplate) -> None:
    """Neither pinned files, pidfds, pipes of other children nor the lock of the names reach a child, even with
    inherit_fds=True."""
    before = set(look(probe, inherit_fds=True).fds)
    with elfolio.SpawnTemplate("/usr/bin/awk") as awk:
        awk.spawn(["awk", "BEGIN {}"]).wait()
        with sh.spawn(["sh", "-c", "cat"], stdin=elfolio.PIPE, stdout=elfolio.PIPE, stderr=elfolio.PIPE):
            assert set(look(probe, inherit_fds=True).fds) == before
            assert set(look(probe).fds) == {0, 1, 2}


def test_nothing_leaks_while_threads_spawn(probe_path: Path) -> None:
    """Pipes of concurrent spawns in other threads never reach a child: each sees its own three descriptors."""

    def host(probe: str) -> list[Any]:
        import threading

        import elfolio
        from tests.spawn.probing import snapshot

        template, strange = elfolio.SpawnTemplate(probe), []

        def work() -> None:
            for _ in range(60):
                done = template.run(["probe", "-"], input=b"x")
                seen = snapshot(done.stdout.decode())  # type: ignore[union-attr]
                if set(seen.fds) != {0, 1, 2} or len({seen.targets[0], seen.targets[1], seen.targets[2]}) != 3:
                    strange.append(seen.targets)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return strange

    assert in_fresh_host(host, str(probe_path)) == []
