"""Labels that are probably wrong, from out-of-fold predictions: of persons (gender, age, swapped images) and of single images.

Each image is predicted by a model that never saw its person, so a label that the prediction contradicts is either hard or
wrong. Confident learning (Northcutt et al. 2021, arXiv 1911.00068) ranks images by how far the prediction lies from the
label, against what is usual for the class. Here persons are ranked, as a gender or an age is wrong for all seven images at
once, and by a probability: Bayes' rule with a prior share of wrong labels. The predictions are calibrated on the labels
themselves first. A person's images are one photograph with different masks, so their agreement proves little; how much it
proves is fitted, not assumed. A face that misleads every model looks like a wrong label, so confidences of gender and age
are rather too high than too low: they order what to look at.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

import blend
import dataset
import experiment
import files
import metrics
import predictions
from dataset import (
    AGE_GROUPS,
    CLASS_NAMES,
    FIRST_AGE,
    GENDERS,
    LAST_AGE,
    SCORED_AS,
    age_group_probs,
    decode,
    marginals,
    to_age_group,
)
from errors import InputError, say
from images import thumbnail

COLUMNS = {"gender": "gender", "age": "age_group", "mask": "mask"}  # what a label fix can change: the part that speaks of it
CHANCE = 1.25  # models whose macro F1 of C classes is below CHANCE / C guess, and can't judge a label
YEARS = 5  # a recorded age as near as this to the apparent one is called right
FLOOR = 1e-6  # a probability below this is as good as 0


@dataclass
class Evidence:
    """What runs say of the train images: `rows` image, path; `probs` {part: float64 [N, C]}; `truth` {part: int64 [N]}.

    Parts are mask, gender and age_group, as far as the runs decide them; `probs` may hold `age` (single years) too.
    """

    rows: pd.DataFrame
    probs: dict
    truth: dict


@dataclass
class Findings:
    """What is probably wrong, the surest first.

    persons: DataFrame path, column, value, confidence (as a label fix), recorded, likely (in words), fixed (by a run's own
    fixes); images: DataFrame image, part, label, suggested (class names), probability; expected: {column: labels that are
    wrong by the sum of all confidences, those of agreeing persons too}; people: how many were judged; guessed: {column: macro
    F1 of the mean predictions} where that is no better than chance, so that what is said of the column means nothing.
    """

    persons: pd.DataFrame
    images: pd.DataFrame
    expected: dict
    people: int
    guessed: dict


# ---- reading -------------------------------------------------------------------------------------------------------


def read_evidence(patterns):
    """The members behind names and patterns of runs and ensembles, with their oof.csv alone.

    InputError when one that is named has none, or two hold different images; what a pattern matches is passed over then.
    """
    sources = predictions.find_sources(patterns, option="--label-noise")
    for source in sources:
        if not source.matched and not (source.folder / "oof.csv").is_file():
            raise InputError(f"{source.name}: has no oof.csv, and label noise is found by it; give runs with --kfold 2 or more")
    found = predictions.read_oofs(sources, needs_oof=True, needs_eval=False)
    predictions.check_same_images(found, "oof", "image")
    return found


def describe(member):
    """'runs/a (macro F1 of label 0.5123)', out of fold."""
    scored_as = SCORED_AS[member.target]
    truth, probs = predictions.scored(member.oof, member.target)
    return (
        f"{member.name} (macro F1 of {scored_as} {metrics.macro_f1(truth, probs.argmax(1), len(CLASS_NAMES[scored_as])):.4f})"
    )


def average(found):
    """The Evidence of members: the plain mean of all that decide a part, where `label` members give their marginals."""
    rows = found[0].oof[["image", "path"]]
    given, truth = {}, {}
    for member in found:
        probs = member.oof_probs(rows["image"])
        parts = blend.member_components(member.target, probs)
        parts = marginals(parts["label"]) if "label" in parts else parts
        for part, part_probs in (parts | ({"age": probs} if member.target == "age" else {})).items():
            given.setdefault(part, []).append(part_probs)
        truth |= member_truth(member, rows["image"])
    return Evidence(rows, {part: np.mean(probs, axis=0) for part, probs in given.items()}, truth)


def member_truth(member, images):
    """{part: official classes int64 [N]} of the parts that a member decides, in the order of `images`."""
    names = list(dataset.truth_columns(member.target))
    truth = member.oof.set_index("image").loc[images, names].to_numpy(dtype=np.int64).T
    return dict(zip(dataset.DECIDES[member.target], decode(truth[0]) if member.target == "label" else truth))


def check_people(evidence, people, place, recorded):
    """InputError unless everyone in `evidence` stands in the rows of a train.csv (`place`) with the same labels.

    `recorded`: the data folder that the runs name, for the message.
    """
    person = evidence.rows["path"]
    unknown = ~person.isin(people["path"])
    hint = f"the runs were trained on --data-dir {recorded}" if recorded else "give the --data-dir of the runs"
    if unknown.any():
        raise InputError(f"{place}: lacks {person[unknown].iloc[0]!r}, whom the runs predicted; {hint}")
    rows = people.set_index("path").loc[person]
    for part, classes in (("gender", rows["gender"]), ("age_group", to_age_group(rows["age"]))):
        differ = np.flatnonzero(evidence.truth.get(part, classes) != np.asarray(classes))
        if len(differ):
            raise InputError(f"{place}: another {part} of {person.iloc[differ[0]]!r} than in oof.csv; {hint}")


def applied_fixes(found, people):
    """{(path, column): fixes file} of the label fixes that the runs among `found` were trained with."""
    fixed = {}
    for member in found:
        args = experiment.read_args(member.source.folder) if member.source.is_run else {}
        file = args.get("label_fixes")
        if not file:
            continue
        try:
            fixes, _left_out = dataset.read_label_fixes(file, people, args.get("fix_confidence", 0.9))
        except InputError as error:
            say(f"{member.name} was trained with label fixes that can't be read now: {error}")
            continue
        say(f"{member.name} was trained with {len(fixes)} label fixes of {file}; those persons are marked")
        fixed |= {(path, column): file for path, column, _value in fixes.itertuples(index=False)}
    return fixed


# ---- how sure ------------------------------------------------------------------------------------------------------


def pool(probs, person):
    """Mean of the probabilities [N, C] of each person's images: [P, C]; person [N] in 0..P-1.

    The mean of probabilities ranks like that of log-probabilities and is calmer where a single image is surely wrong.
    """
    sums = np.zeros((person.max() + 1, probs.shape[1]))
    np.add.at(sums, person, probs)
    return sums / np.bincount(person)[:, None]


def calibrate(explain, size, noise_rate):
    """Parameters [size] under which the recorded labels are most probable; the first is the log of a temperature's inverse.

    explain(parameters) returns (right, wrong): the probability [P] of each recorded label if it is right and if it is
    wrong. Labels are wrong at `noise_rate`, so a few wrong ones don't drag the fit. Standard normal priors keep it finite
    where the labels are separated perfectly.
    """

    def loss(parameters):
        right, wrong = explain(parameters)
        return 0.5 * parameters @ parameters - np.log((1 - noise_rate) * right + noise_rate * wrong).sum()

    return minimize(loss, np.zeros(size), method="L-BFGS-B", bounds=[(-4, 4)] * size).x


def wrong_probability(right, wrong, noise_rate):
    """Bayes' rule: probability [P] that a label is wrong, from its probability if right and if wrong."""
    return noise_rate * wrong / ((1 - noise_rate) * right + noise_rate * wrong)


def gender_confidence(probs, gender, noise_rate):
    """Probability [P] that a person's gender is wrong: probs [P, 2] pooled, gender [P] recorded.

    One temperature and one shift for all: what confident learning does with a threshold a class.
    """
    odds = np.log(np.maximum(probs[:, 1], FLOOR) / np.maximum(probs[:, 0], FLOOR))
    sign = 2 * gender - 1

    def explain(parameters):
        right = expit(sign * (np.exp(parameters[0]) * odds + parameters[1]))
        return right, 1 - right

    return wrong_probability(*explain(calibrate(explain, 2, noise_rate)), noise_rate)


def swap_confidence(normal, incorrect, noise_rate):
    """Probability [P] that `normal` and `incorrect_mask` of a person are swapped; each image's mask probabilities [P, 3].

    As log p(normal shows incorrect) + log p(incorrect shows not worn) - the same as labelled, with one temperature.
    """
    normal, incorrect = np.log(np.maximum(normal, FLOOR)), np.log(np.maximum(incorrect, FLOOR))
    odds = normal[:, 2] + incorrect[:, 1] - normal[:, 1] - incorrect[:, 2]

    def explain(parameters):
        right = expit(np.exp(parameters[0]) * odds)
        return right, 1 - right

    return wrong_probability(*explain(calibrate(explain, 1, noise_rate)), noise_rate)


def age_confidence(groups, years, age, noise_rate):
    """(probability [P] that a person's age is wrong, likely age [P]) of ages recorded in years [P].

    groups [P, 3] and years [P, 43] are pooled; without years (None) those of a group are taken as people's ages are
    spread in it. A right age lies within YEARS of the apparent one; a wrong one is anybody's. Ages from 60 on are one.
    """
    age = np.clip(age, FIRST_AGE, LAST_AGE) - FIRST_AGE
    count = LAST_AGE - FIRST_AGE + 1
    spread = (np.bincount(age, minlength=count) + 1 / count) / (len(age) + 1)
    base = spread if years is None else years
    group = to_age_group(np.arange(count) + FIRST_AGE)
    ratio = np.log(np.maximum(groups, FLOOR) / np.maximum(age_group_probs(base), FLOOR))[:, group]
    base = np.log(np.maximum(base, FLOOR))
    near = np.abs(np.arange(count)[:, None] - np.arange(count)) <= YEARS
    wrong = (spread @ near)[age]

    def distribution(parameters):
        sharp = np.exp(parameters[0])
        return np.exp(log_softmax(sharp * ratio + (base if years is None else sharp * base), axis=1))

    def explain(parameters):
        return (distribution(parameters) * near[:, age].T).sum(1), wrong

    fitted = calibrate(explain, 1, noise_rate)
    likely = FIRST_AGE + (distribution(fitted).cumsum(1) < 0.5).sum(1)
    return wrong_probability(*explain(fitted), noise_rate), np.minimum(likely, LAST_AGE)


# ---- findings ------------------------------------------------------------------------------------------------------


def judge(evidence, people, noise_rate):
    """The Findings in `evidence`; `people`: the rows of train.csv.

    Listed is what a prediction speaks against: where a label is more probably wrong than `noise_rate`, the prior.
    """
    person, paths = pd.factorize(evidence.rows["path"])
    rows = people.set_index("path").loc[paths].reset_index()
    pooled = {part: pool(probs, person) for part, probs in evidence.probs.items()}
    claims = {}
    if "gender" in pooled:
        claims["gender"] = gender_claims(rows, pooled["gender"], noise_rate)
    if "age_group" in pooled:
        claims["age"] = age_claims(rows, pooled["age_group"], pooled.get("age"), noise_rate)
    if "mask" in pooled:
        claims["mask"] = swap_claims(evidence, person, paths, noise_rate)
    expected = {column: float(table["confidence"].sum()) for column, table in claims.items()}
    persons = pd.concat([table.assign(column=column) for column, table in claims.items()])
    persons = persons[(persons["confidence"] > noise_rate) & (persons["recorded"] != persons["likely"])]
    persons = persons.sort_values("confidence", ascending=False, kind="stable").reset_index(drop=True)
    guessed = {}
    for column in claims:
        truth, probs = evidence.truth[COLUMNS[column]], evidence.probs[COLUMNS[column]]
        f1 = metrics.macro_f1(truth, probs.argmax(1), probs.shape[1])
        guessed |= {column: f1} if f1 < CHANCE / probs.shape[1] else {}
    return Findings(persons, contradictions(evidence), expected, len(paths), guessed)


def gender_claims(rows, probs, noise_rate):
    """What the pooled gender probabilities say of each person of `rows`: path, value, confidence, recorded, likely."""
    gender = rows["gender"].to_numpy()
    recorded, other = np.array(GENDERS)[gender], np.array(GENDERS)[1 - gender]
    confidence = gender_confidence(probs, gender, noise_rate)
    return _claims(rows["path"], other, confidence, recorded, other)


def age_claims(rows, groups, years, noise_rate):
    """As gender_claims, of ages. A likely age in the recorded group, or near the recorded age, counts as the recorded one."""
    confidence, likely = age_confidence(groups, years, rows["age"].to_numpy(), noise_rate)
    age = rows["age"].clip(FIRST_AGE, LAST_AGE)
    same = (np.abs(age - likely) <= YEARS) | (to_age_group(age) == to_age_group(likely))
    words = [f"{age} ({AGE_GROUPS[to_age_group(age)]})" for age in rows["age"]]
    others = [f"{age} ({AGE_GROUPS[to_age_group(age)]})" for age in likely]
    return _claims(rows["path"], likely.astype(str), confidence, words, np.where(same, words, others))


def swap_claims(evidence, person, paths, noise_rate):
    """As gender_claims, of the pairs of normal and incorrect_mask, for everyone who has both."""
    kinds = np.array([dataset.image_kind(image) for image in evidence.rows["image"]])
    rows = {kind: dict(zip(person[kinds == kind], np.flatnonzero(kinds == kind))) for kind in ("normal", "incorrect_mask")}
    both = sorted(rows["normal"].keys() & rows["incorrect_mask"].keys())
    normal, incorrect = (evidence.probs["mask"][[rows[kind][each] for each in both]] for kind in ("normal", "incorrect_mask"))
    return _claims(paths[both], "swap", swap_confidence(normal, incorrect, noise_rate), "as named", "swapped")


def _claims(paths, value, confidence, recorded, likely):
    table = {"path": paths, "value": value, "confidence": confidence, "recorded": recorded, "likely": likely}
    return pd.DataFrame(table)


def contradictions(evidence):
    """Images whose most probable class of a part is not their label's: DataFrame image, part, label, suggested, probability."""
    tables = []
    for part, truth in evidence.truth.items():
        probs, names = evidence.probs[part], np.array(CLASS_NAMES[part])
        pred = probs.argmax(1)
        table = pd.DataFrame({"image": evidence.rows["image"], "part": part, "label": names[truth]})
        tables.append(table.assign(suggested=names[pred], probability=probs.max(1))[pred != truth])
    return pd.concat(tables).sort_values("probability", ascending=False, kind="stable").reset_index(drop=True)


def top(table, column, limit):
    """The first `limit` rows of each value of `column`, in the order of `table`."""
    return table[table.groupby(column).cumcount() < limit].reset_index(drop=True)


FIX_COLUMNS = ["path", "column", "value", "confidence"]
KINDS = ("normal", "incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5")  # in the order that tells most
LARGE, SMALL = 224, 112  # pixels of the first thumbnail of a card, and of the others
LIKELY = 0.1  # suggestions below this probability are folded away
TITLES = {
    "gender": "gender",
    "age": "age",
    "mask": "normal and incorrect_mask swapped",
    "images": "single images, mask",
}


def csv_line(*values):
    """The values as a line of a csv, quoted where they must be."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def card_images(evidence, path):
    """The image names of a person, the normal one first."""
    images = evidence.rows["image"][evidence.rows["path"] == path]
    order = {kind: index for index, kind in enumerate(KINDS)}
    return sorted(images, key=lambda image: (order.get(dataset.image_kind(image), len(order)), image))


def swaps_apart(findings, persons):
    """The images whose mask contradicts the label and that no swap among `persons` explains."""
    swapped = set(persons["path"][persons["column"] == "mask"])
    images = findings.images[findings.images["part"] == "mask"]
    places = [PurePosixPath(image) for image in images["image"]]
    explained = [dataset.image_kind(place) in ("normal", "incorrect_mask") and str(place.parent) in swapped for place in places]
    return images[~np.array(explained, dtype=bool)]


def thumbnails(data_dir, images):
    """({image: address of its thumbnail}, how many files are missing) of train images; the first of a person is large."""
    found, missing = {}, 0
    for image, file in zip(images, map(Path, dataset.image_files(data_dir, images))):
        if file.is_file():
            found[image] = thumbnail(file, LARGE if dataset.image_kind(image) == KINDS[0] else SMALL)
        else:
            missing += 1
    return found, missing


def write_page(out, evidence, findings, data_dir, runs, limit, fixed):
    """Write suggestions.csv, images.csv and index.html into the folder `out`; returns (persons shown, images missing).

    At most `limit` persons a column and as many images are shown; images.csv holds all. `fixed`: see noise.applied_fixes.
    """
    out, persons = Path(out), top(findings.persons, "column", limit)
    images = swaps_apart(findings, persons).head(limit)
    strips = {path: card_images(evidence, path) for path in persons["path"].unique()}
    wanted = dict.fromkeys([*(image for strip in strips.values() for image in strip), *images["image"]])
    pictures, missing = thumbnails(data_dir, list(wanted))
    note = f"{missing:,} of {len(wanted):,} images are not in {data_dir}/train/images: no thumbnails." if missing else ""
    html = document(findings, persons, images, strips, pictures, runs, note, fixed)
    files.make_dir(out, "--out")
    files.write_csv(out / "suggestions.csv", persons[FIX_COLUMNS], "%.4f")
    files.write_csv(out / "images.csv", findings.images, "%.4f")
    files.write_text(out / "index.html", html)
    return persons, missing


def document(findings, persons, images, strips, pictures, runs, note, fixed):
    """The HTML of the gallery. persons, images: rows of findings that are shown; strips: {path: its images}; runs: in words."""
    sections = [
        _section(column, persons[persons["column"] == column], strips, fixed)
        for column in findings.expected
        if (persons["column"] == column).any()
    ]
    if len(images):
        cards, guessed = images.to_dict("records"), "mask" in findings.guessed  # folded away where the models guess masks
        why = "by models that can't judge masks"
        shown, folded = ([], cards) if guessed else (cards, [])
        sections.append({"kind": "images", "cards": shown, "folded": folded, "why": why, "count": len(shown)})
    return files.page(
        "noise.html",
        title="Label noise",
        runs=runs,
        summary=_summary(findings),
        guessed=_guessed(findings),
        note=note,
        sections=[one | {"title": TITLES[one["kind"]]} for one in sections],
        likely=f"{LIKELY:.0%}",
        pictures=pictures,
        stem=lambda image: PurePosixPath(image).stem,
    )


def _summary(findings):
    """'Of 700 people about 8 genders, 14 ages and 3 mask swaps are wrong by the sum of all confidences.'"""
    what = {"gender": "genders", "age": "ages", "mask": "swaps of normal and incorrect_mask"}
    numbers = [f"{count:.1f} {what[column]}" for column, count in findings.expected.items()]
    listed = " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))
    return f"{findings.people:,} people: about {listed} wrong, by the sum of all confidences."


def _guessed(findings):
    """A sentence about the columns that the models can't judge; '' where there are none."""
    each = [
        f"{column} (macro F1 {f1:.2f}, guessing has {1 / len(CLASS_NAMES[COLUMNS[column]]):.2f})"
        for column, f1 in findings.guessed.items()
    ]
    return f"These models can't judge {', '.join(each)}: what they say against such labels is chance." if each else ""


def _section(column, persons, strips, fixed):
    """The suggestions for a column as cards, those below LIKELY folded away."""
    cards = []
    for row in persons.itertuples(index=False):
        fix, confidence = (row.path, row.column, row.value), f"{row.confidence:.4f}"
        cards.append(row._asdict() | {"fix": csv_line(*fix), "line": csv_line(*fix, confidence), "images": strips[row.path],
                                      "fixed": fixed.get((row.path, row.column))})  # fmt: skip
    likely = int((persons["confidence"] >= LIKELY).sum())
    shown, folded = cards[:likely], cards[likely:]
    return {"kind": column, "cards": shown, "folded": folded, "why": f"below {LIKELY:.0%}", "count": likely}


def closing_lines(findings, persons, runs, out, missing, fixed):
    """Print what was found by the runs (in words), where it is, and what comes next."""
    print(f"by the out-of-fold predictions of {', '.join(runs)}")
    print(_summary(findings))
    if guess := _guessed(findings):
        print(guess)
    for column in findings.expected:
        found, mine = (table[table["column"] == column] for table in (findings.persons, persons))
        print(f"\n{TITLES[column]}: {len(found):,} of {findings.people:,} people contradicted, {len(mine):,} in the files")
        likely = mine[mine["confidence"] >= LIKELY]
        for row in likely.head(10).itertuples(index=False):
            mark = "  (fixed)" if (row.path, row.column) in fixed else ""
            print(f"{row.confidence:>8.1%}  {row.recorded:>12} → {row.likely:<12} {row.path}{mark}")
        if len(likely) < len(mine):
            print(f"          {len(mine) - len(likely):,} of them below {LIKELY:.0%}")
    counts = ", ".join(f"{number:,} in {part}" for part, number in findings.images["part"].value_counts().items())
    print(f"\nsingle images: {len(findings.images):,} contradicted{f' ({counts})' if counts else ''}, in images.csv")
    out = Path(out)
    print(f"{out / 'index.html'}: to look at; suggestions.csv and images.csv lie beside it")
    if missing:
        print(f"{missing:,} image files are missing; the page has no thumbnails of them")
    print("next: open the page, accept what you agree with, save it as accepted.csv, then\n"
          "  python train.py --label-fixes accepted.csv")  # fmt: skip
