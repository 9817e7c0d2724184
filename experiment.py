"""The run folder: its name, its files, how they are read, locked and put together from those of its folds.

Each fold's folder is complete by itself (best.safetensors, log.csv, oof.csv, fold.json when done); log.csv, oof.csv and
summary.json of the run are made from the folds that are there, so folds may come from several processes or machines.
"""

import contextlib
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from types import NoneType

import pandas as pd
import yaml

import errors
import files
from dataset import HEADS
from errors import InputError, did_you_mean

LOG_COLUMNS = ["fold", "epoch", "lr", "train_loss", "val_loss", "val_f1", "val_acc", "seconds", "images_per_second"]
# What others than train.py go by in args.yaml, and what a complete fold's fold.json holds.
ARGS = {"kfold": int, "data_dir": str, "finish_on_all": int, "label_fixes": (str, NoneType), "fix_confidence": (int, float)}
FOLD = {
    "fold": int,
    "best_epoch": int,
    "epochs": int,
    "val_f1": (*files.NUMBER, NoneType),
    "val_acc": (*files.NUMBER, NoneType),
    "seconds": files.NUMBER,
    "images_per_second": files.NUMBER,
    "peak_memory_mib": files.NUMBER,
    "weights_sha256": str,
}
NAME = re.compile(r"(?:(?P<number>\d+)|quick)-(?P<recipe>.+)-v(?P<revision>\d+)-(?P<target>[a-z_]+?)_(?:\d+fold|nofold)")
# Options that change where and how fast a run is made, not what it learns.
PLACES = {"name", "output_dir", "cache_dir", "cache_device", "device", "save_minutes", "quiet", "threads", "resume", "fold",
          "keep_state", "parallel_folds"}  # fmt: skip
SPLIT = {"kfold", "fold_seed", "memory_format", "compile"}  # these neither, or nothing but rounding: no revision of their own


# ---- names and folders ---------------------------------------------------------------------------------------------


def recipe_name(optimizer, scheduler, loss_code):
    """'AdamP-StepLR-FL': what an experiment's number stands for."""
    return f"{optimizer}-{scheduler}-{loss_code}"


def next_name(output_dir, recipe, args):
    """(the next free name for a new run of the options `args`, a dict; the run of the very same options that is there or None).

    The log's scheme: NN-Optimizer-Scheduler-LOSS-vM-target_5fold. NN numbers the combinations of optimizer x scheduler x loss
    in order of their first appearance, from 01; M counts the revisions of its hyper-parameters for this target, from 0: a
    run that differs from those of vM by nothing but SPLIT is vM too, where that folder is free. Quick looks (--limit-people)
    have "quick" in place of NN and revisions of their own.
    """
    target, kfold, is_quick = args["target"], args["kfold"], args["limit_people"] is not None
    matches = [match for entry in _folders(output_dir) if (match := NAME.fullmatch(entry))]
    numbers = {match["recipe"]: int(match["number"]) for match in matches if match["number"]}
    number = "quick" if is_quick else f"{numbers.get(recipe, max(numbers.values(), default=0) + 1):02d}"
    found = {}
    for match in matches:
        if (match["number"] is None, match["recipe"], match["target"]) == (is_quick, recipe, target):
            found[match[0]] = int(match["revision"])
    options = {name: _options_there(Path(output_dir) / name) for name in found}
    again = next((name for name, there in options.items() if _learn_the_same(there, args)), None)
    others = {found[name] for name, there in options.items() if not _learn_the_same(there, args, SPLIT)}
    for revision in [*sorted({*found.values()} - others), max(found.values(), default=-1) + 1]:
        name = f"{number}-{recipe}-v{revision}-{target}_{f'{kfold}fold' if kfold else 'nofold'}"
        if name not in found:
            return name, again


def _options_there(folder):
    """The options of a run, {} where they can't be read: then it is like no other."""
    with contextlib.suppress(InputError):
        return read_args(folder)
    return {}


def _learn_the_same(one, other, besides=()):
    """Whether two runs' options (dicts) are equal but for PLACES and those named in `besides`."""
    if "kfold" in besides and not (one.get("kfold") and other.get("kfold")):
        besides = {*besides, "patience"}  # it does nothing without validation

    def learnt(args):
        kept = {name: value for name, value in args.items() if name not in {*PLACES, *besides}}
        return json.dumps(kept | {"data_dir": os.path.realpath(args.get("data_dir", ""))}, sort_keys=True, default=str)

    return learnt(one) == learnt(other)


def _folders(directory):
    directory = Path(directory)
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir()) if directory.is_dir() else []


def check_free(output_dir, name):
    """InputError when the name that was given to a new folder (None: none) is no folder name, or is taken."""
    check_name(name)
    folder = Path(output_dir) / (name or "")
    if name is not None and folder.exists():
        resume = f" or --resume {shlex.quote(str(folder))}" if (folder / "args.yaml").is_file() else ""
        raise InputError(f"{folder}: exists and is never overwritten; choose another --name{resume}")


def make_folder(output_dir, name, next_name, fill):
    """Make a folder that is there complete or not at all, and return its path; `fill(folder, name)` writes what is in it.

    `name` None: what `next_name()` says. Nothing that exists is overwritten: of two processes that make the same name at once
    one gets the next, or an InputError if that name was given.
    """
    output_dir = Path(output_dir)
    while True:
        check_free(output_dir, name)
        folder = files.make_dir(output_dir, "--output-dir") / (name or next_name())
        inside = output_dir / f".{folder.name}.{os.getpid()}.tmp"
        try:
            inside.mkdir()
            with files.held(inside, ""):
                _remove_dead(output_dir, folder.name)
                fill(inside, folder.name)
                os.rename(inside, folder)
            return folder
        except files.DiskError as error:
            raise files.DiskError(str(error).replace(str(inside), str(folder))) from error
        except OSError as error:
            if not folder.is_dir():  # else made by another process since
                raise files.failure(folder, error) from error
        finally:
            shutil.rmtree(inside, ignore_errors=True)


def _remove_dead(output_dir, name):
    """Remove what `make_folder` left of this name in processes that were killed: nobody holds it."""
    for leftover in output_dir.glob(f".{glob.escape(name)}.*.tmp"):
        with contextlib.suppress(InputError), files.held(leftover, ""):
            shutil.rmtree(leftover, ignore_errors=True)


def next_number(output_dir, kind):
    """The next free NN-kind among the folders of a directory."""
    numbers = [int(found[1]) for entry in _folders(output_dir) if (found := re.match(r"(\d+)-", entry))]
    return f"{max(numbers, default=0) + 1:02d}-{kind}"


def check_name(name):
    """InputError unless `name` (None: not given) is a plain folder name."""
    if name is not None and (name == "" or name.startswith(".") or "/" in name or not name.isprintable()):
        raise InputError(f"--name {name!r}: must be a plain folder name; the place goes into --output-dir")
    if name is not None and re.fullmatch(r".*:(best|fold\d+)", name):
        raise InputError(f"--name {name}: reads as a fold of a run {name.rpartition(':')[0]}; take another one")


def find_run(path):
    """The Path of an existing run folder, ending in its name; InputError with suggestions from beside it when it is none.

    What lies in a run, such as RUN/args.yaml, RUN/fold0 or RUN/fold0/last.pt, stands for it.
    """
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


def write_args(run, args, command):
    """args.yaml: every option as resolved (a dict), under a comment with the exact command (a list of words)."""
    _write_args(run, args, f"# {shlex.join(command)}")


def change_args(run, **changed):
    """Give options in args.yaml other values; the comment with the command that began the run stays."""
    with errors.reading(run / "args.yaml"):
        comment = (run / "args.yaml").read_text(encoding="utf-8").partition("\n")[0]
    _write_args(run, {**read_args(run), **changed}, comment)


def _write_args(run, args, comment):
    files.write_text(run / "args.yaml", f"{comment}\n{yaml.safe_dump(args, sort_keys=False, allow_unicode=True)}")


def read_args(run):
    """The options of a run (a dict), those that others than train.py go by checked."""
    path = Path(run) / "args.yaml"
    args = files.read_yaml(path, "copy the run again, or train it anew")
    if args.get("target") not in list(HEADS):  # whatever stands there, a list too
        raise InputError(f"{path}: not the options of a run (no valid target)")
    files.check_kinds(path, args, {name: kind for name, kind in ARGS.items() if name in args})
    for name, value in args.items():
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{path}: {name} is {value!r:.100}; no option holds a zero byte")
    kfold = args.get("kfold", 0)
    if kfold < 0 or kfold == 1:
        raise InputError(f"{path}: kfold is {kfold!r}; it takes 0, 2 or more")
    return args


def summed_folds(run):
    """The numbers of the folds that summary.json of a run holds."""
    path = Path(run) / "summary.json"
    rows = files.read_json(path, folds=list)["folds"]
    for row in rows:
        files.check_kinds(path, row if isinstance(row, dict) else {}, {"fold": int})
    return [row["fold"] for row in rows]


def read_recipe(folder):
    """recipe.yaml of an ensemble: a dict whose `members` are dicts that name a `run`; InputError when it is none."""
    path = Path(folder) / "recipe.yaml"
    recipe = files.read_yaml(path, "make the ensemble again")
    members = recipe.get("members", [])
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise InputError(f"{path}: not a recipe of ensemble.py (its members are no list of mappings)")
    for member in members:
        files.check_kinds(path, member, {"run": str})
        weight = member.get("weight")
        parts = weight if isinstance(weight, dict) else {"weight": weight}
        files.check_kinds(path, parts, dict.fromkeys(parts, (NoneType, *files.NUMBER)))
    return recipe


def read_folds(run):
    """folds.csv of a run: DataFrame path, fold (int); InputError names the line that has no fold."""
    path = Path(run) / "folds.csv"
    table = files.read_csv(path, ("path", "fold"))
    for line, fold in zip(table[files.LINE], table["fold"]):
        if fold != "-1" and files.whole(fold) is None:
            raise InputError(f"{path}, line {line}: fold {fold!r} is not a whole number from -1 on")
    files.check_once(path, table, "path")
    return table[["path"]].assign(fold=[-1 if fold == "-1" else files.whole(fold) for fold in table["fold"]])


def validated_people(run):
    """[number, digest] of the people in validation, whatever their folds: equal for runs that are scored on the same people."""
    folds = read_folds(run)
    names = sorted(folds["path"][folds["fold"] >= 0])
    return [len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]]


def read_log(path):
    """A log.csv; InputError when it is damaged."""
    files.read_csv(path, LOG_COLUMNS)  # what it can't read is told there
    try:
        table = pd.read_csv(path).rename(columns=str.strip)
        return table.astype({name: int if name in ("fold", "epoch") else float for name in LOG_COLUMNS})
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a readable log ({error})") from error


# ---- folds ---------------------------------------------------------------------------------------------------------


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


@contextlib.contextmanager
def fold_lock(run, fold):
    """Make a fold's folder where there is none and hold it; what a killed process left half-written there goes."""
    folder = fold_dir(run, fold)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise files.failure(folder, error) from error
    with files.locked(folder):
        _sweep(folder)
        yield


def _sweep(folder):
    """Remove what killed processes left half-written; only for the holder of the folder's lock."""
    for leftover in Path(folder).glob(".*.tmp*"):
        files.remove(leftover)


def sweep_run(run):
    """Remove what killed processes left half-written in a run's own folder, when nobody is writing there."""
    with files.locked(run, wait=True):
        _sweep(run)


def check_not_trained(run, folds):
    """InputError when another process is training one of these folds of a run."""
    done = done_folds(run)
    for fold in folds:
        if fold not in done and fold_dir(run, fold).is_dir():
            with files.locked(fold_dir(run, fold)):
                pass


def fold_numbers(args):
    """The folds that a command trains; a nofold run has one, 0."""
    return args.fold or list(range(max(args.kfold, 1)))


def missing(run, args, folds):
    """Those of `folds` that are not complete in a run."""
    done = done_folds(run)
    return [fold for fold in folds if fold not in done or not is_complete(args, done[fold])]


def untouched(run, folds):
    """Those of `folds` that have no step of training behind them in a run."""
    done = done_folds(run)
    return [fold for fold in folds if fold not in done and not (fold_dir(run, fold) / "last.pt").exists()]


def done_folds(run):
    """{fold: fold.json} of the folds that are complete, in order."""
    found = {}
    for name in _folders(run):
        if re.fullmatch(r"fold\d+", name) and (Path(run) / name / "fold.json").exists():
            found[int(name[4:])] = files.read_json(Path(run) / name / "fold.json", **FOLD)
    return dict(sorted(found.items()))


def is_complete(args, facts):
    """Whether a fold with this fold.json has nothing left to train: all its --epochs are done, or --patience has ended it."""
    return facts["epochs"] >= args.epochs or 0 < args.patience <= facts["epochs"] - facts["best_epoch"]


def write_log(run, fold, rows):
    """Write a fold's log.csv and the run's, from all folds that have one."""
    files.write_csv(fold_dir(run, fold) / "log.csv", pd.DataFrame(rows, columns=LOG_COLUMNS))
    with files.locked(run, wait=True):
        logs = {int(name[4:]): Path(run) / name / "log.csv" for name in _folders(run) if re.fullmatch(r"fold\d+", name)}
        found = [read_log(path) for _fold, path in sorted(logs.items()) if path.exists()]
        files.write_csv(Path(run) / "log.csv", pd.concat(found))


def finish_fold(run, fold, facts, keep_state=False):
    """Mark a fold complete: fold.json with `facts` and the digest of its weights; the resume state goes unless it is kept."""
    digest = files.file_digest(weights_file(run, fold))
    files.write_json(fold_dir(run, fold) / "fold.json", {**facts, "weights_sha256": digest})
    drop_state(run, fold, keep_state)


def drop_state(run, fold, keep_state=False):
    """Remove the state of a complete fold, if it is there: a kill may have come between its fold.json and this."""
    if not keep_state:
        files.remove(fold_dir(run, fold) / "last.pt")


def reopen_fold(run, fold):
    """A fold that is trained on is not complete any more, nor is what kept it from that; see fold.tell_not_finite."""
    for name in ("fold.json", "not_finite.txt"):
        files.remove(fold_dir(run, fold) / name)


# ---- environment ------------------------------------------------------------------------------------------------------

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "pillow", "safetensors")
GIT_SECONDS = 10  # until git has to answer, as of a clone on a slow drive


def _version(package):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # as of one that lies on the path alone
        return importlib.metadata.version(package)


def _git(*words):
    """What git writes (bytes, as it names files in any encoding) for the folder of the scripts, or None where it can't.

    Their clone is read whoever owns it: its code runs already. That holds for this folder alone, not for one above.
    """
    folder = Path(__file__).parent.resolve()
    command = ["git", "-c", f"safe.directory={folder}", "--no-optional-locks", *words]
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _commit():
    """(commit, whether the code differs from it) of the scripts; None for what is not known, as of an export without .git.

    Untracked files are code where they end in .py: results and data that lie in the clone change nothing.
    """
    if _git("ls-files", "--error-unmatch", "--", Path(__file__).name) is None:
        return None, None  # no git, no clone, or one of something else, in which an export lies
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "-z", "--untracked-files=normal", "--", ".")
    changes = [entry for entry in (status or b"").split(b"\0") if entry and (entry[:2] != b"??" or entry.endswith(b".py"))]
    return commit and commit.decode().strip(), None if status is None else bool(changes)


def environment(device):
    """Versions, git commit, `device` (in words) and start time, as a JSON-able dict."""
    commit, dirty = _commit()
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": commit,
        "git_dirty": dirty,
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
    if files.read_json(Path(run) / "env.json")["data_sha256"] != data:
        raise InputError(
            f"{run}: its images, their sizes or their labels are not those that it began with, so it can't go on to the same "
            "end; put them back, or begin a new run"
        )


def check_weights(run, weights):
    """InputError when `weights` (None: no file) is not what it was when the run began: folds would start from other ones."""
    if weights and files.read_json(Path(run) / "env.json")["weights_sha256"] != files.file_digest(weights):
        raise InputError(f"--weights {weights}: changed since {run} began with it; put that file back, or begin a new run")
