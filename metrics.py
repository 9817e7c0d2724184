"""Macro F1 by counts, as 2 tp / (times predicted + times true), its interval over people, class factors that raise it, and the
forecast of a leaderboard score."""

from collections import namedtuple

import numpy as np
import pandas as pd
from scipy.special import ndtr

# A leaderboard score is above the out-of-fold one by GAIN times 1 - 1 / folds and over the number of models averaged out of
# fold, give or take SPREAD: what all candidates share, and what each has of its own (docs/results.md).
GAIN, SPREAD = 0.055, (0.015, 0.01)
NORMAL_80 = 1.281552  # half-width of an 80 % interval in standard deviations

# `score` on the public leaderboard and half its 80 % interval; the chances that it `beats` the best so far there (None: there
# is none) and that it is one of the two best on the `private` one.
Forecast = namedtuple("Forecast", "score half beats private")


def _mean_f1(hits, times):
    """Macro F1 [...] of 2 tp [..., C] and predicted + true [..., C], over the classes that occur in either."""
    f1 = np.divide(hits, times, out=np.zeros(np.shape(times)), where=times > 0)
    return f1.sum(-1) / (times > 0).sum(-1)


def confusion(truth, pred, num_classes):
    """Count images by true class (rows) and predicted class (columns), int64 [C, C]; both are integers [N] from 0 on."""
    cells = np.asarray(truth) * num_classes + np.asarray(pred)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def macro_f1(truth, pred, num_classes):
    """Mean F1 over the classes that occur in truth or pred, in 0..1: scikit-learn's f1_score(average="macro")."""
    counts = confusion(truth, pred, num_classes)
    return float(_mean_f1(2 * counts.diagonal(), counts.sum(0) + counts.sum(1)))


def _bootstrap(truth, preds, persons, C, resamples, seed):
    """Macro F1 of each of preds [S, N] on draws of as many persons, with replacement: float64 [resamples, S].
    The draws depend on the number of persons, `resamples` and `seed` alone: with the same persons they are the same draws."""
    person, names = pd.factorize(np.asarray(persons))
    P, counts, truth = len(names), [], np.asarray(truth)

    def per_person(rows, classes):
        return np.bincount(person[rows] * C + classes[rows], minlength=P * C).reshape(P, C)

    for pred in map(np.asarray, preds):
        counts += [2 * per_person(truth == pred, truth), per_person(..., pred) + per_person(..., truth)]
    counts = np.hstack(counts).astype(np.float64)
    rng, rows, scores = np.random.default_rng(seed), max(1, 1_000_000 // P), []  # 8 MB for the draws of a chunk
    for start in range(0, resamples, rows):
        n = min(rows, resamples - start)
        drawn = rng.integers(P, size=(n, P)) + np.arange(n)[:, None] * P
        times = np.bincount(drawn.ravel(), minlength=n * P).reshape(n, P).astype(np.float64)
        sums = (times @ counts).reshape(n, len(preds), 2, C)
        scores.append(_mean_f1(sums[:, :, 0], sums[:, :, 1]))
    return np.concatenate(scores)


def bootstrap_f1(truth, pred, persons, num_classes, resamples=2000, seed=0):
    """Macro F1 of `resamples` draws of as many persons, with replacement, with all their images: float64 [resamples]. Images
    of a person share age and gender and mostly rise and fall together: of single images intervals would be too narrow."""
    return _bootstrap(truth, [pred], persons, num_classes, resamples, seed)[:, 0]


def bootstrap_difference(truth, preds_a, preds_b, persons, num_classes, resamples=2000, seed=0):
    """Macro F1 of A minus that of B on the same draws of persons, float64 [resamples]: what is easy or hard for both cancels.
    preds_a, preds_b: [N], or [S, N] of an experiment trained S times, whose mean counts; seeds of training are not drawn."""
    a, b = np.atleast_2d(preds_a), np.atleast_2d(preds_b)
    f1 = _bootstrap(truth, [*a, *b], persons, num_classes, resamples, seed)
    return f1[:, : len(a)].mean(1) - f1[:, len(a) :].mean(1)


def phi(wrong_a, wrong_b):
    """Correlation of two bool arrays [N] in -1..1: how much two make the same errors. nan where one is all equal."""
    return float(np.corrcoef(wrong_a, wrong_b)[0, 1]) if np.std(wrong_a) * np.std(wrong_b) > 0 else float("nan")


def boundary_share(truth, pred_a, pred_b, near, num_classes):
    """Share of the difference in macro F1 between A and B that comes from the images with `near` (bool [N]) True: what A would
    gain with its own predictions there alone, over what it does gain; nan for equal scores. Shares add up to 1 only nearly."""
    score_a, score_b = (macro_f1(truth, pred, num_classes) for pred in (pred_a, pred_b))
    mixed = macro_f1(truth, np.where(near, pred_a, pred_b), num_classes)
    gain = score_a - score_b
    return (mixed - score_b) / gain if abs(gain) > 1e-12 else float("nan")


def _takeover(logs, biases, truth, c, low, high):
    """Macro F1 of the argmax of logs + biases (logs float64 [C, N]) as the bias of class `c` rises from `low` to `high`:
    edges [n + 2], those two and between them the biases at which a row goes over to c; exact scores [n + 1] between them."""
    C = len(logs)
    others = logs + biases[:, None]
    others[c] = -np.inf
    rival = others.argmax(0)
    edges = others[rival, np.arange(len(truth))] - logs[c]
    pred = np.where(edges <= low, c, rival)
    true, taken, right = (np.bincount(classes, minlength=C) for classes in (truth, pred, truth[truth == pred]))
    rows = np.flatnonzero((edges > low) & (edges < high))
    rows = rows[np.argsort(edges[rows], kind="stable")]
    f1_steps, occurs_steps = np.zeros((2, len(rows) + 1))
    for k in range(C):  # class c takes one more row at every edge, its rivals lose one where it was theirs
        sign, moved = (1, np.arange(len(rows))) if k == c else (-1, np.flatnonzero(rival[rows] == k))
        tp = right[k] + sign * np.cumsum(np.concatenate([[0], truth[rows[moved]] == k]))
        times = true[k] + taken[k] + sign * np.arange(len(moved) + 1)
        at = np.concatenate([[0], moved + 1])
        f1_steps[at] += np.diff(2 * tp / np.maximum(times, 1), prepend=0)
        occurs_steps[at] += np.diff((times > 0).astype(np.float64), prepend=0)
    return np.concatenate([[low], edges[rows], [high]]), f1_steps.cumsum() / occurs_steps.cumsum()


def _smooth_best(edges, scores, now, window=0.5):
    """The middle of the step whose mean score within +- `window` is best, or `now` where no step's is better by 1e-5."""
    below = np.concatenate([[0.0], np.cumsum(scores * np.diff(edges))])

    def mean_score(bias):
        lo, hi = np.maximum(bias - window, edges[0]), np.minimum(bias + window, edges[-1])
        return (np.interp(hi, edges, below) - np.interp(lo, edges, below)) / (hi - lo)

    middles = ((edges[:-1] + edges[1:]) / 2)[np.diff(edges) > 1e-9]  # a row on the edge itself would be a toss-up
    smooth = mean_score(middles)
    return middles[smooth.argmax()] if smooth.max() > mean_score(now) + 1e-5 else now


def fit_class_factors(probs, truth, num_classes, rounds=10, largest=20.0):
    """Factors of the classes for macro F1 of (probs * factors).argmax(1): float64 [C], geometric mean 1, up to `largest`.
    Coordinate ascent. The line search takes the best of the mean of the exact macro F1 over half a unit of log factor to each
    side, which follows the noise less than the exact optimum does. Where that does not beat argmax on `truth`, all are 1."""
    probs = np.asarray(probs, dtype=np.float64)
    C, limit, biases = num_classes, np.log(largest), np.zeros(num_classes)
    logs = np.ascontiguousarray(np.log(np.maximum(probs, 1e-300)).T)
    for _round in range(rounds):
        moved = False
        for c in range(C):
            rest = np.delete(biases, c)
            S = rest.sum()  # bias x makes the mean (S + x) / C; less that mean all have to stay within limit
            low = max(C * (rest.max() - limit) - S, (S - C * limit) / (C - 1))
            high = min(C * (rest.min() + limit) - S, (S + C * limit) / (C - 1))
            best = _smooth_best(*_takeover(logs, biases, truth, c, low, high), now=biases[c])
            if best != biases[c]:
                biases[c], moved = best, True
                biases -= biases.mean()
        if not moved:
            break
    factors = np.exp(biases)
    gain = macro_f1(truth, (probs * factors).argmax(1), C) - macro_f1(truth, probs.argmax(1), C)
    return factors if gain > 0 else np.ones(C)


def apply_class_factors(probs, factors):
    """Rows of probs [N, C] times factors [C], divided so that each sums to 1 again; a row of zeros stays one."""
    weighted = np.asarray(probs) * factors
    total = weighted.sum(1, keepdims=True)
    return np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0)


def interval(samples):
    """Central interval (lo, hi) that holds 95 % of the samples, by percentiles."""
    return tuple(np.quantile(samples, [0.025, 0.975]).tolist())


def verdict(low, high):
    """'better' or 'worse' when the interval of a gain leaves out 0, else 'noise'."""
    return "better" if low > 0 else "worse" if high < 0 else "noise"


def forecast(scores, draws, lbs, gains, people, public, best=None, spread=SPREAD):
    """The Forecast of each of n candidates from out-of-fold `scores` [n], their bootstrap `draws` [n, B] over the same `people`
    (how many), the expected `gains` [n], and the leaderboard scores that are known, `lbs` [n], nan where there is none.
    Exact for normal scores. The public and the private leaderboard have `public` people each. `best`: the one to beat."""
    lbs, S = np.asarray(lbs, dtype=np.float64), np.atleast_2d(np.cov(draws))
    common, own = spread
    true = S + common**2 + own**2 * np.eye(len(S))  # how far the scores on endlessly many people may be from those expected
    board = true + S * people / public
    mean, C = np.tile(np.add(scores, gains), 2), np.block([[board, true], [true, board]])  # public scores, then private ones
    known = np.flatnonzero(~np.isnan(lbs))
    weights = C[:, known] @ np.linalg.pinv(C[np.ix_(known, known)], rcond=1e-9, hermitian=True)
    mean, C = mean + weights @ (lbs[known] - mean[known]), C - weights @ C[known]
    public_mean, private_mean = np.split(mean, 2)
    deviation = np.sqrt(np.maximum(C.diagonal()[: len(S)], 1e-18))
    beats = [None] * len(S) if best is None else ndtr((public_mean - best) / deviation).tolist()
    rng, C = np.random.default_rng(0), C[len(S) :, len(S) :]
    ranks = (-rng.multivariate_normal(private_mean, C, 10_000, check_valid="ignore", method="eigh")).argsort(1).argsort(1)
    return [*map(Forecast, public_mean.tolist(), (NORMAL_80 * deviation).tolist(), beats, (ranks < 2).mean(0).tolist())]
