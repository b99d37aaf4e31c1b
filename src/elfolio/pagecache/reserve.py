"""pagecache.reserve: huge pages held early, and given up just before a load. In: bytes. Out: Reservation.

Free blocks of a huge page's size become rare while a machine runs: whatever small is allocated, and cannot be moved,
takes one. Memory that this process holds from early on keeps them together. `load` gives as much of it back as it is
about to need, and the page cache finds whole blocks; what others allocate in that moment, they find too.
"""

import os
import threading
import weakref
from types import TracebackType

from elfolio.errors import InvalidArgument
from elfolio.live.available import available
from elfolio.pagecache.load_memory import HUGE, Piece, anonymous, discard, populate_write, trim
from elfolio.span import Span, round_up

__all__ = ["Reservation", "release_for", "reserve"]

_STEP = 64 << 20
_SPARE = 0.9
_lock = threading.RLock()
_held: "weakref.WeakSet[Reservation]" = weakref.WeakSet()


class Reservation:
    """Memory that is held; made by `reserve`. A context manager: what is left of it at its end is given back. After a
    fork it is the parent's: the child's loads leave it alone."""

    def __init__(self, size: int) -> None:
        self._owner, self.released = os.getpid(), 0
        self._piece: Piece | None = None
        piece = anonymous(Span(0, size), HUGE)
        try:
            for at in range(0, piece.room, _STEP):
                populate_write(piece.base + at, min(_STEP, piece.room - at))
            self.huge = _huge_bytes(piece)
        except BaseException:
            discard(piece)
            raise
        self._piece = piece
        with _lock:
            _held.add(self)

    huge: int
    """Bytes of it that came as huge pages: only these keep blocks together."""
    released: int
    """Bytes that loads have been given."""

    def __len__(self) -> int:
        return 0 if self._piece is None else self._piece.room

    def release(self, size: int) -> int:
        """Gives back at least `size` bytes, or all; how many."""
        with _lock:
            piece = self._piece
            if piece is None or self._owner != os.getpid():
                return 0
            gone = min(round_up(max(size, 0), HUGE), piece.room)
            self._piece = trim(piece, gone)
            self.released += gone
            return gone

    def close(self) -> None:
        """Gives back what is left; again, nothing."""
        with _lock:
            piece, self._piece = self._piece, None
            if piece is not None:
                discard(piece)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_piece", None) is not None:
            self.close()


def reserve(size: int) -> Reservation:
    """Holds `size` bytes, rounded up to huge pages, until loads of this process take them or it is closed.

    Raises InvalidArgument for a size below 1, OSError (ENOMEM) for more than nine tenths of what is available: nothing
    is swapped out for a reservation.
    """
    if size < 1:
        raise InvalidArgument(f"a reservation has at least 1 byte, not {size}")
    room = available()
    if room is not None and size > room * _SPARE:
        raise OSError(12, f"{size} bytes are more than nine tenths of what is available, {room}")
    return Reservation(size)


def release_for(size: int) -> int:
    """Just before a load that is going to read `size` bytes; how many were given back."""
    gone = 0
    with _lock:
        for one in list(_held):
            if gone < size:
                gone += one.release(size - gone)
    return gone


def _huge_bytes(piece: Piece) -> int:
    """How much lies on huge pages; at most all, where a neighbour has become one mapping with it."""
    total = 0
    for line in _smaps(piece):
        if line.startswith("AnonHugePages:"):
            total += int(line.split()[1]) << 10
    return min(total, piece.room)


def _smaps(piece: Piece) -> list[str]:
    """The lines of the mappings that touch the piece."""
    found: list[str] = []
    inside = False
    with open("/proc/self/smaps") as file:
        for line in file:
            head = line.partition(" ")[0]
            if "-" in head and not head.endswith(":"):
                start, end = (int(word, 16) for word in head.split("-"))
                inside = start < piece.base + piece.room and end > piece.base
            elif inside:
                found.append(line)
    return found
