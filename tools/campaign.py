"""kill -9 at random moments: trainings are killed with all their processes until they end, and must equal ones that were not.

    python tools/campaign.py --kills 300 --jobs 2 --seed 0

Each trial is a new run of one of CONFIGS on a tiny data set, killed and resumed (or started again where there is no run yet)
until it ends. Half of the kills come at a random time, the others beside a write: before a file's fsync, before and after its
rename. After each kill every file under a final name must be readable and no epoch that was reported may be missing in log.csv;
at the end all files must equal those of a run that was never killed, bit for bit but for times; exit code 1 on a difference.

This process imports torch once and forks a child for each start, as importing takes most of the time; no import is killed.
"""

import argparse
import collections
import contextlib
import ctypes
import itertools
import json
import mmap
import multiprocessing
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
import yaml
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "tests")]

from conftest import make_data

import engine
import errors
import files
import hardware
import predictions
import train

SETTINGS = ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "24", "--kfold", "2", "--epochs", "2",
            "--batch-size", "16", "--lr", "3e-3", "--device", "cpu", "--quiet", "--memory-format", "channels_last",
            "--amp", "off", "--threads", "1", "--save-minutes", "0.0001"]  # fmt: skip
CONFIGS = {
    "plain": [],
    "EMA and mix": ["--ema", "0.9", "--mix", "cutmix", "--aug", "strong"],
    "accumulation": ["--batch-size", "8", "--accum", "2", "--clip-grad", "1"],
    "multi": ["--target", "multi", "--loss", "focal+f1", "--dropout", "0.4", "--drop-path", "0.3"],
    "age": ["--target", "age", "--optimizer", "AdamP"],
    "parallel folds": ["--parallel-folds", "2"],
    "finish on all": ["--finish-on-all", "1", "--average-last", "2", "--freeze-epochs", "1"],
    "nofold": ["--kfold", "0"],
}
# What a process is in while it is in these functions; the innermost counts.
PHASES = {
    "starting": (),
    "reading and decoding": ((train, "load_data"),),
    "opening the run": ((train, "open_run"),),
    "training": ((engine, "train_one_epoch"),),
    "validating": ((engine, "evaluate"), (engine, "predict_rows")),
    "writing a file": ((files, "write_atomic"),),
    "scores": ((predictions, "write_summary"),),
    "pictures": ((train, "draw_pictures"),),
}
UNLIKE = ("seconds", "images_per_second", "peak_memory_mib", "weights_sha256", "options")  # times and places
TOLD = re.compile(r"^ *(\d+) \(\d+/\d+\) +(\d+)", re.MULTILINE)


def watch(shared, kill_at):
    """Keep `shared` (phase, writes so far) up to date in this process and its forks; kill all at the write number `kill_at`."""

    @contextlib.contextmanager
    def within(phase):
        before, shared[0] = shared[0], phase
        try:
            yield
        finally:
            shared[0] = before

    def count():
        shared[1] += 1
        if shared[1] == kill_at:
            os.killpg(0, signal.SIGKILL)

    @contextlib.contextmanager
    def beside(name):
        count()
        yield
        if name != "fsync":
            count()

    for phase, places in enumerate(PHASES.values()):
        for owner, name in places:
            setattr(owner, name, within(phase)(getattr(owner, name)))
    for name in ("fsync", "replace", "rename"):
        setattr(os, name, beside(name)(getattr(os, name)))


def start(argv, said, kill_at=0):
    """(process id of a training in a process group of its own, its phase and writes as int64 [2])."""
    shared = np.frombuffer(mmap.mmap(-1, 16), np.int64)
    child = os.fork()
    if child:
        os.setpgid(child, child)
        return child, shared
    code = 1
    try:
        os.setpgid(0, 0)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1), os.dup2(output, 2)
        torch.set_num_threads(1)
        hardware.START = "fork"
        watch(shared, kill_at)
        code = errors.run(lambda: train.main(list(map(str, argv))))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(child, seconds=None):
    """Wait for a start, or kill it after `seconds` (None: never); (exit status, seconds) when all its processes are gone."""
    began, end = time.monotonic(), os.pidfd_open(child)
    select.select([end], [], [], seconds)
    os.close(end)
    took = time.monotonic() - began
    os.killpg(child, signal.SIGKILL)  # and what it has forked; all of them come to this process, the subreaper
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-child, 0)
    return status, took


def final_files(folder):
    """The files under final names: what is being written has a name that says so."""
    for path in sorted(Path(folder).rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and ".tmp" not in path.name:
            yield path


def read_table(path):
    if not path.read_text().endswith("\n") or pd.read_csv(path).isna().all(axis=None):
        raise ValueError("cut short")


# Readers by suffix, which raise when a file is damaged.
READERS = {
    ".json": lambda path: json.loads(path.read_text()), ".csv": read_table,
    ".yaml": lambda path: dict(yaml.safe_load(path.read_text())), ".safetensors": safetensors.torch.load_file,
    ".pt": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".png": lambda path: Image.open(path).load(), ".npy": lambda path: np.load(path, mmap_mode="r"),
}  # fmt: skip


def log_rows(run):
    """{(fold, epoch): the other columns, but for times} of a run's log.csv; {} before there is one."""
    if not (run / "log.csv").exists():
        return {}
    log = pd.read_csv(run / "log.csv").drop(columns=["seconds", "images_per_second"])
    return {(row[0], row[1]): row[2:] for row in log.astype(object).fillna("none").itertuples(index=False, name=None)}


def faults(folder, told, whole):
    """What is wrong in a trial's folder after a kill, in words; `told` is all that was said so far."""
    lines = []
    for path in final_files(folder):
        try:
            READERS.get(path.suffix, Path.stat)(path)
        except Exception as error:  # whatever a damaged file raises
            lines.append(f"{path.relative_to(folder)} can't be read ({type(error).__name__}: {error})")
    if not lines:
        rows, right = log_rows(folder / "run"), log_rows(whole / "run")
        lost = {(int(fold), int(epoch)) for fold, epoch in TOLD.findall(told)} - rows.keys()
        lines += [f"epoch {epoch} of fold {fold} was told as finished and is not in log.csv" for fold, epoch in sorted(lost)]
        lines += [f"log.csv differs in fold and epoch {key}" for key, row in rows.items() if right.get(key) != row]
    return lines


def differences(folder, whole):
    """In what a run that has ended differs from the one that never was killed, in words."""
    run, right, lines = folder / "run", whole / "run", []
    names = [{str(path.relative_to(one)) for path in final_files(one) if "tfevents" not in path.name} for one in (run, right)]
    lines += [f"{name}: only in one of them" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        one, other = run / name, right / name
        if name.endswith(".safetensors"):
            weights, wanted = map(safetensors.torch.load_file, (one, other))
            same = weights.keys() == wanted.keys() and all(torch.equal(weights[key], wanted[key]) for key in wanted)
        elif name.endswith("log.csv"):
            same = log_rows(one.parent) == log_rows(other.parent)
        elif name.endswith(("summary.json", "fold.json")):
            one, other = (json.loads(path.read_text()) for path in (one, other))
            same = all(one.get(key) == other.get(key) for key in (one.keys() | other.keys()) - set(UNLIKE))
        elif name in ("args.yaml", "env.json"):
            continue  # places and times
        else:
            same = one.read_bytes().replace(bytes(folder), bytes(whole)) == other.read_bytes()  # report.html names its place
        if not same:
            lines.append(f"{name} differs")
    lines += [f"{path.relative_to(folder)} is left" for path in folder.rglob("*") if re.search(r"\.tmp|last\.pt", path.name)]
    return lines


def command(config, folder, data):
    places = ["--data-dir", data, "--cache-dir", folder / "cache", "--output-dir", folder, "--name", "run"]
    return [*places, *SETTINGS, *CONFIGS[config]]


def train_whole(config, folder, data):
    """(seconds, writes) of the run that is never killed, trained into a folder."""
    folder.mkdir(parents=True)
    child, shared = start(command(config, folder, data), folder / "said.txt")
    status, seconds = finish(child)
    if status:
        raise SystemExit(f"{config}: the run that nobody killed ended with {status}:\n{(folder / 'said.txt').read_text()}")
    return seconds, shared[1]


def trial(config, place, index, seed, never_killed):
    """Kill a run until it ends: (config, [(phase, way) of each kill], faults, starts)."""
    folder, whole, rng, kills = place / f"trial{index}", place / "whole" / config, np.random.default_rng((seed, index)), []
    folder.mkdir()
    said = folder / "said.txt"
    for starts in range(1, 1000):
        begun = (folder / "run").exists()
        argv = ["--resume", folder / "run", "--quiet"] if begun else command(config, folder, place / "data")
        reach = rng.choice([1.1, 0.3])  # of a whole run
        by_clock, let_go = rng.random() < 0.5, rng.random() < 0.1
        seconds = rng.uniform(0, reach * never_killed[0]) if by_clock and not let_go else None
        kill_at = 0 if by_clock or let_go else int(rng.integers(1, reach * never_killed[1] + 2))
        child, shared = start(argv, said, kill_at)
        status, _took = finish(child, seconds)
        told = said.read_text() if said.exists() else ""
        if os.WIFSIGNALED(status):
            kills.append((list(PHASES)[shared[0]], "by the clock" if by_clock else "beside a write"))
            wrong = faults(folder, told, whole)
        elif status == 0:
            wrong = differences(folder, whole)
        else:
            wrong = [f"ended with {os.waitstatus_to_exitcode(status)}: {told[-500:]}"]
        if wrong or not os.WIFSIGNALED(status):
            if not wrong:
                shutil.rmtree(folder)
            return config, kills, [f"{config}: {folder}, start {starts}: {fault}" for fault in wrong], starts
    raise AssertionError(f"{folder}: never ended")


def adopt_orphans():
    """Processes whose parent was killed become this one's children, so that it can wait for their end (Linux)."""
    if ctypes.CDLL(None).prctl(36, 1, 0, 0, 0):  # PR_SET_CHILD_SUBREAPER
        raise OSError("prctl: can't adopt the processes of a killed training")


def campaign(kills, jobs, seed, configs, place, until):
    """(Counter of (phase, way), Counter of kills by config, starts, faults) of so many kills, or those that were by `until`."""
    adopt_orphans()
    make_data(place / "data")
    whole = {config: train_whole(config, place / "whole" / config, place / "data") for config in configs}
    phases, by_config, starts, wrong, running = collections.Counter(), collections.Counter(), 0, [], set()
    trials = zip(itertools.count(), itertools.cycle(configs))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), adopt_orphans) as pool:
        while True:
            while len(running) < jobs and phases.total() < kills and time.monotonic() < until:
                index, config = next(trials)
                running.add(pool.submit(trial, config, place, index, seed, whole[config]))
            if not running:
                return phases, by_config, starts, wrong
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for config, killed, faulty, more in (one.result() for one in ended):
                phases.update(killed)
                by_config[config] += len(killed)
                starts, wrong = starts + more, wrong + faulty


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=300, metavar="N", help="at least so many (default: 300)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trials at once (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS), help="only these")
    parser.add_argument("--minutes", type=float, default=float("inf"), metavar="M", help="begin no trial after so long")
    args = parser.parse_args(argv)
    began, place = time.monotonic(), Path(tempfile.mkdtemp(prefix="campaign."))
    until = began + 60 * args.minutes
    phases, by_config, starts, wrong = campaign(args.kills, args.jobs, args.seed, args.configs, place, until)
    kills, seconds = sum(phases.values()), time.monotonic() - began
    print(f"{'killed while':<24}{'by the clock':>14}{'beside a write':>16}")
    for phase in PHASES:
        print(f"{phase:<24}{phases[phase, 'by the clock']:>14}{phases[phase, 'beside a write']:>16}")
    print(f"by run: {', '.join(f'{config} {by_config[config]}' for config in args.configs)}")
    print(f"{kills} kills in {starts} starts, {seconds:.0f} s, {args.jobs} at once; failures: {len(wrong)}")
    for fault in wrong:
        print(f"  {fault}")
    if not wrong:
        shutil.rmtree(place)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
