"""tools/: the benchmark measures what it says, the kill campaign sees what is wrong, halves and the picture of the losses."""

import itertools
import json
import multiprocessing
import os
import shutil
import time

import benchmark
import campaign
import halves
import losses_picture
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import gradient, save
from PIL import Image

import augment
import dataset
import engine
from errors import InputError
from images import Geometry, ImageStore
from images import decode as decode_image

TINY = ["--model", "test_resnet", "--img-size", "32", "24", "--batch-size", "16", "--device", "cpu", "--threads", "1",
        "--amp", "off", "--memory-format", "channels_last"]  # fmt: skip
CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def measure(shared_data, workplace, tmp_path, capsys):
    """Run main(argv) and read back (its json, its table)."""

    def run(*options, seconds=0.05, repeats=2):
        argv = ["--data-dir", shared_data, "--cache-dir", workplace / "cache", "--out", tmp_path / "out.json", *TINY]
        argv += ["--seconds", seconds, "--repeats", repeats, *options]
        assert benchmark.main([str(word) for word in argv]) == 0
        return json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out

    return run


def test_three_pipelines_their_fractions_and_the_stages(measure, shared_data):
    result, table = measure("--workers", "1", "--optimizer", "adamp")
    rates = {name: values["rounds"] for name, values in result["rates"].items()}
    assert list(rates) == ["ceiling", "ours", "usual"]
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in rates.values())
    assert list(result["fractions"]) == ["ours/ceiling", "ours/usual"]
    for name, values in result["fractions"].items():
        part, whole = name.split("/")
        assert values["rounds"] == pytest.approx([a / b for a, b in zip(rates[part], rates[whole])])
        assert (values["min"], values["max"]) == (min(values["rounds"]), max(values["rounds"]))
        assert values["median"] == pytest.approx(sum(values["rounds"]) / 2)
    assert list(result["stages"]) == ["gather", "copy", "augment", "forward", "backward", "optimizer"]
    assert sum(stage["share"] for stage in result["stages"].values()) == pytest.approx(1)
    options, environment = result["options"], result["environment"]
    assert (options["optimizer"], options["img_size"], options["data_dir"]) == ("AdamP", [32, 24], str(shared_data))
    assert environment["threads"] == 1 and environment["packages"]["torch"] and environment["cpu"]
    assert f"\nours / ceiling    {result['fractions']['ours/ceiling']['median']:>10.3f}" in table


@pytest.mark.parametrize("dies", [False, True])
def test_a_script_is_measured_in_a_process_of_its_own_with_contiguous_images(measure, monkeypatch, dies):
    """It starts at once here: forked, where users' is spawned. One that dies is one line."""
    here, context = os.getpid(), multiprocessing.get_context("fork")

    def pretend(args, fit, _files):
        assert os.getpid() != here and args.memory_format == "contiguous" and fit.layout == torch.contiguous_format

        def run(window):
            window.images, window.seconds = (os._exit(3), 1) if dies else (10, 4.0)

        return run

    monkeypatch.setattr(benchmark.multiprocessing, "get_context", lambda _method: context)
    monkeypatch.setattr(benchmark, "usual_pipeline", pretend)
    if dies:
        with pytest.raises(InputError, match=r"^--script: its process ended"):
            measure("--no-usual", "--script")
        return
    result, _table = measure("--no-usual", "--script", repeats=1)
    rates = {name: values["rounds"] for name, values in result["rates"].items()}
    assert list(rates) == ["ceiling", "ours", "script"] and list(result["fractions"]) == ["ours/ceiling", "ours/script"]
    assert rates["script"] == [2.5] and result["fractions"]["ours/script"]["median"] == rates["ours"][0] / 2.5


def test_validation_against_its_forward(measure, monkeypatch):
    """All validated images are counted; a batch that takes 0.5 s to come slows validation and not the forward alone."""
    rows, real, batches = [], engine.predict_rows, ImageStore.batches
    monkeypatch.setattr(engine, "predict_rows", lambda fit, some: (rows.append(len(some)), real(fit, some))[1])
    monkeypatch.setattr(ImageStore, "batches", lambda self, groups: (time.sleep(0.5), batches(self, groups))[1])
    result, table = measure("--what", "validation", "--images", "40", repeats=1)
    assert set(rows) == {40} and result["options"]["images"] == 40
    assert list(result["rates"]) == ["ceiling", "ours"] and "ours / ceiling" in table
    assert "40 images" in table and "AdamW" not in table  # of what changes nothing here nothing is told
    assert result["rates"]["ours"]["max"] < 80 and result["fractions"]["ours/ceiling"]["max"] < 0.5


def test_cache_against_a_pillow_loop(measure, tmp_path):
    result, table = measure("--what", "cache", "--images", "20", "--cache-dir", tmp_path / "new")
    assert list(result["rates"]) == ["cache", "pillow"] and result["stages"] == {} and "cache / pillow" in table
    assert result["options"]["images"] == 20 and not list((tmp_path / "new").iterdir())


def test_inference_reads_each_image_once_for_all_folds(measure, workplace, monkeypatch):
    """Each round of `ours` reads the 15 images once, each of `separate` twice, for two folds."""
    read, gather = [], ImageStore._gather
    monkeypatch.setattr(ImageStore, "_gather", lambda store, rows: read.extend(rows) or gather(store, rows))
    result, table = measure("--what", "inference", "--folds", "2", "--tta", "hflip", "--images", "15", seconds=0.001, repeats=1)
    rates = result["rates"]
    assert list(rates) == ["ceiling", "ours", "separate"] and result["options"]["images"] == 15
    for name in ("ceiling", "separate"):
        assert result["fractions"][f"ours/{name}"]["rounds"] == pytest.approx([rates["ours"]["max"] / rates[name]["max"]])
    # the fixed batch, the first call that builds the cache, and two rounds of which one is the warm-up
    assert sorted(read) == sorted([*range(15), *range(15), *2 * ([*range(15)] + 2 * [*range(15)])])
    assert not list((workplace / "cache").glob("benchmark-*"))
    assert "test_resnet at 32 x 24, batch 16, 2 models, 15 images, tta hflip\namp off" in table


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved: clock[0] += seconds."""
    now = [100.0]
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    return now


def test_window_ends_after_its_seconds_and_leaves_out_what_lies_before_a_start(clock):
    """Steps of 8 images in 2 s, 1 s between them untimed: over after the third, at 6 >= 5 s; 24 / 6 = 4 images/s."""
    window = benchmark.Window(CPU, 5)
    over = []
    for _step in range(3):
        clock[0] += 1
        window.start()
        clock[0] += 2
        over.append(window.step(8))
    assert over == [False, False, True]
    assert (window.images, window.seconds, window.rate) == (24, 6, 4)


def test_rounds_alternate_and_the_first_is_not_counted(clock, capsys):
    """Each call is slower than the one before: its rate is 60 / n in the n-th call."""
    calls, count = [], itertools.count(1)

    def pipeline(name):
        def run(window):
            calls.append(name)
            window.start()
            clock[0] += next(count)
            assert window.step(60)

        return run

    rates = benchmark.alternate({"a": pipeline("a"), "b": pipeline("b")}, CPU, 2, 0.5)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert rates == {"a": [60 / 4, 60 / 5], "b": [60 / 3, 60 / 6]}
    assert capsys.readouterr().err.splitlines()[::2] == [
        "warm-up: a 60.0 images/s, b 30.0 images/s", "round 2/2: a 12.0 images/s, b 10.0 images/s"]  # fmt: skip


@pytest.mark.parametrize("crop", [None, (80, 50)])
def test_an_undistorted_image_is_that_of_our_pipeline(tmp_path, crop):
    """The same crop, but for its rounding to whole pixels, and the same normalisation: colours differ by a hundredth."""
    pictures, geometry = [save(tmp_path / f"{n}.png", gradient(60 + 20 * n, 90)) for n in range(4)], Geometry(32, 24, crop)
    photos = benchmark.Photos(pictures, np.arange(4)[:, None], geometry, benchmark.transform("none", MEAN, STD))
    for index, file in enumerate(pictures):
        image, target = photos[index]
        theirs = augment.normalise(torch.tensor(decode_image(file, geometry))[None], MEAN, STD)[0]
        assert image.shape == theirs.shape == (3, 32, 24) and image.dtype == theirs.dtype
        torch.testing.assert_close(image.mean((1, 2)), theirs.mean((1, 2)), atol=0.01, rtol=0.01)
        assert target.tolist() == [index]


def test_curves_by_hand_and_their_picture(tmp_path):
    """Cross entropy: -log p and 1 - p. Focal, gamma 2, p = 0.5: 0.25 log 2, and its slope by the true logit,
    (1 - p)^2 (1 - p - 2 p log p) = 0.25 (0.5 + 0.6931). Of the competition's 18,900 images 83 are of the rarest class."""
    probs = np.array([0.1, 0.5, 0.9])
    values, pull = losses_picture.curve(losses_picture.CURVES["cross-entropy"][0], 3, probs)
    np.testing.assert_allclose([values, pull], [-np.log(probs), 1 - probs])
    values, pull = losses_picture.curve(losses_picture.CURVES["focal, gamma 2"][0], 3, probs)
    assert (values[1], pull[1]) == (pytest.approx(0.25 * np.log(2)), pytest.approx(0.25 * (0.5 + np.log(2))))
    assert (sum(losses_picture.COUNTS), losses_picture.COUNTS[losses_picture.RAREST]) == (18_900, 83)
    assert losses_picture.main(["--out", str(tmp_path / "losses.png")]) == 0
    assert min(Image.open(tmp_path / "losses.png").size) > 300


@pytest.fixture
def folders(runs, tmp_path):
    """(a trial's folder, that of the run which was never killed), alike but for times."""
    for name in ("trial", "whole"):
        shutil.copytree(runs["mask"], tmp_path / name / "run", ignore=shutil.ignore_patterns("eval*", "oof_*"))
    summary = json.loads((tmp_path / "trial" / "run" / "summary.json").read_text())
    (tmp_path / "trial" / "run" / "summary.json").write_text(json.dumps({**summary, "seconds": 99}))
    return tmp_path / "trial", tmp_path / "whole"


@pytest.mark.parametrize(("name", "damage", "fault", "difference"), [
    ("log.csv", lambda old: old, "", []),
    ("summary.json", lambda old: old[:-40], "run/summary.json can't be read (JSONDecodeError", None),
    ("args.yaml", lambda old: b"", "run/args.yaml can't be read (TypeError", None),
    ("folds.csv", lambda old: old[:-40], "run/folds.csv can't be read (ValueError: cut short)", None),
    ("fold0/best.safetensors", lambda old: old[:-40], "run/fold0/best.safetensors can't be read (SafetensorError", None),
    ("fold1/last.pt", lambda old: b"left", "run/fold1/last.pt can't be read (UnpicklingError",
     ["fold1/last.pt: only in one of them", "run/fold1/last.pt is left"]),
    ("curves.png", lambda old: b"left", "run/curves.png can't be read (UnidentifiedImageError", None),
    ("log.csv", lambda old: old[: old.rindex(b"1,2,")], "epoch 2 of fold 1 was told as finished and is not in", ["log.csv differs"]),
    ("log.csv", lambda old: old.replace(b"\n0,1,", b"\n0,1,1", 1), "log.csv differs in fold and epoch (0, 1)", ["log.csv differs"]),
    ("fold0/best.safetensors", lambda old: old[:-1] + bytes([old[-1] ^ 1]), "", ["fold0/best.safetensors differs"]),
    ("oof.csv", lambda old: old[: old.rstrip().rindex(b"\n") + 1], "", ["oof.csv differs"]),
    (".log.csv.7.tmp.csv", lambda old: b"left", "", ["run/.log.csv.7.tmp.csv is left"]),
])  # fmt: skip
def test_what_a_kill_damaged_and_another_end_are_seen(folders, name, damage, fault, difference):
    path = folders[0] / "run" / name
    path.write_bytes(damage(path.read_bytes() if path.exists() else b""))
    found = campaign.faults(folders[0], "0 (1/2)     1/2  1e-3\n1 (2/2)     2/2  1e-3\n", folders[1])
    assert [one[: len(fault)] for one in found] == ([fault] if fault else [])
    assert difference is None or campaign.differences(*folders) == difference


@pytest.mark.slow
def test_a_small_campaign(capsys):
    assert campaign.main(["--kills", "16", "--jobs", "2", "--seed", "1"]) == 0
    assert "failures: 0" in capsys.readouterr().out


def test_each_half_is_judged_on_the_other(shared_data, tmp_path):
    halves.make(shared_data, tmp_path)
    sides = [set(dataset.read_people(tmp_path / name)["path"]) for name in "AB"]
    assert [len(side) for side in sides] == [12, 12] and not sides[0] & sides[1]
    for name, others in zip("AB", reversed(sides)):
        _folder, names, files = dataset.read_eval(tmp_path / name)
        answers = pd.read_csv(tmp_path / name / "eval" / "answers.csv").set_index("ImageID")["ans"]
        shown = [file.resolve() for file in files]
        assert {file.parent.name for file in shown} == others and len(names) == 7 * 12
        for image, file in zip(names, shown):
            mask, gender, age = dataset.decode(answers[image])
            assert mask == {"incorrect_mask": 1, "normal": 2}.get(file.stem, 0)
            assert file.parent.name.endswith(f"_{('male', 'female')[gender]}_Asian_{(22, 45, 60)[age]}")
