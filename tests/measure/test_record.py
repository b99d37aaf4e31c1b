"""measure.record: what is written is what was done, and the command notices nothing."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elfolio.kernel.replaying import Lane, replay
from elfolio.kernel.trace import Call, Ended, Event, Image, Log, Touched
from elfolio.kernel.trace_record import read_record
from elfolio.kernel.trace_steps import Steps
from elfolio.live.host import policy_here
from elfolio.measure.record import RecordError, record

PROGRAM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void *work(void *arg)
{
    for (int i = 0; i < 50; i++) {
        char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        *p = 1;
        munmap(p, 4096);
    }
    return arg;
}

static void *grow(void *arg)
{
    for (;;)
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return arg;
}

static void *split(void *arg)
{
    for (;;) {
        pid_t pid = fork();
        if (!pid)
            _exit(0);
        waitpid(pid, NULL, 0);
    }
    return arg;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "killed")) {
        pthread_t t;
        for (int i = 0; i < 4; i++)
            pthread_create(&t, NULL, grow, NULL);
        usleep(20000);
        return 7;
    }
    if (argc > 1 && !strcmp(argv[1], "forking")) {
        pthread_t t;
        for (int i = 0; i < 4; i++)
            pthread_create(&t, NULL, split, NULL);
        usleep(20000);
        return 7;
    }
    if (argc > 1 && !strcmp(argv[1], "fork")) {
        pid_t pid = fork();
        if (!pid) {
            mmap((void *)0x1000000000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            execl(argv[0], argv[0], "end", (char *)0);
        }
        waitpid(pid, NULL, 0);
    } else if (argc > 1 && !strcmp(argv[1], "threads")) {
        pthread_t t[4];
        for (int i = 0; i < 4; i++)
            pthread_create(&t[i], NULL, work, NULL);
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
    } else if (argc > 1 && !strcmp(argv[1], "touch")) {
        char *p = mmap((void *)0x1000000000, 16 * 4096, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        volatile char c = p[0]; /* the zero page */
        (void)c;
        p[2 * 4096] = p[3 * 4096] = 1;
        int fd = open("/proc/self/stat", O_RDONLY);
        if (read(fd, p + 8 * 4096, 16) < 1) /* written by the kernel */
            return 1;
        prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, 4096, "a name");
        int one = open(argv[0], O_RDONLY), two = open(argv[0], O_RDONLY), three = dup(one);
        for (int i = 0; i < 3; i++)
            mmap((void *)(0x2000000000 + i * 65536), 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED,
                 (int[]){one, two, three}[i], 0);
        madvise(p, 123, 12345);
    }
    return 7;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The one that does all this, by its first argument."""
    folder = tmp_path_factory.mktemp("record")
    source = folder / "program.c"
    source.write_text(PROGRAM)
    subprocess.run(["cc", "-O1", "-pthread", "-o", str(folder / "program"), str(source)], check=True)
    return str(folder / "program")


@pytest.fixture(scope="module", autouse=True)
def may_trace() -> None:
    """Where a sandbox forbids ptrace or seccomp, there is nothing to test."""
    fd = os.memfd_create("record")
    try:
        record("/bin/true", ["true"], fd)
    except RecordError as error:
        if error.step in ("ptrace", "seccomp"):
            pytest.skip(f"this process may not trace: {error}; to force: run it outside of the sandbox")
        raise
    finally:
        os.close(fd)


def recorded(*words: str, faults: bool = True) -> tuple[int, list[Event], Log]:
    """Status, events; what is written can all be read."""
    fd = os.memfd_create("record")
    try:
        done = record(words[0], words, fd, faults=faults)
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, encoding="utf-8", closefd=False) as file:
            log = Log("record")
            events = list(read_record(file, log))
    finally:
        os.close(fd)
    assert list(log) == []
    assert done.write_error == 0
    return done.returncode, events, log


def calls(events: list[Event], name: str) -> list[Call]:
    """Those of that name."""
    return [event for event in events if isinstance(event, Call) and event.name == name]


def test_status_and_image(program: str) -> None:
    """The exit status is the command's; first comes the image at its first instruction, last what it had at its end."""
    status, events, log = recorded(program)
    assert status == 7
    image, end = events[0], events[-1]
    assert isinstance(image, Image)
    assert isinstance(end, Ended)
    assert image.path == program
    assert {vma.name for vma in image.vmas} >= {program, "[stack]", "[vdso]"}
    assert end.vmas is not None
    assert any("libc" in vma.name for vma in end.vmas)
    assert not any("libc" in vma.name for vma in image.vmas)
    assert log.facts["machine"] == os.uname().machine


def test_fork_and_exec(program: str) -> None:
    """A child's calls are its own, between the fork that made it and its exec."""
    _, events, _ = recorded(program, "fork")
    fork = next(call for call in events if isinstance(call, Call) and call.name in ("clone", "fork") and call.result)
    child = fork.result
    own = [event for event in events if event.pid == child]
    assert events.index(fork) < events.index(own[0])
    mapped, executed = calls(own, "mmap")[0], next(event for event in own if isinstance(event, Image))
    assert mapped.result == 0x1000000000
    assert own.index(mapped) < own.index(executed)
    assert isinstance(own[-1], Ended)


OPENINGS = """
import mmap, os
fd = os.memfd_create("x")
os.ftruncate(fd, 1 << 20)
other = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
keep = [mmap.mmap(one, 1 << 16, flags=mmap.MAP_PRIVATE) for one in (fd, os.dup(fd), other, fd)]
if os.fork():
    os.wait()
else:
    keep.append(mmap.mmap(os.dup(fd), 1 << 16, flags=mmap.MAP_PRIVATE))
"""


def test_openings_of_what_may_be_written() -> None:
    """A dup and a child's are the opening that was mapped, another open is not, though the recorder holds none."""
    _, events, _ = recorded(sys.executable, "-c", OPENINGS)
    files = [call.file for call in calls(events, "mmap") if call.file and "memfd:x" in call.file.file.path]
    first, dup, other, again, child = (file.file.opening for file in files)
    assert dup == again == child == first != other


FOREIGN = r"""
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
static void *nothing(void *arg) { return arg; }
int main(int argc, char **argv)
{
    pthread_t thread;
    pthread_create(&thread, 0, nothing, 0);
    pthread_join(thread, 0);
    if (!fork())
        execv(argv[1], argv + 1);
    wait(0);
    if (!vfork())
        _exit(0);
    wait(0);
    return 5;
}
"""


def test_a_program_of_another_architecture(program: str, tmp_path: Path) -> None:
    """Its calls are not seen, and it is said so: nothing is compared with what it had at its end. Whom it makes is
    known, and what one of those executes is recorded as always."""
    built = str(tmp_path / "foreign")
    command = ["gcc", "-m32", "-x", "c", "-", "-o", built, "-lpthread"]
    if subprocess.run(command, input=FOREIGN, text=True, capture_output=True, check=False).returncode:
        pytest.skip("no compiler for 32-bit programs; to force: apt-get install gcc-multilib")
    status, events, log = recorded(built, program)
    assert (status, log.foreign) == (5, 1)
    root = events[0].pid
    made = [(call.args[0], call.result) for call in calls(events, "clone")]
    assert [flags for flags, _ in made] == [0x10500, signal.SIGCHLD, 0x4100 | signal.SIGCHLD]
    ends = {event.pid: event.vmas for event in events if isinstance(event, Ended)}
    assert {pid: vmas is not None for pid, vmas in ends.items()} == {
        root: False, **{pid: flags == signal.SIGCHLD for flags, pid in made}}  # fmt: skip
    lane = Lane(policy_here())
    replay(Steps().of(events), [lane])
    assert [ending.equal for ending in lane.endings if ending.equal is not None] == [True]


def test_threads_are_in_order(program: str) -> None:
    """Four threads that map and unmap at once: replayed in the order of the record, no page is ever mapped twice, and
    none is unmapped that is not there."""
    _, events, _ = recorded(program, "threads")
    assert len({call.pid for call in calls(events, "munmap")}) >= 4
    live: set[int] = set()
    count = 0
    for event in events:
        if isinstance(event, Call) and event.result is not None and not event.errno:
            address = event.result if event.name == "mmap" else event.args[0] if event.args else 0
            if event.name == "mmap" and event.args[1] == 4096 and event.args[3] == 0x22 and event.args[0] == 0:
                assert address not in live
                live.add(int(address))
            elif event.name == "munmap" and event.args[1] == 4096 and address in live:
                live.remove(int(address))
                count += 1
    assert count >= 200


@pytest.mark.parametrize("rounds", [8, pytest.param(400, marks=pytest.mark.slow)])
def test_threads_that_are_killed_in_a_call(program: str, rounds: int) -> None:
    """Where a process ends while its threads are mapping, what was done is in the record, and what was not is not: also
    of one that is killed at the very stop where its call has returned (one round in some 150)."""
    seen = []
    for _ in range(rounds):
        _, events, log = recorded(program, "killed")
        if log.facts["faults"] != "all":
            pytest.skip("page faults inside of system calls may not be sampled here; to force: run as root")
        lane = Lane(policy_here())
        replay(Steps().of(events), [lane])
        assert lane.differences == []
        # Who is killed while the recorder looks at it may be gone before its last look.
        seen += [ending.equal for ending in lane.endings if ending.real is not None]
        assert len(calls(events, "mmap")) > 20
    assert seen
    assert False not in seen


@pytest.mark.parametrize("rounds", [8, pytest.param(400, marks=pytest.mark.slow)])
def test_threads_that_are_killed_as_they_fork(program: str, rounds: int) -> None:
    """Nobody waits for ever whose maker was killed before it could say whom it made, and each was made by somebody."""
    for _ in range(rounds):
        status, events, _ = recorded(program, "forking")
        assert status == 7
        made = {call.result for name in ("clone", "clone3", "fork") for call in calls(events, name)}
        ended = {event.pid for event in events if isinstance(event, Ended)}
        assert ended - made == {events[0].pid}


def test_what_was_touched(program: str) -> None:
    """Pages that were written count, by the program or by the kernel for it; those only read do not. Openings are told
    apart, names and errors are kept."""
    _, events, log = recorded(program, "touch")
    if log.facts["faults"] == "none":
        pytest.skip("page faults may not be sampled here (vm.perf_event_paranoid); to force: run as root")
    pages = {
        page for event in events if isinstance(event, Touched) for start, end in event.ranges
        for page in range(start, end, 4096) if 0x1000000000 <= page < 0x1000010000
    }  # fmt: skip
    expected = {0x1000002000, 0x1000003000}
    if log.facts["faults"] == "all":
        expected.add(0x1000008000)
    assert pages == expected | ({0x1000000000} if not log.facts["zero_pages"] else set())
    one, two, three = (call.file for call in calls(events, "mmap") if call.result in range(0x2000000000, 0x2000030000))
    assert one is not None
    assert two is not None
    assert one == three != two
    assert (one.file.path, one.file.inode) == (two.file.path, two.file.inode) == (program, os.stat(program).st_ino)
    assert calls(events, "prctl")[-1].args[4] == "a name"
    assert [(call.result, call.errno) for call in calls(events, "madvise")][-1] == (-1, 22)
    assert not [event for event in recorded(program, "touch", faults=False)[1] if isinstance(event, Touched)]


def test_signals(program: str) -> None:
    """A command that is killed gives its signal; one that stops goes on when it is told to."""
    assert recorded("/bin/sh", "-c", "kill -TERM $$")[0] == -15
    script = "(sleep 0.2; kill -CONT $$) & kill -STOP $$; trap 'exit 5' USR1; kill -USR1 $$; exit 6"
    assert recorded("/bin/sh", "-c", script)[0] == 5


def test_a_caller_that_ignores_sigchld() -> None:
    """Statuses are not lost where SIGCHLD is ignored, and the command inherits that it is."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert recorded("/bin/sh", "-c", "ls / >/dev/null; exit 3")[0] == 3
        status, events, _ = recorded("/bin/grep", "-q", "SigIgn:.*1....$", "/proc/self/status")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert status == 0
    assert isinstance(events[-1], Ended)


@pytest.mark.root
def test_another_pid_namespace() -> None:
    """Processes that count from 1 are known by the numbers that they have here."""
    status, events, log = recorded("/usr/bin/unshare", "--pid", "--fork", "sh", "-c", "ls / >/dev/null; exit 4")
    if status == 1:
        pytest.skip("no pid namespace can be made here")
    assert status == 4
    assert {event.pid for event in events if isinstance(event, Image)} <= {event.pid for event in events}
    assert min(event.pid for event in events) > 2
    if log.facts["faults"] != "none":
        images = {event.pid for event in events if isinstance(event, Image)}
        assert images <= {event.pid for event in events if isinstance(event, Touched)}


def test_what_cannot_be_run(tmp_path: Path) -> None:
    """The errno of execve, and which step it was."""
    file = tmp_path / "x"
    file.write_text("no program")
    fd = os.memfd_create("record")
    for path, number in ((str(file), 13), (str(tmp_path / "missing"), 2)):
        with pytest.raises(RecordError) as raised:
            record(path, ["x"], fd)
        assert (raised.value.errno, raised.value.step) == (number, "execve")
    os.close(fd)


def test_a_full_disk() -> None:
    """Where the record cannot be written the command still runs to its end."""
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError) as raised:
        record("/bin/true", ["true"], file.fileno())
    assert raised.value.errno == errno.ENOSPC
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    try:
        done = record("/bin/sh", ["sh", "-c", "/bin/true; /bin/true; exit 3"], writer)
    finally:
        os.close(reader)
        os.close(writer)
    assert (done.returncode, done.write_error) == (3, errno.EAGAIN)


def test_a_killed_recorder_leaves_nothing(tmp_path: Path) -> None:
    """Killed by SIGKILL, with what it traces stopped or running, it takes all of that with it."""
    mark = tmp_path / "pids"
    script = f"sh -c 'echo $$ >> {mark}; exec sleep 1000' & sh -c 'echo $$ >> {mark}; kill -STOP $$' & wait"
    call = f"record('/bin/sh', ['sh', '-c', {script!r}], os.memfd_create('x'))"
    code = f"import os; from elfolio.measure.record import record; {call}"
    running = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and (not mark.exists() or len(mark.read_text().split()) < 2):
            time.sleep(0.02)
        pids = [int(word) for word in mark.read_text().split()]
        assert len(pids) == 2
        assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    while time.monotonic() < deadline and any(map(_alive, pids)):
        time.sleep(0.02)
    assert not any(map(_alive, pids))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
