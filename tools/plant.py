"""A copy of a data folder with planted faults, which its planted.csv lists, to measure what eda.py finds of them.

    python tools/plant.py FACES COPY [SEED]

20 images are blurred, 10 are another person's image, 5 people also have a second id, 5 images of train are in eval too, all of
different people. Copies are cropped by up to 5 % a side (of a second id), lighter or darker by up to 20 %, and compressed anew.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter


def main(source, copy, seed=0):
    rng, copy = np.random.default_rng(int(seed)), Path(copy)
    shutil.copytree(source, copy)
    train, folder, planted = pd.read_csv(copy / "train" / "train.csv", dtype=str), copy / "train" / "images", []
    info = pd.read_csv(copy / "eval" / "info.csv", dtype=str)

    def again(file, target, crop=0.0):
        with Image.open(file) as image:
            width, height = image.size
            left, top, right, bottom = rng.uniform(0, crop, 4)
            box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
            made = ImageEnhance.Brightness(image.convert("RGB").resize((width, height), box=box)).enhance(rng.uniform(0.8, 1.2))
        made.save(target, quality=int(rng.integers(60, 90)))

    names = iter(rng.permutation(train["path"]))  # nobody has two faults

    def draw(count):
        return [sorted(folder.glob(f"{next(names)}/[!.]*"))[rng.integers(7)] for _ in range(count)]

    for target, file in zip(draw(10), draw(10)):
        again(file, target)
        planted.append(("duplicate", target.relative_to(folder), file.relative_to(folder)))
    for file in draw(20):
        with Image.open(file) as image:
            image.convert("RGB").filter(ImageFilter.GaussianBlur(rng.uniform(2, 4) * image.height / 256)).save(file)
        planted.append(("blurred", file.relative_to(folder), ""))
    for number, row in train[train["path"].isin([next(names) for _ in range(5)])].iterrows():
        name = f"9{number:05d}"
        path = row["path"].replace(row["id"], name, 1)
        (folder / path).mkdir()
        for file in (folder / row["path"]).glob("[!.]*"):
            again(file, folder / path / file.name, crop=0.05)
        train.loc[len(train)] = {**row, "id": name, "path": path}
        planted.append(("two ids", row["id"], name))
    for file in draw(5):
        name = f"{rng.bytes(20).hex()}.jpg"
        again(file, copy / "eval" / "images" / name)
        info.loc[len(info)] = {"ImageID": name, "ans": "0"}
        planted.append(("both sets", file.relative_to(folder), name))
    train.to_csv(copy / "train" / "train.csv", index=False)
    info.to_csv(copy / "eval" / "info.csv", index=False)
    pd.DataFrame(planted, columns=["fault", "one", "two"]).to_csv(copy / "planted.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
