"""spawn.dropin: one start, asked for in the standard library's words. In: Call. Out: a Child, or LeftToStandard.

Finds the program as `subprocess` does, and fails as it does: the same exception, errno and file name. Where
that would take guessing, nothing is guessed: the standard library makes that start, or that error, itself.
"""

import _posixsubprocess
import errno
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from elfolio.errors import InvalidArgument, StaleTemplate, UnholdableProgram
from elfolio.spawn.actions import LAST_FD
from elfolio.spawn.child import Child
from elfolio.spawn.options import NO_OPTIONS, Options
from elfolio.spawn.plan import INHERITED
from elfolio.spawn.pool import default_pool
from elfolio.spawn.template import SpawnTemplate

__all__ = ["Call", "LeftToStandard", "launch"]

_fork_exec = _posixsubprocess.fork_exec


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
    umask: int
    start_new_session: Any
    process_group: int

    @property
    def as_other(self) -> bool:
        """Whether the program is looked up and run under credentials that this process does not have."""
        return not (self.uid is None and self.gid is None and self.gids is None)

    @property
    def pipes(self) -> tuple[int, int, int, int, int, int]:
        return self[10:16]


def launch(call: Call) -> Child:
    """Starts what `call` asks for. Raises LeftToStandard, and what `subprocess` raises."""
    _check(call)
    argv, program = _command(call)
    options, streams = _options(call), _streams(call)
    failures: list[int | str] = []
    announced = False
    for given in _candidates(program, call):
        path = _absolute(given, call)
        template = _template(path, call, failures)
        if template is None:
            continue
        if not announced:  # only now: a start that is left to the standard library is announced by it
            announced = True
            _announce(program, argv, call)
        try:
            if call.as_other:
                return template.launch(argv, options, streams)
            return default_pool().launch(template, argv, options, streams, None if given is path else given)
        except (InvalidArgument, StaleTemplate) as error:
            raise LeftToStandard(f"{type(error).__name__} from the template") from error
        except OSError as error:
            failures.append(_exec_error(error, call))
    if not announced:
        _check_that_nothing_else_is_wrong(argv, call)
        _announce(program, argv, call)
    number = _first_error(failures)
    raise OSError(number, os.strerror(number), program)


def _check(call: Call) -> None:
    if call.preexec_fn is not None:
        raise LeftToStandard("preexec_fn")
    if subprocess._fork_exec is not _fork_exec or not subprocess._USE_VFORK:  # type: ignore[attr-defined]
        raise LeftToStandard("subprocess was changed by the host program")
    if call.start_new_session and call.process_group >= 0:
        raise LeftToStandard("start_new_session and process_group together")


def _announce(program: Any, argv: list[Any], call: Call) -> None:
    sys.audit("subprocess.Popen", program, argv, call.cwd, call.env)


def _command(call: Call) -> tuple[list[Any], Any]:
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


def _options(call: Call) -> Options:
    wanted: dict[str, Any] = {}
    if call.env is not None:
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
    return Options(**wanted) if wanted else NO_OPTIONS


def _passed(pass_fds: Any) -> list[int]:
    passed = sorted({int(fd) for fd in pass_fds})
    if not 0 <= passed[0] <= passed[-1] <= LAST_FD:
        raise LeftToStandard("pass_fds that are no descriptors")
    return passed


def _streams(call: Call) -> tuple[int, int, int]:
    streams = [call.p2cread, call.c2pwrite, call.errwrite]
    if min(streams) < INHERITED:
        raise LeftToStandard("a stream that is no descriptor")
    for fd in call.pass_fds:
        if 0 <= fd <= 2 and streams[fd] == INHERITED:
            streams[fd] = fd  # passed by its number: inherited even if it is close-on-exec
    return streams[0], streams[1], streams[2]


def _candidates(program: Any, call: Call) -> Iterable[str]:
    """What execve is given, one after the other (os._execvpe)."""
    name = os.fsdecode(program)
    if "/" in name:
        return (name,)
    # os.get_exec_path takes long to find that os.environ has no bytes in it.
    folders = None if call.env is None else tuple(os.get_exec_path(call.env))
    return [prefix + name for prefix in _prefixes(os.environ.get("PATH", os.defpath) if folders is None else folders)]


@lru_cache(maxsize=16)
def _prefixes(folders: str | tuple[str, ...]) -> list[str]:
    """What os.path.join puts before a name."""
    parts = folders.split(os.pathsep) if isinstance(folders, str) else folders
    return [os.path.join(part, "") for part in parts]


def _absolute(given: str, call: Call) -> str:
    """`given` as the child will find it, from its own working directory; nothing is normalised, as no link is."""
    if given.startswith("/") or not given:
        return given
    if call.as_other:
        # A directory on the way may be closed to the other user, though a relative path does not cross it.
        raise LeftToStandard("a relative path and another user")
    cwd = "" if call.cwd is None else os.fsdecode(call.cwd)
    if not cwd.startswith("/"):
        try:
            cwd = os.path.join(os.getcwd(), cwd)
        except OSError:
            raise LeftToStandard("the working directory has no name") from None
    return os.path.join(cwd, given)


def _template(path: str, call: Call, failures: list[int | str]) -> SpawnTemplate | None:
    """Most of a search path leads nowhere: that costs one call, and why is only asked when nothing is found."""
    if not os.access(path, os.F_OK, effective_ids=True):
        failures.append(path)
        return None
    try:
        if call.as_other:
            # Executed by path: whether the other user may reach and execute it is the kernel's to say.
            return SpawnTemplate(path, audit="strict", rebuild=True, lease=False)
        return default_pool().get(path)
    except UnholdableProgram:
        raise LeftToStandard("a program that no template can hold") from None
    except OSError as error:
        failures.append(error.errno or errno.ENOENT)
        return None


def _exec_error(error: OSError, call: Call) -> int:
    """The errno of a failed exec. Raises it right away when it was not exec that failed."""
    if error.filename is None:
        raise OSError(error.errno, os.strerror(error.errno or 0)) from None
    if call.cwd is not None and error.filename is call.cwd:
        raise error
    return error.errno or errno.ENOENT


def _first_error(failures: list[int | str]) -> int:
    """The error that counts, by the rule of os._execvpe: the first that is not about a missing file, else the
    last one."""
    numbers = [_why_missing(failure) if isinstance(failure, str) else failure for failure in failures]
    return next((n for n in numbers if n not in (errno.ENOENT, errno.ENOTDIR)), numbers[-1])


def _why_missing(path: str) -> int:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno or errno.ENOENT
    return errno.ENOENT


def _check_that_nothing_else_is_wrong(argv: list[Any], call: Call) -> None:
    """That no program was found is this start's error if nothing before exec would have failed. Programs probe
    for tools that way; anything less plain is left to the standard library."""
    plain = call.cwd is None and call.env is None and not call.pass_fds and not call.as_other
    if not (
        plain
        and call.process_group < 0
        and all(_is_open(fd) for fd in (call.p2cread, call.c2pwrite, call.errwrite))
        and all(isinstance(argument, str) and "\0" not in argument for argument in argv)
    ):
        raise LeftToStandard("no program found, and perhaps more wrong")


def _is_open(fd: int) -> bool:
    return fd < 0 or os.path.exists(f"/proc/self/fd/{fd}")
