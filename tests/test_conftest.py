"""The leak check of conftest.py, held on leaks made on purpose."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.conftest import held


def test_a_child_left_behind_is_found() -> None:
    """A running child and an unreaped one are both found; after the wait they are not."""
    before = held()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert any(line.startswith(f"child {child.pid}: ") for line in held().leaked_since(before))
        assert child.stdin
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert f"child {child.pid}: cat (Z)" in held().leaked_since(before)
    assert held().leaked_since(before) == []


def test_a_descriptor_left_open_is_found() -> None:
    """A descriptor more than before is found, with what it refers to."""
    before = held()
    fd = os.open("/dev/null", os.O_RDONLY)
    found = held().leaked_since(before)
    os.close(fd)
    assert found == [f"descriptor {fd}: /dev/null"]


def test_a_temporary_directory_left_behind_is_found() -> None:
    """A temporary directory with elfolio's prefix that outlives its test is found."""
    before = held()
    with tempfile.TemporaryDirectory(prefix="elfolio-names-") as path:
        assert held().leaked_since(before) == [f"left behind: {path}"]
    assert held().leaked_since(before) == []


@pytest.mark.leaky(reason="shows the opt-out; the session ends with it")
def test_the_opt_out_is_honoured(tmp_path: Path) -> None:
    """A test marked leaky may leave a descriptor."""
    os.open(tmp_path, os.O_PATH)
