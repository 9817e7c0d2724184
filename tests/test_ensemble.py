"""ensemble.py: its folder, its score, and what it refuses."""

import functools
import json
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
import ensemble
import errors
import experiment
import inference
import metrics
import predictions
from blend import Fitted, Pipeline
from dataset import HEADS, encode
from errors import InputError
from predictions import Member

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def places(shared_data, workplace, tmp_path):
    return ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet",
            "--output-dir", str(tmp_path / "submissions")]  # fmt: skip


def probs(path, target):
    return pd.read_csv(path)[dataset.columns(target)].to_numpy()


def f1(truth, label_probs):
    """Macro F1 of probabilities [N, 18] by scikit-learn, as score.json rounds it."""
    return pytest.approx(sklearn.metrics.f1_score(truth, label_probs.argmax(1), average="macro", zero_division=0), abs=1e-6)


def read(folder):
    """(recipe, scores) of a result folder."""
    return yaml.safe_load((folder / "recipe.yaml").read_text()), json.loads((folder / "score.json").read_text())


def test_three_targets_become_one_scored_submission(runs, places, tmp_path, shared_data, capsys):
    three = [runs[target] for target in ("age_group", "gender", "mask")]
    assert ensemble.main(["--models", *map(str, three), *places]) == 0
    folder = tmp_path / "submissions" / "01-soft-3runs"
    assert {path.name for path in folder.iterdir()} == {"submission.csv", "eval.csv", "oof.csv", "recipe.yaml", "score.json"}
    submission = pd.read_csv(folder / "submission.csv")
    assert submission["ImageID"].tolist() == pd.read_csv(shared_data / "eval" / "info.csv")["ImageID"].tolist()
    expected = blend.combine(*(probs(runs[target] / "eval.csv", target) for target in ("mask", "gender", "age_group")))
    np.testing.assert_array_equal(submission["ans"], expected.argmax(1))
    np.testing.assert_allclose(probs(folder / "eval.csv", "label"), expected, rtol=1e-4, atol=1e-9)
    oof, (recipe, score) = pd.read_csv(folder / "oof.csv"), read(folder)
    official = pd.read_csv(runs["label"] / "oof.csv").set_index("image")["target"]
    assert (oof["target"].to_numpy() == official.loc[oof["image"]].to_numpy()).all()
    assert score["oof_f1"] == f1(oof["target"], probs(folder / "oof.csv", "label"))
    assert score["oof_f1_ci95"][0] <= score["oof_f1"] <= score["oof_f1_ci95"][1]
    assert [member["run"] for member in recipe["members"]] == [str(run) for run in three]
    assert recipe["members"][0] | {"run": None} == {"run": None, "target": "age_group", "folds": [0, 1], "weight": 1}
    out = capsys.readouterr().out
    assert "out-of-fold macro F1 of label" in out and "answers.csv: macro F1" in out


def test_temperatures_are_those_of_the_models_of_single_folds(runs, places, tmp_path):
    """The mean of the folds is taken after them, here of one member."""
    run, folder = runs["label"], tmp_path / "submissions" / "scaled"
    assert ensemble.main(["--models", str(run), "--temperature", "--name", folder.name, *places]) == 0
    temperature = read(folder)[0]["members"][0]["temperature"]["label"]
    powers = [probs(run / f"fold{fold}" / "eval.csv", "label") ** (1 / temperature) for fold in (0, 1)]
    expected = np.mean([each / each.sum(1, keepdims=True) for each in powers], axis=0)
    np.testing.assert_allclose(probs(folder / "eval.csv", "label"), expected, rtol=1e-4, atol=1e-6)


def test_a_mean_of_other_folds_whose_note_is_lost_is_not_taken_for_all(own_run, places):
    """As a kill between the removal of eval.json and the new eval.csv leaves it; the folds are there."""
    for folds in ("all", "0"):
        inference.main(["--models", str(own_run), "--folds", folds, *places[:-2]])
    (own_run / "eval.json").unlink()
    tables, folds = predictions.read_eval(predictions.open_member(str(own_run)))
    assert folds == [0, 1] and len(tables) == 2


def saved(run):
    """What others may read of a run, with its bytes."""
    return {path.relative_to(run): path.read_bytes() for name in ("eval*", "submission.csv", "fold*/eval*") for path in run.glob(name)}  # fmt: skip


@pytest.fixture
def own_run(runs, tmp_path):
    """A copy of the label run without predictions, which a test may change."""
    return Path(shutil.copytree(runs["label"], tmp_path / "own", ignore=shutil.ignore_patterns("eval*", "submission.csv")))


def other_eval(data, place, change):
    """Make a data folder with changed ImageIDs, which are returned; `new.jpg` shows what the first image shows."""
    names = pd.read_csv(data / "eval" / "info.csv")["ImageID"].tolist()
    shutil.copytree(data / "eval" / "images", place / "eval" / "images")
    shutil.copy(place / "eval" / "images" / names[0], place / "eval" / "images" / "new.jpg")
    (place / "train").symlink_to(data / "train")
    pd.DataFrame({"ImageID": EVALS[change](names), "ans": 0}).to_csv(place / "eval" / "info.csv", index=False)
    return EVALS[change](names)


EVALS = {"grown": lambda names: [*names, "new.jpg"], "reordered": lambda names: names[::-1], "shrunk": lambda names: names[3:] + names[:1]}  # fmt: skip


@pytest.mark.parametrize(("change", "folds"), [
    ("grown", ""), ("grown", ":fold1"), ("grown", " --folds best --temperature"),
    ("reordered", ""), ("reordered", " --temperature"), ("shrunk", " --folds best"),
])  # fmt: skip
def test_the_submission_follows_info_csv(own_run, places, shared_data, tmp_path, capsys, change, folds):
    """Example: inference.py predicted before the eval set was changed. What can be told from what is saved is not made anew."""
    inference.main(["--models", str(own_run), *places[:-2]])
    before, predicted, place = saved(own_run), pd.read_csv(own_run / "eval.csv")["ImageID"], tmp_path / "other"
    names = other_eval(shared_data, place, change)
    capsys.readouterr()
    argv = ["--models", *f"{own_run}{folds}".split(), *places, "--data-dir", str(place), "--name", "followed"]
    assert ensemble.main(argv) == 0
    info, answers = place / "eval" / "info.csv", pd.read_csv(tmp_path / "submissions" / "followed" / "submission.csv")
    assert answers["ImageID"].tolist() == names == pd.read_csv(info)["ImageID"].tolist()
    err, gone = capsys.readouterr().err, min(set(predicted) - set(names), default="")
    assert ("predicted anew" in err) == (change == "grown") and "no data folder" not in err
    told = f"left out of eval.csv: 2 of its images, such as {gone}, not in {info} any more"
    assert (told in err) == (change == "shrunk")
    if change == "grown":
        assert f"own{folds.partition(' ')[0]} lacks 1 of the 21 images of {info}, such as new.jpg" in err
        assert answers["ans"].iloc[-1] == answers["ans"].iloc[0]  # new.jpg shows the same
        rows = 20 if "fold" in folds else 21  # another choice of folds than RUN/eval.csv is of
        assert len(pd.read_csv(own_run / "eval.csv")) == rows == len(pd.read_csv(own_run / "submission.csv"))
    else:
        assert saved(own_run) == before


def test_folds_that_were_predicted_in_other_orders_are_joined_by_name(own_run, places, shared_data, tmp_path):
    """Variant: info.csv was reordered between two calls of inference.py, and nobody says where the data is."""
    inference.main(["--models", str(own_run), *places[:-2]])
    expected = pd.read_csv(own_run / "eval.csv", index_col="ImageID")
    other_eval(shared_data, place := tmp_path / "other", "reordered")
    inference.main(["--models", str(own_run), "--folds", "1", *places[2:-2], "--data-dir", str(place)])
    for data in (shared_data, place):
        assert ensemble.main(["--models", str(own_run), *places[2:], "--data-dir", str(data), "--name", data.name]) == 0
        table = pd.read_csv(tmp_path / "submissions" / data.name / "eval.csv", index_col="ImageID")
        np.testing.assert_allclose(table.loc[expected.index], expected, rtol=1e-4, atol=1e-6)


def test_labels_and_people_are_those_of_train_csv(blend_of, tmp_path, capsys):
    """Two people left, one's gender was set right. Without a data folder, or with another day's demo set, nothing is checked."""
    held, train = People(40, seed=6), People(60, seed=5)
    _folder, _recipe, before = blend_of("multi", "mask", name="before")
    write_data(tmp_path / "data-demo", People(8, seed=7), ["demo.jpg"])
    blend_of("label", name="demo")
    told = "no data folder here: predictions are not held against its info.csv and train.csv; --data-dir DIR names one\n"
    assert capsys.readouterr().err.count(told) == 2
    csv = write_data(tmp_path / "data", train, eval_names(held)) / "train" / "train.csv"
    head, third, *rows = [row for number, row in enumerate(csv.read_text().splitlines()) if number not in (1, 2)]
    csv.write_text("\n".join([head, third.replace(",male,", ",female,"), *rows]))
    folder, _recipe, score = blend_of("multi", "mask", name="after")
    err = capsys.readouterr().err
    assert "left out of oof.csv: 14 of its images, whose people are not in data/train/train.csv any more\n" in err
    assert "7 images of oof.csv have other labels in data/train/train.csv now: those count\n" in err
    oof = pd.read_csv(folder / "oof.csv")
    assert oof["target"].tolist() == [*(train.label[14:21] + 3), *train.label[21:]] and score["oof_f1"] != before["oof_f1"]


@pytest.mark.parametrize(("name", "change", "message"), [
    ("label", "grown", "label/eval.csv: lacks 1 of the 281 images of data/eval/info.csv, such as new.jpg; bring it along anew"),
    ("inner", "grown", "inner/eval.csv: lacks 1 of the 281 images of data/eval/info.csv, such as new.jpg; make the ensemble anew"),
    ("label", "reordered", None), ("inner", "shrunk", None),
])  # fmt: skip
def test_what_can_not_be_predicted_anew(blend_of, simulated, tmp_path, capsys, name, change, message):
    """Variant: runs that were brought along without their folds, and ensembles as members, with cross-fitted predictions."""
    inner, _recipe, score = blend_of("label", "multi", options=["--search", "weights"], name="inner")
    names = EVALS[change](eval_names(People(40, seed=6)))
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
        again = read(tmp_path / "submissions" / "e")[1]
        assert again["in_sample_f1"] is None and (again["oof_f1"] == score["oof_f1"]) == (name == "inner")


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
    assert saved(own_run) == saved(again) and Path("submission.csv") in saved(own_run)
    for name in ("eval.csv", "eval.json", "submission.csv"):  # as --pseudo leaves its teacher, with the folds' own alone
        (own_run / name).unlink()
    assert ensemble.main(["--models", str(own_run), "--name", "again", *places]) == 0
    assert saved(own_run) == saved(again)


@pytest.mark.parametrize("folds", ["best", "all"])
def test_a_refusal_changes_nothing(own_run, places, simulated, tmp_path, folds):
    """Example: --folds best, refused, had made RUN/eval.csv the best fold's. Variant: predictions that are not there yet."""
    other = simulated["multi"]
    if folds == "best":
        inference.main(["--models", str(own_run), *places[:-2]])
    else:
        other = Path(shutil.copytree(simulated["label"], tmp_path / "copy", ignore=shutil.ignore_patterns("oof.csv")))
    before = saved(own_run), saved(other)
    assert errors.run(lambda: ensemble.main(["--models", str(own_run), str(other), "--folds", folds, *places])) == 2
    assert (saved(own_run), saved(other)) == before and not (tmp_path / "submissions").exists()


@pytest.fixture
def many(simulated, tmp_path, monkeypatch):
    """A folder of runs as a fortnight leaves them: two label runs, one without validation, a quick look, one that trains."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "many"
    for name in ("label", "multi", "nofold"):
        shutil.copytree(simulated[name.replace("nofold", "weak")], place / name)
    (place / "nofold" / "oof.csv").unlink()
    write_run(place / "quick", "label", People(12, seed=3), People(40, seed=6))
    shutil.copytree(place / "label", place / "trains", ignore=shutil.ignore_patterns("*.csv"))


@pytest.mark.parametrize(("models", "options", "taken", "told"), [
    (["*"], ["--temperature"], ["label", "multi"], "skipped, 3 of what patterns match: many/nofold, many/trains (no oof.csv); "
     "many/quick (other train images than many/label)\n"),
    (["*"], [], ["label", "multi", "nofold"], "skipped, 2 of what patterns match: many/trains (fold not complete); "
     "many/quick (other train images than many/label)\n"),
    (["q*", "quick", "[ln]*"], [], ["quick", "nofold"], "skipped, 1 of what patterns match: many/label (other train images than many/quick)"),
])  # fmt: skip
def test_patterns_pass_over_what_can_not_take_part(many, tmp_path, capsys, models, options, taken, told):
    """What needs no fit takes a nofold run too; to a quick look that is named the others have to fit."""
    assert ensemble.main(["--models", *(f"many/{each}" for each in models), "--name", "e", "--quiet", *options]) == 0
    recipe, _score = read(tmp_path / "submissions" / "e")
    assert [member["run"] for member in recipe["members"]] == [f"many/{name}" for name in taken]
    assert told in capsys.readouterr().err


def test_what_is_named_stays_an_error(many, capsys):
    for named, message in (
        (["many/nofold", "--decode", "f1"], "--decode f1: needs out-of-fold predictions, and many/nofold has no oof.csv"),
        (["many/quick"], "many/quick and many/multi: their oof.csv hold different images"),
        (["many/trains"], "many/trains: no fold is complete"),
    ):
        assert errors.run(lambda named=named: ensemble.main(["--models", "many/m*", "many/label", *named])) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_without_out_of_fold_predictions_there_is_no_score_and_only_eval_images_are_grouped(fit, places, tmp_path, capsys):
    run = fit("--kfold", "0", "--target", "label", name="nofold_for_ensemble")
    assert ensemble.main(["--models", str(run), "--name", "unscored", "--persons", *places]) == 0
    names = {path.name for path in (tmp_path / "submissions" / "unscored").iterdir()}
    assert "persons.csv" in names and not names & {"oof.csv", "oof_persons.csv"}
    out = capsys.readouterr().out
    assert "no out-of-fold score" in out and "of the pairs in a group" not in out


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """{target: run folder} of simulated runs; `again` is a copy of the label run, `weak` a label run of noise."""
    root, train, held = tmp_path_factory.mktemp("simulated") / "runs", People(60, seed=5), People(40, seed=6)
    folders = {target: write_run(root / target, target, train, held) for target in HEADS}
    again = Path(shutil.copytree(folders["label"], root / "again"))
    return folders | {"weak": write_run(root / "weak", "label", train, held, noise=40), "again": again}


@pytest.fixture
def blend_of(simulated, tmp_path, monkeypatch):
    """blend_of("label", "mask", options=[...]) -> (result folder, recipe, score) of these simulated runs."""
    monkeypatch.chdir(tmp_path)  # no data folder is there, and none is needed

    def run(*names, options=(), name="result", where="submissions"):
        argv = ["--models", *(str(simulated[each]) for each in names), "--output-dir", str(tmp_path / where)]
        assert ensemble.main([*argv, "--name", name, "--quiet", *options]) == 0
        return tmp_path / where / name, *read(tmp_path / where / name)

    return run


def by_recipe(recipe, table, factors=None):
    """Probabilities [N, 18] by a recipe and the tables of its members."""
    given = [(member["target"], probs(Path(member["run"]) / table, member["target"])) for member in recipe["members"]]
    temperatures, weights = ([member.get(key) for member in recipe["members"]] for key in ("temperature", "weight"))
    given = blend.scale_members(given, temperatures if all(temperatures) else None)
    blended = blend.blend(given, recipe["method"], recipe["age_bounds"], weights)
    biased = blended * recipe.get("biases", np.ones(18)) * np.repeat(recipe.get(factors, np.ones(3)), 6)
    return biased / biased.sum(1, keepdims=True)


@pytest.mark.parametrize("options", [
    ["--search", "weights", "--tune-bounds", "--decode", "f1"], ["--search", "greedy"],
    ["--tune-bounds", "--temperature", "--explain"], ["--method", "hard", "--age-bounds", "29", "59"],
], ids=" ".join)  # fmt: skip
def test_the_recipe_alone_gives_the_submission(blend_of, options, capsys, monkeypatch):
    monkeypatch.setattr(metrics, "fit_class_factors", functools.partial(metrics.fit_class_factors, rounds=2))
    others = ["weak", "age_group"] if "greedy" in options else ["label", "multi"]
    folder, recipe, score = blend_of("age", "mask", "gender", *others, options=options)
    expected, truth = by_recipe(recipe, "eval.csv"), pd.read_csv(folder / "oof.csv")["target"]
    np.testing.assert_array_equal(pd.read_csv(folder / "submission.csv")["ans"], expected.argmax(1))
    np.testing.assert_allclose(probs(folder / "eval.csv", "label"), expected, rtol=1e-4, atol=1e-6)
    assert score["oof_f1"] == f1(truth, probs(folder / "oof.csv", "label"))
    plain = [{"run": member["run"], "target": member["target"], "weight": 1} for member in recipe["members"]]
    assert score["plain_f1"] == f1(truth, by_recipe({"method": "soft", "members": plain, "age_bounds": [30, 60]}, "oof.csv"))
    assert (folder / "bounds.png").exists() == recipe["tune_bounds"] == ("--tune-bounds" in options)
    assert len(recipe.get("crossfit_bounds", [])) == 5 * recipe["tune_bounds"]
    out, (low, high) = capsys.readouterr().out, score["gain_ci95"]
    if "hard" in options:
        assert score["in_sample_f1"] is None and "cross-fitted" not in out
    else:
        assert score["in_sample_f1"] == f1(truth, by_recipe(recipe, "oof.csv"))
        assert "cross-fitted" in out and f"in-sample {score['in_sample_f1']:.4f}" in out
        assert ("people is scored by" in out) == ("optimistic" in out) == ("--explain" in options)
    weights, steps = [member["weight"] for member in recipe["members"]], [step["run"] for step in recipe.get("path", ())]
    assert ("greedy" in options) == bool(steps) == ("(in brackets: left out" in out) == (0 in weights)
    if steps:  # each member weighs as often as it stands there; without the third a component is undecided
        assert weights == pytest.approx([steps.count(member["run"]) / len(steps) for member in recipe["members"]], abs=1e-6)
        first, second, *_rest, last = (step["in_sample_f1"] for step in recipe["path"])
        assert first is second is None and last == pytest.approx(score["in_sample_f1"], abs=2e-6)
    assert f"gain {score['gain']:+.4f}, 95 % CI {low:+.4f} .. {high:+.4f}: {metrics.verdict(low, high)}" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith(("next:", str(folder)))) <= 100


def test_the_recipe_has_the_factors_of_the_prior(blend_of, capsys):
    """Those of the eval images and those of the out-of-fold images give either's answers."""
    folder, recipe, score = blend_of("mask", "gender", "age", options=["--decode", "prior"])
    for table, factors, counts in (("eval.csv", "mask_factors", [200, 40, 40]), ("oof.csv", "oof_mask_factors", [300, 60, 60])):
        found = probs(folder / table, "label")
        np.testing.assert_allclose(found, by_recipe(recipe, table, factors), rtol=1e-4, atol=1e-6)
        assert np.bincount(found.argmax(1) // 6).tolist() == counts
    captured = capsys.readouterr()
    assert "factors of the mask states for 5:1:1 among the eval images: worn" in captured.out and "warning" not in captured.err
    assert score["in_sample_f1"] is None
    assert captured.out.endswith("next: python leaderboard.py\n")  # a search would find that each of the three is needed


def test_a_stack_is_written_down(blend_of, simulated):
    folder, recipe, _score = blend_of("age", "label", options=["--method", "stack"])
    assert [member["weight"] for member in recipe["members"]] == [None, None]
    table = pd.read_csv(folder / "stack.csv")
    assert table["column"].tolist()[:-1] == dataset.columns("age") + dataset.columns("label") and len(table) == 43 + 18 + 1
    columns = np.hstack([probs(simulated[name] / "eval.csv", name) for name in ("age", "label")])
    *coefficients, intercept = table.iloc[:, 2:].to_numpy(dtype=float)
    logits = np.exp(np.log(np.maximum(columns, blend.LOG_FLOOR)) @ np.array(coefficients) + intercept)
    found = probs(folder / "eval.csv", "label")[:, table.columns[2:].astype(int)]
    np.testing.assert_allclose(found, logits / logits.sum(1, keepdims=True), rtol=1e-3, atol=1e-6)


def test_what_to_hand_in_and_the_next_command(blend_of, simulated, tmp_path, capsys):
    """It keeps the bounds and names the data where that would not be found: a folder with a space, to be pasted as one word."""
    places, handed_in = (f"alone{number}" for number in range(9)), []

    def told(*names, options=(), name="e", where=None):
        blend_of(*names, options=options, name=name, where=where or next(places))
        *lines, last = capsys.readouterr().out.splitlines()
        assert ("the two to hand in at the end:" in lines) == (name != "e")
        handed_in.extend(line.split()[1].rstrip(":") for line in lines if line.startswith(("  1  ", "  2  ")))
        return shlex.split(last.removeprefix("next: python "))

    models = ["ensemble.py", "--models", str(simulated["label"]), str(simulated["multi"]), "--folds", "all", "--tta", "none"]
    greedy, spaced = ["--search", "greedy"], ["--data-dir", "my data"]
    assert told("label", "multi") == models + greedy
    kept = ["--age-bounds", "29", "59", "--decode", "prior"]
    assert told("age", "mask", "gender", "multi", options=kept)[-7:] == [*kept, *greedy]
    assert told("label") == told("label", "multi", options=["--search", "weights"]) == ["leaderboard.py"]
    write_data(tmp_path / "my data", People(60, seed=5), eval_names(People(40, seed=6)))
    assert told("label", "multi", options=spaced) == [*models, *spaced, *greedy]
    told("multi", options=spaced, where="two")
    assert told("label", options=spaced, name="other", where="two") == ["compare.py", *handed_in, *spaced]
    assert sorted(handed_in) == [str(tmp_path / "two" / name) for name in ("e", "other")]
    (tmp_path / "my data").rename(tmp_path / "data")
    assert told("label", "multi", options=["--data-dir", "data"]) == models + greedy


def test_predicted_shares_and_those_that_depart_from_the_prior(capsys):
    """70 images: 50, 10, 10 are expected; one is 1.4 percentage points. Of 210 images 2.1 are borne. Of two genders one says all."""

    def told(*counts):
        ensemble.warn_of_prior(np.repeat(np.eye(18)[[0, 6, 12]], counts, axis=0))
        return " ".join(capsys.readouterr().err.split())

    assert told(50, 10, 10) == told(148, 31, 31) == ""
    shares = "worn 51 (72.9%) for 50 (71.4%), incorrect 9 (12.9%) for 10 (14.3%), not worn 10 (14.3%) for 10 (14.3%)"
    assert told(51, 9, 10) == f"warning: eval images are 5:1:1 by mask, but the predictions are {shares}"
    assert "worn 146 (69.5%) for 150 (71.4%)" in told(146, 32, 32)
    shares = "worn 75.0%, incorrect 0.0%, not worn 25.0%; female 50.0%; <30 75.0%, 30-59 0.0%, >=60 25.0%"
    assert ensemble.predicted_shares(np.eye(18)[[0, 0, 3, 17]]) == shares


def test_what_a_member_adds_by_hand():
    """The blend is right on all four; without the first the second errs on one of class 1: F1 of classes 0, 1, 2 is
    1 (2 * 1 / 2), 2/3 (2 * 1 / 3) and 2/3 (2 * 1 / 3), mean 7/9. So the first adds 2/9 and the second nothing."""
    truth, pred = (np.eye(18)[encode(0, 0, np.array(ages))] for ages in ([0, 1, 2, 1], [0, 1, 2, 2]))
    members = [("label", 0.1 / 18 + 0.9 * truth), ("label", 0.5 / 18 + 0.5 * pred)]
    np.testing.assert_allclose(ensemble.added(Pipeline(), Fitted(), members, truth.argmax(1)), [2 / 9, 0], atol=1e-12)
    assert np.isnan(ensemble.added(Pipeline("stack"), Fitted(), members, truth.argmax(1))).all()
    members = [(target, np.eye(18)[:4, :C]) for target, C in (("mask", 3), ("gender", 2), ("age_group", 3), ("age_group", 3))]
    adds = ensemble.added(Pipeline(), Fitted(weights=[1, 1, 0, 2]), members, truth.argmax(1))
    assert np.isposinf(adds[[0, 1, 3]]).all() and np.isfinite(adds[2])  # no other decides what these do


def test_what_a_member_adds_is_at_the_others_weights_and_class_factors():
    """One without weight enters at the mean weight of the others, (0.5 + 2.25 + 1.25) / 3 = 4/3."""
    people = People(20, seed=2)
    members = [(target, people.probs(target, 3)) for target in ("label", "multi", "label", "mask")]
    weights = [0.5, {"mask": 2.0, "gender": 0.25, "age_group": 0.0}, 1.25, 0]
    fitted = Fitted(weights=weights, class_factors=np.linspace(0.1, 3, 18))

    def score(index, weight):
        changed = [*weights[:index], weight, *weights[index + 1 :]]
        label_probs = blend.blend(members, weights=changed) * fitted.class_factors
        return metrics.macro_f1(people.label, label_probs.argmax(1), 18)

    whole = score(3, 0)
    expected = [*(whole - score(index, 0) for index in range(3)), score(3, 4 / 3) - whole]
    np.testing.assert_allclose(ensemble.added(Pipeline(), fitted, members, people.label), expected, atol=1e-12)
    assert all(expected)


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


NAMES, PEOPLE = [f"{index}.jpg" for index in range(10)], People(100, seed=3)


@pytest.fixture
def write(tmp_path):
    """write(name, wrong, answers) -> a result folder that is wrong on the images `wrong`, and its oof.csv table."""

    def result(name, wrong, answers=0, images=None):
        folder, pred = tmp_path / name, np.where(wrong, (PEOPLE.label + 1) % 18, PEOPLE.label)
        folder.mkdir()
        names = images or [f"{path}/{KINDS[index % 7]}.jpg" for index, path in enumerate(PEOPLE.path)]
        rows = pd.DataFrame({"image": names, "path": PEOPLE.path})
        oof = predictions.oof_table(rows, 0, "label", PEOPLE.label[:, None], (0.01 + np.eye(18)[pred]) / 1.18)
        oof.to_csv(folder / "oof.csv", index=False)
        pd.DataFrame({"ImageID": NAMES, "ans": [answers] * 5 + [0] * 5}).to_csv(folder / "submission.csv", index=False)
        ci = metrics.interval(metrics.bootstrap_f1(PEOPLE.label, pred, PEOPLE.path, 18, 200))
        score = {"oof_f1": metrics.macro_f1(PEOPLE.label, pred, 18), "oof_f1_ci95": ci}
        (folder / "score.json").write_text(json.dumps(score))
        (folder / "recipe.yaml").write_text("{}")
        return folder, oof.rename(columns={"target": "truth"})

    return result


def test_the_second_is_as_good_and_errs_elsewhere(write, tmp_path):
    """`b` errs where `a` does and twice more, `c` on as many other images, `far` on many more: its errors are least like those of
    `a`, but it is worse by more than noise. Five of ten answers of `c` differ. Rows are joined by name, in whatever order."""
    wrong_a, wrong_c = (np.arange(700) % 7 == 0) & (np.arange(700) >= 14), np.arange(700) % 7 == 4
    write("a", wrong_a, answers=2)
    write("b", np.arange(700) % 7 == 0)
    write("far", (np.arange(700) % 7 == 3) | (np.arange(700) % 7 == 5))
    folder, oof = write("c", wrong_c, answers=1)
    pd.read_csv(folder / "submission.csv").iloc[::-1].to_csv(folder / "submission.csv", index=False)
    oof = oof.sample(frac=1, random_state=0)
    first, second, lines = ensemble.advise(folder, oof, NAMES)
    assert (first.folder, second.folder) == (tmp_path / "a", folder)
    preds = [np.where(wrong, (PEOPLE.label + 1) % 18, PEOPLE.label)[oof.index] for wrong in (wrong_a, wrong_c)]
    low, high = metrics.interval(metrics.bootstrap_difference(oof["truth"], *preds, oof["path"].to_numpy(), 18))
    gap = f"lower by {first.f1 - second.f1:.4f} (95 % CI {low:+.4f} .. {high:+.4f}: noise)"
    like = f"correlation {np.corrcoef(wrong_a, wrong_c)[0, 1]:.2f}, 50.0% of answers differ"
    assert lines[1:] == [f"  1  {tmp_path / 'a'}: macro F1 {first.f1:.4f}, the highest",
                         f"  2  {folder}: macro F1 {second.f1:.4f}, {gap};", f"     its errors are least like those of 1: {like}"]  # fmt: skip


def test_what_needs_leave_is_told_and_what_does_not_beside_it(write, tmp_path):
    """`joined` is faultless but made with --persons; `a` and `b` need nobody's leave. No errors are like no others."""
    folder, oof = write("a", np.arange(700) == 3, answers=1)
    write("b", np.arange(700) == 4, answers=2)
    write("joined", np.zeros(700, dtype=bool))
    for name in ("joined", "a", "b"):
        (tmp_path / name / "recipe.yaml").write_text(json.dumps({"persons": name == "joined", "members": [{"run": "gone"}]}))
    told = ensemble.advise(folder, oof, NAMES)[2]
    assert told[1].startswith(f"  1  {tmp_path / 'joined'} (--persons): macro F1") and "correlation 0.00" in told[3]
    at = told.index("  --persons joins images, which the contest's rules must allow; without it:")
    assert f"  1  {tmp_path / 'a'}: macro F1" in told[at + 1] and f"  2  {tmp_path / 'b'}: macro F1" in told[at + 2]
    for name in "ab":
        (tmp_path / name / "recipe.yaml").write_text('{"persons": true}')
    assert ensemble.advise(folder, oof, NAMES)[2][-1] == "  none: combine members without --persons"


def test_the_forecast_goes_by_the_scores_of_those_beside_it(write, tmp_path, capsys):
    """`b` errs as `a` does: what `a` scored above the forecast it is expected to score too. A damaged score counts for nothing."""
    lines = []
    for answers, name in enumerate(("a", "b")):
        folder, _oof = write(name, np.arange(700) % 5 == 0, answers)
        (folder / "recipe.yaml").write_text('{"members": [{"run": "gone", "target": "label", "folds": [0, 1, 2, 3]}]}')
    for score in ("{", '{"lb": 0.9, "history": []}'):
        (tmp_path / "a" / "lb.json").write_text(score)
        ensemble.say_forecast(folder)
        lines.append(capsys.readouterr().out.split())
    f1 = json.loads((folder / "score.json").read_text())["oof_f1"]
    assert float(lines[0][5]) == pytest.approx(f1 + 0.75 * metrics.GAIN, abs=6e-4) and lines[0][-2] == ".."
    assert 0.89 < float(lines[1][5]) <= 0.9 and " ".join(lines[1][-9:-1]) == "chance of beating 0.9000, the best beside it:"
    (folder / "oof.csv").unlink()
    ensemble.say_forecast(folder)
    assert capsys.readouterr().out == ""


def test_nothing_to_choose_from(write, tmp_path):
    """`b` errs where `a` does and on one image more of every fifth person: intervals overlap, yet nearly every draw is worse.
    `again` errs elsewhere, but the eval images have the answers of `a`."""
    wrong = np.arange(700) % 7 == 0
    folder, oof = write("a", wrong)
    write("other images", wrong, images=[f"{index}.jpg" for index in range(700)])
    other, _oof = write("other eval images", wrong)
    pd.DataFrame({"ImageID": [f"x{name}" for name in NAMES], "ans": 0}).to_csv(other / "submission.csv", index=False)
    for name, text in (("unscored", '{"oof_f1": null, "oof_f1_ci95": null}'), ("broken", "{"), ("a list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "score.json").write_text(text)
        (tmp_path / name / "recipe.yaml").write_text("{}")
    assert ensemble.advise(folder, oof, NAMES) == (None, None, [])
    worse, _oof = write("b", wrong | (np.arange(700) % 35 == 8), answers=1)
    best, *_others, last = experiment.scored_records(tmp_path)  # the highest first
    half = sum(high - low for low, high in (best.oof_f1_ci95, last.oof_f1_ci95)) / 2
    assert last.folder == worse and 0 < best.oof_f1 - last.oof_f1 < half
    write("again", np.arange(700) % 7 == 1)
    first, second, lines = ensemble.advise(folder, oof, NAMES)
    assert first.folder == folder and second is None
    assert "all else is worse by more than noise, or the same again" in lines[-1]
    assert ensemble.advise(folder, oof, [*NAMES, "one more.jpg"]) == (None, None, [])


def test_sharing_by_hand_and_of_the_18_classes():
    """Images 0 and 2 are one person, weighed 1 and 3: their gender is (0.9 + 3 * 0.5) / 4, their masks stay; image 1 is alone. Of a
    label the mask's marginal is the image's own, that of gender and age the group's mean, and they are independent but alone. Of the
    pairs 01 and 23 of a a a b in groups 0 0 1 1 the first is right, of the three pairs of `a` one is found."""
    groups, mask = np.array([0, 1, 0]), np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]])
    multi = np.hstack([mask, [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]]])
    person, weights = [0.25, 0.375, 0.375], np.array([1.0, 2.0, 3.0])
    expected = np.hstack([mask, [[0.6, 0.4], [0.2, 0.8], [0.6, 0.4]], [person, [0, 1, 0], person]])
    np.testing.assert_allclose(ensemble.share_probs("multi", multi, groups, weights), expected)
    table = pd.DataFrame({"group": groups})
    ensemble.weigh(table, [("multi", multi)])
    np.testing.assert_allclose(table["weight"], [0.8 + 0.2 + 0.5, 0.1 + 1.6 + 0.5, 5.0])
    ages = np.eye(43)[[0, 1, 42]]
    np.testing.assert_allclose(ensemble.share_probs("age", ages, groups, weights)[2], (ages[0] + 3 * ages[2]) / 4)
    label, groups = np.random.default_rng(0).dirichlet(np.ones(18), 6), np.array([0, 1, 0, 2, 2, 2])
    joint = label.reshape(6, 3, 6)
    weights = np.array([1.0, 2, 3, 4, 5, 6])
    rest = np.array([np.average(joint.sum(1)[groups == group], 0, weights[groups == group]) for group in groups])
    expected = (joint.sum(2)[:, :, None] * rest[:, None]).reshape(6, 18)
    expected[1] = label[1]
    np.testing.assert_allclose(ensemble.share_probs("label", label, groups, weights), expected)
    assert ensemble.pair_scores(np.array([0, 0, 1, 1]), ["a", "a", "a", "b"]) == (0.5, round(1 / 3, 6))
    assert ensemble.pair_scores(np.array([0, 1]), ["a", "a"]) == (0, 0)


def test_an_ensemble_shares_within_groups_and_writes_them_down(runs, places, tmp_path, capsys):
    """The recipe, persons.csv and the members' predictions give the answers; the gain is that over the plain average."""
    argv = ["--models", str(runs["multi"]), str(runs["label"]), *places, "--name"]
    assert ensemble.main([*argv, "plain"]) == ensemble.main([*argv, "shared", "--persons"]) == 0
    folder, plain_score = tmp_path / "submissions" / "shared", read(tmp_path / "submissions" / "plain")[1]
    recipe, score = read(folder)
    assert recipe["persons"] is True and not (folder.parent / "plain" / "persons.csv").exists()
    for table, key, groups_file in (("eval.csv", "ImageID", "persons.csv"), ("oof.csv", "image", "oof_persons.csv")):
        made, groups = pd.read_csv(folder / table), pd.read_csv(folder / groups_file)
        assert groups["image"].tolist() == made[key].tolist() and groups["group"].value_counts().max() <= 7
        shared = []
        for target in ("multi", "label"):  # RUN/eval.csv is of the folds that were asked for last
            read_from = runs[target].glob("oof.csv" if table == "oof.csv" else "fold*/eval.csv")
            mean = pd.concat(map(pd.read_csv, read_from)).groupby(key)[dataset.columns(target)].mean().loc[made[key]]
            shared.append((target, mean.to_numpy()))
        answers = blend.blend(ensemble.share_members(shared, groups))
        np.testing.assert_allclose(made[dataset.columns("label")], answers, rtol=1e-4, atol=1e-6)
    assert score["gain"] == pytest.approx(score["oof_f1"] - plain_score["oof_f1"], abs=2e-6)
    precision, recall = ensemble.pair_scores(groups["group"].to_numpy(), groups["image"].str.partition("/")[0])
    assert (score["pair_precision"], score["pair_recall"]) == (precision, recall) and "pair_recall" not in plain_score
    out = " ".join(capsys.readouterr().out.partition("submissions/plain/submission.csv")[2].split())
    assert f"of the pairs in a group {precision:.1%} are of one person, of the pairs of a person {recall:.1%}" in out
    assert "the contest's rules to say: ask before you hand it in" in out and f"gain {score['gain']:+.4f}" in out


def test_without_a_data_folder_no_demo_set_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "DATA_PLACES", ())
    with pytest.raises(InputError, match=r"--persons: looks at the images, and there is no data folder here; give --data-dir"):
        ensemble.find_persons(["a.jpg"], None, SimpleNamespace(data_dir=None))
    assert not list(tmp_path.iterdir())
