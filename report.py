"""Reports of runs and ensembles; labels that are probably wrong, of persons (gender, age, swapped images) and single images.

    python report.py RUN [RUN ...]               # report.html in the folder of each, as train.py and ensemble.py write it
    python report.py --label-noise RUN [RUN ...]
    python report.py --merge FILE [FILE ...]     # the csvs of several people, saved from the page

Label noise is found as by confident learning (Northcutt et al. 2021, arXiv 1911.00068), but of persons, whose seven images are
wrong at once, and by Bayes' rule, from out-of-fold predictions that are calibrated on the labels first. A face that misleads
every model looks like a wrong label: confidences of gender and age are rather too high than too low.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import os
import shlex
import sys
from collections import Counter, namedtuple
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

import dataset
import files
import gallery
import predictions
from dataset import AGE_GROUPS, CLASS_NAMES, FIRST_AGE, GENDERS, LAST_AGE, SCORED_AS, age_group_probs, decode, to_age_group
from errors import InputError, log, say, tr
from images import thumbnail

COLUMNS = {"gender": "gender", "age": "age_group", "mask": "mask"}  # of a label fix: the component that speaks of it
CHANCE = 1.25  # models whose macro F1 of C classes is below CHANCE / C guess, and can't judge a label
YEARS = 5  # a recorded age as near as this to the apparent one is called right
FLOOR = 1e-6  # a probability below this is as good as 0
SURE = 0.9  # a fix is accepted from this confidence on, as by train.py --fix-confidence
DOUBTS = {"unsure": 0.5, "right": 0}  # verdicts that accept no fix, and their confidence in a csv of fixes

# Mean predictions of train images: `rows` image, path; `probs` {component: float64 [N, C]} of mask, gender and age_group, as
# far as the runs decide them, and `age` (single years); `truth` {component: int64 [N]}.
Evidence = namedtuple("Evidence", "rows probs truth")

# Labels that are probably wrong, the surest first. claims: path, column, value, confidence (as a label fix), recorded, likely;
# images: image, part, label, suggested, probability; expected: {column: sum of all confidences}; people: how many were judged;
# guessed: {column: macro F1 of the mean predictions} where that is no better than chance.
Findings = namedtuple("Findings", "claims images expected people guessed")


def read_evidence(patterns):
    """The members behind names and patterns of runs and ensembles, with their oof.csv alone."""
    sources = predictions.find_members(patterns, option="--label-noise")
    for source in sources:
        if not source.matched and not (source.folder / "oof.csv").is_file():
            raise InputError(f"{source.name}: has no oof.csv, and label noise is found by it; give runs with --kfold 2 or more")
    members = predictions.read_oofs(sources, needs_oof=True, needs_eval=False)
    predictions.check_same_images(members, "oof", "image")
    return members


def describe(member):
    """'runs/a (macro F1 of label 0.5123)', out of fold."""
    truth, probs = predictions.scored(member.oof, member.target)
    f1 = predictions.macro_f1(truth, probs)
    return f"{member.name} (macro F1 of {SCORED_AS[member.target]} {f1:.4f})"


def average(members):
    """The Evidence of members: the plain mean of all that decide a component, where `label` members give their marginals."""
    rows, given, truth = members[0].oof[["image", "path"]], {}, {}
    for member in members:
        probs = member.oof_probs(rows["image"])
        tables = dataset.member_components(member.target, probs)
        tables = dataset.marginals(tables["label"]) if "label" in tables else tables
        for component, table in (tables | ({"age": probs} if member.target == "age" else {})).items():
            given.setdefault(component, []).append(table)
        targets = member.oof.set_index("image").loc[rows["image"], list(dataset.truth_columns(member.target))]
        classes = targets.to_numpy(dtype=np.int64).T
        truth |= zip(dataset.DECIDES[member.target], decode(classes[0]) if member.target == "label" else classes)
    return Evidence(rows, {component: np.mean(tables, axis=0) for component, tables in given.items()}, truth)


def check_people(evidence, people, place, recorded):
    """InputError unless all of `evidence` are in train.csv (`place`) with the same labels; recorded: the runs' data folder."""
    person = evidence.rows["path"]
    unknown = ~person.isin(people["path"])
    hint = f"the runs were trained on --data-dir {recorded}" if recorded else "give the --data-dir of the runs"
    if unknown.any():
        raise InputError(f"{place}: lacks {person[unknown].iloc[0]!r}, whom the runs predicted; {hint}")
    rows = people.set_index("path").loc[person]
    for component, classes in (("gender", rows["gender"]), ("age_group", to_age_group(rows["age"]))):
        differ = np.flatnonzero(evidence.truth.get(component, classes) != np.asarray(classes))
        if len(differ):
            raise InputError(f"{place}: another {component} of {person.iloc[differ[0]]!r} than in oof.csv; {hint}")


def applied_fixes(members, people):
    """{(path, column): fixes file} of the label fixes that the runs among `members` were trained with."""
    fixed = {}
    for member in members:
        args = member.options if member.is_run else {}
        if file := args.get("label_fixes"):
            try:
                fixes, _left_out = dataset.read_label_fixes(file, people, args.get("fix_confidence", 0.9))
                fixed |= {(path, column): file for path, column, _value in fixes.itertuples(index=False)}
                log(f"{member.name} was trained with {len(fixes)} label fixes of {file}; those persons are marked")
            except InputError as error:
                log(f"{member.name} was trained with label fixes that can't be read now: {error}")
    return fixed


def pool(probs, person):
    """Mean of the probabilities [N, C] of each person's images: [P, C]; person [N] in 0..P-1."""
    sums = np.zeros((person.max() + 1, probs.shape[1]))
    np.add.at(sums, person, probs)
    return sums / np.bincount(person)[:, None]


def calibrate(explain, size, noise_rate):
    """Parameters [size] under which the recorded labels are most probable, a share `noise_rate` of them wrong; the first is the
    log of a temperature's inverse. explain(parameters) returns (right, wrong): the probability [P] of each recorded label if it
    is right and if it is wrong. Standard normal priors keep them finite where the labels are separated perfectly."""

    def loss(parameters):
        right, wrong = explain(parameters)
        return 0.5 * parameters @ parameters - np.log((1 - noise_rate) * right + noise_rate * wrong).sum()

    return minimize(loss, np.zeros(size), method="L-BFGS-B", bounds=[(-4, 4)] * size).x


def wrong_probability(right, wrong, noise_rate):
    """Probability [P] that a label is wrong, from its probability if right and if wrong (Bayes)."""
    return noise_rate * wrong / ((1 - noise_rate) * right + noise_rate * wrong)


def odds_confidence(odds, size, noise_rate):
    """Probability [P] that a label is wrong, from its log-odds, a function of `size` parameters."""

    def explain(parameters):
        right = expit(odds(parameters))
        return right, 1 - right

    return wrong_probability(*explain(calibrate(explain, size, noise_rate)), noise_rate)


def gender_confidence(probs, gender, noise_rate):
    """Probability [P] that a person's gender is wrong: probs [P, 2] pooled, gender [P] recorded."""
    odds, sign = np.log(np.maximum(probs[:, 1], FLOOR) / np.maximum(probs[:, 0], FLOOR)), 2 * gender - 1
    return odds_confidence(lambda parameters: sign * (np.exp(parameters[0]) * odds + parameters[1]), 2, noise_rate)


def swap_confidence(normal, incorrect, noise_rate):
    """Probability [P] that `normal` and `incorrect_mask` of a person are swapped; each image's mask probabilities [P, 3]."""
    normal, incorrect = np.log(np.maximum(normal, FLOOR)), np.log(np.maximum(incorrect, FLOOR))
    odds = normal[:, 2] + incorrect[:, 1] - normal[:, 1] - incorrect[:, 2]
    return odds_confidence(lambda parameters: np.exp(parameters[0]) * odds, 1, noise_rate)


def age_confidence(groups, years, age, noise_rate):
    """(probability [P] that a person's age is wrong, likely age [P]) of ages recorded in years [P]. groups [P, 3] and years
    [P, 43] are pooled; without years (None) they are spread as people's ages are in a group. A right age lies within YEARS of
    the apparent one; a wrong one is anybody's."""
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


def judge(evidence, people, noise_rate):
    """The Findings in `evidence`: labels that are more probably wrong than `noise_rate`; people: the rows of train.csv."""
    person, paths = pd.factorize(evidence.rows["path"])
    rows = people.set_index("path", drop=False).loc[paths].reset_index(drop=True)
    pooled = {component: pool(probs, person) for component, probs in evidence.probs.items()}
    tables = {}
    if "gender" in pooled:
        gender = rows["gender"].to_numpy()
        recorded, other = np.array(GENDERS)[gender], np.array(GENDERS)[1 - gender]
        tables["gender"] = _claims(paths, other, gender_confidence(pooled["gender"], gender, noise_rate), recorded, other)
    if "age_group" in pooled:
        tables["age"] = age_claims(rows, pooled["age_group"], pooled.get("age"), noise_rate)
    if "mask" in pooled:
        tables["mask"] = swap_claims(evidence, person, paths, noise_rate)
    expected = {column: float(table["confidence"].sum()) for column, table in tables.items()}
    claims = pd.concat([table.assign(column=column) for column, table in tables.items()])
    claims = claims[(claims["confidence"] > noise_rate) & (claims["recorded"] != claims["likely"])]
    claims = claims.sort_values("confidence", ascending=False, kind="stable").reset_index(drop=True)
    guessed = {}
    for column in tables:
        truth, probs = evidence.truth[COLUMNS[column]], evidence.probs[COLUMNS[column]]
        f1 = predictions.macro_f1(truth, probs)
        guessed |= {column: f1} if f1 < CHANCE / probs.shape[1] else {}
    return Findings(claims, contradictions(evidence), expected, len(paths), guessed)


def _claims(path, value, confidence, recorded, likely):
    return pd.DataFrame({"path": path, "value": value, "confidence": confidence, "recorded": recorded, "likely": likely})


def age_claims(rows, groups, years, noise_rate):
    """Claims on ages; a likely age in the recorded group, or near the recorded age, counts as the recorded one."""
    confidence, likely = age_confidence(groups, years, rows["age"].to_numpy(), noise_rate)
    age = rows["age"].clip(FIRST_AGE, LAST_AGE)
    same = (np.abs(age - likely) <= YEARS) | (to_age_group(age) == to_age_group(likely))
    words, others = ([f"{age} ({AGE_GROUPS[to_age_group(age)]})" for age in ages] for ages in (rows["age"], likely))
    return _claims(rows["path"], likely.astype(str), confidence, words, np.where(same, words, others))


def swap_claims(evidence, person, paths, noise_rate):
    """Claims that normal and incorrect_mask are swapped, on everyone who has both."""
    kinds = np.array([dataset.image_kind(image) for image in evidence.rows["image"]])
    rows = {kind: dict(zip(person[kinds == kind], np.flatnonzero(kinds == kind))) for kind in ("normal", "incorrect_mask")}
    both = sorted(rows["normal"].keys() & rows["incorrect_mask"].keys())
    normal, incorrect = (evidence.probs["mask"][[rows[kind][each] for each in both]] for kind in ("normal", "incorrect_mask"))
    return _claims(paths[both], "swap", swap_confidence(normal, incorrect, noise_rate), "as named", "swapped")


def contradictions(evidence):
    """Images whose predicted class is not their label's: DataFrame image, part, label, suggested, probability."""
    tables = []
    for component, truth in evidence.truth.items():
        probs, names = evidence.probs[component], np.array(CLASS_NAMES[component])
        pred = probs.argmax(1)
        table = pd.DataFrame({"image": evidence.rows["image"], "part": component, "label": names[truth]})
        tables.append(table.assign(suggested=names[pred], probability=probs.max(1))[pred != truth])
    return pd.concat(tables).sort_values("probability", ascending=False, kind="stable").reset_index(drop=True)


KINDS = ("normal", "incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5")  # the order on a card
LARGE, SMALL = 224, 112  # pixels of the first thumbnail of a card, and of the others
LIKELY = 0.1  # suggestions below this probability are folded away
TITLES = {"gender": "gender", "age": "age", "mask": "normal and incorrect_mask swapped", "images": "single images, mask"}


def swaps_apart(findings, claims):
    """The images whose mask contradicts the label and that no swap among `claims` explains."""
    swapped = set(claims["path"][claims["column"] == "mask"])
    images = findings.images[findings.images["part"] == "mask"]
    places = [PurePosixPath(image) for image in images["image"]]
    explained = [dataset.image_kind(place) in ("normal", "incorrect_mask") and str(place.parent) in swapped for place in places]
    return images[~np.array(explained, dtype=bool)]


def write_page(out, evidence, findings, data_dir, runs, limit, fixed, decided):
    """Write suggestions.csv and index.html of at most `limit` claims a column and as many images, and images.csv of all
    images, into the folder `out`; returns (claims shown, images missing). decided: rows of `read_verdicts`."""
    out, claims = Path(out), findings.claims.groupby("column").head(limit)
    images = swaps_apart(findings, claims).head(limit)

    def place(image):
        kind = dataset.image_kind(image)
        return KINDS.index(kind) if kind in KINDS else len(KINDS), image

    by_path = evidence.rows.groupby("path")["image"]
    strips = {path: sorted(by_path.get_group(path), key=place) for path in claims["path"].unique()}
    wanted = list(dict.fromkeys([*(image for strip in strips.values() for image in strip), *images["image"]]))
    there = [(image, file) for image, file in zip(wanted, dataset.image_files(data_dir, wanted)) if Path(file).is_file()]
    pictures = {image: thumbnail(file, LARGE if place(image)[0] == 0 else SMALL) for image, file in there}
    missing = len(wanted) - len(there)
    note = tr(f"{missing:,} of {len(wanted):,} images are not in {data_dir}/train/images: no thumbnails.") if missing else ""
    files.make_dir(out, "--out")
    files.write_csv(out / "suggestions.csv", claims[["path", "column", "value", "confidence"]], "%.4f")
    files.write_csv(out / "images.csv", findings.images, "%.4f")
    files.write_text(out / "index.html", document(findings, claims, images, strips, pictures, runs, note, fixed, decided))
    return claims, missing


def document(findings, claims, images, strips, pictures, runs, note, fixed, decided):
    """The HTML of the gallery. claims, images: rows of findings that are shown; strips: {path: its images}. What was decided
    on a card keeps its value, and what has no card stays in the csv that the page saves."""
    sections, verdicts = [], {(row.path, row.column): row for row in decided}
    for column in findings.expected:
        cards = claims[claims["column"] == column].to_dict("records")
        for card in cards:
            was = verdicts.pop((card["path"], column), None)
            mark = "" if was is None else f"{DOUBTS.get(was.verdict, 1):g}"
            fix = _csv_line(card["path"], column, card["value"] if was is None else was.value)
            card |= {"fix": fix, "mark": mark, "images": strips[card["path"]], "fixed": fixed.get((card["path"], column))}
        likely = sum(card["confidence"] >= LIKELY for card in cards)
        if cards:
            sections.append((column, cards[:likely], cards[likely:], tr(f"below {LIKELY:.0%}")))
    if len(images):
        cards, guessed = images.to_dict("records"), "mask" in findings.guessed  # folded away where the models guess masks
        sections.append(("images", *(([], cards) if guessed else (cards, [])), tr("by models that can't judge masks")))
    return files.page("noise.html", title=tr("Label noise"), titles=TITLES, runs=runs, summary=_summary(findings), note=note,
                      guessed=_guessed(findings), sections=sections, likely=f"{LIKELY:.0%}", pictures=pictures,
                      others=[_csv_line(row.path, row.column, row.value, f"{row.confidence:g}") for row in verdicts.values()],
                      stem=lambda image: PurePosixPath(image).stem)  # fmt: skip


def _csv_line(*cells):
    return pd.DataFrame([cells]).to_csv(index=False, header=False).rstrip()


def _summary(findings):
    """'700 people: about 8.0 genders, 14.1 ages and 3.2 swaps ... are wrong, by the sum of all confidences.'"""
    names = {"gender": tr("{:.1f} genders"), "age": tr("{:.1f} ages"), "mask": tr("{:.1f} swaps of normal and incorrect_mask")}
    *most, last = [names[column].format(count) for column, count in findings.expected.items()]
    listed = tr("{:s} and {:s}").format(", ".join(most), last) if most else last
    return tr(f"{findings.people:,} people: about {listed} wrong, by the sum of all confidences.")


def _guessed(findings):
    """A sentence about the columns that the models can't judge; '' where there are none."""
    chances = {column: 1 / len(CLASS_NAMES[COLUMNS[column]]) for column in findings.guessed}
    each = [tr(f"{column} (macro F1 {f1:.2f}, guessing has {chances[column]:.2f})") for column, f1 in findings.guessed.items()]
    return tr(f"These models can't judge {', '.join(each)}: what they say against such labels is chance.") if each else ""


def closing_lines(findings, claims, runs, out, missing, fixed):
    say(f"by the out-of-fold predictions of {', '.join(runs)}", f"\n{_summary(findings)}")
    if guess := _guessed(findings):
        print(guess)
    for column in findings.expected:
        every, shown = (table[table["column"] == column] for table in (findings.claims, claims))
        say(f"\n{tr(TITLES[column])}: {len(every):,} of {findings.people:,} people contradicted, {len(shown):,} in the files")
        likely = shown[shown["confidence"] >= LIKELY]
        for row in likely.head(10).itertuples(index=False):
            mark = tr("  (fixed)") if (row.path, row.column) in fixed else ""
            print(f"{row.confidence:>8.1%}  {row.recorded:>12} → {row.likely:<12} {row.path}{mark}")
        if len(likely) < len(shown):
            say(f"          {len(shown) - len(likely):,} of them below {LIKELY:.0%}")
    counts = ", ".join(tr("{:,} in {}").format(number, part) for part, number in findings.images["part"].value_counts().items())
    say(f"\nsingle images: {len(findings.images):,} contradicted{f' ({counts})' if counts else ''}, in images.csv")
    say(f"{Path(out) / 'index.html'}: to look at; suggestions.csv and images.csv lie beside it")
    if missing:
        say(f"{missing:,} image files are missing; the page has no thumbnails of them")
    say("next: open the page, accept what you agree with, save it as accepted.csv, then")
    print("  python train.py --label-fixes accepted.csv")


def read_verdicts(path, people=None):
    """The rows of `dataset.read_fixes`, each label once, with `verdict`: the value accepted, or a key of DOUBTS."""
    table = dataset.read_fixes(path, people)
    files.check_once(path, table.assign(fix=table["path"] + " " + table["column"]), "fix")
    doubts = np.where(table["confidence"] > 0, "unsure", "right")
    return table.assign(verdict=np.where(table["confidence"] >= SURE, table["value"], doubts))


def merge(paths):
    """(fixes, ties) of the csvs of several people: the verdict on a label that more than half of those who judged it share. All
    other labels are unsure, and `ties` has a line for each."""
    rows, ties = [], []
    tables = pd.concat([read_verdicts(path).assign(file=path) for path in paths], ignore_index=True)
    for (path, column), votes in tables.groupby(["path", "column"], sort=False):
        verdict, count = Counter(votes["verdict"]).most_common(1)[0]
        if 2 * count <= len(votes):
            said = ", ".join(f"{file} {each}" for file, each in zip(votes["file"], votes["verdict"]))
            ties.append(f"{path} {column}: {said}")
            verdict = "unsure"
        value = votes["value"][votes["confidence"].idxmax()] if verdict in DOUBTS else verdict
        rows.append((path, column, value, DOUBTS.get(verdict, 1)))
    return pd.DataFrame(rows, columns=["path", "column", "value", "confidence"]), ties


def merge_files(paths, out):
    """--merge: write the csv that `merge` makes, and print its ties."""
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise InputError(f"--merge {' '.join(paths)}: holds one twice")
    if os.path.lexists(out):
        raise InputError(f"{out}: exists, and may hold somebody's work; give another --out, or move it away")
    fixes, ties = merge(paths)
    files.write_csv(out, fixes, "%g")
    for tie in ties:
        say(f"tie: {tie}")
    accepted, unsure, right = ((fixes["confidence"] == confidence).sum() for confidence in (1, 0.5, 0))
    say(f"{out}: {len(fixes):,} labels, {accepted:,} to fix, {right:,} right, {unsure:,} unsure ({len(ties):,} by a tie)")
    say(f"next: python train.py --label-fixes {shlex.quote(out)}")


def label_noise(args):
    """--label-noise: find the labels and write the page and its csvs."""
    members = read_evidence(args.label_noise)
    recorded = next((member.options.get("data_dir") for member in members if member.is_run), None)
    data_dir = dataset.find_data(args.data_dir)
    if data_dir is None:
        hint = f"; the runs were trained on {recorded}" if recorded else ""
        raise InputError(f"--data-dir: no data folder here, and its labels and images are needed{hint}")
    people, evidence = dataset.read_people(data_dir), average(members)
    check_people(evidence, people, data_dir / "train" / "train.csv", recorded)
    fixed, findings = applied_fixes(members, people), judge(evidence, people, args.noise_rate)
    runs, out = [describe(member) for member in members], args.out or "label-noise"
    decided = read_verdicts(args.decided, people).itertuples() if args.decided else ()
    claims, missing = write_page(out, evidence, findings, data_dir, runs, args.top, fixed, decided)
    closing_lines(findings, claims, runs, out, missing, fixed)


def main(argv=None):
    parser = errors.Parser("Reports of runs; labels that are probably wrong: a gallery, and a csv for train.py --label-fixes")
    parser.add_argument("reports", nargs="*", metavar="RUN", help="write report.html of these runs or ensembles, and its csvs")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--label-noise", nargs="+", metavar="RUN", help="labels that are probably wrong, by runs or ensembles of any targets")
    add("--merge", nargs="+", metavar="FILE", help="join the csvs that several people saved from the page of --label-noise")
    add = parser.add_argument
    add("--decided", metavar="FILE", help="csv saved from such a page, or merged: the new page begins with its verdicts")
    add("--noise-rate", type=errors.positive_float, default=0.01, metavar="P", help="share of labels that are wrong, a guess")
    add("--top", type=errors.positive_int, default=50, metavar="N", help="suggestions of each part at most")
    add("--out", metavar="PLACE", help="folder of --label-noise, whose older files are replaced, or csv of --merge; "
        "without it label-noise or merged.csv")  # fmt: skip
    add("--data-dir", help="the competition's folder; without it data/, /opt/ml/input/data or the demo set")
    args, given = parser.parse_args(argv), parser.given(argv)
    if not args.reports and not args.label_noise and not args.merge:
        parser.error("nothing to do: give RUN ..., --label-noise RUN ... or --merge FILE ...; --help tells more")
    if args.reports and (others := given - {"reports", "data_dir"}):
        parser.error(f"--{min(others).replace('_', '-')}: is not for the report of {args.reports[0]}; leave one of the two out")
    for name in ("decided", "noise_rate", "top", "data_dir"):
        if name in given and not args.label_noise and not args.reports:
            parser.error(f"--{name.replace('_', '-')}: does nothing without --label-noise RUN; add that, or leave this out")
    if not 0 < args.noise_rate < 0.5:
        parser.error(f"--noise-rate {args.noise_rate:g}: must lie between 0 and 0.5, such as 0.01")
    if args.merge:
        merge_files(args.merge, args.out or "merged.csv")
    elif args.label_noise:
        label_noise(args)
    else:
        for name in args.reports:
            print(*gallery.write_report(name, args.data_dir), sep="\n")
        again = ["compare.py"] if len(args.reports) == 2 else ["report.py", "--label-noise"]
        place = ["--data-dir", args.data_dir] if args.data_dir else []
        say(f"next: python {shlex.join([*again, *args.reports, *place])}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
