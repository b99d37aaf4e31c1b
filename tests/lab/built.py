"""tests.lab.built: a kernel that no distribution builds. In: a version. Out: a Kernel with READ_ONLY_THP_FOR_FS.

Debian's and Ubuntu's kernels leave that option out. So the kernel is built here, from Debian's source package: as small
as the lab can use, which takes some ten minutes of one processor, once; it is kept with the others (tests.lab.kernels).
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.lab.boot import _NEEDED
from tests.lab.kernels import OWN, Kernel, Unavailable, _keep, _output

__all__ = ["collapsing_kernel"]

_TOOLS = {"gcc": "gcc", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils"}
_OPTIONS = (
    # A machine that boots from an initramfs, with a console, and finds virtio devices.
    *("64BIT", "EXPERT", "SMP", "ACPI", "PCI", "PCI_MSI", "VIRTIO_MENU", "VIRTIO_PCI", "BLK_DEV_INITRD"),
    *("PRINTK", "TTY", "UNIX98_PTYS", "SERIAL_8250", "SERIAL_8250_CONSOLE", "MAGIC_SYSRQ"),
    # What init.sh mounts and asks for.
    *("PROC_FS", "PROC_SYSCTL", "PROC_PAGE_MONITOR", "SYSFS", "DEVTMPFS", "SHMEM", "TMPFS", "TMPFS_XATTR", "CGROUPS"),
    *("NET", "UNIX", "INET", "NETWORK_FILESYSTEMS", "NET_9P", "NET_9P_VIRTIO", "9P_FS"),
    # What Python and its programs call.
    *("BINFMT_ELF", "BINFMT_SCRIPT", "FUTEX", "EPOLL", "EVENTFD", "SIGNALFD", "TIMERFD", "AIO", "POSIX_TIMERS"),
    *("MULTIUSER", "FILE_LOCKING", "INOTIFY_USER", "MEMBARRIER", "RSEQ", "HIGH_RES_TIMERS", "ADVISE_SYSCALLS"),
    # What is tested.
    *("BLOCK", "BLK_DEV", "BLK_DEV_WRITE_MOUNTED", "BLK_DEV_LOOP", "EXT4_FS", "MIGRATION", "COMPACTION"),
    *("TRANSPARENT_HUGEPAGE", "TRANSPARENT_HUGEPAGE_MADVISE", "READ_ONLY_THP_FOR_FS"),
    *("CC_OPTIMIZE_FOR_SIZE", "UNWINDER_FRAME_POINTER"),
)


def collapsing_kernel(version: str) -> Kernel:
    """Built at its first use. Raises Unavailable without the tools, or the source package."""
    if OWN != "amd64":
        raise Unavailable("the configuration is for x86-64; to force: run there")
    return Kernel(_keep(f"linux-built-{version}-{OWN}", lambda folder: _build(version, folder)), OWN)


def _build(version: str, folder: Path) -> None:
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise Unavailable(f"needs {tool}; to force: apt-get install {package} libelf-dev")
    name = f"linux-source-{version}"
    _output("apt-get", "download", "-qq", name, cwd=folder)
    (archive,) = folder.glob("*.deb")
    _output("dpkg-deb", "-x", archive, folder / "unpacked")
    _output("tar", "-xJf", folder / f"unpacked/usr/src/{name}.tar.xz", "-C", folder)
    source = folder / name
    wanted = folder / "wanted"
    wanted.write_text("".join(f"CONFIG_{option}=y\n" for option in _OPTIONS))
    make(source, "allnoconfig", KCONFIG_ALLCONFIG=str(wanted))
    if "CONFIG_READ_ONLY_THP_FOR_FS=y" not in (source / ".config").read_text():
        raise Unavailable(f"Linux {version} has no READ_ONLY_THP_FOR_FS: another version")
    make(source, "bzImage", f"-j{os.cpu_count()}")
    _install(source, folder / "root", make(source, "kernelrelease").strip())
    shutil.rmtree(source)


def make(source: Path, *words: str, **variables: str) -> str:
    """What it prints. Raises Unavailable with the last that a build says."""
    done = subprocess.run(
        ["make", "-s", *words], cwd=source, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unavailable(f"make {words[0]}: {done.stderr[-500:]}; to force: see tests/lab/built.py")
    return done.stdout


def _install(source: Path, root: Path, release: str) -> None:
    """As a package has it."""
    (root / "boot").mkdir(parents=True)
    modules = root / "lib/modules" / release
    modules.mkdir(parents=True)
    shutil.copy(source / "arch/x86/boot/bzImage", root / "boot" / f"vmlinuz-{release}")
    shutil.copy(source / ".config", root / "boot" / f"config-{release}")
    (modules / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in _NEEDED))
