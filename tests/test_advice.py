"""advice.py: which two results to hand in."""

import json

import numpy as np
import pandas as pd
import pytest
from simulated import KINDS, People

import ensemble
import metrics
import predictions

NAMES = [f"{index}.jpg" for index in range(10)]


@pytest.fixture(scope="module")
def people():
    return People(100, seed=3)


@pytest.fixture
def write(people, tmp_path):
    """write(name, wrong, answers) -> a result folder that is wrong on the images `wrong`, and its oof.csv table."""

    def result(name, wrong, answers=0, images=None):
        pred = np.where(wrong, (people.label + 1) % 18, people.label)
        names = images or [f"{path}/{KINDS[index % 7]}.jpg" for index, path in enumerate(people.path)]
        rows = pd.DataFrame({"image": names, "path": people.path})
        oof = predictions.oof_table(rows, 0, "label", people.label[:, None], (0.01 + np.eye(18)[pred]) / 1.18)
        folder = tmp_path / name
        folder.mkdir()
        oof.to_csv(folder / "oof.csv", index=False)
        pd.DataFrame({"ImageID": NAMES, "ans": [answers] * 5 + [0] * 5}).to_csv(folder / "submission.csv", index=False)
        ci = metrics.interval(metrics.bootstrap_f1(people.label, pred, people.path, 18, 200))
        f1 = metrics.macro_f1(people.label, pred, 18)
        (folder / "score.json").write_text(json.dumps({"oof_f1": f1, "oof_f1_ci95": ci}))
        return folder, oof

    return result


def test_the_second_is_as_good_and_errs_elsewhere(people, write, tmp_path):
    """`b` errs where `a` does and twice more, `c` on as many other images, `far` on many more: its errors are least like
    those of `a`, but it is worse by more than noise. Five of ten answers of `c` differ."""
    wrong = np.arange(700) % 7 == 0
    write("a", wrong & (np.arange(700) >= 14))
    write("b", wrong)
    write("far", (np.arange(700) % 7 == 3) | (np.arange(700) % 7 == 5))
    folder, oof = write("c", np.arange(700) % 7 == 4, answers=1)
    advised = ensemble.advise(folder, oof.sample(frac=1, random_state=0), NAMES)
    assert (advised.first.folder.name, advised.second.folder.name) == ("a", "c")
    assert advised.phi == pytest.approx(np.corrcoef(wrong & (np.arange(700) >= 14), np.arange(700) % 7 == 4)[0, 1])
    assert advised.apart == 0.5 and advised.gap_ci95[0] <= 0 <= advised.gap_ci95[1]
    assert advised.gap == pytest.approx(advised.first.f1 - advised.second.f1)
    told = "\n".join(ensemble.advice_lines(advised))
    assert f"1  {tmp_path / 'a'}: macro F1 {advised.first.f1:.4f}" in told and f"2  {tmp_path / 'c'}: macro F1" in told
    assert "noise" in told and "50.0% of answers differ" in told


def test_the_gap_is_that_of_people_and_answers_are_joined_by_name(people, write, tmp_path):
    """c answers 1 on the first five eval images; a does so too, with its rows in reverse: no answer differs."""
    wrong_a, wrong_c = np.arange(700) % 7 == 0, np.isin(np.arange(700) % 7, (3, 4)) & (np.arange(700) < 400)
    folder, oof = write("a", wrong_a)
    other, _oof = write("c", wrong_c, answers=1)
    pd.read_csv(other / "submission.csv").iloc[::-1].to_csv(folder / "submission.csv", index=False)
    advised = ensemble.advise(folder, oof, NAMES)
    assert advised.first.folder == folder and advised.second.folder == other and advised.apart == 0
    preds = [np.where(wrong, (people.label + 1) % 18, people.label) for wrong in (wrong_a, wrong_c)]
    samples = metrics.bootstrap_difference(people.label, *preds, people.path, 18)
    assert advised.gap_ci95 == pytest.approx(metrics.interval(samples))


def test_a_result_that_is_surely_worse_is_no_second(people, write):
    """`b` errs where `a` does and on one image more of every fifth person: its interval overlaps that of `a`, yet in nearly
    every draw of people it is worse."""
    wrong = np.arange(700) % 7 == 0
    folder, oof = write("a", wrong)
    write("b", wrong | (np.arange(700) % 35 == 8))
    (f1, half, _a), (other_f1, other_half, _b) = ensemble.scored_folders(folder.parent)
    assert f1 - other_f1 < half + other_half
    assert ensemble.advise(folder, oof, NAMES).second is None


def test_scored_folders_have_half_the_width_of_their_interval(write, tmp_path):
    for name, f1, ci in (("low", 0.5, [0.4, 0.64]), ("high", 0.7, [0.6, 0.8])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "score.json").write_text(json.dumps({"oof_f1": f1, "oof_f1_ci95": ci}))
    assert ensemble.scored_folders(tmp_path) == [
        (0.7, pytest.approx(0.1), tmp_path / "high"),
        (0.5, pytest.approx(0.12), tmp_path / "low"),
    ]


def test_errors_of_a_faultless_result_are_like_no_others(people, write):
    folder, oof = write("a", np.zeros(700, dtype=bool))
    write("b", np.arange(700) == 3)
    advised = ensemble.advise(folder, oof, NAMES)
    assert (advised.second.folder.name, advised.phi) == ("b", 0)


def test_what_needs_leave_is_told_and_what_does_not_beside_it(people, write, tmp_path):
    """`joined` is best but made with --persons, and so is a member of `above`; `a` and `b` need nobody's leave."""
    wrong = np.arange(700) % 7 == 0
    folder, oof = write("a", wrong)
    write("b", np.roll(wrong, 1))
    for name, left, recipe in (
        ("joined", 70, {"persons": True}),
        ("above", 35, {"members": [{"run": str(tmp_path / "joined")}]}),
    ):
        write(name, wrong & (np.arange(700) >= left))
        (tmp_path / name / "recipe.yaml").write_text(json.dumps(recipe))
    (tmp_path / "b" / "recipe.yaml").write_text('{"persons": false, "members": [{"run": "gone"}]}')
    assert [ensemble.joins_persons(tmp_path / name) for name in ("a", "b", "joined", "above")] == [False, False, True, True]
    ring = [{"run": str(tmp_path / name)} for name in ("ring", "b")]
    (tmp_path / "ring").mkdir()
    (tmp_path / "ring" / "recipe.yaml").write_text(json.dumps({"members": ring}))
    assert not ensemble.joins_persons(tmp_path / "ring")
    told = ensemble.advice_lines(ensemble.advise(folder, oof, NAMES))
    assert told[1].startswith(f"  1  {tmp_path / 'joined'} (--persons): macro F1")
    at = told.index("  --persons joins images, which the contest's rules must allow; without it:")
    assert f"  1  {tmp_path / 'a'}: macro F1" in told[at + 1] and f"  2  {tmp_path / 'b'}: macro F1" in told[at + 2]
    for name in "ab":
        (tmp_path / name / "recipe.yaml").write_text('{"persons": true}')
    assert ensemble.advice_lines(ensemble.advise(folder, oof, NAMES))[-1] == "  none: combine members without --persons"


def test_nothing_to_choose_from(people, write, tmp_path):
    wrong = np.arange(700) % 7 == 0
    folder, oof = write("a", wrong)
    write("other images", wrong, images=[f"{index}.jpg" for index in range(700)])
    for name, text in (("unscored", '{"oof_f1": null, "oof_f1_ci95": null}'), ("broken", "{"), ("a list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "score.json").write_text(text)
    (tmp_path / "other images" / "notes.txt").write_text("")
    other, _oof = write("other eval images", wrong)
    pd.DataFrame({"ImageID": [f"x{name}" for name in NAMES], "ans": 0}).to_csv(other / "submission.csv", index=False)
    assert ensemble.advise(folder, oof, NAMES) is None
    write("bad", np.arange(700) % 7 != 1)
    advised = ensemble.advise(folder, oof, NAMES)
    assert advised.first.folder == folder and advised.second is None
    assert "all else is worse by more than noise, or the same again" in "\n".join(ensemble.advice_lines(advised))
    assert ensemble.advise(folder, oof, [*NAMES, "one more.jpg"]) is None
