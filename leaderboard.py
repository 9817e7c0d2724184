"""All runs and ensembles in one table, with what their options and their leaderboard scores tell.

    python leaderboard.py runs/ --lb 04-soft-3runs=0.7478 --html leaderboard.html

Reads args.yaml, summary.json, fold*/fold.json, recipe.yaml, score.json and lb.json; trains and predicts nothing. `--lb` writes
lb.json into the run's or ensemble's own folder, `--html` a page. Damaged files are named and passed over: the rest is shown
all the same, and the exit code is 2.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import argparse
import itertools
import math
import os
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import effects
import experiment
import files
import metrics
import options
import predictions
import records
import scoreboard
from dataset import CLASS_NAMES
from errors import InputError

# Factors of main effects, whatever varies beside them, in this order; other options follow where they can be held equal.
FACTORS = ("target", "loss", "optimizer", "scheduler", "model", "img_size", "crop", "face_crop", "age_bounds", "drop_ages",
           "label_fixes", "class_weights", "sampler", "mix", "pseudo", "aug", "epochs", "kfold")  # fmt: skip
# Chance and rounding are no factors either.
NO_FACTORS = experiment.PLACES | {"seed", "fold_seed", "data_dir", "memory_format", "compile", "auto_batch"}
# What stands in recipe.yaml beside the choices: the members, told one by one, how a search came to them, what images asked for.
FOUND_BY_SEARCH = {"members", "path", "crossfit_bounds", "mask_factors", "oof_mask_factors"}
EFFECT_HEAD = ["factor", "level", "runs", "raw", "effect", "95 % interval"]
EFFECTS_ARE = (
    "raw: mean F1 of a level's runs minus that of the others; effect: the same with the other factors held equal (least "
    "squares, no interactions), against the levels that can be compared so. This describes the runs at hand: what varied "
    "together stays confounded, and nothing here proves a cause."
)


def parse_args(argv):
    parser = options.Parser("List all runs and ensembles in a table, with what their options and leaderboard scores tell.")
    parser.add_argument("runs", nargs="?", help="folder that holds the runs; without it runs/")
    parser.add_argument("--submissions", metavar="DIR", help="folder that holds the ensembles; without it submissions/")
    parser.add_argument("--lb", type=lb_score, action="append", default=[], metavar="NAME=SCORE",
                        help="record a leaderboard score for good, such as 04-soft-3runs=0.7478 (may be repeated)")  # fmt: skip
    parser.add_argument("--sort", default="oof_f1", metavar="COLUMN",
                        help=f"within what is scored on the same classes: {', '.join(scoreboard.COLUMNS)}")  # fmt: skip
    parser.add_argument("--bootstrap", type=options.natural_int, default=0, metavar="N",
                        help="resamples of people for the intervals of main effects, from every oof.csv")  # fmt: skip
    parser.add_argument(
        "--html", type=options.page, metavar="FILE.html", help="write the table, effects and OOF against LB as a page"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--markdown", action="store_true", help="the table as Markdown, for a team page")
    output.add_argument("--diff", nargs=2, metavar=("A", "B"), help="only what differs between two runs or two ensembles")
    args = parser.parse_args(argv)
    args.sort = scoreboard.column_of(args.sort)
    if args.diff and not args.html:
        rules = [(name, False, "the table, which --diff leaves out", True) for name in ("sort", "bootstrap")]
        options.check_idle(parser, args, parser.given(argv), rules)
    return args


def lb_score(text):
    """argparse type: (name, score) of NAME=SCORE."""
    name, _, number = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text} takes NAME=SCORE, such as 04-soft-3runs=0.7478")
    try:
        value = float(number.replace(",", "."))
    except ValueError:
        value = math.nan
    if 0 <= value <= 1 and "," not in number:
        return name, value
    likely = next((value / scale for scale in (1, 100, 10_000) if 0.1 <= value / scale <= 1), None)
    meant = "" if likely is None else f"; did you mean {likely:.6g}?"
    raise argparse.ArgumentTypeError(f"{text}: {number!r} is no score from 0 to 1{meant}")


def find_directories(args):
    """The folders of runs and of ensembles that are there; InputError for one that is given and wrong."""
    found = []
    for option, given, default in (("runs", args.runs, "runs"), ("--submissions", args.submissions, "submissions")):
        folder = Path(given if given is not None else default)
        if given is not None and records.kind_of(folder):
            raise InputError(f"{option} {given}: is a {records.kind_of(folder)} itself; give the folder that holds it")
        if given is not None and not folder.is_dir():
            raise InputError(f"{option} {given}: no such folder; give the one that holds runs or ensembles")
        if folder.is_dir() and os.path.realpath(folder) not in map(os.path.realpath, found):
            found.append(folder)
    return found


def record_scores(scores, directories):
    """Write the scores of --lb, all of them checked before the first is written."""
    folders = {}
    for name, value in scores:
        folder = records.find_record(name, directories, "--lb")
        target = records.read_record(folder)[0].target
        if target not in ("label", "multi"):
            raise InputError(f"--lb {name}: a run of target {target} has no leaderboard score; record it for its ensemble")
        if folders.setdefault(os.path.realpath(folder), (folder, value))[1] != value:
            raise InputError(f"--lb {name}: given twice, with {folders[os.path.realpath(folder)][1]:g} and {value:g}")
    for folder, value in folders.values():
        earlier = records.record_lb(folder, value)
        before = "" if earlier is None else f" (before: {earlier:.4f})"
        errors.say(f"{folder / 'lb.json'}: LB {value:.4f}{before}")


def collect(directories):
    """(records of all folders, number of problems); what is damaged or foreign is named on stderr."""
    found, problems = [], []
    for directory in directories:
        here, damaged, others = records.read_all(directory)
        found += here
        problems += damaged
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            errors.say(
                f"passed over in {directory}, neither run nor ensemble: {', '.join(map(scoreboard.shown, others[:3]))}{more}"
            )
    for problem in problems:
        errors.say(f"error: {errors.one_line(problem)}")
    return found, len(problems)


# ---- main effects and agreement ------------------------------------------------------------------------------------


@dataclass
class Study:
    """Main effects among complete runs that are scored on the same classes and people."""

    scored_as: str
    runs: list
    found: list
    freedom: int
    left_out: list
    with_people: bool

    @property
    def title(self):
        people = f" of the same {self.runs[0].people[0]} people" if self.runs[0].people else ""
        return f"main effects on the OOF F1 of {self.scored_as}: {len(self.runs)} complete runs{people}"

    @property
    def note(self):
        if all(effect.value is None for effect in self.found):
            source = "no effect can be told apart from the others; vary one option at a time"
        elif self.freedom:
            source = f"intervals: Student's t with {self.freedom} degree{'s' * (self.freedom != 1)} of freedom"
            source += ", and the draw of people" if self.with_people else " (what the model leaves open)"
        elif self.with_people:
            source = "intervals: the draw of people alone, no noise of seeds, as no degree of freedom is left"
        else:
            source = "no interval: no degree of freedom is left; repeat a run with another --seed"
        if 0 < self.freedom < 5:
            source += "; few runs, so they are wide and rough"
        varied = f"; vary too and are held equal by nothing: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{source}{varied}"

    def rows(self):
        """[factor, level, runs, raw, effect, interval]; numbers as (text, number)."""
        rows = []
        for effect in self.found:
            interval = "-" if effect.low is None else f"{effect.low:+.4f} .. {effect.high:+.4f}"
            if effect.apart:
                interval = f"not told apart from {', '.join(effect.apart)}"
            elif effect.not_against:
                interval += f", not against {', '.join(effect.not_against)}"
            numbers = [(str(effect.runs), effect.runs), (f"{effect.raw:+.4f}", effect.raw)]
            numbers.append(("-" if effect.value is None else f"{effect.value:+.4f}", effect.value))
            rows.append([effect.factor, effect.level, *numbers, interval])
        return rows

    def lines(self):
        """The effects as lines of a table in text."""
        texts = [[cell[0] if isinstance(cell, tuple) else cell for cell in row] for row in self.rows()]
        factor, level, *numbers, _last = (max(map(scoreboard.display_width, column)) for column in zip(EFFECT_HEAD, *texts))
        widths = min(factor, 26), min(level, 26)
        last = errors.WIDTH - sum(widths) - sum(numbers) - 2 * (len(EFFECT_HEAD) - 1)
        rows = []
        for row in texts:
            cells = [textwrap.wrap(row[0], widths[0]), textwrap.wrap(row[1], widths[1]), *([text] for text in row[2:5])]
            rows += itertools.zip_longest(*cells, textwrap.wrap(row[5], last), fillvalue="")
        return scoreboard.aligned(EFFECT_HEAD, rows, left=(0, 1, 5))


def level_text(value):
    """An option's value as text: '29 59' of a list, 'mask 0.5, gender 1' of a mapping, 'none' of nothing."""
    if isinstance(value, list):
        return " ".join(map(level_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {level_text(one)}" for key, one in value.items()) or "none"
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def studies(found, resamples):
    """A Study of each group of two or more comparable complete runs in which a factor varies, and lines about problems."""
    groups, result, problems = {}, [], []
    for record in sorted(found, key=lambda record: scoreboard.SECTIONS.index(record.scored_as)):
        if record.is_run and record.is_complete and record.oof_f1 is not None:
            groups.setdefault((record.scored_as, tuple(record.people or ())), []).append(record)
    for (scored_as, _people), runs in groups.items():
        runs = once(runs)
        factors, left_out = factors_among([run.options for run in runs])
        if not factors:
            continue
        draws = None
        if resamples:
            try:
                draws = people_draws(runs, resamples)
            except InputError as error:
                problems.append(f"--bootstrap {resamples}: {error}")
        effect_list, freedom = effects.main_effects([run.oof_f1 for run in runs], factors, draws)
        result.append(Study(scored_as, runs, effect_list, freedom, left_out, draws is not None))
    return result, problems


def once(runs):
    """`runs` without those that are another one again, in options, seed and score: no other draw, so no other noise."""
    found = {}
    for run in runs:
        learnt = {name: level_text(value) for name, value in run.options.items() if name not in experiment.PLACES}
        found.setdefault((run.oof_f1, *sorted(learnt.items())), run)
    return list(found.values())


def factors_among(options):
    """({factor: levels [R]}, names of options left out): what varies in the options of R runs, and what nothing holds equal.

    Left out are, beside FACTORS, options with more levels than half as many runs, those that some runs don't know, and what
    follows from one of FACTORS, as a learning rate that each optimizer has its own of: it would take its effect away.
    """
    levels = {name: [level_text(one.get(name)) for one in options] for name in sorted({key for one in options for key in one})}
    factors = {name: levels[name] for name in FACTORS if len(set(levels.get(name, ()))) > 1}
    left_out = []
    for name, texts in levels.items():
        known = {text for one, text in zip(options, texts) if name in one}
        if name in (*FACTORS, *NO_FACTORS) or len(known) < 2:
            continue
        pairs = [(set(one), set(zip(one, texts))) for factor, one in factors.items() if factor in FACTORS]
        follows = any(len(known) < len(factor) == len(pair) for factor, pair in pairs)
        if follows or len(known) > max(2, len(options) / 2) or any(name not in one for one in options):
            left_out.append(name)
        else:
            factors[name] = texts
    return factors, left_out


def people_draws(runs, resamples):
    """Macro F1 of each run on the same `resamples` draws of people: float64 [runs, resamples]."""
    draws, known = [], None
    for run in runs:
        table = predictions.read_table(Path(run.folder) / "oof.csv", run.target, ("image", "path")).sort_values("image")
        truth, probs = predictions.scored(table, run.target)
        people, rows = table["path"].tolist(), (table["image"].tolist(), truth.tolist())
        known = known or rows
        if known != rows:
            what = "images" if known[0] != rows[0] else "official labels"
            raise InputError(f"{Path(run.folder) / 'oof.csv'}: other {what} than in {runs[0].folder}")
        draws.append(metrics.bootstrap_f1(truth, probs.argmax(1), people, len(CLASS_NAMES[run.scored_as]), resamples))
    return np.stack(draws)


def agreement_text(found):
    """How OOF F1 and leaderboard scores agree, in a line.

    The best fold and all folds of the same members have one out-of-fold score: equal in F1, accuracy and interval they count
    once, at the mean of their leaderboard scores.
    """
    scores = {}
    for record in found:
        if record.lb is not None and record.oof_f1 is not None:
            same = record.oof_f1, record.oof_acc, *(record.oof_f1_ci95 or ())
            scores.setdefault(same, []).append(record.lb)
    pairs = [(same[0], float(np.mean(lbs))) for same, lbs in scores.items()]
    shared = sum(len(lbs) for lbs in scores.values() if len(lbs) > 1)
    once_each = f" ({shared} share an out-of-fold score, which counts once at their mean LB)" if shared else ""
    if len(pairs) < 3:
        few = f"{len(pairs)} with both scores{once_each}"
        return f"OOF against LB: {few}; a correlation takes 3 (--lb NAME=SCORE records one)"
    oof, lb = np.array(pairs).T

    def text(name, one):
        interval = "" if one.low is None else f" (95 % interval {one.low:.2f} .. {one.high:.2f})"
        return f"{name} not defined" if one.value is None else f"{name} {one.value:.2f}{interval}"

    gap = oof - lb
    few = "; an interval takes 4" if len(pairs) < 4 else ""
    return (
        f"OOF against LB: n = {len(pairs)}{once_each}, {text('Pearson', effects.pearson(oof, lb))}, "
        f"{text('Spearman', effects.spearman(oof, lb))}{few}; OOF - LB {gap.mean():+.4f} on average "
        f"({gap.min():+.4f} .. {gap.max():+.4f})"
    )


# ---- what differs --------------------------------------------------------------------------------------------------


def recipe_values(record):
    """What an ensemble was made of as flat {name: text}: its members with their weights and folds, and the other choices."""
    values = {key: level_text(value) for key, value in record.options.items() if key not in FOUND_BY_SEARCH}
    for member in record.members:
        weight = level_text(member.get("weight", 1))
        values[f"member {member.get('run')}"] = f"weight {weight}, folds {level_text(member.get('folds'))}"
    return values


def diff_text(names, directories):
    """The options, or members and weights, in which two runs or two ensembles differ, beside their scores."""
    pair = [records.read_record(records.find_record(name, directories, "--diff"))[0] for name in names]
    if pair[0].kind != pair[1].kind:
        raise InputError(
            f"--diff {' '.join(names)}: {pair[0].name} is of kind {pair[0].kind} and {pair[1].name} of kind {pair[1].kind}; "
            "give two of a kind, or see python compare.py"
        )
    sides = [
        {key: level_text(value) for key, value in one.options.items()} if one.is_run else recipe_values(one) for one in pair
    ]
    apart = [key for key in dict.fromkeys([*sides[0], *sides[1]]) if sides[0].get(key) != sides[1].get(key)]
    kept = [key for key in apart if key not in experiment.PLACES]
    lines = [f"{letter}: {scoreboard.shown(one.folder)}" for letter, one in zip("AB", pair)]
    if not kept:
        lines.append("nothing differs that changes what is learned" if pair[0].is_run else "members and weights are the same")
    columns = [scoreboard.COLUMNS[key] for key in ("folds", "oof_f1", "interval", "accuracy", "time", "lb")]
    rows = [[key, *(scoreboard.shown(side.get(key, "-")) for side in sides)] for key in kept or apart]
    rows += [["", "", ""], *([column.title, *(column.text(one) for one in pair)] for column in columns)]
    rows = scoreboard.wrapped(rows, shutil.get_terminal_size((100, 24)).columns)
    return "\n".join([*lines, "", *scoreboard.aligned(["", "A", "B"], rows, left=(0, 1, 2))])


# ---- the whole -----------------------------------------------------------------------------------------------------


def listing(args, directories, found, done):
    """The text for the terminal: table, main effects, agreement of OOF and LB."""
    if args.markdown:
        return scoreboard.markdown(found, args.sort)
    if not found:
        places = " and ".join(f"{folder}/" for folder in directories) or "runs/ and submissions/"
        return f"no runs or ensembles in {places}; python train.py makes a run"
    width = shutil.get_terminal_size((100, 24)).columns
    parts = [scoreboard.text_table(found, args.sort, width)]
    for study in done:
        parts.append("\n".join([textwrap.fill(study.title, width), *study.lines(), textwrap.fill(study.note, width)]))
    if done:
        parts.append(textwrap.fill(EFFECTS_ARE, width))
    parts.append(textwrap.fill(agreement_text(found), width))
    return "\n\n".join(parts)


def main(argv=None):
    args = parse_args(argv)
    directories = find_directories(args)
    record_scores(args.lb, directories)
    if args.diff:
        print(diff_text(args.diff, directories), flush=True)
        if not args.html:
            return 0
    found, problems = collect(directories)
    done, unread = studies(found, args.bootstrap)
    for problem in unread:
        errors.say(f"error: {problem}")
    if not args.diff:
        print(listing(args, directories, found, done), flush=True)
    if args.html:
        tables = [(study.title, EFFECT_HEAD, study.rows(), f"{study.note}. {EFFECTS_ARE}") for study in done]
        files.write_text(args.html, scoreboard.page(found, args.sort, args.html, tables, agreement_text(found)))
        errors.say(f"page: {args.html}")
    return 2 if problems or unread else 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
