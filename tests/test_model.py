import json
import math
import shlex
import shutil
import socket
from argparse import Namespace
from contextlib import nullcontext

import numpy as np
import pytest
import safetensors
import safetensors.torch
import timm
import torch

import model
from errors import InputError
from options import make_parser

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
FACTS = {"model": "test_resnet", "target": "mask", "img_size": [32, 32], "mean": MEAN, "std": STD}
FACTS |= {"options": {"memory_format": "contiguous"}}  # what train.py writes beside weights, as far as a prediction goes by it


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A timm-style state dict with a head of 1,000 classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.mark.parametrize(("name", "size", "options", "message"), [
    ("test_vit", (50, 30), {}, r"--img-size 50 30: .*can't take images of that size.*160 x 160"),
    ("vgg11", (32, 32), {"drop_path": 0.2}, r"--drop-path 0.2: vgg11 has no such thing; leave it out"),
    ("resnet18.foo", (32, 32), {}, r"--model resnet18.foo: resnet18 has no weights 'foo', but a1_in1k"),
    ("resnet81", (32, 32), {}, r"--model resnet81: .*Did you mean resnet"),
])  # fmt: skip
def test_a_model_that_can_not_be_made_is_refused(name, size, options, message):
    with pytest.raises(InputError, match=message):
        model.create(name, "mask", size, **options)


@pytest.mark.parametrize("wanted", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients_and_is_refused_where_timm_has_none(wanted):
    """It runs the forward of a block anew, in the backward pass."""
    args = make_parser().parse_args(["--model", "test_vit", "--img-size", "32", "32", "--no-pretrained"])
    gradients, runs = [], []
    for args.grad_checkpointing in (False, wanted):
        net = model.build_model(args, 0, torch.device("cpu"))
        net.blocks[0].register_forward_pre_hook(lambda *_: runs.append(args.grad_checkpointing))
        net(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in net.parameters()]))
    assert torch.equal(*gradients) and runs == [False, *[wanted] * (1 + wanted)]
    args.model, args.img_size = "pit_ti_224", [96, 96]
    with pytest.raises(InputError, match="--grad-checkpointing: timm has none for pit_ti_224") if wanted else nullcontext():
        args.grad_checkpointing = wanted
        model.build_model(args, 0, torch.device("cpu"))


@pytest.mark.parametrize("drops", [{"dropout": 0.5}, {"drop_path": 0.5}], ids=str)
def test_dropout_and_stochastic_depth_are_of_training_alone(drops):
    """Same random state, same initial weights: the same logits when it predicts, others from pass to pass when it trains."""
    nets = []
    for options in ({}, drops):
        torch.manual_seed(0)
        nets.append(model.create("test_vit", "label", (32, 32), **options))
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(*(net.eval()(images) for net in nets))
    plain, dropped = ([net.train()(images), net(images)] for net in nets)
    assert torch.equal(*plain) and not torch.equal(*dropped)


def test_position_embeddings_of_a_file_are_resampled_to_the_image_size(tmp_path):
    state = timm.create_model("test_vit").state_dict()
    safetensors.torch.save_file(state, tmp_path / "vit.safetensors")
    net = model.create("test_vit", "mask", (64, 48), weights=tmp_path / "vit.safetensors")
    own = net.state_dict()
    assert own["pos_embed"].shape != state["pos_embed"].shape
    assert torch.equal(own["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"model": under("module.", state)},
    lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},  # as torchvision's old files
    lambda state: {"state_dict": under("_orig_mod.module.model.", state) | {"loss.weight": torch.ones(3)}, "epoch": 1},
    lambda state: under("backbone.", state) | {"fc.weight": torch.ones(3)},  # of a wrapper with a head of its own
    lambda state: under("encoder._orig_mod.", {k: v for k, v in state.items() if not k.startswith("fc.")}),
    lambda state: {"epoch": torch.tensor(3), "model": state, "model_ema": dict(state)},
    lambda state: {**state, "epoch": 3, "score": torch.tensor(0.5), "note": "best"},
    lambda state: under("module.", state) | {"n_averaged": torch.tensor(5)},  # torch's AveragedModel
])  # fmt: skip
def test_backbone_file_gives_all_but_the_head(backbone, tmp_path, wrap):
    state = safetensors.torch.load_file(backbone)
    torch.save(wrap(state), tmp_path / "backbone.pth")
    for path in (backbone, tmp_path / "backbone.pth"):
        net = model.create("test_resnet", "label", (32, 32), weights=path)
        for name, value in net.state_dict().items():
            assert name.startswith("fc.") or torch.equal(value, state[name]), name
        assert torch.isfinite(net.fc.weight).all() and net.fc.out_features == 18


@pytest.mark.parametrize(("change", "message"), [
    (lambda state: {name: value for name, value in state.items() if name != "bn1.weight"}, "lacks bn1.weight, so it is not a backbone"),
    (lambda state: state | {"extra": torch.zeros(1)}, "has the unknown extra, so it is not a backbone"),
    (lambda state: state | {"bn1.weight": torch.zeros(1)}, "has another shape for bn1.weight, so it is not a backbone"),
    (lambda state: timm.create_model("test_efficientnet").state_dict(), r"(has the unknown|lacks) .*and \d+ more"),
    (lambda state: {**under("student.", state), **under("teacher.", state)},
     "holds the backbone twice, under 'student.' and 'teacher.'; keep one"),
    *((lambda state, value=value: state | {"bn1.weight": state["bn1.weight"] + value, "fc.bias": torch.full((1000,), value)},
       "NaN or infinite numbers in bn1.weight; take another checkpoint") for value in (math.nan, math.inf, -math.inf)),
])  # fmt: skip
def test_a_file_that_is_no_backbone_of_the_model_is_refused(backbone, tmp_path, change, message):
    torch.save(change(safetensors.torch.load_file(backbone)), tmp_path / "x.pth")
    with pytest.raises(InputError, match=f"x.pth: {message}"):
        model.create("test_resnet", "label", (32, 32), weights=tmp_path / "x.pth")


@pytest.mark.parametrize(("content", "kind", "is_new"), [
    (lambda state, net: {"state_dict": state, "args": Namespace(lr=0.1)}, "argparse.Namespace", True),
    (lambda state, net: {"model": state, "best": np.float64(0.5)}, "numpy.*scalar", True),
    (lambda state, net: {"model": net, "epoch": 1}, "timm.models.resnet.ResNet", True),
    (lambda state, net: {**state, "args": Namespace(lr=0.1)}, "argparse.Namespace", False),
])  # fmt: skip
def test_files_with_objects_name_them_and_how_to_save_the_tensors(backbone, tmp_path, monkeypatch, content, kind, is_new):
    """The command that the line gives, run as it stands, leaves a file that loads."""
    monkeypatch.chdir(tmp_path)
    state = safetensors.torch.load_file(backbone)
    made = content(state, timm.create_model("test_resnet", checkpoint_path=str(backbone)))
    torch.save(made, "theirs.pth", _use_new_zipfile_serialization=is_new)
    with pytest.raises(InputError, match=rf"^--weights theirs.pth: holds an object \({kind}\) .* alone: python -c") as told:
        model.create("test_resnet", "label", (32, 32), weights="theirs.pth")
    assert "\n" not in str(told.value) and "\x1b" not in str(told.value)
    exec(shlex.split(str(told.value).partition("python -c ")[2])[0], {})
    assert torch.equal(model.read_state_dict("theirs.tensors.pth")["bn1.weight"], state["bn1.weight"])
    model.create("test_resnet", "label", (32, 32), weights="theirs.tensors.pth")


def test_every_deprecated_name_has_a_current_one():
    old = timm.models.get_deprecated_models()
    assert len(old) > 200
    for name in old:
        current = model.current_name(name)
        assert current not in old and all(side > 0 for side in model.native_size(current))
    assert model.current_name("tf_efficientnet_b4_ns") == "tf_efficientnet_b4.ns_jft_in1k"
    assert model.current_name("vit_base_patch16_224_sam") == "vit_base_patch16_224.sam_in1k"  # timm's own map says ".sam"


def test_a_model_without_a_classifier(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_args, **_options: torch.nn.Identity())
    with pytest.raises(InputError, match=r"--model resnet18: has no classifier to train"):
        model.create("resnet18", "mask", (224, 224))


@pytest.mark.parametrize("answers", ["refuses", "is silent"])
def test_a_hub_that_does_not_answer_is_left_soon(monkeypatch, capsys, answers):
    with socket.socket() as hub:
        hub.bind(("127.0.0.1", 0))
        if answers == "is silent":
            hub.listen()
        url = f"http://127.0.0.1:{hub.getsockname()[1]}"
        monkeypatch.setattr(model.huggingface_hub.constants, "ENDPOINT", url)
        monkeypatch.setattr(model, "CONNECT_SECONDS", 0.2)
        with pytest.raises(InputError, match=r"resnet18 can't be loaded \(.*pass --weights FILE .*--no-pretrained"):
            model.create("resnet18", "mask", (32, 32), pretrained=True)
    assert f"pretrained weights of resnet18: fetching them from {url}/timm/resnet18" in capsys.readouterr().err


def test_weights_in_the_hubs_cache_are_taken_without_asking_it(backbone, tmp_path, monkeypatch, capsys):
    file = str(shutil.copy(backbone, tmp_path / "model.safetensors"))
    monkeypatch.setattr(model.huggingface_hub, "try_to_load_from_cache", lambda *_args, **_options: file)
    monkeypatch.setattr(model, "_reach", None)
    net = model.create("test_resnet.r160_in1k", "mask", (32, 32), pretrained=True)
    assert torch.equal(net.bn1.weight, safetensors.torch.load_file(backbone)["bn1.weight"]) and not capsys.readouterr().err


def test_weights_file_rebuilds_the_model_and_one_flipped_bit_is_noticed(tmp_path):
    torch.manual_seed(1)
    net, path = model.create("test_efficientnet", "multi", (40, 30)).eval(), tmp_path / "best.safetensors"
    facts = {**FACTS, "model": "test_efficientnet", "target": "multi", "img_size": [40, 30]}
    model.save_weights(model.weights(net), facts, path)
    again, read = model.load(path)
    assert read == {**facts, "mean": list(MEAN), "std": list(STD)}
    images = torch.randint(0, 256, (3, 40, 30, 3), dtype=torch.uint8)
    np.testing.assert_array_equal(model.predict(net, [images], MEAN, STD), model.predict(again, [images], MEAN, STD))
    for at in (-1, path.stat().st_size // 2):
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        (tmp_path / "flipped").write_bytes(content)
        with pytest.raises(InputError, match=r"flipped: damaged \(its weights are not those of its sha256\)"):
            model.load(tmp_path / "flipped")
    safetensors.torch.save_file(net.state_dict(), path, {"experiment": json.dumps(facts)})  # of a version without digests
    model.load(path)
    path.write_bytes((22).to_bytes(8, "little") + b'{"__metadata__": null}')
    assert not model.is_trained(path)


def test_a_copy_of_another_folds_model_has_its_own_weights(tmp_path):
    nets, paths = [], []
    for number, (target, aux) in enumerate((("mask", 0.0), ("mask", 0.0), ("label", 0.0), ("label", 0.5))):
        nets.append(model.create("test_resnet", target, (32, 32), aux_age=aux).eval())
        paths.append(tmp_path / f"{number}.safetensors")
        facts = FACTS | {"target": target, "options": FACTS["options"] | ({"aux_age": aux} if aux else {})}
        model.save_weights(model.weights(nets[-1]), facts, paths[-1])
    loaded = [model.load(paths[0])]
    loaded[0][0].to(memory_format=torch.channels_last)  # as inference.py does
    for path in paths[1:]:
        loaded.append(model.load(path, loaded[-1]))
    for net, (again, _facts) in zip(nets, loaded):
        assert not again.training
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())


def test_predict_joins_batches_and_averages_the_views_of_tta():
    torch.manual_seed(2)
    net = model.create("test_resnet", "mask", (32, 32))
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    plain = model.predict(net, [images[:2], images[2:]], MEAN, STD)
    np.testing.assert_allclose(plain, model.predict(net, [images], MEAN, STD), atol=1e-5)
    flipped = model.predict(net, [images.flip(2)], MEAN, STD)
    np.testing.assert_allclose(model.predict(net, [images], MEAN, STD, tta="hflip"), (plain + flipped) / 2, atol=1e-5)
    assert net.training and np.abs(plain - flipped).max() > 1e-4


@pytest.mark.parametrize("tta", ["none", "hflip", "hflip+shift"])
def test_models_together_give_the_bits_of_each_alone(tta):
    torch.manual_seed(3)
    kinds = (("test_resnet", "mask"), ("test_vit2", "age"), ("test_resnet", "gender"))
    nets = [model.create(name, target, (32, 32)) for name, target in kinds]
    nets[2].to(memory_format=torch.channels_last).eval()
    images = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    models = [(nets[0], MEAN, STD), (nets[1], (0.4, 0.5, 0.6), STD), (nets[2], list(MEAN), list(STD))]
    together = model.predict_together(models, iter([images[:4], images[4:]]), tta=tta)
    for (net, mean, std), logits in zip(models, together):
        np.testing.assert_array_equal(logits, model.predict(net, [images[:4], images[4:]], mean, std, tta=tta))
    assert [net.training for net in nets] == [True, True, False]


class ByClassToken(torch.nn.Module):
    """Four patches, red and blue, after a class token that takes in the first one; the head sees the class token."""

    num_prefix_tokens, num_features = 1, 2

    def __init__(self, convolution, head):
        super().__init__()
        self.convolution, self.head, self.tokens, self.mixed = convolution, head, torch.nn.Identity(), torch.nn.Identity()

    def forward(self, images):
        patches = self.convolution(images).flatten(2).transpose(1, 2)
        tokens = self.tokens(torch.cat([torch.zeros_like(patches[:, :1]), patches], 1))
        return self.head(self.mixed(torch.cat([tokens[:, 1:2], tokens[:, 1:]], 1))[:, 0])


@pytest.mark.parametrize("by_token", [False, True])
def test_grad_cam_of_models_whose_answer_is_known(by_token):
    """The map of red is [[2, 1], [0, 0]], that of blue [[0, 0], [0, 3]]; class 0 is red - blue, class 1 the reverse, so class 0
    lies on [[2, 1], [0, -3]] / 4, without what is below 0 [[1, 1/2], [0, 0]], and class 1 on the lower right corner alone. By
    class token the last layer's patches reach nothing, and the mean slope of the layer before is the same."""
    convolution, head = torch.nn.Conv2d(3, 2, 4, stride=4, bias=False), torch.nn.Linear(2, 2, bias=False)
    convolution.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1]])[:, :, None, None].expand(-1, -1, 4, 4) / 16
    head.weight.data = torch.tensor([[1.0, -1], [-1, 1]])
    pooled = torch.nn.Sequential(convolution, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)
    net, images = ByClassToken(convolution, head) if by_token else pooled, torch.zeros(1, 3, 8, 8)
    images[0, 0, :4, :4], images[0, 0, :4, 4:], images[0, 2, 4:, 4:] = 2, 1, 3
    maps = [model.grad_cam(net, images, lambda logits, index=index: logits[:, index]) for index in (0, 1)]
    np.testing.assert_allclose(maps, [[[[1, 0.5], [0, 0]]], [[[0, 0], [0, 1]]]], atol=1e-6)
    assert maps[0].dtype == np.float32 and not model.grad_cam(net, 0 * images, lambda logits: logits[:, 0]).any()


@pytest.mark.parametrize(("name", "grid"), [
    ("test_efficientnet", (4, 3)), ("pit_ti_distilled_224", (4, 3)), ("swin_tiny_patch4_window7_224", (4, 3)),
    ("deit_tiny_distilled_patch16_224", (4, 3)), ("mobilenetv3_small_050", (4, 3)),
])  # fmt: skip
def test_grad_cam_finds_the_grid_and_leaves_the_model_as_it_was(name, grid):
    torch.manual_seed(0)
    size = (64, 48) if grid == (2, 2) or "16" in name else (128, 96)
    net = model.create(name, "mask", size, try_size=False).requires_grad_(False)
    found = model.grad_cam(net, torch.randn(4, 3, *size), model.predicted_score("mask", np.array([0, 1, 2, 0])))
    assert found.shape == (4, *grid) and set(found.max((1, 2)).tolist()) <= {0.0, 1.0} and found.any() and found.min() == 0
    assert net.training and not any(module._forward_hooks for module in net.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in net.parameters())


def test_the_score_of_a_prediction_is_its_logit_and_of_several_classes_that_of_their_sum():
    """Mask 2 to 1 to 1, all else 1: the product of the heads; 12, 30 and 1 years of the groups; 9 classes of a gender."""
    logits = torch.tensor([[math.log(2)] + 7 * [0.0]]).expand(3, -1)
    found = [model.predicted_score("multi", np.array([0, 6, 17]))(logits).exp(),
             model.predicted_score("age", np.array([0, 1, 2]))(torch.zeros(3, 43)).exp(),
             model.predicted_score("multi", np.array([0, 1, 2]), "mask")(logits).exp(),
             model.predicted_score("label", np.array([0, 1, 1]), "gender")(torch.zeros(3, 18)).exp()]  # fmt: skip
    np.testing.assert_allclose(torch.stack(found), [[2, 1, 1], [12, 30, 1], [2, 1, 1], [9, 9, 9]], rtol=1e-5)
