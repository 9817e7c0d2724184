import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import until_told
from PIL import Image

import dataset
import demo
import files
from demo_faces.faces import draw_person, draw_traits
from demo_faces.photos import CENTRE, SCALE, draw_mask, person_images
from errors import InputError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "set"
    demo.draw_demo(out, people=8, eval_people=3)
    return out


def test_layout_is_the_competitions_and_the_command_draws_the_same_bytes_again(drawn, tmp_path, capsys):
    people = dataset.read_people(drawn)
    images = dataset.list_images(drawn, people)
    _folder, names, shown = dataset.read_eval(drawn)
    assert (len(people), len(images), len(names)) == (8, 56, 21)
    assert all(len(name) == 44 and int(name[:40], 16) >= 0 for name in names)
    assert {Image.open(file).size for file in shown} == {(384, 512)}
    assert pd.read_csv(drawn / "eval" / "info.csv")["ans"].eq(0).all()
    assert Counter(dataset.read_answers(drawn, names) // 6) == {0: 15, 1: 3, 2: 3}  # five masks to one wrong and none
    first = pd.read_csv(drawn / "train" / "train.csv", dtype=str).iloc[0]
    assert first["path"] == f"{first['id']}_{first['gender']}_{first['race']}_{first['age']}"
    assert demo.main(["--out", str(tmp_path / "again"), "--people", "8", "--eval-people", "3"]) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'again'}: 8 people to train on, 3 to be judged on\n", "")  # and no bar
    bytes_of = [{path.relative_to(out): path.read_bytes() for path in out.rglob("*.*")} for out in (drawn, tmp_path / "again")]
    assert bytes_of[0] == bytes_of[1]


def test_a_person_is_the_same_in_a_set_of_another_size():
    """Whoever is in the smaller set is in the larger one with the same age; the images follow from that and the key."""
    small, large = ({key: age for _, age, key in demo.choose_people(people, 0)} for people in (70, 300))
    assert len(small) == 70 and small.items() <= large.items()
    assert large != {key: age for _, age, key in demo.choose_people(300, 1)}
    one, same, other = (np.asarray(person_images(1, 30, 0, *key)["normal"], int) for key in ((0, 5), (0, 5), (0, 6)))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).mean() > 2


def test_traps_are_there(drawn):
    assert all(list((drawn / "train" / "images").glob(junk)) for junk in ("._*", "*/._*"))
    ids = dataset.read_people(drawn)["id"]
    assert ids.str.endswith("-1").any() and ids.str.startswith("000").any()
    rows = demo._name_people(demo.choose_people(300, 0))
    twice = [row for row in rows if Counter(row[0] for row in rows)[row[0]] == 2]
    assert len(twice) == 2 and len({row[4] for row in twice}) == 2
    assert {(row[1], row[3]) for row in twice} == {("female", 20), ("female", 19)}


def test_ages_are_spread_as_in_the_competition():
    """2,700 people: the groups' counts of the competition, the old all 60, 56 to 59 crowded, 27 to 32 sparse."""
    few, many = demo.choose_people(60, 0), demo.choose_people(2700, 0)
    fewest, counts = (Counter((gender, (age >= 30) + (age >= 60)) for gender, age, _ in people) for people in (few, many))
    assert len(fewest) == 6 and min(fewest.values()) >= 8  # every group fills five folds
    assert counts == {(0, 0): 549, (0, 1): 410, (0, 2): 83, (1, 0): 732, (1, 1): 817, (1, 2): 109}
    ages = [age for _, age, _ in many]
    assert (min(ages), max(ages)) == (18, 60)
    assert sum(56 <= age <= 59 for age in ages) == pytest.approx(473, abs=45)
    assert sum(27 <= age <= 32 for age in ages) == pytest.approx(83, abs=30)


def test_mask_hides_the_mouth_and_a_wrong_one_shows_the_nose():
    """Pixels around the mouth change where a mask is worn; around the nose's tip they stay under a wrong one."""
    traits = draw_traits(0, 30, np.random.default_rng(1))
    bare = draw_person(traits, np.random.default_rng(2))

    def change(wearing, left, top, right, bottom):
        patch, corner = draw_mask(bare, traits, wearing, np.random.default_rng(3))
        masked = bare.copy()
        masked.paste(patch, corner)
        x, y = CENTRE
        box = [SCALE * value for value in (x + left, y + top, x + right, y + bottom)]
        return np.abs(np.asarray(masked.crop(box), int) - np.asarray(bare.crop(box), int)).mean()

    mouth, nose = (-20, 60, 20, 76), (-12, 18, 12, 34)
    assert min(change("worn", *mouth), change("worn", *nose), change("nose", *mouth)) > 15
    assert all(change(wearing, *nose) == 0 for wearing in ("nose", "chin", "ear"))
    assert all(change(wearing, *mouth) == 0 for wearing in ("chin", "ear"))


def test_a_set_that_is_there_is_not_drawn_again_and_a_foreign_folder_is_left_alone(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_draw_all", None)  # drawing would fail
    demo.draw_demo(drawn, people=8, eval_people=3)
    assert dataset.is_demo(drawn)
    with pytest.raises(InputError, match="holds another demo set"):
        demo.draw_demo(drawn, people=9, eval_people=3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"mine: exists and is no demo set"):
        demo.draw_demo(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(out, *_):
        (out / "train").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    (tmp_path / ".set.tmp" / "train").mkdir(parents=True)  # of a process that was killed
    monkeypatch.setattr(demo, "_draw_all", full)
    with pytest.raises(InputError, match=r"set: can't be written \(No space left on device\): 62\.3 MiB are needed, and"):
        demo.draw_demo(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_room_that_is_there_for_the_whole_set(drawn, tmp_path, monkeypatch):
    """11 people of 7 images take 1.8 MiB at the size that is reckoned with; what was drawn takes less, and not by much."""
    drawn_bytes = sum(path.stat().st_size for path in drawn.rglob("*"))
    assert 0.8 < drawn_bytes / (77 * demo.IMAGE_BYTES) < 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=77 * demo.IMAGE_BYTES - 1))
    with pytest.raises(InputError, match=r"set: 1\.8 MiB \(the demo set\) are needed, and 1\.8 MiB are free on .*; make room"):
        demo.draw_demo(tmp_path / "set", people=8, eval_people=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_signal_to_the_whole_group_is_one_line(tmp_path):
    """As a scheduler sends it, as soon as there is a worker; a set of that size takes a minute."""
    words = [sys.executable, demo.__file__, "--out", tmp_path / "set", "--people", "2000"]
    drawing = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    workers = Path(f"/proc/{drawing.pid}/task/{drawing.pid}/children")
    while not workers.read_text():
        time.sleep(0.001)
    os.killpg(drawing.pid, signal.SIGUSR1)
    out, err = drawing.communicate(timeout=60)
    assert (drawing.returncode, out, err) == (143, "", "stopped by SIGUSR1\n")
    assert list(tmp_path.iterdir()) == []


def test_who_needs_the_set_while_it_is_drawn_waits_for_it(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_draw_all", None)  # the second does not draw
    with files.lock(tmp_path, ""):
        waiting = threading.Thread(target=demo.draw_demo, args=(tmp_path / "set", 8, 3))
        waiting.start()
        until_told("waiting for another process")
        assert waiting.is_alive()
        shutil.copytree(drawn, tmp_path / "set")
    waiting.join(30)
    assert not waiting.is_alive()
    assert capsys.readouterr().err == f"waiting for another process to draw {tmp_path / 'set'}/\n"


def test_the_banner_comes_when_the_set_is_drawn(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "draw_demo", lambda out: shutil.copytree(drawn, out, dirs_exist_ok=True))
    for told in (1, 0):
        assert demo.locate() == (dataset.DEMO_DIR, True) and capsys.readouterr().err.count("DEMO DATA: no train/train") == told


def test_folder_to_paste_is_named_where_it_would_not_be_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dataset.data_option("a b") == " --data-dir 'a b'"
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "train.csv").touch()
    assert dataset.data_option("data") == ""
    with pytest.raises(InputError, match=r"--data-dir nowhere: no such folder"):  # never replaced by another
        demo.locate("nowhere")
