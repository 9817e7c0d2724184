import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import yaml

import experiment
import leaderboard
from errors import InputError

SCORES = {"oof_f1": 0.52, "oof_acc": 0.58, "oof_f1_ci95": [0.48, 0.55]}


def make_run(root, name, target="label", kfold=2, folds=None, scores=SCORES, people=4, **args):
    """A simulated run folder; `folds`: those that are complete, all by default; `scores` None: stopped, without a summary."""
    run = root / name
    folds = range(max(kfold, 1)) if folds is None else folds
    run.mkdir(parents=True)
    (run / "args.yaml").write_text(
        "# python train.py\n" + yaml.safe_dump({"target": target, "kfold": kfold, "name": name, **args})
    )
    (run / "folds.csv").write_text("path,fold\n" + "".join(f"00000{i}_male_Asian_2{i},{i % 2}\n" for i in range(people)))
    for fold in folds:
        (run / f"fold{fold}").mkdir()
        (run / f"fold{fold}" / "fold.json").write_text(json.dumps({"fold": fold, "seconds": 60.0}))
    if scores is not None:
        rows = [{"fold": fold, "best_epoch": 1, "val_f1": 0.5, "val_acc": 0.6} for fold in folds]
        (run / "summary.json").write_text(json.dumps({"name": name, "folds": rows, "seconds": 125.0, **scores}))
    return run


def make_ensemble(root, name, members, scores=SCORES, **recipe):
    """A simulated ensemble folder; `members`: {run: weight}."""
    folder = root / name
    folder.mkdir(parents=True)
    rows = [{"run": run, "target": "label", "folds": [0, 1], "weight": weight} for run, weight in members.items()]
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"method": "soft", "members": rows, **recipe}))
    (folder / "score.json").write_text(json.dumps(scores))
    return folder


def test_a_run_is_read_from_its_args_whatever_its_name(tmp_path):
    run = make_run(tmp_path, "01-AdamP-StepLR-FL-v0-mask_5fold", target="age", optimizer="sgd")
    record, problems = leaderboard.read_record(run)
    assert problems == []
    assert (record.kind, record.target, record.scored_as, record.options["optimizer"]) == ("run", "age", "age_group", "sgd")
    assert (record.folds, record.kfold, record.is_complete) == ([0, 1], 2, True)
    assert (record.oof_f1, record.oof_acc, record.oof_f1_ci95, record.seconds) == (0.52, 0.58, [0.48, 0.55], 125.0)
    assert record.people[0] == 4 and record.lb is None


def test_stopped_unfinished_and_nofold_runs(tmp_path):
    stopped, _ = leaderboard.read_record(make_run(tmp_path, "stopped", folds=[1], scores=None))
    assert (stopped.folds, stopped.is_complete, stopped.oof_f1, stopped.seconds) == ([1], False, None, 60.0)
    nothing, _ = leaderboard.read_record(make_run(tmp_path, "nothing", folds=[], scores=None))
    assert (nothing.folds, nothing.seconds) == ([], None)
    nofold = dict.fromkeys(SCORES)
    whole, _ = leaderboard.read_record(make_run(tmp_path, "nofold", kfold=0, scores=nofold))
    assert (whole.folds, whole.oof_f1, whole.is_complete) == ([0], None, False)


def test_folds_come_from_the_summary_where_their_folders_are_gone(tmp_path):
    run = make_run(tmp_path, "slim")
    (run / "fold0" / "fold.json").unlink()
    assert leaderboard.read_record(run)[0].folds == [0, 1]


def test_the_score_is_of_the_folds_of_the_summary(tmp_path):
    """Fold 1, trained elsewhere, was copied in: until train.py --resume has put both together the score is that of fold 0."""
    run = make_run(tmp_path, "run", folds=[0])
    (run / "fold1").mkdir()
    (run / "fold1" / "fold.json").write_text(json.dumps({"fold": 1, "seconds": 60.0}))
    record, _ = leaderboard.read_record(run)
    assert (record.folds, record.is_complete, record.oof_f1) == ([0], False, 0.52)


def test_a_fold_that_the_run_does_not_have_is_not_counted(tmp_path):
    assert leaderboard.read_record(make_run(tmp_path, "run", folds=[1, 7]))[0].folds == [1]


def test_an_ensemble_is_read_from_its_recipe(tmp_path):
    record, _ = leaderboard.read_record(make_ensemble(tmp_path, "a", {"runs/x": 1, "runs/y": {"mask": 0.5}}))
    assert (record.kind, record.target, record.oof_f1, len(record.members)) == ("ensemble", "label", 0.52, 2)


def test_people_are_the_same_whatever_their_folds_and_order(tmp_path):
    lines = ["a,0", "b,1", "c,-1"]
    found = []
    for number, rows in enumerate((lines, ["b,0", "a,1", "c,-1"], ["a,0", "b,1", "c,0"])):
        run = make_run(tmp_path, str(number))
        (run / "folds.csv").write_text("\n".join(["path,fold", *rows]) + "\n")
        found.append(leaderboard.read_record(run)[0].people)
    assert found[0] == found[1] and found[0][0] == 2 and found[2][0] == 3


@pytest.mark.parametrize(("file", "content", "message"), [
    ("args.yaml", "target: [", "args.yaml: not readable"),
    ("args.yaml", "- 1", "args.yaml: holds no options"),
    ("args.yaml", "target: nose", "no valid target"),
    ("args.yaml", "target: [mask]", "no valid target"),
    ("args.yaml", "target: mask\nkfold: many", "kfold is 'many'"),
    ("args.yaml", b"\xff\xfe", "args.yaml: not readable"),
])  # fmt: skip
def test_a_run_without_readable_options_is_none(tmp_path, file, content, message):
    run = make_run(tmp_path, "run")
    (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        leaderboard.read_record(run)


@pytest.mark.parametrize(("file", "content", "message"), [
    ("summary.json", '{"oof_f1": 0.5', "summary.json: not readable JSON"),
    ("summary.json", "[]", "summary.json: holds no JSON object"),
    ("summary.json", '{"oof_f1": 52.1}', "summary.json: oof_f1 is 52.1; it takes a number from 0 to 1"),
    ("summary.json", '{"oof_f1": NaN}', "oof_f1 is nan"),
    ("summary.json", '{"oof_acc": "high"}', "oof_acc is 'high'"),
    ("summary.json", '{"oof_f1_ci95": [0.1]}', "it takes two numbers"),
    ("summary.json", '{"folds": [1]}', "folds is no list of folds"),
    ("fold0/fold.json", '{"seconds": -1}', "seconds is -1"),
    ("lb.json", '{"lb": 0.7}', "lb.json: holds no history"),
    ("lb.json", '{"lb": true, "history": []}', "lb is True"),
    ("folds.csv", b"\xff", "folds.csv: not readable"),
])  # fmt: skip
def test_a_damaged_file_is_named_and_the_rest_of_its_run_kept(tmp_path, file, content, message):
    run = make_run(tmp_path / "runs", "run", optimizer="AdamP")
    (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    for _ in range(2):  # the second time beside a cache
        (record,), problems, _others = leaderboard.read_all(tmp_path / "runs")
        assert len(problems) == 1 and message in problems[0] and str(run) in problems[0]
        assert record.options["optimizer"] == "AdamP" and record.folds == [0, 1]


def test_a_damaged_recipe(tmp_path):
    folder = make_ensemble(tmp_path, "a", {})
    (folder / "recipe.yaml").write_text("members: 3")
    with pytest.raises(InputError, match=r"not a recipe of ensemble\.py"):
        leaderboard.read_record(folder)


# ---- many folders and the cache


def test_other_folders_are_passed_over_and_files_ignored(tmp_path):
    make_run(tmp_path, "run")
    make_ensemble(tmp_path, "ensemble", {})
    (tmp_path / "notes").mkdir()
    (tmp_path / ".03-soft.77.tmp").mkdir()
    (tmp_path / "todo.txt").write_text("")
    found, problems, others = leaderboard.read_all(tmp_path)
    assert ([record.name for record in found], problems, others) == (["ensemble", "run"], [], ["notes"])
    assert leaderboard.read_all(tmp_path / "nowhere") == ([], [], [])


def test_the_cache_tells_the_same_and_sees_every_change(tmp_path, monkeypatch):
    run = make_run(tmp_path, "run", lr=1e-3, label_fixes=None)
    make_ensemble(tmp_path, "ensemble", {"runs/run": 1})
    cold = leaderboard.read_all(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(leaderboard, "read_record", None)  # nothing is read again
        assert leaderboard.read_all(tmp_path) == cold
    leaderboard.record_lb(run, 0.7)
    assert leaderboard.read_all(tmp_path)[0][1].lb == 0.7
    make_run(tmp_path, "other")
    assert len(leaderboard.read_all(tmp_path)[0]) == 3
    (run / "fold1" / "fold.json").unlink()
    (run / "summary.json").unlink()
    assert leaderboard.read_all(tmp_path)[0][2].folds == [0]
    (tmp_path / "other" / "summary.json").write_text(json.dumps({**SCORES, "oof_f1": 0.61}))
    assert leaderboard.read_all(tmp_path)[0][1].oof_f1 == 0.61
    (tmp_path / "other" / "summary.json").write_text(json.dumps({**SCORES, "oof_f1": 0.62}))  # as long as before
    assert leaderboard.read_all(tmp_path)[0][1].oof_f1 == 0.62
    os.rename(run, tmp_path.parent / "gone")
    assert [record.name for record in leaderboard.read_all(tmp_path)[0]] == ["ensemble", "other"]


@pytest.mark.parametrize("damage", ["", "{}", "x\n{}", None])
def test_a_damaged_cache_is_ignored_and_made_anew(tmp_path, damage):
    make_run(tmp_path, "run")
    before = leaderboard.read_all(tmp_path)
    cache = tmp_path / leaderboard.CACHE
    text = cache.read_text()
    cache.write_text(text.replace("0.52", "0.92") if damage is None else damage)
    assert leaderboard.read_all(tmp_path) == before
    assert cache.read_text() == text


def test_a_cache_that_was_made_elsewhere_is_not_believed(tmp_path):
    """Its digest holds in the place that it was made in alone, so none that comes with a folder of runs says anything."""
    make_run(tmp_path / "runs", "run")
    before = leaderboard.read_all(tmp_path / "runs")
    for text in ("[]", '{"run": [[], {"kind": 1}]}'):
        (tmp_path / "runs" / leaderboard.CACHE).write_text(f"{leaderboard._digest(tmp_path, text)}\n{text}")
        assert leaderboard.read_all(tmp_path / "runs") == before


def test_a_folder_that_cannot_be_written_is_listed(tmp_path, monkeypatch):
    make_run(tmp_path, "run")

    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(experiment.os, "replace", refuse)
    assert len(leaderboard.read_all(tmp_path)[0]) == 1
    assert not (tmp_path / leaderboard.CACHE).exists()


# ---- leaderboard scores


def test_scores_are_kept_with_all_earlier_ones(tmp_path):
    run = make_run(tmp_path, "run")
    (run / ".lb.json.77.tmp.json").write_text("{")  # of a killed process
    assert leaderboard.record_lb(run, 0.7444) is None
    assert leaderboard.record_lb(run, 0.7478) == 0.7444
    written = json.loads((run / "lb.json").read_text())
    assert (written["lb"], [row["lb"] for row in written["history"]]) == (0.7478, [0.7444, 0.7478])
    assert leaderboard.read_record(run)[0].lb == 0.7478
    assert sorted(path.name for path in run.glob("*lb*")) + sorted(path.name for path in run.glob(".lb*")) == ["lb.json"]


def test_two_processes_at_once_keep_both(tmp_path):
    """Each of 2 processes records 20 scores into one folder; the history holds all 40."""
    run = make_run(tmp_path, "run")
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_record_many, args=(run, start)) for start in (0, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    history = json.loads((run / "lb.json").read_text())["history"]
    assert sorted(row["lb"] for row in history) == [number / 100 for number in range(40)]


def _record_many(run, start, count=20):
    for number in range(start, start + count):
        leaderboard.record_lb(run, number % 100 / 100)


def test_a_kill_leaves_the_scores_readable_and_the_folder_free(tmp_path):
    run = make_run(tmp_path, "run")
    worker = multiprocessing.get_context("fork").Process(target=_record_many, args=(run, 0, 10_000))
    worker.start()
    while not (run / "lb.json").exists() and worker.is_alive():
        time.sleep(0.001)
    worker.kill()
    worker.join()
    history = json.loads((run / "lb.json").read_text())["history"]
    assert leaderboard.record_lb(run, 0.7) == history[-1]["lb"]
    assert len(json.loads((run / "lb.json").read_text())["history"]) == len(history) + 1


def test_a_damaged_history_is_never_written_over(tmp_path):
    run = make_run(tmp_path, "run")
    (run / "lb.json").write_text("{")
    with pytest.raises(InputError, match=r"lb\.json: not readable JSON"):
        leaderboard.record_lb(run, 0.7)
    assert (run / "lb.json").read_text() == "{"


def test_a_folder_is_found_by_path_and_by_bare_name(tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs", "one")
    ensemble = make_ensemble(tmp_path / "submissions", "two", {})
    places = [tmp_path / "runs", tmp_path / "submissions"]
    monkeypatch.chdir(tmp_path)
    assert leaderboard.find_record("one", places, "--lb") == run
    assert leaderboard.find_record("two", places, "--lb") == ensemble
    assert leaderboard.find_record("runs/one/", places, "--lb").resolve() == run
    assert leaderboard.find_record("one", [*places, Path("runs")], "--lb").resolve() == run  # the same folder twice is one


def test_unknown_and_ambiguous_names(tmp_path):
    make_run(tmp_path / "runs", "02-AdamP-v5")
    places = [tmp_path / "runs", tmp_path / "submissions"]
    with pytest.raises(InputError, match=r"--lb 02-AdamP-v6: no such run or ensemble\. Did you mean 02-AdamP-v5\?"):
        leaderboard.find_record("02-AdamP-v6", places, "--lb")
    make_ensemble(tmp_path / "submissions", "02-AdamP-v5", {})
    with pytest.raises(InputError, match=r"02-AdamP-v5: stands for .*runs/02-AdamP-v5 and .*submissions/02-AdamP-v5; give"):
        leaderboard.find_record("02-AdamP-v5", places, "--lb")
