"""dataset.py: classes and label code, folds, people, images, label fixes."""

import itertools
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
import files
from errors import InputError

# People of the competition by gender x age group (competition facts): the strata that folds must share out.
MARGINALS = {("female", 22): 732, ("female", 45): 817, ("female", 60): 109, ("male", 22): 549, ("male", 45): 410, ("male", 60): 83}  # fmt: skip


def test_label_code_is_mask_6_gender_3_age():
    """incorrect (1), female (1), >= 60 (2): 1 * 6 + 1 * 3 + 2 = 11."""
    assert dataset.encode(1, 1, 2) == 11
    assert dataset.LABELS[11] == "incorrect, female, >=60"


def test_decode_turns_encode_back():
    for number, parts in enumerate(itertools.product(range(3), range(2), range(3))):
        assert dataset.encode(*parts) == number
        assert dataset.decode(number) == parts
        assert dataset.class_components(number, "label") == dict(zip(dataset.COMPONENTS, parts))
    assert dataset.class_components(2, "mask") == {"mask": 2}


@pytest.mark.parametrize(("age", "bounds", "group"), [
    (29, (30, 60), 0), (30, (30, 60), 1), (59, (30, 60), 1), (60, (30, 60), 2), (29, (29, 59), 1), (59, (29, 59), 2),
])  # fmt: skip
def test_age_group_at_bounds(age, bounds, group):
    assert dataset.to_age_group(age, bounds) == group


def test_age_group_probs_cut_where_the_ages_are():
    """Mass 0.2 on 29, 0.3 on 30, 0.1 on 59, 0.4 on 60: at (30, 60) that is 0.2, 0.4, 0.4; at (29, 59) 0, 0.5, 0.5."""
    probs = np.zeros((1, len(dataset.AGES)))
    for age, mass in ((29, 0.2), (30, 0.3), (59, 0.1), (60, 0.4)):
        probs[0, age - dataset.FIRST_AGE] = mass
    np.testing.assert_allclose(dataset.age_group_probs(probs), [[0.2, 0.4, 0.4]])
    np.testing.assert_allclose(dataset.age_group_probs(probs, (29, 59)), [[0, 0.5, 0.5]])


def test_combine_and_marginals_are_inverse():
    rng = np.random.default_rng(0)
    parts = {name: rng.dirichlet(np.ones(size), 7) for name, size in (("mask", 3), ("gender", 2), ("age_group", 3))}
    joint = dataset.combine(**parts)
    product = parts["mask"][3, 2] * parts["gender"][3, 0] * parts["age_group"][3, 1]
    assert joint[3, dataset.encode(2, 0, 1)] == pytest.approx(product)
    for name, values in dataset.marginals(joint).items():
        np.testing.assert_allclose(values, parts[name])


def test_head_slices_cover_the_outputs():
    for target in dataset.TARGETS:
        covered = np.concatenate([np.arange(100)[part] for part in dataset.head_slices(target).values()])
        np.testing.assert_array_equal(covered, np.arange(dataset.num_outputs(target)))
    assert dataset.num_outputs("multi") == 8
    assert dataset.num_outputs("age") == 43


@pytest.mark.parametrize("target", ["label", "multi", "age_group"])
def test_the_auxiliary_ages_change_the_age_groups_alone(target):
    """Own groups of 0.2, 0.2, 0.6 and, of the years, 0.8, 0.2, 0: the means are 0.5, 0.2, 0.3."""

    def tables(*age_group):
        parts = {"mask": [[0.7, 0.1, 0.2]], "gender": [[0.4, 0.6]], "age_group": [age_group]}
        parts = {head: np.array(table) for head, table in parts.items()}
        return dataset.combine(**parts) if target == "label" else np.hstack([parts[head] for head in dataset.HEADS[target]])

    years = np.eye(63)[[20 - 18]] * 0.8 + np.eye(63)[[38 - 18]] * 0.2 + 1e-30
    probs = dataset.head_probs(target, np.log(np.hstack([tables(0.2, 0.2, 0.6), years])).astype(np.float32))
    np.testing.assert_allclose(probs, tables(0.5, 0.2, 0.3), atol=1e-6)


@pytest.fixture(scope="module")
def competition():
    """2,700 rows with the competition's marginals; the last two women under 30 are one id on two rows."""
    rows = [(gender, age) for (gender, age), count in MARGINALS.items() for _ in range(count)]
    ids = [f"{number:06d}" for number in range(len(rows))]
    twice = [index for index, row in enumerate(rows) if row == ("female", 22)][-2:]
    ids[twice[1]] = ids[twice[0]]
    people = pd.DataFrame(rows, columns=["gender", "age"]).assign(id=ids)
    people["path"] = [f"{name}_{gender}_{age}_{row}" for row, (name, (gender, age)) in enumerate(zip(ids, rows))]
    return people.assign(gender=(people["gender"] == "female").astype(int))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(2, 10), st.integers(0, 10**6))
def test_folds_share_out_every_stratum_in_any_order_of_the_rows(competition, kfold, seed):
    folds = dataset.assign_folds(competition, kfold, seed)
    strata = competition["gender"] * 1000 + competition["age"]
    for stratum in strata.unique():
        sizes = np.bincount(folds[strata == stratum], minlength=kfold)
        assert sizes.max() - sizes.min() <= 2  # one person, and one person may have two rows
    assert np.ptp(np.bincount(folds)) <= 2
    assert pd.DataFrame({"id": competition["id"], "fold": folds}).groupby("id")["fold"].nunique().max() == 1
    order = np.random.default_rng(seed).permutation(len(folds))
    np.testing.assert_array_equal(dataset.assign_folds(competition.iloc[order], kfold, seed), folds[order])
    assert (folds != dataset.assign_folds(competition, kfold, seed + 1)).mean() > 0.3


def test_folds_are_the_same_on_every_machine(competition):
    """Pinned: a change here changes everybody's folds between two versions."""
    assert dataset.assign_folds(competition, 5, seed=42)[:12].tolist() == [4, 0, 2, 2, 4, 1, 2, 4, 2, 3, 3, 3]


def test_folds_that_the_smallest_stratum_cannot_fill(competition):
    assert set(dataset.assign_folds(competition, 0, seed=1)) == {-1}  # nofold needs none
    with pytest.raises(InputError, match=r"--kfold 84.*male, age group 2\) has 83"):
        dataset.assign_folds(competition, 84, seed=42)
    with pytest.raises(InputError, match=r"--kfold 2: .* has 1 person; only --kfold 0 \(nofold\) is possible$"):
        dataset.assign_folds(competition[(competition["age"] < 60) | ~competition["age"].duplicated()], 2, seed=42)
    two = competition.groupby(["gender", "age"]).head(2)
    with pytest.raises(InputError, match=r"--kfold 3: .* has 2 people; --kfold can be 2 at most$"):
        dataset.assign_folds(two, 3, seed=42)


def test_limit_people_keeps_strata_and_leaves_enough_for_the_folds(competition):
    few = dataset.limit_people(competition, 100, 5, seed=42)
    assert len(few) == 100
    counts = few.groupby(["gender", "age"]).size()
    assert counts.min() >= 3
    assert counts.loc[1, 45] == pytest.approx(100 * 817 / 2699, abs=3)
    dataset.assign_folds(few, 3, seed=42)
    with pytest.raises(InputError, match=r"--limit-people 29.*at least 30"):
        dataset.limit_people(competition, 29, 5, seed=42)


@pytest.mark.parametrize("limit", [100, 101, 1000, 2500])
def test_limit_people_counts_people_as_rows(competition, limit):
    """Also where one person stands on two rows, in whatever seed's order."""
    everyone = competition.assign(id=competition["id"].where(competition.index % 50 != 1, competition["id"].shift(1)))
    assert everyone["id"].nunique() < 2650
    for seed in range(4):
        assert [len(dataset.limit_people(people, limit, 5, seed)) for people in (competition, everyone)] == [limit] * 2
    assert len(dataset.limit_people(competition, 2699, 5, 42)) < 2700


def test_limit_people_leaves_out_who_does_not_fit(competition):
    """Everyone on two rows, ten people a stratum: in 51 rows are 24 or 25 people, in 23 not two of each of six strata."""
    twenty = competition.groupby(["gender", "age"]).head(20).reset_index(drop=True)
    twins = twenty.assign(id=[f"{row // 2:06d}" for row in range(120)])
    few = dataset.limit_people(twins, 51, 2, seed=1)
    assert few["id"].nunique() in (24, 25) and len(few) == 2 * few["id"].nunique()
    dataset.assign_folds(few, 2, seed=1)
    with pytest.raises(InputError, match=r"--limit-people 23: with --kfold 2 at least 24 people are needed"):
        dataset.limit_people(twins, 23, 2, seed=1)


def test_people_and_images_are_read_past_the_dot_files(shared_data):
    people = dataset.read_people(shared_data)
    images = dataset.list_images(shared_data, people)
    assert len(people) == 24
    assert people["id"][0] == "000000-1"
    assert len(images) == 24 * 7
    assert not images["image"].str.contains(r"\._").any()
    assert images.groupby("mask").size().tolist() == [120, 24, 24]
    row = images[images["path"] == "000003_female_Asian_45"].iloc[6]
    assert (row["image"], row["label"]) == ("000003_female_Asian_45/normal.jpg", 2 * 6 + 1 * 3 + 1)


def test_training_labels_follow_bounds_and_official_ones_do_not(shared_data):
    images = dataset.list_images(shared_data, dataset.read_people(shared_data))
    assert dataset.head_targets(images, ("age_group",), (20, 22))[0, 0] == 2
    assert dataset.head_targets(images, ("age_group",))[0, 0] == 0
    assert dataset.head_targets(images, ("age",))[0, 0] == 22
    np.testing.assert_array_equal(dataset.head_targets(images, ("label",))[:, 0], images["label"])


def test_folder_missing_on_disk_empty_or_incomplete(data):
    people = dataset.read_people(data)
    folder = data / "train" / "images" / people["path"][1]
    for name in ("mask1.jpg", "mask2.png", "mask3.jpeg"):
        (folder / name).unlink()
    (folder / "mask1.jpg").mkdir()
    (folder / "mask2.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "mask3.jpg")  # which would be waited for
    with pytest.raises(InputError, match=r"000001.*: mask1, mask2, mask3 missing; complete it or pass --skip-bad-images"):
        dataset.list_images(data, people)
    assert len(dataset.list_images(data, people, skip_missing=True)) == 12 * 7 - 3
    (folder / "mask4.png").write_bytes((folder / "mask4.jpg").read_bytes())
    with pytest.raises(InputError, match=r"mask4.jpg and mask4.png are both there"):
        dataset.list_images(data, people, skip_missing=True)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(InputError, match=r"000001.*holds no images"):
        dataset.list_images(data, people)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"000001.*train.csv names this folder"):
        dataset.list_images(data, people)


def test_capitals_and_tiff_are_read(data):
    people = dataset.read_people(data)
    before = dataset.list_images(data, people)
    folder = data / "train" / "images" / people["path"][0]
    images = {dataset.image_kind(file): file for file in folder.iterdir() if dataset.image_kind(file) in dataset.IMAGE_KINDS}
    images["mask1"].rename(folder / "Mask1.JPG")
    images["normal"].rename(folder / "NORMAL.Tiff")
    after = dataset.list_images(data, people)
    assert after["image"][0].endswith("/Mask1.JPG") and after["image"][6].endswith("/NORMAL.Tiff")
    pd.testing.assert_frame_equal(after.drop(columns="image"), before.drop(columns="image"))
    assert [dataset.image_kind(image) for image in after["image"][:7]] == list(dataset.IMAGE_KINDS)
    (folder / "mask1.jpg").touch()
    with pytest.raises(InputError, match=r"Mask1.JPG and mask1.jpg are both there"):
        dataset.list_images(data, people)


def test_a_folder_that_lies_there_by_another_spelling_is_told_as_that(data):
    people = dataset.read_people(data)
    images = data / "train" / "images"
    (images / people["path"][2]).rename(images / "anne")
    people.loc[2, "path"] = "Anne"
    with pytest.raises(InputError, match=r"it is not there; it lies there as 'anne'; rename or convert it$"):
        dataset.list_images(data, people)


@pytest.mark.parametrize("change", [None, str.upper, lambda name: name[:-3] + "png", lambda name: name[:-3] + "heic"])
def test_an_eval_image_that_is_missing_or_lies_there_by_another_name_is_told_as_that(data, change):
    _folder, names, files = dataset.read_eval(data)
    assert [file.name for file in files] == names
    files[2].rename(files[2].with_name(change(names[2]) if change else "x.jpg"))
    lies = f"; it lies there as '{change(names[2])}'" if change else ""
    with pytest.raises(InputError, match=rf"info.csv, line 4: image '{names[2]}' is no file in [^;]*{lies}"):
        dataset.read_eval(data)


def test_label_fixes_change_training_labels_and_leave_the_official_ones(data, tmp_path):
    people = dataset.read_people(data)
    images = dataset.list_images(data, people)
    path = tmp_path / "fixes.csv"
    path.write_text(
        "path,column,value,confidence\n000001,gender,male,1\n000002_male_Asian_45,mask,swap,0.95\n"
        "000003,age,60,\n000004,gender,swap,0.5\n"
    )
    fixes, left_out = dataset.read_label_fixes(path, people, 0.9)
    fixed = dataset.apply_label_fixes(images, fixes)
    assert (len(fixes), left_out) == (3, 1)
    assert fixed[fixed["id"] == "000001"]["gender"].tolist() == [0] * 7
    assert fixed[fixed["id"] == "000002"]["mask"].tolist() == [0] * 5 + [2, 1]
    assert fixed[fixed["id"] == "000003"]["age"].tolist() == [60] * 7
    pd.testing.assert_frame_equal(fixed[fixed["id"] == "000004"], images[images["id"] == "000004"])
    pd.testing.assert_series_equal(fixed["label"], images["label"])


def test_a_label_fix_by_id_reaches_all_rows_of_the_id(tmp_path):
    people = pd.DataFrame({"path": ["7_a", "7_b", "8_a"], "id": ["7", "7", "8"]})
    (tmp_path / "fixes.csv").write_text("path,column,value,,\n7,age,60,,\n7_b,gender,male,,\n")  # trailing commas
    fixes, _ = dataset.read_label_fixes(tmp_path / "fixes.csv", people, 0.9)
    assert fixes.values.tolist() == [["7_a", "age", "60"], ["7_b", "age", "60"], ["7_b", "gender", "male"]]


def test_same_people_are_joined_over_others_and_stay_in_one_fold(shared_data, tmp_path):
    """b = d, e = c and c = d make b, c, d, e one person. 000001, 000007 and 000013 are alike, and so in both folds without."""
    people = pd.DataFrame({"path": [*"edcba"], "id": [*"edcba"]})
    same = pd.DataFrame([["b", "d"], ["e", "c"], ["c", "d"]])
    assert dataset.join_people(people, same)["id"].tolist() == [*"bbbba"] and people["id"].tolist() == [*"edcba"]
    everyone, file = dataset.read_people(shared_data), tmp_path / "same.csv"
    file.write_text("id,same_as,likeness\n000001,000007,0.9\n000007,000013,\n")
    joined = dataset.join_people(everyone, dataset.read_same_people(file, everyone))
    folds = {
        kind: dataset.assign_folds(people, 2, 3)[[1, 7, 13]].tolist() for kind, people in (("apart", everyone), ("one", joined))
    }
    assert len(set(folds["apart"])) == 2 and len(set(folds["one"])) == 1
    file.write_text("id,same_as,likeness\n")  # eda.py found nobody
    assert dataset.join_people(everyone, dataset.read_same_people(file, everyone)).equals(everyone)
    file.write_text("id,same_as\n000001,000007\n000001,1\n")
    with pytest.raises(InputError, match=r"same.csv, line 3: '1' is no id of train.csv"):
        dataset.read_same_people(file, everyone)


def test_shipped_label_fixes_hold_what_teams_agree_on():
    table = files.read_csv("label_fixes.csv", ("path", "column", "value", "confidence"))
    certain = table[table["confidence"] == "1.0"]
    counts = {("gender", "female"): 2, ("gender", "male"): 6, ("mask", "swap"): 3}
    assert certain.groupby(["column", "value"]).size().to_dict() == counts
    assert len(table) == 11 + 17 + 6


def test_fixes_of_other_data_are_no_misspelt_ids(shared_data):
    """Those of the contest beside another set that has some of its ids, as the demo set: it is said for which data they are."""
    with pytest.raises(InputError, match=r"label_fixes.csv: 3\d of its 34 people .*006359, .*for the competition's$"):
        dataset.read_label_fixes("label_fixes.csv", dataset.read_people(shared_data), 0.9)


def test_softmax():
    logits = np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]])
    probs = dataset.softmax(logits)
    assert probs.dtype == np.float32
    assert probs == pytest.approx(np.array([[0.125, 0.25, 0.625], [0.375, 0.375, 0.25]]))
    assert dataset.softmax(np.float16([[6e4, -6e4, 0]])).tolist() == [[1, 0, 0]]
    assert dataset.softmax(np.float64([[[1e300, 1e300]]])).tolist() == [[[0.5, 0.5]]]
    assert dataset.softmax(np.float16([[1, 0]]))[0, 0] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-7)
