"""report.py --label-noise: confidences by hand, planted errors, what is refused, and its page in a real browser."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import expit
from sklearn.metrics import f1_score

import dataset
import errors
import predictions
import report
from dataset import GENDERS, decode, encode, to_age_group
from errors import InputError

KINDS = tuple(dataset.IMAGE_KINDS)


def make_people(count, seed=0):
    """The rows of train.csv: as dataset.read_people gives them."""
    rng = np.random.default_rng(seed)
    gender, age = rng.integers(2, size=count), rng.integers(18, 66, size=count)
    names = [f"{number:04d}" for number in range(count)]
    return pd.DataFrame({"path": names, "id": names, "gender": gender, "age": age})


def make_images(people):
    """The image rows of people, with official classes."""
    rows, kinds = people.loc[people.index.repeat(7)].reset_index(drop=True), list(KINDS) * len(people)
    names = [f"{path}/{kind}.jpg" for path, kind in zip(rows["path"], kinds)]
    masks = [dataset.IMAGE_KINDS[kind] for kind in kinds]
    return rows.assign(image=names, mask=np.array(masks), age_group=to_age_group(rows["age"]))


def make_evidence(people, shown):
    """Evidence on the labels of `people` by a good model that sees `shown` (people whose labels are all right)."""
    images, seen, rng, probs = make_images(people), make_images(shown), np.random.default_rng(0), {}
    for part, C in (("mask", 3), ("gender", 2), ("age_group", 3)):
        probs[part] = dataset.softmax(rng.normal(size=(len(seen), C)) + 4 * np.eye(C)[seen[part]])
    return report.Evidence(images[["image", "path"]], probs, {part: images[part].to_numpy() for part in probs})


def write_run(folder, target, images, probs, **args):
    """A run folder as far as label noise reads it: args.yaml and oof.csv, of image rows with official classes."""
    truth = {"multi": ["mask", "gender", "age_group"], "age": ["age_group"]}.get(target, [target])
    labels = images.assign(label=encode(images["mask"], images["gender"], to_age_group(images["age"])))
    table = predictions.oof_table(images, 0, target, labels[truth].to_numpy(), probs)
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": target, "data_dir": "the/data", **args}))
    table.to_csv(folder / "oof.csv", index=False)
    return folder


@pytest.fixture
def plain(monkeypatch):
    """Temperature 1 and no shift, so that confidences can be worked by hand."""
    monkeypatch.setattr(report, "calibrate", lambda explain, size, noise_rate: np.zeros(size))


def test_confidences_of_gender_and_swaps_by_hand(plain):
    """Bayes: recorded male at p(female) = 0.9 has 0.01 x 0.9 / (0.01 x 0.9 + 0.99 x 0.1) = 0.009 / 0.108; female 0.001 / 0.892. As
    named 0.1 x 0.3 against swapped 0.8 x 0.6: right = 0.03 / 0.51, wrong = 0.48 / 0.51. Equal probabilities leave the prior."""
    got = report.gender_confidence(np.array([[0.1, 0.9], [0.1, 0.9], [0.5, 0.5]]), np.array([0, 1, 1]), 0.01)
    np.testing.assert_allclose(got, [0.009 / 0.108, 0.001 / 0.892, 0.01])
    got = report.swap_confidence(np.array([[0.1, 0.8, 0.1]]), np.array([[0.1, 0.3, 0.6]]), 0.01)
    np.testing.assert_allclose(got, [0.01 * 0.48 / (0.01 * 0.48 + 0.99 * 0.03)])


def test_age_confidence_by_hand(plain):
    """By years: 0.3 at 24, 0.7 at 45, so likely 45. Recorded 20 has 0.3 within 5 years, recorded 40 has 0.7, 33 nothing. Anyone's
    age: that of the three people and of one spread over all 43 ages: (1 + 8/43) / 4 within 5 years of 20 (18..25). By groups:
    recorded 22, 22, 44, 70 and p(30-59) = 0.8, so likely the 44 of the middle group; recorded 22 has about 0.1 within its 5 years
    where anyone has 2 of 4 (and 1/43 of a person at each age)."""
    years = np.zeros((3, 43))
    years[:, 24 - 18], years[:, 45 - 18] = 0.3, 0.7
    got, likely = report.age_confidence(np.array([[0.3, 0.7, 0.0]] * 3), years, np.array([20, 40, 33]), 0.01)
    wrong = (1 + 8 / 43) / 4
    assert got[0] == pytest.approx(0.01 * wrong / (0.01 * wrong + 0.99 * 0.3), rel=1e-3)
    assert got[1] < got[0] < 0.01 < 0.5 < got[2] and likely.tolist() == [45] * 3
    got, likely = report.age_confidence(np.array([[0.1, 0.8, 0.1]] * 4), None, np.array([22, 22, 44, 70]), 0.01)
    assert got[0] == got[1] == pytest.approx(0.01 * 0.5 / (0.01 * 0.5 + 0.99 * 0.1), rel=0.1)
    assert got[2] < 0.01 < got[3] and likely.tolist() == [44] * 4


@pytest.mark.parametrize("copies", [1, 7])
def test_calibration_undoes_that_images_of_a_person_are_one_photograph(copies, monkeypatch):
    """Odds that are true once are 7 times too large when 7 copies are added up: the fitted temperature is 1/7. The sum of
    confidences is then the number of labels that are really wrong, 300 of 30,000 (sd of a binomial: 17)."""
    rng = np.random.default_rng(1)
    odds = rng.normal(0, 4, size=30_000)
    gender = (rng.random(30_000) < expit(odds)).astype(int)
    gender[rng.permutation(30_000)[:300]] ^= 1
    probs = np.stack([expit(-copies * odds), expit(copies * odds)], 1)
    monkeypatch.setattr(report, "FLOOR", 1e-300)
    confidence = report.gender_confidence(probs, gender, 0.01)
    assert confidence.sum() == pytest.approx(300, abs=51)
    right = expit(odds * (2 * gender - 1))
    np.testing.assert_allclose(confidence, report.wrong_probability(right, 1 - right, 0.01), atol=0.03)


def test_planted_errors_come_first_in_every_column_and_accepting_them_restores_the_labels(tmp_path):
    """Of 200 people 3 genders are flipped, 3 ages moved far and 3 pairs of images swapped, as their predictions show it. The csv
    goes through dataset.read_label_fixes: gender and mask are right again, ages in the right group."""
    people, order = make_people(200), np.random.default_rng(7).permutation(200)
    planted, rows = people.copy(), {"gender": order[:3], "age": order[3:6], "mask": order[6:9]}
    planted.loc[rows["gender"], "gender"] = 1 - planted["gender"][rows["gender"]]
    planted.loc[rows["age"], "age"] = np.where(planted["age"][rows["age"]] < 40, 62, 20)
    paths, evidence = {column: set(people["path"][three]) for column, three in rows.items()}, make_evidence(planted, people)
    for person in rows["mask"]:
        pair = person * 7 + np.array([KINDS.index("normal"), KINDS.index("incorrect_mask")])
        evidence.probs["mask"][pair] = evidence.probs["mask"][pair[::-1]]
    findings = report.judge(evidence, planted, 0.01)
    for column, expected in paths.items():
        claims = findings.claims[findings.claims["column"] == column]
        assert set(claims["path"][:3]) == expected and (claims["confidence"][:3] > 0.03).all(), column
        assert findings.expected[column] == pytest.approx(3, abs=2.5)
    flipped = findings.claims[findings.claims["column"] == "gender"].iloc[0]
    truth = GENDERS[people.set_index("path")["gender"][flipped["path"]]]
    assert (flipped["value"], flipped["likely"]) == (truth, truth) and flipped["recorded"] != truth
    assert findings.claims["confidence"].is_monotonic_decreasing and (findings.claims["confidence"] > 0.01).all()
    first = findings.claims.groupby("column").head(3)
    first[["path", "column", "value", "confidence"]].to_csv(tmp_path / "s.csv", index=False)
    fixes, left_out = dataset.read_label_fixes(tmp_path / "s.csv", planted, 0.03)
    images, right = make_images(planted), make_images(people)
    fixed = dataset.apply_label_fixes(images, fixes)
    assert (findings.people, len(fixes), left_out) == (200, 9, 0) and fixed["gender"].equals(right["gender"])
    assert to_age_group(fixed["age"]).tolist() == right["age_group"].tolist()
    moved = fixed["path"][fixed["mask"] != images["mask"]]
    assert set(moved) == paths["mask"] and len(moved) == 6


def test_ages_in_the_recorded_group_or_near_are_no_suggestion():
    people = pd.DataFrame({"path": list("abcd"), "id": list("abcd"), "gender": 0, "age": [28, 35, 59, 22]})
    years = np.full((4, 43), 1e-9)
    for row, age in enumerate((31, 55, 60, 50)):  # 28: near; 35: same group; 59: near; 22: another group
        years[row, age - 18] = 1
    probs = {"age_group": np.stack([years[:, :12].sum(1), years[:, 12:42].sum(1), years[:, 42]], 1), "age": years}
    rows = pd.DataFrame({"image": [f"{path}/mask1.jpg" for path in "abcd"], "path": list("abcd")})
    evidence = report.Evidence(rows, probs, {"age_group": to_age_group(people["age"])})
    claims = report.judge(evidence, people, 0.01).claims
    assert claims[["path", "likely", "value"]].values.tolist() == [["d", "50 (30-59)", "50"]]


def test_people_without_a_pair_have_no_swap():
    evidence = make_evidence(make_people(5), make_people(5))
    kept = ~evidence.rows["image"].isin(["0001/normal.jpg", "0003/incorrect_mask.jpg"])
    rows = evidence.rows[kept].reset_index(drop=True).replace("0002/normal.jpg", "0002/Normal.jpg")
    person, paths = pd.factorize(rows["path"])
    evidence = report.Evidence(rows, {"mask": evidence.probs["mask"][kept]}, {})
    assert report.swap_claims(evidence, person, paths, 0.01)["path"].tolist() == ["0000", "0002", "0004"]


def test_contradictions_are_the_wrong_images_of_every_part():
    """Two images: gender wrong in the first with 0.7, mask wrong in the second with 0.9."""
    rows = pd.DataFrame({"image": ["a/normal.jpg", "a/mask1.jpg"], "path": "a"})
    probs = {"gender": np.array([[0.3, 0.7], [0.6, 0.4]]), "mask": np.array([[0.1, 0.1, 0.8], [0.05, 0.9, 0.05]])}
    table = report.contradictions(report.Evidence(rows, probs, {"gender": np.array([0, 0]), "mask": np.array([2, 0])}))
    assert table.values.tolist() == [
        ["a/mask1.jpg", "mask", "worn", "incorrect", 0.9], ["a/normal.jpg", "gender", "male", "female", 0.7]]  # fmt: skip


def test_runs_of_any_target_are_averaged_by_part(tmp_path):
    """Gender from a gender run (0.8) and a label run whose marginal is 0.4: 0.6. Rows of other orders are joined by image."""
    people, images, n = make_people(4), make_images(make_people(4)), 28
    label = np.zeros((n, 18))
    label[:, encode(0, 1, 0)], label[:, encode(2, 0, 1)] = 0.4, 0.6
    years = np.zeros((n, 43))
    years[:, 20 - 18], years[:, 60 - 18] = 0.25, 0.75
    gender = write_run(tmp_path / "gender", "gender", images, np.tile([0.2, 0.8], (n, 1)))
    pd.read_csv(gender / "oof.csv", dtype=str).sample(frac=1, random_state=0).to_csv(gender / "oof.csv", index=False)
    runs = [gender, write_run(tmp_path / "label", "label", images, label), write_run(tmp_path / "age", "age", images, years)]
    evidence = report.average(report.read_evidence([str(run) for run in runs]))
    np.testing.assert_allclose(evidence.probs["gender"], np.tile([0.4, 0.6], (n, 1)))
    np.testing.assert_allclose(evidence.probs["mask"], np.tile([0.4, 0, 0.6], (n, 1)))
    np.testing.assert_allclose(evidence.probs["age_group"], np.tile([(0.4 + 0.25) / 2, 0.6 / 2, 0.75 / 2], (n, 1)))
    np.testing.assert_allclose(evidence.probs["age"], years)
    images = images.set_index("image").loc[evidence.rows["image"]]
    assert all(truth.tolist() == images[part].tolist() for part, truth in evidence.truth.items())
    report.check_people(evidence, people, "train.csv", None)


def test_a_multi_run_alone_decides_all(tmp_path):
    people, probs = make_people(3), np.tile([0.5, 0.3, 0.2, 0.1, 0.9, 0.2, 0.2, 0.6], (21, 1))
    run = write_run(tmp_path / "m", "multi", make_images(people), probs)
    evidence = report.average(report.read_evidence([str(run)]))
    wanted = {"mask": [0.5, 0.3, 0.2], "gender": [0.1, 0.9], "age_group": [0.2, 0.2, 0.6]}
    assert {part: values[0].tolist() for part, values in evidence.probs.items()} == wanted
    assert set(report.judge(evidence, people, 0.01).expected) == {"gender", "age", "mask"}


def test_what_does_not_fit_together_is_refused(tmp_path):
    people, probs = make_people(3), np.tile([0.2, 0.8], (21, 1))
    run = write_run(tmp_path / "g", "gender", make_images(people), probs)
    small = write_run(tmp_path / "small", "gender", make_images(people[:2]), probs[:14])
    with pytest.raises(InputError, match=r"oof.csv hold different images \(7 in one alone"):
        report.read_evidence([str(run), str(small)])
    with pytest.raises(InputError, match=r"--label-noise .*nothing.: matches no run"):
        report.read_evidence([str(tmp_path / "nothing*")])
    evidence = report.average(report.read_evidence([str(run)]))
    with pytest.raises(InputError, match=r"^train.csv: lacks '0002', whom the runs predicted; .* --data-dir elsewhere"):
        report.check_people(evidence, people[:2], "train.csv", "elsewhere")
    other = people.assign(gender=people["gender"].where(people["path"] != "0001", 1 - people["gender"]))
    with pytest.raises(InputError, match=r"another gender of '0001' than in oof.csv; give the --data-dir of the runs"):
        report.check_people(evidence, other, "train.csv", None)


def test_fixes_that_runs_were_trained_with(tmp_path, capsys):
    people, probs = make_people(3), np.tile([0.2, 0.8], (21, 1))
    (tmp_path / "fixes.csv").write_text("path,column,value,confidence\n0001,gender,swap,1\n0002,age,20,0.5\n")
    for name, file in (("one", str(tmp_path / "fixes.csv")), ("two", str(tmp_path / "gone.csv")), ("three", None)):
        write_run(tmp_path / name, "gender", make_images(people), probs, label_fixes=file, fix_confidence=0.9)
    members = report.read_evidence([str(tmp_path / name) for name in ("one", "two", "three")])
    assert report.applied_fixes(members, people) == {("0001", "gender"): str(tmp_path / "fixes.csv")}
    err = capsys.readouterr().err
    assert "one was trained with 1 label fixes" in err and "two was trained with label fixes that can't be read now" in err


@pytest.fixture
def run(data, tmp_path):
    """A label run on 12 people that is sure of the truth, but of another gender for one person and an older age for another."""
    people = dataset.read_people(data)
    images = dataset.list_images(data, people)
    label = images["label"].to_numpy()
    _mask, gender, age = decode(label)
    seen = np.where(images["path"] == people["path"][2], label + np.where(gender == 0, 3, -3), label)
    seen = np.where(images["path"] == people["path"][5], label + np.where(age == 2, -2, 2 - age), seen)
    probs = np.random.default_rng(0).dirichlet(np.ones(18), size=len(label)) * 0.02 + 0.98 * np.eye(18)[seen]
    return write_run(tmp_path / "runs" / "sure", "label", images, probs)


@pytest.fixture
def guessing(data, tmp_path):
    """A run whose predictions have nothing to do with the labels: nearly 1/18 each."""
    images = dataset.list_images(data, dataset.read_people(data))
    probs = np.random.default_rng(0).dirichlet(np.full(18, 1000.0), size=len(images))
    return write_run(tmp_path / "runs" / "guessing", "label", images, probs)


@pytest.fixture
def written(data, tmp_path, capsys):
    """written(run, *argv): stdout, stderr, and the page in the folder out/ of report.py --label-noise."""

    def call(run, *argv):
        out = tmp_path / "out"
        assert report.main(["--label-noise", str(run), "--data-dir", str(data), "--out", str(out), *argv]) == 0
        return *capsys.readouterr(), (out / "index.html").read_text()

    return call


def test_the_command_writes_what_train_can_read(run, data, tmp_path, written):
    (out, _err, text), folder, people = written(run), tmp_path / "out", dataset.read_people(data)
    assert sorted(path.name for path in folder.iterdir()) == ["images.csv", "index.html", "suggestions.csv"]
    table, images = (pd.read_csv(folder / name) for name in ("suggestions.csv", "images.csv"))
    assert list(table.columns) == ["path", "column", "value", "confidence"]
    assert table[table["column"] == "gender"]["path"].tolist() == [people["path"][2]]
    assert people["path"][5] in table[table["column"] == "age"]["path"].tolist()
    fixes, _left_out = dataset.read_label_fixes(folder / "suggestions.csv", people, 0.0)
    assert len(fixes) == len(table)
    assert list(images.columns) == ["image", "part", "label", "suggested", "probability"]
    assert set(images[images["part"] == "gender"]["image"].str.split("/").str[0]) == {people["path"][2]}
    assert people["path"][2] in out and "train.py --label-fixes accepted.csv" in out
    assert text.count("data:image/jpeg;base64,") >= 14
    written(run, "--top", "1", "--noise-rate", "0.05")  # older files are replaced
    assert pd.read_csv(folder / "suggestions.csv")["column"].value_counts().max() == 1


def test_fixed_persons_are_marked_and_missing_images_leave_a_page_without_them(run, data, tmp_path, written):
    path, fixes = dataset.read_people(data)["path"][2], tmp_path / "fixes.csv"
    fixes.write_text(f"path,column,value\n{path},gender,swap\n")
    (run / "args.yaml").write_text(yaml.safe_dump({"target": "label", "label_fixes": str(fixes), "fix_confidence": 0.9}))
    for file in (data / "train" / "images" / path).iterdir():
        file.unlink()
    out, err, text = written(run)
    assert "trained with 1 label fixes" in err and f"{path}  (fixed)" in out and f"fixed in {fixes}" in text
    assert "7 image files are missing" in out and "images are not in" in text


def test_runs_at_chance_are_told_so_and_what_they_say_is_folded_away(guessing, written):
    told, _err, text = written(guessing)
    oof = pd.read_csv(guessing / "oof.csv")
    f1 = f1_score(oof["target"], oof[dataset.columns("label")].to_numpy().argmax(1), average="macro", zero_division=0)
    for shown in (told, text):
        assert f"{guessing} (macro F1 of label {f1:.4f})" in shown
        words = shown[shown.index("These models can") : shown.index("is chance.")]
        assert re.findall(r"(\w+) \(macro F1 0\.\d\d, guessing has (0\.\d\d)\)", words) == [
            ("gender", "0.50"), ("age", "0.33"), ("mask", "0.33")]  # fmt: skip
    assert not re.findall(r"^ +\d\.\d%", told, re.MULTILINE) and "of them below 10%" in told
    assert 'gender <span class="grey">0 of 10% or more' in text and 'mask <span class="grey">0 shown' in text


def test_what_is_below_ten_percent_is_folded_away_and_good_runs_are_not_doubted(run, data, tmp_path, written):
    """At a lower --noise-rate the same contradiction is less probably a wrong label."""
    for rate, likely in (("0.2", True), ("0.0001", False)):
        told, _err, text = written(run, "--noise-rate", rate)
        table = pd.read_csv(tmp_path / "out" / "suggestions.csv")
        sure = table[(table["column"] == "gender") & (table["confidence"] >= 0.1)]
        assert (len(sure) > 0) == likely and "can't judge" not in told and "(macro F1 of label 0." in told
        assert f'gender <span class="grey">{len(sure)} of 10% or more' in text
        open_cards, _fold, folded = text.partition("below 10%</summary>")
        gender = f'data-fix="{dataset.read_people(data)["path"][2]},gender,'
        assert (gender in open_cards) == likely and (gender in folded) != likely


def test_names_are_escaped_and_csv_lines_quoted():
    nasty = '<script>owned()</script>",x'
    row = {"path": nasty, "column": "gender", "value": "male", "confidence": 0.9, "recorded": "female", "likely": "male"}
    row, fixed = pd.DataFrame([row]), {(nasty, "gender"): "<b>.csv"}
    findings = report.Findings(row, row[:0], {"gender": 1.0}, 1, {})
    decided = [*row.assign(path="</script><i>", verdict="male").itertuples()]
    page = report.document(findings, row, row[:0], {nasty: [f"{nasty}/<i>.jpg"]}, {}, ["<u>"], "<s>", fixed, decided)
    assert not re.findall("<script>owned|<b>.csv|<i>|<u>|<s>", page) and page.count("&lt;script&gt;owned()") == 2


KEYS = """<script>
const said = {before: visible().length}, press = key => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
document.querySelectorAll("section details").forEach(each => { each.open = true; });
said.after = visible().length; said.cards = cards.length;
said.lists = ["", "j", "a", "\u3155", "u", "click"].map(key => {
  if (key === "click") current.querySelector("button:last-of-type").click(); else press(key);
  return [...list.value.trim().split("\\n").slice(1), count.textContent, current?.querySelector("[aria-pressed=true]")?.textContent];
});
press("2"); said.age = visible().every(card => card.dataset.fix.includes(",age,")); said.shown = visible().length;
press("0"); said.all = visible().length === cards.length;
said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.said = JSON.stringify(said);
</script></body>"""


def test_in_a_browser_keys_move_filter_and_decide_and_folds_open(run, guessing, data, written, browser, tmp_path):
    """The csv that a page saves begins with what --decided says: a card that is unsure, with its value there, and one label
    without a card. The same key again takes a decision back."""
    paths, file = dataset.read_people(data)["path"], tmp_path / "decided.csv"
    file.write_text(f"path,column,value,confidence\n{paths[2]},gender,swap,0.6\n{paths[0]},age,33,0.7\n")
    pages = written(run, "--noise-rate", "0.2", "--decided", str(file))[2], written(guessing)[2]  # 0.2: nothing is below 10 %
    shown = [browser(page.replace("</body>", KEYS), "--dump-dom", "--window-size=420,900") for page in pages]
    said, folded = (json.loads(html.unescape(re.search(r'data-said="([^"]*)"', dom).group(1))) for dom, _console in shown)
    card, other = f"{paths[2]},gender,swap,", f"{paths[0]},age,33,0.7"
    unsure, accepted = "0 accepted, 1 unsure, 0 right", "1 accepted, 0 unsure, 0 right"
    assert said["lists"] == [
        [card + "0.5", other, unsure, None], [card + "0.5", other, unsure, "Unsure"], [card + "1", other, accepted, "Accept"],
        [card + "0.5", other, unsure, "Unsure"], [other, "0 accepted, 0 unsure, 0 right", None],
        [card + "0", other, "0 accepted, 0 unsure, 1 right", "Label is right"]]  # fmt: skip
    assert "kept in accepted.csv: 1." in pages[0] and "kept in" not in pages[1]
    assert said["age"] and said["shown"] >= 1 and said["all"] and said["wide"] <= 0
    assert folded["before"] == 0 and folded["after"] == folded["cards"] > 20
    assert not [line for _dom, console in shown for line in console if "Error" in line or "Refused" in line]


def test_without_data_the_runs_own_place_is_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "DATA_PLACES", ())
    assert errors.run(lambda: report.main(["--label-noise", str(run)])) == 2
    assert "--data-dir: no data folder here" in (err := capsys.readouterr().err) and "trained on the/data" in err


def test_merge_takes_what_more_than_half_of_those_who_judged_a_label_say(tmp_path, monkeypatch, capsys):
    """1: 2 of 3 accept. 2: one accepts, one says right: a tie. 3: right by 2 of 2. 4: three verdicts, two of them accept but other
    ages: a tie. 5: unsure by 2 of 2, no tie. 6: one alone judged it. Nobody counts twice and no file is replaced."""
    monkeypatch.chdir(tmp_path)
    for name, lines in {
        "a": "1,gender,male,1 2,age,60.0,1 3,mask,swap,0 4,age,45,1 5,gender,male,0.5", "wrong": "1,gender,old,1",
        "b": "1,gender,male,0.9 2,age,60,0 3,mask,swap,0 4,age,47,1 5,gender,male,0.8", "twice": "1,age,60,1 1,age,50,0",
        "c": "1,gender,male,0 4,age,45,0 6,gender,swap,",
    }.items():  # fmt: skip
        (tmp_path / name).write_text("\n".join(["path,column,value,confidence", *lines.split()]))
    (tmp_path / "link").symlink_to("a")
    for argv, said in (
        ("a link", "--merge a link: holds one twice"), ("a --out a", "^a: exists, and may hold somebody's work; give another"),
        ("a twice", "^twice, line 3: fix '1 age' appears twice"), ("a wrong", "^wrong, line 2: value 'old' does not fit"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            report.main(["--merge", *argv.split()])
    assert not (tmp_path / "merged.csv").exists() and report.main(["--merge", "a", "b", "c"]) == 0
    merged = ["1,gender,male,1", "2,age,60,0.5", "3,mask,swap,0", "4,age,45,0.5", "5,gender,male,0.5", "6,gender,swap,1"]
    assert (tmp_path / "merged.csv").read_text().splitlines() == ["path,column,value,confidence", *merged]
    assert capsys.readouterr().out.splitlines() == [
        "tie: 2 age: a 60, b right", "tie: 4 age: a 45, b 47, c right",
        "merged.csv: 6 labels, 2 to fix, 1 right, 3 unsure (2 by a tie)", "next: python train.py --label-fixes merged.csv"]  # fmt: skip
    people = pd.DataFrame({"path": list("123456"), "id": list("123456")})
    fixes, left_out = dataset.read_label_fixes("merged.csv", people, 0.0)  # never what is right
    assert (fixes["path"].tolist(), left_out) == (list("12456"), 1)
