"""The page of a comparison: its numbers, and the images whose answers differ, grouped and filtered by the flow of classes."""

import os
from pathlib import Path

import numpy as np

import files
import images
from differences import changed_words, signed

HEIGHT = 240  # pixels of a thumbnail as it is kept; shown at 150, and larger when it is opened


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
    found = {name: images.thumbnail(root / name, HEIGHT) for name in names if name in on_disk}
    lacking = [name for name in names if name not in found]
    return found, f"{len(lacking):,} of {len(names):,} images are not in {root}, such as {lacking[0]}" if lacking else ""


def document(titles, comparison, rows, pictures, why, verdict, scores):
    """The HTML of the page. titles: A and B in words; rows: those shown, see `choose`; pictures and why: see `thumbnails`.

    verdict and scores are lines of text, as the console shows them.
    """
    notes = []
    if len(rows) < len(comparison.rows):
        notes.append(f"{len(rows):,} of {len(comparison.rows):,} images are here, the most certain of each flow (--limit N).")
    if why:
        notes.append(f"{'Some thumbnails are missing' if pictures else 'No thumbnails'}: {why}.")
    return files.page(
        "compare.html",
        title=" against ".join(Path(name).name for name in titles),
        sides=titles,
        total=len(comparison.images),
        differ=len(comparison.rows),
        part_changes=comparison.part_changes,
        verdict=verdict,
        scores=scores,
        notes=notes,
        flows=_flows(comparison, rows, pictures),
        **_class_tables(comparison),
    )


def _class_tables(comparison):
    """Class counts beside the prior, and the expected effect of each class, where probabilities tell it."""
    rows = [
        (part, word, a, b, (f"{b - a:+,}", b - a), None if prior is None else (f"{prior:,.0f}", prior))
        for part, word, a, b, prior in comparison.part_counts()
    ]
    counts = files.page_table(["part", "class", "A", "B", "B − A", "prior"], rows)
    if comparison.expected_f1 is None:
        return {"counts": counts, "effects": None}
    rows = [
        (name, times_a, times_b, a, b, (f"{signed((b - a) / len(comparison.names))}", b - a))
        for name, times_a, times_b, a, b in zip(comparison.names, *comparison.class_counts, *comparison.expected_f1)
    ]
    a, b = (f1.mean() for f1 in comparison.expected_f1)
    effects = files.page_table(["class", "A", "B", "expected F1 of A", "of B", "effect on macro F1"], rows)
    expected = f"Expected macro F1: A {a:.4f}, B {b:.4f}, {signed(b - a)} from A to B."
    return {"counts": counts, "effects": effects, "expected": expected}


def _flows(comparison, rows, pictures):
    """The flows from class to class: words, count, and a card for each of their rows that are shown."""
    pairs, found = np.stack([comparison.a[rows], comparison.b[rows]], 1), []
    for a, b, count in comparison.flows:
        words = changed_words(a, b, comparison.scored_as)
        cards = [_card(comparison, row, words, pictures) for row in rows[(pairs == (a, b)).all(1)]]
        found.append({"words": words, "count": count, "cards": cards})
    return found


def _card(comparison, row, words, pictures):
    """An image with both answers, their probabilities, and the parts that changed; `more` is for the large view."""
    answers = []
    for side, place, own in zip("AB", (1, 2), comparison.own_probs):
        said = [(pair[0], pair[place], pair[1] != pair[2]) for pair in words]
        answers.append((side, said, None if own is None else own[row]))
    name = comparison.images[row]
    return {
        "name": name,
        "picture": pictures.get(name),
        "answers": answers,
        "changed": [part for part, one, other in words if one != other],
        "more": _more(comparison, row),
    }


def _more(comparison, row):
    """Cells of the probabilities that A and B, where they are known, give both answers: rows of three."""
    known = [(side, probs) for side, probs in (("A", comparison.probs_a), ("B", comparison.probs_b)) if probs is not None]
    if not known:
        return []
    cells = ["probability", *(f"by {side}" for side, _probs in known), *[""] * (2 - len(known))]
    for answer in (comparison.a[row], comparison.b[row]):
        chances = [f"{probs[row, answer]:.3f}" for _side, probs in known]
        cells += [comparison.names[answer], *chances, *[""] * (2 - len(known))]
    return cells
