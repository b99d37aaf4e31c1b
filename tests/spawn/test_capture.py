"""run: feeding, draining, limits, spilling, deadlines, text; whatever the child does with its ends."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import elfolio
from elfolio import _native
from tests.spawn.probing import in_fresh_host

MEGABYTE = 1 << 20
NOTICE = b"\n[... %d bytes dropped ...]\n"


@pytest.fixture
def cat() -> Any:
    with elfolio.SpawnTemplate("/bin/cat") as template:
        yield template


@pytest.fixture(scope="module")
def own_pidfd() -> Iterator[int]:
    """This process's own pidfd, which is not readable before the end."""
    fd = os.pidfd_open(os.getpid())
    yield fd
    os.close(fd)


def kept(data: bytes, limit: int) -> tuple[bytes, int]:
    """The model of a limit: head and tail around a notice, and how much is missing."""
    head, tail = limit - limit // 2, limit // 2
    if len(data) <= limit:
        return data, 0
    dropped = len(data) - limit
    return data[:head] + NOTICE % dropped + data[len(data) - tail :], dropped


def test_input_and_both_outputs_are_large(sh: elfolio.SpawnTemplate) -> None:
    """Ten megabytes in, and out on both streams at once, without deadlock and without a byte lost."""
    data = bytes(range(256)) * (10 * MEGABYTE // 256)
    done = sh.run(["sh", "-c", "tee /dev/fd/2"], input=data)
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr == data
    assert (done.dropped, done.spilled) == ((0, 0), (None, None))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_input_of_every_kind(kind: Any, cat: elfolio.SpawnTemplate) -> None:
    """Bytes-like input arrives whole; an empty one ends the child's input at once; none is /dev/null."""
    assert cat.run(["cat"], input=kind(b"abc" * 100000)).stdout == b"abc" * 100000
    assert cat.run(["cat"], input=kind(b"")).stdout == b""
    assert cat.run(["cat"]).stdout == b""
    assert cat.run(["cat"], stdin=elfolio.PIPE).stdout == b""


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunks=st.lists(st.binary(max_size=300) | st.integers(0, 200000).map(lambda n: b"z" * n), max_size=8),
    limit=st.integers(0, 700) | st.sampled_from([65535, 65536, 65537, 131072, 300000]),
    spill=st.booleans(),
)
def test_a_limit_keeps_head_and_tail(
    chunks: list[bytes], limit: int, spill: bool, tmp_path: Path, own_pidfd: int
) -> None:
    """However the bytes come, head, tail, dropped count and the spill file are those of a model."""
    reading, writing = os.pipe()
    with open(tmp_path / "spill", "w+b") as file:
        capture = _native.Capture(own_pidfd, [-1, reading, -1], None, limit, file.fileno() if spill else -1, -1)
        os.set_blocking(writing, False)
        for chunk in chunks:
            while chunk:
                with suppress(BlockingIOError):
                    chunk = chunk[os.write(writing, chunk) :]  # noqa: PLW2901
                capture.run(0, _native.CAPTURE_OPEN)
        os.close(writing)
        assert not capture.run(-1, _native.CAPTURE_OPEN) & _native.CAPTURE_OPEN
        head, tail, total, dropped, error = capture.output(0)
        data = b"".join(chunks)
        notice = NOTICE % dropped if dropped else b""
        assert (head + notice + tail, dropped, total, error) == (*kept(data, limit), len(data), 0)
        file.seek(0)
        assert file.read() == (data if spill and len(data) > limit else b"")
        capture.close()


@pytest.mark.parametrize("limit", [0, 1, 7, 1000])
def test_a_limit_on_both_streams(limit: int, sh: elfolio.SpawnTemplate) -> None:
    """Each stream has its own limit, and says how much of it is missing."""
    done = sh.run(["sh", "-c", "yes 0123456789 | head -c 500000; yes err | head -c 300000 >&2"], output_limit=limit)
    out, err = (b"0123456789\n" * 50000)[:500000], (b"err\n" * 75000)[:300000]
    assert (done.stdout, done.dropped[0]) == kept(out, limit)
    assert (done.stderr, done.dropped[1]) == kept(err, limit)


def test_a_limit_bounds_memory() -> None:
    """A quarter of a gigabyte of output with a small limit leaves the host's memory as it was."""

    def host() -> int:
        import resource

        import elfolio

        sh = elfolio.SpawnTemplate("/bin/sh")
        sh.run(["sh", "-c", "head -c 1000000 /dev/zero"], output_limit=100000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        done = sh.run(["sh", "-c", "head -c 268435456 /dev/zero"], output_limit=100000)
        assert done.dropped[0] == 268435456 - 100000
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert in_fresh_host(host) < 4096


def test_spilling(sh: elfolio.SpawnTemplate, tmp_path: Path) -> None:
    """Beyond the limit the whole stream is in an unnamed file, open at its start; below it there is none."""
    done = sh.run(["sh", "-c", "seq 100000; echo few >&2"], output_limit=1000, spill_dir=tmp_path)
    whole = b"".join(b"%d\n" % i for i in range(1, 100001))
    assert (done.stdout, done.dropped) == (kept(whole, 1000)[0], (len(whole) - 1000, 0))
    file, none = done.spilled
    assert none is None
    assert file is not None
    with file:
        assert file.read() == whole
    assert done.stderr == b"few\n"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(elfolio.InvalidArgument):
        sh.run(["sh"], spill_dir=tmp_path)
    with pytest.raises(FileNotFoundError):
        sh.run(["sh"], output_limit=1, spill_dir=tmp_path / "none")


@pytest.mark.root
def test_a_full_spill_directory(sh: elfolio.SpawnTemplate, open_folder: Path) -> None:
    """Where the spill file cannot grow, the errno is told, the child is drained to its end, head and tail are kept."""
    from tests.spawn.probing import mounted

    with mounted(open_folder / "small", "size=256k") as small:
        done = sh.run(["sh", "-c", "head -c 5000000 /dev/zero; echo end; exit 3"], output_limit=1000, spill_dir=small)
        assert done.returncode == 3
        assert done.spill_errors == (errno.ENOSPC, 0)
        assert isinstance(done.stdout, bytes)
        assert done.stdout.endswith(b"end\n")
        assert done.spilled[0] is not None
        with done.spilled[0] as file:
            assert set(file.read()) <= {0}


def test_text(cat: elfolio.SpawnTemplate, sh: elfolio.SpawnTemplate) -> None:
    """text, encoding and errors decode as in subprocess, newlines included; str input is encoded."""
    data = "ä\r\nb\rc\n"
    for keywords in ({"text": True}, {"encoding": "latin-1"}, {"errors": "replace"}, {"encoding": "utf-16"}):
        ours = cat.run(["cat"], input=data, **keywords)
        theirs = subprocess.run(["cat"], input=data, capture_output=True, check=False, **keywords)
        assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)
    with pytest.raises(UnicodeDecodeError):
        sh.run(["sh", "-c", r"printf '\377'"], encoding="utf-8")
    assert sh.run(["sh", "-c", r"printf '\377'"], encoding="utf-8", errors="replace").stdout == "\ufffd"


def test_a_cut_through_a_character(cat: elfolio.SpawnTemplate) -> None:
    """A limit that cuts a character in two gives text all the same."""
    for limit in range(8):
        done = cat.run(["cat"], input="ä" * 100, output_limit=limit, encoding="utf-8")
        assert isinstance(done.stdout, str)
        assert f"{200 - limit} bytes dropped" in done.stdout


def test_check(sh: elfolio.SpawnTemplate) -> None:
    """check raises CalledProcessError with everything that was said; 0 does not."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        sh.run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=True)
    assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (3, b"out\n", b"err\n")
    assert sh.run(["sh", "-c", ":"], check=True).returncode == 0


@pytest.mark.usefixtures("cold")
def test_a_result_tells_what_it_cost(sh: elfolio.SpawnTemplate) -> None:
    """Completed has pid, rusage, temperature and the seconds from start to end."""
    done = sh.run(["sh", "-c", ":"])
    assert done.pid > 0
    assert done.rusage is not None
    assert (done.temperature, done.args) == ("cold", ["sh", "-c", ":"])
    assert done.seconds > 0


def test_where_outputs_lead(sh: elfolio.SpawnTemplate, tmp_path: Path) -> None:
    """capture_output captures what no keyword leads elsewhere; without it nothing is captured."""
    with open(tmp_path / "f", "w+b") as file:
        done = sh.run(["sh", "-c", "echo a; echo b >&2"], stdout=file)
        assert (done.stdout, done.stderr) == (None, b"b\n")
        done = sh.run(["sh", "-c", "echo a; echo b >&2"], stdout=file, stderr=file, capture_output=False)
        assert (done.stdout, done.stderr) == (None, None)
        file.seek(0)
        assert file.read() == b"a\na\nb\n"
    with pytest.raises(elfolio.InvalidArgument):
        sh.run(["sh"], input=b"x", stdin=elfolio.DEVNULL)
    with pytest.raises(elfolio.InvalidArgument):
        sh.run(["sh"], output_limit=-1)


@pytest.mark.parametrize("child", ["exit 3", "exec <&-; echo closed; exit 3", "head -c 1 >/dev/null; exit 3"])
def test_a_child_that_does_not_read(child: str) -> None:
    """Input that nobody reads is not an error, and SIGPIPE does not end a host that has it at its default."""

    def host(child: str) -> list[Any]:
        import signal

        import elfolio

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        sh = elfolio.SpawnTemplate("/bin/sh")
        codes = [sh.run(["sh", "-c", child], input=b"x" * size).returncode for size in (1, 10**6) for _ in range(20)]
        return [set(codes) == {3}, sorted(signal.sigpending())]

    assert in_fresh_host(host, child) == [True, []]


def test_a_pending_sigpipe_stays(sh: elfolio.SpawnTemplate) -> None:
    """A SIGPIPE that was pending before is pending afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    old = signal.signal(signal.SIGPIPE, lambda *_: None)  # an ignored signal would not stay pending
    try:
        signal.pthread_kill(__import__("threading").get_ident(), signal.SIGPIPE)
        assert sh.run(["sh", "-c", "exit 3"], input=b"x" * MEGABYTE).returncode == 3
        assert signal.SIGPIPE in signal.sigpending()
        signal.sigwait({signal.SIGPIPE})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGPIPE, old)
