"""The run folder: its name, its locks, args.yaml, env.json, and its folds.

Each fold's folder is complete by itself, so folds may come from several machines; the run's files are made from those there.
"""

import contextlib
import glob
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections import namedtuple
from datetime import datetime
from pathlib import Path

import pandas as pd
import yaml

import errors
import files
from dataset import HEADS, SCORED_AS
from errors import InputError, did_you_mean

LOG_COLUMNS = ["fold", "epoch", "lr", "train_loss", "val_loss", "val_f1", "val_acc", "seconds", "images_per_second"]
FOLD = ("fold", "best_epoch", "epochs", "val_f1", "val_acc", "seconds", "images_per_second", "peak_memory_mib")  # of fold.json
NAME = re.compile(r"(?:(?P<number>\d+)|quick)-(?P<recipe>.+)-v(?P<revision>\d+)-(?P<target>[a-z_]+?)_(?:\d+fold|nofold)")
# Options that change where and how fast a run is made, not what it learns.
PLACES = {"name", "output_dir", "cache_dir", "cache_device", "device", "save_minutes", "quiet", "threads", "resume", "fold",
          "config", "note", "keep_state", "parallel_folds", "dry_run"}  # fmt: skip
# Nor do these but for rounding and the draw of folds: no difference where runs are compared.
NOT_LEARNT = PLACES | {"fold_seed", "data_dir", "memory_format", "compile", "grad_checkpointing", "auto_batch"}
# These neither, or nothing but rounding: no revision of their own.
SPLIT = {"kfold", "fold_seed", "memory_format", "compile", "grad_checkpointing"}
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "pillow", "safetensors")  # of env.json
# Of a Record; `forecast` is of its LB:
FIELDS = "folder is_run target scored_as kfold options folds oof_f1 oof_f1_ci95 oof_acc seconds lb people note forecast"
GIT_SECONDS = 10  # until git has to answer, as of a clone on a slow drive


def next_name(output_dir, recipe, args):
    """(the next free name for a new run of the options `args`, a dict; the run of the very same options that is there or None).

    NN-Optimizer-Scheduler-LOSS-vM-target_5fold: NN numbers optimizer x scheduler x loss, from 01, "quick" for --limit-people;
    M is the revision for this target, from 0, which runs share that differ by nothing but SPLIT."""
    target, kfold, is_quick = args["target"], args["kfold"], args["limit_people"] is not None
    matches = [match for entry in _folders(output_dir) if (match := NAME.fullmatch(entry))]
    numbers = {match["recipe"]: int(match["number"]) for match in matches if match["number"]}
    number = "quick" if is_quick else f"{numbers.get(recipe, max(numbers.values(), default=0) + 1):02d}"
    revisions, options = {}, {}
    for match in matches:
        if (match["number"] is None, match["recipe"], match["target"]) == (is_quick, recipe, target):
            revisions[match[0]], options[match[0]] = int(match["revision"]), {}
            with contextlib.suppress(InputError):  # options that can't be read are like no other
                options[match[0]] = read_args(Path(output_dir) / match[0])
    again = next((name for name, there in options.items() if _learn_the_same(there, args)), None)
    others = {revisions[name] for name, there in options.items() if not _learn_the_same(there, args, SPLIT)}
    for revision in [*sorted({*revisions.values()} - others), max(revisions.values(), default=-1) + 1]:
        name = f"{number}-{recipe}-v{revision}-{target}_{f'{kfold}fold' if kfold else 'nofold'}"
        if name not in revisions:
            return name, again


def _learn_the_same(one, other, besides=frozenset()):
    """True where two runs' options (dicts) are equal but for PLACES and those named in `besides`."""
    if "kfold" in besides and not (one.get("kfold") and other.get("kfold")):
        besides = {*besides, "patience"}  # it does nothing without validation

    def learnt(args):
        args = {"min_lr": 0.0, "same_people": None} | args  # older runs lack it
        kept = {name: value for name, value in args.items() if name not in PLACES | besides}
        return json.dumps(kept | {"data_dir": os.path.realpath(args.get("data_dir", ""))}, sort_keys=True, default=str)

    return learnt(one) == learnt(other)


def _folders(directory):
    return sorted(path.name for path in Path(directory).glob("*/"))


def check_free(output_dir, name):
    """InputError when the name that was given to a new folder (None: none) is no folder name, or is taken."""
    if name is None:
        return
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise InputError(f"--name {name!r}: must be a plain folder name; the place goes into --output-dir")
    if re.fullmatch(r".*:(best|fold\d+)", name):
        raise InputError(f"--name {name}: reads as a fold of a run {name.rpartition(':')[0]}; take another one")
    folder = Path(output_dir) / name
    if folder.exists():
        resume = f" or --resume {shlex.quote(str(folder))}" if (folder / "args.yaml").is_file() else ""
        raise InputError(f"{folder}: exists and is never overwritten; choose another --name{resume}")


def make_folder(output_dir, name, next_name, fill):
    """Make a folder that is there complete or not at all, and return its path; `fill(folder, name)` writes what is in it.
    `name` None: that of `next_name()`, anew if another process takes it; InputError if a name that was given is taken."""
    output_dir = Path(output_dir)
    while True:
        check_free(output_dir, name)
        folder = files.make_dir(output_dir, "--output-dir") / (name or next_name())
        inside = output_dir / f".{folder.name}.{os.getpid()}.tmp"
        try:
            inside.mkdir()
            with files.lock(inside):
                for leftover in output_dir.glob(f".{glob.escape(folder.name)}.*.tmp"):  # of killed processes: nobody holds it
                    with contextlib.suppress(InputError), files.lock(leftover):
                        shutil.rmtree(leftover, ignore_errors=True)
                fill(inside, folder.name)
                os.rename(inside, folder)
            return folder
        except files.DiskError as error:  # by the name that the folder would have had
            raise files.DiskError(str(error).replace(str(inside), str(folder))) from error
        except OSError:
            with files.writing(folder):
                if not folder.is_dir():  # else made by another process since
                    raise
        finally:
            shutil.rmtree(inside, ignore_errors=True)


def next_number(output_dir, kind):
    """The next free NN-kind among the folders of a directory."""
    numbers = [int(match[1]) for entry in _folders(output_dir) if (match := re.match(r"(\d+)-", entry))]
    return f"{max(numbers, default=0) + 1:02d}-{kind}"


def find_run(path):
    """The Path of an existing run folder, ending in its name; what lies in a run, such as RUN/fold0/last.pt, stands for it."""
    run = Path(path)
    run = run.resolve() if run.name in ("", "..") else run
    if (run / "args.yaml").is_file():
        return run
    for place in run.parents[:2] if run.exists() else ():
        if (place / "args.yaml").is_file():
            return place if place.name else place.resolve()
    if run.is_dir():
        raise InputError(f"{run}: not a run of train.py (it holds no args.yaml); python leaderboard.py lists runs")
    near = did_you_mean(run.name, _folders(run.parent)) or " python train.py makes one, python leaderboard.py lists them"
    raise InputError(f"{run}: no such run.{near}")


def write_args(run, args, command=None):
    """args.yaml: every option as resolved (a dict), under a comment with the command, a list of words (None: that in it)."""
    path = run / "args.yaml"
    comment = f"# {shlex.join(command)}" if command else path.read_text(encoding="utf-8").partition("\n")[0]
    files.write_text(path, f"{comment}\n{yaml.safe_dump(args, sort_keys=False, allow_unicode=True)}")


def read_args(run):
    """The options of a run (a dict)."""
    path, remedy = Path(run) / "args.yaml", "copy the run again, or train it anew"
    args = files.read_yaml(path, remedy)
    with errors.reading(path, remedy):
        if args["target"] not in list(HEADS):  # whatever stands there, a list too
            raise ValueError(f"target is {args['target']!r:.100}")
        range(args.get("kfold", 0)), Path(args.get("data_dir", ""))  # of another type they raise
    return args


def read_kept(folder, name, check=str):
    """{name: what leaderboard.py last kept in FOLDER/NAME.json, or None, "history": all of it}; `check` raises ValueError."""
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        return {name: None, "history": []}
    kept = files.read_json(path)
    with errors.reading(path, f"delete it to record the {'score' if name == 'lb' else name} anew"):
        return {name: check(kept[name]), "history": list(kept["history"])}


def keep(folder, name, value, check=str):
    """Keep a value for good in FOLDER/NAME.json, with all earlier ones; returns the last of these or None."""
    with files.lock(folder, wait=True):
        earlier = read_kept(folder, name, check)
        history = [*earlier["history"], {name: value, "recorded": datetime.now().astimezone().isoformat(timespec="seconds")}]
        files.write_json(Path(folder) / f"{name}.json", {name: value, "history": history})
    return earlier[name]


def note_of(folder, options):
    """The note of a run or an ensemble: the last of leaderboard.py --note, or else that of its options; "" where none is."""
    kept = read_kept(folder, "note")["note"]
    return str((options.get("note") if kept is None else kept) or "")


def read_recipe(folder):
    """recipe.yaml of an ensemble: a dict whose `members` are dicts that name a `run`."""
    path, remedy = Path(folder) / "recipe.yaml", "make the ensemble again"
    recipe = files.read_yaml(path, remedy)
    with errors.reading(path, remedy):
        for member in recipe.get("members", []):
            Path(member["run"]), is_used(member)
    return recipe


def is_used(member):
    """False for a member of a recipe that a search has left at weight 0."""
    weight = member.get("weight", 1)
    return any(map(float, weight.values())) if isinstance(weight, dict) else weight is None or float(weight) != 0


class Record(namedtuple("Record", FIELDS)):
    """One run or ensemble. Scores are in 0..1 and None where there are none; `people` is (how many, digest of who); `folds` are
    those of a run that are complete, of an ensemble the members that a search has left in use."""

    @property
    def name(self):
        return self.folder.name


def kind_of(folder):
    """'run', 'ensemble' or None for a folder of something else."""
    if (Path(folder) / "args.yaml").is_file():
        return "run"
    return "ensemble" if (Path(folder) / "recipe.yaml").is_file() else None


def read_record(folder):
    """The Record of a folder; InputError that names a damaged file."""
    folder, is_run = Path(folder), kind_of(folder) == "run"
    path = folder / ("summary.json" if is_run else "score.json")
    summary = files.read_json(path) if path.is_file() else {}
    if not is_run:
        args = read_recipe(folder) | {"target": "label"}
        summary["folds"] = [{"fold": member["run"]} for member in args.get("members", []) if is_used(member)]
    elif summary:
        args = summary["options"] if "options" in summary else read_args(folder)
    else:  # it was stopped
        args, done = read_args(folder), done_folds(folder)
        seconds = sum(fold["seconds"] for fold in done.values())
        summary = {"folds": [{"fold": fold} for fold in done], "seconds": seconds or None}
    people = (summary.get("people") or validated_people(folder) or (0, "")) if is_run else (0, "")
    with errors.reading(path):
        return Record(
            folder, is_run, args["target"], SCORED_AS[args["target"]], int(args.get("kfold", 0)),
            options={str(name): value for name, value in args.items()}, people=(int(people[0]), str(people[1])),
            folds=[fold["fold"] for fold in summary.get("folds", [])],
            oof_f1=number(summary.get("oof_f1")), oof_acc=number(summary.get("oof_acc")),
            oof_f1_ci95=[number(bound) for bound in summary.get("oof_f1_ci95") or []] or None,
            seconds=number(summary.get("seconds"), math.inf), lb=read_kept(folder, "lb", number)["lb"],
            note=note_of(folder, args), forecast=None,
        )  # fmt: skip


def number(value, high=1.0):
    """None or a number from 0 to `high` as it is; ValueError for anything else."""
    if value is not None and not 0 <= value <= high:
        raise ValueError(f"{value} is no number from 0 to {high:g}")
    return value


def folders(directory):
    """The folders of runs and ensembles in a directory, in order of their names."""
    return sorted(path for path in Path(directory).iterdir() if kind_of(path) and not path.name.startswith("."))


def collect(directories, read=read_record, quiet=False):
    """([read(folder)] of all runs and ensembles, number of damaged ones, which are named on stderr unless `quiet`)."""
    records, damaged = [], 0
    for folder in itertools.chain.from_iterable(map(folders, directories)):
        try:
            records.append(read(folder))
        except InputError as error:
            damaged += 1
            if not quiet:
                errors.log(f"error: {errors.one_line(error)}")
    return records, damaged


def scored_records(directory):
    """The Records in a directory with an out-of-fold score, highest first, without damaged ones, which leaderboard.py names."""
    records, _damaged = collect([directory], quiet=True)
    return sorted((one for one in records if one.oof_f1 is not None and one.oof_f1_ci95), key=lambda one: -one.oof_f1)


def find_directories(args):
    """The folders of runs and of ensembles that are there; InputError for one that is given and wrong."""
    directories = []
    for option, given, default in (("runs", args.runs, "runs"), ("--submissions", args.submissions, "submissions")):
        folder = Path(default if given is None else given)
        if given is not None and (kind_of(folder) or not folder.is_dir()):
            raise InputError(f"{option} {given}: is no folder that holds runs or ensembles; give one that does")
        if folder.is_dir() and folder not in directories:
            directories.append(folder)
    return directories


def level_text(value):
    """An option's value as text: '29 59' of a list, 'mask 0.5, gender 1' of a mapping, 'none' of nothing."""
    if isinstance(value, list):
        return " ".join(map(level_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {level_text(one)}" for key, one in value.items()) or "none"
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def read_folds(run):
    """folds.csv of a run: DataFrame path, fold (int)."""
    path = Path(run) / "folds.csv"
    table = files.read_csv(path, ("path", "fold"))
    files.check_once(path, table, "path")
    with errors.reading(path):
        return table[["path"]].assign(fold=table["fold"].astype(int))


def validated_people(run):
    """[number, digest] of the people in validation, whatever their folds; None without folds.csv."""
    if not (Path(run) / "folds.csv").exists():
        return None
    folds = read_folds(run)
    names = sorted(folds["path"][folds["fold"] >= 0])
    return [len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]]


def read_log(path):
    """A log.csv as a DataFrame."""
    table = files.read_csv(path, LOG_COLUMNS)[LOG_COLUMNS].replace("", "nan")
    with errors.reading(path):
        return table.astype({name: int if name in ("fold", "epoch") else float for name in LOG_COLUMNS})


def fold_dir(run, fold):
    """The folder of one fold; a nofold run has fold 0 alone."""
    return Path(run) / f"fold{fold}"


def best_weights(run, fold):
    """The weights of a fold's best epoch, which never saw its validation people."""
    return fold_dir(run, fold) / "best.safetensors"


def weights_file(run, fold):
    """The weights that predict the eval images for a fold: those after --finish-on-all where it has them, else its best."""
    final = fold_dir(run, fold) / "final.safetensors"
    return final if final.exists() else best_weights(run, fold)


def state_file(run, fold):
    """The checkpoint of a fold in training, which --resume needs."""
    return fold_dir(run, fold) / "last.pt"


@contextlib.contextmanager
def fold_lock(run, fold):
    """Make a fold's folder where there is none and lock it."""
    folder = fold_dir(run, fold)
    with files.writing(folder):
        folder.mkdir(exist_ok=True)
    with files.lock(folder):
        files.remove_leftovers(folder)
        yield


def check_not_trained(run, folds):
    """InputError when another process is training one of these folds of a run."""
    for fold in folds:
        if fold_dir(run, fold).is_dir() and fold not in done_folds(run):
            with files.lock(fold_dir(run, fold)):
                pass


def fold_numbers(args):
    """The folds that a command trains; a nofold run has one, 0."""
    return args.fold or list(range(max(args.kfold, 1)))


def missing(run, args, folds):
    """Those of `folds` that are not complete in a run."""
    done = done_folds(run)
    return [fold for fold in folds if fold not in done or not is_complete(args, done[fold])]


def _of_folds(run, name):
    """{fold: path} of the files of this name in the folders of a run's folds, in order."""
    paths = [path for path in Path(run).glob(f"fold*/{name}") if path.parent.name[4:].isdecimal()]
    return dict(sorted((int(path.parent.name[4:]), path) for path in paths))


def done_folds(run):
    """{fold: fold.json} of the folds that are complete, in order."""
    done = {}
    for fold, path in _of_folds(run, "fold.json").items():
        done[fold] = files.read_json(path)
        with errors.reading(path, "delete that folder and train the fold again"):
            for key in FOLD:
                float(0 if key.startswith("val_") and done[fold][key] is None else done[fold][key])
            done[fold]["weights_sha256"].encode()
    return done


def is_complete(args, metadata):
    """True where a fold with this fold.json has nothing left to train by --epochs or --patience."""
    return metadata["epochs"] >= args.epochs or 0 < args.patience <= metadata["epochs"] - metadata["best_epoch"]


def write_log(run, fold, rows):
    """Write a fold's log.csv and the run's, from all folds that have one."""
    files.write_csv(fold_dir(run, fold) / "log.csv", pd.DataFrame(rows, columns=LOG_COLUMNS))
    with files.lock(run, wait=True):
        files.write_csv(Path(run) / "log.csv", pd.concat(map(read_log, _of_folds(run, "log.csv").values())))


def finish_fold(run, fold, metadata, keep_state=False):
    """Mark a fold complete: fold.json with its metadata and the digest of its weights; its state goes unless it is kept."""
    metadata = metadata | {"weights_sha256": files.file_digest(weights_file(run, fold))}
    files.write_json(fold_dir(run, fold) / "fold.json", metadata)
    if not keep_state:
        files.remove(state_file(run, fold))


def _git(*words):
    """Output of git in the folder of the scripts, whoever owns that (a container's user too); None where it fails."""
    folder = Path(__file__).parent.resolve()
    command = ["git", "-c", f"safe.directory={folder}", "--no-optional-locks", *words]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(command, cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
                                       errors="replace", timeout=GIT_SECONDS).strip()  # fmt: skip


def environment(device):
    """Versions, git commit (dirty: code or a template differs; None: git does not know these scripts), device and time."""
    packages = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # as of one that lies on the path alone
            packages[name] = importlib.metadata.version(name)
    known = _git("ls-files", "--error-unmatch", "--", Path(__file__).name) is not None  # no export within another clone
    changes = _git("status", "--porcelain", "--untracked-files=normal", "--", "*.py", "templates") if known else None
    return {
        "python": platform.python_version(),
        "packages": packages,
        "git_commit": _git("rev-parse", "HEAD") if known else None,
        "git_dirty": None if changes is None else bool(changes),
        "device": device,
        "platform": platform.platform(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def write_env(run, device, data, weights=None):
    """env.json of a run: the `environment` in which it was started, and the digests of its `data` and of the file `weights`."""
    started_from = {} if weights is None else {"weights_sha256": files.file_digest(weights)}
    files.write_json(run / "env.json", environment(device) | {"data_sha256": data} | started_from)


def check_data(run, data):
    """InputError when the digest `data` is not what it was when the run began: its steps would be of other images."""
    if files.read_json(run / "env.json").get("data_sha256") != data:
        began = "its images, their sizes or their labels are not those that it began with, so it can't go on to the same end"
        raise InputError(f"{run}: {began}; put them back, or begin a new run")


def check_weights(run, weights):
    """InputError when `weights` (None: no file) is not what it was when the run began: folds would start from other ones."""
    if weights is not None and files.read_json(run / "env.json").get("weights_sha256") != files.file_digest(weights):
        raise InputError(f"--weights {weights}: changed since {run} began with it; put that file back, or begin a new run")
