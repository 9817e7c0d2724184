"""fold.py: the saved state of a fold (whole folds are tested in test_train.py)."""

import pytest
import torch
from test_engine import make_fit

import finite
import fold
from errors import InputError


def test_damaged_state_is_named(tmp_path):
    (tmp_path / "fold0").mkdir()
    assert fold.load_state(tmp_path, 0) is None
    fold.save_state(tmp_path, 0, {"step": 3, "weights": torch.ones(2)})
    assert fold.load_state(tmp_path, 0)["step"] == 3
    path = tmp_path / "fold0" / "last.pt"
    content = bytearray(path.read_bytes())
    content[content.find(torch.ones(2).numpy().tobytes())] ^= 1
    for damaged in (content, b"\x80\x04damaged", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"last.pt: damaged .*; delete it"):
            fold.load_state(tmp_path, 0)


def test_a_state_with_what_is_no_number_is_not_saved(tmp_path):
    (tmp_path / "fold0").mkdir()
    fit = make_fit()
    fold.save_good_state(tmp_path, fit, fit.state_dict)
    before = (tmp_path / "fold0" / "last.pt").read_bytes()
    fit.model.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(finite.NotFinite, match="a weight is not finite"):
        fold.save_good_state(tmp_path, fit, fit.state_dict)
    assert (tmp_path / "fold0" / "last.pt").read_bytes() == before
