"""Draw what the training losses ask of a sample: loss and pull against the probability of its true class.

    python tools/losses_picture.py --out docs/losses.png

One image of 18 classes; the wrong classes share what the true one leaves equally. The pull is minus the slope of the loss by
the logit of the true class: what a step of gradient descent moves, before the network. docs/losses.md explains the picture.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts lie above

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

from functools import partial

import matplotlib
import numpy as np
import torch

import figures
import loss
from dataset import LABELS
from errors import InputError
from files import write_figure

# Training images of the 18 classes: mask 5:1:1 x (male, female) x age group of the competition's 2,700 people.
PEOPLE = ((549, 410, 83), (732, 817, 109))
COUNTS = [images * people for images in (5, 1, 1) for gender in PEOPLE for people in gender]
RAREST, COMMONEST = int(np.argmin(COUNTS)), int(np.argmax(COUNTS))
SMOOTHING, GAMMA, ADJUSTED = 0.1, 2.0, partial(loss.logit_adjusted, class_counts=torch.tensor(COUNTS))
CURVES = {
    "cross-entropy": (loss.cross_entropy, RAREST, "#1f2328", "-"),
    f"label smoothing {SMOOTHING}": (partial(loss.label_smoothing, smoothing=SMOOTHING), RAREST, "#0072b2", "-"),
    f"focal, gamma {GAMMA:g}": (partial(loss.focal, gamma=GAMMA), RAREST, "#d55e00", "-"),
    "soft F1, alone of its class": (loss.soft_f1, RAREST, "#009e73", "-"),
    f"logit adjusted, rarest class ({COUNTS[RAREST]} images)": (ADJUSTED, RAREST, "#cc79a7", "-"),
    f"logit adjusted, commonest class ({COUNTS[COMMONEST]:,})": (ADJUSTED, COMMONEST, "#cc79a7", "--"),
}


def curve(function, true, probs):
    """(loss, pull) float64 [N] of a loss function at probabilities [N] of the class `true`."""
    C = len(LABELS)
    values = []
    for p in probs:
        logits = torch.zeros(1, C, dtype=torch.float64)
        logits[0, true] = np.log(p * (C - 1) / (1 - p))
        logits.requires_grad_()
        value = function(logits, torch.eye(C, dtype=torch.float64)[[true]])
        (slope,) = torch.autograd.grad(value, logits)
        values.append((value.item(), -slope[0, true].item()))
    return np.array(values).T


@matplotlib.rc_context(figures.STYLE)
def losses_figure():
    """Both panels: Figure."""
    subtitle = "one image of 18 classes; its wrong classes share the rest equally"
    figure, _head = figures.new_page(9.8, 4.0, "what a loss asks of a sample", subtitle)
    panels = figure.subplots(1, 2)
    probs = np.linspace(0.002, 0.998, 160)
    for name, (function, true, color, style) in CURVES.items():
        for axes, values in zip(panels, curve(function, true, probs)):
            axes.plot(probs, values, color=color, ls=style, lw=1.8, label=name)
    for axes, title in zip(panels, ("loss", "pull on the logit of the true class")):
        axes.set_title(title)
        axes.set_xlabel("probability of the true class")
        axes.set_xlim(0, 1)
        axes.grid(alpha=0.7)
    panels[0].set_ylim(0, 6)
    panels[1].axhline(0, color=figures.GREY, lw=0.8)
    figure.legend(*panels[0].get_legend_handles_labels(), **figures.BELOW | {"ncols": 3})
    return figure


def main(argv=None):
    parser = errors.Parser("Draw what the training losses ask of a sample, against the probability of its true class.")
    parser.add_argument("--out", default="losses.png", metavar="FILE", help="the picture")
    args = parser.parse_args(argv)
    if not Path(args.out).parent.is_dir():
        raise InputError(f"--out {args.out}: there is no folder {Path(args.out).parent}")
    write_figure(Path(args.out), losses_figure())
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
