import json

import helpers
import numpy as np
import pandas as pd
import pytest
import yaml

import metrics
import predictions
import sweep
from errors import InputError
from sweep import Row


def write_run(folder, answers, truth=(0, 0, 1, 1), seconds=10.0, target="gender"):
    """A finished run of target gender with one image of each person; returns it as read."""
    folder.mkdir(parents=True)
    images = pd.DataFrame({"image": [f"p{i}/normal.jpg" for i in range(len(truth))]})
    images["path"] = images["image"].str[:2]
    table = predictions.oof_table(images, 0, target, np.array(truth)[:, None], np.eye(2)[list(answers)])
    shuffled = table.sample(frac=1, random_state=sum(answers) + int(seconds))  # the order of rows must not matter
    shuffled.to_csv(folder / "oof.csv", index=False)
    return complete(folder, target, seconds)


def complete(folder, target, seconds=10.0, kfold=2):
    """Give a run that was written as its oof.csv the other files that are read; returns it as read."""
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": target, "kfold": kfold}))
    (folder / "summary.json").write_text(json.dumps({"seconds": seconds}))
    (folder / "folds.csv").write_text("path,fold\np0,0\n")
    return sweep.read_run(folder)


def test_scores_and_differences_by_hand(tmp_path):
    """Truth 0 0 1 1. Answers 0 0 1 0: class 0 has tp 2 of 3 + 2, 4/5, class 1 tp 1 of 1 + 2, 2/3, macro 11/15; 0 1 1 1 has
    11/15 too, the right ones 1. Baseline 11/15 and 11/15, sd 0; mix 1 and 11/15, mean 13/15, sd (4/15) / sqrt(2) = 0.1886.
    Differences 4/15 and 0: mean 2/15, sd 0.1886 again. Seconds 10 and 20: 15."""
    base = {1: write_run(tmp_path / "b1", (0, 0, 1, 0)), 2: write_run(tmp_path / "b2", (0, 1, 1, 1))}
    mix = {1: write_run(tmp_path / "m1", (0, 0, 1, 1)), 2: write_run(tmp_path / "m2", (0, 0, 1, 0), seconds=20.0)}
    first, second = sweep.compare_rows([("base", ""), ("mix", "--mix halves")], {"base": base, "mix": mix})
    assert first.f1 == pytest.approx([11 / 15, 11 / 15]) and (first.differences, first.low) == ([], None)
    assert second.differences == pytest.approx([4 / 15, 0]) and second.seconds == 15
    samples = metrics.bootstrap_mean_difference(
        [0, 0, 1, 1], [[0, 0, 1, 1], [0, 0, 1, 0]], [[0, 0, 1, 0], [0, 1, 1, 1]], list("abcd"), 2
    )
    assert (second.low, second.high) == pytest.approx(metrics.interval(samples))
    assert first.cells() == ["base", "2", "0.7333 ± 0.0000", "-", "-", "-", "-", "10 s"]
    assert second.cells()[:4] == ["mix", "2", "0.8667 ± 0.1886", "+0.1333"]
    assert second.cells()[5:] == ["0.1886", "noise", "15 s"]


@pytest.mark.parametrize(("differences", "low", "high", "verdict"), [
    ([0.02], 0.01, 0.03, "one seed"),
    ([0.019, 0.021], 0.01, 0.03, "better"),  # 0.02 > 12.706 * 0.001414 / sqrt(2) = 0.0127
    ([0.018, 0.022], 0.01, 0.03, "noise"),  # 0.02 < 0.0254
    ([0.0125, 0.02, 0.0275], 0.01, 0.03, "better"),  # 0.02 > 4.303 * 0.0075 / sqrt(3) = 0.0186
    ([0.01, 0.02, 0.03], 0.01, 0.03, "noise"),  # 0.02 < 0.0248: another seed might turn it
    ([-0.01, -0.02, -0.03], -0.03, -0.01, "noise"),
    ([-0.0125, -0.02, -0.0275], -0.03, -0.01, "worse"),
    ([0.02, 0.02, 0.02], -0.01, 0.05, "noise"),
    ([], None, None, "-"),
])  # fmt: skip
def test_verdicts_ask_people_and_seeds(differences, low, high, verdict):
    assert Row("a", "", "label", 3, [], 1.0, differences, low, high).verdict == verdict


@pytest.fixture(scope="module")
def simulated_runs(tmp_path_factory):
    """{experiment: {seed: Run}} of 150 people: a baseline, one as good, one less noisy, one of another target."""
    place, people, held = tmp_path_factory.mktemp("simulated"), helpers.People(150, 0), helpers.People(2, 1)
    found = {}
    for name, target, noise in (("base", "label", 1.5), ("alike", "multi", 1.5), ("better", "label", 1.0), ("age", "age", 1.5)):
        for seed in (1, 2, 3):
            folder = helpers.write_run(place / f"{name}-s{seed}", target, people, held, noise)
            found.setdefault(name, {})[seed] = complete(folder, target, kfold=5)
    return found


LISTED = [("base", ""), ("alike", "--target multi"), ("better", "--ema 0.9"), ("age", "--target age"), ("later", "")]


def test_what_is_better_is_told_from_noise_and_targets_from_each_other(simulated_runs):
    rows = {row.name: row for row in sweep.compare_rows(LISTED, simulated_runs)}
    assert list(rows) == ["base", "alike", "better", "age"]
    assert [row.verdict for row in rows.values()] == ["-", "noise", "better", "-"]
    assert rows["age"].scored_as == "age_group" and rows["age"].f1 and not rows["age"].differences
    notes = sweep.remarks(list(rows.values()), "base")
    assert notes == ["age is scored on age_group, base on label: no difference"]


def test_seeds_without_a_partner_are_left_out_and_said(simulated_runs):
    runs = {"base": {1: simulated_runs["base"][1]}, "better": simulated_runs["better"]}
    rows = sweep.compare_rows(LISTED, runs)
    assert (rows[1].seeds, len(rows[1].f1), len(rows[1].differences)) == (3, 3, 1)
    assert sweep.remarks(rows, "base") == ["better: difference of 1 of its 3 seeds, those of base too"]
    rows = sweep.compare_rows(LISTED, {"better": simulated_runs["better"]})
    assert rows[0].verdict == "-" and "no run of the baseline base is finished" in sweep.remarks(rows, "base")[0]
    assert sweep.compare_rows(LISTED, {}) == [] and sweep.remarks([], "base") == []


def test_tables(simulated_runs):
    long = [*LISTED[:2], ("better" * 12, "--ema 0.9"), LISTED[3]]
    runs = {{"better": "better" * 12}.get(name, name): seeds for name, seeds in simulated_runs.items()}
    rows = sweep.compare_rows(long, runs)
    lines = sweep.ablation_text(rows)
    assert len(lines) == 5 and max(map(len, lines)) <= 100
    assert " ".join(lines[0].split()) == "experiment seeds OOF F1 difference 95 % interval sd verdict time"
    assert "...terbetter " in lines[3] and lines[3].split()[-3:] == ["better", "10", "s"]
    head, rule, base, _alike, better, _age = sweep.ablation_markdown(rows)
    assert head.count("|") == rule.count("|") == base.count("|") == better.count("|") == 10
    assert base.startswith("| `base` | | 3 | 0.") and f"| `{'better' * 12}` | `--ema 0.9` | 3 | 0." in better


def test_runs_of_other_folds_images_or_labels_are_no_pair(tmp_path):
    one, other = write_run(tmp_path / "a", (0, 0, 1, 1)), write_run(tmp_path / "b", (0, 0, 1, 1))
    other.folds = b"path,fold\np0,1\n"
    with pytest.raises(InputError, match=r"b/folds.csv: other folds than in .*a, .* put --fold-seed 0 into the common line"):
        sweep.compare_rows([("a", ""), ("b", "")], {"a": {1: one}, "b": {1: other}})
    other = write_run(tmp_path / "c", (0, 0, 1), truth=(0, 0, 1))
    with pytest.raises(InputError, match=r"c/oof.csv: other images than in .*a; let all train the same folds"):
        sweep.compare_rows([("a", ""), ("b", "")], {"a": {1: one}, "b": {1: other}})
    other = write_run(tmp_path / "d", (0, 0, 1, 1), truth=(0, 1, 1, 1))
    with pytest.raises(InputError, match=r"a/oof.csv: other official labels than in .*d; compare runs of the same data"):
        sweep.compare_rows([("a", ""), ("b", "")], {"a": {1: one}, "b": {1: other}})
    (tmp_path / "d" / "folds.csv").unlink()
    with pytest.raises(InputError, match=r"d/folds.csv: no such file"):
        sweep.read_run(tmp_path / "d")


def test_nofold_runs_have_a_time_and_no_score(tmp_path):
    (tmp_path / "n").mkdir()
    run = complete(tmp_path / "n", "mask", kfold=0)
    rows = sweep.compare_rows(
        [("a", ""), ("n", "--kfold 0")], {"a": {1: write_run(tmp_path / "a", (0, 0, 1, 1))}, "n": {1: run}}
    )
    assert rows[1].cells() == ["n", "1", "-", "-", "-", "-", "-", "10 s"]
