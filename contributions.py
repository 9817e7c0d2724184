"""What each member brings to a blend: its own score, its weight, what it adds, and why others are left out."""

from dataclasses import dataclass, replace

import numpy as np

import blend
import dataset
import errors
import layout
import metrics
import predictions
import scoreboard
from dataset import LABELS, SCORED_AS, decode, marginals
from errors import InputError

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
    parts = blend.member_parts(target, probs, bounds)
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
    widths = [max(map(scoreboard.display_width, column)) for column in zip(*rows)]
    room = errors.WIDTH - sum(widths) - 2 * len(widths[1:]) + widths[1]
    head, *rows = [(number, layout.shorten(name, room), *others) for number, name, *others in rows]
    return scoreboard.aligned(head, rows, left=range(5))


def left_out_reason(out):
    """Why a member is left out, in words; members are numbered from 1."""
    like = "nothing like it is used"
    if out.nearest is not None:
        like = f"correlation {out.correlation:.2f} with {out.nearest + 1}"
    if abs(out.change) < 0.00005:
        return f"adds nothing ({like})"
    return f"{'lowers the score by' if out.change < 0 else 'would add only'} {abs(out.change):.4f} in-sample ({like})"
