"""Task names: as after a normal exec, on this kernel and on those before 6.14; and their directory."""

import os
import shutil
from pathlib import Path

import pytest

import elfolio
from elfolio.spawn import names
from tests.spawn.probing import answer_file, in_fresh_host, look, snapshot


@pytest.fixture(params=["this kernel", "before 6.14"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The naming of this kernel, and the way for older ones, which must be right on any."""
    if request.param == "before 6.14":
        monkeypatch.setattr(names, "_NAMED_AFTER_FILE", False)
    return str(request.param)


def plain(path: Path, *argv: str) -> tuple[str, str, list[str]]:
    """comm, exe and argv after a normal exec."""
    with answer_file() as answer:
        pid = os.posix_spawn(path, ["probe", str(answer), *argv], {})
        assert os.waitpid(pid, 0)[1] == 0
        seen = snapshot(answer.read_text())
        return seen.comm, seen.exe, seen.argv[2:]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    "name", ["probe-plain", "a", "exactly-fifteen", "a-name-longer-than-fifteen", "with blank", "ü"]
)
@pytest.mark.parametrize("way", ["file", "link", "links"])
def test_names_are_those_of_a_normal_exec(name: str, way: str, probe_path: Path, open_folder: Path) -> None:
    """comm, /proc/PID/exe and argv equal a normal exec's, also through links of another name."""
    path = open_folder / name
    if way == "file":
        shutil.copy(probe_path, path)
    else:
        path.symlink_to(probe_path)
        if way == "links":
            path.rename(open_folder / "between")
            path.symlink_to("between")
    with elfolio.SpawnTemplate(path) as template:
        seen = look(template, "x y")
    assert (seen.comm, seen.exe, seen.argv[2:]) == plain(path, "x y")
    assert seen.argv[0] == "probe"


@pytest.mark.usefixtures("kernel")
def test_a_script_and_its_interpreter(open_folder: Path) -> None:
    """A script's task is called as the script, also where the interpreter is reached through a link (awk)."""
    for interpreter in ("/bin/sh", shutil.which("awk")):
        if interpreter is None:
            continue
        path = open_folder / "the-script"
        program = b'\nread -r name </proc/self/comm; echo "$name"' if interpreter == "/bin/sh" else (
            b' -f\nBEGIN { getline name < "/proc/self/comm"; print name }'
        )  # fmt: skip
        path.write_bytes(b"#!" + interpreter.encode() + program + b"\n")
        path.chmod(0o755)
        with elfolio.SpawnTemplate(path) as template:
            assert template.run(["x"], text=True).stdout == "the-script\n"


@pytest.mark.usefixtures("kernel")
def test_a_descriptor_is_named_after_its_file(probe_path: Path) -> None:
    """A template of a descriptor gives the file's own name."""
    fd = os.open(probe_path, os.O_RDONLY)
    with elfolio.SpawnTemplate(fd) as template:
        os.close(fd)
        assert look(template).comm == "probe"


@pytest.mark.usefixtures("kernel")
@pytest.mark.root
def test_the_name_of_another_user(probe_path: Path, open_folder: Path) -> None:
    """A child that becomes another user has its name, or stats() says that it was left to the kernel."""
    alias = open_folder / "alias"
    alias.symlink_to(probe_path)
    with elfolio.SpawnTemplate(alias) as template:
        seen = look(template, user=65534)
    lost = elfolio.stats().programs[str(alias)].fallbacks.get("task name left to the kernel", 0)
    assert seen.comm == "alias" or lost == 1


@pytest.mark.usefixtures("kernel")
def test_without_its_directory_the_program_runs(probe_path: Path, open_folder: Path) -> None:
    """If somebody removed the directory of names, the pinned program still runs, and stats() says what was lost."""

    def host(alias: str) -> list[str]:
        import shutil

        import elfolio
        from elfolio.spawn import names
        from tests.spawn.probing import look

        with elfolio.SpawnTemplate(alias) as template:
            seen = [look(template).comm]
            assert names._links.folder is not None
            shutil.rmtree(names._links.folder)
            seen.append(look(template).exe)
        with elfolio.SpawnTemplate(alias) as template:
            seen.append(look(template).exe)
        return [*seen, *elfolio.stats().programs[alias].fallbacks]

    alias = open_folder / "alias"
    alias.symlink_to(probe_path)
    got = in_fresh_host(host, str(alias))
    assert got[:3] == ["alias", str(probe_path), str(probe_path)]
    assert "task name left to the kernel" in got


def test_links_go_with_their_template(probe_path: Path, open_folder: Path) -> None:
    """Closing a template removes its link; a thousand aliases leave nothing."""
    assert names._links.folder is not None
    before = set(os.listdir(names._links.folder))
    for i in range(30):
        alias = open_folder / f"alias-{i}"
        alias.symlink_to(probe_path)
        with elfolio.SpawnTemplate(alias) as template:
            assert look(template).comm == alias.name
    assert set(os.listdir(names._links.folder)) == before
    assert {key[0] for key in names._links.known} <= {int(fd) for fd in os.listdir("/proc/self/fd")}


def test_a_template_collected_while_names_are_locked(probe_path: Path, open_folder: Path) -> None:
    """A template that the garbage collector finds while a link is being made does not deadlock its thread."""

    def host(alias: str) -> str:
        import faulthandler
        import gc
        import os

        import elfolio
        from elfolio.spawn import names

        faulthandler.dump_traceback_later(20, exit=True)
        symlink = os.symlink

        def collecting(*args: object) -> None:
            gc.collect()  # as it may happen anywhere
            symlink(*args)  # type: ignore[arg-type]

        template = elfolio.SpawnTemplate(alias)
        template.spawn(["x", "/dev/null"]).wait()
        cycle: list[object] = [template]
        cycle.append(cycle)
        del template, cycle
        os.symlink = collecting  # type: ignore[assignment]
        with elfolio.SpawnTemplate(alias) as other:
            other.spawn(["x", "/dev/null"]).wait()
        return "alive" if names._links.folder else ""

    alias = open_folder / "alias"
    alias.symlink_to(probe_path)
    assert in_fresh_host(host, str(alias)) == "alive"
