"""Temperature scaling: how sure each member is, set right on out-of-fold predictions before members are combined.

A temperature divides the logits of a head: above 1 its probabilities become flatter, below 1 sharper, and their order stays.
Members are lists of (target, probabilities [N, num_outputs(target)]), as blend.blend takes them.
"""

import numpy as np
from scipy import optimize

from dataset import COMPONENTS, FIRST_AGE, decode, head_slices, to_age_group

LIMITS = (0.1, 10.0)  # of a temperature; members that are never wrong would ask for 0
FLOOR = 1e-12  # what a probability of 0 stands for: too small to be written down


def _logs(probs):
    logs = np.log(np.maximum(np.asarray(probs, dtype=np.float64), FLOOR))
    return logs - logs.max(1, keepdims=True)


def apply_temperature(probs, temperature):
    """Probabilities [N, C] as a softmax of their logarithms over `temperature` gives them: float64 [N, C]."""
    powers = np.exp(_logs(probs) / temperature)
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(probs, right):
    """The temperature within LIMITS of least negative log-likelihood: a float, rounded as it is written down.

    After Guo et al., "On calibration of modern neural networks" (ICML 2017, arXiv 1706.04599). probs [N, C]; right bool
    [N, C] marks the true column of each row. Different: several columns may be right, as the ages of a group are. With one
    right column a row the loss has a single valley, which Brent's bounded search in the logarithm can't miss.
    """
    logs = _logs(probs)

    def loss(log_temperature):
        powers = np.exp(logs * np.exp(-log_temperature))
        return np.mean(np.log(powers.sum(1)) - np.log(np.where(right, powers, 0.0).sum(1)))

    found = optimize.minimize_scalar(loss, bounds=np.log(LIMITS), method="bounded")
    return round(float(np.exp(found.x)), 6)


def fit_member_temperatures(target, probs, truth):
    """{head: temperature} of a member, fitted to official labels truth [N].

    The head `age` has one for its single ages, and its likelihood is that of the official age group, which is what counts
    and all that oof.csv holds of the truth.
    """
    true = {"label": truth, **dict(zip(COMPONENTS, decode(truth)))}
    found = {}
    for head, columns in head_slices(target).items():
        classes = np.arange(columns.stop - columns.start)
        if head == "age":
            right = to_age_group(classes + FIRST_AGE) == true["age_group"][:, None]
        else:
            right = classes == true[head][:, None]
        found[head] = fit_temperature(probs[:, columns], right)
    return found


def scale_members(members, temperatures):
    """Members with the heads of each scaled by its {head: temperature}."""
    return [
        (
            target,
            np.hstack([apply_temperature(probs[:, columns], heads[head]) for head, columns in head_slices(target).items()]),
        )
        for (target, probs), heads in zip(members, temperatures)
    ]
