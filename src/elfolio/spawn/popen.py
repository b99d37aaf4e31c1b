"""spawn.popen: subprocess.Popen on templates. In: what subprocess.Popen takes. Out: a subprocess.Popen.

Pipes, text, `communicate` and exceptions are the standard library's own; starting, waiting and signalling go
through a template and a pidfd. What cannot is left to the standard library, and counted (`elfolio.stats()`).
Held by CPython's own tests (tests/suites).
"""

import functools
import os
import subprocess
from collections.abc import Callable
from types import FunctionType
from typing import Any, AnyStr, TypeVar, cast

from elfolio.spawn.call import Call, LeftToStandard
from elfolio.spawn.child import Child
from elfolio.spawn.counts import standard_path
from elfolio.spawn.dropin import launch

__all__ = ["Popen", "call", "check_call", "check_output", "run"]

LOST = 0
"""The standard library's guess where the status went to somebody else and the kernel keeps none."""
_waitpid = os.waitpid


class Popen(subprocess.Popen[AnyStr]):
    """`subprocess.Popen`, started from a template; see there.

    `wait` with a timeout wakes when the child ends instead of asking at intervals; a signal reaches this child
    or nobody, whoever reaps it; where the host ignores SIGCHLD or reaps everything, `returncode` is right all
    the same where the kernel can tell (Linux 6.15), and 0, as the standard library has it, where it cannot.
    """

    # Programs that print or compare the class see what they know.
    __module__ = "subprocess"
    __qualname__ = "Popen"

    _child: Child | None = None

    @property
    def pidfd(self) -> int:
        """Refers to the child until it has been reaped; -1 afterwards, or if the standard library started it."""
        return -1 if self._child is None else self._child.pidfd

    def _execute_child(self, *arguments: Any) -> None:
        try:
            child = launch(Call(*arguments))
        except LeftToStandard as reason:
            standard_path(str(reason))
            child = None
        if child is None:
            super()._execute_child(*arguments)  # type: ignore[misc]
            return
        # From here on __del__ answers for a child that nobody waits for.
        child.owned, child.args = True, self.args  # type: ignore[assignment]
        self._child, self.pid, self._child_created = child, child.pid, True
        self._close_pipe_fds(*arguments[10:16])  # type: ignore[attr-defined]

    def _wait(self, timeout: float | None) -> int:
        child = self._child
        if child is None or os.waitpid is not _waitpid:  # a host with a waitpid of its own has it asked
            return super()._wait(timeout)  # type: ignore[misc,no-any-return]
        if self.returncode is None:
            try:
                code = child.wait(timeout)
            except ChildProcessError:
                code = LOST
            self._learn(code)
        return self.returncode

    def _internal_poll(self, _deadstate: int = LOST, *rest: Any) -> int | None:
        child = self._child
        if child is None:
            return super()._internal_poll(_deadstate or None, *rest)  # type: ignore[misc,no-any-return]
        if self.returncode is None:
            try:
                code = child.poll()
            except ChildProcessError:
                code = _deadstate
            self._learn(code)
        return self.returncode

    def _learn(self, code: int | None) -> None:
        if self.returncode is None:  # still: others may have set it meanwhile, as asyncio's watchers do
            self.returncode = code

    def send_signal(self, sig: int) -> None:
        """Sends `sig` to the child; nothing, once it has ended."""
        if self._child is None:
            super().send_signal(sig)
        elif self.poll() is None:
            self._child.send_signal(sig)


_F = TypeVar("_F", bound=Callable[..., Any])
_names = {**vars(subprocess), "Popen": Popen}


def _on_ours(function: _F) -> _F:
    """The standard library's own function over names of which some are ours. One that the host program has
    replaced stays what it is."""
    if getattr(function, "__globals__", None) is not vars(subprocess):
        return function
    theirs = cast(FunctionType, function)
    ours = FunctionType(theirs.__code__, _names, theirs.__name__, theirs.__defaults__, theirs.__closure__)
    ours.__kwdefaults__ = theirs.__kwdefaults__
    _names[theirs.__name__] = functools.update_wrapper(ours, theirs)
    return cast(_F, ours)


run = _on_ours(subprocess.run)
call = _on_ours(subprocess.call)
check_call = _on_ours(subprocess.check_call)
check_output = _on_ours(subprocess.check_output)
