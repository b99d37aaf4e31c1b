"""spawn.dropin: one start, asked for in the standard library's words. In: Call. Out: a Child, or LeftToStandard.

Finds the program as `subprocess` does, and fails as it does: the same exception, errno and file name. Where
that would take guessing, nothing is guessed: the standard library makes that start, or that error, itself.
"""

import _posixsubprocess
import errno
import os
import subprocess
import sys
from operator import is_
from typing import Any

from elfolio.errors import StaleTemplate, UnholdableProgram
from elfolio.spawn.call import Call, LeftToStandard, are_streams, child_streams, command, options_of, would_reach_exec
from elfolio.spawn.child import Child
from elfolio.spawn.options import NO_OPTIONS, Options
from elfolio.spawn.pool import default_pool
from elfolio.spawn.refusals import NO_PROCESS
from elfolio.spawn.search import absolute, candidates, first_error, prefixes
from elfolio.spawn.template import SpawnTemplate

__all__ = ["launch"]

_fork_exec = _posixsubprocess.fork_exec
_BLAMES_CWD = "noexec:chdir" not in subprocess.Popen._execute_child.__code__.co_consts  # type: ignore[attr-defined]
"""Before 3.13 the standard library names the working directory whatever has failed between fork and exec."""


_NOTHING_BUT_ENV = (None, None, True, (), None, None, 0, False, True, None, None, None, -1, False, -1)
"""What Call holds from `executable` to `cwd`, to `shell`, and from `restore_signals` on, when nothing is asked for.
What is merely equal, such as -1.0, is another thing to the standard library."""


def launch(call: Call) -> Child:
    """Starts what `call` asks for. Raises LeftToStandard, and what `subprocess` raises."""
    args, env = call.args, call.env
    streams = call.p2cread, call.c2pwrite, call.errwrite
    template = None
    if (
        all(map(is_, call[1:6] + call[7:10] + call[16:], _NOTHING_BUT_ENV))
        and type(args) is list
        and args
        and type(args[0]) is str
        and (env is None or type(env) is dict)
        and are_streams(streams)
    ):
        template = _known(args[0], env)
    if template is None or subprocess._fork_exec is not _fork_exec or not subprocess._USE_VFORK:  # type: ignore[attr-defined]
        return _launch(call, announced=False)
    # Most starts, by the shortest way: each call before the clone is a part of what a start costs. What goes
    # wrong here goes wrong again below, where it is told as the standard library tells it.
    sys.audit("subprocess.Popen", args[0], args, None, env)
    try:
        options = NO_OPTIONS if env is None else Options(env=env)
        return template.launch(args, options, streams)
    except OSError:
        return _launch(call, announced=True)


def _known(program: str, env: Any) -> SpawnTemplate | None:
    """The pool's template, if there is one, for a program that is plain to find."""
    pool = default_pool()
    if program[:1] == "/":
        return pool.known(program)
    if env is None and "/" not in program:
        for prefix in prefixes(os.environ.get("PATH", os.defpath)):
            path = prefix + program
            if os.access(path, os.F_OK, effective_ids=True):
                return pool.known(path) if path[:1] == "/" else None
    return None


def _launch(call: Call, *, announced: bool) -> Child:
    _check(call)
    argv, program = command(call)
    streams = child_streams(call)
    options = options_of(call, streams)
    failures: list[int | str] = []
    for given in candidates(os.fsdecode(program), call.env):
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
        except StaleTemplate as error:  # a file that never rests; announced once more, as it is tried once more
            raise LeftToStandard("a program that keeps changing") from error
        except OSError as error:
            failures.append(_exec_error(error, call))
    if not announced:
        if not would_reach_exec(argv, call):
            raise LeftToStandard("no program found, and perhaps more wrong")
        _announce(program, argv, call)
    number = first_error(failures)
    raise OSError(number, os.strerror(number), program)


def _check(call: Call) -> None:
    if call.preexec_fn is not None:
        raise LeftToStandard("preexec_fn")
    if subprocess._fork_exec is not _fork_exec or not subprocess._USE_VFORK:  # type: ignore[attr-defined]
        raise LeftToStandard("subprocess was changed by the host program")


def _announce(program: Any, argv: list[Any], call: Call) -> None:
    sys.audit("subprocess.Popen", program, argv, call.cwd, call.env)


def _absolute(given: str, call: Call) -> str:
    """`given` as the child will find it, from its own working directory; nothing is normalised, as no link is."""
    if given.startswith("/") or not given:
        return given
    if call.as_other:
        # A directory on the way may be closed to the other user, though a relative path does not cross it.
        raise LeftToStandard("a relative path and another user")
    try:
        return absolute(given, call.cwd)
    except OSError:
        raise LeftToStandard("the working directory has no name") from None


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
    """The errno of a failed exec. Raises what the standard library raises when it was not exec that failed."""
    number = error.errno or errno.ENOENT
    if error.filename is None:
        started = not str(error.strerror).startswith(NO_PROCESS)
        raise OSError(number, os.strerror(number), *([call.cwd] if started and _BLAMES_CWD else [])) from None
    if call.cwd is not None and error.filename is call.cwd:
        raise error
    return number
