"""options.py: what follows from the options of train.py, and what they refuse."""

import shutil

import timm
from conftest import SAME_BITS, assert_same_run, without_pictures

import augment
import demo
import engine
import errors
import experiment
import options
import train


def test_demo_defaults_give_way_to_options(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "locate", lambda data_dir, draw: (tmp_path, True))
    args = options.parse_args(["--epochs", "3", "--grad-accum-steps", "2", "--focal-gamma", "1", "--fold", "1", "0", "1"])
    assert (args.epochs, args.model, args.pretrained) == (3, options.DEMO_DEFAULTS["model"], False)
    assert (args.accum, args.gamma) == (2, 1.0) and args.fold == [1, 0]  # other names of these two; a fold is trained once
    assert args.img_size == options.DEMO_DEFAULTS["img_size"]
    said = capsys.readouterr().err
    assert "--model test_resnet --img-size 64 48 --no-pretrained" in said and max(map(len, said.splitlines())) <= errors.WIDTH


def test_options_of_a_file_are_as_typed_and_those_typed_beside_it_win(monkeypatch, tmp_path):
    """YAML's own off and 1e-3 would be False and a text. A recorded --mix-prob is no misuse without --mix, nor a demo default."""
    (tmp_path / "mine.yaml").write_text(
        "amp: off\nlr: 1e-3\nepochs: 3\nimg-size: [64, 48]\ndrop_ages: 27\ncrop:\nname: mine\nfold_seed: 42\nmix_prob: 0.3\n"
        "pretrained: yes\nkeep_state: false\n"
    )
    monkeypatch.setattr(demo, "locate", lambda data_dir, draw: (tmp_path, True))
    args = options.parse_args(["--config", str(tmp_path / "mine.yaml"), "--img_size", "32", "--seed", "7"])
    assert (args.amp, args.lr, args.epochs, args.img_size, args.drop_ages) == ("off", 1e-3, 3, [32, 32], [27])
    assert (args.crop, args.name, args.seed, args.fold_seed, args.mix_prob) == (None, "mine", 7, 42, 0.3)
    assert (args.pretrained, args.keep_state, args.model) == (True, False, options.DEMO_DEFAULTS["model"])


def test_a_run_is_repeated_from_its_args_with_the_same_bits_or_one_change(runs, tmp_path):
    recorded = experiment.read_args(runs["mask"])
    config = ["--config", str(runs["mask"] / "args.yaml")]
    with without_pictures():
        assert train.main([*config, "--output-dir", str(tmp_path), *SAME_BITS]) == 0
    (again,) = tmp_path.iterdir()
    expected = recorded | {"name": again.name, "output_dir": str(tmp_path), "quiet": False}
    assert list(experiment.read_args(again).items()) == list(expected.items())
    assert_same_run(runs["mask"], again)
    args = options.parse_args([*config, "--seed", "8", "--model", "resnet18"])
    assert (args.fold_seed, args.img_size, args.threads, args.name) == (8, [32, 24], 1, None)
    native = tmp_path / "args.yaml"
    native.write_text("note: old\nseed: 42\nfold_seed: 7\nmodel: test_resnet\nimg_size: [160, 160]\n")
    args = options.parse_args(["--data-dir", recorded["data_dir"], "--config", str(native), "--model", "resnet18"])
    assert (args.fold_seed, args.img_size, args.note) == (7, [224, 224], None)


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
    assert set(options.AUGS) == set(augment.LEVELS) and set(options.TTAS) == set(augment.TTAS)
    assert set(options.SAMPLERS) == set(engine.SAMPLERS)
