"""Two training images made one, with the labels of both in proportion.

| mix | what it does |
| --- | --- |
| mixup | a weighted sum of both (Zhang et al. 2018, 1710.09412) |
| cutmix | a box of the other image (Yun et al. 2019, 1905.04899), wholly inside, where theirs is cut at the border |
| halves | the left half of one face and the right half of another, both with the same mask state |

halves is the vertical-half CutMix of the contest's 1st place, which aimed it at old people. Faces are upright and
centred, so each half keeps half of everything that gender and age show in; a box would as often cut out the mouth and so
make a false example of a mask, which is also why both have the same mask state here. (Pseudo-labels of targets without a mask
don't tell the state: such eval images are mixed among themselves, and no label of a mask is learnt there.)

Shares and partners are drawn for each sample, partners among all training images; the papers' codes draw one share a batch and
mix the batch with itself.

Drawing and mixing are apart, as in augment.py: `draw` makes all random numbers of a step on the CPU, a row a sample.
"""

import numpy as np
import torch

MIXES = ("none", "mixup", "cutmix", "halves")
COLUMNS = ("share", "x", "y", "side")


def draw(mix, count, prob, alpha, generator):
    """(bool [count] which samples are mixed, float32 [count, len(COLUMNS)], float64 [count] from 0 to 1 for the partners).

    share of the sample itself, Beta(alpha, alpha) for mixup and cutmix, a half for halves; x, y: where cutmix's box lies, 0 to
    1 from border to border; side: 0 where halves takes the partner's left half, 1 its right one. generator: numpy's.
    """
    mixed = generator.random(count) < prob if mix != "none" else np.zeros(count, dtype=bool)
    share = generator.beta(alpha, alpha, count)
    x, y, partner = generator.random((3, count))
    side = generator.integers(0, 2, count)
    return mixed, torch.from_numpy(np.stack([share, x, y, side], axis=1).astype(np.float32)), partner


def own_share(mix, params, height, width):
    """How much of each pixel is the sample's own, float32 [B, 1, height, width] (mixup: [B, 1, 1, 1])."""
    share, x, y, side = params.unbind(1)
    if mix == "mixup":
        return share[:, None, None, None]
    columns = (torch.arange(width, device=params.device) + 0.5) / width
    if mix == "halves":
        left = (columns < 0.5).float().expand(len(params), width)
        own = torch.where(side[:, None] > 0.5, left, 1 - left)
        return own[:, None, None, :].expand(-1, 1, height, -1)
    rows = (torch.arange(height, device=params.device) + 0.5) / height
    length = (1 - share).sqrt()

    def inside(centres, place):
        start = (place * (1 - length))[:, None]
        return (centres >= start) & (centres < start + length[:, None])

    return 1 - (inside(rows, y)[:, :, None] & inside(columns, x)[:, None, :]).float()[:, None]


def mix_batch(mix, images, targets, mixed, params, others, other_targets):
    """Images [B, 3, H, W] and soft targets [B, C] whose samples `mixed` (int64 [M]; bools would make a GPU wait) are changed.

    params: the rows [M, len(COLUMNS)] of `draw` for those; others [M, 3, H, W] and other_targets [M, C]: their partners. A
    target gets of the partner's what the partner has of the pixels.
    """
    own = own_share(mix, params, *images.shape[2:])
    share = own.mean((2, 3))
    images[mixed] = images[mixed] * own + others * (1 - own)
    targets[mixed] = targets[mixed] * share + other_targets * (1 - share)
    return images, targets
