"""Command-line options, each declared once, what follows from them, and those of a run that goes on.

As a program it reads command lines of train.py as JSON and writes their `refusals`, for a script without torch.
"""

import argparse
import json
import math
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import yaml

import demo
import errors
import experiment
import loss
import model
from dataset import FIRST_AGE, LAST_AGE, OFFICIAL_BOUNDS, TARGETS
from errors import InputError, Parser, did_you_mean, natural_int, number, positive_float, positive_int, whole_int

AUGS = ("none", "light", "medium", "strong")  # those of augment.py, as the next two
MIXES = ("none", "mixup", "cutmix", "halves")
TTAS = ("none", "hflip", "shift", "hflip+shift")
SAMPLERS = ("shuffle", "balanced", "sqrt", "person")  # those of engine.py
# One process, as a hardware.Ranks.
ALONE = SimpleNamespace(world=1, first=True, broadcast=lambda value: value, local_rank0_first=nullcontext, on=lambda name: None)
# What the demo set changes in the defaults: a small model from scratch, fit for 2 CPU cores and 3 minutes.
DEMO_DEFAULTS = {"model": "test_resnet", "img_size": [64, 48], "pretrained": False, "lr": 3e-3, "lr_step": 3, "epochs": 10,
                 "patience": 0, "amp": "off", "memory_format": "channels_last"}  # fmt: skip
# What each of several processes has of its own: boxes may keep things in other places.
PLACES = {"data_dir", "cache_dir", "cache_device", "device"}
# What --config leaves behind in a run's own args.yaml, beside what followed from other options.
OF_ONE_RUN = {"name", "note", "quiet"}
UNSET, BOOLEANS = ([], "", "~", "null"), yaml.SafeLoader.bool_values  # in a file
# What may be given beside --resume: where things are and how far to train, never how.
RESUME_MAY_CHANGE = PLACES | {"resume", "epochs", "keep_state", "fold", "save_minutes", "quiet", "parallel_folds", "weights"}

natural_float = number(float, lambda value: 0 <= value < math.inf, "not a number from 0 on")
fraction = number(float, lambda value: 0 <= value < 1, "not a number from 0 to below 1")
share = number(float, lambda value: 0 < value <= 1, "not a number above 0 and up to 1")
confidence = number(float, lambda value: 0 <= value <= 1, "not a number from 0 to 1")


def add_data(parser):
    """--data-dir, --cache-dir, --cache-device"""
    add = parser.add_argument_group("data").add_argument
    add("--data-dir", metavar="DIR", help="the competition's folder; without it data/, /opt/ml/input/data or the demo set")
    add("--cache-dir", default="cache", metavar="DIR", help="where decoded images are kept for all runs")
    add("--cache-device", choices=("auto", "device", "host"), default="auto", help="where batches are read from")


def data_dir(args):
    """The data folder of --data-dir; where none is given or found the demo set is drawn."""
    return demo.locate(args.data_dir)[0]


def add_model(parser, model, aug):
    """--model, --img-size, --crop, --aug"""
    group = parser.add_argument_group("model and images")
    add = group.add_argument
    add("--model", default=model, metavar="NAME", help="any timm model")
    add("--img-size", type=positive_int, nargs="+", metavar="N", help="N, or height and width; without it the model's own")
    add("--crop", type=positive_int, nargs="+", metavar="N", help="centre crop in source pixels before the resize: N, or H W")
    add("--aug", choices=AUGS, default=aug, help="random augmentation of the training images")
    return group


def add_compute(parser, batch_size):
    """--device, --amp, --batch-size"""
    group = parser.add_argument_group("compute")
    add = group.add_argument
    add("--device", help="cpu, cuda, cuda:1, ...; without it a GPU if there is one")
    add("--amp", choices=("auto", "off", "bf16", "fp16"), default="auto", help="mixed precision")
    add("--batch-size", type=positive_int, default=batch_size, metavar="N", help="images a batch")
    return group


def add_step(group):
    """--threads, --memory-format, --compile of a training step"""
    add = group.add_argument
    add("--threads", type=positive_int, metavar="N", help="CPU threads; recorded, as other numbers round otherwise")
    add("--memory-format", choices=("auto", *model.FORMATS), default="auto", help="of images and kernels; auto: by the model")
    add("--compile", action="store_true", help="torch.compile the training forward: a slow start, faster steps on a GPU")
    add("--grad-checkpointing", action="store_true", help="less memory for slower steps, of the models for which timm has it")


def add_tta(parser):
    """--tta"""
    parser.add_argument("--tta", choices=TTAS, default="none", help="views that are averaged for each image")


def add_folds(parser, numbers):
    """--folds; `numbers`: whether single folds may be named too (then see chosen_folds)"""
    meaning = "folds whose predictions are averaged; best: the one with the highest validation F1"
    if numbers:
        parser.add_argument("--folds", nargs="+", type=fold_choice, default=["all"], metavar="all|best|I", help=meaning)
    else:
        parser.add_argument("--folds", choices=("all", "best"), default="all", help=meaning)


def chosen_folds(parser, values):
    """'all', 'best' or a list of fold numbers, from the values of --folds."""
    if values in (["all"], ["best"]):
        return values[0]
    if any(isinstance(value, str) for value in values):
        parser.error(f"--folds {' '.join(map(str, values))}: takes all, best, or fold numbers")
    return sorted(set(values))


def pair(parser, option, values):
    """[height, width] of one or two numbers."""
    if len(values) > 2:
        parser.error(f"{option} {' '.join(map(str, values))}: takes one number, or height and width")
    return [values[0], values[-1]]


def check_bounds(parser, bounds):
    """Refuse --age-bounds that do not cut the single ages of the age head into three groups."""
    low, high = bounds
    if not FIRST_AGE < low < high <= LAST_AGE:
        parser.error(f"--age-bounds {low} {high}: must be LO HI with {FIRST_AGE} < LO < HI <= {LAST_AGE}")


def as_typed(values):
    """Options as one would type them: --model NAME --img-size 64 48 --no-pretrained."""
    words = []
    for name, value in values.items():
        option = ("no-" if value is False else "") + name.replace("_", "-")
        shown = [] if isinstance(value, bool) else value if isinstance(value, list) else [value]
        words += [f"--{option}", *map(str, shown)]
    return " ".join(words)


def in_lines(values):
    """Options as typed, in indented lines of the console's width."""
    return textwrap.fill(as_typed(values), errors.WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def fold_choice(text):
    """argparse type: 'all', 'best' or a fold number."""
    return text if text in ("all", "best") else natural_int(text)


def make_parser():
    """The parser of train.py."""
    parser = Parser("Train one experiment: K folds (or everyone), one run folder.")
    add_data(parser)
    add = parser.add_argument_group("experiment").add_argument
    add("--target", choices=TARGETS, default="label", help="what the run predicts")
    add("--kfold", type=natural_int, default=5, metavar="K", help="folds; 0: nofold, all people train")
    add("--fold", type=whole_int, nargs="+", metavar="I", help="train only these folds; others later, by --resume")
    add("--seed", type=natural_int, default=42, help="of folds, order, augmentation and initial weights")
    add("--fold-seed", type=natural_int, metavar="N", help="of the folds alone, to compare seeds on the same ones; else --seed")
    add("--name", help="run folder; without it the next NN-Optimizer-Scheduler-LOSS-vM-target_5fold")
    add("--note", metavar="TEXT", help="why this is tried; leaderboard.py shows it, and its --note replaces it")
    add("--output-dir", default="runs", metavar="DIR", help="where run folders are made")
    add("--config", metavar="FILE.yaml",
        help="options from a file, such as args.yaml of a run that is to be repeated; those typed beside it win")  # fmt: skip
    add("--resume", metavar="RUN", help="continue a stopped run with its own options; with more --epochs also a complete one")
    add("--dry-run", action="store_true",
        help="read and check everything, time a step, print what the run needs, and write nothing")  # fmt: skip
    add("--save-minutes", type=positive_float, default=5.0, metavar="M", help="minutes between checkpoints")
    add("--keep-state", action="store_true",
        help="complete folds keep their last.pt (large), so that --resume with more --epochs can train them on")  # fmt: skip
    add("--quiet", action="store_true", help="no progress bars")

    add = parser.add_argument_group("people and labels").add_argument
    add("--age-bounds", type=whole_int, nargs=2, default=list(OFFICIAL_BOUNDS), metavar=("LO", "HI"),
        help="age groups of the training labels; scores always use the official ones")  # fmt: skip
    add("--drop-ages", type=natural_int, nargs="+", default=[], metavar="A",
        help="people of these ages leave training, not validation")  # fmt: skip
    add("--label-fixes", metavar="FILE", help="csv path,column,value[,confidence] (see label_fixes.csv)")
    add("--fix-confidence", type=confidence, default=0.9, metavar="P", help="fixes below this are left out")
    add("--same-people", metavar="FILE", help="csv id,same_as of eda.py: ids that are one person, who stays in one fold")
    add("--limit-people", type=positive_int, metavar="N", help="quick look: only N people, stratified")
    add("--skip-bad-images", action="store_true", help="leave unreadable images out, and list them")

    add = add_model(parser, "pit_b_224", "light").add_argument
    add("--face-crop", type=natural_float, metavar="MARGIN",
        help="crop the face, its box enlarged on every side by this share, such as 0.4 (see crops.png)")  # fmt: skip
    add("--pretrained", action=argparse.BooleanOptionalAction, default=True, help="start from timm's weights")
    add("--weights", metavar="FILE", help="start from a local backbone file (.safetensors, .pth)")
    add("--dropout", type=fraction, metavar="P", help="dropout before the classifier; without it the model's own")
    add("--drop-path", type=fraction, metavar="P", help="stochastic depth: drop rate of the last block; else the model's own")

    add = parser.add_argument_group("sampling and mixing").add_argument
    add("--sampler", choices=SAMPLERS, default="shuffle",
        help="shuffle: every image once per epoch; balanced: classes equally often; sqrt: by square root of class size; "
             "person: one image per person (each eval image of --pseudo counts as one)")  # fmt: skip
    add("--mix", choices=MIXES, default="none", help="mix pairs of images; halves: left and right half of two faces")
    add("--mix-prob", type=confidence, default=0.5, metavar="P", help="share of images that are mixed")
    add("--mix-alpha", type=positive_float, default=1.0, metavar="A", help="mixup and cutmix: shares follow Beta(A, A)")
    add("--mix-rare", action="store_true", help="draw the other image from all classes equally often")
    add("--pseudo", metavar="RUN",
        help="eval images train too, by what this run (of an ensemble: the mean of its members) predicts for them")  # fmt: skip
    add("--pseudo-min-confidence", type=confidence, default=0.9, metavar="P", help="only those predicted as surely as this")

    add = parser.add_argument_group("loss").add_argument
    add("--loss", default="ce", help=f"{', '.join(loss.LOSS_CODES)}, and sums such as ce+f1 or 0.6*focal+0.4*f1")
    add("--smoothing", type=fraction, default=0.025, metavar="S", help="of label_smoothing")
    add("--gamma", "--focal-gamma", type=natural_float, default=2.0, metavar="G", help="of focal")
    add("--class-weights", choices=("none", "balanced", "effective"), default="none",
        help="balanced: inverse class frequency; effective: by the effective number of images")  # fmt: skip
    add("--age-sigma", type=positive_float, default=2.0, metavar="YEARS", help="width of label distributions of single years")
    add("--aux-age", type=natural_float, default=0.0, metavar="WEIGHT",
        help="of an auxiliary head over single years, whose age groups are averaged in; 0: none")  # fmt: skip
    add("--top-age-spread", type=positive_float, metavar="YEARS",
        help="spread a recorded 60 over so many years from there on; else 0, of --aux-age 10 if none is older")  # fmt: skip

    add = parser.add_argument_group("optimizer and schedule").add_argument
    add("--optimizer", default="AdamW", metavar="NAME", help="any timm optimizer, in any case")
    add("--lr", type=positive_float, default=1e-4, metavar="LR", help="learning rate")
    add("--weight-decay", type=natural_float, default=0.01, metavar="W", help="of all but biases and norms")
    add("--scheduler", default="StepLR", metavar="NAME", help=", ".join(loss.SCHEDULERS))
    add("--lr-step", type=positive_int, default=2, metavar="EPOCHS",
        help="StepLR: between drops; CAWR: length of a cycle; Plateau: patience for a better F1")  # fmt: skip
    add("--lr-gamma", type=positive_float, default=0.5, metavar="G", help="factor of a StepLR or Plateau drop")
    add("--min-lr", type=natural_float, default=0.0, metavar="LR", help="the lowest learning rate of Cosine and CAWR")
    add("--warmup-epochs", type=natural_int, default=0, metavar="N", help="linear warm-up")
    add("--epochs", type=positive_int, default=10, metavar="N",
        help="epochs of a fold, at most; with --resume another number trains a run on or ends it sooner")  # fmt: skip
    add("--patience", type=natural_int, default=3, metavar="N",
        help="early stopping after so many epochs without a better F1; 0: never")  # fmt: skip
    add("--accum", "--grad-accum-steps", type=positive_int, default=1, metavar="N",
        help="gradient accumulation: batches per step")  # fmt: skip
    add("--auto-batch", action="store_true",
        help="halve --batch-size and double --accum until a step fits in the device's memory")  # fmt: skip
    add("--clip-grad", type=natural_float, default=0.0, metavar="NORM", help="gradient clipping; 0: off")
    add("--ema", type=fraction, default=0.0, metavar="DECAY",
        help="moving average of the weights; its decay grows up to this one: 0.99 after 1,000 steps; 0: none")  # fmt: skip
    add("--average-last", type=natural_int, default=0, metavar="N", help="keep the mean of the weights after the last N epochs")
    add("--freeze-epochs", type=natural_int, default=0, metavar="N", help="the first N epochs train the head alone")
    add("--layer-decay", type=share, default=1.0, metavar="D", help="learning rate of a block as a share of the next one's")
    add("--finish-on-all", type=natural_int, default=0, metavar="N",
        help="then the last N epochs up to the best one again on everyone; their weights predict the eval images")  # fmt: skip

    group = add_compute(parser, batch_size=64)
    add = group.add_argument
    add_step(group)
    add("--parallel-folds", type=positive_int, default=1, metavar="N", help="folds that train at once, sharing the threads")
    return parser


def parse_args(argv, ranks=ALONE, draw=True):
    """Options, resolved and checked as far as no data is needed; with --resume those of the run. draw: the demo set."""
    parser = make_parser()
    given = parser.given(argv)
    args = parser.parse_args(argv)
    if args.resume is not None:
        return resumed_args(parser, args, given, ranks)
    from_file = {} if args.config is None else ranks.broadcast(read_config(parser, args.config) if ranks.first else None)
    args = parser.parse_args(argv, argparse.Namespace(**vars(args) | from_file))
    ranks.on(args.device)  # before anything is made
    with ranks.local_rank0_first():  # the demo set is drawn once
        args.data_dir, drawn = demo.locate(args.data_dir, draw)
    args.data_dir = str(args.data_dir)
    chosen = {name: value for name, value in DEMO_DEFAULTS.items() if drawn and name not in given | from_file.keys()}
    vars(args).update(chosen)
    args.loss = args.loss.replace(" ", "")
    loss.parse_loss(args.loss)
    args.model = model.current_name(args.model, tell=True)
    args.fold_seed = args.seed if args.fold_seed is None else args.fold_seed
    args.optimizer = loss.optimizer_name(args.optimizer)
    args.scheduler = loss.scheduler_name(args.scheduler)
    if "pretrained" in given and args.pretrained and args.weights is not None:
        parser.error(f"--weights {args.weights}: and --pretrained both give the backbone's weights; leave one of the two out")
    args.pretrained = args.pretrained and args.weights is None
    args.img_size = pair(parser, "--img-size", args.img_size or model.native_size(args.model))
    args.crop = pair(parser, "--crop", args.crop) if args.crop else None
    check_bounds(parser, args.age_bounds)
    check_together(parser, args, ranks.world)
    mixes = args.mix != "none"
    for name, works, belongs in (
        ("mix_prob", mixes, "--mix mixup, cutmix or halves"), ("mix_rare", mixes, "--mix mixup, cutmix or halves"),
        ("mix_alpha", mixes, "--mix mixup or cutmix"), ("fix_confidence", args.label_fixes, "--label-fixes FILE"),
        ("pseudo_min_confidence", args.pseudo, "--pseudo RUN"),
        ("min_lr", args.scheduler in ("Cosine", "CAWR"), "--scheduler Cosine or CAWR"),
    ):  # fmt: skip
        if name in given and not works:
            typed = as_typed({name: getattr(args, name)})
            parser.error(f"{typed}: does nothing without {belongs}; add that, or leave this out")
    if chosen:
        errors.log(f"defaults for the demo set (your own options win):\n{in_lines(chosen)}")
    return args


def check_together(parser, args, world):
    """Refuse options that contradict each other, of a resumed run too."""
    if args.target == "age" and tuple(args.age_bounds) != OFFICIAL_BOUNDS:
        parser.error("--age-bounds: --target age learns single years; cut them anywhere with ensemble.py --age-bounds")
    if args.kfold == 1:
        parser.error("--kfold 1: a single fold has nobody to train on; 0 is nofold, 2 and more are folds")
    if args.kfold == 0 and args.scheduler == "Plateau":
        parser.error("--scheduler Plateau: follows the validation F1, and --kfold 0 has none")
    args.fold = args.fold and list(dict.fromkeys(args.fold))
    last = max(args.kfold, 1) - 1
    for fold in args.fold or ():
        if not 0 <= fold <= last:
            parser.error(f"--fold {fold}: --kfold {args.kfold} has the folds 0 to {last}")
    if "ordinal" in args.loss and args.target not in ("age", "age_group"):
        has = f"--target {args.target} has none, age and age_group"
        parser.error(f"--loss {args.loss}: ordinal needs classes with an order; {has}")
    if args.min_lr > args.lr:
        parser.error(f"--min-lr {args.min_lr:g}: is above --lr {args.lr:g}, from which the learning rate goes down to it")
    if args.top_age_spread is not None and args.target != "age" and not args.aux_age:
        parser.error(f"--top-age-spread: belongs to --target age or --aux-age; --target {args.target} has no single years")
    if args.aux_age and args.target not in ("label", "multi", "age_group"):
        parser.error(f"--aux-age {args.aux_age:g}: helps to tell age groups; --target {args.target} has none to average with")
    if args.dry_run and args.pseudo:
        parser.error("--dry-run: --pseudo would have to predict the eval images first; leave one of the two out")
    if args.ema and args.average_last:
        parser.error("--average-last: and --ema both average weights; take one of them")
    if args.freeze_epochs >= args.epochs:
        parser.error(f"--freeze-epochs {args.freeze_epochs}: leaves none of {args.epochs} epochs to train the backbone")
    if args.finish_on_all and (args.kfold == 0 or args.scheduler == "Plateau"):
        why = "--kfold 0 trains everyone from the start" if args.kfold == 0 else "--scheduler Plateau follows the validation F1"
        parser.error(f"--finish-on-all {args.finish_on_all}: {why}; leave one of the two out")
    if args.parallel_folds != 1 and args.auto_batch and args.resume is None:  # of a run that goes on it is settled
        parser.error(f"--parallel-folds {args.parallel_folds}: --auto-batch measures one fold alone; leave one of them out")
    if args.parallel_folds != 1 and world > 1:
        parser.error(f"--parallel-folds {args.parallel_folds}: under torchrun all processes train one fold together")


def same_options(args, ranks):
    """Rank 0's options in every process, but for PLACES."""
    shared = {name: value for name, value in vars(args).items() if name not in PLACES}
    return argparse.Namespace(**{**vars(args), **ranks.broadcast(shared)})


def read_options(parser, path):
    """{option: value} of a YAML file such as args.yaml of a run, each through its type and choices as if it were typed."""
    with errors.reading(path, "it takes lines such as lr: 0.001"):
        texts = yaml.load(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader)
        if not isinstance(texts, dict):
            raise ValueError("holds no mapping")
    options = {action.dest: action for action in parser._actions if action.dest not in ("help", "config", "resume", "lang")}
    values = {}
    for key, text in texts.items():
        name = key.replace("-", "_")
        if name not in options:
            raise InputError(f"{path}: {key}: no such option in a file.{did_you_mean(name, options)} --help lists them")
        option, is_flag = options[name].option_strings[0], options[name].nargs == 0
        if is_flag and str(text).lower() in BOOLEANS:
            values[name] = BOOLEANS[text.lower()]
        elif is_flag and text not in UNSET:
            raise InputError(f"{path}: {key}: {text} is neither true nor false")
        elif text not in UNSET:
            try:
                words = [option, *text] if isinstance(text, list) else [f"{option}={text}"]
                values[name] = getattr(parser.parse_args(words), name)
            except InputError as error:
                raise InputError(f"{path}: {key}: {str(error).removeprefix(f'argument {option}: ')}") from None
    return values


def read_config(parser, path):
    """The options in the file of --config. Of a run's args.yaml those stay behind that are of that run alone, and a fold seed
    and an image size that only followed from its seed and model, so that they follow from those of the new run."""
    values = read_options(parser, path)
    if Path(path).name != "args.yaml":
        return values
    whole = vars(parser.parse_args([])) | values
    follows = {"fold_seed": whole["seed"], "img_size": model.native_size(model.current_name(whole["model"]))}
    return {name: value for name, value in values.items() if name not in OF_ONE_RUN and follows.get(name) != value}


def resumed_args(parser, args, given, ranks):
    """The options of the run that --resume names, with the few that may change taken from the command line."""
    run = ranks.broadcast(experiment.find_run(args.resume) if ranks.first else None)
    if ranks.first:
        experiment.read_args(run)  # which refuses a file that was cut short
    recorded = ranks.broadcast(read_options(parser, run / "args.yaml") if ranks.first else None)
    fixed = given - RESUME_MAY_CHANGE
    if fixed:
        option = f"--{sorted(fixed)[0].replace('_', '-')}"
        parser.error(f"{option}: can't be given with --resume; the run goes on with its own options ({run / 'args.yaml'})")
    if "weights" in given and "weights" not in recorded:
        began = "timm's weights" if recorded.get("pretrained") else "none"
        parser.error(f"--weights {args.weights}: is for a run that began with that file elsewhere; {run} began with {began}")
    changed = {name: getattr(args, name) for name in given}
    args = argparse.Namespace(**{**vars(parser.parse_args([])), **recorded, "fold": None, **changed, "resume": str(run)})
    args.data_dir = str(data_dir(args))
    args.model = model.current_name(args.model, tell=True)
    check_together(parser, args, ranks.world)
    return args


def recipe_name(args):
    """'AdamP-Cosine-CE+F1', as the names of runs have it."""
    return f"{args.optimizer}-{args.scheduler}-{loss.loss_code(args.loss)}"


def refusals(command_lines):
    """Why train.py would refuse each of these new runs, as far as no data is needed; None where it would not."""
    refused, parser = [], make_parser()
    for words in command_lines:
        try:
            args = parse_args(words, draw=False)
            if args.dry_run:  # in a line sweep.py refuses it itself
                raise InputError(f"--config {args.config}: dry_run would train nothing; leave it out")
            in_file = args.fold and "fold" not in parser.given(words)
            refused.append(f"--config {args.config}: sweep.py takes fold from its line alone, as --fold" if in_file else None)
        except InputError as error:
            refused.append(str(error))
    return refused


if __name__ == "__main__":
    json.dump(refusals(json.load(sys.stdin)), sys.stdout)
