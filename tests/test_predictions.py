"""predictions.py: what counts as a table of probabilities, and what is refused with its line."""

import numpy as np
import pandas as pd
import pytest
from helpers import People

import dataset
import predictions
from dataset import TARGETS
from errors import InputError


def write(path, target, probs):
    """eval.csv with these rows of probabilities, as the scripts write it."""
    table = predictions.eval_table([f"{row}.jpg" for row in range(len(probs))], target, probs)
    table.to_csv(path, index=False, float_format=predictions.FORMAT)
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_rounded_probabilities_of_each_target_are_read(tmp_path, target):
    """By six digits, as written, and by three, as in tables of others."""
    probs = People(6, seed=0).probs(target)
    read = predictions.read_table(write(tmp_path / "eval.csv", target, probs), target, ("ImageID",))
    np.testing.assert_allclose(read[dataset.columns(target)], probs, rtol=1e-5)
    thirds = np.full((2, 3), 0.333)
    assert len(predictions.read_table(write(tmp_path / "eval.csv", "mask", thirds), "mask", ("ImageID",))) == 2


@pytest.mark.parametrize(("target", "column", "value", "message"), [
    ("label", "p17", 5.5, r"line 4: p0 to p17 sum to 6\S*, not to 1; of logits take the softmax"),
    ("multi", "mask_p0", 2, r"line 4: mask_p0 to mask_p2 sum to 3\S*, not to 1"),
    ("multi", "gender_p1", 0.01, r"line 4: gender_p0 to gender_p1 sum to 1\S*, not to 1"),
    ("multi", "age_group_p2", 3, r"line 4: age_group_p0 to age_group_p2 sum to 4\S*, not to 1"),
    ("age", "age_p60", 4, r"line 4: age_p18 to age_p60 sum to 5\S*, not to 1"),
])  # fmt: skip
def test_the_first_row_that_sums_to_something_else_is_named(tmp_path, target, column, value, message):
    """In lines 4 and 6 a column has more than its probability, which leaves the other heads as they are."""
    table = pd.DataFrame(People(1, seed=0).probs(target), columns=dataset.columns(target))
    table.loc[[2, 4], column] += value
    with pytest.raises(InputError, match=message):
        predictions.read_table(write(tmp_path / "eval.csv", target, table.to_numpy()), target, ("ImageID",))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("value", [0, 5])
def test_rows_of_one_number_are_no_probabilities(tmp_path, target, value):
    probs = np.full((2, len(dataset.columns(target))), value)
    with pytest.raises(InputError, match=r"eval.csv, line 2: .* sum to \d+, not to 1"):
        predictions.read_table(write(tmp_path / "eval.csv", target, probs), target, ("ImageID",))
