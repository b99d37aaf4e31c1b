"""live.host: this machine's rules. In: /proc, /sys, a file. Out: Policy, Host, as the kernel room wants them.

What can be probed is probed: page size, PMD_SIZE, transparent huge pages, random bits, the file system of a file, the
sizes of the vdso. The rest follows from the kernel's version.
"""

import os
import re
import resource
from dataclasses import replace
from pathlib import Path

from elfolio.kernel.host import Host, default_host, with_large_addresses
from elfolio.kernel.libc import LIBCS
from elfolio.kernel.policy import Policy
from elfolio.kernel.switches import Version
from elfolio.live.layers import layered, mount_of
from elfolio.live.maps import parse_maps

__all__ = ["file_system_of", "host_here", "policy_here"]

_CAP_SYS_RAWIO = 17
_NO_LIMIT = 1 << 63


def policy_here(path: str | None = None, *, proc: str | Path = "/proc", sys: str | Path = "/sys") -> Policy:
    """The running kernel's policy, with the file system of the file at `path`. What another root than this machine's
    /proc and /sys do not say stays at its default. Raises OSError for a path that is not there."""
    proc, sys = Path(proc), Path(sys)
    release = _text(proc / "sys/kernel/osrelease") or os.uname().release
    policy = Policy(
        f"linux-{release}",
        _true_version(proc, release),
        os.uname().machine,
        os.sysconf("SC_PAGE_SIZE"),
        mmap_rnd_bits=int(_text(proc / "sys/vm/mmap_rnd_bits") or 28),
        thp=_chosen(_text(sys / "kernel/mm/transparent_hugepage/enabled")),
        libc=LIBCS[_libc()],
    )
    return policy if path is None else replace(policy, fs=layered(os.path.realpath(path), os.stat(path), proc))


def host_here(policy: Policy, bits: int = 64, *, proc: str | Path = "/proc") -> Host:
    """What an exec by this process would get from this machine; `strings` stays at its default. The vdso of 32-bit
    programs on a 64-bit kernel cannot be seen from here, and has the default's size."""
    proc = Path(proc)
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    host = replace(
        default_host(policy, bits),
        stack_limit=_NO_LIMIT if limit == resource.RLIM_INFINITY else limit,
        mmap_min_addr=int(_text(proc / "sys/vm/mmap_min_addr") or 65536),
        privileged=bool(_capabilities(proc) >> _CAP_SYS_RAWIO & 1),
        memory=_memory(proc),
    )
    if _five_levels(proc):
        host = with_large_addresses(host, policy.machine)
    return _with_vdso(host, proc) if bits == 64 else host


def _five_levels(proc: Path) -> bool:
    """x86-64: the kernel takes the flag away where it does not use them. That aarch64 has LPA2 is shown nowhere."""
    return re.search(r"^flags\s*:.*\bla57\b", _text(proc / "cpuinfo"), re.M) is not None


def _with_vdso(host: Host, proc: Path) -> Host:
    sizes: dict[str, int] = {}
    perms = ""
    for vma in parse_maps((proc / "self/maps").read_bytes().decode("utf-8", "surrogateescape")):
        sizes[vma.name] = vma.size
        perms = vma.perms[:3] if vma.name == "[vsyscall]" else perms
    vvar, clock, vdso = (sizes.get(name, 0) for name in ("[vvar]", "[vvar_vclock]", "[vdso]"))
    return replace(host, vvar=vvar, vvar_vclock=clock, vdso=vdso, vsyscall=perms)


def file_system_of(path: str, proc: str | Path = "/proc") -> str:
    """The type of the file system that a file is on, as mountinfo names it; empty where it cannot be told."""
    os.stat(path)
    return mount_of(os.path.realpath(path), proc).kind


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _version(release: str) -> Version:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    return tuple(int(part) for part in found.groups("0")) if found else (0,)


def _true_version(proc: Path, release: str) -> Version:
    """Distributions' releases leave out the point release (6.1.0-37-amd64), and say it elsewhere: Debian in its build
    string, Ubuntu in a file of its own."""
    said = re.findall(r"Debian (\d+\.\d+\.\d+)", _text(proc / "version"))  # of the compiler, and of the kernel
    said += re.findall(r"(\d+\.\d+\.\d+)$", _text(proc / "version_signature"))
    told = _version(release)
    return next((version for version in map(_version, said) if version[:2] == told[:2]), told)


def _chosen(text: str) -> str:
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else "never"


def _libc() -> str:
    """The newest entry of the table that is not newer than this system's glibc; musl where there is none."""
    try:
        words = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        words = ""
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", words)
    if found is None:
        return "musl"
    minor = int(found[2])
    known = sorted(int(name.removeprefix("glibc-2.")) for name in LIBCS if name.startswith("glibc-2."))
    return f"glibc-2.{max((n for n in known if n <= minor), default=known[0])}"


def _capabilities(proc: Path) -> int:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", _text(proc / "self/status"), re.M)
    return int(found[1], 16) if found else 0


def _memory(proc: Path) -> int | None:
    """RAM and swap in bytes, above which OVERCOMMIT_GUESS refuses; None where all is granted (__vm_enough_memory)."""
    if _text(proc / "sys/vm/overcommit_memory") == "1":
        return None
    sizes = dict(re.findall(r"^(MemTotal|SwapTotal):\s*(\d+) kB", _text(proc / "meminfo"), re.M))
    return sum(int(size) for size in sizes.values()) * 1024 or None
