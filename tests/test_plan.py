import json
import shlex

import pytest
import yaml

import sweep
from errors import InputError

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
    assert focal.places["--loss"].endswith("sweep.txt line 7") and focal.places["--epochs"].endswith("sweep.txt line 3")
    assert sweep.options_of(focal.words) == {
        "--data-dir": ["my faces"], "--epochs": ["3"], "--loss": ["focal"], "--gamma": ["1"]
    }  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [
    ("a:\nb: --loss 'ce\n", r"sweep.txt line 2: no closing quotation in \"--loss 'ce\""),
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
    with pytest.raises(InputError, match=r"none.txt: not readable \(No such file"):
        sweep.read_plan(tmp_path / "none.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bytes: not readable \('utf-8' codec"):
        sweep.read_plan(tmp_path / "bytes")


@pytest.mark.parametrize(("refusal", "told"), [
    ("--epoch: no such option", "sweep.txt line 1: --epoch: no such option"),
    ("argument --lr: 1x is not a number", "sweep.txt line 3: argument --lr: 1x is not a number"),
    ("--mix: goes with --epoch and --lr", "sweep.txt line 1: --mix"),  # the first of them that the file has
    ("no training data", "sweep.txt line 3: no training data"),
])  # fmt: skip
def test_what_train_would_refuse_is_told_with_the_line_that_has_it(tmp_path, refusal, told):
    experiments = read(tmp_path, "common: --epoch 3\na:\nb: --lr=1x\n")
    sweep.check_options(experiments, [None, None])
    with pytest.raises(InputError, match=f"^\\S*{told}"):
        sweep.check_options(experiments, [None, refusal])


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
    assert job(tmp_path, "a: --parallel-folds auto\n").command(threads=8)[-2:] == ["--threads", "8"]
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
    with pytest.raises(InputError, match=r"args.yaml: its first line is no command of train.py"):
        job(tmp_path, "a:\n").check()


def test_a_line_that_changed_since_is_refused(tmp_path):
    make_run(tmp_path / "runs" / "a-s1", job(tmp_path, "a: --epochs 3 --loss=ce\n").command(threads=2)[1:])
    for same in ("a: --loss ce --epochs 3\n", "common: --epochs 1\na: --epochs=3 --loss ce\n",
                 "a: --epochs 3 --loss ce --cache-dir elsewhere --device cpu --fold 0 --quiet\n"):  # fmt: skip
        job(tmp_path, same).check()
    for other, message in [
        ("common: --epochs 2\na: --loss ce\n", "a-s1: was started with --epochs 3, and .*sweep.txt line 1 now says --epochs 2"),
        ("a: --loss ce --ema 0.9 --epochs 3\n", "with no --ema, and .*sweep.txt line 1 now says --ema 0.9; give"),
        ("common:\na: --loss ce\n", "with --epochs 3, and .*sweep.txt line 2 now says no --epochs"),
        ("a: --epochs 3 --loss ce --threads 1\n", "with --threads 2, and .* now says --threads 1"),
        ("a: --epochs 4 --loss f1\n", "with --epochs 3 --loss ce, and .* now says --epochs 4 --loss f1"),
    ]:
        with pytest.raises(InputError, match=message):
            job(tmp_path, other).check()
