"""engine.py: order, state and its switches, micro-batches, the step, NaN, the checkpoint; the state is exact."""

import argparse
import copy
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import ALONE, ARGS, assert_equal, facts, make_fit, run_ranks, spoil_loss, train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import augment
import engine
import loss
import model
from errors import InputError
from hardware import Ranks

CHANGES = [
    {}, {"ema": 0.9}, {"accum": 2, "batch_size": 4}, {"amp": "fp16"}, {"target": "multi", "loss": "focal+f1", "aux_age": 0.5},
    {"target": "age", "optimizer": "AdamP", "mix": "mixup", "mix_rare": True}, {"scheduler": "Plateau", "clip_grad": 1.0},
    {"sampler": "sqrt", "average_last": 2, "optimizer": "Adahessian"}, {"freeze_epochs": 1, "layer_decay": 0.7, "mix": "halves"},
    {"drops": (0.4, 0.3), "accum": 2, "batch_size": 4},
]  # fmt: skip
# Three steps an epoch: within the first, at its end, and within the second. The plain training stops at each, the others in
# turn (tests/test_resume.py has all, of whole runs).
STOPS = [({}, 3), ({}, 5), *((changes, (1, 3, 5)[number % 3]) for number, changes in enumerate(CHANGES))]
FROZEN = ("SGD", 1), ("AdamP", 1), ("AdamW", 2)
KILLS = [({"optimizer": name, "freeze_epochs": epochs, "epochs": 3}, -epochs) for name, epochs in FROZEN]


def goes_on(stopped, run, **changes):
    """All of a fit that goes on to its end from the state of `stopped`, which goes through a file of the folder `run`."""
    (run / "fold0").mkdir()
    engine.save_state(run, 0, stopped.state_dict())
    torch.manual_seed(99)  # another process has another random state
    resumed = make_fit(**changes)
    resumed.load_state_dict(engine.load_state(run, 0))
    return facts(train(resumed))


@pytest.mark.filterwarnings("ignore:Using backward")  # of Adahessian
@pytest.mark.parametrize(("changes", "stop_after"), STOPS + KILLS, ids=str)
def test_a_resumed_fit_equals_one_that_was_not_stopped(changes, stop_after, tmp_path):
    """Stopped after a step, or killed after the epochs of the head alone: the next one's optimizer has not begun then."""
    stopped = train(make_fit(**changes), stop_after) if stop_after > 0 else make_fit(**changes)
    for _ in range(-stop_after):
        engine.train_one_epoch(stopped, lambda: False)
        engine.end_epoch(stopped)
    assert_equal(facts(train(make_fit(**changes))), goes_on(stopped, tmp_path, **changes))


def test_a_fit_that_is_stopped_while_it_validates_equals_one_that_was_not(tmp_path):
    """In epoch 2: the state before the second of two batches is that of the training's end; no weights are averaged twice."""
    stopped, before = train(make_fit(average_last=2), stop_after=6), []

    def before_batch():
        before.append(copy.deepcopy(stopped.state_dict()))
        if len(before) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.end_epoch(stopped, before_batch)
    assert_equal(*before)
    assert (stopped.epoch, stopped.step) == (2, stopped.steps)
    assert_equal(facts(train(make_fit(average_last=2))), goes_on(stopped, tmp_path, average_last=2))


def trained_in_eval_mode(**changes):
    """A fit whose batch norm looks at no batch."""
    fit = make_fit(optimizer="SGD", **changes)
    net = fit.model.eval()
    net.train = lambda mode=True: net
    return train(fit)


def test_accumulation_equals_the_large_batch():
    """Two batches of 4 are one of 8 where no batch norm looks at the batch."""
    fits = trained_in_eval_mode(batch_size=8), trained_in_eval_mode(batch_size=4, accum=2)
    torch.testing.assert_close(*(fit.model.fc.weight for fit in fits))


SEVERAL = {"aug": "strong", "loss": "focal+f1", "target": "multi", "class_weights": "balanced",
           "mix": "cutmix", "mix_rare": True, "sampler": "sqrt", "freeze_epochs": 1,
           "ema": 0.9, "accum": 2, "batch_size": 4, "clip_grad": 1.0}  # fmt: skip


def without_batch_statistics(ranks):
    """(weight, its average, history less times, probabilities)."""
    fit = trained_in_eval_mode(ranks=ranks, **SEVERAL)
    history = [[row["train_loss"], row["val_loss"], row["val_f1"], row["val_acc"]] for row in fit.history]
    return fit.model.fc.weight.detach().numpy(), fit.ema.module.fc.weight.detach().numpy(), history, engine.evaluate(fit)[3]


def test_two_processes_train_the_model_that_one_does():
    """The same samples make each step, and the loss is that of all of them: equal but for the order of sums. The fused SGD of
    torch also fails where weights that were frozen join its others."""
    one = without_batch_statistics(ALONE)
    for of_rank in run_ranks(without_batch_statistics):
        for mine, value in zip(of_rank, one):
            np.testing.assert_allclose(mine, value, rtol=1e-4, atol=1e-6)


def with_a_stop(ranks):
    """Of a fit never stopped and of one that goes on from rank 0's state: is all the same, and does rank 0's model predict?"""
    whole, stopped = train(make_fit(ranks=ranks, ema=0.9)), train(make_fit(ranks=ranks, ema=0.9), stop_after=4)
    resumed = make_fit(ranks=ranks, ema=0.9)
    resumed.load_state_dict(ranks.broadcast(stopped.state_dict()))
    train(resumed)
    ends = [[facts(fit)["history"], facts(fit)["model"]["fc.weight"].tolist()] for fit in (whole, resumed)]
    probs = engine.evaluate(resumed)[3]
    kept = make_fit(ema=0.9)  # alone, from the weights that rank 0 would keep
    kept.load_state_dict(ranks.broadcast(resumed.state_dict()))
    return ends[0] == ends[1], np.abs(engine.evaluate(kept)[3] - probs).max()


def test_processes_go_on_from_the_state_of_the_first():
    """Each has running statistics of its own images, but what is predicted, and goes on, is rank 0's."""
    for same, difference in run_ranks(with_a_stop):
        assert same and difference < 1e-6


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
    """Years behind a recorded 60 as soft targets; rare partners by class; class counts of the training rows alone; pseudo labels."""
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
    counts = (torch.bincount(torch.from_numpy(fit.data.train_targets[:rows, 0]), minlength=18) for rows in (30, 40))
    mine, everyone = (loss.logit_adjusted(logits, targets, of_class) for of_class in counts)
    assert fit.criterion(logits, targets) == pytest.approx(mine.item()) != pytest.approx(everyone.item(), abs=1e-6)
    soft = np.full((4, 18), 1 / 18, dtype=np.float32)
    again = engine.Fit(fit.model, fit.args, fit.data._replace(pseudo=soft), ALONE)
    assert torch.equal(again.targets[:-4], fit.targets[:-4]) and torch.equal(again.targets[-4:], torch.from_numpy(soft))


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
    """Left and right half of an image are those of a row and its partner, or the other way round. Both have draws of their own."""
    fit = make_fit(mix="halves", mix_prob=1.0, aug="none")
    (part,) = engine.micro_batches(fit, fit.data.train_rows, 0)
    assert part.mixed.all() and (fit.data.masks[part.partners] == fit.data.masks[part.rows]).all()
    images, targets = engine.make_batch(fit, part, fit.data.store.gather(part.reads))
    torch.testing.assert_close(targets, (fit.targets[part.rows] + fit.targets[part.partners]) / 2)
    own, other = (augment.normalise(fit.data.store.gather(rows), *fit.mean_std) for rows in (part.rows, part.partners))
    halves = [torch.cat([left[..., :12], right[..., 12:]], -1) for left, right in ((own, other), (other, own))]
    assert torch.stack([(images - half).abs().amax((1, 2, 3)) for half in halves]).amin(0).max() < 1e-5
    fit = make_fit(mix="mixup", mix_prob=1.0, aug="strong")
    (part,) = engine.micro_batches(fit, fit.data.train_rows, 0)
    assert len(part.partner_params) == len(part.params) == 8
    assert not set(part.partner_params.flatten().tolist()) & set(part.params.flatten().tolist()) - {0.0, 1.0}


def test_a_preview_is_the_first_batch_beside_its_images():
    """--mix halves without augmentation: one half of each is its own, the other another's, and labels that differ half each."""
    fit = make_fit(target="mask", aug="none", mix="halves", mix_prob=1.0)
    before, after, labels = engine.preview(fit, 5)
    rows = engine.fold_order(fit)[:5]
    np.testing.assert_array_equal(before, fit.data.store.images[rows])
    same = (before == after).all((1, 3))
    assert all(own[:12].all() or own[12:].all() for own in same) and not same.all()
    assert all(label in ({own: 1.0}, {own: 0.5, other: 0.5}) for label in labels for own, other in [(*label, None)[:2]])
    assert [next(iter(label)) for label in labels] == [("worn", "incorrect")[fit.data.train_targets[row, 0]] for row in rows]


def test_steps_of_an_epoch_are_full_and_shared_out_among_processes_and_parts():
    """Of 30 training rows, which are of 10 persons. 8 images x 3 parts = 24 of 30; of 22 images 2 processes x 3 parts take 18."""
    for changes, sizes in (({}, (8, 3)), ({"batch_size": 64}, (30, 1)), ({"sampler": "person"}, (8, 1))):
        fit = make_fit(**changes)
        assert (fit.step_size, fit.steps) == sizes
    args = argparse.Namespace(**ARGS | {"accum": 3})
    assert (engine.step_size(args, 30, 1), engine.step_size(args, 22, 2)) == (24, 18)
    for images, world, message in (
        (5, 2, "--accum 3: 5 training images make 2 micro-batches at most"),
        (30, 3, "--batch-size 8: must be a multiple of the 3 processes"),
        (5, 8, "8 processes: more than the 5 training images of a fold; start fewer"),
    ):
        with pytest.raises(InputError, match=message):
            engine.step_size(args, images, world)


def test_best_epoch_is_the_first_highest_and_patience_ends_the_fold():
    fit = make_fit(patience=2, epochs=10)
    for epoch, value in enumerate([0.3, 0.5, 0.5, 0.4], start=1):
        assert not fit.finished
        fit.history.append({"val_f1": value})
        fit.epoch = epoch + 1
    assert fit.best_epoch == 2
    assert fit.finished


FAKE_STEPS = [
    {"accum": 2, "batch_size": 4, "clip_grad": 1.0, "loss": "label_smoothing"}, {"mix": "mixup", "loss": "logit_adjusted", "aug": "light"},
    {"mix": "cutmix", "target": "age", "aug": "medium", "loss": "ordinal"}, {"mix": "halves", "mix_rare": True, "target": "multi", "loss": "ce+f1"},
    {"optimizer": "AdamP", "loss": "focal", "class_weights": "effective", "layer_decay": 0.7},
]  # fmt: skip


@pytest.mark.parametrize("changes", FAKE_STEPS, ids=str)
def test_no_step_waits_for_a_gpu(changes, monkeypatch):
    """Fake CUDA tensors have no values, so what asks for one raises. What a fake GPU can't do is left out:
    going backward, and timm's moving average of the weights, which is one kernel over all of them."""
    on_cpu = make_fit(**changes)
    ready = engine.micro_batches(on_cpu, engine.fold_order(on_cpu), 0)

    def backward(fit, loss):
        assert loss.is_cuda
        for parameter in fit.model.parameters():
            parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(engine, "backward", backward)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            net = model.create("test_resnet", on_cpu.args.target, (24, 24), try_size=False)
        fit = engine.Fit(net, on_cpu.args, on_cpu.data, Ranks(0, 1, torch.device("cuda")))
        fit.train_mode()
        batches = [torch.empty(len(part.reads), 24, 24, 3, dtype=torch.uint8, device="cuda") for part in ready]
        engine.optimizer_step(fit, (engine.make_batch(fit, part, batch) for part, batch in zip(ready, batches)))
        assert all(value.is_cuda for value in fit.evaluated.state_dict().values()) and fit.loss_sum.is_cuda


ROWS = np.arange(100, 200)
CLASSES = np.repeat([0, 1, 2], [80, 16, 4])  # sizes whose square roots are 8.94, 4, 2
PERSONS = np.arange(100) // 7


def order(sampler="shuffle", seed=42, fold=0, epoch=1):
    return engine.epoch_order(ROWS, seed, fold, epoch, sampler, CLASSES, PERSONS)


@pytest.mark.parametrize("sampler", engine.SAMPLERS)
def test_an_order_is_a_pure_function(sampler):
    np.testing.assert_array_equal(order(sampler), order(sampler))
    for other in ({"seed": 43}, {"fold": 1}, {"epoch": 2}):
        assert order(sampler).tolist() != order(sampler, **other).tolist()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), min_size=1), st.integers(0, 9), st.sampled_from(["shuffle", "balanced", "sqrt"]))
def test_an_epoch_shows_every_image_as_often_as_its_class_asks(classes, epoch, sampler):
    """N images an epoch: each the floor or the ceil of N x its weight, 1 / (size of its class) ** power of their sum."""
    classes, power = np.array(classes), engine.SAMPLERS[sampler] or 0.0
    weights = np.array([1 / (classes == one).sum() ** power for one in classes])
    expected = len(classes) * weights / weights.sum()
    shown = engine.epoch_order(np.arange(len(classes)) + 100, 1, 0, epoch, sampler, classes)
    times = np.bincount(shown - 100, minlength=len(classes))
    assert times.sum() == len(classes) and (np.abs(times - expected) < 1 + 1e-9).all()


def test_no_order_of_rows_or_persons_is_left_and_of_a_person_other_images_come_in_other_epochs():
    """Of 100 draws some 25 are of the four rare images, which would stand side by side eight at a time."""
    assert (np.diff(order("balanced")) == 0).sum() < 12
    persons = PERSONS[order("person") - 100]
    assert (np.diff(persons) > 0).sum() < 12
    first, second = order("person"), order("person", epoch=2)
    for shown in (first, second):
        assert sorted(PERSONS[shown - 100]) == list(range(15))
    assert len(set(first) & set(second)) < 10


def test_partners_have_the_same_mask_state_and_rare_ones_come_from_every_class_equally_often():
    def draws(partners, row, count=3000):
        return partners.draw(np.full(count, row), (np.arange(count) + 0.5) / count)

    masks = np.array([0, 0, 1, 1, 0, 2])
    partners = engine.Partners(np.arange(6), 6, same=masks)
    for row in range(6):
        assert set(masks[draws(partners, row, 50)]) == {masks[row]}
    assert set(draws(partners, 0)) == {0, 1, 4} and set(draws(partners, 5)) == {5}
    classes = np.array([0, 0, 0, 0, 1, 2])
    found = draws(engine.Partners(np.arange(6), 6, classes=classes), 0)
    assert np.bincount(classes[found]).tolist() == [1000, 1000, 1000]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_bad_step_and_all_its_images_are_named(monkeypatch, value):
    """Three steps an epoch: the fifth is the second of epoch 2."""
    spoil_loss(monkeypatch, 5, value)
    fit = make_fit(mix="mixup", optimizer="SGD")
    with pytest.raises(engine.NotFinite, match=f"the training loss is {value}") as found:
        train(fit)
    assert (found.value.epoch, found.value.step) == (2, 2)
    (part,) = engine.micro_batches(fit, engine.fold_order(fit), 1)
    assert len(part.partners) and found.value.rows.tolist() == part.reads.tolist()


def test_a_fit_that_goes_on_within_an_epoch_counts_on(monkeypatch, tmp_path):
    fit = train(make_fit(), stop_after=2)
    spoil_loss(monkeypatch, 1, float("nan"))
    with pytest.raises(engine.NotFinite) as found:
        goes_on(fit, tmp_path)
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


@pytest.mark.parametrize(("weights", "value"), [
    (lambda fit: fit.model.fc.weight, float("inf")), (lambda fit: fit.ema.module.fc.weight, float("nan")),
    (lambda fit: fit.optimizer.state[fit.model.fc.weight]["exp_avg"], float("nan")),
])  # fmt: skip
def test_nothing_bad_is_saved_though_the_loss_was_good(tmp_path, weights, value):
    fit = train(make_fit(ema=0.9), stop_after=2)
    (tmp_path / "fold0").mkdir()
    with engine.CheckpointWriter(tmp_path, 0, None) as writer:
        writer.save(fit, fit.state_dict)
        weights(fit).data[0, 0] = value
        with pytest.raises(engine.NotFinite, match="a weight is not finite") as found:
            writer.save(fit, fit.state_dict)
    assert (found.value.epoch, found.value.step) == (1, 2)
    (part,) = engine.micro_batches(fit, engine.fold_order(fit), 1)
    assert np.array_equal(found.value.rows, part.reads)
    saved = engine.load_state(tmp_path, 0)
    assert all(value.isfinite().all() for value in (*saved["model"].values(), *saved["ema"].values()))


@pytest.mark.parametrize(
    "end", [engine.CheckpointWriter.wait, engine.CheckpointWriter.__exit__, lambda writer: writer.put(print)]
)
def test_what_could_not_be_written_is_raised_once_and_not_told(end):
    told, writer = [], engine.CheckpointWriter(None, 0, None)
    writer.put(mock.Mock(side_effect=InputError("disk full")), lambda: told.append("told"))
    with pytest.raises(InputError, match="disk full"):
        end(writer)
    writer.wait()
    assert told == [] and not writer.done


def test_a_state_tells_the_epochs_that_are_begun_and_is_refused_when_damaged(tmp_path):
    """None when it is gone, as when another process ended the fold just now; one line when it is damaged, in a bit alone too."""
    (tmp_path / "fold0").mkdir()
    assert engine.load_state(tmp_path, 0) is None and engine.epochs_begun(tmp_path, 0) == 0
    engine.save_state(tmp_path, 0, {**make_fit().state_dict(), "epoch": 3, "step": 0, "loss_sum": torch.full((9,), 0.7)})
    assert engine.epochs_begun(tmp_path, 0) == 2
    content = bytearray((tmp_path / "fold0" / "last.pt").read_bytes())
    content[content.find(torch.full((9,), 0.7).numpy().tobytes())] ^= 1
    engine.save_state(tmp_path, 0, {"epoch": 3})
    lacking = (tmp_path / "fold0" / "last.pt").read_bytes()
    cases = (lacking, "lacks 'step'"), (content, "is not what was written"), (b"\x80\x04damaged", ""), (b"", "")
    for damaged, cause in cases:
        (tmp_path / "fold0" / "last.pt").write_bytes(damaged)
        with pytest.raises(InputError, match=rf"last.pt: damaged \(.*{cause}.*\); delete it"):
            engine.epochs_begun(tmp_path, 0)
