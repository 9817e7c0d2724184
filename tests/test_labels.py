import itertools

import numpy as np
import pytest

import dataset


def test_label_code_is_mask_6_gender_3_age():
    """incorrect (1), female (1), >= 60 (2): 1 * 6 + 1 * 3 + 2 = 11."""
    assert dataset.encode(1, 1, 2) == 11
    assert dataset.LABELS[11] == "incorrect, female, >=60"


def test_decode_turns_encode_back():
    for number, parts in enumerate(itertools.product(range(3), range(2), range(3))):
        assert dataset.encode(*parts) == number
        assert dataset.decode(number) == parts


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
    assert joint[3, dataset.encode(2, 0, 1)] == pytest.approx(
        parts["mask"][3, 2] * parts["gender"][3, 0] * parts["age_group"][3, 1]
    )
    for name, values in dataset.marginals(joint).items():
        np.testing.assert_allclose(values, parts[name])


def test_head_slices_cover_the_outputs():
    for target in dataset.TARGETS:
        covered = np.concatenate([np.arange(100)[part] for part in dataset.head_slices(target).values()])
        np.testing.assert_array_equal(covered, np.arange(dataset.num_outputs(target)))
    assert dataset.num_outputs("multi") == 8
    assert dataset.num_outputs("age") == 43


def test_encode_round_trip_of_parts():
    classes = np.arange(18)
    assert (dataset.encode(*dataset.class_parts(classes, "label").values()) == classes).all()
    assert list(dataset.class_parts(classes % 3, "mask")) == ["mask"]
