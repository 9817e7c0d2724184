"""compare.py: differences in numbers, what it reads, joins, prints and refuses, and its page in a real browser."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from PIL import Image

import compare
import dataset
import ensemble
import errors
import experiment
import files
import inference
import metrics
import predictions
from compare import Comparison, Paired


@pytest.fixture(scope="module")
def images(shared_data):
    """Train image rows and (eval names, true labels) of the tiny competition."""
    _folder, names, _files = dataset.read_eval(shared_data)
    train = dataset.list_images(shared_data, dataset.read_people(shared_data))
    return train, names, dataset.read_answers(shared_data, names)


@pytest.fixture
def make_run(images, tmp_path):
    """make_run(name, target, right=0.8, seed=0, kinds=("oof", "eval")) -> folder of a run whose answers are right that often."""

    def probs_of(truth, C, right, rng):
        answer = np.where(rng.random(len(truth)) < right, truth, rng.integers(C, size=len(truth)))
        probs = rng.random((len(truth), C)) * 0.3
        probs[np.arange(len(truth)), answer] += rng.uniform(1, 3, len(truth))
        return probs / probs.sum(1, keepdims=True)

    def make(name, target, right=0.8, seed=0, kinds=("oof", "eval")):
        (train, names, answers), run, rng = images, tmp_path / "runs" / name, np.random.default_rng(seed)
        run.mkdir(parents=True)
        experiment.write_args(run, {"target": target, "kfold": 2}, ["train.py"])
        heads = dataset.HEADS["multi"] if target == "multi" else [target]
        for kind in kinds:
            label = train["label"].to_numpy() if kind == "oof" else answers
            truth = {"label": label, **dict(zip(dataset.COMPONENTS, dataset.decode(label)))}
            truth["age"] = np.array([4, 27, 42])[truth["age_group"]]
            probs = np.hstack([probs_of(truth[head], dataset.num_outputs(head), right, rng) for head in heads])
            table = predictions.eval_table(names, target, probs)
            if kind == "oof":
                official = np.stack([truth["age_group" if head == "age" else head] for head in heads], 1)
                table = predictions.oof_table(train, 0, target, official, probs)
            files.write_csv(run / f"{kind}.csv", table, predictions.FORMAT)
        return run

    return make


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Works in an empty folder, so that comparisons/ and data/ are those of the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_submission(path, names, answers):
    pd.DataFrame({"ImageID": names, "ans": answers}).to_csv(path, index=False)
    return path


def compared(capsys, *argv):
    """The text of a call that has to succeed."""
    assert compare.main([str(word) for word in argv]) == 0
    return capsys.readouterr().out


def refused(capsys, *argv):
    """The error line of a call that has to fail."""
    assert errors.run(lambda: compare.main([str(word) for word in argv])) == 2
    *notes, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(note.startswith("no data folder here") for note in notes)
    return line


def test_two_runs_in_numbers_and_a_page(make_run, images, here, shared_data, capsys):
    a, b = make_run("good", "label", 0.9, seed=1), make_run("poor", "label", 0.4, seed=2)
    (here / "comparisons").mkdir()
    (here / "comparisons" / "good--poor.html").write_text("old")
    out = compared(capsys, a, b, "--data-dir", shared_data)
    tables = [pd.read_csv(run / "eval.csv")[dataset.columns("label")].to_numpy() for run in (a, b)]
    one, other = (table.argmax(1) for table in tables)
    differ = int((one != other).sum())
    assert f"rows that differ: {differ} of 20 ({differ / 20:.1%})" in out
    changes = [int((x != y).sum()) for x, y in zip(dataset.decode(one), dataset.decode(other))]
    assert "by part: mask {}, gender {}, age_group {}".format(*changes) in out
    worn = [int((table.argmax(1) < 6).sum()) for table in tables]
    assert re.search(rf"worn +{worn[0]} +{worn[1]} +\{worn[1] - worn[0]:+} +14\n", out)  # 20 * 5 / 7 = 14.3
    oofs = [pd.read_csv(run / "oof.csv") for run in (a, b)]
    truth, answers = oofs[0]["target"].to_numpy(), [oof[dataset.columns("label")].to_numpy().argmax(1) for oof in oofs]
    scores = [sklearn.metrics.f1_score(truth, answer, average="macro") for answer in answers]
    assert f"out-of-fold macro F1 of label: A {scores[0]:.4f}, B {scores[1]:.4f} (168 images of 24 people)" in out
    assert re.search(rf"A - B = \{scores[0] - scores[1]:+.3f}, 95 % CI \+0\.\d+ \.\. \+0\.\d+: A is better", out)
    wrong = [answer != truth for answer in answers]
    counts = f"A {wrong[0].sum()}, B {wrong[1].sum()}, both {(wrong[0] & wrong[1]).sum()}"
    assert f"errors: {counts}; their correlation (phi) is {np.corrcoef(*wrong)[0, 1]:.2f}\n" in out
    near, gain = oofs[0]["path"].str.endswith("_60").to_numpy(), scores[0] - scores[1]
    share = metrics.boundary_share(truth, *answers, near, 18)
    assert f"people (ages 27-32 and 57 or more; 8 of 24) make {share * gain:+.4f} of the {gain:+.4f} ({share:.0%})\n" in out
    assert max(len(line) for line in out.splitlines()[2:-1] if ".jpg" not in line) <= 100
    text = (here / "comparisons" / "good--poor.html").read_text()
    assert text.count('<button class="card">') == differ == text.count("data:image/jpeg;base64,")
    assert out.splitlines()[-1] == f"comparisons/good--poor.html: {differ} images that differ, thumbnails of {differ}"
    assert all(line in text for line in out.splitlines() if line.startswith(("A - B", "boundary people")))


@pytest.mark.parametrize(("difference", "low", "high", "words"), [
    (0.004, -0.006, 0.013, ["A - B = +0.004, 95 % CI -0.006 .. +0.013: noise", "about 3,900 people; you have 700"]),
    (0.0075, -0.001, 0.013, ["A - B = +0.007, 95 % CI -0.001 .. +0.013: noise", "little more than the 700 people you have"]),
    (0.0104, 0.001, 0.02, ["A - B = +0.010, 95 % CI +0.001 .. +0.020: A is better"]),
    (-0.03, -0.05, -0.001, ["A - B = -0.030, 95 % CI -0.050 .. -0.001: B is better"]),
    (0.0104, 0.0002, 0.02, ["A - B = +0.0104, 95 % CI +0.0002 .. +0.0200: A is better"]),
    (0.0, -0.001, 0.001, ["A - B = +0.000, 95 % CI -0.001 .. +0.001: noise"]),
])  # fmt: skip
def test_verdicts_and_how_many_people_it_takes_where_it_is_noise(difference, low, high, words):
    """700 * (0.0095 / 0.004)^2 = 3,948 and 700 * (0.007 / 0.0075)^2 = 610: draws lean to one side, so 700 don't quite do."""
    needed = "to tell a difference of this size takes "
    result = Paired(0.5 + difference, 0.5, predictions.Difference(difference, low, high), 700)
    assert result.lines("people") == [words[0], *(needed + word for word in words[1:])]


def test_expected_effects_by_hand(capsys):
    """Chances of male 0.8, 0.5, 0.3. A answers male once: F1 2 * 0.8 / (1 + 1.6) = 0.6154, of female 2 * 1.2 / (2 + 1.4) =
    0.7059. B answers male twice: 2.6 / 3.6 = 0.7222 and 1.4 / 2.4 = 0.5833. Effects are halves of the differences, and the
    strongest comes first; macro F1 falls from 0.6606 to 0.6528. Where both answer female, male has no row."""
    probs = np.array([[0.8, 0.2], [0.5, 0.5], [0.3, 0.7]])
    compare.print_counts(Comparison("gender", list("xyz"), np.array([0, 1, 1]), np.array([0, 0, 1]), probs, probs))
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[-3:]] == [
        "female 2 1 0.7059 0.5833 -0.0613", "male 1 2 0.6154 0.7222 +0.0534", "all 3 3 0.6606 0.6528 -0.0079"]  # fmt: skip
    compare.print_counts(Comparison("gender", list("xyz"), np.ones(3, int), np.ones(3, int), probs, probs), explain=True)
    out = capsys.readouterr().out
    assert " male" not in out and out.count("  female  3  3") == 2 and "each class's chance" in out
    assert [*map(compare.signed, (0.00123, -0.00123, -0.00001, 0.0))] == ["+0.0012", "-0.0012", "0.0000", "0.0000"]


def test_csv_against_csv_by_hand(images, here, shared_data, capsys):
    """Of 20 answers two change: one from worn, male, <30 to worn, female, <30, one to not worn, female, >=60."""
    names = images[1]
    a = write_submission(here / "a.csv", names, np.zeros(20, dtype=int))
    b = write_submission(here / "b.csv", names[::-1], [0] * 18 + [17, 3])  # in another order: the first two names
    out = compared(capsys, a, b, "--images", "--out", "x.html", "--limit", "1", "--data-dir", shared_data)
    assert "by part: mask 1, gender 2, age_group 1" in out
    assert "     1  50.0%  worn, male, <30  ->  worn, female, <30" in out
    differ = [f"  {names[0]}  worn, male, <30 -> female", f"  {names[1]}  worn, male, <30 -> not worn, female, >=60"]
    assert "\n".join(["images that differ", *differ]) in out
    assert "no expected effect on macro F1: neither has probabilities" in out
    assert "no out-of-fold verdict: " in out and "have no oof.csv" in out
    assert "most certain" not in out and "2 images that differ, thumbnails of 1" in out
    assert "1 of 2 images are here" in (here / "x.html").read_text() and not (here / "comparisons").exists()


@pytest.mark.parametrize(("targets", "part"), [
    (("label", "mask"), "mask"), (("gender", "label"), "gender"), (("age", "age_group"), "age_group"), (("multi", "label"), "label"),
    (("age", "multi"), "age_group"), (("mask", "mask"), "mask"),
])  # fmt: skip
def test_targets_meet_on_what_both_answer(make_run, here, capsys, targets, part):
    a, b = (make_run(f"{number}{target}", target, 0.7, seed=number) for number, target in enumerate(targets))
    out = compared(capsys, a, b)
    assert f"compared on {part}\n" in out and f"out-of-fold macro F1 of {part}: A " in out
    assert ("prior" in out) == (part in ("mask", "label")) and "thumbnails of 0 (no data folder here" in out
    expected = []
    for run, target in zip((a, b), targets):
        table = pd.read_csv(run / "eval.csv")[dataset.columns(target)].to_numpy()
        probs = dataset.scored_probs(target, table)
        if probs.shape[1] == 18 and part != "label":
            probs = dataset.marginals(probs)[part]
        expected.append(probs.argmax(1))
    assert f"rows that differ: {(expected[0] != expected[1]).sum()} of 20" in out


def test_scores_on_known_labels(images, here, shared_data, capsys):
    """A is right everywhere, B in half of the images; a folder stands for its answers.csv; a part of the labels will do."""
    names, truth = images[1:]
    a = write_submission(here / "a.csv", names, truth)
    wrong = np.where(np.arange(20) < 10, truth, (truth + 1) % 18)
    b = write_submission(here / "b.csv", names[::-1], wrong[::-1])  # in another order
    out = compared(capsys, a, b, "--labels", shared_data)
    f1 = sklearn.metrics.f1_score(truth, wrong, average="macro")
    assert f"answers.csv: A 1.0000, B {f1:.4f} (20 images)\nA - B = {1 - f1:+.3f}, 95 % CI +0." in out
    assert "images are drawn one by one, as nobody knows who is on them" in out
    few = write_submission(here / "few.csv", names[:5], truth[:5])
    assert f"macro F1 of label against {few}: A 1.0000, B 1.0000 (5 images)" in compared(capsys, a, b, "--labels", few)


def test_without_eval_predictions_the_verdict_is_still_there(make_run, here, monkeypatch, capsys):
    a = make_run("a", "label", kinds=("oof", "eval"))
    b = make_run("b", "label", seed=3, kinds=("oof",))
    (b / "fold0").mkdir()
    (b / "fold0" / "fold.json").write_text(json.dumps(dict.fromkeys(experiment.FOLD, 0) | {"weights_sha256": "0"}))
    out = compared(capsys, a, f"{b}:fold0")
    assert "A - B = " in out and "rows that differ" not in out and not (here / "comparisons").exists()
    assert f"{b}:fold0 has no eval predictions; python inference.py --models {b} --folds 0 makes them" in out
    (b / "oof.csv").unlink()
    for lang in ("en", "ko"):  # errors stay English
        monkeypatch.setenv("FACES_LANG", lang)
        line = refused(capsys, a, f"{b}:best")
        assert f"--models {b} --folds best makes them. Without them: no out-of-fold verdict: {b}:best has no oof.csv" in line
    c = make_run("c", "label", kinds=("eval",))
    assert f"OOF 판정 없음: {c}에 oof.csv가 없습니다\n" in compared(capsys, a, c)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_errors_of_a_run_without_any_have_no_correlation(make_run, here, capsys):
    out = compared(capsys, make_run("right", "label", 1), make_run("poor", "label", 0.4))
    assert re.search(r"errors: A 0, B \d+, both 0; their correlation \(phi\) is -\n", out)
    assert "(phi) is -</li>" in (here / "comparisons" / "right--poor.html").read_text()


def test_real_runs_folds_and_ensembles(runs, workplace, shared_data, here, no_report, capsys):
    """An ensemble of one run answers as that run; a run and one of its folds differ in eval.csv and share their oof.csv. RUN/eval.csv
    stays as inference.py left it, here that of one fold, whatever is compared."""
    run, places = str(runs["multi"]), ["--data-dir", str(shared_data)]
    argv = ["--models", run, "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet", *places]
    assert ensemble.main([*argv, "--name", "one"]) == 0 == inference.main([*argv, "--folds", "1"])
    before = {path: path.read_bytes() for path in runs["multi"].glob("*.*")}
    capsys.readouterr()
    out = compared(capsys, run, "submissions/one", *places)
    assert "B  submissions/one  (ensemble)" in out and "rows that differ: 0 of 20" in out
    assert "no out-of-fold verdict: all answers are the same there" in out and "A - B" not in out
    out = compared(capsys, run, f"{run}:fold1", *places)
    assert f"A  {run}  (run, target multi, folds 0 1)\nB  {run}:fold1  (run, target multi, fold 1)\n" in out
    folds = [pd.read_csv(f"{run}/fold{fold}/eval.csv")[dataset.columns("multi")].to_numpy() for fold in (0, 1)]
    answers = [dataset.scored_probs("multi", probs).argmax(1) for probs in (np.mean(folds, axis=0), folds[1])]
    assert f"rows that differ: {(answers[0] != answers[1]).sum()} of 20" in out
    assert "no out-of-fold verdict: all answers are the same there" in out
    assert (here / "comparisons" / "shared_multi--shared_multi-fold1.html").is_file()
    assert {path: path.read_bytes() for path in runs["multi"].glob("*.*")} == before


@pytest.fixture
def data_of(shared_data, here):
    """data_of(names, first=0) -> a data folder data/ with these ImageIDs and the people of the tiny competition from `first` on."""

    def make(names, first=0):
        for part in ("train", "eval"):
            (here / "data" / part).mkdir(parents=True)
        head, *people = (shared_data / "train" / "train.csv").read_text().splitlines()
        (here / "data" / "train" / "train.csv").write_text("\n".join([head, *people[first:]]))
        write_submission(here / "data" / "eval" / "info.csv", names, 0)

    return make


def test_answers_that_lack_images_of_info_csv_are_not_compared(make_run, images, data_of, here, capsys):
    """Example: the eval set has grown since a run was predicted. Variants: a csv, and an ensemble, which has a verdict."""
    data_of([*images[1], "new.jpg"])
    a, b = make_run("a", "label"), make_run("b", "label", seed=4)
    lacks = "lacks 1 of the 21 images of data/eval/info.csv, such as new.jpg"
    out = compared(capsys, a, b)
    assert f"answers to the eval images are not compared: {a} {lacks}; make it anew" in out
    assert "A - B = " in out and "rows that differ" not in out and not (here / "comparisons").exists()
    csv = write_submission(here / "mine.csv", images[1], images[2])
    assert f"{csv} {lacks}; make it anew. Without them: no out-of-fold verdict" in refused(capsys, a, csv)
    (b / "args.yaml").rename(b / "recipe.yaml")
    assert f"{b} {lacks}; make it anew" in compared(capsys, a, b)


def test_images_and_people_that_the_data_has_no_more_are_left_out(make_run, images, data_of, capsys):
    data_of(images[1][:4:-1], first=2)
    a = make_run("a", "label")
    out = compared(capsys, a, make_run("b", "label", seed=4))
    assert f"left out of {a}: 5 of its images, such as {min(images[1][:5])}, not in data/eval/info.csv any more" in out
    assert re.search(r"rows that differ: \d+ of 15 ", out) and "(154 images of 22 people)" in out


def test_runs_of_some_folds_are_compared_where_both_have_predictions(make_run, here, capsys):
    a, b = make_run("a", "label"), make_run("b", "label", seed=4)
    table = pd.read_csv(b / "oof.csv", dtype=str)
    table.iloc[:70].sample(frac=1, random_state=0).to_csv(b / "oof.csv", index=False)
    assert "(70 images of 10 people, those that both have)" in compared(capsys, a, b)
    table.assign(image=table["image"] + "x").to_csv(b / "oof.csv", index=False)
    assert "no out-of-fold verdict: their oof.csv have no image in common" in compared(capsys, a, b)
    table.assign(target="5").to_csv(b / "oof.csv", index=False)
    assert "official labels differ, such as that of" in refused(capsys, a, b)


def test_either_may_lack_images(images, here, capsys):
    a = write_submission(here / "a.csv", images[1], images[2])
    few = write_submission(here / "few.csv", images[1][:15], images[2][:15])
    for pair, counts in (((a, few), "20 and 15"), ((few, a), "15 and 20")):
        assert f"answers to different images ({counts}, 5 in one alone, such as " in refused(capsys, *pair)
    assert not (here / "comparisons").exists()


def test_what_moved_between_two_labellings():
    """Rows 1, 2, 4, 5 differ: twice 0 -> 3 (gender), once 0 -> 1 (age), once 0 -> 14 (mask and age). The prior of 7 images is
    5:1:1; A answers worn seven times, B six times and not worn once."""
    a, b = np.zeros(7, dtype=np.int64), np.array([0, 1, 3, 0, 3, 14, 0])
    both = Comparison("label", list("abcdefg"), a, b, None, None)
    assert both.rows.tolist() == [1, 2, 4, 5] and both.effects is None
    assert both.flows == [(0, 3, 2), (0, 1, 1), (0, 14, 1)]
    assert both.component_changes == {"mask": 1, "gender": 2, "age_group": 2}
    counts = {(component, word): rest for component, word, *rest in both.component_counts}
    assert counts["mask", "worn"] == [7, 6, ("-1", -1), ("5", 5)] and counts["mask", "not worn"] == [0, 1, ("+1", 1), ("1", 1)]
    assert counts["gender", "female"] == [0, 2, ("+2", 2), None]


def test_the_most_certain_disagreement_comes_first():
    """Certainties are the smaller of the two own probabilities: row 0 min(0.9, 0.6), row 1 min(0.8, 0.7); row 2 agrees."""
    a, b = np.array([[0.9, 0.1], [0.8, 0.2], [1.0, 0.0]]), np.array([[0.4, 0.6], [0.3, 0.7], [1.0, 0.0]])
    orders = [Comparison("gender", list("xyz"), a.argmax(1), b.argmax(1), a, each).rows.tolist() for each in (b, None)]
    assert orders == [[1, 0], [0, 1]]


NASTY = """</script><img src=x onerror="document.title='owned'">'.jpg"""


def comparison(flows):
    """A Comparison of labels whose rows differ by `flows`, a list of (class of A, class of B, count), and one row that agrees."""
    a, b = np.array([(0, 0)] + [(a, b) for a, b, count in flows for _ in range(count)]).T
    rng = np.random.default_rng(0)
    tables = [np.eye(18)[each] * rng.uniform(0.5, 0.9, (len(each), 1)) for each in (a, b)]
    return Comparison("label", [f"{row:040x}.jpg" for row in range(len(a))], a, b, *tables)


def page(both, limit=600, pictures=None, why=""):
    verdict = ["A - B = +0.004, 95 % CI -0.006 .. +0.013: noise"]
    return compare.document([("runs/one", ""), ("runs/other", "")], both, both.rows[:limit], pictures or {}, why, verdict, [])


def test_thumbnails_are_found_by_name_alone(tmp_path):
    images = tmp_path / "eval" / "images"
    images.mkdir(parents=True)
    Image.new("RGB", (30, 40), "red").save(images / "a.jpg")
    Image.new("RGB", (30, 40), "red").save(tmp_path / "eval" / "b.jpg")
    found, why = compare.thumbnails(tmp_path, ["a.jpg", "../b.jpg"])
    assert list(found) == ["a.jpg"] and why == f"1 of 2 images are not in {images}, such as ../b.jpg"
    assert compare.thumbnails(tmp_path, ["a.jpg"])[1] == ""
    assert compare.thumbnails(None, ["a.jpg"]) == ({}, "no data folder here; --data-dir DIR names it")
    assert compare.thumbnails(tmp_path, []) == ({}, "")


def test_a_page_says_what_it_shows_and_what_not():
    both = comparison([(0, 1, 6), (0, 3, 1)])
    text = page(both, 3, why="no data folder here")
    assert "3 of 7 images are here, the most certain" in text and "No thumbnails: no data folder here." in text
    shown = [sum(both.b[row] == b for row in both.rows[:3]) for b in (1, 3)]
    assert f"6 images, {shown[0]} shown" in text and (f">1 image{'' if shown[1] else ', 0 shown'}<") in text
    assert text.count('<button class="card">') == 3 and "<img" not in text
    assert '<li class="verdict">A - B = +0.004, 95 % CI -0.006 .. +0.013: noise</li>' in text


def test_both_answers_stand_under_an_image_and_what_changed_is_named():
    both = comparison([(0, 14, 1)])
    card = re.search(r'<button class="card">(.*?)</button>', page(both)).group(1)
    words, a, b = " ".join(re.sub(r"<[^>]*>", " ", card).split()), both.probs_a[1, 0], both.probs_b[1, 14]
    assert words.startswith(f"A worn , male , &lt;30 {a:.2f} B not worn , male , &gt;=60 {b:.2f} changed: mask , age_group")
    assert card.count('<b class="word mask">') == 3 and "gender" not in card


KEYS = """<script>
const press = key => (document.activeElement || document.body).dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const at = () => visible().indexOf(document.activeElement), seen = () => visible().length, said = {};
console.log("listening");
said.all = seen(); press("j"); said.first = at(); press("j"); press("ArrowRight"); said.third = at();
press("k"); press("ArrowLeft"); press("ArrowLeft"); said.back = at(); press("ArrowDown"); said.down = at();
press("Enter"); said.opened = large.open; said.large = content.querySelector(".name").textContent;
press("j"); said.next = content.querySelector(".name").textContent; press("Escape"); said.closed = !large.open; said.after = at();
press("2"); said.second = [seen(), shown.textContent, buttons.map(b => b.getAttribute("aria-pressed")).join()];
press("j"); said.inSecond = at(); press("9"); said.noNinth = seen(); press("0"); said.again = seen();
buttons[1].click(); said.clicked = seen(); said.reached = cards.filter(card => card.tabIndex === 0).length;
buttons[0].click(); visible()[0].click(); said.byClick = large.open; document.getElementById("close").click(); said.byButton = !large.open;
said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const head = document.querySelector("details table.sortable"), firsts = () => [...head.tBodies[0].rows].map(r => r.cells[2].textContent);
document.querySelector("details").open = true;
const button = head.tHead.rows[0].cells[2].querySelector("button");
button.click(); said.sorted = [button.parentNode.getAttribute("aria-sort"), firsts()];
button.click(); said.turned = [button.parentNode.getAttribute("aria-sort"), firsts()];
document.body.dataset.said = JSON.stringify(said);
</script></body>"""


def test_in_a_browser_keys_move_filter_and_open(browser):
    """7 images in flows of 4, 2 and 1, one of them with a hostile name: counts, focus, large view, sorting, no errors."""
    both = comparison([(0, 1, 4), (0, 3, 2), (0, 14, 1)])
    both.images[1] = NASTY
    dom, console = browser(page(both).replace("</body>", KEYS), "--dump-dom", "--window-size=1200,900")
    assert len(console) == 1 and "listening" in console[0] and "owned" not in re.search("<title>(.*?)</title>", dom).group(1)
    said = json.loads(html.unescape(re.search(r'data-said="([^"]*)"', dom).group(1)))
    names = [both.images[row] for a, b, _count in both.flows for row in both.rows if (both.a[row], both.b[row]) == (a, b)]
    moves = [said[each] for each in ("all", "first", "third", "back", "down")]
    assert moves == [7, 0, 2, 0, 4]  # 4: below the first of flow 1 stands the first of flow 2
    assert (said["opened"], said["large"], said["next"], said["closed"], said["after"]) == (True, names[4], names[5], True, 5)
    assert said["second"] == [2, "2 of 7 images shown", "false,false,true,false"]
    assert (said["inSecond"], said["noNinth"], said["again"], said["clicked"], said["reached"]) == (0, 2, 7, 4, 1)
    assert (said["byClick"], said["byButton"], said["wide"]) == (True, True, 0)
    counts = ["8", "8", "8", "0", "0", "0", "0", "0"]  # A answers worn, male, <30 for all 8 images
    assert said["sorted"] == ["descending", counts] and said["turned"] == ["ascending", counts[::-1]]
