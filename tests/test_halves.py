"""halves.py: nobody is in both halves of a fold, and the answers are those of the pictures."""

import halves
import pandas as pd

import dataset
from dataset import decode


def test_each_half_is_judged_on_the_other(shared_data, tmp_path):
    halves.make(shared_data, tmp_path)
    sides = [set(dataset.read_people(tmp_path / name)["path"]) for name in "AB"]
    assert [len(side) for side in sides] == [12, 12] and not sides[0] & sides[1]
    for name, others in zip("AB", reversed(sides)):
        names, files = dataset.read_eval(tmp_path / name)
        answers = pd.read_csv(tmp_path / name / "eval" / "answers.csv").set_index("ImageID")["ans"]
        shown = [file.resolve() for file in files]
        assert {file.parent.name for file in shown} == others and len(names) == 7 * 12
        for image, file in zip(names, shown):
            mask, gender, age = decode(answers[image])
            assert mask == {"incorrect_mask": 1, "normal": 2}.get(file.stem, 0)
            assert file.parent.name.endswith(f"_{('male', 'female')[gender]}_Asian_{(22, 45, 60)[age]}")
