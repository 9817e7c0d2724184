"""prior.py: counts that are met, by hand, against an assignment, and what ties leave."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import blend
from dataset import marginals


def label_probs(mask_probs, rng=None):
    """Probabilities [N, 18] with these mask probabilities [N, 3]; gender and age at random, or all on the first."""
    mask_probs = np.asarray(mask_probs, dtype=float)
    rest = np.eye(6)[[0] * len(mask_probs)] if rng is None else rng.dirichlet(np.ones(6), len(mask_probs))
    return (mask_probs[:, :, None] * rest[:, None, :]).reshape(-1, 18)


@pytest.mark.parametrize(("images", "counts"), [
    (7, [5, 1, 1]), (4900, [3500, 700, 700]), (12_600, [9000, 1800, 1800]), (8, [6, 1, 1]), (2, [2, 0, 0]), (1, [1, 0, 0]),
    (10, [7, 2, 1]),
])  # fmt: skip
def test_expected_counts_sum_to_the_images(images, counts):
    """Of 10 images 7.14, 1.43 and 1.43 are due: the first of the equal remainders gets the last one."""
    assert blend.expected_counts(images).tolist() == counts


def test_factors_by_hand():
    """Seven images all predicted worn: the likeliest `incorrect` and the likeliest `not worn` go over, and no other."""
    mask = [[0.6, 0.3, 0.1], [0.6, 0.1, 0.3], *[[0.8, 0.1, 0.1]] * 5]
    probs = label_probs(mask)
    factors = blend.fit_mask_factors(probs)
    assert blend.apply_mask_factors(probs, factors).argmax(1).tolist() == [6, 12, 0, 0, 0, 0, 0]
    worn, incorrect, not_worn = factors
    assert 2 < incorrect / worn < 6 and 2 < not_worn / worn < 6  # above 0.6 : 0.3, below 0.6 : 0.1 and 0.8 : 0.1
    assert factors.prod() == pytest.approx(1)
    np.testing.assert_allclose(
        blend.apply_mask_factors(probs, factors)[0], label_probs([mask[0] * factors])[0] / (mask[0] * factors).sum()
    )


def test_nothing_changes_where_the_prior_is_met():
    probs = label_probs(np.eye(3)[[0] * 5 + [1, 2]] * 0.8 + 0.2 / 3)
    assert blend.fit_mask_factors(probs).tolist() == [1, 1, 1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("images", [23, 700])
def test_counts_are_met_and_the_rest_of_a_label_stays(seed, images):
    rng = np.random.default_rng(seed)
    probs = label_probs(rng.dirichlet([0.3, 1, 0.5], images), rng)
    factors = blend.fit_mask_factors(probs)
    decoded = blend.apply_mask_factors(probs, factors)
    assert blend.predicted_counts(decoded).tolist() == blend.expected_counts(images).tolist()
    assert blend.predicted_counts(probs).tolist() != blend.expected_counts(images).tolist()
    np.testing.assert_allclose(decoded.sum(1), 1)
    np.testing.assert_array_equal(decoded.argmax(1) % 6, probs.argmax(1) % 6)  # here the parts are independent
    np.testing.assert_array_equal(blend.predicted_counts(decoded), np.bincount(marginals(decoded)["mask"].argmax(1)))


@pytest.mark.parametrize("seed", range(4))
def test_of_all_answers_with_these_counts_it_is_the_likeliest(seed):
    """Reference: the assignment of images to 5 : 1 : 1 places of greatest sum of log-probabilities."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(18, 0.2), 42)
    places = np.repeat([0, 1, 2], blend.expected_counts(42))
    gains = np.log(probs.reshape(42, 3, 6).max(2))[:, places]
    expected = places[linear_sum_assignment(gains, maximize=True)[1]]
    np.testing.assert_array_equal(blend.apply_mask_factors(probs, blend.fit_mask_factors(probs)).argmax(1) // 6, expected)


def test_ties_go_together():
    """Five images of seven are equal and two more are sure: whatever the factors, the five stay together."""
    mask = [[0.4, 0.5, 0.1]] * 5 + [[0.1, 0.9, 0], [0, 0, 1]]
    decoded = blend.apply_mask_factors(label_probs(mask), blend.fit_mask_factors(label_probs(mask))).argmax(1) // 6
    assert decoded.tolist() == [0, 0, 0, 0, 0, 1, 2]
    same = label_probs([[0.4, 0.5, 0.1]] * 7)
    assert len(set(blend.apply_mask_factors(same, blend.fit_mask_factors(same)).argmax(1))) == 1
    halves = label_probs([[0.4, 0.5, 0.1]] * 10 + [[0.3, 0.1, 0.6]] * 4)  # 10, 2, 2 are due
    best = np.sort(blend.apply_mask_factors(halves, blend.fit_mask_factors(halves)), axis=1)
    assert (best[:, -1] - best[:, -2]).min() > 1e-3  # rounding decides nothing


def test_zeros_stay():
    """An image that can't be `worn` at all is left as it is, so that one of the others has to be."""
    mask = [[0, 1, 0], [0, 0, 1], *[[0.3, 0.7, 0]] * 2, *[[0.3, 0.1, 0.6]] * 3]
    decoded = blend.apply_mask_factors(label_probs(mask), blend.fit_mask_factors(label_probs(mask)))
    assert blend.predicted_counts(decoded).tolist() == [5, 1, 1] and np.isfinite(decoded).all()
