"""What runs and ensembles came to: options, folds, scores and leaderboard scores, read from their folders.

A folder that holds args.yaml is a run and one that holds recipe.yaml an ensemble; names tell nothing. What was read is kept
in one cache file beside the folders, keyed by the files' inodes, times and sizes, since reading YAML is slow.
"""

import contextlib
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import errors
import experiment
import files
from dataset import SCORED_AS
from errors import InputError, did_you_mean

MARKS = {"args.yaml": "run", "recipe.yaml": "ensemble"}
READ = (*MARKS, "summary.json", "score.json", "folds.csv", "lb.json")
FOLD = re.compile(r"fold(\d+)")
CACHE = ".leaderboard.cache"
FORMAT = 1  # of the cache; another one is read anew


@dataclass
class Record:
    """One run or ensemble. Scores are in 0..1 and None where there are none; `people` is (how many, digest of who)."""

    folder: str
    kind: str
    target: str
    kfold: int = 0
    options: dict = field(default_factory=dict)
    folds: list = field(default_factory=list)
    oof_f1: float | None = None
    oof_f1_ci95: list | None = None
    oof_acc: float | None = None
    seconds: float | None = None
    lb: float | None = None
    people: list | None = None

    @property
    def name(self):
        return Path(self.folder).name

    @property
    def scored_as(self):
        return SCORED_AS[self.target]

    @property
    def is_run(self):
        return self.kind == "run"

    @property
    def is_complete(self):
        """Whether every image of a run was predicted out of fold."""
        return len(self.folds) == self.kfold > 0

    @property
    def members(self):
        """The members of an ensemble as recipe.yaml lists them."""
        return self.options.get("members", [])

    @property
    def used_members(self):
        """The members that have a weight; a search leaves others at 0."""
        weights = [member.get("weight", 1) for member in self.members]
        return [
            member
            for member, weight in zip(self.members, weights)
            if weight is None or (any(weight.values()) if isinstance(weight, dict) else weight)
        ]


# ---- one folder ----------------------------------------------------------------------------------------------------


def kind_of(folder):
    """'run', 'ensemble' or None for a folder of something else."""
    return next((kind for mark, kind in MARKS.items() if (Path(folder) / mark).is_file()), None)


def read_record(folder):
    """(Record of a folder, lines about damaged files that were passed over); InputError without a readable mark."""
    folder, problems = Path(folder), []

    def attempt(read):
        try:
            return read()
        except InputError as error:
            problems.append(str(error))
            return {}

    if kind_of(folder) == "ensemble":
        recipe = _plain(folder / "recipe.yaml", experiment.read_recipe(folder))
        facts = attempt(lambda: _read_scores(folder / "score.json"))
        lb = attempt(lambda: read_lb(folder))
        return Record(str(folder), "ensemble", "label", options=recipe, **facts, **lb), problems
    args = _plain(folder / "args.yaml", experiment.read_args(folder))
    kfold = args.get("kfold", 0)
    folds = {number: attempt(lambda path=path: _read_fold(path)) for number, path in _fold_files(folder)}
    facts = {"seconds": sum(fold.get("seconds", 0.0) for fold in folds.values()) or None}
    facts |= attempt(lambda: _read_scores(folder / "summary.json"))
    known = facts.pop("folds", folds)  # of the summary, as its score is of them; folds that were copied in since are not in it
    done = sorted({number for number in known if number < max(kfold, 1)})
    facts |= {"people": attempt(lambda: _read_people(folder / "folds.csv")) or None}
    lb = attempt(lambda: read_lb(folder))
    return Record(str(folder), "run", args["target"], kfold, args, done, **facts, **lb), problems


def _plain(path, mapping):
    """A YAML file's mapping with values as JSON has them, so that they are the same from the cache."""
    try:
        return json.loads(json.dumps({str(key): value for key, value in mapping.items()}, default=str))
    except (TypeError, ValueError, RecursionError) as error:  # keys that are dates, lists that hold themselves
        raise InputError(f"{path}: not readable ({error})") from error


def _number(value, path, key, high=1.0):
    """`value` as a float in 0..high, or InputError."""
    if isinstance(value, bool) or not isinstance(value, files.NUMBER) or not 0 <= value <= min(high, files.LARGEST):
        raise InputError(f"{path}: {key} is {value!r}; it takes a number from 0 to {high:g}")
    return float(value)


def _read_scores(path):
    """The scores, time and folds in summary.json or score.json; {} without the file (the run was stopped)."""
    if not path.is_file():
        return {}
    found = files.read_json(path)
    facts = {key: _number(found[key], path, key) for key in ("oof_f1", "oof_acc") if found.get(key) is not None}
    bounds = found.get("oof_f1_ci95")
    if bounds is not None:
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise InputError(f"{path}: oof_f1_ci95 is {bounds!r}; it takes two numbers")
        facts["oof_f1_ci95"] = [_number(bound, path, "oof_f1_ci95") for bound in bounds]
    if found.get("seconds") is not None:
        facts["seconds"] = _number(found["seconds"], path, "seconds", float("inf"))
    if "folds" in found:
        rows = found["folds"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("fold"), int) for row in rows):
            raise InputError(f"{path}: folds is no list of folds")
        facts["folds"] = [row["fold"] for row in rows]
    return facts


def _fold_files(folder):
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := FOLD.fullmatch(path.name))]
    return [(number, path / "fold.json") for number, path in found if (path / "fold.json").is_file()]


def _read_fold(path):
    found = files.read_json(path)
    return {"seconds": _number(found.get("seconds", 0.0), path, "seconds", float("inf"))}


def _read_people(path):
    """[how many, digest] of the people in validation, whatever their folds; None where folds.csv is missing."""
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, ValueError) as error:
        raise errors.unreadable(path, error) or InputError(f"{path}: not readable ({error})") from error
    names = sorted(line.rpartition(",")[0] for line in lines if not line.endswith(",-1"))
    return [len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]]


# ---- leaderboard scores --------------------------------------------------------------------------------------------


def read_lb(folder):
    """{"lb": the recorded leaderboard score} of a folder, {} without one; InputError when lb.json is damaged."""
    path = Path(folder) / "lb.json"
    if not path.is_file():
        return {}
    found = files.read_json(path)
    if not isinstance(found.get("history"), list):
        raise InputError(f"{path}: holds no history; delete it to record the score anew")
    return {"lb": _number(found.get("lb"), path, "lb")}


def record_lb(folder, value):
    """Keep a leaderboard score for good in FOLDER/lb.json, with all earlier ones; returns the last of these or None."""
    path = Path(folder) / "lb.json"
    with files.locked(folder, wait=True):
        for leftover in path.parent.glob(".lb.json.*.tmp*"):
            leftover.unlink(missing_ok=True)
        earlier = read_lb(folder).get("lb")
        history = [] if earlier is None else files.read_json(path)["history"]
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        files.write_json(path, {"lb": value, "history": [*history, {"lb": value, "recorded": now}]})
    return earlier


# ---- all folders ---------------------------------------------------------------------------------------------------


def find_record(name, directories, option):
    """The folder that a path or the bare name of a run or ensemble stands for; InputError with suggestions."""
    places = [Path(name), *(Path(directory) / name for directory in directories)]
    found = {os.path.realpath(place): place for place in reversed(places) if kind_of(place)}
    if len(found) > 1:
        raise InputError(f"{option} {name}: stands for {' and '.join(sorted(map(str, found.values())))}; give the folder")
    if not found:
        known = [path.name for directory in directories for path in _folders(directory) if kind_of(path)]
        raise InputError(f"{option} {name}: no such run or ensemble.{did_you_mean(Path(name).name, known)}")
    return next(iter(found.values()))


def _folders(directory):
    """The folders in a directory, hidden ones left out, in order of their names; [] where there is no such directory."""
    if not Path(directory).is_dir():
        return []
    with os.scandir(directory) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def read_all(directory):
    """(records, lines about damaged files, names of other folders) of a directory, from its cache where that is fresh."""
    cached, entries, problems, others = _read_cache(directory), {}, [], []
    for folder in _folders(directory):
        try:
            signature = _signature(folder)
            if not any(name in MARKS for name, *_ in signature):
                others.append(folder.name)
                continue
            entry = cached.get(folder.name)
            if entry is None or entry[0] != signature:
                record, damaged = read_record(folder)
                entry = [signature, {key: value for key, value in asdict(record).items() if key != "folder"}]
                if damaged:  # marked, so that the next listing reads and tells it again
                    problems += damaged
                    signature.append(["damaged"])
            entries[folder.name] = entry
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{folder}: not readable ({error.strerror})")
    if entries != cached:
        _write_cache(directory, entries)
    return [Record(str(Path(directory) / name), **facts) for name, (_, facts) in entries.items()], problems, others


def _signature(folder):
    """[name, inode, time, size] of each file that a record is read from."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in READ or FOLD.fullmatch(entry.name):
                path = entry.path if entry.name in READ else os.path.join(entry.path, "fold.json")
                with contextlib.suppress(OSError):
                    facts = os.stat(path)
                    found.append([entry.name, facts.st_ino, facts.st_mtime_ns, facts.st_size])
    return sorted(found)


def _digest(directory, text):
    """Of a cache's text in this very directory: what it says is taken for granted, and a foreign one might say anything."""
    place = f"{FORMAT} {os.path.realpath(directory)} {os.stat(directory).st_ino}"
    return hashlib.sha256(f"{place}\n{text}".encode(errors="surrogateescape")).hexdigest()


def _read_cache(directory):
    """{folder name: [signature, facts]}; {} where the cache is missing, damaged, of another format, or made elsewhere."""
    try:
        digest, _, text = (Path(directory) / CACHE).read_text(encoding="utf-8").partition("\n")
        return json.loads(text) if digest == _digest(directory, text) else {}
    except (OSError, ValueError):
        return {}


def _write_cache(directory, entries):
    text = json.dumps(entries)
    with contextlib.suppress(InputError):  # a folder that can't be written is listed all the same
        files.write_text(Path(directory) / CACHE, f"{_digest(directory, text)}\n{text}")
