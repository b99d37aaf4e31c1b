"""Linkers' fingerprints, of programs linked on the spot, signed and with the signature taken away."""

import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

from elfolio.elf import constants as c
from elfolio.elf.linker import Fingerprint, fingerprint, identify
from elfolio.elf.reader import read
from tests.elf.programs import build, need

LINKERS = {"bfd": "GNU ld", "gold": "gold", "lld": "lld", "mold": "mold"}
KINDS = {"program": (), "static": ("-static",), "library": ("-shared", "-fPIC"), "fixed": ("-no-pie",)}
CASES = list(product(LINKERS, KINDS))


def made_by(path: Path) -> Fingerprint:
    data = path.read_bytes()
    return fingerprint(read(data, str(path)), data)


@pytest.fixture(scope="module", params=CASES, ids=[f"{linker}-{kind}" for linker, kind in CASES])
def linked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of this kind made by this linker, and the linker's name."""
    linker, kind = request.param
    need(f"ld.{linker}")
    out = tmp_path_factory.mktemp("linked") / "out"
    return build(out, f"-fuse-ld={linker}", *KINDS[kind]), linker


def version_of(linker: str) -> str:
    text = subprocess.run([f"ld.{linker}", "--version"], capture_output=True, text=True, check=True).stdout
    return text.partition("\n")[0]


def test_the_linker_is_told(linked: tuple[Path, str]) -> None:
    """Each of four linkers is recognised in programs, static programs and libraries; the signed ones with certainty
    and with the version that the linker says it has."""
    path, linker = linked
    made = made_by(path)
    assert made.linker == LINKERS[linker]
    assert made.evidence
    if linker == "bfd":
        assert made.confidence in ("certain", "likely", "possible")
    else:
        assert made.confidence == "certain"
        assert made.version is not None
        assert made.version in version_of(linker)


def test_the_linker_is_told_without_its_signature(linked: tuple[Path, str]) -> None:
    """With .comment and notes removed, the order of the program headers still tells the linker, without a version and
    without certainty."""
    need("objcopy")
    path, linker = linked
    bare = path.with_name("bare")
    removed = [f"--remove-section={name}" for name in (".comment", ".note.gnu.gold-version")]
    subprocess.run(["objcopy", "--strip-all", *removed, path, bare], check=True)
    made = made_by(bare)
    assert made.linker == LINKERS[linker]
    assert made.version is None
    assert made.confidence in ("likely", "possible")


def test_an_object_file_has_no_linker(tmp_path: Path) -> None:
    """What no linker has finished is said to be that, whatever compiler signed it."""
    build(tmp_path / "it.o", "-c")
    assert made_by(tmp_path / "it.o").linker == "none"


GO = [c.PT_PHDR, c.PT_NOTE, c.PT_LOAD, c.PT_LOAD, c.PT_LOAD, c.PT_GNU_STACK]
LLD = [c.PT_PHDR, c.PT_LOAD, c.PT_LOAD, c.PT_TLS, c.PT_GNU_RELRO, c.PT_GNU_EH_FRAME, c.PT_GNU_STACK, c.PT_NOTE]
GO_INFO = b"\xff Go buildinf:\x08\x02" + bytes(16) + b"\x08go1.24.2" + b"\x05path "


def test_go_signs_with_its_toolchain() -> None:
    """A Go program's build information gives the version, where its headers are in the order of Go's linker."""
    made = identify(c.ET_EXEC, GO, [], {".go.buildinfo": GO_INFO})
    assert (made.linker, made.version, made.confidence) == ("Go", "go1.24.2", "certain")
    assert identify(c.ET_EXEC, GO, [], {}).linker == "Go"


def test_a_go_program_may_be_linked_by_another() -> None:
    """With lld's signature and order, a Go program is lld's."""
    made = identify(c.ET_EXEC, LLD, [], {".go.buildinfo": GO_INFO, ".comment": b"\0Linker: LLD 19.1.4\0"})
    assert (made.linker, made.version, made.confidence) == ("lld", "19.1.4", "certain")


def test_a_signature_that_the_headers_belie_is_doubted() -> None:
    """An object's .comment may be left over from another link: where the order is another's, it is only possible, and
    both are shown."""
    made = identify(c.ET_EXEC, LLD, [], {".comment": b"mold 2.30.0 (compatible with GNU ld)\0"})
    assert (made.linker, made.confidence, len(made.evidence)) == ("mold", "possible", 2)


LETTERS = {
    **{"P": c.PT_PHDR, "I": c.PT_INTERP, "L": c.PT_LOAD, "D": c.PT_DYNAMIC, "N": c.PT_NOTE, "T": c.PT_TLS},
    **{"G": c.PT_GNU_PROPERTY, "E": c.PT_GNU_EH_FRAME, "S": c.PT_GNU_STACK, "R": c.PT_GNU_RELRO},
}
SEEN = {
    "GNU ld": "PILLLLDNNTGESR LLLLNNTGSR LLLLDNTESR LLLLDNNTGESR PILLLLDNNTGES PILLLLDNGESR LLLLDNGSR",
    "gold": "PILLDNNESTR PLLDNESTR LLNNSTR",
    "lld": "PILLLLTDRESN PLLLLTRSN PLLLLTDRESN PILLLLTDESN PLLTLLDRES",
    "mold": "PINLLLLTDESR PNLLLLTESR PINLLLLTDEGSR PNLLLLTEGSR PINLLLLTDEGS PNLLLLTDESR",
    "Go": "PNLLLS",
}
"""Program headers in the order in which these linkers wrote them, in the versions that the module names."""


@pytest.mark.parametrize("linker", SEEN)
def test_orders_that_were_seen(linker: str) -> None:
    """Orders of linkers that this machine may not have, read off what they made: each tells its linker."""
    for order in SEEN[linker].split():
        made = identify(c.ET_DYN, [LETTERS[letter] for letter in order], [], {})
        assert (made.linker, made.confidence) == (linker, "likely"), order


SIGNATURES = {
    "Linker: Debian LLD 14.0.6": ("lld", "14.0.6"),
    "Linker: LLD 22.1.0 (https://github.com/llvm/llvm-project 1234)": ("lld", "22.1.0"),
    "mold 1.10.1 (compatible with GNU ld)": ("mold", "1.10.1"),
    "Linker: Wild version 0.5.0": ("wild", "0.5.0"),
    "GNU ld (GNU Binutils for Debian) 2.46": ("GNU ld", "2.46"),
}


@pytest.mark.parametrize("comment", SIGNATURES, ids=lambda text: text.split(" (")[0])
def test_signatures(comment: str) -> None:
    """Name and version are read from what each linker writes into .comment, among what compilers write."""
    made = identify(c.ET_DYN, [], [], {".comment": b"GCC: (Debian 12) 12.2\0" + comment.encode() + b"\0"})
    assert (made.linker, made.version, made.confidence) == (*SIGNATURES[comment], "likely")


def test_nothing_to_go_by() -> None:
    """A file of one segment and no section is not guessed at."""
    made = identify(c.ET_EXEC, [c.PT_LOAD], [], {".comment": b"GCC: (Debian 12) 12.2\0"})
    assert (made.linker, made.version, made.confidence) == ("unknown", None, "none")


def test_the_machine_has_a_linker_to_try() -> None:
    """At least one linker was tried, wherever there is a compiler."""
    need("gcc")
    assert any(shutil.which(f"ld.{name}") for name in LINKERS)
