"""The order of the rooms, held in this tree; and the checker, held on small trees that break each rule."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.rooms import ORDER, breaches, imports, read_modules

SRC = Path(__file__).resolve().parent.parent / "src"

Plant = Callable[[str, str], list[str]]


def opening(path: str) -> str:
    """The docstring that a module of this path (below elfolio) must have."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f'"""{name}: a thing. In: bytes. Out: a value."""\n'


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A function that puts one module into an otherwise sound tree and gives the breaches found."""

    def write(path: str, text: str) -> None:
        file = tmp_path / "elfolio" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def planted(path: str, code: str) -> list[str]:
        write(path, opening(path) + code)
        return breaches(tmp_path)

    write("__init__.py", '"""elfolio: the package."""\n')
    write("errors.py", '"""errors: the error types."""\n')
    write("spawn/__init__.py", opening("spawn") + "from elfolio import _native\nfrom ..errors import X\n")
    write("cli/__init__.py", '"""cli: the entry."""\nfrom elfolio import __version__, spawn\n')
    write("cli/run.py", opening("cli/run.py") + "import elfolio.report\nfrom . import main\n")
    return planted


def test_this_tree_keeps_the_order() -> None:
    """No module of src/elfolio breaks the order of the rooms, a ban, or the form of its opening sentence."""
    assert breaches(SRC) == []


def test_this_tree_is_really_read() -> None:
    """The checker sees the package and its rooms, and imports between them: it cannot pass on nothing."""
    modules = read_modules(SRC)
    assert {"", "errors", "spawn", "cli"} <= {module.name for module in modules}
    assert any(found.target.startswith("elfolio.") for module in modules for found in imports(module))


def test_a_sound_tree_has_no_breach(plant: Plant) -> None:
    """Imports to the right, of the own room and of the allowed leaf pass in every spelling."""
    code = "import os\nfrom elfolio import elf, _native\nfrom ..layout import x\nfrom .plan import y\n"
    assert plant("spawn/child.py", code) == []


UPWARD = {
    "plain": "import elfolio.cli",
    "renamed": "import elfolio.cli.run as harmless",
    "from": "from elfolio.cli import main",
    "from the root": "from elfolio import errors, cli",
    "relative": "from ..cli import main",
    "relative, from the root": "from .. import cli",
    "in a function": "def f() -> None:\n    from elfolio.cli import main",
    "in an async method": "class A:\n    async def f(self) -> None:\n        from ..cli import main",
    "for types only": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from elfolio.cli import main",
    "if not for types": "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    import elfolio.cli",
    "in a handler": "try:\n    import json\nexcept ImportError:\n    from .. import cli",
    "by import_module": "import importlib\nimportlib.import_module('elfolio.cli')",
    "by relative import_module": "from importlib import import_module\nimport_module('..cli', __package__)",
    "by __import__": "__import__('elfolio.cli')",
}


@pytest.mark.parametrize("code", UPWARD.values(), ids=UPWARD)
def test_an_upward_import_is_found(plant: Plant, code: str) -> None:
    """An import of a room to the left is found however it is written and wherever it stands."""
    found = plant("spawn/plan.py", code)
    assert len(found) == 1
    assert "spawn may not import cli" in found[0]
    assert found[0].startswith("elfolio/spawn/plan.py:")


@pytest.mark.parametrize(("left", "right"), list(pairwise(ORDER)))
def test_neighbours_import_one_way_only(plant: Plant, left: str, right: str) -> None:
    """Of two neighbours in the order, the left one may import the right one and not the other way round."""
    assert plant(f"{left}/thing.py", f"import elfolio.{right}") == []
    assert any(
        f"{right} may not import {left}," in line for line in plant(f"{right}/thing.py", f"from .. import {left}")
    )


BANNED = {
    "os in kernel": ("kernel/vma.py", "import os.path", "kernel may not import os"),
    "pathlib in layout": ("layout/plan.py", "from pathlib import PurePath", "layout may not import pathlib"),
    "open in kernel": ("kernel/vma.py", "def f() -> None:\n    g = open\n", "kernel may not open files"),
    "_native in kernel": ("kernel/vma.py", "from .. import _native", "kernel may not import _native"),
    "_native in cli": ("cli/thing.py", "import elfolio._native", "cli may not import _native"),
    "subprocess in report": ("report/text.py", "import subprocess", "report may not import subprocess"),
    "third party in spawn": ("spawn/aio.py", "import uvloop", "standard library only"),
    "third party at the root": ("__init__.py", "import numpy", "standard library only"),
    "the public name": (
        "measure/hold.py",
        "from elfolio import SpawnTemplate",
        "name the room it comes from",
    ),
    "the whole package": ("measure/hold.py", "import elfolio", "name the room it comes from"),
    "a star": ("measure/hold.py", "from elfolio import *", "name the room it comes from"),
    "beyond the package": ("spawn/plan.py", "from ... import x", "cannot be checked"),
    "computed": ("spawn/plan.py", "__import__('elfolio.' + 'cli')", "cannot be checked"),
    "eager at the root": ("__init__.py", "from .spawn import SpawnTemplate", "lazily"),
    "an unknown room": ("utils/text.py", "", "no room of the design"),
}


@pytest.mark.parametrize(("path", "code", "said"), BANNED.values(), ids=BANNED)
def test_a_banned_import_is_found(plant: Plant, path: str, code: str, said: str) -> None:
    """What a room may not touch is found, and the line says what and where."""
    assert any(said in line for line in plant(path, code))


def test_the_root_may_import_lazily(plant: Plant) -> None:
    """elfolio/__init__.py may name any room in a function or for types, and compute the module's name."""
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .spawn import X as X\n"
    lazy = "def __getattr__(name: str) -> object:\n    from elfolio.cli import y\n    return __import__(name)\n"
    found = plant("__init__.py", typed + lazy)
    assert [line for line in found if "docstring" not in line] == []


OPENINGS = {
    "missing": ("", "must begin with"),
    "other name": ('"""plan: a thing. In: a. Out: b."""', "must begin with"),
    "no Out": ('"""spawn.plan: a thing. In: a."""', "In: ... Out: ..."),
    "reversed": ('"""spawn.plan: a thing. Out: b. In: a."""', "In: ... Out: ..."),
    "a comment": ("# spawn.plan: a thing. In: a. Out: b.", "must begin with"),
}


@pytest.mark.parametrize(("text", "said"), OPENINGS.values(), ids=OPENINGS)
def test_a_wrong_opening_is_found(plant: Plant, tmp_path: Path, text: str, said: str) -> None:
    """A module without its opening sentence, or with another's, is found."""
    plant("spawn/plan.py", "")
    (tmp_path / "elfolio/spawn/plan.py").write_text(text)
    assert [said in line for line in breaches(tmp_path)] == [True]
