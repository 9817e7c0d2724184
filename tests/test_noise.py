"""noise.py: confidences by hand, planted errors, what is refused; report.py --label-noise and its page in a real browser."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import expit
from sklearn.metrics import f1_score

import dataset
import demo
import errors
import noise
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
    rows = people.loc[people.index.repeat(7)].reset_index(drop=True)
    kinds = list(KINDS) * len(people)
    mask = np.array([dataset.IMAGE_KINDS[kind] for kind in kinds])
    names = [f"{path}/{kind}.jpg" for path, kind in zip(rows["path"], kinds)]
    return rows.assign(image=names, mask=mask, age_group=to_age_group(rows["age"]))


def probabilities(truth, classes, sharpness=4.0, seed=0):
    """Softmax of noisy logits that favour the truth: [N, classes]."""
    logits = np.random.default_rng(seed).normal(size=(len(truth), classes)) + sharpness * np.eye(classes)[truth]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def make_evidence(people, shown=None, seed=0):
    """Evidence on the labels of `people` by a good model that sees `shown` (people whose labels are all right)."""
    images, seen = make_images(people), make_images(people if shown is None else shown)
    probs = {
        part: probabilities(seen[part].to_numpy(), classes, seed=seed + classes + index)
        for index, (part, classes) in enumerate((("mask", 3), ("gender", 2), ("age_group", 3)))
    }
    truth = {part: images[part].to_numpy() for part in probs}
    return noise.Evidence(images[["image", "path"]], probs, truth)


def write_run(folder, target, people, probs, **args):
    """A run folder as far as label noise reads it: args.yaml and oof.csv."""
    images = make_images(people)
    truth = {"multi": ["mask", "gender", "age_group"], "age": ["age_group"]}.get(target, [target])
    images["label"] = encode(images["mask"], images["gender"], images["age_group"])
    table = predictions.oof_table(images, 0, target, images[truth].to_numpy(), probs)
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": target, "data_dir": "elsewhere", **args}))
    table.to_csv(folder / "oof.csv", index=False)
    return folder


@pytest.fixture
def plain(monkeypatch):
    """Temperature 1 and no shift, so that confidences can be worked by hand."""
    monkeypatch.setattr(noise, "calibrate", lambda explain, size, noise_rate: np.zeros(size))


def test_bayes_rule():
    """0.01 x 0.8 / (0.01 x 0.8 + 0.99 x 0.2) = 0.008 / 0.206; equal probabilities leave the prior."""
    got = noise.wrong_probability(np.array([0.2, 0.5]), np.array([0.8, 0.5]), 0.01)
    np.testing.assert_allclose(got, [0.008 / 0.206, 0.01])


def test_gender_confidence_by_hand(plain):
    """Recorded male at p(female) = 0.9: 0.01 x 0.9 / (0.01 x 0.9 + 0.99 x 0.1) = 0.009 / 0.108; female: 0.001 / 0.892."""
    got = noise.gender_confidence(np.array([[0.1, 0.9], [0.1, 0.9]]), np.array([0, 1]), 0.01)
    np.testing.assert_allclose(got, [0.009 / 0.108, 0.001 / 0.892])


def test_swap_confidence_by_hand(plain):
    """As named 0.1 x 0.3 against swapped 0.8 x 0.6: right = 0.03 / 0.51, wrong = 0.48 / 0.51."""
    normal, incorrect = np.array([[0.1, 0.8, 0.1]]), np.array([[0.1, 0.3, 0.6]])
    got = noise.swap_confidence(normal, incorrect, 0.01)
    np.testing.assert_allclose(got, [0.01 * 0.48 / (0.01 * 0.48 + 0.99 * 0.03)])


def test_age_confidence_of_single_years_by_hand(plain):
    """The face: 0.3 at 24, 0.7 at 45, so likely 45. Recorded 20 has 0.3 within 5 years, recorded 40 has 0.7, 33 nothing.

    Anyone's age: that of the three people and of one spread over all 43 ages: (1 + 8/43) / 4 within 5 years of 20 (18..25).
    """
    years = np.zeros((3, 43))
    years[:, 24 - 18], years[:, 45 - 18] = 0.3, 0.7
    groups = np.array([[0.3, 0.7, 0.0]] * 3)
    got, likely = noise.age_confidence(groups, years, np.array([20, 40, 33]), 0.01)
    assert likely.tolist() == [45, 45, 45]
    wrong = (1 + 8 / 43) / 4
    assert got[0] == pytest.approx(0.01 * wrong / (0.01 * wrong + 0.99 * 0.3), rel=1e-3)
    assert got[1] < got[0] < 0.01 < 0.5 < got[2]


def test_age_confidence_of_groups_takes_the_ages_of_a_group(plain):
    """Recorded 22, 22, 44, 70; p(<30) = 0.1, p(30-59) = 0.8, p(>=60) = 0.1: likely the 44 of the middle group.

    Recorded 22 has about 0.1 within its 5 years where anyone has 2 of 4 (and 1/43 of a person at each age).
    """
    groups = np.array([[0.1, 0.8, 0.1]] * 4)
    got, likely = noise.age_confidence(groups, None, np.array([22, 22, 44, 70]), 0.01)
    assert likely.tolist() == [44] * 4
    assert got[0] == got[1] == pytest.approx(0.01 * 0.5 / (0.01 * 0.5 + 0.99 * 0.1), rel=0.1)
    assert got[2] < 0.01 < got[3]


@pytest.mark.parametrize("copies", [1, 7])
def test_calibration_undoes_that_images_of_a_person_are_one_photograph(copies):
    """Odds that are true once are 7 times too large when 7 copies are added up: the fitted temperature is 1/7.

    The sum of confidences is then the number of labels that are really wrong, 300 of 30,000 (sd of a binomial: 17).
    """
    rng = np.random.default_rng(1)
    odds = rng.normal(0, 4, size=30_000)
    gender = (rng.random(30_000) < expit(odds)).astype(int)
    flipped = rng.permutation(30_000)[:300]
    gender[flipped] = 1 - gender[flipped]
    probs = np.stack([expit(-copies * odds), expit(copies * odds)], 1)
    fitted = []
    original = noise.calibrate

    def keep(*args):
        fitted.append(original(*args))
        return fitted[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "calibrate", keep)
        patch.setattr(noise, "FLOOR", 1e-300)
        confidence = noise.gender_confidence(probs, gender, 0.01)
    assert np.exp(fitted[0][0]) == pytest.approx(1 / copies, rel=0.05) and abs(fitted[0][1]) < 0.1
    assert confidence.sum() == pytest.approx(300, abs=51)
    sure = confidence > 0.5
    assert confidence[sure].mean() == pytest.approx(np.isin(np.flatnonzero(sure), flipped).mean(), abs=0.12)


def plant(people, images_too=True):
    """(people with planted errors, {column: paths}): 3 genders flipped, 3 ages moved far, and whose images to swap."""
    planted, order = people.copy(), np.random.default_rng(7).permutation(len(people))
    flipped, aged, swapped = order[:3], order[3:6], order[6:9]
    planted.loc[flipped, "gender"] = 1 - planted["gender"][flipped]
    planted.loc[aged, "age"] = np.where(planted["age"][aged] < 40, 62, 20)
    names = {"gender": flipped, "age": aged, "mask": swapped}
    return planted, {column: set(people["path"][rows]) for column, rows in names.items()}


def swap_pairs(evidence, paths):
    """Let the normal and incorrect_mask images of people change places, as their predictions show it."""
    for path in paths:
        rows = [evidence.rows.index[evidence.rows["image"] == f"{path}/{kind}.jpg"][0] for kind in ("normal", "incorrect_mask")]
        evidence.probs["mask"][rows] = evidence.probs["mask"][rows[::-1]]


def test_planted_errors_come_first_in_every_column():
    people, (planted, paths) = make_people(200), plant(make_people(200))
    evidence = make_evidence(planted, people)
    swap_pairs(evidence, paths["mask"])
    findings = noise.judge(evidence, planted, 0.01)
    for column, expected in paths.items():
        found = findings.persons[findings.persons["column"] == column]
        assert set(found["path"][:3]) == expected and (found["confidence"][:3] > 0.03).all(), column
        assert findings.expected[column] == pytest.approx(3, abs=2.5)
    assert findings.people == 200
    flipped = findings.persons[findings.persons["column"] == "gender"].iloc[0]
    truth = GENDERS[people.set_index("path")["gender"][flipped["path"]]]
    assert (flipped["value"], flipped["likely"]) == (truth, truth) and flipped["recorded"] != truth
    assert findings.persons["confidence"].is_monotonic_decreasing and (findings.persons["confidence"] > 0.01).all()


def test_accepted_suggestions_restore_the_labels(tmp_path):
    """The csv goes through dataset.read_label_fixes: gender and mask are right again, ages in the right group."""
    people, (planted, paths) = make_people(200), plant(make_people(200))
    evidence = make_evidence(planted, people)
    swap_pairs(evidence, paths["mask"])
    findings = noise.judge(evidence, planted, 0.01)
    findings.persons.groupby("column").head(3)[["path", "column", "value", "confidence"]].to_csv(
        tmp_path / "s.csv", index=False
    )
    fixes, left_out = dataset.read_label_fixes(tmp_path / "s.csv", planted, 0.03)
    assert (len(fixes), left_out) == (9, 0)
    images = make_images(planted)
    fixed = dataset.apply_label_fixes(images, fixes)
    right = make_images(people)
    assert fixed["gender"].equals(right["gender"])
    assert to_age_group(fixed["age"]).tolist() == right["age_group"].tolist()
    moved = fixed["path"][fixed["mask"] != images["mask"]]
    assert set(moved) == paths["mask"] and len(moved) == 6


def test_ages_in_the_recorded_group_or_near_are_no_suggestion():
    people = pd.DataFrame({"path": list("abcd"), "id": list("abcd"), "gender": 0, "age": [28, 35, 59, 22]})
    years = np.full((4, 43), 1e-9)
    for row, age in enumerate((31, 55, 60, 50)):  # 28: near; 35: same group; 59: near; 22: another group
        years[row, age - 18] = 1
    claims = noise.age_claims(people, np.stack([years[:, :12].sum(1), years[:, 12:42].sum(1), years[:, 42]], 1), years, 0.01)
    assert (claims["recorded"] == claims["likely"]).tolist() == [True, True, True, False]
    assert claims["likely"].iloc[3] == "50 (30-59)" and claims["value"].iloc[3] == "50"


def test_people_without_a_pair_have_no_swap():
    evidence = make_evidence(make_people(5))
    kept = ~evidence.rows["image"].isin(["0001/normal.jpg", "0003/incorrect_mask.jpg"])
    evidence = noise.Evidence(
        evidence.rows[kept].reset_index(drop=True),
        {part: probs[kept] for part, probs in evidence.probs.items()},
        {part: truth[kept] for part, truth in evidence.truth.items()},
    )
    evidence.rows["image"] = evidence.rows["image"].str.replace("0002/normal", "0002/Normal")
    person, paths = pd.factorize(evidence.rows["path"])
    assert noise.swap_claims(evidence, person, paths, 0.01)["path"].tolist() == ["0000", "0002", "0004"]


def test_contradictions_are_the_wrong_images_of_every_part():
    """Two images: gender wrong in the first with 0.7, mask wrong in the second with 0.9."""
    rows = pd.DataFrame({"image": ["a/normal.jpg", "a/mask1.jpg"], "path": "a"})
    probs = {"gender": np.array([[0.3, 0.7], [0.6, 0.4]]), "mask": np.array([[0.1, 0.1, 0.8], [0.05, 0.9, 0.05]])}
    table = noise.contradictions(noise.Evidence(rows, probs, {"gender": np.array([0, 0]), "mask": np.array([2, 0])}))
    assert table.values.tolist() == [
        ["a/mask1.jpg", "mask", "worn", "incorrect", 0.9],
        ["a/normal.jpg", "gender", "male", "female", 0.7],
    ]


def test_runs_of_any_target_are_averaged_by_part(tmp_path):
    """Gender from a gender run (0.8) and a label run whose marginal is 0.4: 0.6. Rows of other orders are joined by image."""
    people = make_people(4)
    n = 28
    label = np.zeros((n, 18))
    label[:, encode(0, 1, 0)], label[:, encode(2, 0, 1)] = 0.4, 0.6
    years = np.zeros((n, 43))
    years[:, 20 - 18], years[:, 60 - 18] = 0.25, 0.75
    gender = write_run(tmp_path / "gender", "gender", people, np.tile([0.2, 0.8], (n, 1)))
    pd.read_csv(gender / "oof.csv", dtype=str).sample(frac=1, random_state=0).to_csv(gender / "oof.csv", index=False)
    runs = [gender, write_run(tmp_path / "label", "label", people, label), write_run(tmp_path / "age", "age", people, years)]
    found = noise.read_evidence([str(run) for run in runs])
    evidence = noise.average(found)
    np.testing.assert_allclose(evidence.probs["gender"], np.tile([0.4, 0.6], (n, 1)))
    np.testing.assert_allclose(evidence.probs["mask"], np.tile([0.4, 0, 0.6], (n, 1)))
    np.testing.assert_allclose(evidence.probs["age_group"], np.tile([(0.4 + 0.25) / 2, 0.6 / 2, 0.75 / 2], (n, 1)))
    np.testing.assert_allclose(evidence.probs["age"], years)
    images = make_images(people).set_index("image").loc[evidence.rows["image"]]
    for part, truth in evidence.truth.items():
        assert truth.tolist() == images[part].tolist()
    noise.check_people(evidence, people, "train.csv", None)


def test_a_multi_run_alone_decides_all(tmp_path):
    people = make_people(3)
    probs = np.tile([0.5, 0.3, 0.2, 0.1, 0.9, 0.2, 0.2, 0.6], (21, 1))
    evidence = noise.average(noise.read_evidence([str(write_run(tmp_path / "m", "multi", people, probs))]))
    assert {part: values[0].tolist() for part, values in evidence.probs.items()} == {
        "mask": [0.5, 0.3, 0.2], "gender": [0.1, 0.9], "age_group": [0.2, 0.2, 0.6],
    }  # fmt: skip
    assert set(noise.judge(evidence, people, 0.01).expected) == {"gender", "age", "mask"}


def test_what_does_not_fit_together_is_refused(tmp_path):
    people = make_people(3)
    probs = np.tile([0.2, 0.8], (21, 1))
    run = write_run(tmp_path / "g", "gender", people, probs)
    small = write_run(tmp_path / "small", "gender", people[:2], probs[:14])
    with pytest.raises(InputError, match=r"oof.csv hold different images \(7 in one alone"):
        noise.read_evidence([str(run), str(small)])
    with pytest.raises(InputError, match=r"--label-noise .*nothing.: matches no run"):
        noise.read_evidence([str(tmp_path / "nothing*")])
    with pytest.raises(InputError, match="Did you mean small"):
        noise.read_evidence([str(tmp_path / "smal")])
    evidence = noise.average(noise.read_evidence([str(run)]))
    with pytest.raises(InputError, match=r"^train.csv: lacks '0002', whom the runs predicted; .* --data-dir elsewhere"):
        noise.check_people(evidence, people[:2], "train.csv", "elsewhere")
    with pytest.raises(InputError, match=r"another gender of '0001' than in oof.csv; give the --data-dir of the runs"):
        noise.check_people(
            evidence, people.assign(gender=[*people["gender"][:1], 1 - people["gender"][1], 0]), "train.csv", None
        )
    (run / "oof.csv").unlink()
    with pytest.raises(InputError, match=r"has no oof.csv, and label noise is found by it"):
        noise.read_evidence([str(run)])


def test_fixes_that_runs_were_trained_with(tmp_path, capsys):
    people = make_people(3)
    (tmp_path / "fixes.csv").write_text("path,column,value,confidence\n0001,gender,swap,1\n0002,age,20,0.5\n")
    probs = np.tile([0.2, 0.8], (21, 1))
    one = write_run(tmp_path / "one", "gender", people, probs, label_fixes=str(tmp_path / "fixes.csv"), fix_confidence=0.9)
    two = write_run(tmp_path / "two", "gender", people, probs, label_fixes=str(tmp_path / "gone.csv"), fix_confidence=0.9)
    three = write_run(tmp_path / "three", "gender", people, probs, label_fixes=None)
    fixed = noise.applied_fixes(noise.read_evidence([str(one), str(two), str(three)]), people)
    assert fixed == {("0001", "gender"): str(tmp_path / "fixes.csv")}
    err = capsys.readouterr().err
    assert "one was trained with 1 label fixes" in err and "two was trained with label fixes that can't be read now" in err


# ---- the page ---------------------------------------------------------------------------------------------------------

KEYS = """<script>
const said = {}, press = key => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
press("j"); press("a"); said.count = count.textContent; said.list = list.value;
press("j"); press("a"); press("a"); said.again = count.textContent;
press("2"); said.age = visible().every(card => card.dataset.fix.includes(",age,")); said.shown = visible().length;
press("0"); said.all = visible().length === cards.length;
said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.said = JSON.stringify(said);
</script></body>"""


def write_label_run(folder, images, probs):
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": "label", "data_dir": "the/data"}))
    label = images["label"].to_numpy()
    predictions.oof_table(images, 0, "label", label[:, None], probs).to_csv(folder / "oof.csv", index=False)
    return folder


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
    return write_label_run(tmp_path / "runs" / "sure", images, probs)


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
    probs = np.random.default_rng(0).dirichlet(np.full(18, 1000.0), size=len(images))
    return write_label_run(tmp_path / "runs" / "guessing", images, probs)


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


def test_without_data_the_runs_own_place_is_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "DATA_PLACES", ())
    assert errors.run(lambda: report.main(["--label-noise", str(run)])) == 2
    assert "--data-dir: no data folder here" in (err := capsys.readouterr().err) and "trained on the/data" in err
