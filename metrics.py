"""Macro F1, its interval, and probabilities of logits: pure numpy.

Sums and counts are added first and divided once. F1 is computed as 2 tp / (times predicted + times true).
"""

import numpy as np


def _as_classes(truth, pred, num_classes):
    """`truth` and `pred` as integer arrays of one length, every value in 0..num_classes - 1, or ValueError."""
    truth, pred = np.asarray(truth), np.asarray(pred)
    if truth.ndim != 1 or truth.shape != pred.shape:
        raise ValueError(f"truth has shape {truth.shape} and pred {pred.shape}; both take one class an image")
    if not len(truth):
        raise ValueError("no images to score")
    for name, values in (("truth", truth), ("pred", pred)):
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} is {values.dtype}; it takes integers")
        if values.min() < 0 or values.max() >= num_classes:
            raise ValueError(f"{name} holds {values.min()}..{values.max()}; allowed: 0..{num_classes - 1}")
    return truth.astype(np.int64), pred.astype(np.int64)


def _mean_f1(hits, times):
    """Macro F1 [...] of 2 tp [..., C] and predicted + true [..., C], over the classes that occur in either."""
    f1 = np.divide(hits, times, out=np.zeros(np.shape(times)), where=times > 0)
    return f1.sum(-1) / (times > 0).sum(-1)


def confusion(truth, pred, num_classes):
    """Count images by true class (rows) and predicted class (columns): int64 [C, C].

    truth, pred: integers [N] in 0..num_classes - 1, N > 0; else ValueError, as in every function here that takes them.
    """
    truth, pred = _as_classes(truth, pred, num_classes)
    return np.bincount(truth * num_classes + pred, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(truth, pred, num_classes):
    """Share of images whose class is right, in 0..1."""
    truth, pred = _as_classes(truth, pred, num_classes)
    return float((truth == pred).mean())


def f1_per_class(truth, pred, num_classes):
    """F1 of each class: float64 [C], 0 where a class was never right, absent classes included."""
    counts = confusion(truth, pred, num_classes)
    return 2 * counts.diagonal() / np.maximum(counts.sum(0) + counts.sum(1), 1)


def macro_f1(truth, pred, num_classes):
    """Mean F1 over the classes that occur in truth or pred, in 0..1: scikit-learn's f1_score(average="macro")."""
    counts = confusion(truth, pred, num_classes)
    return float(_mean_f1(2 * counts.diagonal(), counts.sum(0) + counts.sum(1)))


def bootstrap_f1(truth, pred, persons, num_classes, resamples=2000, seed=0):
    """Macro F1 of `resamples` draws of as many persons, with replacement, with all their images: float64 [resamples].

    persons [N]: who is on each image, any hashable. Images of a person share age and gender and mostly rise and fall
    together, so drawing single images would make intervals too narrow. A draw without a class leaves it out, as macro_f1.
    """
    truth, pred = _as_classes(truth, pred, num_classes)
    if len(persons) != len(truth):
        raise ValueError(f"{len(persons)} persons for {len(truth)} images")
    if resamples < 1:
        raise ValueError(f"{resamples} resamples; it takes 1 or more")
    numbers = {}
    person = np.array([numbers.setdefault(name, len(numbers)) for name in persons])
    P, C = len(numbers), num_classes

    def per_person(classes, kept):
        return np.bincount(person[kept] * C + classes[kept], minlength=P * C).reshape(P, C)

    everything = np.ones(len(truth), dtype=bool)
    hits = 2 * per_person(truth, truth == pred)
    counts = np.hstack([hits, per_person(pred, everything) + per_person(truth, everything)]).astype(np.float64)

    rng = np.random.default_rng(seed)
    rows = max(1, 1_000_000 // P)  # 8 MB for the draws of a chunk
    scores = []
    for start in range(0, resamples, rows):
        n = min(rows, resamples - start)
        drawn = rng.integers(P, size=(n, P)) + np.arange(n)[:, None] * P
        weights = np.bincount(drawn.ravel(), minlength=n * P).reshape(n, P)
        sums = weights.astype(np.float64) @ counts
        scores.append(_mean_f1(sums[:, :C], sums[:, C:]))
    return np.concatenate(scores)


def interval(samples, level=0.95):
    """Central interval (lo, hi) that holds `level` (0..1, ends excluded) of the samples, by percentiles."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; allowed: between 0 and 1, such as 0.95")
    lo, hi = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def softmax(logits):
    """Probabilities over the last axis, computed in float64 from any finite logits: float32, same shape."""
    logits = np.asarray(logits, dtype=np.float64)
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return (exp / exp.sum(-1, keepdims=True)).astype(np.float32)
