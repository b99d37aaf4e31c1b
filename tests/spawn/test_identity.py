"""Identity: what makes a template stale, and that nothing but the pinned program ever runs."""

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import elfolio


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
