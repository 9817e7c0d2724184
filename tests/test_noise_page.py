"""noise_page.py and the command report.py --label-noise: its files, its page in a real browser, and what it refuses."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score

import dataset
import demo
import errors
import noise
import predictions
import report
from dataset import decode

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


@pytest.fixture
def guessing(data, tmp_path):
    """A run whose predictions have nothing to do with the labels: nearly 1/18 each."""
    images = dataset.list_images(data, dataset.read_people(data))
    label = images["label"].to_numpy()
    probs = np.random.default_rng(0).dirichlet(np.full(18, 1000.0), size=len(label))
    folder = tmp_path / "runs" / "guessing"
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": "label", "data_dir": "the/data"}))
    predictions.oof_table(images, 0, "label", label[:, None], probs).to_csv(folder / "oof.csv", index=False)
    return folder


OPEN = """<script>
const said = {before: visible().length};
document.querySelectorAll("section details").forEach(each => { each.open = true; });
said.after = visible().length; said.cards = cards.length;
document.body.dataset.said = JSON.stringify(said);
</script></body>"""


def test_runs_at_chance_are_told_so_and_what_they_say_is_folded_away(guessing, data, tmp_path, capsys, browser):
    assert report.main(["--label-noise", str(guessing), "--data-dir", str(data), "--out", str(tmp_path / "out")]) == 0
    told, text = capsys.readouterr().out, (tmp_path / "out" / "index.html").read_text()
    oof = pd.read_csv(guessing / "oof.csv")
    f1 = f1_score(oof["target"], oof[dataset.columns("label")].to_numpy().argmax(1), average="macro", zero_division=0)
    for shown in (told, text):
        assert f"{guessing} (macro F1 of label {f1:.4f})" in shown
        words = shown[shown.index("These models can") : shown.index("is chance.")]
        assert re.findall(r"(\w+) \(macro F1 0\.\d\d, guessing has (0\.\d\d)\)", words) == [
            ("gender", "0.50"), ("age", "0.33"), ("mask", "0.33")]  # fmt: skip
    assert not re.findall(r"^ +\d\.\d%", told, re.MULTILINE) and "of them below 10%" in told
    assert 'gender <span class="grey">0 of 10% or more' in text and 'mask <span class="grey">0 shown' in text
    dom, _console = browser(text.replace("</body>", OPEN), "--dump-dom")
    said = json.loads(re.search(r'data-said="([^"]*)"', dom).group(1).replace("&quot;", '"'))
    assert said["before"] == 0 and said["after"] == said["cards"] > 20


def test_what_is_below_ten_percent_is_folded_away_and_good_runs_are_not_doubted(run, data, tmp_path, capsys):
    """At a lower --noise-rate the same contradiction is less probably a wrong label."""
    argv = ["--label-noise", str(run), "--data-dir", str(data), "--out", str(tmp_path / "out"), "--noise-rate"]
    for rate, likely in (("0.2", True), ("0.0001", False)):
        assert report.main([*argv, rate]) == 0
        told, table = capsys.readouterr().out, pd.read_csv(tmp_path / "out" / "suggestions.csv")
        sure = table[(table["column"] == "gender") & (table["confidence"] >= 0.1)]
        assert (len(sure) > 0) == likely and "can't judge" not in told and "(macro F1 of label 0." in told
        text = (tmp_path / "out" / "index.html").read_text()
        assert f'gender <span class="grey">{len(sure)} of 10% or more' in text
        open_cards, _fold, folded = text.partition("below 10%</summary>")
        gender = f'data-fix="{dataset.read_people(data)["path"][2]},gender,'
        assert (gender in open_cards) == likely and (gender in folded) != likely


def test_names_are_escaped_and_csv_lines_quoted():
    nasty = '<script>owned()</script>",x'
    row = pd.DataFrame(
        {"path": [nasty], "column": "gender", "value": "male", "confidence": 0.9, "recorded": "female", "likely": "male"}
    )
    nothing = row.iloc[:0]
    findings = noise.Findings(row, nothing, {"gender": 1.0}, 1, {})
    fixed = {(nasty, "gender"): "<b>.csv"}
    page = noise.document(findings, row, nothing, {nasty: [f"{nasty}/<i>.jpg"]}, {}, ["<u>"], "<s>", fixed)
    assert not re.findall("<script>owned|<b>.csv|<i>|<u>|<s>", page) and page.count("&lt;script&gt;owned()") == 2
    assert noise.csv_line(nasty, "gender", "male") == '"<script>owned()</script>"",x",gender,male'


def test_in_a_browser_keys_move_filter_and_accept(run, data, tmp_path, browser):
    argv = ["--label-noise", str(run), "--data-dir", str(data), "--out", str(tmp_path / "out"), "--noise-rate", "0.2"]
    assert report.main(argv) == 0  # a rate at which nothing listed is below 10 %
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
    monkeypatch.setattr(demo, "DATA_PLACES", ())
    assert errors.run(lambda: report.main(["--label-noise", str(run)])) == 2
    assert "--data-dir: no data folder here" in (err := capsys.readouterr().err) and "trained on the/data" in err
