import math

import pytest
import timm.optim
import timm.optim.adamp
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import optim
from errors import InputError

STEPS = 10


def ours(epochs, **options):
    """Our lr at the first step of each epoch."""
    settings = {"scheduler": "StepLR", "lr": 0.1, "epochs": epochs, **options}
    return [optim.lr_at(epoch, 0, STEPS, **settings) for epoch in range(1, epochs + 1)]


def torchs(scheduler_class, epochs, **options):
    """torch's lr in each epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = scheduler_class(optimizer, **options)
    values = []
    for _ in range(epochs):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_step_lr_equals_torch():
    expected = torchs(torch.optim.lr_scheduler.StepLR, 9, step_size=2, gamma=0.5)
    assert ours(9, lr_step=2, lr_gamma=0.5) == pytest.approx(expected)


def test_cosine_equals_torch():
    expected = torchs(torch.optim.lr_scheduler.CosineAnnealingLR, 9, T_max=9)
    assert ours(9, scheduler="Cosine") == pytest.approx(expected)


def test_cawr_equals_torch():
    expected = torchs(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, 9, T_0=3)
    assert ours(9, scheduler="CAWR", lr_step=3) == pytest.approx(expected)


def test_plateau_equals_torch():
    history = [0.1, 0.2, 0.15, 0.2, 0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=2, threshold=0)
    for done in range(len(history) + 1):
        lr = optim.lr_at(done + 1, 0, STEPS, scheduler="Plateau", lr=0.1, epochs=20, lr_step=2, history=history[:done])
        assert lr == pytest.approx(optimizer.param_groups[0]["lr"])
        if done < len(history):
            scheduler.step(history[done])


def test_warmup_climbs_step_by_step_and_the_schedule_follows():
    """20 warm-up steps to 0.1: the first is 0.1 / 20, the last 0.1; then StepLR counts from epoch 3."""
    options = {"scheduler": "StepLR", "lr": 0.1, "epochs": 6, "lr_step": 2, "warmup_epochs": 2}
    assert optim.lr_at(1, 0, STEPS, **options) == pytest.approx(0.005)
    assert optim.lr_at(2, 9, STEPS, **options) == pytest.approx(0.1)
    assert [optim.lr_at(epoch, 0, STEPS, **options) for epoch in (3, 4, 5, 6)] == pytest.approx([0.1, 0.1, 0.05, 0.05])


def test_none_is_constant_and_cosine_ends_near_zero():
    assert set(ours(5, scheduler="none")) == {0.1}
    assert optim.lr_at(5, STEPS - 1, STEPS, scheduler="Cosine", lr=0.1, epochs=5) == pytest.approx(
        0.05 * (1 + math.cos(math.pi * 49 / 50))
    )


@pytest.mark.parametrize(("given", "name"), [("adamp", "AdamP"), ("ADAMW", "AdamW"), ("SGD", "SGD"), ("nesterov", "nesterov"),
                                             ("lookahead_adamw", "lookahead_AdamW")])  # fmt: skip
def test_optimizer_name_has_one_spelling(given, name):
    assert optim.optimizer_name(given) == name


@pytest.mark.parametrize("name", ["AdamP", "AdamW", "SGD", "lookahead_AdamW", "Lion", "RMSprop"])
def test_named_optimizer_is_made_and_takes_a_step(name):
    model = torch.nn.Linear(3, 2)
    before = model.weight.clone()
    optimizer = optim.build_optimizer(model, optim.optimizer_name(name), 0.1, 0.01)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert (model.weight != before).any()
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}


@pytest.mark.parametrize("name", ["AdamP", "SGDP", "AdamW", "Lion", "RMSprop"])
def test_no_step_asks_a_gpu(name):
    """Fake CUDA tensors have no values, so what asks for one raises."""
    with FakeTensorMode(), torch.device("cuda"):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2))
        optimizer = optim.build_optimizer(net, name, 1e-2, 0.1)
        for _ in range(2):
            for p in net.parameters():
                p.grad = torch.empty_like(p)
            optimizer.step()


def test_timms_projection_does_ask():
    """What the test above would miss if it could not fail."""
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        timm.optim.adamp.projection(*torch.empty(3, 4, 5, device="cuda").unbind(), 0.1, 0.1, 1e-8)


def test_unknown_names_get_suggestions():
    with pytest.raises(InputError, match=r"--optimizer AdamPP: .*Did you mean AdamP"):
        optim.optimizer_name("AdamPP")
    with pytest.raises(InputError, match=r"--scheduler StepLRR: .*Did you mean StepLR"):
        optim.scheduler_name("StepLRR")
    assert optim.scheduler_name("cawr") == "CAWR"


@pytest.mark.parametrize("name", ["AdamW", "adam", "SGD", "lookahead_adamw"])
def test_torchs_fused_kernels_are_used_and_step_like_its_loop(name):
    torch.manual_seed(0)
    fused, loop = (timm.create_model("test_resnet", num_classes=3) for _ in range(2))
    loop.load_state_dict(fused.state_dict())
    start = {key: value.clone() for key, value in fused.state_dict().items()}
    ours = optim.build_optimizer(fused, name, 1e-2, 0.1)
    assert getattr(ours, "base_optimizer", ours).defaults["fused"] is True
    for net, optimizer in ((fused, ours), (loop, timm.optim.create_optimizer_v2(loop, opt=name, lr=1e-2, weight_decay=0.1))):
        for _ in range(3):
            for number, parameter in enumerate(net.parameters()):
                parameter.grad = torch.full_like(parameter, 0.1 + number / 100)
            optimizer.step()
    for key, value in loop.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[key], value, rtol=1e-4, atol=1e-6)
    assert any((start[key] != value).any() for key, value in fused.state_dict().items())
