"""The optimizer by timm's name, and the learning rate as a pure function of epoch, step and validation history."""

import dataclasses
import inspect
import math

import timm.optim
import torch
from timm.optim._optim_factory import default_registry

from errors import InputError, did_you_mean

SCHEDULERS = ("StepLR", "Cosine", "CAWR", "Plateau", "none")


class _Projected:
    """The step of AdamP and SGDP; their `_steps` give (steps before projection, learning rate) of params and gradients."""

    @torch.no_grad()
    def step(self, closure=None):
        if any(group.get("caution") for group in self.param_groups):
            return super().step(closure)
        with torch.enable_grad():
            loss = closure() if closure else None
        for number, group in enumerate(self.param_groups):
            pieces = {}  # updated together: on a CPU one, which its cache holds, elsewhere all with the same step count
            for p in group["params"]:
                if p.grad is not None:
                    pieces.setdefault(p if p.is_cpu else self.state[p].get("step", 0), []).append(p)
            made = [(piece, *self._steps(group, piece, [p.grad for p in piece])) for piece in pieces.values()]
            self._shrink(number, group, [(p, step, rate) for piece, steps, rate in made for p, step in zip(piece, steps)])
            for piece, steps, rate in made:
                torch._foreach_add_(piece, steps, alpha=-rate)
        return loss

    def _states(self, params, *names):
        for p in params:
            if not self.state[p]:
                self.state[p].update({name: torch.zeros_like(p) for name in names})
        return [[self.state[p][name] for p in params] for name in names]

    def _shrink(self, number, group, moves):
        """Apply weight decay, and take back the part of a step along the weights. moves: (param, step, rate)."""
        decay = group["lr"] * group["weight_decay"] / (1 - group.get("momentum", 0))
        flat = [p for p, _step, _rate in moves if p.ndim < 2]
        if flat and decay:
            torch._foreach_mul_(flat, 1 - decay)
        moves = [move for move in moves if move[0].ndim > 1]
        if not moves:
            return
        params, steps, rates = zip(*moves)
        made, shapes = self.__dict__.setdefault("_made", {}), [p.shape for p in params]
        if number not in made or made[number].shapes != shapes:
            made[number] = Channels(shapes, params[0].device)
        along, factor = project(params, steps, made[number], group["delta"], group["wd_ratio"], group["eps"])
        rates = torch.tensor(rates)[:, None].to(along.device, non_blocking=True)
        for p, keep in zip(params, 1 - decay * factor + rates * along):
            p.mul_(keep[: len(p)].reshape(-1, *(1 for _ in p.shape[1:])))


class AdamP(_Projected, timm.optim.AdamP):
    """timm's AdamP, Adam whose steps are projected: the same options, `state_dict` and, but for rounding, weights."""

    def _steps(self, group, params, grads):
        (beta1, beta2), (mean, square) = group["betas"], self._states(params, "exp_avg", "exp_avg_sq")
        count = self.state[params[0]].get("step", 0) + 1
        for p in params:
            self.state[p]["step"] = count
        torch._foreach_mul_(mean, beta1)
        torch._foreach_add_(mean, grads, alpha=1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, value=1 - beta2)
        divisors = torch._foreach_sqrt(square)
        torch._foreach_div_(divisors, math.sqrt(1 - beta2**count))
        torch._foreach_add_(divisors, group["eps"])
        steps = mean
        if group["nesterov"]:
            steps = torch._foreach_add(torch._foreach_mul(mean, beta1), grads, alpha=1 - beta1)
        return torch._foreach_div(steps, divisors), group["lr"] / (1 - beta1**count)


class SGDP(_Projected, timm.optim.SGDP):
    """timm's SGDP, momentum whose steps are projected, in the same way."""

    def _steps(self, group, params, grads):
        (momentum,) = self._states(params, "momentum")
        torch._foreach_mul_(momentum, group["momentum"])
        torch._foreach_add_(momentum, grads, alpha=1 - group["dampening"])
        steps = torch._foreach_mul(momentum, group["momentum"] if group["nesterov"] else 1)
        if group["nesterov"]:
            torch._foreach_add_(steps, grads)
        return steps, group["lr"]


class Channels:
    """The output channels of weights of these shapes as rows of one padded table: `take` int64 [weights * width] indexes their
    concatenation, the padding behind its end; `inner` and `total` float32 [weights, 1]: elements of a channel, a weight."""

    def __init__(self, shapes, device):
        self.shapes, self.width = shapes, max(shape[0] for shape in shapes)
        end, take, at = sum(shape[0] for shape in shapes), [], 0
        for shape in shapes:
            take += [*range(at, at + shape[0]), *[end] * (self.width - shape[0])]
            at += shape[0]
        self.take = torch.tensor(take).to(device)
        self.inner = torch.tensor([[float(math.prod(shape[1:]))] for shape in shapes]).to(device)
        self.total = torch.tensor([[float(math.prod(shape))] for shape in shapes]).to(device)


def project(params, steps, channels, delta, wd_ratio, eps):
    """(along [weights, width], factor [weights, 1]): the shares of the weights to take off a step, and factors of weight decay.
    Where a gradient is nearly orthogonal to its weights, by output channel or else as a whole, they are the part of the step
    along the weights and wd_ratio; elsewhere 0 and 1. params with their gradients, steps: tensors [out, ...]."""
    rows = [[_rows(values, p) for values in (p, p.grad, step)] for p, step in zip(params, steps)]
    found = (
        [torch.linalg.vector_norm(p, dim=1) for p, _grad, _step in rows],
        [torch.linalg.vector_norm(grad, dim=1) for _p, grad, _step in rows],
        [torch.linalg.vecdot(p, grad) for p, grad, _step in rows],
        [torch.linalg.vecdot(p, step) for p, _grad, step in rows],
    )
    end = params[0].new_zeros(1)
    table = torch.stack([torch.cat([*values, end]) for values in found]).index_select(1, channels.take)
    by_channel = table.view(len(found), len(params), channels.width)
    whole = (*by_channel[:2].norm(dim=2, keepdim=True), *by_channel[2:].sum(2, keepdim=True))

    def answer(length, steepness, slope, step, numbers):
        cosine = slope.abs() / (length.clamp(min=eps) * steepness.clamp(min=eps))
        return cosine.amax(1, keepdim=True) < delta / numbers.sqrt(), step / (length + eps).square()

    of_channel, along_channel = answer(*by_channel, channels.inner)
    of_whole, along_whole = answer(*whole, channels.total)
    along = torch.where(of_channel, along_channel, torch.where(of_whole, along_whole, 0.0))
    return along, torch.where(of_channel | of_whole, wd_ratio, 1.0)


def _rows(values, like):
    """[out, ...] as [out, the rest], in the order in which `like` lies in memory, so that nothing is copied."""
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.flatten(1)


# timm makes ours by these names; its `register` would do the same, and warn of it.
for name, kind in (("adamp", AdamP), ("sgdp", SGDP)):
    default_registry._optimizers[name] = dataclasses.replace(timm.optim.get_optimizer_info(name), opt_class=kind)


def optimizer_name(name):
    """The name's usual spelling ('adamp' -> 'AdamP'). InputError with suggestions when timm has no such optimizer."""
    known = timm.optim.list_optimizers()
    base = name.lower().removeprefix("lookahead_")
    if base not in known:
        spelt = [_spelling(option) for option in known]
        raise InputError(f"--optimizer {name}: timm has no such optimizer.{did_you_mean(name, spelt)}")
    return name[: len(name) - len(base)] + _spelling(base)


def _spelling(name):
    class_name = timm.optim.get_optimizer_info(name).opt_class
    class_name = class_name if isinstance(class_name, str) else class_name.__name__
    class_name = class_name.rsplit(".", 1)[-1]
    return class_name if class_name.lower() == name else name


def build_optimizer(model, name, lr, weight_decay, layer_decay=1.0):
    """timm's optimizer of that name; biases and norms get no weight decay. InputError when it can't be made here.
    layer_decay below 1: each block's learning rate is that of the next one towards the head times this (Clark et al. 2020,
    ELECTRA, 2003.10555). torch's fused kernels are four to six times quicker than its loop over tensors, on a CPU too."""
    kind = timm.optim.get_optimizer_info(name.lower().removeprefix("lookahead_")).opt_class
    fused = {"fused": True} if callable(kind) and "fused" in inspect.signature(kind).parameters else {}
    decay = {"layer_decay": layer_decay} if layer_decay < 1 else {}
    try:
        return timm.optim.create_optimizer_v2(model, opt=name.lower(), lr=lr, weight_decay=weight_decay, **decay, **fused)
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"--optimizer {name}: can't be made here ({error})") from error


def scheduler_name(name):
    """The scheduler's usual spelling, case-insensitive. InputError with suggestions when it is unknown."""
    spelt = {known.lower(): known for known in SCHEDULERS}
    if name.lower() not in spelt:
        raise InputError(f"--scheduler {name}: none of {', '.join(SCHEDULERS)}.{did_you_mean(name, SCHEDULERS)}")
    return spelt[name.lower()]


def lr_at(epoch, step, steps, *, scheduler, lr, epochs, lr_step=2, lr_gamma=0.5, min_lr=0.0, warmup_epochs=0, history=()):
    """Learning rate of a step: a pure function, so nothing of a scheduler has to be saved.
    epoch counts from 1, step from 0 to steps - 1 within it; `history` is the validation F1 of each epoch before this one.
    Cosine: half a cosine from lr to min_lr. CAWR: the same, restarted every lr_step epochs (Loshchilov & Hutter, SGDR, 2016).
    Plateau: times lr_gamma when F1 has not risen for more than lr_step epochs. Warm-up is linear, the schedule starts after it.
    """
    done = epoch - 1 + step / steps  # epochs behind us
    if done < warmup_epochs:
        return lr * (done + 1 / steps) / warmup_epochs
    done, total = done - warmup_epochs, max(epochs - warmup_epochs, 1)
    if scheduler == "StepLR":
        return lr * lr_gamma ** (math.floor(done + 1e-9) // lr_step)
    if scheduler in ("Cosine", "CAWR"):
        angle = math.pi * min(done / total, 1) if scheduler == "Cosine" else math.pi * (done % lr_step) / lr_step
        return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(angle))
    if scheduler == "Plateau":  # as torch's ReduceLROnPlateau with threshold 0
        best, waited, drops = -math.inf, 0, 0
        for value in history:
            best, waited = (value, 0) if value > best else (best, waited + 1)
            if waited > lr_step:
                drops, waited = drops + 1, 0
        return lr * lr_gamma**drops
    return lr
