"""diary.py: a day, the whole contest, the plan, and what is written by hand, on simulated runs."""

import os
import re
from datetime import datetime

import pytest
import yaml
from helpers import People, write_run

import diary
import experiment
import files
import predictions
from errors import InputError

HELD, DAY = People(8, seed=2), "2026-03-02"
OPTIONS = {"kfold": 5, "seed": 42, "fold_seed": 42, "epochs": 5, "loss": "ce", "sampler": "shuffle"}


def make_run(name, begun, target="age_group", noise=1.5, seconds=3600.0, folds=5, **options):
    """A run of the same people as all others; its summary is of its oof.csv."""
    run = write_run(diary.Path("runs", name), target, People(60, seed=1), HELD, noise)
    f1 = predictions.answers_f1(target, predictions.read_answers(run, target)) if folds == 5 else None
    files.write_json(run / "summary.json", {
        "oof_f1": f1, "oof_acc": 0.5, "oof_f1_ci95": [0.1, 0.9], "seconds": seconds, "people": [60, "x"],
        "folds": [{"fold": fold} for fold in range(folds)], "options": {"target": target} | OPTIONS | options})  # fmt: skip
    files.write_json(run / "env.json", {"started": begun})
    return run


@pytest.fixture(autouse=True)
def contest(tmp_path, monkeypatch):
    """Two days: ce and gender; then focal, a note that looks like markup, and an ensemble, whose score is recorded at 16:00."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES_LANG", "en")  # which --lang changes
    make_run("ce", "2026-03-01 10:00")
    make_run("gender", "2026-03-01 12:00", target="gender", seconds=1800)
    (make_run("focal", f"{DAY} 09:00", noise=3.0, loss="focal", note="<!-- /diary:tried --> a|b") / "curves.png").touch()
    one = write_run(diary.Path("submissions/one"), "label", People(60, seed=1), HELD)
    (one / "args.yaml").unlink()
    members = [{"run": f"runs/{name}", "folds": [0, 1], "weight": 1} for name in ("focal", "gender")]
    (one / "recipe.yaml").write_text(yaml.safe_dump({"method": "soft", "members": members}))
    os.utime(one / "recipe.yaml", (datetime.fromisoformat(f"{DAY} 12:00").timestamp(),) * 2)
    files.write_json(one / "score.json", {"oof_f1": 0.7, "oof_acc": 0.75, "oof_f1_ci95": [0.6, 0.8]})
    files.write_json(one / "lb.json", {"lb": 0.7719, "history": [{"lb": 0.7719, "recorded": f"{DAY} 16:00"}]})


def log(*argv, out=f"diary/{DAY}.md"):
    assert diary.main([*argv] if "--all" in argv else ["--date", DAY, *argv]) == 0
    return diary.Path(out).read_text(encoding="utf-8")


def test_a_day():
    """focal is compared with ce, of which it changes the loss; one hour of 2.5 is of this day."""
    pair = ([predictions.read_answers(f"runs/{name}", "age_group")] for name in ("focal", "ce"))
    (value, low, high), text = (gap := predictions.difference("age_group", *pair)), log().splitlines()
    for line in (
        f"date: {DAY}", "- training: 1 runs, 5 folds, 60 min", "### `focal`", "- note: &lt;!-- /diary:tried --> a\\|b", "- today: 60 min",
        "- changed from `ce`: `--loss` ce → focal", f"- against `ce`: {value:+.4f} (95 % interval {low:+.4f} .. {high:+.4f}), {gap.verdict}",
        "| [![curves](../runs/focal/curves.png)](../runs/focal/curves.png) |", "- so far: 2.5 h",
        "| `one` | 0.7719 | 16:00 | 0.7000 | 0.600 .. 0.800 | soft · `focal` (fold 0 1, × 1), `gender` (fold 0 1, × 1) |",
    ):  # fmt: skip
        assert line in text, line
    assert "### `ce`" not in text and sum("<!-- diary:" in line for line in text) == 5
    assert "## 오늘 한 일" in log("--lang", "ko", "--out", "ko.md", out="ko.md")


def test_what_is_written_by_hand_stays():
    """Byte for byte outside of the markers; a part with a changed letter, or a lost marker, and nothing is written."""
    path, text, day = diary.Path("diary", f"{DAY}.md"), log(), ["--date", DAY]
    assert log() == text
    edited = re.sub(r"<!-- /?diary:time.*?-->", "", text.replace("## What was good\n", "## What was good\r\n\r\n늦잠  \n"))
    path.write_bytes(edited.encode())
    diary.Path("runs/focal/env.json").write_text('{"started": "2026-03-01 09:00"}')
    assert diary.main(day) == 0
    new = path.read_bytes().decode()
    assert new != edited and "### `focal`" not in new and diary.PART.sub("", new) == diary.PART.sub("", edited)
    for spoilt, message, argv in (
        (new.replace("- submission:", "- sent:"), "its part done was changed by hand", day),
        (new.replace("<!-- diary:plan -->", ""), "lacks a pair of <!-- diary:NAME -->", day), (new + new, "lacks a pair", day),
        ("# my notes\n", "or is another page", day), (text, "or is another page", ["--all"]),
    ):  # fmt: skip
        path.write_bytes(spoilt.encode())
        with pytest.raises(InputError, match=message):
            diary.main([*argv, "--out", str(path)])
        assert path.read_bytes() == spoilt.encode()


def test_the_plan(monkeypatch):
    """Two folds took two hours, so the other three take three; a run in training is left alone. Half the width, 0.04, over the
    difference, 0.02, is 2: four seeds, so three more of both. What an ensemble has joined is not proposed again."""
    stopped = make_run("stopped", f"{DAY} 08:00", sampler="sqrt", folds=2, seconds=7200.0)
    make_run("mask", f"{DAY} 10:00", target="mask")
    make_run("again", f"{DAY} 11:00", seed=7)
    entries = {entry.name: entry for entry in experiment.collect([diary.Path("runs")], diary.read_entry)[0]}
    *runs, again = (entries[name] for name in ("ce", "gender", "mask", "focal", "again"))
    why, command = "`stopped`: 2 of 5 folds are complete", "python train.py --resume runs/stopped"
    assert list(diary.open_runs([*runs, entries["stopped"]])) == [(why, command, 3 * 3600)]
    (stopped / "fold3").mkdir()
    with files.lock(stopped / "fold3"):
        assert not list(diary.open_runs([*runs, entries["stopped"]]))
    ((ours, theirs, _difference),) = diary.compared([*runs, again])
    assert [[one.name for one in side] for side in (ours, theirs)] == [["focal"], ["ce", "again"]]
    ((_why, command, _seconds),) = diary.new_ensembles(runs)
    assert {*command.split()} == {"python", "ensemble.py", "--models", *(f"runs/{one.name}" for one in runs)}
    team = runs[0]._replace(is_run=False, options={"members": [{"run": one.name} for one in runs]})
    assert not [*diary.new_ensembles([*runs, diary.Entry(*team)])]
    monkeypatch.setattr(diary, "judge", lambda *sides: predictions.Difference(-0.02, -0.06, 0.02))
    train, why = "  python train.py --config runs/{}/args.yaml --fold-seed 42 --seed $seed", "about 4 seeds would tell"
    command = "\n".join(["for seed in 1 2 3; do", train.format("focal"), train.format("ce"), "done"])
    assert diary.nearest_verdict(runs) == [(f"`focal` against `ce`, -0.0200: {why}", command, 3 * 7200)]
    monkeypatch.setattr(diary, "judge", lambda *sides: predictions.Difference(-0.02, -0.04, -0.01))
    assert not diary.nearest_verdict(runs)
    best = f"runs/{max(runs[0], runs[3], key=lambda run: run.oof_f1).name}"
    advised = {command: seconds for _why, command, seconds in diary.never_varied([*runs, entries["stopped"]])}
    assert advised[f"python train.py --config {best}/args.yaml --epochs 10"] == 7200 and "--sampler" not in str(advised)
    assert f"python inference.py --models {best} --tta hflip --oof" in advised


def test_the_whole_contest_an_empty_folder_a_damaged_run_and_misuse(capsys):
    text = log("--all", out="diary/all.md")
    assert diary.Path("diary/all-scores.png").is_file() and "![The way of the score](all-scores.png)" in text
    assert "- training: 3 runs, 15 folds, 2.5 h" in text and "- `one`: the highest OOF macro F1, 0.7000" in text
    assert re.search(r"^\| `focal` \| `--loss` ce → focal \| 1, 1 \| [+-]0\.\d{4} \|", text, re.MULTILINE)
    files.make_dir("empty", "")
    assert "nothing on record" in log("empty", "--submissions", "empty", "--out", "x.md", out="x.md")
    assert "No score yet." in log("empty", "--submissions", "empty", "--all", "--out", "y.md", out="y.md")
    diary.Path("runs/ce/env.json").write_text("{}")
    assert diary.main(["--date", DAY]) == 2 and "error: runs/ce/env.json: damaged (lacks 'started')" in capsys.readouterr().err
    with pytest.raises(InputError, match="--date 2nd: is no day, such as 2026-03-02"):
        diary.main(["--date", "2nd"])
