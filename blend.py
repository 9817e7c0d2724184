"""From members to the 18 probabilities: averages, temperatures, age bounds, weights or a stacker, class factors, the prior.

`fit_plan` and `apply_plan` are one pipeline, so that cross-fitting scores all of it at once; `finish_plan` looks at all images
together. Members are lists of (target, probabilities [N, num_outputs(target)]).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

import dataset
import metrics
from dataset import (
    AGE_GROUPS,
    COMPONENTS,
    FIRST_AGE,
    GENDERS,
    LABELS,
    MASK_PRIOR,
    MASKS,
    OFFICIAL_BOUNDS,
    age_group_probs,
    combine,
    decode,
    head_slices,
    marginals,
    to_age_group,
)
from errors import InputError

BLEND_METHODS = ("soft", "hard")


def votes(probs):
    """One vote of each row for its most probable class [N, C]; a trace of the probabilities decides between equal votes."""
    cast = np.eye(probs.shape[1])[probs.argmax(1)]
    return (cast + 1e-3 * probs) / (1 + 1e-3 * probs.sum(1, keepdims=True))


def check_decided(targets):
    """InputError unless runs of these targets together decide mask, gender and age group."""
    decided = {part for target in targets for part in dataset.DECIDES[target]}
    lacking = [part for part in dataset.COMPONENTS if part not in decided]
    if lacking:
        raise InputError(f"--models: no run decides {' or '.join(lacking)}; add such runs, or one of target label or multi")


def member_parts(target, probs, bounds=OFFICIAL_BOUNDS):
    """What a member says: {"label": [N, 18]} or {part: [N, C]}; `multi` gives all three parts, `age` is cut at `bounds`."""
    if target == "label":
        return {"label": probs}
    if target == "age":
        return {"age_group": age_group_probs(probs, bounds)}
    return {head: probs[:, columns] for head, columns in head_slices(target).items()}


def blend(members, method="soft", bounds=OFFICIAL_BOUNDS, weights=None):
    """Probabilities of the 18 classes [N, 18] from `members`, a list of (target, probabilities [N, num_outputs(target)]).

    Members of one part (mask, gender, age_group) are averaged (soft) or voted (hard), the parts are multiplied, and the
    product is averaged with the members of target label. Each part of a member counts one third in that average, so a
    `multi` member weighs as much as a `label` member, and so do a mask, a gender and an age_group member together. Parts
    that only label members decide are their marginals. `weights`: for each member a number >= 0, or {part: number} for
    the parts it gives; all 1 without it. InputError when parts are left undecided.
    """
    cast = votes if method == "hard" else np.asarray
    sums, totals = {}, {}
    for index, (target, probs) in enumerate(members):
        for part, part_probs in member_parts(target, probs, bounds).items():
            weight = 1.0 if weights is None else weights[index]
            weight = weight.get(part, 0.0) if isinstance(weight, dict) else weight
            if weight > 0:
                sums[part] = sums.get(part, 0.0) + weight * cast(part_probs)
                totals[part] = totals.get(part, 0.0) + weight
    check_decided(totals)
    mean = {part: sums[part] / totals[part] for part in sums}
    label, label_weight = mean.pop("label", None), totals.pop("label", 0.0)
    if not mean:
        return label
    if label is not None:
        mean = {**marginals(label), **mean}
    product, product_weight = (
        combine(*(mean[part] for part in dataset.COMPONENTS)),
        sum(totals.values()) / len(dataset.COMPONENTS),
    )
    if label is None:
        return product
    return (product_weight * product + label_weight * label) / (product_weight + label_weight)


# ---- temperatures -----------------------------------------------------------------------------------------------------

LIMITS = (0.1, 10.0)  # of a temperature; members that are never wrong would ask for 0
FLOOR = 1e-12  # what a probability of 0 stands for: too small to be written down


def _logs(probs):
    logs = np.log(np.maximum(np.asarray(probs, dtype=np.float64), FLOOR))
    return logs - logs.max(1, keepdims=True)


def apply_temperature(probs, temperature):
    """Probabilities [N, C] as a softmax of their logarithms over `temperature` gives them: float64 [N, C]."""
    powers = np.exp(_logs(probs) / temperature)
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(probs, right):
    """The temperature within LIMITS of least negative log-likelihood: a float, rounded as it is written down.

    After Guo et al., "On calibration of modern neural networks" (ICML 2017, arXiv 1706.04599). probs [N, C]; right bool
    [N, C] marks the true column of each row. Different: several columns may be right, as the ages of a group are. With one
    right column a row the loss has a single valley, which Brent's bounded search in the logarithm can't miss.
    """
    logs = _logs(probs)

    def loss(log_temperature):
        powers = np.exp(logs * np.exp(-log_temperature))
        return np.mean(np.log(powers.sum(1)) - np.log(np.where(right, powers, 0.0).sum(1)))

    found = optimize.minimize_scalar(loss, bounds=np.log(LIMITS), method="bounded")
    return round(float(np.exp(found.x)), 6)


def fit_member_temperatures(target, probs, truth):
    """{head: temperature} of a member, fitted to official labels truth [N].

    The head `age` has one for its single ages, and its likelihood is that of the official age group, which is what counts
    and all that oof.csv holds of the truth.
    """
    true = {"label": truth, **dict(zip(COMPONENTS, decode(truth)))}
    found = {}
    for head, columns in head_slices(target).items():
        classes = np.arange(columns.stop - columns.start)
        if head == "age":
            right = to_age_group(classes + FIRST_AGE) == true["age_group"][:, None]
        else:
            right = classes == true[head][:, None]
        found[head] = fit_temperature(probs[:, columns], right)
    return found


def scale_members(members, temperatures):
    """Members with the heads of each scaled by its {head: temperature}."""
    return [
        (
            target,
            np.hstack([apply_temperature(probs[:, columns], heads[head]) for head, columns in head_slices(target).items()]),
        )
        for (target, probs), heads in zip(members, temperatures)
    ]


# ---- prior ------------------------------------------------------------------------------------------------------------

PRIOR_ROUNDS = 200
APART = 1e-9  # in log probability; images nearer than that are tied


def expected_counts(images):
    """How many of `images` should be of each mask state, int64 [3]: MASK_PRIOR, its remainders to the largest ones."""
    exact = np.multiply(MASK_PRIOR, images)
    counts = np.floor(exact + 1e-9).astype(np.int64)
    largest = np.argsort(-(exact - counts), kind="stable")
    counts[largest[: images - counts.sum()]] += 1
    return counts


def predicted_counts(label_probs):
    """How many images are predicted to be of each mask state, int64 [3], by probabilities of the 18 classes [N, 18]."""
    return np.bincount(label_probs.argmax(1) // (len(LABELS) // len(MASKS)), minlength=len(MASKS))


def apply_mask_factors(label_probs, factors):
    """Probabilities of the 18 classes [N, 18] times the factors [3] of their mask states, each row's sum 1 again."""
    return metrics.apply_biases(label_probs, np.repeat(factors, len(LABELS) // len(MASKS)))


def fit_mask_factors(label_probs):
    """Factors of the mask states, float64 [3], with which the predicted counts are `expected_counts`; all 1 where they are.

    Saerens, Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities" (Neural
    Computation 2002), multiply by new over old priors and find unknown new ones by EM, so that the mean probabilities meet
    them. Here the prior is known, and the shares of the predictions meet it instead: macro F1 looks at nothing else. Of all
    answers with these counts it is the one of highest likelihood. Each factor in turn takes exactly as many images as it
    should; where ties leave no such factors, those that come nearest.
    """
    expected, biases = expected_counts(len(label_probs)), np.zeros(len(MASKS))
    logs = np.log(np.maximum(label_probs, 1e-300)).reshape(len(label_probs), len(MASKS), -1).max(2)
    best, best_error = np.ones(len(MASKS)), np.abs(predicted_counts(label_probs) - expected).sum()
    for _round in range(PRIOR_ROUNDS):
        if best_error == 0:
            break
        for mask, count in enumerate(expected):
            rivals = np.delete(logs + biases, mask, axis=1).max(1)
            biases[mask] = _between(np.sort(rivals - logs[:, mask]), count)
        factors = np.array([float(f"{factor:.12g}") for factor in np.exp(biases - biases.mean())])
        error = np.abs(predicted_counts(apply_mask_factors(label_probs, factors)) - expected).sum()
        if error < best_error:
            best, best_error = factors, error
    return best


def _between(edges, count):
    """A value with `count` of the sorted `edges` below it, or as near to so many as their ties allow."""
    padded = np.concatenate([[edges[0] - 1], edges, [edges[-1] + 1]])
    possible = np.flatnonzero(np.diff(padded) > APART)
    below = possible[np.abs(possible - count).argmin()]
    return (padded[below] + padded[below + 1]) / 2


# ---- age bounds -------------------------------------------------------------------------------------------------------

LOWS, HIGHS = range(20, 41), range(50, 61)


def merge_ages(members, weights):
    """Members as at most one of each part, `label` and `age` beside them: (members, weights) whose soft blend is equal."""
    sums, totals = {}, {}
    for (target, probs), weight in zip(members, weights):
        parts = {"age": probs} if target == "age" else member_parts(target, probs)
        for part, part_probs in parts.items():
            share = weight["age_group" if part == "age" else part] if isinstance(weight, dict) else weight
            if share > 0:
                sums[part] = sums.get(part, 0.0) + share * part_probs
                totals[part] = totals.get(part, 0.0) + share
    return [(part, total / totals[part]) for part, total in sums.items()], list(totals.values())


def bounds_predictor(members, method="soft", weights=None):
    """A function of bounds (LO, HI): the classes [N] that the blend of `members` predicts with that cut."""
    if method == "soft":
        members, weights = merge_ages(members, weights or [1] * len(members))
    return lambda cut: blend(members, method, cut, weights).argmax(1)


def bounds_lines(best):
    """The bounds along the two lines through `best`: (each LO at its HI, each HI at its LO)."""
    return [(low, best[1]) for low in LOWS], [(best[0], high) for high in HIGHS]


def tune_bounds(members, truth, method="soft", weights=None):
    """The bounds (LO, HI) of highest macro F1 of the blend of `members` (weights: as blend.blend's) on truth [N].

    LO over 20..40 and HI over 50..60 in turn, from the official bounds on until neither moves; of equal scores the
    bounds nearest to the official ones.
    """
    predict, scores = bounds_predictor(members, method, weights), {}

    def rank(bounds):
        if bounds not in scores:
            scores[bounds] = metrics.macro_f1(truth, predict(bounds), len(LABELS))
        return scores[bounds], -sum(abs(bound - official) for bound, official in zip(bounds, OFFICIAL_BOUNDS))

    best, before = OFFICIAL_BOUNDS, None
    while best != before:
        before = best
        for axis in range(2):
            best = max(bounds_lines(best)[axis], key=rank)
    return best


@dataclass(frozen=True)
class BoundsCurve:
    """Macro F1 along one bound: `bounds` (LO, HI) and `f1` at each; `low` and `high` [len] are the 95 % interval over people
    of each difference to the official bounds."""

    bounds: list
    f1: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class BoundsStudy:
    """Macro F1 at the chosen bounds `best`, at the official ones, and the Curves over LO and over HI through `best`."""

    best: tuple
    best_f1: float
    official_f1: float
    curves: list


def study_bounds(members, truth, persons, best, method="soft", weights=None, resamples=500):
    """The Study of a blend of `members` around the bounds `best`; persons [N] as in metrics.bootstrap_difference."""
    predict = bounds_predictor(members, method, weights)
    official = predict(OFFICIAL_BOUNDS)
    curves = []
    for along in bounds_lines(best):
        preds = [predict(cut) for cut in along]
        f1 = np.array([metrics.macro_f1(truth, pred, len(LABELS)) for pred in preds])
        gains = [metrics.bootstrap_difference(truth, pred, official, persons, len(LABELS), resamples) for pred in preds]
        low, high = np.transpose([metrics.interval(samples) for samples in gains])
        curves.append(BoundsCurve(along, f1, low, high))
    best_f1 = curves[0].f1[LOWS.index(best[0])]
    return BoundsStudy(best, best_f1, metrics.macro_f1(truth, official, len(LABELS)), curves)


# ---- search -----------------------------------------------------------------------------------------------------------

CLASSES = len(LABELS)
STACK_C = 0.1  # of 0.01, 0.1, 1 and 10 the best, cross-fitted, on 300 simulated people and three members (three seeds)
LOG_FLOOR = 1e-6  # below it the logarithm of a probability says more about rounding than about the image


@dataclass(frozen=True)
class Selection:
    """Weights of the members (sum 1), and the path to them: (member, macro F1 once it joined) until the best."""

    weights: list
    trace: list


class _Sums:
    """A blend as weighted sums {part or "label": [N, C]} of its members' probabilities and sums {...: number} of their weights,
    with its predictions, how much each leads the next class, and macro F1, so that a change of one weight touches few rows."""

    def __init__(self, truth, sums, totals):
        self.truth, self.sums, self.totals = truth, sums, totals
        scores = _scores(sums, totals)
        self.pred = scores.argmax(1)
        top = np.partition(scores, -2, axis=1)[:, -2:]
        self.lead = top[:, 1] - top[:, 0]
        self.f1 = metrics.macro_f1(truth, self.pred, CLASSES)

    def plus(self, parts, step=1.0):
        """The blend when the weight of `parts` {part or "label": [N, C]} grows by `step`."""
        return _Sums(self.truth, *_changed(self.sums, self.totals, parts, step))

    def f1_plus(self, parts, step=1.0):
        """Macro F1 of `plus`, computed where the lead can be overcome."""
        rows = np.flatnonzero(self.lead <= self._reach(parts, step) + 1e-9)
        pred = self.pred.copy()
        pred[rows] = _scores(*_changed(self.sums, self.totals, parts, step, rows)).argmax(1)
        return metrics.macro_f1(self.truth, pred, CLASSES)

    def _reach(self, parts, step):
        """The most that such a change can add to the difference of two scores.

        A part's mean, of total weight T, moves by at most |step| / (T + step), and the product of three means by their sum.
        """
        moved = {part: abs(step) / (self.totals.get(part, 0.0) + step) for part in parts}
        own = [part if part in self.totals or part in parts else "label" for part in COMPONENTS]
        grown = abs(step) * len(moved.keys() & COMPONENTS) / len(COMPONENTS)
        product = 2 * (grown + _product_weight(self.totals) * sum(moved.get(part, 0.0) for part in own))
        return product + abs(step) * ("label" in parts)


def _changed(sums, totals, parts, step, rows=slice(None)):
    """(sums, totals) of some rows when the weight of `parts` grows by `step`."""
    sums, totals = {part: table[rows] for part, table in sums.items()}, dict(totals)
    for part, probs in parts.items():
        sums[part] = sums.get(part, 0.0) + step * probs[rows]
        totals[part] = totals.get(part, 0.0) + step
    return sums, totals


def _product_weight(totals):
    return sum(totals.get(part, 0.0) for part in COMPONENTS) / len(COMPONENTS)


def _scores(sums, totals):
    """`blend`'s probabilities times the sum of weights: [N, 18]."""
    weight = _product_weight(totals)
    if not weight:
        return sums["label"]
    means = {part: sums[part] / totals[part] for part in COMPONENTS if part in sums}
    if len(means) < len(COMPONENTS):
        means = marginals(sums["label"] / totals["label"]) | means
    product = weight * combine(*(means[part] for part in COMPONENTS))
    return product + sums["label"] if "label" in sums else product


# ---- greedy selection ----------------------------------------------------------------------------------------------


def _alone(parts, truth):
    """Macro F1 of one member {part or "label": [N, C]}: of the label where it decides that, else of its part."""
    if len(parts) == 1 and "label" not in parts:
        ((part, probs),) = parts.items()
        return metrics.macro_f1(decode(truth)[COMPONENTS.index(part)], probs.argmax(1), probs.shape[1])
    return _sum_up([parts], truth).f1


def _start(given, truth):
    """The members to begin with: the best that decides the label alone, or the best one of each part."""
    alone = [_alone(parts, truth) for parts in given]
    whole = [index for index, parts in enumerate(given) if len(parts) == len(COMPONENTS) or "label" in parts]
    of_part = [[index for index, parts in enumerate(given) if tuple(parts) == (part,)] for part in COMPONENTS]
    options = [[max(whole, key=lambda index: alone[index])]] if whole else []
    if all(of_part):
        options.append([max(indices, key=lambda index: alone[index]) for indices in of_part])
    return max(options, key=lambda members: _sum_up([given[index] for index in members], truth).f1)


def _sum_up(given, truth):
    """The _Sums of members {part or "label": [N, C]}, each at weight 1."""
    sums, totals = {}, {}
    for parts in given:
        sums, totals = _changed(sums, totals, parts, 1.0)
    return _Sums(truth, sums, totals)


def greedy(members, truth, bounds=OFFICIAL_BOUNDS, steps=50, patience=10):
    """Selection of members for macro F1, after Caruana et al., "Ensemble selection from libraries of models" (ICML 2004).

    As there: members are chosen with replacement, each time the one with which the blend scores best; and the start is a good
    one. Different: the blend is that of blend.blend, so a member may give parts of the label only; the start is the best
    member alone or the best one of each part; the search ends when `patience` members have brought nothing, or at `steps`,
    and goes back to its best score; of members that score the same, as single folds of one run do out of fold, the one taken
    least often joins; and no mean is taken over searches that see random halves of the members each ("bags"): cross-fitted
    it won on three of eight libraries (docs/results.md). A part's member that starts before the others has score nan.
    """
    check_decided([target for target, _probs in members])
    given = [member_parts(target, np.asarray(probs), bounds) for target, probs in members]
    truth = np.asarray(truth)
    chosen = _start(given, truth)
    sums = _sum_up([given[index] for index in chosen], truth)
    scores = [*[float("nan")] * (len(chosen) - 1), sums.f1]
    best = len(chosen)
    while len(chosen) < min(steps, best + patience):
        f1 = [sums.f1_plus(parts) for parts in given]
        tied = [index for index, score in enumerate(f1) if score >= max(f1) - 1e-9]
        chosen.append(min(tied, key=lambda index: (chosen.count(index), index)))
        sums = sums.plus(given[chosen[-1]])
        scores.append(sums.f1)
        if scores[-1] > scores[best - 1] + 1e-9:
            best = len(chosen)
    weights = np.bincount(chosen[:best], minlength=len(given)) / best
    return Selection(weights.tolist(), list(zip(chosen, scores))[:best])


# ---- weights -------------------------------------------------------------------------------------------------------


def tune_weights(members, truth, bounds=OFFICIAL_BOUNDS, rounds=8, largest=32.0):
    """A weight for each member and part, [{part: weight}], as blend.blend takes them, for macro F1.

    Coordinate ascent from equal weights: each weight in turn is multiplied or divided by 2, whichever scores best and
    better than before; when a round over all changes nothing, by the square root of that, down to 2 ** (1/4). At most
    `rounds` rounds; weights stay within 1 / largest .. largest. Deterministic.
    """
    check_decided([target for target, _probs in members])
    given = [member_parts(target, np.asarray(probs, dtype=np.float64), bounds) for target, probs in members]
    weights = [dict.fromkeys(parts, 1.0) for parts in given]
    sums, factor = _sum_up(given, np.asarray(truth)), 2.0
    for _round in range(rounds):
        moved = False
        for parts, weight in zip(given, weights):
            for part, probs in parts.items():
                tried = [w for w in (weight[part] / factor, weight[part] * factor) if 1 / largest <= w <= largest]
                f1 = [sums.f1_plus({part: probs}, w - weight[part]) for w in tried]
                best = int(np.argmax(f1))
                if f1[best] > sums.f1 + 1e-9:
                    sums = sums.plus({part: probs}, tried[best] - weight[part])
                    weight[part], moved = tried[best], True
        if not moved:
            factor = factor**0.5
            if factor < 2**0.25:
                break
    return weights


# ---- stacking ------------------------------------------------------------------------------------------------------


def _log_columns(members):
    return np.hstack([np.log(np.maximum(probs, LOG_FLOOR), dtype=np.float32) for _target, probs in members])


def fit_stack(members, truth):
    """A multinomial logistic regression (scikit-learn) on the standardised log-probabilities of all members' columns.

    It learns frequencies of classes and knows nothing of macro F1: decode with fitted biases. The penalty is fixed. On 300
    and 700 simulated people it stayed behind the plain average of three equal members (0.429 against 0.482, 0.472 against
    0.494, cross-fitted): it needs more people, or members that complete each other.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STACK_C, max_iter=2000))
    return model.fit(_log_columns(members), np.asarray(truth))


def apply_stack(model, members):
    """Probabilities of the 18 classes [N, 18] of a fitted stack; 0 for classes that it never saw."""
    probs = np.zeros((len(members[0][1]), CLASSES))
    probs[:, model.classes_] = model.predict_proba(_log_columns(members))
    return probs


# ---- cross-fitting -------------------------------------------------------------------------------------------------


def deal_persons(truth, persons, parts, seed=0):
    """A group 0..parts - 1 for each image, int64 [N]: all of a person in one, of gender x age group as many in each.

    It depends on who is there, not on the order of rows. InputError with fewer persons than groups.
    """
    names, first, person = np.unique(np.asarray(persons, dtype=str), return_index=True, return_inverse=True)
    if len(names) < parts:
        raise InputError(f"out-of-fold predictions of {len(names)} people: cross-fitting deals them into {parts} groups")
    rng = np.random.default_rng(seed)
    stratum = np.asarray(truth)[first] % (len(GENDERS) * len(AGE_GROUPS))
    order = np.lexsort((rng.random(len(names)), stratum))
    group = np.empty(len(names), dtype=np.int64)
    group[order] = np.arange(len(names)) % parts  # goes on from stratum to stratum, so the groups are of one size
    return group[person]


def crossfit(fit, apply, members, truth, persons, parts=5, seed=0):
    """Out-of-sample probabilities [N, 18] of anything that is fitted: fitted on some people, applied to the others.

    `fit(members, truth)` is called `parts` times with the rows of all people but one group, `apply(fitted, members)` with
    that group's, which gives probabilities of its rows. persons [N]: the `path` column.
    """
    truth = np.asarray(truth)
    group = deal_persons(truth, persons, parts, seed)
    probs = np.empty((len(truth), CLASSES))
    for number in range(parts):
        rest, mine = group != number, group == number
        fitted = fit([(target, np.asarray(table)[rest]) for target, table in members], truth[rest])
        probs[mine] = apply(fitted, [(target, np.asarray(table)[mine]) for target, table in members])
    return probs


# ---- pipeline ---------------------------------------------------------------------------------------------------------

METHODS = (*BLEND_METHODS, "stack")
SEARCHES = ("none", "greedy", "weights")
DECODES = ("argmax", "f1", "prior", "f1+prior")
CROSSFIT_FOLDS = 5  # of the people, for cross-fitting


@dataclass(frozen=True)
class Plan:
    """What is asked for. `bounds` None: tune them."""

    method: str = "soft"
    search: str = "none"
    decode: str = "argmax"
    bounds: tuple | None = OFFICIAL_BOUNDS
    seed: int = 0
    temperature: bool = False

    @property
    def fits_biases(self):
        return "f1" in self.decode.split("+")

    @property
    def meets_prior(self):
        return "prior" in self.decode.split("+")

    @property
    def fitted_options(self):
        """The options that fit something on out-of-fold predictions, as they stand in a command line."""
        asked = {
            "--method stack": self.method == "stack",
            f"--search {self.search}": self.search != "none",
            f"--decode {self.decode}": self.fits_biases,
            "--tune-bounds": self.bounds is None,
            "--temperature": self.temperature,
        }
        return [option for option, fits in asked.items() if fits]


@dataclass(frozen=True)
class Fitted:
    """What a Plan amounts to on some images: `weights` as blend.blend takes them (None: equal), `stack` of search.fit_stack,
    `biases` [18], `path` of the greedy search as (member index, in-sample macro F1), `temperatures` {head: number} of each
    member."""

    bounds: tuple = OFFICIAL_BOUNDS
    weights: list | None = None
    stack: object = None
    biases: np.ndarray | None = None
    path: list = field(default_factory=list)
    temperatures: list | None = None


def _rounded(weights):
    """Weights as they are written down, so that the recipe alone gives the same answers."""
    if isinstance(weights, dict):
        return {part: round(float(weight), 6) for part, weight in weights.items()}
    return round(float(weights), 6)


def fit_plan(plan, members, truth):
    """Fitted: what `plan` leaves open, fitted to official labels truth [N] of the images of `members`.

    Bounds are tuned at equal weights, and once more at the weights that a search then finds.
    """
    temperatures = None
    if plan.temperature:
        temperatures = [fit_member_temperatures(target, probs, truth) for target, probs in members]
        members = scale_members(members, temperatures)
    tunes = plan.bounds is None
    cut = tune_bounds(members, truth, plan.method) if tunes else plan.bounds
    weights, path = _search(plan, members, truth, cut)
    if tunes and weights:
        cut = tune_bounds(members, truth, plan.method, weights)
    stack = fit_stack(members, truth) if plan.method == "stack" else None
    fitted = Fitted(cut, weights, stack, None, path)
    if plan.fits_biases:
        biases = metrics.fit_biases(apply_plan(plan, fitted, members), truth, len(LABELS))
        fitted = replace(fitted, biases=np.round(biases, 6))
    return replace(fitted, temperatures=temperatures)


def _search(plan, members, truth, cut):
    """(weights, path) as in Fitted."""
    if plan.search == "none":
        return None, []
    if plan.search == "weights":
        return [_rounded(weight) for weight in tune_weights(members, truth, cut)], []
    found = greedy(members, truth, cut)
    return [_rounded(weight) for weight in found.weights], found.trace


def scale_by_temperatures(fitted, members):
    """(Fitted without temperatures, members scaled by them): the same answers, for what asks for many of them."""
    if fitted.temperatures is None:
        return fitted, members
    return replace(fitted, temperatures=None), scale_members(members, fitted.temperatures)


def average_folds(fitted, folds):
    """(Fitted without temperatures, members) from what the models of each member's folds say of the same images, a list of
    (target, probs) a member.

    Temperatures are fitted to what single models say out of fold, so each fold's model is scaled before the mean is taken: that
    is less sure already, and would be made so a second time. Of four teams of four runs on 700 people, three models each,
    macro F1 with fitted biases was 0.004 to 0.008 higher than by scaling the mean, and the log-likelihood better.
    """
    temperatures = fitted.temperatures or [None] * len(folds)
    members = []
    for models, heads in zip(folds, temperatures):
        scaled = models if heads is None else scale_members(models, [heads] * len(models))
        members.append((models[0][0], np.mean([probs for _target, probs in scaled], axis=0)))
    return replace(fitted, temperatures=None), members


def apply_plan(plan, fitted, members):
    """Probabilities [N, 18] of members' images by a plan as it was fitted."""
    fitted, members = scale_by_temperatures(fitted, members)
    if plan.method == "stack":
        probs = apply_stack(fitted.stack, members)
    else:
        probs = blend(members, plan.method, fitted.bounds, fitted.weights)
    return probs if fitted.biases is None else metrics.apply_biases(probs, fitted.biases)


def finish_plan(plan, probs):
    """(probabilities [N, 18] as their argmax answers for these images as a whole, factors [3] of the mask states or None)."""
    if not plan.meets_prior:
        return probs, None
    factors = fit_mask_factors(probs)
    return apply_mask_factors(probs, factors), factors


def stack_table(stack, members):
    """A fitted stacker as a table: for each column of each of `members` (name, target), and for the intercept, what the
    logarithm of its probability (at least search.LOG_FLOOR) adds to the logit of each class that it knows."""
    scaler, regression = stack[0], stack[-1]
    coefficients = regression.coef_ / scaler.scale_
    intercept = regression.intercept_ - coefficients @ scaler.mean_
    rows = [(name, column) for name, target in members for column in dataset.columns(target)]
    table = pd.DataFrame([*rows, ("intercept", "")], columns=["member", "column"])
    return table.join(pd.DataFrame([*coefficients.T, intercept], columns=regression.classes_))


def score(truth, probs, persons):
    """{oof_f1, oof_acc, oof_f1_ci95} of label probabilities: macro F1 with its interval over people, accuracy."""
    pred = probs.argmax(1)
    samples = metrics.bootstrap_f1(truth, pred, persons, len(LABELS))
    return {
        "oof_f1": round(float(metrics.macro_f1(truth, pred, len(LABELS))), 6),
        "oof_acc": round(float(metrics.accuracy(truth, pred, len(LABELS))), 6),
        "oof_f1_ci95": [round(float(bound), 6) for bound in metrics.interval(samples)],
    }


def gain(truth, probs, plain, persons):
    """{plain_f1, gain, gain_ci95}: macro F1 of `plain` [N, 18], what `probs` has more, and the paired 95 % interval of it."""
    pred, plain_pred = probs.argmax(1), plain.argmax(1)
    plain_f1 = metrics.macro_f1(truth, plain_pred, len(LABELS))
    samples = metrics.bootstrap_difference(truth, pred, plain_pred, persons, len(LABELS))
    return {
        "plain_f1": round(float(plain_f1), 6),
        "gain": round(float(metrics.macro_f1(truth, pred, len(LABELS)) - plain_f1), 6),
        "gain_ci95": [round(float(bound), 6) for bound in metrics.interval(samples)],
    }


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold probabilities [N, 18] of a plan, its score.json, what was fitted to each part of the people, and the
    factors of `finish`."""

    probs: np.ndarray
    scores: dict
    parts: list
    mask_factors: np.ndarray | None = None


UNSCORED = dict.fromkeys(
    ("oof_f1", "oof_acc", "oof_f1_ci95", "in_sample_f1", "crossfit_parts", "plain_f1", "gain", "gain_ci95")
)


def score_plan(plan, fitted, members, truth, persons, quiet=True, plain=None):
    """OutOfFold of a plan, cross-fitted over persons [N] where it fits anything; the in-sample score is that of `fitted`.

    The gain is that over `plain` [N, 18], without it over the plain average of the members.
    """
    probs, parts, in_sample = apply_plan(plan, fitted, members), [], None
    if plan.fitted_options:
        in_sample = round(float(metrics.macro_f1(truth, finish_plan(plan, probs)[0].argmax(1), len(LABELS))), 6)

        bar = tqdm(total=CROSSFIT_FOLDS, desc="cross-fitting", unit="part", leave=False, disable=quiet or None)

        def fit_part(some_members, some_truth):
            parts.append(fit_plan(plan, some_members, some_truth))
            bar.update()
            return parts[-1]

        def apply_part(part, other_members):
            return apply_plan(plan, part, other_members)

        with bar:
            probs = crossfit(fit_part, apply_part, members, truth, persons, CROSSFIT_FOLDS, plan.seed)
    probs, mask_factors = finish_plan(plan, probs)
    scores = UNSCORED | score(truth, probs, persons) | gain(truth, probs, blend(members) if plain is None else plain, persons)
    scores |= {"in_sample_f1": in_sample, "crossfit_parts": CROSSFIT_FOLDS if plan.fitted_options else None}
    return OutOfFold(probs, scores, parts, mask_factors)
