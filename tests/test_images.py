"""images.py: which part of an image a model sees."""

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
