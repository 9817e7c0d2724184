"""How the leaderboard looks: its columns and sections, as text for a terminal, as Markdown, and as a page with a scatter.

F1 scores of different things don't compare, so records stand in sections by what they are scored on.
"""

import itertools
import os
import re
import textwrap
import unicodedata
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import files
from dataset import CLASS_NAMES
from errors import InputError, did_you_mean
from files import page_table

SECTIONS = ("label", "age_group", "gender", "mask")
PICTURES = ("curves", "confusion", "mistakes")
NARROWEST_NAME = 14


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, what a record is sorted by (None: last), what is shown, and its first order."""

    title: str
    key: Callable
    text: Callable
    best_first: bool = False


def four(value):
    """A score with 4 decimals, '-' where there is none."""
    return "-" if value is None else f"{value:.4f}"


def bounds_text(record):
    """'0.484 .. 0.554', the 95 % interval of a record's F1."""
    return "-" if record.oof_f1_ci95 is None else "{:.3f} .. {:.3f}".format(*record.oof_f1_ci95)


def time_text(seconds):
    """A duration in s, min or h."""
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def folds_text(record):
    """'2/5' for the folds of a run that are complete, 'nofold', or how many members an ensemble is made of."""
    if not record.is_run:
        return f"of {len(record.used_members)}"
    return f"{len(record.folds)}/{record.kfold}" if record.kfold else ("nofold" if record.folds else "0/1")


def shown(text):
    """A folder's name in one line, without what a terminal or a page can't show."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))


COLUMNS = {
    "name": Column("name", lambda record: record.name, lambda record: shown(record.name)),
    "target": Column("target", lambda record: kind_text(record), lambda record: kind_text(record)),
    "folds": Column("folds", lambda record: len(record.folds) or len(record.used_members), folds_text, True),
    "oof_f1": Column("OOF F1", lambda record: record.oof_f1, lambda record: four(record.oof_f1), True),
    "interval": Column("95 % interval", lambda record: (record.oof_f1_ci95 or [None])[0], bounds_text, True),
    "accuracy": Column("acc.", lambda record: record.oof_acc, lambda record: four(record.oof_acc), True),
    "time": Column("time", lambda record: record.seconds, lambda record: time_text(record.seconds)),
    "lb": Column("LB", lambda record: record.lb, lambda record: four(record.lb), True),
}
OTHER_NAMES = {"f1": "oof_f1", "acc": "accuracy", "oof_acc": "accuracy", "oof_f1_ci95": "interval", "seconds": "time"}


def kind_text(record):
    """A run's target; 'ensemble'."""
    return record.target if record.is_run else "ensemble"


def column_of(word):
    """The key in COLUMNS that a user's word means, in any case; InputError with suggestions."""
    name = re.sub(r"[\s-]+", "_", word.strip().lower())
    name = OTHER_NAMES.get(name, name)
    if name not in COLUMNS:
        raise InputError(f"--sort {word}: no such column.{did_you_mean(name, COLUMNS)} There are {', '.join(COLUMNS)}")
    return name


def sections(found, sort="oof_f1"):
    """{what is scored: its records in order} with label first; ties and what has no value in order of F1, then name."""
    column = COLUMNS[sort]

    def place(record):
        key, f1 = column.key(record), -1.0 if record.oof_f1 is None else record.oof_f1
        return key is None, *(() if key is None else (-key if column.best_first else key,)), -f1, record.name

    groups = {part: [record for record in found if record.scored_as == part] for part in SECTIONS}
    return {part: sorted(group, key=place) for part, group in groups.items() if group}


# ---- text ----------------------------------------------------------------------------------------------------------


def display_width(text):
    """Columns that a text takes in a terminal; Hangul and other wide letters take two."""
    return len(text) if text.isascii() else sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _cut(text, width, head):
    """`text` in at most `width` columns: `head` columns of its beginning, '...', and the end."""
    if display_width(text) <= width:
        return text
    left, right = text[:head], text[len(text) - (width - head - 3) :]
    while display_width(left) > head:
        left = left[:-1]
    while display_width(right) > width - head - 3:
        right = right[1:]
    return f"{left}...{right}"


def shorten(names, width):
    """Names cut in the middle to `width` columns (12 or more), at the place nearest to it that keeps all of them distinct."""
    middle = (width - 3) // 2
    for head in sorted(range(4, width - 6), key=lambda head: abs(head - middle)):
        cut = [_cut(name, width, head) for name in names]
        if len(set(cut)) == len(set(names)):
            return cut
    return [_cut(name, width, middle) for name in names]


def aligned(head, rows, left=(0,)):
    """Lines of a table in columns; those of the numbers `left` are aligned to the left, others to the right."""
    widths = [max(map(display_width, column)) for column in zip(head, *rows)]
    lines = []
    for row in (head, *rows):
        cells = []
        for index, (text, width) in enumerate(zip(row, widths)):
            gap = " " * (width - display_width(text))
            cells.append(text + gap if index in left else gap + text)
        lines.append("  ".join(cells).rstrip())
    return lines


def wrapped(rows, width):
    """Rows of a name and two values for a table of `width` columns; long values go on in rows of their own without a name."""
    room = max(20, (width - 4 - max((display_width(row[0]) for row in rows), default=0)) // 2)
    lines = []
    for name, *values in rows:
        parts = [textwrap.wrap(value, room) or [""] for value in values]
        lines += [[label, *cells] for label, *cells in itertools.zip_longest([name], *parts, fillvalue="")]
    return lines


def count_text(records):
    """'3 runs, 1 ensemble'."""
    runs = sum(record.is_run for record in records)
    counts = ((runs, "run"), (len(records) - runs, "ensemble"))
    return ", ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in counts if count)


def section_title(part, records):
    """'label: macro F1 of 18 classes, 3 runs, 1 ensemble'; names different sets of people, whose scores don't compare."""
    people = {tuple(record.people) for record in records if record.people and record.oof_f1 is not None}
    apart = f" (of {len(people)} different sets of people: their scores do not compare)" if len(people) > 1 else ""
    return f"{part}: macro F1 of {len(CLASS_NAMES[part])} classes, {count_text(records)}{apart}"


def text_table(found, sort, width):
    """The table for a terminal of `width` columns: long names are shortened in the middle."""
    groups = sections(found, sort)
    ordered = [record for group in groups.values() for record in group]
    rows = [[column.text(record) for column in COLUMNS.values()] for record in ordered]
    head = [column.title for column in COLUMNS.values()]
    rest = sum(2 + max(map(display_width, column)) for column in list(zip(head, *rows))[1:])
    names = shorten([row[0] for row in rows], max(width - rest, NARROWEST_NAME))
    lines = aligned(head, [[name, *row[1:]] for name, row in zip(names, rows)], left=(0, 1))
    text, start = [lines[0]], 1
    for part, group in groups.items():
        text += ["", section_title(part, group), *lines[start : start + len(group)]]
        start += len(group)
    return "\n".join(text)


def markdown(found, sort):
    """The table as Markdown, one a section."""
    lines = []
    for part, group in sections(found, sort).items():
        titles = [column.title for column in COLUMNS.values()]
        lines += [f"**{section_title(part, group)}**", "", f"| {' | '.join(titles)} |"]
        lines += [f"| {' | '.join(['---', '---', *['---:'] * (len(titles) - 2)])} |"]
        for record in group:
            cells = (re.sub(r"([\\`*<|\[\]])", r"\\\1", column.text(record)) for column in COLUMNS.values())
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


# ---- the page ------------------------------------------------------------------------------------------------------


def page(found, sort, file, effect_tables, agreement):
    """The page that is written to `file`, to which its links are relative.

    effect_tables: list of (title, head, rows, note); agreement: the line about OOF and LB.
    """
    points = [record for record in found if record.lb is not None and record.oof_f1 is not None]
    return files.page(
        "leaderboard.html",
        title="Leaderboard",
        counts=count_text(found),
        sections=[
            (section_title(part, group), _page_table(part, group, Path(file).parent))
            for part, group in sections(found, sort).items()
        ],
        effects=[(title, files.page_table(head, rows), note) for title, head, rows, note in effect_tables],
        agreement=agreement,
        plot=scatter(points) if points else None,
    )


def _page_table(part, group, place):
    """A section as a table; the cells of its last column hold links to the pictures that a run has."""
    first = dict.fromkeys(["name", "oof_f1", *COLUMNS])  # what a narrow window shows beside the name
    columns = [COLUMNS[key] for key in first if key != "lb" or part == "label"]
    rows = []
    for record in group:
        cells = ((column.text(record), column.key(record)) for column in columns)
        files = [Path(record.folder) / f"{picture}.png" for picture in PICTURES]
        links = [(_address(file, place), file.stem) for file in files if file.is_file()]
        rows.append([*(text if isinstance(key, str) else (text, key) for text, key in cells), links])
    return page_table([*(column.title for column in columns), "pictures"], rows)


def _address(file, place):
    return urllib.parse.quote(os.fsencode(os.path.relpath(file, place)))


def scatter(points):
    """Where records with both scores stand in the scatter of the template: ticks and points on equal axes, in its units."""
    values = [(record.oof_f1, record.lb) for record in points]
    low, high = min(map(min, values)), max(map(max, values))
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if high - low <= 6 * step)
    low, high = step * int(low / step), step * (int(high / step) + 1)
    size, left, top = 400, 66, 28

    def place(across, upwards):
        return round(left + (across - low) / (high - low) * size, 1), round(top + (high - upwards) / (high - low) * size, 1)

    ticks = [low + tick * step for tick in range(round((high - low) / step) + 1)]
    marks = []
    for record in points:
        whole, short = shown(record.name), shorten([shown(record.name)], 32)[0]
        scores = f"OOF {record.oof_f1:.4f}, LB {record.lb:.4f}"
        marks.append((f"{whole}: {scores}", f"{short}: {scores}", *place(record.oof_f1, record.lb)))
    ticks = [(f"{value:.3f}", *place(value, value)) for value in ticks]
    return {"size": size, "left": left, "top": top, "ticks": ticks, "points": marks}
