"""report.page: parts to one HTML file."""

import re
from html.parser import HTMLParser

import pytest

from elfolio.report import page
from elfolio.report.page import Cell

VOID = {"meta", "br", "hr", "img", "input", "rect", "polygon", "path", "line"}
EVIL = '</title><script>alert("1")</script>&amp;\''


class Outline(HTMLParser):
    """The elements of a page, checked for nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def outline(text: str) -> Outline:
    """A page that is nested rightly and closed."""
    found = Outline()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


def whole() -> str:
    """A page with a part of each kind, all of it hostile."""
    rows: list[tuple[Cell | str, ...]] = [(Cell(EVIL, 2.5), Cell("b", mono=True)), (Cell("a", 1), EVIL)]
    parts = [
        page.heading(EVIL),
        page.paragraph(EVIL),
        page.code(EVIL),
        page.facts([(EVIL, EVIL)]),
        page.figure(page.text(EVIL), EVIL),
        page.table(EVIL, (EVIL, "two"), rows),
    ]
    return page.render(EVIL, EVIL, parts)


def test_a_page_is_well_formed_and_names_are_text() -> None:
    """What comes from a file's name or contents is shown as it is, and never becomes an element."""
    found = outline(whole())
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert found.words.count(EVIL) == 14


def test_a_page_asks_no_network_for_anything() -> None:
    """No address is in it, and the policy in its head lets a browser fetch nothing."""
    text = whole()
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    contents = [attributes.get("content") or "" for tag, attributes in outline(text).tags if tag == "meta"]
    assert any(content.startswith("default-src 'none'") for content in contents)


@pytest.mark.parametrize(
    ("cells", "right"), [((Cell("1", 1), Cell("2", 2)), True), ((Cell("1", 1), Cell("x")), False), ((), False)]
)
def test_a_column_of_numbers_stands_to_the_right(cells: tuple[Cell, ...], right: bool) -> None:
    """A column counts as numbers where every field has one to sort by."""
    text = page.table("t", ("n",), [(cell,) for cell in cells])
    heads = [attrs.get("class") for tag, attrs in outline(text).tags if tag == "th"]
    assert heads == (["number"] if right else [None])


def test_the_number_that_a_field_sorts_by_is_exact() -> None:
    """An address of 64 bits may lose its last bits in a browser, and not before."""
    text = page.table("t", ("n",), [(Cell("x", 0x7FFFF7FC2000),)])
    assert 'data-key="140737353883648"' in text
