"""The pages in docs/: examples that run, links that lead somewhere, a reference that is not stale."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import elfolio
from elfolio.cli import COMMANDS
from elfolio.cli.dispatch import parser_of

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
EXAMPLE = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:```text\n(?P<output>.*?)^```\n)?", re.M | re.S)


def examples() -> Iterator[tuple[str, str, str]]:
    """Page and line, code, and the output that stands behind it, of every example."""
    for page in PAGES:
        text = page.read_text()
        for match in EXAMPLE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{page.name}:{line}", match["code"], match["output"] or ""


@pytest.mark.parametrize(("where", "code", "output"), [pytest.param(*example, id=example[0]) for example in examples()])
def test_an_example_says_what_the_page_says(where: str, code: str, output: str) -> None:
    """Each example runs by itself, with warnings as errors, and prints exactly what stands behind it."""
    command = [sys.executable, "-P", "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0), where


def test_there_are_examples() -> None:
    """The examples are found: this test cannot pass on nothing."""
    assert len(list(examples())) >= 10


def generate(root: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """docs/generate.py of a tree."""
    command = [sys.executable, str(root / "docs/generate.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_generated_is_stale() -> None:
    """Reference, manual pages and completion are what the commands' parsers say."""
    done = generate(ROOT, "--check")
    assert done.returncode == 0, done.stderr


def test_what_is_stale_is_found(tmp_path: Path) -> None:
    """--check fails, in one line that names the file and the mend, where one differs, is missing, or is of a command
    that is gone; writing mends it."""
    for name in ("docs/generate.py", "docs/reference.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "share", tmp_path / "share")
    page, gone = tmp_path / "share/man/man1/elfolio.1", tmp_path / "share/man/man1/elfolio-gone.1"
    for hurt in (page.unlink, lambda: page.write_text("stale"), gone.touch):
        assert generate(tmp_path, "--check").returncode == 0
        hurt()
        done = generate(tmp_path, "--check")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "make docs" in done.stderr
        assert "share/man/man1/elfolio" in done.stderr
        assert generate(tmp_path).returncode == 0
    assert page.read_text() == (ROOT / "share/man/man1/elfolio.1").read_text()
    assert not gone.exists()


def completed(*words: str) -> set[str]:
    """What bash offers for the last word of a command line."""
    script = (
        f'source {ROOT}/share/bash-completion/completions/elfolio; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_shtab_elfolio elfolio "${@: -1}" "${@: -2:1}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_shell_completes_commands_options_and_files(tmp_path: Path) -> None:
    """Bash offers every command, the options of each, an option's choices, and files where a file belongs."""
    assert completed("elfolio", "") >= set(COMMANDS)
    assert completed("elfolio", "warm", "--re") == {"--rewrite"}
    assert completed("elfolio", "tune", "--links", "") == {"refuse", "leave", "all"}
    (tmp_path / "program").touch()
    assert completed("elfolio", "explain", f"{tmp_path}/pro") == {f"{tmp_path}/program"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_manual_page_has_every_option(name: str) -> None:
    """The page of a command names each of its options but --help, and the page of elfolio names the command."""
    page = (ROOT / f"share/man/man1/elfolio-{name}.1").read_text().replace("\\", "")
    options = [option for action in parser_of(name)._actions for option in action.option_strings]
    assert options.pop(0) == "--help"
    assert [option for option in options if option not in page] == []
    assert f"elfolio-{name} (1)" in (ROOT / "share/man/man1/elfolio.1").read_text().replace("\\", "")


def anchors(page: Path) -> set[str]:
    """The names that headings of a page can be linked by, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file that exists, and to a heading in it."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    """A path of this tree in backquotes is one of a file or directory that exists."""
    root = DOCS.parent
    places = (root, root / "src/elfolio", root / "src/elfolio/spawn")
    for name in re.findall(r"`([\w./]*/[\w./*]*)`", page.read_text()):
        if name.startswith("/") or "NAME" in name:
            continue
        assert any(list(place.glob(name)) for place in places) or (page.parent / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_names_that_a_page_uses_exist(page: Path) -> None:
    """Every `elfolio.name` of a page is a public name of the package or a module of it."""
    for name in re.findall(r"\belfolio\.(\w+)", page.read_text()):
        assert name in (*dir(elfolio), "kernel", "live", "spawn", "_native"), name
