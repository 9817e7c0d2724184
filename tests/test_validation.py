"""validation.py, inference.py --oof and ensemble.py --tta: out-of-fold predictions with TTA, and what they are worth."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch

import dataset
import ensemble
import errors
import experiment
import files
import inference
import metrics
import model
import predictions
from images import Geometry, decode

PREDICTED = shutil.ignore_patterns("eval*", "oof_*", "submission.csv")


@pytest.fixture
def places(shared_data, workplace):
    return ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet"]


@pytest.fixture
def own_run(runs, tmp_path):
    """own_run(target) -> a copy of that run, which a test may change."""
    return lambda target: Path(shutil.copytree(runs[target], tmp_path / target, ignore=PREDICTED))


def by_hand(run, data, tta):
    """Probabilities [N, C] of the images of oof.csv, in its order, each by the best weights of its fold; targets of one head."""
    table = pd.read_csv(run / "oof.csv")
    probs = np.empty((len(table), len(dataset.columns(experiment.read_args(run)["target"]))))
    for number in (0, 1):
        net, facts = model.load(run / f"fold{number}" / "best.safetensors")
        mine = (table["fold"] == number).to_numpy()
        files = [data / "train" / "images" / image for image in table["image"][mine]]
        images = torch.from_numpy(np.stack([decode(file, Geometry(*facts["img_size"])) for file in files]))
        logits = model.predict(net, [images], facts["mean"], facts["std"], tta=tta)
        probs[mine] = metrics.softmax(logits)
    return probs


def test_each_fold_predicts_its_own_validation_images(own_run, places, shared_data, capsys):
    run = own_run("mask")
    assert inference.main(["--models", str(run), "--tta", "hflip", "--oof", *places]) == 0
    plain, table = (pd.read_csv(run / name) for name in ("oof.csv", "oof_hflip.csv"))
    assert table.columns.tolist() == plain.columns.tolist()
    pd.testing.assert_frame_equal(table.iloc[:, :4], plain.iloc[:, :4])
    probs, plain_probs = (each[dataset.columns("mask")].to_numpy() for each in (table, plain))
    np.testing.assert_allclose(probs, by_hand(run, shared_data, "hflip"), rtol=1e-4, atol=1e-6)
    assert np.abs(probs - plain_probs).max() > 1e-4
    found = json.loads((run / "oof_hflip.json").read_text())
    assert list(found.pop("weights_sha256")) == ["0", "1"]
    f1, plain_f1 = (
        sklearn.metrics.f1_score(plain["target"], each.argmax(1), average="macro", zero_division=0)
        for each in (probs, plain_probs)
    )
    samples = metrics.bootstrap_difference(plain["target"], probs.argmax(1), plain_probs.argmax(1), plain["path"], 3)
    low, high = metrics.interval(samples)
    assert (found["oof_f1"], found["plain_f1"], found["gain"]) == pytest.approx((f1, plain_f1, f1 - plain_f1), abs=2e-6)
    assert found["gain_ci95"] == pytest.approx([low, high], abs=1e-6)
    out = capsys.readouterr().out
    assert f"{run}/oof_hflip.csv: out-of-fold macro F1 {f1:.4f}, without TTA {plain_f1:.4f}" in out
    assert f"gain {f1 - plain_f1:+.4f}, 95 % CI {low:+.4f} .. {high:+.4f}: {metrics.verdict(low, high)}; " in out
    assert (
        out.splitlines()[-1].startswith(f"next: python inference.py --models {run} --tta ") and not (run / "eval.csv").exists()
    )


def test_without_tta_they_are_those_of_the_training(own_run, shared_data, workplace):
    run = own_run("multi")
    args = SimpleNamespace(tta="none", amp="off", batch_size=7, cache_dir=workplace / "cache", cache_device="host", quiet=True)
    caches = set((workplace / "cache").glob("*.npy"))
    found = inference.predict_oof(run, shared_data, args, torch.device("cpu"))
    plain, table = (pd.read_csv(run / name)[dataset.columns("multi")] for name in ("oof.csv", "oof_none.csv"))
    np.testing.assert_allclose(table, plain, rtol=1e-3, atol=1e-5)
    assert (found["gain"], found["gain_ci95"]) == (0, [0, 0]) and set((workplace / "cache").glob("*.npy")) == caches


def test_they_are_made_once_and_again_when_the_weights_change(own_run, places, monkeypatch, capsys):
    run = own_run("mask")
    argv = ["--models", str(run), "--tta", "hflip", "--oof", *places]
    inference.main(argv)
    told, made = capsys.readouterr().out, []
    predict = inference.predict_rows
    monkeypatch.setattr(inference, "predict_rows", lambda weights, *rest: (made.extend(weights), predict(weights, *rest))[1])
    inference.main(argv)
    assert capsys.readouterr().out == told and made == []
    facts = files.read_json(run / "fold1" / "fold.json")
    files.write_json(run / "fold1" / "fold.json", {**facts, "weights_sha256": "other"})
    assert not predictions.oof_is_fresh(run, "hflip") and not predictions.oof_is_fresh(run, "shift")
    inference.main(argv)
    assert made == [experiment.best_weights(run, 0), experiment.best_weights(run, 1)]


def test_an_ensemble_takes_them_where_they_are(own_run, places, tmp_path, capsys):
    mask, multi = own_run("mask"), own_run("multi")
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


@pytest.mark.parametrize(("interval", "told"), [
    ([0.001, 0.02], "better; use --tta shift"), ([-0.02, -0.001], "worse; leave --tta at none"),
    ([-0.02, 0.001], "noise; leave --tta at none, as far as these people tell"),
])  # fmt: skip
def test_the_verdict_is_advice(interval, told):
    first, second = inference.tta_lines(
        "runs/x", "shift", {"oof_f1": 0.5, "plain_f1": 0.49, "gain": 0.01, "gain_ci95": interval}
    )
    assert first == "runs/x/oof_shift.csv: out-of-fold macro F1 0.5000, without TTA 0.4900" and told in second


@pytest.mark.parametrize(("intervals", "tta"), [
    ([(0.1, 0.2), (-0.1, 0.2)], "hflip"), ([(-0.1, 0.2), (-0.1, 0.2)], "none"), ([(0.1, 0.2), (-0.2, -0.1)], "none"),
])  # fmt: skip
def test_the_next_command_has_the_tta_where_it_helps_and_harms_nowhere(runs, places, intervals, tta, monkeypatch, capsys):
    found = iter([{"oof_f1": 0.5, "plain_f1": 0.4, "gain": 0.1, "gain_ci95": interval} for interval in intervals])
    monkeypatch.setattr(inference, "predict_oof", lambda *_args: next(found))
    inference.main(["--models", str(runs["mask"]), str(runs["age"]), "--tta", "hflip", "--oof", *places])
    assert f"{runs['mask']} {runs['age']} --tta {tta} --data-dir" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("change", "options", "message"), [
    (None, [], "--oof: compares a --tta with none"),
    (None, ["--tta", "hflip", "--folds", "best"], "--oof: compares a --tta with none, on all folds"),
    ("oof", ["--tta", "shift"], "has no oof.csv to compare with (it validates nobody)"),
    ("image", ["--tta", "shift"], "oof.csv: image someone/mask1.jpg is not in"),
    ("file", ["--tta", "shift"], "can't be read any more, but"),
])  # fmt: skip
def test_misuse_is_one_line(own_run, data, tmp_path, capsys, change, options, message):
    run = own_run("mask")
    table = pd.read_csv(run / "oof.csv")
    here = table[table["path"].isin([path.name for path in (data / "train" / "images").iterdir()])]
    if change == "oof":
        (run / "oof.csv").unlink()
    elif change == "image":
        here.assign(image=["someone/mask1.jpg", *here["image"].iloc[1:]]).to_csv(run / "oof.csv", index=False)
    elif change == "file":
        here.to_csv(run / "oof.csv", index=False)
        (data / "train" / "images" / here["image"].iloc[3]).write_bytes(b"no image")
    argv = ["--models", str(run), "--oof", "--data-dir", str(data), "--cache-dir", str(tmp_path / "cache"), "--quiet", *options]
    assert errors.run(lambda: inference.main(argv)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not list(run.glob("oof_*")) and not (run / "eval.csv").exists()
