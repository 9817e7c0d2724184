"""benchmark.py as a user runs it, on the tiny competition."""

import json
import multiprocessing
import os
import re
import time
from pathlib import Path
from unittest import mock

import benchmark
import pytest
import torch

import engine
import errors
import hardware
import inference
import train
from errors import InputError
from images import ImageStore

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
    result, table = measure("--no-usual", "--target", "multi", "--aug", "none", "--malloc", "default")
    assert list(result["rates"]) == ["ceiling", "ours"] and list(result["fractions"]) == ["ours/ceiling"]
    assert "ours / usual" not in table and "malloc default" in table


@pytest.fixture
def forked(monkeypatch):
    """--script's process starts at once: forked, where users' is spawned."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(benchmark.multiprocessing, "get_context", lambda _method: context)


def test_a_script_is_measured_in_a_process_of_its_own(measure, monkeypatch, forked):
    here = os.getpid()

    def pretend(_fit, _loader):
        assert os.getpid() != here

        def run(window):
            window.images, window.seconds = 10, 4.0

        return run

    monkeypatch.setattr(benchmark, "usual_pipeline", pretend)
    result, table = measure("--no-usual", "--script", "--workers", "1", repeats=1)
    rates = {name: values["rounds"] for name, values in result["rates"].items()}
    assert list(rates) == ["ceiling", "ours", "script"] and list(result["fractions"]) == ["ours/ceiling", "ours/script"]
    assert rates["script"] == [2.5] and result["fractions"]["ours/script"]["median"] == rates["ours"][0] / 2.5
    assert "ours / script" in table


def test_a_script_has_the_c_librarys_malloc_and_contiguous_images(fit, monkeypatch):
    """In this process, where the two can be looked at."""
    seen, asked, devices = [], iter([0.05, None]), []
    monkeypatch.setattr(hardware, "pick_device", lambda name: devices.append(name) or torch.device(name))
    monkeypatch.setattr(hardware, "tune_malloc", lambda: seen.append("kept"))
    monkeypatch.setattr(errors, "on_parents_death", lambda _signal: lambda: None)
    monkeypatch.setattr(
        benchmark, "usual_pipeline", lambda fit, loader: seen.append(fit.layout) or (lambda window: window.start())
    )
    connection = mock.Mock(recv=lambda: next(asked))
    with (
        mock.patch.object(benchmark.multiprocessing, "get_context") as context,
        mock.patch.object(context.return_value, "Pipe", return_value=(mock.Mock(), mock.Mock())),
        benchmark.script_pipeline(fit.args("--workers", "0"), torch.device("cpu")),
    ):
        pass
    _theirs, args, device = context.return_value.Process.call_args.kwargs["args"]
    benchmark._script(connection, args, device)
    assert seen == [torch.contiguous_format] and devices == ["cpu"]  # where it is a numbered GPU that one becomes the current
    assert [call.args[0] for call in connection.send.call_args_list] == ["ready", (0, 0.0)]


def test_a_script_whose_process_dies_is_told_and_one_that_is_left_is_killed(measure, monkeypatch, forked):
    def die(_connection, _args, _device):
        os._exit(3)

    def wait(connection, _args, _device):
        connection.send("ready")
        time.sleep(60)

    monkeypatch.setattr(benchmark, "_script", die)
    with pytest.raises(InputError, match=r"^--script: its process ended \(exit code 3\)$"):
        measure("--no-usual", "--script")
    monkeypatch.setattr(benchmark, "_script", wait)
    monkeypatch.setattr(benchmark, "alternate", mock.Mock(side_effect=KeyboardInterrupt))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        measure("--no-usual", "--script")
    assert time.monotonic() - began < 55  # not the 60 s of its sleep


@pytest.mark.parametrize(("malloc", "kept"), [("keep", 1), ("default", 0)])
def test_freed_memory_is_kept_as_asked(malloc, kept, measure, monkeypatch):
    told = []
    monkeypatch.setattr(hardware, "tune_malloc", lambda: told.append(True))
    monkeypatch.setitem(benchmark.MEASUREMENTS, "train", lambda args, device: ({"ours": [1.0], "ceiling": [1.0]}, {}))
    measure("--malloc", malloc)
    assert len(told) == kept


@pytest.mark.parametrize("main", [train.main, inference.main])
def test_scripts_tune_malloc(main, monkeypatch):
    told = []
    monkeypatch.setattr(hardware, "tune_malloc", lambda: told.append(True))
    with pytest.raises((InputError, SystemExit)):
        main(["--no-such-option"])
    assert told


def test_options_of_training_alone_are_told(shared_data, capsys):
    argv = ["--data-dir", str(shared_data), "--optimizer", "SGD", "--compile", "--memory-format", "contiguous"]
    benchmark.parse_args(argv)
    assert not capsys.readouterr().err
    benchmark.parse_args([*argv, "--what", "validation"])
    told = capsys.readouterr().err
    assert "--optimizer SGD (of --what train)" in told and "--compile (of" in told and "--memory-format" not in told
    benchmark.parse_args([*argv, "--what", "cache"])
    assert "--memory-format contiguous (of --what train or validation)" in capsys.readouterr().err


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
def fit(shared_data, workplace):
    """An fits.Fit as the benchmark makes it: fit("--aug", "none")."""

    def build(*options):
        return benchmark.build_fit(build.args(*options), torch.device("cpu"))[0]

    data = ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache")]
    build.args = lambda *options: benchmark.parse_args([*data, *TINY, *options])
    return build


def test_the_fixed_batch_is_one_of_train_py(fit):
    """Without augmentation: the first rows of the cache, normalised."""
    fit = fit("--aug", "none")
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


def test_our_pipeline_goes_through_epochs_and_on_where_it_stopped(fit):
    """168 images are 2 batches of 64: 5 steps end within the third epoch, 2 more within the fourth."""
    fit = fit("--batch-size", "64")
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


@pytest.mark.parametrize("options, message", [
    (["--what", "cache", "--cache-dir", str(Path(__file__) / "cache")], r"--cache-dir .*/cache: can't be made"),
    (["--batch-size", "1", "--no-usual"], r"--batch-size 1: test_resnet has batch norm"),
])  # fmt: skip
def test_what_shows_late_is_one_line(options, message, shared_data, workplace, tmp_path, capsys):
    argv = ["--data-dir", shared_data, "--cache-dir", workplace / "cache", "--out", tmp_path / "out.json", *TINY, *options]
    assert errors.run(lambda: benchmark.main([str(word) for word in argv])) == 2
    *told, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(text.startswith("does nothing here: --memory-format") for text in told)
    assert re.search(message, line), line
    assert not (tmp_path / "out.json").exists()


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
    assert "2 models test_resnet at 32 x 24, 15 images, batch 16, tta hflip, amp off" in table
