"""tests.lab.mm_execs: programs at their first instruction on another machine. In: Machine, Rules. Out: what differs.

The programs are linked on the host for that machine, taken from its packages, or odd (tests.measure.odd); they and
their dynamic loaders are files of its initramfs. What is compared is what measure.verify compares, from records.
"""

import errno
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from elfolio.elf.reader import read
from elfolio.errors import ElfError
from elfolio.kernel.execve import ExecError, Execution
from elfolio.kernel.filesystems import filesystem
from elfolio.live.host import file_system_of
from elfolio.measure.hold import ENVIRONMENT, strings_size
from elfolio.measure.program import Program, read_program
from elfolio.measure.verify import predict, verify_from
from tests.elfwriter import EM_AARCH64
from tests.lab.kernels import OWN, userland
from tests.lab.mm_live import Rules
from tests.lab.mm_machine import COMPILERS, HOLD, RELEASE, SIGNALLED, Machine
from tests.measure.odd import odd_program
from tests.measure.programs import KINDS, compiled, few

__all__ = ["Guests", "compare_program", "gather"]

_LOADERS = {
    "amd64": ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux.so.2"),
    "arm64": ("/lib/ld-linux-aarch64.so.1",),
}
_TOOLS = ("cat", "bash", "ls", "dash", "python3", "git", "perl", "env", "ldconfig")
_PACKAGES = ("base-files", "coreutils", "dash", "util-linux")
_PAGES = ("", "4096", "65536", "2097152")
_ODD_64 = "/lib64/ld-linux-x86-64.so.2"
"""The loader that odd programs name; on another machine its loader has that name too."""


@dataclass(frozen=True)
class Guests:
    """The programs of one machine, as files and as read."""

    files: Mapping[str, bytes]
    programs: tuple[Program, ...]


def gather(architecture: str, folder: Path, odd: int) -> Guests:
    """Builds below `folder`."""
    loaders = dict(_loaders(architecture))
    files = {**loaders, "/etc/passwd": b""}  # which odd programs name as an interpreter; it may not be executed
    programs = []
    for number, path in enumerate(
        (*_built(architecture, folder), *_tools(architecture), *_odd(architecture, folder, odd))
    ):
        there = f"/p/{number}-{path.name}"
        try:
            programs.append(_program(path, there, loaders))
        except ElfError:
            continue  # no ELF file for the kernel either
        files[there] = path.read_bytes()
    return Guests(files, tuple(programs))


def _loaders(architecture: str) -> Iterator[tuple[str, bytes]]:
    root = Path("/") if architecture == OWN else userland(architecture, _PACKAGES)
    for path in _LOADERS[architecture]:
        here = root / path[1:]
        if here.exists():
            data = here.read_bytes()
            yield path, data
            if architecture != "amd64":
                yield _ODD_64, data


def _built(architecture: str, folder: Path) -> Iterator[Path]:
    if architecture == OWN:
        yield from few(folder)
        return
    for (kind, flags), page in product(KINDS.items(), _PAGES):
        options = [f"-Wl,-z,max-page-size={page}"] if page else []
        made = compiled(folder / f"{kind}-{page}", *flags, *options, compiler=COMPILERS[architecture])
        if made is not None:
            yield made


def _tools(architecture: str) -> Iterator[Path]:
    root = Path("/") if architecture == OWN else userland(architecture, _PACKAGES)
    for name in _TOOLS:
        found = [root / folder / name for folder in ("usr/bin", "bin", "sbin")]
        yield from (Path(os.path.realpath(path)) for path in found[:1] if path.is_file())


def _odd(architecture: str, folder: Path, count: int) -> Iterator[Path]:
    for seed in range(count):
        data = bytearray(odd_program(seed))
        if architecture == "arm64":
            if data[4] == 1:  # ELFCLASS32: such a kernel may lack AArch32
                continue
            struct.pack_into("<H", data, 18, EM_AARCH64)
        path = folder / f"odd-{seed}"
        path.write_bytes(data)
        path.chmod(0o755)
        yield path


def _program(path: Path, there: str, loaders: Mapping[str, bytes]) -> Program:
    found = read_program(str(path))
    image = replace(found.image, name=there)
    interpreter = image.interpreter or ""
    if interpreter in loaders:
        return Program(there, image, read(loaders[interpreter], interpreter))
    missing = OSError(errno.ENOENT, os.strerror(errno.ENOENT), interpreter)
    return Program(there, image, None, (found.obstacle or missing) if interpreter else found.obstacle)


def compare_program(made: Machine, program: Program, rules: Rules) -> str:
    """What differs, empty for nothing."""
    policy = replace(rules.policy, fs=filesystem(file_system_of(program.path) if rules.here else "tmpfs"))
    strings = strings_size(program.path, (program.path,), ENVIRONMENT)
    host = replace(rules.exec_host(program.image.header.bits), strings=strings)
    result, _ = made.ask(HOLD, payload=program.path.encode())
    if result < 0:
        return _failed(predict(program, policy, host), -result)
    record = made.read(f"/proc/{result}/maps").decode("utf-8", "surrogateescape")
    made.wish(RELEASE, result)
    found = verify_from(record, program, policy, host)
    outcome = [str(found.predicted)] if isinstance(found.predicted, ExecError) else []
    return "; ".join((*outcome, *map(str, found.differences[:6])))


def _failed(predicted: Execution | ExecError, number: int) -> str:
    signal = number - SIGNALLED if number >= SIGNALLED else None
    seen = f"signal {signal}" if signal is not None else f"errno {number}"
    if isinstance(predicted, Execution):
        return f"predicted to start; {seen}"
    same = predicted.signal == signal and (signal is not None or predicted.errno == number)
    return "" if same else f"predicted {predicted}; {seen}"
