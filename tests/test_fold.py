"""fold.py: what a fold needs and refuses (whole folds are tested in test_train.py)."""

import os
import shutil

import pytest
from conftest import without_pictures
from test_engine import make_fit

import experiment
import finite
import fold
import train
from errors import InputError


@pytest.mark.parametrize(("options", "message"), [
    (["--drop-ages", "22", "45", "60"], "--drop-ages: leaves nobody to train fold 0"),
    (["--skip-bad-images", "--crop", "1000"], "--skip-bad-images: leaves nobody to train fold 0, as none of its 84 images could be"),
])  # fmt: skip
def test_nobody_to_train_is_said_with_what_left_them_out(fit, options, message):
    with pytest.raises(InputError, match=message):
        fit(*options, name="nobody")


def test_what_a_step_needs_is_looked_for_when_a_run_goes_on_too(runs, tmp_path):
    """Other processes than it began with may leave each one image, as a batch of one does here."""
    run = shutil.copytree(runs["mask"], tmp_path / "run")
    experiment.change_args(run, batch_size=1)
    with pytest.raises(
        InputError, match=r"--batch-size 1: test_resnet has batch norm, which can't train on one image at a time"
    ):
        train.main(["--resume", str(run), "--quiet"])


def changed_size(data):
    """Another picture in place of one."""
    path = sorted((data / "train" / "images").glob("0*/mask1.*"))[0]
    path.write_bytes(path.read_bytes() + b"\0")


def changed_label(data):
    """Another mask state for two pictures of a person."""
    normal, worn = (sorted((data / "train" / "images").glob(f"0*/{kind}.*"))[0] for kind in ("normal", "mask1"))
    assert normal.parent == worn.parent
    os.rename(normal, normal.with_stem("other"))
    os.rename(worn, worn.with_stem("normal"))
    os.rename(normal.with_stem("other"), normal.with_stem("mask1"))


def test_a_run_whose_data_changed_does_not_go_on(runs, shared_data, tmp_path):
    """One fold of it is still to be trained. A complete run has nothing left that could differ."""
    run = shutil.copytree(runs["mask"], tmp_path / "run")
    for number, change in enumerate((changed_size, changed_label)):
        data = shutil.copytree(shared_data, tmp_path / f"data{number}")
        change(data)
        argv = ["--resume", str(run), "--data-dir", str(data), "--cache-dir", str(tmp_path / "cache"), "--quiet"]
        with without_pictures():
            assert train.main(argv) == 0
        (run / "fold1" / "fold.json").rename(run / "fold1" / "kept")
        with pytest.raises(InputError, match=r"run: its images, their sizes or their labels are not those that it began with"):
            train.main(argv)
        (run / "fold1" / "kept").rename(run / "fold1" / "fold.json")


def test_a_state_with_what_is_no_number_is_not_saved(tmp_path):
    (tmp_path / "fold0").mkdir()
    fit = make_fit()
    fold.save_good_state(tmp_path, fit, fit.state_dict)
    before = (tmp_path / "fold0" / "last.pt").read_bytes()
    fit.model.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(finite.NotFinite, match="a weight is not finite"):
        fold.save_good_state(tmp_path, fit, fit.state_dict)
    assert (tmp_path / "fold0" / "last.pt").read_bytes() == before
