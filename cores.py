"""How many CPU cores this process may use: fewer than the machine has where a scheduler such as SLURM gives it a part."""

import os


def usable():
    """The number of cores, at least 1; where the system does not tell a process's own, all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
