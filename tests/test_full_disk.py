"""A disk that is really full, read-only or gone: a small tmpfs. It takes root, and is run on demand.

sudo python -m pytest tests/test_full_disk.py -m slow
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys

import losses_picture
import pytest
from conftest import SETTINGS, assert_same_run, without_pictures

import compare
import demo
import engine
import ensemble
import errors
import files
import images
import inference
import leaderboard
import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a tmpfs takes Linux and root"),
]


@pytest.fixture
def volume(tmp_path):
    """volume(MiB) mounts an empty volume; it is unmounted in the end."""
    place = tmp_path / "volume"
    place.mkdir()

    def mount(size):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", place], check=True)
        return place

    yield mount
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(volume):
    """Leave not a byte."""
    with contextlib.suppress(OSError), open(volume / "filler", "wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass


def remount(volume, how):
    subprocess.run(["mount", "-o", f"remount,{how}", volume], check=True)


def command(data, cache, volume):
    places = ["--data-dir", data, "--cache-dir", cache, "--output-dir", volume / "runs", "--name", "mine"]
    return [*places, *SETTINGS]


def after_steps(monkeypatch, number, happens):
    """Let something happen after so many training steps."""
    steps, train_step = itertools.count(1), engine.train_step
    monkeypatch.setattr(engine, "train_step", lambda *args: (train_step(*args), next(steps) == number and happens()))


def refused(capsys, main, argv):
    """The one error line of a command that ends with exit code 2."""
    capsys.readouterr()
    assert errors.run(lambda: main(list(map(str, argv)))) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and err.splitlines()[-1].startswith("error: ")
    return err.splitlines()[-1]


@pytest.fixture(scope="module")
def never_full(fit):
    return fit(name="never_full")


@pytest.mark.parametrize("step", [3, 8, 13])
def test_a_disk_that_fills_up_in_training(never_full, shared_data, workplace, volume, monkeypatch, capsys, step):
    """In the first, the second epoch, and the next fold: told in a line; with room again it goes on to the same bits."""
    place = volume(40)
    after_steps(monkeypatch, step, lambda: fill(place))
    run = place / "runs" / "mine"
    with without_pictures():
        error = refused(capsys, train.main, [*command(shared_data, workplace / "cache", place), "--save-minutes", "0.00001"])
        assert f"error: {run}/fold{step // 10}/" in error and "can't be written (No space left on device): " in error
        needed = f"are needed, and 0 bytes are free on volume {place}"
        assert f"{needed}; make room there. Go on with: python train.py --resume" in error
        assert not [path for path in place.rglob(".*") if path.is_file()]
        error = refused(capsys, train.main, ["--resume", run, "--quiet"])
        assert error.startswith(f"error: {run}/") and needed in error
        (place / "filler").unlink()
        monkeypatch.undo()
        assert train.main(["--resume", str(run), "--quiet"]) == 0
    assert_same_run(never_full, run)


@pytest.mark.parametrize("what", ["read-only", "gone"])
def test_a_volume_that_becomes_read_only_and_a_folder_that_goes(shared_data, workplace, volume, monkeypatch, capsys, what):
    place = volume(40)
    run = place / "runs" / "mine"
    after_steps(monkeypatch, 8, lambda: remount(place, "ro") if what == "read-only" else shutil.rmtree(run))
    with without_pictures():
        error = refused(capsys, train.main, [*command(shared_data, workplace / "cache", place), "--save-minutes", "0.00001"])
        if what == "gone":
            assert f"{run}/fold0/last.pt: can't be written (there is no folder {run}/fold0): " in error
            assert error.endswith(f"are free on volume {place}; was it moved or deleted?")
            assert list(place.rglob("*")) == [place / "runs"]
            return
        assert "fold0/last.pt: can't be written (Read-only file system): " in error
        assert f" on volume {place}; give it a" in error
        assert "Read-only file system" in refused(capsys, train.main, ["--resume", run, "--quiet"])
        remount(place, "rw")
        monkeypatch.undo()
        assert train.main(["--resume", str(run), "--quiet"]) == 0


def test_too_little_room_for_the_cache(shared_data, volume, tmp_path, capsys):
    """It is told for inference.py too, before an image is decoded: 168 images of 640 x 480 are 147.7 MiB."""
    place = volume(2)
    argv = [*command(shared_data, place / "cache", tmp_path), "--img-size", "640", "480"]
    needed = "147.7 MiB (decoded images) are needed, and 2.0 MiB are free on volume"
    assert refused(capsys, train.main, argv).startswith(f"error: --cache-dir {place}/cache: {needed}")
    assert list(place.iterdir()) == [] and not (tmp_path / "runs").exists()


def test_every_other_script_on_a_full_volume(runs, fit, shared_data, workplace, volume, capsys, monkeypatch):
    """inference, ensemble, compare, leaderboard, the demo set and pictures: a line, and the volume is as it was."""
    place = volume(12)
    shutil.copytree(runs["label"], place / "runs" / "mine", ignore=shutil.ignore_patterns("eval*", "submission.csv"))
    run = place / "runs" / "mine"
    data = ["--data-dir", shared_data, "--cache-dir", workplace / "cache", "--device", "cpu", "--quiet"]
    assert inference.main(list(map(str, ["--models", runs["label"], runs["multi"], *data]))) == 0
    fill(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    page = f"{place}/a.html: can't be written (No space left on device)"
    for main, argv, named in (
        (inference.main, ["--models", run, *data], f"{run}/fold0/eval.csv: can't be written (No space"),
        (ensemble.main, ["--models", runs["label"], "--output-dir", place / "out", *data], f"{place}/out/01-soft-1runs/"),
        (compare.main, [runs["label"], runs["multi"], *data[:2], "--out", place / "a.html"], page),
        (leaderboard.main, [place / "runs", "--html", place / "a.html"], page),
        (leaderboard.main, [place / "runs", "--lb", "mine=0.7"], f"{run}/lb.json: can't be written (No space left on device)"),
        (demo.main, ["--out", place / "demo"], f"{place}/demo: 62.3 MiB (the demo set) are needed, and 0 bytes are free"),
        (losses_picture.main, ["--out", place / "a.png"], f"{place}/a.png: can't be written (No space left on device)"),
    ):
        error = refused(capsys, main, argv)
        assert f"error: {named}" in error and f"on volume {place}; make room there" in error
        shutil.rmtree(place / "out", ignore_errors=True)
        assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()} == before, named
    (place / "filler").unlink()
    assert inference.main(list(map(str, ["--models", run, *data]))) == 0
    remount(place, "ro")  # what is made already can be read where nothing can be written
    assert ensemble.main(list(map(str, ["--models", run, "--output-dir", place.parent / "out", *data]))) == 0
    assert "Read-only file system" in refused(capsys, inference.main, ["--models", run, "--tta", "hflip", *data])


def test_a_drawing_that_fills_the_volume(volume, monkeypatch, capsys):
    place = volume(1)
    monkeypatch.setattr(demo, "IMAGE_BYTES", 1)
    error = refused(capsys, demo.main, ["--out", place / "set", "--people", "30", "--eval-people", "1"])
    assert f"error: {place}/set: can't be written (No space left on device): " in error
    assert list(place.iterdir()) == []


def test_a_cache_that_fills_the_volume(shared_data, volume, tmp_path, monkeypatch, capsys):
    """The estimate is taken away: what the kernel says while room is reserved is told the same way."""
    place = volume(1)
    for module in (files, images):
        monkeypatch.setattr(module, "check_room", lambda needs: None)
    error = refused(capsys, train.main, [*command(shared_data, place / "cache", tmp_path), "--img-size", "64", "64"])
    assert ".npy: can't be written (No space left on device): " in error
    assert [path.suffix for path in (place / "cache").iterdir()] == [".lock"]
