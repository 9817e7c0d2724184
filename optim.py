"""The optimizer by timm's name, and the learning rate as a pure function of epoch, step and validation history."""

import dataclasses
import inspect
import math

import timm.optim
from timm.optim._optim_factory import default_registry

import projected
from errors import InputError, did_you_mean

SCHEDULERS = ("StepLR", "Cosine", "CAWR", "Plateau", "none")

# timm makes ours by these names; its `register` would do the same, and warn of it.
for name, kind in (("adamp", projected.AdamP), ("sgdp", projected.SGDP)):
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

    layer_decay below 1: each block's learning rate is that of the next one, seen from the head, times this (Clark et al.
    2020, ELECTRA, 2003.10555; BEiT), by the `lr_scale` of the parameter groups.
    Those that torch has as one kernel (`fused`) use it: four to six times quicker than its loop over tensors on a CPU too.
    AdamP and SGDP are those of projected.py.
    """
    kind = timm.optim.get_optimizer_info(name.lower().removeprefix("lookahead_")).opt_class
    fused = {"fused": True} if callable(kind) and "fused" in inspect.signature(kind).parameters else {}
    decay = {"layer_decay": layer_decay} if layer_decay < 1 else {}
    try:
        return timm.optim.create_optimizer_v2(model, opt=name.lower(), lr=lr, weight_decay=weight_decay, **decay, **fused)
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"--optimizer {name}: can't be made here ({error})") from error


def scheduler_name(name):
    """The scheduler's usual spelling, case-insensitive. InputError with suggestions when it is unknown."""
    for known in SCHEDULERS:
        if known.lower() == name.lower():
            return known
    raise InputError(f"--scheduler {name}: none of {', '.join(SCHEDULERS)}.{did_you_mean(name, SCHEDULERS)}")


def lr_at(epoch, step, steps, *, scheduler, lr, epochs, lr_step=2, lr_gamma=0.5, warmup_epochs=0, history=()):
    """Learning rate of a step: a pure function, so nothing of a scheduler has to be saved.

    epoch counts from 1, step from 0 to steps - 1 within it; `history` is the validation F1 of each epoch before this one.
    StepLR: times lr_gamma every lr_step epochs. Cosine: half a cosine from lr to 0, stepwise. CAWR: the same, restarted
    every lr_step epochs (Loshchilov & Hutter, SGDR, 2016). Plateau: times lr_gamma when F1 has not risen for more than
    lr_step epochs. During the first warmup_epochs the rate climbs linearly to lr, and the schedule starts after them.
    """
    done = epoch - 1 + step / steps  # epochs behind us
    if done < warmup_epochs:
        return lr * (done + 1 / steps) / warmup_epochs
    done, total = done - warmup_epochs, max(epochs - warmup_epochs, 1)
    if scheduler == "StepLR":
        return lr * lr_gamma ** (math.floor(done + 1e-9) // lr_step)
    if scheduler == "Cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * min(done / total, 1)))
    if scheduler == "CAWR":
        return lr * 0.5 * (1 + math.cos(math.pi * (done % lr_step) / lr_step))
    if scheduler == "Plateau":
        return lr * lr_gamma ** _plateau_drops(history, lr_step)
    return lr


def _plateau_drops(history, patience):
    """How often F1 stood still for more than `patience` epochs in a row (as torch's ReduceLROnPlateau, threshold 0)."""
    best, waited, drops = -math.inf, 0, 0
    for value in history:
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited > patience:
            drops, waited = drops + 1, 0
    return drops
