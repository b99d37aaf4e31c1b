"""tests.lab.kernels: Debian's kernels, unpacked and never installed. In: a version such as "6.1". Out: a Kernel.

Packages are fetched once, by apt-get, and kept below ${XDG_CACHE_HOME:-~/.cache}/elfolio-lab. To get a newer one
of the same version, remove its directory there.
"""

import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["Kernel", "Unavailable", "busybox", "kernel"]

# The plain flavour of a version: neither cloud (no 9p) nor rt, neither unsigned nor debug symbols.
_IMAGE = r"linux-image-{version}\.[0-9][0-9.]*(?:-[0-9]+|\+deb[0-9]+)-amd64"


class Unavailable(Exception):
    """What this machine lacks to run a lab, and how to force it."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    root: Path

    @property
    def image(self) -> Path:
        """The compressed kernel, as qemu loads it."""
        return next(self.root.glob("boot/vmlinuz-*"))

    @cached_property
    def _files(self) -> dict[str, Path]:
        return {_module_name(path.name): path for path in self.root.glob("lib/modules/*/kernel/**/*.ko*")}

    @cached_property
    def _built_in(self) -> set[str]:
        (index,) = self.root.glob("lib/modules/*/modules.builtin")
        return {_module_name(line.rpartition("/")[2]) for line in index.read_text().splitlines()}

    def modules(self, wanted: Iterable[str]) -> dict[str, bytes]:
        """Name to contents of the modules `wanted` and of what they depend on, in the order of loading. Those
        built into the kernel are left out; softdeps are not followed: name them."""
        found: dict[str, bytes] = {}
        for name in wanted:
            self._add(_module_name(name), found)
        return found

    def _add(self, name: str, found: dict[str, bytes]) -> None:
        if name in found or name in self._built_in:
            return
        if name not in self._files:
            raise Unavailable(f"{self.root.name} has no module {name}")
        contents = _read_module(self._files[name])
        # modules.dep is made by depmod at installation; this is what depmod reads.
        depends = re.search(rb"\0depends=([^\0]*)\0", contents)
        for other in depends[1].decode().split(",") if depends and depends[1] else []:
            self._add(_module_name(other), found)
        found[name] = contents


def kernel(version: str) -> Kernel:
    """Debian's newest kernel of that version, or the one in the cache. Raises Unavailable."""
    pattern = re.compile(_IMAGE.format(version=re.escape(version)))
    cached = sorted(path for path in _kept() if pattern.fullmatch(path.name))
    return Kernel(cached[-1] if cached else _fetch(_newest(pattern, version)))


def busybox() -> Path:
    """A static busybox: all of the machine's software until it has a root."""
    name = "busybox-static"
    kept = {path.name: path for path in _kept()}
    root = kept[name] if name in kept else _fetch(name)
    return next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "elfolio-lab"


def _kept() -> Iterator[Path]:
    return _cache().glob("*[!~]")


def _newest(pattern: re.Pattern[str], version: str) -> str:
    names = _output("apt-cache", "pkgnames", f"linux-image-{version}.").split()
    fitting = [name for name in names if pattern.fullmatch(name)]
    if not fitting:
        raise Unavailable(f"apt knows no kernel {version}; to force: apt-get update, on Debian for amd64")
    return max(fitting, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _fetch(package: str) -> Path:
    """Downloads and unpacks; the directory gets its name when it is complete."""
    _cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{package}.", suffix="~", dir=_cache()) as name:
        folder = Path(name)
        _output("apt-get", "download", "-qq", package, cwd=folder)
        (archive,) = folder.glob("*.deb")
        root = folder / "root"
        _output("dpkg-deb", "-x", archive, root)
        final = _cache() / package
        if not final.exists():  # else somebody was faster
            root.rename(final)
    return final


def _output(*command: str | Path, cwd: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise Unavailable(f"needs {command[0]}; to force: run on Debian")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(map(str, command))}: {done.stderr.strip()}; to force: apt-get update, online")
    return done.stdout


def _read_module(path: Path) -> bytes:
    contents = path.read_bytes()
    return lzma.decompress(contents) if path.suffix == ".xz" else contents


def _module_name(text: str) -> str:
    """The kernel takes - and _ for the same in a module's name."""
    return text.partition(".ko")[0].replace("-", "_")
