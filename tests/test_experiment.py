"""experiment.py: names, folders that appear whole, locks, options, folds; env.json and what a run that goes on refuses."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import timm
from conftest import without_pictures
from test_train import command, trained

import experiment
import files
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
    dead, alive = out / ".02-soft-3runs.77.tmp", out / ".02-soft-3runs.78.tmp"
    dead.mkdir(), alive.mkdir()
    with files.lock(alive):  # which a living process holds; the other one was killed
        assert (made(out, None, fill) / "a").read_text() == "02-soft-3runs"
    assert not dead.exists() and alive.exists()
    alive.rmdir()

    def full(inside, name):
        files.write_atomic(inside / "a", lambda temporary: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(files.DiskError, match=rf"{out}/.mine.*/a: can't be written \(No space left"):
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
    with pytest.raises(InputError, match=r"no such run. Did you mean mine"):
        experiment.find_run(tmp_path / "runs" / "min")
    with pytest.raises(InputError, match=r"runs: not a run of train.py"):
        experiment.find_run(tmp_path / "runs")


def test_a_run_is_named_by_its_folder_however_it_is_given(tmp_path, monkeypatch):
    (tmp_path / "mine" / "fold0").mkdir(parents=True)
    (tmp_path / "mine" / "args.yaml").touch()
    monkeypatch.chdir(tmp_path / "mine" / "fold0")
    assert [experiment.find_run(path) for path in ("..", "../../mine", "../../mine/")] == [
        tmp_path.resolve() / "mine", *[Path("../../mine")] * 2]  # fmt: skip
    monkeypatch.chdir(tmp_path / "mine")
    assert experiment.find_run(".").name == "mine"


@pytest.mark.parametrize(("text", "why"), [
    ("- a\n", "holds no mapping"), ("target: [", "while parsing"), ("target: nose", "target is 'nose'"), ("kfold: 2", "lacks 'target'"),
    ("target: [mask]", "target is .'mask'."), ("target: mask\nkfold: many", "integer"),
    ("target: mask\ndata_dir: {a: 1}", "not dict"), ("[" * 5000, "recursion"),
])  # fmt: skip
def test_args_that_are_no_options_are_refused(tmp_path, text, why):
    (tmp_path / "args.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"args.yaml: damaged \(.*{why}.*\); copy the run again, or train it anew$"):
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


# ---- environment ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone in which experiment.py seems to lie, with one commit; clone.git(words) asks git there."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    folder = tmp_path / "clone"
    (folder / "docs").mkdir(parents=True)
    (folder / "templates").mkdir()
    for name in ("experiment.py", "docs/experiment.py", "templates/base.html"):
        (folder / name).write_text("x")

    def git(*words):
        me = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *me, *words], cwd=folder, check=True, capture_output=True).stdout.decode().strip()

    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        git(*words)
    monkeypatch.setattr(experiment, "__file__", str(folder / "experiment.py"))
    return SimpleNamespace(folder=folder, git=git)


def commit_and_dirty():
    found = experiment.environment("cpu")
    return found["git_commit"], found["git_dirty"]


def test_versions_are_those_of_the_packages(monkeypatch):
    monkeypatch.setattr(experiment, "PACKAGES", ("numpy", "nowhere"))
    found = experiment.environment("cpu")
    assert found["device"] == "cpu" and found["packages"] == {"numpy": np.__version__, "nowhere": None}


@pytest.mark.parametrize("name", [b"\xbd\xc7\xc7\xe8.txt", b"out\xbd/eval.csv", b'a\nb "c".txt', b"data/train/train.csv"])
def test_untracked_data_is_no_change_whatever_its_name(clone, name):
    """cp949 names, as of a zip made on a Korean Windows, with core.quotepath off as guides advise; results in the clone."""
    clone.git("config", "core.quotepath", "false")
    path = os.fsencode(clone.folder) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        assert commit_and_dirty() == (clone.git("rev-parse", "HEAD"), False)


@pytest.mark.parametrize("name", [b"mine.py", b"\xbd\xc7.py", b"experiment.py", b"templates/base.html"])
def test_changed_code_is_told(clone, name):
    """Also where status.showUntrackedFiles says no."""
    clone.git("config", "status.showUntrackedFiles", "no")
    with open(os.fsencode(clone.folder) + b"/" + name, "wb"):
        assert commit_and_dirty() == (clone.git("rev-parse", "HEAD"), True)


def test_an_export_within_another_clone_has_no_commit(clone, monkeypatch):
    export = clone.folder / "export"
    export.mkdir()
    (export / "experiment.py").write_text("x")
    monkeypatch.setattr(experiment, "__file__", str(export / "experiment.py"))
    assert commit_and_dirty() == (None, None)
    (clone.folder / ".gitignore").write_text("*")
    assert commit_and_dirty() == (None, None)


def test_a_clone_of_another_owner_is_read(clone, monkeypatch):
    """As in a container; git itself refuses it as of "dubious ownership", and goes on doing so for a clone around ours."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test this
    assert commit_and_dirty()[1] is False
    monkeypatch.setattr(experiment, "__file__", str(clone.folder / "docs" / "experiment.py"))
    assert commit_and_dirty() == (None, None)


@pytest.mark.parametrize("script", ["exit 1", "exec sleep 9", "printf '\\377' >&2; exit 128", None])
def test_a_git_that_fails_hangs_or_is_not_there(clone, tmp_path, monkeypatch, script):
    (tmp_path / "bin").mkdir()
    if script:
        (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin" if script else str(tmp_path / "bin"))
    monkeypatch.setattr(experiment, "GIT_SECONDS", 0.2, raising=False)
    assert commit_and_dirty() == (None, None)


def changed_size(data):
    """Another picture in place of one."""
    path = sorted((data / "train" / "images").glob("0*/mask1.*"))[0]
    path.write_bytes(path.read_bytes() + b"\0")


def changed_label(data):
    """Another mask state for two pictures of a person."""
    normal, worn = (sorted((data / "train" / "images").glob(f"0*/{kind}.*"))[0] for kind in ("normal", "mask1"))
    assert normal.parent == worn.parent
    os.rename(normal, normal.with_stem("other"))
    os.rename(worn, worn.with_stem("normal"))
    os.rename(normal.with_stem("other"), normal.with_stem("mask1"))


def test_a_run_whose_data_changed_does_not_go_on(runs, shared_data, tmp_path):
    """One fold of it is still to be trained. A complete run has nothing left that could differ."""
    run = shutil.copytree(runs["mask"], tmp_path / "run")
    for number, change in enumerate((changed_size, changed_label)):
        data = shutil.copytree(shared_data, tmp_path / f"data{number}")
        change(data)
        argv = ["--resume", str(run), "--data-dir", str(data), "--cache-dir", str(tmp_path / "cache"), "--quiet"]
        with without_pictures():
            assert train.main(argv) == 0
        (run / "fold1" / "fold.json").rename(run / "fold1" / "kept")
        with pytest.raises(InputError, match=r"run: its images, their sizes or their labels are not those that it began with"):
            train.main(argv)
        (run / "fold1" / "kept").rename(run / "fold1" / "fold.json")


def test_resume_refuses_another_file_of_weights_under_the_same_name(shared_data, tmp_path):
    weights = tmp_path / "backbone.safetensors"
    state = timm.create_model("test_resnet").state_dict()
    safetensors.torch.save_file(state, weights)
    argv = [option for option in command(shared_data, tmp_path, "--name", "run", "--fold", "0") if option != "--no-pretrained"]
    trained([*argv, "--weights", str(weights)])
    resume = ["--resume", str(tmp_path / "runs" / "run"), "--quiet", "--fold", "1"]
    safetensors.torch.save_file({name: value + 1 for name, value in state.items()}, weights)
    with pytest.raises(InputError, match=r"--weights .*backbone.safetensors: changed since .*run began with it; put that file"):
        train.main(resume)
    assert not (tmp_path / "runs" / "run" / "fold1").exists()
    weights.unlink()
    with pytest.raises(InputError, match=r"backbone.safetensors: no such file"):
        train.main(resume)
    safetensors.torch.save_file(state, tmp_path / "moved.safetensors")
    trained([*resume, "--weights", str(tmp_path / "moved.safetensors")])
    assert experiment.read_args(tmp_path / "runs" / "run")["weights"] == str(tmp_path / "moved.safetensors")
    (tmp_path / "moved.safetensors").unlink()
    trained(resume)  # all that is asked for is learnt
