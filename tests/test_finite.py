"""finite.py: the step whose loss is no number is named, whenever it is looked for, and nothing of it is saved."""

import numpy as np
import pytest
import torch
from test_engine import make_fit, train

import engine


@pytest.fixture
def bad_loss(monkeypatch):
    """From now on the loss of each step number in `bad` (of all steps, from 1) is that value."""

    def spoil(bad):
        part_loss, calls = engine.part_loss, []

        def spoilt(fit, images, targets):
            calls.append(fit.step)
            return part_loss(fit, images, targets) * bad.get(len(calls), 1.0)

        monkeypatch.setattr(engine, "part_loss", spoilt)

    return spoil


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_bad_step_and_all_its_images_are_named(bad_loss, value):
    """Three steps an epoch: the fifth is the second of epoch 2."""
    bad_loss({5: value})
    fit = make_fit(mix="mixup", optimizer="SGD")
    with pytest.raises(engine.NotFinite, match=f"the training loss is {value}") as found:
        train(fit)
    assert (found.value.epoch, found.value.step) == (2, 2)
    (part,) = engine.micro_batches(fit, engine.fold_order(fit), 1)
    assert len(part.partners) and found.value.rows.tolist() == part.reads.tolist()


def test_a_late_look_names_the_same_step(bad_loss, monkeypatch):
    """On a GPU nobody looks at each step; here not before the epoch's end, after two bad ones."""
    bad_loss({2: float("inf"), 3: float("-inf")})
    fit, look = make_fit(optimizer="SGD"), engine.check_loss
    monkeypatch.setattr(engine, "check_loss", lambda fit: None)
    assert engine.train_one_epoch(fit, lambda: False)
    monkeypatch.setattr(engine, "check_loss", look)
    with pytest.raises(engine.NotFinite) as found:
        engine.end_epoch(fit)
    assert (found.value.epoch, found.value.step) == (1, 2) and not fit.history


def test_a_fit_that_goes_on_within_an_epoch_counts_on(bad_loss):
    fit, again = make_fit(), make_fit()
    train(fit, stop_after=2)
    again.load_state_dict(fit.state_dict())
    bad_loss({1: float("nan")})
    with pytest.raises(engine.NotFinite) as found:
        train(again)
    assert found.value.step == 3


def test_steps_that_half_precision_skips_are_no_error():
    """At a scale of 3e38 every gradient overflows: the step is skipped, the scale halved, and the loss is what it is."""
    fit = make_fit(amp="fp16")
    fit.scaler.scale(torch.ones(()))
    fit.scaler.update(new_scale=3e38)
    before = fit.model.fc.weight.detach().clone()
    train(fit, stop_after=1)
    assert fit.scaler.get_scale() == pytest.approx(1.5e38) and torch.equal(before, fit.model.fc.weight)
    engine.check_finite(fit)


def spoil_weight(fit):
    fit.model.fc.weight.data[0, 0] = float("inf")


def spoil_average(fit):
    fit.ema.module.fc.weight.data[0, 0] = float("nan")


def spoil_optimizer(fit):
    fit.optimizer.state[fit.model.fc.weight]["exp_avg"][0, 0] = float("nan")


@pytest.mark.parametrize("spoil", [spoil_weight, spoil_average, spoil_optimizer])
def test_nothing_bad_is_saved_though_the_loss_was_good(spoil):
    fit = make_fit(ema=0.9)
    train(fit, stop_after=2)
    engine.check_finite(fit)
    spoil(fit)
    with pytest.raises(engine.NotFinite, match="a weight is not finite") as found:
        engine.check_finite(fit)
    assert (found.value.epoch, found.value.step) == (1, 2)
    assert np.array_equal(found.value.rows, engine.step_rows(fit, 1))
