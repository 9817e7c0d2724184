import hashlib
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dataset
import demo
import faces
from errors import InputError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "set"
    demo.draw_demo(out, people=8, eval_people=3, progress=False)
    return out


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_is_the_competitions(drawn):
    people = dataset.read_people(drawn)
    images = dataset.list_images(drawn, people)
    names, files = dataset.read_eval(drawn)
    assert (len(people), len(images), len(names)) == (8, 56, 21)
    assert all(len(name) == 44 and int(name[:40], 16) >= 0 for name in names)
    assert {Image.open(file).size for file in files} == {(384, 512)}
    assert pd.read_csv(drawn / "eval" / "info.csv")["ans"].eq(0).all()
    first = pd.read_csv(drawn / "train" / "train.csv", dtype=str).iloc[0]
    assert first["path"] == f"{first['id']}_{first['gender']}_{first['race']}_{first['age']}"


def test_answers_hold_five_masks_to_one_wrong_and_none(drawn):
    answers = dataset.read_answers(drawn, dataset.read_eval(drawn)[0])
    assert Counter(answers // 6) == {0: 15, 1: 3, 2: 3}


def test_same_bytes_again_and_for_another_number_of_people(drawn, tmp_path):
    demo.draw_demo(tmp_path / "again", people=8, eval_people=3, progress=False)
    assert digest(tmp_path / "again") == digest(drawn)
    one = faces.person_images(1, 30, seed=0, index=5)["normal"]
    np.testing.assert_array_equal(one, faces.person_images(1, 30, seed=0, index=5)["normal"])
    assert np.abs(np.asarray(one, int) - np.asarray(faces.person_images(1, 30, seed=0, index=6)["normal"], int)).mean() > 2


def test_traps_are_there(drawn):
    assert list((drawn / "train" / "images").glob("._*"))
    assert list((drawn / "train" / "images").glob("*/._*"))
    ids = dataset.read_people(drawn)["id"]
    assert ids.str.endswith("-1").any() and ids.str.startswith("000").any()
    plan = demo.plan_people(300, 0)
    rows = demo._name_people(plan)
    twice = [row for row in rows if Counter(row[0] for row in rows)[row[0]] == 2]
    assert len(twice) == 2 and len({row[4] for row in twice}) == 2 and {row[1] for row in twice} == {"female"}


def test_ages_are_spread_as_in_the_competition():
    """2,700 people: the groups' counts of the competition, the old all 60, 56 to 59 crowded, 27 to 32 sparse."""
    plan = demo.plan_people(2700, 0)
    counts = Counter((gender, min(2, (age >= 30) + (age >= 60))) for gender, age in plan)
    assert counts == {(0, 0): 549, (0, 1): 410, (0, 2): 83, (1, 0): 732, (1, 1): 817, (1, 2): 109}
    ages = [age for _, age in plan]
    assert (min(ages), max(ages)) == (18, 60)
    assert sum(56 <= age <= 59 for age in ages) == pytest.approx(473, abs=60)
    assert sum(27 <= age <= 32 for age in ages) == pytest.approx(83, abs=60)


def test_every_group_fills_five_folds():
    counts = Counter((gender, min(2, (age >= 30) + (age >= 60))) for gender, age in demo.plan_people(60, 0))
    assert len(counts) == 6 and min(counts.values()) >= 8


def test_mask_hides_the_mouth_and_a_wrong_one_shows_the_nose():
    """Pixels around the mouth change where a mask is worn; around the nose's tip they stay under a wrong one."""
    traits = faces.draw_traits(0, 30, np.random.default_rng(1))
    bare = faces.draw_person(traits, np.random.default_rng(2))
    x, y = (round(value) for value in faces.CENTRE)
    mouth, nose = (x - 20, y + 60, x + 20, y + 76), (x - 12, y + 18, x + 12, y + 34)
    worn = faces.draw_mask(bare, traits, "worn", np.random.default_rng(3))
    wrong = faces.draw_mask(bare, traits, "incorrect", np.random.default_rng(3))

    def change(image, box):
        return np.abs(np.asarray(image.crop(box), int) - np.asarray(bare.crop(box), int)).mean()

    assert change(worn, mouth) > 15 and change(worn, nose) > 15
    assert change(wrong, nose) < 2  # enlarged and reduced again with the rest of the patch


def test_a_set_that_is_there_is_not_drawn_again_and_a_foreign_folder_is_left_alone(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_draw_all", None)  # drawing would fail
    demo.draw_demo(drawn, people=8, eval_people=3)
    assert demo.is_demo(drawn)
    with pytest.raises(InputError, match="holds another demo set"):
        demo.draw_demo(drawn, people=9, eval_people=3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"mine: exists and is no demo set"):
        demo.draw_demo(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(out, *_):
        out.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "_draw_all", full)
    with pytest.raises(InputError, match=r"can't be written \(No space left"):
        demo.draw_demo(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_command_draws_a_set_or_a_sheet(tmp_path, capsys):
    assert demo.main(["--out", str(tmp_path / "set"), "--people", "6", "--eval-people", "1"]) == 0
    assert len(dataset.read_people(tmp_path / "set")) == 6
    assert demo.main(["--sheet", str(tmp_path / "sheet.png")]) == 0
    assert Image.open(tmp_path / "sheet.png").width > 1000
    assert "6 people" in capsys.readouterr().out
