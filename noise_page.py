"""How label noise is shown: suggestions.csv and images.csv, a gallery to judge them by eye, and lines on the console."""

import csv
import io
from pathlib import Path, PurePosixPath

import numpy as np

import dataset
import files
import noise
from dataset import CLASS_NAMES
from images import thumbnail

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
            found[image] = thumbnail(file, LARGE if dataset.image_kind(image) == KINDS[0] else SMALL)
        else:
            missing += 1
    return found, missing


def write_page(out, evidence, findings, data_dir, runs, limit, fixed):
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
    files.make_dir(out, "--out")
    files.write_csv(out / "suggestions.csv", persons[FIX_COLUMNS], "%.4f")
    files.write_csv(out / "images.csv", findings.images, "%.4f")
    files.write_text(out / "index.html", html)
    return persons, missing


def document(findings, persons, images, strips, pictures, runs, note, fixed):
    """The HTML of the gallery. persons, images: rows of findings that are shown; strips: {path: its images}; runs: in words."""
    sections = [
        _section(column, persons[persons["column"] == column], strips, fixed)
        for column in findings.expected
        if (persons["column"] == column).any()
    ]
    if len(images):
        cards, guessed = images.to_dict("records"), "mask" in findings.guessed  # folded away where the models guess masks
        why = "by models that can't judge masks"
        shown, folded = ([], cards) if guessed else (cards, [])
        sections.append({"kind": "images", "cards": shown, "folded": folded, "why": why, "count": len(shown)})
    return files.page(
        "noise.html",
        title="Label noise",
        runs=runs,
        summary=_summary(findings),
        guessed=_guessed(findings),
        note=note,
        sections=[one | {"title": TITLES[one["kind"]]} for one in sections],
        likely=f"{LIKELY:.0%}",
        pictures=pictures,
        stem=lambda image: PurePosixPath(image).stem,
    )


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


def _section(column, persons, strips, fixed):
    """The suggestions for a column as cards, those below LIKELY folded away."""
    cards = []
    for row in persons.itertuples(index=False):
        fix, confidence = (row.path, row.column, row.value), f"{row.confidence:.4f}"
        cards.append(row._asdict() | {"fix": csv_line(*fix), "line": csv_line(*fix, confidence), "images": strips[row.path],
                                      "fixed": fixed.get((row.path, row.column))})  # fmt: skip
    likely = int((persons["confidence"] >= LIKELY).sum())
    shown, folded = cards[:likely], cards[likely:]
    return {"kind": column, "cards": shown, "folded": folded, "why": f"below {LIKELY:.0%}", "count": likely}


def closing_lines(findings, persons, runs, out, missing, fixed):
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
