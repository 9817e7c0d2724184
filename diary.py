"""The log of a day, or of the whole contest, from what lies in the folders of runs and ensembles, as Markdown.

    python diary.py --date 2026-03-02 --lang ko

Writes diary/2026-03-02.md: experiments, what they changed and whether that is noise, leaderboard scores, hours, what to do
next; with --all diary/all.md and a picture. A run is of the day on which it began. Text between two markers is written anew,
all else stays byte for byte; where a part was changed by hand nothing is written.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import contextlib
import functools
import hashlib
import math
import os
import re
import shlex
import sys
import urllib.parse
from datetime import date, datetime
from pathlib import Path

import experiment
import files
import predictions
from errors import InputError, tr

PART = re.compile(r"<!-- diary:(\w+) -->(\r?\n.*?)<!-- /diary:\1(?: (\w+))? -->", re.DOTALL)
# What helped elsewhere (docs/results-changes.md; teams' reports): option, what is typed, times as long as a run takes, why.
ADVICE = (
    ("seed", "--seed 7 --fold-seed {fold_seed}", 1, "another seed to average with: three gave +0.022 to +0.041"),
    ("epochs", "--epochs {twice}", 2, "more epochs: 5 in place of 3 gave +0.067, more than anything else"),
    ("sampler", "--sampler balanced", 1, "classes drawn equally often: +0.025"),
    ("age_bounds", "--age-bounds 30 58", 1, "a lower bound of old in training: two of the best teams; noise in our runs"),
    ("mix", "--mix halves --mix-rare", 1, "halves of two faces: the winning team; noise in our runs"),
)


class Entry(experiment.Record):
    """A Record with the local time at which it began (`begun`) and its leaderboard scores (`scores`, [(time, score)])."""

    @property
    def is_scored(self):
        """An ensemble or a complete run with an out-of-fold score."""
        return None not in (self.oof_f1, self.oof_f1_ci95, self.oof_acc) and not self.open_folds

    @property
    def open_folds(self):
        return sorted(set(range(max(self.kfold, 1))) - set(self.folds)) if self.is_run else []

    @property
    def members(self):
        """{name: folds and weight as text} of the members that an ensemble uses."""
        used, text = filter(experiment.is_used, self.options.get("members", [])), experiment.level_text
        return {Path(one["run"]).name: f"fold {text(one.get('folds'))}, × {text(one.get('weight', 1))}" for one in used}

    @functools.cached_property
    def learnt(self):
        """{option: its value as text} of what a run learns from."""
        return {name: experiment.level_text(one) for name, one in self.options.items() if name not in experiment.NOT_LEARNT}

    @property
    def but_seed(self):
        """Equal for runs that differ in nothing but the seed, on the same people."""
        return self.people, *sorted((self.learnt | {"seed": ""}).items())

    @functools.cached_property
    def answers(self):
        return predictions.read_answers(self.folder, self.target).set_index("image")


def read_entry(folder):
    """The Entry of a folder; InputError that names a damaged file."""
    entry, env = Entry(*experiment.read_record(folder)), folder / "env.json"
    with errors.reading(env):
        made = os.stat(folder / ("args.yaml" if entry.is_run else "recipe.yaml")).st_mtime
        begun = datetime.fromisoformat(files.read_json(env)["started"]) if env.is_file() else datetime.fromtimestamp(made)
        entry.begun = begun.astimezone()
    with errors.reading(folder / "lb.json"):
        history = experiment.read_kept(folder, "lb", experiment.number)["history"]
        entry.scores = [(datetime.fromisoformat(one["recorded"]).astimezone(), experiment.number(one["lb"])) for one in history]
    return entry


def changes(run, other):
    """{option: (the other's value, its own)} in which a run differs from another."""
    before = other.learnt
    return {name: (before[name], text) for name, text in run.learnt.items() if text != before.get(name, text)}


def reference(entry, others):
    """The Entry of `others` that one is compared with: of the runs on the same people that with the fewest other options, the
    last of equals; for an ensemble the best run that decides the label, or else the best ensemble. None where there is none."""
    scored = [one for one in others if one.is_scored and one.scored_as == entry.scored_as]
    if not entry.is_run:
        return max(scored, key=lambda one: (one.is_run, one.oof_f1), default=None)
    alike = [one for one in scored if one.is_run and one.people == entry.people]
    return min(reversed(alike), key=lambda one: len(changes(entry, one)), default=None)


def same_images(entries):
    """[answers] of entries on the images of the first; None where one has no such, or other labels."""
    if not all(entry.is_scored and (entry.folder / "oof.csv").is_file() for entry in entries):
        return None
    first = entries[0].answers
    tables = [entry.answers.reindex(first.index) for entry in entries]
    return tables if all(table["truth"].equals(first["truth"]) for table in tables) else None


def judge(ours, theirs):
    """The Difference of the mean macro F1 of entries and of others; None where all answers are the same, or do not compare."""
    tables = same_images([*ours, *theirs])
    if not tables or all(table["answer"].equals(tables[0]["answer"]) for table in tables):
        return None
    return predictions.difference(ours[0].scored_as, tables[: len(ours)], tables[len(ours) :])


def compared(runs):
    """[(runs that differ in the seed alone, those that they are compared with, Difference)] of runs in order of time."""
    alike, pairs = {}, []
    for run in filter(lambda run: run.is_scored, runs):
        alike.setdefault(run.but_seed, []).append(run)
    for ours in alike.values():
        if other := reference(ours[0], runs[: runs.index(ours[0])]):
            theirs = alike[other.but_seed]
            if difference := judge(ours, theirs):
                pairs.append((ours, theirs, difference))
    return pairs


def best_first(entries, scored_as):
    """The runs among entries that are scored on these classes, the best first."""
    runs = [one for one in entries if one.is_run and one.is_scored and one.scored_as == scored_as]
    return sorted(runs, key=lambda run: -run.oof_f1)


def python(*words):
    return shlex.join(["python", *map(str, words)])


def open_runs(runs):
    """Lines of the plan for folds that are not complete and that nobody trains just now; those of quick looks stay open."""
    known = [run for run in runs if run.folds and run.seconds]
    for run in runs:
        like = min(known, key=lambda other: (other is not run, len(changes(run, other))), default=None)
        if run.open_folds and run.options.get("limit_people") is None:
            with contextlib.suppress(InputError):
                experiment.check_not_trained(run.folder, run.open_folds)
                why = tr("`{}`: {} of {} folds are complete").format(run.name, len(run.folds), max(run.kfold, 1))
                seconds = like and like.seconds / len(like.folds) * len(run.open_folds)
                yield why, python("train.py", "--resume", run.folder), seconds


def new_ensembles(entries):
    """Lines of the plan: the best run and that of those within its noise that errs least like it, with the best runs of the
    other components, if nobody combined them."""
    best = next(filter(lambda pool: len(pool) > 1, (best_first(entries, name) for name in ("label", "age_group"))), [])
    missing = ("gender", "mask") if best and best[0].scored_as == "age_group" else ()
    rest = [run for name in missing for run in best_first(entries, name)[:1]]
    alike, made = [], [set(one.members) for one in entries if not one.is_run]
    for other in best[1:] if len(rest) == len(missing) else ():
        team, tables = [best[0], other, *rest], same_images([best[0], other])
        if tables and other.oof_f1_ci95[1] >= best[0].oof_f1_ci95[0] and {one.name for one in team} not in made:
            alike.append((predictions.error_correlation(*tables), team))
    if alike:
        phi, team = min(alike, key=lambda row: row[0])
        why = tr("`{}` and `{}` err differently: correlation {}").format(team[0].name, team[1].name, f"{phi:.2f}")
        yield why, python("ensemble.py", "--models", *(one.folder for one in team)), None


def nearest_verdict(runs):
    """[the line of the plan for the comparison that the fewest seeds would decide, as intervals narrow by 1 / sqrt(seeds)]."""
    lines = []
    for ours, theirs, (value, low, high) in compared(runs):
        have = min(len(ours), len(theirs))
        needed = max(3, math.ceil(have * ((high - low) / 2 / max(abs(value), 1e-9)) ** 2))
        if low <= 0 <= high and have < needed <= 9:  # nobody trains more
            used, pair = {one.options.get("seed") for one in (*ours, *theirs)}, (ours[0], theirs[0])
            new = [str(seed) for seed in range(1, 99) if seed not in used][: needed - have]
            words = [("--config", one.folder / "args.yaml", "--fold-seed", one.options.get("fold_seed")) for one in pair]
            trains = [f"  {python('train.py', *each)} --seed $seed" for each in words]
            names, command = (one.name for one in pair), "\n".join([f"for seed in {' '.join(new)}; do", *trains, "done"])
            why = tr("`{}` against `{}`, {}: about {} seeds would tell").format(*names, f"{value:+.4f}", needed)
            lines.append((needed, (why, command, sum(one.seconds or 0 for one in pair) * len(new))))
    return [min(lines)[1]] if lines else []


def never_varied(runs):
    """Lines of the plan for options that helped others and that all runs have alike, as changes of the best run."""
    base = next(iter(best_first(runs, "label") or best_first(runs, "age_group")), None)
    if base and not any((run.folder / "oof_hflip.csv").is_file() for run in runs):
        yield tr("TTA: +0.020"), python("inference.py", "--models", base.folder, "--tta", "hflip", "--oof"), None
    for option, words, times, why in ADVICE if base else ():
        words = words.format(fold_seed=base.options.get("fold_seed"), twice=2 * base.options.get("epochs", 5)).split()
        level, *others = {run.learnt.get(option) for run in runs}
        if not others and not str(level).startswith(words[1]) and (option, base.target) != ("age_bounds", "age"):
            yield tr(why), python("train.py", "--config", base.folder / "args.yaml", *words), (base.seconds or 0) * times


def parse_args(argv):
    parser = errors.Parser("Write the log of a day, or of the whole contest, from what lies in the folders.")
    parser.add_argument("runs", nargs="?", help="folder that holds the runs; without it runs/")
    parser.add_argument("--submissions", metavar="DIR", help="folder that holds the ensembles; without it submissions/")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--date", metavar="YYYY-MM-DD", help="another day than today")
    which.add_argument("--all", action="store_true", help="the wrap-up of the contest in place of a day")
    parser.add_argument("--out", metavar="FILE.md", help="without it diary/DATE.md or diary/all.md")
    args = parser.parse_args(argv)
    try:
        args.date = date.fromisoformat(args.date) if args.date else date.today()
    except ValueError:
        parser.error(f"--date {args.date}: is no day, such as 2026-03-02")
    return args


def literal(text):
    """A text in a line of Markdown, without what would be taken for markup."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", errors.one_line(text)).replace("<", "&lt;")


def links(paths, place):
    """[(text, address)] of the files that are there, in a page in the folder `place`."""
    return [(path.stem, urllib.parse.quote(os.path.relpath(path, place))) for path in paths if path.is_file()]


def context_of_day(entries, day):
    """The context of the template for a day, beside `entries` up to it. plan: (why, command, seconds or None), six at most."""
    runs, today = [entry for entry in entries if entry.is_run], [entry for entry in entries if entry.begun.date() == day]
    plan = [*[*open_runs(runs)][-3:], *new_ensembles(entries), *nearest_verdict(runs), *never_varied(runs)][:6]
    scores = [(entry, [score for score in entry.scores if score[0].date() == day][-1:]) for entry in entries]
    return {"today": today, "handed_in": [(*score, entry) for entry, last in scores for score in last], "plan": plan}


def context_of_contest(entries):
    """The context of the template for the whole contest, beside `entries`; way: scores over time, of the label and the LB."""
    pairs = sorted(compared([entry for entry in entries if entry.is_run]), key=lambda pair: -pair[2].value)
    label = [entry for entry in entries if entry.is_scored and entry.scored_as == "label"]
    final = max(label, key=lambda entry: (entry.oof_f1, entry.lb or 0), default=None)
    way = [(entry.begun, entry.oof_f1) for entry in label], [score for entry in entries for score in entry.scores]
    return {"pairs": pairs, "final": final, "others": [entry for entry in label if entry is not final], "way": way}


def seal(part):
    """The text of a part, a match of PART, with its digest in the second marker."""
    digest = hashlib.sha256(part[2].replace("\r\n", "\n").encode()).hexdigest()[:8]
    return f"<!-- diary:{part[1]} -->{part[2]}<!-- /diary:{part[1]} {digest} -->"


def renew(path, new):
    """The text of a log with its parts as in `new`; InputError where one was changed by hand, or none is there."""
    with errors.reading(path, "give another --out"):
        old = path.read_bytes().decode()
    renewed, parts = ({part[1]: part for part in PART.finditer(text)} for text in (new, old))
    if not parts or parts.keys() - renewed.keys() or 2 * len(parts) != len(re.findall("<!-- */?diary:", old)):
        pair = "lacks a pair of <!-- diary:NAME --> and <!-- /diary:NAME ... -->, or is another page"
        raise InputError(f"{path}: {pair}; put them back, delete both, or give another --out")
    for name, part in parts.items():
        if seal(part) != part[0]:
            raise InputError(f"{path}: its part {name} was changed by hand; move your lines out of the markers, or delete both")
    return PART.sub(lambda part: renewed[part[1]][0], old)


def main(argv=None):
    args = parse_args(argv)
    entries, damaged = experiment.collect(experiment.find_directories(args), read_entry)
    entries = sorted((one for one in entries if args.all or one.begun.date() <= args.date), key=lambda one: one.begun)
    out = Path(args.out or Path("diary") / ("all.md" if args.all else f"{args.date}.md"))
    files.make_dir(out.parent, "--out")
    context = context_of_contest(entries) if args.all else context_of_day(entries, args.date)
    picture = out.with_name(f"{out.stem}-scores.png")
    context |= {each.__name__: each for each in (changes, judge, reference, links, literal, files.time_text)}
    context |= {"day": args.date, "all": args.all, "entries": entries, "place": out.parent, "picture": picture.name}
    text = files.page("diary.md", **context)
    text = PART.sub(seal, re.sub(r"\n{3,}", "\n\n", re.sub(r" +$", "", text, flags=re.MULTILINE)).rstrip() + "\n")
    files.write_text(out, renew(out, text) if out.exists() else text)
    if any(context.get("way", ())):
        import figures  # not at the top: a day does without

        files.write_figure(picture, figures.scores(*context["way"]))
    errors.say(f"{out}: what you write outside of its markers stays")
    return 2 if damaged else 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
