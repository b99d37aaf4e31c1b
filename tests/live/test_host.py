"""live.host: this machine's policy, and recorded machines'."""

import os
import resource
from pathlib import Path

import pytest

from elfolio.kernel.policy import PMD_SIZES
from elfolio.live.host import file_system_of, host_here, policy_here

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
30 22 0:40 / /home rw - btrfs /dev/b rw,subvol=/
31 30 0:41 / /home/a\\040b rw - tmpfs tmpfs rw
32 22 0:42 / /home rw - xfs /dev/c rw
"""


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """A recorded /proc and /sys."""
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    (proc / "sys/kernel").mkdir(parents=True)
    (proc / "sys/kernel/osrelease").write_text("6.1.0-37-amd64\n")
    (proc / "sys/vm").mkdir()
    (proc / "sys/vm/mmap_rnd_bits").write_text("32\n")
    (proc / "self").mkdir()
    (proc / "self/mountinfo").write_text(MOUNTS)
    (sys / "kernel/mm/transparent_hugepage").mkdir(parents=True)
    (sys / "kernel/mm/transparent_hugepage/enabled").write_text("[always] madvise never\n")
    return proc, sys


def test_a_recorded_machine(roots: tuple[Path, Path]) -> None:
    """Version, random bits and huge pages come from the trees that are given."""
    rules = policy_here(proc=roots[0], sys=roots[1])
    assert (rules.version, rules.mmap_rnd_bits, rules.thp) == ((6, 1, 0), 32, "always")


@pytest.mark.parametrize(
    ("name", "text", "version"),
    [
        (
            "version",
            "Linux version 6.1.0-37-amd64 (gcc-12 (Debian 12.2.0-14)) #1 SMP Debian 6.1.140-1 (x)",
            (6, 1, 140),
        ),
        ("version", "Linux version 6.1.0-37-amd64 (x@y) #1 SMP Debian 6.12.1-1", (6, 1, 0)),
        ("version_signature", "Ubuntu 6.1.0-91.101-generic 6.1.131", (6, 1, 131)),
    ],
)
def test_a_distributions_true_version(roots: tuple[Path, Path], name: str, text: str, version: tuple[int, ...]) -> None:
    """Where the release leaves out the point release, the build string or the signature says it: backports depend on
    it."""
    (roots[0] / name).write_text(text + "\n")
    assert policy_here(proc=roots[0], sys=roots[1]).version == version


def test_trees_that_say_nothing(tmp_path: Path) -> None:
    """Where the files are missing, there are defaults and no error."""
    rules = policy_here(proc=tmp_path, sys=tmp_path)
    assert rules.mmap_rnd_bits == 28
    assert rules.thp == "never"


def test_this_machine() -> None:
    """The running kernel's version, page size and PMD size."""
    rules = policy_here("/proc/self/exe")
    assert rules.page_size == os.sysconf("SC_PAGE_SIZE")
    assert os.uname().release.startswith(".".join(str(part) for part in rules.version[:2]))
    pmd = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    if not pmd.exists():
        pytest.skip("needs transparent huge pages; to force: a kernel with CONFIG_TRANSPARENT_HUGEPAGE")
    assert PMD_SIZES[rules.page_size] == rules.pmd_size == int(pmd.read_text())


def test_this_machines_host() -> None:
    """The limits that a child would inherit, and the vdso that this process has."""
    host = host_here(policy_here())
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    assert limit in (host.stack_limit, resource.RLIM_INFINITY)
    assert host.vdso % 4096 == 0
    assert host.vdso


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/etc", "ext4"), ("/homes", "ext4"), ("/home", "xfs"), ("/home/x", "xfs"), ("/home/a b/c", "tmpfs")],
)
def test_the_file_system_is_the_innermost_mount(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    """Of mounts the longest path counts, of several on one place the last; names are unescaped, and /homes is not in
    /home."""
    monkeypatch.setattr(os, "stat", lambda _: None)
    monkeypatch.setattr(os.path, "realpath", lambda text: text)
    assert file_system_of(path, roots[0]) == kind


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is an error, not the root's file system."""
    with pytest.raises(FileNotFoundError):
        file_system_of(str(tmp_path / "nothing"))
