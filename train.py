"""Train one experiment: K folds (or everyone), one run folder.

    python train.py --loss focal --optimizer AdamP --kfold 5

Reads the competition's folder (see --data-dir; the drawn demo set when there is none). Writes runs/NAME/: args.yaml,
env.json, folds.csv, log.csv, oof.csv, summary.json, the weights of each fold, curves.png, confusion.png, mistakes.png,
crops.png with --face-crop, and TensorBoard events. Stopped by a signal it saves its state; `--resume RUN` goes on as if
nothing had happened.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take seconds

import argparse
import shlex
import shutil
import sys
import time
from pathlib import Path

import pandas as pd

import dataset
import demo
import distributed
import engine
import experiment
import files
import fold
import images
import inference
import loss
import memory
import model
import optim
import options
import parallel
import precision
import predictions
import report
import space
import training_data
from dataset import SCORED_AS
from errors import InputError, Interrupted
from images import Geometry, open_rgb


def choose_speed(args, net, ranks, cores, threads):
    """Resolve --amp, --memory-format and --parallel-folds of a new run; `net` is one of its models, and gets that format.

    cores: CPU threads that torch would use; threads: --threads as given, or None.
    """
    about = (args.model, args.img_size, max(args.batch_size // ranks.world, 1), ranks.device, args.cache_dir)
    if ranks.first:
        args.amp, args.memory_format = precision.choose(net, *about, args.amp, args.memory_format)
    args.amp, args.memory_format = ranks.from_first((args.amp, args.memory_format))
    net.to(memory_format=model.FORMATS[args.memory_format])
    if args.parallel_folds == "auto":
        args.parallel_folds, args.threads = parallel.choose(
            net, *about, args.amp, len(experiment.fold_numbers(args)), cores, threads
        )


def open_run(args, argv, data, ranks):
    """The run folder: a new one with args.yaml, env.json and folds.csv, or that of --resume, whose people must be the same."""
    folds = pd.DataFrame({"path": data.people["path"], "fold": data.folds})
    if args.resume:
        run = experiment.find_run(args.resume)
        recorded = experiment.read_folds(run)
        if any(recorded[column].tolist() != folds[column].tolist() for column in ("path", "fold")):
            raise InputError(f"{run / 'folds.csv'}: other people than in {args.data_dir}/train/train.csv; give its --data-dir")
        if experiment.missing(run, args, experiment.fold_numbers(args)):
            experiment.check_data(run, training_data.digest(data))
        experiment.sweep_run(run)
        record_changes(args, run)
        return run
    recipe = experiment.recipe_name(args.optimizer, args.scheduler, loss.loss_code(args.loss))

    def next_name():
        name, again = experiment.next_name(args.output_dir, recipe, vars(args))
        if again:
            errors.say(f"same options as {again}; another --seed would be a new draw")
        return name

    def fill(folder, name):
        args.name = name
        recorded = {option: value for option, value in vars(args).items() if option not in ("resume", "fold")}
        experiment.write_args(folder, recorded, [*distributed.launcher(), "train.py", *argv])
        experiment.write_env(folder, distributed.describe(ranks.device), training_data.digest(data), args.weights)
        files.write_csv(folder / "folds.csv", folds)
        if data.fixes is not None:
            files.write_csv(folder / "label_fixes.csv", data.fixes)
        if data.pseudo is not None:
            files.write_csv(folder / "pseudo.csv", data.pseudo, inference.PSEUDO_FORMAT)

    return experiment.make_folder(args.output_dir, args.name, next_name, fill)


def record_changes(args, run):
    """What --resume may change for good goes into args.yaml."""
    before = experiment.read_args(run)
    changed = {
        name: getattr(args, name)
        for name in ("epochs", "keep_state", "weights", "model")
        if getattr(args, name) != before[name]
    }
    if changed:
        with files.locked(run, wait=True):
            experiment.change_args(run, **changed)
    if "epochs" in changed:
        cosine = ": from here on the rates of --scheduler Cosine follow that number" if args.scheduler == "Cosine" else ""
        errors.say(f"epochs: {args.epochs} instead of {before['epochs']}{cosine}")


def draw_crops(args, run, data):
    """crops.png: what --face-crop cuts out of the images, drawn before anything is learned from them."""
    faces = images.open_faces(data.files, args.cache_dir, args.quiet)[: len(data.images)]
    rows = pd.DataFrame(faces, columns=["left", "top", "right", "bottom"]).assign(image=data.images["image"])[data.labels.good]
    root = Path(args.data_dir) / "train" / "images"
    geometry = Geometry.of(args.img_size, args.crop, args.face_crop)
    with files.locked(run, wait=True):  # another process that joins the run clears away what is half-written there
        files.write_figure(run / "crops.png", report.crops(rows, lambda image: open_rgb(root / image), geometry, run.name))


def draw_pictures(args, run):
    """curves.png, confusion.png and mistakes.png; without validation the latter two show training images, and say so."""
    scored_as = SCORED_AS[args.target]
    shown = run / "oof.csv" if args.kfold else experiment.fold_dir(run, 0) / "insample.csv"
    table = predictions.read_table(shown, args.target, ("image", "path"))
    truth, probs = predictions.scored(table, args.target)
    kind = "out-of-fold" if args.kfold else "in-sample: its own training images"
    files.write_figure(run / "curves.png", report.curves(experiment.read_log(run / "log.csv"), run.name))
    files.write_figure(run / "confusion.png", report.confusion(truth, probs.argmax(1), scored_as, f"{run.name} ({kind})"))
    rows = table[["image", "path"]].assign(truth=truth, pred=probs.argmax(1), confidence=probs.max(1))
    root = Path(args.data_dir) / "train" / "images"
    figure = report.mistakes(rows, lambda image: open_rgb(root / image), scored_as, f"{run.name} ({kind})")
    files.write_figure(run / "mistakes.png", figure)


def closing(args, run, summary, data, started):
    """The closing summary: folds, score with its interval, where the run is, what to paste next."""
    print(f"\n{'fold':>6}{'best epoch':>12}{'macro F1':>10}{'accuracy':>10}")
    for row in summary["folds"]:
        scores = "".join("         -" if row[key] is None else f"{row[key]:10.4f}" for key in ("val_f1", "val_acc"))
        print(f"{row['fold']:>6}{row['best_epoch']:>12}{scores}")
    if summary["oof_f1"] is not None:
        low, high = summary["oof_f1_ci95"]
        what = {"multi": "label, from three heads", "age": "age_group"}.get(args.target, args.target)
        print(f"\nout-of-fold macro F1 of {what}: {summary['oof_f1']:.4f} (95 % CI over people {low:.4f} .. {high:.4f}), "
              f"accuracy {summary['oof_acc']:.4f}")  # fmt: skip
    else:
        print("\nnofold: everyone trained, so there is no validation score")
    left = sorted(set(range(max(args.kfold, 1))) - {row["fold"] for row in summary["folds"]})
    if left:
        print(f"folds not trained yet: {' '.join(map(str, left))} ({how_to_train(args, run, data, left)})")
    print(f"run: {run}/  (training and validation of its folds {summary['seconds']} s, this command "
          f"{time.monotonic() - started:.0f} s; {summary['images_per_second']:.0f} images/s, "
          f"peak memory {summary['peak_memory_mib']} MiB)")  # fmt: skip
    print(f"next: python inference.py --models {shlex.quote(str(run))}{demo.as_option(args.data_dir)}")


def how_to_train(args, run, data, folds):
    """The command that trains these folds of a run too, or why there is none."""
    try:
        training_data.check_weights(argparse.Namespace(**vars(args) | {"fold": folds}), data.people, data.folds)
    except InputError:
        return "whose people --weights have learnt"
    return shlex.join(["python", "train.py", "--resume", str(run), "--fold", *map(str, folds)])


def main(argv=None):
    started = time.monotonic()
    argv = sys.argv[1:] if argv is None else argv
    stop = errors.StopSignals()
    engine.keep_freed_memory()
    ranks = distributed.join()
    with ranks.one_voice():
        train(argv, ranks, stop, started)
    distributed.finish()
    return 0


def train(argv, ranks, stop, started):
    """A run from its options to its pictures; all of several processes go through it side by side."""
    args = options.same_options(options.parse_args(argv, ranks), ranks)
    ranks = ranks.on(args.device)
    run, data, ran_out = Path(args.resume) if args.resume else None, None, False
    try:
        data, built = prepare(args, ranks)
        with stop.deferred(), ranks.together():
            run = ranks.from_first(open_run(args, argv, data, ranks) if ranks.first else None)
            train_folds(args, run, data, built, ranks, stop)
        if ranks.first:
            summary = predictions.write_summary(run, args.target, args.kfold)
            with files.locked(run, wait=True):
                draw_pictures(args, run)
            closing(args, run, summary, data, started)
    except Interrupted as stopped:
        if run is None:
            raise
        raise Interrupted(stopped.code, f"{stopped}. Go on with: {resume_command(args, argv, run)}") from None
    except (files.DiskError, errors.Unreadable) as error:
        if run is None:
            raise
        if not (run / "args.yaml").exists():
            raise InputError(f"{error} {run} is gone, and what it had learnt; put it back, or start it again") from None
        raise InputError(f"{error}. Go on with: {resume_command(args, argv, run)}") from None
    except (RuntimeError, MemoryError) as error:
        if advice := errors.compile_advice(error):
            raise InputError(told_with_what_is_left(args, run, ranks, advice)) from error
        if not errors.is_out_of_memory(error):
            raise
        ran_out = True  # what is measured now needs the memory that this error still holds
    if ran_out:
        raise InputError(told_with_what_is_left(args, run, ranks, memory.advice(args, data, ranks)))


def prepare(args, ranks):
    """(data, [the first fold's model, if it is built already]) of a run; what can be chosen or wrong before it begins is."""
    cores, threads = engine.use_threads(None), args.threads
    at_once = 1 if args.parallel_folds == "auto" else min(args.parallel_folds, len(experiment.fold_numbers(args)))
    args.threads = engine.use_threads(threads or max(cores // at_once, 1))
    net, run = None, Path(args.resume) if args.resume else None
    if not run:  # what can't be read or built is known before weights are fetched, images decoded and a folder made
        if ranks.first:
            experiment.check_free(args.output_dir, args.name)
        dataset.check_train(args.data_dir)
        net = model.build_model(args, experiment.fold_numbers(args)[0], ranks.device, try_size=True)
        optim.build_optimizer(net, args.optimizer, args.lr, args.weight_decay, args.layer_decay)
    elif ranks.first:
        fold.check_epochs(args, run)
        experiment.check_not_trained(run, experiment.fold_numbers(args))
        if experiment.untouched(run, experiment.fold_numbers(args)):
            experiment.check_weights(run, args.weights)
    weights = space.weights_bytes(net, run) if ranks.first else None
    with ranks.one_first():
        data = training_data.load_data(args, ranks.device, run, weights)
    if not args.resume:
        fold.check(args, data, net, ranks)
        choose_speed(args, net, ranks, cores, threads)
        if args.auto_batch:
            memory.settle(args, data, net, ranks)
            fold.check(args, data, net, ranks)
    else:
        fold.check(args, data, None, ranks)  # there may be other processes than it began with
    training_data.check_same(args, data, ranks)
    return data, [net] if net else []


def train_folds(args, run, data, built, ranks, stop):
    """Train what is not complete of this command's folds; the first takes its model from `built`, whose memory it then is."""
    if ranks.first:
        size, where = f"{args.img_size[0]} x {args.img_size[1]}", where_images_are(args, data, ranks)
        errors.say(f"run {run}\n  {args.target}, {args.model} at {size}, {len(data.people)} people, {len(data.images)} images, "
                   f"{ranks.device.type}, amp {args.amp}, {args.memory_format}{where}")  # fmt: skip
        if args.face_crop is not None and not (run / "crops.png").exists():
            draw_crops(args, run, data)
    if args.parallel_folds > 1:
        built.clear()  # its memory is the device's
        parallel.train_folds(args, run, data, experiment.fold_numbers(args), ranks.device, stop)
        return
    for number in experiment.fold_numbers(args):
        fold.train_missing(args, run, data, number, ranks, stop, built)


def where_images_are(args, data, ranks):
    """', images on the device' or ', images in host memory', where that is a question."""
    if ranks.device.type != "cuda" or args.parallel_folds > 1:
        return ""
    return ", images on the device" if data.store.place == "device" else ", images in host memory"


def told_with_what_is_left(args, run, ranks, advice):
    """`advice`, and what is left of a run that could not go on; of a new one that has learnt nothing yet, the folder goes.

    run: None where it ended before there was any.
    """
    if run is None:
        return advice
    if args.resume or any(run.glob("fold*/last.pt")) or experiment.done_folds(run):
        return f"{advice}. What {run} has learnt is kept; --resume goes on with it where it can"
    if ranks.first:
        shutil.rmtree(run)
    return advice


def resume_command(args, argv, run):
    """What to paste to go on with a run that was stopped."""
    folds = ["--fold", *map(str, args.fold)] if args.fold else []
    return shlex.join([*distributed.launcher(), "train.py", *(argv if args.resume else ["--resume", str(run), *folds])])


if __name__ == "__main__":
    code = errors.run(main)
    errors.ignore_signals()  # all is said and written
    sys.exit(code)
