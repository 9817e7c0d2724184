"""loss.py: each loss against torch, torchvision or by hand; soft targets, class weights, criterion; the optimizer by name,
learning rates, AdamP."""

import copy
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import timm.optim
import timm.optim.adamp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
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
    usual |= {"age_sigma": 2.0, "top_age_spread": None, "aux_age": 0.0}
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


def test_the_auxiliary_head_learns_single_years():
    """Even odds over 18 to 80 have the mean 49; of a person of 20 that is 2.9 decades off. An unknown age asks for nothing."""
    logits, target = torch.zeros(2, 63), F.pad(torch.eye(63)[[20 - 18]], (0, 0, 0, 1))
    assert loss.age_loss(logits, target).item() == pytest.approx((math.log(63) + 2.9) / 2)
    labels, both = np.array([[3], [17]]), torch.cat([torch.randn(2, 18), logits], dim=1)
    plain, aux = (loss.build_criterion(recipe(aux_age=weight), labels, torch.device("cpu")) for weight in (0.0, 0.5))
    targets = torch.cat([loss.soft_targets("label", labels, 2.0), target], dim=1)
    torch.testing.assert_close(aux(both, targets), plain(both[:, :18], targets[:, :18]) + 0.5 * loss.age_loss(logits, target))


@pytest.mark.filterwarnings("error")  # as torch's of an array of pandas, which nobody may write to
def test_the_auxiliary_heads_ages_go_up_to_80_unless_they_were_clipped():
    """Of clipped ones a recorded 60 is 60 to 70, evenly; a spread that is given holds in either case."""
    known = loss.aux_targets(np.broadcast_to([40, 72, 90], 3), 2.0, None, 4)
    assert (known[:3] @ torch.arange(18.0, 81)).tolist() == pytest.approx([40, 72, 80], abs=1e-3) and not known[3].any()
    clipped, given = (loss.aux_targets(np.array([40, 60]), 2.0, spread, 2) for spread in (None, 20.0))
    assert (clipped @ torch.arange(18.0, 81)).tolist() == pytest.approx([40, 65], abs=1e-3)
    assert (given[1] @ torch.arange(18.0, 81)).item() == pytest.approx(70, abs=0.1)


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


STEPS = 10


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["StepLR", "Cosine", "CAWR", "Plateau", "none"]), st.integers(1, 12), st.integers(1, 5),
    st.floats(0.05, 1), st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=12, max_size=12),
)  # fmt: skip
def test_learning_rates_are_those_of_torchs_schedulers(scheduler, epochs, lr_step, lr_gamma, history):
    """At the first step of each epoch; `history` is the validation F1 that Plateau follows. lr_gamma / 20 is the lowest rate."""
    lr_scheduler, optimizer = torch.optim.lr_scheduler, torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = {
        "StepLR": lambda: lr_scheduler.StepLR(optimizer, lr_step, lr_gamma),
        "Cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, epochs, lr_gamma / 20),
        "CAWR": lambda: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, lr_step, eta_min=lr_gamma / 20),
        "Plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer, "max", lr_gamma, lr_step, threshold=0, eps=0),
        "none": lambda: lr_scheduler.ConstantLR(optimizer, 1.0),
    }[scheduler]()
    for epoch in range(1, epochs + 1):
        ours = loss.lr_at(epoch, 0, STEPS, scheduler=scheduler, lr=0.1, epochs=epochs, lr_step=lr_step, lr_gamma=lr_gamma,
                           min_lr=lr_gamma / 20, history=history[: epoch - 1])  # fmt: skip
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step(*([history[epoch - 1]] if scheduler == "Plateau" else []))


def test_warmup_climbs_step_by_step_and_the_schedule_follows():
    """20 warm-up steps to 0.1: the first is 0.1 / 20, the last 0.1; then StepLR counts from epoch 3."""
    options = {"scheduler": "StepLR", "lr": 0.1, "epochs": 6, "lr_step": 2, "warmup_epochs": 2}
    assert loss.lr_at(1, 0, STEPS, **options) == pytest.approx(0.005)
    assert loss.lr_at(2, 9, STEPS, **options) == pytest.approx(0.1)
    assert [loss.lr_at(epoch, 0, STEPS, **options) for epoch in (3, 4, 5, 6)] == pytest.approx([0.1, 0.1, 0.05, 0.05])


@pytest.mark.parametrize(("given", "name"), [("adamp", "AdamP"), ("ADAMW", "AdamW"), ("SGD", "SGD"), ("nesterov", "nesterov"),
                                             ("lookahead_adamw", "lookahead_AdamW")])  # fmt: skip
def test_names_have_one_spelling(given, name):
    assert loss.optimizer_name(given) == name and loss.scheduler_name("cawr") == "CAWR"


@pytest.mark.parametrize("name", ["AdamP", "AdamW", "SGD", "lookahead_AdamW", "Lion", "RMSprop"])
def test_named_optimizer_is_made_and_takes_a_step(name):
    model = torch.nn.Linear(3, 2)
    before = model.weight.clone()
    optimizer = loss.build_optimizer(model, loss.optimizer_name(name), 0.1, 0.01)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert (model.weight != before).any()
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}


@pytest.mark.parametrize("name", ["AdamW", "adam", "SGD", "lookahead_adamw"])
def test_torchs_fused_kernels_are_used_and_step_like_its_loop(name):
    torch.manual_seed(0)
    fused, loop = (timm.create_model("test_resnet", num_classes=3) for _ in range(2))
    loop.load_state_dict(fused.state_dict())
    start = {key: value.clone() for key, value in fused.state_dict().items()}
    ours = loss.build_optimizer(fused, name, 1e-2, 0.1)
    assert getattr(ours, "base_optimizer", ours).defaults["fused"] is True
    for net, optimizer in ((fused, ours), (loop, timm.optim.create_optimizer_v2(loop, opt=name, lr=1e-2, weight_decay=0.1))):
        for _ in range(3):
            for number, parameter in enumerate(net.parameters()):
                parameter.grad = torch.full_like(parameter, 0.1 + number / 100)
            optimizer.step()
    for key, value in loop.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[key], value, rtol=1e-4, atol=1e-6)
    assert any((start[key] != value).any() for key, value in fused.state_dict().items())


KINDS = ("channels", "whole", "neither")


def weights_and_gradient(kind, channels=4):
    """(p, gradient), [channels, 3, 2, 2]: orthogonal by channel, as a whole alone (half of the channels' gradients are along
    their weights and half against them), or not."""
    p = torch.randn(channels, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    p /= p.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    if kind == "channels":
        other = torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
        return p, other - p * (other * p).sum((1, 2, 3), keepdim=True)
    signs = torch.ones(channels)
    signs[::2] = -1 if kind == "whole" else 1
    return p, p * signs.reshape(-1, 1, 1, 1)


def test_projection_by_hand():
    """Of the weight (3, 4), length 5, a gradient (4, -3) is orthogonal to it: of a step (1, 2) the part along it, (3 + 8) / 25 of
    the weight, goes. To (6, 8) the gradient (3, 4) is parallel: nothing goes."""
    params = [torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]])]
    params[0].grad, params[1].grad = torch.tensor([[4.0, -3.0]]), torch.tensor([[3.0, 4.0]])
    channels = loss.Channels([p.shape for p in params], torch.device("cpu"))
    along, factor = loss.project(params, [torch.tensor([[1.0, 2.0]])] * 2, channels, 0.1, 0.25, 1e-8)
    torch.testing.assert_close(along, torch.tensor([[0.44], [0.0]]))
    assert factor.tolist() == [[0.25], [1.0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("memory_format", "nesterov"), [(torch.contiguous_format, True), (torch.channels_last, False)])
def test_a_step_is_timms(kind, memory_format, nesterov):
    """Weights of several widths at once, of all three kinds, the first of the kind named, and ones without channels."""
    made = [
        weights_and_gradient(kind),
        *(weights_and_gradient(other, 6) for other in KINDS),
        (torch.ones(5), torch.arange(5.0)),
    ]
    ends = []
    for cls in (loss.AdamP, timm.optim.AdamP):
        params = [p.clone() if p.ndim == 1 else p.contiguous(memory_format=memory_format) for p, _grad in made]
        params = [torch.nn.Parameter(p.clone()) for p in params]
        optimizer = cls(params, lr=0.1, weight_decay=0.3, nesterov=nesterov, wd_ratio=0.25)
        for _ in range(3):
            for p, (_, grad) in zip(params, made):
                p.grad = grad.clone()
            optimizer.step()
        ends.append((params, optimizer.state_dict()["state"]))
    (mine, my_states), (theirs, their_states) = ends
    for p, expected, (start, _grad) in zip(mine, theirs, made):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)
        assert (p != start).any()
    torch.testing.assert_close(my_states, their_states, rtol=1e-5, atol=1e-6)


def trained(net, optimizer, steps):
    """Trains on gradients of all three kinds in turn."""
    for number in steps:
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(number)) + (number % 3 - 1) * p.detach()
        optimizer.step()


def test_a_model_trains_like_with_timms_and_goes_on_from_its_state():
    torch.manual_seed(0)
    start, ends, ours, timms = timm.create_model("test_resnet", num_classes=3), [], loss.AdamP, timm.optim.AdamP
    for first, second in ((timms, timms), (ours, ours), (timms, ours)):
        net = copy.deepcopy(start)
        groups = timm.optim.param_groups_weight_decay(net, 0.1)
        before, after = (cls(groups, lr=1e-2, nesterov=True) for cls in (first, second))
        trained(net, before, range(5))
        after.load_state_dict(before.state_dict())
        trained(net, after, range(5, 10))
        ends.append(net.state_dict())
    for key, value in ends[0].items():
        for end in ends[1:]:
            torch.testing.assert_close(end[key], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(next(net.parameters()), next(start.parameters()))


def test_weights_that_join_later_have_their_own_count():
    """timm counts the steps of each weight: a second one that had no gradient at first begins with the large correction."""
    ends = []
    for cls in (loss.AdamP, timm.optim.AdamP):
        params = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))]
        optimizer = cls(params, lr=0.1)
        for step in range(3):
            for p in params[: 1 if step == 0 else 3]:
                p.grad = torch.full_like(p, 0.5 + step)
            optimizer.step()
        ends.append([*params, *(optimizer.state[p]["step"] for p in params)])
    assert ends[0][3:] == ends[1][3:] == [3, 2, 2]
    torch.testing.assert_close(ends[0][:3], ends[1][:3])
    assert not torch.equal(ends[0][0], ends[0][1])


@pytest.mark.parametrize(("name", "kind"), [("AdamP", loss.AdamP), ("cadamp", timm.optim.AdamP)])
def test_train_makes_them_and_leaves_the_cautious_ones_to_timm(name, kind):
    net = timm.create_model("test_resnet", num_classes=3)
    for prefix in ("", "lookahead_"):
        made = loss.build_optimizer(net, prefix + name, 1e-2, 0.1)
        made = getattr(made, "_base_optimizer", made)
        assert type(made) is kind and made.defaults["nesterov"] and made.defaults["caution"] == (name == "cadamp")
    assert name != "AdamP" or made.defaults["wd_ratio"] == 0.01  # of timm's list, not of the class


class Kernels(TorchDispatchMode):
    """`count` of calls that make a tensor on a GPU which is no view and not merely empty, or change a list of tensors at once."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        new = not func.is_view and name not in ("empty", "_unsafe_view") and isinstance(made, torch.Tensor) and made.is_cuda
        self.count += new or name.startswith("_foreach")
        return made


@pytest.mark.parametrize("name", ["AdamP", "AdamW", "Lion", "RMSprop"])
def test_a_gpu_begins_few_kernels_and_is_asked_for_nothing(name):
    """Seven for each weight of several dimensions and some seventy for all; one weight after the other it were 1,815 for the 62
    weights of resnet18. Fake CUDA tensors have no values, so what asks for one raises."""
    with FakeTensorMode(), torch.device("cuda"):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), *(torch.nn.Linear(8, 8) for _ in range(30)))
        optimizer = loss.build_optimizer(net, name, 1e-2, 0.1)
        for _ in range(2):
            for p in net.parameters():
                p.grad = torch.empty_like(p)
            with Kernels() as begun:
                optimizer.step()
    assert begun.count <= 31 * 7 + 70 or name in ("Lion", "RMSprop")
