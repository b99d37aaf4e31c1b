"""The relay: what a child writes, kept or passed on, within its limit."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.spawn.relay import KEPT, Output, Relay


def through(chunks: list[bytes], limit: int, onto: int = KEPT) -> Output:
    """An Output that has read these chunks, each by itself, and has been finished."""
    reading, writing = os.pipe()
    output = Output(reading, limit, onto)
    for chunk in chunks:
        os.write(writing, chunk)
        assert output.read()
    os.close(writing)
    assert not output.read()
    output.finish()
    return output


CHUNKS = st.lists(st.binary(min_size=1, max_size=50), max_size=10)


@given(CHUNKS, st.integers(0, 200))
def test_head_and_tail_are_kept(chunks: list[bytes], limit: int) -> None:
    """However the bytes arrive, the first half of the limit and the last are kept, and the rest is counted."""
    data = b"".join(chunks)
    said = through(chunks, limit).said()
    first, last = limit - limit // 2, limit // 2
    assert said.head == data[:first]
    assert said.tail == data[max(first, len(data) - last) :]
    assert said.total == len(data)
    assert said.dropped == len(data) - len(said.head) - len(said.tail)


@given(CHUNKS, st.integers(0, 200))
def test_what_is_passed_on_is_what_would_be_kept(chunks: list[bytes], limit: int) -> None:
    """Passed on, head and tail are the same bytes; the counts too."""
    reading, writing = os.pipe()
    passed, kept = through(chunks, limit, writing).said(), through(chunks, limit).said()
    os.close(writing)
    with open(reading, "rb") as file:
        assert file.read() == kept.head + kept.tail
    assert (passed.total, passed.dropped) == (kept.total, kept.dropped)
    assert (passed.head, passed.tail) == (b"", b"")


def test_a_non_blocking_target_is_waited_for() -> None:
    """A target that takes no more for now, because somebody made it non-blocking, gets everything in the end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = os.urandom(1 << 20)
    taken = bytearray()

    def take() -> None:
        with open(reading, "rb", buffering=0) as file:
            while chunk := file.read(65536):
                taken.extend(chunk)

    thread = threading.Thread(target=take)
    thread.start()
    through([data[at : at + 65536] for at in range(0, len(data), 65536)], len(data), writing)
    os.close(writing)
    thread.join()
    assert taken == data


@pytest.fixture
def ended() -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor that becomes readable, as a pidfd does, when the function is called."""
    fd = os.eventfd(0)
    yield fd, lambda: os.eventfd_write(fd, 1)
    os.close(fd)


def test_the_end_is_the_childs_and_its_outputs(ended: tuple[int, Callable[[], None]]) -> None:
    """The relay is done when the child has ended and its outputs too, and says so once."""
    pidfd, end = ended
    reading, writing = os.pipe()
    done = threading.Event()
    with closing(Relay(pidfd, [Output(reading, 100)], done.set)) as relay:
        thread = threading.Thread(target=relay.run)
        thread.start()
        os.write(writing, b"one")
        end()
        os.write(writing, b"two")
        os.close(writing)
        thread.join()
        assert done.is_set()
        assert relay.done
        assert relay.outputs[0].said().head == b"onetwo"


def test_a_pipe_that_somebody_keeps_can_be_given_up(ended: tuple[int, Callable[[], None]]) -> None:
    """`stop` ends the relay although the pipe is still open, with what came until then."""
    pidfd, _ = ended
    reading, writing = os.pipe()
    os.write(writing, b"kept")
    with closing(Relay(pidfd, [Output(reading, 100)], lambda: None)) as relay:
        assert relay.pipes == (reading,)
        relay.outputs[0].read()
        relay.stop()
        relay.run()
        assert relay.done
        assert relay.outputs[0].said().head == b"kept"
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"more")
    os.close(writing)
