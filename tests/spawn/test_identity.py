"""Identity: what makes a template stale, and that nothing but the pinned program ever runs."""

import errno
import fcntl
import os
import pickle
import select
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import elfolio
from tests.spawn.probing import answer_file, in_fresh_host, look, snapshot


def rename_over(path: Path) -> None:
    other = path.with_suffix(".new")
    shutil.copy(path, other)
    other.rename(path)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(byte)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def link_elsewhere(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old"))


CHANGES: list[tuple[str, Callable[[Path], object], set[str]]] = [
    ("rename over", rename_over, {"inode", "ctime", "mtime"}),
    ("in-place write", rewrite, {"ctime", "mtime"}),
    ("append", append, {"size", "ctime", "mtime"}),
    ("truncate", lambda path: os.truncate(path, 100), {"size", "ctime", "mtime"}),
    ("chmod", lambda path: path.chmod(0o700), {"mode", "ctime"}),
    ("touch", lambda path: path.touch(), {"ctime", "mtime"}),
    ("touch back", lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns)), {"ctime"}),
    ("hard link", lambda path: path.with_suffix(".l").hardlink_to(path), {"ctime"}),
    ("renamed away and linked", link_elsewhere, {"ctime"}),
]


@pytest.mark.parametrize(("change", "fields"), [pytest.param(c, f, id=name) for name, c, f in CHANGES])
@pytest.mark.parametrize("audit", ["descriptor", "strict"])
def test_a_changed_file_is_stale(change: Callable[[Path], object], fields: set[str], audit: str, program: Path) -> None:
    """Every change of the held fields is StaleTemplate, which names the fields, before anything starts."""
    with elfolio.SpawnTemplate(program, audit=audit) as template:  # type: ignore[arg-type]
        assert template.spawn(["x"]).wait() == 7
        change(program)
        with pytest.raises(elfolio.StaleTemplate) as caught:
            template.spawn(["x"])
        with pytest.raises(elfolio.StaleTemplate):
            template.check()
    assert caught.value.errno == errno.ESTALE
    assert caught.value.filename == str(program)
    assert set(caught.value.changed) >= fields - {"mtime"}
    assert set(caught.value.changed) <= fields | {"mtime"}
    assert all(field in str(caught.value) for field in caught.value.changed)
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (twin.changed, str(twin)) == (caught.value.changed, str(caught.value))


@pytest.mark.root
def test_a_changed_owner_is_stale(program: Path) -> None:
    """chown of user and of group are named."""
    for user, group, field in ((1, -1, "owner"), (-1, 1, "group")):
        with elfolio.SpawnTemplate(program) as template:
            os.chown(program, user, group)
            with pytest.raises(elfolio.StaleTemplate) as caught:
                template.spawn(["x"])
            assert caught.value.changed == (field, "ctime")


def test_a_file_that_is_gone_is_stale(program: Path) -> None:
    """Unlinked, or behind a directory renamed away: StaleTemplate without a field, and the errno's words."""
    with elfolio.SpawnTemplate(program) as template:
        program.unlink()
        with pytest.raises(elfolio.StaleTemplate, match="No such file") as caught:
            template.spawn(["x"])
        assert caught.value.changed == ()


def test_a_program_replaced_through_its_directory(programs: Path, open_folder: Path) -> None:
    """Another directory swapped in under the same name is seen, though the held file is untouched."""
    here, there = open_folder / "here", open_folder / "there"
    for folder, code in ((here, 7), (there, 8)):
        folder.mkdir()
        shutil.copy(programs / f"exit-{code}", folder / "p")
    with elfolio.SpawnTemplate(here / "p") as template:
        here.rename(open_folder / "away")
        there.rename(here)
        with pytest.raises(elfolio.StaleTemplate):
            template.spawn(["p"])


def test_rebuild_follows_the_path(program: Path, programs: Path) -> None:
    """With rebuild=True the new file runs, and stats() counts it; what cannot be held still raises."""
    with elfolio.SpawnTemplate(program, rebuild=True) as template:
        assert template.spawn(["x"]).wait() == 7
        shutil.copy(programs / "exit-8", program.with_suffix(".new"))
        program.with_suffix(".new").rename(program)
        assert template.spawn(["x"]).wait() == 8
        assert elfolio.stats().programs[str(program)].stale_rebuilds == 1
        program.chmod(0o644)
        with pytest.raises(PermissionError):
            template.spawn(["x"])
        program.chmod(0o755)
        assert template.spawn(["x"]).wait() == 8


@contextmanager
def replacer(path: Path, programs: Path) -> Iterator[None]:
    """A process that renames two programs over `path` in turn, as fast as it can."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writing)
        spare = f"{path}.spare"
        while not select.select([reading], [], [], 0)[0]:
            for code in ("7", "8"):
                shutil.copy(programs / f"exit-{code}", spare)
                os.rename(spare, path)
        os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        os.waitpid(pid, 0)
        Path(f"{path}.spare").unlink(missing_ok=True)


@pytest.mark.parametrize("audit", ["descriptor", pytest.param("strict", marks=pytest.mark.slow)])
def test_a_race_with_a_replacer(audit: str, program: Path, programs: Path) -> None:
    """However often another program is renamed over the path, each of 3,000 spawns runs the pinned file or
    raises StaleTemplate, and an alias held by descriptor always runs."""
    outcomes = {"ran": 0, "stale": 0, "killed": 0}
    with replacer(program, programs):
        attempts = 0
        while attempts < 3000:
            template = elfolio.SpawnTemplate(program, audit=audit)  # type: ignore[arg-type]
            assert template._held is not None
            code = 7 if os.pread(template._held.exec_fd, 10**6, 0) == (programs / "exit-7").read_bytes() else 8
            # One template serves until it is stale: the race is between its check and its exec.
            while attempts < 3000:
                attempts += 1
                try:
                    child = template.spawn(["x"])
                except elfolio.StaleTemplate as error:
                    outcomes["killed" if "killed" in str(error) else "stale"] += 1
                    break
                except OSError as error:
                    assert audit == "strict", error  # the path may be missing, or hold a file that is being written
                    break
                assert child.wait() == code
                outcomes["ran"] += 1
            template.close()
    assert outcomes["ran"]
    assert outcomes["stale"]


def test_rebuilding_in_a_race(program: Path, programs: Path) -> None:
    """With rebuild=True and a replacer at work a spawn runs one of the two, whole, or is stale; nothing leaks."""
    with elfolio.SpawnTemplate(program, rebuild=True) as template, replacer(program, programs):
        codes = set()
        for _ in range(500):
            try:
                codes.add(template.spawn(["x"]).wait())
            except elfolio.StaleTemplate:
                continue
        assert codes <= {7, 8}
        assert codes


def test_strict_is_exact(probe_path: Path, open_folder: Path) -> None:
    """audit="strict" gives the AT_EXECFN, task name and exe of a plain execve; the default gives the last two."""
    alias = open_folder / "alias"
    alias.symlink_to(probe_path)
    with answer_file() as answer:
        pid = os.posix_spawn(alias, ["probe", str(answer)], {})
        os.waitpid(pid, 0)
        plain = snapshot(answer.read_text())
    with elfolio.SpawnTemplate(alias, audit="strict") as template:
        strict = look(template)
    with elfolio.SpawnTemplate(alias) as template:
        default = look(template)
    assert (strict.execfn, strict.comm, strict.exe) == (plain.execfn, plain.comm, plain.exe)
    assert (default.comm, default.exe) == (plain.comm, plain.exe)
    assert plain.execfn == str(alias)


@contextmanager
def between_check_and_exec(folder: Path, act: Callable[[], object]) -> Iterator[list[elfolio.Open]]:
    """Actions for a spawn during which `act` is called: the child waits for it at two FIFOs."""
    fifos = folder / "here", folder / "done"
    for fifo in fifos:
        os.mkfifo(fifo)

    def meet() -> None:
        with open(fifos[0], "wb"):
            act()
        with open(fifos[1], "wb"):
            pass

    thread = threading.Thread(target=meet)
    thread.start()
    try:
        yield [elfolio.Open(50, fifos[0], os.O_RDONLY | os.O_CLOEXEC), elfolio.Open(50, fifos[1])]
    finally:
        thread.join()


@pytest.mark.parametrize("audit", ["descriptor", "strict"])
def test_a_swap_between_check_and_exec(audit: str, program: Path, programs: Path) -> None:
    """By descriptor the pinned file runs nevertheless; by path the other one is found afterwards and killed."""
    other, mark = program.with_name("other"), f"mark-{os.getpid()}"
    shutil.copy("/bin/sleep", other)
    with elfolio.SpawnTemplate(program, audit=audit) as template:  # type: ignore[arg-type]
        with between_check_and_exec(program.parent, lambda: other.rename(program)) as actions:
            if audit == "descriptor":
                assert template.spawn([mark, "1000"], actions=actions).wait() == 7
            else:
                with pytest.raises(elfolio.StaleTemplate, match="the child was killed"):
                    template.spawn([mark, "1000"], actions=actions)
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            assert not cmdline.read_text().startswith(mark)


def test_strict_lets_a_child_execute_something_else() -> None:
    """A program that itself executes another one at once, as env does, is not taken for a swap."""
    with elfolio.SpawnTemplate("/usr/bin/env", audit="strict") as template:
        for _ in range(300):
            child = template.spawn(["env", "/bin/cat"], stdin=elfolio.PIPE)
            with child:
                pass
            assert child.returncode == 0


def errno_of_writing(path: Path) -> int:
    """What somebody gets who opens the file for writing and will not wait."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.parametrize("lease", [True, False])
def test_a_lease_holds_writers_off(lease: bool, program: Path) -> None:
    """With a lease nobody can open the file for writing from check to exec; without one they can."""
    seen: list[int] = []
    with elfolio.SpawnTemplate(program, lease=lease) as template:
        assert template.leased is lease
        with between_check_and_exec(program.parent, lambda: seen.append(errno_of_writing(program))) as actions:
            assert template.spawn(["x"], actions=actions).wait() == 7
        assert seen == [errno.EWOULDBLOCK if lease else 0]
        assert errno_of_writing(program) == 0


def test_a_broken_lease_is_no_signal_to_the_host(program: Path) -> None:
    """A writer that meets the lease raises no SIGIO, which would end a host without a handler."""

    def host(program: str) -> list[object]:
        import signal
        from pathlib import Path

        import elfolio
        from tests.spawn.test_identity import between_check_and_exec, errno_of_writing

        got: list[int] = []
        for sig in (signal.SIGIO, signal.SIGURG):
            signal.signal(sig, lambda sig, _: got.append(sig))
        template, path = elfolio.SpawnTemplate(program), Path(program)
        with between_check_and_exec(path.parent, lambda: got.append(errno_of_writing(path))) as actions:
            return [template.spawn(["x"], actions=actions).wait(), got]

    assert in_fresh_host(host, str(program)) == [7, [errno.EWOULDBLOCK]]


def test_a_fork_cannot_take_the_lease_away(program: Path) -> None:
    """A forked copy of the host that tries to spawn is refused, and the host's lease stands all the same."""

    def host(program: str) -> list[object]:
        import os
        from pathlib import Path

        import elfolio
        from tests.spawn.test_identity import between_check_and_exec, errno_of_writing

        template, path, got = elfolio.SpawnTemplate(program), Path(program), []

        def act() -> None:
            pid = os.fork()
            if not pid:
                try:
                    template.spawn(["x"])
                except PermissionError:
                    os._exit(13)
                os._exit(0)
            got.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            got.append(errno_of_writing(path))

        with between_check_and_exec(path.parent, act) as actions:
            return [template.spawn(["x"], actions=actions).wait(), got]

    assert in_fresh_host(host, str(program)) == [7, [13, errno.EWOULDBLOCK]]


def test_a_lease_of_the_callers_own_is_left_alone(program: Path) -> None:
    """A template made from a descriptor on which the caller holds a lease does not take that away."""
    fd = os.open(program, os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    owner = fcntl.fcntl(fd, fcntl.F_GETOWN)
    with elfolio.SpawnTemplate(fd) as template:
        assert template.spawn(["x"]).wait() == 7
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK
        assert fcntl.fcntl(fd, fcntl.F_GETOWN) == owner
        assert fcntl.fcntl(fd, fcntl.F_GETSIG) in (0, signal.SIGIO)
    os.close(fd)


def test_an_open_writer_is_busy(program: Path) -> None:
    """While somebody has the program open for writing a spawn is ETXTBSY, whatever its actions did, as execve."""
    made = program.with_name("made")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with elfolio.SpawnTemplate(program) as template:
        with program.open("r+b"):
            with pytest.raises(OSError) as caught:
                template.spawn(["x"], actions=[elfolio.Open(50, made, flags)])
            assert caught.value.errno == errno.ETXTBSY
        assert template.spawn(["x"]).wait() == 7
