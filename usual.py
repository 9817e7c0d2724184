"""The usual way to feed a training, only to be measured against: DataLoader workers, Pillow, torchvision's transforms.

Every image is read, decoded, cropped, resized, changed and normalised anew at each access, by one of several processes.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

import augment
import errors
from images import Geometry, open_rgb

PREFETCH = 2  # batches that each worker is ahead, DataLoader's own default


def transform(aug, mean, std):
    """torchvision's transforms from a Pillow image to float32 [3, H, W] that do what a level of augment.py does."""
    flip, shift, scale, degrees, colour, erase = augment.LEVELS[aug]
    steps = []
    if flip:
        steps.append(transforms.RandomHorizontalFlip(flip))
    if degrees:
        zoom = (1 - scale, 1 + scale)
        steps.append(transforms.RandomAffine(degrees, (shift, shift), zoom, interpolation=InterpolationMode.BILINEAR))
    if colour:
        steps.append(transforms.ColorJitter(colour, colour, colour))
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    if erase:
        steps.append(transforms.RandomErasing(erase, augment.ERASED_AREA, ratio=(1 / 2, 2)))
    return transforms.Compose(steps)


def resize(image, geometry):
    """A Pillow image, cropped and resized as `geometry` says, to whole source pixels."""
    left, top, right, bottom = (round(edge) for edge in geometry.box(*image.size))
    size = (geometry.height, geometry.width)
    return functional.resized_crop(image, top, left, bottom - top, right - left, size, InterpolationMode.BICUBIC)


@dataclass(frozen=True)
class Photos:
    """A data set for a DataLoader: item i is (image float32 [3, H, W], its row of targets) of the i-th file."""

    files: list
    targets: np.ndarray
    geometry: Geometry
    change: Callable

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.change(resize(open_rgb(self.files[index]), self.geometry)), self.targets[index]


class Shuffled:
    """Batches of `size` indices below `count` in random order, epoch after epoch, until `stopped` is set."""

    def __init__(self, count, size):
        self.count, self.size, self.stopped = count, size, False
        self.generator = np.random.default_rng(0)

    def __iter__(self):
        while True:
            order = self.generator.permutation(self.count)
            for start in range(0, self.count - self.size + 1, self.size):
                if self.stopped:
                    return
                yield order[start : start + self.size].tolist()


class Loader:
    """A DataLoader over Photos whose workers stay, but have nothing to do outside of `running()`."""

    def __init__(self, photos, batch_size, workers, pin_memory):
        self.ahead = workers * PREFETCH
        self.order = Shuffled(len(photos), batch_size)
        self.loader = DataLoader(
            photos, batch_sampler=self.order, num_workers=workers, pin_memory=pin_memory,
            persistent_workers=workers > 0, prefetch_factor=PREFETCH if workers else None,
        )  # fmt: skip

    @contextlib.contextmanager
    def running(self):
        """An iterator of batches without end; on leaving, those that were asked for ahead are waited for and dropped."""
        self.order.stopped = False
        with errors.signals_blocked():  # for the workers, started the first time, which end when this process does
            batches = iter(self.loader)
        yield batches
        self.order.stopped = True
        for _batch in batches:
            pass
