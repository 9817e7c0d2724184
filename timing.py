"""Rates in images per second, measured in alternating rounds."""

import statistics
import time

import torch

import errors


def synchronise(device):
    """Wait until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Window:
    """A measurement of `least` seconds at least: what runs calls `start` before its first step and `step` after each."""

    def __init__(self, device, least):
        self.device, self.least = device, least
        self.images, self.seconds, self.started = 0, 0.0, None

    def start(self):
        """Let the clock run, at first or after something that is not to be timed."""
        synchronise(self.device)
        self.started = time.perf_counter()

    def step(self, images):
        """Count a step's images; returns whether the window is over. Waits for a GPU only then."""
        over = self.seconds + time.perf_counter() - self.started >= self.least
        if over:
            synchronise(self.device)
        now = time.perf_counter()
        self.images, self.seconds, self.started = self.images + images, self.seconds + now - self.started, now
        return over

    @property
    def rate(self):
        """Images per second so far."""
        return self.images / self.seconds


def alternate(pipelines, device, repeats, seconds):
    """{name: rate of each of `repeats` rounds} of {name: function that runs through a Window}, a line on stderr for each.

    A round measures each pipeline once. The first is a warm-up that is not counted; every second one goes backwards.
    """
    rates = {name: [] for name in pipelines}
    for number in range(repeats + 1):
        windows = {name: Window(device, seconds) for name in pipelines}
        for name in list(pipelines)[:: -1 if number % 2 else 1]:
            pipelines[name](windows[name])
        for name, window in windows.items() if number else ():
            rates[name].append(window.rate)
        what = f"round {number}/{repeats}" if number else "warm-up"
        errors.say(f"{what}: " + ", ".join(f"{name} {window.rate:.1f} images/s" for name, window in windows.items()))
    return rates


def spread(values):
    """The values of the rounds with their median, the lowest and the highest of them."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}
