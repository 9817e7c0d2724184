"""fold.py: what a fold needs and refuses (whole folds are tested in test_train.py)."""

import argparse
import copy
import shutil
import threading
import time
from dataclasses import replace

import pytest
import torch
from test_engine import assert_equal, facts, make_fit
from test_train import command

import engine
import errors
import events
import experiment
import files
import fold
import model
import options
import train
from errors import InputError


@pytest.mark.parametrize(("options", "message"), [
    (["--drop-ages", "22", "45", "60"], "--drop-ages: leaves nobody to train fold 0"),
    (["--skip-bad-images", "--crop", "1000"], "--skip-bad-images: leaves nobody to train fold 0, as none of its 84 images could be"),
])  # fmt: skip
def test_nobody_to_train_is_said_with_what_left_them_out(fit, options, message):
    with pytest.raises(InputError, match=message):
        fit(*options, name="nobody")


def test_what_a_step_needs_is_looked_for_when_a_run_goes_on_too(runs, tmp_path):
    """Other processes than it began with may leave each one image, as a batch of one does here."""
    run = shutil.copytree(runs["mask"], tmp_path / "run")
    experiment.change_args(run, batch_size=1)
    with pytest.raises(
        InputError, match=r"--batch-size 1: test_resnet has batch norm, which can't train on one image at a time"
    ):
        train.main(["--resume", str(run), "--quiet"])


@pytest.fixture
def job(tmp_path):
    """A fold.Training of the run `tmp_path`, whose writer is at work."""
    (tmp_path / "fold0").mkdir()
    args = argparse.Namespace(epochs=2, target="label", model="test_resnet", img_size=[24, 24], crop=None, face_crop=None,
                              age_bounds=[30, 60], memory_format="contiguous")  # fmt: skip
    with engine.Writer() as writer:
        yield fold.Training(args, tmp_path, None, None, writer, events.Events(tmp_path, 0))


def test_a_state_with_what_is_no_number_is_not_saved(job):
    fit, path = make_fit(), job.run / "fold0" / "last.pt"
    fold.save_good_state(job, fit, fit.state_dict)
    job.writer.wait()
    before = path.read_bytes()
    fit.model.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(engine.NotFinite, match="a weight is not finite"):
        fold.save_good_state(job, fit, fit.state_dict)
    job.writer.wait()
    assert path.read_bytes() == before


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "optimizer": "SGD"}, {"average_last": 2}])
def test_an_epochs_files_hold_what_it_left_though_training_went_on_before_they_were_written(job, monkeypatch, capsys, changes):
    """Weights and state are written once the next epoch has trained, and only then is the epoch told."""
    fit, go_on = make_fit(**changes), threading.Event()
    real = model.save_weights
    monkeypatch.setattr(model, "save_weights", lambda *args: (go_on.wait(20), real(*args)))
    engine.train_one_epoch(fit, lambda: False)
    engine.end_epoch(fit)
    left, weights = facts(fit), copy.deepcopy(fit.evaluated.state_dict())
    fold.keep_epoch(job, fit, None)
    engine.train_one_epoch(fit, lambda: False)
    assert not (job.run / "fold0" / "last.pt").exists() and not job.writer.done
    assert "epoch  1/2" not in capsys.readouterr().err
    go_on.set()
    job.writer.wait()
    assert "fold 0 epoch  1/2" in capsys.readouterr().err
    fit.load_state_dict(engine.load_state(job.run, 0))
    assert_equal(facts(fit), left)
    assert_equal(dict(model.load(job.run / "fold0" / "best.safetensors")[0].state_dict()), dict(weights))
    assert experiment.read_log(job.run / "log.csv")["epoch"].tolist() == [1]


def test_a_full_disk_ends_the_next_step(job, monkeypatch):
    """What could not be written is not told, and no step more is trained."""

    def full(*_args):
        raise files.DiskError("last.pt: can't be written")

    fit, told = make_fit(), []
    monkeypatch.setattr(engine, "save_state", full)
    monkeypatch.setattr(errors, "say", told.append)
    fold.put_epoch(job, [], [{"fold": 0, "epoch": 1}], {}, "an epoch")
    while not job.writer.done:
        time.sleep(0.01)
    with pytest.raises(files.DiskError, match=r"last.pt: can't be written"):
        fold.train_epoch(replace(job, args=argparse.Namespace(epochs=2, quiet=True, save_minutes=9)), fit, dict)
    assert (fit.step, told) == (1, [])


def test_dropout_and_stochastic_depth_reach_the_model(shared_data, tmp_path):
    args = options.parse_args(command(shared_data, tmp_path, "--dropout", "0.3", "--drop-path", "0.2"))
    net = model.build_model(args, 0, torch.device("cpu"))
    assert (net.drop_rate, net.layer4[-1].drop_path.drop_prob) == (0.3, pytest.approx(0.2))
