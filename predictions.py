"""Saved predictions: the tables oof.csv and eval.csv, whether they are fresh, and members that can be combined.

`RUN/foldI/eval.csv` (`eval_hflip.csv` with that TTA) holds one fold's probabilities, with the digest of the weights that made
them in a json beside it; `RUN/eval.csv` is the mean over the folds that its `eval.json` names. `RUN/oof_hflip.csv` is oof.csv
with that TTA; the json beside it holds the digests of the weights that made it, and its score.
"""

import contextlib
import functools
import glob
import os
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
import experiment
import files
import metrics
from dataset import CLASS_NAMES, HEADS, SCORED_AS, decode, encode, head_slices, scored_probs
from errors import InputError

FORMAT = "%.6g"  # of a probability
SUM_ERROR = 2e-3  # of the probabilities of a head, by rounding: three digits are read


def oof_table(images, fold, target, truth, probs):
    """The oof.csv rows of image rows: `truth` int [N, 1 or 3] official classes, `probs` float [N, num_outputs]."""
    table = pd.DataFrame({"image": images["image"].to_numpy(), "path": images["path"].to_numpy(), "fold": fold})
    table[dataset.truth_columns(target)] = truth
    return pd.concat([table, pd.DataFrame(probs, columns=dataset.columns(target))], axis=1)


def read_table(path, target, keys):
    """A csv of probabilities with `keys` columns as strings, the first of which tells rows apart; those of oof.csv (with the
    key image) have official classes too. InputError names the line of what is no probability or no class or stands twice, and
    of a head whose probabilities don't sum to 1.
    """
    wholes, names = {}, dataset.columns(target)
    if "image" in keys:
        counts = [len(CLASS_NAMES[head]) for head in (HEADS[target] if target == "multi" else [SCORED_AS[target]])]
        wholes = {"fold": files.FOLDS, **dict(zip(dataset.truth_columns(target), counts))}
    table = files.read_numbers(path, keys, names, wholes)
    twice = table[keys[0]].duplicated().to_numpy()
    if twice.any():
        raise InputError(f"{path}, line {twice.argmax() + 2}: {keys[0]} {table[keys[0]].iloc[twice.argmax()]!r} stands twice")
    for head in (names[part] for part in head_slices(target).values()):
        with np.errstate(over="ignore"):
            sums = table[head].to_numpy().sum(1)
        wrong = ~(np.abs(sums - 1) <= SUM_ERROR)
        if wrong.any():
            found = f"{head[0]} to {head[-1]} sum to {sums[wrong.argmax()]:.6g}, not to 1"
            raise InputError(f"{path}, line {wrong.argmax() + 2}: {found}; of logits take the softmax")
    return table


def scored(table, target):
    """(truth [N], probs [N, C]) of an oof.csv table, on what the target is scored on at the official bounds."""
    truth = table[dataset.truth_columns(target)].to_numpy(dtype=np.int64)
    truth = encode(*truth.T) if target == "multi" else truth[:, 0]
    return truth, scored_probs(target, table[dataset.columns(target)].to_numpy(dtype=np.float64))


def eval_table(names, target, probs):
    """The rows of eval.csv: ImageID and probabilities [N, num_outputs]."""
    return pd.concat([pd.DataFrame({"ImageID": names}), pd.DataFrame(probs, columns=dataset.columns(target))], axis=1)


def of_images(table, names):
    """The rows of an eval.csv table for the images `names`, in their order; None where it lacks one of them."""
    if table["ImageID"].tolist() == names:
        return table
    rows = pd.Index(table["ImageID"]).get_indexer(names)
    return None if (rows < 0).any() else table.iloc[rows].reset_index(drop=True)


def mean(tables, target):
    """The mean of eval.csv tables of the same images in one order."""
    probs = np.mean([table[dataset.columns(target)].to_numpy() for table in tables], axis=0)
    return eval_table(tables[0]["ImageID"].tolist(), target, probs)


def submission_table(names, label_probs):
    """The rows of submission.csv: ImageID and the most probable of the 18 classes."""
    return pd.DataFrame({"ImageID": names, "ans": label_probs.argmax(1)})


# ---- eval predictions -------------------------------------------------------------------------------------------------

WRITTEN = ("eval*", "oof_*", "submission")  # names of predictions' files, without their suffixes
_log_once = functools.cache(errors.log)


def select_folds(run, choice):
    """The fold numbers of a run that `choice` names: 'all', 'best' (highest validation F1), or numbers.

    InputError when no fold is complete or a number is not. A run with folds missing is used as it is, with a line that
    says so.
    """
    done = experiment.done_folds(run)
    if not done:
        raise InputError(f"{run}: no fold is complete; python train.py --resume {shlex.quote(str(run))} goes on with it")
    numbers = " ".join(map(str, done))
    if choice == "best":
        return [max(done, key=lambda number: (done[number]["val_f1"] or 0.0, -number))]
    if choice == "all":
        kfold = experiment.read_args(run).get("kfold", 0)
        if len(done) < kfold:
            _log_once(f"{run}: only folds {numbers} of {kfold} are complete")
        return list(done)
    for number in choice:
        if number not in done:
            raise InputError(f"--folds {number}: {run} has the complete folds {numbers}")
    return list(choice)


@contextlib.contextmanager
def predicting(runs):
    """Hold runs while their predictions are made and read: another process waits for its turn, and finds them made.

    The lock is that of args.yaml: training, which holds the folders, goes on.
    """
    with contextlib.ExitStack() as stack:
        for run in sorted({os.path.realpath(run) for run in runs}):  # in one order, or two processes could wait for each other
            waiting = f"waiting for another process that predicts with {run}"
            stack.enter_context(files.lock(Path(run) / "args.yaml", waiting, wait=True))
            for name in WRITTEN:  # what a killed process left half-written: the lock is ours
                for leftover in (*Path(run).glob(f".{name}.*.tmp*"), *Path(run).glob(f"fold*/.{name}.*.tmp*")):
                    files.remove(leftover)
        yield


def fold_files(run, number, tta):
    """(csv, json) of a fold's eval predictions."""
    stem = "eval" if tta == "none" else f"eval_{tta}"
    folder = experiment.fold_dir(run, number)
    return folder / f"{stem}.csv", folder / f"{stem}.json"


def weights_digests(run):
    """{fold: sha256 of its weights} of the complete folds, with keys as JSON has them."""
    return {str(number): metadata["weights_sha256"] for number, metadata in experiment.done_folds(run).items()}


def fold_metadata(run, number, names=None):
    """The json beside a fold's eval predictions: digests of its present weights and of the images `names` (None: of any)."""
    images = {} if names is None else {"images": f"{files.draw_seed(*names):016x}"}
    return {"weights_sha256": weights_digests(run).get(str(number)), **images}


def eval_is_fresh(run, number, tta, names=None):
    """True where a fold's eval predictions are there, made by its present weights for these images (None: for any)."""
    return _is_fresh(fold_files(run, number, tta), fold_metadata(run, number, names))


def _is_fresh(paths, metadata):
    """True where a table is there, and beside it a json that holds this metadata."""
    table, sidecar = paths
    return table.is_file() and sidecar.is_file() and metadata.items() <= files.read_json(sidecar).items()


def fold_tables(run, target, numbers, tta):
    """The eval predictions of folds, a table like eval.csv of each, of the same images in one order.

    None where some are missing, or were made by other weights or of other images: then predict_folds has to make them.
    """
    if not all(eval_is_fresh(run, number, tta) for number in numbers):
        return None
    tables = [read_table(fold_files(run, number, tta)[0], target, ("ImageID",)) for number in numbers]
    names = tables[0]["ImageID"].tolist()
    same = [of_images(table, names) for table in tables if len(table) == len(names)]
    return same if len(same) == len(tables) and all(table is not None for table in same) else None


def write_run_eval(run, target, numbers, tta, table):
    """Write RUN/eval.csv, the mean `table` of these folds, eval.json that names them and, for targets that decide the label,
    RUN/submission.csv; returns the probabilities of the 18 classes or None."""
    run = Path(run)
    files.remove(run / "eval.json")  # invalidate first: eval.csv without its json is made by nobody knows what
    files.write_csv(run / "eval.csv", table, FORMAT)
    files.write_json(run / "eval.json", {"folds": list(numbers), "tta": tta})
    if SCORED_AS[target] != "label":
        return None
    probs = scored_probs(target, table[dataset.columns(target)].to_numpy())
    files.write_csv(run / "submission.csv", submission_table(table["ImageID"].tolist(), probs))
    return probs


def made_of(run):
    """{folds, tta} that RUN/eval.csv is the mean of; {} where nothing tells."""
    sidecar = Path(run) / "eval.json"
    if not sidecar.is_file():
        return {}
    with errors.reading(sidecar, "delete it, and python inference.py makes the predictions anew"):
        made = files.read_json(sidecar)
        return {"folds": [int(number) for number in made["folds"]], "tta": str(made["tta"])}


def known_names(data_dir, tables):
    """(info.csv, ImageIDs in its order) of the data folder that is given or found, to hold lists of images `tables` against.

    None, with a line that says so, where there is none. The drawn demo set is one for its own images alone, if it was not
    given: who tried it may have predicted others since.
    """
    found = demo.find(data_dir)
    if found and (data_dir or (found / "eval" / "info.csv").is_file()):
        path, table = dataset.read_info(found)
        names = table["ImageID"].tolist()
        if data_dir or found != demo.DEMO_DIR or not tables or any(set(names) & set(images) for images in tables):
            return path, names
    if tables:
        errors.log("no data folder here: predictions are not held against its info.csv and train.csv; --data-dir DIR names one")
    return None


# ---- out of fold with TTA ---------------------------------------------------------------------------------------------


def oof_files(run, tta):
    """(csv, json) of a run's out-of-fold predictions with a TTA."""
    return Path(run) / f"oof_{tta}.csv", Path(run) / f"oof_{tta}.json"


def oof_is_fresh(run, tta):
    """True where a run has out-of-fold predictions with a TTA, made by the present weights of all its folds."""
    return _is_fresh(oof_files(run, tta), {"weights_sha256": weights_digests(run)})


# ---- members ----------------------------------------------------------------------------------------------------------

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


@dataclass(eq=False)
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
        matches = [Path(path) for path in sorted(glob.glob(stem)) if Path(path).is_dir()]
        known = [path for path in matches if (path / "args.yaml").is_file() or (path / "recipe.yaml").is_file()]
        others += [(path, "neither a run nor an ensemble") for path in matches if path not in known]
        if not known:
            raise InputError(f"{option} {pattern}: matches no run; python leaderboard.py lists what there is")
        for path in known:
            source = replace(open_source(f"{path}{colon}{fold}", folds), matched=True)
            sources.setdefault(source.name, source)
    _log_passed_over(others)
    return list(sources.values())


def _log_passed_over(passed):
    """A line that counts and names what patterns matched and is passed over, [(name, reason)]."""
    by_reason = {}
    for name, reason in passed:
        by_reason.setdefault(reason, []).append(str(name))
    if passed:
        listed = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
        errors.log(f"passed over, {len(passed)} of what patterns match: {listed}")


def _leave_out(members, reasons):
    """The members that there is no reason against, with a line that names the others; InputError when none is left."""
    _log_passed_over([(member.name, reason) for member, reason in zip(members, reasons) if reason])
    left = [member for member, reason in zip(members, reasons) if not reason]
    if not left:
        raise InputError("--models: nothing that the patterns match can take part, see above; name what shall")
    return left


def has_oof(source, tta):
    """True where out-of-fold predictions with a TTA are there; those of an ensemble are as it was made."""
    return tta == "none" or not source.is_run or oof_is_fresh(source.folder, tta)


def read_oof(source, tta="none"):
    """The oof.csv table of a source, or None where it has none (a nofold run, an ensemble with one).

    That of a TTA where `has_oof` says that it is there, else the plain one. InputError when a run has complete folds that its
    oof.csv was made without, as those that were trained elsewhere and copied into it; a source that a pattern matched is None
    then.
    """
    plain = tta == "none" or not source.is_run or not has_oof(source, tta)
    path = source.folder / "oof.csv" if plain else oof_files(source.folder, tta)[0]
    table = read_table(path, source.target, ("image", "path")) if path.is_file() else None
    apart = _folds_apart(source, table)
    if apart and not source.matched:
        again = f"python train.py --resume {shlex.quote(str(source.folder))}"
        raise InputError(f"{source.folder / 'oof.csv'}: lacks the complete fold {apart[0]}; {again} puts it together anew")
    return table


def _folds_apart(source, oof):
    """The complete folds of a run that its oof.csv lacks."""
    return sorted(experiment.done_folds(source.folder).keys() - set(oof["fold"])) if source.is_run and oof is not None else []


def read_oofs(sources, tta="none", needs_oof=False, needs_eval=True):
    """The members of sources, with their oof.csv alone. What a pattern matched and can't take part is passed over.

    That are those without oof.csv where it is needed or, where eval predictions are, without a complete fold; and those of
    other train images than the named member that has the most or, where none is named, than the one that has.
    """
    members = [Member(source, [], None, read_oof(source, tta)) for source in sources]
    reasons = [member.source.matched and _lacks(member, tta, needs_oof, needs_eval) for member in members]
    able = [member for member, reason in zip(members, reasons) if not reason and member.oof is not None]
    first = max(able, key=lambda member: (not member.source.matched, len(member.oof)), default=None)
    for index, member in enumerate(members):
        if member in able and member.source.matched and set(member.oof["image"]) != set(first.oof["image"]):
            reasons[index] = f"other train images than {first.name}"
    return _leave_out(members, reasons)


def _lacks(member, tta, needs_oof, needs_eval):
    """The reason why a member can't take part, whatever the others are, or None."""
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


def is_brought(source, tta):
    """True for a run that was brought along without its folds, with an eval.csv that is what is asked for."""
    asked = source.is_run and (source.choice, tta) == ("all", made_of(source.folder).get("tta", "none"))
    return asked and (source.folder / "eval.csv").is_file() and not experiment.done_folds(source.folder)


def read_eval(source, tta="none"):
    """([tables like eval.csv], folds) from what is saved: one of each fold, or of an ensemble or a run that was brought along
    without its folds the only one; ([], folds) where inference.py has to run first."""
    if not source.is_run or is_brought(source, tta):
        folds = made_of(source.folder).get("folds", []) if source.is_run else []
        return [read_table(source.folder / "eval.csv", source.target, ("ImageID",))], folds
    numbers = select_folds(source.folder, source.choice)
    return fold_tables(source.folder, source.target, numbers, tta) or [], numbers


def read_members(sources, tta, predict, by_fold=False, needs_oof=False, data_dir=None):
    """The members of sources, with tables of the images of info.csv and the people of train.csv, where a data folder is given
    or found. See `read_oofs` for what is passed over.

    `predict(jobs)` is called with the (run, fold number) pairs whose eval predictions are missing or lack images, when nothing
    is left that could be refused. by_fold: with the tables of their folds. InputError when members hold different images.
    """
    members = read_oofs(sources, tta, needs_oof)
    check_same_images(members, "oof", "image")
    align_oof(members, data_dir)
    for member in members:
        tables, member.folds = read_eval(member.source, tta)
        _set_eval(member, tables, by_fold)
    known = known_names(data_dir, [list(member.eval["ImageID"]) for member in members if member.eval is not None])
    members = align_eval(members, tta, *known) if known else members
    blend.check_decided([member.target for member in members])
    check_same_images(members, "eval", "ImageID")
    missing = [member for member in members if member.eval is None]
    if missing and not known and len(missing) < len(members):
        raise InputError(f"{missing[0].name}: has no eval predictions, and no data folder here can give them; give --data-dir")
    if missing:
        predict(list(dict.fromkeys((member.source.folder, number) for member in missing for number in member.folds)))
    for member in missing:
        _set_eval(member, read_eval(member.source, tta)[0], by_fold)
    for member in members:
        run, made = member.source.folder, {"folds": list(member.folds), "tta": tta}
        if member.source.choice == "all" and (
            not (run / "eval.csv").is_file() or (member in missing and made_of(run) == made)
        ):  # what inference.py wrote of other folds stays
            write_run_eval(run, member.target, member.folds, tta, member.eval)
    return members


def _set_eval(member, tables, by_fold):
    """Give a member the mean of tables of its folds (None: there are none) and, `by_fold`, the tables themselves."""
    member.eval = mean(tables, member.target) if tables else None
    member.fold_tables = tables if by_fold else []


def align_eval(members, tta, info, names):
    """Members whose eval tables have the rows of info.csv, `names`, in its order, or are None where they have to be made.

    Rows of other images are left out, with a line. InputError for a member that lacks some and can't be made anew; one that a
    pattern matched is passed over.
    """
    reasons, gone, anew = [None] * len(members), set(), []
    for index, member in enumerate(members):
        if member.eval is None:
            continue
        apart = lacking(names, member.eval["ImageID"])
        if not apart:
            gone |= set(lacking(member.eval["ImageID"], names))
            member.eval = of_images(member.eval, names)
            member.fold_tables = [of_images(table, names) for table in member.fold_tables]
        elif member.source.is_run and not is_brought(member.source, tta):
            anew.append(f"{member.name} {lacking_message(apart, names, info)}")
            _set_eval(member, [], False)
        elif member.source.matched:
            reasons[index] = f"lacks images of {info}"
        else:
            again = "bring it along anew" if member.source.is_run else "make the ensemble anew"
            raise InputError(f"{member.source.folder / 'eval.csv'}: {lacking_message(apart, names, info)}; {again}")
    if gone:
        errors.log(gone_message("eval.csv", gone, info))
    if anew:
        more = f", and so do {len(anew) - 1} more" if anew[1:] else ""
        errors.log(f"predicted anew: {anew[0]}{more}")
    return _leave_out(members, reasons)


def lacking(names, others):
    """Those of `names` that `others` do not hold."""
    others = set(others)
    return [name for name in names if name not in others]


def gone_message(place, gone, info):
    """The line about images that are left out of a table, as info.csv does not have them."""
    return f"left out of {place}: {len(gone):,} of its images, such as {min(gone)}, not in {info} any more"


def lacking_message(apart, names, info):
    """The words about a table that lacks the images `apart` of the `names` in info.csv."""
    return f"lacks {len(apart):,} of the {len(names):,} images of {info}, such as {apart[0]}"


def align_oof(members, data_dir):
    """Hold the oof tables of members against train.csv of the data folder that is given or found, if it has one.

    People that it does not have are left out, and labels are its own: both with a line. InputError when nobody is left, as of
    other data; with a demo set that was not given nothing is done then.
    """
    place = demo.find(data_dir)
    if not place or not (place / "train" / "train.csv").is_file():
        return
    people, changed, gone = dataset.read_people(place), 0, 0
    for member in (member for member in members if member.oof is not None):
        rows = dataset.official_rows(member.oof, people)
        if rows.empty and not data_dir and place == demo.DEMO_DIR:
            return
        if rows.empty:
            path, csv = member.source.folder / "oof.csv", place / "train" / "train.csv"
            raise InputError(f"{path}: holds none of the people of {csv}; give the --data-dir that the run was trained on")
        columns = dataset.truth_columns(member.target)
        truth = dataset.head_targets(rows, HEADS["multi"] if member.target == "multi" else (SCORED_AS[member.target],))
        gone = max(gone, len(member.oof) - len(rows))
        kept = member.oof.loc[rows.index].reset_index(drop=True)
        changed = max(changed, int((kept[columns].to_numpy() != truth).any(1).sum()))
        member.oof = kept.assign(**dict(zip(columns, truth.T)))
    if gone:
        errors.log(f"left out of oof.csv: {gone:,} of its images, whose people are not in {place}/train/train.csv any more")
    if changed:
        errors.log(f"{changed:,} images of oof.csv have other labels in {place}/train/train.csv now: those count")


def check_same_images(members, kind, key):
    """InputError that names the two members whose `kind` tables (eval, oof; None: not there) hold different images."""
    tables = [(member.name, getattr(member, kind)) for member in members if getattr(member, kind) is not None]
    for name, table in tables[1:]:
        apart = set(table[key]) ^ set(tables[0][1][key])
        if apart:
            raise InputError(
                f"{name} and {tables[0][0]}: their {kind}.csv hold different images ({len(apart)} in one alone, such as "
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


# ---- summary ----------------------------------------------------------------------------------------------------------


def write_summary(run, target, kfold):
    """Put oof.csv and summary.json of a run together from its complete folds; returns the summary (a dict).

    All scores are against official labels. A nofold run has no oof.csv and its scores are None. The options of args.yaml and
    the people stand in it too, so that a list of runs reads one file of each.
    """
    run, scores = Path(run), {"oof_f1": None, "oof_acc": None, "oof_f1_ci95": None}
    with files.lock(run, wait=True):
        folds = list(experiment.done_folds(run).values())  # under the lock: of several processes the last to write sees all
        if kfold:
            paths = [experiment.fold_dir(run, fold["fold"]) / "oof.csv" for fold in folds]
            table = pd.concat([read_table(path, target, ("image", "path")) for path in paths], ignore_index=True)
            files.write_csv(run / "oof.csv", table, FORMAT)
            truth, probs = scored(table, target)
            pred, C = probs.argmax(1), probs.shape[1]
            low, high = metrics.interval(metrics.bootstrap_f1(truth, pred, table["path"].to_numpy(), C))
            scores = {
                "oof_f1": round(metrics.macro_f1(truth, pred, C), 6),
                "oof_acc": round(metrics.accuracy(truth, pred, C), 6),
                "oof_f1_ci95": [round(float(low), 6), round(float(high), 6)],
            }
        summary = {
            "name": run.name,
            "target": target,
            "kfold": kfold,
            "folds": [{key: fold[key] for key in ("fold", "best_epoch", "val_f1", "val_acc")} for fold in folds],
            **scores,
            "seconds": round(sum(fold["seconds"] for fold in folds), 1),
            "images_per_second": round(float(np.mean([fold["images_per_second"] for fold in folds])), 1),
            "peak_memory_mib": max(fold["peak_memory_mib"] for fold in folds),
            "people": experiment.validated_people(run),
            "options": experiment.read_args(run),
        }
        files.write_json(run / "summary.json", summary)
    return summary
