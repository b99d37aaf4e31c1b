"""What a warm template holds: the whole image. Upgraded, it is refused or built anew, and never half of each."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

import elfolio
from tests.spawn.kindling import Package, await_standing, said, standing, temperature_of
from tests.spawn.probing import errno_of_writing


@pytest.fixture
def package(open_folder: Path, programs: Path) -> Package:
    """A program with a library of its own, both of version 1. (`programs` skips where nothing can be compiled.)"""
    return Package(open_folder)


def both_ways(package: Package) -> list[str]:
    """What can be said without mixing versions of program, library's constructor and library's code."""
    return [f"program {program}, started {library}, called {library}" for program in (1, 2) for library in (1, 2)]


def test_an_upgraded_library_is_refused(package: Package) -> None:
    """temperature="warm" holds the libraries too: another one in place is StaleTemplate, by name, from then on."""
    with elfolio.SpawnTemplate(package.program, temperature="warm") as template:
        assert said(template) == "program 1, started 1, called 1"
        assert temperature_of(template) == "warm"
        package.upgrade_library(2)
        for _ in range(3):
            with pytest.raises(elfolio.StaleTemplate) as caught:
                template.spawn(["program"])
            assert caught.value.filename == str(package.library)
            assert "inode" in caught.value.changed
        with pytest.raises(elfolio.StaleTemplate):
            template.check()
    with elfolio.SpawnTemplate(package.program, temperature="warm") as template:
        assert said(template) == "program 1, started 2, called 2"


@pytest.mark.parametrize("how", ["killed", "cold options", "another environment", "rotated"])
def test_an_upgraded_library_is_refused_also_where_a_start_would_be_cold(package: Package, how: str) -> None:
    """The image is held by the template, not by its process: no start slips past it into a cold one."""
    most = 1 if how == "rotated" else 1000
    with elfolio.SpawnTemplate(package.program, temperature="warm", rotate_after=most) as template:
        assert temperature_of(template) == "warm"
        package.upgrade_library(2)
        options: dict[str, Any] = {}
        if how == "killed":
            process, standbys = await_standing(template)
            for pid in (process, *standbys):
                os.kill(pid, 9)
        elif how == "cold options":
            options = {"inherit_fds": True}
        elif how == "another environment":
            options = {"env": {"LD_BIND_NOW": "1"}}
        for _ in range(3):
            with pytest.raises(elfolio.StaleTemplate) as caught:
                template.spawn(["program"], **options)
            assert caught.value.filename == str(package.library)


def test_an_upgraded_library_is_rebuilt_where_asked(package: Package) -> None:
    """rebuild=True: the next start has the new library, and warm ones are of the new process."""
    with elfolio.SpawnTemplate(package.program, temperature="warm", rebuild=True) as template:
        assert said(template) == "program 1, started 1, called 1"
        before = standing(template)[0]
        time.sleep(1)  # a process that dies younger is waited for longer
        package.upgrade_library(2)
        assert said(template) == "program 1, started 2, called 2"
        time.sleep(0.1)
        assert said(template) == "program 1, started 2, called 2"
        assert temperature_of(template) == "warm"
        assert standing(template)[0] != before


def test_auto_runs_what_an_exec_would(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """temperature="auto": an upgrade is no error; the next start has the new library."""
    from elfolio.spawn.thermostat import policy

    monkeypatch.setattr(policy, "eager", True)
    with elfolio.SpawnTemplate(package.program) as template:
        assert said(template) == "program 1, started 1, called 1"
        assert temperature_of(template) == "warm"
        package.upgrade_library(2)
        assert said(template) == "program 1, started 2, called 2"


def test_an_upgraded_program(package: Package) -> None:
    """Another executable in place: refused, or where asked rebuilt, and the old process serves no start any more."""
    with (
        elfolio.SpawnTemplate(package.program, temperature="warm") as firm,
        elfolio.SpawnTemplate(package.program, temperature="warm", rebuild=True) as pliant,
    ):
        for template in (firm, pliant):
            assert said(template) == "program 1, started 1, called 1"
        package.upgrade_program(2)
        with pytest.raises(elfolio.StaleTemplate) as caught:
            firm.spawn(["program"])
        assert caught.value.filename == str(package.program)
        for _ in range(50):
            assert said(pliant) == "program 2, started 1, called 1"
        assert temperature_of(pliant) == "warm"


def test_upgrades_under_starts_never_mix(package: Package) -> None:
    """Whatever is replaced between starts, each child is of one version of the library."""
    with elfolio.SpawnTemplate(package.program, temperature="warm", rebuild=True) as template:
        for turn in range(12):
            version = turn % 2 + 1
            (package.upgrade_library if turn % 3 else package.upgrade_program)(version)
            for _ in range(4):
                assert said(template) in both_ways(package)


def test_a_library_written_in_place(package: Package) -> None:
    """A library's bytes change under the process that has mapped them: refused like another file."""
    with elfolio.SpawnTemplate(package.program, temperature="warm") as template:
        assert temperature_of(template) == "warm"
        with package.library.open("r+b") as file:
            file.write(file.read(1))
        with pytest.raises(elfolio.StaleTemplate) as caught:
            template.spawn(["program"])
        assert caught.value.filename == str(package.library)
        assert "mtime" in caught.value.changed


def test_a_directory_that_is_searched_first(package: Package) -> None:
    """A new file in a directory of the RUNPATH may be what an exec would map: refused, by the directory's name."""
    with elfolio.SpawnTemplate(package.program, temperature="warm") as template:
        assert temperature_of(template) == "warm"
        (package.library.parent / "libc.so.6").touch()
        try:
            with pytest.raises(elfolio.StaleTemplate) as caught:
                template.spawn(["program"])
        finally:
            (package.library.parent / "libc.so.6").unlink()
        assert caught.value.filename == str(package.library.parent)


def test_the_dynamic_linkers_files_are_held(package: Package) -> None:
    """Libraries, the dynamic linker, its cache and its list of preloads: all of them are in the image."""
    with elfolio.SpawnTemplate(package.program, temperature="warm") as template:
        assert temperature_of(template) == "warm"
        image = {os.fsdecode(path): key for path, key in template._heat.image or ()}
        mapped = {line.split()[-1] for line in Path(f"/proc/{standing(template)[0]}/maps").read_text().splitlines()}
    objects = {path for path in mapped if path.startswith("/") and "memfd:" not in path}
    assert objects - {str(package.program)} <= image.keys()
    assert any(os.path.basename(path).startswith("ld-linux") for path in image)
    assert {"/etc/ld.so.cache", "/etc/ld.so.preload", str(package.library.parent)} <= image.keys()
    assert all((key is not None) == os.path.exists(path) for path, key in image.items())


def test_writing_in_place_meets_etxtbsy(package: Package) -> None:
    """As long as a warm template lives nobody writes into its program; afterwards anybody may."""
    with elfolio.SpawnTemplate(package.program, temperature="warm", lease=False) as template:
        assert errno_of_writing(package.program) == 0
        assert temperature_of(template) == "warm"
        assert errno_of_writing(package.program) == errno.ETXTBSY
    assert errno_of_writing(package.program) == 0
