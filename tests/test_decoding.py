"""decoding.py: every kind of file becomes the same upright RGB, cut to the same geometry."""

import numpy as np
import pytest
import torch
from conftest import gradient, save
from PIL import Image

import images
from errors import InputError
from images import Geometry


def test_crop_larger_than_the_image_names_the_file(tmp_path):
    file = save(tmp_path / "a.png", gradient(40, 30))
    with pytest.raises(InputError, match=r"a.png: --crop 32 32 is larger than the image \(30 high, 40 wide\)"):
        images.decode(file, Geometry(16, 16, (32, 32)))


def test_crop_without_resize_takes_the_very_pixels(tmp_path):
    """Centre 20 x 10 of 40 x 30: columns 10..29, rows 10..19."""
    pixels = images.decode(save(tmp_path / "a.png", gradient(40, 30)), Geometry(10, 20, (10, 20)))
    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(10, 30))
    np.testing.assert_array_equal(pixels[:, 0, 1], np.arange(10, 20))


def test_face_crop_takes_the_very_pixels(tmp_path):
    """A face of columns 8..17, rows 6..15 and no margin, at its own size; then with half of it around: 3..22, 1..20."""
    file, face = save(tmp_path / "a.png", gradient(40, 30)), (8, 6, 18, 16)
    pixels = images.decode(file, Geometry(10, 10, None, 0.0), face)
    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(8, 18))
    np.testing.assert_array_equal(pixels[:, 0, 1], np.arange(6, 16))
    pixels = images.decode(file, Geometry(20, 20, None, 0.5), face)
    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(3, 23))
    np.testing.assert_array_equal(pixels[:, 0, 1], np.arange(1, 21))


def test_a_face_is_cut_out_of_a_jpeg_at_full_size_and_a_centre_crop_is_its_fallback(tmp_path):
    """Halving the JPEG would be too coarse for a small face; both crops follow Pillow's."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)).resize((384, 512), Image.Resampling.BICUBIC)
    file = save(tmp_path / "a.jpg", smooth, quality=95)
    whole = Image.open(file).convert("RGB")
    geometry = Geometry(64, 64, (320, 320), 0.5)
    for face, box in (((100, 120, 140, 160), (80, 100, 160, 180)), (None, (32, 96, 352, 416))):
        wanted = np.asarray(whole.resize((64, 64), Image.Resampling.BICUBIC, box)).astype(int)
        assert np.abs(images.decode(file, geometry, face).astype(int) - wanted).mean() < 2


def test_jpeg_decoded_smaller_looks_like_one_decoded_whole(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (16, 12, 3), dtype=np.uint8)).resize((384, 512), Image.Resampling.BICUBIC)
    file = save(tmp_path / "a.jpg", smooth, quality=95)
    fast = images.decode(file, Geometry(64, 64)).astype(int)
    whole = Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC, (0, 64, 384, 448))
    assert np.abs(fast - np.asarray(whole).astype(int)).mean() < 1.5


@pytest.mark.parametrize("size", [(224, 224), (128, 96), (300, 40), (600, 600)])
def test_resizing_follows_pillow(tmp_path, size):
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 256, (90, 70, 3), dtype=np.uint8))
    file = save(tmp_path / "a.png", noise)
    geometry = Geometry(*size)
    box = tuple(round(edge) for edge in geometry.box(70, 90))
    wanted = np.asarray(noise.crop(box).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(images.decode(file, geometry).astype(int) - wanted).max() <= 2


def test_building_a_cache_leaves_the_number_of_threads(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        images.open_cache([save(tmp_path / "a.png", gradient(20, 20))], Geometry(8, 8), tmp_path / "cache")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
