"""The readers and inputs that nobody meant: each ends in a value or an ElfError, soon, in the file's measure."""

import random
import subprocess
import time
import tracemalloc
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import elfwriter as w
from tests.elf.fuzzing import Tally, exercise, mutate, seeds
from tests.elf.samples import sample
from tests.elfwriter import HEADER_FIELDS, Elf, Ph, Sh

ROOT = Path(__file__).resolve().parents[2]
SEEDS = seeds()
MILLION = 1_000_000

edges = st.sampled_from([0, 1, 2, 4, 8, 63, 64, 0xFFF, 0x1000, 0xFFFE, 0xFFFF])
small = st.one_of(edges, st.integers(0, 0x2000))
numbers = st.one_of(small, st.sampled_from([1 << 31, (1 << 32) - 1]), st.integers(0, (1 << 32) - 1))
blobs = st.binary(max_size=64)

phdrs = st.builds(
    Ph,
    type=st.one_of(st.integers(0, 8), st.sampled_from([0x6474E550, 0x6474E551, 0x6474E552, 0x6474E553])),
    flags=st.integers(0, 7), offset=st.one_of(st.none(), small), vaddr=numbers, filesz=st.one_of(st.none(), numbers),
    memsz=st.one_of(st.none(), numbers), align=numbers, data=blobs,
)  # fmt: skip
shdrs = st.builds(
    Sh,
    name=st.sampled_from(["", ".comment", ".dynsym", ".note.gnu.gold-version"]), type=st.integers(0, 18), flags=small,
    addr=numbers, offset=st.one_of(st.none(), small), size=st.one_of(st.none(), numbers), link=small,
    entsize=small, data=blobs, name_index=st.one_of(st.none(), numbers),
)  # fmt: skip
halves = st.dictionaries(
    st.sampled_from([f for f in HEADER_FIELDS if f[-3:] in ("num", "ize", "ndx")]), edges, max_size=2
)
words = st.dictionaries(st.sampled_from(["e_phoff", "e_shoff"]), numbers, max_size=1)
elves = st.builds(
    Elf,
    bits=st.sampled_from([32, 64]), order=st.sampled_from(["little", "big"]), type=st.integers(0, 4),
    segments=st.lists(phdrs, max_size=5), sections=st.lists(shdrs, max_size=5), extended=st.booleans(),
    header=st.builds(lambda a, b: {**a, **b}, halves, words),
)  # fmt: skip


@settings(max_examples=400)
@given(elves)
def test_any_file_of_the_writer(elf: Elf) -> None:
    """Whatever fields the writer is told to write, reading ends in a value or an ElfError."""
    exercise(elf.build())


@settings(max_examples=400)
@given(st.integers(0, len(SEEDS) - 1), st.randoms(use_true_random=False))
def test_any_mutation(index: int, rng: random.Random) -> None:
    """Well-formed files of every kind, changed in a few places, are read or refused."""
    exercise(mutate(SEEDS[index], rng))


@settings(max_examples=200)
@given(st.binary(max_size=512))
def test_any_bytes(data: bytes) -> None:
    """Bytes behind the right magic number, and without it, are read or refused."""
    exercise(data)
    exercise(b"\x7fELF\2\1\1" + data)


def test_seeds_are_worth_it() -> None:
    """The seeds themselves are read whole: mutation begins inside the format."""
    assert [exercise(seed) for seed in SEEDS] == [0] * len(SEEDS)


def test_mutations_reach_everything() -> None:
    """Of 5,000 mutations a part is read, a part read with faults, a part refused: none of the three is out of reach."""
    rng, tally = random.Random(1), Tally()
    for _ in range(5_000):
        tally.add(mutate(rng.choice(SEEDS), rng))
    assert min(tally.read - tally.faulty, tally.faulty, tally.refused) > 250


def many(count: int, elf: Elf) -> Elf:
    """The same file with a program header table of `count` entries, all alike."""
    elf.segments *= count
    return elf


def overlapping_names() -> bytes:
    """Section names that each are nearly the whole table."""
    elf = Elf(header={"e_shstrndx": 1}, sections=[Sh(type=w.SHT_STRTAB, data=b"n" * 100_000 + b"\0")])
    elf.sections += [Sh(type=0, name_index=i) for i in range(5_000)]
    return elf.build()


def overlapping_notes() -> bytes:
    """PT_NOTE segments that each begin a little further on in one long note."""
    elf = Elf()
    elf.contents = {0x20000: elf.note(b"GNU\0", 1, bytes(400_000)) * 2}
    elf.segments = [Ph(w.PT_NOTE, offset=0x20000 + 4 * i, filesz=400_000, align=4) for i in range(2_000)]
    return elf.build()


BOMBS: dict[str, Callable[[], bytes]] = {
    "phnum 65535, tiny file": lambda: sample(header={"e_phnum": 0xFFFF}).build(),
    "phnum 65534, tiny file": lambda: sample(header={"e_phnum": 0xFFFE}).build(),
    "phnum 4 billion": lambda: sample(extended=True, null_section={"info": 0xFFFFFFFF}).build(),
    "shnum 2 to the 64": lambda: sample(extended=True, null_section={"size": (1 << 64) - 1}).build(),
    "20,000 interpreters": lambda: many(20_000, Elf(segments=[Ph(w.PT_INTERP, offset=64, filesz=4000)])).build(),
    "20,000 dynamic sections": lambda: many(
        60_000, Elf(segments=[Ph(w.PT_DYNAMIC, offset=64, filesz=1 << 21)])
    ).build(),
    "overlapping notes": overlapping_notes,
    "overlapping names": overlapping_names,
    "notes of nothing": lambda: Elf(segments=[Ph(w.PT_NOTE, data=bytes(1 << 18), align=4)]).build(),
    "dynamic without DT_NULL": lambda: Elf(segments=[Ph(w.PT_DYNAMIC, data=b"\1" * (1 << 18))]).build(),
    "strings without NUL": lambda: Elf(sections=[Sh(".x", data=b"x" * (1 << 18))], contents={}).build()[:-1],
    "table over itself": lambda: sample(header={"e_phoff": 0, "e_shoff": 0}).build(),
}


def peak_of(action: Callable[[], object]) -> int:
    """The bytes that Python had allocated at most, beyond those before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


TIMES_SIZE, BESIDES = 32, 256 * 1024
"""Eight bytes of a dynamic section of 32 bits become a tuple of two integers: 16 times as much, and its place in a list
that grows by doubling. The rest is regular expressions and the like, once."""


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs(bomb: Callable[[], bytes]) -> None:
    """A file built to be large in memory, or slow, is neither: at most 32 times its size, and soon done."""
    data = bomb()
    exercise(data[:64])
    assert peak_of(lambda: exercise(data)) < TIMES_SIZE * len(data) + BESIDES
    began = time.process_time()
    exercise(data)
    assert time.process_time() - began < 1 + len(data) / 1e6  # an hour, if it were quadratic


def test_allocation_stays_within_the_files_measure() -> None:
    """Of 1,500 mutations none has more than 32 times its size allocated at any moment."""
    rng = random.Random(2)
    exercise(SEEDS[0])
    for _ in range(1_500):
        data = mutate(rng.choice(SEEDS), rng)
        assert peak_of(lambda data=data: exercise(data)) < TIMES_SIZE * len(data) + BESIDES  # type: ignore[misc]


@pytest.mark.slow
def test_a_million_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a million mutations none ends in anything but a value or an ElfError; the slowest one's time is told."""
    rng, tally = random.Random(3), Tally()
    for _ in range(MILLION):
        tally.add(mutate(rng.choice(SEEDS), rng))
    with capsys.disabled():
        print(
            f"\n{tally.inputs} inputs: {tally.read} read, {tally.faulty} of them with faults, {tally.refused} refused; "
            f"the slowest took {tally.slowest * 1e3:.1f} ms ({len(tally.slowest_input)} bytes)"
        )
    assert tally.inputs == MILLION
    assert tally.slowest < 5


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with atheris, libFuzzer for Python, in an environment of its own."""
    home = tmp_path_factory.mktemp("fuzz")
    venv.create(home, with_pip=True)
    python = home / "bin/python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--only-binary=:all:", "atheris>=3.0"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(
            f"atheris has no wheel here; with one: pytest -m slow tests/elf/test_fuzz.py ({done.stderr[-200:].strip()})"
        )
    return python


@pytest.mark.slow
@pytest.mark.network
def test_guided_by_coverage(guided: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fuzzer that follows the readers' branches finds no input that ends in anything but a value or an ElfError."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index, seed in enumerate(SEEDS):
        (corpus / f"seed{index}").write_bytes(seed)
    limits = [
        "-max_total_time=120",
        "-max_len=8192",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-seed=1",
        "-print_final_stats=1",
    ]
    done = subprocess.run(
        [guided, ROOT / "tests/elf/guided.py", corpus, *limits],
        cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    with capsys.disabled():
        print(
            "\n" + "\n".join(line for line in done.stderr.splitlines() if "stat::number" in line or "slowest" in line)
        )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "ElfError" not in done.stderr
    assert len(list(corpus.iterdir())) > len(SEEDS)
