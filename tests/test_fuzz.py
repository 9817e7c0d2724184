"""A short turn of fuzz.py, which runs for hours on demand; and that it finds what it is for."""

import os

import fuzz
import fuzz_targets
import numpy as np

import dataset


def test_a_case_of_each_file(tmp_path):
    counts, failures = fuzz.run(seed=5, numbers=range(len(list(fuzz_targets.make(tmp_path)))), place=tmp_path)
    assert not failures and sum(counts.values()) > 40


def test_what_breaks_a_reader_is_found_with_its_number(tmp_path, monkeypatch):
    """An error that is no line for the user, a wrong reading, a payload that runs, and a process that dies."""
    monkeypatch.setattr(fuzz_targets, "MAKERS", (fuzz_targets.tables,))
    read = dataset.read_submission

    def found(what):
        def reader(path):
            right = path.read_bytes() == (tmp_path / "right.csv").read_bytes()
            return read(path) if right else what()

        monkeypatch.setattr(dataset, "read_submission", reader)
        return fuzz.run(seed=0, numbers=[4, 5], place=tmp_path, only="submission")

    fuzz_targets.make(tmp_path)
    (tmp_path / "right.csv").write_bytes((tmp_path / "tables" / "train" / "submission.csv").read_bytes())
    for what, told in (
        (lambda: {}["ans"], "KeyError"),
        (lambda: (_ for _ in ()).throw(OSError(5, "Input/output error")), "OSError"),
        (lambda: (["a"], np.array([18])), "AssertionError"),
        (lambda: open("owned", "w").close() or (["a"], np.array([1])), "what was loaded ran"),
    ):
        counts, failures = found(what)
        assert not counts and list(failures) == [4, 5] and told in failures[4][1], failures
        (tmp_path / "owned").unlink(missing_ok=True)
    counts, failures = found(lambda: os.kill(os.getpid(), 9))
    assert failures == {4: ("?", "the process ended with exit code -9")}
