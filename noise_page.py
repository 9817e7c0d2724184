"""How label noise is shown: suggestions.csv and images.csv, a gallery to judge them by eye, and lines on the console."""

import csv
import io
from pathlib import Path, PurePosixPath

import numpy as np

import dataset
import disk
import experiment
import noise
import pages
from labels import CLASS_NAMES
from pages import escape

FIX_COLUMNS = ["path", "column", "value", "confidence"]
KINDS = ("normal", "incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5")  # in the order that tells most
LARGE, SMALL = 224, 112  # pixels of the first thumbnail of a card, and of the others
LIKELY = 0.1  # suggestions below this probability are folded away
TITLES = {
    "gender": "gender",
    "age": "age",
    "mask": "normal and incorrect_mask swapped",
    "images": "single images, mask",
}

STYLE = """
.gender { --part: var(--gender); } .age { --part: var(--age_group); } .mask, .images { --part: var(--mask); }
.word { color: var(--part); }
.bar { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: 0.375rem 0.5rem; align-items: center;
  padding: 0.5rem 0; background: var(--ground); border-bottom: 1px solid var(--line); }
.bar button, .bar a, .card button { padding: 0.125rem 0.625rem; border: 1px solid var(--line); border-radius: 4px;
  background: none; color: inherit; text-decoration: none; }
.bar button:hover, .bar a:hover, .card button:hover { background: var(--panel); }
.bar [aria-pressed="true"] { background: var(--panel); border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
.bar .end { margin-left: auto; }
textarea { width: 100%; height: 9rem; background: var(--panel); color: var(--ink); border: 1px solid var(--line);
  border-radius: 4px; font: 0.8125rem/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
summary { cursor: pointer; padding: 0.25rem 0; width: fit-content; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); gap: 0.75rem; }
.images .cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, 12rem), 1fr)); }
.card { display: flex; flex-direction: column; gap: 0.375rem; min-width: 0; padding: 0.625rem;
  border: 1px solid var(--line); border-left: 4px solid var(--part); border-radius: 4px; content-visibility: auto;
  contain-intrinsic-size: auto 28rem auto 22rem; }
.card[data-accepted] { background: var(--panel); outline: 2px solid var(--accent); outline-offset: -1px; }
.says { display: flex; flex-wrap: wrap; gap: 0 0.75rem; align-items: baseline; }
.says .sure { margin-left: auto; font-weight: 600; }
.strip { display: grid; grid-template-columns: repeat(4, minmax(0, max-content)); gap: 0.25rem; }
.strip figure { margin: 0; min-width: 0; } .strip img { display: block; height: 104px; max-width: 100%; object-fit: contain; }
.strip figure:first-child { grid-row: span 2; } .strip figure:first-child img { height: 228px; }
figcaption { font-size: 0.6875rem; line-height: 1.4; color: var(--grey); }
.take { display: flex; flex-wrap: wrap; gap: 0.375rem 0.75rem; align-items: center; margin-top: auto; }
.take code { user-select: all; }
.take button[aria-pressed="true"] { border-color: var(--accent); color: var(--accent); font-weight: 600; }
[hidden] { display: none !important; }
"""

# Letters also as a Korean keyboard writes them. What was accepted outlives a reload where the browser lets it.
SCRIPT = """
const cards = [...document.querySelectorAll(".card")], sections = [...document.querySelectorAll("section[data-part]")];
const filters = [...document.querySelectorAll("[data-filter]")], list = document.getElementById("accepted");
const save = document.getElementById("save"), count = document.getElementById("count");
const steps = {j: 1, k: -1, "\\u3153": 1, "\\u314f": -1, ArrowRight: 1, ArrowLeft: -1};
const place = "label noise " + location.pathname;
let current = null, address = null;

const visible = () => cards.filter(card => !card.closest("section").hidden && !card.closest("details:not([open])"));

function update() {
  const taken = cards.filter(card => "accepted" in card.dataset).map(card => card.dataset.fix);
  list.value = ["path,column,value,confidence", ...taken.map(line => line + ",1")].join("\\n") + "\\n";
  count.textContent = `${taken.length} accepted`;
  if (address) URL.revokeObjectURL(address);
  address = save.href = URL.createObjectURL(new Blob([list.value], {type: "text/csv"}));
  try { localStorage.setItem(place, JSON.stringify(taken)); } catch {}
}

function mark(card, on) {
  if (on) card.dataset.accepted = ""; else delete card.dataset.accepted;
  const button = card.querySelector(".accept");
  button.setAttribute("aria-pressed", String(on));
  button.textContent = on ? "Accepted" : "Accept";
}

function toggle(card) {
  if (!card || !card.dataset.fix) return;
  mark(card, !("accepted" in card.dataset));
  update();
}

function choose(index) {
  const wanted = filters[index];
  if (!wanted) return;
  filters.forEach(each => each.setAttribute("aria-pressed", String(each === wanted)));
  sections.forEach(each => { each.hidden = !["", each.dataset.part].includes(wanted.dataset.filter); });
  current = null;
}

function move(step) {
  const shown = visible(), at = shown.indexOf(current);
  const card = at < 0 ? shown[0] : shown[Math.min(Math.max(at + step, 0), shown.length - 1)];
  if (!card) return;
  current = card;
  card.focus({preventScroll: true});
  card.scrollIntoView({block: "center"});
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("textarea, .scroll")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in steps) move(steps[key]);
  else if (key === "a" || key === "\\u3141") toggle(current);
  else if (/^[0-9]$/.test(key)) choose(Number(key));
  else return;
  event.preventDefault();
});
cards.forEach(card => {
  card.addEventListener("focusin", () => { current = card; });
  card.querySelector(".accept")?.addEventListener("click", () => toggle(card));
});
filters.forEach((each, index) => each.addEventListener("click", () => choose(index)));
try {
  const kept = new Set(JSON.parse(localStorage.getItem(place) || "[]"));
  cards.filter(card => kept.has(card.dataset.fix)).forEach(card => mark(card, true));
} catch {}
update();
"""


def csv_line(*values):
    """The values as a line of a csv, quoted where they must be."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def card_images(evidence, path):
    """The image names of a person, the normal one first."""
    images = evidence.rows["image"][evidence.rows["path"] == path]
    order = {kind: index for index, kind in enumerate(KINDS)}
    return sorted(images, key=lambda image: (order.get(dataset.image_kind(image), len(order)), image))


def swaps_apart(findings, persons):
    """The images whose mask contradicts the label and that no swap among `persons` explains."""
    swapped = set(persons["path"][persons["column"] == "mask"])
    images = findings.images[findings.images["part"] == "mask"]
    places = [PurePosixPath(image) for image in images["image"]]
    explained = [dataset.image_kind(place) in ("normal", "incorrect_mask") and str(place.parent) in swapped for place in places]
    return images[~np.array(explained, dtype=bool)]


def thumbnails(data_dir, images):
    """({image: address of its thumbnail}, how many files are missing) of train images; the first of a person is large."""
    found, missing = {}, 0
    for image, file in zip(images, map(Path, dataset.image_files(data_dir, images))):
        if file.is_file():
            found[image] = pages.thumbnail(file, LARGE if dataset.image_kind(image) == KINDS[0] else SMALL)
        else:
            missing += 1
    return found, missing


def write(out, evidence, findings, data_dir, runs, limit, fixed):
    """Write suggestions.csv, images.csv and index.html into the folder `out`; returns (persons shown, images missing).

    At most `limit` persons a column and as many images are shown; images.csv holds all. `fixed`: see noise.applied_fixes.
    """
    out, persons = Path(out), noise.top(findings.persons, "column", limit)
    images = swaps_apart(findings, persons).head(limit)
    strips = {path: card_images(evidence, path) for path in persons["path"].unique()}
    wanted = dict.fromkeys([*(image for strip in strips.values() for image in strip), *images["image"]])
    pictures, missing = thumbnails(data_dir, list(wanted))
    note = f"{missing:,} of {len(wanted):,} images are not in {data_dir}/train/images: no thumbnails." if missing else ""
    html = document(findings, persons, images, strips, pictures, runs, note, fixed)
    disk.make_dir(out, "--out")
    experiment.write_csv(out / "suggestions.csv", persons[FIX_COLUMNS], "%.4f")
    experiment.write_csv(out / "images.csv", findings.images, "%.4f")
    experiment.write_text(out / "index.html", html)
    return persons, missing


def document(findings, persons, images, strips, pictures, runs, note, fixed):
    """The HTML of the gallery. persons, images: rows of findings that are shown; strips: {path: its images}; runs: in words."""
    columns = [column for column in findings.expected if (persons["column"] == column).any()]
    parts = [*columns, *(["images"] if len(images) else [])]
    likely = persons["column"][persons["confidence"] >= LIKELY]
    counts = {column: (likely == column).sum() for column in columns}
    counts["images"] = 0 if "mask" in findings.guessed else len(images)
    keys = {"j k ← →": "move", "a": "accept", "0": "all", f"1 … {len(parts)}": "one part"}
    words = ", ".join(f"{' '.join(f'<kbd>{key}</kbd>' for key in each.split())} {what}" for each, what in keys.items())
    filters = ['<button data-filter="" aria-pressed="true"><kbd>0</kbd> all</button>'] + [
        f'<button data-filter="{part}" aria-pressed="false"><kbd>{number}</kbd> '
        f'<span class="word {part}">{TITLES[part]}</span> {counts[part]:,}</button>'
        for number, part in enumerate(parts, start=1)
    ]
    body = [
        "<h1>Labels that are probably wrong</h1>",
        f'<p class="grey">By the out-of-fold predictions of {escape(", ".join(runs))}.</p>',
        f"<p>{escape(_summary(findings))} The number on a card is the probability that the recorded label is wrong. Look "
        "before you accept: faces that mislead people mislead models.</p>",
        f"<p><b>{escape(guess)}</b></p>" if (guess := _guessed(findings)) else "",
        f"<p>{escape(note)}</p>" if note else "",
        f'<p class="grey">Keys: {words}.</p>',
        f'<div class="bar">{"".join(filters)}<span class="end" id="count" role="status"></span>'
        '<a id="save" download="accepted.csv">Save accepted.csv</a></div>',
        "<details><summary>What is accepted, as a csv to copy</summary>"
        '<textarea id="accepted" readonly aria-label="accepted fixes as csv"></textarea></details>',
        *(_section(column, persons[persons["column"] == column], strips, pictures, fixed) for column in columns),
        _image_section(images, pictures, "mask" in findings.guessed) if len(images) else "",
        "" if parts else "<p>Nothing speaks against a label.</p>",
    ]
    return pages.page("Label noise", "\n".join(body), SCRIPT, STYLE)


def _summary(findings):
    """'Of 700 people about 8 genders, 14 ages and 3 mask swaps are wrong by the sum of all confidences.'"""
    what = {"gender": "genders", "age": "ages", "mask": "swaps of normal and incorrect_mask"}
    numbers = [f"{count:.1f} {what[column]}" for column, count in findings.expected.items()]
    listed = " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))
    return f"{findings.people:,} people: about {listed} wrong, by the sum of all confidences."


def _guessed(findings):
    """A sentence about the columns that the models can't judge; '' where there are none."""
    each = [
        f"{column} (macro F1 {f1:.2f}, guessing has {1 / len(CLASS_NAMES[noise.COLUMNS[column]]):.2f})"
        for column, f1 in findings.guessed.items()
    ]
    return f"These models can't judge {', '.join(each)}: what they say against such labels is chance." if each else ""


def _section(column, persons, strips, pictures, fixed):
    cards = [_card(row, strips[row.path], pictures, fixed) for row in persons.itertuples(index=False)]
    likely = int((persons["confidence"] >= LIKELY).sum())
    heading = f'<h2>{TITLES[column]} <span class="grey">{likely:,} of {LIKELY:.0%} or more</span></h2>'
    shown = _cards(cards[:likely]) + _folded(cards[likely:], f"below {LIKELY:.0%}")
    return f'<section data-part="{column}">{heading}{shown}</section>'


def _cards(cards):
    return '<div class="cards">\n{}\n</div>'.format("\n".join(cards)) if cards else ""


def _folded(cards, why):
    return f"<details><summary>{len(cards):,} {why}</summary>{_cards(cards)}</details>" if cards else ""


def _card(row, images, pictures, fixed):
    """One suggestion: its words, the images of the person, the line of the csv, and a button to accept it."""
    file = fixed.get((row.path, row.column))
    done = f'<span class="grey">fixed in {escape(file)}</span>' if file else ""
    line = csv_line(row.path, row.column, row.value, f"{row.confidence:.4f}")
    return (
        f'<article class="card {row.column}" tabindex="0" data-fix="{escape(csv_line(row.path, row.column, row.value))}">'
        f'<div class="says"><b class="word">{escape(row.recorded)} → {escape(row.likely)}</b>{done}'
        f'<span class="sure">{row.confidence:.1%}</span></div>'
        f'<div class="strip">{"".join(_figure(image, pictures) for image in images)}</div>'
        '<div class="take"><button class="accept" aria-pressed="false">Accept</button>'
        f"<code>{escape(line)}</code></div></article>"
    )


def _image_section(images, pictures, guessed):
    """Single images, which no label fix can express: to look at only; folded away where the models guess masks."""
    cards = []
    for row in images.itertuples(index=False):
        words = (
            f'<b class="word">{escape(row.label)} → {escape(row.suggested)}</b><span class="sure">{row.probability:.1%}</span>'
        )
        strip = f'<div class="strip">{_figure(row.image, pictures)}</div>'
        cards.append(f'<article class="card images" tabindex="0"><div class="says">{words}</div>{strip}</article>')
    note = (
        "No label fix expresses these: a swap is the only one of a mask. The number is the probability of what stands after →."
    )
    count = f'<span class="grey">{0 if guessed else len(images):,} shown</span>'
    heading = f'<h2>{TITLES["images"]} {count}</h2><p class="grey">{note}</p>'
    shown = _folded(cards, "by models that can't judge masks") if guessed else _cards(cards)
    return f'<section data-part="images" class="images">{heading}{shown}</section>'


def _figure(image, pictures):
    picture = f'<img src="{pictures[image]}" alt="" loading="lazy" decoding="async">' if image in pictures else ""
    return f"<figure>{picture}<figcaption>{escape(PurePosixPath(image).stem)}</figcaption></figure>"


def closing(findings, persons, runs, out, missing, fixed):
    """Print what was found by the runs (in words), where it is, and what comes next."""
    print(f"by the out-of-fold predictions of {', '.join(runs)}")
    print(_summary(findings))
    if guess := _guessed(findings):
        print(guess)
    for column in findings.expected:
        found, mine = (table[table["column"] == column] for table in (findings.persons, persons))
        print(f"\n{TITLES[column]}: {len(found):,} of {findings.people:,} people contradicted, {len(mine):,} in the files")
        likely = mine[mine["confidence"] >= LIKELY]
        for row in likely.head(10).itertuples(index=False):
            mark = "  (fixed)" if (row.path, row.column) in fixed else ""
            print(f"{row.confidence:>8.1%}  {row.recorded:>12} → {row.likely:<12} {row.path}{mark}")
        if len(likely) < len(mine):
            print(f"          {len(mine) - len(likely):,} of them below {LIKELY:.0%}")
    counts = ", ".join(f"{number:,} in {part}" for part, number in findings.images["part"].value_counts().items())
    print(f"\nsingle images: {len(findings.images):,} contradicted{f' ({counts})' if counts else ''}, in images.csv")
    out = Path(out)
    print(f"{out / 'index.html'}: to look at; suggestions.csv and images.csv lie beside it")
    if missing:
        print(f"{missing:,} image files are missing; the page has no thumbnails of them")
    print("next: open the page, accept what you agree with, save it as accepted.csv, then\n"
          "  python train.py --label-fixes accepted.csv")  # fmt: skip
