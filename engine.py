"""One fold in training: its state (Fit), sample order, micro-batches, the step, the epoch, the evaluation, last.pt.

Forward, loss and step are written once; precision, accumulation, mixing, averages of weights and several processes are
switches inside. Sample order and every random draw are pure functions of (seed, fold, epoch, step), so the state holds no
random generator.
"""

import collections
import contextlib
import copy
import ctypes
import itertools
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

import augment
import dataset
import errors
import experiment
import files
import metrics
from dataset import CLASS_NAMES, SCORED_AS, head_slices, scored_probs
from distributed import ALONE, Ranks
from errors import InputError
from files import draw_seed
from loss import build_criterion, soft_targets
from model import AMP_DTYPES, head_parameters, layout, predict
from optim import build_optimizer, lr_at

# ---- order ------------------------------------------------------------------------------------------------------------

SAMPLERS = {"shuffle": None, "balanced": 1.0, "sqrt": 0.5, "person": None}  # the power of a class's size that is divided by


def generator(*key):
    """A numpy generator whose numbers are a pure function of `key`, as cache.draw_seed takes it."""
    return np.random.Generator(np.random.PCG64(draw_seed(*key)))


def epoch_order(rows, seed, fold, epoch, sampler="shuffle", classes=None, persons=None):
    """The rows (int64 array) in the order in which an epoch shows them.

    classes, persons: int64 [len(rows)], needed by the samplers that go by them. Classes are oversampled by systematic
    sampling: of its expected number of times in the epoch every image gets the whole part, and the next whole number where
    chance says so; drawing each image alone, as torch's WeightedRandomSampler does, adds noise and no balance.
    """
    draw = generator("order", seed, fold, epoch)
    if sampler == "person":
        shuffled = draw.permutation(len(rows))
        return rows[shuffled[np.unique(persons[shuffled], return_index=True)[1]]][draw.permutation(len(np.unique(persons)))]
    if SAMPLERS[sampler] is None:
        return draw.permutation(rows)
    shuffled = draw.permutation(len(rows))
    return draw.permutation(rows[shuffled[systematic(rarity(classes, SAMPLERS[sampler])[shuffled], len(rows), draw.random())]])


def rarity(classes, power):
    """Weights float64 [N] of images that sum to 1: one over the size of the image's class to the `power`."""
    _classes, of_image, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    weights = sizes[of_image] ** -float(power)
    return weights / weights.sum()


def systematic(weights, count, offset):
    """Indices int64 [count], ascending: index i occurs floor or ceil of count * weights[i] times; 0 <= offset < 1."""
    edges = np.cumsum(weights) * count
    return np.searchsorted(edges / edges[-1] * count, np.arange(count) + offset, side="right").clip(max=len(weights) - 1)


@dataclass(frozen=True)
class Partners:
    """From whom the other image of a mix comes: `pools` {key: (rows, their cumulated weights up to 1)}, `key_of` [N of store].

    One pool of all training rows has the key 0; with `same` [N of store] given a row's partners have the row's own value.
    """

    pools: dict
    key_of: np.ndarray

    @classmethod
    def of(cls, rows, total, same=None, classes=None):
        """rows: the training rows, of `total` in the store. classes [len(rows)]: every class is drawn equally often."""
        key_of = np.zeros(total, dtype=np.int64) if same is None else same
        pools = {}
        for key in np.unique(key_of[rows]).tolist():
            mine = key_of[rows] == key
            weights = np.full(mine.sum(), 1 / mine.sum()) if classes is None else rarity(classes[mine], 1.0)
            pools[key] = (rows[mine], np.cumsum(weights))
        return cls(pools, key_of)

    def draw(self, rows, uniform):
        """A partner for each of `rows` by its number `uniform` in 0..1."""
        found = np.empty_like(rows)
        for key, (pool, edges) in self.pools.items():
            mine = self.key_of[rows] == key
            places = np.searchsorted(edges, uniform[mine] * edges[-1], side="right").clip(max=len(pool) - 1)
            found[mine] = pool[places]
        return found


# ---- state ------------------------------------------------------------------------------------------------------------


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
    top_age_spread: float | None = None
    sampler: str = "shuffle"
    mix: str = "none"
    mix_prob: float = 0.5
    mix_alpha: float = 1.0
    mix_rare: bool = False
    freeze_epochs: int = 0
    layer_decay: float = 1.0
    average_last: int = 0


def epoch_images(recipe, data):
    """How many images an epoch of a FoldData shows: all training rows, or one of each person."""
    return len(np.unique(data.of_train(data.persons)) if recipe.sampler == "person" else data.train_rows)


def step_size(recipe, images, world):
    """Images of one optimizer step over all processes: batch size x accumulation, or those of an epoch where they are fewer.

    InputError when the processes or the parts of a step can't have equally many, at least one each.
    """
    if recipe.batch_size % world:
        raise InputError(f"--batch-size {recipe.batch_size}: must be a multiple of the {world} processes")
    whole = min(recipe.batch_size * recipe.accum, images)
    size = whole - whole % (world * recipe.accum)
    if images < world:
        raise InputError(f"{world} processes: more than the {images} training images of a fold; start fewer of them")
    if size == 0:
        raise InputError(f"--accum {recipe.accum}: {images} training images make {images // world} parts at most")
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
    data: dataset.FoldData
    ranks: Ranks
    epoch: int = 1
    step: int = 0
    seconds: float = 0.0
    history: list = field(default_factory=list)
    tail: list = field(default_factory=list)

    def __post_init__(self):
        recipe, data, device = self.recipe, self.data, self.ranks.device
        if self.ranks.world > 1 and device.type == "cuda":
            self.model = convert_sync_batchnorm(self.model)  # timm's: torch's would drop the activations in its norm layers
        self._new_optimizer()
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
        self.ema = ModelEmaV3(self.model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        self.averaged = copy.deepcopy(self.model) if recipe.average_last else None
        self.criterion = build_criterion(recipe, data.train_targets[data.train_rows], device)
        targets = soft_targets(recipe.target, data.train_targets, recipe.age_sigma, recipe.top_age_spread)
        if data.pseudo is not None:
            targets[-len(data.pseudo) :] = torch.from_numpy(data.pseudo)
        self.targets = targets.to(device)
        self.mean_std = [torch.tensor(values).to(device) for values in (data.mean, data.std)]  # copied once, not at each step
        self.partners = None
        if recipe.mix != "none":
            same = data.masks if recipe.mix == "halves" else None
            classes = data.of_train(data.classes) if recipe.mix_rare else None
            self.partners = Partners.of(data.train_rows, len(targets), same, classes)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.finite_steps = torch.zeros((), dtype=torch.int64, device=device)  # of this epoch, those with a finite loss_sum
        self.amp_dtype, self.layout = AMP_DTYPES[recipe.amp], layout(self.model)
        self.images = epoch_images(recipe, data)
        self.step_size = step_size(recipe, self.images, self.ranks.world)
        self.steps = self.images // self.step_size  # what does not fill the last one is left to other epochs' orders
        self.frozen = False
        self._wrap()

    def _new_optimizer(self):
        recipe = self.recipe
        self.optimizer = build_optimizer(self.model, recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.layer_decay)

    def _wrap(self):
        """`forward`, the model as a training step calls it."""
        self.forward, device = self.model, self.ranks.device
        if self.ranks.world > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.model, device_ids=ids, find_unused_parameters=False)
        if self.recipe.compile:
            self.forward = torch.compile(self.forward)

    def train_mode(self):
        """Put the model in training mode for `epoch`; in the first `freeze_epochs` all but the head stays as it is.

        After Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (arXiv 2202.10054): first the head, then all.
        The frozen part also keeps its running statistics, and no gradient goes through it. When it joins, the optimizer
        begins anew for all: torch's fused ones can't begin with some weights later than with others.
        """
        self.model.train()
        frozen, head = self.epoch <= self.recipe.freeze_epochs, head_parameters(self.model)
        if frozen:
            self.model.eval()
        if frozen != self.frozen:
            for parameter in self.model.parameters():
                parameter.requires_grad_(not frozen or any(parameter is own for own in head))
            self.frozen = frozen
            self._wrap()
            if not frozen:
                self._new_optimizer()

    @property
    def evaluated(self):
        """The model that is evaluated and kept: an average of the weights, if one is asked for.

        `ema` is timm's ModelEmaV3, running statistics averaged too: its decay at the k-th step is 1 - (k - 1)^(-2/3), 0 at
        the first, or the one that is asked for where that is less. As in Polyak and Juditsky 1992, and in Tarvainen and
        Valpola 2017, "Mean teachers are better role models", for networks.
        """
        return self.ema.module if self.ema else self.averaged if self.tail else self.model

    def average(self):
        """Add the weights as they are to the `tail` of the last epochs and average it.

        After Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima" (arXiv 1803.05407). Different: the learning rate
        stays on its schedule, and running statistics are averaged instead of computed anew.
        """
        self.tail.append({name: value.detach().clone() for name, value in self.model.state_dict().items()})
        self.tail = self.tail[-self.recipe.average_last :]
        self._load_average()

    def _load_average(self):
        mean = dict(self.tail[-1])  # counters are not averaged
        for name in (name for name, value in mean.items() if value.is_floating_point()):
            mean[name] = sum(weights[name] for weights in self.tail) / len(self.tail)
        self.averaged.load_state_dict(mean)

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
            "tail": self.tail,
        }

    def let_go(self):
        """Leave the memory of the model and of all that changes with it to others; only the history is of use from here on."""
        self.model = self.forward = self.optimizer = self.ema = self.averaged = None
        self.tail = []

    def load_state_dict(self, state):
        """Continue from a `state_dict`; what follows is the same, bit for bit, as without the stop."""
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.loss_sum.copy_(state["loss_sum"])
        self.finite_steps.fill_(state["step"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.history = state["history"]
        self.tail = [{name: value.to(self.ranks.device) for name, value in weights.items()} for weights in state["tail"]]
        self.frozen = 0 < self.recipe.freeze_epochs == self.epoch - 1 and self.step == 0  # the optimizer still begins anew
        if self.tail:
            self._load_average()

    @property
    def global_step(self):
        """Optimizer steps done since the first epoch."""
        return (self.epoch - 1) * self.steps + self.step


def tensors(value):
    """All tensors in a nest of dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def tensor_bytes(value):
    """The bytes of all tensors in a nest of dicts, lists and tuples."""
    return sum(tensor.nbytes for tensor in tensors(value))


# ---- micro-batches ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MicroBatch:
    """What a process takes in at once: `rows` [B] of the store with their `params` of augment.draw.

    `mixed` bool [B]: which of them are mixed with the rows `partners` [M], by `mix_params` [M] of mixing.draw; the partners
    have their own `partner_params` of augment.draw.
    """

    rows: np.ndarray
    params: torch.Tensor
    mixed: np.ndarray
    mix_params: torch.Tensor
    partners: np.ndarray
    partner_params: torch.Tensor

    @property
    def reads(self):
        """The rows whose images it needs: its own and those of their partners."""
        return np.concatenate([self.rows, self.partners])


def fold_order(fit):
    """The training rows of `fit.epoch` in their order."""
    recipe, data = fit.recipe, fit.data
    classes, persons = data.of_train(data.classes), data.of_train(data.persons)
    return epoch_order(data.train_rows, recipe.seed, data.fold, fit.epoch, recipe.sampler, classes, persons)


def micro_batches(fit, order, step):
    """The `accum` Parts of this process in a step of `fit.epoch`, whose rows come in `order`: a pure function."""
    recipe, ranks = fit.recipe, fit.ranks
    size, micro = fit.step_size, fit.step_size // recipe.accum
    key = (recipe.seed, fit.data.fold, fit.epoch, step)
    rows = order[step * size : (step + 1) * size]
    params = augment.draw_augment(recipe.aug, size, torch.Generator().manual_seed(draw_seed("augment", *key)))
    mixed = np.zeros(size, dtype=bool)
    if fit.partners:
        drawn = generator("mix", *key)
        mixed, mix_params, uniform = augment.draw_mix(recipe.mix, size, recipe.mix_prob, recipe.mix_alpha, drawn)
        partners = fit.partners.draw(rows, uniform)
        partner_params = augment.draw_augment(recipe.aug, size, torch.Generator().manual_seed(draw_seed("partners", *key)))

    def part(start):
        def mine(values):
            return ranks.share(values[start : start + micro])

        own = mine(mixed)
        if not own.any():
            return MicroBatch(mine(rows), mine(params), own, torch.empty(0, len(augment.MIX_COLUMNS)), rows[:0], params[:0])
        return MicroBatch(mine(rows), mine(params), own, mine(mix_params)[own], mine(partners)[own], mine(partner_params)[own])

    return [part(start) for start in range(0, size, micro)]


def make_batch(fit, part, batch):
    """(images float32 [B, 3, H, W], soft targets [B, num_outputs]) of a Part, whose `reads` are the batch (uint8)."""
    params = torch.cat([part.params, part.partner_params])
    images = augment.augment(batch, params, fit.recipe.aug, *fit.mean_std)
    targets = fit.targets[torch.from_numpy(part.reads).to(fit.ranks.device, non_blocking=True)]
    B = len(part.rows)
    if len(part.partners):
        mixed = torch.from_numpy(np.flatnonzero(part.mixed)).to(images.device, non_blocking=True)
        mix_params = part.mix_params.to(images.device, non_blocking=True)
        own, others = (images[:B], targets[:B]), (images[B:], targets[B:])
        images, targets = augment.mix_batch(fit.recipe.mix, *own, mixed, mix_params, *others)
    return images.contiguous(memory_format=fit.layout), targets


def step_rows(fit, step):
    """The rows that all processes together take in in a step of `fit.epoch`: its own and those mixed with them."""
    alone = copy.copy(fit)
    alone.ranks = ALONE
    return np.concatenate([part.reads for part in micro_batches(alone, fold_order(fit), step)])


# ---- NaN --------------------------------------------------------------------------------------------------------------

LOOK_STEPS = 50  # how often a GPU is asked, as its answer has to be waited for; a CPU is every step


class NotFinite(ValueError):
    """A loss or a weight is not-a-number or infinite: since `step` (from 1) of `epoch`, which took in `rows` of the store."""

    def __init__(self, what, fit, step):
        super().__init__(what)
        self.epoch, self.step, self.rows = fit.epoch, step + 1, step_rows(fit, step)


def check_loss(fit):
    """NotFinite when the loss of a step of `fit.epoch` was not; waits for the device."""
    good = int(fit.finite_steps)
    if good < fit.step:
        raise NotFinite(f"the training loss is {float(fit.loss_sum)}", fit, good)


def check_finite(fit):
    """NotFinite when a loss or a weight is not, or anything in the state is not-a-number: it must be neither saved nor kept."""
    check_loss(fit)
    good = collections.defaultdict(list)  # of each device, which is waited for once
    for value in fit.model.parameters():
        good[value.device].append(value.isfinite().all())
    for value in tensors(fit.state_dict()):
        good[value.device].append(~value.isnan().any())
    if not all(torch.stack(flags).all() for flags in good.values()):
        raise NotFinite("a weight is not finite", fit, max(fit.step - 1, 0))  # at that step the loss still was


# ---- step and epoch ---------------------------------------------------------------------------------------------------


def keep_freed_memory():
    """Tell glibc to keep freed blocks: it would hand every large tensor back to the kernel and fault it in again.

    Worth up to 1.4x on the CPU. Other C libraries have no mallopt.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option in ((m_mmap_max, 0), (m_trim_threshold, 2**31 - 1), (m_top_pad, 512 << 20)):
            mallopt(*option)


def use_threads(count):
    """Let torch use `count` CPU threads (None: as many as it has chosen); returns the number, on which rounding depends."""
    if count is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def train_one_epoch(fit: Fit, after_step: Callable[[], bool]):
    """Train the rest of `fit.epoch`; returns False when `after_step()` asked to stop between two steps, else True.

    Leaves the loss summed over steps in `fit.loss_sum` (on the device: no step waits for it) and `fit.step` at the next.
    finite.NotFinite when a loss is not, on a GPU some steps later.
    """
    order, data = fold_order(fit), fit.data
    fit.train_mode()
    started, before = time.perf_counter(), fit.seconds
    steps, ahead = itertools.tee(micro_batches(fit, order, step) for step in range(fit.step, fit.steps))
    reads = (part.reads for step in ahead for part in step)
    with contextlib.closing(data.store.batches(reads)) as batches:
        for step in steps:
            train_step(fit, step, batches)
            fit.step += 1
            if fit.averaged and fit.step == fit.steps:
                fit.average()
            fit.seconds = before + time.perf_counter() - started
            if fit.ranks.device.type == "cpu" or fit.step % LOOK_STEPS == 0:
                check_loss(fit)
            if after_step():
                return False
    return True


def seed_draws(device, seed):
    """Give a seed to torch's own draws on the CPU and on this device.

    torch.manual_seed does so for every kind of device, and for those that are not there (cuda, xpu, mtia) it writes down the
    caller's stack, which takes as long as dozens of a GPU's kernels.
    """
    torch.default_generator.manual_seed(seed)
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).manual_seed(seed)


def train_step(fit, step, batches):
    """One optimizer step over its Parts, whose images come next from `batches`."""
    recipe, key = fit.recipe, (fit.recipe.seed, fit.data.fold, fit.epoch, fit.step)
    seed_draws(fit.ranks.device, draw_seed("dropout", *key, fit.ranks.rank))
    if hasattr(fit.optimizer, "generator"):  # Adahessian draws too, from a generator that no state holds
        draws = torch.Generator(next(fit.model.parameters()).device)  # elsewhere it would take one of its own instead
        fit.optimizer.generator = draws.manual_seed(draw_seed("optimizer", *key))
    lr = lr_at(fit.epoch, fit.step, fit.steps, scheduler=recipe.scheduler, lr=recipe.lr, epochs=recipe.epochs,
               lr_step=recipe.lr_step, lr_gamma=recipe.lr_gamma, warmup_epochs=recipe.warmup_epochs,
               history=fit.val_f1s)  # fmt: skip
    for group in fit.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    learn(fit, (make_batch(fit, part, next(batches)) for part in step))


def learn(fit, made):
    """One optimizer step on the mean loss of `accum` parts (images, targets); a generator makes each when it is its turn."""
    for number, (images, targets) in enumerate(made, start=1):
        last = number == fit.recipe.accum
        sync = contextlib.nullcontext() if last or fit.ranks.world == 1 else fit.forward.no_sync()
        with sync:
            loss = part_loss(fit, images, targets)
            backward(fit, loss)
        fit.loss_sum += loss.detach()
    fit.finite_steps += fit.loss_sum.isfinite()  # once it is not finite it stays so
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


def predict_rows(fit, rows, before_batch=lambda: None):
    """Logits float32 [len(rows), num_outputs] of the evaluated model, each process doing its share.

    `before_batch()` is called as often in every process; what it raises ends the prediction.
    """
    batch_size, data = fit.recipe.batch_size // fit.ranks.world, fit.data
    fit.ranks.same_buffers(fit.evaluated)
    mine, most = fit.ranks.share(rows), len(rows[:: fit.ranks.world])
    groups = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]

    def batches():
        with contextlib.closing(data.store.batches(groups)) as read:
            for _turn, batch in itertools.zip_longest(range(0, most, batch_size), read):
                before_batch()
                if batch is not None:
                    yield batch

    logits = predict(fit.evaluated, batches(), data.mean, data.std, fit.amp_dtype)
    return fit.ranks.unshare(logits, len(rows))


def head_probs(target, logits):
    """Probabilities float32 [N, num_outputs]: a softmax over each head's logits."""
    return np.concatenate([metrics.softmax(logits[:, part]) for part in head_slices(target).values()], axis=1)


def evaluate(fit, before_batch=lambda: None):
    """(val_loss, val_f1, val_acc, probs [N, num_outputs]) of the validation rows; scores against official labels.

    The loss is the training loss on the training labels' definition, so that its curve compares with the training curve.
    `before_batch` is that of predict_rows.
    """
    recipe, data = fit.recipe, fit.data
    logits = predict_rows(fit, data.val_rows, before_batch)
    targets = fit.targets[torch.from_numpy(data.val_rows).to(fit.ranks.device)]
    val_loss = float(fit.criterion(torch.from_numpy(logits).to(fit.ranks.device), targets))
    probs = head_probs(recipe.target, logits)
    pred, truth = scored_probs(recipe.target, probs).argmax(1), data.truth[data.val_rows]
    classes = len(CLASS_NAMES[SCORED_AS[recipe.target]])
    return val_loss, float(metrics.macro_f1(truth, pred, classes)), float(metrics.accuracy(truth, pred, classes)), probs


def end_epoch(fit, before_batch=lambda: None):
    """Evaluate and close `fit.epoch`: its row joins the history. Returns the validation probabilities, None without a fold.

    `before_batch` is called before each batch of the validation; until that is over nothing of the state changes, so it may
    save the state and raise. finite.NotFinite when the loss or the weights are not: nothing after it would be worth keeping.
    """
    started = time.perf_counter()
    check_finite(fit)
    fit.seconds += time.perf_counter() - started  # here a GPU's steps are waited for
    train_loss = fit.ranks.from_first(float(fit.loss_sum)) / fit.steps
    lr = fit.optimizer.param_groups[0]["lr"] / fit.optimizer.param_groups[0].get("lr_scale", 1.0)
    row = {"fold": fit.data.fold, "epoch": fit.epoch, "lr": lr, "train_loss": train_loss}
    row |= {"val_loss": None, "val_f1": None, "val_acc": None}
    rate = fit.steps * fit.step_size / max(fit.seconds, 1e-9)
    probs = None
    if len(fit.data.val_rows):
        started = time.perf_counter()
        row["val_loss"], row["val_f1"], row["val_acc"], probs = evaluate(fit, before_batch)
        fit.seconds += time.perf_counter() - started
    row |= {"seconds": round(fit.seconds, 3), "images_per_second": round(rate, 1)}
    fit.history.append(fit.ranks.from_first(row))  # boxes that round differently agree on the best epoch
    fit.epoch, fit.step, fit.seconds = fit.epoch + 1, 0, 0.0
    fit.loss_sum.zero_()
    fit.finite_steps.zero_()
    return probs


# ---- checkpoint -------------------------------------------------------------------------------------------------------


class Writer:
    """Files written in a thread while training goes on, those of one `put` after those of the one before.

    What goes wrong is raised where it is waited for: by `wait`, the next `put`, or leaving the context.
    """

    def __init__(self):
        self._thread, self._writing, self._then = ThreadPoolExecutor(1), None, None

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def put(self, write, then=lambda: None):
        """Begin with `write()`, once what was put before is written; `then()` is called by who waits for it."""
        self.wait()
        self._writing, self._then = self._thread.submit(write), then

    @property
    def done(self):
        """Whether something is written that nobody has waited for."""
        return self._writing is not None and self._writing.done()

    def wait(self):
        """Until all is written, and told."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
            self._then()


def copied(state):
    """A state (dicts, lists, tensors and plain values) whose tensors are its own, on the CPU: training does not change them."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


def save_state(run, fold, state):
    """last.pt: what --resume needs (tensors and plain values)."""

    def write(temporary):
        with open(temporary, "wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides the disk's error behind one of its own
                    raise error.__context__ from None
                raise

    files.write_atomic(experiment.fold_dir(run, fold) / "last.pt", write, tensor_bytes(state))


def load_state(run, fold):
    """The state of `save`, or None; nothing in the file can run code."""
    path = experiment.fold_dir(run, fold) / "last.pt"
    try:
        with open(path, "rb") as file:  # torch would hide the system's error behind one of its own
            with zipfile.ZipFile(file) as archive:  # torch.load does not look at its checksums
                changed = archive.testzip()
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged pickle can raise anything; nothing of it is used
        if errors.is_out_of_memory(error):
            raise
        raise errors.unreadable(path, error) or damaged_state(path, error) from error
    if changed is not None:
        raise damaged_state(path, f"{changed} in it is not what was written")
    if not isinstance(state, dict):
        raise damaged_state(path, f"holds a {type(state).__name__}")
    return state


def damaged_state(path, error):
    """The InputError of a saved state that can't be gone on from, for the reason `error`."""
    return InputError(f"{path}: damaged ({errors.first_line(error)}); delete it to train this fold anew")


def check_state(state):
    """ValueError unless `state` has the parts of fits.Fit.state_dict, as far as the loop goes by them."""
    kinds = {"model": dict, "optimizer": dict, "scaler": dict, "loss_sum": torch.Tensor, "tail": list, "history": list}
    kinds |= {"epoch": int, "step": int, "seconds": (int, float)}
    for name, kind in kinds.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"its {name} is a {type(state.get(name)).__name__}")
    for row in state["history"]:
        if not isinstance(row, dict) or not set(experiment.LOG_COLUMNS) <= set(row):
            raise ValueError("its history lacks columns of log.csv")


def restore_state(fit, state, path):
    """`fit` goes on from a state that was read from `path`; InputError when it is of another model, or damaged."""
    try:
        check_state(state)
        fit.load_state_dict(state)
    except Exception as error:  # torch says what does not fit in many ways
        if errors.is_out_of_memory(error) or "CUDA error" in str(error):  # of the device, not of the file
            raise
        raise damaged_state(path, error) from error


def epochs_begun(run, fold):
    """The last epoch of which a saved state holds a step; 0 without one, as when another process just ended the fold."""
    state = load_state(run, fold)
    if state is None:
        return 0
    try:
        check_state(state)
    except ValueError as error:
        raise damaged_state(experiment.fold_dir(run, fold) / "last.pt", error) from error
    return state["epoch"] - (state["step"] == 0)
