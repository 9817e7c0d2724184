"""bounds.py: where age distributions are cut, found on out-of-fold predictions."""

import numpy as np
import pytest
from helpers import People

import blend
import metrics
import report
from dataset import AGES, FIRST_AGE, encode


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
    parts = [dict.fromkeys(blend.member_components(*member), 0.5) for member in members]
    parts[4] = {"mask": 0.1, "gender": 0.0, "age_group": 2.0}
    for weights in ([1] * 8, [2, 1, 1, 0, 0.5, 0, 1, 3], parts):
        for method in blend.BLEND_METHODS:
            answers = blend.blend(members, method, (28, 57), weights).argmax(1)
            np.testing.assert_array_equal(blend.bounds_predictor(members, method, weights)((28, 57)), answers)


def one_hot(ages):
    return np.eye(len(AGES))[np.array(ages) - FIRST_AGE]


def test_bounds_move_as_little_as_they_have_to():
    """Three people guessed 25, 31 and 57 who are young, young and old, one guessed 45 in between: every LO of 32..40 and
    every HI of 50..57 is right for all, and (32, 57) is nearest to (30, 60). With 31 in the middle group LO stays 30."""
    mask, gender = np.eye(3)[[0] * 4], np.eye(2)[[0] * 4]
    members = [("mask", mask), ("gender", gender), ("age", one_hot([25, 31, 45, 57]))]
    assert blend.tune_bounds(members, encode(0, 0, np.array([0, 0, 1, 2]))) == (32, 57)
    assert blend.tune_bounds(members, encode(0, 0, np.array([0, 1, 1, 2]))) == (30, 57)
    assert blend.tune_bounds(members, encode(0, 0, np.array([0, 1, 1, 2])), "hard") == (30, 57)


def test_votes_are_cut_with_their_weights():
    """Ages 31, 31 and 45 of one member stand against 20, 20 and 20 of another, whose votes weigh as much only where they are
    given weight 1. The people are young, young and of the middle: with the first alone LO 32 is right for all; both votes
    of equal weight tie, and with the second alone every cut says young."""
    parts = [("mask", np.eye(3)[[0] * 3]), ("gender", np.eye(2)[[0] * 3])]
    members = [*parts, ("age", one_hot([31, 31, 45])), ("age", one_hot([20, 20, 20]))]
    truth = encode(0, 0, np.array([0, 0, 1]))
    for method in blend.BLEND_METHODS:
        assert blend.tune_bounds(members, truth, method, [1, 1, 3, 1]) == (32, 60)
        assert blend.tune_bounds(members, truth, method, [1, 1, 1, 3]) == (30, 60)


def test_bounds_that_depend_on_each_other_take_turns(monkeypatch):
    """Scores of a table over (LO, HI), so that HI 55 pays only once LO is 25, and LO 22 only once HI is 55; LO is moved
    first: without a second turn the search would end at (25, 55), and HI first would end at (30, 52)."""
    table = {(30, 60): 0.1, (25, 60): 0.2, (25, 55): 0.3, (22, 55): 0.4, (30, 52): 0.15}
    monkeypatch.setattr(blend, "bounds_predictor", lambda *_args: lambda cut: cut)
    monkeypatch.setattr(metrics, "macro_f1", lambda _truth, cut, _classes: table.get(cut, 0.0))
    assert blend.tune_bounds([], None) == (22, 55)


def test_without_weight_an_age_member_moves_nothing(members, people):
    weights = [float(target != "age") for target, _probs in members]
    assert blend.tune_bounds(members, people.label, weights=weights) == (30, 60)


@pytest.mark.parametrize("method", blend.BLEND_METHODS)
def test_the_study_goes_through_both_bounds(members, people, method):
    best = blend.tune_bounds(members[:3], people.label, method)
    study = blend.study_bounds(members[:3], people.label, people.path, best, method, resamples=50)

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
    official = blend.blend(members[:3], method).argmax(1)
    for curve in study.curves:
        np.testing.assert_allclose(curve.f1, [f1(cut) for cut in curve.bounds])
        for cut, low, high in list(zip(curve.bounds, curve.low, curve.high))[::5]:
            pred = blend.blend(members[:3], method, cut).argmax(1)
            samples = metrics.bootstrap_difference(people.label, pred, official, people.path, 18, 50)
            assert (low, high) == pytest.approx(metrics.interval(samples))


def test_the_study_is_of_the_weighted_blend_at_the_bounds_given(members, people):
    """Here bounds and weights are not the best ones: the score at `best` is that of these bounds."""
    weights = [3, 1, 1, 0.2, 0, 0, 1, 0]

    def f1(cut):
        return metrics.macro_f1(people.label, blend.blend(members, "soft", cut, weights).argmax(1), 18)

    study = blend.study_bounds(members, people.label, people.path, (35, 52), weights=weights, resamples=2)
    assert study.best_f1 == pytest.approx(f1((35, 52))) and study.official_f1 == pytest.approx(f1((30, 60)))
    np.testing.assert_allclose(study.curves[0].f1, [f1((low, 52)) for low in range(20, 41)])
    assert study.best_f1 < study.curves[0].f1.max()


def test_the_figure_marks_the_chosen_and_the_official_bounds(members, people, tmp_path):
    study = blend.study_bounds(members[:3], people.label, people.path, (28, 60), resamples=20)
    at_official = study.curves[0].bounds.index((30, 60))
    assert study.curves[0].low[at_official] == study.curves[0].high[at_official] == 0  # beside themselves
    assert study.best_f1 != study.official_f1
    figure = report.bounds(study, [(28, 60), (28, 59), (29, 60)], "bounds")
    for axis, (axes, curve) in enumerate(zip(figure.axes, study.curves)):
        rings = [line for line in axes.lines if line.get_marker() == "o"]
        assert [list(ring.get_xdata()) for ring in rings] == [[(28, 60)[axis]]]
        upright = [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "--"]
        level = [list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == ":"]
        assert upright == [[(30, 60)[axis]] * 2] and level == [[study.official_f1] * 2]
        parts = sorted(x for line in axes.lines if line.get_marker() == "s" for x in line.get_xdata())
        assert parts == ([28, 28, 29], [59, 60, 60])[axis]
        edges = axes.collections[0].get_paths()[0].vertices[:, 1] - study.official_f1
        assert (edges.min(), edges.max()) == pytest.approx((min(curve.low), max(curve.high)))
        assert axes.get_title(loc="left").endswith(("predicted, with HI 60", "predicted, with LO 28")[axis])
