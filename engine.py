"""One fold in training: sample order, training state (Fit), micro-batches, step, epoch, evaluation, checkpoint (last.pt).

Forward, loss and step are written once; precision, accumulation, mixing, averages of weights and DDP are switches inside.
Sample order and every random draw are pure functions of (seed, fold, epoch, step), so a checkpoint holds no random state.
"""

import contextlib
import copy
import io
import itertools
import time
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map_only

import augment
import errors
import experiment
import files
import metrics
from dataset import CLASS_NAMES, HEADS, SCORED_AS, head_probs, scored_probs
from errors import InputError, Interrupted
from files import draw_seed
from loss import aux_targets, build_criterion, build_optimizer, lr_at, soft_targets
from model import AMP_DTYPES, head_parameters, layout, mean_std, predict

SAMPLERS = {"shuffle": None, "balanced": 1.0, "sqrt": 0.5, "person": None}  # the power of a class's size that is divided by


def generator(*key):
    """A numpy generator whose numbers are a pure function of `key` (see files.draw_seed)."""
    return np.random.Generator(np.random.PCG64(draw_seed(*key)))


def epoch_order(rows, seed, fold, epoch, sampler="shuffle", classes=None, persons=None):
    """The rows (int64 array) in the order of an epoch. classes, persons: int64 [len(rows)], for the samplers that need them."""
    draw = generator("order", seed, fold, epoch)
    shuffled = draw.permutation(len(rows))
    if sampler == "shuffle":
        return rows[shuffled]
    if sampler == "person":
        chosen = shuffled[np.unique(persons[shuffled], return_index=True)[1]]
    else:
        chosen = shuffled[systematic(rarity(classes, SAMPLERS[sampler])[shuffled], len(rows), draw.random())]
    return rows[chosen][draw.permutation(len(chosen))]


def rarity(classes, power):
    """Inverse class frequencies float64 [N] of images, to the `power`; they sum to 1."""
    _classes, of_image, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    weights = sizes[of_image] ** -float(power)
    return weights / weights.sum()


def systematic(weights, count, offset):
    """Systematic sampling: indices int64 [count], ascending, i floor or ceil of count * weights[i] times; 0 <= offset < 1."""
    edges = np.cumsum(weights) * count
    return np.searchsorted(edges / edges[-1] * count, np.arange(count) + offset, side="right").clip(max=len(weights) - 1)


class Partners:
    """Draws the other image of a mix from the training `rows`, of `total` in the store.
    classes [len(rows)]: every class is drawn equally often. same [total]: a row's partners have its own value."""

    def __init__(self, rows, total, same=None, classes=None):
        self.key_of, self.pools = np.zeros(total, dtype=np.int64) if same is None else same, {}
        for key in np.unique(self.key_of[rows]).tolist():
            alike = self.key_of[rows] == key
            weights = np.full(alike.sum(), 1 / alike.sum()) if classes is None else rarity(classes[alike], 1.0)
            self.pools[key] = (rows[alike], np.cumsum(weights))

    def draw(self, rows, uniform):
        """A partner for each of `rows` by its number `uniform` in 0..1."""
        partners = np.empty_like(rows)
        for key, (pool, edges) in self.pools.items():
            alike = self.key_of[rows] == key
            places = np.searchsorted(edges, uniform[alike] * edges[-1], side="right").clip(max=len(pool) - 1)
            partners[alike] = pool[places]
        return partners


def epoch_images(args, data):
    """The number of images that an epoch of a FoldData shows: all training rows, or one of each person."""
    return len(np.unique(data.persons[data.train_rows]) if args.sampler == "person" else data.train_rows)


def step_size(args, images, world):
    """Images of one optimizer step over all ranks: batch size x accumulation, or those of an epoch where they are fewer."""
    if args.batch_size % world:
        raise InputError(f"--batch-size {args.batch_size}: must be a multiple of the {world} processes")
    most = min(args.batch_size * args.accum, images)
    size = most - most % (world * args.accum)
    if images < world:
        raise InputError(f"{world} processes: more than the {images} training images of a fold; start fewer of them")
    if size == 0:
        raise InputError(f"--accum {args.accum}: {images} training images make {images // world} micro-batches at most")
    return size


def new_optimizer(net, args):
    """The optimizer that options ask for, of a model's weights."""
    return build_optimizer(net, args.optimizer, args.lr, args.weight_decay, args.layer_decay)


class Fit:
    """Training state of one fold: model, optimizer, averages, scaler, counters; `state_dict` resumes bit-exactly.
    `history`: rows of log.csv; `epoch` (from 1) and `step` (from 0): the next to do; `tail`: the last epochs' weights. Several
    ranks train as one process does, but for rounding, and for batch norm on CPUs, where each normalises its own images."""

    def __init__(self, model, args, data, ranks):
        self.model, self.args, self.data, self.ranks, device = model, args, data, ranks, ranks.device
        self.epoch, self.step, self.seconds = 1, 0, 0.0
        self.history, self.tail, self.frozen = [], [], False
        if self.ranks.world > 1 and device.type == "cuda":
            self.model = convert_sync_batchnorm(self.model)  # timm's: torch's would drop the activations in its norm layers
        self.optimizer = new_optimizer(self.model, args)
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
        self.ema = ModelEmaV3(self.model, decay=args.ema, use_warmup=True) if args.ema else None
        self.averaged = copy.deepcopy(self.model) if args.average_last else None
        self.criterion = build_criterion(args, data.train_targets[data.train_rows], device)
        targets = soft_targets(args.target, data.train_targets, args.age_sigma, args.top_age_spread)
        if data.pseudo is not None:
            targets[-len(data.pseudo) :] = torch.from_numpy(data.pseudo)
        if args.aux_age:
            targets = torch.cat([targets, aux_targets(data.ages, args.age_sigma, args.top_age_spread, len(targets))], dim=1)
        self.targets = targets.to(device)
        self.mean, self.std = mean_std(self.model)
        self.mean_std = [torch.tensor(values).to(device) for values in (self.mean, self.std)]  # copied once, not at each step
        self.partners = None
        if args.mix != "none":
            same = data.masks if args.mix == "halves" else None
            classes = data.classes[data.train_rows] if args.mix_rare else None
            self.partners = Partners(data.train_rows, len(targets), same, classes)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.finite_steps = torch.zeros((), dtype=torch.int64, device=device)  # of this epoch, those with a finite loss_sum
        self.amp_dtype, self.layout = AMP_DTYPES[args.amp], layout(self.model)
        images = epoch_images(args, data)
        self.step_size = step_size(args, images, self.ranks.world)
        self.steps = images // self.step_size  # the images left over come in other epochs' orders
        self._wrap()

    def _wrap(self):
        self.forward, device = self.model, self.ranks.device
        if self.ranks.world > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.model, device_ids=ids, find_unused_parameters=False)
        if self.args.compile:
            self.forward = torch.compile(self.forward)

    def train_mode(self):
        """Put the model in training mode for `epoch`; in the first --freeze-epochs only the head trains (Kumar et al. 2022,
        2202.10054). When the backbone joins, the optimizer begins anew: torch's fused ones take no weights in later."""
        frozen, head = self.epoch <= self.args.freeze_epochs, head_parameters(self.model)
        self.model.train(not frozen)
        if frozen != self.frozen:
            for parameter in self.model.parameters():
                parameter.requires_grad_(not frozen or any(parameter is own for own in head))
            self.frozen = frozen
            self._wrap()
            if not frozen:
                self.optimizer = new_optimizer(self.model, self.args)

    @property
    def evaluated(self):
        """The model that is validated and kept: the EMA, the average of the last epochs, or the trained one itself.
        The EMA is timm's ModelEmaV3, of running statistics too: the decay of step k is 1 - (k - 1)^(-2/3), up to --ema."""
        return self.ema.module if self.ema else self.averaged if self.tail else self.model

    def average(self):
        """Add the current weights to the `tail` of the last epochs and average it: Izmailov et al. 2018, "Averaging Weights
        Leads to Wider Optima", but on the learning rate's schedule, and running statistics are averaged too."""
        self.tail.append({name: value.detach().clone() for name, value in self.model.state_dict().items()})
        self.tail = self.tail[-self.args.average_last :]
        self._load_average()

    def _load_average(self):
        mean = dict(self.tail[-1])  # counters are not averaged
        for name in (name for name, value in mean.items() if value.is_floating_point()):
            mean[name] = sum(weights[name] for weights in self.tail) / len(self.tail)
        self.averaged.load_state_dict(mean)

    @property
    def best_epoch(self):
        """The (first) epoch with the highest validation F1; without validation the last one. 0 before the first."""
        if not self.history or self.history[-1]["val_f1"] is None:
            return len(self.history)
        return int(np.argmax([row["val_f1"] for row in self.history])) + 1

    @property
    def finished(self):
        """True when all epochs are done, or after --patience epochs without a better validation F1."""
        waited = len(self.history) - self.best_epoch
        return self.epoch > self.args.epochs or (self.step == 0 and 0 < self.args.patience <= waited)

    def state_dict(self):
        """Everything above that changes, as tensors and plain values."""
        state = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scaler")}
        state["ema"] = self.ema.state_dict() if self.ema else None
        return state | {name: getattr(self, name) for name in ("loss_sum", "epoch", "step", "seconds", "history", "tail")}

    def release(self):
        """Free the memory of the model and all that belongs to it; the history stays."""
        self.model = self.forward = self.optimizer = self.ema = self.averaged = None
        self.tail = []

    def load_state_dict(self, state):
        """Continue from a `state_dict`: training goes on to the same bits as without the stop."""
        for name in ("model", "optimizer", "scaler", *["ema"] * (self.ema is not None)):
            getattr(self, name).load_state_dict(state[name])
        self.loss_sum.copy_(state["loss_sum"])
        self.finite_steps.fill_(state["step"])
        self.epoch, self.step, self.seconds = int(state["epoch"]), int(state["step"]), float(state["seconds"])
        self.history = [{name: row[name] for name in experiment.LOG_COLUMNS} for row in state["history"]]
        self.tail = [{name: value.to(self.ranks.device) for name, value in weights.items()} for weights in state["tail"]]
        self.frozen = 0 < self.args.freeze_epochs == self.epoch - 1 and self.step == 0  # the optimizer still begins anew
        if self.tail:
            self._load_average()


class MicroBatch(namedtuple("MicroBatch", "rows params mixed mix_params partners partner_params")):
    """One forward's inputs: `rows` [B] of the store with augmentation `params`; those that are `mixed` (bool [B]) are mixed
    with the rows `partners` [M], which have `partner_params`, by `mix_params` [M]."""

    @property
    def reads(self):
        """The rows whose images it needs."""
        return np.concatenate([self.rows, self.partners])


def fold_order(fit):
    """The training rows of `fit.epoch` in their order."""
    args, data = fit.args, fit.data
    classes, persons = data.classes[data.train_rows], data.persons[data.train_rows]
    return epoch_order(data.train_rows, args.seed, data.fold, fit.epoch, args.sampler, classes, persons)


def micro_batches(fit, order, step, whole=False):
    """This rank's `accum` MicroBatches (`whole`: those of all) of a step of `fit.epoch`, whose rows come in `order`."""
    args = fit.args
    size, micro = fit.step_size, fit.step_size // args.accum
    key = (args.seed, fit.data.fold, fit.epoch, step)
    rows = order[step * size : (step + 1) * size]

    def draw(name):
        return augment.draw_augment(args.aug, size, torch.Generator().manual_seed(draw_seed(name, *key)))

    params, mixed = draw("augment"), np.zeros(size, dtype=bool)
    mix_params, partners, partner_params = params, rows, params  # of which no row is taken
    if fit.partners:
        mixed, mix_params, uniform = augment.draw_mix(args.mix, size, args.mix_prob, args.mix_alpha, generator("mix", *key))
        partners, partner_params = fit.partners.draw(rows, uniform), draw("partners")
    made = []
    for start in range(0, size, micro):
        at = np.arange(start, start + micro)
        at = at if whole else fit.ranks.shard(at)
        two = at[mixed[at]]
        made.append(MicroBatch(rows[at], params[at], mixed[at], mix_params[two], partners[two], partner_params[two]))
    return made


def make_batch(fit, micro_batch, pixels):
    """(images float32 [B, 3, H, W], soft targets [B, num_outputs]) of a MicroBatch, whose `reads` are `pixels` (uint8)."""
    params = torch.cat([micro_batch.params, micro_batch.partner_params])
    images = augment.augment(pixels, params, fit.args.aug, *fit.mean_std)
    targets = fit.targets[torch.from_numpy(micro_batch.reads).to(fit.ranks.device, non_blocking=True)]
    B = len(micro_batch.rows)
    if len(micro_batch.partners):
        mixed = torch.from_numpy(np.flatnonzero(micro_batch.mixed)).to(images.device, non_blocking=True)
        mix_params = micro_batch.mix_params.to(images.device, non_blocking=True)
        images, targets = augment.mix_batch(fit.args.mix, images[:B], targets[:B], mixed, mix_params, images[B:], targets[B:])
    return images.contiguous(memory_format=fit.layout), targets


def preview(fit, limit=32):
    """(images uint8 [N, H, W, 3], the same as the next epoch's first micro-batch has them, [{label in words: its share}])"""
    batch = micro_batches(fit, fold_order(fit), 0, whole=True)[0]
    M = int(batch.mixed[:limit].sum())
    batch = MicroBatch(*(values[:limit] for values in batch[:3]), *(values[:M] for values in batch[3:]))
    pixels = fit.data.store.gather(batch.reads).to(fit.ranks.device)
    images = make_batch(fit, batch, pixels)[0].permute(0, 2, 3, 1)
    images = ((images * fit.mean_std[1] + fit.mean_std[0]).clamp(0, 1) * 255).round().byte()

    def words(row):
        heads = zip(HEADS[fit.args.target], fit.data.train_targets[row].tolist())
        return ", ".join(f"age {value}" if head == "age" else CLASS_NAMES[head][value] for head, value in heads)

    labels = [{words(row): 1.0} for row in batch.rows]
    shares = augment.own_share(fit.args.mix, batch.mix_params, *images.shape[1:3]).mean((1, 2, 3)).tolist() if M else []
    for index, share, partner in zip(np.flatnonzero(batch.mixed), shares, batch.partners):
        (own,), other = labels[index], words(partner)
        labels[index] = {own: share, other: 1 - share} if own != other else labels[index]
    return pixels[: len(images)].cpu().numpy(), images.cpu().numpy(), labels


CHECK_STEPS = 50  # between two looks at the loss on a GPU, as each waits for the device; a CPU's is looked at every step


class NotFinite(ValueError):
    """A loss or a weight is NaN or infinite since `step` (from 1) of `epoch`, which read `rows` of the store in all ranks."""

    def __init__(self, message, fit, step):
        super().__init__(message)
        self.epoch, self.step = fit.epoch, step + 1
        self.rows = np.concatenate([batch.reads for batch in micro_batches(fit, fold_order(fit), step, whole=True)])


def check_loss(fit):
    """NotFinite when the loss of a step of `fit.epoch` was not finite; waits for the device."""
    good = int(fit.finite_steps)
    if good < fit.step:
        raise NotFinite(f"the training loss is {float(fit.loss_sum)}", fit, good)


def check_finite(fit):
    """NotFinite when a loss or a weight is not finite, or anything in the state is NaN: it must not be saved."""
    check_loss(fit)
    finite = all(weight.isfinite().all() for weight in fit.model.parameters())
    if not finite or any(v.isnan().any() for v in tree_leaves(fit.state_dict()) if isinstance(v, torch.Tensor)):
        raise NotFinite("a weight is not finite", fit, max(fit.step - 1, 0))  # at that step the loss still was


def train_one_epoch(fit, after_step):
    """Train the rest of `fit.epoch`; returns False when `after_step()` asked to stop between two steps, else True."""
    order, data = fold_order(fit), fit.data
    fit.train_mode()
    started, before = time.perf_counter(), fit.seconds
    steps, ahead = itertools.tee(micro_batches(fit, order, step) for step in range(fit.step, fit.steps))
    with contextlib.closing(data.store.batches(micro_batch.reads for step in ahead for micro_batch in step)) as batches:
        for step in steps:
            train_step(fit, step, batches)
            fit.step += 1
            if fit.averaged and fit.step == fit.steps:
                fit.average()
            fit.seconds = before + time.perf_counter() - started
            if fit.ranks.device.type == "cpu" or fit.step % CHECK_STEPS == 0:
                check_loss(fit)
            if after_step():
                return False
    return True


def train_step(fit, step, batches):
    """One optimizer step over its MicroBatches, whose images come next from `batches`."""
    args, key = fit.args, (fit.args.seed, fit.data.fold, fit.epoch, fit.step)
    seed = draw_seed("dropout", *key, fit.ranks.rank)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes as long as dozens of a GPU's kernels
    if fit.ranks.device.type in ("cuda", "mps"):
        getattr(torch, fit.ranks.device.type).manual_seed(seed)
    if hasattr(fit.optimizer, "generator"):  # Adahessian draws too, from a generator that no state holds
        draws = torch.Generator(next(fit.model.parameters()).device)  # elsewhere it would take one of its own instead
        fit.optimizer.generator = draws.manual_seed(draw_seed("optimizer", *key))
    lr = lr_at(fit.epoch, fit.step, fit.steps, scheduler=args.scheduler, lr=args.lr, epochs=args.epochs,
               lr_step=args.lr_step, lr_gamma=args.lr_gamma, min_lr=args.min_lr, warmup_epochs=args.warmup_epochs,
               history=[row["val_f1"] for row in fit.history])  # fmt: skip
    for group in fit.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    optimizer_step(fit, (make_batch(fit, micro_batch, next(batches)) for micro_batch in step))


def optimizer_step(fit, made):
    """One optimizer step on the mean loss of `accum` micro-batches (images, targets), which a generator makes in turn."""
    for number, (images, targets) in enumerate(made, start=1):
        with contextlib.nullcontext() if number == fit.args.accum or fit.ranks.world == 1 else fit.forward.no_sync():
            loss = compute_loss(fit, images, targets)
            backward(fit, loss)
        fit.loss_sum += loss.detach()
    fit.finite_steps += fit.loss_sum.isfinite()  # once it is not finite it stays so
    update(fit)


def compute_loss(fit, images, targets):
    """The training loss of one micro-batch over all ranks, divided by `accum`."""
    with torch.autocast(images.device.type, fit.amp_dtype, enabled=fit.amp_dtype is not None):
        logits = fit.forward(images)
    gather = fit.ranks.all_gather_with_grad
    return fit.criterion(gather(logits.float()), gather(targets)) / fit.args.accum


def backward(fit, loss):
    """Add a loss's gradients to those of the weights: each rank has those of its shard, of which DDP takes the mean."""
    fit.scaler.scale(loss * fit.ranks.world).backward(create_graph=getattr(fit.optimizer, "is_second_order", False))


def update(fit):
    """Change the weights and their moving average by the gradients, and drop these."""
    if fit.args.clip_grad:
        fit.scaler.unscale_(fit.optimizer)
        torch.nn.utils.clip_grad_norm_(fit.model.parameters(), fit.args.clip_grad)
    fit.scaler.step(fit.optimizer)
    fit.scaler.update()
    fit.optimizer.zero_grad(set_to_none=True)
    if fit.ema:
        fit.ema.update(fit.model, step=(fit.epoch - 1) * fit.steps + fit.step)


def predict_rows(fit, rows, before_batch=lambda: None):
    """Logits float32 [len(rows), num_outputs] of the evaluated model; `before_batch()` is called equally often in all ranks."""
    batch_size, data = fit.args.batch_size // fit.ranks.world, fit.data
    fit.ranks.broadcast_buffers(fit.evaluated)
    shard, most = fit.ranks.shard(rows), len(rows[:: fit.ranks.world])
    chunks = [shard[start : start + batch_size] for start in range(0, len(shard), batch_size)]

    def batches():
        with contextlib.closing(data.store.batches(chunks)) as read:
            for _turn, batch in itertools.zip_longest(range(0, most, batch_size), read):
                before_batch()
                if batch is not None:
                    yield batch

    return fit.ranks.gather(predict(fit.evaluated, batches(), fit.mean, fit.std, fit.amp_dtype), len(rows))


def evaluate(fit, before_batch=lambda: None):
    """(val_loss, val_f1, val_acc, probs [N, num_outputs]) of the validation rows.
    Scores are against the official labels; the loss is of the training labels, so that its curve compares with theirs."""
    args, data = fit.args, fit.data
    logits = predict_rows(fit, data.val_rows, before_batch)
    targets = fit.targets[torch.from_numpy(data.val_rows).to(fit.ranks.device)]
    val_loss = float(fit.criterion(torch.from_numpy(logits).to(fit.ranks.device), targets))
    probs = head_probs(args.target, logits)
    pred, truth = scored_probs(args.target, probs).argmax(1), data.truth[data.val_rows]
    classes = len(CLASS_NAMES[SCORED_AS[args.target]])
    return val_loss, metrics.macro_f1(truth, pred, classes), float(np.mean(truth == pred)), probs


def end_epoch(fit, before_batch=lambda: None):
    """Validate and close `fit.epoch`; returns the validation probabilities, None with --kfold 0.
    `before_batch` may save the state, which does not change until validation is over, and raise."""
    started = time.perf_counter()
    check_finite(fit)
    fit.seconds += time.perf_counter() - started  # here a GPU's steps are waited for
    train_loss = fit.ranks.broadcast(float(fit.loss_sum)) / fit.steps
    lr = fit.optimizer.param_groups[0]["lr"] / fit.optimizer.param_groups[0].get("lr_scale", 1.0)
    rate, scores, probs = fit.steps * fit.step_size / max(fit.seconds, 1e-9), (None, None, None), None
    if len(fit.data.val_rows):
        started = time.perf_counter()
        *scores, probs = evaluate(fit, before_batch)
        fit.seconds += time.perf_counter() - started
    row = (fit.data.fold, fit.epoch, lr, train_loss, *scores, round(fit.seconds, 3), round(rate, 1))
    row = fit.ranks.broadcast(dict(zip(experiment.LOG_COLUMNS, row)))  # boxes that round differently agree on the best epoch
    fit.history.append(row)
    fit.epoch, fit.step, fit.seconds = fit.epoch + 1, 0, 0.0
    fit.loss_sum.zero_()
    fit.finite_steps.zero_()
    return probs


class CheckpointWriter:
    """Writes a fold's files in a thread while training goes on; errors are raised where it is waited for."""

    def __init__(self, run, fold, stop):
        self.run, self.fold, self.stop, self.events = run, fold, stop, None
        self._thread, self._writing, self._then = ThreadPoolExecutor(1), None, None

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def put(self, write, then=lambda: None):
        """Begin with `write()`, once what was put before is written; `then()` is called by the thread that waits for it."""
        self.wait()
        self._writing, self._then = self._thread.submit(write), then

    @property
    def done(self):
        """True when something is written that nobody has waited for."""
        return self._writing is not None and self._writing.done()

    def wait(self):
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
            self._then()

    def save(self, fit, state):
        """Write the state that `state()` returns to last.pt; NotFinite, and the old one stays, when it is not finite."""
        check_finite(fit)
        copy_of_it = copied(state())
        self.put(lambda: save_state(self.run, self.fold, copy_of_it))

    def stop_if_asked(self, fit, state, where):
        """Save the state and raise Interrupted if a signal asked any rank to stop; all ranks do so at the same place."""
        code = fit.ranks.all_reduce_max(self.stop.requested)
        if code:
            if fit.ranks.first:
                self.save(fit, state)
                self.wait()
            raise Interrupted(code, f"stopped in fold {self.fold}, {where}; state saved")


def copied(state):
    """A copy of a nested state, its tensors on the CPU: training does not change it."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)


def save_state(run, fold, state):
    """Write last.pt of a fold: what --resume needs (tensors and plain values)."""
    buffer = io.BytesIO()  # into a file torch would hide the disk's error behind one of its own
    torch.save(state, buffer)
    files.write_bytes(experiment.state_file(run, fold), buffer.getbuffer())


RETRAIN = "delete it to train this fold anew"


def load_state(run, fold):
    """The state that `save_state` wrote, or None where there is none; nothing in the file can run code."""
    path = experiment.state_file(run, fold)
    if not path.exists():
        return None
    with errors.reading(path, RETRAIN), open(path, "rb") as file:  # torch would hide the system's error behind one of its own
        with zipfile.ZipFile(file) as archive:
            if changed := archive.testzip():  # torch.load does not look at checksums
                raise ValueError(f"{changed} in it is not what was written")
        file.seek(0)
        return dict(torch.load(file, map_location="cpu", weights_only=True))


def restore_state(fit, state, path):
    """Continue `fit` from a state that was read from `path`; InputError when it is of another model, or damaged."""
    try:
        fit.load_state_dict(state)
    except Exception as error:
        with contextlib.nullcontext() if "CUDA error" in str(error) else errors.reading(path, RETRAIN):
            raise


def epochs_begun(run, fold):
    """The last epoch of which a saved state holds a step; 0 without a state."""
    state = load_state(run, fold)
    with errors.reading(experiment.state_file(run, fold), RETRAIN):
        return state["epoch"] - (state["step"] == 0) if state else 0
