import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import confusion_matrix, f1_score

import dataset
import metrics

few = settings(max_examples=40, deadline=None, derandomize=True)


def test_f1_by_hand():
    """Truth 0 0 0 1 1 2, predicted 0 0 1 1 3 1, five classes, class 4 absent.
    Class 0: tp 2, predicted 2, true 3, F1 = 4/5. Class 1: tp 1, predicted 3, true 2, F1 = 2/5. Class 2: never hit, 0.
    Class 3: predicted once, never true, 0. Macro over the four that occur: (4/5 + 2/5) / 4 = 0.3."""
    truth, pred = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 3, 1]
    assert metrics.macro_f1(truth, pred, 5) == pytest.approx(0.3)
    counts = metrics.confusion(truth, pred, 5)
    assert counts.dtype == np.int64 and counts.shape == (5, 5) and counts.sum() == 6
    assert counts[0, 1] == 1 and counts[1, 0] == 0 and counts[1, 3] == 1 and counts[2, 1] == 1


@pytest.mark.filterwarnings("ignore:A single label was found")
@few
@given(st.lists(st.tuples(st.integers(0, 17), st.integers(0, 17)), min_size=1, max_size=60), st.integers(18, 20))
def test_equal_to_scikit_learn(pairs, C):
    truth, pred = np.transpose(pairs)
    expected = f1_score(truth, pred, average="macro", zero_division=0)
    assert metrics.macro_f1(truth, pred, C) == pytest.approx(expected, abs=1e-12)
    assert np.array_equal(metrics.confusion(truth, pred, C), confusion_matrix(truth, pred, labels=range(C)))


@pytest.mark.parametrize("chunk_of", [3, 1500])
def test_bootstrap_equals_repeating_each_drawn_person_s_images(chunk_of):
    """With 1,500 persons a chunk is 666 draws, so 700 cross into the second."""
    rng = np.random.default_rng(chunk_of)
    resamples = 5 if chunk_of == 3 else 700
    persons = np.concatenate([np.arange(chunk_of), rng.integers(chunk_of, size=2 * chunk_of)])
    truth = rng.integers(4, size=len(persons))
    pred = np.where(rng.random(len(persons)) < 0.6, truth, rng.integers(4, size=len(persons)))
    scores = metrics.bootstrap_f1(truth, pred, persons, 4, resamples=resamples, seed=7)
    assert scores.shape == (resamples,) and scores.dtype == np.float64
    weights_rng = np.random.default_rng(7)
    for index, score in enumerate(scores):
        times = np.bincount(weights_rng.integers(chunk_of, size=chunk_of), minlength=chunk_of)[persons]
        if index % 50 < 5 or index > 660:
            direct = metrics.macro_f1(np.repeat(truth, times), np.repeat(pred, times), 4)
            assert score == pytest.approx(direct, abs=1e-12)


def test_interval_and_verdict_by_hand():
    """0, 1, ..., 100: the middle 95 % lies between the percentiles 2.5 and 97.5, which are those values."""
    assert metrics.interval(np.arange(101)) == pytest.approx((2.5, 97.5))
    verdicts = [metrics.verdict(*ends) for ends in ((0.001, 0.1), (-0.2, -0.001), (-0.1, 0.1), (0.0, 0.1))]
    assert verdicts == ["better", "worse", "noise", "noise"]


def test_bootstrap_of_the_whole_competition_is_quick():
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(2700), 7)
    truth, pred = rng.integers(18, size=(2, len(persons)))
    start = time.process_time()  # of this process: what others do doesn't count
    metrics.bootstrap_f1(truth, pred, persons, 18)
    assert time.process_time() - start < 3


def three_of(rng, truth, C):
    """Two predictions for `truth`, right at 6 and 7 of 10 images."""
    return [np.where(rng.random(len(truth)) < share, truth, rng.integers(C, size=len(truth))) for share in (0.6, 0.7)]


def test_mean_difference_is_that_of_a_plain_loop_over_draws_and_seeds():
    """Two predictions of A and three of B, each draw of persons with all their images, scored one by one and averaged."""
    rng = np.random.default_rng(1)
    persons, truth = rng.integers(30, size=200), rng.integers(5, size=200)
    preds_a, preds_b = three_of(rng, truth, 5), [*three_of(rng, truth, 5), truth]
    samples = metrics.bootstrap_difference(truth, preds_a, preds_b, persons, 5, resamples=20, seed=3)
    direct_rng, names = np.random.default_rng(3), list(dict.fromkeys(persons.tolist()))
    for sample in samples:
        drawn = [names[index] for index in direct_rng.integers(len(names), size=len(names))]
        rows = np.concatenate([np.flatnonzero(persons == name) for name in drawn])
        means = [np.mean([metrics.macro_f1(truth[rows], p[rows], 5) for p in preds]) for preds in (preds_a, preds_b)]
        assert sample == pytest.approx(means[0] - means[1], abs=1e-12)


def test_boundary_share_by_hand():
    """Truth 0 0 1 1; A 0 0 1 1 scores 1; B 0 1 0 1 has F1 2/4 in both classes, 0.5. Near holds the second image, A's right
    answer there makes 0 0 0 1: class 0 has tp 2 of 3 + 2, 4/5, class 1 tp 1 of 1 + 2, 2/3; macro 11/15. So the share is
    (11/15 - 1/2) / (1 - 1/2) = 7/15. The other way round the second image's wrong answer makes 0 1 1 1, 11/15 again, and the
    share is (11/15 - 1) / (1/2 - 1) = 8/15."""
    truth, pred_a, pred_b = [0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1]
    near = np.array([False, True, False, False])
    assert metrics.boundary_share(truth, pred_a, pred_b, near, 2) == pytest.approx(7 / 15)
    assert metrics.boundary_share(truth, pred_b, pred_a, near, 2) == pytest.approx(8 / 15)
    assert metrics.boundary_share(truth, pred_a, pred_b, np.ones(4, dtype=bool), 2) == pytest.approx(1)
    assert metrics.boundary_share(truth, pred_a, pred_b, np.zeros(4, dtype=bool), 2) == 0
    assert np.isnan(metrics.boundary_share(truth, pred_a, pred_a, near, 2))


def likely(rng, n, C):
    """Truth [n] with class 0 four times as frequent, and probabilities [n, C] that follow it and lean to class 0."""
    truth = rng.choice(C, size=n, p=np.r_[4, np.ones(C - 1)] / (C + 3))
    logits = 1.5 * np.eye(C)[truth] + rng.normal(size=(n, C))
    logits[:, 0] += 1.5
    return truth, dataset.softmax(logits).astype(np.float64)


def test_takeover_scores_equal_those_of_every_bias():
    """Between two edges macro F1 is what argmax with a bias in their middle scores; classes 4 and 5 never occur."""
    rng = np.random.default_rng(0)
    for C, n in ((2, 15), (6, 60)):
        truth, probs = likely(rng, n, min(C, 4))
        probs = np.hstack([probs, 0.05 * rng.random((n, C - min(C, 4)))])
        logs, biases = np.ascontiguousarray(np.log(probs).T), rng.normal(size=C) / 3
        for c in range(C):
            edges, scores = metrics._takeover(logs, biases, truth, c, -2.0, 3.0)
            assert edges[0] == -2 and edges[-1] == 3 and (np.diff(edges) >= 0).all() and len(edges) == len(scores) + 1
            for middle, score in zip((edges[:-1] + edges[1:]) / 2, scores):
                tried = np.where(np.arange(C) == c, middle, biases)
                assert score == pytest.approx(metrics.macro_f1(truth, (logs.T + tried).argmax(1), C), abs=1e-12)


def test_the_best_step_is_that_of_the_mean_around_it():
    """Steps 0..1, 1..1.02, 1.02..2 and 2..3 that score 0.5, 0.9, 0.4 and 0.52. Within half a unit of the spike at 1.01 the
    mean is 0.49 * 0.5 + 0.02 * 0.9 + 0.49 * 0.4 = 0.459; around 0.5 it is 0.5 and around 2.5 it is 0.52, the best."""
    edges, scores = np.array([0, 1, 1.02, 2, 3]), np.array([0.5, 0.9, 0.4, 0.52])
    assert metrics._smooth_best(edges, scores, now=0.5) == 2.5
    assert metrics._smooth_best(np.array([0.0, 1, 2]), np.array([0.5, 0.500005]), now=0.5) == 0.5
    assert metrics._smooth_best(np.array([0.0, 1, 2]), np.array([0.5, 0.5001]), now=0.5) == 1.5


def test_factors_take_several_rounds_and_ratios_alone():
    """One round over the classes is not enough here; rows times a factor have the same argmax, so the same factors."""
    truth, probs = likely(np.random.default_rng(0), 150, 5)
    factors = metrics.fit_class_factors(probs, truth, 5)
    assert not np.array_equal(factors, metrics.fit_class_factors(probs, truth, 5, rounds=1))
    assert metrics.fit_class_factors(probs * 1e-5, truth, 5) == pytest.approx(factors, rel=1e-6)


@few
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.5, 3.0, 20.0]))
def test_factors_stay_in_bounds_gain_or_are_all_one(seed, largest):
    """Class 1 may be always predicted and never right, so that its factor would fall without end. The best mean over a window
    can score less than argmax itself, which a handful of images shows often."""
    rng = np.random.default_rng(seed)
    truth, probs = rng.integers(3, size=15), rng.dirichlet(np.ones(3), 15)
    if seed % 2:
        probs[:, 1] = np.where(truth == 1, 1e-9, 0.999)
    factors, plain = metrics.fit_class_factors(probs, truth, 3, 2, largest), metrics.macro_f1(truth, probs.argmax(1), 3)
    assert factors.max() <= largest * (1 + 1e-9) and factors.min() >= 1 / largest * (1 - 1e-9)
    assert np.array_equal(factors, np.ones(3)) or metrics.macro_f1(truth, (probs * factors).argmax(1), 3) > plain
    assert np.array_equal(metrics.fit_class_factors(np.eye(3), np.arange(3), 3), np.ones(3))  # nothing to fit


def test_factors_undo_a_lean_to_one_class():
    """Probabilities that lean to class 0 by a factor e^1.5 = 4.5: the others get larger factors and other images gain."""
    rng = np.random.default_rng(0)
    truth, probs = likely(rng, 1500, 4)
    factors = metrics.fit_class_factors(probs, truth, 4)
    assert factors.shape == (4,) and factors.dtype == np.float64 and np.log(factors).sum() == pytest.approx(0, abs=1e-9)
    assert factors[1:].min() > 1.4 * factors[0]
    assert np.array_equal(factors, metrics.fit_class_factors(probs, truth, 4))
    for seed in range(3):
        truth, probs = likely(np.random.default_rng(10 + seed), 1500, 4)
        decoded = metrics.macro_f1(truth, (probs * factors).argmax(1), 4)
        assert decoded > metrics.macro_f1(truth, probs.argmax(1), 4) + 0.02


def test_apply_class_factors_by_hand():
    """0.5 0.3 0.2 times 1 2 1 is 0.5 0.6 0.2, and over 1.3 its argmax is that of the products; a tenth of it is the same."""
    probs = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 0.0], [0.05, 0.03, 0.02]])
    applied = metrics.apply_class_factors(probs, np.array([1.0, 2.0, 1.0]))
    assert applied == pytest.approx(np.array([[5 / 13, 6 / 13, 2 / 13], [0, 0, 0], [5 / 13, 6 / 13, 2 / 13]]))


def test_correlation_of_errors():
    """Wrong in rows 0 and 1 against wrong in 1 and 2 of 4: independent, 0. The same errors: 1. No errors: unknown."""
    a, b = np.array([1, 1, 0, 0], dtype=bool), np.array([0, 1, 1, 0], dtype=bool)
    assert metrics.phi(a, b) == 0 and metrics.phi(a, a) == pytest.approx(1)
    assert np.isnan(metrics.phi(a, np.zeros(4, dtype=bool)))


APART = np.array([[0.48, 0.52, 0.48, 0.52], [0.48, 0.48, 0.52, 0.52]])  # variance 0.0016 / 3 each, no covariance


def test_a_forecast_by_hand():
    """Alone: 0.5 and the gain 0.03; variance 0.0016 / 3 here, three times that on the board of a third of the people, and 0.02^2
    + 0.01^2. Of two the one is known, 0.06 above what was expected: of its variance 0.0016 / 3 * 3 + 0.02^2 = 0.002 the other
    shares 0.0004, a fifth: it rises by 0.012 and keeps 0.002 - 0.0004 / 5. 0.55 is then (0.55 - 0.512) / sqrt(0.00192) away."""
    (alone,) = metrics.forecast([0.5], APART[:1], [np.nan], [0.03], 300, 100, spread=(0.02, 0.01))
    variance = 0.0016 / 3 * 4 + 0.0004 + 0.0001
    assert alone == (pytest.approx(0.53), pytest.approx(1.281552 * variance**0.5), None, 1.0)
    known, other = metrics.forecast([0.5, 0.5], APART, [0.56, np.nan], [0, 0], 200, 100, best=0.55, spread=(0.02, 0))
    assert (known.score, known.half, known.beats) == (pytest.approx(0.56), pytest.approx(0, abs=1e-6), pytest.approx(1))
    assert (other.score, other.half) == (pytest.approx(0.512), pytest.approx(1.281552 * 0.00192**0.5))
    assert other.beats == pytest.approx(1 - stats.norm.cdf(0.038 / 0.00192**0.5))


def test_candidates_that_are_the_same_have_the_same_score():
    """Of three the first two are one: what the leaderboard says of the one holds of the other, and the third may lie anywhere."""
    draws = np.stack([APART[0], APART[0], APART[1]])
    _one, same, third = metrics.forecast([0.5, 0.5, 0.4], draws, [0.47, np.nan, np.nan], [0, 0.02, 0], 300, 900, spread=(0, 0))
    assert (same.score, same.half) == (pytest.approx(0.49), pytest.approx(0, abs=1e-6))
    assert third.score == pytest.approx(0.4) and third.half == pytest.approx(1.281552 * (0.0016 / 3 * 4 / 3) ** 0.5)
    assert same.private > 0.95 and third.private < 0.1


def test_four_fifths_of_leaderboards_are_within_the_interval():
    """Drawn as the forecast supposes, with three of four scores known: alone these make the interval narrower, and stay honest."""
    rng, draws, inside, n = np.random.default_rng(0), np.random.default_rng(1).normal(0, 0.02, (5, 400)), [], 4
    draws = draws[:n] + draws[n]  # a part is common
    S = np.cov(draws)
    for _case in range(300):
        expected = rng.uniform(0.5, 0.6, n)
        true = rng.multivariate_normal(expected, S) + rng.normal(0, 0.015) + rng.normal(0, 0.01, n)
        board = rng.multivariate_normal(true, S / 2)
        found = metrics.forecast(expected - 0.02, draws, [*board[:3], np.nan], [0.02] * n, 300, 600, spread=(0.015, 0.01))
        inside.append(abs(board[3] - found[3].score) <= found[3].half)
    blind = metrics.forecast(expected, draws, [np.nan] * n, [0] * n, 300, 600, spread=(0.015, 0.01))
    assert 0.75 < np.mean(inside) < 0.85 and found[3].half < 0.9 * blind[3].half
