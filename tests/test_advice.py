"""advice.py: which two results to hand in."""

import json

import numpy as np
import pandas as pd
import pytest
from simulated import KINDS, People

import advice
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
        oof = predictions.oof_table(rows, 0, "label", people.label[:, None], 0.01 + np.eye(18)[pred])
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
    advised = advice.advise(folder, oof.sample(frac=1, random_state=0), NAMES)
    assert (advised.first.folder.name, advised.second.folder.name) == ("a", "c")
    assert advised.phi == pytest.approx(np.corrcoef(wrong & (np.arange(700) >= 14), np.arange(700) % 7 == 4)[0, 1])
    assert advised.apart == 0.5 and advised.gap_ci95[0] <= 0 <= advised.gap_ci95[1]
    assert advised.gap == pytest.approx(advised.first.f1 - advised.second.f1)
    told = "\n".join(advice.lines(advised))
    assert f"1  {tmp_path / 'a'}: macro F1 {advised.first.f1:.4f}" in told and f"2  {tmp_path / 'c'}: macro F1" in told
    assert "noise" in told and "50.0% of answers differ" in told


def test_nothing_to_choose_from(people, write, tmp_path):
    wrong = np.arange(700) % 7 == 0
    folder, oof = write("a", wrong)
    write("other images", wrong, images=[f"{index}.jpg" for index in range(700)])
    for name, text in (("unscored", '{"oof_f1": null, "oof_f1_ci95": null}'), ("broken", "{"), ("a list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "score.json").write_text(text)
    (tmp_path / "other images" / "notes.txt").write_text("")
    assert advice.advise(folder, oof, NAMES) is None
    write("bad", np.arange(700) % 7 != 1)
    advised = advice.advise(folder, oof, NAMES)
    assert advised.first.folder == folder and advised.second is None
    assert "every other result is worse by more than noise" in "\n".join(advice.lines(advised))
    assert advice.advise(folder, oof, [*NAMES, "one more.jpg"]) is None
