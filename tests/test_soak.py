"""Memory over 50 epochs in a row: the first command of the README, whose process must not grow.

python -m pytest tests/test_soak.py -m slow -s
"""

import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROWTH = 1.02  # of the last ten epochs over the first ten


def resident_mib(process):
    """What a process holds of the memory now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


@pytest.mark.slow
def test_memory_does_not_grow_over_fifty_epochs(tmp_path):
    options = ["--loss", "focal", "--optimizer", "AdamP", "--kfold", "5", "--epochs", "10", "--patience", "0", "--quiet"]
    argv = [sys.executable, str(ROOT / "train.py"), *options]
    with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        sizes = [resident_mib(process) for line in process.stderr if re.match(r"\d \(\d/5\) +\d+/10 ", line)]
    assert process.returncode == 0 and len(sizes) == 50
    first, last = statistics.mean(sizes[:10]), statistics.mean(sizes[-10:])
    print(f"resident memory: {first:.1f} MiB in the first ten epochs, {last:.1f} MiB in the last ten, {last / first - 1:+.2%}")
    assert last < GROWTH * first
