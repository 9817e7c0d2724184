"""space.py: the estimate of a run's room is near what a real one takes, and too little is told before anything is made."""

import argparse
import collections
import os

import pytest
import torch

import errors
import experiment
import files
import space
import train
from images import Geometry

PLAIN = ["--optimizer", "SGD", "--fold", "0"]
RICH = ["--optimizer", "AdamP", "--ema", "0.9", "--finish-on-all", "2", "--keep-state"]


def folder_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("name", "options"), [("room_plain", PLAIN), ("room_rich", RICH)])
def test_estimate_is_near_the_most_that_a_run_takes(fit, workplace, monkeypatch, name, options):
    """Most is taken when a new file lies beside the old one, just before it replaces that; pictures are not drawn here."""
    most, told = [], []
    replace, check_room = os.replace, files.check_room

    def measured(source, target):
        most.append(folder_bytes(workplace / "runs" / name))
        replace(source, target)

    monkeypatch.setattr(os, "replace", measured)
    monkeypatch.setattr(files, "check_room", lambda needs: (told.append(needs), check_room(needs)))
    fit(*options, name=name)
    option, _folder, what, estimate = told[0][0]
    assert (option, what) == ("--output-dir", "the run")
    assert max(most) < estimate < 1.1 * max(most) + space.PICTURES


def test_only_what_is_missing_counts(runs, shared_data, workplace, monkeypatch):
    """A complete run needs nothing more; one whose fold 1 is to come, half of a new one, less what lies in that fold."""
    told = []
    monkeypatch.setattr(files, "check_room", told.append)
    run, weights = runs["label"], space.weights_bytes(None, runs["label"])
    args = argparse.Namespace(**{**experiment.read_args(run), "fold": None})
    images = experiment.pd.read_csv(run / "oof.csv")[["image", "path"]]
    done = experiment.done_folds(run)
    asked = (args, weights, images, [], Geometry(8, 8), "key", run)
    space.check(*asked)
    assert told == [[]]
    with monkeypatch.context() as half:
        half.setattr(experiment, "done_folds", lambda run: {0: done[0]})
        space.check(*asked)
    there = folder_bytes(run / "fold1")
    assert told[1] == [("", run, "the run", space.run_bytes(args, weights, images, 1) - there)]
    both, one = (space.run_bytes(args, weights, images, folds) for folds in (2, 1))
    assert both - one == weights
    args.epochs = 3  # opens both folds again
    space.check(*asked)
    there = folder_bytes(run / "fold0") + folder_bytes(run / "fold1")
    assert told[2] == [("", run, "the run", space.run_bytes(args, weights, images, 2) - there)]


@pytest.mark.parametrize(("name", "share"), [("AdamW", 2), ("SGD", 1), ("AdamP", 2), ("Lookahead_AdamW", 3), ("Lion", 1)])
def test_what_an_optimizer_keeps(name, share):
    """Multiples of the weights; AdamW counts its steps besides, 4 bytes for each of two tensors."""
    before = torch.get_rng_state()
    assert space.optimizer_share(name, 1e-3, 0.01) == pytest.approx(share, abs=0.001)
    assert torch.equal(torch.get_rng_state(), before)


def test_too_little_room_is_refused_before_anything_is_made(shared_data, tmp_path, monkeypatch, capsys):
    """1 MiB is free: too little for the run, whose cache would lie on the same volume."""
    facts = collections.namedtuple("Facts", "f_bavail f_frsize f_files f_favail")(256, 4096, 0, 0)
    monkeypatch.setattr(os, "statvfs", lambda path: facts)
    argv = ["--data-dir", str(shared_data), "--cache-dir", str(tmp_path / "cache"), "--output-dir", str(tmp_path / "runs"),
            "--model", "test_resnet", "--no-pretrained", "--img-size", "32", "24", "--kfold", "2", "--device", "cpu"]  # fmt: skip
    assert errors.run(lambda: train.main(argv)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: --output-dir {tmp_path}/runs and --cache-dir {tmp_path}/cache: ")
    assert (
        "MiB (the run) and 378.0 KiB (decoded images) are needed, and 1.0 MiB are free on volume " in error
    )  # 168 x 32 x 24 x 3
    assert list(tmp_path.iterdir()) == []
