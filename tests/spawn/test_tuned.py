"""spawn.tuned: a copy whose text lies on huge pages runs in the program's place, and nothing else does."""

import asyncio
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import elfolio
from elfolio.pagecache import copies, store
from elfolio.spawn import tuned
from elfolio.spawn.explaining import TunedCopy
from tests.pagecache.files import need_huge_folios, needs_gcc
from tests.pagecache.mounts import mounted, run
from tests.spawn.large import large

pytestmark = needs_gcc


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large program."""
    return large(tmp_path_factory.mktemp("built") / "large")


@pytest.fixture
def program(built: Path, tmp_path: Path) -> Path:
    """One of the test's own, that may be changed."""
    return Path(shutil.copy(built, tmp_path / "large"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; where its copies come to stand."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/elfolio/tuned"


@pytest.fixture
def huge(tmp_path: Path) -> None:
    """For what needs a file system that gives huge folios."""
    need_huge_folios(tmp_path)


def copy_of(template: elfolio.SpawnTemplate) -> TunedCopy:
    """What its explanation says, where there is a copy."""
    found = template.explain().tuned
    assert found is not None
    assert found.why is None, found.why
    return found


def reason(path: str | Path, **options: object) -> str:
    """Why there is no copy; the program has run all the same, and was counted."""
    with elfolio.SpawnTemplate(path, tuned=True, **options) as template:  # type: ignore[arg-type]
        found = template.explain().tuned
        assert found is not None
        assert found.why is not None, found.path
        assert (found.path, found.blocks) == ("", 0)
        assert found.why.sentence == tuned.REASONS[found.why.reason].sentence
        assert template.spawn(["x", "a"]).wait() in (0, 2)
    assert elfolio.stats().programs[str(path)].fallbacks[f"tuned: {found.why.reason}"] == 1
    return found.why.reason


def why_not(template: elfolio.SpawnTemplate) -> str:
    """The word for it."""
    found = template.explain().tuned
    assert found is not None
    assert found.why is not None
    return found.why.reason


def entries(cache: Path) -> list[str]:
    """Names in the cache."""
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def identity(path: str | Path) -> tuple[int, int]:
    """Device and inode."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


# --- what runs ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("huge")
@pytest.mark.parametrize("temperature", ["cold", "warm"])
def test_the_text_of_the_child_is_on_huge_pages(program: Path, temperature: str) -> None:
    """Every block that has its folio is one mapping in a child, of which the original has none; in a warm one, those
    with a breakpoint's page are not."""
    split = 1 if temperature == "warm" else 0
    with elfolio.SpawnTemplate(program, temperature=temperature, tuned=True) as template:  # type: ignore[arg-type]
        copy = copy_of(template)
        assert copy.filled, "no folio was free"
        done = template.run(["large", "huge"])
    assert isinstance(done.stdout, bytes)
    assert copy.blocks >= 3
    assert copy.filled - split <= int(done.stdout) <= copy.filled
    assert int(subprocess.run([program, "huge"], check=True, capture_output=True).stdout) == 0


@pytest.mark.usefixtures("huge")
@pytest.mark.parametrize("temperature", ["cold", "warm"])
def test_it_is_the_copy_that_runs_and_the_original_that_is_named(program: Path, temperature: str) -> None:
    """The child maps the copy's inode, its task has the original's name, and the copy is the user's alone."""
    with elfolio.SpawnTemplate(program, temperature=temperature, tuned=True) as template:  # type: ignore[arg-type]
        child = template.spawn(["other", "wait"], stdin=elfolio.PIPE)
        copy = copy_of(template).path
        assert child.temperature == temperature
        assert identity(f"/proc/{child.pid}/exe") == identity(copy) != identity(program)
        assert Path(f"/proc/{child.pid}/comm").read_text() == "large\n"
        assert Path(f"/proc/{child.pid}/cmdline").read_bytes() == b"other\0wait\0"
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait() == 3
    status = os.stat(copy)
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o555)
    for folder in (Path(copy).parent, Path(copy).parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.usefixtures("huge")
@pytest.mark.parametrize("temperature", ["cold", "warm", "auto"])
def test_it_says_what_the_original_says(program: Path, temperature: str) -> None:
    """Output, exit status, arguments, environment and standard input are as without a copy; `run` and `arun`."""
    said = []
    for wish in (False, True):
        with elfolio.SpawnTemplate(program, temperature=temperature, tuned=wish) as template:  # type: ignore[arg-type]
            env = {"TUNED_X": "1", "PATH": "/bin"}
            done = template.run(["a name", "b", ""], input=b"in\xff", env=env)
            again = asyncio.run(template.arun(["a name"], input=b"more"))
            said.append((done.stdout, done.stderr, done.returncode, again.stdout, again.returncode))
            assert bool(template.explain().tuned) == wish
    assert said[0] == said[1]
    assert said[0][0] == b"large\n[a name][b][]{TUNED_X=1}in\xff"


@pytest.mark.usefixtures("huge")
def test_a_descriptor_may_be_given(program: Path) -> None:
    """The copy is of the file that the descriptor has, also where its name is gone."""
    fd = os.open(program, os.O_RDONLY)
    program.unlink()
    with elfolio.SpawnTemplate(fd, tuned=True) as template:
        os.close(fd)
        shutil.rmtree(Path(copy_of(template).path).parent)
        assert template.run(["x"]).returncode == 1
        assert Path(copy_of(template).path).exists()


@pytest.mark.usefixtures("huge")
def test_a_program_by_another_name_is_called_by_that(program: Path) -> None:
    """Where a link leads to the program, the task has the link's name, as without a copy, and the copy the file's."""
    other = program.with_name("other")
    other.symlink_to(program)
    with elfolio.SpawnTemplate(other, tuned=True) as template:
        assert template.run(["x"]).stdout == b"other\n[x]"
        assert Path(copy_of(template).path).name == "large"


@pytest.mark.root
@pytest.mark.usefixtures("huge")
def test_a_child_of_another_user_runs_the_copy(program: Path) -> None:
    """It is executed by its descriptor: nobody has to enter the cache."""
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        copy = copy_of(template).path
        child = template.spawn(["x", "wait"], stdin=elfolio.PIPE, user=65534, group=65534, extra_groups=[])
        assert identity(f"/proc/{child.pid}/exe") == identity(copy)
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait() == 3


# --- the same copy, and no other ------------------------------------------------------------------------------


@pytest.mark.usefixtures("huge")
def test_a_copy_is_made_once(program: Path, cache: Path) -> None:
    """The next template, and the next process, take the one that is there."""
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        first = identity(copy_of(template).path)
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert identity(copy_of(template).path) == first
    assert len(entries(cache)) == 1


WRITES = ("written", "same size, same times")


def _overwrite(copy: Path) -> None:
    """As one who may write would hide it: the first page, and then mode and times as before."""
    before = copy.stat()
    copy.chmod(0o755)
    with copy.open("r+b") as file:
        file.write(b"\0" * 4096)
    copy.chmod(0o555)
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))


def _write(copy: Path) -> None:
    copy.chmod(0o755)
    copy.write_bytes(b"#!/bin/false\n")


def _replace(copy: Path) -> None:
    shutil.copy("/bin/false", copy.with_name("x"))
    copy.with_name("x").rename(copy)


def _link_instead(copy: Path) -> None:
    copy.unlink()
    copy.symlink_to("/bin/false")


TAMPER: dict[str, Callable[[Path], object]] = {
    "written": _write,
    "same size, same times": _overwrite,
    "mode": lambda copy: copy.chmod(0o755),
    "link": lambda copy: os.link(copy, copy.with_name("second")),
    "replaced": _replace,
    "removed": Path.unlink,
    "a link instead": _link_instead,
    "cache removed": lambda copy: shutil.rmtree(copy.parent.parent),
}


@pytest.mark.usefixtures("huge")
@pytest.mark.parametrize("how", TAMPER)
@pytest.mark.parametrize("temperature", ["cold", "warm"])
def test_a_copy_that_was_changed_is_made_again_and_never_runs(program: Path, how: str, temperature: str) -> None:
    """A template that holds it starts a new one, and says so in its counts; `check` raises nothing."""
    with elfolio.SpawnTemplate(program, temperature=temperature, tuned=True) as template:  # type: ignore[arg-type]
        assert template.run(["x"]).returncode == 1
        copy = Path(copy_of(template).path)
        if temperature == "warm" and how in WRITES:  # what runs cannot be written to
            with pytest.raises(OSError, match="Text file busy"):
                TAMPER[how](copy)
        else:
            TAMPER[how](copy)
        assert template.run(["x", "y"]).returncode == 2
        template.check()
        assert Path(copy_of(template).path).exists()
        assert elfolio.stats().programs[str(program)].fallbacks["tuned: the copy was changed"] == 1


@pytest.mark.usefixtures("huge")
@pytest.mark.parametrize("how", TAMPER)
def test_a_copy_that_was_changed_while_nobody_held_it_is_made_again(program: Path, how: str) -> None:
    """The next template believes neither the name nor size and times."""
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        copy = Path(copy_of(template).path)
    TAMPER[how](copy)
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert template.run(["x"]).returncode == 1
        assert Path(copy_of(template).path).read_bytes()[:4] == b"\x7fELF"


@pytest.mark.usefixtures("huge")
@pytest.mark.parametrize(
    "change",
    [
        {"libraries": 3},
        {"libraries": [["/bin/sh", [1]]]},
        {"name": 7},
        {"name": "../x"},
        {"key": [1]},
        {"copy": []},
        {"original": ""},
        {"won": "x"},
        {"untuned": ["refused"]},
    ],
)
def test_a_record_of_another_copy_is_not_believed(program: Path, change: dict[str, object]) -> None:
    """Whatever it says, a copy is made again, with a record of its own."""
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        copy = Path(copy_of(template).path)
    path = copy.with_name(store.RECORD)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | change))
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert template.run(["x"]).returncode == 1
    made = json.loads(path.read_text())
    assert made["name"] == "large"
    assert made["made"] > record["made"] or "untuned" in change


@pytest.mark.usefixtures("huge")
@pytest.mark.parametrize("text", ["", "[]", "{}", "\0"])
def test_a_record_that_is_none_is_not_believed(program: Path, text: str) -> None:
    """As where there is none."""
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        copy = Path(copy_of(template).path)
    copy.with_name(store.RECORD).write_text(text)
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert template.run(["x"]).returncode == 1
    assert json.loads(copy.with_name(store.RECORD).read_text())["name"] == "large"


@pytest.mark.usefixtures("huge")
@pytest.mark.parametrize("how", ["in place", "renamed over"])
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_changed_original_is_stale_or_has_a_new_copy(program: Path, cache: Path, how: str, rebuild: bool) -> None:
    """What ran before never runs again: StaleTemplate, or with `rebuild` a copy of what is there now; the old one
    is gone."""
    with elfolio.SpawnTemplate(program, tuned=True, rebuild=rebuild) as template:
        old = copy_of(template).path
        assert template.run(["x"]).stdout == b"large\n[x]"
        changed = program.read_bytes().replace(b"[%s]", b"<%s>")
        if how == "in place":
            program.write_bytes(changed)
        else:
            program.with_name("new").write_bytes(changed)
            program.with_name("new").chmod(0o755)
            program.with_name("new").rename(program)
        if not rebuild:
            with pytest.raises(elfolio.StaleTemplate, match=str(program)):
                template.run(["x"])
            return
        assert template.run(["x"]).stdout == b"large\n<x>"
        assert copy_of(template).path != old
    with elfolio.SpawnTemplate(program, tuned=True):
        assert len(entries(cache)) <= 2
    other = shutil.copy(program, program.with_name("another"))
    with elfolio.SpawnTemplate(other, tuned=True):  # whoever makes the next one tidies
        assert not Path(old).exists()


@pytest.mark.usefixtures("huge")
def test_many_makers_at_once_come_to_one_copy(program: Path, cache: Path) -> None:
    """Four processes, none of which fails, and nothing is left beside the one entry."""
    code = (
        "import sys, elfolio; t = elfolio.SpawnTemplate(sys.argv[1], tuned=True); sys.stdin.read(); "
        "print(t.explain().tuned.path, t.run(['x']).returncode)"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        said = {maker.communicate(timeout=120)[0] for maker in makers}
    finally:
        for maker in makers:
            maker.kill()
            maker.wait()
    (entry,) = entries(cache)
    assert said == {f"{cache}/{entry}/large 1\n"}


@pytest.mark.usefixtures("huge")
def test_what_a_dead_maker_left_is_removed(program: Path, cache: Path) -> None:
    """A directory that nobody has locked goes with the next making; files that are no entries stay."""
    cache.mkdir(parents=True, mode=0o700)
    (cache / ".new-dead").mkdir()
    (cache / ".new-dead/large").write_bytes(b"half")
    (cache / "a file").write_bytes(b"")
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        copy_of(template)
    assert ".new-dead" not in entries(cache)


@pytest.mark.usefixtures("huge")
def test_the_cache_is_bounded(program: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the longest unused go, but none that a template holds."""
    monkeypatch.setattr(store, "_MOST", 2)
    kept = elfolio.SpawnTemplate(program, tuned=True)
    with kept:
        for name in ("second", "third", "fourth"):
            with elfolio.SpawnTemplate(shutil.copy(program, program.with_name(name)), tuned=True) as template:
                last = copy_of(template).path
        assert sorted(entries(cache)) == sorted(Path(p).parent.name for p in (copy_of(kept).path, last))
        assert kept.run(["x"]).returncode == 1


@pytest.mark.usefixtures("huge")
def test_the_page_cache_is_filled_again(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it has lost the copy, the next start reads it in whole blocks before the child does in small ones."""
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        copy = copy_of(template)
        _drop(copy.path)
        assert template.run(["x", "huge"], text=True).stdout == "0\n"
        _drop(copy.path)
        monkeypatch.setattr(tuned, "_LOOK_AFTER", 0.0)
        assert template.run(["x", "huge"], text=True).stdout not in ("", "0\n")


def _drop(path: str) -> None:
    """A file's clean pages that nobody has mapped."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


# --- who is not started from a copy -----------------------------------------------------------------------------


def test_small_ones(tmp_path: Path, cache: Path) -> None:
    """A program smaller than a huge page costs nothing: no directory, and none of the modules that make copies."""
    assert reason("/bin/true") == "no block to win"
    assert not cache.exists()
    code = "import sys, elfolio; elfolio.SpawnTemplate('/bin/true', tuned=True).run(['true']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not [name for name in loaded if name.startswith("elfolio.pagecache")]
    code = "import sys, elfolio; elfolio.SpawnTemplate('/bin/true').run(['true']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "elfolio.spawn.tuned" not in loaded


@pytest.mark.parametrize(
    ("options", "secret", "expected"),
    [
        (["-Wl,-rpath,$ORIGIN/../lib"], "x", "looks at its own path"),
        ([], "/proc/self/exe", "looks at its own path"),
        ([], "/proc/%d/exe", "looks at its own path"),
        ([], "$ORIGIN/plugins", "looks at its own path"),
        (["-static-pie"], "x", "looks at its own path"),
        (["-Wl,-z,max-page-size=0x200000"], "x", "already aligned"),
    ],
)
def test_those_that_look_or_need_none(tmp_path: Path, options: list[str], secret: str, expected: str) -> None:
    """By what stands in the file; the verdict is kept, and the same for the next template."""
    path = large(tmp_path / "large", *options, secret=secret)
    assert reason(path) == expected
    with elfolio.SpawnTemplate(path, tuned=True) as template:
        assert why_not(template) == expected


@pytest.mark.usefixtures("huge")
def test_a_library_that_looks(tmp_path: Path) -> None:
    """A text in a library refuses the program; another library in its place, and there is a copy."""
    library = tmp_path / "libown.so"

    def build(text: str) -> None:
        source = f'const char *own(void) {{ return "{text}"; }}'
        words = ["gcc", "-x", "c", "-", "-shared", "-fPIC", "-o", f"{library}.new"]
        subprocess.run(words, input=source, text=True, check=True, timeout=60)
        os.rename(f"{library}.new", library)

    build("/proc/self/exe")
    path = large(tmp_path / "large", "-Wl,--no-as-needed", str(library))
    assert reason(path) == "looks at its own path"
    build("nothing")
    with elfolio.SpawnTemplate(path, tuned=True) as template:
        assert copy_of(template).won > 0


def test_scripts_strict_ones_and_modes(program: Path, tmp_path: Path) -> None:
    """What is executed is another file, or the path itself; or the copy would have other rights."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert reason(script) == "script"
    assert reason(program, audit="strict") == "audit strict"
    program.chmod(0o4755)
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert why_not(template) == "set-id"
    program.chmod(0o750)
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert why_not(template) == "not for everybody"


@pytest.mark.root
@pytest.mark.usefixtures("huge")
def test_file_capabilities(program: Path) -> None:
    """They give rights that the copy does not get."""
    revision_2 = bytes.fromhex("0000000200200000000000000000000000000000")  # linux/capability.h; CAP_NET_RAW permitted
    os.setxattr(program, "security.capability", revision_2)
    assert reason(program) == "a security label"


def test_a_profile_by_path(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where AppArmor is on and a profile names the program."""
    (tmp_path / "enabled").write_text("Y\n")
    (tmp_path / "profiles/abstractions").mkdir(parents=True)
    monkeypatch.setattr(copies, "APPARMOR", (str(tmp_path / "enabled"), str(tmp_path / "profiles")))
    (tmp_path / "profiles/local").write_text(f"profile x {program} {{ }}\n")
    assert reason(program) == "a security profile"


# --- the directory ----------------------------------------------------------------------------------------------


def test_a_directory_that_others_may_write_to(program: Path, cache: Path) -> None:
    """Not with another mode, not through a link, no file: and it is left as it is."""
    cache.mkdir(parents=True)
    cache.chmod(0o755)
    assert reason(program) == "cache directory"
    assert entries(cache) == []
    cache.rmdir()
    cache.parent.chmod(0o777)
    assert _again(program) == "cache directory"
    cache.parent.chmod(0o755)
    elsewhere = program.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    cache.symlink_to(elsewhere)
    assert _again(program) == "cache directory"
    assert entries(elsewhere) == []
    cache.unlink()
    cache.write_bytes(b"")
    assert _again(program) == "cache directory"


def _again(program: Path) -> str:
    """As `reason`, of a program that has been counted already."""
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert template.run(["x"]).returncode == 1
        return why_not(template)


@pytest.mark.root
def test_a_directory_of_another_user(program: Path, cache: Path) -> None:
    """Also root takes only its own."""
    cache.mkdir(parents=True, mode=0o700)
    os.chown(cache, 65534, 65534)
    assert reason(program) == "cache directory"
    os.chown(cache, 0, 0)
    os.chown(cache.parent, 65534, 65534)
    assert _again(program) == "cache directory"


@pytest.mark.usefixtures("huge")
def test_where_the_cache_is(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative XDG_CACHE_HOME does not count; without a home there is none."""
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "also relative")
    assert reason(program) == "no cache directory"
    monkeypatch.setenv("HOME", str(tmp_path))
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert copy_of(template).path.startswith(f"{tmp_path}/.cache/elfolio/tuned/")


@pytest.mark.usefixtures("huge")
def test_a_copy_that_cannot_be_written(program: Path, cache: Path) -> None:
    """EFBIG here, as ENOSPC elsewhere: the program itself runs, and nothing is left of the copy."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        assert reason(program) in ("cannot be written", "no huge folios")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert entries(cache) == []


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of the test's own, where the cache is."""
    with mounted("ext4", tmp_path) as point:
        need_huge_folios(point)
        monkeypatch.setenv("XDG_CACHE_HOME", str(point))
        yield point


@pytest.mark.root
def test_a_full_file_system(program: Path, disk: Path) -> None:
    """ENOSPC: untuned, and nothing is left."""
    with (disk / "filler").open("wb", 0) as filler:
        size = 1 << 20
        while size >= 4096:
            try:
                filler.write(bytes(size))
            except OSError:
                size //= 2
    assert reason(program) == "cannot be written"
    (disk / "filler").unlink()
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert copy_of(template).won > 0


@pytest.mark.root
def test_a_read_only_file_system(program: Path, disk: Path) -> None:
    """Without a copy: untuned. One that is there is used."""
    run("mount", "-o", "remount,ro", disk)
    assert reason(program) == "cannot be written"
    run("mount", "-o", "remount,rw", disk)
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        copy = copy_of(template).path
    run("mount", "-o", "remount,ro", disk)
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        assert copy_of(template).path == copy
        assert template.run(["x"]).returncode == 1


@pytest.mark.root
def test_a_kernel_that_refuses_the_copy(program: Path, disk: Path) -> None:
    """Where exec says no to it, the same start executes the original; the next template makes none there."""
    with elfolio.SpawnTemplate(program, tuned=True) as template:
        copy_of(template)
        run("mount", "-o", "remount,noexec", disk)
        assert template.run(["x"]).returncode == 1
        assert why_not(template) == "the copy is refused"
    assert _again(program) == "the copy is refused"
    assert elfolio.stats().programs[str(program)].fallbacks == {"tuned: the copy is refused": 2}


@pytest.mark.root
def test_a_file_system_without_huge_folios(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would win nothing: no copy is left there, but the verdict, which is believed for an hour."""
    with mounted("btrfs", tmp_path) as point:
        monkeypatch.setenv("XDG_CACHE_HOME", str(point))
        assert reason(program) == "no huge folios"
        (entry,) = (point / "elfolio/tuned").iterdir()
        assert [path.name for path in entry.iterdir()] == [store.RECORD]
        before = identity(entry)
        assert _again(program) == "no huge folios"
        assert identity(entry) == before
        monkeypatch.setattr(copies, "_POINTLESS_FOR", 0.0)
        assert _again(program) == "changing"
