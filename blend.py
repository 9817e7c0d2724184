"""From members to the 18 probabilities: averages, temperatures, age bounds, weights or a stacker, class factors, the prior.

`fit_pipeline` and `apply_pipeline` are all of it that is fitted, so that cross-fitting scores it at once; `finish_pipeline`
looks at all images together. Members are lists of (target, probabilities [N, num_outputs(target)]).
"""

import functools
from collections import namedtuple
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import optimize
from tqdm import tqdm

import dataset
import metrics
from dataset import COMPONENTS, FIRST_AGE, LABELS, MASKS, OFFICIAL_BOUNDS, combine, decode, head_slices, member_components
from errors import InputError

CROSSFIT_FOLDS = 5
CLASSES = len(LABELS)


def votes(probs):
    """One vote of each row for its most probable class [N, C]; a trace of the probabilities decides between equal votes."""
    cast = np.eye(probs.shape[1])[probs.argmax(1)]
    return (cast + 1e-3 * probs) / (1 + 1e-3 * probs.sum(1, keepdims=True))


def check_decided(targets):
    """InputError unless runs of these targets together decide mask, gender and age group."""
    decided = {component for target in targets for component in dataset.DECIDES[target]}
    missing = [component for component in COMPONENTS if component not in decided]
    if missing:
        raise InputError(f"--models: no run decides {' or '.join(missing)}; add such runs, or one of target label or multi")


def blend(members, method="soft", bounds=OFFICIAL_BOUNDS, weights=None):
    """Probabilities of the 18 classes [N, 18]. Members of one component (mask, gender, age_group) are averaged (soft) or voted
    (hard), then multiplied; the product is averaged with the members of target label, of which each component counts one third.
    Components that only these decide are their marginals. `weights`: of each a number >= 0 or {component: number}, or all 1."""
    sums, totals = _sum_members(members, weights, votes if method == "hard" else np.asarray, bounds)
    check_decided(totals)
    return _multiply(sums, totals)


def _sum_members(members, weights=None, cast=np.asarray, bounds=OFFICIAL_BOUNDS):
    """Weighted sums {component or "label": [N, C]} of members' tables, and the sums {...: number} of their weights."""
    sums, totals = {}, {}
    for (target, probs), weight in zip(members, weights or [1.0] * len(members)):
        for name, table in member_components(target, probs, bounds).items():
            share = weight.get("age_group" if name == "age" else name, 0.0) if isinstance(weight, dict) else weight
            if share > 0:
                sums[name] = sums.get(name, 0.0) + share * cast(table)
                totals[name] = totals.get(name, 0.0) + share
    return sums, totals


def components(members):
    """(probabilities [N, 18], or None where members leave a component open; {component: [N, C]}) of members of equal weight."""
    sums, totals = _sum_members(members)
    if "label" not in sums and not set(COMPONENTS) <= set(sums):
        return None, {name: sums[name] / totals[name] for name in sums}
    label = _multiply(sums, totals)
    return label, dataset.marginals(label)


def _product_weight(totals):
    return sum(total for name, total in totals.items() if name != "label") / len(COMPONENTS)


def _multiply(sums, totals):
    """Probabilities of the 18 classes [N, 18] from sums and weights that decide all components; see `blend`."""
    mean = {name: sums[name] / totals[name] for name in sums}
    label = mean.pop("label", None)
    if not mean:
        return label
    if len(mean) < len(COMPONENTS):
        mean = dataset.marginals(label) | mean
    product = combine(*(mean[component] for component in COMPONENTS))
    if label is None:
        return product
    product_weight, label_weight = _product_weight(totals), totals["label"]
    return (product_weight * product + label_weight * label) / (product_weight + label_weight)


def soft_labels(target, sources, bounds):
    """Soft targets float64 [N, num_outputs(target)] from predictions [(target, probs), ...] of the same images."""
    same = [probs for source, probs in sources if source == target]
    if len(same) == len(sources):
        return np.mean(same, axis=0)
    if target == "age":
        raise InputError("--pseudo: --target age learns single years, which only runs of target age can give")
    decided = {component for source, _probs in sources for component in dataset.DECIDES[source]}
    wanted = set(dataset.DECIDES[target])
    if not wanted <= decided:
        raise InputError(f"--pseudo: gives no {' and '.join(sorted(wanted - decided))}, which --target {target} needs")
    if decided == set(COMPONENTS):
        label = blend(sources, bounds=bounds)
        return label if target == "label" else np.hstack([dataset.marginals(label)[head] for head in dataset.HEADS[target]])
    tables = [member_components(source, probs, bounds) for source, probs in sources]
    return np.mean([table[target] for table in tables if target in table], axis=0)


LIMITS = (0.1, 10.0)  # of a temperature; members that are never wrong would ask for 0
FLOOR = 1e-12  # stands for a probability of 0, too small to be written down


def _logs(probs):
    logs = np.log(np.maximum(np.asarray(probs, dtype=np.float64), FLOOR))
    return logs - logs.max(1, keepdims=True)


def apply_temperature(probs, temperature):
    """softmax(log(probs) / temperature): float64 [N, C]."""
    powers = np.exp(_logs(probs) / temperature)
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(probs, right):
    """The temperature within LIMITS of least negative log-likelihood (Guo et al. 2017, 1706.04599), rounded to be written down.
    right, bool [N, C] as probs, marks the true column of each row, and several where any age of a group is right."""
    logs = _logs(probs)

    def loss(log_temperature):
        powers = np.exp(logs * np.exp(-log_temperature))
        return np.mean(np.log(powers.sum(1)) - np.log(np.where(right, powers, 0.0).sum(1)))

    least = optimize.minimize_scalar(loss, bounds=np.log(LIMITS), method="bounded")
    return round(float(np.exp(least.x)), 6)


def fit_member_temperatures(target, probs, truth):
    """{head: temperature} of a member, fitted to official labels truth [N]; ages by the likelihood of their group."""
    true = {"label": truth, **dict(zip(COMPONENTS, decode(truth)))}
    temperatures = {}
    for head, columns in head_slices(target).items():
        classes, component = np.arange(columns.stop - columns.start), head
        if head == "age":
            classes, component = dataset.to_age_group(classes + FIRST_AGE), "age_group"
        temperatures[head] = fit_temperature(probs[:, columns], classes == true[component][:, None])
    return temperatures


def scale_members(members, temperatures):
    """Members with the heads of each scaled by its {head: temperature}; as they are without temperatures (None)."""
    if temperatures is None:
        return members
    scaled = []
    for (target, probs), of_head in zip(members, temperatures):
        heads = [apply_temperature(probs[:, columns], of_head[head]) for head, columns in head_slices(target).items()]
        scaled.append((target, np.hstack(heads)))
    return scaled


APART = 1e-9  # in log probability; images nearer than that are tied


def expected_counts(images):
    """Images of each mask state by the prior, int64 [3]: dataset.MASK_PRIOR x images, remainders to the largest ones."""
    exact = np.multiply(dataset.MASK_PRIOR, images)
    counts = np.floor(exact + 1e-9).astype(np.int64)
    largest = np.argsort(-(exact - counts), kind="stable")
    counts[largest[: images - counts.sum()]] += 1
    return counts


def predicted_counts(label_probs):
    """Images predicted as each mask state, int64 [3], from probabilities of the 18 classes [N, 18]."""
    return np.bincount(label_probs.argmax(1) // (CLASSES // len(MASKS)), minlength=len(MASKS))


def apply_mask_factors(label_probs, factors):
    """Probabilities of the 18 classes [N, 18] times the factors [3] of their mask states, each row's sum 1 again."""
    return metrics.apply_class_factors(label_probs, np.repeat(factors, CLASSES // len(MASKS)))


def fit_mask_factors(label_probs):
    """Factors of the mask states, float64 [3], with which the predictions (not the mean probabilities, as in Saerens et al.
    2002) have the `expected_counts`: each in turn takes as many images as it should, or as near as ties allow."""
    expected, log_factors = expected_counts(len(label_probs)), np.zeros(len(MASKS))
    logs = np.log(np.maximum(label_probs, 1e-300)).reshape(len(label_probs), len(MASKS), -1).max(2)
    best, best_error = np.ones(len(MASKS)), np.abs(predicted_counts(label_probs) - expected).sum()
    for _round in range(200):
        if best_error == 0:
            break
        for mask, count in enumerate(expected):
            rivals = np.delete(logs + log_factors, mask, axis=1).max(1)
            log_factors[mask] = _between(np.sort(rivals - logs[:, mask]), count)
        factors = np.array([float(f"{factor:.12g}") for factor in np.exp(log_factors - log_factors.mean())])
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


LOWS, HIGHS = range(20, 41), range(50, 61)


def bounds_predictor(members, method="soft", weights=None):
    """A function of bounds (LO, HI): the classes [N] that the blend of `members` predicts with that cut."""
    if method == "soft":  # the means of each component and of the single ages give the same, sooner
        sums, totals = _sum_members(members, weights, bounds=None)
        members, weights = [(name, sums[name] / totals[name]) for name in sums], list(totals.values())
    return lambda cut: blend(members, method, cut, weights).argmax(1)


def bounds_lines(best):
    """The bounds along the two lines through `best`: (each LO at its HI, each HI at its LO)."""
    return [(low, best[1]) for low in LOWS], [(best[0], high) for high in HIGHS]


def tune_bounds(members, truth, method="soft", weights=None):
    """The bounds (LO, HI) of highest macro F1 of the blend of `members` on truth [N].
    LO and HI in turn, from the official bounds on until neither moves; of equal scores the nearest to the official ones."""
    predict = bounds_predictor(members, method, weights)

    @functools.cache
    def rank(bounds):
        distance = sum(abs(bound - official) for bound, official in zip(bounds, OFFICIAL_BOUNDS))
        return metrics.macro_f1(truth, predict(bounds), CLASSES), -distance

    best, before = OFFICIAL_BOUNDS, None
    while best != before:
        before = best
        for axis in range(2):
            best = max(bounds_lines(best)[axis], key=rank)
    return best


BoundsCurve = namedtuple("BoundsCurve", "bounds f1 low high")
BoundsStudy = namedtuple("BoundsStudy", "best best_f1 official_f1 curves")


def study_bounds(members, truth, persons, best, method="soft", weights=None, resamples=500):
    """The BoundsStudy of a blend of `members`: macro F1 at the bounds `best` and the official ones, two curves through `best`:
    `f1` at each of `bounds` [(LO, HI)] and `low`, `high`, its 95 % interval over persons [N] against the official bounds."""
    predict = bounds_predictor(members, method, weights)
    official = predict(OFFICIAL_BOUNDS)
    curves = []
    for along in bounds_lines(best):
        preds = [predict(cut) for cut in along]
        f1 = np.array([metrics.macro_f1(truth, pred, CLASSES) for pred in preds])
        gains = [metrics.bootstrap_difference(truth, pred, official, persons, CLASSES, resamples) for pred in preds]
        low, high = np.transpose([metrics.interval(samples) for samples in gains])
        curves.append(BoundsCurve(along, f1, low, high))
    return BoundsStudy(best, curves[0].f1[LOWS.index(best[0])], metrics.macro_f1(truth, official, CLASSES), curves)


class _Blend:
    """A blend with its predictions, by how much each leads, and macro F1, so that a change of one weight touches few rows."""

    def __init__(self, truth, sums, totals):
        self.truth, self.sums, self.totals = truth, sums, totals
        probs = _multiply(sums, totals)
        self.pred = probs.argmax(1)
        top = np.partition(probs, -2, axis=1)[:, -2:]
        self.lead = (top[:, 1] - top[:, 0]) * (_product_weight(totals) + totals.get("label", 0.0))
        self.f1 = metrics.macro_f1(truth, self.pred, CLASSES)

    def _changed(self, tables, step, rows=slice(None)):
        sums, totals = {name: table.T[:, rows].T for name, table in self.sums.items()}, dict(self.totals)
        for name, probs in tables.items():
            sums[name] = sums.get(name, 0.0) + step * probs.T[:, rows].T
            totals[name] = totals.get(name, 0.0) + step
        return sums, totals

    def plus(self, tables, step=1.0):
        """The blend when the weight of `tables` {component or "label": [N, C]} grows by `step`."""
        return _Blend(self.truth, *self._changed(tables, step))

    def f1_plus(self, tables, step=1.0):
        """Macro F1 of `plus`, predicted anew where the lead can be overcome."""
        rows = np.flatnonzero(self.lead <= self._reach(tables, step) + 1e-9)
        pred = self.pred.copy()
        pred[rows] = _multiply(*self._changed(tables, step, rows)).argmax(1)
        return metrics.macro_f1(self.truth, pred, CLASSES)

    def _reach(self, tables, step):
        """The most that such a change can add to the difference of two classes, in units of weight x probability.
        The mean of a component, of total weight T, moves by at most |step| / (T + step), and the product by their sum."""
        moved = {name: abs(step) / (self.totals.get(name, 0.0) + step) for name in tables}
        source = [name if name in self.totals or name in tables else "label" for name in COMPONENTS]
        grown = abs(step) * sum(name in COMPONENTS for name in tables) / len(COMPONENTS)
        product = 2 * (grown + _product_weight(self.totals) * sum(moved.get(name, 0.0) for name in source))
        return product + abs(step) * ("label" in tables)


def _by_columns(members, bounds):
    """Members with ages cut, column-major, as products are five times as fast; {component or "label": [N, C]} of each."""
    cut = [("age_group", dataset.age_group_probs(p, bounds)) if target == "age" else (target, p) for target, p in members]
    members = [(target, np.asfortranarray(probs, dtype=np.float64)) for target, probs in cut]
    return members, [member_components(target, probs) for target, probs in members]


def _start(members, truth):
    """Indices of the members to begin with: the best that decides all alone, or the best one of each component."""
    true = {"label": truth, "multi": truth, **dict(zip(COMPONENTS, decode(truth)))}

    def own_f1(index):
        target, probs = members[index][0], dataset.scored_probs(*members[index])
        return metrics.macro_f1(true[target], probs.argmax(1), probs.shape[1])

    def best(decided):
        deciding = [index for index, (target, _probs) in enumerate(members) if tuple(dataset.DECIDES[target]) == decided]
        return max(deciding, key=own_f1, default=None)

    starts = [[best(COMPONENTS)], [best((component,)) for component in COMPONENTS]]
    starts = [start for start in starts if None not in start]
    return max(starts, key=lambda start: _Blend(truth, *_sum_members([members[index] for index in start])).f1)


def greedy(members, truth, bounds=OFFICIAL_BOUNDS, steps=50, patience=10):
    """(weights of the members, sum 1; their path, [(member, macro F1 once it joined)]) for macro F1, after Caruana et al.,
    "Ensemble selection from libraries of models" (2004): the member with which the blend scores best joins, again and again.
    Different: the start is the best member that decides all or the best one of each component (the first with score nan); the
    search goes back to its best score after `patience` members without gain; no bags (docs/results.md)."""
    members, given = _by_columns(members, bounds)
    chosen = _start(members, truth)
    current = _Blend(truth, *_sum_members([members[index] for index in chosen]))
    scores = [*[float("nan")] * (len(chosen) - 1), current.f1]
    best = len(chosen)
    with ThreadPool() as pool:  # numpy computes in several threads at once
        while len(chosen) < min(steps, best + patience):
            f1 = pool.map(current.f1_plus, given)
            tied = [index for index, score in enumerate(f1) if score >= max(f1) - 1e-9]
            chosen.append(min(tied, key=lambda index: (chosen.count(index), index)))
            current = current.plus(given[chosen[-1]])
            scores.append(current.f1)
            if scores[-1] > scores[best - 1] + 1e-9:
                best = len(chosen)
    weights = np.bincount(chosen[:best], minlength=len(given)) / best
    return np.round(weights, 6).tolist(), list(zip(chosen, scores))[:best]


def tune_weights(members, truth, bounds=OFFICIAL_BOUNDS, rounds=8, largest=32.0):
    """Weights [{component: weight}] of the members for macro F1, by coordinate ascent from equal ones: each in turn is doubled
    or halved where that scores better; when a round changes nothing, by the square root of that, down to 2 ** (1/4)."""
    members, given = _by_columns(members, bounds)
    weights = [dict.fromkeys(tables, 1.0) for tables in given]
    current, factor = _Blend(truth, *_sum_members(members)), 2.0
    for _round in range(rounds):
        moved = False
        for tables, weight in zip(given, weights):
            for name, probs in tables.items():
                tried = [w for w in (weight[name] / factor, weight[name] * factor) if 1 / largest <= w <= largest]
                f1 = [current.f1_plus({name: probs}, w - weight[name]) for w in tried]
                best = int(np.argmax(f1))
                if f1[best] > current.f1 + 1e-9:
                    current = current.plus({name: probs}, tried[best] - weight[name])
                    weight[name], moved = tried[best], True
        if not moved:
            factor = factor**0.5
            if factor < 2**0.25:
                break
    return [{name: round(value, 6) for name, value in weight.items()} for weight in weights]


STACK_C = 0.1  # of 0.01, 0.1, 1 and 10 the best, cross-fitted, on 300 simulated people and three members (three seeds)
LOG_FLOOR = 1e-6  # below it the logarithm of a probability says more about rounding than about the image


def _log_columns(members):
    return np.hstack([np.log(np.maximum(probs, LOG_FLOOR), dtype=np.float32) for _target, probs in members])


def fit_stack(members, truth):
    """A multinomial logistic regression (scikit-learn) on the standardised log-probabilities of all members' columns."""
    from sklearn.linear_model import LogisticRegression  # here: a second of a start, and few stack
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=STACK_C, max_iter=2000))
    return model.fit(_log_columns(members), np.asarray(truth))


def apply_stack(model, members):
    """Probabilities of the 18 classes [N, 18] of a fitted stack; 0 for classes that it never saw."""
    probs = np.zeros((len(members[0][1]), CLASSES))
    probs[:, model.classes_] = model.predict_proba(_log_columns(members))
    return probs


def stack_table(stack, members):
    """The coefficients of a fitted stack as a table: a row for each column of `members` [(name, target)] and the intercept."""
    scaler, regression = stack[0], stack[-1]
    coefficients = regression.coef_ / scaler.scale_
    intercept = regression.intercept_ - coefficients @ scaler.mean_
    rows = [(name, column) for name, target in members for column in dataset.columns(target)]
    table = pd.DataFrame([*rows, ("intercept", "")], columns=["member", "column"])
    return table.join(pd.DataFrame([*coefficients.T, intercept], columns=regression.classes_))


def read_stack(table):
    """The stack, for `apply_stack`, of a `stack_table` whose cells are text."""
    names = [name for name in table.columns if name.isdigit()]
    *coefficients, intercept = table[names].to_numpy(dtype=np.float64)

    def predict_proba(columns):
        return dataset.softmax(columns @ np.array(coefficients) + intercept)

    return SimpleNamespace(classes_=np.array(names, dtype=np.int64), predict_proba=predict_proba)


def crossfit_folds(truth, persons, folds, seed=0):
    """A cross-fitting fold 0..folds - 1 for each image, int64 [N]: person-disjoint, stratified, whatever the order of rows."""
    names, first, person = np.unique(np.asarray(persons, dtype=str), return_index=True, return_inverse=True)
    if len(names) < folds:
        raise InputError(f"out-of-fold predictions of {len(names)} people: cross-fitting deals them into {folds} groups")
    stratum = np.asarray(truth)[first] % (len(dataset.GENDERS) * len(dataset.AGE_GROUPS))
    order = np.lexsort((np.random.default_rng(seed).random(len(names)), stratum))
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % folds  # goes on from stratum to stratum, so folds are of one size
    return fold[person]


def crossfit(fit, apply, members, truth, persons, folds=CROSSFIT_FOLDS, seed=0, quiet=True):
    """Out-of-sample probabilities [N, 18]: fit(members, truth) without a fold of persons [N], apply(fitted, members) on it."""
    fold_of, probs = crossfit_folds(truth, persons, folds, seed), np.empty((len(truth), CLASSES))
    for fold in tqdm(range(folds), desc="cross-fitting", unit="fold", leave=False, disable=quiet or None):
        rest, held_out = fold_of != fold, fold_of == fold
        fitted = fit([(target, table[rest]) for target, table in members], truth[rest])
        probs[held_out] = apply(fitted, [(target, table[held_out]) for target, table in members])
    return probs


class Pipeline(namedtuple("Pipeline", "method search decode bounds seed temperature",
                          defaults=("soft", "none", "argmax", OFFICIAL_BOUNDS, 0, False))):  # fmt: skip
    """The options of the pipeline; `bounds` None: tune them."""

    @property
    def fitted_options(self):
        """The options that fit something on out-of-fold predictions, as in a command line."""
        asked = {
            "--method stack": self.method == "stack",
            f"--search {self.search}": self.search != "none",
            f"--decode {self.decode}": "f1" in self.decode,
            "--tune-bounds": self.bounds is None,
            "--temperature": self.temperature,
        }
        return [option for option, given in asked.items() if given]


# A Pipeline fitted to some images: `weights` as for `blend` (None: equal), `stack` of fit_stack, `class_factors` [18], `path`
# of the greedy search as (member index, in-sample macro F1), `temperatures` {head: number} of each member.
Fitted = namedtuple("Fitted", "bounds weights stack class_factors path temperatures",
                    defaults=(OFFICIAL_BOUNDS, None, None, None, (), None))  # fmt: skip


def fit_pipeline(pipeline, members, truth):
    """Fitted to official labels truth [N]; bounds are tuned at equal weights, and once more at those that a search finds."""
    temperatures, weights, path = None, None, ()
    if pipeline.temperature:
        temperatures = [fit_member_temperatures(target, probs, truth) for target, probs in members]
        members = scale_members(members, temperatures)
    cut = pipeline.bounds or tune_bounds(members, truth, pipeline.method)
    if pipeline.search == "weights":
        weights = tune_weights(members, truth, cut)
    elif pipeline.search == "greedy":
        weights, path = greedy(members, truth, cut)
    if weights:
        cut = pipeline.bounds or tune_bounds(members, truth, pipeline.method, weights)
    stack = fit_stack(members, truth) if pipeline.method == "stack" else None
    fitted = Fitted(cut, weights, stack, None, path, temperatures)
    if "f1" in pipeline.decode:
        factors = metrics.fit_class_factors(apply_pipeline(pipeline, fitted, members), truth, CLASSES)
        fitted = fitted._replace(class_factors=np.round(factors, 6))
    return fitted


def average_folds(fitted, folds):
    """Members: means of each one's fold models [[(target, probs)]], scaled first, as temperatures are of single models."""
    temperatures = fitted.temperatures or [None] * len(folds)
    scaled = (scale_members(models, heads and [heads] * len(models)) for models, heads in zip(folds, temperatures))
    return [(models[0][0], np.mean([probs for _target, probs in models], axis=0)) for models in scaled]


def apply_pipeline(pipeline, fitted, members):
    """Probabilities [N, 18] of members' images by a fitted pipeline; the members are scaled by its temperatures already."""
    if pipeline.method == "stack":
        probs = apply_stack(fitted.stack, members)
    else:
        probs = blend(members, pipeline.method, fitted.bounds, fitted.weights)
    return probs if fitted.class_factors is None else metrics.apply_class_factors(probs, fitted.class_factors)


def finish_pipeline(pipeline, probs):
    """(probabilities [N, 18] as their argmax answers for these images as a whole, factors [3] of the mask states or None)."""
    if "prior" not in pipeline.decode:
        return probs, None
    factors = fit_mask_factors(probs)
    return apply_mask_factors(probs, factors), factors


# Out-of-fold probabilities [N, 18], their score.json, the Fitted of each cross-fitting fold, the mask factors or None.
OutOfFold = namedtuple("OutOfFold", "probs scores fitted_folds mask_factors")
SCORES = ("oof_f1", "oof_acc", "oof_f1_ci95", "in_sample_f1", "crossfit_parts", "plain_f1", "gain", "gain_ci95")  # score.json


def score_pipeline(pipeline, fitted, members, truth, persons, quiet=True, plain=None):
    """OutOfFold of a pipeline, cross-fitted over persons [N] where it fits anything; the in-sample score is that of `fitted`.
    The gain is that over `plain` [N, 18], without it over the plain average of the members. Intervals are 95 % over people."""

    def f1(probs):
        return metrics.macro_f1(truth, probs.argmax(1), CLASSES)

    def fit(some_members, some_truth):
        fitted_folds.append(fit_pipeline(pipeline, some_members, some_truth))
        return fitted_folds[-1]

    def apply(one, some_members):
        return apply_pipeline(pipeline, one, scale_members(some_members, one.temperatures))

    probs, fitted_folds, in_sample = apply(fitted, members), [], None
    if pipeline.fitted_options:
        in_sample = f1(finish_pipeline(pipeline, probs)[0])
        probs = crossfit(fit, apply, members, truth, persons, seed=pipeline.seed, quiet=quiet)
    probs, mask_factors = finish_pipeline(pipeline, probs)
    plain = blend(members) if plain is None else plain
    pred, plain_pred = probs.argmax(1), plain.argmax(1)
    scores = {
        "oof_f1": f1(probs),
        "oof_acc": np.mean(truth == pred),
        "oof_f1_ci95": metrics.interval(metrics.bootstrap_f1(truth, pred, persons, CLASSES)),
        "in_sample_f1": in_sample,
        "crossfit_parts": CROSSFIT_FOLDS if pipeline.fitted_options else None,
        "plain_f1": f1(plain),
        "gain": f1(probs) - f1(plain),
        "gain_ci95": metrics.interval(metrics.bootstrap_difference(truth, pred, plain_pred, persons, CLASSES)),
    }
    rounded = {key: None if value is None else np.round(value, 6).tolist() for key, value in scores.items()}
    return OutOfFold(probs, rounded, fitted_folds, mask_factors)


def apply_recipe(recipe, folds, stack=None):
    """Probabilities [N, 18] of other images by an ensemble's recipe.yaml, from its members' fold models [[(target, probs)]]."""
    members, bounds = recipe["members"], tuple(recipe["age_bounds"])
    temperatures = [member["temperature"] for member in members] if recipe.get("temperature") else None
    factors = recipe.get("biases") and np.array(recipe["biases"])
    fitted = Fitted(bounds, [member["weight"] for member in members], stack, factors, (), temperatures)
    probs = apply_pipeline(Pipeline(recipe["method"]), fitted, average_folds(fitted, folds))
    return probs if "mask_factors" not in recipe else apply_mask_factors(probs, np.array(recipe["mask_factors"]))
