import multiprocessing
import os

import pytest

import experiment
from errors import InputError


def test_numbers_and_revisions_of_names(tmp_path):
    name = experiment.next_name(tmp_path, "AdamP-StepLR-FL", "age_group", 5)
    assert name == "01-AdamP-StepLR-FL-v0-age_group_5fold"
    for folder in (name, "01-AdamP-StepLR-FL-v1-age_group_nofold", "07-AdamW-CAWR-CE+F1-v0-mask_5fold", "notes"):
        (tmp_path / folder).mkdir()
    assert experiment.next_name(tmp_path, "AdamP-StepLR-FL", "age_group", 0) == "01-AdamP-StepLR-FL-v2-age_group_nofold"
    assert experiment.next_name(tmp_path, "AdamP-StepLR-FL", "mask", 5) == "01-AdamP-StepLR-FL-v0-mask_5fold"
    assert experiment.next_name(tmp_path, "AdamW-CAWR-CE+F1", "mask", 4) == "07-AdamW-CAWR-CE+F1-v1-mask_4fold"
    assert experiment.next_name(tmp_path, "SGD-none-LS", "age", 5) == "08-SGD-none-LS-v0-age_5fold"


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "table.csv"
    experiment.write_text(path, "old")

    def breaks(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"table.csv: can't be written \(No space left"):
        experiment.write_atomic(path, breaks)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def _hold(folder, held, release):
    with experiment.locked(folder):
        held.set()
        release.wait(30)


def test_a_folder_is_held_until_its_owner_is_gone(tmp_path):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, held, release))
    owner.start()
    assert held.wait(30)
    with pytest.raises(InputError, match="another process is training it"), experiment.locked(tmp_path):
        pass
    os.kill(owner.pid, 9)
    owner.join()
    with experiment.locked(tmp_path):
        pass


def test_fold_lock_sweeps_what_a_killed_process_left(tmp_path):
    with experiment.fold_lock(tmp_path, 2):
        (tmp_path / "fold2" / ".last.pt.99.tmp.pt").write_text("half")
    with experiment.fold_lock(tmp_path, 2):
        assert list((tmp_path / "fold2").iterdir()) == []


def test_result_folder_is_complete_or_not_there(tmp_path):
    with experiment.new_folder(tmp_path / "out", None, "soft-3runs") as (folder, inside):
        (inside / "a").write_text("1")
        assert not folder.exists()
    assert folder == tmp_path / "out" / "01-soft-3runs" and (folder / "a").read_text() == "1"
    with pytest.raises(KeyError), experiment.new_folder(tmp_path / "out", None, "soft-3runs") as (folder, inside):
        raise KeyError
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["01-soft-3runs"]


def test_find_run_suggests(tmp_path):
    (tmp_path / "01-AdamW-StepLR-CE-v0-label_5fold").mkdir()
    with pytest.raises(InputError, match=r"no such run. Did you mean 01-AdamW-StepLR-CE-v0-label_5fold"):
        experiment.find_run(tmp_path / "01-AdamW-StepLR-CE-v0-label_5fo")
    with pytest.raises(InputError, match=r"not a run of train.py"):
        experiment.find_run(tmp_path / "01-AdamW-StepLR-CE-v0-label_5fold")


def test_args_that_are_no_options_are_refused(tmp_path):
    (tmp_path / "args.yaml").write_text("- just\n- a list\n")
    with pytest.raises(InputError, match=r"args.yaml: holds no options"):
        experiment.read_args(tmp_path)
    (tmp_path / "args.yaml").write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match=r"args.yaml: not readable"):
        experiment.read_args(tmp_path)


def test_a_summary_looks_for_folds_only_when_it_may_write(fit, monkeypatch):
    """Of two processes that end at once the one that writes last would else not know the other's fold."""
    run = fit("--target", "mask", "--fold", "0", name="summed")
    found, locks = experiment.done_folds, []

    def done_folds(run):
        with pytest.raises(InputError, match="another process is training it"), experiment.locked(run):
            pass
        locks.append(run)
        return found(run)

    monkeypatch.setattr(experiment, "done_folds", done_folds)
    assert [row["fold"] for row in experiment.write_summary(run, "mask", 2)["folds"]] == [0]
    assert locks == [run]


def test_a_run_folder_appears_whole_and_what_a_kill_left_of_it_goes(tmp_path):
    """A leftover that a living process holds stays; an existing folder is never taken, and the next name is asked for."""
    dead, alive = tmp_path / ".mine.1.tmp", tmp_path / ".mine.2.tmp"
    dead.mkdir(), alive.mkdir(), (tmp_path / "first").mkdir(), (tmp_path / "first" / "args.yaml").touch()
    seen = []

    def fill(folder, name):
        seen.append((name, (tmp_path / name / "args.yaml").exists()))
        (folder / "args.yaml").write_text(name)

    with experiment.locked(alive):
        assert experiment.make_folder(tmp_path, "mine", None, fill) == tmp_path / "mine"
    assert not dead.exists() and alive.exists() and (tmp_path / "mine" / "args.yaml").read_text() == "mine"
    names = iter(["first", "second"])
    assert experiment.make_folder(tmp_path, None, lambda: next(names), fill) == tmp_path / "second"
    assert seen == [("mine", False), ("first", True), ("second", False)]
    with pytest.raises(InputError, match="mine: exists and is never overwritten"):
        experiment.make_folder(tmp_path, "mine", None, fill)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.2.tmp", "first", "mine", "second"]
