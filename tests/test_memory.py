"""memory.py: with a model that runs out of memory in training from a number of images on."""

import json

import pytest
import torch
from conftest import SAME_BITS, assert_same_run, without_pictures

import errors
import experiment
import fold
import images
import memory
import model
import options
import precision
import train
import training_data


@pytest.fixture
def room_for(monkeypatch):
    """From now on models have room for so many images in a training step."""
    create = model.create

    def limit(most):
        def ran_out(net, inputs):
            if net.training and len(inputs[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        def made(*args, **options):
            net = create(*args, **options)
            net.register_forward_pre_hook(ran_out)
            return net

        monkeypatch.setattr(model, "create", made)

    return limit


@pytest.fixture
def command(shared_data, workplace, tmp_path):
    def words(*options):
        return ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--output-dir", str(tmp_path),
                "--model", "test_resnet", "--no-pretrained", "--img-size", "32", "24", "--kfold", "2", "--fold", "0",
                "--epochs", "1", "--device", "cpu", "--quiet", *SAME_BITS, *options]  # fmt: skip

    return words


def run(argv):
    with without_pictures():
        return errors.run(lambda: train.main(argv))


def test_running_out_of_memory_says_what_fits_and_leaves_nothing(room_for, command, tmp_path, capsys):
    room_for(5)
    assert run(command("--batch-size", "16", "--name", "large")) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: --batch-size 16: out of memory on the CPU; a new run with --batch-size 4 --accum 4 fits (measured by halving) "
        "and makes the same steps; --auto-batch finds that by itself"
    )
    assert not (tmp_path / "large").exists()


def test_auto_batch_takes_what_fits_and_records_it(room_for, command, tmp_path, capsys):
    assert run(command("--batch-size", "8", "--accum", "2", "--name", "small")) == 0
    room_for(8)
    assert run(command("--batch-size", "16", "--auto-batch", "--name", "auto")) == 0
    assert "auto batch: --batch-size 16 has no room on the CPU, taken: --batch-size 8 --accum 2" in capsys.readouterr().err
    assert_same_run(tmp_path / "small", tmp_path / "auto")
    args = experiment.read_args(tmp_path / "auto")
    assert (args["batch_size"], args["accum"], args["auto_batch"]) == (8, 2, True)
    assert options.parse_args(["--resume", str(tmp_path / "auto"), "--parallel-folds", "2"]).batch_size == 8  # settled


def test_precision_is_measured_with_as_many_images_as_there_is_room_for(room_for, command, tmp_path, monkeypatch, capsys):
    """Before the batch is looked for; 8 images of a measured step have no room, nor have 4."""
    monkeypatch.setitem(precision.BATCH, "cpu", 8)
    room_for(3)
    cache_dir = str(tmp_path / "cache")
    argv = command("--batch-size", "8", "--auto-batch", "--name", "auto", "--cache-dir", cache_dir, "--memory-format", "auto")
    assert run([*argv, "--limit-people", "12"]) == 0
    told = capsys.readouterr().err
    assert "amp and memory format: off" in told and "taken: --batch-size 2 --accum 4" in told


def test_images_leave_a_device_that_nobody_chose_before_batches_are_halved(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(images, "choose_place", lambda place, *_about: "device" if place == "auto" else place)
    monkeypatch.setattr(memory, "has_room", lambda args, data, *_about: data.store.place == "host")
    assert run(command("--batch-size", "16", "--auto-batch", "--name", "auto")) == 0
    told = capsys.readouterr().err
    assert "auto batch: --batch-size 16 has no room beside the images, taken: --cache-device host" in told
    args = experiment.read_args(tmp_path / "auto")
    assert (args["batch_size"], args["accum"], args["cache_device"]) == (16, 1, "host")
    assert (
        run(command("--batch-size", "16", "--auto-batch", "--name", "asked", "--cache-device", "device")) == 2
    )  # as asked for
    assert "and so are its halves down to the smallest" in capsys.readouterr().err.splitlines()[-1]


def test_a_forward_that_can_not_be_compiled_is_told_in_one_line(command, tmp_path, monkeypatch, capsys):
    """torch says so in the first step; the new run's folder goes, and that of one which has learnt something stays."""

    def no_compiler(_images):
        raise torch._dynamo.exc.TorchDynamoException("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VER")

    forward = {"compiled": no_compiler}
    monkeypatch.setattr(torch, "compile", lambda net: forward["compiled"] or net)
    assert run(command("--compile", "--name", "new")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "error: --compile: InvalidCxxCompiler: No working C++ compiler found; torch.compile needs a C++ comp"
    )
    assert not (tmp_path / "new").exists()
    forward["compiled"] = None
    assert run(command("--compile", "--name", "old")) == 0
    forward["compiled"] = no_compiler
    assert run(["--resume", str(tmp_path / "old"), "--fold", "1", "--quiet"]) == 2
    assert "has learnt is kept; --resume goes on with it where it can" in capsys.readouterr().err.splitlines()[-1]


def test_what_was_learnt_stays_when_the_memory_runs_out_later(room_for, command, tmp_path, monkeypatch, capsys):
    """Fold 1 finds no room, but would by itself: another program was there."""
    assert run(command("--batch-size", "16", "--name", "later", "--keep-state")) == 0
    monkeypatch.setattr(fold, "train_fold", lambda *_args: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
    assert run(["--resume", str(tmp_path / "later"), "--fold", "1", "--quiet"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "such a step has room now (measured); does another program use the device too?" in last and "is kept" in last
    assert json.loads((tmp_path / "later" / "fold0" / "fold.json").read_text())["epochs"] == 1


def test_a_complete_fold_stays_when_a_later_one_finds_no_memory(room_for, command, tmp_path, monkeypatch, capsys):
    """Its state is gone by then, and nobody has asked to resume."""
    real, begun = fold.train_fold, []

    def train_fold(*args):
        begun.append(args[1])
        if len(begun) == 2:
            raise torch.OutOfMemoryError("CUDA")
        real(*args)

    monkeypatch.setattr(fold, "train_fold", train_fold)
    assert run(command("--batch-size", "16", "--name", "later", "--fold", "0", "1")) == 2
    assert "has learnt is kept" in capsys.readouterr().err.splitlines()[-1] and begun == [0, 1]
    assert (tmp_path / "later" / "fold0" / "best.safetensors").exists()


def test_no_memory_before_the_first_step_is_one_line_too(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training_data, "load_data", lambda *_args: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
    assert run(command("--batch-size", "16")) == 2
    assert "out of memory on the CPU, before any step could be tried; does another" in capsys.readouterr().err.splitlines()[-1]
    assert run(command("--batch-size", "16", "--cache-device", "device")) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("before any step could be tried; --cache-device host takes less")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("options", "message"), [
    (["--batch-size", "6"], "--batch-size 6: out of memory on the CPU, and so are its halves down to the smallest"),
    (["--parallel-folds", "2"], "--parallel-folds 2: --auto-batch measures one fold alone"),
])  # fmt: skip
def test_where_no_batch_can_be_found_it_is_said(room_for, command, tmp_path, capsys, options, message):
    room_for(2)
    assert run(command("--auto-batch", *options)) == 2
    assert f"error: {message}" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
