from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import loss
from loss import age_distribution, build_criterion, soft_targets


def recipe(**changes):
    usual = {"target": "label", "loss": "ce", "gamma": 2.0, "smoothing": 0.025, "class_weights": "none"}
    usual |= {"age_sigma": 2.0, "top_age_spread": None}
    return SimpleNamespace(**usual | changes)


def test_soft_targets_are_one_hot_in_each_head():
    soft = loss.soft_targets("multi", np.array([[2, 0, 1], [0, 1, 2]]), 2.0)
    assert soft.tolist() == [[0, 0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0, 0, 1]]


def test_ages_become_distributions_and_beyond_the_ends_are_the_ends():
    soft = loss.soft_targets("age", np.array([[40], [17], [99]]), 2.0)
    torch.testing.assert_close(soft, age_distribution(torch.tensor([40, 18, 60]), 2.0))
    wide = loss.soft_targets("age", np.array([[60]]), 2.0, top_age_spread=5.0)
    assert 0 < wide[0, :-1].sum() < 0.2


def test_the_criterion_sums_over_heads():
    """The sum of torch's own cross entropies of the three heads."""
    targets = np.array([[2, 0, 1], [0, 1, 2], [1, 1, 0]])
    criterion = loss.build_criterion(recipe(target="multi"), targets, torch.device("cpu"))
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    expected = sum(
        F.cross_entropy(logits[:, part], torch.tensor(targets[:, head]))
        for head, part in enumerate((slice(0, 3), slice(3, 5), slice(5, 8)))
    )
    torch.testing.assert_close(criterion(logits, loss.soft_targets("multi", targets, 2.0)), expected)


def test_the_prior_of_single_years_is_what_the_targets_hold():
    """With nobody of 27 to 29, whose years get mass from their neighbours': a model that says what the targets say is right
    everywhere, so logits of its log probabilities plus the log prior have the least loss and no gradient."""
    ages = np.array([age for age in range(20, 59) if age not in (27, 28, 29)] * 5)[:, None]
    targets = soft_targets("age", ages, 2.0)
    prior = targets.sum(0)
    criterion = build_criterion(recipe(target="age", loss="logit_adjusted"), ages, torch.device("cpu"))
    logits = (targets.clamp(min=1e-30).log() - prior.clamp(min=1).log()).requires_grad_()
    loss = criterion(logits, targets)
    entropy = -(targets * targets.clamp(min=1e-30).log()).sum(1).mean()
    torch.testing.assert_close(loss, entropy, rtol=1e-4, atol=1e-4)
    loss.backward()
    assert logits.grad.abs().max() * len(ages) < 1e-4


def test_balanced_weights_are_one_on_average_over_images():
    """Counts 6, 2, 0 of 8 in 2 classes: 8 / (2 * 6) = 2/3 and 8 / (2 * 2) = 2; nothing for a class without images is 1."""
    weights = loss.class_weights("balanced", [6, 2, 0])
    assert weights.tolist() == pytest.approx([2 / 3, 2, 1])
    assert (6 * weights[0] + 2 * weights[1]) / 8 == pytest.approx(1)


def test_effective_weights_by_hand():
    """Counts 1 and 2: effective numbers 1 and (1 - 0.999^2) / 0.001 = 1.999; their inverses have the mean
    (1 + 2 / 1.999) / 3 = 0.666833 over the images."""
    weights = loss.class_weights("effective", [1, 2, 0])
    mean = (1 + 2 / 1.999) / 3
    assert weights.tolist() == pytest.approx([1 / mean, 1 / 1.999 / mean, 1])
    few, many = loss.class_weights("effective", [10, 20]), loss.class_weights("effective", [10_000, 20_000])
    assert few[0] / few[1] == pytest.approx(2, rel=0.01) and many[0] / many[1] == pytest.approx(1, rel=0.01)
    assert loss.class_weights("none", [1, 2]) is None


def test_weights_and_counts_are_those_of_the_training_targets():
    targets = np.array([[0]] * 6 + [[1]] * 2)
    plain, weighted = (
        loss.build_criterion(recipe(target="gender", class_weights=kind), targets, torch.device("cpu"))
        for kind in ("none", "balanced")
    )
    logits, soft = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    assert weighted(logits, soft) == pytest.approx(2 * plain(logits, soft).item())
