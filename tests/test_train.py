"""train.py as a user runs it: the run folder, names, resume after a kill, and every error in one line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import sklearn.metrics
import timm
import yaml
from conftest import SAME_BITS, assert_same_run, without_pictures
from PIL import Image

import errors
import experiment
import fold
import images
import metrics
import model
import predictions
import train
from dataset import TARGETS
from errors import InputError

ROOT = Path(__file__).parent.parent
SETTINGS = ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "24", "--kfold", "2", "--epochs", "2",
            "--batch-size", "16", "--lr", "3e-3", "--device", "cpu", "--quiet", *SAME_BITS]  # fmt: skip


def command(data, tmp_path, *options):
    """argv of a tiny run whose output goes under tmp_path."""
    places = ["--data-dir", str(data), "--cache-dir", str(tmp_path / "cache"), "--output-dir", str(tmp_path / "runs")]
    return [*places, *SETTINGS, *map(str, options)]


def trained(argv):
    """train.main without its pictures, which take most of a tiny run's time."""
    with without_pictures():
        return train.main(argv)


def test_run_folder_is_complete(runs):
    run = runs["label"]
    later = ("events.", "eval", "submission.csv")  # inference.py's files, if another test came first
    names = {path.name for path in run.iterdir() if not path.name.startswith(later)}
    assert names == {"args.yaml", "env.json", "folds.csv", "log.csv", "oof.csv", "summary.json", "curves.png", "confusion.png",
                     "mistakes.png", "fold0", "fold1"}  # fmt: skip
    assert list(run.glob("events.out.tfevents.*"))
    in_fold = {path.name for path in (run / "fold0").iterdir() if not path.name.startswith(later)}
    assert in_fold == {"best.safetensors", "fold.json", "log.csv", "oof.csv"}
    assert (run / "args.yaml").read_text().startswith("# python train.py --data-dir ")
    args = yaml.safe_load((run / "args.yaml").read_text())
    assert (args["img_size"], args["optimizer"], args["amp"], args["name"]) == ([32, 24], "AdamW", "off", "shared_label")
    env = json.loads((run / "env.json").read_text())
    assert {"python", "packages", "git_commit", "git_dirty", "device", "started"} <= env.keys()
    log = pd.read_csv(run / "log.csv")
    assert log.columns.tolist() == [
        "fold",
        "epoch",
        "lr",
        "train_loss",
        "val_loss",
        "val_f1",
        "val_acc",
        "seconds",
        "images_per_second",
    ]
    assert log[["fold", "epoch"]].values.tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    for name in ("curves.png", "confusion.png", "mistakes.png"):
        assert min(Image.open(run / name).size) > 300


def test_summary_is_what_oof_says(runs):
    run = runs["label"]
    oof, summary = pd.read_csv(run / "oof.csv"), json.loads((run / "summary.json").read_text())
    pred = oof[[f"p{index}" for index in range(18)]].to_numpy().argmax(1)
    assert len(oof) == oof["image"].nunique() == 24 * 7
    f1 = sklearn.metrics.f1_score(oof["target"], pred, average="macro", zero_division=0)
    assert summary["oof_f1"] == pytest.approx(f1, abs=1e-6)
    assert summary["oof_acc"] == pytest.approx((pred == oof["target"]).mean(), abs=1e-6)
    samples = metrics.bootstrap_f1(oof["target"], pred, oof["path"].to_numpy(), 18)  # people, not images, are drawn
    assert summary["oof_f1_ci95"] == pytest.approx(metrics.interval(samples), abs=1e-6)
    for facts, (_, rows) in zip(summary["folds"], oof.groupby("fold")):
        p = rows[[f"p{index}" for index in range(18)]].to_numpy().argmax(1)
        assert facts["val_f1"] == pytest.approx(sklearn.metrics.f1_score(rows["target"], p, average="macro", zero_division=0))


def test_folds_that_weights_forbid_are_not_advised(runs, shared_data, tmp_path, capsys):
    """A fold's weights have seen the people of the other one."""
    weights = runs["label"] / "fold0" / "best.safetensors"
    argv = [option for option in command(shared_data, tmp_path, "--fold", "0", "--epochs", "1") if option != "--no-pretrained"]
    trained([*argv, "--name", "forbidden", "--weights", str(weights)])
    assert "folds not trained yet: 1 (whose people --weights have learnt)" in capsys.readouterr().out
    trained([*argv, "--name", "plain", "--no-pretrained"])
    assert "folds not trained yet: 1 (python train.py --resume" in capsys.readouterr().out


def test_folds_hold_no_person_twice_and_oof_follows_them(runs):
    folds = pd.read_csv(runs["label"] / "folds.csv", dtype={"path": str}).set_index("path")["fold"]
    oof = pd.read_csv(runs["label"] / "oof.csv")
    assert (oof["path"].map(folds) == oof["fold"]).all()
    assert folds.value_counts().tolist() == [12, 12]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_writes_its_columns(runs, target):
    columns = pd.read_csv(runs[target] / "oof.csv", nrows=1).columns.tolist()
    expected = {
        "multi": ["mask", "gender", "age_group", "mask_p0", "mask_p1", "mask_p2", "gender_p0", "gender_p1", "age_group_p0",
                  "age_group_p1", "age_group_p2"],
        "age": ["target", *(f"age_p{age}" for age in range(18, 61))],
    }.get(target, ["target", *(f"p{index}" for index in range({"label": 18, "gender": 2}.get(target, 3)))])  # fmt: skip
    assert columns == ["image", "path", "fold", *expected]


def test_easy_targets_are_learnt(fit):
    """Colours give gender away: more than chance by far, or the labels are mixed up."""
    run = fit("--target", "gender", "--epochs", "6", "--fold", "0", name="learns")
    assert json.loads((run / "summary.json").read_text())["oof_f1"] > 0.9


def test_scores_are_official_whatever_the_training_labels(fit, runs):
    run = fit("--target", "age_group", "--age-bounds", "20", "45", "--epochs", "1", name="other_bounds")
    mine, official = pd.read_csv(run / "oof.csv"), pd.read_csv(runs["age_group"] / "oof.csv")
    pd.testing.assert_series_equal(mine["target"], official["target"])
    assert not np.allclose(mine["p2"], official["p2"])


def test_dropped_ages_leave_training_but_not_validation(fit, capsys):
    run = fit("--target", "mask", "--drop-ages", "22", "45", "--fold", "0", "--epochs", "1", name="dropped")
    ages = pd.read_csv(run / "oof.csv")["path"].str[-2:]
    assert set(ages) == {"22", "45", "60"}


def test_label_fixes_reach_training_only(fit, tmp_path, capsys):
    (tmp_path / "fixes.csv").write_text("path,column,value\n000001,gender,male\n")
    run = fit("--target", "gender", "--label-fixes", tmp_path / "fixes.csv", "--epochs", "1", name="fixed")
    assert "label fixes: 1 applied" in capsys.readouterr().err
    assert pd.read_csv(run / "label_fixes.csv").values.tolist() == [["000001_female_Asian_22", "gender", "male"]]
    (tmp_path / "fixes.csv").write_text("path,column,value\n000001,gender,swap\n")  # an edited file would mix two trainings
    with pytest.raises(
        InputError, match=r"--label-fixes .*fixes.csv: its 1 fixes are not those .* copy .*fixed/label_fixes.csv"
    ):
        train.main(["--resume", str(run), "--quiet"])
    (tmp_path / "fixes.csv").unlink()  # the run keeps what it needs of them
    assert trained(["--resume", str(run), "--quiet"]) == 0
    oof = pd.read_csv(run / "oof.csv")
    assert set(oof[oof["path"].str.startswith("000001_female")]["target"]) == {1}


@pytest.mark.parametrize("where", ["training", "pictures"])
def test_a_signal_at_any_time_prints_the_line_that_goes_on(shared_data, tmp_path, monkeypatch, capsys, where):
    def stopped(*_args):
        raise errors.Interrupted(143, "stopped by SIGTERM")

    if where == "training":
        monkeypatch.setattr(fold, "train_fold", stopped)
    else:
        monkeypatch.setattr(fold, "train_fold", lambda *_args: None)
        monkeypatch.setattr(predictions, "write_summary", stopped)
    argv = command(shared_data, tmp_path, "--name", "a run", "--fold", "1")
    assert errors.run(lambda: train.main(argv)) == 143
    line = f"Go on with: python train.py --resume '{tmp_path / 'runs' / 'a run'}' --fold 1"
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped by SIGTERM. {line}"
    again = ["--resume", str(tmp_path / "runs" / "a run"), "--fold", "0", "--quiet"]
    assert errors.run(lambda: train.main(again)) == 143
    assert "--resume" in (last := capsys.readouterr().err.splitlines()[-1]) and last.endswith("--fold 0 --quiet")


def test_folds_have_a_seed_of_their_own(fit, runs):
    """Another seed with the old one for the folds: the same people are held out, and all else is drawn anew."""
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
    assert model.read_facts(run / "fold0" / "best.safetensors")["epoch"] == 2
    assert all((run / f"{name}.png").exists() for name in ("curves", "confusion", "mistakes"))


def test_one_fold_alone_equals_that_fold_within_the_whole(fit, runs):
    run = fit("--target", "label", "--fold", "1", name="alone")
    whole = pd.read_csv(runs["label"] / "oof.csv")
    pd.testing.assert_frame_equal(pd.read_csv(run / "oof.csv"), whole[whole["fold"] == 1].reset_index(drop=True))
    assert trained(["--resume", str(run), "--fold", "0", "--quiet"]) == 0
    assert_same_run(run, runs["label"])


def test_what_a_kill_left_half_written_goes_on_resume(fit):
    run = fit("--target", "mask", "--fold", "0", name="killed")
    leftovers = [run / ".log.csv.12345.tmp.csv", run / "fold1" / ".best.safetensors.12345.tmp.safetensors"]
    (run / "fold1").mkdir()
    for leftover in leftovers:
        leftover.write_text("half")
    assert trained(["--resume", str(run), "--quiet"]) == 0
    assert not list(run.rglob(".*.tmp*"))


def test_names_follow_the_log(shared_data, tmp_path, capsys):
    """As README says them: a nofold run of the same options shares vM, the same again is told, quick looks stand apart."""
    for options in (["--fold", "0"], ["--fold", "0"], ["--fold", "0", "--loss", "focal", "--optimizer", "adamp"],
                    ["--kfold", "0"], ["--fold", "0", "--limit-people", "12"]):  # fmt: skip
        trained(command(shared_data, tmp_path, "--epochs", "1", *options))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "01-AdamW-StepLR-CE-v0-label_2fold",
        "01-AdamW-StepLR-CE-v0-label_nofold",
        "01-AdamW-StepLR-CE-v1-label_2fold",
        "02-AdamP-StepLR-FL-v0-label_2fold",
        "quick-AdamW-StepLR-CE-v0-label_2fold",
    ]
    told = [line for line in capsys.readouterr().err.splitlines() if "same options" in line]
    assert told == ["same options as 01-AdamW-StepLR-CE-v0-label_2fold; another --seed would be a new draw"]


def damage(what):
    """A change of a data folder that makes it unusable."""

    def first(data, pattern):
        return sorted((data / "train" / "images").glob(pattern))[0]

    def csv_line(old, new):
        return lambda data: (data / "train" / "train.csv").write_text(
            (data / "train" / "train.csv").read_text().replace(old, new)
        )

    return {
        "no csv": lambda data: (data / "train" / "train.csv").unlink(),
        "no column": csv_line("id,gender", "id,sex"),
        "bad age": csv_line("Asian,60,", "Asian,sixty,"),
        "empty image": lambda data: first(data, "*/mask2.png").write_bytes(b""),
        "text as image": lambda data: first(data, "*/mask1.jpg").write_text("hello"),
        "cut image": lambda data: first(data, "*/mask1.jpg").write_bytes(first(data, "*/mask1.jpg").read_bytes()[:300]),
        "no folder": lambda data: first(data, "000002*").rename(data / "elsewhere"),
    }[what]


@pytest.mark.parametrize(("what", "message"), [
    ("no csv", "train.csv: no such file"), ("no column", "column 'gender' is missing"), ("bad age", "age 'sixty'"),
    ("empty image", "mask2.png: not a readable image (0 bytes"), ("text as image", "mask1.jpg: not a readable image (5 bytes"),
    ("cut image", "mask1.jpg: not a readable image (300 bytes"), ("no folder", "but it is not there"),
])  # fmt: skip
def test_bad_data_is_one_line_and_leaves_nothing(data, tmp_path, capsys, what, message):
    damage(what)(data)
    code = errors.run(lambda: train.main(command(data, tmp_path)))
    lines = [line for line in capsys.readouterr().err.splitlines() if "\r" not in line and line]
    assert code == 2
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert not (tmp_path / "runs").exists()


def test_bad_images_may_be_skipped_and_are_listed(data, tmp_path, capsys):
    damage("empty image")(data)
    assert trained(command(data, tmp_path, "--skip-bad-images", "--name", "skips")) == 0
    err = capsys.readouterr().err
    assert "skipped: " in err and "bad images: 1 unreadable and 0 missing are left out" in err
    assert len(pd.read_csv(tmp_path / "runs" / "skips" / "oof.csv")) == 12 * 7 - 1


@pytest.mark.parametrize(("options", "message"), [
    (["--crop", "500"], "--crop 500 500 is larger than the image"),
    (["--sampler", "person", "--accum", "13"], "--accum 13: 12 training images make 12 parts at most"),
])  # fmt: skip
def test_what_only_the_images_tell_is_one_line_and_leaves_nothing(shared_data, tmp_path, capsys, options, message):
    assert errors.run(lambda: train.main(command(shared_data, tmp_path, *options))) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not (tmp_path / "runs").exists()


def test_face_crop_without_its_detector_is_one_line(shared_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    code = errors.run(lambda: train.main(command(shared_data, tmp_path, "--face-crop", "0.4")))
    assert code == 2 and capsys.readouterr().err.splitlines()[-1].startswith(
        "error: --face-crop: needs its detector, pip install"
    )
    assert not (tmp_path / "runs").exists()


def test_face_crop_is_drawn_and_recorded(white_detector, shared_data, tmp_path, capsys):
    assert (
        trained(command(shared_data, tmp_path, "--face-crop", "0.25", "--name", "cropped", "--epochs", "1", "--fold", "0")) == 0
    )
    run = tmp_path / "runs" / "cropped"
    assert re.search(r"face crop: no face found in \d+ of 168 images", capsys.readouterr().err)
    assert yaml.safe_load((run / "args.yaml").read_text())["face_crop"] == 0.25
    facts = model.read_facts(run / "fold0" / "best.safetensors")
    assert facts["face_crop"] == 0.25
    assert min(Image.open(run / "crops.png").size) > 300
    (run / "crops.png").write_bytes(b"seen")
    assert trained(["--resume", str(run), "--fold", "1", "--quiet"]) == 0
    assert (run / "crops.png").read_bytes() == b"seen"


@pytest.mark.parametrize("target", ["mask", "age"])
def test_the_closing_line_and_the_summary_say_one_time(runs, target, capsys):
    """That of the epochs, of this command and those before it; how long the command took is said as its own."""
    run = runs[target]
    assert trained(["--resume", str(run), "--quiet"]) == 0
    seconds = json.loads((run / "summary.json").read_text())["seconds"]
    assert seconds == pytest.approx(pd.read_csv(run / "log.csv")["seconds"].sum(), abs=0.051)
    pattern = rf"run: {re.escape(str(run))}/  \(training and validation of its folds {seconds} s, this command \d+ s; .* MiB\)"
    assert re.search(pattern, capsys.readouterr().out)


def test_an_existing_run_is_never_overwritten(runs, fit):
    before = (runs["mask"] / "summary.json").read_bytes()
    with pytest.raises(InputError, match=r"shared_mask: exists and is never overwritten; choose another --name or --resume"):
        fit("--target", "mask", name="shared_mask")
    assert (runs["mask"] / "summary.json").read_bytes() == before


def test_output_folder_that_can_not_be_written(shared_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output-dir .*file: can't be made \(File exists\); give another"):
        train.main([*command(shared_data, tmp_path), "--output-dir", str(tmp_path / "file")])


def test_resume_refuses_other_options_and_other_people(runs, data):
    with pytest.raises(InputError, match=r"--lr: can't be given with --resume"):
        train.main(["--resume", str(runs["mask"]), "--lr", "0.1"])
    with pytest.raises(InputError, match=r"folds.csv: other people than in"):
        train.main(["--resume", str(runs["mask"]), "--data-dir", str(data), "--quiet"])


def test_a_fold_that_has_begun_goes_on_without_the_backbone_it_started_from(shared_data, tmp_path, monkeypatch):
    weights = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), weights)
    argv = [option for option in command(shared_data, tmp_path, "--fold", "0", "--name") if option != "--no-pretrained"]
    trained([*argv, "whole", "--weights", str(weights)])
    real = fold.keep_epoch

    def keep_epoch(*args):
        real(*args)
        raise errors.Interrupted(143, "enough")

    monkeypatch.setattr(fold, "keep_epoch", keep_epoch)
    with pytest.raises(errors.Interrupted):
        trained([*argv, "run", "--weights", str(weights)])
    monkeypatch.undo()
    weights.unlink()
    shutil.copytree(tmp_path / "runs" / "run" / "fold0", tmp_path / "runs" / "run" / "fold0_old")  # a backup is no fold
    trained(["--resume", str(tmp_path / "runs" / "run"), "--fold", "0", "--quiet"])
    assert_same_run(tmp_path / "runs" / "whole", tmp_path / "runs" / "run")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "folds.csv: is empty"), (b"path,fold\n000001,first\n", "folds.csv, line 2: fold 'first' is not a whole number"),
    (b"\xff\xfe\0", "folds.csv, line 1: not in UTF-8"), (None, "folds.csv: no such file"),
])  # fmt: skip
def test_resume_with_damaged_folds_is_one_line(runs, tmp_path, content, message):
    run = Path(shutil.copytree(runs["mask"], tmp_path / "run", ignore=shutil.ignore_patterns("*.png", "eval*")))
    (run / "folds.csv").unlink() if content is None else (run / "folds.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        train.main(["--resume", str(run), "--quiet"])


def test_resume_says_how_to_go_on_when_a_file_cannot_be_read_now(runs, tmp_path, monkeypatch):
    run = Path(shutil.copytree(runs["mask"], tmp_path / "run", ignore=shutil.ignore_patterns("*.png", "eval*")))

    def unable(*_args, **_options):
        raise errors.Unreadable("x.npy: can't be read now (Input/output error); try again")

    monkeypatch.setattr(train, "prepare", unable)
    with pytest.raises(InputError, match=rf"try again. Go on with: python train.py --resume {run}"):
        train.main(["--resume", str(run), "--quiet"])
