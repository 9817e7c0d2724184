"""The code of the competition's labels: names, targets and heads, and how probabilities of parts make the 18 classes.

`label = mask * 6 + gender * 3 + age_group`. Everything here is pure numpy and knows nothing of files or models.
"""

import numpy as np

MASKS = ("worn", "incorrect", "not worn")
GENDERS = ("male", "female")
AGE_GROUPS = ("<30", "30-59", ">=60")
LABELS = tuple(f"{mask}, {gender}, {age}" for mask in MASKS for gender in GENDERS for age in AGE_GROUPS)

OFFICIAL_BOUNDS = (30, 60)
MASK_PRIOR = (5 / 7, 1 / 7, 1 / 7)  # of the eval images, by construction of the competition
FIRST_AGE, LAST_AGE = 18, 60  # the age head's classes; the last one means "60 and over"
AGES = tuple(str(age) for age in range(FIRST_AGE, LAST_AGE + 1))

CLASS_NAMES = {"label": LABELS, "mask": MASKS, "gender": GENDERS, "age_group": AGE_GROUPS, "age": AGES}
# The heads of each training target. `multi` is one backbone with three heads.
HEADS = {
    "label": ("label",),
    "mask": ("mask",),
    "gender": ("gender",),
    "age_group": ("age_group",),
    "multi": ("mask", "gender", "age_group"),
    "age": ("age",),
}
TARGETS = tuple(HEADS)
# What a target is scored on: `multi` on the 18 classes, `age` on the age group that follows from it.
SCORED_AS = {**{target: target for target in TARGETS}, "multi": "label", "age": "age_group"}


def num_outputs(target):
    """Number of logits a model of `target` has: the sum over its heads."""
    return sum(len(CLASS_NAMES[head]) for head in HEADS[target])


def head_slices(target):
    """Where each head's logits lie: {head: slice} into the last axis of a [..., num_outputs] array."""
    slices, start = {}, 0
    for head in HEADS[target]:
        slices[head] = slice(start, start + len(CLASS_NAMES[head]))
        start = slices[head].stop
    return slices


def encode(mask, gender, age_group):
    """The 18-class label of its parts (ints or integer arrays)."""
    return mask * 6 + gender * 3 + age_group


def decode(label):
    """(mask, gender, age_group) of an 18-class label (int or integer array)."""
    return label // 6, label // 3 % 2, label % 3


def class_parts(classes, scored_as):
    """{part: its classes} of classes of `scored_as` (int or integer array): the three parts of a label, else one."""
    return dict(zip(HEADS["multi"], decode(classes))) if scored_as == "label" else {scored_as: classes}


def to_age_group(age, bounds=OFFICIAL_BOUNDS):
    """Age group of ages in years (int or integer array): 0 below bounds[0], 2 from bounds[1] on, else 1."""
    age = np.asarray(age)
    return (age >= bounds[0]).astype(np.int64) + (age >= bounds[1])


def age_group_probs(age_probs, bounds=OFFICIAL_BOUNDS):
    """Age-group probabilities [..., 3] from probabilities of single ages [..., 43], cut at `bounds` (18 < lo < hi <= 60)."""
    low, high = (bound - FIRST_AGE for bound in bounds)
    parts = (age_probs[..., :low], age_probs[..., low:high], age_probs[..., high:])
    return np.stack([part.sum(-1) for part in parts], axis=-1)


def combine(mask, gender, age_group):
    """Probabilities of the 18 classes [N, 18] as the product of mask [N, 3], gender [N, 2] and age group [N, 3]."""
    joint = mask[:, :, None, None] * gender[:, None, :, None] * age_group[:, None, None, :]
    return joint.reshape(len(mask), len(LABELS))


def marginals(label_probs):
    """{"mask": [N, 3], "gender": [N, 2], "age_group": [N, 3]} of probabilities of the 18 classes [N, 18]."""
    joint = label_probs.reshape(-1, len(MASKS), len(GENDERS), len(AGE_GROUPS))
    return {"mask": joint.sum((2, 3)), "gender": joint.sum((1, 3)), "age_group": joint.sum((1, 2))}


def scored_probs(target, probs):
    """Probabilities of what `target` is scored on, from its heads' probabilities [N, num_outputs(target)].

    `multi` gives [N, 18] and `age` gives [N, 3], cut at the official bounds; every other target's are returned as they are.
    """
    if target == "multi":
        return combine(*(probs[:, part] for part in head_slices(target).values()))
    if target == "age":
        return age_group_probs(probs)
    return probs
