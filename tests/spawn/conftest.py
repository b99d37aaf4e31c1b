"""Fixtures of the spawn room: programs compiled once, templates closed again."""

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import elfolio
from elfolio.spawn import names, thermostat
from elfolio.spawn.pool import default_pool
from tests.spawn.comparing import Run, on_loop
from tests.spawn.probing import HERE, SANITIZED, compile_c, in_fresh_host

if os.environ.get("ELFOLIO_TEST_EAGER"):
    thermostat.policy.eager = True
    thermostat.policy.starts = 0


@pytest.fixture(scope="session", autouse=True)
def names_directory() -> None:
    """The directory of task names lives as long as the process: it is nobody's leak."""
    fd = os.open("/dev/null", os.O_RDONLY)
    names.link_for(fd, "null")
    names.unlink_for(fd)
    os.close(fd)


@pytest.fixture(autouse=True)
def nothing_preloaded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C core is sanitized, what is about warm children starts them without the sanitizer."""
    if SANITIZED and request.path.name.startswith(("test_warm", "test_explain", "test_differential")):
        monkeypatch.delenv("LD_PRELOAD")


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory of compiled programs that any user may execute: probe, and exit-N for N of 0, 7, 8."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc; to force: apt-get install gcc libc6-dev")
    # Not pytest's own: its directories are their owner's alone.
    with tempfile.TemporaryDirectory(prefix="programs-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        compile_c(folder / "probe", HERE / "probe.c")
        for code in (0, 7, 8):
            compile_c(folder / f"exit-{code}", f"int main(void) {{ return {code}; }}")
        yield folder


@pytest.fixture(scope="session")
def probe_path(programs: Path) -> Path:
    """The probe."""
    return programs / "probe"


@pytest.fixture
def probe(probe_path: Path) -> Iterator[elfolio.SpawnTemplate]:
    """A template of the probe."""
    with elfolio.SpawnTemplate(probe_path) as template:
        yield template


@pytest.fixture
def sh() -> Iterator[elfolio.SpawnTemplate]:
    """A template of the shell."""
    with elfolio.SpawnTemplate("/bin/sh") as template:
        yield template


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty directory that any user may enter."""
    with tempfile.TemporaryDirectory(prefix="open-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def program(programs: Path, open_folder: Path) -> Path:
    """A program of this test's own, which exits with 7 and may be changed."""
    path = open_folder / "program"
    shutil.copy(programs / "exit-7", path)
    return path


@pytest.fixture(scope="session")
def seccomp() -> None:
    """Skips where this process may not filter system calls."""

    def filtered() -> bool:
        from tests.spawn.seccomp import deny

        deny(("clone3", 38))
        return True

    try:
        in_fresh_host(filtered)
    except (AssertionError, OSError):
        pytest.skip("needs seccomp filters; to force: run where prctl(PR_SET_SECCOMP) is allowed")


@pytest.fixture
def empty_pool() -> Iterator[None]:
    """The drop-ins' templates are nobody's leak."""
    yield
    default_pool().close()


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` stays cold, for what is about cold starts: default templates are among it."""
    default_pool().close()
    monkeypatch.setattr(thermostat.policy, "eager", False)
    monkeypatch.setattr(thermostat.policy, "starts", 1 << 30)


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Runs a coroutine on asyncio's loop, and on uvloop's."""
    try:
        module = importlib.import_module(request.param)
    except ImportError:
        pytest.skip("needs uvloop; to force: pip install uvloop")
    module.new_event_loop().close()  # libuv keeps a pipe for signals, once it has been used
    return lambda main: on_loop(module.new_event_loop, main)
