"""Command-line options that several scripts share, declared once, and the formatter of their help."""

import argparse
import math
import sys
from pathlib import Path

from dataset import FIRST_AGE, LAST_AGE
from errors import InputError, did_you_mean, one_line, say

TTAS = ("none", "hflip", "shift", "hflip+shift")  # those of augment.py, which takes torch


def _number(kind, fits, what):
    """An argparse type: `kind` of a text for which `fits`. argparse would tell a ValueError by the name of our function."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            wanted = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text} is not a {wanted}") from None
        if not fits(value):
            raise argparse.ArgumentTypeError(f"{text} is {what}")
        return value

    return parse


whole_int = _number(int, lambda value: True, "")
positive_int = _number(int, lambda value: value > 0, "not above 0")
natural_int = _number(int, lambda value: value >= 0, "below 0")
positive_float = _number(float, lambda value: 0 < value < math.inf, "not a number above 0")
natural_float = _number(float, lambda value: 0 <= value < math.inf, "not a number from 0 on")
fraction = _number(float, lambda value: 0 <= value < 1, "not a number from 0 to below 1")
share = _number(float, lambda value: 0 < value <= 1, "not a number above 0 and up to 1")
confidence = _number(float, lambda value: 0 <= value <= 1, "not a number from 0 to 1")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each option's default as one would type it, but none where the data decide it or nothing is set."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default in (argparse.SUPPRESS, []):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


def page(text):
    """argparse type: the name of a page, FILE.html."""
    if Path(text).suffix.lower() not in (".html", ".htm"):
        raise argparse.ArgumentTypeError(f"{text} is not the name of a page, FILE.html")
    return text


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors (one line, no usage), with suggestions for misspelt options.

    Abbreviated options are refused, so that a recorded command stays true when options are added.
    """

    def __init__(self, description):
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False)

    def error(self, message):
        raise InputError(message)

    def parse_args(self, args=None, namespace=None):
        for word in sys.argv[1:] if args is None else args:
            if str(word) != str(word).encode(errors="replace").decode():  # such bytes of a file's name can't be recorded
                self.error(f"{one_line(word)}: is not UTF-8; rename what it names, or give it by a link with another name")
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            if not unknown[0].startswith("-"):
                self.error(f"{unknown[0]}: belongs to no option; quote names with spaces in them, as 'a name'")
            self.error(f"{unknown[0]}: no such option.{did_you_mean(unknown[0], known)} --help lists them")
        return parsed

    def check_recorded(self, recorded, path):
        """InputError unless this parser would take the options of a mapping that was read from `path` as they stand there."""
        words = []
        for action in self._actions:
            value, option = recorded.get(action.dest), action.option_strings[-1]
            if isinstance(value, list) and value:
                words += [option, *map(str, value)]
            elif value is not None and not isinstance(value, (bool, list)):
                words.append(f"{option}={value}")
        try:
            taken = vars(self.parse_args(words))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        for action in self._actions:
            value, is_flag = recorded.get(action.dest), action.nargs == 0
            same = isinstance(value, bool) == is_flag and (is_flag or value == taken.get(action.dest))
            if action.dest in recorded and not same:
                raise InputError(f"{path}: {action.dest} is {value!r:.100}; damaged, or not written by train.py")

    def given(self, args=None):
        """Names (dest) of the options that stand in the command line itself."""
        unset = object()
        names = vars(self.parse_args([]))
        parsed = vars(self.parse_args(args, argparse.Namespace(**dict.fromkeys(names, unset))))
        return {name for name, value in parsed.items() if value is not unset}


def add_data(parser):
    """--data-dir, --cache-dir, --cache-device"""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data-dir", metavar="DIR", help="the competition's folder; without it data/, /opt/ml/input/data or the demo set"
    )
    group.add_argument("--cache-dir", default="cache", metavar="DIR", help="where decoded images are kept for all runs")
    group.add_argument("--cache-device", choices=("auto", "device", "host"), default="auto", help="where batches are read from")
    return group


def add_model(parser, model, augs, aug):
    """--model, --img-size, --crop, --aug; `augs` are augment.AUGS, as importing it here would load torch for every script"""
    group = parser.add_argument_group("model and images")
    group.add_argument("--model", default=model, metavar="NAME", help="any timm model")
    group.add_argument("--img-size", type=positive_int, nargs="+", metavar="N",
                       help="N, or height and width; without it the model's own")  # fmt: skip
    group.add_argument("--crop", type=positive_int, nargs="+", metavar="N",
                       help="centre crop in source pixels before the resize: N, or height and width")  # fmt: skip
    group.add_argument("--aug", choices=augs, default=aug, help="random changes of the training images")
    return group


def add_compute(parser, batch_size):
    """--device, --amp, --batch-size"""
    group = parser.add_argument_group("compute")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...; without it a GPU if there is one")
    group.add_argument("--amp", choices=("auto", "off", "bf16", "fp16"), default="auto", help="mixed precision")
    group.add_argument("--batch-size", type=positive_int, default=batch_size, metavar="N", help="images a batch")
    return group


def add_step(group, formats):
    """--threads, --memory-format, --compile of a training step; `formats` are precision.FORMATS, which needs torch"""
    group.add_argument(
        "--threads", type=positive_int, metavar="N", help="CPU threads; recorded, as other numbers round otherwise"
    )
    group.add_argument("--memory-format", choices=("auto", *formats), default="auto",
                       help="how images and kernels lie in memory; auto: measured, as is --amp auto on a CPU")  # fmt: skip
    group.add_argument("--compile", action="store_true",
                       help="torch.compile the training forward: minutes at the start, faster steps on a GPU")  # fmt: skip


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
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words.append(f"--{option} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    return " ".join(words)


def check_idle(parser, args, given, rules):
    """Refuse, or tell in one line, what was typed and does nothing beside the other options.

    given: names of the options that were typed; rules: (name, whether it does something, what it belongs to, whether it is
    refused). What is only told may stand in a sweep's common line, for the experiments that use it.
    """
    told = []
    for name, works, belongs, refused in rules:
        if name not in given or works:
            continue
        option = as_typed({name: getattr(args, name)})
        if refused:
            parser.error(f"{option}: does nothing without {belongs}; add that, or leave this out")
        told.append(f"{option} (of {belongs})")
    if told:
        say(f"does nothing here: {', '.join(told)}")


def count_or_auto(text):
    """argparse type: 'auto' or a positive number."""
    return text if text == "auto" else positive_int(text)


def fold_choice(text):
    """argparse type: 'all', 'best' or a fold number."""
    return text if text in ("all", "best") else natural_int(text)
