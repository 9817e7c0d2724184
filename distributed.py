"""Several processes training one model (torchrun): who am I, and the few things that all must agree on.

What they tell each other goes over the CPU (gloo), so that nothing waits for a GPU; only what lies on one goes over nccl.
"""

import contextlib
import gc
import os
import queue
import threading
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist

import errors
from errors import InputError, Interrupted, first_line, ignore_signals

MEETING_SECONDS = 300  # how long processes wait for each other at the start; torchrun starts them side by side
QUIET_SECONDS = 5  # of them, until a line says so
DEVICE_TYPES = ("cpu", "cuda", "mps")  # torch knows more, on some of which, as meta, a tensor holds nothing


@dataclass(frozen=True)
class Ranks:
    """This process's number, the number of processes, and its device. One process is rank 0 of 1.

    `store` is torchrun's, which outlives any of its processes; None for one process.
    """

    rank: int
    world: int
    device: torch.device
    store: dist.Store | None = None

    @property
    def first(self):
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def share(self, rows):
        """This process's part of rows that all processes hold alike."""
        return rows[self.rank :: self.world]

    def any(self, flag):
        """The largest `flag` (int) of all processes."""
        if self.world == 1:
            return flag
        value = torch.tensor(flag)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return int(value)

    def from_first(self, value):
        """Rank 0's value (anything that pickles; it comes from our own process group) in every process."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def unshare(self, part, total):
        """The rows [total, ...] whose `share` each process holds a part of, in every process."""
        if self.world == 1:
            return part
        parts = [None] * self.world
        dist.all_gather_object(parts, part)
        whole = np.empty((total, *parts[0].shape[1:]), dtype=part.dtype)  # of few rows only the first ranks have any
        for rank, rows in enumerate(parts):
            if len(rows):
                whole[rank :: self.world] = rows
        return whole

    def whole(self, part):
        """The tensor [B, ...] whose `share` each process holds, in every process; gradients go to its own part alone."""
        if self.world == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.world)]
        dist.all_gather(parts, part.detach())
        parts[self.rank] = part
        return torch.stack(parts, 1).flatten(0, 1)

    def same_buffers(self, module):
        """Give every process rank 0's buffers of a module: without it each keeps the running statistics of its own images."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wait(self):
        """Until every process is here."""
        self.any(0)

    @contextlib.contextmanager
    def one_first(self):
        """What this holds is done by the first process of each box alone; then the others come, and find its files."""
        first_here = self.world == 1 or os.environ["LOCAL_RANK"] == "0"
        if not first_here:
            self.wait()
        yield
        if first_here:
            self.wait()

    def on(self, device_name):
        """The same with the device of `--device`; of several processes each takes the GPU of its number on its box."""
        name = device_name or ("cuda" if torch.cuda.is_available() else "cpu")
        if self.world > 1 and name.startswith("cuda:"):
            raise InputError(
                f"--device {name}: of several processes each takes the GPU of its own number; give --device cuda, and in front "
                "of torchrun CUDA_VISIBLE_DEVICES to choose among the GPUs"
            )
        if self.world > 1 and name == "cuda":
            name = f"cuda:{os.environ['LOCAL_RANK']}"
        return replace(self, device=pick_device(name))

    @contextlib.contextmanager
    def together(self):
        """While this holds, losing another process is an Interrupted: it was killed, or ended with an error of its own."""
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise Interrupted(1, "another process of this training was killed or failed") from error

    @contextlib.contextmanager
    def one_voice(self):
        """While this holds, several processes sound like one: only rank 0 talks, and an error is told by the first to have it.

        Processes with the same error, and those that merely lost the one that had it, end without a word.
        """
        if self.world == 1:
            yield
            return
        with contextlib.ExitStack() as stack:
            stack.callback(ignore_signals)  # torchrun sends one to a process that is leaving already
            if not self.first:
                stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
            try:
                with self.together():
                    yield
            except (InputError, OSError):
                if self.store.add("errors told", 1) > 1:
                    raise SystemExit(2) from None
                raise
            except Interrupted as stopped:
                if not self.first:
                    raise SystemExit(stopped.code) from None
                raise


ALONE = Ranks(0, 1, torch.device("cpu"))


def pick_device(name):
    """The torch device of `--device`; None means a GPU if there is one. InputError when it can't be had.

    A numbered GPU becomes the one that torch means when it is not told which.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type not in DEVICE_TYPES:
            raise RuntimeError(f"nothing can be computed on {device.type}")
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        possible = "cpu, cuda and cuda:N are possible" if torch.cuda.is_available() else "there is no GPU here, so only cpu is"
        raise InputError(f"--device {name}: can't be used here ({first_line(error)}); {possible}") from error
    return device


def describe(device):
    """A device in words: the GPU's name, or how many CPU threads torch uses."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def synchronise(device):
    """Wait until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def give_back(device):
    """Leave a device's memory that nothing holds any more to others; a GPU's peak is that of what comes now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def world_size():
    """The number of processes that torchrun started to train together; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if errors.under_torchrun() else 1


def launcher():
    """The words before train.py in the command of this process; where the boxes of several meet is left to the user."""
    if world_size() == 1:
        return ["python"]
    boxes = int(os.environ["GROUP_WORLD_SIZE"])
    return ["torchrun", *(["--nnodes", str(boxes)] if boxes > 1 else []), "--nproc_per_node", os.environ["LOCAL_WORLD_SIZE"]]


def join():
    """Ranks of this process, on the CPU as yet, from torchrun's environment; joins the process group when there are several.

    InputError when the others don't come. They are met in a thread, as signals would have to wait for torch's call to end.
    """
    if world_size() == 1:
        if (told := os.environ.get("WORLD_SIZE", "1")) != "1":
            errors.say(f"WORLD_SIZE={told} is ignored: this process trains alone, as torchrun did not start it")
        return ALONE
    place, met = "{MASTER_ADDR}:{MASTER_PORT}".format(**os.environ), queue.SimpleQueue()
    thread = threading.Thread(target=_meet, args=(met,), daemon=True)
    thread.start()
    thread.join(QUIET_SECONDS)
    if thread.is_alive():
        errors.say(f"waits at {place} for the others of WORLD_SIZE={world_size()} processes, {MEETING_SECONDS} s at most")
        thread.join(MEETING_SECONDS)
    if thread.is_alive():
        raise InputError(f"WORLD_SIZE={world_size()}: not all of these processes came to {place} in {MEETING_SECONDS} s")
    ranks = met.get()
    if isinstance(ranks, Exception):
        raise InputError(f"MASTER_ADDR, MASTER_PORT: processes can't meet at {place} ({first_line(ranks)})") from ranks
    return ranks


def _meet(met):
    """Put into the queue `met` the Ranks of this process when it has joined the others, or the error that kept it from them."""
    try:
        store, rank, world = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
        met.put(Ranks(rank, world, torch.device("cpu"), store))
    except Exception as error:
        met.put(error)


def finish():
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
