"""blend.py by hand, against references (slow paths, an assignment, scikit-learn) and by properties."""

import functools

import numpy as np
import pytest
import sklearn.metrics
from helpers import People
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression

import blend
import dataset
import metrics
from blend import Fitted, Pipeline
from dataset import AGES, FIRST_AGE, age_group_probs, combine, decode, encode, head_slices, num_outputs
from errors import InputError

SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=20, deadline=None, derandomize=True)
MASK, GENDER, AGE = np.array([[0.7, 0.2, 0.1]]), np.array([[0.4, 0.6]]), np.array([[0.5, 0.3, 0.2]])
MIXES = [
    ["label"] * 4, ["multi"] * 3, ["label", "age"], ["label", "label", "mask", "age_group"],
    ["multi", "label", "mask", "gender", "age_group", "age"], ["mask", "gender", "age", "age_group", "mask"],
]  # fmt: skip
PEOPLE = People(30, seed=4)
EIGHT = [(name, PEOPLE.probs(name)) for name in ("age", "mask", "gender", "label", "multi", "age", "age_group", "label")]
MEMBERS = EIGHT[:4]


def draw_member(rng, target, truth, skill=1.2):
    """A member (target, probabilities) of images with these labels: the larger `skill`, the more often it is right."""
    mask, gender, age_group = decode(truth)
    true = {"label": [truth], "mask": [mask], "gender": [gender], "age_group": [age_group], "multi": [mask, gender, age_group]}
    true["age"] = [np.array([24, 45, 60])[age_group] - FIRST_AGE]
    sizes = (3, 2, 3) if target == "multi" else (num_outputs(target),)
    logits = [rng.normal(size=(len(truth), C)) + skill * np.eye(C)[of_head] for C, of_head in zip(sizes, true[target])]
    return target, np.hstack([dataset.softmax(head) for head in logits]).astype(np.float64)


def draw_members(rng, targets, n=120, **options):
    truth = rng.integers(18, size=n)
    return [draw_member(rng, target, truth, **options) for target in targets], truth


def blend_f1(members, truth, weights=None):
    return metrics.macro_f1(truth, blend.blend(members, weights=weights).argmax(1), 18)


def naive_path(members, truth, start, steps):
    """Greedy selection that calls blend.blend for every candidate; ties to the one taken least often, then the first."""
    chosen, scores = list(start), []
    while True:
        times = np.bincount(chosen, minlength=len(members))
        scores.append(blend_f1(members, truth, times.tolist()))
        if len(chosen) == steps:
            return list(zip(chosen[len(start) - 1 :], scores))
        f1 = [blend_f1(members, truth, (times + np.eye(len(members))[index]).tolist()) for index in range(len(members))]
        tied = [index for index, score in enumerate(f1) if score >= max(f1) - 1e-9]
        chosen.append(min(tied, key=lambda index: (chosen.count(index), index)))


def test_components_are_averaged_and_multiplied_and_multi_and_label_runs_decide_what_nobody_else_does():
    """worn x female x 30-59: 0.7 * 0.6 * 0.3 = 0.126. With a second mask run worn is (0.7 + 0.1) / 2 = 0.4, times male 0.4 and
    under 30 0.5 = 0.08."""
    members = [("age_group", AGE), ("mask", MASK), ("gender", GENDER)]
    probs = blend.blend(members)
    assert probs[0, encode(0, 1, 1)] == pytest.approx(0.126) and probs.sum() == pytest.approx(1)
    assert blend.blend([*members, ("mask", MASK[:, ::-1])])[0, 0] == pytest.approx(0.08)
    multi, label, other = np.concatenate([MASK, GENDER, AGE], axis=1), combine(MASK, GENDER, AGE), np.array([[0.1, 0.1, 0.8]])
    np.testing.assert_allclose(blend.blend([("multi", multi)]), label)
    np.testing.assert_allclose(blend.blend([("multi", multi), ("age_group", other)]), combine(MASK, GENDER, (AGE + other) / 2))
    np.testing.assert_allclose(blend.blend([("label", label), ("age_group", AGE)]), label)


def test_every_component_counts_a_third():
    """Two label runs and a product of one member a component: (2 * uniform + product) / 3. One label run, one mask, one gender
    and four age_group runs: (1 + 1 + 4) / 3 = 2 against 1. One age_group run beside one label run, which decides the rest:
    (product / 3 + label) / (1 / 3 + 1)."""
    uniform, product = ("label", np.full((1, 18), 1 / 18)), combine(MASK, GENDER, AGE)
    parts = [("mask", MASK), ("gender", GENDER), ("age_group", AGE)]
    np.testing.assert_allclose(blend.blend([uniform, uniform, *parts]), (1 / 9 + product) / 3)
    np.testing.assert_allclose(blend.blend([uniform, *parts, *parts[2:] * 3]), (1 / 18 + 2 * product) / 3)
    label, age = np.random.default_rng(0).dirichlet(np.ones(18), 1), np.array([[0.1, 0.1, 0.8]])
    product = combine(label.reshape(1, 3, 6).sum(2), label.reshape(1, 3, 2, 3).sum((1, 3)), age)
    np.testing.assert_allclose(blend.blend([("label", label), ("age_group", age)]), (product / 3 + label) / (4 / 3))


def test_weights_are_counts_and_may_be_of_parts():
    """Weights 2, 1, 3 give what repeating the members 2, 1 and 3 times gives, votes included. A multi member whose gender and age
    count 0 beside three others leaves only its mask, and weight 0 nothing at all."""
    rng = np.random.default_rng(0)
    label, multi = rng.dirichlet(np.ones(18), 5), np.hstack([rng.dirichlet(np.ones(size), 5) for size in (3, 2, 3)])
    age = rng.dirichlet(np.ones(3), 5)
    members = [("label", label), ("multi", multi), ("age_group", age)]
    repeated = [*[members[0]] * 2, members[1], *[members[2]] * 3]
    for method in ("soft", "hard"):
        np.testing.assert_allclose(blend.blend(members, method, weights=[2, 1, 3]), blend.blend(repeated, method))
    multi = np.concatenate([MASK[:, ::-1], GENDER[:, ::-1], AGE[:, ::-1]], axis=1)
    members = [("multi", multi), ("gender", GENDER), ("age_group", AGE), ("mask", MASK)]
    probs = blend.blend(members, weights=[{"mask": 1.0}, 1, 1, 0])
    np.testing.assert_allclose(probs, combine(MASK[:, ::-1], GENDER, AGE))
    with pytest.raises(InputError, match="no run decides mask"):
        blend.blend(members, weights=[0, 1, 1, 0])


def test_hard_counts_votes_and_breaks_ties_by_probability():
    """Votes for worn, worn, incorrect although the mean says incorrect; and one vote each: the surer one wins."""
    votes = [[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.0, 0.9, 0.1]]
    members = [*(("mask", np.array([probs])) for probs in votes), ("gender", GENDER), ("age_group", AGE)]
    assert blend.blend(members, "hard").argmax() // 6 == 0
    assert blend.blend(members, "soft").argmax() // 6 == 1
    assert blend.blend(members[1:], "hard").argmax() // 6 == 1


@few
@given(SEEDS, st.sampled_from(MIXES), st.floats(0.1, 10))
def test_order_and_scale_of_weights_change_nothing(seed, targets, scale):
    rng = np.random.default_rng(seed)
    members, _truth = draw_members(rng, targets, n=5)
    weights, order = rng.uniform(0.1, 3, len(members)), rng.permutation(len(members))
    probs = blend.blend(members, weights=weights.tolist())
    np.testing.assert_allclose(probs.sum(1), 1)
    again = blend.blend([members[index] for index in order], weights=(scale * weights[order]).tolist())
    np.testing.assert_allclose(again, probs)


def test_temperatures_by_hand():
    """At T = 2 the odds 4 : 1 become 2 : 1, at T = 1/2 they become 16 : 1. Zeros say 1 : FLOOR : FLOOR. Who says
    9 : 1 and is right three times of four should say 3 : 1 = sqrt(9) : 1, so T = 2. Columns 4 : 4 : 1, the first two right, say
    2 : 4 ** (-1/T) at T; for 3 of 4 right that is 3 : 1 at T = log 4 / log 1.5. Never wrong: T falls to its least; worse than
    chance: it rises to its greatest. A zero that is the truth is no infinite loss."""
    probs = np.array([[0.8, 0.2], [0.2, 0.8]])
    np.testing.assert_allclose(blend.apply_temperature(probs, 2.0), [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])
    np.testing.assert_allclose(blend.apply_temperature(probs, 0.5), [[16 / 17, 1 / 17], [1 / 17, 16 / 17]])
    np.testing.assert_allclose(blend.apply_temperature(probs, 1.0), probs)
    np.testing.assert_allclose(blend.apply_temperature([[1, 0, 0]], 2.0), np.array([[1, 1e-6, 1e-6]]) / (1 + 2e-6))
    first, both = [[True, False]] * 3 + [[False, True]], [[True, True, False]] * 3 + [[False, False, True]]
    for row, right, expected in (
        ([0.9, 0.1], first, 2.0), ([0.6, 0.4], first, np.log(1.5) / np.log(3)), ([4 / 9, 4 / 9, 1 / 9], both, np.log(4) / np.log(1.5)),
        ([0.7, 0.3], first[:3], blend.LIMITS[0]), ([0.7, 0.3], first[3:] * 5, blend.LIMITS[1]),
    ):  # fmt: skip
        assert blend.fit_temperature(np.tile(row, (len(right), 1)), np.array(right)) == pytest.approx(expected, rel=1e-3)
    fitted = blend.fit_temperature(np.array([[1.0, 0.0, 0.0], [0.8, 0.1, 0.1]]), np.eye(3, dtype=bool)[[1, 0]])
    assert blend.LIMITS[0] < fitted <= blend.LIMITS[1]


@pytest.mark.parametrize("target", ["label", "multi", "age", "mask"])
def test_members_are_fitted_head_by_head(target):
    """No temperature of a fine grid has a smaller loss of the head's truth; `age` is judged by its age groups."""
    probs, truth = PEOPLE.probs(target, noise=4), dict(zip(("mask", "gender", "age_group"), decode(PEOPLE.label)))
    truth |= {"label": PEOPLE.label, "age": truth["age_group"]}
    found = blend.fit_member_temperatures(target, probs, PEOPLE.label)
    assert list(found) == list(head_slices(target))
    for head, columns in head_slices(target).items():

        def loss(temperature, head=head, columns=columns):
            scaled = blend.apply_temperature(probs[:, columns], temperature)
            scaled = age_group_probs(scaled) if head == "age" else scaled
            return -np.log(scaled[np.arange(len(scaled)), truth[head]]).mean()

        grid = np.exp(np.linspace(np.log(0.1), np.log(10), 400))
        assert loss(found[head]) <= min(map(loss, grid)) + 1e-7


@few
@given(SEEDS, st.sampled_from(["multi", "age", "gender"]), st.floats(0.2, 5))
def test_the_order_within_a_head_stays(seed, target, temperature):
    _target, probs = draw_member(np.random.default_rng(seed), target, np.arange(18))
    temperatures = {head: temperature + index for index, head in enumerate(head_slices(target))}
    ((again, scaled),) = blend.scale_members([(target, probs)], [temperatures])
    assert again == target and scaled.shape == (18, num_outputs(target))
    for head, columns in head_slices(target).items():
        np.testing.assert_allclose(scaled[:, columns].sum(1), 1)
        np.testing.assert_array_equal(scaled[:, columns].argmax(1), probs[:, columns].argmax(1))
        np.testing.assert_allclose(scaled[:, columns], blend.apply_temperature(probs[:, columns], temperatures[head]))


def label_probs(mask_probs, rng=None):
    """Probabilities [N, 18] with these mask probabilities [N, 3]; gender and age at random, or all on the first."""
    mask_probs = np.asarray(mask_probs, dtype=float)
    rest = np.eye(6)[[0] * len(mask_probs)] if rng is None else rng.dirichlet(np.ones(6), len(mask_probs))
    return (mask_probs[:, :, None] * rest[:, None, :]).reshape(-1, 18)


def adjusted(probs):
    """Probabilities [N, 18] with the mask factors that are fitted to them."""
    return blend.apply_mask_factors(probs, blend.fit_mask_factors(probs))


def test_ties_go_together_and_zeros_stay():
    """Five images of seven are equal and two more are sure: whatever the factors, the five stay together. An image that can't
    be `worn` at all is left as it is, so that one of the others has to be."""
    tied = adjusted(label_probs([[0.4, 0.5, 0.1]] * 5 + [[0.1, 0.9, 0], [0, 0, 1]]))
    assert (tied.argmax(1) // 6).tolist() == [0, 0, 0, 0, 0, 1, 2]
    assert len(set(adjusted(label_probs([[0.4, 0.5, 0.1]] * 7)).argmax(1))) == 1
    best = np.sort(adjusted(label_probs([[0.4, 0.5, 0.1]] * 10 + [[0.3, 0.1, 0.6]] * 4)), axis=1)  # 10, 2, 2 are due
    assert (best[:, -1] - best[:, -2]).min() > 1e-3  # rounding decides nothing
    zeros = adjusted(label_probs([[0, 1, 0], [0, 0, 1], *[[0.3, 0.7, 0]] * 2, *[[0.3, 0.1, 0.6]] * 3]))
    assert blend.predicted_counts(zeros).tolist() == [5, 1, 1] and np.isfinite(zeros).all()


@few
@given(SEEDS, st.integers(1, 200))
def test_of_all_answers_with_the_expected_counts_it_is_the_likeliest_and_the_rest_of_a_label_stays(seed, images):
    """Reference: the assignment of images to 5 : 1 : 1 places of greatest sum of log-probabilities."""
    rng = np.random.default_rng(seed)
    expected = blend.expected_counts(images)
    assert expected.sum() == images and (np.abs(expected - images * np.array([5, 1, 1]) / 7) < 1).all()
    mask_probs = np.maximum(rng.dirichlet([0.3, 1, 0.5], images), 1e-300)
    probs = label_probs(mask_probs, rng)
    decoded, places = adjusted(probs), np.repeat([0, 1, 2], expected)
    likeliest = places[linear_sum_assignment(np.log(mask_probs)[:, places], maximize=True)[1]]
    assert blend.predicted_counts(decoded).tolist() == expected.tolist()
    np.testing.assert_array_equal(decoded.argmax(1), 6 * likeliest + probs.argmax(1) % 6)  # here the components are independent
    np.testing.assert_allclose(decoded.sum(1), 1)


def test_merged_members_blend_alike():
    """Equal weights, numbers and weights of parts; some of them 0, as a search leaves them."""
    parts = [dict.fromkeys(dataset.member_components(*member), 0.5) for member in EIGHT]
    parts[4] = {"mask": 0.1, "gender": 0.0, "age_group": 2.0}
    for weights in ([1] * 8, [2, 1, 1, 0, 0.5, 0, 1, 3], parts):
        for method in ("soft", "hard"):
            answers = blend.blend(EIGHT, method, (28, 57), weights).argmax(1)
            np.testing.assert_array_equal(blend.bounds_predictor(EIGHT, method, weights)((28, 57)), answers)


def one_hot(ages):
    return np.eye(len(AGES))[np.array(ages) - FIRST_AGE]


def test_bounds_move_as_little_as_they_have_to():
    """Three people guessed 25, 31 and 57 who are young, young and old, one guessed 45 in between: every LO of 32..40 and
    every HI of 50..57 is right for all, and (32, 57) is nearest to (30, 60). With 31 in the middle group LO stays 30."""
    mask, gender = np.eye(3)[[0] * 4], np.eye(2)[[0] * 4]
    members = [("mask", mask), ("gender", gender), ("age", one_hot([25, 31, 45, 57]))]
    assert blend.tune_bounds(members, encode(0, 0, np.array([0, 0, 1, 2]))) == (32, 57)
    assert blend.tune_bounds(members, encode(0, 0, np.array([0, 1, 1, 2]))) == (30, 57)


def test_votes_are_cut_with_their_weights():
    """Ages 31, 31 and 45 of one member stand against 20, 20 and 20 of another, whose votes weigh as much only where they are
    given weight 1. The people are young, young and of the middle: with the first alone LO 32 is right for all; both votes
    of equal weight tie, and with the second alone every cut says young."""
    parts = [("mask", np.eye(3)[[0] * 3]), ("gender", np.eye(2)[[0] * 3])]
    members = [*parts, ("age", one_hot([31, 31, 45])), ("age", one_hot([20, 20, 20]))]
    truth = encode(0, 0, np.array([0, 0, 1]))
    for method in ("soft", "hard"):
        assert blend.tune_bounds(members, truth, method, [1, 1, 3, 1]) == (32, 60)
        assert blend.tune_bounds(members, truth, method, [1, 1, 1, 3]) == (30, 60)


@pytest.mark.parametrize("method", ("soft", "hard"))
def test_the_study_goes_through_both_bounds(method):
    best = blend.tune_bounds(EIGHT[:3], PEOPLE.label, method)
    study = blend.study_bounds(EIGHT[:3], PEOPLE.label, PEOPLE.path, best, method, resamples=50)

    def pred(cut):
        return blend.blend(EIGHT[:3], method, cut).argmax(1)

    def f1(cut):
        return pytest.approx(metrics.macro_f1(PEOPLE.label, pred(cut), 18))

    assert best[1] < 60 and study.best_f1 > study.official_f1  # ages are guessed too low
    assert study.official_f1 == f1((30, 60)) and study.best_f1 == f1(best)
    lines = [(low, best[1]) for low in range(20, 41)], [(best[0], high) for high in range(50, 61)]
    for curve, bounds in zip(study.curves, lines):
        assert curve.bounds == bounds and list(curve.f1) == [f1(cut) for cut in bounds]
        for cut, *ends in list(zip(bounds, curve.low, curve.high))[::5]:
            samples = metrics.bootstrap_difference(PEOPLE.label, pred(cut), pred((30, 60)), PEOPLE.path, 18, 50)
            assert ends == pytest.approx(metrics.interval(samples))


@few
@given(SEEDS, st.sampled_from(MIXES), st.sampled_from([0.5, 4, 12]), st.sampled_from([-0.9, -0.2, 0.3, 1.15, 5.0]))
def test_a_changed_weight_is_scored_as_blend_does(seed, targets, skill, step):
    """Although only rows whose lead the change can overcome are computed; also where members are sure of other classes."""
    rng = np.random.default_rng(seed)
    members, truth = draw_members(rng, targets, skill=skill)
    if seed % 2:
        members = [draw_member(rng, target, rng.integers(18, size=len(truth)), skill) for target in targets]
    tables = [dataset.member_components(*member) for member in members]
    current = blend._Blend(truth, *blend._sum_members(blend._by_columns(members, (30, 60))[0]))
    for index, own in enumerate(tables):
        weights = [dict.fromkeys(each, 1.0) for each in tables]
        name = list(own)[seed % len(own)]
        weights[index][name] += step
        assert current.f1_plus({name: own[name]}, step) == pytest.approx(blend_f1(members, truth, weights))


@pytest.mark.parametrize("targets", [*MIXES, ["label"], ["mask", "gender", "age"]])
@pytest.mark.parametrize("skill", [0.5, 6])
def test_greedy_takes_the_path_of_blending_every_candidate(targets, skill):
    """Also where members are so sure that nearly nothing can change, and where a part's first own member joins late."""
    members, truth = draw_members(np.random.default_rng(len(targets)), targets, skill=skill)
    weights, path_taken = blend.greedy(members, truth, steps=9, patience=9)
    first = next(place for place, (_index, f1) in enumerate(path_taken) if not np.isnan(f1))
    path = naive_path(members, truth, [index for index, _f1 in path_taken[: first + 1]], 9)
    assert path_taken[first:] == [(index, pytest.approx(f1)) for index, f1 in path[: len(path_taken) - first]]
    assert path_taken[-1][1] == pytest.approx(max(f1 for _index, f1 in path))
    assert not any(f1 > path_taken[-1][1] - 1e-9 for _index, f1 in path_taken[:-1])  # it ends where it is best
    assert blend_f1(members, truth, weights) == pytest.approx(path_taken[-1][1])
    assert sum(weights) == pytest.approx(1, abs=1e-5) and min(weights) >= 0


def test_greedy_starts_from_the_better_of_one_member_and_one_of_each_part():
    rng = np.random.default_rng(0)
    truth = rng.integers(18, size=200)
    for label_skill, start in ((0.5, [1, 2, 0]), (9, [4])):
        drawn = [("age_group", 4), ("mask", 4), ("gender", 4), ("mask", 0.1), ("label", label_skill)]
        trace = blend.greedy([draw_member(rng, target, truth, skill) for target, skill in drawn], truth)[1]
        assert [index for index, _f1 in trace[: len(start)]] == start
        assert [place for place, (_index, f1) in enumerate(trace) if np.isnan(f1)] == list(range(len(start) - 1))


def test_age_members_are_cut_at_the_bounds():
    (*members, (_age, ages)), truth = draw_members(np.random.default_rng(0), ["label", "mask", "gender", "age"], skill=3)
    ages = np.roll(ages, -1, axis=1)  # a year too young, so that 29, 59 are the better bounds
    given, cut = ([*members, member] for member in (("age", ages), ("age_group", age_group_probs(ages, (29, 59)))))
    arguments = (given[1:], truth, (29, 59)), (cut[1:], truth), (given[1:], truth)
    found, expected, official = (blend.greedy(*each)[1][-1] for each in arguments)
    assert found == expected != official
    assert blend.tune_weights(given, truth, (29, 59)) == blend.tune_weights(cut, truth) != blend.tune_weights(given, truth)


@pytest.mark.parametrize("targets", MIXES)
def test_tuned_weights_score_what_the_search_saw_and_no_single_step_is_better(targets):
    members, truth = draw_members(np.random.default_rng(len(targets)), targets, skill=0.8)
    weights = blend.tune_weights(members, truth, rounds=30)
    assert [set(parts) for parts in weights] == [set(dataset.member_components(*member)) for member in members]
    score = blend_f1(members, truth, weights)
    assert score >= blend_f1(members, truth)
    assert all(1 / 32 <= value <= 32 for parts in weights for value in parts.values())
    assert all(0.5 <= value <= 2 for parts in blend.tune_weights(members, truth, largest=2.0) for value in parts.values())
    assert weights == blend.tune_weights(members, truth, rounds=30)
    for parts in weights:
        for part in parts:
            for factor in (2**0.5, 2**-0.5, 2**0.25, 2**-0.25):
                old, parts[part] = parts[part], parts[part] * factor
                assert blend_f1(members, truth, weights) <= score + 1e-9 or not 1 / 32 <= parts[part] <= 32
                parts[part] = old


def test_the_stack_is_that_of_scikit_learn_on_standardised_logarithms():
    members, truth = draw_members(np.random.default_rng(0), ["label", "age"], n=300)
    members[1] = ("age", np.where(members[1][1] < 0.02, 0, members[1][1]))
    logs = np.log(np.maximum(np.hstack([probs for _target, probs in members]), 1e-6))
    columns = (logs - logs.mean(0)) / logs.std(0)
    model = LogisticRegression(C=blend.STACK_C, max_iter=2000).fit(columns, truth)
    probs = blend.apply_stack(blend.fit_stack(members, truth), members)
    assert probs == pytest.approx(model.predict_proba(columns), abs=1e-3)
    seen = truth != 14  # a class that it never saw gets nothing
    probs = blend.apply_stack(blend.fit_stack([(target, probs[seen]) for target, probs in members], truth[seen]), members)
    assert (probs[:, 14] == 0).all() and probs.sum(1) == pytest.approx(1)


@few
@given(SEEDS, st.integers(5, 80), st.integers(2, 5))
def test_groups_hold_as_many_of_each_gender_and_age_group(seed, people, folds):
    """Of n people a group has n / folds, rounded down or up, in all and of each stratum; the order of rows changes nothing."""
    rng = np.random.default_rng(seed)
    stratum, order = rng.choice(6, size=people, p=[0.4, 0.2, 0.05, 0.2, 0.1, 0.05]), rng.permutation(6 * people)
    truth, persons = np.repeat(stratum, 6) + 6 * rng.integers(3, size=6 * people), np.arange(6 * people) // 6
    group = blend.crossfit_folds(truth, persons, folds)
    assert np.array_equal(group, np.repeat(group[::6], 6))
    assert np.array_equal(blend.crossfit_folds(truth[order], persons[order], folds), group[order])
    for dealt in (group[::6], *(group[::6][stratum == one] for one in range(6))):
        assert np.ptp(np.bincount(dealt, minlength=folds)) <= 1
    with pytest.raises(InputError, match=f"predictions of {people} people: cross-fitting deals them into {people + 1} groups"):
        blend.crossfit_folds(truth, persons, people + 1)


FITS = [Pipeline(search="weights", decode="f1", bounds=None, temperature=True), Pipeline(method="hard", bounds=None),
        Pipeline(search="greedy", seed=3), Pipeline(method="stack")]  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Factors of two rounds: here it matters what they are given, not how far they go."""
    monkeypatch.setattr(metrics, "fit_class_factors", functools.partial(metrics.fit_class_factors, rounds=2))


def test_a_plan_without_fit_is_the_blend_and_has_no_in_sample_score():
    fitted = blend.fit_pipeline(Pipeline("hard", bounds=(29, 59)), MEMBERS, PEOPLE.label)
    assert fitted == Fitted((29, 59))
    probs = blend.apply_pipeline(Pipeline("hard"), fitted, MEMBERS)
    np.testing.assert_array_equal(probs, blend.blend(MEMBERS, "hard", (29, 59)))
    result = blend.score_pipeline(Pipeline(), Fitted(), MEMBERS, PEOPLE.label, PEOPLE.path)
    f1 = result.scores["oof_f1"]
    nothing = {"in_sample_f1": None, "crossfit_parts": None, "plain_f1": f1, "gain": 0, "gain_ci95": [0, 0]}
    assert result.scores == result.scores | nothing and list(result.scores) == list(blend.SCORES) and result.fitted_folds == []


def test_apply_by_hand():
    """Age cut at (29, 58), product of components weighing (1 + 2 + 3) / 3 = 2 against label 0.5, class factor 2 for class 5."""
    fitted = Fitted((29, 58), [3, 1, 2, 0.5], class_factors=np.where(np.arange(18) == 5, 2.0, 1.0))
    parts = dict(MEMBERS)
    product = combine(parts["mask"], parts["gender"], age_group_probs(parts["age"], (29, 58)))
    expected = (2 * product + 0.5 * parts["label"]) / 2.5
    expected[:, 5] *= 2
    probs = blend.apply_pipeline(Pipeline(), fitted, MEMBERS)
    np.testing.assert_allclose(probs, expected / expected.sum(1, keepdims=True))


def test_temperatures_come_first_then_bounds_weights_bounds_again_and_factors(quick):
    people = People(30, seed=3)
    drawn = (("mask", 1), ("gender", 1), ("age", 8), ("age", 2), ("label", 6))
    members = [(target, people.probs(target, noise)) for target, noise in drawn]
    fitted = blend.fit_pipeline(Pipeline(search="weights", bounds=None), members, people.label)
    first = blend.tune_bounds(members, people.label)
    weights = blend.tune_weights(members, people.label, first)
    assert fitted.weights == weights and fitted.bounds == blend.tune_bounds(members, people.label, weights=weights) != first
    pipeline = Pipeline(search="weights", decode="f1", bounds=(28, 58), temperature=True)
    fitted = blend.fit_pipeline(pipeline, MEMBERS, PEOPLE.label)
    assert fitted.temperatures == [blend.fit_member_temperatures(target, probs, PEOPLE.label) for target, probs in MEMBERS]
    scaled = blend.scale_members(MEMBERS, fitted.temperatures)
    assert fitted.weights == blend.tune_weights(scaled, PEOPLE.label, (28, 58))
    blended = blend.blend(scaled, bounds=(28, 58), weights=fitted.weights)
    np.testing.assert_allclose(fitted.class_factors, metrics.fit_class_factors(blended, PEOPLE.label, 18), atol=5.1e-7)


def test_the_prior_is_met_by_all_images_together_after_cross_fitting(quick):
    pipeline, before = Pipeline(decode="f1+prior"), Pipeline(decode="f1")
    fitted = blend.fit_pipeline(pipeline, MEMBERS, PEOPLE.label)
    probs = blend.score_pipeline(before, fitted, MEMBERS, PEOPLE.label, PEOPLE.path).probs
    result = blend.score_pipeline(pipeline, fitted, MEMBERS, PEOPLE.label, PEOPLE.path)
    np.testing.assert_array_equal(result.mask_factors, blend.fit_mask_factors(probs))
    np.testing.assert_array_equal(result.probs, adjusted(probs))
    in_sample = adjusted(blend.apply_pipeline(before, fitted, MEMBERS)).argmax(1)
    assert result.scores["in_sample_f1"] == pytest.approx(metrics.macro_f1(PEOPLE.label, in_sample, 18), abs=1e-6)
    assert blend.finish_pipeline(before, probs) == (probs, None)


@pytest.mark.parametrize("pipeline", FITS, ids=str)
def test_scores_are_those_of_people_left_out(pipeline, quick):
    """A group of people is predicted by a fit to all others; no person is in two groups."""
    fitted = blend.fit_pipeline(pipeline, MEMBERS, PEOPLE.label)
    result = blend.score_pipeline(pipeline, fitted, MEMBERS, PEOPLE.label, PEOPLE.path)
    group = blend.crossfit_folds(PEOPLE.label, PEOPLE.path, blend.CROSSFIT_FOLDS, pipeline.seed)
    number = FITS.index(pipeline)  # another group with each
    part, mine = result.fitted_folds[number], group == number
    again = blend.fit_pipeline(pipeline, [(target, probs[~mine]) for target, probs in MEMBERS], PEOPLE.label[~mine])
    assert len(result.fitted_folds) == blend.CROSSFIT_FOLDS and (again.bounds, again.weights) == (part.bounds, part.weights)
    left_out = blend.scale_members([(target, probs[mine]) for target, probs in MEMBERS], part.temperatures)
    for one in (part, again):
        np.testing.assert_allclose(result.probs[mine], blend.apply_pipeline(pipeline, one, left_out))

    def f1(probs):
        return pytest.approx(sklearn.metrics.f1_score(PEOPLE.label, probs.argmax(1), average="macro"), abs=1e-6)

    scores, plain = result.scores, blend.blend(MEMBERS)
    assert scores["oof_f1"] == f1(result.probs) and scores["plain_f1"] == f1(plain) and scores["crossfit_parts"] == 5
    scaled = blend.scale_members(MEMBERS, fitted.temperatures)
    assert scores["in_sample_f1"] == f1(blend.apply_pipeline(pipeline, fitted, scaled))
    assert scores["gain"] == pytest.approx(scores["oof_f1"] - scores["plain_f1"], abs=2e-6)
    pred = result.probs.argmax(1)
    assert scores["oof_acc"] == pytest.approx((pred == PEOPLE.label).mean(), abs=1e-6)
    samples = metrics.bootstrap_f1(PEOPLE.label, pred, PEOPLE.path, 18)
    assert scores["oof_f1_ci95"] == pytest.approx(metrics.interval(samples), abs=1e-6)
    gains = metrics.bootstrap_difference(PEOPLE.label, pred, plain.argmax(1), PEOPLE.path, 18)
    assert scores["gain_ci95"] == pytest.approx(metrics.interval(gains), abs=1e-6)
