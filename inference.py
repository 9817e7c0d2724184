"""Predict the eval images with trained runs: probabilities for each run, and a submission where it decides all 18 classes.

    python inference.py --models runs/10-AdamP-StepLR-FL-v0-label_5fold

Writes RUN/eval.csv (ImageID and probabilities, the mean over folds) and, for the targets label and multi, RUN/submission.csv.
With --oof it writes RUN/oof_TTA.csv, each fold's validation images with the --tta, and says whether that is worth having.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take seconds

import re
import shlex
import sys

import numpy as np
import pandas as pd
from tqdm import tqdm

import dataset
import experiment
import hardware
import images
import metrics
import model
import options
import predictions
from dataset import LABELS, num_outputs
from errors import InputError
from images import Geometry

GROUP_BYTES = 2 << 30  # of weights that are predicted with together, one file at least
ADVICE = {"better": "use --tta {tta}", "worse": "leave --tta at none",
          "noise": "leave --tta at none, as far as these people tell"}  # fmt: skip
# Options that another draw of a run has of its own, as shlex.join writes them.
REPLACED = re.compile(r""" --(seed|fold[-_]seed|name)[ =]('[^']*'|"[^"]*"|[^\s'"])+""")


def predict_folds(jobs, eval_images, args, device):
    """Make the eval predictions of `jobs`, a list of (run, fold number), where they are not there yet. Images are read once for
    each geometry and GROUP_BYTES. `args`: batch_size, amp, tta, cache_dir, cache_device, quiet."""
    by_geometry = {}
    for run, number in jobs:
        if not predictions.eval_is_fresh(run, number, args.tta, eval_images.names):
            weights = experiment.weights_file(run, number)
            by_geometry.setdefault(_geometry(weights), []).append((run, number, weights))
    for geometry, missing in by_geometry.items():
        pixels, _ = images.open_cache(eval_images.files, geometry, args.cache_dir, quiet=args.quiet)
        store = images.ImageStore(pixels, device, args.cache_device)
        while missing:
            sizes = np.cumsum([weights.stat().st_size for *_job, weights in missing])
            count = max(1, (sizes <= GROUP_BYTES).sum())
            group, missing = missing[:count], missing[count:]
            rows = np.arange(len(eval_images.names))
            predicted = predict_rows([weights for *_job, weights in group], store, rows, args, device)
            for (run, number, _weights), (target, probs) in zip(group, predicted):
                path = predictions.file_of(experiment.fold_dir(run, number), "eval", args.tta)
                table = predictions.eval_table(eval_images.names, target, probs)
                predictions.write_with_metadata(path, table, predictions.fold_metadata(run, number, eval_images.names))


def _geometry(weights):
    """The Geometry of the images that a file of weights was trained on."""
    metadata = model.read_metadata(weights)
    return Geometry.of(metadata["img_size"], metadata["crop"], metadata.get("face_crop"))


def predict_rows(weights, store, rows, args, device):
    """[(target, probabilities [len(rows), num_outputs])] of files of weights for rows of an ImageStore; `args` as above."""
    models, targets, loaded = [], [], None
    for path in weights:
        net, metadata = loaded = model.load(path, loaded)
        net = net.to(device, memory_format=model.FORMATS[metadata["options"]["memory_format"]])  # to round as training did
        models.append((net, metadata["mean"], metadata["std"]))
        targets.append(metadata["target"])
    chunks = [rows[start : start + args.batch_size] for start in range(0, len(rows), args.batch_size)]
    runs = list(dict.fromkeys(path.parent.parent.name for path in weights))
    what = f"{len(weights)} folds of {runs[0] if len(runs) == 1 else f'{len(runs)} runs'}"
    batches = tqdm(store.batches(chunks), what, len(chunks), leave=False, disable=args.quiet or None, unit="img",
                   unit_scale=args.batch_size * len(weights))  # fmt: skip
    logits = model.predict_together(models, batches, model.AMP_DTYPES[hardware.resolve_amp(args.amp, device)], args.tta)
    return [(target, dataset.head_probs(target, fold_logits)) for target, fold_logits in zip(targets, logits)]


def print_score(data_dir, names, label_probs, what):
    """Where a data folder has eval/answers.csv (the demo set has): macro F1 and accuracy on it, on stdout."""
    answers = dataset.read_answers(data_dir, names) if data_dir else None
    if answers is not None:
        pred = label_probs.argmax(1)
        f1, accuracy = metrics.macro_f1(answers, pred, len(LABELS)), metrics.accuracy(answers, pred, len(LABELS))
        errors.say(f"{what} against {data_dir}/eval/answers.csv: macro F1 {f1:.4f}, accuracy {accuracy:.4f}")


def open_oof_images(run, plain, data_dir, args, device):
    """(images.ImageStore of the train images of a run, from the cache of its training; the rows of `plain`, its oof.csv)."""
    people = dataset.read_people(data_dir)
    people = people[people["path"].isin(experiment.read_folds(run)["path"])]
    names = dataset.list_images(data_dir, people, skip_missing=True)["image"]
    rows = pd.Index(names).get_indexer(plain["image"])
    if (rows < 0).any():
        lacking = plain["image"].iloc[(rows < 0).argmax()]
        raise InputError(f"{run}/oof.csv: image {lacking} is not in {data_dir}; --data-dir takes what the run was trained on")
    paths = dataset.image_files(data_dir, names)
    geometry = _geometry(experiment.best_weights(run, int(plain["fold"].iloc[0])))
    pixels, bad = images.open_cache(paths, geometry, args.cache_dir, skip_bad=True, quiet=args.quiet)
    if set(rows) & set(bad):
        raise InputError(f"{paths[min(set(rows) & set(bad))]}: can't be read any more, but {run}/oof.csv has it")
    return images.ImageStore(pixels, device, args.cache_device), rows


def predict_oof(run, data_dir, args, device):
    """Write a run's oof_TTA.csv, unless it is fresh, and return its `tta_gain`; `args` as for predict_folds."""
    if not (run / "oof.csv").is_file():
        raise InputError(f"--oof: {run} has no oof.csv to compare with (it validates nobody); leave out that run or --oof")
    target = experiment.read_args(run)["target"]
    plain = predictions.read_table(run / "oof.csv", target, ("image", "path"))
    path = predictions.file_of(run, "oof", args.tta)
    if predictions.oof_is_fresh(run, args.tta):
        return tta_gain(target, plain, predictions.read_table(path, target, ("image", "path")))
    store, rows = open_oof_images(run, plain, data_dir, args, device)
    probs = np.empty((len(plain), num_outputs(target)), dtype=np.float32)
    for number in plain["fold"].unique():
        mine = (plain["fold"] == number).to_numpy()
        ((_target, probs[mine]),) = predict_rows([experiment.best_weights(run, int(number))], store, rows[mine], args, device)
    truth = plain[dataset.truth_columns(target)].to_numpy()
    table = predictions.oof_table(plain, plain["fold"].to_numpy(), target, truth, probs)
    gain = tta_gain(target, plain, table)
    predictions.write_with_metadata(path, table, {"weights_sha256": predictions.weights_digests(run), **gain})
    return gain


def tta_gain(target, plain, table):
    """{oof_f1, plain_f1, gain, gain_ci95} of two oof.csv tables with the same rows: macro F1, and their paired difference."""
    (truth, plain_probs), (_truth, probs) = predictions.scored(plain, target), predictions.scored(table, target)
    C = probs.shape[1]
    pred, plain_pred = probs.argmax(1), plain_probs.argmax(1)
    f1, plain_f1 = (metrics.macro_f1(truth, classes, C) for classes in (pred, plain_pred))
    samples = metrics.bootstrap_difference(truth, pred, plain_pred, plain["path"].to_numpy(), C)
    found = {"oof_f1": round(f1, 6), "plain_f1": round(plain_f1, 6), "gain": round(f1 - plain_f1, 6)}
    return found | {"gain_ci95": [round(bound, 6) for bound in metrics.interval(samples)]}


def parse_args(argv):
    parser = errors.Parser("Predict the eval images with trained runs; write a submission where a run decides all 18 classes.")
    parser.add_argument("--models", nargs="+", required=True, metavar="RUN", help="run folders of train.py")
    options.add_folds(parser, numbers=True)
    options.add_tta(parser)
    parser.add_argument("--oof", action="store_true", help="predict each fold's own validation images instead, to score --tta")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options.add_data(parser)
    options.add_compute(parser, batch_size=128)
    args = parser.parse_args(argv)
    args.folds = options.chosen_folds(parser, args.folds)
    if args.oof and (args.tta == "none" or args.folds != "all"):
        parser.error("--oof: compares a --tta with none, on all folds; add one, such as --tta hflip, and leave out --folds")
    return args


def main(argv=None):
    hardware.tune_malloc()
    args = parse_args(argv)
    runs = list(dict.fromkeys(experiment.find_run(run) for run in args.models))
    folds = [predictions.select_folds(run, args.folds) for run in runs]
    device = hardware.pick_device(args.device)
    with predictions.predicting(runs):
        return score_tta(args, runs, device) if args.oof else predict_runs(args, runs, folds, device)


def predict_runs(args, runs, folds, device):
    """Predictions of the eval images with these folds of each run, a submission where they decide it, and what is next."""
    eval_images = dataset.read_eval_images(options.data_dir(args))
    jobs = [(run, number) for run, numbers in zip(runs, folds) for number in numbers]
    predict_folds(jobs, eval_images, args, device)
    targets = [experiment.read_args(run)["target"] for run in runs]
    for run, target, numbers in zip(runs, targets, folds):
        table = predictions.mean(predictions.fold_tables(run, target, numbers, args.tta), target)
        probs = predictions.write_run_eval(run, target, numbers, args.tta, table)
        errors.say(f"{run / 'eval.csv'}: {len(table)} images, mean of folds {' '.join(map(str, numbers))}, tta {args.tta}")
        if probs is not None:
            print(f"{run / 'submission.csv'}: ImageID,ans")
            print_score(eval_images.data_dir, eval_images.names, probs, run.name)
    print_next(eval_images.data_dir, runs, targets, args.tta)
    return 0


def score_tta(args, runs, device):
    """--oof: what the TTA is worth for each run, and the command that predicts the eval images with it, or without."""
    data_dir, verdicts = options.data_dir(args), set()
    for run in runs:
        found = predict_oof(run, data_dir, args, device)
        low, high = found["gain_ci95"]
        verdict, path = metrics.verdict(low, high), predictions.file_of(run, "oof", args.tta)
        verdicts.add(verdict)
        errors.say("{}: out-of-fold macro F1 {oof_f1:.4f}, without TTA {plain_f1:.4f}".format(path, **found))
        gain = f"{found['gain']:+.4f}, 95 % CI {low:+.4f} .. {high:+.4f}"
        errors.say(f"  gain {gain}: {errors.tr(verdict)}; {errors.tr(ADVICE[verdict].format(tta=args.tta))}")
    tta = args.tta if "better" in verdicts and "worse" not in verdicts else "none"
    errors.say(f"next: python inference.py --models {shlex.join(map(str, runs))} --tta {tta}{dataset.data_option(data_dir)}")
    return 0


def after(run, data_dir):
    """The command after the submission of one run: compare it with the best run beside it that is scored on the same people;
    where none is there, train it once more with another seed, which shows the noise; without a score the leaderboard."""
    scores = predictions.scored_runs(run.parent)
    people, _f1 = scores.pop(run, (None, None))
    if alike := [(f1, other) for other, (theirs, f1) in scores.items() if theirs == people is not None]:
        return shlex.join(["python", "compare.py", str(run), str(max(alike)[1])]) + dataset.data_option(data_dir)
    args, command = experiment.read_args(run), (run / "args.yaml").read_text(encoding="utf-8").partition("\n")[0]
    if not args.get("kfold") or " train.py" not in command:
        return "python leaderboard.py"
    seed = args["seed"] + 1
    name = f" --name {shlex.quote(f'{run.name}-seed{seed}')}" if "--name" in command else ""
    return REPLACED.sub("", command).removeprefix("# ") + f" --seed {seed} --fold-seed {args['fold_seed']}{name}"


def print_next(data_dir, runs, targets, tta):
    """The command that makes a submission of these runs, or what they lack for one; of a run alone see `after`."""
    decided = {component for target in targets for component in dataset.DECIDES[target]}
    lacking = [component for component in dataset.COMPONENTS if component not in decided]
    if lacking:
        errors.say(f"next: these runs leave {' and '.join(lacking)} open; add such runs: python ensemble.py --models RUN ...")
    elif len(runs) == 1:
        errors.say(f"next: {after(runs[0], data_dir)}")
    else:
        views = "" if tta == "none" else f" --tta {tta}"
        errors.say(f"next: python ensemble.py --models {shlex.join(map(str, runs))}{views}{dataset.data_option(data_dir)}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
