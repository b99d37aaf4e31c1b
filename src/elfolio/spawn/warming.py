"""spawn.warming: a warm template's process, started. In: how to launch the program. Out: Warmth, or NotWarm.

The process is a child of ours, launched as any other, and brought to its entry under a tracer. There it is given the
stub (native/warm/stub.c) and let go; from then on it forks a child, ours, for each one that is taken.
"""

import mmap
import os
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path

from elfolio import _native
from elfolio.elf.dynamic import Dynamic, read_dynamic
from elfolio.errors import ElfError
from elfolio.spawn.actions import Dup2
from elfolio.spawn.child import Child
from elfolio.spawn.entry import Entry, Mapping, NotWarm, reach_entry
from elfolio.spawn.options import Options
from elfolio.spawn.stub import MemoryMap, Setup, stub
from elfolio.spawn.tracee import Tracee, TraceeLost

__all__ = ["Launch", "Warmth", "examine", "start"]

Launch = Callable[[list[str | bytes], Options, _native.Proxy], "Child | _native.Refusal"]
"""Launches the program with these arguments and options, to be met by the proxy."""

_PATIENCE = 5.0
"""Seconds that a program's libraries may take to start."""
_ARGC = 61
"""Arguments of the template's own start: a number that is easy to find in the C library's memory."""
_ABOVE = _native.WARM_FD_LAST + 1
_PR_GET_TID_ADDRESS = 40
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE_ANONYMOUS, _MAP_SHARED_FIXED = 0x22, 0x11
_MADV_DONTNEED = 4
_AT_RANDOM = 25
_SYS_CLOSE, _SYS_MMAP, _SYS_MPROTECT, _SYS_BRK, _SYS_SIGPROCMASK, _SYS_MADVISE, _SYS_PRCTL = 3, 9, 10, 12, 14, 28, 157
_LOADER_FILES = "/etc/ld.so.cache"
_PRELOAD = "/etc/ld.so.preload"


@dataclass(frozen=True, slots=True)
class Warmth:
    """A template's process that stands ready."""

    warm: _native.Warm
    pid: int
    descriptors: tuple[int, ...]
    """What is open here for it; a pidfd for each of its children that stand by, which come and go, is not among it."""
    objects: tuple[str, ...]
    """What the C core's indices of objects mean."""
    seconds: float
    """What it took to start it."""
    born: float
    """CLOCK_MONOTONIC."""


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


def start(program: Dynamic, launch: Launch, name: str | bytes, rotate_after: int, max_age: float) -> Warmth:
    """Starts it; `name` is its argv[0]. Raises NotWarm with the reason, and leaves nothing behind then."""
    began = time.monotonic()
    with ExitStack() as stack:
        ours, taken, slots, theirs, options = _channel(stack)
        born_into = _native.Surroundings()
        proxy = _native.Proxy()
        stack.callback(proxy.close)
        tracee = Tracee(proxy)
        stack.callback(tracee.close)
        tracee.expect()
        child = launch([name, *[""] * (_ARGC - 1)], options, proxy)
        if not isinstance(child, Child):
            raise NotWarm("launch", os.strerror(child[3]) if child[3] else "refused", lasts=False)
        child.owned = True
        try:
            with _deadline(child):
                tracee.await_exec()
                environment = _environment(child.pid)
                if loader := next((e for e in environment if e.startswith((b"LD_", b"GLIBC_TUNABLES="))), None):
                    raise NotWarm("a loader variable", os.fsdecode(loader.partition(b"=")[0]), lasts=False)
                entry = reach_entry(tracee, program, os.readlink(f"/proc/{child.pid}/exe"))
                _inspect(child.pid, entry)
                objects = _objects(entry, began)
                _install(tracee, entry)
            pidfd = _above_streams(child.pidfd, stack)
            warm = _native.Warm(
                ours.fd,
                taken.fd,
                slots, theirs, child.pid, pidfd.fd, born_into, objects, environment,
                entry.reads_all, sorted(entry.reads), rotate_after, int(max_age * 1e9),
            )  # fmt: skip
            descriptors = ours.detach(), taken.detach(), pidfd.detach()
        except BaseException as error:
            proxy.close()
            child.kill()
            child.wait()
            if isinstance(error, TraceeLost):
                raise NotWarm("ptrace", str(error), lasts=False) from error
            raise
        pid = child.pid
        os.close(child.detach())
    files = tuple(os.fsdecode(path) for path, _ in objects)
    return Warmth(warm, pid, descriptors, files, time.monotonic() - began, time.monotonic())


class _Descriptor:
    """One that is closed unless it has been handed on."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _above_streams(fd: int, stack: ExitStack) -> _Descriptor:
    """A copy that `stack` closes. A standard stream that the host has closed stays closed: it may open it again."""
    copy = _Descriptor(fcntl(fd, F_DUPFD_CLOEXEC, 3))
    stack.callback(copy.close)
    return copy


def _channel(stack: ExitStack) -> tuple[_Descriptor, _Descriptor, int, int, Options]:
    """Our ends, the inode of the template's socket, and the options that give it what it needs, at its numbers."""
    end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stack.enter_context(theirs)
    with end:
        ours = _above_streams(end.fileno(), stack)
    eventfd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        taken = _above_streams(eventfd, stack)
    finally:
        os.close(eventfd)
    slots = os.memfd_create("elfolio", os.MFD_CLOEXEC)
    stack.callback(os.close, slots)
    os.ftruncate(slots, _native.WARM_SLOT_BYTES)
    owner = os.pidfd_open(os.getpid())
    stack.callback(os.close, owner)
    high = []
    pairs = (
        (theirs.fileno(), _native.WARM_FD_CONTROL),
        (owner, _native.WARM_FD_OWNER),
        (taken.fd, _native.WARM_FD_TAKEN),
        (slots, _native.WARM_FD_SLOTS),
    )
    for fd, target in pairs:
        copy = fcntl(fd, F_DUPFD_CLOEXEC, _ABOVE)
        stack.callback(os.close, copy)
        high.append(Dup2(copy, target))
    options = Options(actions=high)
    return ours, taken, slots, os.fstat(theirs.fileno()).st_ino, options


class _deadline:
    """Kills a child that does not come to its entry in time: a constructor may wait for ever."""

    def __init__(self, child: Child) -> None:
        self._timer = threading.Timer(_PATIENCE, child.kill)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _environment(pid: int) -> list[bytes]:
    text = Path(f"/proc/{pid}/environ").read_bytes()
    return text.split(b"\0")[:-1]


# --- what constructors may have done --------------------------------------------------------------------


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _inspect(pid: int, entry: Entry) -> None:
    """Raises NotWarm for what a fork would not carry over, or would share."""
    status = _status(pid)
    if status["Threads"] != "1":
        raise NotWarm("threads at main")
    if Path(f"/proc/{pid}/task/{pid}/children").read_text().strip():
        raise NotWarm("a child process at main")
    with suppress(FileNotFoundError):
        if Path(f"/proc/{pid}/timers").read_text().strip():
            raise NotWarm("a timer")
    own = {0, 1, 2, _native.WARM_FD_CONTROL, _native.WARM_FD_OWNER, _native.WARM_FD_TAKEN, _native.WARM_FD_SLOTS}
    for name in os.listdir(f"/proc/{pid}/fd"):
        if int(name) not in own:
            what = os.readlink(f"/proc/{pid}/fd/{name}")
            raise NotWarm("a socket" if what.startswith("socket:") else "an open file", what)
    if status.get("VmLck", "0 kB") != "0 kB":
        raise NotWarm("locked memory")
    if any(m.permissions.endswith("s") for m in entry.mappings):
        raise NotWarm("shared memory")
    flags = {flag for line in _smaps(pid) if line.startswith("VmFlags:") for flag in line.split()[1:]}
    if flags & {"dc", "wf"}:
        raise NotWarm("memory that a fork does not copy")
    host = _status(os.getpid())
    for name in ("Umask", "NoNewPrivs", "Seccomp", "Seccomp_filters", "CapPrm", "CapEff", "Uid", "Gid"):
        if status.get(name) != host.get(name):
            raise NotWarm("a constructor that changed the process", name)


def _smaps(pid: int) -> Iterator[str]:
    with open(f"/proc/{pid}/smaps") as file:
        yield from file


def _key(path: bytes) -> tuple[int, ...]:
    st = os.stat(path)
    return (
        st.st_dev, st.st_ino, st.st_size, st.st_mode, st.st_uid, st.st_gid,
        st.st_ctime_ns // 10**9, st.st_ctime_ns % 10**9, st.st_mtime_ns // 10**9, st.st_mtime_ns % 10**9,
    )  # fmt: skip


def _objects(entry: Entry, began: float) -> list[tuple[bytes, tuple[int, ...] | None]]:
    """What must be as it is now, lest an exec would map something else: each object, the dynamic linker's files, and
    the directories that are searched before its cache."""
    since = time.time_ns() - int((time.monotonic() - began) * 1e9) - 20_000_000  # a tick or two
    held: list[tuple[bytes, tuple[int, ...] | None]] = []
    for obj in entry.objects[1:]:
        key = _key(os.fsencode(obj.path))
        if (key[0], key[1]) != (obj.device, obj.inode) or key[6] * 10**9 + key[7] >= since:
            raise NotWarm("changing", obj.path, lasts=False)
        held.append((os.fsencode(obj.path), key))
    folders = {folder for obj in entry.objects for folder in _searched(obj.path, obj.dynamic)}
    for path in (_LOADER_FILES, _PRELOAD, *sorted(folders)):
        encoded = os.fsencode(path)
        held.append((encoded, _key(encoded) if os.path.exists(path) else None))
    return held


def _searched(path: str, dynamic: Dynamic) -> Iterator[str]:
    origin = os.path.dirname(path)
    for given in dynamic.search_path:
        folder = given.replace("$ORIGIN", origin).replace("${ORIGIN}", origin)
        if "$" in folder or not folder.startswith("/"):
            raise NotWarm("search path", folder)
        yield os.path.normpath(folder)


# --- the stub ------------------------------------------------------------------------------------------


def _install(tracee: Tracee, entry: Entry) -> None:
    at = entry.registers
    sp = at["rsp"]
    size = len(stub().image)
    both = _PROT_READ | _PROT_WRITE
    fd = _native.WARM_FD_SLOTS
    region = tracee.system_call(at, _SYS_MMAP, 0, size + _native.WARM_SLOT_BYTES, both, _MAP_PRIVATE_ANONYMOUS, -1, 0)
    if region < 0:
        raise NotWarm("memory", os.strerror(-region))
    tracee.system_call(at, _SYS_MMAP, region + size, _native.WARM_SLOT_BYTES, both, _MAP_SHARED_FIXED, fd, 0)
    tracee.system_call(at, _SYS_CLOSE, fd)
    brk = tracee.system_call(at, _SYS_BRK, 0)
    setup = _setup(tracee, entry, region)
    # Every child's initial stack begins at one place: what the C library keeps of it is told once.
    argv_at, argc_at = _libc_arguments(tracee, entry, sp + 8)
    tracee.write(argv_at, struct.pack("Q", setup.stack + 8))
    _lead(tracee, entry, "_dl_argv", sp + 8, setup.stack + 8)
    _lead(tracee, entry, "__libc_stack_end", sp, setup.stack)
    setup = replace(setup, libc_argc=argc_at)
    for page in sorted({address // 4096 * 4096 for address in entry.touched} - {at["rip"] // 4096 * 4096}):
        tracee.system_call(at, _SYS_MADVISE, page, 4096, _MADV_DONTNEED)
    tracee.write(region, struct.pack("Q", (1 << 64) - 1))
    tracee.system_call(at, _SYS_SIGPROCMASK, signal.SIG_SETMASK, region, 0, 8)
    # The entry's page, where these calls are made, is put back by the stub.
    tracee.write(region, stub().filled(setup, _memory_map(tracee.pid, brk), _populated(entry)))
    tracee.system_call(at, _SYS_MPROTECT, region, stub().code_bytes, _PROT_READ | _PROT_EXEC)
    start, stack = region + stub().start_at, region + stub().stack_end - 8  # as after a call
    tracee.detach({**at, "rip": start, "rsp": stack, "orig_rax": (1 << 64) - 1})


def _setup(tracee: Tracee, entry: Entry, region: int) -> Setup:
    at = entry.registers
    sp = at["rsp"]
    if tracee.system_call(at, _SYS_PRCTL, _PR_GET_TID_ADDRESS, region):
        raise NotWarm("kernel", "without PR_GET_TID_ADDRESS")
    tid = tracee.word(region)
    if not tid or int.from_bytes(tracee.read(tid, 4), "little") != tracee.pid:
        raise NotWarm("unknown C library", "thread id")
    munmap = entry.defining("munmap")
    if not munmap:
        raise NotWarm("unknown C library", "munmap")
    robust, robust_bytes = tracee.robust_list()
    name = tracee.word(sp + 8)
    return Setup(
        stub=region,
        stub_bytes=len(stub().image) + _native.WARM_SLOT_BYTES,
        slots=region + len(stub().image),
        entry=at["rip"],
        entry_argument=at["rdx"],
        stack=(sp - _native.WARM_ROOM) // 16 * 16,
        auxv=entry.auxv_at,
        auxv_bytes=entry.auxv_bytes,
        random=entry.auxv[_AT_RANDOM],
        tid=tid,
        robust=robust,
        robust_bytes=robust_bytes,
        environ=_variable(tracee, entry, ("environ", "__environ", "_environ"), sp + 8 * (_ARGC + 2)),
        program_name=_variable(tracee, entry, ("program_invocation_name", "__progname_full"), name),
        program_short_name=_variable(tracee, entry, ("program_invocation_short_name", "__progname"), None),
        libc_argc=0,
        munmap=munmap,
        ignored=int(_status(tracee.pid)["SigIgn"], 16),
    )


def _populated(entry: Entry) -> list[tuple[int, int, int]]:
    return []


def _writable(entry: Entry, path: str) -> Iterator[Mapping]:
    """An object's data: what is mapped writable of its file, and the zeroes that follow."""
    last = None
    for m in entry.mappings:
        if "w" in m.permissions and (m.path == path or (last is not None and not m.path and m.start == last.end)):
            yield m
        last = m if m.path == path else None


def _libc_arguments(tracee: Tracee, entry: Entry, argv: int) -> tuple[int, int]:
    """The C library's own argv and argc, which have no symbols: what it gives to the constructors of libraries that
    are opened later."""
    libc = entry.object_named("libc.so")
    if libc is None:
        raise NotWarm("unknown C library")
    pattern, number = struct.pack("Q", argv), struct.pack("I", _ARGC)
    for m in _writable(entry, libc.path):
        data = tracee.read(m.start, m.end - m.start)
        at = data.find(pattern)
        while at >= 0:
            near = [i for i in range(max(0, at - 64), min(len(data), at + 72), 4) if data[i : i + 4] == number]
            if at % 8 == 0 and len(near) == 1:
                return m.start + at, m.start + near[0]
            at = data.find(pattern, at + 1)
    raise NotWarm("unknown C library", "argc and argv")


def _variable(tracee: Tracee, entry: Entry, names: tuple[str, ...], expected: int | None) -> int:
    address = next((a for name in names if (a := entry.program.address(name))), 0) or entry.defining(names[0])
    if not address:
        raise NotWarm("unknown C library", names[0])
    if expected is not None and tracee.word(address) != expected:
        raise NotWarm("a constructor that changed the process", names[0])
    return address


def _lead(tracee: Tracee, entry: Entry, name: str, expected: int, to: int) -> None:
    """Changes a pointer of the dynamic linker's, which it cannot write any more itself."""
    address = next((a for obj in entry.objects if (a := obj.address(name))), 0)
    if not address or tracee.word(address) != expected:
        raise NotWarm("unknown dynamic linker", name)
    tracee.write(address, struct.pack("Q", to))


def _memory_map(pid: int, brk: int) -> MemoryMap:
    """Fields 26 to 28 and 45 to 51 of proc_pid_stat(5)."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = [int(word) for word in text[text.rindex(")") + 4 :].split()]

    def field(number: int) -> int:
        return fields[number - 4]

    return MemoryMap(
        field(26),
        field(27),
        field(45),
        field(46),
        field(47),
        brk,
        field(28),
        field(48),
        field(49),
        field(50),
        field(51),
    )
