"""Out-of-fold predictions with a TTA: each fold's validation images by the weights of its best epoch, and what that gains.

`RUN/oof_hflip.csv` is oof.csv with that TTA; the json beside it holds the digests of the weights that made it, and its score.
"""

from pathlib import Path

import numpy as np

import dataset
import evaluation
import experiment
import files
import images
import metrics
import model
import predictions
from dataset import num_outputs
from errors import InputError
from images import Geometry


def oof_files(run, tta):
    """(csv, json) of a run's out-of-fold predictions with a TTA."""
    return Path(run) / f"oof_{tta}.csv", Path(run) / f"oof_{tta}.json"


def oof_is_fresh(run, tta):
    """Whether a run has out-of-fold predictions with a TTA, made by the present weights of all its folds."""
    table, facts = oof_files(run, tta)
    if not (table.is_file() and facts.is_file()):
        return False
    return files.read_json(facts, weights_sha256=dict)["weights_sha256"] == _digests(run)


def _digests(run):
    return {str(number): facts["weights_sha256"] for number, facts in experiment.done_folds(run).items()}


def read_plain(run):
    """(target, oof.csv) of a run; InputError where it has none."""
    target, path = experiment.read_args(run)["target"], Path(run) / "oof.csv"
    if not path.is_file():
        raise InputError(f"--oof: {run} has no oof.csv to compare with (it validates nobody); leave out that run or --oof")
    return target, predictions.read_table(path, target, ("image", "path"))


def open_oof_images(run, plain, data_dir, args, device):
    """(cache.ImageStore of the train images of a run, the rows in it of the images of `plain`, its oof.csv).

    The cache is that of the training, as it holds the images of the same people. InputError names an image that is not there.
    """
    known = set(experiment.read_folds(run)["path"])
    people = dataset.read_people(data_dir)
    people = people[people["path"].isin(known)]
    names = dataset.list_images(data_dir, people, skip_missing=True)["image"]
    row_of = dict(zip(names, range(len(names))))
    lacking = [image for image in plain["image"] if image not in row_of]
    if lacking:
        raise InputError(
            f"{run}/oof.csv: image {lacking[0]} is not in {data_dir}; --data-dir takes what the run was trained on"
        )
    rows = np.array([row_of[image] for image in plain["image"]])
    facts = model.read_facts(experiment.best_weights(run, int(plain["fold"].iloc[0])))
    geometry = Geometry.of(facts["img_size"], facts["crop"], facts.get("face_crop"))
    files = dataset.image_files(data_dir, names)
    pixels, bad = images.open_cache(files, geometry, args.cache_dir, skip_bad=True, quiet=args.quiet)
    if set(rows) & set(bad):
        raise InputError(f"{files[min(set(rows) & set(bad))]}: can't be read any more, but {run}/oof.csv has it")
    return images.ImageStore(pixels, device, args.cache_device), rows


def predict_oof(run, data_dir, args, device):
    """Write a run's oof_{tta}.csv, unless it is fresh, and return what it is worth: see `compare`.

    `args`: as in evaluation.predict_folds.
    """
    target, plain = read_plain(run)
    path, sidecar = oof_files(run, args.tta)
    if oof_is_fresh(run, args.tta):
        return tta_gain(target, plain, predictions.read_table(path, target, ("image", "path")))
    store, rows = open_oof_images(run, plain, data_dir, args, device)
    probs = np.empty((len(plain), num_outputs(target)), dtype=np.float32)
    for number in plain["fold"].unique():
        mine = (plain["fold"] == number).to_numpy()
        weights = [experiment.best_weights(run, int(number))]
        ((_target, probs[mine]),) = evaluation.predict_rows(weights, store, rows[mine], args, device)
    truth = plain[dataset.truth_columns(target)].to_numpy()
    table = predictions.oof_table(plain, plain["fold"].to_numpy(), target, truth, probs)
    files.remove(sidecar)  # from here until both are written the pair does not count as made
    files.write_csv(path, table, predictions.FORMAT)
    found = tta_gain(target, plain, table)
    files.write_json(sidecar, {"weights_sha256": _digests(run), **found})
    return found


def tta_gain(target, plain, table):
    """{oof_f1, plain_f1, gain, gain_ci95}: macro F1 of two oof.csv tables with the same rows, on what the target is scored on,
    and the paired 95 % interval over people of their difference."""
    (truth, plain_probs), (_truth, probs) = predictions.scored(plain, target), predictions.scored(table, target)
    C = probs.shape[1]
    pred, plain_pred = probs.argmax(1), plain_probs.argmax(1)
    f1, plain_f1 = (metrics.macro_f1(truth, classes, C) for classes in (pred, plain_pred))
    samples = metrics.bootstrap_difference(truth, pred, plain_pred, plain["path"].to_numpy(), C)
    return {
        "oof_f1": round(f1, 6),
        "plain_f1": round(plain_f1, 6),
        "gain": round(f1 - plain_f1, 6),
        "gain_ci95": [round(bound, 6) for bound in metrics.interval(samples)],
    }


ADVICE = {
    "better": "use --tta {tta}",
    "worse": "leave --tta at none",
    "noise": "leave --tta at none, as far as these people tell",
}


def tta_lines(run, tta, found):
    """What `predict` found, in words, for the console."""
    low, high = found["gain_ci95"]
    verdict = metrics.verdict(low, high)
    return [
        f"{oof_files(run, tta)[0]}: out-of-fold macro F1 {found['oof_f1']:.4f}, without TTA {found['plain_f1']:.4f}",
        f"  gain {found['gain']:+.4f}, 95 % CI {low:+.4f} .. {high:+.4f}: {verdict}; {ADVICE[verdict].format(tta=tta)}",
    ]
