"""AdamP and SGDP as timm has them, but for all weights at once and without a question to the device.

Heo et al. 2021, "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights" (2006.08217). timm's go
from weight to weight and ask twice for each what its tensors hold, for which a GPU stops; the sums that answer it take most of
their time on a CPU. States are timm's, and so are results but for rounding. The cautious variants (cadamp, csgdp) stay timm's.
"""

import math

import timm.optim
import torch


class _Projected:
    """What both share; `_steps` is theirs: of params and gradients the steps before projection, and the rate of them all."""

    @torch.no_grad()
    def step(self, closure=None):
        if any(group.get("caution") for group in self.param_groups):
            return super().step(closure)
        with torch.enable_grad():
            loss = closure() if closure else None
        for number, group in enumerate(self.param_groups):
            pieces = self._pieces(p for p in group["params"] if p.grad is not None)
            made = [self._steps(group, piece, [p.grad for p in piece]) for piece in pieces]
            moves = [(p, step, rate) for piece, (steps, rate) in zip(pieces, made) for p, step in zip(piece, steps)]
            self._shrink(number, group, moves)
            for piece, (steps, rate) in zip(pieces, made):
                torch._foreach_add_(piece, steps, alpha=-rate)
        return loss

    def _pieces(self, params):
        """Lists of params to go through at once: on a CPU one, which its cache holds, elsewhere all that made as many steps."""
        pieces = {}
        for p in params:
            pieces.setdefault(p if p.is_cpu else self.state[p].get("step", 0), []).append(p)
        return list(pieces.values())

    def _states(self, params, *names):
        """Lists of what is kept for params by these names; zeros at the first step."""
        for p in params:
            if not self.state[p]:
                self.state[p].update({name: torch.zeros_like(p) for name in names})
        return [[self.state[p][name] for p in params] for name in names]

    def _shrink(self, number, group, moves):
        """What makes weights shorter or longer: weight decay, and the part of a step along them. moves: (param, step, rate)."""
        decay = group["lr"] * group["weight_decay"] / (1 - group.get("momentum", 0))
        flat = [p for p, _step, _rate in moves if p.ndim < 2]
        if flat and decay:
            torch._foreach_mul_(flat, 1 - decay)
        moves = [move for move in moves if move[0].ndim > 1]
        if not moves:
            return
        params, steps, rates = zip(*moves)
        channels = self._channels(number, params)
        along, factor = project(params, steps, channels, group["delta"], group["wd_ratio"], group["eps"])
        rates = torch.tensor(rates)[:, None].to(along.device, non_blocking=True)
        for p, keep in zip(params, 1 - decay * factor + rates * along):
            p.mul_(keep[: len(p)].reshape(-1, *(1 for _ in p.shape[1:])))

    def _channels(self, number, params):
        """The Channels of a group's params, made once."""
        made, shapes = self.__dict__.setdefault("_made", {}), [p.shape for p in params]
        if number not in made or made[number].shapes != shapes:
            made[number] = Channels(shapes, params[0].device)
        return made[number]


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
            steps = torch._foreach_mul(mean, beta1)
            torch._foreach_add_(steps, grads, alpha=1 - beta1)
        return torch._foreach_div(steps, divisors), group["lr"] / (1 - beta1**count)


class SGDP(_Projected, timm.optim.SGDP):
    """timm's SGDP, momentum whose steps are projected: the same options, `state_dict` and, but for rounding, weights."""

    def _steps(self, group, params, grads):
        (momentum,) = self._states(params, "momentum")
        torch._foreach_mul_(momentum, group["momentum"])
        torch._foreach_add_(momentum, grads, alpha=1 - group["dampening"])
        steps = torch._foreach_mul(momentum, group["momentum"] if group["nesterov"] else 1)
        if group["nesterov"]:
            torch._foreach_add_(steps, grads)
        return steps, group["lr"]


class Channels:
    """The output channels of weights of these shapes as rows of one table, which is as wide as the longest.

    `take` int64 [weights * width]: channels in the order of a concatenation, one past the last of which fills the rows up;
    `inner` and `total` float32 [weights, 1]: the numbers of a channel and of a weight.
    """

    def __init__(self, shapes, device):
        self.shapes, self.width = shapes, max(shape[0] for shape in shapes)
        end, take, at = sum(shape[0] for shape in shapes), [], 0
        for shape in shapes:
            take += [*range(at, at + shape[0]), *[end] * (self.width - shape[0])]
            at += shape[0]
        self.take = torch.tensor(take).to(device)
        self.inner, self.total = (
            torch.tensor([[float(math.prod(shape[start:]))] for shape in shapes]).to(device) for start in (1, 0)
        )


def project(params, steps, channels, delta, wd_ratio, eps):
    """(along [weights, width], factor [weights, 1]): of a step of weight i, channel c, `along[i, c]` times the weights goes.

    Where a gradient is nearly orthogonal to its weights, by output channel or else as a whole, that is the part of the step
    along the weights, and weight decay's factor is wd_ratio; elsewhere they are 0 and 1. params with their gradients, steps:
    tensors [out, ...]; channels: their Channels.
    """
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
