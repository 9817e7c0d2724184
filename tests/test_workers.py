import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from unittest import mock

import pytest

import errors
import images

ROOT = Path(images.__file__).parent


def square(number):
    return number * number, os.getpid()


def fail_at_three(number):
    if number == 3:
        raise errors.InputError(f"{number}: not a number")
    return number


def die(_number):
    os.kill(os.getpid(), signal.SIGKILL)


def reach(_number):
    """Whether signals to the parent's group, and those that ask to stop, reach this process."""
    for number in errors.EXIT_CODES:
        os.kill(os.getpid(), number)
    return os.getpgid(0) == os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_results_come_in_order_from_other_processes():
    with images.pool_results("squaring", 2, square, range(40)) as found:
        found = list(found)
    assert [value for value, _pid in found] == [number * number for number in range(40)]
    assert os.getpid() not in {pid for _value, pid in found}


@pytest.mark.parametrize("count", [0, 1])
def test_one_process_is_this_one(count):
    with images.pool_results("squaring", count, square, range(3)) as found:
        assert list(found) == [(0, os.getpid()), (1, os.getpid()), (4, os.getpid())]


@pytest.mark.parametrize("count", [1, 2])
def test_what_the_work_raises_comes_after_the_results_before_it(count):
    came = []
    with (
        pytest.raises(errors.InputError, match=r"^3: not a number$"),
        images.pool_results("", count, fail_at_three, range(9)) as found,
    ):
        for result in found:
            came.append(result)
    assert came == [0, 1, 2]


def test_a_killed_process_is_told_and_not_waited_for():
    with (
        pytest.raises(errors.InputError, match=r"^reading: one of its processes was killed; out of memory"),
        images.pool_results("reading", 2, die, range(9)) as found,
    ):
        list(found)


def test_processes_that_die_while_work_is_handed_out_are_told(monkeypatch):
    monkeypatch.setattr(images.ProcessPoolExecutor, "submit", mock.Mock(side_effect=BrokenProcessPool("died")))
    with pytest.raises(errors.InputError, match=r"^reading: one of"), images.pool_results("reading", 2, square, range(9)):
        pass


def test_on_leaving_what_has_not_begun_is_dropped(tmp_path):
    def touch(number):
        time.sleep(0.01)
        (tmp_path / str(number)).touch()

    with pytest.raises(KeyboardInterrupt), images.pool_results("", 2, touch, range(500)) as found:
        next(found)
        raise KeyboardInterrupt
    done = len(list(tmp_path.iterdir()))
    assert 1 <= done < 400  # of 500, which take 2.5 s
    time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == done


def test_signals_are_the_parents_alone():
    """Those to its group, too."""
    with images.pool_results("", 2, reach, range(2)) as found:
        assert list(found) == [(True, set())] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_their_parent_without_a_word(tmp_path, number):
    """The last of them ends the pipe of what they say."""
    script = """
        import sys, time, errors, images
        def work(number):
            open(f"{sys.argv[1]}/{number}", "w").close()
            time.sleep(0.05)
        def main():
            with images.pool_results("", 2, work, range(1000)) as found:
                list(found)
        sys.exit(errors.run(main))
    """
    words = [sys.executable, "-c", textwrap.dedent(script), tmp_path]
    parent = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.iterdir())) < 4:
        time.sleep(0.01)
    parent.send_signal(number)
    told = "" if number == signal.SIGKILL else "stopped by SIGTERM\n"
    assert parent.communicate(timeout=60) == ("", told)
    assert parent.returncode == (143 if told else -signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) < 500
