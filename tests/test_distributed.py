import contextlib
import io
import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import several
import torch

import distributed
import errors
from errors import InputError, Interrupted


def test_shares_hold_every_row_once():
    rows = np.arange(11)
    shares = [distributed.Ranks(rank, 3, torch.device("cpu")).share(rows) for rank in range(3)]
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), rows)


def test_one_process_needs_no_group():
    ranks = distributed.join().on("cpu")
    assert ranks.first and ranks.any(3) == 3 and ranks.from_first("x") == "x"
    rows = np.arange(4)
    assert ranks.unshare(rows, 4) is rows
    part = torch.ones(2)
    assert ranks.whole(part) is part
    ranks.wait()
    distributed.finish()
    assert distributed.launcher() == ["python"]


@pytest.mark.parametrize("told", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "two"}, {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1",
                                  "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}])  # fmt: skip
def test_what_others_than_torchrun_set_makes_no_several_processes(told, monkeypatch, capsys):
    """As clusters, containers and PyTorch operators do; all of torchrun's own variables are needed."""
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert distributed.join() is distributed.ALONE and distributed.launcher() == ["python"]
    said = f"WORLD_SIZE={told['WORLD_SIZE']} is ignored: this process trains alone, as torchrun did not start it\n"
    assert capsys.readouterr().err == said
    for name, value in several.environment(3).items():
        monkeypatch.setenv(name, value)
    assert distributed.world_size() == 3
    monkeypatch.setenv("LOCAL_RANK", "")
    assert distributed.world_size() == 1


def alone(argv):
    """The exit code of a process of two whose other one never comes."""
    distributed.MEETING_SECONDS, distributed.QUIET_SECONDS = argv
    return errors.run(distributed.join)


@contextlib.contextmanager
def waiting_alone(told, bound, quiet):
    """A process that finds `told` in its environment and waits `bound` seconds for the others, `quiet` of them without a word."""
    process = several.context().Process(target=several._main, args=(alone, (bound, quiet), told))
    process.start()
    try:
        yield process
        process.join(20)
    finally:
        process.kill()


@pytest.mark.parametrize(("rank", "number", "code"), [(0, None, 2), (0, signal.SIGTERM, 143), (1, signal.SIGINT, 130)])
def test_who_waits_in_vain_for_others_says_so_and_can_be_stopped(rank, number, code, capfd):
    """Rank 0 waits as the others' server, rank 1 for that server."""
    told, bound, said, deadline = several.environment(2, rank), 60 if number else 1, "", time.monotonic() + 20
    place = f"localhost:{told['MASTER_PORT']}"
    with waiting_alone(told, bound, 0.1) as process:
        while f"waits at {place} for the others of WORLD_SIZE=2 processes, {bound} s at most\n" not in said:
            assert time.monotonic() < deadline
            time.sleep(0.02)
            said += capfd.readouterr().err
        if number:
            os.kill(process.pid, number)
    ended = f"stopped by {number.name}" if number else f"error: WORLD_SIZE=2: not all of these processes came to {place} in 1 s"
    assert process.exitcode == code and (said + capfd.readouterr().err).splitlines()[-1] == ended


def test_a_meeting_place_that_can_not_be_is_one_line(capfd):
    with waiting_alone(several.environment(2) | {"MASTER_PORT": "99999"}, 60, 30) as process:
        pass
    assert process.exitcode == 2
    assert capfd.readouterr().err.startswith("error: MASTER_ADDR, MASTER_PORT: processes can't meet at localhost:99999 (")


@pytest.mark.parametrize(("there", "possible"), [(True, "cpu, cuda and cuda:N are possible"), (False, "so only cpu is")])
def test_device_that_is_not_there(there, possible, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    with pytest.raises(InputError, match=r"--device cudda: can't be used here"):
        distributed.pick_device("cudda")
    with pytest.raises(InputError, match=r"--device cudda: can't be used here"):
        distributed.ALONE.on("cudda")
    with pytest.raises(InputError, match=r"--device meta: can't be used here \(nothing can be computed on meta\);.* "
                       + possible):  # fmt: skip
        distributed.pick_device("meta")


@pytest.mark.parametrize("rows", [np.arange(12.0).reshape(2, 6), np.arange(30.0).reshape(5, 6)])
def test_rows_come_back_in_order_where_some_processes_have_none(rows, monkeypatch):
    """Of 8 processes that predict a fold's 2 validation images six have none, and know no number of outputs."""
    ranks = [distributed.Ranks(rank, 8, torch.device("cpu")) for rank in range(8)]
    parts = [rows[rank::8] if len(rows[rank::8]) else np.zeros((0, 0)) for rank in range(8)]

    def gather(box, part):
        box[:] = parts

    monkeypatch.setattr(distributed.dist, "all_gather_object", gather)
    for each, part in zip(ranks, parts):
        np.testing.assert_array_equal(each.unshare(part, len(rows)), rows)


def test_processes_side_by_side_can_not_all_have_one_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        InputError, match=r"--device cuda:2: of several processes each takes the GPU of its own number; give --dev"
    ):
        distributed.Ranks(1, 2, torch.device("cpu")).on("cuda:2")


def test_a_numbered_gpu_is_meant_wherever_none_is_named(monkeypatch):
    """So that what asks for the current GPU, as torch.cuda.is_bf16_supported does, is told of that one."""
    made, current = [], []
    monkeypatch.setattr(torch, "empty", lambda *_size, device: made.append(device))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert distributed.ALONE.on("cuda:1").device == torch.device("cuda:1") == current.pop()
    assert distributed.ALONE.on("cuda").device == torch.device("cuda") and not current
    several = distributed.Ranks(6, 8, torch.device("cpu"))
    assert several.on("cuda").device == torch.device("cuda:2") == current.pop()
    assert len(made) == 3


def test_the_launcher_is_the_command_that_started_the_processes(monkeypatch):
    for name, value in several.environment(8).items():
        monkeypatch.setenv(name, value)
    assert distributed.launcher() == ["torchrun", "--nproc_per_node", "8"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4"), monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert distributed.launcher() == ["torchrun", "--nnodes", "2", "--nproc_per_node", "4"]


def exchange(ranks):
    """What each process gets of the others; of 5 rows rank 0 holds 0, 2, 4 and rank 1 holds 1, 3."""
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(ranks.rank + 1)
    ranks.same_buffers(norm)
    weight = torch.tensor(2.0, requires_grad=True)
    whole = ranks.whole(weight * ranks.share(torch.arange(4.0)))
    (whole * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    rows = ranks.unshare(ranks.share(np.arange(5)), 5).tolist()
    return (ranks.any(ranks.rank * 7), ranks.from_first(f"of {ranks.rank}"), rows, norm.running_mean.tolist(),
            whole.tolist(), float(weight.grad))  # fmt: skip


def test_what_processes_tell_each_other():
    """Of sum_i 10^i x i x weight rank 0 has the slope of rows 0 and 2, 200; rank 1 that of 1 and 3, 10 + 3000."""
    shared = (7, "of 0", [0, 1, 2, 3, 4], [1.0, 1.0], [0.0, 2.0, 4.0, 6.0])
    assert several.run(exchange) == [(*shared, 200.0), (*shared, 3010.0)]


def same_error(ranks):
    with ranks.one_voice():
        raise InputError("--lr -1: is not above 0")


def error_of_one(ranks):
    with ranks.one_voice():
        if ranks.rank == 1:
            raise InputError("a.jpg: not a readable image")
        ranks.wait()


def stopped(ranks):
    with ranks.one_voice():
        raise Interrupted(143, "stopped; state saved")


def locked(ranks):
    with ranks.one_voice():
        raise PermissionError(13, "Permission denied", "data")


def fault(ranks):
    with ranks.one_voice():
        raise RuntimeError("a bug")


def test_an_error_is_told_once():
    ends = several.run(same_error)
    assert sorted(ends) == [("InputError", "--lr -1: is not above 0"), ("SystemExit", "2")]
    lost = ("Interrupted", "another process of this training was killed or failed")
    assert several.run(error_of_one) == [lost, ("InputError", "a.jpg: not a readable image")]
    assert sorted(several.run(locked)) == [("PermissionError", "[Errno 13] Permission denied: 'data'"), ("SystemExit", "2")]
    assert several.run(stopped) == [("Interrupted", "stopped; state saved"), ("SystemExit", "143")]
    assert several.run(fault) == [("RuntimeError", "a bug")] * 2


def talk(ranks):
    with contextlib.redirect_stderr(io.StringIO()) as heard, ranks.one_voice():
        errors.say(f"rank {ranks.rank} here")
    return heard.getvalue()


def in_turn(ranks, folder):
    os.environ["LOCAL_RANK"] = str(ranks.rank)
    with ranks.one_first():
        found = len(list(folder.iterdir()))
        time.sleep(0.1 * (1 - ranks.rank))
        (folder / f"of {ranks.rank}").touch()
    return found


def test_the_first_of_a_box_works_and_the_others_find_it(tmp_path):
    assert several.run(partial(in_turn, folder=tmp_path)) == [0, 1]


def test_only_the_first_talks():
    assert several.run(talk) == ["rank 0 here\n", ""]
