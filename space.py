"""The room that a training needs on disk, known before its first step: the run folder and the image cache."""

from pathlib import Path

import torch

import dataset
import engine
import experiment
import files
import optim
from images import bytes_to_build

PICTURES = 2 << 20  # curves, confusion and mistakes, with the logs and events
NUMBER = 11  # bytes of a probability in a csv, with its comma
SIDE, STEPS = 64, 8  # of the layer on which an optimizer shows how much it keeps; Lookahead has all of it after 6 steps


def optimizer_share(name, lr, weight_decay):
    """What an optimizer keeps between two steps, as a multiple of the weights: 2 for AdamW. Seen on a small layer."""
    with torch.random.fork_rng(devices=[]):
        layer = torch.nn.Linear(SIDE, SIDE)
        optimizer = optim.build_optimizer(layer, name, lr, weight_decay)
        for _step in range(STEPS):
            loss = layer(torch.ones(1, SIDE)).square().sum()
            loss.backward(create_graph=getattr(optimizer, "is_second_order", False))
            optimizer.step()
            optimizer.zero_grad()
    return engine.tensor_bytes(optimizer.state_dict()) / engine.tensor_bytes(dict(layer.named_parameters()))


def weights_bytes(net, run):
    """The bytes of the weights of a fold: of `net`, or of those that a run which goes on has kept (None: it has none yet)."""
    if net is not None:
        return engine.tensor_bytes(net.state_dict())
    found = sorted(Path(run).glob("fold*/best.safetensors"))
    return found[0].stat().st_size if found else None


def run_bytes(args, weights, images, folds):
    """The most that a run folder holds at any time, with `folds` folds to be trained and `weights` bytes of weights a fold.

    Each fold keeps its weights (twice with --finish-on-all) and its rows of oof.csv. Those in training at once also have
    their saved state, twice while it is replaced: weights, averages of them, and what the optimizer keeps. With --keep-state
    those that are complete have theirs too.
    `images`: DataFrame image, path.
    """
    state = weights * (1 + bool(args.ema) + args.average_last + optimizer_share(args.optimizer, args.lr, args.weight_decay))
    state *= 2 if args.finish_on_all else 1
    at_once = folds if args.parallel_folds == "auto" else min(folds, args.parallel_folds)
    names = images["image"].str.len().sum() + images["path"].str.len().sum()
    table = int(names) + len(images) * NUMBER * (len(dataset.columns(args.target)) + 1)
    kept = folds * weights * (2 if args.finish_on_all else 1)
    states = at_once + (folds if args.keep_state else at_once)
    return int(kept + states * state + 2 * table + PICTURES)


def check(args, weights, images, paths, geometry, run=None):
    """InputError, before anything is made, where a volume has too little room for a training.

    weights: bytes of the model's weights; paths: all that is decoded; run: the folder
    of a run that goes on, of which only the folds that are not complete need room, less what they take already.
    """
    wanted = experiment.fold_numbers(args)
    missing = experiment.missing(run, args, wanted) if run else wanted
    needed = run_bytes(args, weights, images, len(missing)) if missing else 0
    for number in missing if run else ():
        needed -= sum(file.stat().st_size for file in experiment.fold_dir(run, number).glob("*"))
    place = ("--output-dir", args.output_dir) if run is None else ("", run)
    pixels = bytes_to_build(paths, geometry, args.cache_dir)
    needs = [(*place, "the run", needed), ("--cache-dir", args.cache_dir, "decoded images", pixels)]
    files.check_room([need for need in needs if need[3] > 0])
