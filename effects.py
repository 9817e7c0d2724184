"""What many runs tell together: main effects of their options by least squares, and how well one score foretells another.

Pure numpy, but for the quantiles of Student's t.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

NORMAL_95 = 1.959964  # half-width of a 95 % interval in standard deviations


@dataclass(frozen=True)
class Effect:
    """How the runs of one level of a factor differ from the other runs.

    `raw` is the difference of their mean scores as it is, `value` that with the other factors held equal, against the runs
    of those levels that can be compared so: not those in `not_against`. None where none can, as the runs can't tell it
    from the factors in `apart`. `low`, `high`: 95 % interval of `value`, None where nothing gives one.
    """

    factor: str
    level: str
    runs: int
    raw: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    apart: tuple = ()
    not_against: tuple = ()


def merge_aliases(factors):
    """Factors {name: levels [R]} without those of one level; factors that split the runs in the same way become one."""
    groups = {}
    for name, levels in factors.items():
        split = tuple(levels.index(level) for level in levels)
        if any(split):
            groups.setdefault(split, []).append(name)
    return {" & ".join(names): [", ".join(row) for row in zip(*(factors[name] for name in names))] for names in groups.values()}


def _design(factors, R):
    """(X [R, P], columns {(factor, level): index}): an intercept and an indicator of each level of each factor."""
    columns, X = {}, [np.ones(R)]
    for name, levels in factors.items():
        for level in dict.fromkeys(levels):
            columns[name, level] = len(X)
            X.append(np.array([one == level for one in levels], dtype=np.float64))
    return np.stack(X, axis=1), columns


def _contrast(columns, levels, name, level, others):
    """Weights [P] of a level's coefficient minus the mean coefficient of the runs of these other levels."""
    counts = Counter(one for one in levels if one in others)
    weights = np.zeros(len(columns) + 1)
    for other, count in counts.items():
        weights[columns[name, other]] = -count / counts.total()
    weights[columns[name, level]] = 1.0
    return weights


def _undetermined(gram):
    """Of a design's columns [P], each as a row of [P, P]: what the runs don't tell of its coefficient.

    They determine the difference of two coefficients if the rows of both are equal: if it lies in the row space of the
    design X, of which gram is X^T X.
    """
    return np.linalg.pinv(gram, rcond=1e-10, hermitian=True) @ gram - np.eye(len(gram))


def _comparable(undetermined, columns, levels, name, level):
    """The other levels of a factor whose difference to this level the runs determine, in order."""
    others = [other for other in dict.fromkeys(levels) if other != level]
    rows = undetermined[[columns[name, other] for other in others]] - undetermined[columns[name, level]]
    return [other for other, row in zip(others, np.abs(rows).max(1)) if row < 1e-6]


def _without_one(gram, columns, factors):
    """{factor: (undetermined, columns)} of the designs that lack one of the factors."""
    designs = {}
    for left_out in factors:
        kept = [0, *(index for (name, _level), index in columns.items() if name != left_out)]
        rest = {key: place for place, key in enumerate((key for key in columns if key[0] != left_out), start=1)}
        designs[left_out] = _undetermined(gram[np.ix_(kept, kept)]), rest
    return designs


def _confounded_with(designs, levels, name, level):
    """The factors without any one of which a level could be compared with all others; where there is no such one, all."""
    others = [other for other in designs if other != name]
    guilty = [other for other in others if len(_comparable(*designs[other], levels, name, level)) == len(set(levels)) - 1]
    return tuple(guilty or others)


def main_effects(scores, factors, draws=None):
    """(list of Effect, degrees of freedom left) of a main-effects model, fitted by least squares.

    scores [R]; factors {name: levels [R] as text}. Intervals are Student's t on the residuals: what the model leaves open
    (other seeds, options that are no factor, interactions). `draws` [R, B]: the scores of the same runs on B resamples of
    people, the same people for every run; then the spread of the effect over people is added to the interval, and with no
    degree of freedom left it stands alone.
    """
    scores, R = np.asarray(scores, dtype=np.float64), len(scores)
    factors = merge_aliases(factors)
    X, columns = _design(factors, R)
    inverse, gram = np.linalg.pinv(X), X.T @ X
    undetermined = _undetermined(gram)
    freedom = R - int(np.linalg.matrix_rank(X))
    residuals = scores - X @ (inverse @ scores)
    noise = np.sqrt((residuals**2).sum() / freedom) * stdtrit(freedom, 0.975) if freedom else 0.0
    found, designs = [], None
    for name, level in columns:
        here = np.array([one == level for one in factors[name]])
        raw, runs = float(scores[here].mean() - scores[~here].mean()), int(here.sum())
        others = _comparable(undetermined, columns, factors[name], name, level)
        if not others:
            designs = designs or _without_one(gram, columns, factors)
            found.append(Effect(name, level, runs, raw, apart=_confounded_with(designs, factors[name], name, level)))
            continue
        not_against = tuple(one for one in dict.fromkeys(factors[name]) if one not in (level, *others))
        of_runs = _contrast(columns, factors[name], name, level, others) @ inverse
        value, half = float(of_runs @ scores), noise * np.linalg.norm(of_runs)
        if draws is not None:
            half = np.hypot(half, NORMAL_95 * (of_runs @ draws).std())
        known = freedom > 0 or draws is not None
        low, high = (value - float(half), value + float(half)) if known else (None, None)
        found.append(Effect(name, level, runs, raw, value, low, high, not_against=not_against))
    order = list(factors)
    return sorted(found, key=lambda effect: (order.index(effect.factor), -effect.raw)), freedom


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient in -1..1 (None: not defined) with its 95 % interval (None below 4 pairs and at -1 and 1)."""

    value: float | None
    low: float | None = None
    high: float | None = None


def _correlation(x, y, spread):
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(None)
    value = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if len(x) < 4 or abs(value) > 1 - 1e-9:
        return Correlation(value)
    half = NORMAL_95 * np.sqrt(spread(value) / (len(x) - 3))
    return Correlation(value, float(np.tanh(np.arctanh(value) - half)), float(np.tanh(np.arctanh(value) + half)))


def pearson(x, y):
    """Correlation of x and y [N]; interval by Fisher's z."""
    return _correlation(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), lambda _value: 1.0)


def spearman(x, y):
    """Correlation of the ranks of x and y [N]; interval by Fisher's z with the variance of Bonett & Wright (2000)."""
    return _correlation(ranks(x), ranks(y), lambda value: 1 + value**2 / 2)


def ranks(values):
    """Ranks 1..N, equal values sharing their mean rank: float64 [N]."""
    _, where, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]
