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

import numpy as np

import ablation
import files
import options
import plan
import scoreboard
from errors import InputError, Interrupted

TRAIN = Path(__file__).parent / "train.py"
OPTIONS = TRAIN.with_name("train_options.py")
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
    """What train_options.refusals says of experiments, from a process of its own: this one does without torch."""
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

    job: plan.Job
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
                    errors.say(f"{job.name}: another process trains it; waits for its end")
                self.elsewhere.add(job.name)
                continue
            try:
                self.waiting.remove(job)
                if job.is_finished:
                    self.tell(job, f"{result_text(job)}, by another process")
                    continue
                errors.say(f"{job.name}: {'starts' if job.is_new else 'goes on'}")
                self.running.append(start(job, path, handle, self.threads))
            finally:
                os.close(handle)  # the run has its own

    def tell(self, job, how):
        """A line for the user when a job has ended, with how many are left and for how long."""
        left = len(self.waiting) + len(self.running)
        about = f", about {scoreboard.time_text(np.mean(self.times) * left / self.at_once)}" if left and self.times else ""
        errors.say(f"{job.name}: {how}; {left} left{about}")


def result_text(job):
    """'OOF F1 0.5208' of a finished run."""
    score = files.read_json(job.run / "summary.json").get("oof_f1")
    return "nofold, no score" if score is None else f"OOF F1 {score:.4f}"


def threads_of(at_once):
    """CPU threads of each of several runs at once; None for one alone, which may have what torch takes."""
    return None if at_once == 1 else max(1, files.usable_cores() // at_once)


# ---- the whole -----------------------------------------------------------------------------------------------------


def table(experiments, jobs, as_markdown):
    """The table of the finished runs and what it needs to be read, as text."""
    runs = {}
    for job in jobs:
        if job.is_finished:
            runs.setdefault(job.experiment.name, {})[job.seed] = ablation.read_run(job.run)
    listed = [(one.name, shlex.join(one.own)) for one in experiments]
    rows, baseline = ablation.compare_rows(listed, runs), listed[0][0]
    if not rows:
        return "no run is finished yet"
    lines = ablation.ablation_markdown(rows) if as_markdown else ablation.ablation_text(rows)
    finished = sum(map(len, runs.values()))
    lacking = "" if finished == len(jobs) else f"{finished} of {len(jobs)} runs are finished. "
    notes = [f"{note}." for note in ablation.remarks(rows, baseline)]
    return "\n".join([*lines, "", *textwrap.wrap(f"{lacking}{' '.join([*notes, ablation.NOTE])}", errors.WIDTH)])


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
    experiments = plan.read_plan(args.file)
    if Path(args.output_dir).is_file():
        raise InputError(f"--output-dir {args.output_dir}: is a file; name a folder")
    jobs = plan.make_jobs(experiments, args.seeds, args.output_dir)
    for job in jobs:
        job.check()
    threads = threads_of(args.jobs)
    sweep = Sweep(jobs, Path(args.output_dir) / LOGS, args.jobs, threads)
    if sweep.waiting and not args.table:
        waiting = [one for one in experiments if any(job.experiment is one for job in sweep.waiting)]
        plan.check_options(waiting, refusals(waiting))
    if args.dry_run:
        print(listing(jobs, threads))
        return 0
    if not args.table:
        errors.say(f"{len(jobs)} run{'s' * (len(jobs) > 1)}, {len(jobs) - len(sweep.waiting)} of them finished")
        if len(args.seeds) > 1 and not all("--fold-seed" in job.options for job in jobs):
            errors.say("each seed has folds of its own, so no table will compare them: --fold-seed 0 in the common line gives "
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
        errors.say(f"failed: {', '.join(sweep.failed)}; the same command tries them again")
    return 1 if sweep.failed else 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
