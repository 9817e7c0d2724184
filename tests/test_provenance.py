"""provenance.py: what is written of a run's begin, and what a run that goes on refuses."""

import importlib.metadata
import json
import os
import shutil
import subprocess

import pytest
import safetensors.torch
import timm
from conftest import without_pictures
from test_train import command, trained

import experiment
import provenance
import train
from errors import InputError


def test_the_commit_is_that_of_the_scripts_and_changes_to_them_are_told(monkeypatch):
    """Whatever folder the run is started in; None where there is no git."""
    answers = {"rev-parse": "abc\n", "status": " M train.py\n"}
    asked = []

    def git(words, cwd, **_options):
        asked.append(cwd)
        if not answers:
            raise FileNotFoundError("git")
        return subprocess.CompletedProcess(words, 0, answers[words[1]], "")

    monkeypatch.setattr(subprocess, "run", git)
    found = provenance.environment("cpu")
    assert (found["git_commit"], found["git_dirty"], found["device"]) == ("abc", True, "cpu")
    packages = {name: importlib.metadata.version(name) for name in provenance.PACKAGES}
    assert {name: version.partition("+")[0] for name, version in found["packages"].items()} == packages
    assert {str(cwd) for cwd in asked} == {os.path.dirname(train.__file__)}
    answers["status"] = ""
    assert provenance.environment("cpu")["git_dirty"] is False
    answers.clear()
    found = provenance.environment("cpu")
    assert (found["git_commit"], found["git_dirty"]) == (None, None)


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """Without env.json, or without digests in it, there is nothing to hold against."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"x")
    for text in (None, "{}"):
        if text:
            (tmp_path / "env.json").write_text(text)
        provenance.check_data(tmp_path, "digest")
        provenance.check_weights(tmp_path, weights)
    provenance.write(tmp_path, "cpu", "digest", weights)
    provenance.check_data(tmp_path, "digest")
    provenance.check_weights(tmp_path, weights)
    assert json.loads((tmp_path / "env.json").read_text())["weights_sha256"] == experiment.file_digest(weights)


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
    with pytest.raises(InputError, match=r"backbone.safetensors: not readable \(No such file or directory\)"):
        train.main(resume)
    safetensors.torch.save_file(state, tmp_path / "moved.safetensors")
    trained([*resume, "--weights", str(tmp_path / "moved.safetensors")])
    assert experiment.read_args(tmp_path / "runs" / "run")["weights"] == str(tmp_path / "moved.safetensors")
    (tmp_path / "moved.safetensors").unlink()
    trained(resume)  # all that is asked for is learnt
