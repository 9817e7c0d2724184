"""contributions.py: what members add, and why others are left out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated import People

import contributions
import pipeline
from contributions import LeftOut
from labels import encode
from members import Member, Source
from pipeline import Fitted, Plan

TRUTH = encode(0, 0, np.array([0, 1, 2, 1]))


def label_probs(pred, sure=0.9):
    return (1 - sure) / 18 + sure * np.eye(18)[pred]


def test_what_a_member_adds_by_hand():
    """The blend is right on all four; without the first the second errs on one of class 1: F1 of classes 0, 1, 2 is
    1 (2 * 1 / 2), 2/3 (2 * 1 / 3) and 2/3 (2 * 1 / 3), mean 7/9. So the first adds 2/9 and the second nothing."""
    members = [("label", label_probs(TRUTH)), ("label", label_probs(encode(0, 0, np.array([0, 1, 2, 2])), 0.5))]
    np.testing.assert_allclose(contributions.added(Plan(), Fitted(), members, TRUTH), [2 / 9, 0], atol=1e-12)


def test_what_no_other_decides_is_needed():
    people = People(12, seed=0)
    members = [(target, people.probs(target)) for target in ("mask", "gender", "age", "age_group")]
    adds = contributions.added(Plan(), Fitted(weights=[1, 1, 0, 2]), members, people.label)
    assert np.isposinf(adds[[0, 1, 3]]).all() and np.isnan(adds[2])
    assert np.isnan(contributions.added(Plan("stack"), Fitted(), members, people.label)).all()


def test_correlation_is_that_of_the_parts_both_decide():
    people = People(12, seed=0)
    label, mask, gender = (people.probs(target) for target in ("label", "mask", "gender"))
    of = {target: contributions.truth_probs(target, probs, people.label, (30, 60))
          for target, probs in (("label", label), ("mask", mask), ("gender", gender))}  # fmt: skip
    np.testing.assert_allclose(of["mask"]["mask"], mask[np.arange(len(mask)), people.mask])
    assert contributions.correlation(of["label"], of["label"]) == pytest.approx(1)
    marginal = label.reshape(-1, 3, 6).sum(2)[np.arange(len(label)), people.mask]
    assert contributions.correlation(of["label"], of["mask"]) == pytest.approx(np.corrcoef(marginal, of["mask"]["mask"])[0, 1])
    assert np.isnan(contributions.correlation(of["gender"], of["mask"]))


def test_a_copy_is_left_out_beside_its_original():
    people = People(20, seed=2)
    one, other = people.probs("label"), people.probs("label", noise=3)
    members = [("label", other), ("label", one), ("label", one)]
    (out,) = contributions.left_out(Plan(), Fitted(weights=[0.2, 0.8, 0]), members, people.label)
    entered = pipeline.apply(Plan(), Fitted(weights=[0.2, 0.8, 0.5]), members).argmax(1)
    before = pipeline.apply(Plan(), Fitted(weights=[0.2, 0.8, 0]), members).argmax(1)
    assert (out.index, out.nearest) == (2, 1) and out.correlation == pytest.approx(1)
    assert out.change == pytest.approx(
        contributions.metrics.macro_f1(people.label, entered, 18) - contributions.metrics.macro_f1(people.label, before, 18)
    )
    assert contributions.left_out(Plan(), Fitted(), members, people.label) == []
    assert len(contributions.left_out(Plan(), Fitted(weights=[1, 0, 0]), members, people.label, limit=1)) == 1


@pytest.mark.parametrize(("out", "words"), [
    (LeftOut(2, 0, 0.984, 0.0), "adds nothing (correlation 0.98 with 1)"),
    (LeftOut(2, 0, 0.5, -0.0123), "lowers the score by 0.0123 in-sample (correlation 0.50 with 1)"),
    (LeftOut(2, None, np.nan, 0.001), "would add only 0.0010 in-sample (nothing like it is used)"),
])  # fmt: skip
def test_reasons(out, words):
    assert contributions.reason(out) == words


def test_the_table_fits_a_console():
    images = pd.DataFrame({"image": ["a", "b"], "path": ["a", "b"]})
    oof = contributions.predictions.oof_table(
        images, 0, "mask", np.array([[0], [2]]), np.array([[0.6, 0.2, 0.2], [0.6, 0.2, 0.2]])
    )
    long = "runs/10-AdamP-CosineAnnealingWarmRestarts-0.6*FL+0.4*F1-v10-mask_5fold"
    sources = [Source(long, Path(), "mask", "all"), Source("runs/short:fold2", Path(), "age_group", [2])]
    found = [Member(sources[0], [0, 1, 2, 3, 4], None, oof), Member(sources[1], [2], None, None)]
    head, first, second = contributions.table(found, [{"mask": 0.25}, 0], [0.0123, np.inf])
    assert max(map(len, (head, first, second))) <= 100
    assert head.split() == ["#", "member", "target", "folds", "scored", "on", "own", "F1", "weight", "adds"]
    assert first.split()[2:] == ["mask", "0..4", "mask", "0.3333", "0.25", "+0.0123"]  # F1 2/3 and 0 of the two classes
    assert second.split() == ["2", "runs/short:fold2", "age_group", "2", "age_group", "–", "0", "needed"]
