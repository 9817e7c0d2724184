"""A fold in training: its recipe, its data, its model, and all that changes with it, as a state that is exact.

Precision, accumulation, mixing, averages of weights and several processes are switches of it; engine.py has the loop.
"""

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

import dataset
import sampling
from distributed import Ranks
from errors import InputError
from loss import build_criterion, soft_targets
from model import AMP_DTYPES, head_parameters, layout
from optim import build_optimizer


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
            self.partners = sampling.Partners.of(data.train_rows, len(targets), same, classes)
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
