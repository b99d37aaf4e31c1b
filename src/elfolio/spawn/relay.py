"""spawn.relay: follows a child and its outputs to the end. In: a pidfd, our ends of pipes. Out: what came.

One poll(2) on all of them, in a thread of its own. An output is bounded: of what exceeds the limit the first
half and the last half are kept. Or it is passed on, the first half as it comes, the last when it has ended.
"""

import os
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["KEPT", "Output", "Relay", "Said"]

KEPT = -1
_CHUNK = 65536  # a pipe's default capacity


@dataclass(frozen=True, slots=True)
class Said:
    """What a command wrote to one stream."""

    head: bytes
    tail: bytes
    """What came last; between it and the head `dropped` bytes are missing."""
    total: int
    dropped: int


class Output:
    """One stream on its way. `fd`, our end of the pipe, is owned; `onto`: where to pass it, or KEPT."""

    def __init__(self, fd: int, limit: int, onto: int = KEPT) -> None:
        self.fd = fd
        self.error = 0
        """errno of passing on; EPIPE where nobody reads any more."""
        self._onto = onto
        self._head = bytearray()
        self._head_left = limit - limit // 2
        self._tail = bytearray()
        self._tail_max = limit // 2
        self._total = 0
        self._dropped = 0

    def read(self) -> bool:
        """Takes what there is; False once nothing more will come, or nobody wants it."""
        data = os.read(self.fd, _CHUNK)
        self._total += len(data)
        head, rest = data[: self._head_left], data[self._head_left :]
        self._head_left -= len(head)
        if self._onto == KEPT:
            self._head += head
        else:
            self._pass(head)
        if rest:
            self._tail += rest
            excess = max(0, len(self._tail) - self._tail_max)
            del self._tail[:excess]
            self._dropped += excess
        return bool(data) and not self.error

    def finish(self) -> None:
        """Closes the pipe: whoever still writes to it gets SIGPIPE. Passes on what was held back."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        if self._onto != KEPT and not self.error:
            self._pass(bytes(self._tail))

    def said(self) -> Said:
        """What came until now; the bytes themselves only if they were not passed on."""
        tail = b"" if self._onto != KEPT else bytes(self._tail)
        return Said(bytes(self._head), tail, self._total, self._dropped)

    def _pass(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._onto, data) :]
            except BlockingIOError:
                # Somebody who shares the open file has made it non-blocking.
                room = select.poll()
                room.register(self._onto, select.POLLOUT)
                room.poll()
            except OSError as error:
                self.error = error.errno or 0
                return


class Relay:
    """A child and its outputs. `run` is for a thread; `then` is called in it at the end."""

    def __init__(self, pidfd: int, outputs: Sequence[Output], then: Callable[[], None]) -> None:
        self.done = False
        self.outputs = outputs
        self._then = then
        self._pidfd = pidfd
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)

    @property
    def pipes(self) -> tuple[int, ...]:
        """Our ends that are still open."""
        return tuple(output.fd for output in self.outputs if output.fd >= 0)

    def stop(self) -> None:
        """Gives up the pipes, whoever holds them."""
        os.eventfd_write(self._stop, 1)

    def close(self) -> None:
        """Lets go of the relay's own descriptor; `run` has returned."""
        os.close(self._stop)

    def run(self) -> None:
        """Until the child has ended and so have its outputs, or until `stop`."""
        self._follow()
        for output in self.outputs:
            output.finish()
        self.done = True
        self._then()

    def _follow(self) -> None:
        waiting = select.poll()
        streams = {output.fd: output for output in self.outputs}
        for fd in (self._pidfd, self._stop, *streams):
            waiting.register(fd, select.POLLIN)
        left = 1 + len(streams)
        while left:
            for fd, _ in waiting.poll():
                if fd == self._stop:
                    return
                output = streams.get(fd)
                if output is None or not output.read():
                    waiting.unregister(fd)
                    left -= 1
                    if output is not None:
                        # At once: a child that goes on writing must notice that nobody reads.
                        output.finish()
