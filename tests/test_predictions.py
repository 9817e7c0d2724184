"""predictions.py: what counts as a table of probabilities; what --models may name, and the tables behind it; the summary."""

import json
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from helpers import People, write_run

import dataset
import ensemble
import experiment
import files
import predictions
import report
from dataset import TARGETS
from errors import InputError


def write(path, target, probs):
    """eval.csv with these rows of probabilities, as the scripts write it."""
    table = predictions.eval_table([f"{row}.jpg" for row in range(len(probs))], target, probs)
    table.to_csv(path, index=False, float_format=predictions.FORMAT)
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_rounded_probabilities_of_each_target_are_read(tmp_path, target):
    """By six digits, as written, and by three, as in tables of others."""
    probs = People(6, seed=0).probs(target)
    read = predictions.read_table(write(tmp_path / "eval.csv", target, probs), target, ("ImageID",))
    np.testing.assert_allclose(read[dataset.columns(target)], probs, rtol=1e-5)
    thirds = np.full((2, 3), 0.333)
    assert len(predictions.read_table(write(tmp_path / "eval.csv", "mask", thirds), "mask", ("ImageID",))) == 2


@pytest.mark.parametrize(("target", "column", "value", "message"), [
    ("label", "p17", 5.5, r"line 4: p0 to p17 sum to 6\S*, not to 1; of logits take the softmax"),
    ("multi", "gender_p1", 0.01, r"line 4: gender_p0 to gender_p1 sum to 1\S*, not to 1"),
    ("age", "age_p60", 4, r"line 4: age_p18 to age_p60 sum to 5\S*, not to 1"),
])  # fmt: skip
def test_the_first_row_that_sums_to_something_else_is_named(tmp_path, target, column, value, message):
    """In lines 4 and 6 a column has more than its probability, which leaves the other heads as they are."""
    table = pd.DataFrame(People(1, seed=0).probs(target), columns=dataset.columns(target))
    table.loc[[2, 4], column] += value
    with pytest.raises(InputError, match=message):
        predictions.read_table(write(tmp_path / "eval.csv", target, table.to_numpy()), target, ("ImageID",))


@pytest.fixture(scope="module")
def predicted(runs, shared_data, workplace):
    """An ensemble of the label run, whose eval predictions of all folds are thereby there."""
    places = ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet"]
    output_dir = workplace / "submissions_of_members"
    with mock.patch("gallery.write_report"):  # it has tests of its own
        assert ensemble.main(["--models", str(runs["label"]), "--name", "e", "--output-dir", str(output_dir), *places]) == 0
    return output_dir / "e"


def unasked(jobs):
    raise AssertionError(f"{jobs} are there already")


def test_single_folds_and_an_ensemble_are_members(predicted, runs):
    """A single fold predicts alone; out of fold its run stands in for it."""
    run = runs["label"]
    sources = predictions.find_members([f"{run}:fold1", f"{run}:fold0", str(run), str(predicted)])
    assert [(source.choice, source.is_run) for source in sources] == [([1], True), ([0], True), ("all", True), (None, False)]
    second, first, whole, ensembled = predictions.read_members(sources, "none", unasked)
    names = whole.eval["ImageID"].tolist()
    by_second, by_first, by_all, by_ensemble = (member.fold_probs(names) for member in (second, first, whole, ensembled))
    np.testing.assert_allclose(by_ensemble, by_all, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(whole.fold_probs(names[::-1])[0][::-1], by_all[0])  # joined by name
    np.testing.assert_allclose(by_second, [pd.read_csv(run / "fold1" / "eval.csv")[dataset.columns("label")]])
    np.testing.assert_allclose([(by_first[0] + by_second[0]) / 2], by_all, atol=1e-6)  # one table: nobody asked for more
    pd.testing.assert_frame_equal(second.oof, whole.oof)
    assert second.folds == [1] and second.name.endswith(":fold1")
    (again,) = predictions.read_members(sources[2:3], "none", unasked, by_fold=True)
    np.testing.assert_array_equal(again.fold_probs(names), [*by_first, *by_second])


def test_patterns_may_end_in_a_fold_and_pass_other_folders_over(runs, workplace, capsys):
    (workplace / "runs" / "shared_notes").mkdir()
    sources = predictions.find_members([str(workplace / "runs" / "shared_*:fold0")])
    assert len(sources) == len(runs) and all(source.choice == [0] for source in sources)
    told = f"skipped, 1 of what patterns match: {workplace / 'runs' / 'shared_notes'} (neither a run nor an ensemble)\n"
    assert capsys.readouterr().err == told
    (workplace / "runs" / "shared_notes").rmdir()


@pytest.mark.parametrize(("name", "message"), [
    ("{ensemble}:fold1", "is an ensemble; only runs of train.py have folds"),
    ("{label}:fold7", "has the complete folds 0 1"),
    ("{label}x:best", "no such run. Did you mean shared_label"),
])  # fmt: skip
def test_unknown_names(predicted, runs, name, message):
    with pytest.raises(InputError, match=message):
        predictions.read_members(predictions.find_members([name.format(ensemble=predicted, **runs)]), "none", unasked)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """(people, {target: run folder}) of simulated runs."""
    people, root = People(8, seed=0), tmp_path_factory.mktemp("members")
    held = People(4, seed=1)
    return people, {target: write_run(root / target, target, people, held) for target in ("label", "multi", "mask")}


def test_runs_are_opened_as_named_and_once(simulated):
    run = simulated[1]["label"]
    for name, folds, choice in ((f"{run}:best", "all", "best"), (f"{run}:fold2", "best", [2]), (str(run), "best", "best")):
        source = predictions.open_member(name, folds)
        assert (source.name, source.folder, source.choice) == (name, run, choice)
    twice = predictions.find_members([str(simulated[1]["multi"]), str(run.parent / "*"), str(run)])
    assert [source.folder.name for source in twice] == ["multi", "label", "mask"]
    with pytest.raises(InputError, match=r"--models .*x\*: matches no run"):
        predictions.find_members([str(run.parent / "x*")])


def test_a_folder_may_be_named_like_a_pattern_and_is_checked_when_it_is_read(simulated, tmp_path):
    odd = write_run(tmp_path / "run[1]", "label", People(9, seed=0), People(4, seed=1))
    assert [source.folder for source in predictions.find_members([str(odd)])] == [odd]
    colon = write_run(tmp_path / "a:1", "label", People(9, seed=0), People(4, seed=1))
    assert [source.name for source in predictions.find_members([f"{tmp_path}/a:*:fold1"])] == [f"{colon}:fold1"]
    with pytest.raises(InputError, match=r"their oof.csv hold different images"):
        predictions.read_members(predictions.find_members([str(odd), str(simulated[1]["label"])]), "none", unasked)


def test_an_oof_table_without_a_complete_fold_is_not_gone_by(simulated, tmp_path, capsys):
    """Fold 5 was trained elsewhere and copied in, and oof.csv is of before; a pattern passes the run over."""
    run = write_run(tmp_path / "run", "label", People(8, seed=0), People(4, seed=1))
    (run / "fold5").mkdir()
    (run / "fold5" / "fold.json").write_text(json.dumps(dict.fromkeys(experiment.FOLD, 5) | {"weights_sha256": "0"}))
    message = rf"run/oof.csv: lacks the complete fold 5; python train.py --resume {run} puts it together anew"
    for read in (lambda: predictions.read_oofs([predictions.open_member(str(run))]), lambda: report.read_evidence([str(run)])):
        with pytest.raises(InputError, match=message):
            read()
    found = predictions.read_oofs(predictions.find_members([str(simulated[1]["label"]), f"{run.parent}/r*"]))
    assert [member.name for member in found] == [str(simulated[1]["label"])]
    assert "(oof.csv lacks a complete fold)" in capsys.readouterr().err


def test_the_truth_is_joined_by_image(simulated):
    """Members of several targets give parts of the label; rows of one of them stand in another order."""
    people, runs = simulated
    found = predictions.read_members(predictions.find_members(map(str, runs.values())), "none", unasked)
    found[1].oof = found[1].oof.iloc[::-1]
    for first in range(3):
        order = [*found[first:], *found[:first]]
        table, truth = predictions.oof_truth(order)
        assert table["image"].tolist() == order[0].oof["image"].tolist()
        assert truth.tolist() == (people.label[::-1] if first == 1 else people.label).tolist()
        expected = order[1].oof.set_index("image").loc[table["image"], dataset.columns(order[1].target)]
        np.testing.assert_array_equal(order[1].oof_probs(table["image"]), expected)


@pytest.mark.parametrize(("kind", "key"), [("eval", "ImageID"), ("oof", "image")])
@pytest.mark.parametrize("which", [0, 1])
def test_members_of_other_images_are_refused(simulated, kind, key, which):
    found = predictions.read_members(predictions.find_members(map(str, simulated[1].values())), "none", unasked)
    setattr(found[which], kind, getattr(found[which], kind).iloc[1:])
    with pytest.raises(InputError, match=f"their {kind}.csv hold different images .1 in one alone.*combine complete runs"):
        predictions.check_same_images(found, kind, key)


def test_a_summary_looks_for_folds_only_when_it_may_write(fit, monkeypatch):
    """Of two processes that end at once the one that writes last would else not know the other's fold. Fold 1 is not trained."""
    half, found, locks = fit("--target", "mask", "--fold", "0", name="half_summed"), experiment.done_folds, []

    def done_folds(run):
        with pytest.raises(InputError, match="another process is training it"), files.lock(run):
            pass
        locks.append(run)
        return found(run)

    monkeypatch.setattr(experiment, "done_folds", done_folds)
    summary = predictions.write_summary(half, "mask", 2)
    assert [row["fold"] for row in summary["folds"]] == [0] and locks == [half]
    assert summary["options"] == experiment.read_args(half)
    assert summary["people"] == experiment.validated_people(half) and summary["people"][0] == len(experiment.read_folds(half))
