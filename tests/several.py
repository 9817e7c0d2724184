"""Several processes of one training within a test, without torchrun: seconds less, as nothing is imported again."""

import multiprocessing
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

import distributed


def _work(rank, world, folder, work, results):
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        result = work(distributed.Ranks(rank, world, torch.device("cpu"), store))
    except BaseException as error:  # SystemExit too: how a process ends is what some tests look at
        result = (type(error).__name__, str(error))
    results.put((rank, result))
    results.close()
    results.join_thread()


def run(work, world=2):
    """[what `work(ranks)` returns, or (name of its error, message)] of `world` processes; numpy and plain values only.

    They are forked, so `work` may be any function; where a GPU forbids that it must be a module's own.
    """
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_work, args=(rank, world, Path(folder), work, results)) for rank in range(world)]
        for process in processes:
            process.start()
        found = dict(results.get(timeout=100) for _ in processes)
        for process in processes:
            process.join()
    return [found[rank] for rank in range(world)]
