"""fits.py: what a fold in training holds, and its switches (that its state is exact is tested in test_engine.py)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_engine import ALONE, RECIPE, make_fit, train

import engine
import loss
from errors import InputError


def test_the_moving_average_follows_the_weights():
    """After three steps, the warm-up of the decay included, the average has left the first weights and lags behind the last."""
    fit = make_fit(ema=0.9)
    name, first = next((name, value.clone()) for name, value in fit.model.named_parameters())
    train(fit, stop_after=3)
    average, last = fit.ema.module.state_dict()[name], fit.model.state_dict()[name]
    assert not torch.equal(average, first) and not torch.equal(average, last)
    assert (average - last).norm() < (first - last).norm()


def test_the_decay_of_the_moving_average_warms_up():
    """Step by step by hand: a decay of 1 - (k - 1)^(-2/3) at step k, 0 at the first, as long as that is below the one asked for."""
    fit, weights = make_fit(ema=0.4, people=60), []
    average = fit.model.fc.weight.detach().double()

    def after_step():
        weights.append(fit.model.fc.weight.detach().double().clone())
        return len(weights) == 5

    engine.train_one_epoch(fit, after_step)
    for step, weight in enumerate(weights, start=1):
        decay = 0.0 if step == 1 else min(0.4, 1 - (step - 1) ** (-2 / 3))  # 0, 0, 0.37, 0.4, 0.4
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(fit.ema.module.fc.weight.detach().double(), average, rtol=1e-5, atol=1e-6)


def test_options_of_labels_reach_the_training():
    """Years behind a recorded 60 as soft targets; rare partners by class; class counts of the training rows alone."""
    fit = make_fit(target="age", top_age_spread=5.0)
    old = fit.data.train_targets[:, 0] >= 60
    expected = loss.age_distribution(torch.tensor([60]), 2.0, 5.0)[0]
    assert old.any() and (fit.targets[old] == expected).all() and expected[-1] < 1
    fit = make_fit(mix="mixup", mix_rare=True)
    rows, edges = fit.partners.pools[0]
    shares = np.diff(edges, prepend=0)
    classes = fit.data.classes[rows]
    assert [shares[classes == one].sum() for one in (0, 1)] == pytest.approx([0.5, 0.5]) and shares[0] != pytest.approx(1 / 30)
    fit = make_fit(loss="logit_adjusted")
    logits, targets = torch.randn(4, 18), fit.targets[:4]
    mine, everyone = (
        loss.logit_adjusted(logits, targets, np.bincount(fit.data.train_targets[:count, 0], minlength=18)) for count in (30, 40)
    )
    assert fit.criterion(logits, targets) == pytest.approx(mine.item()) != pytest.approx(everyone.item(), abs=1e-6)


def test_the_average_of_the_last_epochs_is_what_is_evaluated_and_kept():
    """Of 3 epochs the mean of the weights after the last 2; counters as they are."""
    fit, ends = make_fit(average_last=2, epochs=3), []
    while not fit.finished:
        engine.train_one_epoch(fit, lambda: False)
        ends.append({name: value.clone() for name, value in fit.model.state_dict().items()})
        engine.end_epoch(fit)
    kept = fit.evaluated.state_dict()
    for name, value in kept.items():
        expected = (ends[1][name] + ends[2][name]) / 2 if value.is_floating_point() else ends[2][name]
        torch.testing.assert_close(value, expected)
    assert not torch.equal(kept["fc.weight"], ends[2]["fc.weight"]) and len(fit.tail) == 2


def test_frozen_epochs_change_the_head_alone():
    fit = make_fit(freeze_epochs=1)
    before = {name: value.clone() for name, value in fit.model.state_dict().items()}
    for frozen in (True, False):
        engine.train_one_epoch(fit, lambda: False)
        engine.end_epoch(fit)
        after = fit.model.state_dict()
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert (changed == {"fc.weight", "fc.bias"}) == frozen and {"fc.weight", "fc.bias"} <= changed
    assert len(changed) > 20


def test_layers_far_from_the_head_learn_more_slowly():
    """Each group's rate is that of the schedule times its lr_scale, which falls from the head (1) to the stem."""
    fit = make_fit(layer_decay=0.5)
    train(fit, stop_after=1)
    scale = {id(p): group["lr_scale"] for group in fit.optimizer.param_groups for p in group["params"]}
    assert scale[id(fit.model.fc.weight)] == 1 and scale[id(next(fit.model.parameters()))] < 0.2
    assert all(group["lr"] == pytest.approx(1e-3 * group["lr_scale"]) for group in fit.optimizer.param_groups)


def test_mixed_samples_carry_both_labels_and_partners_share_the_mask_state():
    fit = make_fit(mix="halves", mix_prob=1.0, aug="none")
    (part,) = engine.micro_batches(fit, fit.data.train_rows, 0)
    assert part.mixed.all() and (fit.data.masks[part.partners] == fit.data.masks[part.rows]).all()
    images, targets = engine.make_batch(fit, part, fit.data.store.gather(part.reads))
    torch.testing.assert_close(targets, (fit.targets[part.rows] + fit.targets[part.partners]) / 2)
    mean, std = (torch.tensor(v)[:, None, None] for v in (fit.data.mean, fit.data.std))
    for image, row, partner in zip(images, part.rows, part.partners):
        own, other = ((torch.from_numpy(fit.data.store.images[i]).permute(2, 0, 1) / 255 - mean) / std for i in (row, partner))
        pairs = [(image[..., :12], image[..., 12:])]
        assert any(
            torch.allclose(left, a[..., :12]) and torch.allclose(right, b[..., 12:])
            for left, right in pairs
            for a, b in ((own, other), (other, own))
        )


def test_partners_are_changed_by_draws_of_their_own():
    fit = make_fit(mix="mixup", mix_prob=1.0, aug="strong")
    (part,) = engine.micro_batches(fit, fit.data.train_rows, 0)
    assert len(part.partner_params) == len(part.params) == 8
    assert not set(part.partner_params.flatten().tolist()) & set(part.params.flatten().tolist()) - {0.0, 1.0}


def test_an_epoch_of_persons_is_as_long_as_there_are_persons():
    """30 training rows of 10 persons: one step of 8."""
    fit = make_fit(sampler="person")
    assert (fit.images, fit.step_size, fit.steps) == (10, 8, 1)
    train(fit)


def test_pseudo_labels_are_the_soft_targets_of_the_last_rows():
    fit = make_fit()
    soft = np.full((4, 18), 1 / 18, dtype=np.float32)
    data = replace(fit.data, pseudo=soft)
    again = engine.Fit(fit.model, fit.recipe, data, ALONE)
    assert torch.equal(again.targets[:-4], fit.targets[:-4]) and torch.equal(again.targets[-4:], torch.from_numpy(soft))


def test_the_scale_of_half_precision_is_part_of_the_state():
    fit, other = make_fit(amp="fp16"), make_fit(amp="fp16")
    fit.scaler.scale(torch.ones(()))  # the scale is made at its first use
    fit.scaler.update(new_scale=1024.0)
    other.load_state_dict(fit.state_dict())
    assert other.scaler.get_scale() == 1024.0


def test_every_epoch_takes_each_row_once_in_full_steps():
    fit = make_fit()
    assert (fit.step_size, fit.steps) == (8, 3)
    assert (make_fit(batch_size=64).step_size, make_fit(batch_size=64).steps) == (30, 1)


def test_step_shares_out_among_processes_and_parts():
    """8 images x 3 parts = 24 of 30; of 22 images 2 processes x 3 parts take 18; 5 images can't make 6 parts."""
    recipe = replace(RECIPE, accum=3)
    assert (engine.step_size(recipe, 30, 1), engine.step_size(recipe, 22, 2)) == (24, 18)
    with pytest.raises(InputError, match=r"--accum 3: 5 training images make 2 parts at most"):
        engine.step_size(recipe, 5, 2)
    with pytest.raises(InputError, match=r"--batch-size 8: must be a multiple of the 3 processes"):
        engine.step_size(recipe, 30, 3)
    with pytest.raises(InputError, match=r"8 processes: more than the 5 training images of a fold; start fewer"):
        engine.step_size(recipe, 5, 8)


def test_best_epoch_is_the_first_highest_and_patience_ends_the_fold():
    fit = make_fit(patience=2, epochs=10)
    for epoch, value in enumerate([0.3, 0.5, 0.5, 0.4], start=1):
        assert not fit.finished
        fit.history.append({"val_f1": value})
        fit.epoch = epoch + 1
    assert fit.best_epoch == 2
    assert fit.finished
