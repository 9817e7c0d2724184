import itertools

import benchmark
import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved: clock[0] += seconds."""
    now = [100.0]
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    return now


def test_window_ends_after_its_seconds_and_leaves_out_what_lies_before_a_start(clock):
    """Steps of 8 images in 2 s, 1 s between them untimed: over after the third, at 6 >= 5 s; 24 / 6 = 4 images/s."""
    window = benchmark.Window(CPU, 5)
    over = []
    for _step in range(3):
        clock[0] += 1
        window.start()
        clock[0] += 2
        over.append(window.step(8))
    assert over == [False, False, True]
    assert (window.images, window.seconds, window.rate) == (24, 6, 4)


def test_rounds_alternate_and_the_first_is_not_counted(clock, capsys):
    """Each call is slower than the one before: its rate is 60 / n in the n-th call."""
    calls, count = [], itertools.count(1)

    def pipeline(name):
        def run(window):
            calls.append(name)
            window.start()
            clock[0] += next(count)
            assert window.step(60)

        return run

    rates = benchmark.alternate({"a": pipeline("a"), "b": pipeline("b")}, CPU, 2, 0.5)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert rates == {"a": [60 / 4, 60 / 5], "b": [60 / 3, 60 / 6]}
    assert capsys.readouterr().err.splitlines() == [
        "warm-up: a 60.0 images/s, b 30.0 images/s",
        "round 1/2: a 15.0 images/s, b 20.0 images/s",
        "round 2/2: a 12.0 images/s, b 10.0 images/s",
    ]


def test_spread_is_median_and_range():
    assert benchmark.spread([3.0, 1.0, 8.0, 4.0]) == {"median": 3.5, "min": 1.0, "max": 8.0, "rounds": [3.0, 1.0, 8.0, 4.0]}
