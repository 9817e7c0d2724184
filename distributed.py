"""Several processes training one model (torchrun): who am I, and the few things that all must agree on."""

import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process's number, the number of processes, and its device. One process is rank 0 of 1."""

    rank: int
    world: int
    device: torch.device

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
        value = torch.tensor(flag, device=self.device)
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
        whole = np.empty((total, *part.shape[1:]), dtype=part.dtype)
        for rank, rows in enumerate(parts):
            whole[rank :: self.world] = rows
        return whole

    def mean(self, value):
        """The mean of a scalar tensor over the processes."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def wait(self):
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()


def pick_device(name):
    """The torch device of `--device`; None means a GPU if there is one. InputError when it can't be had."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: can't be used here ({reason}); cpu, cuda and cuda:N are possible") from error
    return device


def describe(device):
    """A device in words: the GPU's name, or how many CPU threads torch uses."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def world_size():
    """The number of processes that torchrun started to train together; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start(device_name):
    """Ranks of this process, from torchrun's environment; joins the process group when there are several."""
    world = world_size()
    if world == 1:
        return Ranks(0, 1, pick_device(device_name))
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available() if device_name is None else device_name.startswith("cuda")
    device = pick_device(f"cuda:{local_rank}" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    return Ranks(int(os.environ["RANK"]), world, device)


def finish():
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
