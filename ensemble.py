"""Combine runs into one submission: any mix of targets that together decide mask, gender and age group.

    python ensemble.py --models runs/*age* runs/*gender* runs/*mask*
    python ensemble.py --models "runs/*" --search greedy --decode f1

Reads the eval predictions of each run's folds (made first where they are missing or lack images of info.csv) and its oof.csv,
and changes nothing in a run that has them. Writes submissions/NAME/: submission.csv, eval.csv (18 probabilities), recipe.yaml,
score.json, oof.csv when every member has one, bounds.png with --tune-bounds, persons.csv with --persons. What is fitted on
out-of-fold predictions is scored on people that it was not fitted to; oof.csv then holds those probabilities.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import shlex
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

import blend
import dataset
import demo
import experiment
import files
import hardware
import images
import inference
import metrics
import options
import predictions
import report
from dataset import AGE_GROUPS, GENDERS, LABELS, MASK_PRIOR, MASKS, OFFICIAL_BOUNDS, SCORED_AS, decode, head_slices, marginals
from errors import InputError

# ---- persons ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grouping:
    """The groups [N] of eval images `names` and of the out-of-fold rows `table` (image, path; None where a member has none)."""

    names: list
    eval: np.ndarray
    table: pd.DataFrame | None
    oof: np.ndarray | None

    @property
    def scores(self):
        """{pair_precision, pair_recall} of the out-of-fold groups; {} without any. See `pair_scores`."""
        if self.table is None:
            return {}
        return dict(zip(("pair_precision", "pair_recall"), pair_scores(self.oof, self.table["path"])))

    def write(self, folder):
        """persons.csv and oof_persons.csv: image,group."""
        for name, column, groups in (("persons.csv", self.names, self.eval), ("oof_persons.csv", *self._oof_columns())):
            if groups is not None:
                files.write_csv(folder / name, pd.DataFrame({"image": column, "group": groups}))

    def _oof_columns(self):
        return (None, None) if self.table is None else (self.table["image"].to_numpy(), self.oof)

    def lines(self):
        """What was found and what it calls for, for the console."""
        told = [f"persons: {len(self.names):,} eval images in {self.eval.max() + 1:,} groups of {images.SIZE} at most"]
        if self.table is not None:
            precision, recall = self.scores.values()
            told.append(
                f"  out of fold, all people at once, {len(self.oof):,} images in {self.oof.max() + 1:,}: of the pairs in a "
                f"group {precision:.1%} are of one person, of the pairs of a person {recall:.1%} are in a group"
            )
        return [*told, "  whether images may be answered together is for the contest's rules to say: ask before you hand it in"]


def find_persons(names, table, args):
    """The Grouping of eval images and of out-of-fold rows (or None), from the images of the data folder.

    Out-of-fold rows are grouped over all folds, as so many strangers are among eval images too. A stranger of another fold in a
    group brings in a model that has seen the person; keeping to folds changed the macro F1 of 700 people from 0.5841 to 0.5848.
    """
    data_dir = args.data_dir or demo.find()
    if data_dir is None:
        raise InputError("--persons: looks at the images, and there is no data folder here; give --data-dir")
    data_dir = demo.locate(data_dir)[0]
    groups = images.group_persons([f"{data_dir}/eval/images/{name}" for name in names], args)
    return Grouping(
        names,
        groups,
        table,
        None if table is None else images.group_persons(dataset.image_files(data_dir, table["image"]), args),
    )


def _means(probs, groups):
    """The mean of the rows [N, C] of each group, for each of its rows: [N, C]."""
    sums = np.zeros((groups.max() + 1, probs.shape[1]))
    np.add.at(sums, groups, probs)
    return (sums / np.maximum(np.bincount(groups), 1)[:, None])[groups]


def share_probs(target, probs, groups):
    """A member's probabilities [N, C] with those of gender and age averaged over each group; each image keeps its own mask's.

    Of the 18 classes of `label` the mean is that of gender and age group together, and their product with the mask's
    probabilities takes the place of what the member said; an image alone in its group stays as it is.
    """
    if target == "label":
        joint = probs.reshape(len(probs), len(MASKS), len(GENDERS) * len(AGE_GROUPS))
        product = (joint.sum(2)[:, :, None] * _means(joint.sum(1), groups)[:, None, :]).reshape(probs.shape)
        return np.where((np.bincount(groups)[groups] > 1)[:, None], product, probs)
    shared = np.array(probs, dtype=np.float64)
    for head, columns in head_slices(target).items():
        if head != "mask":
            shared[:, columns] = _means(shared[:, columns], groups)
    return shared


def share_members(members, groups):
    """Members with the probabilities of each shared within groups [N]."""
    return [(target, share_probs(target, probs, groups)) for target, probs in members]


def pair_scores(groups, persons):
    """(precision, recall) of groups [N] against who is on the images, persons [N]: the share of pairs of one group that are of
    one person, and of pairs of one person that are of one group; 0 where there are no pairs."""

    def pairs(*keys):
        count = np.unique(np.stack(keys), axis=1, return_counts=True)[1]
        return (count * (count - 1) // 2).sum()

    person = np.unique(persons, return_inverse=True)[1]
    both, grouped, true = pairs(groups, person), pairs(groups), pairs(person)
    return tuple(round(float(both / max(total, 1)), 6) for total in (grouped, true))


# ---- advice -----------------------------------------------------------------------------------------------------------

READ = 20  # results whose predictions are read, the highest scores first


@dataclass(frozen=True)
class Candidate:
    """A scored result folder over some images: macro F1, predicted classes of the train images and of the eval images.

    `persons`: it joins the images of a person, for which the contest's rules must give leave.
    """

    folder: Path
    f1: float
    pred: np.ndarray
    answers: np.ndarray
    persons: bool = False


@dataclass(frozen=True)
class Advice:
    """The two to hand in, `second` None where no other result is within noise of the first, and the reason for it.

    `gap` and `gap_ci95`: macro F1 of the first minus that of the second, with its paired interval over people; `phi`:
    correlation of being wrong on an image; `apart`: share of the eval images that the two answer differently. `allowed`: the
    Advice among the results that need nobody's leave, where one of the two does, if there is any.
    """

    first: Candidate
    second: Candidate | None = None
    gap: float = np.nan
    gap_ci95: tuple = (np.nan, np.nan)
    phi: float = np.nan
    apart: float = np.nan
    allowed: "Advice | None" = None


def joins_persons(folder):
    """Whether an ensemble was made with --persons, or has a member that was."""
    folders = [Path(folder)]
    for one in folders:  # which grows: ensembles may be members
        try:
            recipe = experiment.read_recipe(one)
        except InputError:  # a run has none
            continue
        if recipe.get("persons"):
            return True
        members = {Path(member["run"]) for member in recipe.get("members", ())}
        folders += sorted(members.difference(folders))
    return False


def scored_folders(output_dir):
    """[(oof_f1, half the width of its interval, folder)] of a directory's results from score.json, highest score first."""
    found = []
    for path in Path(output_dir).glob("*/score.json"):
        try:
            scores = files.read_json(path)
            low, high = scores["oof_f1_ci95"]
            found.append((float(scores["oof_f1"]), (high - low) / 2, path.parent))
        except (InputError, ArithmeticError, KeyError, TypeError, ValueError):
            continue  # no score, or none that a result of ours has
    return sorted(found, key=lambda row: (-row[0], str(row[2])))


def _read_candidate(folder, f1, images, names):
    """The Result of a folder, or None where it is not over these train images and these eval images."""
    try:
        oof = predictions.read_table(folder / "oof.csv", "label", ("image",)).set_index("image")
        answers = dict(zip(*dataset.read_submission(folder / "submission.csv")))
    except InputError:
        return None
    if len(oof) != len(images) or len(answers) != len(names) or {*oof.index} != {*images} or {*answers} != {*names}:
        return None
    pred = oof.loc[images, dataset.columns("label")].to_numpy().argmax(1)
    return Candidate(folder, f1, pred, np.array([answers[name] for name in names]), joins_persons(folder))


def advise(folder, oof, names):
    """The Advice of a result folder and those beside it, over the train images of its `oof` (the oof.csv table) and the eval
    images `names`; None where fewer than two are there."""
    images = oof["image"].tolist()
    folders = scored_folders(folder.parent)[:READ]
    if len(folders) < 2:
        return None
    halves = {folder: half for _f1, half, folder in folders}
    results = [result for f1, _half, folder in folders if (result := _read_candidate(folder, f1, images, names))]
    if len(results) < 2:
        return None
    people = oof["target"].to_numpy(), oof["path"].to_numpy()
    advice = _choose_pair(results, halves, *people)
    allowed = [result for result in results if not result.persons]
    if not allowed or not any(result and result.persons for result in (advice.first, advice.second)):
        return advice
    return replace(advice, allowed=_choose_pair(allowed, halves, *people))


def _choose_pair(results, halves, truth, persons):
    """The Advice among results, the highest score first; halves: of the widths of their intervals.

    What is the first one again, in all it answers, is none to hand in beside it.
    """
    first, *others = results
    wrong = first.pred != truth
    others = [other for other in others if (other.answers != first.answers).any() or (other.pred != first.pred).any()]
    near = [other for other in others if first.f1 - other.f1 <= halves[first.folder] + halves[other.folder]]
    alike = {other.folder: np.nan_to_num(metrics.phi(wrong, other.pred != truth)) for other in near}
    for other in sorted(near, key=lambda other: alike[other.folder]):
        low, high = metrics.interval(metrics.bootstrap_difference(truth, first.pred, other.pred, persons, len(LABELS)))
        if low <= 0 <= high:
            apart = float((first.answers != other.answers).mean())
            return Advice(first, other, first.f1 - other.f1, (low, high), alike[other.folder], apart)
    return Advice(first)


def advice_lines(advice):
    """An Advice in words, for the console."""
    told = ["the two to hand in at the end:", *_pair(advice)]
    if advice.first.persons or (advice.second and advice.second.persons):
        told.append("  --persons joins images, which the contest's rules must allow; without it:")
        told += _pair(advice.allowed) if advice.allowed else ["  none: combine members without --persons"]
    return told


def _pair(advice):
    first, second = advice.first, advice.second
    told = [f"  1  {_name(first)}: macro F1 {first.f1:.4f}, the highest"]
    if second is None:
        return [*told, "  2  none: all else is worse by more than noise, or the same again; combine other members for one"]
    low, high = advice.gap_ci95
    noise = f"lower by {advice.gap:.4f} (95 % CI {low:+.4f} .. {high:+.4f}: noise)"
    apart = f"correlation {advice.phi:.2f}, {advice.apart:.1%} of answers differ"
    return [
        *told,
        f"  2  {_name(second)}: macro F1 {second.f1:.4f}, {noise};",
        f"     its errors are least like those of 1: {apart}",
    ]


def _name(result):
    return f"{result.folder}{' (--persons)' if result.persons else ''}"


# ---- contributions ----------------------------------------------------------------------------------------------------

SHOWN = 12  # members that are left out, and steps of the greedy path
MANY = 40  # members from which on what each adds is not worked out


@dataclass(frozen=True)
class LeftOut:
    """A member without weight: the member most like it among those used (None: no part in common), the correlation of the
    two, and the change of macro F1 when it enters at the mean weight of the others."""

    index: int
    nearest: int | None
    correlation: float
    change: float


def own_score(target, oof):
    """Macro F1 of an oof.csv table on what its target is scored on, at the official bounds."""
    truth, probs = predictions.scored(oof, target)
    return metrics.macro_f1(truth, probs.argmax(1), probs.shape[1])


def total_weight(weight):
    """The weight of a member as one number: the sum over its parts."""
    return sum(weight.values()) if isinstance(weight, dict) else weight


def _f1(plan, fitted, weights, members, truth):
    """In-sample macro F1 with other weights and everything else as fitted; -inf where a part is left undecided."""
    try:
        probs, _factors = blend.finish_plan(plan, blend.apply_plan(plan, replace(fitted, weights=weights), members))
    except InputError:
        return -np.inf
    return metrics.macro_f1(truth, probs.argmax(1), len(LABELS))


def added(plan, fitted, members, truth):
    """What each member adds: in-sample macro F1 minus that without it, nothing fitted anew [len(members)].

    Infinite where the others leave a part undecided; NaN where it has no weight, for a stacker and for many members.
    """
    weights = fitted.weights or [1] * len(members)
    used = [index for index, weight in enumerate(weights) if total_weight(weight) > 0]
    adds = np.full(len(members), np.nan)
    if plan.method == "stack" or len(used) > MANY:
        return adds
    fitted, members = blend.scale_by_temperatures(fitted, members)
    whole = _f1(plan, fitted, weights, members, truth)
    for index in used:
        adds[index] = whole - _f1(plan, fitted, [*weights[:index], 0, *weights[index + 1 :]], members, truth)
    return adds


def truth_probs(target, probs, truth, bounds):
    """{part: [N]}: the probability that a member gives to the true class of each part it decides."""
    parts = blend.member_components(target, probs, bounds)
    parts = marginals(parts["label"]) if "label" in parts else parts
    true = dict(zip(dataset.COMPONENTS, decode(truth)))
    return {part: part_probs[np.arange(len(truth)), true[part]] for part, part_probs in parts.items()}


def correlation(one, other):
    """Mean over the parts that both decide of the correlation of two `truth_probs`; NaN where there is none."""
    found = [np.corrcoef(one[part], other[part])[0, 1] for part in one if part in other and one[part].std() * other[part].std()]
    return float(np.mean(found)) if found else np.nan


def left_out(plan, fitted, members, truth, limit=SHOWN):
    """LeftOut of the first `limit` members without weight."""
    weights = fitted.weights or [1] * len(members)
    totals = np.array([total_weight(weight) for weight in weights])
    used, unused = np.flatnonzero(totals > 0), np.flatnonzero(totals == 0)
    if not len(unused):
        return []
    fitted, members = blend.scale_by_temperatures(fitted, members)
    whole = _f1(plan, fitted, weights, members, truth)
    at_truth = {index: truth_probs(*members[index], truth, fitted.bounds) for index in (*used, *unused[:limit])}
    found = []
    for index in unused[:limit]:
        alike = [correlation(at_truth[index], at_truth[other]) for other in used]
        nearest = None if np.isnan(alike).all() else int(np.nanargmax(alike))
        entered = [*weights[:index], totals[used].mean(), *weights[index + 1 :]]
        change = _f1(plan, fitted, entered, members, truth) - whole
        known = (None, np.nan) if nearest is None else (int(used[nearest]), alike[nearest])
        found.append(LeftOut(int(index), *known, change))
    return found


def _weight_text(weight):
    if isinstance(weight, dict):
        return "/".join(f"{value:.2f}" for value in weight.values())
    return f"{weight:g}" if weight == int(weight) else f"{weight:.3f}"


def _folds_text(folds):
    if len(folds) > 3 and folds == list(range(folds[0], folds[-1] + 1)):
        return f"{folds[0]}..{folds[-1]}"
    return " ".join(map(str, folds)) or "–"


def contributions_table(found, weights, adds):
    """Lines of a table of `found` (members.Member) with their weights (None: there is none) and what each adds.

    Names are shortened so that lines fit the console.
    """
    rows = [("#", "member", "target", "folds", "scored on", "own F1", "weight", "adds")]
    for number, (member, weight, add) in enumerate(zip(found, weights, adds), start=1):
        own = "–" if member.oof is None else f"{own_score(member.target, member.oof):.4f}"
        said = "–" if weight is None else _weight_text(weight)
        more = "–" if np.isnan(add) else "needed" if np.isinf(add) else f"{add:+.4f}"
        target = member.target
        rows.append((str(number), member.name, target, _folds_text(member.folds), SCORED_AS[target], own, said, more))
    widths = [max(map(files.display_width, column)) for column in zip(*rows)]
    room = errors.WIDTH - sum(widths) - 2 * len(widths[1:]) + widths[1]
    head, *rows = [(number, report.shorten(name, room), *others) for number, name, *others in rows]
    return files.aligned(head, rows, left=range(5))


def left_out_reason(out):
    """Why a member is left out, in words; members are numbered from 1."""
    like = "nothing like it is used"
    if out.nearest is not None:
        like = f"correlation {out.correlation:.2f} with {out.nearest + 1}"
    if abs(out.change) < 0.00005:
        return f"adds nothing ({like})"
    return f"{'lowers the score by' if out.change < 0 else 'would add only'} {abs(out.change):.4f} in-sample ({like})"


# ---- telling ----------------------------------------------------------------------------------------------------------

PRIOR_TOLERANCE = 0.01  # of a predicted mask share


def bounds_option(args):
    """The option that says where ages are cut, as it stands in the command line."""
    return "--tune-bounds" if args.tune_bounds else "--age-bounds {} {}".format(*args.age_bounds)


def say(text, indent="", hang="  ", out=print):
    """Print text in lines of the console's width, the first after `indent`, the others after `hang`."""
    for line in textwrap.wrap(text, errors.WIDTH, initial_indent=indent, subsequent_indent=hang, break_on_hyphens=False):
        out(line)


def say_members(result):
    """The table of members: own scores, weights, what each adds; and why others are left out."""
    plan, fitted, images = result.plan, result.fitted, result.images
    adds = [np.nan] * len(result.members)
    if images:
        adds = added(plan, fitted, images.members, images.truth)
    for line in contributions_table(result.members, result.weights, adds):
        print(line)
    unused = sum(total_weight(weight) == 0 for weight in fitted.weights or [])
    if unused:
        left = left_out(plan, fitted, images.members, images.truth)
        for out in left:
            say(f"{out.index + 1} is left out: {left_out_reason(out)}")
        if unused > len(left):
            print(f"{unused - len(left)} more are left out")


def say_fit(result):
    """What was found: the temperatures, the path of the search, the bounds, the biases and the factors of the mask states."""
    fitted = result.fitted
    if fitted.temperatures:
        told = [" ".join(f"{value:.2f}" for value in heads.values()) for heads in fitted.temperatures[:SHOWN]]
        rest = f" and {len(fitted.temperatures) - len(told)} more" if len(fitted.temperatures) > len(told) else ""
        say(f"temperatures: {', '.join(f'{index}: {values}' for index, values in enumerate(told, start=1))}{rest}")
    if fitted.path:
        steps = [f"{index + 1}" if np.isnan(f1) else f"{index + 1} {f1:.4f}" for index, f1 in fitted.path]
        more = len(steps) - SHOWN
        rest = f" and {more} more, to {fitted.path[-1][1]:.4f}" if more > 0 else ""
        say(f"greedy path (member, in-sample macro F1): {' > '.join(steps[:SHOWN])}{rest}")
    if result.plan.bounds is None:
        parts = ", ".join(" ".join(map(str, part.bounds)) for part in result.scored.fits)
        say(
            f"age bounds: {fitted.bounds[0]} {fitted.bounds[1]} (without each of "
            f"{blend.CROSSFIT_FOLDS} parts of the people: {parts})"
        )
    if fitted.class_factors is not None:
        strongest = np.argsort(-np.abs(np.log(fitted.class_factors)))[:3]
        told = "; ".join(f"{fitted.class_factors[index]:.2f} for class {index}, {LABELS[index]}" for index in strongest)
        say(f"strongest factors: {told}")
    if result.plan.meets_prior:
        told = ", ".join(f"{name} {factor:.3g}" for name, factor in zip(MASKS, result.mask_factors))
        say(f"factors of the mask states for 5:1:1 among the eval images: {told}")


def say_persons(grouping):
    """What --persons found, and that it needs leave; nothing without it."""
    for line in grouping.lines() if grouping else ():
        say(line.strip(), indent=" " * (len(line) - len(line.lstrip())), hang="    ")


def say_scores(result):
    """The out-of-fold score with its interval, and for what was fitted the in-sample score and whether it paid."""
    if result.scored is None:
        lacking = [member.name for member in result.members if member.oof is None]
        print(f"no out-of-fold score: {', '.join(lacking)} has no oof.csv")
        return
    scores, plan = result.scored.scores, result.plan
    low, high = scores["oof_f1_ci95"]
    print(
        f"out-of-fold macro F1 of label: {scores['oof_f1']:.4f} (95 % CI over people {low:.4f} .. {high:.4f}), "
        f"accuracy {scores['oof_acc']:.4f}"
    )
    if plan.fitted_options:
        parts = scores["crossfit_parts"]
        print(f"  cross-fitted: each of {parts} parts of the people is scored by what was fitted to the others")
        print(f"  in-sample {scores['in_sample_f1']:.4f}: fitted to and scored on the same people, optimistic as a rule")
    if plan != blend.Plan(seed=plan.seed) or result.grouping:
        low, high = scores["gain_ci95"]
        print(
            f"  plain average of all members {scores['plain_f1']:.4f}: gain {scores['gain']:+.4f}, "
            f"95 % CI {low:+.4f} .. {high:+.4f}: {metrics.verdict(low, high)}"
        )
    if plan.meets_prior:
        say_true_shares(result.images.truth)


def say_plain_oof(tta, found):
    """Which members' part in the out-of-fold score is without the TTA that their eval predictions have."""
    lacking = [member.name for member in found if member.oof is not None and not predictions.has_oof(member.source, tta)]
    if lacking:
        made = f"python inference.py --models RUN --tta {tta} --oof makes them with it"
        say(f"out of fold without --tta {tta}: {', '.join(lacking)}; {made}", indent="  ", hang="    ")


def say_true_shares(truth):
    """Where the true mask shares of labels [N] depart from 5:1:1, that the prior is not theirs."""
    shares = np.bincount(decode(truth)[0], minlength=len(MASKS)) / len(truth)
    if np.abs(shares - MASK_PRIOR).max() > PRIOR_TOLERANCE:
        told = ", ".join(f"{name} {share:.1%}" for name, share in zip(MASKS, shares))
        say(f"the out-of-fold images are not 5:1:1 by mask ({told}): the prior is a wrong one there", indent="  ", hang="    ")


def predicted_shares(eval_probs):
    """Shares of the predicted classes of each part, in a line."""
    said = []
    for classes, names in zip(decode(eval_probs.argmax(1)), (MASKS, GENDERS, AGE_GROUPS)):
        shares = [f"{name} {np.mean(classes == index):.1%}" for index, name in enumerate(names)]
        said.append(", ".join(shares if len(shares) > 2 else shares[1:]))
    return "; ".join(said)


def warn_of_prior(eval_probs):
    """A warning on stderr where a predicted mask share departs from 5:1:1 by more than a percentage point."""
    mask = decode(eval_probs.argmax(1))[0]
    counts, expected = np.bincount(mask, minlength=len(MASKS)), np.multiply(MASK_PRIOR, len(mask))
    if np.abs(counts - expected).max() > PRIOR_TOLERANCE * len(mask):
        told = ", ".join(
            f"{name} {count:,} ({count / len(mask):.1%}) for {round(prior):,} ({prior / len(mask):.1%})"
            for name, count, prior in zip(MASKS, counts, expected)
        )
        say(f"warning: eval images are 5:1:1 by mask, but the predictions are {told}", out=errors.say)


def say_next(args, result, folder):
    """What to hand in, where there is a choice, and the next command."""
    images, advised = result.images, None
    data = demo.as_option(args.data_dir) if args.data_dir else ""
    if images:
        advised = advise(folder, images.table.assign(target=images.truth), result.names)
    for line in advice_lines(advised) if advised else ():
        print(line)
    if advised and advised.second:
        told = shlex.join(["compare.py", str(advised.first.folder), str(advised.second.folder)]) + data
    elif images and not result.plan.fitted_options and len(result.members) > 1:
        told = shlex.join(["ensemble.py", "--models", *args.models, "--folds", args.folds, "--tta", args.tta])
        cut = "" if result.plan.bounds == OFFICIAL_BOUNDS else f" {bounds_option(args)}"
        kept = f"{' --decode prior' if result.plan.meets_prior else ''}{' --persons' if args.persons else ''}"
        told += f"{cut}{data}{kept} --search greedy"
    else:
        told = "leaderboard.py"
    print(f"next: python {told}")


YAML = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": errors.WIDTH}


def parse_args(argv):
    parser = options.Parser("Combine runs into one submission: any mix of targets that decide mask, gender and age group.")
    parser.add_argument("--models", nargs="+", required=True, metavar="RUN",
                        help="run or ensemble folders, RUN:foldN, RUN:best, or patterns in quotes")  # fmt: skip
    parser.add_argument("--method", choices=blend.METHODS, default="soft",
                        help="average probabilities, vote, or learn from them (multinomial logistic regression)")  # fmt: skip
    parser.add_argument("--search", choices=blend.SEARCHES, default="none",
                        help="greedy: choose members, with replacement; weights: weigh each member and part")  # fmt: skip
    parser.add_argument("--decode", choices=blend.DECODES, default="argmax",
                        help="before the highest probability is taken: f1: a factor for each class, for macro F1; prior: one "
                        "for each mask state, so that the predictions are 5:1:1 by mask as the eval images are")  # fmt: skip
    parser.add_argument("--temperature", action="store_true",
                        help="scale each member to be as sure as it is right, before members are averaged")  # fmt: skip
    parser.add_argument("--persons", action="store_true",
                        help="images that look like one person share gender and age; the contest's rules decide")  # fmt: skip
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--age-bounds", type=options.whole_int, nargs=2, default=list(OFFICIAL_BOUNDS), metavar=("LO", "HI"),
                     help="where the distributions of target age runs are cut")  # fmt: skip
    cut.add_argument("--tune-bounds", action="store_true", help="find that cut on out-of-fold predictions, and draw bounds.png")
    options.add_folds(parser, numbers=False)
    options.add_tta(parser)
    parser.add_argument("--seed", type=options.natural_int, default=0, help="of the parts of the people that are scored")
    parser.add_argument("--name", help="folder of the result; without it the next NN-METHOD-COUNTruns")
    parser.add_argument("--output-dir", default="submissions", metavar="DIR", help="where result folders are made")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options.add_data(parser)
    options.add_compute(parser, batch_size=128)
    args = parser.parse_args(argv)
    options.check_bounds(parser, args.age_bounds)
    if args.search != "none" and args.method != "soft":
        parser.error(f"--search {args.search}: finds weights for --method soft; with --method {args.method} leave it out")
    if args.temperature and args.method != "soft":
        parser.error(f"--temperature: is for averages; leave it out with --method {args.method}, which goes by no scale")
    if args.method == "stack" and (args.tune_bounds or tuple(args.age_bounds) != OFFICIAL_BOUNDS):
        parser.error(f"{bounds_option(args)}: --method stack learns from single ages where to cut; leave one of the two out")
    return args


@dataclass(frozen=True)
class OofImages:
    """The train images that every member predicts out of fold: rows of oof.csv (image, path, fold), official labels [N],
    and the members' (target, probabilities)."""

    table: pd.DataFrame
    truth: np.ndarray
    members: list

    @property
    def persons(self):
        return self.table["path"].to_numpy()


@dataclass(frozen=True)
class Submission:
    """All there is to write and to tell; `images` and `scored` are None where a member has no oof.csv. `mask_factors`: those
    of pipeline.finish on the eval images, `grouping`: persons.Grouping with --persons."""

    plan: blend.Plan
    members: list
    names: list
    images: OofImages | None
    fitted: blend.Fitted
    scored: blend.OutOfFold | None
    eval_probs: np.ndarray
    mask_factors: np.ndarray | None = None
    grouping: Grouping | None = None

    @property
    def weights(self):
        """A weight for each member, or None for each where a stacker takes their place."""
        if self.plan.method == "stack":
            return [None] * len(self.members)
        return self.fitted.weights or [1] * len(self.members)


def main(argv=None):
    hardware.tune_malloc()
    args = parse_args(argv)
    experiment.check_free(args.output_dir, args.name)
    plan, data_dir = make_plan(args), demo.find(args.data_dir)
    found = read_members(args, plan)
    result = combine(args, plan, found)
    folder = write_result(args, result)
    say_members(result)
    say_fit(result)
    say_persons(result.grouping)
    say_scores(result)
    say_plain_oof(args.tta, found)
    inference.say_score(data_dir, result.names, result.eval_probs, folder.name)
    print(f"{folder / 'submission.csv'}: {len(result.names)} images")
    say(predicted_shares(result.eval_probs), indent="  ")
    warn_of_prior(result.eval_probs)
    say_next(args, result, folder)
    return 0


def make_plan(args):
    """The pipeline.Plan of the options."""
    cut = None if args.tune_bounds else tuple(args.age_bounds)
    return blend.Plan(args.method, args.search, args.decode, cut, args.seed, args.temperature)


def read_members(args, plan):
    """The members that --models names; eval predictions that are missing are made first."""
    sources = predictions.find_sources(args.models, args.folds)
    blend.check_decided([source.target for source in sources])
    if "age" not in {source.target for source in sources} and plan.bounds != OFFICIAL_BOUNDS:
        raise InputError(f"{bounds_option(args)}: only runs of target age can be cut anew, and none is given")
    for source in sources if plan.fitted_options else ():
        if not source.matched and not (source.folder / "oof.csv").is_file():
            raise InputError(
                f"{plan.fitted_options[0]}: needs out-of-fold predictions, and {source.name} has no oof.csv; leave out that "
                "member or the option"
            )

    def predict(jobs):
        images = dataset.read_eval_images(demo.locate(args.data_dir)[0])
        inference.predict_folds(jobs, images, args, hardware.pick_device(args.device))

    with predictions.predicting(source.folder for source in sources if source.is_run):
        return predictions.read_members(sources, args.tta, predict, plan.temperature, bool(plan.fitted_options), args.data_dir)


def read_oof_images(found):
    """The OofImages of members, or None where one of them has no oof.csv."""
    if any(member.oof is None for member in found):
        return None
    table, truth = predictions.oof_truth(found)
    return OofImages(table, truth, [(member.target, member.oof_probs(table["image"])) for member in found])


def combine(args, plan, found):
    """The Result of a plan: fitted and scored on out-of-fold predictions, applied to the eval images."""
    names, images = found[0].eval["ImageID"].tolist(), read_oof_images(found)
    folds = [[(member.target, probs) for probs in member.fold_probs(names)] for member in found]
    plain = images and blend.blend(images.members)
    fitted, scored, grouping = blend.Fitted(plan.bounds), None, None
    if args.persons:
        grouping = find_persons(names, images and images.table, args)
        folds = [share_members(models, grouping.eval) for models in folds]
        images = images and replace(images, members=share_members(images.members, grouping.oof))
    if images:
        fitted = blend.fit_plan(plan, images.members, images.truth)
        scored = blend.score_plan(plan, fitted, images.members, images.truth, images.persons, args.quiet, plain)
    finished = blend.finish_plan(plan, blend.apply_plan(plan, *blend.average_folds(fitted, folds)))
    return Submission(plan, found, names, images, fitted, scored, *finished, grouping)


def make_recipe(args, result):
    """recipe.yaml (a dict): with the eval.csv of the members' folds (and stack.csv) all that eval.csv and submission.csv are
    made of."""
    plan, fitted = result.plan, result.fitted
    recipe = {
        "method": plan.method,
        "search": plan.search,
        "decode": plan.decode,
        "age_bounds": list(fitted.bounds),
        "tune_bounds": args.tune_bounds,
        "temperature": plan.temperature,
        "persons": args.persons,
        "tta": args.tta,
        "seed": plan.seed,
        "members": [
            {"run": member.name, "target": member.target, "folds": member.folds, "weight": weight}
            for member, weight in zip(result.members, result.weights)
        ],
    }
    for member, temperature in zip(recipe["members"], fitted.temperatures or ()):
        member["temperature"] = temperature
    if fitted.path:
        scores = [(index, None if np.isnan(f1) else round(float(f1), 6)) for index, f1 in fitted.path]
        recipe["path"] = [{"run": result.members[index].name, "in_sample_f1": f1} for index, f1 in scores]
    if fitted.class_factors is not None:
        recipe["biases"] = fitted.class_factors.tolist()
    if plan.meets_prior:
        recipe["mask_factors"] = result.mask_factors.tolist()
        if result.scored:
            recipe["oof_mask_factors"] = result.scored.mask_factors.tolist()
    if args.tune_bounds:
        recipe["crossfit_bounds"] = [list(part.bounds) for part in result.scored.fits]
    return recipe


def write_result(args, result):
    """Write the result folder, complete or not at all, and return it."""
    images, scored, plan, fitted = result.images, result.scored, result.plan, result.fitted

    def fill(inside, name):
        eval_table = predictions.eval_table(result.names, "label", result.eval_probs)
        files.write_csv(inside / "submission.csv", predictions.submission_table(result.names, result.eval_probs))
        files.write_csv(inside / "eval.csv", eval_table, predictions.FORMAT)
        if scored:
            fold = images.table["fold"].to_numpy()
            oof = predictions.oof_table(images.table, fold, "label", images.truth[:, None], scored.probs)
            files.write_csv(inside / "oof.csv", oof, predictions.FORMAT)
        files.write_text(inside / "recipe.yaml", yaml.safe_dump(make_recipe(args, result), **YAML))
        scores = scored.scores if scored else dict.fromkeys(blend.SCORES)
        files.write_json(inside / "score.json", scores | (result.grouping.scores if result.grouping else {}))
        if result.grouping:
            result.grouping.write(inside)
        if plan.method == "stack":
            table = blend.stack_table(fitted.stack, [(member.name, member.target) for member in result.members])
            files.write_csv(inside / "stack.csv", table)
        if args.tune_bounds:
            scaled, given = blend.scale_by_temperatures(fitted, images.members)
            study = blend.study_bounds(given, images.truth, images.persons, scaled.bounds, plan.method, scaled.weights)
            figure = report.bounds(study, [part.bounds for part in scored.fits], f"age bounds of {name}")
            files.write_figure(inside / "bounds.png", figure)

    kind = f"{plan.method}-{len(result.members)}runs"
    return experiment.make_folder(args.output_dir, args.name, lambda: experiment.next_number(args.output_dir, kind), fill)


if __name__ == "__main__":
    sys.exit(errors.run(main))
