"""live.libraries: the objects that a program is linked with."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from elfolio.live.libraries import libraries, read_image
from elfolio.measure.hold import held

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc; to force: apt-get install gcc")


def gcc(*arguments: object, compiler: str = "gcc") -> None:
    subprocess.run([compiler, *map(str, arguments)], check=True, capture_output=True)


def mapped(path: str) -> set[str]:
    """Shared objects that a process really has at its entry, but for the program and its interpreter."""
    image = read_image(path)
    with held(path) as process:
        process.to_entry()
        names = {vma.name for vma in process.maps() if vma.file is not None and ".so" in vma.name}
    return names - {image.name, os.path.realpath(image.interpreter or "/")}


def found(path: str) -> set[str]:
    """What the search finds."""
    image = read_image(path)
    return {library.path for library in libraries(image)} - {os.path.realpath(image.interpreter or "/")}


def programs() -> list[str]:
    """Twenty of this system's."""
    every = sorted(entry.path for entry in os.scandir("/usr/bin") if entry.is_file(follow_symlinks=False))
    dynamic = [path for path in every if _interpreter(path)]
    return dynamic[:: max(1, len(dynamic) // 20)]


def _interpreter(path: str) -> bool:
    try:
        interpreter = read_image(path).interpreter
    except (OSError, ValueError):
        return False
    return interpreter is not None and os.path.exists(interpreter)


@pytest.mark.parametrize("path", programs())
def test_it_is_what_the_dynamic_linker_maps(path: str) -> None:
    """The same files as in a process at its entry."""
    assert found(path) == mapped(path)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A program that needs libouter.so by $ORIGIN, which needs libinner.so by its own run path."""
    (tmp_path / "deep").mkdir()
    text = tmp_path / "a.c"
    text.write_text("int inner(void) { return 3; }\n")
    gcc("-shared", "-fPIC", text, "-o", tmp_path / "deep/libinner.so")
    text.write_text("int inner(void); int outer(void) { return inner(); }\n")
    inside = f"-L{tmp_path}/deep"
    gcc("-shared", "-fPIC", text, "-o", tmp_path / "libouter.so", inside, "-linner", "-Wl,-rpath,$ORIGIN/deep")
    text.write_text("int outer(void); int main(void) { return outer(); }\n")
    paths = ("-Wl,-rpath,${ORIGIN}", f"-Wl,-rpath-link,{tmp_path}/deep")
    gcc(text, "-o", tmp_path / "program", f"-L{tmp_path}", "-louter", *paths)
    return tmp_path


@needs_gcc
def test_run_paths_and_origin(chain: Path) -> None:
    """$ORIGIN is each object's own directory, and a DT_RUNPATH holds for its own object's needs only."""
    names = [Path(library.path).name for library in libraries(read_image(str(chain / "program")))]
    assert names[:3] == ["libouter.so", "libc.so.6", "libinner.so"]
    assert found(str(chain / "program")) == mapped(str(chain / "program"))


@needs_gcc
def test_one_that_is_missing(chain: Path) -> None:
    """It is listed with its name, and without an image; the rest goes on."""
    (chain / "deep/libinner.so").unlink()
    missing = [library.name for library in libraries(read_image(str(chain / "program"))) if library.image is None]
    assert missing == ["libinner.so"]


@needs_gcc
@pytest.mark.skipif(shutil.which("musl-gcc") is None, reason="needs musl; to force: apt-get install musl-tools")
def test_musl_is_one_file(chain: Path) -> None:
    """Whatever musl program needs of the C library is its loader."""
    text = chain / "a.c"
    gcc(text, "-o", chain / "musl", f"-L{chain}", "-louter", f"-Wl,-rpath,{chain}:{chain}/deep", compiler="musl-gcc")
    image = read_image(str(chain / "musl"))
    paths = {library.path for library in libraries(image)}
    assert os.path.realpath(image.interpreter or "") in paths
    assert {str(chain / "libouter.so"), str(chain / "deep/libinner.so")} <= paths


@needs_gcc
def test_a_root_and_its_cache(chain: Path, tmp_path: Path) -> None:
    """Under another root its ld.so.cache counts; entries of another class or for a hardware variant do not."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "opt").mkdir()
    shutil.copy(chain / "libouter.so", root / "opt/libouter.so")
    names = b"libouter.so\0/opt/libouter.so\0/wrong\0"
    entries = [(0x0003, 12 + 17, 0), (0x0303, 12 + 17, 1 << 62), (0x0303, 12, 0)]
    at = 48 + 24 * len(entries)
    rows = b"".join(struct.pack("=iIIIQ", flags, at, at + value, 0, hwcap) for flags, value, hwcap in entries)
    header = b"glibc-ld.so.cache1.1" + struct.pack("=II", len(entries), len(names))
    (root / "etc/ld.so.cache").write_bytes(header.ljust(48, b"\0") + rows + names)
    text = chain / "a.c"
    gcc(text, "-o", chain / "plain", f"-L{chain}", "-louter", f"-Wl,-rpath-link,{chain}/deep")
    image = read_image(str(chain / "plain"))
    if image.header.machine != 62:
        pytest.skip("the recorded cache is x86-64's; to force: run there")
    (library,) = (library for library in libraries(image, root) if library.name == "libouter.so")
    assert library.path == str(root / "opt/libouter.so")


def test_a_static_program_needs_nothing(tmp_path: Path) -> None:
    """Without a dynamic section there is nothing to look for."""
    from tests.elfwriter import ET_EXEC, PT_LOAD, Elf, Ph

    path = tmp_path / "static"
    path.write_bytes(Elf(type=ET_EXEC, segments=[Ph(PT_LOAD, 5, 0, 0x400000)]).build())
    assert libraries(read_image(str(path))) == ()
