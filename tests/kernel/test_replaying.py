"""kernel.trace_steps and kernel.replaying: whose memory a call concerns, and what a policy makes of it."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from elfolio.kernel.calls import Brk, Mmap, Mprotect, Mremap, NameVma
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.policy import policy
from elfolio.kernel.replaying import Lane, Touching, replay
from elfolio.kernel.space import OpenFile, Vma, VmFlags
from elfolio.kernel.trace import Call, Ended, Event, Image, Log, Touched
from elfolio.kernel.trace_record import read_record
from elfolio.kernel.trace_shapes import SHAPES
from elfolio.kernel.trace_steps import Do, Exec, Fork, Gone, Steps
from elfolio.kernel.trace_strace import read_strace
from elfolio.span import MappedAddress

P = 4096
BASE = 0x7F0000000000
PLAIN = VmFlags.READ | VmFlags.WRITE | VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC | VmFlags.ACCOUNT
CLONE_VM, CLONE_FILES, CLONE_VFORK, CLONE_THREAD = 0x100, 0x400, 0x4000, 0x10000
KERNEL = policy("linux-6.18.44")


def call(pid: int, name: str, *args: int | str, result: int | None = 0, file: Mappable | None = None) -> Call:
    """One that succeeded."""
    return Call(pid, name, args, result, 0, 1, file)


def anonymous(pid: int, page: int, pages: int = 1, prot: int = 3) -> Call:
    """A mapping that the kernel put at that page."""
    return call(pid, "mmap", 0, pages * P, prot, 0x22, -1, 0, result=BASE + page * P)


def lane(events: list[Event], touching: Touching = "traced", kernel: str = "linux-6.18.44", **options: bool) -> Lane:
    """One that has followed them."""
    made = Lane(policy(kernel), touching, **options)
    replay(Steps().of(events), [made])
    return made


def test_mappings_are_asked_for_where_they_were_put() -> None:
    """mmap and a mremap that moved become fixed ones; one that grew in its place may not move."""
    steps = list(
        Steps().of(
            [
                anonymous(1, 4),
                call(1, "mremap", BASE, P, 2 * P, 1, result=BASE),
                call(1, "mremap", BASE, P, 2 * P, 1, result=BASE + 64 * P),
                call(1, "brk", 0, result=0x5000),
            ]
        )
    )
    assert [step.operation for step in steps if isinstance(step, Do)] == [
        Mmap(BASE + 4 * P, P, 3, 0x32),
        Mremap(BASE, P, 2 * P, 0),
        Mremap(BASE, P, 2 * P, 3, BASE + 64 * P),
        Brk(0),
    ]


def test_what_failed_does_nothing_but_what_it_did_on_its_way() -> None:
    """A failed mprotect is tried, since it may have changed a part; a failed mapping, naming or prctl is not."""
    failed = [
        Call(1, "mprotect", (BASE, P, 1), -1, 12, 1),
        Call(1, "mmap", (0, P, 3, 0x22, -1, 0), -1, 12, 1),
        Call(1, "mremap", (BASE, P, P, 1), -1, 14, 1),
        Call(1, "prctl", (0x53564D41, 0, BASE, P, "x"), -1, 22, 1),
        Call(1, "prctl", (67, 1, 0, 0, 0), -1, 22, 1),
        Call(1, "munmap", (), None, 0, 1),
    ]
    steps = [step for step in Steps().of(failed) if isinstance(step, Do)]
    assert [(step.operation, step.result) for step in steps] == [(Mprotect(BASE, P, 1), -12)]
    named = next(step for step in Steps().of([call(1, "prctl", 0x53564D41, 0, BASE, P, "x")]) if isinstance(step, Do))
    assert named.operation == NameVma(BASE, P, "x")


def test_threads_share_and_processes_do_not() -> None:
    """A thread's and a vfork child's calls concern their maker's memory, a fork child's its own; exec gives new."""
    steps = list(
        Steps().of(
            [
                call(1, "clone", CLONE_VM | CLONE_THREAD, result=2),
                call(1, "vfork", CLONE_VM | CLONE_VFORK | 17, result=3),
                call(1, "fork", 17, result=4),
                anonymous(2, 1),
                anonymous(3, 2),
                anonymous(4, 3),
                Image(3, "/bin/x", (), 0, 1),
                anonymous(3, 4),
                Ended(2, 1),
                Ended(1, 1),
            ]
        )
    )
    spaces = [step.space for step in steps if isinstance(step, Do)]
    assert spaces[0] == spaces[1] == steps[0].space
    assert len({spaces[0], spaces[2], spaces[3]}) == 3
    assert [type(step) for step in steps if not isinstance(step, Do)] == [Exec, Fork, Exec, Gone]
    assert steps[-1] == Gone(spaces[0], None, 1)


def test_openings() -> None:
    """Two descriptors by dup are one opening, also in a fork's child; opened again, it is another."""
    log = Log("log")
    text = """\
1 openat(AT_FDCWD, "/x", O_RDONLY) = 3
1 dup(3) = 4
1 fork() = 2
1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = 0x10000
2 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 4, 0) = 0x10000
1 close(3) = 0
1 openat(AT_FDCWD, "/x", O_RDONLY) = 3
1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = 0x20000
"""
    steps = Steps()
    files = [
        step.operation.file.file
        for step in steps.of(read_strace(text.splitlines(), log))
        if isinstance(step, Do) and isinstance(step.operation, Mmap) and step.operation.file
    ]
    assert files[0] == files[1]
    assert files[2] != files[0]
    assert {file.path for file in files} == {"/x"}
    assert steps.assumed_openings == 0
    silent = Steps()
    list(silent.of([call(1, "mmap", 0, P, 1, 2, 3, 0, result=BASE, file=Mappable(OpenFile("/x")))]))
    assert silent.assumed_openings == 1


def test_what_was_written_decides() -> None:
    """Two mappings written apart do not merge when they meet; unwritten they do. The trace's own word lies between."""
    events: list[Event] = [
        anonymous(1, 1),
        anonymous(1, 3),
        Touched(1, ((BASE + P, BASE + 2 * P), (BASE + 3 * P, BASE + 4 * P)), 1),
        anonymous(1, 2),
    ]
    ends = {way: lane(events, way).endings[0].vmas for way in ("none", "traced", "all")}
    assert ends == {"none": 1, "traced": 2, "all": 2}
    assert lane(events).missed == {"sides": 1}
    assert lane(events[:2] + events[3:]).endings[0].vmas == 1


def test_the_early_flag_wins_mergers_back() -> None:
    """Under PR_SET_MEMORY_MERGE neighbours merge from 6.17 on and not before; before 6.4 there is no such thing."""
    events: list[Event] = [anonymous(1, page) for page in range(50, 0, -1)]
    counts = {
        (kernel, merge): lane(events, kernel=kernel, memory_merge=merge).endings[0].vmas
        for kernel in ("linux-6.12", "linux-6.18")
        for merge in (False, True)
    }
    assert counts == {
        ("linux-6.12", False): 1,
        ("linux-6.12", True): 50,
        ("linux-6.18", False): 1,
        ("linux-6.18", True): 1,
    }
    assert lane(events, memory_merge=True).endings[0].mergeable == 50 * P
    assert lane(events).endings[0].mergeable == 0


def test_an_image_and_its_end() -> None:
    """What the trace shows at the beginning is there; what it shows at the end is held against the model."""
    program = Vma(MappedAddress(0x10000), MappedAddress(0x12000), PLAIN, name="", anon_pgoff=0x10)
    grown = Vma(MappedAddress(0x10000), MappedAddress(0x13000), PLAIN, name="", anon_pgoff=0x10)
    events: list[Event] = [
        Image(1, "/bin/x", (program,), 0x20000, 1),
        call(1, "mmap", 0x12000, P, 3, 0x32, -1, 0, result=0x12000),
        call(1, "brk", 0x21000, result=0x21000),
        call(1, "munmap", 0x20000, P),
    ]
    heap = call(1, "brk", 0x21000, result=0x21000)
    assert lane([*events, Ended(1, 1, (grown,))]).endings[0].equal is True
    assert lane([*events, heap, Ended(1, 1, (grown,))]).endings[0].equal is True
    assert lane([*events, Ended(1, 1, (program,))]).endings[0].equal is False
    done = lane(events)
    assert (done.different, done.assumed, done.endings[0].path) == (0, 0, "/bin/x")
    assert done.endings[0].equal is None


def test_what_the_model_would_not_have_said() -> None:
    """A call that the traced kernel answered otherwise is counted, with its line; one on memory that the trace does not
    show to be mapped maps it, and says how much."""
    events: list[Event] = [
        Call(1, "madvise", (BASE, P, 12345), 0, 0, 7),
        Call(1, "mprotect", (BASE, 2 * P, 1), 0, 0, 8),
    ]
    done = lane(events)
    assert [(d.line, d.traced, d.modelled) for d in done.differences] == [(7, 0, -22)]
    assert done.different == 1
    assert done.assumed == 3 * P - P


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_event_breaks_it(data: st.DataObject) -> None:
    """Whatever a record says, numbers as they may be in one, is replayed or noted."""
    number = st.one_of(st.integers(-(1 << 63), (1 << 64) - 1), st.sampled_from([0, P, BASE, BASE + P, 3, 0x22, -1, 67]))
    names = st.sampled_from([*SHAPES, "prctl", "clone", "execve", "UFFDIO_REGISTER", "close", "what"])
    event = st.one_of(
        st.builds(lambda p, c, a, r: {"p": p, "c": c, "a": a, "r": r}, st.integers(1, 3), names,
                  st.lists(st.one_of(number, st.just("x")), max_size=6), st.one_of(st.none(), number)),
        st.builds(lambda p, a, b: {"p": p, "t": [[a, b]]}, st.integers(1, 3), number, number),
        st.builds(lambda p, b: {"p": p, "x": "/x", "b": b, "v": []}, st.integers(1, 3), number),
        st.builds(lambda p, e: {"p": p, "e": e}, st.integers(1, 3), number),
    )  # fmt: skip
    lines = [json.dumps(one) for one in data.draw(st.lists(event, max_size=12))]
    log = Log("record")
    first = '{"elfolio":"record","version":1}'
    lanes = [Lane(KERNEL, way) for way in ("traced", "none", "all")]
    replay(Steps().of(read_record([first, *lines], log)), lanes)
    assert log.lines == len(lines) + 1


def test_points_are_bounded() -> None:
    """However long the trace, its course has at most 512 points, evenly spread, the peak is exact."""
    events: list[Event] = [anonymous(1, 2 * page) for page in range(3000)]
    done = lane(events)
    assert done.peak == done.endings[0].peak == 3000
    assert 100 < len(done.points) <= 512
    distances = {b[0] - a[0] for a, b in zip(done.points, done.points[1:], strict=False)}
    assert len(distances) == 1
