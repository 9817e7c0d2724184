"""How a figure is laid out, in inches from its top left corner: its page, axes, and text that fits its room.

Figures are matplotlib objects on their own Agg canvas: no pyplot, no window, nothing global.
"""

import functools
import logging

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
