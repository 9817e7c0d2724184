"""ensemble.py --persons: what the images of a person share, and how that is scored and recorded."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

import dataset
import demo
import ensemble
from dataset import marginals
from errors import InputError


def test_sharing_by_hand():
    """Images 0 and 2 are one person: their gender is the mean of 0.9 and 0.5, their masks stay; image 1 is alone."""
    groups = np.array([0, 1, 0])
    gender = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    np.testing.assert_allclose(ensemble.share_probs("gender", gender, groups), [[0.7, 0.3], [0.2, 0.8], [0.7, 0.3]])
    mask = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(ensemble.share_probs("mask", mask, groups), mask)
    age_group = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    multi = ensemble.share_probs("multi", np.hstack([mask, gender, age_group]), groups)
    expected = np.hstack([mask, [[0.7, 0.3], [0.2, 0.8], [0.7, 0.3]], [[0.5, 0.25, 0.25], [0, 1, 0], [0.5, 0.25, 0.25]]])
    np.testing.assert_allclose(multi, expected)
    ages = np.eye(43)[[0, 1, 42]]
    np.testing.assert_allclose(ensemble.share_probs("age", ages, groups)[2], (ages[0] + ages[2]) / 2)


def test_sharing_the_18_classes():
    """The mask's marginal is the image's own, that of gender and age the group's mean, and they are independent but alone."""
    rng, groups = np.random.default_rng(0), np.array([0, 1, 0, 2, 2, 2])
    label = rng.dirichlet(np.ones(18), 6)
    shared = ensemble.share_probs("label", label, groups)
    before, after = marginals(label), marginals(shared)
    np.testing.assert_allclose(after["mask"], before["mask"])
    for part in ("gender", "age_group"):
        for number in range(3):
            np.testing.assert_allclose(
                after[part][groups == number], before[part][groups == number].mean(0)[None].repeat((groups == number).sum(), 0)
            )
    np.testing.assert_array_equal(shared[1], label[1])
    rest = label.reshape(6, 3, 6).sum(1)[[0, 2]].mean(0)
    np.testing.assert_allclose(shared[0], np.outer(before["mask"][0], rest).ravel())


def test_pair_scores_by_hand():
    """a a a b in groups 0 0 1 1: of the pairs 01 and 23 the first is right, of the three pairs of `a` one is found."""
    assert ensemble.pair_scores(np.array([0, 0, 1, 1]), ["a", "a", "a", "b"]) == (0.5, round(1 / 3, 6))
    assert ensemble.pair_scores(np.array([0, 1]), ["a", "a"]) == (0, 0)
    assert ensemble.pair_scores(np.array([5, 5, 2]), ["x", "x", "y"]) == (1, 1)


@pytest.fixture
def places(shared_data, workplace, tmp_path):
    return ["--data-dir", str(shared_data), "--cache-dir", str(workplace / "cache"), "--device", "cpu", "--quiet",
            "--output-dir", str(tmp_path / "submissions")]  # fmt: skip


def test_an_ensemble_shares_within_groups_and_writes_them_down(runs, places, tmp_path, capsys):
    """The recipe, persons.csv and the members' predictions give the answers; the gain is that over the plain average."""
    members = [runs["multi"], runs["label"]]
    plain = ["--models", *map(str, members), *places]
    assert ensemble.main([*plain, "--name", "plain"]) == 0
    assert ensemble.main([*plain, "--name", "shared", "--persons"]) == 0
    folder, before = tmp_path / "submissions" / "shared", tmp_path / "submissions" / "plain"
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["persons"] is True
    for table, key, groups_file in (("eval.csv", "ImageID", "persons.csv"), ("oof.csv", "image", "oof_persons.csv")):
        made, groups = pd.read_csv(folder / table), pd.read_csv(folder / groups_file)
        assert groups["image"].tolist() == made[key].tolist() and groups["group"].value_counts().max() <= 7
        multi, label = (
            ensemble.share_probs(
                target,
                pd.read_csv(run / table).set_index(key).loc[made[key], dataset.columns(target)].to_numpy(),
                groups["group"].to_numpy(),
            )
            for target, run in zip(("multi", "label"), members)
        )
        product = (multi[:, :3, None, None] * multi[:, None, 3:5, None] * multi[:, None, None, 5:]).reshape(-1, 18)
        np.testing.assert_allclose(made[dataset.columns("label")], (product + label) / 2, rtol=1e-4, atol=1e-6)
    score, plain_score = (json.loads((each / "score.json").read_text()) for each in (folder, before))
    assert score["plain_f1"] == plain_score["oof_f1"] and score["gain"] == pytest.approx(
        score["oof_f1"] - score["plain_f1"], abs=2e-6
    )
    groups = pd.read_csv(folder / "oof_persons.csv")
    precision, recall = ensemble.pair_scores(groups["group"].to_numpy(), groups["image"].str.partition("/")[0])
    assert (score["pair_precision"], score["pair_recall"]) == (precision, recall) and "pair_recall" not in plain_score
    out = " ".join(capsys.readouterr().out.partition("submissions/plain/submission.csv")[2].split())
    assert f"of the pairs in a group {precision:.1%} are of one person, of the pairs of a person {recall:.1%}" in out
    assert "the contest's rules to say: ask before you hand it in" in out and f"gain {score['gain']:+.4f}" in out
    assert not (before / "persons.csv").exists()


def test_without_out_of_fold_predictions_only_eval_images_are_grouped(fit, places, tmp_path, capsys):
    run = fit("--kfold", "0", "--target", "label", name="nofold_for_persons")
    assert ensemble.main(["--models", str(run), "--name", "unscored", "--persons", *places]) == 0
    names = {path.name for path in (tmp_path / "submissions" / "unscored").iterdir()}
    assert "persons.csv" in names and "oof_persons.csv" not in names
    assert "of the pairs in a group" not in capsys.readouterr().out


def test_without_a_data_folder_no_demo_set_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "DATA_PLACES", ())
    with pytest.raises(InputError, match=r"--persons: looks at the images, and there is no data folder here; give --data-dir"):
        ensemble.find_persons(["a.jpg"], None, SimpleNamespace(data_dir=None))
    assert not list(tmp_path.iterdir())
