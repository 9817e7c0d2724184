"""sweep.py: its file, its table, and as a user runs it, with a stand-in for train.py that takes no time and once with train.py."""

import contextlib
import fcntl
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import until

import errors
import files
import metrics
import options
import predictions
import sweep
import train
from errors import InputError
from sweep import Row

ROOT = Path(__file__).parent.parent
REFUSALS = sweep.refusals
STAND_IN = '''
"""Makes a run folder of --folds as train.py does; on SIGTERM it saves its state, which is a file, and goes on from it."""
import argparse, json, os, signal, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
for option in ("--name", "--output-dir", "--resume", "--right", "--fold-seed", "--seed"):
    parser.add_argument(option)
parser.add_argument("--seconds", type=float, default=0)
parser.add_argument("--fail", action="store_true")
args, _others = parser.parse_known_args()
run = Path(args.resume or Path(args.output_dir) / args.name)
if not args.resume:
    run.mkdir(parents=True)
    (run / "args.yaml").write_text("# python train.py " + " ".join(sys.argv[1:]) + "\\ntarget: gender\\nkfold: 2\\n")
    (run / "folds.csv").write_text(f"path,fold\\np0,{args.fold_seed or args.seed}\\n")

def stop(number, frame):
    (run / "saved").write_text("half")
    print("stopped by SIGTERM", flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
(run / "pid").write_text(str(os.getpid()))
print("a line\\rerror: not this one of a bar\\n", flush=True)
if args.fail:
    sys.exit("error: the training loss is nan\\na note")
if not args.resume:
    time.sleep(args.seconds)
rows = [f"p{i}/normal.jpg,p{i},0,{i // 2},{1 - int(a)},{a}" for i, a in enumerate(args.right or "0011")]
(run / "oof.csv").write_text("image,path,fold,target,p0,p1\\n" + "\\n".join(rows) + "\\n")
(run / "mistakes.png").write_bytes(b"")
(run / "summary.json").write_text(json.dumps({"folds": [{"fold": 0}, {"fold": 1}], "oof_f1": 0.5, "seconds": 7.0}))
'''


@pytest.fixture
def place(tmp_path, monkeypatch, handlers):
    """A working folder in which sweep.py starts the stand-in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(sweep, "TRAIN", tmp_path / "stand_in.py")
    monkeypatch.setattr(sweep, "refusals", lambda experiments: [None] * len(experiments))
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.01)
    return tmp_path


def swept(text, *argv):
    Path("sweep.txt").write_text(text)
    return errors.run(lambda: sweep.main(["sweep.txt", *map(str, argv)]))


def without_times(text):
    """`text` with T for every duration, which the machine decides."""
    return re.sub(r"\b\d+ (s|min)\b", "T", text)


def commands():
    return {path.parent.name: path.read_text().partition("\n")[0] for path in sorted(Path("runs").glob("*/args.yaml"))}


def job(tmp_path, text):
    (tmp_path / "sweep.txt").write_text(text)
    return sweep.make_jobs(sweep.read_plan(tmp_path / "sweep.txt"), [1], tmp_path / "runs")[0]


def make_run(folder, command, folds=(0, 1), kfold=2):
    """A run folder as train.py leaves it, as far as a sweep looks into it."""
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(f"# {shlex.join(['python', 'train.py', *command])}\ntarget: mask\nkfold: {kfold}\n")
    (folder / "summary.json").write_text(json.dumps({"folds": [{"fold": fold} for fold in folds]}))
    (folder / "mistakes.png").write_bytes(b"")


def test_experiments_have_the_common_options_before_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("FACES", "my faces")
    common = ("--data-dir", "my faces", "--epochs", "3", "--label-fixes", "my faces/fixes.csv")
    (tmp_path / "sweep.txt").write_text("""
# two losses
common: --data-dir $FACES --epochs 3   # short
common: --label-fixes "${FACES}/fixes.csv"

baseline:
focal:   --loss focal --gamma=1
many: --epochs 9 --no-pretrained --drop-ages 27 28
""")  # fmt: skip
    baseline, focal, many = sweep.read_plan(tmp_path / "sweep.txt")
    assert (baseline.name, baseline.own, baseline.words) == ("baseline", (), common)
    assert focal.words == (*common, "--loss", "focal", "--gamma=1") and focal.place.endswith("sweep.txt line 7")
    assert many.own == ("--epochs", "9", "--no-pretrained", "--drop-ages", "27", "28")
    given = {"--epochs": ["9"], "--no-pretrained": [], "--drop-ages": ["27", "28"]}
    assert sweep.options_of(many.own) == given and sweep.options_of(focal.own)["--gamma"] == ["1"]
    jobs = sweep.make_jobs((baseline, focal), [3, 1], tmp_path / "runs")  # one seed after the other
    assert [job.name for job in jobs] == ["baseline-s3", "focal-s3", "baseline-s1", "focal-s1"]


@pytest.mark.parametrize(("text", "message"), [
    (b"a:\nb: --loss 'ce\n", r"sweep.txt line 2: No closing quotation \(in \"--loss 'ce\"\)"),
    (b"mix:\n\n# x\nMix: --ema 0.9\n", "sweep.txt line 4: Mix appears twice, first in line 1"),
    (b"../a: --ema 0.9\n", r"sweep.txt line 1: takes NAME: OPTIONS, the name of letters.*found '../a: --ema 0.9'"),
    (b"--loss ce\n", "sweep.txt line 1: takes NAME: OPTIONS"),
    (b"a: halves --mix\n", "sweep.txt line 1: 'halves' follows no option"),
    (b"common: --output_dir=x\na:\n", "sweep.txt line 1: --output-dir is given by sweep.py"),
    (b"a:\ncommon: --epochs 3\n", "sweep.txt line 2: common stands below an experiment"),
    (b"a: --data-dir $NOT_SET_HERE\n", r"sweep.txt line 1: \$NOT_SET_HERE is not set; export NOT_SET_HERE=... first"),
    (b"\xff\xfe\x00", r"sweep.txt: damaged \('utf-8' codec"),
])  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, message):
    (tmp_path / "sweep.txt").write_bytes(text)
    with pytest.raises(InputError, match=message):
        sweep.read_plan(tmp_path / "sweep.txt")


def test_a_run_is_finished_when_all_folds_it_was_asked_for_are(tmp_path):
    one = job(tmp_path, "a:\n")
    assert one.is_new and not one.is_finished
    make_run(one.run, [], folds=[0])
    assert not one.is_new and not one.is_finished
    assert job(tmp_path, "a: --fold 0\n").is_finished and not job(tmp_path, "a: --fold 0 1\n").is_finished
    (one.run / "summary.json").write_text(json.dumps({"folds": [{"fold": 0}, {"fold": 1}]}))
    assert one.is_finished
    (one.run / "mistakes.png").unlink()  # killed as it drew
    assert not one.is_finished
    make_run(tmp_path / "runs" / "b-s1", [], folds=[0], kfold=0)
    make_run(tmp_path / "runs" / "c-s1", [], folds=[0], kfold=10**15)  # of a damaged file: no memory holds so many numbers
    assert [job(tmp_path, f"{name}:\n").is_finished for name in "bc"] == [True, False]
    (tmp_path / "runs" / "b-s1" / "summary.json").unlink()
    assert not job(tmp_path, "b:\n").is_finished


def test_a_damaged_run_or_one_of_other_options_is_refused(tmp_path):
    make_run(tmp_path / "runs" / "b-s1", [])
    (tmp_path / "runs" / "b-s1" / "args.yaml").write_text("target: mask\n")
    with pytest.raises(InputError, match=r"args.yaml: damaged .*train.py. is not in list"):
        job(tmp_path, "b:\n").check()
    make_run(tmp_path / "runs" / "a-s1", job(tmp_path, "a: --epochs 3 --loss=ce\n").command(threads=2)[1:])
    for same in ("a: --loss ce --epochs 3\n", "common: --epochs 1\na: --epochs=3 --loss ce\n",
                 "a: --epochs 3 --loss ce --cache_dir elsewhere --device cpu --fold 0 --quiet\n"):  # fmt: skip
        job(tmp_path, same).check()
    for other, message in [
        ("common: --epochs 2\na: --loss ce\n", "a-s1: was started with --epochs 3, and .*sweep.txt line 2 now says --epochs 2"),
        ("a: --loss ce --ema 0.9 --epochs 3\n", "with no --ema, and .*sweep.txt line 1 now says --ema 0.9; give"),
        ("common:\na: --loss ce\n", "with --epochs 3, and .*sweep.txt line 2 now says no --epochs"),
        ("a: --epochs 3 --loss ce --threads 1\n", "with --threads 2, and .* now says --threads 1"),
        ("a: --epochs 4 --loss f1\n", "with --epochs 3 --loss ce, and .* now says --epochs 4 --loss f1"),
    ]:
        with pytest.raises(InputError, match=message):
            job(tmp_path, other).check()


def write_run(folder, answers, truth=(0, 0, 1, 1), seconds=10.0, kfold=2):
    """A finished run of target gender with one image of each person; returns it as read."""
    folder.mkdir(parents=True)
    images = pd.DataFrame({"image": [f"p{i}/normal.jpg" for i in range(len(truth))]})
    images["path"] = images["image"].str[:2]
    table = predictions.oof_table(images, 0, "gender", np.array(truth)[:, None], np.eye(2)[list(answers)])
    shuffled = table.sample(frac=1, random_state=sum(answers) + int(seconds))  # the order of rows must not matter
    shuffled.to_csv(folder / "oof.csv", index=False)
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": "gender", "kfold": kfold}))
    (folder / "summary.json").write_text(json.dumps({"seconds": seconds}))
    (folder / "folds.csv").write_text("path,fold\np0,0\n")
    return sweep.read_run(folder)


def test_scores_and_differences_by_hand(tmp_path):
    """Truth 0 0 1 1. Answers 0 0 1 0: class 0 has tp 2 of 3 + 2, 4/5, class 1 tp 1 of 1 + 2, 2/3, macro 11/15; 0 1 1 1 has
    11/15 too, the right ones 1. Baseline 11/15 and 11/15, sd 0; mix 1 and 11/15, mean 13/15, sd (4/15) / sqrt(2) = 0.1886.
    Differences 4/15 and 0: mean 2/15, sd 0.1886 again. Seconds 10 and 20: 15. A nofold run has a time and no score."""
    base = {1: write_run(tmp_path / "b1", (0, 0, 1, 0)), 2: write_run(tmp_path / "b2", (0, 1, 1, 1))}
    mix = {1: write_run(tmp_path / "m1", (0, 0, 1, 1)), 2: write_run(tmp_path / "m2", (0, 0, 1, 0), seconds=20.0)}
    nofold = {1: write_run(tmp_path / "n", (0, 0, 1, 1), kfold=0)}
    listed = [("base", ""), ("mix", "--mix halves"), ("n", "--kfold 0")]
    first, second, third = sweep.compare_rows(listed, {"base": base, "mix": mix, "n": nofold})
    assert first.f1 == pytest.approx([11 / 15, 11 / 15]) and (first.differences, first.mean) == ([], None)
    assert second.differences == pytest.approx([4 / 15, 0]) and second.seconds == 15
    answers = [[0, 0, 1, 1], [0, 0, 1, 0]], [[0, 0, 1, 0], [0, 1, 1, 1]]
    samples = metrics.bootstrap_difference([0, 0, 1, 1], *answers, list("abcd"), 2)
    assert second.mean == pytest.approx((2 / 15, *metrics.interval(samples)))
    assert first.cells() == ["base", "2", "0.7333 ± 0.0000", "-", "-", "-", "-", "10 s"]
    assert second.cells()[:4] == ["mix", "2", "0.8667 ± 0.1886", "+0.1333"]
    assert second.cells()[5:] == ["0.1886", "noise", "15 s"]
    assert third.cells() == ["n", "1", "-", "-", "-", "-", "-", "10 s"]


@pytest.mark.parametrize(("differences", "low", "high", "verdict"), [
    ([0.019, 0.021], 0.01, 0.03, "better"),  # 0.02 > 12.706 * 0.001414 / sqrt(2) = 0.0127
    ([0.018, 0.022], 0.01, 0.03, "noise"),  # 0.02 < 0.0254
    ([0.01, 0.02, 0.03], 0.01, 0.03, "noise"),  # 0.02 < 4.303 * 0.01 / sqrt(3) = 0.0248: another seed might turn it
    ([-0.0125, -0.02, -0.0275], -0.03, -0.01, "worse"),  # 0.02 > 4.303 * 0.0075 / sqrt(3) = 0.0186
    ([0.02, 0.02, 0.02], -0.01, 0.05, "noise"),
])  # fmt: skip
def test_verdicts_ask_people_and_seeds(differences, low, high, verdict):
    assert Row("a", "", "label", 3, [], 1.0, differences, predictions.Difference(0, low, high)).verdict == verdict


def test_targets_are_told_from_each_other_and_seeds_without_a_partner_are_left_out(tmp_path):
    one, other = write_run(tmp_path / "a", (0, 0, 1, 0)), write_run(tmp_path / "b", (0, 0, 1, 1))
    masks, long = other._replace(scored_as="mask"), "longer" * 12
    listed = [("base", ""), (long, "--ema 0.9"), ("masks", "--target mask"), ("later", "")]
    rows = sweep.compare_rows(listed, {"base": {1: one}, long: {1: other, 2: other, 3: one}, "masks": {1: masks}})
    assert [(row.seeds, len(row.f1), len(row.differences), row.verdict) for row in rows] == [
        (1, 1, 0, "-"), (3, 3, 1, "one seed"), (1, 1, 0, "-")]  # fmt: skip
    assert sweep.remarks(rows, "base") == [
        f"{long}: difference of 1 of its 3 seeds, those of base too", "masks is scored on mask, base on gender: no difference"]  # fmt: skip
    lines = files.aligned(sweep.HEAD, [row.cells() for row in rows], left=(0, 6), width=100)
    assert len(lines) == 4 and max(map(len, lines)) <= 100
    assert "...ongerlonger " in lines[2] and lines[2].split()[-4:] == ["one", "seed", "10", "s"]
    assert f"| `{long}` | `--ema 0.9` | 3 | 0." in sweep.ablation_markdown(rows)[3]
    rows = sweep.compare_rows(listed, {long: {1: other}})
    assert rows[0].verdict == "-" and "no run of the baseline base is finished" in sweep.remarks(rows, "base")[0]
    assert sweep.compare_rows(listed, {}) == [] and sweep.remarks([], "base") == []


@pytest.mark.parametrize(("truth", "folds", "message"), [
    ((0, 0, 1, 1), 1, r"b/folds.csv: other folds than in .*a; put --fold-seed 0 into the common line"),
    ((0, 0, 1), 0, r"b/oof.csv: other images than in .*a; let all train the same folds"),
    ((0, 1, 1, 1), 0, r"b/oof.csv: other official labels than in .*a; compare runs of the same data"),
    ((0, 0, 1, 1), None, r"b/folds.csv: no such file"),
])  # fmt: skip
def test_runs_of_other_folds_images_or_labels_are_no_pair(tmp_path, truth, folds, message):
    one, _other = write_run(tmp_path / "a", (0, 0, 1, 1)), write_run(tmp_path / "b", truth, truth)
    (tmp_path / "b" / "folds.csv").unlink()
    if folds is not None:
        (tmp_path / "b" / "folds.csv").write_text(f"path,fold\np0,{folds}\n")
    with pytest.raises(InputError, match=message):
        sweep.compare_rows([("a", ""), ("b", "")], {"a": {1: one}, "b": {1: sweep.read_run(tmp_path / "b")}})


TWO = "common: --fold-seed 0\nbase: --right 0010\nmix: --right 0011\n"


def test_every_experiment_runs_once_with_every_seed_and_is_compared(place, capsys, monkeypatch):
    assert swept(TWO, "--table") == 0 and capsys.readouterr().out == "no run is finished yet\n"
    assert swept(TWO, "--seeds", 1, 2) == 0
    out, err = capsys.readouterr()
    own = "--seed 2 --name mix-s2 --output-dir runs --quiet"
    assert len(commands()) == 4 and commands()["mix-s2"] == f"# python train.py --fold-seed 0 --right 0011 {own}"
    lines = err.splitlines()
    assert lines[0] == "4 runs, 0 of them finished"
    assert [line.partition(":")[0] for line in lines if line.endswith(": starts")] == ["base-s1", "mix-s1", "base-s2", "mix-s2"]
    assert without_times(lines[2]) == "base-s1: OOF F1 0.5000, T; 3 left, about T"
    assert without_times(lines[-1]) == "mix-s2: OOF F1 0.5000, T; 0 left"
    assert out.splitlines()[1].split()[:5] == ["base", "2", "0.7333", "±", "0.0000"]
    assert out.splitlines()[2].split()[4:6] == ["0.0000", "+0.2667"]
    log = Path("runs/.sweep/mix-s2.log").read_text()
    assert log.startswith("$ python train.py --fold-seed 0") and "a line" in log
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.is_file()}
    monkeypatch.setattr(subprocess, "Popen", None)
    assert swept(TWO, "--seeds", 1, 2) == 0 and capsys.readouterr() == (out, "4 runs, 4 of them finished\n")
    assert swept(TWO, "--seeds", 1, 2, "--table") == 0 and capsys.readouterr() == (out, "")
    assert swept(TWO, "--table", "--markdown", "--seeds", 1) == 0
    assert "| `mix` | `--right 0011` | 1 | 1.0000 | +0.2667 |" in capsys.readouterr().out
    assert swept(f"{TWO}later:\n", "--table", "--seeds", 1) == 0 and "2 of 3 runs are finished." in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.is_file()}


def test_a_dry_run_only_lists_and_a_changed_line_is_refused_before_anything_starts(place, capsys):
    assert swept("base: --fold 0 1 --device cpu --epochs 3\n") == 0
    (place / "runs" / "base-s42" / "summary.json").unlink()
    capsys.readouterr()
    assert swept("base: --fold 0 1 --device cpu --epochs 3\nmix: --ema 0.9\n", "--dry-run", "--jobs", 1) == 0
    on, new = (
        "--resume runs/base-s42 --fold 0 1 --device cpu --quiet",
        "--ema 0.9 --seed 42 --name mix-s42 --output-dir runs --quiet",
    )
    assert capsys.readouterr().out == f"goes on   python train.py {on}\nstarts    python train.py {new}\n"
    assert swept("new:\nbase: --epochs 3 --ema 0.9\n") == 2
    assert "runs/base-s42: was started with no --ema, and sweep.txt line 2 now says --ema 0.9" in capsys.readouterr().err
    assert list(commands()) == ["base-s42"]


def test_a_failing_experiment_does_not_stop_the_others_nor_does_one_that_ends_without_its_files_or_by_a_signal(place, capsys):
    assert swept("base:\nbad: --fail\nlast:\n") == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    said = "error: the training loss is nan (exit code 1, runs/.sweep/bad-s42.log)"
    assert without_times(lines[4]) == f"bad-s42: failed after T: {said}; 1 left, about T"
    assert lines[-1] == "failed: bad-s42; the same command tries them again"
    assert (place / "runs" / "last-s42" / "summary.json").exists() and "2 of 3 runs are finished" in out
    assert swept("base:\nbad: --fail\nlast:\n") == 0  # the stand-in fails at its start alone; the folder is there
    assert "bad-s42: goes on" in capsys.readouterr().err
    for code, told in (("pass", "exit code 0"), ("os.kill(os.getpid(), 9)", "killed by SIGKILL")):
        sweep.TRAIN.write_text(f"import os\n{code}\n")
        assert swept("other:\n") == 1
        line = f"other-s42: failed after T: no output ({told}, runs/.sweep/other-s42.log); 0 left"
        assert line in without_times(capsys.readouterr().err)


def test_seeds_with_folds_of_their_own_make_no_table(place, capsys):
    assert swept("base:\n", "--seeds", 1, 2) == 2
    _count, first, *_lines, last = capsys.readouterr().err.splitlines()
    assert first.startswith("each seed has folds of its own, so no table will compare them: --fold-seed 0 in the common line")
    assert last.startswith("error: runs/base-s2/folds.csv: other folds than in runs/base-s1") and len(commands()) == 2


def test_as_many_at_once_as_asked_each_on_its_part_of_the_threads(place, monkeypatch, capsys):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    assert swept("a: --seconds 0.3\nb: --seconds 0.3\nc: --threads 1\nd:\ne: --parallel-folds 3\n", "--jobs", 2) == 0
    lines = capsys.readouterr().err.splitlines()[1:]
    assert np.cumsum([1 if line.endswith(": starts") else -1 for line in lines]).max() == 2
    assert [re.findall(r"--threads (\d)", line) for line in commands().values()] == [["3"], ["3"], ["1"], ["3"], ["1"]]


LONG = "a: --seconds 600\nb: --seconds 600\nc: --seconds 0\n"
SWEEP = (
    "import sys, pathlib, errors, sweep; sweep.TRAIN = pathlib.Path('stand_in.py'); "
    "sweep.refusals = lambda experiments: [None] * len(experiments); sys.exit(errors.run(sweep.main))"
)


def is_alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGTERM, 143), (signal.SIGINT, 130),
    pytest.param(signal.SIGKILL, -9, marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")),
])  # fmt: skip
def test_runs_of_a_sweep_that_a_signal_ends_save_their_state_and_the_same_command_goes_on(place, capsys, number, code):
    """The sweep has a process group of its own, as a terminal gives it."""
    Path("sweep.txt").write_text(LONG)
    argv, environment = [sys.executable, "-c", SWEEP, "sweep.txt", "--jobs", "2"], {**os.environ, "PYTHONPATH": str(ROOT)}
    sweeping = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=environment, process_group=0)
    try:
        begun = [place / "runs" / name / "pid" for name in ("a-s42", "b-s42")]
        until(lambda: all(file.exists() and file.read_text() for file in begun))
        os.killpg(sweeping.pid, number)  # as Ctrl-C does: the runs are asked once all the same, and by SIGTERM
        err = sweeping.communicate(timeout=120)[1]
    finally:
        sweeping.kill()
    last = "stopped; 0 of 3 runs are finished, others go on with: python sweep.py sweep.txt --jobs 2"
    assert sweeping.returncode == code and (err.splitlines()[-1] == last) == (code > 0), err
    until(lambda: not any(is_alive(int(file.read_text())) for file in begun))
    assert all((file.parent / "saved").exists() for file in begun)
    assert swept(LONG, "--jobs", 2) == 0 and "a-s42: goes on" in capsys.readouterr().err


def test_what_another_process_trains_is_waited_for_and_never_started_twice(place, capsys):
    """Another sweep holds the log of `a` and leaves the run finished when it lets go."""
    (place / "runs" / ".sweep").mkdir(parents=True)
    held = open(place / "runs" / ".sweep" / "a-s42.log", "w")  # noqa: SIM115
    fcntl.flock(held, fcntl.LOCK_EX)

    def train_elsewhere():
        until((place / "runs" / "b-s42" / "summary.json").exists)
        subprocess.run([sys.executable, sweep.TRAIN, "--name", "a-s42", "--output-dir", "runs", "--seed", "42"], check=True)
        held.close()

    threading.Thread(target=train_elsewhere).start()
    assert swept("a:\nb:\n") == 0
    err = capsys.readouterr().err
    assert err.count("a-s42: another process trains it; waits for its end") == 1
    assert "a-s42: OOF F1 0.5000, by another process; 0 left" in err and "a-s42: starts" not in err


def test_the_lock_of_a_log_lives_as_long_as_the_run(place):
    """A sweep that was killed leaves it with the run that still writes."""
    log = place / "x.log"
    handle = sweep.open_log(log)
    writer = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=handle)
    os.close(handle)
    assert sweep.open_log(log) is None
    writer.communicate(b"\n")
    os.close(sweep.open_log(log))


def test_experiments_with_runs_to_come_are_asked_of_train_before_the_first_starts(place, monkeypatch, capsys, shared_data):
    """By a process, which is given each one's words; here a forked one would have to import torch again."""

    def process(words, input, **_options):
        asked.append((words[1], len(json.loads(input))))
        return subprocess.CompletedProcess(words, code, json.dumps(options.refusals(json.loads(input))), "x\nNo module\n")

    asked, code = [], 0
    assert swept("c:\n") == 0  # what is finished may have learnt from what is no longer there
    monkeypatch.setattr(sweep, "refusals", REFUSALS)
    monkeypatch.setattr(subprocess, "run", process)
    text = f"c:\na: --data-dir {shared_data} --no-pretrained\nb: --data-dir {shared_data} --lr 1x\n"
    assert swept(text) == 2 and "error: sweep.txt line 3: argument --lr: 1x is not a number" in capsys.readouterr().err
    assert asked == [(ROOT / "options.py", 2)] and list(commands()) == ["c-s42"]
    (place / "o.yaml").write_text("fold: [0]\npretrained: false\n")
    own = f"c:\na: --config o.yaml --data-dir {shared_data} --fold=1\nb: --config o.yaml --data-dir {shared_data}\n"
    assert swept(own) == 2 and "sweep.txt line 3: --config o.yaml: sweep.py takes fold from" in capsys.readouterr().err
    (place / "o.yaml").write_text("dry_run: true\npretrained: false\n")
    assert swept(own) == 2 and "sweep.txt line 2: --config o.yaml: dry_run would train nothing" in capsys.readouterr().err
    code = 1
    assert swept(text) == 2 and "options.py: fails; No module" in capsys.readouterr().err


def train_here(argv, **_options):
    """In place of subprocess.Popen of train.py, which would have to import torch."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = errors.run(lambda: train.main(argv[2:]))
    return SimpleNamespace(pid=0, returncode=code, poll=lambda: code, wait=lambda timeout=None: code)


def test_a_sweep_of_real_runs(shared_data, workplace, place, monkeypatch, capsys):
    """Two experiments with two seeds on the tiny competition; then one of them loses its summary and goes on."""
    monkeypatch.setattr(sweep, "subprocess", SimpleNamespace(Popen=train_here, STDOUT=None, DEVNULL=None))
    monkeypatch.setattr(train, "draw_pictures", lambda args, run, device: (run / "mistakes.png").touch())
    monkeypatch.setattr(train, "draw_batch", lambda fit, run: None)
    text = f"""
    common: --data-dir {shared_data} --cache-dir {workplace / "cache"} --target mask --model test_resnet --no-pretrained
    common: --img-size 32 24 --kfold 2 --epochs 1 --batch-size 16 --lr 3e-3 --device cpu --memory-format channels_last
    common: --amp off --threads 1 --fold-seed 0
    base:
    longer: --epochs 2
    """
    assert swept(text, "--seeds", 1, 2) == 0
    out, err = capsys.readouterr()
    scores = {path.parent.name: json.loads(path.read_text())["oof_f1"] for path in place.glob("runs/*/summary.json")}
    assert all(f"{name}: OOF F1 {score:.4f}" in err for name, score in scores.items()) and len(scores) == 4
    assert {name: sweep.read_run(place / "runs" / name).f1 for name in scores} == pytest.approx(scores, abs=1e-6)
    assert out.splitlines()[2].split()[:3] == ["longer", "2", f"{(scores['longer-s1'] + scores['longer-s2']) / 2:.4f}"]
    (place / "runs" / "longer-s2" / "summary.json").unlink()
    assert swept(text, "--seeds", 1, 2) == 0
    again, err = capsys.readouterr()
    assert "longer-s2: goes on" in err and "base-s1" not in err and again == out
