"""inference.py and evaluation.py: eval.csv, submissions, folds, TTA, and what is made anew."""

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import dataset
import errors
import files
import images
import inference
import model
import predictions
from errors import InputError
from images import Geometry, decode

PREDICTED = shutil.ignore_patterns("eval*", "submission.csv")  # other tests may have predicted with the shared runs


@pytest.fixture
def places(shared_data, workplace):
    return ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet"]


@pytest.fixture
def own_run(runs, tmp_path):
    """A copy of the label run that a test may change."""
    return Path(shutil.copytree(runs["label"], tmp_path / "own", ignore=PREDICTED))


def by_hand(run, numbers, data, tta="none", faces=None):
    """Probabilities of the eval images from the weights, image by image; `faces`: (margin, box or None of each image)."""
    names, files = (pd.read_csv(data / "eval" / "info.csv")["ImageID"], data / "eval" / "images")
    margin, boxes = faces or (None, [None] * len(names))
    folds = []
    for number in numbers:
        net, facts = model.load(run / f"fold{number}" / "best.safetensors")
        geometry = Geometry(*facts["img_size"], None, margin)
        images = np.stack([decode(files / name, geometry, box) for name, box in zip(names, boxes)])
        logits = model.predict(net, [torch.from_numpy(images)], facts["mean"], facts["std"], tta=tta)
        exp = np.exp(logits - logits.max(1, keepdims=True))
        folds.append(exp / exp.sum(1, keepdims=True))
    return np.mean(folds, axis=0)


def test_eval_is_the_mean_of_the_folds_in_the_order_of_info(own_run, places, shared_data, capsys):
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
    files = [shared_data / "eval" / "images" / name for name in pd.read_csv(shared_data / "eval" / "info.csv")["ImageID"]]
    boxes = [None if np.isnan(box[0]) else box.tolist() for box in images.find_faces(files, quiet=True)]
    assert 0 < boxes.count(None) < len(boxes)
    table = pd.read_csv(run / "eval.csv").iloc[:, 1:].to_numpy()
    np.testing.assert_allclose(table, by_hand(run, [0], shared_data, faces=(0.25, boxes)), rtol=1e-4, atol=1e-6)
    assert np.abs(table - by_hand(run, [0], shared_data)).max() > 1e-3  # than without the crop


def test_single_folds_best_and_tta(own_run, places, shared_data):
    inference.main(["--models", str(own_run), "--folds", "1", "--tta", "hflip", *places])
    expected = by_hand(own_run, [1], shared_data, "hflip")
    np.testing.assert_allclose(pd.read_csv(own_run / "eval.csv").iloc[:, 1:], expected, rtol=1e-4, atol=1e-6)
    folds = files.read_json(own_run / "summary.json")["folds"]
    best = max(folds, key=lambda facts: facts["val_f1"])["fold"]
    inference.main(["--models", str(own_run), "--folds", "best", *places])
    np.testing.assert_allclose(
        pd.read_csv(own_run / "eval.csv").iloc[:, 1:], by_hand(own_run, [best], shared_data), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(InputError, match=r"--folds 5: .* has the complete folds 0 1"):
        inference.main(["--models", str(own_run), "--folds", "5", *places])
    with pytest.raises(InputError, match=r"--folds all 1: takes all, best, or fold numbers"):
        inference.main(["--models", str(own_run), "--folds", "all", "1", *places])


@pytest.mark.parametrize("target", ["multi", "age", "mask"])
def test_every_target_has_the_columns_of_its_oof(runs, places, target, capsys):
    inference.main(["--models", str(runs[target]), *places])
    assert pd.read_csv(runs[target] / "eval.csv").columns.tolist() == ["ImageID", *dataset.columns(target)]
    assert (runs[target] / "submission.csv").exists() == (target == "multi")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith({
        "multi": f"next: python ensemble.py --models {runs[target]} --data-dir ",
        "age": "next: these runs leave mask and gender open",
        "mask": "next: these runs leave gender and age_group open",
    }[target])  # fmt: skip


def test_predictions_are_made_once_and_again_when_the_weights_change(own_run, places, monkeypatch):
    inference.main(["--models", str(own_run), *places])
    made = []
    real = inference._predict_group
    monkeypatch.setattr(inference, "_predict_group", lambda group, *args: (made.extend(group), real(group, *args)))
    inference.main(["--models", str(own_run), *places])
    assert made == []
    facts = files.read_json(own_run / "fold1" / "fold.json")
    files.write_json(own_run / "fold1" / "fold.json", {**facts, "weights_sha256": "other"})
    inference.main(["--models", str(own_run), *places])
    assert made == [(own_run, 1)]


def test_a_table_without_its_sidecar_is_made_again(own_run, places, shared_data, data, monkeypatch):
    inference.main(["--models", str(own_run), *places])
    before, after = (dataset.read_eval_images(folder).names for folder in (shared_data, data))
    write = files.write_json

    def killed(path, value):
        if path == own_run / "fold1" / "eval.json":
            raise KeyboardInterrupt
        write(path, value)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write_json", killed)
        inference.main(["--models", str(own_run), *places, "--data-dir", str(data)])
    assert len(pd.read_csv(own_run / "fold1" / "eval.csv")) == len(after) == 4  # new, and the old sidecar would be wrong of it
    fresh = [[predictions.eval_is_fresh(own_run, fold, "none", names) for names in (before, after)] for fold in (0, 1)]
    assert fresh == [[False, True], [False, False]]


def test_images_are_decoded_once_for_all_runs(runs, places, monkeypatch, tmp_path):
    opened = []
    real = images.open_cache
    monkeypatch.setattr(images, "open_cache", lambda *args, **options: (opened.append(1), real(*args, **options))[1])
    gather, read = images.ImageStore._gather, []
    monkeypatch.setattr(images.ImageStore, "_gather", lambda store, rows: (read.extend(rows), gather(store, rows))[1])
    predict, sizes = model.predict_together, []
    monkeypatch.setattr(model, "predict_together", lambda nets, *args: (sizes.append(len(nets)), predict(nets, *args))[1])
    copies = [shutil.copytree(runs[target], tmp_path / target, ignore=PREDICTED) for target in ("gender", "age_group")]
    inference.main(["--models", *map(str, copies), *places])
    assert len(opened) == 1 and read == list(range(20))  # and each is read once for all four folds
    together = [(copy / f"fold{number}" / "eval.csv").read_bytes() for copy in copies for number in (0, 1)]
    monkeypatch.setattr(inference, "GROUP_BYTES", 1)
    for copy in copies:
        (copy / "fold0" / "eval.json").unlink()
        (copy / "fold1" / "eval.json").unlink()
    inference.main(["--models", *map(str, copies), *places])
    assert read == list(range(20)) * 5 and sizes == [4, 1, 1, 1, 1]  # one fold at a time
    assert together == [(copy / f"fold{number}" / "eval.csv").read_bytes() for copy in copies for number in (0, 1)]


def test_the_bar_counts_an_image_for_each_model_that_has_seen_it(own_run, places, monkeypatch):
    seen, bars = [], []

    class Bar(inference.tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"file": io.StringIO(), "disable": False})
            bars.append(self)

        def update(self, images):
            super().update(images)
            seen.append(self.n)

    monkeypatch.setattr(inference, "tqdm", Bar)
    inference.main(["--models", str(own_run), "--batch-size", "16", *places])
    assert [(bar.total, bar.unit) for bar in bars] == [(40, "img")]
    assert seen == [32, 40]  # 20 images, 2 folds: batches of 16 and 4


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_models_lie_in_memory_as_in_training(fit, places, memory_format, monkeypatch):
    run = fit("--memory-format", memory_format, "--epochs", "1", name=f"lies-{memory_format}")
    seen, real = [], model.predict_together

    def look(models, *args):
        seen.extend(model.layout(net) for net, _mean, _std in models)
        return real(models, *args)

    monkeypatch.setattr(model, "predict_together", look)
    assert inference.main(["--models", str(run), *places]) == 0
    assert seen == [model.FORMATS[memory_format]] * 2


def test_groups_of_folds_fill_the_memory_they_may_take(own_run, monkeypatch):
    size = (own_run / "fold0" / "best.safetensors").stat().st_size
    jobs = [(own_run, 0)] * 5
    for room, sizes in ((5 * size, [5]), (5 * size - 1, [4, 1]), (2 * size, [2, 2, 1]), (1, [1] * 5)):
        monkeypatch.setattr(inference, "GROUP_BYTES", room)
        groups = inference._groups(jobs)
        assert [len(group) for group in groups] == sizes and [job for group in groups for job in group] == jobs


@pytest.mark.parametrize(("what", "message"), [
    ("no run", "runs/none: no such run"), ("no fold", "no fold is complete"), ("no image", "info.csv, line 2: image"),
    ("bad image", "not a readable image"), ("bad weights", "not weights written by train.py"), ("no args", "not a run of train.py"),
])  # fmt: skip
def test_what_can_not_be_predicted_is_one_line(own_run, data, tmp_path, capsys, what, message):
    image = data / "eval" / "images" / pd.read_csv(data / "eval" / "info.csv")["ImageID"][0]
    models = str(own_run)
    if what == "no run":
        models = "runs/none"
    elif what == "no fold":
        for number in (0, 1):
            (own_run / f"fold{number}" / "fold.json").unlink()
    elif what == "no image":
        image.unlink()
    elif what == "bad image":
        image.write_bytes(b"")
    elif what == "bad weights":
        (own_run / "fold0" / "best.safetensors").write_bytes(b"\xff" * 99)
    else:
        (own_run / "args.yaml").unlink()
    argv = ["--models", models, "--data-dir", str(data), "--cache-dir", str(tmp_path / "cache"), "--quiet"]
    assert errors.run(lambda: inference.main(argv)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert not (own_run / "eval.csv").exists()
