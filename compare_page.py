"""The page of a comparison: its numbers, and the images whose answers differ, grouped and filtered by the flow of classes."""

import os
from pathlib import Path

import numpy as np

import pages
from differences import changed_words, signed
from pages import escape

HEIGHT = 240  # pixels of a thumbnail as it is kept; shown at 150, and larger when it is opened

STYLE = """
h3 { font-size: 1rem; margin: 1.5rem 0 0.5rem; font-weight: 400; }
dl.sides { display: grid; grid-template-columns: auto 1fr; gap: 0 0.75rem; margin: 0.5rem 0 1rem; }
dl.sides dt { font-weight: 600; } dl.sides dd { margin: 0; }
.figures { display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; margin: 1rem 0; padding: 0; list-style: none; }
.figures b { display: block; font-size: 1.5rem; line-height: 1.2; }
.verdict { font-size: 1.125rem; font-weight: 600; margin-bottom: 0.25rem; }
.lines { margin: 0 0 0.75rem; padding: 0; list-style: none; }
.side-by-side { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: flex-start; }
.side-by-side > div { min-width: 0; max-width: 100%; }
summary { cursor: pointer; font-weight: 600; padding: 0.25rem 0; width: fit-content; }
.mask { color: var(--mask); } .gender { color: var(--gender); } .age_group { color: var(--age_group); }
.flows { display: flex; flex-wrap: wrap; gap: 0.375rem; max-height: 15rem; overflow-y: auto; padding: 4px; margin: 0 -4px; }
.flows button { padding: 0.125rem 0.625rem; border: 1px solid var(--line); border-radius: 4px; background: none;
  text-align: left; }
.flows button:hover, .card:hover { background: var(--panel); }
.flows button[aria-pressed="true"] { background: var(--panel); border-color: var(--accent);
  box-shadow: inset 0 0 0 1px var(--accent); }
.flows .count { margin: 0 0.25rem 0 0.375rem; color: var(--grey); }
.flows .count:first-child { margin-left: 0; }
.word { white-space: nowrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.25rem, 1fr)); gap: 0.5rem; }
.card { display: flex; flex-direction: column; min-width: 0; padding: 0.375rem; border: 1px solid var(--line);
  border-radius: 4px; background: none; text-align: left; font-size: 0.8125rem; line-height: 1.4; content-visibility: auto;
  contain-intrinsic-size: auto 12rem auto 16rem; }
.card img { height: 150px; max-width: 100%; object-fit: contain; margin: 0 auto 0.375rem; }
.name { color: var(--grey); font-size: 0.75rem; max-width: 100%; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.card .more { display: none; }
.chance { color: var(--grey); }
dialog { width: min(34rem, calc(100vw - 1.5rem)); max-height: calc(100vh - 1.5rem); padding: 1rem;
  border: 1px solid var(--line); border-radius: 6px; background: var(--ground); color: var(--ink); }
dialog::backdrop { background: rgb(0 0 0 / 60%); }
dialog #content { display: flex; flex-direction: column; }
dialog img { width: 100%; max-height: min(55vh, 30rem); object-fit: contain; margin: 0 auto 0.75rem; }
dialog .name { white-space: normal; margin-top: 0.25rem; }
.more { display: grid; grid-template-columns: 1fr auto auto; gap: 0 1rem; margin-top: 0.5rem; padding-top: 0.5rem;
  border-top: 1px solid var(--line); }
.more > :not(:nth-child(3n + 1)) { text-align: right; }
dialog nav { display: flex; gap: 0.5rem; margin-top: 1rem; }
dialog nav button { padding: 0.25rem 0.75rem; border: 1px solid var(--line); border-radius: 4px; background: var(--panel); }
dialog nav :last-child { margin-left: auto; }
[hidden] { display: none !important; }
"""

# Letters also as a Korean keyboard writes them.
SCRIPT = """
const cards = [...document.querySelectorAll(".card")], sections = [...document.querySelectorAll("section.flow")];
const buttons = [...document.querySelectorAll(".flows button")], shown = document.getElementById("shown");
const large = document.getElementById("large"), content = document.getElementById("content");
const steps = {j: 1, k: -1, "\\u3153": 1, "\\u314f": -1, ArrowRight: 1, ArrowLeft: -1};
let current = null;

const visible = () => cards.filter(card => !card.closest("section").hidden);

function reach(card) {  // Tab reaches one card, keys move from there
  cards.forEach(other => { other.tabIndex = other === card ? 0 : -1; });
}

function choose(flow) {
  if (!buttons[flow]) return;
  sections.forEach(section => { section.hidden = flow !== 0 && section.dataset.flow !== String(flow); });
  buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === flow)));
  current = null;
  reach(visible()[0]);
  shown.textContent = `${visible().length} of ${cards.length} images shown`;
  const top = document.getElementById("images");
  if (top.getBoundingClientRect().top < 0) top.scrollIntoView();
}

function open(card) {
  current = card;
  content.replaceChildren(...[...card.childNodes].map(node => node.cloneNode(true)));
  if (!large.open) large.showModal();
}

function go(card) {
  if (!card) return;
  current = card;
  reach(card);
  if (large.open) { open(card); return; }
  card.focus();
  card.scrollIntoView({block: "nearest"});
}

function shut() {  // back to the card that was looked at last, not to the one that was opened first
  const card = current;
  large.close();
  go(card);
}

function move(step) {
  const list = visible(), at = list.indexOf(current);
  go(at < 0 ? list[0] : list[Math.min(Math.max(at + step, 0), list.length - 1)]);
}

function moveRow(direction) {  // to the nearest card of the next row
  const from = current.getBoundingClientRect(), places = visible().map(card => [card, card.getBoundingClientRect()]);
  const ahead = places.filter(([, place]) => direction * (place.top - from.top) > 1);
  const far = ([, place]) => 1e5 * Math.abs(place.top - from.top) + Math.abs(place.left - from.left);
  if (ahead.length) go(ahead.reduce((best, each) => far(each) < far(best) ? each : best)[0]);
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(".scroll")) return;
  const on = document.activeElement.closest(".card"), key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const row = {ArrowDown: 1, ArrowUp: -1}[key];
  if (key in steps) move(steps[key]);
  else if (row && large.open) move(row);
  else if (row && on) moveRow(row);
  else if (/^[0-9]$/.test(key) && !large.open) choose(Number(key));
  else if (key === "Enter" && on) open(on);
  else if (key === "Escape" && large.open) shut();
  else return;
  event.preventDefault();
});
cards.forEach(card => {
  card.addEventListener("click", () => open(card));
  card.addEventListener("focus", () => { current = card; reach(card); });
});
buttons.forEach((button, index) => button.addEventListener("click", () => choose(index)));
large.addEventListener("cancel", event => { event.preventDefault(); shut(); });
large.addEventListener("click", event => { if (event.target === large) shut(); });
document.getElementById("previous").addEventListener("click", () => move(-1));
document.getElementById("next").addEventListener("click", () => move(1));
document.getElementById("close").addEventListener("click", shut);
choose(0);
"""


def choose(comparison, limit):
    """At most `limit` of the rows that differ, int64, by flow: each flow gives in turn its most certain row that is left."""
    rows = comparison.rows
    flow_of = {(a, b): index for index, (a, b, _count) in enumerate(comparison.flows)}
    flow = np.array([flow_of[pair] for pair in zip(comparison.a[rows], comparison.b[rows])], dtype=np.int64)
    turn = np.zeros(len(rows), dtype=np.int64)
    for index in range(len(flow_of)):
        turn[flow == index] = np.arange((flow == index).sum())
    kept = np.sort(np.lexsort((flow, turn))[:limit])
    return rows[kept[np.argsort(flow[kept], kind="stable")]]


def thumbnails(data_dir, names):
    """({image name: address of its thumbnail}, why all or some lack one or "") from eval/images of a data folder."""
    if data_dir is None:
        return {}, "no data folder here; --data-dir DIR names it"
    root = Path(data_dir) / "eval" / "images"
    on_disk = {entry.name for entry in os.scandir(root) if entry.is_file()} if root.is_dir() else set()
    found = {name: pages.thumbnail(root / name, HEIGHT) for name in names if name in on_disk}
    lacking = [name for name in names if name not in found]
    return found, f"{len(lacking):,} of {len(names):,} images are not in {root}, such as {lacking[0]}" if lacking else ""


def document(titles, comparison, rows, pictures, why, verdict, scores):
    """The HTML of the page. titles: what A and B are; rows: those shown, see `choose`; pictures and why: see `thumbnails`.

    verdict and scores are lines of text, as the console shows them.
    """
    title = " against ".join(Path(name).name for name in titles)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<dl class="sides"><dt>A</dt><dd>{escape(titles[0])}</dd><dt>B</dt><dd>{escape(titles[1])}</dd></dl>',
        _figures(comparison),
        "<h2>Out of fold</h2>" + _lines(verdict),
        "<h2>On known answers</h2>" + _lines(scores) if scores else "",
        f"<details><summary>Classes: counts and expected effect on macro F1</summary>{_classes(comparison)}</details>",
        '<h2 id="images">Images that differ</h2>',
        _help(comparison, rows, pictures, why),
        _flow_buttons(comparison),
        '<p id="shown" class="grey" role="status"></p>',
        *_sections(comparison, rows, pictures),
        '<dialog id="large" aria-label="large view"><div id="content"></div><nav><button id="previous">Previous</button>'
        '<button id="next">Next</button><button id="close" autofocus>Close</button></nav></dialog>',
    ]
    return pages.page(title, "\n".join(body), SCRIPT, STYLE)


def _lines(lines):
    """Lines of text as a list, the paired verdict among them set apart."""
    marks = [' class="verdict"' if line.startswith("A - B") else "" for line in lines]
    return '<ul class="lines">' + "".join(f"<li{mark}>{escape(line)}</li>" for mark, line in zip(marks, lines)) + "</ul>"


def _figures(comparison):
    """The numbers of rows that differ, in all and by part."""
    total, differ = len(comparison.images), len(comparison.rows)
    items = [f"<li><b>{differ:,}</b> of {total:,} rows differ ({differ / total:.1%})</li>"]
    if len(comparison.part_changes) > 1:
        items += [f'<li class="{part}"><b>{count:,}</b> in {part}</li>' for part, count in comparison.part_changes.items()]
    return f'<ul class="figures">{"".join(items)}</ul>'


def _classes(comparison):
    """Class counts beside the prior, and the expected effect of each class: two tables that sort."""
    counts = [
        (part, word, a, b, (f"{b - a:+,}", b - a), None if prior is None else (f"{prior:,.0f}", prior))
        for part, word, a, b, prior in comparison.part_counts()
    ]
    tables = [pages.table(["part", "class", "A", "B", "B − A", "prior"], counts)]
    if comparison.expected_f1 is not None:
        effects = [
            (name, times_a, times_b, a, b, (f"{signed((b - a) / len(comparison.names))}", b - a))
            for name, times_a, times_b, a, b in zip(comparison.names, *comparison.class_counts, *comparison.expected_f1)
        ]
        a, b = (f1.mean() for f1 in comparison.expected_f1)
        total = f"<p>Expected macro F1: A {a:.4f}, B {b:.4f}, {signed(b - a)} from A to B.</p>"
        tables.append(total + pages.table(["class", "A", "B", "expected F1 of A", "of B", "effect on macro F1"], effects))
    return '<div class="side-by-side">' + "".join(f"<div>{table}</div>" for table in tables) + "</div>"


def _help(comparison, rows, pictures, why):
    """What is shown, what is not, and the keys."""
    notes = []
    if len(rows) < len(comparison.rows):
        notes.append(f"{len(rows):,} of {len(comparison.rows):,} images are here, the most certain of each flow (--limit N).")
    if why:
        notes.append(f"{'Some thumbnails are missing' if pictures else 'No thumbnails'}: {why}.")
    keys = {"j k ← → ↑ ↓": "move", "1 … 9": "choose a flow", "0": "all", "Enter": "large view", "Esc": "close it"}
    words = ", ".join(f"{' '.join(f'<kbd>{key}</kbd>' for key in each.split())} {what}" for each, what in keys.items())
    return "".join(f"<p>{escape(note)}</p>" for note in notes) + f'<p class="grey">Keys: {words}.</p>'


def _flow_words(comparison, a, b):
    """'worn, male, 30-59 → >=60' as HTML, what changed in the colour of its part."""
    pairs = changed_words(a, b, comparison.scored_as)
    return ", ".join(_word(part, one if one == other else f"{one} → {other}", one != other) for part, one, other in pairs)


def _word(part, word, changed):
    """A word of an answer that no line breaks, in the colour of its part and bold where it changed."""
    return f'<b class="word {part}">{escape(word)}</b>' if changed else f'<span class="word">{escape(word)}</span>'


def _flow_buttons(comparison):
    """A button a flow, after one for all."""
    buttons = [f'<button aria-pressed="true"><kbd>0</kbd><span class="count">{len(comparison.rows):,}</span> all</button>']
    for number, (a, b, count) in enumerate(comparison.flows, start=1):
        key = f"<kbd>{number}</kbd>" if number < 10 else ""
        label = f'<span class="count">{count:,}</span> {_flow_words(comparison, a, b)}'
        buttons.append(f'<button aria-pressed="false">{key}{label}</button>')
    return f'<div class="flows" role="group" aria-label="flows from class to class">{"".join(buttons)}</div>'


def _sections(comparison, rows, pictures):
    """A section a flow, with a card for each of its rows that are shown."""
    pairs = np.stack([comparison.a[rows], comparison.b[rows]], 1)
    for number, (a, b, count) in enumerate(comparison.flows, start=1):
        mine = rows[(pairs == (a, b)).all(1)]
        images = f"{count:,} image{'s' if count > 1 else ''}" + (f", {len(mine):,} shown" if len(mine) < count else "")
        cards = "\n".join(_card(comparison, row, pictures.get(comparison.images[row])) for row in mine)
        heading = f'<h3>{_flow_words(comparison, a, b)} <span class="grey">{images}</span></h3>'
        yield f'<section class="flow" data-flow="{number}">{heading}<div class="cards">\n{cards}\n</div></section>'


def _card(comparison, row, picture):
    """A button with the image, both answers with their probabilities, and what changed; more of it in the large view."""
    a, b = comparison.a[row], comparison.b[row]
    pairs = changed_words(a, b, comparison.scored_as)
    picture = f'<img src="{picture}" alt="" loading="lazy" decoding="async">' if picture else ""
    answers = []
    for side, place, own in zip("AB", (1, 2), comparison.own_probs):
        words = ", ".join(_word(pair[0], pair[place], pair[1] != pair[2]) for pair in pairs)
        chance = "" if own is None else f' <span class="chance">{own[row]:.2f}</span>'
        answers.append(f"<span><b>{side}</b> {words}{chance}</span>")
    changed = ", ".join(_word(part, part, True) for part, one, other in pairs if one != other)
    name = f'<span class="name">{escape(comparison.images[row])}</span>'
    inside = f"{picture}{''.join(answers)}<span>changed: {changed}</span>{name}{_more(comparison, row)}"
    return f'<button class="card">{inside}</button>'


def _more(comparison, row):
    """What A and B, where their probabilities are known, give the two answers: for the large view."""
    known = [(side, probs) for side, probs in (("A", comparison.probs_a), ("B", comparison.probs_b)) if probs is not None]
    if not known:
        return ""
    cells = ["probability", *(f"by {side}" for side, _probs in known), *[""] * (2 - len(known))]
    for answer in (comparison.a[row], comparison.b[row]):
        chances = [f"{probs[row, answer]:.3f}" for _side, probs in known]
        cells += [comparison.names[answer], *chances, *[""] * (2 - len(known))]
    return '<span class="more">' + "".join(f"<span>{escape(cell)}</span>" for cell in cells) + "</span>"
