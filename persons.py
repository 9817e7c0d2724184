"""Which images show one person, told from the pictures alone, and what that is worth: a person has one gender and one age.

Ours: correlation of small pictures and single-linkage clustering, no face recognition.

A contest's rules say whether images may be answered together; nothing here is done unless it is asked for. Members are lists
of (target, probabilities [N, num_outputs(target)]), as blend.blend takes them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import cache
import dataset
import experiment
from errors import InputError
from images import Geometry
from labels import AGE_GROUPS, GENDERS, MASKS, head_slices

THUMBNAIL = Geometry(24, 18)
MASKED = (0.38, 0.90, 0.08, 0.92)  # top, bottom, left, right of the part that masks change: it is left out
SIZE = 7  # images of a person at most
NEIGHBOURS = 15  # of an image, that it may be grouped with
ALIKE = 0.7  # least correlation of two thumbnails that may be of one person
BLOCK = 1000  # images whose likeness to all others is worked out at once


def features(thumbnails):
    """What tells persons apart in uint8 [N, H, W, 3]: float32 [N, D] of length 1, so that products are correlations.

    Hair, brow, background and clothes around a face, each image's colours set to mean 0 and spread 1, as light differs from
    picture to picture.
    """
    H, W = thumbnails.shape[1:3]
    y, x = np.meshgrid((np.arange(H) + 0.5) / H, (np.arange(W) + 0.5) / W, indexing="ij")
    top, bottom, left, right = MASKED
    kept = ~((y > top) & (y < bottom) & (x > left) & (x < right))
    pixels = thumbnails[:, kept].astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    pixels /= pixels.std(1, keepdims=True) + 1.0
    flat = pixels.reshape(len(pixels), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _neighbours(vectors):
    """(image, other, correlation) of each image's NEIGHBOURS most alike: three arrays [N * NEIGHBOURS]."""
    count, found = min(NEIGHBOURS, len(vectors) - 1), []
    for start in range(0, len(vectors), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(vectors)))
        alike = vectors[rows] @ vectors.T
        alike[np.arange(len(rows)), rows] = -np.inf  # not itself
        others = np.argpartition(-alike, count - 1, axis=1)[:, :count] if count else np.empty((len(rows), 0), dtype=np.int64)
        found.append((np.repeat(rows, count), others.ravel(), np.take_along_axis(alike, others, axis=1).ravel()))
    return tuple(np.concatenate(parts) for parts in zip(*found))


def group(vectors):
    """The group of each image, int64 [N], numbered as they appear, of `features` [N, D]: SIZE images at most in each.

    The most alike pair of neighbours comes first: its groups become one unless that would be too large (single linkage,
    cut at ALIKE and at SIZE).
    """
    image, other, alike = _neighbours(vectors)
    order = np.argsort(-alike, kind="stable")
    owner, members = list(range(len(vectors))), [[index] for index in range(len(vectors))]
    for edge in order[alike[order] >= ALIKE].tolist():
        one, two = owner[image[edge]], owner[other[edge]]
        if one != two and len(members[one]) + len(members[two]) <= SIZE:
            for index in members[two]:
                owner[index] = one
            members[one] += members[two]
    _values, first, groups = np.unique(owner, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]


def find(files, args):
    """The groups [N] of image files. `args`: cache_dir, quiet."""
    thumbnails, _bad = cache.open_cache(files, THUMBNAIL, args.cache_dir, quiet=args.quiet)
    return group(features(np.asarray(thumbnails)))


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
        for name, images, groups in (("persons.csv", self.names, self.eval), ("oof_persons.csv", *self._oof_columns())):
            if groups is not None:
                experiment.write_csv(folder / name, pd.DataFrame({"image": images, "group": groups}))

    def _oof_columns(self):
        return (None, None) if self.table is None else (self.table["image"].to_numpy(), self.oof)

    def lines(self):
        """What was found and what it calls for, for the console."""
        told = [f"persons: {len(self.names):,} eval images in {self.eval.max() + 1:,} groups of {SIZE} at most"]
        if self.table is not None:
            precision, recall = self.scores.values()
            told.append(
                f"  out of fold, all people at once, {len(self.oof):,} images in {self.oof.max() + 1:,}: of the pairs in a "
                f"group {precision:.1%} are of one person, of the pairs of a person {recall:.1%} are in a group"
            )
        return [*told, "  whether images may be answered together is for the contest's rules to say: ask before you hand it in"]


def find_all(names, table, args):
    """The Grouping of eval images and of out-of-fold rows (or None), from the images of the data folder.

    Out-of-fold rows are grouped over all folds, as so many strangers are among eval images too. A stranger of another fold in a
    group brings in a model that has seen the person; keeping to folds changed the macro F1 of 700 people from 0.5841 to 0.5848.
    """
    data_dir = args.data_dir or dataset.find()
    if data_dir is None:
        raise InputError("--persons: looks at the images, and there is no data folder here; give --data-dir")
    data_dir = dataset.locate(data_dir)[0]
    groups = find([f"{data_dir}/eval/images/{name}" for name in names], args)
    return Grouping(names, groups, table, None if table is None else find(dataset.image_files(data_dir, table["image"]), args))


def _means(probs, groups):
    """The mean of the rows [N, C] of each group, for each of its rows: [N, C]."""
    sums = np.zeros((groups.max() + 1, probs.shape[1]))
    np.add.at(sums, groups, probs)
    return (sums / np.maximum(np.bincount(groups), 1)[:, None])[groups]


def share(target, probs, groups):
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
    return [(target, share(target, probs, groups)) for target, probs in members]


def pair_scores(groups, persons):
    """(precision, recall) of groups [N] against who is on the images, persons [N]: the share of pairs of one group that are of
    one person, and of pairs of one person that are of one group; 0 where there are no pairs."""

    def pairs(*keys):
        count = np.unique(np.stack(keys), axis=1, return_counts=True)[1]
        return (count * (count - 1) // 2).sum()

    person = np.unique(persons, return_inverse=True)[1]
    both, grouped, true = pairs(groups, person), pairs(groups), pairs(person)
    return tuple(round(float(both / max(total, 1)), 6) for total in (grouped, true))
