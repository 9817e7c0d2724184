"""What turns members into the 18 probabilities: what is fixed, what is fitted on out-of-fold predictions, and its score.

`fit` and `apply` are one pipeline of temperatures, bounds, weights or a stacker, and biases, in this order, so that
cross-fitting scores all of it at once; `finish` is what looks at all images together. Members are lists of (target,
probabilities [N, num_outputs(target)]), as blend.blend takes them.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from tqdm import tqdm

import blend
import bounds
import calibration
import dataset
import metrics
import prior
import search
from dataset import LABELS, OFFICIAL_BOUNDS

METHODS = (*blend.BLEND_METHODS, "stack")
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
        temperatures = [calibration.fit_member_temperatures(target, probs, truth) for target, probs in members]
        members = calibration.scale_members(members, temperatures)
    tunes = plan.bounds is None
    cut = bounds.tune_bounds(members, truth, plan.method) if tunes else plan.bounds
    weights, path = _search(plan, members, truth, cut)
    if tunes and weights:
        cut = bounds.tune_bounds(members, truth, plan.method, weights)
    stack = search.fit_stack(members, truth) if plan.method == "stack" else None
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
        return [_rounded(weight) for weight in search.tune_weights(members, truth, cut)], []
    found = search.greedy(members, truth, cut)
    return [_rounded(weight) for weight in found.weights], found.trace


def scale_by_temperatures(fitted, members):
    """(Fitted without temperatures, members scaled by them): the same answers, for what asks for many of them."""
    if fitted.temperatures is None:
        return fitted, members
    return replace(fitted, temperatures=None), calibration.scale_members(members, fitted.temperatures)


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
        scaled = models if heads is None else calibration.scale_members(models, [heads] * len(models))
        members.append((models[0][0], np.mean([probs for _target, probs in scaled], axis=0)))
    return replace(fitted, temperatures=None), members


def apply_plan(plan, fitted, members):
    """Probabilities [N, 18] of members' images by a plan as it was fitted."""
    fitted, members = scale_by_temperatures(fitted, members)
    if plan.method == "stack":
        probs = search.apply_stack(fitted.stack, members)
    else:
        probs = blend.blend(members, plan.method, fitted.bounds, fitted.weights)
    return probs if fitted.biases is None else metrics.apply_biases(probs, fitted.biases)


def finish_plan(plan, probs):
    """(probabilities [N, 18] as their argmax answers for these images as a whole, factors [3] of the mask states or None)."""
    if not plan.meets_prior:
        return probs, None
    factors = prior.fit_mask_factors(probs)
    return prior.apply_mask_factors(probs, factors), factors


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
            probs = search.crossfit(fit_part, apply_part, members, truth, persons, CROSSFIT_FOLDS, plan.seed)
    probs, mask_factors = finish_plan(plan, probs)
    scores = (
        UNSCORED | score(truth, probs, persons) | gain(truth, probs, blend.blend(members) if plain is None else plain, persons)
    )
    scores |= {"in_sample_f1": in_sample, "crossfit_parts": CROSSFIT_FOLDS if plan.fitted_options else None}
    return OutOfFold(probs, scores, parts, mask_factors)
