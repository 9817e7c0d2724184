"""What a training minimises: the soft targets of its images, and the loss summed over the heads."""

import numpy as np
import torch
import torch.nn.functional as F

from labels import CLASS_NAMES, FIRST_AGE, HEADS, LAST_AGE, head_slices
from loss import age_distribution, build_loss

CLASS_WEIGHTS = ("none", "balanced", "effective")
BETA = 0.999  # of the effective number of images


def class_index(head, targets):
    """Targets int64 [N] of a head as classes from 0: years become their distance to the first age."""
    return np.clip(targets, FIRST_AGE, LAST_AGE) - FIRST_AGE if head == "age" else targets


def soft_targets(target, train_targets, age_sigma, top_age_spread=None):
    """Probabilities float32 [N, num_outputs(target)] of int64 [N, heads]: one-hot, ages as label distributions."""
    parts = []
    for column, head in enumerate(HEADS[target]):
        classes = torch.from_numpy(class_index(head, train_targets[:, column]))
        if head == "age":
            table = age_distribution(torch.arange(FIRST_AGE, LAST_AGE + 1), age_sigma, top_age_spread)
            parts.append(table[classes])
        else:
            parts.append(F.one_hot(classes, len(CLASS_NAMES[head])).float())
    return torch.cat(parts, dim=1)


def build_criterion(recipe, train_targets, device):
    """The training loss as (logits, soft targets [B, num_outputs]) -> scalar: the sum over the heads' losses.

    train_targets int64 [N, heads] are those of the training rows: their class counts are the class weights and the prior, that
    of single years as the label distributions have them, which reach years that nobody has.
    """
    parts = []
    soft = soft_targets(recipe.target, train_targets, recipe.age_sigma, recipe.top_age_spread).sum(0)
    for column, (head, logits_slice) in enumerate(head_slices(recipe.target).items()):
        counts = np.bincount(class_index(head, train_targets[:, column]), minlength=len(CLASS_NAMES[head]))
        weights = class_weights(recipe.class_weights, counts)
        prior = soft[logits_slice] if head == "age" else torch.from_numpy(counts)
        loss = build_loss(recipe.loss, prior.to(device), recipe.gamma, recipe.smoothing,
                          None if weights is None else weights.to(device))  # fmt: skip
        parts.append((logits_slice, loss))

    def criterion(logits, targets):
        return sum(loss(logits[:, part], targets[:, part]) for part, loss in parts)

    return criterion


def class_weights(kind, counts):
    """Class weights float32 [C] of `kind`, with mean 1 over the images that `counts` [C] counts, or None for 'none'.

    balanced: in inverse proportion to the counts, as scikit-learn's (King and Zeng 2001). effective: to the effective number
    of images (1 - BETA^n) / (1 - BETA), which stops growing where more images bring nothing new (Cui et al. 2019, 1901.05555).
    Empty classes get 1.
    """
    if kind == "none":
        return None
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    size = counts[present] if kind == "balanced" else (1 - BETA ** counts[present]) / (1 - BETA)
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (counts[present] / size).sum() / size
    return torch.tensor(weights, dtype=torch.float32)
