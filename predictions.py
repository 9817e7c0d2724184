"""Tables of probabilities, oof.csv and eval.csv: their columns, reading and checking them, what they are scored on."""

from pathlib import Path

import numpy as np
import pandas as pd

from errors import InputError
from labels import CLASS_NAMES, HEADS, LABELS, encode, num_outputs, scored_probs

FORMAT = "%.6g"  # of a probability
SHIFT = 0.04  # of a side, in a shifted view
PLACES = ((0.0, 0.0), (-SHIFT, 0.0), (SHIFT, 0.0), (0.0, -SHIFT), (0.0, SHIFT))
# The views that predictions are the mean of: whether each is flipped, its shift to the right and down as parts of the sides.
TTAS = {
    "none": ((False, 0.0, 0.0),),
    "hflip": ((False, 0.0, 0.0), (True, 0.0, 0.0)),
    "shift": tuple((False, *place) for place in PLACES),
    "hflip+shift": tuple((flipped, *place) for flipped in (False, True) for place in PLACES),
}


def columns(target):
    """p0, p1, ... ; for `multi` mask_p0 ... age_group_p2; for `age` age_p18 ... age_p60."""
    if target == "multi":
        return [f"{head}_p{index}" for head in HEADS[target] for index in range(len(CLASS_NAMES[head]))]
    if target == "age":
        return [f"age_p{age}" for age in CLASS_NAMES["age"]]
    return [f"p{index}" for index in range(num_outputs(target))]


def truth_columns(target):
    """The columns of oof.csv that hold official classes."""
    return list(HEADS["multi"]) if target == "multi" else ["target"]


def oof_table(images, fold, target, truth, probs):
    """The oof.csv rows of image rows: `truth` int [N, 1 or 3] official classes, `probs` float [N, num_outputs]."""
    table = pd.DataFrame({"image": images["image"].to_numpy(), "path": images["path"].to_numpy(), "fold": fold})
    table[truth_columns(target)] = truth
    return pd.concat([table, pd.DataFrame(probs, columns=columns(target))], axis=1)


def read(path, target, keys):
    """A csv of probabilities with `keys` columns as strings; InputError names what is missing or no probability."""
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(keys, str), keep_default_na=False, na_values=[])
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable csv ({error})") from error
    names = columns(target)
    lacking = [column for column in (*keys, *names) if column not in table.columns]
    if lacking:
        raise InputError(f"{path}: column {lacking[0]!r} is missing for target {target}")
    try:
        probs = table[names].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: a probability is no number ({error})") from error
    if not (np.isfinite(probs).all() and (probs >= 0).all()):
        raise InputError(f"{path}: a probability is negative or not finite")
    return table


def scored(table, target):
    """(truth [N], probs [N, C]) of an oof.csv table, on what the target is scored on at the official bounds."""
    truth = table[truth_columns(target)].to_numpy(dtype=np.int64)
    truth = encode(*truth.T) if target == "multi" else truth[:, 0]
    return truth, scored_probs(target, table[columns(target)].to_numpy(dtype=np.float64))


def eval_table(names, target, probs):
    """The rows of eval.csv: ImageID and probabilities [N, num_outputs]."""
    return pd.concat([pd.DataFrame({"ImageID": names}), pd.DataFrame(probs, columns=columns(target))], axis=1)


def submission_table(names, label_probs):
    """The rows of submission.csv: ImageID and the most probable of the 18 classes."""
    assert label_probs.shape == (len(names), len(LABELS))
    return pd.DataFrame({"ImageID": names, "ans": label_probs.argmax(1)})
