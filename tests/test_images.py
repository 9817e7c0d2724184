"""images.py: every kind of file becomes the same upright RGB, cut to the same geometry."""

import numpy as np
import pytest
from conftest import gradient, save
from PIL import Image

import images
from errors import InputError
from images import Geometry


@pytest.mark.parametrize(("geometry", "box"), [
    (Geometry(224, 224), (0, 64, 384, 448)),  # the largest square of 384 x 512, in its middle
    (Geometry(128, 96), (0, 0, 384, 512)),  # the source's own shape: all of it
    (Geometry(224, 224, (320, 320)), (32, 96, 352, 416)),
    (Geometry(100, 50, (400, 300)), (92, 56, 292, 456)),  # a crop of 400 x 300 narrowed to 400 x 200
])  # fmt: skip
def test_box_is_centred_and_keeps_the_ratio(geometry, box):
    assert geometry.box(384, 512) == pytest.approx(box)


def test_crop_larger_than_the_image_names_the_file(tmp_path):
    file = save(tmp_path / "a.png", gradient(40, 30))
    with pytest.raises(InputError, match=r"a.png: --crop 32 32 is larger than the image \(30 high, 40 wide\)"):
        images.decode(file, Geometry(16, 16, (32, 32)))


def test_crop_without_resize_takes_the_very_pixels(tmp_path):
    """Centre 20 x 10 of 40 x 30: columns 10..29, rows 10..19."""
    pixels = images.decode(save(tmp_path / "a.png", gradient(40, 30)), Geometry(10, 20, (10, 20)))
    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(10, 30))
    np.testing.assert_array_equal(pixels[:, 0, 1], np.arange(10, 20))


def test_jpeg_decoded_smaller_looks_like_one_decoded_whole(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (16, 12, 3), dtype=np.uint8)).resize((384, 512), Image.Resampling.BICUBIC)
    file = save(tmp_path / "a.jpg", smooth, quality=95)
    fast = images.decode(file, Geometry(64, 64)).astype(int)
    whole = Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC, (0, 64, 384, 448))
    assert np.abs(fast - np.asarray(whole).astype(int)).mean() < 1.5


def test_all_kinds_of_files_become_upright_rgb(tmp_path):
    """A bright left half must stay on the left (on top, where EXIF says the camera was turned)."""
    half = np.zeros((32, 32), dtype=np.uint8)
    half[:, :16] = 200
    grey = Image.fromarray(half)
    alpha = grey.convert("RGBA")
    alpha.putalpha(255)
    deep = Image.fromarray(half.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6  # shown turned by 90 degrees clockwise: the left half comes to the top
    files = {
        "grey.jpg": save(tmp_path / "grey.jpg", grey),
        "cmyk.jpg": save(tmp_path / "cmyk.jpg", grey.convert("CMYK"), quality=95),
        "alpha.png": save(tmp_path / "alpha.png", alpha),
        "palette.png": save(tmp_path / "palette.png", grey.convert("P")),
        "deep.png": save(tmp_path / "deep.png", deep),
        "lying.png": save(tmp_path / "lying.png", grey.convert("RGB"), format="JPEG", quality=95),
        "turned.jpg": save(tmp_path / "turned.jpg", grey.convert("RGB"), exif=exif, quality=95),
    }
    for name, file in files.items():
        pixels = images.decode(file, Geometry(16, 16)).astype(int)
        assert pixels.shape == (16, 16, 3)
        bright, dark = (pixels[:6], pixels[10:]) if name == "turned.jpg" else (pixels[:, :6], pixels[:, 10:])
        assert bright.mean() == pytest.approx(200, abs=8), name
        assert dark.mean() == pytest.approx(0, abs=8), name


@pytest.mark.parametrize(("index", "message"), [
    (1, r"empty.jpg: not a readable image \(0 bytes"),
    (2, r"text.jpg: not a readable image \(13 bytes"),
    (3, r"cut.jpg: not a readable image .*[Tt]runcated"),
])  # fmt: skip
def test_bad_image_is_named(bad_files, index, message):
    with pytest.raises(InputError, match=message):
        images.decode(bad_files[index], Geometry(16, 16))
