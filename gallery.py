"""The report of a run or an ensemble, from its out-of-fold predictions; of a nofold run from those of its training images."""

import base64
import contextlib
import functools
import shlex
from collections import Counter, namedtuple
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

import dataset
import figures
import files
import hardware
import images
import metrics
import model
import options
import predictions
from dataset import AGE_GROUPS, CLASS_NAMES, DECIDES, SCORED_AS, changed_words, class_components, to_age_group
from errors import InputError, tr

BINS = 15  # of the reliability diagram
CARDS = 600  # wrong images on the page, at most
BYTES = 8 << 20  # of their thumbnails, at most
LARGE, SMALL = (160, 82), (64, 70)  # pixels of the height and quality of thumbnails: of a card, and of a person's other images
CHUNK = 64  # thumbnails that a process makes at a time
OF_ENSEMBLE = {"method": "soft", "search": "none", "decode": "argmax", "temperature": False, "persons": False,
               "tune_bounds": False, "tta": "none", "seed": 0}  # defaults of ensemble.py  # fmt: skip

# The predictions of a run or an ensemble (`member`, a predictions.Member). rows: image, path, fold, age (years, NaN: unknown),
# and of what it is scored on truth, pred and confidence, the probability of pred. data_dir: where the images are, or None.
Answers = namedtuple("Answers", "member scored_as in_sample rows data_dir")


def find_data(member, data_dir):
    """(the data folder that is given, that a member was trained on, or that is found here; True where it has the images)."""
    recorded = next((source.options.get("data_dir") for source in predictions.runs_by_weight(member)), None)
    there = recorded and (Path(recorded) / "train" / "train.csv").is_file()
    place = dataset.find_data(data_dir or (recorded if there else None))
    return place, bool(place) and Path(dataset.image_files(place, member.oof["image"][:1])[0]).is_file()


def read_answers(member, data_dir):
    """The Answers of a member; labels and ages are those of train.csv where there is a data folder."""
    folder, keys = member.folder, ("image", "path")
    in_sample = member.is_run and not member.options.get("kfold")
    path = folder / ("fold0/insample.csv" if in_sample else "oof.csv")
    if not path.is_file():
        resume = f"python train.py --resume {shlex.quote(str(folder))} goes on with it"
        raise InputError(f"{folder}: has no {path.name} to report on; {resume if member.is_run else 'every member needs one'}")
    member.oof = predictions.read_table(path, member.target, keys) if in_sample else predictions.read_oof(member)
    (place, has_images), ages = find_data(member, data_dir), {}
    if (has_images or data_dir) and (place / "train" / "train.csv").is_file():
        predictions.align_oof([member], place)
        ages = dataset.read_people(place).set_index("path")["age"]
    truth, probs = predictions.scored(member.oof, member.target)
    rows = member.oof[[*keys, "fold"]].assign(truth=truth, pred=probs.argmax(1), confidence=probs.max(1))
    named = rows["path"].str.extract(r"_(\d+)$", expand=False).astype(float)  # folders such as 000001_female_Asian_45
    rows["age"] = rows["path"].map(ages).astype(float).fillna(named)
    return Answers(member, SCORED_AS[member.target], in_sample, rows, place if has_images else None)


def class_table(truth, pred, scored_as):
    """DataFrame class, precision, recall, f1 (NaN: of no image), images (true), predicted, a row each class of `scored_as`."""
    names = CLASS_NAMES[scored_as]
    counts = metrics.confusion(truth, pred, len(names))
    right, true, taken = counts.diagonal(), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore"):
        scores = {"precision": right / taken, "recall": right / true, "f1": 2 * right / (true + taken)}
    return pd.DataFrame({"class": names, **scores, "images": true, "predicted": taken})


def calibration(confidence, right):
    """(DataFrame low, high, images, confidence, accuracy of the bins that hold images, expected calibration error) of answers'
    probabilities [N] and where they are right [N], in BINS bins of equal width (Guo et al. 2017, arXiv 1706.04599)."""
    bins = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(int)
    table = pd.DataFrame({"bin": bins, "confidence": confidence, "accuracy": right}).groupby("bin")
    table = table.mean().assign(images=table.size()).reset_index()
    error = (table["images"] * (table["accuracy"] - table["confidence"]).abs()).sum() / len(bins)
    return table.assign(low=table["bin"] / BINS, high=(table["bin"] + 1) / BINS), float(error)


def age_bars(rows, num_classes):
    """{age group: bars (age, share of wrong images, their number and cost)} of single years of age. cost: what macro F1 would
    gain if all images of that age were right; single years do not add up to what all of them would gain."""
    truth, pred, bars = rows["truth"].to_numpy(), rows["pred"].to_numpy(), {}
    for age in np.unique(rows["age"].dropna()).astype(int):
        here = (rows["age"] == age).to_numpy()
        f1, better = (metrics.macro_f1(truth, each, num_classes) for each in (pred, np.where(here, truth, pred)))
        count, wrong = here.sum(), (truth != pred)[here].sum()
        bar = age, wrong / count, f"{wrong:,} / {count:,} ({better - f1:+.4f})"
        bars.setdefault(AGE_GROUPS[to_age_group(age)], []).append(bar)
    return bars


def fold_table(rows, num_classes):
    """[(fold, images, macro F1, accuracy)] of each fold."""
    answers = [(fold, each["truth"], each["pred"], num_classes) for fold, each in rows.groupby("fold")]
    return [(fold, len(of[0]), metrics.macro_f1(*of), float(np.mean(of[0] == of[1]))) for fold, *of in answers]


def changed_options(member):
    """The options of a run that are not train.py's defaults, as typed, or what an ensemble was made with."""
    given, hidden = member.options, options.PLACES | options.OF_ONE_RUN | {"members", "path", "biases"}
    usual = vars(options.make_parser().parse_args([])) | ({"fold_seed": given.get("seed")} if member.is_run else OF_ENSEMBLE)
    return options.as_typed({name: value for name, value in given.items() if name not in hidden and value != usual.get(name)})


def make_thumbnails(jobs):
    """{(image, height): address} of jobs (image, height, quality, file), as far as there is a readable image."""
    thumbnails = {}
    for image, height, quality, file in jobs:
        with contextlib.suppress(InputError):
            thumbnails[image, height] = images.thumbnail(file, height, quality)
    return thumbnails


# The wrong images that the page shows. cards: rows of Answers, the most confident first; strips: {person: rows of all their
# images}; pictures: {(image, height): address}; looks: {image: (Grad-CAM [h, w], its rectangle)}; note: a sentence on these.
Gallery = namedtuple("Gallery", "cards strips pictures looks note")


def make_gallery(answers, device, quiet):
    """The Gallery of Answers: at most CARDS wrong images, whose thumbnails take at most BYTES."""
    rows, pictures = answers.rows, {}
    cards = rows[rows["truth"] != rows["pred"]].sort_values("confidence", ascending=False, kind="stable").head(CARDS)
    strips = dict(list(rows[rows["path"].isin(cards["path"])].groupby("path")))
    small = {path: [(image, *SMALL) for image in each["image"]] for path, each in strips.items()}
    jobs = [(image, *LARGE) for image in cards["image"]] + [job for each in small.values() for job in each]
    if answers.data_dir and jobs:
        paths = dataset.image_files(answers.data_dir, [image for image, *_size in jobs])
        jobs = [(*job, path) for job, path in zip(jobs, paths)]
        chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
        for made in images.pool_map("report", make_thumbnails, chunks, quiet=quiet):
            pictures |= made
    size = [len(pictures.get((image, LARGE[0]), "")) for image in cards["image"]]
    more = [sum(len(pictures.get(job[:2], "")) for job in small[path]) for path in cards["path"]]
    cards = cards[np.cumsum(size + np.where(cards["path"].duplicated(), 0, more)) <= BYTES]
    seen = cards[[(image, LARGE[0]) in pictures for image in cards["image"]]]
    if len(seen):
        looks, note = explain(answers, seen, hardware.pick_device(device))
    else:
        looks, note = {}, tr("No thumbnails: no data folder here; --data-dir DIR names it.") if len(cards) else ""
    return Gallery(cards, strips, pictures, looks, note)


def explain(answers, cards, device):
    """({image: (Grad-CAM, its rectangle)} of the predicted classes of `cards`, rows of Answers, each by the first run that
    decides what is wrong there, and its fold's own weights; a sentence a run, or why there are none)."""
    truth, pred = (class_components(cards[column].to_numpy(), answers.scored_as) for column in ("truth", "pred"))
    looks, notes, left = {}, [], np.ones(len(cards), dtype=bool)
    try:
        for source in predictions.runs_by_weight(answers.member):
            wrong = [truth[component] != pred[component] for component in truth if component in DECIDES[source.target]]
            wrong = np.any(wrong, axis=0) & left
            if wrong.any() and (more := look_by_fold(source, answers, cards[wrong], device)):
                looks, left, name, what = looks | more, left & ~wrong, source.folder.name, SCORED_AS[source.target]
                notes.append(tr(f"Grad-CAM: where {name} looks for the predicted {what}, by the fold that held an image out."))
    except InputError as error:
        return {}, tr(f"No Grad-CAM: {error}")
    return looks, " ".join(notes) or tr("No Grad-CAM: the weights are gone.")


def look_by_fold(source, answers, cards, device):
    """The Grad-CAMs of `explain` by the weights of a run's folds, as far as they are there."""
    oof = predictions.read_oof(source) if source.oof is None else source.oof
    folds = oof.set_index("image")["fold"].reindex(cards["image"]).to_numpy()
    pred, looks, loaded = cards["pred"].to_numpy(), {}, None
    if SCORED_AS[source.target] != answers.scored_as:
        pred = class_components(pred, answers.scored_as)[SCORED_AS[source.target]]
    for fold in np.unique(folds[~np.isnan(folds)]):
        weights, held_out = source.best_weights(int(fold)), folds == fold
        if weights.is_file():
            paths = dataset.image_files(answers.data_dir, cards["image"][held_out])
            maps, loaded = model.look(weights, paths, pred[held_out], device, like=loaded)
            looks |= zip(cards["image"][held_out], maps)
    return looks


def embed(path):
    """The address of a PNG file; None where it is not there."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() if path.is_file() else None


def write_report(folder, data_dir=None, device=None, quiet=False):
    """Write report.html, classes.csv, confusion.csv and the pictures of a run or an ensemble; returns lines for the terminal.
    data_dir, device: as the options are given, or None."""
    answers = read_answers(predictions.open_member(str(folder)), data_dir)
    folder, rows, scored_as = answers.member.folder, answers.rows, answers.scored_as
    truth, pred, names = rows["truth"].to_numpy(), rows["pred"].to_numpy(), CLASS_NAMES[scored_as]
    classes, scores = class_table(truth, pred, scored_as), score_text(answers)
    files.write_csv(folder / "classes.csv", classes, "%.6f")
    counts = pd.DataFrame(metrics.confusion(truth, pred, len(names)), names, names).rename_axis("truth")
    files.write_csv(folder / "confusion.csv", counts.reset_index())
    gallery = make_gallery(answers, device, quiet)
    title = f"{folder.name} ({figures.caption('in-sample: its own training images' if answers.in_sample else 'out-of-fold')})"
    files.write_figure(folder / "confusion.png", figures.confusion(truth, pred, scored_as, title))
    if answers.data_dir:
        root = Path(dataset.images_root(answers.data_dir))
        load, look = lambda image: images.open_rgb(root / image), lambda _rows: gallery.looks
        files.write_figure(folder / "mistakes.png", figures.mistakes(rows, load, scored_as, title, look=look))
    files.write_text(folder / "report.html", document(folder, answers, classes, scores, gallery))
    worst = classes[classes["images"] > 0].sort_values("f1", kind="stable").head(3)
    listed = "; ".join(f"{name} {f1:.4f}" for name, f1 in zip(worst["class"], worst["f1"]))
    return [f"{folder}: {scores}", tr(f"lowest F1: {listed}"), tr(f"report: {folder / 'report.html'}")]


def score_text(answers):
    """'out-of-fold macro F1 of label: 0.5123 (95 % CI over people 0.4812 .. 0.5401), accuracy 0.6012'."""
    truth, pred, C = answers.rows["truth"], answers.rows["pred"], len(CLASS_NAMES[answers.scored_as])
    f1, accuracy = metrics.macro_f1(truth, pred, C), np.mean(truth == pred)
    if answers.in_sample:
        return tr(f"in-sample, its own training images: macro F1 of {answers.scored_as} {f1:.4f}, accuracy {accuracy:.4f}")
    low, high = metrics.interval(metrics.bootstrap_f1(truth, pred, answers.rows["path"], C))
    return tr(f"out-of-fold macro F1 of {answers.scored_as}: {f1:.4f} (95 % CI over people {low:.4f} .. {high:.4f}), "
              f"accuracy {accuracy:.4f}")  # fmt: skip


def document(folder, answers, classes, scores, gallery):
    """The HTML of report.html."""
    rows, member, C = answers.rows, answers.member, len(CLASS_NAMES[answers.scored_as])
    wrong = rows["truth"] != rows["pred"]
    bins, error = calibration(rows["confidence"].to_numpy(), ~wrong.to_numpy())
    per_person = wrong.groupby(rows["path"]).agg(["sum", "size"])
    counts, bars = per_person["sum"].value_counts().sort_index(), []
    for row in bins.itertuples():
        text = tr(f"{row.accuracy:.2f} right at {row.confidence:.2f}, of {row.images:,}")
        bars.append((f"{row.low:.2f}–{row.high:.2f}", row.accuracy, text, row.confidence))
    flows = Counter(zip(rows["truth"][wrong], rows["pred"][wrong])).most_common()
    heat = {}
    for image, (look, box) in gallery.looks.items():
        size = images.upright_size(dataset.image_files(answers.data_dir, [image])[0])
        heat[image] = images.heat_png(look), images.place_css(box, *size)
    pair = functools.partial(changed_words, scored_as=answers.scored_as)
    columns = ["class", "precision", "recall", "F1", "images", "predicted"]
    return files.page(
        "report.html", title=folder.name, member=member, answers=answers, gallery=gallery, scores=scores, pair=pair, heat=heat,
        options=changed_options(member), members=member.options.get("members", []), wrong=int(wrong.sum()),
        people=len(per_person), confusion=embed(folder / "confusion.png"), curves=embed(folder / "curves.png"),
        classes=files.page_table(columns, classes.itertuples(index=False)),
        bins=bars, calibration_error=error, ages=age_bars(rows, C),
        counts=[(tr(f"{number} wrong"), count / len(per_person), f"{count:,}") for number, count in counts.items()],
        suspects=per_person.index[per_person["sum"] == per_person["size"]].tolist(),
        folds=files.page_table(["fold", "images", "macro F1", "accuracy"], fold_table(rows, C)),
        flows=[(truth, pred, count, pair(truth, pred)) for (truth, pred), count in flows], names=CLASS_NAMES[answers.scored_as],
        large=LARGE[0], small=SMALL[0], stem=lambda image: PurePosixPath(image).stem,
    )  # fmt: skip
