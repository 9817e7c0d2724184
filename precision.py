"""The arithmetic a model runs in: mixed precision and memory format, chosen by a short measurement.

Which of them is fast depends on the model and on the device, by a factor of two either way. The result of a measurement is
kept in the cache folder, so it costs once a machine, and all runs of one model there round alike.
"""

import copy
import functools
import hashlib
import itertools
import time
from pathlib import Path

import torch

import distributed
import errors
import files
import model

BATCH = {"cpu": 8, "cuda": 32, "mps": 32}  # images of a measured step: few, as it is the model that decides, not the batch
ROUNDS = 3  # measured steps of each candidate, and more of a small model, whose steps a moment of load can all hit
SECONDS = (0.5, 4.0)  # as long are more rounds measured, and so long no longer any, once each candidate had one
CLEARLY = 1.3  # how much faster than the usual one another candidate must be: the digits of a run must not hang on noise


def choose(net, name, img_size, batch_size, device, cache_dir, amp, memory_format):
    """('off', 'bf16' or 'fp16'; 'channels_last' or 'contiguous') for training `net`.

    What is not 'auto' stays. On a GPU: bf16, or fp16 where it has none. Else forward and backward of `net` (called `name`) are
    timed with each candidate, unless the folder `cache_dir` tells that it was done. Another than the usual format, and on a CPU
    another than float32, has to be CLEARLY faster, so near a tie the same command rounds alike everywhere.
    """
    formats = list(dict.fromkeys([model.usual_format(net), *model.FORMATS])) if memory_format == "auto" else [memory_format]
    amps = [model.resolve_amp(amp, device)]
    if amp == "auto" and device.type == "cpu" and model.cpu_has_bf16():
        amps.append("bf16")
    candidates = [(a, f) for a in amps for f in formats]
    if len(candidates) == 1:
        return candidates[0]
    runs_on = torch.get_num_threads() if device.type == "cpu" else distributed.describe(device)
    key = (name, *img_size, candidates, runs_on)
    rates, told = measured_once(
        cache_dir,
        "precision",
        key,
        [" ".join(candidate) for candidate in candidates],
        lambda: _rates(net, candidates, img_size, min(batch_size, BATCH[device.type]), device),
    )
    chosen = clearly_fastest(rates, [clearly_fastest(rates, [f"{a} {f}" for f in formats]) for a in amps])
    others = ", ".join(f"{what} {rate:.3g}" for what, rate in rates.items() if what != chosen)
    errors.say(f"amp and memory format: {chosen} ({rates[chosen]:.3g} images/s, {others}; {told})")
    return tuple(chosen.split())


def clearly_fastest(rates, names):
    """The first of `names` unless one after it is CLEARLY faster, by `rates` {name: images/s}; ties go to what stands first."""
    return functools.reduce(lambda best, name: name if rates[name] >= CLEARLY * rates[best] else best, names)


def measured_once(cache_dir, what, key, names, measure):
    """({candidate: images/s}, where they come from) of `measure()`, called if the cache folder has no result for this `key`.

    names: the candidates. InputError where the cache folder's result is damaged. The result also depends on the processor and
    on torch's version.
    """
    key = repr((key, torch.__version__, torch.cpu.get_capabilities().get("cpu_name")))
    file = Path(cache_dir) / f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"
    told = f"measured before, {file}"
    if not file.exists():
        rates, told = measure(), f"measured, {file}"
        if not file.exists():  # another run that started with this one may have been quicker; all follow the first
            files.write_json(file, {"for": key, "images_per_second": {name: round(rate, 2) for name, rate in rates.items()}})
    rates = files.read_json(file, images_per_second=dict)["images_per_second"]
    files.check_kinds(file, rates, dict.fromkeys(names, files.NUMBER))
    return {name: rates[name] for name in names}, told


def _rates(net, candidates, img_size, batch, device):
    """`_measure` of a copy of `net` with as many images a step as there is room for: `batch`, or its half, or that one's."""
    while True:
        try:
            return _measure(copy.deepcopy(net), candidates, img_size, batch, device)
        except (RuntimeError, MemoryError) as error:
            if batch < 4 or not errors.is_out_of_memory(error):
                raise
        distributed.give_back(device)  # what the error held too
        batch //= 2


def _measure(net, candidates, img_size, batch, device):
    """{"amp format": images/s} of forward and backward, of each the best of some alternating rounds."""
    images = torch.randn(batch, 3, *img_size, generator=torch.Generator().manual_seed(0)).to(device)

    def seconds(amp, memory_format):
        net.to(memory_format=model.FORMATS[memory_format])
        inputs = images.contiguous(memory_format=model.FORMATS[memory_format])
        distributed.synchronise(device)
        started = time.perf_counter()
        with torch.autocast(device.type, model.AMP_DTYPES[amp], enabled=model.AMP_DTYPES[amp] is not None):
            logits = net(inputs)
        logits.float().square().mean().backward()
        distributed.synchronise(device)
        return time.perf_counter() - started

    for candidate in candidates:  # the first step of each prepares its kernels
        seconds(*candidate)
    best, started = dict.fromkeys(candidates, float("inf")), time.perf_counter()
    for number in itertools.count(1):
        best = {candidate: min(time_so_far, seconds(*candidate)) for candidate, time_so_far in best.items()}
        if time.perf_counter() - started > SECONDS[number < ROUNDS]:
            break
    return {" ".join(candidate): batch / time_so_far for candidate, time_so_far in best.items()}
