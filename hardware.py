"""The machine: torchrun's processes, device, threads and malloc, --amp auto, --auto-batch, folds in parallel.

Ranks exchange Python values over gloo on the CPU, so that nothing waits for a GPU; only tensors that lie on one go over nccl.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist

import errors
import images
import model
from errors import InputError, Interrupted, first_line

CUDA_12 = "https://download.pytorch.org/whl/cu126"  # the last builds for cards before Turing, and for older drivers
BEFORE_TURING = r"\b(G?V100|[PM]\d+|TITAN [VX]|GTX (9|10)\d\d)"
QUIET_SECONDS, MEETING_SECONDS = 5, 300  # that processes wait for each other at the start: until a line says so, and at most


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, the number of processes (`world`), its device, and torchrun's store, which outlives them."""

    rank: int
    world: int
    device: torch.device
    store: dist.Store | None = None

    @property
    def first(self):
        """Rank 0 writes the files and the log lines."""
        return self.rank == 0

    def shard(self, rows):
        """This rank's part of rows that all ranks hold: every world-th."""
        return rows[self.rank :: self.world]

    def gather(self, shard, total):
        """The numpy rows [total, ...] of all ranks' shards, in every rank."""
        if self.world == 1:
            return shard
        shards = [None] * self.world
        dist.all_gather_object(shards, shard)
        whole = np.empty((total, *shards[0].shape[1:]), dtype=shard.dtype)  # of few rows only the first ranks have any
        for rank, rows in enumerate(shards):
            if len(rows):
                whole[rank :: self.world] = rows
        return whole

    def all_gather_with_grad(self, shard):
        """all_gather of the ranks' shards into a tensor [B, ...]; gradients flow to the local shard only."""
        if self.world == 1:
            return shard
        shards = [torch.empty_like(shard) for _ in range(self.world)]
        dist.all_gather(shards, shard.detach())
        shards[self.rank] = shard
        return torch.stack(shards, 1).flatten(0, 1)

    def all_reduce_max(self, value):
        """The largest `value` (int) of all ranks."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def broadcast(self, value):
        """Rank 0's value (anything that pickles; it comes from our own process group) in every rank."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def broadcast_buffers(self, module):
        """Give every rank rank 0's running statistics of a module."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def barrier(self):
        self.all_reduce_max(0)

    @contextlib.contextmanager
    def local_rank0_first(self):
        """The first rank of each box runs the block alone; then the others run it, and find its files."""
        first_here = self.world == 1 or os.environ["LOCAL_RANK"] == "0"
        if not first_here:
            self.barrier()
        yield
        if first_here:
            self.barrier()

    def on(self, device_name):
        """The same with the device of `--device`; of several ranks each takes the GPU of its local rank."""
        name = device_name or default_device()
        if self.world > 1 and name.startswith("cuda"):
            if name != "cuda":
                remedy = "give --device cuda, and in front of torchrun CUDA_VISIBLE_DEVICES to choose among the GPUs"
                raise InputError(f"--device {name}: of several processes each takes the GPU of its own number; {remedy}")
            name = f"cuda:{os.environ['LOCAL_RANK']}"
        return replace(self, device=pick_device(name))

    @contextlib.contextmanager
    def peers_alive(self):
        """Raise Interrupted where the block loses another rank, which was killed or failed."""
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise Interrupted(1, "another process of this training was killed or failed") from error

    @contextlib.contextmanager
    def only_rank0_reports(self):
        """Only rank 0 logs. The first rank that raises reports the error; those that fail with it, or lost it, are silent."""
        if self.world == 1:
            yield
            return
        with contextlib.ExitStack() as stack:
            stack.callback(errors.on_signals, signal.SIG_IGN)  # torchrun sends one to a process that is leaving already
            if not self.first:
                stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
            try:
                with self.peers_alive():
                    yield
            except (InputError, OSError):
                if self.store.add("errors reported", 1) > 1:
                    raise SystemExit(2) from None
                raise
            except Interrupted as stopped:
                if not self.first:
                    raise SystemExit(stopped.code) from None
                raise


ALONE = Ranks(0, 1, torch.device("cpu"))


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
    """Join torchrun's process group, if there is one; returns the Ranks of this process, still on the CPU.
    InputError when the others don't come. They are met in a thread: a signal would have to wait for torch's call to end."""
    if world_size() == 1:
        if (asked := os.environ.get("WORLD_SIZE", "1")) != "1":
            errors.log(f"WORLD_SIZE={asked} is ignored: this process trains alone, as torchrun did not start it")
        return ALONE
    place, met = "{MASTER_ADDR}:{MASTER_PORT}".format(**os.environ), [TimeoutError(f"not all came in {MEETING_SECONDS} s")]
    thread = threading.Thread(target=_meet, args=(met,), daemon=True)
    thread.start()
    thread.join(QUIET_SECONDS)
    if thread.is_alive():
        errors.log(f"waits at {place} for the others of WORLD_SIZE={world_size()} processes, {MEETING_SECONDS} s at most")
        thread.join(MEETING_SECONDS)
    if isinstance(met[0], Exception):
        problem = f"the {world_size()} processes of WORLD_SIZE can't meet at {place} ({first_line(met[0])})"
        raise InputError(f"MASTER_ADDR, MASTER_PORT: {problem}")
    return met[0]


def _meet(met):
    """Put into the list `met` the Ranks of this process once it has joined the others, or torch's error."""
    try:
        store, rank, world = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
        met[0] = Ranks(rank, world, torch.device("cpu"), store)
    except Exception as error:  # torch has many
        met[0] = error


def finish():
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name):
    """The torch device of `--device`, a numbered GPU as torch's current one; None: a GPU if there is one."""
    name = name or default_device()
    try:
        device = torch.device(name)
        if device.type == "cuda":
            check_card(device)
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        possible = "cpu, cuda and cuda:N are possible" if torch.cuda.is_available() else "there is no GPU here, so only cpu is"
        raise InputError(f"--device {name}: can't be used here ({first_line(error)}); {possible}") from error
    return device


def default_device():
    """'cuda' where torch has a GPU, 'cpu' where none is there; InputError where there is a card that torch can't use."""
    if torch.cuda.is_available():
        return "cuda"
    check_card(None)
    return "cpu"


def check_card(device):
    """InputError with the line that installs what would do, where torch can't use an NVIDIA card: `device`, None: the first."""
    if torch.version.hip or os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's own many lines
            major, minor = torch.cuda.get_device_capability(device)
        served, number = torch.cuda.get_arch_list(), 10 * major + minor
        compiled_later = any(int(re.sub(r"\D", "", arch)) <= number for arch in served if arch.startswith("compute"))
        if compiled_later or any(f"sm_{major}{lower}" in served for lower in range(minor + 1)):
            return
        why = f"has no kernels for sm_{number}"
    except (RuntimeError, AssertionError) as error:
        number, why = None, f"can't use it ({first_line(error).split('. ')[0]})"
    if card := nvidia_card((device and device.index) or 0):
        remedy = f"{install_line(*card, number)}; --device cpu goes on without it"
        raise InputError(f"{', driver '.join(card)}: torch {torch.__version__} {why}; {remedy}")


def nvidia_card(index):
    """[name, driver version] of a card as NVIDIA's driver tells it, without torch; None where there is none."""
    if program := shutil.which("nvidia-smi", path=f"{os.environ.get('PATH', '')}:/usr/lib/wsl/lib"):
        query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader", f"--id={index}"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # it fails where a driver has no card
            return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip().split(", ")
    return None


def install_line(card, driver, number):
    """Say what to do so that torch can use a card with its driver; number: 75 of sm_75, None: torch does not reach it."""
    version = tuple(map(int, driver.split(".")[:2]))
    if version < (525, 60):
        return "update the driver: torch 2.11 and newer need 525.60, 580 is best"
    if number is None and torch.version.cuda and version >= (580 if torch.version.cuda >= "13" else 525, 0):
        return "the driver is new enough; restart the box or its container, and look whether nvidia-smi shows an error"
    if version < (580,) or (number < 75 if number else re.search(BEFORE_TURING, card)):
        return f'pip install --force-reinstall "torch>=2.11,<2.15" torchvision --index-url {CUDA_12}'
    return "pip install --force-reinstall torch torchvision -c constraints.txt"


def describe(device):
    """A device in words: the GPU's name and memory, or the number of CPU threads that torch uses."""
    if device.type != "cuda":
        return f"cpu, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}, {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"


def device_name(device):
    """A device in an error message: 'the CPU', or 'cuda:0, NVIDIA H100'."""
    return "the CPU" if device.type == "cpu" else f"{device}, {describe(device)}"


def synchronise(device):
    """Wait until a GPU has done all that it was given."""
    getattr(torch, device.type).synchronize()


def free_memory(device):
    """Return unused memory to other programs, and count a GPU's peak from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device):
    """The most memory used so far, in MiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def tune_malloc():
    """Tell glibc to keep freed blocks instead of faulting every large tensor in again: up to 1.4x as fast on the CPU."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option in ((-4, 0), (-1, 2**31 - 1), (-2, 512 << 20)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(*option)


def use_threads(count):
    """Let torch use `count` CPU threads (None: as many as it has chosen); returns the number, on which rounding depends."""
    if count is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def resolve_amp(mode, device):
    """'off', 'bf16' or 'fp16' of `--amp`; auto: bf16 or fp16 as the GPU has it, off on a CPU."""
    if mode != "auto":
        return mode
    if device.type != "cuda":
        return "off"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def usual_format(net):
    """'channels_last' where most parameters are convolution kernels (CNNs, not ViTs), else 'contiguous'."""
    kernels = sum(p.numel() for p in net.parameters() if p.ndim == 4)
    return "channels_last" if kernels > 0.5 * sum(p.numel() for p in net.parameters()) else "contiguous"


def choose_precision(args, net, ranks):
    """Resolve --amp auto and --memory-format auto in `args`, in all ranks alike, and put `net` into that format."""
    memory_format = usual_format(net) if args.memory_format == "auto" else args.memory_format
    args.amp, args.memory_format = ranks.broadcast((resolve_amp(args.amp, ranks.device), memory_format))
    net.to(memory_format=model.FORMATS[args.memory_format])


def find_batch_size(args, store, ranks, take_steps):
    """--auto-batch: halve --batch-size and double --accum in `args` until `take_steps()`, which goes by them, fits in memory.
    Before that the image cache leaves the device where nobody asked for it there: smaller batches are not quite the same."""

    def fits_in_memory():
        failed = 0
        try:
            take_steps()
        except (RuntimeError, MemoryError) as error:
            if not errors.is_out_of_memory(error):
                raise
            failed = 1
        free_memory(ranks.device)
        return not ranks.all_reduce_max(failed)

    device, asked = device_name(ranks.device), args.batch_size
    while not fits_in_memory():
        if ranks.all_reduce_max(int(args.cache_device == "auto" and store.place == "device")):
            store.leave_device()
            args.cache_device = "host"
            errors.log(f"auto batch: --batch-size {asked} has no room beside the images, taken: --cache-device host")
        elif args.batch_size % (2 * ranks.world) == 0:
            args.batch_size, args.accum = args.batch_size // 2, args.accum * 2
        else:
            tried = f"out of memory on {device}, and so are its halves down to the smallest"
            raise InputError(f"--batch-size {asked}: {tried}; a smaller --img-size or --model may fit")
    if args.batch_size < asked:
        errors.log(f"auto batch: --batch-size {asked} has no room on {device}, "
                   f"taken: --batch-size {args.batch_size} --accum {args.accum}")  # fmt: skip


def step_advice(error):
    """The line about an exception by which torch tells that it can't compile, or train on one image; None of any other."""
    if any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__):
        remedy = "torch.compile needs a C++ compiler; leave --compile out where it can't do without"
        return f"--compile: {first_line(error)}; {remedy}"
    if "more than 1 value per channel" in str(error):
        return "--batch-size: the model has batch norm, which can't train on one image at a time"


START = "spawn"  # a CUDA context or OpenMP threads do not live through a fork
POLL_SECONDS = 0.2


class _Stop:
    """StopSignals of a fold's process: the parent asks through shared memory; or it died."""

    def __init__(self, code):
        self.code, self.parent = code, multiprocessing.parent_process()

    @property
    def requested(self):
        return self.code.value or (0 if self.parent.is_alive() else errors.EXIT_CODES[signal.SIGTERM])


def train_in_parallel(train_fold, args, run, data, numbers, device, stop):
    """Train the folds `numbers` by `train_fold(args, run, data, number, ranks, stop)`, args.parallel_folds at once.
    Each reads the image cache's file. When one fails the others save their state and stop, and its error is raised."""
    context = multiprocessing.get_context(START)
    data.store.leave_device()
    free_memory(device)
    pixels, at_once = data.store.images, min(args.parallel_folds, len(numbers))
    place = images.choose_place(args.cache_device, device, at_once * pixels.nbytes)
    source = (pixels.filename, pixels.dtype, pixels.shape, place)
    data = SimpleNamespace(**vars(data) | {"store": None})  # which each process opens anew
    with errors.signals_blocked():
        resource_tracker.ensure_running()  # of these locks
        taken, code, outcome = context.Value("i", 0), context.Value("i", 0), context.SimpleQueue()
        task = (train_fold, args, run, data, source, str(device), numbers, taken, code, outcome)
        workers = [context.Process(target=_train_folds, args=task) for _ in range(at_once)]
        for worker in workers:
            worker.start()
    while running := [worker.sentinel for worker in workers if worker.is_alive()]:
        wait(running, POLL_SECONDS)
        if not outcome.empty() or any(worker.exitcode for worker in workers):
            code.value = code.value or errors.EXIT_CODES[signal.SIGTERM]
        code.value = code.value or stop.requested
    ended = []
    while not outcome.empty():
        ended.append(outcome.get())
        if isinstance(ended[-1], Exception):
            raise ended[-1]
    for worker in workers:
        if worker.exitcode:
            how = f"signal {-worker.exitcode}; out of memory?" if worker.exitcode < 0 else f"exit code {worker.exitcode}"
            on = f"--resume {shlex.quote(str(run))} goes on"
            raise InputError(f"a process that trained a fold died ({how}); the others are stopped, {on}")
    if stop.requested:
        raise Interrupted(stop.requested, "; ".join(ended) or "stopped between two folds")


def _train_folds(train_fold, args, run, data, source, device, numbers, taken, code, outcome):
    """A process of `train_in_parallel`: train folds that nobody has taken; an error, or where it stopped, goes to `outcome`."""
    tune_malloc()
    use_threads(args.threads)
    stop, (*pixels, place) = _Stop(code), source
    try:
        ranks = Ranks(0, 1, pick_device(device))
        data.store = images.ImageStore(images.read_array(*pixels), ranks.device, place)
        while not stop.requested:
            with taken.get_lock():
                number, taken.value = taken.value, taken.value + 1
            if number >= len(numbers):
                return
            train_fold(args, run, data, numbers[number], ranks, stop)
    except Interrupted as stopped:
        outcome.put(str(stopped))
    except Exception as error:  # not all of torch's pickle
        if advice := step_advice(error):
            error = InputError(advice)
        elif errors.is_out_of_memory(error):
            error = MemoryError(first_line(error))
        elif not isinstance(error, InputError) and not errors.about_file(error):
            raise
        outcome.put(error)
