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
from itertools import chain, product
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
        rgb = images.to_rgb(image).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, reducing_gap=2)
    thumbnail, grey = np.asarray(rgb.reduce(SHRINK)), np.asarray(rgb.convert("L"), dtype=np.float32)
    edges = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]  # the Laplacian
    colour = np.ptp(thumbnail, axis=2).mean()
    return thumbnail, (edges.var(), grey.mean(), grey.std(), colour, *thumbnail.mean((0, 1)), *size), kind, turned


def _look_chunk(paths):
    results, nothing = [], (np.zeros((HEIGHT // SHRINK, WIDTH // SHRINK, 3), np.uint8), (np.nan,) * len(FIGURES), "", 1, "")
    for path in paths:
        try:
            results.append((*look(path), files.file_digest(path), ""))
        except errors.Unreadable:  # it may pass, but what is kept would call the image bad
            raise
        except InputError as error:
            results.append((*nothing, str(error)))
    return results


def look_at_all(paths, cache_dir, quiet):
    """(thumbnails uint8 [N, H, W, 3], DataFrame of FIGURES, format, turned, digest and error), kept in the cache folder."""
    geometry, names = images.Geometry(HEIGHT // SHRINK, WIDTH // SHRINK), ("format", "turned", "digest", "error")
    kept = files.make_dir(cache_dir, "--cache-dir") / f"{images.cache_key(paths, geometry)}.eda{LOOK}.npz"
    if not kept.exists():
        chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
        results = chain.from_iterable(images.pool_map("looking at images", _look_chunk, chunks, quiet=quiet))
        arrays = dict(zip(("thumbnails", "figures", *names), map(np.array, zip(*results))))
        files.write_atomic(kept, lambda temporary: np.savez(temporary, **arrays), arrays["thumbnails"].nbytes)
    with errors.reading(kept, "delete it to have it made anew"):
        arrays = dict(np.load(kept, allow_pickle=False))
        table = pd.DataFrame(arrays["figures"], columns=FIGURES)
        return arrays["thumbnails"], table.assign(**{name: arrays[name] for name in names})


def list_all(data_dir, people):
    """DataFrame of all images: image, file, owner (path of the person) and id (eval: ""), kind, label (eval: NaN)."""
    rows = dataset.list_images(data_dir, people, skip_missing=True)
    rows = rows.assign(file=dataset.image_files(data_dir, rows["image"]), kind=rows["image"].map(dataset.image_kind))
    rows = rows.rename(columns={"path": "owner"})
    if (Path(data_dir) / "eval" / "info.csv").is_file():
        _folder, names, paths = dataset.read_eval(data_dir)
        rows = pd.concat([rows, pd.DataFrame({"image": names, "file": map(str, paths), "owner": "", "kind": "eval"})])
    return rows.reset_index(drop=True).fillna({"id": ""})


def shrink(pixels, size):
    """Pixels [N, H, W, C] averaged over squares of `size`: float32 [N, H / size, W / size, C]."""
    N, H, W, C = pixels.shape
    return pixels.reshape(N, H // size, size, W // size, size, C).mean((2, 4), dtype=np.float32)


def spreads(values):
    """Distance of values [N] from their median, in robust spreads (1.4826 times the median absolute deviation)."""
    from_median = values - np.nanmedian(values)
    return from_median / max(1.4826 * np.nanmedian(np.abs(from_median)), 1e-3)


def strangeness(rows, small):
    """Robust spreads float [N] by which each image is less like other people's than most; -inf where it can't be read."""
    good, group = (rows["error"] == "").to_numpy(), pd.factorize(rows["group"])[0]
    vectors = images.standardise(small)
    some = np.random.default_rng(0).permutation(np.flatnonzero(good))[:REFERENCE]
    alike = np.where(group[:, None] == group[some], np.float32(-1), vectors @ vectors[some].T)
    count = min(PARTNERS, len(some))
    return np.where(good, spreads(np.log(1.001 - np.partition(alike, -count, axis=1)[:, -count])), -np.inf)


def find_faults(rows):
    """DataFrame row, image, fault, value. Blurred: less sharp than most and than the person's other images (of eval: than
    images alike), or than nearly all."""
    good, sharpness, no_value = rows["error"] == "", np.log(rows["sharpness"] + 1e-3), pd.Series(np.nan, rows.index)
    below, beside = spreads(sharpness), sharpness - sharpness.groupby(rows["group"]).transform("median")
    shape, light = rows["width"] / rows["height"], rows["brightness"]
    suffixes = rows["image"].map(lambda name: Path(name).suffix[1:].upper()).replace({"JPG": "JPEG", "TIF": "TIFF"})
    faults = {
        "unreadable": (~good, no_value),
        "blurred": ((below < -LESS_SHARP) | ((beside < -1) & (spreads(beside) + 2 * below < -BLURRED)), rows["sharpness"]),
        "dark": (light < DARK * light.median(), light),
        "bright": (255 - light < DARK * (255 - light.median()), light),
        "flat": (rows["contrast"] < DARK * rows["contrast"].median(), rows["contrast"]),
        "grey": ((rows["colour"] < 2) & (rows["colour"].median() > 8), rows["colour"]),
        "odd": (rows["strange"] > ODD, rows["strange"]),
        "another shape": ((shape / shape.median() - 1).abs() > 0.05, shape),
        "named as another format": (good & (rows["format"] != suffixes), no_value),
        "no face found": (good & rows["faceless"], no_value),
    }
    tables = [pd.DataFrame({"row": np.flatnonzero(which), "image": rows["image"][which], "fault": name, "value": value[which]})
              for name, (which, value) in faults.items()]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def find_duplicates(rows, thumbnails, small):
    """DataFrame first, second (rows), likeness, image, same_as, what ("the same file" or "nearly"), where of images that are
    one picture, across people and sets first. By correlations of `small` thumbnails, and of full ones of the most alike."""
    good, pairs = np.flatnonzero(rows["error"] == ""), []
    vectors = images.standardise(small[good])
    for start in range(0, len(good), 1024):
        alike = np.triu(vectors[start : start + 1024] @ vectors[start:].T, 1)  # each pair once, none with itself
        likeness, partners = torch.from_numpy(alike).topk(min(PARTNERS, alike.shape[1]))
        line, place = np.nonzero(likeness.numpy() >= NEARLY)
        first, second = good[start + line], good[start + partners.numpy()[line, place]]
        if len(line):
            likeness = (images.standardise(thumbnails[first]) * images.standardise(thumbnails[second])).sum(1)
            pairs += [pair for pair in zip(first, second, likeness) if pair[2] >= NEAR]
    table = pd.DataFrame(pairs, columns=["first", "second", "likeness"]).astype({"first": int, "second": int})
    first, second = (rows.iloc[table[name]].reset_index(drop=True) for name in ("first", "second"))
    in_eval = first["owner"] == "", second["owner"] == ""
    conditions = [in_eval[0] & in_eval[1], in_eval[0] | in_eval[1], first["owner"] != second["owner"]]
    where = pd.Categorical(np.select(conditions, [WHERE[3], *WHERE[:2]], WHERE[2]), WHERE)
    what = np.where(first["digest"] == second["digest"], "the same file", "nearly")
    table = table.assign(image=first["image"], same_as=second["image"], what=what, where=where)
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
    for scale, down, right in product(scales, shifts, shifts):
        height, width = round(H * scale), round(W * scale)
        top, left = (H - height) // 2 + round(H * down), (W - width) // 2 + round(W * right)
        if 0 <= top <= H - height and 0 <= left <= W - width:
            cut = structure[:, :, top : top + height, left : left + width]
            flat = F.interpolate(cut, (24, 18), mode="bilinear", antialias=True).flatten(1)
            yield F.normalize(flat - flat.mean(1, keepdim=True), dim=1).numpy()


def find_same_people(rows, thumbnails, duplicates):
    """DataFrame first, second (rows), likeness, id, same_as: people who show one photograph, by `normal` images or duplicates.
    The middle of each is looked for in all others at several scales and places, and closely in the PARTNERS most alike.
    One image is enough: kept in one fold, two people cost nothing, while an image in two folds is trained on and validated."""
    normal, ids = np.flatnonzero((rows["kind"] == "normal") & (rows["error"] == "")), rows["id"].to_numpy()
    structure, own = fine_structure(thumbnails[normal]), ids[normal]
    middle = next(cuts(structure, (0.72,), (0,)))
    alike = functools.reduce(np.maximum, (cut @ middle.T for cut in cuts(structure, (0.64, 0.72, 0.81), (-0.08, 0, 0.08))))
    alike[own[:, None] == own] = -1
    count = min(PARTNERS, len(normal))
    first, second = np.repeat(np.arange(len(normal)), count), np.argpartition(alike, -count, axis=1)[:, -count:].ravel()
    fine = cuts(structure, (0.62, 0.67, 0.72, 0.77, 0.83), (-0.1, -0.05, 0, 0.05, 0.1))
    likeness = functools.reduce(np.maximum, (np.einsum("nd,nd->n", cut[first], middle[second]) for cut in fine))
    usual = np.median(likeness.reshape(-1, count).max(1))
    table = pd.DataFrame({"first": normal[first], "second": normal[second], "likeness": likeness})
    twice = duplicates.loc[duplicates["where"] == WHERE[1], table.columns]
    table = pd.concat([twice, table[1 - likeness < SAME_FACE * (1 - usual)]])
    table = table.sort_values("likeness", ascending=False, kind="stable", ignore_index=True)
    table = table.assign(id=ids[table["first"]], same_as=ids[table["second"]])
    pairs = pd.DataFrame(np.sort(table[["id", "same_as"]].to_numpy(), axis=1))
    return table[(pairs[0] != pairs[1]) & ~pairs.duplicated()].reset_index(drop=True)


def label_suspects(people, rows, same):
    """DataFrame path, column, value, confidence, why: labels that a folder's name, another row of the same id or the same
    photograph under another id contradict. Which of two is right nobody knows here, so confidence is 0.5."""
    suspects, by_path = [], people.set_index("path")
    for path, gender, age in people[["path", "gender", "age"]].itertuples(index=False):
        _id, *words = path.split("_")
        if len(words) == 3 and words[0] in GENDERS and words[0] != GENDERS[gender]:
            suspects.append((path, "gender", words[0], 0.5, "folder name"))
        if len(words) == 3 and dataset.to_age(words[2]) not in (None, age):
            suspects.append((path, "age", words[2], 0.5, "folder name"))
    pairs = [(paths[0], path, "same id") for paths in people.groupby("id")["path"].agg(list) for path in paths[1:]]
    pairs += [(rows["owner"][first], rows["owner"][second], "same photograph")
              for first, second in same[["first", "second"]].to_numpy()
              if rows["kind"][first] == rows["kind"][second] == "normal"]  # fmt: skip
    for known, path, why in pairs:
        theirs, own = by_path.loc[known], by_path.loc[path]
        if theirs["gender"] != own["gender"]:
            suspects.append((path, "gender", GENDERS[theirs["gender"]], 0.5, why))
        if to_age_group(theirs["age"]) != to_age_group(own["age"]):
            suspects.append((path, "age", str(theirs["age"]), 0.5, why))
    table = pd.DataFrame(suspects, columns=["path", "column", "value", "confidence", "why"])
    return table.drop_duplicates(["path", "column"], ignore_index=True)


def tell_apart(rows, small):
    """A line with the AUC, and its 95 % interval, of telling train from eval images; none where either has less than 10 people.
    By logistic regression on 30 principal components, cross-validated and bootstrapped over people."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    good = rows["error"] == ""
    held, group = (rows["kind"][good] == "eval").to_numpy(), pd.factorize(rows["group"][good])[0]
    if min(len(np.unique(group[held])), len(np.unique(group[~held]))) < 10:
        return []
    model = make_pipeline(PCA(30, random_state=0), StandardScaler(), LogisticRegression())
    pixels = small[good].reshape(len(held), -1)
    scores = cross_val_predict(model, pixels, held, groups=group, cv=GroupKFold(5), method="decision_function")
    P, rng = group.max() + 1, np.random.default_rng(0)
    times = [np.bincount(rng.integers(P, size=P), minlength=P) for _ in range(300)]
    draws = [roc_auc_score(held, scores, sample_weight=each[group]) for each in times]
    auc, low, high = roc_auc_score(held, scores), *np.quantile(draws, (0.025, 0.975))
    verdict = "one source, as far as thumbnails tell" if low <= 0.5 else "a little different" if low < 0.6 else "different"
    return [tr(f"train against eval: AUC {auc:.3f} (95 % CI {low:.3f} .. {high:.3f}): {tr(verdict)}")]


def counts(names):
    """'blurred 3, dark 1' of a column of names, the most frequent first."""
    listed = [f"{tr(str(name))} {number:,}" for name, number in names.value_counts().items() if number]
    return ", ".join(listed[:6]) + ", ..." * (len(listed) > 6) or tr("nothing")


def findings(people, rows, result):
    """A line for each finding."""
    ages, held, readable = people["age"], rows["kind"] == "eval", rows[rows["error"] == ""]
    near = ", ".join(f"{tr(name)} {ages.between(*years).sum():,}" for name, years in NEAR_BOUNDS.items())
    groups = counts(pd.Series(np.array(AGE_GROUPS)[to_age_group(ages)]))
    missing = len(people) * len(IMAGE_KINDS) - (~held).sum()
    shapes = readable["width"].map("{:.0f} x ".format) + readable["height"].map("{:.0f}".format)
    suffixes = rows["image"].map(lambda name: Path(name).suffix.lower())
    return [
        tr(f"people: {len(people):,} ({counts(pd.Series(np.array(GENDERS)[people['gender']]))}; {groups})"),
        tr(f"ages at the bounds, in people: {near}"),
        tr(f"images: {(~held).sum():,} of train ({missing:,} missing), {held.sum():,} of eval"),
        tr(f"files: {counts(suffixes)}; {counts(shapes)}; {(rows['turned'] > 1).sum():,} turned by EXIF"),
        *result.apart,
        tr(f"worth a look: {counts(result.faults['fault'])}"),
        tr(f"the same image twice: {counts(result.duplicates['where'])}"),
        tr(f"one face under two ids: {len(result.same):,}, {result.split:,} of them in different folds"),
        tr(f"labels in doubt: {len(result.suspects):,}"),
        tr(f"folds: {result.folds}"),
    ]


def tables(people, rows, fold):
    """{name: table for the page}: people by stratum and fold, what --age-bounds and --drop-ages change, train against eval."""
    ages, names = people["age"], [f"{gender}, {group}" for gender in GENDERS for group in AGE_GROUPS]
    strata = pd.Categorical.from_codes(people["gender"] * 3 + to_age_group(ages), names)
    by_fold = pd.crosstab(strata, fold, margins=True, margins_name=tr("all"), dropna=False)
    changes = [(f"--age-bounds {low} {high}", ages, (low, high)) for low, high in BOUNDS]
    changes.append((f"--drop-ages {' '.join(map(str, DROPPED))}", ages[~ages.isin(DROPPED)], OFFICIAL_BOUNDS))
    changed = [[name, *np.bincount(to_age_group(kept, bounds), minlength=3), len(ages) - len(kept)]
               for name, kept, bounds in changes]  # fmt: skip
    made = {"people": files.page_table(["people", *map(str, by_fold.columns)], [*by_fold.itertuples(name=None)]),
            "options": files.page_table(["option", "young", "middle", "old", "left out"], changed)}  # fmt: skip
    sides = rows.groupby(rows["kind"] == "eval")[[*FIGURES]]
    mean, sd = sides.mean().T, sides.std(ddof=0).T
    if True in mean:
        gap = (mean[True] - mean[False]) / sd[False].where(sd[False] > 0)
        cells = [[tr(name), *((f"{mean[side][name]:.1f} ± {sd[side][name]:.1f}", mean[side][name]) for side in (False, True)),
                  (f"{gap[name]:+.2f}".replace("+nan", "–"), gap[name])] for name in FIGURES]  # fmt: skip
        made["figures"] = files.page_table(["figure", "train images", "eval images", "difference in sd"], cells)
    return made


def class_sheet(rows, thumbnails):
    """[(class, number of its images, address of their mean, addresses of some)] of the classes that have images."""
    sheet, rng = [], np.random.default_rng(0)
    for label, of_class in rows[rows["error"] == ""].groupby("label"):
        mean = io.BytesIO()
        Image.fromarray(thumbnails[of_class.index].mean(0).round().astype(np.uint8)).save(mean, "PNG")
        drawn = rng.choice(of_class["file"], min(EXAMPLES, len(of_class)), replace=False)
        some = [images.thumbnail(file, 112) for file in drawn]
        sheet.append((LABELS[int(label)], len(of_class), images.thumbnail(mean), some))
    return sheet


def card_sections(rows, result):
    """[(title, number found, cards)] for the page: of each card its rows and lines of text, SHOWN of a title at most."""
    names, suspects, normal = rows["image"].to_numpy(), result.suspects, rows.index[rows["kind"] == "normal"]
    doubts = suspects.assign(row=suspects["path"].map(dict(zip(rows["owner"][normal], normal)))).dropna()
    strange = pd.DataFrame({"row": np.argsort(-rows["strange"].to_numpy(), kind="stable")[:12]})
    reasons = rows["error"].str.partition(": ")[2]
    listed = [(name, table, table["value"].map("{:.1f}".format).mask(table["value"].isna(), table["row"].map(reasons)))
              for name, table in result.faults.groupby("fault", sort=False)]  # fmt: skip
    listed += [(f"{tr('the same image')}: {tr(name)}", table, table["what"].map(tr))
               for name, table in result.duplicates.groupby("where", observed=True)]  # fmt: skip
    listed += [("one face under two ids", result.same, result.same["likeness"].map("{:.2f}".format)),
               ("labels in doubt", doubts, doubts["column"] + " → " + doubts["value"] + ": " + doubts["why"].map(tr)),
               ("least like other people", strange, rows["strange"][strange["row"]].map("{:.1f}".format))]  # fmt: skip
    sections = []
    for title, table, texts in listed:
        shown = table.filter(["row", "first", "second"])[:SHOWN].to_numpy(dtype=int)
        cards = [(card.tolist(), (*names[card], text)) for card, text in zip(shown, texts)]
        sections += [(title, len(table), cards)] if cards else []
    return sections


def write_page(out, people, rows, thumbnails, result, lines, args):
    """Write eda.html into the folder `out`."""
    sections, ages = card_sections(rows, result), people["age"]
    shown = {row for _title, _number, cards in sections for card, _texts in cards for row in card if rows["error"][row] == ""}
    pictures = {row: images.thumbnail(rows["file"][row]) for row in sorted(shown)}
    years = ages.value_counts().reindex(range(ages.min(), ages.max() + 1), fill_value=0)
    bars = [(str(age), count / years.max(), f"{count:,}") for age, count in years.items()]
    page = files.page("eda.html", title=tr("The data"), data_dir=str(args.data_dir), lines=lines, bars=bars, kfold=args.kfold,
                      sheet=class_sheet(rows, thumbnails), sections=sections, pictures=pictures,
                      tables=tables(people, rows, result.fold))  # fmt: skip
    files.write_text(out / "eda.html", page)


def find_all(people, rows, thumbnails, args):
    """All that is found, in one container; `rows` get columns: group (the id; in eval images alike), strange and faceless."""
    small, in_eval = shrink(thumbnails, SHRINK), rows["kind"] == "eval"
    rows["group"] = rows["id"]
    if in_eval.sum() > 1:
        alike = images.group_alike(images.likeness_features(shrink(thumbnails[in_eval], 2)))
        rows.loc[in_eval, "group"] = [f"eval {number}" for number in alike]
    rows["strange"] = strangeness(rows, small)
    rows["faceless"] = args.faces and np.isnan(images.open_faces(rows["file"].tolist(), args.cache_dir, args.quiet)[:, 0])
    duplicates = find_duplicates(rows, thumbnails, small)
    same = find_same_people(rows, thumbnails, duplicates)
    try:
        fold = dataset.assign_folds(people, args.kfold, args.seed)
        sizes = np.bincount(fold)
        folds = tr(f"--kfold {args.kfold} has {sizes.min():,} to {sizes.max():,} people in each")
    except InputError as error:
        fold, folds = np.zeros(len(people), dtype=int), str(error)
    of_id = dict(zip(people["id"], fold))
    split = (same["id"].map(of_id) != same["same_as"].map(of_id)).sum()
    return SimpleNamespace(faults=find_faults(rows), duplicates=duplicates, same=same, fold=fold, folds=folds, split=split,
                           suspects=label_suspects(people, rows, same), apart=tell_apart(rows, small))  # fmt: skip


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
    result = find_all(people, rows, thumbnails, args)
    lines = findings(people, rows, result)
    files.write_csv(out / "same_people.csv", result.same[["id", "same_as", "likeness"]], "%.3f")
    files.write_csv(out / "label_suspects.csv", result.suspects)
    files.write_csv(out / "duplicates.csv", result.duplicates[["image", "same_as", "what", "where", "likeness"]], "%.3f")
    files.write_csv(out / "odd.csv", result.faults[["image", "fault", "value"]], "%.3f")
    write_page(out, people, rows, thumbnails, result, lines, args)
    print("\n".join(lines))
    say(f"{out / 'eda.html'}: to look at; same_people.csv, label_suspects.csv, duplicates.csv and odd.csv lie beside it")
    same = f" --same-people {out / 'same_people.csv'}" if len(result.same) else ""
    say(f"next: python train.py{dataset.data_option(args.data_dir)}{same}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
