import copy
from dataclasses import replace

import numpy as np
import pytest
import several
import torch

import engine
import model
from cache import ImageStore
from distributed import Ranks
from errors import InputError

RECIPE = engine.Recipe(
    target="label", loss="ce", gamma=2.0, smoothing=0.025, class_weights="none", age_sigma=2.0, optimizer="AdamW", lr=1e-3,
    weight_decay=0.01, scheduler="StepLR", lr_step=1, lr_gamma=0.5, warmup_epochs=0, epochs=2, patience=0, batch_size=8,
    accum=1, clip_grad=0.0, ema=0.0, aug="strong", amp="off", compile=False, seed=7,
)  # fmt: skip
ALONE = Ranks(0, 1, torch.device("cpu"))


def make_fit(people=40, fold=0, ranks=ALONE, **changes):
    """A tiny fold of random images: 30 train, 10 validate."""
    rng = np.random.default_rng(3)
    recipe = replace(RECIPE, **changes)
    images = rng.integers(0, 256, (people, 24, 24, 3), dtype=np.uint8)
    heads = {"multi": 3}.get(recipe.target, 1)
    targets = rng.integers(0, 2, (people, heads)) if recipe.target != "age" else rng.integers(16, 70, (people, 1))
    truth = rng.integers(0, 3, people)
    rows = np.arange(people)
    mean_std = ((0.5, 0.5, 0.5), (0.3, 0.3, 0.3))
    data = engine.FoldData(
        fold, ImageStore(images, "cpu"), rows[: people * 3 // 4], rows[people * 3 // 4 :], targets, truth, *mean_std
    )
    torch.manual_seed(0)
    return engine.Fit(model.create("test_resnet", recipe.target, (24, 24)), recipe, data, ranks)


def train(fit, stop_after=None):
    """Train to the end, or until `stop_after` steps were done."""
    done = 0

    def after_step():
        nonlocal done
        done += 1
        return done == stop_after

    while not fit.finished:
        if not engine.train_one_epoch(fit, after_step):
            return fit
        engine.end_epoch(fit)
    return fit


def facts(fit):
    """All that must be equal of two fits, without times."""
    state = copy.deepcopy(fit.state_dict())
    state.pop("seconds")
    for row in state["history"]:
        row.pop("seconds"), row.pop("images_per_second")
    return state


def assert_equal(one, other, where="state"):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other)):
            assert_equal(*pair, f"{where}.{index}")
    else:
        assert one == other, where


CHANGES = [
    {}, {"ema": 0.9}, {"accum": 2, "batch_size": 4}, {"amp": "bf16"}, {"target": "multi", "loss": "focal+f1"},
    {"target": "age", "optimizer": "AdamP"}, {"scheduler": "Plateau", "clip_grad": 1.0},
]  # fmt: skip
# bfloat16 is slow where it is emulated, so it stops once, in the middle of an epoch.
STOPS = [(changes, stop) for changes in CHANGES for stop in (1, 3, 5) if changes != {"amp": "bf16"} or stop == 1]


@pytest.mark.parametrize(("changes", "stop_after"), STOPS, ids=str)
def test_a_resumed_fit_equals_one_that_was_not_stopped(changes, stop_after, tmp_path):
    """Three steps an epoch: stops within the first, at its end, and within the second; the state goes through a file."""
    whole = facts(train(make_fit(**changes)))
    stopped = train(make_fit(**changes), stop_after)
    torch.save(stopped.state_dict(), tmp_path / "last.pt")
    torch.manual_seed(99)  # another process has another random state
    resumed = make_fit(**changes)
    resumed.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    assert_equal(whole, facts(train(resumed)))


def test_second_order_optimizer_gets_its_graph():
    fit = make_fit(optimizer="Adahessian", epochs=1)
    before = fit.model.fc.weight.detach().clone()
    assert not torch.equal(train(fit).model.fc.weight, before)


def test_folds_differ_and_seeds_differ():
    states = [facts(train(make_fit(**changes)))["model"]["fc.weight"] for changes in ({}, {"fold": 1}, {"seed": 8})]
    assert not torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_accumulation_equals_the_large_batch():
    """Two batches of 4 are one of 8 where no batch norm looks at the batch: here the model stays in eval mode."""
    weights = []
    for changes in ({"batch_size": 8}, {"batch_size": 4, "accum": 2}):
        fit = make_fit(aug="light", optimizer="SGD", **changes)
        net = fit.model.eval()
        net.train = lambda mode=True, net=net: net
        train(fit)
        weights.append(fit.model.fc.weight.detach())
    torch.testing.assert_close(*weights)


SEVERAL = {"aug": "strong", "loss": "focal+f1", "target": "multi", "class_weights": "balanced", "optimizer": "SGD",
           "ema": 0.9, "accum": 2, "batch_size": 4, "clip_grad": 1.0}  # fmt: skip


def without_batch_statistics(ranks):
    """(weight, its average, history less times, probabilities) of a fit whose batch norm looks at no batch."""
    fit = make_fit(ranks=ranks, **SEVERAL)
    net = fit.model.eval()
    net.train = lambda mode=True: net
    train(fit)
    history = [[row["train_loss"], row["val_loss"], row["val_f1"], row["val_acc"]] for row in fit.history]
    return fit.model.fc.weight.detach().numpy(), fit.ema.module.fc.weight.detach().numpy(), history, engine.evaluate(fit)[3]


def test_two_processes_train_the_model_that_one_does():
    """The same samples make each step, and the loss is that of all of them: equal but for the order of sums."""
    one = without_batch_statistics(ALONE)
    for of_rank in several.run(without_batch_statistics):
        for mine, value in zip(of_rank, one):
            np.testing.assert_allclose(mine, value, rtol=1e-4, atol=1e-6)


def with_a_stop(ranks):
    """Of a fit never stopped and of one that goes on from rank 0's state: is all the same, and does rank 0's model predict?"""
    whole, stopped = train(make_fit(ranks=ranks, ema=0.9)), train(make_fit(ranks=ranks, ema=0.9), stop_after=4)
    resumed = make_fit(ranks=ranks, ema=0.9)
    resumed.load_state_dict(ranks.from_first(stopped.state_dict()))
    train(resumed)
    ends = [[facts(fit)["history"], facts(fit)["model"]["fc.weight"].tolist()] for fit in (whole, resumed)]
    probs = engine.evaluate(resumed)[3]
    kept = make_fit(ema=0.9)  # alone, from the weights that rank 0 would keep
    kept.load_state_dict(ranks.from_first(resumed.state_dict()))
    return ends[0] == ends[1], np.abs(engine.evaluate(kept)[3] - probs).max()


def test_processes_go_on_from_the_state_of_the_first():
    """Each has running statistics of its own images, but what is predicted, and goes on, is rank 0's."""
    for same, difference in several.run(with_a_stop):
        assert same and difference < 1e-6


def test_the_moving_average_follows_the_weights():
    """After three steps, the warm-up of the decay included, the average has left the first weights and lags behind the last."""
    fit = make_fit(ema=0.9)
    name, first = next((name, value.clone()) for name, value in fit.model.named_parameters())
    train(fit, stop_after=3)
    average, last = fit.ema.module.state_dict()[name], fit.model.state_dict()[name]
    assert not torch.equal(average, first) and not torch.equal(average, last)
    assert (average - last).norm() < (first - last).norm()


def test_every_step_draws_its_own_changes(monkeypatch):
    drawn, draw = [], engine.augment.draw
    monkeypatch.setattr(engine.augment, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    train(make_fit(), stop_after=3)
    assert len(drawn) == 3 and not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


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


def test_best_epoch_is_the_first_highest_and_patience_ends_the_fold():
    fit = make_fit(patience=2, epochs=10)
    for epoch, value in enumerate([0.3, 0.5, 0.5, 0.4], start=1):
        assert not fit.finished
        fit.history.append({"val_f1": value})
        fit.epoch = epoch + 1
    assert fit.best_epoch == 2
    assert fit.finished


def test_scores_are_against_the_official_truth_not_the_training_labels():
    fit = make_fit(target="mask")
    val_loss, f1, accuracy, probs = engine.evaluate(fit)
    truth = fit.data.truth[fit.data.val_rows]
    assert accuracy == pytest.approx((probs.argmax(1) == truth).mean())
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    assert np.isfinite(val_loss) and 0 <= f1 <= 1


def test_history_holds_a_log_row_per_epoch_with_the_lr_of_the_schedule():
    fit = train(make_fit())
    assert [row["lr"] for row in fit.history] == pytest.approx([1e-3, 5e-4])
    assert all(row["images_per_second"] > 0 and np.isfinite(row["train_loss"]) for row in fit.history)


def test_loss_that_is_not_finite_ends_the_run():
    fit = make_fit()
    fit.loss_sum += float("nan")
    with pytest.raises(InputError, match=r"training loss of fold 0, epoch 1 is nan; try a lower --lr"):
        engine.end_epoch(fit)


def test_balanced_weights_are_one_on_average_over_images():
    """Counts 6, 2, 0 of 8 in 2 classes: 8 / (2 * 6) = 2/3 and 8 / (2 * 2) = 2; nothing for a class without images is 1."""
    weights = engine.balanced_weights([6, 2, 0])
    assert weights.tolist() == pytest.approx([2 / 3, 2, 1])
    assert (6 * weights[0] + 2 * weights[1]) / 8 == pytest.approx(1)


def test_head_probs_sum_to_one_in_each_head():
    logits = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    probs = engine.head_probs("multi", logits)
    np.testing.assert_allclose([probs[:, :3].sum(1), probs[:, 3:5].sum(1), probs[:, 5:].sum(1)], 1, rtol=1e-6)


def test_compiled_forward_trains_the_same_model(monkeypatch):
    """Without a compiler's work: what torch.compile is given, and that its result is what trains."""
    seen = []

    def compiled(forward):
        return lambda images: seen.append(len(images)) or forward(images)

    monkeypatch.setattr(torch, "compile", compiled)
    fit, plain = make_fit(compile=True), make_fit()
    for each in (fit, plain):
        engine.train_one_epoch(each, lambda: False)
    assert seen == [8, 8, 8]
    assert all((value == plain.model.state_dict()[name]).all() for name, value in fit.model.state_dict().items())
