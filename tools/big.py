"""The large set that docs/results.md calls $BIG: 2,700 people's 18,900 images of 384 x 512, made from fewer and smaller ones.

    python tools/big.py FACES BIG

People are those of FACES in turn, as often as it takes; their images are enlarged and saved as JPEGs of quality 90. For times
and memory, not for scores: a person who comes twice is in two folds.
"""

import csv
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

PEOPLE, WIDTH, HEIGHT, QUALITY = 2700, 384, 512, 90


def enlarge(source, target, job):
    """One person's row of train.csv, its images written."""
    number, row = job
    name = f"{number:06d}_{row['gender']}_{row['race']}_{row['age']}"
    folder = target / "images" / name
    folder.mkdir(parents=True)
    for file in (source / "images" / row["path"]).glob("[!.]*"):
        with Image.open(file) as image:
            large = image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        large.save(folder / f"{file.stem}.jpg", quality=QUALITY)
    return {**row, "id": f"{number:06d}", "path": name}


def main(faces, big):
    source, target = Path(faces) / "train", Path(big) / "train"
    with open(source / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    jobs = [(number, rows[number % len(rows)]) for number in range(PEOPLE)]
    with ProcessPoolExecutor() as pool:
        made = list(pool.map(partial(enlarge, source, target), jobs, chunksize=20))
    with open(target / "train.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(made)


if __name__ == "__main__":
    main(*sys.argv[1:])
