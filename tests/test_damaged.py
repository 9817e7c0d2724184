"""Damaged and odd files: each is read right or refused in one line that names it; what the system can't read just now is not
called damaged.

    HYPOTHESIS_PROFILE=long python -m pytest -n 2 tests/test_damaged.py -k any_change      # 3,000 changes a file, others each time
"""

import builtins
import contextlib
import csv
import errno
import io
import json
import mmap
import os
import struct
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from helpers import make_fit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

import dataset
import engine
import errors
import experiment
import files
import images
import inference
import leaderboard
import model
import options
import predictions
import report
import sweep
from errors import InputError
from images import Geometry

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
FUZZ = settings(max_examples=3000 if LONG else 20, deadline=None, derandomize=not LONG, suppress_health_check=[*HealthCheck])
TINY = Geometry(4, 4)

SIDE = 32
LEFT, TOP, RIGHT, BOTTOM = "left", "top", "right", "bottom"  # where the bright half is seen of what is read
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def half(mode):
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    pixels[:, : SIDE // 2] = 200
    return Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)


def whole(kind, mode="RGB", **options):
    """The bytes of that picture in a format."""
    stream = io.BytesIO()
    half(mode).save(stream, kind, quality=95, lossless=True, **options)
    return stream.getvalue()


def animated(kind):
    """The bytes of the picture, then of two that are dark all over."""
    dark = Image.new("RGB", (SIDE, SIDE))
    return whole(kind, save_all=True, append_images=[dark, dark.point(lambda value: 9)])


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def png(width, height, depth, pixels):
    """The bytes of a PNG in RGB of any header, also of one that lies, or of 16 bits a colour, which Pillow can't write."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    made = (struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


DEEP_ROW = b"\0" + struct.pack(">H", 200 * 257) * 3 * (SIDE // 2) + bytes(6 * (SIDE // 2))
# An EXIF block that says to show the picture turned (6), and the resolution -1 / 0, which Pillow can't write again.
ON_ITS_SIDE = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + struct.pack("<HHIIIii", 0x11A, 10, 1, 38, 0, -1, 0)
ON_ITS_SIDE = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + ON_ITS_SIDE
POINTS_OUTSIDE = b"Exif\0\0II*\0\xff\xff\xff\x0f"
HUGE_TEXT = PngImagePlugin.PngInfo()
HUGE_TEXT.add(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)), after_idat=True)
PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(/tmp/owned) (w) file closefile\nshowpage\n"
# {file name: (its content, where the bright half is seen or what is said)}; test_images_cut_anywhere has those that are cut
IMAGES = {
    **{f"{kind} inside.jpg": (whole(kind), LEFT) for kind in KINDS},
    **{f"{mode}.png": (whole("PNG", mode), LEFT) for mode in ("1", "L", "P", "LA", "RGBA", "I;16")},
    **{f"{mode}.jpg": (whole("JPEG", mode), LEFT) for mode in ("L", "CMYK")},
    **{f"animated {kind}": (animated(kind), LEFT) for kind in ("GIF", "PNG", "WEBP", "MPO")},
    **{f"turned {turn}": (whole("JPEG", exif=turned(turn)), seen) for turn, seen in ((2, RIGHT), (3, RIGHT), (6, TOP), (8, BOTTOM), (9, LEFT))},
    **{f"broken EXIF {kind}": (whole(kind, exif=POINTS_OUTSIDE), LEFT) for kind in ("JPEG", "PNG", "WEBP")},
    **{f"odd EXIF {kind}": (whole(kind, exif=ON_ITS_SIDE), TOP) for kind in ("JPEG", "PNG", "WEBP")},
    "junk in its EXIF": (whole("WEBP", exif=b"junk"), LEFT),
    "huge profile": (whole("PNG", exif=ON_ITS_SIDE, icc_profile=bytes(2**21)), TOP),
    "huge text at the end": (whole("PNG", exif=ON_ITS_SIDE, pnginfo=HUGE_TEXT), TOP),
    "deep RGB": (png(SIDE, SIDE, 16, DEEP_ROW * SIDE), LEFT),
    "transparent palette": (whole("PNG", "P", transparency=bytes([255] * 256)), LEFT),
    "progressive.JPG": (whole("JPEG", progressive=True), LEFT),
    "-n 사진 (복사본) 'of' \"me\" <b>.jpg": (whole("JPEG") + b"\0junk" * 100, LEFT),
    "no bytes": (b"", "not a readable image (0 bytes"),
    "a page": (b"<!doctype html><title>404</title>", "not a readable image (33 bytes"),
    "a program": (PROGRAM, "cannot identify image file"),
    "huge.png": (png(60_000, 60_000, 8, b"\0"), "Image size (3600000000 pixels) exceeds limit"),
    "no width.png": (png(0, 10, 8, b"\0"), "not a readable image"),
}  # fmt: skip


def text_of(rows, **dialect):
    stream = io.StringIO()
    csv.writer(stream, **{"lineterminator": "\n", **dialect}).writerows(rows)
    return stream.getvalue()


def rows_of(content):
    return list(csv.reader(io.StringIO(content.decode())))


PEOPLE = [(f"{number:06d}", gender, "Asian", age, f"{number:06d}_{gender}_Asian_{age}") for number, gender, age in
          ((1, "male", 22), (2, "female", 29), (3, "male", 45), (4, "female", 60), (5, "male", 60))]  # fmt: skip
NAMES = [f"{number:040x}.jpg" for number in range(1, 5)]
OOF = [(f"{row[4]}/normal.jpg", row[4], number % 2, number % 2, 0.25, 0.75) for number, row in enumerate(PEOPLE)]
LOG = ("fold", "epoch", "lr", "train_loss", "val_loss", "val_f1", "val_acc", "seconds", "images_per_second")
WHOLE = {
    "train.csv": text_of([("id", "gender", "race", "age", "path"), *PEOPLE]),
    "info.csv": text_of([("ImageID", "ans"), *((name, 0) for name in NAMES)]),
    "submission.csv": text_of([("ImageID", "ans"), *zip(NAMES, (0, 7, 13, 17))]),
    "oof.csv": text_of([("image", "path", "fold", "target", "p0", "p1"), *OOF]),
    "eval.csv": text_of([("ImageID", "p0", "p1"), *((name, 0.5, 0.5) for name in NAMES)]),
    "age.csv": text_of([("ImageID", *(f"age_p{age}" for age in range(18, 61))), ("a.jpg", *[0.02] * 42, 0.16)]),
    "pseudo.csv": text_of([("fold", "ImageID", "p0", "p1"), (0, "a.jpg", 0.25, 0.75), (1, "a.jpg", 0.5, 0.5)]),
    "folds.csv": text_of([("path", "fold"), *((row[1], row[2]) for row in OOF)]),
    "log.csv": text_of([LOG, (0, 1, 0.001, 1.5, 1.25, 0.5, 0.5, 3.25, 100.0), (0, 2, 0.001, 1.25, 1.0, 0.75, 0.5, 3.0, 99.5)]),
    "fixes.csv": "path,column,value,confidence\n000001,gender,female,1\n000002_female_Asian_29,age,31,0.95\n",
}


def changed(old, new, count=1):
    """A change of a text: `old` becomes `new`, the first `count` times (-1: always)."""

    def change(text):
        assert old in text
        return text.replace(old, new, count)

    return change


def again(line):
    """A change of a text: one of its lines stands at its end too."""
    return lambda text: text + text.splitlines(keepends=True)[line]


SAME = "what the whole file says"
# (file, change of its text (to text or bytes), SAME, how many rows are read, or what is said with the file and its line)
TABLES = [
    ("train.csv", changed(",", "\t", -1), "line 1: tabs between the fields"),
    ("train.csv", lambda text: text.encode("utf-16"), "line 1: not in UTF-8 (byte 0xff); save it as CSV UTF-8"),
    ("train.csv", lambda text: text.replace("Asian", "한국", 1).encode("cp949"), "line 2: not in UTF-8 (byte 0xc7); save it as CSV UTF-8"),
    ("train.csv", changed("male", '"male'), "not a readable csv (unexpected end of data)"),
    ("train.csv", lambda text: text.replace("Asian,22", '"As\nian",22').replace(",45,", ",4x,"), "line 4: age '4x'"),
    ("train.csv", lambda text: text.replace("\n", ",\n").replace(",\n", "\n", 1), "line 2: 6 fields under a header of 5"),
    ("train.csv", changed("race", "age"), "line 1: column 'age' appears twice"),
    ("train.csv", again(2), "line 7: path '000002_female_Asian_29' appears twice"),
    ("train.csv", changed(",22,", ",22.0,"), SAME),
    ("train.csv", changed(",45,", ",45.5,"), "line 4: age '45.5' is not a whole number from 0 to 120"),
    ("train.csv", changed(",45,", f",{'9' * 5000},"), "line 4: age '999"),
    ("train.csv", changed("3,male", "3,unknown"), "line 4: gender 'unknown' is neither male nor female"),
    ("train.csv", lambda text: text + ",,,,\n", "line 7: id is empty; fill it in, or delete the row"),
    ("train.csv", changed("\n000003,", "\n1.23457e+17,"), "line 4: id '1.23457e+17' was made a number, as in a spreadsheet; take the original"),
    ("train.csv", changed("\n000003,", "\n1e05,"), 5),  # of hexadecimal digits
    ("train.csv", changed(",000003_male", ",../000003_male"), "line 4: path '../000003_male_Asian_45' is not the name of a folder in train/images"),
    ("info.csv", changed(NAMES[1], f"../images/{NAMES[1]}"), f"line 3: image '../images/{NAMES[1]}' is no file in"),
    ("submission.csv", changed(",13", ",13.0"), SAME),
    ("submission.csv", lambda text: f"{text}{NAMES[2]} ,1\n", f"line 6: ImageID '{NAMES[2]}' appears twice"),
    *(("submission.csv", changed(",13", f",{text}"), f"line 4: ans '{text}' is not a label; allowed: 0 to 17") for text in ("18", "12.5")),
    ("oof.csv", changed("0.25", "0.2\0", 2), "line 2: p0 "),  # pandas 2 ends a number there
    *(("oof.csv", changed("0.25", text), f"line 2: p0 {text!r} is not a number from 0 on") for text in ("", "nan", "inf", "-0.25")),
    ("oof.csv", changed("0.75", '"0,75"'), "line 2: p1 '0,75' is not a number from 0 on"),
    ("oof.csv", changed("0.25,0.75", "0,0"), "line 2: p0 to p1 sum to 0, not to 1; of logits take the softmax"),
    ("oof.csv", changed("0.25,0.75", "0.25,0.751", -1), 5),  # of three digits
    *(("oof.csv", changed(",0,0,0.25", f",0,{text},0.25"), f"line 2: target {text} is none of 0 to 1") for text in ("2", "0.5")),
    ("oof.csv", changed("p1", "p2"), "column 'p1' is missing, found image,path,fold,target,p0,p2. Did you mean p2 or p0?"),
    ("oof.csv", again(2), "line 7: image '000002_female_Asian_29/normal.jpg' appears twice"),
    ("eval.csv", changed("0.5,0.5", "1e308,1e308"), "line 2: p0 to p1 sum to inf, not to 1"),
    ("folds.csv", changed(",1\n", ",x\n"), "folds.csv: damaged (invalid literal for int() with base 10: 'x')"),
    ("log.csv", changed("1.25,0.5", "low,0.5"), "log.csv: damaged ("),
    ("fixes.csv", changed("\n000001", "\n999999"), "line 2: '999999' is neither a path nor an id"),
    ("fixes.csv", changed("gender", "race"), "line 2: column 'race' is none of gender, age, mask"),
    ("fixes.csv", changed(",female,1", ",woman,1"), "line 2: value 'woman' does not fit gender"),
    ("fixes.csv", changed("gender,female", "mask,normal"), "line 2: value 'normal' does not fit mask"),
    ("fixes.csv", changed(",31,", ",old,"), "line 3: value 'old' does not fit age"),
    ("fixes.csv", changed(",31,", ",31.0,"), SAME),
    ("fixes.csv", changed(",0.95", ","), SAME),
    *(("fixes.csv", changed("0.95", text), f"line 3: confidence '{text}' is not a number from 0 to 1") for text in ("nan", "sure", "7")),
]  # fmt: skip
LOOK = {LEFT: (np.s_[:, :6], np.s_[:, 10:]), TOP: (np.s_[:6], np.s_[10:])}
LOOK |= {RIGHT: LOOK[LEFT][::-1], BOTTOM: LOOK[TOP][::-1]}


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


@pytest.mark.parametrize("kind", KINDS)
def test_images_cut_anywhere(kind, tmp_path):
    """A cut file shows what the whole one shows, or nothing."""
    file, content = tmp_path / "cut.jpg", whole(kind)
    file.write_bytes(content)
    right = images.decode(file, TINY)
    for end in np.linspace(0, len(content), 40, endpoint=False).astype(int):
        file.write_bytes(content[:end])
        try:
            np.testing.assert_array_equal(images.decode(file, TINY), right, err_msg=f"cut at {end}")
        except InputError as error:
            assert str(error).startswith(f"{file}: not a readable image ({end} bytes")


@contextlib.contextmanager
def holding(path, content):
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def reader(read, holds):
    """A function that reads a file, of all that it takes `holds` is true."""

    def checked(path):
        found = read(path)
        assert holds(found)
        return found

    return checked


def summary(path):
    with holding(path.parents[1] / "summary.json", b""):
        predictions.write_summary(path.parents[1], "label", 0)


def record(path):
    experiment.scored_records(path.parents[1])  # which passes over what is damaged
    found = leaderboard.read_record(path.parent)
    assert found.target in dataset.TARGETS and 0 <= (found.oof_f1 or 0) <= 1 and 0 <= (found.lb or 0) <= 1


def sweep_job(path):
    (job,) = sweep.make_jobs(sweep.read_plan(path.parents[2] / "sweep.txt"), [1], path.parents[1])
    job.check()
    return job.is_finished, job.command()


def cached(path):
    files = [path.with_name("a.png"), path.with_name("b.png")]
    pixels, bad = images.open_cache(files, TINY, path.parent, skip_bad=True)
    assert pixels.shape == (2, 4, 4, 3) and pixels.dtype == np.uint8 and set(bad) <= {0, 1} and pixels.sum() >= 0


def state(path):
    fit = make_fit()
    engine.restore_state(fit, engine.load_state(path.parents[1], 0), path)
    assert isinstance(fit.finished, bool)


BACKBONE = [lambda path: model.load_backbone(model.create("test_resnet", "mask", (32, 24)), path)]
# {file in the folder `root`: what reads it}
READERS = {
    "train/train.csv": [reader(lambda path: dataset.read_people(path.parents[1]), lambda found:
        found["path"].is_unique and not found["path"].str.fullmatch(r".*/.*|\.*").any() and found["gender"].isin([0, 1]).all() and found["age"].between(0, 120).all())],
    "eval/info.csv": [reader(lambda path: pd.DataFrame({"ImageID": dataset.read_eval(path.parents[1]).names}), lambda found:
        found["ImageID"].is_unique and set(found["ImageID"]) <= set(NAMES))],
    "train/submission.csv": [reader(lambda path: pd.DataFrame(dict(zip(("ImageID", "ans"), dataset.read_submission(path)))), lambda found:
        found["ImageID"].is_unique and found["ans"].between(0, 17).all())],
    "train/oof.csv": [reader(lambda path: predictions.read_table(path, "gender", ("image", "path")), lambda found:
        found["image"].is_unique and found["target"].isin([0, 1]).all() and np.isfinite(found[["p0", "p1"]]).all(axis=None))],
    "train/eval.csv": [lambda path: predictions.read_table(path, "gender", ("ImageID",))],
    "train/age.csv": [lambda path: predictions.read_table(path, "age", ("ImageID",))],
    "train/pseudo.csv": [lambda path: predictions.read_pseudo(path.parent, "gender")],
    "train/folds.csv": [reader(lambda path: experiment.read_folds(path.parent), lambda found: found["path"].is_unique),
                        lambda path: experiment.validated_people(path.parent)],
    "train/log.csv": [experiment.read_log],
    "train/fixes.csv": [reader(lambda path: dataset.read_label_fixes(path, dataset.read_people(path.parents[1]), 0.9)[0], lambda found:
        set(found["path"]) <= {row[4] for row in PEOPLE} and found["column"].isin(["gender", "mask", "age"]).all()), files.file_digest],
    "sweep.txt": [sweep.read_plan],
    "runs/a-s1/args.yaml": [
        sweep_job,
        reader(lambda path: options.parse_args(["--resume", str(path.parent)]), lambda found: found.lr > 0 and found.epochs > 0),
        lambda path: experiment.write_args(path.parent, experiment.read_args(path.parent) | {"epochs": 2}),
        lambda path: report.applied_fixes([predictions.open_member(str(path.parent))], pd.DataFrame({"path": [], "id": []}))],
    "runs/a-s1/summary.json": [record, sweep_job],
    "runs/a-s1/lb.json": [record],
    "runs/a-s1/fold0/fold.json": [lambda path: predictions.select_folds(path.parents[1], "best"),
                                  summary],
    "runs/a-s1/eval.json": [lambda path: predictions.made_of(path.parent)],
    "runs/a-s1/fold1/eval.json": [lambda path: predictions.fold_tables(path.parents[1], "label", [0, 1], "none")],
    "runs/a-s1/oof_hflip.json": [lambda path: predictions.is_fresh(path.parent, "hflip")],
    "submissions/mix/recipe.yaml": [record, reader(lambda path: predictions.find_runs(path.parent), lambda found:
        all(run.resolve().is_relative_to(Path.cwd()) for run in found))],
    "submissions/mix/score.json": [record],
    "runs/a-s1/fold0/best.safetensors": [reader(model.load, lambda found: found[1]["model"] == "test_resnet"),
                                         model.is_trained, model.read_state_dict],
    "state/fold0/last.pt": [state],
    "backbone.safetensors": BACKBONE,
    "backbone.pth": BACKBONE,
    "cache/*.npy": [cached],
    "cache/*.json": [cached],
    **{f"{kind}.jpg": [reader(lambda path: images.decode(path, TINY), lambda found: found.shape == (4, 4, 3)), images.open_rgb]
       for kind in KINDS},
}  # fmt: skip


def place(file):
    return f"{'eval' if file == 'info.csv' else 'train'}/{file}"


@pytest.fixture(scope="module")
def root(tmp_path_factory, fit, shared_data):
    """A folder with the files of READERS, all whole."""
    root = tmp_path_factory.mktemp("damaged")
    mix = root / "submissions" / "mix"
    for folder in (root / "train", root / "eval/images", root / "state/fold0", root / "cache", mix):
        folder.mkdir(parents=True)
    for file, text in WHOLE.items():
        (root / place(file)).write_text(text)
    for name in NAMES:
        (root / "eval" / "images" / name).touch()
    (root / "sweep.txt").write_text("a: --quiet\n")
    run = fit("--seed", "1", name="a-s1", output_dir=root / "runs")
    experiment.write_args(run, experiment.read_args(run), ["train.py", "--seed", "1", "--quiet"])
    (run / "mistakes.png").touch()
    predict = ["--models", str(run), "--data-dir", str(shared_data), "--cache-dir", str(root / "pixels"), "--device", "cpu"]
    assert inference.main([*predict, "--tta", "hflip", "--oof"]) == inference.main(predict) == 0
    (mix / "recipe.yaml").write_text(yaml.safe_dump({"members": [{"run": str(run), "weight": 1}]}))
    (mix / "score.json").write_text('{"oof_f1": 0.5, "oof_acc": 0.5, "oof_f1_ci95": [0.4, 0.6]}')
    experiment.keep(run, "lb", 0.5, leaderboard.number)
    engine.save_state(root / "state", 0, make_fit().state_dict())
    state = model.weights(model.create("test_resnet", "mask", (32, 24)))
    safetensors.torch.save_file(state, root / "backbone.safetensors")
    torch.save({"model": state}, root / "backbone.pth")
    for name in ("a.png", "b.png"):
        (root / "cache" / name).write_bytes(b"no image")
    key = images.cache_key([root / "cache" / "a.png", root / "cache" / "b.png"], TINY)
    np.save(root / "cache" / f"{key}.npy", np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3))
    (root / "cache" / f"{key}.json").write_text(json.dumps({"bad": [[1, "b.png: not readable"]]}))
    for kind in KINDS:
        (root / f"{kind}.jpg").write_bytes(whole(kind))
    return root


@pytest.mark.parametrize(("file", "change", "expected"), TABLES, ids=[f"{case[0]} {case[2]}"[:60] for case in TABLES])
def test_tables(file, change, expected, root, capsys):
    path, content, read = root / place(file), change(WHOLE[file]), READERS[place(file)][0]
    right = read(path)
    with holding(path, content if isinstance(content, bytes) else content.encode()):
        if expected is SAME:
            pd.testing.assert_frame_equal(read(path), right)
        elif isinstance(expected, int):
            assert len(read(path)) == expected
        else:
            assert errors.run(lambda: read(path)) == 2
            line = capsys.readouterr().err
            assert line.startswith(f"error: {path}") and line.count("\n") == 1 and expected in line, line


NOTE = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=5)


@st.composite
def rewritten(draw, content):
    """A csv as other programs write it: mark, line ends, quotes, spaces, blank lines, columns moved, and one of any text added."""
    rows = rows_of(content)
    order, pad = draw(st.permutations(range(len(rows[0])))), draw(st.sampled_from(["", " ", "  "]))
    index, notes = draw(st.booleans()), draw(st.lists(NOTE, max_size=1))
    rows = [[""] * index + [f"{pad}{row[column]}{pad}" for column in order] + notes for row in rows]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = text_of(rows, lineterminator=end, quoting=draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])))
    text = text.replace(end, f"{end}{end}  {end}", draw(st.sampled_from([0, 1, -1])))
    return (text if draw(st.booleans()) else text.rstrip()).encode(draw(st.sampled_from(["utf-8", "utf-8-sig"])))


@pytest.mark.parametrize("file", WHOLE)
def test_a_table_says_the_same_whatever_program_wrote_it(file, root):
    path, read = root / place(file), READERS[place(file)][0]
    right = read(path)

    @FUZZ
    @given(rewritten(path.read_bytes()))
    def check(content):
        with holding(path, content):
            pd.testing.assert_frame_equal(read(path)[right.columns], right)

    check()


def test_eval_images_that_info_leaves_out_are_told(root, capsys):
    (root / "eval" / "images" / "other.JPG").touch()
    with holding(root / "eval" / "info.csv", f"ImageID\n{NAMES[0]}\n{NAMES[1]}\n".encode()):
        assert dataset.read_eval(root).names == NAMES[:2]
    assert f"info.csv: leaves out 3 images of {root}/eval/images, such as {NAMES[2]}" in capsys.readouterr().err
    (root / "eval" / "images" / "other.JPG").unlink()


TEXTS = ["", " ", "x", "nan", "inf", "-1", "0.5", "1e999", "1_0", "²", "9" * 500, "True", "male", "../../x", "/etc/passwd", "a\0b", "\x1b[2J",
         "한글", '"', "'", ",", ";", "\t", "\r\n", "#", "=1+1", "%s", "{}", "[]", "<b>", "--", "..", "~", "*", "&a", "!!python/name:os.system"]  # fmt: skip
TEXT = st.sampled_from(TEXTS)
SCALARS = st.sampled_from([None, True, False, 0, -1, 2**31, 2**64, 10**400, 0.5, float("inf"), float("nan")]) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2))


@st.composite
def changed_bytes(draw, content):
    """One to four stretches replaced, half of them near the start, where headers are; also cut short."""
    content = bytearray(content)
    pieces = st.binary(max_size=16) | TEXT.map(str.encode)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(content), 200)) | st.integers(0, len(content)))
        content[at : at + draw(st.sampled_from([0, 1, 4, 64, len(content)]))] = draw(pieces)
    return bytes(content)


@st.composite
def changed_table(draw, content):
    """Another cell, row, column, separator or encoding."""
    rows = rows_of(content)
    row, column, width = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(rows[0]) - 1)), draw(st.integers(0, 1))
    cells = draw(st.lists(TEXT, max_size=1))
    for line in draw(st.sampled_from([rows[row : row + 1], rows])):
        line[column : column + width] = cells
    rows[row : row + draw(st.integers(0, 1))] = rows[-1:] * draw(st.integers(0, 1))
    text = text_of(rows, delimiter=draw(st.sampled_from([",", ",", ",", ";", "\t"])))
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "cp949"])), "replace")


@st.composite
def changed_value(draw, value):
    """Nested lists and mappings with one part replaced, removed or renamed."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        parts = dict(value) if isinstance(value, dict) else dict(enumerate(value))
        key = draw(st.sampled_from(list(parts)))
        what = draw(st.sampled_from(["inside", "inside", "inside", "lost", "renamed"]))
        if what == "inside":
            parts[key] = draw(changed_value(parts[key]))
        else:
            part = parts.pop(key)
            parts |= {draw(TEXT): part} if what == "renamed" else {}
        return parts if isinstance(value, dict) else list(parts.values())
    return draw(VALUES)


def changed_safetensors(content):
    """Another header before the same data, or other metadata of train.py in it."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    changes = changed_value(header)
    if kept := header.get("__metadata__"):
        metadata = changed_value(json.loads(kept["experiment"])).map(json.dumps)
        changes |= metadata.map(lambda text: {**header, "__metadata__": {**kept, "experiment": text}})
    texts = changes.map(lambda header: json.dumps(header).encode())
    return texts.map(lambda text: len(text).to_bytes(8, "little") + text + data)


def changed_yaml(content):
    """The comment of the first line stays where there is one."""
    first = content.partition(b"\n")[0] if content.startswith(b"#") else b"#"
    texts = changed_value(yaml.safe_load(content)).map(lambda value: yaml.safe_dump(value, sort_keys=False))
    return texts.map(lambda text: first + b"\n" + text.encode())


def changed_pickle(content):
    def pickled(state):
        torch.save(state, stream := io.BytesIO())
        return stream.getvalue()

    return changed_value(torch.load(io.BytesIO(content), weights_only=True)).map(pickled)


BY_STRUCTURE = {
    ".csv": changed_table, ".yaml": changed_yaml, ".safetensors": changed_safetensors, ".pth": changed_pickle, ".pt": changed_pickle,
    ".json": lambda content: changed_value(json.loads(content)).map(lambda value: json.dumps(value).encode()),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_any_change_of_a_file_is_read_or_refused_in_one_line_that_names_it(name, root, monkeypatch):
    monkeypatch.chdir(root)
    (path,) = root.glob(name)
    for read in READERS[name]:
        read(path)

    @FUZZ
    @given(changed_bytes(path.read_bytes()) | BY_STRUCTURE.get(path.suffix, changed_bytes)(path.read_bytes()))
    def check(content):
        for read in READERS[name]:
            with holding(path, content):
                try:
                    read(path)
                except InputError as error:
                    assert any(named in str(error) for named in (path.name, path.parent.name, ": no such run")), error
                    assert errors.one_line(error).isprintable()

    check()


class Lost(io.FileIO):
    """A file that can be opened, and then not be read."""

    def readinto(self, *_buffer):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    readall = readinto


def lose(monkeypatch, path, code):
    """From here on the system can't open a file, or with EIO open but not read it."""
    real = io.open

    def opened(name, mode="r", *args, **options):
        if isinstance(name, int) or os.fspath(name) != str(path):
            return real(name, mode, *args, **options)
        if code != errno.EIO:
            raise OSError(code, os.strerror(code), str(path))
        return io.BufferedReader(Lost(path)) if "b" in mode else io.TextIOWrapper(io.BufferedReader(Lost(path)))

    for module in (builtins, io):
        monkeypatch.setattr(module, "open", opened)


def failing(code):
    return Mock(side_effect=OSError(code, os.strerror(code)))


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", READERS)
def test_what_the_system_cannot_read_now_is_not_called_damaged(name, code, root, monkeypatch):
    (path,) = root.glob(name)
    way = "make it readable and try again" if code == errno.EACCES else "try again"
    for read in READERS[name]:
        with monkeypatch.context() as patch:
            lose(patch, path, code)
            with pytest.raises(errors.Unreadable) as told:
                read(path)
        assert str(told.value).removeprefix("--weights ") == f"{path}: can't be read now ({os.strerror(code)}); {way}"


def test_a_cache_that_cannot_be_mapped_or_read_on_is_not_damaged(root, monkeypatch):
    pixels = next(root.glob("cache/*.npy"))
    store = images.ImageStore(np.load(pixels, mmap_mode="r"), "cpu", "host")
    monkeypatch.setattr(mmap, "mmap", failing(errno.ENODEV))
    monkeypatch.setattr(os, "preadv", failing(errno.EIO))
    with pytest.raises(errors.Unreadable, match=r".npy: can't be read now \(No such device\); try again"):
        cached(pixels)
    with pytest.raises(errors.Unreadable, match=r".npy: can't be read now \(Input/output error\); try again"):
        next(store.batches([np.array([1])]))


def test_what_cannot_be_looked_up_now_is_not_taken_for_missing(root, monkeypatch):
    """Else a fold would be trained anew over what is there."""
    monkeypatch.setattr(os, "stat", failing(errno.ESTALE))
    for look in (experiment.done_folds, lambda run: experiment.weights_file(run, 0)):
        with pytest.raises(OSError, match="Stale file handle"):
            look(root / "runs" / "a-s1")
    monkeypatch.setattr(os, "scandir", failing(errno.EIO))
    with pytest.raises(errors.Unreadable, match=r"can't be read now \(Input/output error\); try again"):
        dataset.person_images(root)


def test_errors_of_the_device_and_of_memory_are_not_blamed_on_the_file(root, tmp_path, monkeypatch):
    fit = Mock(load_state_dict=Mock(side_effect=RuntimeError("CUDA error: unspecified launch failure")))
    with pytest.raises(RuntimeError, match="CUDA error"):
        engine.restore_state(fit, {}, tmp_path / "last.pt")
    for module, name in ((model, "create"), (safetensors.torch, "load")):
        monkeypatch.setattr(module, name, Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            model.load(root / "runs/a-s1/fold0/best.safetensors")
