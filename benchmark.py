"""Measure how close training comes to the ceiling, and how far it is ahead of the usual pipeline, on this machine.

    python benchmark.py --model resnet18 --img-size 128

--what train (weights are random, the training images those of --data-dir):
  ceiling  forward, loss, backward and optimizer step on one fixed batch that lies on the device
  ours     the epochs of train.py: its loader, augmentation and step, without validation and checkpoints
  usual    the same step on batches of a torch DataLoader with workers that decode by Pillow and change by torchvision
  script   with --script: usual as a script has it, in a process of its own, with the C library's malloc and contiguous images
All train the same model by the same optimizer in the same precision, the first three in one process with one malloc and
memory format.

--what validation: predictions of --images training images between two epochs of train.py, against the forward of its model
on one fixed batch.

--what inference: the eval images by --folds models and --tta, as inference.py predicts them, against the forward of the same
models on one fixed batch, and against a call for each single fold. A round predicts all eval images at least once.

--what cache: building the image cache in a fresh folder, against a loop in one process that decodes by Pillow in full
size, crops and resizes as the cache does, and keeps nothing.

A round measures each of them once, for --seconds at least; the first round is a warm-up and not counted. Every second
round goes backwards, and fractions are taken within a round, so that a machine that drifts hits all alike. Not timed:
the start of the DataLoader's workers, and the first batches until they are as far ahead as they get. Work on a GPU is
waited for at the two ends of a measurement alone. The stages are timed after that, one after the other and each waited
for, so their sum is more than a step takes where they overlap. Prints a table and writes all of it to --out.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import argparse
import os
import platform
import sys
from pathlib import Path

import augment
import demo
import distributed
import engine
import experiment
import files
import loss
import model
import optim
import options
import throughput
import timing
import train_options
from dataset import TARGETS

# Options of train.py that are not offered here and have other values than its defaults.
FIXED = {
    "pretrained": False,
    "seed": 0,
    "fold_seed": 0,
    "kfold": 0,
    "scheduler": "none",
    "epochs": 1,
    "patience": 0,
    "quiet": True,
}
MEASUREMENTS = {
    "train": throughput.train,
    "validation": throughput.validation,
    "inference": throughput.inference,
    "cache": throughput.cache_building,
}
# Which rates are divided by which.
FRACTIONS = {
    "train": (("ours", "ceiling"), ("ours", "usual"), ("ours", "script")),
    "validation": (("ours", "ceiling"),),
    "inference": (("ours", "ceiling"), ("ours", "separate")),
    "cache": (("cache", "pillow"),),
}


def parse_args(argv):
    parser = options.Parser("Measure how close training comes to the ceiling, and how far it is ahead of the usual pipeline.")
    group = parser.add_argument_group("measurement")
    group.add_argument("--what", choices=FRACTIONS, default="train", help="what is measured")
    group.add_argument("--repeats", type=options.positive_int, default=5, metavar="N", help="rounds that count")
    group.add_argument(
        "--seconds", type=options.positive_float, default=10.0, metavar="S", help="of each measurement, at least"
    )
    group.add_argument("--usual", action=argparse.BooleanOptionalAction, default=True, help="measure the usual pipeline too")
    group.add_argument("--script", action="store_true", help="measure it as a script of its own, too")
    group.add_argument("--workers", type=options.natural_int, default=files.usable_cores(), metavar="N",
                       help="processes of the usual pipeline's DataLoader")  # fmt: skip
    group.add_argument("--images", type=options.positive_int, default=2000, metavar="N",
                       help="all but --what train: images that are predicted, or of each cache")  # fmt: skip
    group.add_argument("--folds", type=options.positive_int, default=5, metavar="K", help="--what inference: models")
    options.add_tta(group)
    group.add_argument("--malloc", choices=("keep", "default"), default="keep",
                       help="freed memory stays with the process, as in train.py, or goes the C library's way")  # fmt: skip
    group.add_argument("--out", default="benchmark.json", metavar="FILE", help="everything that was measured, as json")
    options.add_data(parser)
    group = options.add_model(parser, "resnet18", augment.AUGS, "medium")
    group.add_argument("--target", choices=TARGETS, default="label", help="what the model predicts")
    group.add_argument("--loss", default="ce", help="as in train.py")
    group.add_argument("--optimizer", default="AdamW", metavar="NAME", help="any timm optimizer, in any case")
    group = options.add_compute(parser, batch_size=64)
    options.add_step(group, model.FORMATS)
    args = argparse.Namespace(**vars(train_options.make_parser().parse_args([])) | FIXED)
    args, given = argparse.Namespace(**vars(args) | vars(parser.parse_args(argv))), parser.given(argv)
    args.loss = args.loss.replace(" ", "")
    loss.parse_loss(args.loss)
    args.model = model.told_name(args.model)
    args.optimizer = optim.optimizer_name(args.optimizer)
    args.img_size = options.pair(parser, "--img-size", args.img_size or model.native_size(args.model))
    args.crop = options.pair(parser, "--crop", args.crop) if args.crop else None
    if not Path(args.out).parent.is_dir():
        parser.error(f"--out {args.out}: there is no folder {Path(args.out).parent}")
    args.data_dir = str(demo.locate(args.data_dir)[0])
    belongs = {"images": ("validation", "inference", "cache"), "folds": ("inference",), "tta": ("inference",)}
    belongs |= dict.fromkeys(("usual", "script", "workers", "aug", "loss", "optimizer", "compile"), ("train",))
    belongs["memory_format"] = ("train", "validation")
    rules = [(name, args.what in whats, f"--what {' or '.join(whats)}", False) for name, whats in belongs.items()]
    options.check_idle(parser, args, given, rules)
    return args


def cpu_name():
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def summary(args, device, rates, stages):
    """All that was measured, where and how, as a JSON-able dict."""
    fractions = {}
    for part, whole in FRACTIONS[args.what]:
        if whole in rates:
            fractions[f"{part}/{whole}"] = timing.spread([a / b for a, b in zip(rates[part], rates[whole])])
    environment = experiment.environment(distributed.describe(device))
    environment |= {"cpu": cpu_name(), "cpus": os.cpu_count(), "threads": args.threads}
    rates = {name: timing.spread(values) for name, values in rates.items()}
    return {"options": vars(args), "environment": environment, "rates": rates, "fractions": fractions, "stages": stages}


def show(result):
    """The result as tables."""
    args, environment = result["options"], result["environment"]
    size = " x ".join(map(str, args["img_size"]))
    if args["what"] == "train":
        print(f"{args['model']} at {size}, batch {args['batch_size']}, aug {args['aug']}, {args['loss']}, {args['optimizer']}")
        print(f"amp {args['amp']}, {args['memory_format']}, malloc {args['malloc']}{', compiled' if args['compile'] else ''}")
    elif args["what"] == "validation":
        print(f"{args['model']} at {size}, {args['images']} images, batch {args['batch_size']}")
        print(f"amp {args['amp']}, {args['memory_format']}, malloc {args['malloc']}")
    elif args["what"] == "inference":
        print(f"{args['folds']} models {args['model']} at {size}, {args['images']} images, batch {args['batch_size']}, "
              f"tta {args['tta']}, amp {args['amp']}")  # fmt: skip
    else:
        print(f"caches of {args['images']} images at {size}")
    print(f"{environment['device']} ({environment['cpu']}), torch {environment['packages']['torch']}")
    print(f"{args['repeats']} rounds of {args['seconds']:g} s each")
    print(f"\n{'images/s':<18}{'median':>10}{'min':>10}{'max':>10}")
    for name, values in result["rates"].items():
        print(f"{name:<18}{values['median']:>10.1f}{values['min']:>10.1f}{values['max']:>10.1f}")
    print(f"\n{'fraction':<18}{'median':>10}{'min':>10}{'max':>10}")
    for name, values in result["fractions"].items():
        print(f"{name.replace('/', ' / '):<18}{values['median']:>10.3f}{values['min']:>10.3f}{values['max']:>10.3f}")
    if result["stages"]:
        print(f"\n{'stage':<18}{'ms/batch':>10}{'share':>10}")
        for name, stage in result["stages"].items():
            print(f"{name:<18}{stage['ms']:>10.2f}{stage['share']:>10.1%}")
        print(f"{'sum':<18}{sum(stage['ms'] for stage in result['stages'].values()):>10.2f}")


def main(argv=None):
    errors.StopSignals()  # a signal ends the measurement, and temporary folders go
    args = parse_args(argv)
    if args.malloc == "keep":
        engine.keep_freed_memory()
    device = distributed.pick_device(args.device)
    args.threads = engine.use_threads(args.threads)
    result = summary(args, device, *MEASUREMENTS[args.what](args, device))
    files.write_json(args.out, result)
    show(result)
    print(f"\n{args.out}: all rounds, options and environment")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
