"""One fold, from its first step to its complete folder: model, saved state, best weights, log and predictions."""

import argparse
import contextlib
import copy
import functools
import resource
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import dataset
import engine
import errors
import events
import experiment
import files
import model
import predictions
import training_data
from dataset import CLASS_NAMES, HEADS, SCORED_AS
from errors import InputError, Interrupted


def recipe(args):
    """The options that the loop uses."""
    return engine.Recipe(**{field.name: getattr(args, field.name) for field in fields(engine.Recipe)})


def check(args, data, net, ranks):
    """InputError for what would only fail in training: nobody left to train, or too few images a step.

    `net` is a model of the run; None: one is built where it takes one to know.
    """
    for fold in range(max(args.kfold, 1)):
        images = engine.epoch_images(recipe(args), dataset.fold_data(args, data, fold, None, None))
        size = engine.step_size(recipe(args), images, ranks.world) // (args.accum * ranks.world)
        if size == 1:
            net = model.build_model(args, fold, ranks.device) if net is None else net
            try:
                copy.deepcopy(net)(torch.zeros(1, 3, *args.img_size, device=ranks.device))
            except ValueError as error:
                raise InputError(
                    f"--batch-size {args.batch_size}: {args.model} has batch norm, which can't train on one image at a time"
                ) from error


def check_epochs(args, run):
    """InputError when a run that goes on can't end after --epochs: more are begun, or a complete fold's state is gone."""
    done = experiment.done_folds(run)
    for fold in range(max(args.kfold, 1)):
        kept = (experiment.fold_dir(run, fold) / "last.pt").exists()
        begun = done[fold]["epochs"] if fold in done else engine.epochs_begun(run, fold) if kept else 0
        if args.epochs < begun:
            raise InputError(f"--epochs {args.epochs}: fold {fold} of {run} is in epoch {begun} already; give that or more")
        if fold in done and not experiment.is_complete(args, done[fold]) and not kept:
            raise InputError(
                f"--epochs {args.epochs}: fold {fold} of {run} was complete after {begun} and its state is gone, as without "
                f"--keep-state; to train it anew delete {experiment.fold_dir(run, fold)}"
            )


@dataclass(frozen=True)
class Training:
    """What all that trains a fold goes by: the options of train.py, the run's folder, its data, who asks to stop, what writes
    the fold's files while it trains, and its TensorBoard events."""

    args: argparse.Namespace
    run: Path
    data: training_data.Data
    stop: errors.StopSignals
    writer: engine.Writer
    board: events.Events


def train_missing(args, run, data, fold, ranks, stop, built=None):
    """`train_fold`, unless the fold is complete already; its folder is held meanwhile.

    `args` are the options of train.py, `stop` its StopSignals, `built` a list from which the fold takes what `build_model`
    makes for it, if it is made already. Raises Interrupted, with the state saved, when a signal came; InputError when another
    process holds the fold, and for a loss or weights that are no numbers any more.
    """
    if code := ranks.any(stop.requested):
        raise Interrupted(code, "stopped between two folds")
    done = ranks.from_first(experiment.done_folds(run) if ranks.first else None)  # other boxes may not see the run's folder
    if fold in done and experiment.is_complete(args, done[fold]):
        if ranks.first:
            experiment.drop_state(run, fold, args.keep_state)
        return
    with experiment.fold_lock(run, fold) if ranks.first else contextlib.nullcontext(), engine.Writer() as writer:
        try:
            train_fold(Training(args, run, data, stop, writer, events.Events(run, fold)), fold, ranks, built)
        except engine.NotFinite as error:
            raise InputError(tell_not_finite(args, run, data, fold, error, ranks)) from None


def tell_not_finite(args, run, data, fold, error, ranks):
    """What went wrong in which step, with its images, all of which are listed in a file, and what to try."""
    images, listed = [str(data.files[row]) for row in error.rows], experiment.fold_dir(run, fold) / "not_finite.txt"
    if ranks.first:
        files.write_text(listed, "".join(f"{image}\n" for image in images))
    tries = [f"a lower --lr than {args.lr:g}", *(["--clip-grad 1"] if not args.clip_grad else [])]
    tries += {"fp16": ["--amp bf16", "--amp off"], "bf16": ["--amp off"]}.get(args.amp, [])
    return (
        f"fold {fold}, epoch {error.epoch}, step {error.step}: {error}; the step's {len(images)} images are {images[0]} and "
        f"others, listed in {listed}. The last good state is kept; try a new run with {' or '.join(tries)}"
    )


def train_fold(job, fold, ranks, built=None):
    """Train one fold to its end, from its saved state where there is one, and leave its folder complete.

    `job` is its Training, `built` as in `train_missing`. With more --epochs than it had a fold is trained on from its end:
    what is done stays as it is, and --scheduler Cosine, alone, has other rates from there on than a run that began with them.
    """
    args, run, data = job.args, job.run, job.data
    state = ranks.from_first(engine.load_state(run, fold) if ranks.first else None) or {}
    net = built.pop() if built else model.build_model(args, fold, ranks.device, empty=bool(state))
    mean, std = model.mean_std(net)
    fit = engine.Fit(net, recipe(args), dataset.fold_data(args, data, fold, mean, std), ranks)
    del net  # it is the fit's to let go
    last = state.pop("last", None)  # the state of the epochs on everyone, once the fold's own are over
    if state:
        engine.restore_state(fit, state, experiment.fold_dir(run, fold) / "last.pt")
        last = last if fit.finished else None  # with more --epochs than before those come first
        if ranks.first:
            at = last or state
            errors.say(f"fold {fold}: goes on at epoch {at['epoch']}, step {at['step']}{' on everyone' if last else ''}")
    if ranks.first:
        experiment.reopen_fold(run, fold)
    while not fit.finished:
        train_epoch(job, fit, fit.state_dict)
        where = f"epoch {fit.epoch}, while validating"
        probs = engine.end_epoch(fit, functools.partial(leave_if_asked, job, fit, fit.state_dict, where))
        if ranks.first:
            keep_epoch(job, fit, probs)
    job.writer.wait()
    history = fit.history + (finish_on_all(job, fit, last) if args.finish_on_all else [])
    if not args.kfold:
        where = "while predicting its training images"
        asked = functools.partial(leave_if_asked, job, fit, fit.state_dict, where)
        rows = fit.data.train_rows[fit.data.train_rows < len(data.images)]  # eval images of --pseudo have no labels
        probs = engine.head_probs(args.target, engine.predict_rows(fit, rows, asked))
        if ranks.first:
            write_predictions(args, run, data, fold, rows, probs, "insample.csv")
    if ranks.first:
        finish(run, fit, history, args.keep_state)
    ranks.wait()


def finish_on_all(job, fit, last):
    """--finish-on-all N: a fold's best weights go through its last N epochs up to the best one again, on everyone.

    As the contest's 1st place showed the validation people to its last 3 epochs, here those up to the fold's best one.
    The learning rates are those of these epochs, the optimizer begins anew. What the fold said of its validation people
    stays: out-of-fold scores are of the weights before. `last`: the state of a stopped `finish_on_all`, or None. Returns
    the epochs' rows of the log.
    """
    args, run, fold, ranks, best = job.args, job.run, fit.data.fold, fit.ranks, fit.best_epoch
    if best < args.finish_on_all and ranks.first:
        on = f"--finish-on-all {args.finish_on_all}"
        errors.say(f"fold {fold}: epoch {best} was the best, so {on} repeats {best} of them on everyone")
    weights, before = experiment.best_weights(run, fold), engine.copied(fit.state_dict())
    fit.let_go()
    net = model.build_model(args, fold, ranks.device, empty=True)
    net.load_state_dict(ranks.from_first(model.load(weights)[0].state_dict() if ranks.first else None))
    everyone = dataset.fold_data(args, job.data, fold, fit.data.mean, fit.data.std, everyone=True)
    frozen = args.freeze_epochs if best <= args.freeze_epochs else 0  # the best epoch's backbone learns, if it did
    final = engine.Fit(net, replace(recipe(args), freeze_epochs=frozen), everyone, ranks)
    final.epoch = max(best - args.finish_on_all, 0) + 1
    if last is not None:
        engine.restore_state(final, last, experiment.fold_dir(run, fold) / "last.pt")

    def state():
        return {**before, "last": final.state_dict()}

    while final.epoch <= best:
        train_epoch(job, final, state, " on everyone")
        engine.end_epoch(final)
        final.history[-1]["epoch"] = len(fit.history) + len(final.history)
        if ranks.first:
            first = []
            if final.epoch > best:
                facts = weights_facts(args, final) | {"epoch": best, "val_f1": fit.history[best - 1]["val_f1"]}
                path = experiment.fold_dir(run, fold) / "final.safetensors"
                first.append(functools.partial(model.save_weights, model.weights(final.evaluated), facts, path))
            put_epoch(job, first, fit.history + final.history, state(), epoch_line(args, final, " on everyone"))
    job.writer.wait()
    return final.history


def train_epoch(job, fit, state, on=""):
    """Train the rest of an epoch under a progress bar; save the state every --save-minutes and when a signal asks to stop.

    state: a function that gives what is saved; on: words of the bar about who trains.
    """
    args, saved = job.args, time.monotonic()
    label = f"fold {fit.data.fold} epoch {fit.epoch}/{args.epochs}{on}"
    bar = tqdm(total=fit.steps * fit.step_size, initial=fit.step * fit.step_size, desc=label, unit="img", leave=False,
               disable=True if args.quiet or not fit.ranks.first else None)  # fmt: skip

    def after_step():
        nonlocal saved
        if job.writer.done:
            bar.clear()  # what is told now has the line to itself
            job.writer.wait()
        bar.update(fit.step_size)
        leave_if_asked(job, fit, state, f"epoch {fit.epoch}{on}, after step {fit.step} of {fit.steps}")
        if time.monotonic() - saved > 60 * args.save_minutes and fit.ranks.first:
            save_good_state(job, fit, state)
            saved = time.monotonic()
        return False

    with bar:
        engine.train_one_epoch(fit, after_step)


def leave_if_asked(job, fit, state, where):
    """Save the state and raise Interrupted if a signal asked to stop; of several processes all do so at the same place."""
    code = fit.ranks.any(job.stop.requested)
    if not code:
        return
    if fit.ranks.first:
        save_good_state(job, fit, state)
        job.writer.wait()
    raise Interrupted(code, f"stopped in fold {fit.data.fold}, {where}; state saved")


def save_good_state(job, fit, state):
    """Save what `state()` gives, unless it holds what is no number: then finite.NotFinite, and the old one stays."""
    engine.check_finite(fit)
    job.writer.put(functools.partial(engine.save_state, job.run, fit.data.fold, engine.copied(state())))


def keep_epoch(job, fit, probs):
    """Keep what an epoch left, the weights and validation predictions too if it is the best one."""
    args, run, fold, first = job.args, job.run, fit.data.fold, []
    if fit.best_epoch == len(fit.history):
        facts, path = weights_facts(args, fit), experiment.best_weights(run, fold)
        first.append(functools.partial(model.save_weights, model.weights(fit.evaluated), facts, path))
        if probs is not None:
            rows = fit.data.val_rows
            first.append(functools.partial(write_predictions, args, run, job.data, fold, rows, probs, "oof.csv"))
    put_epoch(job, first, fit.history, fit.state_dict(), epoch_line(args, fit))


def put_epoch(job, first, history, state, line):
    """Have an epoch's files written while training goes on, as they are now, and `line` told once they are there.

    The calls `first` write theirs, then come the log (`history`), the `state` and the last row's numbers for TensorBoard.
    """
    history, state = engine.copied(history), engine.copied(state)
    row = history[-1]

    def write():
        for write_file in first:
            write_file()
        experiment.write_log(job.run, row["fold"], history)
        engine.save_state(job.run, row["fold"], state)
        names = ("lr", "train_loss", "val_loss", "val_f1", "val_acc", "images_per_second")
        job.board.write(row["epoch"], {name: row[name] for name in names if row[name] is not None})

    job.writer.put(write, functools.partial(errors.say, line))


def weights_facts(args, fit):
    """What is written beside the weights of the epoch that just ended."""
    row = fit.history[-1]
    return {
        "model": args.model,
        "target": args.target,
        "img_size": args.img_size,
        "crop": args.crop,
        "face_crop": args.face_crop,
        "mean": fit.data.mean,
        "std": fit.data.std,
        "age_bounds": args.age_bounds,
        "classes": {head: CLASS_NAMES[head] for head in HEADS[args.target]},
        "fold": fit.data.fold,
        "epoch": row["epoch"],
        "val_f1": row["val_f1"],
        "options": {name: value for name, value in vars(args).items() if name not in ("resume", "fold")},
    }


def write_predictions(args, run, data, fold, rows, probs, name):
    """Write probabilities of image rows beside their official classes into the fold's folder, in the format of oof.csv."""
    images = data.images.iloc[rows]
    heads = HEADS[args.target] if args.target == "multi" else (SCORED_AS[args.target],)
    table = predictions.oof_table(images, fold, args.target, dataset.head_targets(images, heads), probs)
    files.write_csv(experiment.fold_dir(run, fold) / name, table, predictions.FORMAT)


def epoch_line(args, fit, on=""):
    """What the user is told of the epoch that just ended, with the words `on` about who trained."""
    row = fit.history[-1]
    score = "" if row["val_f1"] is None else "  val {val_loss:.4f}  F1 {val_f1:.4f}  acc {val_acc:.4f}".format(**row)
    best = " *" if row["val_f1"] is not None and fit.best_epoch == row["epoch"] else ""
    epoch = f"epoch {row['epoch']:>2}{on or f'/{args.epochs}'}"
    return (
        f"fold {row['fold']} {epoch}  lr {row['lr']:.1e}  loss {row['train_loss']:.4f}{score}"
        f"  {row['seconds']:.1f} s  {row['images_per_second']:.0f} img/s{best}"
    )


def finish(run, fit, rows, keep_state):
    """Mark the fold complete with its scores and the costs of all its `rows` of the log."""
    best = fit.history[fit.best_epoch - 1]
    facts = {
        "fold": fit.data.fold,
        "best_epoch": fit.best_epoch,
        "val_f1": best["val_f1"],
        "val_acc": best["val_acc"],
        "epochs": len(fit.history),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": float(np.mean([row["images_per_second"] for row in rows])),
        "peak_memory_mib": peak_memory_mib(fit.ranks.device),
    }
    experiment.finish_fold(run, fit.data.fold, facts, keep_state)


def peak_memory_mib(device):
    """The most memory used so far, in MiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
