"""One fold's training: the step, the epoch and the evaluation of a fits.Fit.

Forward, loss and step are written once; precision, accumulation, mixing, averages of weights and several processes are
switches inside. Sample order and every random draw are pure functions of (seed, fold, epoch, step), so the state holds no
random generator.
"""

import contextlib
import ctypes
import itertools
import time
from collections.abc import Callable

import numpy as np
import torch

import finite
import fits
import metrics
import parts
from dataset import CLASS_NAMES, SCORED_AS, head_slices, scored_probs
from files import draw_seed
from model import predict
from optim import lr_at


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


@contextlib.contextmanager
def core_left():
    """Leave a CPU core to another process: threads that have to share one would wait for each other."""
    threads = use_threads(None)
    use_threads(max(threads - 1, 1))
    try:
        yield
    finally:
        use_threads(threads)


def train_one_epoch(fit: fits.Fit, after_step: Callable[[], bool]):
    """Train the rest of `fit.epoch`; returns False when `after_step()` asked to stop between two steps, else True.

    Leaves the loss summed over steps in `fit.loss_sum` (on the device: no step waits for it) and `fit.step` at the next.
    finite.NotFinite when a loss is not, on a GPU some steps later.
    """
    order, data = parts.fold_order(fit), fit.data
    fit.train_mode()
    started, before = time.perf_counter(), fit.seconds
    steps, ahead = itertools.tee(parts.micro_batches(fit, order, step) for step in range(fit.step, fit.steps))
    reads = (part.reads for step in ahead for part in step)
    with contextlib.closing(data.store.batches(reads)) as batches:
        for step in steps:
            train_step(fit, step, batches)
            fit.step += 1
            if fit.averaged and fit.step == fit.steps:
                fit.average()
            fit.seconds = before + time.perf_counter() - started
            if fit.ranks.device.type == "cpu" or fit.step % finite.LOOK_STEPS == 0:
                finite.check_loss(fit)
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
    learn(fit, (parts.make_batch(fit, part, next(batches)) for part in step))


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
    finite.check_finite(fit)
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
