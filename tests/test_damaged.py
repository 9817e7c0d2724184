"""Each damaged or odd input of damaged.py is read right, or refused in one line that names its file and line; and what the
system can't read just now is not called damaged.
"""

import builtins
import errno
import io
import mmap
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from damaged import BOTTOM, IMAGES, LEFT, NAMES, RIGHT, SAME, TABLES, TOP, WHOLE, whole, write_table

import dataset
import engine
import errors
import experiment
import files
import images
import model
import predictions
import sweep
from errors import InputError
from images import Geometry

LOOK = {
    LEFT: (np.s_[:, :6], np.s_[:, 10:]),
    TOP: (np.s_[:6], np.s_[10:]),
    RIGHT: (np.s_[:, 10:], np.s_[:, :6]),
    BOTTOM: (np.s_[10:], np.s_[:6]),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name, tmp_path):
    content, expected = IMAGES[name]
    file = tmp_path / name
    file.write_bytes(content)
    for read in (lambda: images.decode(file, Geometry(16, 16)), lambda: np.asarray(images.open_rgb(file).resize((16, 16)))):
        if expected in LOOK:
            bright, dark = (read()[part].astype(int) for part in LOOK[expected])
            assert bright.mean() == pytest.approx(200, abs=8) and dark.mean() < 8
        else:
            with pytest.raises(InputError) as refused:
                read()
            assert str(refused.value).startswith(f"{file}: ") and expected in str(refused.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_images_cut_anywhere(kind, tmp_path):
    """What a cut file still shows is what the whole one shows, or nothing."""
    file, content = tmp_path / "cut.jpg", whole(kind)
    file.write_bytes(content)
    right = images.decode(file, Geometry(16, 16))
    refused = 0
    for end in np.linspace(0, len(content), 40, endpoint=False).astype(int):
        file.write_bytes(content[:end])
        try:
            shown = images.decode(file, Geometry(16, 16))
        except InputError as error:
            refused += str(error).startswith(f"{file}: not a readable image ({end} bytes")
        else:
            np.testing.assert_array_equal(shown, right, err_msg=f"cut at {end}")
            refused += 1
    assert refused == 40


def test_what_is_no_file_is_no_image_of_a_person(tmp_path):
    """A folder, a broken link and a pipe (which would be waited for) are passed over, as if they were not there."""
    person = tmp_path / "train" / "images" / "a"
    person.mkdir(parents=True)
    for kind in dataset.IMAGE_KINDS:
        (person / f"{kind}.jpg").write_bytes(whole("JPEG"))
    for kind in ("mask1", "mask2", "mask3"):
        (person / f"{kind}.jpg").unlink()
    (person / "mask1.jpg").mkdir()
    (person / "mask2.jpg").symlink_to("nowhere")
    os.mkfifo(person / "mask3.jpg")
    people = pd.DataFrame({"path": ["a"], "id": ["a"], "gender": [0], "age": [20]})
    with pytest.raises(InputError, match=r"images/a: mask1, mask2, mask3 missing; complete it or pass --skip-bad-images"):
        dataset.list_images(tmp_path, people)
    assert len(dataset.list_images(tmp_path, people, skip_missing=True)) == 4


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """A data folder with the eval images of info.csv, and a run folder, all tables as they should be."""
    root = tmp_path_factory.mktemp("whole")
    for folder in ("train", "eval/images"):
        (root / folder).mkdir(parents=True)
    for name in NAMES:
        (root / "eval" / "images" / name).touch()
    write_table(root / "train", "train.csv")
    return root


def reader(competition, folder):
    """{file: a function that reads it from a folder}."""
    people = dataset.read_people(competition)
    return {
        "train.csv": lambda: dataset.read_people(folder.parent),
        "info.csv": lambda: pd.DataFrame({"ImageID": dataset.read_eval(folder.parent)[0]}),
        "submission.csv": lambda: pd.DataFrame(dict(zip(("ImageID", "ans"), dataset.read_submission(folder / "submission.csv")))),
        "oof.csv": lambda: predictions.read_table(folder / "oof.csv", "gender", ("image", "path"))[["image", "path", "fold", "target", "p0", "p1"]],
        "eval.csv": lambda: predictions.read_table(folder / "eval.csv", "gender", ("ImageID",)),
        "folds.csv": lambda: experiment.read_folds(folder),
        "log.csv": lambda: experiment.read_log(folder / "log.csv"),
        "fixes.csv": lambda: dataset.read_label_fixes(folder / "fixes.csv", people, 0.9)[0],
    }  # fmt: skip


@pytest.fixture(scope="module")
def right(competition, tmp_path_factory):
    """{file: what is read from it as it should be}."""
    folder = tmp_path_factory.mktemp("right") / "train"
    folder.mkdir()
    (folder.parent / "eval").symlink_to(competition / "eval")
    for file in WHOLE:
        write_table(competition / "eval" if file == "info.csv" else folder, file)
    return {file: read() for file, read in reader(competition, folder).items()}


@pytest.mark.parametrize(("file", "done", "change", "expected"), TABLES, ids=[f"{case[0]}: {case[1]}" for case in TABLES])
def test_tables(file, done, change, expected, competition, right, tmp_path, capsys):
    folder = tmp_path / ("eval" if file == "info.csv" else "train")
    folder.mkdir()
    if file == "info.csv":
        (folder / "images").symlink_to(competition / "eval" / "images")
    path = write_table(folder, file, change)
    read = reader(competition, folder)[file]
    if expected is SAME:
        pd.testing.assert_frame_equal(read(), right[file], check_dtype=True)
    elif expected == "reordered":
        pd.testing.assert_frame_equal(read(), right[file][::-1].reset_index(drop=True))
    elif isinstance(expected, int):
        assert len(read()) == expected
    else:
        assert errors.run(read) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: {path}") and line.count("\n") == 1 and expected in line, line
        assert len(line) < 6000 + len(str(path))


def test_eval_images_that_info_leaves_out_are_told(competition, tmp_path, capsys):
    shutil.copytree(competition / "eval" / "images", tmp_path / "eval" / "images")
    (tmp_path / "eval" / "images" / "other.JPG").write_bytes(b"")
    write_table(tmp_path / "eval", "info.csv", lambda text: "".join(text.splitlines(keepends=True)[:3]))
    assert dataset.read_eval(tmp_path)[0] == NAMES[:2]
    assert f"info.csv: leaves out 3 images of {tmp_path}/eval/images, such as {NAMES[2]}" in capsys.readouterr().err


# ---- the system's own errors ---------------------------------------------------------------------------------------

READERS = {
    "last.pt": lambda path: engine.load_state(path.parent.parent, 0),
    "best.safetensors": model.read_metadata,
    "best.safetensors (all of it)": model.load,
    "best.safetensors (whose?)": model.is_trained,
    "best.safetensors (--weights)": model.read_state_dict,
    "weights.pth": model.read_state_dict,
    "cache.npy": lambda path: images.read_array(path, np.uint8, (4,)),
    "fold.json": files.read_json,
    "args.yaml": lambda path: files.read_yaml(path, "train it anew"),
    "args.yaml (its comment)": lambda path: experiment.write_args(
        path.parent, experiment.read_args(path.parent) | {"epochs": 2}
    ),
    "oof.csv": lambda path: predictions.read_table(path, "gender", ("image", "path")),
    "folds.csv": lambda path: experiment.read_folds(path.parent),
    "folds.csv (its people)": lambda path: experiment.validated_people(path.parent),
    "fixes.csv": files.file_digest,
    "plan.txt": sweep.read_plan,
    "image.png": images.open_rgb,
    "tiff_inside.jpg": lambda path: images.decode(path, Geometry(8, 8)),
}


@pytest.fixture(scope="module")
def readable(tmp_path_factory):
    """A folder with the files of READERS, all whole."""
    folder = tmp_path_factory.mktemp("readable") / "fold0"
    folder.mkdir()
    engine.save_state(folder.parent, 0, {"epoch": 1})
    facts = {"model": "test_resnet", "target": "mask", "img_size": [32, 24], "mean": [0.5] * 3, "std": [0.5] * 3}
    state = {name: value.contiguous() for name, value in model.create("test_resnet", "mask", (32, 24)).state_dict().items()}
    model.save_weights(state, facts | {"options": {"memory_format": "contiguous"}}, folder / "best.safetensors")
    torch.save(state, folder / "weights.pth")
    np.save(folder / "cache.npy", np.zeros(4, np.uint8))
    (folder / "fold.json").write_text("{}")
    (folder / "args.yaml").write_text("# train.py\ntarget: gender\nepochs: 1\n")
    for file in ("oof.csv", "folds.csv", "fixes.csv"):
        write_table(folder, file)
    (folder / "label_fixes.csv").write_bytes(b"\n")
    (folder / "plan.txt").write_text("baseline: --epochs 1\n")
    for name, kind in (("image.png", "PNG"), ("tiff_inside.jpg", "TIFF")):
        (folder / name).write_bytes(whole(kind))
    return folder


class Lost(io.FileIO):
    """A file that can be opened, and then not be read."""

    def readinto(self, _buffer):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def readall(self):
        self.readinto(None)


def lose(monkeypatch, path, code):
    """From here on the system can't open a file, or with ESTALE open but not read it."""
    real = io.open

    def opened(name, mode="r", *args, **options):
        if isinstance(name, int) or os.fspath(name) != str(path):
            return real(name, mode, *args, **options)
        if code != errno.ESTALE:
            raise OSError(code, os.strerror(code), str(path))
        return io.BufferedReader(Lost(path)) if "b" in mode else io.TextIOWrapper(io.BufferedReader(Lost(path)))

    for module in (builtins, io):
        monkeypatch.setattr(module, "open", opened)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", READERS)
def test_what_the_system_cannot_read_now_is_not_called_damaged(name, code, readable, monkeypatch):
    path, read = readable / name.partition(" (")[0], READERS[name]
    read(path)
    lose(monkeypatch, path, code)
    with pytest.raises(errors.Unreadable) as told:
        read(path)
    way = "make it readable and try again" if code == errno.EACCES else "try again"
    assert str(told.value).removeprefix("--weights ") == f"{path}: can't be read now ({os.strerror(code)}); {way}"


def test_a_disk_that_maps_no_files_does_not_make_them_damaged(readable, monkeypatch):
    def unable(*_args, **_options):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", unable)
    with pytest.raises(errors.Unreadable, match=r"cache.npy: can't be read now \(No such device\); try again"):
        READERS["cache.npy"](readable / "cache.npy")


def test_a_cache_that_cannot_be_read_on_is_not_damaged(tmp_path, monkeypatch):
    np.save(tmp_path / "cache.npy", np.zeros((2, 8, 8, 3), np.uint8))
    store = images.ImageStore(np.load(tmp_path / "cache.npy", mmap_mode="r"), "cpu", "host")

    def lost(*_args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", lost)
    with pytest.raises(errors.Unreadable, match=r"cache.npy: can't be read now \(Input/output error\); try again"):
        next(store.batches([np.array([1])]))


def test_a_fold_that_cannot_be_looked_up_now_is_not_taken_for_one_that_is_not_trained(tmp_path, monkeypatch):
    """Else it would be trained anew over what is there."""
    (tmp_path / "fold0").mkdir()
    real = os.stat

    def stat(path, **options):
        if os.fspath(path).endswith(("fold.json", "last.pt", "final.safetensors")):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    for look in (experiment.done_folds, lambda run: experiment.weights_file(run, 0)):
        with pytest.raises(OSError, match="Stale file handle"):
            look(tmp_path)


def test_a_folder_that_the_system_cannot_look_up_now_is_told_as_that(tmp_path, monkeypatch):
    def lost(*_args, **_options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "scandir", lost)
    with pytest.raises(errors.Unreadable, match=r"can't be read now \(Input/output error\); try again"):
        dataset.person_images(tmp_path)


def test_an_error_of_the_device_is_not_blamed_on_the_state(tmp_path, monkeypatch):
    def failing(_state):
        raise RuntimeError("CUDA error: unspecified launch failure")

    with pytest.raises(RuntimeError, match="CUDA error"):
        engine.restore_state(SimpleNamespace(load_state_dict=failing), {}, tmp_path / "last.pt")


def test_weights_that_memory_is_too_small_for_are_not_called_damaged(readable, monkeypatch):
    def run_out(*_args, **_options):
        raise MemoryError

    for module, name in ((model, "create"), (safetensors.torch, "load")):
        monkeypatch.setattr(module, name, run_out)
        with pytest.raises(MemoryError):
            model.load(readable / "best.safetensors")
