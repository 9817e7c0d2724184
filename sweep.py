"""Many experiments, one after another or several at once, and their effects: a file of command lines, run and compared.

    python sweep.py sweep.txt --seeds 1 2 3 --jobs 2

The file has a line `NAME: OPTIONS` for each experiment, the baseline first; `common: OPTIONS` holds for all below, # begins a
comment, $NAME is a variable of the environment. Each is trained with each seed into DIR/NAME-sSEED, with its output in
DIR/.sweep/NAME-sSEED.log. What is finished is skipped, what was stopped goes on, and several sweeps may work on one file at
once, such as one a GPU. At the end comes a table of scores and differences to the baseline. Exit code 1: some runs failed.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import fcntl
import json
import os
import re
import shlex
import signal
import string
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import joblib
import numpy as np
from scipy.special import stdtrit

import files
import predictions
from errors import InputError, Interrupted
from experiment import find_run, read_args

EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][\w.+=-]*", re.ASCII)
OWN = ("--seed", "--name", "--output-dir", "--resume", "--dry-run", "--help")  # given by the sweep, so no line may
# May be another one when a run goes on: where things are kept and which folds are trained, never what is learned.
MAY_CHANGE = ("--fold", "--cache-dir", "--cache-device", "--device", "--save-minutes")
UNCOMPARED = (*MAY_CHANGE, "--name", "--output-dir", "--quiet")


# A line of the file: its place, its name, its own options as words, and all of them with the common ones before.
Experiment = namedtuple("Experiment", "place name own words")


class Job(namedtuple("Job", "experiment seed run")):
    """One run of a sweep: an experiment with a seed, in the folder `run`."""

    @property
    def name(self):
        return self.run.name

    @property
    def log(self):
        return self.run.parent / LOGS / f"{self.name}.log"

    @property
    def options(self):
        return {**options_of(self.experiment.words), "--seed": [str(self.seed)]}

    @property
    def is_new(self):
        """No folder of this run is there yet; InputError for one that is no run."""
        return not (self.run.exists() and find_run(self.run))

    @property
    def is_finished(self):
        """summary.json holds all folds that are asked for, and the last picture is drawn."""
        if not all((self.run / name).is_file() for name in ("args.yaml", "summary.json", "mistakes.png")):
            return False
        with errors.reading(self.run / "summary.json"):
            done = {int(row["fold"]) for row in files.read_json(self.run / "summary.json")["folds"]}
        asked = {int(number) for number in self.options.get("--fold", []) if number.isdigit()}
        return all(number in done for number in asked or range(max(read_args(self.run).get("kfold", 0), 1)))

    def command(self, threads=None):
        """The words after `python` that start this run or go on with it; threads: of its CPU threads, if its line has none."""
        options = self.options
        if not self.is_new:
            kept = [word for option in MAY_CHANGE if option in options for word in (option, *options[option])]
            return ["train.py", "--resume", str(self.run), *kept, "--quiet"]
        own = ["--seed", str(self.seed), "--name", self.name, "--output-dir", str(self.run.parent), "--quiet"]
        if threads is not None and "--threads" not in options:
            own += ["--threads", str(max(threads // int(options.get("--parallel-folds", ["1"])[0]), 1))]
        return ["train.py", *self.experiment.words, *own]

    def check(self):
        """InputError when the folder is no run, or one of other options than the line has now."""
        if self.is_new:
            return
        file, now = self.run / "args.yaml", self.options
        with errors.reading(file):
            words = shlex.split(file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#"))
            before = options_of(words[words.index("train.py") + 1 :])
        ignored = UNCOMPARED if "--threads" in now else (*UNCOMPARED, "--threads")
        changed = [option for option in {**before, **now} if before.get(option) != now.get(option) and option not in ignored]
        if changed:
            had, has = (
                " ".join(shlex.join([option, *side[option]]) if option in side else f"no {option}" for option in changed)
                for side in (before, now)
            )
            advice = "give the experiment another name, or move that folder away"
            raise InputError(f"{self.run}: was started with {had}, and {self.experiment.place} now says {has}; {advice}")


def options_of(words):
    """{option: its values} of a command line; ValueError about a word that follows no option."""
    values, current = {}, None
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            current = values[option.replace("_", "-")] = [value] if equals else []
        elif current is None:
            raise ValueError(f"{word!r} follows no option; options begin with --")
        else:
            current.append(word)
    return values


def read_plan(path):
    """The Experiments of a file, the baseline first. InputError names the line that is wrong."""
    with errors.reading(path):
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    common, planned = [], {}
    for number, line in enumerate(lines, start=1):
        place, line = f"{path} line {number}", re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        name, colon, text = map(str.strip, line.partition(":"))
        if not colon or not EXPERIMENT_NAME.fullmatch(name):
            raise InputError(f"{place}: takes NAME: OPTIONS, the name of letters, digits and . _ + = -; found {line!r}")
        words = _words(place, text)
        if name == "common":
            if planned:
                raise InputError(f"{place}: common stands below an experiment; its lines come first, as they hold for all")
            common += words
        elif name.lower() in planned:
            raise InputError(f"{place}: {name} appears twice, first in line {planned[name.lower()].place.rpartition(' ')[2]}")
        else:
            planned[name.lower()] = Experiment(place, name, tuple(words), (*common, *words))
    if not planned:
        raise InputError(f"{path}: names no experiment; it takes lines such as baseline: and focal: --loss focal")
    return list(planned.values())


def _words(place, text):
    """The words of a line's options with the variables of the environment filled in."""
    try:
        words = [string.Template(word).substitute(os.environ) for word in shlex.split(text)]
        taken = [option for option in options_of(words) if option in OWN]
    except KeyError as error:
        name = error.args[0]
        raise InputError(f"{place}: ${name} is not set; export {name}=... first, or write out what it stands for") from error
    except ValueError as error:  # a quotation without an end, a $ before no name, a word that follows no option
        raise InputError(f"{place}: {error} (in {text!r})") from error
    if taken:
        raise InputError(f"{place}: {taken[0]} is given by sweep.py; see its --seeds and --output-dir")
    return words


def make_jobs(experiments, seeds, output_dir):
    """A Job of each experiment and seed, seed by seed, so that a sweep that is stopped early can be compared."""
    return [Job(one, seed, Path(output_dir) / f"{one.name}-s{seed}") for seed in seeds for one in experiments]


HEAD = ["experiment", "seeds", "OOF F1", "difference", "95 % interval", "sd", "verdict", "time"]
NOTE = (
    "OOF F1: macro F1, out of fold, at the official bounds, mean ± sd over seeds. difference: to the baseline of the same "
    "seeds; its interval is over people, its sd over seeds. better, worse: neither that interval nor Student's 95 % interval "
    "over seeds reaches 0, which takes two seeds, and in practice three. time: of a run."
)


# A finished run: the digest of folds.csv, predictions.read_answers in order of image, macro F1; without folds these are None.
Run = namedtuple("Run", "folder scored_as seconds folds answers f1", defaults=[None] * 3)


class Row(namedtuple("Row", "name options scored_as seeds f1 seconds differences mean")):
    """Results of an experiment: `f1` of each finished seed; `differences` to the baseline of each seed that both have, and
    their mean as a predictions.Difference, None where there are none."""

    @property
    def verdict(self):
        """'better' or 'worse' where the intervals over people and over seeds (Student's t) both leave out 0, else 'noise'."""
        count = len(self.differences)
        if count < 2:
            return ("-", "one seed")[count]
        error = np.std(self.differences, ddof=1) / np.sqrt(count) * stdtrit(count - 1, 0.975)
        return self.mean.verdict if abs(np.mean(self.differences)) > error else "noise"

    def cells(self):
        """The texts under HEAD."""
        sd_f1, sd = (f"{np.std(values, ddof=1):.4f}" if len(values) > 1 else "" for values in (self.f1, self.differences))
        score = f"{np.mean(self.f1):.4f}{sd_f1 and f' ± {sd_f1}'}" if self.f1 else "-"
        difference = interval = "-"
        if self.differences:
            difference, interval = f"{np.mean(self.differences):+.4f}", f"{self.mean.low:+.4f} .. {self.mean.high:+.4f}"
        time = files.time_text(self.seconds)
        return [self.name, str(self.seeds), score, difference, interval, sd or "-", self.verdict, time]


def read_run(folder):
    member = predictions.open_member(str(folder))
    with errors.reading(folder / "summary.json"):
        seconds = float(files.read_json(folder / "summary.json")["seconds"])
    if not member.options.get("kfold"):
        return Run(folder, member.scored_as, seconds)
    table = predictions.read_answers(folder, member.target).sort_values("image", ignore_index=True)
    f1 = predictions.answers_f1(member.scored_as, table)
    return Run(folder, member.scored_as, seconds, files.file_digest(folder / "folds.csv"), table, f1)


def check_same(runs):
    """InputError when runs do not share their people and folds, or answer for other images."""
    for run in runs:
        first = runs[0]
        if run.folds != first.folds:
            advice = "put --fold-seed 0 into the common line (and --kfold and --limit-people there too)"
            raise InputError(f"{run.folder / 'folds.csv'}: other folds than in {first.folder}; {advice}")
        if not run.answers["image"].equals(first.answers["image"]):
            raise InputError(f"{run.folder / 'oof.csv'}: other images than in {first.folder}; let all train the same folds")
        if run.scored_as == first.scored_as and (run.answers["truth"] != first.answers["truth"]).any():
            file = run.folder / "oof.csv"
            raise InputError(f"{file}: other official labels than in {first.folder}; compare runs of the same data")


def compare_rows(experiments, runs):
    """A Row of each experiment [(name, options)] that has finished runs {name: {seed: Run}}, the baseline first."""
    check_same([run for seeds in runs.values() for run in seeds.values() if run.folds])
    (baseline, _options), rows = experiments[0], []
    for name, words in experiments:
        if seeds := runs.get(name):
            f1 = [run.f1 for run in seeds.values() if run.f1 is not None]
            compared = _differences(seeds, runs.get(baseline, {})) if name != baseline else ([], None)
            seconds = float(np.mean([run.seconds for run in seeds.values()]))
            rows.append(Row(name, words, next(iter(seeds.values())).scored_as, len(seeds), f1, seconds, *compared))
    return rows


def _differences(runs, baseline):
    pairs = [(run, baseline[seed]) for seed, run in runs.items() if seed in baseline]
    pairs = [(a, b) for a, b in pairs if a.folds and b.folds and a.scored_as == b.scored_as]
    if not pairs:
        return [], None
    mean = predictions.difference(pairs[0][0].scored_as, *([run.answers for run in side] for side in zip(*pairs)))
    return [a.f1 - b.f1 for a, b in pairs], mean


def remarks(rows, baseline):
    """Notes to the table: experiments that are scored on something else, and seeds that lack a partner."""
    if rows and rows[0].name != baseline:
        return [f"no run of the baseline {baseline} is finished, so there is nothing to compare with"]
    notes = []
    for row in rows[1:]:
        if row.scored_as != rows[0].scored_as:
            notes.append(f"{row.name} is scored on {row.scored_as}, {baseline} on {rows[0].scored_as}: no difference")
        elif 0 < len(row.differences) < row.seeds:
            notes.append(f"{row.name}: difference of {len(row.differences)} of its {row.seeds} seeds, those of {baseline} too")
    return notes


def ablation_markdown(rows):
    """Lines of the table as Markdown, with each experiment's own options."""
    lines = [f"| {' | '.join([HEAD[0], 'options', *HEAD[1:]])} |", "| --- | --- |" + " ---: |" * 5 + " --- | ---: |"]
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
    parser = errors.Parser("Run and compare many experiments, listed in a file, one after another or several at once.")
    parser.add_argument("file", help="text with a line NAME: OPTIONS an experiment; common: OPTIONS holds for all")
    parser.add_argument("--seeds", type=errors.natural_int, nargs="+", default=[42], metavar="S", help="each experiment's")
    parser.add_argument("--jobs", type=errors.positive_int, default=1, metavar="N",
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
    """The refusals of options.py for experiments, from a process of its own: this one does without torch."""
    lines = json.dumps([one.words for one in experiments])
    done = subprocess.run([sys.executable, OPTIONS], input=lines, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise InputError(f"{OPTIONS}: fails; {last_line(done.stderr)}")
    return json.loads(done.stdout)


def last_line(text):
    """The line of a program's output that tells why it ended: the last that begins with error:, else the last one."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "no output")


# A run in a process of its own, since the time `started`, whose output is in the job's log from byte `begin` on.
Running = namedtuple("Running", "job process begin started")


def open_log(path):
    """A log's file descriptor, locked as long as a process holds it, be it the run that it is given to; None while locked."""
    files.make_dir(path.parent, "--output-dir")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def start(job, handle, threads):
    """Start the job's process in a group of its own, so that Ctrl-C reaches it through the sweep alone; returns it as Running.
    When the sweep is killed it gets a SIGTERM, which saves its state (on Linux)."""
    words = job.command(threads)
    with files.writing(job.log):
        os.write(handle, f"$ {shlex.join(['python', *words])}\n".encode())
    begin = os.fstat(handle).st_size
    process = subprocess.Popen([sys.executable, TRAIN, *words[1:]], stdin=subprocess.DEVNULL, stdout=handle, process_group=0,
                               stderr=subprocess.STDOUT, preexec_fn=errors.on_parents_death(signal.SIGTERM))  # fmt: skip
    return Running(job, process, begin, time.monotonic())


class Sweep:
    """Runs the jobs that are not finished, `at_once` at a time, with a line on stderr as each starts and ends."""

    def __init__(self, jobs, at_once, threads):
        self.waiting = [job for job in jobs if not job.is_finished]
        self.at_once, self.threads = at_once, threads
        self.running, self.failed, self.elsewhere, self.times = [], [], set(), []

    def run(self, stop):
        """Returns when all jobs have ended, or when `stop` is requested and all have saved their state."""
        try:
            while (self.waiting or self.running) and not stop.requested:
                self.collect()
                for job in list(self.waiting):
                    if len(self.running) < self.at_once:
                        self.begin(job)
                time.sleep(POLL_SECONDS)
        finally:
            for one in self.running:
                one.process.terminate()
            for one in self.running:
                one.process.wait()

    def collect(self):
        for one in [one for one in self.running if one.process.poll() is not None]:
            self.running.remove(one)
            seconds, code = time.monotonic() - one.started, one.process.returncode
            if code == 0 and one.job.is_finished:
                self.times.append(seconds)
                self.report(one.job, f"{result_text(one.job)}, {seconds:.0f} s")
            else:
                how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                said = last_line(one.job.log.read_bytes()[one.begin :].decode(errors="replace"))
                self.failed.append(one.job.name)
                self.report(one.job, f"failed after {seconds:.0f} s: {said} ({how}, {one.job.log})")

    def begin(self, job):
        """Start a run that waits, unless another process trains it, or has."""
        handle = open_log(job.log)
        if handle is None:
            if job.name not in self.elsewhere:
                errors.log(f"{job.name}: another process trains it; waits for its end")
            self.elsewhere.add(job.name)
            return
        try:
            self.waiting.remove(job)
            if job.is_finished:
                self.report(job, f"{result_text(job)}, by another process")
            else:
                errors.log(f"{job.name}: {'starts' if job.is_new else 'goes on'}")
                self.running.append(start(job, handle, self.threads))
        finally:
            os.close(handle)  # the run has its own

    def report(self, job, how):
        """A line on stderr when a job has ended, with how many are left and for how long."""
        left = len(self.waiting) + len(self.running)
        about = f", about {files.time_text(np.mean(self.times) * left / self.at_once)}" if left and self.times else ""
        errors.log(f"{job.name}: {how}; {left} left{about}")


def result_text(job):
    """'OOF F1 0.5208' of a finished run."""
    score = files.read_json(job.run / "summary.json").get("oof_f1")
    return "nofold, no score" if score is None else f"OOF F1 {score:.4f}"


def table(experiments, jobs, as_markdown):
    """The table of the finished runs with its notes, as text."""
    runs = {}
    for job in jobs:
        if job.is_finished:
            runs.setdefault(job.experiment.name, {})[job.seed] = read_run(job.run)
    rows = compare_rows([(one.name, shlex.join(one.own)) for one in experiments], runs)
    if not rows:
        return errors.tr("no run is finished yet")
    finished = sum(map(len, runs.values()))
    notes = [] if finished == len(jobs) else [errors.tr(f"{finished} of {len(jobs)} runs are finished.")]
    notes += [*(f"{note}." for note in remarks(rows, experiments[0].name)), errors.tr(NOTE)]
    aligned = files.aligned(HEAD, [row.cells() for row in rows], left=(0, 6), width=errors.WIDTH)
    lines = ablation_markdown(rows) if as_markdown else aligned
    return "\n".join([*lines, "", *errors.wrap(" ".join(notes))])


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    experiments = read_plan(args.file)
    if Path(args.output_dir).is_file():
        raise InputError(f"--output-dir {args.output_dir}: is a file; name a folder")
    jobs = make_jobs(experiments, args.seeds, args.output_dir)
    for job in jobs:
        job.check()
    threads = None if args.jobs == 1 else max(1, joblib.cpu_count() // args.jobs)  # one run alone may have torch's own number
    sweep = Sweep(jobs, args.jobs, threads)
    if sweep.waiting and not args.table:
        waiting = [one for one in experiments if any(job.experiment is one for job in sweep.waiting)]
        for one, refusal in zip(waiting, refusals(waiting)):
            if refusal:
                raise InputError(f"{one.place}: {refusal}")
    if args.dry_run:
        for job in jobs:
            state = "finished" if job.is_finished else "starts" if job.is_new else "goes on"
            print(f"{state:<9} {shlex.join(['python', *job.command(threads)])}")
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
