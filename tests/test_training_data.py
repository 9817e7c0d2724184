"""training_data.py: who trains and who validates, with which labels, and from which weights."""

import shutil

import pytest
import torch
from test_train import command

import dataset
import options
import training_data
from errors import InputError
from options import parse_args


def test_label_fixes_go_with_few_people_and_come_before_dropped_ages(shared_data, tmp_path, capsys):
    """Every person of 22 becomes 23, fixed or not among the 12 chosen of 24; then nobody of 22 is left to drop."""
    people = dataset.read_people(shared_data)
    rows = "".join(f"{path},age,23\n" for path in people["path"][people["age"] == 22])
    (tmp_path / "fixes.csv").write_text(f"path,column,value\n{rows}")
    args = options.parse_args(command(shared_data, tmp_path, "--limit-people", "12", "--label-fixes", tmp_path / "fixes.csv",
                                    "--drop-ages", "22"))  # fmt: skip
    data = training_data.load_data(args, torch.device("cpu"))
    assert "label fixes: 4 applied" in (err := capsys.readouterr().err)
    assert "drop ages: 0 people leave training" in err
    assert sorted(data.labelled["age"].unique()) == [23, 45, 60]
    rows = dataset.fold_data(args, data, 0, (0, 0, 0), (1, 1, 1))
    assert len(rows.train_rows) == 6 * 7
    args.drop_ages = [23, 60]
    data = training_data.load_data(args, torch.device("cpu"))
    rows = dataset.fold_data(args, data, 0, (0, 0, 0), (1, 1, 1))
    assert (set(data.images["age"].iloc[rows.train_rows]), set(data.images["age"].iloc[rows.val_rows])) == ({45}, {22, 45, 60})


def test_what_chooses_the_best_epoch_is_official_in_spite_of_fixes(shared_data, tmp_path):
    (tmp_path / "fixes.csv").write_text("path,column,value\n000001,gender,male\n")
    options = ["--target", "gender", "--label-fixes", tmp_path / "fixes.csv"]
    data = training_data.load_data(args := parse_args(command(shared_data, tmp_path, *options)), torch.device("cpu"))
    rows = dataset.fold_data(args, data, 0, (0, 0, 0), (1, 1, 1))
    fixed = data.images["path"].str.startswith("000001_female").to_numpy()
    assert fixed.sum() == 7
    assert set(rows.truth[fixed]) == {1} and set(rows.train_targets[fixed, 0]) == {0}


def test_the_last_epochs_on_everyone_are_on_the_held_out_people_too(shared_data, tmp_path):
    args = options.parse_args(command(shared_data, tmp_path))
    data = training_data.load_data(args, torch.device("cpu"))
    one, everyone = (dataset.fold_data(args, data, 0, (0.5,) * 3, (0.5,) * 3, everyone=flag) for flag in (False, True))
    assert not set(one.train_rows) & set(one.val_rows) and len(one.val_rows) == 12 * 7
    assert set(everyone.train_rows) == set(one.train_rows) | set(one.val_rows) and not len(everyone.val_rows)


@pytest.mark.parametrize(("options", "refused"), [
    ([], True), (["--fold", "0"], False), (["--fold", "1"], True), (["--fold", "0", "--fold-seed", "7"], True),
    (["--kfold", "0"], False),
])  # fmt: skip
def test_weights_that_have_seen_who_validates_are_refused(runs, shared_data, tmp_path, capsys, options, refused):
    """Fold 0's weights may start fold 0 again, and whatever has no validation; a copy of them elsewhere is told."""
    weights = runs["label"] / "fold0" / "best.safetensors"
    argv = [option for option in command(shared_data, tmp_path, *options) if option != "--no-pretrained"]
    args = parse_args([*argv, "--weights", str(weights)])
    people = dataset.read_people(shared_data)
    folds = dataset.assign_folds(people, args.kfold, args.fold_seed)
    if refused:
        with pytest.raises(InputError, match=r"best.safetensors: has learnt \S+ and \d+ more people that these folds validate"):
            training_data.check_weights(args, people, folds)
    else:
        training_data.check_weights(args, people, folds)
    args.weights = str(shutil.copy(weights, tmp_path))
    capsys.readouterr()
    training_data.check_weights(args, people, folds)
    assert ("train.py wrote them" in capsys.readouterr().err) == bool(args.kfold)
