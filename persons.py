"""Which images show one person, told from the pictures alone, and what that is worth: a person has one gender and one age.

Ours: correlation of small pictures and single-linkage clustering, no face recognition.

A contest's rules say whether images may be answered together; nothing here is done unless it is asked for. Members are lists
of (target, probabilities [N, num_outputs(target)]), as blend.blend takes them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import dataset
import demo
import files
import images
from dataset import AGE_GROUPS, GENDERS, MASKS, head_slices
from errors import InputError


@dataclass(frozen=True)
class Grouping:
    """The groups [N] of eval images `names` and of the out-of-fold rows `table` (image, path; None where a member has none)."""

    names: list
    eval: np.ndarray
    table: pd.DataFrame | None
    oof: np.ndarray | None

    @property
    def scores(self):
        """{pair_precision, pair_recall} of the out-of-fold groups; {} without any. See `pair_scores`."""
        if self.table is None:
            return {}
        return dict(zip(("pair_precision", "pair_recall"), pair_scores(self.oof, self.table["path"])))

    def write(self, folder):
        """persons.csv and oof_persons.csv: image,group."""
        for name, column, groups in (("persons.csv", self.names, self.eval), ("oof_persons.csv", *self._oof_columns())):
            if groups is not None:
                files.write_csv(folder / name, pd.DataFrame({"image": column, "group": groups}))

    def _oof_columns(self):
        return (None, None) if self.table is None else (self.table["image"].to_numpy(), self.oof)

    def lines(self):
        """What was found and what it calls for, for the console."""
        told = [f"persons: {len(self.names):,} eval images in {self.eval.max() + 1:,} groups of {images.SIZE} at most"]
        if self.table is not None:
            precision, recall = self.scores.values()
            told.append(
                f"  out of fold, all people at once, {len(self.oof):,} images in {self.oof.max() + 1:,}: of the pairs in a "
                f"group {precision:.1%} are of one person, of the pairs of a person {recall:.1%} are in a group"
            )
        return [*told, "  whether images may be answered together is for the contest's rules to say: ask before you hand it in"]


def find_persons(names, table, args):
    """The Grouping of eval images and of out-of-fold rows (or None), from the images of the data folder.

    Out-of-fold rows are grouped over all folds, as so many strangers are among eval images too. A stranger of another fold in a
    group brings in a model that has seen the person; keeping to folds changed the macro F1 of 700 people from 0.5841 to 0.5848.
    """
    data_dir = args.data_dir or demo.find()
    if data_dir is None:
        raise InputError("--persons: looks at the images, and there is no data folder here; give --data-dir")
    data_dir = demo.locate(data_dir)[0]
    groups = images.group_persons([f"{data_dir}/eval/images/{name}" for name in names], args)
    return Grouping(
        names,
        groups,
        table,
        None if table is None else images.group_persons(dataset.image_files(data_dir, table["image"]), args),
    )


def _means(probs, groups):
    """The mean of the rows [N, C] of each group, for each of its rows: [N, C]."""
    sums = np.zeros((groups.max() + 1, probs.shape[1]))
    np.add.at(sums, groups, probs)
    return (sums / np.maximum(np.bincount(groups), 1)[:, None])[groups]


def share_probs(target, probs, groups):
    """A member's probabilities [N, C] with those of gender and age averaged over each group; each image keeps its own mask's.

    Of the 18 classes of `label` the mean is that of gender and age group together, and their product with the mask's
    probabilities takes the place of what the member said; an image alone in its group stays as it is.
    """
    if target == "label":
        joint = probs.reshape(len(probs), len(MASKS), len(GENDERS) * len(AGE_GROUPS))
        product = (joint.sum(2)[:, :, None] * _means(joint.sum(1), groups)[:, None, :]).reshape(probs.shape)
        return np.where((np.bincount(groups)[groups] > 1)[:, None], product, probs)
    shared = np.array(probs, dtype=np.float64)
    for head, columns in head_slices(target).items():
        if head != "mask":
            shared[:, columns] = _means(shared[:, columns], groups)
    return shared


def share_members(members, groups):
    """Members with the probabilities of each shared within groups [N]."""
    return [(target, share_probs(target, probs, groups)) for target, probs in members]


def pair_scores(groups, persons):
    """(precision, recall) of groups [N] against who is on the images, persons [N]: the share of pairs of one group that are of
    one person, and of pairs of one person that are of one group; 0 where there are no pairs."""

    def pairs(*keys):
        count = np.unique(np.stack(keys), axis=1, return_counts=True)[1]
        return (count * (count - 1) // 2).sum()

    person = np.unique(persons, return_inverse=True)[1]
    both, grouped, true = pairs(groups, person), pairs(groups), pairs(person)
    return tuple(round(float(both / max(total, 1)), 6) for total in (grouped, true))
