"""The page of `elfolio explain` in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from elfolio.kernel.policy import policy
from elfolio.kernel.prediction import predict
from elfolio.layout.modes import linked_as
from elfolio.layout.relro import relro
from elfolio.report.explain import Report, as_report
from elfolio.report.explain_html import as_html
from elfolio.report.explain_text import as_text
from tests.kernel.test_prediction import LOADER, K, M, program
from tests.report.test_page import outline


def report(*names: str) -> Report:
    """Of a program with text on huge pages, under each of these kernels."""
    image = program(interpreter=True, align=2 * M)
    predictions = [predict(image, LOADER, policy(name)) for name in names]
    layout = predictions[0].layout
    return as_report(predictions, linker="lld 19", linked_as=linked_as(layout), relro=relro(layout))


def test_the_picture_shows_each_segment_in_the_file_and_in_memory() -> None:
    """Two pictures, wide and narrow, each with a link for every segment that has bytes, and a band for its blocks."""
    text = as_html(report("linux-6.18"))
    outline(text)
    pictures = re.findall(r'<svg class="(wide|narrow)".*?</svg>', text, re.S)
    assert pictures == ["wide", "narrow"]
    wide = text[text.index('<svg class="wide"') : text.index("</svg>")]
    assert wide.count("<polygon") == 3
    assert wide.count('class="good-fill edge"') == 2
    assert "2 MiB" in wide


def test_both_renderings_say_the_same_of_blocks() -> None:
    """The page's lead, the text's line and the JSON count the same."""
    value = report("linux-6.18", "linux-6.1")
    assert "2 of 4 blocks of 2 MiB could be huge mappings under linux-6.18" in as_html(value)
    assert "2 of 4 could be huge mappings" in as_text(value)
    assert sum(b["way"] == "fault" for b in value["blocks"]) == 2
    assert "Side by side" in as_html(value)
    assert sum(b["way"] == "fault" for b in value["compared"][0]["blocks"]) == 0


def test_a_large_program_has_a_small_page() -> None:
    """Neighbouring blocks of a kind are drawn as one, and the table is cut where the JSON is not."""
    value = report("linux-6.18")
    row = value["blocks"][1]
    value["blocks"] = [{**row, "start": row["start"] + n, "size": 64 * K} for n in range(100_000)]
    assert len(as_html(value)) < 1 << 20


@pytest.mark.slow
def test_in_a_browser(tmp_path: Path) -> None:
    """Chromium opens the page without an error, a click sorts a table, and both widths show their picture."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium; to force: apt-get install chromium")
    probe = """<script>
    addEventListener("error", event => document.title = "error: " + event.message);
    addEventListener("load", () => {
      const tables = [...document.querySelectorAll("table")], column = 3;
      const table = tables.find(one => one.caption.textContent.startsWith("PT_LOAD"));
      const read = () => [...table.tBodies[0].rows].map(row => Number(row.cells[column].dataset.key));
      const button = table.querySelectorAll("th button")[column];
      button.click(); const up = read(); button.click(); const down = read();
      const shown = name => getComputedStyle(document.querySelector("svg." + name)).display !== "none";
      document.title = JSON.stringify({up, down, wide: shown("wide"), narrow: shown("narrow"),
        over: document.documentElement.scrollWidth > innerWidth});
    });</script>"""
    page = tmp_path / "page.html"
    page.write_text(as_html(report("linux-6.18", "linux-6.1")).replace("</body>", probe + "</body>"))
    for width, wide in ((1300, True), (520, False)):
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
        done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120)
        title = re.search(r"<title>(.*?)</title>", done.stdout)
        assert title is not None
        value = json.loads(title[1])
        assert value["up"] == sorted(value["up"])
        assert value["down"] == sorted(value["down"], reverse=True)
        assert (value["wide"], value["narrow"], value["over"]) == (wide, not wide, False)
