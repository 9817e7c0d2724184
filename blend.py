"""How the probabilities of several runs become one: averages and votes of each target, and their product. Pure numpy."""

import numpy as np

from errors import InputError
from labels import OFFICIAL_BOUNDS, age_group_probs, combine, head_slices, marginals

PARTS = ("mask", "gender", "age_group")
METHODS = ("soft", "hard")
# The parts of the label that a run of each target decides.
DECIDES = {"label": PARTS, "multi": PARTS, "mask": PARTS[:1], "gender": PARTS[1:2], "age_group": PARTS[2:], "age": PARTS[2:]}


def votes(probs):
    """One vote of each row for its most probable class [N, C]; a trace of the probabilities decides between equal votes."""
    cast = np.eye(probs.shape[1])[probs.argmax(1)]
    return (cast + 1e-3 * probs) / (1 + 1e-3 * probs.sum(1, keepdims=True))


def check_decided(targets):
    """InputError unless runs of these targets together decide mask, gender and age group."""
    decided = {part for target in targets for part in DECIDES[target]}
    lacking = [part for part in PARTS if part not in decided]
    if lacking:
        raise InputError(f"--models: no run decides {' or '.join(lacking)}; add such runs, or one of target label or multi")


def blend(members, method="soft", bounds=OFFICIAL_BOUNDS):
    """Probabilities of the 18 classes [N, 18] from `members`, a list of (target, probabilities [N, num_outputs(target)]).

    Members of one part (mask, gender, age_group; `multi` gives all three, `age` is cut at `bounds`) are averaged (soft) or
    voted (hard); the parts' product counts as many times as its scarcest part has members, and each `label` member once.
    With `label` members a part that nobody else decides is their marginal. InputError when parts are left undecided.
    """
    check_decided([target for target, _ in members])
    cast = votes if method == "hard" else np.asarray
    parts, labels = {part: [] for part in PARTS}, []
    for target, probs in members:
        if target == "label":
            labels.append(cast(probs))
        elif target == "age":
            parts["age_group"].append(cast(age_group_probs(probs, bounds)))
        else:
            for head, columns in head_slices(target).items():
                parts[head].append(cast(probs[:, columns]))
    decided = [part for part in PARTS if parts[part]]
    lacking = [part for part in PARTS if not parts[part]]
    if not decided:
        return np.mean(labels, axis=0)
    mean = {part: np.mean(parts[part], axis=0) for part in decided}
    if lacking:
        mean |= {part: probs for part, probs in marginals(np.mean(labels, axis=0)).items() if part in lacking}
    product = combine(*(mean[part] for part in PARTS))
    count = min(len(parts[part]) for part in decided)
    return (count * product + sum(labels)) / (count + len(labels))
