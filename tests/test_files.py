"""files.py: whatever fails while a file is written, the old one keeps its bytes; locks, room, tables."""

import builtins
import contextlib
import csv
import errno
import fcntl
import io
import os
import resource
import shutil
import signal
import stat
import threading
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import until_told
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import engine
import files
import model
from errors import InputError


class Faults:
    """While it holds, the `at`-th call that touches a file under `folder` fails as on a full disk: an open, a write (of which
    half arrives), an fsync, a replace or an allocation. `calls` counts them all."""

    def __init__(self, folder, at, code=errno.ENOSPC):
        self.folder, self.at, self.code, self.calls = str(folder), at, code, 0

    def strike(self):
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self.code, os.strerror(self.code))

    def guarded(self, function, mine=lambda *_args: True):
        def call(*args, **kwargs):
            if mine(*args):
                self.strike()
            return function(*args, **kwargs)

        return call

    def of_folder(self, path, *_args):
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder)

    @contextlib.contextmanager
    def hold(self):
        real_open = open

        def faulty_open(path, *args, **kwargs):
            if not self.of_folder(path):
                return real_open(path, *args, **kwargs)
            self.strike()
            return FaultyFile(real_open(path, *args, **kwargs), self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builtins, "open", faulty_open)
            patch.setattr(io, "open", faulty_open)
            patch.setattr(os, "open", self.guarded(os.open, self.of_folder))
            patch.setattr(os, "fsync", self.guarded(os.fsync))
            patch.setattr(os, "replace", self.guarded(os.replace, self.of_folder))
            yield


class FaultyFile:
    """An open file whose writes are counted, and one of which breaks off."""

    def __init__(self, file, faults):
        self.file, self.faults = file, faults

    def write(self, content):
        try:
            self.faults.strike()
        except OSError:
            self.file.write(content[: len(content) // 2])
            raise
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.file.close()


def figure(number):
    page = Figure((1, 1))
    page.text(0, 0, str(number))
    return page


def tensors(number):
    return {"model": {"weight": torch.full((50,), float(number))}, "epoch": number}


def linear(number):
    net = torch.nn.Linear(3, 3)
    torch.nn.init.constant_(net.weight, number)
    torch.nn.init.constant_(net.bias, number)
    return net


# What writes a file: (its name, a function of the folder and a number that is to be written).
WRITERS = {
    "text": ("text.html", lambda folder, number: files.write_text(folder / "text.html", f"{number}" * 9)),
    "json": ("summary.json", lambda folder, number: files.write_json(folder / "summary.json", {"f1": number})),
    "csv": ("oof.csv", lambda folder, number: files.write_csv(folder / "oof.csv", pd.DataFrame({"p0": [number]}))),
    "picture": ("curves.png", lambda folder, number: files.write_figure(folder / "curves.png", figure(number))),
    "weights": (
        "best.safetensors",
        lambda folder, number: model.save_weights(model.weights(linear(number)), {}, folder / "best.safetensors"),
    ),
    "state": ("fold0/last.pt", lambda folder, number: engine.save_state(folder, 0, tensors(number))),
}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("writer", WRITERS)
def test_whatever_call_fails_the_old_file_stays(tmp_path, writer):
    """Each call in turn fails, until none is left to; the error is one line that names the file and the room on its volume."""
    (tmp_path / "fold0").mkdir()
    name, write = WRITERS[writer]
    write(tmp_path, 1)
    before, at = contents(tmp_path), 0
    assert name in before
    while True:
        at += 1
        faults = Faults(tmp_path, at)
        with faults.hold():
            try:
                write(tmp_path, 2)
            except files.DiskError as error:
                assert name in str(error) and "can't be written (No space left on device): " in str(error)
                assert (
                    "are free on volume" in str(error) and str(error).endswith("; make room there") and "\n" not in str(error)
                )
        if faults.calls < at:
            break
        assert contents(tmp_path) == before, at
    assert at > 3 and contents(tmp_path) != before and contents(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "json"])
def test_a_limit_of_the_system_is_told_by_every_library(tmp_path, writer):
    """Not simulated: no file may be longer than 4 bytes, for Python's writes and those of the libraries' own code."""
    (tmp_path / "fold0").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(
            files.DiskError, match=r"can't be written \(File too large\): .* are needed, and .* are free on volume /"
        ):
            WRITERS[writer][1](tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_signal_while_writing_keeps_the_old_file(tmp_path, stop):
    files.write_text(tmp_path / "a", "old")

    def write(temporary):
        temporary.write_text("half")
        raise stop

    with pytest.raises(stop):
        files.write_atomic(tmp_path / "a", write)
    assert contents(tmp_path) == {"a": b"old"}


def of_disk(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


@pytest.mark.parametrize(("code", "free", "message"), [
    (errno.ENOSPC, 12 << 10, r"a\.bin: can't be written \(No space left on device\): 2\.0 MiB are needed, and 12\.0 KiB are free on "
     r"volume /.*; make room there$"),
    (errno.EDQUOT, 4 << 30, r"\(Disk quota exceeded\): 2\.0 MiB are needed, and 4\.0 GiB are free on .*; make room there$"),
    (errno.EROFS, 0, r"\(Read-only file system\): 2\.0 MiB are needed, and 0 bytes are free .*; give it a place that can be"),
])  # fmt: skip
def test_the_error_names_file_volume_and_room(tmp_path, monkeypatch, code, free, message):
    of_disk(monkeypatch, free)
    with pytest.raises(files.DiskError, match=message), Faults(tmp_path, 1, code).hold():
        files.write_bytes(tmp_path / "a.bin", bytes(2 << 20))


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "there" / "page.html")
    for text in ("one", "two"):
        files.write_text(tmp_path / "link.html", text)
        assert (tmp_path / "link.html").is_symlink() and (tmp_path / "there" / "page.html").read_text() == text
    assert len(list(tmp_path.rglob("*"))) == 3


def test_no_file_takes_the_place_of_a_pipe_or_device(tmp_path):
    """/dev/null by name or by a link to it, and with root's rights too."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        with pytest.raises(files.DiskError, match=rf"{name}: is a device or a pipe, whose place a file would take"):
            files.write_bytes(tmp_path / name, b"text")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode) and not os.path.isfile("/dev/null")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_gone_is_named_and_not_made(tmp_path):
    gone = r"gone/a: can't be written \(there is no folder .*/gone\): 4 bytes are needed, and .* are free on volume /.*; was it moved"
    with pytest.raises(files.DiskError, match=gone):
        files.write_text(tmp_path / "gone" / "a", "text")
    for place in ("gone", "gone/lock"):
        with pytest.raises(files.DiskError, match=rf"{place}: can't be locked \(No such file"), files.lock(tmp_path / place):
            pass
    assert list(tmp_path.iterdir()) == []


def test_who_is_killed_holds_a_folder_no_more(tmp_path):
    reader, writer = os.pipe()
    if (owner := os.fork()) == 0:
        with files.lock(tmp_path):
            os.write(writer, b"x")
            signal.pause()
    os.read(reader, 1)
    with pytest.raises(InputError, match="another process is training it; wait for it or stop it"), files.lock(tmp_path):
        pass
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    with files.lock(tmp_path):
        pass
    os.close(reader), os.close(writer)


def test_a_file_is_locked_as_nfs_asks_for_it(tmp_path, monkeypatch):
    """flock(2), NFS: "in order to place an exclusive lock, the file must be opened for writing"; folders can't be."""
    lock, modes = fcntl.flock, []

    def of_nfs(handle, how):
        writes = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        modes.append(writes)
        if not writes and not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    with files.lock(tmp_path / "lock", make=True), files.lock(tmp_path):
        assert modes == [True, False]
    with files.lock(tmp_path / "lock"):
        assert (tmp_path / "lock").stat().st_size == 0


def test_a_disk_without_locks_is_told_in_one_line(tmp_path, monkeypatch):
    def refuse(_handle, _how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    told = r"can't be locked \(Function not implemented\)"
    with pytest.raises(files.DiskError, match=told), files.lock(tmp_path):
        pass


def test_room_is_summed_over_what_shares_a_volume(tmp_path, monkeypatch):
    """40 KiB are free: 30 + 10 fit, 30 + 11 don't, and the line names both places, their parts and the options."""
    of_disk(monkeypatch, 40 << 10)
    run, pixels = tmp_path / "runs" / "not" / "yet", tmp_path / "cache"
    needs = [("--output-dir", run, "the run", 30 << 10), ("--cache-dir", pixels, "decoded images", 10 << 10)]
    files.check_room(needs)
    needs[1] = (*needs[1][:3], 11 << 10)
    with pytest.raises(InputError) as told:
        files.check_room(needs)
    assert str(told.value).startswith(
        f"--output-dir {run} and --cache-dir {pixels}: 30.0 KiB (the run) and 11.0 KiB (decoded images) are needed, and 40.0 KiB "
        "are free on volume /"
    )
    assert str(told.value).endswith("; make room there, or give another --output-dir or --cache-dir")


def test_who_waits_says_so_and_gets_its_turn(tmp_path, capsys):
    turn = threading.Event()

    def wait():
        with files.lock(tmp_path, "waiting for the other", wait=True):
            turn.set()

    with files.lock(tmp_path):
        with pytest.raises(InputError, match=r"^taken$"), files.lock(tmp_path, "taken"):
            pass
        other = threading.Thread(target=wait)
        other.start()
        until_told("waiting for the other")
        assert not turn.is_set()
    assert turn.wait(60)
    other.join()
    assert capsys.readouterr().err == "waiting for the other\n"


def test_sizes_in_words():
    assert [files.in_units(size) for size in (0, 1023, 1024, 1536, 5 << 20, 3 << 30)] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 GiB"]  # fmt: skip


# ---- tables -----------------------------------------------------------------------------------------------------------

CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="\ufeff"), max_size=5)


@given(
    rows=st.lists(st.tuples(CELLS.filter(bool), CELLS), min_size=1, max_size=4),
    end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans(), quoted=st.booleans(), space=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_csv_is_read_as_it_was_written(tmp_path, rows, end, bom, quoted, space):
    """Whoever wrote it: with quotes or without, with spaces around the fields, with a mark, with the line ends of Windows."""
    text = io.StringIO(newline="")
    pad = " " if space and not quoted else ""
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(text, lineterminator=end, quoting=quoting)
    writer.writerows([["a", "b"], *[[f"{pad}{cell}{pad}" for cell in row] for row in rows]])
    (tmp_path / "t.csv").write_bytes(text.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    table = files.read_csv(tmp_path / "t.csv", ("a", "b"))
    assert table[["a", "b"]].to_numpy().tolist() == [list(row) for row in rows]
    assert table[files.LINE].tolist() == list(range(2, len(rows) + 2))


@pytest.mark.parametrize(("text", "message"), [
    ("a,b\n1,2,3\n", "line 2: 3 fields under a header of 2; a comma too many, or cut short"), ("a,b\n", "no rows under the header"),
    ("a;b\n1;2\n", "line 1: semicolons between the fields"), ("A,b\n1,2\n", "column 'a' is missing, found A,b. Did you mean A"),
    ("", "is empty; a csv with the columns a,b is needed"),
    ("a,b\n1,-1\n", "line 2: b '-1' is not a number from 0 on"), ("a,b\n1,1\n\n2,x\n", "line 4: b 'x' is not a number from 0 on"),
])  # fmt: skip
def test_what_is_no_table_of_numbers_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        files.read_numbers(tmp_path / "t.csv", ("a",), ("b",))


def test_lines_of_a_table_for_the_terminal():
    rows = [["실험", "0.5", "a few words"], ["abc", "0.25", ""]]
    assert files.aligned(["name", "F1", "note"], rows, left=(0, 2), widths=[None, None, 6]) == [
        "name    F1  note", "실험   0.5  a few", "            words", "abc   0.25"]  # fmt: skip
