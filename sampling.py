"""Which training images an epoch shows, in what order, and with which others they are mixed.

Everything is a pure function of (seed, fold, epoch, step): nothing has to be saved to resume exactly, and processes that
share a step agree without talking.

| sampler | an epoch |
| --- | --- |
| shuffle | each image once, but for those that fill no step: in each epoch others |
| balanced | as many images, each class equally often |
| sqrt | as many images, each class in proportion to the square root of its size |
| person | one image of each person, drawn anew for each epoch, which is a seventh as long |

balanced and sqrt are the class-balanced and square-root sampling of Kang et al. 2020, "Decoupling Representation and Classifier
for Long-Tailed Recognition" (arXiv 1910.09217; sqrt after Mahajan et al. 2018, arXiv 1805.00932). person is ours: seven
pictures of a person are nearly one sample where gender and age are learnt.
"""

from dataclasses import dataclass

import numpy as np

from files import draw_seed

SAMPLERS = {"shuffle": None, "balanced": 1.0, "sqrt": 0.5, "person": None}  # the power of a class's size that is divided by


def generator(*key):
    """A numpy generator whose numbers are a pure function of `key`, as cache.draw_seed takes it."""
    return np.random.Generator(np.random.PCG64(draw_seed(*key)))


def epoch_order(rows, seed, fold, epoch, sampler="shuffle", classes=None, persons=None):
    """The rows (int64 array) in the order in which an epoch shows them.

    classes, persons: int64 [len(rows)], needed by the samplers that go by them. Classes are oversampled by systematic
    sampling: of its expected number of times in the epoch every image gets the whole part, and the next whole number where
    chance says so; drawing each image alone, as torch's WeightedRandomSampler does, adds noise and no balance.
    """
    draw = generator("order", seed, fold, epoch)
    if sampler == "person":
        shuffled = draw.permutation(len(rows))
        return rows[shuffled[np.unique(persons[shuffled], return_index=True)[1]]][draw.permutation(len(np.unique(persons)))]
    if SAMPLERS[sampler] is None:
        return draw.permutation(rows)
    shuffled = draw.permutation(len(rows))
    return draw.permutation(rows[shuffled[systematic(rarity(classes, SAMPLERS[sampler])[shuffled], len(rows), draw.random())]])


def rarity(classes, power):
    """Weights float64 [N] of images that sum to 1: one over the size of the image's class to the `power`."""
    _classes, of_image, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    weights = sizes[of_image] ** -float(power)
    return weights / weights.sum()


def systematic(weights, count, offset):
    """Indices int64 [count], ascending: index i occurs floor or ceil of count * weights[i] times; 0 <= offset < 1."""
    edges = np.cumsum(weights) * count
    return np.searchsorted(edges / edges[-1] * count, np.arange(count) + offset, side="right").clip(max=len(weights) - 1)


@dataclass(frozen=True)
class Partners:
    """From whom the other image of a mix comes: `pools` {key: (rows, their cumulated weights up to 1)}, `key_of` [N of store].

    One pool of all training rows has the key 0; with `same` [N of store] given a row's partners have the row's own value.
    """

    pools: dict
    key_of: np.ndarray

    @classmethod
    def of(cls, rows, total, same=None, classes=None):
        """rows: the training rows, of `total` in the store. classes [len(rows)]: every class is drawn equally often."""
        key_of = np.zeros(total, dtype=np.int64) if same is None else same
        pools = {}
        for key in np.unique(key_of[rows]).tolist():
            mine = key_of[rows] == key
            weights = np.full(mine.sum(), 1 / mine.sum()) if classes is None else rarity(classes[mine], 1.0)
            pools[key] = (rows[mine], np.cumsum(weights))
        return cls(pools, key_of)

    def draw(self, rows, uniform):
        """A partner for each of `rows` by its number `uniform` in 0..1."""
        found = np.empty_like(rows)
        for key, (pool, edges) in self.pools.items():
            mine = self.key_of[rows] == key
            places = np.searchsorted(edges, uniform[mine] * edges[-1], side="right").clip(max=len(pool) - 1)
            found[mine] = pool[places]
        return found
