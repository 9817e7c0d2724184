"""pipeline.py: what is fitted, in which order, and how it is scored."""

import numpy as np
import pytest
import sklearn.metrics
from simulated import People

import blend
import bounds
import pipeline
import search
from labels import age_group_probs, combine
from pipeline import Fitted, Plan

FITS = [
    Plan(search="weights", decode="f1"),
    Plan(method="hard", bounds=None),
    Plan(search="greedy", decode="f1", bounds=None),
]


@pytest.fixture(scope="module")
def people():
    return People(30, seed=4)


@pytest.fixture(scope="module")
def members(people):
    return [(target, people.probs(target)) for target in ("age", "mask", "gender", "label")]


def test_the_options_that_fit():
    assert Plan().fitted_options == Plan("hard", bounds=(29, 59)).fitted_options == []
    assert Plan("soft", "greedy", "f1", None).fitted_options == ["--search greedy", "--decode f1", "--tune-bounds"]
    assert Plan("stack").fitted_options == ["--method stack"]


def test_a_plan_without_fit_is_the_blend(members, people):
    fitted = pipeline.fit(Plan("hard", bounds=(29, 59)), members, people.label)
    assert fitted == Fitted((29, 59))
    probs = pipeline.apply(Plan("hard"), fitted, members)
    np.testing.assert_array_equal(probs, blend.blend(members, "hard", (29, 59)))


def test_apply_by_hand(members):
    """Age cut at (29, 58), product of the parts weighing (1 + 2 + 3) / 3 = 2 against label 0.5, biases 2 for class 5."""
    fitted = Fitted((29, 58), [3, 1, 2, 0.5], biases=np.where(np.arange(18) == 5, 2.0, 1.0))
    parts = dict(members)
    product = combine(parts["mask"], parts["gender"], age_group_probs(parts["age"], (29, 58)))
    expected = (2 * product + 0.5 * parts["label"]) / 2.5
    expected[:, 5] *= 2
    probs = pipeline.apply(Plan(), fitted, members)
    np.testing.assert_allclose(probs, expected / expected.sum(1, keepdims=True))


def test_bounds_are_tuned_again_at_the_weights_found(members, people):
    fitted = pipeline.fit(Plan(search="weights", bounds=None), members, people.label)
    first = bounds.tune(members, people.label)
    weights = [{part: round(w, 6) for part, w in each.items()} for each in search.tune_weights(members, people.label, first)]
    assert fitted.weights == weights and fitted.bounds == bounds.tune(members, people.label, weights=weights)


@pytest.mark.parametrize("plan", FITS, ids=str)
def test_scores_are_those_of_people_left_out(members, people, plan):
    fitted = pipeline.fit(plan, members, people.label)
    result = pipeline.evaluate(plan, fitted, members, people.label, people.path)
    group = search.deal_persons(people.label, people.path, pipeline.PARTS)
    assert len(result.parts) == pipeline.PARTS
    for number, part in enumerate(result.parts[:1]):
        rest, mine = ([(target, probs[rows]) for target, probs in members] for rows in (group != number, group == number))
        again = pipeline.fit(plan, rest, people.label[group != number])
        assert again.bounds == part.bounds and again.weights == part.weights
        np.testing.assert_allclose(result.probs[group == number], pipeline.apply(plan, part, mine))
        np.testing.assert_allclose(result.probs[group == number], pipeline.apply(plan, again, mine))

    def f1(probs):
        return pytest.approx(sklearn.metrics.f1_score(people.label, probs.argmax(1), average="macro"), abs=1e-6)

    scores, plain = result.scores, blend.blend(members)
    assert scores["oof_f1"] == f1(result.probs) and scores["plain_f1"] == f1(plain) and scores["crossfit_parts"] == 5
    assert scores["in_sample_f1"] == f1(pipeline.apply(plan, fitted, members))
    assert scores["gain"] == pytest.approx(scores["oof_f1"] - scores["plain_f1"], abs=2e-6)
    assert scores["gain_ci95"][0] <= scores["gain"] <= scores["gain_ci95"][1]


def test_what_is_not_fitted_has_no_in_sample_score(members, people):
    result = pipeline.evaluate(Plan(), Fitted(), members, people.label, people.path)
    assert result.scores.keys() == pipeline.UNSCORED.keys() and result.parts == []
    assert (result.scores["in_sample_f1"], result.scores["crossfit_parts"]) == (None, None)
    assert (result.scores["gain"], result.scores["gain_ci95"]) == (0, [0, 0])
    assert result.scores["plain_f1"] == result.scores["oof_f1"]


def test_the_stack_table_gives_its_answers(members, people):
    stack = search.fit_stack(members, people.label)
    names = [(f"runs/{target}", target) for target, _probs in members]
    table = pipeline.stack_table(stack, names)
    coefficients = table.drop(columns=["member", "column"]).to_numpy()
    assert len(table) == 43 + 3 + 2 + 18 + 1 and table["column"].iloc[0] == "age_p18"
    logs = np.log(np.maximum(np.hstack([probs for _target, probs in members]), search.LOG_FLOOR))
    logits = np.exp(logs @ coefficients[:-1] + coefficients[-1])
    np.testing.assert_allclose(logits / logits.sum(1, keepdims=True), search.apply_stack(stack, members), rtol=1e-3, atol=1e-6)
