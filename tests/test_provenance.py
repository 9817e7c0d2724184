"""provenance.py: what is written of a run's begin, and what a run that goes on refuses."""

import importlib.metadata
import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import safetensors.torch
import timm
from conftest import without_pictures
from test_train import command, trained

import experiment
import train
from errors import InputError


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone in which provenance.py seems to lie, with one commit; clone.git(words) asks git there."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    folder = tmp_path / "clone"
    (folder / "docs").mkdir(parents=True)
    (folder / "templates").mkdir()
    for name in ("provenance.py", "docs/provenance.py", "templates/base.html"):
        (folder / name).write_text("x")

    def git(*words):
        me = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *me, *words], cwd=folder, check=True, capture_output=True).stdout.decode().strip()

    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        git(*words)
    monkeypatch.setattr(experiment, "__file__", str(folder / "provenance.py"))
    return SimpleNamespace(folder=folder, git=git)


def commit_and_dirty():
    found = experiment.environment("cpu")
    return found["git_commit"], found["git_dirty"]


def test_the_packages_are_those_at_work():
    found = experiment.environment("cpu")
    assert found["device"] == "cpu"
    packages = {name: importlib.metadata.version(name) for name in experiment.PACKAGES}
    assert {name: version.partition("+")[0] for name, version in found["packages"].items()} == packages


@pytest.mark.parametrize("name", [b"\xbd\xc7\xc7\xe8.txt", b"out\xbd/eval.csv", b'a\nb "c".txt', b"data/train/train.csv"])
def test_untracked_data_is_no_change_whatever_its_name(clone, name):
    """cp949 names, as of a zip made on a Korean Windows, with core.quotepath off as guides advise; results in the clone."""
    clone.git("config", "core.quotepath", "false")
    path = os.fsencode(clone.folder) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        assert commit_and_dirty() == (clone.git("rev-parse", "HEAD"), False)


@pytest.mark.parametrize("name", [b"mine.py", b"\xbd\xc7.py", b"provenance.py", b"templates/base.html"])
def test_changed_code_is_told(clone, name):
    """Also where status.showUntrackedFiles says no."""
    clone.git("config", "status.showUntrackedFiles", "no")
    with open(os.fsencode(clone.folder) + b"/" + name, "wb"):
        assert commit_and_dirty() == (clone.git("rev-parse", "HEAD"), True)


def test_an_export_within_another_clone_has_no_commit(clone, monkeypatch):
    export = clone.folder / "export"
    export.mkdir()
    (export / "provenance.py").write_text("x")
    monkeypatch.setattr(experiment, "__file__", str(export / "provenance.py"))
    assert commit_and_dirty() == (None, None)
    (clone.folder / ".gitignore").write_text("*")
    assert commit_and_dirty() == (None, None)


def test_a_clone_of_another_owner_is_read(clone, monkeypatch):
    """As in a container; git itself refuses it as of "dubious ownership", and goes on doing so for a clone around ours."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test this
    assert commit_and_dirty()[1] is False
    monkeypatch.setattr(experiment, "__file__", str(clone.folder / "docs" / "provenance.py"))
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


def test_a_package_without_metadata_has_no_version(monkeypatch):
    monkeypatch.setattr(experiment, "PACKAGES", ("nowhere",))
    assert experiment.environment("cpu")["packages"] == {"nowhere": None}


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
