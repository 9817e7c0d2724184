"""eda.py finds what tools/plant.py plants in the drawn demo set, and little else."""

from pathlib import Path

import pandas as pd
import plant
import pytest

import eda
from errors import InputError


def test_planted_faults_are_found_and_little_else(drawn_faces, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES_LANG", "en")
    plant.main(drawn_faces, "data", seed=1)
    assert eda.main(["--data-dir", "data", "--quiet"]) == 0
    said, planted = capsys.readouterr().out, pd.read_csv("data/planted.csv", dtype=str).fillna("")
    odd, twice, same = (pd.read_csv(f"eda/{name}.csv", dtype=str) for name in ("odd", "duplicates", "same_people"))
    twice, odd = twice[["image", "same_as"]], odd.assign(two="")[["image", "two"]]
    for fault, pairs in (("duplicate", twice), ("both sets", twice), ("blurred", odd), ("two ids", same)):
        hidden = {frozenset(pair) for pair in planted[planted["fault"] == fault][["one", "two"]].to_numpy()}
        assert hidden <= {*map(frozenset, pairs.iloc[:, :2].to_numpy())}, fault
    assert (len(twice), len(odd), len(same)) == (15, 20, 18)
    assert "images: 455 of train (0 missing), 89 of eval" in said and "--same-people eda/same_people.csv" in said
    monkeypatch.setattr(eda.images, "pool_map", None)  # what was looked at once is kept
    assert eda.main(["--data-dir", "data", "--quiet", "--kfold", "2", "--lang", "ko"]) == 0
    assert "겹치는 이미지: 두 사람 10, train과 eval 5" in capsys.readouterr().out


def test_what_it_can_not_look_at(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (data / "eval" / "info.csv").unlink()
    min(data.glob("train/images/*/[!.]*")).write_bytes(b"")
    assert eda.main(["--data-dir", str(data), "--quiet"]) == 0
    page = Path("eda/eda.html").read_text()
    assert "Train against eval" not in page and "not a readable image (0 bytes" in page
    assert "unreadable,\n" in Path("eda/odd.csv").read_text()
    for file in data.glob("train/images/*/[!.]*"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"not a readable image .*; no image can be read"):
        eda.main(["--data-dir", str(data), "--quiet"])
