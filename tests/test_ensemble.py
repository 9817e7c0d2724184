"""ensemble.py: its folder, its score, and what it refuses."""

import functools
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import yaml
from simulated import People, eval_names, write_data, write_run

import blend
import dataset
import ensemble
import errors
import inference
import metrics
import predictions
from blend import Plan
from dataset import HEADS, age_group_probs, combine, head_slices, marginals


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
    predictions.write_run_eval(copy, "mask", [0], "none")
    (copy / "eval.json").unlink()
    tables, folds = predictions.read_eval(predictions.open_source(str(copy)))
    assert folds == [0, 1]
    pd.testing.assert_frame_equal(predictions.mean(tables, "mask"), predictions.fold_mean(copy, "mask", [0, 1], "none"))


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
    (["*"], [], ["label", "multi", "nofold"], "passed over, 2 of what patterns match: many/quick (other train images than many/label); "
     "many/trains (fold not complete)\n"),
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
    monkeypatch.setattr(blend, "greedy", lambda *_args, **_options: ([1 / 3, 2 / 3, 0.0], path))
    _folder, recipe, _score = blend_of("label", "multi", "weak", options=["--search", "greedy"])
    assert [member["weight"] for member in recipe["members"]] == [0.333333, 0.666667, 0]
    runs = [Path(step["run"]).name for step in recipe["path"]]
    assert (runs, [step["in_sample_f1"] for step in recipe["path"]]) == (["multi", "label", "multi"], [None, 0.5, 0.6])
    out = capsys.readouterr().out
    assert "more are left out" not in out
    assert "3 is left out: " in out and "greedy path (member, in-sample macro F1): 2 > 1 0.5000 > 2 0.6000" in out


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


def test_options_become_the_plan():
    argv = ["--models", "x", "--decode", "f1", "--seed", "3"]
    assert ensemble.make_plan(ensemble.parse_args(argv)) == Plan(decode="f1", seed=3)
    assert ensemble.make_plan(ensemble.parse_args([*argv, "--temperature"])) == Plan(decode="f1", seed=3, temperature=True)
    assert ensemble.make_plan(ensemble.parse_args([*argv, "--tune-bounds"])).bounds is None
    assert ensemble.make_plan(ensemble.parse_args([*argv, "--age-bounds", "29", "59"])).bounds == (29, 59)


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
