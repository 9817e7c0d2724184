"""Decoding to a known prior: the eval images are 5:1:1 by mask, so that their predictions should be too.

No label is used, but all images that are decoded together: the same image may be answered otherwise among others.
"""

import numpy as np

import metrics
from dataset import LABELS, MASK_PRIOR, MASKS

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
