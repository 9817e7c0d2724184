"""report.html of runs and ensembles: its numbers by hand, its gallery and Grad-CAMs, and both in a browser."""

import html
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import People, eval_names, write_data, write_run
from PIL import Image

import ensemble
import gallery
import images
import predictions
import report
from errors import InputError


def test_numbers_by_hand():
    """By class: 3 of 4 male right, 2 female taken for male, precision 3/5, recall 3/4, F1 6/9. By age: F1 is 1/2 of both genders;
    with 29 or 30 right 4/5 and 2/3, 0.2333 more. By fold: 2/3 and 0. Reliability in 15ths: 0.6 lies in its bin, right:
    0.4; 0.62 and 0.66 above it, one right: |0.5 - 0.64| twice; 1.0 in the last, wrong: 1."""
    table = gallery.class_table(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 0, 0]), "gender")
    assert table.round(4).to_numpy().tolist() == [["male", 0.6, 0.75, 0.6667, 4, 5], ["female", 0.0, 0.0, 0.0, 2, 1]]
    assert np.isnan(gallery.class_table(np.zeros(1, int), np.zeros(1, int), "mask")["f1"][1:]).all()  # classes that never occur
    rows = pd.DataFrame({"truth": [0, 0, 1, 1], "pred": [0, 1, 0, 1], "age": [29, 29, 30, np.nan], "fold": [0, 0, 1, 1]})
    bars = {"<30": [(29, 0.5, "1 / 2 (+0.2333)")], "30-59": [(30, 1.0, "1 / 1 (+0.2333)")]}
    assert gallery.age_bars(rows, 2) == bars
    assert gallery.fold_table(rows, 2) == [(0, 2, pytest.approx(1 / 3), 0.5), (1, 2, pytest.approx(1 / 3), 0.5)]
    bins, error = gallery.calibration(np.array([0.62, 0.66, 1.0, 0.6]), np.array([True, False, False, True]))
    assert bins["images"].tolist() == [1, 2, 1] and bins["accuracy"].tolist() == [1, 0.5, 0]
    assert np.allclose(bins["low"], [8 / 15, 9 / 15, 14 / 15]) and error == pytest.approx((0.4 + 2 * 0.14 + 1) / 4)
    assert images.place_css((32, 16, 96, 112), 128, 128) == "left:25.00%;top:12.50%;width:50.00%;height:75.00%"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two runs of 12 people, without weights, and their data folder, without images."""
    train, held = People(12, seed=0), People(4, seed=1)
    data = write_data(tmp_path / "data", train, eval_names(held))
    monkeypatch.chdir(tmp_path)
    return [write_run(tmp_path / "runs" / target, target, train, held) for target in ("label", "age")], data, train


def test_a_page_without_images_tells_all_else(made, capsys):
    (run, other), data, _train = made
    (run / "args.yaml").write_text(yaml.safe_dump({"target": "label", "kfold": 5, "epochs": 9, "note": "<i>why"}))
    assert report.main([str(run), str(other), "--data-dir", str(data)]) == 0
    told, text = capsys.readouterr().out, (run / "report.html").read_text()
    assert f"{run}: out-of-fold macro F1 of label: 0." in told and "lowest F1: " in told and "python compare.py" in told
    assert "--epochs 9" in text and "&lt;i&gt;why" in text and "No thumbnails: no data folder" in text and "<i>why" not in text
    classes, counts = pd.read_csv(run / "classes.csv"), pd.read_csv(run / "confusion.csv", index_col="truth")
    assert list(counts.columns) == classes["class"].tolist() and (counts.sum(axis=1).to_numpy() == classes["images"]).all()
    oof = predictions.read_table(run / "oof.csv", "label", ("image", "path"))
    wrong = oof.iloc[:, 4:].to_numpy().argmax(1) != oof["target"]
    assert text.count('<button class="card"') == wrong.sum() and f"<b>{wrong.sum()}</b>" in text
    assert text.count("<template data-person") == oof["path"][wrong].nunique()
    assert ensemble.main(["--models", str(run), str(other), "--data-dir", str(data), "--name", "both", "--quiet"]) == 0
    both = data.parent / "submissions" / "both"
    assert "submissions/both/report.html: scores by class" in capsys.readouterr().out and (both / "confusion.png").is_file()
    assert "ensemble of 2" in (both / "report.html").read_text()
    for folder, message in ((both, "every member needs one"), (run, "python train.py --resume .*label goes on")):
        (folder / "oof.csv").unlink()
        with pytest.raises(InputError, match=f"{folder.name}: has no oof.csv to report on; {message}"):
            gallery.write_report(folder)


def test_the_run_of_greatest_weight_comes_first(made):
    """Over all 0.9 and 0.4, on the mask 0 and 0.4; what is gone is left out."""
    weights = dict(zip(map(str, made[0]), ({"label": 0.4}, {"age_group": 0.9}))) | {"gone": 5}
    members = [{"run": run, "weight": weight} for run, weight in weights.items()]
    ensemble = SimpleNamespace(is_run=False, options={"members": members})
    for component, targets in ((None, ["age", "label"]), ("mask", ["label", "age"])):
        assert [run.target for run in predictions.runs_by_weight(ensemble, component)] == targets


def test_only_so_many_cards_and_bytes(made, monkeypatch):
    """The most confident come first; a person's images count once."""
    (run, _other), data, train = made
    for image in predictions.read_table(run / "oof.csv", "label", ("image", "path"))["image"]:
        (file := data / "train" / "images" / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 40), "red").save(file)
    answers = gallery.read_answers(predictions.open_member(str(run)), str(data))
    assert answers.rows["age"].tolist() == train.age.tolist() and answers.data_dir == data
    whole = gallery.make_gallery(answers, "cpu", quiet=True)
    assert len(whole.cards) == (answers.rows["truth"] != answers.rows["pred"]).sum() > 4
    assert (np.diff(whole.cards["confidence"]) <= 0).all() and "the weights are gone" in whole.note and whole.looks == {}
    size = {height: len(address) for (_image, height), address in whole.pictures.items()}
    strips = 7 * size[gallery.SMALL[0]] * whole.cards["path"].head(3).nunique()
    for name, value, count in (("BYTES", 3 * size[gallery.LARGE[0]] + strips, 3), ("CARDS", 2, 2)):
        monkeypatch.setattr(gallery, name, value)
        assert len(gallery.make_gallery(answers, "cpu", quiet=True).cards) == count


KEYS = """<script>
const said = {}, press = key => (document.activeElement || document.body).dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const enter = (input, value) => { input.value = value; input.dispatchEvent(new Event("input")); };
press("1"); said.flow = visible().length; said.told = shown.textContent; press("0"); said.all = visible().length;
enter(least, "2"); said.none = visible().length; enter(least, "0"); enter(person, cards[0].dataset.person.toUpperCase());
said.person = visible().every(card => card.dataset.person === cards[0].dataset.person); enter(person, "");
press("j"); press("Enter"); said.seven = content.querySelectorAll(".strip figure").length;
const heat = content.querySelector(".heat"); said.on = getComputedStyle(heat).display; press("c");
said.off = getComputedStyle(heat).display; press("Escape"); said.closed = !large.open;
said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.said = JSON.stringify(said);
</script></body>"""


def test_a_run_with_weights_in_a_browser(runs, tmp_path, browser):
    """Of shifted predictions all are wrong: each fold explains its own images; filters, keys and the large view work."""
    run = shutil.copytree(runs["label"], tmp_path / "run")
    oof = pd.read_csv(run / "oof.csv")
    oof.iloc[:, 4:] = np.roll(oof.iloc[:, 4:].to_numpy(), 1, axis=1)
    oof.to_csv(run / "oof.csv", index=False)
    gallery.write_report(run)
    text = (run / "report.html").read_text()
    assert text.count('class="heat"') == text.count('<button class="card"') > 100 and "Grad-CAM: where run looks" in text
    dom, console = browser(text.replace("</body>", KEYS), "--dump-dom", "--window-size=420,900")
    said = json.loads(html.unescape(re.search(r'data-said="([^"]*)"', dom).group(1)))
    assert said["flow"] < said["all"] and said["told"].startswith(f"{said['flow']} of ") and said["none"] == 0
    assert said["person"] and said["seven"] == 7 and said["closed"] and said["wide"] <= 0
    assert (said["on"], said["off"]) == ("block", "none") and not [line for line in console if "Error" in line]
    shutil.rmtree(run / "fold1")
    looks = gallery.make_gallery(gallery.read_answers(predictions.open_member(str(run)), None), "cpu", quiet=True).looks
    assert 0 < len(looks) < text.count('class="heat"')
