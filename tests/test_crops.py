"""crops.py: which images the contact sheet shows, and what is dark in them."""

import numpy as np
import pandas as pd
import pytest
from conftest import white_box
from PIL import Image

import report
from images import Geometry


def make_rows(boxes):
    table = pd.DataFrame(boxes, columns=["left", "top", "right", "bottom"], dtype=float)
    return table.assign(image=[f"{n:06d}_female_Asian_59/incorrect_mask.jpg" for n in range(len(boxes))])


NONE = (np.nan,) * 4


def sized(side):
    return (0, 0, side, side)


@pytest.mark.parametrize(("boxes", "limit", "wanted"), [
    # a third without a face, a third of the smallest faces, the others evenly: 2, 4 and 7 lack one; 1 and 5 are small
    ([sized(50), sized(3), NONE, sized(60), NONE, sized(2), sized(70), NONE, sized(80), sized(90)], 6, [2, 4, 5, 1, 0, 6]),
    ([sized(50), sized(40), sized(60), sized(30)], 3, [3, 0, 1]),  # all have a face
    ([sized(50), NONE, NONE, NONE, NONE], 4, [1, 2, 3, 0]),  # few have one
    ([NONE, NONE], 6, [0, 1]),
    ([sized(5), NONE], 24, [1, 0]),
])  # fmt: skip
def test_pick_takes_faceless_images_then_small_faces_then_others(boxes, limit, wanted):
    assert report.pick_crops(make_rows(boxes), limit).index.tolist() == wanted


def test_only_what_the_model_sees_is_bright():
    pixels = report.shaded(Image.new("RGB", (40, 30), (90, 60, 30)), (4.4, 5.6, 20, 30))
    assert (pixels[6:30, 4:20] == (90, 60, 30)).all()
    pixels[6:30, 4:20] = (30, 20, 10)
    assert (pixels == (30, 20, 10)).all()


def test_sheet_asks_for_the_images_it_shows_and_counts_those_without_a_face():
    rows, asked = make_rows([(20, 30, 40, 50), NONE, (50, 60, 70, 100)]), []

    def load_image(name):
        asked.append(name)
        return white_box((96, 128), None)

    sheet = report.crops_figure(rows, load_image, Geometry(16, 16, None, 0.25), "a run")
    assert asked == report.pick_crops(rows, 24)["image"].tolist()
    words = [text.get_text() for text in sheet.texts]
    assert any("--face-crop 0.25: no face found in 1 of 3 images" in text for text in words)
    assert words.count("no face: centre crop") == 1 and "face 20 x 40" in words


def test_frames_are_the_face_and_the_crop(tmp_path):
    """The thumbnail of 96 x 128 is 205 x 273 pixels, 2.13 as large: the frames' widths are those of face and crop."""
    rows = make_rows([(20, 30, 40, 50)])
    sheet = report.crops_figure(rows, lambda name: white_box((96, 128), None), Geometry(16, 16, None, 0.25), "a run")
    widths = [patch.get_width() * sheet.get_figwidth() * report.DPI for patch in sheet.artists]
    assert widths == pytest.approx([30 * 205 / 96, 20 * 205 / 96])


@pytest.mark.parametrize("count", [0, 1, 30])
def test_written_sheet_is_a_picture(tmp_path, count):
    rows = make_rows([(20, 30, 40, 50), NONE, (50, 60, 70, 100)] * 10)[:count]
    report.write_crops(
        rows, lambda name: white_box((96, 128), None), Geometry(16, 16, None, 0.25), tmp_path / "crops.png", "a run"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["crops.png"]
    with Image.open(tmp_path / "crops.png") as image:
        assert image.format == "PNG" and 700 <= image.width <= 1800
