"""train.py under torchrun and as tasks of a SLURM array: real processes, killed and gone on with.

The one test that always runs starts torchrun once. All ways to stop, two boxes and the array, minutes in all:

    python -m pytest tests/test_torchrun.py -m slow
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import helpers
import pandas as pd
import pytest
from conftest import SETTINGS, assert_same_run, until, without_pictures

import experiment
import train

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SETTINGS = [*SETTINGS, "--img-size", "32", "32", "--memory-format", "contiguous", "--save-minutes", "0.0001"]
BATCH_NORM = ["--model", "test_resnet", "--ema", "0.9", "--loss", "focal+f1", "--aug", "medium", "--epochs", "8"]
BOUND = 60  # seconds in which a run ends that has lost a process; torchrun itself kills after 30


def start(words, cwd):
    """A process of its own; output goes to a file beside its working folder, as a pipe could fill up."""
    cwd.mkdir(exist_ok=True)
    with open(cwd.with_suffix(".txt"), "w") as output:
        return subprocess.Popen(list(map(str, words)), cwd=cwd, stdout=output, stderr=subprocess.STDOUT,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def finish(process, cwd, timeout=200):
    """What it said, once it has ended."""
    process.wait(timeout)
    return cwd.with_suffix(".txt").read_text()


def two(*options):
    return [*TORCHRUN, "--standalone", "--nproc_per_node", "2", ROOT / "train.py", *options]


def ranks_of(process):
    """{rank: pid} of the processes that a torchrun has started."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if rank := re.search(r"\0RANK=(\d+)\0", Path(f"/proc/{pid}/environ").read_text()):
            found[int(rank[1])] = int(pid)
    return found


def wait_for(path, process):
    until(lambda: path.exists() or process.poll() is not None)
    assert process.poll() is None, path


def stop_midway(process, run, how):
    """Wait for a saved state, then stop the run by `how`, as "SIGTERM to one"; it ends within BOUND seconds."""
    wait_for(run / "fold0" / "last.pt", process)
    ranks, (name, _to, whom) = ranks_of(process), how.split()
    targets = {"torchrun": [process.pid], "all": [process.pid, *ranks.values()], "first": [ranks[0]], "second": [ranks[1]]}
    for pid in targets[whom]:
        os.kill(pid, signal.Signals[name])
    process.wait(BOUND)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks.values()), BOUND)


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
def test_a_killed_training_of_two_processes_goes_on_and_equals_that_of_one(shared_data, tmp_path):
    """Of 2 processes one is killed; resumed by 2 the run ends with the rows and, but for rounding, the scores of one."""
    work, run = tmp_path / "work", tmp_path / "work" / "runs" / "two"
    options = ["--data-dir", shared_data, *SETTINGS, "--model", "test_vit", "--epochs", "3", "--fold", "0", "--aug", "strong"]
    process = start(two(*options, "--name", "two"), work)
    stop_midway(process, run, "SIGKILL to second")
    said = finish(process, work)
    assert process.returncode != 0
    line = "another process of this training was killed or failed. Go on with: torchrun --nproc_per_node 2 train.py --resume "
    assert said.count("Go on with") == 1 and f"{line}runs/two --fold 0" in said
    assert "train.py FAILED" in said and 'train.py", line' not in said  # torchrun's own traceback, and none of ours
    assert not (run / "summary.json").exists()
    with without_pictures():
        again = ["--resume", str(run), "--fold", "0", "--quiet", "--cache-dir", str(work / "cache")]
        assert helpers.main_of_ranks(train.main, again) == [0, 0]
        places = ["--output-dir", tmp_path / "runs", "--cache-dir", work / "cache"]
        assert train.main(list(map(str, [*options, *places, "--name", "one"]))) == 0
    pd.testing.assert_frame_equal(*(pd.read_csv(folder / "oof.csv") for folder in (run, tmp_path / "runs" / "one")), atol=2e-4)
    logs = [experiment.read_log(folder / "log.csv").iloc[:, :-2] for folder in (run, tmp_path / "runs" / "one")]  # no times
    pd.testing.assert_frame_equal(*logs, rtol=1e-3)
    assert not list(run.rglob("last.pt")) and not list(run.rglob(".*.tmp*"))


@pytest.fixture(scope="module")
def never_stopped(shared_data, tmp_path_factory):
    work = tmp_path_factory.mktemp("whole") / "work"
    process = start(two("--data-dir", shared_data, *SETTINGS, *BATCH_NORM, "--name", "whole"), work)
    said = finish(process, work)
    assert process.returncode == 0, said
    return work / "runs" / "whole"


@linux
@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL to first", "SIGKILL to second", "SIGTERM to torchrun", "SIGINT to torchrun",
                                 "SIGTERM to all", "SIGTERM to second"])  # fmt: skip
def test_however_it_ends_it_goes_on_to_the_same_bits(never_stopped, shared_data, tmp_path, how):
    work, run = tmp_path / "work", tmp_path / "work" / "runs" / "two"
    process = start(two("--data-dir", shared_data, *SETTINGS, *BATCH_NORM, "--name", "two"), work)
    stop_midway(process, run, how)
    said = finish(process, work)
    assert process.returncode != 0 and 'train.py", line' not in said
    assert said.count("Go on with: torchrun --nproc_per_node 2 train.py --resume runs/two") == (how != "SIGKILL to first")
    assert said.count("; state saved.") == (not how.startswith("SIGKILL"))
    process = start(two("--resume", "runs/two", "--quiet"), work)
    said = finish(process, work)
    assert process.returncode == 0, said
    assert_same_run(never_stopped, run)
    assert not list(run.rglob("last.pt")) and not list(run.rglob(".*.tmp*"))


def box(number, port, *options):
    """The command of one of two boxes with a process each; the first one's folder holds the run."""
    meet = f"--nnodes 2 --node_rank {number} --nproc_per_node 1 --master_addr localhost --master_port {port}"
    return [*TORCHRUN, *meet.split(), ROOT / "train.py", *options]


@linux
@pytest.mark.slow
def test_two_boxes_share_no_disk(never_stopped, shared_data, data, tmp_path):
    """Working folders, caches and data of their own; killed on the second box, resumed on both: the bits of one box."""
    port = helpers.free_port()
    first, second = tmp_path / "first", tmp_path / "second"
    options = [*SETTINGS, *BATCH_NORM, "--name", "boxes"]
    second.mkdir()
    (second / "data").symlink_to(shared_data)
    boxes = [start(box(0, port, "--data-dir", shared_data, *options), first), start(box(1, port, *options), second)]
    wait_for(first / "runs" / "boxes" / "fold0" / "last.pt", boxes[0])
    os.kill(ranks_of(boxes[1])[1], signal.SIGKILL)
    said = [finish(process, folder, BOUND) for process, folder in zip(boxes, (first, second))]
    assert "Go on with: torchrun --nnodes 2 --nproc_per_node 1 train.py --resume runs/boxes" in said[0]
    again = ["--resume", "runs/boxes", "--quiet"]
    boxes = [start(box(0, port, *again), first), start(box(1, port, *again, "--data-dir", "data"), second)]
    said = [finish(process, folder) for process, folder in zip(boxes, (first, second))]
    assert [process.returncode for process in boxes] == [0, 0], said
    assert_same_run(never_stopped, first / "runs" / "boxes")
    assert sorted(path.name for path in second.iterdir()) == ["cache", "data"]
    (second / "data").unlink()
    (second / "data").symlink_to(data)  # 12 people instead of 24
    options[-1] = "others"
    boxes = [start(box(0, port, "--data-dir", shared_data, *options), first), start(box(1, port, *options), second)]
    said = "".join(finish(process, folder) for process, folder in zip(boxes, (first, second)))
    assert said.count("error: --data-dir") == 1 and "holds other people or readable images" in said
    assert not (first / "runs" / "others").exists()


ARRAY = """
if [ $SLURM_ARRAY_TASK_ID = 0 ] && [ ! -e runs/array ]; then
    {python} {train} {options} --name array --fold 0
else
    until [ -e runs/array/folds.csv ]; do sleep 0.1; done
    {python} {train} --resume runs/array --fold $SLURM_ARRAY_TASK_ID --quiet
fi
"""


@pytest.mark.slow
def test_an_array_of_tasks_makes_one_run(shared_data, tmp_path):
    """Three tasks start at the same moment, a fold each, as the README's script; the run is that of one process."""
    options = ["--data-dir", str(shared_data), *SETTINGS, "--model", "test_resnet", "--epochs", "2", "--kfold", "3"]
    script = ARRAY.format(python=sys.executable, train=ROOT / "train.py", options=" ".join(options))
    work = tmp_path / "work"
    work.mkdir()
    for _again in range(2):  # requeued it finds all done
        tasks = [
            subprocess.Popen(["bash", "-c", f"export SLURM_ARRAY_TASK_ID={task}; {script}"], cwd=work) for task in range(3)
        ]
        assert [task.wait(timeout=200) for task in tasks] == [0, 0, 0]
    run = work / "runs" / "array"
    assert [row["fold"] for row in json.loads((run / "summary.json").read_text())["folds"]] == [0, 1, 2]
    with without_pictures():
        assert train.main([*options, "--cache-dir", str(work / "cache"), "--output-dir", str(tmp_path), "--name", "one"]) == 0
    assert_same_run(tmp_path / "one", run)
