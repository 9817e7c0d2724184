"""ensemble.py: its folder, its score, and what it refuses."""

import functools
import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import yaml
from helpers import KINDS, People, eval_names, write_data, write_run

import blend
import dataset
import demo
import ensemble
import errors
import inference
import metrics
import predictions
from blend import Fitted, Plan
from dataset import HEADS, age_group_probs, combine, encode, head_slices, marginals
from errors import InputError
from predictions import Member


@pytest.fixture
def places(shared_data, workplace, tmp_path):
    return ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet",
            "--output-dir", str(tmp_path / "submissions")]  # fmt: skip


@pytest.fixture
def three(runs):
    return [runs[target] for target in ("age_group", "gender", "mask")]


def probs(path, target):
    return pd.read_csv(path)[dataset.columns(target)].to_numpy()


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
    pred = oof[dataset.columns("label")].to_numpy().argmax(1)
    assert score["oof_f1"] == pytest.approx(
        sklearn.metrics.f1_score(oof["target"], pred, average="macro", zero_division=0), abs=1e-6
    )
    assert score["oof_f1_ci95"][0] <= score["oof_f1"] <= score["oof_f1_ci95"][1]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert [member["run"] for member in recipe["members"]] == [str(run) for run in three]
    assert recipe["members"][0] | {"run": None} == {"run": None, "target": "age_group", "folds": [0, 1], "weight": 1}
    out = capsys.readouterr().out
    assert "out-of-fold macro F1 of label" in out and "answers.csv: macro F1" in out


def test_temperatures_are_those_of_the_models_of_single_folds(runs, places, tmp_path):
    """The mean of the folds is taken after them, here of one member."""
    folder = tmp_path / "submissions" / "scaled"
    assert ensemble.main(["--models", str(runs["label"]), "--temperature", "--name", folder.name, *places]) == 0
    (member,) = yaml.safe_load((folder / "recipe.yaml").read_text())["members"]
    powers = [
        probs(runs["label"] / f"fold{fold}" / "eval.csv", "label") ** (1 / member["temperature"]["label"]) for fold in (0, 1)
    ]
    expected = np.mean([each / each.sum(1, keepdims=True) for each in powers], axis=0)
    np.testing.assert_allclose(probs(folder / "eval.csv", "label"), expected, rtol=1e-4, atol=1e-6)


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


def test_a_mean_of_other_folds_whose_note_is_lost_is_not_taken_for_all(runs, three, places, tmp_path):
    """As a kill between the removal of eval.json and the new eval.csv leaves it; the folds are there."""
    ensemble.main(["--models", *map(str, three), *places])
    copy = Path(shutil.copytree(runs["mask"], tmp_path / "mask"))
    predictions.write_run_eval(copy, "mask", [0], "none", *predictions.fold_tables(copy, "mask", [0], "none"))
    (copy / "eval.json").unlink()
    tables, folds = predictions.read_eval(predictions.open_member(str(copy)))
    assert folds == [0, 1]
    pd.testing.assert_frame_equal(
        predictions.mean(tables, "mask"), predictions.mean(predictions.fold_tables(copy, "mask", [0, 1], "none"), "mask")
    )


def test_globs_all_targets_bounds_and_votes(runs, places, tmp_path, workplace):
    argv = ["--models", str(workplace / "runs" / "shared_*"), "--method", "hard", "--age-bounds", "29", "59", "--name", "all"]
    assert ensemble.main([*argv, *places]) == 0
    recipe = yaml.safe_load((tmp_path / "submissions" / "all" / "recipe.yaml").read_text())
    assert len(recipe["members"]) == 6 and recipe["method"] == "hard" and recipe["age_bounds"] == [29, 59]


def saved(*runs):
    """What others may read of runs, with its bytes."""
    files = [path for run in runs for name in ("eval*", "submission.csv", "fold*/eval*") for path in sorted(run.glob(name))]
    return {path: path.read_bytes() for path in files}


@pytest.fixture
def own_run(runs, tmp_path):
    """A copy of the label run without predictions, which a test may change."""
    return Path(shutil.copytree(runs["label"], tmp_path / "own", ignore=shutil.ignore_patterns("eval*", "submission.csv")))


@pytest.fixture
def other_eval(shared_data, tmp_path):
    """other_eval(change) -> (a data folder with changed ImageIDs, these); `new.jpg` shows what the first image shows."""

    def make(change):
        place = tmp_path / "other"
        names = pd.read_csv(shared_data / "eval" / "info.csv")["ImageID"].tolist()
        shutil.copytree(shared_data / "eval" / "images", place / "eval" / "images")
        shutil.copy(place / "eval" / "images" / names[0], place / "eval" / "images" / "new.jpg")
        (place / "train").symlink_to(shared_data / "train")
        pd.DataFrame({"ImageID": change(names), "ans": 0}).to_csv(place / "eval" / "info.csv", index=False)
        return place, change(names)

    return make


GROWN = lambda names: [*names, "new.jpg"], "own{fold} lacks 1 of the 21 images of {info}, such as new.jpg"
REORDERED = lambda names: names[::-1], None
SHRUNK = lambda names: names[3:] + names[:1], "left out of eval.csv: 2 of its images, such as {gone}, not in {info} any more"


@pytest.mark.parametrize(("change", "told", "folds"), [
    (*GROWN, ""), (*GROWN, ":fold1"), (*GROWN, " --folds best --temperature"),
    (*REORDERED, ""), (*REORDERED, " --temperature"), (*SHRUNK, " --folds best"),
])  # fmt: skip
def test_the_submission_follows_info_csv(own_run, places, other_eval, tmp_path, capsys, change, told, folds):
    """Example: inference.py predicted before the eval set was changed. What can be told from what is saved is not made anew."""
    inference.main(["--models", str(own_run), *places[:-2]])
    (place, names), before = other_eval(change), saved(own_run)
    capsys.readouterr()
    argv = ["--models", *f"{own_run}{folds}".split(), *places, "--data-dir", str(place), "--name", "followed"]
    assert ensemble.main(argv) == 0
    submission = pd.read_csv(tmp_path / "submissions" / "followed" / "submission.csv").set_index("ImageID")["ans"]
    assert submission.index.tolist() == names == pd.read_csv(place / "eval" / "info.csv")["ImageID"].tolist()
    err, grown = capsys.readouterr().err, "new.jpg" in names
    gone = min(set(pd.read_csv(own_run / "eval.csv")["ImageID"]) - set(names), default="")
    facts = {"fold": folds.partition(" ")[0], "info": place / "eval" / "info.csv", "gone": gone}
    assert (told or "").format(**facts) in err
    assert ("predicted anew" in err) == grown and "no data folder" not in err
    if grown:
        assert submission["new.jpg"] == submission.iloc[0]
        rows = 20 if "fold" in folds else 21  # another choice of folds than RUN/eval.csv is of
        assert len(pd.read_csv(own_run / "eval.csv")) == rows == len(pd.read_csv(own_run / "submission.csv"))
    else:
        assert saved(own_run) == before


def test_folds_that_were_predicted_in_other_orders_are_joined_by_name(own_run, places, other_eval, shared_data, tmp_path):
    """Variant: info.csv was reordered between two calls of inference.py, and nobody says where the data is."""
    inference.main(["--models", str(own_run), *places[:-2]])
    expected = pd.read_csv(own_run / "eval.csv", index_col="ImageID")
    inference.main(
        ["--models", str(own_run), "--folds", "1", *places[2:-2], "--data-dir", str(other_eval(lambda x: x[::-1])[0])]
    )
    for data in (shared_data, tmp_path / "other"):
        argv = ["--models", str(own_run), *places[2:], "--data-dir", str(data), "--name", data.name]
        assert ensemble.main(argv) == 0
        table = pd.read_csv(tmp_path / "submissions" / data.name / "eval.csv", index_col="ImageID")
        np.testing.assert_allclose(table.loc[expected.index], expected, rtol=1e-4, atol=1e-6)


def test_without_a_data_folder_a_line_says_that_nothing_was_checked(blend_of, tmp_path, capsys):
    """Nor with the demo set of another day, whose images are others."""
    told = "no data folder here: predictions are not held against its info.csv and train.csv; --data-dir DIR names one\n"
    blend_of("label", name="nowhere")
    write_data(tmp_path / "data-demo", People(8, seed=7), ["demo.jpg"])
    blend_of("label", name="demo")
    assert capsys.readouterr().err.count(told) == 2


def test_labels_and_people_are_those_of_train_csv(blend_of, simulated, tmp_path, capsys):
    """Variant: two people left train.csv and one's gender was set right after the run was trained."""
    held, train = People(40, seed=6), People(60, seed=5)
    csv = write_data(tmp_path / "data", train, eval_names(held)) / "train" / "train.csv"
    _folder, _recipe, before = blend_of("multi", "mask", name="before")
    head, third, *rows = [row for number, row in enumerate(csv.read_text().splitlines()) if number not in (1, 2)]
    csv.write_text("\n".join([head, third.replace(",male,", ",female,"), *rows]))
    folder, _recipe, score = blend_of("multi", "mask", name="after")
    err = capsys.readouterr().err
    assert "left out of oof.csv: 14 of its images, whose people are not in data/train/train.csv any more\n" in err
    assert "7 images of oof.csv have other labels in data/train/train.csv now: those count\n" in err
    oof = pd.read_csv(folder / "oof.csv")
    assert oof["target"].tolist() == [*(train.label[14:21] + 3), *train.label[21:]] and score["oof_f1"] != before["oof_f1"]


@pytest.mark.parametrize(("name", "change", "message"), [
    ("label", lambda names: [*names, "new.jpg"], "label/eval.csv: lacks 1 of the 281 images of data/eval/info.csv, such as new.jpg; bring"),
    ("inner", lambda names: [*names, "new.jpg"], "inner/eval.csv: lacks 1 of the 281 images of data/eval/info.csv, such as new.jpg; make"),
    ("label", lambda names: names[::-1], None),
    ("inner", lambda names: names[5:], None),
])  # fmt: skip
def test_what_can_not_be_predicted_anew(blend_of, simulated, tmp_path, capsys, name, change, message):
    """Variant: runs that were brought along without their folds, and ensembles as members."""
    inner, *_rest = blend_of("label", "multi", name="inner")
    names = change(eval_names(People(40, seed=6)))
    write_data(tmp_path / "data", People(60, seed=5), names)
    member = str(inner if name == "inner" else simulated[name])
    assert errors.run(lambda: ensemble.main(["--models", member, "--name", "e"])) == (2 if message else 0)
    if message:
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert errors.run(lambda: ensemble.main(["--models", f"{member[:-1]}?", "--name", "e"])) == 2
        assert f"{member} (lacks images of data/eval/info.csv)\nerror: --models: nothing that" in capsys.readouterr().err
        assert not (tmp_path / "submissions" / "e").exists()
    else:
        assert pd.read_csv(tmp_path / "submissions" / "e" / "submission.csv")["ImageID"].tolist() == names


# ---- what an ensemble leaves as it was


@pytest.mark.parametrize("options", [["--folds", "best"], ["--tta", "hflip"]], ids=" ".join)
def test_a_choice_changes_nothing_that_inference_left(own_run, places, tmp_path, options):
    """Example: --folds best made RUN/eval.csv the best fold's. Its answers are those of inference.py with that choice."""
    inference.main(["--models", str(own_run), *places[:-2]])
    before, again = saved(own_run), Path(shutil.copytree(own_run, tmp_path / "again"))
    assert ensemble.main(["--models", str(own_run), *options, "--name", "chosen", *places]) == 0
    assert {path: content for path, content in saved(own_run).items() if path in before} == before
    inference.main(["--models", str(again), *options, *places[:-2]])
    expected = probs(again / "eval.csv", "label")
    np.testing.assert_allclose(probs(tmp_path / "submissions" / "chosen" / "eval.csv", "label"), expected, rtol=1e-4, atol=1e-6)
    assert ensemble.main(["--models", str(again), "--name", "all", *places]) == 0  # as inference.py left it: of that choice
    np.testing.assert_array_equal(probs(again / "eval.csv", "label"), expected)


def test_what_is_missing_is_made_as_inference_would(own_run, places, tmp_path):
    again = Path(shutil.copytree(own_run, tmp_path / "again"))
    assert ensemble.main(["--models", str(own_run), "--name", "made", *places]) == 0
    inference.main(["--models", str(again), *places[:-2]])
    mine, theirs = ({path.relative_to(run): text for path, text in saved(run).items()} for run in (own_run, again))
    assert mine == theirs and Path("submission.csv") in mine
    for name in ("eval.csv", "eval.json", "submission.csv"):  # as --pseudo leaves its teacher, with the folds' own alone
        (own_run / name).unlink()
    assert ensemble.main(["--models", str(own_run), "--name", "again", *places]) == 0
    assert {path.relative_to(own_run): text for path, text in saved(own_run).items()} == theirs


@pytest.mark.parametrize("why", ["best fold", "other people", "lacks images"])
def test_a_refusal_changes_nothing(own_run, places, simulated, tmp_path, why):
    """Example: --folds best, refused, had made RUN/eval.csv the best fold's. Variants: with predictions that are not there yet."""
    other = simulated["multi"]
    if why == "best fold":
        inference.main(["--models", str(own_run), *places[:-2]])
    if why == "lacks images":
        other = Path(shutil.copytree(simulated["label"], tmp_path / "copy", ignore=shutil.ignore_patterns("oof.csv")))
    before = saved(own_run, other)
    folds = "best" if why == "best fold" else "all"
    assert errors.run(lambda: ensemble.main(["--models", str(own_run), str(other), "--folds", folds, *places])) == 2
    assert saved(own_run, other) == before and not (tmp_path / "submissions").exists()


# ---- what patterns match


@pytest.fixture
def many(simulated, tmp_path):
    """A folder of runs as a fortnight leaves them: two label runs, one without validation, a quick look, one that trains."""
    place = tmp_path / "many"
    for name in ("label", "multi", "nofold"):
        shutil.copytree(simulated[name.replace("nofold", "weak")], place / name)
    (place / "nofold" / "oof.csv").unlink()
    write_run(place / "quick", "label", People(12, seed=3), People(40, seed=6))
    shutil.copytree(place / "label", place / "trains", ignore=shutil.ignore_patterns("*.csv"))
    return place


@pytest.mark.parametrize(("models", "options", "taken", "told"), [
    (["*"], ["--temperature"], ["label", "multi"], "passed over, 3 of what patterns match: many/nofold, many/trains (no oof.csv); "
     "many/quick (other train images than many/label)\n"),
    (["*"], [], ["label", "multi", "nofold"], "passed over, 2 of what patterns match: many/trains (fold not complete); "
     "many/quick (other train images than many/label)\n"),
    (["q*", "quick", "[ln]*"], [], ["quick", "nofold"], "passed over, 1 of what patterns match: many/label (other train images than many/quick)"),
])  # fmt: skip
def test_patterns_pass_over_what_can_not_take_part(many, monkeypatch, tmp_path, capsys, models, options, taken, told):
    """Example: a search over "runs/*" with a nofold run and a quick look. Variants: a plain average, for which the first can; and
    a quick look that is named, to which others have to fit."""
    monkeypatch.chdir(tmp_path)
    assert ensemble.main(["--models", *(f"many/{each}" for each in models), "--name", "e", "--quiet", *options]) == 0
    recipe = yaml.safe_load((tmp_path / "submissions" / "e" / "recipe.yaml").read_text())
    assert [member["run"] for member in recipe["members"]] == [f"many/{name}" for name in taken]
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("named", "options", "message"), [
    ("nofold", ["--search", "greedy"], "--search greedy: needs out-of-fold predictions, and many/nofold has no oof.csv"),
    ("quick", [], "many/multi and many/quick: their oof.csv hold different images"),
    ("trains", [], "many/trains: no fold is complete"),
])  # fmt: skip
def test_what_is_named_stays_an_error(many, monkeypatch, tmp_path, capsys, named, options, message):
    monkeypatch.chdir(tmp_path)
    argv = ["--models", f"many/{named}", "many/m*", "many/label", "--quiet", *options]
    assert errors.run(lambda: ensemble.main(argv)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert errors.run(lambda: ensemble.main(["--models", "many/n*", "many/t*", "--temperature"])) == 2
    assert "nothing that the patterns match can take part" in capsys.readouterr().err.splitlines()[-1]


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
    (bad_number, "oof.csv, line 5: p1 'nan' is not a number from 0 on"),
    (lambda run: (run / "oof.csv").write_text("image,path\n"), "oof.csv: column 'fold' is missing"),
])  # fmt: skip
def test_runs_that_do_not_fit_are_named(runs, three, places, tmp_path, capsys, change, message):
    copy = Path(shutil.copytree(three[0], tmp_path / "odd"))
    change(copy)
    assert errors.run(lambda: ensemble.main(["--models", str(copy), str(three[1]), str(three[2]), *places])) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last and "odd" in last
    assert not (tmp_path / "submissions").exists()


def test_an_existing_result_is_never_overwritten(runs, places, monkeypatch, capsys):
    argv = ["--models", str(runs["label"]), "--name", "mine", *places]
    assert ensemble.main(argv) == 0
    monkeypatch.setattr(ensemble, "read_members", None)  # it is told before any work
    assert errors.run(lambda: ensemble.main(argv)) == 2
    assert "exists and is never overwritten" in capsys.readouterr().err


# ---- fitted on out-of-fold predictions, on simulated runs ----------------------------------------------------------


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """{target: run folder} of simulated runs; `again` is a copy of the label run, `weak` a label run of noise."""
    root, train, held = tmp_path_factory.mktemp("simulated") / "runs", People(60, seed=5), People(40, seed=6)
    targets = {target: target for target in HEADS} | {"weak": "label"}
    noise = dict.fromkeys(targets, 1.5) | {"weak": 40}
    folders = {name: write_run(root / name, target, train, held, noise[name]) for name, target in targets.items()}
    return folders | {"again": Path(shutil.copytree(folders["label"], root / "again"))}


@pytest.fixture
def blend_of(simulated, tmp_path, monkeypatch):
    """blend_of("label", "mask", options=[...]) -> (result folder, recipe, score) of these simulated runs."""

    monkeypatch.chdir(tmp_path)  # no data folder is there, and none is needed

    def run(*names, options=(), name="result"):
        argv = ["--models", *(str(simulated[each]) for each in names), "--output-dir", str(tmp_path / "submissions")]
        assert ensemble.main([*argv, "--name", name, "--quiet", *options]) == 0
        folder = tmp_path / "submissions" / name
        return folder, yaml.safe_load((folder / "recipe.yaml").read_text()), json.loads((folder / "score.json").read_text())

    return run


def by_recipe(recipe, table, factors=None):
    """Probabilities [N, 18] by a recipe of soft blending alone, without blend.py: sums over the parts, then the product."""
    sums = {}
    for member in recipe["members"]:
        values = probs(Path(member["run"]) / table, member["target"])
        for head, temperature in member.get("temperature", {}).items():
            columns = head_slices(member["target"])[head]
            powers = np.maximum(values[:, columns], 1e-12) ** (1 / temperature)
            values[:, columns] = powers / powers.sum(1, keepdims=True)
        if member["target"] == "age":
            given = {"age_group": age_group_probs(values, recipe["age_bounds"])}
        elif member["target"] == "multi":
            given = {"mask": values[:, :3], "gender": values[:, 3:5], "age_group": values[:, 5:]}
        else:
            given = {member["target"]: values}
        for part, part_probs in given.items():
            weight = member["weight"][part] if isinstance(member["weight"], dict) else member["weight"]
            total, weights = sums.get(part, (0, 0))
            sums[part] = total + weight * part_probs, weights + weight
    label, label_weight = sums.pop("label", (np.zeros(18), 0))
    weight = sum(weights for _total, weights in sums.values()) / 3
    mean = {part: total / weights for part, (total, weights) in sums.items() if weights}
    if weight and label_weight:
        mean = marginals(label / label_weight) | mean
    blended = label + (weight * combine(*(mean[part] for part in dataset.COMPONENTS)) if weight else 0)
    biased = blended * recipe.get("biases", np.ones(18)) * np.repeat(recipe.get(factors, np.ones(3)), 6)
    return biased / biased.sum(1, keepdims=True)


@pytest.mark.parametrize("options", [
    ["--search", "weights", "--tune-bounds", "--decode", "f1"],
    ["--search", "greedy", "--decode", "f1"],
    ["--tune-bounds", "--temperature"],
], ids=" ".join)  # fmt: skip
def test_the_recipe_alone_gives_the_submission(blend_of, options, capsys, monkeypatch):
    monkeypatch.setattr(
        metrics, "fit_class_factors", functools.partial(metrics.fit_class_factors, rounds=2)
    )  # the recipe says how far
    folder, recipe, score = blend_of("age", "mask", "gender", "label", "multi", options=options)
    expected = by_recipe(recipe, "eval.csv")
    np.testing.assert_array_equal(pd.read_csv(folder / "submission.csv")["ans"], expected.argmax(1))
    np.testing.assert_allclose(probs(folder / "eval.csv", "label"), expected, rtol=1e-4, atol=1e-6)
    oof = pd.read_csv(folder / "oof.csv")

    def f1(label_probs):
        value = sklearn.metrics.f1_score(oof["target"], label_probs.argmax(1), average="macro", zero_division=0)
        return pytest.approx(value, abs=1e-6)

    assert score["oof_f1"] == f1(oof[dataset.columns("label")].to_numpy())
    assert score["in_sample_f1"] == f1(by_recipe(recipe, "oof.csv"))
    plain = [{"run": member["run"], "target": member["target"], "weight": 1} for member in recipe["members"]]
    assert score["plain_f1"] == f1(by_recipe({"members": plain, "age_bounds": [30, 60]}, "oof.csv"))
    assert (folder / "bounds.png").exists() == recipe["tune_bounds"] == ("--tune-bounds" in options)
    assert len(recipe.get("crossfit_bounds", [])) == 5 * recipe["tune_bounds"]
    assert ("path" in recipe) == ("greedy" in options)
    out = capsys.readouterr().out
    assert "cross-fitted: each of 5 parts" in out and f"in-sample {score['in_sample_f1']:.4f}" in out
    low, high = score["gain_ci95"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "noise"
    assert f"gain {score['gain']:+.4f}, 95 % CI {low:+.4f} .. {high:+.4f}: {verdict}" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith(("next:", str(folder)))) <= 100


@pytest.mark.parametrize("decode", ["prior", "f1+prior"])
def test_the_recipe_has_the_factors_of_the_prior(blend_of, decode, capsys, monkeypatch):
    """Those of the eval images and, where nothing is fitted, those of the out-of-fold images give either's answers."""
    monkeypatch.setattr(metrics, "fit_class_factors", functools.partial(metrics.fit_class_factors, rounds=1))
    folder, recipe, score = blend_of("mask", "gender", "age", options=["--decode", decode])
    expected = by_recipe(recipe, "eval.csv", "mask_factors")
    pred = pd.read_csv(folder / "submission.csv")["ans"]
    np.testing.assert_array_equal(pred, expected.argmax(1))
    np.testing.assert_allclose(probs(folder / "eval.csv", "label"), expected, rtol=1e-4, atol=1e-6)
    assert np.bincount(pred // 6).tolist() == [200, 40, 40] and len(recipe["oof_mask_factors"]) == 3
    oof = pd.read_csv(folder / "oof.csv")
    assert np.bincount(probs(folder / "oof.csv", "label").argmax(1) // 6).tolist() == [300, 60, 60]
    out = capsys.readouterr().out
    assert "factors of the mask states for 5:1:1 among the eval images: worn" in out and "not 5:1:1" not in out
    if decode == "prior":
        np.testing.assert_allclose(
            probs(folder / "oof.csv", "label"), by_recipe(recipe, "oof.csv", "oof_mask_factors"), rtol=1e-4, atol=1e-6
        )
        assert score["in_sample_f1"] is None and out.endswith(" --decode prior --search greedy\n")
    plain = by_recipe({"members": recipe["members"], "age_bounds": [30, 60]}, "oof.csv").argmax(1)
    gain = score["oof_f1"] - sklearn.metrics.f1_score(oof["target"], plain, average="macro")
    assert score["gain"] == pytest.approx(gain, abs=2e-6) and f"gain {score['gain']:+.4f}" in out


def test_a_stack_is_written_down(blend_of, simulated):
    folder, recipe, _score = blend_of("age", "label", options=["--method", "stack"])
    assert [member["weight"] for member in recipe["members"]] == [None, None]
    table = pd.read_csv(folder / "stack.csv")
    columns = [probs(simulated[target] / "eval.csv", target) for target in ("age", "label")]
    logs = np.log(np.maximum(np.hstack(columns), blend.LOG_FLOOR))
    logits = logs @ table.iloc[:-1, 2:].to_numpy() + table.iloc[-1, 2:].to_numpy(dtype=float)
    answers = table.columns[2:].astype(int).to_numpy()[logits.argmax(1)]
    np.testing.assert_array_equal(pd.read_csv(folder / "submission.csv")["ans"], answers)


def test_a_search_tells_what_it_leaves_out(blend_of, capsys, monkeypatch):
    path = [(1, np.nan), (0, 0.5), (1, 0.6)]
    monkeypatch.setattr(blend, "greedy", lambda *_args, **_options: ([0.333333, 0.666667, 0.0], path))
    _folder, recipe, _score = blend_of("label", "multi", "weak", options=["--search", "greedy"])
    assert [member["weight"] for member in recipe["members"]] == [0.333333, 0.666667, 0]
    runs = [Path(step["run"]).name for step in recipe["path"]]
    assert (runs, [step["in_sample_f1"] for step in recipe["path"]]) == (["multi", "label", "multi"], [None, 0.5, 0.6])
    out = capsys.readouterr().out
    assert "(in brackets: left out" in out and "greedy path (member, in-sample macro F1): 2 > 1 0.5000 > 2 0.6000" in out


@pytest.mark.parametrize(("options", "names"), [
    ([], ["label", "multi", "weak", "again", "age", "mask", "gender", "age_group"]),
    (["--temperature", "--seed", "3"], ["weak", "mask", "multi", "gender", "label", "age_group", "again"]),
    (["--age-bounds", "29", "59"], ["mask", "gender", "age", "age_group", "multi", "weak"]),
])  # fmt: skip
def test_the_path_that_is_told_leads_to_the_weights(blend_of, options, names, capsys):
    """Each member weighs as often as it stands there, and the last score is the in-sample one of what is handed in."""
    _folder, recipe, score = blend_of(*names, options=["--search", "greedy", *options])
    steps = [step["run"] for step in recipe["path"]]
    for member in recipe["members"]:
        assert member["weight"] == pytest.approx(steps.count(member["run"]) / len(steps), abs=1e-6)
    assert recipe["path"][-1]["in_sample_f1"] == pytest.approx(score["in_sample_f1"], abs=2e-6)
    told = " ".join(capsys.readouterr().out.split()).partition("greedy path")[2].partition(" out-of-fold")[0]
    assert told.endswith(f" {score['in_sample_f1']:.4f}") and ("more, to" in told) == (len(steps) > 12)


def test_an_ensemble_is_a_member_with_its_cross_fitted_predictions(blend_of, simulated, tmp_path):
    inner, _recipe, inner_score = blend_of("label", "multi", options=["--search", "weights"], name="inner")
    argv = ["--models", str(tmp_path / "submissions" / "in*"), "--output-dir", str(tmp_path / "outer")]
    assert ensemble.main([*argv, "--name", "e"]) == 0
    score = json.loads((tmp_path / "outer" / "e" / "score.json").read_text())
    assert (score["oof_f1"], score["in_sample_f1"]) == (inner_score["oof_f1"], None)
    np.testing.assert_array_equal(
        pd.read_csv(tmp_path / "outer" / "e" / "submission.csv"), pd.read_csv(inner / "submission.csv")
    )


def test_the_end_says_what_to_hand_in(blend_of, tmp_path, capsys):
    blend_of("label", "again", name="one")
    assert "hand in" not in capsys.readouterr().out
    blend_of("label", name="the same")
    assert "  2  none: all else is worse by more than noise, or the same again" in capsys.readouterr().out
    blend_of("multi", name="two")
    out = capsys.readouterr().out
    assert "the two to hand in at the end:" in out
    first, second = (line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith(("  1  ", "  2  ")))
    assert out.splitlines()[-1] == f"next: python compare.py {first} {second}"
    assert str(tmp_path / "submissions" / "two") in (first, second) and first != second


@pytest.fixture
def last_line(blend_of, simulated, tmp_path, capsys):
    """last_line(names, options) -> what stands after "next: " for a blend of these simulated runs, alone in its folder."""
    numbers = iter(range(9))

    def told(names, options=()):
        where = ["--output-dir", str(tmp_path / f"apart{next(numbers)}")]
        argv = ["--models", *(str(simulated[name]) for name in names), *where, "--name", "e", "--quiet", *options]
        assert ensemble.main(argv) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("next: python ")
        return shlex.split(last)[2:]

    return told


def test_the_next_command_names_the_data_where_it_would_not_be_found(last_line, simulated, tmp_path):
    """The folder has a space, to be pasted as one word; the same folder named data/ is found without the option."""
    models = ["ensemble.py", "--models", str(simulated["label"]), str(simulated["multi"]), "--folds", "all", "--tta", "none"]
    greedy = ["--search", "greedy"]
    assert last_line(["label", "multi"]) == models + greedy
    write_data(tmp_path / "my data", People(60, seed=5), eval_names(People(40, seed=6)))
    assert last_line(["label", "multi"], ["--data-dir", "my data"]) == [*models, "--data-dir", "my data", *greedy]
    (tmp_path / "my data").rename(tmp_path / "data")
    assert last_line(["label", "multi"], ["--data-dir", "data"]) == models + greedy


def test_the_next_command_that_compares_names_the_data_too(blend_of, tmp_path, capsys):
    write_data(tmp_path / "else where", People(60, seed=5), eval_names(People(40, seed=6)))
    for names in (["multi"], ["label"]):
        blend_of(*names, name=names[-1], options=["--data-dir", "else where"])
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[-2:] == ["--data-dir", "else where"]


def test_the_next_command_keeps_the_bounds(last_line):
    told = last_line(["age", "mask", "gender"], ["--age-bounds", "29", "59"])
    assert told[-7:] == ["--tta", "none", "--age-bounds", "29", "59", "--search", "greedy"]


def test_after_a_search_or_a_single_member_the_next_command_shows_all(last_line):
    assert last_line(["label"]) == last_line(["label", "multi"], ["--search", "weights"]) == ["leaderboard.py"]


# ---- messages ---------------------------------------------------------------------------------------------------------


def test_predicted_shares_in_words():
    """Of two genders one share says it all."""
    shares = ensemble.predicted_shares(np.eye(18)[[0, 0, 3, 17]])
    assert shares == "worn 75.0%, incorrect 0.0%, not worn 25.0%; female 50.0%; <30 75.0%, 30-59 0.0%, >=60 25.0%"


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(-0.005, 0.02, "noise"), (0.001, 0.02, "better"), (-0.02, -0.001, "worse")]
)
def test_whether_it_paid_is_said_by_the_interval(low, high, verdict, capsys):
    gain = (low + high) / 2
    scores = {"oof_f1": 0.5, "oof_acc": 0.6, "oof_f1_ci95": [0.4, 0.6], "in_sample_f1": 0.7, "crossfit_parts": 5}
    scored = SimpleNamespace(scores=scores | {"plain_f1": 0.5 - gain, "gain": gain, "gain_ci95": [low, high]})
    ensemble.say_scores(SimpleNamespace(plan=Plan(search="greedy"), scored=scored, grouping=None))
    assert capsys.readouterr().out.endswith(f"gain {gain:+.4f}, 95 % CI {low:+.4f} .. {high:+.4f}: {verdict}\n")
    ensemble.say_scores(SimpleNamespace(plan=Plan(seed=3), scored=scored, grouping=None))
    assert "gain" not in capsys.readouterr().out
    ensemble.say_scores(
        SimpleNamespace(plan=Plan("hard"), scored=scored, grouping=None)
    )  # nothing is fitted, and yet it is not the average
    out = capsys.readouterr().out
    assert verdict in out and "cross-fitted" not in out
    ensemble.say_scores(SimpleNamespace(plan=Plan(), scored=scored, grouping="there are groups"))
    assert verdict in capsys.readouterr().out


def test_the_strongest_factors_may_be_small_ones(capsys):
    factors = np.ones(18)
    factors[[0, 3, 5]] = 2.0, 0.1, 1.5
    ensemble.say_fit(SimpleNamespace(plan=Plan(decode="f1"), fitted=Fitted(class_factors=factors)))
    told = " ".join(capsys.readouterr().out.split())
    assert re.fullmatch(r"strongest factors: 0\.10 for class 3, .*; 2\.00 for class 0, .*; 1\.50 for class 5, .*", told)


def test_shares_that_depart_from_the_prior_are_warned_of(capsys):
    """70 images: 50, 10, 10 are expected; one image is 1.4 percentage points."""
    right = np.eye(18)[[0] * 50 + [6] * 10 + [12] * 10]
    ensemble.warn_of_prior(right)
    assert capsys.readouterr().err == ""
    ensemble.warn_of_prior(np.eye(18)[[0] * 51 + [6] * 9 + [12] * 10])
    err = " ".join(capsys.readouterr().err.split())
    assert err.startswith("warning: eval images are 5:1:1 by mask")
    ensemble.warn_of_prior(np.eye(18)[[0] * 146 + [6] * 32 + [12] * 32])  # 4 too few, 2 too many twice; 2.1 of 210 are borne
    assert "worn 146 (69.5%) for 150 (71.4%)" in " ".join(capsys.readouterr().err.split())
    assert "worn 51 (72.9%) for 50 (71.4%), incorrect 9 (12.9%) for 10 (14.3%), not worn 10 (14.3%) for 10 (14.3%)" in err


# ---- contributions ----------------------------------------------------------------------------------------------------

TRUTH = encode(0, 0, np.array([0, 1, 2, 1]))


def label_probs(pred, sure=0.9):
    return (1 - sure) / 18 + sure * np.eye(18)[pred]


def test_what_a_member_adds_by_hand():
    """The blend is right on all four; without the first the second errs on one of class 1: F1 of classes 0, 1, 2 is
    1 (2 * 1 / 2), 2/3 (2 * 1 / 3) and 2/3 (2 * 1 / 3), mean 7/9. So the first adds 2/9 and the second nothing."""
    members = [("label", label_probs(TRUTH)), ("label", label_probs(encode(0, 0, np.array([0, 1, 2, 2])), 0.5))]
    np.testing.assert_allclose(ensemble.added(Plan(), Fitted(), members, TRUTH), [2 / 9, 0], atol=1e-12)


def test_what_a_member_adds_is_at_the_other_s_weights_and_biases():
    people = People(12, seed=1)
    members = [(target, people.probs(target, 3)) for target in ("label", "multi", "label")]
    weights = [0.5, {"mask": 2.0, "gender": 0.25, "age_group": 0.0}, 2.0]
    fitted = Fitted(weights=weights, class_factors=np.linspace(0.1, 3, 18))

    def f1(weights):
        probs = blend.blend(members, weights=weights) * fitted.class_factors
        return metrics.macro_f1(people.label, probs.argmax(1), 18)

    expected = [
        f1(weights) - f1([weight if other != index else 0 for other, weight in enumerate(weights)]) for index in range(3)
    ]
    np.testing.assert_allclose(ensemble.added(Plan(), fitted, members, people.label), expected, atol=1e-12)
    assert ensemble.total_weight(weights[1]) == 2.25 and ensemble.total_weight(2) == 2


def test_what_no_other_decides_is_needed():
    people = People(12, seed=0)
    members = [(target, people.probs(target)) for target in ("mask", "gender", "age", "age_group")]
    adds = ensemble.added(Plan(), Fitted(weights=[1, 1, 0, 2]), members, people.label)
    assert np.isposinf(adds[[0, 1, 3]]).all() and np.isfinite(adds[2])
    assert np.isnan(ensemble.added(Plan("stack"), Fitted(), members, people.label)).all()


def test_what_a_member_that_is_left_out_would_add():
    """It enters at the mean weight of those used, (2 + 1.5 + 0.5) / 3 = 4/3."""
    people = People(20, seed=2)
    members = [(target, people.probs(target)) for target in ("gender", "age", "mask")] + [("mask", people.probs("mask", 8))]

    def f1(weights):
        return metrics.macro_f1(people.label, blend.blend(members, weights=weights).argmax(1), 18)

    adds = ensemble.added(Plan(), Fitted(weights=[2, 1.5, 0.5, 0]), members, people.label)
    assert adds[3] == pytest.approx(f1([2, 1.5, 0.5, 4 / 3]) - f1([2, 1.5, 0.5, 0])) and adds[3] != 0


def test_the_table_fits_a_console():
    images = pd.DataFrame({"image": ["a", "b"], "path": ["a", "b"]})
    oof = predictions.oof_table(images, 0, "mask", np.array([[0], [2]]), np.array([[0.6, 0.2, 0.2], [0.6, 0.2, 0.2]]))
    long = "runs/10-AdamP-CosineAnnealingWarmRestarts-0.6*FL+0.4*F1-v10-mask_5fold"
    found = [Member(long, Path(), "mask", "all", folds=[0, 1, 2, 3, 4], oof=oof),
             Member("runs/short:fold2", Path(), "age_group", [2], folds=[2])]  # fmt: skip
    head, first, second = ensemble.contributions_table(found, [{"mask": 0.25}, 0], [0.0123, 0.01])
    assert max(map(len, (head, first, second))) <= 100
    assert head.split() == ["member", "#", "target", "folds", "scored", "on", "own", "F1", "weight", "adds"]
    assert first.split()[2:] == ["mask", *"01234", "mask", "0.3333", "0.25", "+0.0123"]  # F1 2/3 and 0 of the two classes
    assert second.split() == ["runs/short:fold2", "2", "age_group", "2", "age_group", "–", "0", "(+0.0100)"]


# ---- advice -----------------------------------------------------------------------------------------------------------

NAMES = [f"{index}.jpg" for index in range(10)]


@pytest.fixture(scope="module")
def people():
    return People(100, seed=3)


@pytest.fixture
def write(people, tmp_path):
    """write(name, wrong, answers) -> a result folder that is wrong on the images `wrong`, and its oof.csv table."""

    def result(name, wrong, answers=0, images=None):
        pred = np.where(wrong, (people.label + 1) % 18, people.label)
        names = images or [f"{path}/{KINDS[index % 7]}.jpg" for index, path in enumerate(people.path)]
        rows = pd.DataFrame({"image": names, "path": people.path})
        oof = predictions.oof_table(rows, 0, "label", people.label[:, None], (0.01 + np.eye(18)[pred]) / 1.18)
        folder = tmp_path / name
        folder.mkdir()
        oof.to_csv(folder / "oof.csv", index=False)
        pd.DataFrame({"ImageID": NAMES, "ans": [answers] * 5 + [0] * 5}).to_csv(folder / "submission.csv", index=False)
        ci = metrics.interval(metrics.bootstrap_f1(people.label, pred, people.path, 18, 200))
        f1 = metrics.macro_f1(people.label, pred, 18)
        (folder / "score.json").write_text(json.dumps({"oof_f1": f1, "oof_f1_ci95": ci}))
        return folder, oof

    return result


def test_the_second_is_as_good_and_errs_elsewhere(people, write, tmp_path):
    """`b` errs where `a` does and twice more, `c` on as many other images, `far` on many more: its errors are least like
    those of `a`, but it is worse by more than noise. Five of ten answers of `c` differ."""
    wrong = np.arange(700) % 7 == 0
    write("a", wrong & (np.arange(700) >= 14))
    write("b", wrong)
    write("far", (np.arange(700) % 7 == 3) | (np.arange(700) % 7 == 5))
    folder, oof = write("c", np.arange(700) % 7 == 4, answers=1)
    first, second, lines = ensemble.advise(folder, oof.sample(frac=1, random_state=0), NAMES)
    assert (first.folder.name, second.folder.name) == ("a", "c")
    told, phi = "\n".join(lines), np.corrcoef(wrong & (np.arange(700) >= 14), np.arange(700) % 7 == 4)[0, 1]
    assert f"1  {tmp_path / 'a'}: macro F1 {first.f1:.4f}" in told and f"2  {tmp_path / 'c'}: macro F1" in told
    assert f"lower by {first.f1 - second.f1:.4f} (95 % CI" in told and "noise" in told
    assert f"correlation {phi:.2f}, 50.0% of answers differ" in told


def test_the_gap_is_that_of_people_and_answers_are_joined_by_name(people, write, tmp_path):
    """c answers 1 on the first five eval images; a does so too, with its rows in reverse: no answer differs."""
    wrong_a, wrong_c = np.arange(700) % 7 == 0, np.isin(np.arange(700) % 7, (3, 4)) & (np.arange(700) < 400)
    folder, oof = write("a", wrong_a)
    other, _oof = write("c", wrong_c, answers=1)
    pd.read_csv(other / "submission.csv").iloc[::-1].to_csv(folder / "submission.csv", index=False)
    first, second, lines = ensemble.advise(folder, oof, NAMES)
    assert (first.folder, second.folder) == (folder, other) and "0.0% of answers differ" in lines[-1]
    preds = [np.where(wrong, (people.label + 1) % 18, people.label) for wrong in (wrong_a, wrong_c)]
    low, high = metrics.interval(metrics.bootstrap_difference(people.label, *preds, people.path, 18))
    assert f"(95 % CI {low:+.4f} .. {high:+.4f}: noise)" in lines[-2]


def test_a_result_that_is_surely_worse_is_no_second(people, write):
    """`b` errs where `a` does and on one image more of every fifth person: its interval overlaps that of `a`, yet in nearly
    every draw of people it is worse."""
    wrong = np.arange(700) % 7 == 0
    folder, oof = write("a", wrong)
    write("b", wrong | (np.arange(700) % 35 == 8))
    (f1, half, _a), (other_f1, other_half, _b) = ensemble.scored_folders(folder.parent)
    assert f1 - other_f1 < half + other_half
    assert ensemble.advise(folder, oof, NAMES)[1] is None


def test_scored_folders_have_half_the_width_of_their_interval(write, tmp_path):
    for name, f1, ci in (("low", 0.5, [0.4, 0.64]), ("high", 0.7, [0.6, 0.8])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "score.json").write_text(json.dumps({"oof_f1": f1, "oof_f1_ci95": ci}))
    assert ensemble.scored_folders(tmp_path) == [
        (0.7, pytest.approx(0.1), tmp_path / "high"),
        (0.5, pytest.approx(0.12), tmp_path / "low"),
    ]


def test_errors_of_a_faultless_result_are_like_no_others(people, write):
    folder, oof = write("a", np.zeros(700, dtype=bool))
    write("b", np.arange(700) == 3)
    _first, second, lines = ensemble.advise(folder, oof, NAMES)
    assert second.folder.name == "b" and "correlation 0.00" in lines[-1]


def test_what_needs_leave_is_told_and_what_does_not_beside_it(people, write, tmp_path):
    """`joined` is best but made with --persons; `a` and `b` need nobody's leave."""
    wrong = np.arange(700) % 7 == 0
    folder, oof = write("a", wrong)
    write("b", np.roll(wrong, 1))
    write("joined", wrong & (np.arange(700) >= 70))
    (tmp_path / "joined" / "recipe.yaml").write_text('{"persons": true}')
    (tmp_path / "b" / "recipe.yaml").write_text('{"persons": false, "members": [{"run": "gone"}]}')
    told = ensemble.advise(folder, oof, NAMES)[2]
    assert told[1].startswith(f"  1  {tmp_path / 'joined'} (--persons): macro F1")
    at = told.index("  --persons joins images, which the contest's rules must allow; without it:")
    assert f"  1  {tmp_path / 'a'}: macro F1" in told[at + 1] and f"  2  {tmp_path / 'b'}: macro F1" in told[at + 2]
    for name in "ab":
        (tmp_path / name / "recipe.yaml").write_text('{"persons": true}')
    assert ensemble.advise(folder, oof, NAMES)[2][-1] == "  none: combine members without --persons"


def test_nothing_to_choose_from(people, write, tmp_path):
    wrong = np.arange(700) % 7 == 0
    folder, oof = write("a", wrong)
    write("other images", wrong, images=[f"{index}.jpg" for index in range(700)])
    for name, text in (("unscored", '{"oof_f1": null, "oof_f1_ci95": null}'), ("broken", "{"), ("a list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "score.json").write_text(text)
    (tmp_path / "other images" / "notes.txt").write_text("")
    other, _oof = write("other eval images", wrong)
    pd.DataFrame({"ImageID": [f"x{name}" for name in NAMES], "ans": 0}).to_csv(other / "submission.csv", index=False)
    assert ensemble.advise(folder, oof, NAMES) is None
    write("bad", np.arange(700) % 7 != 1)
    first, second, lines = ensemble.advise(folder, oof, NAMES)
    assert first.folder == folder and second is None
    assert "all else is worse by more than noise, or the same again" in lines[-1]
    assert ensemble.advise(folder, oof, [*NAMES, "one more.jpg"]) is None


# ---- persons ----------------------------------------------------------------------------------------------------------


def test_sharing_by_hand():
    """Images 0 and 2 are one person: their gender is the mean of 0.9 and 0.5, their masks stay; image 1 is alone."""
    groups = np.array([0, 1, 0])
    gender = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    np.testing.assert_allclose(ensemble.share_probs("gender", gender, groups), [[0.7, 0.3], [0.2, 0.8], [0.7, 0.3]])
    mask = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(ensemble.share_probs("mask", mask, groups), mask)
    age_group = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    multi = ensemble.share_probs("multi", np.hstack([mask, gender, age_group]), groups)
    expected = np.hstack([mask, [[0.7, 0.3], [0.2, 0.8], [0.7, 0.3]], [[0.5, 0.25, 0.25], [0, 1, 0], [0.5, 0.25, 0.25]]])
    np.testing.assert_allclose(multi, expected)
    ages = np.eye(43)[[0, 1, 42]]
    np.testing.assert_allclose(ensemble.share_probs("age", ages, groups)[2], (ages[0] + ages[2]) / 2)


def test_sharing_the_18_classes():
    """The mask's marginal is the image's own, that of gender and age the group's mean, and they are independent but alone."""
    rng, groups = np.random.default_rng(0), np.array([0, 1, 0, 2, 2, 2])
    label = rng.dirichlet(np.ones(18), 6)
    shared = ensemble.share_probs("label", label, groups)
    before, after = marginals(label), marginals(shared)
    np.testing.assert_allclose(after["mask"], before["mask"])
    for part in ("gender", "age_group"):
        for number in range(3):
            np.testing.assert_allclose(
                after[part][groups == number], before[part][groups == number].mean(0)[None].repeat((groups == number).sum(), 0)
            )
    np.testing.assert_array_equal(shared[1], label[1])
    rest = label.reshape(6, 3, 6).sum(1)[[0, 2]].mean(0)
    np.testing.assert_allclose(shared[0], np.outer(before["mask"][0], rest).ravel())


def test_pair_scores_by_hand():
    """a a a b in groups 0 0 1 1: of the pairs 01 and 23 the first is right, of the three pairs of `a` one is found."""
    assert ensemble.pair_scores(np.array([0, 0, 1, 1]), ["a", "a", "a", "b"]) == (0.5, round(1 / 3, 6))
    assert ensemble.pair_scores(np.array([0, 1]), ["a", "a"]) == (0, 0)
    assert ensemble.pair_scores(np.array([5, 5, 2]), ["x", "x", "y"]) == (1, 1)


def test_an_ensemble_shares_within_groups_and_writes_them_down(runs, places, tmp_path, capsys):
    """The recipe, persons.csv and the members' predictions give the answers; the gain is that over the plain average."""

    def mean_of(run, table):
        """oof.csv, or the mean of the folds' eval.csv: RUN/eval.csv is of the folds that were asked for last."""
        if table == "oof.csv":
            return pd.read_csv(run / table)
        return pd.concat([pd.read_csv(file) for file in run.glob("fold*/eval.csv")]).groupby("ImageID").mean().reset_index()

    members = [runs["multi"], runs["label"]]
    plain = ["--models", *map(str, members), *places]
    assert ensemble.main([*plain, "--name", "plain"]) == 0
    assert ensemble.main([*plain, "--name", "shared", "--persons"]) == 0
    folder, before = tmp_path / "submissions" / "shared", tmp_path / "submissions" / "plain"
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["persons"] is True
    for table, key, groups_file in (("eval.csv", "ImageID", "persons.csv"), ("oof.csv", "image", "oof_persons.csv")):
        made, groups = pd.read_csv(folder / table), pd.read_csv(folder / groups_file)
        assert groups["image"].tolist() == made[key].tolist() and groups["group"].value_counts().max() <= 7
        multi, label = (
            ensemble.share_probs(
                target,
                mean_of(run, table).set_index(key).loc[made[key], dataset.columns(target)].to_numpy(),
                groups["group"].to_numpy(),
            )
            for target, run in zip(("multi", "label"), members)
        )
        product = (multi[:, :3, None, None] * multi[:, None, 3:5, None] * multi[:, None, None, 5:]).reshape(-1, 18)
        np.testing.assert_allclose(made[dataset.columns("label")], (product + label) / 2, rtol=1e-4, atol=1e-6)
    score, plain_score = (json.loads((each / "score.json").read_text()) for each in (folder, before))
    assert score["plain_f1"] == plain_score["oof_f1"] and score["gain"] == pytest.approx(
        score["oof_f1"] - score["plain_f1"], abs=2e-6
    )
    groups = pd.read_csv(folder / "oof_persons.csv")
    precision, recall = ensemble.pair_scores(groups["group"].to_numpy(), groups["image"].str.partition("/")[0])
    assert (score["pair_precision"], score["pair_recall"]) == (precision, recall) and "pair_recall" not in plain_score
    out = " ".join(capsys.readouterr().out.partition("submissions/plain/submission.csv")[2].split())
    assert f"of the pairs in a group {precision:.1%} are of one person, of the pairs of a person {recall:.1%}" in out
    assert "the contest's rules to say: ask before you hand it in" in out and f"gain {score['gain']:+.4f}" in out
    assert not (before / "persons.csv").exists()


def test_without_out_of_fold_predictions_only_eval_images_are_grouped(fit, places, tmp_path, capsys):
    run = fit("--kfold", "0", "--target", "label", name="nofold_for_persons")
    assert ensemble.main(["--models", str(run), "--name", "unscored", "--persons", *places]) == 0
    names = {path.name for path in (tmp_path / "submissions" / "unscored").iterdir()}
    assert "persons.csv" in names and "oof_persons.csv" not in names
    assert "of the pairs in a group" not in capsys.readouterr().out


def test_without_a_data_folder_no_demo_set_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "DATA_PLACES", ())
    with pytest.raises(InputError, match=r"--persons: looks at the images, and there is no data folder here; give --data-dir"):
        ensemble.find_persons(["a.jpg"], None, SimpleNamespace(data_dir=None))
    assert not list(tmp_path.iterdir())
