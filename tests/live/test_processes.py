"""live.processes: which processes there are, from recorded trees and on this machine."""

import os
import subprocess
from pathlib import Path

import pytest

from elfolio.live.processes import cgroup_processes, every_process, standing

THREAD = "a kernel thread: it has no address space of its own"
STATUS = "Name:\ta\tb\nState:\tS (sleeping)\nPPid:\t1\nVmSize:\t 5 kB\n"


def tree(root: Path, pid: int, status: str) -> Path:
    """A /proc with a process."""
    (root / str(pid)).mkdir()
    (root / str(pid) / "status").write_text(status)
    return root


@pytest.mark.parametrize(
    ("status", "kernel", "said"),
    [
        (STATUS, False, ""),
        (STATUS + "Kthread:\t0\n", False, ""),
        ("Name:\tk\nState:\tI (idle)\nPPid:\t2\nKthread:\t1\n", True, THREAD),
        ("Name:\tk\nState:\tI (idle)\nPPid:\t2\n", True, THREAD),
        ("Name:\tz\nState:\tZ (zombie)\nPPid:\t9\n", False, "a zombie: it has ended, and process 9 has not asked how"),
        (
            "Name:\tz\nState:\tZ (zombie)\nPPid:\t9\nKthread:\t0\n",
            False,
            "a zombie: it has ended, and process 9 has not asked how",
        ),
    ],
)
def test_what_a_process_is(tmp_path: Path, status: str, kernel: bool, said: str) -> None:
    """Kernel threads and zombies, by kernels that say which they are and by those that do not."""
    found = standing(7, tree(tmp_path, 7, status))
    assert (found.kernel, found.memoryless) == (kernel, said)


def test_the_processes_of_a_tree(tmp_path: Path) -> None:
    """Those with a number for a name, ascending."""
    for pid in (30, 4):
        tree(tmp_path, pid, STATUS)
    (tmp_path / "sys").mkdir()
    assert every_process(tmp_path) == (4, 30)
    with pytest.raises(ProcessLookupError):
        standing(5, tmp_path)


def test_this_machine_s() -> None:
    """This process and its child are among them, and have memory."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(every_process())
        found = standing(child.pid)
        assert (found.parent, found.memoryless) == (os.getpid(), "")
        child.communicate()


def test_a_control_group_and_those_below(tmp_path: Path) -> None:
    """Each process once, whatever directories stand between; a directory without the file is no control group."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("7\n3\n")
    (tmp_path / "a/cgroup.procs").write_text("")
    (tmp_path / "a/b/cgroup.procs").write_text("3\n11\n")
    assert cgroup_processes(tmp_path) == (3, 7, 11)
    with pytest.raises(OSError, match="no control group"):
        cgroup_processes(tmp_path.parent)
    with pytest.raises(FileNotFoundError):
        cgroup_processes(tmp_path / "none")
