"""report.assets: how the pages look and what they do in a browser. In: nothing. Out: a style sheet and a script.

Colours stand for permissions in every picture, and never alone: each area is also labelled. Light and dark have the
same hues; printed, everything is on white.
"""

__all__ = ["SCRIPT", "STYLE"]

STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d5dae0; --panel: #f5f7f9;
  --r: #4c86c6; --rx: #d9822b; --rw: #3f9b6b; --rwx: #c2416c; --none: #9aa3ad; --good: #1a7f4b; --warn: #96590a;
  --bad: #b3261e; --accent: #2f6fb5; --o-page: #a8453f; --o-small: #d98a74; --o-middle: #e3c46c; --o-huge: #8fc9c4;
  --o-pmd: #127a78; --o-unseen: #9a86c9; --o-zero: #c3d0dc; --o-swapped: #59636e; --o-absent: #eceff2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #9ba6b2; --paper: #14181d; --line: #343c46;
  --panel: #1c2229; --r: #5b97d8; --rx: #e2954a; --rw: #52b380; --rwx: #dd6a92; --none: #67717d; --good: #5cc48d;
  --warn: #e0a04a; --bad: #f2827b; --accent: #7db4ee; --o-page: #c75f58; --o-small: #d99a86; --o-middle: #dcc37a;
  --o-huge: #5f9a97; --o-pmd: #4fd0c9; --o-unseen: #8f7fc0; --o-zero: #4d5a67; --o-swapped: #9ba6b2;
  --o-absent: #232a32; } }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --line: #bbb; --panel: #fff; }
  th button::after { content: none !important; } .scroll { overflow: visible !important; }
  pre { max-height: none !important; } }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem clamp(0.75rem, 3vw, 2.5rem) 4rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 0.6rem; }
.lead { font-size: 1.1rem; color: var(--soft); margin: 0.4rem 0 0; max-width: 60rem; }
pre, code, .mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 0.86em; }
pre { margin: 0.3rem 0; padding: 0.5rem 0.7rem; max-height: 30rem; overflow: auto; background: var(--panel);
  border: 1px solid var(--line); border-radius: 6px; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 0.2rem 1.5rem;
  margin: 1rem 0; }
.facts div { display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px solid var(--line);
  padding: 0.2rem 0; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: 0.9rem; margin-top: 0.4rem; }
svg { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); } svg .grid { stroke: var(--line); }
svg .edge { stroke: var(--paper); stroke-width: 1; } svg g:focus { outline: none; }
svg .hot:hover > *, svg .hot:focus > * { stroke: var(--ink); stroke-width: 1.6; }
.narrow { display: none; }
@media (max-width: 44rem) { .wide { display: none; } .narrow { display: block; } }
.p-r { fill: var(--r); } .p-rx { fill: var(--rx); } .p-rw { fill: var(--rw); } .p-rwx { fill: var(--rwx); }
.p-none { fill: var(--none); } .faint { fill-opacity: 0.22; } .good-fill { fill: var(--good); }
.warn-fill { fill: var(--rx); } .bad-fill { fill: var(--none); }
.o-page { fill: var(--o-page); } .o-small { fill: var(--o-small); } .o-middle { fill: var(--o-middle); }
.o-huge { fill: var(--o-huge); } .o-pmd { fill: var(--o-pmd); } .o-unseen { fill: var(--o-unseen); }
.o-zero { fill: var(--o-zero); } .o-swapped { fill: var(--o-swapped); } .o-absent { fill: var(--o-absent); }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; margin-bottom: 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
caption { text-align: left; color: var(--soft); padding-bottom: 0.3rem; }
th, td { text-align: left; padding: 0.28rem 0.7rem 0.28rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.mono { white-space: nowrap; }
td.prose { min-width: 13rem; overflow-wrap: anywhere; }
thead th { white-space: nowrap; }
th[scope=row] { font-weight: inherit; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th button::after { content: " \\2195"; color: var(--none); }
th[aria-sort=ascending] button::after { content: " \\2191"; color: inherit; }
th[aria-sort=descending] button::after { content: " \\2193"; color: inherit; }
.finding { border-left: 4px solid var(--none); padding: 0.1rem 0 0.1rem 0.9rem; margin: 0.9rem 0; }
.finding.good { border-color: var(--good); } .finding.warn { border-color: var(--rx); }
.finding.bad { border-color: var(--bad); } .finding > * { color: var(--ink); margin: 0.15rem 0; }
.finding .cost { color: var(--soft); font-size: 0.9rem; }
.key { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; font-size: 0.9rem; color: var(--soft); padding: 0;
  list-style: none; } .key i { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em;
  border-radius: 2px; }
"""

SCRIPT = """\
"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const at = head.cellIndex;
    const key = row => { const cell = row.cells[at]; return cell.dataset.key === undefined
      ? cell.textContent : Number(cell.dataset.key); };
    const order = (a, b) => { const x = key(a), y = key(b);
      return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)); };
    body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)));
  });
}
"""
