"""All runs and ensembles in one table, with what their options and their leaderboard scores tell.

    python leaderboard.py runs/ --lb 04-soft-3runs=0.7478 --html leaderboard.html

Reads summary.json or args.yaml of a run, recipe.yaml and score.json of an ensemble, and lb.json; trains and predicts nothing.
`--lb` writes lb.json into the run's or ensemble's own folder, `--html` a page. A folder with a damaged file is named and passed
over: the rest is shown all the same, and the exit code is 2.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import argparse
import itertools
import math
import os
import re
import shutil
import sys
import textwrap
import urllib.parse
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtrit

import experiment
import files
import metrics
import options
from dataset import CLASS_NAMES, SCORED_AS
from errors import InputError, did_you_mean
from files import page_table

# ---- main effects -----------------------------------------------------------------------------------------------------

NORMAL_95 = 1.959964  # half-width of a 95 % interval in standard deviations


@dataclass(frozen=True)
class Effect:
    """Mean score of the runs of a level of a factor minus that of the other runs: as it is, and with other factors held equal.

    `value` is None where the runs don't determine it, its 95 % interval where nothing gives one.
    """

    factor: str
    level: str
    runs: int
    raw: float
    value: float | None = None
    low: float | None = None
    high: float | None = None


def merge_aliases(factors):
    """Factors {name: levels [R]} without those of one level; factors that split the runs in the same way become one."""
    groups = {}
    for name, levels in factors.items():
        split = tuple(levels.index(level) for level in levels)
        if any(split):
            groups.setdefault(split, []).append(name)
    return {" & ".join(names): [", ".join(row) for row in zip(*(factors[name] for name in names))] for names in groups.values()}


def main_effects(scores, factors, draws=None):
    """(list of Effect, degrees of freedom left) of a main-effects model, fitted by least squares.

    scores [R]; factors {name: levels [R] as text}. Intervals are Student's t on the residuals: what the model leaves open
    (other seeds, options that are no factor, interactions). `draws` [R, B]: the scores of the same runs on B resamples of
    people, the same people for every run; then the spread of the effect over people is added to the interval, and with no
    degree of freedom left it stands alone.
    """
    scores, factors = np.asarray(scores, dtype=np.float64), merge_aliases(factors)
    columns = {
        (name, level): np.array([one == level for one in levels]) for name, levels in factors.items() for level in levels
    }
    X = np.stack([np.ones(len(scores)), *columns.values()], axis=1)  # an intercept and an indicator of each level
    inverse = np.linalg.pinv(X, rcond=1e-10)
    row_space, freedom = inverse @ X, len(scores) - int(np.linalg.matrix_rank(X))
    residuals = scores - X @ (inverse @ scores)
    noise = np.sqrt((residuals**2).sum() / freedom) * stdtrit(freedom, 0.975) if freedom else 0.0
    found = []
    for (name, level), here in columns.items():
        raw = float(scores[here].mean() - scores[~here].mean())
        # the level's coefficient minus those of the others, each as often as it occurs among the other runs
        others = [column[~here].mean() if key[0] == name else 0.0 for key, column in columns.items()]
        contrast = np.array([0.0, *(float(key == (name, level)) - share for key, share in zip(columns, others))])
        if not np.allclose(contrast @ row_space, contrast, atol=1e-6):  # the runs don't determine it
            found.append(Effect(name, level, int(here.sum()), raw))
            continue
        of_runs = contrast @ inverse
        value, half = float(of_runs @ scores), noise * np.linalg.norm(of_runs)
        if draws is not None:
            half = np.hypot(half, NORMAL_95 * (of_runs @ draws).std())
        known = freedom > 0 or draws is not None
        low, high = (value - float(half), value + float(half)) if known else (None, None)
        found.append(Effect(name, level, int(here.sum()), raw, value, low, high))
    order = list(factors)
    return sorted(found, key=lambda effect: (order.index(effect.factor), -effect.raw)), freedom


def correlation_text(name, x, y):
    """'Pearson 0.95 (95 % interval 0.80 .. 0.99)' of x and y [N], or Spearman, of their ranks.

    Intervals are Fisher's z, of ranks with the variance of Bonett & Wright (2000); there is none below 4 pairs and at -1 and 1.
    """
    if name == "Spearman":
        x, y = pd.Series(x).rank(), pd.Series(y).rank()
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return f"{name} not defined"
    value = np.corrcoef(x, y)[0, 1]
    if len(x) < 4 or abs(value) > 1 - 1e-9:
        return f"{name} {value:.2f}"
    half = NORMAL_95 * np.sqrt((1 + value**2 / 2 if name == "Spearman" else 1) / (len(x) - 3))
    return (
        f"{name} {value:.2f} (95 % interval {np.tanh(np.arctanh(value) - half):.2f} .. {np.tanh(np.arctanh(value) + half):.2f})"
    )


# ---- runs and ensembles -----------------------------------------------------------------------------------------------


@dataclass
class Record:
    """One run or ensemble. Scores are in 0..1 and None where there are none; `people` is (how many, digest of who)."""

    folder: Path
    is_run: bool
    target: str
    scored_as: str
    kfold: int = 0
    options: dict = field(default_factory=dict)
    folds: list = field(default_factory=list)
    oof_f1: float | None = None
    oof_f1_ci95: list | None = None
    oof_acc: float | None = None
    seconds: float | None = None
    lb: float | None = None
    people: tuple = ()

    @property
    def name(self):
        return self.folder.name

    @property
    def kind(self):
        """A run's target; 'ensemble'."""
        return self.target if self.is_run else "ensemble"

    @property
    def used(self):
        """The number of members of an ensemble that have a weight; a search leaves others at 0."""
        weights = [member.get("weight") for member in self.options.get("members", [])]
        return sum(weight is None or any(weight.values() if isinstance(weight, dict) else [weight]) for weight in weights)


def kind_of(folder):
    """'run', 'ensemble' or None for a folder of something else."""
    marks = {"args.yaml": "run", "recipe.yaml": "ensemble"}
    return next((kind for mark, kind in marks.items() if (Path(folder) / mark).is_file()), None)


def read_record(folder):
    """The Record of a folder; InputError that names a damaged file."""
    folder = Path(folder)
    is_run = kind_of(folder) == "run"
    path = folder / ("summary.json" if is_run else "score.json")
    found = files.read_json(path) if path.is_file() else {}  # a run that was stopped has none
    with errors.reading(path):
        facts = {key: number(found.get(key)) for key in ("oof_f1", "oof_acc")}
        facts["seconds"] = number(found.get("seconds"), math.inf)
        facts["oof_f1_ci95"] = [number(bound) for bound in found.get("oof_f1_ci95") or []] or None
        facts["folds"] = [fold["fold"] for fold in found.get("folds", [])]
    facts["lb"] = read_lb(folder)["lb"]
    if not is_run:
        return Record(folder, is_run, "label", "label", options=experiment.read_recipe(folder), **facts)
    if not found:
        done = experiment.done_folds(folder)
        facts |= {"folds": list(done), "seconds": sum(fold["seconds"] for fold in done.values()) or None}
    args = found["options"] if "options" in found else experiment.read_args(folder)
    people = found.get("people")
    if people is None:
        people = experiment.validated_people(folder) if (folder / "folds.csv").is_file() else (0, "")
    with errors.reading(path if "options" in found else folder / "args.yaml"):
        args = {str(name): value for name, value in args.items()}
        facts |= {"kfold": int(args.get("kfold", 0)), "people": (int(people[0]), str(people[1]))}
        return Record(folder, is_run, args["target"], SCORED_AS[args["target"]], options=args, **facts)


def number(value, high=1.0):
    """None or a number from 0 to `high` as it is; ValueError for anything else."""
    if value is not None and not 0 <= value <= high:
        raise ValueError(f"{value} is no number from 0 to {high:g}")
    return value


def read_lb(folder):
    """{"lb": the last recorded leaderboard score or None, "history": all of them}; InputError when lb.json is damaged."""
    path = Path(folder) / "lb.json"
    if not path.is_file():
        return {"lb": None, "history": []}
    found = files.read_json(path)
    with errors.reading(path, "delete it to record the score anew"):
        return {"lb": number(found["lb"]), "history": list(found["history"])}


def record_lb(folder, value):
    """Keep a leaderboard score for good in FOLDER/lb.json, with all earlier ones; returns the last of these or None."""
    with files.lock(folder, wait=True):
        earlier = read_lb(folder)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        history = [*earlier["history"], {"lb": value, "recorded": now}]
        files.write_json(Path(folder) / "lb.json", {"lb": value, "history": history})
    return earlier["lb"]


def find_record(name, directories, option):
    """The folder that a path or the bare name of a run or ensemble stands for; InputError with suggestions."""
    places = [Path(name), *(Path(directory) / name for directory in directories)]
    found = {os.path.realpath(place): place for place in reversed(places) if kind_of(place)}
    if len(found) > 1:
        raise InputError(f"{option} {name}: stands for {' and '.join(sorted(map(str, found.values())))}; give the folder")
    if not found:
        known = [path.name for directory in directories for path in folders(directory) if kind_of(path)]
        raise InputError(f"{option} {name}: no such run or ensemble.{did_you_mean(Path(name).name, known)}")
    return next(iter(found.values()))


def folders(directory):
    """The folders in a directory, hidden ones left out, in order of their names."""
    with os.scandir(directory) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def collect(directories):
    """(records of all folders, number of damaged ones); what is damaged or foreign is named on stderr."""
    found, damaged = [], 0
    for directory in directories:
        others = []
        for folder in folders(directory):
            try:
                if kind_of(folder):
                    found.append(read_record(folder))
                else:
                    others.append(shown(folder.name))
            except InputError as error:
                damaged += 1
                errors.log(f"error: {errors.one_line(error)}")
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            errors.log(f"passed over in {directory}, neither run nor ensemble: {', '.join(others[:3])}{more}")
    return found, damaged


# ---- the table --------------------------------------------------------------------------------------------------------

SECTIONS = ("label", "age_group", "gender", "mask")
PICTURES = ("curves", "confusion", "mistakes")


def four(value):
    """A score with 4 decimals, '-' where there is none."""
    return "-" if value is None else f"{value:.4f}"


def folds_text(record):
    """'2/5' for the folds of a run that are complete, 'nofold', or how many members an ensemble is made of."""
    if not record.is_run:
        return f"of {record.used}"
    return f"{len(record.folds)}/{record.kfold}" if record.kfold else ("nofold" if record.folds else "0/1")


def shown(text):
    """A folder's name in one line, without what a terminal or a page can't show."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))


def cells(record):
    """{column: (text shown, value that is sorted by, None last)} of a record."""
    bounds = record.oof_f1_ci95
    return {
        "name": (shown(record.name), record.name),
        "target": (record.kind, record.kind),
        "folds": (folds_text(record), len(record.folds) or record.used),
        "oof_f1": (four(record.oof_f1), record.oof_f1),
        "interval": ("{:.3f} .. {:.3f}".format(*bounds) if bounds else "-", bounds[0] if bounds else None),
        "accuracy": (four(record.oof_acc), record.oof_acc),
        "time": (files.time_text(record.seconds), record.seconds),
        "lb": (four(record.lb), record.lb),
    }


COLUMNS = {"name": "name", "target": "target", "folds": "folds", "oof_f1": "OOF F1", "interval": "95 % interval",
           "accuracy": "acc.", "time": "time", "lb": "LB"}  # fmt: skip
BEST_LAST = ("name", "target", "time")  # columns that are sorted upwards
OTHER_NAMES = {"f1": "oof_f1", "acc": "accuracy", "oof_acc": "accuracy", "oof_f1_ci95": "interval", "seconds": "time"}


def column_of(word):
    """The key in COLUMNS that a user's word means, in any case; InputError with suggestions."""
    name = re.sub(r"[\s-]+", "_", word.strip().lower())
    name = OTHER_NAMES.get(name, name)
    if name not in COLUMNS:
        raise InputError(f"--sort {word}: no such column.{did_you_mean(name, COLUMNS)} There are {', '.join(COLUMNS)}")
    return name


def sections(found, sort="oof_f1"):
    """{title: records in order} of what is scored on the same classes; ties and what has no value in order of F1, then name."""
    result = {}

    def place(record):
        (_text, key), f1 = cells(record)[sort], -1.0 if record.oof_f1 is None else record.oof_f1
        return key is None, *(() if key is None else (key if sort in BEST_LAST else -key,)), -f1, record.name

    for part in SECTIONS:
        records = sorted((record for record in found if record.scored_as == part), key=place)
        people = {record.people for record in records if any(record.people) and record.oof_f1 is not None}
        apart = f" (of {len(people)} different sets of people: their scores do not compare)" if len(people) > 1 else ""
        if records:
            result[f"{part}: macro F1 of {len(CLASS_NAMES[part])} classes, {count_text(records)}{apart}"] = records
    return result


def count_text(records):
    """'3 runs, 1 ensemble'."""
    runs = sum(record.is_run for record in records)
    counts = ((runs, "run"), (len(records) - runs, "ensemble"))
    return ", ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in counts if count)


def text_table(found, sort, width):
    """The table for a terminal of `width` columns: long names are shortened in the middle."""
    groups = sections(found, sort)
    rows = [[text for text, _key in cells(record).values()] for group in groups.values() for record in group]
    head, *lines = files.aligned([*COLUMNS.values()], rows, left=(0, 1), fit=width)
    remaining, text = iter(lines), [head]
    for title, group in groups.items():
        text += ["", title, *itertools.islice(remaining, len(group))]
    return "\n".join(text)


def markdown(found, sort):
    """The table as Markdown, one a section."""
    lines = []
    for title, group in sections(found, sort).items():
        lines += [f"**{title}**", "", f"| {' | '.join(COLUMNS.values())} |"]
        lines += [f"| {' | '.join(['---', '---', *['---:'] * (len(COLUMNS) - 2)])} |"]
        for record in group:
            texts = (re.sub(r"([\\`*<|\[\]])", r"\\\1", text) for text, _key in cells(record).values())
            lines.append(f"| {' | '.join(texts)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


# ---- the page ---------------------------------------------------------------------------------------------------------


def page(found, sort, file, studies):
    """The page that is written to `file`, to which its links are relative."""
    effects = [(title, page_table(EFFECT_HEAD, rows), f"{note}. {EFFECTS_ARE}") for title, rows, note in studies]
    tables = [(title, section_table(group, Path(file).parent)) for title, group in sections(found, sort).items()]
    points = [record for record in found if record.lb is not None and record.oof_f1 is not None]
    return files.page(
        "leaderboard.html", title="Leaderboard", counts=count_text(found), sections=tables, effects=effects,
        agreement=agreement_text(found), plot=scatter(points) if points else None,
    )  # fmt: skip


def section_table(group, place):
    """A section as a table; the cells of its last column hold links to the pictures that a run has."""
    columns = dict.fromkeys(["name", "oof_f1", *COLUMNS])  # what a narrow window shows stands beside the name
    if group[0].scored_as != "label":
        del columns["lb"]
    rows = []
    for record in group:
        known = cells(record)
        pictures = [record.folder / f"{picture}.png" for picture in PICTURES]
        links = [(urllib.parse.quote(os.path.relpath(path, place)), path.stem) for path in pictures if path.is_file()]
        rows.append([*(known[name][0] if name in ("name", "target") else known[name] for name in columns), links])
    return page_table([*(COLUMNS[name] for name in columns), "pictures"], rows)


def scatter(points):
    """Records with both scores for the template's scatter: its equal axes begin at `low` and have `steps` of `step`."""
    values = [(record.oof_f1, record.lb) for record in points]
    low, high = min(map(min, values)), max(map(max, values))
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if high - low <= 6 * step)
    names = [shown(record.name) for record in points]
    rows = [(name, files.shorten([name], 32)[0], *scores) for name, scores in zip(names, values)]
    return {"low": step * int(low / step), "step": step, "steps": int(high / step) + 1 - int(low / step), "points": rows}


# ---- main effects and agreement of OOF and LB -------------------------------------------------------------------------

# Factors of main effects, whatever varies beside them, in this order; other options follow where they can be held equal.
FACTORS = ("target", "loss", "optimizer", "scheduler", "model", "img_size", "crop", "face_crop", "age_bounds", "drop_ages",
           "label_fixes", "class_weights", "sampler", "mix", "pseudo", "aug", "epochs", "kfold")  # fmt: skip
# Chance and rounding are no factors either.
NO_FACTORS = experiment.PLACES | {"seed", "fold_seed", "data_dir", "memory_format", "compile", "auto_batch"}
EFFECT_HEAD = ["factor", "level", "runs", "raw", "effect", "95 % interval"]
EFFECTS_ARE = (
    "raw: mean F1 of a level's runs minus that of the others; effect: the same with the other factors held equal (least "
    "squares, no interactions). This describes the runs at hand: what varied together stays confounded, and nothing here "
    "proves a cause."
)


def effects_note(effects, freedom, with_people, left_out):
    """The source of the intervals in a line, and the options that vary without being factors."""
    if all(effect.value is None for effect in effects):
        source = "no effect can be told apart from the others; vary one option at a time"
    elif freedom:
        source = f"intervals: Student's t with {freedom} degree{'s' * (freedom != 1)} of freedom"
        source += ", and the draw of people" if with_people else " (what the model leaves open)"
    elif with_people:
        source = "intervals: the draw of people alone, no noise of seeds, as no degree of freedom is left"
    else:
        source = "no interval: no degree of freedom is left; repeat a run with another --seed"
    if 0 < freedom < 5:
        source += "; few runs, so they are wide and rough"
    return source + (f"; vary too and are held equal by nothing: {', '.join(left_out)}" if left_out else "")


def level_text(value):
    """An option's value as text: '29 59' of a list, 'mask 0.5, gender 1' of a mapping, 'none' of nothing."""
    if isinstance(value, list):
        return " ".join(map(level_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {level_text(one)}" for key, one in value.items()) or "none"
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def study_effects(found, resamples):
    """[(title, rows, note)] of each group of two or more comparable complete runs in which a factor varies.

    A row is [factor, level, runs, raw, effect, interval], its numbers (text, number).
    """
    groups, studies = {}, []
    for record in sorted(found, key=lambda record: SECTIONS.index(record.scored_as)):
        if record.is_run and record.oof_f1 is not None and len(record.folds) == record.kfold > 0:
            # a run that is another one again, in options, seed and score, is no other draw: it counts once
            learnt = {name: level_text(value) for name, value in record.options.items() if name not in experiment.PLACES}
            runs = groups.setdefault((record.scored_as, record.people), {})
            runs.setdefault((record.oof_f1, *sorted(learnt.items())), record)
    for (scored_as, _people), runs in groups.items():
        runs = list(runs.values())
        factors, left_out = factors_among([run.options for run in runs])
        if not factors:
            continue
        draws = people_draws(runs, resamples) if resamples else None
        effects, freedom = main_effects([run.oof_f1 for run in runs], factors, draws)
        people = f" of the same {runs[0].people[0]} people" if any(runs[0].people) else ""
        title = f"main effects on the OOF F1 of {scored_as}: {len(runs)} complete runs{people}"
        rows = []
        for effect in effects:
            value = "-" if effect.value is None else f"{effect.value:+.4f}"
            numbers = [(str(effect.runs), effect.runs), (f"{effect.raw:+.4f}", effect.raw), (value, effect.value)]
            interval = "not told apart" if effect.value is None else "-"
            if effect.low is not None:
                interval = f"{effect.low:+.4f} .. {effect.high:+.4f}"
            rows.append([effect.factor, effect.level, *numbers, interval])
        studies.append((title, rows, effects_note(effects, freedom, draws is not None, left_out)))
    return studies


def factors_among(options):
    """({factor: levels [R]}, names of options left out): what varies in the options of R runs, and what nothing holds equal.

    Left out are, beside FACTORS, options with more levels than half as many runs, those that some runs don't know, and what
    follows from one of FACTORS, as a learning rate that each optimizer has its own of: it would take its effect away.
    """
    levels = {name: [level_text(one.get(name)) for one in options] for name in sorted({key for one in options for key in one})}
    factors = {name: levels[name] for name in FACTORS if len(set(levels.get(name, ()))) > 1}
    first, left_out = list(factors.values()), []
    for name, texts in levels.items():
        count = len({text for one, text in zip(options, texts) if name in one})
        if name in (*FACTORS, *NO_FACTORS) or count < 2:
            continue
        follows = any(count < len(set(factor)) == len(set(zip(factor, texts))) for factor in first)
        if follows or count > max(2, len(options) / 2) or any(name not in one for one in options):
            left_out.append(name)
        else:
            factors[name] = texts
    return factors, left_out


def people_draws(runs, resamples):
    """Macro F1 of each run on the same `resamples` draws of people: float64 [runs, resamples]."""
    import predictions  # not at the top: scikit-learn, which it takes, is a second of the start

    draws, first = [], None
    for run in runs:
        table = predictions.read_table(run.folder / "oof.csv", run.target, ("image", "path")).sort_values("image")
        truth, probs = predictions.scored(table, run.target)
        rows = {"images": table["image"].tolist(), "official labels": truth.tolist()}
        first = first or rows
        if differ := [name for name in rows if rows[name] != first[name]]:
            raise InputError(f"{run.folder / 'oof.csv'}: other {differ[0]} than in {runs[0].folder}")
        people, classes = table["path"].tolist(), len(CLASS_NAMES[run.scored_as])
        draws.append(metrics.bootstrap_f1(truth, probs.argmax(1), people, classes, resamples))
    return np.stack(draws)


def agreement_text(found):
    """The agreement of OOF F1 and leaderboard scores in a line.

    The best fold and all folds of the same members have one out-of-fold score: equal in F1, accuracy and interval they count
    once, at the mean of their leaderboard scores.
    """
    scores = {}
    for record in found:
        if record.lb is not None and record.oof_f1 is not None:
            same = record.oof_f1, record.oof_acc, *(record.oof_f1_ci95 or ())
            scores.setdefault(same, []).append(record.lb)
    shared = sum(len(lbs) for lbs in scores.values() if len(lbs) > 1)
    once_each = f" ({shared} share an out-of-fold score, which counts once at their mean LB)" if shared else ""
    if len(scores) < 3:
        few = f"{len(scores)} with both scores{once_each}"
        return f"OOF against LB: {few}; a correlation takes 3 (--lb NAME=SCORE records one)"
    oof, lb = np.array([same[0] for same in scores]), np.array([np.mean(lbs) for lbs in scores.values()])
    gap, few = oof - lb, "; an interval takes 4" if len(oof) < 4 else ""
    return (
        f"OOF against LB: n = {len(oof)}{once_each}, {correlation_text('Pearson', oof, lb)}, "
        f"{correlation_text('Spearman', oof, lb)}{few}; OOF - LB {gap.mean():+.4f} on average "
        f"({gap.min():+.4f} .. {gap.max():+.4f})"
    )


# ---- --lb and --diff --------------------------------------------------------------------------------------------------

# Left out of the choices of recipe.yaml: its members, each a line of its own, and how a search came to them.
FOUND_BY_SEARCH = {"members", "path", "crossfit_bounds", "mask_factors", "oof_mask_factors"}


def record_scores(scores, directories):
    """Write the scores of --lb, all of them checked before the first is written."""
    found = [(find_record(name, directories, "--lb"), value) for name, value in scores]
    for (name, _value), (folder, _value) in zip(scores, found):
        target = read_record(folder).target
        if target not in ("label", "multi"):
            raise InputError(f"--lb {name}: a run of target {target} has no leaderboard score; record it for its ensemble")
    for folder, value in found:
        earlier = record_lb(folder, value)
        before = "" if earlier is None else f" (before: {earlier:.4f})"
        errors.log(f"{folder / 'lb.json'}: LB {value:.4f}{before}")


def choices(record):
    """The options of a run, or the members and choices of an ensemble, as flat {name: text}."""
    if record.is_run:
        return {key: level_text(value) for key, value in record.options.items()}
    values = {key: level_text(value) for key, value in record.options.items() if key not in FOUND_BY_SEARCH}
    for member in record.options.get("members", []):
        weight = level_text(member.get("weight", 1))
        values[f"member {member.get('run')}"] = f"weight {weight}, folds {level_text(member.get('folds'))}"
    return values


def diff_text(names, directories):
    """The options, or members and weights, in which two runs or two ensembles differ, beside their scores."""
    pair = [read_record(find_record(name, directories, "--diff")) for name in names]
    if pair[0].is_run != pair[1].is_run:
        one, other = pair if pair[0].is_run else pair[::-1]
        kinds = f"{one.name} is of kind run and {other.name} of kind ensemble"
        raise InputError(f"--diff {' '.join(names)}: {kinds}; give two of a kind, or see python compare.py")
    sides = [choices(one) for one in pair]
    apart = [key for key in dict.fromkeys([*sides[0], *sides[1]]) if sides[0].get(key) != sides[1].get(key)]
    kept = [key for key in apart if key not in experiment.PLACES]
    lines = [f"{letter}: {shown(one.folder)}" for letter, one in zip("AB", pair)]
    if not kept:
        lines.append("nothing differs that changes what is learned" if pair[0].is_run else "members and weights are the same")
    rows = [[key, *(shown(side.get(key, "-")) for side in sides)] for key in kept or apart]
    rows += [["", "", ""], *([COLUMNS[name], *(cells(one)[name][0] for one in pair)] for name in list(COLUMNS)[2:])]
    room = (shutil.get_terminal_size((100, 24)).columns - 4 - max(files.display_width(row[0]) for row in rows)) // 2
    widths = [None, *[max(20, room)] * 2]
    return "\n".join([*lines, "", *files.aligned(["", "A", "B"], rows, left=(0, 1, 2), widths=widths)])


# ---- the command ------------------------------------------------------------------------------------------------------


def parse_args(argv):
    parser = options.Parser("List all runs and ensembles in a table, with what their options and leaderboard scores tell.")
    parser.add_argument("runs", nargs="?", help="folder that holds the runs; without it runs/")
    parser.add_argument("--submissions", metavar="DIR", help="folder that holds the ensembles; without it submissions/")
    parser.add_argument("--lb", type=lb_score, action="append", default=[], metavar="NAME=SCORE",
                        help="record a leaderboard score for good, such as 04-soft-3runs=0.7478 (may be repeated)")  # fmt: skip
    parser.add_argument("--sort", default="oof_f1", metavar="COLUMN",
                        help=f"within what is scored on the same classes: {', '.join(COLUMNS)}")  # fmt: skip
    parser.add_argument("--bootstrap", type=options.natural_int, default=0, metavar="N",
                        help="resamples of people for the intervals of main effects, from every oof.csv")  # fmt: skip
    parser.add_argument("--html", type=options.page, metavar="FILE.html",
                        help="write the table, effects and OOF against LB as a page")  # fmt: skip
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--markdown", action="store_true", help="the table as Markdown, for a team page")
    output.add_argument("--diff", nargs=2, metavar=("A", "B"), help="only what differs between two runs or two ensembles")
    args = parser.parse_args(argv)
    args.sort = column_of(args.sort)
    if args.diff and not args.html:
        rules = [(name, False, "the table, which --diff leaves out") for name in ("sort", "bootstrap")]
        options.check_idle(parser, args, parser.given(argv), rules)
    return args


def lb_score(text):
    """argparse type: (name, score) of NAME=SCORE."""
    name, _, score = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text} takes NAME=SCORE, such as 04-soft-3runs=0.7478")
    try:
        value = float(score.replace(",", "."))
    except ValueError:
        value = math.nan
    if 0 <= value <= 1 and "," not in score:
        return name, value
    likely = next((value / scale for scale in (1, 100, 10_000) if 0.1 <= value / scale <= 1), None)
    meant = "" if likely is None else f"; did you mean {likely:.6g}?"
    raise argparse.ArgumentTypeError(f"{text}: {score!r} is no score from 0 to 1{meant}")


def find_directories(args):
    """The folders of runs and of ensembles that are there; InputError for one that is given and wrong."""
    found = {}
    for option, given, default in (("runs", args.runs, "runs"), ("--submissions", args.submissions, "submissions")):
        folder = Path(given if given is not None else default)
        if given is not None and kind_of(folder):
            raise InputError(f"{option} {given}: is a {kind_of(folder)} itself; give the folder that holds it")
        if given is not None and not folder.is_dir():
            raise InputError(f"{option} {given}: no such folder; give the one that holds runs or ensembles")
        if folder.is_dir():
            found.setdefault(os.path.realpath(folder), folder)
    return list(found.values())


def listing(args, directories, found, studies):
    """The text for the terminal: table, main effects, agreement of OOF and LB."""
    if args.markdown:
        return markdown(found, args.sort)
    if not found:
        places = " and ".join(f"{folder}/" for folder in directories) or "runs/ and submissions/"
        return f"no runs or ensembles in {places}; python train.py makes a run"
    width = shutil.get_terminal_size((100, 24)).columns
    parts = [text_table(found, args.sort, width)]
    for title, rows, note in studies:
        texts = [[factor, level, *(text for text, _key in numbers), interval] for factor, level, *numbers, interval in rows]
        lines = files.aligned(EFFECT_HEAD, texts, left=(0, 1, 5), widths=[26, 26, None, None, None, None])
        parts.append("\n".join([textwrap.fill(title, width), *lines, textwrap.fill(note, width)]))
    closing = [EFFECTS_ARE] * bool(studies) + [agreement_text(found)]
    return "\n\n".join([*parts, *(textwrap.fill(text, width) for text in closing)])


def main(argv=None):
    args = parse_args(argv)
    directories = find_directories(args)
    record_scores(args.lb, directories)
    if args.diff:
        print(diff_text(args.diff, directories), flush=True)
        if not args.html:
            return 0
    found, damaged = collect(directories)
    studies = study_effects(found, args.bootstrap)
    if not args.diff:
        print(listing(args, directories, found, studies), flush=True)
    if args.html:
        files.write_text(args.html, page(found, args.sort, args.html, studies))
        errors.log(f"page: {args.html}")
    return 2 if damaged else 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
