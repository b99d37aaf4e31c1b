"""The stub as it was built: memory that can be copied into any program, and runs there by itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

from elfolio import _native

EXPORTED = {"stub_setup", "stub_stack", "stub_start"}


@pytest.fixture(scope="module")
def stub() -> Path:
    """The one of this installation."""
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf; to force: apt-get install binutils")
    (path,) = Path(_native.__file__).parent.glob("_stub.*so")
    return path


def readelf(option: str, path: Path) -> str:
    return subprocess.check_output(["readelf", "-W", option, path], text=True, env={"LC_ALL": "C"})


def test_it_needs_no_linker(stub: Path) -> None:
    """No relocation, no library that it needs, no symbol that is defined elsewhere: it can be copied as it is."""
    assert "no relocations" in readelf("--relocs", stub)
    assert "(NEEDED)" not in readelf("--dynamic", stub)
    fields = [line.split() for line in readelf("--dyn-syms", stub).splitlines() if line.strip()[:1].isdigit()]
    assert {words[7] for words in fields if len(words) > 7} == EXPORTED
    assert all(words[6] != "UND" for words in fields if len(words) > 7)


def test_it_is_code_and_data(stub: Path) -> None:
    """Two segments are loaded, of which one is executed and never written; nothing is each thread's own."""
    lines = [line.split() for line in readelf("--segments", stub).splitlines()]
    loads = ["".join(words[6:-1]) for words in lines if words[:1] == ["LOAD"]]
    assert loads == ["RE", "RW"]
    assert not any(words[:1] in (["TLS"], ["INTERP"], ["GNU_RELRO"]) for words in lines)
