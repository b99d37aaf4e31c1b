"""reserve: huge pages held, given to the next load, and nobody else's after a fork."""

import os
from pathlib import Path

import pytest

import elfolio
from elfolio.pagecache import reserve as module
from tests.pagecache.files import HUGE, M, need_cold


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(b"x" * (5 * M))
    return file


def resident() -> int:
    """Bytes of this process's anonymous memory."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


def test_it_is_held_and_given_back() -> None:
    """The memory is there, in whole huge pages, until it is closed; again, nothing."""
    before = resident()
    with elfolio.reserve(31 * M + 1) as held:
        assert len(held) == 32 * M
        assert resident() - before > 30 * M
        assert 0 <= held.huge <= 32 * M
    assert resident() - before < 2 * M
    assert len(held) == 0
    held.close()


def test_a_load_takes_what_it_reads(path: Path) -> None:
    """As much as is not cached, in whole huge pages, and no more; of a second load nothing."""
    need_cold(path)
    with elfolio.reserve(16 * M) as held:
        elfolio.load(path).close()
        assert (held.released, len(held)) == (6 * M, 10 * M)
        elfolio.load(path).close()
        assert held.released == 6 * M


def test_several_give_together(path: Path) -> None:
    """What one does not have comes from the next."""
    need_cold(path)
    with elfolio.reserve(2 * M) as one, elfolio.reserve(2 * M) as two, elfolio.reserve(16 * M) as three:
        elfolio.load(path).close()
        assert one.released + two.released + three.released == 6 * M


def test_a_child_leaves_it_alone(path: Path) -> None:
    """After a fork the reservation is the parent's: a load of the child's releases nothing."""
    need_cold(path)
    with elfolio.reserve(8 * M) as held:
        pid = os.fork()
        if pid == 0:
            try:
                elfolio.load(path).close()
                os._exit(0 if held.released == 0 and len(held) == 8 * M else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(held) == 8 * M


def test_it_takes_no_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOMEM for more than nine tenths of what is available, InvalidArgument for nothing; neither holds anything."""
    monkeypatch.setattr(module, "available", lambda: 10 * HUGE)
    before = resident()
    with pytest.raises(OSError, match="nine tenths") as caught:
        elfolio.reserve(10 * HUGE)
    assert caught.value.errno == 12
    for size in (0, -1):
        with pytest.raises(elfolio.InvalidArgument):
            elfolio.reserve(size)
    assert resident() - before < M
