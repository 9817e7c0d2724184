"""How long a run takes to its first step, and how much memory its first steps take, as docs/results.md has them.

    python tools/start.py STEPS [options of train.py]

From the call of train.main, so without imports, to the moment when the first batch is there. Stops after STEPS steps; its run
folder is a temporary one.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts lie above

import engine
import hardware
import train
from hardware import ALONE


def main(steps, *options):
    prepare, count, began = engine.make_batch, itertools.count(), time.perf_counter()

    def counted(fit, part, batch):
        number = next(count)
        if number == 0:
            print(f"first step after {time.perf_counter() - began:.2f} s", flush=True)
        if number == int(steps):
            raise KeyboardInterrupt
        return prepare(fit, part, batch)

    engine.make_batch = counted
    with tempfile.TemporaryDirectory() as folder:
        try:
            train.main([*options, "--output-dir", folder, "--quiet"])
        except KeyboardInterrupt:
            print(f"peak memory {hardware.peak_memory_mib(ALONE.device) / 1024:.2f} GiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
