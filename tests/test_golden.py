"""What a user's scripts lean on: names of files, columns, keys, headings of printed tables, and a submission of fixed logits."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

import compare
import dataset
import ensemble
import inference
import leaderboard
import metrics
import options
import predictions
import train
from dataset import TARGETS

RUN = """args.yaml confusion.png curves.png env.json eval.csv eval.json fold0 fold1 folds.csv log.csv mistakes.png oof.csv
submission.csv summary.json"""
FOLD = "best.safetensors eval.csv eval.json fold.json log.csv oof.csv"
ENSEMBLE = "eval.csv oof.csv recipe.yaml score.json submission.csv"
SUMMARY = "name target kfold folds oof_f1 oof_acc oof_f1_ci95 seconds images_per_second peak_memory_mib"
OF_FOLD = "fold best_epoch val_f1 val_acc"
ENV = "python packages git_commit git_dirty device started"
LOG = "fold epoch lr train_loss val_loss val_f1 val_acc seconds images_per_second"
HEADS = ("mask_p0 mask_p1 mask_p2", "gender_p0 gender_p1", "age_group_p0 age_group_p1 age_group_p2")
PROBS = {target: " ".join(f"p{index}" for index in range(count))
         for target, count in {"label": 18, "mask": 3, "gender": 2, "age_group": 3}.items()}  # fmt: skip
PROBS |= {"multi": " ".join(HEADS), "age": " ".join(f"age_p{age}" for age in range(18, 61))}


def columns(path):
    return path.read_text().partition("\n")[0].split(",")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("events.out.tfevents."))


@pytest.fixture(scope="module")
def made(runs, shared_data, workplace, tmp_path_factory):
    """(a run of train.py that has predicted, an ensemble of it)."""
    out, run = tmp_path_factory.mktemp("golden"), str(runs["label"])
    places = ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet"]
    assert inference.main(["--models", run, *places]) == 0
    assert ensemble.main(["--models", run, *places, "--output-dir", str(out)]) == 0
    return runs["label"], out / "01-soft-1runs"


def test_files_of_a_run_and_of_an_ensemble(made):
    run, mixed = made
    assert (set(names(run)) - {"oof_hflip.csv"}, names(run / "fold0"), names(mixed)) == (
        set(RUN.split()),
        FOLD.split(),
        ENSEMBLE.split(),
    )
    assert columns(run / "folds.csv") == ["path", "fold"] and columns(run / "log.csv") == LOG.split()
    assert columns(run / "submission.csv") == columns(mixed / "submission.csv") == ["ImageID", "ans"]
    assert columns(mixed / "eval.csv") == ["ImageID", *PROBS["label"].split()]
    summary, score = (json.loads(path.read_text()) for path in (run / "summary.json", mixed / "score.json"))
    assert {*SUMMARY.split()} <= summary.keys() and {*OF_FOLD.split()} <= summary["folds"][0].keys()
    assert {"oof_f1", "oof_acc", "oof_f1_ci95"} <= score.keys()
    assert {*ENV.split()} <= json.loads((run / "env.json").read_text()).keys()
    recorded = yaml.safe_load((run / "args.yaml").read_text())
    assert recorded.keys() == vars(options.make_parser().parse_args([])).keys() - {"resume", "fold"}
    assert (run / "args.yaml").read_text().startswith("# python train.py --data-dir ")
    member = {"run": str(run), "target": "label", "folds": [0, 1], "weight": 1}
    assert yaml.safe_load((mixed / "recipe.yaml").read_text())["members"] == [member]


@pytest.mark.parametrize("target", TARGETS)
def test_columns_of_predictions(runs, target):
    truth = "mask gender age_group" if target == "multi" else "target"
    assert columns(runs[target] / "oof.csv") == f"image path fold {truth} {PROBS[target]}".split()
    assert list(predictions.eval_table([], target, np.zeros((0, dataset.num_outputs(target))))) == [
        "ImageID",
        *PROBS[target].split(),
    ]


def test_headings_of_printed_tables(made, capsys, monkeypatch, tmp_path):
    run, mixed = made
    monkeypatch.chdir(tmp_path)
    train.closing(options.parse_args(["--resume", str(run)]), run, json.loads((run / "summary.json").read_text()), 0)
    assert capsys.readouterr().out.splitlines()[1] == "  fold  best epoch  macro F1  accuracy"
    assert leaderboard.main([str(run.parent), str(mixed.parent)]) == 0
    assert capsys.readouterr().out.split("\n")[0].split("  ")[0] == "name"
    assert compare.main([str(run), str(mixed)]) == 0
    assert "compared on label" in capsys.readouterr().out


def test_a_submission_of_fixed_logits(tmp_path):
    """Softmax of logarithms are their numbers over their sum; the first image is worn, male, >=60: 2, the other 12 + 3 + 1."""
    logits = np.log([[2, 1, 1, 3, 1, 1, 1, 3], [1, 1, 6, 1, 4, 1, 3, 1]])
    table = predictions.eval_table(["a.jpg", "b.jpg"], "multi", metrics.head_probs(logits, dataset.head_slices("multi")))
    predictions.write_run_eval(tmp_path, "multi", [0], "none", table)
    assert (tmp_path / "submission.csv").read_text() == "ImageID,ans\na.jpg,2\nb.jpg,16\n"
    expected = "a.jpg,0.5,0.25,0.25,0.75,0.25,0.2,0.2,0.6\nb.jpg,0.125,0.125,0.75,0.2,0.8,0.2,0.6,0.2\n"
    assert (tmp_path / "eval.csv").read_text().partition("\n")[2] == expected
    assert pd.read_csv(tmp_path / "eval.csv").shape == (2, 9)
