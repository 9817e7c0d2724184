"""loss.py: each loss against torch, torchvision or by hand; soft targets, class weights, criterion."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

import loss
from dataset import AGES
from errors import InputError

COUNTS = torch.tensor([500, 60, 7, 0, 1])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64)
SPECS = [*loss.LOSS_CODES, "ce+f1", "0.6*focal+0.4*f1", "+".join(loss.LOSS_CODES)]


def hot(*classes, C=5):
    return F.one_hot(torch.tensor(classes), C).double()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(12, 5, generator=generator, dtype=torch.float64)
    return logits, hot(*torch.randint(5, (12,), generator=generator))


@pytest.fixture
def soft(batch):
    return torch.rand(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(1)


@pytest.mark.parametrize(("spec", "message"), [
    ("focl", r'^--loss focl: unknown loss "focl"; allowed: ce, label_smoothing, .*Did you mean focal\?'),
    ("", 'unknown loss ""'), ("ce+", 'unknown loss ""'), ("focal*0.5", 'unknown loss "0.5".* such as 0.6'),
    ("ce+-1*f1", r'^--loss ce\+-1\*f1: weight "-1" of f1 is not a positive number, such as 0.5\*f1'),
    *((f"{weight}*ce", f'weight "{weight}"') for weight in ("0", "nan", "inf", "", "half")), ("2*3*ce", r'weight "2\*3"'),
])  # fmt: skip
def test_parse_loss_refuses(spec, message):
    with pytest.raises(InputError, match=message) as error:
        loss.build_loss(spec, COUNTS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("smoothing", [0.0, 0.025, 0.3])
def test_cross_entropy_and_label_smoothing_are_torch_s(batch, soft, smoothing):
    """Class weights are not divided out, as in torch's mean over soft targets."""
    logits, target = batch
    for wanted, weights in itertools.product((target, soft), (None, WEIGHTS)):
        expected = F.cross_entropy(logits, wanted, weights, label_smoothing=smoothing)
        torch.testing.assert_close(loss.label_smoothing(logits, wanted, smoothing, weights), expected)
        expected = F.cross_entropy(logits, wanted, weights)
        torch.testing.assert_close(loss.cross_entropy(logits, wanted, weights), expected)


def test_focal_by_hand():
    """Logits (log 9, 0) give p = (0.9, 0.1). gamma 2, class 0: 0.1^2 * -log 0.9 = 0.01 * 0.105361 = 0.00105361;
    class 1: 0.9^2 * -log 0.1 = 0.81 * 2.302585 = 1.865094. Mean of the two: 0.933074. Half and half of both classes in
    one sample: 0.5 * 0.00105361 + 0.5 * 1.865094, the same."""
    logits = torch.tensor([[math.log(9), 0.0]])
    torch.testing.assert_close(loss.focal(logits, hot(0, C=2)).item(), 0.00105361, rtol=1e-5, atol=0)
    both = loss.focal(logits.repeat(2, 1), hot(0, 1, C=2))
    torch.testing.assert_close(both.item(), 0.933074, rtol=1e-5, atol=0)
    assert loss.focal(logits, torch.tensor([[0.5, 0.5]])).item() == pytest.approx(both.item())


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_of_two_classes_is_the_paper_s(gamma):
    """Softmax of [z, 0] is sigmoid(z) for class 0; alpha 0.25 is weight 0.25 on class 0 and 0.75 on class 1."""
    z = torch.linspace(-8, 8, 33, dtype=torch.float64)
    for is_class_0 in (0.0, 1.0):
        expected = sigmoid_focal_loss(z, torch.full_like(z, is_class_0), alpha=0.25, gamma=gamma, reduction="mean")
        target = hot(*[int(1 - is_class_0)] * 33, C=2)
        weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
        ours = loss.focal(torch.stack([z, torch.zeros_like(z)], 1), target, gamma, weights)
        torch.testing.assert_close(ours, expected)


def test_special_cases_are_cross_entropy(batch, soft):
    """focal at gamma 0, logit_adjusted with a uniform prior, ordinal of two classes."""
    logits, target = batch
    for wanted in (target, soft):
        torch.testing.assert_close(loss.focal(logits, wanted, 0.0, WEIGHTS), loss.cross_entropy(logits, wanted, WEIGHTS))
        adjusted = loss.logit_adjusted(logits, wanted, torch.full((5,), 40))
        torch.testing.assert_close(adjusted, loss.cross_entropy(logits, wanted))
    two = hot(*[0, 1] * 6, C=2)
    torch.testing.assert_close(loss.ordinal(logits[:, :2], two), loss.cross_entropy(logits[:, :2], two))


def test_soft_f1_by_hand():
    """Three classes, class 2 absent. Rows p = (.5, .25, .25), (.25, .5, .25), (.5, .25, .25), truth 0, 1, 1.
    Class 0: tp .5, sum p 1.25, sum t 1, F1 = 2 * .5 / 2.25 = 4/9. Class 1: tp .5 + .25 = .75, sum p 1, sum t 2,
    F1 = 1.5 / 3 = 1/2. Class 2 isn't averaged. Loss 1 - (4/9 + 1/2) / 2 = 19/36. A sure and right batch has loss 0: at logits
    of 1e4 the absent classes have no probability left at all, 0 / 0 but for eps."""
    logits = torch.tensor([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [2.0, 1.0, 1.0]]).log()
    target = hot(0, 1, 1, C=3)
    assert loss.soft_f1(logits, target).item() == pytest.approx(19 / 36, rel=1e-6)
    weighted = loss.soft_f1(logits, target, torch.tensor([3.0, 1.0, 9.0]))
    assert weighted.item() == pytest.approx(1 - (3 * 4 / 9 + 1 / 2) / 4, rel=1e-6)
    logits = (1e4 * hot(0, 3, 3, 0)).requires_grad_()
    value = loss.soft_f1(logits, hot(0, 3, 3, 0))
    assert value.item() == pytest.approx(0, abs=1e-6) and torch.autograd.grad(value, logits)[0].isfinite().all()


def test_logit_adjusted_by_hand():
    """Equal logits, 30 and 10 images, truth the rare one: softmax of (log 30, log 10) is (3/4, 1/4), loss log 4.
    At tau 2 it is 900 to 100, loss log 10; at tau 0 cross entropy, log 2. A count of 0 is 1: 3 to 1, log 4."""
    logits, target = torch.zeros(1, 2), hot(1, C=2)
    values = [loss.logit_adjusted(logits, target, torch.tensor([30, 10]), tau).item() for tau in (1, 2, 0)]
    assert values == pytest.approx([math.log(4), math.log(10), math.log(2)])
    assert loss.build_loss("logit_adjusted", torch.tensor([3, 0]))(logits, target).item() == pytest.approx(math.log(4))


def test_ordinal_by_hand():
    """Probabilities 0.2, 0.3, 0.5 and class 1: above 0? yes, 0.8; above 1? no, 1 - 0.5. -(log 0.8 + log 0.5) / 2 = 0.458145."""
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log()
    assert loss.ordinal(logits, hot(1, C=3)).item() == pytest.approx(0.458145, abs=1e-6)
    weighted = loss.ordinal(logits, hot(1, C=3), class_weights=torch.tensor([1.0, 3.0, 1.0]))
    assert weighted.item() == pytest.approx(3 * 0.458145, abs=1e-5)


@pytest.mark.parametrize(("spec", "gamma"), [*((spec, 2.0) for spec in SPECS), ("focal", 0.0), ("focal", 0.5)])
def test_finite_at_extreme_logits(spec, gamma):
    target = hot(*range(5)).float()
    criterion = loss.build_loss(spec, COUNTS, gamma=gamma, class_weights=torch.arange(1, 6))
    right = 2e4 * target - 1e4
    for logits in (right, -right, right.roll(1, 0), torch.zeros(5, 5), torch.full((5, 5), 1e4)):
        logits = logits.clone().requires_grad_()
        values = [criterion(logits, wanted) for wanted in (target, torch.full((5, 5), 0.2))]
        assert all(value.dtype == torch.float32 and value.ndim == 0 and value.isfinite() for value in values)
        assert torch.autograd.grad(sum(values), logits)[0].isfinite().all()


def test_sums_add_with_their_weights_which_the_code_leaves_out(batch):
    assert loss.loss_code("0.6*ce+0.4*f1") == "CE+F1"
    assert [loss.loss_code(name) for name in loss.LOSS_CODES] == ["CE", "LS", "FL", "F1", "LA", "OR"]
    logits, target = batch
    criterion = loss.build_loss(" 0.6*focal + 40e-1 * f1+ce+label_smoothing", COUNTS, 3.0, 0.2, WEIGHTS)
    expected = 0.6 * loss.focal(logits, target, 3.0, WEIGHTS) + 4 * loss.soft_f1(logits, target, WEIGHTS)
    expected += loss.cross_entropy(logits, target, WEIGHTS) + loss.label_smoothing(logits, target, 0.2, WEIGHTS)
    torch.testing.assert_close(criterion(logits, target), expected)


def test_age_distribution_is_a_bell_around_the_age_and_the_censored_ends_are_certain():
    ages = torch.arange(18, 61)
    probs = loss.age_distribution(ages)
    assert probs.shape == (43, len(AGES)) and probs.dtype == torch.float32 and (probs >= 0).all()
    torch.testing.assert_close(probs.sum(1), torch.ones(43))
    assert torch.equal(probs[3:-3].argmax(1), ages[3:-3] - 18)
    middle = slice(10, 33)  # five sigma from both ends
    torch.testing.assert_close((probs[middle] * ages).sum(1), ages[middle].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(loss.age_distribution(torch.tensor([40.0, 28.5]))[0], probs[22])
    ends = loss.age_distribution(torch.tensor([18, 7, 60, 93]), sigma=3.0)[:, [0, -1]]
    assert ends.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_age_distribution_by_hand():
    """sigma 2, age 57: the class 60 is age > 59.5, 1.25 sigma up, 1 - Phi(1.25) = 0.105650; its own year is
    Phi(0.25) - Phi(-0.25) = 0.197413. 59: 60 takes 1 - Phi(0.25) = 0.401294. 19: 18 takes Phi(-0.25), as much.
    sigma 2.5, age 57: 59.5 is 1 sigma up, 1 - Phi(1) = 0.158655. Top spread 0: a bell around 60, of which Phi(-0.25) lies below
    59.5 and 1 - Phi(1.25) below 57.5. Spread 10: the mean over true ages from 60 to 70; other ages do not change."""
    at_57, at_59, at_19 = loss.age_distribution(torch.tensor([57, 59, 19]))
    assert [at_57[-1].item(), at_57[57 - 18].item()] == pytest.approx([0.105650, 0.197413], abs=1e-6)
    assert [at_59[-1].item(), at_19[0].item()] == pytest.approx([0.401294, 0.401294], abs=1e-6)
    assert loss.age_distribution(torch.tensor([57]), sigma=2.5)[0, -1].item() == pytest.approx(0.158655, abs=1e-6)
    ages = torch.tensor([60, 59, 18])
    narrow, wide = (loss.age_distribution(ages, 2.0, spread) for spread in (0.0, 10.0))
    assert 1 - narrow[0, -1].item() == pytest.approx(0.401294, abs=1e-6)
    assert narrow[0, : 57 - 17].sum().item() == pytest.approx(0.105650, abs=1e-6)
    points = np.linspace(60, 70, 101)
    expected = np.mean([math.erfc((point - 59.5) / 2 / math.sqrt(2)) / 2 for point in points])
    assert 1 - wide[0, -1].item() == pytest.approx(expected, abs=1e-6) and expected < 0.1
    assert torch.equal(narrow[1:], loss.age_distribution(ages)[1:]) and narrow.sum(1).tolist() == pytest.approx([1, 1, 1])


def recipe(**changes):
    usual = {"target": "label", "loss": "ce", "gamma": 2.0, "smoothing": 0.025, "class_weights": "none"}
    usual |= {"age_sigma": 2.0, "top_age_spread": None}
    return SimpleNamespace(**usual | changes)


def test_soft_targets_are_one_hot_in_each_head_and_of_ages_distributions():
    """Beyond the ends are the ends."""
    soft = loss.soft_targets("multi", np.array([[2, 0, 1], [0, 1, 2]]), 2.0)
    assert soft.tolist() == [[0, 0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0, 0, 1]]
    soft = loss.soft_targets("age", np.array([[40], [17], [99]]), 2.0)
    torch.testing.assert_close(soft, loss.age_distribution(torch.tensor([40, 18, 60]), 2.0))
    wide = loss.soft_targets("age", np.array([[60]]), 2.0, top_age_spread=5.0)
    assert 0 < wide[0, :-1].sum() < 0.2


def test_the_criterion_sums_over_heads():
    targets = np.array([[2, 0, 1], [0, 1, 2], [1, 1, 0]])
    criterion = loss.build_criterion(recipe(target="multi"), targets, torch.device("cpu"))
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    heads = zip(logits.split((3, 2, 3), dim=1), torch.tensor(targets).T)
    expected = sum(F.cross_entropy(of_head, classes) for of_head, classes in heads)
    torch.testing.assert_close(criterion(logits, loss.soft_targets("multi", targets, 2.0)), expected)


def test_the_prior_of_single_years_is_what_the_targets_hold():
    """With nobody of 27 to 29, whose years get mass from their neighbours': a model that says what the targets say is right
    everywhere, so logits of its log probabilities plus the log prior have the least loss and no gradient."""
    ages = np.array([age for age in range(20, 59) if age not in (27, 28, 29)] * 5)[:, None]
    targets = loss.soft_targets("age", ages, 2.0)
    prior = targets.sum(0)
    criterion = loss.build_criterion(recipe(target="age", loss="logit_adjusted"), ages, torch.device("cpu"))
    logits = (targets.clamp(min=1e-30).log() - prior.clamp(min=1).log()).requires_grad_()
    value = criterion(logits, targets)
    entropy = -(targets * targets.clamp(min=1e-30).log()).sum(1).mean()
    torch.testing.assert_close(value, entropy, rtol=1e-4, atol=1e-4)
    value.backward()
    assert logits.grad.abs().max() * len(ages) < 1e-4


def test_class_weights_by_hand_and_of_the_training_targets():
    """balanced: counts 6, 2, 0 of 8 in 2 classes: 8 / (2 * 6) = 2/3 and 8 / (2 * 2) = 2; a class without images is 1.
    effective: counts 1 and 2 have the effective numbers 1 and (1 - 0.999^2) / 0.001 = 1.999; their inverses have the mean
    (1 + 2 / 1.999) / 3 = 0.666833 over the images."""
    assert loss.class_weights("balanced", [6, 2, 0]).tolist() == pytest.approx([2 / 3, 2, 1])
    weights, mean = loss.class_weights("effective", [1, 2, 0]), (1 + 2 / 1.999) / 3
    assert weights.tolist() == pytest.approx([1 / mean, 1 / 1.999 / mean, 1])
    few, many = loss.class_weights("effective", [10, 20]), loss.class_weights("effective", [10_000, 20_000])
    assert few[0] / few[1] == pytest.approx(2, rel=0.01) and many[0] / many[1] == pytest.approx(1, rel=0.01)
    assert loss.class_weights("none", [1, 2]) is None
    targets = np.array([[0]] * 6 + [[1]] * 2)
    recipes = [recipe(target="gender", class_weights=kind) for kind in ("none", "balanced")]
    plain, weighted = (loss.build_criterion(one, targets, torch.device("cpu")) for one in recipes)
    logits, soft = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    assert weighted(logits, soft) == pytest.approx(2 * plain(logits, soft).item())
