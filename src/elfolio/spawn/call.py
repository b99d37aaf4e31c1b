"""spawn.call: what Popen asks for, in elfolio's words. In: Call. Out: argv, Options, streams; or LeftToStandard.

Where the standard library would take time and guessing to follow, it makes that start, or its error, itself.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from elfolio.errors import InvalidArgument
from elfolio.spawn.actions import LAST_FD
from elfolio.spawn.options import NO_OPTIONS, Options
from elfolio.spawn.plan import INHERITED, compile_plan

__all__ = ["Call", "LeftToStandard", "are_streams", "child_streams", "command", "options_of", "would_reach_exec"]

_UNJUDGED = "an option that only the standard library can judge"


class LeftToStandard(Exception):
    """This start is the standard library's, for the reason given."""


class Call(NamedTuple):
    """What Popen.__init__ hands to _execute_child, by the standard library's names: the same in 3.11 to 3.13."""

    args: Any
    executable: Any
    preexec_fn: Any
    close_fds: Any
    pass_fds: Any
    cwd: Any
    env: Any
    startupinfo: Any
    creationflags: Any
    shell: Any
    p2cread: int
    p2cwrite: int
    c2pread: int
    c2pwrite: int
    errread: int
    errwrite: int
    restore_signals: Any
    gid: Any
    gids: Any
    uid: Any
    umask: Any
    start_new_session: Any
    process_group: Any

    @property
    def as_other(self) -> bool:
        """Whether the program is looked up and run under credentials that this process does not have."""
        return not (self.uid is None and self.gid is None and self.gids is None)


def command(call: Call) -> tuple[list[Any], Any]:
    """argv, and the program as errors will name it."""
    args = call.args
    if isinstance(args, list | tuple):
        argv = list(args)
    elif isinstance(args, os.PathLike) and call.shell:
        raise TypeError("path-like args is not allowed when shell is true")
    else:
        argv = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
    if call.shell:
        argv = [call.executable or "/bin/sh", "-c", *argv]
    return argv, argv[0] if call.executable is None else call.executable


def options_of(call: Call, streams: tuple[int, int, int]) -> Options:
    """The options of the start. What no Options can hold is the standard library's to take or to refuse."""
    try:
        options = Options(**wanted) if (wanted := _wanted(call)) else NO_OPTIONS
        if call.as_other:  # compiled here for its checks, which come before the start is announced
            compile_plan(options, streams)
    except InvalidArgument as error:
        raise LeftToStandard(_UNJUDGED) from error
    return options


def _wanted(call: Call) -> dict[str, Any]:
    numbers = call.umask, call.process_group, call.restore_signals, call.start_new_session
    if not all(isinstance(n, int) and -LAST_FD - 1 <= n <= LAST_FD for n in numbers):  # a C int
        raise LeftToStandard(_UNJUDGED)
    if call.start_new_session and call.process_group >= 0:
        raise LeftToStandard("start_new_session and process_group together")
    wanted: dict[str, Any] = {}
    if call.env is not None:
        if not isinstance(call.env, Mapping):
            raise LeftToStandard(_UNJUDGED)
        wanted["env"] = call.env
    if call.cwd is not None:
        wanted["cwd"] = call.cwd
    if call.pass_fds:
        wanted["pass_fds"] = _passed(call.pass_fds)
    if not call.close_fds:
        wanted["inherit_fds"] = True
    if not call.restore_signals:
        wanted["restore_signals"] = False
    if call.start_new_session:
        wanted["start_new_session"] = True
    if call.process_group >= 0:
        wanted["process_group"] = call.process_group
    if call.umask >= 0:
        wanted["umask"] = call.umask & 0o777
    if call.as_other:
        wanted.update(user=call.uid, group=call.gid, extra_groups=call.gids)
    return wanted


def _passed(pass_fds: Any) -> list[int]:
    # What can be gone through only once must be left whole to the standard library.
    if not isinstance(pass_fds, Collection) or not all(isinstance(fd, int) and 0 <= fd <= LAST_FD for fd in pass_fds):
        raise LeftToStandard("pass_fds that are no descriptors")
    return sorted(set(pass_fds))


def are_streams(streams: tuple[Any, Any, Any]) -> bool:
    """Whether they are descriptors or INHERITED; what an object's `fileno` gave, and what was given as a number, may be
    anything."""
    stdin, stdout, stderr = streams
    return type(stdin) is type(stdout) is type(stderr) is int and min(streams) >= INHERITED and max(streams) <= LAST_FD


def child_streams(call: Call) -> tuple[int, int, int]:
    """The descriptors, or INHERITED, that become the child's 0, 1 and 2."""
    streams = [call.p2cread, call.c2pwrite, call.errwrite]
    if not are_streams((call.p2cread, call.c2pwrite, call.errwrite)):
        raise LeftToStandard("a stream that is no descriptor")
    for fd in _passed(call.pass_fds):
        if fd <= 2 and streams[fd] == INHERITED:
            streams[fd] = fd  # passed by its number: inherited even if it is close-on-exec
    return streams[0], streams[1], streams[2]


def would_reach_exec(argv: list[Any], call: Call) -> bool:
    """Whether nothing could fail before exec, as far as can be told from here: a start of a program that is not
    there then has no other error than that."""
    return (
        not call.pass_fds
        and not call.as_other
        and call.process_group < 0
        and all(_is_open(fd) for fd in (call.p2cread, call.c2pwrite, call.errwrite))
        and _encodable(argv)
        and (call.env is None or _is_environment(call.env))
        and (call.cwd is None or _is_enterable(call.cwd))
    )


def _is_open(fd: int) -> bool:
    return fd < 0 or os.path.exists(f"/proc/self/fd/{fd}")


def _encodable(texts: Iterable[Any]) -> bool:
    try:
        return not any(b"\0" in os.fsencode(text) for text in texts)
    except (TypeError, ValueError):
        return False


def _is_environment(env: Any) -> bool:
    return _encodable(env) and _encodable(env.values()) and not any(b"=" in os.fsencode(name) for name in env)


def _is_enterable(cwd: Any) -> bool:
    return _encodable([cwd]) and os.path.isdir(cwd) and os.access(cwd, os.X_OK, effective_ids=True)
