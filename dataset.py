"""The competition: its classes and label code, files, people, images, label fixes, folds, and which rows a fold trains on."""

import functools
import hashlib
import os
import re
import shlex
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

import errors
import files
from errors import InputError, did_you_mean, log

DATA_PLACES = (Path("data"), Path("/opt/ml/input/data"))
DEMO_DIR = Path("data-demo")  # of demo.py
MASKS = ("worn", "incorrect", "not worn")
GENDERS = ("male", "female")
AGE_GROUPS = ("<30", "30-59", ">=60")
LABELS = tuple(f"{mask}, {gender}, {age}" for mask in MASKS for gender in GENDERS for age in AGE_GROUPS)

OFFICIAL_BOUNDS = (30, 60)
MASK_PRIOR = (5 / 7, 1 / 7, 1 / 7)  # of the eval images, by construction of the competition
FIRST_AGE, LAST_AGE = 18, 60  # the age head's classes; the last one means "60 and over"
AGES = tuple(str(age) for age in range(FIRST_AGE, LAST_AGE + 1))
LAST_AUX_AGE = 80  # of the auxiliary head of --aux-age, which learns ages above 60 where there are any

CLASS_NAMES = {"label": LABELS, "mask": MASKS, "gender": GENDERS, "age_group": AGE_GROUPS, "age": AGES}
COMPONENTS = ("mask", "gender", "age_group")
HEADS = {"label": ("label",), **{one: (one,) for one in COMPONENTS}, "multi": COMPONENTS, "age": ("age",)}  # of each target
# The components of the label that a member of each target decides.
DECIDES = {**HEADS, "label": COMPONENTS, "age": ("age_group",)}
TARGETS = tuple(HEADS)
# What a target is scored on: `multi` on the 18 classes, `age` on the age group that follows from it.
SCORED_AS = {**{target: target for target in TARGETS}, "multi": "label", "age": "age_group"}
# The seven images of a person and the mask state each shows.
IMAGE_KINDS = {**{f"mask{number}": 0 for number in range(1, 6)}, "incorrect_mask": 1, "normal": 2}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
WHOLE = re.compile(r"(\d{1,18})(\.0*)?", re.ASCII)
EXPONENT = re.compile(r"\d(\.\d*)?E[+-]\d+", re.ASCII | re.IGNORECASE)  # of a spreadsheet, for a long number
EvalImages = namedtuple("EvalImages", ["data_dir", "names", "files"])  # names in info.csv order


def find_data(data_dir=None):
    """The data folder that is given, or the first of DATA_PLACES and DEMO_DIR that holds train/train.csv, or None."""
    if data_dir is None:
        return next((place for place in (*DATA_PLACES, DEMO_DIR) if (place / "train" / "train.csv").is_file()), None)
    data_dir = Path(data_dir)
    if _holds_data(data_dir):
        return data_dir
    above = [place if data_dir.is_absolute() else Path(os.path.relpath(place)) for place in data_dir.absolute().parents[:3]]
    below = [file.parents[1] for depth in ("*", "*/*") for file in sorted(data_dir.glob(f"{depth}/train/train.csv"))]
    meant = next((f" Did you mean {place}?" for place in (*filter(_holds_data, above), *below)), "")
    if not meant and not data_dir.exists():
        meant = did_you_mean(data_dir.name, [place.name for place in data_dir.parent.glob("*") if _holds_data(place)])
    state = "holds neither" if data_dir.is_dir() else "is a file" if data_dir.exists() else "no such folder"
    wanted = f"--data-dir {data_dir}: {state}; it must hold train/train.csv and eval/info.csv"
    raise InputError(f"{wanted}.{meant}" if meant else wanted)


def _holds_data(folder):
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("train/train.csv", "eval/info.csv"))


def is_demo(folder):
    """True for a folder that demo.py drew."""
    return (Path(folder) / "demo.json").is_file()


def data_option(data_dir):
    """' --data-dir DIR' for a command to paste, or '' where the scripts find that folder by themselves."""
    return "" if find_data() == Path(data_dir) else f" --data-dir {shlex.quote(str(data_dir))}"


def num_outputs(target):
    """Number of logits a model of `target` has: the sum over its heads."""
    return sum(len(CLASS_NAMES[head]) for head in HEADS[target])


def head_slices(target):
    """{head: slice} of each head's logits in the last axis of a [..., num_outputs] array."""
    slices, start = {}, 0
    for head in HEADS[target]:
        slices[head] = slice(start, start + len(CLASS_NAMES[head]))
        start = slices[head].stop
    return slices


def encode(mask, gender, age_group):
    """The 18-class label of its components (ints or integer arrays)."""
    return mask * 6 + gender * 3 + age_group


def decode(label):
    """(mask, gender, age_group) of an 18-class label (int or integer array)."""
    return label // 6, label // 3 % 2, label % 3


def class_components(classes, scored_as):
    """{component: its classes} of classes of `scored_as` (int or integer array): all three of a label, else one."""
    return dict(zip(HEADS["multi"], decode(classes))) if scored_as == "label" else {scored_as: classes}


def changed_words(index_a, index_b, scored_as):
    """[(component, word of A, word of B)] of two classes; the words are equal where the component did not change."""
    a, b = (class_components(index, scored_as) for index in (index_a, index_b))
    return [(head, CLASS_NAMES[head][a[head]], CLASS_NAMES[head][b[head]]) for head in a]


def to_age_group(age, bounds=OFFICIAL_BOUNDS):
    """Age group of ages in years (int or integer array): 0 below bounds[0], 2 from bounds[1] on, else 1."""
    age = np.asarray(age)
    return (age >= bounds[0]).astype(np.int64) + (age >= bounds[1])


def age_group_probs(age_probs, bounds=OFFICIAL_BOUNDS):
    """Age-group probabilities [..., 3] from those of single ages [..., 43 or 63], cut at `bounds` (18 < lo < hi <= 60)."""
    low, high = (bound - FIRST_AGE for bound in bounds)
    slices = (age_probs[..., :low], age_probs[..., low:high], age_probs[..., high:])
    return np.stack([ages.sum(-1) for ages in slices], axis=-1)


def combine(mask, gender, age_group):
    """Probabilities of the 18 classes [N, 18] as the product of mask [N, 3], gender [N, 2] and age group [N, 3]."""
    return (mask[:, :, None, None] * gender[:, None, :, None] * age_group[:, None, None, :]).reshape(len(mask), len(LABELS))


def marginals(label_probs):
    """{"mask": [N, 3], "gender": [N, 2], "age_group": [N, 3]} of probabilities of the 18 classes [N, 18]."""
    joint = label_probs.reshape(-1, len(MASKS), len(GENDERS), len(AGE_GROUPS))
    return {"mask": joint.sum((2, 3)), "gender": joint.sum((1, 3)), "age_group": joint.sum((1, 2))}


def softmax(logits):
    """Probabilities over the last axis, computed in float64 from any finite logits: float32, same shape."""
    logits = np.asarray(logits, dtype=np.float64)
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return (exp / exp.sum(-1, keepdims=True)).astype(np.float32)


def head_probs(target, logits):
    """Probabilities float32 [N, num_outputs(target)] of a model's logits: a softmax over those of each head. Where logits of
    single ages follow (--aux-age), each age group's probability becomes the mean of both heads'."""
    probs = np.concatenate([softmax(logits[:, head]) for head in head_slices(target).values()], axis=1)
    if logits.shape[1] > num_outputs(target):
        place = slice(None) if target == "label" else head_slices(target)["age_group"]
        own = marginals(probs)["age_group"] if target == "label" else probs[:, place]
        factors = (1 + age_group_probs(softmax(logits[:, num_outputs(target) :])) / own.clip(1e-30)) / 2
        probs[:, place] *= np.tile(factors, 6 if target == "label" else 1)  # age groups come last in a label
    return probs


def scored_probs(target, probs):
    """Probabilities of what `target` is scored on from its heads' [N, num_outputs(target)]: [N, 18] of multi, [N, 3] of age."""
    tables = [*member_components(target, probs).values()]
    return combine(*tables) if target == "multi" else tables[0]


def member_components(target, probs, bounds=OFFICIAL_BOUNDS):
    """A member's tables: {"label": [N, 18]} or {component: [N, C]}; `age` is cut at `bounds`, or stays {"age": ...} at None."""
    if target == "age" and bounds:
        return {"age_group": age_group_probs(probs, bounds)}
    return {target: probs} if target in ("label", "age") else {head: probs[:, c] for head, c in head_slices(target).items()}


def columns(target):
    """p0, p1, ... ; for `multi` mask_p0 ... age_group_p2; for `age` age_p18 ... age_p60."""
    if target == "multi":
        return [f"{head}_p{index}" for head in HEADS[target] for index in range(len(CLASS_NAMES[head]))]
    if target == "age":
        return [f"age_p{age}" for age in CLASS_NAMES["age"]]
    return [f"p{index}" for index in range(num_outputs(target))]


def truth_columns(target):
    """The columns of oof.csv that hold official classes."""
    return list(HEADS["multi"]) if target == "multi" else ["target"]


def whole(text):
    """The whole number from 0 on in a text, which a spreadsheet may have given a point and zeros ('29.0'), or None."""
    match = WHOLE.fullmatch(text)
    return int(match[1]) if match else None


def read_submission(path):
    """(ImageIDs, labels int64 [N]) of a csv ImageID,ans; InputError names a line with another label or a doubled ImageID."""
    table = files.read_csv(path, ("ImageID", "ans"))
    files.check_once(path, table, "ImageID")
    labels = table["ans"].map(whole).astype(float)
    problem = f"ans {{!r}} is not a label; allowed: 0 to {len(LABELS) - 1}"
    files.check_rows(path, table, table["ans"], labels < len(LABELS), problem)
    return table["ImageID"].tolist(), labels.to_numpy(dtype=np.int64)


def read_people(data_dir):
    """The rows of train.csv: DataFrame path, id, gender (0 male, 1 female), age (years); InputError names a bad line."""
    path = Path(data_dir) / "train" / "train.csv"
    table = files.read_csv(path, ("id", "gender", "age", "path"))
    files.check_filled(path, table, "id")
    files.check_once(path, table, "path")
    ages = table["age"].map(to_age)
    for column, right, problem in (
        ("gender", table["gender"].isin(GENDERS), "is neither male nor female"),
        ("age", ages.notna(), "is not a whole number from 0 to 120"),
        ("id", ~table["id"].str.fullmatch(EXPONENT), "was made a number, as in a spreadsheet; take the original"),
        ("path", ~table["path"].str.contains(r"^\.{1,2}$|/"), "is not the name of a folder in train/images"),
    ):
        files.check_rows(path, table, table[column], right, f"{column} {{!r}} {problem}")
    return table[["path", "id"]].assign(gender=table["gender"].map(GENDERS.index).astype(np.int64), age=ages.astype(np.int64))


@functools.cache  # some ages, thousands of times
def to_age(text):
    """The age in a text: a whole number from 0 to 120, or None."""
    age = whole(text)
    return age if age is not None and age <= 120 else None


@functools.cache  # seven names and their likes, thousands of times
def _stem_and_suffix(name):
    return os.path.splitext(name.lower())


def image_kind(image):
    """The kind, as in IMAGE_KINDS, of an image by its name ('{path}/Mask1.JPG')."""
    return _stem_and_suffix(os.path.basename(image))[0]


def _lies_as(name, others):
    """The end of a message about a missing file that one of `others` may be, but for case or suffix; else ''."""
    same = [other for other in others if _stem_and_suffix(other)[0] == _stem_and_suffix(name)[0]]
    return f"; it lies there as {same[0]!r}; rename or convert it" if same else ""


def person_images(folder):
    """The image files of one person: {kind: file name}. Dot-files, folders, broken links and other files are ignored."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_file())
    except OSError as error:
        root, name = os.path.split(folder)
        near = _lies_as(name, os.listdir(root)) if os.path.isdir(root) else ""
        missing = InputError(f"{folder}: train.csv names this folder, but it is not there{near}")
        raise errors.unreadable(folder, error) or missing from error
    by_kind = {}
    for name in names:
        stem, suffix = _stem_and_suffix(name)
        if suffix not in IMAGE_SUFFIXES:
            continue
        if stem not in IMAGE_KINDS:
            raise InputError(f"{folder}/{name}: unknown image name; {', '.join(IMAGE_KINDS)} are expected")
        if stem in by_kind:
            raise InputError(f"{folder}: {by_kind[stem]} and {name} are both there; keep one of them")
        by_kind[stem] = name
    if not by_kind:
        raise InputError(f"{folder}: holds no images; complete it or take its row out of train.csv")
    return by_kind


def images_root(data_dir):
    """The folder (str) that holds one folder a person."""
    return os.path.join(data_dir, "train", "images")


def list_images(data_dir, people, skip_missing=False):
    """One row an image of `people`: DataFrame image ('{path}/mask1.jpg'), path, id, mask, gender, age, label (official).
    A person with fewer than seven images is an InputError, or a line with `skip_missing`."""
    root = images_root(data_dir)
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; it holds a folder of images for each person of train.csv")
    rows = []
    for owner, path in enumerate(people["path"].to_numpy()):
        by_kind = person_images(os.path.join(root, path))
        if missing := [kind for kind in IMAGE_KINDS if kind not in by_kind]:
            if not skip_missing:
                raise InputError(f"{root}/{path}: {', '.join(missing)} missing; complete it or pass --skip-bad-images")
            log(f"skipped: {root}/{path}: {', '.join(missing)} missing")
        rows += [(f"{path}/{by_kind[kind]}", owner, mask) for kind, mask in IMAGE_KINDS.items() if kind in by_kind]
    images, owners, masks = map(list, zip(*rows))
    rows = people.iloc[owners].reset_index(drop=True)
    rows.insert(0, "image", images)
    rows["mask"] = np.array(masks, dtype=np.int64)
    rows["label"] = encode(rows["mask"], rows["gender"], to_age_group(rows["age"]))
    return rows


def image_files(data_dir, images):
    """The files (str) of image names, as in train rows ('{path}/mask1.jpg')."""
    root = images_root(data_dir)
    return [f"{root}/{image}" for image in np.asarray(images)]


def official_rows(images, people):
    """The rows (image, path) of oof.csv that are images of `people`, with the mask, gender and age of these: DataFrame."""
    rows = pd.Index(people["path"]).get_indexer(images["path"])
    masks = [IMAGE_KINDS.get(image_kind(image), -1) for image in images["image"].to_numpy()]
    columns = {"mask": masks, "gender": people["gender"].to_numpy()[rows], "age": people["age"].to_numpy()[rows]}
    return images[["image", "path"]].assign(**columns)[(rows >= 0) & (np.array(masks) >= 0)]


def read_info(data_dir):
    """(path, table) of eval/info.csv. InputError names the first ImageID that is doubled or empty."""
    path = Path(data_dir) / "eval" / "info.csv"
    table = files.read_csv(path, ("ImageID",))
    files.check_once(path, table, "ImageID")
    return path, table


def read_eval(data_dir):
    """The EvalImages of a data folder, in the order of eval/info.csv; a line on stderr about images that it leaves out."""
    path, table = read_info(data_dir)
    root = Path(data_dir) / "eval" / "images"
    on_disk = {entry.name for entry in os.scandir(root) if entry.is_file()} if root.is_dir() else set()
    for line, name in zip(table[files.LINE], table["ImageID"]):
        if name not in on_disk:
            raise InputError(f"{path}, line {line}: image {name!r} is no file in {root}{_lies_as(name, sorted(on_disk))}")
    names = table["ImageID"].tolist()
    left_out = sorted(n for n in on_disk.difference(names) if n[0] != "." and _stem_and_suffix(n)[1] in IMAGE_SUFFIXES)
    if left_out:
        log(f"{path}: leaves out {len(left_out):,} images of {root}, such as {left_out[0]}")
    return EvalImages(Path(data_dir), names, [root / name for name in names])


def read_answers(data_dir, names):
    """True labels int64 [N] of eval images where eval/answers.csv (of the demo set) holds them all, else None."""
    path = Path(data_dir) / "eval" / "answers.csv"
    answers = dict(zip(*read_submission(path))) if path.is_file() else {}
    if set(names) <= set(answers):  # else predictions of another data set
        return np.array([answers[name] for name in names], dtype=np.int64)


def read_fixes(path, people=None):
    """The rows of a csv path,column,value[,confidence]: DataFrame of these and files.LINE. It may name ids of `people`, whose
    paths are returned; without people any path will do. `column` is gender (male, female, swap), age (years) or mask (swap:
    normal and incorrect_mask change places)."""
    table = files.read_csv(path, ("path", "column", "value"))
    people = table.assign(id=table["path"]) if people is None else people
    given = table.get("confidence", pd.Series("1", index=table.index)).replace("", "1")
    confidence = pd.to_numeric(given, errors="coerce")
    by_name = {path: [path] for path in people["path"]}
    for name, paths in people.groupby("id")["path"]:
        by_name.setdefault(name, paths.tolist())
    known = table["path"].isin([*by_name])
    if known.mean() < 0.5:
        problem = f"{(~known).sum()} of its {len(table)} people are not in train.csv, such as {table['path'][~known].iloc[0]}"
        raise InputError(f"{path}: {problem}, so it is for other data; the one beside train.py is for the competition's")
    words, pairs = {"gender": (*GENDERS, "swap"), "mask": ("swap",), "age": ()}, list(zip(table["value"], table["column"]))
    fits = [value in words.get(column, ()) or (column == "age" and to_age(value) is not None) for value, column in pairs]
    for values, right, problem in (
        (table["path"], known, "{!r} is neither a path nor an id of train.csv"),
        (table["column"], table["column"].isin([*words]), "column {!r} is none of gender, age, mask"),
        (pairs, fits, "value {0[0]!r} does not fit {0[1]}; gender takes male, female or swap, age 0 to 120, mask swap"),
        (given, confidence.between(0, 1), "confidence {!r} is not a number from 0 to 1"),
    ):
        files.check_rows(path, table, values, right, problem)
    values = [str(to_age(value)) if column == "age" else value for value, column in pairs]
    table = table.assign(path=table["path"].map(by_name), value=values, confidence=confidence)
    return table.explode("path", ignore_index=True)[["path", "column", "value", "confidence", files.LINE]]


def read_label_fixes(path, people, min_confidence):
    """(fixes, count left out) of the csv of `read_fixes`; fixes: DataFrame path, column, value. Rows below `min_confidence` are
    left out, and those of confidence 0, whose label is right."""
    table = read_fixes(path, people)
    taken = (table["confidence"] >= min_confidence) & (table["confidence"] > 0)
    return table.loc[taken, ["path", "column", "value"]].reset_index(drop=True), table[files.LINE][~taken].nunique()


def apply_label_fixes(images, fixes):
    """A copy of the image rows with `fixes` applied to mask, gender and age; the official `label` stays."""
    fixed = images.copy()
    for path, column, value in fixes.itertuples(index=False):
        theirs = fixed["path"] == path
        if column == "mask":
            fixed.loc[theirs, "mask"] = fixed.loc[theirs, "mask"].map({0: 0, 1: 2, 2: 1})
        elif column == "gender":
            fixed.loc[theirs, "gender"] = 1 - fixed.loc[theirs, "gender"] if value == "swap" else GENDERS.index(value)
        else:
            fixed.loc[theirs, "age"] = int(value)
    return fixed


def head_targets(images, heads, bounds=OFFICIAL_BOUNDS):
    """Training targets int64 [N, len(heads)] of image rows: class indices, or years for the head `age`."""
    age_group = to_age_group(images["age"], bounds)
    columns = {name: images[name] for name in ("mask", "gender", "age")} | {"age_group": age_group}
    columns["label"] = encode(images["mask"], images["gender"], age_group)
    return np.stack([np.asarray(columns[head], dtype=np.int64) for head in heads], axis=1)


def _distinct_people(people, seed):
    """Persons (ids) with their stratum (gender x official age group), in an order that depends on seed and id alone."""
    distinct = people.sort_values("path").drop_duplicates("id")
    stratum = distinct["gender"] * 3 + to_age_group(distinct["age"])
    order = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in distinct["id"]]
    return distinct.assign(stratum=stratum, order=order).sort_values(["stratum", "order"], ignore_index=True)


def assign_folds(people, kfold, seed):
    """Fold of each row of `people`, int64 [P]: person-disjoint, stratified by gender x official age group; -1 with kfold 0.
    Persons are dealt out in turn, stratum after stratum, so fold sizes differ by one at most."""
    if kfold == 0:
        return np.full(len(people), -1, dtype=np.int64)
    distinct = _distinct_people(people, seed)
    sizes = distinct["stratum"].value_counts()
    if (size := sizes.min()) < kfold:
        has = f"{size} people; --kfold can be {size} at most" if size > 1 else "1 person; only --kfold 0 (nofold) is possible"
        stratum = f"{GENDERS[sizes.idxmin() // 3]}, age group {sizes.idxmin() % 3}"
        raise InputError(f"--kfold {kfold}: the smallest stratum ({stratum}) has {has}")
    return pd.Index(distinct["id"]).get_indexer(people["id"]) % kfold


def limit_people(people, limit, kfold, seed):
    """`limit` rows of `people`, strata in proportion, but of each at least kfold persons, those with several rows last."""
    distinct = _distinct_people(people, seed)
    distinct["rows"] = distinct["id"].map(people["id"].value_counts())
    distinct = distinct.sort_values(["stratum", "rows"], kind="stable")
    strata = distinct.groupby("stratum")
    sizes = strata["rows"].sum()
    if limit >= len(people):
        return people
    floor = strata.head(max(kfold, 1)).groupby("stratum")["rows"].sum()
    if limit < floor.sum():
        raise InputError(f"--limit-people {limit}: with --kfold {kfold} at least {floor.sum()} people are needed")
    share = sizes * limit / sizes.sum()
    take = np.maximum(floor, np.floor(share)).astype(int)
    for stratum in (share - take).sort_values(ascending=False, kind="stable").index:
        take[stratum] += take.sum() < limit
    while take.sum() > limit:  # the floors took more than their share: the largest stratum gives
        take[(take - floor).idxmax()] -= 1
    chosen = distinct[strata["rows"].cumsum() <= distinct["stratum"].map(take)]
    return people[people["id"].isin(chosen["id"])].reset_index(drop=True)


def read_same_people(path, people):
    """The rows of a csv id,same_as: ids of `people`, two of one person in each, or none, as eda.py writes it where it finds
    nobody; InputError names a line with another id."""
    table = files.read_csv(path, ("id", "same_as"), needs_rows=False)
    for names in (table["id"], table["same_as"]):
        files.check_rows(path, table, names, names.isin(people["id"]), "{!r} is no id of train.csv")
    return table[["id", "same_as"]]


def join_people(people, same):
    """A copy of `people` in whom all ids that rows of `read_same_people` join, also over others, are one: the first by name."""
    owner = {name: name for name in people["id"]}
    for pair in same.to_numpy():
        one, two = sorted(owner[name] for name in pair)
        owner |= {name: one for name, current in owner.items() if current == two}
    return people.assign(id=people["id"].map(owner))


def read_tables(args):
    """The tables of a run; `labelled`: the image rows as training sees them, `eval_images`: those of --pseudo. A resumed run
    takes its own copies of --same-people and --label-fixes, whose files may be gone."""
    everyone = people = read_people(args.data_dir)
    same = fixes = None
    if args.same_people:
        same = read_same_people((args.resume and Path(args.resume, "same_people.csv")) or args.same_people, everyone)
        people = join_people(everyone, same)
        log(f"same people: {everyone['id'].nunique()} ids are {people['id'].nunique()} people")
    if args.limit_people:
        people = limit_people(people, args.limit_people, args.kfold, args.fold_seed)
    folds = assign_folds(people, args.kfold, args.fold_seed)
    images = labelled = list_images(args.data_dir, people, skip_missing=args.skip_bad_images)
    if args.label_fixes:
        kept = args.resume and Path(args.resume, "label_fixes.csv")
        fixes, left_out = read_label_fixes(kept or args.label_fixes, everyone, args.fix_confidence)
        fixes = fixes[fixes["path"].isin(people["path"])].reset_index(drop=True)
        labelled = apply_label_fixes(images, fixes)
        log(f"label fixes: {len(fixes)} applied to training labels, {left_out} below confidence {args.fix_confidence}")
    if args.drop_ages:
        dropped = labelled.loc[labelled["age"].isin(args.drop_ages), "path"].nunique()
        log(f"drop ages: {dropped} people leave training")
    held = read_eval(args.data_dir) if args.pseudo else EvalImages(Path(args.data_dir), [], [])
    paths = image_files(args.data_dir, images["image"])
    return SimpleNamespace(people=people, folds=folds, images=images, files=paths, labelled=labelled, same=same,
                           fixes=fixes, eval_images=held)  # fmt: skip


# The images of a fold. Rows are indices into the images.ImageStore; targets int64 [N, heads]; truth int64 [N] official classes;
# classes, persons and masks int64 [N] serve samplers and mixing, ages --aux-age. The last rows of all [N] but ages may be eval
# images, whose soft targets pseudo float32 [M, num_outputs] replace their train_targets.
FOLD_DATA = "fold store train_rows val_rows train_targets truth classes persons masks ages pseudo"
FoldData = namedtuple("FoldData", FOLD_DATA, defaults=[None])


def make_labels(args, tables, good):
    """Arrays [N] of the image rows of `read_tables`; good: readable, truth: the official class. --drop-ages go by fixed ages;
    leaving out 27-29 and 57-59 is from the contest's 1st place, other --age-bounds from its 2nd."""
    images, labelled = tables.images, tables.labelled
    return SimpleNamespace(
        fold=tables.folds[pd.Index(tables.people["path"]).get_indexer(images["path"])],
        good=good,
        trains=good & ~labelled["age"].isin(args.drop_ages).to_numpy(),
        targets=head_targets(labelled, HEADS[args.target], tuple(args.age_bounds)),
        truth=head_targets(images, (SCORED_AS[args.target],))[:, 0],
        persons=pd.factorize(images["id"])[0],
        masks=labelled["mask"].to_numpy(),
        ages=labelled["age"].to_numpy()[: None if args.aux_age else 0],  # else the digest stays that of earlier versions
    )


def fold_data(args, data, fold, everyone=False):
    """The rows of one fold: all others train that may, and its own are validated on; pseudo-labelled eval images follow.
    everyone: those whom the fold holds out train too, and nobody is validated on."""
    labels, validates = data.labels, bool(args.kfold) and not everyone
    held_out = labels.fold == fold if validates else np.zeros(len(labels.fold), dtype=bool)
    rows = np.flatnonzero(labels.trains & ~held_out)
    if not len(rows):
        if (labels.good & ~held_out).any():
            raise InputError(f"--drop-ages: leaves nobody to train fold {fold}")
        none = f"as none of its {(~held_out).sum():,} images could be taken; what is wrong with them is said above"
        raise InputError(f"--skip-bad-images: leaves nobody to train fold {fold}, {none}")
    targets, persons, masks, soft = labels.targets, labels.persons, labels.masks, None
    if data.pseudo is not None:
        rows, soft = pseudo_rows(args, data, fold, rows)
        hard = {head: soft[:, place].argmax(1) for head, place in head_slices(args.target).items()}
        likely = decode(hard["label"])[0] if args.target == "label" else hard.get("mask", np.full(len(soft), -1))
        targets = np.concatenate([targets, np.stack([*hard.values()], axis=1) + FIRST_AGE * (args.target == "age")])
        masks = np.concatenate([masks, likely])
        persons = np.concatenate([persons, persons.max() + 1 + np.arange(len(soft))])
    classes = encode(*targets.T) if args.target == "multi" else targets[:, 0]  # that samplers balance
    if args.target == "age":
        classes = to_age_group(classes, tuple(args.age_bounds))
    val_rows = np.flatnonzero(labels.good & held_out)
    return FoldData(fold, data.store, rows, val_rows, targets, labels.truth, classes, persons, masks, labels.ages, soft)


def pseudo_rows(args, data, fold, rows):
    """(training rows with a fold's pseudo-labelled eval images added, soft targets float32 [eval images, num_outputs])."""
    table = data.pseudo[data.pseudo["fold"] == fold]
    places = pd.Index(data.eval_names).get_indexer(table["ImageID"])
    if (places < 0).any():
        raise InputError(f"pseudo-labels: {table['ImageID'].iloc[(places < 0).argmax()]} is no eval image of {args.data_dir}")
    soft = np.zeros((len(data.eval_names), len(columns(args.target))), dtype=np.float32)
    soft[places] = table[columns(args.target)].to_numpy()
    return np.concatenate([rows, len(data.images) + places[data.good_eval[places]]]), soft
