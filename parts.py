"""What a training step takes in: rows of the store, their random changes and their partners, made into images and targets."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

import augment
import sampling
from distributed import ALONE
from files import draw_seed


@dataclass(frozen=True)
class MicroBatch:
    """What a process takes in at once: `rows` [B] of the store with their `params` of augment.draw.

    `mixed` bool [B]: which of them are mixed with the rows `partners` [M], by `mix_params` [M] of mixing.draw; the partners
    have their own `partner_params` of augment.draw.
    """

    rows: np.ndarray
    params: torch.Tensor
    mixed: np.ndarray
    mix_params: torch.Tensor
    partners: np.ndarray
    partner_params: torch.Tensor

    @property
    def reads(self):
        """The rows whose images it needs: its own and those of their partners."""
        return np.concatenate([self.rows, self.partners])


def fold_order(fit):
    """The training rows of `fit.epoch` in their order."""
    recipe, data = fit.recipe, fit.data
    classes, persons = data.of_train(data.classes), data.of_train(data.persons)
    return sampling.epoch_order(data.train_rows, recipe.seed, data.fold, fit.epoch, recipe.sampler, classes, persons)


def micro_batches(fit, order, step):
    """The `accum` Parts of this process in a step of `fit.epoch`, whose rows come in `order`: a pure function."""
    recipe, ranks = fit.recipe, fit.ranks
    size, micro = fit.step_size, fit.step_size // recipe.accum
    key = (recipe.seed, fit.data.fold, fit.epoch, step)
    rows = order[step * size : (step + 1) * size]
    params = augment.draw_augment(recipe.aug, size, torch.Generator().manual_seed(draw_seed("augment", *key)))
    mixed = np.zeros(size, dtype=bool)
    if fit.partners:
        drawn = sampling.generator("mix", *key)
        mixed, mix_params, uniform = augment.draw_mix(recipe.mix, size, recipe.mix_prob, recipe.mix_alpha, drawn)
        partners = fit.partners.draw(rows, uniform)
        partner_params = augment.draw_augment(recipe.aug, size, torch.Generator().manual_seed(draw_seed("partners", *key)))

    def part(start):
        def mine(values):
            return ranks.share(values[start : start + micro])

        own = mine(mixed)
        if not own.any():
            return MicroBatch(mine(rows), mine(params), own, torch.empty(0, len(augment.MIX_COLUMNS)), rows[:0], params[:0])
        return MicroBatch(mine(rows), mine(params), own, mine(mix_params)[own], mine(partners)[own], mine(partner_params)[own])

    return [part(start) for start in range(0, size, micro)]


def make_batch(fit, part, batch):
    """(images float32 [B, 3, H, W], soft targets [B, num_outputs]) of a Part, whose `reads` are the batch (uint8)."""
    params = torch.cat([part.params, part.partner_params])
    images = augment.augment(batch, params, fit.recipe.aug, *fit.mean_std)
    targets = fit.targets[torch.from_numpy(part.reads).to(fit.ranks.device, non_blocking=True)]
    B = len(part.rows)
    if len(part.partners):
        mixed = torch.from_numpy(np.flatnonzero(part.mixed)).to(images.device, non_blocking=True)
        mix_params = part.mix_params.to(images.device, non_blocking=True)
        own, others = (images[:B], targets[:B]), (images[B:], targets[B:])
        images, targets = augment.mix_batch(fit.recipe.mix, *own, mixed, mix_params, *others)
    return images.contiguous(memory_format=fit.layout), targets


def step_rows(fit, step):
    """The rows that all processes together take in in a step of `fit.epoch`: its own and those mixed with them."""
    alone = copy.copy(fit)
    alone.ranks = ALONE
    return np.concatenate([part.reads for part in micro_batches(alone, fold_order(fit), step)])
