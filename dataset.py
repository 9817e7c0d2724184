"""The competition's files: where the data is, its people, images, labels, label fixes and folds. No pixels, no models."""

import functools
import hashlib
import os
import shlex
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

import demo
import errors
import listing
import predictions
import tables
from errors import InputError, did_you_mean, say
from images import CONVERT
from labels import GENDERS, OFFICIAL_BOUNDS, encode, to_age_group

DATA_PLACES = (Path("data"), Path("/opt/ml/input/data"))
DEMO_DIR = Path("data-demo")
# The seven images of a person and the mask state each shows.
IMAGE_KINDS = {**{f"mask{number}": 0 for number in range(1, 6)}, "incorrect_mask": 1, "normal": 2}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


def locate(data_dir=None, draw=True):
    """(data folder, is it the drawn demo set). A folder that is given must be there; without one see DATA_PLACES.

    Where neither place holds train/train.csv it is data-demo/, into which the demo set is drawn, with a banner on stderr,
    unless `draw` is False.
    """
    found = find(data_dir)
    if data_dir is not None or found not in (None, DEMO_DIR):
        return found, demo.is_demo(found)
    if not draw:
        return DEMO_DIR, True
    say(
        f"DEMO DATA: no train/train.csv in {' or '.join(map(str, DATA_PLACES))}: using drawn faces in {DEMO_DIR}/.\n"
        "Scores on them say nothing about real ones; give your data with --data-dir DIR."
    )
    demo.draw_demo(DEMO_DIR)
    return DEMO_DIR, True


def find(data_dir=None):
    """The folder that `locate` returns, but None where it would have to draw the demo set."""
    if data_dir is None:
        return next((place for place in (*DATA_PLACES, DEMO_DIR) if (place / "train" / "train.csv").is_file()), None)
    if _holds_data(data_dir):
        return Path(data_dir)
    data_dir = Path(data_dir)
    above = (Path(os.path.relpath(place)) if not data_dir.is_absolute() else place for place in data_dir.absolute().parents[:3])
    below = (file.parents[1] for depth in ("*", "*/*") for file in sorted(data_dir.glob(f"{depth}/train/train.csv")))
    meant = next((f" Did you mean {place}?" for place in (*filter(_holds_data, above), *below)), "")
    if not meant and not data_dir.exists():
        meant = did_you_mean(data_dir.name, [place.name for place in data_dir.parent.glob("*") if _holds_data(place)])
    found = "holds neither" if data_dir.is_dir() else "is a file" if data_dir.exists() else "no such folder"
    raise InputError(
        f"--data-dir {data_dir}: {found}; it must hold train/train.csv and eval/info.csv.{meant}".removesuffix(".")
    )


def _holds_data(folder):
    """Whether a folder has the competition's files, or at least one part of them."""
    return any(os.path.isfile(os.path.join(folder, *name)) for name in (("train", "train.csv"), ("eval", "info.csv")))


def check_train(data_dir):
    """InputError where the people or the folder of their images can't be read."""
    read_people(data_dir)
    if not os.path.isdir(images_root(data_dir)):
        raise InputError(f"{images_root(data_dir)}: no such folder; it holds a folder of images for each person of train.csv")


def as_option(data_dir):
    """' --data-dir DIR' for a command to paste, or '' where the scripts find that folder by themselves."""
    return "" if find() == Path(data_dir) else f" --data-dir {shlex.quote(str(data_dir))}"


def read_people(data_dir):
    """The rows of train.csv: DataFrame path, id (str), gender (0 male, 1 female), age (int years); index 0..P-1.

    Raises InputError, naming the file and line, for a missing column, an unknown gender, an age that is no whole number
    between 0 and 120, an id that is empty or was made a number, or a path that stands twice, in whatever spelling, or leaves
    train/images.
    """
    path = Path(data_dir) / "train" / "train.csv"
    table = tables.read(path, ("id", "gender", "age", "path"))
    tables.check_filled(path, table, "id")
    columns = (table[name].to_numpy() for name in (tables.LINE, "id", "gender", "age", "path"))  # faster than by its rows
    for line, name, gender, age, folder in zip(*columns):
        where = f"{path}, line {line}"
        if gender not in GENDERS:
            raise InputError(f"{where}: gender {gender!r} is neither male nor female")
        if to_age(age) is None:
            raise InputError(f"{where}: age {age!r} is not a whole number from 0 to 120")
        if "/" in folder or folder in ("", ".", ".."):
            _check_folder(where, folder)
        if tables.EXPONENT.fullmatch(name):
            raise InputError(f"{where}: id {name!r} was made a number, as in a spreadsheet; take the original")
        zeros_lost = folder.startswith("0") and not folder.startswith(f"{name}_")
        if zeros_lost and folder.lstrip("0").startswith(f"{tables.whole(name)}_"):
            raise InputError(f"{where}: id {name!r} has lost the zeros of {folder!r}, as in a spreadsheet; take the original")
    tables.check_once(path, table, "path")
    return pd.DataFrame(
        {
            "path": table["path"],
            "id": table["id"],
            "gender": table["gender"].map(GENDERS.index).astype(np.int64),
            "age": table["age"].map(to_age).astype(np.int64),
        }
    )


def _check_folder(where, folder):
    """InputError for a path that is not the name of a folder in train/images, or another spelling of one."""
    if folder in ("", ".") or ".." in folder.split("/") or os.path.isabs(folder):
        raise InputError(f"{where}: path {folder!r} is not the name of a folder in train/images")
    if folder != os.path.normpath(folder):
        raise InputError(f"{where}: path {folder!r} is another spelling of {os.path.normpath(folder)!r}; write that")


@functools.cache  # some ages, thousands of times
def to_age(text):
    """The age in a text: a whole number from 0 to 120, or None."""
    age = tables.whole(text)
    return age if age is not None and age <= 120 else None


@functools.cache  # seven names and their likes, thousands of times
def _name_parts(name):
    """(name without its suffix, in small letters; whether that is one of images) of a file's name."""
    stem, suffix = os.path.splitext(name)
    return stem.lower(), suffix.lower() in IMAGE_SUFFIXES


def image_kind(image):
    """The kind, as in IMAGE_KINDS, that the name of an image ('{path}/Mask1.JPG') says."""
    return _name_parts(os.path.basename(image))[0]


def _not_read(names, kinds):
    """What to say of files of these kinds that are no images which are read; '' where there are none."""
    others = [name for name in names if _name_parts(name)[0] in kinds]
    return f" ({', '.join(others)} lies there, which is not read; {CONVERT})" if others else ""


def lies_as(folder, name, others):
    """What to say of a file or folder that is not there, where one of `others` in its folder is the same by another spelling,
    Unicode form (a Mac's letters and accents are apart) or format; '' where none is."""

    def plain(text):
        return unicodedata.normalize("NFC", text).casefold()

    same = [other for other in others if plain(other) == plain(name)]
    same = same or [other for other in others if plain(os.path.splitext(other)[0]) == plain(os.path.splitext(name)[0])]
    if not same:
        return ""
    if unicodedata.normalize("NFC", same[0]) == unicodedata.normalize("NFC", name):
        form = "nfc" if unicodedata.is_normalized("NFC", name) else "nfd"
        rename = shlex.join(["convmv", "-r", "--notest", "-f", "utf8", "-t", "utf8", f"--{form}", str(folder)])
        return f"; it lies there as {same[0]!a}, in another Unicode form, as a Mac leaves names; {rename} renames all of them"
    suffix = os.path.splitext(same[0])[1]
    unread = suffix.lower() not in IMAGE_SUFFIXES and _name_parts(name)[1]
    return f"; it lies there as {same[0]!r}{f', which is not read; {CONVERT}' if unread else '; rename it'}"


def person_images(folder, names=None):
    """The image files of one person: {kind: file name}. Dot-files, folders, broken links and other files are passed over.

    names: those of the folder's files, in order, if they are known. InputError when the folder is missing or empty, an image
    has an unknown name, or one kind stands twice.
    """
    try:
        if names is None:
            names = [entry.name for entry in listing.files(folder)]
    except (FileNotFoundError, NotADirectoryError) as error:
        root, name = os.path.split(folder)
        near = lies_as(root, name, os.listdir(root)) if os.path.isdir(root) else ""
        raise InputError(f"{folder}: train.csv names this folder, but it is not there{near}") from error
    except OSError as error:
        raise errors.unreadable(folder, error) or InputError(f"{folder}: can't be read ({error.strerror})") from error
    found = {}
    for name in names:
        stem, is_image = _name_parts(name)
        if not is_image:
            continue
        if stem not in IMAGE_KINDS:
            raise InputError(f"{folder}/{name}: unknown image name; {', '.join(IMAGE_KINDS)} are expected")
        if stem in found:
            raise InputError(f"{folder}: {found[stem]} and {name} are both there; keep one of them")
        found[stem] = name
    if not found:
        there = _not_read(names, IMAGE_KINDS)
        raise InputError(f"{folder}: holds no images{there}; complete it or take its row out of train.csv")
    return found


def images_root(data_dir):
    """The folder (str: twenty thousand Path objects would cost a third of a second) that holds one folder a person."""
    return os.path.join(data_dir, "train", "images")


def list_images(data_dir, people, skip_missing=False, listed=None):
    """One row an image of `people`: DataFrame image ('{path}/mask1.jpg'), path, id, mask, gender, age, label.

    `label` is the official 18-class label. Rows follow `people`, then IMAGE_KINDS. A person with fewer than seven images
    is an InputError that names the missing one, or a line on stderr with `skip_missing`. `listed`: what listing.look found
    in `images_root`, if it was asked; folders that are not there are looked through now.
    """
    root, listed = images_root(data_dir), listed or {}
    images, owners, masks = [], [], []
    for owner, path in enumerate(people["path"].to_numpy()):
        found = person_images(os.path.join(root, path), listed.get(path))
        if missing := [kind for kind in IMAGE_KINDS if kind not in found]:
            there = _not_read([entry.name for entry in listing.files(f"{root}/{path}")], missing)
            if not skip_missing:
                raise InputError(f"{root}/{path}: {', '.join(missing)} missing{there}; complete it or pass --skip-bad-images")
            say(f"skipped: {root}/{path}: {', '.join(missing)} missing{there}")
        for kind, mask in IMAGE_KINDS.items():
            if kind in found:
                images.append(f"{path}/{found[kind]}")
                owners.append(owner)
                masks.append(mask)
    rows = people.iloc[owners].reset_index(drop=True)
    rows.insert(0, "image", images)
    rows["mask"] = np.array(masks, dtype=np.int64)
    rows["label"] = encode(rows["mask"], rows["gender"], to_age_group(rows["age"]))
    return rows


def image_files(data_dir, images):
    """The files (str) of image names, as in train rows ('{path}/mask1.jpg')."""
    root = images_root(data_dir)
    return [f"{root}/{image}" for image in np.asarray(images)]  # pandas' own way through a column costs three times as much


def official_rows(images, people):
    """The rows (image, path) of oof.csv that are images of `people`, with the mask, gender and age of these: DataFrame."""
    rows = pd.Index(people["path"]).get_indexer(images["path"])
    masks = [IMAGE_KINDS.get(_name_parts(image.rpartition("/")[2])[0], -1) for image in images["image"].to_numpy()]
    facts = {"mask": masks, "gender": people["gender"].to_numpy()[rows], "age": people["age"].to_numpy()[rows]}
    return images[["image", "path"]].assign(**facts)[(rows >= 0) & (np.array(masks) >= 0)]


def read_info(data_dir):
    """(path, table of tables.read) of eval/info.csv. InputError names the first ImageID that is doubled or empty."""
    path = Path(data_dir) / "eval" / "info.csv"
    table = tables.read(path, ("ImageID",))
    tables.check_once(path, table, "ImageID")
    return path, table


def read_eval(data_dir):
    """ImageIDs of eval/info.csv, in its order, and their files. InputError names the first that is missing or doubled.

    Images that it leaves out are told, as they would lack in a submission.
    """
    path, table = read_info(data_dir)
    root = Path(data_dir) / "eval" / "images"
    on_disk = {entry.name for entry in os.scandir(root) if entry.is_file()} if root.is_dir() else set()
    for line, name in zip(table[tables.LINE], table["ImageID"]):
        if name not in on_disk:
            near = lies_as(root, name, sorted(on_disk))
            raise InputError(f"{path}, line {line}: image {name!r} is no file in {root}{near}")
    names = table["ImageID"].tolist()
    left_out = sorted(name for name in on_disk.difference(names) if name[0] != "." and _name_parts(name)[1])
    if left_out:
        say(f"{path}: leaves out {len(left_out):,} images of {root}, such as {left_out[0]}")
    return names, [root / name for name in names]


def read_answers(data_dir, names):
    """True labels int64 [N] of eval images where eval/answers.csv holds them all (the demo set has one), else None."""
    path = Path(data_dir) / "eval" / "answers.csv"
    if not path.is_file():
        return None
    answers = dict(zip(*predictions.read_submission(path)))
    if not set(names) <= set(answers):
        return None  # predictions of another data set
    return np.array([answers[name] for name in names], dtype=np.int64)


def read_label_fixes(path, people, min_confidence):
    """(fixes, count left out) of a csv path,column,value[,confidence]; fixes: DataFrame path (of people), column, value.

    `path` is a path of train.csv, or an id. `column` is gender (male, female, swap), age (whole years) or mask (swap:
    normal and incorrect_mask change places). Rows below `min_confidence` are left out and counted. InputError names the
    line of an unknown path, column or value.
    """
    table = tables.read(path, ("path", "column", "value"))
    confidence = table.get("confidence", pd.Series("1", index=table.index)).replace("", "1")
    by_name = {path: [path] for path in people["path"]}
    for name, paths in people.groupby("id")["path"]:
        by_name.setdefault(name, paths.tolist())
    without_zeros = {known.lstrip("0"): known for known in by_name}  # as a spreadsheet leaves them
    if not table["path"].isin([*by_name, *without_zeros]).any():
        raise InputError(f"{path}: none of its {len(table)} people is in train.csv, so it is of other data than this")
    fixes, left_out = [], 0
    for line, name, column, value, sure in zip(table[tables.LINE], table["path"], table["column"], table["value"], confidence):
        where = f"{path}, line {line}"
        if name not in by_name:
            meant = f" Did you mean {without_zeros[name]}?" if name in without_zeros else ""  # another id is another person
            raise InputError(f"{where}: {name!r} is neither a path nor an id of train.csv.{meant}")
        allowed = {"gender": value in (*GENDERS, "swap"), "mask": value == "swap", "age": to_age(value) is not None}
        if column not in allowed:
            raise InputError(f"{where}: column {column!r} is none of gender, age, mask")
        if not allowed[column]:
            raise InputError(
                f"{where}: value {value!r} does not fit {column}; gender takes male, female or swap, age 0 to 120, mask swap"
            )
        if to_confidence(sure, where) < min_confidence:
            left_out += 1
            continue
        value = str(to_age(value)) if column == "age" else value
        fixes.extend((path, column, value) for path in by_name[name])
    return pd.DataFrame(fixes, columns=["path", "column", "value"]), left_out


def to_confidence(text, where):
    """A number from 0 to 1; InputError that says `where` for any other text."""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:
        raise InputError(f"{where}: confidence {text!r} is not a number from 0 to 1")
    return value


def apply_label_fixes(images, fixes):
    """A copy of the image rows with `fixes` applied to mask, gender and age; the official `label` stays."""
    fixed = images.copy()
    for path, column, value in fixes.itertuples(index=False):
        mine = fixed["path"] == path
        if column == "mask":
            fixed.loc[mine, "mask"] = fixed.loc[mine, "mask"].map({0: 0, 1: 2, 2: 1})
        elif column == "gender":
            fixed.loc[mine, "gender"] = 1 - fixed.loc[mine, "gender"] if value == "swap" else GENDERS.index(value)
        else:
            fixed.loc[mine, "age"] = int(value)
    return fixed


def head_targets(images, heads, bounds=OFFICIAL_BOUNDS):
    """Training targets int64 [N, len(heads)] of image rows: class indices, or years for the head `age`."""
    age_group = to_age_group(images["age"], bounds)
    columns = {
        "mask": images["mask"],
        "gender": images["gender"],
        "age_group": age_group,
        "age": images["age"],
        "label": encode(images["mask"], images["gender"], age_group),
    }
    return np.stack([np.asarray(columns[head], dtype=np.int64) for head in heads], axis=1)


def _persons(people, seed):
    """One row a person (an id): id, stratum (gender x official age group), in an order that depends on seed and id alone."""
    persons = people.sort_values("path").drop_duplicates("id")
    stratum = persons["gender"] * 3 + to_age_group(persons["age"])
    names = persons["id"].to_numpy()
    order = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in names]
    table = pd.DataFrame({"id": names, "stratum": stratum.to_numpy(), "order": order})
    return table.sort_values(["stratum", "order"]).reset_index(drop=True)


def _stratum_name(stratum):
    return f"{GENDERS[stratum // 3]}, age group {stratum % 3}"


def assign_folds(people, kfold, seed):
    """Fold of each row of `people`, int64 [P]: person-disjoint, stratified by gender x official age group; -1 with kfold 0.

    Persons of a stratum are put in the order of sha256(seed:id) and dealt out in turn; the next stratum goes on dealing
    where the last one stopped, so fold sizes differ by one person at most, in every stratum and in all. Nothing depends on
    the row order, the machine or a library's random generator. InputError when a stratum has fewer persons than kfold.
    """
    if kfold == 0:
        return np.full(len(people), -1, dtype=np.int64)
    persons = _persons(people, seed)
    sizes = persons["stratum"].value_counts()
    if sizes.min() < kfold:
        has = "1 person; only --kfold 0 (nofold) is possible"
        if sizes.min() > 1:
            has = f"{sizes.min()} people; --kfold can be {sizes.min()} at most"
        raise InputError(f"--kfold {kfold}: the smallest stratum ({_stratum_name(sizes.idxmin())}) has {has}")
    return pd.Index(persons["id"]).get_indexer(people["id"]) % kfold


def limit_people(people, limit, kfold, seed):
    """`limit` rows of `people`: strata in proportion, but at least kfold persons of each (all where there are fewer).

    Persons with several rows come last in a stratum, and are left out where these don't all fit. InputError when `limit` is
    too small.
    """
    persons = _persons(people, seed)
    persons["rows"] = persons["id"].map(people["id"].value_counts())
    persons = persons.sort_values(["stratum", "rows"], kind="stable")
    strata = persons.groupby("stratum")
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
    chosen = persons[strata["rows"].cumsum() <= persons["stratum"].map(take)]
    return people[people["id"].isin(chosen["id"])].reset_index(drop=True)
