import multiprocessing
import os
from pathlib import Path

import pytest

import experiment
import files
import predictions
import train
from errors import InputError


def options(target="label", **changed):
    """The options of a run that has no name yet, as far as its name depends on them."""
    given = {"target": target, "kfold": 5, "seed": 42, "fold_seed": 42, "lr": 1e-4, "patience": 3, "limit_people": None}
    return {**given, "data_dir": "data", "name": None, "device": None, **changed}


def named(folder, recipe, args):
    """The name of a new run, whose folder is made, and the run that it is again."""
    name, again = experiment.next_name(folder, recipe, args)
    (folder / name).mkdir()
    experiment.write_args(folder / name, args, ["train.py"])
    return name, again


def test_numbers_and_revisions_of_names(tmp_path):
    """Folders whose options can't be read are like no other."""
    for folder in ("01-AdamP-StepLR-FL-v0-age_group_5fold", "01-AdamP-StepLR-FL-v1-age_group_nofold",
                   "07-AdamW-CAWR-CE+F1-v0-mask_5fold", "notes"):  # fmt: skip
        (tmp_path / folder).mkdir()
    (tmp_path / "07-AdamW-CAWR-CE+F1-v0-mask_5fold" / "args.yaml").write_text("target: [")
    for recipe, target, kfold, name in (
        ("AdamP-StepLR-FL", "age_group", 0, "01-AdamP-StepLR-FL-v2-age_group_nofold"),
        ("AdamP-StepLR-FL", "mask", 5, "01-AdamP-StepLR-FL-v0-mask_5fold"),
        ("AdamW-CAWR-CE+F1", "mask", 4, "07-AdamW-CAWR-CE+F1-v1-mask_4fold"),
        ("SGD-none-LS", "age", 5, "08-SGD-none-LS-v0-age_5fold"),
    ):
        assert experiment.next_name(tmp_path, recipe, options(target, kfold=kfold)) == (name, None)


def test_runs_of_one_setting_share_their_revision(tmp_path):
    """Another split does not make another revision, and neither does where a run is made; a learning rate and a seed do."""
    for changed, revision_and_split in (
        ({}, "v0-label_5fold"),
        ({"lr": 1e-3}, "v1-label_5fold"),
        ({"lr": 1e-3, "kfold": 0, "device": "cuda", "fold_seed": 7}, "v1-label_nofold"),
        ({"kfold": 0, "patience": 5, "data_dir": str(Path("data").resolve())}, "v0-label_nofold"),  # it has no patience
        ({"kfold": 4}, "v0-label_4fold"),
        ({"kfold": 3, "patience": 5}, "v2-label_3fold"),
        ({"seed": 1, "fold_seed": 1}, "v3-label_5fold"),
        ({"seed": 1, "fold_seed": 42, "kfold": 0}, "v3-label_nofold"),
        ({"fold_seed": 7}, "v4-label_5fold"),  # v0 has five folds already, of other people
    ):
        assert named(tmp_path, "AdamW-StepLR-CE", options(**changed)) == (f"01-AdamW-StepLR-CE-{revision_and_split}", None)


def test_the_same_options_again_are_told_and_get_the_next_revision(tmp_path):
    for name, again in (("v0-label_nofold", None), ("v1-label_nofold", "01-SGD-none-CE-v0-label_nofold")):
        assert named(tmp_path, "SGD-none-CE", options(kfold=0)) == (f"01-SGD-none-CE-{name}", again)
    elsewhere = options(kfold=0, device="cuda:1", data_dir=str(Path("data").resolve()))
    assert experiment.next_name(tmp_path, "SGD-none-CE", elsewhere)[1] == "01-SGD-none-CE-v0-label_nofold"
    assert experiment.next_name(tmp_path, "SGD-none-CE", options(kfold=0, data_dir="other")) == (
        "01-SGD-none-CE-v2-label_nofold", None)  # fmt: skip


def test_quick_looks_say_so_and_take_no_number_from_others(tmp_path):
    look = options(limit_people=100)
    assert named(tmp_path, "SGD-none-CE", look) == ("quick-SGD-none-CE-v0-label_5fold", None)
    assert named(tmp_path, "AdamP-none-CE", {**look, "kfold": 2})[0] == "quick-AdamP-none-CE-v0-label_2fold"
    assert named(tmp_path, "SGD-none-CE", {**look, "lr": 1})[0] == "quick-SGD-none-CE-v1-label_5fold"
    assert named(tmp_path, "AdamP-none-CE", options())[0] == "01-AdamP-none-CE-v0-label_5fold"
    assert named(tmp_path, "SGD-none-CE", options())[0] == "02-SGD-none-CE-v0-label_5fold"
    assert named(tmp_path, "SGD-none-CE", look) == ("quick-SGD-none-CE-v2-label_5fold", "quick-SGD-none-CE-v0-label_5fold")


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "table.csv"
    files.write_text(path, "old")

    def breaks(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"table.csv: can't be written \(No space left"):
        files.write_atomic(path, breaks)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def _hold(folder, held, release):
    with files.lock(folder):
        held.set()
        release.wait(30)


def test_a_folder_is_held_until_its_owner_is_gone(tmp_path):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, held, release))
    owner.start()
    assert held.wait(30)
    with pytest.raises(InputError, match="another process is training it"), files.lock(tmp_path):
        pass
    os.kill(owner.pid, 9)
    owner.join()
    with files.lock(tmp_path):
        pass


def test_fold_lock_sweeps_what_a_killed_process_left(tmp_path):
    with experiment.fold_lock(tmp_path, 2):
        (tmp_path / "fold2" / ".last.pt.99.tmp.pt").write_text("half")
    with experiment.fold_lock(tmp_path, 2):
        assert list((tmp_path / "fold2").iterdir()) == []


def made(out, name, fill):
    return experiment.make_folder(out, name, lambda: experiment.next_number(out, "soft-3runs"), fill)


def test_a_made_folder_is_complete_or_not_there(tmp_path):
    out = tmp_path / "out"

    def fill(inside, name):
        (inside / "a").write_text(name)
        assert not (out / name).exists()

    assert made(out, None, fill) == out / "01-soft-3runs"
    (out / ".02-soft-3runs.77.tmp").mkdir()  # of a process that was killed
    assert (made(out, None, fill) / "a").read_text() == "02-soft-3runs"

    def full(inside, name):
        files.write_atomic(inside / "a", lambda temporary: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(files.DiskError, match=rf"{out}/mine/a: can't be written \(No space left"):
        made(out, "mine", full)
    with pytest.raises(KeyboardInterrupt):
        made(out, "mine", lambda inside, name: (_ for _ in ()).throw(KeyboardInterrupt))
    assert sorted(entry.name for entry in out.iterdir()) == ["01-soft-3runs", "02-soft-3runs"]


def test_who_makes_a_folder_second_gets_the_next_name_or_is_refused(tmp_path):
    """Another process makes the folder while ours is being filled."""
    names = []

    def fill(inside, name):
        (inside / "a").write_text("ours")
        names.append(name)
        if len(names) != 2:
            (tmp_path / name).mkdir()
            (tmp_path / name / "a").write_text("theirs")

    assert made(tmp_path, None, fill) == tmp_path / "02-soft-3runs"
    with pytest.raises(InputError, match=r"mine: exists and is never overwritten; choose another --name$"):
        made(tmp_path, "mine", fill)
    assert names == ["01-soft-3runs", "02-soft-3runs", "mine"]
    written = {path.parent.name: path.read_text() for path in tmp_path.glob("*/a")}
    assert written == {"01-soft-3runs": "theirs", "02-soft-3runs": "ours", "mine": "theirs"}
    assert len(list(tmp_path.iterdir())) == 3


def test_a_fold_in_training_is_refused_before_anything_is_read(tmp_path):
    for number in (0, 1):
        (tmp_path / f"fold{number}").mkdir()
    facts = dict.fromkeys(experiment.FOLD, 1) | {"weights_sha256": ""}
    files.write_json(tmp_path / "fold1" / "fold.json", facts)
    with experiment.fold_lock(tmp_path, 0), experiment.fold_lock(tmp_path, 1):  # complete, whoever holds it
        experiment.check_not_trained(tmp_path, [1, 2])
        with pytest.raises(InputError, match=r"fold0: another process is training it; wait for it or stop it"):
            experiment.check_not_trained(tmp_path, [0, 1, 2])
    experiment.check_not_trained(tmp_path, [0, 1, 2])


@pytest.mark.parametrize("inside", ["args.yaml", "fold0", "fold0/", "fold0/last.pt", "fold1/best.safetensors", "curves.png"])
def test_what_lies_in_a_run_stands_for_it(tmp_path, monkeypatch, inside):
    for name in ("args.yaml", "curves.png", "fold0/last.pt", "fold1/best.safetensors"):
        (tmp_path / "runs" / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "mine" / name).write_text("")
    assert experiment.find_run(tmp_path / "runs" / "mine" / inside) == tmp_path / "runs" / "mine"
    monkeypatch.chdir(tmp_path / "runs" / "mine")
    assert experiment.find_run(inside) == tmp_path / "runs" / "mine"
    with pytest.raises(InputError, match="no such run"):
        experiment.find_run(f"{inside.strip('/')}x")


def test_find_run_suggests(tmp_path):
    (tmp_path / "01-AdamW-StepLR-CE-v0-label_5fold").mkdir()
    with pytest.raises(InputError, match=r"no such run. Did you mean 01-AdamW-StepLR-CE-v0-label_5fold"):
        experiment.find_run(tmp_path / "01-AdamW-StepLR-CE-v0-label_5fo")
    with pytest.raises(InputError, match=r"not a run of train.py"):
        experiment.find_run(tmp_path / "01-AdamW-StepLR-CE-v0-label_5fold")


def test_a_run_is_named_by_its_folder_however_it_is_given(tmp_path, monkeypatch):
    (tmp_path / "mine" / "fold0").mkdir(parents=True)
    (tmp_path / "mine" / "args.yaml").touch()
    monkeypatch.chdir(tmp_path / "mine" / "fold0")
    assert [experiment.find_run(path) for path in ("..", "../../mine", "../../mine/")] == [
        tmp_path.resolve() / "mine", *[Path("../../mine")] * 2]  # fmt: skip
    monkeypatch.chdir(tmp_path / "mine")
    assert experiment.find_run(".").name == "mine"


def test_args_that_are_no_options_are_refused(tmp_path):
    (tmp_path / "args.yaml").write_text("- just\n- a list\n")
    with pytest.raises(InputError, match=r"args.yaml: damaged"):
        experiment.read_args(tmp_path)
    (tmp_path / "args.yaml").write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match=r"args.yaml: damaged"):
        experiment.read_args(tmp_path)


@pytest.fixture(scope="module")
def half(fit):
    """A run whose fold 1 is not trained yet."""
    return fit("--target", "mask", "--fold", "0", name="half")


def test_a_run_in_training_is_not_gone_on_with(half, monkeypatch):
    """--resume of a run whose missing fold another process trains is refused before any data is read."""
    monkeypatch.setattr(train, "load_data", None)
    with experiment.fold_lock(half, 1), pytest.raises(InputError, match=r"fold1: another process is training it; wait for it"):
        train.main(["--resume", str(half), "--quiet"])


def test_a_summary_looks_for_folds_only_when_it_may_write(half, monkeypatch):
    """Of two processes that end at once the one that writes last would else not know the other's fold."""
    found, locks = experiment.done_folds, []

    def done_folds(run):
        with pytest.raises(InputError, match="another process is training it"), files.lock(run):
            pass
        locks.append(run)
        return found(run)

    monkeypatch.setattr(experiment, "done_folds", done_folds)
    summary = predictions.write_summary(half, "mask", 2)
    assert [row["fold"] for row in summary["folds"]] == [0] and locks == [half]
    assert summary["options"] == experiment.read_args(half)
    assert summary["people"] == experiment.validated_people(half) and summary["people"][0] == len(experiment.read_folds(half))


def test_a_run_folder_appears_whole_and_what_a_kill_left_of_it_goes(tmp_path):
    """A leftover that a living process holds stays; an existing folder is never taken, and the next name is asked for."""
    dead, alive = tmp_path / ".mine.1.tmp", tmp_path / ".mine.2.tmp"
    dead.mkdir(), alive.mkdir(), (tmp_path / "first").mkdir(), (tmp_path / "first" / "args.yaml").touch()
    seen = []

    def fill(folder, name):
        seen.append((name, (tmp_path / name / "args.yaml").exists()))
        (folder / "args.yaml").write_text(name)

    with files.lock(alive):
        assert experiment.make_folder(tmp_path, "mine", None, fill) == tmp_path / "mine"
    assert not dead.exists() and alive.exists() and (tmp_path / "mine" / "args.yaml").read_text() == "mine"
    names = iter(["first", "second"])
    assert experiment.make_folder(tmp_path, None, lambda: next(names), fill) == tmp_path / "second"
    assert seen == [("mine", False), ("first", True), ("second", False)]
    with pytest.raises(InputError, match="mine: exists and is never overwritten"):
        experiment.make_folder(tmp_path, "mine", None, fill)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.2.tmp", "first", "mine", "second"]
