import numpy as np
import pytest
import torch

import distributed
from errors import InputError


def test_shares_hold_every_row_once():
    rows = np.arange(11)
    shares = [distributed.Ranks(rank, 3, torch.device("cpu")).share(rows) for rank in range(3)]
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), rows)


def test_one_process_needs_no_group():
    ranks = distributed.start("cpu")
    assert ranks.first and ranks.any(3) == 3 and ranks.from_first("x") == "x"
    rows = np.arange(4)
    assert ranks.unshare(rows, 4) is rows
    assert ranks.mean(torch.tensor(2.0)) == 2
    ranks.wait()
    distributed.finish()


def test_device_that_is_not_there():
    with pytest.raises(InputError, match=r"--device cudda: can't be used here"):
        distributed.pick_device("cudda")
