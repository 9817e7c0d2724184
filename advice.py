"""Which two submissions to hand in at the end: the best by score, and one as good that fails on other images."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import dataset
import experiment
import files
import metrics
import predictions
from dataset import LABELS
from errors import InputError

READ = 20  # results whose predictions are read, the highest scores first


@dataclass(frozen=True)
class Candidate:
    """A scored result folder over some images: macro F1, predicted classes of the train images and of the eval images.

    `persons`: it joins the images of a person, for which the contest's rules must give leave.
    """

    folder: Path
    f1: float
    pred: np.ndarray
    answers: np.ndarray
    persons: bool = False


@dataclass(frozen=True)
class Advice:
    """The two to hand in, `second` None where no other result is within noise of the first, and the reason for it.

    `gap` and `gap_ci95`: macro F1 of the first minus that of the second, with its paired interval over people; `phi`:
    correlation of being wrong on an image; `apart`: share of the eval images that the two answer differently. `allowed`: the
    Advice among the results that need nobody's leave, where one of the two does, if there is any.
    """

    first: Candidate
    second: Candidate | None = None
    gap: float = np.nan
    gap_ci95: tuple = (np.nan, np.nan)
    phi: float = np.nan
    apart: float = np.nan
    allowed: "Advice | None" = None


def joins_persons(folder):
    """Whether an ensemble was made with --persons, or has a member that was."""
    folders = [Path(folder)]
    for one in folders:  # which grows: ensembles may be members
        try:
            recipe = experiment.read_recipe(one)
        except InputError:  # a run has none
            continue
        if recipe.get("persons"):
            return True
        members = {Path(member["run"]) for member in recipe.get("members", ())}
        folders += sorted(members.difference(folders))
    return False


def scored_folders(output_dir):
    """[(oof_f1, half the width of its interval, folder)] of a directory's results from score.json, highest score first."""
    found = []
    for path in Path(output_dir).glob("*/score.json"):
        try:
            scores = files.read_json(path)
            low, high = scores["oof_f1_ci95"]
            found.append((float(scores["oof_f1"]), (high - low) / 2, path.parent))
        except (InputError, ArithmeticError, KeyError, TypeError, ValueError):
            continue  # no score, or none that a result of ours has
    return sorted(found, key=lambda row: (-row[0], str(row[2])))


def _read_candidate(folder, f1, images, names):
    """The Result of a folder, or None where it is not over these train images and these eval images."""
    try:
        oof = predictions.read_table(folder / "oof.csv", "label", ("image",)).set_index("image")
        answers = dict(zip(*dataset.read_submission(folder / "submission.csv")))
    except InputError:
        return None
    if len(oof) != len(images) or len(answers) != len(names) or {*oof.index} != {*images} or {*answers} != {*names}:
        return None
    pred = oof.loc[images, dataset.columns("label")].to_numpy().argmax(1)
    return Candidate(folder, f1, pred, np.array([answers[name] for name in names]), joins_persons(folder))


def advise(folder, oof, names):
    """The Advice of a result folder and those beside it, over the train images of its `oof` (the oof.csv table) and the eval
    images `names`; None where fewer than two are there."""
    images = oof["image"].tolist()
    folders = scored_folders(folder.parent)[:READ]
    if len(folders) < 2:
        return None
    halves = {folder: half for _f1, half, folder in folders}
    results = [result for f1, _half, folder in folders if (result := _read_candidate(folder, f1, images, names))]
    if len(results) < 2:
        return None
    people = oof["target"].to_numpy(), oof["path"].to_numpy()
    advice = _choose_pair(results, halves, *people)
    allowed = [result for result in results if not result.persons]
    if not allowed or not any(result and result.persons for result in (advice.first, advice.second)):
        return advice
    return replace(advice, allowed=_choose_pair(allowed, halves, *people))


def _choose_pair(results, halves, truth, persons):
    """The Advice among results, the highest score first; halves: of the widths of their intervals.

    What is the first one again, in all it answers, is none to hand in beside it.
    """
    first, *others = results
    wrong = first.pred != truth
    others = [other for other in others if (other.answers != first.answers).any() or (other.pred != first.pred).any()]
    near = [other for other in others if first.f1 - other.f1 <= halves[first.folder] + halves[other.folder]]
    alike = {other.folder: np.nan_to_num(metrics.phi(wrong, other.pred != truth)) for other in near}
    for other in sorted(near, key=lambda other: alike[other.folder]):
        low, high = metrics.interval(metrics.bootstrap_difference(truth, first.pred, other.pred, persons, len(LABELS)))
        if low <= 0 <= high:
            apart = float((first.answers != other.answers).mean())
            return Advice(first, other, first.f1 - other.f1, (low, high), alike[other.folder], apart)
    return Advice(first)


def advice_lines(advice):
    """An Advice in words, for the console."""
    told = ["the two to hand in at the end:", *_pair(advice)]
    if advice.first.persons or (advice.second and advice.second.persons):
        told.append("  --persons joins images, which the contest's rules must allow; without it:")
        told += _pair(advice.allowed) if advice.allowed else ["  none: combine members without --persons"]
    return told


def _pair(advice):
    first, second = advice.first, advice.second
    told = [f"  1  {_name(first)}: macro F1 {first.f1:.4f}, the highest"]
    if second is None:
        return [*told, "  2  none: all else is worse by more than noise, or the same again; combine other members for one"]
    low, high = advice.gap_ci95
    noise = f"lower by {advice.gap:.4f} (95 % CI {low:+.4f} .. {high:+.4f}: noise)"
    apart = f"correlation {advice.phi:.2f}, {advice.apart:.1%} of answers differ"
    return [
        *told,
        f"  2  {_name(second)}: macro F1 {second.f1:.4f}, {noise};",
        f"     its errors are least like those of 1: {apart}",
    ]


def _name(result):
    return f"{result.folder}{' (--persons)' if result.persons else ''}"
