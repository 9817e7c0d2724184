"""The figures of a run: how it learned (curves), what it confuses (confusion) and where it is surely wrong (mistakes).

    python report.py --label-noise RUN [RUN ...]

That looks for wrong labels in the out-of-fold predictions of runs and writes a gallery and a csv of suggestions (noise.py).
`*_figure` builds a Figure (laid out by layout.py), the function of the same name without it writes the PNG.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import functools
import logging
import sys

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

import blend
import dataset
import demo
import metrics
import options
from dataset import AGE_GROUPS, CLASS_NAMES, GENDERS, HEADS, MASKS, OFFICIAL_BOUNDS, class_parts, decode
from errors import InputError
from experiment import read_args
from files import write_figure

DPI = 140
MARGIN = 0.3  # inches
# matplotlib's own, then what has Hangul on Linux, Windows and macOS.
FONTS = ("DejaVu Sans", "NanumGothic", "Noto Sans CJK KR", "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic")
INK, GREY, FAINT, EMPTY = "#1f2328", "#656d76", "#d0d7de", "#f5f6f7"


def shorten(text, length):
    """`text` in at most `length` characters, its middle left out; the part after the last "/" stays whole if it can."""
    if len(text) <= length:
        return text
    folder, slash, name = text.rpartition("/")
    if slash and len(name) + 3 <= length:
        return f"{folder[: length - len(name) - 2]}…/{name}"
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


@functools.cache
def fonts():
    """Those of FONTS that are installed: a letter is drawn in the first that has it."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of each that has no bold of its own
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FONTS if name in installed]


@functools.cache
def _glyphs():
    return frozenset().union(*(font_manager.get_font(font_manager.findfont(name)).get_charmap() for name in fonts()))


def drawable(text):
    """`text` on one line, with □ for every character that no font of FONTS has here."""
    return "".join(letter if ord(letter) in _glyphs() else "□" for letter in " ".join(str(text).split()))


def draw_text(owner, x, y, text, size=8.5, color=INK, **style):
    """Text that is never read as mathematics: `$` is a dollar. `owner` is a Figure (x, y in 0..1) or Axes (data)."""
    return owner.text(x, y, text, fontsize=size, color=color, parse_math=False, fontfamily=fonts(), **style)


def _width(artist):
    """Width of a text as drawn, in inches."""
    return artist.get_window_extent().width / DPI


def draw_note(figure, left, top, text, size=8.5, color=INK, room=None, **style):
    """Text whose line begins at (left, top) inches; its middle is left out where it is wider than `room`."""
    width, height = figure.get_size_inches()
    text = drawable(text)
    artist = draw_text(figure, left / width, 1 - (top + 0.0127 * size) / height, text, size, color, **style)
    length = len(text)
    while room and length > 1 and (drawn := _width(artist)) > room:
        length = min(length - 1, round(length * room / drawn))
        artist.set_text(shorten(text, length))
    return artist


def draw_words(figure, left, top, words, size=8.5, room=np.inf):
    """Words of (text, colour[, weight]) side by side from (left, top) inches, smaller if that fits `room`; returns the end."""
    notes = [draw_note(figure, left, top, text, size, color, weight=(*weight, "normal")[0]) for text, color, *weight in words]
    widths = np.array([_width(note) + 0.005 * size for note in notes])
    scale = min(1, room / widths.sum())
    starts = left + scale * np.cumsum([0, *widths])
    for note, start in zip(notes, starts):
        note.set(x=start / figure.get_figwidth(), fontsize=size * scale)
    return starts[-1]


def new_page(width, height, title, subtitle):
    """A white Figure of that many inches with its two lines of title."""
    figure = Figure((width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    draw_note(figure, MARGIN, 0.22, title, 13, weight="bold", room=width - 2 * MARGIN)
    draw_note(figure, MARGIN, 0.5, subtitle, 9, GREY, room=width - 2 * MARGIN)
    return figure


def new_axes(figure, left, top, width, height):
    """Axes at inches from the top left corner, with quiet spines and ticks."""
    W, H = figure.get_size_inches()
    axes = figure.add_axes((left / W, 1 - (top + height) / H, width / W, height / H), facecolor="white")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=GREY, labelsize=8)
    return axes


def message_page(title, subtitle, message):
    """A small page that holds one message: Figure."""
    figure = new_page(9.8, 2.4, title, subtitle)
    draw_text(figure, 0.5, 0.32, message, 18, GREY, ha="center", va="center")
    return figure


TRUTH_PREDICTED = "truth ↓  predicted →"
# Petroff 2021, "petroff10": told apart with any colour vision; its greys come last.
FOLD_COLORS = [matplotlib.color_sequences["petroff10"][index] for index in (0, 1, 2, 4, 5, 9, 6, 7, 8, 3)]
CROSSED = {"marker": "x", "ms": 5}
PART_COLORS = {"mask": "#0072b2", "gender": "#a3267e", "age_group": "#c04f00"}


def best_epochs(log):
    """{fold: (epoch, val_f1)} of each fold's highest validation F1, the first of equals; folds without one are absent."""
    known = log[["fold", "epoch", "val_f1"]].dropna().sort_values("epoch")
    best = known.sort_values("val_f1", ascending=False, kind="stable").drop_duplicates("fold").sort_values("fold")
    return {int(fold): (int(epoch), float(f1)) for fold, epoch, f1 in best.itertuples(index=False)}


def curves_subtitle(best):
    """What `best_epochs` amounts to, in a line."""
    if not best:
        return "no validation: everyone trains"
    scores = [f1 for _epoch, f1 in best.values()]
    if len(scores) == 1:
        return f"best validation macro F1 {scores[0]:.4f}"
    mean, low, high = np.mean(scores), min(scores), max(scores)
    return f"best validation macro F1 {mean:.4f}: mean of {len(scores)} folds (dotted), {low:.4f} .. {high:.4f}"


def _draw_folds(axes, log, column, best=None, **style):
    """A line a fold over the epochs, with a ring at its best epoch; one of its own, crossed, for those on everyone."""
    for fold, rows in log.groupby("fold"):
        color, everyone = FOLD_COLORS[int(fold) % len(FOLD_COLORS)], _on_everyone(rows)
        axes.plot(rows["epoch"][~everyone], rows[column][~everyone], color=color, **style)
        if everyone.any():
            axes.plot(rows["epoch"][everyone], rows[column][everyone], color=color, **style | CROSSED)
        ring = rows[rows["epoch"] == best[fold][0]] if best and fold in best else rows[:0]
        axes.plot(ring["epoch"], ring[column], "o", ms=7, mfc="white", mec=color, mew=2, zorder=4)


def _on_everyone(rows):
    """Which of a fold's rows of the log are epochs of --finish-on-all: those after the ones that were validated."""
    return rows["val_f1"].isna() & rows["val_f1"].notna().any()


def _epoch_axes(axes, log, title, ticks=True):
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=8)
    axes.set_xlim(0.5, max(log["epoch"].max(), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(labelbottom=ticks)
    axes.grid(axis="y", color=FAINT, lw=0.6, alpha=0.7)
    axes.set_xlabel("epoch" if ticks else "", fontsize=8.5, color=GREY)


def curves_figure(log, title):
    """Loss, learning rate and validation macro F1 by epoch, a line a fold: Figure. See `curves`."""
    log = log[["fold", "epoch", "lr", "train_loss", "val_loss", "val_f1"]].astype({"val_loss": float, "val_f1": float})
    log = log.replace([np.inf, -np.inf], np.nan)
    best, folds, columns = best_epochs(log), sorted(log["fold"].unique()), 4
    height = 4.9 + 0.22 * -(-len(folds) // columns)
    figure = new_page(9.8, height, title, curves_subtitle(best))
    line = {"lw": 1.6, "marker": ".", "ms": 4.5}

    loss = new_axes(figure, 0.75, 1.15, 4.0, 2.2)
    _draw_folds(loss, log, "train_loss", ls="--", **line | {"lw": 1.2})
    _draw_folds(loss, log, "val_loss", best, **line)
    _epoch_axes(loss, log, "loss", ticks=False)
    kinds = {"train": {"ls": "--"}, "validation": {}, "best epoch": {"ls": "", "marker": "o", "mfc": "white", "mew": 2}}
    kinds["train on everyone"] = {"ls": "--"} | CROSSED
    last = any(_on_everyone(rows).any() for _fold, rows in log.groupby("fold"))
    names = [*kinds][: None if last else -1] if best else ["train"]
    handles = [Line2D([], [], color=GREY, lw=1.4, label=name, **kinds[name]) for name in names]
    loss.legend(handles=handles, fontsize=8, labelcolor=GREY, frameon=False, handlelength=2.4)

    lr = new_axes(figure, 0.75, 3.72, 4.0, 0.42)
    _draw_folds(lr, log, "lr", **line | {"lw": 1.2, "ms": 3})
    _epoch_axes(lr, log, "")
    lr.set_title("learning rate", loc="left", fontsize=8.5, color=GREY, pad=4)
    highest = log["lr"].max()
    if highest > 0:
        lr.set_yticks([0, highest], ["0", f"{highest:.3g}"])
        lr.set_ylim(-0.1 * highest, 1.15 * highest)

    f1 = new_axes(figure, 5.45, 1.15, 4.0, 2.99)
    if best:
        _draw_folds(f1, log, "val_f1", best, **line)
        _epoch_axes(f1, log, "validation macro F1")
        if len(best) > 1:
            f1.axhline(np.mean([score for _epoch, score in best.values()]), color=GREY, lw=1, ls=":", zorder=1)
    else:
        f1.set_axis_off()
        f1.add_patch(Rectangle((0, 0), 1, 1, transform=f1.transAxes, fc=EMPTY, ec="none"))
        draw_text(f1, 0.5, 0.5, "no validation", 14, GREY, ha="center", va="center", transform=f1.transAxes)

    for index, fold in enumerate(folds):
        left, top = 0.75 + index % columns * 2.3, 4.78 + index // columns * 0.22
        note = f"fold {fold}:  {best[fold][1]:.4f} at epoch {best[fold][0]}" if fold in best else f"fold {fold}"
        draw_words(figure, left, top, [("●", FOLD_COLORS[int(fold) % len(FOLD_COLORS)]), (note if best else "everyone", INK)])
    return figure


def curves(log, path, title):
    """Write curves.png of a run's log (a DataFrame with the columns of log.csv; NaN where nothing was validated)."""
    write_figure(path, curves_figure(log, title))


def row_shares(counts):
    """Each row of a count matrix [C, C] divided by its sum, in 0..1; a row without images is all zeros."""
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def cell_note(count, share, percent):
    """What stands in a cell: nothing for no image, else the count and, if wanted, its share of the row below."""
    if not count:
        return ""
    return f"{count:,}\n{share:.1%}" if percent else str(count)


def cell_colors(shares):
    """RGB [C, C, 3] of row shares: blues on the diagonal, oranges beside it, a dim grey where there is nothing."""
    right, wrong = (matplotlib.colormaps[name](0.1 + 0.85 * shares)[..., :3] for name in ("Blues", "Oranges"))
    colors = np.where(np.eye(len(shares), dtype=bool)[..., None], right, wrong)
    return np.where(shares[..., None] > 0, colors, matplotlib.colors.to_rgb(EMPTY))


def text_color(rgb):
    """What stands out from a colour: white from a dark one, ink from a light one (luma of Rec. 601)."""
    return "white" if np.dot(rgb, [0.299, 0.587, 0.114]) < 0.46 else INK


def class_f1(counts):
    """F1 of each class of a confusion matrix: float64 [C], NaN for a class that is neither true nor predicted."""
    times = counts.sum(0) + counts.sum(1)
    return np.divide(2 * counts.diagonal(), times, out=np.full(len(counts), np.nan), where=times > 0)


def _draw_matrix(figure, left, top, cell, counts, size, percent=True):
    """The cells of a confusion matrix, cell = (width, height) inches; returns the Axes, one unit a cell."""
    C, shares = len(counts), row_shares(counts)
    colors = cell_colors(shares)
    axes = new_axes(figure, left, top, cell[0] * C, cell[1] * C)
    axes.imshow(colors, aspect="auto", interpolation="nearest")
    for draw_lines in (axes.hlines, axes.vlines):
        draw_lines(np.arange(1, C) - 0.5, -0.5, C - 0.5, color="white", lw=1)
    axes.set_axis_off()
    for row, column in zip(*np.nonzero(counts)):
        note = cell_note(counts[row, column], shares[row, column], percent)
        color = text_color(colors[row, column])
        draw_text(axes, column, row, note, size, color, ha="center", va="center_baseline", linespacing=1.25)
    return axes


def _draw_f1(figure, left, top, bar, cell_height, counts, size, images=True):
    """F1 of each class as a bar (`bar` inches at 1.0) and a number, and its number of images, beside a matrix."""
    C, em, f1, thick = len(counts), size / 72 / bar, class_f1(counts), min(0.34, 0.15 / cell_height)
    axes = new_axes(figure, left, top, bar, cell_height * C)
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(C - 0.5, -0.5))
    axes.barh(range(C), 1, height=thick, color="#e6e9ec")
    axes.barh(range(C), np.nan_to_num(f1), height=thick, color=cell_colors(np.eye(1) * 0.6)[0, 0])
    notes = ["–" if np.isnan(score) else f"{score:.3f}" for score in f1]
    colors = [PART_COLORS["age_group"] if score == 0 else INK for score in f1]
    columns = [(1 + 3.9 * em, "F1", notes, colors)]
    if images:
        columns.append((1 + 8.6 * em, "images", [f"{number:,}" for number in counts.sum(1)], [GREY] * C))
    for x, name, texts, shades in columns:
        draw_text(axes, x, -0.5 - 0.08 / cell_height, name, size, GREY, ha="right", va="baseline")
        for row, (text, color) in enumerate(zip(texts, shades)):
            draw_text(axes, x, row, text, size, color, ha="right", va="center_baseline")


def _draw_small(figure, left, top, cell, counts, names, size):
    """One part's matrix with class names, percents and F1; `left` and `top` are those of its cells."""
    axes = _draw_matrix(figure, left, top, cell, counts, size)
    for index, name in enumerate(names):
        draw_text(axes, -0.5 - 0.08 / cell[0], index, name, size, ha="right", va="center_baseline")
        draw_text(axes, index, -0.5 - 0.08 / cell[1], name, size, ha="center", va="baseline")
    _draw_f1(figure, left + cell[0] * len(counts) + 0.1, top, 0.04 * size, cell[1], counts, size, images=size > 8)


def _name_labels(axes):
    """Write the 18 classes along a matrix in three levels: age group, gender, mask, with lines between the masks."""
    for index in range(18):
        mask, gender, age = decode(index)
        draw_text(axes, -0.65, index, AGE_GROUPS[age], 7, GREY, ha="right", va="center_baseline")
        draw_text(axes, index, -0.7, AGE_GROUPS[age], 6.5, GREY, ha="center", va="baseline")
        if age == 1:
            draw_text(axes, -2.35, index, GENDERS[gender], 8, ha="center", va="center", rotation=90)
            draw_text(axes, index, -1.5, GENDERS[gender], 8, ha="center", va="baseline")
        if index % 6 == 0:
            draw_text(axes, -3.25, index + 2.5, MASKS[mask], 9, weight="bold", ha="center", va="center", rotation=90)
            draw_text(axes, index + 2.5, -2.35, MASKS[mask], 9, weight="bold", ha="center", va="baseline")
    for edge in range(3, 18, 3):
        color, reach = (GREY, -3.6) if edge % 6 == 0 else (FAINT, -2.6)
        axes.plot([reach, 17.5], [edge - 0.5] * 2, color=color, lw=0.9, clip_on=False)
        axes.plot([edge - 0.5] * 2, [reach + 0.6, 17.5], color=color, lw=0.9, clip_on=False)
    draw_text(axes, -0.65, -0.7, TRUTH_PREDICTED, 6.5, GREY, ha="right", va="baseline")
    axes.set(xlim=(-0.5, 17.5), ylim=(17.5, -0.5))


def confusion_figure(truth, pred, scored_as, title):
    """The confusion matrix of class indices [N] of `scored_as`, with F1 per class: Figure. See `confusion`."""
    names = CLASS_NAMES[scored_as]
    if not len(truth):
        return message_page(title, f"confusion of {scored_as}", "no validation images")
    counts = metrics.confusion(truth, pred, len(names))
    scores = f"macro F1 {metrics.macro_f1(truth, pred, len(names)):.4f}, accuracy {np.mean(truth == pred):.4f}"
    subtitle = f"{scored_as}: {scores}, {len(truth):,} images"
    legend = "colour: share of the row, blue where right, orange where wrong"
    if scored_as != "label":
        left, top, cell = 1.65, 1.3, (1.25, 1.05)
        figure = new_page(4.1 + cell[0] * len(names), 1.85 + cell[1] * len(names), title, subtitle)
        _draw_small(figure, left, top, cell, counts, names, 11)
        draw_note(figure, left - 0.08, top - 0.18, TRUTH_PREDICTED, 8, GREY, ha="right")
        draw_note(figure, left, top + cell[1] * len(names) + 0.15, legend, 8, GREY, room=4.5)
        return figure

    figure = new_page(12.4, 8.4, title, subtitle)
    top, cell = 1.75, 0.345
    draw_note(figure, 1.6, top + 18 * cell + 0.12, legend, 8, GREY)
    axes = _draw_matrix(figure, 1.6, top, (cell, cell), counts, 7, percent=False)
    _name_labels(axes)
    _draw_f1(figure, 1.6 + 18 * cell + 0.1, top, 0.3, cell, counts, 7)
    for part, true_part, pred_part in zip(HEADS["multi"], decode(truth), decode(pred)):
        names = CLASS_NAMES[part]
        draw_note(figure, 9.8, top - 0.5, part, 9, weight="bold")
        _draw_small(figure, 9.8, top, (0.57, 0.45), metrics.confusion(true_part, pred_part, len(names)), names, 7)
        top += 0.45 * len(names) + 0.85
    return figure


def confusion(truth, pred, scored_as, path, title):
    """Write confusion.png: integer class indices truth and pred [N] of `scored_as` (label, mask, gender or age_group)."""
    write_figure(path, confusion_figure(truth, pred, scored_as, title))


def caption(truth, pred, scored_as):
    """({part: word} of the true class, {part: word} of the predicted class where it differs)."""
    truth, pred = ({p: CLASS_NAMES[p][i] for p, i in class_parts(each, scored_as).items()} for each in (truth, pred))
    return truth, {part: word for part, word in pred.items() if word != truth[part]}


def pick_mistakes(rows, limit, per_person=3):
    """The wrong rows (truth != pred), the most confident first, at most `per_person` of one `path` and `limit` in all."""
    wrong = rows[rows["truth"] != rows["pred"]].sort_values("confidence", ascending=False, kind="stable")
    return wrong[wrong.groupby("path").cumcount() < per_person].head(limit)


def _marked(words, wrong):
    """{part: word} as `_words` takes them, with commas between, the wrong parts bold in their colours."""
    ends = [","] * (len(words) - 1) + [""]
    styles = [(PART_COLORS[part], "bold") if part in wrong else (INK,) for part in words]
    return [(word + end, *style) for word, end, style in zip(words.values(), ends, styles)]


def _draw_mistake(figure, left, top, size, image, row, scored_as):
    """One thumbnail with a bar in the colours of the wrong parts, and its caption of three lines."""
    W, H = figure.get_size_inches()
    truth, wrong = caption(row.truth, row.pred, scored_as)
    pixels = [round(side * DPI) for side in size]
    image = ImageOps.contain(image, pixels, Image.Resampling.LANCZOS)
    corner = round(left * DPI) + (pixels[0] - image.width) // 2, round((H - top - size[1]) * DPI)
    figure.figimage(np.asarray(image), *corner)
    bar = size[0] / len(wrong)
    for index, part in enumerate(wrong):
        corner = (left + index * bar) / W, 1 - (top + size[1] + 0.06) / H
        figure.add_artist(Rectangle(corner, bar / W, 0.06 / H, color=PART_COLORS[part], lw=0))
    text, room = top + size[1] + 0.12, size[0] + 0.08
    draw_words(figure, left, text, _marked(truth, wrong), 7, room)
    predicted = [("→", GREY), *_marked(wrong, wrong), (f"({row.confidence:.2f})", GREY)]
    draw_words(figure, left, text + 0.15, predicted, 7, room)
    draw_note(figure, left, text + 0.3, row.image, 6, GREY, room=size[0])


def mistakes_figure(rows, load_image, scored_as, title, limit=24):
    """The most confident mistakes as thumbnails with truth and prediction: Figure. See `mistakes`."""
    wrong = rows[rows["truth"] != rows["pred"]]
    if not len(wrong):
        fine = f"✓  nothing is wrong: all {len(rows):,} images are right"
        return message_page(title, f"mistakes of {scored_as}", fine if len(rows) else "no validation images")
    shown = pick_mistakes(rows, limit)
    columns, size = 6, (205 / DPI, 273 / DPI)  # whole pixels, so that the bars fit the thumbnails
    step = size[0] + 22 / DPI, size[1] + 105 / DPI
    share = f"{len(wrong):,} of {len(rows):,} images wrong ({len(wrong) / len(rows):.1%})"
    subtitle = f"{share}. Shown: {len(shown)}, the most confident first; truth, → what was predicted instead (probability)"
    figure = new_page(2 * MARGIN + columns * step[0] - 22 / DPI, 1.15 + step[1] * -(-len(shown) // columns), title, subtitle)
    left, pred_parts = MARGIN, class_parts(wrong["pred"], scored_as)
    for part, classes in class_parts(wrong["truth"], scored_as).items():
        note, color = f"{part} wrong in {(classes != pred_parts[part]).sum():,}", PART_COLORS[part]
        left = 0.3 + draw_words(figure, left, 0.77, [("●", color), (note, color)])
    for index, row in enumerate(shown.itertuples(index=False)):
        corner = MARGIN + index % columns * step[0], 1.1 + index // columns * step[1]
        _draw_mistake(figure, *corner, size, load_image(row.image), row, scored_as)
    return figure


def mistakes(rows, load_image, scored_as, path, title, limit=24):
    """Write mistakes.png: thumbnails of the most confident wrong predictions, at most 3 of a person.

    rows: DataFrame of image, path (the person), truth, pred (class indices of `scored_as`), confidence (probability of
    the prediction, 0..1). load_image(image) returns a PIL image in RGB and is asked only for what is drawn.
    """
    write_figure(path, mistakes_figure(rows, load_image, scored_as, title, limit))


def main(argv=None):
    import noise  # here: train.py takes its figures from this module, and scipy.optimize is half a second of a start

    parser = options.Parser("Find labels that are probably wrong: a gallery, and a csv for train.py --label-fixes")
    parser.add_argument("--label-noise", nargs="+", required=True, metavar="RUN", help="runs or ensembles, of any targets")
    parser.add_argument("--noise-rate", type=options.positive_float, default=0.01, metavar="P",
                        help="share of labels that are wrong, a guess")  # fmt: skip
    parser.add_argument("--top", type=options.positive_int, default=50, metavar="N", help="suggestions of each part at most")
    parser.add_argument("--out", default="label-noise", metavar="DIR", help="folder of the files; older ones are replaced")
    parser.add_argument("--data-dir", help="the competition's folder; without it data/, /opt/ml/input/data or the demo set")
    args = parser.parse_args(argv)
    if not 0 < args.noise_rate < 0.5:
        parser.error(f"--noise-rate {args.noise_rate:g}: must lie between 0 and 0.5, such as 0.01")
    found = noise.read_evidence(args.label_noise)
    recorded = next((read_args(member.source.folder).get("data_dir") for member in found if member.source.is_run), None)
    data_dir = demo.find(args.data_dir)
    if data_dir is None:
        hint = f"; the runs were trained on {recorded}" if recorded else ""
        raise InputError(f"--data-dir: no data folder here, and its labels and images are needed{hint}")
    people = dataset.read_people(data_dir)
    evidence = noise.average(found)
    noise.check_people(evidence, people, data_dir / "train" / "train.csv", recorded)
    fixed = noise.applied_fixes(found, people)
    findings = noise.judge(evidence, people, args.noise_rate)
    runs = [noise.describe(member) for member in found]
    persons, missing = noise.write_page(args.out, evidence, findings, data_dir, runs, args.top, fixed)
    noise.closing_lines(findings, persons, runs, args.out, missing, fixed)
    return 0


# ---- crops ------------------------------------------------------------------------------------------------------------

FACE_COLOR, CROP_COLOR, LOST_COLOR = "#f0b000", "#56b4e9", "#c04f00"
CROP_COLUMNS, THUMBNAIL = 6, (205 / DPI, 273 / DPI)  # inches, of whole pixels


def pick_crops(rows, limit):
    """`limit` rows at most: some without a face, then some of the smallest faces (false ones are small), then any others.

    A third of each; where there are fewer without a face the others are more, and the other way round. The last are taken
    evenly from all.
    """
    lost, found = rows[rows["left"].isna()], rows[rows["left"].notna()]
    lost = lost.head(max(limit // 3, limit - len(found)))
    area = (found["right"] - found["left"]) * (found["bottom"] - found["top"])
    small = found.loc[area.sort_values(kind="stable").index[: limit // 3]]
    others = found.drop(small.index)
    room = min(limit - len(lost) - len(small), len(others))
    return pd.concat([lost, small, others.iloc[np.arange(room) * len(others) // max(room, 1)]])


def shaded(image, box):
    """uint8 [H, W, 3] of a Pillow image, dark outside of `box` (left, top, right, bottom)."""
    left, top, right, bottom = (round(edge) for edge in box)
    pixels = np.asarray(image) // 3
    pixels[top:bottom, left:right] = np.asarray(image)[top:bottom, left:right]
    return pixels


def _draw_crop(figure, left, top, image, row, geometry):
    """One image with both frames, and its caption of two lines."""
    W, H = figure.get_size_inches()
    face = None if np.isnan(row.left) else (row.left, row.top, row.right, row.bottom)
    small = ImageOps.contain(image, [round(side * DPI) for side in THUMBNAIL], Image.Resampling.LANCZOS)
    scale = small.width / image.width
    crop = np.multiply(geometry.box(*image.size, face), scale)
    corner = round(left * DPI) + (round(THUMBNAIL[0] * DPI) - small.width) // 2, round((H - top - THUMBNAIL[1]) * DPI)
    figure.figimage(shaded(small, crop), *corner)
    for frame, color in [(crop, CROP_COLOR)] + ([(np.multiply(face, scale), FACE_COLOR)] if face else []):
        x0, y0, x1, y1 = frame
        at = (corner[0] + x0) / DPI / W, (corner[1] + small.height - y1) / DPI / H
        figure.add_artist(Rectangle(at, (x1 - x0) / DPI / W, (y1 - y0) / DPI / H, fill=False, color=color, lw=1.5))
    words = f"face {row.right - row.left:.0f} x {row.bottom - row.top:.0f}" if face else "no face: centre crop"
    text = top + THUMBNAIL[1] + 0.08
    draw_note(figure, left, text, words, 7, INK if face else LOST_COLOR, weight="normal" if face else "bold")
    draw_note(figure, left, text + 0.15, row.image, 6, GREY, room=THUMBNAIL[0])


def crops_figure(rows, load_image, geometry, title, limit=24):
    """The contact sheet: Figure. See `write`."""
    shown = pick_crops(rows, limit)
    step = THUMBNAIL[0] + 22 / DPI, THUMBNAIL[1] + 70 / DPI
    lost = int(rows["left"].isna().sum())
    subtitle = (
        f"--face-crop {geometry.face_margin:g}: no face found in {lost:,} of {len(rows):,} images, which keep the centre crop. "
        f"Shown: {len(shown)}, first those and the smallest faces"
    )
    width = 2 * MARGIN + CROP_COLUMNS * step[0] - 22 / DPI
    page = new_page(width, 1.15 + step[1] * -(-len(shown) // CROP_COLUMNS), title, subtitle)
    end = draw_words(page, MARGIN, 0.77, [("● the face that was found", FACE_COLOR)])
    draw_words(page, end + MARGIN, 0.77, [("● what the model sees", CROP_COLOR)])
    for index, row in enumerate(shown.itertuples(index=False)):
        corner = MARGIN + index % CROP_COLUMNS * step[0], 1.1 + index // CROP_COLUMNS * step[1]
        _draw_crop(page, *corner, load_image(row.image), row, geometry)
    return page


def write_crops(rows, load_image, geometry, path, title, limit=24):
    """Write crops.png: source images with the box of the face, and dark what `geometry` leaves out.

    rows: DataFrame of image and left, top, right, bottom, the box of its face in source pixels, NaN where none was found.
    load_image(image) returns a PIL image in RGB and is asked only for what is drawn.
    """
    write_figure(path, crops_figure(rows, load_image, geometry, title, limit))


# ---- age bounds -------------------------------------------------------------------------------------------------------

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
    axes.grid(axis="y", color=FAINT, lw=0.6, alpha=0.7)
    axes.axhline(official_f1, color=GREY, lw=1, ls=":", zorder=2)
    axes.axvline(OFFICIAL_BOUNDS[axis], color=GREY, lw=1, ls="--", zorder=2)
    axes.plot(x, curve.f1, color=CHOSEN, lw=1.8, marker=".", ms=5, zorder=3)
    axes.plot(best[axis], study.best_f1, "o", ms=9, mfc="white", mec=CHOSEN, mew=2.2, zorder=4)
    for value, count in zip(*np.unique(parts, return_counts=True)):
        heights = bottom + (0.03 + 0.035 * np.arange(count)) * (top - bottom)
        axes.plot([value] * count, heights, "s", ms=3.8, color=blend.AGE_COMPONENT, mec="none", zorder=3)
    title = f"{BOUNDS_NAMES[axis]} is predicted, with {'LO' if axis else 'HI'} {best[1 - axis]}"
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=8)


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
        Line2D([], [], color=GREY, lw=1, ls="--", label="official bound"),
        Line2D([], [], color=GREY, lw=1, ls=":", label="score at the official bounds"),
    ]


def bounds_figure(study, parts, title):
    """Macro F1 against LO and against HI through the chosen bounds: Figure. See `draw`."""
    (low, high), best_f1, official_f1 = study.best, study.best_f1, study.official_f1
    subtitle = f"macro F1 of label: {best_f1:.4f} at {low}, {high} (in-sample) and {official_f1:.4f} at the official 30, 60"
    figure = new_page(9.8, 4.95, title, f"{subtitle}; the truth never moves")
    for axis in range(2):
        axes = new_axes(figure, 0.75 + 4.8 * axis, 1.2, 3.95, 2.7)
        _draw_bounds_curve(axes, study, axis, [part[axis] for part in parts])
    words = "band: 95 % interval over people of the difference to the official bounds; noise where it holds the dotted line"
    draw_words(figure, 0.75, 4.56, [("■", BAND), (words, INK)], 8.5, room=8.8)
    place = {"loc": "upper left", "bbox_to_anchor": (0.75 / 9.8, 1 - 4.28 / 4.95), "borderpad": 0, "borderaxespad": 0}
    style = {"fontsize": 8.5, "labelcolor": INK, "frameon": False, "handletextpad": 0.5, "columnspacing": 2}
    figure.legend(handles=_bounds_legend(), ncols=4, **place, **style)
    return figure


def draw_bounds(study, parts, path, title):
    """Write bounds.png of a Study; `parts` are the bounds that cross-fitting chose, one pair a part."""
    write_figure(path, bounds_figure(study, parts, title))


if __name__ == "__main__":
    sys.exit(errors.run(main))
