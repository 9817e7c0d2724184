import json

import numpy as np
import pandas as pd
import pytest
import yaml
from test_records import SCORES, make_ensemble, make_run

import leaderboard
from errors import InputError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with two label runs, a mask run and an ensemble."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    make_run(tmp_path / "runs", "01-focal", loss="focal", lr=0.001, age_bounds=[30, 60], cache_dir="a")
    make_run(
        tmp_path / "runs", "02-ce", loss="ce", lr=0.001, age_bounds=[29, 59], cache_dir="b", scores={**SCORES, "oof_f1": 0.49}
    )
    make_run(tmp_path / "runs", "03-mask", target="mask", loss="ce")
    make_ensemble(
        tmp_path / "submissions", "01-soft-2runs", {"runs/01-focal": 1, "runs/02-ce": 1}, scores={**SCORES, "oof_f1": 0.53}
    )
    return tmp_path


def listed(capsys, *argv):
    code = leaderboard.main([*map(str, argv)])
    return code, capsys.readouterr().out


def test_the_table_holds_all_runs_and_ensembles(place, capsys):
    code, out = listed(capsys)
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) <= 100
    assert lines[0].split() == ["name", "target", "folds", "OOF", "F1", "95", "%", "interval", "acc.", "time", "LB"]
    assert lines[2] == "label: macro F1 of 18 classes, 2 runs, 1 ensemble"
    assert [line.split()[0] for line in lines[3:6]] == ["01-soft-2runs", "01-focal", "02-ce"]
    assert lines[4].split() == ["01-focal", "label", "2/2", "0.5200", "0.480", "..", "0.550", "0.5800", "2", "min", "-"]
    assert lines[8].startswith("03-mask")


def test_nothing_at_all_and_empty_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert listed(capsys) == (0, "no runs or ensembles in runs/ and submissions/; python train.py makes a run\n")
    (tmp_path / "runs").mkdir()
    assert listed(capsys, "--html", "page.html") == (0, "no runs or ensembles in runs/; python train.py makes a run\n")
    assert "nothing here yet" in (tmp_path / "page.html").read_text()
    assert listed(capsys, "--markdown") == (0, "\n")


def test_a_damaged_file_is_told_and_the_rest_shown(place, capsys):
    (place / "runs" / "02-ce" / "summary.json").write_text("{")
    (place / "runs" / "03-mask" / "args.yaml").write_text("target: [")
    (place / "runs" / "notes").mkdir()
    assert leaderboard.main([]) == 2
    captured = capsys.readouterr()
    assert next(line for line in captured.out.splitlines() if line.startswith("02-ce")).split()[1:4] == ["label", "2/2", "-"]
    assert "01-focal" in captured.out and "03-mask" not in captured.out
    wrong = captured.err.splitlines()
    assert wrong[0] == "passed over in runs, neither run nor ensemble: notes"
    assert [line.partition(": not readable")[0] for line in wrong[1:]] == [
        "error: runs/03-mask/args.yaml", "error: runs/02-ce/summary.json"][::-1]  # fmt: skip


def test_names_select_nothing(place, capsys):
    """A folder's name says age_group and 5 folds; args.yaml says mask and 2."""
    make_run(place / "runs", "10-AdamP-StepLR-FL-v0-age_group_5fold", target="mask")
    row = next(line for line in listed(capsys)[1].splitlines() if line.startswith("10-AdamP"))
    assert row.split()[1:3] == ["mask", "2/2"]


# ---- leaderboard scores


def test_scores_are_recorded_by_name_and_by_folder(place, capsys):
    argv = ["--lb", "01-soft-2runs=0.7478", "--lb", "runs/01-focal=0.7444"]
    code, out = listed(capsys, *argv)
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()[3:6]] == ["0.7478", "0.7444", "-"]
    assert leaderboard.main(["--lb", "01-focal=0.7719"]) == 0
    assert "runs/01-focal/lb.json: LB 0.7719 (before: 0.7444)" in capsys.readouterr().err
    written = json.loads((place / "runs" / "01-focal" / "lb.json").read_text())
    assert written["lb"] == 0.7719 and [row["lb"] for row in written["history"]] == [0.7444, 0.7719]


def test_one_name_in_both_folders_is_named(place):
    make_ensemble(place / "submissions", "01-focal", {})
    with pytest.raises(InputError, match=r"--lb 01-focal: stands for runs/01-focal and submissions/01-focal; give the folder"):
        leaderboard.main(["--lb", "01-focal=0.7"])
    assert leaderboard.main(["--lb", "submissions/01-focal=0.7"]) == 0


def test_agreement_with_the_leaderboard(place, capsys):
    """OOF 0.53, 0.52, 0.49 beside LB 0.50, 0.51, 0.48: gaps 0.03, 0.01, 0.01, mean 0.0167; Spearman 0.5 of ranks 3 2 1, 2 3 1.
    With 0.40, 0.40 added r = 0.00875 / sqrt(0.0105 * 0.007475) = 0.98766: tanh(2.541 - 1.960) = 0.52."""
    _, out = listed(capsys, "--lb", "01-soft-2runs=0.5", "--lb", "01-focal=0.51")
    assert "OOF against LB: 2 with both scores; a correlation takes 3" in out
    _, out = listed(capsys, "--lb", "02-ce=0.48")
    text = " ".join(out.split())
    assert "OOF against LB: n = 3, Pearson 0.84, Spearman 0.50; an interval takes 4" in text
    assert "OOF - LB +0.0167 on average (+0.0100 .. +0.0300)" in text
    make_run(place / "runs", "04", scores={**SCORES, "oof_f1": 0.4})
    text = " ".join(listed(capsys, "--lb", "04=0.4")[1].split())
    assert "n = 4, Pearson 0.99 (95 % interval 0.52 .. 1.00), Spearman 0.80 (95 % interval" in text


def test_one_out_of_fold_score_counts_once(place, capsys):
    """The best fold and all folds of the same runs: OOF 0.53 beside LB 0.50 and 0.54, in the mean 0.52. With 02-ce's 0.49 beside
    0.48 that is two pairs and gaps of 0.01, with 01-focal's 0.52 beside 0.49 three, 0.03 the third: mean 0.0167."""
    members = {"runs/01-focal": 1, "runs/02-ce": 1}
    make_ensemble(place / "submissions", "best", members, scores={**SCORES, "oof_f1": 0.53}, folds="best")
    text = " ".join(listed(capsys, "--lb", "01-soft-2runs=0.54", "--lb", "best=0.50", "--lb", "02-ce=0.48")[1].split())
    shared = "(2 share an out-of-fold score, which counts once at their mean LB)"
    assert f"OOF against LB: 2 with both scores {shared}; a correlation takes 3" in text
    text = " ".join(listed(capsys, "--lb", "01-focal=0.49")[1].split())
    assert f"OOF against LB: n = 3 {shared}, Pearson" in text
    assert "OOF - LB +0.0167 on average (+0.0100 .. +0.0300)" in text


def test_a_run_and_an_ensemble_of_it_alone_count_once(place, capsys):
    """So do three; what has the same F1 and another interval or accuracy is something else."""
    make_ensemble(place / "submissions", "alone", {"runs/01-focal": 1})
    make_ensemble(place / "submissions", "flipped", {"runs/01-focal": 1}, tta="hflip")
    make_ensemble(place / "submissions", "other", {"runs/02-ce": 1}, scores={**SCORES, "oof_acc": 0.59})
    make_ensemble(place / "submissions", "wide", {"runs/02-ce": 1}, scores={**SCORES, "oof_f1_ci95": [0.47, 0.55]})
    argv = [f"--lb={name}=0.5" for name in ("01-focal", "alone", "flipped", "other", "wide")]
    text = " ".join(listed(capsys, *argv, "--html", "page.html")[1].split())
    assert "OOF against LB: n = 3 (3 share an out-of-fold score, which counts once at their mean LB)" in text
    page = (place / "page.html").read_text()
    assert "n = 3 (3 share" in page and page.count('class="point"') == 5


# ---- main effects


def test_effects_are_those_of_complete_runs_scored_alike(place, capsys):
    """focal 0.52 against ce 0.49; the unfinished run, the one of other people and the mask run stay out."""
    make_run(place / "runs", "unfinished", folds=[0], loss="f1")
    make_run(place / "runs", "others", loss="f1", people=5)
    _, out = listed(capsys)
    assert "main effects on the OOF F1 of label: 2 complete runs of the same 4 people" in out
    effects = [line.split() for line in out.splitlines() if line.startswith("loss")]
    assert effects == [["loss", "&", "age_bounds", "focal,", "30", "60", "1", "+0.0300", "+0.0300", "-"],
                       ["loss", "&", "age_bounds", "ce,", "29", "59", "1", "-0.0300", "-0.0300", "-"]]  # fmt: skip
    assert "no degree of freedom is left; repeat a run with another --seed" in out
    assert "proves a cause" in out and "different sets of people" in out


def test_effects_have_intervals_once_runs_are_repeated(place, capsys):
    """Seeds make 0.52, 0.54 against 0.49, 0.49: +0.04, s^2 = 0.0002 / 2, t(2) = 4.3027: 0.04 -+ 0.0430."""
    make_run(place / "runs", "04", loss="focal", age_bounds=[30, 60], seed=1, scores={**SCORES, "oof_f1": 0.54})
    make_run(place / "runs", "05", loss="ce", age_bounds=[29, 59], seed=1, scores={**SCORES, "oof_f1": 0.49})
    _, out = listed(capsys)
    assert "+0.0400  -0.0030 .. +0.0830" in out
    text = " ".join(out.split())
    assert "Student's t with 2 degrees of freedom" in text and "few runs, so they are wide and rough" in text


def test_the_same_run_again_is_no_other_draw(place, capsys):
    """Made again under another name, with other threads: else two equal scores would say that there is no noise at all."""
    make_run(place / "runs", "04", loss="focal", lr=0.001, age_bounds=[30, 60], cache_dir="a", threads=7)
    _, out = listed(capsys)
    assert "label: 2 complete runs" in out and "no degree of freedom is left" in out


def test_effects_fit_the_terminal(place, capsys):
    """Six options that change together are not told apart from one another, which takes more than a line to say."""
    for number in range(4):
        made = dict.fromkeys(("optimizer", "model", "sampler", "mix", "aug"), f"a rather long level, number {number}")
        make_run(
            place / "runs", f"1{number}", loss="focal" if number % 2 else "f1", epochs=number, kfold=2 + number % 3, **made
        )
    _, out = listed(capsys)
    told = out[out.index("main effects") :].splitlines()
    assert "not told apart from" in out and max(map(len, told)) <= 100, max(told, key=len)


def test_every_option_that_changes_what_is_learned_is_held_equal(place, capsys):
    """Scores 0.5 + 0.04 [focal] + 0.1 [ema]: focal stands with ema twice and without once, ce the other way round."""
    for number, (loss, ema) in enumerate([("focal", 0.9), ("focal", 0.9), ("focal", 0), ("ce", 0.9), ("ce", 0), ("ce", 0)]):
        score = 0.5 + 0.04 * (loss == "focal") + 0.1 * (ema > 0)
        make_run(
            place / "some", f"{number}", loss=loss, ema=ema, lr=number / 9, threads=number, scores={**SCORES, "oof_f1": score}
        )
    _, out = listed(capsys, "some")
    assert [line.split()[1:5] for line in out.splitlines() if line.startswith(("loss", "ema"))] == [
        ["focal", "3", "+0.0733", "+0.0400"], ["ce", "3", "-0.0733", "-0.0400"],
        ["0.9", "3", "+0.1133", "+0.1000"], ["0", "3", "-0.1133", "-0.1000"],
    ]  # fmt: skip
    assert "vary too and are held equal by nothing: lr raw: mean" in " ".join(out.split())


def test_what_is_a_factor_and_what_is_left_out():
    """ema by its two values; lr follows from the optimizer, SGD's own, so it would leave nothing of it; warmup_epochs has
    four values in six runs; one run knows no clip_grad, and mix_rare differs in that alone; seed and threads are no factors."""
    levels = {
        "loss": ["ce", "ce", "focal", "ce", "focal", "ce"],
        "optimizer": ["AdamW", "AdamP", "AdamW", "AdamP", "SGD", "SGD"],
        "lr": [0.001, 0.001, 0.001, 0.001, 0.1, 0.1],
        "ema": [0.0, 0.9, 0.0, 0.0, 0.0, 0.9],
        "warmup_epochs": [0, 1, 2, 3, 0, 0],
        "clip_grad": [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        "mix_rare": [False] * 6,
        "seed": [1, 2, 3, 4, 5, 6],
        "threads": [1, 1, 2, 2, 1, 1],
        "aug": ["light"] * 6,
    }
    options = [dict(zip(levels, values)) for values in zip(*levels.values())]
    del options[5]["clip_grad"], options[5]["mix_rare"]
    factors, left_out = leaderboard.factors_among(options)
    assert list(factors) == ["loss", "optimizer", "ema"] and factors["ema"] == ["0", "0.9", "0", "0", "0", "0.9"]
    assert sorted(left_out) == ["clip_grad", "lr", "warmup_epochs"]
    one_to_one = [{"loss": "ce", "gamma": 2}, {"loss": "focal", "gamma": 3}]
    assert leaderboard.factors_among(one_to_one) == ({"loss": ["ce", "focal"], "gamma": ["2", "3"]}, [])


def test_what_a_level_is_not_compared_with_is_said(place, capsys):
    for number, (loss, aug) in enumerate(
        [("ce", "none"), ("ce", "light"), ("focal", "none"), ("focal", "light"), ("f1", "strong")]
    ):
        make_run(place / "some", f"{number}", loss=loss, aug=aug, scores={**SCORES, "oof_f1": 0.5 + 0.02 * (loss == "focal")})
    _, out = listed(capsys, "some")
    assert "+0.0200  +0.0200 .. +0.0200, not against f1" in out
    assert next(line for line in out.splitlines() if line.startswith("loss    f1")).endswith("-  not told apart from aug")


def test_bootstrap_adds_the_draw_of_people(place, capsys):
    """Run A is right on all 6 images of 3 people, B wrong on one person: the interval needs no degree of freedom."""
    truth = np.array([0, 1, 0, 1, 2, 2])
    for name, wrong in (("01-focal", ()), ("02-ce", (4, 5))):
        pred = truth.copy()
        pred[list(wrong)] = 0
        table = pd.DataFrame({"image": list("abcdef"), "path": list("xxyyzz"), "fold": 0, "target": truth})
        table[[f"p{index}" for index in range(18)]] = np.eye(18)[pred]
        table.sample(frac=1, random_state=len(wrong)).to_csv(place / "runs" / name / "oof.csv", index=False)
    code, out = listed(capsys, "--bootstrap", 200)
    assert code == 0 and "the draw of people alone, no noise of seeds" in " ".join(out.split())
    effect = next(line for line in out.splitlines() if line.startswith("loss"))
    assert " .. " in effect
    table.assign(target=truth[::-1]).to_csv(
        place / "runs" / "02-ce" / "oof.csv", index=False
    )  # of before train.csv was changed
    assert leaderboard.main(["--bootstrap", "200"]) == 2
    assert "runs/02-ce/oof.csv: other official labels than in runs/01-focal" in capsys.readouterr().err
    (place / "runs" / "02-ce" / "oof.csv").unlink()
    assert leaderboard.main(["--bootstrap", "200"]) == 2
    captured = capsys.readouterr()
    assert "error: --bootstrap 200: runs/02-ce/oof.csv: no such file" in captured.err and "main effects" in captured.out


def test_draws_are_of_the_same_people_whatever_the_order(tmp_path):
    """Two runs with the same predictions in another order of rows have equal draws."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"image": [f"{n:02d}" for n in range(30)], "path": [f"p{n // 3}" for n in range(30)], "fold": 0})
    table["target"] = rng.integers(0, 3, 30)
    table[["p0", "p1", "p2"]] = rng.dirichlet(np.ones(3), 30)
    found = []
    for seed in (1, 2):
        run = make_run(tmp_path, str(seed), target="mask")
        table.sample(frac=1, random_state=seed).to_csv(run / "oof.csv", index=False)
        found.append(leaderboard.read_record(run)[0])
    draws = leaderboard.people_draws(found, 50)
    assert draws.shape == (2, 50) and draws.std() > 0
    np.testing.assert_array_equal(draws[0], draws[1])


# ---- what differs


def test_diff_of_runs_shows_only_what_differs_beside_the_scores(place, capsys):
    _, out = listed(capsys, "--diff", "01-focal", "runs/02-ce")
    rows = [line.split() for line in out.splitlines()]
    assert rows[:2] == [["A:", "runs/01-focal"], ["B:", "runs/02-ce"]]
    assert ["loss", "focal", "ce"] in rows and ["age_bounds", "30", "60", "29", "59"] in rows
    assert ["OOF", "F1", "0.5200", "0.4900"] in rows
    assert not {"name", "cache_dir", "lr", "kfold"} & {row[0] for row in rows if row}


def test_diff_names_places_only_where_nothing_else_differs(place, capsys):
    made = {"cache_dir": "elsewhere", "keep_state": True, "parallel_folds": 2}
    make_run(place / "runs", "04", loss="focal", lr=0.001, age_bounds=[30, 60], **made)
    _, out = listed(capsys, "--diff", "01-focal", "04")
    assert "nothing differs that changes what is learned" in out
    assert ["cache_dir", "a", "elsewhere"] in [line.split() for line in out.splitlines()]


def test_diff_of_ensembles_shows_members_and_weights(place, capsys):
    weights = {"runs/01-focal": 1, "runs/02-ce": {"mask": 0.5, "gender": 1.0}, "runs/09": 1}
    make_ensemble(place / "submissions", "02", weights, decode="f1")
    _, out = listed(capsys, "--diff", "01-soft-2runs", "02")
    rows = {tuple(" ".join(cell.split()) for cell in line.split("  ") if cell.strip()) for line in out.splitlines()}
    assert ("member runs/02-ce", "weight 1, folds 0 1", "weight gender 1, mask 0.5, folds 0 1") in rows
    assert ("member runs/09", "-", "weight 1, folds 0 1") in rows and ("decode", "-", "f1") in rows
    assert not [row for row in rows if row and "01-focal" in row[0]]


def test_diff_of_searched_ensembles_fits_the_terminal(place, capsys):
    """The way of a search is left out and 18 biases go on in further lines."""
    for name, bias in (("02", 1.0), ("03", 1.123456789)):
        make_ensemble(
            place / "submissions", name, {"runs/01-focal": 1}, biases=[bias] * 18, path=[{"run": "x", "in_sample_f1": bias}]
        )
    lines = listed(capsys, "--diff", "02", "03")[1].splitlines()
    assert max(map(len, lines)) <= 100 and not any("path" in line for line in lines)
    first = next(index for index, line in enumerate(lines) if line.startswith("biases"))
    assert " ".join(lines[first : first + 4]).split().count("1.12346") == 18


# ---- pages, pipes, real runs


def test_page_and_markdown(place, capsys):
    code, out = listed(capsys, "--html", "page.html", "--markdown", "--lb", "02-ce=0.5")
    assert code == 0 and out.startswith("**label: macro F1 of 18 classes, 2 runs, 1 ensemble**")
    text = (place / "page.html").read_text()
    for part in ("01-soft-2runs", "main effects on the OOF F1 of label", '<svg class="scatter"', "proves a cause"):
        assert part in text


def test_a_thousand_runs_are_read_once(tmp_path, capsys, monkeypatch):
    """40 here; that the second listing opens no run again is what makes 1,000 quick."""
    for number in range(40):
        make_run(tmp_path / "runs", f"{number:03d}", people=1, folds=[0], kfold=2)
    first = listed(capsys, tmp_path / "runs")
    monkeypatch.setattr(leaderboard, "read_record", None)
    assert listed(capsys, tmp_path / "runs") == first


def test_real_runs_of_train(runs, workplace, capsys):
    """What train.py writes is listed with its folds and scores."""
    code, out = listed(capsys, workplace / "runs")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("shared_")}
    assert code == 0 and set(rows) >= {f"shared_{target}" for target in runs}
    summary = json.loads((runs["age"] / "summary.json").read_text())
    assert rows["shared_age"][1:4] == ["age", "2/2", f"{summary['oof_f1']:.4f}"]
    args = yaml.safe_load((runs["age"] / "args.yaml").read_text())
    assert json.loads(json.dumps(args, default=str)) == leaderboard.read_record(runs["age"])[0].options
