"""images.py: which part of an image a model sees."""

import numpy as np
import pytest

from images import Geometry


@pytest.mark.parametrize(("geometry", "box"), [
    (Geometry(224, 224), (0, 64, 384, 448)),  # the largest square of 384 x 512, in its middle
    (Geometry(128, 96), (0, 0, 384, 512)),  # the source's own shape: all of it
    (Geometry(224, 224, (320, 320)), (32, 96, 352, 416)),
    (Geometry(100, 50, (400, 300)), (92, 56, 292, 456)),  # a crop of 400 x 300 narrowed to 400 x 200
])  # fmt: skip
def test_box_is_centred_and_keeps_the_ratio(geometry, box):
    assert geometry.box(384, 512) == pytest.approx(box)


@pytest.mark.parametrize(("margin", "face", "box"), [
    # 100 x 100 around (200, 300), enlarged by 0.5 on each side: 200 x 200
    (0.5, (150, 250, 250, 350), (100, 200, 300, 400)),
    (0.0, (150, 250, 250, 350), (150, 250, 250, 350)),
    # 60 x 120 enlarged by 0.25: 90 x 180; a square around (200, 300) must be 180 x 180
    (0.25, (170, 240, 230, 360), (110, 210, 290, 390)),
    # 120 x 60 likewise: 180 wide decides
    (0.25, (140, 270, 260, 330), (110, 210, 290, 390)),
    # 200 x 200 around (60, 480) would reach from -40 to 160 and from 380 to 580: shifted to 0 and to 512 - 200
    (0.5, (10, 430, 110, 530), (0, 312, 200, 512)),
    # 200 x 200 around (384, 0): the other two edges
    (0.5, (334, -50, 434, 50), (184, 0, 384, 200)),
    # 300 x 300 enlarged by 1: 900 x 900 is more than the image; its largest square is 384, at the height of the face
    (1.0, (0, 50, 300, 350), (0, 8, 384, 392)),
])  # fmt: skip
def test_face_box_is_enlarged_then_shifted_then_shrunk(margin, face, box):
    assert Geometry(224, 224, None, margin).box(384, 512, face) == pytest.approx(box)


def test_face_box_has_the_shape_of_the_target():
    """100 x 100 around (200, 300) and no margin: at 3 x 4 (wide x high) it is 133.3 high, at 2 x 1 it is 200 wide."""
    face = (150, 250, 250, 350)
    assert Geometry(64, 48, None, 0.0).box(384, 512, face) == pytest.approx((150, 300 - 200 / 3, 250, 300 + 200 / 3))
    assert Geometry(50, 100, None, 0.0).box(384, 512, face) == pytest.approx((100, 250, 300, 350))


@pytest.mark.parametrize("seed", range(20))
def test_face_box_keeps_ratio_image_and_face(seed):
    rng = np.random.default_rng(seed)
    height, width, margin = *rng.integers(30, 300, 2), rng.random()
    left, top = rng.integers(0, (384, 512))
    right, bottom = rng.integers((left, top), (384, 512)) + 1
    box = Geometry(height, width, (32, 32), margin).box(384, 512, (left, top, right, bottom))
    assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(width / height)
    assert box[0] >= 0 and box[1] >= 0 and box[2] <= 384 + 1e-9 and box[3] <= 512 + 1e-9
    room = min(384 / width, 512 / height)  # of the largest rectangle of that shape
    if (right - left) * (1 + 2 * margin) <= room * width and (bottom - top) * (1 + 2 * margin) <= room * height:
        enlarged = left - margin * (right - left), right + margin * (right - left)
        assert box[0] <= max(enlarged[0], 0) + 1e-9 and box[2] >= min(enlarged[1], 384) - 1e-9
        enlarged = top - margin * (bottom - top), bottom + margin * (bottom - top)
        assert box[1] <= max(enlarged[0], 0) + 1e-9 and box[3] >= min(enlarged[1], 512) - 1e-9


def test_without_a_face_it_is_the_centre_crop():
    for crop in (None, (320, 320)):
        assert Geometry(224, 224, crop, 0.4).box(384, 512) == Geometry(224, 224, crop).box(384, 512)


def test_options_make_the_geometry():
    assert Geometry.of([64, 48], [320, 300], 0.4) == Geometry(64, 48, (320, 300), 0.4)
    assert Geometry.of([64, 48], None) == Geometry(64, 48) != Geometry(64, 48, None, 0.4)
