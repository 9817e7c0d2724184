"""User errors and signals: one line on stderr and an exit code, never a traceback; and the command-line parser for that."""

import argparse
import contextlib
import ctypes
import difflib
import errno
import functools
import io
import math
import os
import re
import signal
import sys
import textwrap
from pathlib import Path

WIDTH = 100  # characters of a line for the user, but for whole names and commands
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGHUP: 129}
# In torch's errors without a type of their own: of a CPU, a GPU's pinned memory, its libraries.
OUT_OF_MEMORY = re.compile("DefaultCPUAllocator: can't allocate|CUDA error: out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
TORCHRUN = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_PORT")
# errno of what a file's name or content is to blame for, as a seek to a place that none is; all else may pass.
OF_FILES = (None, errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


class InputError(ValueError):
    """Bad input or misuse. The message is one line: the file or option, the value found, and what would do."""


class Unreadable(InputError):
    """The system can't read a file just now, which says nothing about what it holds."""


class Interrupted(BaseException):
    """A signal asked to stop and the state is saved; `code` is the exit code. A library's `except Exception` lets it pass."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def did_you_mean(name, known):
    """' Did you mean AdamP?' for a name that is misspelt or only begun, or '' when nothing known is near."""
    typed, by_lower = str(name).lower(), {str(option).lower(): str(option) for option in known}
    begun = [option for option in by_lower if typed and option.startswith(typed)]
    near = difflib.get_close_matches(typed, begun or by_lower, n=3, cutoff=0 if begun else 0.5)
    return f" Did you mean {' or '.join(by_lower[option] for option in near)}?" if near else ""


def one_line(text):
    """A text in one line, unprintable characters escaped: a file's name or content moves no cursor."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(str(text).split()))


def first_line(error):
    """The first line of an exception's message; its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def about_file(error):
    """The line about an OSError that names a file; None of any other error."""
    if isinstance(error, OSError) and isinstance(error.filename, (str, bytes, os.PathLike)):
        again = "" if error.errno in OF_FILES else "; try again"
        return f"{one_line(os.fsdecode(error.filename))}: {error.strerror}{again}"


def unreadable(path, error):
    """The Unreadable of a file when an exception is, or hides, an OSError that may pass; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno not in OF_FILES:
            way = "make it readable and try" if isinstance(error, PermissionError) else "try"
            return Unreadable(f"{path}: can't be read now ({error.strerror}); {way} again")
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def reading(path, remedy="copy it again, or make it anew"):
    """Whatever is raised while a file is read and parsed becomes one InputError line that names it, or Unreadable. Only around
    parsing and conversion: our own bugs would be called damage."""
    try:
        yield
    except Exception as error:  # parsers, missing keys, wrong types, bad numbers
        if isinstance(error, InputError) or is_out_of_memory(error):
            raise
        if passing := unreadable(path, error):
            raise passing from error
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{path}: no such file") from error
        if isinstance(error, OSError):
            raise InputError(f"{path}: not readable ({error.strerror}); {remedy}") from error
        said = f"lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{path}: damaged ({one_line(said)}); {remedy}") from error


def is_out_of_memory(error):
    """True for Python's and torch's errors of memory that ran out."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None)


def log(text):
    """Print a line for the user to stderr, at once."""
    with contextlib.suppress(OSError, RuntimeError):  # where nobody can read it; in a signal's handler, amid another line
        print(text, file=sys.stderr, flush=True)


def language():
    """'ko' or 'en', by --lang or else by the locale."""
    locale = next(filter(None, map(os.environ.get, ("FACES_LANG", "LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return "ko" if locale.startswith("ko") else "en"


@functools.cache
def _korean():
    import yaml  # not at the top: English does without

    table = yaml.safe_load((Path(__file__).parent / "templates" / "ko.yaml").read_text(encoding="utf-8"))
    return {text: table[text] for text in sorted(table, key=len, reverse=True)}  # a pattern with more words comes first


def tr(text):
    """A text in the user's language, by templates/ko.yaml, where {} stands for what varies; else as it is."""
    core, table = text.strip(), _korean() if language() == "ko" else {}
    if core in table:
        return text.replace(core, table[core])
    for key, korean in table.items():
        if match := re.fullmatch("(.*?)".join(map(re.escape, key.split("{}"))), core, re.DOTALL):
            return text.replace(core, korean.format(*match.groups()))
    return text


def say(*texts):
    """Print texts, each in the user's language, as one line."""
    print(*map(tr, texts), sep="", flush=True)


def wrap(text, width=WIDTH, **more):
    """Lines of a text by columns of a terminal, of which Hangul takes two."""
    import wcwidth  # not at the top: few scripts wrap

    return (textwrap.wrap if text.isascii() else wcwidth.wrap)(text, width, **more)


def number(kind, allowed, what):
    """An argparse type: `kind` of a text; ArgumentTypeError, "it is `what`", unless `allowed`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not a {'whole number' if kind is int else 'number'}") from None
        if not allowed(value):
            raise argparse.ArgumentTypeError(f"{text} is {what}")
        return value

    return parse


whole_int = number(int, lambda value: True, "")
positive_int = number(int, lambda value: value > 0, "not above 0")
natural_int = number(int, lambda value: value >= 0, "below 0")
positive_float = number(float, lambda value: 0 < value < math.inf, "not a number above 0")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each option's default as one would type it, but none where the data decide it or nothing is set."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default in (argparse.SUPPRESS, []):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


def page(text):
    """argparse type: the name of a page, FILE.html."""
    if Path(text).suffix.lower() not in (".html", ".htm"):
        raise argparse.ArgumentTypeError(f"{text} is not the name of a page, FILE.html")
    return text


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors (one line, no usage), with suggestions for misspelt options."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
        meaning = "Korean or English pages, pictures and closing lines; without it by the locale"
        self.add_argument("--lang", choices=("ko", "en"), help=meaning)

    def error(self, message):
        raise InputError(message)

    def _check_value(self, action, value):
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = did_you_mean(value, action.choices)
            error.message += near and f".{near}"
            raise

    def words(self, args):
        """The words of a command line (None: this process's) with the options' own hyphens where underscores are typed."""
        typed = []
        for word in map(str, sys.argv[1:] if args is None else args):
            name, *value = word.partition("=")
            option = name.replace("_", "-") if word.startswith("--") else name
            typed.append("".join([option, *value]) if option in self._option_string_actions else word)
        return typed

    def parse_args(self, args=None, namespace=None):
        words = self.words(args)
        for word in words:
            if word != word.encode(errors="replace").decode():  # such bytes of a file's name can't be recorded
                self.error(f"{one_line(word)}: is not UTF-8; rename what it names, or give it by a link with another name")
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            if not unknown[0].startswith("-"):
                self.error(f"{unknown[0]}: belongs to no option; quote names with spaces in them, as 'a name'")
            self.error(f"{unknown[0]}: no such option.{did_you_mean(unknown[0].partition('=')[0], known)} --help lists them")
        if lang := vars(parsed).pop("lang"):
            os.environ["FACES_LANG"] = lang  # of this process and those that it starts
        return parsed

    def given(self, args=None):
        """Names (dest) of the options that stand in the command line itself."""
        words = {word.partition("=")[0] for word in self.words(args)}
        return {action.dest for action in self._actions if words & set(action.option_strings)} - {"lang"}


class Lossy(io.FileIO):
    """A standard stream that never fails. `lost`: why it can't be written, "" for a pipe whose reader has gone."""

    lost = None

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            self.lost = "" if isinstance(error, BrokenPipeError) else error.strerror
            return len(data)


def begin():
    """Prepare a script's process before its slow imports: streams that never fail, signals in one line, a clean environment."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # in place of a closed stream, or the next file would get its output
        os.set_inheritable(number, True)
    os.close(number)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        stream = getattr(sys, name)
        if stream is None or type(stream) is io.TextIOWrapper:  # not a notebook's
            encoding, buffer = getattr(stream, "encoding", "utf-8"), io.BufferedWriter(Lossy(number, "w", closefd=False))
            errors = "replace" if name == "stdout" else "backslashreplace"
            setattr(sys, name, io.TextIOWrapper(buffer, encoding, errors, line_buffering=True))
    on_signals(_leave)
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    for name, value in list(os.environ.items()):
        if name.startswith("TQDM_") or (name.startswith("TIMM_") and not value.isdecimal()):
            del os.environ[name]  # tqdm and timm read them while they are imported, and stop at what is no number


def _leave(number, _frame):
    if os.environ.get("RANK", "0") == "0" or not under_torchrun():
        log(f"stopped by {signal.Signals(number).name}")
    os._exit(EXIT_CODES[number])


def run(main):
    """Run a script's `main()` and return the exit code: its own, a signal's, or 2 after an InputError, an OSError that names a
    file, memory that ran out, or a stdout that could not be written."""
    StopSignals()
    try:
        code = main()
    except Interrupted as stop:
        log(stop)
        code = stop.code
    except Exception as error:
        said = one_line(error) if isinstance(error, InputError) else about_file(error)
        if is_out_of_memory(error):
            said = one_line(first_line(error))
            said = f"out of memory ({said}); a smaller --batch-size, where the command has it, takes less"
        if said is None:
            raise
        log(f"error: {said}")
        code = 2
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if lost := getattr(raw, "lost", None):
        log(f"error: stdout: can't be written ({lost}): what was printed is lost, the files that it tells of are not")
        return code or 2
    return code


def on_signals(handler):
    """Set the handler of the signals that ask to stop; under nohup SIGHUP stays ignored."""
    for number in EXIT_CODES:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def under_torchrun():
    """True in a process that torchrun has started: schedulers and containers set some of its variables, not all."""
    return all(os.environ.get(name) for name in TORCHRUN)


def on_parents_death(number):
    """A function that makes a new process get this signal when its parent dies (on Linux alone)."""
    libc = ctypes.CDLL(None)  # before a fork, after which no library may be opened
    return lambda: sys.platform == "linux" and libc.prctl(1, number)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def signals_blocked():
    """Processes that are started under this never see the signals that ask to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopSignals:
    """Signals that ask to stop (SIGUSR1: a scheduler's warning) raise Interrupted; within `deferred()` they set `requested`,
    the exit code, which loops poll at safe points. A second signal leaves at once; but no SIGHUP, which a closing ssh sends
    twice, and none under torchrun, which hands on signals that all processes may have got already."""

    def __init__(self):
        self.requested, self._by, self._defer = 0, "", False
        on_signals(self._on_signal)

    def _on_signal(self, number, _frame):
        code = EXIT_CODES[number]
        if self.requested:
            if number != signal.SIGHUP and not under_torchrun():
                os._exit(code)
            return
        self.requested, self._by = code, signal.Signals(number).name
        if not self._defer:
            raise Interrupted(code, f"stopped by {self._by}")
        log(f"{self._by}: saving the state, then leaving (again: leave at once)")

    @contextlib.contextmanager
    def deferred(self):
        """Signals only set `requested` under this; Interrupted at its end if one came."""
        self._defer = True
        try:
            yield
        finally:
            self._defer = False
        if self.requested:
            raise Interrupted(self.requested, f"stopped by {self._by}")
