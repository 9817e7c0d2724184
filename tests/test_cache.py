import json
import multiprocessing
import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import cache
from cache import Geometry
from errors import InputError


def gradient(width, height):
    """An image whose red is the column and green the row, so that a crop shows where it was taken."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def save(path, image, **options):
    image.save(path, **options)
    return path


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
        cache.decode(file, Geometry(16, 16, (32, 32)))


def test_crop_without_resize_takes_the_very_pixels(tmp_path):
    """Centre 20 x 10 of 40 x 30: columns 10..29, rows 10..19."""
    pixels = cache.decode(save(tmp_path / "a.png", gradient(40, 30)), Geometry(10, 20, (10, 20)))
    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(10, 30))
    np.testing.assert_array_equal(pixels[:, 0, 1], np.arange(10, 20))


def test_jpeg_decoded_smaller_looks_like_one_decoded_whole(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (16, 12, 3), dtype=np.uint8)).resize((384, 512), Image.Resampling.BICUBIC)
    file = save(tmp_path / "a.jpg", smooth, quality=95)
    fast = cache.decode(file, Geometry(64, 64)).astype(int)
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
    exif[cache.EXIF_ORIENTATION] = 6  # shown turned by 90 degrees clockwise: the left half comes to the top
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
        pixels = cache.decode(file, Geometry(16, 16)).astype(int)
        assert pixels.shape == (16, 16, 3)
        bright, dark = (pixels[:6], pixels[10:]) if name == "turned.jpg" else (pixels[:, :6], pixels[:, 10:])
        assert bright.mean() == pytest.approx(200, abs=8), name
        assert dark.mean() == pytest.approx(0, abs=8), name


@pytest.fixture
def bad_files(tmp_path):
    whole = save(tmp_path / "whole.jpg", gradient(64, 64)).read_bytes()
    contents = {"empty.jpg": b"", "text.jpg": b"not a picture", "cut.jpg": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in ("whole.jpg", *contents)]


@pytest.mark.parametrize(("index", "message"), [
    (1, r"empty.jpg: not a readable image \(0 bytes"),
    (2, r"text.jpg: not a readable image \(13 bytes"),
    (3, r"cut.jpg: not a readable image .*[Tt]runcated"),
])  # fmt: skip
def test_bad_image_is_named(bad_files, index, message):
    with pytest.raises(InputError, match=message):
        cache.decode(bad_files[index], Geometry(16, 16))


def test_bad_images_stop_the_cache_or_are_counted_and_listed(bad_files, tmp_path, capsys):
    place = tmp_path / "cache"
    with pytest.raises(InputError, match=r"empty.jpg: not a readable image.*--skip-bad-images"):
        cache.open_cache(bad_files, Geometry(16, 16), place, skip_bad=False)
    assert not list(place.glob("*.npy")) and not list(place.glob("*.tmp"))
    images, bad = cache.open_cache(bad_files, Geometry(16, 16), place, skip_bad=True)
    assert (len(images), bad) == (4, [1, 2, 3])
    assert capsys.readouterr().err.count("skipped: ") == 3
    with pytest.raises(InputError, match=r"empty.jpg.*3 bad in all"):
        cache.open_cache(bad_files, Geometry(16, 16), place)


@pytest.fixture
def files(tmp_path):
    return [save(tmp_path / f"{n}.png", gradient(20 + n, 20)) for n in range(6)]


def test_cache_is_built_once_and_equals_decode(files, tmp_path, monkeypatch):
    geometry = Geometry(8, 8)
    images, bad = cache.open_cache(files, geometry, tmp_path / "cache")
    assert images.dtype == np.uint8 and bad == []
    np.testing.assert_array_equal(images, np.stack([cache.decode(file, geometry) for file in files]))
    monkeypatch.setattr(cache, "decode", None)  # from here decoding would fail
    again, _ = cache.open_cache(files, geometry, tmp_path / "cache")
    np.testing.assert_array_equal(again, images)


def test_a_system_without_fallocate_builds_too(files, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    images, _ = cache.open_cache(files, Geometry(8, 8), tmp_path / "cache")
    np.testing.assert_array_equal(images[2], cache.decode(files[2], Geometry(8, 8)))


def test_key_follows_all_that_changes_pixels(files):
    key = cache.cache_key(files, Geometry(8, 8))
    assert key == cache.cache_key(files, Geometry(8, 8))
    keys = {key, cache.cache_key(files, Geometry(8, 9)), cache.cache_key(files, Geometry(8, 8, (16, 16)))}
    keys.add(cache.cache_key(files[::-1], Geometry(8, 8)))
    os.utime(files[3], ns=(1, 1))
    keys.add(cache.cache_key(files, Geometry(8, 8)))
    assert len(keys) == 5


def _open(files, place, results):
    images, _ = cache.open_cache(files, Geometry(8, 8), place, quiet=True)
    results.put(int(images.astype(int).sum()))


def test_two_processes_at_once_build_one_cache(files, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_open, args=(files, tmp_path / "cache", results)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(sums) == 1
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".lock", ".npy"]


def test_waits_for_the_one_who_builds(files, tmp_path, capsys):
    place = tmp_path / "cache"
    place.mkdir()
    lock = place / f"{cache.cache_key(files, Geometry(8, 8))}.lock"
    with cache._exclusive(lock, ""):
        waiting = threading.Thread(target=cache.open_cache, args=(files, Geometry(8, 8), place))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and not list(place.glob("*.npy"))
    waiting.join(30)
    assert json.loads(next(place.glob("*.json")).read_text())["images"] == 6
    assert "waiting for another process" in capsys.readouterr().err


def test_cache_dir_that_cannot_be_made(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--cache-dir .*file/cache: cannot be made"):
        cache.open_cache(files, Geometry(8, 8), tmp_path / "file" / "cache")


@pytest.mark.parametrize("place", ["host", "device"])
def test_store_yields_the_rows_asked_for(place):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 3, 3), dtype=np.uint8)
    groups = [np.array([3, 1, 4]), np.array([49]), np.array([0, 0])] + [np.array([n]) for n in range(20)]
    store = cache.ImageStore(images, "cpu", place)
    batches = list(store.batches(groups))
    assert len(batches) == len(groups)
    for group, batch in zip(groups, batches):
        assert batch.dtype == torch.uint8
        np.testing.assert_array_equal(batch.numpy(), images[group])


def test_store_on_the_host_stops_its_thread_when_left_early():
    store = cache.ImageStore(np.zeros((9, 2, 2, 3), dtype=np.uint8), "cpu", "host")
    before = threading.active_count()
    batches = store.batches([np.array([n]) for n in range(9)])
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_epoch_order_is_a_pure_function_and_shows_every_row():
    rows = np.arange(100, 200)
    order = cache.epoch_order(rows, 42, 0, 1)
    np.testing.assert_array_equal(order, cache.epoch_order(rows, 42, 0, 1))
    np.testing.assert_array_equal(np.sort(order), rows)
    for other in ((43, 0, 1), (42, 1, 1), (42, 0, 2)):
        assert (order != cache.epoch_order(rows, *other)).any()


def test_draw_seed_tells_streams_apart():
    assert cache.draw_seed("order", 1, 2, 3) != cache.draw_seed("augment", 1, 2, 3)
    assert cache.draw_seed("order", 1, 2, 3) != cache.draw_seed("order", 1, 2, 3, 0)
    assert 0 <= cache.draw_seed("order", 1) < 2**63
