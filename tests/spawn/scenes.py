"""Random spawns: what is asked for, and how the host has changed since the last one. Holds no tests.

In: the ground that they stand on (`tests.spawn.staging`). Out: strategies of `Scene`.
"""

import os
import resource
import signal
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

import elfolio
from elfolio import Chdir, Close, CloseRange, Dup2, Fchdir, Open, SigDefault, SigMask
from elfolio.spawn.actions import Action

FILES = range(40, 45)
FOLDERS = (45, 46)
TERMINAL = 47
PIPES = (48, 49)
OPEN = (*FILES, *FOLDERS, TERMINAL, *PIPES)
NUMBERS = range(40, 60)
"""The descriptors that actions work on; above OPEN they are closed at first."""

SIGNALS = (1, 2, 3, 10, 12, 13, 15, 17, 20, 25, 28, 34, 50, 64)
IGNORABLE = tuple(sig for sig in SIGNALS if sig < 32)
LIMITS = {
    resource.RLIMIT_NOFILE: (64, 100, 1000),
    resource.RLIMIT_CORE: (0, 4096),
    resource.RLIMIT_CPU: (600, 601),
    resource.RLIMIT_FSIZE: (1 << 26, 1 << 27),
    resource.RLIMIT_NPROC: (5000, 5001),
    resource.RLIMIT_MEMLOCK: (0, 65536),
    resource.RLIMIT_SIGPENDING: (1000,),
    resource.RLIMIT_MSGQUEUE: (4096,),
}
COLD_LIMITS = (resource.RLIMIT_STACK, resource.RLIMIT_AS, resource.RLIMIT_DATA)
COLD_VARIABLES = ("LD_LIBRARY_PATH", "LD_BIND_NOW", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


@dataclass(frozen=True)
class Drift:
    """What the host is like at a spawn."""

    umask: int
    folder: str
    blocked: frozenset[int]
    ignored: frozenset[int]
    open_files: int
    core: int
    variable: str | None


@dataclass(frozen=True)
class Scene:
    """One spawn. `streams`: a name for each, see `Ground.streams`. `cold`: asks for what only a cold start can do."""

    argv: tuple[bytes, ...]
    options: dict[str, Any]
    streams: tuple[str, str, str]
    drift: Drift
    cold: bool = False


_ODD = st.binary(max_size=12).map(lambda text: text.replace(b"\0", b"\xff"))
_LONG = st.tuples(_ODD.filter(bool), st.sampled_from((100, 900, 4096, 20_000))).map(lambda p: (p[0] * p[1])[: p[1]])
_WORDS = st.sampled_from((b"", b"-", b"--", b"a b", b"\xff\xfe", b"\n", b"-x=1", "\u00e9".encode(), b"end:7"))
_ARGUMENT = st.one_of(_WORDS, _ODD, _ODD, _LONG)


@st.composite
def _arguments(draw: st.DrawFn) -> tuple[bytes, ...]:
    name = draw(st.sampled_from((b"mirror", b"/usr/bin/mirror", b"", b"-sh", b"a/b/c\xff", b"x" * 300)))
    count = draw(st.sampled_from((0, 1, 2, 3, 5, 50)))
    last = draw(st.sampled_from((None, None, None, b"end:3", b"end:kill")))
    some = draw(st.lists(_ARGUMENT, min_size=min(count, 1), max_size=min(count, 5)))
    return (name, *(some * count)[:count], *(() if last is None else (last,)))


_NAME = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcz_019", min_size=1, max_size=12).map(lambda name: f"X{name}".encode())
_KNOWN = st.sampled_from((b"PATH", b"HOME", b"LANG", b"TZ", b"DRIFT", b"TERM", b"POSIXLY_CORRECT", b"IFS"))
_VALUE = st.one_of(st.sampled_from((b"", b"C.UTF-8", b"/bin:/usr/bin", b"UTC", b"=", b"a=b")), _ODD, _LONG)


@st.composite
def _environment(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(("host", "mapping", "mapping", "allow", "empty")))
    if kind == "host":
        return {}
    if kind == "empty":
        return {"env": {}}
    if kind == "allow":
        return {"env_allow": draw(st.lists(st.sampled_from(("PATH", "HOME", "LANG", "DRIFT", "NONE")), max_size=4))}
    env = draw(st.dictionaries(st.one_of(_NAME, _KNOWN), _VALUE, max_size=6))
    many = {f"X{number}".encode(): b"y" * number for number in range(draw(st.sampled_from((0, 0, 30, 300))))}
    return {"env": many | env}


@st.composite
def _actions(draw: st.DrawFn, root: str) -> list[Action]:
    """Nearly always ones that succeed; what is open is followed as they go."""
    there, folders, actions = set(OPEN), set(FOLDERS), list[Action]()
    for _ in range(draw(st.sampled_from((0, 0, 1, 2, 4, 9, 14)))):
        kind = draw(
            st.sampled_from(("close", "dup2", "same", "std", "fchdir", "chdir", "open", "range", "mask", "default"))
        )
        number, flag = draw(st.sampled_from(NUMBERS)), draw(st.booleans())
        fd = draw(st.sampled_from(sorted(there))) if there else 0
        if kind == "fchdir" and folders:
            actions.append(Fchdir(draw(st.sampled_from(sorted(folders)))))
        elif kind == "chdir":
            actions.append(Chdir(draw(st.sampled_from((f"{root}/a/b", root, f"{root}/a", "/", ".")))))
        elif kind == "mask":
            actions.append(SigMask(draw(st.sets(st.sampled_from(SIGNALS)))))
        elif kind == "default":
            actions.append(SigDefault(draw(st.sets(st.sampled_from(SIGNALS)))))
        elif kind == "close" and there:
            actions.append(Close(fd))
            there.discard(fd)
            folders.discard(fd)
        elif kind == "std":
            actions.append(Close(number % 3) if flag else Dup2(draw(st.sampled_from((0, 1, 2))), number))
            if flag:
                break  # others would take its number
            there.add(number)
            folders.discard(number)
        elif kind in ("dup2", "same") and there:
            number = fd if kind == "same" else number
            actions.append(Dup2(fd, number, cloexec=flag and number != fd))
            there.add(number)
            (folders.add if fd in folders else folders.discard)(number)
        elif kind == "open":
            path = draw(st.sampled_from((f"{root}/x", f"{root}/a/y", f"{root}/new", "/dev/null", "x", "a/x")))
            flags = draw(st.sampled_from((os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND)))
            created = path.endswith("new")
            actions.append(Open(number, path, (flags | os.O_CREAT if created else flags) | os.O_CLOEXEC * flag))
            there.add(number)
            folders.discard(number)
        elif kind == "range":
            last = number + draw(st.sampled_from((0, 1, 3)))
            actions.append(CloseRange(number, last, cloexec=flag, unshare=draw(st.booleans())))
            there -= set(range(number, last + 1))
            folders &= there
    return actions


@st.composite
def _limits(draw: st.DrawFn) -> dict[int, tuple[int, int]]:
    chosen = draw(st.lists(st.sampled_from(sorted(LIMITS)), unique=True, max_size=3))
    limits = {}
    for number in chosen:
        soft = draw(st.sampled_from(LIMITS[number]))
        limits[number] = (soft, draw(st.sampled_from((soft, max(LIMITS[number])))))
    return limits


@st.composite
def _placement(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(("none", "none", "session", "group", "terminal")))
    if kind == "terminal":
        return {"start_new_session": True, "controlling_tty": TERMINAL, "pass_fds": (TERMINAL,)}
    placements: dict[str, dict[str, Any]] = {"session": {"start_new_session": True}, "group": {"process_group": 0}}
    return placements.get(kind, {})


def _keywords(root: str) -> st.SearchStrategy[dict[str, Any]]:
    cpus = sorted(os.sched_getaffinity(0))
    return st.fixed_dictionaries(
        {},
        optional={
            "cwd": st.sampled_from((root, f"{root}/a", "/", b"/usr")),
            "pass_fds": st.lists(st.sampled_from((0, 1, *OPEN)), unique=True, max_size=4).map(tuple),
            "close_targets": st.booleans(),
            "umask": st.sampled_from((0, 0o22, 0o77, 0o777)),
            "rlimits": _limits(),
            "nice": st.sampled_from((0, 1, 5, 19)),
            "cpu_affinity": st.lists(st.sampled_from(cpus), min_size=1, unique=True),
            "oom_score_adj": st.sampled_from((0, 1, 500, 1000)),
            "no_new_privs": st.booleans(),
            "restore_signals": st.booleans(),
        },
    )


FAULTS: tuple[dict[str, Any], ...] = (
    {"cwd": "/nonexistent"},
    {"cwd": "/dev/null"},
    {"pass_fds": (59,)},
    {"actions": [Close(59)]},
    {"actions": [SigMask([2]), Dup2(59, 3)]},
    {"actions": [Fchdir(40)]},
    {"actions": [Open(50, "/nonexistent/x", os.O_RDONLY)]},
    {"rlimits": {resource.RLIMIT_NOFILE: (100, 64)}},
    {"rlimits": {40: (0, 0)}},
    {"start_new_session": True, "controlling_tty": 40, "pass_fds": (40,), "process_group": None},
    {"cpu_affinity": (60000,)},
    {"env": {"A": "x" * 200_000}},
    {"nice": -1},
    {"umask": 0o10000},
)
"""Spawns that fail, before they start, in the child, or at the exec; the last but one only for an ordinary user."""

COLD: tuple[dict[str, Any], ...] = (
    {"inherit_fds": True, "close_targets": False},
    {"pdeathsig": signal.SIGTERM},
    {"memory_merge": True},
    {"user": 65534},
    {"group": 65534},
    {"extra_groups": (1, 2)},
    *({"rlimits": {limit: (1 << 32, 1 << 33)}} for limit in COLD_LIMITS),
    *({"env": {variable: "1"}} for variable in COLD_VARIABLES),
)
"""What only a cold start can do. There is no cgroup among it: few machines let a test make one."""

_KINDS = (*["usual"] * 47, "cold", *["usual"] * 48, *["fault"] * 4)  # the ends are drawn most
_INPUTS = ("none", "devnull", "inherit", "pipe", "file", "terminal", "passed")
_OUTPUTS = ("none", "devnull", "inherit", "pipe", "file", "append", "terminal", "passed")


@st.composite
def _drifts(draw: st.DrawFn, root: str) -> Drift:
    return Drift(
        umask=draw(st.sampled_from((0o22, 0o22, 0, 0o77, 0o27))),
        folder=draw(st.sampled_from((root, root, f"{root}/a", "/"))),
        blocked=draw(st.sets(st.sampled_from(SIGNALS), max_size=3).map(frozenset)),
        ignored=draw(st.sets(st.sampled_from(IGNORABLE), max_size=3).map(frozenset)),
        open_files=draw(st.sampled_from((1000, 1000, 200, 500))),
        core=draw(st.sampled_from((0, 0, 8192))),
        variable=draw(st.sampled_from((None, None, "", "one", "\u00e9", "x" * 700))),
    )


@st.composite
def scenes(draw: st.DrawFn, root: str) -> Scene:
    """Spawns on a ground at `root`: some 5% that fail, some 1% that only a cold start can do."""
    kind = draw(st.sampled_from(_KINDS))
    options = draw(_keywords(root)) | draw(_environment())
    placement = draw(_placement())
    if "pass_fds" in placement:
        placement["pass_fds"] = tuple({*placement["pass_fds"], *options.get("pass_fds", ())})
    options |= placement | {"actions": draw(_actions(root))}
    if kind != "usual":
        options |= draw(st.sampled_from(FAULTS if kind == "fault" else COLD))
    if "env" in options:
        options.pop("env_allow", None)
    streams = (
        draw(st.sampled_from(_INPUTS)),
        draw(st.sampled_from(_OUTPUTS)),
        draw(st.sampled_from((*_OUTPUTS, "stdout"))),
    )
    return Scene(draw(_arguments()), options, streams, draw(_drifts(root)), kind == "cold")


def plain(root: str, *, cold: bool = False, **options: Any) -> Scene:
    """A spawn that asks for nothing but `options`."""
    drift = Drift(0o22, root, frozenset(), frozenset(), 1000, 0, None)
    return Scene((b"mirror", b"x"), options, ("devnull", "devnull", "devnull"), drift, cold)


STREAMS = {
    "none": None,
    "devnull": elfolio.DEVNULL,
    "inherit": elfolio.INHERIT,
    "pipe": elfolio.PIPE,
    "stdout": elfolio.STDOUT,
}
