"""Many experiments, one after another or several at once, and what each changes: a file of command lines, run and compared.

    python sweep.py sweep.txt --seeds 1 2 3 --jobs 2

Reads a file of experiments (see plan.py) and runs `train.py` for each of them with each seed, into DIR/NAME-sSEED. What is
finished is passed over and what was stopped goes on, so the same command goes on with a sweep, whatever ended it. A run that
fails is told with its error, and the others go on. Ends with a table of the finished runs: scores, and differences to the
first experiment (see ablation.py). Each run's output is in DIR/.sweep/NAME-sSEED.log, which also keeps other sweeps from it:
several may work on one file at once, such as one a GPU.

Exit code 0: all runs are finished; 1: some failed; 2: bad input, found before the first run starts, or runs that can't be
compared; 129, 130 or 143: stopped by a signal, after all runs have saved their state.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import fcntl
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import scipy.stats

import experiment
import files
import metrics
import options
import predictions
from dataset import CLASS_NAMES, SCORED_AS
from errors import InputError, Interrupted
from experiment import find_run, read_args, summed_folds

# ---- plan -------------------------------------------------------------------------------------------------------------

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


# ---- table ------------------------------------------------------------------------------------------------------------

HEAD = ["experiment", "seeds", "OOF F1", "difference", "95 % interval", "sd", "verdict", "time"]
NOTE = (
    "OOF F1: macro F1, out of fold, at the official bounds, mean ± sd over seeds. difference: to the baseline of the same "
    "seeds; its interval is over people, its sd over seeds. better, worse: neither that interval nor Student's 95 % interval "
    "over seeds reaches 0, which takes two seeds, and in practice three. time: of a run."
)


@dataclass
class Run:
    """A finished run: what it is scored on and its seconds; the bytes of folds.csv, a digest of the images' names, and the
    person, truth and answer [N] of each image in order of these names. A nofold run has only the first three.
    """

    folder: Path
    scored_as: str
    seconds: float
    folds: str = ""
    images: str = ""
    persons: np.ndarray | None = None
    truth: np.ndarray | None = None
    answers: np.ndarray | None = None

    @property
    def f1(self):
        return None if self.truth is None else metrics.macro_f1(self.truth, self.answers, len(CLASS_NAMES[self.scored_as]))


@dataclass(frozen=True)
class Row:
    """What an experiment came to. `f1`: of each finished seed; `differences` to the baseline: of each seed that both have,
    with the 95 % interval (low, high) of their mean over people; [] and None where there is nothing to compare.
    """

    name: str
    options: str
    scored_as: str
    seeds: int
    f1: list
    seconds: float
    differences: list
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self):
        """'better' or 'worse' where the intervals over people and over seeds (Student's t) both leave out 0, else 'noise'.

        '-' without a difference, 'one seed' where nothing tells how far seeds differ.
        """
        count = len(self.differences)
        if count < 2:
            return ("-", "one seed")[count]
        error = deviation(self.differences) / np.sqrt(count) * scipy.stats.t.ppf(0.975, count - 1)
        return metrics.verdict(self.low, self.high) if abs(np.mean(self.differences)) > error else "noise"

    def cells(self):
        """The texts under HEAD."""
        score = "-" if not self.f1 else f"{np.mean(self.f1):.4f}"
        spread = deviation(self.f1)
        score += "" if spread is None else f" ± {spread:.4f}"
        difference = interval = "-"
        if self.differences:
            difference, interval = f"{np.mean(self.differences):+.4f}", f"{self.low:+.4f} .. {self.high:+.4f}"
        apart = deviation(self.differences)
        sd = "-" if apart is None else f"{apart:.4f}"
        time = files.time_text(self.seconds)
        return [self.name, str(self.seeds), score, difference, interval, sd, self.verdict, time]


def deviation(values):
    """Standard deviation of a sample (over n - 1); None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def read_run(folder):
    """The Run in a folder."""
    folder = Path(folder)
    args = experiment.read_args(folder)
    target = args["target"]
    with errors.reading(folder / "summary.json"):
        run = Run(folder, SCORED_AS[target], float(files.read_json(folder / "summary.json")["seconds"]))
    if args.get("kfold"):
        table = predictions.read_table(folder / "oof.csv", target, ("image", "path")).sort_values("image")
        run.images = hashlib.sha256("\n".join(table["image"]).encode()).hexdigest()
        run.persons, run.folds = table["path"].to_numpy(), files.file_digest(folder / "folds.csv")
        run.truth, probs = predictions.scored(table, target)
        run.answers = probs.argmax(1)
    return run


def check_same(runs):
    """InputError when runs do not share their people and folds, or answer for other images."""
    runs = [run for run in runs if run.truth is not None]
    for run in runs:
        if run.folds != runs[0].folds:
            raise InputError(
                f"{run.folder / 'folds.csv'}: other folds than in {runs[0].folder}, so their scores make no pair; put "
                "--fold-seed 0 into the common line (and --kfold and --limit-people there too)"
            )
        if run.images != runs[0].images:
            raise InputError(f"{run.folder / 'oof.csv'}: other images than in {runs[0].folder}; let all train the same folds")


def compare_rows(experiments, runs):
    """A Row of each experiment that has finished runs, the baseline first. InputError from check_same.

    experiments: [(name, options)], the baseline first; runs: {name: {seed: Run}}.
    """
    check_same([run for seeds in runs.values() for run in seeds.values()])
    baseline = runs.get(experiments[0][0], {})
    rows = []
    for index, (name, words) in enumerate(experiments):
        mine = runs.get(name)
        if not mine:
            continue
        one = next(iter(mine.values()))
        f1 = [run.f1 for run in mine.values() if run.f1 is not None]
        differences, bounds = ([], (None, None)) if index == 0 else _differences(mine, baseline)
        seconds = float(np.mean([run.seconds for run in mine.values()]))
        rows.append(Row(name, words, one.scored_as, len(mine), f1, seconds, differences, *bounds))
    return rows


def _differences(mine, baseline):
    """(differences in macro F1 of the seeds that both have, 95 % interval of their mean over people)."""
    pairs = [(run, baseline[seed]) for seed, run in mine.items() if seed in baseline]
    pairs = [(a, b) for a, b in pairs if a.truth is not None and b.truth is not None and a.scored_as == b.scored_as]
    if not pairs:
        return [], (None, None)
    first, C = pairs[0][0], len(CLASS_NAMES[pairs[0][0].scored_as])
    for a, b in pairs:
        if (a.truth != first.truth).any() or (b.truth != first.truth).any():
            raise InputError(f"{b.folder / 'oof.csv'}: other official labels than in {a.folder}; compare runs of the same data")
    answers = ([run.answers for run in side] for side in zip(*pairs))
    samples = metrics.bootstrap_mean_difference(first.truth, *answers, first.persons, C)
    return [a.f1 - b.f1 for a, b in pairs], metrics.interval(samples)


# ---- tables --------------------------------------------------------------------------------------------------------


def remarks(rows, baseline):
    """What the table does not say by itself: what is scored on something else, which seeds lack a partner."""
    if not rows:
        return []
    if rows[0].name != baseline:
        return [f"no run of the baseline {baseline} is finished, so there is nothing to compare with"]
    notes = []
    for row in rows[1:]:
        if row.scored_as != rows[0].scored_as:
            notes.append(f"{row.name} is scored on {row.scored_as}, {baseline} on {rows[0].scored_as}: no difference")
        elif 0 < len(row.differences) < row.seeds:
            notes.append(f"{row.name}: difference of {len(row.differences)} of its {row.seeds} seeds, those of {baseline} too")
    return notes


def ablation_text(rows):
    """Lines of the table for a terminal."""
    cells = [row.cells() for row in rows]
    names = files.shorten([row[0] for row in cells], 100 - _rest(cells))
    return files.aligned(HEAD, [[name, *row[1:]] for name, row in zip(names, cells)], left=(0, 6))


def _rest(cells):
    return sum(2 + max(map(files.display_width, column)) for column in list(zip(HEAD, *cells))[1:])


def ablation_markdown(rows):
    """Lines of the table as Markdown, with each experiment's own options."""
    head = [HEAD[0], "options", *HEAD[1:]]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---', '---', *['---:'] * 5, '---', '---:'])} |"]
    for row in rows:
        name, *cells = row.cells()
        options = f"`{row.options}`" if row.options else ""
        lines.append(f"| `{name}` | {options} | {' | '.join(cells)} |".replace("  ", " "))
    return lines


TRAIN = Path(__file__).parent / "train.py"
OPTIONS = TRAIN.with_name("options.py")
LOGS = ".sweep"  # hidden, so that no listing takes it for a run
POLL_SECONDS = 0.2


def parse_args(argv):
    parser = options.Parser("Run and compare many experiments, listed in a file, one after another or several at once.")
    parser.add_argument("file", help="text with a line NAME: OPTIONS an experiment; common: OPTIONS holds for all")
    parser.add_argument("--seeds", type=options.natural_int, nargs="+", default=[42], metavar="S", help="each experiment's")
    parser.add_argument("--jobs", type=options.positive_int, default=1, metavar="N",
                        help="runs at once, each on its part of the CPU threads")  # fmt: skip
    parser.add_argument("--output-dir", default="runs", metavar="DIR", help="where run folders are made")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="only list the runs, how far each is, and their commands")
    only.add_argument("--table", action="store_true", help="only the table of what is finished")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown, for a team page")
    args = parser.parse_args(argv)
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds {' '.join(map(str, args.seeds))}: holds one twice")
    return args


def refusals(experiments):
    """What options.refusals says of experiments, from a process of its own: this one does without torch."""
    lines = json.dumps([one.words for one in experiments])
    done = subprocess.run([sys.executable, OPTIONS], input=lines, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise InputError(f"{OPTIONS}: fails; {last_line(done.stderr)}")
    return json.loads(done.stdout)


def last_line(text):
    """The line of a program's output that tells why it ended: the last that begins with error:, else the last one."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "no output")


# ---- running -------------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A run in a process of its own, whose output is in the file `log` from byte `begin` on."""

    job: Job
    process: subprocess.Popen
    log: Path
    begin: int
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self):
        return time.monotonic() - self.started

    def failure(self):
        """Why the run is not finished though its process ended, in a line; None where it is."""
        code = self.process.returncode
        if code == 0 and self.job.is_finished:
            return None
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{last_line(self.log.read_bytes()[self.begin :].decode(errors='replace'))} ({how}, {self.log})"


def open_log(path):
    """A log's file descriptor, locked for its holders; None while another process has it.

    The lock goes with the open file: a run that has it for its output holds it to its end, even if the sweep is killed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise files.failure(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def start(job, path, handle, threads):
    """Start the job's process, which writes into its log. It is in a process group of its own, so that Ctrl-C in a terminal
    reaches it through the sweep alone.
    """
    parent, be_told = os.getpid(), errors.on_parents_death(signal.SIGTERM)

    def end_with_sweep():
        """In the new process: let a killed sweep be a SIGTERM, which saves the state."""
        be_told()
        if os.getppid() != parent:
            os._exit(errors.EXIT_CODES[signal.SIGTERM])

    words = job.command(threads)
    files.append(path, f"$ {shlex.join(['python', *words])}\n".encode())
    begin = os.fstat(handle).st_size
    process = subprocess.Popen([sys.executable, TRAIN, *words[1:]], stdin=subprocess.DEVNULL, stdout=handle,
                               stderr=subprocess.STDOUT, process_group=0, preexec_fn=end_with_sweep)  # fmt: skip
    return Running(job, process, path, begin)


class Sweep:
    """Runs the jobs that are not finished, `at_once` at a time, with a line on stderr as each starts and ends."""

    def __init__(self, jobs, logs, at_once, threads):
        self.waiting = [job for job in jobs if not job.is_finished]
        self.logs, self.at_once, self.threads = logs, at_once, threads
        self.running, self.failed, self.elsewhere, self.times = [], [], set(), []

    def run(self, stop):
        """Returns when all jobs have ended, or when `stop` is requested and all have saved their state."""
        try:
            while (self.waiting or self.running) and not stop.requested:
                self.collect()
                self.fill()
                time.sleep(POLL_SECONDS)
        finally:
            for one in self.running:
                one.process.terminate()
            for one in self.running:
                one.process.wait()

    def collect(self):
        """Tell of the runs that have ended since."""
        for one in [one for one in self.running if one.process.poll() is not None]:
            self.running.remove(one)
            failure = one.failure()
            if failure:
                self.failed.append(one.job.name)
                self.tell(one.job, f"failed after {one.seconds:.0f} s: {failure}")
            else:
                self.times.append(one.seconds)
                self.tell(one.job, f"{result_text(one.job)}, {one.seconds:.0f} s")

    def fill(self):
        """Start runs that wait and that no other process trains, as long as there is room for them."""
        for job in list(self.waiting):
            if len(self.running) == self.at_once:
                return
            path = self.logs / f"{job.name}.log"
            handle = open_log(path)
            if handle is None:
                if job.name not in self.elsewhere:
                    errors.log(f"{job.name}: another process trains it; waits for its end")
                self.elsewhere.add(job.name)
                continue
            try:
                self.waiting.remove(job)
                if job.is_finished:
                    self.tell(job, f"{result_text(job)}, by another process")
                    continue
                errors.log(f"{job.name}: {'starts' if job.is_new else 'goes on'}")
                self.running.append(start(job, path, handle, self.threads))
            finally:
                os.close(handle)  # the run has its own

    def tell(self, job, how):
        """A line for the user when a job has ended, with how many are left and for how long."""
        left = len(self.waiting) + len(self.running)
        about = f", about {files.time_text(np.mean(self.times) * left / self.at_once)}" if left and self.times else ""
        errors.log(f"{job.name}: {how}; {left} left{about}")


def result_text(job):
    """'OOF F1 0.5208' of a finished run."""
    score = files.read_json(job.run / "summary.json").get("oof_f1")
    return "nofold, no score" if score is None else f"OOF F1 {score:.4f}"


def threads_of(at_once):
    """CPU threads of each of several runs at once; None for one alone, which may have what torch takes."""
    return None if at_once == 1 else max(1, joblib.cpu_count() // at_once)


# ---- the whole -----------------------------------------------------------------------------------------------------


def table(experiments, jobs, as_markdown):
    """The table of the finished runs and what it needs to be read, as text."""
    runs = {}
    for job in jobs:
        if job.is_finished:
            runs.setdefault(job.experiment.name, {})[job.seed] = read_run(job.run)
    listed = [(one.name, shlex.join(one.own)) for one in experiments]
    rows, baseline = compare_rows(listed, runs), listed[0][0]
    if not rows:
        return "no run is finished yet"
    lines = ablation_markdown(rows) if as_markdown else ablation_text(rows)
    finished = sum(map(len, runs.values()))
    lacking = "" if finished == len(jobs) else f"{finished} of {len(jobs)} runs are finished. "
    notes = [f"{note}." for note in remarks(rows, baseline)]
    return "\n".join([*lines, "", *textwrap.wrap(f"{lacking}{' '.join([*notes, NOTE])}", errors.WIDTH)])


def listing(jobs, threads):
    """The runs of --dry-run: how far each is, and its command."""
    lines = []
    for job in jobs:
        state = "finished" if job.is_finished else "starts" if job.is_new else "goes on"
        lines.append(f"{state:<9} {shlex.join(['python', *job.command(threads)])}")
    return "\n".join(lines)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    experiments = read_plan(args.file)
    if Path(args.output_dir).is_file():
        raise InputError(f"--output-dir {args.output_dir}: is a file; name a folder")
    jobs = make_jobs(experiments, args.seeds, args.output_dir)
    for job in jobs:
        job.check()
    threads = threads_of(args.jobs)
    sweep = Sweep(jobs, Path(args.output_dir) / LOGS, args.jobs, threads)
    if sweep.waiting and not args.table:
        waiting = [one for one in experiments if any(job.experiment is one for job in sweep.waiting)]
        check_options(waiting, refusals(waiting))
    if args.dry_run:
        print(listing(jobs, threads))
        return 0
    if not args.table:
        errors.log(f"{len(jobs)} run{'s' * (len(jobs) > 1)}, {len(jobs) - len(sweep.waiting)} of them finished")
        if len(args.seeds) > 1 and not all("--fold-seed" in job.options for job in jobs):
            errors.log("each seed has folds of its own, so no table will compare them: --fold-seed 0 in the common line gives "
                       "all the same")  # fmt: skip
        stop = errors.StopSignals()
        with stop.deferred():
            sweep.run(stop)
            if stop.requested:
                finished = f"{sum(job.is_finished for job in jobs)} of {len(jobs)} runs are finished"
                again = shlex.join(["python", "sweep.py", *argv])
                raise Interrupted(stop.requested, f"stopped; {finished}, others go on with: {again}")
    print(table(experiments, jobs, args.markdown))
    if sweep.failed:
        errors.log(f"failed: {', '.join(sweep.failed)}; the same command tries them again")
    return 1 if sweep.failed else 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
