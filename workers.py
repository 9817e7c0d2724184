"""Processes on all cores, for work that Python's lock would keep threads of one process from doing side by side.

They are forked where the system does that well (Linux), as those of torch's DataLoader are, so they start within milliseconds
and none may use a GPU or several threads of torch; elsewhere they are spawned, so what they get must be picklable.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import errors

START = "fork" if sys.platform == "linux" else "spawn"


@contextlib.contextmanager
def results(doing, count, work, jobs):
    """The results of work(job) for each of `jobs` in their order, as an iterator, from `count` processes; with one of them, or
    none, from this process.

    The iterator raises whatever `work` raises. On leaving, what has not begun is dropped and what has is waited for.
    InputError, with `doing` as what was done, when a process is killed.
    """
    if count < 2:
        yield map(work, jobs)
        return
    pool = ProcessPoolExecutor(count, multiprocessing.get_context(START), _begin, (work,))
    try:
        with errors.signals_blocked():  # for the processes, which start with the first job
            found = pool.map(_do, jobs)
        yield found
    except BrokenProcessPool as error:
        raise errors.InputError(f"{doing}: one of its processes was killed; out of memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(work):
    """Of each process, started with all signals blocked: those that ask to stop are the parent's alone, even when they go to
    its whole group, and a parent's death ends it at once (on Linux).
    """
    global _work
    os.setpgid(0, 0)
    errors.ignore_signals()  # one that has come by now goes
    errors.on_parents_death(signal.SIGKILL)()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, errors.EXIT_CODES)
    if os.getppid() != multiprocessing.parent_process().pid:  # it died before that
        os._exit(1)
    _work = work


def _do(job):
    return _work(job)
