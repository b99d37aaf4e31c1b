"""pagecache.load_ways: the strategies by name. In: a name. Out: what loads by it, a Job into a Piece.

A way that fails, or is interrupted, has given back its memory and ended its requests before it raises.
"""

from collections.abc import Callable

from elfolio.pagecache.load_copied import by_read, by_uncached
from elfolio.pagecache.load_direct import by_direct
from elfolio.pagecache.load_job import Job
from elfolio.pagecache.load_mapped import by_mmap, by_readahead
from elfolio.pagecache.load_memory import Piece
from elfolio.pagecache.load_report import Strategy

__all__ = ["COPIES", "WAYS", "Way"]

Way = Callable[[Job], Piece]

WAYS: dict[Strategy, Way] = {
    Strategy.MMAP: by_mmap,
    Strategy.READ: by_read,
    Strategy.READAHEAD: by_readahead,
    Strategy.DIRECT: by_direct,
    Strategy.UNCACHED: by_uncached,
}
COPIES = frozenset({Strategy.READ, Strategy.DIRECT, Strategy.UNCACHED})
"""Those whose memory is the process's own."""
