"""pseudo.py, and train.py --pseudo and --finish-on-all: who may teach whom, and what is kept."""

import gc
import hashlib
import shutil
import signal
import weakref
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import SAME_BITS, assert_same_run, without_pictures
from test_validation import by_hand

import dataset
import engine
import errors
import experiment
import files
import inference
import model
import train
from dataset import combine
from errors import InputError


def rng_probs(*shape):
    probs = np.random.default_rng(0).random(shape)
    return probs / probs.sum(1, keepdims=True)


def test_runs_of_the_same_target_are_averaged():
    one, other = rng_probs(4, 43), rng_probs(4, 43)[::-1]
    np.testing.assert_allclose(inference.soft_labels("age", [("age", one), ("age", other)], (30, 60)), (one + other) / 2)


def test_parts_become_labels_and_labels_become_parts():
    mask, gender, age_group = rng_probs(4, 3), rng_probs(4, 2), rng_probs(4, 3)
    label = combine(mask, gender, age_group)
    sources = [("mask", mask), ("gender", gender), ("age_group", age_group)]
    np.testing.assert_allclose(inference.soft_labels("label", sources, (30, 60)), label)
    np.testing.assert_allclose(
        inference.soft_labels("multi", [("label", label)], (30, 60)), np.hstack([mask, gender, age_group])
    )
    np.testing.assert_allclose(inference.soft_labels("gender", [("label", label)], (30, 60)), gender)
    np.testing.assert_allclose(inference.soft_labels("mask", sources[:2], (30, 60)), mask)


def test_single_ages_are_cut_at_the_training_bounds():
    age = np.zeros((1, 43))
    age[0, 59 - 18] = 1
    assert inference.soft_labels("age_group", [("age", age)], (29, 59)).tolist() == [[0, 0, 1]]
    assert inference.soft_labels("age_group", [("age", age), ("gender", np.ones((1, 2)))], (30, 60)).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(("target", "source", "message"), [
    ("age", "label", "--target age learns single years"), ("label", "mask", "gives no age_group and gender"),
])  # fmt: skip
def test_what_a_source_can_not_tell_is_refused(target, source, message):
    with pytest.raises(InputError, match=message):
        inference.soft_labels(target, [(source, rng_probs(2, 18 if source == "label" else 3))], (30, 60))


def test_confidence_is_that_of_the_least_sure_head():
    probs = np.array([[0.9, 0.1, 0.0, 0.6, 0.4, 0.2, 0.1, 0.7]])
    assert inference.confidence("multi", probs).tolist() == [0.6]
    assert inference.confidence("label", np.eye(18)[:1]).tolist() == [1]
    age = np.full((1, 43), 1 / 43)
    assert inference.confidence("age", age)[0] == pytest.approx(30 / 43)


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


def test_eval_images_train_and_never_validate(taught, shared_data, workplace, monkeypatch):
    seen, real = [], dataset.fold_data
    monkeypatch.setattr(dataset, "fold_data", lambda *args, **how: seen.append(real(*args, **how)) or seen[-1])
    monkeypatch.setattr(engine, "train_one_epoch", lambda *args: (_ for _ in ()).throw(errors.Interrupted(143, "enough")))
    again = workplace / "runs" / "enough"
    argv = ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--output-dir", str(again.parent),
            "--name", again.name, "--model", "test_resnet", "--no-pretrained", "--img-size", "32", "24", "--kfold", "2",
            *SAME_BITS, "--quiet", "--pseudo", str(taught), "--pseudo-min-confidence", "0"]  # fmt: skip
    with pytest.raises(errors.Interrupted):
        train.main(argv)
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
    assert inference.find_runs(tmp_path) == [runs["label"], runs["mask"]]


def test_a_nofold_run_learns_from_eval_images_too(fit, runs):
    """What it says of its own training images is of those that have labels."""
    run = fit(
        "--kfold", "0", "--target", "mask", "--pseudo", runs["mask"], "--pseudo-min-confidence", "0.1", name="nofold taught"
    )
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
    run = fit(
        "--target", "mask", "--freeze-epochs", "1", "--lr", "3", "--epochs", "2", "--finish-on-all", "1", name="frozen end"
    )
    for number, facts in experiment.done_folds(run).items():
        best, final = (model.load(run / f"fold{number}" / f"{name}.safetensors")[0].state_dict() for name in ("best", "final"))
        same = all(torch.equal(final[name], value) for name, value in best.items() if not name.startswith("fc."))
        assert same == (facts["best_epoch"] == 1)
        assert not torch.equal(final["fc.weight"], best["fc.weight"])
    assert 1 in [facts["best_epoch"] for facts in experiment.done_folds(run).values()]


LAST = ["--finish-on-all", "2", "--mix", "halves", "--average-last", "2", "--sampler", "balanced", "--epochs", "3"]


@pytest.fixture(scope="module")
def finished(fit, runs):
    return fit(*LAST, "--pseudo", runs["label"], "--pseudo-min-confidence", "0.1", name="finished")


def test_finishing_shows_everyone_and_leaves_the_scores(finished, fit, runs):
    """The fold's own epochs, its weights and out-of-fold predictions are those of a run that does not finish on all."""
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


def test_fewer_epochs_on_everyone_than_were_asked_for_are_told(fit, capsys):
    """The best of one epoch is the first, so two can't be repeated; one can, of which nothing is said."""
    for asked, told in ((2, ["fold 0: epoch 1 was the best, so --finish-on-all 2 repeats 1 of them on everyone"]), (1, [])):
        run = fit("--target", "mask", "--finish-on-all", asked, "--epochs", "1", "--fold", "0", name=f"repeats {asked}")
        assert pd.read_csv(run / "log.csv")["val_f1"].isna().sum() == 1
        assert [line for line in capsys.readouterr().err.splitlines() if "was the best" in line] == told


def test_a_folds_own_model_is_gone_when_everyone_trains(fit, monkeypatch):
    """Two models and optimizers at once may be more than a batch that just fitted leaves room for."""
    train_epoch, models, alive = train.train_epoch, [], []

    def watched(fit, writer, state, on=""):
        if on:
            gc.collect()
            alive.append(sum(seen() is not None for seen in models))
        elif not models or models[-1]() is not fit.model:
            models.append(weakref.ref(fit.model))
        return train_epoch(fit, writer, state, on)

    monkeypatch.setattr(train, "train_epoch", watched)
    fit("--target", "mask", "--finish-on-all", "1", "--epochs", "1", name="let go")
    assert len(models) == 2 and alive == [0, 0]


def test_the_finished_weights_predict(finished, shared_data, workplace):
    argv = ["--models", str(finished), "--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--quiet"]
    assert inference.main([*argv, "--device", "cpu"]) == 0
    digests = [files.read_json(finished / f"fold{number}" / "fold.json")["weights_sha256"] for number in (0, 1)]
    finals = [experiment.weights_file(finished, number) for number in (0, 1)]
    assert [path.name for path in finals] == ["final.safetensors"] * 2
    assert digests == [hashlib.sha256(path.read_bytes()).hexdigest() for path in finals]
    assert inference.main([*argv, "--device", "cpu", "--tta", "hflip", "--oof"]) == 0  # never by weights that know those people
    table = pd.read_csv(finished / "oof_hflip.csv")[dataset.columns("label")]
    np.testing.assert_allclose(table, by_hand(finished, shared_data, "hflip"), rtol=1e-4, atol=1e-6)


def test_eval_images_that_can_not_be_read_do_not_train():
    names = ["a.jpg", "b.jpg", "c.jpg"]
    table = pd.DataFrame([(0, name, 0.2, 0.8) for name in names[1:]], columns=["fold", "ImageID", *dataset.columns("gender")])
    data = SimpleNamespace(pseudo=table, eval_names=names, images=range(10), good_eval=np.array([True, True, False]))
    rows, soft = dataset.pseudo_rows(SimpleNamespace(target="gender", data_dir="data"), data, 0, np.array([3, 4]))
    assert rows.tolist() == [3, 4, 11] and soft.tolist()[0] == [0, 0]


@pytest.mark.parametrize(("stop_after", "where"), [(8, "epoch 2, step 3"), (20, " on everyone")])
def test_all_techniques_at_once_resume_to_the_same_bits(
    finished, runs, shared_data, workplace, tmp_path, monkeypatch, capsys, stop_after, where
):
    """Stopped in a fold's own epochs, or on everyone; the pseudo-labels are those that the run began with."""
    steps, real = [], engine.train_step

    def step(fit, *args):
        real(fit, *args)
        steps.append(len(fit.data.val_rows))
        if len(steps) == stop_after:
            signal.raise_signal(signal.SIGTERM)

    source = tmp_path / "source"
    shutil.copytree(runs["label"], source)
    monkeypatch.setattr(engine, "train_step", step)
    argv = ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--output-dir", str(tmp_path), "--name", "stopped",
            "--model", "test_resnet", "--no-pretrained", "--img-size", "32", "24", "--kfold", "2", "--batch-size", "16", "--lr", "3e-3",
            "--device", "cpu", "--quiet", *SAME_BITS, *LAST, "--pseudo", str(source), "--pseudo-min-confidence", "0.1"]  # fmt: skip
    with without_pictures():
        assert errors.run(lambda: train.main(argv)) == 143
        monkeypatch.undo()
        shutil.rmtree(source)
        capsys.readouterr()
        assert train.main(["--resume", str(tmp_path / "stopped"), "--quiet"]) == 0
    went_on = next(line for line in capsys.readouterr().err.splitlines() if "goes on" in line)
    assert went_on.startswith("fold 0: goes on at epoch ") and went_on.endswith(where)
    assert_same_run(finished, tmp_path / "stopped")
    for number in (0, 1):
        one, other = (
            model.load(run / f"fold{number}" / "final.safetensors")[0].state_dict() for run in (finished, tmp_path / "stopped")
        )
        assert all((value == other[name]).all() for name, value in one.items())
