"""Each damaged or odd input of damaged.py is read right, or refused in one line that names its file and line."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from damaged import BOTTOM, IMAGES, LEFT, NAMES, RIGHT, SAME, TABLES, TOP, WHOLE, whole, write_table

import dataset
import decoding
import errors
import experiment
import images
import predictions
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
    for read in (lambda: decoding.decode(file, Geometry(16, 16)), lambda: np.asarray(images.open_rgb(file).resize((16, 16)))):
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
    right = decoding.decode(file, Geometry(16, 16))
    refused = 0
    for end in np.linspace(0, len(content), 40, endpoint=False).astype(int):
        file.write_bytes(content[:end])
        try:
            shown = decoding.decode(file, Geometry(16, 16))
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
        "submission.csv": lambda: pd.DataFrame(dict(zip(("ImageID", "ans"), predictions.read_submission(folder / "submission.csv")))),
        "oof.csv": lambda: predictions.read(folder / "oof.csv", "gender", ("image", "path"))[["image", "path", "fold", "target", "p0", "p1"]],
        "eval.csv": lambda: predictions.read(folder / "eval.csv", "gender", ("ImageID",)),
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
