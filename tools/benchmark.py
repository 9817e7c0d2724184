"""Measure how close training comes to the ceiling, and how far it is ahead of a usual DataLoader pipeline, on this machine.

    python tools/benchmark.py --model resnet18 --img-size 128

--what train (random weights, the training images of --data-dir):
  ceiling  forward, loss, backward and optimizer step on one fixed batch on the device
  ours     the epochs of train.py: its batches, augmentation and step, without validation and checkpoints
  usual    the same step on batches of a DataLoader whose workers decode with Pillow and augment with torchvision
  script   with --script: usual in a process of its own, with the C library's malloc and contiguous images
--what validation: predictions between two epochs against the forward of the model on one fixed batch.
--what inference: eval images by --folds models and --tta in one call, against the forward alone and one call a fold.
--what cache: building the image cache against a loop that decodes and resizes with Pillow in one process.

Each round measures all of them, for --seconds at least; the first is a warm-up. Every second round runs backwards and fractions
are taken within a round, so that a drifting machine hits all alike. A GPU is waited for at both ends of a measurement only. The
stages are timed afterwards, one by one. Prints tables and writes everything to --out.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts lie above

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import argparse
import contextlib
import copy
import itertools
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import joblib
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

import augment
import dataset
import engine
import experiment
import files
import hardware
import loss
import model
import options
import train as training
from dataset import TARGETS
from errors import InputError
from files import make_dir
from images import Geometry, ImageStore, open_cache, open_rgb
from inference import predict_folds


class Window:
    """A measurement of `least` seconds at least: what runs calls `start` before its first step and `step` after each."""

    def __init__(self, device, least):
        self.device, self.least = device, least
        self.images, self.seconds, self.started = 0, 0.0, None

    def start(self):
        """Let the clock run, at first or after something that is not to be timed."""
        hardware.synchronise(self.device)
        self.started = time.perf_counter()

    def step(self, images):
        """Count a step's images; returns whether the window is over. Waits for a GPU only then."""
        over = self.seconds + time.perf_counter() - self.started >= self.least
        if over:
            hardware.synchronise(self.device)
        now = time.perf_counter()
        self.images, self.seconds, self.started = self.images + images, self.seconds + now - self.started, now
        return over

    rate = property(lambda self: self.images / self.seconds)  # per second, so far


def alternate(pipelines, device, repeats, seconds):
    """{name: rate of each of `repeats` rounds} of {name: function that runs through a Window}, a line on stderr for each.

    A round measures each pipeline once. The first is a warm-up that is not counted; every second one goes backwards.
    """
    rates = {name: [] for name in pipelines}
    for number in range(repeats + 1):
        windows = {name: Window(device, seconds) for name in pipelines}
        for name in list(pipelines)[:: -1 if number % 2 else 1]:
            pipelines[name](windows[name])
        for name, window in windows.items() if number else ():
            rates[name].append(window.rate)
        what = f"round {number}/{repeats}" if number else "warm-up"
        errors.log(f"{what}: " + ", ".join(f"{name} {window.rate:.1f} images/s" for name, window in windows.items()))
    return rates


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


PREFETCH = 2  # batches that each worker is ahead, DataLoader's own default


def transform(aug, mean, std):
    """torchvision's transforms from a Pillow image to float32 [3, H, W] that do what a level of augment.py does."""
    flip, shift, scale, degrees, colour, erase = augment.LEVELS[aug]
    steps = []
    if flip:
        steps.append(transforms.RandomHorizontalFlip(flip))
    if degrees:
        zoom = (1 - scale, 1 + scale)
        steps.append(transforms.RandomAffine(degrees, (shift, shift), zoom, interpolation=InterpolationMode.BILINEAR))
    if colour:
        steps.append(transforms.ColorJitter(colour, colour, colour))
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    if erase:
        steps.append(transforms.RandomErasing(erase, augment.ERASED_AREA, ratio=(1 / 2, 2)))
    return transforms.Compose(steps)


@dataclass(frozen=True)
class Photos:
    """A data set for a DataLoader: item i is (image float32 [3, H, W], its row of targets) of the i-th file."""

    files: list
    targets: np.ndarray
    geometry: Geometry
    change: Callable

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image, geometry = open_rgb(self.files[index]), self.geometry
        left, top, right, bottom = (round(edge) for edge in geometry.box(*image.size))  # to whole source pixels
        size = (geometry.height, geometry.width)
        image = functional.resized_crop(image, top, left, bottom - top, right - left, size, InterpolationMode.BICUBIC)
        return self.change(image), self.targets[index]


def train(args, device):
    """Rates of a training step on a fixed batch, on our batches and on usual ones; and the time of its stages."""
    fit, files = build_fit(args, device)
    (part,) = engine.micro_batches(fit, fit.data.train_rows, 0)
    batch = engine.make_batch(fit, part, fit.data.store.gather(part.reads).to(device))

    def ours(window):
        window.start()
        while engine.train_one_epoch(fit, lambda: window.step(fit.step_size)):
            fit.epoch, fit.step = fit.epoch + 1, 0

    pipelines = {"ceiling": repeated(lambda: engine.optimizer_step(fit, [batch]), fit.step_size), "ours": ours}
    with contextlib.ExitStack() as stack:
        if args.usual:
            pipelines["usual"] = usual_pipeline(args, fit, files)
        if args.script:
            pipelines["script"] = stack.enter_context(script_pipeline(args, device))
        rates = alternate(pipelines, device, args.repeats, args.seconds)
    return rates, time_stages(fit, args.seconds)


def build_fit(args, device):
    """(engine.Fit as train.py makes it, on all training images; their files). Resolves --amp and --memory-format."""
    ranks = hardware.Ranks(0, 1, device)
    net = model.build_model(args, 0, device, try_size=True)
    data = training.load_data(args, dataset.read_tables(args), net, ranks)
    training.settle(args, data, net, ranks)
    net = model.build_model(args, 0, device)
    fit = engine.Fit(net, args, dataset.fold_data(args, data, 0), ranks)
    return fit, data.files


def repeated(step, images, before=None):
    """The pipeline that does `step()`, of so many images, again and again; `before()` each, which is not timed."""

    def run(window):
        over = False
        while not over:
            if before:
                before()
            if before or window.started is None:
                window.start()
            step()
            over = window.step(images)

    return run


def usual_pipeline(args, fit, files):
    """Steps on the batches of a DataLoader over the training images, in float32 and changed as --aug says.

    The start of its workers, and the batches that they prefetch, are not timed.
    """
    change, on_gpu = transform(args.aug, fit.mean, fit.std), fit.ranks.device.type == "cuda"
    photos = Photos(files, fit.targets.cpu().numpy(), Geometry.of(args.img_size, args.crop), change)

    def step(batches):
        images, targets = next(batches)
        images = images.to(fit.ranks.device, non_blocking=True, memory_format=fit.layout)
        engine.optimizer_step(fit, [(images, targets.to(fit.ranks.device, non_blocking=True))])

    def run(window):
        loader = DataLoader(photos, fit.step_size, shuffle=True, drop_last=True, num_workers=args.workers, pin_memory=on_gpu,
                            persistent_workers=args.workers > 0)  # fmt: skip
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        with errors.signals_blocked():  # for the workers, which end when this process does
            for _ahead in range(1 + PREFETCH * args.workers):
                step(batches)
        repeated(lambda: step(batches), fit.step_size)(window)

    return run


@contextlib.contextmanager
def script_pipeline(args, device):
    """The usual pipeline as scripts have it: in a process of its own, with the C library's malloc and contiguous images."""
    script = argparse.Namespace(**{**vars(args), "memory_format": "contiguous"})
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_start_script, initargs=(script, str(device))) as pool:

        def run(window):
            try:
                window.images, window.seconds = pool.submit(_run_script, window.least).result()
            except BrokenProcessPool as error:
                raise InputError("--script: its process ended; what it said stands above") from error

        yield run


def _start_script(args, device):
    global _script
    hardware.use_threads(args.threads)
    fit, files = build_fit(args, hardware.pick_device(device))
    _script = usual_pipeline(args, fit, files), fit.ranks.device


def _run_script(seconds):
    run, device = _script
    window = Window(device, seconds)
    run(window)
    return window.images, window.seconds


def time_stages(fit, seconds):
    """{stage: milliseconds a batch, share of their sum} of our step, medians over `seconds` and 3 batches at least."""
    device, laps = fit.ranks.device, {}
    begun = last = time.perf_counter()

    def lap(stage, made):
        nonlocal last
        hardware.synchronise(device)
        laps.setdefault(stage, []).append(1000 * (time.perf_counter() - last))
        last = time.perf_counter()
        return made

    for step in itertools.cycle(range(fit.steps)):
        (part,) = engine.micro_batches(fit, fit.data.train_rows, step)
        batch = lap("gather", fit.data.store.gather(part.reads))
        batch = lap("copy", batch.to(device, non_blocking=True))
        images, targets = lap("augment", engine.make_batch(fit, part, batch))
        loss = lap("forward", engine.compute_loss(fit, images, targets))
        lap("backward", engine.backward(fit, loss))
        lap("optimizer", engine.update(fit))
        if last - begun >= seconds and len(laps["gather"]) >= 3:
            break
    medians = {stage: statistics.median(times) for stage, times in laps.items()}
    return {stage: {"ms": ms, "share": ms / sum(medians.values())} for stage, ms in medians.items()}


def validation(args, device):
    """Rates of predicting training images with the model of a training: forward alone, and engine.predict_rows."""
    fit, _files = build_fit(args, device)
    rows = fit.data.train_rows[: args.images]
    args.images = len(rows)
    batch = fit.data.store.gather(rows[: args.batch_size]).to(device)
    net = copy.deepcopy(fit.model).eval()
    pipelines = {"ceiling": forward_alone(args, [(net, fit.mean, fit.std)], batch)}
    pipelines["ours"] = repeated(lambda: engine.predict_rows(fit, rows), len(rows))
    return alternate(pipelines, device, args.repeats, args.seconds), {}


def inference(args, device):
    """Rates of eval images through all folds: forward alone, all folds in one call, a call for each fold."""
    _folder, names, files = dataset.read_eval(args.data_dir)
    args.images = len(names[: args.images])
    images = dataset.EvalImages(Path(args.data_dir), names[: args.images], files[: args.images])
    args.amp = hardware.resolve_amp(args.amp, device)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=make_dir(args.cache_dir, "--cache-dir")) as folder:
        run = Path(folder)
        models = [make_fold(args, run, number, device) for number in range(args.folds)]
        jobs = [(run, number) for number in range(args.folds)]
        predict_folds(jobs, images, args, device)  # builds the cache
        pixels, _bad = open_cache(images.files, Geometry.of(args.img_size, args.crop), args.cache_dir)
        batch = ImageStore(pixels, device, args.cache_device).gather(np.arange(min(args.batch_size, args.images)))
        pipelines = {
            "ceiling": forward_alone(args, models, batch.to(device)),
            "ours": predict_all(args, [jobs], images, device),
            "separate": predict_all(args, [[job] for job in jobs], images, device),
        }
        return alternate(pipelines, device, args.repeats, args.seconds), {}


def make_fold(args, run, number, device):
    """A complete fold of `run` with random weights, as train.py leaves it; returns (model, mean, std)."""
    net = model.build_model(args, number, device).eval()
    args.memory_format = hardware.usual_format(net)
    net.to(memory_format=model.FORMATS[args.memory_format])
    mean, std = model.mean_std(net)
    experiment.fold_dir(run, number).mkdir()
    metadata = {name: getattr(args, name) for name in ("model", "target", "img_size", "crop")}
    metadata |= {"mean": mean, "std": std, "options": {"memory_format": args.memory_format}}
    model.save_weights(model.weights(net), metadata, experiment.fold_dir(run, number) / "best.safetensors")
    fields = {"fold": number, "best_epoch": 1, "epochs": 1, "val_f1": None, "val_acc": None}
    experiment.finish_fold(run, number, fields | {"seconds": 0, "images_per_second": 0, "peak_memory_mib": 0})
    return net, mean, std


def forward_alone(args, models, batch):
    """The forward of all models and views on one batch, normalised before."""
    (_net, mean, std), dtype = models[0], model.AMP_DTYPES[args.amp]
    images = augment.normalise(batch, mean, std).contiguous(memory_format=model.layout(models[0][0]))
    views = [augment.view(images, *view) for view in augment.TTAS[args.tta]]

    @torch.inference_mode()
    def step():
        for net, _mean, _std in models:
            with torch.autocast(batch.device.type, dtype, enabled=dtype is not None):
                for view in views:
                    net(view)

    return repeated(step, len(batch))


def predict_all(args, calls, images, device):
    """inference.predict_folds for each list of jobs in `calls`, from weights in files to probabilities in files."""

    def forget():
        for sidecar in calls[0][0][0].glob("fold*/eval*.json"):
            sidecar.unlink()

    return repeated(lambda: [predict_folds(jobs, images, args, device) for jobs in calls], len(images.names), forget)


def cache_building(args, device):
    """Rates of building a cache and of a plain Pillow loop, with the same images in the same place."""
    names = dataset.list_images(args.data_dir, dataset.read_people(args.data_dir))["image"]
    files = dataset.image_files(args.data_dir, names[: args.images])
    args.images = len(files)
    geometry = Geometry.of(args.img_size, args.crop)
    forever = itertools.cycle(files)

    def decode():
        image = open_rgb(next(forever))
        image.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC, geometry.box(*image.size))

    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=make_dir(args.cache_dir, "--cache-dir")) as folder:
        build = repeated(
            lambda: open_cache(files, geometry, f"{folder}/new", quiet=True),
            len(files),
            lambda: shutil.rmtree(f"{folder}/new", ignore_errors=True),
        )
        return alternate({"cache": build, "pillow": repeated(decode, 1)}, device, args.repeats, args.seconds), {}


FIXED = {"pretrained": False, "seed": 0, "fold_seed": 0, "kfold": 0, "scheduler": "none", "epochs": 1, "patience": 0,
         "quiet": True}  # fmt: skip
MEASUREMENTS = {"train": train, "validation": validation, "inference": inference, "cache": cache_building}
# Which rates are divided by which.
FRACTIONS = {"train": (("ours", "ceiling"), ("ours", "usual"), ("ours", "script")), "validation": (("ours", "ceiling"),),
             "inference": (("ours", "ceiling"), ("ours", "separate")), "cache": (("cache", "pillow"),)}  # fmt: skip


def parse_args(argv):
    parser = errors.Parser("Measure how close training comes to the ceiling, and how far it is ahead of the usual pipeline.")
    group = parser.add_argument_group("measurement")
    add = group.add_argument
    add("--what", choices=FRACTIONS, default="train", help="what is measured")
    add("--repeats", type=errors.positive_int, default=5, metavar="N", help="rounds that count")
    add("--seconds", type=errors.positive_float, default=10.0, metavar="S", help="of each measurement, at least")
    add("--usual", action=argparse.BooleanOptionalAction, default=True, help="measure the usual pipeline too")
    add("--script", action="store_true", help="measure it as a script of its own, too")
    add("--workers", type=errors.natural_int, default=joblib.cpu_count(), metavar="N",
        help="processes of the usual pipeline's DataLoader")  # fmt: skip
    add("--images", type=errors.positive_int, default=2000, metavar="N",
        help="all but --what train: images that are predicted, or of each cache")  # fmt: skip
    add("--folds", type=errors.positive_int, default=5, metavar="K", help="--what inference: models")
    options.add_tta(group)
    add("--out", default="benchmark.json", metavar="FILE", help="everything that was measured, as json")
    options.add_data(parser)
    add = options.add_model(parser, "resnet18", "medium").add_argument
    add("--target", choices=TARGETS, default="label", help="what the model predicts")
    add("--loss", default="ce", help="as in train.py")
    add("--optimizer", default="AdamW", metavar="NAME", help="any timm optimizer, in any case")
    options.add_step(options.add_compute(parser, batch_size=64))
    args = argparse.Namespace(**vars(options.make_parser().parse_args([])) | FIXED | vars(parser.parse_args(argv)))
    args.loss = args.loss.replace(" ", "")
    loss.parse_loss(args.loss)
    args.model = model.current_name(args.model, tell=True)
    args.optimizer = loss.optimizer_name(args.optimizer)
    args.img_size = options.pair(parser, "--img-size", args.img_size or model.native_size(args.model))
    args.crop = options.pair(parser, "--crop", args.crop) if args.crop else None
    if not Path(args.out).parent.is_dir():
        parser.error(f"--out {args.out}: there is no folder {Path(args.out).parent}")
    args.data_dir = str(options.data_dir(args))
    return args


def summary(args, device, rates, stages):
    """All that was measured, where and how, as a JSON-able dict."""
    fractions = {}
    for part, whole in FRACTIONS[args.what]:
        if whole in rates:
            fractions[f"{part}/{whole}"] = spread([a / b for a, b in zip(rates[part], rates[whole])])
    environment = experiment.environment(hardware.describe(device))
    names = re.findall(r"model name\s*: (.*)", info.read_text() if (info := Path("/proc/cpuinfo")).exists() else "")
    environment |= {"cpu": (names or [platform.machine()])[0], "cpus": os.cpu_count(), "threads": args.threads}
    rates = {name: spread(values) for name, values in rates.items()}
    return {"options": vars(args), "environment": environment, "rates": rates, "fractions": fractions, "stages": stages}


def show(result):
    """Print the result as tables."""
    args, environment = result["options"], result["environment"]
    size = " x ".join(map(str, args["img_size"]))
    about = {
        "train": f"aug {args['aug']}, {args['loss']}, {args['optimizer']}{', compiled' if args['compile'] else ''}",
        "inference": f"{args['folds']} models, {args['images']} images, tta {args['tta']}",
    }.get(args["what"], f"{args['images']} images")
    print(f"{args['what']}: {args['model']} at {size}, batch {args['batch_size']}, {about}")
    print(f"amp {args['amp']}, {args['memory_format']}")
    print(f"{environment['device']} ({environment['cpu']}), torch {environment['packages']['torch']}")
    print(f"{args['repeats']} rounds of {args['seconds']:g} s each")
    for title, rows, digits in (("images/s", result["rates"], 1), ("fraction", result["fractions"], 3)):
        print(f"\n{title:<18}{'median':>10}{'min':>10}{'max':>10}")
        for name, values in rows.items():
            numbers = "".join(f"{values[key]:>10.{digits}f}" for key in ("median", "min", "max"))
            print(f"{name.replace('/', ' / '):<18}{numbers}")
    if result["stages"]:
        print(f"\n{'stage':<18}{'ms/batch':>10}{'share':>10}")
        for name, stage in result["stages"].items():
            print(f"{name:<18}{stage['ms']:>10.2f}{stage['share']:>10.1%}")


def main(argv=None):
    errors.StopSignals()  # a signal ends the measurement, and temporary folders go
    args = parse_args(argv)
    hardware.tune_malloc()
    device = hardware.pick_device(args.device)
    args.threads = hardware.use_threads(args.threads)
    result = summary(args, device, *MEASUREMENTS[args.what](args, device))
    files.write_json(args.out, result)
    show(result)
    print(f"\n{args.out}: all rounds, options and environment")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
