"""tests.lab.mm_ksm: PR_SET_MEMORY_MERGE under another kernel. In: the kernel's name. Out: Seen.

Debian's python3 and gcc, on an ext4 image, run there with and without the prctl and are recorded; here each record is
replayed, under that kernel's policy and under one that sets KSM's flag early. By hand:

    python -m tests.lab.mm_ksm [6.12]
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import elfolio
from bench import ksm
from bench.table import show
from elfolio.kernel.policy import policy
from tests.lab.boot import Ended, boot
from tests.lab.kernels import OWN, Unavailable, kernel, userland

__all__ = ["EARLY", "Seen", "seen", "text"]

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = Path(elfolio.__file__).resolve().parent.parent
EARLY = "linux-6.18"
_PROGRAMS = ("base-files", "gcc", "libc6-dev", "python3")
_MODULES = ("loop", "crc32c_generic", "ext4")  # ext4 wants crc32c by a softdep, which is not followed


@dataclass(frozen=True)
class Seen:
    """What came of one boot."""

    release: str
    counted: Mapping[str, ksm.Counted]
    """Of each program."""
    shared: Mapping[str, ksm.Shared]
    """Of workers, by how their addresses are chosen."""
    workers: int
    seconds: float


def seen(version: str, workers: int = 16) -> Seen:
    """Boots it. Raises Unavailable, RuntimeError."""
    root = userland(OWN, _PROGRAMS)
    if shutil.which("mkfs.ext4") is None:
        raise Unavailable("needs mkfs.ext4; to force: apt-get install e2fsprogs")
    with tempfile.TemporaryDirectory(prefix="lab-") as name:
        folder = Path(name)
        ended = _run(version, _image(root, folder / "image"), workers)
        if ended.returncode != 0:
            raise RuntimeError(ended.stderr + ended.console[-2000:])
        found = json.loads(ended.stdout)
        counted = {what: _counted(records, version, folder) for what, records in found["records"].items()}
    shared = {what: ksm.Shared(*figures) for what, figures in found["shared"].items()}
    return Seen(ended.release, counted, shared, workers, ended.seconds)


def _image(root: Path, path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(2 << 30)  # a hole where it is empty
    command = ["mkfs.ext4", "-q", "-d", str(root), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return path


def _run(version: str, image: Path, workers: int) -> Ended:
    return boot(
        kernel(version),
        [sys.executable, "-m", "tests.lab.ksm_inside", image, str(workers)],
        env={"LANG": "C.UTF-8", "PYTHONPATH": str(PACKAGES), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        show=[PACKAGES, image.parent, Path(sys.prefix), Path(sys.base_prefix)],
        modules=_MODULES,
        timeout=900,
        memory_mib=2048,
    )


def _counted(records: list[str], version: str, folder: Path) -> ksm.Counted:
    paths = folder / "plain", folder / "merged"
    for path, record in zip(paths, records, strict=True):
        path.write_text(record, errors="surrogateescape")
    own = policy(f"linux-{version}")
    return ksm.counted(*paths, own=own, late=own, early=policy(EARLY))


def text(found: Seen) -> str:
    """As tables."""
    rows = [[what, *(f"{size / 2**20:.1f}" for size in shared)] for what, shared in found.shared.items()]
    sizes = (f"{found.workers} workers, MiB", "Pss before", "after", "merged", "profit")
    head = f"Linux {found.release}, {found.seconds:.0f} s in all"
    return "\n".join((head, ksm.table(found.counted), show("memory_merge=True", sizes, rows)))


if __name__ == "__main__":
    print(text(seen(sys.argv[1] if sys.argv[1:] else "6.12")))
