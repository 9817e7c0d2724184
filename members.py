"""What can be combined and compared: runs, single folds of runs, and ensembles, with their saved predictions.

A member is named by its folder, `runs/NAME` or `submissions/NAME`; `RUN:fold2` and `RUN:best` are one fold of a run. Out of
fold a single fold is stood in for by its whole run: each image is predicted by the one fold model that never saw it, and
the other folds' models differ from it only by the people that they trained on.
"""

import glob
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

import blend
import errors
import evaluation
import experiment
import predictions
import validation
from errors import InputError
from labels import decode, encode

ONE_FOLD = re.compile(r"(?P<run>.+):(?:fold(?P<number>\d+)|(?P<best>best))")


@dataclass(frozen=True)
class Source:
    """A folder with predictions: a run (`choice` of its folds: 'all', 'best', [2]) or an ensemble (`choice` None)."""

    name: str
    folder: Path
    target: str
    choice: str | list | None

    @property
    def is_run(self):
        return self.choice is not None


@dataclass
class Member:
    """A source with its tables: eval.csv, and oof.csv where it has one; `folds` are those that eval.csv is the mean of, and
    `fold_tables` the table of each, where they are read and kept."""

    source: Source
    folds: list
    eval: pd.DataFrame
    oof: pd.DataFrame | None
    fold_tables: list = field(default_factory=list)

    @property
    def name(self):
        return self.source.name

    @property
    def target(self):
        return self.source.target

    def eval_probs(self, names):
        """Probabilities [N, num_outputs(target)] of eval images, in the order of `names`."""
        return self._probs(self.eval, names)

    def fold_probs(self, names):
        """`eval_probs` of each fold, a list; of a member without tables of folds its mean alone."""
        return [self._probs(table, names) for table in self.fold_tables or [self.eval]]

    def _probs(self, table, names):
        return table.set_index("ImageID")[predictions.columns(self.target)].loc[names].to_numpy()

    def oof_probs(self, images):
        """Out-of-fold probabilities [N, num_outputs(target)] of train images, in the order of `images`."""
        return self.oof.set_index("image")[predictions.columns(self.target)].loc[images].to_numpy()


def open_source(name, folds="all"):
    """The Source of a folder, RUN:foldN or RUN:best; `folds` is the choice for a plain run. InputError when there is none."""
    one = ONE_FOLD.fullmatch(name)
    folder = Path(one["run"] if one else name)
    if (folder / "recipe.yaml").is_file():
        if one:
            raise InputError(f"{name}: {folder} is an ensemble; only runs of train.py have folds")
        return Source(str(folder), folder, "label", None)
    run = experiment.find_run(folder)
    target = experiment.read_args(run)["target"]
    if not one:
        return Source(str(run), run, target, folds)
    return Source(name, run, target, "best" if one["best"] else [int(one["number"])])


def find_sources(patterns, folds="all", option="--models"):
    """The sources of names and glob patterns (a pattern may end in :best or :foldN), each once, in order.

    Other folders that a pattern matches are passed over, with a line that names them; InputError, which names `option`,
    where nothing is left.
    """
    sources = []
    for pattern in patterns:
        stem, colon, fold = pattern.rpartition(":") if ONE_FOLD.fullmatch(pattern) else (pattern, "", "")
        if not glob.has_magic(stem) or Path(stem).is_dir():
            sources.append(open_source(pattern, folds))
            continue
        matches = [path for path in sorted(glob.glob(stem)) if Path(path).is_dir()]
        known = [path for path in matches if any((Path(path) / name).is_file() for name in ("args.yaml", "recipe.yaml"))]
        for path in [path for path in matches if path not in known]:
            errors.say(f"passed over: {path} is neither a run nor an ensemble")
        if not known:
            raise InputError(f"{option} {pattern}: matches no run; python leaderboard.py lists what there is")
        sources.extend(open_source(f"{path}{colon}{fold}", folds) for path in known)
    return list({source.name: source for source in sources}.values())


def has_oof(source, tta):
    """Whether out-of-fold predictions with a TTA are there: an ensemble's are as it was made, a run's as inference.py did."""
    return tta == "none" or not source.is_run or validation.is_fresh(source.folder, tta)


def read_oof(source, tta="none"):
    """The oof.csv table of a source, or None where it has none (a nofold run, an ensemble with one).

    That of a TTA where `has_oof` says that it is there, else the plain one.
    """
    path = source.folder / "oof.csv"
    if source.is_run and tta != "none" and has_oof(source, tta):
        path = validation.oof_files(source.folder, tta)[0]
    return predictions.read(path, source.target, ("image", "path")) if path.is_file() else None


def read_eval(source, tta="none"):
    """(eval.csv table, folds it is the mean of) from what is saved, or (None, []) where inference.py has to run first."""
    if not source.is_run:
        return predictions.read(source.folder / "eval.csv", source.target, ("ImageID",)), []
    if source.choice in ("all", "best"):
        table = evaluation.read_run_eval(source.folder, source.target, source.choice, tta)
        return table, [] if table is None else evaluation.used_folds(source.folder)
    numbers = evaluation.select_folds(source.folder, source.choice)
    fresh = all(evaluation.is_fresh(source.folder, number, tta) for number in numbers)
    return (evaluation.fold_mean(source.folder, source.target, numbers, tta), numbers) if fresh else (None, [])


def read(sources, tta, predict, by_fold=False):
    """The members of sources. `predict(jobs)` is called with the (run, fold number) pairs whose eval predictions are missing.

    by_fold: with the tables of their folds. InputError when members hold different images.
    """
    tables = [read_eval(source, tta) for source in sources]
    jobs = [
        (source.folder, number)
        for source, (table, _folds) in zip(sources, tables)
        if table is None
        for number in evaluation.select_folds(source.folder, source.choice)
    ]
    if jobs:
        predict(list(dict.fromkeys(jobs)))
        tables = [
            read_eval(source, tta) if table is None else (table, folds) for source, (table, folds) in zip(sources, tables)
        ]
    members = [Member(source, folds, table, read_oof(source, tta)) for source, (table, folds) in zip(sources, tables)]
    for member in members if by_fold else ():
        member.fold_tables = evaluation.fold_tables(member.source.folder, member.target, member.folds, tta)
    check_same_images(members)
    return members


def check_same_images(members):
    """InputError that names the two members whose eval or oof tables hold different images."""
    for kind, key in (("eval", "ImageID"), ("oof", "image")):
        tables = [(member.name, getattr(member, kind)) for member in members if getattr(member, kind) is not None]
        for name, table in tables:
            first_name, first = tables[0]
            apart = set(table[key]) ^ set(first[key])
            if apart:
                raise InputError(
                    f"{name} and {first_name}: their {kind}.csv hold different images ({len(apart)} in one alone, such as "
                    f"{min(apart)}); combine complete runs of the same data, --limit-people and --kfold"
                )


def oof_truth(members):
    """(rows of the first oof.csv: image, path, fold; official labels int64 [N]) of members that together decide the label."""
    first = members[0].oof
    parts = {}
    for member in members:
        table = member.oof.set_index("image").loc[first["image"]]
        truth = table[predictions.truth_columns(member.target)].to_numpy(dtype=np.int64).T
        parts |= zip(blend.DECIDES[member.target], decode(truth[0]) if member.target == "label" else truth)
    return first[["image", "path", "fold"]], encode(*(parts[part] for part in blend.PARTS))
