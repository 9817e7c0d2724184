"""The file of a sweep: the experiments it names, the runs they make, and how far each of these is.

    common: --data-dir faces --epochs 3 --fold-seed 0    # options of all; more such lines go on
    baseline:
    halves: --mix halves

Each experiment is a line NAME: OPTIONS of train.py, the first the baseline of the others; `#` begins a comment. An option
that stands twice counts as its last, so an experiment's own win over the common ones. `$FACES` stands for the environment
variable of that name.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import errors
from errors import InputError
from experiment import find_run, read_args, summed_folds

VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)
OPTION = re.compile(r"--[a-z][a-z-]*")
VARIABLE_NAME = re.compile(r"[A-Za-z0-9][\w.+=-]*", re.ASCII)
OWN = ("--seed", "--name", "--output-dir", "--resume", "--help")  # what a line may not say, as the sweep does
# What may be another one when a run goes on: where things are kept and which folds are trained, never what is learned.
MAY_CHANGE = ("--fold", "--cache-dir", "--cache-device", "--device", "--save-minutes")
UNCOMPARED = (*MAY_CHANGE, "--name", "--output-dir", "--quiet")


@dataclass(frozen=True)
class Experiment:
    """A line of the file: its place, its name, its own options as words, and all of them with the common ones before.

    `places`: {option: the place of the line that has it last}.
    """

    place: str
    name: str
    own: tuple
    words: tuple
    places: dict


@dataclass(frozen=True)
class Job:
    """One run of a sweep: an experiment with a seed, in the folder `run`."""

    experiment: Experiment
    seed: int
    run: Path

    @property
    def name(self):
        return self.run.name

    @property
    def options(self):
        return {**options_of(self.experiment.words), "--seed": [str(self.seed)]}

    @property
    def folds(self):
        """The words of --fold, or [] where all folds are to be trained."""
        return self.options.get("--fold", [])

    @property
    def is_new(self):
        """Whether there is no folder of this run yet; InputError for one that is no run."""
        if self.run.exists():
            find_run(self.run)
            return False
        return True

    @property
    def is_finished(self):
        """Whether summary.json holds all folds that are asked for, and the last picture is drawn."""
        if not all((self.run / name).is_file() for name in ("args.yaml", "summary.json", "mistakes.png")):
            return False
        done = set(summed_folds(self.run))
        asked = {int(number) for number in self.folds if number.isdigit()}
        return all(number in done for number in asked or range(max(read_args(self.run).get("kfold", 0), 1)))

    def command(self, threads=None):
        """The words after `python` that start this run or go on with it; threads: of its CPU threads, if its line has none."""
        if not self.is_new:
            kept = [word for option in MAY_CHANGE for word in _typed(option, self.options.get(option))]
            return ["train.py", "--resume", str(self.run), *kept, "--quiet"]
        own = ["--seed", str(self.seed), "--name", self.name, "--output-dir", str(self.run.parent), "--quiet"]
        if threads is not None and "--threads" not in self.options:
            folds = "".join(self.options.get("--parallel-folds", ["1"]))
            own += ["--threads", str(max(threads // int(folds), 1) if folds.isdigit() and int(folds) else threads)]
        return ["train.py", *self.experiment.words, *own]

    def check(self):
        """InputError when the folder is no run, or one of other options than the line has now."""
        if self.is_new:
            return
        try:
            first = (self.run / "args.yaml").read_text(encoding="utf-8").partition("\n")[0]
            words = shlex.split(first.removeprefix("#"))
            before, now = options_of(words[words.index("train.py") + 1 :]), self.options
        except (OSError, ValueError) as error:
            file = self.run / "args.yaml"
            wrong = InputError(f"{file}: its first line is no command of train.py ({error})")
            raise errors.unreadable(file, error) or wrong from error
        ignored = UNCOMPARED if "--threads" in now else (*UNCOMPARED, "--threads")
        apart = [option for option in {**before, **now} if before.get(option) != now.get(option) and option not in ignored]
        if apart:
            had, has = (" ".join(_said(option, side.get(option)) for option in apart) for side in (before, now))
            place = self.experiment.places.get(apart[0], self.experiment.place)
            raise InputError(
                f"{self.run}: was started with {had}, and {place} now says {has}; give the experiment another name, or move "
                "that folder away"
            )


def options_of(words):
    """{option: its values} of a command line; ValueError with the word that follows no option."""
    found, values = {}, None
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            values = found[option] = [value] if equals else []
        elif values is None:
            raise ValueError(word)
        else:
            values.append(word)
    return found


def _typed(option, values):
    return [] if values is None else [option, *values]


def _said(option, values):
    return f"no {option}" if values is None else shlex.join([option, *values])


def read_plan(path):
    """The Experiments of a file, the baseline first. InputError names the line that is wrong."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        wrong = InputError(f"{path}: not readable ({getattr(error, 'strerror', None) or error})")
        raise errors.unreadable(path, error) or wrong from error
    common, places, found = [], {}, {}
    for number, line in enumerate(lines, start=1):
        place, line = f"{path} line {number}", re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        name, colon, text = line.partition(":")
        name = name.strip()
        if not colon or not VARIABLE_NAME.fullmatch(name):
            raise InputError(f"{place}: takes NAME: OPTIONS, the name of letters, digits and . _ + = -; found {line!r}")
        words = _words(place, text)
        here = dict.fromkeys(options_of(words), place)
        if name == "common":
            if found:
                raise InputError(f"{place}: common stands below an experiment; its lines come first, as they hold for all")
            common, places = [*common, *words], {**places, **here}
        elif name.lower() in found:
            raise InputError(f"{place}: {name} stands twice, first in line {found[name.lower()].place.rpartition(' ')[2]}")
        else:
            found[name.lower()] = Experiment(place, name, tuple(words), (*common, *words), {**places, **here})
    if not found:
        raise InputError(f"{path}: names no experiment; it takes lines such as baseline: and focal: --loss focal")
    return list(found.values())


def _words(place, text):
    """The words of a line's options, checked as far as that needs no train.py."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{place}: {str(error).lower()} in {text.strip()!r}") from error
    words = [VARIABLE.sub(lambda found: _variable(place, found[1] or found[2]), word) for word in words]
    try:
        taken = [option for option in options_of(words) if option in OWN]
    except ValueError as error:
        raise InputError(f"{place}: {str(error)!r} follows no option; options begin with --") from error
    if taken:
        raise InputError(f"{place}: {taken[0]} is given by sweep.py; see its --seeds and --output-dir")
    return words


def _variable(place, name):
    if name not in os.environ:
        raise InputError(f"{place}: ${name} is not set; export {name}=... first, or write out what it stands for")
    return os.environ[name]


def check_options(experiments, refusals):
    """InputError for the first experiment that has one of `refusals`, why train.py would refuse each or None.

    It names the line that has the option of which the refusal speaks.
    """
    for one, refusal in zip(experiments, refusals, strict=True):
        if refusal is not None:
            spoken_of = (option for option in OPTION.findall(refusal) if option in one.places)
            raise InputError(f"{one.places.get(next(spoken_of, None), one.place)}: {refusal}")


def make_jobs(experiments, seeds, output_dir):
    """A Job of each experiment and seed: all experiments with the first seed, then with the next, so that a sweep that is
    stopped early has what can be compared.
    """
    return [Job(one, seed, Path(output_dir) / f"{one.name}-s{seed}") for seed in seeds for one in experiments]
