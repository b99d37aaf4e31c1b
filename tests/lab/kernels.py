"""tests.lab.kernels: Debian's kernels and programs, unpacked and never installed. In: a version such as "6.1", or
names of packages. Out: a Kernel, or a directory.

Packages are fetched once, by apt-get, and kept below ${XDG_CACHE_HOME:-~/.cache}/elfolio-lab. To get a newer one
of the same version, remove its directory there. Those of another architecture come from the same sources; this
machine's dpkg hears nothing of it.
"""

import lzma
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

__all__ = ["OWN", "Kernel", "Unavailable", "busybox", "kernel", "userland"]

OWN = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
"""This machine's architecture, as Debian calls it."""

# One flavour of a version: neither cloud (no 9p) nor rt, neither unsigned nor debug symbols.
_IMAGE = r"linux-image-{version}\.[0-9][0-9.]*(?:-[0-9]+|\+deb[0-9]+)-{flavour}"


class Unavailable(Exception):
    """What this machine lacks to run a lab, and how to force it."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    root: Path
    architecture: str

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


def kernel(version: str, flavour: str = "amd64") -> Kernel:
    """Debian's newest kernel of that version, or the one in the cache. Raises Unavailable. A flavour is an
    architecture, with pages of another size if one follows: "arm64-16k"."""
    architecture = flavour.partition("-")[0]
    pattern = re.compile(_IMAGE.format(version=re.escape(version), flavour=flavour))
    cached = sorted(path for path in _kept() if pattern.fullmatch(path.name))
    if cached:
        return Kernel(cached[-1], architecture)
    package = _newest(pattern, version, architecture)
    return Kernel(_keep(package, lambda folder: _download(package, folder, architecture)), architecture)


def busybox(architecture: str) -> Path:
    """A static busybox: all of the machine's software until it has a root."""
    package = "busybox-static"
    name = package if architecture == OWN else f"{package}-{architecture}"
    root = _keep(name, lambda folder: _download(package, folder, architecture))
    return next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())


def userland(architecture: str, packages: Iterable[str]) -> Path:
    """A root directory with these packages and all that they depend on, whatever this machine has of them; none is
    configured."""
    names = sorted(packages)
    version = zlib.crc32(" ".join(names).encode())
    return _keep(
        f"userland-{architecture}-{version:08x}", lambda folder: _download_with_all(names, folder, architecture)
    )


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "elfolio-lab"


def _kept() -> Iterator[Path]:
    return _cache().glob("*[!~]")


def _newest(pattern: re.Pattern[str], version: str, architecture: str) -> str:
    names = _output("apt-cache", *_apt(architecture), "pkgnames", f"linux-image-{version}.").split()
    fitting = [name for name in names if pattern.fullmatch(name)]
    if not fitting:
        raise Unavailable(f"apt knows no kernel {version} for {architecture}; to force: apt-get update, on Debian")
    return max(fitting, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _keep(name: str, unpack_into: Callable[[Path], None]) -> Path:
    """The directory of that name, unpacked before or now; it gets its name when it is complete."""
    final = _cache() / name
    if final.exists():
        return final
    _cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}.", suffix="~", dir=_cache()) as temporary:
        folder = Path(temporary)
        unpack_into(folder)
        if not final.exists():  # else somebody was faster
            (folder / "root").rename(final)
    return final


def _download(package: str, folder: Path, architecture: str) -> None:
    _output("apt-get", *_apt(architecture), "download", "-qq", package, cwd=folder)
    _unpack(folder)


def _download_with_all(packages: Iterable[str], folder: Path, architecture: str) -> None:
    (folder / "partial").mkdir()
    place = ["-o", f"Dir::Cache::archives={folder}", "-o", "Debug::NoLocking=1"]
    _output(
        *("apt-get", *_lists(architecture), *place),
        *("install", "--download-only", "--no-install-recommends", "-qq", "-y", *packages),
    )
    _unpack(folder)


def _unpack(folder: Path) -> None:
    for archive in sorted(folder.glob("*.deb")):
        _output("dpkg-deb", "-x", archive, folder / "root")


def _apt(architecture: str) -> tuple[str, ...]:
    """Options for apt's programs: for this architecture none."""
    return () if architecture == OWN else _lists(architecture)


@cache
def _lists(architecture: str) -> tuple[str, ...]:
    """Options for apt's programs: lists of an architecture's own, just updated, and nothing installed."""
    return own_lists(_cache() / f"apt-{architecture}~", architecture)


def own_lists(folder: Path, architecture: str, **settings: object) -> tuple[str, ...]:
    """Options for apt's programs: one architecture's lists, in a folder of their own, just updated. `settings` are
    apt.conf(5)'s, with `__` for their colons."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    every = {
        "APT__Architecture": architecture,
        "APT__Architectures": architecture,
        **settings,
        "Dir__State": folder / "state",
        "Dir__State__status": folder / "status",
        "Dir__Cache": folder / "cache",
    }
    options = tuple(word for key, value in every.items() for word in ("-o", f"{key.replace('__', '::')}={value}"))
    _output("apt-get", *options, "update", "-qq")
    return options


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
