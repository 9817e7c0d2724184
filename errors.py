"""What goes wrong by a user's hand, and how it is told: exit code 2 and one line on stderr, never a traceback."""

import contextlib
import ctypes
import difflib
import errno
import os
import re
import signal
import sys

WIDTH = 100  # characters of a line for the user, but for whole names and commands
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_PORT")  # its numbers
PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal for when the parent dies
OUT_OF_MEMORY = (  # the words of torch's errors that have no type of their own: a CPU's, a GPU's pinned memory, its libraries'
    "DefaultCPUAllocator: can't allocate",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
# errno of what a file's name or content is to blame for, as a seek to a place that none is; all else may pass.
OF_FILES = (None, errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGHUP: 129}


class InputError(ValueError):
    """Bad input or misuse. The message is one line: the file or option, the value found, and what would do."""


class Unreadable(InputError):
    """The system can't read a file just now, which says nothing about what it holds."""


class Interrupted(BaseException):
    """A signal asked the program to stop and its state is saved. `code` is the exit code, the message the way back.

    Like KeyboardInterrupt no Exception: a library that a signal finds within its `except Exception` would swallow it.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def did_you_mean(name, known):
    """' Did you mean "AdamP"?' for a misspelt name, or '' when nothing known is near."""
    by_lower = {str(option).lower(): str(option) for option in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(by_lower[option] for option in near)}?" if near else ""


def one_line(text):
    """A text in one line, its unprintable characters as Python writes them: a file's name or content moves no cursor."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(str(text).split()))


def first_line(error):
    """The first line of what an exception says; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def names_a_file(error):
    """Whether an error of the system names the file that it is about, so that one line tells all."""
    return isinstance(error, OSError) and isinstance(error.filename, (str, bytes, os.PathLike))


def about_file(error):
    """What an error that `names_a_file` says, in one line."""
    again = "" if error.errno in OF_FILES else "; try again"
    return f"{one_line(os.fsdecode(error.filename))}: {error.strerror}{again}"


def unreadable(path, error):
    """The Unreadable of a file when an exception is, or hides, the system's word that it can't be read now; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno not in OF_FILES:
            way = "make it readable and try" if isinstance(error, PermissionError) else "try"
            return Unreadable(f"{path}: can't be read now ({error.strerror}); {way} again")
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def reading(path):
    """While this holds, an error that is the system's word that a file can't be read now is an Unreadable."""
    try:
        yield
    except Exception as error:
        if passing := unreadable(path, error):
            raise passing from error
        raise


def is_there(path):
    """Whether a file is there; Unreadable where the system can't say, which Path.exists takes for no since Python 3.14."""
    try:
        with reading(path):
            os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_out_of_memory(error):
    """Whether an exception is Python's or torch's word that memory ran out, for which torch has a type only in part."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY))


def compile_advice(error):
    """What to say of an exception by which torch.compile tells that it could not; None of any other."""
    if not any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__):
        return None
    return f"--compile: {first_line(error)}; torch.compile needs a C++ compiler; leave --compile out where it can't do without"


def say(text):
    """A line for the user on stderr, at once. Where nobody can read it, as a closed pipe's or on a full disk, work goes on."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what is still in the buffer has to go somewhere


class Output:
    """stdout, on which work goes on where nobody can read it, as a closed pipe's or on a full disk. `lost`: why, "" for a pipe
    whose reader has seen enough; None while all is well."""

    def __init__(self, stream):
        self.stream, self.lost = stream, None

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        with self._lossy():
            return self.stream.write(text)

    def flush(self):
        with self._lossy():
            self.stream.flush()

    @contextlib.contextmanager
    def _lossy(self):
        try:
            yield
        except OSError as error:
            self.lost = "" if isinstance(error, BrokenPipeError) else error.strerror
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # for what is still in the buffer too


def begin():
    """Prepare a script's process, before the modules are imported that take seconds.

    Closed standard streams lead to os.devnull, letters that stdout can't encode become ?, a signal ends the process in one
    line, and no variable of the environment that is meant for other programs changes or stops this one.
    """
    open_streams()
    leave_on_signals()
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}  # figures look alike everywhere, and need no window
    for name in [name for name in os.environ if name.startswith("TQDM_")]:  # settings of others' progress bars
        del os.environ[name]
    sys.excepthook = start_again_without


def open_streams():
    """Let closed standard streams lead to os.devnull, or the next file that is opened would get their output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (as long as the process)
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's has none
        sys.stdout.reconfigure(errors="replace")


def start_again_without(kind, error, trace):
    """Start this process again without the variables of the environment that an import has failed over, such as
    TIMM_FUSED_ATTN=true, which timm takes for a number; sys.excepthook until the script's work begins."""
    words = re.findall(r"\w+", str(error))
    names = [name for name, value in os.environ.items() if repr(value) in str(error) or ("_" in name and name in words)]
    if not names or not isinstance(error, ValueError):
        sys.__excepthook__(kind, error, trace)
        return
    for name in names:
        say(f"{name}={os.environ.pop(name)}: a library can't read it ({first_line(error)}); goes on without it")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def leave_on_signals():
    """From here on a signal ends this process at once, in one line."""

    def leave(number, _frame):
        if not under_torchrun() or os.environ["RANK"] == "0":
            _say_amid(f"stopped by {signal.Signals(number).name}")
        os._exit(EXIT_CODES[number])

    on_signals(leave)


def on_signals(handler):
    """Let `handler` meet the signals that ask to stop; SIGHUP only where it stops a process at all, so not under nohup."""
    for number in EXIT_CODES:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def under_torchrun():
    """True in a process that torchrun has started. Schedulers and containers set some of its variables, as WORLD_SIZE, too."""
    return "TORCHELASTIC_RUN_ID" in os.environ and all(os.environ.get(name, "").isdecimal() for name in TORCHRUN)


def _say_amid(text):
    """`say` from within a signal handler, whose signal may have come in the middle of another line's writing."""
    with contextlib.suppress(RuntimeError):
        say(text)


def ignore_signals():
    """From here on no signal stops this process, which is about to end."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)


def on_parents_death(number):
    """What a new process calls to get this signal when its parent dies. (Only Linux can do so; elsewhere nothing happens.)"""
    libc, linux = ctypes.CDLL(None), sys.platform == "linux"  # before a fork, after which no library may be opened
    return lambda: linux and libc.prctl(PR_SET_PDEATHSIG, number)


@contextlib.contextmanager
def signals_blocked():
    """Processes started under this never see the signals that ask to stop: the parent does, and hands the request on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_tracker(method=None):
    """Start multiprocessing's resource tracker so that no signal ends it, if what starts processes by `method` uses one.

    method: None is Python's own on this system, which a progress bar's lock goes by. Without this the tracker lives through
    SIGINT and SIGTERM alone, and who misses it says so by warnings and tracebacks.
    """
    import multiprocessing  # not at the top: it takes longer than all the rest, and no signal is caught as yet
    from multiprocessing import resource_tracker

    if (method or multiprocessing.get_all_start_methods()[0]) != "fork":
        with signals_blocked():
            resource_tracker.ensure_running()


class StopSignals:
    """SIGINT, SIGTERM, SIGHUP and SIGUSR1 (a scheduler's warning) as a request that is met where nothing is half-done.

    Outside of `deferred()` a signal raises Interrupted at once; inside it sets `requested` (the exit code) and the loop
    that polls it stops at its next safe point, at the latest when `deferred()` ends. A second signal leaves at once; but no
    SIGHUP, and none under torchrun, which hands on a signal that a scheduler may have sent to all processes already, and
    kills what is there 30 seconds later.
    """

    def __init__(self):
        self.requested = 0
        self._by = ""
        self._defer = False
        on_signals(self._on_signal)
        start_tracker()

    def _on_signal(self, number, _frame):
        code = EXIT_CODES[number]
        if self.requested and (number == signal.SIGHUP or under_torchrun()):  # an ssh that closes sends two
            return
        if self.requested:
            os._exit(code)
        self.requested, self._by = code, signal.Signals(number).name
        if not self._defer:
            raise Interrupted(code, f"stopped by {self._by}")
        _say_amid(f"{self._by}: saving the state, then leaving (again: leave at once)")

    @contextlib.contextmanager
    def deferred(self):
        """While this holds, signals only set `requested`; Interrupted when it ends with one that nobody met."""
        self._defer = True
        try:
            yield
        finally:
            self._defer = False
        if self.requested:
            raise Interrupted(self.requested, f"stopped by {self._by}")


def run(main):
    """Run a script's `main()` as a process: its return value is the exit code, an InputError becomes exit code 2, and so do an
    error of the system that names a file and memory that runs out. So does a stdout that can't be written, once all is done.

    A signal leaves `main` by Interrupted, so that its half-written files go; train.py and sweep.py meet signals their own way.
    """
    StopSignals()
    sys.excepthook = sys.__excepthook__
    out = sys.stdout = Output(sys.stdout)
    try:
        code = _run(main)
    finally:
        out.flush()
        sys.stdout = out.stream
    if out.lost:
        say(f"error: stdout: can't be written ({out.lost}): what was printed is lost, the files that it tells of are not")
        return code or 2
    return code


def _run(main):
    """`run`, but for stdout."""
    try:
        return main()
    except InputError as error:
        say(f"error: {one_line(error)}")
        return 2
    except OSError as error:
        if not names_a_file(error):
            raise
        say(f"error: {about_file(error)}")
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = one_line(first_line(error))
        say(f"error: out of memory ({said}); a smaller --batch-size, where the command has it, takes less")
        return 2
    except Interrupted as stop:
        say(stop)
        return stop.code
    except KeyboardInterrupt:
        say("stopped by SIGINT")
        return 130
