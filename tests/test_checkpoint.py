"""checkpoint.py: the saved state of a fold (that it goes on in the same bits is tested in test_resume.py)."""

import pytest
import torch
from test_engine import make_fit

import checkpoint
from errors import InputError


def test_damaged_state_is_named(tmp_path):
    (tmp_path / "fold0").mkdir()
    assert checkpoint.load(tmp_path, 0) is None
    checkpoint.save(tmp_path, 0, {"step": 3, "weights": torch.ones(2)})
    assert checkpoint.load(tmp_path, 0)["step"] == 3
    path = tmp_path / "fold0" / "last.pt"
    content = bytearray(path.read_bytes())
    content[content.find(torch.ones(2).numpy().tobytes())] ^= 1
    for damaged in (content, b"\x80\x04damaged", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"last.pt: damaged .*; delete it"):
            checkpoint.load(tmp_path, 0)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_state_for_which_memory_runs_out_is_not_called_damaged(tmp_path, monkeypatch, error):
    """It is whole; what runs out is the memory of a device that others use too, or of the machine."""
    (tmp_path / "fold0").mkdir()
    fit, path = make_fit(), tmp_path / "fold0" / "last.pt"
    checkpoint.save(tmp_path, 0, fit.state_dict())

    def run_out(*_args, **_options):
        raise error

    monkeypatch.setattr(fit.optimizer, "load_state_dict", run_out)
    with pytest.raises(type(error)):
        checkpoint.restore(fit, checkpoint.load(tmp_path, 0), path)
    monkeypatch.setattr(torch, "load", run_out)
    with pytest.raises(type(error)):
        checkpoint.load(tmp_path, 0)


def test_a_state_tells_the_epochs_that_are_begun(tmp_path):
    """None when it is gone, as when another process ended the fold just now; one line when it is damaged."""
    (tmp_path / "fold0").mkdir()
    assert checkpoint.epochs_begun(tmp_path, 0) == 0
    state = make_fit().state_dict()
    checkpoint.save(tmp_path, 0, {**state, "epoch": 3, "step": 0})
    assert checkpoint.epochs_begun(tmp_path, 0) == 2
    checkpoint.save(tmp_path, 0, {**state, "history": [5]})
    with pytest.raises(InputError, match=r"last.pt: damaged \(its history lacks columns of log.csv\); delete it"):
        checkpoint.epochs_begun(tmp_path, 0)
