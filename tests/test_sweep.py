"""sweep.py as a user runs it: with a stand-in for train.py that takes no time, and once with train.py itself."""

import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import until, without_pictures

import errors
import options
import sweep
import train

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
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(6))
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


def test_all_runs_are_asked_to_stop_before_one_is_waited_for():
    calls = []

    def running(name):
        process = SimpleNamespace(terminate=lambda: calls.append(f"ask {name}"), wait=lambda: calls.append(f"wait for {name}"))
        return SimpleNamespace(process=process)

    sweeping = sweep.Sweep([], Path("logs"), 2, None)
    sweeping.running = [running("a"), running("b")]
    sweeping.run(SimpleNamespace(requested=143))
    assert calls == ["ask a", "ask b", "wait for a", "wait for b"]


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


def test_what_the_options_process_says_may_be_of_any_encoding(tmp_path, monkeypatch):
    """As cp949 of a notice under PYTHONIOENCODING, or of a library's own words."""
    answer = "import sys; sys.stderr.buffer.write(b'\\xbd\\xc7'); print('[null]')"
    (tmp_path / "options.py").write_text(answer)
    monkeypatch.setattr(sweep, "OPTIONS", tmp_path / "options.py")
    assert REFUSALS([SimpleNamespace(words=())]) == [None]
    (tmp_path / "options.py").write_text(f"{answer}; sys.exit(1)")
    with pytest.raises(errors.InputError, match=r"options.py: fails; \ufffd"):
        REFUSALS([SimpleNamespace(words=())])


def test_only_experiments_with_runs_to_come_are_asked(place, monkeypatch):
    """What is finished may have learnt from what is no longer there."""
    asked = []
    monkeypatch.setattr(sweep, "refusals", lambda experiments: asked.append([one.name for one in experiments]) or [])
    monkeypatch.setattr(sweep, "check_options", lambda experiments, _refusals: asked[-1].append(len(experiments)))
    assert swept("common: --fold-seed 0\na:\nb:\n") == 0 == swept("common: --fold-seed 0\na:\nb:\nc:\n")
    assert asked == [["a", "b", 2], ["c", 1]]


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
