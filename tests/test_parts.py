"""parts.py: what a step takes in, drawn anew each time, and made and learnt without a wait for the device."""

import pytest
import torch
from test_engine import make_fit, train
from torch._subclasses.fake_tensor import FakeTensorMode

import augment
import engine
import model
from distributed import Ranks

FAKE_STEPS = [
    {"accum": 2, "batch_size": 4, "clip_grad": 1.0, "loss": "label_smoothing"}, {"mix": "mixup", "loss": "logit_adjusted"},
    {"mix": "halves", "mix_rare": True, "target": "multi", "loss": "ce+f1"}, {"mix": "cutmix", "target": "age", "aug": "medium"},
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
            net = model.create("test_resnet", on_cpu.recipe.target, (24, 24), try_size=False)
        fit = engine.Fit(net, on_cpu.recipe, on_cpu.data, Ranks(0, 1, torch.device("cuda")))
        fit.train_mode()
        batches = [torch.empty(len(part.reads), 24, 24, 3, dtype=torch.uint8, device="cuda") for part in ready]
        engine.learn(fit, (engine.make_batch(fit, part, batch) for part, batch in zip(ready, batches)))
        assert all(value.is_cuda for value in fit.evaluated.state_dict().values()) and fit.loss_sum.is_cuda


def test_every_step_draws_its_own_changes(monkeypatch):
    drawn, draw = [], augment.draw_augment
    monkeypatch.setattr(augment, "draw_augment", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    train(make_fit(), stop_after=3)
    assert len(drawn) == 3 and not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
