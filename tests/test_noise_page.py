"""noise_page.py and the command report.py --label-noise: its files, its page in a real browser, and what it refuses."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

import dataset
import errors
import noise_page
import predictions
import report
from labels import decode

KEYS = """<script>
const said = {}, press = key => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
press("j"); press("a"); said.count = count.textContent; said.list = list.value;
press("j"); press("a"); press("a"); said.again = count.textContent;
press("2"); said.age = visible().every(card => card.dataset.fix.includes(",age,")); said.shown = visible().length;
press("0"); said.all = visible().length === cards.length;
said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.said = JSON.stringify(said);
</script></body>"""


@pytest.fixture
def run(data, tmp_path):
    """A label run on 12 people that is sure of the truth, but of another gender for one person and an older age for another."""
    people = dataset.read_people(data)
    images = dataset.list_images(data, people)
    rng = np.random.default_rng(0)
    label = images["label"].to_numpy()
    _mask, gender, age = decode(label)
    seen = np.where(images["path"] == people["path"][2], label + np.where(gender == 0, 3, -3), label)
    seen = np.where(images["path"] == people["path"][5], label + np.where(age == 2, -2, 2 - age), seen)
    probs = rng.dirichlet(np.ones(18), size=len(label)) * 0.02 + 0.98 * np.eye(18)[seen]
    folder = tmp_path / "runs" / "sure"
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": "label", "data_dir": "the/data"}))
    predictions.oof_table(images, 0, "label", label[:, None], probs).to_csv(folder / "oof.csv", index=False)
    return folder


def test_the_command_writes_what_train_can_read(run, data, tmp_path, capsys):
    argv = ["--label-noise", str(run), "--data-dir", str(data), "--out", str(tmp_path / "out")]
    assert report.main(argv) == 0
    out, folder = capsys.readouterr().out, tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == ["images.csv", "index.html", "suggestions.csv"]
    people = dataset.read_people(data)
    table = pd.read_csv(folder / "suggestions.csv")
    assert list(table.columns) == ["path", "column", "value", "confidence"]
    assert table[table["column"] == "gender"]["path"].tolist() == [people["path"][2]]
    assert people["path"][5] in table[table["column"] == "age"]["path"].tolist()
    fixes, _left_out = dataset.read_label_fixes(folder / "suggestions.csv", people, 0.0)
    assert len(fixes) == len(table)
    images = pd.read_csv(folder / "images.csv")
    assert list(images.columns) == ["image", "part", "label", "suggested", "probability"]
    assert set(images[images["part"] == "gender"]["image"].str.split("/").str[0]) == {people["path"][2]}
    assert people["path"][2] in out and "train.py --label-fixes accepted.csv" in out
    assert (folder / "index.html").read_text().count("data:image/jpeg;base64,") >= 14
    assert report.main([*argv, "--top", "1", "--noise-rate", "0.05"]) == 0  # older files are replaced
    assert pd.read_csv(folder / "suggestions.csv")["column"].value_counts().max() == 1


def test_missing_images_leave_a_page_without_them(run, data, tmp_path, capsys):
    path = dataset.read_people(data)["path"][2]
    for file in (data / "train" / "images" / path).iterdir():
        file.unlink()
    assert report.main(["--label-noise", str(run), "--data-dir", str(data), "--out", str(tmp_path / "out")]) == 0
    assert "7 image files are missing" in capsys.readouterr().out
    assert "images are not in" in (tmp_path / "out" / "index.html").read_text()


def test_fixed_persons_are_marked(run, data, tmp_path, capsys):
    path = dataset.read_people(data)["path"][2]
    (tmp_path / "fixes.csv").write_text(f"path,column,value\n{path},gender,swap\n")
    args = {"target": "label", "label_fixes": str(tmp_path / "fixes.csv"), "fix_confidence": 0.9, "data_dir": "x"}
    (run / "args.yaml").write_text(yaml.safe_dump(args))
    assert report.main(["--label-noise", str(run), "--data-dir", str(data), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "trained with 1 label fixes" in told.err and f"{path}  (fixed)" in told.out
    assert f"fixed in {tmp_path / 'fixes.csv'}" in (tmp_path / "out" / "index.html").read_text()


def test_names_are_escaped_and_csv_lines_quoted():
    nasty = '<script>owned()</script>",x'
    row = pd.DataFrame(
        {"path": [nasty], "column": "gender", "value": "male", "confidence": 0.9, "recorded": "female", "likely": "male"}
    )
    card = noise_page._card(next(row.itertuples(index=False)), [f"{nasty}/normal.jpg"], {}, {(nasty, "gender"): "<b>.csv"})
    assert "<script" not in card and "<b>.csv" not in card
    assert noise_page.csv_line(nasty, "gender", "male") == '"<script>owned()</script>"",x",gender,male'


def test_in_a_browser_keys_move_filter_and_accept(run, data, tmp_path, browser):
    assert report.main(["--label-noise", str(run), "--data-dir", str(data), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "index.html").read_text()
    dom, console = browser(text.replace("</body>", KEYS), "--dump-dom", "--window-size=420,900")
    said = json.loads(re.search(r'data-said="([^"]*)"', dom).group(1).replace("&quot;", '"'))
    path = dataset.read_people(data)["path"][2]
    assert said["count"] == said["again"] == "1 accepted" and said["list"].splitlines()[0] == "path,column,value,confidence"
    assert said["list"].splitlines()[1].startswith(f"{path},gender,") and said["list"].splitlines()[1].endswith(",1")
    assert said["age"] and said["shown"] >= 1 and said["all"] and said["wide"] <= 0
    assert not [line for line in console if "Error" in line or "Refused" in line]


def test_a_folder_that_can_not_be_made_is_one_line(run, data, capsys):
    assert (
        errors.run(lambda: report.main(["--label-noise", str(run), "--data-dir", str(data), "--out", f"{run}/args.yaml"])) == 2
    )
    assert "args.yaml: can't be made (File exists)" in capsys.readouterr().err


def test_without_data_the_runs_own_place_is_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "DATA_PLACES", ())
    assert errors.run(lambda: report.main(["--label-noise", str(run)])) == 2
    assert "--data-dir: no data folder here" in (err := capsys.readouterr().err) and "trained on the/data" in err
