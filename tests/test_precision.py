import json
from types import SimpleNamespace

import pytest
import timm
import torch

import distributed
import experiment
import model
import precision
from model import layout

CPU = torch.device("cpu")


def net(name="test_resnet"):
    return timm.create_model(name, num_classes=3).train()


def choose(cache_dir, amp="auto", memory_format="auto", model=None):
    return precision.choose(model or net(), "a_model", [32, 24], 4, CPU, cache_dir, amp, memory_format)


def test_amp_without_a_measurement_is_off_on_a_cpu():
    assert model.resolve_amp("auto", CPU) == "off"
    assert model.resolve_amp("bf16", CPU) == "bf16"


def test_the_usual_format_is_channels_last_for_cnns_alone():
    assert model.usual_format(net()) == "channels_last"
    assert model.usual_format(timm.create_model("test_vit")) == "contiguous"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("memory_format", list(model.FORMATS))
def test_layout_tells_the_format_a_model_was_put_into(name, memory_format):
    wanted = model.FORMATS[memory_format]
    assert model.layout(timm.create_model(name).to(memory_format=wanted)) == wanted


@pytest.fixture
def slow(monkeypatch):
    """A model that is slow in some candidates, by a clock of its own: slow({(amp, memory format): seconds, ...}) -> their list of calls."""
    calls, clock = [], [0.0]
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def make(seconds, capabilities=()):
        def forward(images):
            amp = "bf16" if torch.is_autocast_enabled("cpu") else "off"
            memory_format = "channels_last" if images.is_contiguous(memory_format=torch.channels_last) else "contiguous"
            calls.append((amp, memory_format))
            clock[0] += seconds.get((amp, memory_format), 0.001)
            return model.weight * images.mean()

        monkeypatch.setattr(
            precision.torch.cpu, "get_capabilities", lambda: {"cpu_name": "x", **dict.fromkeys(capabilities, True)}
        )
        model = torch.nn.Conv2d(3, 8, 3)
        model.forward = forward
        return model, calls

    return make


@pytest.mark.parametrize(("seconds", "chosen"), [
    ({("off", "channels_last"): 0.02}, ("off", "contiguous")),
    ({("off", "contiguous"): 0.02}, ("off", "channels_last")),
    ({("off", "channels_last"): 0.0200, ("off", "contiguous"): 0.0155}, ("off", "channels_last")),  # not clearly faster
])  # fmt: skip
def test_the_faster_format_is_chosen_once_and_kept(slow, tmp_path, capsys, seconds, chosen):
    model, calls = slow(seconds)
    assert choose(tmp_path, model=model) == chosen
    (file,) = tmp_path.glob("precision-*.json")
    rates = json.loads(file.read_text())["images_per_second"]
    assert rates.keys() == {"off channels_last", "off contiguous"}
    slowest = " ".join(max(seconds, key=seconds.get))
    assert rates[slowest] == pytest.approx(4 / max(seconds.values()), abs=0.01)
    done = len(calls)
    assert choose(tmp_path, model=model) == chosen and len(calls) == done
    first, second = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"amp and memory format: {' '.join(chosen)} (") for line in (first, second))
    assert first.endswith(f"; measured, {file})") and second.endswith(f"; measured before, {file})")


def test_bfloat16_is_tried_on_processors_that_have_it_alone(slow, tmp_path):
    model, calls = slow(
        {("off", "channels_last"): 0.01, ("off", "contiguous"): 0.01, ("bf16", "contiguous"): 0.01}, ["avx512_bf16"]
    )
    assert choose(tmp_path, model=model) == ("bf16", "channels_last")
    model, calls = slow({}, ["avx512_f"])
    assert choose(tmp_path / "..", model=model)[0] == "off" and not any(amp == "bf16" for amp, _format in calls[-8:])


@pytest.mark.parametrize(("rates", "chosen"), [
    ([100, 90, 122, 120], "off channels_last"),  # near ties, which another day would turn round
    ([100, 125, 140, 139], "bf16 channels_last"),
    ([100, 125, 139, 140], "bf16 channels_last"),
    ([100, 140, 150, 160], "off contiguous"),
    ([100, 140, 150, 200], "bf16 contiguous"),
    ([100, 50, 60, 135], "bf16 contiguous"),
])  # fmt: skip
def test_near_a_tie_float32_and_the_usual_format_stay(monkeypatch, tmp_path, rates, chosen):
    """What is 1.3 times as fast or more decides, format and precision each for itself: noise of a tenth changes no digits."""
    monkeypatch.setattr(model, "cpu_has_bf16", lambda: True)
    for number, noise in enumerate([(1, 1, 1, 1), (1.02, 0.98, 1, 0.99), (0.98, 1, 1.02, 1.02)]):
        noisy = [rate * factor for rate, factor in zip(rates, noise)]
        monkeypatch.setattr(
            precision, "_measure", lambda _net, candidates, *_about, r=noisy: dict(zip(map(" ".join, candidates), r))
        )
        (tmp_path / str(number)).mkdir()
        assert " ".join(choose(tmp_path / str(number))) == chosen


@pytest.mark.parametrize(("seconds", "rounds"), [(0.004, 63), (0.1, 3), (0.9, 3), (2.5, 1)])
def test_small_steps_are_measured_for_longer(slow, tmp_path, seconds, rounds):
    """Two candidates: rounds of 0.008 s until half a second has passed; three of 0.2 s or 1.8 s; after 4 s no other."""
    model, calls = slow(dict.fromkeys([("off", "channels_last"), ("off", "contiguous")], seconds))
    choose(tmp_path, model=model)
    assert len(calls) == 2 * (1 + rounds)


def test_what_is_given_is_not_measured(slow, tmp_path):
    model, calls = slow({("off", "contiguous"): 0.02})
    assert choose(tmp_path, "bf16", "contiguous", model) == ("bf16", "contiguous")
    assert choose(tmp_path, "auto", "contiguous", model) == ("off", "contiguous")
    assert not calls and not list(tmp_path.iterdir())
    assert choose(tmp_path, "off", "auto", model) == ("off", "channels_last")


def test_on_a_gpu_the_format_alone_is_measured_with_what_it_has(monkeypatch, tmp_path):
    """A stand-in for the measurement: nothing runs on a GPU here."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(distributed, "describe", lambda device: f"a card of type {device.type}")
    measured = []

    def measure(_net, candidates, _img_size, batch, device):
        measured.append((candidates, batch, device.type))
        return {"fp16 channels_last": 1.0, "fp16 contiguous": 1.4}

    monkeypatch.setattr(precision, "_measure", measure)
    gpu = torch.device("cuda")
    assert precision.choose(net(), "m", [32, 24], 64, gpu, tmp_path, "auto", "auto") == ("fp16", "contiguous")
    assert measured == [([("fp16", "channels_last"), ("fp16", "contiguous")], 32, "cuda")]
    (file,) = tmp_path.iterdir()
    assert "a card of type cuda" in file.read_text()
    assert precision.choose(net(), "m", [32, 24], 64, gpu, tmp_path, "bf16", "channels_last") == ("bf16", "channels_last")
    assert len(measured) == 1


def test_a_run_records_what_was_measured(fit, workplace, capsys):
    run = fit("--amp", "auto", "--memory-format", "auto", "--kfold", "0", "--epochs", "1", name="measured")
    args = experiment.read_args(run)
    assert args["memory_format"] in model.FORMATS and args["amp"] in ("off", "bf16")
    assert f"amp and memory format: {args['amp']} {args['memory_format']} (" in capsys.readouterr().err
    assert list((workplace / "cache").glob("precision-*.json"))


def test_a_measurement_leaves_the_model_as_it_was(tmp_path):
    """Its fold trains on with it: running statistics and format are those it came with."""
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choose(tmp_path, model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert layout(model) == torch.contiguous_format and all(p.grad is None for p in model.parameters())
