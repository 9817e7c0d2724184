"""Compare two submissions, runs or ensembles: what moved, whether it is more than noise, and a page of the images.

    python compare.py runs/01-AdamP-StepLR-FL-v0-label_5fold submissions/01-soft-3runs

A and B: a submission csv, a run (the mean of its folds), RUN:fold2 or RUN:best, or an ensemble; the answer is the most probable
class. A label is compared with its mask, gender or age group by the sums of its probabilities. The same persons are drawn for A
and B out of fold. Writes comparisons/A--B.html with a thumbnail of each image that differs.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import re
import shlex
import sys
from collections import Counter, namedtuple
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

import dataset
import files
import images
import metrics
import predictions
from dataset import CLASS_NAMES, MASK_PRIOR, changed_words, class_components, marginals, scored_probs
from errors import InputError, did_you_mean, say, tr

HEIGHT = 240  # pixels of a thumbnail as it is kept; shown at 150, and larger when it is opened
FLOWS, CERTAIN = 15, 10  # rows of the console's lists


def parse_args(argv):
    parser = errors.Parser("Compare two submissions, runs or ensembles: what moved, and whether it is more than noise.")
    parser.add_argument("sources", nargs=2, metavar="A B", help="two of: a submission csv, a run, RUN:fold2, an ensemble")
    parser.add_argument("--labels", metavar="CSV", help="true answers (ImageID,ans) of eval images, to score both on")
    parser.add_argument("--explain", action="store_true", help="say below the tables how to read them")
    parser.add_argument("--images", action="store_true", help="list every image that differs")
    parser.add_argument("--out", type=errors.page, metavar="FILE.html", help="the page; without it comparisons/A--B.html")
    parser.add_argument("--limit", type=errors.natural_int, default=600, metavar="N", help="thumbnails on the page, at most")
    parser.add_argument("--data-dir", help="the competition's folder, for the images; without it as in train.py")
    return parser.parse_args(argv)


def narrow(values, scored_as, component):
    """Classes or probabilities [N, C] of `scored_as` as those of `component`, or of the same."""
    if component == scored_as:
        return values
    return (marginals(values) if np.ndim(values) == 2 else class_components(values, scored_as))[component]


class Comparison(namedtuple("Comparison", "scored_as images a b probs_a probs_b")):
    """Answers of A and B, int64 [N] classes of `scored_as`, to `images`; their probabilities [N, C], or None where unknown."""

    @property
    def names(self):
        return CLASS_NAMES[self.scored_as]

    @property
    def known(self):
        """[(letter, its probabilities)] of A and B, where they are known."""
        return [(letter, probs) for letter, probs in (("A", self.probs_a), ("B", self.probs_b)) if probs is not None]

    @cached_property
    def own_probs(self):
        """The probabilities that A and B give their own answers, a pair of float64 [N] or None."""
        pairs = ((self.probs_a, self.a), (self.probs_b, self.b))
        return tuple(None if probs is None else probs[np.arange(len(answers)), answers] for probs, answers in pairs)

    @cached_property
    def rows(self):
        """Rows that differ, int64 [D], the most certain first: a disagreement is as certain as its less certain answer."""
        differ, own = np.flatnonzero(self.a != self.b), [each for each in self.own_probs if each is not None]
        return differ[np.argsort(-np.min(own, axis=0)[differ], kind="stable")] if own else differ

    @cached_property
    def flows(self):
        """[(class of A, class of B, count)] of the rows that differ, the most frequent first."""
        counts = Counter(zip(self.a[self.rows].tolist(), self.b[self.rows].tolist()))
        return [(*pair, count) for pair, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]

    @cached_property
    def components(self):
        """{component: (its classes in A, in B)}, int64 [N] each."""
        a, b = (class_components(answers, self.scored_as) for answers in (self.a, self.b))
        return {component: (a[component], b[component]) for component in a}

    @property
    def component_changes(self):
        """{component: rows in which it differs}; a row may differ in more than one."""
        return {component: int((a != b).sum()) for component, (a, b) in self.components.items()}

    @property
    def component_counts(self):
        """[(component, word, count of A, of B, change, count by the prior or None)] of classes with any of these counts."""
        table = []
        for component, (a, b) in self.components.items():
            for index, word in enumerate(CLASS_NAMES[component]):
                times_a, times_b = int((a == index).sum()), int((b == index).sum())
                expected = len(self.images) * MASK_PRIOR[index]
                prior = (f"{expected:,.0f}", expected) if component == "mask" else None
                if times_a or times_b or prior:
                    table.append((component, word, times_a, times_b, (f"{times_b - times_a:+,}", times_b - times_a), prior))
        return table

    @cached_property
    def effects(self):
        """([(class, count of A, of B, expected F1 of A, of B, (effect on macro F1 as text, effect))] of the classes that are
        answered, macro F1 of A, of B), with the mean of the known probabilities as chances; None where none are known."""
        if not self.known:
            return None
        probs, C = np.mean([probs for _letter, probs in self.known], axis=0), len(self.names)
        f1_a, f1_b = (expected_f1(answers, probs) for answers in (self.a, self.b))
        times_a, times_b = (np.bincount(answers, minlength=C) for answers in (self.a, self.b))
        table = zip(self.names, times_a, times_b, f1_a, f1_b, ((signed(effect), effect) for effect in (f1_b - f1_a) / C))
        return [row for row in table if row[1] or row[2]], f1_a.mean(), f1_b.mean()


def expected_f1(answers, probs):
    """F1 of each class, float64 [C], that answers [N] can expect if `probs` [N, C] are the chances of the true classes:
    2 E[tp] / (times answered + E[images]), 0 for a class that is neither answered nor expected."""
    C = probs.shape[1]
    hits = np.bincount(answers, weights=probs[np.arange(len(answers)), answers], minlength=C)
    times = np.bincount(answers, minlength=C) + probs.sum(0)
    return np.divide(2 * hits, times, out=np.zeros(C), where=times > 0)


class Paired(namedtuple("Paired", "f1_a f1_b gap units")):
    """Macro F1 of A and B on the same images, and A - B, a predictions.Difference over `units` (people, images)."""

    def lines(self, units):
        """The verdict and, where it is noise, how many `units` (people, images) would tell, as lines for the user."""
        digits = 4 if any(0 < abs(number) < 0.0005 for number in self.gap) else 3
        difference, low, high = (f"{number:+.{digits}f}" for number in self.gap)
        verdict = {"better": "A is better", "worse": "B is better"}.get(self.gap.verdict, "noise")
        lines = [tr(f"A - B = {difference}, 95 % CI {low} .. {high}: {tr(verdict)}")]
        if verdict == "noise" and abs(self.gap.value) > 1e-9:
            # the interval's width falls as 1 / sqrt(units)
            needed = self.units * ((self.gap.high - self.gap.low) / 2 / abs(self.gap.value)) ** 2
            many = f"about {float(f'{needed:.2g}'):,.0f} {units}; you have {self.units:,}"
            takes = many if needed > self.units else f"little more than the {self.units:,} {units} you have"
            lines.append(tr(f"to tell a difference of this size takes {takes}"))
        return lines


def paired(truth, a, b, persons, num_classes):
    """The Paired of answers a and b [N] to images with true classes `truth` [N]; whole persons [N] are drawn, both alike."""
    interval = metrics.interval(metrics.bootstrap_difference(truth, a, b, persons, num_classes))
    f1_a, f1_b = (metrics.macro_f1(truth, answers, num_classes) for answers in (a, b))
    return Paired(f1_a, f1_b, predictions.Difference(f1_a - f1_b, *interval), len(set(persons)))


def signed(number):
    """'+0.0012'; what rounds to nothing has no sign."""
    text = f"{number:+.4f}"
    return text if float(text) else text[1:]


def read_side(name):
    """A or B, a csv, a run, a fold of a run or an ensemble: name, described, scored_as, source (a Member; None: a csv) and its
    `values`, classes [N] of a csv or probabilities [N, C] of `images`; None where there are none: see `lacks`."""
    path = Path(name)
    side = SimpleNamespace(name=name, described="csv", scored_as="label", source=None, images=None, values=None,
                           lacks="has no eval predictions")  # fmt: skip
    if path.is_file() and path.suffix not in (".yaml", ".pt", ".safetensors"):  # those of a run stand for it
        side.images, side.values = dataset.read_submission(path)
        return side
    if path.suffix == ".csv":
        raise InputError(f"{name}: no such file.{did_you_mean(path.name, [csv.name for csv in path.parent.glob('*.csv')])}")
    source = side.source = predictions.open_member(name)
    side.name, side.described, side.scored_as = source.name, "ensemble", source.scored_as
    with predictions.predicting([source.folder] if source.is_run else []):
        tables, folds = predictions.read_eval(source)
    if source.is_run:
        numbers = f", fold{'s' * (len(folds) > 1)} {' '.join(map(str, folds))}" if folds else ""
        side.described = f"run, target {source.target}{numbers}"
    if tables:
        table = predictions.mean(tables, source.target)
        probs = table[dataset.columns(source.target)].to_numpy(dtype=np.float64)
        side.images, side.values = table["ImageID"].tolist(), scored_probs(source.target, probs)
    return side


def hold_against_info(sides, data_dir):
    """Keep the eval images of the sides that info.csv of the data folder has; a side that lacks some of them has no values."""
    there = [side for side in sides if side.images is not None]
    known = predictions.known_names(data_dir, [side.images for side in there])
    for side in there if known else ():
        info, names = known
        if lack := predictions.lacks(side.images, names, info):
            side.lacks, side.values = lack, None
            continue
        if gone := set(side.images) - set(names):
            print(predictions.gone_message(side.name, gone, info))
        side.images, side.values = list(names), side.values[pd.Index(side.images).get_indexer(names)]


def remedy(side, data_dir):
    """The command that makes the answers to eval images that a side lacks."""
    if side.source is None or not side.source.is_run or predictions.is_brought(side.source, "none"):
        return "make it anew"
    choice = side.source.choice
    folds = "" if choice == "all" else f" --folds {choice if choice == 'best' else choice[0]}"
    place = dataset.data_option(data_dir) if data_dir else ""
    return f"python inference.py --models {shlex.quote(str(side.source.folder))}{folds}{place} makes them"


def join(a, b, scored_as):
    """The Comparison of two sides on `scored_as`, in the order of A's images. InputError when they hold different images."""
    unshared = set(a.images) ^ set(b.images)
    if unshared:
        sizes = f"({len(a.images):,} and {len(b.images):,}, {len(unshared):,} in one alone, such as {min(unshared)})"
        raise InputError(f"{a.name} and {b.name}: answers to different images {sizes}; compare answers to the same eval images")
    of_a = narrow(a.values, a.scored_as, scored_as)
    of_b = narrow(b.values, b.scored_as, scored_as)[pd.Index(b.images).get_indexer(a.images)]
    answers = [values if values.ndim == 1 else values.argmax(1) for values in (of_a, of_b)]
    return Comparison(scored_as, a.images, *answers, *(None if values.ndim == 1 else values for values in (of_a, of_b)))


def read_oof(side, scored_as, data_dir):
    """DataFrame image, path, truth, answer of a side on `scored_as`, or None where it has no oof.csv; a fold has its run's."""
    member = side.source
    if member is None or (table := predictions.read_oof(member)) is None:
        return None
    member.oof = table
    predictions.align_oof([member], data_dir)
    truth, probs = (narrow(each, side.scored_as, scored_as) for each in predictions.scored(member.oof, member.target))
    return member.oof[["image", "path"]].assign(truth=truth, answer=probs.argmax(1))


def oof_lines(a, b, scored_as, data_dir):
    """The out-of-fold verdict in lines for the user, or one line, in English, that says why there is none."""
    tables = [read_oof(side, scored_as, data_dir) for side in (a, b)]
    missing = [side.name for side, table in zip((a, b), tables) if table is None]
    if missing:
        return [f"no out-of-fold verdict: {' and '.join(missing)} {'have' if len(missing) > 1 else 'has'} no oof.csv"]
    both = tables[0].merge(tables[1], on="image", suffixes=("_a", "_b"))
    if both.empty:
        return ["no out-of-fold verdict: their oof.csv have no image in common"]
    truth, persons = both["truth_a"].to_numpy(), both["path_a"].to_numpy()
    other = truth != both["truth_b"].to_numpy()
    if other.any():
        differ = f"official labels differ, such as that of {both['image'][other].iloc[0]}; compare runs of the same data"
        raise InputError(f"{a.name} and {b.name}: {differ}")
    answers = [both[column].to_numpy() for column in ("answer_a", "answer_b")]
    if (answers[0] == answers[1]).all():
        return ["no out-of-fold verdict: all answers are the same there (a fold is stood in for by its run)"]
    C = len(CLASS_NAMES[scored_as])
    result = paired(truth, *answers, persons, C)
    note = "" if len(both) == max(map(len, tables)) else ", those that both have"
    wrong = [answer != truth for answer in answers]
    counts = f"A {wrong[0].sum():,}, B {wrong[1].sum():,}, both {(wrong[0] & wrong[1]).sum():,}"
    phi = f"{metrics.phi(*wrong):.2f}".replace("nan", "-")
    return [
        tr(f"out-of-fold macro F1 of {scored_as}: A {result.f1_a:.4f}, B {result.f1_b:.4f} "
           f"({len(both):,} images of {result.units:,} people{note})"),
        *result.lines("people"),
        tr(f"errors: {counts}; their correlation (phi) is {phi}"),
        *boundary_lines(result, truth, *answers, persons, C),
    ]  # fmt: skip


def boundary_lines(result, truth, a, b, persons, num_classes):
    """The share of the difference that people next to an age boundary make, in a line for the user."""
    # folders such as '000001_female_Asian_45'; from 57 on, as old people are all 60
    years = pd.Series(persons).str.extract("_([0-9]+)$", expand=False).astype(float)
    near, difference = (years.between(27, 32) | (years >= 57)).to_numpy(), result.gap.value
    if not near.any() or abs(difference) < 1e-9:
        return []
    share = metrics.boundary_share(truth, a, b, near, num_classes)
    made = f"{signed(share * difference)} of the {signed(difference)}" + (f" ({share:.0%})" if 0 <= share <= 1 else "")
    return [tr(f"boundary people (ages 27-32 and 57 or more; {len(set(persons[near])):,} of {result.units:,}) make {made}")]


def label_lines(path, comparison):
    """Scores of A and B on known answers to the eval images, in lines for the user."""
    path = Path(path) / "eval" / "answers.csv" if Path(path).is_dir() else Path(path)
    known = dict(zip(*dataset.read_submission(path)))
    rows = np.array([row for row, image in enumerate(comparison.images) if image in known], dtype=np.int64)
    if not len(rows):
        problem = f"holds none of the {len(comparison.images):,} images, such as {comparison.images[0]}"
        raise InputError(f"--labels {path}: {problem}")
    truth = narrow(np.array([known[comparison.images[row]] for row in rows]), "label", comparison.scored_as)
    result = paired(truth, comparison.a[rows], comparison.b[rows], rows, len(comparison.names))
    scores = f"A {result.f1_a:.4f}, B {result.f1_b:.4f} ({len(rows):,} images)"
    return [
        tr(f"macro F1 of {comparison.scored_as} against {path}: {scores}"),
        *result.lines("images"),
        tr("images are drawn one by one, as nobody knows who is on them: the true interval is wider"),
    ]


def print_table(head, rows, left):
    """Print rows of cells as in files.page_table in columns, flush right but for the columns in `left`."""
    texts = [[text for text, _key, _links in row] for row in files.page_table(head, rows)["rows"]]
    for line in files.aligned(head, texts, left):
        print(f"  {line}")


def print_changes(comparison, explain):
    """Print the number of rows that differ, in which components, and the flow from class to class."""
    total, differ, names = len(comparison.images), len(comparison.rows), comparison.names
    say(f"\nrows that differ: {differ:,} of {total:,} ({differ / total:.1%})")
    if not differ:
        return
    if len(comparison.component_changes) > 1:
        changes = ", ".join(f"{component} {count:,}" for component, count in comparison.component_changes.items())
        say(f"  by part: {changes}", " (a row may differ in more than one)" * explain)
    say("\nfrom class to class", f", the first {FLOWS} of {len(comparison.flows)}" * (len(comparison.flows) > FLOWS))
    rows = [(count, f"{count / differ:.1%}", names[a], "->", names[b]) for a, b, count in comparison.flows[:FLOWS]]
    print_table(["rows", "share", "A", "", "B"], rows, left=(2, 3, 4))


def print_counts(comparison, explain=False):
    """Print counts of every component's classes beside the prior, and each class's expected effect on macro F1."""
    has_mask = "mask" in comparison.components
    say("\nclass counts", " beside the prior (5:1:1 by mask)" * has_mask)
    rows = [row for _part, *row in comparison.component_counts]
    print_table(["", "A", "B", "B - A", "prior" if has_mask else ""], rows, left=(0,))
    if not comparison.effects:
        say("\nno expected effect on macro F1: neither has probabilities")
        return
    alone = len(comparison.known) == 1
    say("\nexpected effect on macro F1 of going from A to B", f", as {comparison.known[0][0]} alone sees it" * alone)
    (effects, f1_a, f1_b), total = comparison.effects, len(comparison.images)
    strongest = sorted(effects, key=lambda row: -abs(row[-1][1]))
    every = ("all", total, total, f1_a, f1_b, signed(f1_b - f1_a))
    print_table(["class", "A", "B", "F1 of A", "F1 of B", "effect"], [*strongest, every], left=(0,))
    if explain:
        say("  F1: expected if the mean of the known probabilities is each class's chance; unanswered classes are left out")


def print_images(comparison, every):
    """Print the most certain rows that differ, or `every` one: A's answer, then what B changes, each with its probability."""
    rows = comparison.rows if every else comparison.rows[:CERTAIN]
    if not len(rows) or not (comparison.known or every):
        return
    say("\nimages that differ" if every else f"\nmost certain disagreements, {len(rows)} of {len(comparison.rows):,}")
    for row in rows:
        a, b = comparison.a[row], comparison.b[row]
        changed = ", ".join(other for _part, word, other in changed_words(a, b, comparison.scored_as) if word != other)
        sure_a, sure_b = ("" if own is None else f" ({own[row]:.2f})" for own in comparison.own_probs)
        print(f"  {comparison.images[row]}  {comparison.names[a]}{sure_a} -> {changed}{sure_b}")


def thumbnails(data_dir, names):
    """({image name: address of its thumbnail}, why all or some lack one or "") from eval/images of a data folder."""
    if data_dir is None:
        return {}, tr("no data folder here; --data-dir DIR names it")
    root = Path(data_dir) / "eval" / "images"
    there = (name for name in names if name == Path(name).name and (root / name).is_file())
    pictures = {name: images.thumbnail(root / name, HEIGHT) for name in there}
    missing = [name for name in names if name not in pictures]
    return pictures, tr(f"{len(missing):,} of {len(names):,} images are not in {root}, such as {missing[0]}") if missing else ""


def document(sides, comparison, rows, pictures, why, verdict, scores):
    """The HTML of the page of two sides, (name, note) each; rows: those shown; pictures and why: see `thumbnails`."""
    notes, pairs = [], np.stack([comparison.a[rows], comparison.b[rows]], 1)
    if len(rows) < len(comparison.rows):
        notes.append(tr(f"{len(rows):,} of {len(comparison.rows):,} images are here, the most certain (--limit N)."))
    if why:
        notes.append(f"{tr('Some thumbnails are missing' if pictures else 'No thumbnails')}: {why}.")
    flows = [(changed_words(a, b, comparison.scored_as), n, rows[(pairs == (a, b)).all(1)]) for a, b, n in comparison.flows]
    effects = expected = None
    if comparison.effects:
        table, a, b = comparison.effects
        effects = files.page_table(["class", "A", "B", "expected F1 of A", "of B", "effect on macro F1"], table)
        expected = tr(f"Expected macro F1: A {a:.4f}, B {b:.4f}, {signed(b - a)} from A to B.")
    return files.page(
        "compare.html", title=tr(" against ").join(Path(name).name for name, _note in sides), sides=sides, notes=notes,
        comparison=comparison, flows=flows, pictures=pictures, verdict=verdict, scores=scores, effects=effects,
        expected=expected, counts=files.page_table(["part", "class", "A", "B", "B − A", "prior"], comparison.component_counts),
    )  # fmt: skip


def page_name(name):
    """A or B in the name of the page: a run's folder, a csv's folder and stem; safe on any file system."""
    path = Path(name)
    words = f"{path.parent.name}-{path.stem}" if path.suffix == ".csv" else path.name
    return re.sub(r"[^\w.+=-]+", "-", words).strip("-.").encode()[:100].decode(errors="ignore") or "x"


def write_page(args, data_dir, a, b, comparison, verdict, scores):
    """Write the page, with thumbnails from `data_dir` where there is one, and say where it is."""
    out = Path(args.out or Path("comparisons") / f"{page_name(a.name)}--{page_name(b.name)}.html")
    if not args.out:
        files.make_dir(out.parent, "--out")
    rows = comparison.rows[: args.limit]
    pictures, why = thumbnails(data_dir, [comparison.images[row] for row in rows])
    sides = [(side.name, side.source.note if side.source else "") for side in (a, b)]
    files.write_text(out, document(sides, comparison, rows, pictures, why, verdict, scores))
    say(f"\n{out}: {len(comparison.rows):,} images that differ, thumbnails of {len(pictures):,}", f" ({why})" if why else "")


def main(argv=None):
    args = parse_args(argv)
    data_dir = dataset.find_data(args.data_dir)
    a, b = (read_side(name) for name in args.sources)
    shared = {a.scored_as, b.scored_as} - {"label"} or {"label"}
    if len(shared) > 1:
        both = f"{a.name} and {b.name}: {a.scored_as} against {b.scored_as}"
        raise InputError(f"{both} have no answer in common; compare two that are scored on the same, or one of them with label")
    scored_as = shared.pop()
    print(f"A  {a.name}  ({a.described})\nB  {b.name}  ({b.described})")
    say(f"compared on {scored_as}")
    hold_against_info((a, b), args.data_dir)
    missing = [f"{side.name} {side.lacks}; {remedy(side, args.data_dir)}" for side in (a, b) if side.values is None]
    verdict, scores = oof_lines(a, b, scored_as, args.data_dir), []
    if missing and len(verdict) == 1:
        raise InputError(f"{'; '.join(missing)}. Without them: {verdict[0]}")
    verdict = [*map(tr, verdict)]
    if not missing:
        comparison = join(a, b, scored_as)
        scores = label_lines(args.labels, comparison) if args.labels else []
        print_changes(comparison, args.explain)
        print_counts(comparison, args.explain)
        print_images(comparison, args.images)
    for lines in filter(None, (verdict, scores)):
        print("\n" + "\n".join(lines))
    if missing:
        say(f"answers to the eval images are not compared: {'; '.join(missing)}")
    else:
        write_page(args, data_dir, a, b, comparison, verdict, scores)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
