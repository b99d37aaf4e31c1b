"""The pool: bounded, shared by threads, and never carried over a fork."""

import errno
import os
import shutil
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import elfolio
from elfolio.spawn.options import NO_OPTIONS
from elfolio.spawn.pool import Pool
from tests.spawn.probing import in_fresh_host

PLAIN = (-3, -1, -1)


def outcome(pool: Pool, path: Path | str) -> int:
    """The exit status of one start."""
    return pool.launch(pool.get(path), ["program"], NO_OPTIONS, PLAIN).wait()


def test_a_path_has_one_template(programs: Path) -> None:
    """Asking again gives the same template, by str, bytes or Path."""
    pool = Pool()
    template = pool.get(programs / "exit-7")
    assert pool.get(str(programs / "exit-7")) is template
    assert pool.get(os.fsencode(programs / "exit-7")) is template
    assert template.rebuild


def test_the_least_recently_used_goes(programs: Path) -> None:
    """Beyond the bound the template that was asked for longest ago is forgotten, and its files with it."""
    pool = Pool(max_templates=2)
    kept = pool.get(programs / "exit-0")
    gone = weakref.ref(pool.get(programs / "exit-7"))
    pool.get(programs / "exit-0")
    pool.get(programs / "exit-8")
    assert len(pool) == 2
    assert gone() is None
    assert pool.get(programs / "exit-0") is kept


def test_one_that_has_gone_still_spawns(programs: Path) -> None:
    """Eviction never closes a template that somebody holds."""
    pool = Pool(max_templates=1)
    held = pool.get(programs / "exit-7")
    pool.get(programs / "exit-8")
    assert pool.launch(held, ["program"], NO_OPTIONS, PLAIN).wait() == 7


def test_a_pool_of_none_is_refused() -> None:
    """A bound below one is EINVAL, and a ValueError."""
    with pytest.raises(ValueError, match="at least one"):
        Pool(0)


@pytest.mark.parametrize(
    ("content", "number"), [(None, errno.ENOENT), (b"\x00", errno.ENOEXEC), (b"#! relative\n", errno.ENOEXEC)]
)
def test_what_cannot_be_held_is_not_remembered(open_folder: Path, content: bytes | None, number: int) -> None:
    """A failing hold leaves nothing in the pool; UnholdableProgram comes through as itself."""
    path = open_folder / "program"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o755)
    pool = Pool()
    with pytest.raises(OSError) as caught:
        pool.get(path)
    assert caught.value.errno == number
    assert isinstance(caught.value, elfolio.UnholdableProgram) == (content == b"#! relative\n")
    assert len(pool) == 0


def test_a_replaced_program_is_the_one_that_runs(programs: Path, program: Path) -> None:
    """After a rename over the path the pool starts the new file; after a removal it says so and forgets."""
    pool = Pool()
    assert outcome(pool, program) == 7
    shutil.copy(programs / "exit-8", program.with_name("new"))
    program.with_name("new").rename(program)
    assert outcome(pool, program) == 8
    program.unlink()
    with pytest.raises(FileNotFoundError):
        outcome(pool, program)
    assert len(pool) == 0


def test_closing_forgets_and_goes_on(programs: Path) -> None:
    """close() lets go of every template; the pool makes new ones."""
    pool = Pool()
    first = weakref.ref(pool.get(programs / "exit-7"))
    pool.close()
    assert first() is None
    assert outcome(pool, programs / "exit-7") == 7


def test_a_storm_of_threads(programs: Path) -> None:
    """Eight threads over more programs than the pool holds: every exit status is the right one."""
    pool = Pool(max_templates=2)
    start = threading.Barrier(8)

    def work(number: int) -> list[tuple[int, int]]:
        start.wait()
        codes = [(0, 7, 8)[(number + turn) % 3] for turn in range(40)]
        return [(code, outcome(pool, programs / f"exit-{code}")) for code in codes]

    with ThreadPoolExecutor(8) as threads:
        pairs = [pair for found in threads.map(work, range(8)) for pair in found]
    assert len(pairs) == 320
    assert all(expected == got for expected, got in pairs)
    assert len(pool) <= 2


def test_a_signal_handler_may_spawn_while_the_pool_is_in_use(programs: Path) -> None:
    """A handler that interrupts the pool's own work gets its template: the lock is its thread's already."""
    pool = Pool()
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(outcome(pool, programs / "exit-7")))
    try:
        with pool._lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [7]


def test_a_forked_worker_makes_its_own() -> None:
    """In a multiprocessing worker, forked while another thread was inside the pool, a start makes a new template."""

    def host() -> list[object]:
        import multiprocessing
        import os
        import threading
        import warnings

        import elfolio
        from elfolio.spawn import names
        from elfolio.spawn.pool import default_pool

        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
        assert elfolio.run(["/bin/sh", "-c", "exit 3"]).returncode == 3
        pool = default_pool()
        mine, inside, done = pool.get("/bin/sh"), threading.Event(), threading.Event()

        def hold() -> None:
            with pool._lock:
                inside.set()
                done.wait()

        def work(queue: object) -> None:
            code = elfolio.run(["/bin/sh", "-c", "exit 5"]).returncode
            queue.put((code, pool.get("/bin/sh") is mine, os.getpid()))  # type: ignore[attr-defined]
            names.remove_links()  # a worker ends without atexit: a later process would sweep this up

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        worker = context.Process(target=work, args=(queue,))
        worker.start()
        code, same, pid = queue.get()
        worker.join()
        done.set()
        thread.join()
        return [code, same, pid == worker.pid, pool.get("/bin/sh") is mine]

    assert in_fresh_host(host) == [5, False, True, True]


@pytest.mark.root
def test_changed_credentials_make_a_new_template() -> None:
    """Where the credentials are no longer those of the template, the pool makes one with the new ones."""

    def host() -> list[object]:
        import os

        import elfolio
        from elfolio.spawn.pool import default_pool

        first = elfolio.run(["/bin/sh", "-c", "exit 3"]).returncode
        template = default_pool().get("/bin/sh")
        os.setgroups([12345])
        second = elfolio.run(["/bin/sh", "-c", "exit 4"]).returncode
        return [first, second, default_pool().get("/bin/sh") is template, elfolio.stats().standard]

    assert in_fresh_host(host) == [3, 4, False, {}]
