"""All runs and ensembles in one table, with what their options and their leaderboard scores tell.

    python leaderboard.py runs/ --lb 04-soft-3runs=0.7478 --html leaderboard.html

Reads summary.json or args.yaml of a run, recipe.yaml and score.json of an ensemble. `--lb` and `--note` write lb.json and
note.json into the run's or ensemble's own folder, `--html` a page. A folder with a damaged file is named and skipped, and the
exit code is 2.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import argparse
import itertools
import os
import re
import shlex
import shutil
import sys
import urllib.parse
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

import experiment
import files
import predictions
from errors import InputError, did_you_mean, tr
from experiment import collect, find_directories, folders, kind_of, level_text, number, read_record
from files import page_table

A_DAY, READ = 10, 10  # submissions a team has; results whose oof.csv are read for a forecast
NORMAL_95 = 1.959964  # half-width of a 95 % interval in standard deviations

# The mean score of a level's runs minus that of the others: `raw`, and `value`, with other factors held equal, and its 95 %
# interval. `value` is None where the runs don't determine it, the interval where nothing gives one.
Effect = namedtuple("Effect", "factor level runs raw value low high")


def merge_aliases(factors):
    """Factors {name: levels [R]} without those of one level; factors that split the runs in the same way become one."""
    alike = {}
    for name, levels in factors.items():
        split = tuple(levels.index(level) for level in levels)
        if any(split):
            alike.setdefault(split, []).append(name)
    return {" & ".join(names): [", ".join(row) for row in zip(*(factors[name] for name in names))] for names in alike.values()}


def main_effects(scores, factors, draws=None):
    """(list of Effect, degrees of freedom left) of a main-effects model of scores [R] by factors {name: levels [R] as text}, by
    least squares. Intervals are Student's t on the residuals; the spread of the effect over `draws` [R, B], scores of the same
    runs on B resamples of people, the same for every run, is added in squares."""
    scores, factors = np.asarray(scores, dtype=np.float64), merge_aliases(factors)
    columns = {(name, level): np.array(levels, object) == level for name, levels in factors.items() for level in levels}
    X = np.stack([np.ones(len(scores)), *columns.values()], axis=1)  # an intercept and an indicator of each level
    inverse = np.linalg.pinv(X, rcond=1e-10)
    row_space, freedom = inverse @ X, len(scores) - int(np.linalg.matrix_rank(X))
    residuals = scores - X @ (inverse @ scores)
    noise = np.sqrt((residuals**2).sum() / freedom) * stdtrit(freedom, 0.975) if freedom else 0.0
    effects, order = [], list(factors)
    for (name, level), here in columns.items():
        raw = float(scores[here].mean() - scores[~here].mean())
        # the level's coefficient minus those of the others, each as often as it occurs among the other runs
        others = [column[~here].mean() if key[0] == name else 0.0 for key, column in columns.items()]
        contrast = np.array([0.0, *(float(key == (name, level)) - share for key, share in zip(columns, others))])
        value = low = high = None
        if np.allclose(contrast @ row_space, contrast, atol=1e-6):  # else the runs don't determine it
            of_runs = contrast @ inverse
            value, half = float(of_runs @ scores), noise * np.linalg.norm(of_runs)
            if draws is not None:
                half = np.hypot(half, NORMAL_95 * (of_runs @ draws).std())
            if freedom or draws is not None:
                low, high = value - float(half), value + float(half)
        effects.append(Effect(name, level, int(here.sum()), raw, value, low, high))
    return sorted(effects, key=lambda effect: (order.index(effect.factor), -effect.raw)), freedom


def find_record(name, directories, option):
    """The folder that a path or the bare name of a run or ensemble stands for; InputError with suggestions."""
    places = [Path(name), *(Path(directory) / name for directory in directories)]
    matches = {os.path.realpath(place): place for place in reversed(places) if kind_of(place)}
    if len(matches) > 1:
        raise InputError(f"{option} {name}: stands for {' and '.join(sorted(map(str, matches.values())))}; give the folder")
    if not matches:
        known = [path.name for directory in directories for path in folders(directory)]
        raise InputError(f"{option} {name}: no such run or ensemble.{did_you_mean(Path(name).name, known)}")
    return next(iter(matches.values()))


def add_forecasts(records):
    """The records, each with the metrics.Forecast of its LB, or None: of the READ best by OOF F1 that have no LB, with all that
    is known of the READ best that have one."""
    scored = [record for record in records if record.scored_as == "label" and record.oof_f1 is not None]
    scored.sort(key=lambda record: -record.oof_f1)
    asked = [record for known in (True, False) for record in [one for one in scored if (one.lb is not None) == known][:READ]]
    forecasts = predictions.forecast_lb({record.folder: record.lb for record in asked}, best_lb(records))
    return [record._replace(forecast=forecasts.get(record.folder)) for record in records]


def best_lb(records):
    return max((record.lb for record in records if record.lb is not None), default=None)


def hand_in_text(records):
    """The line about what to hand in next; "" where nothing is forecast."""
    rows = [record for record in records if record.forecast and record.lb is None]
    rows.sort(key=lambda record: (-record.forecast.private, -record.forecast.score))
    if not rows:
        return ""
    names, best = [], best_lb(records)
    for record in rows[:A_DAY]:
        beats = "" if best is None else f" ({record.forecast.beats:.0%})"
        names.append(f"{errors.one_line(record.name)} {record.forecast.private:.0%}{beats}")
    by = "the chance of being one of the two best on the private leaderboard"
    by += "" if best is None else f" (of beating {best:.4f} on the public one)"
    return tr(f"to hand in next, by {by}: {', '.join(names)}")


SECTIONS = {"label": 18, "age_group": 3, "gender": 2, "mask": 3}  # number of classes of what is scored


def four(value):
    """A score with 4 decimals, '-' where there is none."""
    return "-" if value is None else f"{value:.4f}"


def cells(record):
    """{column: (text shown, value that is sorted by, None last)} of a record."""
    bounds, kind, folds = record.oof_f1_ci95, tr("ensemble"), tr("of {:d}").format(len(record.folds))
    if record.is_run:
        kind = record.target
        folds = f"{len(record.folds)}/{record.kfold or 1}" if record.kfold or not record.folds else "nofold"
    forecast = record.forecast if record.lb is None else None
    return {
        "name": (errors.one_line(record.name), record.name),
        "target": (kind, kind),
        "folds": (folds, len(record.folds)),
        "oof_f1": (four(record.oof_f1), record.oof_f1),
        "interval": (tr("{:.3f} .. {:.3f}").format(*bounds) if bounds else "-", bounds[0] if bounds else None),
        "accuracy": (four(record.oof_acc), record.oof_acc),
        "time": (files.time_text(record.seconds), record.seconds),
        "lb": (four(record.lb), record.lb),
        "forecast": (f"{forecast.score:.3f} ± {forecast.half:.3f}", forecast.score) if forecast else ("-", None),
        "note": (errors.one_line(record.note or ""), record.note or None),
    }


COLUMNS = {"name": "name", "target": "target", "folds": "folds", "oof_f1": "OOF F1", "interval": "95 % interval",
           "accuracy": "acc.", "time": "time", "lb": "LB", "forecast": "LB forecast", "note": "note"}  # fmt: skip
BEST_LAST = ("name", "target", "time", "note")  # columns that are sorted upwards


def columns_of(records):
    """The names of the columns: all of them, but the forecast and the note only where a record has one."""
    return [name for name in COLUMNS if name not in ("forecast", "note") or any(getattr(record, name) for record in records)]


def sections(records, sort="oof_f1"):
    """{title: records in order} of what is scored on the same classes; ties and what has no value in order of F1, then name."""
    result = {}

    def place(record):
        (_text, key), f1 = cells(record)[sort], -1.0 if record.oof_f1 is None else record.oof_f1
        return key is None, *(() if key is None else (key if sort in BEST_LAST else -key,)), -f1, record.name

    for scored_as, classes in SECTIONS.items():
        group = sorted((record for record in records if record.scored_as == scored_as), key=place)
        people = {record.people for record in group if any(record.people) and record.oof_f1 is not None}
        note = tr(f" (of {len(people)} different sets of people: their scores do not compare)") if len(people) > 1 else ""
        if group:
            result[tr(f"{scored_as}: macro F1 of {classes} classes, {count_text(group)}") + note] = group
    return result


def count_text(records):
    """'3 runs, 1 ensemble'."""
    runs = sum(record.is_run for record in records)
    counts = ((runs, tr("{:d} run{}")), (len(records) - runs, tr("{:d} ensemble{}")))
    return ", ".join(words.format(count, "s" * (count != 1)) for count, words in counts if count)


def markdown(records, sort):
    """The table as Markdown, one a section."""
    lines, names = [], columns_of(records)
    for title, group in sections(records, sort).items():
        rows = [[re.sub(r"([\\`*<|\[\]])", r"\\\1", cells(record)[name][0]) for name in names] for record in group]
        rule = ["---" if name in ("name", "target", "note") else "---:" for name in names]
        head = [tr(COLUMNS[name]) for name in names]
        lines += [f"**{title}**", "", *(f"| {' | '.join(row)} |" for row in (head, rule, *rows)), ""]
    return "\n".join(lines).rstrip()


def page(records, sort, file, studies):
    """The page that is written to `file`, to which its links are relative."""
    effects = [(title, table, f"{note}. {tr(EFFECTS_ARE)}") for title, table, note in studies]
    tables = [(title, *section_table(group, Path(file).parent)) for title, group in sections(records, sort).items()]
    points = [record for record in records if record.lb is not None and record.oof_f1 is not None]
    return files.page(
        "leaderboard.html", title=tr("Leaderboard"), counts=count_text(records), sections=tables, effects=effects,
        agreement=agreement_text(records), plot=scatter(points) if points else None,
        forecast=[text, tr(FORECAST_IS)] if (text := hand_in_text(records)) else [],
    )  # fmt: skip


def section_table(group, place):
    """(a section as a table, the rows' folders as typed): a name is a link to its report, the last column to its pictures."""
    columns = dict.fromkeys(["name", "oof_f1", *columns_of(group)])  # what a narrow window shows stands beside the name
    if group[0].scored_as != "label":
        columns = {name: None for name in columns if name not in ("lb", "forecast")}
    rows = []

    def links(record, names, text=None):
        there = [record.folder / name for name in names if (record.folder / name).is_file()]
        return [(urllib.parse.quote(os.path.relpath(path, place)), text or path.stem) for path in there]

    for record in group:
        known = cells(record)
        known |= {"name": links(record, ["report.html"], known["name"][0]) or known["name"][0], "target": known["target"][0]}
        pictures = links(record, ["curves.png", "confusion.png", "mistakes.png"])
        rows.append([*(known[name] for name in columns), pictures])
    table = page_table([*(COLUMNS[name] for name in columns), "pictures"], rows)
    return table, [shlex.quote(str(record.folder)) for record in group]


def scatter(points):
    """Records with both scores for the template's scatter: its equal axes begin at `low` and have `steps` of `step`."""
    values = [(record.oof_f1, record.lb) for record in points]
    low, high = min(map(min, values)), max(map(max, values))
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if high - low <= 6 * step)
    names = [errors.one_line(record.name) for record in points]
    rows = [(name, *files.shorten([name], 32), *scores) for name, scores in zip(names, values)]
    return {"low": step * int(low / step), "step": step, "steps": int(high / step) + 1 - int(low / step), "points": rows}


# Factors of main effects, whatever varies beside them, in this order; other options follow where they can be held equal.
FACTORS = ("target", "loss", "optimizer", "scheduler", "model", "img_size", "crop", "face_crop", "age_bounds", "drop_ages",
           "label_fixes", "class_weights", "sampler", "mix", "pseudo", "aug", "epochs", "kfold")  # fmt: skip
NO_FACTORS = experiment.NOT_LEARNT | {"seed"}  # nor is chance one
EFFECT_HEAD = ["factor", "level", "runs", "raw", "effect", "95 % interval"]
EFFECTS_ARE = (  # with --explain, and on the page
    "raw: mean F1 of a level's runs minus that of the others; effect: the same with the other factors held equal (least "
    "squares, no interactions). This describes the runs at hand: what varied together stays confounded, and nothing here "
    "proves a cause."
)

FORECAST_IS = (  # with --explain, and on the page
    "LB forecast: the public score with half its 80 % interval, from the out-of-fold score, the expected gain of averaging "
    "folds, the draw of people here and on the leaderboard (half of the eval people), and the LB scores so far."
)


def effects_note(effects, freedom, with_people, left_out):
    """The source of the intervals in a line, and the options that vary without being factors."""
    people = tr("the draw of people") if freedom else tr("the draw of people alone, no noise of seeds")
    student = tr(f"Student's t with {freedom} degree{'s' * (freedom != 1)} of freedom")
    sources = [student] * bool(freedom) + [people] * with_people
    if all(effect.value is None for effect in effects):
        note = tr("no effect can be told apart from the others; vary one option at a time")
    elif sources:
        note = tr("intervals: {}").format(tr(", and ").join(sources))
    else:
        note = tr("no interval: no degree of freedom is left; repeat a run with another --seed")
    return note + (tr(f"; vary too and are held equal by nothing: {', '.join(left_out)}") if left_out else "")


def study_effects(records, resamples):
    """[(title, files.page_table, note)] of each group of two or more comparable complete runs in which a factor varies. Without
    `resamples` of people a level of a single run has no effect of its own, nor has the only other level of its factor."""
    by_people, studies = {}, []
    for record in sorted(records, key=lambda record: list(SECTIONS).index(record.scored_as)):
        if record.is_run and record.oof_f1 is not None and len(record.folds) == record.kfold > 0:
            # a run that is another one again, in options, seed and score, is no other draw: it counts once
            learnt = {name: level_text(value) for name, value in record.options.items() if name not in experiment.PLACES}
            runs = by_people.setdefault((record.scored_as, record.people), {})
            runs.setdefault((record.oof_f1, *sorted(learnt.items())), record)
    for (scored_as, _people), runs in by_people.items():
        runs = list(runs.values())
        factors, left_out = factors_among([run.options for run in runs])
        if not factors:
            continue
        draws = predictions.people_draws(runs, resamples) if resamples else None
        effects, freedom = main_effects([run.oof_f1 for run in runs], factors, draws)
        levels = Counter(effect.factor for effect in effects if effect.runs > 1 or resamples)
        effects = [effect for effect in effects if levels[effect.factor] > 1 and (effect.runs > 1 or resamples)]
        if not effects:
            continue
        people = f" of the same {runs[0].people[0]} people" if any(runs[0].people) else ""
        title = tr(f"main effects on the OOF F1 of {scored_as}: {len(runs)} complete runs{people}")
        rows = []
        for effect in effects:
            value = "-" if effect.value is None else f"{effect.value:+.4f}"
            numbers = [effect.runs, (f"{effect.raw:+.4f}", effect.raw), (value, effect.value)]
            interval = tr("not told apart") if effect.value is None else "-"
            if effect.low is not None:
                interval = tr("{:+.4f} .. {:+.4f}").format(effect.low, effect.high)
            rows.append([effect.factor, effect.level, *numbers, interval])
        studies.append((title, page_table(EFFECT_HEAD, rows), effects_note(effects, freedom, draws is not None, left_out)))
    return studies


def factors_among(options):
    """({factor: levels [R]}, names of options left out): what varies in the options of R runs, and what nothing holds equal.
    Left out are, beside FACTORS, options with more levels than half as many runs, those that some runs lack, and what follows
    from one of FACTORS, as each optimizer's own learning rate, which would take its effect away."""
    levels = {name: [level_text(one.get(name)) for one in options] for name in sorted({key for one in options for key in one})}
    factors = {name: levels[name] for name in FACTORS if len(set(levels.get(name, ()))) > 1}
    first, left_out = list(factors.values()), []
    for name, texts in levels.items():
        count = len({text for one, text in zip(options, texts) if name in one})
        if name in (*FACTORS, *NO_FACTORS) or count < 2:
            continue
        follows = any(count < len(set(factor)) == len(set(zip(factor, texts))) for factor in first)
        if follows or count > max(2, len(options) / 2) or any(name not in one for one in options):
            left_out.append(name)
        else:
            factors[name] = texts
    return factors, left_out


def agreement_text(records):
    """The agreement of OOF F1 and LB in a line; the same F1, accuracy and interval count once, at the mean LB."""
    scores = {}  # the best fold and all folds of the same runs have one out-of-fold score
    for record in records:
        if record.lb is not None and record.oof_f1 is not None:
            same = record.oof_f1, record.oof_acc, *(record.oof_f1_ci95 or ())
            scores.setdefault(same, []).append(record.lb)
    shared = sum(len(lbs) for lbs in scores.values() if len(lbs) > 1)
    once_each = tr(f" ({shared} share an out-of-fold score, which counts once at their mean LB)") if shared else ""
    oof, lb = np.array([same[0] for same in scores]), np.array([np.mean(lbs) for lbs in scores.values()])
    if len(scores) < 3 or np.ptp(oof) == 0 or np.ptp(lb) == 0:
        few = f"{len(scores)} with both scores{once_each}"
        return tr(f"OOF against LB: {few}; a correlation takes 3 that differ (--lb NAME=SCORE records one)")
    from scipy import stats  # not at the top: half a second

    pearson, gap = stats.pearsonr(oof, lb), oof - lb
    low, high = pearson.confidence_interval()
    return tr(
        f"OOF against LB: n = {len(oof)}{once_each}, Pearson {pearson.statistic:.2f} (95 % interval {low:.2f} .. {high:.2f}), "
        f"Spearman {stats.spearmanr(oof, lb).statistic:.2f}; "
        f"OOF - LB {gap.mean():+.4f} on average ({gap.min():+.4f} .. {gap.max():+.4f})"
    )


# Left out of --diff: members of an ensemble, each a line of its own, how a search came to them, and what changes no result.
NOT_COMPARED = experiment.PLACES | {"members", "path", "crossfit_bounds", "mask_factors", "oof_mask_factors"}


def record(args, directories):
    """Write the scores of --lb and the notes of --note, all of them checked before the first is written."""
    scores = [(find_record(name, directories, "--lb"), value) for name, value in args.lb]
    notes = [(find_record(name, directories, "--note"), text) for name, text in args.note]
    for folder, _value in scores:
        target = read_record(folder).target
        if target not in ("label", "multi"):
            raise InputError(f"--lb {folder.name}: target {target} has no leaderboard score; record it for its ensemble")
    for folder, value in scores:
        earlier = experiment.keep(folder, "lb", value, number)
        before = "" if earlier is None else f" (before: {earlier:.4f})"
        errors.log(f"{folder / 'lb.json'}: LB {value:.4f}{before}")
    for folder, text in notes:
        experiment.keep(folder, "note", text)
        errors.log(f"{folder / 'note.json'}: {errors.one_line(text)}")


def diff_text(names, directories):
    """The options, or members and weights, in which two runs or two ensembles differ, beside their scores."""
    pair = [read_record(find_record(name, directories, "--diff")) for name in names]
    if pair[0].is_run != pair[1].is_run:
        raise InputError(f"--diff {' '.join(names)}: a run and an ensemble; give two of a kind, or see python compare.py")
    a, b = ({name: level_text(value) for name, value in record.options.items() if name not in NOT_COMPARED} for record in pair)
    for record, values in zip(pair, (a, b)):
        for member in record.options.get("members", []):
            weight, folds = level_text(member.get("weight", 1)), level_text(member.get("folds"))
            values[f"member {member['run']}"] = f"weight {weight}, folds {folds}"
    rows = [[key, *(errors.one_line(side.get(key, "-")) for side in (a, b))] for key in {**a, **b} if a.get(key) != b.get(key)]
    lines = [f"{letter}: {errors.one_line(record.folder)}" for letter, record in zip("AB", pair)]
    if not rows:
        lines.append(tr("nothing differs that changes what is learned"))
    rows += [["", "", ""], *([COLUMNS[name], *(cells(record)[name][0] for record in pair)] for name in columns_of(pair)[2:])]
    room = (shutil.get_terminal_size((100, 24)).columns - 4 - max(files.display_width(row[0]) for row in rows)) // 2
    widths = [None, *[max(20, room)] * 2]
    return "\n".join([*lines, "", *files.aligned(["", "A", "B"], rows, left=(0, 1, 2), widths=widths)])


def parse_args(argv):
    parser = errors.Parser("List all runs and ensembles in a table, with what their options and leaderboard scores tell.")
    parser.add_argument("runs", nargs="?", help="folder that holds the runs; without it runs/")
    parser.add_argument("--submissions", metavar="DIR", help="folder that holds the ensembles; without it submissions/")
    parser.add_argument("--lb", type=lb_score, action="append", default=[], metavar="NAME=SCORE",
                        help="record a leaderboard score for good, such as 04-soft-3runs=0.7478 (may be repeated)")  # fmt: skip
    parser.add_argument("--note", nargs=2, action="append", default=[], metavar=("RUN", "TEXT"),
                        help="why it was tried, in place of its note so far, which is kept (may be repeated)")  # fmt: skip
    parser.add_argument("--sort", default="oof_f1", metavar="COLUMN",
                        help=f"within what is scored on the same classes: {', '.join(COLUMNS)}")  # fmt: skip
    parser.add_argument("--bootstrap", type=errors.natural_int, default=0, metavar="N",
                        help="resamples of people for the intervals of main effects, from every oof.csv")  # fmt: skip
    parser.add_argument("--explain", action="store_true", help="say below how to read the main effects and the forecast")
    parser.add_argument("--html", type=errors.page, metavar="FILE.html",
                        help="write the table, effects and OOF against LB as a page")  # fmt: skip
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--markdown", action="store_true", help="the table as Markdown, for a team page")
    output.add_argument("--diff", nargs=2, metavar=("A", "B"), help="only what differs between two runs or two ensembles")
    args = parser.parse_args(argv)
    if args.sort not in COLUMNS:
        parser.error(f"--sort {args.sort}: no such column.{did_you_mean(args.sort, COLUMNS)} There are {', '.join(COLUMNS)}")
    return args


def lb_score(text):
    """argparse type: (name, score) of NAME=SCORE."""
    name, _, score = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text} takes NAME=SCORE, such as 04-soft-3runs=0.7478")
    try:
        return name, number(float(score))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: {score!r} is no score from 0 to 1, such as 0.7478") from None


def listing(args, directories, records, studies):
    """The text for the terminal: table, main effects, agreement of OOF and LB."""
    if args.markdown:
        return markdown(records, args.sort)
    if not records:
        places = " and ".join(f"{folder}/" for folder in directories) or "runs/ and submissions/"
        return tr(f"no runs or ensembles in {places}; python train.py makes a run")
    width = shutil.get_terminal_size((100, 24)).columns
    tables = sections(records, args.sort)
    names = columns_of(records)
    rows = [[cells(record)[name][0] for name in names] for group in tables.values() for record in group]
    if "note" in names:
        notes = files.shorten([row.pop() for row in rows], max(width // 2 - 34, 12))  # half of what the scores leave
        rows = [[*row, note] for row, note in zip(rows, notes)]
    head, *lines = files.aligned([COLUMNS[name] for name in names], rows, left=(0, 1, 8 + ("forecast" in names)), width=width)
    blocks, remaining = [head], iter(lines)
    for title, group in tables.items():
        blocks.append("\n".join([title, *itertools.islice(remaining, len(group))]))
    for title, table, note in studies:
        texts = [[text for text, _key, _links in row] for row in table["rows"]]
        lines = files.aligned(EFFECT_HEAD, texts, left=(0, 1, 5), widths=[26, 26, None, None, None, None])
        blocks.append("\n".join([*errors.wrap(title, width), *lines, *errors.wrap(note, width)]))
    short = tr("effect: with the other factors held equal; nothing here proves a cause (--explain)")
    closing = [tr(EFFECTS_ARE) if args.explain else short] * bool(studies) + [agreement_text(records)]
    if forecast := hand_in_text(records):
        closing += [forecast] + [tr(FORECAST_IS)] * args.explain
    return "\n\n".join([*blocks, *("\n".join(errors.wrap(text, width)) for text in closing)])


def main(argv=None):
    args = parse_args(argv)
    directories = find_directories(args)
    record(args, directories)
    if args.diff:
        print(diff_text(args.diff, directories), flush=True)
        if not args.html:
            return 0
    records, damaged = collect(directories)
    records = add_forecasts(records)
    studies = study_effects(records, args.bootstrap)
    if not args.diff:
        print(listing(args, directories, records, studies), flush=True)
    if args.html:
        files.write_text(args.html, page(records, args.sort, args.html, studies))
        errors.log(f"page: {args.html}")
    return 2 if damaged else 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
