"""spawn.streams: where a child's standard streams lead. In: what the caller asked for. Out: both sides' descriptors."""

import os
from contextlib import suppress
from typing import IO, TypeAlias

from elfolio.errors import InvalidArgument
from elfolio.spawn.plan import INHERITED, NULL_DEVICE

__all__ = ["DEVNULL", "INHERIT", "PIPE", "STDOUT", "StreamTarget", "Streams"]

PIPE = -1
STDOUT = -2
DEVNULL = -3
INHERIT = -4
"""The host's own stream. The first three are the standard library's values."""

StreamTarget: TypeAlias = int | IO[str] | IO[bytes] | None


class Streams:
    """The three descriptors that a child gets, and this process's ends of the pipes among them.

    A standard input of None is /dev/null: tools such as rg and cat would wait on an open one. An output of
    None is the host's. `close` is for errors, `spawned` closes the child's side; an interrupt may come between
    any two steps, so what nobody took is closed with the object.
    """

    __slots__ = ("_theirs", "child", "ours")

    def __init__(self, stdin: StreamTarget, stdout: StreamTarget, stderr: StreamTarget) -> None:
        self.ours: list[int] = [-1, -1, -1]
        """Our ends of the pipes: stdin, stdout, stderr; -1 where there is none."""
        self._theirs: list[int] = []
        try:
            out = self._output(1, stdout)
            self.child = (
                self._input(stdin),
                out,
                (out if out != INHERITED else 1) if self._merges(stderr) else self._output(2, stderr),
            )
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        with suppress(AttributeError):  # interrupted before it had anything
            self.close()

    @staticmethod
    def _merges(target: StreamTarget) -> bool:
        return isinstance(target, int) and target == STDOUT

    def _input(self, target: StreamTarget) -> int:
        if target is None:
            return NULL_DEVICE
        if isinstance(target, int) and target == PIPE:
            theirs, self.ours[0] = os.pipe()
            self._theirs.append(theirs)
            return theirs
        return _existing(target, "stdin")

    def _output(self, which: int, target: StreamTarget) -> int:
        if target is None:
            return INHERITED
        if isinstance(target, int) and target == PIPE:
            self.ours[which], theirs = os.pipe()
            self._theirs.append(theirs)
            return theirs
        return _existing(target, ("stdin", "stdout", "stderr")[which])

    def spawned(self) -> None:
        """Closes the child's side, so that a pipe ends when the last process that writes to it does."""
        while self._theirs:
            os.close(self._theirs.pop())

    def close(self) -> None:
        """Closes both sides."""
        self.spawned()
        for which in range(3):
            if self.ours[which] >= 0:
                os.close(self.take(which))

    def take(self, which: int) -> int:
        """Our end of a pipe, which becomes the caller's to close; -1 where there is none."""
        fd, self.ours[which] = self.ours[which], -1
        return fd


def _existing(target: StreamTarget, name: str) -> int:
    if target is None:
        return INHERITED
    if not isinstance(target, int):
        return target.fileno()
    if target == DEVNULL:
        return NULL_DEVICE
    if target == INHERIT:
        return INHERITED
    if target < 0:
        raise InvalidArgument(f"{name} must be a descriptor, a file, PIPE, DEVNULL or INHERIT, not {target}")
    return target
