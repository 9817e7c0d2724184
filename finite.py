"""Is what is being trained still a number? Looked at rarely enough that no step waits for the device.

The device itself counts the steps whose loss was finite, so the first one that was not is known however late it is asked. The
losses are those before the scale of --amp fp16: a step that it skips has a finite one.
"""

import collections

import torch

import parts
import space

LOOK_STEPS = 50  # how often a GPU is asked, as its answer has to be waited for; a CPU is every step


class NotFinite(ValueError):
    """A loss or a weight is not-a-number or infinite: since `step` (from 1) of `epoch`, which took in `rows` of the store."""

    def __init__(self, what, fit, step):
        super().__init__(what)
        self.epoch, self.step, self.rows = fit.epoch, step + 1, parts.step_rows(fit, step)


def check_loss(fit):
    """NotFinite when the loss of a step of `fit.epoch` was not; waits for the device."""
    good = int(fit.finite_steps)
    if good < fit.step:
        raise NotFinite(f"the training loss is {float(fit.loss_sum)}", fit, good)


def check_finite(fit):
    """NotFinite when a loss or a weight is not, or anything in the state is not-a-number: it must be neither saved nor kept."""
    check_loss(fit)
    good = collections.defaultdict(list)  # of each device, which is waited for once
    for value in fit.model.parameters():
        good[value.device].append(value.isfinite().all())
    for value in space.tensors(fit.state_dict()):
        good[value.device].append(~value.isnan().any())
    if not all(torch.stack(flags).all() for flags in good.values()):
        raise NotFinite("a weight is not finite", fit, max(fit.step - 1, 0))  # at that step the loss still was
