import itertools
import os

import benchmark
import numpy as np
import pytest
import torch
from conftest import gradient, save

import augment
import errors
from images import Geometry, decode

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def files(tmp_path):
    return [save(tmp_path / f"{n}.png", gradient(60 + 20 * n, 90)) for n in range(4)]


def photos(files, aug, geometry):
    return benchmark.Photos(files, np.arange(len(files))[:, None], geometry, benchmark.transform(aug, MEAN, STD))


@pytest.mark.parametrize("crop", [None, (80, 50)])
def test_an_undistorted_image_is_that_of_our_pipeline(files, crop):
    """The same crop, but for its rounding to whole pixels, and the same normalisation: colours differ by a hundredth."""
    geometry = Geometry(32, 24, crop)
    for index, file in enumerate(files):
        image, target = photos(files, "none", geometry)[index]
        theirs = augment.normalise(torch.tensor(decode(file, geometry))[None], MEAN, STD)[0]
        assert image.shape == theirs.shape == (3, 32, 24) and image.dtype == theirs.dtype
        torch.testing.assert_close(image.mean((1, 2)), theirs.mean((1, 2)), atol=0.01, rtol=0.01)
        assert target.tolist() == [index]


def test_levels_do_what_ours_do():
    names = {aug: [type(step).__name__ for step in benchmark.transform(aug, MEAN, STD).transforms] for aug in augment.AUGS}
    assert names["none"] == ["ToTensor", "Normalize"]
    assert names["light"] == ["RandomHorizontalFlip", *names["none"]]
    assert names["medium"] == ["RandomHorizontalFlip", "RandomAffine", "ColorJitter", *names["none"]]
    assert names["strong"] == [*names["medium"], "RandomErasing"]
    affine, colour = benchmark.transform("medium", MEAN, STD).transforms[1:3]
    assert (affine.degrees, affine.translate, affine.scale) == ([-10, 10], (0.06, 0.06), (0.9, 1.1))
    assert colour.brightness == colour.contrast == colour.saturation == (0.8, 1.2) and colour.hue is None


def test_batches_are_epochs_of_full_batches():
    order = benchmark.Shuffled(7, 3)
    batches = list(itertools.islice(iter(order), 6))
    for epoch in range(3):
        rows = batches[2 * epoch] + batches[2 * epoch + 1]
        assert len(set(rows)) == 6 and set(rows) <= set(range(7))
    assert batches[:2] != batches[2:4]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_runs_again_after_a_stop_with_the_same_workers(files, workers):
    loader = benchmark.Loader(photos(files, "medium", Geometry(32, 24)), 2, workers, pin_memory=False)
    processes = []
    for _turn in range(2):
        with loader.running() as batches:
            next(batches)
            for worker in getattr(batches, "_workers", []):
                for number in errors.EXIT_CODES:  # as a terminal or a scheduler sends one to all of them
                    os.kill(worker.pid, number)
            for _step in range(5):
                images, targets = next(batches)
                assert images.shape == (2, 3, 32, 24) and targets.shape == (2, 1) and targets.dtype == torch.int64
        assert next(batches, None) is None
        processes.append([worker.pid for worker in getattr(batches, "_workers", [])])
    assert len(processes[0]) == workers and processes[0] == processes[1]
