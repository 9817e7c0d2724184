"""bounds.py: where age distributions are cut, found on out-of-fold predictions."""

import numpy as np
import pytest
from PIL import Image
from simulated import People

import blend
import bounds
import metrics
from labels import AGES, FIRST_AGE, encode


@pytest.fixture(scope="module")
def people():
    return People(60, seed=1)


@pytest.fixture(scope="module")
def members(people):
    return [
        (target, people.probs(target)) for target in ("age", "mask", "gender", "label", "multi", "age", "age_group", "label")
    ]


def test_merged_members_blend_alike(members, people):
    """Equal weights, numbers and weights of parts; some of them 0, as a search leaves them."""
    parts = [dict.fromkeys(blend.member_parts(*member), 0.5) for member in members]
    parts[4] = {"mask": 0.1, "gender": 0.0, "age_group": 2.0}
    for weights in ([1] * 8, [2, 1, 1, 0, 0.5, 0, 1, 3], parts):
        merged, totals = bounds.merge(members, weights)
        assert len(merged) <= 5
        expected = blend.blend(members, "soft", (28, 57), weights)
        np.testing.assert_allclose(blend.blend(merged, "soft", (28, 57), totals), expected, atol=1e-12)


def one_hot(ages):
    return np.eye(len(AGES))[np.array(ages) - FIRST_AGE]


def test_bounds_move_as_little_as_they_have_to():
    """Three people guessed 25, 31 and 57 who are young, young and old, one guessed 45 in between: every LO of 32..40 and
    every HI of 50..57 is right for all, and (32, 57) is nearest to (30, 60). With 31 in the middle group LO stays 30."""
    mask, gender = np.eye(3)[[0] * 4], np.eye(2)[[0] * 4]
    members = [("mask", mask), ("gender", gender), ("age", one_hot([25, 31, 45, 57]))]
    assert bounds.tune(members, encode(0, 0, np.array([0, 0, 1, 2]))) == (32, 57)
    assert bounds.tune(members, encode(0, 0, np.array([0, 1, 1, 2]))) == (30, 57)
    assert bounds.tune(members, encode(0, 0, np.array([0, 1, 1, 2])), "hard") == (30, 57)


def test_without_weight_an_age_member_moves_nothing(members, people):
    weights = [float(target != "age") for target, _probs in members]
    assert bounds.tune(members, people.label, weights=weights) == (30, 60)


@pytest.mark.parametrize("method", blend.METHODS)
def test_the_study_goes_through_both_bounds(members, people, method):
    best = bounds.tune(members[:3], people.label, method)
    study = bounds.study(members[:3], people.label, people.path, best, method, resamples=50)

    def f1(cut):
        return metrics.macro_f1(people.label, blend.blend(members[:3], method, cut).argmax(1), 18)

    assert best[1] < 60  # ages are guessed too low
    assert study.official_f1 == pytest.approx(f1((30, 60))) and study.best_f1 == pytest.approx(f1(best))
    assert study.best_f1 > study.official_f1
    assert [cut[0] for cut in study.curves[0].bounds] == list(range(20, 41)) and {cut[1] for cut in study.curves[0].bounds} == {
        best[1]
    }
    assert [cut[1] for cut in study.curves[1].bounds] == list(range(50, 61)) and {cut[0] for cut in study.curves[1].bounds} == {
        best[0]
    }
    for curve in study.curves:
        np.testing.assert_allclose(curve.f1, [f1(cut) for cut in curve.bounds])
        assert (curve.low <= curve.high).all()


def test_the_figure_marks_the_chosen_and_the_official_bounds(members, people, tmp_path):
    study = bounds.study(members[:3], people.label, people.path, (30, 60), resamples=20)
    assert study.curves[1].low[-1] == study.curves[1].high[-1] == 0  # the official bounds beside themselves
    figure = bounds.bounds_figure(study, [(30, 60), (30, 59), (29, 60)], "bounds")
    for axes, chosen in zip(figure.axes, (30, 60)):
        rings = [line for line in axes.lines if line.get_marker() == "o"]
        assert [list(ring.get_xdata()) for ring in rings] == [[chosen]]
        assert sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "s") == 3
    bounds.draw(study, [], tmp_path / "bounds.png", "bounds")
    assert Image.open(tmp_path / "bounds.png").size == tuple(np.round(figure.get_size_inches() * figure.dpi).astype(int))
