"""calibration.py: temperatures by hand, against a fine grid, and their properties."""

import numpy as np
import pytest
from helpers import People

import blend
from dataset import age_group_probs, decode, head_slices, num_outputs


@pytest.fixture(scope="module")
def people():
    return People(30, seed=2)


def test_scaled_by_hand():
    """At T = 2 the odds 4 : 1 become 2 : 1, at T = 1/2 they become 16 : 1."""
    probs = np.array([[0.8, 0.2], [0.2, 0.8]])
    np.testing.assert_allclose(blend.apply_temperature(probs, 2.0), [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])
    np.testing.assert_allclose(blend.apply_temperature(probs, 0.5), [[16 / 17, 1 / 17], [1 / 17, 16 / 17]])
    np.testing.assert_allclose(blend.apply_temperature(probs, 1.0), probs)


def test_fitted_by_hand():
    """Who says 9 : 1 and is right three times of four should say 3 : 1 = sqrt(9) : 1, so T = 2."""
    right = np.eye(2, dtype=bool)[[0, 0, 0, 1]]
    assert blend.fit_temperature(np.tile([0.9, 0.1], (4, 1)), right) == pytest.approx(2.0, abs=1e-3)
    assert blend.fit_temperature(np.tile([0.6, 0.4], (4, 1)), right) == pytest.approx(np.log(1.5) / np.log(3), abs=1e-3)


def test_several_right_columns_by_hand():
    """Columns 4 : 4 : 1, the first two right: at T they say 2 : 4 ** (-1/T). For 3 of 4 right that is 3 : 1 at T = log 4 / log 1.5."""
    right = np.array([[True, True, False]] * 3 + [[False, False, True]])
    assert blend.fit_temperature(np.tile([4 / 9, 4 / 9, 1 / 9], (4, 1)), right) == pytest.approx(
        np.log(4) / np.log(1.5), abs=1e-3
    )


def test_a_temperature_stays_within_its_limits():
    """Never wrong: T falls to its least; worse than chance: it rises to its greatest."""
    probs = np.tile([0.7, 0.3], (5, 1))
    assert blend.fit_temperature(probs, np.eye(2, dtype=bool)[[0] * 5]) == pytest.approx(blend.LIMITS[0], rel=1e-3)
    assert blend.fit_temperature(probs, np.eye(2, dtype=bool)[[1] * 5]) == pytest.approx(blend.LIMITS[1], rel=1e-3)


def test_zeros_are_small_probabilities():
    """A row of two zeros, one of them the truth, says 1 : FLOOR : FLOOR: nothing is infinite."""
    probs = np.array([[1.0, 0.0, 0.0], [0.8, 0.1, 0.1]])
    scaled = blend.apply_temperature(probs, 2.0)
    np.testing.assert_allclose(scaled[0], np.array([1, 1e-6, 1e-6]) / (1 + 2e-6))
    fitted = blend.fit_temperature(probs, np.eye(3, dtype=bool)[[1, 0]])
    assert blend.LIMITS[0] < fitted <= blend.LIMITS[1]


@pytest.mark.parametrize("target", ["label", "multi", "age", "mask"])
def test_members_are_fitted_head_by_head(people, target):
    """No temperature of a fine grid has a smaller loss of the head's truth; `age` is judged by its age groups."""
    probs, truth = people.probs(target, noise=4), dict(zip(("mask", "gender", "age_group"), decode(people.label)))
    truth |= {"label": people.label, "age": truth["age_group"]}
    found = blend.fit_member_temperatures(target, probs, people.label)
    assert list(found) == list(head_slices(target))
    for head, columns in head_slices(target).items():

        def loss(temperature, head=head, columns=columns):
            scaled = blend.apply_temperature(probs[:, columns], temperature)
            scaled = age_group_probs(scaled) if head == "age" else scaled
            return -np.log(scaled[np.arange(len(scaled)), truth[head]]).mean()

        grid = np.exp(np.linspace(np.log(0.1), np.log(10), 400))
        assert loss(found[head]) <= min(map(loss, grid)) + 1e-7


def test_scaling_before_is_undone(people):
    """Logits twice as large have twice the temperature, and the same probabilities after it."""
    probs = people.probs("mask", noise=3)
    sharp = probs**2 / (probs**2).sum(1, keepdims=True)
    (one,), (other,) = (blend.fit_member_temperatures("mask", table, people.label).values() for table in (probs, sharp))
    assert other == pytest.approx(2 * one, rel=1e-3) and abs(one - 1) > 0.05
    np.testing.assert_allclose(blend.apply_temperature(sharp, other), blend.apply_temperature(probs, one), atol=1e-3)


@pytest.mark.parametrize("target", ["multi", "age", "gender"])
def test_the_order_within_a_head_stays(people, target):
    probs = people.probs(target)
    temperatures = {head: 0.5 + index for index, head in enumerate(head_slices(target))}
    ((again, scaled),) = blend.scale_members([(target, probs)], [temperatures])
    assert again == target and scaled.shape == (len(probs), num_outputs(target))
    for head, columns in head_slices(target).items():
        np.testing.assert_allclose(scaled[:, columns].sum(1), 1)
        np.testing.assert_array_equal(scaled[:, columns].argmax(1), probs[:, columns].argmax(1))
        np.testing.assert_allclose(scaled[:, columns], blend.apply_temperature(probs[:, columns], temperatures[head]))
