"""spawn.warming: a warm template's process, started. In: how to launch the program. Out: Warmth, or NotWarm.

The process is a child of ours, launched as any other, and brought to its entry under a tracer. There it is given the
stub (native/warm/stub.c) and let go; from then on it forks a child, ours, for each one that is taken.
"""

import errno
import mmap
import os
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path

from elfolio import _native
from elfolio.elf.dynamic import PT_LOAD, Dynamic, read_dynamic
from elfolio.errors import ElfError
from elfolio.spawn.actions import Dup2
from elfolio.spawn.child import Child
from elfolio.spawn.entry import Entry, Mapping, NotWarm, reach_entry
from elfolio.spawn.machine import MACHINE
from elfolio.spawn.options import Options
from elfolio.spawn.stub import MemoryMap, Setup, stub
from elfolio.spawn.tracee import Tracee, TraceeLost

__all__ = ["Image", "Launch", "Warmth", "examine", "key_now", "loader_variable", "start"]

Launch = Callable[[list[str | bytes], Options, _native.Proxy], "Child | _native.Refusal"]
"""Launches the program with these arguments and options, to be met by the proxy."""

Image = list[tuple[bytes, "tuple[int, ...] | None"]]
"""Paths of what an exec would map, or read to find that out, with the keys it had; None: what was not there."""

_PATIENCE = 5.0
"""Seconds that a program's libraries may take to start."""
_ARGC = 61
"""Arguments of the template's own start: a number that is easy to find in the C library's memory."""
_ABOVE = _native.WARM_FD_LAST + 1
_PR_GET_PDEATHSIG, _PR_GET_TID_ADDRESS = 2, 40
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE_ANONYMOUS, _MAP_SHARED_FIXED = 0x22, 0x11
_MADV_DONTNEED = 4
_AT_RANDOM, _AT_SYSINFO_EHDR = 25, 33
_PTRACE_CONT = 7
_SHADOW_KIB = 1 << 30
"""Address space that nothing but a sanitizer maps before `main`; one linked in statically shows by nothing else."""
_LOADER_FILES = "/etc/ld.so.cache"
_PRELOAD = "/etc/ld.so.preload"
_SEARCHED_BELOW = ("glibc-hwcaps", "tls", "haswell", "xeon_phi", "avx512_1", "x86_64", "aarch64", "atomics")
_FOLDERS_MOST = 64


@dataclass(frozen=True, slots=True)
class Warmth:
    """A template's process that stands ready."""

    warm: _native.Warm
    pid: int
    image: "Image"
    """What it is linked with: the C core's indices of objects count these."""
    descriptors: tuple[int, ...]
    """What is open here for it; a pidfd for each of its children that stand by, which come and go, is not among it."""
    seconds: float
    """What it took to start it."""
    born: float
    """CLOCK_MONOTONIC."""
    surroundings: _native.Surroundings | None = None
    """What it was born into."""
    environment: tuple[bytes, ...] = ()
    variables: tuple[bytes, ...] | None = ()
    """Names that its libraries asked for before `main`; None where they looked at all."""

    @property
    def objects(self) -> tuple[str, ...]:
        """Paths of what it is linked with."""
        return tuple(os.fsdecode(path) for path, _ in self.image)

    @property
    def dead(self) -> bool:
        """Whether it will serve no start any more."""
        return bool(self.warm.facts()[4])


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


def start(
    program: Dynamic, launch: Launch, name: str | bytes, rotate_after: int, max_age: float, idle: float
) -> Warmth:
    """Starts it; `name` is its argv[0]. Raises NotWarm with the reason, and leaves nothing behind then."""
    began = time.monotonic()
    with ExitStack() as stack:
        ours, taken, slots, theirs, options = _channel(stack)
        born_into = _native.Surroundings()
        proxy = _native.Proxy()
        stack.callback(proxy.close)
        tracee = Tracee(proxy)
        stack.callback(tracee.close)
        _may_trace(proxy)
        tracee.expect()
        child = launch([name, *[""] * (_ARGC - 1)], options, proxy)
        if not isinstance(child, Child):
            if child[4] == _native.STEP_TRACE:
                raise NotWarm("ptrace", os.strerror(child[3]), lasts=False)
            raise NotWarm("launch", os.strerror(child[3]) if child[3] else "refused", lasts=False)
        child.owned = True
        try:
            with _deadline(child):
                tracee.await_exec()
                environment = _environment(child.pid)
                if loader := loader_variable(environment):
                    raise NotWarm("a loader variable", loader, lasts=False)
                entry = reach_entry(tracee, program, os.readlink(f"/proc/{child.pid}/exe"))
                _inspect(child.pid, entry)
                objects = _objects(entry, began)
                _wipe(tracee, entry, environment)
                _install(tracee, entry, int(idle * 1e9))
            pidfd = _above_streams(child.pidfd, stack)
            warm = _native.Warm(
                ours.fd,
                taken.fd,
                slots, theirs, child.pid, pidfd.fd, born_into, objects, environment,
                entry.reads_all, sorted(entry.reads), rotate_after, int(max_age * 1e9), int(idle * 1e9),
            )  # fmt: skip
            descriptors = ours.detach(), taken.detach(), pidfd.detach()
        except BaseException as error:
            if isinstance(error, NotWarm) and error.reason == "a child process at main":
                child.kill_tree()  # before the proxy, with which its tracee ends: its children are found by it
            proxy.close()
            child.kill()
            child.wait()
            if isinstance(error, TraceeLost):
                raise NotWarm("ptrace", str(error), lasts=False) from error
            raise
        pid = child.pid
        os.close(child.detach())
    return Warmth(
        warm,
        pid,
        objects,
        descriptors,
        time.monotonic() - began,
        time.monotonic(),
        born_into,
        tuple(environment),
        None if entry.reads_all else tuple(sorted(entry.reads)),
    )


def _may_trace(proxy: _native.Proxy) -> None:
    """Asked for a process that cannot be: where a seccomp filter kills for ptrace, the child would wait for its tracer
    for ever."""
    try:
        result = proxy.call(MACHINE.ptrace, _PTRACE_CONT, 0, 0, 0)
    except ProcessLookupError:
        result = -errno.EPERM
    if result != -errno.ESRCH:
        filtered = _status("thread-self").get("Seccomp", "0") != "0"
        raise NotWarm("seccomp" if filtered else "ptrace", os.strerror(-result), lasts=False)


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
    # A socket's wake-up says that the waker is about to sleep: the template is put onto its processor, and not behind
    # the child on the other. An eventfd's does not.
    telling, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    stack.enter_context(told)
    with telling:
        taken = _above_streams(telling.fileno(), stack)
    slots = os.memfd_create("elfolio", os.MFD_CLOEXEC)
    stack.callback(os.close, slots)
    os.ftruncate(slots, _native.WARM_SLOT_BYTES)
    owner = os.pidfd_open(os.getpid())
    stack.callback(os.close, owner)
    high = []
    pairs = (
        (theirs.fileno(), _native.WARM_FD_CONTROL),
        (owner, _native.WARM_FD_OWNER),
        (told.fileno(), _native.WARM_FD_TAKEN),
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


def _status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _inspect(pid: int, entry: Entry) -> None:
    """Raises NotWarm for what a fork would not carry over, or would share."""
    status = _status(pid)
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
    host = _status(os.getpid())
    for name in ("Umask", "NoNewPrivs", "Seccomp", "Seccomp_filters", "CapPrm", "CapEff", "Uid", "Gid"):
        if status.get(name) != host.get(name):
            raise NotWarm("a constructor that changed the process", name)


def _smaps(pid: int) -> Iterator[str]:
    with open(f"/proc/{pid}/smaps") as file:
        yield from file


def key_now(path: bytes) -> tuple[int, ...] | None:
    """What `Image.key` would be of the file that is there; None if there is none."""
    try:
        st = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (
        st.st_dev, st.st_ino, st.st_size, st.st_mode, st.st_uid, st.st_gid,
        st.st_ctime_ns // 10**9, st.st_ctime_ns % 10**9, st.st_mtime_ns // 10**9, st.st_mtime_ns % 10**9,
    )  # fmt: skip


def _objects(entry: Entry, began: float) -> Image:
    """What must be as it is now, lest an exec would map something else: each object, the dynamic linker's files, and
    the directories that are searched before its cache."""
    since = time.time_ns() - int((time.monotonic() - began) * 1e9) - 20_000_000  # a tick or two
    held: Image = []
    for obj in entry.objects[1:]:
        key = key_now(os.fsencode(obj.path))
        if key is None or (key[0], key[1]) != (obj.device, obj.inode) or key[6] * 10**9 + key[7] >= since:
            raise NotWarm("changing", obj.path, lasts=False)
        held.append((os.fsencode(obj.path), key))
    folders = {folder for obj in entry.objects for folder in _searched(obj.path, obj.dynamic)}
    for path in (_LOADER_FILES, _PRELOAD, *sorted(folders)):
        held.append((os.fsencode(path), key_now(os.fsencode(path))))
    return held


def _searched(path: str, dynamic: Dynamic) -> Iterator[str]:
    origin = os.path.dirname(path)
    for written in dynamic.search_path:
        folder = written.replace("$ORIGIN", origin).replace("${ORIGIN}", origin)
        if "$" in folder or not folder.startswith("/"):
            raise NotWarm("search path", folder)
        folder = os.path.normpath(folder)
        yield folder
        # Searched before the folder itself (dl-load.c, _dl_important_hwcaps; the others before glibc 2.37). A new file
        # in one of them does not show in the folder's own time stamps.
        for below in _SEARCHED_BELOW:
            for place, names, _ in os.walk(f"{folder}/{below}"):
                if len(names) > _FOLDERS_MOST:
                    raise NotWarm("search path", place)
                yield place


def _wipe(tracee: Tracee, entry: Entry, environment: list[bytes]) -> None:
    """Overwrites the variables of the template's own start that nothing has asked for: a child of another environment
    has no business with them. They stand one behind the other (fs/exec.c, copy_strings)."""
    if entry.reads_all:
        return  # every child has the same
    at = _fields_of_stat(tracee.pid)[50]
    for variable in environment:
        name = variable.partition(b"=")[0]
        if name not in entry.reads and not variable.startswith((b"LD_", b"GLIBC_", b"MALLOC_")):
            tracee.write(at, bytes(len(variable)))
        at += len(variable) + 1


# --- the stub ------------------------------------------------------------------------------------------


def _install(tracee: Tracee, entry: Entry, idle_ns: int) -> None:
    at = entry.registers
    sp = at[MACHINE.sp]
    size = len(stub().image)
    both = _PROT_READ | _PROT_WRITE
    fd = _native.WARM_FD_SLOTS
    region = tracee.system_call(
        at, MACHINE.mmap, 0, size + _native.WARM_SLOT_BYTES, both, _MAP_PRIVATE_ANONYMOUS, -1, 0
    )
    if region < 0:
        raise NotWarm("memory", os.strerror(-region))
    tracee.system_call(at, MACHINE.mmap, region + size, _native.WARM_SLOT_BYTES, both, _MAP_SHARED_FIXED, fd, 0)
    tracee.system_call(at, MACHINE.close, fd)
    # What it closes must be closed: the last numbers there are, of which none is open.
    if error := tracee.system_call(at, MACHINE.close_range, 0x7FFFFFFE, 0x7FFFFFFF, 0):
        raise NotWarm("kernel", f"close_range: {os.strerror(-error)}")
    brk = tracee.system_call(at, MACHINE.brk, 0)
    setup = _setup(tracee, entry, region)
    # Every child's initial stack begins at one place: what the C library keeps of it is told once.
    argv_at, argc_at = _libc_arguments(tracee, entry, sp + 8)
    tracee.write(argv_at, struct.pack("Q", setup.stack + 8))
    _lead(tracee, entry, "_dl_argv", sp + 8, setup.stack + 8)
    _lead(tracee, entry, "__libc_stack_end", sp, setup.stack)
    setup = replace(setup, libc_argc=argc_at, idle_ns=idle_ns)
    pages = {address // entry.page * entry.page for address in entry.touched}
    for page in sorted(pages - {at[MACHINE.pc] // entry.page * entry.page}):
        tracee.system_call(at, MACHINE.madvise, page, entry.page, _MADV_DONTNEED)
    tracee.write(region, struct.pack("Q", (1 << 64) - 1))
    tracee.system_call(at, MACHINE.rt_sigprocmask, signal.SIG_SETMASK, region, 0, 8)
    # The entry's page, where these calls are made, is put back by the stub.
    tracee.write(region, stub().filled(setup, _memory_map(tracee.pid, brk)))
    tracee.system_call(at, MACHINE.mprotect, region, stub().code_bytes, _PROT_READ | _PROT_EXEC)
    # As after a call.
    tracee.detach(at, region + stub().start_at, region + stub().stack_end - MACHINE.pushed)


def _setup(tracee: Tracee, entry: Entry, region: int) -> Setup:
    at = entry.registers
    sp = at[MACHINE.sp]
    if tracee.system_call(at, MACHINE.prctl, _PR_GET_TID_ADDRESS, region):
        raise NotWarm("kernel", "without PR_GET_TID_ADDRESS")
    tid = tracee.word(region)
    if not tid or int.from_bytes(tracee.read(tid, 4), "little") != tracee.pid:
        raise NotWarm("unknown C library", "thread id")
    munmap = entry.defining("munmap")
    if not munmap:
        raise NotWarm("unknown C library", "munmap")
    robust, robust_bytes = tracee.robust_list()
    if robust and tracee.word(robust) != robust:
        raise NotWarm("a lock", "a robust mutex")
    for which in range(3):  # ITIMER_REAL, alarm(2)'s too; ITIMER_VIRTUAL; ITIMER_PROF
        if not tracee.system_call(at, MACHINE.getitimer, which, region) and any(tracee.read(region + 16, 16)):
            raise NotWarm("a timer", "setitimer")
    tracee.write(region, bytes(4))
    if not tracee.system_call(at, MACHINE.prctl, _PR_GET_PDEATHSIG, region) and any(tracee.read(region, 4)):
        raise NotWarm("a constructor that changed the process", "PR_SET_PDEATHSIG")
    name = tracee.word(sp + 8)
    return Setup(
        stub=region,
        stub_bytes=len(stub().image) + _native.WARM_SLOT_BYTES,
        slots=region + len(stub().image),
        entry=at[MACHINE.pc],
        entry_argument=at[MACHINE.entry_argument],
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
        page=entry.page,
        sigreturn=_sigreturn(tracee, entry),
        state=at[MACHINE.state[0]] & MACHINE.state[1] if MACHINE.state is not None else 0,
        idle_ns=0,
        ignored=int(_status(tracee.pid)["SigIgn"], 16),
    )


def _sigreturn(tracee: Tracee, entry: Entry) -> int:
    """The kernel's own function for the end of a signal handler, where the stub needs it."""
    if not MACHINE.sigreturn:
        return 0
    vdso = next((m for m in entry.mappings if m.start == entry.auxv.get(_AT_SYSINFO_EHDR)), None)
    if vdso is None:
        raise NotWarm("kernel", "without a vdso")
    try:
        dynamic = read_dynamic(tracee.read(vdso.start, vdso.end - vdso.start), vdso.path)
    except ElfError as error:
        raise NotWarm("kernel", str(error)) from error
    symbol = dynamic.symbols.get(MACHINE.sigreturn)
    if symbol is None or not symbol.defined:
        raise NotWarm("kernel", f"without {MACHINE.sigreturn}")
    return vdso.start + symbol.value - next(s.vaddr for s in dynamic.segments if s.type == PT_LOAD)


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


def _fields_of_stat(pid: int) -> dict[int, int]:
    """The numbers of proc_pid_stat(5), by its own numbering."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return {4 + i: int(word) for i, word in enumerate(text[text.rindex(")") + 4 :].split())}


def _memory_map(pid: int, brk: int) -> MemoryMap:
    f = _fields_of_stat(pid)
    return MemoryMap(f[26], f[27], f[45], f[46], f[47], brk, f[28], f[48], f[49], f[50], f[51])
