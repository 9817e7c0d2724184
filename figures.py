"""Pictures of a run (curves, confusion, mistakes, crops) and of an ensemble (bounds), each a Figure."""

import logging
import warnings

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.font_manager import findSystemFonts, fontManager
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

import errors
import metrics
from dataset import AGE_GROUPS, CLASS_NAMES, GENDERS, HEADS, MASKS, OFFICIAL_BOUNDS, class_components, decode

DPI = 140
MARGIN = 0.3  # inches
INK, GREY, FAINT, EMPTY = "#1f2328", "#656d76", "#d0d7de", "#f5f6f7"
CROSSED = {"marker": "x", "ms": 5}  # the line of epochs on everyone
BELOW = {"loc": "outside lower left", "ncols": 4, "borderaxespad": 2.5, "handletextpad": 0.4, "labelcolor": INK}
GREY_LINE = {"size": 9, "color": GREY}
COMPONENT_COLORS = {"mask": "#0072b2", "gender": "#a3267e", "age_group": "#c04f00"}
LOW = COMPONENT_COLORS["age_group"]  # of a zero, of what lacks
FACE_COLOR, CROP_COLOR, CHOSEN, BAND = "#f0b000", "#56b4e9", "#0072b2", "#cfe3f0"
LOOK, LOOK_COLOR = "outlined: Grad-CAM of the prediction, above half", "#f0e442"
COLUMNS, THUMBNAIL, GAP = 6, (205, 273), 22  # of thumbnails, in whole pixels
BATCH_COLUMNS, BATCH_THUMBNAIL = 8, (148, 394)  # of batch.png, two images each
# Petroff 2021, "petroff10": told apart with any colour vision; its greys come last.
FOLD_COLORS = [matplotlib.color_sequences["petroff10"][index] for index in (0, 1, 2, 4, 5, 9, 6, 7, 8, 3)]
# matplotlib's own, then what has Hangul on Linux, Windows and macOS; a letter is drawn in the first that has it.
FONTS = ("DejaVu Sans", "NanumGothic", "Noto Sans CJK KR", "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic")
if not {font.name for font in fontManager.ttflist} & {*FONTS[1:]}:  # matplotlib's list may be older than the fonts
    for path in [path for path in findSystemFonts() if path.endswith(("NanumGothic.ttf", "NanumGothicBold.ttf"))]:
        fontManager.addfont(path)
STYLE = {
    "font.family": [name for name in FONTS if name in {font.name for font in fontManager.ttflist}], "font.size": 8.5,
    "text.color": INK, "text.parse_math": False,  # `$` is a dollar
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT, "axes.axisbelow": True,
    "axes.titlelocation": "left", "axes.titlesize": 10, "axes.titlepad": 8, "axes.labelcolor": GREY,
    "xtick.color": FAINT, "xtick.labelcolor": GREY, "xtick.labelsize": 8,
    "ytick.color": FAINT, "ytick.labelcolor": GREY, "ytick.labelsize": 8,
    "grid.color": FAINT, "grid.linewidth": 0.6, "legend.frameon": False, "legend.labelcolor": GREY,
}  # fmt: skip
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of each font that has no bold of its own
warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box


def caption(text):
    """A text in the user's language where a font can draw it, else in English."""
    return errors.tr(text) if len(STYLE["font.family"]) > 1 else text


def shorten(text, length):
    """`text` in at most `length` characters, its middle left out; the part after the last "/" stays whole if it can."""
    folder, slash, name = text.rpartition("/")
    if len(text) > length and slash and len(name) + 3 <= length:
        return f"{folder[: length - len(name) - 2]}…/{name}"
    tail = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def new_page(width, height, title, subtitle):
    """(Figure, inches that its titles take): a white page with `height` inches below them, for Axes or legends."""
    title = errors.wrap(title, int(8.3 * (width - 2 * MARGIN)), break_on_hyphens=False)
    subtitle = errors.wrap(caption(subtitle), int(13 * (width - 2 * MARGIN)))
    head = 0.35 + 0.24 * len(title) + 0.19 * len(subtitle)
    whole, left = height + head, MARGIN / width
    figure = Figure((width, whole), dpi=DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(rect=(left, 0.2 / whole, 1 - 2 * left, (height - 0.2) / whole), w_pad=0.08, h_pad=0.08)
    for top, lines, style in ((0.22, title, {"size": 13, "weight": "bold"}), (0.28 + 0.24 * len(title), subtitle, GREY_LINE)):
        figure.text(left, 1 - top / whole, "\n".join(lines), va="top", in_layout=False, **style)
    return figure, head


def message_page(title, subtitle, message):
    """A small page that holds one message."""
    figure, _head = new_page(9.8, 1.5, title, subtitle)
    figure.text(0.5, 0.3, caption(message), size=18, color=GREY, ha="center", va="center")
    return figure


def dots(colors):
    """Handles of a legend."""
    return [Line2D([], [], ls="", marker="o", ms=6, color=color) for color in colors]


def best_epochs(log):
    """{fold: (epoch, val_f1)} of each fold's highest validation F1, the first of equals; folds without one are absent."""
    known = log[["fold", "epoch", "val_f1"]].dropna().sort_values("epoch", ignore_index=True)
    best = known.loc[known.groupby("fold")["val_f1"].idxmax()]
    return {int(fold): (int(epoch), float(f1)) for fold, epoch, f1 in best.itertuples(index=False)}


def draw_folds(axes, log, column, best=None, **style):
    """Draw a line a fold over the epochs, a ring at its best; epochs of --finish-on-all are a line of their own, crossed."""
    for fold, rows in log.groupby("fold"):
        color = FOLD_COLORS[fold % len(FOLD_COLORS)]
        for on_everyone, epochs in rows.groupby("everyone"):
            axes.plot(epochs["epoch"], epochs[column], color=color, **style | (CROSSED if on_everyone else {}))
        if best and fold in best:
            ring = rows[rows["epoch"] == best[fold][0]]
            axes.plot(ring["epoch"], ring[column], "o", ms=7, mfc="white", mec=color, mew=2, zorder=4)


@matplotlib.rc_context(STYLE)
def curves(log, title):
    """Loss, learning rate and validation macro F1 by epoch, a line a fold, of a DataFrame with the columns of log.csv."""
    log = log[["fold", "epoch", "lr", "train_loss", "val_loss", "val_f1"]].reset_index(drop=True)
    log = log.astype({"val_loss": float, "val_f1": float}).replace([np.inf, -np.inf], np.nan)
    validated = log["val_f1"].notna()
    log["everyone"] = ~validated & validated.groupby(log["fold"]).transform("any")
    best, folds = best_epochs(log), sorted(log["fold"].unique())
    scores, subtitle = [score for _epoch, score in best.values()], "no validation: everyone trains"
    if scores:
        subtitle = f"best validation macro F1 {np.mean(scores):.4f}"
    if len(scores) > 1:
        subtitle += f": mean of {len(scores)} folds (dotted), {min(scores):.4f} .. {max(scores):.4f}"
    figure, _head = new_page(9.8, 4.1 + 0.2 * -(-len(folds) // 4), title, subtitle)
    panels = figure.subplot_mosaic([["loss", "f1"], ["lr", "f1"]], height_ratios=[5, 1], sharex=True)
    loss, lr, f1 = panels["loss"], panels["lr"], panels["f1"]
    line, thin = {"lw": 1.6, "marker": ".", "ms": 4.5}, {"lw": 1.2, "marker": ".", "ms": 4.5}
    draw_folds(loss, log, "train_loss", ls="--", **thin)
    draw_folds(loss, log, "val_loss", best, **line)
    draw_folds(lr, log, "lr", **thin | {"ms": 3})
    draw_folds(f1, log, "val_f1", best, **line)
    loss.set_title(caption("loss"))
    lr.set_title(caption("learning rate"), size=8.5, color=GREY, pad=4)
    f1.set_title(caption("validation macro F1"))
    for axes in panels.values():
        axes.grid(axis="y", alpha=0.7)
        axes.set_xlim(0.5, max(log["epoch"].max(), 1) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (lr, f1):
        axes.set_xlabel(caption("epoch"))
    if (highest := log["lr"].max()) > 0:
        lr.set_yticks([0, highest], ["0", f"{highest:.3g}"])
        lr.set_ylim(-0.1 * highest, 1.15 * highest)
    if len(scores) > 1:
        f1.axhline(np.mean(scores), color=GREY, lw=1, ls=":", zorder=1)
    if not best:
        f1.clear()
        f1.set_axis_off()
        f1.add_patch(Rectangle((0, 0), 1, 1, transform=f1.transAxes, fc=EMPTY, ec="none"))
        f1.text(0.5, 0.5, caption("no validation"), size=14, color=GREY, ha="center", va="center", transform=f1.transAxes)
    draw_legends(figure, loss, folds, best, on_everyone=log["everyone"].any())
    return figure


def draw_legends(figure, loss, folds, best, on_everyone):
    """Draw the legend of lines in the panel of the losses, and below all panels each fold's best score."""
    kinds = {"train": {"ls": "--"}, "validation": {}, "best epoch": {"ls": "", "marker": "o", "mfc": "white", "mew": 2}}
    kinds["train on everyone"] = {"ls": "--"} | CROSSED
    shown = [*kinds][: 4 if on_everyone else 3 if best else 1]
    lines = [Line2D([], [], color=GREY, lw=1.4, **kinds[name]) for name in shown]
    loss.legend(lines, [*map(caption, shown)], fontsize=8, handlelength=2.4)
    notes = [f"fold {fold}: {best[fold][1]:.4f} at epoch {best[fold][0]}" if fold in best else f"fold {fold}" for fold in folds]
    by_row = [index for column in range(4) for index in range(column, len(folds), 4)]  # a legend goes by columns
    colors = [FOLD_COLORS[folds[index] % len(FOLD_COLORS)] for index in by_row]
    figure.legend(dots(colors), [caption(notes[index]) for index in by_row] if best else [caption("everyone")], **BELOW)


def cell_colors(shares):
    """RGB [C, C, 3] of row shares: blues on the diagonal, oranges beside it, a dim grey where there is nothing."""
    right, wrong = (matplotlib.colormaps[name](0.1 + 0.85 * shares)[..., :3] for name in ("Blues", "Oranges"))
    colors = np.where(np.eye(len(shares), dtype=bool)[..., None], right, wrong)
    return np.where(shares[..., None] > 0, colors, matplotlib.colors.to_rgb(EMPTY))


def draw_matrix(axes, counts, size, names=None):
    """Draw a confusion matrix [C, C]: the count of each cell, its share of the row as colour and, with `names`, in words."""
    C, shares = len(counts), counts / np.maximum(counts.sum(1, keepdims=True), 1)
    colors = cell_colors(shares)
    axes.imshow(colors, aspect="auto", interpolation="nearest")
    for draw_lines in (axes.hlines, axes.vlines):
        draw_lines(np.arange(1, C) - 0.5, -0.5, C - 0.5, color="white", lw=1)
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])
    if names:
        axes.set_xticks(range(C), names)
        axes.set_yticks(range(C), names)
        axes.tick_params(length=0, labelcolor=INK, labelsize=size, labeltop=True, labelbottom=False)
    for row, column in zip(*np.nonzero(counts)):
        note = f"{counts[row, column]:,}\n{shares[row, column]:.1%}" if names else str(counts[row, column])
        is_dark = np.dot(colors[row, column], [0.299, 0.587, 0.114]) < 0.46  # luma of Rec. 601
        style = {"size": size, "color": "white" if is_dark else INK, "linespacing": 1.25}
        axes.text(column, row, note, ha="center", va="center_baseline", **style)


def draw_f1(axes, counts, size, images=True):
    """Draw F1 of each class as a bar and a number and, if wanted, its number of images, beside a matrix."""
    C, thick, times = len(counts), 0.34 * min(1, len(counts) / 6), counts.sum(0) + counts.sum(1)
    f1 = np.divide(2 * counts.diagonal(), times, out=np.full(C, np.nan), where=times > 0)
    columns = [("F1", ["–" if np.isnan(score) else f"{score:.3f}" for score in f1], [INK if score else LOW for score in f1])]
    if images:
        columns.append((caption("images"), [f"{number:,}" for number in counts.sum(1)], [GREY] * C))
    axes.set_axis_off()
    axes.set(xlim=(0, 1 + 1.4 * len(columns)), ylim=(C - 0.5, -0.5))
    axes.barh(range(C), 1, height=thick, color="#e6e9ec")
    axes.barh(range(C), np.nan_to_num(f1), height=thick, color=cell_colors(np.eye(1) * 0.6)[0, 0])
    for number, (name, texts, colors) in enumerate(columns, start=1):
        x = 1 + 1.4 * number
        axes.annotate(name, (x, -0.5), (0, 5), textcoords="offset points", size=size, color=GREY, ha="right")
        for row, (text, color) in enumerate(zip(texts, colors)):
            axes.text(x, row, text, size=size, color=color, ha="right", va="center_baseline")


def name_labels(axes):
    """Write the 18 classes along a matrix in three levels: age group, gender, mask, with lines between them."""
    for index in range(18):
        age = AGE_GROUPS[decode(index)[2]]
        axes.text(-0.65, index, age, size=7, color=GREY, ha="right", va="center_baseline")
        axes.text(index, -0.7, age, size=6.5, color=GREY, ha="center")
    levels = (GENDERS, 3, -2.35, -1.6, {"size": 8}), (MASKS, 6, -3.25, -2.45, {"size": 9, "weight": "bold"})
    for names, span, x, y, style in levels:
        for start in range(0, 18, span):
            middle, name = start + (span - 1) / 2, names[start // span % len(names)]
            axes.text(x, middle, name, ha="center", va="center", rotation=90, **style)
            axes.text(middle, y, name, ha="center", **style)
    for edge in range(3, 18, 3):
        color, reach = (GREY, -3.6) if edge % 6 == 0 else (FAINT, -2.6)
        axes.plot([reach, 17.5], [edge - 0.5] * 2, color=color, lw=0.9, clip_on=False)
        axes.plot([edge - 0.5] * 2, [reach + 0.6, 17.5], color=color, lw=0.9, clip_on=False)
    axes.set(xlim=(-0.5, 17.5), ylim=(17.5, -0.5))


@matplotlib.rc_context(STYLE)
def confusion(truth, pred, scored_as, title):
    """The confusion matrix of class indices [N] of `scored_as` (label, mask, gender or age_group), with F1 per class."""
    names = CLASS_NAMES[scored_as]
    if not len(truth):
        return message_page(title, f"confusion of {scored_as}", "no validation images")
    counts = metrics.confusion(truth, pred, len(names))
    scores = f"macro F1 {metrics.macro_f1(truth, pred, len(names)):.4f}, accuracy {np.mean(truth == pred):.4f}"
    subtitle = f"{scored_as}: {scores}, {len(truth):,} images"
    if scored_as != "label":
        figure, _head = new_page(4.1 + 1.25 * len(names), 0.9 + 1.05 * len(names), title, subtitle)
        axes, beside = figure.subplots(1, 2, width_ratios=[1.25 * len(names), 1.9])
        draw_matrix(axes, counts, 11, names)
        draw_f1(beside, counts, 11)
    else:
        figure, _head = new_page(12.4, 7.6, title, subtitle)
        grid = figure.add_gridspec(3, 4, width_ratios=[6.2, 1.3, 1.71, 0.65], height_ratios=[3, 2, 3])
        axes = figure.add_subplot(grid[:, 0])
        draw_matrix(axes, counts, 7)
        name_labels(axes)
        draw_f1(figure.add_subplot(grid[:, 1]), counts, 7)
        for row, (component, true, predicted) in enumerate(zip(HEADS["multi"], decode(truth), decode(pred))):
            small, beside = (figure.add_subplot(grid[row, column]) for column in (2, 3))
            small.set_title(component, size=9, weight="bold")
            counts = metrics.confusion(true, predicted, len(CLASS_NAMES[component]))
            draw_matrix(small, counts, 7, CLASS_NAMES[component])
            draw_f1(beside, counts, 7, images=False)
    corner, key = caption("truth ↓  predicted →"), caption("colour: share of the row, blue where right, orange where wrong")
    axes.annotate(corner, (-0.5, -0.5), (-4, 5), textcoords="offset points", size=6.5, color=GREY, ha="right")
    axes.set_xlabel(key, loc="left", size=8, labelpad=7)
    return figure


def thumbnail_page(title, subtitle, key, count, below, columns=COLUMNS, size=THUMBNAIL):
    """(Figure, Axes of `count` thumbnails in rows, with `below` pixels for words); above them the `key` {words: colour}."""
    across, up = size[0] + GAP, size[1] + below
    width, height = 2 * MARGIN + (columns * across - GAP) / DPI, 0.45 + -(-count // columns) * up / DPI
    figure, head = new_page(width, height, title, subtitle)
    figure.set_layout_engine("none")
    style = {"fontsize": 9, "handlelength": 1, "borderpad": 0, "borderaxespad": 0}
    style["labelcolor"] = [INK if color == LOOK_COLOR else color for color in key.values()]
    style |= {"bbox_to_anchor": (MARGIN / width, height / (head + height)), "ncols": len(key) or 1}
    figure.legend(dots(key.values()), [*map(caption, key)], loc="upper left", **style)
    W, H = np.round(figure.get_size_inches() * DPI)
    places = []
    for row, column in (divmod(index, columns) for index in range(count)):
        left, top = round(MARGIN * DPI) + column * across, round((head + 0.3) * DPI) + row * up
        axes = figure.add_axes((left / W, (H - top - size[1]) / H, size[0] / W, size[1] / H))
        axes.set_axis_off()
        places.append(axes)
    return figure, places


def draw_thumbnail(axes, image, lines, size=THUMBNAIL):
    """Draw a PIL image, and below it lines of words (text, style of matplotlib's Text) side by side."""
    image = ImageOps.pad(image, size, Image.Resampling.LANCZOS, color="white", centering=(0.5, 1))
    axes.imshow(image, extent=(0, size[0], size[1], 0), aspect="auto", interpolation="nearest")
    axes.autoscale(False)  # an outline would shrink it
    place = {"bbox_to_anchor": (0, -0.06 * THUMBNAIL[1] / size[1]), "bbox_transform": axes.transAxes}
    rows = [HPacker(pad=0, sep=2, children=[TextArea(text, textprops=style) for text, style in words]) for words in lines]
    axes.add_artist(AnchoredOffsetbox("upper left", child=VPacker(pad=0, sep=3, children=rows), pad=0, borderpad=0,
                                      frameon=False, **place))  # fmt: skip


def wrapped(words, room=25):
    """Words (text, style) in lines of at most `room` characters."""
    lines = [[]]
    for word in words:
        if lines[-1] and sum(len(text) + 1 for text, _style in lines[-1]) + len(word[0]) > room:
            lines.append([])
        lines[-1].append(word)
    return lines


def draw_look(axes, size, heat, box):
    """Outline where a map [h, w] over the rectangle `box` of an image of (width, height) is above half of its maximum."""
    scale = min(side / own for side, own in zip(THUMBNAIL, size))
    left, upper = (THUMBNAIL[0] - size[0] * scale) / 2, THUMBNAIL[1] - size[1] * scale
    edges = np.multiply(box, scale) + np.tile([left, upper], 2)
    fine = np.pad(Image.fromarray(heat).resize((96, 128), Image.Resampling.BILINEAR), 1)  # its lines close at the border
    x, y = (np.linspace(*edges[axis::2], side) for axis, side in enumerate(fine.shape[::-1]))
    for color, width in (("black", 2.2), (LOOK_COLOR, 1.1)):
        axes.contour(x, y, fine, [heat.max() / 2], colors=color, linewidths=width)


def draw_mistake(axes, image, row, scored_as):
    """Draw one mistake: a bar in the colours of the wrong components, truth, prediction and name."""
    answers = (class_components(each, scored_as) for each in (row.truth, row.pred))
    truth, pred = ({head: CLASS_NAMES[head][index] for head, index in answer.items()} for answer in answers)
    wrong = {component: word for component, word in pred.items() if word != truth[component]}

    def marked(words):
        ends = [","] * (len(words) - 1) + [""]
        styles = ({"color": COMPONENT_COLORS[name], "weight": "bold"} if name in wrong else {} for name in words)
        return [(word + end, style | {"size": 7}) for word, end, style in zip(words.values(), ends, styles)]

    small = {"size": 7, "color": GREY}
    predicted = [("→", small), *marked(wrong), (f"({row.confidence:.2f})", small)]
    name = [(shorten(row.image, 29), small | {"size": 6})]
    draw_thumbnail(axes, image, [*wrapped(marked(truth)), *wrapped(predicted), name])
    for index, component in enumerate(wrong):
        place = THUMBNAIL[0] * index / len(wrong), THUMBNAIL[1]
        axes.add_patch(Rectangle(place, THUMBNAIL[0] / len(wrong), 8, color=COMPONENT_COLORS[component], lw=0, clip_on=False))


@matplotlib.rc_context(STYLE)
def mistakes(rows, load_image, scored_as, title, limit=24, look=None):
    """Thumbnails of the most confident wrong predictions, at most 3 of a person. rows: DataFrame of image, path (the person),
    truth, pred (class indices of `scored_as`), confidence (0..1). load_image(image) returns a PIL image in RGB; only what is
    drawn is loaded. look(rows) returns {image: (Grad-CAM of its prediction, the rectangle of it)} as far as it can."""
    wrong = rows[rows["truth"] != rows["pred"]]
    if not len(wrong):
        fine = f"✓  nothing is wrong: all {len(rows):,} images are right"
        return message_page(title, f"mistakes of {scored_as}", fine if len(rows) else "no validation images")
    shown = wrong.sort_values("confidence", ascending=False, kind="stable")
    shown = shown[shown.groupby("path").cumcount() < 3].head(limit)
    share = f"{len(wrong):,} of {len(rows):,} images wrong ({len(wrong) / len(rows):.1%})"
    subtitle = f"{share}. Shown: {len(shown)}, the most confident first; truth, → what was predicted instead (probability)"
    true, pred = (class_components(wrong[column], scored_as) for column in ("truth", "pred"))
    key = {f"{head} wrong in {(true[head] != pred[head]).sum():,}": COMPONENT_COLORS[head] for head in true}
    looks = look(shown) if look else {}
    key |= {LOOK: LOOK_COLOR} if looks else {}
    figure, places = thumbnail_page(title, subtitle, key, len(shown), below=105)
    for axes, row in zip(places, shown.itertuples(index=False)):
        image = load_image(row.image)
        draw_mistake(axes, image, row, scored_as)
        if row.image in looks and looks[row.image][0].any():
            draw_look(axes, image.size, *looks[row.image])
    return figure


@matplotlib.rc_context(STYLE)
def batch(before, after, labels, changes, title):
    """The images of a first batch, uint8 [N, H, W, 3], as they are above what training makes of them, and their labels, a dict
    {words: share} each. changes: the options that made them."""
    subtitle = f"the first batch: above the images as they are, below what the model learns from ({changes})"
    size, columns = BATCH_THUMBNAIL, min(BATCH_COLUMNS, max(len(labels), 4))
    figure, places = thumbnail_page(title, subtitle, {}, len(labels), below=82, columns=columns, size=size)
    for axes, own, changed, label in zip(places, before, after, labels):
        shares = [f"{share:.2f} {words}" if len(label) > 1 else words for words, share in label.items()]
        lines = [line for text in shares for line in wrapped([(word, {"size": 6.5}) for word in text.split()], room=24)]
        draw_thumbnail(axes, Image.fromarray(np.concatenate([own, changed])), lines, size)
    return figure


def pick_crops(rows, limit):
    """`limit` rows at most: a third without a face, a third of the smallest faces (false ones are small), any others evenly."""
    area = (rows["right"] - rows["left"]) * (rows["bottom"] - rows["top"])
    first = pd.concat([rows[area.isna()].head(limit // 3), rows.loc[area.dropna().nsmallest(limit // 3).index]])
    others = rows.drop(first.index)
    room = min(limit - len(first), len(others))
    return pd.concat([first, others.iloc[np.arange(room) * len(others) // max(room, 1)]])


@matplotlib.rc_context(STYLE)
def crops(rows, load_image, geometry, title, limit=24):
    """Source images with the box of the face, and dark what `geometry` (images.Geometry) leaves out.

    rows: DataFrame of image and left, top, right, bottom, the box of its face in source pixels, NaN where none was found."""
    shown, lost = pick_crops(rows, limit), int(rows["left"].isna().sum())
    subtitle = (
        f"--face-crop {geometry.face_margin:g}: no face found in {lost:,} of {len(rows):,} images, which keep the centre crop. "
        f"Shown: {len(shown)}, first those and the smallest faces"
    )
    key = {"the face that was found": FACE_COLOR, "what the model sees": CROP_COLOR}
    figure, places = thumbnail_page(title, subtitle, key, len(shown), below=72)
    for axes, row in zip(places, shown.itertuples(index=False)):
        image = load_image(row.image)
        face = None if np.isnan(row.left) else (row.left, row.top, row.right, row.bottom)
        small = ImageOps.contain(image, THUMBNAIL, Image.Resampling.LANCZOS)
        scale, corner = small.width / image.width, [(THUMBNAIL[0] - small.width) // 2, THUMBNAIL[1] - small.height]
        crop = np.multiply(geometry.box(*image.size, face), scale)
        words = caption(f"face {row.right - row.left:.0f} x {row.bottom - row.top:.0f}" if face else "no face: centre crop")
        style = {"size": 7} if face else {"size": 7, "color": LOW, "weight": "bold"}
        edges = [round(edge) for edge in crop]
        shaded = small.point(lambda value: value // 3)  # dark what the model does not see
        shaded.paste(small.crop(edges), edges[:2])
        draw_thumbnail(axes, shaded, [[(words, style)], [(shorten(row.image, 29), {"size": 6, "color": GREY})]])
        for box, color in [(crop, CROP_COLOR)] + ([(np.multiply(face, scale), FACE_COLOR)] if face else []):
            axes.add_patch(Rectangle(box[:2] + corner, *(box[2:] - box[:2]), fill=False, color=color, lw=1.5, clip_on=False))
    return figure


@matplotlib.rc_context(STYLE)
def bounds(study, fold_bounds, title):
    """Macro F1 against LO and against HI of a blend.BoundsStudy; `fold_bounds`: those that cross-fitting chose, a pair each."""
    best, best_f1, official_f1 = study.best, study.best_f1, study.official_f1
    subtitle = (
        f"macro F1 of label: {best_f1:.4f} at {best[0]}, {best[1]} (in-sample) and {official_f1:.4f} at the official 30, 60; "
        "the truth never moves. Band: 95 % interval over people of the difference to the official bounds; noise where it "
        "holds the dotted line"
    )
    figure, _head = new_page(9.8, 3.8, title, subtitle)
    edges = [official_f1 + edge for curve in study.curves for edge in (curve.low, curve.high)]
    low, high = min(map(np.min, edges)), max(map(np.max, edges))
    room = max(high - low, 0.01)
    bottom, top = low - 0.2 * room, high + 0.08 * room
    lower = f"LO: age from which on 30-59 is predicted, with HI {best[1]}"
    upper = f"HI: age from which on >=60 is predicted, with LO {best[0]}"
    for axis, (axes, curve) in enumerate(zip(figure.subplots(1, 2), study.curves)):
        x = np.array(curve.bounds)[:, axis]
        axes.set(xlim=(x[0] - 0.6, x[-1] + 0.6), ylim=(bottom, top), xticks=range(x[0], x[-1] + 1, 2))
        axes.set_title(caption((lower, upper)[axis]))
        axes.grid(axis="y", alpha=0.7)
        axes.fill_between(x, official_f1 + curve.low, official_f1 + curve.high, color=BAND, lw=0)
        axes.plot(x, curve.f1, color=CHOSEN, lw=1.8, marker=".", ms=5, zorder=3)
        ring = {"ms": 9, "mfc": "white", "mec": CHOSEN, "mew": 2.2, "zorder": 4}
        axes.plot(best[axis], best_f1, "o", label="chosen on everyone", **ring)
        chosen = pd.Series([cut[axis] for cut in fold_bounds])
        heights = bottom + (0.03 + 0.035 * chosen.groupby(chosen).cumcount()) * (top - bottom)  # equal ones are stacked
        axes.plot(chosen, heights, "s", ms=3.8, color=LOW, mec="none", zorder=3, label="chosen without one part of the people")
        axes.axvline(OFFICIAL_BOUNDS[axis], color=GREY, lw=1, ls="--", zorder=2, label="official bound")
        axes.axhline(official_f1, color=GREY, lw=1, ls=":", zorder=2, label="score at the official bounds")
    lines, labels = axes.get_legend_handles_labels()
    figure.legend(lines, [*map(caption, labels)], **BELOW)
    return figure


@matplotlib.rc_context(STYLE)
def scores(oof, lb):
    """Macro F1 over the days of a contest, and the best so far: out of fold and on the leaderboard, lists of (time, score)."""
    figure, _head = new_page(9.8, 3.6, caption("The way of the score"), "dots: runs and ensembles; lines: the best so far")
    axes = figure.subplots()
    for points, color, name in ((oof, CHOSEN, "out-of-fold macro F1"), (lb, LOW, "leaderboard")):
        if points:
            times, values = zip(*sorted((time.replace(tzinfo=None), value) for time, value in points))
            axes.plot(times, values, "o", ms=4, color=color, alpha=0.6)
            axes.step(times, np.maximum.accumulate(values), where="post", color=color, label=caption(name))
    axes.grid(axis="y", alpha=0.7)
    axes.xaxis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    figure.legend(*axes.get_legend_handles_labels(), **BELOW)
    return figure
