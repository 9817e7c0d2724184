"""One change at a time against a baseline, each trained with several seeds: scores, paired differences, verdicts, tables.

A difference is paired twice: seed by seed, and image by image, as all runs have the same people in the same folds. Its
interval comes from draws of people (see metrics.bootstrap_mean_difference): it says whether the models that were trained
differ on other people, not whether other seeds would. How far the difference varies from seed to seed stands beside it, and
the verdict asks for both: the interval over people leaves out 0, and so does Student's over seeds.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats

import experiment
import files
import metrics
import predictions
import scoreboard
from dataset import CLASS_NAMES, SCORED_AS
from errors import InputError

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
        time = scoreboard.time_text(self.seconds)
        return [self.name, str(self.seeds), score, difference, interval, sd, self.verdict, time]


def deviation(values):
    """Standard deviation of a sample (over n - 1); None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def read_run(folder):
    """The Run in a folder."""
    folder = Path(folder)
    args = experiment.read_args(folder)
    target = args["target"]
    run = Run(folder, SCORED_AS[target], files.read_json(folder / "summary.json", seconds=files.NUMBER)["seconds"])
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
    for index, (name, options) in enumerate(experiments):
        mine = runs.get(name)
        if not mine:
            continue
        one = next(iter(mine.values()))
        f1 = [run.f1 for run in mine.values() if run.f1 is not None]
        differences, bounds = ([], (None, None)) if index == 0 else _differences(mine, baseline)
        seconds = float(np.mean([run.seconds for run in mine.values()]))
        rows.append(Row(name, options, one.scored_as, len(mine), f1, seconds, differences, *bounds))
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
    names = scoreboard.shorten([row[0] for row in cells], 100 - _rest(cells))
    return scoreboard.aligned(HEAD, [[name, *row[1:]] for name, row in zip(names, cells)], left=(0, 6))


def _rest(cells):
    return sum(2 + max(map(scoreboard.display_width, column)) for column in list(zip(HEAD, *cells))[1:])


def ablation_markdown(rows):
    """Lines of the table as Markdown, with each experiment's own options."""
    head = [HEAD[0], "options", *HEAD[1:]]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---', '---', *['---:'] * 5, '---', '---:'])} |"]
    for row in rows:
        name, *cells = row.cells()
        options = f"`{row.options}`" if row.options else ""
        lines.append(f"| `{name}` | {options} | {' | '.join(cells)} |".replace("  ", " "))
    return lines
