"""optim.py: the optimizer by name, learning rates, AdamP and SGDP."""

import copy

import pytest
import timm.optim
import timm.optim.adamp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import optim

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
        ours = optim.lr_at(epoch, 0, STEPS, scheduler=scheduler, lr=0.1, epochs=epochs, lr_step=lr_step, lr_gamma=lr_gamma,
                           min_lr=lr_gamma / 20, history=history[: epoch - 1])  # fmt: skip
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step(*([history[epoch - 1]] if scheduler == "Plateau" else []))


def test_warmup_climbs_step_by_step_and_the_schedule_follows():
    """20 warm-up steps to 0.1: the first is 0.1 / 20, the last 0.1; then StepLR counts from epoch 3."""
    options = {"scheduler": "StepLR", "lr": 0.1, "epochs": 6, "lr_step": 2, "warmup_epochs": 2}
    assert optim.lr_at(1, 0, STEPS, **options) == pytest.approx(0.005)
    assert optim.lr_at(2, 9, STEPS, **options) == pytest.approx(0.1)
    assert [optim.lr_at(epoch, 0, STEPS, **options) for epoch in (3, 4, 5, 6)] == pytest.approx([0.1, 0.1, 0.05, 0.05])


@pytest.mark.parametrize(("given", "name"), [("adamp", "AdamP"), ("ADAMW", "AdamW"), ("SGD", "SGD"), ("nesterov", "nesterov"),
                                             ("lookahead_adamw", "lookahead_AdamW")])  # fmt: skip
def test_names_have_one_spelling(given, name):
    assert optim.optimizer_name(given) == name and optim.scheduler_name("cawr") == "CAWR"


@pytest.mark.parametrize("name", ["AdamP", "AdamW", "SGD", "lookahead_AdamW", "Lion", "RMSprop"])
def test_named_optimizer_is_made_and_takes_a_step(name):
    model = torch.nn.Linear(3, 2)
    before = model.weight.clone()
    optimizer = optim.build_optimizer(model, optim.optimizer_name(name), 0.1, 0.01)
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


PAIRS = [(optim.AdamP, timm.optim.AdamP, {}), (optim.SGDP, timm.optim.SGDP, {"momentum": 0.9})]
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
    channels = optim.Channels([p.shape for p in params], torch.device("cpu"))
    along, factor = optim.project(params, [torch.tensor([[1.0, 2.0]])] * 2, channels, 0.1, 0.25, 1e-8)
    torch.testing.assert_close(along, torch.tensor([[0.44], [0.0]]))
    assert factor.tolist() == [[0.25], [1.0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ours", "timms", "options"), PAIRS)
@pytest.mark.parametrize(("memory_format", "nesterov"), [(torch.contiguous_format, True), (torch.channels_last, False)])
def test_a_step_is_timms(kind, ours, timms, options, memory_format, nesterov):
    """Weights of several widths at once, of all three kinds, the first of the kind named, and ones without channels."""
    made = [
        weights_and_gradient(kind),
        *(weights_and_gradient(other, 6) for other in KINDS),
        (torch.ones(5), torch.arange(5.0)),
    ]
    ends = []
    for cls in (ours, timms):
        params = [p.clone() if p.ndim == 1 else p.contiguous(memory_format=memory_format) for p, _grad in made]
        params = [torch.nn.Parameter(p.clone()) for p in params]
        optimizer = cls(params, lr=0.1, weight_decay=0.3, nesterov=nesterov, wd_ratio=0.25, **options)
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


@pytest.mark.parametrize(("ours", "timms", "options"), PAIRS)
def test_a_model_trains_like_with_timms_and_goes_on_from_its_state(ours, timms, options):
    torch.manual_seed(0)
    start, ends = timm.create_model("test_resnet", num_classes=3), []
    for first, second in ((timms, timms), (ours, ours), (timms, ours)):
        net = copy.deepcopy(start)
        groups = timm.optim.param_groups_weight_decay(net, 0.1)
        before, after = (cls(groups, lr=1e-2, nesterov=True, **options) for cls in (first, second))
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
    for cls in (optim.AdamP, timm.optim.AdamP):
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


@pytest.mark.parametrize(("name", "kind"), [("AdamP", optim.AdamP), ("sgdp", optim.SGDP), ("cadamp", timm.optim.AdamP)])
def test_train_makes_them_and_leaves_the_cautious_ones_to_timm(name, kind):
    net = timm.create_model("test_resnet", num_classes=3)
    for prefix in ("", "lookahead_"):
        made = optim.build_optimizer(net, prefix + name, 1e-2, 0.1)
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


@pytest.mark.parametrize("name", ["AdamP", "SGDP", "AdamW", "Lion", "RMSprop"])
def test_a_gpu_begins_few_kernels_and_is_asked_for_nothing(name):
    """Seven for each weight of several dimensions and some seventy for all; one weight after the other it were 1,815 for the 62
    weights of resnet18. Fake CUDA tensors have no values, so what asks for one raises."""
    with FakeTensorMode(), torch.device("cuda"):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), *(torch.nn.Linear(8, 8) for _ in range(30)))
        optimizer = optim.build_optimizer(net, name, 1e-2, 0.1)
        for _ in range(2):
            for p in net.parameters():
                p.grad = torch.empty_like(p)
            with Kernels() as begun:
                optimizer.step()
    assert begun.count <= 31 * 7 + 70 or name in ("Lion", "RMSprop")
