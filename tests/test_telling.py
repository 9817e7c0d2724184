import re
from types import SimpleNamespace

import numpy as np
import pytest

import ensemble
from blend import Fitted, Plan


def test_out_of_fold_images_of_other_mask_shares_are_told(capsys):
    ensemble.say_true_shares(np.repeat([0, 6, 12], [50, 10, 10]))
    assert capsys.readouterr().out == ""
    ensemble.say_true_shares(np.repeat([0, 6, 17], [50, 12, 8]))
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("the out-of-fold images are not 5:1:1 by mask (worn 71.4%, incorrect 17.1%, not worn 11.4%)")


def test_temperatures_are_told(capsys):
    fitted = Fitted(temperatures=[{"label": 1.234}, {"mask": 0.5, "gender": 1, "age_group": 2}] + [{"age": 3.0}] * 11)
    ensemble.say_fit(SimpleNamespace(plan=Plan(), fitted=fitted))
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("temperatures: 1: 1.23, 2: 0.50 1.00 2.00, 3: 3.00, ") and told.endswith("12: 3.00 and 1 more")


def test_predicted_shares_in_words():
    """Of two genders one share says it all."""
    shares = ensemble.predicted_shares(np.eye(18)[[0, 0, 3, 17]])
    assert shares == "worn 75.0%, incorrect 0.0%, not worn 25.0%; female 50.0%; <30 75.0%, 30-59 0.0%, >=60 25.0%"


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(-0.005, 0.02, "noise"), (0.001, 0.02, "better"), (-0.02, -0.001, "worse")]
)
def test_whether_it_paid_is_said_by_the_interval(low, high, verdict, capsys):
    gain = (low + high) / 2
    scores = {"oof_f1": 0.5, "oof_acc": 0.6, "oof_f1_ci95": [0.4, 0.6], "in_sample_f1": 0.7, "crossfit_parts": 5}
    scored = SimpleNamespace(scores=scores | {"plain_f1": 0.5 - gain, "gain": gain, "gain_ci95": [low, high]})
    ensemble.say_scores(SimpleNamespace(plan=Plan(search="greedy"), scored=scored, grouping=None))
    assert capsys.readouterr().out.endswith(f"gain {gain:+.4f}, 95 % CI {low:+.4f} .. {high:+.4f}: {verdict}\n")
    ensemble.say_scores(SimpleNamespace(plan=Plan(seed=3), scored=scored, grouping=None))
    assert "gain" not in capsys.readouterr().out
    ensemble.say_scores(
        SimpleNamespace(plan=Plan("hard"), scored=scored, grouping=None)
    )  # nothing is fitted, and yet it is not the average
    out = capsys.readouterr().out
    assert verdict in out and "cross-fitted" not in out
    ensemble.say_scores(SimpleNamespace(plan=Plan(), scored=scored, grouping="there are groups"))
    assert verdict in capsys.readouterr().out


def test_the_strongest_factors_may_be_small_ones(capsys):
    biases = np.ones(18)
    biases[[0, 3, 5]] = 2.0, 0.1, 1.5
    ensemble.say_fit(SimpleNamespace(plan=Plan(decode="f1"), fitted=Fitted(class_factors=biases)))
    told = " ".join(capsys.readouterr().out.split())
    assert re.fullmatch(r"strongest factors: 0\.10 for class 3, .*; 2\.00 for class 0, .*; 1\.50 for class 5, .*", told)


def test_shares_that_depart_from_the_prior_are_warned_of(capsys):
    """70 images: 50, 10, 10 are expected; one image is 1.4 percentage points."""
    right = np.eye(18)[[0] * 50 + [6] * 10 + [12] * 10]
    ensemble.warn_of_prior(right)
    assert capsys.readouterr().err == ""
    ensemble.warn_of_prior(np.eye(18)[[0] * 51 + [6] * 9 + [12] * 10])
    err = " ".join(capsys.readouterr().err.split())
    assert err.startswith("warning: eval images are 5:1:1 by mask")
    ensemble.warn_of_prior(np.eye(18)[[0] * 146 + [6] * 32 + [12] * 32])  # 4 too few, 2 too many twice; 2.1 of 210 are borne
    assert "worn 146 (69.5%) for 150 (71.4%)" in " ".join(capsys.readouterr().err.split())
    assert "worn 51 (72.9%) for 50 (71.4%), incorrect 9 (12.9%) for 10 (14.3%), not worn 10 (14.3%) for 10 (14.3%)" in err
