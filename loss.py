"""Training losses, pure functions of logits float32 [B, C] and soft targets [B, C] (docs/losses.md says when to try which); the
optimizer by timm's name, and the learning rate as a pure function of epoch, step and validation history.

`class_weights` [C] multiplies each class's share of a loss, and a loss is always the plain mean over the batch: unlike
torch's, it is not divided by the weights in the batch, which would undo them where a batch holds one class only.
"""

import dataclasses
import inspect
import math
from functools import partial

import numpy as np
import timm.optim
import torch
import torch.nn.functional as F
from timm.optim._optim_factory import default_registry

from dataset import CLASS_NAMES, FIRST_AGE, HEADS, LAST_AGE, LAST_AUX_AGE, head_slices, num_outputs
from errors import InputError, did_you_mean

LOSS_CODES = {"ce": "CE", "label_smoothing": "LS", "focal": "FL", "f1": "F1", "logit_adjusted": "LA", "ordinal": "OR"}
BETA = 0.999  # of the effective number of images
SCHEDULERS = ("StepLR", "Cosine", "CAWR", "Plateau", "none")


def parse_loss(spec):
    """Read 'focal', 'ce+f1' or '0.6*focal+0.4*f1' as [(weight, name), ...]; weights are 1 unless given. Names are the keys of
    LOSS_CODES, weights positive and finite; they need not sum to 1. Anything else: InputError."""
    terms = []
    for term in spec.split("+"):
        weight, star, name = (piece.strip() for piece in term.rpartition("*"))
        if name not in LOSS_CODES:
            allowed = f"{', '.join(LOSS_CODES)}, or a sum such as 0.6*focal+0.4*f1"
            raise InputError(f'--loss {spec}: unknown loss "{name}"; allowed: {allowed}.{did_you_mean(name, LOSS_CODES)}')
        try:
            value = float(weight) if star else 1.0
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise InputError(f'--loss {spec}: weight "{weight}" of {name} is not a positive number, such as 0.5*{name}')
        terms.append((value, name))
    return terms


def loss_code(spec):
    """Short name of a loss for run names: 'FL', 'CE+F1'. Weights are left out."""
    return "+".join(LOSS_CODES[name] for _, name in parse_loss(spec))


def build_loss(spec, class_counts, gamma=2.0, smoothing=0.025, class_weights=None):
    """The loss that `spec` names (see parse_loss): a function of (logits, target) -> scalar. Tensors on their device:
    class_counts [C], training images of each class, the prior of logit_adjusted; class_weights [C] belong to every term."""
    terms = parse_loss(spec)
    functions = {
        "ce": cross_entropy,
        "label_smoothing": partial(label_smoothing, smoothing=smoothing),
        "focal": partial(focal, gamma=gamma),
        "f1": soft_f1,
        "logit_adjusted": partial(logit_adjusted, class_counts=class_counts),
        "ordinal": ordinal,
    }
    return lambda logits, target: sum(w * functions[name](logits, target, class_weights=class_weights) for w, name in terms)


def cross_entropy(logits, target, class_weights=None):
    """Cross entropy, the mean over the batch of -sum_c w_c t_c log p_c."""
    if class_weights is not None:
        target = target * class_weights
    return -(target * logits.log_softmax(1)).sum(1).mean()


def label_smoothing(logits, target, smoothing=0.025, class_weights=None):
    """Cross entropy against (1 - smoothing) * target + smoothing / C (Szegedy et al. 2016, 1512.00567), as in torch."""
    return cross_entropy(logits, (1 - smoothing) * target + smoothing / logits.shape[1], class_weights)


def focal(logits, target, gamma=2.0, class_weights=None):
    """Focal loss over softmax, the mean of -sum_c w_c t_c (1 - p_c)^gamma log p_c (Lin et al. 2017, 1708.02002). The paper's
    sigmoid over one logit z is this with logits [z, 0]; its alpha is class_weights [alpha, 1 - alpha]."""
    if class_weights is not None:
        target = target * class_weights
    log_probs = logits.log_softmax(1)
    # 1 - p from its logarithm keeps the digits near p = 1; the clamp because x^gamma has no slope at 0 for gamma < 1.
    rest = (-torch.expm1(log_probs)).clamp(min=1e-12)
    return -(target * rest**gamma * log_probs).sum(1).mean()


def soft_f1(logits, target, class_weights=None, eps=1e-7):
    """1 - macro F1 of the batch, counted with probabilities: tp = sum p t, fp = sum p (1 - t), fn = sum (1 - p) t.
    Only classes in the batch's targets are averaged (an absent one has F1 0 with no slope, and would only scale the gradient);
    a class with less than one whole image counts by that part. class_weights weigh that mean. Splitting a batch changes it."""
    probs = logits.softmax(1)
    support = target.sum(0)
    f1 = 2 * (probs * target).sum(0) / (probs.sum(0) + support + eps)  # 2tp + fp + fn = sum p + sum t
    present = support.clamp(max=1)
    if class_weights is not None:
        present = present * class_weights
    return 1 - (f1 * present).sum() / present.sum()


def logit_adjusted(logits, target, class_counts, tau=1.0, class_weights=None):
    """Cross entropy of logits + tau * log prior, "balanced softmax" at tau 1 (Menon et al. 2020, 2007.07314). class_counts [C]
    are training images a class, a 0 taken as 1. Predict from the plain logits."""
    return cross_entropy(logits + tau * class_counts.clamp(min=1).to(logits.dtype).log(), target, class_weights)


def ordinal(logits, target, class_weights=None):
    """Mean binary cross entropy of the C - 1 questions "is it above class k?" (Niu et al. 2016, "Ordinal Regression with
    Multiple Output CNN for Age Estimation"), each answered by the softmax's sum. class_weights weigh a sample by its class."""
    log_probs = logits.log_softmax(1)
    below = log_probs.logcumsumexp(1)[:, :-1]  # log P(class <= k)
    above = log_probs.flip(1).logcumsumexp(1).flip(1)[:, 1:]  # log P(class > k)
    is_below = target.cumsum(1)[:, :-1]
    losses = -(is_below * below + (1 - is_below) * above).mean(1)
    if class_weights is not None:
        losses = losses * (target * class_weights).sum(1)
    return losses.mean()


def age_distribution(ages, sigma=2.0, top_spread=None, last=LAST_AGE):
    """Soft targets over the ages 18..60 (FIRST_AGE..last): ages [B] in years -> float32 [B, last - 17], rows sum to 1.
    After Gao et al. 2017, "Deep Label Distribution Learning with Label Ambiguity" (1611.01731), but each class takes the
    normal's mass of its year, the end classes all beyond. 18 and `last` are censored (60 means "60 or older"): all mass of such
    a person goes there. top_spread: years from 60 on over which the people behind a recorded 60 are spread evenly instead."""
    ages = ages.double()
    top = ages >= LAST_AGE
    ages = ages.masked_fill(ages <= FIRST_AGE, -math.inf).masked_fill(ages >= last, math.inf)
    edges = torch.arange(FIRST_AGE + 0.5, last, dtype=torch.float64, device=ages.device)
    below = torch.special.ndtr((edges - ages[:, None]) / sigma)
    if top_spread is not None:
        true = LAST_AGE + torch.linspace(0, top_spread, 101, dtype=torch.float64, device=ages.device)
        below[top] = torch.special.ndtr((edges - true[:, None]) / sigma).mean(0)
    return F.pad(F.pad(below, (1, 0), value=0.0), (0, 1), value=1.0).diff(dim=1).float()


def aux_targets(ages, sigma, top_spread, count):
    """Soft targets float32 [count, 63] of the auxiliary head from ages int64 [N] in years; the other rows are 0: what is
    pseudo-labelled has no age. Where nobody is above 60 ages were clipped there, and top_spread is 10 years, if None."""
    clipped = top_spread is None and ages.max(initial=0) <= LAST_AGE
    table = age_distribution(torch.tensor(ages), sigma, 10.0 if clipped else top_spread, LAST_AUX_AGE)
    return F.pad(table, (0, 0, 0, count - len(ages)))


def class_index(head, targets):
    """Targets int64 [N] of a head as classes from 0: years become their distance to the first age."""
    return np.clip(targets, FIRST_AGE, LAST_AGE) - FIRST_AGE if head == "age" else targets


def soft_targets(target, train_targets, age_sigma, top_age_spread=None):
    """Probabilities float32 [N, num_outputs(target)] of int64 [N, heads]: one-hot, ages as label distributions."""
    tables = []
    for column, head in enumerate(HEADS[target]):
        classes = torch.from_numpy(class_index(head, train_targets[:, column]))
        table = torch.eye(len(CLASS_NAMES[head]))
        if head == "age":
            table = age_distribution(torch.arange(FIRST_AGE, LAST_AGE + 1), age_sigma, top_age_spread)
        tables.append(table[classes])
    return torch.cat(tables, dim=1)


def build_criterion(args, train_targets, device):
    """The training loss as (logits, soft targets [B, num_outputs]) -> scalar: the sum over the heads' losses. Class counts of
    the training rows, train_targets int64 [N, heads], give class weights and prior (for ages by their distributions)."""
    losses = []
    soft = soft_targets(args.target, train_targets, args.age_sigma, args.top_age_spread).sum(0)
    for column, (head, logits_slice) in enumerate(head_slices(args.target).items()):
        counts = np.bincount(class_index(head, train_targets[:, column]), minlength=len(CLASS_NAMES[head]))
        weights = class_weights(args.class_weights, counts)
        weights = None if weights is None else weights.to(device)
        prior = (soft[logits_slice] if head == "age" else torch.from_numpy(counts)).to(device)
        losses.append((logits_slice, build_loss(args.loss, prior, args.gamma, args.smoothing, weights)))
    if args.aux_age:
        losses.append((slice(num_outputs(args.target), None), lambda *pair: args.aux_age * age_loss(*pair)))
    return lambda logits, targets: sum(loss(logits[:, head], targets[:, head]) for head, loss in losses)


def age_loss(logits, target):
    """Cross entropy of single ages [B, 63] plus the distance of the means in decades (Gao et al. 2018, "Age Estimation Using
    Expectation of Label Distribution Learning"). Rows of target that are 0 throughout, of unknown age, count as right."""
    years = torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
    apart = logits.softmax(1) @ years * target.sum(1) - target @ years
    return cross_entropy(logits, target) + apart.abs().mean() / 10


def class_weights(kind, counts):
    """Class weights float32 [C] of `kind`, with mean 1 over the images that `counts` [C] counts, or None for 'none'.
    balanced: in inverse proportion to the counts, as scikit-learn's. effective: to the effective number of images
    (1 - BETA^n) / (1 - BETA) (Cui et al. 2019, 1901.05555). Empty classes get 1."""
    if kind == "none":
        return None
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    size = counts[present] if kind == "balanced" else (1 - BETA ** counts[present]) / (1 - BETA)
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (counts[present] / size).sum() / size
    return torch.tensor(weights, dtype=torch.float32)


class AdamP(timm.optim.AdamP):
    """timm's AdamP, Adam with projected steps: the same `state_dict` and, but for rounding, weights. No closure, no caution."""

    @torch.no_grad()
    def step(self, closure=None):
        for number, group in enumerate(self.param_groups):
            pieces = {}  # updated together: on a CPU one, which its cache holds, elsewhere all with the same step count
            for p in group["params"]:
                if p.grad is not None:
                    pieces.setdefault(p if p.is_cpu else self.state[p].get("step", 0), []).append(p)
            made = [(piece, *self._steps(group, piece, [p.grad for p in piece])) for piece in pieces.values()]
            self._shrink(number, group, [(p, step, rate) for piece, steps, rate in made for p, step in zip(piece, steps)])
            for piece, steps, rate in made:
                torch._foreach_add_(piece, steps, alpha=-rate)

    def _steps(self, group, params, grads):
        """(steps before projection, learning rate) of params and their gradients."""
        for p in params:
            if not self.state[p]:
                self.state[p].update(exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        mean, square = ([self.state[p][name] for p in params] for name in ("exp_avg", "exp_avg_sq"))
        (beta1, beta2), count = group["betas"], self.state[params[0]].get("step", 0) + 1
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

    def _shrink(self, number, group, moves):
        """Apply weight decay, and take back the part of a step along the weights. moves: (param, step, rate)."""
        decay = group["lr"] * group["weight_decay"]
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
    sums = (
        [torch.linalg.vector_norm(p, dim=1) for p, _grad, _step in rows],
        [torch.linalg.vector_norm(grad, dim=1) for _p, grad, _step in rows],
        [torch.linalg.vecdot(p, grad) for p, grad, _step in rows],
        [torch.linalg.vecdot(p, step) for p, _grad, step in rows],
    )
    end = params[0].new_zeros(1)
    table = torch.stack([torch.cat([*values, end]) for values in sums]).index_select(1, channels.take)
    by_channel = table.view(len(sums), len(params), channels.width)
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


# timm makes ours by this name; its `register` would do the same, and warn of it.
default_registry._optimizers["adamp"] = dataclasses.replace(timm.optim.get_optimizer_info("adamp"), opt_class=AdamP)


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
    Plateau: times lr_gamma when F1 has not risen for more than lr_step epochs. Warm-up is linear, before the schedule."""
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
