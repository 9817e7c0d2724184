"""How long training stands still between two epochs while files are written, as docs/results.md has it.

    python tools/gap.py SECONDS [options of train.py]

Steps only sleep for SECONDS, as if a GPU made them, and validation draws random predictions: what remains is the cost
of an epoch besides its steps. The run folder is temporary.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts lie above

import engine
import train
from dataset import num_outputs


def main(seconds, *options):
    ends, work = [], engine.train_one_epoch

    def train_step(fit, _step, _batches):
        time.sleep(float(seconds))
        if not fit.optimizer.state:  # so that there is as much to write as in a real training
            for parameter in fit.model.parameters():
                parameter.grad = torch.ones_like(parameter)
            fit.optimizer.step()
            fit.optimizer.zero_grad()
        fit.finite_steps += 1
        ends[-1].append(time.perf_counter())

    def train_one_epoch(fit, after_step):
        ends.append([])
        return work(fit, after_step)

    def evaluate(fit, _before_batch):
        probs = np.random.default_rng(fit.epoch).dirichlet(np.ones(num_outputs(fit.args.target)), len(fit.data.val_rows))
        return 1.0, fit.epoch / 1000, 0.5, probs.astype(np.float32)  # each epoch is better, so its weights are written too

    engine.train_step, engine.train_one_epoch, engine.evaluate = train_step, train_one_epoch, evaluate
    with tempfile.TemporaryDirectory() as folder:
        train.main([*options, "--output-dir", folder, "--quiet"])
    gaps = [after[0] - last[-1] - float(seconds) for last, after in itertools.pairwise(ends)]
    steps = [steps[-1] - steps[0] for steps in ends[1:]]
    for what, values in (("between two epochs", gaps), (f"{len(ends[0])} steps of an epoch", steps)):
        print(f"{what}: {np.median(values):.2f} s ({min(values):.2f} .. {max(values):.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
