"""A run that was stopped and went on against one that never was: tolerance 0, wherever and however it stopped.

A hundred cells and more, each of which trains twice in forked processes: python -m pytest tests/test_resume.py -m slow
"""

import contextlib
import functools
import itertools
import json
import os
import signal
import time

import helpers
import pytest
from conftest import SETTINGS, assert_same_run, without_pictures
from helpers import assert_equal, without_times

import engine
import errors
import experiment
import figures
import hardware
import images
import predictions
import train

CHANGES = {
    "plain": [],
    "EMA": ["--ema", "0.9"],
    "accumulation": ["--batch-size", "8", "--accum", "2", "--clip-grad", "1", "--dropout", "0.4", "--drop-path", "0.3"],
    "mixing": ["--mix", "cutmix", "--mix-rare", "--aug", "strong"],
    "bf16": ["--amp", "bf16"],
    "multi": ["--target", "multi", "--loss", "focal+f1", "--aux-age", "0.5"],
    "age": ["--target", "age", "--optimizer", "AdamP"],
}
MODES = {"one process": [], "torchrun with 2": [], "parallel folds": ["--parallel-folds", "2"]}
# Where it stops, and the function around which: by a signal in fold 0, but for the checkpoint, in whose middle it is killed.
STOPS = {
    "epoch end": (train, "keep_epoch"),
    "mid-epoch": (engine, "train_step"),
    "validation": (engine, "evaluate"),
    "checkpoint": (engine, "save_state"),
    "between folds": (experiment, "finish_fold"),
}


def stop_in(where, main):
    """In this process, `main` or one that it forks, stop fold 0 at that place of its second epoch."""
    owner, name = STOPS[where]
    work = getattr(owner, name)

    def strike():
        """A signal to the process that the user sees; of two ranks only the second gets one within an epoch."""
        if name not in ("train_step", "evaluate") or os.environ["RANK"] == os.environ["LAST_RANK"]:
            os.kill(main, signal.SIGTERM)
            time.sleep(0.5 if os.getpid() != main else 0)  # until it has handed on the request

    def stopping(*args, **options):
        if name == "save_state" and (args[1], args[2]["epoch"]) == (0, 3):
            experiment.state_file(*args[:2]).with_name(f".last.pt.{os.getpid()}.tmp.pt").write_bytes(b"PK" * 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "train_step" and (args[0].data.fold, args[0].epoch, args[0].step) == (0, 2, 2):
            strike()
        if name == "evaluate" and (args[0].data.fold, args[0].epoch) == (0, 2):
            asked = itertools.count()
            return work(args[0], lambda: (strike() if next(asked) == 1 else None, args[1]())[1])
        result = work(*args, **options)
        if (name == "finish_fold" and args[1] == 0) or (name == "keep_epoch" and (args[0].data.fold, args[0].epoch) == (0, 3)):
            strike()
        return result

    setattr(owner, name, stopping)


def process(where, said, argv):
    """train.main in a forked process, which stops itself at a place of STOPS (None: nowhere)."""
    hardware.START = "fork"
    if where:
        stop_in(where, os.getpid())
    with open(said, "a") as file, contextlib.redirect_stderr(file), contextlib.redirect_stdout(file):
        return errors.run(lambda: train.main(argv))


def exit_codes(mode, where, said, argv, pictures=None):
    """Of its processes; `pictures`: a context that lets them be drawn, which takes longer than all else."""
    world = 2 if mode == "torchrun with 2" else 1
    os.environ["LAST_RANK"] = str(world - 1)
    with pictures or without_pictures():
        return helpers.main_of_ranks(functools.partial(process, where, said), list(map(str, argv)), world)


def facts(run):
    """What must be equal of two runs besides what assert_same_run looks at: states and summary, without times."""
    summary = json.loads((run / "summary.json").read_text())
    for name in ("name", "options", "seconds", "images_per_second", "peak_memory_mib"):
        summary.pop(name)
    return summary, [without_times(engine.load_state(run, number)) for number in (0, 1)]


@pytest.fixture(scope="module")
def start(shared_data, tmp_path_factory):
    """start(mode, change, where, folder) -> exit codes of a new run in folder/run."""
    cache = tmp_path_factory.mktemp("cache")

    def run(mode, change, where, folder, *more, **pictures):
        places = ["--data-dir", shared_data, "--cache-dir", cache, "--output-dir", folder, "--name", "run"]
        argv = [*places, *SETTINGS, "--epochs", "3", "--keep-state", *CHANGES[change], *MODES[mode], *more]
        return exit_codes(mode, where, folder / "said.txt", argv, **pictures)

    return run


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """whole(mode, change) -> the run that never was stopped."""

    @functools.cache
    def run(mode, change):
        folder = tmp_path_factory.mktemp("whole")
        codes = start(mode, change, None, folder)
        assert not any(codes), (folder / "said.txt").read_text()
        return folder / "run"

    return run


@pytest.mark.slow
@pytest.mark.parametrize("where", STOPS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", MODES)
def test_it_goes_on_to_the_same_bits(start, whole, tmp_path, mode, change, where):
    codes, said, run = start(mode, change, where, tmp_path), tmp_path / "said.txt", tmp_path / "run"
    told = said.read_text()
    if where == "checkpoint" and mode != "parallel folds":
        assert codes[0] == -signal.SIGKILL, told
        assert list(run.glob("fold0/.last.pt.*.tmp*"))
    else:  # of parallel folds one process dies, the others are stopped
        assert codes[0] == (2 if where == "checkpoint" else 143), told
        assert "--resume" in told.splitlines()[-1] and "Traceback" not in told
    assert not (run / "summary.json").exists()
    if where == "validation" and mode != "parallel folds":
        state = engine.load_state(run, 0)
        assert (state["epoch"], state["step"]) == (2, 5) and "while validating; state saved" in told
    codes = exit_codes(mode, None, said, ["--resume", run, "--quiet"])
    assert not any(codes), said.read_text()
    assert_same_run(whole(mode, change), run)
    assert_equal(facts(whole(mode, change)), facts(run))
    assert not list(run.rglob(".*tmp*"))


PHASES = {
    "decoding": (images, "decode"),
    "measuring": (hardware, "choose_precision"),
    "opening": (experiment, "write_args"),
    "summary": (predictions, "write_summary"),
    "pictures": (figures, "confusion"),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", errors.EXIT_CODES)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_outside_of_training_leaves_nothing_half_done(start, tmp_path, monkeypatch, phase, number):
    """In the second call within the phase, if there are two; the run goes on where there is one by then."""
    owner, name = PHASES[phase]
    work, calls = getattr(owner, name), []

    def call(*args, **options):
        calls.append(args)
        if len(calls) == (2 if phase == "decoding" else 1):
            with contextlib.suppress(FileExistsError):
                (tmp_path / "sent").touch(exist_ok=False)
                os.kill(os.getppid() if phase == "decoding" else os.getpid(), number)  # images are decoded in a pool
        return work(*args, **options)

    monkeypatch.setattr(owner, name, call)
    more = ["--epochs", "1", "--cache-dir", tmp_path / "cache"]
    assert start("one process", "plain", None, tmp_path, *more, pictures=contextlib.nullcontext()) == [
        errors.EXIT_CODES[number]
    ]
    monkeypatch.undo()
    told, run = (tmp_path / "said.txt").read_text(), tmp_path / "run"
    assert "Traceback" not in told and not list(tmp_path.rglob("*tmp*"))
    begun = phase not in ("decoding", "measuring")
    assert run.exists() == begun and (f"Go on with: python train.py --resume {run}" in told.splitlines()[-1]) == begun
    if begun:
        again = ["--resume", run, "--quiet", "--cache-dir", tmp_path / "cache"]
        assert exit_codes("one process", None, tmp_path / "said.txt", again, contextlib.nullcontext()) == [0]
        assert (run / "mistakes.png").exists()
    else:
        assert start("one process", "plain", None, tmp_path, *more) == [0]
