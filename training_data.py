"""The data of a training: images with their pixels and labels, and which rows train and validate each fold."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import dataset
import errors
import experiment
import files
import inference
import model
import space
from errors import InputError
from images import Geometry, ImageStore, open_cache, stat_all


@dataclass
class Data:
    """The data of a run: people with their folds, image rows, those with the labels that training sees, the fixes that were
    applied to them, the files of all images with their sizes in bytes, and its Labels.

    With --pseudo `files` and the store hold the eval images too, after the others; `pseudo` is the table of pseudo.csv, and
    `good_eval` tells which of the images could be read.
    """

    people: pd.DataFrame
    folds: np.ndarray
    images: pd.DataFrame
    labelled: pd.DataFrame
    fixes: pd.DataFrame | None
    files: list
    sizes: np.ndarray
    bad: list
    store: ImageStore
    labels: dataset.Labels
    eval_names: list
    good_eval: np.ndarray
    pseudo: pd.DataFrame | None


def load_data(args, device, run=None, weights=None):
    """Read, check and decode everything a run needs; nothing is written but the image cache (and a --pseudo run's eval.csv).

    run: the folder of a run that goes on; its pseudo-labels are those that it began with, and so must its label fixes be.
    weights: the bytes of the model's weights, from which the room on disk is known that must be there before images are
    decoded; None: that is not looked for.
    """
    everyone = people = dataset.read_people(args.data_dir)
    if args.limit_people:
        people = dataset.limit_people(everyone, args.limit_people, args.kfold, args.fold_seed)
    folds = dataset.assign_folds(people, args.kfold, args.fold_seed)
    check_weights(args, people, folds)
    images = dataset.list_images(args.data_dir, people, skip_missing=args.skip_bad_images)
    labelled, fixes = fix_labels(args, everyone, people, images, run) if args.label_fixes else (images, None)
    if args.drop_ages:
        errors.say(f"drop ages: {labelled.loc[labelled['age'].isin(args.drop_ages), 'path'].nunique()} people leave training")
    geometry = Geometry.of(args.img_size, args.crop, args.face_crop)
    files = dataset.image_files(args.data_dir, images["image"])
    eval_names, pseudo_labels = [], None
    if args.pseudo:
        eval_images = dataset.read_eval_images(args.data_dir)
        eval_names, files = eval_images.names, [*files, *eval_images.files]
        pseudo_labels = read_pseudo(args, people, folds, eval_images, run, device)
    if weights is not None:
        space.check(args, weights, images, files, geometry, run)
    pixels, bad = open_cache(files, geometry, args.cache_dir, args.skip_bad_images, args.quiet)
    lacking = len(people) * len(dataset.IMAGE_KINDS) - len(images)
    if bad or lacking:
        errors.say(f"bad images: {len(bad)} unreadable and {lacking} missing are left out")
    store = ImageStore(pixels, device, args.cache_device)
    good = np.ones(len(files), dtype=bool)
    good[bad] = False
    good, good_eval = np.split(good, [len(images)])
    return Data(
        people=people, folds=folds, images=images, labelled=labelled, fixes=fixes, files=files,
        sizes=np.array([size for size, _time in stat_all(files)]), bad=bad, store=store,
        labels=dataset.make_labels(args, people, folds, images, labelled, good),
        eval_names=eval_names, good_eval=good_eval, pseudo=pseudo_labels,
    )  # fmt: skip


def fix_labels(args, everyone, people, images, run):
    """(image rows with the labels that training sees, the fixes of --label-fixes that were applied to them).

    A run that goes on takes its own copy of the fixes where the file is gone.
    """
    kept = run and not Path(args.label_fixes).exists() and run / "label_fixes.csv"
    fixes, left_out = dataset.read_label_fixes(kept or args.label_fixes, everyone, args.fix_confidence)
    fixes = fixes[fixes["path"].isin(people["path"])].reset_index(drop=True)
    check_fixes(args.label_fixes, fixes, run)
    errors.say(f"label fixes: {len(fixes)} applied to training labels, {left_out} below confidence {args.fix_confidence}")
    return dataset.apply_label_fixes(images, fixes), fixes


def read_pseudo(args, people, folds, eval_images, run, device):
    """The table of pseudo.csv: that of the run that goes on, or one made of what --pseudo's models predict."""
    labels = inference.read_pseudo(run, args.target) if run else inference.make_pseudo(args, people, folds, eval_images, device)
    counts = labels["fold"].value_counts().sort_index()
    told = ", ".join(f"{count} in fold {fold}" for fold, count in counts.items()) or "none"
    confidence = f"confidence {args.pseudo_min_confidence:g} and above"
    errors.say(f"pseudo-labels: of {len(eval_images.names)} eval images {told}, {confidence}")
    return labels


def digest(data):
    """The sha256 of what training goes by: names and sizes of the images, which of them are good, their labels."""
    found = hashlib.sha256("\n".join([*data.images["image"].to_numpy(), *data.eval_names]).encode())
    labels = data.labels
    for values in (data.sizes, labels.good, data.good_eval, labels.trains, labels.targets, labels.truth, labels.persons):
        found.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
    return found.hexdigest()


def check_weights(args, people, folds):
    """InputError when --weights were trained on people whom the folds of this command validate on: scores would be too good.

    Of weights that train.py wrote but that lie outside of their run nobody can tell whom they have seen: a line says so.
    """
    if args.weights is None or not args.kfold or not model.is_trained(args.weights):
        return
    path = Path(args.weights).absolute()
    try:
        number, theirs = int(path.parent.name.removeprefix("fold")), experiment.read_folds(path.parent.parent)
    except errors.Unreadable:
        raise
    except ValueError:  # InputError too
        errors.say(f"--weights {args.weights}: train.py wrote them; if it was on people of this data, scores are too good")
        return
    seen = set(theirs["path"][theirs["fold"] != number] if path.name == "best.safetensors" else theirs["path"])
    held_out = people["path"][np.isin(folds, args.fold)] if args.fold else people["path"]
    both = [name for name in held_out if name in seen]
    if both:
        raise InputError(
            f"--weights {args.weights}: has learnt {both[0]} and {len(both) - 1} more people that these folds validate on, so "
            "out-of-fold scores would be too good; start from a backbone that never saw them, or train with --kfold 0"
        )


def check_fixes(path, fixes, run):
    """InputError when --label-fixes are not those that the run that goes on began with, which it keeps in label_fixes.csv."""
    kept = run and run / "label_fixes.csv"
    if not kept or not kept.is_file():  # of a run that was begun before they were kept nothing is known
        return
    with errors.reading(kept):
        before = kept.read_bytes()
    if before != files.csv_text(fixes).encode():
        raise InputError(
            f"--label-fixes {path}: its {len(fixes)} fixes are not those that this run began with; copy {kept} over it, "
            "or start a new run"
        )


def check_same(args, data, ranks):
    """InputError when the processes do not hold the same data; none goes on before all hold theirs."""
    labels = None if data.pseudo is None else data.pseudo.to_csv(float_format=inference.PSEUDO_FORMAT)
    mine = (data.images.to_csv(), data.labelled.to_csv(), data.folds.tolist(), data.bad, labels) if ranks.world > 1 else ()
    if ranks.any(int(mine != ranks.from_first(mine))):
        raise InputError(f"--data-dir {args.data_dir}: holds other people or readable images than that of another process")
