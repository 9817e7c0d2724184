import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression

import leaderboard


def by_level(found):
    return {(effect.factor, effect.level): effect for effect in found}


def test_one_factor_is_the_difference_of_means_with_students_interval():
    """focal 0.52, 0.54 (mean 0.53), ce 0.50, 0.48 (mean 0.49): +0.04. Residuals are 0.01 each, so s^2 = 4 * 0.0001 / 2 =
    0.0002, the variance of the difference 0.0002 * (1/2 + 1/2), and with t(2) = 4.302653 half the interval is 0.060849."""
    found, freedom = leaderboard.main_effects([0.52, 0.54, 0.50, 0.48], {"loss": ["focal", "focal", "ce", "ce"]})
    focal, ce = found
    assert (freedom, focal.level, focal.runs) == (2, "focal", 2)
    assert focal.raw == pytest.approx(0.04) and focal.value == pytest.approx(0.04)
    assert focal.high - focal.value == pytest.approx(4.302653 * 0.0002**0.5, rel=1e-6)
    assert (ce.value, ce.low, ce.high) == pytest.approx((-0.04, -focal.high, -focal.low))


def test_other_factors_are_held_equal():
    """Scores are 0.5 + 0.04 [focal] + 0.10 [AdamP] without noise; focal stands with AdamP twice and AdamW once, ce once and twice.
    Raw: (0.64 * 2 + 0.54) / 3 - (0.60 + 0.50 * 2) / 3 = 0.0733; with the optimizer held equal 0.04."""
    losses = ["focal", "focal", "focal", "ce", "ce", "ce"]
    optimizers = ["AdamP", "AdamP", "AdamW", "AdamP", "AdamW", "AdamW"]
    scores = [0.5 + 0.04 * (loss == "focal") + 0.1 * (name == "AdamP") for loss, name in zip(losses, optimizers)]
    found, freedom = leaderboard.main_effects(scores, {"loss": losses, "optimizer": optimizers})
    focal = by_level(found)["loss", "focal"]
    assert freedom == 3
    assert focal.raw == pytest.approx(0.22 / 3) and focal.value == pytest.approx(0.04)
    assert focal.low == pytest.approx(0.04) and focal.high == pytest.approx(0.04)


def test_equals_a_direct_fit_with_dummy_coding():
    """Treatment coding and the textbook formulas: s^2 c' (X'X)^-1 c with t on N - P degrees of freedom."""
    rng = np.random.default_rng(1)
    factors = {"loss": rng.choice(["a", "b", "c"], 40).tolist(), "aug": rng.choice(["x", "y"], 40).tolist()}
    scores = rng.normal(0.5, 0.02, 40)
    dummies = np.stack([[one == level for one in factors["loss"]] for level in "bc"]
                       + [[one == "y" for one in factors["aug"]]], axis=1).astype(float)  # fmt: skip
    fit = LinearRegression().fit(dummies, scores)
    X = np.hstack([np.ones((40, 1)), dummies])
    n = {level: factors["loss"].count(level) for level in "abc"}
    contrast = np.array([0.0, 1.0, -n["c"] / (n["a"] + n["c"]), 0.0])  # b against a (coded 0) and c
    variance = ((scores - fit.predict(dummies)) ** 2).sum() / 36 * (contrast @ np.linalg.inv(X.T @ X) @ contrast)
    found, freedom = leaderboard.main_effects(scores, factors)
    effect = by_level(found)["loss", "b"]
    assert freedom == 36
    assert effect.value == pytest.approx(fit.coef_ @ contrast[1:])
    assert effect.high - effect.value == pytest.approx(stats.t.ppf(0.975, 36) * variance**0.5)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """300 draws of noise on 12 runs of a true effect of 0.03: about 95 % of the intervals hold it (3 standard errors: 3.8 %)."""
    rng = np.random.default_rng(0)
    losses, optimizers = ["focal", "ce"] * 6, ["AdamP", "AdamP", "AdamW"] * 4
    held = 0
    for _ in range(300):
        scores = 0.5 + 0.03 * np.array([loss == "focal" for loss in losses]) + rng.normal(0, 0.01, 12)
        effect = by_level(leaderboard.main_effects(scores, {"loss": losses, "optimizer": optimizers})[0])["loss", "focal"]
        held += effect.low <= 0.03 <= effect.high
    assert 0.912 < held / 300 < 0.988


def test_factors_that_split_the_runs_alike_are_named_together_and_constant_ones_left_out():
    factors = {"loss": ["a", "b", "a"], "lr": ["1", "2", "1"], "model": ["m", "m", "m"], "aug": ["x", "x", "y"]}
    assert leaderboard.merge_aliases(factors) == {"loss & lr": ["a, 1", "b, 2", "a, 1"], "aug": ["x", "x", "y"]}


def test_what_the_runs_cannot_tell_apart_is_said():
    """a3 stands with b3 alone and b3 with a3 alone: neither can be told from the other, though c can."""
    factors = {"a": ["1", "1", "2", "2", "3", "3"], "b": ["1", "2", "1", "2", "3", "3"], "c": ["x", "y", "y", "x", "x", "y"]}
    found, freedom = leaderboard.main_effects([0.5, 0.51, 0.52, 0.55, 0.6, 0.58], factors)
    effect = by_level(found)["a", "3"]
    assert freedom == 1  # 6 runs; intercept, two of a, one of b, one of c
    assert (effect.value, effect.low, effect.apart) == (None, None, ("b",))
    assert effect.raw == pytest.approx(0.59 - 0.52)
    assert by_level(found)["c", "x"].value is not None


def test_a_level_is_compared_with_those_levels_that_it_can_be():
    """a3 stands with b3 alone, so nothing compares it with a1 and a2, which are compared by themselves: scores are 0.5 +
    0.02 [a2] + 0.01 [b2] without noise."""
    factors = {"a": ["1", "1", "2", "2", "3"], "b": ["1", "2", "1", "2", "3"]}
    found = by_level(leaderboard.main_effects([0.50, 0.51, 0.52, 0.53, 0.9], factors)[0])
    assert found["a", "2"].value == pytest.approx(0.02) and found["a", "2"].not_against == ("3",)
    assert found["a", "1"].value == pytest.approx(-0.02) and found["b", "2"].value == pytest.approx(0.01)
    assert found["a", "2"].low == pytest.approx(0.02) and found["a", "2"].apart == ()
    assert (found["a", "3"].value, found["a", "3"].apart, found["a", "3"].not_against) == (None, ("b",), ())
    assert found["a", "3"].raw == pytest.approx(0.9 - 0.515)


def test_without_a_degree_of_freedom_there_is_no_interval_but_that_over_people():
    scores, factors = [0.5, 0.53], {"loss": ["ce", "focal"]}
    found, freedom = leaderboard.main_effects(scores, factors)
    assert freedom == 0 and found[0].value == pytest.approx(0.03) and found[0].low is None
    draws = np.array([[0.50, 0.48, 0.52], [0.53, 0.54, 0.52]])  # differences 0.03, 0.06, 0.00: sd 0.0244949
    effect = leaderboard.main_effects(scores, factors, draws)[0][0]
    assert effect.level == "focal" and effect.high - effect.value == pytest.approx(1.959964 * 0.0006**0.5, rel=1e-6)


def test_the_spread_over_people_widens_the_interval_in_squares():
    scores, factors = [0.52, 0.54, 0.50, 0.48], {"loss": ["focal", "focal", "ce", "ce"]}
    draws = np.array([[0.52, 0.52], [0.54, 0.54], [0.50, 0.52], [0.48, 0.50]])  # the effect is 0.04 and 0.02: sd 0.01
    alone, both = (leaderboard.main_effects(scores, factors, one)[0][0] for one in (None, draws))
    assert (both.high - both.value) ** 2 == pytest.approx((alone.high - alone.value) ** 2 + (1.959964 * 0.01) ** 2)


def test_nothing_varies():
    assert leaderboard.main_effects([0.5, 0.6], {"loss": ["ce", "ce"]}) == ([], 1)


def test_pearson_and_its_interval_by_fishers_z():
    """x = 1..5, y = 1 3 2 5 4: covariance sum 8, squares 10 and 10, r = 0.8; atanh 0.8 = 1.098612, half 1.959964 / sqrt 2 =
    1.385904, so tanh(-0.287292) = -0.279640 and tanh(2.484516) = 0.986196."""
    found = leaderboard.pearson([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    assert (found.value, found.low, found.high) == pytest.approx((0.8, -0.279640, 0.986196), abs=1e-6)


def test_spearman_equals_scipy_also_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 30), rng.integers(0, 6, 30)
    found = leaderboard.spearman(x, y)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    half = 1.959964 * ((1 + found.value**2 / 2) / 27) ** 0.5
    assert np.arctanh([found.low, found.high]) == pytest.approx(
        [np.arctanh(found.value) - half, np.arctanh(found.value) + half]
    )
    np.testing.assert_array_equal(leaderboard.ranks(x), stats.rankdata(x))


@pytest.mark.parametrize(("x", "y", "value"), [
    ([1, 2], [1, 2], None), ([1, 2, 3], [1, 1, 1], None), ([], [], None), ([1, 2, 3], [1, 2, 4], 0.981981), ([1, 2, 3, 4], [2, 4, 6, 8], 1),
])  # fmt: skip
def test_correlations_that_are_not_defined_or_have_no_interval(x, y, value):
    found = leaderboard.pearson(x, y)
    assert found.value == (value if value is None else pytest.approx(value, abs=1e-6))
    assert (found.low, found.high) == (None, None)
