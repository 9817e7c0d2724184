"""The embedded demo set: drawn faces (faces.py) in the competition's layout, so that everything runs where no data is.

    python demo.py --out DIR

The competition's traps are there too: dot-files at both levels, png and jpeg among the jpg, ids that are no numbers, and an
id on two rows. The ages are spread as in the competition.
"""

import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import errors
import options
from errors import InputError
from faces import person_images
from labels import GENDERS, encode, to_age_group

VERSION = 1
RACE = "Asian"
# People of the competition by gender (male, female) and age group, and how the ages of a group are spread.
COUNTS = ((549, 410, 83), (732, 817, 109))


def plan_people(people, seed):
    """gender and age of each of `people` persons: groups in the competition's proportions, at least 8 of each from 60 on."""
    share = np.array(COUNTS).ravel() * people / np.sum(COUNTS)
    take = np.floor(share).astype(int)
    for group in np.argsort(take - share, kind="stable")[: people - take.sum()]:
        take[group] += 1
    floor = 8 if people >= 60 else 1
    while (take < floor).any() and take.max() > floor:
        take[take.argmax()] -= 1
        take[take.argmin()] += 1
    rng = np.random.default_rng((seed, 0xA6E))
    rows = [(gender, pick_age(group, rng)) for gender in (0, 1) for group in range(3) for _ in range(take[gender * 3 + group])]
    return [rows[index] for index in rng.permutation(len(rows))]


def pick_age(group, rng):
    """An age of a group as the competition spreads them: 27 to 32 sparse, 56 to 59 crowded, the old all 60."""
    if group == 2:
        return 60
    if group == 0:
        return int(rng.integers(18, 27)) if rng.random() < 0.94 else int(rng.integers(27, 30))
    kind = rng.random()
    return (
        int(rng.integers(56, 60)) if kind < 0.385 else int(rng.integers(30, 33)) if kind < 0.42 else int(rng.integers(33, 56))
    )


def draw_demo(out, people=300, eval_people=80, seed=0, progress=True):
    """Draw the demo set into the folder `out`, in the competition's layout plus eval/answers.csv; at once if it is there.

    It is built beside `out` and renamed, so a kill leaves nothing under the final name and two processes don't disturb
    each other. InputError when `out` is there and is no demo set, or can't be written.
    """
    out = Path(out)
    facts = {"demo": VERSION, "people": people, "eval_people": eval_people, "seed": seed}
    if out.exists():
        if not is_demo(out):
            raise InputError(f"{out}: exists and is no demo set (it holds no demo.json); move it away or name another folder")
        if json.loads((out / "demo.json").read_text()) == facts:
            return
        raise InputError(f"{out}: holds another demo set; delete it to draw {facts}")
    building = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        _draw_all(building, people, eval_people, seed, progress)
        (building / "demo.json").write_text(json.dumps(facts))
        os.rename(building, out)
    except OSError as error:
        if not is_demo(out):  # unless another process was faster
            raise InputError(f"{out}: can't be written ({error.strerror})") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def is_demo(folder):
    """Whether a folder holds a drawn demo set."""
    return (Path(folder) / "demo.json").is_file()


def _draw_all(out, people, eval_people, seed, progress):
    (out / "train" / "images").mkdir(parents=True)
    (out / "eval" / "images").mkdir(parents=True)
    plan = plan_people(people, seed)
    rows = _name_people(plan)
    junk = b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(64)
    (out / "train" / "images" / f"._{rows[0][4]}").write_bytes(junk)
    jobs = [(out / "train" / "images" / row[4], *person, seed, index) for index, (row, person) in enumerate(zip(rows, plan))]
    hidden = plan_people(eval_people, seed + 1)
    jobs += [(out / "eval" / "images", *person, seed, 1_000_000 + index) for index, person in enumerate(hidden)]
    context = multiprocessing.get_context("fork")
    answers = []
    with context.Pool(os.cpu_count()) as pool, tqdm(total=7 * len(jobs), desc="drawing the demo set", unit="img",
                                                    disable=None if progress else True) as bar:  # fmt: skip
        for named in pool.imap(_write_person, jobs, chunksize=4):
            answers.extend(named)
            bar.update(7)
    pd.DataFrame(rows, columns=["id", "gender", "race", "age", "path"]).to_csv(out / "train" / "train.csv", index=False)
    answers = pd.DataFrame(answers, columns=["ImageID", "ans"]).sort_values("ImageID")
    answers.assign(ans=0).to_csv(out / "eval" / "info.csv", index=False)
    answers.to_csv(out / "eval" / "answers.csv", index=False)


def _name_people(plan):
    """Rows of train.csv. As in the competition one id holds a suffix, and one stands on two rows."""
    rows = []
    for index, (gender, age) in enumerate(plan):
        name = f"{index * 7 + 1:06d}" + ("-1" if index == 3 else "")
        rows.append([name, GENDERS[gender], RACE, age])
    young = [index for index, (gender, age) in enumerate(plan) if gender == 1 and age < 30][:2]
    if len(young) == 2:
        rows[young[1]][0] = rows[young[0]][0]
        rows[young[1]][3] = rows[young[0]][3] - 1 if rows[young[0]][3] > 18 else 19
        plan[young[1]] = (1, rows[young[1]][3])
    return [(*row, f"{row[0]}_{row[1]}_{row[2]}_{row[3]}") for row in rows]


def _write_person(job):
    """Draw one person into a folder; for eval, under hidden names, returned with their labels."""
    folder, gender, age, seed, index = job
    rng = np.random.default_rng((seed, index, 1))
    named = []
    for number, (kind, image) in enumerate(person_images(gender, age, seed, index).items()):
        if folder.name == "images":
            name = f"{rng.bytes(20).hex()}.jpg"
            mask = {"incorrect_mask": 1, "normal": 2}.get(kind, 0)
            named.append((name, int(encode(mask, gender, to_age_group(age)))))
        else:
            folder.mkdir(exist_ok=True)
            suffix = ".jpg" if rng.random() > 0.045 else (".png" if rng.random() < 0.6 else ".jpeg")
            name = f"{kind}{suffix}"
            if index % 50 == 0 and number == 0:
                (folder / f"._{name}").write_bytes(b"\0\5\x16\7" + bytes(64))
        image.save(folder / name, **({"compress_level": 1} if name.endswith("png") else {"quality": 88}))
    return named


def draw_sheet(path, columns=8, seed=0):
    """A contact sheet: a column a person, with a worn, an incorrect and no mask, and a caption."""
    width, height = 144, 192
    sheet = Image.new("RGB", (columns * width + 8 * (columns + 1), 3 * (height + 8) + 34), (255, 255, 255))
    font = ImageFont.load_default(15)
    people = [(1, 20), (0, 22), (1, 25), (0, 34), (1, 45), (0, 57), (1, 60), (0, 60)]
    for column, (gender, age) in enumerate(people[:columns]):
        images = person_images(gender, age, seed, 500 + column)
        left = 8 + column * (width + 8)
        for row, kind in enumerate(("mask1", "incorrect_mask", "normal")):
            sheet.paste(images[kind].resize((width, height), Image.Resampling.LANCZOS), (left, 8 + row * (height + 8)))
        text = f"{GENDERS[gender]}, {age}" + ("+" if age == 60 else "")
        ImageDraw.Draw(sheet).text((left + width / 2, 3 * (height + 8) + 18), text, (50, 54, 60), font, anchor="mm")
    sheet.save(path, optimize=True)


def main(argv=None):
    parser = options.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="data-demo", metavar="DIR", help="folder to make")
    parser.add_argument("--people", type=options.positive_int, default=300, metavar="N", help="people to train on")
    parser.add_argument("--eval-people", type=options.positive_int, default=80, metavar="N", help="people to be judged on")
    parser.add_argument("--seed", type=options.natural_int, default=0)
    parser.add_argument("--sheet", metavar="FILE.png", help="draw only a contact sheet")
    args = parser.parse_args(argv)
    if args.sheet:
        draw_sheet(args.sheet)
        return 0
    draw_demo(args.out, args.people, args.eval_people, args.seed)
    print(f"{args.out}: {args.people} people to train on, {args.eval_people} to be judged on")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
