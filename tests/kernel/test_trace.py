"""kernel.trace*: what readers make of logs, and what they do with lines that are none."""

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elfolio.errors import InvalidArgument
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.space import OpenFile
from elfolio.kernel.trace import Call, Ended, Event, Image, Log, Touched
from elfolio.kernel.trace_perf import looks_like_perf, read_perf
from elfolio.kernel.trace_record import looks_like_record, read_record
from elfolio.kernel.trace_strace import looks_like_strace, read_strace

CLONE_VM, CLONE_VFORK, SIGCHLD = 0x100, 0x4000, 17


def strace(*lines: str) -> tuple[list[Event], list[str]]:
    """Events, and problems as they are shown."""
    log = Log("log")
    return list(read_strace(lines, log)), [str(problem) for problem in log]


def one(line: str) -> Event:
    """The event of a line that has one."""
    events, problems = strace(line)
    assert problems == []
    assert len(events) == 1
    return events[0]


PLAIN = {
    'mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f73d1bfc000': (
        "mmap", (0, 8192, 3, 0x22, -1, 0), 0x7F73D1BFC000),
    'mmap(0x1000, 1, PROT_NONE, MAP_SHARED|21<<MAP_HUGE_SHIFT|0x800000 /* MAP_??? */, 3, 0x26000) = 0x1000': (
        "mmap", (0x1000, 1, 0, 0x1 | 21 << 26 | 0x800000, 3, 0x26000), 0x1000),
    'munmap(0x7f73d1bee000, 53659)     = 0 <0.000015>': ("munmap", (0x7F73D1BEE000, 53659), 0),
    'mprotect(0x7f73d1bdb000, 16384, PROT_READ) = 0': ("mprotect", (0x7F73D1BDB000, 16384, 1), 0),
    'mremap(0x7f08286a1000, 1048576, 2097152, MREMAP_MAYMOVE) = 0x7f0828400000': (
        "mremap", (0x7F08286A1000, 1 << 20, 2 << 20, 1), 0x7F0828400000),
    'mremap(0x10000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, 0x20000) = 0x20000': (
        "mremap", (0x10000, 4096, 4096, 3, 0x20000), 0x20000),
    'brk(NULL)                         = 0x55a080d13000': ("brk", (0,), 0x55A080D13000),
    'madvise(0x7f08286a1000, 4096, 0x66 /* MADV_??? */) = 0': ("madvise", (0x7F08286A1000, 4096, 102), 0),
    'mlock2(0x7f0828400000, 4096, MLOCK_ONFAULT) = 0': ("mlock2", (0x7F0828400000, 4096, 1), 0),
    'munlockall()        = 0': ("munlockall", (), 0),
    'shmat(0, NULL, SHM_RDONLY)   = 0x7f082961b000': ("shmat", (0, 0, 0o10000), 0x7F082961B000),
    'syscall_0x1ce(0x7f0828400000, 0x1000, 0, 0, 0xffffffffffffff80, 0x6) = 0': (
        "mseal", (0x7F0828400000, 4096, 0), 0),
    'prctl(0x43 /* PR_??? */, 0x1, 0, 0, 0) = 0': ("prctl", (67, 1, 0, 0, 0), 0),
    r'prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0x7f08286a1000, 4096, "a, \"b\" (\t)") = 0': (
        "prctl", (0x53564D41, 0, 0x7F08286A1000, 4096, 'a, "b" (\t)'), 0),
    'ioctl(3, UFFDIO_REGISTER, {range={start=0x7f0828402000, len=0x1000}, mode=UFFDIO_REGISTER_MODE_WP}) = 0': (
        "UFFDIO_REGISTER", (3, 0x7F0828402000, 4096, 2), 0),
    'clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f) = 12': (
        "clone", (0x1200000 | SIGCHLD,), 12),
    'clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD, stack=0x7f, stack_size=0x9000}, 88) = 12': (
        "clone3", (CLONE_VM | CLONE_VFORK | SIGCHLD,), 12),
    'vfork()            = 12': ("vfork", (CLONE_VM | CLONE_VFORK | SIGCHLD,), 12),
    'mmap(NULL, 8192, 0x3 /* PROT_READ|PROT_WRITE */, 0x22 /* MAP_PRIVATE|MAP_ANONYMOUS */, -1, 0) = 0x7000': (
        "mmap", (0, 8192, 3, 0x22, -1, 0), 0x7000),
    'mmap(0, 0x2000, 0x3, 0x22, 0xffffffff, 0) = 0x7000': ("mmap", (0, 8192, 3, 0x22, 0xFFFFFFFF, 0), 0x7000),
    'mmap2(NULL, 57239, PROT_READ, MAP_PRIVATE, 3, 0x22000) = 0xf7f74000': (
        "mmap", (0, 57239, 1, 2, 3, 0x22000), 0xF7F74000),
    'clone(0x1200011, 0, 0, 0, 0) = 0xc': ("clone", (0x1200000 | SIGCHLD,), 12),
    'clone3({flags=0x4100 /* CLONE_VM|CLONE_VFORK */, exit_signal=0x11 /* SIGCHLD */}, 88) = 12': (
        "clone3", (CLONE_VM | CLONE_VFORK | SIGCHLD,), 12),
    'ioctl(3, 0xc020aa00 /* UFFDIO_REGISTER */, {range={start=0x1000, len=0x1000}, mode=0x2 /* X */}) = 0': (
        "UFFDIO_REGISTER", (3, 0x1000, 4096, 2), 0),
    'execve(0x7ffc0, 0x7ffc8, 0x7ffd0) = 0': ("execve", ("",), 0),
    'execve("/bin/l\\303\\244 \\"s", ["ls", ")"...], 0x7ffc /* 20 vars */) = 0': ("execve", ('/bin/lä "s',), 0),
}  # fmt: skip


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "8534  ",
        "8534  1795285387.499280 [  60] [00007f8a1b2c3d4e] ",
        "8534 17:06:38.918526 ",
        "8534      0.000123 ",
        "[pid  8534] ",
        "8534<a b> ",
        "[pid  8534<sh>] ",
    ],
)
@pytest.mark.parametrize("text", PLAIN)
def test_a_call_of_strace(text: str, prefix: str) -> None:
    """Each way to write a call gives its numbers, whatever columns stand in front."""
    name, args, result = PLAIN[text]
    assert one(prefix + text) == Call(8534 if "8534" in prefix else 0, name, args, result, 0, 1)


def test_files() -> None:
    """With -y a mapping names its file, however strange the name; -yy's additions are none of it."""
    call = one("1 mmap(NULL, 1, PROT_READ, MAP_PRIVATE, 3</usr/lib/x.so>, 0x1000) = 0x7000")
    assert isinstance(call, Call)
    assert (call.file, call.args) == (Mappable(OpenFile("/usr/lib/x.so")), (0, 1, 1, 2, 3, 0x1000))
    call = one(r"1 mmap(NULL, 1, PROT_READ, MAP_PRIVATE, 3</a, b) = 0 \74x\76>, 0) = 0x7000 <0.1>")
    assert isinstance(call, Call)
    assert (call.file, call.result) == (Mappable(OpenFile("/a, b) = 0 <x>")), 0x7000)
    call = one("1 mmap(NULL, 1, PROT_READ, MAP_SHARED, 3</dev/zero<char 1:5>>, 0) = 0x7000")
    assert isinstance(call, Call)
    assert call.file == Mappable(OpenFile("/dev/zero"), kind="shmem", fs="tmpfs")
    call = one("1 mmap(NULL, 1, PROT_READ, MAP_SHARED, 4</memfd:shared memory>(deleted), 0) = 0x7000")
    assert isinstance(call, Call)
    assert call.file is not None
    assert (call.file.file.path, call.file.kind) == ("/memfd:shared memory (deleted)", "shmem")
    call = one('1 openat(AT_FDCWD</tmp>, "x, y", O_RDONLY|O_CLOEXEC) = 3</tmp/x, y>')
    assert isinstance(call, Call)
    assert (call.name, call.result, call.file) == ("openat", 3, Mappable(OpenFile("/tmp/x, y")))


def test_failures_and_what_never_returned() -> None:
    """An errno by name; `?` is no result."""
    call = one("1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = -1 ENODEV (No such device)")
    assert isinstance(call, Call)
    assert (call.result, call.errno) == (-1, 19)
    call = one("1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = ?")
    assert isinstance(call, Call)
    assert (call.result, call.errno) == (None, 0)
    assert strace("1 mlock(0x1000, 4096) = ? ERESTARTNOINTR (To be restarted)")[0] == [
        Call(1, "mlock", (0x1000, 4096), None, 0, 1)
    ]


def test_calls_cut_in_two() -> None:
    """A call that others interrupt counts where it is resumed, in both of strace's manners."""
    events, problems = strace(
        "1 munmap(0x1000, 4096 <unfinished ...>",
        "2 brk(NULL <unfinished ...>",
        "1 <... munmap resumed>) = 0",
        "2 <... brk resumed> )  = 0x5000 <0.000010>",
        "3 mprotect(0x1000, 4096, PROT_READ <unfinished ...>",
        "3 +++ killed by SIGKILL +++",
    )
    assert problems == []
    assert events == [
        Call(1, "munmap", (0x1000, 4096), 0, 0, 3),
        Call(2, "brk", (0,), 0x5000, 0, 4),
        Call(3, "mprotect", (), None, 0, 6),
        Ended(3, 6),
    ]


def test_a_child_is_made_before_it_does_anything() -> None:
    """A child's calls come after the fork, also where that is resumed later, and where two could be its parent."""
    events, problems = strace(
        "1 brk(NULL) = 0x5000",
        "1 vfork( <unfinished ...>",
        "2 brk(NULL) = 0x6000",
        "1 <... vfork resumed>) = 2",
    )
    assert problems == []
    assert [(e.pid, e.name, e.result) for e in events if isinstance(e, Call)] == [
        (1, "brk", 0x5000), (1, "vfork", 2), (2, "brk", 0x6000)]  # fmt: skip
    events, problems = strace(
        "1 brk(NULL) = 0x5000",
        "1 clone(child_stack=NULL, flags=CLONE_VM|CLONE_THREAD) = 2",
        "1 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>",
        "2 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>",
        "3 brk(NULL) = 0x6000",
        "4 brk(NULL) = 0x7000",
        "2 <... clone resumed>) = 3",
        "1 <... clone resumed>) = 4",
    )
    assert problems == []
    assert [(e.pid, e.result) for e in events if isinstance(e, Call)] == [
        (1, 0x5000), (1, 2), (2, 3), (3, 0x6000), (1, 4), (4, 0x7000)]  # fmt: skip


def test_what_strace_prints_on_a_terminal() -> None:
    """There the first process has no number until there are two, and strace's messages stand inside of lines."""
    events, problems = strace(
        "brk(NULL) = 0x5000",
        "vfork(strace: Process 8563 attached",
        " <unfinished ...>",
        "[pid  8563] brk(NULL <unfinished ...>",
        "[pid  8562] <... vfork resumed>) = 8563 <0.000123>",
        "[pid  8563] <... brk resumed>) = 0x6000",
        "[pid  8563] +++ exited with 0 +++",
        "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=8563} ---",
        "brk(NULL) = 0x5000",
    )
    assert problems == []
    assert [(e.pid, getattr(e, "name", "end")) for e in events] == [
        (0, "brk"), (0, "vfork"), (8563, "brk"), (8563, "end"), (0, "brk")]  # fmt: skip


def test_what_strace_could_not_see() -> None:
    """A call that it did not learn the name of, and a thread whose registers were gone, are of no interest."""
    events, problems = strace(
        "1 ???( <unfinished ...>",
        "1 <... ??? resumed>)                = ?",
        "1  1795285387.499280 [  60] [????????????????] +++ exited with 0 +++",
        "1 prctl(0x1234 /* PR_??? */, 0x1, 0, 0, 0) = 0",
        " > /usr/lib/x86_64-linux-gnu/libc.so.6(__mmap+0x1a) [0x101b4a]",
    )
    assert problems == []
    assert [type(event) for event in events] == [Ended]


def test_a_thread_that_executes() -> None:
    """It takes the number of its process's first: the memory left is that one's, and the new program is seen."""
    events, problems = strace(
        "1 brk(NULL) = 0x5000",
        "1 clone(child_stack=NULL, flags=CLONE_VM|CLONE_THREAD) = 2",
        '2 execve("/bin/x", ["x"], 0x7ffc /* 20 vars */ <unfinished ...>',
        "1 +++ superseded by execve in pid 2 +++",
        "1 <... execve resumed>) = 0",
    )
    assert problems == []
    assert events[2:] == [Ended(2, 4), Call(1, "execve", ("/bin/x",), 0, 0, 5)]


def test_threads_that_were_there_before_strace() -> None:
    """strace says how many a process has: so many share its memory, and what is made later is seen."""
    events, problems = strace(
        "strace: Process 5 attached with 3 threads",
        "[pid     6] futex(0x7f0, FUTEX_WAIT, 2, NULL <unfinished ...>",
        "[pid     7] brk(NULL) = 0x5000",
        "[pid     5] brk(NULL) = 0x5000",
        "[pid     6] brk(NULL) = 0x5000",
    )
    assert problems == []
    assert [(e.pid, e.name, e.args, e.result) for e in events if isinstance(e, Call)] == [
        (5, "clone", (0x10500,), 7),
        (7, "brk", (0,), 0x5000),
        (5, "brk", (0,), 0x5000),
        (5, "clone", (0x10500,), 6),
        (6, "brk", (0,), 0x5000),
    ]


def test_an_exit_is_an_end() -> None:
    """Under -qq no other line says so; without, the one that does says nothing new, until the number is another's."""
    events, problems = strace(
        "1 brk(NULL) = 0x5000",
        "1 exit_group(0) = ?",
        "1 +++ exited with 0 +++",
        "2 fork() = 1",
        "1 brk(NULL) = 0x5000",
        "1 +++ exited with 0 +++",
    )
    assert problems == []
    assert [(type(e), e.pid, e.line) for e in events] == [
        (Call, 1, 1), (Ended, 1, 2), (Call, 2, 4), (Call, 1, 5), (Ended, 1, 6)]  # fmt: skip


def test_what_is_never_resumed_is_named() -> None:
    """Where the thread goes on without, and where the log ends; a call of no interest is none of it."""
    events, problems = strace(
        "1 brk(NULL <unfinished ...>",
        "1 brk(0x1000 <unfinished ...>",
        "1 munmap(0x1000, 4096) = 0",
        "1 futex(0x7f0, FUTEX_WAIT, 2, NULL <unfinished ...>",
        '2 execve("/bin/x", ["x"], 0x7ffc /* 20 vars */ <unfinished ...>',
    )
    assert events == [Call(1, "munmap", (0x1000, 4096), 0, 0, 3)]
    assert problems == [
        "log:1:3: brk: begun, and never resumed",
        "log:2:3: brk: begun, and never resumed",
        "log:5:3: execve: begun, and never resumed",
    ]


def test_a_fork_by_a_thread_that_was_not_seen_yet() -> None:
    """A log that begins with it: nobody is its own maker."""
    events, problems = strace("8 vfork( <unfinished ...>", "9 brk(NULL) = 0x5000", "8 <... vfork resumed>) = 9")
    assert problems == []
    assert [(e.pid, getattr(e, "name", "")) for e in events] == [(8, "vfork"), (9, "brk")]


def test_other_ends_of_lines_and_tables() -> None:
    """\\r\\n, and the table of -C."""
    events, problems = strace(
        "1 vfork( <unfinished ...>\r\n",
        "1 <... vfork resumed>) = 2\r\n",
        "1 close(3<TCP:[1.2.3.4:5->6.7.8.9:10]>) = 0\r\n",
        "% time     seconds  usecs/call     calls    errors syscall\n",
        "------ ----------- ----------- --------- --------- ------------------\n",
        " 42.33    0.010513         553        19         9 wait4\n",
        "100.00    0.024838          10      2346       800 total\n",
    )
    assert problems == []
    assert [e.pid for e in events] == [1, 1]


def test_a_long_line_costs_no_more_memory_than_itself() -> None:
    """A string of 8 MB, in 400 MB: the reader keeps nothing for each of its characters."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "from elfolio.kernel.trace import Log; from elfolio.kernel.trace_strace import read_strace\n"
        "line = '1 openat(AT_FDCWD, \"' + 'a' * (8 << 20) + '\", O_RDONLY) = 3'\n"
        "(event,) = read_strace([line], Log('log')); print(len(event.file.file.path))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{8 << 20}\n", "")


BROKEN = {
    "1 mmap(NULL, 8192, PROT_REED, MAP_PRIVATE, 3, 0) = 0x7000": "log:1:20: mmap: 'PROT_REED' is no flag of PROT_*",
    "1 mmap(NULL, 81x2, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7000": "log:1:14: mmap: '81x2' is no number",
    "1 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, 3</x": "log:1:48: mmap: the line ends within the arguments",
    "1 mmap(NULL, 8192, PROT_READ) = 0x7000": "log:1:8: mmap: 3 arguments, not 6",
    "1 munmap(0x1000, 4096)": "log:1:23: munmap: no result",
    "1 munmap(0x1000, 4096) = -1 EWHAT (?)": "log:1:29: munmap: 'EWHAT' is no errno",
    "1 munmap(0x1000, 4096) = 0xzz": "log:1:23: munmap: no result",
    "1 clone3(0x7ffc, 88) = 12": "log:1:10: clone3: no flags",
    "1 munmap(0x1000, 4096} = 0": "log:1:22: munmap: '}' closes nothing",
    "1 <... munmap resumed>) = 0": "log:1:8: munmap: resumed, and never begun",
    "1 +++ what +++": "log:1:7: neither an exit nor a signal",
    "what is this": "log:1:1: no line of strace",
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_is_named_and_the_rest_goes_on(line: str) -> None:
    """File, line and column of what is wrong; nothing stands for the line, and the next is read."""
    events, problems = strace(line, "1 brk(NULL) = 0x5000")
    assert problems == [BROKEN[line]]
    assert events == [Call(1, "brk", (0,), 0x5000, 0, 2)]


LINES = [*PLAIN, *BROKEN, "2 +++ exited with 0 +++", "1 brk(NULL <unfinished ...>", "1 <... brk resumed>) = 0x1"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(LINES)), st.randoms(use_true_random=False))
def test_no_log_breaks_the_reader(lines: list[str], chance: random.Random) -> None:
    """Lines cut anywhere, with characters changed, in any order: each is an event, is noted, or is of no interest."""
    log = Log("log")
    hurt = []
    for line in lines:
        at = chance.randrange(len(line) + 1)
        hurt.append(
            line[:at]
            + chance.choice(["", "\0", "<", '"', "9" * 5000, "é", ")", "\\"])
            + line[at + chance.randrange(3) :]
        )
    events = list(read_strace(hurt, log))
    assert log.lines == len(lines)
    assert len(log.problems) == log.unreadable <= 2 * len(lines)
    assert len(events) <= 3 * len(lines)
    list(read_perf(hurt, Log("log")))
    list(read_record(hurt, Log("log")))


PERF = """\
         ? (         ): sh/8714  ... [continued]: execve())                                           = 0
    10.898 ( 0.026 ms): sh/8714 mmap(len: 8192, prot: READ|WRITE, flags: PRIVATE|ANONYMOUS)           = 0x7ffb47d45000
    11.015 ( 0.020 ms): sh/8714 mmap(addr: 0x7000, len: 4096, prot: READ, flags: FIXED|0x2, fd: 4, off: 0x1000) = 0x7000
    11.416 ( 0.011 ms): a b/8714 brk()                                                                 = 0x55ae76803000
         ? (         ): sh/8716  ... [continued]: vfork())                                            = 0
    11.560 (         ): sh/8714 vfork()                                                            ...
    11.600 ( 0.159 ms): ls/8716 brk(brk: 0x1000)                                                      = 0x55ae76803000
    11.560 ( 0.211 ms): sh/8714  ... [continued]: vfork())                                            = 8716
    12.000 ( 0.211 ms): sh/8714 munmap(addr: 0x7001, len: 1)                           = -1 EINVAL (Invalid argument)
    12.000 ( 0.211 ms): sh/8714 mprotect(start: 0x7000, len: 1, prot: REED)                      = 0
    26.465 (         ): ls/8716 exit_group()                                                          = ?
"""


def test_perf_trace() -> None:
    """Arguments by name, those left out are zero; a child's calls come after its making."""
    log = Log("log")
    events = list(read_perf(PERF.splitlines(True), log))
    assert [str(problem) for problem in log] == ["log:10:71: mprotect: 'REED' is no PROT"]
    assert events == [
        Call(8714, "execve", ("",), 0, 0, 1),
        Call(8714, "mmap", (0, 8192, 3, 0x22, -1, 0), 0x7FFB47D45000, 0, 2),
        Call(8714, "mmap", (0x7000, 4096, 1, 0x12, 4, 0x1000), 0x7000, 0, 3),
        Call(8714, "brk", (0,), 0x55AE76803000, 0, 4),
        Call(8714, "vfork", (CLONE_VM | CLONE_VFORK | SIGCHLD,), 8716, 0, 8),
        Call(8716, "brk", (0x1000,), 0x55AE76803000, 0, 7),
        Call(8714, "munmap", (0x7001, 1), -1, 22, 9),
        Ended(8716, 11),
    ]


def test_what_perf_trace_does_not_say() -> None:
    """What clone3 made is taken for a thread, and counted; a lost event is named; stacks, page faults and the table at
    the end are no calls."""
    log = Log("log")
    lines = (
        "     0.000 ( 0.000 ms): true/5 majfault [elf_load+0x28a] => 0x55fd765541e0 (?k)\n"
        "     0.052 ( 0.128 ms): true/5 brk()                                       = 0x55994fc66000\n"
        "                                       brk (/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2)\n"
        "LOST 12 events!\n"
        "     1.506 ( 0.161 ms): true/5 clone3(uargs: 0x7ffe001ce6d0, size: 88)     = 6\n"
        "         ? (         ): true/6  ... [continued]: clone3())                 = 0\n"
        "     1.600 ( 0.010 ms): true/6 munmap(addr: 0x7000, len: 4096)             = 0\n"
        "\n Summary of events:\n\n true (5), 58 events, 90.6%\n"
    )
    events = list(read_perf(lines.splitlines(True), log))
    assert [(e.pid, e.name, e.args) for e in events if isinstance(e, Call)] == [
        (5, "brk", (0,)),
        (5, "clone3", (0x10500,)),
        (6, "munmap", (0x7000, 4096)),
    ]
    assert ([str(problem) for problem in log], log.assumed_threads) == (["log:4:1: events were lost here"], 1)
    assert log.lines == 11
    assert looks_like_perf(lines.splitlines()[0])


RECORD = (
    '{"elfolio":"record","version":1,"page":4096}\n'
    '{"p":7,"x":"/bin/x","b":4096,"v":[[4096,8192,"rw-p",0,8,1,99,"/bin/x","rd wr mr mw me ac",4]]}\n'
    '{"p":7,"c":"mmap","a":[0,4096,1,2,3,0],"r":28672,"f":["/lib/y",8,1,98,5,4096,61267,0,32768]}\n'
    '{"p":7,"t":[[28672,32768]]}\n'
    '{"p":7,"c":"munmap","a":[1,1],"r":-22}\n'
    '{"p":7,"c":"mu\n'
    '{"p":7}\n'
    '{"p":7,"e":0,"v":[]}\n'
)


def test_a_record() -> None:
    """What the recorder writes comes back; a torn line is named by its column."""
    log = Log("log")
    events = list(read_record(RECORD.splitlines(True), log))
    assert [(p.line, p.column) for p in log] == [(6, 15), (7, 1)]
    assert log.facts["page"] == 4096
    image = events[0]
    assert isinstance(image, Image)
    assert (image.path, image.start_brk, image.vmas[0].perms, image.written) == ("/bin/x", 4096, "rw-p", (4096,))
    assert events[1:] == [
        Call(7, "mmap", (0, 4096, 1, 2, 3, 0), 28672, 0, 3, Mappable(OpenFile("/lib/y", 98, 8, 1, 5), writable=False)),
        Touched(7, ((28672, 32768),), 4),
        Call(7, "munmap", (1, 1), -1, 22, 5),
        Ended(7, 8),
    ]


def test_a_record_that_is_none() -> None:
    """Lines that are JSON and no event are named with what is wrong; another version is refused as a whole."""
    log = Log("log")
    first = RECORD.splitlines()[0]
    assert list(read_record([first, "[" * 100000, '{"p":null,"e":0}', '{"p":7,"c":"brk","r":0}'], log)) == []
    assert [p.what for p in log] == [
        "no JSON: nested too deeply",
        "no event of a record: None is no number",
        "no event of a record: it has no 'a'",
    ]
    with pytest.raises(InvalidArgument, match="a record of version 2; this elfolio reads version 1"):
        list(read_record([first.replace('"version":1', '"version":2')], Log("log")))
    rows = (
        "[4096,8192,R],[8192,12288,R]",
        "[4096,8192,R],[4096,12288,R]",
        "[8192,12288,R],[4096,8192,R]",
        "[1,8192,R]",
    )
    images = [
        '{"p":7,"x":"/bin/x","b":0,"v":[' + row.replace("R", '"rw-p",0,0,0,0,"","rd wr",0') + "]}" for row in rows
    ]
    log = Log("log")
    assert len(list(read_record([first, *images, '{"p":7,"t":[[8192,4096]]}'], log))) == 1
    assert [(p.line, p.what.removeprefix("no event of a record: ")) for p in log] == [
        (3, "0x1000 is mapped twice, or out of order"),
        (4, "0x1000 is mapped twice, or out of order"),
        (5, "0x1-0x2000 is no range of pages"),
        (6, "0x2000-0x1000 is no range"),
    ]
    foreign = '{"p":7,"x":"/bin/x","b":0,"foreign":1,"v":[]}'
    log = Log("log")
    list(read_record([first, foreign], log))
    assert log.foreign == 1


def test_formats_are_told_apart() -> None:
    """The first line says whose it is."""
    assert looks_like_record(RECORD.splitlines()[0])
    assert all(looks_like_perf(line) and not looks_like_strace(line) for line in PERF.splitlines())
    assert all(looks_like_strace(line) and not looks_like_perf(line) for line in PLAIN)


@pytest.mark.root
def test_a_real_perf_trace(tmp_path: Path) -> None:
    """All lines of a real perf trace are read, with as many mappings as strace sees."""
    tool = shutil.which("perf")
    if tool is None:
        pytest.skip("needs perf; to force: apt-get install linux-perf")
    log = Log(str(tmp_path / "log"))
    calls = "mmap,munmap,mprotect,mremap,brk,madvise,clone,clone3,fork,vfork,execve,exit_group"
    words = [tool, "trace", "-o", log.name, "-e", calls, "sh", "-c", "ls / >/dev/null; ls /etc >/dev/null"]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    if done.returncode or not Path(log.name).stat().st_size:
        pytest.skip(f"perf may not trace here: {done.stderr.decode()[-200:]}")
    text = Path(log.name).read_text()
    events = list(read_perf(text.splitlines(True), log))
    assert list(log) == []
    for name in ("mmap", "munmap", "mprotect", "brk"):
        seen = sum(isinstance(event, Call) and event.name == name for event in events)
        assert seen == len(re.findall(rf" {name}\(.*= ", text)) > 0
    made = [event.result for event in events if isinstance(event, Call) and event.name in ("clone", "vfork", "clone3")]
    assert len(set(made)) == len(made) >= 1


def test_a_real_log(tmp_path: Path) -> None:
    """All lines of a real strace's log of several processes are read, and each mapping call in it is an event."""
    tool = shutil.which("strace")
    if tool is None:
        pytest.skip("needs strace; to force: apt-get install strace")
    log = Log(str(tmp_path / "log"))
    words = [tool, "-f", "-y", "-T", "-tt", "-o", log.name, "-e", "trace=memory,process,desc"]
    command = ["sh", "-c", "(ls / & wait) >/dev/null; ls /etc | head -1"]
    done = subprocess.run([*words, *command], capture_output=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.decode()[-200:]}")
    text = Path(log.name).read_text()
    events = list(read_strace(text.splitlines(True), log))
    assert list(log) == []
    for name in ("mmap", "munmap", "mprotect", "brk"):
        seen = sum(isinstance(event, Call) and event.name == name for event in events)
        assert seen == len(re.findall(rf" {name}\(.*= |<\.\.\. {name} resumed>", text)) > 0
    made = {event.result for event in events if isinstance(event, Call) and event.name in ("clone", "vfork", "clone3")}
    assert len(made) >= 4
    assert {event.pid for event in events} - made == {events[0].pid}
