"""options.py: what follows from the options of train.py, and what they refuse."""

import shutil

import timm
from conftest import without_pictures

import augment
import demo
import engine
import errors
import experiment
import options
import train


def test_demo_defaults_give_way_to_options(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "locate", lambda data_dir, draw: (tmp_path, True))
    args = options.parse_args(["--epochs", "3", "--grad-accum-steps", "2", "--focal-gamma", "1"])
    assert (args.epochs, args.model, args.pretrained) == (3, options.DEMO_DEFAULTS["model"], False)
    assert (args.accum, args.gamma) == (2, 1.0)  # other names of these two
    assert args.img_size == options.DEMO_DEFAULTS["img_size"]
    said = capsys.readouterr().err
    assert "--model test_resnet --img-size 64 48 --no-pretrained" in said and max(map(len, said.splitlines())) <= errors.WIDTH


def test_what_would_be_refused_is_found_without_drawing_the_demo_set(monkeypatch, tmp_path):
    """Its defaults hold for the checks: four epochs to freeze are less than its ten."""
    monkeypatch.chdir(tmp_path)
    lines = [["--epochs", "3"], ["--freeze-epochs", "4"], ["--freeze-epochs", "10"], ["--epochs", "many"]]
    *taken, frozen, many = options.refusals(lines)
    assert taken == [None, None] and frozen.startswith("--freeze-epochs 10: leaves none of 10 epochs")
    assert many == "argument --epochs: many is not a whole number" and not list(tmp_path.iterdir())


def test_a_deprecated_model_is_told_once_and_recorded_by_its_current_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "locate", lambda data_dir, draw: (tmp_path, False))
    args = options.parse_args(["--model", "tf_efficientnet_b4_ns", "--no-pretrained"])
    assert (args.model, args.img_size) == ("tf_efficientnet_b4.ns_jft_in1k", [380, 380])
    told = "--model tf_efficientnet_b4_ns: an old name; timm calls it tf_efficientnet_b4.ns_jft_in1k now\n"
    assert capsys.readouterr().err == told
    assert options.refusals([["--model", "vit_base_patch16_224_in21k"], ["--model", "vit_base_patch16_224_in21l"]])[0] is None


def test_a_run_that_began_with_a_deprecated_name_goes_on_under_the_current_one(runs, tmp_path, capsys, monkeypatch):
    run = shutil.copytree(runs["mask"], tmp_path / "run")
    monkeypatch.setattr(timm.models, "get_deprecated_models", lambda: {"old_resnet": "test_resnet"})
    experiment.write_args(run, experiment.read_args(run) | {"model": "old_resnet"})
    for told in (1, 0):
        with without_pictures():
            assert train.main(["--resume", str(run / "args.yaml"), "--quiet"]) == 0
        assert experiment.read_args(run)["model"] == "test_resnet"
        assert capsys.readouterr().err.count("--model old_resnet: an old name; timm calls it test_resnet now") == told


def test_names_that_are_stated_here_are_those_of_the_modules_that_take_torch():
    assert set(options.TTAS) == set(augment.TTAS) and set(options.SAMPLERS) == set(engine.SAMPLERS)
