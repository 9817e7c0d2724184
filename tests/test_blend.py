import numpy as np
import pytest

import blend
from dataset import AGES, FIRST_AGE, combine, encode
from errors import InputError

MASK, GENDER, AGE = np.array([[0.7, 0.2, 0.1]]), np.array([[0.4, 0.6]]), np.array([[0.5, 0.3, 0.2]])


def test_three_targets_are_multiplied():
    """worn x female x 30-59: 0.7 * 0.6 * 0.3 = 0.126."""
    probs = blend.blend([("age_group", AGE), ("mask", MASK), ("gender", GENDER)])
    assert probs[0, encode(0, 1, 1)] == pytest.approx(0.126)
    assert probs.sum() == pytest.approx(1)


def test_runs_of_one_target_are_averaged_before_the_product():
    """Mask worn (0.7 + 0.1) / 2 = 0.4, times male 0.4 and under 30 0.5 = 0.08."""
    probs = blend.blend([("mask", MASK), ("mask", MASK[:, ::-1]), ("gender", GENDER), ("age_group", AGE)])
    assert probs[0, 0] == pytest.approx(0.08)


def test_multi_gives_its_heads_to_the_parts():
    multi = np.concatenate([MASK, GENDER, AGE], axis=1)
    np.testing.assert_allclose(blend.blend([("multi", multi)]), combine(MASK, GENDER, AGE))
    other = np.array([[0.1, 0.1, 0.8]])
    np.testing.assert_allclose(blend.blend([("multi", multi), ("age_group", other)]), combine(MASK, GENDER, (AGE + other) / 2))


def test_label_runs_and_the_product_count_by_their_members():
    """Two label runs and a product of one member a part: (2 * uniform + product) / 3."""
    uniform = np.full((1, 18), 1 / 18)
    parts = [("mask", MASK), ("gender", GENDER), ("age_group", AGE)]
    expected = (2 * uniform + combine(MASK, GENDER, AGE)) / 3
    np.testing.assert_allclose(blend.blend([("label", uniform), ("label", uniform), *parts]), expected)


def test_every_part_counts_a_third():
    """One label run, one mask, one gender and four age_group runs: the product counts (1 + 1 + 4) / 3 = 2 against 1."""
    uniform = np.full((1, 18), 1 / 18)
    parts = [("mask", MASK), ("gender", GENDER), *[("age_group", AGE)] * 4]
    expected = (uniform + 2 * combine(MASK, GENDER, AGE)) / 3
    np.testing.assert_allclose(blend.blend([("label", uniform), *parts]), expected)


def test_weights_are_counts():
    """Weights 2, 1, 3 give what repeating the members 2, 1 and 3 times gives, votes included."""
    rng = np.random.default_rng(0)
    label, multi = rng.dirichlet(np.ones(18), 5), np.hstack([rng.dirichlet(np.ones(size), 5) for size in (3, 2, 3)])
    age = rng.dirichlet(np.ones(3), 5)
    members = [("label", label), ("multi", multi), ("age_group", age)]
    repeated = [*[members[0]] * 2, members[1], *[members[2]] * 3]
    for method in blend.BLEND_METHODS:
        np.testing.assert_allclose(blend.blend(members, method, weights=[2, 1, 3]), blend.blend(repeated, method))


def test_weights_of_parts():
    """A multi member whose gender and age count 0 beside three others leaves only its mask, and weight 0 nothing at all."""
    multi = np.concatenate([MASK[:, ::-1], GENDER[:, ::-1], AGE[:, ::-1]], axis=1)
    members = [("multi", multi), ("gender", GENDER), ("age_group", AGE), ("mask", MASK)]
    probs = blend.blend(members, weights=[{"mask": 1.0}, 1, 1, 0])
    np.testing.assert_allclose(probs, combine(MASK[:, ::-1], GENDER, AGE))
    with pytest.raises(InputError, match="no run decides mask"):
        blend.blend(members, weights=[0, 1, 1, 0])


def test_what_nobody_else_decides_comes_from_the_label_runs():
    label = combine(MASK, GENDER, AGE)
    np.testing.assert_allclose(blend.blend([("label", label), ("age_group", AGE)]), label)


def test_age_is_cut_at_the_bounds():
    ages = np.zeros((1, len(AGES)))
    ages[0, 59 - FIRST_AGE] = 1
    others = [("mask", MASK), ("gender", GENDER)]
    assert blend.blend([("age", ages), *others], bounds=(30, 60)).argmax() % 3 == 1
    assert blend.blend([("age", ages), *others], bounds=(29, 59)).argmax() % 3 == 2


def test_hard_counts_votes_and_breaks_ties_by_probability():
    """Votes for worn, worn, incorrect although the mean says incorrect; and one vote each: the surer one wins."""
    votes = [np.array([[0.5, 0.4, 0.1]]), np.array([[0.5, 0.4, 0.1]]), np.array([[0.0, 0.9, 0.1]])]
    others = [("gender", GENDER), ("age_group", AGE)]
    members = [("mask", probs) for probs in votes]
    assert blend.blend([*members, *others], "hard").argmax() // 6 == 0
    assert blend.blend([*members, *others], "soft").argmax() // 6 == 1
    assert blend.blend([*members[1:], *others], "hard").argmax() // 6 == 1


def test_two_small_leads_outvote_one_large_one():
    """Two votes of (1, 0, 0) and a thousandth of (0.34, 0.33, 0.33) against one of (0, 1, 0) with all of it; each vote is
    divided by 1.001, so a blend of votes is one of probabilities."""
    slight, sure, others = np.array([[0.34, 0.33, 0.33]]), np.array([[0.0, 1.0, 0.0]]), [("gender", GENDER), ("age_group", AGE)]
    probs = blend.blend([("mask", slight), ("mask", slight), ("mask", sure), *others], "hard")
    assert probs.argmax() // 6 == 0 and probs.sum() == pytest.approx(1)
    expected = np.array([2 + 2 * 0.34e-3, 1 + 2 * 0.33e-3 + 1e-3, 2 * 0.33e-3]) / 1.001 / 3
    assert probs.reshape(3, 6).sum(1) == pytest.approx(expected)


def test_a_part_that_only_label_runs_decide_counts_for_nobody():
    """One age_group run beside one label run is a third of a member: (product / 3 + label) / (1 / 3 + 1)."""
    label, age = np.random.default_rng(0).dirichlet(np.ones(18), 1), np.array([[0.1, 0.1, 0.8]])
    mask, gender = label.reshape(1, 3, 6).sum(2), label.reshape(1, 3, 2, 3).sum((1, 3))
    expected = (combine(mask, gender, age) / 3 + label) / (4 / 3)
    np.testing.assert_allclose(blend.blend([("label", label), ("age_group", age)]), expected)


@pytest.mark.parametrize("targets", [["label"], ["multi"], ["mask", "gender", "age"], ["age_group", "mask", "gender"]])
def test_what_decides_all_parts_is_taken(targets):
    assert blend.check_decided(targets) is None


@pytest.mark.parametrize(("targets", "message"), [(["gender"], "mask or age_group"), (["mask", "age"], "gender"), ([], "mask")])
def test_undecided_parts_are_named(targets, message):
    with pytest.raises(InputError, match=f"--models: no run decides {message}"):
        blend.check_decided(targets)
