"""All runs and ensembles in one table, with what their options and their leaderboard scores tell.

    python leaderboard.py runs/ --lb 04-soft-3runs=0.7478 --html leaderboard.html

Reads args.yaml, summary.json, fold*/fold.json, recipe.yaml, score.json and lb.json; trains and predicts nothing. `--lb` writes
lb.json into the run's or ensemble's own folder, `--html` a page. Damaged files are named and passed over: the rest is shown
all the same, and the exit code is 2.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import argparse
import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import sys
import textwrap
import urllib.parse
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

import experiment
import files
import metrics
import options
import predictions
from dataset import CLASS_NAMES, SCORED_AS
from errors import InputError, did_you_mean
from files import page_table

# ---- effects ----------------------------------------------------------------------------------------------------------

NORMAL_95 = 1.959964  # half-width of a 95 % interval in standard deviations


@dataclass(frozen=True)
class Effect:
    """How the runs of one level of a factor differ from the other runs.

    `raw` is the difference of their mean scores as it is, `value` that with the other factors held equal, against the runs
    of those levels that can be compared so: not those in `not_against`. None where none can, as the runs can't tell it
    from the factors in `apart`. `low`, `high`: 95 % interval of `value`, None where nothing gives one.
    """

    factor: str
    level: str
    runs: int
    raw: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    apart: tuple = ()
    not_against: tuple = ()


def merge_aliases(factors):
    """Factors {name: levels [R]} without those of one level; factors that split the runs in the same way become one."""
    groups = {}
    for name, levels in factors.items():
        split = tuple(levels.index(level) for level in levels)
        if any(split):
            groups.setdefault(split, []).append(name)
    return {" & ".join(names): [", ".join(row) for row in zip(*(factors[name] for name in names))] for names in groups.values()}


def _design(factors, R):
    """(X [R, P], columns {(factor, level): index}): an intercept and an indicator of each level of each factor."""
    columns, X = {}, [np.ones(R)]
    for name, levels in factors.items():
        for level in dict.fromkeys(levels):
            columns[name, level] = len(X)
            X.append(np.array([one == level for one in levels], dtype=np.float64))
    return np.stack(X, axis=1), columns


def _contrast(columns, levels, name, level, others):
    """Weights [P] of a level's coefficient minus the mean coefficient of the runs of these other levels."""
    counts = Counter(one for one in levels if one in others)
    weights = np.zeros(len(columns) + 1)
    for other, count in counts.items():
        weights[columns[name, other]] = -count / counts.total()
    weights[columns[name, level]] = 1.0
    return weights


def _undetermined(gram):
    """Of a design's columns [P], each as a row of [P, P]: what the runs don't tell of its coefficient.

    They determine the difference of two coefficients if the rows of both are equal: if it lies in the row space of the
    design X, of which gram is X^T X.
    """
    return np.linalg.pinv(gram, rcond=1e-10, hermitian=True) @ gram - np.eye(len(gram))


def _comparable(undetermined, columns, levels, name, level):
    """The other levels of a factor whose difference to this level the runs determine, in order."""
    others = [other for other in dict.fromkeys(levels) if other != level]
    rows = undetermined[[columns[name, other] for other in others]] - undetermined[columns[name, level]]
    return [other for other, row in zip(others, np.abs(rows).max(1)) if row < 1e-6]


def _without_one(gram, columns, factors):
    """{factor: (undetermined, columns)} of the designs that lack one of the factors."""
    designs = {}
    for left_out in factors:
        kept = [0, *(index for (name, _level), index in columns.items() if name != left_out)]
        rest = {key: place for place, key in enumerate((key for key in columns if key[0] != left_out), start=1)}
        designs[left_out] = _undetermined(gram[np.ix_(kept, kept)]), rest
    return designs


def _confounded_with(designs, levels, name, level):
    """The factors without any one of which a level could be compared with all others; where there is no such one, all."""
    others = [other for other in designs if other != name]
    guilty = [other for other in others if len(_comparable(*designs[other], levels, name, level)) == len(set(levels)) - 1]
    return tuple(guilty or others)


def main_effects(scores, factors, draws=None):
    """(list of Effect, degrees of freedom left) of a main-effects model, fitted by least squares.

    scores [R]; factors {name: levels [R] as text}. Intervals are Student's t on the residuals: what the model leaves open
    (other seeds, options that are no factor, interactions). `draws` [R, B]: the scores of the same runs on B resamples of
    people, the same people for every run; then the spread of the effect over people is added to the interval, and with no
    degree of freedom left it stands alone.
    """
    scores, R = np.asarray(scores, dtype=np.float64), len(scores)
    factors = merge_aliases(factors)
    X, columns = _design(factors, R)
    inverse, gram = np.linalg.pinv(X), X.T @ X
    undetermined = _undetermined(gram)
    freedom = R - int(np.linalg.matrix_rank(X))
    residuals = scores - X @ (inverse @ scores)
    noise = np.sqrt((residuals**2).sum() / freedom) * stdtrit(freedom, 0.975) if freedom else 0.0
    found, designs = [], None
    for name, level in columns:
        here = np.array([one == level for one in factors[name]])
        raw, runs = float(scores[here].mean() - scores[~here].mean()), int(here.sum())
        others = _comparable(undetermined, columns, factors[name], name, level)
        if not others:
            designs = designs or _without_one(gram, columns, factors)
            found.append(Effect(name, level, runs, raw, apart=_confounded_with(designs, factors[name], name, level)))
            continue
        not_against = tuple(one for one in dict.fromkeys(factors[name]) if one not in (level, *others))
        of_runs = _contrast(columns, factors[name], name, level, others) @ inverse
        value, half = float(of_runs @ scores), noise * np.linalg.norm(of_runs)
        if draws is not None:
            half = np.hypot(half, NORMAL_95 * (of_runs @ draws).std())
        known = freedom > 0 or draws is not None
        low, high = (value - float(half), value + float(half)) if known else (None, None)
        found.append(Effect(name, level, runs, raw, value, low, high, not_against=not_against))
    order = list(factors)
    return sorted(found, key=lambda effect: (order.index(effect.factor), -effect.raw)), freedom


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient in -1..1 (None: not defined) with its 95 % interval (None below 4 pairs and at -1 and 1)."""

    value: float | None
    low: float | None = None
    high: float | None = None


def _correlation(x, y, spread):
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(None)
    value = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if len(x) < 4 or abs(value) > 1 - 1e-9:
        return Correlation(value)
    half = NORMAL_95 * np.sqrt(spread(value) / (len(x) - 3))
    return Correlation(value, float(np.tanh(np.arctanh(value) - half)), float(np.tanh(np.arctanh(value) + half)))


def pearson(x, y):
    """Correlation of x and y [N]; interval by Fisher's z."""
    return _correlation(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), lambda _value: 1.0)


def spearman(x, y):
    """Correlation of the ranks of x and y [N]; interval by Fisher's z with the variance of Bonett & Wright (2000)."""
    return _correlation(ranks(x), ranks(y), lambda value: 1 + value**2 / 2)


def ranks(values):
    """Ranks 1..N, equal values sharing their mean rank: float64 [N]."""
    _, where, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]


# ---- records ----------------------------------------------------------------------------------------------------------

MARKS = {"args.yaml": "run", "recipe.yaml": "ensemble"}
READ = (*MARKS, "summary.json", "score.json", "folds.csv", "lb.json")
FOLD = re.compile(r"fold(\d+)")
CACHE = ".leaderboard.cache"
FORMAT = 1  # of the cache; another one is read anew


@dataclass
class Record:
    """One run or ensemble. Scores are in 0..1 and None where there are none; `people` is (how many, digest of who)."""

    folder: str
    kind: str
    target: str
    kfold: int = 0
    options: dict = field(default_factory=dict)
    folds: list = field(default_factory=list)
    oof_f1: float | None = None
    oof_f1_ci95: list | None = None
    oof_acc: float | None = None
    seconds: float | None = None
    lb: float | None = None
    people: list | None = None

    @property
    def name(self):
        return Path(self.folder).name

    @property
    def scored_as(self):
        return SCORED_AS[self.target]

    @property
    def is_run(self):
        return self.kind == "run"

    @property
    def is_complete(self):
        """Whether every image of a run was predicted out of fold."""
        return len(self.folds) == self.kfold > 0

    @property
    def members(self):
        """The members of an ensemble as recipe.yaml lists them."""
        return self.options.get("members", [])

    @property
    def used_members(self):
        """The members that have a weight; a search leaves others at 0."""
        weights = [member.get("weight", 1) for member in self.members]
        return [
            member
            for member, weight in zip(self.members, weights)
            if weight is None or (any(weight.values()) if isinstance(weight, dict) else weight)
        ]


# ---- one folder ----------------------------------------------------------------------------------------------------


def kind_of(folder):
    """'run', 'ensemble' or None for a folder of something else."""
    return next((kind for mark, kind in MARKS.items() if (Path(folder) / mark).is_file()), None)


def read_record(folder):
    """(Record of a folder, lines about damaged files that were passed over); InputError without a readable mark."""
    folder, problems = Path(folder), []

    def attempt(read):
        try:
            return read()
        except InputError as error:
            problems.append(str(error))
            return {}

    if kind_of(folder) == "ensemble":
        recipe = _plain(folder / "recipe.yaml", experiment.read_recipe(folder))
        facts = attempt(lambda: _read_scores(folder / "score.json"))
        lb = attempt(lambda: read_lb(folder))
        return Record(str(folder), "ensemble", "label", options=recipe, **facts, **lb), problems
    args = _plain(folder / "args.yaml", experiment.read_args(folder))
    kfold = args.get("kfold", 0)
    folds = {number: attempt(lambda path=path: _read_fold(path)) for number, path in _fold_files(folder)}
    facts = {"seconds": sum(fold.get("seconds", 0.0) for fold in folds.values()) or None}
    facts |= attempt(lambda: _read_scores(folder / "summary.json"))
    known = facts.pop("folds", folds)  # of the summary, as its score is of them; folds that were copied in since are not in it
    done = sorted({number for number in known if number < max(kfold, 1)})
    facts |= {"people": attempt(lambda: _read_people(folder / "folds.csv")) or None}
    lb = attempt(lambda: read_lb(folder))
    return Record(str(folder), "run", args["target"], kfold, args, done, **facts, **lb), problems


def _plain(path, mapping):
    """A YAML file's mapping with values as JSON has them, so that they are the same from the cache."""
    try:
        return json.loads(json.dumps({str(key): value for key, value in mapping.items()}, default=str))
    except (TypeError, ValueError, RecursionError) as error:  # keys that are dates, lists that hold themselves
        raise InputError(f"{path}: not readable ({error})") from error


def _number(value, path, key, high=1.0):
    """`value` as a float in 0..high, or InputError."""
    if isinstance(value, bool) or not isinstance(value, files.NUMBER) or not 0 <= value <= min(high, files.LARGEST):
        raise InputError(f"{path}: {key} is {value!r}; it takes a number from 0 to {high:g}")
    return float(value)


def _read_scores(path):
    """The scores, time and folds in summary.json or score.json; {} without the file (the run was stopped)."""
    if not path.is_file():
        return {}
    found = files.read_json(path)
    facts = {key: _number(found[key], path, key) for key in ("oof_f1", "oof_acc") if found.get(key) is not None}
    bounds = found.get("oof_f1_ci95")
    if bounds is not None:
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise InputError(f"{path}: oof_f1_ci95 is {bounds!r}; it takes two numbers")
        facts["oof_f1_ci95"] = [_number(bound, path, "oof_f1_ci95") for bound in bounds]
    if found.get("seconds") is not None:
        facts["seconds"] = _number(found["seconds"], path, "seconds", float("inf"))
    if "folds" in found:
        rows = found["folds"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("fold"), int) for row in rows):
            raise InputError(f"{path}: folds is no list of folds")
        facts["folds"] = [row["fold"] for row in rows]
    return facts


def _fold_files(folder):
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := FOLD.fullmatch(path.name))]
    return [(number, path / "fold.json") for number, path in found if (path / "fold.json").is_file()]


def _read_fold(path):
    found = files.read_json(path)
    return {"seconds": _number(found.get("seconds", 0.0), path, "seconds", float("inf"))}


def _read_people(path):
    """[how many, digest] of the people in validation, whatever their folds; None where folds.csv is missing."""
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, ValueError) as error:
        raise errors.unreadable(path, error) or InputError(f"{path}: not readable ({error})") from error
    names = sorted(line.rpartition(",")[0] for line in lines if not line.endswith(",-1"))
    return [len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]]


# ---- leaderboard scores --------------------------------------------------------------------------------------------


def read_lb(folder):
    """{"lb": the recorded leaderboard score} of a folder, {} without one; InputError when lb.json is damaged."""
    path = Path(folder) / "lb.json"
    if not path.is_file():
        return {}
    found = files.read_json(path)
    if not isinstance(found.get("history"), list):
        raise InputError(f"{path}: holds no history; delete it to record the score anew")
    return {"lb": _number(found.get("lb"), path, "lb")}


def record_lb(folder, value):
    """Keep a leaderboard score for good in FOLDER/lb.json, with all earlier ones; returns the last of these or None."""
    path = Path(folder) / "lb.json"
    with files.locked(folder, wait=True):
        for leftover in path.parent.glob(".lb.json.*.tmp*"):
            leftover.unlink(missing_ok=True)
        earlier = read_lb(folder).get("lb")
        history = [] if earlier is None else files.read_json(path)["history"]
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        files.write_json(path, {"lb": value, "history": [*history, {"lb": value, "recorded": now}]})
    return earlier


# ---- all folders ---------------------------------------------------------------------------------------------------


def find_record(name, directories, option):
    """The folder that a path or the bare name of a run or ensemble stands for; InputError with suggestions."""
    places = [Path(name), *(Path(directory) / name for directory in directories)]
    found = {os.path.realpath(place): place for place in reversed(places) if kind_of(place)}
    if len(found) > 1:
        raise InputError(f"{option} {name}: stands for {' and '.join(sorted(map(str, found.values())))}; give the folder")
    if not found:
        known = [path.name for directory in directories for path in _folders(directory) if kind_of(path)]
        raise InputError(f"{option} {name}: no such run or ensemble.{did_you_mean(Path(name).name, known)}")
    return next(iter(found.values()))


def _folders(directory):
    """The folders in a directory, hidden ones left out, in order of their names; [] where there is no such directory."""
    if not Path(directory).is_dir():
        return []
    with os.scandir(directory) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def read_all(directory):
    """(records, lines about damaged files, names of other folders) of a directory, from its cache where that is fresh."""
    cached, entries, problems, others = _read_cache(directory), {}, [], []
    for folder in _folders(directory):
        try:
            signature = _signature(folder)
            if not any(name in MARKS for name, *_ in signature):
                others.append(folder.name)
                continue
            entry = cached.get(folder.name)
            if entry is None or entry[0] != signature:
                record, damaged = read_record(folder)
                entry = [signature, {key: value for key, value in asdict(record).items() if key != "folder"}]
                if damaged:  # marked, so that the next listing reads and tells it again
                    problems += damaged
                    signature.append(["damaged"])
            entries[folder.name] = entry
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{folder}: not readable ({error.strerror})")
    if entries != cached:
        _write_cache(directory, entries)
    return [Record(str(Path(directory) / name), **facts) for name, (_, facts) in entries.items()], problems, others


def _signature(folder):
    """[name, inode, time, size] of each file that a record is read from."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in READ or FOLD.fullmatch(entry.name):
                path = entry.path if entry.name in READ else os.path.join(entry.path, "fold.json")
                with contextlib.suppress(OSError):
                    facts = os.stat(path)
                    found.append([entry.name, facts.st_ino, facts.st_mtime_ns, facts.st_size])
    return sorted(found)


def _digest(directory, text):
    """Of a cache's text in this very directory: what it says is taken for granted, and a foreign one might say anything."""
    place = f"{FORMAT} {os.path.realpath(directory)} {os.stat(directory).st_ino}"
    return hashlib.sha256(f"{place}\n{text}".encode(errors="surrogateescape")).hexdigest()


def _read_cache(directory):
    """{folder name: [signature, facts]}; {} where the cache is missing, damaged, of another format, or made elsewhere."""
    try:
        digest, _, text = (Path(directory) / CACHE).read_text(encoding="utf-8").partition("\n")
        return json.loads(text) if digest == _digest(directory, text) else {}
    except (OSError, ValueError):
        return {}


def _write_cache(directory, entries):
    text = json.dumps(entries)
    with contextlib.suppress(InputError):  # a folder that can't be written is listed all the same
        files.write_text(Path(directory) / CACHE, f"{_digest(directory, text)}\n{text}")


# ---- scoreboard -------------------------------------------------------------------------------------------------------

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
    "time": Column("time", lambda record: record.seconds, lambda record: files.time_text(record.seconds)),
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
    rest = sum(2 + max(map(files.display_width, column)) for column in list(zip(head, *rows))[1:])
    names = files.shorten([row[0] for row in rows], max(width - rest, NARROWEST_NAME))
    lines = files.aligned(head, [[name, *row[1:]] for name, row in zip(names, rows)], left=(0, 1))
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
        whole, short = shown(record.name), files.shorten([shown(record.name)], 32)[0]
        scores = f"OOF {record.oof_f1:.4f}, LB {record.lb:.4f}"
        marks.append((f"{whole}: {scores}", f"{short}: {scores}", *place(record.oof_f1, record.lb)))
    ticks = [(f"{value:.3f}", *place(value, value)) for value in ticks]
    return {"size": size, "left": left, "top": top, "ticks": ticks, "points": marks}


# Factors of main effects, whatever varies beside them, in this order; other options follow where they can be held equal.
FACTORS = ("target", "loss", "optimizer", "scheduler", "model", "img_size", "crop", "face_crop", "age_bounds", "drop_ages",
           "label_fixes", "class_weights", "sampler", "mix", "pseudo", "aug", "epochs", "kfold")  # fmt: skip
# Chance and rounding are no factors either.
NO_FACTORS = experiment.PLACES | {"seed", "fold_seed", "data_dir", "memory_format", "compile", "auto_batch"}
# What stands in recipe.yaml beside the choices: the members, told one by one, how a search came to them, what images asked for.
FOUND_BY_SEARCH = {"members", "path", "crossfit_bounds", "mask_factors", "oof_mask_factors"}
EFFECT_HEAD = ["factor", "level", "runs", "raw", "effect", "95 % interval"]
EFFECTS_ARE = (
    "raw: mean F1 of a level's runs minus that of the others; effect: the same with the other factors held equal (least "
    "squares, no interactions), against the levels that can be compared so. This describes the runs at hand: what varied "
    "together stays confounded, and nothing here proves a cause."
)


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
    parser.add_argument(
        "--html", type=options.page, metavar="FILE.html", help="write the table, effects and OOF against LB as a page"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--markdown", action="store_true", help="the table as Markdown, for a team page")
    output.add_argument("--diff", nargs=2, metavar=("A", "B"), help="only what differs between two runs or two ensembles")
    args = parser.parse_args(argv)
    args.sort = column_of(args.sort)
    if args.diff and not args.html:
        rules = [(name, False, "the table, which --diff leaves out", True) for name in ("sort", "bootstrap")]
        options.check_idle(parser, args, parser.given(argv), rules)
    return args


def lb_score(text):
    """argparse type: (name, score) of NAME=SCORE."""
    name, _, number = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text} takes NAME=SCORE, such as 04-soft-3runs=0.7478")
    try:
        value = float(number.replace(",", "."))
    except ValueError:
        value = math.nan
    if 0 <= value <= 1 and "," not in number:
        return name, value
    likely = next((value / scale for scale in (1, 100, 10_000) if 0.1 <= value / scale <= 1), None)
    meant = "" if likely is None else f"; did you mean {likely:.6g}?"
    raise argparse.ArgumentTypeError(f"{text}: {number!r} is no score from 0 to 1{meant}")


def find_directories(args):
    """The folders of runs and of ensembles that are there; InputError for one that is given and wrong."""
    found = []
    for option, given, default in (("runs", args.runs, "runs"), ("--submissions", args.submissions, "submissions")):
        folder = Path(given if given is not None else default)
        if given is not None and kind_of(folder):
            raise InputError(f"{option} {given}: is a {kind_of(folder)} itself; give the folder that holds it")
        if given is not None and not folder.is_dir():
            raise InputError(f"{option} {given}: no such folder; give the one that holds runs or ensembles")
        if folder.is_dir() and os.path.realpath(folder) not in map(os.path.realpath, found):
            found.append(folder)
    return found


def record_scores(scores, directories):
    """Write the scores of --lb, all of them checked before the first is written."""
    folders = {}
    for name, value in scores:
        folder = find_record(name, directories, "--lb")
        target = read_record(folder)[0].target
        if target not in ("label", "multi"):
            raise InputError(f"--lb {name}: a run of target {target} has no leaderboard score; record it for its ensemble")
        if folders.setdefault(os.path.realpath(folder), (folder, value))[1] != value:
            raise InputError(f"--lb {name}: given twice, with {folders[os.path.realpath(folder)][1]:g} and {value:g}")
    for folder, value in folders.values():
        earlier = record_lb(folder, value)
        before = "" if earlier is None else f" (before: {earlier:.4f})"
        errors.say(f"{folder / 'lb.json'}: LB {value:.4f}{before}")


def collect(directories):
    """(records of all folders, number of problems); what is damaged or foreign is named on stderr."""
    found, problems = [], []
    for directory in directories:
        here, damaged, others = read_all(directory)
        found += here
        problems += damaged
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            errors.say(f"passed over in {directory}, neither run nor ensemble: {', '.join(map(shown, others[:3]))}{more}")
    for problem in problems:
        errors.say(f"error: {errors.one_line(problem)}")
    return found, len(problems)


# ---- main effects and agreement ------------------------------------------------------------------------------------


@dataclass
class Study:
    """Main effects among complete runs that are scored on the same classes and people."""

    scored_as: str
    runs: list
    found: list
    freedom: int
    left_out: list
    with_people: bool

    @property
    def title(self):
        people = f" of the same {self.runs[0].people[0]} people" if self.runs[0].people else ""
        return f"main effects on the OOF F1 of {self.scored_as}: {len(self.runs)} complete runs{people}"

    @property
    def note(self):
        if all(effect.value is None for effect in self.found):
            source = "no effect can be told apart from the others; vary one option at a time"
        elif self.freedom:
            source = f"intervals: Student's t with {self.freedom} degree{'s' * (self.freedom != 1)} of freedom"
            source += ", and the draw of people" if self.with_people else " (what the model leaves open)"
        elif self.with_people:
            source = "intervals: the draw of people alone, no noise of seeds, as no degree of freedom is left"
        else:
            source = "no interval: no degree of freedom is left; repeat a run with another --seed"
        if 0 < self.freedom < 5:
            source += "; few runs, so they are wide and rough"
        varied = f"; vary too and are held equal by nothing: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{source}{varied}"

    def rows(self):
        """[factor, level, runs, raw, effect, interval]; numbers as (text, number)."""
        rows = []
        for effect in self.found:
            interval = "-" if effect.low is None else f"{effect.low:+.4f} .. {effect.high:+.4f}"
            if effect.apart:
                interval = f"not told apart from {', '.join(effect.apart)}"
            elif effect.not_against:
                interval += f", not against {', '.join(effect.not_against)}"
            numbers = [(str(effect.runs), effect.runs), (f"{effect.raw:+.4f}", effect.raw)]
            numbers.append(("-" if effect.value is None else f"{effect.value:+.4f}", effect.value))
            rows.append([effect.factor, effect.level, *numbers, interval])
        return rows

    def lines(self):
        """The effects as lines of a table in text."""
        texts = [[cell[0] if isinstance(cell, tuple) else cell for cell in row] for row in self.rows()]
        factor, level, *numbers, _last = (max(map(files.display_width, column)) for column in zip(EFFECT_HEAD, *texts))
        widths = min(factor, 26), min(level, 26)
        last = errors.WIDTH - sum(widths) - sum(numbers) - 2 * (len(EFFECT_HEAD) - 1)
        rows = []
        for row in texts:
            cells = [textwrap.wrap(row[0], widths[0]), textwrap.wrap(row[1], widths[1]), *([text] for text in row[2:5])]
            rows += itertools.zip_longest(*cells, textwrap.wrap(row[5], last), fillvalue="")
        return files.aligned(EFFECT_HEAD, rows, left=(0, 1, 5))


def level_text(value):
    """An option's value as text: '29 59' of a list, 'mask 0.5, gender 1' of a mapping, 'none' of nothing."""
    if isinstance(value, list):
        return " ".join(map(level_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {level_text(one)}" for key, one in value.items()) or "none"
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def studies(found, resamples):
    """A Study of each group of two or more comparable complete runs in which a factor varies, and lines about problems."""
    groups, result, problems = {}, [], []
    for record in sorted(found, key=lambda record: SECTIONS.index(record.scored_as)):
        if record.is_run and record.is_complete and record.oof_f1 is not None:
            groups.setdefault((record.scored_as, tuple(record.people or ())), []).append(record)
    for (scored_as, _people), runs in groups.items():
        runs = once(runs)
        factors, left_out = factors_among([run.options for run in runs])
        if not factors:
            continue
        draws = None
        if resamples:
            try:
                draws = people_draws(runs, resamples)
            except InputError as error:
                problems.append(f"--bootstrap {resamples}: {error}")
        effect_list, freedom = main_effects([run.oof_f1 for run in runs], factors, draws)
        result.append(Study(scored_as, runs, effect_list, freedom, left_out, draws is not None))
    return result, problems


def once(runs):
    """`runs` without those that are another one again, in options, seed and score: no other draw, so no other noise."""
    found = {}
    for run in runs:
        learnt = {name: level_text(value) for name, value in run.options.items() if name not in experiment.PLACES}
        found.setdefault((run.oof_f1, *sorted(learnt.items())), run)
    return list(found.values())


def factors_among(options):
    """({factor: levels [R]}, names of options left out): what varies in the options of R runs, and what nothing holds equal.

    Left out are, beside FACTORS, options with more levels than half as many runs, those that some runs don't know, and what
    follows from one of FACTORS, as a learning rate that each optimizer has its own of: it would take its effect away.
    """
    levels = {name: [level_text(one.get(name)) for one in options] for name in sorted({key for one in options for key in one})}
    factors = {name: levels[name] for name in FACTORS if len(set(levels.get(name, ()))) > 1}
    left_out = []
    for name, texts in levels.items():
        known = {text for one, text in zip(options, texts) if name in one}
        if name in (*FACTORS, *NO_FACTORS) or len(known) < 2:
            continue
        pairs = [(set(one), set(zip(one, texts))) for factor, one in factors.items() if factor in FACTORS]
        follows = any(len(known) < len(factor) == len(pair) for factor, pair in pairs)
        if follows or len(known) > max(2, len(options) / 2) or any(name not in one for one in options):
            left_out.append(name)
        else:
            factors[name] = texts
    return factors, left_out


def people_draws(runs, resamples):
    """Macro F1 of each run on the same `resamples` draws of people: float64 [runs, resamples]."""
    draws, known = [], None
    for run in runs:
        table = predictions.read_table(Path(run.folder) / "oof.csv", run.target, ("image", "path")).sort_values("image")
        truth, probs = predictions.scored(table, run.target)
        people, rows = table["path"].tolist(), (table["image"].tolist(), truth.tolist())
        known = known or rows
        if known != rows:
            what = "images" if known[0] != rows[0] else "official labels"
            raise InputError(f"{Path(run.folder) / 'oof.csv'}: other {what} than in {runs[0].folder}")
        draws.append(metrics.bootstrap_f1(truth, probs.argmax(1), people, len(CLASS_NAMES[run.scored_as]), resamples))
    return np.stack(draws)


def agreement_text(found):
    """How OOF F1 and leaderboard scores agree, in a line.

    The best fold and all folds of the same members have one out-of-fold score: equal in F1, accuracy and interval they count
    once, at the mean of their leaderboard scores.
    """
    scores = {}
    for record in found:
        if record.lb is not None and record.oof_f1 is not None:
            same = record.oof_f1, record.oof_acc, *(record.oof_f1_ci95 or ())
            scores.setdefault(same, []).append(record.lb)
    pairs = [(same[0], float(np.mean(lbs))) for same, lbs in scores.items()]
    shared = sum(len(lbs) for lbs in scores.values() if len(lbs) > 1)
    once_each = f" ({shared} share an out-of-fold score, which counts once at their mean LB)" if shared else ""
    if len(pairs) < 3:
        few = f"{len(pairs)} with both scores{once_each}"
        return f"OOF against LB: {few}; a correlation takes 3 (--lb NAME=SCORE records one)"
    oof, lb = np.array(pairs).T

    def text(name, one):
        interval = "" if one.low is None else f" (95 % interval {one.low:.2f} .. {one.high:.2f})"
        return f"{name} not defined" if one.value is None else f"{name} {one.value:.2f}{interval}"

    gap = oof - lb
    few = "; an interval takes 4" if len(pairs) < 4 else ""
    return (
        f"OOF against LB: n = {len(pairs)}{once_each}, {text('Pearson', pearson(oof, lb))}, "
        f"{text('Spearman', spearman(oof, lb))}{few}; OOF - LB {gap.mean():+.4f} on average "
        f"({gap.min():+.4f} .. {gap.max():+.4f})"
    )


# ---- what differs --------------------------------------------------------------------------------------------------


def recipe_values(record):
    """What an ensemble was made of as flat {name: text}: its members with their weights and folds, and the other choices."""
    values = {key: level_text(value) for key, value in record.options.items() if key not in FOUND_BY_SEARCH}
    for member in record.members:
        weight = level_text(member.get("weight", 1))
        values[f"member {member.get('run')}"] = f"weight {weight}, folds {level_text(member.get('folds'))}"
    return values


def diff_text(names, directories):
    """The options, or members and weights, in which two runs or two ensembles differ, beside their scores."""
    pair = [read_record(find_record(name, directories, "--diff"))[0] for name in names]
    if pair[0].kind != pair[1].kind:
        raise InputError(
            f"--diff {' '.join(names)}: {pair[0].name} is of kind {pair[0].kind} and {pair[1].name} of kind {pair[1].kind}; "
            "give two of a kind, or see python compare.py"
        )
    sides = [
        {key: level_text(value) for key, value in one.options.items()} if one.is_run else recipe_values(one) for one in pair
    ]
    apart = [key for key in dict.fromkeys([*sides[0], *sides[1]]) if sides[0].get(key) != sides[1].get(key)]
    kept = [key for key in apart if key not in experiment.PLACES]
    lines = [f"{letter}: {shown(one.folder)}" for letter, one in zip("AB", pair)]
    if not kept:
        lines.append("nothing differs that changes what is learned" if pair[0].is_run else "members and weights are the same")
    columns = [COLUMNS[key] for key in ("folds", "oof_f1", "interval", "accuracy", "time", "lb")]
    rows = [[key, *(shown(side.get(key, "-")) for side in sides)] for key in kept or apart]
    rows += [["", "", ""], *([column.title, *(column.text(one) for one in pair)] for column in columns)]
    rows = files.wrapped(rows, shutil.get_terminal_size((100, 24)).columns)
    return "\n".join([*lines, "", *files.aligned(["", "A", "B"], rows, left=(0, 1, 2))])


# ---- the whole -----------------------------------------------------------------------------------------------------


def listing(args, directories, found, done):
    """The text for the terminal: table, main effects, agreement of OOF and LB."""
    if args.markdown:
        return markdown(found, args.sort)
    if not found:
        places = " and ".join(f"{folder}/" for folder in directories) or "runs/ and submissions/"
        return f"no runs or ensembles in {places}; python train.py makes a run"
    width = shutil.get_terminal_size((100, 24)).columns
    parts = [text_table(found, args.sort, width)]
    for study in done:
        parts.append("\n".join([textwrap.fill(study.title, width), *study.lines(), textwrap.fill(study.note, width)]))
    if done:
        parts.append(textwrap.fill(EFFECTS_ARE, width))
    parts.append(textwrap.fill(agreement_text(found), width))
    return "\n\n".join(parts)


def main(argv=None):
    args = parse_args(argv)
    directories = find_directories(args)
    record_scores(args.lb, directories)
    if args.diff:
        print(diff_text(args.diff, directories), flush=True)
        if not args.html:
            return 0
    found, problems = collect(directories)
    done, unread = studies(found, args.bootstrap)
    for problem in unread:
        errors.say(f"error: {problem}")
    if not args.diff:
        print(listing(args, directories, found, done), flush=True)
    if args.html:
        tables = [(study.title, EFFECT_HEAD, study.rows(), f"{study.note}. {EFFECTS_ARE}") for study in done]
        files.write_text(args.html, page(found, args.sort, args.html, tables, agreement_text(found)))
        errors.say(f"page: {args.html}")
    return 2 if problems or unread else 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
