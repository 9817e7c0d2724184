"""What goes wrong by a user's hand, and how it is told: exit code 2 and one line on stderr, never a traceback."""

import contextlib
import difflib
import os
import signal
import sys

WIDTH = 100  # characters of a line for the user, but for whole names and commands
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


class InputError(ValueError):
    """Bad input or misuse. The message is one line: the file or option, the value found, and what would do."""


class Interrupted(Exception):
    """A signal asked the program to stop and its state is saved. `code` is the exit code, the message the way back."""

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


def say(text):
    """A line for the user on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def ignore_signals():
    """From here on no signal stops this process, which is about to end."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)


class StopSignals:
    """SIGINT, SIGTERM and SIGUSR1 (a scheduler's warning) as a request that is met where nothing is half-done.

    Outside of `deferred()` a signal raises Interrupted at once; inside it sets `requested` (the exit code) and the loop
    that polls it stops at its next safe point. A second signal leaves at once; but not under torchrun, which hands on a
    signal that a scheduler may have sent to all processes already, and kills what is there 30 seconds later.
    """

    def __init__(self):
        self.requested = 0
        self._defer = False
        for number in EXIT_CODES:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number, _frame):
        code = EXIT_CODES[number]
        if self.requested and "TORCHELASTIC_RUN_ID" in os.environ:
            return
        if self.requested:
            os._exit(code)
        self.requested = code
        if not self._defer:
            raise Interrupted(code, f"stopped by {signal.Signals(number).name}")
        print(f"{signal.Signals(number).name}: saving the state, then leaving (again: leave at once)", file=sys.stderr)

    @contextlib.contextmanager
    def deferred(self):
        """While this holds, signals only set `requested`."""
        self._defer = True
        try:
            yield
        finally:
            self._defer = False


def run(main):
    """Run a script's `main()` as a process: its return value is the exit code, an InputError becomes exit code 2."""
    try:
        return main()
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        return 130
