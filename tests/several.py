"""Several processes of one training within a test, without torchrun: seconds less, as nothing is imported again."""

import multiprocessing
import os
import socket
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

import hardware


def _work(rank, world, folder, work, results):
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        result = work(hardware.Ranks(rank, world, torch.device("cpu"), store))
    except BaseException as error:  # SystemExit too: how a process ends is what some tests look at
        result = (type(error).__name__, str(error))
    results.put((rank, result))
    results.close()
    results.join_thread()


def context():
    """How processes start: forked, unless a GPU forbids it."""
    return multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def environment(world, rank=0):
    """What torchrun would tell the process `rank` of `world` on this box."""
    numbers = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_WORLD_SIZE": 1, "RANK": rank, "LOCAL_RANK": rank}
    named = {"MASTER_ADDR": "localhost", "MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "none"}
    return {name: str(value) for name, value in (numbers | named).items()}


def _main(main, argv, environment):
    os.environ.update(environment)
    sys.exit(main(argv))


def main(main, argv, world=2):
    """The exit codes of a script's `main(argv)` in `world` processes that find what torchrun would tell them."""
    port, processes = str(free_port()), []
    for rank in range(world):
        told = environment(world, rank) | {"MASTER_PORT": port}
        processes.append(context().Process(target=_main, args=(main, argv, told)))
        processes[-1].start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def run(work, world=2):
    """[what `work(ranks)` returns, or (name of its error, message)] of `world` processes; numpy and plain values only.

    They are forked, so `work` may be any function; where a GPU forbids that it must be a module's own.
    """
    results = context().Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [context().Process(target=_work, args=(rank, world, Path(folder), work, results)) for rank in range(world)]
        for process in processes:
            process.start()
        found = dict(results.get(timeout=100) for _ in processes)
        for process in processes:
            process.join()
    return [found[rank] for rank in range(world)]
