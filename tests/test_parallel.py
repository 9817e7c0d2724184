import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import several
import timm
import torch
from conftest import assert_same_run, out_of_reach, until, without_pictures

import distributed
import engine
import experiment
import fold
import images
import model
import options
import parallel
import train
from errors import InputError, Interrupted

CPU = torch.device("cpu")
NOBODY = SimpleNamespace(requested=0)  # asks to stop


def test_folds_at_once_end_in_the_same_bits(runs, fit, monkeypatch):
    """Forked here, which is quicker, instead of spawned; what is handed over would also reach a spawned process."""
    monkeypatch.setattr(parallel, "START", "fork")
    handed = []
    monkeypatch.setattr(parallel, "replace", lambda data, store: handed.append(replace(data, store=store)) or handed[-1])
    at_once = fit("--target", "mask", "--parallel-folds", "2", name="at_once")
    assert_same_run(runs["mask"], at_once)
    assert pickle.loads(pickle.dumps(handed[0])).people.equals(handed[0].people) and handed[0].store is None
    assert experiment.read_args(at_once)["parallel_folds"] == 2


def test_a_cache_that_is_deleted_meanwhile_is_told_in_one_line(fit, tmp_path, monkeypatch, capfd):
    """Each process opens the cache anew; --resume builds it again and goes on."""
    monkeypatch.setattr(parallel, "START", "fork")
    run, options = tmp_path / "cached", ["--target", "mask", "--epochs", "1", "--parallel-folds", "2"]
    open_run = train.open_run

    def lose(*args):
        next((tmp_path / "cache").glob("*.npy")).unlink()
        return open_run(*args)

    monkeypatch.setattr(train, "open_run", lose)
    with pytest.raises(InputError, match=rf"^{tmp_path}/cache/\w+\.npy: No such file or directory; --resume {run} goes on$"):
        fit(*options, "--cache-dir", tmp_path / "cache", name="cached", output_dir=tmp_path)
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.setattr(train, "open_run", open_run)
    with without_pictures():
        assert train.main(["--resume", str(run), "--quiet"]) == 0
    assert sorted(experiment.done_folds(run)) == [0, 1]


@pytest.fixture
def forked(monkeypatch, tmp_path):
    """Run parallel.train_folds over two folds in forked processes that call `work(number, stop)` instead of training."""
    monkeypatch.setattr(parallel, "START", "fork")
    monkeypatch.setattr(images, "ImageStore", lambda *_args: None)
    monkeypatch.setattr(images, "read_array", lambda *_args: None)
    monkeypatch.setattr(parallel, "replace", lambda data, store: SimpleNamespace(store=store))
    pixels = SimpleNamespace(filename="pixels.npy", dtype=None, shape=None, nbytes=0)
    data = SimpleNamespace(store=SimpleNamespace(images=pixels, leave_device=lambda: None))

    def run(work, at_once=2, stop=NOBODY, numbers=(0, 1)):
        def train_missing(_args, _run, _data, number, _ranks, stop):
            work(number, stop)

        monkeypatch.setattr(fold, "train_missing", train_missing)
        args = SimpleNamespace(parallel_folds=at_once, threads=1, cache_device="host")
        parallel.train_folds(args, tmp_path / "run", data, list(numbers), CPU, stop)

    return run


def until_asked(stop, seconds=60):
    until(lambda: stop.requested, seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_signal_ends_the_tracker_of_the_locks(forked, tracker, monkeypatch):
    monkeypatch.setattr(parallel, "START", "spawn")
    forked(None, numbers=())
    assert out_of_reach(tracker())


def test_each_fold_is_trained_once_and_as_many_at_once_as_asked(forked, tmp_path):
    def work(number, _stop):
        name = f"{number}-{os.getpid()}"
        (tmp_path / f"{name}.running").touch()
        (tmp_path / f"{number}.began").touch()
        if number < 2:  # a process that starts late would find nothing left to do
            until(lambda: all((tmp_path / f"{each}.began").exists() for each in (0, 1)))
        (tmp_path / f"{name}.beside-{len(list(tmp_path.glob('*.running')))}").touch()
        (tmp_path / f"{name}.running").unlink()

    forked(work, at_once=2, numbers=range(5))
    done = [path.name for path in tmp_path.glob("*.beside-*")]
    assert sorted(name.partition("-")[0] for name in done) == list("01234")
    assert len({name.partition(".")[0].partition("-")[2] for name in done}) == 2
    assert max(int(name[-1]) for name in done) == 2


def fail():
    raise InputError("the training loss is nan")


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def lose_a_file():
    os.stat("gone/pixels.npy")


@pytest.mark.parametrize(("end", "message"), [
    (lose_a_file, r"^gone/pixels.npy: No such file or directory; --resume .*run goes on$"),
    (fail, r"^the training loss is nan$"),
    (be_killed, r"a process that trained a fold died \(signal 9; out of memory\?\).*--resume .*run"),
])  # fmt: skip
def test_one_process_that_ends_badly_stops_the_others_and_is_told(forked, tmp_path, end, message):
    def work(number, stop):
        if number == 1:
            end()
        until_asked(stop)
        (tmp_path / "saved").touch()
        raise Interrupted(143, "stopped in fold 0")

    with pytest.raises(InputError, match=message):
        forked(work)
    assert (tmp_path / "saved").exists()


def test_a_request_to_stop_reaches_all_processes_though_signals_do_not(forked, tmp_path):
    def work(number, stop):
        os.kill(os.getpid(), signal.SIGTERM)  # blocked here: only the parent is to act on signals
        until_asked(stop)
        raise Interrupted(stop.requested, f"stopped in fold {number}")

    with pytest.raises(Interrupted, match=r"stopped in fold \d; stopped in fold \d") as stopped:
        forked(work, stop=SimpleNamespace(requested=130))
    assert stopped.value.code == 130


def test_processes_stop_when_the_one_that_started_them_is_killed(forked, tmp_path):
    def work(number, stop):
        (tmp_path / f"began-{number}").touch()
        until_asked(stop)
        (tmp_path / f"saved-{number}").touch()

    parent = multiprocessing.get_context("fork").Process(target=forked, args=(work,))
    parent.start()
    until(lambda: len(list(tmp_path.glob("began-*"))) == 2)
    parent.kill()
    until(lambda: len(list(tmp_path.glob("saved-*"))) == 2)


def choose(cache_dir, folds=5, cores=4, threads=None, device=CPU):
    net = timm.create_model("test_resnet", num_classes=3)
    return parallel.choose(net, "a_model", [32, 24], 16, device, cache_dir, "off", folds, cores, threads)


@pytest.mark.parametrize(("rates", "chosen"), [
    ({1: 40.0, 2: 50.0, 4: 60.0}, (4, 1)),
    ({1: 40.0, 2: 60.0, 4: 50.0}, (2, 2)),
    ({1: 40.0, 2: 60.0, 4: 70.0}, (2, 2)),  # 4 at once are faster than 2, but not clearly
    ({1: 40.0, 2: 50.0, 4: 51.0}, (1, 4)),  # nor are these than one
])  # fmt: skip
def test_auto_takes_what_is_clearly_fastest_and_measures_once(monkeypatch, tmp_path, capsys, rates, chosen):
    asked = []

    def rate(_net, at_once, threads, img_size, batch, amp):
        asked.append((at_once, threads))
        return rates[at_once]

    monkeypatch.setattr(parallel, "_rate_at_once", rate)
    assert choose(tmp_path) == chosen and choose(tmp_path) == chosen
    assert asked == [(1, 4), (2, 2), (4, 1)]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"parallel folds: {chosen[0]} (1 at once 40 images/s, 2 at once")
    assert "measured before" in second


def test_auto_on_a_gpu_says_what_it_takes(monkeypatch, tmp_path, capsys):
    """Two where a GPU takes less than one and a half times as long for twice the batch."""
    monkeypatch.setattr(distributed, "give_back", lambda _device: None)
    for seconds, at_once in ((0.14, 2), (0.16, 1)):
        monkeypatch.setattr(parallel, "_seconds_of_steps", lambda *_args, twice=seconds: {16: 0.1, 32: twice})
        assert choose(tmp_path, device=torch.device("cuda")) == (at_once, 4 // at_once)
        assert capsys.readouterr().err == f"parallel folds: {at_once} (measured)\n"


def test_auto_keeps_to_the_folds_and_threads_there_are(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(parallel, "_rate_at_once", lambda _net, n, threads, *_rest: asked.append((n, threads)) or n)
    assert choose(tmp_path, folds=3, cores=8, threads=2) == (3, 2)
    assert asked == [(1, 2), (2, 2), (3, 2)]
    assert choose(tmp_path, folds=5, cores=2, threads=2) == (1, 2)
    assert choose(tmp_path, folds=0, cores=2) == (1, 2)
    assert len(asked) == 3


def test_rates_are_measured_with_all_copies_at_work():
    net = timm.create_model("test_resnet", num_classes=3).to(memory_format=model.FORMATS["channels_last"])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for at_once in (1, 2):
        started = time.perf_counter()
        rate = parallel._rate_at_once(net, at_once, 1, [32, 24], 4, "off")
        seconds = time.perf_counter() - started
        assert 0 < at_once * 4 * parallel.STEPS / rate < seconds
    assert all((net.state_dict()[name] == value).all() for name, value in before.items())  # copies were trained


def test_a_copy_that_fails_while_rates_are_measured_ends_the_others_too():
    """The others wait for it before each round."""
    calls = itertools.count()

    class Net(torch.nn.Conv2d):
        def forward(self, images):
            if next(calls) == 1:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().forward(images)

    with pytest.raises(RuntimeError, match="can't allocate"):
        parallel._rate_at_once(Net(3, 2, 3), 2, 1, [8, 8], 2, "off")


def test_another_memory_format_is_measured_anew(monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr(parallel, "_rate_at_once", lambda net, n, *_rest: measured.append(model.layout(net)) or n)
    net = timm.create_model("test_resnet", num_classes=3)
    for memory_format in (torch.channels_last, torch.contiguous_format, torch.channels_last):
        net.to(memory_format=memory_format)
        parallel.choose(net, "a_model", [32, 24], 16, CPU, tmp_path, "off", 2, 2, None)
    assert measured == [torch.channels_last] * 2 + [torch.contiguous_format] * 2


@pytest.mark.parametrize(("options", "threads"), [
    (["--parallel-folds", "4"], 2), (["--parallel-folds", "2"], 2), (["--parallel-folds", "2", "--fold", "1"], 4),
    (["--parallel-folds", "4", "--fold", "1", "--threads", "3"], 3),
])  # fmt: skip
def test_threads_are_shared_by_as_many_folds_as_there_are(options, threads, shared_data, workplace, monkeypatch):
    """On 4 threads, of 2 folds. Nothing is trained."""
    told = []

    def train_folds(args, *_rest):
        told.append(args.threads)
        raise InputError("enough")

    monkeypatch.setattr(engine, "use_threads", lambda count: count or 4)
    monkeypatch.setattr(train, "train_folds", train_folds)
    argv = ["--data-dir", shared_data, "--cache-dir", workplace / "cache", "--output-dir", workplace / "runs", "--kfold", "2"]
    argv += ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "24", "--device", "cpu", "--quiet"]
    argv += ["--amp", "off", "--memory-format", "channels_last", "--name", f"threads{'-'.join(options)}"]
    with pytest.raises(InputError, match="enough"):
        train.main([*map(str, argv), *options])
    assert told == [threads]


def test_auto_chooses_among_the_folds_that_are_trained(fit, monkeypatch):
    told = []
    monkeypatch.setattr(parallel, "choose", lambda *about: told.append(about[-3]) or (1, 1))
    fit("--parallel-folds", "auto", "--fold", "1", name="auto_of_one")
    assert told == [1]


def test_each_process_trains_on_its_threads(forked, tmp_path):
    def work(number, _stop):
        (tmp_path / f"{number}.threads").write_text(str(torch.get_num_threads()))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        forked(work)
    finally:
        torch.set_num_threads(before)
    assert [(tmp_path / f"{number}.threads").read_text() for number in (0, 1)] == ["1", "1"]


def test_parallel_folds_are_refused_where_they_cannot_be(runs, shared_data, monkeypatch):
    argv = ["--data-dir", str(shared_data), "--model", "test_resnet"]
    with pytest.raises(InputError, match="--parallel-folds: 0 is not above 0"):
        train.main([*argv, "--parallel-folds", "0"])
    with pytest.raises(InputError, match="--parallel-folds auto: is measured at a run's start; with --resume give a number"):
        train.main(["--resume", str(runs["mask"]), "--parallel-folds", "auto"])
    for name, value in several.environment(2).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="--parallel-folds 2: under torchrun all processes train one fold together"):
        options.parse_args([*argv, "--parallel-folds", "2"])
