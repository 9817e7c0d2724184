"""ensemble.py: its folder, its score, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import yaml

import blend
import ensemble
import errors
import predictions


@pytest.fixture
def places(shared_data, workplace, tmp_path):
    return ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet",
            "--output-dir", str(tmp_path / "submissions")]  # fmt: skip


@pytest.fixture
def three(runs):
    return [runs[target] for target in ("age_group", "gender", "mask")]


def probs(path, target):
    return pd.read_csv(path)[predictions.columns(target)].to_numpy()


def test_three_targets_become_one_scored_submission(runs, three, places, tmp_path, shared_data, capsys):
    assert ensemble.main(["--models", *map(str, three), *places]) == 0
    folder = tmp_path / "submissions" / "01-soft-3runs"
    assert {path.name for path in folder.iterdir()} == {"submission.csv", "eval.csv", "oof.csv", "recipe.yaml", "score.json"}
    submission, info = pd.read_csv(folder / "submission.csv"), pd.read_csv(shared_data / "eval" / "info.csv")
    assert submission["ImageID"].tolist() == info["ImageID"].tolist()
    expected = blend.combine(*(probs(runs[target] / "eval.csv", target) for target in ("mask", "gender", "age_group")))
    np.testing.assert_array_equal(submission["ans"], expected.argmax(1))
    np.testing.assert_allclose(probs(folder / "eval.csv", "label"), expected, rtol=1e-4, atol=1e-9)
    oof, score = pd.read_csv(folder / "oof.csv"), json.loads((folder / "score.json").read_text())
    official = pd.read_csv(runs["label"] / "oof.csv").set_index("image")["target"]
    assert (oof["target"].to_numpy() == official.loc[oof["image"]].to_numpy()).all()
    pred = oof[predictions.columns("label")].to_numpy().argmax(1)
    assert score["oof_f1"] == pytest.approx(
        sklearn.metrics.f1_score(oof["target"], pred, average="macro", zero_division=0), abs=1e-6
    )
    assert score["oof_f1_ci95"][0] <= score["oof_f1"] <= score["oof_f1_ci95"][1]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert [member["run"] for member in recipe["members"]] == [str(run) for run in three]
    assert recipe["members"][0] | {"run": None} == {"run": None, "target": "age_group", "folds": [0, 1], "weight": 1}
    out = capsys.readouterr().out
    assert "out-of-fold macro F1 of label" in out and "answers.csv: macro F1" in out


def test_members_may_be_in_any_order_and_rows_too(three, places, tmp_path):
    ensemble.main(["--models", *map(str, three), *places])
    copy = Path(shutil.copytree(three[0], tmp_path / "shuffled"))
    for name in ("oof.csv", "eval.csv"):
        pd.read_csv(copy / name, dtype=str).sample(frac=1, random_state=0).to_csv(copy / name, index=False)
    for leftover in copy.glob("fold[0-9]*"):
        shutil.rmtree(leftover)
    (copy / "eval.json").unlink()  # brought along without its folds: eval.csv is taken as it is
    ensemble.main(["--models", str(three[2]), str(copy), str(three[1]), *places])
    first, second = (tmp_path / "submissions" / name for name in ("01-soft-3runs", "02-soft-3runs"))
    one, other = (pd.read_csv(folder / "submission.csv").set_index("ImageID") for folder in (first, second))
    pd.testing.assert_frame_equal(one, other.loc[one.index])
    assert json.loads((first / "score.json").read_text()) == json.loads((second / "score.json").read_text())


def test_globs_all_targets_bounds_and_votes(runs, places, tmp_path, workplace):
    argv = ["--models", str(workplace / "runs" / "shared_*"), "--method", "hard", "--age-bounds", "29", "59", "--name", "all"]
    assert ensemble.main([*argv, *places]) == 0
    recipe = yaml.safe_load((tmp_path / "submissions" / "all" / "recipe.yaml").read_text())
    assert len(recipe["members"]) == 6 and recipe["method"] == "hard" and recipe["age_bounds"] == [29, 59]


def test_best_folds_are_predicted_alone(runs, places, tmp_path):
    ensemble.main(["--models", str(runs["label"]), "--folds", "best", "--name", "best", *places])
    recipe = yaml.safe_load((tmp_path / "submissions" / "best" / "recipe.yaml").read_text())
    folds = json.loads((runs["label"] / "summary.json").read_text())["folds"]
    assert recipe["members"][0]["folds"] == [max(folds, key=lambda facts: facts["val_f1"])["fold"]]


def test_a_run_without_oof_gives_a_submission_without_score(fit, places, tmp_path, capsys):
    run = fit("--kfold", "0", "--target", "label", name="nofold_for_ensemble")
    assert ensemble.main(["--models", str(run), "--name", "unscored", *places]) == 0
    assert "no out-of-fold score" in capsys.readouterr().out
    assert not (tmp_path / "submissions" / "unscored" / "oof.csv").exists()


def lose_a_row(name):
    def change(run):
        pd.read_csv(run / name, dtype=str).iloc[1:].to_csv(run / name, index=False)

    return change


def bad_number(run):
    (run / "oof.csv").write_text((run / "oof.csv").read_text().replace("mask1.jpg", "mask1.jpg", 1))
    table = pd.read_csv(run / "oof.csv", dtype=str)
    table.loc[3, "p1"] = "nan"
    table.to_csv(run / "oof.csv", index=False)


@pytest.mark.parametrize(("change", "message"), [
    (lose_a_row("oof.csv"), "their oof.csv hold different images (1 in one alone"),
    (bad_number, "oof.csv: a probability is"),
    (lambda run: (run / "oof.csv").write_text("image,path\n"), "oof.csv: column 'p0' is missing"),
])  # fmt: skip
def test_runs_that_do_not_fit_are_named(runs, three, places, tmp_path, capsys, change, message):
    copy = Path(shutil.copytree(three[0], tmp_path / "odd"))
    change(copy)
    assert errors.run(lambda: ensemble.main(["--models", str(copy), str(three[1]), str(three[2]), *places])) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last and "odd" in last
    assert not (tmp_path / "submissions").exists()


@pytest.mark.parametrize(("options", "message"), [
    (["--models", "{gender}"], "--models: no run decides mask or age_group"),
    (["--models", "{label}", "--age-bounds", "29", "59"], "--age-bounds 29 59: only runs of target age"),
    (["--models", "{label}", "--age-bounds", "60", "30"], "--age-bounds 60 30: must be LO HI"),
    (["--models", "nothing*"], "--models nothing*: matches no run"),
    (["--models", "{label}x"], "no such run. Did you mean shared_label"),
    (["--models", "{label}", "--method", "mean"], "argument --method: invalid choice: 'mean'"),
    (["--models", "{label}", "--folds", "7"], "argument --folds: invalid choice: '7'"),
    (["--models", "{label}", "--name", "../x"], "--name '../x': must be a plain folder name"),
])  # fmt: skip
def test_misuse_is_one_line(runs, places, tmp_path, capsys, options, message):
    argv = [option.format(**runs) for option in options]
    assert errors.run(lambda: ensemble.main([*argv, *places])) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not (tmp_path / "submissions").exists()


def test_an_existing_result_is_never_overwritten(runs, places, capsys):
    argv = ["--models", str(runs["label"]), "--name", "mine", *places]
    assert ensemble.main(argv) == 0
    assert errors.run(lambda: ensemble.main(argv)) == 2
    assert "exists and is never overwritten" in capsys.readouterr().err
