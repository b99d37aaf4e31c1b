"""pagecache.probe: what a file system gives, found by trial."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from elfolio.live.host import policy_here
from elfolio.pagecache.probe import folio_sizes, probe

HEAD, TAIL = 1 << 15, 1 << 16
M = 1 << 20


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        ([], {}),
        ([0, 0], {4096: 2}),
        ([HEAD, TAIL, TAIL, TAIL, 0, HEAD, TAIL], {16384: 1, 4096: 1, 8192: 1}),
        ([TAIL, TAIL, 0], {8192: 1, 4096: 1}),
    ],
)
def test_folios_are_heads_with_their_tails(flags: list[int], sizes: dict[int, int]) -> None:
    """A page without a tail behind it is a folio of its own; a run that begins with a tail is one as far as it goes."""
    assert folio_sizes(flags, 4096) == sizes


def test_the_trial_agrees_with_the_policy(tmp_path: Path) -> None:
    """No folio is larger than the file system allows in this kernel, and what was written is there."""
    found = probe(tmp_path)
    here = policy_here(str(tmp_path))
    if found.largest is not None:
        assert found.largest <= max(here.largest_folio, here.pmd_size)
    if os.geteuid() == 0:
        assert sum(size * count for size, count in found.folios) % (8 * M) == 0
        assert found.how == "pagemap and kpageflags"
    assert list(tmp_path.iterdir()) == []


AS_NOBODY = """
import os, sys
from elfolio.pagecache.probe import probe
os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = probe(sys.argv[1])
print(found.largest, found.folios, found.how)
"""


@pytest.mark.root
def test_without_privilege_huge_folios_are_still_seen() -> None:
    """An ordinary user learns of huge pages from smaps, and that smaller folios cannot be told."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        if probe(directory).largest != 2 * M:
            pytest.skip("this file system gave no folio of 2 MiB: try ext4 from Linux 6.16, or xfs")
        os.chmod(directory, 0o777)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        words = [sys.executable, "-c", AS_NOBODY, directory]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "2097152 () FilePmdMapped in smaps\n"), done.stderr


def test_a_directory_that_cannot_be_written_to_is_an_error() -> None:
    """The reason is the kernel's."""
    with pytest.raises(OSError) as caught:
        probe("/proc")
    assert caught.value.errno in (errno.ENOENT, errno.EACCES, errno.EOPNOTSUPP, errno.EROFS)
