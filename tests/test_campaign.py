"""campaign.py: it sees what is wrong, and in small it runs.

The whole is run on demand: python tools/campaign.py --kills 300 --jobs 2
"""

import json
import shutil

import campaign
import pandas as pd
import pytest


@pytest.fixture
def folders(runs, tmp_path):
    """(a trial's folder, that of the run which was never killed), alike but for times."""
    for name in ("trial", "whole"):
        shutil.copytree(runs["mask"], tmp_path / name / "run", ignore=shutil.ignore_patterns("eval*", "oof_*"))
    summary = json.loads((tmp_path / "trial" / "run" / "summary.json").read_text())
    (tmp_path / "trial" / "run" / "summary.json").write_text(json.dumps({**summary, "seconds": 99}))
    return tmp_path / "trial", tmp_path / "whole"


TOLD = "run x\nfold 0 epoch  1/2  lr 1e-3\nfold 1 epoch  2/2  lr 1e-3\n"


def test_a_sound_run_has_no_faults(folders):
    assert campaign.faults(folders[0], TOLD, folders[1]) == [] == campaign.differences(*folders)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def change(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def lose_a_row(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def leave(path):
    path.write_bytes(b"left")


@pytest.mark.parametrize(("name", "damage", "fault"), [
    ("summary.json", cut, "run/summary.json can't be read (JSONDecodeError"),
    ("args.yaml", lambda path: path.write_text(""), "run/args.yaml can't be read (ValueError: no mapping)"),
    ("folds.csv", cut, "run/folds.csv can't be read (ValueError: cut short)"),
    ("fold0/best.safetensors", cut, "run/fold0/best.safetensors can't be read (SafetensorError"),
    ("fold1/last.pt", leave, "run/fold1/last.pt can't be read (UnpicklingError"),
    ("curves.png", leave, "run/curves.png can't be read (UnidentifiedImageError"),
    ("log.csv", lose_a_row, "epoch 2 of fold 1 was told as finished and is not in log.csv"),
])  # fmt: skip
def test_what_a_kill_damaged_is_seen(folders, name, damage, fault):
    damage(folders[0] / "run" / name)
    (found,) = campaign.faults(folders[0], TOLD, folders[1])
    assert found.startswith(fault)


@pytest.mark.parametrize(("name", "damage", "difference"), [
    ("fold1/last.pt", leave, ["fold1/last.pt: only in one of them", "run/fold1/last.pt is left"]),
    ("fold1/oof.csv", lambda path: path.unlink(), ["fold1/oof.csv: only in one of them"]),
    ("fold0/best.safetensors", change, ["fold0/best.safetensors differs"]),
    ("log.csv", lose_a_row, ["log.csv differs"]),
    ("oof.csv", lose_a_row, ["oof.csv differs"]),
    (".log.csv.7.tmp.csv", leave, ["run/.log.csv.7.tmp.csv is left"]),
])  # fmt: skip
def test_another_end_is_seen(folders, name, damage, difference):
    damage(folders[0] / "run" / name)
    assert campaign.differences(*folders) == difference


def test_a_logged_epoch_that_changes_is_seen(folders):
    log = pd.read_csv(folders[0] / "run" / "log.csv")
    log.loc[0, "train_loss"] += 1e-9
    log.to_csv(folders[0] / "run" / "log.csv", index=False)
    assert campaign.faults(folders[0], TOLD, folders[1]) == ["log.csv differs in fold and epoch (0, 1)"]


@pytest.mark.slow
def test_a_small_campaign(capsys):
    assert campaign.main(["--kills", "16", "--jobs", "2", "--seed", "1"]) == 0
    assert "failures: 0" in capsys.readouterr().out
