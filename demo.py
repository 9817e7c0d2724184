"""The demo set: faces drawn in the competition's layout with its traps, where no data is.

python demo.py --out DIR
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import files
import images
from dataset import DATA_PLACES, DEMO_DIR, GENDERS, IMAGE_KINDS, encode, find_data, is_demo, to_age_group
from demo_faces.photos import person_images
from errors import InputError, log

VERSION = 2
IMAGE_BYTES = 24 << 10  # of an image, on disk
# People of the competition by gender (male, female) and age group; of each group {(first, last age): people}, even in between.
COUNTS = ((549, 410, 83), (732, 817, 109))
AGE_SPREAD = (
    {(18, 26): 1243, (27, 29): 38},
    {(30, 32): 45, (33, 55): 709, (56, 56): 123, (57, 57): 106, (58, 58): 159, (59, 59): 85},
    {(60, 60): 192},
)
JUNK = b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(64)  # what tar leaves on a Mac beside each file, as ._name


def choose_people(people, seed, part=0):
    """[(gender, age, key)] of `people` persons, shuffled; groups as in the competition, but 8 of each at least from 60 on. A
    person is a function of seed and key = (part, gender, group, number in the group), however many people there are."""
    share = np.array(COUNTS).ravel() * people / np.sum(COUNTS)
    take = np.floor(share).astype(int)
    take[np.argsort(take - share, kind="stable")[: people - take.sum()]] += 1
    floor = 8 if people >= 60 else 1
    while (take < floor).any() and take.max() > floor:
        take[take.argmax()] -= 1
        take[take.argmin()] += 1
    keys = [(part, index // 3, index % 3, number) for index in range(6) for number in range(take[index])]
    order = np.random.default_rng((seed, part, people)).permutation(people)
    return [(keys[index][1], pick_age(seed, keys[index]), keys[index]) for index in order]


def pick_age(seed, key):
    """The age of a person, spread as in their group."""
    rng = np.random.default_rng((seed, *key, 1))
    spans = AGE_SPREAD[key[2]]
    weights = np.array(list(spans.values()))
    first, last = list(spans)[rng.choice(len(spans), p=weights / weights.sum())]
    return int(rng.integers(first, last + 1))


def draw_demo(out, people=300, eval_people=80, seed=0):
    """Draw the demo set into the folder `out` unless it is there, whole or not at all; of two processes one draws."""
    out = Path(out)
    metadata = {"demo": VERSION, "people": people, "eval_people": eval_people, "seed": seed}
    if _is_drawn(out, metadata):
        return
    parent, size = files.make_dir(out.parent, "--out"), len(IMAGE_KINDS) * (people + eval_people) * IMAGE_BYTES
    with files.lock(parent, f"waiting for another process to draw {out}/", wait=True):
        if _is_drawn(out, metadata):
            return
        building = out.with_name(f".{out.name}.tmp")
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed: the lock is ours
        files.check_room([("", out, "the demo set", size)])
        try:
            with files.writing(out, size):
                _draw_all(building, people, eval_people, seed)
                (building / "demo.json").write_text(json.dumps(metadata))
                os.replace(building, out)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _is_drawn(out, metadata):
    if not out.exists():
        return False
    if not is_demo(out):
        raise InputError(f"{out}: exists and is no demo set (it holds no demo.json); move it away or name another folder")
    if (out / "demo.json").read_text(errors="replace") != json.dumps(metadata):
        raise InputError(f"{out}: holds another demo set; delete it to draw {metadata}")
    return True


def _draw_all(out, people, eval_people, seed):
    (out / "train" / "images").mkdir(parents=True)
    (out / "eval" / "images").mkdir(parents=True)
    chosen = choose_people(people, seed)
    rows = _name_people(chosen)
    (out / "train" / "images" / f"._{rows[0][4]}").write_bytes(JUNK)
    jobs = [(out / "train" / "images" / row[4], gender, age, seed, key) for row, (gender, age, key) in zip(rows, chosen)]
    jobs += [(out / "eval" / "images", *one[:2], seed, one[2]) for one in choose_people(eval_people, seed, part=1)]
    drawn = images.pool_map("drawing the demo set", _write_person, jobs, [len(IMAGE_KINDS)] * len(jobs))
    answers = [answer for named in drawn for answer in named]
    pd.DataFrame(rows, columns=["id", "gender", "race", "age", "path"]).to_csv(out / "train" / "train.csv", index=False)
    answers = pd.DataFrame(answers, columns=["ImageID", "ans"]).sort_values("ImageID")
    answers.assign(ans=0).to_csv(out / "eval" / "info.csv", index=False)
    answers.to_csv(out / "eval" / "answers.csv", index=False)


def _name_people(chosen):
    """Rows of train.csv. As in the competition one id has a suffix, and one is on two rows (female 20, female 19)."""
    rows = []
    for index, (gender, age, _) in enumerate(chosen):
        rows.append([f"{index * 7 + 1:06d}{'-1' * (index == 3)}", GENDERS[gender], "Asian", age])
    twins = [index for index, (gender, age, _) in enumerate(chosen) if gender == 1 and age < 30][:2]
    if len(twins) == 2:
        for index, age in zip(twins, (20, 19)):
            rows[index][0], rows[index][3] = rows[twins[0]][0], age
            chosen[index] = (1, age, chosen[index][2])
    return [(*row, "_".join(map(str, row))) for row in rows]


def _write_person(job):
    """Draw one person into a folder; for eval, under hidden names, returned with their labels."""
    folder, gender, age, seed, key = job
    rng = np.random.default_rng((seed, *key, 2))
    named = []
    folder.mkdir(exist_ok=True)
    for kind, image in person_images(gender, age, seed, *key).items():
        if folder.name == "images":
            name = f"{rng.bytes(20).hex()}.jpg"
            named.append((name, int(encode(IMAGE_KINDS[kind], gender, to_age_group(age)))))
        else:
            name = kind + str(rng.choice([".jpg", ".png", ".jpeg"], p=(0.954, 0.027, 0.019)))
            if kind == "mask1" and key[3] % 20 == 0:
                (folder / f"._{name}").write_bytes(JUNK)
        image.save(folder / name, **({"compress_level": 1} if name.endswith("png") else {"quality": 88}))
    return named


def main(argv=None):
    parser = errors.Parser("Draw the demo set: faces in the competition's layout, so that everything runs where no data is.")
    parser.add_argument("--out", default="data-demo", metavar="DIR", help="folder to make")
    parser.add_argument("--people", type=errors.positive_int, default=300, metavar="N", help="people to train on")
    parser.add_argument("--eval-people", type=errors.positive_int, default=80, metavar="N", help="people to be judged on")
    parser.add_argument("--seed", type=errors.natural_int, default=0)
    args = parser.parse_args(argv)
    draw_demo(args.out, args.people, args.eval_people, args.seed)
    errors.say(f"{args.out}: {args.people} people to train on, {args.eval_people} to be judged on")
    return 0


def locate(data_dir=None, draw=True):
    """(data folder, is it the drawn demo set): the one given, or the first of DATA_PLACES that holds train/train.csv. Where
    none does it is data-demo/, drawn with a banner on stderr where it is not there yet, unless `draw` is False."""
    folder = find_data(data_dir)
    if data_dir is not None or folder not in (None, DEMO_DIR):
        return folder, is_demo(folder)
    if draw and folder is None:
        log(f"DEMO DATA: no train/train.csv in {' or '.join(map(str, DATA_PLACES))}: drawing faces into {DEMO_DIR}/.\n"
            "Scores on them say nothing about real ones; give your data with --data-dir DIR.")  # fmt: skip
    if draw:
        draw_demo(DEMO_DIR)
    return DEMO_DIR, True


if __name__ == "__main__":
    sys.exit(errors.run(main))
