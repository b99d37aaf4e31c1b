"""The package as it is shipped: what is in it, what importing it costs, and that wheel and sdist install."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import elfolio
from tests.pythons import VERSIONS, interpreters

ROOT = Path(__file__).resolve().parent.parent
NOT_SHIPPED = (
    ".git",
    ".venv*",
    ".*_cache",
    ".hypothesis",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    "*.so",
)


def run(*argv: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed; the failure shows all that it said."""
    # Neither this checkout nor a sanitizer may reach the environment under test.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LD_", "ELFOLIO_"))}
    done = subprocess.run(argv, cwd=cwd, env=clean | (env or {}), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def python(code: str) -> str:
    """What a fresh interpreter of this environment prints for `code`."""
    return run(sys.executable, "-c", code, cwd=Path("/"))


def test_type_information_is_shipped() -> None:
    """The installed package carries py.typed and the C core's stub, so that users' mypy sees its types."""
    package = Path(elfolio.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "_native.pyi").is_file()


def test_the_extension_is_abi3() -> None:
    """One build serves every Python from 3.11 on: the extension is the stable-ABI kind."""
    assert python("import elfolio._native as n; print(n.__file__)").strip().endswith("/_native.abi3.so")


def test_the_version_is_said_once() -> None:
    """The metadata's version is __version__, which can be read without importing anything else."""
    assert importlib.metadata.version("elfolio") == elfolio.__version__


def test_importing_loads_no_room() -> None:
    """`import elfolio` loads none of its rooms, nor the expensive parts of the standard library."""
    loaded = python("import sys, elfolio; print(*sys.modules)").split()
    assert [name for name in loaded if name.startswith("elfolio.")] == []
    assert not {"asyncio", "ctypes", "importlib.metadata", "json", "subprocess", "threading"} & set(loaded)


def test_other_systems_are_refused_in_one_line() -> None:
    """On anything but Linux the import fails with one line that says so and names the system."""
    code = "import sys; sys.platform = 'darwin'\ntry: import elfolio\nexcept ImportError as e: print(e)"
    lines = python(code).splitlines()
    assert len(lines) == 1
    assert "Linux" in lines[0]
    assert "darwin" in lines[0]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree, so that building writes nothing into this one."""
    copy = tmp_path_factory.mktemp("tree") / "elfolio"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
    return copy


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """The interpreter of a new, empty virtual environment."""
    venv.create(tmp_path / "venv", with_pip=True)
    return tmp_path / "venv/bin/python"


def assert_works(interpreter: Path, cwd: Path) -> None:
    """The package in this environment imports, C core included, and its command runs."""
    run(interpreter, "-c", "import elfolio, elfolio._native, elfolio.spawn", cwd=cwd)
    assert elfolio.__version__ in run(interpreter.parent / "elfolio", "--version", cwd=cwd)
    shared = interpreter.parent.parent / "share"
    for name in ("man/man1/elfolio.1", "bash-completion/completions/elfolio", "zsh/site-functions/_elfolio"):
        assert (shared / name).is_file()


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once, by this Python."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, tree, cwd=folder)
    (made,) = folder.iterdir()
    return made


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("version", VERSIONS, ids="{0[0]}.{0[1]}".format)
def test_the_wheel_installs(wheel: Path, version: tuple[int, int], tmp_path: Path) -> None:
    """One wheel, tagged cp311-abi3, installs without a compiler in every Python that elfolio is for, and works."""
    assert wheel.name.startswith(f"elfolio-{elfolio.__version__}-cp311-abi3-linux_")
    wanted = [python for python in interpreters() if python.version[:2] == version]
    if not wanted:
        pytest.skip(f"needs a Python {version[0]}.{version[1]}; to force: put one on the PATH (pyenv, a build)")
    for number, python in enumerate(wanted):
        folder = tmp_path / str(number)
        run(python.executable, "-m", "venv", "--without-pip", folder, cwd=tmp_path)
        fresh = folder / "bin/python"
        install = ("-m", "pip", "--python", fresh, "install", "--no-index", wheel)
        run(sys.executable, *install, cwd=tmp_path, env={"CC": "/nonexistent/cc"})
        assert_works(fresh, tmp_path)


@pytest.mark.slow
@pytest.mark.network
def test_the_sdist_installs(tree: Path, fresh: Path, tmp_path: Path) -> None:
    """The sdist holds all that its own build needs, the C headers too."""
    backend = tomllib.loads((tree / "pyproject.toml").read_text())["build-system"]["requires"]
    run(fresh, "-m", "pip", "install", *backend, cwd=tmp_path)
    build = "from setuptools import build_meta; import sys; build_meta.build_sdist(sys.argv[1])"
    (tmp_path / "dist").mkdir()
    run(fresh, "-c", build, tmp_path / "dist", cwd=tree)
    (sdist,) = (tmp_path / "dist").iterdir()
    run(fresh, "-m", "pip", "install", "--no-build-isolation", sdist, cwd=tmp_path)
    assert_works(fresh, tmp_path)
