import numpy as np
import pytest

import engine

ROWS = np.arange(100, 200)
CLASSES = np.repeat([0, 1, 2], [80, 16, 4])  # sizes whose square roots are 8.94, 4, 2
PERSONS = np.arange(100) // 7


def order(sampler="shuffle", seed=42, fold=0, epoch=1):
    return engine.epoch_order(ROWS, seed, fold, epoch, sampler, CLASSES, PERSONS)


@pytest.mark.parametrize("sampler", engine.SAMPLERS)
def test_an_order_is_a_pure_function(sampler):
    np.testing.assert_array_equal(order(sampler), order(sampler))
    for other in ({"seed": 43}, {"fold": 1}, {"epoch": 2}):
        assert order(sampler).tolist() != order(sampler, **other).tolist()


def test_shuffle_shows_every_row_once():
    np.testing.assert_array_equal(np.sort(order()), ROWS)


@pytest.mark.parametrize(("sampler", "expected"), [
    ("balanced", np.array([100, 100, 100]) / 3),
    ("sqrt", 100 * np.sqrt([80, 16, 4]) / np.sqrt([80, 16, 4]).sum()),
])  # fmt: skip
def test_classes_come_in_proportion_and_images_of_one_evenly(sampler, expected):
    """Every image comes the whole part of its expected number of times, or once more; so do classes, nearly."""
    for epoch in range(1, 6):
        times = np.bincount(order(sampler, epoch=epoch) - 100, minlength=100)
        assert times.sum() == 100
        for label, share in enumerate(expected):
            mine = times[label == CLASSES]
            each = share / len(mine)
            assert set(mine) <= {int(each), int(each) + 1}
            assert abs(mine.sum() - share) < 3 * np.sqrt(len(mine) / 4) + 1


def test_no_order_of_rows_or_persons_is_left():
    """Of 100 draws some 25 are of the four rare images, which would stand side by side eight at a time."""
    assert (np.diff(order("balanced")) == 0).sum() < 12
    persons = PERSONS[order("person") - 100]
    assert (np.diff(persons) > 0).sum() < 12


def test_images_of_a_class_take_turns_over_the_epochs():
    """Of 80 images of the common class 33.3 come an epoch: in 12 epochs nearly all of them came."""
    seen = {row for epoch in range(1, 13) for row in order("balanced", epoch=epoch)}
    assert len(seen) >= 97


def test_one_image_of_each_person_and_others_in_other_epochs():
    first, second = order("person"), order("person", epoch=2)
    for shown in (first, second):
        assert sorted(PERSONS[shown - 100]) == list(range(15))
    assert len(set(first) & set(second)) < 10


def test_systematic_by_hand():
    """Weights 0.5, 0.3, 0.2 and 4 draws: edges at 2, 3.2, 4; points 0.25, 1.25, 2.25, 3.25 fall to 0, 0, 1, 2."""
    assert engine.systematic(np.array([0.5, 0.3, 0.2]), 4, 0.25).tolist() == [0, 0, 1, 2]
    assert engine.systematic(np.array([0.5, 0.3, 0.2]), 4, 0.0).tolist() == [0, 0, 1, 1]


def test_rarity_by_hand():
    """Sizes 3 and 1: one over them 1/3, 1/3, 1/3, 1, of a sum of 2."""
    np.testing.assert_allclose(engine.rarity(np.array([7, 7, 7, 9]), 1.0), [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    np.testing.assert_allclose(engine.rarity(np.array([7, 7, 7, 9]), 0.0), [0.25] * 4)


def draws(partners, row, count=3000):
    return partners.draw(np.full(count, row), (np.arange(count) + 0.5) / count)


def test_partners_are_any_training_row_equally_often():
    found = draws(engine.Partners.of(np.array([2, 5, 9]), 10), 0)
    assert {row: (found == row).sum() for row in (2, 5, 9)} == {2: 1000, 5: 1000, 9: 1000}


def test_partners_have_the_same_mask_state():
    masks = np.array([0, 0, 1, 1, 0, 2])
    partners = engine.Partners.of(np.arange(6), 6, same=masks)
    for row in range(6):
        assert set(masks[draws(partners, row, 50)]) == {masks[row]}
    assert set(draws(partners, 0)) == {0, 1, 4} and set(draws(partners, 5)) == {5}


def test_rare_partners_come_from_every_class_equally_often():
    classes = np.array([0, 0, 0, 0, 1, 2])
    found = draws(engine.Partners.of(np.arange(6), 6, classes=classes), 0)
    assert np.bincount(classes[found]).tolist() == [1000, 1000, 1000]
