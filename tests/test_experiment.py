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

import experiment
import files
import train
from errors import InputError


def named(folder, recipe, target="label", **changed):
    """The name of a new run, whose folder is made, and the run that it is again. changed: options that its name depends on."""
    args = {"target": target, "kfold": 5, "seed": 42, "fold_seed": 42, "lr": 1e-4, "patience": 3, "limit_people": None,
            "data_dir": "data", "name": None, "device": None, **changed}  # fmt: skip
    name, again = experiment.next_name(folder, recipe, args)
    (folder / name).mkdir()
    experiment.write_args(folder / name, args, ["train.py"])
    return name, again


def test_numbers_and_revisions_of_names(tmp_path):
    """Folders whose options can't be read are like no other. Quick looks say so and take no number from others."""
    for folder in ("01-AdamP-StepLR-FL-v0-age_group_5fold", "01-AdamP-StepLR-FL-v1-age_group_nofold", "notes"):
        (tmp_path / folder).mkdir()
    (tmp_path / "07-AdamW-CAWR-CE+F1-v0-mask_5fold").mkdir()
    (tmp_path / "07-AdamW-CAWR-CE+F1-v0-mask_5fold" / "args.yaml").write_text("target: [")
    for recipe, changed, name, again in (
        ("AdamP-StepLR-FL", {"target": "age_group", "kfold": 0}, "01-AdamP-StepLR-FL-v2-age_group_nofold", None),
        ("SGD-none-CE", {"limit_people": 100}, "quick-SGD-none-CE-v0-label_5fold", None),
        ("AdamP-StepLR-FL", {"target": "mask"}, "01-AdamP-StepLR-FL-v0-mask_5fold", None),
        ("AdamW-CAWR-CE+F1", {"target": "mask", "kfold": 4}, "07-AdamW-CAWR-CE+F1-v1-mask_4fold", None),
        ("AdamP-none-CE", {"limit_people": 100, "kfold": 2}, "quick-AdamP-none-CE-v0-label_2fold", None),
        ("SGD-none-CE", {"limit_people": 100, "lr": 1}, "quick-SGD-none-CE-v1-label_5fold", None),
        ("SGD-none-CE", {"target": "age"}, "08-SGD-none-CE-v0-age_5fold", None),
        ("SGD-none-CE", {"limit_people": 100}, "quick-SGD-none-CE-v2-label_5fold", "quick-SGD-none-CE-v0-label_5fold"),
    ):
        assert named(tmp_path, recipe, **changed) == (name, again)


def test_runs_of_one_setting_share_their_revision(tmp_path):
    """Another split does not make another revision, and neither does where a run is made; a learning rate and a seed do. The
    very same options again get the next one, and the run that they are of is told."""
    data = str(Path("data").resolve())
    for changed, name, again in (
        ({}, "v0-label_5fold", None),
        ({"lr": 1e-3}, "v1-label_5fold", None),
        ({"lr": 1e-3, "kfold": 0, "device": "cuda", "fold_seed": 7}, "v1-label_nofold", None),
        ({"kfold": 0, "patience": 5, "data_dir": data}, "v0-label_nofold", None),  # it has no patience
        ({"kfold": 4}, "v0-label_4fold", None),
        ({"kfold": 3, "patience": 5}, "v2-label_3fold", None),
        ({"seed": 1, "fold_seed": 1}, "v3-label_5fold", None),
        ({"seed": 1, "fold_seed": 42, "kfold": 0}, "v3-label_nofold", None),
        ({"fold_seed": 7}, "v4-label_5fold", None),  # v0 has five folds already, of other people
        ({"kfold": 4, "device": "cuda:1", "data_dir": data}, "v4-label_4fold", "v0-label_4fold"),
        ({"kfold": 4, "data_dir": "other"}, "v5-label_4fold", None),
        ({"kfold": 2, "min_lr": 0.0}, "v0-label_2fold", None),  # the default, which older runs do not know
    ):
        assert named(tmp_path, "SGD-none-CE", **changed) == (f"01-SGD-none-CE-{name}", again and f"01-SGD-none-CE-{again}")


def made(out, name, fill):
    return experiment.make_folder(out, name, lambda: experiment.next_number(out, "soft-3runs"), fill)


def test_a_made_folder_is_complete_or_not_there(tmp_path):
    out = tmp_path / "out"

    def fill(inside, name):
        (inside / "a").write_text(name)
        assert not (out / name).exists()

    assert made(out, None, fill) == out / "01-soft-3runs"
    dead, alive = (out / f".02-soft-3runs.{pid}.tmp" for pid in (77, 78))
    dead.mkdir(), alive.mkdir()
    with files.lock(alive):  # which a living process holds; the other one was killed
        assert (made(out, None, fill) / "a").read_text() == "02-soft-3runs"
    assert not dead.exists() and alive.exists()
    alive.rmdir()

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
    written = {path.name: (path / "a").read_text() for path in tmp_path.iterdir()}
    assert written == {"01-soft-3runs": "theirs", "02-soft-3runs": "ours", "mine": "theirs"}


def test_a_fold_in_training_is_refused_before_anything_is_read(runs, tmp_path, monkeypatch):
    """Who holds a fold removes what a killed process left there."""
    run = shutil.copytree(runs["mask"], tmp_path / "run")
    (run / "fold1" / "fold.json").rename(run / "fold1" / ".last.pt.99.tmp.pt")
    monkeypatch.setattr(train, "load_data", None)
    with experiment.fold_lock(run, 0), experiment.fold_lock(run, 1):
        assert not list(run.glob("fold1/.*"))
        experiment.check_not_trained(run, [0, 2])  # the first is complete, whoever holds it
        with pytest.raises(InputError, match=r"fold1: another process is training it; wait for it or stop it"):
            train.main(["--resume", str(run), "--quiet"])
    experiment.check_not_trained(run, [0, 1, 2])


@pytest.mark.parametrize("inside", ["args.yaml", "fold0", "fold0/", "fold0/last.pt", "fold1/best.safetensors", "curves.png"])
def test_what_lies_in_a_run_stands_for_it(tmp_path, monkeypatch, inside):
    run = tmp_path / "runs" / "mine"
    for name in ("args.yaml", "curves.png", "fold0/last.pt", "fold1/best.safetensors"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("")
    assert experiment.find_run(run / inside) == run
    monkeypatch.chdir(run / "fold0")
    for path, found in (("..", run.resolve()), ("../../mine", Path("../../mine")), ("../../mine/", Path("../../mine"))):
        assert experiment.find_run(path) == found
    monkeypatch.chdir(run)
    assert experiment.find_run(inside) == run and experiment.find_run(".").name == "mine"
    for path, told in ((run.parent / "min", r"no such run. Did you mean mine"), (run.parent, r"runs: not a run of train.py")):
        with pytest.raises(InputError, match=told):
            experiment.find_run(path)


@pytest.mark.parametrize(("text", "why"), [
    ("- a\n", "holds no mapping"), ("target: [", "while parsing"), ("target: nose", "target is 'nose'"), ("kfold: 2", "lacks 'target'"),
    ("target: [mask]", "target is .'mask'."), ("target: mask\nkfold: many", "integer"),
    ("target: mask\ndata_dir: {a: 1}", "not dict"), ("[" * 5000, "recursion"),
])  # fmt: skip
def test_args_that_are_no_options_are_refused(tmp_path, text, why):
    (tmp_path / "args.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"args.yaml: damaged \(.*{why}.*\); copy the run again, or train it anew$"):
        experiment.read_args(tmp_path)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone in which experiment.py seems to lie, with one commit; clone.git(words) asks git there."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    folder = tmp_path / "clone"
    for name in ("experiment.py", "docs/experiment.py", "templates/base.html"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")

    def git(*words):
        me = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *me, *words], cwd=folder, check=True, capture_output=True).stdout.decode().strip()

    git("init", "-q"), git("add", "."), git("commit", "-qm", "one")
    monkeypatch.setattr(experiment, "__file__", str(folder / "experiment.py"))
    return SimpleNamespace(folder=folder, git=git)


def commit_and_dirty():
    found = experiment.environment("cpu")
    return found["git_commit"], found["git_dirty"]


@pytest.mark.parametrize(("name", "is_dirty"), [
    (b"\xbd\xc7\xc7\xe8.txt", False), (b"out\xbd/eval.csv", False), (b'a\nb "c".txt', False), (b"data/train/train.csv", False),
    (b"mine.py", True), (b"\xbd\xc7.py", True), (b"experiment.py", True), (b"templates/base.html", True),
])  # fmt: skip
def test_changed_code_is_told_and_untracked_data_is_no_change_whatever_its_name(clone, name, is_dirty):
    """cp949 names, as of a zip made on a Korean Windows, with core.quotepath off as guides advise; results in the clone. Also
    where status.showUntrackedFiles says no."""
    clone.git("config", "core.quotepath", "false")
    clone.git("config", "status.showUntrackedFiles", "no")
    path = os.fsencode(clone.folder) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        assert commit_and_dirty() == (clone.git("rev-parse", "HEAD"), is_dirty)


def test_a_clone_of_another_owner_is_read_and_one_around_ours_is_not(clone, monkeypatch):
    """As in a container, where git refuses it by itself; of a clone around our folder we are no file, ignored or not."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test this
    assert commit_and_dirty()[1] is False
    monkeypatch.setattr(experiment, "__file__", str(clone.folder / "docs" / "experiment.py"))
    assert commit_and_dirty() == (None, None)
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    (clone.folder / "export").mkdir()
    monkeypatch.setattr(experiment, "__file__", shutil.copy(clone.folder / "experiment.py", clone.folder / "export"))
    assert commit_and_dirty() == (None, None)
    (clone.folder / ".gitignore").write_text("*")
    assert commit_and_dirty() == (None, None)


@pytest.mark.parametrize("script", ["exit 1", "exec sleep 9", "printf '\\377' >&2; exit 128", None])
def test_a_git_that_fails_hangs_or_is_not_there(clone, tmp_path, monkeypatch, script):
    (tmp_path / "bin").mkdir()
    if script:
        (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin" if script else str(tmp_path / "bin"))
    monkeypatch.setattr(experiment, "GIT_SECONDS", 0.2)
    monkeypatch.setattr(experiment, "PACKAGES", ("numpy", "nowhere"))
    found = experiment.environment("cpu")
    assert (found["git_commit"], found["git_dirty"], found["device"]) == (None, None, "cpu")
    assert found["packages"] == {"numpy": np.__version__, "nowhere": None}


@pytest.mark.parametrize("change", ["another picture in place of one", "another mask state for two pictures of a person"])
def test_a_run_whose_data_changed_does_not_go_on(runs, shared_data, tmp_path, change):
    """One fold of it is still to be trained. A complete run has nothing left that could differ."""
    run, data = shutil.copytree(runs["mask"], tmp_path / "run"), shutil.copytree(shared_data, tmp_path / "data")
    normal, worn = (sorted((data / "train" / "images").glob(f"0*/{kind}.*"))[0] for kind in ("normal", "mask1"))
    if change.startswith("another picture"):
        worn.write_bytes(worn.read_bytes() + b"\0")
    else:
        contents = [path.read_bytes() for path in (worn, normal)]
        normal.write_bytes(contents[0]), worn.write_bytes(contents[1])
    argv = ["--resume", str(run), "--data-dir", str(data), "--cache-dir", str(tmp_path / "cache"), "--quiet"]
    with without_pictures():
        assert train.main(argv) == 0
    (run / "fold1" / "fold.json").unlink()
    with pytest.raises(InputError, match=r"run: its images, their sizes or their labels are not those that it began with"):
        train.main(argv)


def test_resume_refuses_another_file_of_weights_under_the_same_name(fit, tmp_path):
    weights, state = tmp_path / "backbone.safetensors", timm.create_model("test_resnet").state_dict()
    safetensors.torch.save_file(state, weights)
    run = fit("--weights", weights, "--fold", "0", name="run", output_dir=tmp_path)
    resume = ["--resume", str(run), "--quiet", "--fold", "1"]
    safetensors.torch.save_file({name: value + 1 for name, value in state.items()}, weights)
    with pytest.raises(InputError, match=r"--weights .*backbone.safetensors: changed since .*run began with it; put that file"):
        train.main(resume)
    weights.unlink()
    with pytest.raises(InputError, match=r"backbone.safetensors: no such file"):
        train.main(resume)
    assert not (run / "fold1").exists()
    safetensors.torch.save_file(state, tmp_path / "moved.safetensors")
    with without_pictures():
        assert train.main([*resume, "--weights", str(tmp_path / "moved.safetensors")]) == 0
        assert experiment.read_args(run)["weights"] == str(tmp_path / "moved.safetensors")
        (tmp_path / "moved.safetensors").unlink()
        assert train.main(resume) == 0  # all that is asked for is learnt
