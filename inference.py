"""Predict the eval images with trained runs: probabilities for each run, and a submission where it decides all 18 classes.

    python inference.py --models runs/10-AdamP-StepLR-FL-v0-label_5fold
    python inference.py --models submissions/03-soft-3runs --images me.jpg holiday/

Writes RUN/eval.csv (ImageID and probabilities, the mean over folds) and, for the targets label and multi, RUN/submission.csv.
With --oof it writes RUN/oof_TTA.csv, each fold's validation images with the --tta, and says whether that is worth having.
With --images it predicts any photos, by runs or an ensemble, and writes predictions.csv and the page photos.html into --out. A
face must fill a photo as it does in the competition, or the run must have been trained with --face-crop.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take seconds

import argparse
import os
import re
import shlex
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

import blend
import dataset
import experiment
import files
import hardware
import images
import metrics
import model
import options
import predictions
from dataset import CLASS_NAMES, COMPONENTS, FIRST_AGE, LABELS, decode, num_outputs
from errors import InputError

SHOWN, PRINTED, HEIGHT = 200, 50, 320  # photos on the page and in the terminal's table; pixels of a photo on the page
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
        if not predictions.is_fresh(run, args.tta, number, eval_images.names):
            weights = experiment.weights_file(run, number)
            by_geometry.setdefault(model.geometry(weights), []).append((run, number, weights))
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
                predictions.write_with_metadata(path, table, predictions.made_by(run, number, eval_images.names))


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
        f1, accuracy = metrics.macro_f1(answers, pred, len(LABELS)), np.mean(answers == pred)
        errors.say(f"{what} against {data_dir}/eval/answers.csv: macro F1 {f1:.4f}, accuracy {accuracy:.4f}")


def open_oof_images(run, plain, data_dir, args, device):
    """(images.ImageStore of the train images of a run, from the cache of its training; the rows of `plain`, its oof.csv)."""
    people = dataset.read_people(data_dir)
    people = people[people["path"].isin(experiment.read_folds(run)["path"])]
    names = dataset.list_images(data_dir, people, skip_missing=True)["image"]
    rows = pd.Index(names).get_indexer(plain["image"])
    if (rows < 0).any():
        missing = plain["image"].iloc[(rows < 0).argmax()]
        raise InputError(f"{run}/oof.csv: image {missing} is not in {data_dir}; --data-dir takes what the run was trained on")
    paths = dataset.image_files(data_dir, names)
    geometry = model.geometry(experiment.best_weights(run, int(plain["fold"].iloc[0])))
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
    if predictions.is_fresh(run, args.tta):
        return tta_gain(target, plain, predictions.read_table(path, target, ("image", "path")))
    store, rows = open_oof_images(run, plain, data_dir, args, device)
    probs = np.empty((len(plain), num_outputs(target)), dtype=np.float32)
    for number in plain["fold"].unique():
        val = (plain["fold"] == number).to_numpy()
        ((_target, probs[val]),) = predict_rows([experiment.best_weights(run, int(number))], store, rows[val], args, device)
    truth = plain[dataset.truth_columns(target)].to_numpy()
    table = predictions.oof_table(plain, plain["fold"].to_numpy(), target, truth, probs)
    gain = tta_gain(target, plain, table)
    predictions.write_with_metadata(path, table, predictions.made_by(run) | gain)
    return gain


def tta_gain(target, plain, table):
    """{oof_f1, plain_f1, gain, gain_ci95} of two oof.csv tables with the same rows: macro F1, and their paired difference."""
    (truth, plain_probs), (_truth, probs) = predictions.scored(plain, target), predictions.scored(table, target)
    C = probs.shape[1]
    pred, plain_pred = probs.argmax(1), plain_probs.argmax(1)
    f1, plain_f1 = (metrics.macro_f1(truth, classes, C) for classes in (pred, plain_pred))
    samples = metrics.bootstrap_difference(truth, pred, plain_pred, plain["path"].to_numpy(), C)
    scores = {"oof_f1": round(f1, 6), "plain_f1": round(plain_f1, 6), "gain": round(f1 - plain_f1, 6)}
    return scores | {"gain_ci95": [round(bound, 6) for bound in metrics.interval(samples)]}


def find_photos(paths):
    """The image files (str) of --images: files as they are named, of folders those within that have an image's suffix."""
    photos = []
    for path in map(Path, paths):
        inside = [Path(folder, name) for folder, _folders, names in os.walk(path) for name in names if name[0] != "."]
        inside = sorted(str(file) for file in inside if file.suffix.lower() in dataset.IMAGE_SUFFIXES)
        if not path.is_file() and not inside:
            raise InputError(f"--images {path}: {'holds no images' if path.is_dir() else 'no such file or folder'}")
        photos += [str(path)] if path.is_file() else inside
    return list(dict.fromkeys(photos))


# A run, whose `weights` are those of its folds, or an ensemble of `members` by `recipe` and a stack, which may be None.
Source = namedtuple("Source", "target name tta weights members recipe stack")


def open_source(name, folds, tta):
    """The Source of a run or an ensemble; members without weight are left out."""
    member = predictions.open_member(name, folds)
    if member.is_run:
        numbers = predictions.select_folds(member.folder, member.choice)
        weights = [experiment.weights_file(member.folder, number) for number in numbers]
        return Source(member.target, member.name, tta, weights, (), None, None)
    if folds != "all" or tta != "none":
        raise InputError(f"{name}: an ensemble has folds and --tta of its own; leave out --folds and --tta")
    recipe, table = experiment.read_recipe(member.folder), member.folder / "stack.csv"
    rows = [row for row in recipe["members"] if experiment.is_used(row)]
    members = [open_source(row["run"], row.get("folds") or "all", "none") for row in rows]
    members = [member if member.recipe else member._replace(tta=recipe["tta"]) for member in members]
    with errors.reading(table, "make the ensemble again"):
        stack = blend.read_stack(files.read_csv(table, ("member", "column"))) if recipe["method"] == "stack" else None
    return Source("label", member.name, None, (), members, recipe | {"members": rows}, stack)


def leaves(sources):
    """The runs of Sources and of their members, each once."""
    runs = {}
    for source in sources:
        for run in leaves(source.members) if source.recipe else [source]:
            runs.setdefault((*run.weights, run.tta), run)
    return [*runs.values()]


def predict_photos(paths, runs, args, device):
    """(paths of the readable photos, {(weights, tta): probabilities}) of Sources that are runs; a line for each other photo."""
    stores, good, probs = {}, np.arange(len(paths)), {}
    for geometry in dict.fromkeys(model.geometry(run.weights[0]) for run in runs):
        pixels, bad = images.open_cache([paths[row] for row in good], geometry, args.cache_dir, skip_bad=True, quiet=args.quiet)
        stores[geometry] = images.ImageStore(pixels, device, args.cache_device), good
        good = np.delete(good, bad)
        if not len(good):
            raise InputError(f"--images: none of the {len(paths)} photos can be predicted, see above")
    for run in runs:
        store, stored = stores[model.geometry(run.weights[0])]
        views = argparse.Namespace(**{**vars(args), "tta": run.tta})
        predicted = predict_rows(run.weights, store, np.searchsorted(stored, good), views, device)
        probs |= {(path, run.tta): table for path, (_target, table) in zip(run.weights, predicted)}
    return [paths[row] for row in good], probs


def fold_answers(source, probs):
    """[(target, probabilities)] of a Source, of each of its folds, from those of `predict_photos`."""
    if not source.recipe:
        return [(source.target, probs[path, source.tta]) for path in source.weights]
    folds = [fold_answers(member, probs) for member in source.members]
    return [("label", blend.apply_recipe(source.recipe, folds, source.stack))]


def looking_weights(names, folds, component):
    """The file of weights whose Grad-CAM is shown: of the run of greatest weight that decides a component."""
    runs = (run for name in names for run in predictions.runs_by_weight(predictions.open_member(name, folds), component))
    run = next(run for run in runs if component in dataset.DECIDES[run.target])
    return experiment.weights_file(run.folder, predictions.select_folds(run.folder, run.choice)[0])


def answer_photos(args):
    """--images: predictions.csv, photos.html and a table on the terminal."""
    out, paths = Path(args.out), find_photos(args.images)
    if (out / "predictions.csv").exists() and not (out / "photos.html").exists():
        raise InputError(f"{out}: holds a predictions.csv that is not of --images; give another --out")
    sources = [open_source(name, args.folds, args.tta) for name in dict.fromkeys(args.models)]
    device = hardware.pick_device(args.device)
    paths, probs = predict_photos(paths, leaves(sources), args, device)
    folds = [fold_answers(source, probs) for source in sources]
    label, components = blend.components([(models[0][0], np.mean([table for _target, table in models], 0)) for models in folds])
    components = {name: components[name] for name in COMPONENTS if name in components}
    answers = (
        dict(zip(COMPONENTS, decode(label.argmax(1)))) if label is not None else {k: p.argmax(1) for k, p in components.items()}
    )
    ages = [probs[path, run.tta] for run in leaves(sources) if run.target == "age" for path in run.weights]
    ages = np.mean(ages, 0) if ages else None
    table = photo_table(paths, label, components, answers, ages)
    lookers = {name: looking_weights(args.models, args.folds, name) for name in components}
    shown, looks = paths[:SHOWN], {}
    for name, weights in lookers.items():
        looks[name], _loaded = model.look(weights, shown, answers[name][:SHOWN], device, name)
    files.make_dir(out, "--out")
    files.write_csv(out / "predictions.csv", table, predictions.FORMAT)
    files.write_text(out / "photos.html", photo_page(sources, table, shown, components, answers, ages, lookers, looks))
    print_photos(table, components, answers, out, ages)
    return 0


def photo_table(paths, label, components, answers, ages):
    """The rows of predictions.csv: image, ans (where all is decided), each component's answer and probabilities, the ages'."""
    columns = {"image": paths} | ({} if label is None else {"ans": label.argmax(1)})
    for name, probs in components.items():
        columns[name] = np.array(CLASS_NAMES[name])[answers[name]]
        columns |= {f"{name}_p{index}": probs[:, index] for index in range(probs.shape[1])}
    if ages is not None:
        columns |= {"age": ages @ (np.arange(ages.shape[1]) + FIRST_AGE), **dict(zip(dataset.columns("age"), ages.T))}
    return pd.DataFrame(columns)


def photo_page(sources, table, shown, components, answers, ages, lookers, looks):
    """photos.html: the photos `shown` with their answers, probabilities and Grad-CAMs."""
    cards = []
    for row, path in enumerate(shown):
        size, heat = images.open_rgb(path).size, {}
        for name, maps in looks.items():
            cam, box = maps[row]
            heat[name] = images.heat_png(cam), images.place_css(box, *size)
        bars = {name: [(word, share, f"{share:.1%}") for word, share in zip(CLASS_NAMES[name], probs[row])]
                for name, probs in components.items()}  # fmt: skip
        words = [
            (name, CLASS_NAMES[name][answers[name][row]], probs[row, answers[name][row]]) for name, probs in components.items()
        ]
        cards.append({"name": path, "picture": images.thumbnail(path, HEIGHT), "heat": heat, "words": words, "bars": bars,
                      "ages": [] if ages is None else ages[row]})  # fmt: skip
    return files.page("photos.html", title=errors.tr("Photos"), names=[source.name for source in sources], cards=cards,
                      lookers={name: weights.parent for name, weights in lookers.items()}, total=len(table),
                      first_age=FIRST_AGE, expected=[] if ages is None else table["age"].tolist())  # fmt: skip


def print_photos(table, components, answers, out, ages):
    """The table of the first photos, and where all are."""
    rows = []
    for index, row in enumerate(table.head(PRINTED).itertuples(index=False)):
        cells = [f"{getattr(row, name)} {components[name][index, answers[name][index]]:.2f}" for name in components]
        rows.append([row.image, *cells, *([] if ages is None else [f"{row.age:.1f}"])])
    head = ["photo", *components, *([] if ages is None else ["age"])]
    print(*files.aligned(head, rows, left=range(len(components) + 1), width=errors.WIDTH), sep="\n")
    if len(table) > PRINTED:
        errors.say(f"and {len(table) - PRINTED:,} more, in predictions.csv")
    errors.say(f"{out / 'photos.html'}: to look at; predictions.csv lies beside it")


def parse_args(argv):
    parser = errors.Parser("Predict the eval images with trained runs; write a submission where a run decides all 18 classes.")
    parser.add_argument("--models", nargs="+", required=True, metavar="RUN", help="run folders; with --images also ensembles")
    parser.add_argument("--images", nargs="+", metavar="PATH", help="predict these photos, or folders of them, instead")
    parser.add_argument("--out", metavar="DIR", help="where --images writes predictions.csv and photos.html (photos)")
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
    if args.images and (args.oof or args.data_dir):
        parser.error(f"--images: needs no {'--oof' if args.oof else '--data-dir'}; leave it out")
    if args.out and not args.images:
        parser.error("--out: is where --images writes; predictions of the eval images go into the run")
    args.out = args.out or "photos"
    return args


def main(argv=None):
    hardware.tune_malloc()
    args = parse_args(argv)
    if args.images:
        return answer_photos(args)
    runs = list(dict.fromkeys(experiment.find_run(run) for run in args.models))
    folds = [predictions.select_folds(run, args.folds) for run in runs]
    device = hardware.pick_device(args.device)
    with predictions.predicting(runs):
        return score_tta(args, runs, device) if args.oof else predict_runs(args, runs, folds, device)


def predict_runs(args, runs, folds, device):
    """Predictions of the eval images with these folds of each run, a submission where they decide it, and what is next."""
    eval_images = dataset.read_eval(options.data_dir(args))
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
        scores = predict_oof(run, data_dir, args, device)
        low, high = scores["gain_ci95"]
        verdict, path = metrics.verdict(low, high), predictions.file_of(run, "oof", args.tta)
        verdicts.add(verdict)
        errors.say("{}: out-of-fold macro F1 {oof_f1:.4f}, without TTA {plain_f1:.4f}".format(path, **scores))
        gain = f"{scores['gain']:+.4f}, 95 % CI {low:+.4f} .. {high:+.4f}"
        errors.say(f"  gain {gain}: {errors.tr(verdict)}; {errors.tr(ADVICE[verdict].format(tta=args.tta))}")
    tta = args.tta if "better" in verdicts and "worse" not in verdicts else "none"
    errors.say(f"next: python inference.py --models {shlex.join(map(str, runs))} --tta {tta}{dataset.data_option(data_dir)}")
    return 0


def after(run, data_dir):
    """The command after the submission of one run: compare it with the best run beside it that is scored on the same people;
    where none is there, train it once more with another seed, which shows the noise; without a score the leaderboard."""
    scored = [one for one in experiment.scored_records(run.parent) if one.scored_as == "label" and len(one.folds) == one.kfold]
    people = [one.people for one in scored if one.folder == run]
    if alike := [one.folder for one in scored if one.folder != run and [one.people] == people]:
        return shlex.join(["python", "compare.py", str(run), str(alike[0])]) + dataset.data_option(data_dir)
    args, command = experiment.read_args(run), (run / "args.yaml").read_text(encoding="utf-8").partition("\n")[0]
    if not args.get("kfold") or " train.py" not in command:
        return "python leaderboard.py"
    seed = args["seed"] + 1
    name = f" --name {shlex.quote(f'{run.name}-seed{seed}')}" if "--name" in command else ""
    return REPLACED.sub("", command).removeprefix("# ") + f" --seed {seed} --fold-seed {args['fold_seed']}{name}"


def print_next(data_dir, runs, targets, tta):
    """The command that makes a submission of these runs, or what they lack for one; of a run alone see `after`."""
    decided = {component for target in targets for component in dataset.DECIDES[target]}
    missing = [component for component in dataset.COMPONENTS if component not in decided]
    if missing:
        errors.say(f"next: these runs leave {' and '.join(missing)} open; add such runs: python ensemble.py --models RUN ...")
    elif len(runs) == 1:
        errors.say(f"next: {after(runs[0], data_dir)}")
    else:
        views = "" if tta == "none" else f" --tta {tta}"
        errors.say(f"next: python ensemble.py --models {shlex.join(map(str, runs))}{views}{dataset.data_option(data_dir)}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
