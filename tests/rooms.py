"""The checker behind test_rooms.py: a source tree in, breaches of the rooms' order out. Never imports.

The order and the bans are DESIGN's "One rule". A breach is one line: file, line number, what is wrong.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = "elfolio"
ORDER = (
    *("cli", "report", "survey", "measure", "spawn", "pagecache", "memory"),
    *("live", "kernel", "layout", "elf", "span", "errors"),
)
"""A room imports what stands to its right and nothing to its left."""

NATIVE = "_native"
NATIVE_USERS = frozenset({"spawn", "live", "pagecache", "measure"})
"""The C core is a leaf that only these rooms may touch."""
NATIVE_MODULES = frozenset({"kernel.buddy"})
"""And this module of a pure room: its part of the core has arrays of its own, and nothing else."""

_MACHINE = frozenset(
    (
        *("asyncio", "builtins", "ctypes", "fcntl", "fileinput", "glob", "io", "mmap", "multiprocessing"),
        *("os", "pathlib", "posix", "resource", "shutil", "signal", "socket", "subprocess", "tempfile"),
    )
)
BANNED = {
    "kernel": _MACHINE,
    "layout": _MACHINE,
    "report": frozenset({"ctypes", "os", "posix", "subprocess"}),
}
NO_OPEN = frozenset({"kernel", "layout"})
STANDARD_LIBRARY_ONLY = frozenset({"", "errors", "memory", "span", "spawn"})
COMPUTED_IMPORTS = frozenset({"", "__main__", "cli"})
"""Where a lazy dispatcher may import a name that only run time knows."""

NO_IN_OUT = frozenset({"", "cli", "errors", "span"})
"""Leaves and entry points: nothing goes in, or nothing comes out."""


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name below elfolio ("" for the package itself) and its syntax tree."""

    path: Path
    name: str
    is_package: bool
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    def anchor(self, level: int) -> str | None:
        """The absolute package that `level` leading dots mean here; None when they leave elfolio."""
        parts = [ROOT, *self.name.split(".")] if self.name else [ROOT]
        drop = level - 1 if self.is_package else level
        return ".".join(parts[: len(parts) - drop]) if drop < len(parts) else None


@dataclass(frozen=True)
class Import:
    """One imported module by absolute name; `computed` when only run time knows it."""

    line: int
    target: str
    lazy: bool
    computed: bool = False


def read_modules(src: Path) -> list[Module]:
    """Every .py file of src/elfolio, parsed."""
    return [_read_module(path, src) for path in sorted((src / ROOT).rglob("*.py"))]


def _read_module(path: Path, src: Path) -> Module:
    parts = list(path.relative_to(src / ROOT).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return Module(path.relative_to(src), name, is_package, ast.parse(path.read_bytes(), str(path)))


def imports(module: Module) -> Iterator[Import]:
    """All imports of a module, wherever they stand, relative ones resolved, import_module calls included."""
    for node, lazy in _walk(module.tree, lazy=False):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _from_imports(module, node, lazy)
        elif isinstance(node, ast.Call) and _called(node) in {"__import__", "import_module"}:
            yield _import_call(module, node, lazy)


def _walk(node: ast.AST, *, lazy: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs later than the module's import: in a function or for types only."""
    for child in ast.iter_child_nodes(node):
        later = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from ((inner, True) for statement in child.body for inner in ast.walk(statement))
            child = ast.Module(child.orelse, [])  # noqa: PLW2901
        yield child, later
        yield from _walk(child, lazy=later)


def _from_imports(module: Module, node: ast.ImportFrom, lazy: bool) -> Iterator[Import]:
    base = module.anchor(node.level) if node.level else ""
    if base is None:
        yield Import(node.lineno, "." * node.level, lazy, computed=True)
        return
    source = ".".join(part for part in (base, node.module) if part)
    # Only of the root package can a name be a room; below it the source already says which room it is.
    names = [f"{ROOT}.{alias.name}" for alias in node.names] if source == ROOT else [source]
    yield from (Import(node.lineno, name, lazy) for name in names)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def _import_call(module: Module, node: ast.Call, lazy: bool) -> Import:
    first = node.args[0] if node.args else None
    if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
        return Import(node.lineno, "", lazy, computed=True)
    name = first.value.lstrip(".")
    base = module.anchor(len(first.value) - len(name)) if first.value != name else ""
    return Import(node.lineno, ".".join(part for part in (base, name) if part), lazy)


def breaches(src: Path) -> list[str]:
    """Every breach of the rooms' rules in src/elfolio, one line each."""
    return [
        f"{module.path}:{line}: {text}"
        for module in read_modules(src)
        for line, text in (
            *_room_breach(module),
            *_import_breaches(module),
            *_opening(module),
            *_open(module),
        )
    ]


def _room_breach(module: Module) -> Iterator[tuple[int, str]]:
    if module.room not in {"", "__main__", *ORDER}:
        yield 1, f"{module.room} is no room of the design"


def _import_breaches(module: Module) -> Iterator[tuple[int, str]]:
    for found in imports(module):
        if reason := _refusal(module, found):
            yield found.line, reason


def _refusal(module: Module, found: Import) -> str | None:
    """Why `module` may not have this import; None when it may."""
    here = module.room
    top, _, below = found.target.partition(".")
    if found.computed:
        return None if here in COMPUTED_IMPORTS or module.is_package else "an import that cannot be checked"
    if top == ROOT:
        return _inside_refusal(module, below, found.lazy)
    if top in BANNED.get(here, ()):
        return f"{here} may not import {top}"
    if here in STANDARD_LIBRARY_ONLY and top not in sys.stdlib_module_names:
        return f"{here or ROOT} may not import {top}: standard library only"
    return None


def _inside_refusal(module: Module, below: str, lazy: bool) -> str | None:
    here, there = module.room, below.partition(".")[0]
    if here == "":
        return None if lazy else f"{ROOT}/__init__.py must import {there or ROOT} lazily"
    if there == NATIVE:
        return None if here in NATIVE_USERS or module.name in NATIVE_MODULES else f"{here} may not import {NATIVE}"
    if here == "__main__" or there in {here, "__version__"}:
        return None
    if there not in ORDER:
        # A public name taken from the package would hide which room it comes from.
        return f"{here} may not import {there or ROOT} from {ROOT}: name the room it comes from"
    if here in ORDER and ORDER.index(there) < ORDER.index(here):
        return f"{here} may not import {there}, which stands to its left"
    return None


def _opening(module: Module) -> Iterator[tuple[int, str]]:
    """The opening sentence: `spawn.plan: what it does. In: ... Out: ...`."""
    text = ast.get_docstring(module.tree) or ""
    name = module.name or ROOT
    if not text.startswith(f"{name}: "):
        yield 1, f'the docstring must begin with "{name}: "'
    elif not (module.name in NO_IN_OUT or name.endswith("__main__") or re.search(r"\bIn: .*\bOut: ", text, re.S)):
        yield 1, 'the docstring must say "In: ... Out: ..."'


def _open(module: Module) -> Iterator[tuple[int, str]]:
    if module.room in NO_OPEN:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Name) and node.id == "open":
                yield node.lineno, f"{module.room} may not open files"
