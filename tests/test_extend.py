"""docs/extend.md and docs/start.ipynb: each diff applies and shows its effect in a training, each cell runs."""

import functools
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import safetensors
import torch
from conftest import SAME_BITS
from sklearn.metrics import balanced_accuracy_score

import demo
import gallery
import train  # noqa: F401 - what it needs of other packages is imported once, and stays

ROOT = Path(__file__).resolve().parents[1]
DIFFS = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "docs" / "extend.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
CELLS = json.loads((ROOT / "docs" / "start.ipynb").read_text(encoding="utf-8"))["cells"]
TINY = ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "24", "--kfold", "2", "--epochs", "1", "--lr", "3e-3",
        "--quiet", *SAME_BITS]  # fmt: skip


def main(script, *argv):
    assert importlib.import_module(script).main(list(argv)) == 0


def loss(run, _out):
    """Poly-1 is cross entropy plus 1 - p_t: of 18 classes, before anything is learnt, log 18 + 17 / 18 = 3.83."""
    assert pd.read_csv(run / "log.csv")["train_loss"].between(3.5, 4.3).all()


def augmentation(_run, _out):
    drawn = importlib.import_module("augment").draw_augment("grey", 900, torch.Generator().manual_seed(0))
    assert 0.3 < float((drawn[:, 7] == 0).float().mean()) < 0.37


def head(run, _out):
    with safetensors.safe_open(run / "fold0" / "best.safetensors", "pt") as weights:
        assert weights.get_tensor("fc.3.weight").shape == (18, 256)
    main("inference", "--models", str(run))


def metric(run, _out):
    for (_fold, oof), told in zip(pd.read_csv(run / "oof.csv").groupby("fold"), pd.read_csv(run / "log.csv")["val_recall"]):
        assert told == pytest.approx(balanced_accuracy_score(oof["target"], oof.filter(regex=r"^p\d").to_numpy().argmax(1)))


def column(_run, out):
    main("leaderboard")
    head, row = (line.split() for line in out().splitlines() if re.match(r"(name|tried) ", line))
    assert head[-4:] == ["epochs", "LB", "LB", "forecast"] and row[-5] == "1"


def logger(run, _out):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["fold"], row["epoch"]) for row in rows] == [(0, 1), (1, 1)]


CASES = [(loss, ["--loss", "poly"]), (augmentation, ["--aug", "grey"]), (head, []), (metric, []), (column, []), (logger, [])]


@pytest.mark.parametrize("number", range(6), ids=[check.__name__ for check, _options in CASES])
def test_a_diff_has_its_effect(number, shared_data, workplace, tmp_path, monkeypatch, capsys):
    for path in [*ROOT.glob("*.py"), ROOT / "templates"]:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
        monkeypatch.setitem(sys.modules, path.stem, None)  # and back when the test is over
        del sys.modules[path.stem]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))  # git would pass over files of a repository above
    (tmp_path / "data").symlink_to(shared_data)
    subprocess.run(["git", "apply", "-"], input=DIFFS[number], text=True, check=True)
    check, options = CASES[number]
    changed = importlib.import_module("train")
    changed.draw_pictures = changed.draw_batch = lambda *args: None
    main("train", "--name", "tried", "--cache-dir", str(workplace / "cache"), *TINY, *options)
    check(tmp_path / "runs" / "tried", lambda: capsys.readouterr().out)
    assert importlib.import_module("train").__file__ == str(tmp_path / "train.py")


def shell(line):
    """A line behind `!`: our scripts by their main, which waits for no imports; what else there is by a shell."""
    words = shlex.split(line)
    main(Path(words[1]).stem, *words[2:]) if words[0] == "python" else subprocess.run(line, shell=True, check=True)


def test_the_cells_of_the_notebook_run(drawn_faces, tmp_path, monkeypatch, capsys):
    """As they stand, without a data folder, so on a demo set: here of fewer people, whose images are drawn already, with a quick
    look's options and fewer thumbnails in reports."""
    monkeypatch.setattr(demo, "DATA_PLACES", (Path("data"),))
    monkeypatch.setattr(demo, "draw_demo", functools.partial(demo.draw_demo, people=60, eval_people=12))
    monkeypatch.setattr(demo, "_draw_all", lambda out, *_size: shutil.copytree(drawn_faces, out))
    monkeypatch.setattr(gallery, "CARDS", 20)
    for name in ("train.py", "requirements.txt"):  # as in a folder that holds the repository
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUICK", shlex.join(["--kfold", "2", "--epochs", "1", "--quiet", *SAME_BITS]))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing is fetched, and what packages need themselves is not looked up
    monkeypatch.setenv("PIP_NO_DEPS", "1")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    shown = []
    module = SimpleNamespace(Image=lambda path: Path(path).stat().st_size, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    code = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")
    exec(re.sub(r"^( *)[!%](.*)$", r"\1shell(f'''\2''')", code, flags=re.MULTILINE), {"shell": shell})
    assert len(shown) == 3 and (tmp_path / "submissions" / "both" / "submission.csv").exists()
    out, err = capsys.readouterr()
    assert "DEMO DATA" in err and "against data-demo/eval/answers.csv" in out
    assert all(f"\n{name} " in out.rpartition("next:")[2] for name in ("focal", "ce", "both"))
