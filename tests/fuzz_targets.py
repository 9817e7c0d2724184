"""The files that fuzz.py changes: what they hold when they are right, how they are read, and what holds of all that is read."""

import json
from dataclasses import dataclass
from pathlib import Path

import damaged
import numpy as np
import pandas as pd
import safetensors.torch
import torch
import yaml
from simulated import People, write_run
from test_engine import make_fit

import dataset
import engine
import ensemble
import experiment
import images
import inference
import leaderboard
import model
import noise
import options
import precision
import predictions
import sweep
from images import Geometry

FACTS = {"model": "test_resnet", "target": "mask", "img_size": [32, 24], "crop": None, "face_crop": None, "epoch": 3}
FACTS |= {"mean": [0.5] * 3, "std": [0.25] * 3, "options": {"memory_format": "contiguous", "lr": 0.1}}


@dataclass
class Target:
    """A file as it should be, of a kind of fuzz.BY_STRUCTURE; `read()` reads it, `check(what)` asserts what is always so."""

    name: str
    kind: str
    file: Path
    read: callable
    check: callable

    def __post_init__(self):
        self.content = self.file.read_bytes()
        self.check(self.read())  # as it is it is right


def make(place, only=None):
    """All targets, their files in the folder `place`, which is emptied before; `only`: those whose names hold this."""
    found = [target for maker in MAKERS for target in maker(fresh(place / maker.__name__))]
    return [target for target in found if only is None or only in target.name]


def fresh(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def nothing(_found):
    pass


def is_inside(name):
    return name and not name.startswith("/") and ".." not in name.split("/")


# ---- csv -----------------------------------------------------------------------------------------------------------


def tables(folder):
    for name in ("train", "eval/images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in damaged.NAMES:
        (folder / "eval" / "images" / name).touch()
    for file in damaged.WHOLE:
        damaged.write_table(folder / ("eval" if file == "info.csv" else "train"), file)
    train = folder / "train"
    (train / "age.csv").write_text(f"ImageID,{','.join(dataset.columns('age'))}\na.jpg{',0.02' * 42},0.16\n")
    (train / "pseudo.csv").write_text("fold,ImageID,p0,p1\n0,a.jpg,0.25,0.75\n1,a.jpg,0.5,0.5\n")
    (train / "sweep.txt").write_text(
        "common: --epochs 3 # all\nbase:\nfocal: --loss focal --gamma=1\nmany: --drop-ages 27 '28'\n"
    )
    people = dataset.read_people(folder)

    def check_people(found):
        assert found["path"].is_unique and found["gender"].isin([0, 1]).all() and found["age"].between(0, 120).all()
        assert all(map(is_inside, found["path"])) and len(found)
        dataset.assign_folds(found, 0, 1)

    def check_oof(found):
        truth, probs = predictions.scored(found, "gender")
        assert (
            np.isfinite(probs).all()
            and set(truth) <= {0, 1}
            and found["image"].is_unique
            and all(map(is_inside, found["image"]))
        )

    def check_submission(found):
        names, answers = found
        assert len(set(names)) == len(names) == len(answers) and ((answers >= 0) & (answers < 18)).all()

    def check_fixes(found):
        assert set(found[0]["path"]) <= set(people["path"])
        rows = people.assign(image=people["path"], mask=0, label=0)
        fixed = dataset.apply_label_fixes(rows, found[0])
        assert fixed["age"].between(0, 120).all() and fixed["gender"].isin([0, 1]).all()

    def check_folds(found):
        assert found["path"].is_unique and (found["fold"] >= -1).all()

    def check_log(found):
        assert set(experiment.LOG_COLUMNS) <= set(found) and found["epoch"].dtype.kind == "i"

    yield Target("train.csv", "table", train / "train.csv", lambda: dataset.read_people(folder), check_people)
    yield Target("info.csv", "table", folder / "eval" / "info.csv", lambda: dataset.read_eval(folder)[0],
                 lambda found: (found and set(found) <= set(damaged.NAMES)) or 1 / 0)  # fmt: skip
    file = train / "submission.csv"
    yield Target("submission.csv", "table", file, lambda file=file: dataset.read_submission(file), check_submission)
    file = train / "oof.csv"
    yield Target(
        "oof.csv", "table", file, lambda file=file: predictions.read_table(file, "gender", ("image", "path")), check_oof
    )
    file = train / "eval.csv"
    yield Target("eval.csv", "table", file, lambda file=file: predictions.read_table(file, "gender", ("ImageID",)), nothing)
    file = train / "age.csv"
    yield Target(
        "eval.csv of ages", "table", file, lambda file=file: predictions.read_table(file, "age", ("ImageID",)), nothing
    )
    yield Target("folds.csv", "table", train / "folds.csv", lambda: experiment.read_folds(train), check_folds)
    yield Target("log.csv", "table", train / "log.csv", lambda: experiment.read_log(train / "log.csv"), check_log)
    yield Target("pseudo.csv", "table", train / "pseudo.csv", lambda: inference.read_pseudo(train, "gender"), nothing)
    file = train / "fixes.csv"
    yield Target("label fixes", "table", file, lambda file=file: dataset.read_label_fixes(file, people, 0.9), check_fixes)
    yield Target("sweep.txt", "bytes", train / "sweep.txt", lambda: sweep.read_plan(train / "sweep.txt"), nothing)


# ---- yaml and json -------------------------------------------------------------------------------------------------


def run_files(folder):
    """A run as it is listed, combined, predicted with, gone on with, and looked at by a sweep."""
    run = folder / "runs" / "a-s1"
    if not run.exists():
        write_run(run, "gender", People(4, seed=0), People(2, seed=1))
    args = {**vars(options.make_parser().parse_args([])), "target": "gender", "kfold": 2, "model": "test_resnet"}
    fresh(folder / "data" / "eval")
    (folder / "data" / "eval" / "info.csv").touch()
    args |= {"data_dir": str(folder / "data"), "img_size": [32, 24], "fold_seed": 42, "name": "a"}
    (run / "args.yaml").write_text(f"# python train.py --seed 1 --quiet\n{yaml.safe_dump(args, sort_keys=False)}")
    facts = {"fold": 0, "best_epoch": 2, "val_f1": 0.5, "val_acc": 0.5, "epochs": 3, "seconds": 3.5, "images_per_second": 9.5,
             "peak_memory_mib": 300, "weights_sha256": "0" * 64}  # fmt: skip
    for number in (0, 1):
        part = fresh(run / f"fold{number}")
        (part / "fold.json").write_text(json.dumps({**facts, "fold": number}))
        (part / "eval.csv").write_bytes((run / "eval.csv").read_bytes())
        (part / "eval.json").write_text(json.dumps({"weights_sha256": "0" * 64, "images": "1"}))
    (run / "folds.csv").write_text("path,fold\na,0\nb,1\n")
    rows = [{key: facts[key] for key in ("fold", "best_epoch", "val_f1", "val_acc")} | {"fold": number} for number in (0, 1)]
    summary = {"name": "a", "target": "gender", "kfold": 2, "folds": rows, "oof_f1": 0.5, "oof_acc": 0.5, "oof_f1_ci95": [0.4, 0.6],
               "seconds": 7.0, "images_per_second": 9.5, "peak_memory_mib": 300}  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "lb.json").write_text(json.dumps({"lb": 0.7, "history": [{"lb": 0.7, "recorded": "2020-01-01"}]}))
    (run / "eval.json").write_text(json.dumps({"folds": [0, 1], "tta": "none"}))
    (run / "oof_hflip.csv").write_bytes((run / "oof.csv").read_bytes())
    (run / "oof_hflip.json").write_text(json.dumps({"weights_sha256": {"0": "0" * 64, "1": "0" * 64}}))
    (run / "mistakes.png").touch()
    (folder / "sweep.txt").write_text("a: --quiet\n")
    leaderboard.read_all(run.parent)

    def listed():
        record, problems = leaderboard.read_record(run)
        assert all(isinstance(problem, str) for problem in problems)
        return record

    def gone_on():
        return options.parse_args(["--resume", str(run)])

    def swept():
        (job,) = sweep.make_jobs(sweep.read_plan(folder / "sweep.txt"), [1], run.parent)
        job.check()
        return job.is_finished, job.command()

    def check_record(record):
        assert record.target in dataset.TARGETS and 0 <= (record.oof_f1 or 0) <= 1 and 0 <= (record.lb or 0) <= 1
        json.dumps(record.options)

    def check_args(found):
        assert found.lr > 0 and found.epochs > 0 and isinstance(found.data_dir, str)

    readers = {
        "args.yaml": {"leaderboard": (listed, check_record), "resume": (gone_on, check_args), "sweep": (swept, nothing)},
        "summary.json": {"leaderboard": (listed, check_record), "sweep": (swept, nothing)},
        "lb.json": {"leaderboard": (listed, check_record)},
        "fold0/fold.json": {
            "leaderboard": (listed, check_record),
            "folds": (lambda: predictions.select_folds(run, "best"), nothing),
            "summary": (lambda: predictions.write_summary(run, "gender", 0), nothing),
        },
        "eval.json": {"folds": (lambda: predictions.made_of(run), nothing)},
        "fold1/eval.json": {"predictions": (lambda: predictions.fold_tables(run, "gender", [0, 1], "none"), nothing)},
        "oof_hflip.json": {"predictions": (lambda: predictions.oof_is_fresh(run, "hflip"), nothing)},
    }
    kinds = {"yaml": "yaml", "json": "json"}
    for file, uses in readers.items():
        for use, (read, check) in uses.items():
            yield Target(f"{file} ({use})", kinds[file.rpartition(".")[2]], run / file, read, check)
    yield Target(
        ".leaderboard.cache", "bytes", run.parent / leaderboard.CACHE, lambda: leaderboard.read_all(run.parent), nothing
    )


def ensemble_files(folder):
    work = fresh(folder / "work")
    run, mix = work / "runs" / "a", work / "submissions" / "mix"
    if not run.exists():
        write_run(run, "label", People(4, seed=0), People(2, seed=1))
        (run / "args.yaml").write_text(yaml.safe_dump({"target": "label", "kfold": 5, "data_dir": "x", "label_fixes": None}))
    fresh(mix)
    recipe = {
        "method": "soft",
        "age_bounds": [30, 60],
        "members": [{"run": str(run), "target": "label", "folds": [0], "weight": 1}],
    }
    (mix / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (mix / "score.json").write_text(json.dumps({"oof_f1": 0.5, "oof_acc": 0.5, "oof_f1_ci95": [0.4, 0.6]}))

    def check_runs(found):
        assert all(Path(one).resolve().is_relative_to(work.resolve()) for one in found)

    yield Target(
        "recipe.yaml (leaderboard)",
        "yaml",
        mix / "recipe.yaml",
        lambda: leaderboard.read_record(mix)[0],
        lambda found: found.used_members,
    )
    yield Target("recipe.yaml (pseudo)", "yaml", mix / "recipe.yaml", lambda: inference.find_runs(mix), check_runs)
    yield Target("score.json (leaderboard)", "json", mix / "score.json", lambda: leaderboard.read_record(mix)[0], nothing)
    yield Target("score.json (advice)", "json", mix / "score.json", lambda: ensemble.scored_folders(mix.parent), nothing)
    yield Target("args.yaml (label noise)", "yaml", run / "args.yaml", lambda: noise.applied_fixes(noise.read_evidence([str(run)]), pd.DataFrame({"path": [], "id": []})), nothing)  # fmt: skip


# ---- weights, states, caches, pictures -----------------------------------------------------------------------------


def weights(folder):
    torch.manual_seed(0)
    net = model.create("test_resnet", "mask", (32, 24))
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    best, backbone, pickled = folder / "best.safetensors", folder / "backbone.safetensors", folder / "backbone.pth"
    best.write_bytes(safetensors.torch.save(state, metadata={"experiment": json.dumps(FACTS)}))
    backbone.write_bytes(safetensors.torch.save(state, metadata={"format": "pt"}))
    torch.save({"model": state}, pickled)

    def check_model(found):
        net, facts = found
        assert facts["model"] in ("test_resnet",) and sum(value.numel() for value in net.state_dict().values()) > 1000

    yield Target("best.safetensors", "safetensors", best, lambda: model.load(best), check_model)
    yield Target("backbone.safetensors", "safetensors", backbone, lambda: model.load_backbone(net, backbone), nothing)
    yield Target("backbone.pth", "pickle", pickled, lambda: model.load_backbone(net, pickled), nothing)


def states(folder):
    fit = make_fit()
    file = fresh(folder / "fold0") / "last.pt"
    torch.save(fit.state_dict(), file)

    def read():
        engine.restore_state(fit, engine.load_state(folder, 0), file)
        return fit

    yield Target("last.pt", "pickle", file, read, lambda found: found.finished)


def caches(folder):
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"no image")
    files, geometry, place = [folder / "a.png", folder / "b.png"], Geometry(4, 4), fresh(folder / "cache")
    key = images.cache_key(files, geometry)
    pixels, facts, rates = place / f"{key}.npy", place / f"{key}.json", None
    np.save(pixels, np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3))
    facts.write_text(
        json.dumps({"geometry": str(geometry), "images": 2, "bad": [{"index": 1, "error": "b.png: not readable"}]})
    )

    def read():
        return images.open_cache(files, geometry, place, skip_bad=True)

    def check(found):
        array, bad = found
        assert array.shape == (2, 4, 4, 3) and array.dtype == np.uint8 and set(bad) <= {0, 1}
        int(array.sum())

    def measured():
        return precision.measured_once(place, "precision", "k", ["off channels_last", "bf16 contiguous"], dict)[0]

    precision.measured_once(
        place, "precision", "k", ["a"], lambda: {"off channels_last": 1.0, "bf16 contiguous": 2.5, "a": 0.0}
    )
    (rates,) = place.glob("precision-*.json")
    yield Target("cache .npy", "bytes", pixels, read, check)
    yield Target("cache .json", "json", facts, read, check)
    yield Target("precision .json", "json", rates, measured, lambda found: max(found, key=found.get))


def pictures(folder):
    turned = damaged.turned(6)
    contents = {kind: damaged.whole(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
    contents |= {"EXIF": turned, "deep PNG": damaged.deep_rgb(), "animated WEBP": damaged.animated("WEBP", lossless=True)}
    contents |= {"CMYK": damaged.encoded(damaged.half("CMYK"), "JPEG"), "palette PNG": damaged.transparent_palette()}
    for kind, content in contents.items():
        file = folder / f"{kind}.jpg"
        file.write_bytes(content)

        def read(file=file):
            return images.decode(file, Geometry(16, 12)), images.open_rgb(file)

        def check(found):
            assert found[0].shape == (16, 12, 3) and found[0].dtype == np.uint8 and found[1].mode == "RGB"

        yield Target(f"{kind} image", "bytes", file, read, check)


MAKERS = (tables, run_files, ensemble_files, weights, states, caches, pictures)
