"""How far a hidden score is from the out-of-fold one: two halves of the people, each with the other half as its eval images.

    python tools/halves.py FACES OUT

Writes OUT/A and OUT/B in the competition's layout, with eval/answers.csv: what is trained on one half is scored on people
whom nobody has seen. Images are links to those of FACES; half of the ids are drawn by a fixed seed.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts lie above

import dataset
from dataset import encode, to_age_group


def make(faces, out):
    """Both data folders under `out`."""
    faces = Path(faces).resolve()
    people = dataset.read_people(faces)
    images = dataset.list_images(faces, people)
    ids = np.random.default_rng(0).permutation(people["id"].unique())
    first = set(ids[: len(ids) // 2])
    table = pd.read_csv(faces / "train" / "train.csv", dtype=str)
    for name, mine in (("A", people["id"].isin(first)), ("B", ~people["id"].isin(first))):
        here, paths = Path(out) / name, set(people["path"][mine])
        for folder in ("train", "eval"):
            (here / folder / "images").mkdir(parents=True)
        table[table["path"].isin(paths)].to_csv(here / "train" / "train.csv", index=False)
        for path in paths:
            (here / "train" / "images" / path).symlink_to(faces / "train" / "images" / path)
        others = images[~images["path"].isin(paths)]
        rows = []
        for row in others.itertuples():
            image = hashlib.sha1(row.image.encode()).hexdigest() + Path(row.image).suffix
            (here / "eval" / "images" / image).symlink_to(faces / "train" / "images" / row.image)
            rows.append((image, encode(row.mask, row.gender, to_age_group(row.age))))
        answers = pd.DataFrame(sorted(rows), columns=["ImageID", "ans"])
        answers.to_csv(here / "eval" / "answers.csv", index=False)
        answers.assign(ans=0).to_csv(here / "eval" / "info.csv", index=False)
        print(f"{here}: {len(paths)} people to train on, {len(answers)} images of others to be judged on")


if __name__ == "__main__":
    make(*sys.argv[1:])
