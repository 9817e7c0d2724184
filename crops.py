"""The contact sheet of --face-crop: what the detector found in a sample of images, and what the model sees of them."""

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

import layout
from files import write_figure
from layout import DPI, GREY, INK, MARGIN

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
    layout.draw_note(figure, left, text, words, 7, INK if face else LOST_COLOR, weight="normal" if face else "bold")
    layout.draw_note(figure, left, text + 0.15, row.image, 6, GREY, room=THUMBNAIL[0])


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
    page = layout.new_page(width, 1.15 + step[1] * -(-len(shown) // CROP_COLUMNS), title, subtitle)
    end = layout.draw_words(page, MARGIN, 0.77, [("● the face that was found", FACE_COLOR)])
    layout.draw_words(page, end + MARGIN, 0.77, [("● what the model sees", CROP_COLOR)])
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
