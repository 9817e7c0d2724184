import copy
import traceback
from dataclasses import replace

import numpy as np
import pytest
import several
import torch

import dataset
import engine
import model
from distributed import Ranks
from images import ImageStore

RECIPE = engine.Recipe(
    target="label", loss="ce", gamma=2.0, smoothing=0.025, class_weights="none", age_sigma=2.0, optimizer="AdamW", lr=1e-3,
    weight_decay=0.01, scheduler="StepLR", lr_step=1, lr_gamma=0.5, warmup_epochs=0, epochs=2, patience=0, batch_size=8,
    accum=1, clip_grad=0.0, ema=0.0, aug="strong", amp="off", compile=False, seed=7,
)  # fmt: skip
ALONE = Ranks(0, 1, torch.device("cpu"))


def make_fit(people=40, fold=0, ranks=ALONE, drops=(None, None), **changes):
    """A tiny fold of random images: 30 train, 10 validate. drops: dropout and drop_path of the model."""
    rng = np.random.default_rng(3)
    recipe = replace(RECIPE, **changes)
    images = rng.integers(0, 256, (people, 24, 24, 3), dtype=np.uint8)
    heads = {"multi": 3}.get(recipe.target, 1)
    targets = rng.integers(0, 2, (people, heads)) if recipe.target != "age" else rng.integers(16, 70, (people, 1))
    truth = rng.integers(0, 3, people)
    rows = np.arange(people)
    mean_std = ((0.5, 0.5, 0.5), (0.3, 0.3, 0.3))
    data = dataset.FoldData(
        fold, ImageStore(images, "cpu"), rows[: people * 3 // 4], rows[people * 3 // 4 :], targets, truth, *mean_std,
        classes=targets[:, 0], persons=rows // 3, masks=rows % 3,
    )  # fmt: skip
    torch.manual_seed(0)
    dropout, drop_path = drops
    net = model.create("test_resnet", recipe.target, (24, 24), dropout=dropout, drop_path=drop_path)
    return engine.Fit(net, recipe, data, ranks)


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
    {"target": "age", "optimizer": "AdamP", "mix": "mixup", "mix_rare": True}, {"scheduler": "Plateau", "clip_grad": 1.0},
    {"sampler": "sqrt", "average_last": 2, "optimizer": "Adahessian"}, {"freeze_epochs": 1, "layer_decay": 0.7, "mix": "halves"},
    {"drops": (0.4, 0.3), "accum": 2, "batch_size": 4},
]  # fmt: skip
# Three steps an epoch: within the first, at its end, and within the second. The plain training stops at each, the others in
# turn (tests/test_resume.py has all, of whole runs).
STOPS = [({}, 3), ({}, 5), *((changes, (1, 3, 5)[number % 3]) for number, changes in enumerate(CHANGES))]


@pytest.mark.filterwarnings("ignore:Using backward")  # of Adahessian
@pytest.mark.parametrize(("changes", "stop_after"), STOPS, ids=str)
def test_a_resumed_fit_equals_one_that_was_not_stopped(changes, stop_after, tmp_path):
    """The state goes through a file."""
    whole = facts(train(make_fit(**changes)))
    stopped = train(make_fit(**changes), stop_after)
    torch.save(stopped.state_dict(), tmp_path / "last.pt")
    torch.manual_seed(99)  # another process has another random state
    resumed = make_fit(**changes)
    resumed.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    assert_equal(whole, facts(train(resumed)))


@pytest.mark.parametrize(("optimizer", "epochs"), [("SGD", 1), ("AdamP", 1), ("AdamW", 2)])
def test_a_fit_that_was_killed_after_an_epoch_equals_one_that_was_not(optimizer, epochs, tmp_path):
    """The state is that of the end of the frozen epochs: the next one has not begun, nor the optimizer that begins with it."""
    changes = {"optimizer": optimizer, "freeze_epochs": epochs}
    whole, stopped = facts(train(make_fit(epochs=3, **changes))), make_fit(epochs=3, **changes)
    for _ in range(epochs):
        engine.train_one_epoch(stopped, lambda: False)
        engine.end_epoch(stopped)
    torch.save(stopped.state_dict(), tmp_path / "last.pt")
    resumed = make_fit(epochs=3, **changes)
    resumed.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    assert_equal(whole, facts(train(resumed)))


def test_a_fit_that_is_stopped_while_it_validates_equals_one_that_was_not(tmp_path):
    """In epoch 2: the state saved before the second of two batches is that of the training's end; no weights are averaged twice."""

    class Enough(Exception):
        pass

    whole, stopped = facts(train(make_fit(average_last=2))), make_fit(average_last=2)
    before = []

    def before_batch():
        before.append(copy.deepcopy(stopped.state_dict()))
        if len(before) == 2:
            torch.save(stopped.state_dict(), tmp_path / "last.pt")
            raise Enough

    engine.train_one_epoch(stopped, lambda: False)
    engine.end_epoch(stopped)
    engine.train_one_epoch(stopped, lambda: False)
    with pytest.raises(Enough):
        engine.end_epoch(stopped, before_batch)
    assert_equal(*before)
    assert (stopped.epoch, stopped.step) == (2, stopped.steps)
    resumed = make_fit(average_last=2)
    resumed.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    assert_equal(whole, facts(train(resumed)))


def test_every_process_is_asked_as_often_while_it_validates(monkeypatch):
    """Of 9 rows two processes have 5 and 4: 4 at a time in each, as in training with batches of 8, are 2 and 1, and both ask twice."""
    asked, sizes, batches = [], [], ImageStore.batches
    monkeypatch.setattr(
        ImageStore, "batches", lambda self, groups: (sizes.append([*map(len, groups)]), batches(self, groups))[1]
    )
    for rank in (0, 1):
        fit = make_fit(batch_size=8)
        fit.ranks = Alone(rank, 2, torch.device("cpu"))
        logits = engine.predict_rows(fit, np.arange(9), lambda rank=rank: asked.append(rank))
        assert len(logits) == 5 - rank
    assert asked == [0, 0, 1, 1] and sizes == [[4, 1], [4]]


class Alone(Ranks):
    """One of two processes, of which the other is not there."""

    def same_buffers(self, module):
        pass

    def unshare(self, part, total):
        return part


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
           "mix": "cutmix", "mix_rare": True, "sampler": "sqrt", "freeze_epochs": 1,
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
    """The same samples make each step, and the loss is that of all of them: equal but for the order of sums. The fused SGD of
    torch also fails where weights that were frozen join its others."""
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


def test_processes_share_the_mix_of_a_step():
    """What two ranks take in together is what one process takes in, row for row."""

    def part(ranks):
        fit = make_fit(mix="cutmix")
        fit.ranks = ranks
        return engine.micro_batches(fit, np.arange(30), 1)[0]

    whole, *shares = map(part, (ALONE, Ranks(0, 2, ALONE.device), Ranks(1, 2, ALONE.device)))
    partner = dict(zip(whole.rows[whole.mixed].tolist(), whole.partners.tolist()))
    for rank, share in enumerate(shares):
        assert share.rows.tolist() == whole.rows[rank::2].tolist() and torch.equal(share.params, whole.params[rank::2])
        assert share.partners.tolist() == [partner[row] for row in share.rows[share.mixed].tolist()]
    assert sum(len(share.partners) for share in shares) == len(whole.partners) > 0


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


def test_the_draws_of_a_step_get_the_seed_that_torch_would_give_them(monkeypatch):
    """Without what torch does for devices that are not there: it keeps the stack of the caller."""
    torch.manual_seed(2**62 + 5)
    expected = torch.rand(3)
    monkeypatch.setattr(traceback, "format_stack", lambda *_args: pytest.fail("the stack was kept"))
    engine.seed_draws(torch.device("cpu"), 2**62 + 5)
    assert torch.equal(torch.rand(3), expected)
    given = []
    monkeypatch.setattr(torch.cuda, "manual_seed", given.append)
    engine.seed_draws(torch.device("cuda"), 7)
    assert given == [7] and torch.initial_seed() == 7
