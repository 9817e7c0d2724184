"""Look at the data before training: people, faults, duplicates, train against eval, folds. A page, and a line for each finding.

    python eda.py

By thumbnails and simple figures of each image, without a model: what it lists is worth a look, not certain. A person who was
photographed anew under another id is not found; the same photograph is, also cropped, lighter or compressed.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import functools
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

import dataset
import demo
import files
import images
from dataset import AGE_GROUPS, GENDERS, IMAGE_KINDS, LABELS, OFFICIAL_BOUNDS, to_age_group
from errors import InputError, say, tr

HEIGHT, WIDTH, SHRINK = 256, 192, 4  # at which an image is looked at; its thumbnail is smaller by SHRINK
LOOK = 1  # part of the cache's name: raise it when `look` finds other figures
FIGURES = ("sharpness", "brightness", "contrast", "colour", "red", "green", "blue", "width", "height")
BLURRED = 10.0  # robust spreads below the median sharpness of the person's images and, twice, of all images
LESS_SHARP = 3.5  # the same of all images alone
DARK = 0.25  # share of the median brightness (or darkness, or contrast) below which an image is too dark (bright, flat)
ODD = 3.0  # robust spreads by which an image is less like other people's than most
REFERENCE = 2000  # images that stand for all others there
NEAR, NEARLY = 0.985, 0.96  # correlation of thumbnails that are one picture; of small ones that may be
PARTNERS = 4  # of an image or a person, which are looked at closely
SAME_FACE = 0.48  # two photographs are one where 1 - correlation is below this share of what a person's nearest has
WHERE = ("train and eval", "two people", "one person", "within eval")  # the two images of a picture
SHOWN = 60  # pictures of a kind on the page
BOUNDS = ((30, 60), (29, 60), (30, 59), (29, 59), (30, 58), (29, 58))
DROPPED = (27, 28, 29, 57, 58, 59)
NEAR_BOUNDS = {"27-29": (27, 29), "30-32": (30, 32), "57-59": (57, 59), "60": (60, 60), "older": (61, 120)}
EXAMPLES = 6  # images of a class on the page

folds = errors.number(int, lambda number: number > 1, "below 2")


def look(file):
    """(thumbnail uint8 [H, W, 3], FIGURES, format, EXIF orientation) of an image file; InputError when it can't be read."""
    with images.opened(file) as image:
        kind, turned = image.format, images.orientation(image)
        size = image.size if turned < 5 else image.size[::-1]
        image.draft("RGB", (WIDTH, HEIGHT))
        rgb = images.to_rgb(image)
    if rgb.size != (WIDTH, HEIGHT):
        rgb = rgb.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, reducing_gap=2)
    thumbnail, grey = np.asarray(rgb.reduce(SHRINK)), np.asarray(rgb.convert("L"), dtype=np.float32)
    edges = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]  # the Laplacian
    colour = np.ptp(thumbnail, axis=2).mean()
    return thumbnail, (edges.var(), grey.mean(), grey.std(), colour, *thumbnail.mean((0, 1)), *size), kind, turned


def _look_chunk(paths, chunk):
    found, nothing = [], (np.zeros((HEIGHT // SHRINK, WIDTH // SHRINK, 3), np.uint8), (np.nan,) * len(FIGURES), "", 1)
    for index in chunk:
        try:
            found.append((*look(paths[index]), files.file_digest(paths[index]), ""))
        except errors.Unreadable:  # it may pass, but what is kept would call the image bad
            raise
        except InputError as error:
            found.append((*nothing, f"unreadable {index}", str(error)))
    return found


def look_at_all(paths, cache_dir, quiet):
    """(thumbnails uint8 [N, H, W, 3], DataFrame of FIGURES, format, turned, digest and error), kept in the cache folder."""
    geometry = images.Geometry(HEIGHT // SHRINK, WIDTH // SHRINK)
    kept = files.make_dir(cache_dir, "--cache-dir") / f"{images.cache_key(paths, geometry)}.eda{LOOK}.npz"
    if not kept.exists():
        chunks = [range(start, min(start + 64, len(paths))) for start in range(0, len(paths), 64)]
        found = images.pool_map("looking at images", functools.partial(_look_chunk, paths), chunks, quiet=quiet)
        columns = map(np.array, zip(*(one for part in found for one in part)))
        arrays = dict(zip(("thumbnails", "figures", "format", "turned", "digest", "error"), columns))
        files.write_atomic(kept, lambda temporary: np.savez(temporary, **arrays), arrays["thumbnails"].nbytes)
    with errors.reading(kept, "delete it to have it made anew"):
        arrays = dict(np.load(kept, allow_pickle=False))
        table = pd.DataFrame(arrays["figures"], columns=FIGURES)
        return arrays["thumbnails"], table.assign(**{name: arrays[name] for name in ("format", "turned", "digest", "error")})


def list_all(data_dir, people):
    """DataFrame of all images: image, file, owner (path of the person; eval: ""), id, kind, mask, gender, age, label."""
    rows = dataset.list_images(data_dir, people, skip_missing=True)
    rows = rows.assign(file=dataset.image_files(data_dir, rows["image"]), kind=rows["image"].map(dataset.image_kind))
    rows = rows.rename(columns={"path": "owner"})
    if (Path(data_dir) / "eval" / "info.csv").is_file():
        names, paths = dataset.read_eval(data_dir)
        rows = pd.concat([rows, pd.DataFrame({"image": names, "file": map(str, paths), "owner": "", "kind": "eval"})])
    return rows.reset_index(drop=True).fillna({"mask": -1, "gender": -1, "age": -1, "label": -1, "id": ""})


def shrink(pixels, size):
    """Pixels [N, H, W, C] averaged over squares of `size`: float32 [N, H / size, W / size, C]."""
    N, H, W, C = pixels.shape
    return pixels.reshape(N, H // size, size, W // size, size, C).mean((2, 4), dtype=np.float32)


def standardise(pixels):
    """Pixels [N, H, W, C], each colour with mean 0 and spread 1, as vectors float32 [N, D] of length 1."""
    flat = pixels.reshape(len(pixels), -1, pixels.shape[-1]).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    flat = (flat / (flat.std(1, keepdims=True) + 1)).reshape(len(pixels), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def spreads(values):
    """Distance of values [N] from their median, in robust spreads (1.4826 times the median absolute deviation)."""
    from_median = values - np.nanmedian(values)
    return from_median / max(1.4826 * np.nanmedian(np.abs(from_median)), 1e-3)


def find_faults(rows, small):
    """(DataFrame row, fault, value; how unlike other people's each image is, float [N]). Blurred: less sharp than most and than
    the person's other images (of eval: than images alike), or than nearly all."""
    good, group = (rows["error"] == "").to_numpy(), pd.factorize(rows["group"])[0]
    sharpness = np.log(rows["sharpness"] + 1e-3)
    below, beside = spreads(sharpness), sharpness - sharpness.groupby(group).transform("median")
    shape, light = rows["width"] / rows["height"], rows["brightness"]
    suffixes = rows["image"].map(lambda name: Path(name).suffix[1:].upper()).replace({"JPG": "JPEG", "TIF": "TIFF"})
    vectors = standardise(small)
    some = np.random.default_rng(0).permutation(np.flatnonzero(good))[:REFERENCE]
    alike = np.where(group[:, None] == group[some], np.float32(-1), vectors @ vectors[some].T)
    count = min(PARTNERS, len(some))
    strange = spreads(np.log(1.001 - np.partition(alike, -count, axis=1)[:, -count]))
    faults = {
        "unreadable": (~good, rows["turned"]),
        "blurred": ((below < -LESS_SHARP) | ((beside < -1) & (spreads(beside) + 2 * below < -BLURRED)), rows["sharpness"]),
        "dark": (light < DARK * light.median(), light),
        "bright": (255 - light < DARK * (255 - light.median()), light),
        "flat": (rows["contrast"] < DARK * rows["contrast"].median(), rows["contrast"]),
        "grey": ((rows["colour"] < 2) & (rows["colour"].median() > 8), rows["colour"]),
        "odd": (good & (strange > ODD), strange),
        "another shape": ((shape / shape.median() - 1).abs() > 0.05, shape),
        "named as another format": (good & (rows["format"] != suffixes), rows["turned"]),
    }
    tables = [pd.DataFrame({"row": np.flatnonzero(which), "fault": name, "value": np.asarray(value)[which]})
              for name, (which, value) in faults.items()]  # fmt: skip
    return pd.concat(tables, ignore_index=True), np.where(good, strange, -np.inf)


def find_duplicates(rows, thumbnails, small):
    """DataFrame one, two (rows), what ("the same file" or "nearly"), where and likeness of images that are one picture, across
    people and sets first. By correlations of `small` thumbnails, in blocks, and of full ones of the PARTNERS most alike."""
    good = np.flatnonzero(rows["error"] == "")
    first = rows.iloc[good].groupby("digest")["image"].transform(lambda names: names.index[0])
    pairs = {(one, two): ("the same file", 1.0) for two, one in first.items() if one != two}
    vectors = standardise(small[good])
    for start in range(0, len(good), 1024):
        alike = np.triu(vectors[start : start + 1024] @ vectors[start:].T, 1)  # each pair once, none with itself
        one = np.flatnonzero((alike >= NEARLY).any(1))
        if not len(one):
            continue
        two = np.argpartition(-alike[one], min(PARTNERS, alike.shape[1] - 1), axis=1)[:, :PARTNERS]
        near, place = np.nonzero(alike[one[:, None], two] >= NEARLY)
        one, two = good[start + one[near]], good[start + two[near, place]]
        likeness = (standardise(thumbnails[one]) * standardise(thumbnails[two])).sum(1)
        pairs = {pair: ("nearly", float(each)) for pair, each in zip(zip(one, two), likeness) if each >= NEAR} | pairs
    table = pd.DataFrame([(*pair, *found) for pair, found in pairs.items()], columns=["one", "two", "what", "likeness"])
    table = table.astype({"one": int, "two": int})
    (mine, held), (theirs, other) = ((rows["owner"].to_numpy()[table[side]], (rows["kind"] == "eval").to_numpy()[table[side]])
                                     for side in ("one", "two"))  # fmt: skip
    where = np.select([held & other, held != other, mine != theirs], [WHERE[3], *WHERE[:2]], WHERE[2])
    table["where"] = pd.Categorical(where, WHERE)
    return table.sort_values(["where", "likeness"], ascending=[True, False], kind="stable", ignore_index=True)


def fine_structure(thumbnails):
    """Grey thumbnails float32 [N, 1, H, W] without what is larger than some pixels, so that light and pose count little."""
    grey = torch.from_numpy(thumbnails @ np.float32([0.299, 0.587, 0.114]))[:, None]
    weights = torch.exp(-(torch.arange(-12, 13) ** 2) / 32.0)
    weights = (weights / weights.sum())[None, None]
    blurred = F.conv2d(F.pad(grey, (12, 12, 12, 12), mode="reflect"), weights[..., None])
    return grey - F.conv2d(blurred, weights[:, :, None])


def cuts(structure, scales, shifts):
    """Yield vectors float32 [N, D] of length 1 of cuts out of images [N, 1, H, W]: `scales` of height and width, moved."""
    H, W = structure.shape[2:]
    for scale in scales:
        height, width = round(H * scale), round(W * scale)
        for down in shifts:
            for right in shifts:
                top, left = ((H - height) // 2 + round(H * down), (W - width) // 2 + round(W * right))
                if top < 0 or left < 0 or top + height > H or left + width > W:
                    continue
                cut = structure[:, :, top : top + height, left : left + width]
                flat = F.interpolate(cut, (24, 18), mode="bilinear", antialias=True).flatten(1)
                yield F.normalize(flat - flat.mean(1, keepdim=True), dim=1).numpy()


def find_same_people(rows, thumbnails, duplicates):
    """DataFrame one, two (rows), likeness, key (ids): people who show one photograph, by `normal` images or by duplicates. The
    middle of each is looked for in all others at several scales and places, and closely in the PARTNERS most alike."""
    mine = np.flatnonzero((rows["kind"] == "normal") & (rows["error"] == ""))
    structure, ids = fine_structure(thumbnails[mine]), rows["id"].to_numpy()[mine]
    middle = next(cuts(structure, (0.72,), (0,)))
    alike = functools.reduce(np.maximum, (cut @ middle.T for cut in cuts(structure, (0.64, 0.72, 0.81), (-0.08, 0, 0.08))))
    alike[ids[:, None] == ids] = -1
    count = min(PARTNERS, len(mine))
    one = np.repeat(np.arange(len(mine)), count)
    two = np.argpartition(alike, -count, axis=1)[:, -count:].ravel()
    fine = cuts(structure, (0.62, 0.67, 0.72, 0.77, 0.83), (-0.1, -0.05, 0, 0.05, 0.1))
    likeness = functools.reduce(np.maximum, (np.einsum("nd,nd->n", cut[one], middle[two]) for cut in fine))
    table = pd.DataFrame({"one": mine[one], "two": mine[two], "likeness": likeness})
    usual = np.median(likeness.reshape(-1, count).max(1))
    table = table[(1 - likeness < SAME_FACE * (1 - usual)) & (ids[one] != ids[two])]
    table = pd.concat([duplicates.loc[duplicates["where"] == WHERE[1], ["one", "two", "likeness"]], table])
    names = rows["id"].to_numpy()
    key = [tuple(sorted(pair)) for pair in zip(names[table["one"]], names[table["two"]])]
    table = table.assign(key=key).sort_values("likeness", ascending=False, kind="stable")
    return table[table["key"].map(lambda pair: pair[0] != pair[1]).astype(bool)].drop_duplicates("key", ignore_index=True)


def label_suspects(people, rows, same):
    """DataFrame path, column, value, confidence, why: labels that a folder's name, another row of the same id or the same
    photograph under another id contradict. Which of two is right nobody knows here, so confidence is 0.5."""
    suspects, by_path = [], people.set_index("path")
    for path, gender, age in people[["path", "gender", "age"]].itertuples(index=False):
        _id, *words = path.split("_")
        if len(words) == 3 and words[0] in GENDERS and words[0] != GENDERS[gender]:
            suspects.append((path, "gender", words[0], "folder name"))
        if len(words) == 3 and dataset.to_age(words[2]) not in (None, age):
            suspects.append((path, "age", words[2], "folder name"))
    pairs = [(*mine[:1], other, "same id") for mine in people.groupby("id")["path"].agg(list) for other in mine[1:]]
    pairs += [(rows["owner"][one], rows["owner"][two], "same photograph") for one, two in same[["one", "two"]].to_numpy()
              if rows["kind"][one] == rows["kind"][two] == "normal"]  # fmt: skip
    for one, two, why in pairs:
        first, second = by_path.loc[one], by_path.loc[two]
        if first["gender"] != second["gender"]:
            suspects.append((two, "gender", GENDERS[first["gender"]], why))
        if to_age_group(first["age"]) != to_age_group(second["age"]):
            suspects.append((two, "age", str(first["age"]), why))
    table = pd.DataFrame(suspects, columns=["path", "column", "value", "why"])
    table.insert(3, "confidence", 0.5)
    return table.drop_duplicates(["path", "column"], ignore_index=True)


def tell_apart(rows, small):
    """(AUC, low and high of its 95 % interval) of telling train from eval images, 0.5: not at all; None where either has fewer
    than 10 people. By logistic regression on 30 principal components, cross-validated and bootstrapped over people."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    good = np.flatnonzero(rows["error"] == "")
    held, group = (rows["kind"].iloc[good] == "eval").to_numpy(), pd.factorize(rows["group"].iloc[good])[0]
    if min(len(np.unique(group[held])), len(np.unique(group[~held]))) < 10:
        return None
    model = make_pipeline(PCA(30, random_state=0), StandardScaler(), LogisticRegression())
    pixels = small[good].reshape(len(good), -1)
    scores = cross_val_predict(model, pixels, held, groups=group, cv=GroupKFold(5), method="decision_function")
    order = np.argsort(scores, kind="stable")
    held, group, rng = held[order], group[order], np.random.default_rng(0)

    def auc(times):
        weights = times[group]
        above, below = weights * held, np.cumsum(weights * ~held)
        return (above * below).sum() / (above.sum() * below[-1])

    P = group.max() + 1
    draws = [auc(np.bincount(rng.integers(P, size=P), minlength=P)) for _ in range(300)]
    return auc(np.ones(P, dtype=int)), *np.quantile(draws, (0.025, 0.975))


def group_images(rows, thumbnails):
    """The group of each row: the person's id, or in eval the images alike, as ensemble.py --persons finds them."""
    held, group = np.flatnonzero(rows["kind"] == "eval"), rows["id"].to_numpy(dtype=object)
    if len(held) > 1:
        vectors = images.likeness_features(shrink(thumbnails[held], 2))
        group[held] = [f"eval {number}" for number in images.group_alike(vectors)]
    return group


def write_tables(out, rows, found):
    """Write same_people.csv, label_suspects.csv, duplicates.csv and odd.csv into the folder `out`."""
    names, ids, same, twice = rows["image"].to_numpy(), rows["id"].to_numpy(), found.same, found.twice
    people = pd.DataFrame({"id": ids[same["one"]], "same_as": ids[same["two"]], "likeness": same["likeness"]})
    files.write_csv(out / "same_people.csv", people, "%.3f")
    files.write_csv(out / "label_suspects.csv", found.suspects)
    pairs = pd.DataFrame({"image": names[twice["one"]], "same_as": names[twice["two"]]})
    files.write_csv(out / "duplicates.csv", pairs.join(twice[["what", "where", "likeness"]]), "%.3f")
    faults = found.faults.assign(image=names[found.faults["row"]])
    files.write_csv(out / "odd.csv", faults[["image", "fault", "value"]], "%.3f")


def counts(names):
    """'blurred 3, dark 1' of a column of names, the most frequent first."""
    listed = [f"{tr(str(name))} {number:,}" for name, number in names.value_counts().items() if number]
    return ", ".join(listed[:6]) + ", ..." * (len(listed) > 6) or tr("nothing")


def findings(people, rows, found):
    """A line for each finding."""
    ages, held, readable = people["age"], rows["kind"] == "eval", rows[rows["error"] == ""]
    near = ", ".join(f"{tr(name)} {ages.between(*years).sum():,}" for name, years in NEAR_BOUNDS.items())
    groups = counts(pd.Series(np.array(AGE_GROUPS)[to_age_group(ages)]))
    missing = len(people) * len(IMAGE_KINDS) - (~held).sum()
    shapes = readable["width"].map("{:.0f} x ".format) + readable["height"].map("{:.0f}".format)
    suffixes = rows["image"].map(lambda name: Path(name).suffix.lower())
    lines = [
        tr(f"people: {len(people):,} ({counts(pd.Series(np.array(GENDERS)[people['gender']]))}; {groups})"),
        tr(f"ages at the bounds, in people: {near}"),
        tr(f"images: {(~held).sum():,} of train ({missing:,} missing), {held.sum():,} of eval"),
        tr(f"files: {counts(suffixes)}; {counts(shapes)}; {(rows['turned'] > 1).sum():,} turned by EXIF"),
    ]
    if found.apart:
        auc, low, high = found.apart
        verdict = "one source, as far as thumbnails tell" if low <= 0.5 else "a little different" if low < 0.6 else "different"
        lines.append(tr(f"train against eval: AUC {auc:.3f} (95 % CI {low:.3f} .. {high:.3f}): {tr(verdict)}"))
    return [
        *lines,
        tr(f"worth a look: {counts(found.faults['fault'])}"),
        tr(f"the same image twice: {counts(found.twice['where'])}"),
        tr(f"one face under two ids: {len(found.same):,}, {found.split:,} of them in different folds"),
        tr(f"labels in doubt: {len(found.suspects):,}"),
        tr(f"folds: {found.folds}"),
    ]


def tables(people, rows, found):
    """{name: table for the page}: people by stratum and fold, what --age-bounds and --drop-ages change, train against eval."""
    ages, names = people["age"], [f"{gender}, {group}" for gender in GENDERS for group in AGE_GROUPS]
    strata = pd.Categorical.from_codes(people["gender"] * 3 + to_age_group(ages), names)
    fold = np.zeros(len(people), int) if found.fold is None else found.fold
    by_fold = pd.crosstab(strata, fold, margins=True, margins_name=tr("all"), dropna=False)
    changes = [(f"--age-bounds {low} {high}", ages, (low, high)) for low, high in BOUNDS]
    changes.append((f"--drop-ages {' '.join(map(str, DROPPED))}", ages[~ages.isin(DROPPED)], OFFICIAL_BOUNDS))
    changed = [[name, *np.bincount(to_age_group(kept, bounds), minlength=3), len(ages) - len(kept)]
               for name, kept, bounds in changes]  # fmt: skip
    made = {"people": files.page_table(["people", *map(str, by_fold.columns)], [*by_fold.itertuples(name=None)]),
            "options": files.page_table(["option", "young", "middle", "old", "left out"], changed)}  # fmt: skip
    held = rows["kind"] == "eval"
    if rows["sharpness"][held].notna().any():
        mean, sd = rows.groupby(held)[[*FIGURES]].mean(), rows.groupby(held)[[*FIGURES]].std(ddof=0)
        apart = (mean.loc[True] - mean.loc[False]) / sd.loc[False].where(sd.loc[False] > 0)
        figures = [[tr(name), *((f"{mean[name][side]:.1f} ± {sd[name][side]:.1f}", mean[name][side]) for side in (False, True)),
                    (f"{apart[name]:+.2f}".replace("+nan", "–"), apart[name])] for name in FIGURES]  # fmt: skip
        made["figures"] = files.page_table(["figure", "train images", "eval images", "difference in sd"], figures)
    return made


def class_sheet(rows, thumbnails):
    """[(class, number of its images, address of their mean, addresses of some)] of the classes that have images."""
    sheet, rng = [], np.random.default_rng(0)
    for label, name in enumerate(LABELS):
        mine = np.flatnonzero((rows["label"] == label) & (rows["error"] == ""))
        if len(mine):
            mean = io.BytesIO()
            Image.fromarray(thumbnails[mine].mean(0).round().astype(np.uint8)).save(mean, "PNG")
            some = rows["file"].iloc[rng.choice(mine, min(EXAMPLES, len(mine)), replace=False)]
            sheet.append((name, len(mine), images.thumbnail(mean), [images.thumbnail(file, 112) for file in some]))
    return sheet


def card_sections(rows, found):
    """[(title, number found, cards)] for the page: of each card its rows and lines of text, SHOWN of a title at most."""
    names, sections = rows["image"].to_numpy(), []

    def add(title, table, text):
        pairs = [[*map(int, pair)] for pair in table[[name for name in ("row", "one", "two") if name in table]].to_numpy()]
        cards = [(pair, (*names[pair], each)) for pair, each in zip(pairs[:SHOWN], text)]
        sections.extend([(title, len(table), cards)] if cards else [])

    for title, part in found.faults.groupby("fault", sort=False):
        add(title, part, part["value"].map("{:.1f}".format))
    for where, part in found.twice.groupby("where", observed=True):
        add(f"{tr('the same image')}: {tr(where)}", part, part["what"].map(tr))
    add("one face under two ids", found.same, found.same["likeness"].map("{:.2f}".format))
    normal = rows.index[rows["kind"] == "normal"]
    doubts = found.suspects.assign(row=found.suspects["path"].map(dict(zip(rows["owner"][normal], normal)))).dropna()
    add("labels in doubt", doubts, doubts["column"] + " → " + doubts["value"] + ": " + doubts["why"].map(tr))
    order = np.argsort(-found.strange, kind="stable")[:12]
    add("least like other people", pd.DataFrame({"row": order}), [f"{each:.1f}" for each in found.strange[order]])
    return sections


def write_page(out, people, rows, thumbnails, found, lines, args):
    """Write eda.html into the folder `out`."""
    sections, years = card_sections(rows, found), people["age"].value_counts()
    shown = {row for _title, _number, cards in sections for mine, _lines in cards for row in mine if rows["error"][row] == ""}
    pictures = {row: images.thumbnail(rows["file"][row]) for row in sorted(shown)}
    ages = range(years.index.min(), years.index.max() + 1)
    bars = [(str(age), years.get(age, 0) / years.max(), f"{years.get(age, 0):,}") for age in ages]
    page = files.page("eda.html", title=tr("The data"), data_dir=str(args.data_dir), lines=lines, bars=bars, kfold=args.kfold,
                      sheet=class_sheet(rows, thumbnails), sections=sections, pictures=pictures,
                      tables=tables(people, rows, found))  # fmt: skip
    files.write_text(out / "eda.html", page)


def find_all(people, rows, thumbnails, args):
    """All that is found, in one container."""
    small = shrink(thumbnails, SHRINK)
    found = SimpleNamespace(apart=tell_apart(rows, small), twice=find_duplicates(rows, thumbnails, small))
    found.faults, found.strange = find_faults(rows, small)
    if args.faces:
        boxes = images.open_faces(rows["file"].tolist(), args.cache_dir, args.quiet)
        lost = np.flatnonzero(np.isnan(boxes[:, 0]) & (rows["error"] == ""))
        lost = pd.DataFrame({"row": lost, "fault": "no face found", "value": 0.0})
        found.faults = pd.concat([found.faults, lost], ignore_index=True)
    found.same = find_same_people(rows, thumbnails, found.twice)
    found.suspects = label_suspects(people, rows, found.same)
    try:
        found.fold = dataset.assign_folds(people, args.kfold, args.seed)
        sizes = np.bincount(found.fold)
        found.folds = tr(f"--kfold {args.kfold} has {sizes.min():,} to {sizes.max():,} people in each")
    except InputError as error:
        found.fold, found.folds = None, str(error)
    fold = {} if found.fold is None else dict(zip(people["id"], found.fold))
    found.split = sum(fold.get(one) != fold.get(two) for one, two in found.same["key"])
    return found


def main(argv=None):
    parser = errors.Parser("Look at the data before training: a page, csvs, and a line for each finding.")
    parser.add_argument("--data-dir", help="the competition's folder; without it data/, /opt/ml/input/data or the demo set")
    parser.add_argument("--out", default="eda", metavar="DIR", help="folder of the files; older ones are replaced")
    parser.add_argument("--cache-dir", default="cache", metavar="DIR", help="where figures of the images are kept")
    parser.add_argument("--kfold", type=folds, default=5, metavar="K", help="folds to show")
    parser.add_argument("--seed", type=errors.natural_int, default=42, help="of these folds")
    parser.add_argument("--faces", action="store_true", help="look for faces too, which takes minutes (requirements-face.txt)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    args.data_dir = demo.locate(args.data_dir)[0]
    people, out = dataset.read_people(args.data_dir), files.make_dir(args.out, "--out")
    rows = list_all(args.data_dir, people)
    thumbnails, seen = look_at_all(rows["file"].tolist(), args.cache_dir, args.quiet)
    rows = pd.concat([rows, seen], axis=1)
    if (rows["error"] != "").all():
        raise InputError(f"{rows['error'][0]}; no image can be read")
    errors.log(tr("comparing images"))
    rows["group"] = group_images(rows, thumbnails)
    found = find_all(people, rows, thumbnails, args)
    lines = findings(people, rows, found)
    write_tables(out, rows, found)
    write_page(out, people, rows, thumbnails, found, lines, args)
    print("\n".join(lines))
    say(f"{out / 'eda.html'}: to look at; same_people.csv, label_suspects.csv, duplicates.csv and odd.csv lie beside it")
    same = f" --same-people {out / 'same_people.csv'}" if len(found.same) else ""
    say(f"next: python train.py{dataset.data_option(args.data_dir)}{same}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
