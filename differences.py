"""What two sets of answers to the same images differ in, and what that is worth: pure numpy, files and people apart.

Answers are class indices [N] of `scored_as` (label, mask, gender or age_group), probabilities are [N, C] or None.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import metrics
from dataset import CLASS_NAMES, MASK_PRIOR, class_parts, marginals

NEAR_BOUNDARY = "27-32 and 57 or more"  # years, see near_boundary


def common_part(scored_a, scored_b):
    """What answers scored as these two can both be compared on: the same, or the part that one of them decides; else None."""
    if scored_a == scored_b or scored_b == "label":
        return scored_a
    return scored_b if scored_a == "label" else None


def narrow(classes, scored_as, part):
    """Classes of `scored_as` as classes of `part`, which is the same or a part of the label."""
    return classes if part == scored_as else class_parts(classes, scored_as)[part]


def narrow_probs(probs, scored_as, part):
    """Probabilities of `scored_as` as those of `part`: its marginals where `scored_as` is the label."""
    return probs if part == scored_as else marginals(probs)[part]


def changed_words(index_a, index_b, scored_as):
    """[(part, word of A, word of B)] of two classes; the words are equal where the part did not change."""
    pairs = zip(class_parts(index_a, scored_as).items(), class_parts(index_b, scored_as).values())
    return [(part, CLASS_NAMES[part][one], CLASS_NAMES[part][other]) for (part, one), other in pairs]


@dataclass
class Comparison:
    """Answers of A and B, int64 [N] classes of `scored_as`, to `images`; their probabilities [N, C], or None where unknown."""

    scored_as: str
    images: list
    a: np.ndarray
    b: np.ndarray
    probs_a: np.ndarray | None
    probs_b: np.ndarray | None

    @property
    def names(self):
        return CLASS_NAMES[self.scored_as]

    @cached_property
    def rows(self):
        """Rows that differ, int64 [D]: the most certain disagreements first."""
        differ = np.flatnonzero(self.a != self.b)
        sure = self.certainty
        return differ if sure is None else differ[np.argsort(-sure[differ], kind="stable")]

    @cached_property
    def own_probs(self):
        """What A and B give their own answers, a pair of float64 [N] or None."""
        return probs_of(self.probs_a, self.a), probs_of(self.probs_b, self.b)

    @cached_property
    def certainty(self):
        """How sure the less sure of the two is of its own answer [N], of those whose probabilities are known; else None."""
        own = [each for each in self.own_probs if each is not None]
        return np.min(own, axis=0) if own else None

    @cached_property
    def flows(self):
        """[(class of A, class of B, count)] of the rows that differ, the most frequent first."""
        pairs, counts = np.unique(np.stack([self.a, self.b], 1)[self.rows], axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(*pairs[index].tolist(), int(counts[index])) for index in order]

    @cached_property
    def part_changes(self):
        """{part: rows in which it differs}; a row may differ in more than one."""
        both = zip(class_parts(self.a, self.scored_as).items(), class_parts(self.b, self.scored_as).values())
        return {part: int((one != other).sum()) for (part, one), other in both}

    @property
    def class_counts(self):
        """How often A and B answer each class: two int64 [C]."""
        return np.bincount(self.a, minlength=len(self.names)), np.bincount(self.b, minlength=len(self.names))

    @cached_property
    def expected_f1(self):
        """Expected F1 of each class for A and for B, two float64 [C], or None where no probabilities are known."""
        known = [probs for probs in (self.probs_a, self.probs_b) if probs is not None]
        if not known:
            return None
        probs = np.mean(known, axis=0)
        return expected_f1_difference(self.a, probs), expected_f1_difference(self.b, probs)

    def part_counts(self):
        """[(part, word, count of A, count of B, count expected by the prior or None)] of every class of every part."""
        both = zip(class_parts(self.a, self.scored_as).items(), class_parts(self.b, self.scored_as).values())
        table = []
        for (part, one), other in both:
            for index, word in enumerate(CLASS_NAMES[part]):
                prior = len(self.images) * MASK_PRIOR[index] if part == "mask" else None
                table.append((part, word, int((one == index).sum()), int((other == index).sum()), prior))
        return table


def probs_of(probs, answers):
    """Each row's probability of its own answer [N], None for None."""
    return None if probs is None else probs[np.arange(len(answers)), answers]


def expected_f1_difference(answers, probs):
    """F1 of each class, float64 [C], that answers [N] can expect if `probs` [N, C] are the chances of the true classes.

    2 E[tp] / (times answered + E[images]): the expected true positives of class c are the sum of probs[:, c] over the rows
    that answer c, its expected images the sum over all rows. A class that is neither answered nor expected has 0.
    """
    C = probs.shape[1]
    hits = np.bincount(answers, weights=probs_of(probs, answers), minlength=C)
    times = np.bincount(answers, minlength=C) + probs.sum(0)
    return np.divide(2 * hits, times, out=np.zeros(C), where=times > 0)


def ages(paths):
    """Ages, int64 [N], from the end of person folders such as '000001_female_Asian_45'; None where one has no age."""
    ends = [str(path).rpartition("_")[2] for path in paths]
    return np.array(ends, dtype=np.int64) if ends and all(end.isascii() and end.isdigit() for end in ends) else None


def near_boundary(years):
    """Which ages (int array) are those where the age groups meet: 27..32, and from 57 on (old people are all 60)."""
    return ((years >= 27) & (years <= 32)) | (years >= 57)


@dataclass(frozen=True)
class Paired:
    """Macro F1 of A and B on the same images, and the 95 % interval (low, high) of A - B from `units` drawn units."""

    f1_a: float
    f1_b: float
    low: float
    high: float
    units: int

    @property
    def difference(self):
        return self.f1_a - self.f1_b

    @property
    def verdict(self):
        """'A is better' or 'B is better' when the interval leaves out 0, else 'noise'."""
        return "A is better" if self.low > 0 else "B is better" if self.high < 0 else "noise"

    def __str__(self):
        numbers = self.difference, self.low, self.high
        digits = 4 if any(0 < abs(number) < 0.0005 for number in numbers) else 3
        difference, low, high = (f"{number:+.{digits}f}" for number in numbers)
        return f"A - B = {difference}, 95 % CI {low} .. {high}: {self.verdict}"

    def units_to_tell(self):
        """How many units would make the interval leave out 0 if the difference stayed: its width falls as 1 / sqrt(units).

        units (half width / |difference|)^2; None where the difference is 0.
        """
        if abs(self.difference) < 1e-9:
            return None
        return self.units * ((self.high - self.low) / 2 / abs(self.difference)) ** 2


def paired(truth, a, b, persons, num_classes, resamples=2000):
    """The Paired of answers a and b [N] to images with true classes `truth` [N]; whole persons [N] are drawn, both alike."""
    samples = metrics.bootstrap_difference(truth, a, b, persons, num_classes, resamples)
    scores = (metrics.macro_f1(truth, answers, num_classes) for answers in (a, b))
    return Paired(*scores, *metrics.interval(samples), len(set(persons)))


def signed(number, digits=4):
    """'+0.0012'; what rounds to nothing has no sign."""
    text = f"{number:+.{digits}f}"
    return text if float(text) else text[1:]


def two_digits(number):
    """'4,300' of 4,271: a number from 1 on, rounded to two digits, with commas."""
    return f"{round(number, 1 - math.floor(math.log10(number))):,.0f}"
