"""What a run began with, in its env.json: versions, commit and machine; digests of its data and of the weights it starts from.

A run goes on from what it began with or not at all, as it would come to another end.
"""

import contextlib
import importlib.metadata
import platform
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import experiment
import mappings
from errors import InputError

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "pillow", "safetensors")
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}  # of packages that have another name
GIT_SECONDS = 10  # until git has to answer, as of a clone on a slow drive


def _version(package):
    """The version of the module that is at work, if it is imported; to look packages up on the disk takes 20 ms.

    None where neither tells it, as of a package that lies on the path without being installed.
    """
    module = sys.modules.get(MODULES.get(package, package))
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return getattr(module, "__version__", None) or importlib.metadata.version(package)


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


def write(run, device, data, weights=None):
    """env.json of a run: the `environment` in which it was started, and the digests of its `data` and of the file `weights`."""
    started_from = {} if weights is None else {"weights_sha256": experiment.file_digest(weights)}
    experiment.write_json(run / "env.json", environment(device) | {"data_sha256": data} | started_from)


def check_data(run, data):
    """InputError when the digest `data` is not what it was when the run began: its steps would be of other images."""
    path = Path(run) / "env.json"
    if path.exists() and mappings.read_json(path).get("data_sha256", data) != data:  # of an older version: none
        raise InputError(
            f"{run}: its images, their sizes or their labels are not those that it began with, so it can't go on to the same "
            "end; put them back, or begin a new run"
        )


def check_weights(run, weights):
    """InputError when `weights` (None: no file) is not what it was when the run began: folds would start from other ones."""
    path = Path(run) / "env.json"
    if weights is None or not path.exists():
        return
    began = mappings.read_json(path).get("weights_sha256")  # of an older version: none
    if began not in (None, experiment.file_digest(weights)):
        raise InputError(f"--weights {weights}: changed since {run} began with it; put that file back, or begin a new run")
