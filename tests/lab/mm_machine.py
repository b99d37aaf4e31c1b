"""tests.lab.mm_machine: a kernel with our driver alone on it. In: a Kernel, files. Out: Machine, which does as told.

The driver (driver.c) is the kernel's only process, its initramfs is built on the spot, and a virtio port carries
requests and answers; on the host the same driver has pipes. What it finds is compared here.
"""

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer

from tests.lab.boot import _MACHINES, _accelerator, _entry
from tests.lab.kernels import OWN, Kernel, Unavailable

__all__ = ["COMPILERS", "DRIVER", "MM_DRIVER", "SIGNALLED", "Machine", "build", "here", "machine"]

ROOT = Path(__file__).resolve().parent.parent.parent
DRIVER, MM_DRIVER = "driver", "mm_driver"
SIGNALLED = 10000
"""HOLD's result for a program that a signal killed within execve: minus this, minus the signal."""
START, CALL, SMAPS, READ, MEMORY, OPEN, TRUNCATE, END, HOLD, RELEASE, POWER_OFF = range(1, 12)
COMPILERS = {"amd64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}
_SOURCES = {DRIVER: "tests/lab/driver.c", MM_DRIVER: "tests/kernel/mm_driver.c"}
_FOLDERS = ("dev", "proc", "sys", "ramfs", "modules", "usr", "tmp")
_RECORDED = (
    *("sys/kernel/osrelease", "version", "sys/vm/mmap_rnd_bits", "sys/vm/mmap_min_addr", "sys/vm/overcommit_memory"),
    *("sys/vm/max_map_count", "self/status", "self/maps", "self/mountinfo", "meminfo"),
)
_MEMORY_MIB = 1536
_THP = "kernel/mm/transparent_hugepage/enabled"


class Machine:
    """A driver to be told what to do. Every request raises OSError where the system call behind it fails."""

    def __init__(self, process: subprocess.Popen[bytes], place: str) -> None:
        self._process = process
        self.place = place
        """Where MM_DRIVER is, and this machine's own files are made: a directory."""

    def ask(self, number: int, *words: int, payload: bytes = b"") -> tuple[int, bytes]:
        """One request: the result, or -errno, and what follows."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        filled = [*words, *([0] * (5 - len(words)))]
        self._process.stdin.write(struct.pack("=7Q", number, *filled, len(payload)) + payload)
        result, length = struct.unpack("=qQ", self._exactly(16))
        return result, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        assert self._process.stdout is not None
        parts = []
        while length:
            part = self._process.stdout.read(length)
            if not part:
                raise EOFError(f"the machine ended: {self._process.poll()}")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def wish(self, number: int, *words: int, payload: bytes = b"") -> int:
        """One request that must not fail."""
        result, _ = self.ask(number, *words, payload=payload)
        if result < 0:
            raise OSError(-result, os.strerror(-result), payload.decode(errors="replace"))
        return result

    def read(self, path: str) -> bytes:
        """A file there."""
        result, text = self.ask(READ, payload=path.encode())
        if result < 0:
            raise OSError(-result, os.strerror(-result), path)
        return text

    def page_size(self) -> int:
        """In bytes: AT_PAGESZ."""
        return int(dict(struct.iter_unpack("=QQ", self.read("/proc/self/auxv")))[6])

    def recorded(self, folder: Path) -> tuple[Path, Path]:
        """What a policy and a host are made of, as files below `folder`: its /proc and its /sys."""
        for path in _RECORDED:
            with suppress(FileNotFoundError):
                text = self.read(f"/proc/{path}")
                (folder / "proc" / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / "proc" / path).write_bytes(text)
        thp = folder / "sys" / _THP
        thp.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            thp.write_bytes(self.read(f"/sys/{_THP}"))
        return folder / "proc", folder / "sys"


def build(folder: Path, architecture: str = OWN) -> None:
    """Both drivers, static, into `folder`. Raises Unavailable without a compiler or a static C library."""
    cross = COMPILERS.get(architecture, "gcc")
    compiler = cross if architecture != OWN else next(filter(shutil.which, ("gcc", "cc", cross)), cross)
    if shutil.which(compiler) is None:
        packages = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross" if architecture == "arm64" else "gcc"
        raise Unavailable(f"needs {compiler}; to force: apt-get install {packages}")
    for name, source in _SOURCES.items():
        command = [compiler, "-O1", "-static", "-o", str(folder / name), str(ROOT / source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise Unavailable(f"no static C library: {done.stderr[-200:]}")


@contextmanager
def here(drivers: Path, place: Path) -> Iterator[Machine]:
    """The driver on this machine."""
    pipe = subprocess.PIPE
    with subprocess.Popen([str(drivers / DRIVER)], stdin=pipe, stdout=pipe, bufsize=0, env={}) as process:
        try:
            for name in (MM_DRIVER,):
                shutil.copy2(drivers / name, place / name)
            yield Machine(process, str(place))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)


@contextmanager
def machine(
    kernel: Kernel, drivers: Path, files: Mapping[str, bytes], folder: Path, *, seconds: float, large: bool = True
) -> Iterator[Machine]:
    """An emulated machine with `files` by absolute path, executable but in /etc; at most so many seconds. Its
    console is `folder`/console. `large`: with all the bits of address that processors have. Raises Unavailable."""
    shape = _MACHINES[kernel.architecture]
    if shutil.which(shape.qemu) is None:
        raise Unavailable(f"needs {shape.qemu}; to force: apt-get install {shape.package}")
    (folder / "initramfs").write_bytes(_initramfs(kernel, drivers, files))
    command = _command(kernel, folder, large)
    pipe = subprocess.PIPE
    with (
        (folder / "qemu").open("wb") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, bufsize=0) as process,
    ):
        watch = Timer(seconds, process.kill)
        watch.start()
        try:
            yield Machine(process, "/ramfs")
        finally:
            watch.cancel()
            process.kill()


def _command(kernel: Kernel, folder: Path, large: bool) -> Sequence[str]:
    shape = _MACHINES[kernel.architecture]
    # setpriv: should the tests be killed, the machine goes too.
    command = ["setpriv", "--pdeathsig", "KILL", shape.qemu, "-nodefaults", "-no-user-config", "-no-reboot"]
    options = [_with_addresses(word, large) for word in shape.options]
    # With one processor the emulator makes a load and a store of an atomic access: a first write would fault as a read.
    command += ["-accel", _accelerator(kernel.architecture), *options, "-smp", "2", "-m", str(_MEMORY_MIB)]
    command += ["-display", "none", "-serial", f"file:{folder}/console"]
    command += ["-kernel", str(kernel.image), "-initrd", f"{folder}/initramfs"]
    command += ["-append", f"console={shape.console} panic=-1 mitigations=off nokaslr quiet no_timer_check"]
    command += ["-device", "virtio-serial-pci", "-chardev", "stdio,id=lab,signal=off"]
    return [*command, "-device", "virtserialport,chardev=lab,name=lab,nr=1"]


def _with_addresses(word: str, large: bool) -> str:
    """A word of qemu's options: `max` is a processor with LPA2 unless that is said."""
    if large:
        return word.replace("la57=off", "la57=on")
    return "max,lpa2=off" if word == "max" else word


def _initramfs(kernel: Kernel, drivers: Path, files: Mapping[str, bytes]) -> bytes:
    """The driver as /init, modules in the order of loading, and the files with their directories."""
    entries = [_entry(name, 0o040755) for name in _FOLDERS]
    entries += [_entry("init", 0o100755, (drivers / DRIVER).read_bytes())]
    for number, contents in enumerate(kernel.modules(["virtio_pci", "virtio_console"]).values()):
        entries.append(_entry(f"modules/{number}", 0o100644, contents))
    all_files = {f"/bin/{MM_DRIVER}": (drivers / MM_DRIVER).read_bytes(), **files}
    folders = {str(parent)[1:] for path in all_files for parent in Path(path).parents} - {"", *_FOLDERS}
    entries += [_entry(name, 0o040755) for name in sorted(folders)]
    for path, contents in all_files.items():
        entries.append(_entry(path[1:], 0o100644 if path.startswith("/etc/") else 0o100755, contents))
    return b"".join([*entries, _entry("TRAILER!!!", 0)])


def seconds_to_answer(made: Machine) -> float:
    """How long until it answers for the first time."""
    started = time.monotonic()
    made.read("/proc/sys/kernel/osrelease")
    return time.monotonic() - started
