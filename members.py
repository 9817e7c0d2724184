"""What can be combined and compared: runs, single folds of runs, and ensembles, with their saved predictions.

A member is named by its folder, `runs/NAME` or `submissions/NAME`; `RUN:fold2` and `RUN:best` are one fold of a run. Out of
fold a single fold is stood in for by its whole run: each image is predicted by the one fold model that never saw it, and
the other folds' models differ from it only by the people that they trained on.
"""

import glob
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

import blend
import dataset
import demo
import errors
import evaluation
import experiment
import predictions
import validation
from dataset import HEADS, SCORED_AS, decode, encode
from errors import InputError

ONE_FOLD = re.compile(r"(?P<run>.+):(?:fold(?P<number>\d+)|(?P<best>best))")


@dataclass(frozen=True)
class Source:
    """A folder with predictions: a run (`choice` of its folds: 'all', 'best', [2]) or an ensemble (`choice` None).

    matched: a pattern found it, nobody named it: then it may be passed over.
    """

    name: str
    folder: Path
    target: str
    choice: str | list | None
    matched: bool = False

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
        return table.set_index("ImageID")[dataset.columns(self.target)].loc[names].to_numpy()

    def oof_probs(self, images):
        """Out-of-fold probabilities [N, num_outputs(target)] of train images, in the order of `images`."""
        return self.oof.set_index("image")[dataset.columns(self.target)].loc[images].to_numpy()


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

    Other folders that a pattern matches are passed over; InputError, which names `option`, where nothing is left.
    """
    sources, others = {}, []
    for pattern in patterns:
        stem, colon, fold = pattern.rpartition(":") if ONE_FOLD.fullmatch(pattern) else (pattern, "", "")
        if not glob.has_magic(stem) or Path(stem).is_dir():
            source = open_source(pattern, folds)
            sources[source.name] = source
            continue
        matches = [path for path in sorted(glob.glob(stem)) if Path(path).is_dir()]
        known = [path for path in matches if any((Path(path) / name).is_file() for name in ("args.yaml", "recipe.yaml"))]
        others += [(path, "neither a run nor an ensemble") for path in matches if path not in known]
        if not known:
            raise InputError(f"{option} {pattern}: matches no run; python leaderboard.py lists what there is")
        for path in known:
            source = replace(open_source(f"{path}{colon}{fold}", folds), matched=True)
            sources.setdefault(source.name, source)
    _say_passed_over(others)
    return list(sources.values())


def _say_passed_over(passed):
    """A line that counts and names what patterns matched and is passed over, [(name, reason)]."""
    by_reason = {}
    for name, reason in passed:
        by_reason.setdefault(reason, []).append(name)
    if passed:
        told = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
        errors.say(f"passed over, {len(passed)} of what patterns match: {told}")


def has_oof(source, tta):
    """Whether out-of-fold predictions with a TTA are there: an ensemble's are as it was made, a run's as inference.py did."""
    return tta == "none" or not source.is_run or validation.oof_is_fresh(source.folder, tta)


def read_oof(source, tta="none"):
    """The oof.csv table of a source, or None where it has none (a nofold run, an ensemble with one).

    That of a TTA where `has_oof` says that it is there, else the plain one. InputError when a run has complete folds that its
    oof.csv was made without, as those that were trained elsewhere and copied into it.
    """
    table = _read_oof(source, tta)
    apart = _folds_apart(source, table)
    if apart:
        again = f"python train.py --resume {shlex.quote(str(source.folder))}"
        raise InputError(f"{source.folder / 'oof.csv'}: lacks the complete fold {apart[0]}; {again} puts it together anew")
    return table


def _read_oof(source, tta):
    plain = not source.is_run or tta == "none" or not has_oof(source, tta)
    path = source.folder / "oof.csv" if plain else validation.oof_files(source.folder, tta)[0]
    return predictions.read_table(path, source.target, ("image", "path")) if path.is_file() else None


def _folds_apart(source, oof):
    """The complete folds of a run that its oof.csv lacks."""
    return sorted(experiment.done_folds(source.folder).keys() - set(oof["fold"])) if source.is_run and oof is not None else []


def read_oofs(sources, tta="none", needs_oof=False, needs_eval=True):
    """The members of sources, with their oof.csv alone. What a pattern matched and can't take part is passed over.

    That are those without oof.csv where it is needed or, where eval predictions are, without a complete fold; and those of
    other train images than the named member that has the most or, where none is named, than the one that has.
    """
    found = [Member(each, [], None, (_read_oof if each.matched else read_oof)(each, tta)) for each in sources]
    reasons = [member.source.matched and _lacks(member, tta, needs_oof, needs_eval) for member in found]
    able = [member for member, reason in zip(found, reasons) if not reason and member.oof is not None]
    first = max(able, key=lambda member: (not member.source.matched, len(member.oof)), default=None)
    images = set() if first is None else set(first.oof["image"])
    for index, member in enumerate(found):
        if not reasons[index] and member.source.matched and member.oof is not None and set(member.oof["image"]) != images:
            reasons[index] = f"other train images than {first.name}"
    return _leave_out(found, reasons)


def _lacks(member, tta, needs_oof, needs_eval):
    """Why a member can't take part, whatever the others are, or None."""
    source = member.source
    if member.oof is None and needs_oof:
        return "no oof.csv"
    if not source.is_run:
        return None
    done = experiment.done_folds(source.folder)
    wanted = source.choice if isinstance(source.choice, list) else list(done)[:1]
    if needs_eval and not is_brought(source, tta) and (not wanted or wanted[0] not in done):
        return "fold not complete"
    return "oof.csv lacks a complete fold" if _folds_apart(source, member.oof) else None


def _leave_out(found, reasons):
    """The members that there is no reason against, with a line that names the others; InputError when none is left."""
    _say_passed_over([(member.name, reason) for member, reason in zip(found, reasons) if reason])
    left = [member for member, reason in zip(found, reasons) if not reason]
    if not left:
        raise InputError("--models: nothing that the patterns match can take part, see above; name what shall")
    return left


def is_brought(source, tta):
    """Whether a source is a run that was brought along without its folds, with an eval.csv that is what is asked for."""
    asked = source.is_run and (source.choice, tta) == ("all", evaluation.made_of(source.folder).get("tta", "none"))
    return asked and (source.folder / "eval.csv").is_file() and not experiment.done_folds(source.folder)


def read_eval(source, tta="none"):
    """([tables like eval.csv], folds) from what is saved: one of each fold, or of an ensemble or a run that was brought along
    without its folds the only one; ([], folds) where inference.py has to run first."""
    path = source.folder / "eval.csv"
    if not source.is_run:
        return [predictions.read_table(path, source.target, ("ImageID",))], []
    if is_brought(source, tta):
        return [predictions.read_table(path, source.target, ("ImageID",))], evaluation.made_of(source.folder).get("folds", [])
    numbers = evaluation.select_folds(source.folder, source.choice)
    return evaluation.fold_tables(source.folder, source.target, numbers, tta) or [], numbers


def read_members(sources, tta, predict, by_fold=False, needs_oof=False, data_dir=None):
    """The members of sources, with tables of the images of info.csv and the people of train.csv, where a data folder is given
    or found. See `read_oofs` for what is passed over.

    `predict(jobs)` is called with the (run, fold number) pairs whose eval predictions are missing or lack images, when nothing
    is left that could be refused. by_fold: with the tables of their folds. InputError when members hold different images.
    """
    found = read_oofs(sources, tta, needs_oof)
    check_same_images(found, "oof", "image")
    hold_oof(found, data_dir)
    for member in found:
        tables, member.folds = read_eval(member.source, tta)
        _set_eval(member, tables, by_fold)
    known = evaluation.known_names(data_dir, [list(member.eval["ImageID"]) for member in found if member.eval is not None])
    found = hold_eval(found, tta, *known) if known else found
    blend.check_decided([member.target for member in found])
    check_same_images(found, "eval", "ImageID")
    missing = [member for member in found if member.eval is None]
    if missing and not known and len(missing) < len(found):
        raise InputError(f"{missing[0].name}: has no eval predictions, and no data folder here can give them; give --data-dir")
    jobs = [(member.source.folder, number) for member in missing for number in member.folds]
    if jobs:
        predict(list(dict.fromkeys(jobs)))
    for member in missing:
        _set_eval(member, read_eval(member.source, tta)[0], by_fold)
    made = {member.name for member in missing}
    for member in found:
        if member.source.choice == "all":
            evaluation.renew_run_eval(member.source.folder, member.target, member.folds, tta, member.name in made)
    return found


def _set_eval(member, tables, by_fold):
    """Give a member the mean of tables of its folds (None: there are none) and, `by_fold`, the tables themselves."""
    member.eval = predictions.mean(tables, member.target) if tables else None
    member.fold_tables = tables if by_fold else []


def hold_eval(found, tta, info, names):
    """Members whose eval tables have the rows of info.csv, `names`, in its order, or are None where they have to be made.

    Rows of other images are left out, with a line. InputError for a member that lacks some and can't be made anew; one that a
    pattern matched is passed over.
    """
    reasons, gone, anew = [None] * len(found), [], []
    for index, member in enumerate(found):
        if member.eval is None:
            continue
        apart = lacking(names, member.eval["ImageID"])
        if not apart:
            gone += lacking(member.eval["ImageID"], names)
            member.eval = predictions.of_images(member.eval, names)
            member.fold_tables = [predictions.of_images(table, names) for table in member.fold_tables]
        elif member.source.is_run and not is_brought(member.source, tta):
            anew.append(f"{member.name} {tell_lacking(apart, names, info)}")
            _set_eval(member, [], False)
        elif member.source.matched:
            reasons[index] = f"lacks images of {info}"
        else:
            again = "bring it along anew" if member.source.is_run else "make the ensemble anew"
            raise InputError(f"{member.source.folder / 'eval.csv'}: {tell_lacking(apart, names, info)}; {again}")
    if gone:
        errors.say(tell_gone("eval.csv", set(gone), info))
    if anew:
        more = f", and so do {len(anew) - 1} more" if anew[1:] else ""
        errors.say(f"predicted anew: {anew[0]}{more}")
    return _leave_out(found, reasons)


def lacking(names, others):
    """Those of `names` that `others` do not hold."""
    others = set(others)
    return [name for name in names if name not in others]


def tell_gone(place, gone, info):
    """What to say of images that are left out of a table, as info.csv does not have them."""
    return f"left out of {place}: {len(gone):,} of its images, such as {min(gone)}, not in {info} any more"


def tell_lacking(apart, names, info):
    """What to say of a table that lacks the images `apart` of the `names` in info.csv."""
    return f"lacks {len(apart):,} of the {len(names):,} images of {info}, such as {apart[0]}"


def hold_oof(found, data_dir):
    """Hold the oof tables of members against train.csv of the data folder that is given or found, if it has one.

    People that it does not have are left out, and labels are its own: both with a line. InputError when nobody is left, as of
    other data; with a demo set that was not given nothing is done then.
    """
    place = demo.find(data_dir)
    with_oof = [member for member in found if member.oof is not None]
    if not with_oof or not place or not (place / "train" / "train.csv").is_file():
        return
    people, images, changed, gone = dataset.read_people(place), None, 0, 0
    for member in with_oof:
        if images is None or not member.oof["image"].equals(images):
            images = member.oof["image"]
            rows = dataset.official_rows(member.oof, people)
        if rows.empty and not data_dir and place == demo.DEMO_DIR:
            return
        if rows.empty:
            path, csv = member.source.folder / "oof.csv", place / "train" / "train.csv"
            raise InputError(f"{path}: holds none of the people of {csv}; give the --data-dir that the run was trained on")
        gone = max(gone, len(images) - len(rows))
        columns = dataset.truth_columns(member.target)
        truth = dataset.head_targets(rows, HEADS["multi"] if member.target == "multi" else (SCORED_AS[member.target],))
        member.oof = member.oof if len(rows) == len(images) else member.oof.loc[rows.index].reset_index(drop=True)
        differ = (member.oof[columns].to_numpy() != truth).any(1)
        if differ.any():
            changed = max(changed, int(differ.sum()))
            member.oof = member.oof.assign(**dict(zip(columns, truth.T)))
    if gone:
        errors.say(f"left out of oof.csv: {gone:,} of its images, whose people are not in {place}/train/train.csv any more")
    if changed:
        errors.say(f"{changed:,} images of oof.csv have other labels in {place}/train/train.csv now: those count")


def check_same_images(members, kind, key):
    """InputError that names the two members whose `kind` tables (eval, oof; None: not there) hold different images."""
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
        truth = table[dataset.truth_columns(member.target)].to_numpy(dtype=np.int64).T
        parts |= zip(dataset.DECIDES[member.target], decode(truth[0]) if member.target == "label" else truth)
    return first[["image", "path", "fold"]], encode(*(parts[part] for part in dataset.COMPONENTS))
