"""Buffers that grow: what was in them stays, errors are the kernel's, and whole page tables move."""

import copy
import ctypes
import errno
import json
import os
import pickle
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import elfolio
from elfolio.kernel.pages import Side, moves
from elfolio.live.host import policy_here
from elfolio.memory import Buffer, grow

PAGE = os.sysconf("SC_PAGE_SIZE")
TABLE = PAGE * PAGE // 8
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
SIZES = [1, PAGE, TABLE - 1, TABLE, 3 * TABLE + PAGE]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("more", [1, PAGE, TABLE, 5 * TABLE + 3])
def test_what_was_there_stays(size: int, more: int) -> None:
    """A buffer of any size that grows by any size has the old bytes and then zeros."""
    with Buffer(size) as buffer:
        with buffer.view() as view:
            assert view.nbytes == size == len(buffer)
            view[0], view[-1], view[size // 2] = 1, 2, 3
            before = bytes(view)
        buffer.grow(size + more)
        with buffer.view() as view:
            assert view[:size] == before
            assert not any(view[size:])
            view[-1] = 9


def island() -> int:
    """The address of one page that no neighbour is one mapping with: a call that takes more moves nobody's memory."""
    at: int = LIBC.mmap(None, 3 * PAGE, 0, 0x22, -1, 0)
    assert LIBC.mmap(at + PAGE, PAGE, 3, 0x32, -1, 0) == at + PAGE
    return at + PAGE


def region(size: int) -> int:
    """The address of memory that only the test gives back, part by part: a hole that a move leaves may be anybody's."""
    at: int = LIBC.mmap(None, size, 3, 0x22, -1, 0)
    assert at % PAGE == 0
    return at


def unmap(at: int, size: int) -> None:
    assert size == 0 or LIBC.munmap(at, size) == 0


@pytest.mark.parametrize("offset", [0, PAGE, 3 * PAGE, TABLE - PAGE])
def test_a_move_agrees_with_its_source(offset: int) -> None:
    """Wherever a mapping lies in its page table, it lies so after it had to move; its bytes came along."""
    base = region(4 * TABLE)
    begin, size = base + offset, 2 * TABLE
    ctypes.memmove(begin, b"here", 4)
    ctypes.memset(begin + size - 1, 7, 1)
    at = grow(begin, size, 3 * TABLE, move=True)
    unmap(base, offset)
    unmap(begin + size, 4 * TABLE - offset - size)
    assert at != begin
    assert (at - begin) % TABLE == 0
    assert ctypes.string_at(at, 4) == b"here"
    assert ctypes.string_at(at + size - 1, 2) == b"\7\0"
    unmap(at, 3 * TABLE)


def test_without_room_it_moves_and_with_room_it_stays() -> None:
    """What has a neighbour above moves to grow; what does not grow, or shrinks, stays where it is."""
    base = region(4 * TABLE)
    assert grow(base, TABLE, TABLE) == base
    at = grow(base, TABLE, 2 * TABLE)
    unmap(base + TABLE, 3 * TABLE)
    assert at != base
    assert grow(at, 2 * TABLE, PAGE) == at
    unmap(at, PAGE)


def test_only_what_was_asked_for_stays_mapped() -> None:
    """Growing and closing leaves no reserved room behind."""
    code = """
import sys
from elfolio.memory import Buffer
def size(): return int(open("/proc/self/statm").read().split()[0])
Buffer(1 << 20).close()
before = size()
buffer = Buffer(3 << 20)
blocks = []
for more in range(4, 40, 3):
    blocks.append(Buffer(1 << 21))
    buffer.grow(more << 20)
for one in (buffer, *blocks):
    one.close()
sys.exit(size() - before > 64)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (lambda at: grow(at + 1, PAGE, 2 * PAGE), errno.EINVAL),
        (lambda at: grow(at, PAGE, 0), errno.EINVAL),
        (lambda at: grow(at, 2 * TABLE, 3 * TABLE), errno.EFAULT),
        (lambda at: grow(at, PAGE, 1 << 60), errno.EINVAL),
        (lambda at: grow(at, PAGE, 1 << 46), errno.ENOMEM),
        (lambda at: grow(at + (1 << 64), PAGE, 2 * PAGE), errno.EINVAL),
        (lambda at: grow(at - (1 << 64), PAGE, 2 * PAGE), errno.EINVAL),
        (lambda at: grow(at, PAGE, PAGE + (1 << 64)), errno.EINVAL),
        (lambda at: Buffer(PAGE + (1 << 64)), errno.ENOMEM),
        (lambda at: Buffer(0), errno.EINVAL),
        (lambda at: Buffer(1 << 60), errno.ENOMEM),
    ],
    ids=[
        "inside a page",
        "to nothing",
        "beyond the mapping",
        "beyond all",
        "beyond memory",
        "an address of 65 bits",
        "below 0",
        "a size of 65 bits",
        "a buffer of as many",
        "empty",
        "too large",
    ],
)
def test_errors_are_the_kernels(make: "object", number: int) -> None:
    """What mremap refuses is refused with its errno, and the mapping stays."""
    at = island()
    ctypes.memset(at, 5, 1)
    before = int(Path("/proc/self/statm").read_text().split()[0])
    with pytest.raises(OSError) as caught:
        make(at)  # type: ignore[operator]
    assert caught.value.errno == number
    assert ctypes.string_at(at, 1) == b"\5"
    assert int(Path("/proc/self/statm").read_text().split()[0]) - before < 1024  # no room stays reserved
    LIBC.munmap(at - PAGE, 3 * PAGE)


def test_views_keep_a_buffer_where_it_is() -> None:
    """While a view, or a part of one, lives, growing and closing are BufferError; afterwards they are done."""
    buffer = Buffer(PAGE)
    part = buffer.view()[4:8]
    with pytest.raises(BufferError):
        buffer.grow(2 * PAGE)
    with pytest.raises(BufferError):
        buffer.close()
    part.release()
    del part
    buffer.grow(2 * PAGE)
    with pytest.raises(OSError, match="cannot grow"):
        buffer.grow(PAGE)
    buffer.close()
    buffer.close()
    for use in (buffer.view, lambda: buffer.grow(2 * PAGE), lambda: buffer.grow(3 * PAGE)):
        with pytest.raises(ValueError, match="closed"):
            use()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_buffer_has_one_owner(duplicate: Callable[[Buffer], object]) -> None:
    """A copy would give back the memory that the first still has: there is none."""
    with Buffer(PAGE) as buffer, pytest.raises(TypeError, match="cannot be copied or pickled"):
        duplicate(buffer)


def test_numbers_only() -> None:
    """What is no whole number is no size and no address."""
    for wrong in (1.5, "4096", None):
        with pytest.raises(TypeError):
            Buffer(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            grow(wrong, PAGE, PAGE)  # type: ignore[arg-type]


def test_views_at_the_interpreters_end() -> None:
    """They may go after their buffer: nothing is said about that."""
    code = "import sys, elfolio; b = elfolio.Buffer(4096); v = b.view(); sys.modules['x'] = (v, b); b.__del__()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_view_outlives_the_name_of_its_buffer() -> None:
    """A view keeps its memory."""
    view = Buffer(PAGE).view()
    view[0] = 3
    assert view[0] == 3


@pytest.fixture
def limited() -> Iterator[None]:
    """An address space that has room for 64 MiB more and no reservation of 1 GiB."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("limited")
def test_under_a_limit_it_is_still_memory() -> None:
    """With little address space left it grows as far as there is any, then says ENOMEM and is as it was."""
    with Buffer(16 << 20) as buffer:
        buffer.grow(20 << 20)
        with pytest.raises(OSError) as caught:
            buffer.grow(1 << 30)
        assert caught.value.errno == errno.ENOMEM
        assert len(buffer) == 20 << 20
        with buffer.view() as view:
            view[-1] = 1


def page_tables() -> int:
    found = re.search(r"VmPTE:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.skipif(PAGE != 4096, reason="64 MiB are too small for tables of other pages than 4 KiB")
def test_whole_tables_move() -> None:
    """Moving 64 MiB of small pages makes no tables, as the model says of a move to the same offset, but for those that
    lead there; to another offset it would make 33."""
    size = 64 << 20
    base = region(size)
    assert LIBC.madvise(base, size, 15) == 0  # MADV_NOHUGEPAGE
    ctypes.memset(base, 1, size)
    before = page_tables()
    at = grow(base, size, size, move=True)
    grown = page_tables() - before
    unmap(at, size)
    policy, old = policy_here(), Side(TABLE, TABLE)
    assert moves(policy, old, Side(3 * TABLE + PAGE, 3 * TABLE + PAGE), size).made > 32
    assert moves(policy, old, old, size)[1:3] == (32, 0)
    assert grown <= 4 * PAGE


def test_the_package_has_them() -> None:
    """They are public names of the package."""
    assert elfolio.Buffer is Buffer
    assert elfolio.grow is grow


def test_the_benchmark_agrees_with_the_kernel(tmp_path: Path) -> None:
    """bench/mremap.py finds as many tables made as the model says, and keeps every sample."""
    script, out = Path(__file__).parent.parent / "bench/mremap.py", tmp_path / "samples.json"
    argv = [sys.executable, str(script), "--mib", "64", "--rounds", "2", "--json", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    samples = json.loads(out.read_text())
    assert {len(rounds) for rounds in samples["moving"].values()} == {2}
    assert min(samples["tables"].values()) > 0
    assert len(samples["growing"]) == 4
