"""Tables of probabilities, oof.csv and eval.csv, and of answers: columns, reading and checking, what they are scored on."""

import numpy as np
import pandas as pd

import dataset
import files
from dataset import CLASS_NAMES, HEADS, SCORED_AS, encode, head_slices, scored_probs
from errors import InputError

FORMAT = "%.6g"  # of a probability
SUM_ERROR = 2e-3  # of the probabilities of a head, by rounding: three digits are read


def oof_table(images, fold, target, truth, probs):
    """The oof.csv rows of image rows: `truth` int [N, 1 or 3] official classes, `probs` float [N, num_outputs]."""
    table = pd.DataFrame({"image": images["image"].to_numpy(), "path": images["path"].to_numpy(), "fold": fold})
    table[dataset.truth_columns(target)] = truth
    return pd.concat([table, pd.DataFrame(probs, columns=dataset.columns(target))], axis=1)


def read_table(path, target, keys):
    """A csv of probabilities with `keys` columns as strings, the first of which tells rows apart; those of oof.csv (with the
    key image) have official classes too. InputError names the line of what is no probability or no class or stands twice, and
    of a head whose probabilities don't sum to 1.
    """
    wholes = {}
    if "image" in keys:
        classes = HEADS[target] if target == "multi" else [SCORED_AS[target]]
        counts = [len(CLASS_NAMES[each]) for each in classes]
        wholes = {"fold": files.FOLDS, **dict(zip(dataset.truth_columns(target), counts))}
    table = files.read_numbers(path, keys, (*wholes, *dataset.columns(target)))
    table = files.to_wholes(path, table, wholes)
    files.check_inside(path, table, keys[0])
    twice = table[keys[0]].duplicated()
    if twice.any():
        row = int(twice.argmax())
        raise InputError(f"{files.column_place(path, row)}: {keys[0]} {table[keys[0]].iloc[row]!r} stands twice")
    _check_sums(path, table, target)
    return table


def _check_sums(path, table, target):
    """InputError that names the first row in which the probabilities of a head of `target` don't sum to 1."""
    names = dataset.columns(target)
    heads = [names[part] for part in head_slices(target).values()]
    with np.errstate(over="ignore"):
        sums = np.stack([table[head].to_numpy().sum(1) for head in heads], axis=1)
    wrong = ~(np.abs(sums - 1) <= SUM_ERROR)
    if wrong.any():
        row = int(wrong.any(1).argmax())
        head = int(wrong[row].argmax())
        first, *_rest, last = heads[head]
        found = f"{first} to {last} sum to {sums[row, head]:.6g}, not to 1"
        raise InputError(f"{files.column_place(path, row)}: {found}; of logits take the softmax")


def scored(table, target):
    """(truth [N], probs [N, C]) of an oof.csv table, on what the target is scored on at the official bounds."""
    truth = table[dataset.truth_columns(target)].to_numpy(dtype=np.int64)
    truth = encode(*truth.T) if target == "multi" else truth[:, 0]
    return truth, scored_probs(target, table[dataset.columns(target)].to_numpy(dtype=np.float64))


def eval_table(names, target, probs):
    """The rows of eval.csv: ImageID and probabilities [N, num_outputs]."""
    return pd.concat([pd.DataFrame({"ImageID": names}), pd.DataFrame(probs, columns=dataset.columns(target))], axis=1)


def of_images(table, names):
    """The rows of an eval.csv table for the images `names`, in their order; None where it lacks one of them."""
    if table["ImageID"].tolist() == names:
        return table
    rows = pd.Index(table["ImageID"]).get_indexer(names)
    return None if (rows < 0).any() else table.iloc[rows].reset_index(drop=True)


def mean(tables, target):
    """The mean of eval.csv tables of the same images in one order."""
    probs = np.mean([table[dataset.columns(target)].to_numpy() for table in tables], axis=0)
    return eval_table(tables[0]["ImageID"].tolist(), target, probs)


def submission_table(names, label_probs):
    """The rows of submission.csv: ImageID and the most probable of the 18 classes."""
    return pd.DataFrame({"ImageID": names, "ans": label_probs.argmax(1)})
