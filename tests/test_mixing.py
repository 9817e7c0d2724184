import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import augment


def params(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def mixed_up(mix, row, size=4):
    """One white image of class 0 mixed with a black one of class 1: (its pixels [size, size], its target)."""
    images, targets = torch.ones(1, 3, size, size), torch.tensor([[1.0, 0.0]])
    others, other_targets = torch.zeros(1, 3, size, size), torch.tensor([[0.0, 1.0]])
    images, targets = augment.mix_batch(mix, images, targets, torch.tensor([0]), params(row), others, other_targets)
    assert (images == images[:, :1]).all()
    return images[0, 0], targets[0].tolist()


def test_mixup_by_hand():
    pixels, target = mixed_up("mixup", [0.75, 0, 0, 0])
    assert (pixels == 0.75).all() and target == [0.75, 0.25]


@pytest.mark.parametrize(("side", "left", "right"), [(0, 0, 1), (1, 1, 0)])
def test_halves_by_hand(side, left, right):
    """Side 0: the partner's left half; each has half of the pixels and of the label."""
    pixels, target = mixed_up("halves", [0.9, 0.1, 0.1, side])
    assert (pixels[:, :2] == left).all() and (pixels[:, 2:] == right).all() and target == [0.5, 0.5]


def test_halves_of_an_odd_width_share_by_pixels():
    """The middle of 5 columns is 0.5, not below it, so 2 columns are the left half."""
    pixels, target = mixed_up("halves", [0.5, 0, 0, 1], size=5)
    assert pixels[0].tolist() == [1, 1, 0, 0, 0] and target == pytest.approx([0.4, 0.6])


def test_cutmix_by_hand():
    """Share 0.75: a box of half the sides, here at the left border below: 4 of 16 pixels are the partner's."""
    pixels, target = mixed_up("cutmix", [0.75, 0, 1, 0])
    assert pixels.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]] and target == [0.75, 0.25]


def test_only_the_mixed_samples_change_and_each_by_its_own_partner():
    images, targets = torch.zeros(3, 3, 2, 2), torch.eye(3)
    others, other_targets = torch.full((2, 3, 2, 2), 8.0), torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    others[1] = 4
    rows = params([0.75, 0, 0, 0], [0.5, 0, 0, 0])
    mixed = torch.tensor([0, 2])
    images, targets = augment.mix_batch("mixup", images, targets, mixed, rows, others, other_targets)
    assert images[:, 0, 0, 0].tolist() == [2, 0, 2]
    assert targets.tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1]]


def draw(mix, prob=0.5, alpha=1.0, seed=0, count=4000):
    return augment.draw_mix(mix, count, prob, alpha, np.random.default_rng(seed))


def test_draws_are_a_function_of_the_generator_and_as_many_as_asked():
    for one, other in zip(draw("cutmix"), draw("cutmix")):
        assert (torch.as_tensor(one) == torch.as_tensor(other)).all()
    assert draw("cutmix", prob=0.3)[0].mean() == pytest.approx(0.3, abs=0.03)
    assert not draw("none")[0].any() and draw("mixup", prob=1.0)[0].all()


def test_alpha_is_that_of_beta():
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1))."""
    for alpha in (0.2, 1.0, 4.0):
        share = draw("mixup", alpha=alpha, count=20000)[1][:, 0].double()
        assert share.mean() == pytest.approx(0.5, abs=0.01)
        assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_boxes_have_the_area_and_lie_everywhere_inside():
    rows = draw("cutmix", count=500)[1]
    own = augment.own_share("cutmix", rows, 40, 60)
    assert (own.mean((1, 2, 3)) - rows[:, 0]).abs().max() < 0.06
    covered = (own == 0).float().mean(0)[0]
    assert covered.min() > 0.03  # corners least


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "halves"])
def test_nothing_waits_for_the_accelerator(mix):
    """Fake CUDA tensors have no values, so what asks for one raises: .item(), or the places of a mask."""
    with FakeTensorMode():
        images, targets = torch.empty(4, 3, 8, 6, device="cuda"), torch.empty(4, 5, device="cuda")
        mixed, rows = torch.empty(2, dtype=torch.int64, device="cuda"), torch.empty(2, 4, device="cuda")
        images, targets = augment.mix_batch(mix, images, targets, mixed, rows, images[:2].clone(), targets[:2].clone())
        assert images.device.type == targets.device.type == "cuda"
