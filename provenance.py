"""What a run began with, in its env.json: versions, commit and machine; digests of its data and of the weights it starts from.

A run goes on from what it began with or not at all, as it would come to another end.
"""

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


def _version(package):
    """The version of the module that is at work, if it is imported; to look packages up on the disk takes 20 ms."""
    module = sys.modules.get(MODULES.get(package, package))
    return getattr(module, "__version__", None) or importlib.metadata.version(package)


def environment(device):
    """Versions, git commit, `device` (in words) and start time, as a JSON-able dict."""

    def git(*words):
        try:
            done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
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
