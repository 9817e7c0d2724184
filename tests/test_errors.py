import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import errors
import options

ROOT = Path(__file__).parent.parent


def raising(error):
    return lambda: (_ for _ in ()).throw(error)


def begun(code, cwd, closed=(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment):
    """The ended process of a script that begins as ours do, then runs `code`, without the standard streams `closed`."""
    program = f"import errors; errors.begin()\nimport os, sys\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, env={**os.environ, "PYTHONPATH": f"{ROOT}:{cwd}", **environment},
        stdout=stdout, stderr=stderr, preexec_fn=lambda: [os.close(number) for number in closed],
    )  # fmt: skip


@pytest.fixture
def broken():
    """A pipe whose reader has gone, as tee has after Ctrl-C."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        yield pipe


def test_a_line_that_nobody_can_read_stops_nothing(broken, tmp_path):
    code = "def main():\n    errors.log('one')\n    raise errors.Interrupted(130, 'three')\nsys.exit(errors.run(main))"
    assert begun(code, tmp_path, stderr=broken).returncode == 130


@pytest.mark.parametrize("buffered", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_work_goes_on_where_nobody_reads_stdout(buffered, broken, tmp_path):
    """A pipe whose reader has gone is no error; on a full disk one line tells what is lost, and the code is 2."""
    code = "def main():\n    print('one'); print('two', flush=True); open('made', 'w').close(); print('three')\nsys.exit(errors.run(main))"
    with open("/dev/full", "w") as full:
        lost = b"error: stdout: can't be written (No space left on device): "
        for place, exit_code, told in ((full, 2, lost), (broken, 0, b"")):
            done = begun(code, tmp_path, stdout=place, **buffered)
            assert done.returncode == exit_code and done.stderr.startswith(told) and done.stderr.count(b"\n") == bool(told)
            (tmp_path / "made").unlink()


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_no_file_takes_the_place_of_a_closed_stream(closed, tmp_path):
    """What is printed, also by a process of the script's own, goes nowhere; stdout goes on where only stderr is closed."""
    done = begun("def main():\n    file = open('made', 'w')\n    print('one'), print('two', file=sys.stderr), os.system('echo a; echo b >&2')\n"
                 "    file.write('three')\nsys.exit(errors.run(main))", tmp_path, closed)  # fmt: skip
    assert (done.returncode, (tmp_path / "made").read_text()) == (0, "three")
    assert done.stdout == (b"" if 1 in closed else b"one\na\n") and done.stderr == (b"" if 2 in closed else b"two\nb\n")


@pytest.mark.parametrize(("encoding", "seen"), [("latin-1", b"runs/?? \xb1 1\n"), ("ascii", b"runs/?? ? 1\n"),
                                                ("utf-8", "runs/실험 ± 1\n".encode())])  # fmt: skip
def test_letters_that_stdout_can_not_encode_stop_no_work(encoding, seen, tmp_path):
    code = "print('runs/실험 ± 1'), open('done', 'w', encoding='utf-8').write('실험'), print('error', '실험', file=sys.stderr)"
    done = begun(f"sys.exit(errors.run(lambda: ({code}) and 0))", tmp_path, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, (tmp_path / "done").read_bytes()) == (0, seen, "실험".encode())


def test_a_name_of_other_bytes_can_be_printed(tmp_path):
    """A file's name that is not UTF-8 has no letters in any encoding."""
    Path(os.fsdecode(bytes(tmp_path) + b"/\xbd\xc7")).touch()
    assert begun("errors.run(lambda: print(os.listdir()[0]))", tmp_path, PYTHONIOENCODING="utf-8").stdout == b"??\n"


def test_what_is_set_for_other_programs_stops_no_import_and_changes_no_figure(tmp_path):
    """MPLBACKEND by a notebook for each !python; a broken style; TIMM_FUSED_ATTN, a number for timm; TQDM_*, which changes bars."""
    (tmp_path / "style").write_bytes(b"font.size: 40\n\xff\n")
    code = (
        "import matplotlib, timm.layers, tqdm; print(matplotlib.rcParams['font.size'], matplotlib.rcParams['backend'].lower(), "
    )
    code += "sorted(name for name in os.environ if name[:5] in ('TQDM_', 'TIMM_')))"
    done = begun(code, tmp_path, MPLBACKEND="module://matplotlib_inline.backend_inline", MATPLOTLIBRC="style", TQDM_MININTERVAL="often",
                 TQDM_DISABLE="1", TIMM_FUSED_ATTN="true", TIMM_USE_OLD_CACHE="0")  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"10.0 agg ['TIMM_USE_OLD_CACHE']\n", b"")


SCRIPTS = ("train", "inference", "ensemble", "compare", "diary", "leaderboard", "report", "sweep", "benchmark", "demo", "losses_picture")  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_docstring(script, monkeypatch, capsys):
    """python -OO has none."""
    module = importlib.import_module(script)
    monkeypatch.setattr(module, "__doc__", None)
    with pytest.raises(SystemExit, match=r"^0$"):
        module.main(["--help"])
    assert len(capsys.readouterr().out.split("\n\n")[1]) > 40  # the description


def test_no_behaviour_is_made_of_docstrings_or_assert_and_all_scripts_begin_alike():
    for path in (*ROOT.glob("*.py"), ROOT / "tools/benchmark.py", ROOT / "tools/losses_picture.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*assert\b|__doc__", text, re.MULTILINE), path
        begins = text.partition("\nimport errors")[2].startswith('\n\nif __name__ == "__main__":\n    errors.begin()')
        assert begins or path.stem not in SCRIPTS, path


@pytest.mark.parametrize(("error", "said"), [
    (errors.InputError("data.csv:\n  is   odd"), "data.csv: is odd"),
    (errors.InputError("\x1b[2J\x1b]0;x\x07runs/\u202ename"), "\\x1b[2J\\x1b]0;x\\x07runs/\\u202ename"),  # moves no cursor
    *((PermissionError(13, "Permission denied", name), "a\\udce9: Permission denied; try again") for name in ("a\udce9", b"a\xe9", Path("a\udce9"))),
    (torch.OutOfMemoryError("CUDA out of memory. 2.00 GiB.\nSee"),
     "out of memory (CUDA out of memory. 2.00 GiB.); a smaller --batch-size, where the command has it, takes less"),
    (MemoryError(), "out of memory (MemoryError); a smaller --batch-size, where the command has it, takes less"),
])  # fmt: skip
def test_an_error_of_the_user_or_the_system_is_one_line_and_exit_code_2(capsys, error, said):
    assert errors.run(raising(error)) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), BrokenPipeError(32, "Broken pipe")])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)):
        errors.run(raising(error))


def test_memory_that_runs_out_is_known_by_its_words():
    """torch has no type for that of the CPU, of pinned memory and of its libraries: real errors, of more than any machine has."""
    for ask in (lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: np.empty(1 << 60, dtype=np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as error:
            ask()
        assert errors.is_out_of_memory(error.value)
    for words in ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "cuDNN: CUDNN_STATUS_ALLOC_FAILED"):
        assert errors.is_out_of_memory(RuntimeError(words)) and not errors.is_out_of_memory(ValueError(words))
    assert not errors.is_out_of_memory(RuntimeError("shapes differ"))


def test_an_exception_without_words_is_told_by_its_kind():
    for error, line in ((EOFError(), "EOFError"), (ValueError("\n one\ntwo"), "one"), (OSError(" "), "OSError")):
        assert errors.first_line(error) == line


def test_did_you_mean():
    assert errors.did_you_mean("adampp", ["AdamP", "SGD"]) == " Did you mean AdamP?"
    assert errors.did_you_mean("zzz", ["AdamP", "SGD"]) == errors.did_you_mean("", ["AdamP", "SGD"]) == ""
    assert errors.did_you_mean("--OPT", ["--top", "--accum", "--optimizer"]) == " Did you mean --optimizer?"  # begun with it
    assert errors.did_you_mean("a", ["abc", "ab", "abcd", "abcde", "b"]) == " Did you mean ab or abc or abcd?"  # shortest first


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)]
)
def test_signals_stop_at_once_or_are_deferred(handlers, capsys, number, code):
    stop, reached = errors.StopSignals(), []
    with pytest.raises(errors.Interrupted, match=f"^stopped by {number.name}$") as stopped, stop.deferred():
        os.kill(os.getpid(), number)
        assert stop.requested == code
        reached.append("the safe point")
    assert stopped.value.code == code and reached
    assert f"{number.name}: saving the state" in capsys.readouterr().err
    assert errors.run(lambda: os.kill(os.getpid(), number)) == code
    assert f"stopped by {number.name}" in capsys.readouterr().err


def test_a_hangup_that_comes_twice_still_saves_the_state(handlers):
    """As of an ssh that closes: by the terminal, and by the shell."""
    stop, reached = errors.StopSignals(), []
    with pytest.raises(errors.Interrupted), stop.deferred():
        os.kill(os.getpid(), signal.SIGHUP), os.kill(os.getpid(), signal.SIGHUP)
        reached.append("the safe point")
    assert reached and stop.requested == 129


def test_under_nohup_a_hangup_stops_nothing(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    errors.on_signals(errors._leave)
    with errors.StopSignals().deferred():
        os.kill(os.getpid(), signal.SIGHUP)


def test_no_library_swallows_a_signal(handlers):
    def careless():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # what libraries do, and what the signal must pass through
            return 0

    assert errors.run(careless) == 143


def started(*words):
    """A Python process."""
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_second_signal_leaves_at_once():
    code = "import errors, time\nwith errors.StopSignals().deferred():\n    print(1, flush=True)\n    time.sleep(1)\n    time.sleep(60)"
    stubborn = started("-c", code)
    stubborn.stdout.readline()
    stubborn.send_signal(signal.SIGTERM)
    assert "saving the state" in stubborn.stderr.readline()
    stubborn.send_signal(signal.SIGINT)
    assert (stubborn.wait(30), stubborn.stderr.read()) == (130, "")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(("script", "number", "code"), [
    ("train.py", signal.SIGTERM, 143), ("train.py", signal.SIGINT, 130), ("inference.py", signal.SIGUSR1, 143),
    ("ensemble.py", signal.SIGINT, 130), ("leaderboard.py", signal.SIGINT, 130),
])  # fmt: skip
def test_a_signal_while_modules_are_imported_is_one_line(script, number, code):
    """Sent as soon as it is caught at all, seconds before torch is there."""
    importing = started(script, "--help")
    status, caught = Path(f"/proc/{importing.pid}/status"), 1 << (signal.SIGUSR1 - 1)
    while not int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) & caught:
        assert importing.poll() is None
        assert "libtorch" not in Path(f"/proc/{importing.pid}/maps").read_text()
        time.sleep(0.001)
    importing.send_signal(number)
    out, err = importing.communicate(timeout=60)
    assert (importing.returncode, out, err) == (code, "", f"stopped by {number.name}\n")


def test_options_are_never_abbreviated_given_ones_are_known_and_underscores_stand_for_hyphens():
    parser = errors.Parser("x")
    parser.add_argument("--number", type=errors.natural_int, default=3)
    parser.add_argument("--other-one", default="a_b")
    assert parser.given(["--number", "3"]) == {"number"}
    for line, value in ((["--other_one", "c_d"], "c_d"), (["--other_one=--other_one=d"], "--other_one=d")):
        assert parser.parse_args(line).other_one == value and parser.given(line) == {"other_one"}
    with pytest.raises(errors.InputError, match=r"--numb: no such option\. Did you mean --number"):
        parser.parse_args(["--numb", "3"])


@pytest.mark.parametrize(("kind", "good", "bad"), [
    (errors.positive_int, "1", "0"), (errors.natural_int, "0", "-1"), (errors.positive_float, "0.1", "0"),
    (options.natural_float, "0", "-0.1"), (options.fraction, "0", "1"), (errors.positive_float, "1", "nan"),
    (options.confidence, "1", "1.1"), (options.confidence, "0", "nan"), (errors.whole_int, "-1", "1.5"),
])  # fmt: skip
def test_number_types_refuse_what_is_out_of_range(kind, good, bad):
    parser = errors.Parser("x")
    parser.add_argument("--value", type=kind)
    assert parser.parse_args(["--value", good]).value == float(good)
    for text, said in ((bad, f"{bad} "), ("many", "many is not a (whole )?number")):
        with pytest.raises(errors.InputError, match=f"argument --value: {said}"):
            parser.parse_args([f"--value={text}"])


def test_defaults_are_shown_and_none_is_not():
    parser = errors.Parser("x")
    for name, default in (("pair", [30, 60]), ("empty", []), ("zero", 0), ("shown", 7), ("silent", None)):
        parser.add_argument(f"--{name}", default=default, help=f"what {name} is")
    helps = re.findall(r"what .*", parser.format_help())
    assert helps == ["what pair is (default: 30 60)", "what empty is", "what zero is (default: 0)", "what shown is (default: 7)",
                     "what silent is"]  # fmt: skip
