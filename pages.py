"""Pages for a browser: the shell of a self-contained HTML document, tables that sort, thumbnails. One file, no requests.

Light and dark follow the reader's system. Colours are CSS variables (`--ink`, `--grey`, `--line`, `--panel`, `--accent`, and
`--mask`, `--gender`, `--age_group` for the parts of a label), so that what a page adds fits both.
"""

import base64
import html
import io
import math
from numbers import Integral, Real

from PIL import Image

from images import open_rgb

# Nothing is loaded from anywhere, whatever a name or a file holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
NOTHING = ""  # what a cell without a value is sorted by

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f3f5f7; --ink: #1f2328; --grey: #59636e; --line: #d0d7de;
  --accent: #0b5cad; --mask: #00659e; --gender: #a3267e; --age_group: #a84300; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --panel: #1f2429; --ink: #e6e8ea; --grey: #a3adb8;
  --line: #3d444d; --accent: #79b8ff; --mask: #62b8f2; --gender: #f29bd7; --age_group: #ffa468; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.75rem, 3vw, 2rem) 4rem; max-width: 90rem; background: var(--ground);
  color: var(--ink); font: 0.9375rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans KR", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 0.25rem; }
h2 { font-size: 1.125rem; line-height: 1.3; margin: 2rem 0 0.5rem; }
p { margin: 0.25rem 0 0.75rem; max-width: 48rem; }
a { color: var(--accent); }
.grey { color: var(--grey); }
code, kbd, pre { font: 0.875em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { overflow-x: auto; padding: 0.5rem 0.75rem; background: var(--panel); border-radius: 4px; }
kbd { padding: 0 0.3em; border: 1px solid var(--line); border-radius: 3px; background: var(--panel); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
button { font: inherit; color: inherit; cursor: pointer; }
.scroll { overflow: auto; max-height: 85vh; margin: 0.5rem 0 1rem; border: 1px solid var(--line); border-radius: 4px;
  width: fit-content; max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; }
th, td { padding: 0.3rem 0.75rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
td:not(.number) { white-space: normal; min-width: 7rem; }
td:first-child, th:first-child { position: sticky; left: 0; }
td:first-child { background: var(--ground); }
tbody tr:last-child > * { border-bottom: 0; }
tbody tr:hover > * { background: var(--panel); }
th { position: sticky; top: 0; background: var(--panel); font-weight: 600; z-index: 1; }
th:first-child { z-index: 2; }
.number { text-align: right; }
th button { display: block; width: 100%; padding: 0.3rem 0.75rem; border: 0; background: none; font-weight: inherit;
  text-align: inherit; white-space: nowrap; }
th:has(button) { padding: 0; }
th button:focus-visible { outline-offset: -3px; }
th button::after { content: "\\2195"; margin-left: 0.35em; color: var(--grey); font-weight: 400; }
th[aria-sort="ascending"] button::after { content: "\\2191"; color: var(--accent); }
th[aria-sort="descending"] button::after { content: "\\2193"; color: var(--accent); }
"""

# A click on a column's name sorts by it, another one turns the order round. Numbers begin with the highest; cells without
# a value stay last. Buttons bring the keyboard with them.
SORTING = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const words = new Intl.Collator(undefined, {numeric: true});
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const turned = {ascending: "descending", descending: "ascending"};
    const order = turned[head.getAttribute("aria-sort")] || first, sign = order === "ascending" ? 1 : -1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const keys = new Map([...body.rows].map(row => {
      const cell = row.cells[column], value = cell.dataset.value;
      return [row, value === undefined ? cell.textContent.trim() : value && Number(value)];
    }));
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      if (typeof a === "number" && typeof b === "number") return sign * (a - b);
      return sign * words.compare(a, b);
    };
    body.append(...[...body.rows].sort((a, b) => compare(keys.get(a), keys.get(b))));
  }));
}
"""


def escape(text):
    """`text` for HTML, inside elements and inside quoted attributes alike."""
    return html.escape(str(text), quote=True)


def page(title, body, script="", style=""):
    """One self-contained HTML document. `title` is text; `body`, `script` and `style` are trusted as they are."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}{style}</style>\n</head>\n'
        f"<body>\n{body}\n<script>{SORTING}{script}</script>\n</body>\n</html>\n"
    )


def table(head, rows, sortable=True):
    """A table of escaped cells, its head and first column in view while it scrolls; sorted by click or key where `sortable`.

    A cell is text, a number (right-aligned; floats with 4 decimals), a pair (text shown, number sorted by), or None for
    nothing; nan counts as nothing. A column is one of numbers when it holds any and no text.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    columns = [[key for _text, key in column if key != NOTHING] for column in zip(*cells)] or [[]] * len(head)
    numeric = [bool(keys) and all(key is not None for key in keys) for keys in columns]
    names = (f"<button>{escape(name)}</button>" if sortable else escape(name) for name in head)
    heads = "".join(f'<th scope="col"{_class(number)}>{name}</th>' for name, number in zip(names, numeric))
    lines = []
    for row in cells:
        values = ("" if key is None else f' data-value="{key}"' for _text, key in row)
        marks = (f"{_class(number)}{value}" for number, value in zip(numeric, values))
        lines.append("".join(f"<td{mark}>{escape(text)}</td>" for mark, (text, _key) in zip(marks, row)))
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    kind = ' class="sortable"' if sortable else ""
    markup = f"<table{kind}>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<div class="scroll" tabindex="0">{markup}</div>'


def _class(number):
    return ' class="number"' if number else ""


def _cell(value):
    """(text shown, what it is sorted by: a number, NOTHING, or None for the text itself) of a cell of `table`."""
    text, value = value if isinstance(value, tuple) else (None, value)
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return text or "", NOTHING
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value), None
    if isinstance(value, Integral):
        return text or f"{int(value):,}", int(value)
    return text or f"{float(value):.4f}", float(value)


def thumbnail(file, height=160):
    """A "data:image/jpeg;base64,..." address of an image file, upright RGB, at most `height` pixels high.

    InputError names the file when it is no readable image.
    """
    image = open_rgb(file)
    if image.height > height:
        image = image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
