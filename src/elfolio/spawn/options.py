"""spawn.options: the keywords of one spawn, checked. In: keywords. Out: one frozen value, or `InvalidArgument`.

The names are the standard library's where it has one.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias, TypedDict, Unpack

from elfolio.errors import InvalidArgument, TooManyActions
from elfolio.spawn.actions import MAX_ACTIONS, Action, check_fd

__all__ = ["NO_OPTIONS", "Options", "SpawnKeywords", "StrPath"]

StrPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Environment: TypeAlias = Mapping[str, str] | Mapping[bytes, bytes] | Mapping[str, StrPath]


class SpawnKeywords(TypedDict, total=False):
    """What `spawn`, `run`, `astart` and `arun` take by keyword; `Options` says what each one does."""

    env: Environment | None
    env_allow: Collection[str] | None
    cwd: StrPath | None
    actions: Sequence[Action]
    pass_fds: Iterable[int]
    inherit_fds: bool
    close_targets: bool
    umask: int
    rlimits: Mapping[int, tuple[int, int]] | None
    nice: int
    start_new_session: bool
    process_group: int | None
    controlling_tty: int | None
    user: int | str | None
    group: int | str | None
    extra_groups: Iterable[int | str] | None
    cgroup: StrPath | int | None
    private_cgroup: bool
    no_new_privs: bool
    pdeathsig: int
    oom_score_adj: int | None
    cpu_affinity: Iterable[int] | None
    memory_merge: bool
    restore_signals: bool


_INT_MAX = 0x7FFFFFFF
_RLIM_INFINITY = 0xFFFFFFFFFFFFFFFF


def _names(allow: Collection[str]) -> frozenset[bytes]:
    return frozenset(os.fsencode(name) for name in allow)


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidArgument(f"{name} runs from {low} to {high}, not {value}")


class Options:
    """One spawn's keywords, frozen. What is not given is the class's own value: most spawns give two or three
    of them, and a start takes half a millisecond.

    In the child they take effect in this order: standard streams, `pass_fds`, `cwd`, `umask`, session,
    process group, terminal, `nice`, `cpu_affinity`, `oom_score_adj`; then `actions`; then descriptors are
    closed; then `rlimits`, `extra_groups`, `group`, `user`, `no_new_privs`, `memory_merge`, `pdeathsig`,
    signals. The cgroup is the child's from birth.
    """

    env: Environment | None = None
    """The whole environment. None: the host's, as it is."""
    env_allow: Collection[str] | None = None
    """Names that pass from the host's environment; all others do not."""
    cwd: StrPath | None = None
    actions: Sequence[Action] = ()
    """At most 256, see `elfolio.spawn.actions`."""
    pass_fds: Iterable[int] = ()
    inherit_fds: bool = False
    """Every inheritable descriptor of the host passes. Otherwise those from 3 up are closed, but for
    `pass_fds` and what an action made without close-on-exec."""
    close_targets: bool = False
    """Also what actions made is closed, as the kernel proposal does."""
    umask: int = -1
    rlimits: Mapping[int, tuple[int, int]] | None = None
    """`{resource.RLIMIT_NOFILE: (soft, hard)}`; -1 is no limit."""
    nice: int = 0
    """Added to the niceness, as by os.nice."""
    start_new_session: bool = False
    process_group: int | None = None
    """0: a new group, led by the child."""
    controlling_tty: int | None = None
    """A descriptor of the child (0 to 2, or one passed) whose terminal becomes the new session's."""
    user: int | str | None = None
    group: int | str | None = None
    extra_groups: Iterable[int | str] | None = None
    cgroup: StrPath | int | None = None
    """A cgroup v2 directory, by path or descriptor; the child is born into it."""
    private_cgroup: bool = False
    """A new cgroup of the child's own, below `cgroup` (or the host's), removed with it; makes `kill_tree`
    airtight."""
    no_new_privs: bool = False
    pdeathsig: int = 0
    """The signal the child gets when the *thread* that spawned it ends, see prctl(2)."""
    oom_score_adj: int | None = None
    cpu_affinity: Iterable[int] | None = None
    memory_merge: bool = False
    """PR_SET_MEMORY_MERGE (Linux 6.4, CAP_SYS_RESOURCE): all the child's memory may be merged by KSM."""
    environment: object = None
    """What the C core takes for one: None for the host's, a set of the names that pass of it, or a mapping."""
    plain: bool = True
    """Whether no option beyond the environment is given, so that the child has nothing unusual to do."""
    restore_signals: bool = True
    """SIGPIPE and SIGXFSZ, which Python ignores, are the default again."""

    def __init__(self, **keywords: Unpack[SpawnKeywords]) -> None:
        if unknown := keywords.keys() - _KEYWORDS:
            raise TypeError(f"unknown keyword {min(unknown)!r}")
        self.__dict__.update(keywords)
        if keywords:
            for name in _ITERATED & keywords.keys():
                if keywords[name] is not None:  # type: ignore[literal-required]
                    self.__dict__[name] = tuple(keywords[name])  # type: ignore[literal-required]
            self.__dict__["plain"] = keywords.keys() <= _ENVIRONMENT
            self.__dict__["environment"] = self.env if self.env_allow is None else _names(self.env_allow)
            self._check()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is set when Options are made, not later")

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name in _KEYWORDS)
        return f"Options({given})"

    def _check(self) -> None:
        if self.env is not None and self.env_allow is not None:
            raise InvalidArgument("env and env_allow exclude each other")
        if self.env is not None and not hasattr(self.env, "items"):  # a set would be taken for env_allow
            raise InvalidArgument(f"env must be a mapping, not {self.env!r}")
        if self.inherit_fds and self.close_targets:
            raise InvalidArgument("inherit_fds and close_targets exclude each other")
        if self.start_new_session and self.process_group is not None:
            raise InvalidArgument("start_new_session and process_group exclude each other: a session has its own")
        if self.controlling_tty is not None and not self.start_new_session:
            raise InvalidArgument("controlling_tty goes with start_new_session")
        if len(self.actions) > MAX_ACTIONS:
            raise TooManyActions(len(self.actions), MAX_ACTIONS)
        for action in self.actions:
            if not isinstance(action, Action):
                raise InvalidArgument(f"unknown action {action!r}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for fd in self.pass_fds:
            check_fd(fd, "pass_fds")
        if self.controlling_tty is not None:
            check_fd(self.controlling_tty, "controlling_tty")
        if self.process_group is not None:
            _within("process_group", self.process_group, 0, _INT_MAX)
        if self.oom_score_adj is not None:
            _within("oom_score_adj", self.oom_score_adj, -1000, 1000)
        _within("pdeathsig", self.pdeathsig, 0, 64)
        _within("nice", self.nice, -_INT_MAX, _INT_MAX)
        _within("umask", self.umask, -1, 0o7777)
        for resource, limits in (self.rlimits or {}).items():
            _within("rlimits: resource", resource, 0, 64)
            for limit in limits:
                _within("rlimits", limit, -1, _RLIM_INFINITY)

    @property
    def needs_memory_copy(self) -> bool:
        """Whether an option touches the memory descriptor, the parent's own in a CLONE_VM child: setuid
        clears its dumpable flag, PR_SET_MEMORY_MERGE marks its VMAs (both tried on 6.18)."""
        return self.memory_merge or not (self.user is None and self.group is None and self.extra_groups is None)


_ITERATED = frozenset(("actions", "pass_fds", "extra_groups", "cpu_affinity"))
_ENVIRONMENT = frozenset(("env", "env_allow"))
_KEYWORDS = SpawnKeywords.__annotations__.keys()
NO_OPTIONS = Options()
