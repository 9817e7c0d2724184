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
import errors
import hardware
import inference
import train
from errors import InputError
from images import Geometry, ImageStore
from images import decode as decode_image

TINY = ["--model", "test_resnet", "--img-size", "32", "24", "--batch-size", "16", "--device", "cpu", "--threads", "1",
        "--amp", "off", "--memory-format", "channels_last"]  # fmt: skip


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
    assert all(stage["ms"] > 0 for stage in result["stages"].values())
    options, environment = result["options"], result["environment"]
    assert (options["optimizer"], options["amp"], options["img_size"]) == ("AdamP", "off", [32, 24])
    assert options["data_dir"] == str(shared_data)
    assert environment["threads"] == 1 and environment["packages"]["torch"] and environment["cpu"]
    assert f"\nours / ceiling    {result['fractions']['ours/ceiling']['median']:>10.3f}" in table
    assert max(map(len, table.splitlines()[:-1])) <= 100


def test_without_the_usual_pipeline(measure):
    result, table = measure("--no-usual", "--target", "multi", "--aug", "none")
    assert list(result["rates"]) == ["ceiling", "ours"] and list(result["fractions"]) == ["ours/ceiling"]
    assert "ours / usual" not in table


@pytest.fixture
def forked(monkeypatch):
    """--script's process starts at once: forked, where users' is spawned."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(benchmark.multiprocessing, "get_context", lambda _method: context)


def test_a_script_is_measured_in_a_process_of_its_own_with_contiguous_images(measure, monkeypatch, forked):
    here = os.getpid()

    def pretend(args, fit, _files):
        assert os.getpid() != here and args.memory_format == "contiguous" and fit.layout == torch.contiguous_format

        def run(window):
            window.images, window.seconds = 10, 4.0

        return run

    monkeypatch.setattr(benchmark, "usual_pipeline", pretend)
    result, table = measure("--no-usual", "--script", "--workers", "1", repeats=1)
    rates = {name: values["rounds"] for name, values in result["rates"].items()}
    assert list(rates) == ["ceiling", "ours", "script"] and list(result["fractions"]) == ["ours/ceiling", "ours/script"]
    assert rates["script"] == [2.5] and result["fractions"]["ours/script"]["median"] == rates["ours"][0] / 2.5
    assert "ours / script" in table


def test_a_script_whose_process_dies_is_one_line(measure, monkeypatch, forked):
    monkeypatch.setattr(benchmark, "_start_script", lambda _args, _device: os._exit(3))
    with pytest.raises(InputError, match=r"^--script: its process ended"):
        measure("--no-usual", "--script")


@pytest.mark.parametrize("main", [train.main, inference.main])
def test_scripts_tune_malloc(main, monkeypatch):
    told = []
    monkeypatch.setattr(hardware, "tune_malloc", lambda: told.append(True))
    with pytest.raises((InputError, SystemExit)):
        main(["--no-such-option"])
    assert told


def test_a_slow_loader_slows_our_epoch_and_not_the_ceiling(measure, monkeypatch):
    """A batch of 16 takes 0.5 s to come, so there are 32 images/s at most; a step on it takes far less, on a busy machine too."""
    batches = ImageStore.batches

    def slow(self, groups):
        for batch in batches(self, groups):
            time.sleep(0.5)
            yield batch

    monkeypatch.setattr(ImageStore, "batches", slow)
    result, _table = measure("--no-usual", repeats=1)
    assert result["rates"]["ours"]["max"] < 32
    assert result["fractions"]["ours/ceiling"]["max"] < 0.5


@pytest.fixture
def make_fit(shared_data, workplace):
    """An engine.Fit as the benchmark makes it: make_fit("--aug", "none")."""

    def build(*options):
        return benchmark.build_fit(build.args(*options), torch.device("cpu"))[0]

    data = ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache")]
    build.args = lambda *options: benchmark.parse_args([*data, *TINY, *options])
    return build


def test_the_fixed_batch_is_one_of_train_py(make_fit):
    """Without augmentation: the first rows of the cache, normalised."""
    fit = make_fit("--aug", "none")
    images, targets = benchmark.fixed_batch(fit)
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (fit.data.mean, fit.data.std))
    pixels = torch.from_numpy(fit.data.store.images[:16].copy()).permute(0, 3, 1, 2)
    torch.testing.assert_close(images, (pixels / 255 - mean) / std)
    assert torch.equal(targets, fit.targets[:16])


class Steps(benchmark.Window):
    """A window that is over after a number of steps."""

    def step(self, images):
        self.images += images
        return self.images == 64 * self.least


def test_our_pipeline_goes_through_epochs_and_on_where_it_stopped(make_fit):
    """168 images are 2 batches of 64: 5 steps end within the third epoch, 2 more within the fourth."""
    fit = make_fit("--batch-size", "64")
    run = benchmark.ours(fit)
    run(Steps(torch.device("cpu"), 5))
    assert (fit.epoch, fit.step) == (3, 1)
    run(Steps(torch.device("cpu"), 2))
    assert (fit.epoch, fit.step) == (4, 1)


def test_validation_against_its_forward(measure, monkeypatch):
    """All validated images are counted; a batch that takes 0.5 s to come slows validation and not the forward alone."""
    rows, real = [], engine.predict_rows
    monkeypatch.setattr(engine, "predict_rows", lambda fit, some: (rows.append(len(some)), real(fit, some))[1])
    result, table = measure("--what", "validation", "--images", "40", repeats=1)
    assert set(rows) == {40} and result["options"]["images"] == 40
    assert list(result["rates"]) == ["ceiling", "ours"] and "ours / ceiling" in table
    assert "40 images" in table and "AdamW" not in table  # of what changes nothing here nothing is told
    batches = ImageStore.batches
    monkeypatch.setattr(ImageStore, "batches", lambda self, groups: (time.sleep(0.5), batches(self, groups))[1])
    slowed, _table = measure("--what", "validation", "--images", "40", repeats=1)
    assert slowed["rates"]["ours"]["max"] < 80 and slowed["fractions"]["ours/ceiling"]["max"] < 0.5


def test_cache_against_a_pillow_loop(measure, tmp_path):
    result, table = measure("--what", "cache", "--images", "20", "--cache-dir", tmp_path / "new")
    assert list(result["rates"]) == ["cache", "pillow"] and result["stages"] == {}
    (rounds,) = (values["rounds"] for values in result["fractions"].values())
    rates = result["rates"]
    assert rounds == pytest.approx([a / b for a, b in zip(rates["cache"]["rounds"], rates["pillow"]["rounds"])])
    assert "cache / pillow" in table
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


CPU = torch.device("cpu")


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
    assert capsys.readouterr().err.splitlines() == [
        "warm-up: a 60.0 images/s, b 30.0 images/s",
        "round 1/2: a 15.0 images/s, b 20.0 images/s",
        "round 2/2: a 12.0 images/s, b 10.0 images/s",
    ]


def test_spread_is_median_and_range():
    assert benchmark.spread([3.0, 1.0, 8.0, 4.0]) == {"median": 3.5, "min": 1.0, "max": 8.0, "rounds": [3.0, 1.0, 8.0, 4.0]}


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def pictures(tmp_path):
    return [save(tmp_path / f"{n}.png", gradient(60 + 20 * n, 90)) for n in range(4)]


def photos(pictures, aug, geometry):
    return benchmark.Photos(pictures, np.arange(len(pictures))[:, None], geometry, benchmark.transform(aug, MEAN, STD))


@pytest.mark.parametrize("crop", [None, (80, 50)])
def test_an_undistorted_image_is_that_of_our_pipeline(pictures, crop):
    """The same crop, but for its rounding to whole pixels, and the same normalisation: colours differ by a hundredth."""
    geometry = Geometry(32, 24, crop)
    for index, file in enumerate(pictures):
        image, target = photos(pictures, "none", geometry)[index]
        theirs = augment.normalise(torch.tensor(decode_image(file, geometry))[None], MEAN, STD)[0]
        assert image.shape == theirs.shape == (3, 32, 24) and image.dtype == theirs.dtype
        torch.testing.assert_close(image.mean((1, 2)), theirs.mean((1, 2)), atol=0.01, rtol=0.01)
        assert target.tolist() == [index]


def test_levels_do_what_ours_do():
    names = {aug: [type(step).__name__ for step in benchmark.transform(aug, MEAN, STD).transforms] for aug in augment.AUGS}
    assert names["none"] == ["ToTensor", "Normalize"]
    assert names["light"] == ["RandomHorizontalFlip", *names["none"]]
    assert names["medium"] == ["RandomHorizontalFlip", "RandomAffine", "ColorJitter", *names["none"]]
    assert names["strong"] == [*names["medium"], "RandomErasing"]
    affine, colour = benchmark.transform("medium", MEAN, STD).transforms[1:3]
    assert (affine.degrees, affine.translate, affine.scale) == ([-10, 10], (0.06, 0.06), (0.9, 1.1))
    assert colour.brightness == colour.contrast == colour.saturation == (0.8, 1.2) and colour.hue is None


def test_curves_by_hand():
    """Cross entropy: -log p and 1 - p. Focal, gamma 2, p = 0.5: 0.25 log 2, and its slope by the true logit,
    (1 - p)^2 (1 - p - 2 p log p) = 0.25 (0.5 + 0.6931)."""
    probs = np.array([0.1, 0.5, 0.9])
    values, pull = losses_picture.curve(losses_picture.CURVES["cross-entropy"][0], 3, probs)
    np.testing.assert_allclose(values, -np.log(probs))
    np.testing.assert_allclose(pull, 1 - probs)
    values, pull = losses_picture.curve(losses_picture.CURVES["focal, gamma 2"][0], 3, probs)
    assert (values[1], pull[1]) == (pytest.approx(0.25 * np.log(2)), pytest.approx(0.25 * (0.5 + np.log(2))))


def test_the_competition_s_classes():
    """18,900 images; the rarest classes are old men with the mask worn wrongly or not at all."""
    assert sum(losses_picture.COUNTS) == 18_900 and len(losses_picture.COUNTS) == 18
    assert (losses_picture.COUNTS[losses_picture.RAREST], losses_picture.RAREST) == (83, 8)


def test_the_picture_is_written_and_a_wrong_folder_is_one_line(tmp_path, capsys):
    assert losses_picture.main(["--out", str(tmp_path / "losses.png")]) == 0
    pixels = np.asarray(Image.open(tmp_path / "losses.png").convert("RGB"))
    for _function, _true, color, _style in losses_picture.CURVES.values():
        assert (pixels == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(2).sum() > 50
    assert errors.run(lambda: losses_picture.main(["--out", str(tmp_path / "no" / "losses.png")])) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.fixture
def folders(runs, tmp_path):
    """(a trial's folder, that of the run which was never killed), alike but for times."""
    for name in ("trial", "whole"):
        shutil.copytree(runs["mask"], tmp_path / name / "run", ignore=shutil.ignore_patterns("eval*", "oof_*"))
    summary = json.loads((tmp_path / "trial" / "run" / "summary.json").read_text())
    (tmp_path / "trial" / "run" / "summary.json").write_text(json.dumps({**summary, "seconds": 99}))
    return tmp_path / "trial", tmp_path / "whole"


TOLD = "run x\nfold 0 epoch  1/2  lr 1e-3\nfold 1 epoch  2/2  lr 1e-3\n"


def test_a_sound_run_has_no_faults(folders):
    assert campaign.faults(folders[0], TOLD, folders[1]) == [] == campaign.differences(*folders)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def change(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def lose_a_row(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def leave(path):
    path.write_bytes(b"left")


@pytest.mark.parametrize(("name", "damage", "fault"), [
    ("summary.json", cut, "run/summary.json can't be read (JSONDecodeError"),
    ("args.yaml", lambda path: path.write_text(""), "run/args.yaml can't be read (ValueError: no mapping)"),
    ("folds.csv", cut, "run/folds.csv can't be read (ValueError: cut short)"),
    ("fold0/best.safetensors", cut, "run/fold0/best.safetensors can't be read (SafetensorError"),
    ("fold1/last.pt", leave, "run/fold1/last.pt can't be read (UnpicklingError"),
    ("curves.png", leave, "run/curves.png can't be read (UnidentifiedImageError"),
    ("log.csv", lose_a_row, "epoch 2 of fold 1 was told as finished and is not in log.csv"),
])  # fmt: skip
def test_what_a_kill_damaged_is_seen(folders, name, damage, fault):
    damage(folders[0] / "run" / name)
    (found,) = campaign.faults(folders[0], TOLD, folders[1])
    assert found.startswith(fault)


@pytest.mark.parametrize(("name", "damage", "difference"), [
    ("fold1/last.pt", leave, ["fold1/last.pt: only in one of them", "run/fold1/last.pt is left"]),
    ("fold1/oof.csv", lambda path: path.unlink(), ["fold1/oof.csv: only in one of them"]),
    ("fold0/best.safetensors", change, ["fold0/best.safetensors differs"]),
    ("log.csv", lose_a_row, ["log.csv differs"]),
    ("oof.csv", lose_a_row, ["oof.csv differs"]),
    (".log.csv.7.tmp.csv", leave, ["run/.log.csv.7.tmp.csv is left"]),
])  # fmt: skip
def test_another_end_is_seen(folders, name, damage, difference):
    damage(folders[0] / "run" / name)
    assert campaign.differences(*folders) == difference


def test_a_logged_epoch_that_changes_is_seen(folders):
    log = pd.read_csv(folders[0] / "run" / "log.csv")
    log.loc[0, "train_loss"] += 1e-9
    log.to_csv(folders[0] / "run" / "log.csv", index=False)
    assert campaign.faults(folders[0], TOLD, folders[1]) == ["log.csv differs in fold and epoch (0, 1)"]


@pytest.mark.slow
def test_a_small_campaign(capsys):
    assert campaign.main(["--kills", "16", "--jobs", "2", "--seed", "1"]) == 0
    assert "failures: 0" in capsys.readouterr().out


def test_each_half_is_judged_on_the_other(shared_data, tmp_path):
    halves.make(shared_data, tmp_path)
    sides = [set(dataset.read_people(tmp_path / name)["path"]) for name in "AB"]
    assert [len(side) for side in sides] == [12, 12] and not sides[0] & sides[1]
    for name, others in zip("AB", reversed(sides)):
        names, files = dataset.read_eval(tmp_path / name)
        answers = pd.read_csv(tmp_path / name / "eval" / "answers.csv").set_index("ImageID")["ans"]
        shown = [file.resolve() for file in files]
        assert {file.parent.name for file in shown} == others and len(names) == 7 * 12
        for image, file in zip(names, shown):
            mask, gender, age = dataset.decode(answers[image])
            assert mask == {"incorrect_mask": 1, "normal": 2}.get(file.stem, 0)
            assert file.parent.name.endswith(f"_{('male', 'female')[gender]}_Asian_{(22, 45, 60)[age]}")
