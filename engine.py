"""One fold's training: the step, the epoch, the evaluation, and the state that makes a resumed run equal to one not stopped.

Forward, loss and step are written once; precision, accumulation, EMA and several processes are switches inside. Sample
order and every random draw are pure functions of (seed, fold, epoch, step), so the state holds no random generator.
"""

import contextlib
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

import augment
import metrics
from cache import ImageStore, draw_seed, epoch_order
from distributed import Ranks
from errors import InputError
from labels import CLASS_NAMES, FIRST_AGE, LAST_AGE, SCORED_AS, head_slices, scored_probs
from loss import age_distribution, build_loss
from model import predict
from optim import build_optimizer, lr_at
from precision import AMP_DTYPES, layout


@dataclass(frozen=True)
class Recipe:
    """How a fold is trained: the options of train.py that the loop uses, resolved."""

    target: str
    loss: str
    gamma: float
    smoothing: float
    class_weights: str
    age_sigma: float
    optimizer: str
    lr: float
    weight_decay: float
    scheduler: str
    lr_step: int
    lr_gamma: float
    warmup_epochs: int
    epochs: int
    patience: int
    batch_size: int
    accum: int
    clip_grad: float
    ema: float
    aug: str
    amp: str
    compile: bool
    seed: int


@dataclass(frozen=True)
class FoldData:
    """What a fold trains on. Rows are indices into the store; targets int64 [N, heads]; truth int64 [N] official classes.

    `train_targets` follow the options (bounds, fixes); `truth` is what the target is scored on and never does.
    """

    fold: int
    store: ImageStore
    train_rows: np.ndarray
    val_rows: np.ndarray
    train_targets: np.ndarray
    truth: np.ndarray
    mean: tuple
    std: tuple


def keep_freed_memory():
    """Tell glibc to keep freed blocks: it would hand every large tensor back to the kernel and fault it in again.

    Worth up to 1.4x on the CPU. Returns whether the C library took it; others than glibc have no mallopt.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(*option) for option in ((m_mmap_max, 0), (m_trim_threshold, 2**31 - 1), (m_top_pad, 512 << 20)))


def use_threads(count):
    """Let torch use `count` CPU threads (None: as many as it has chosen); returns the number, on which rounding depends."""
    if count is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def build_criterion(recipe, data, device):
    """The training loss as (logits [B, num_outputs], targets int64 [B, heads]) -> scalar: the sum over the heads' losses.

    Ages become label distributions (see loss.age_distribution); class counts are those of the training rows.
    """
    parts = []
    train_targets = data.train_targets[data.train_rows]
    for column, (head, logits_slice) in enumerate(head_slices(recipe.target).items()):
        targets, table = train_targets[:, column], None
        if head == "age":
            targets = np.clip(targets, FIRST_AGE, LAST_AGE) - FIRST_AGE
            table = age_distribution(torch.arange(FIRST_AGE, LAST_AGE + 1), recipe.age_sigma).to(device)
        counts = np.bincount(targets, minlength=len(CLASS_NAMES[head]))
        weights = balanced_weights(counts) if recipe.class_weights == "balanced" else None
        loss = build_loss(recipe.loss, torch.from_numpy(counts).to(device), recipe.gamma, recipe.smoothing,
                          None if weights is None else weights.to(device))  # fmt: skip
        parts.append((column, logits_slice, loss, table))

    def criterion(logits, targets):
        total = 0
        for column, logits_slice, loss, table in parts:
            target = targets[:, column]
            if table is not None:
                target = table[target.clamp(FIRST_AGE, LAST_AGE) - FIRST_AGE]
            total = total + loss(logits[:, logits_slice], target)
        return total

    return criterion


def balanced_weights(counts):
    """Class weights float32 [C] in inverse proportion to `counts`, with mean 1 over the images; empty classes get 1."""
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return torch.tensor(weights, dtype=torch.float32)


def step_size(recipe, train_images, world):
    """Images of one optimizer step over all processes: batch size x accumulation, or all images where there are fewer.

    InputError when the processes or the parts of a step can't have equally many, at least one each.
    """
    if recipe.batch_size % world:
        raise InputError(f"--batch-size {recipe.batch_size}: must be a multiple of the {world} processes")
    whole = min(recipe.batch_size * recipe.accum, train_images)
    size = whole - whole % (world * recipe.accum)
    if size == 0:
        raise InputError(f"--accum {recipe.accum}: {train_images} training images make {train_images // world} parts at most")
    return size


@dataclass
class Fit:
    """A fold in training: the model and all that changes with it. `state_dict` and `load_state_dict` are exact.

    `history` holds a row of log.csv for every finished epoch; `epoch` (from 1) and `step` (from 0) are the next to do.
    Several processes are one at the same batch size, but for rounding: the loss is that of all their images, and so are the
    statistics of batch norm on GPUs. On CPUs, where torch can't do that, each normalises its own images and rank 0's
    running statistics are kept.
    """

    model: torch.nn.Module
    recipe: Recipe
    data: FoldData
    ranks: Ranks
    epoch: int = 1
    step: int = 0
    seconds: float = 0.0
    history: list = field(default_factory=list)

    def __post_init__(self):
        recipe, device = self.recipe, self.ranks.device
        if self.ranks.world > 1 and device.type == "cuda":
            self.model = convert_sync_batchnorm(self.model)  # timm's: torch's would drop the activations in its norm layers
        self.optimizer = build_optimizer(self.model, recipe.optimizer, recipe.lr, recipe.weight_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
        self.ema = ModelEmaV3(self.model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        self.criterion = build_criterion(recipe, self.data, device)
        self.targets = torch.from_numpy(self.data.train_targets).to(device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.amp_dtype, self.layout = AMP_DTYPES[recipe.amp], layout(self.model)
        self.forward = self.model
        if self.ranks.world > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.model, device_ids=ids, find_unused_parameters=False)
        if recipe.compile:
            self.forward = torch.compile(self.forward)

    @property
    def step_size(self):
        """Images of one optimizer step over all processes."""
        return step_size(self.recipe, len(self.data.train_rows), self.ranks.world)

    @property
    def steps(self):
        """Optimizer steps of an epoch; what does not fill the last one is left to other epochs' orders."""
        return len(self.data.train_rows) // self.step_size

    @property
    def evaluated(self):
        """The model that is evaluated and kept: the moving average of the weights, if there is one."""
        return self.ema.module if self.ema else self.model

    @property
    def val_f1s(self):
        return [row["val_f1"] for row in self.history]

    @property
    def best_epoch(self):
        """The (first) epoch with the highest validation F1; without validation the last one. 0 before the first."""
        if not self.history or self.history[-1]["val_f1"] is None:
            return len(self.history)
        return int(np.argmax(self.val_f1s)) + 1

    @property
    def finished(self):
        """All epochs done, or no better validation F1 for `patience` epochs (0: never stops early)."""
        waited = len(self.history) - self.best_epoch
        return self.epoch > self.recipe.epochs or (self.step == 0 and 0 < self.recipe.patience <= waited)

    def state_dict(self):
        """Everything of the above that changes, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loss_sum": self.loss_sum,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }

    def load_state_dict(self, state):
        """Continue from a `state_dict`; what follows is the same, bit for bit, as without the stop."""
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.loss_sum.copy_(state["loss_sum"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.history = state["history"]

    @property
    def global_step(self):
        """Optimizer steps done since the first epoch."""
        return (self.epoch - 1) * self.steps + self.step


def train_one_epoch(fit: Fit, after_step: Callable[[], bool]):
    """Train the rest of `fit.epoch`; returns False when `after_step()` asked to stop between two steps, else True.

    Leaves the loss summed over steps in `fit.loss_sum` (on the device: no step waits for it) and `fit.step` at the next.
    """
    recipe, data, ranks = fit.recipe, fit.data, fit.ranks
    order = epoch_order(data.train_rows, recipe.seed, data.fold, fit.epoch)
    size, micro = fit.step_size, fit.step_size // recipe.accum
    groups = [ranks.share(order[start : start + micro]) for start in range(fit.step * size, fit.steps * size, micro)]
    fit.model.train()
    started, before = time.perf_counter(), fit.seconds
    rows = iter(groups)
    with contextlib.closing(data.store.batches(groups)) as batches:
        while fit.step < fit.steps:
            train_step(fit, rows, batches, micro)
            fit.step += 1
            fit.seconds = before + time.perf_counter() - started
            if after_step():
                return False
    return True


def train_step(fit, groups, batches, micro):
    """One optimizer step over the next `accum` groups of rows and batches, of `micro` images each over all processes."""
    recipe, data, ranks = fit.recipe, fit.data, fit.ranks
    key = (recipe.seed, data.fold, fit.epoch, fit.step)
    generator = torch.Generator().manual_seed(draw_seed("augment", *key))
    params = augment.draw(recipe.aug, micro * recipe.accum, generator)
    torch.manual_seed(draw_seed("dropout", *key, ranks.rank))
    lr = lr_at(fit.epoch, fit.step, fit.steps, scheduler=recipe.scheduler, lr=recipe.lr, epochs=recipe.epochs,
               lr_step=recipe.lr_step, lr_gamma=recipe.lr_gamma, warmup_epochs=recipe.warmup_epochs,
               history=fit.val_f1s)  # fmt: skip
    for group in fit.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    parts = (params[part * micro : (part + 1) * micro] for part in range(recipe.accum))
    learn(fit, (prepare(fit, next(groups), next(batches), ranks.share(part)) for part in parts))


def prepare(fit, rows, batch, params):
    """(images float32 [B, 3, H, W], targets int64 [B, heads]) of a batch (uint8) of `rows`, changed by `params` of a draw."""
    rows = torch.from_numpy(rows).to(fit.ranks.device, non_blocking=True)
    images = augment.augment(batch, params, fit.recipe.aug, fit.data.mean, fit.data.std)
    return images.contiguous(memory_format=fit.layout), fit.targets[rows]


def learn(fit, parts):
    """One optimizer step on the mean loss of `accum` parts (images, targets); a generator makes each when it is its turn."""
    for number, (images, targets) in enumerate(parts, start=1):
        last = number == fit.recipe.accum
        sync = contextlib.nullcontext() if last or fit.ranks.world == 1 else fit.forward.no_sync()
        with sync:
            loss = part_loss(fit, images, targets)
            backward(fit, loss)
        fit.loss_sum += loss.detach()
    update(fit)


def part_loss(fit, images, targets):
    """The training loss of one part of a step, over all processes, as its share of the mean over the parts."""
    with torch.autocast(images.device.type, fit.amp_dtype, enabled=fit.amp_dtype is not None):
        logits = fit.forward(images)
    return fit.criterion(fit.ranks.whole(logits.float()), fit.ranks.whole(targets)) / fit.recipe.accum


def backward(fit, loss):
    """Add the gradients of a loss to those of the weights: each process has its part of them, of which the mean is taken."""
    fit.scaler.scale(loss * fit.ranks.world).backward(create_graph=getattr(fit.optimizer, "is_second_order", False))


def update(fit):
    """Change the weights, and their moving average, by the gradients, which are gone then."""
    recipe = fit.recipe
    if recipe.clip_grad:
        fit.scaler.unscale_(fit.optimizer)
        torch.nn.utils.clip_grad_norm_(fit.model.parameters(), recipe.clip_grad)
    fit.scaler.step(fit.optimizer)
    fit.scaler.update()
    fit.optimizer.zero_grad(set_to_none=True)
    if fit.ema:
        fit.ema.update(fit.model, step=fit.global_step)


def predict_rows(fit, rows, batch_size=None):
    """Logits float32 [len(rows), num_outputs] of the evaluated model, each process doing its share."""
    batch_size, data = batch_size or fit.recipe.batch_size, fit.data
    fit.ranks.same_buffers(fit.evaluated)
    mine = fit.ranks.share(rows)
    groups = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    logits = predict(fit.evaluated, data.store.batches(groups), data.mean, data.std, fit.amp_dtype)
    return fit.ranks.unshare(logits, len(rows))


def head_probs(target, logits):
    """Probabilities float32 [N, num_outputs]: a softmax over each head's logits."""
    return np.concatenate([metrics.softmax(logits[:, part]) for part in head_slices(target).values()], axis=1)


def evaluate(fit):
    """(val_loss, val_f1, val_acc, probs [N, num_outputs]) of the validation rows; scores against official labels.

    The loss is the training loss on the training labels' definition, so that its curve compares with the training curve.
    """
    recipe, data = fit.recipe, fit.data
    logits = predict_rows(fit, data.val_rows)
    targets = torch.from_numpy(data.train_targets[data.val_rows]).to(fit.ranks.device)
    val_loss = float(fit.criterion(torch.from_numpy(logits).to(fit.ranks.device), targets))
    probs = head_probs(recipe.target, logits)
    pred, truth = scored_probs(recipe.target, probs).argmax(1), data.truth[data.val_rows]
    classes = len(CLASS_NAMES[SCORED_AS[recipe.target]])
    return val_loss, float(metrics.macro_f1(truth, pred, classes)), float(metrics.accuracy(truth, pred, classes)), probs


def end_epoch(fit):
    """Evaluate and close `fit.epoch`: its row joins the history. Returns the validation probabilities, None without a fold.

    InputError when the training loss is not finite: nothing after it would be worth keeping.
    """
    train_loss = fit.ranks.from_first(float(fit.loss_sum)) / fit.steps
    if not np.isfinite(train_loss):
        raise InputError(
            f"the training loss of fold {fit.data.fold}, epoch {fit.epoch} is {train_loss}; "
            f"try a lower --lr, --clip-grad 1 or --amp off (the last good state is kept)"
        )
    lr = fit.optimizer.param_groups[0]["lr"] / fit.optimizer.param_groups[0].get("lr_scale", 1.0)
    row = {"fold": fit.data.fold, "epoch": fit.epoch, "lr": lr, "train_loss": train_loss}
    row |= {"val_loss": None, "val_f1": None, "val_acc": None}
    rate = fit.steps * fit.step_size / max(fit.seconds, 1e-9)
    probs = None
    if len(fit.data.val_rows):
        started = time.perf_counter()
        row["val_loss"], row["val_f1"], row["val_acc"], probs = evaluate(fit)
        fit.seconds += time.perf_counter() - started
    row |= {"seconds": round(fit.seconds, 3), "images_per_second": round(rate, 1)}
    fit.history.append(fit.ranks.from_first(row))  # boxes that round differently agree on the best epoch
    fit.epoch, fit.step, fit.seconds = fit.epoch + 1, 0, 0.0
    fit.loss_sum.zero_()
    return probs
