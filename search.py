"""What is fitted on out-of-fold predictions to combine members: greedy selection, weights, a stacker; and cross-fitting.

Members are lists of (target, probabilities [N, num_outputs(target)]), as blend.blend takes them, and truth is the official
label of each row, integers [N] in 0..17. Everything is a function of arrays and deterministic. Fitted on some people's
predictions these score too well on the same people; `crossfit` gives the probabilities that an honest score needs.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import blend
import metrics
from dataset import AGE_GROUPS, COMPONENTS, GENDERS, LABELS, OFFICIAL_BOUNDS, combine, decode, marginals
from errors import InputError

CLASSES = len(LABELS)
PART_CLASSES = dict(zip(COMPONENTS, decode(np.arange(CLASSES))))  # of each label: its mask, its gender, its age group
STACK_C = 0.1  # of 0.01, 0.1, 1 and 10 the best, cross-fitted, on 300 simulated people and three members (three seeds)
LOG_FLOOR = 1e-6  # below it the logarithm of a probability says more about rounding than about the image


@dataclass(frozen=True)
class Selection:
    """Weights of the members (sum 1), and the path to them: (member, macro F1 once it joined) until the best."""

    weights: list
    trace: list


# ---- sums: what a blend adds up, so that a member can join for the price of one -------------------------------------


@dataclass
class _Sums:
    """Weighted sums {part or "label": [N, C]} of members' probabilities and sums {...: number} of their weights."""

    sums: dict
    totals: dict

    def plus(self, parts, weight=1.0):
        """The sums with one more member, {part: probabilities [N, C]}, or with a part's weight changed by `weight`."""
        sums = {**self.sums, **{part: self.sums.get(part, 0.0) + weight * probs for part, probs in parts.items()}}
        return _Sums(sums, {**self.totals, **{part: self.totals.get(part, 0.0) + weight for part in parts}})

    def each(self, change):
        """The sums with `change(sums)` of every part, such as some of the rows."""
        return _Sums({part: change(sums) for part, sums in self.sums.items()}, self.totals)

    def has_product(self):
        """Whether a member that is not of target label takes part."""
        return any(part in self.totals for part in COMPONENTS)

    def means(self):
        """{part: [N, C]}, the members' mean probabilities of the parts; label members' marginals where only those decide."""
        label = marginals(self.sums["label"] / self.totals["label"]) if "label" in self.sums else {}
        return label | {part: self.sums[part] / self.totals[part] for part in COMPONENTS if part in self.sums}

    def product_weight(self):
        return sum(self.totals.get(part, 0.0) for part in COMPONENTS) / len(COMPONENTS)

    def scores(self):
        """blend.blend's probabilities times the sum of weights: [N, 18]. None of them falls where a sum rises."""
        if not self.has_product():
            return self.sums["label"]
        means = self.means()
        product = self.product_weight() * combine(*(means[part] for part in COMPONENTS))
        return product + self.sums["label"] if "label" in self.sums else product

    def f1(self, truth):
        return metrics.macro_f1(truth, self.scores().argmax(1), CLASSES)


# ---- greedy selection ----------------------------------------------------------------------------------------------


@dataclass
class _Kind:
    """All members that give the same parts, side by side: tables {part: float32 [N, C, M]}, their least and greatest."""

    parts: tuple
    members: np.ndarray
    tables: dict
    least: dict
    greatest: dict


def _stack(tables):
    """[N, C, M] float32 of M tables [N, C], in blocks of rows that stay in the processor's cache."""
    stacked = np.empty((*tables[0].shape, len(tables)), dtype=np.float32)
    for start in range(0, len(stacked), 256):
        rows = slice(start, start + 256)
        np.stack([table[rows] for table in tables], axis=-1, out=stacked[rows], casting="same_kind")
    return stacked


def _make_kinds(given):
    """The kinds of members that give the parts `given`, a list of {part or "label": [N, C]}."""
    by_parts = {}
    for index, parts in enumerate(given):
        by_parts.setdefault(tuple(parts), []).append(index)
    kinds = []
    for parts, indices in by_parts.items():
        tables = {part: _stack([given[index][part] for index in indices]) for part in parts}
        if parts == ("label",) and len(by_parts) > 1:
            label = [marginals(given[index]["label"]) for index in indices]
            tables |= {part: _stack([each[part] for each in label]) for part in COMPONENTS}
        least = {part: np.asfortranarray(table.min(-1)) for part, table in tables.items()}
        greatest = {part: np.asfortranarray(table.max(-1)) for part, table in tables.items()}
        kinds.append(_Kind(parts, np.array(indices), tables, least, greatest))
    return kinds


def _joined_f1(state, kind, truth):
    """Macro F1 of `state` with one more member, for each of the members of a kind: float64 [M].

    Only rows whose prediction some member can change are computed, and of their classes only those that can win: the
    score of a class lies between those with the least and with the greatest probabilities of any member of the kind.
    """
    state = state.each(np.float32)
    after = state.plus({part: kind.least[part] for part in kind.parts})
    low, high = after.scores(), state.plus({part: kind.greatest[part] for part in kind.parts}).scores()
    contends = high >= low.max(1, keepdims=True) * (1 - 1e-5)  # a little more than needed, for rounding
    count = contends.sum(1)
    sure = np.flatnonzero(count == 1)
    pred = contends[sure].argmax(1)
    right = np.bincount(pred[pred == truth[sure]], minlength=CLASSES)
    taken = np.bincount(pred, minlength=CLASSES)

    rows = np.flatnonzero(count > 1)
    rows = rows[np.argsort(-count[rows], kind="stable")]
    classes = np.nonzero(contends[rows])[1].astype(np.uint8)  # all contenders of the first row, then of the second, ...
    first = np.cumsum(count[rows]) - count[rows]
    value_of = _contender_values(state, after, kind, rows)
    best = value_of(classes[first])
    pred = np.repeat(classes[first][:, None], len(kind.members), axis=1)
    for place in range(1, count[rows].max(initial=1)):
        n = int((count[rows] > place).sum())
        rivals = classes[first[:n] + place]
        values = value_of(rivals)
        np.copyto(pred[:n], rivals[:, None], where=values > best[:n])
        np.maximum(best[:n], values, out=best[:n])
    hit = pred == truth[rows, None].astype(np.uint8)
    cell = pred + CLASSES * np.arange(len(kind.members))  # of a table of members and classes
    shape = (len(kind.members), CLASSES)
    taken = taken + np.bincount(cell.ravel(), minlength=cell.shape[1] * CLASSES).reshape(shape)
    right = right + np.bincount(cell[hit], minlength=cell.shape[1] * CLASSES).reshape(shape)
    return metrics._mean_f1(2 * right, taken + np.bincount(truth, minlength=CLASSES))


def _contender_values(state, after, kind, rows):
    """A function of classes [n] that gives the scores of the first n of `rows` for these classes: float32 [n, M].

    It is `after.scores()` for every member of the kind: what does not depend on the member is multiplied out before.
    """
    state, scale = state.each(lambda sums: sums[rows]), np.full((len(rows), CLASSES), np.float32(after.product_weight()))
    means = state.means() if after.has_product() else {}
    changed = {}
    for part in means:
        if part in kind.parts:
            changed[part] = np.broadcast_to(state.sums.get(part, np.float32(0)), (len(rows), kind.tables[part].shape[1]))
            scale = scale / np.float32(after.totals[part])
        elif kind.parts == ("label",) and part not in state.sums:
            changed[part] = means[part] * np.float32(state.totals["label"])
            scale = scale / np.float32(after.totals["label"])
        else:
            scale = scale * means[part][:, PART_CLASSES[part]]
    label = state.sums.get("label", np.zeros_like(scale))
    flat = {part: table.reshape(-1, table.shape[-1]) for part, table in kind.tables.items()}

    def take(part, classes):
        return flat[part].take(rows[: len(classes)] * kind.tables[part].shape[1] + classes, axis=0)

    def values(classes):
        n = np.arange(len(classes))
        score = take("label", classes) if "label" in kind.parts else np.float32(0)
        score = score + label[n, classes][:, None]
        if after.has_product():
            product = scale[n, classes][:, None]
            for part, base in changed.items():
                of_part = PART_CLASSES[part][classes]
                product = product * (take(part, of_part) + base[n, of_part][:, None])
            score = score + product
        return score

    return values


def _alone(parts, truth):
    """Macro F1 of one member {part or "label": [N, C]}: of the label where it decides that, else of its part."""
    if len(parts) == 1 and "label" not in parts:
        ((part, probs),) = parts.items()
        return metrics.macro_f1(decode(truth)[COMPONENTS.index(part)], probs.argmax(1), probs.shape[1])
    return _Sums({}, {}).plus(parts).f1(truth)


def _start(given, truth):
    """The members to begin with: the best that decides the label alone, or the best one of each part."""
    alone = [_alone(parts, truth) for parts in given]
    whole = [index for index, parts in enumerate(given) if len(parts) == len(COMPONENTS) or "label" in parts]
    of_part = [[index for index, parts in enumerate(given) if tuple(parts) == (part,)] for part in COMPONENTS]
    options = [[max(whole, key=lambda index: alone[index])]] if whole else []
    if all(of_part):
        options.append([max(indices, key=lambda index: alone[index]) for indices in of_part])
    return max(options, key=lambda members: _sum_up(given, members).f1(truth))


def _sum_up(given, members):
    """The sums of these members, laid out class by class, which makes a maximum over classes quick."""
    state = _Sums({}, {})
    for index in members:
        state = state.plus({part: np.asfortranarray(probs) for part, probs in given[index].items()})
    return state


def greedy(members, truth, bounds=OFFICIAL_BOUNDS, steps=50, patience=10):
    """Selection of members for macro F1, after Caruana et al., "Ensemble selection from libraries of models" (ICML 2004).

    As there: members are chosen with replacement, each time the one with which the blend scores best; and the start is a good
    one. Different: the blend is that of blend.blend, so a member may give parts of the label only; the start is the best
    member alone or the best one of each part; the search ends when `patience` members have brought nothing, or at `steps`,
    and goes back to its best score; of members that score the same, as single folds of one run do out of fold, the one taken
    least often joins; and no mean is taken over searches that see random halves of the members each ("bags"): cross-fitted
    it won on three of eight libraries (docs/results.md). A part's member that starts before the others has score nan.
    """
    given = [blend.member_parts(target, np.asarray(probs), bounds) for target, probs in members]
    blend.check_decided([target for target, _probs in members])
    truth = np.asarray(truth)
    kinds, chosen = _make_kinds(given), _start(given, truth)
    state = _sum_up(given, chosen)
    scores = [*[float("nan")] * (len(chosen) - 1), state.f1(truth)]
    best = len(chosen)
    while len(chosen) < min(steps, best + patience):
        candidates = np.concatenate([kind.members for kind in kinds]).tolist()
        f1 = np.concatenate([_joined_f1(state, kind, truth) for kind in kinds]).tolist()
        top = max(f1) - 1e-9
        tied = [index for index, score in zip(candidates, f1) if score >= top]
        chosen.append(min(tied, key=lambda index: (chosen.count(index), index)))
        state = state.plus(_sum_up(given, chosen[-1:]).sums)
        scores.append(state.f1(truth))
        if scores[-1] > scores[best - 1] + 1e-9:
            best = len(chosen)
    weights = np.bincount(chosen[:best], minlength=len(given)) / best
    return Selection(weights.tolist(), list(zip(chosen, scores))[:best])


# ---- weights -------------------------------------------------------------------------------------------------------


def tune_weights(members, truth, bounds=OFFICIAL_BOUNDS, rounds=8, largest=32.0):
    """A weight for each member and part, [{part: weight}], as blend.blend takes them, for macro F1.

    Coordinate ascent from equal weights: each weight in turn is multiplied or divided by 2, whichever scores best and
    better than before; when a round over all changes nothing, by the square root of that, down to 2 ** (1/4). At most
    `rounds` rounds; weights stay within 1 / largest .. largest. Deterministic.
    """
    blend.check_decided([target for target, _probs in members])
    given = [blend.member_parts(target, np.asarray(probs, dtype=np.float64), bounds) for target, probs in members]
    truth, factor = np.asarray(truth), 2.0
    weights = [dict.fromkeys(parts, 1.0) for parts in given]
    state = _sum_up(given, range(len(given)))
    ranked = _Ranked(state, truth)
    for _round in range(rounds):
        moved = False
        for parts, weight in zip(given, weights):
            for part, probs in parts.items():
                tried = [w for w in (weight[part] / factor, weight[part] * factor) if 1 / largest <= w <= largest]
                steps = [w - weight[part] for w in tried]
                f1 = [ranked.f1_after({part: probs}, step) for step in steps]
                best = int(np.argmax(f1))
                if f1[best] > ranked.f1 + 1e-9:
                    ranked = _Ranked(ranked.state.plus({part: probs}, steps[best]), truth)
                    weight[part], moved = tried[best], True
        if not moved:
            factor = factor**0.5
            if factor < 2**0.25:
                break
    return weights


class _Ranked:
    """A blend's sums with its predictions and by how much they lead, so that small changes touch few rows."""

    def __init__(self, state, truth):
        self.state, self.truth = state, truth
        scores = state.scores()
        self.pred = scores.argmax(1)
        top = np.partition(scores, -2, axis=1)[:, -2:]
        self.lead = top[:, 1] - top[:, 0]
        self.f1 = metrics.macro_f1(truth, self.pred, CLASSES)

    def f1_after(self, parts, step):
        """Macro F1 when the weight of one part {part: [N, C]} changes by `step`."""
        rows = np.flatnonzero(self.lead <= self._reach(next(iter(parts)), step) + 1e-9)
        changed = self.state.each(lambda sums: sums[rows]).plus({part: probs[rows] for part, probs in parts.items()}, step)
        pred = self.pred.copy()
        pred[rows] = changed.scores().argmax(1)
        return metrics.macro_f1(self.truth, pred, CLASSES)

    def _reach(self, part, step):
        """What a change of weight by `step` can add at most to the difference of two scores.

        It moves the mean of a part, of total weight T, by no more than |step| / (T + step), and the product as much.
        """
        weight, moved = self.state.product_weight(), abs(step) / (self.state.totals[part] + step)
        if part != "label":
            return 2 * (abs(step) / len(COMPONENTS) + weight * moved)
        return abs(step) + 2 * weight * moved * sum(other not in self.state.totals for other in COMPONENTS)


# ---- stacking ------------------------------------------------------------------------------------------------------


def _log_columns(members):
    return np.hstack([np.log(np.maximum(probs, LOG_FLOOR), dtype=np.float32) for _target, probs in members])


def fit_stack(members, truth):
    """A multinomial logistic regression (scikit-learn) on the standardised log-probabilities of all members' columns.

    It learns frequencies of classes and knows nothing of macro F1: decode with fitted biases. The penalty is fixed. On 300
    and 700 simulated people it stayed behind the plain average of three equal members (0.429 against 0.482, 0.472 against
    0.494, cross-fitted): it needs more people, or members that complete each other.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STACK_C, max_iter=2000))
    return model.fit(_log_columns(members), np.asarray(truth))


def apply_stack(model, members):
    """Probabilities of the 18 classes [N, 18] of a fitted stack; 0 for classes that it never saw."""
    probs = np.zeros((len(members[0][1]), CLASSES))
    probs[:, model.classes_] = model.predict_proba(_log_columns(members))
    return probs


# ---- cross-fitting -------------------------------------------------------------------------------------------------


def deal_persons(truth, persons, parts, seed=0):
    """A group 0..parts - 1 for each image, int64 [N]: all of a person in one, of gender x age group as many in each.

    It depends on who is there, not on the order of rows. InputError with fewer persons than groups.
    """
    names, first, person = np.unique(np.asarray(persons, dtype=str), return_index=True, return_inverse=True)
    if len(names) < parts:
        raise InputError(f"out-of-fold predictions of {len(names)} people: cross-fitting deals them into {parts} groups")
    rng = np.random.default_rng(seed)
    stratum = np.asarray(truth)[first] % (len(GENDERS) * len(AGE_GROUPS))
    order = np.lexsort((rng.random(len(names)), stratum))
    group = np.empty(len(names), dtype=np.int64)
    group[order] = np.arange(len(names)) % parts  # goes on from stratum to stratum, so the groups are of one size
    return group[person]


def crossfit(fit, apply, members, truth, persons, parts=5, seed=0):
    """Out-of-sample probabilities [N, 18] of anything that is fitted: fitted on some people, applied to the others.

    `fit(members, truth)` is called `parts` times with the rows of all people but one group, `apply(fitted, members)` with
    that group's, which gives probabilities of its rows. persons [N]: the `path` column.
    """
    truth = np.asarray(truth)
    group = deal_persons(truth, persons, parts, seed)
    probs = np.empty((len(truth), CLASSES))
    for number in range(parts):
        rest, mine = group != number, group == number
        fitted = fit([(target, np.asarray(table)[rest]) for target, table in members], truth[rest])
        probs[mine] = apply(fitted, [(target, np.asarray(table)[mine]) for target, table in members])
    return probs
