"""checkpoint.py: the saved state of a fold (that it goes on in the same bits is tested in test_resume.py)."""

import copy
import threading

import pytest
import torch
from test_engine import assert_equal, make_fit

import engine
from errors import InputError


def test_what_is_put_is_written_in_turn_by_another_thread_and_told_by_this_one():
    came, go_on = [], threading.Event()

    def write(number):
        go_on.wait(20)
        came.append((number, threading.current_thread() is threading.main_thread()))

    with engine.Writer() as writer:
        writer.wait()  # for nothing
        writer.put(lambda: write(1), lambda: write("told"))
        assert (came, writer.done) == ([], False)
        go_on.set()
        writer.put(lambda: write(2))
        assert came[:2] == [(1, False), ("told", True)]
        writer.wait()
        assert came[2:] == [(2, False)] and not writer.done
        writer.put(lambda: write(3), lambda: write("told too"))
    assert came[3:] == [(3, False), ("told too", True)]


def leave(writer, error=None):
    with writer:
        if error:
            raise error


WAITS = {
    "wait": engine.Writer.wait,
    "put": lambda writer: writer.put(lambda: None),
    "leaving": leave,
    "leaving with an error": lambda writer: leave(writer, ValueError()),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_what_could_not_be_written_is_raised_once_and_not_told(wait):
    told, writer = [], engine.Writer()

    def fail():
        raise InputError("disk full")

    writer.put(fail, lambda: told.append("told"))
    with pytest.raises(InputError, match="disk full"):
        wait(writer)
    writer.wait()
    assert told == [] and not writer.done


def test_a_copied_state_is_equal_and_stays_as_it_is():
    weights = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    others = {"half": torch.randn(5).bfloat16(), "flags": torch.tensor([True, False]), "count": torch.tensor(7)}
    others |= {"empty": torch.zeros(0, 3), "column": torch.randn(4, 4)[:, 1], "same": torch.ones(1).expand(3)}
    state = {"model": {"w": weights, **others}, "tail": [{"w": weights}], "history": [{"epoch": 1}], "ema": None, "step": 3}
    before = copy.deepcopy(state)
    copied = engine.copied(state)
    assert_equal(copied, state)
    assert copied["model"]["w"].is_contiguous(memory_format=torch.channels_last)
    for value in (weights, *others.values()):
        value.zero_() if value.is_contiguous() else value.mul_(0) if value.stride() != (0,) else None
    state["history"][0]["epoch"] = 2
    state["history"].append({})
    assert_equal(copied, before)
    assert_equal(engine.copied({"history": []}), {"history": []})


def test_damaged_state_is_named(tmp_path):
    (tmp_path / "fold0").mkdir()
    assert engine.load_state(tmp_path, 0) is None
    engine.save_state(tmp_path, 0, {"step": 3, "weights": torch.ones(2)})
    assert engine.load_state(tmp_path, 0)["step"] == 3
    path = tmp_path / "fold0" / "last.pt"
    content = bytearray(path.read_bytes())
    content[content.find(torch.ones(2).numpy().tobytes())] ^= 1
    for damaged in (content, b"\x80\x04damaged", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"last.pt: damaged .*; delete it"):
            engine.load_state(tmp_path, 0)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_state_for_which_memory_runs_out_is_not_called_damaged(tmp_path, monkeypatch, error):
    """It is whole; what runs out is the memory of a device that others use too, or of the machine."""
    (tmp_path / "fold0").mkdir()
    fit, path = make_fit(), tmp_path / "fold0" / "last.pt"
    engine.save_state(tmp_path, 0, fit.state_dict())

    def run_out(*_args, **_options):
        raise error

    monkeypatch.setattr(fit.optimizer, "load_state_dict", run_out)
    with pytest.raises(type(error)):
        engine.restore_state(fit, engine.load_state(tmp_path, 0), path)
    monkeypatch.setattr(torch, "load", run_out)
    with pytest.raises(type(error)):
        engine.load_state(tmp_path, 0)


def test_a_state_tells_the_epochs_that_are_begun(tmp_path):
    """None when it is gone, as when another process ended the fold just now; one line when it is damaged."""
    (tmp_path / "fold0").mkdir()
    assert engine.epochs_begun(tmp_path, 0) == 0
    state = make_fit().state_dict()
    engine.save_state(tmp_path, 0, {**state, "epoch": 3, "step": 0})
    assert engine.epochs_begun(tmp_path, 0) == 2
    engine.save_state(tmp_path, 0, {**state, "history": [5]})
    with pytest.raises(InputError, match=r"last.pt: damaged \(its history lacks columns of log.csv\); delete it"):
        engine.epochs_begun(tmp_path, 0)
