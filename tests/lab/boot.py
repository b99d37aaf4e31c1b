"""tests.lab.boot: a command under another kernel. In: a Kernel, a command. Out: its output and its exit status.

The machine is qemu's; its root is this machine's, read-only over 9p, so that what runs here runs there, with the
same paths; or, for a kernel of another architecture, a directory of that one's programs. Its /tmp, /run and /dev/shm
are empty and its own. Without KVM everything takes some twenty times as long, and a boot about twenty seconds.
By hand:

    python -m tests.lab.boot 6.1 uname -a
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.lab.kernels import OWN, Kernel, Unavailable, busybox, kernel

__all__ = ["CARRIED", "Ended", "boot"]

CARRIED = Path("/run/lab")
"""Where in a machine that is found which it was given to carry."""


@dataclass(frozen=True)
class _Machine:
    """An emulator, its Debian package, and what it emulates."""

    qemu: str
    package: str
    options: tuple[str, ...]
    console: str


_MACHINES = {
    "amd64": _Machine("qemu-system-x86_64", "qemu-system-x86", ("-cpu", "max,arch-capabilities=off,la57=off"), "ttyS0"),
    "arm64": _Machine("qemu-system-aarch64", "qemu-system-arm", ("-machine", "virt", "-cpu", "max"), "ttyAMA0"),
}
_NEEDED = ("virtio_pci", "9pnet_virtio", "9p")
_FOLDERS = ("bin", "modules", "proc", "host", "root")
_GUEST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The command must not be able to hold up the machine's end, so it reboots at once, which -no-reboot makes qemu's
# end; and so does a panic, such as the end of the first process.
_START = """\
uname -r >/run/lab/release
cd {cwd}
setsid -w env -i {command} </dev/null >/run/lab/stdout 2>/run/lab/stderr
echo $? >/run/lab/status
echo b >/proc/sysrq-trigger
"""


@dataclass(frozen=True)
class Ended:
    """How a command in a machine ended."""

    release: str
    """The kernel's, as by uname -r; empty where it did not come so far."""
    returncode: int | None
    """As the shell gives it: 128 more than the signal. None: the machine ended, or time ran out, before it."""
    stdout: str
    stderr: str
    console: str
    """The kernel's log."""
    boot_seconds: float
    """Until the command started."""
    seconds: float
    """Until the machine was gone."""


def boot(
    kernel: Kernel,
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = Path("/"),
    root: Path = Path("/"),
    show: Iterable[Path] = (),
    carry: Mapping[str, Path] = MappingProxyType({}),
    modules: Iterable[str] = (),
    timeout: float = 240,
    memory_mib: int = 1024,
) -> Ended:
    """Boots `kernel`, runs `command` as root with the environment `env` and PATH, and waits `timeout` seconds.

    `root`: what its root directory is. `show`: directories of it that it must find although they are below /tmp, /run
    or /dev/shm. `carry`: directories that are copied to CARRIED, by these names. `modules`: to be loaded as well.
    Raises Unavailable without qemu.
    """
    machine = _MACHINES[kernel.architecture]
    if shutil.which(machine.qemu) is None:
        raise Unavailable(f"needs {machine.qemu}; to force: apt-get install {machine.package}")
    with tempfile.TemporaryDirectory(prefix="lab-") as name:
        folder = Path(name)
        (folder / "initramfs").write_bytes(_initramfs(kernel, modules, [cwd, *show]))
        shared = folder / "shared"
        shared.mkdir()
        for name_there, path in carry.items():
            shutil.copytree(path, shared / name_there)
        variables = [f"{key}={value}" for key, value in {"PATH": _GUEST_PATH, **(env or {})}.items()]
        words = shlex.join([*variables, *map(str, command)])
        (shared / "start").write_text(_START.format(cwd=shlex.quote(str(cwd)), command=words))
        started = time.time()
        _run(_command(kernel, root, folder, memory_mib), folder / "qemu", timeout)
        return _ended(folder, started)


def _command(kernel: Kernel, root: Path, folder: Path, memory_mib: int) -> list[str]:
    machine = _MACHINES[kernel.architecture]
    # setpriv: should the tests be killed, the machine goes too.
    command = ["setpriv", "--pdeathsig", "KILL", machine.qemu, "-nodefaults", "-no-user-config", "-no-reboot"]
    command += ["-accel", _accelerator(kernel.architecture), *machine.options, "-smp", "2", "-m", str(memory_mib)]
    command += ["-display", "none", "-serial", f"file:{folder}/console"]
    command += ["-kernel", str(kernel.image), "-initrd", f"{folder}/initramfs"]
    command += ["-append", f"console={machine.console} panic=-1 mitigations=off nokaslr no_timer_check"]
    for tag, path, access in (("host", root, ",readonly=on,multidevs=remap"), ("lab", f"{folder}/shared", "")):
        command += ["-fsdev", f"local,id={tag},path={path},security_model=none{access}"]
        command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return command


def _accelerator(architecture: str) -> str:
    """KVM only where it is this processor's: some hosts without it have a /dev/kvm that runs kernels of their own
    (pagetable virtual machines), under which Debian's hang."""
    flags = Path("/proc/cpuinfo").read_text().split()
    virtual = architecture == OWN and (OWN != "amd64" or not {"vmx", "svm"}.isdisjoint(flags))
    usable = virtual and os.access("/dev/kvm", os.R_OK | os.W_OK)
    return "kvm" if usable else "tcg,thread=multi"


def _run(command: list[str], output: Path, timeout: float) -> None:
    with (
        output.open("wb") as file,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file) as qemu,
    ):
        try:
            qemu.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            qemu.kill()


def _ended(folder: Path, started: float) -> Ended:
    def text(name: str) -> str:
        path = folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    begun = folder / "shared/release"
    status = text("shared/status").strip()
    return Ended(
        release=text("shared/release").strip(),
        returncode=int(status) if status else None,
        stdout=text("shared/stdout"),
        stderr=text("shared/stderr"),
        console=text("qemu") + text("console"),
        boot_seconds=(begun.stat().st_mtime if begun.exists() else time.time()) - started,
        seconds=time.time() - started,
    )


def _initramfs(kernel: Kernel, wanted: Iterable[str], show: Iterable[Path]) -> bytes:
    """Busybox, init.sh and what it reads, as a cpio archive (Documentation/driver-api/early-userspace)."""
    modules = kernel.modules([*_NEEDED, *wanted])
    entries = [_entry(name, 0o040755) for name in _FOLDERS]
    entries += [_entry("bin/busybox", 0o100755, busybox(kernel.architecture).read_bytes())]
    entries += [_entry("init", 0o100755, Path(__file__).with_name("init.sh").read_bytes())]
    entries += [_entry(f"modules/{name}", 0o100644, contents) for name, contents in modules.items()]
    entries += [_entry("modules/order", 0o100644, "".join(f"{name}\n" for name in modules).encode())]
    entries += [_entry("show", 0o100644, "".join(f"{path.absolute()}\n" for path in show).encode())]
    return b"".join([*entries, _entry("TRAILER!!!", 0)])


def _entry(name: str, mode: int, contents: bytes = b"") -> bytes:
    """One file of the "newc" format: a magic number and thirteen numbers of eight digits, name and contents each
    padded to four bytes. Only mode, link count, size and the name's length matter here."""
    numbers = (0, mode, 0, 0, 1, 0, len(contents), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
    return b"".join(part + bytes(-len(part) % 4) for part in (head, contents))


if __name__ == "__main__":
    ended = boot(kernel(sys.argv[1]), sys.argv[2:], cwd=Path(os.getcwd()))
    sys.stdout.write(ended.stdout)
    sys.stderr.write(ended.stderr if ended.returncode is not None else ended.console)
    print(f"Linux {ended.release}: booted in {ended.boot_seconds:.1f} s", file=sys.stderr)
    sys.exit(1 if ended.returncode is None else ended.returncode)
