"""Where the distributions of target `age` members are cut into age groups: tried on out-of-fold predictions, and drawn.

The official truth never changes: only the cut of what was predicted moves, and no training is needed.
"""

import numpy as np
from matplotlib.lines import Line2D

import blend
import layout
from dataset import OFFICIAL_BOUNDS
from files import write_figure

BOUNDS_NAMES = ("LO: age from which on 30-59", "HI: age from which on >=60")
CHOSEN, BAND, blend.AGE_COMPONENT = "#0072b2", "#cfe3f0", "#c04f00"


def _draw_bounds_curve(axes, study, axis, parts):
    """The Curve of bound `axis` with its band, the official bound, the chosen one, and those of the parts below."""
    curve, best, official_f1 = study.curves[axis], study.best, study.official_f1
    x = np.array(curve.bounds)[:, axis]
    edges = [official_f1 + edge for each in study.curves for edge in (each.low, each.high)]
    low, high = min(map(np.min, edges)), max(map(np.max, edges))
    room = max(high - low, 0.01)
    bottom, top = low - 0.2 * room, high + 0.08 * room
    axes.set(xlim=(x[0] - 0.6, x[-1] + 0.6), ylim=(bottom, top), xticks=range(x[0], x[-1] + 1, 2))
    axes.fill_between(x, official_f1 + curve.low, official_f1 + curve.high, color=BAND, lw=0)
    axes.grid(axis="y", color=layout.FAINT, lw=0.6, alpha=0.7)
    axes.axhline(official_f1, color=layout.GREY, lw=1, ls=":", zorder=2)
    axes.axvline(OFFICIAL_BOUNDS[axis], color=layout.GREY, lw=1, ls="--", zorder=2)
    axes.plot(x, curve.f1, color=CHOSEN, lw=1.8, marker=".", ms=5, zorder=3)
    axes.plot(best[axis], study.best_f1, "o", ms=9, mfc="white", mec=CHOSEN, mew=2.2, zorder=4)
    for value, count in zip(*np.unique(parts, return_counts=True)):
        heights = bottom + (0.03 + 0.035 * np.arange(count)) * (top - bottom)
        axes.plot([value] * count, heights, "s", ms=3.8, color=blend.AGE_COMPONENT, mec="none", zorder=3)
    title = f"{BOUNDS_NAMES[axis]} is predicted, with {'LO' if axis else 'HI'} {best[1 - axis]}"
    axes.set_title(title, loc="left", fontsize=10, color=layout.INK, pad=8)


def _bounds_legend():
    """What the marks mean, for matplotlib's legend."""
    return [
        Line2D([], [], ls="", marker="o", ms=8, mfc="white", mec=CHOSEN, mew=2, label="chosen on everyone"),
        Line2D(
            [],
            [],
            ls="",
            marker="s",
            ms=4.5,
            mfc=blend.AGE_COMPONENT,
            mec="none",
            label="chosen without one part of the people",
        ),
        Line2D([], [], color=layout.GREY, lw=1, ls="--", label="official bound"),
        Line2D([], [], color=layout.GREY, lw=1, ls=":", label="score at the official bounds"),
    ]


def bounds_figure(study, parts, title):
    """Macro F1 against LO and against HI through the chosen bounds: Figure. See `draw`."""
    (low, high), best_f1, official_f1 = study.best, study.best_f1, study.official_f1
    subtitle = f"macro F1 of label: {best_f1:.4f} at {low}, {high} (in-sample) and {official_f1:.4f} at the official 30, 60"
    figure = layout.new_page(9.8, 4.95, title, f"{subtitle}; the truth never moves")
    for axis in range(2):
        axes = layout.new_axes(figure, 0.75 + 4.8 * axis, 1.2, 3.95, 2.7)
        _draw_bounds_curve(axes, study, axis, [part[axis] for part in parts])
    words = "band: 95 % interval over people of the difference to the official bounds; noise where it holds the dotted line"
    layout.draw_words(figure, 0.75, 4.56, [("■", BAND), (words, layout.INK)], 8.5, room=8.8)
    place = {"loc": "upper left", "bbox_to_anchor": (0.75 / 9.8, 1 - 4.28 / 4.95), "borderpad": 0, "borderaxespad": 0}
    style = {"fontsize": 8.5, "labelcolor": layout.INK, "frameon": False, "handletextpad": 0.5, "columnspacing": 2}
    figure.legend(handles=_bounds_legend(), ncols=4, **place, **style)
    return figure


def draw_bounds(study, parts, path, title):
    """Write bounds.png of a Study; `parts` are the bounds that cross-fitting chose, one pair a part."""
    write_figure(path, bounds_figure(study, parts, title))
