"""Predictions of the eval images: made from the weights of runs, kept in their folders, read back.

`RUN/foldI/eval.csv` (`eval_hflip.csv` with that TTA) holds one fold's probabilities, with the digest of the weights that
made them in a json beside it; `RUN/eval.csv` is the mean over the folds that its `eval.json` names.
"""

import contextlib
import functools
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import dataset
import demo
import engine
import errors
import experiment
import files
import images
import metrics
import model
import predictions
from dataset import LABELS, SCORED_AS, scored_probs
from errors import InputError
from images import Geometry


@dataclass(frozen=True)
class Settings:
    """The options of a prediction, for those who ask for one without a command line."""

    batch_size: int
    amp: str
    tta: str
    cache_dir: str
    cache_device: str
    quiet: bool


WRITTEN = ("eval*", "oof_*", "submission")  # names of predictions' files, without their suffixes
GROUP_BYTES = 2 << 30  # of weights that are predicted with together


@functools.cache  # told once, however often it is asked
def _tell_incomplete(run, done, kfold):
    errors.say(f"{run}: only folds {' '.join(map(str, done))} of {kfold} are complete")


def select_folds(run, choice):
    """The fold numbers of a run that `choice` names: 'all', 'best' (highest validation F1), or numbers.

    InputError when no fold is complete or a number is not. A run with folds missing is used as it is, with a line that
    says so.
    """
    done = experiment.done_folds(run)
    kfold = experiment.read_args(run).get("kfold", 0)
    if not done:
        raise InputError(f"{run}: no fold is complete; python train.py --resume {shlex.quote(str(run))} goes on with it")
    if choice == "best":
        return [max(done, key=lambda number: (done[number]["val_f1"] or 0.0, -number))]
    if choice == "all":
        if len(done) < kfold:
            _tell_incomplete(run, tuple(done), kfold)
        return list(done)
    for number in choice:
        if number not in done:
            raise InputError(f"--folds {number}: {run} has the complete folds {' '.join(map(str, done))}")
    return list(choice)


@contextlib.contextmanager
def predicting(runs):
    """Hold runs while their predictions are made and read: another process waits for its turn, and finds them made.

    The lock is that of args.yaml: training, which holds the folders, goes on.
    """
    with contextlib.ExitStack() as stack:
        for run in sorted({os.path.realpath(run) for run in runs}):  # in one order, or two processes could wait for each other
            waiting = f"waiting for another process that predicts with {run}"
            stack.enter_context(files.held(Path(run) / "args.yaml", waiting, wait=True))
            for name in WRITTEN:  # what a killed process left half-written: the lock is ours
                for leftover in (*Path(run).glob(f".{name}.*.tmp*"), *Path(run).glob(f"fold*/.{name}.*.tmp*")):
                    files.remove(leftover)
        yield


def _fold_files(run, number, tta):
    stem = "eval" if tta == "none" else f"eval_{tta}"
    folder = experiment.fold_dir(run, number)
    return folder / f"{stem}.csv", folder / f"{stem}.json"


def eval_is_fresh(run, number, tta, names=None):
    """Whether a fold's eval predictions are there, made by its present weights, for these images (None: for any)."""
    table, facts = _fold_files(run, number, tta)
    if not (table.is_file() and facts.is_file()):
        return False
    made = files.read_json(facts, weights_sha256=str, images=str)
    return made["weights_sha256"] == weights_digest(run, number) and (names is None or made["images"] == _digest(names))


def weights_digest(run, number):
    """The digest of a complete fold's weights, as its fold.json has it."""
    return files.read_json(experiment.fold_dir(run, number) / "fold.json", weights_sha256=str)["weights_sha256"]


def _digest(names):
    return f"{files.draw_seed(*names):016x}"


def predict_folds(jobs, eval_images, args, device):
    """Make the eval predictions of `jobs`, a list of (run, fold number), where they are not there yet.

    Images are decoded once for each geometry among the runs, and read once for all models that memory holds together
    (see GROUP_BYTES). `args`: Settings, or a script's options of the same names.
    """
    by_geometry = {}
    for run, number in jobs:
        if not eval_is_fresh(run, number, args.tta, eval_images.names):
            facts = model.read_facts(experiment.weights_file(run, number))
            geometry = Geometry.of(facts["img_size"], facts["crop"], facts.get("face_crop"))  # none in older weights
            by_geometry.setdefault(geometry, []).append((run, number))
    for geometry, missing in by_geometry.items():
        pixels, _ = images.open_cache(eval_images.files, geometry, args.cache_dir, quiet=args.quiet)
        store = images.ImageStore(pixels, device, args.cache_device)
        for group in _groups(missing):
            _predict_group(group, eval_images, store, args, device)


def _groups(jobs):
    """`jobs` in turn, cut into groups whose weights are GROUP_BYTES at most (one job at least)."""
    groups, size = [], 0
    for run, number in jobs:
        weights = experiment.weights_file(run, number).stat().st_size
        if not groups or size + weights > GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append((run, number))
        size += weights
    return groups


def _predict_group(group, eval_images, store, args, device):
    weights = [experiment.weights_file(run, number) for run, number in group]
    predicted = predict_rows(weights, store, np.arange(len(eval_images.names)), args, device)
    for (run, number), (target, probs) in zip(group, predicted):
        table, sidecar = _fold_files(run, number, args.tta)
        files.remove(sidecar)  # from here until both are written the pair does not count as made
        files.write_csv(table, predictions.eval_table(eval_images.names, target, probs), predictions.FORMAT)
        files.write_json(sidecar, {"weights_sha256": weights_digest(run, number), "images": _digest(eval_images.names)})


def predict_rows(weights, store, rows, args, device):
    """(target, probabilities [len(rows), num_outputs]) of each of `weights`, files of folds, for rows of `store`, a
    cache.ImageStore. `args`: batch_size, amp, tta, quiet.
    """
    models, targets, loaded = [], [], None
    for path in weights:
        net, facts = loaded = model.load(path, loaded)
        net = net.to(device, memory_format=model.FORMATS[facts["options"]["memory_format"]])  # to round as training did
        models.append((net, facts["mean"], facts["std"]))
        targets.append(facts["target"])
    batches = store.batches([rows[start : start + args.batch_size] for start in range(0, len(rows), args.batch_size)])
    runs = list(dict.fromkeys(path.parent.parent.name for path in weights))
    what = f"{len(weights)} folds of {runs[0] if len(runs) == 1 else f'{len(runs)} runs'}"
    amp_dtype = model.AMP_DTYPES[model.resolve_amp(args.amp, device)]
    with tqdm(total=len(rows) * len(weights), desc=what, unit="img", leave=False, disable=args.quiet or None) as bar:
        logits = model.predict_together(models, _counted(batches, len(weights), bar), amp_dtype, args.tta)
    return [(target, engine.head_probs(target, fold_logits)) for target, fold_logits in zip(targets, logits)]


def _counted(batches, times, bar):
    """`batches`, with each image counted `times` on the bar when the next batch is asked for: all models have seen it."""
    for batch in batches:
        yield batch
        bar.update(len(batch) * times)


def fold_tables(run, target, numbers, tta):
    """The eval predictions of folds, a table like eval.csv of each, of the same images in one order.

    None where some are missing, or were made by other weights or of other images: then predict_folds has to make them.
    """
    if not all(eval_is_fresh(run, number, tta) for number in numbers):
        return None
    tables = [predictions.read_table(_fold_files(run, number, tta)[0], target, ("ImageID",)) for number in numbers]
    names = tables[0]["ImageID"].tolist()
    same = [predictions.of_images(table, names) for table in tables if len(table) == len(names)]
    return same if len(same) == len(tables) and all(table is not None for table in same) else None


def fold_mean(run, target, numbers, tta):
    """The mean of folds' eval predictions, which predict_folds has made, as an eval.csv table."""
    return predictions.mean(fold_tables(run, target, numbers, tta), target)


def write_run_eval(run, target, numbers, tta):
    """Write RUN/eval.csv, the mean over these folds, eval.json that names them and, for targets that decide the label,
    RUN/submission.csv; returns (eval.csv table, probabilities of the 18 classes or None).

    A run that has them already is not touched, and may lie where nothing can be written.
    """
    table, facts = fold_mean(run, target, numbers, tta), {"folds": list(numbers), "tta": tta}
    path, sidecar = Path(run) / "eval.csv", Path(run) / "eval.json"
    text = files.csv_text(table, predictions.FORMAT)
    if not (path.is_file() and path.read_bytes() == text.encode() and sidecar.is_file() and files.read_json(sidecar) == facts):
        files.remove(sidecar)  # from here until both are written the pair does not count as made
        files.write_text(path, text)
        files.write_json(sidecar, facts)
    if SCORED_AS[target] != "label":
        return table, None
    probs = scored_probs(target, table[dataset.columns(target)].to_numpy())
    files.write_csv(Path(run) / "submission.csv", predictions.submission_table(table["ImageID"].tolist(), probs))
    return table, probs


def renew_run_eval(run, target, numbers, tta, made):
    """`write_run_eval` for other scripts: where RUN/eval.csv is missing or, once the predictions of these folds had to be
    `made`, is the mean of the same folds as they were before."""
    if not (Path(run) / "eval.csv").is_file() or (made and made_of(run) == {"folds": list(numbers), "tta": tta}):
        write_run_eval(run, target, numbers, tta)


def made_of(run):
    """{folds, tta} that RUN/eval.csv is the mean of; {} where nothing tells."""
    facts = Path(run) / "eval.json"
    return files.read_json(facts, folds=list, tta=str) if facts.is_file() else {}


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
        errors.say("no data folder here: predictions are not held against its info.csv and train.csv; --data-dir DIR names one")
    return None


def say_score(data_dir, names, label_probs, what):
    """Where a data folder has eval/answers.csv (the demo set has): macro F1 and accuracy on it, on stdout."""
    answers = dataset.read_answers(data_dir, names) if data_dir else None
    if answers is not None:
        pred = label_probs.argmax(1)
        f1, accuracy = metrics.macro_f1(answers, pred, len(LABELS)), metrics.accuracy(answers, pred, len(LABELS))
        print(f"{what} against {data_dir}/eval/answers.csv: macro F1 {f1:.4f}, accuracy {accuracy:.4f}")
