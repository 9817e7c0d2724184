import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import blend
import metrics
from dataset import FIRST_AGE, decode, num_outputs
from errors import InputError

MIXES = [
    ["label"] * 4,
    ["label", "age"],
    ["label", "label", "mask", "age_group"],
    ["multi", "label", "mask", "gender", "age_group", "age"],
    ["mask", "gender", "age", "age_group", "mask"],
    ["multi"] * 3,
]


def draw_member(rng, target, truth, skill=1.2):
    """A member (target, probabilities) of images with these labels: the larger `skill`, the more often it is right."""
    mask, gender, age_group = decode(truth)
    true = {"label": [truth], "mask": [mask], "gender": [gender], "age_group": [age_group], "multi": [mask, gender, age_group]}
    true["age"] = [np.array([24, 45, 60])[age_group] - FIRST_AGE]
    sizes = (3, 2, 3) if target == "multi" else (num_outputs(target),)
    logits = [rng.normal(size=(len(truth), C)) + skill * np.eye(C)[of_head] for C, of_head in zip(sizes, true[target])]
    return target, np.hstack([metrics.softmax(head) for head in logits]).astype(np.float64)


def draw_members(rng, targets, n=120, **options):
    truth = rng.integers(18, size=n)
    return [draw_member(rng, target, truth, **options) for target in targets], truth


def blend_f1(members, truth, weights=None):
    return metrics.macro_f1(truth, blend.blend(members, weights=weights).argmax(1), 18)


def people(truth, images=6):
    return np.array([f"{row // images:06}_person" for row in range(len(truth))])


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


@pytest.mark.parametrize("targets", MIXES)
@pytest.mark.parametrize("skill", [0.5, 6])
def test_greedy_takes_the_path_of_blending_every_candidate(targets, skill):
    """Also where members are so sure that nearly nothing can change, and where a part's first own member joins late."""
    members, truth = draw_members(np.random.default_rng(len(targets)), targets, skill=skill)
    weights, path_taken = blend.greedy(members, truth, steps=9, patience=9)
    first = next(place for place, (_index, f1) in enumerate(path_taken) if not np.isnan(f1))
    path = naive_path(members, truth, [index for index, _f1 in path_taken[: first + 1]], 9)
    assert [index for index, _f1 in path_taken[first:]] == [index for index, _f1 in path][: len(path_taken) - first]
    assert [f1 for _i, f1 in path_taken[first:]] == pytest.approx([f1 for _i, f1 in path][: len(path_taken) - first])
    assert path_taken[-1][1] == pytest.approx(max(f1 for _index, f1 in path))
    assert blend_f1(members, truth, weights) == pytest.approx(path_taken[-1][1])
    assert sum(weights) == pytest.approx(1) and min(weights) >= 0


def test_a_search_ends_after_so_many_members_that_bring_nothing():
    """Its best is that of the slow path up to there, and not always the best of the whole path."""
    lengths = []
    for seed in range(3):
        members, truth = draw_members(np.random.default_rng(seed), ["label"] * 5, skill=0.7)
        path = naive_path(members, truth, [blend.greedy(members, truth, steps=1)[1][0][0]], 20)
        for patience in (1, 3, 20):
            best = 0
            for place, (_index, f1) in enumerate(path):
                if best + patience >= place and f1 > path[best][1] + 1e-9:
                    best = place
            trace = blend.greedy(members, truth, steps=20, patience=patience)[1]
            assert [index for index, _f1 in trace] == [index for index, _f1 in path[: best + 1]]
            lengths.append(best)
    assert lengths[0::3] != lengths[1::3] != lengths[2::3]


def test_greedy_starts_from_the_better_of_one_member_and_one_of_each_part():
    rng = np.random.default_rng(0)
    truth = rng.integers(18, size=200)
    parts = [draw_member(rng, target, truth, 4) for target in ("age_group", "mask", "gender", "mask")]
    for label_skill, start in ((0.5, [1, 2, 0]), (9, [4])):
        members = [*parts, draw_member(rng, "label", truth, label_skill)]
        members[3] = draw_member(rng, "mask", truth, 0.1)
        trace = blend.greedy(members, truth)[1]
        assert [index for index, _f1 in trace[: len(start)]] == start
        assert [np.isnan(f1) for _index, f1 in trace[: len(start)]] == [True] * (len(start) - 1) + [False]
        assert not np.isnan([f1 for _index, f1 in trace[len(start) - 1 :]]).any()


@pytest.mark.parametrize("targets", [["label"] * 12, ["mask", "gender", "age_group", "multi"] * 4])
def test_weights_are_those_of_the_path_among_many_members_too(targets):
    members, truth = draw_members(np.random.default_rng(3), targets, skill=0.7)
    weights, path_taken = blend.greedy(members, truth)
    times = np.bincount([index for index, _f1 in path_taken], minlength=len(targets))
    assert weights == pytest.approx(times / times.sum())
    assert blend_f1(members, truth, weights) == pytest.approx(path_taken[-1][1])


def test_equal_tables_share_their_weight():
    """Five folds of one run are stood in for by one table: the search takes them in turn, 1 and 1 and 1 and ..."""
    rng = np.random.default_rng(1)
    members, truth = draw_members(rng, ["label", "label"])
    members = [members[0]] * 5 + [members[1]]
    weights = np.array(blend.greedy(members, truth)[0])
    path = [index for index, _f1 in blend.greedy(members, truth)[1]]
    times = np.bincount(path, minlength=6)
    assert times[:5].max() - times[:5].min() <= 1
    assert weights == pytest.approx(times / times.sum())


def test_one_member_and_one_of_each_part():
    members, truth = draw_members(np.random.default_rng(0), ["label"])
    weights, path_taken = blend.greedy(members, truth)
    assert weights == [1.0] and path_taken == [(0, pytest.approx(blend_f1(members, truth)))]
    assert set(blend.tune_weights(members, truth)[0]) == {"label"}
    members, truth = draw_members(np.random.default_rng(0), ["mask", "gender", "age"])
    assert blend.greedy(members, truth)[0] == pytest.approx([1 / 3] * 3)
    assert blend_f1(members, truth, blend.tune_weights(members, truth)) == pytest.approx(blend_f1(members, truth))


def test_age_members_are_cut_at_the_bounds():
    rng = np.random.default_rng(0)
    members, truth = draw_members(rng, ["mask", "gender", "age", "age_group"])
    age = members[2][1]
    members[2] = ("age", np.hstack([age[:, 1:], age[:, :1]]))  # a year too young, so that 29, 59 are the better bounds
    trace = blend.greedy(members, truth, (29, 59))[1]
    times = np.bincount([index for index, _f1 in trace], minlength=4).tolist()
    at_bounds = blend.blend(members, bounds=(29, 59), weights=times).argmax(1)
    assert trace[-1][1] == pytest.approx(metrics.macro_f1(truth, at_bounds, 18))
    assert blend.tune_weights(members, truth, (29, 59)) != blend.tune_weights(members, truth)


@pytest.mark.parametrize("targets", MIXES)
def test_tuned_weights_score_what_the_search_saw_and_no_single_step_is_better(targets):
    members, truth = draw_members(np.random.default_rng(len(targets)), targets, skill=0.8)
    weights = blend.tune_weights(members, truth, rounds=30)
    assert [set(parts) for parts in weights] == [set(blend.member_components(*member)) for member in members]
    score = blend_f1(members, truth, weights)
    assert score >= blend_f1(members, truth)
    assert all(1 / 32 <= value <= 32 for parts in weights for value in parts.values())
    assert weights == blend.tune_weights(members, truth, rounds=30)
    for parts in weights:
        for part in parts:
            for factor in (2**0.5, 2**-0.5, 2**0.25, 2**-0.25):
                old, parts[part] = parts[part], parts[part] * factor
                assert blend_f1(members, truth, weights) <= score + 1e-9 or not 1 / 32 <= parts[part] <= 32
                parts[part] = old


def test_tuned_weights_stay_within_their_limit():
    """One member knows all and four guess, so that its weight would rise and theirs fall without end."""
    rng = np.random.default_rng(0)
    truth = rng.integers(18, size=200)
    members = [draw_member(rng, "label", truth, skill) for skill in (3, 0, 0, 0, 0)]
    narrow, wide = (blend.tune_weights(members, truth, largest=largest) for largest in (2.0, 32.0))
    assert all(0.5 <= weight["label"] <= 2 for weight in narrow)
    assert max(weight["label"] for weight in wide) > 4 * min(weight["label"] for weight in wide)


@pytest.mark.parametrize("targets", MIXES)
def test_a_changed_weight_is_scored_as_blend_does(targets):
    """Although only rows whose lead the change can overcome are computed; also where each member is sure of another class."""
    rng = np.random.default_rng(len(targets))
    for skill, apart in ((0.5, False), (4, False), (12, True)):
        members, truth = draw_members(rng, targets, skill=skill)
        if apart:
            members = [draw_member(rng, target, rng.integers(18, size=len(truth)), skill) for target in targets]
        given = [blend.member_components(*member) for member in members]
        sums = blend._blended(members, truth, (30, 60))
        assert sums.f1 == pytest.approx(blend_f1(members, truth))
        for index, parts in enumerate(given):
            for part, step in ((part, step) for part in parts for step in (-0.9, -0.2, 0.3, 1.15, 5.0)):
                weights = [dict.fromkeys(own, 1.0) for own in given]
                weights[index][part] += step
                expected = blend_f1(members, truth, weights)
                assert sums.f1_plus({part: parts[part]}, step) == pytest.approx(expected)


def test_stack_is_a_logistic_regression_on_log_probabilities():
    """What it learns of a member that names the wrong class always: to read it the other way round."""
    rng = np.random.default_rng(0)
    members, truth = draw_members(rng, ["label", "multi", "age"], n=900, skill=2.5)
    members[0] = ("label", np.roll(members[0][1], 1, axis=1))
    model = blend.fit_stack(members, truth)
    probs = blend.apply_stack(model, members)
    assert probs.shape == (900, 18) and probs.sum(1) == pytest.approx(1) and probs.min() >= 0
    fresh = rng.integers(18, size=900)
    others = [draw_member(rng, target, fresh, 2.5) for target in ("label", "multi", "age")]
    others[0] = ("label", np.roll(others[0][1], 1, axis=1))
    stacked = metrics.macro_f1(fresh, blend.apply_stack(model, others).argmax(1), 18)
    assert stacked > blend_f1(others, fresh) + 0.1
    zeros = [(target, np.where(table < 0.3, 0, table)) for target, table in others]
    assert np.isfinite(blend.apply_stack(model, zeros)).all()


def test_the_stack_is_that_of_scikit_learn_on_standardised_logarithms():
    members, truth = draw_members(np.random.default_rng(0), ["label", "age"], n=300)
    members[1] = ("age", np.where(members[1][1] < 0.02, 0, members[1][1]))
    logs = np.log(np.maximum(np.hstack([probs for _target, probs in members]), 1e-6))
    columns = (logs - logs.mean(0)) / logs.std(0)
    model = LogisticRegression(C=blend.STACK_C, max_iter=2000).fit(columns, truth)
    probs = blend.apply_stack(blend.fit_stack(members, truth), members)
    assert probs == pytest.approx(model.predict_proba(columns), abs=1e-3)


def test_stack_gives_nothing_to_a_class_it_never_saw():
    members, truth = draw_members(np.random.default_rng(0), ["label"], n=300)
    seen = truth != 14
    model = blend.fit_stack([("label", members[0][1][seen])], truth[seen])
    probs = blend.apply_stack(model, members)
    assert (probs[:, 14] == 0).all() and probs.sum(1) == pytest.approx(1)


def test_crossfit_never_applies_to_people_that_it_was_fitted_on():
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.integers(6, size=40), 6) + 6 * rng.integers(3, size=240)
    persons = people(truth)
    rows = np.arange(240.0)
    members = [("label", np.tile(rows[:, None], (1, 18))), ("mask", np.tile(rows[:, None], (1, 3)))]
    seen = []

    def fit(some, of_them):
        assert [target for target, _table in some] == ["label", "mask"]
        mine = some[0][1][:, 0].astype(int)
        assert np.array_equal(of_them, truth[mine]) and np.array_equal(some[1][1][:, 0], mine)
        return set(mine)

    def apply(fitted, others):
        mine = others[0][1][:, 0].astype(int)
        seen.extend(mine)
        assert not {persons[row] for row in fitted} & set(persons[mine])
        assert fitted | set(mine) == set(range(240))
        return others[0][1]

    orders = []
    for seed in (0, 1):
        probs = blend.crossfit(fit, apply, members, truth, persons, folds=4, seed=seed)
        assert sorted(seen) == list(range(240)) and np.array_equal(probs, members[0][1])
        orders.append(list(seen))
        seen.clear()
    assert orders[0] != orders[1]


def test_groups_hold_as_many_of_each_gender_and_age_group():
    """100 people in 5 groups: 20 each, and of a stratum of n people n / 5 rounded down or up. The people are drawn with
    another seed than the groups, or they would be in the order of the draws by which they are dealt."""
    rng = np.random.default_rng(7)
    stratum = rng.choice(6, size=100, p=[0.4, 0.2, 0.05, 0.2, 0.1, 0.05])
    truth, persons = np.repeat(stratum, 6) + 6 * rng.integers(3, size=600), people(np.zeros(600))
    group = blend.assign_groups(truth, persons, 5)
    first = group[::6]
    assert np.array_equal(group, np.repeat(first, 6)) and np.bincount(first).tolist() == [20] * 5
    for one in range(6):
        counts, n = np.bincount(first[stratum == one], minlength=5), int((stratum == one).sum())
        assert counts.min() >= n // 5 and counts.max() <= -(-n // 5)
    order = rng.permutation(600)
    assert np.array_equal(blend.assign_groups(truth[order], persons[order], 5), group[order])
    assert not np.array_equal(blend.assign_groups(truth, persons, 5, seed=1), group)
    with pytest.raises(InputError, match="predictions of 100 people: cross-fitting deals them into 101 groups"):
        blend.assign_groups(truth, persons, 101)


def honest_and_in_sample(members, truth, persons, fit, apply):
    """Macro F1 of what is fitted, cross-fitted and on the people it was fitted on."""
    honest = blend.crossfit(fit, apply, members, truth, persons, folds=3)
    return [metrics.macro_f1(truth, probs.argmax(1), 18) for probs in (honest, apply(fit(members, truth), members))]


FITTED = {
    "greedy": (lambda m, t: blend.greedy(m, t)[0], lambda w, m: blend.blend(m, weights=w)),
    "weights": (lambda m, t: blend.tune_weights(m, t, rounds=2), lambda w, m: blend.blend(m, weights=w)),
    "biases": (
        lambda m, t: metrics.fit_class_factors(m[0][1], t, 18, rounds=3),
        lambda b, m: metrics.apply_class_factors(m[0][1], b),
    ),
}


@pytest.mark.parametrize(("name", "seeds"), [("greedy", 1), ("weights", 2), ("biases", 1)])
def test_noise_gains_in_sample_and_not_when_cross_fitted(name, seeds):
    """30 members with the same logits and noise of their own; biases are fitted to one, whose classes are balanced.

    Weights are fitted with least effect: over 16 seeds they gain 0.031 in-sample and -0.008 cross-fitted (standard
    deviations of a seed 0.010 and 0.008, of the difference 0.011). So the means of two seeds keep more than three of their
    standard deviations from both bounds, and scores of the people fitted to would miss both.
    """
    gains = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        truth = np.repeat(rng.integers(6, size=80), 6) + 6 * rng.integers(3, size=480)
        logits = 1.8 * np.eye(18)[truth] + rng.normal(size=(480, 18))
        members = [("label", metrics.softmax(logits + 1.6 * rng.normal(size=(480, 18)))) for _ in range(30)]
        equal = metrics.macro_f1(truth, (members[0][1] if name == "biases" else blend.blend(members)).argmax(1), 18)
        gains.append(np.subtract(honest_and_in_sample(members, truth, people(truth), *FITTED[name]), equal))
    honest, in_sample = np.mean(gains, axis=0)
    assert honest < 0.01 < in_sample
    assert in_sample - honest > 0.01


@pytest.mark.parametrize("name", ["greedy", "weights"])
def test_members_that_complete_each_other_gain_cross_fitted_too(name):
    """One member knows the mask, one the rest, and three guess: equal weights let the guessing in."""
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.integers(6, size=100), 6) + 6 * rng.integers(3, size=600)
    of_mask, of_rest = (np.eye(C)[values] for C, values in ((3, truth // 6), (6, truth % 6)))
    known = [np.repeat(of_mask, 6, axis=1), np.tile(of_rest, (1, 3))]
    members = [("label", metrics.softmax(3 * know + rng.normal(size=(600, 18)))) for know in known]
    members += [("label", metrics.softmax(3 * rng.normal(size=(600, 18)))) for _ in range(3)]
    honest, in_sample = honest_and_in_sample(members, truth, people(truth), *FITTED[name])
    best = max(metrics.macro_f1(truth, blend.blend(some).argmax(1), 18) for some in (members, members[:1], members[1:2]))
    assert honest > best + 0.05 and in_sample > best + 0.05


def test_undecided_parts_are_refused():
    members, truth = draw_members(np.random.default_rng(0), ["mask", "age"])
    for fit in (blend.greedy, blend.tune_weights):
        with pytest.raises(InputError, match="no run decides gender"):
            fit(members, truth)
