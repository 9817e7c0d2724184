"""inference.py: eval.csv, submissions, folds, TTA, what is made anew; out-of-fold predictions with TTA; pseudo-labels."""

import hashlib
import json
import shlex
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
import yaml
from conftest import assert_same_run, without_pictures

import blend
import dataset
import engine
import ensemble
import errors
import experiment
import files
import images
import inference
import metrics
import model
import predictions
import train
from dataset import combine
from errors import InputError
from images import Geometry, decode

PREDICTED = shutil.ignore_patterns("eval*", "oof_*", "submission.csv")  # other tests may have predicted with the shared runs


@pytest.fixture
def places(shared_data, workplace, no_report):
    return ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet"]


@pytest.fixture
def copied(runs, tmp_path):
    """copied(target) -> a copy of that run, without its predictions, which a test may change."""
    return lambda target: Path(shutil.copytree(runs[target], tmp_path / target, ignore=PREDICTED))


@pytest.fixture
def own_run(copied):
    return copied("label")


def logits_of(run, number, files, tta, margin=None, boxes=None, weights="best"):
    """Logits of image files by a fold's weights, decoded one by one; `boxes`: a face's or None of each file."""
    net, metadata = model.load(run / f"fold{number}" / f"{weights}.safetensors")
    geometry = Geometry(*metadata["img_size"], None, margin)
    pixels = np.stack([decode(file, geometry, box) for file, box in zip(files, boxes or [None] * len(files))])
    return model.predict(net, [torch.from_numpy(pixels)], metadata["mean"], metadata["std"], tta=tta)


def by_hand(run, numbers, data, tta="none", **options):
    """Probabilities of the eval images from the weights, the mean over folds; options of `logits_of`."""
    files = [data / "eval" / "images" / name for name in pd.read_csv(data / "eval" / "info.csv")["ImageID"]]
    return np.mean([dataset.head_probs("label", logits_of(run, number, files, tta, **options)) for number in numbers], axis=0)


def test_eval_is_the_mean_of_the_folds_in_the_order_of_info(own_run, places, shared_data, monkeypatch, capsys):
    monkeypatch.setattr(inference, "GROUP_BYTES", 1)  # each fold by itself
    assert inference.main(["--models", str(own_run), str(own_run / "fold0"), str(own_run / "args.yaml"), *places]) == 0
    assert capsys.readouterr().out.count("mean of folds") == 1  # a run that is named thrice
    assert inference.main(["--models", str(own_run), *places]) == 0
    info = pd.read_csv(shared_data / "eval" / "info.csv")
    table = pd.read_csv(own_run / "eval.csv")
    assert table.columns.tolist() == ["ImageID", *(f"p{index}" for index in range(18))]
    assert table["ImageID"].tolist() == info["ImageID"].tolist()
    expected = by_hand(own_run, [0, 1], shared_data)
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(), expected, rtol=1e-4, atol=1e-6)
    submission = pd.read_csv(own_run / "submission.csv")
    assert submission.columns.tolist() == ["ImageID", "ans"]
    np.testing.assert_array_equal(submission["ans"], expected.argmax(1))
    assert "macro F1" in capsys.readouterr().out  # the tiny set has answers


def test_folds_that_are_missing_are_told_once(own_run, capsys):
    shutil.rmtree(own_run / "fold1")
    assert [predictions.select_folds(own_run, "all") for _time in range(3)] == [[0]] * 3
    assert capsys.readouterr().err == f"{own_run}: only folds 0 of 2 are complete\n"


def test_the_face_crop_is_that_of_the_weights(white_detector, fit, places, shared_data):
    run = fit("--face-crop", "0.25", "--fold", "0", name="face_crop")
    inference.main(["--models", str(run), *places])
    faces = images.find_faces(dataset.read_eval(shared_data).files, quiet=True)
    boxes = [None if np.isnan(box[0]) else box.tolist() for box in faces]
    assert 0 < boxes.count(None) < len(boxes)
    table = pd.read_csv(run / "eval.csv").iloc[:, 1:].to_numpy()
    np.testing.assert_allclose(table, by_hand(run, [0], shared_data, margin=0.25, boxes=boxes), rtol=1e-4, atol=1e-6)
    assert np.abs(table - by_hand(run, [0], shared_data)).max() > 1e-3  # than without the crop


def test_single_folds_best_and_tta(own_run, places, shared_data):
    done = files.read_json(own_run / "summary.json")["folds"]
    best = max(done, key=lambda metadata: metadata["val_f1"])["fold"]
    for options, number, tta in ((["1", "--tta", "hflip"], 1, "hflip"), (["best"], best, "none")):
        inference.main(["--models", str(own_run), *places, "--folds", *options])
        expected = by_hand(own_run, [number], shared_data, tta)
        np.testing.assert_allclose(pd.read_csv(own_run / "eval.csv").iloc[:, 1:], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", ["multi", "age", "mask"])
def test_every_target_has_the_columns_of_its_oof(runs, places, target, capsys):
    inference.main(["--models", str(runs[target]), *places])
    assert pd.read_csv(runs[target] / "eval.csv").columns.tolist() == ["ImageID", *dataset.columns(target)]
    assert (runs[target] / "submission.csv").exists() == (target == "multi")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith({
        "multi": f"next: python compare.py {runs[target]} ",
        "age": "next: these runs leave mask and gender open",
        "mask": "next: these runs leave gender and age_group open",
    }[target])  # fmt: skip


def test_after_a_run_alone_comes_another_seed_or_a_comparison(tmp_path, runs, shared_data):
    """A score of other people is none beside it; without a validation there is no noise to see."""
    run = Path(shutil.copytree(runs["label"], tmp_path / "runs" / "it's one"))
    again = "python train.py --lr 1e-3 --seed 43 --fold-seed 42 --name " + shlex.quote("it's one-seed43")
    args, summary = experiment.read_args(run), files.read_json(run / "summary.json")
    experiment.write_args(run, args, ["python", "train.py", "--name", "it's one", "--fold_seed=3", "--lr", "1e-3"])
    other = Path(shutil.copytree(runs["multi"], tmp_path / "runs" / "other"))
    compared = f"{shlex.join(['python', 'compare.py', str(run), str(other)])} --data-dir {shared_data}"
    for people, expected in (([1, "x"], again), (summary["people"], compared)):
        files.write_json(other / "summary.json", summary | {"people": people})
        assert inference.after(run, shared_data) == expected
    files.write_json(run / "summary.json", summary | {"oof_f1": None})
    experiment.write_args(run, args | {"kfold": 0})
    assert inference.after(run, shared_data) == "python leaderboard.py"


@pytest.mark.parametrize(("options", "anew"), [([], [1]), (["--tta", "hflip", "--oof"], [0, 1])])
def test_predictions_are_made_once_and_again_when_the_weights_change(copied, places, monkeypatch, capsys, options, anew):
    run, made, real = copied("mask"), [], inference.predict_rows
    argv = ["--models", str(run), *options, *places]
    inference.main(argv)
    told = capsys.readouterr().out
    monkeypatch.setattr(inference, "predict_rows", lambda weights, *args: (made.extend(weights), real(weights, *args))[1])
    inference.main(argv)
    assert capsys.readouterr().out == told and made == []
    metadata = files.read_json(run / "fold1" / "fold.json")
    files.write_json(run / "fold1" / "fold.json", {**metadata, "weights_sha256": "other"})
    inference.main(argv)
    assert made == [experiment.best_weights(run, number) for number in anew]


def test_a_table_without_its_sidecar_is_made_again(own_run, places, shared_data, data, monkeypatch):
    inference.main(["--models", str(own_run), *places])
    before, after = (dataset.read_eval(folder).names for folder in (shared_data, data))
    write = files.write_json

    def killed(path, value):
        if path == own_run / "fold1" / "eval.json":
            raise KeyboardInterrupt
        write(path, value)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write_json", killed)
        inference.main(["--models", str(own_run), *places, "--data-dir", str(data)])
    assert len(pd.read_csv(own_run / "fold1" / "eval.csv")) == len(after) == 4  # new, and the old sidecar would be wrong of it
    fresh = [[predictions.is_fresh(own_run, "none", fold, names) for names in (before, after)] for fold in (0, 1)]
    assert fresh == [[False, True], [False, False]]


@pytest.mark.parametrize(("what", "options", "message"), [
    ("no image", [], "info.csv, line 2: image"), ("bad image", [], "not a readable image"),
    ("bad weights", [], "not weights written by train.py"),
    ("no oof", ["--oof"], "has no oof.csv to compare with (it validates nobody)"),
    ("foreign oof", ["--oof"], "oof.csv: image someone/mask1.jpg is not in"),
    ("bad train image", ["--oof"], "can't be read any more, but"),
])  # fmt: skip
def test_what_can_not_be_predicted_is_one_line(copied, data, tmp_path, capsys, what, options, message):
    run, image = copied("mask"), data / "eval" / "images" / pd.read_csv(data / "eval" / "info.csv")["ImageID"][0]
    table = pd.read_csv(run / "oof.csv")
    here = table[table["path"].isin([path.name for path in (data / "train" / "images").iterdir()])]
    here.to_csv(run / "oof.csv", index=False)
    if what == "no image":
        image.unlink()
    elif what == "bad image":
        image.write_bytes(b"")
    elif what == "bad weights":
        (run / "fold0" / "best.safetensors").write_bytes(b"\xff" * 99)
    elif what == "no oof":
        (run / "oof.csv").unlink()
    elif what == "foreign oof":
        here.assign(image=["someone/mask1.jpg", *here["image"].iloc[1:]]).to_csv(run / "oof.csv", index=False)
    else:
        (data / "train" / "images" / here["image"].iloc[3]).write_bytes(b"no image")
    options = [*options, "--tta", "shift"] if options else []
    argv = ["--models", str(run), "--data-dir", str(data), "--cache-dir", str(tmp_path / "cache"), "--quiet", *options]
    assert errors.run(lambda: inference.main(argv)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not list(run.glob("oof_*")) and not (run / "eval.csv").exists()


def oof_by_hand(run, data, tta):
    """Probabilities [N, C] of the images of oof.csv, in its order, each by the best weights of its fold; targets of one head."""
    table, target = pd.read_csv(run / "oof.csv"), experiment.read_args(run)["target"]
    probs = np.empty((len(table), len(dataset.columns(target))))
    for number in (0, 1):
        val = (table["fold"] == number).to_numpy()
        files = [data / "train" / "images" / image for image in table["image"][val]]
        probs[val] = dataset.head_probs(target, logits_of(run, number, files, tta))
    return probs


def test_each_fold_predicts_its_own_validation_images(copied, places, shared_data, capsys):
    run = copied("mask")
    assert inference.main(["--models", str(run), "--tta", "hflip", "--oof", *places]) == 0
    plain, table = (pd.read_csv(run / name) for name in ("oof.csv", "oof_hflip.csv"))
    assert table.columns.tolist() == plain.columns.tolist()
    pd.testing.assert_frame_equal(table.iloc[:, :4], plain.iloc[:, :4])
    probs, plain_probs = (each[dataset.columns("mask")].to_numpy() for each in (table, plain))
    np.testing.assert_allclose(probs, oof_by_hand(run, shared_data, "hflip"), rtol=1e-4, atol=1e-6)
    assert np.abs(probs - plain_probs).max() > 1e-4
    scores = json.loads((run / "oof_hflip.json").read_text())
    assert list(scores.pop("weights_sha256")) == ["0", "1"]
    f1, plain_f1 = (sklearn.metrics.f1_score(plain["target"], p.argmax(1), average="macro") for p in (probs, plain_probs))
    samples = metrics.bootstrap_difference(plain["target"], probs.argmax(1), plain_probs.argmax(1), plain["path"], 3)
    low, high = metrics.interval(samples)
    assert (scores["oof_f1"], scores["plain_f1"], scores["gain"]) == pytest.approx((f1, plain_f1, f1 - plain_f1), abs=2e-6)
    assert scores["gain_ci95"] == pytest.approx([low, high], abs=1e-6)
    out = capsys.readouterr().out
    assert f"{run}/oof_hflip.csv: out-of-fold macro F1 {f1:.4f}, without TTA {plain_f1:.4f}" in out
    assert f"gain {f1 - plain_f1:+.4f}, 95 % CI {low:+.4f} .. {high:+.4f}: {metrics.verdict(low, high)}; " in out
    assert out.splitlines()[-1].startswith(f"next: python inference.py --models {run} --tta ")
    assert not (run / "eval.csv").exists()


def test_without_tta_they_are_those_of_the_training(copied, shared_data, workplace):
    run = copied("multi")
    args = SimpleNamespace(tta="none", amp="off", batch_size=7, cache_dir=workplace / "cache", cache_device="host", quiet=True)
    caches, plain = set((workplace / "cache").glob("*.npy")), pd.read_csv(run / "oof.csv")[dataset.columns("multi")]
    scores = inference.predict_oof(run, shared_data, args, torch.device("cpu"))
    table = pd.read_csv(run / "oof.csv")[dataset.columns("multi")]
    np.testing.assert_allclose(table, plain, rtol=1e-3, atol=1e-5)
    assert (scores["gain"], scores["gain_ci95"]) == (0, [0, 0]) and set((workplace / "cache").glob("*.npy")) == caches


def test_an_ensemble_takes_them_where_they_are(copied, places, tmp_path, capsys):
    mask, multi = copied("mask"), copied("multi")
    inference.main(["--models", str(multi), "--tta", "hflip", "--oof", *places])
    capsys.readouterr()
    for name, models in (("one", [multi]), ("both", [multi, mask])):
        argv = ["--models", *map(str, models), "--tta", "hflip", "--name", name, "--output-dir", str(tmp_path / "out"), *places]
        assert ensemble.main(argv) == 0
    score = json.loads((tmp_path / "out" / "one" / "score.json").read_text())
    assert score["oof_f1"] == json.loads((multi / "oof_hflip.json").read_text())["oof_f1"]
    one, other = capsys.readouterr().out.split("out-of-fold macro F1 of label")[1:]
    assert "out of fold without" not in one
    told = f"out of fold without --tta hflip: {mask}; python inference.py --models RUN --tta hflip --oof makes them"
    assert told in " ".join(other.split())
    plain = ["--models", str(multi), "--name", "plain", "--output-dir", str(tmp_path / "out"), *places]
    ensemble.main(plain)
    score = json.loads((tmp_path / "out" / "plain" / "score.json").read_text())
    assert score["oof_f1"] == json.loads((multi / "oof_hflip.json").read_text())["plain_f1"]


@pytest.mark.parametrize(("intervals", "tta", "advice"), [
    ([(0.1, 0.2), (-0.1, 0.2)], "hflip", ["better; use --tta hflip", "noise; leave --tta at none, as far as these people tell"]),
    ([(-0.1, 0.2), (-0.1, 0.2)], "none", ["noise; leave --tta at none, as far as these people tell"] * 2),
    ([(0.1, 0.2), (-0.2, -0.1)], "none", ["better; use --tta hflip", "worse; leave --tta at none"]),
])  # fmt: skip
def test_the_next_command_has_the_tta_that_helps_and_harms_nowhere(runs, places, intervals, tta, advice, monkeypatch, capsys):
    results = iter([{"oof_f1": 0.5, "plain_f1": 0.4, "gain": 0.1, "gain_ci95": interval} for interval in intervals])
    monkeypatch.setattr(inference, "predict_oof", lambda *_args: next(results))
    inference.main(["--models", str(runs["mask"]), str(runs["age"]), "--tta", "hflip", "--oof", *places])
    lines = capsys.readouterr().out.splitlines()
    assert f"{runs['mask']} {runs['age']} --tta {tta} --data-dir" in lines[-1]
    assert [line.partition(": ")[2] for line in lines[1:-1:2]] == advice


def rng_probs(*shape):
    probs = np.random.default_rng(0).random(shape)
    return probs / probs.sum(1, keepdims=True)


def test_soft_labels_and_their_confidence_by_hand():
    """Runs of one target are averaged; parts become labels and labels parts; single years are cut at the training's bounds.
    The confidence is that of the least sure head, and of age that of the group: 30 to 59 are 30 of 43 years."""
    one, other = rng_probs(4, 43), rng_probs(4, 43)[::-1]
    mask, gender, age_group = rng_probs(4, 3), rng_probs(4, 2), rng_probs(4, 3)
    label, sources = combine(mask, gender, age_group), [("mask", mask), ("gender", gender), ("age_group", age_group)]
    for target, given, expected in (
        ("age", [("age", one), ("age", other)], (one + other) / 2), ("label", sources, label),
        ("multi", [("label", label)], np.hstack([mask, gender, age_group])), ("gender", [("label", label)], gender),
        ("mask", sources[:2], mask),
    ):  # fmt: skip
        np.testing.assert_allclose(blend.soft_labels(target, given, (30, 60)), expected)
    age = np.eye(43)[[59 - 18]]
    for bounds, given, group in (((29, 59), [("age", age)], 2), ((30, 60), [("age", age), ("gender", np.ones((1, 2)))], 1)):
        assert blend.soft_labels("age_group", given, bounds).tolist() == np.eye(3)[[group]].tolist()
    assert predictions.confidence("multi", np.array([[0.9, 0.1, 0.0, 0.6, 0.4, 0.2, 0.1, 0.7]])).tolist() == [0.6]
    assert predictions.confidence("label", np.eye(18)[:1]).tolist() == [1]
    assert predictions.confidence("age", np.full((1, 43), 1 / 43))[0] == pytest.approx(30 / 43)


@pytest.fixture(scope="module")
def taught(runs, fit):
    """A run that learned from the label run's predictions of the eval images."""
    return fit("--pseudo", runs["label"], "--pseudo-min-confidence", "0.1", name="taught")


def eval_table(run, number):
    return pd.read_csv(run / f"fold{number}" / "eval.csv").set_index("ImageID")


def test_labels_of_a_fold_come_from_the_model_of_that_fold_alone(runs, taught):
    table = pd.read_csv(taught / "pseudo.csv")
    columns = [f"p{index}" for index in range(18)]
    assert set(table["fold"]) == {0, 1}
    for number, rows in table.groupby("fold"):
        theirs = eval_table(runs["label"], number)
        np.testing.assert_allclose(rows[columns], theirs.loc[rows["ImageID"], columns], atol=1e-6)
        assert len(rows) == (theirs[columns].max(axis=1) >= 0.1).sum() > 0


def test_eval_images_train_and_never_validate(taught, fit, monkeypatch):
    seen, real = [], dataset.fold_data
    monkeypatch.setattr(dataset, "fold_data", lambda *args, **how: seen.append(real(*args, **how)) or seen[-1])
    monkeypatch.setattr(engine, "train_one_epoch", lambda *args: (_ for _ in ()).throw(errors.Interrupted(143, "enough")))
    with pytest.raises(errors.Interrupted):
        fit("--pseudo", taught, "--pseudo-min-confidence", "0", name="enough")
    data = seen[-1]
    people = 24 * 7
    assert (data.train_rows >= people).sum() == 20 and (data.val_rows < people).all()
    assert len(data.train_targets) == people + 20 == len(data.persons) == len(data.masks) == len(data.classes)
    np.testing.assert_allclose(data.pseudo, eval_table(taught, 0).iloc[:, :18], atol=1e-6)  # the next round's are of `taught`
    assert (data.classes[people:] == data.pseudo.argmax(1)).all() and (data.masks[people:] == data.pseudo.argmax(1) // 6).all()
    assert len(set(data.persons[people:])) == 20 and not set(data.persons[people:]) & set(data.persons[:people])
    rows = data.store.gather(np.array([people]))[0]
    assert rows.shape == (32, 24, 3) and rows.float().std() > 0


@pytest.mark.parametrize(("source", "options", "message"), [
    ("label", ["--fold-seed", "7"], r"in fold \d, here it is in fold \d; train with the same people, --kfold and --fold-seed"),
    ("nofold", [], "is a nofold run, which has seen everyone"),
    ("finished", [], "its --finish-on-all has shown everyone to every fold"),
    ("label", ["--age-bounds", "29", "59"], "learnt age groups of --age-bounds 30 60, not of 29 59; take a run with the same"),
    ("mask", [], "--pseudo: gives no age_group and gender, which --target label needs"),
    ("label", ["--target", "age"], "--target age learns single years"),
    ("label", ["--pseudo-min-confidence", "1"], "--pseudo-min-confidence 1: no eval image is predicted so surely; lower it"),
    ("label:fold1", [], "takes a whole run or an ensemble"),
])  # fmt: skip
def test_what_would_leak_or_can_not_teach_is_refused(runs, fit, tmp_path, source, options, message):
    name, colon, one = source.partition(":")
    if name in runs:
        run = runs[name]
    else:
        run = tmp_path / name
        shutil.copytree(runs["label"], run)
        args = experiment.read_args(run) | ({"kfold": 0} if name == "nofold" else {"finish_on_all": 1})
        (run / "args.yaml").write_text(yaml.safe_dump(args))
    with pytest.raises(InputError, match=message):
        fit("--pseudo", f"{run}{colon}{one}", *options, name="leaks", output_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_an_ensemble_teaches_by_its_members_that_count(runs, tmp_path):
    members = [{"run": str(runs["label"]), "weight": 1}, {"run": str(runs["multi"]), "weight": 0},
               {"run": f"{runs['mask']}:fold1", "weight": {"mask": 0.5}}, {"run": str(runs["label"]), "weight": 2}]  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"members": members}))
    assert predictions.find_runs(tmp_path) == [runs["label"], runs["mask"]]


def test_a_nofold_run_learns_from_eval_images_too(fit, runs):
    """What it says of its own training images is of those that have labels."""
    teacher = ["--pseudo", runs["mask"], "--pseudo-min-confidence", "0.1"]
    run = fit("--kfold", "0", "--target", "mask", *teacher, name="nofold taught")
    assert len(pd.read_csv(run / "pseudo.csv")) > 0
    assert len(pd.read_csv(run / "fold0" / "insample.csv")) == 24 * 7


def test_a_teacher_without_a_fold_is_told_with_its_remedy(fit, runs, tmp_path):
    run = shutil.copytree(runs["mask"], tmp_path / "half")
    (run / "fold1" / "fold.json").unlink()
    told = r"--pseudo .*half: has no complete fold 1, .*; python train.py --resume .*half --fold 1 first"
    with pytest.raises(InputError, match=told):
        fit("--target", "mask", "--pseudo", run, name="leaks", output_dir=tmp_path / "runs")


def test_finishing_trains_what_the_best_epoch_trained(fit):
    """A head-only best epoch: with a rate that spoils what comes after it everyone sees the same head-only epoch again."""
    recipe = ["--freeze-epochs", "1", "--lr", "3", "--epochs", "2", "--finish-on-all", "1"]
    run = fit("--target", "mask", *recipe, name="frozen end")
    for number, metadata in experiment.done_folds(run).items():
        best, final = (model.load(run / f"fold{number}" / f"{name}.safetensors")[0].state_dict() for name in ("best", "final"))
        same = all(torch.equal(final[name], value) for name, value in best.items() if not name.startswith("fc."))
        assert same == (metadata["best_epoch"] == 1)
        assert not torch.equal(final["fc.weight"], best["fc.weight"])
    assert 1 in [metadata["best_epoch"] for metadata in experiment.done_folds(run).values()]


LAST = ["--finish-on-all", "2", "--mix", "halves", "--average-last", "2", "--sampler", "balanced", "--epochs", "3"]
LAST += ["--aux-age", "0.5"]


@pytest.fixture(scope="module")
def finished(fit, runs):
    return fit(*LAST, "--pseudo", runs["label"], "--pseudo-min-confidence", "0.1", name="finished")


def test_finishing_shows_everyone_and_leaves_the_scores(finished, fit, runs, places, shared_data):
    """The fold's own epochs, its weights and out-of-fold predictions are those of a run that does not finish on all; its final
    weights predict the eval images, and never people that they know."""
    plain = fit(*LAST[2:], "--pseudo", runs["label"], "--pseudo-min-confidence", "0.1", name="unfinished")
    assert (plain / "oof.csv").read_bytes() == (finished / "oof.csv").read_bytes()
    log, plain_log = pd.read_csv(finished / "log.csv"), pd.read_csv(plain / "log.csv")
    for number, rows in log.groupby("fold"):
        best = experiment.done_folds(finished)[number]["best_epoch"]
        own = plain_log[plain_log["fold"] == number]
        assert rows["val_f1"].tolist()[:3] == own["val_f1"].tolist() and rows["val_f1"].isna().sum() == min(best, 2)
        assert rows["epoch"].tolist() == list(range(1, 4 + min(best, 2)))
        assert rows["lr"].tolist()[3:] == own["lr"].tolist()[max(best - 2, 0) : best]
        before, after = (model.load(finished / f"fold{number}" / f"{name}.safetensors")[0] for name in ("best", "final"))
        assert not (before.fc.weight == after.fc.weight).all()
        final = experiment.weights_file(finished, number)
        digest = files.read_json(finished / f"fold{number}" / "fold.json")["weights_sha256"]
        assert final.name == "final.safetensors" and digest == hashlib.sha256(final.read_bytes()).hexdigest()
    inference.main(["--models", str(finished), *places])
    expected = by_hand(finished, [0, 1], shared_data, weights="final")
    np.testing.assert_allclose(pd.read_csv(finished / "eval.csv").iloc[:, 1:], expected, rtol=1e-4, atol=1e-6)
    inference.main(["--models", str(finished), *places, "--tta", "hflip", "--oof"])
    table = pd.read_csv(finished / "oof_hflip.csv")[dataset.columns("label")]
    np.testing.assert_allclose(table, oof_by_hand(finished, shared_data, "hflip"), rtol=1e-4, atol=1e-6)


def test_fewer_epochs_on_everyone_than_were_asked_for_are_told(fit, capsys):
    """The best of one epoch is the first, so two can't be repeated; one can, of which nothing is said."""
    for asked, told in ((2, ["fold 0: epoch 1 was the best, so --finish-on-all 2 repeats 1 of them on everyone"]), (1, [])):
        run = fit("--target", "mask", "--finish-on-all", asked, "--epochs", "1", "--fold", "0", name=f"repeats {asked}")
        assert pd.read_csv(run / "log.csv")["val_f1"].isna().sum() == 1
        assert [line for line in capsys.readouterr().err.splitlines() if "was the best" in line] == told


def test_eval_images_that_can_not_be_read_do_not_train():
    names = ["a.jpg", "b.jpg", "c.jpg"]
    table = pd.DataFrame([(0, name, 0.2, 0.8) for name in names[1:]], columns=["fold", "ImageID", *dataset.columns("gender")])
    data = SimpleNamespace(pseudo=table, eval_names=names, images=range(10), good_eval=np.array([True, True, False]))
    rows, soft = dataset.pseudo_rows(SimpleNamespace(target="gender", data_dir="data"), data, 0, np.array([3, 4]))
    assert rows.tolist() == [3, 4, 11] and soft.tolist()[0] == [0, 0]


@pytest.mark.parametrize(("stop_after", "where"), [(8, "epoch 2, step 3"), (20, " on everyone")])
def test_all_techniques_at_once_resume_to_the_same_bits(finished, runs, fit, tmp_path, monkeypatch, capsys, stop_after, where):
    """Stopped in a fold's own epochs, or on everyone; the pseudo-labels are those that the run began with."""
    steps, real = [], engine.train_step

    def step(fit, *args):
        real(fit, *args)
        steps.append(len(fit.data.val_rows))
        if len(steps) == stop_after:
            signal.raise_signal(signal.SIGTERM)

    source = shutil.copytree(runs["label"], tmp_path / "source")
    monkeypatch.setattr(engine, "train_step", step)
    argv = [*LAST, "--pseudo", source, "--pseudo-min-confidence", "0.1"]
    assert errors.run(lambda: fit(*argv, name="stopped", output_dir=tmp_path)) == 143
    monkeypatch.undo()
    shutil.rmtree(source)
    capsys.readouterr()
    with without_pictures():
        assert train.main(["--resume", str(tmp_path / "stopped"), "--quiet"]) == 0
    went_on = next(line for line in capsys.readouterr().err.splitlines() if "goes on" in line)
    assert went_on.startswith("fold 0: goes on at epoch ") and went_on.endswith(where)
    assert_same_run(finished, tmp_path / "stopped")
    for number in (0, 1):
        ends = (run / f"fold{number}" / "final.safetensors" for run in (finished, tmp_path / "stopped"))
        one, other = (model.load(path)[0].state_dict() for path in ends)
        assert all((value == other[name]).all() for name, value in one.items())


@pytest.mark.parametrize("options", [["--temperature", "--search", "weights", "--decode", "f1+prior", "--tta", "hflip"],
                                     ["--method", "stack"], ["--age-bounds", "29", "58"]], ids=str)  # fmt: skip
def test_an_ensemble_answers_photos_as_it_did_the_eval_images(runs, places, shared_data, tmp_path, capsys, options):
    """By its recipe alone; the page has each photo with three Grad-CAMs, and years as a member has them."""
    models = [str(runs[target]) for target in ("mask", "gender", "age", "label")]
    ensemble.main(["--models", *models, *options, *places, "--output-dir", str(tmp_path), "--name", "mixed"])
    capsys.readouterr()
    photos, out = shared_data / "eval" / "images", tmp_path / "photos"
    argv = ["--models", str(tmp_path / "mixed"), "--images", str(photos), "--out", str(out), *places[2:]]
    assert inference.main(argv) == 0
    table, answers = pd.read_csv(out / "predictions.csv"), pd.read_csv(tmp_path / "mixed" / "submission.csv")
    names = [Path(image).name for image in table["image"]]
    assert table["ans"].tolist() == answers.set_index("ImageID")["ans"][names].tolist()
    probs = pd.read_csv(tmp_path / "mixed" / "eval.csv").set_index("ImageID").loc[names].to_numpy()
    for name, expected in dataset.marginals(probs).items():
        written = table[[f"{name}_p{index}" for index in range(expected.shape[1])]]
        np.testing.assert_allclose(written, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(table["age"], table[dataset.columns("age")] @ np.arange(18, 61), rtol=1e-4)
    page = (out / "photos.html").read_text()
    assert page.count('class="card"') == 20 == page.count('class="years"') and page.count('class="heat"') == 60
    assert capsys.readouterr().out.splitlines()[0].split() == ["photo", "mask", "gender", "age_group", "age"]


def test_photos_that_can_not_be_read_are_told_and_left_out(runs, bad_files, tmp_path, capsys):
    """Of a folder and its sub-folders; a run of one component answers that alone."""
    argv = ["--models", str(runs["mask"]), "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache"), "--quiet"]
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for file, name in zip(bad_files, ("sub/whole.JPG", "empty.jpg", "notes.txt")):
        shutil.copy(file, tmp_path / "in" / name)
    assert inference.main([*argv, "--images", str(tmp_path / "in")]) == 0
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table) == ["image", "mask", "mask_p0", "mask_p1", "mask_p2"] and len(table) == 1
    assert capsys.readouterr().err.count("skipped: ") == 1
    (tmp_path / "out" / "photos.html").unlink()
    for path, message in ((tmp_path / "in", "out: holds a predictions.csv that is not of --images; give another --out"),
                          (tmp_path / "no", "--images .*no: no such file or folder"),
                          (tmp_path / "cache", "--images .*cache: holds no images"),
                          (bad_files[1], "--images: none of the 1 photos can be predicted, see above")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            inference.main([*argv, "--images", str(path)])
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
