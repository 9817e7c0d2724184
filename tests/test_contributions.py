"""contributions.py: what members add, and why others are left out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated import People

import blend
import ensemble
import metrics
import predictions
from blend import Fitted, Plan
from dataset import encode
from ensemble import LeftOut
from predictions import Member, Source

TRUTH = encode(0, 0, np.array([0, 1, 2, 1]))


def label_probs(pred, sure=0.9):
    return (1 - sure) / 18 + sure * np.eye(18)[pred]


def test_what_a_member_adds_by_hand():
    """The blend is right on all four; without the first the second errs on one of class 1: F1 of classes 0, 1, 2 is
    1 (2 * 1 / 2), 2/3 (2 * 1 / 3) and 2/3 (2 * 1 / 3), mean 7/9. So the first adds 2/9 and the second nothing."""
    members = [("label", label_probs(TRUTH)), ("label", label_probs(encode(0, 0, np.array([0, 1, 2, 2])), 0.5))]
    np.testing.assert_allclose(ensemble.added(Plan(), Fitted(), members, TRUTH), [2 / 9, 0], atol=1e-12)


def test_what_a_member_adds_is_at_the_other_s_weights_and_biases():
    people = People(12, seed=1)
    members = [(target, people.probs(target, 3)) for target in ("label", "multi", "label")]
    weights = [0.5, {"mask": 2.0, "gender": 0.25, "age_group": 0.0}, 2.0]
    fitted = Fitted(weights=weights, class_factors=np.linspace(0.1, 3, 18))

    def f1(weights):
        probs = blend.blend(members, weights=weights) * fitted.class_factors
        return metrics.macro_f1(people.label, probs.argmax(1), 18)

    expected = [
        f1(weights) - f1([weight if other != index else 0 for other, weight in enumerate(weights)]) for index in range(3)
    ]
    np.testing.assert_allclose(ensemble.added(Plan(), fitted, members, people.label), expected, atol=1e-12)
    assert ensemble.total_weight(weights[1]) == 2.25 and ensemble.total_weight(2) == 2


def test_of_many_members_none_is_tried_without():
    members = [("label", label_probs(TRUTH))] * 41
    assert not np.isnan(ensemble.added(Plan(), Fitted(weights=[1] * 40 + [0]), members, TRUTH)[:40]).any()
    assert np.isnan(ensemble.added(Plan(), Fitted(), members, TRUTH)).all()


def test_what_no_other_decides_is_needed():
    people = People(12, seed=0)
    members = [(target, people.probs(target)) for target in ("mask", "gender", "age", "age_group")]
    adds = ensemble.added(Plan(), Fitted(weights=[1, 1, 0, 2]), members, people.label)
    assert np.isposinf(adds[[0, 1, 3]]).all() and np.isnan(adds[2])
    assert np.isnan(ensemble.added(Plan("stack"), Fitted(), members, people.label)).all()


def test_correlation_is_that_of_the_parts_both_decide():
    people = People(12, seed=0)
    label, mask, gender = (people.probs(target) for target in ("label", "mask", "gender"))
    of = {target: ensemble.truth_probs(target, probs, people.label, (30, 60))
          for target, probs in (("label", label), ("mask", mask), ("gender", gender))}  # fmt: skip
    np.testing.assert_allclose(of["mask"]["mask"], mask[np.arange(len(mask)), people.mask])
    assert ensemble.correlation(of["label"], of["label"]) == pytest.approx(1)
    marginal = label.reshape(-1, 3, 6).sum(2)[np.arange(len(label)), people.mask]
    assert ensemble.correlation(of["label"], of["mask"]) == pytest.approx(np.corrcoef(marginal, of["mask"]["mask"])[0, 1])
    assert np.isnan(ensemble.correlation(of["gender"], of["mask"]))


def test_correlation_is_the_mean_of_the_parts_that_vary():
    """Parts correlate by 1 and by -1, mean 0; where the first is always the same, the second alone counts."""
    one = {"mask": np.array([0.1, 0.2, 0.4]), "gender": np.array([0.3, 0.6, 0.9])}
    other = {"mask": np.array([0.1, 0.2, 0.4]), "gender": np.array([0.9, 0.6, 0.3]), "age_group": np.array([0.1, 0.5, 0.2])}
    assert ensemble.correlation(one, other) == pytest.approx(0)
    assert ensemble.correlation(one, other | {"mask": np.full(3, 0.5)}) == pytest.approx(-1)


def test_ages_are_cut_at_the_bounds():
    """All of it on age 29: under 30 by the official bounds, 30-59 by (29, 59)."""
    probs, truth = np.eye(43)[[11, 11]], encode(0, 0, np.array([0, 1]))
    assert ensemble.truth_probs("age", probs, truth, (30, 60))["age_group"].tolist() == [1, 0]
    assert ensemble.truth_probs("age", probs, truth, (29, 59))["age_group"].tolist() == [0, 1]


def test_a_copy_is_left_out_beside_its_original():
    people = People(20, seed=2)
    one, other = people.probs("label"), people.probs("label", noise=3)
    members = [("label", other), ("label", one), ("label", one)]
    (out,) = ensemble.left_out(Plan(), Fitted(weights=[0.2, 0.8, 0]), members, people.label)
    entered = blend.apply_plan(Plan(), Fitted(weights=[0.2, 0.8, 0.5]), members).argmax(1)
    before = blend.apply_plan(Plan(), Fitted(weights=[0.2, 0.8, 0]), members).argmax(1)
    assert (out.index, out.nearest) == (2, 1) and out.correlation == pytest.approx(1)
    assert out.change == pytest.approx(metrics.macro_f1(people.label, entered, 18) - metrics.macro_f1(people.label, before, 18))
    assert ensemble.left_out(Plan(), Fitted(), members, people.label) == []
    assert len(ensemble.left_out(Plan(), Fitted(weights=[1, 0, 0]), members, people.label, limit=1)) == 1


def test_the_nearest_is_sought_among_those_used():
    """Gender and age share no part with the second mask member; it enters at the mean weight, (2 + 1.5 + 0.5) / 3 = 4/3."""
    people = People(20, seed=2)
    one, other = people.probs("mask", 8), people.probs("mask", 3)
    members = [(target, people.probs(target)) for target in ("label", "gender", "age")]
    members += [("mask", (one + other) / 2), ("mask", one)]
    weights = [0, 2, 1.5, 0.5, 0]

    def f1(weights):
        return metrics.macro_f1(people.label, blend.blend(members, weights=weights).argmax(1), 18)

    label, out = ensemble.left_out(Plan(), Fitted(weights=weights), members, people.label)
    assert (label.index, out.index, out.nearest) == (0, 4, 3) and out.correlation > 0.5
    assert out.change == pytest.approx(f1([0, 2, 1.5, 0.5, 4 / 3]) - f1(weights)) and out.change != 0
    assert out.change != pytest.approx(f1([0, 2, 1.5, 0.5, 1]) - f1(weights))
    assert ensemble.left_out(Plan(), Fitted(weights=weights), members, people.label, limit=1) == [label]


@pytest.mark.parametrize(("folds", "text"), [
    ([0, 1, 2, 3, 4], "0..4"), ([0, 1, 3, 4], "0 1 3 4"), ([0, 1], "0 1"), ([], "–"),
])  # fmt: skip
def test_folds_in_a_row_are_shortened(folds, text):
    assert ensemble._folds_text(folds) == text


@pytest.mark.parametrize(("out", "words"), [
    (LeftOut(2, 0, 0.984, 0.0), "adds nothing (correlation 0.98 with 1)"),
    (LeftOut(2, 0, 0.5, -0.0123), "lowers the score by 0.0123 in-sample (correlation 0.50 with 1)"),
    (LeftOut(2, None, np.nan, 0.001), "would add only 0.0010 in-sample (nothing like it is used)"),
])  # fmt: skip
def test_reasons(out, words):
    assert ensemble.left_out_reason(out) == words


def test_the_table_fits_a_console():
    images = pd.DataFrame({"image": ["a", "b"], "path": ["a", "b"]})
    oof = predictions.oof_table(images, 0, "mask", np.array([[0], [2]]), np.array([[0.6, 0.2, 0.2], [0.6, 0.2, 0.2]]))
    long = "runs/10-AdamP-CosineAnnealingWarmRestarts-0.6*FL+0.4*F1-v10-mask_5fold"
    sources = [Source(long, Path(), "mask", "all"), Source("runs/short:fold2", Path(), "age_group", [2])]
    found = [Member(sources[0], [0, 1, 2, 3, 4], None, oof), Member(sources[1], [2], None, None)]
    head, first, second = ensemble.contributions_table(found, [{"mask": 0.25}, 0], [0.0123, np.inf])
    assert max(map(len, (head, first, second))) <= 100
    assert head.split() == ["#", "member", "target", "folds", "scored", "on", "own", "F1", "weight", "adds"]
    assert first.split()[2:] == ["mask", "0..4", "mask", "0.3333", "0.25", "+0.0123"]  # F1 2/3 and 0 of the two classes
    assert second.split() == ["2", "runs/short:fold2", "age_group", "2", "age_group", "–", "0", "needed"]
