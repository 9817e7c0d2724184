"""Files of others: what is loaded runs nothing, reads and writes nowhere else, and says in one line why it is refused.

Each payload would leave a file `owned` behind.
"""

import html.parser
import json
import pickle
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from helpers import People, write_run

import compare
import engine
import errors
import experiment
import images
import inference
import leaderboard
import model
import predictions
import report
import sweep
from errors import InputError
from images import Geometry

FACTS = {"model": "test_resnet", "target": "mask", "img_size": [32, 24], "crop": None, "face_crop": None}
FACTS |= {"mean": [0.5] * 3, "std": [0.25] * 3, "options": {"memory_format": "contiguous"}}


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


# ---- pickles -------------------------------------------------------------------------------------------------------


def pickled(path, owned, how):
    """A file with a payload, written in the ways that readers know."""
    payload = {"state": Payload(owned), "weight": torch.zeros(2)}
    if how == "torch":
        torch.save(payload, path)
    elif how == "old torch":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(payload))


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_pickles_as_weights(owned, tmp_path, how):
    pickled(tmp_path / "evil.pth", owned, how)
    with pytest.raises(
        InputError, match=r"--weights .*evil.pth: (holds an object \((_?io|builtins).open\)|not a readable weights file)"
    ):
        model.read_state_dict(tmp_path / "evil.pth")


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_pickles_as_a_saved_state(owned, tmp_path, how):
    (tmp_path / "fold0").mkdir()
    pickled(tmp_path / "fold0" / "last.pt", owned, how)
    with pytest.raises(InputError, match=r"last.pt: damaged .*; delete it to train this fold anew"):
        engine.load_state(tmp_path, 0)


def test_pickles_as_weights_of_a_run(owned, tmp_path):
    pickled(tmp_path / "best.safetensors", owned, "torch")
    with pytest.raises(InputError, match=r"best.safetensors: damaged \(.*"):
        model.load(tmp_path / "best.safetensors")


@pytest.fixture
def cached(tmp_path):
    """(files, geometry, cache folder, its array, its facts) of a cache of two images."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    files, geometry = [tmp_path / "a.png", tmp_path / "b.png"], Geometry(4, 4)
    key = images.cache_key(files, geometry)
    (tmp_path / "cache").mkdir()
    pixels, facts = (tmp_path / "cache" / f"{key}.{kind}" for kind in ("npy", "json"))
    np.save(pixels, np.zeros((2, 4, 4, 3), dtype=np.uint8))
    facts.write_text('{"bad": []}')
    return files, geometry, tmp_path / "cache", pixels, facts


def test_caches_that_are_not_what_they_should_be(owned, cached):
    """A pickle, an array of objects, an archive, another array; a list of bad images that points elsewhere."""
    files, geometry, folder, pixels, facts = cached
    assert images.open_cache(files, geometry, folder)[0].shape == (2, 4, 4, 3)
    arrays = {
        "a pickle": lambda: pixels.write_bytes(pickle.dumps(Payload(owned))),
        "objects": lambda: np.save(pixels, np.array([Payload(owned)], dtype=object), allow_pickle=True),
        "an archive": lambda: np.savez(open(pixels, "wb"), a=np.zeros(3)),  # noqa: SIM115
        "another shape": lambda: np.save(pixels, np.zeros((2, 4, 5, 3), dtype=np.uint8)),
        "another type": lambda: np.save(pixels, np.zeros((2, 4, 4, 3), dtype=np.float32)),
        "another order": lambda: np.save(pixels, np.asfortranarray(np.zeros((2, 4, 4, 3), dtype=np.uint8))),
        "a part": lambda: pixels.write_bytes(pixels.read_bytes()[:150]),
        "nothing": lambda: pixels.write_bytes(b""),
    }
    for change in arrays.values():
        change()
        with pytest.raises(InputError, match=rf"{pixels}: damaged \(.*\); delete it and its .json to have it built anew"):
            images.open_cache(files, geometry, folder)
    for text in ("", "[]", "{}", '{"bad": 1}', '{"bad": [1]}', '{"bad": [{"index": 5, "error": "x"}]}', "[" * 100_000):
        facts.write_text(text)
        with pytest.raises(InputError, match=rf"{facts}: "):
            images.open_cache(files, geometry, folder, skip_bad=True)


# ---- safetensors ---------------------------------------------------------------------------------------------------


def safe(header, data=b"", length=None):
    """The bytes of a safetensors file with any header, also one that lies about its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LIES = {
    "a huge header": safe({}, length=2**63),
    "a header longer than the file": safe({"a": TENSOR}, bytes(8), length=10_000),
    "no JSON": safe(b"{" * 50),
    "nested JSON": safe(b"[" * 100_000),
    "offsets outside": safe({"a": {**TENSOR, "data_offsets": [0, 8000]}}, bytes(8)),
    "offsets that overlap": safe({"a": TENSOR, "b": TENSOR}, bytes(8)),
    "offsets backwards": safe({"a": {**TENSOR, "data_offsets": [8, 0]}}, bytes(8)),
    "offsets that overflow": safe({"a": {**TENSOR, "data_offsets": [2**64 - 8, 2**64 - 1]}}, bytes(8)),
    "a gap": safe({"a": {**TENSOR, "data_offsets": [8, 16]}}, bytes(16)),
    "a shape that does not fit": safe({"a": {**TENSOR, "shape": [3]}}, bytes(8)),
    "a shape that overflows": safe({"a": {**TENSOR, "shape": [2**62, 2**62]}}, bytes(8)),
    "an unknown type": safe({"a": {**TENSOR, "dtype": "OBJ"}}, bytes(8)),
    "nothing after the length": struct.pack("<Q", 8),
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_that_lie(tmp_path, lie):
    file = tmp_path / "best.safetensors"
    file.write_bytes(LIES[lie])
    with pytest.raises(InputError, match=r"--weights .*best.safetensors: not a readable weights file"):
        model.read_state_dict(file)
    with pytest.raises(
        InputError, match=r"best.safetensors: damaged \(.*\); not weights written by train.py, or changed since: copy it again"
    ):
        model.load(file)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {name: value.contiguous() for name, value in model.create("test_resnet", "mask", (32, 24)).state_dict().items()}


def saved(path, state, facts):
    safetensors.torch.save_file(state, path, metadata={"experiment": facts if isinstance(facts, str) else json.dumps(facts)})
    return path


def test_weights_as_train_leaves_them_are_read(tmp_path, state):
    net, facts = model.load(saved(tmp_path / "best.safetensors", state, FACTS))
    assert facts == FACTS and torch.equal(net.fc.weight, state["fc.weight"])


@pytest.mark.parametrize("name", ["hf-hub:someone/resnet18", "hf_hub:someone/resnet18", "local-dir:/tmp/model", "../../model", "/tmp/model",
                                  "resnet18/../../x", "timm/resnet18", "", 7, ["test_resnet"], None])  # fmt: skip
def test_models_of_a_hub_or_a_folder_are_not_looked_for(tmp_path, state, name, monkeypatch):
    monkeypatch.setattr(model.timm, "create_model", None)
    file = saved(tmp_path / "best.safetensors", state, {**FACTS, "model": name})
    with pytest.raises(InputError, match=r"best.safetensors: damaged \(its model is .*\); not weights written by train.py"):
        model.load(file)


@pytest.mark.parametrize("change", [
    {"fc.weight": torch.zeros(3, 9)}, {"fc.weight": None}, {"more": torch.zeros(1)},
])  # fmt: skip
def test_weights_of_another_model_under_its_name(tmp_path, state, change):
    changed = dict(state)
    for name, value in change.items():
        changed = {key: kept for key, kept in changed.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(InputError, match=r"best.safetensors: damaged \(.*; its weights don't fit test_resnet"):
        model.load(saved(tmp_path / "best.safetensors", changed, FACTS))


def test_backbone_files_with_odd_names(tmp_path):
    for content in ({1: torch.zeros(2)}, [1, 2], {"a": 1}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(InputError, match=r"--weights .*other.pth: holds no state dict \(names to tensors\)"):
            model.read_state_dict(tmp_path / "other.pth")
    torch.save({"pos_embed": torch.zeros(1), "patch_embed.proj.weight": torch.zeros(2)}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"--weights .*odd.pth: "):
        model.create("test_vit", "mask", (160, 160), weights=tmp_path / "odd.pth")


# ---- yaml and json -------------------------------------------------------------------------------------------------

TAGS = ["!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os.system", "!!python/module:os"]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("file", ["args.yaml", "recipe.yaml"])
def test_yaml_runs_nothing(owned, tmp_path, tag, file):
    run = tmp_path / "runs" / "evil"
    run.mkdir(parents=True)
    (run / file).write_text(f"target: mask\nmembers: []\nx: {tag} ['touch {owned}']\n")
    readers = [lambda: leaderboard.read_record(run), lambda: inference.find_runs(run)]
    readers += [lambda: experiment.read_args(run)] if file == "args.yaml" else []
    for read in readers:
        with pytest.raises(InputError, match=rf"evil/{file}: damaged \(could not determine a constructor"):
            read()


@pytest.mark.parametrize("text", ["", "# a comment\n", "- a\n", "text"])
def test_files_of_options_without_any_say_how_to_get_them_back(tmp_path, text):
    for file, read, remedy in (
        ("args.yaml", experiment.read_args, "copy the run again, or train it anew"),
        ("recipe.yaml", experiment.read_recipe, "make the ensemble again"),
    ):
        (tmp_path / file).write_text(text)
        with pytest.raises(InputError, match=rf"{file}: damaged \(holds no mapping\); {remedy}$"):
            read(tmp_path)


@pytest.mark.parametrize(
    "members", [7, [7], [{"run": 7}], [{"run": "a", "weight": "all"}], [{"run": "a", "weight": {"mask": []}}], [{}]]
)
def test_members_of_a_recipe_that_are_none(tmp_path, members):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"members": members}))
    with pytest.raises(InputError, match=r"recipe.yaml: damaged"):
        inference.find_runs(tmp_path)


def test_a_sweep_reads_the_command_of_a_run_as_words(owned, tmp_path):
    run = tmp_path / "runs" / "a-s1"
    run.mkdir(parents=True)
    (tmp_path / "sweep.txt").write_text("a:\n")
    (job,) = sweep.make_jobs(sweep.read_plan(tmp_path / "sweep.txt"), [1], tmp_path / "runs")
    for first in (
        f"# python train.py --seed 1 $(touch {owned})",
        f"# python train.py --seed `touch {owned}`",
        '# python train.py "',
        "# train.py x",
    ):
        (run / "args.yaml").write_text(f"{first}\ntarget: mask\n")
        with pytest.raises(InputError, match="a-s1"):
            job.check()


# ---- pages ---------------------------------------------------------------------------------------------------------

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&"


class Tags(html.parser.HTMLParser):
    """The tags of a page that do something, and every attribute that is a handler."""

    def __init__(self, text):
        super().__init__()
        self.found, self.handlers = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [tag] if tag in ("script", "img", "iframe", "object") else []
        self.handlers += [name for name, _value in attrs if name.startswith("on")]


def check_page(path):
    """The one script of a page is its own, and no picture is there but those that were found."""
    text = path.read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.found == ["script"] and not tags.handlers
    assert "Content-Security-Policy" in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_pages_take_names_for_names(tmp_path, monkeypatch, capsys):
    """A run called like markup (the slash makes it a folder in a folder), images and csv files with markup and quotes."""
    monkeypatch.chdir(tmp_path)
    train, held = People(20, seed=0), People(4, seed=1)
    a, b = (write_run(tmp_path / NASTY / name, "label", train, held) for name in ("a<b>", "b"))
    for run in (a, b):
        for file in ("oof.csv", "eval.csv"):
            text = (run / file).read_text().replace("0000_x_", NASTY.replace("/", "")[:20].replace('"', "") + "_x_")
            (run / file).write_text(text.replace(f"{0:040x}", "<script>alert(1)<"))
        (run / "lb.json").write_text(json.dumps({"lb": 0.5, "history": []}))
        options = {"target": "label", "kfold": 5, "loss": NASTY, "optimizer": run.name}
        summary = {
            "oof_f1": 0.5,
            "oof_acc": 0.5,
            "oof_f1_ci95": [0.4, 0.6],
            "folds": [],
            "options": options,
            "people": [24, ""],
        }
        (run / "summary.json").write_text(json.dumps(summary))
        (run / "args.yaml").write_text(yaml.safe_dump(options))
    assert compare.main([str(a.relative_to(tmp_path)), str(b.relative_to(tmp_path)), "--out", "page.html"]) == 0
    check_page(tmp_path / "page.html")
    assert leaderboard.main([str(a.parent), "--html", "board.html"]) == 0
    assert "a&lt;b&gt;" in (tmp_path / "board.html").read_text()
    assert Tags((tmp_path / "board.html").read_text()).found == ["script"]
    (tmp_path / "data" / "train").mkdir(parents=True)
    oof = predictions.read_table(a / "oof.csv", "label", ("image", "path"))
    people = oof.drop_duplicates("path")
    rows = [  # the paths are the ids too
        f'"{path}",{("male", "female")[target % 6 // 3]},x,{(20, 40, 60)[target % 3]},"{path}"'
        for path, target in zip(people["path"], people["target"])
    ]
    (tmp_path / "data" / "train" / "train.csv").write_text("\n".join(["id,gender,race,age,path", *rows]))
    assert report.main(["--label-noise", str(a), "--data-dir", "data", "--out", "noise", "--noise-rate", "0.4"]) == 0
    check_page(tmp_path / "noise" / "index.html")


def test_what_is_told_moves_no_cursor(capsys):
    def refuse():
        raise InputError("\x1b[2J\x1b]0;owned\x07runs/\u202ename\nnext line: no such run")

    assert errors.run(refuse) == 2
    assert capsys.readouterr().err == "error: \\x1b[2J\\x1b]0;owned\\x07runs/\\u202ename next line: no such run\n"
