"""train.py stopped, killed and gone on with: the same bits, and what is refused (the whole matrix is in test_resume.py)."""

import itertools
import multiprocessing
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import assert_same_run
from test_train import command, trained

import engine
import errors
import experiment
import train
from errors import InputError

LONG = ["--aug", "strong", "--ema", "0.9", "--loss", "focal+f1", "--epochs", "4"]


@pytest.fixture(scope="module")
def never_stopped(fit):
    return fit(*LONG, name="never_stopped")


@pytest.mark.parametrize(("number", "code", "where", "told"), [
    (signal.SIGTERM, 143, "train_step", "epoch 2, after step 3 of 5"), (signal.SIGINT, 130, "evaluate", "epoch 2, while validating"),
])  # fmt: skip
def test_a_stopped_run_resumes_to_the_same_bits(
    never_stopped, shared_data, tmp_path, monkeypatch, capsys, number, code, where, told
):
    """A run with EMA and augmentation gets a signal within an epoch; resumed, it equals one that never was stopped."""
    calls, work = [], getattr(engine, where)

    def call(*args):
        calls.append(args)
        if len(calls) == {"train_step": 8, "evaluate": 2}[where]:  # 5 steps an epoch
            signal.raise_signal(number)
        return work(*args)

    monkeypatch.setattr(engine, where, call)
    run = tmp_path / "runs" / "stopped"
    assert errors.run(lambda: train.main(command(shared_data, tmp_path, *LONG, "--name", "stopped"))) == code
    assert (run / "fold0" / "last.pt").exists() and not (run / "summary.json").exists()
    last = f"stopped in fold 0, {told}; state saved. Go on with: python train.py --resume {run}"
    assert capsys.readouterr().err.splitlines()[-1] == last
    monkeypatch.undo()
    assert trained(["--resume", str(run), "--quiet"]) == 0
    assert_same_run(never_stopped, run)
    assert not list(run.rglob("last.pt"))


def test_a_killed_run_resumes_to_the_same_bits(never_stopped, shared_data, tmp_path, monkeypatch):
    """The same as a process of its own that is killed in mid-training without a warning; it never comes to its last epoch."""
    steps, train_step = itertools.count(1), engine.train_step
    monkeypatch.setattr(engine, "train_step", lambda *args: time.sleep(600) if next(steps) > 35 else train_step(*args))
    argv = command(shared_data, tmp_path, *LONG, "--name", "killed", "--save-minutes", "0.0001")
    process = multiprocessing.get_context("fork").Process(target=trained, args=(argv,))
    process.start()
    run = tmp_path / "runs" / "killed"
    deadline = time.monotonic() + 100
    while not (run / "fold0" / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (run / "summary.json").exists()
    monkeypatch.undo()
    assert trained(["--resume", str(run), "--quiet"]) == 0
    assert_same_run(never_stopped, run)
    assert not list(run.rglob("*.tmp*")) and not list(run.rglob("last.pt"))


def test_a_loss_that_is_no_number_names_its_step_and_images_and_keeps_the_last_good_state(
    shared_data, tmp_path, monkeypatch, capsys
):
    """In step 3 of epoch 2, long before the next state would be saved: that of epoch 1's end stays."""
    calls, part_loss = [], engine.part_loss

    def spoilt(*args):
        calls.append(args)
        return part_loss(*args) * (float("nan") if len(calls) == 8 else 1)

    monkeypatch.setattr(engine, "part_loss", spoilt)
    run = tmp_path / "runs" / "bad"
    options = ["--target", "mask", "--name", "bad", "--fold", "0"]
    assert errors.run(lambda: train.main(command(shared_data, tmp_path, *options))) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    images = (run / "fold0" / "not_finite.txt").read_text().splitlines()
    assert len(images) == 16 and all(Path(image).is_file() for image in images)
    assert last == (
        f"error: fold 0, epoch 2, step 3: the training loss is nan; the step's 16 images are {images[0]} and others, listed in "
        f"{run}/fold0/not_finite.txt. The last good state is kept; try a new run with a lower --lr than 0.003 or --clip-grad 1"
    )
    state = engine.load_state(run, 0)
    assert (state["epoch"], state["step"]) == (2, 0) and all(value.isfinite().all() for value in state["model"].values())
    assert pd.read_csv(run / "log.csv")["epoch"].tolist() == [1]


def test_more_epochs_on_resume_end_as_if_they_had_been_asked_for_at_first(fit, tmp_path):
    """Fold 0 is complete and has kept its state, fold 1 is not begun; a schedule that knows no number of epochs."""
    places = {"output_dir": tmp_path}
    whole = fit("--target", "gender", "--ema", "0.9", "--epochs", "3", "--keep-state", "--fold", "0", name="whole", **places)
    short = fit("--target", "gender", "--ema", "0.9", "--epochs", "1", "--keep-state", "--fold", "0", name="short", **places)
    began = (short / "args.yaml").read_text().splitlines()[0]
    assert trained(["--resume", str(short), "--epochs", "3", "--fold", "0", "--quiet"]) == 0
    assert_same_run(whole, short)
    assert (short / "args.yaml").read_text().splitlines()[0] == began and experiment.read_args(short)["epochs"] == 3
    one, other = (engine.load_state(run, 0) for run in (whole, short))
    assert [row["epoch"] for row in other["history"]] == [1, 2, 3]
    for name, value in one["ema"].items():
        assert torch.equal(value, other["ema"][name])


@pytest.mark.parametrize(("epochs", "message"), [
    ("3", r"--epochs 3: fold 0 of .*shared_mask was complete after 2 and its state is gone.* delete .*shared_mask/fold0"),
    ("1", r"--epochs 1: fold 0 of .*shared_mask is in epoch 2 already; give that or more"),
])  # fmt: skip
def test_epochs_that_cannot_be_had_are_refused_and_change_nothing(runs, epochs, message):
    before = (runs["mask"] / "args.yaml").read_bytes()
    with pytest.raises(InputError, match=message):
        train.main(["--resume", str(runs["mask"]), "--epochs", epochs])
    assert (runs["mask"] / "args.yaml").read_bytes() == before


def test_folds_that_patience_has_ended_stay_complete():
    """Of 5 epochs the second was best: with --patience 3 that was the end, with 4 and without it was not."""
    facts = {"epochs": 5, "best_epoch": 2}
    assert [experiment.is_complete(SimpleNamespace(epochs=9, patience=n), facts) for n in (3, 4, 0)] == [True, False, False]
    assert experiment.is_complete(SimpleNamespace(epochs=5, patience=0), facts)


def test_the_rates_of_a_cosine_follow_other_epochs_and_that_is_said(tmp_path, capsys):
    options = {"target": "mask", "epochs": 3, "keep_state": False, "weights": None, "model": "resnet18"}
    experiment.write_args(tmp_path, options, ["python", "train.py"])
    args = SimpleNamespace(**options | {"scheduler": "Cosine", "epochs": 5})
    train.record_changes(args, tmp_path)
    assert (
        capsys.readouterr().err == "epochs: 5 instead of 3: from here on the rates of --scheduler Cosine follow that number\n"
    )
    assert experiment.read_args(tmp_path) == options | {"epochs": 5}
    train.record_changes(args, tmp_path)
    assert capsys.readouterr().err == ""


def test_a_state_that_a_kill_left_beside_its_complete_fold_goes(fit, runs):
    (runs["gender"] / "fold0" / "last.pt").write_bytes(b"left")
    assert trained(["--resume", str(runs["gender"]), "--quiet"]) == 0
    assert not (runs["gender"] / "fold0" / "last.pt").exists()
