"""leaderboard.py: main effects, what is read of a folder, the table and the page, --lb and --diff, on simulated run folders."""

import html
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from sklearn.linear_model import LinearRegression

import experiment
import files
import leaderboard
import metrics
from errors import InputError
from experiment import Record

SCORES = {"oof_f1": 0.52, "oof_acc": 0.58, "oof_f1_ci95": [0.48, 0.55]}


def make_run(root, name, target="label", kfold=2, folds=None, scores=SCORES, people=4, **args):
    """A simulated run folder; `folds`: those that are complete, all by default; `scores` None: stopped, without a summary."""
    run = root / name
    folds = range(max(kfold, 1)) if folds is None else folds
    run.mkdir(parents=True)
    options = {"target": target, "kfold": kfold, "name": name, **args}
    (run / "args.yaml").write_text(yaml.safe_dump(options))
    (run / "folds.csv").write_text("path,fold\n" + "".join(f"00000{i}_male_Asian_2{i},{i % 2}\n" for i in range(people)))
    for fold in folds:
        facts = dict.fromkeys(experiment.FOLD, 0) | {"fold": fold, "seconds": 60.0, "weights_sha256": "0"}
        (run / f"fold{fold}").mkdir()
        (run / f"fold{fold}" / "fold.json").write_text(json.dumps(facts))
    if scores is not None:
        facts = {"folds": [{"fold": fold} for fold in folds], "seconds": 125.0, "options": options}
        (run / "summary.json").write_text(json.dumps({**facts, "people": experiment.validated_people(run), **scores}))
    return run


def make_ensemble(root, name, members, scores=SCORES, **recipe):
    """A simulated ensemble folder; `members`: {run: weight}."""
    folder = root / name
    folder.mkdir(parents=True)
    rows = [{"run": run, "target": "label", "folds": [0, 1], "weight": weight} for run, weight in members.items()]
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"method": "soft", "members": rows, **recipe}))
    (folder / "score.json").write_text(json.dumps(scores))
    return folder


def run(name, target="label", f1=0.5, **facts):
    """A Record in memory."""
    given = {"folder": Path("runs", name), "is_run": True, "target": target, "scored_as": experiment.SCORED_AS[target]}
    return Record(
        **dict.fromkeys(Record._fields) | given | {"kfold": 5, "folds": range(5), "oof_f1": f1, "people": (0, ""), **facts}
    )


def by_level(found):
    return {(effect.factor, effect.level): effect for effect in found}


def test_one_factor_is_the_difference_of_means_with_students_interval():
    """focal 0.52, 0.54 (mean 0.53), ce 0.50, 0.48 (mean 0.49): +0.04. Residuals are 0.01 each, so s^2 = 4 * 0.0001 / 2 =
    0.0002, the variance of the difference 0.0002 * (1/2 + 1/2), and with t(2) = 4.302653 half the interval is 0.060849.
    Among two draws of people the effect is 0.04 and 0.02: their sd 0.01 is added in squares."""
    scores, factors = [0.52, 0.54, 0.50, 0.48], {"loss": ["focal", "focal", "ce", "ce"]}
    (focal, ce), freedom = leaderboard.main_effects(scores, factors)
    assert (freedom, focal.level, focal.runs) == (2, "focal", 2)
    assert focal.raw == pytest.approx(0.04) and focal.value == pytest.approx(0.04)
    assert focal.high - focal.value == pytest.approx(4.302653 * 0.0002**0.5, rel=1e-6)
    assert (ce.value, ce.low, ce.high) == pytest.approx((-0.04, -focal.high, -focal.low))
    draws = np.array([[0.52, 0.52], [0.54, 0.54], [0.50, 0.52], [0.48, 0.50]])
    both = leaderboard.main_effects(scores, factors, draws)[0][0]
    assert (both.high - both.value) ** 2 == pytest.approx((focal.high - focal.value) ** 2 + (1.959964 * 0.01) ** 2)


def test_equals_a_direct_fit_with_dummy_coding():
    """Treatment coding and the textbook formulas: s^2 c' (X'X)^-1 c with t on N - P degrees of freedom."""
    rng = np.random.default_rng(1)
    factors = {"loss": rng.choice(["a", "b", "c"], 40).tolist(), "aug": rng.choice(["x", "y"], 40).tolist()}
    scores = rng.normal(0.5, 0.02, 40)
    dummies = np.stack([[one == level for one in factors["loss"]] for level in "bc"]
                       + [[one == "y" for one in factors["aug"]]], axis=1).astype(float)  # fmt: skip
    fit = LinearRegression().fit(dummies, scores)
    X = np.hstack([np.ones((40, 1)), dummies])
    n = {level: factors["loss"].count(level) for level in "abc"}
    contrast = np.array([0.0, 1.0, -n["c"] / (n["a"] + n["c"]), 0.0])  # b against a (coded 0) and c
    variance = ((scores - fit.predict(dummies)) ** 2).sum() / 36 * (contrast @ np.linalg.inv(X.T @ X) @ contrast)
    found, freedom = leaderboard.main_effects(scores, factors)
    effect = by_level(found)["loss", "b"]
    assert freedom == 36
    assert effect.value == pytest.approx(fit.coef_ @ contrast[1:])
    assert effect.high - effect.value == pytest.approx(stats.t.ppf(0.975, 36) * variance**0.5)


def test_factors_that_split_the_runs_alike_are_named_together_and_constant_ones_left_out():
    factors = {"loss": ["a", "b", "a"], "lr": ["1", "2", "1"], "model": ["m", "m", "m"], "aug": ["x", "x", "y"]}
    assert leaderboard.merge_aliases(factors) == {"loss & lr": ["a, 1", "b, 2", "a, 1"], "aug": ["x", "x", "y"]}


def test_what_the_runs_do_not_determine_has_no_effect():
    """a3 stands with b3 alone and b3 with a3 alone: neither can be told from the other, so nothing can be compared with the
    other levels of a and b, though c can. 6 runs leave one degree of freedom: intercept, two of a, one of b, one of c."""
    factors = {"a": ["1", "1", "2", "2", "3", "3"], "b": ["1", "2", "1", "2", "3", "3"], "c": ["x", "y", "y", "x", "x", "y"]}
    found, freedom = leaderboard.main_effects([0.5, 0.51, 0.52, 0.55, 0.6, 0.58], factors)
    found = by_level(found)
    assert freedom == 1 and {key for key, effect in found.items() if effect.value is not None} == {("c", "x"), ("c", "y")}
    assert (found["a", "3"].low, found["a", "3"].raw) == (None, pytest.approx(0.59 - 0.52))


def test_effects_among_many_runs():
    """Of 1,000 runs every effect is determined: the design's zero singular values are noise, not information."""
    rng = np.random.default_rng(0)
    factors = {name: rng.choice(list("abcd"), 1000).tolist() for name in ("loss", "model", "aug")}
    scores = 0.5 + 0.02 * np.array([level == "a" for level in factors["loss"]])
    found = by_level(leaderboard.main_effects(scores, factors)[0])
    assert found["loss", "a"].value == pytest.approx(0.02) and found["model", "b"].value == pytest.approx(0, abs=1e-9)


def test_without_a_degree_of_freedom_there_is_no_interval_but_that_over_people():
    scores, factors = [0.5, 0.53], {"loss": ["ce", "focal"]}
    found, freedom = leaderboard.main_effects(scores, factors)
    assert freedom == 0 and found[0].value == pytest.approx(0.03) and found[0].low is None
    draws = np.array([[0.50, 0.48, 0.52], [0.53, 0.54, 0.52]])  # differences 0.03, 0.06, 0.00: sd 0.0244949
    effect = leaderboard.main_effects(scores, factors, draws)[0][0]
    assert effect.level == "focal" and effect.high - effect.value == pytest.approx(1.959964 * 0.0006**0.5, rel=1e-6)


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


def test_finished_stopped_nofold_and_older_runs_whatever_their_names(tmp_path):
    """Without a summary options are those of args.yaml, and folds those that are complete."""
    record = leaderboard.read_record(make_run(tmp_path, "01-AdamP-StepLR-FL-v0-mask_5fold", target="age", optimizer="sgd"))
    assert (record.is_run, record.target, record.scored_as, record.options["optimizer"]) == (True, "age", "age_group", "sgd")
    assert (record.folds, record.kfold, record.people[0], record.lb) == ([0, 1], 2, 4, None)
    assert (record.oof_f1, record.oof_acc, record.oof_f1_ci95, record.seconds) == (0.52, 0.58, [0.48, 0.55], 125.0)
    stopped = leaderboard.read_record(make_run(tmp_path, "stopped", folds=[1], scores=None, lr=0.1))
    assert (stopped.folds, stopped.oof_f1, stopped.seconds, stopped.options["lr"]) == ([1], None, 60.0, 0.1)
    nothing = leaderboard.read_record(make_run(tmp_path, "nothing", folds=[], scores=None))
    nofold = leaderboard.read_record(make_run(tmp_path, "nofold", kfold=0, scores=dict.fromkeys(SCORES)))
    assert (nothing.folds, nothing.seconds, nofold.folds, nofold.oof_f1) == ([], None, [0], None)
    older = make_run(tmp_path, "older", lr=0.1)
    (older / "summary.json").write_text(json.dumps({**SCORES, "folds": [{"fold": 0}]}))
    older = leaderboard.read_record(older)
    assert (older.folds, older.options["lr"], older.people) == ([0], 0.1, nothing.people)


@pytest.mark.parametrize(("file", "content", "message"), [
    ("summary.json", '{"oof_f1": 0.5', "summary.json: "),
    ("summary.json", '{"oof_f1": 52.1}', r"summary.json: damaged \(52.1 is no number from 0 to 1\)"),
    ("summary.json", '{"oof_f1": NaN}', "summary.json: damaged"),
    ("summary.json", '{"oof_f1_ci95": 0.1}', "summary.json: damaged"),
    ("summary.json", '{"options": {"target": "nose"}, "people": [1, ""]}', "summary.json: damaged"),
    ("lb.json", '{"lb": 0.7}', "lb.json: damaged .lacks 'history'.; delete it to record the score anew"),
])  # fmt: skip
def test_a_damaged_file_is_named_and_other_runs_and_ensembles_are_shown(tmp_path, capsys, file, content, message):
    damaged = make_run(tmp_path / "runs", "run")
    make_run(tmp_path / "runs", "fine")
    (damaged / file).write_text(content)
    make_ensemble(tmp_path / "runs", "ensemble", {})
    make_ensemble(tmp_path / "runs", ".03-soft.77.tmp", {})
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "todo.txt").write_text("")
    found, count = leaderboard.collect([tmp_path / "runs"])
    assert ([record.name for record in found], count) == (["ensemble", "fine"], 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {damaged}") and re.search(message, line)


def test_ambiguous_names(tmp_path):
    folder, other = make_run(tmp_path / "runs", "02-v5"), make_ensemble(tmp_path / "submissions", "02-v5", {})
    with pytest.raises(InputError, match=f"02-v5: stands for {folder} and {other}; give the folder"):
        leaderboard.find_record("02-v5", [folder.parent, other.parent], "--lb")


def names(groups):
    """{what is scored: names in order} of `sections`."""
    return {title.partition(":")[0]: [record.name for record in group] for title, group in groups.items()}


def test_sections_put_what_compares_together_best_first_and_unscored_last():
    found = [run("m", "mask", 0.9), run("b", f1=0.5), run("n", f1=None), run("g", "gender", 0.8), run("a", "age", 0.6),
             run("ag", "age_group", 0.7), run("mu", "multi", 0.55), run("e", f1=0.6, is_run=False)]  # fmt: skip
    ordered = leaderboard.sections(found)
    assert next(iter(ordered)) == "label: macro F1 of 18 classes, 3 runs, 1 ensemble"
    assert [(part, *found) for part, found in names(ordered).items()] == [
        ("label", "e", "mu", "b", "n"), ("age_group", "ag", "a"), ("gender", "g"), ("mask", "m")]  # fmt: skip
    apart = leaderboard.sections([run("a", people=(700, "x")), run("b", people=(100, "y")), run("c", people=(700, "x"))])
    assert next(iter(apart)).endswith("3 runs (of 2 different sets of people: their scores do not compare)")


@pytest.mark.parametrize(("column", "order"), [
    ("name", "abc"), ("oof_f1", "bca"), ("lb", "cab"), ("time", "bac"), ("accuracy", "cab"), ("interval", "acb"), ("folds", "bac"),
    ("target", "bca"), ("note", "bac"),
])  # fmt: skip
def test_every_column_sorts(column, order):
    """Scores and folds begin with the highest, words and times with the lowest; what has no value stands last."""
    found = [run("a", f1=0.51, lb=0.6, seconds=50.0, oof_acc=0.5, oof_f1_ci95=[0.5, 0.6], folds=[0, 1], note="why"),
             run("b", f1=0.53, note="because", lb=None, seconds=10.0, oof_acc=None, oof_f1_ci95=[0.3, 0.9], folds=[0, 1, 2]),
             run("c", f1=0.52, lb=0.7, seconds=None, oof_acc=0.6, oof_f1_ci95=[0.4, 0.7], folds=[0])]  # fmt: skip
    assert "".join(names(leaderboard.sections(found, column))["label"]) == order


def test_folds_that_are_complete_and_members_that_a_search_left_in_use(tmp_path):
    weights = {"a": 1, "b": 0, "c": {"mask": 0.0, "gender": 0.5}, "d": {"mask": 0.0}}
    found = [run("a", folds=[0, 3]), run("b", kfold=0, folds=[0]), run("c", kfold=0, folds=[]), run("d", kfold=2, folds=[]),
             leaderboard.read_record(make_ensemble(tmp_path, "e", weights))]  # fmt: skip
    assert [leaderboard.cells(record)["folds"][0] for record in found] == ["2/5", "nofold", "0/1", "0/2", "of 2"]


def test_the_table_fits_the_terminal(monkeypatch):
    found = [run(f"{number:02d}-AdamP-CosineAnnealing-0.6*focal+0.4*f1-v{number}-age_group_5fold", "age_group", 0.6 + number / 100,
                 oof_acc=0.6, oof_f1_ci95=[0.58, 0.62], seconds=4000.0, lb=0.7) for number in range(12)]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    lines = leaderboard.listing(leaderboard.parse_args([]), [], found, []).splitlines()
    assert max(map(len, lines)) <= 80 and lines[2] == "age_group: macro F1 of 3 classes, 12 runs"
    assert lines[3].startswith("11-Ad") and lines[3].endswith("0.7100  0.580 .. 0.620  0.6000  67 min  0.7000")


def test_markdown_escapes_what_would_break_the_table():
    text = leaderboard.markdown([run("a|b<i>_c_", f1=0.51), run("m", "mask", 0.9)], "oof_f1")
    assert r"| a\|b\<i>_c_ | label | 5/5 | 0.5100 | - | - | - | - |" in text.splitlines()
    assert "**mask: macro F1 of 3 classes, 1 run**" in text
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")} == {9}


@pytest.fixture
def found(tmp_path):
    folder = make_run(tmp_path / "runs", "<script>alert(1)")
    (folder / "curves.png").write_bytes(b""), (folder / "report.html").touch()
    experiment.keep(folder, "lb", 0.5, leaderboard.number)
    make_run(tmp_path / "runs", "b", target="mask")
    mix = make_ensemble(tmp_path / "submissions", "e", {"runs/b": 1}, scores={**SCORES, "oof_f1": 0.54})
    experiment.keep(mix, "lb", 0.61, leaderboard.number)
    return leaderboard.collect([tmp_path / "runs", tmp_path / "submissions"])[0]


def test_the_page_escapes_names_and_links_relatively(found, tmp_path):
    study = ("effects", files.page_table(leaderboard.EFFECT_HEAD, [["<b>", "x", 1, ("+0.0100", 0.01), None, "-"]]), "a < b")
    text = leaderboard.page(found, "oof_f1", tmp_path / "out" / "page.html", [study])
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert 'href="../runs/%3Cscript%3Ealert%281%29/curves.png"' in text and "confusion.png" not in text
    assert '<a href="../runs/%3Cscript%3Ealert%281%29/report.html">&lt;script&gt;alert(1)</a>' in text
    assert "&lt;b&gt;" in text and "a &lt; b" in text
    assert text.index("label: macro F1") < text.index("mask: macro F1") < text.index("<h2>OOF against LB")
    rows = dict(re.findall(r"<tr data-pick=[^>]*><td>(?:<a [^>]*>)?([^<]*)(.*?)</tr>", text))
    assert "curves" in rows["&lt;script&gt;alert(1)"] and "href" not in rows["e"] + rows["b"]


def test_ticked_rows_make_a_command(found, browser):
    """Two are compared, three combined, and one alone is nothing yet; names are quoted for the shell."""
    tick = "const said = []; rows.forEach(row => { row.querySelector('input').click(); said.push(picked.hidden ? '' : line.textContent); });"
    script = f"<script>{tick} document.body.dataset.said = JSON.stringify(said);</script></body>"
    dom, console = browser(leaderboard.page(found, "oof_f1", "page.html", []).replace("</body>", script), "--dump-dom")
    said = json.loads(html.unescape(re.search(r'data-said="([^"]*)"', dom).group(1)))
    one, two, three = (shlex.quote(str(record.folder)) for record in (found[2], found[0], found[1]))
    assert said == ["", f"python compare.py {one} {two}", f"python ensemble.py --models {one} {two} {three}"]
    assert not [line for line in console if "Error" in line]


@pytest.mark.parametrize(("values", "axes"), [
    ((0.5, 0.61), (0.5, 0.02, 6)), ((0.0, 1.0), (0, 0.2, 6)), ((1.0, 1.0), (1, 0.005, 1)), ((0.0, 0.0), (0, 0.005, 1)),
])  # fmt: skip
def test_the_scatter_has_equal_axes(values, axes):
    """0.5 .. 0.61 takes six steps of 0.02, 0 .. 1 six of 0.2, up to 1.2; one value alone a single one, and is its lower corner."""
    plot = leaderboard.scatter([run("한글이름" * 40, f1=values[0], lb=values[1])])
    assert (plot["low"], plot["step"], plot["steps"]) == pytest.approx(axes)
    ((name, short, *_scores),) = plot["points"]
    assert name == "한글이름" * 40 and "..." in short and files.display_width(short) <= 32


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with two label runs, a mask run and an ensemble."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    lower, higher = ({**SCORES, "oof_f1": f1} for f1 in (0.49, 0.53))
    make_run(tmp_path / "runs", "01-focal", loss="focal", lr=0.001, age_bounds=[30, 60], cache_dir="a")
    make_run(tmp_path / "runs", "02-ce", loss="ce", lr=0.001, age_bounds=[29, 59], cache_dir="b", scores=lower)
    make_run(tmp_path / "runs", "03-mask", target="mask", loss="ce")
    make_ensemble(tmp_path / "submissions", "01-soft-2runs", {"runs/01-focal": 1, "runs/02-ce": 1}, scores=higher)
    return tmp_path


def listed(capsys, *argv):
    assert leaderboard.main([*map(str, argv)]) == 0
    return capsys.readouterr().out


def test_the_table_holds_all_runs_and_ensembles(place, capsys):
    lines = listed(capsys).splitlines()
    assert lines[0].split() == ["name", "target", "folds", "OOF", "F1", "95", "%", "interval", "acc.", "time", "LB"]
    assert lines[2] == "label: macro F1 of 18 classes, 2 runs, 1 ensemble"
    assert [line.split()[0] for line in (*lines[3:6], lines[8])] == ["01-soft-2runs", "01-focal", "02-ce", "03-mask"]
    assert lines[4].split() == ["01-focal", "label", "2/2", "0.5200", "0.480", "..", "0.550", "0.5800", "2", "min", "-"]


def test_nothing_at_all_and_empty_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert listed(capsys) == "no runs or ensembles in runs/ and submissions/; python train.py makes a run\n"
    (tmp_path / "runs").mkdir()
    assert listed(capsys, "--html", "page.html") == "no runs or ensembles in runs/; python train.py makes a run\n"
    assert "nothing here yet" in (tmp_path / "page.html").read_text()
    assert listed(capsys, "--markdown") == "\n"


def test_scores_are_recorded_by_name_and_by_folder(place, capsys):
    out = listed(capsys, "--lb", "01-soft-2runs=0.7478", "--lb", "runs/01-focal=0.7444")
    assert [line.split()[-1] for line in out.splitlines()[3:6]] == ["0.7478", "0.7444", "-"]
    assert leaderboard.main(["--lb", "01-focal=0.7719"]) == 0
    assert "runs/01-focal/lb.json: LB 0.7719 (before: 0.7444)" in capsys.readouterr().err
    written = json.loads((place / "runs" / "01-focal" / "lb.json").read_text())
    assert written["lb"] == 0.7719 and [row["lb"] for row in written["history"]] == [0.7444, 0.7719]
    (place / "runs" / "01-focal" / "lb.json").write_text("{")
    with pytest.raises(InputError, match=r"lb\.json: "):  # and is never written over
        leaderboard.main(["--lb", "01-focal=0.7"])
    assert (place / "runs" / "01-focal" / "lb.json").read_text() == "{"


def test_notes_of_options_are_shown_replaced_for_good_and_cut_in_the_terminal(place, capsys, monkeypatch):
    folder, long = place / "runs" / "01-focal", "왜: 사람마다 표정이 달라서 a|b " * 4
    before = (folder / "args.yaml").read_bytes()
    assert " note" not in listed(capsys)
    out = listed(capsys, "--note", "01-focal", "first", "--note", "01-soft-2runs", f"{long}\n", "--lb", "01-focal=0.7")
    assert out.splitlines()[0].endswith("LB  note") and max(map(files.display_width, out.splitlines())) <= 100
    assert "first" in out and "왜" in out and "..." in out
    assert "runs/01-focal/note.json: second" in (leaderboard.main(["--note", "01-focal", "second"]), capsys.readouterr().err)[1]
    written = json.loads((folder / "note.json").read_text())
    assert (written["note"], [row["note"] for row in written["history"]]) == ("second", ["first", "second"])
    assert "| second |" in listed(capsys, "--markdown") and long.strip().replace("|", r"\|") in listed(capsys, "--markdown")
    listed(capsys, "--html", "page.html")
    assert "<td>second</td>" in Path("page.html").read_text() and long.strip() in Path("page.html").read_text()
    assert (folder / "args.yaml").read_bytes() == before
    assert [experiment.note_of(place_of, {"note": "own"}) for place_of in (folder, place)] == ["second", "own"]
    assert leaderboard.main(["--note", "01-focal", ""]) == 0 and experiment.note_of(folder, {"note": "own"}) == ""


def test_agreement_with_the_leaderboard(place, capsys):
    """The best fold and all folds of the same runs count once: OOF 0.53 beside LB 0.50 and 0.52, in the mean 0.51. With 0.52
    beside 0.52 and 0.49 beside 0.48 gaps are 0.02, 0 and 0.01; Spearman is 0.5 of ranks 3 2 1, 2 3 1, and of three pairs Pearson
    can be anything. With 0.40, 0.40 added r = 0.00955 / sqrt(0.0105 * 0.008875) = 0.98929, by Fisher's z above tanh(2.6122 - 1.96)
    = 0.57."""
    make_ensemble(place / "submissions", "best", {"runs/02-ce": 1}, scores={**SCORES, "oof_f1": 0.53}, folds="best")
    text = listed(capsys, "--lb", "01-soft-2runs=0.5", "--lb", "best=0.52", "--lb", "01-focal=0.52")
    shared = "(2 share an out-of-fold score, which counts once at their mean LB)"
    assert f"OOF against LB: 2 with both scores {shared}; a correlation takes 3" in " ".join(text.split())
    text = " ".join(listed(capsys, "--lb", "02-ce=0.48").split())
    assert f"OOF against LB: n = 3 {shared}, Pearson 0.88 (95 % interval -1.00 .. 1.00), Spearman 0.50;" in text
    assert "OOF - LB +0.0100 on average (+0.0000 .. +0.0200)" in text
    make_run(place / "runs", "04", scores={**SCORES, "oof_f1": 0.4})
    text = " ".join(listed(capsys, "--lb", "04=0.4").split())
    assert f"n = 4 {shared}, Pearson 0.99 (95 % interval 0.57 .. 1.00), Spearman 0.80;" in text
    same = [run(name, f1=f1, lb=0.5) for name, f1 in (("a", 0.4), ("b", 0.5), ("c", 0.6))]
    assert "3 with both scores; a correlation takes 3 that differ" in leaderboard.agreement_text(same)


def test_effects_are_those_of_complete_runs_scored_alike(place, capsys):
    """focal 0.52 and 0.53, ce 0.49 and 0.48, f1 0.50, a single run, which has no effect of its own: focal 0.525 - 0.49, ce 0.485 -
    0.516667. Residuals are 0.005, s^2 = 4 * 0.000025 / 2, each variance s^2 * 5 / 6, half an interval with t(2) = 4.302653 0.0278.
    The unfinished run, the one of other people, the mask run and the same run again, under another name and with other threads,
    stay out: equal scores would say that there is no noise at all."""
    for name, loss, bounds, f1 in (("05", "focal", 30, 0.53), ("06", "ce", 29, 0.48), ("07", "f1", 28, 0.5)):
        assert ("main effects" in listed(capsys)) == (name == "07")
        make_run(place / "runs", name, loss=loss, lr=0.001, age_bounds=[bounds, bounds + 30], scores={**SCORES, "oof_f1": f1})
    make_run(place / "runs", "04", loss="focal", lr=0.001, age_bounds=[30, 60], cache_dir="a", threads=7)
    make_run(place / "runs", "unfinished", folds=[0], loss="f1")
    make_run(place / "runs", "others", loss="f1", people=5)
    out = listed(capsys)
    assert "main effects on the OOF F1 of label: 5 complete runs of the same 4 people" in out
    effects = [" ".join(line.split()) for line in out.splitlines() if line.startswith("loss")]
    assert effects == ["loss & age_bounds focal, 30 60 2 +0.0350 +0.0350 +0.0072 .. +0.0628",
                       "loss & age_bounds ce, 29 59 2 -0.0317 -0.0317 -0.0594 .. -0.0039"]  # fmt: skip
    assert "proves a cause" in out and "confounded" not in out and "different sets of people" in out
    assert "stays confounded" in " ".join(listed(capsys, "--explain").split())
    note = leaderboard.effects_note([leaderboard.Effect("loss", "ce", 2, 0.1, 0.1, None, None)], 0, False, ["lr"])
    assert note.startswith("no interval: no degree of freedom is left; repeat a run") and note.endswith("by nothing: lr")


def test_bootstrap_adds_the_draw_of_people(place, capsys):
    """Run A is right on all 6 images of 3 people, B wrong on one person: the interval needs no degree of freedom, and is that of
    the same draws whatever the order of rows."""
    truth, answers, people = np.array([0, 1, 0, 1, 2, 2]), {}, list("xxyyzz")
    for name, wrong in (("01-focal", ()), ("02-ce", (4, 5))):
        answers[name] = truth.copy()
        answers[name][list(wrong)] = 0
        table = pd.DataFrame({"image": list("abcdef"), "path": people, "fold": 0, "target": truth})
        table[[f"p{index}" for index in range(18)]] = np.eye(18)[answers[name]]
        table.sample(frac=1, random_state=len(wrong)).to_csv(place / "runs" / name / "oof.csv", index=False)
    out = listed(capsys, "--bootstrap", 200)
    assert "the draw of people alone, no noise of seeds" in " ".join(out.split())
    half = 1.959964 * metrics.bootstrap_difference(truth, *answers.values(), people, 18, 200).std()
    effect = next(line for line in out.splitlines() if line.startswith("loss"))
    assert effect.endswith(f"{0.03 - half:+.4f} .. {0.03 + half:+.4f}")
    table.assign(target=truth[::-1]).to_csv(place / "runs" / "02-ce" / "oof.csv", index=False)  # before train.csv was changed
    with pytest.raises(InputError, match=r"runs/02-ce/oof\.csv: other images or official labels than in runs/01-focal"):
        leaderboard.main(["--bootstrap", "200"])


def test_the_forecast_is_of_candidates_scored_on_the_same_people(place, capsys):
    """Two folds of a run gain half of GAIN, two of two label runs averaged a quarter. The damaged run, those of other people and
    of mask have no forecast, nor has what is on the leaderboard, nor anything without out-of-fold predictions."""
    assert "forecast" not in listed(capsys, "--explain")
    truth, people = np.tile(np.arange(18), 20), [f"p{index // 6}" for index in range(360)]
    rng, f1 = np.random.default_rng(0), {}
    for name, first, noise in (("01-focal", 0, 0.2), ("02-ce", 0, 0.3), ("04-others", 9, 0.2), ("01-soft-2runs", 0, 0.1)):
        folder = place / ("submissions" if "soft" in name else "runs") / name
        folder.is_dir() or make_run(place / "runs", name)
        pred = np.where(rng.random(360) < noise, rng.integers(0, 18, 360), truth)
        table = pd.DataFrame({"image": range(first, first + 360), "path": people, "fold": 0, "target": truth})
        table[[f"p{index}" for index in range(18)]] = np.eye(18)[pred]
        table.to_csv(folder / "oof.csv", index=False)
        f1[name] = metrics.macro_f1(truth, pred, 18)
    (make_run(place / "runs", "05-damaged") / "oof.csv").write_text("image")
    out = listed(capsys)
    found = {line.split()[0]: line.split() for line in out.splitlines() if "±" in line}
    assert found.keys() == {"01-focal", "02-ce", "01-soft-2runs"} and "LB forecast" in out.splitlines()[0]
    for name, share in (("01-focal", 0.5), ("02-ce", 0.5), ("01-soft-2runs", 0.25)):
        assert float(found[name][-3]) == pytest.approx(f1[name] + share * metrics.GAIN, abs=6e-4)
    text = " ".join(out.split())
    assert re.search(r"best on the private leaderboard: 01-soft-2runs \d+%, 01-focal \d+%, 02-ce \d+%$", text)
    text = " ".join(listed(capsys, "--lb", "01-focal=0.99", "--html", "page.html", "--explain").split())
    assert re.search(r"beating 0\.9900 on the .* one\): 01-soft-2runs \d+% \(\d+%\), 02-ce \d+% \(\d+%\) LB forecast: ", text)
    higher = float(re.search(r" 02-ce label .*? ([\d.]+) ±", text)[1])
    assert higher > float(found["02-ce"][-3]) + 0.01  # as a run that is like it scored more than was expected
    assert "01-soft-2runs" in Path("page.html").read_text().partition("to hand in next")[2]
    (place / "submissions" / "01-soft-2runs" / "submission.csv").write_text("ImageID,ans\n" + "a,0\n" * 28)
    few = next(line.split() for line in listed(capsys).splitlines() if line.startswith("01-soft"))
    assert float(few[-1]) > 2 * float(found["01-soft-2runs"][-1])  # of two people
    for name in ("01-focal", "02-ce"):  # the same answers score the same
        (place / "runs" / name / "submission.csv").write_text("ImageID,ans\na,0\n")
    assert "02-ce" not in "".join(line for line in listed(capsys).splitlines() if "±" in line)


def test_diff_of_runs_shows_only_what_differs_beside_the_scores(place, capsys):
    out = listed(capsys, "--diff", "01-focal", "runs/02-ce")
    rows = [line.split() for line in out.splitlines()]
    assert rows[:2] == [["A:", "runs/01-focal"], ["B:", "runs/02-ce"]]
    assert {("loss", "focal", "ce"), ("age_bounds", "30", "60", "29", "59"), ("OOF", "F1", "0.5200", "0.4900")} <= {
        *map(tuple, rows)
    }
    assert not {"name", "cache_dir", "lr", "kfold"} & {row[0] for row in rows if row}


def test_diff_of_ensembles_shows_members_and_weights_and_fits_the_terminal(place, capsys):
    """The way of a search is left out and 18 factors go on in further lines."""
    weights = {"runs/01-focal": 1, "runs/02-ce": {"mask": 0.5, "gender": 1.0}, "runs/09": 1}
    make_ensemble(place / "submissions", "02", weights, decode="f1", biases=[1.123456789] * 18, path=[{"run": "x"}])
    out = listed(capsys, "--diff", "01-soft-2runs", "02")
    lines = out.splitlines()
    rows = {tuple(" ".join(cell.split()) for cell in line.split("  ") if cell.strip()) for line in lines}
    assert ("member runs/02-ce", "weight 1, folds 0 1", "weight gender 1, mask 0.5, folds 0 1") in rows
    assert ("member runs/09", "-", "weight 1, folds 0 1") in rows and ("decode", "-", "f1") in rows
    assert not [row for row in rows if row and ("01-focal" in row[0] or "path" in row[0])]
    first = next(index for index, line in enumerate(lines) if line.startswith("biases"))
    assert max(map(len, lines)) <= 100 and " ".join(lines[first : first + 4]).split().count("1.12346") == 18


def test_in_a_browser_a_narrow_window_shows_every_column(browser, tmp_path):
    """At 1,100 px a table with notes, pictures and LB is as wide as its place, though its long names and notes wrap."""
    folder = make_run(tmp_path, "03-AdamP-CosineAnnealing-CE-F1-v2-label_5fold", note="second colour, no flips: a lower rate")
    for stem in ("curves", "confusion", "mistakes"):
        (folder / f"{stem}.png").touch()
    found = [leaderboard.read_record(folder)._replace(lb=0.7), run("ensemble", f1=0.6, lb=0.65, is_run=False, folds=[0])]
    probe = "<script>let s = document.querySelector('.scroll'); document.title = s.scrollWidth - s.clientWidth</script></body>"
    page = leaderboard.page(found, "oof_f1", tmp_path / "page.html", []).replace("</body>", probe)
    assert "<title>0</title>" in browser(page, "--dump-dom", "--window-size=1100,900")[0]
