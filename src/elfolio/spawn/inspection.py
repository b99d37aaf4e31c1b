"""spawn.inspection: what keeps a program from being warm. In: its file; its process at the entry. Out: NotWarm.

Some of it shows in the file; the rest is what libraries' constructors did that a fork does not carry over, or would
share.
"""

import mmap
import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from elfolio import _native
from elfolio.elf.dynamic import Dynamic, read_dynamic
from elfolio.errors import ElfError
from elfolio.spawn.entry import Entry, NotWarm

__all__ = ["examine", "inspect", "loader_variable", "status_of"]

_SHADOW_KIB = 1 << 30
"""Address space that nothing but a sanitizer maps before `main`; one linked in statically shows by nothing else."""


def examine(pinned: int) -> Dynamic:
    """The program as far as its open file tells; raises NotWarm for one that can never be held warm."""
    if 0 <= resource.getrlimit(resource.RLIMIT_STACK)[0] < 8 * _native.WARM_ROOM:
        raise NotWarm("a small stack limit", lasts=False)
    try:
        facts = os.fstat(pinned)
        # Not closed here: an exception has it still, in its frames, and closing would raise another.
        data = memoryview(mmap.mmap(pinned, facts.st_size, prot=mmap.PROT_READ))
        program = read_dynamic(data, "program")
        attributes = set(os.listxattr(pinned))
    except (PermissionError, BlockingIOError) as error:
        raise NotWarm("unreadable program", str(error)) from error
    except (OSError, ElfError) as error:
        raise NotWarm("format", str(error)) from error
    if facts.st_mode & 0o6000:
        raise NotWarm("set-id")
    if "security.capability" in attributes:
        raise NotWarm("file capabilities")
    if program.interpreter is None:
        raise NotWarm("static")
    if os.path.basename(program.interpreter).startswith("ld-musl"):
        raise NotWarm("musl")
    return program


def loader_variable(environment: Iterable[bytes]) -> str:
    """The first variable that changes what is loaded; "" for none."""
    found = next((e for e in environment if e.startswith((b"LD_", b"GLIBC_TUNABLES="))), b"")
    return os.fsdecode(found.partition(b"=")[0])


def status_of(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def inspect(pid: int, entry: Entry) -> None:
    """Raises NotWarm for what a fork would not carry over, or would share."""
    status = status_of(pid)
    if int(status.get("VmSize", "0 kB").split()[0]) > _SHADOW_KIB:
        raise NotWarm("sanitizer", "shadow memory")
    if status["Threads"] != "1":
        raise NotWarm("threads at main")
    if "shstk" in status.get("x86_Thread_features", ""):
        raise NotWarm("a shadow stack")  # the last jump returns to where nobody has called from
    if Path(f"/proc/{pid}/task/{pid}/children").read_text().strip():
        raise NotWarm("a child process at main")
    with suppress(FileNotFoundError):
        if Path(f"/proc/{pid}/timers").read_text().strip():
            raise NotWarm("a timer")
    own = {0, 1, 2, _native.WARM_FD_CONTROL, _native.WARM_FD_OWNER, _native.WARM_FD_TAKEN, _native.WARM_FD_SLOTS}
    for name in os.listdir(f"/proc/{pid}/fd"):
        if int(name) not in own:
            what = os.readlink(f"/proc/{pid}/fd/{name}")
            if "\nlock:" in Path(f"/proc/{pid}/fdinfo/{name}").read_text():
                raise NotWarm("a file lock", what)
            raise NotWarm("a socket" if what.startswith("socket:") else "an open file", what)
    if status.get("VmLck", "0 kB") != "0 kB":
        raise NotWarm("locked memory")
    if any(m.permissions.endswith("s") for m in entry.mappings):
        raise NotWarm("shared memory")
    flags = {flag for line in _smaps(pid) if line.startswith("VmFlags:") for flag in line.split()[1:]}
    if "ss" in flags:
        raise NotWarm("a shadow stack")  # aarch64's guarded control stack is told nowhere else
    if flags & {"dc", "wf"}:
        raise NotWarm("memory that a fork does not copy")
    host = status_of(os.getpid())
    for name in ("Umask", "NoNewPrivs", "Seccomp", "Seccomp_filters", "CapPrm", "CapEff", "Uid", "Gid"):
        if status.get(name) != host.get(name):
            raise NotWarm("a constructor that changed the process", name)


def _smaps(pid: int) -> Iterator[str]:
    with open(f"/proc/{pid}/smaps") as file:
        yield from file
