"""What many runs tell together: main effects of their options by least squares, and how well one score foretells another.

Pure numpy, but for the quantiles of Student's t.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

NORMAL_95 = 1.959964  # half-width of a 95 % interval in standard deviations


@dataclass(frozen=True)
class Effect:
    """How the runs of one level of a factor differ from the other runs.

    `raw` is the difference of their mean scores as it is, `value` that with the other factors held equal; None where these
    runs can't tell it from the factors in `apart`. `low`, `high`: 95 % interval of `value`, None where nothing gives one.
    """

    factor: str
    level: str
    runs: int
    raw: float
    value: float | None
    low: float | None
    high: float | None
    apart: tuple = ()


def merge_aliases(factors):
    """Factors {name: levels [R]} without those of one level; factors that split the runs in the same way become one."""
    groups = {}
    for name, levels in factors.items():
        split = tuple(levels.index(level) for level in levels)
        if any(split):
            groups.setdefault(split, []).append(name)
    return {
        " & ".join(names): [", ".join(row) for row in zip(*(factors[name] for name in names))] for names in groups.values()
    }


def _design(factors, R):
    """(X [R, P], columns {(factor, level): index}): an intercept and an indicator of each level of each factor."""
    columns, X = {}, [np.ones(R)]
    for name, levels in factors.items():
        for level in dict.fromkeys(levels):
            columns[name, level] = len(X)
            X.append(np.array([one == level for one in levels], dtype=np.float64))
    return np.stack(X, axis=1), columns


def _contrast(columns, factors, name, level):
    """Weights [P] of a level's coefficient minus the mean coefficient of the runs of other levels."""
    levels = factors[name]
    weights = np.zeros(len(columns) + 1)
    weights[columns[name, level]] = 1.0
    for other in levels:
        if other != level:
            weights[columns[name, other]] -= 1 / (len(levels) - levels.count(level))
    return weights


def _is_estimable(factors, R, name, level):
    """Whether the runs determine a contrast: whether it lies in the row space of the design."""
    X, columns = _design(factors, R)
    contrast = _contrast(columns, factors, name, level)
    return np.allclose(contrast @ np.linalg.pinv(X) @ X, contrast, atol=1e-8)


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
    inverse = np.linalg.pinv(X)
    freedom = R - int(np.linalg.matrix_rank(X))
    residuals = scores - X @ (inverse @ scores)
    noise = np.sqrt((residuals**2).sum() / freedom) * stdtrit(freedom, 0.975) if freedom else 0.0
    found = []
    for name, level in columns:
        here = np.array([one == level for one in factors[name]])
        raw = float(scores[here].mean() - scores[~here].mean())
        if not _is_estimable(factors, R, name, level):
            others = [other for other in factors if other != name]
            guilty = [
                other
                for other in others
                if _is_estimable({key: value for key, value in factors.items() if key != other}, R, name, level)
            ]
            found.append(Effect(name, level, int(here.sum()), raw, None, None, None, tuple(guilty or others)))
            continue
        of_runs = _contrast(columns, factors, name, level) @ inverse
        value = float(of_runs @ scores)
        half = noise * np.linalg.norm(of_runs)
        if draws is not None:
            half = np.hypot(half, NORMAL_95 * (of_runs @ draws).std())
        known = freedom > 0 or draws is not None
        low, high = (value - float(half), value + float(half)) if known else (None, None)
        found.append(Effect(name, level, int(here.sum()), raw, value, low, high))
    return found, freedom


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
