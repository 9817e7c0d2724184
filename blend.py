"""How the probabilities of several members become one: averages and votes of each part, and their product. Pure numpy."""

import numpy as np

import dataset
from dataset import OFFICIAL_BOUNDS, age_group_probs, combine, head_slices, marginals
from errors import InputError

BLEND_METHODS = ("soft", "hard")


def votes(probs):
    """One vote of each row for its most probable class [N, C]; a trace of the probabilities decides between equal votes."""
    cast = np.eye(probs.shape[1])[probs.argmax(1)]
    return (cast + 1e-3 * probs) / (1 + 1e-3 * probs.sum(1, keepdims=True))


def check_decided(targets):
    """InputError unless runs of these targets together decide mask, gender and age group."""
    decided = {part for target in targets for part in dataset.DECIDES[target]}
    lacking = [part for part in dataset.COMPONENTS if part not in decided]
    if lacking:
        raise InputError(f"--models: no run decides {' or '.join(lacking)}; add such runs, or one of target label or multi")


def member_parts(target, probs, bounds=OFFICIAL_BOUNDS):
    """What a member says: {"label": [N, 18]} or {part: [N, C]}; `multi` gives all three parts, `age` is cut at `bounds`."""
    if target == "label":
        return {"label": probs}
    if target == "age":
        return {"age_group": age_group_probs(probs, bounds)}
    return {head: probs[:, columns] for head, columns in head_slices(target).items()}


def blend(members, method="soft", bounds=OFFICIAL_BOUNDS, weights=None):
    """Probabilities of the 18 classes [N, 18] from `members`, a list of (target, probabilities [N, num_outputs(target)]).

    Members of one part (mask, gender, age_group) are averaged (soft) or voted (hard), the parts are multiplied, and the
    product is averaged with the members of target label. Each part of a member counts one third in that average, so a
    `multi` member weighs as much as a `label` member, and so do a mask, a gender and an age_group member together. Parts
    that only label members decide are their marginals. `weights`: for each member a number >= 0, or {part: number} for
    the parts it gives; all 1 without it. InputError when parts are left undecided.
    """
    cast = votes if method == "hard" else np.asarray
    sums, totals = {}, {}
    for index, (target, probs) in enumerate(members):
        for part, part_probs in member_parts(target, probs, bounds).items():
            weight = 1.0 if weights is None else weights[index]
            weight = weight.get(part, 0.0) if isinstance(weight, dict) else weight
            if weight > 0:
                sums[part] = sums.get(part, 0.0) + weight * cast(part_probs)
                totals[part] = totals.get(part, 0.0) + weight
    check_decided(totals)
    mean = {part: sums[part] / totals[part] for part in sums}
    label, label_weight = mean.pop("label", None), totals.pop("label", 0.0)
    if not mean:
        return label
    if label is not None:
        mean = {**marginals(label), **mean}
    product, product_weight = (
        combine(*(mean[part] for part in dataset.COMPONENTS)),
        sum(totals.values()) / len(dataset.COMPONENTS),
    )
    if label is None:
        return product
    return (product_weight * product + label_weight * label) / (product_weight + label_weight)
