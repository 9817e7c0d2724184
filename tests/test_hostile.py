"""Files of others: what is loaded runs nothing, reads and writes nowhere else, and says in one line why it is refused.

Each payload would leave a file `owned` behind.
"""

import html.parser
import json
import pickle

import numpy as np
import pytest
import torch
from helpers import People, eval_names, write_data, write_run

import compare
import engine
import experiment
import images
import leaderboard
import model
import predictions
import report
import sweep
from errors import InputError


class Payload:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def owned(tmp_path):
    """The file that a payload would make; not there at the end of a test."""
    path = tmp_path / "owned"
    pickle.loads(pickle.dumps(Payload(path)))  # it would
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_no_pickle_is_run(owned, tmp_path, how):
    payload = {"state": Payload(owned), "weight": torch.zeros(2)}
    (tmp_path / "fold0").mkdir()
    for name, read, said in (
        ("evil.pth", lambda: model.read_state_dict(tmp_path / "evil.pth"), r"--weights .*evil.pth: (holds an object \((_?io|builtins).open\)|not a readable)"),
        ("fold0/last.pt", lambda: engine.load_state(tmp_path, 0), r"last.pt: damaged .*; delete it to train this fold anew"),
        ("best.safetensors", lambda: model.load(tmp_path / "best.safetensors"), r"best.safetensors: damaged \(.*"),
        ("a.npy", lambda: images.read_array(tmp_path / "a.npy", np.uint8, (2,)), r"a.npy: damaged \(.*\); delete it and its .json"),
    ):  # fmt: skip
        if how == "pickle":
            (tmp_path / name).write_bytes(pickle.dumps(payload))
        else:
            torch.save(payload, tmp_path / name, _use_new_zipfile_serialization=how == "torch")
        with pytest.raises(InputError, match=said):
            read()


def test_a_cache_of_another_array_is_refused(owned, tmp_path):
    """Of objects, of another shape, type or order."""
    others = (
        np.zeros(shape, kind, order) for shape, kind, order in (((2, 3), "u1", "C"), ((2, 2), "f4", "C"), ((2, 2), "u1", "F"))
    )
    for array in (np.array([Payload(owned)], dtype=object), *others):
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        with pytest.raises(InputError, match=r"a.npy: damaged \(.*\); delete it and its .json to have it built anew"):
            images.read_array(tmp_path / "a.npy", np.uint8, (2, 2))


METADATA = {"model": "test_resnet", "target": "mask", "img_size": [32, 24], "mean": [0.5] * 3, "std": [0.25] * 3}
NAMES = ["hf-hub:someone/resnet18", "local-dir:/tmp/model", "../../model", "timm/resnet18", "", 7, ["test_resnet"], None]


def test_weights_of_a_model_of_a_hub_or_a_folder_or_of_another_one_under_its_name_are_refused(tmp_path):
    state = model.weights(model.create("test_resnet", "mask", (32, 24)))
    cases = [(state, name, r"\(its model is .*\); not weights written by train.py, or changed since") for name in NAMES]
    few = {name: value for name, value in state.items() if name != "fc.weight"}
    for other in (few, few | {"fc.weight": torch.zeros(3, 9)}, state | {"more": torch.zeros(1)}):
        cases.append((other, "test_resnet", r"\(.*; its weights don't fit test_resnet"))
    for changed, name, said in cases:
        model.save_weights(changed, {**METADATA, "model": name}, tmp_path / "best.safetensors")
        with pytest.raises(InputError, match=f"best.safetensors: damaged {said}"):
            model.load(tmp_path / "best.safetensors")


def test_backbone_files_with_odd_names(tmp_path):
    for content in ({1: torch.zeros(2)}, [1, 2], {"a": 1}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(InputError, match=r"--weights .*other.pth: holds no state dict \(names to tensors\)"):
            model.read_state_dict(tmp_path / "other.pth")
    torch.save({"pos_embed": torch.zeros(1), "patch_embed.proj.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"--weights .*other.pth: not a backbone of this --model"):
        model.create("test_vit", "mask", (160, 160), weights=tmp_path / "other.pth")


@pytest.mark.parametrize(("file", "read", "remedy"), [
    ("args.yaml", experiment.read_args, "copy the run again, or train it anew"), ("recipe.yaml", experiment.read_recipe, "make the ensemble again"),
])  # fmt: skip
def test_yaml_runs_nothing_and_without_options_says_how_to_get_them_back(owned, tmp_path, file, read, remedy):
    for tag in ("object/apply:os.system", "object/new:os.system", "name:os.system", "module:os"):
        (tmp_path / file).write_text(f"target: mask\nmembers: []\nx: !!python/{tag} ['touch {owned}']\n")
        for reader in (read, leaderboard.read_record, predictions.find_runs):
            with pytest.raises(InputError, match=rf"{file}: damaged \(could not determine a constructor.*; {remedy}$"):
                reader(tmp_path)
    for text in ("", "# a comment\n", "- a\n", "text"):
        (tmp_path / file).write_text(text)
        with pytest.raises(InputError, match=rf"{file}: damaged \(holds no mapping\); {remedy}$"):
            read(tmp_path)


def test_a_sweep_reads_the_command_of_a_run_as_words(owned, tmp_path):
    run = tmp_path / "runs" / "a-s1"
    run.mkdir(parents=True)
    (tmp_path / "sweep.txt").write_text("a:\n")
    (job,) = sweep.make_jobs(sweep.read_plan(tmp_path / "sweep.txt"), [1], tmp_path / "runs")
    for words in (f"train.py --seed 1 $(touch {owned})", f"train.py --seed `touch {owned}`", 'train.py "', "train.py x"):
        (run / "args.yaml").write_text(f"# {words}\ntarget: mask\n")
        with pytest.raises(InputError, match="a-s1"):
            job.check()


NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&"


def check_page(path, shown):
    """The one script of a page is its own, no picture is there but those that were found, and nothing handles an event."""
    found, text = [], path.read_text(encoding="utf-8")
    page = html.parser.HTMLParser()
    page.handle_starttag = lambda tag, attrs: found.extend([tag, *(name for name, _value in attrs if name.startswith("on"))])
    page.feed(text)
    assert [one for one in found if one in ("script", "img", "iframe", "object") or one.startswith("on")] == ["script"]
    assert "Content-Security-Policy" in text and shown in text


def test_pages_take_names_for_names(tmp_path, monkeypatch):
    """A run called like markup (the slash makes it a folder in a folder), images and csv files with markup."""
    monkeypatch.chdir(tmp_path)
    train, held = People(20, seed=0), People(4, seed=1)
    a, b = (write_run(tmp_path / NASTY / name, "label", train, held) for name in ("a<b>", "b"))
    data = write_data(tmp_path / "data", train, eval_names(held))
    tables = [data / "train" / "train.csv", data / "eval" / "info.csv"]
    for file in tables + [run / name for run in (a, b) for name in ("oof.csv", "eval.csv")]:
        text = file.read_text().replace("0000_x_", "<script>alert(1)<script>_x_")
        file.write_text(text.replace(f"{0:040x}", "<script>alert(1)<script>"))
    for run in (a, b):
        (run / "lb.json").write_text(json.dumps({"lb": 0.5, "history": []}))
        recorded = {"target": "label", "kfold": 5, "loss": NASTY, "optimizer": run.name}
        summary = {
            "oof_f1": 0.5,
            "oof_acc": 0.5,
            "oof_f1_ci95": [0.4, 0.6],
            "folds": [],
            "options": recorded,
            "people": [24, ""],
        }
        (run / "summary.json").write_text(json.dumps(summary))
    a, b, escaped = str(a.relative_to(tmp_path)), str(b.relative_to(tmp_path)), "&lt;script&gt;alert(1)&lt;"
    assert compare.main([a, b, "--data-dir", "data", "--out", "page.html"]) == 0
    check_page(tmp_path / "page.html", escaped)
    assert leaderboard.main([NASTY, "--html", "board.html"]) == 0
    check_page(tmp_path / "board.html", "a&lt;b&gt;")
    assert report.main(["--label-noise", a, "--data-dir", "data", "--out", "noise", "--noise-rate", "0.4"]) == 0
    check_page(tmp_path / "noise" / "index.html", escaped)
