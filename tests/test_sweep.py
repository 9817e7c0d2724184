"""sweep.py: its file, its table, and as a user runs it, with a stand-in for train.py that takes no time and once with train.py."""

import fcntl
import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import helpers
import joblib
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import until, without_pictures

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
for option in ("--name", "--output-dir", "--resume", "--right", "--ema", "--loss"):
    parser.add_argument(option)
parser.add_argument("--seconds", type=float, default=0)
for option in ("--seed", "--threads", "--fold-seed"):
    parser.add_argument(option, type=int)
parser.add_argument("--quiet", action="store_true")
parser.add_argument("--fail", action=argparse.BooleanOptionalAction)
args = parser.parse_args()
run = Path(args.resume or Path(args.output_dir) / args.name)
if not args.resume:
    run.mkdir(parents=True)
    (run / "args.yaml").write_text("# python train.py " + " ".join(sys.argv[1:]) + "\\ntarget: gender\\nkfold: 2\\n")
    folds = args.seed if args.fold_seed is None else args.fold_seed
    (run / "folds.csv").write_text(f"path,fold\\np0,{folds}\\n")

def stop(number, frame):
    (run / "saved").write_text("half")
    print("stopped by SIGTERM", flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
(run / "pid").write_text(str(os.getpid()))
print("a line\\rerror: not this one of a bar\\n", flush=True)
if args.fail:
    print("error: the training loss is nan", file=sys.stderr)
    sys.exit(2)
if not args.resume:
    time.sleep(args.seconds)
truth, answers = [0, 0, 1, 1], [int(digit) for digit in args.right or "0011"]
rows = [f"p{i}/normal.jpg,p{i},0,{t},{1 - a},{a}" for i, (t, a) in enumerate(zip(truth, answers))]
(run / "oof.csv").write_text("image,path,fold,target,p0,p1\\n" + "\\n".join(rows) + "\\n")
summary = {"folds": [{"fold": 0}, {"fold": 1}], "oof_f1": 0.5, "seconds": 7.0}
(run / "mistakes.png").write_bytes(b"")
(run / "summary.json").write_text(json.dumps(summary))
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder in which sweep.py starts the stand-in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(sweep, "TRAIN", tmp_path / "stand_in.py")
    monkeypatch.setattr(sweep, "refusals", lambda experiments: [None] * len(experiments))
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.01)
    before = {number: signal.getsignal(number) for number in errors.EXIT_CODES}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def swept(text, *argv):
    """The exit code of a sweep of a file with this text."""
    Path("sweep.txt").write_text(text)
    return errors.run(lambda: sweep.main(["sweep.txt", *map(str, argv)]))


def without_times(text):
    """`text` with T for every duration, which the machine decides."""
    return re.sub(r"\b\d+ (s|min)\b", "T", text)


def commands():
    """{run: the options it was started with}, from the runs' own records."""
    return {path.parent.name: path.read_text().partition("\n")[0] for path in sorted(Path("runs").glob("*/args.yaml"))}


# ---- the file ---------------------------------------------------------------------------------------------------------

SWEEP = """
# two losses
common: --data-dir "my faces" --epochs 3   # short
common: --loss ce

baseline:
focal:   --loss focal --gamma=1
many: --epochs 9 --no-pretrained --drop-ages 27 28
"""


def read(tmp_path, text):
    (tmp_path / "sweep.txt").write_text(text)
    return sweep.read_plan(tmp_path / "sweep.txt")


def job(tmp_path, text, seed=1):
    """The Job of a file's first experiment."""
    return sweep.make_jobs(read(tmp_path, text), [seed], tmp_path / "runs")[0]


def make_run(folder, command, folds=(0, 1), kfold=2, summary=True):
    """A run folder as train.py leaves it, as far as a sweep looks into it."""
    folder.mkdir(parents=True)
    options = yaml.safe_dump({"target": "mask", "kfold": kfold})
    (folder / "args.yaml").write_text(f"# {shlex.join(['python', 'train.py', *command])}\n{options}")
    if summary:
        (folder / "summary.json").write_text(json.dumps({"folds": [{"fold": fold} for fold in folds]}))
        (folder / "mistakes.png").write_bytes(b"")


def test_experiments_have_the_common_options_before_their_own(tmp_path):
    common = ("--data-dir", "my faces", "--epochs", "3", "--loss", "ce")
    baseline, focal, many = read(tmp_path, SWEEP)
    assert (baseline.name, baseline.own, baseline.words) == ("baseline", (), common)
    assert focal.words == (*common, "--loss", "focal", "--gamma=1")
    assert many.own == ("--epochs", "9", "--no-pretrained", "--drop-ages", "27", "28")
    assert focal.place.endswith("sweep.txt line 7")
    assert sweep.options_of(focal.words) == {
        "--data-dir": ["my faces"], "--epochs": ["3"], "--loss": ["focal"], "--gamma": ["1"]
    }  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [
    ("a:\nb: --loss 'ce\n", r"sweep.txt line 2: No closing quotation \(in \"--loss 'ce\"\)"),
    ("a:\n\n# x\na: --ema 0.9\n", "sweep.txt line 4: a stands twice, first in line 1"),
    ("mix:\nMix: --ema 0.9\n", "sweep.txt line 2: Mix stands twice, first in line 1"),
    ("Mix:\nmix: --ema 0.9\n", "sweep.txt line 2: mix stands twice, first in line 1"),
    ("a b: --ema 0.9\n", r"sweep.txt line 1: takes NAME: OPTIONS, the name of letters.*found 'a b: --ema 0.9'"),
    ("../a: --ema 0.9\n", "sweep.txt line 1: takes NAME: OPTIONS"),
    ("--loss ce\n", "sweep.txt line 1: takes NAME: OPTIONS"),
    ("a: halves --mix\n", "sweep.txt line 1: 'halves' follows no option"),
    ("a: --seed 3\n", "sweep.txt line 1: --seed is given by sweep.py; see its --seeds"),
    ("common: --output-dir=x\na:\n", "sweep.txt line 1: --output-dir is given by sweep.py"),
    ("a:\ncommon: --epochs 3\n", "sweep.txt line 2: common stands below an experiment"),
    ("# nothing\ncommon: --epochs 3\n", "sweep.txt: names no experiment"),
])  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_variables_of_the_environment_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("FACES", "my faces")
    text = 'common: --data-dir $FACES --cache-dir ${FACES}/cache\na: --label-fixes "$FACES/fixes.csv"\n'
    words = ("--data-dir", "my faces", "--cache-dir", "my faces/cache", "--label-fixes", "my faces/fixes.csv")
    assert read(tmp_path, text)[0].words == words
    monkeypatch.delenv("FACES")
    with pytest.raises(InputError, match=r"sweep.txt line 1: \$FACES is not set; export FACES=... first"):
        read(tmp_path, text)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(InputError, match=r"none.txt: no such file"):
        sweep.read_plan(tmp_path / "none.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bytes: damaged \('utf-8' codec"):
        sweep.read_plan(tmp_path / "bytes")


def test_all_experiments_of_a_seed_come_before_the_next_seed(tmp_path):
    jobs = sweep.make_jobs(read(tmp_path, "a:\nb:\n"), [3, 1], tmp_path / "runs")
    assert [job.name for job in jobs] == ["a-s3", "b-s3", "a-s1", "b-s1"]


def test_commands_of_new_runs_and_of_those_that_go_on(tmp_path):
    one = job(tmp_path, "a: --epochs 3 --fold 0 1 --device cpu\n", seed=7)
    own = ["--seed", "7", "--name", "a-s7", "--output-dir", str(tmp_path / "runs"), "--quiet"]
    assert one.command() == ["train.py", "--epochs", "3", "--fold", "0", "1", "--device", "cpu", *own]
    assert one.command(threads=4) == [*one.command(), "--threads", "4"]
    assert job(tmp_path, "a: --threads 1\n").command(threads=4)[-1] == "--quiet"
    assert job(tmp_path, "a: --parallel-folds 3\n").command(threads=8)[-2:] == ["--threads", "2"]
    make_run(one.run, one.command()[1:])
    assert one.command(threads=4) == ["train.py", "--resume", str(one.run), "--fold", "0", "1", "--device", "cpu", "--quiet"]


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
    assert job(tmp_path, "b:\n").is_finished
    make_run(tmp_path / "runs" / "c-s1", [], summary=False)
    assert not job(tmp_path, "c:\n").is_finished
    make_run(tmp_path / "runs" / "d-s1", [], folds=[0], kfold=10**15)  # of a damaged file: no memory holds so many numbers
    assert not job(tmp_path, "d:\n").is_finished


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "runs" / "a-s1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"a-s1: not a run of train.py \(it holds no args.yaml\)"):
        job(tmp_path, "a:\n").check()
    (tmp_path / "runs" / "a-s1" / "args.yaml").write_text("target: mask\n")
    with pytest.raises(InputError, match=r"args.yaml: damaged .*train.py. is not in list"):
        job(tmp_path, "a:\n").check()


def test_a_line_that_changed_since_is_refused(tmp_path):
    make_run(tmp_path / "runs" / "a-s1", job(tmp_path, "a: --epochs 3 --loss=ce\n").command(threads=2)[1:])
    for same in ("a: --loss ce --epochs 3\n", "common: --epochs 1\na: --epochs=3 --loss ce\n",
                 "a: --epochs 3 --loss ce --cache-dir elsewhere --device cpu --fold 0 --quiet\n"):  # fmt: skip
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


# ---- the table --------------------------------------------------------------------------------------------------------


def write_run(folder, answers, truth=(0, 0, 1, 1), seconds=10.0, target="gender"):
    """A finished run of target gender with one image of each person; returns it as read."""
    folder.mkdir(parents=True)
    images = pd.DataFrame({"image": [f"p{i}/normal.jpg" for i in range(len(truth))]})
    images["path"] = images["image"].str[:2]
    table = predictions.oof_table(images, 0, target, np.array(truth)[:, None], np.eye(2)[list(answers)])
    shuffled = table.sample(frac=1, random_state=sum(answers) + int(seconds))  # the order of rows must not matter
    shuffled.to_csv(folder / "oof.csv", index=False)
    return complete(folder, target, seconds)


def complete(folder, target, seconds=10.0, kfold=2):
    """Give a run that was written as its oof.csv the other files that are read; returns it as read."""
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": target, "kfold": kfold}))
    (folder / "summary.json").write_text(json.dumps({"seconds": seconds}))
    (folder / "folds.csv").write_text("path,fold\np0,0\n")
    return sweep.read_run(folder)


def test_scores_and_differences_by_hand(tmp_path):
    """Truth 0 0 1 1. Answers 0 0 1 0: class 0 has tp 2 of 3 + 2, 4/5, class 1 tp 1 of 1 + 2, 2/3, macro 11/15; 0 1 1 1 has
    11/15 too, the right ones 1. Baseline 11/15 and 11/15, sd 0; mix 1 and 11/15, mean 13/15, sd (4/15) / sqrt(2) = 0.1886.
    Differences 4/15 and 0: mean 2/15, sd 0.1886 again. Seconds 10 and 20: 15."""
    base = {1: write_run(tmp_path / "b1", (0, 0, 1, 0)), 2: write_run(tmp_path / "b2", (0, 1, 1, 1))}
    mix = {1: write_run(tmp_path / "m1", (0, 0, 1, 1)), 2: write_run(tmp_path / "m2", (0, 0, 1, 0), seconds=20.0)}
    first, second = sweep.compare_rows([("base", ""), ("mix", "--mix halves")], {"base": base, "mix": mix})
    assert first.f1 == pytest.approx([11 / 15, 11 / 15]) and (first.differences, first.low) == ([], None)
    assert second.differences == pytest.approx([4 / 15, 0]) and second.seconds == 15
    samples = metrics.bootstrap_mean_difference(
        [0, 0, 1, 1], [[0, 0, 1, 1], [0, 0, 1, 0]], [[0, 0, 1, 0], [0, 1, 1, 1]], list("abcd"), 2
    )
    assert (second.low, second.high) == pytest.approx(metrics.interval(samples))
    assert first.cells() == ["base", "2", "0.7333 ± 0.0000", "-", "-", "-", "-", "10 s"]
    assert second.cells()[:4] == ["mix", "2", "0.8667 ± 0.1886", "+0.1333"]
    assert second.cells()[5:] == ["0.1886", "noise", "15 s"]


@pytest.mark.parametrize(("differences", "low", "high", "verdict"), [
    ([0.02], 0.01, 0.03, "one seed"),
    ([0.019, 0.021], 0.01, 0.03, "better"),  # 0.02 > 12.706 * 0.001414 / sqrt(2) = 0.0127
    ([0.018, 0.022], 0.01, 0.03, "noise"),  # 0.02 < 0.0254
    ([0.0125, 0.02, 0.0275], 0.01, 0.03, "better"),  # 0.02 > 4.303 * 0.0075 / sqrt(3) = 0.0186
    ([0.01, 0.02, 0.03], 0.01, 0.03, "noise"),  # 0.02 < 0.0248: another seed might turn it
    ([-0.01, -0.02, -0.03], -0.03, -0.01, "noise"),
    ([-0.0125, -0.02, -0.0275], -0.03, -0.01, "worse"),
    ([0.02, 0.02, 0.02], -0.01, 0.05, "noise"),
    ([], None, None, "-"),
])  # fmt: skip
def test_verdicts_ask_people_and_seeds(differences, low, high, verdict):
    assert Row("a", "", "label", 3, [], 1.0, differences, low, high).verdict == verdict


@pytest.fixture(scope="module")
def simulated_runs(tmp_path_factory):
    """{experiment: {seed: Run}} of 150 people: a baseline, one as good, one less noisy, one of another target."""
    place, people, held = tmp_path_factory.mktemp("simulated"), helpers.People(150, 0), helpers.People(2, 1)
    found = {}
    for name, target, noise in (("base", "label", 1.5), ("alike", "multi", 1.5), ("better", "label", 1.0), ("age", "age", 1.5)):
        for seed in (1, 2, 3):
            folder = helpers.write_run(place / f"{name}-s{seed}", target, people, held, noise)
            found.setdefault(name, {})[seed] = complete(folder, target, kfold=5)
    return found


LISTED = [("base", ""), ("alike", "--target multi"), ("better", "--ema 0.9"), ("age", "--target age"), ("later", "")]


def test_what_is_better_is_told_from_noise_and_targets_from_each_other(simulated_runs):
    rows = {row.name: row for row in sweep.compare_rows(LISTED, simulated_runs)}
    assert list(rows) == ["base", "alike", "better", "age"]
    assert [row.verdict for row in rows.values()] == ["-", "noise", "better", "-"]
    assert rows["age"].scored_as == "age_group" and rows["age"].f1 and not rows["age"].differences
    notes = sweep.remarks(list(rows.values()), "base")
    assert notes == ["age is scored on age_group, base on label: no difference"]


def test_seeds_without_a_partner_are_left_out_and_said(simulated_runs):
    runs = {"base": {1: simulated_runs["base"][1]}, "better": simulated_runs["better"]}
    rows = sweep.compare_rows(LISTED, runs)
    assert (rows[1].seeds, len(rows[1].f1), len(rows[1].differences)) == (3, 3, 1)
    assert sweep.remarks(rows, "base") == ["better: difference of 1 of its 3 seeds, those of base too"]
    rows = sweep.compare_rows(LISTED, {"better": simulated_runs["better"]})
    assert rows[0].verdict == "-" and "no run of the baseline base is finished" in sweep.remarks(rows, "base")[0]
    assert sweep.compare_rows(LISTED, {}) == [] and sweep.remarks([], "base") == []


def test_tables(simulated_runs):
    long = [*LISTED[:2], ("better" * 12, "--ema 0.9"), LISTED[3]]
    runs = {{"better": "better" * 12}.get(name, name): seeds for name, seeds in simulated_runs.items()}
    rows = sweep.compare_rows(long, runs)
    lines = files.aligned(sweep.HEAD, [row.cells() for row in rows], left=(0, 6), fit=100)
    assert len(lines) == 5 and max(map(len, lines)) <= 100
    assert " ".join(lines[0].split()) == "experiment seeds OOF F1 difference 95 % interval sd verdict time"
    assert "...terbetter " in lines[3] and lines[3].split()[-3:] == ["better", "10", "s"]
    head, rule, base, _alike, better, _age = sweep.ablation_markdown(rows)
    assert head.count("|") == rule.count("|") == base.count("|") == better.count("|") == 10
    assert base.startswith("| `base` | | 3 | 0.") and f"| `{'better' * 12}` | `--ema 0.9` | 3 | 0." in better


def test_runs_of_other_folds_images_or_labels_are_no_pair(tmp_path):
    one, other = write_run(tmp_path / "a", (0, 0, 1, 1)), write_run(tmp_path / "b", (0, 0, 1, 1))
    other.folds = b"path,fold\np0,1\n"
    with pytest.raises(InputError, match=r"b/folds.csv: other folds than in .*a; put --fold-seed 0 into the common line"):
        sweep.compare_rows([("a", ""), ("b", "")], {"a": {1: one}, "b": {1: other}})
    other = write_run(tmp_path / "c", (0, 0, 1), truth=(0, 0, 1))
    with pytest.raises(InputError, match=r"c/oof.csv: other images than in .*a; let all train the same folds"):
        sweep.compare_rows([("a", ""), ("b", "")], {"a": {1: one}, "b": {1: other}})
    other = write_run(tmp_path / "d", (0, 0, 1, 1), truth=(0, 1, 1, 1))
    with pytest.raises(InputError, match=r"d/oof.csv: other official labels than in .*a; compare runs of the same data"):
        sweep.compare_rows([("a", ""), ("b", "")], {"a": {1: one}, "b": {1: other}})
    (tmp_path / "d" / "folds.csv").unlink()
    with pytest.raises(InputError, match=r"d/folds.csv: no such file"):
        sweep.read_run(tmp_path / "d")


def test_nofold_runs_have_a_time_and_no_score(tmp_path):
    (tmp_path / "n").mkdir()
    run = complete(tmp_path / "n", "mask", kfold=0)
    rows = sweep.compare_rows(
        [("a", ""), ("n", "--kfold 0")], {"a": {1: write_run(tmp_path / "a", (0, 0, 1, 1))}, "n": {1: run}}
    )
    assert rows[1].cells() == ["n", "1", "-", "-", "-", "-", "-", "10 s"]


# ---- running ----------------------------------------------------------------------------------------------------------

TWO = "common: --fold-seed 0\nbase: --right 0010\nmix: --right 0011\n"


def test_every_experiment_runs_with_every_seed_and_is_compared(place, capsys):
    assert swept(TWO, "--seeds", 1, 2) == 0
    out, err = capsys.readouterr()
    assert commands()["mix-s2"] == (
        "# python train.py --fold-seed 0 --right 0011 --seed 2 --name mix-s2 --output-dir runs --quiet"
    )
    assert len(commands()) == 4
    lines = err.splitlines()
    assert lines[0] == "4 runs, 0 of them finished"
    starts = [line.partition(":")[0] for line in lines if line.endswith(": starts")]
    assert starts == ["base-s1", "mix-s1", "base-s2", "mix-s2"]
    assert without_times(lines[2]) == "base-s1: OOF F1 0.5000, T; 3 left, about T"
    assert without_times(lines[-1]) == "mix-s2: OOF F1 0.5000, T; 0 left"
    assert out.splitlines()[1].split()[:5] == ["base", "2", "0.7333", "±", "0.0000"]
    assert out.splitlines()[2].split()[4:6] == ["0.0000", "+0.2667"]
    log = Path("runs/.sweep/mix-s2.log").read_text()
    assert log.startswith("$ python train.py --fold-seed 0") and "a line" in log


def test_finished_runs_are_passed_over_and_tables_need_no_training(place, capsys, monkeypatch):
    assert swept(TWO) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.is_file()}
    first = capsys.readouterr().out
    monkeypatch.setattr(subprocess, "Popen", None)
    assert swept(TWO) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (first, "2 runs, 2 of them finished\n")
    assert swept(TWO, "--table") == 0 and capsys.readouterr() == (first, "")
    assert swept(TWO, "--table", "--markdown") == 0
    assert "| `mix` | `--right 0011` | 1 | 1.0000 | +0.2667 |" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.is_file()}


def test_a_table_of_what_is_finished_so_far(place, capsys):
    assert swept(TWO, "--table") == 0 and capsys.readouterr().out == "no run is finished yet\n"
    assert swept("base: --right 0010\n") == 0
    capsys.readouterr()
    assert swept("base: --right 0010\nmix:\n", "--table") == 0
    out = capsys.readouterr().out
    assert "1 of 2 runs are finished." in out and out.splitlines()[1].startswith("base")


def test_a_dry_run_only_lists(place, capsys):
    assert swept("base:\n") == 0
    (place / "runs" / "base-s42" / "summary.json").unlink()
    capsys.readouterr()
    assert swept("base:\nmix: --ema 0.9\n", "--dry-run", "--jobs", 1) == 0
    assert capsys.readouterr().out.splitlines() == [
        "goes on   python train.py --resume runs/base-s42 --quiet",
        "starts    python train.py --ema 0.9 --seed 42 --name mix-s42 --output-dir runs --quiet",
    ]
    assert len(commands()) == 1


def test_a_failing_experiment_does_not_stop_the_others(place, capsys):
    assert swept("base:\nbad: --fail\nlast:\n") == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert without_times(lines[4]) == (
        "bad-s42: failed after T: error: the training loss is nan (exit code 2, runs/.sweep/bad-s42.log); 1 left, about T"
    )
    assert lines[-1] == "failed: bad-s42; the same command tries them again"
    assert (place / "runs" / "last-s42" / "summary.json").exists() and "2 of 3 runs are finished" in out
    assert swept("base:\nbad: --fail\nlast:\n") == 0  # the stand-in fails at its start alone; the folder is there
    assert "bad-s42: goes on" in capsys.readouterr().err


def test_a_run_that_ends_without_its_files_or_by_a_signal_has_failed(place, capsys):
    for code, told in (("pass", "exit code 0"), ("os.kill(os.getpid(), 9)", "killed by SIGKILL")):
        sweep.TRAIN.write_text(f"import os, sys\nif '--help' not in sys.argv:\n    {code}\n")
        assert swept("base:\n") == 1
        line = f"base-s42: failed after T: no output ({told}, runs/.sweep/base-s42.log); 0 left"
        assert line in without_times(capsys.readouterr().err)


def test_a_changed_line_is_refused_before_anything_starts(place, capsys):
    assert swept("base:\n") == 0
    assert swept("new:\nbase: --ema 0.9\n") == 2
    assert "runs/base-s42: was started with no --ema, and sweep.txt line 2 now says --ema 0.9" in capsys.readouterr().err
    assert list(commands()) == ["base-s42"]


def test_seeds_with_folds_of_their_own_make_no_table(place, capsys):
    assert swept("base:\nmix:\n", "--seeds", 1, 2) == 2
    _count, first, *_lines, last = capsys.readouterr().err.splitlines()
    assert first.startswith("each seed has folds of its own, so no table will compare them: --fold-seed 0 in the common line")
    assert last.startswith("error: runs/base-s2/folds.csv: other folds than in runs/base-s1")
    assert "put --fold-seed 0 into the common line" in last
    assert len(commands()) == 4


def test_as_many_at_once_as_asked_each_on_its_part_of_the_threads(place, monkeypatch):
    seen = []
    collect = sweep.Sweep.collect
    monkeypatch.setattr(sweep.Sweep, "collect", lambda self: (seen.append(len(self.running)), collect(self)))
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    assert swept("a: --seconds 0.3\nb: --seconds 0.3\nc: --threads 1\nd:\n", "--jobs", 2) == 0
    assert max(seen) == 2
    assert [line.count("--threads 3") for line in commands().values()] == [1, 1, 0, 1]


@pytest.fixture
def process(place):
    """process(*argv): sweep.py as a process that starts the stand-in, with a process group of its own, as a terminal gives it.

    A test that fails leaves none behind.
    """
    code = (
        "import sys, pathlib, errors, sweep; sweep.TRAIN = pathlib.Path('stand_in.py'); "
        "sweep.refusals = lambda experiments: [None] * len(experiments); sys.exit(errors.run(sweep.main))"
    )
    environment, started = {**os.environ, "PYTHONPATH": str(ROOT)}, []

    def begin(*argv):
        words = [sys.executable, "-c", code, *argv]
        started.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment, process_group=0))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


def pids(*names):
    """Wait until these runs have begun; their process ids."""
    files = [Path("runs") / name / "pid" for name in names]
    until(lambda: all(file.exists() and file.read_text() for file in files))
    return [int(file.read_text()) for file in files]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" if Path("/proc").is_dir() else True


LONG = "a: --seconds 600\nb: --seconds 600\nc: --seconds 0\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_handed_on_and_the_same_command_goes_on(place, process, capsys, number, code):
    Path("sweep.txt").write_text(LONG)
    sweeping = process("sweep.txt", "--jobs", "2")
    pids("a-s42", "b-s42")
    os.killpg(sweeping.pid, number)  # as Ctrl-C does: the runs are asked once all the same, and by SIGTERM
    err = sweeping.communicate(timeout=120)[1]
    assert sweeping.returncode == code, err
    assert err.splitlines()[-1] == "stopped; 0 of 3 runs are finished, others go on with: python sweep.py sweep.txt --jobs 2"
    assert all((place / "runs" / name / "saved").exists() for name in ("a-s42", "b-s42"))
    assert swept(LONG, "--jobs", 2) == 0
    assert "a-s42: goes on" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_runs_of_a_killed_sweep_save_their_state_and_end(place, process):
    Path("sweep.txt").write_text(LONG)
    sweeping = process("sweep.txt", "--jobs", "2")
    running = pids("a-s42", "b-s42")
    sweeping.kill()
    sweeping.communicate(timeout=120)
    until(lambda: not any(map(is_alive, running)))
    assert all((place / "runs" / name / "saved").exists() for name in ("a-s42", "b-s42"))


def test_what_another_process_trains_is_waited_for_and_never_started_twice(place, capsys, monkeypatch):
    """Another sweep holds the log of `a` and leaves the run finished when it lets go."""
    (place / "runs" / ".sweep").mkdir(parents=True)
    held = open(place / "runs" / ".sweep" / "a-s42.log", "w")  # noqa: SIM115
    fcntl.flock(held, fcntl.LOCK_EX)
    collect = sweep.Sweep.collect

    def until_b_is_done(self):
        collect(self)
        if not held.closed and (place / "runs" / "b-s42" / "summary.json").exists():
            subprocess.run([sys.executable, sweep.TRAIN, "--name", "a-s42", "--output-dir", "runs", "--seed", "42"], check=True)
            held.close()

    monkeypatch.setattr(sweep.Sweep, "collect", until_b_is_done)
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


def refused(experiments):
    """sweep.refusals without a process of its own."""
    return options.refusals([one.words for one in experiments])


def test_experiments_are_asked_of_train_before_the_first_starts(place, monkeypatch, capsys, shared_data):
    """By a process, which is given each one's words; here a forked one would have to import torch again."""

    def process(words, input, **_options):
        asked.append(words[1:])
        return subprocess.CompletedProcess(words, code, json.dumps(options.refusals(json.loads(input))), "x\nNo module\n")

    asked, code = [], 0
    monkeypatch.setattr(sweep, "refusals", REFUSALS)
    monkeypatch.setattr(subprocess, "run", process)
    text = f"common: --data-dir {shared_data} --no-pretrained\na: --model test_resnet\nb: --model resnet18 --lr 1x\n"
    assert swept(text) == 2 and "error: sweep.txt line 3: argument --lr: 1x is not a number" in capsys.readouterr().err
    assert asked == [[ROOT / "options.py"]] and not Path("runs").exists()
    code = 1
    assert swept(text) == 2 and "options.py: fails; No module" in capsys.readouterr().err


def test_only_experiments_with_runs_to_come_are_asked(place, monkeypatch):
    """What is finished may have learnt from what is no longer there."""
    asked = []
    monkeypatch.setattr(sweep, "refusals", lambda experiments: asked.append([one.name for one in experiments]) or [])
    assert swept("common: --fold-seed 0\na:\nb:\n") == 0 == swept("common: --fold-seed 0\na:\nb:\nc:\n")
    assert asked == [["a", "b"], ["c"]]


@pytest.mark.parametrize(("text", "line"), [
    ("", "no output"), ("a\n\n b \n", "b"), ("error: x\nnote\n", "error: x"), ("error: x\nerror: y\rbar\n", "error: y"),
])  # fmt: skip
def test_the_line_that_tells_why(text, line):
    assert sweep.last_line(text) == line


class Forked:
    """subprocess.Popen of train.py as a forked process, which has nothing to import, and without its pictures."""

    def __init__(self, argv, stdout, **_options):
        self.process = multiprocessing.get_context("fork").Process(target=self.main, args=(argv[2:], stdout))
        self.process.start()

    @staticmethod
    def main(argv, handle):
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        with without_pictures():
            code = errors.run(lambda: train.main(argv))
        given = dict(pairwise(argv))
        run = given.get("--resume") or Path(given["--output-dir"]) / given["--name"]
        Path(run, "mistakes.png").write_bytes(b"")
        sys.stdout.flush()
        sys.exit(code)

    def poll(self):
        return self.process.exitcode

    def terminate(self):
        self.process.terminate()

    def wait(self):
        self.process.join()

    returncode = property(poll)


def test_a_sweep_of_real_runs(shared_data, workplace, tmp_path, monkeypatch, capsys):
    """Two experiments with two seeds on the tiny competition; then one of them loses its summary and goes on."""
    monkeypatch.setattr(sweep, "refusals", refused)
    monkeypatch.setattr(sweep, "subprocess", SimpleNamespace(Popen=Forked, STDOUT=None, DEVNULL=None))
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.05)
    text = f"""
    common: --data-dir {shared_data} --cache-dir {workplace / "cache"} --target mask --model test_resnet --no-pretrained
    common: --img-size 32 24 --kfold 2 --epochs 1 --batch-size 16 --lr 3e-3 --device cpu --memory-format channels_last
    common: --amp off --threads 1 --fold-seed 0
    base:
    longer: --epochs 2
    """
    (tmp_path / "sweep.txt").write_text(text)
    argv = [str(tmp_path / "sweep.txt"), "--output-dir", str(tmp_path / "runs"), "--seeds", "1", "2"]
    assert errors.run(lambda: sweep.main(argv)) == 0
    out, err = capsys.readouterr()
    for name in ("base-s1", "longer-s1", "base-s2", "longer-s2"):
        summary = json.loads((tmp_path / "runs" / name / "summary.json").read_text())
        assert f"{name}: OOF F1 {summary['oof_f1']:.4f}" in err
        assert sweep.read_run(tmp_path / "runs" / name).f1 == pytest.approx(summary["oof_f1"], abs=1e-6)
    scores = [json.loads((tmp_path / "runs" / f"longer-s{seed}" / "summary.json").read_text())["oof_f1"] for seed in (1, 2)]
    assert out.splitlines()[2].split()[:3] == ["longer", "2", f"{sum(scores) / 2:.4f}"]
    (tmp_path / "runs" / "longer-s2" / "summary.json").unlink()
    assert errors.run(lambda: sweep.main(argv)) == 0
    again, err = capsys.readouterr()
    assert "longer-s2: goes on" in err and "base-s1" not in err and again == out
