"""How far a hidden score is from the out-of-fold one: two halves of the people, each with the other half as its eval images.

    python tools/halves.py FACES OUT [SEED]
    python tools/halves.py forecast OUT/A ...

Writes OUT/A and OUT/B in the competition's layout, with eval/answers.csv: what is trained on one half is scored on people
whom nobody has seen. Images are links to those of FACES; half of the ids are drawn by a fixed seed. `forecast` holds what
leaderboard.py would forecast of the submissions in OUT/A/runs/ against their scores on the other half.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts lie above

import dataset
import metrics
import predictions
from dataset import encode, to_age_group


def make(faces, out, seed=0):
    """Both data folders under `out`."""
    faces = Path(faces).resolve()
    people = dataset.read_people(faces)
    images = dataset.list_images(faces, people)
    ids = np.random.default_rng(int(seed)).permutation(people["id"].unique())
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


def forecast(*sides):
    """Print each forecast beside the score, and how many of the 80 % intervals hold it: with no score known, and with one."""
    rows = []
    for side in map(Path, sides):
        answers, lbs = pd.read_csv(side / "eval" / "answers.csv").set_index("ImageID")["ans"], {}
        for path in sorted(side.glob("runs/*/submission.csv")):
            handed_in = pd.read_csv(path)
            lbs[path.parent] = metrics.macro_f1(answers[handed_in["ImageID"]], handed_in["ans"], len(dataset.LABELS))
        for known in (None, *lbs):
            shown = {folder: lb if folder == known else None for folder, lb in lbs.items()}
            for folder, expected in predictions.forecast_lb(shown, public=len(answers) // 7).items():
                if folder != known:
                    rows.append((folder.name, int(known is not None), lbs[folder], expected.score, expected.half))
    table = pd.DataFrame(rows, columns=["result", "known", "hidden", "forecast", "half"])
    table["inside"] = (table["hidden"] - table["forecast"]).abs() <= table["half"]
    table["above"] = table["hidden"] - table["forecast"]
    print(table[table["known"] == 0].drop(columns="known").round(4).to_string(index=False))
    print(table.groupby(["known", "result"])["above"].agg(["mean", "std"]).round(4).to_string())
    print(table.groupby("known")["inside"].agg(["sum", "count", "mean"]).round(3).to_string())


if __name__ == "__main__":
    forecast(*sys.argv[2:]) if sys.argv[1] == "forecast" else make(*sys.argv[1:])
