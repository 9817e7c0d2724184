"""Has a training step room in the device's memory? Measured by taking it; and the largest batch that has, by halving."""

import argparse
import contextlib
import copy
from dataclasses import replace

import dataset
import distributed
import engine
import errors
import experiment
import fold
import model
from errors import InputError


def has_room(args, data, net, ranks):
    """Whether this process can take two optimizer steps with the batches of `args`; a copy of the run's model `net` does.

    Of several processes each tries its part alone, without the one more copy of the gradients through which they agree on them.
    """
    room = True
    try:
        _two_steps(args, data, net, ranks)
    except (RuntimeError, MemoryError) as error:
        if not errors.is_out_of_memory(error):
            raise
        room = False
    distributed.give_back(ranks.device)
    return room


def _two_steps(args, data, net, ranks):
    recipe = replace(fold.recipe(args), batch_size=args.batch_size // ranks.world, freeze_epochs=0, compile=False)
    rows = dataset.fold_data(args, data, experiment.fold_numbers(args)[0], *model.mean_std(net))
    fit = engine.Fit(copy.deepcopy(net), recipe, rows, replace(ranks, rank=0, world=1))
    with contextlib.suppress(engine.NotFinite):  # the training itself will tell
        engine.train_one_epoch(fit, lambda: fit.step == 2)


def fitting(args, data, net, ranks, agree=True):
    """`args` with the largest batches that have room, halved as often as it takes and then as many times more of them a step;
    None where even the smallest have none. `agree`: all processes are here and come to the same."""
    while args is not None:
        short = not has_room(args, data, net, ranks)
        if not (ranks.any(int(short)) if agree else short):
            return args
        args = _halved(args, ranks.world)
    return None


def _halved(args, world):
    if args.batch_size % (2 * world):
        return None
    return argparse.Namespace(**{**vars(args), "batch_size": args.batch_size // 2, "accum": args.accum * 2})


def settle(args, data, net, ranks):
    """--auto-batch of a new run: --batch-size and --accum become what has room and makes the same steps.

    Where nobody asked for the image cache on the device it leaves that first, as smaller batches are not quite the same.
    """
    room_for = fitting(args, data, net, ranks)
    by_auto = ranks.any(int(args.cache_device == "auto" and data.store.place == "device"))
    if by_auto and (room_for is None or room_for.batch_size < args.batch_size):
        data.store.leave_device()
        args.cache_device = "host"
        errors.say(f"auto batch: --batch-size {args.batch_size} has no room beside the images, taken: --cache-device host")
        room_for = fitting(args, data, net, ranks)
    if room_for is None:
        raise InputError(_too_large(args, ranks.device))
    if room_for.batch_size < args.batch_size:
        errors.say(f"auto batch: --batch-size {args.batch_size} has no room on {_name(ranks.device)}, "
                   f"taken: --batch-size {room_for.batch_size} --accum {room_for.accum}")  # fmt: skip
    args.batch_size, args.accum = room_for.batch_size, room_for.accum


def advice(args, data, ranks):
    """What to say when the memory ran out in a training, whose own memory must be free again; before it data is None."""
    ran_out = f"--batch-size {args.batch_size}: out of memory on {_name(ranks.device)}"
    on_device = args.cache_device == "device" or (args.cache_device == "auto" and ranks.device.type == "cuda")
    remedy = "--cache-device host takes less" if on_device else "does another program use the device too?"
    before = f"{ran_out}, before any step could be tried; {remedy}"
    if data is None:
        return before
    try:
        net = model.build_model(args, experiment.fold_numbers(args)[0], ranks.device, empty=True)
    except (RuntimeError, MemoryError) as error:
        if not errors.is_out_of_memory(error):
            raise
        return before
    room_for = fitting(args, data, net, ranks, agree=False)
    if room_for is None:
        return _too_large(args, ranks.device)
    if room_for.batch_size == args.batch_size:
        return f"{ran_out}, though such a step has room now (measured); does another program use the device too?"
    return (
        f"{ran_out}; a new run with --batch-size {room_for.batch_size} --accum {room_for.accum} fits (measured by halving) and "
        "makes the same steps; --auto-batch finds that by itself"
    )


def _too_large(args, device):
    return (
        f"--batch-size {args.batch_size}: out of memory on {_name(device)}, and so are its halves down to the smallest; "
        "a smaller --img-size or --model may fit"
    )


def _name(device):
    return "the CPU" if device.type == "cpu" else f"{device}, {distributed.describe(device)}"
