"""The pages in docs/: examples that run, links that lead somewhere, a reference that is not stale."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import elfolio

DOCS = Path(__file__).resolve().parent.parent / "docs"
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


def test_the_reference_is_not_stale() -> None:
    """docs/reference.md is what the help says."""
    done = subprocess.run([sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_stale_reference_is_found(tmp_path: Path) -> None:
    """--check fails, in one line that names the mend, on a page that differs or is missing; writing it mends it."""
    generate = tmp_path / "generate.py"
    generate.write_text((DOCS / "generate.py").read_text())
    for text in (None, "stale"):
        if text is not None:
            (tmp_path / "reference.md").write_text(text)
        done = subprocess.run([sys.executable, str(generate), "--check"], capture_output=True, check=False)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
        assert b"make docs" in done.stderr
    subprocess.run([sys.executable, str(generate)], check=True)
    assert (tmp_path / "reference.md").read_text() == (DOCS / "reference.md").read_text()


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
