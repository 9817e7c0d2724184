"""train.py as a user runs it: the run folder, names, resume, what is refused, and every error in one line."""

import contextlib
import copy
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import sklearn.metrics
import timm
import torch
from conftest import SETTINGS, assert_same_run, until, without_pictures
from helpers import assert_equal, make_fit, spoil_loss, without_times
from helpers import facts as facts_of
from PIL import Image

import dataset
import engine
import errors
import experiment
import files
import hardware
import metrics
import model
import options
import predictions
import train
from errors import InputError


def command(data, tmp_path, *options):
    places = ["--data-dir", str(data), "--cache-dir", str(tmp_path / "cache"), "--output-dir", str(tmp_path / "runs")]
    return [*places, *SETTINGS, *map(str, options)]


def trained(argv):
    """train.main without its pictures, which take most of a tiny run's time."""
    with without_pictures():
        return train.main(argv)


def test_summary_is_what_oof_says(runs):
    oof, summary = pd.read_csv(runs["label"] / "oof.csv"), json.loads((runs["label"] / "summary.json").read_text())
    oof["pred"] = oof[[f"p{index}" for index in range(18)]].to_numpy().argmax(1)
    assert len(oof) == oof["image"].nunique() == 24 * 7

    def f1(rows):
        return pytest.approx(sklearn.metrics.f1_score(rows["target"], rows["pred"], average="macro", zero_division=0), abs=1e-6)

    expected = [f1(rows) for rows in (oof, oof[oof["fold"] == 0], oof[oof["fold"] == 1])]
    assert [summary["oof_f1"], *(facts["val_f1"] for facts in summary["folds"])] == expected
    assert summary["oof_acc"] == pytest.approx((oof["pred"] == oof["target"]).mean(), abs=1e-6)
    samples = metrics.bootstrap_f1(oof["target"], oof["pred"], oof["path"].to_numpy(), 18)  # people, not images, are drawn
    assert summary["oof_f1_ci95"] == pytest.approx(metrics.interval(samples), abs=1e-6)


def test_easy_targets_are_learnt(fit):
    """Colours give gender away: more than chance by far, or the labels are mixed up."""
    run = fit("--target", "gender", "--epochs", "6", "--fold", "0", name="learns")
    assert json.loads((run / "summary.json").read_text())["oof_f1"] > 0.9


def test_oof_is_official_whatever_the_training_labels_and_fixes_are_kept_with_the_run(fit, runs, tmp_path, capsys):
    (tmp_path / "fixes.csv").write_text("path,column,value\n000001,age,60\n")
    bounds = ["--target", "age_group", "--age-bounds", "20", "45"]
    (tmp_path / "same.csv").write_text("id,same_as\n000001,000002\n")  # of other gender and age: one stratum all the same
    run = fit(
        *bounds, "--label-fixes", tmp_path / "fixes.csv", "--same-people", tmp_path / "same.csv", "--epochs", "1", name="fixed"
    )
    assert "same people: 24 ids are 23 people\nlabel fixes: 1 applied" in capsys.readouterr().err
    (tmp_path / "fixes.csv").write_text("path,column,value\n000001,age,22\n")  # the run goes on with its own copies
    (tmp_path / "same.csv").unlink()
    assert trained(["--resume", str(run), "--quiet"]) == 0
    assert pd.read_csv(run / "label_fixes.csv").values.tolist() == [["000001_female_Asian_22", "age", 60]]
    mine, official = (
        pd.read_csv(folder / "oof.csv").sort_values("image", ignore_index=True) for folder in (run, runs["age_group"])
    )
    assert mine[mine["path"].isin(["000001_female_Asian_22", "000002_male_Asian_45"])]["fold"].nunique() == 1
    pd.testing.assert_series_equal(mine["target"], official["target"])
    assert not np.allclose(mine["p2"], official["p2"])
    for fold in json.loads((run / "summary.json").read_text())["folds"]:  # validation is against the official labels too
        rows = mine[mine["fold"] == fold["fold"]]
        pred = rows[["p0", "p1", "p2"]].to_numpy().argmax(1)
        assert fold["val_f1"] == pytest.approx(metrics.macro_f1(rows["target"], pred, 3), abs=1e-6)


def stop(*_args):
    raise errors.Interrupted(143, "stopped by SIGTERM")


@pytest.mark.parametrize("where", ["training", "pictures"])
def test_a_signal_at_any_time_prints_the_line_that_goes_on(shared_data, tmp_path, monkeypatch, capsys, where):
    monkeypatch.setattr(train, "train_fold", stop if where == "training" else lambda *_args: None)
    monkeypatch.setattr(predictions, "write_summary", stop)
    again = ["--resume", str(tmp_path / "runs" / "a run"), "--fold", "0", "--quiet"]
    for argv, fold in ((command(shared_data, tmp_path, "--name", "a run", "--fold", "1"), "1"), (again, "0 --quiet")):
        assert errors.run(lambda argv=argv: train.main(argv)) == 143
        line = f"Go on with: python train.py --resume '{tmp_path / 'runs' / 'a run'}' --fold {fold}"
        assert capsys.readouterr().err.splitlines()[-1] == f"stopped by SIGTERM. {line}"


def test_folds_have_a_seed_of_their_own(fit, runs):
    other = fit("--seed", "7", "--fold-seed", "42", "--epochs", "1", name="other_seed")
    assert (other / "folds.csv").read_bytes() == (runs["label"] / "folds.csv").read_bytes()
    assert (other / "oof.csv").read_bytes() != (runs["label"] / "oof.csv").read_bytes()
    assert experiment.read_args(runs["label"])["fold_seed"] == 42


def test_nofold_trains_everyone_and_keeps_the_last_epoch(fit):
    run = fit("--kfold", "0", name="nofold", pictures=True)
    assert not (run / "oof.csv").exists()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["oof_f1"], summary["folds"][0]["best_epoch"], summary["folds"][0]["val_f1"]) == (None, 2, None)
    assert set(pd.read_csv(run / "folds.csv")["fold"]) == {-1}
    assert model.read_metadata(run / "fold0" / "best.safetensors")["epoch"] == 2
    assert all((run / f"{name}.png").exists() for name in ("curves", "confusion", "mistakes"))


def test_one_fold_alone_equals_that_fold_within_the_whole(fit, runs):
    run = fit("--target", "label", "--fold", "1", name="alone")
    whole = pd.read_csv(runs["label"] / "oof.csv")
    pd.testing.assert_frame_equal(pd.read_csv(run / "oof.csv"), whole[whole["fold"] == 1].reset_index(drop=True))
    (run / "fold0").mkdir()
    for leftover in (".log.csv.12345.tmp.csv", "fold0/.best.safetensors.12345.tmp.safetensors"):  # of a kill
        (run / leftover).write_text("half")
    assert trained(["--resume", str(run), "--fold", "0", "--quiet"]) == 0
    assert_same_run(run, runs["label"])
    assert not list(run.rglob(".*.tmp*"))


def test_names_follow_the_log(shared_data, tmp_path, capsys):
    """tests/test_experiment.py has the rules; the same again is told."""
    focal = ["--loss", "focal", "--optimizer", "adamp"]
    for chosen in (focal, ["--limit-people", "12"], focal):
        trained(command(shared_data, tmp_path, "--epochs", "1", "--fold", "0", *chosen))
    names = [f"01-AdamP-StepLR-FL-v{number}-label_2fold" for number in (0, 1)]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [*names, "quick-AdamW-StepLR-CE-v0-label_2fold"]
    assert capsys.readouterr().err.count(f"same options as {names[0]}; another --seed would be a new draw") == 1


@pytest.mark.parametrize(("damage", "options", "message"), [
    (b"", [], "mask2.png: not a readable image (0 bytes"), (None, [], "000000-1_male_Asian_22: mask2 missing; complete it or"),
    ("", ["--crop", "500", "--skip-bad-images"], "leaves nobody to train fold 0, as none of its 42 images could be taken"),
    ("", ["--crop", "500"], "mask1.jpg: --crop 500 500 is larger than the image (64 high, 48 wide)"),
    ("", ["--sampler", "person", "--accum", "7"], "--accum 7: 6 training images make 6 micro-batches at most"),
    ("", ["--drop-ages", "22", "45", "60"], "--drop-ages: leaves nobody to train fold 0"),
    ("", ["--batch-size", "1"], "--batch-size: the model has batch norm, which can't train on one image at a time"),
])  # fmt: skip
def test_bad_data_is_one_line_and_leaves_nothing(data, tmp_path, capsys, damage, options, message):
    """damage: an image's new content, None: it goes, "": it stays."""
    image = data / "train" / "images" / "000000-1_male_Asian_22" / "mask2.png"
    if damage is None:
        image.unlink()
    elif damage != "":
        image.write_bytes(damage)
    for more in (["--dry-run"], []):
        assert errors.run(lambda more=more: train.main(command(data, tmp_path, *options, *more))) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ") and message in last
        assert not list(tmp_path.glob("runs/*")) and not (more and (tmp_path / "cache").exists())


def test_a_dry_run_tells_what_a_run_takes_and_writes_nothing(shared_data, tmp_path, monkeypatch, capsys):
    """84 images of a fold are 5 steps of 16, of a minute each; 2 folds of 2 epochs take four times that."""
    real = train.try_steps
    monkeypatch.setattr(train, "try_steps", lambda *args: (real(*args)[0], 60.0))
    argv = command(shared_data, tmp_path, "--target", "mask")
    assert train.main([*argv, "--dry-run"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["worn", "60/12", "60/12", "120/24"] in lines and ["all", "84/12", "84/12", "168/24"] in lines
    assert "an epoch of 5 steps, with validation: 5 min; the run of 2 folds: at most 20 min" in out
    assert f"disk for decoded images, in {tmp_path / 'cache'}/: 378.0 KiB; " in out  # 168 x 32 x 24 x 3
    listed = out.partition("not the defaults:")[2].partition("nothing is written")[0]
    assert "--target mask" in listed and "--loss" not in listed and "--fold-seed" not in listed
    assert lines[-1] == ["next:", "python", "train.py", *argv] and list(tmp_path.iterdir()) == []


def test_bad_images_may_be_skipped_and_are_listed(data, tmp_path, capsys):
    next(data.glob("train/images/*/mask2.png")).write_bytes(b"")
    assert trained(command(data, tmp_path, "--skip-bad-images", "--name", "skips")) == 0
    err = capsys.readouterr().err
    assert "skipped: " in err and "bad images: 1 unreadable and 0 missing are left out" in err
    assert len(pd.read_csv(tmp_path / "runs" / "skips" / "oof.csv")) == 12 * 7 - 1


def test_face_crop_is_drawn_and_recorded(white_detector, shared_data, tmp_path, capsys):
    options = ["--face-crop", "0.25", "--name", "cropped", "--epochs", "1", "--fold", "0"]
    assert trained(command(shared_data, tmp_path, *options)) == 0
    run = tmp_path / "runs" / "cropped"
    assert re.search(r"face crop: no face found in \d+ of 168 images", capsys.readouterr().err)
    for recorded in (experiment.read_args(run), model.read_metadata(run / "fold0" / "best.safetensors")):
        assert recorded["face_crop"] == 0.25
    assert min(Image.open(run / "crops.png").size) > 300
    (run / "crops.png").write_bytes(b"seen")
    assert trained(["--resume", str(run), "--fold", "1", "--quiet"]) == 0
    assert (run / "crops.png").read_bytes() == b"seen"


def test_the_closing_line_and_the_summary_say_one_time(runs, monkeypatch, capsys):
    """That of the epochs, of this command and those before it; how long the command took is said as its own."""
    run = runs["age"]
    assert trained(["--resume", str(run), "--quiet"]) == 0
    seconds = (summary := json.loads((run / "summary.json").read_text()))["seconds"]
    assert seconds == pytest.approx(pd.read_csv(run / "log.csv")["seconds"].sum(), abs=0.051)
    name, pictures = re.escape(str(run)), ("batch", "confusion", "curves", "mistakes")
    pattern = rf"run: {name}/\n  its folds took {seconds} s with validation, this command \d+ s; .* MiB\npictures:\n"
    assert re.search(pattern + "".join(f"  {name}/{picture}.png\n" for picture in pictures), capsys.readouterr().out)
    monkeypatch.setenv("FACES_LANG", "ko")
    train.closing(SimpleNamespace(**experiment.read_args(run)), run, summary, 0)
    assert capsys.readouterr().out.startswith("\n  fold  가장 좋은 에폭  macro F1  정확도\n     0              ")


def test_a_fold_that_has_begun_goes_on_without_the_backbone_it_started_from(shared_data, tmp_path, monkeypatch):
    weights = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), weights)
    argv = [option for option in command(shared_data, tmp_path, "--fold", "0", "--name") if option != "--no-pretrained"]
    trained([*argv, "whole", "--weights", str(weights)])
    with monkeypatch.context() as stopped, pytest.raises(errors.Interrupted):
        work = train.keep_epoch
        stopped.setattr(train, "keep_epoch", lambda *args: stop(work(*args)))
        trained([*argv, "run", "--weights", str(weights)])
    weights.unlink()
    shutil.copytree(tmp_path / "runs" / "run" / "fold0", tmp_path / "runs" / "run" / "fold0_old")  # a backup is no fold
    trained(["--resume", str(tmp_path / "runs" / "run"), "--fold", "0", "--quiet"])
    assert_same_run(tmp_path / "runs" / "whole", tmp_path / "runs" / "run")


def test_resume_says_how_to_go_on_when_a_file_cannot_be_read_now(runs, tmp_path, monkeypatch):
    run = Path(shutil.copytree(runs["mask"], tmp_path / "run", ignore=shutil.ignore_patterns("*.png", "eval*")))
    lost = errors.Unreadable("x.npy: can't be read now (Input/output error); try again")
    monkeypatch.setattr(train, "load_data", mock.Mock(side_effect=lost))
    with pytest.raises(InputError, match=rf"try again. Go on with: python train.py --resume {run}"):
        train.main(["--resume", str(run), "--quiet"])


def test_dropout_and_stochastic_depth_reach_the_model(shared_data, tmp_path):
    args = options.parse_args(command(shared_data, tmp_path, "--dropout", "0.3", "--drop-path", "0.2"))
    net = model.build_model(args, 0, torch.device("cpu"))
    assert (net.drop_rate, net.layer4[-1].drop_path.drop_prob) == (0.3, pytest.approx(0.2))


@pytest.fixture
def writer(tmp_path):
    """The CheckpointWriter of a fold of the run `tmp_path`, which nobody asks to stop."""
    (tmp_path / "fold0").mkdir()
    with engine.CheckpointWriter(tmp_path, 0, SimpleNamespace(requested=0)) as writer:
        yield writer


OPTIONS = {"model": "test_resnet", "img_size": [24, 24], "crop": None, "face_crop": None, "age_bounds": [30, 60],
           "memory_format": "contiguous", "quiet": True, "save_minutes": 9}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "optimizer": "SGD"}, {"average_last": 2}])
def test_an_epochs_files_hold_what_it_left_though_training_went_on(writer, monkeypatch, capsys, changes):
    """Weights and state are written once the next epoch has trained, and only then is the epoch logged."""
    fit, go_on = make_fit(**OPTIONS, **changes), threading.Event()
    real = model.save_weights
    monkeypatch.setattr(model, "save_weights", lambda *args: (go_on.wait(20), real(*args)))
    engine.train_one_epoch(fit, lambda: False)
    engine.end_epoch(fit)
    left, weights = facts_of(fit), copy.deepcopy(fit.evaluated.state_dict())
    train.keep_epoch(fit, writer, None, None)
    engine.train_one_epoch(fit, lambda: False)
    assert not experiment.state_file(writer.run, 0).exists() and not writer.done
    assert "1/2" not in capsys.readouterr().err
    go_on.set()
    writer.wait()
    assert re.fullmatch(r"0 \(1/5\)     1/2( +[\d.e-]+){5} +\* +[\d.]+ +\d+ +about \d+ (s|min)\n", capsys.readouterr().err)
    fit.load_state_dict(engine.load_state(writer.run, 0))
    assert_equal(facts_of(fit), left)
    assert_equal(dict(model.load(writer.run / "fold0" / "best.safetensors")[0].state_dict()), dict(weights))
    assert experiment.read_log(writer.run / "log.csv")["epoch"].tolist() == [1]


@pytest.mark.parametrize(("changes", "left"), [
    ({}, "about 6 min"), ({"parallel_folds": 2}, "about 3 min"), ({"finish_on_all": 1, "patience": 3}, "at most 7 min"),
    ({"fold": [1]}, "about 40 s"), ({"kfold": 0, "patience": 3}, "about 40 s"), ({"freeze_epochs": 2}, "about 3 min"),
    ({"freeze_epochs": 3}, "about 6 min"),
])  # fmt: skip
def test_an_epochs_line_tells_the_time_that_is_left(tmp_path, changes, left):
    """20 s an epoch in the middle, 2 of this fold left and 4 of each other: 2 + 4 x 4, 2 + 2 x 4, 2 + 4 x 5, 2 and 2 epochs.
    Of the epochs after 2 of the head alone there is one, of 10 s; after 3 none."""
    row = dict.fromkeys(experiment.LOG_COLUMNS, 0.5) | {"fold": 1 if "fold" in changes else 0, "epoch": 2}
    fixed = {"epochs": 4, "patience": 0, "kfold": 5, "fold": None, "parallel_folds": 1, "finish_on_all": 0, "freeze_epochs": 0}
    args = SimpleNamespace(**fixed | changes)
    fit = SimpleNamespace(args=args, best_epoch=2, history=[row | {"seconds": seconds} for seconds in (50, 20, 10)])
    line, last = (train.epoch_line(fit, tmp_path, left, False) for left in (2, 0))
    assert line.endswith(left) and len(line) == len(train.HEAD) == errors.WIDTH
    folds = 1 if {"fold", "kfold"} & changes.keys() else 5
    assert line.split()[:3] == [str(row["fold"]), f"(1/{folds})", "2/4"] and last.endswith("0") == (folds == 1)


def test_a_full_disk_ends_the_next_step(writer, monkeypatch):
    """What could not be written is not logged, and no step more is trained."""
    fit, told, full = make_fit(**OPTIONS), [], files.DiskError("last.pt: can't be written")
    monkeypatch.setattr(engine, "save_state", mock.Mock(side_effect=full))
    monkeypatch.setattr(errors, "log", told.append)
    fit.history.append(dict.fromkeys(experiment.LOG_COLUMNS, 0) | {"val_f1": None})
    train.put_epoch(fit, writer, [], {}, 0)
    until(lambda: writer.done)
    with pytest.raises(files.DiskError, match=r"last.pt: can't be written"):
        train.train_epoch(fit, writer, dict)
    assert (fit.step, told) == (1, [])


def test_events_are_what_tensorboard_reads(tmp_path):
    """By its own reader, which checks the sums of each record; epoch 2 is added to the file of epoch 1."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    writer = engine.CheckpointWriter(tmp_path, 3, None)
    row = dict.fromkeys(experiment.LOG_COLUMNS)
    train.write_events(writer, row | {"epoch": 1, "lr": 0.5, "val_f1": 0.25})
    train.write_events(writer, row | {"epoch": 2, "lr": 0.125})
    (path,) = tmp_path.glob("events.out.tfevents.*")
    found = [(event.step, value.tag, value.tensor.float_val[0])
             for event in EventFileLoader(str(path)).Load() for value in event.summary.value]  # fmt: skip
    assert found == [(1, "fold3/lr", 0.5), (1, "fold3/val_f1", 0.25), (2, "fold3/lr", 0.125)]


@pytest.mark.parametrize("options", [
    ["--optimizer", "SGD", "--fold", "0"], ["--optimizer", "AdamP", "--ema", "0.9", "--finish-on-all", "2", "--keep-state"],
])  # fmt: skip
def test_estimate_is_enough_for_the_most_that_a_run_takes(fit, tmp_path, monkeypatch, options):
    """Most is taken when a new file lies beside the old one, just before it replaces that; pictures are not drawn here."""
    most, needs, replace = [], [], os.replace

    def measured(source, target):
        most.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", measured)
    monkeypatch.setattr(files, "check_room", needs.extend)
    fit(*options, name="run", output_dir=tmp_path)
    option, _folder, what, estimate = needs[0]
    assert (option, what) == ("--output-dir", "the run")
    assert max(most) < estimate < 2 * max(most) + (20 << 20)


def load(args):
    """The Data of a run, and the function fold_data(**options) of its fold 0."""
    data = train.load_data(args, dataset.read_tables(args), timm.create_model("test_resnet"), hardware.ALONE)
    return data, lambda **options: dataset.fold_data(args, data, 0, **options)


def test_too_little_room_is_refused_before_anything_is_made(shared_data, tmp_path, monkeypatch, capsys):
    """1 MiB is free: too little for the run, whose cache would lie on the same volume."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 20))
    assert errors.run(lambda: train.main(command(shared_data, tmp_path))) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: --output-dir {tmp_path}/runs and --cache-dir {tmp_path}/cache: ")
    needed = "MiB (the run) and 378.0 KiB (decoded images) are needed"  # 168 x 32 x 24 x 3
    assert f"{needed}, and 1.0 MiB are free on volume " in error
    assert list(tmp_path.iterdir()) == []


def test_label_fixes_go_with_few_people_come_before_dropped_ages_and_leave_the_truth(shared_data, tmp_path, capsys):
    """Every person of 22 becomes 23 and of the other gender, among the 12 chosen of 24 or not; then nobody of 22 is left to drop."""
    people = dataset.read_people(shared_data)
    rows = "".join(f"{path},age,23\n{path},gender,swap\n" for path in people["path"][people["age"] == 22])
    (tmp_path / "fixes.csv").write_text(f"path,column,value\n{rows}")
    args = options.parse_args(command(shared_data, tmp_path, "--limit-people", "12", "--label-fixes", tmp_path / "fixes.csv",
                                    "--drop-ages", "22"))  # fmt: skip
    data, of_fold = load(args)
    assert "label fixes: 8 applied" in (err := capsys.readouterr().err) and "drop ages: 0 people leave training" in err
    fold, fixed = of_fold(), data.images["age"] == 22
    assert sorted(dataset.read_tables(args).labelled["age"].unique()) == [23, 45, 60] and len(fold.train_rows) == 6 * 7
    assert (fold.truth == data.images["label"]).all() and (fold.train_targets[:, 0] != fold.truth).tolist() == fixed.tolist()
    args.drop_ages = [23, 60]
    data, of_fold = load(args)
    fold = of_fold()
    assert [set(data.images["age"].iloc[rows]) for rows in (fold.train_rows, fold.val_rows)] == [{45}, {22, 45, 60}]


def test_the_last_epochs_on_everyone_are_on_the_held_out_people_too(shared_data, tmp_path):
    _data, of_fold = load(options.parse_args(command(shared_data, tmp_path)))
    one, everyone = of_fold(), of_fold(everyone=True)
    assert not set(one.train_rows) & set(one.val_rows) and len(one.val_rows) == 12 * 7
    assert set(everyone.train_rows) == set(one.train_rows) | set(one.val_rows) and not len(everyone.val_rows)


@pytest.mark.parametrize(("more", "refused"), [
    ([], True), (["--fold", "0"], False), (["--fold", "1"], True), (["--fold", "0", "--fold-seed", "7"], True),
    (["--kfold", "0"], False),
])  # fmt: skip
def test_weights_that_have_seen_who_validates_are_refused(runs, shared_data, tmp_path, capsys, more, refused):
    """Fold 0's weights may start fold 0 again, and whatever has no validation; a copy of them elsewhere is told."""
    weights = runs["label"] / "fold0" / "best.safetensors"
    argv = [option for option in command(shared_data, tmp_path, *more) if option != "--no-pretrained"]
    args = options.parse_args([*argv, "--weights", str(weights)])
    tables, said = dataset.read_tables(args), r"best.safetensors: has learnt \S+ and \d+ more people that these folds validate"
    with pytest.raises(InputError, match=said) if refused else contextlib.nullcontext():
        train.check_seen(args, tables)
    args.weights = str(shutil.copy(weights, tmp_path))
    capsys.readouterr()
    train.check_seen(args, tables)
    assert ("train.py wrote them" in capsys.readouterr().err) == bool(args.kfold)


LONG = ["--aug", "strong", "--ema", "0.9", "--loss", "focal+f1", "--epochs", "4"]


@pytest.fixture(scope="module")
def never_stopped(fit):
    return fit(*LONG, name="never_stopped")


@pytest.mark.parametrize(("number", "code", "where", "told"), [
    (signal.SIGTERM, 143, "train_step", "epoch 2, after step 3 of 5"), (signal.SIGINT, 130, "evaluate", "epoch 2, while validating"),
])  # fmt: skip
def test_a_stopped_run_resumes_to_the_same_bits(
    never_stopped, shared_data, tmp_path, monkeypatch, capsys, number, code, where, told
):
    """A run with EMA and augmentation gets a signal within an epoch; resumed, it equals one that never was stopped."""
    calls, work = [], getattr(engine, where)

    def call(*args):
        calls.append(args)
        if len(calls) == {"train_step": 8, "evaluate": 2}[where]:  # 5 steps an epoch
            signal.raise_signal(number)
        return work(*args)

    monkeypatch.setattr(engine, where, call)
    run = tmp_path / "runs" / "stopped"
    assert errors.run(lambda: train.main(command(shared_data, tmp_path, *LONG, "--name", "stopped"))) == code
    assert (run / "fold0" / "last.pt").exists() and not (run / "summary.json").exists()
    last = f"stopped in fold 0, {told}; state saved. Go on with: python train.py --resume {run}"
    assert capsys.readouterr().err.splitlines()[-1] == last
    monkeypatch.undo()
    assert trained(["--resume", str(run), "--quiet"]) == 0
    assert_same_run(never_stopped, run)
    assert not list(run.rglob("last.pt"))


def test_a_killed_run_resumes_to_the_same_bits(never_stopped, shared_data, tmp_path, monkeypatch):
    """The same as a process of its own that is killed in mid-training without a warning; it never comes to its last epoch."""
    steps, train_step = itertools.count(1), engine.train_step
    monkeypatch.setattr(engine, "train_step", lambda *args: time.sleep(600) if next(steps) > 35 else train_step(*args))
    argv = command(shared_data, tmp_path, *LONG, "--name", "killed", "--save-minutes", "0.0001")
    process = multiprocessing.get_context("fork").Process(target=trained, args=(argv,))
    process.start()
    run = tmp_path / "runs" / "killed"
    until((run / "fold0" / "log.csv").exists)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and not (run / "summary.json").exists()
    monkeypatch.undo()
    assert trained(["--resume", str(run), "--quiet"]) == 0
    assert_same_run(never_stopped, run)
    assert not list(run.rglob("*.tmp*")) and not list(run.rglob("last.pt"))


def test_a_loss_that_is_no_number_names_its_step_and_images(shared_data, tmp_path, monkeypatch, capsys):
    """In step 3 of epoch 2, long before the next state would be saved: that of epoch 1's end stays."""
    spoil_loss(monkeypatch, 8, float("nan"))
    run = tmp_path / "runs" / "bad"
    options = ["--target", "mask", "--name", "bad", "--fold", "0"]
    assert errors.run(lambda: train.main(command(shared_data, tmp_path, *options))) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    images = (run / "fold0" / "not_finite.txt").read_text().splitlines()
    assert len(images) == 16 and all(Path(image).is_file() for image in images)
    assert last == (
        f"error: fold 0, epoch 2, step 3: the training loss is nan; the step's 16 images are {images[0]} and others, listed in "
        f"{run}/fold0/not_finite.txt. The last good state is kept; try a new run with a lower --lr than 0.003 or --clip-grad 1"
    )
    state = engine.load_state(run, 0)
    assert (state["epoch"], state["step"]) == (2, 0) and all(value.isfinite().all() for value in state["model"].values())
    assert pd.read_csv(run / "log.csv")["epoch"].tolist() == [1]


def test_more_epochs_on_resume_end_as_if_they_had_been_asked_for_at_first(fit, tmp_path, capsys):
    """Fold 0 is complete and has kept its state, fold 1 is not begun; a schedule that knows no number of epochs."""
    options = ["--target", "gender", "--ema", "0.9", "--keep-state", "--fold", "0", "--epochs"]
    whole, short = (fit(*options, epochs, name=epochs, output_dir=tmp_path) for epochs in ("3", "1"))
    began = (short / "args.yaml").read_text().splitlines()[0]
    capsys.readouterr()
    assert trained(["--resume", str(short), "--epochs", "3", "--fold", "0", "--quiet"]) == 0
    assert "epochs: 3 instead of 1\n" in capsys.readouterr().err
    assert_same_run(whole, short)
    assert (short / "args.yaml").read_text().splitlines()[0] == began and experiment.read_args(short)["epochs"] == 3
    assert_equal(*(without_times(engine.load_state(run, 0)) for run in (whole, short)))


@pytest.mark.parametrize(("option", "value", "message"), [
    ("--epochs", "3", r"--epochs 3: fold 0 of .*shared_mask was complete after 2 and its state is gone.* delete .*shared_mask/fold0"),
    ("--epochs", "1", r"--epochs 1: fold 0 of .*shared_mask is in epoch 2 already; give that or more"),
    ("--data-dir", None, r"folds.csv: other people than in"),
])  # fmt: skip
def test_resume_refuses_epochs_that_cannot_be_had_and_other_people(runs, data, option, value, message):
    before = (runs["mask"] / "args.yaml").read_bytes()
    with pytest.raises(InputError, match=message):
        train.main(["--resume", str(runs["mask"]), option, value or str(data)])
    assert (runs["mask"] / "args.yaml").read_bytes() == before


def test_folds_that_patience_has_ended_stay_complete():
    """Of 5 epochs the second was best: with --patience 3 that was the end, with 4 and without it was not."""
    facts = {"epochs": 5, "best_epoch": 2}
    asked = [SimpleNamespace(epochs=epochs, patience=patience) for epochs, patience in ((9, 3), (9, 4), (9, 0), (5, 0))]
    assert [experiment.is_complete(args, facts) for args in asked] == [True, False, False, True]
