"""tests.lab.mm_kernels: the kernels that the address-space model is held against. In: a name. Out: a Kernel.

Most come from this machine's own sources (tests.lab.kernels); a later release's come from a suite of the same mirror
that these sources need not name, and are nothing but the kernel: no modules.
"""

import re
import shutil
from functools import cache
from pathlib import Path

from tests.lab import kernels
from tests.lab.kernels import Kernel, Unavailable, _cache, _keep, _output, _unpack, own_lists

__all__ = ["LAB", "SMALL", "lab_kernel"]

LAB = ("6.1", "6.12", "7.2", "6.12-arm64-16k")
"""What `make lab` boots: a version, and a flavour where it is not amd64."""
SMALL = ("6.1",)
"""Those that get no more bits of address than a program asks for without a hint: no five levels of page tables. The
others get all there are (LA57 on x86-64, LPA2 on arm64)."""
_LATER = {"7.2": "trixie-backports"}
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def lab_kernel(name: str) -> Kernel:
    """One of LAB, fetched at its first use. Raises Unavailable."""
    version, _, flavour = name.partition("-")
    flavour = flavour or "amd64"
    if version in _LATER:
        return _later(version, flavour, _LATER[version])
    return kernels.kernel(version, flavour)


def _later(version: str, flavour: str, suite: str) -> Kernel:
    architecture = flavour.partition("-")[0]
    pattern = re.compile(rf"linux-binary-{re.escape(version)}\.[0-9.]+\+deb[0-9]+-{flavour}")
    kept = sorted(path for path in _cache().glob("linux-binary-*[!~]") if pattern.fullmatch(path.name))
    if kept:
        return Kernel(kept[-1], architecture)
    options = _sources(architecture, suite)
    names = _output("apt-cache", *options, "pkgnames", f"linux-binary-{version}.").split()
    fitting = [name for name in names if pattern.fullmatch(name)]
    if not fitting:
        raise Unavailable(f"{suite} has no kernel {version} for {flavour}; to force: name another suite")
    newest = max(fitting, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    return Kernel(_keep(newest, lambda folder: _fetch(newest, folder, options)), architecture)


def _fetch(package: str, folder: Path, options: tuple[str, ...]) -> None:
    """The kernel, and the list of what is built into it; both where the packages of older releases have them."""
    base = package.replace("linux-binary", "linux-base")
    _output("apt-get", *options, "download", "-qq", package, base, cwd=folder)
    _unpack(folder)
    (image,) = folder.glob("root/usr/lib/modules/*/vmlinuz")
    boot = folder / "root/boot"
    boot.mkdir()
    shutil.move(image, boot / f"vmlinuz-{image.parent.name}")
    if not (folder / "root/lib").exists():
        (folder / "root/lib").symlink_to("usr/lib")


@cache
def _sources(architecture: str, suite: str) -> tuple[str, ...]:
    """Options for apt's programs: this suite alone, with lists of its own, just updated."""
    lines = _output(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"
    ).splitlines()
    mirrors = [line.split()[0] for line in lines if re.search(r"/debian/? [a-z]+$", line)]
    if not mirrors:
        raise Unavailable("apt's sources name no Debian mirror; to force: run on Debian")
    folder = _cache() / f"apt-{suite}-{architecture}~"
    folder.mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYS}] {mirrors[0]} {suite} main\n")
    return own_lists(folder, architecture, Dir__Etc__SourceList=sources, Dir__Etc__SourceParts="/dev/null")
