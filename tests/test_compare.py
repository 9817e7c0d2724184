"""compare.py: what it reads, joins, prints and refuses, on simulated run folders with saved predictions."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

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
    names, _files = dataset.read_eval(shared_data)
    train = dataset.list_images(shared_data, dataset.read_people(shared_data))
    return train, names, dataset.read_answers(shared_data, names)


@pytest.fixture
def make_run(images, tmp_path):
    """make_run(name, target, right=0.8, seed=0, kinds=("oof", "eval")) -> folder of a run whose answers are right that often."""

    def truth_of(target, label, age_group):
        mask, gender, group = dataset.decode(label)
        parts = {"label": label, "mask": mask, "gender": gender, "age_group": group, "age": np.array([4, 27, 42])[age_group]}
        return parts["label" if target == "multi" else target]

    def probs_of(target, truth, right, rng):
        if target == "multi":
            return np.hstack(
                [probs_of(head, part, right, rng) for head, part in zip(dataset.HEADS["multi"], dataset.decode(truth))]
            )
        C = dataset.num_outputs(target)
        answer = np.where(rng.random(len(truth)) < right, truth, rng.integers(C, size=len(truth)))
        probs = rng.random((len(truth), C)) * 0.3
        probs[np.arange(len(truth)), answer] += rng.uniform(1, 3, len(truth))
        return probs / probs.sum(1, keepdims=True)

    def make(name, target, right=0.8, seed=0, kinds=("oof", "eval")):
        train, names, answers = images
        run, rng = tmp_path / "runs" / name, np.random.default_rng(seed)
        run.mkdir(parents=True)
        experiment.write_args(run, {"target": target, "kfold": 2}, [])
        label = train["label"].to_numpy()
        if "oof" in kinds:
            official = np.stack(dataset.decode(label), 1)
            if target != "multi":
                official = truth_of({"age": "age_group"}.get(target, target), label, label % 3)[:, None]
            probs = probs_of(target, truth_of(target, label, label % 3), right, rng)
            table = predictions.oof_table(train, 0, target, official, probs)
            files.write_csv(run / "oof.csv", table, predictions.FORMAT)
        if "eval" in kinds:
            probs = probs_of(target, truth_of(target, answers, answers % 3), right, rng)
            files.write_csv(run / "eval.csv", predictions.eval_table(names, target, probs), predictions.FORMAT)
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


def refused(capsys, *argv):
    """The error line of a call that has to fail."""
    assert errors.run(lambda: compare.main([str(word) for word in argv])) == 2
    *notes, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(note.startswith("no data folder here") for note in notes)
    return line


def test_two_runs_in_numbers_and_a_page(make_run, images, here, shared_data, capsys):
    a, b = make_run("good", "label", 0.9, seed=1), make_run("poor", "label", 0.4, seed=2)
    assert compare.main([str(a), str(b), "--data-dir", str(shared_data)]) == 0
    out = capsys.readouterr().out
    tables = [pd.read_csv(run / "eval.csv")[dataset.columns("label")].to_numpy() for run in (a, b)]
    one, other = (table.argmax(1) for table in tables)
    differ = int((one != other).sum())
    assert f"rows that differ: {differ} of 20 ({differ / 20:.1%})" in out
    changes = [int((x != y).sum()) for x, y in zip(dataset.decode(one), dataset.decode(other))]
    assert "by part: mask {}, gender {}, age_group {}".format(*changes) in out
    worn = [int((table.argmax(1) < 6).sum()) for table in tables]
    assert re.search(rf"worn +{worn[0]} +{worn[1]} +\{worn[1] - worn[0]:+} +14\n", out)  # 20 * 5 / 7 = 14.3
    scores, answers = [], []
    for run in (a, b):
        oof = pd.read_csv(run / "oof.csv")
        answers.append(oof[dataset.columns("label")].to_numpy().argmax(1))
        scores.append(sklearn.metrics.f1_score(oof["target"], answers[-1], average="macro"))
    assert f"out-of-fold macro F1 of label: A {scores[0]:.4f}, B {scores[1]:.4f} (168 images of 24 people)" in out
    verdict = f"A - B = {scores[0] - scores[1]:+.3f}, 95 % CI "
    assert re.search(re.escape(verdict) + r"\+0\.\d+ \.\. \+0\.\d+: A is better", out)
    wrong = [answer != oof["target"].to_numpy() for answer in answers]
    counts = f"A {wrong[0].sum()}, B {wrong[1].sum()}, both {(wrong[0] & wrong[1]).sum()}"
    assert f"errors: {counts}; their correlation (phi) is {np.corrcoef(*wrong)[0, 1]:.2f}\n" in out
    near = oof["path"].str.endswith("_60").to_numpy()
    share, gain = metrics.boundary_share(oof["target"].to_numpy(), *answers, near, 18), scores[0] - scores[1]
    said = f"boundary people (ages 27-32 and 57 or more; 8 of 24) make {share * gain:+.4f} of the {gain:+.4f} ({share:.0%})\n"
    assert said in out
    assert max(map(len, out.splitlines()[2:-1])) <= 100  # but for whole names of folders
    text = (here / "comparisons" / "good--poor.html").read_text()
    assert text.count('<button class="card">') == differ == text.count("data:image/jpeg;base64,")
    assert out.splitlines()[-1] == f"comparisons/good--poor.html: {differ} images that differ, thumbnails of {differ}"
    assert all(line in text for line in out.splitlines() if line.startswith(("A - B", "boundary people")))


@pytest.mark.parametrize(("paired", "words"), [
    (Paired(0.504, 0.5, -0.006, 0.013, 700), ["to tell a difference of this size takes about 3,900 people; you have 700"]),
    (Paired(0.5075, 0.5, -0.001, 0.013, 700), ["to tell a difference of this size takes little more than the 700 people you have"]),
    (Paired(0.5104, 0.5, 0.001, 0.02, 700), []),
    (Paired(0.5, 0.5, -0.001, 0.001, 700), []),
])  # fmt: skip
def test_how_many_people_it_takes_is_told_where_it_is_noise(paired, words):
    """700 * (0.0095 / 0.004)^2 = 3,948 and 700 * (0.007 / 0.0075)^2 = 610: draws lean to one side, so 700 don't quite do."""
    assert compare.verdict_lines(paired, "people") == [str(paired), *words]


def test_expected_effects_by_hand(capsys):
    """Chances of male 0.8, 0.5, 0.3. A answers male once: F1 2 * 0.8 / (1 + 1.6) = 0.6154, of female 2 * 1.2 / (2 + 1.4) =
    0.7059. B answers male twice: 2.6 / 3.6 = 0.7222 and 1.4 / 2.4 = 0.5833. Effects are halves of the differences, and the
    strongest comes first; macro F1 falls from 0.6606 to 0.6528."""
    probs = np.array([[0.8, 0.2], [0.5, 0.5], [0.3, 0.7]])
    compare.print_counts(Comparison("gender", list("xyz"), np.array([0, 1, 1]), np.array([0, 0, 1]), probs, probs))
    assert [line.split() for line in capsys.readouterr().out.splitlines()[-3:]] == [
        ["female", "2", "1", "0.7059", "0.5833", "-0.0613"],
        ["male", "1", "2", "0.6154", "0.7222", "+0.0534"],
        ["all", "3", "3", "0.6606", "0.6528", "-0.0079"],
    ]


def test_csv_against_csv_by_hand(images, here, shared_data, capsys):
    """Of 20 answers two change: one from worn, male, <30 to worn, female, <30, one to not worn, female, >=60."""
    names = images[1]
    a = write_submission(here / "a.csv", names, np.zeros(20, dtype=int))
    b = write_submission(here / "b.csv", names[::-1], [0] * 18 + [17, 3])  # in another order: the first two names
    argv = [str(a), str(b), "--images", "--out", "x.html", "--limit", "1", "--data-dir", str(shared_data)]
    assert compare.main(argv) == 0
    out = capsys.readouterr().out
    assert "by part: mask 1, gender 2, age_group 1" in out
    assert "     1  50.0%  worn, male, <30  ->  worn, female, <30" in out
    assert (
        f"images that differ\n  {names[0]}  worn, male, <30 -> female\n  {names[1]}  worn, male, <30 -> not worn, female, >=60"
        in out
    )
    assert "no expected effect on macro F1: neither has probabilities" in out
    assert "no out-of-fold verdict: " in out and "have no oof.csv" in out
    assert "most certain" not in out and "2 images that differ, thumbnails of 1" in out
    assert "1 of 2 images are here" in (here / "x.html").read_text() and not (here / "comparisons").exists()


def test_the_same_answers_twice(images, here, capsys):
    a = write_submission(here / "a.csv", images[1], images[2])
    assert compare.main([str(a), str(a)]) == 0
    assert "rows that differ: 0 of 20 (0.0%)" in capsys.readouterr().out
    assert "<b>0</b> of 20 rows differ" in (here / "comparisons" / f"{here.name}-a--{here.name}-a.html").read_text()


def test_a_file_within_a_run_stands_for_it(make_run, here):
    run = make_run("a", "label")
    assert compare.read_side("runs/a/args.yaml").images == compare.read_side(str(run)).images


@pytest.mark.parametrize(("targets", "part"), [
    (("label", "mask"), "mask"), (("gender", "label"), "gender"), (("age", "age_group"), "age_group"), (("multi", "label"), "label"),
    (("age", "multi"), "age_group"), (("mask", "mask"), "mask"),
])  # fmt: skip
def test_targets_meet_on_what_both_answer(make_run, here, capsys, targets, part):
    a, b = (make_run(f"{number}{target}", target, 0.7, seed=number) for number, target in enumerate(targets))
    assert compare.main([str(a), str(b)]) == 0
    out = capsys.readouterr().out
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


def test_a_csv_is_split_into_parts(make_run, images, here, capsys):
    run = make_run("m", "mask", 1.0)
    a = write_submission(here / "a.csv", images[1], images[2])
    assert compare.main([str(a), str(run)]) == 0
    out = capsys.readouterr().out
    assert "rows that differ: 0 of 20" in out and "as B alone sees it" in out
    assert f"no out-of-fold verdict: {a} has no oof.csv" in out


def test_scores_on_known_labels(images, here, shared_data, capsys):
    """A is right everywhere, B in half of the images; a folder stands for its answers.csv; a part of the labels will do."""
    names, truth = images[1:]
    a = write_submission(here / "a.csv", names, truth)
    wrong = np.where(np.arange(20) < 10, truth, (truth + 1) % 18)
    b = write_submission(here / "b.csv", names, wrong)
    assert compare.main([str(a), str(b), "--labels", str(shared_data)]) == 0
    out = capsys.readouterr().out
    f1 = sklearn.metrics.f1_score(truth, wrong, average="macro")
    assert f"answers.csv: A 1.0000, B {f1:.4f} (20 images)\nA - B = {1 - f1:+.3f}, 95 % CI +0." in out
    assert "images are drawn one by one, as nobody knows who is on them" in out
    few = write_submission(here / "few.csv", names[:5], truth[:5])
    assert compare.main([str(a), str(b), "--labels", str(few)]) == 0
    assert f"macro F1 of label against {few}: A 1.0000, B 1.0000 (5 images)" in capsys.readouterr().out
    assert "nothing.csv: no such file" in refused(capsys, a, b, "--labels", here / "nothing.csv")
    other = write_submission(here / "other.csv", ["x.jpg"], [0])
    assert "other.csv: holds none of the 20 images" in refused(capsys, a, b, "--labels", other)


def test_without_eval_predictions_the_verdict_is_still_there(make_run, here, capsys):
    a = make_run("a", "label", kinds=("oof", "eval"))
    b = make_run("b", "label", seed=3, kinds=("oof",))
    (b / "fold0").mkdir()
    (b / "fold0" / "fold.json").write_text(json.dumps(dict.fromkeys(experiment.FOLD, 0) | {"weights_sha256": "0"}))
    assert compare.main([str(a), f"{b}:fold0"]) == 0
    out = capsys.readouterr().out
    assert "A - B = " in out and "rows that differ" not in out and not (here / "comparisons").exists()
    assert f"{b}:fold0 has no eval predictions; python inference.py --models {b} --folds 0 makes them" in out
    (b / "oof.csv").unlink()
    line = refused(capsys, a, f"{b}:best")
    assert f"--models {b} --folds best makes them. Without them: no out-of-fold verdict: {b}:best has no oof.csv" in line


def test_real_runs_folds_and_ensembles(runs, workplace, shared_data, here, capsys):
    """An ensemble of one run answers as that run; a run and one of its folds differ in eval.csv and share their oof.csv."""
    run, places = str(runs["label"]), ["--data-dir", str(shared_data)]
    argv = ["--models", run, "--name", "one", "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet", *places]
    assert ensemble.main(argv) == 0
    capsys.readouterr()
    assert compare.main([run, "submissions/one", *places]) == 0
    out = capsys.readouterr().out
    assert "B  submissions/one  (ensemble)" in out and "rows that differ: 0 of 20" in out
    assert "no out-of-fold verdict: all answers are the same there" in out and "A - B" not in out
    assert compare.main([run, f"{run}:fold1", *places]) == 0
    out = capsys.readouterr().out
    tables = [pd.read_csv(path)[dataset.columns("label")].to_numpy() for path in (f"{run}/eval.csv", f"{run}/fold1/eval.csv")]
    assert f"rows that differ: {(tables[0].argmax(1) != tables[1].argmax(1)).sum()} of 20" in out
    assert "no out-of-fold verdict: both have the same oof.csv" in out
    assert (here / "comparisons" / "shared_label--shared_label-fold1.html").is_file()


@pytest.fixture
def data_of(images, shared_data, here):
    """data_of(names) -> a data folder data/ with these ImageIDs and the people of the tiny competition."""

    def make(names):
        (here / "data" / "eval").mkdir(parents=True)
        (here / "data" / "train").symlink_to(shared_data / "train")
        pd.DataFrame({"ImageID": names, "ans": 0}).to_csv(here / "data" / "eval" / "info.csv", index=False)

    return make


def test_answers_that_lack_images_of_info_csv_are_not_compared(make_run, images, data_of, here, capsys):
    """Example: the eval set has grown since a run was predicted. Variants: a csv, and an ensemble, which has a verdict."""
    data_of([*images[1], "new.jpg"])
    a, b = make_run("a", "label"), make_run("b", "label", seed=4)
    lacks = "lacks 1 of the 21 images of data/eval/info.csv, such as new.jpg"
    assert compare.main([str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert f"answers to the eval images are not compared: {a} {lacks}; bring it along anew" in out
    assert "A - B = " in out and "rows that differ" not in out and not (here / "comparisons").exists()
    csv = write_submission(here / "mine.csv", images[1], images[2])
    assert f"{csv} {lacks}; make it anew. Without them: no out-of-fold verdict" in refused(capsys, a, csv)
    (b / "args.yaml").rename(b / "recipe.yaml")
    assert compare.main([str(a), str(b)]) == 0
    assert f"{b} {lacks}; make the ensemble anew" in capsys.readouterr().out


def test_images_that_info_csv_has_no_more_are_left_out(make_run, images, data_of, capsys):
    data_of(images[1][:4:-1])
    a, b = make_run("a", "label"), make_run("b", "label", seed=4)
    assert compare.main([str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert f"left out of {a}: 5 of its images, such as {min(images[1][:5])}, not in data/eval/info.csv any more" in out
    assert re.search(r"rows that differ: \d+ of 15 ", out)


def test_the_out_of_fold_verdict_is_on_the_labels_of_train_csv(make_run, images, data_of, here, capsys):
    data_of(images[1])
    csv = here / "data" / "train" / "train.csv"
    people = csv.read_text().splitlines()
    (here / "data" / "train").unlink()
    csv.parent.mkdir()
    csv.write_text("\n".join([people[0], *people[3:]]))
    assert compare.main([str(make_run("a", "label")), str(make_run("b", "label", seed=4))]) == 0
    assert "(154 images of 22 people)" in capsys.readouterr().out


def test_comparing_says_which_folds_and_changes_nothing(runs, workplace, shared_data, here, capsys):
    """Example: compare.py made RUN/eval.csv, which inference.py had left as one fold's, the mean of all."""
    run, places = str(runs["multi"]), ["--data-dir", str(shared_data)]
    for folds in ("all", "1"):
        argv = ["--models", run, "--folds", folds, "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet"]
        assert inference.main([*argv, *places]) == 0
    before = {path: path.read_bytes() for path in runs["multi"].glob("*.*")}
    assert compare.main([run, f"{run}:fold1", *places]) == 0
    out = capsys.readouterr().out
    assert f"A  {run}  (run, target multi, folds 0 1)\nB  {run}:fold1  (run, target multi, fold 1)\n" in out
    assert {path: path.read_bytes() for path in runs["multi"].glob("*.*")} == before


def test_runs_of_some_folds_are_compared_where_both_have_predictions(make_run, here, capsys):
    a, b = make_run("a", "label"), make_run("b", "label", seed=4)
    table = pd.read_csv(b / "oof.csv", dtype=str)
    table.iloc[:70].sample(frac=1, random_state=0).to_csv(b / "oof.csv", index=False)
    assert compare.main([str(a), str(b)]) == 0
    assert "(70 images of 10 people, those that both have)" in capsys.readouterr().out
    table.assign(image=table["image"] + "x").to_csv(b / "oof.csv", index=False)
    assert compare.main([str(a), str(b)]) == 0
    assert "no out-of-fold verdict: their oof.csv have no image in common" in capsys.readouterr().out
    pd.concat([table, table.iloc[:1]]).to_csv(b / "oof.csv", index=False)
    assert f"{b}/oof.csv, line 170: image '{table['image'].iloc[0]}' stands twice" in refused(capsys, a, b)
    table.assign(target="5").to_csv(b / "oof.csv", index=False)
    assert "official labels differ, such as that of" in refused(capsys, a, b)


def test_an_existing_page_is_replaced_and_nothing_is_half_written(make_run, here, capsys):
    a, b = make_run("a", "label"), make_run("b", "label", seed=4)
    (here / "comparisons").mkdir()
    (here / "comparisons" / "a--b.html").write_text("old")
    assert compare.main([str(a), str(b)]) == 0
    assert [path.name for path in (here / "comparisons").iterdir()] == ["a--b.html"]
    assert (here / "comparisons" / "a--b.html").read_text().endswith("</html>\n")
    assert "no/x.html: can't be written" in refused(capsys, a, b, "--out", "no/x.html")


@pytest.mark.parametrize(("name", "safe"), [
    ("runs/01-AdamP-v0-label_5fold", "01-AdamP-v0-label_5fold"), ("runs/a:fold2", "a-fold2"), ("sub/mine/submission.csv", "mine-submission"),
    ("a.csv", "a"), ('runs/<b>"&', "b"), ("runs/한글", "한글"), ("x" * 300, "x" * 100), ("...", "x"),
])  # fmt: skip
def test_names_of_pages_are_safe(name, safe):
    assert compare.page_name(name) == safe


@pytest.mark.parametrize(("change", "message"), [
    (lambda table: table.rename(columns={"ans": "answer"}), "bad.csv: column 'ans' is missing, found ImageID,answer. Did you mean answer?"),
    (lambda table: table.iloc[:-1], "bad.csv: answers to different images (20 and 19, 1 in one alone, such as "),
])  # fmt: skip
def test_bad_submissions_are_named(images, here, capsys, change, message):
    a = write_submission(here / "a.csv", images[1], images[2])
    change(pd.read_csv(a)).to_csv(here / "bad.csv", index=False)
    assert message in refused(capsys, a, here / "bad.csv")
    assert sorted(path.name for path in here.iterdir() if path.suffix != ".csv") == []


def test_either_may_lack_images(images, here, capsys):
    a = write_submission(here / "a.csv", images[1], images[2])
    few = write_submission(here / "few.csv", images[1][:15], images[2][:15])
    for pair, counts in (((a, few), "20 and 15"), ((few, a), "15 and 20")):
        assert f"answers to different images ({counts}, 5 in one alone, such as " in refused(capsys, *pair)
