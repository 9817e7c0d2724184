"""hardware.py: ranks, the measured precision, --auto-batch, folds in parallel."""

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import make_dataclass
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import helpers
import numpy as np
import pytest
import timm
import torch
from conftest import assert_same_run, until
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import command, trained

import ensemble
import errors
import experiment
import hardware
import images
import inference
import model
import options
import train
from errors import InputError, Interrupted
from files import DiskError

CPU = torch.device("cpu")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 9), st.integers(1, 12), st.integers(1, 3))
def test_shard_then_gather_is_the_identity(world, total, width):
    """Where some ranks have no rows they know no width either."""
    rows, ranks = np.random.default_rng(total).random((total, width)), [hardware.Ranks(r, world, CPU) for r in range(world)]
    shards = [each.shard(rows) if len(each.shard(rows)) else np.zeros((0, 0)) for each in ranks]
    with mock.patch.object(hardware.dist, "all_gather_object", lambda box, part: box.__setitem__(slice(None), shards)):
        for each, part in zip(ranks, shards):
            np.testing.assert_array_equal(each.gather(part, total), rows)


@pytest.mark.parametrize("size", ["2", "", "two"])
@pytest.mark.parametrize("lacks", ["TORCHELASTIC_RUN_ID", "LOCAL_RANK"])
def test_what_others_than_torchrun_set_makes_no_several_processes(size, lacks, monkeypatch, capsys):
    """As clusters and containers do; all of torchrun's own variables are needed."""
    for name, value in helpers.torchrun_environment(3).items():
        monkeypatch.setenv(name, value)
    assert hardware.world_size() == 3 and hardware.launcher() == ["torchrun", "--nproc_per_node", "3"]
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert hardware.launcher() == ["torchrun", "--nnodes", "2", "--nproc_per_node", "3"]
    monkeypatch.setenv(lacks, ""), monkeypatch.setenv("WORLD_SIZE", size)
    assert hardware.join() is hardware.ALONE and hardware.launcher() == ["python"]
    assert capsys.readouterr().err.startswith(f"WORLD_SIZE={size} is ignored: this process trains alone")


def alone(seconds):
    hardware.QUIET_SECONDS, hardware.MEETING_SECONDS = seconds
    return errors.run(hardware.join)


@pytest.mark.parametrize(("rank", "port", "number", "code"), [
    (0, None, None, 2), (0, "99999", None, 2), (0, None, signal.SIGTERM, 143), (1, None, signal.SIGINT, 130),
])  # fmt: skip
def test_who_waits_in_vain_for_others_says_so_and_can_be_stopped(rank, port, number, code, capfd):
    """Rank 0 waits as the others' server, rank 1 for that server; and no server has such a port."""
    told = helpers.torchrun_environment(2, rank) | ({"MASTER_PORT": port} if port else {})
    bound, place, heard = 60 if number else 1, f"localhost:{told['MASTER_PORT']}", []
    process = helpers.context().Process(target=helpers._main, args=(alone, (0.1, bound), told))
    process.start()
    try:
        if number:
            until(lambda: heard.append(capfd.readouterr().err) or "waits at" in "".join(heard))
            os.kill(process.pid, number)
        process.join(20)
    finally:
        process.kill()
    *waits, last = "".join([*heard, capfd.readouterr().err]).splitlines()
    assert process.exitcode == code
    assert port or waits == [f"waits at {place} for the others of WORLD_SIZE=2 processes, {bound} s at most"]
    ends = f"error: MASTER_ADDR, MASTER_PORT: the 2 processes of WORLD_SIZE can't meet at {place} ({'' if port else 'not all came in 1 s)'}"
    assert last == f"stopped by {number.name}" if number else last.startswith(ends)


def test_devices_that_can_not_be_had(monkeypatch):
    for there, possible in ((True, "cpu, cuda and cuda:N are possible"), (False, "so only cpu is")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        with pytest.raises(InputError, match=rf"--device cudda: can't be used here \(.*{possible}"):
            hardware.ALONE.on("cudda")
    with pytest.raises(InputError, match=r"--device cuda:2: of several processes each takes the GPU of its own number; give"):
        hardware.Ranks(1, 2, CPU).on("cuda:2")


V100, H100 = ("Tesla V100-SXM2-32GB", "535.129.03"), ("NVIDIA H100 80GB HBM3", "580.65.06")
CU126 = 'pip install --force-reinstall "torch>=2.11,<2.15" torchvision --index-url https://download.pytorch.org/whl/cu126'
NEWEST = "pip install --force-reinstall torch torchvision -c constraints.txt"


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A function that puts an NVIDIA card into the box: an nvidia-smi that tells of it, and torch's answers."""

    def put(name, driver, capability=None, served=(), cuda=None):
        says = f"echo '{name}, {driver}'" if name else "echo No devices were found; exit 6"
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        without = None if capability else AssertionError("Torch not compiled with CUDA enabled")
        answer = mock.Mock(return_value=capability, side_effect=without)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", answer)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(served))
        monkeypatch.setattr(torch.version, "cuda", cuda)

    return put


@pytest.mark.parametrize(("of", "capability", "served", "cuda", "why", "remedy"), [
    (V100, (7, 0), ("sm_75", "sm_80", "compute_120"), "13.0", "has no kernels for sm_70", CU126),
    (("Tesla V100-SXM2-32GB", "580.65.06"), None, (), None, "can't use it (Torch not compiled with CUDA enabled)", CU126),
    (("NVIDIA A100-SXM4-40GB", "535.129.03"), None, (), None, "can't use it (", CU126),
    (H100, None, (), None, "can't use it (", NEWEST),
    (H100, (9, 0), ("sm_80", "sm_86"), "12.6", "has no kernels for sm_90", NEWEST),
    (("Tesla T4", "470.57"), None, (), None, "can't use it (", "update the driver: torch 2.11 and newer need 525.60, 580 is best"),
    (("NVIDIA A100-SXM4-40GB", "535.129.03"), None, (), "13.0", "can't use it (", CU126),
    (("NVIDIA A100-SXM4-40GB", "535.129.03"), None, (), "12.6", "can't use it (", "the driver is new enough; restart the box or its "
     "container, and look whether nvidia-smi shows an error"),
])  # fmt: skip
def test_a_card_that_torch_can_not_use_is_an_error_with_what_to_install(card, of, capability, served, cuda, why, remedy):
    card(*of, capability, served, cuda)
    for name in [None, "cuda"] if capability is None else ["cuda"]:
        with pytest.raises(InputError) as caught:
            hardware.pick_device(name)
        says = f"{of[0]}, driver {of[1]}: torch {torch.__version__} {why}"
        assert str(caught.value).startswith(says) and str(caught.value).endswith(f"; {remedy}; --device cpu goes on without it")
    assert hardware.pick_device("cpu") == torch.device("cpu")


def test_cards_that_are_hidden_or_served_are_no_error(card, monkeypatch):
    card(None, None)
    assert hardware.pick_device(None) == torch.device("cpu")
    card(*V100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware.pick_device(None) == torch.device("cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for capability, served in (((8, 9), ["sm_80"]), ((12, 0), ["sm_90a", "compute_90"]), ((7, 5), ["sm_75"])):
        card(*H100, capability, served)
        hardware.check_card(torch.device("cuda"))


@pytest.mark.parametrize("script", [train, inference, ensemble])
def test_scripts_refuse_a_card_before_they_make_anything(script, card, runs, shared_data, tmp_path, monkeypatch):
    card(*V100)
    run = shutil.copytree(runs["label"], tmp_path / "run", ignore=shutil.ignore_patterns("*eval*"))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"V100.*driver 535.*cu126"):
        script.main([] if script is train else ["--models", str(run)])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_numbered_gpu_is_meant_wherever_none_is_named(monkeypatch):
    """So that what asks for the current GPU, as torch.cuda.is_bf16_supported does, is told of that one."""
    made, current = [], []
    monkeypatch.setattr(torch, "empty", lambda *_size, device: made.append(device))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert hardware.ALONE.on("cuda:1").device == torch.device("cuda:1") == current.pop()
    assert hardware.ALONE.on("cuda").device == torch.device("cuda") and not current
    assert hardware.Ranks(6, 8, CPU).on("cuda").device == torch.device("cuda:2") == current.pop()
    assert len(made) == 3


def exchange(ranks, folder):
    """What each process gets of the others; of 5 rows rank 0 holds 0, 2, 4 and rank 1 holds 1, 3."""
    os.environ["LOCAL_RANK"] = str(ranks.rank)
    with ranks.local_rank0_first():
        time.sleep(0.1 * (1 - ranks.rank))
        (folder / f"of {ranks.rank}").touch()
        came = len(list(folder.iterdir()))
    with contextlib.redirect_stderr(io.StringIO()) as heard, ranks.only_rank0_reports():
        errors.log(f"rank {ranks.rank} here")
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(ranks.rank + 1)
    ranks.broadcast_buffers(norm)
    weight = torch.tensor(2.0, requires_grad=True)
    whole = ranks.all_gather_with_grad(weight * ranks.shard(torch.arange(4.0)))
    (whole * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    rows = ranks.gather(ranks.shard(np.arange(5)), 5).tolist()
    return (ranks.all_reduce_max(ranks.rank * 7), ranks.broadcast(f"of {ranks.rank}"), rows, norm.running_mean.tolist(),
            whole.tolist(), float(weight.grad), came, heard.getvalue())  # fmt: skip


def test_what_processes_tell_each_other(tmp_path):
    """Of sum_i 10^i x i x weight rank 0 has the slope of rows 0 and 2, 200; rank 1 that of 1 and 3, 10 + 3000."""
    shared = (7, "of 0", [0, 1, 2, 3, 4], [1.0, 1.0], [0.0, 2.0, 4.0, 6.0])
    first, second = helpers.run_ranks(partial(exchange, folder=tmp_path))
    assert (first, second) == ((*shared, 200.0, 1, "rank 0 here\n"), (*shared, 3010.0, 2, ""))


def raising(ranks, kind, args, by):
    with ranks.only_rank0_reports():
        if ranks.rank in by:
            raise kind(*args)
        ranks.barrier()


def test_an_error_is_told_once():
    def ends(kind, *args, by=(0, 1)):
        return helpers.run_ranks(partial(raising, kind=kind, args=args, by=by))

    ended, lost = ("SystemExit", "2"), ("Interrupted", "another process of this training was killed or failed")
    assert sorted(ends(InputError, "--lr -1: is not above 0")) == [("InputError", "--lr -1: is not above 0"), ended]
    assert ends(InputError, "a.jpg: not a readable image", by=[1]) == [lost, ("InputError", "a.jpg: not a readable image")]
    locked = ("PermissionError", "[Errno 13] Permission denied: 'data'")
    assert sorted(ends(PermissionError, 13, "Permission denied", "data")) == [locked, ended]
    assert ends(Interrupted, 143, "stopped; state saved") == [("Interrupted", "stopped; state saved"), ("SystemExit", "143")]
    assert ends(RuntimeError, "a bug") == [("RuntimeError", "a bug")] * 2


def net():
    return timm.create_model("test_resnet", num_classes=3).train()


@pytest.mark.parametrize(("device", "name", "given", "expected"), [
    ("cpu", "test_resnet", ("auto", "auto"), ("off", "channels_last")),
    ("cuda", "test_vit", ("auto", "auto"), ("fp16", "contiguous")),
    ("cuda", "test_vit", ("bf16", "channels_last"), ("bf16", "channels_last")),
])  # fmt: skip
def test_precision_and_format_follow_from_device_and_model(monkeypatch, device, name, given, expected):
    """Nothing runs on a GPU here, and this one has no bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    net, args = timm.create_model(name, num_classes=3), SimpleNamespace(amp=given[0], memory_format=given[1])
    hardware.choose_precision(args, net, hardware.Ranks(0, 1, torch.device(device)))
    assert (args.amp, args.memory_format) == expected
    assert hardware.model.layout(net) == hardware.model.FORMATS[expected[1]]


def room_for(most, monkeypatch):
    create = model.create

    def ran_out(net, inputs):
        if net.training and len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def made(*args, **options):
        net = create(*args, **options)
        net.register_forward_pre_hook(ran_out)
        return net

    monkeypatch.setattr(model, "create", made)


@pytest.fixture
def run(shared_data, workplace, tmp_path):
    """run(*options): the exit code of train.main on an epoch of fold 0, whose run lies in tmp_path."""
    places = ["--cache-dir", workplace / "cache", "--output-dir", tmp_path, "--epochs", "1", "--fold", "0"]
    return lambda *options: errors.run(lambda: trained(command(shared_data, tmp_path, *places, *options)))


@pytest.mark.parametrize(("options", "remedy"), [
    ([], "a new run with --auto-batch takes the largest batch that fits, and makes the same steps"),
    (["--parallel-folds", "2", "--fold", "0", "1"], "--parallel-folds 1 trains one fold at a time"),
])  # fmt: skip
def test_running_out_of_memory_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch, capsys, options, remedy):
    monkeypatch.setattr(hardware, "START", "fork")
    room_for(5, monkeypatch)
    assert run("--batch-size", "16", "--name", "large", *options) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: --batch-size 16: out of memory on the CPU; {remedy}"
    assert not (tmp_path / "large").exists()


def test_auto_batch_takes_what_fits_and_records_it(run, tmp_path, monkeypatch, capsys):
    assert run("--batch-size", "8", "--accum", "2", "--name", "small") == 0
    room_for(8, monkeypatch)
    assert run("--batch-size", "16", "--auto-batch", "--name", "auto") == 0
    assert "auto batch: --batch-size 16 has no room on the CPU, taken: --batch-size 8 --accum 2" in capsys.readouterr().err
    assert_same_run(tmp_path / "small", tmp_path / "auto")
    args = experiment.read_args(tmp_path / "auto")
    assert (args["batch_size"], args["accum"], args["auto_batch"]) == (8, 2, True)
    assert options.parse_args(["--resume", str(tmp_path / "auto"), "--parallel-folds", "2"]).batch_size == 8  # settled


def test_images_leave_a_device_that_nobody_chose_before_batches_are_halved(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(images, "choose_place", lambda place, *_about: "device" if place == "auto" else place)
    full = mock.Mock(side_effect=torch.OutOfMemoryError("CUDA"))
    monkeypatch.setattr(train, "try_steps", lambda _args, data, *_of: data.store.place == "device" and full())
    assert run("--batch-size", "16", "--auto-batch", "--name", "auto") == 0
    told = capsys.readouterr().err
    assert "auto batch: --batch-size 16 has no room beside the images, taken: --cache-device host" in told
    args = experiment.read_args(tmp_path / "auto")
    assert (args["batch_size"], args["accum"], args["cache_device"]) == (16, 1, "host")
    assert run("--batch-size", "16", "--auto-batch", "--name", "asked", "--cache-device", "device") == 2
    assert "and so are its halves down to the smallest" in capsys.readouterr().err.splitlines()[-1]


def test_a_forward_that_can_not_be_compiled_is_told_in_one_line(run, tmp_path, monkeypatch, capsys):
    """torch says so in the first step; the new run's folder goes, and that of one which has learnt something stays."""
    said = "InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VER"
    no_compiler = mock.Mock(side_effect=torch._dynamo.exc.TorchDynamoException(said))
    monkeypatch.setattr(torch, "compile", lambda net: net)
    assert run("--compile", "--name", "old") == 0
    monkeypatch.setattr(torch, "compile", lambda _net: no_compiler)
    assert run("--compile", "--name", "new") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: --compile: InvalidCxxCompiler: No working C++ compiler found; torch.compile needs a C++ ")
    assert not (tmp_path / "new").exists()
    assert errors.run(lambda: trained(["--resume", str(tmp_path / "old"), "--fold", "1", "--quiet"])) == 2
    assert "Go on with: python train.py --resume" in capsys.readouterr().err.splitlines()[-1]


def test_a_complete_fold_stays_when_a_later_one_finds_no_memory(run, tmp_path, monkeypatch, capsys):
    """Its state is gone by then, and nobody has asked to resume."""
    train_fold = mock.Mock(wraps=train.train_fold, side_effect=[mock.DEFAULT, torch.OutOfMemoryError("CUDA")])
    monkeypatch.setattr(train, "train_fold", train_fold)
    assert run("--batch-size", "16", "--name", "later", "--fold", "0", "1") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"Go on with: python train.py --resume {tmp_path}/later --fold 0 1" in last
    assert train_fold.call_count == 2 and (tmp_path / "later" / "fold0" / "best.safetensors").exists()


NOBODY = SimpleNamespace(requested=0)  # asks to stop
Data = make_dataclass("Data", ["store"])


@pytest.fixture
def forked(monkeypatch, tmp_path):
    """Run hardware.train_in_parallel over folds in forked processes that call `work(number, stop)` instead of training."""
    monkeypatch.setattr(hardware, "START", "fork")
    np.save(tmp_path / "pixels.npy", np.zeros((2, 4, 4, 3), np.uint8))

    def run(work, stop=NOBODY, numbers=(0, 1)):
        data = Data(images.ImageStore(np.load(tmp_path / "pixels.npy", mmap_mode="r"), CPU))

        def train_fold(_args, _run, data, number, _ranks, stop):
            assert data.store.gather(np.array([1])).shape == (1, 4, 4, 3)
            work(number, stop)

        args = SimpleNamespace(parallel_folds=2, threads=1, cache_device="host")
        hardware.train_in_parallel(train_fold, args, tmp_path / "run", data, list(numbers), CPU, stop)

    return run


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_signal_ends_the_tracker_of_the_locks(forked, monkeypatch):
    """Its process ignores or blocks each that asks to stop."""
    tracker = resource_tracker._resource_tracker
    tracker._stop()  # that of an earlier test
    monkeypatch.setattr(hardware, "START", "spawn")
    forked(None, numbers=())
    status = dict(line.split(":", 1) for line in Path(f"/proc/{tracker._pid}/status").read_text().splitlines())
    deaf = int(status["SigIgn"], 16) | int(status["SigBlk"], 16)
    assert all(deaf >> (number - 1) & 1 for number in errors.EXIT_CODES)


def test_each_fold_is_trained_once_and_as_many_at_once_as_asked(forked, tmp_path):
    def work(number, _stop):
        assert torch.get_num_threads() == 1
        (tmp_path / f"fold {number} in {os.getpid()}").touch()
        if number < 2:  # a process that starts late would find nothing left to do
            until(lambda: len(list(tmp_path.glob("fold [01] *"))) == 2)
        time.sleep(0.1)  # in which a third process would take one

    forked(work, numbers=range(5))
    folds, processes = zip(*(path.name.removeprefix("fold ").split(" in ") for path in tmp_path.glob("fold *")))
    assert sorted(folds) == list("01234") and len(set(processes)) == 2


@pytest.mark.parametrize(("end", "error", "message"), [
    (lambda: os.stat("gone/pixels.npy"), FileNotFoundError, r"gone/pixels.npy"),
    (mock.Mock(side_effect=DiskError("last.pt: can't be written")), DiskError, r"^last.pt: can't be written$"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), InputError,
     r"a process that trained a fold died \(signal 9; out of memory\?\).*--resume .*run"),
])  # fmt: skip
def test_one_process_that_ends_badly_stops_the_others_and_is_told(forked, tmp_path, end, error, message):
    def work(number, stop):
        if number == 1:
            end()
        until(lambda: stop.requested)
        (tmp_path / "saved").touch()
        raise Interrupted(143, "stopped in fold 0")

    with pytest.raises(error, match=message):
        forked(work)
    assert (tmp_path / "saved").exists()


def test_a_request_to_stop_reaches_all_processes_though_signals_do_not(forked):
    def work(number, stop):
        os.kill(os.getpid(), signal.SIGTERM)  # blocked: only the parent acts on signals
        until(lambda: stop.requested)
        raise Interrupted(stop.requested, f"stopped in fold {number}")

    with pytest.raises(Interrupted, match=r"stopped in fold \d; stopped in fold \d") as stopped:
        forked(work, stop=SimpleNamespace(requested=130))
    assert stopped.value.code == 130


def test_processes_stop_when_the_one_that_started_them_is_killed(forked, tmp_path):
    def work(number, stop):
        (tmp_path / f"began-{number}").touch()
        until(lambda: stop.requested)
        (tmp_path / f"saved-{number}").touch()

    parent = multiprocessing.get_context("fork").Process(target=forked, args=(work,))
    parent.start()
    until(lambda: len(list(tmp_path.glob("began-*"))) == 2)
    parent.kill()
    until(lambda: len(list(tmp_path.glob("saved-*"))) == 2)


def test_folds_in_parallel_end_in_the_same_bits(runs, fit, monkeypatch):
    """Forked here, which is quicker; the next test spawns."""
    monkeypatch.setattr(hardware, "START", "fork")
    at_once = fit("--target", "mask", "--parallel-folds", "2", name="at_once")
    assert_same_run(runs["mask"], at_once)
    assert experiment.read_args(at_once)["parallel_folds"] == 2


@pytest.mark.slow
def test_folds_in_spawned_processes_end_in_the_same_bits(runs, tmp_path, shared_data):
    """As a command, whose processes import train.py anew."""
    argv = command(shared_data, tmp_path, "--target", "mask", "--parallel-folds", "2", "--name", "spawned")
    done = subprocess.run([sys.executable, train.__file__, *argv], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert_same_run(runs["mask"], tmp_path / "runs" / "spawned")


@pytest.mark.parametrize(("more", "threads"), [
    (["--parallel-folds", "4"], 2), (["--parallel-folds", "2"], 2), (["--parallel-folds", "2", "--fold", "1"], 4),
    (["--parallel-folds", "4", "--fold", "1", "--threads", "3"], 3),
])  # fmt: skip
def test_threads_are_shared_by_as_many_folds_as_there_are_but_not_under_torchrun(
    more, threads, shared_data, tmp_path, monkeypatch
):
    """On 4 threads, of 2 folds."""
    monkeypatch.setattr(hardware, "use_threads", lambda count: count or 4)
    args = options.parse_args(["--data-dir", str(shared_data), "--kfold", "2", *more])
    assert train.threads_of_a_fold(args) == threads
    two = SimpleNamespace(**vars(options.ALONE) | {"world": 2})
    with pytest.raises(InputError, match="--parallel-folds 2: under torchrun all processes train one fold together"):
        options.parse_args(["--data-dir", str(shared_data), "--parallel-folds", "2"], two)
