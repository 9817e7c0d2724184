"""pipeline.py: what is fitted, in which order, and how it is scored."""

import functools

import numpy as np
import pytest
import sklearn.metrics
from helpers import People

import blend
import metrics
from blend import Fitted, Plan
from dataset import age_group_probs, combine

FITS = [
    Plan(search="weights", decode="f1", bounds=None, temperature=True),
    Plan(method="hard", bounds=None),
    Plan(search="greedy", seed=3),
    Plan(method="stack"),
]


@pytest.fixture(scope="module")
def people():
    return People(30, seed=4)


@pytest.fixture(scope="module")
def members(people):
    return [(target, people.probs(target)) for target in ("age", "mask", "gender", "label")]


@pytest.fixture
def quick(monkeypatch):
    """Factors of two rounds: here it matters what they are given, not how far they go."""
    monkeypatch.setattr(metrics, "fit_class_factors", functools.partial(metrics.fit_class_factors, rounds=2))


def test_the_options_that_fit():
    assert Plan().fitted_options == Plan("hard", bounds=(29, 59)).fitted_options == []
    assert Plan("soft", "greedy", "f1", None).fitted_options == ["--search greedy", "--decode f1", "--tune-bounds"]
    assert Plan("stack").fitted_options == ["--method stack"] and Plan(temperature=True).fitted_options == ["--temperature"]
    assert Plan(decode="prior").fitted_options == [] and Plan(decode="f1+prior").fitted_options == ["--decode f1+prior"]


def test_a_plan_without_fit_is_the_blend(members, people):
    fitted = blend.fit_plan(Plan("hard", bounds=(29, 59)), members, people.label)
    assert fitted == Fitted((29, 59))
    probs = blend.apply_plan(Plan("hard"), fitted, members)
    np.testing.assert_array_equal(probs, blend.blend(members, "hard", (29, 59)))


def test_apply_by_hand(members):
    """Age cut at (29, 58), product of the parts weighing (1 + 2 + 3) / 3 = 2 against label 0.5, biases 2 for class 5."""
    fitted = Fitted((29, 58), [3, 1, 2, 0.5], class_factors=np.where(np.arange(18) == 5, 2.0, 1.0))
    parts = dict(members)
    product = combine(parts["mask"], parts["gender"], age_group_probs(parts["age"], (29, 58)))
    expected = (2 * product + 0.5 * parts["label"]) / 2.5
    expected[:, 5] *= 2
    probs = blend.apply_plan(Plan(), fitted, members)
    np.testing.assert_allclose(probs, expected / expected.sum(1, keepdims=True))


def test_bounds_are_tuned_again_at_the_weights_found():
    people = People(30, seed=3)
    drawn = (("mask", 1), ("gender", 1), ("age", 8), ("age", 2), ("label", 6))
    members = [(target, people.probs(target, noise)) for target, noise in drawn]
    fitted = blend.fit_plan(Plan(search="weights", bounds=None), members, people.label)
    first = blend.tune_bounds(members, people.label)
    weights = [{part: round(w, 6) for part, w in each.items()} for each in blend.tune_weights(members, people.label, first)]
    assert fitted.weights == weights and fitted.bounds == blend.tune_bounds(members, people.label, weights=weights) != first


def test_bounds_are_those_of_the_method():
    """Where members guess ages badly, their votes are cut elsewhere than their mean."""
    people = People(30, seed=0)
    members = [(target, people.probs(target, noise)) for target, noise in (("mask", 1), ("gender", 1), *[("age", 8)] * 3)]
    cuts = [blend.fit_plan(Plan(method, bounds=None), members, people.label).bounds for method in blend.BLEND_METHODS]
    assert cuts == [blend.tune_bounds(members, people.label, method) for method in blend.BLEND_METHODS] and cuts[0] != cuts[1]


def test_biases_are_those_of_the_weighted_blend(members, people, quick):
    fitted = blend.fit_plan(Plan(search="weights", decode="f1", bounds=(28, 58)), members, people.label)
    weights = blend.tune_weights(members, people.label, (28, 58))
    assert fitted.weights == [{part: round(w, 6) for part, w in each.items()} for each in weights]
    blended = blend.blend(members, bounds=(28, 58), weights=fitted.weights)
    np.testing.assert_allclose(fitted.class_factors, metrics.fit_class_factors(blended, people.label, 18), atol=5.1e-7)


def test_temperatures_come_first_and_all_else_sees_what_they_give(members, people, quick):
    plan = Plan(search="weights", decode="f1", bounds=None, temperature=True)
    fitted = blend.fit_plan(plan, members, people.label)
    assert fitted.temperatures == [blend.fit_member_temperatures(target, probs, people.label) for target, probs in members]
    scaled = blend.scale_members(members, fitted.temperatures)
    after = blend.fit_plan(Plan(search="weights", decode="f1", bounds=None), scaled, people.label)
    assert (fitted.bounds, fitted.weights) == (after.bounds, after.weights)
    np.testing.assert_array_equal(fitted.class_factors, after.class_factors)
    np.testing.assert_array_equal(blend.apply_plan(plan, fitted, members), blend.apply_plan(plan, after, scaled))
    assert blend.scale_by_temperatures(after, members) == (after, members)


def test_each_fold_is_scaled_before_the_mean_is_taken():
    """At temperature 2 of two classes 0.8 becomes 2/3 and 0.1 becomes 1/4: square roots, to a sum of 1 again."""
    folds = [[("gender", np.array([[0.8, 0.2]])), ("gender", np.array([[0.1, 0.9]]))], [("gender", np.array([[0.5, 0.5]]))]]
    fitted = blend.Fitted((30, 60), temperatures=[{"gender": 2.0}, {"gender": 3.0}])
    left, ((target, mean), (_other, same)) = blend.average_folds(fitted, folds)
    assert left.temperatures is None and target == "gender" and same.tolist() == [[0.5, 0.5]]
    np.testing.assert_allclose(mean, [[(2 / 3 + 1 / 4) / 2, (1 / 3 + 3 / 4) / 2]])
    _left, ((_target, mean), _same) = blend.average_folds(left, folds)
    np.testing.assert_allclose(mean, [[0.45, 0.55]])


def test_the_prior_is_met_by_all_images_together_after_cross_fitting(members, people, quick):
    plan, before = Plan(decode="f1+prior"), Plan(decode="f1")
    fitted = blend.fit_plan(plan, members, people.label)
    probs = blend.score_plan(before, fitted, members, people.label, people.path).probs
    result = blend.score_plan(plan, fitted, members, people.label, people.path)
    np.testing.assert_array_equal(result.mask_factors, blend.fit_mask_factors(probs))
    np.testing.assert_array_equal(result.probs, blend.apply_mask_factors(probs, result.mask_factors))
    assert blend.predicted_counts(result.probs).tolist() == blend.expected_counts(len(probs)).tolist()
    in_sample = blend.apply_mask_factors(*[table := blend.apply_plan(before, fitted, members), blend.fit_mask_factors(table)])
    f1 = metrics.macro_f1(people.label, in_sample.argmax(1), 18)
    assert result.scores["in_sample_f1"] == pytest.approx(f1, abs=1e-6)
    assert blend.finish_plan(before, probs) == (probs, None)


def test_a_greedy_search_sees_the_cut(members, people, monkeypatch):
    asked, path = [], [(1, 0.5), (0, 0.6)]

    def greedy(given, _truth, cut):
        asked.append((given, cut))
        return ([2 / 3, 1 / 3, 0.0, 0.0], path)

    monkeypatch.setattr(blend, "greedy", greedy)
    fitted = blend.fit_plan(Plan(search="greedy", bounds=(29, 58), seed=3), members, people.label)
    assert asked == [(members, (29, 58))]
    assert (fitted.weights, fitted.path) == ([0.666667, 0.333333, 0, 0], path)


@pytest.mark.parametrize("plan", FITS, ids=str)
def test_scores_are_those_of_people_left_out(members, people, plan, quick):
    fitted = blend.fit_plan(plan, members, people.label)
    result = blend.score_plan(plan, fitted, members, people.label, people.path)
    group = blend.assign_groups(people.label, people.path, blend.CROSSFIT_FOLDS, plan.seed)
    assert len(result.fits) == blend.CROSSFIT_FOLDS
    for number, part in enumerate(result.fits[:1]):
        rest, mine = ([(target, probs[rows]) for target, probs in members] for rows in (group != number, group == number))
        again = blend.fit_plan(plan, rest, people.label[group != number])
        assert again.bounds == part.bounds and again.weights == part.weights
        np.testing.assert_allclose(result.probs[group == number], blend.apply_plan(plan, part, mine))
        np.testing.assert_allclose(result.probs[group == number], blend.apply_plan(plan, again, mine))

    def f1(probs):
        return pytest.approx(sklearn.metrics.f1_score(people.label, probs.argmax(1), average="macro"), abs=1e-6)

    scores, plain = result.scores, blend.blend(members)
    assert scores["oof_f1"] == f1(result.probs) and scores["plain_f1"] == f1(plain) and scores["crossfit_parts"] == 5
    assert scores["in_sample_f1"] == f1(blend.apply_plan(plan, fitted, members))
    assert scores["gain"] == pytest.approx(scores["oof_f1"] - scores["plain_f1"], abs=2e-6)
    pred = result.probs.argmax(1)
    assert scores["oof_acc"] == pytest.approx((pred == people.label).mean(), abs=1e-6)
    samples = metrics.bootstrap_f1(people.label, pred, people.path, 18)
    assert scores["oof_f1_ci95"] == pytest.approx(metrics.interval(samples), abs=1e-6)
    gains = metrics.bootstrap_difference(people.label, pred, plain.argmax(1), people.path, 18)
    assert scores["gain_ci95"] == pytest.approx(metrics.interval(gains), abs=1e-6)


def test_what_is_not_fitted_has_no_in_sample_score(members, people):
    result = blend.score_plan(Plan(), Fitted(), members, people.label, people.path)
    assert result.scores.keys() == set(blend.SCORES) and result.fits == []
    assert (result.scores["in_sample_f1"], result.scores["crossfit_parts"]) == (None, None)
    assert (result.scores["gain"], result.scores["gain_ci95"]) == (0, [0, 0])
    assert result.scores["plain_f1"] == result.scores["oof_f1"]


def test_the_stack_table_gives_its_answers(members, people):
    stack = blend.fit_stack(members, people.label)
    names = [(f"runs/{target}", target) for target, _probs in members]
    table = blend.stack_table(stack, names)
    coefficients = table.drop(columns=["member", "column"]).to_numpy()
    assert len(table) == 43 + 3 + 2 + 18 + 1 and table["column"].iloc[0] == "age_p18"
    logs = np.log(np.maximum(np.hstack([probs for _target, probs in members]), blend.LOG_FLOOR))
    logits = np.exp(logs @ coefficients[:-1] + coefficients[-1])
    np.testing.assert_allclose(logits / logits.sum(1, keepdims=True), blend.apply_stack(stack, members), rtol=1e-3, atol=1e-6)
