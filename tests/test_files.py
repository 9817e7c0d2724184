"""files.py: whatever fails while a file is written, the old one keeps its bytes; locks, room, tables."""

import builtins
import contextlib
import errno
import fcntl
import io
import os
import resource
import shutil
import signal
import stat
from types import SimpleNamespace
from unittest import mock

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import engine
import files
import model
from errors import InputError


@contextlib.contextmanager
def fault(folder, at, code=errno.ENOSPC):
    """The `at`-th open, fsync or replace of a file under `folder` fails as on a full disk. Yields a list that counts them."""
    calls = []

    def guarded(function):
        def call(path, *args, **kwargs):
            if isinstance(path, int) or os.fspath(path).startswith(str(folder)):  # a number that is synced is that of our file
                calls.append(function)
                if len(calls) == at:
                    raise OSError(code, os.strerror(code))
            return function(path, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((builtins, "open"), (io, "open"), (os, "fsync"), (os, "replace")):
            patch.setattr(module, name, guarded(getattr(module, name)))
        yield calls


def save_weights(path, number):
    model.save_weights({"weight": torch.full((50,), float(number))}, {}, path)


# What writes a file: (its name, a function of its path and a number that is to be written).
WRITERS = {
    "text": ("text.html", lambda path, number: files.write_text(path, f"{number}" * 9)),
    "json": ("summary.json", lambda path, number: files.write_json(path, {"f1": number})),
    "csv": ("oof.csv", lambda path, number: files.write_csv(path, pd.DataFrame({"p0": [number]}))),
    "picture": ("curves.png", lambda path, number: files.write_figure(path, Figure((1, 1), facecolor=str(number / 2)))),
    "weights": ("best.safetensors", save_weights),
    "state": ("fold0/last.pt", lambda path, number: engine.save_state(path.parents[1], 0, {"epoch": number})),
}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("writer", WRITERS)
def test_whatever_call_fails_the_old_file_stays(tmp_path, writer):
    """Each call in turn, until none is left to; not simulated: no file may be longer than 4 bytes, by the libraries' own code too."""
    (tmp_path / "fold0").mkdir()
    name, write = WRITERS[writer]
    write(tmp_path / name, 1)
    before, at, calls = contents(tmp_path), 0, []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        told = r"can't be written \(File too large\): .* are needed, and .* are free on volume /"
        with pytest.raises(files.DiskError, match=told):
            write(tmp_path / name, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    while len(calls) >= at:
        assert contents(tmp_path) == before, at
        at += 1
        with fault(tmp_path, at) as calls, contextlib.suppress(files.DiskError):
            write(tmp_path / name, 2)
    assert at == 5 and contents(tmp_path) != before and contents(tmp_path).keys() == before.keys() == {name}


def test_a_signal_while_writing_keeps_the_old_file(tmp_path):
    files.write_text(tmp_path / "a", "old")

    def write(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(tmp_path / "a", write)
    assert contents(tmp_path) == {"a": b"old"}


def with_free(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


@pytest.mark.parametrize(("code", "free", "message"), [
    (errno.ENOSPC, 12 << 10, r"a\.bin: can't be written \(No space left on device\): 2\.0 MiB are needed, and 12\.0 KiB are free on "
     r"volume /.*; make room there$"),
    (errno.EDQUOT, 4 << 30, r"\(Disk quota exceeded\): 2\.0 MiB are needed, and 4\.0 GiB are free on .*; make room there$"),
    (errno.EROFS, 0, r"\(Read-only file system\): 2\.0 MiB are needed, and 0 bytes are free .*; give it a place that can be"),
])  # fmt: skip
def test_the_error_names_file_volume_and_room(tmp_path, monkeypatch, code, free, message):
    with_free(monkeypatch, free)
    with pytest.raises(files.DiskError, match=message), fault(tmp_path, 1, code):
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


def test_a_file_is_locked_as_nfs_asks_for_it_and_a_disk_without_locks_is_told(tmp_path, monkeypatch):
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
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))))
    with pytest.raises(files.DiskError, match=r"can't be locked \(Function not implemented\)"), files.lock(tmp_path):
        pass


def test_room_is_summed_over_what_shares_a_volume(tmp_path, monkeypatch):
    """40 KiB are free: 30 + 10 fit, 30 + 11 don't, and the line names both places, their parts and the options."""
    with_free(monkeypatch, 40 << 10)
    run, pixels = tmp_path / "runs" / "not" / "yet", tmp_path / "cache"
    needs = [("--output-dir", run, "the run", 30 << 10), ("--cache-dir", pixels, "decoded images", 10 << 10)]
    files.check_room(needs)
    needs[1] = (*needs[1][:3], 11 << 10)
    told = rf"^--output-dir {run} and --cache-dir {pixels}: 30.0 KiB \(the run\) and 11.0 KiB \(decoded images\) are needed, and 40.0 KiB "
    told += "are free on volume /.*; make room there, or give another --output-dir or --cache-dir$"
    with pytest.raises(InputError, match=told):
        files.check_room(needs)


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


def test_tables_names_sizes_and_times_for_the_terminal():
    rows = [["실험", "0.5", "a few words"], ["abc", "0.25", ""]]
    assert files.aligned(["name", "F1", "note"], rows, left=(0, 2), widths=[None, None, 6]) == [
        "name    F1  note", "실험   0.5  a few", "            words", "abc   0.25"]  # fmt: skip
    cut = files.shorten([f"10-AdamP-StepLR-FL-v{number}-age_group_5fold_and_more" for number in range(3)], 30)
    assert len(set(cut)) == 3 and all(len(name) <= 30 and "..." in name for name in cut)  # the cut moves where they were alike
    names = [f"01-AdamP-StepLR-FL-{end}_5fold" for end in ("v0-age_group", "v1-age_group", "v1-label")]
    lines = files.aligned(["name"], [[name] for name in names], width=18)  # in 18 columns two are alike wherever they are cut
    assert len(set(lines)) == 4 and max(map(len, lines)) < 30
    sizes = ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 GiB"]
    assert [*map(files.in_units, (0, 1023, 1024, 1536, 5 << 20, 3 << 30))] == sizes
    assert [*map(files.time_text, (None, 45.4, 600, 5400, 90000))] == ["-", "45 s", "10 min", "1.5 h", "25.0 h"]
