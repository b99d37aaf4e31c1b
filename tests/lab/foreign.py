"""tests.lab.foreign: what another architecture's machine needs to run elfolio's tests. In: its name. Out: Foreign.

Its programs are Debian's; elfolio and the mirror are cross-compiled from this tree.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.lab.kernels import Unavailable, userland
from tests.spawn.mirroring import compile_mirror

__all__ = ["Foreign", "prepare"]

ROOT = Path(__file__).resolve().parent.parent.parent
_PLATFORMS = {"amd64": "x86_64", "arm64": "aarch64"}
_PACKAGES = (
    *("bash", "coreutils", "dash", "util-linux"),
    *("python3", "python3-hypothesis", "python3-pytest", "libpython3-dev"),
)


@dataclass(frozen=True)
class Foreign:
    """A root directory, and what is to be carried into the machine."""

    root: Path
    carry: dict[str, Path]
    """Names to directories: the packages `elfolio` and `tests`, and `mirror`."""


def prepare(architecture: str, folder: Path) -> Foreign:
    """Builds into `folder`. Raises Unavailable without a cross compiler, or apt."""
    machine = _PLATFORMS[architecture]
    gcc = f"{machine}-linux-gnu-gcc"
    if shutil.which(gcc) is None:
        packages = f"gcc-{machine.replace('_', '-')}-linux-gnu libc6-dev-{architecture}-cross"
        raise Unavailable(f"needs {gcc}; to force: apt-get install {packages}")
    root = userland(architecture, _PACKAGES)
    package, mirror = folder / "elfolio", folder / "mirror"
    shutil.copytree(ROOT / "src/elfolio", package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    _build(folder, root, machine, gcc)
    mirror.mkdir()
    compile_mirror(mirror, gcc)
    return Foreign(root, {"elfolio": package, "tests": ROOT / "tests", "mirror": mirror})


def _build(folder: Path, root: Path, machine: str, gcc: str) -> None:
    """The extension and the stub, beside the package's modules."""
    (headers,) = root.glob("usr/include/python3.*")
    settings = {
        "CC": gcc,
        "LDSHARED": f"{gcc} -shared",
        # This Python's own headers would be found otherwise, and say what its machine is like.
        "CFLAGS": f"-I{headers} -idirafter {root}/usr/include",
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        "ELFOLIO_WERROR": "1",
    }
    places = ["--build-temp", str(folder / "objects"), "--build-lib", str(folder)]
    command = [sys.executable, "setup.py", "-q", "build_ext", *places]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=True)
