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
import options
import predictions
from dataset import TARGETS, num_outputs

IN_RUN = ("args.yaml batch.png classes.csv confusion.csv confusion.png curves.png env.json eval.csv eval.json fold0 fold1 folds.csv "
          "log.csv mistakes.png oof.csv report.html submission.csv summary.json")  # fmt: skip
IN_FOLD, IN_ENSEMBLE = (
    "best.safetensors eval.csv eval.json fold.json log.csv oof.csv",
    "classes.csv confusion.csv confusion.png eval.csv mistakes.png oof.csv recipe.yaml report.html score.json submission.csv",
)
SUMMARY = "name target kfold folds oof_f1 oof_acc oof_f1_ci95 seconds images_per_second peak_memory_mib"
LOG = "fold epoch lr train_loss val_loss val_f1 val_acc seconds images_per_second"
PROBS = {"multi": "mask_p0 mask_p1 mask_p2 gender_p0 gender_p1 age_group_p0 age_group_p1 age_group_p2",
         "age": " ".join(f"age_p{age}" for age in range(18, 61)), "mask": "p0 p1 p2", "gender": "p0 p1", "age_group": "p0 p1 p2",
         "label": " ".join(f"p{index}" for index in range(18))}  # fmt: skip


def head(path):
    return " ".join(path.read_text().partition("\n")[0].split(","))


def holds(folder):
    return " ".join(sorted(path.name for path in folder.iterdir() if not path.name.startswith("events.out.tfevents.")))


def heading(capsys):
    return " ".join(capsys.readouterr().out.splitlines()[0].split())


def test_files_keys_and_printed_tables(fit, shared_data, workplace, tmp_path, capsys):
    """Of train.py, inference.py, ensemble.py, leaderboard.py and compare.py, in turn."""
    run, mixed = tmp_path / "runs" / "golden", tmp_path / "submissions" / "01-soft-1runs"
    fit("--epochs", "1", name="golden", output_dir=run.parent, pictures=True)
    assert capsys.readouterr().out.splitlines()[1] == "  fold  best epoch  macro F1  accuracy"
    places = ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet"]
    assert inference.main(["--models", str(run), *places]) == 0
    assert holds(run) == IN_RUN and holds(run / "fold0") == IN_FOLD
    assert (head(run / "folds.csv"), head(run / "log.csv"), head(run / "submission.csv")) == ("path fold", LOG, "ImageID ans")
    summary, env = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "env"))
    assert {*SUMMARY.split()} <= summary.keys() and {"fold", "best_epoch", "val_f1", "val_acc"} <= summary["folds"][0].keys()
    assert {"python", "packages", "git_commit", "git_dirty", "device", "started"} <= env.keys()
    assert (run / "args.yaml").read_text().startswith("# python train.py --data-dir ")
    recorded, known = yaml.safe_load((run / "args.yaml").read_text()), vars(options.make_parser().parse_args([]))
    assert recorded.keys() == known.keys() - {"resume", "fold", "config", "dry_run"}
    capsys.readouterr()
    assert ensemble.main(["--models", str(run), *places, "--output-dir", str(mixed.parent), "--note", "a<b"]) == 0
    assert heading(capsys) == "member # target folds scored on own F1 weight adds"
    assert holds(mixed) == IN_ENSEMBLE and head(mixed / "submission.csv") == "ImageID ans"
    assert head(mixed / "eval.csv") == f"ImageID {PROBS['label']}" == head(run / "eval.csv")
    assert {"oof_f1", "oof_acc", "oof_f1_ci95"} <= json.loads((mixed / "score.json").read_text()).keys()
    member = {"run": str(run), "target": "label", "folds": [0, 1], "weight": 1}
    recipe = yaml.safe_load((mixed / "recipe.yaml").read_text())
    assert (recipe["members"], recipe["note"]) == ([member], "a<b")
    assert leaderboard.main([str(run.parent)]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert listed.startswith("name target folds OOF F1 95 % interval acc. time LB")
    assert f" golden label 2/2 {summary['oof_f1']:.4f} " in listed
    assert compare.main([str(run), str(mixed), "--data-dir", str(shared_data), "--out", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert '<span class="grey">a&lt;b</span>' in (tmp_path / "page.html").read_text()
    assert "compared on label" in printed and "rows that differ: 0 of 20 (0.0%)" in printed


@pytest.mark.parametrize("target", TARGETS)
def test_columns_of_predictions(target):
    truth, nothing = "mask gender age_group" if target == "multi" else "target", np.zeros((0, num_outputs(target)))
    images = pd.DataFrame({"image": [], "path": []})
    oof = predictions.oof_table(images, 0, target, nothing[:, : 3 if target == "multi" else 1], nothing)
    assert list(oof) == f"image path fold {truth} {PROBS[target]}".split()
    assert list(predictions.eval_table([], target, nothing)) == f"ImageID {PROBS[target]}".split()


def test_a_submission_of_fixed_logits(tmp_path):
    """Softmax of logarithms are their numbers over their sum; the first image is worn, male, >=60: 2, the other 12 + 3 + 1."""
    logits = np.log([[2, 1, 1, 3, 1, 1, 1, 3], [1, 1, 6, 1, 4, 1, 3, 1]])
    table = predictions.eval_table(["a.jpg", "b.jpg"], "multi", dataset.head_probs("multi", logits))
    predictions.write_run_eval(tmp_path, "multi", [0], "none", table)
    assert (tmp_path / "submission.csv").read_text() == "ImageID,ans\na.jpg,2\nb.jpg,16\n"
    rows = "a.jpg,0.5,0.25,0.25,0.75,0.25,0.2,0.2,0.6\nb.jpg,0.125,0.125,0.75,0.2,0.8,0.2,0.6,0.2\n"
    assert (tmp_path / "eval.csv").read_text().partition("\n")[2] == rows
