"""Train one experiment: K folds (or everyone), one run folder.

    python train.py --loss focal --optimizer AdamP --kfold 5

Reads the competition's folder (see --data-dir). Writes runs/NAME/: args.yaml, env.json, folds.csv, log.csv, oof.csv,
summary.json, the weights of each fold, pictures and TensorBoard events. Stopped by a signal it saves its state; `--resume RUN`
goes on as if nothing had happened.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take seconds

import argparse
import contextlib
import copy
import functools
import hashlib
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from tqdm import tqdm

import dataset
import engine
import experiment
import figures
import files
import gallery
import hardware
import images
import inference
import model
import options
import predictions
from dataset import CLASS_NAMES, HEADS, SCORED_AS
from errors import InputError, Interrupted
from images import Geometry, ImageStore


def main(argv=None):
    """One run, from its options to its closing lines; under torchrun all ranks go through it side by side."""
    started, argv = time.monotonic(), sys.argv[1:] if argv is None else argv
    stop = errors.StopSignals()
    hardware.tune_malloc()
    ranks = hardware.join()
    with ranks.only_rank0_reports():
        args = options.same_options(options.parse_args(argv, ranks), ranks)
        ranks = ranks.on(args.device)
        with resumable(args, argv, ranks):
            args.threads = threads_of_a_fold(args)
            tables = dataset.read_tables(args)
            refuse(args, tables, ranks)
            net = None if args.resume else model.build_model(args, 0, ranks.device, try_size=True)
            data = load_data(args, tables, net, ranks)
            errors.log(f"device: {hardware.describe(ranks.device)}")
            settle(args, data, net, ranks)
            if args.dry_run:
                if ranks.first:
                    dry_run(args, argv, data, net, ranks)
                return 0
            del net  # each fold builds its own
            with stop.deferred(), ranks.peers_alive():
                run = open_run(args, argv, tables, data, ranks)
                train_folds(args, run, data, ranks, stop)
            if ranks.first:
                summary = predictions.write_summary(run, args.target, args.kfold)
                with files.lock(run, wait=True):
                    draw_pictures(args, run, ranks.device)
                closing(args, run, summary, started)
    hardware.finish()
    return 0


def threads_of_a_fold(args):
    """Let torch use --threads, or the cores shared among --parallel-folds; returns their number, on which rounding depends."""
    at_once = min(args.parallel_folds, len(experiment.fold_numbers(args)))
    return hardware.use_threads(args.threads or max(hardware.use_threads(None) // at_once, 1))


@contextlib.contextmanager
def resumable(args, argv, ranks):
    """Add the command that goes on with the run to what ends it for a passing reason: a signal, the disk, memory.
    `args.resume` is the run from `open_run` on. The folder of a new run that learnt nothing before memory ran out goes."""
    is_new = args.resume is None
    try:
        yield
    except (Interrupted, OSError, RuntimeError, MemoryError, ValueError) as error:
        passing = isinstance(error, (Interrupted, files.DiskError, errors.Unreadable, OSError))
        message = (errors.about_file(error) or str(error)) if passing else advice(args, error, ranks.device)
        run = args.resume and Path(args.resume, "args.yaml").exists() and Path(args.resume)
        if not message or (passing and not run):
            raise
        if run and is_new and not passing and not any(run.glob("fold*/last.pt")) and not experiment.done_folds(run):
            if ranks.first:
                shutil.rmtree(run)
        elif run:
            folds = ["--fold", *map(str, args.fold)] if args.fold else []
            again = ["--resume", args.resume, *folds] if is_new else argv
            message = f"{message}. Go on with: {shlex.join([*hardware.launcher(), 'train.py', *again])}"
        raise Interrupted(error.code, message) if isinstance(error, Interrupted) else InputError(message) from error


def advice(args, error, device):
    """The line about an error by which torch tells that a step can't be; None of any other."""
    if not errors.is_out_of_memory(error):
        return hardware.step_advice(error)
    remedy = "a new run with --auto-batch takes the largest batch that fits, and makes the same steps"
    if args.parallel_folds > 1:
        remedy = "--parallel-folds 1 trains one fold at a time"
    elif args.auto_batch:
        remedy = "a smaller --img-size or --model takes less; does another program use the device too?"
    return f"--batch-size {args.batch_size}: out of memory on {hardware.device_name(device)}; {remedy}"


def load_data(args, tables, net, ranks):
    """The data of a run, of whose models `net` is one (None: resumed): image rows, their `labels` (of make_labels), the files
    and decoded pixels (an ImageStore), a digest of it all. With --pseudo files and store hold the eval images too, after the
    others; `good_eval` is False where they can't be read. InputError when a rank has other data than rank 0."""
    geometry, names = Geometry.of(args.img_size, args.crop, args.face_crop), tables.eval_images.names
    paths = [*tables.files, *tables.eval_images.files]
    with ranks.local_rank0_first():
        if ranks.first:
            check_room(args, net, tables.images, paths)
        pseudo = read_pseudo(args, tables, ranks.device) if args.pseudo else None
        pixels, bad = images.open_cache(paths, geometry, args.cache_dir, args.skip_bad_images, args.quiet, args.dry_run)
    missing = len(tables.people) * len(dataset.IMAGE_KINDS) - len(tables.images)
    if bad or missing:
        errors.log(f"bad images: {len(bad)} unreadable and {missing} missing are left out")
    good, good_eval = np.split(~np.isin(np.arange(len(paths)), bad), [len(tables.images)])
    labels = dataset.make_labels(args, tables, good)
    digest = hashlib.sha256("\n".join([*tables.images["image"], *names]).encode())
    for values in ([size for size, _time in images.stat_all(paths)], good_eval, *vars(labels).values()):
        digest.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
    if pseudo is not None:
        digest.update(pseudo.to_csv(float_format=predictions.PSEUDO_FORMAT).encode())
    if ranks.all_reduce_max(int(digest.hexdigest() != ranks.broadcast(digest.hexdigest()))):
        raise InputError(f"--data-dir {args.data_dir}: holds other people or readable images than that of another process")
    store = ImageStore(pixels, ranks.device, args.cache_device)
    return SimpleNamespace(images=tables.images, labels=labels, files=paths, store=store, eval_names=names,
                           good_eval=good_eval, pseudo=pseudo, digest=digest.hexdigest())  # fmt: skip


def read_pseudo(args, tables, device):
    """The table of pseudo.csv: that of the resumed run, or what the models of --pseudo predict."""

    def predict(jobs):
        settings = argparse.Namespace(**vars(args) | {"batch_size": 128, "tta": "none"})
        inference.predict_folds(jobs, tables.eval_images, settings, device)

    kept = args.resume and predictions.read_pseudo(Path(args.resume), args.target)
    labels = predictions.make_pseudo(args, tables, predict) if kept is None else kept
    counts = labels["fold"].value_counts().sort_index()
    used = ", ".join(f"{count} in fold {fold}" for fold, count in counts.items()) or "none"
    errors.log(f"pseudo-labels: of {len(tables.eval_images.names)} eval images {used}, "
               f"confidence {args.pseudo_min_confidence:g} and above")  # fmt: skip
    return labels


def refuse(args, tables, ranks):
    """InputError for what is known to be wrong before weights are fetched, images decoded or a folder made."""
    check_seen(args, tables)
    if not ranks.first:
        return
    if not args.resume:
        experiment.check_free(args.output_dir, args.name)
        return
    run, folds = Path(args.resume), experiment.fold_numbers(args)
    done = experiment.done_folds(run)
    experiment.check_not_trained(run, folds)
    if any(fold not in done and not experiment.state_file(run, fold).exists() for fold in folds):
        experiment.check_weights(run, args.weights)
    for fold in range(max(args.kfold, 1)):
        begun = done[fold]["epochs"] if fold in done else engine.epochs_begun(run, fold)
        if args.epochs < begun:
            raise InputError(f"--epochs {args.epochs}: fold {fold} of {run} is in epoch {begun} already; give that or more")
        if fold in done and not experiment.state_file(run, fold).exists() and not experiment.is_complete(args, done[fold]):
            gone = f"fold {fold} of {run} was complete after {begun} and its state is gone, as without --keep-state"
            raise InputError(f"--epochs {args.epochs}: {gone}; to train it anew delete {experiment.fold_dir(run, fold)}")


def check_seen(args, tables):
    """InputError when --weights were trained on people whom the folds of this command validate on: scores would be too good."""
    if args.weights is None or not args.kfold or not model.is_trained(args.weights):
        return
    path = Path(args.weights).absolute()
    try:
        number, theirs = int(path.parent.name.removeprefix("fold")), experiment.read_folds(path.parent.parent)
    except ValueError:  # InputError too
        errors.log(f"--weights {args.weights}: train.py wrote them; if it was on people of this data, scores are too good")
        return
    seen = set(theirs["path"][theirs["fold"] != number] if path.name == "best.safetensors" else theirs["path"])
    people = tables.people["path"]
    both = [name for name in (people[np.isin(tables.folds, args.fold)] if args.fold else people) if name in seen]
    if both:
        learnt = f"has learnt {both[0]} and {len(both) - 1} more people that these folds validate on"
        remedy = "start from a backbone that never saw them, or train with --kfold 0"
        raise InputError(f"--weights {args.weights}: {learnt}, so out-of-fold scores would be too good; {remedy}")


def check_room(args, net, rows, paths):
    """InputError where a volume has no room for a new run of models like `net` and its decoded images; else these needs, an
    upper estimate. Optimizers keep twice the weights; a fold in training has a checkpoint too, twice while it is replaced."""
    pixels = images.bytes_to_build(paths, Geometry.of(args.img_size, args.crop, args.face_crop), args.cache_dir)
    needs = [("--cache-dir", args.cache_dir, "decoded images", pixels)] if pixels else []
    if net is not None:
        folds = len(experiment.fold_numbers(args))
        weights = sum(value.nbytes for value in net.state_dict().values()) * (2 if args.finish_on_all else 1)
        at_once = min(folds, args.parallel_folds)
        states = at_once + (folds if args.keep_state else at_once)
        table = len(rows) * (100 + 11 * (len(dataset.columns(args.target)) + 1))  # names, then numbers of 11 bytes
        weights *= folds + states * (3 + bool(args.ema) + args.average_last)
        needs.insert(0, ("--output-dir", args.output_dir, "the run", weights + 2 * table + (20 << 20)))  # of pictures and logs
    files.check_room(needs)
    return needs


def settle(args, data, net, ranks):
    """Resolve --amp, --memory-format and --auto-batch of a new run by its model `net` (None: resumed, and they are).
    InputError for what would only fail in training: an optimizer that can't be, nobody left to train, images for no step."""
    if net is not None:
        engine.new_optimizer(net, args)
        hardware.choose_precision(args, net, ranks)
        if args.auto_batch:
            hardware.find_batch_size(args, data.store, ranks, functools.partial(try_steps, args, data, net, ranks))
    for fold in range(max(args.kfold, 1)):  # a resumed run may have other processes than it began with
        engine.step_size(args, engine.epoch_images(args, dataset.fold_data(args, data, fold)), ranks.world)


def try_steps(args, data, net, ranks):
    """Two optimizer steps of a copy of `net` in this rank alone; may not fit in memory: (the Fit, seconds of the last)."""
    rows, batch_size = dataset.fold_data(args, data, experiment.fold_numbers(args)[0]), args.batch_size // ranks.world
    alone = argparse.Namespace(**vars(args) | {"batch_size": batch_size, "freeze_epochs": 0, "compile": False})
    fit = engine.Fit(copy.deepcopy(net), alone, rows, hardware.Ranks(0, 1, ranks.device))
    ends = [time.perf_counter()]

    def after_step():
        hardware.synchronise(ranks.device)
        ends.append(time.perf_counter())
        return fit.step == 2

    with contextlib.suppress(engine.NotFinite):  # the training itself will say so
        engine.train_one_epoch(fit, after_step)
    return fit, sum(np.diff(ends)[-1:])


def dry_run(args, argv, data, net, ranks):
    """--dry-run: print what the run is of, and what it takes of the machine; nothing is written."""
    errors.say(f"images/people by class and by the fold that validates them\n{class_counts(args, data)}")
    fit, seconds = try_steps(args, data, net, ranks)
    total, val_rows = engine.epoch_images(args, fit.data), fit.data.val_rows
    size, started = engine.step_size(args, total, ranks.world), time.perf_counter()
    errors.say(f"a step of {size} images: {seconds:.3g} s, peak memory {hardware.peak_memory_mib(ranks.device)} MiB, "
               f"amp {args.amp}, {args.memory_format}")  # fmt: skip
    engine.predict_rows(fit, some := val_rows[: args.batch_size])
    validation = (time.perf_counter() - started) * len(val_rows) / max(len(some), 1) / ranks.world
    epoch, folds = total // size * seconds + validation, experiment.fold_numbers(args)
    whole = epoch * (args.epochs + args.finish_on_all) * -(-len(folds) // args.parallel_folds)
    bound = "at most" if args.patience and args.kfold else "about"
    errors.say(f"an epoch of {total // size} steps, with validation: {files.time_text(epoch)}; "
               f"the run of {len(folds)} folds: {bound} {files.time_text(whole)}")  # fmt: skip
    for _option, folder, what, needed in check_room(args, net, data.images, data.files):
        errors.say(f"disk for {what}, in {folder}/: {files.in_units(needed)}; {files.describe_room(folder)}")
    usual = vars(options.make_parser().parse_args([])) | {"dry_run": True, "fold_seed": args.seed, "config": args.config}
    changed = {name: value for name, value in vars(args).items() if value != usual[name]}
    errors.say(f"options that are not the defaults:\n{options.in_lines(changed)}\nnothing is written")
    errors.say(f"next: {shlex.join([*hardware.launcher(), 'train.py', *(word for word in argv if word[:5] != '--dry')])}")


def class_counts(args, data):
    """A table of the readable images and their people by official class and by the fold that validates them."""
    classes = pd.Categorical.from_codes(data.labels.truth, CLASS_NAMES[SCORED_AS[args.target]])
    rows = pd.DataFrame({"class": classes, "fold": data.labels.fold, "path": data.images["path"]})[data.labels.good]
    table = functools.partial(rows.pivot_table, "path", "class", "fold", margins=True, margins_name="all", observed=False)
    images, people = (table(aggfunc=way, fill_value=0).astype(str) for way in ("count", "nunique"))
    return (images + "/" + people).to_string(index_names=False)


def open_run(args, argv, tables, data, ranks):
    """The Path of the run folder, which is `args.resume` from here on: a new one, or that of --resume."""
    if ranks.first:
        folds = pd.DataFrame({"path": tables.people["path"], "fold": tables.folds})
        if args.resume:
            continue_run(args, Path(args.resume), folds, data.digest)
        else:
            args.resume = str(make_run(args, argv, tables, folds, data, ranks.device))
    args.resume = ranks.broadcast(args.resume)
    return Path(args.resume)


def continue_run(args, run, folds, digest):
    """Check that the people and images of a run are the same, and write into args.yaml what --resume may change for good."""
    recorded = experiment.read_folds(run)
    if any(recorded[column].tolist() != folds[column].tolist() for column in ("path", "fold")):
        raise InputError(f"{run / 'folds.csv'}: other people than in {args.data_dir}/train/train.csv; give its --data-dir")
    if experiment.missing(run, args, experiment.fold_numbers(args)):
        experiment.check_data(run, digest)
    before, names = experiment.read_args(run), ("epochs", "keep_state", "weights", "model")
    changed = {name: getattr(args, name) for name in names if getattr(args, name) != before.get(name)}
    with files.lock(run, wait=True):
        files.remove_leftovers(run)
        if changed:
            experiment.write_args(run, before | changed)
    if "epochs" in changed:
        errors.log(f"epochs: {args.epochs} instead of {before.get('epochs')}")


def make_run(args, argv, tables, folds, data, device):
    """The Path of a new run folder with its first files."""

    def next_name():
        name, again = experiment.next_name(args.output_dir, options.recipe_name(args), vars(args))
        if again:
            errors.log(f"same options as {again}; another --seed would be a new draw")
        return name

    def fill(folder, name):
        args.name = name
        experiment.write_args(folder, recorded_options(args), [*hardware.launcher(), "train.py", *argv])
        experiment.write_env(folder, hardware.describe(device), data.digest, args.weights)
        files.write_csv(folder / "folds.csv", folds)
        for name, table in (("same_people", tables.same), ("label_fixes", tables.fixes)):
            if table is not None:
                files.write_csv(folder / f"{name}.csv", table)
        if data.pseudo is not None:
            files.write_csv(folder / "pseudo.csv", data.pseudo, predictions.PSEUDO_FORMAT)

    return experiment.make_folder(args.output_dir, args.name, next_name, fill)


def recorded_options(args):
    """The options that a run keeps: all but those of one command."""
    return {name: value for name, value in vars(args).items() if name not in ("resume", "fold", "config", "dry_run")}


def train_folds(args, run, data, ranks, stop):
    """Train this command's folds that are not complete."""
    if ranks.first:
        size, people = f"{args.img_size[0]} x {args.img_size[1]}", data.images["path"].nunique()
        where = f" on the {data.store.place}" if ranks.device.type == "cuda" and args.parallel_folds == 1 else ""
        drawn = "demo data: " * dataset.is_demo(args.data_dir)
        errors.log(f"run {run}\n  {args.target}, {args.model} at {size}, amp {args.amp}, {args.memory_format}\n"
                   f"  {drawn}{people} people, {len(data.images)} images{where}")  # fmt: skip
        if args.face_crop is not None and not (run / "crops.png").exists():
            draw_crops(args, run, data)
        errors.log(HEAD)
    numbers = experiment.fold_numbers(args)
    if args.parallel_folds > 1:
        hardware.train_in_parallel(train_missing, args, run, data, numbers, ranks.device, stop)
    else:
        for number in numbers:
            train_missing(args, run, data, number, ranks, stop)


def train_missing(args, run, data, fold, ranks, stop):
    """Train a fold, unless it is complete; its folder is locked meanwhile. InputError for a NaN."""
    if code := ranks.all_reduce_max(stop.requested):
        raise Interrupted(code, "stopped between two folds")
    done = ranks.broadcast(experiment.done_folds(run) if ranks.first else None)  # other boxes may not see the run's folder
    if fold in done and experiment.is_complete(args, done[fold]):
        if ranks.first and not args.keep_state:
            files.remove(experiment.state_file(run, fold))
        return
    lock = experiment.fold_lock(run, fold) if ranks.first else contextlib.nullcontext()
    with lock, engine.CheckpointWriter(run, fold, stop) as writer:
        try:
            train_fold(args, data, ranks, writer)
        except engine.NotFinite as error:
            paths, listed = [str(data.files[row]) for row in error.rows], experiment.fold_dir(run, fold) / "not_finite.txt"
            if ranks.first:
                files.write_text(listed, "".join(f"{path}\n" for path in paths))
            tries = [f"a lower --lr than {args.lr:g}"] + ["--clip-grad 1"] * (not args.clip_grad)
            tries += ["--amp off"] * (args.amp != "off")
            what = f"{error}; the step's {len(paths)} images are {paths[0]} and others, listed in {listed}"
            remedy = f"The last good state is kept; try a new run with {' or '.join(tries)}"
            raise InputError(f"fold {fold}, epoch {error.epoch}, step {error.step}: {what}. {remedy}") from None


def train_fold(args, data, ranks, writer):
    """Train the fold of a CheckpointWriter to its end, from its saved state where there is one, and complete its folder."""
    run, fold = writer.run, writer.fold
    state = ranks.broadcast(engine.load_state(run, fold) if ranks.first else None) or {}
    net = model.build_model(args, fold, ranks.device, empty=bool(state))
    fit = engine.Fit(net, args, dataset.fold_data(args, data, fold), ranks)
    del net  # it is the fit's to release
    last = state.pop("last", None)  # the state of --finish-on-all, once the fold's own epochs are over
    if state:
        engine.restore_state(fit, state, experiment.state_file(run, fold))
        last = last if fit.finished else None  # with more --epochs than before those come first
        if ranks.first:
            at = last or state
            errors.log(f"fold {fold}: goes on at epoch {at['epoch']}, step {at['step']}{' on everyone' if last else ''}")
    if ranks.first:
        for name in ("fold.json", "not_finite.txt"):  # it is not complete any more
            files.remove(experiment.fold_dir(run, fold) / name)
    if ranks.first and fold == experiment.fold_numbers(args)[0] and not (fit.finished or (run / "batch.png").exists()):
        draw_batch(fit, run)
    while not fit.finished:
        train_epoch(fit, writer, fit.state_dict)
        where = f"epoch {fit.epoch}, while validating"
        probs = engine.end_epoch(fit, functools.partial(writer.stop_if_asked, fit, fit.state_dict, where))
        if ranks.first:
            keep_epoch(fit, writer, data, probs)
    writer.wait()
    rows = fit.history + (finish_on_all(fit, writer, data, last) if args.finish_on_all else [])
    if not args.kfold:
        predict_training(fit, writer, data)
    if ranks.first:
        best = fit.history[fit.best_epoch - 1]
        entry = {"fold": fold, "best_epoch": fit.best_epoch, "val_f1": best["val_f1"], "val_acc": best["val_acc"]}
        entry |= {"epochs": len(fit.history), "seconds": sum(row["seconds"] for row in rows)}
        entry |= {"images_per_second": float(np.mean([row["images_per_second"] for row in rows]))}
        entry |= {"peak_memory_mib": hardware.peak_memory_mib(ranks.device)}
        experiment.finish_fold(run, fold, entry, args.keep_state)
    ranks.barrier()


def train_epoch(fit, writer, state, on=""):
    """Train the rest of an epoch under a progress bar; save `state()` every --save-minutes and when a signal asks to stop."""
    args, saved = fit.args, time.monotonic()
    label = f"fold {writer.fold} epoch {fit.epoch}/{args.epochs}{on}"
    bar = tqdm(total=fit.steps * fit.step_size, initial=fit.step * fit.step_size, desc=label, unit="img", leave=False,
               disable=True if args.quiet or not fit.ranks.first else None)  # fmt: skip

    def after_step():
        nonlocal saved
        if writer.done:
            bar.clear()  # what is logged now has the line to itself
            writer.wait()
        bar.update(fit.step_size)
        writer.stop_if_asked(fit, state, f"epoch {fit.epoch}{on}, after step {fit.step} of {fit.steps}")
        if time.monotonic() - saved > 60 * args.save_minutes and fit.ranks.first:
            writer.save(fit, state)
            saved = time.monotonic()

    with bar:
        engine.train_one_epoch(fit, after_step)


def keep_epoch(fit, writer, data, probs):
    """Keep what an epoch left, the weights and validation predictions too if it is the best one."""
    first = []
    if fit.best_epoch == len(fit.history):
        path = experiment.best_weights(writer.run, writer.fold)
        first.append(functools.partial(model.save_weights, model.weights(fit.evaluated), metadata(fit), path))
        if probs is not None:
            first.append(lambda: write_predictions(writer, data, fit.args.target, fit.data.val_rows, probs, "oof.csv"))
    left = fit.args.finish_on_all + (not fit.finished) * (fit.args.epochs - len(fit.history))
    put_epoch(fit, writer, first, fit.state_dict(), left)


COLUMNS = "{:>7}{:>8}{:>9}{:>8}{:>10}{:>10}{:>10}{:>6}{:>9}{:>7}{:>16}"  # of the console, errors.WIDTH together
HEAD = COLUMNS.format("fold", "epoch", "lr", "loss", "val loss", "macro F1", "accuracy", "kept", "epoch s", "img/s", "run left")


def epoch_line(fit, run, left, everyone):
    """The line under HEAD of the epoch that just ended, `left` epochs before the end of its fold."""
    args, row, numbers = fit.args, fit.history[-1], experiment.fold_numbers(fit.args)
    others = len(experiment.missing(run, args, numbers)) - 1  # this fold is not complete yet
    left += others // args.parallel_folds * (args.epochs + args.finish_on_all)
    alike = fit.history[args.freeze_epochs :] or fit.history  # epochs of the head alone are faster
    time_left = files.time_text(left * np.median([row["seconds"] for row in alike]))
    scores = ["-" if row[name] is None else f"{row[name]:.4f}" for name in ("val_loss", "val_f1", "val_acc")]
    return COLUMNS.format(
        "{} ({}/{})".format(fold := row["fold"], numbers.index(fold) + 1, len(numbers)),
        f"{row['epoch']}{'' if everyone else f'/{args.epochs}'}", f"{row['lr']:.1e}", f"{row['train_loss']:.4f}",
        *(("", "(everyone)", "") if everyone else scores),
        "*" if row["val_f1"] is not None and fit.best_epoch == row["epoch"] else "",
        f"{row['seconds']:.1f}", f"{row['images_per_second']:.0f}",
        f"{'at most' if args.patience and args.kfold else 'about'} {time_left}" if left else "",
    ).rstrip()  # fmt: skip


def put_epoch(fit, writer, first, state, left, earlier=()):
    """Write an epoch's files while training goes on: by the functions `first`, then log (`earlier` rows before the fit's own),
    `state` and events, all as they are now; once they are there log its line. `left`: epochs to the end of the fold."""
    history, state = engine.copied([*earlier, *fit.history]), engine.copied(state)
    line = epoch_line(fit, writer.run, left, bool(earlier))

    def write():
        for write_file in first:
            write_file()
        experiment.write_log(writer.run, writer.fold, history)
        engine.save_state(writer.run, writer.fold, state)
        write_events(writer, history[-1])

    writer.put(write, functools.partial(errors.log, line))


def write_events(writer, row):
    """Add a row of the log to the fold's TensorBoard events; a resumed fold has another file of them."""
    from torch.utils.tensorboard import SummaryWriter  # a second

    with files.writing(writer.run / "events.out.tfevents"):
        if writer.events is None:
            writer.events = SummaryWriter(writer.run, filename_suffix=f".fold{writer.fold}")
        for name in ("lr", "train_loss", "val_loss", "val_f1", "val_acc", "images_per_second"):
            if row[name] is not None:
                writer.events.add_scalar(f"fold{writer.fold}/{name}", row[name], row["epoch"])
        writer.events.flush()


def finish_on_all(fit, writer, data, last):
    """--finish-on-all N: train a fold's best weights through its last N epochs up to the best one again, on everyone, as
    the contest's 1st place did, with a new optimizer. Returns the rows of the log. `last`: its own state if it was stopped."""
    args, run, fold, ranks, best = fit.args, writer.run, writer.fold, fit.ranks, fit.best_epoch
    if best < args.finish_on_all and ranks.first:
        short = f"--finish-on-all {args.finish_on_all} repeats {best} of them"
        errors.log(f"fold {fold}: epoch {best} was the best, so {short} on everyone")
    before = engine.copied(fit.state_dict())
    fit.release()
    net = model.build_model(args, fold, ranks.device, empty=True)
    weights = model.load(experiment.best_weights(run, fold))[0].state_dict() if ranks.first else None
    net.load_state_dict(ranks.broadcast(weights))
    everyone = dataset.fold_data(args, data, fold, everyone=True)
    frozen = args.freeze_epochs if best <= args.freeze_epochs else 0  # the best epoch's backbone learns, if it did
    final = engine.Fit(net, argparse.Namespace(**vars(args) | {"freeze_epochs": frozen}), everyone, ranks)
    final.epoch = max(best - args.finish_on_all, 0) + 1
    if last is not None:
        engine.restore_state(final, last, experiment.state_file(run, fold))

    def state():
        return {**before, "last": final.state_dict()}

    while final.epoch <= best:
        train_epoch(final, writer, state, " on everyone")
        engine.end_epoch(final)
        final.history[-1]["epoch"] = len(fit.history) + len(final.history)
        if ranks.first:
            fields = metadata(final) | {"epoch": best, "val_f1": fit.history[best - 1]["val_f1"]}
            path = experiment.fold_dir(run, fold) / "final.safetensors"
            save = functools.partial(model.save_weights, model.weights(final.evaluated), fields, path)
            put_epoch(final, writer, [save] if final.epoch > best else [], state(), best + 1 - final.epoch, fit.history)
    writer.wait()
    return final.history


def predict_training(fit, writer, data):
    """Write insample.csv of a nofold run: predictions of its own training images."""
    asked = functools.partial(writer.stop_if_asked, fit, fit.state_dict, "while predicting its training images")
    rows = fit.data.train_rows[fit.data.train_rows < len(data.images)]  # eval images of --pseudo have no labels
    logits = engine.predict_rows(fit, rows, asked)
    if fit.ranks.first:
        write_predictions(writer, data, fit.args.target, rows, dataset.head_probs(fit.args.target, logits), "insample.csv")


def write_predictions(writer, data, target, rows, probs, name):
    """Write probabilities of image rows beside their official classes into the fold's folder, in the format of oof.csv."""
    rows = data.images.iloc[rows]
    heads = HEADS[target] if target == "multi" else (SCORED_AS[target],)
    table = predictions.oof_table(rows, writer.fold, target, dataset.head_targets(rows, heads), probs)
    files.write_csv(experiment.fold_dir(writer.run, writer.fold) / name, table, predictions.FORMAT)


def metadata(fit):
    """The metadata of the weights of the epoch that just ended, from which inference.py rebuilds the model."""
    args, row = fit.args, fit.history[-1]
    fields = {name: getattr(args, name) for name in ("model", "target", "img_size", "crop", "face_crop")}
    fields |= {"mean": fit.mean, "std": fit.std, "age_bounds": args.age_bounds}
    fields |= {"classes": {head: CLASS_NAMES[head] for head in HEADS[args.target]}, "fold": fit.data.fold}
    return fields | {"epoch": row["epoch"], "val_f1": row["val_f1"], "options": recorded_options(args)}


def draw_crops(args, run, data):
    """Draw crops.png: what --face-crop cuts out of the images, before anything is learnt from them."""
    faces = images.open_faces(data.files, args.cache_dir, args.quiet)[: len(data.images)]
    rows = pd.DataFrame(faces, columns=["left", "top", "right", "bottom"]).assign(image=data.images["image"])[data.labels.good]
    root, geometry = Path(dataset.images_root(args.data_dir)), Geometry.of(args.img_size, args.crop, args.face_crop)
    with files.lock(run, wait=True):  # another process that joins the run clears away what is half-written there
        crops = figures.crops(rows, lambda image: images.open_rgb(root / image), geometry, run.name)
        files.write_figure(run / "crops.png", crops)


def draw_batch(fit, run):
    """Draw batch.png: images of a fold's first batch, before and after crop, augmentation and mixing."""
    changes = f"fold {fit.data.fold}, --aug {fit.args.aug}, --mix {fit.args.mix}"
    with files.lock(run, wait=True):
        files.write_figure(run / "batch.png", figures.batch(*engine.preview(fit), changes, run.name))


def draw_pictures(args, run, device):
    """Draw curves.png, and write report.html with its pictures; without validation it shows training images, and says so."""
    files.write_figure(run / "curves.png", figures.curves(experiment.read_log(run / "log.csv"), run.name))
    gallery.write_report(run, args.data_dir, device, args.quiet)


def closing(args, run, summary, started):
    """Print folds, score with its interval, where the run is, and the next command."""
    rows = [[row["fold"], row["best_epoch"], *("-" if row[key] is None else f"{row[key]:.4f}" for key in ("val_f1", "val_acc"))]
            for row in summary["folds"]]  # fmt: skip
    print("", *files.aligned(["fold", "best epoch", "macro F1", "accuracy"], rows, left=()), sep="\n  ")
    if summary["oof_f1"] is not None:
        low, high = summary["oof_f1_ci95"]
        errors.say(f"\nout-of-fold macro F1 of {SCORED_AS[args.target]}: {summary['oof_f1']:.4f} "
                   f"(95 % CI over people {low:.4f} .. {high:.4f}), accuracy {summary['oof_acc']:.4f}")  # fmt: skip
    else:
        errors.say("\nnofold: everyone trained, so there is no validation score")
    missing = sorted(set(range(max(args.kfold, 1))) - {row["fold"] for row in summary["folds"]})
    if missing:
        again = shlex.join(["python", "train.py", "--resume", str(run), "--fold", *map(str, missing)])
        errors.say(f"folds not trained yet: {' '.join(map(str, missing))} ({again})")
    errors.say("run: {}/\n  its folds took {seconds} s with validation, this command {:.0f} s; {images_per_second:.0f} images/s"
               ", peak memory {peak_memory_mib} MiB".format(run, time.monotonic() - started, **summary))  # fmt: skip
    print(errors.tr("pictures:"), *sorted(run.glob("*.png")), sep="\n  ")
    errors.say(f"report: {run / 'report.html'}")
    errors.say(f"next: python inference.py --models {shlex.quote(str(run))}{dataset.data_option(args.data_dir)}")


if __name__ == "__main__":
    code = errors.run(main)
    errors.on_signals(signal.SIG_IGN)  # all is logged and written
    sys.exit(code)
