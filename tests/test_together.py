"""Two commands at once, as processes of their own: nothing is lost, mixed up or done twice.

python -m pytest tests/test_together.py -m slow
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from conftest import SAME_BITS, SETTINGS, assert_same_run, until, until_told

import dataset
import files
import images
import options
import predictions
import train
from files import make_dir

ROOT = Path(__file__).parent.parent


def test_predictions_of_a_run_are_made_by_one_process_at_a_time(tmp_path, capsys):
    """The second wants one run more, in another order, and waits; what a killed process left is gone, but not training's."""
    two_runs = [tmp_path / "a", tmp_path / "b"]
    for run in two_runs:
        (run / "fold0").mkdir(parents=True)
        (run / "args.yaml").write_text("target: mask\n")
    leftovers = [two_runs[0] / ".submission.csv.77.tmp.csv", two_runs[0] / "fold0" / ".eval_hflip.json.77.tmp.json"]
    training = two_runs[0] / "fold0" / ".oof.csv.78.tmp.csv"
    for path in (*leftovers, training):
        path.write_text("half")
    begun = threading.Event()

    def second():
        with predictions.predicting(two_runs[::-1]):
            begun.set()

    with predictions.predicting(two_runs[:1]), files.lock(two_runs[0], "training holds the folder meanwhile"):
        waiting = threading.Thread(target=second)
        waiting.start()
        until_told("waiting for another process")
        assert not begun.is_set()
    waiting.join(60)
    assert begun.is_set()
    assert capsys.readouterr().err == f"waiting for another process that predicts with {two_runs[0]}\n"
    assert [path.exists() for path in (*leftovers, training)] == [False, False, True]


class Command:
    """A script in a process of its own, with what it says."""

    def __init__(self, script, *options, cwd=None):
        argv = [sys.executable, str(ROOT / script), *map(str, options)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(argv, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)

    def end(self):
        out, err = self.process.communicate(timeout=600)
        assert "Traceback" not in err, err
        return self.process.returncode, out, err


def ends(*commands):
    """(exit codes, stdouts, stderrs), which must hold no traceback."""
    return [*zip(*(command.end() for command in commands))]


def training(data, place, *options):
    return ["--data-dir", data, "--cache-dir", place / "cache", "--output-dir", place / "runs", *SETTINGS, *options]


def last_error(stderr):
    line = stderr.splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.slow
def test_two_new_runs_of_one_name_and_of_none(shared_data, tmp_path):
    """One is made, the other refused in a line; without a name each has its own. The cache that all want is built once."""
    named = training(shared_data, tmp_path, "--name", "mine")
    unnamed = training(shared_data, tmp_path)
    codes, _outs, errs = ends(*(Command("train.py", *argv) for argv in (named, named, unnamed, unnamed)))
    assert sorted(codes[:2]) == [0, 2] and codes[2:] == (0, 0)
    assert "runs/mine: exists and is never overwritten" in last_error(errs[codes.index(2)])
    names = ["01-AdamW-StepLR-CE-v0-label_2fold", "01-AdamW-StepLR-CE-v1-label_2fold", "mine"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    assert_same_run(tmp_path / "runs" / names[0], tmp_path / "runs" / "mine")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    assert not list(tmp_path.rglob(".*tmp*"))


@pytest.mark.slow
def test_two_resumes_of_one_run(shared_data, tmp_path, fit):
    """The second is refused while the first trains, and a killed process holds nothing."""
    whole = fit("--threads", "1", name="whole")
    first = Command("train.py", *training(shared_data, tmp_path, "--name", "mine", "--save-minutes", "0.0001"))
    run = tmp_path / "runs" / "mine"
    until((run / "fold0" / "last.pt").exists)
    first.process.send_signal(signal.SIGSTOP)  # it lives, and holds its fold
    code, _out, err = Command("train.py", "--resume", run).end()
    assert code == 2 and f"{run}/fold0: another process is training it; wait for it or stop it" in last_error(err)
    first.process.kill()
    first.process.wait()
    codes, *_said = ends(Command("train.py", "--resume", run), Command("train.py", "--resume", run))
    assert sorted(codes) in ([0, 2], [0, 0])  # the second may have come when all was done
    assert_same_run(run, whole)


@pytest.mark.slow
def test_one_builds_the_cache_and_the_other_waits_and_says_so(shared_data, tmp_path):
    """Both wait for this test at first; then one builds, and the other finds it built."""
    args = options.parse_args(list(map(str, training(shared_data, tmp_path))))
    people = dataset.read_people(shared_data)
    paths = dataset.image_files(args.data_dir, dataset.list_images(args.data_dir, people)["image"])
    key = images.cache_key(paths, train.Geometry.of(args.img_size, args.crop, args.face_crop))
    lock = make_dir(tmp_path / "cache", "--cache-dir") / f"{key}.lock"
    with files.lock(lock, make=True):
        commands = [Command("train.py", *training(shared_data, tmp_path, "--name", name)) for name in ("a", "b")]
        said = [command.process.stderr.readline() for command in commands]
    assert said == [f"waiting for another process to build {tmp_path}/cache/{key}.npy\n"] * 2
    assert ends(*commands)[0] == (0, 0)
    assert_same_run(tmp_path / "runs" / "a", tmp_path / "runs" / "b")


@pytest.mark.slow
def test_one_draws_the_demo_set_and_the_other_waits(tmp_path):
    """Two fresh runs where no data is: one set, no bar in what is no terminal, and equal runs."""
    settings = ["--limit-people", "60", "--epochs", "1", "--fold", "0", *SAME_BITS]
    codes, _outs, errs = ends(*(Command("train.py", *settings, "--name", name, cwd=tmp_path) for name in ("a", "b")))
    assert codes == (0, 0) and not any("drawing the demo set" in err for err in errs)
    assert sorted("waiting for another process to draw data-demo/" in err for err in errs) == [False, True]
    assert dataset.is_demo(tmp_path / "data-demo")
    assert_same_run(tmp_path / "runs" / "a", tmp_path / "runs" / "b")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_leaderboard_scores_ensembles_and_predictions_at_once(fit, shared_data, workplace, tmp_path):
    """All scores are kept; of two ensembles of one name one is made, without a name both; predictions are made once."""
    runs = [fit("--target", target, name=f"together_{target}", output_dir=tmp_path / "runs") for target in ("multi", "label")]
    places = ["--data-dir", shared_data, "--cache-dir", workplace / "cache", "--device", "cpu"]
    predict = ["--models", *runs, *places]
    codes, outs, errs = ends(Command("inference.py", *predict), Command("inference.py", *predict))
    assert codes == (0, 0) and outs[0] == outs[1]
    assert sum("waiting for another process that predicts with" in err for err in errs) <= 1
    for run in runs:
        assert json.loads((run / "eval.json").read_text()) == {"folds": [0, 1], "tta": "none"}
    answers = pd.read_csv(runs[1] / "submission.csv")["ans"].to_numpy()
    assert (answers == pd.read_csv(runs[1] / "eval.csv").iloc[:, 1:].to_numpy().argmax(1)).all()
    out = tmp_path / "submissions"
    named, unnamed = [*predict, "--output-dir", out, "--name", "mine"], [*predict, "--output-dir", out]
    codes, _outs, errs = ends(*(Command("ensemble.py", *argv) for argv in (named, named, unnamed, unnamed)))
    assert sorted(codes[:2]) == [0, 2] and codes[2:] == (0, 0)
    assert "submissions/mine: exists and is never overwritten; choose another --name" in last_error(errs[codes.index(2)])
    assert sorted(path.name for path in out.iterdir()) == ["01-soft-2runs", "02-soft-2runs", "mine"]
    scores = [Command("leaderboard.py", "--lb", f"mine=0.{number}", cwd=tmp_path) for number in (71, 72, 73)]
    assert ends(*scores)[0] == (0, 0, 0)
    history = json.loads((out / "mine" / "lb.json").read_text())["history"]
    assert sorted(row["lb"] for row in history) == [0.71, 0.72, 0.73]
    assert not list(tmp_path.rglob(".*tmp*"))
