"""Shared by test files: a tiny fold, several processes without torchrun, and runs that never were trained."""

import argparse
import copy
import itertools
import multiprocessing
import os
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
import yaml

import dataset
import engine
import model
import options
import predictions
from dataset import COMPONENTS, FIRST_AGE, GENDERS, IMAGE_KINDS, LAST_AGE, age_group_probs, combine, encode, to_age_group
from hardware import ALONE, Ranks
from images import ImageStore

# The options of a tiny fold: train.py's own, but for a few.
ARGS = vars(options.make_parser().parse_args([])) | {"lr": 1e-3, "lr_step": 1, "epochs": 2, "patience": 0, "batch_size": 8,
                                                     "aug": "strong", "amp": "off", "seed": 7}  # fmt: skip


def make_fit(people=40, fold=0, ranks=ALONE, drops=(None, None), **changes):
    """A tiny fold of random images: 30 train, 10 validate. drops: dropout and drop_path of the model."""
    rng = np.random.default_rng(3)
    args = argparse.Namespace(**ARGS | changes)
    images, rows = rng.integers(0, 256, (people, 24, 24, 3), dtype=np.uint8), np.arange(people)
    first, last = (16, 70) if args.target == "age" else (0, 2)
    targets = rng.integers(first, last, (people, 3 if args.target == "multi" else 1))
    data = dataset.FoldData(
        fold, ImageStore(images, "cpu"), rows[: people * 3 // 4], rows[people * 3 // 4 :], targets, rng.integers(0, 3, people),
        classes=targets[:, 0], persons=rows // 3, masks=rows % 3, ages=18 + rows,
    )  # fmt: skip
    torch.manual_seed(0)
    net = model.create("test_resnet", args.target, (24, 24), dropout=drops[0], drop_path=drops[1], aux_age=args.aux_age)
    return engine.Fit(net, args, data, ranks)


def train(fit, stop_after=None):
    """Train to the end, or until `stop_after` steps were done."""
    steps = itertools.count(1)
    while not fit.finished and engine.train_one_epoch(fit, lambda: next(steps) == stop_after):
        engine.end_epoch(fit)
    return fit


def spoil_loss(monkeypatch, number, value):
    """From now on the loss of one step, counted from 1, is times `value`."""
    steps, compute_loss = itertools.count(1), engine.compute_loss
    monkeypatch.setattr(engine, "compute_loss", lambda *args: compute_loss(*args) * (value if next(steps) == number else 1.0))


def facts(fit):
    """All that must be equal of two fits."""
    return without_times(copy.deepcopy(fit.state_dict()))


def without_times(state):
    state.pop("seconds")
    for row in state["history"]:
        row.pop("seconds"), row.pop("images_per_second")
    return state


def assert_equal(one, other, where="state"):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert_equal(dict(enumerate(one)), dict(enumerate(other)), where)
    else:
        assert one == other, where


def _work(rank, world, folder, work, results):
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        result = work(Ranks(rank, world, torch.device("cpu"), store))
    except BaseException as error:  # SystemExit too: how a process ends is what some tests look at
        result = (type(error).__name__, str(error))
    results.put((rank, result))
    results.close()
    results.join_thread()


def context():
    """Fork, unless a GPU forbids it; then functions must be a module's own."""
    return multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def torchrun_environment(world, rank=0):
    """The variables that torchrun would set for the process `rank` of `world` on this box."""
    told = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_WORLD_SIZE": 1, "RANK": rank, "LOCAL_RANK": rank}
    told |= {"MASTER_ADDR": "localhost", "MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "none"}
    return {name: str(value) for name, value in told.items()}


def _main(main, argv, variables):
    os.environ.update(variables)
    sys.exit(main(argv))


def main_of_ranks(main, argv, world=2):
    """The exit codes of a script's `main(argv)` in `world` processes with torchrun's variables."""
    told = torchrun_environment(world)
    ranks = [told | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    processes = [context().Process(target=_main, args=(main, argv, variables)) for variables in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def run_ranks(work, world=2):
    """[what `work(ranks)` returns, or (name of its error, message)] of `world` processes; numpy and plain values only."""
    results = context().Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [context().Process(target=_work, args=(rank, world, Path(folder), work, results)) for rank in range(world)]
        for process in processes:
            process.start()
        found = dict(results.get(timeout=100) for _ in processes)
        for process in processes:
            process.join()
    return [found[rank] for rank in range(world)]


KINDS = tuple(IMAGE_KINDS)


class People:
    """`count` people with seven images each; ages are guessed 2 years too low, alike by all models."""

    def __init__(self, count, seed):
        self.rng = np.random.default_rng(seed)
        ages = np.where(np.arange(count) % 4 == 3, 60, self.rng.integers(18, 60, count))
        self.age, self.gender = np.repeat(ages, 7), np.repeat(np.arange(count) // 4 % 2, 7)
        self.mask = np.tile([0, 0, 0, 0, 0, 1, 2], count)
        self.path = np.repeat([f"{number:06d}_x_Asian_{age}" for number, age in enumerate(ages)], 7)
        self.guess = self.age - 2 + np.repeat(self.rng.normal(0, 2, count), 7)
        self.label = encode(self.mask, self.gender, to_age_group(self.age))

    def noisy(self, classes, C, noise):
        logits = 4 * np.eye(C)[classes] + self.rng.normal(0, noise, (len(classes), C))
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def probs(self, target, noise=1.5):
        """Probabilities [N, num_outputs(target)] of a new model."""
        guess = np.clip(self.guess + self.rng.normal(0, noise, len(self.guess)), FIRST_AGE, LAST_AGE)
        age = np.exp(-np.abs(np.arange(FIRST_AGE, LAST_AGE + 1) - guess[:, None]))
        age /= age.sum(1, keepdims=True)
        parts = self.noisy(self.mask, 3, noise), self.noisy(self.gender, 2, noise), age_group_probs(age)
        made = dict(zip(COMPONENTS, parts))
        return {**made, "age": age, "multi": np.hstack(parts), "label": combine(*parts)}[target]

    def truth(self, target):
        parts = self.mask, self.gender, to_age_group(self.age)
        truth = dict(zip(COMPONENTS, parts)) | {"label": self.label, "age": parts[2]}
        return np.stack(parts if target == "multi" else [truth[target]], axis=1)


def write_data(folder, train, names):
    """A data folder without images: train.csv of the People `train`, info.csv of the eval images `names`; returns it."""
    for part in ("train", "eval"):
        (folder / part).mkdir(parents=True)
    ages = dict(zip(train.path, zip(train.gender, train.age)))
    rows = [f"{path.partition('_')[0]},{GENDERS[gender]},Asian,{age},{path}" for path, (gender, age) in ages.items()]
    (folder / "train" / "train.csv").write_text("\n".join(["id,gender,race,age,path", *rows]))
    (folder / "eval" / "info.csv").write_text("\n".join(["ImageID,ans", *(f"{name},0" for name in names)]))
    return folder


def eval_names(held):
    """The names of the eval images of the People `held`."""
    return [f"{index:040x}.jpg" for index in range(len(held.path))]


def write_run(folder, target, train, held, noise=1.5):
    """A run folder of `target` with oof.csv of the People `train` and eval.csv of the People `held`; returns it."""
    folder.mkdir(parents=True)
    names = [f"{path}/{KINDS[index % 7]}.jpg" for index, path in enumerate(train.path)]
    images, fold = pd.DataFrame({"image": names, "path": train.path}), np.arange(len(names)) // 7 % 5
    oof = predictions.oof_table(images, fold, target, train.truth(target), train.probs(target, noise))
    held_table = predictions.eval_table(eval_names(held), target, held.probs(target, noise))
    for name, table in (("oof.csv", oof), ("eval.csv", held_table)):
        table.to_csv(folder / name, index=False, float_format=predictions.FORMAT)
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": target, "kfold": 5}))
    return folder
