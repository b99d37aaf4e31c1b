"""The address-space model against the running kernel: random operations, compared after each."""

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elfolio.kernel.mappable import Mappable
from elfolio.kernel.model import apply
from elfolio.kernel.space import OpenFile
from tests.kernel.oracle import Live, open_file, shown_model, twin
from tests.kernel.sequences import ARENA, KINDS, PAGES, Step, resolve

pytestmark = pytest.mark.skipif(os.sysconf("SC_PAGESIZE") != 4096, reason="the sequences count in pages of 4 KiB")

_DEEPEST = 4
"""Of forks in a sequence: each leaves a process that waits."""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Mappable, int]]:
    """A file on disk of 4 MiB, read-only; two memfds; and the file once more, opened anew."""
    path = tmp_path_factory.mktemp("mapped") / "file"
    path.write_bytes(b"x" * (4 << 20))
    opened = [os.open(path, os.O_RDONLY) for _ in range(2)]
    inode = os.fstat(opened[0]).st_ino
    fs = _file_system(path)
    shared = [open_file(name, 10 * 4096, number) for number, name in enumerate(("one", "two"))]
    found = {Mappable(OpenFile(str(path), inode, opening=10), 4 << 20, fs=fs, writable=False): opened[0]}
    found |= {file.mappable: file.fd for file in shared}
    found[Mappable(OpenFile(str(path), inode, opening=11), 4 << 20, fs=fs, writable=False)] = opened[1]
    yield found
    for fd in found.values():
        os.close(fd)


def _file_system(path: Path) -> str:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mounts = {fields[4]: fields[fields.index("-") + 1] for fields in lines}
    return next(mounts[str(folder)] for folder in (path, *path.parents) if str(folder) in mounts)


def _run(mm_driver: Path, files: dict[Mappable, int], steps: Sequence[Step], done: Counter[str]) -> None:
    order = tuple(files)
    log = []
    forks = 0
    with Live(mm_driver, files) as live:
        mm = twin(live)
        assert live.shown() == shown_model(mm)
        for step in steps:
            if step[0] == "fork" and forks < _DEEPEST:
                forks += 1
                live.fork()
                mm = mm.fork()
                log.append("fork")
            else:
                operation = resolve(step, mm, order)
                if operation is None:
                    continue
                log.append(str(operation))
                real, modelled = live.apply(operation), apply(mm, operation)
                assert real == modelled, (log, real, modelled)
            done[step[0]] += 1
            real_space, space = set(live.shown()), set(shown_model(mm))
            assert real_space == space, (log, "only live", real_space - space, "only model", space - real_space)


_numbers = st.integers(0, 65535)
_steps = st.lists(
    st.tuples(st.sampled_from(KINDS), _numbers, _numbers, _numbers, _numbers, _numbers, _numbers),
    min_size=1,
    max_size=60,
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps=_steps)
def test_short_sequences_agree(mm_driver: Path, files: dict[Mappable, int], steps: list[Step]) -> None:
    """After every operation of any short sequence, the model's mappings, flags and results are the kernel's."""
    _run(mm_driver, files, steps, Counter())


def test_long_sequences_agree(mm_driver: Path, files: dict[Mappable, int]) -> None:
    """5,000 operations, all kinds, in sequences of 250: the model's mappings, flags and results are the kernel's."""
    done = _random(mm_driver, files, 5000, 250)
    assert done.total() >= 4000


@pytest.mark.slow
def test_very_many_operations_agree(mm_driver: Path, files: dict[Mappable, int]) -> None:
    """100,000 operations without a difference, each kind at least a hundredth of them, a tenth with MAP_FIXED."""
    done = _random(mm_driver, files, 125_000, 250)
    assert done.total() >= 100_000
    for kind in KINDS:
        assert done[kind] * 100 >= done.total(), (kind, done)
    assert done["mmap_fixed"] * 10 >= done.total()


def _random(mm_driver: Path, files: dict[Mappable, int], operations: int, length: int) -> Counter[str]:
    done: Counter[str] = Counter()
    for seed in range(operations // length):
        source = random.Random(seed)
        steps = [_step(source) for _ in range(length)]
        _run(mm_driver, files, steps, done)
    return done


def _step(source: random.Random) -> Step:
    numbers = [source.randrange(65536) for _ in range(6)]
    return (source.choice(KINDS), numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])


def test_the_arena_is_apart() -> None:
    """The sequences' own range lies far from where the driver is loaded and where mappings are placed."""
    assert 1 << 32 < ARENA < ARENA + PAGES * 4096 < 1 << 46
