"""What benchmark.py measures: training, inference and cache building, each with what it is compared against.

A measurement is a function of the script's options and a device that returns (rates, stages) as timing.alternate and
time_stages give them; a pipeline is a function that runs through a timing.Window. Options that are resolved on the way
(precision, memory format, number of images) are written back into `args`.
"""

import argparse
import contextlib
import copy
import itertools
import multiprocessing
import signal
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import augment
import dataset
import distributed
import engine
import errors
import experiment
import fold
import images
import model
import precision
import timing
import training_data
import usual
from errors import InputError
from files import make_dir
from images import Geometry, ImageStore, open_cache, open_rgb
from inference import predict_folds

# ---- training ------------------------------------------------------------------------------------------------------


def train(args, device):
    """Rates of a training step on a fixed batch, on our batches and on usual ones; and the time of its stages."""
    fit, files = build_fit(args, device)
    pipelines = {"ceiling": ceiling(fit), "ours": ours(fit)}
    with contextlib.ExitStack() as stack:
        if args.usual:
            pipelines["usual"] = usual_pipeline(fit, usual_loader(args, fit, files))
        if args.script:
            pipelines["script"] = stack.enter_context(script_pipeline(args, device))
        rates = timing.alternate(pipelines, device, args.repeats, args.seconds)
    return rates, time_stages(fit, args.seconds)


def build_fit(args, device):
    """(fits.Fit as train.py makes it, on all training images; their files). Resolves --amp and --memory-format."""
    net = model.build_model(args, 0, device, try_size=True)
    data = training_data.load_data(args, device)
    ranks = distributed.Ranks(0, 1, device)
    fold.check(args, data, net, ranks)
    about = (args.model, args.img_size, args.batch_size, device, args.cache_dir, args.amp, args.memory_format)
    args.amp, args.memory_format = precision.choose(net, *about)
    net = model.build_model(args, 0, device)
    fit = engine.Fit(net, fold.recipe(args), dataset.fold_data(args, data, 0, *model.mean_std(net)), ranks)
    return fit, dataset.image_files(args.data_dir, data.images["image"])


def fixed_batch(fit):
    """(images, targets) of the first rows, as a step of train.py gets them."""
    (part,) = engine.micro_batches(fit, fit.data.train_rows, 0)
    return engine.make_batch(fit, part, fit.data.store.gather(part.reads).to(fit.ranks.device))


def ceiling(fit):
    """The pipeline without any input: a function of a timing.Window, as are those below."""
    part = fixed_batch(fit)
    return repeated(lambda: engine.learn(fit, [part]), fit.step_size)


def repeated(step, images):
    """The pipeline that does `step()`, of so many images, again and again."""

    def run(window):
        window.start()
        step()
        while not window.step(images):
            step()

    return run


def ours(fit):
    """Epochs of train.py."""

    def run(window):
        window.start()
        while engine.train_one_epoch(fit, lambda: window.step(fit.step_size)):
            fit.epoch, fit.step = fit.epoch + 1, 0

    return run


def usual_loader(args, fit, files):
    """The usual.Loader of the training images, in float32 and changed as --aug says."""
    change = usual.transform(args.aug, fit.data.mean, fit.data.std)
    photos = usual.Photos(files, fit.targets.cpu().numpy(), Geometry.of(args.img_size, args.crop), change)
    return usual.Loader(photos, fit.step_size, args.workers, pin_memory=fit.ranks.device.type == "cuda")


def usual_pipeline(fit, loader):
    """Steps on the batches of a usual.Loader."""

    def step(batches):
        images, targets = next(batches)
        images = images.to(fit.ranks.device, non_blocking=True, memory_format=fit.layout)
        engine.learn(fit, [(images, targets.to(fit.ranks.device, non_blocking=True))])

    def run(window):
        with loader.running() as batches:
            for _ahead in range(loader.ahead):
                step(batches)
            window.start()
            while True:
                step(batches)
                if window.step(fit.step_size):
                    return

    return run


@contextlib.contextmanager
def script_pipeline(args, device):
    """The usual pipeline as scripts have it: in a process of its own, with the C library's malloc and contiguous images."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    script = argparse.Namespace(**{**vars(args), "memory_format": "contiguous"})
    process = context.Process(target=_script, args=(theirs, script, device))

    def answer():
        try:
            return ours.recv()
        except EOFError:
            process.join()
            raise InputError(f"--script: its process ended (exit code {process.exitcode})") from None

    def run(window):
        ours.send(window.least)
        window.images, window.seconds = answer()

    with errors.signals_blocked():
        process.start()
    theirs.close()
    try:
        answer()  # that it is ready
        yield run
        ours.send(None)
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()


def _script(connection, args, device):
    """In that process: a window of each number of seconds that comes, until None does."""
    errors.on_parents_death(signal.SIGKILL)()
    engine.use_threads(args.threads)
    fit, files = build_fit(args, distributed.pick_device(str(device)))
    run = usual_pipeline(fit, usual_loader(args, fit, files))
    connection.send("ready")
    for seconds in iter(connection.recv, None):
        window = timing.Window(device, seconds)
        run(window)
        connection.send((window.images, window.seconds))


def time_stages(fit, seconds):
    """{stage: milliseconds a batch, share of their sum} of our step, medians over `seconds` and 3 batches at least."""
    store, device, laps = fit.data.store, fit.ranks.device, {}
    steps = itertools.cycle(range(fit.steps))
    begun = last = time.perf_counter()

    def lap(stage):
        nonlocal last
        timing.synchronise(device)
        now = time.perf_counter()
        laps.setdefault(stage, []).append(1000 * (now - last))
        last = time.perf_counter()

    for step in steps:
        (part,) = engine.micro_batches(fit, fit.data.train_rows, step)
        batch = store.gather(part.reads)
        lap("gather")
        batch = batch.to(device, non_blocking=True)
        lap("copy")
        images, targets = engine.make_batch(fit, part, batch)
        lap("augment")
        part_loss = engine.part_loss(fit, images, targets)
        lap("forward")
        engine.backward(fit, part_loss)
        lap("backward")
        engine.update(fit)
        lap("optimizer")
        if last - begun >= seconds and len(laps["gather"]) >= 3:
            break
    medians = {stage: statistics.median(times) for stage, times in laps.items()}
    return {stage: {"ms": ms, "share": ms / sum(medians.values())} for stage, ms in medians.items()}


# ---- validation ----------------------------------------------------------------------------------------------------


def validation(args, device):
    """Rates of predicting training images with the model of a training: forward alone, and engine.predict_rows."""
    fit, _files = build_fit(args, device)
    rows = fit.data.train_rows[: args.images]
    args.images = len(rows)
    batch = fit.data.store.gather(rows[: args.batch_size]).to(device)
    net = copy.deepcopy(fit.model).eval()
    pipelines = {"ceiling": forward_alone(args, [(net, fit.data.mean, fit.data.std)], batch)}
    pipelines["ours"] = repeated(lambda: engine.predict_rows(fit, rows), len(rows))
    return timing.alternate(pipelines, device, args.repeats, args.seconds), {}


# ---- inference -----------------------------------------------------------------------------------------------------


def inference(args, device):
    """Rates of eval images through all folds: forward alone, all folds in one call, a call for each fold."""
    names, files = dataset.read_eval(args.data_dir)
    args.images = len(names[: args.images])
    images = dataset.EvalImages(Path(args.data_dir), names[: args.images], files[: args.images])
    args.amp = model.resolve_amp(args.amp, device)
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
        return timing.alternate(pipelines, device, args.repeats, args.seconds), {}


def make_fold(args, run, number, device):
    """A complete fold of `run` with random weights, as train.py leaves it; returns (model, mean, std)."""
    net = model.build_model(args, number, device).eval()
    args.memory_format = model.usual_format(net)
    options = {"memory_format": args.memory_format}
    net.to(memory_format=model.FORMATS[args.memory_format])
    mean, std = model.mean_std(net)
    experiment.fold_dir(run, number).mkdir()
    facts = {"model": args.model, "target": args.target, "img_size": args.img_size, "crop": args.crop, "mean": mean, "std": std}
    facts["options"] = options
    model.save_weights(model.weights(net), facts, experiment.fold_dir(run, number) / "best.safetensors")
    experiment.finish_fold(run, number, {})
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
    """evaluation.predict_folds for each list of jobs in `calls`, from weights in files to probabilities in files."""

    def run(window):
        over = False
        while not over:
            for sidecar in calls[0][0][0].glob("fold*/eval*.json"):
                sidecar.unlink()
            window.start()
            for jobs in calls:
                predict_folds(jobs, images, args, device)
            over = window.step(len(images.names))

    return run


# ---- the image cache -----------------------------------------------------------------------------------------------


def cache_building(args, device):
    """Rates of building a cache and of a plain Pillow loop, with the same images in the same place."""
    people = dataset.read_people(args.data_dir)
    files = dataset.image_files(args.data_dir, dataset.list_images(args.data_dir, people)["image"][: args.images])
    args.images = len(files)
    geometry = Geometry.of(args.img_size, args.crop)
    pipelines = {
        "cache": build_caches(files, geometry, make_dir(args.cache_dir, "--cache-dir")),
        "pillow": pillow_loop(files, geometry),
    }
    return timing.alternate(pipelines, device, args.repeats, args.seconds), {}


def build_caches(files, geometry, cache_dir):
    """Caches of all files in new folders, one after the other; their removal is not timed."""

    def run(window):
        over = False
        while not over:
            try:
                place = tempfile.TemporaryDirectory(prefix="benchmark-", dir=cache_dir)
            except OSError as error:
                raise InputError(f"--cache-dir {cache_dir}: cannot be written ({error.strerror})") from error
            with place as folder:
                window.start()
                images.open_cache(files, geometry, folder, quiet=True)
                over = window.step(len(files))

    return run


def pillow_loop(files, geometry):
    """File after file, beginning anew after the last."""
    forever = itertools.cycle(files)

    def step():
        image = open_rgb(next(forever))
        image.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC, geometry.box(*image.size))

    return repeated(step, 1)
