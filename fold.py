"""One fold, from its first step to its complete folder: data, model, saved state, best weights, log and predictions."""

import contextlib
import resource
import sys
import time
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import cache
import dataset
import engine
import errors
import experiment
import model
import precision
import predictions
from errors import InputError, Interrupted
from images import Geometry
from labels import CLASS_NAMES, HEADS, SCORED_AS


@dataclass
class Data:
    """The data of a run: people with their folds, image rows, and the labels that training sees."""

    people: pd.DataFrame
    folds: np.ndarray
    images: pd.DataFrame
    labelled: pd.DataFrame
    bad: list
    store: cache.ImageStore


def load_data(args, device):
    """Read, check and decode everything a run needs; nothing is written but the image cache."""
    everyone = people = dataset.read_people(args.data_dir)
    if args.limit_people:
        people = dataset.limit_people(everyone, args.limit_people, args.kfold, args.seed)
    folds = dataset.assign_folds(people, args.kfold, args.seed)
    images = dataset.list_images(args.data_dir, people, skip_missing=args.skip_bad_images)
    labelled = images
    if args.label_fixes:
        fixes, left_out = dataset.read_label_fixes(args.label_fixes, everyone, args.fix_confidence)
        fixes = fixes[fixes["path"].isin(people["path"])]
        labelled = dataset.apply_label_fixes(images, fixes)
        errors.say(f"label fixes: {len(fixes)} applied to training labels, {left_out} below confidence {args.fix_confidence}")
    if args.drop_ages:
        errors.say(f"drop ages: {labelled.loc[labelled['age'].isin(args.drop_ages), 'path'].nunique()} people leave training")
    geometry = Geometry.of(args.img_size, args.crop, args.face_crop)
    files = dataset.image_files(args.data_dir, images["image"])
    pixels, bad = cache.open_cache(files, geometry, args.cache_dir, args.skip_bad_images, args.quiet)
    lacking = len(people) * len(dataset.IMAGE_KINDS) - len(images)
    if bad or lacking:
        errors.say(f"bad images: {len(bad)} unreadable and {lacking} missing are left out")
    return Data(people, folds, images, labelled, bad, cache.ImageStore(pixels, device, args.cache_device))


def fold_data(args, data, fold, mean, std):
    """The rows of one fold: all others train, less bad images and people whose age, once fixed, is in --drop-ages."""
    fold_of_image = data.images["path"].map(dict(zip(data.people["path"], data.folds))).to_numpy()
    good = np.ones(len(data.images), dtype=bool)
    good[data.bad] = False
    training = good & ~data.labelled["age"].isin(args.drop_ages).to_numpy()
    if args.kfold:
        training &= fold_of_image != fold
    validation = good & (fold_of_image == fold) if args.kfold else np.zeros_like(good)
    targets = dataset.head_targets(data.labelled, HEADS[args.target], tuple(args.age_bounds))
    truth = dataset.head_targets(data.images, (SCORED_AS[args.target],))[:, 0]
    if not training.any():
        raise InputError(f"--drop-ages: leaves nobody to train fold {fold}")
    return engine.FoldData(fold, data.store, np.flatnonzero(training), np.flatnonzero(validation), targets, truth, mean, std)


def build_model(args, fold, device, try_size=False):
    """A new model for a fold: its initial weights are a function of (seed, fold). Memory format auto: as timm makes it."""
    torch.manual_seed(cache.draw_seed("init", args.seed, fold))
    net = model.create(args.model, args.target, args.img_size, args.pretrained, args.weights, try_size)
    return net.to(device, memory_format=precision.FORMATS.get(args.memory_format))


def recipe(args):
    """The options that the loop uses."""
    return engine.Recipe(**{field.name: getattr(args, field.name) for field in fields(engine.Recipe)})


def check(args, data, net, ranks):
    """InputError for what would only fail in training: nobody left to train, or too few images a step.

    `net` is a model of the run; what it has learned of running statistics may change.
    """
    mean, std = model.mean_std(net)
    for fold in range(max(args.kfold, 1)):
        rows = fold_data(args, data, fold, mean, std).train_rows
        size = engine.step_size(recipe(args), len(rows), ranks.world) // (args.accum * ranks.world)
        if size == 1:
            try:
                net(torch.zeros(1, 3, *args.img_size, device=ranks.device))
            except ValueError as error:
                raise InputError(
                    f"--batch-size {args.batch_size}: {args.model} has batch norm, which can't train on one image at a time"
                ) from error


def check_same(args, data, ranks):
    """InputError when the processes do not hold the same data; none goes on before all hold theirs."""
    mine = (data.images.to_csv(), data.labelled.to_csv(), data.folds.tolist(), data.bad) if ranks.world > 1 else ()
    if ranks.any(int(mine != ranks.from_first(mine))):
        raise InputError(f"--data-dir {args.data_dir}: holds other people or readable images than that of another process")


def save_state(run, fold, state):
    """last.pt: what --resume needs (tensors and plain values)."""

    def write(temporary):
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(f"is the disk full? {str(error).splitlines()[0]}") from error

    experiment.write_atomic(experiment.fold_dir(run, fold) / "last.pt", write)


def load_state(run, fold):
    """The state of `save_state`, or None; nothing in the file can run code."""
    path = experiment.fold_dir(run, fold) / "last.pt"
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything; nothing of it is used
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0]}); delete it to train this fold anew") from error


def train_missing(args, run, data, fold, ranks, stop):
    """`train_fold`, unless the fold is complete already; its folder is held meanwhile. InputError when another holds it."""
    done = ranks.from_first(experiment.done_folds(run) if ranks.first else None)  # other boxes may not see the run's folder
    if fold not in done:
        with experiment.fold_lock(run, fold) if ranks.first else contextlib.nullcontext():
            train_fold(args, run, data, fold, ranks, stop)


def train_fold(args, run, data, fold, ranks, stop):
    """Train one fold to its end, from its saved state where there is one, and leave its folder complete.

    `args` are the options of train.py, `stop` its StopSignals. Raises Interrupted, with the state saved, when a signal came.
    """
    net = build_model(args, fold, ranks.device)
    mean, std = model.mean_std(net)
    fit = engine.Fit(net, recipe(args), fold_data(args, data, fold, mean, std), ranks)
    state = ranks.from_first(load_state(run, fold) if ranks.first else None)
    if state is not None:
        fit.load_state_dict(state)
        if ranks.first:
            errors.say(f"fold {fold}: goes on at epoch {fit.epoch}, step {fit.step}")
    with SummaryWriter(run) if ranks.first else contextlib.nullcontext() as board:
        while not fit.finished:
            train_epoch(args, run, fit, stop)
            probs = engine.end_epoch(fit)
            if ranks.first:
                keep_epoch(args, run, data, fit, probs)
                log_epoch(args, board, fit)
    if not args.kfold:
        logits = engine.predict_rows(fit, fit.data.train_rows)
        probs = engine.head_probs(args.target, logits)
        if ranks.first:
            write_predictions(args, run, data, fold, fit.data.train_rows, probs, "insample.csv")
    if ranks.first:
        finish(run, fit)
    ranks.wait()


def train_epoch(args, run, fit, stop):
    """Train the rest of an epoch under a progress bar; save the state every --save-minutes and when a signal asks to stop."""
    saved = time.monotonic()
    label = f"fold {fit.data.fold} epoch {fit.epoch}/{args.epochs}"
    bar = tqdm(total=fit.steps * fit.step_size, initial=fit.step * fit.step_size, desc=label, unit="img", leave=False,
               disable=True if args.quiet or not fit.ranks.first else None)  # fmt: skip

    def after_step():
        nonlocal saved
        bar.update(fit.step_size)
        if fit.ranks.any(stop.requested):
            return True
        if time.monotonic() - saved > 60 * args.save_minutes and fit.ranks.first:
            save_state(run, fit.data.fold, fit.state_dict())
            saved = time.monotonic()
        return False

    with bar:
        complete = engine.train_one_epoch(fit, after_step)
    if not complete:
        if fit.ranks.first:
            save_state(run, fit.data.fold, fit.state_dict())
        raise Interrupted(
            stop.requested or 143,
            f"stopped in fold {fit.data.fold}, epoch {fit.epoch}, after step {fit.step} of {fit.steps}; state saved",
        )


def keep_epoch(args, run, data, fit, probs):
    """After an epoch: the weights and validation predictions if it is the best one, the log, then the state."""
    fold = fit.data.fold
    if fit.best_epoch == len(fit.history):
        row = fit.history[-1]
        facts = {
            "model": args.model,
            "target": args.target,
            "img_size": args.img_size,
            "crop": args.crop,
            "face_crop": args.face_crop,
            "mean": fit.data.mean,
            "std": fit.data.std,
            "age_bounds": args.age_bounds,
            "classes": {head: CLASS_NAMES[head] for head in HEADS[args.target]},
            "fold": fold,
            "epoch": row["epoch"],
            "val_f1": row["val_f1"],
            "options": {name: value for name, value in vars(args).items() if name not in ("resume", "fold")},
        }
        path = experiment.fold_dir(run, fold) / "best.safetensors"
        experiment.write_atomic(path, lambda temporary: model.save_weights(fit.evaluated, facts, temporary))
        if probs is not None:
            write_predictions(args, run, data, fold, fit.data.val_rows, probs, "oof.csv")
    experiment.write_log(run, fold, fit.history)
    save_state(run, fold, fit.state_dict())


def write_predictions(args, run, data, fold, rows, probs, name):
    """Write probabilities of image rows beside their official classes into the fold's folder, in the format of oof.csv."""
    images = data.images.iloc[rows]
    heads = HEADS[args.target] if args.target == "multi" else (SCORED_AS[args.target],)
    table = predictions.oof_table(images, fold, args.target, dataset.head_targets(images, heads), probs)
    experiment.write_csv(experiment.fold_dir(run, fold) / name, table, predictions.FORMAT)


def log_epoch(args, board, fit):
    """A line for the user and the epoch's numbers for TensorBoard."""
    row = fit.history[-1]
    for name in ("lr", "train_loss", "val_loss", "val_f1", "val_acc", "images_per_second"):
        if row[name] is not None:
            board.add_scalar(f"fold{row['fold']}/{name}", row[name], row["epoch"])
    score = "" if row["val_f1"] is None else "  val {val_loss:.4f}  F1 {val_f1:.4f}  acc {val_acc:.4f}".format(**row)
    best = " *" if row["val_f1"] is not None and fit.best_epoch == row["epoch"] else ""
    errors.say(
        f"fold {row['fold']} epoch {row['epoch']:>2}/{args.epochs}  lr {row['lr']:.1e}  loss {row['train_loss']:.4f}{score}"
        f"  {row['seconds']:.1f} s  {row['images_per_second']:.0f} img/s{best}"
    )


def finish(run, fit):
    """Mark the fold complete with its scores and costs."""
    best = fit.history[fit.best_epoch - 1]
    facts = {
        "fold": fit.data.fold,
        "best_epoch": fit.best_epoch,
        "val_f1": best["val_f1"],
        "val_acc": best["val_acc"],
        "epochs": len(fit.history),
        "seconds": sum(row["seconds"] for row in fit.history),
        "images_per_second": float(np.mean([row["images_per_second"] for row in fit.history])),
        "peak_memory_mib": peak_memory_mib(fit.ranks.device),
    }
    experiment.finish_fold(run, fit.data.fold, facts)


def peak_memory_mib(device):
    """The most memory used so far, in MiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
