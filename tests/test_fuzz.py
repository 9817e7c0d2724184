"""Every reader against damaged files: a right reading or an InputError of one line, nothing else.

    python -m pytest tests/test_fuzz.py                                   # 20 cases a reader, the same each time
    HYPOTHESIS_PROFILE=long python -m pytest -n 2 tests/test_fuzz.py      # 3,000 cases a reader, others each time

Files are changed by bytes, as disks and networks do, and by structure, as people and spreadsheets do.
"""

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import damaged
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from helpers import People, make_fit, write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dataset
import engine
import ensemble
import experiment
import hardware
import images
import inference
import leaderboard
import model
import options
import predictions
import report
import sweep
from errors import InputError, one_line
from images import Geometry

EXAMPLES = 3000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 20
TEXTS = ["", " ", "x", "nan", "inf", "-1", "0.5", "1e999", "1_0", "²", "9" * 500, "True", "male", "../../x", "/etc/passwd", "a\0b", "\x1b[2J",
         "한글", '"', "'", ",", ";", "\t", "\r\n", "#", "=1+1", "%s", "{}", "[]", "<b>", "--", "..", "~", "*", "&a", "!!python/name:os.system"]  # fmt: skip
SCALARS = st.sampled_from([None, True, False, 0, -1, 2**31, 2**64, 10**400, 0.5, float("inf"), float("nan"), *TEXTS])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS), inner, max_size=2)
)


# ---- changes -------------------------------------------------------------------------------------------------------


@st.composite
def changed_bytes(draw, content):
    """`content` with one to four stretches replaced, half of them near the start, where headers are; also cut short."""
    content = bytearray(content)
    pieces = st.binary(max_size=16) | st.sampled_from(TEXTS).map(lambda text: text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(content), 200)) | st.integers(0, len(content)))
        content[at : at + draw(st.sampled_from([0, 1, 4, 64, len(content)]))] = draw(pieces)
    return bytes(content)


@st.composite
def changed_table(draw, content):
    """A csv with another cell, row, column, separator or encoding."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    row, column = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(rows[0]) - 1))
    match draw(st.sampled_from(["cell", "cell", "cell", "row twice", "no row", "no column", "long row"])):
        case "cell":
            rows[row][column] = draw(st.sampled_from(TEXTS))
        case "row twice":
            rows.insert(row, rows[-1])
        case "no row":
            del rows[row]
        case "no column":
            rows = [cells[:column] + cells[column + 1 :] for cells in rows]
        case "long row":
            rows[row] = [*rows[row], ""]
    stream = io.StringIO()
    separator = draw(st.sampled_from([",", ",", ",", ";", "\t"]))
    csv.writer(stream, delimiter=separator, lineterminator=draw(st.sampled_from(["\n", "\r\n"]))).writerows(rows)
    return stream.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "cp949"])), "replace")


@st.composite
def changed_value(draw, value):
    """Nested lists and mappings with one part replaced, removed or renamed."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        parts = dict(value) if isinstance(value, dict) else dict(enumerate(value))
        key = draw(st.sampled_from(list(parts)))
        what = draw(st.sampled_from(["inside", "inside", "inside", "lost", "renamed"]))
        part = parts.pop(key) if what != "inside" else parts[key]
        if what == "inside":
            parts[key] = draw(changed_value(part))
        elif what == "renamed":
            parts[draw(st.sampled_from(TEXTS))] = part
        return parts if isinstance(value, dict) else list(parts.values())
    return draw(VALUES)


def changed_yaml(content):
    """The comment of the first line stays where there is one."""
    first, _, rest = content.partition(b"\n") if content.startswith(b"#") else (b"#", b"", content)
    return changed_value(yaml.safe_load(rest)).map(
        lambda value: first + b"\n" + yaml.safe_dump(value, sort_keys=False).encode()
    )


def changed_safetensors(content):
    """Another header in front of the same data, or other metadata of train.py in it."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def packed(value):
        text = json.dumps(value).encode()
        return len(text).to_bytes(8, "little") + text + data

    with_metadata = [changed_value(header)]
    if "experiment" in header["__metadata__"]:
        metadata = changed_value(json.loads(header["__metadata__"]["experiment"])).map(json.dumps)
        with_metadata.append(metadata.map(lambda text: {**header, "__metadata__": {"experiment": text}}))
    return st.one_of(with_metadata).map(packed)


def changed_pickle(content):
    def packed(state):
        stream = io.BytesIO()
        torch.save(state, stream)
        return stream.getvalue()

    return changed_value(torch.load(io.BytesIO(content), weights_only=True)).map(packed)


BY_STRUCTURE = {
    "table": changed_table, "yaml": changed_yaml, "safetensors": changed_safetensors, "pickle": changed_pickle,
    "json": lambda content: changed_value(json.loads(content)).map(lambda value: json.dumps(value).encode()),
}  # fmt: skip


# ---- readers -------------------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """A whole file of a kind of BY_STRUCTURE (or "bytes"), `read()` that reads it, and `holds(what)` that is true of all it may return."""

    kind: str
    file: Path
    read: callable
    holds: callable = lambda found: True


def inside(names):
    return all(name and not name.startswith("/") and ".." not in name.split("/") for name in names)


def table_readers(root):
    for folder in ("train", "eval/images"):
        (root / folder).mkdir(parents=True)
    for name in damaged.NAMES:
        (root / "eval" / "images" / name).touch()
    for file in damaged.WHOLE:
        damaged.write_table(root / ("eval" if file == "info.csv" else "train"), file)
    train = root / "train"
    (train / "age.csv").write_text(f"ImageID,{','.join(dataset.columns('age'))}\na.jpg{',0.02' * 42},0.16\n")
    (train / "pseudo.csv").write_text("fold,ImageID,p0,p1\n0,a.jpg,0.25,0.75\n1,a.jpg,0.5,0.5\n")
    (train / "sweep.txt").write_text(
        "common: --epochs 3 # all\nbase:\nfocal: --loss focal --gamma=1\nmany: --drop-ages 27 '28'\n"
    )
    people = dataset.read_people(root)

    def is_people(found):
        dataset.assign_folds(found, 0, 1)
        return (
            found["path"].is_unique
            and found["gender"].isin([0, 1]).all()
            and found["age"].between(0, 120).all()
            and inside(found["path"])
        )

    def is_oof(found):
        truth, probs = predictions.scored(found, "gender")
        return np.isfinite(probs).all() and set(truth) <= {0, 1} and found["image"].is_unique and inside(found["image"])

    def is_submission(found):
        names, answers = found
        return len(set(names)) == len(names) == len(answers) and ((answers >= 0) & (answers < 18)).all()

    def is_fixes(found):
        fixed = dataset.apply_label_fixes(people.assign(image=people["path"], mask=0, label=0), found[0])
        return (
            set(found[0]["path"]) <= set(people["path"])
            and fixed["age"].between(0, 120).all()
            and fixed["gender"].isin([0, 1]).all()
        )

    def read_table(file, target, keys):
        return lambda: predictions.read_table(train / file, target, keys)

    return {
        "train.csv": Reader("table", train / "train.csv", lambda: dataset.read_people(root), is_people),
        "info.csv": Reader("table", root / "eval/info.csv", lambda: dataset.read_eval(root)[0], lambda found: found and set(found) <= set(damaged.NAMES)),
        "submission.csv": Reader("table", train / "submission.csv", lambda: dataset.read_submission(train / "submission.csv"), is_submission),
        "oof.csv": Reader("table", train / "oof.csv", read_table("oof.csv", "gender", ("image", "path")), is_oof),
        "eval.csv": Reader("table", train / "eval.csv", read_table("eval.csv", "gender", ("ImageID",))),
        "eval.csv of ages": Reader("table", train / "age.csv", read_table("age.csv", "age", ("ImageID",))),
        "folds.csv": Reader("table", train / "folds.csv", lambda: experiment.read_folds(train), lambda found: found["path"].is_unique and (found["fold"] >= -1).all()),
        "log.csv": Reader("table", train / "log.csv", lambda: experiment.read_log(train / "log.csv"), lambda found: set(experiment.LOG_COLUMNS) <= set(found)),
        "pseudo.csv": Reader("table", train / "pseudo.csv", lambda: inference.read_pseudo(train, "gender")),
        "label fixes": Reader("table", train / "fixes.csv", lambda: dataset.read_label_fixes(train / "fixes.csv", people, 0.9), is_fixes),
        "sweep.txt": Reader("bytes", train / "sweep.txt", lambda: sweep.read_plan(train / "sweep.txt")),
    }  # fmt: skip


def run_readers(root):
    """A run as it is listed, combined, predicted with, resumed, and looked at by a sweep."""
    run = root / "runs" / "a-s1"
    write_run(run, "gender", People(4, seed=0), People(2, seed=1))
    (root / "data" / "eval").mkdir(parents=True)
    (root / "data" / "eval" / "info.csv").touch()
    args = {**vars(options.make_parser().parse_args([])), "target": "gender", "kfold": 2, "model": "test_resnet", "name": "a"}
    args |= {"data_dir": str(root / "data"), "img_size": [32, 24], "fold_seed": 42}
    (run / "args.yaml").write_text(f"# python train.py --seed 1 --quiet\n{yaml.safe_dump(args, sort_keys=False)}")
    row = {"best_epoch": 2, "val_f1": 0.5, "val_acc": 0.5}
    costs = {"seconds": 3.5, "images_per_second": 9.5, "peak_memory_mib": 300}
    for number in (0, 1):
        (run / f"fold{number}").mkdir(exist_ok=True)
        (run / f"fold{number}/fold.json").write_text(
            json.dumps({"fold": number, "epochs": 3, "weights_sha256": "0" * 64, **row, **costs})
        )
        (run / f"fold{number}/eval.csv").write_bytes((run / "eval.csv").read_bytes())
        (run / f"fold{number}/eval.json").write_text(json.dumps({"weights_sha256": "0" * 64, "images": "1"}))
    (run / "folds.csv").write_text("path,fold\na,0\nb,1\n")
    scores = {
        "name": "a",
        "target": "gender",
        "kfold": 2,
        "folds": [{"fold": 0, **row}, {"fold": 1, **row}],
        "oof_f1": 0.5,
        "oof_acc": 0.5,
    }
    (run / "summary.json").write_text(json.dumps(scores | {"oof_f1_ci95": [0.4, 0.6], **costs}))
    (run / "lb.json").write_text(json.dumps({"lb": 0.7, "history": [{"lb": 0.7, "recorded": "2020-01-01"}]}))
    (run / "eval.json").write_text(json.dumps({"folds": [0, 1], "tta": "none"}))
    (run / "oof_hflip.csv").write_bytes((run / "oof.csv").read_bytes())
    (run / "oof_hflip.json").write_text(json.dumps({"weights_sha256": {"0": "0" * 64, "1": "0" * 64}}))
    (run / "mistakes.png").touch()
    (root / "sweep.txt").write_text("a: --quiet\n")

    def swept():
        (job,) = sweep.make_jobs(sweep.read_plan(root / "sweep.txt"), [1], run.parent)
        job.check()
        return job.is_finished, job.command()

    def listed(folder):
        return lambda: leaderboard.read_record(folder)

    def is_record(record):
        return (
            str(record.options)
            and record.target in dataset.TARGETS
            and 0 <= (record.oof_f1 or 0) <= 1
            and 0 <= (record.lb or 0) <= 1
        )

    uses = {
        "args.yaml leaderboard": (listed(run), is_record),
        "args.yaml resume": (
            lambda: options.parse_args(["--resume", str(run)]),
            lambda found: found.lr > 0 and found.epochs > 0,
        ),
        "args.yaml sweep": (swept,),
        "summary.json leaderboard": (listed(run), is_record),
        "summary.json sweep": (swept,),
        "lb.json leaderboard": (listed(run), is_record),
        "fold0/fold.json leaderboard": (listed(run), is_record),
        "fold0/fold.json folds": (lambda: predictions.select_folds(run, "best"),),
        "fold0/fold.json summary": (lambda: predictions.write_summary(run, "gender", 0),),
        "eval.json folds": (lambda: predictions.made_of(run),),
        "fold1/eval.json predictions": (lambda: predictions.fold_tables(run, "gender", [0, 1], "none"),),
        "oof_hflip.json predictions": (lambda: predictions.oof_is_fresh(run, "hflip"),),
    }
    readers = {name: Reader(name.split()[0].rpartition(".")[2], run / name.split()[0], *use) for name, use in uses.items()}
    mix = root / "submissions" / "mix"
    mix.mkdir(parents=True)
    members = [{"run": str(run), "target": "gender", "folds": [0], "weight": 1}]
    (mix / "recipe.yaml").write_text(yaml.safe_dump({"method": "soft", "age_bounds": [30, 60], "members": members}))
    (mix / "score.json").write_text(json.dumps({"oof_f1": 0.5, "oof_acc": 0.5, "oof_f1_ci95": [0.4, 0.6]}))
    no_people = pd.DataFrame({"path": [], "id": []})
    return readers | {
        "recipe.yaml leaderboard": Reader("yaml", mix / "recipe.yaml", listed(mix)),
        "recipe.yaml pseudo": Reader("yaml", mix / "recipe.yaml", lambda: inference.find_runs(mix), lambda found: all(Path(name).resolve().is_relative_to(root) for name in found)),
        "score.json leaderboard": Reader("json", mix / "score.json", listed(mix)),
        "score.json advice": Reader("json", mix / "score.json", lambda: ensemble.scored_folders(mix.parent)),
        "args.yaml label noise": Reader("yaml", run / "args.yaml", lambda: report.applied_fixes(report.read_evidence([str(run)]), no_people)),
    }  # fmt: skip


def binary_readers(root):
    """Weights, saved states, caches and pictures."""
    torch.manual_seed(0)
    net = model.create("test_resnet", "mask", (32, 24))
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    metadata = {"model": "test_resnet", "target": "mask", "img_size": [32, 24], "crop": None, "face_crop": None, "epoch": 3}
    metadata |= {"mean": [0.5] * 3, "std": [0.25] * 3, "options": {"memory_format": "contiguous", "lr": 0.1}}
    best, backbone, pickled = root / "best.safetensors", root / "backbone.safetensors", root / "backbone.pth"
    best.write_bytes(safetensors.torch.save(state, metadata={"experiment": json.dumps(metadata)}))
    backbone.write_bytes(safetensors.torch.save(state, metadata={"format": "pt"}))
    torch.save({"model": state}, pickled)
    fit = make_fit()
    (root / "fold0").mkdir()
    torch.save(fit.state_dict(), root / "fold0" / "last.pt")

    def resumed():
        engine.restore_state(fit, engine.load_state(root, 0), root / "fold0" / "last.pt")
        return fit

    for name in ("a.png", "b.png"):
        (root / name).write_bytes(b"no image")
    paths, geometry = [root / "a.png", root / "b.png"], Geometry(4, 4)
    key = images.cache_key(paths, geometry)
    np.save(root / f"{key}.npy", np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3))
    (root / f"{key}.json").write_text(json.dumps({"geometry": str(geometry), "images": 2, "bad": [[1, "b.png: not readable"]]}))

    def cached():
        return images.open_cache(paths, geometry, root, skip_bad=True)

    def is_cache(found):
        return found[0].shape == (2, 4, 4, 3) and found[0].dtype == np.uint8 and set(found[1]) <= {0, 1} and found[0].sum() >= 0

    rates = {"off channels_last": 1.0, "bf16 contiguous": 2.5}
    measured = root / "precision.json"
    measured.write_text(json.dumps({"images_per_second": rates}))
    readers = {
        "best.safetensors": Reader("safetensors", best, lambda: model.load(best), lambda found: found[1]["model"] == "test_resnet"),
        "backbone.safetensors": Reader("safetensors", backbone, lambda: model.load_backbone(net, backbone)),
        "backbone.pth": Reader("pickle", pickled, lambda: model.load_backbone(net, pickled)),
        "last.pt": Reader("pickle", root / "fold0" / "last.pt", resumed, lambda found: isinstance(found.finished, bool)),
        "cache .npy": Reader("bytes", root / f"{key}.npy", cached, is_cache),
        "cache .json": Reader("json", root / f"{key}.json", cached, is_cache),
        "precision .json": Reader("json", measured, lambda: hardware.read_rates(measured, list(rates)), lambda found: max(found, key=found.get)),
    }  # fmt: skip
    pictures = {kind: damaged.whole(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
    pictures |= {
        "EXIF": damaged.turned(6),
        "deep PNG": damaged.deep_rgb(),
        "animated WEBP": damaged.animated("WEBP", lossless=True),
    }
    for kind, content in pictures.items():
        file = root / f"{kind}.jpg"
        file.write_bytes(content)

        def shown(file=file):
            return images.decode(file, Geometry(16, 12)), images.open_rgb(file)

        readers[f"{kind} image"] = Reader(
            "bytes", file, shown, lambda found: found[0].shape == (16, 12, 3) and found[1].mode == "RGB"
        )
    return readers


TABLES = [
    "train.csv",
    "info.csv",
    "submission.csv",
    "oof.csv",
    "eval.csv",
    "eval.csv of ages",
    "folds.csv",
    "log.csv",
    "pseudo.csv",
    "label fixes",
    "sweep.txt",
]
RUNS = ["args.yaml leaderboard", "args.yaml resume", "args.yaml sweep", "summary.json leaderboard", "summary.json sweep", "lb.json leaderboard",
        "fold0/fold.json leaderboard", "fold0/fold.json folds", "fold0/fold.json summary", "eval.json folds", "fold1/eval.json predictions",
        "oof_hflip.json predictions", "recipe.yaml leaderboard", "recipe.yaml pseudo", "score.json leaderboard", "score.json advice", "args.yaml label noise"]  # fmt: skip
BINARIES = ["best.safetensors", "backbone.safetensors", "backbone.pth", "last.pt", "cache .npy", "cache .json", "precision .json",
            *(f"{kind} image" for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "EXIF", "deep PNG", "animated WEBP"))]  # fmt: skip


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    makers = (table_readers, run_readers, binary_readers)
    found = {name: reader for make in makers for name, reader in make(tmp_path_factory.mktemp(make.__name__)).items()}
    assert list(found) == [*TABLES, *RUNS, *BINARIES]
    for reader in found.values():
        assert reader.holds(reader.read())
    return found


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 20, database=None, suppress_health_check=list(HealthCheck)
)
@given(st.data())
def check(reader, data):
    whole = reader.file.read_bytes()
    by_structure = BY_STRUCTURE.get(reader.kind, changed_bytes)(whole)
    content = data.draw(by_structure | changed_bytes(whole))
    reader.file.write_bytes(content)
    try:
        assert reader.holds(reader.read())
    except InputError as error:
        assert one_line(error).isprintable() and str(error)
    finally:
        reader.file.write_bytes(whole)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*TABLES, *RUNS, *BINARIES])
def test_a_damaged_file_is_read_or_refused_in_one_line(name, readers, monkeypatch):
    monkeypatch.chdir(readers[name].file.parents[1 if name != "recipe.yaml pseudo" else 2])
    check(readers[name])
