"""Several folds of a run trained at once on one device, each in a process of its own, and when that pays.

A fold is a pure function of its options and the number of CPU threads, so each ends in the same bits as if it had trained
alone. The processes share the image cache's file. They are asked to stop through shared memory, not by signals, so that the
state is saved once whichever of them a signal reaches, and they stop by themselves when the process that started them dies.
"""

import copy
import multiprocessing
import shlex
import signal
import threading
import time
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

import torch

import distributed
import engine
import errors
import files
import fold
import images
import model
import precision
from distributed import Ranks
from errors import InputError, Interrupted
from images import choose_place

START = "spawn"  # a CUDA context or OpenMP threads do not live through a fork
POLL_SECONDS = 0.2
BATCH, ROUNDS, STEPS = 8, 2, 3  # of the measurement: images a step, rounds over the candidates, steps a round


class _Asked:
    """What fold.train_fold polls for a stop: the parent's request, or that there is no parent any more."""

    def __init__(self, code):
        self.code, self.parent = code, multiprocessing.parent_process()

    @property
    def requested(self):
        return self.code.value or (0 if self.parent.is_alive() else errors.EXIT_CODES[signal.SIGTERM])


def _work(args, run, data, pixels, place, device, numbers, taken, code, outcome):
    """A process of `train_folds`: train one fold after another that nobody has taken; tells how it ended, then ends."""
    engine.keep_freed_memory()
    engine.use_threads(args.threads)
    stop = _Asked(code)
    try:
        ranks = Ranks(0, 1, distributed.pick_device(device))
        data.store = images.ImageStore(images.read_array(*pixels), ranks.device, place)
        while not stop.requested:
            with taken.get_lock():
                number, taken.value = taken.value, taken.value + 1
            if number >= len(numbers):
                return
            fold.train_missing(args, run, data, numbers[number], ranks, stop)
    except (InputError, Interrupted) as error:
        outcome.put((type(error).__name__, str(error)))
    except OSError as error:
        if not (told := errors.about_file(error)):
            raise
        outcome.put(("InputError", f"{told}; --resume {shlex.quote(str(run))} goes on"))
    except (RuntimeError, MemoryError) as error:
        if advice := errors.compile_advice(error):
            outcome.put(("InputError", advice))
            return
        if not errors.is_out_of_memory(error):
            raise
        text = f"--batch-size {args.batch_size}: out of memory on {device} with --parallel-folds {args.parallel_folds}"
        outcome.put(("InputError", f"{text}; --resume {shlex.quote(str(run))} --parallel-folds 1 goes on with one at a time"))


def train_folds(args, run, data, numbers, device, stop):
    """Train the folds `numbers` of a run, `args.parallel_folds` at once; the arguments are those of fold.train_missing.

    When one process fails the others save their state and stop, and its error is raised: InputError, also for one that was
    killed. Interrupted when `stop` was requested.
    """
    with errors.signals_blocked():
        resource_tracker.ensure_running()  # of the locks below
    context = multiprocessing.get_context(START)
    taken, code, outcome = context.Value("i", 0), context.Value("i", 0), context.SimpleQueue()
    data.store.leave_device()
    distributed.give_back(device)
    images, at_once = data.store.images, min(args.parallel_folds, len(numbers))
    place = choose_place(args.cache_device, device, at_once * images.nbytes)
    pixels = (images.filename, images.dtype, images.shape)
    task = (args, run, replace(data, store=None), pixels, place, str(device), numbers, taken, code, outcome)
    workers = [context.Process(target=_work, args=task) for _ in range(at_once)]
    with errors.signals_blocked():
        for worker in workers:
            worker.start()
    running = {worker.sentinel: worker for worker in workers}
    while running:
        for sentinel in wait(running, POLL_SECONDS):
            worker = running.pop(sentinel)
            worker.join()  # its end of the pipe closes a little before its exit code is known
            if worker.exitcode or not outcome.empty():
                code.value = code.value or errors.EXIT_CODES[signal.SIGTERM]
        code.value = code.value or stop.requested
    ended = []
    while not outcome.empty():
        ended.append(outcome.get())
    for kind, message in ended:
        if kind != "Interrupted":
            raise {"DiskError": files.DiskError, "Unreadable": errors.Unreadable}.get(kind, InputError)(message)
    for worker in workers:
        if worker.exitcode:
            how = f"signal {-worker.exitcode}; out of memory?" if worker.exitcode < 0 else f"exit code {worker.exitcode}"
            on = f"--resume {shlex.quote(str(run))} goes on"
            raise InputError(f"a process that trained a fold died ({how}); the others are stopped, {on}")
    if stop.requested:
        raise Interrupted(stop.requested, "; ".join(message for _kind, message in ended) or "stopped between two folds")


def choose(net, name, img_size, batch_size, device, cache_dir, amp, folds, cores, threads):
    """(how many folds to train at once, CPU threads of each) for `--parallel-folds auto`, measured with copies of `net`.

    On a CPU: measured once, with one, two, and as many at once as there are folds or cores (cores / `threads`, if given);
    more must be clearly faster than fewer, as they cost memory and rounding follows the threads of each. On a GPU: two where
    twice the batch takes less than one and a half times as long, so that one fold leaves the GPU idle.
    """
    if device.type == "cuda":
        at_once = 2 if folds > 1 and _leaves_idle(copy.deepcopy(net), img_size, batch_size, amp, device) else 1
        distributed.give_back(device)
        errors.say(f"parallel folds: {at_once} (measured)")
        return at_once, threads or cores // at_once
    most = max(min(folds, cores // (threads or 1)), 1)
    candidates = sorted({1, min(2, most), most})
    if most == 1:
        return 1, threads or cores
    batch = min(batch_size, BATCH)

    def measure():
        return {str(n): _rate_at_once(net, n, threads or cores // n, img_size, batch, amp) for n in candidates}

    key = (name, *img_size, batch, amp, str(model.layout(net)), candidates, cores, threads)
    rates, told = precision.measured_once(cache_dir, "parallel", key, list(map(str, candidates)), measure)
    chosen = int(precision.clearly_fastest(rates, list(rates)))
    listed = ", ".join(f"{n} at once {rate:.3g} images/s" for n, rate in rates.items())
    errors.say(f"parallel folds: {chosen} ({listed}; {told})")
    return chosen, threads or cores // chosen


def _step(net, images, amp):
    dtype = model.AMP_DTYPES[amp]
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        logits = net(images)
    logits.float().square().mean().backward()


def _rate_at_once(net, at_once, threads, img_size, batch, amp):
    """Images/s of forward and backward of `at_once` copies of a model together, each on `threads` CPU threads."""
    images = torch.randn(batch, 3, *img_size).contiguous(memory_format=model.layout(net))
    ready, seconds, failed = threading.Barrier(at_once), [[] for _ in range(at_once)], []

    def train(model, mine):
        torch.set_num_threads(threads)  # of this Python thread alone
        try:
            _step(model, images, amp)
            for _round in range(ROUNDS):
                ready.wait()
                started = time.perf_counter()
                for _ in range(STEPS):
                    _step(model, images, amp)
                mine.append(time.perf_counter() - started)
        except threading.BrokenBarrierError:  # of another copy that failed, or of a signal
            pass
        except Exception as error:
            failed.append(error)
            ready.abort()

    before = torch.get_num_threads()
    models = [threading.Thread(target=train, args=(copy.deepcopy(net), mine)) for mine in seconds]
    try:
        for thread in models:
            thread.start()
        for thread in models:
            thread.join()
    finally:
        ready.abort()  # when a signal ends this no thread begins another round, for whose end Python would wait
    torch.set_num_threads(before)  # part of that setting is not a thread's own
    if failed:
        raise failed[0]
    return at_once * batch * STEPS / min(map(max, zip(*seconds)))  # a round lasts as long as its slowest


def _leaves_idle(net, img_size, batch_size, amp, device):
    """Whether a GPU takes less than one and a half times as long for twice the batch, and has room for it."""
    try:
        best = _seconds_of_steps(net, img_size, batch_size, amp, device)
    except torch.OutOfMemoryError:
        return False
    return best[2 * batch_size] < 1.5 * best[batch_size]


def _seconds_of_steps(net, img_size, batch_size, amp, device):
    """{images a step: seconds of the fastest on a GPU}, of a batch and of twice as many."""
    best = {}
    for batch in (batch_size, 2 * batch_size):
        images = torch.zeros(batch, 3, *img_size, device=device).contiguous(memory_format=model.layout(net))
        seconds = []
        for _ in range(ROUNDS * STEPS):
            torch.cuda.synchronize(device)
            started = time.perf_counter()
            _step(net, images, amp)
            torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - started)
        best[batch] = min(seconds)
    return best
