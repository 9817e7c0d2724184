"""Saved predictions: the tables oof.csv and eval.csv, whether they are fresh, members that can be combined, pseudo-labels.

A fold has eval.csv (eval_hflip.csv with that TTA) and beside it a json with the digest of the weights that made it; a run has
the mean over the folds that its eval.json names, oof.csv, and oof_hflip.csv with a json of the weights and its score.
"""

import contextlib
import functools
import glob
import os
import re
import shlex
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

import blend
import dataset
import errors
import experiment
import files
import metrics
from dataset import CLASS_NAMES, HEADS, SCORED_AS, decode, encode, head_slices, scored_probs
from errors import InputError

FORMAT = "%.6g"  # of a probability
SUM_ERROR = 2e-3  # of the probabilities of a head, by rounding: three digits are read
PSEUDO_FORMAT = "%.9g"  # float32 as text and back, bit by bit
ONE_FOLD = re.compile(r"(?P<run>.+):(?:fold(?P<number>\d+)|(?P<best>best))")
_log_once = functools.cache(errors.log)


def oof_table(images, fold, target, truth, probs):
    """The oof.csv rows of image rows: `truth` int [N, 1 or 3] official classes, `probs` float [N, num_outputs]."""
    table = pd.DataFrame({"image": images["image"].to_numpy(), "path": images["path"].to_numpy(), "fold": fold})
    table[dataset.truth_columns(target)] = truth
    return pd.concat([table, pd.DataFrame(probs, columns=dataset.columns(target))], axis=1)


def read_table(path, target, keys):
    """A csv of probabilities: `keys` are strings, of which the first tells rows apart; with image official classes too."""
    wholes, names = {}, dataset.columns(target)
    if "image" in keys:
        counts = [len(CLASS_NAMES[head]) for head in (HEADS[target] if target == "multi" else [SCORED_AS[target]])]
        wholes = {"fold": files.FOLDS, **dict(zip(dataset.truth_columns(target), counts))}
    table = files.read_numbers(path, keys, names, wholes)
    files.check_rows(path, table, table[keys[0]], ~table[keys[0]].duplicated(), f"{keys[0]} {{!r}} appears twice")
    for head in (names[place] for place in head_slices(target).values()):
        with np.errstate(over="ignore"):
            sums = table[head].to_numpy().sum(1)
        problem = f"{head[0]} to {head[-1]} sum to {{:.6g}}, not to 1; of logits take the softmax"
        files.check_rows(path, table, sums, np.abs(sums - 1) <= SUM_ERROR, problem)
    return table


def macro_f1(truth, probs):
    """Macro F1 of the most probable classes of `probs` [N, C]."""
    return metrics.macro_f1(truth, probs.argmax(1), probs.shape[1])


def scored(table, target):
    """(truth [N], probs [N, C]) of an oof.csv table, on what the target is scored on at the official bounds."""
    truth = table[dataset.truth_columns(target)].to_numpy(dtype=np.int64)
    truth = encode(*truth.T) if target == "multi" else truth[:, 0]
    return truth, scored_probs(target, table[dataset.columns(target)].to_numpy(dtype=np.float64))


def read_answers(folder, target):
    """oof.csv of a run or an ensemble as a DataFrame image, path, truth, answer: classes of what the target is scored on."""
    table = read_table(Path(folder) / "oof.csv", target, ("image", "path"))
    truth, probs = scored(table, target)
    return table[["image", "path"]].assign(truth=truth, answer=probs.argmax(1))


class Difference(namedtuple("Difference", "value low high")):
    """Macro F1 of A minus that of B, and its 95 % interval over people."""

    @property
    def verdict(self):
        return metrics.verdict(self.low, self.high)


def answers_f1(scored_as, table):
    """Macro F1 of a `read_answers` table."""
    return metrics.macro_f1(table["truth"], table["answer"], len(CLASS_NAMES[scored_as]))


def difference(scored_as, a, b):
    """The Difference of the mean macro F1 of each of two lists of `read_answers` tables, of the same images in one order."""
    f1_a, f1_b = (np.mean([answers_f1(scored_as, table) for table in side]) for side in (a, b))
    first, preds = a[0], ([table["answer"] for table in side] for side in (a, b))
    samples = metrics.bootstrap_difference(first["truth"], *preds, first["path"], len(CLASS_NAMES[scored_as]))
    return Difference(f1_a - f1_b, *metrics.interval(samples))


def error_correlation(a, b):
    """metrics.phi of the errors in two `read_answers` tables of the same images in one order."""
    return metrics.phi(*((table["answer"] != table["truth"]).to_numpy() for table in (a, b)))


def eval_table(names, target, probs):
    """The rows of eval.csv: ImageID and probabilities [N, num_outputs]."""
    return pd.concat([pd.DataFrame({"ImageID": names}), pd.DataFrame(probs, columns=dataset.columns(target))], axis=1)


def mean(tables, target):
    """The mean of eval.csv tables of the same images in one order."""
    probs = np.mean([table[dataset.columns(target)].to_numpy() for table in tables], axis=0)
    return eval_table(tables[0]["ImageID"].tolist(), target, probs)


def select_folds(run, choice):
    """The complete folds of a run that `choice` names: 'all', 'best' (highest validation F1), or numbers."""
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
    """Hold runs while their predictions are made and read; training, which holds their folders, goes on meanwhile."""
    with contextlib.ExitStack() as stack:
        for run in sorted({os.path.realpath(run) for run in runs}):  # in one order, or two processes could wait for each other
            waiting = f"waiting for another process that predicts with {run}"
            stack.enter_context(files.lock(Path(run) / "args.yaml", waiting, wait=True))
            for folder in (Path(run), *Path(run).glob("fold*")):
                for name in ("eval*", "oof_*", "submission"):
                    files.remove_leftovers(folder, name)
        yield


def file_of(folder, kind, tta):
    """The csv with a TTA of a kind: eval in the folder of a fold, oof in that of a run. A json beside it has its metadata."""
    return Path(folder) / (f"{kind}.csv" if tta == "none" else f"{kind}_{tta}.csv")


def write_with_metadata(path, table, metadata):
    """Write a csv of probabilities and the json beside it."""
    files.remove(path.with_suffix(".json"))  # invalidate first: a csv without its json is treated as missing
    files.write_csv(path, table, FORMAT)
    files.write_json(path.with_suffix(".json"), metadata)


def made_by(run, number=None, names=None):
    """The json beside predictions begins so: digests of a fold's present weights (None: of all), and of the images `names`."""
    digests = {str(fold): metadata["weights_sha256"] for fold, metadata in experiment.done_folds(run).items()}
    images = {} if names is None else {"images": f"{files.draw_seed(*names):016x}"}
    return {"weights_sha256": digests if number is None else digests.get(str(number)), **images}


def is_fresh(run, tta, number=None, names=None):
    """True where a fold has eval predictions (None: a run out-of-fold ones) by its present weights, of the images `names`."""
    path = file_of(run, "oof", tta) if number is None else file_of(experiment.fold_dir(run, number), "eval", tta)
    sidecar = path.with_suffix(".json")
    return path.is_file() and sidecar.is_file() and made_by(run, number, names).items() <= files.read_json(sidecar).items()


def fold_tables(run, target, numbers, tta):
    """Fresh eval predictions of folds, of the same images in one order; [] where predict_folds has to make some first."""
    if not all(is_fresh(run, tta, number) for number in numbers):
        return []
    paths = [file_of(experiment.fold_dir(run, number), "eval", tta) for number in numbers]
    tables = [read_table(path, target, ("ImageID",)) for path in paths]
    return tables if all(table["ImageID"].equals(tables[0]["ImageID"]) for table in tables) else []


def write_run_eval(run, target, numbers, tta, table):
    """Write RUN/eval.csv, the mean `table` of folds, and, of the label, submission.csv; returns its probabilities or None."""
    write_with_metadata(run / "eval.csv", table, {"folds": list(numbers), "tta": tta})
    if SCORED_AS[target] != "label":
        return None
    probs = scored_probs(target, table[dataset.columns(target)].to_numpy())
    files.write_csv(run / "submission.csv", table[["ImageID"]].assign(ans=probs.argmax(1)))
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
    """(info.csv, ImageIDs in its order) of the data folder that is given or found, to hold lists of images `tables` against;
    None, with a line, where there is none. The demo set, if not given, is one for its own images alone."""
    folder = dataset.find_data(data_dir)
    if folder and (data_dir or (folder / "eval" / "info.csv").is_file()):
        path, table = dataset.read_info(folder)
        names = table["ImageID"].tolist()
        if data_dir or folder != dataset.DEMO_DIR or not tables or any(set(names) & set(images) for images in tables):
            return path, names
    if tables:
        errors.log("no data folder here: predictions are not held against its info.csv and train.csv; --data-dir DIR names one")


@dataclass(eq=False)
class Member:
    """A run (`choice` of its folds: 'all', 'best', [2]) or an ensemble (`choice` None), and its tables once they are read:
    eval is the mean of `folds`. matched: found by a pattern, not named by anybody, so it may be skipped."""

    name: str
    folder: Path
    target: str
    choice: str | list | None
    matched: bool = False
    folds: list = ()
    eval: pd.DataFrame | None = None
    oof: pd.DataFrame | None = None
    fold_tables: list = ()

    @property
    def is_run(self):
        return self.choice is not None

    @property
    def scored_as(self):
        return SCORED_AS[self.target]

    @property
    def options(self):
        """args.yaml of a run, recipe.yaml of an ensemble (a dict)."""
        return (experiment.read_args if self.is_run else experiment.read_recipe)(self.folder)

    @property
    def note(self):
        return experiment.note_of(self.folder, self.options)

    def best_weights(self, fold):
        return experiment.best_weights(self.folder, fold)

    def fold_probs(self, names):
        """Probabilities [N, num_outputs(target)] of eval images, in the order of `names`, of each fold, or of their mean."""
        return [self._probs(table, "ImageID", names) for table in self.fold_tables or [self.eval]]

    def oof_probs(self, images):
        """Out-of-fold probabilities [N, num_outputs(target)] of train images, in the order of `images`."""
        return self._probs(self.oof, "image", images)

    def _probs(self, table, key, names):
        return table.set_index(key)[dataset.columns(self.target)].loc[names].to_numpy()


def open_member(name, folds="all"):
    """The Member, without tables, of a folder, RUN:foldN or RUN:best; `folds` is the choice for a plain run."""
    one = ONE_FOLD.fullmatch(name)
    folder = Path(one["run"] if one else name)
    if (folder / "recipe.yaml").is_file():
        if one:
            raise InputError(f"{name}: {folder} is an ensemble; only runs of train.py have folds")
        return Member(str(folder), folder, "label", None)
    run = experiment.find_run(folder)
    target = experiment.read_args(run)["target"]
    if one:
        return Member(name, run, target, "best" if one["best"] else [int(one["number"])])
    return Member(str(run), run, target, folds)


def runs_by_weight(member, component=None):
    """The run Members behind a Member that are still there, that of greatest weight first: on a component, or over all."""
    if member.is_run:
        return [member]

    def weight(row):
        own = row.get("weight") or 0
        if not isinstance(own, dict):
            return own
        return max(own.get(component, 0), own.get("label", 0)) if component else sum(own.values())

    runs = []
    for row in sorted(member.options.get("members", []), key=weight, reverse=True):
        with contextlib.suppress(InputError):
            runs += runs_by_weight(open_member(row["run"], row.get("folds") or "all"), component)
    return runs


def find_members(patterns, folds="all", option="--models"):
    """The members of names and glob patterns, which may end in :best or :foldN, each once, without tables."""
    members, passed = {}, {}
    for pattern in patterns:
        stem, colon, fold = pattern.rpartition(":") if ONE_FOLD.fullmatch(pattern) else (pattern, "", "")
        if not glob.has_magic(stem) or Path(stem).is_dir():
            member = open_member(pattern, folds)
            members[member.name] = member
            continue
        folders = [Path(path) for path in sorted(glob.glob(stem)) if Path(path).is_dir()]
        valid = [one for one in folders if (one / "args.yaml").is_file() or (one / "recipe.yaml").is_file()]
        if not valid:
            raise InputError(f"{option} {pattern}: matches no run; python leaderboard.py lists what there is")
        passed |= {str(folder): "neither a run nor an ensemble" for folder in folders if folder not in valid}
        for folder in valid:
            member = replace(open_member(f"{folder}{colon}{fold}", folds), matched=True)
            members.setdefault(member.name, member)
    return _leave_out(members.values(), passed)


def _leave_out(members, passed):
    """The members that are not among `passed`, {name: reason}, which a line lists; InputError when none is left."""
    if passed:
        reasons = {reason: [name for name in passed if passed[name] == reason] for reason in passed.values()}
        listed = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        errors.log(f"skipped, {len(passed)} of what patterns match: {listed}")
    left = [member for member in members if member.name not in passed]
    if not left:
        raise InputError("--models: nothing that the patterns match can take part, see above; name what shall")
    return left


def has_oof(member, tta):
    """True where out-of-fold predictions with a TTA are there; those of an ensemble are as it was made."""
    return tta == "none" or not member.is_run or is_fresh(member.folder, tta)


def read_oof(member, tta="none"):
    """The oof.csv table of a member, with the TTA where `has_oof`; None where it has none."""
    path = file_of(member.folder, "oof", tta if member.is_run and has_oof(member, tta) else "none")
    table = read_table(path, member.target, ("image", "path")) if path.is_file() else None
    copied = _folds_apart(member, table)
    if copied and not member.matched:  # as of folds that were trained elsewhere and copied into it
        again = f"python train.py --resume {shlex.quote(str(member.folder))}"
        raise InputError(f"{member.folder / 'oof.csv'}: lacks the complete fold {copied[0]}; {again} puts it together anew")
    return table


def _folds_apart(member, oof):
    """The complete folds of a run that its oof.csv lacks."""
    return sorted(experiment.done_folds(member.folder).keys() - set(oof["fold"])) if member.is_run and oof is not None else []


def read_oofs(members, tta="none", needs_oof=False, needs_eval=True):
    """The members with oof.csv. Those that a pattern matched are skipped without what is needed, and with other train
    images than the member that is named or, where none is, than that with the most."""
    passed = {}
    for member in members:
        member.oof = read_oof(member, tta)
        done = experiment.done_folds(member.folder) if member.matched and member.is_run else {}
        wanted = member.choice[0] if isinstance(member.choice, list) else next(iter(done), None)
        if member.matched and needs_oof and member.oof is None:
            passed[member.name] = "no oof.csv"
        elif member.matched and member.is_run and needs_eval and wanted not in done and not is_brought(member, tta):
            passed[member.name] = "fold not complete"
        elif member.matched and _folds_apart(member, member.oof):
            passed[member.name] = "oof.csv lacks a complete fold"
    able = [member for member in members if member.name not in passed and member.oof is not None]
    first = max(able, key=lambda member: (not member.matched, len(member.oof)), default=None)
    for member in able:
        if member.matched and set(member.oof["image"]) != set(first.oof["image"]):
            passed[member.name] = f"other train images than {first.name}"
    return _leave_out(members, passed)


def is_brought(member, tta):
    """True for a run that was brought along without its folds, with an eval.csv that is what is asked for."""
    asked = member.is_run and (member.choice, tta) == ("all", made_of(member.folder).get("tta", "none"))
    return asked and (member.folder / "eval.csv").is_file() and not experiment.done_folds(member.folder)


def read_eval(member, tta="none"):
    """([a table of each fold, or the only one of an ensemble or a run that was brought], folds); [] where none is made yet."""
    if not member.is_run or is_brought(member, tta):
        folds = made_of(member.folder).get("folds", []) if member.is_run else []
        return [read_table(member.folder / "eval.csv", member.target, ("ImageID",))], folds
    numbers = select_folds(member.folder, member.choice)
    return fold_tables(member.folder, member.target, numbers, tta), numbers


def read_members(members, tta, predict, by_fold=False, needs_oof=False, data_dir=None):
    """The members with tables of the images of info.csv and the people of train.csv, where a data folder is given or found.
    `predict(jobs)` makes eval predictions of (run, fold number) pairs, once all is checked. by_fold: with the folds' tables."""
    members = read_oofs(members, tta, needs_oof)
    check_same_images(members, "oof", "image")
    align_oof(members, data_dir)
    for member in members:
        _read_eval(member, tta, by_fold)
    known = known_names(data_dir, [list(member.eval["ImageID"]) for member in members if member.eval is not None])
    members = align_eval(members, tta, *known) if known else members
    blend.check_decided([member.target for member in members])
    check_same_images(members, "eval", "ImageID")
    missing = [member for member in members if member.eval is None]
    if missing and not known and len(missing) < len(members):
        raise InputError(f"{missing[0].name}: has no eval predictions, and no data folder here can give them; give --data-dir")
    if missing:
        predict(list(dict.fromkeys((member.folder, number) for member in missing for number in member.folds)))
    for member in missing:
        _read_eval(member, tta, by_fold)
    for member in (member for member in members if member.choice == "all"):
        is_made = member in missing and made_of(member.folder) == {"folds": list(member.folds), "tta": tta}
        if is_made or not (member.folder / "eval.csv").is_file():  # what inference.py wrote of other folds stays
            write_run_eval(member.folder, member.target, member.folds, tta, member.eval)
    return members


def _read_eval(member, tta, by_fold):
    """Give a member the mean of the tables of its folds, None where there are none yet, and with `by_fold` the tables."""
    tables, member.folds = read_eval(member, tta)
    member.eval = mean(tables, member.target) if tables else None
    member.fold_tables = tables if by_fold else []


def align_eval(members, tta, info, names):
    """Members whose eval tables have the rows of info.csv, `names`, in its order, or are None where they have to be made."""
    passed, gone = {}, set()
    for member in (member for member in members if member.eval is not None):
        images = pd.Index(member.eval["ImageID"])
        lack = lacks(images, names, info)
        if not lack:
            gone |= set(images) - set(names)
            rows = images.get_indexer(names)
            tables = [table.iloc[rows].reset_index(drop=True) for table in (member.eval, *member.fold_tables)]
            member.eval, *member.fold_tables = tables
        elif member.is_run and not is_brought(member, tta):
            errors.log(f"predicted anew: {member.name} {lack}")
            member.eval, member.fold_tables = None, []
        elif member.matched:
            passed[member.name] = f"lacks images of {info}"
        else:
            again = "bring it along anew" if member.is_run else "make the ensemble anew"
            raise InputError(f"{member.folder / 'eval.csv'}: {lack}; {again}")
    if gone:
        errors.log(gone_message("eval.csv", gone, info))
    return _leave_out(members, passed)


def gone_message(place, gone, info):
    """The line about images that are left out of a table, as info.csv does not have them."""
    return f"left out of {place}: {len(gone):,} of its images, such as {min(gone)}, not in {info} any more"


def lacks(images, names, info):
    """The words about a table of `images` that lacks some of the `names` in info.csv, or ''."""
    missing = [name for name, row in zip(names, pd.Index(images).get_indexer(names)) if row < 0]
    return f"lacks {len(missing):,} of the {len(names):,} images of {info}, such as {missing[0]}" if missing else ""


def align_oof(members, data_dir):
    """Keep the rows of oof tables whose people train.csv of the data folder that is given or found has, with its labels; lines
    tell of both. InputError when nobody is left, as of other data; a demo set that was not given is no matter then."""
    place, changed, gone = dataset.find_data(data_dir), 0, 0
    if not place or not (csv := place / "train" / "train.csv").is_file():
        return
    people = dataset.read_people(place)
    for member in (member for member in members if member.oof is not None):
        rows = dataset.official_rows(member.oof, people)
        if rows.empty and not data_dir and place == dataset.DEMO_DIR:
            return
        if rows.empty:
            given = f"{member.folder / 'oof.csv'}: holds none of the people of {csv}"
            raise InputError(f"{given}; give the --data-dir that the run was trained on")
        columns = dataset.truth_columns(member.target)
        truth = dataset.head_targets(rows, HEADS["multi"] if member.target == "multi" else (SCORED_AS[member.target],))
        kept = member.oof.loc[rows.index].reset_index(drop=True)
        gone = max(gone, len(member.oof) - len(rows))
        changed = max(changed, int((kept[columns].to_numpy() != truth).any(1).sum()))
        member.oof = kept.assign(**dict(zip(columns, truth.T)))
    if gone:
        errors.log(f"left out of oof.csv: {gone:,} of its images, whose people are not in {csv} any more")
    if changed:
        errors.log(f"{changed:,} images of oof.csv have other labels in {csv} now: those count")


def check_same_images(members, kind, key):
    """InputError that names the two members whose `kind` tables (eval, oof; None: not there) hold different images."""
    tables = [(member.name, getattr(member, kind)) for member in members if getattr(member, kind) is not None]
    for name, table in tables[1:]:
        unshared = set(table[key]) ^ set(tables[0][1][key])
        if unshared:
            problem = f"hold different images ({len(unshared)} in one alone, such as {min(unshared)})"
            advice = "combine complete runs of the same data, --limit-people and --kfold"
            raise InputError(f"{name} and {tables[0][0]}: their {kind}.csv {problem}; {advice}")


def oof_truth(members):
    """(rows of the first oof.csv: image, path, fold; official labels int64 [N]) of members that together decide the label."""
    first, classes = members[0].oof, {}
    for member in members:
        table = member.oof.set_index("image").loc[first["image"]]
        truth = table[dataset.truth_columns(member.target)].to_numpy(dtype=np.int64).T
        classes |= zip(dataset.DECIDES[member.target], decode(truth[0]) if member.target == "label" else truth)
    return first[["image", "path", "fold"]], encode(*(classes[component] for component in dataset.COMPONENTS))


def write_summary(run, target, kfold):
    """Write oof.csv and summary.json of a run from its complete folds; returns the summary, a dict that holds the options."""
    scores = dict.fromkeys(("oof_f1", "oof_acc", "oof_f1_ci95"))
    with files.lock(run, wait=True):
        folds = list(experiment.done_folds(run).values())  # under the lock: of several processes the last to write sees all
        if kfold:
            paths = [experiment.fold_dir(run, fold["fold"]) / "oof.csv" for fold in folds]
            table = pd.concat([read_table(path, target, ("image", "path")) for path in paths], ignore_index=True)
            files.write_csv(run / "oof.csv", table, FORMAT)
            truth, probs = scored(table, target)
            pred, C = probs.argmax(1), probs.shape[1]
            low_high = metrics.interval(metrics.bootstrap_f1(truth, pred, table["path"].to_numpy(), C))
            scores = {
                "oof_f1": round(metrics.macro_f1(truth, pred, C), 6),
                "oof_acc": round(float(np.mean(truth == pred)), 6),
                "oof_f1_ci95": [round(float(bound), 6) for bound in low_high],
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


def people_draws(runs, resamples):
    """Macro F1 of runs (folder, target, scored_as) on the same `resamples` draws of people: float64 [runs, resamples]."""
    draws, first = [], None
    for run in runs:
        table = read_answers(run.folder, run.target).sort_values("image")
        labels = list(zip(table["image"], table["truth"]))
        first = first or labels
        if labels != first:
            raise InputError(f"{run.folder / 'oof.csv'}: other images or official labels than in {runs[0].folder}")
        classes = len(CLASS_NAMES[run.scored_as])
        draws.append(metrics.bootstrap_f1(table["truth"], table["answer"], table["path"], classes, resamples))
    return np.stack(draws)


def averaging_gain(member):
    """The expected gain of the eval predictions of a member over its out-of-fold ones, for which no folds are averaged."""
    used = [one for one in member.options.get("members", []) if experiment.is_used(one)]
    if member.is_run:
        folds = made_of(member.folder).get("folds") or experiment.done_folds(member.folder)
        used = [{"target": "label", "folds": list(folds)}]
    models = sum(len(dataset.DECIDES[one["target"]]) for one in used) / len(dataset.COMPONENTS)
    return metrics.GAIN * sum(1 - 1 / max(len(one["folds"]), 1) for one in used) / len(used) / models


def forecast_lb(lbs, best=None, public=None):
    """{folder: metrics.Forecast} of those runs and ensembles of `lbs`, {folder: its leaderboard score or None}, that decide the
    label and are scored out of fold on the same people (the most that are). `best`: the score to beat. `public`: how many
    people the public leaderboard has; None: half of those of a submission, seven images each, or the contest's 900. Folders
    with the very submission.csv of one that has a score are left out."""
    texts = {folder: path.read_bytes() for folder in lbs if (path := Path(folder) / "submission.csv").is_file()}
    handed_in = {text for folder, text in texts.items() if lbs[folder] is not None}
    by_set = {}
    for folder, lb in lbs.items():
        if lb is None and texts.get(folder) in handed_in:
            continue
        with contextlib.suppress(InputError, KeyError, TypeError, ValueError, ZeroDivisionError):  # a folder without a forecast
            member = open_member(str(folder))
            table = read_answers(folder, member.target).sort_values("image")
            row = folder, table["answer"], np.nan if lb is None else lb, averaging_gain(member)
            key = *table["image"], *table["path"], *table["truth"]
            by_set.setdefault(key, (table["truth"], table["path"], []))[2].append(row)
            if public is None and folder in texts:
                public = max(texts[folder].count(b"\n") // 14, 1)
    if not by_set:
        return {}
    truth, paths, rows = max(by_set.values(), key=lambda group: len(group[2]))
    folders, preds, known, gains = zip(*rows)
    draws = [metrics.bootstrap_f1(truth, pred, paths, len(dataset.LABELS), 500) for pred in preds]
    scores = [metrics.macro_f1(truth, pred, len(dataset.LABELS)) for pred in preds]
    forecasts = metrics.forecast(scores, draws, known, gains, len(set(paths)), public or 900, best)
    return dict(zip(folders, forecasts))


def find_runs(source):
    """The run folders behind --pseudo: a run, or the members of an ensemble that have any weight, each once. How much weight is
    of no use here, as it is fitted to the labels of everyone."""
    members = [open_member(str(source))]
    if members[0].choice not in ("all", None):
        raise InputError(f"--pseudo {source}: takes a whole run or an ensemble; folds go by what they have seen")
    for one in members:  # which grows: ensembles may be members
        rows = [] if one.is_run else one.options.get("members", [])
        more = [open_member(row["run"]) for row in rows if experiment.is_used(row)]
        members += [member for member in more if member.folder not in {other.folder for other in members}]
    return list(dict.fromkeys(one.folder for one in members if one.is_run))


def check_pseudo(run, args, people, folds):
    """InputError unless fold i of `run` held out those whom fold i of this training validates on, and age groups are alike."""
    theirs = experiment.read_args(run)
    cut = list(theirs.get("age_bounds", dataset.OFFICIAL_BOUNDS))
    cut_targets = [target for target, components in dataset.DECIDES.items() if "age_group" in components and target != "age"]
    if theirs["target"] in cut_targets and args.target in cut_targets and cut != list(args.age_bounds):
        ours, others = ("{} {}".format(*bounds) for bounds in (args.age_bounds, cut))
        raise InputError(f"--pseudo {run}: learnt age groups of --age-bounds {others}, not of {ours}; take a run with the same")
    if args.kfold == 0:
        return
    if theirs.get("kfold", 0) == 0:
        raise InputError(f"--pseudo {run}: is a nofold run, which has seen everyone that --kfold {args.kfold} validates on")
    if theirs.get("finish_on_all"):
        raise InputError(f"--pseudo {run}: its --finish-on-all has shown everyone to every fold; take a run without it")
    rows = experiment.read_folds(run)
    held_out = dict(zip(rows["path"], rows["fold"]))
    for path, fold in zip(people["path"], folds.tolist()):
        if held_out.get(path, fold) != fold:
            there = f"--pseudo {run}: has {path} in fold {held_out[path]}, here it is in fold {fold}"
            raise InputError(f"{there}; train with the same people, --kfold and --fold-seed, or its labels would leak")


def teaching_folds(run, kfold):
    """The folds of a run whose models make the labels; InputError for one of `kfold` that is not complete."""
    if kfold == 0:
        return select_folds(run, "all")
    missing = sorted(set(range(kfold)) - set(experiment.done_folds(run)))
    if missing:
        numbers = " ".join(map(str, missing))
        lack = f"--pseudo {run}: has no complete fold {numbers}, which makes the labels of fold {numbers} here"
        raise InputError(f"{lack}; python train.py --resume {shlex.quote(str(run))} --fold {numbers} first")
    return list(range(kfold))


def confidence(target, probs):
    """Probability of the likeliest class [N]: of the least sure head, and for age of the age group."""
    return np.min([table.max(1) for table in dataset.member_components(target, probs).values()], axis=0)


def make_pseudo(args, tables, predict):
    """The rows of pseudo.csv: fold, ImageID and probabilities that are sure enough; `predict(jobs)` makes what is missing."""
    runs = find_runs(args.pseudo)
    for run in runs:
        check_pseudo(run, args, tables.people, tables.folds)
    numbers = {run: teaching_folds(run, args.kfold) for run in runs}
    targets = {run: experiment.read_args(run)["target"] for run in runs}
    made = []
    with predicting(runs):
        predict([(run, number) for run in runs for number in numbers[run]])
        for fold in range(max(args.kfold, 1)):
            sources = []
            for run, target in targets.items():
                table = mean(fold_tables(run, target, [fold] if args.kfold else numbers[run], "none"), target)
                sources.append((target, table[dataset.columns(target)].to_numpy()))
            probs = blend.soft_labels(args.target, sources, tuple(args.age_bounds))
            sure = confidence(args.target, probs) >= args.pseudo_min_confidence
            table = eval_table(np.array(tables.eval_images.names)[sure], args.target, probs[sure].astype(np.float32))
            made.append(table.assign(fold=fold))
    if not any(map(len, made)):
        given = f"--pseudo-min-confidence {args.pseudo_min_confidence:g}"
        raise InputError(f"{given}: no eval image is predicted so surely; lower it")
    return pd.concat(made, ignore_index=True)[["fold", "ImageID", *dataset.columns(args.target)]]


def read_pseudo(run, target):
    """The table of `make_pseudo` that a run keeps."""
    table = files.read_numbers(run / "pseudo.csv", ("ImageID",), dataset.columns(target), {"fold": files.FOLDS})
    return table.astype(dict.fromkeys(dataset.columns(target), np.float32))
