"""differences.py: hand-worked values and equality with scikit-learn, numpy and slow direct versions."""

import numpy as np
import pytest
import sklearn.metrics

import compare
import metrics
from compare import Comparison, Paired
from dataset import combine


def one_hot(classes, C):
    return np.eye(C)[classes]


@pytest.mark.parametrize(("a", "b", "part"), [
    ("label", "label", "label"), ("mask", "mask", "mask"), ("label", "gender", "gender"), ("age_group", "label", "age_group"),
    ("mask", "gender", None), ("gender", "age_group", None),
])  # fmt: skip
def test_what_two_can_be_compared_on(a, b, part):
    assert compare.common_part(a, b) == part


def test_labels_are_narrowed_to_a_part():
    """Label 13 = 2 * 6 + 0 * 3 + 1: not worn, male, 30-59. Marginals of a product are its factors."""
    assert [compare.narrow(13, "label", part) for part in ("label", "mask", "gender", "age_group")] == [13, 2, 0, 1]
    assert compare.narrow(1, "gender", "gender") == 1
    mask, gender, age = (np.array([row]) for row in ([0.5, 0.2, 0.3], [0.4, 0.6], [0.1, 0.2, 0.7]))
    np.testing.assert_allclose(compare.narrow_probs(combine(mask, gender, age), "label", "gender"), gender)
    assert compare.narrow_probs(age, "age_group", "age_group") is age


def test_changed_words():
    assert compare.changed_words(0, 14, "label") == [
        ("mask", "worn", "not worn"), ("gender", "male", "male"), ("age_group", "<30", ">=60"),
    ]  # fmt: skip
    assert compare.changed_words(0, 1, "gender") == [("gender", "male", "female")]


def test_what_moved_between_two_labellings():
    """Rows 1, 2, 4, 5 differ: twice 0 -> 1 (age), once 0 -> 3 (gender), once 0 -> 14 (mask and age).

    The prior of 7 images is 5:1:1. A answers worn seven times, B six times and not worn once.
    """
    a, b = np.zeros(7, dtype=np.int64), np.array([0, 1, 3, 0, 1, 14, 0])
    both = Comparison("label", list("abcdefg"), a, b, None, None)
    assert both.rows.tolist() == [1, 2, 4, 5] and both.certainty is None and both.expected_f1 is None
    assert both.flows == [(0, 1, 2), (0, 3, 1), (0, 14, 1)]
    assert both.part_changes == {"mask": 1, "gender": 1, "age_group": 3}
    counts = {(part, word): rest for part, word, *rest in both.part_counts()}
    assert counts["mask", "worn"] == [7, 6, 5] and counts["mask", "not worn"] == [0, 1, 1]
    assert counts["gender", "female"] == [0, 1, None]
    assert [times.tolist()[:4] for times in both.class_counts] == [[7, 0, 0, 0], [3, 2, 0, 1]]


def test_the_most_certain_disagreement_comes_first():
    """Certainties are the smaller of the two own probabilities: row 0 min(0.9, 0.6), row 1 min(0.8, 0.7); row 2 agrees."""
    probs_a = np.array([[0.9, 0.1], [0.8, 0.2], [1.0, 0.0]])
    probs_b = np.array([[0.4, 0.6], [0.3, 0.7], [1.0, 0.0]])
    a, b = probs_a.argmax(1), probs_b.argmax(1)
    both = Comparison("gender", ["x", "y", "z"], a, b, probs_a, probs_b)
    np.testing.assert_allclose(both.certainty, [0.6, 0.7, 1.0])
    assert both.rows.tolist() == [1, 0]
    assert Comparison("gender", ["x", "y", "z"], a, b, probs_a, None).rows.tolist() == [0, 1]


def test_expected_f1_by_hand():
    """Answers 0, 0, 1 with chances of class 0 of 0.8, 0.5, 0.3: it is expected 1.6 times and right 1.3 times of 2 answers.

    F1 of 0 is 2 * 1.3 / (2 + 1.6) = 0.7222; class 1 is expected 1.4 times, right 0.7 times of 1: 2 * 0.7 / (1 + 1.4) = 0.5833.
    """
    probs = np.array([[0.8, 0.2], [0.5, 0.5], [0.3, 0.7]])
    np.testing.assert_allclose(compare.expected_f1_difference(np.array([0, 0, 1]), probs), [2.6 / 3.6, 1.4 / 2.4])
    np.testing.assert_array_equal(compare.expected_f1_difference(np.array([0]), np.array([[1.0, 0, 0]])), [1, 0, 0])


def test_expected_f1_of_known_truth_is_f1():
    rng = np.random.default_rng(0)
    truth, answers = rng.integers(5, size=(2, 200))
    expected = sklearn.metrics.f1_score(truth, answers, average=None, labels=range(5))
    np.testing.assert_allclose(compare.expected_f1_difference(answers, one_hot(truth, 5)), expected)


def test_the_expected_effect_takes_the_mean_of_both():
    rng = np.random.default_rng(1)
    probs_a, probs_b = rng.dirichlet(np.ones(3), (2, 50))
    both = Comparison("mask", list(range(50)), probs_a.argmax(1), probs_b.argmax(1), probs_a, probs_b)
    np.testing.assert_allclose(both.expected_f1[1], compare.expected_f1_difference(both.b, (probs_a + probs_b) / 2))


def test_people_next_to_a_boundary():
    years = compare.ages(["000001_female_Asian_26", "x_27", "x_32", "x_33", "x_56", "000001-1_male_Asian_57", "x_60"])
    assert compare.near_boundary(years).tolist() == [False, True, True, False, False, True, True]
    assert compare.ages(["000001_female_Asian_26", "person"]) is None and compare.ages([]) is None


@pytest.mark.parametrize(("low", "high", "difference", "words"), [
    (-0.006, 0.013, 0.004, "A - B = +0.004, 95 % CI -0.006 .. +0.013: noise"),
    (0.001, 0.02, 0.0104, "A - B = +0.010, 95 % CI +0.001 .. +0.020: A is better"),
    (-0.05, -0.001, -0.03, "A - B = -0.030, 95 % CI -0.050 .. -0.001: B is better"),
    (0.0002, 0.02, 0.0104, "A - B = +0.0104, 95 % CI +0.0002 .. +0.0200: A is better"),
    (0.0, 0.0, 0.0, "A - B = +0.000, 95 % CI +0.000 .. +0.000: noise"),
])  # fmt: skip
def test_verdicts_in_words(low, high, difference, words):
    assert str(Paired(0.5 + difference, 0.5, low, high, 700)) == words


def test_how_many_people_it_takes():
    """Half the interval is 0.0095, the difference 0.004: 700 * (0.0095 / 0.004)^2 = 700 * 5.640625 = 3,948."""
    assert Paired(0.504, 0.5, -0.006, 0.013, 700).units_to_tell() == pytest.approx(3948.4375)
    assert Paired(0.5, 0.5, -0.01, 0.01, 700).units_to_tell() is None
    assert [compare.two_digits(number) for number in (3948.4, 1.24, 99.6, 12345678)] == ["3,900", "1", "100", "12,000,000"]


def test_signed_numbers():
    assert [compare.signed(number) for number in (0.00123, -0.00123, -0.00001, 0.0)] == [
        "+0.0012",
        "-0.0012",
        "0.0000",
        "0.0000",
    ]


def test_paired_scores_and_interval():
    """A is right everywhere; B errs for 3 of 10 persons of class 0: the interval holds the difference and leaves out 0."""
    truth = np.repeat([0, 1], 70)
    persons = np.repeat(np.arange(20), 7)
    b = np.where(persons < 3, 1, truth)
    result = compare.paired(truth, truth, b, persons, 2)
    assert (result.f1_a, result.units) == (1.0, 20)
    assert result.f1_b == pytest.approx(sklearn.metrics.f1_score(truth, b, average="macro"))
    assert 0 <= result.low < result.difference < result.high < 0.5
    samples = metrics.bootstrap_difference(truth, truth, b, persons, 2)
    assert (result.low, result.high) == metrics.interval(samples)
    mirrored = compare.paired(truth, b, truth, persons, 2)
    assert (mirrored.low, mirrored.high) == pytest.approx((-result.high, -result.low))
