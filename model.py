"""Backbone and heads: any timm model with one linear layer over all heads' classes, its weights in and out, `predict`."""

import copy
import hashlib
import json
import logging
import math
import os
import re
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import huggingface_hub
import numpy as np
import safetensors.torch
import timm
import torch

import augment
import errors
import files
from augment import TTAS
from dataset import HEADS, num_outputs
from errors import InputError, did_you_mean, first_line, say

# ---- precision --------------------------------------------------------------------------------------------------------

AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def resolve_amp(mode, device):
    """'off', 'bf16' or 'fp16' of `--amp` without a measurement; auto: bf16 or fp16 as the GPU has it, off on a CPU."""
    if mode != "auto":
        return mode
    if device.type != "cuda":
        return "off"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def cpu_has_bf16():
    """Whether this processor multiplies bfloat16 itself; others emulate it, ten times slower than float32."""
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def usual_format(net):
    """'channels_last' where most parameters are convolution kernels (CNNs, not ViTs), else 'contiguous'."""
    kernels = sum(p.numel() for p in net.parameters() if p.ndim == 4)
    return "channels_last" if kernels > 0.5 * sum(p.numel() for p in net.parameters()) else "contiguous"


def layout(net):
    """The torch memory format in which a model's kernels lie, and in which its images should."""
    strided = [p for p in net.parameters() if p.ndim == 4 and not p.is_contiguous()]
    channels_last = any(p.is_contiguous(memory_format=torch.channels_last) for p in strided)
    return torch.channels_last if channels_last else torch.contiguous_format


ANEW = "copy it again, or delete its folder, and train.py --resume trains that fold anew"
CONNECT_SECONDS = 10  # until somebody answers where weights are fetched from
# Under which of its names a checkpoint holds its tensors, the best first.
CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model_state", "model", "net")
MAX_SIDE = 4096  # of a model's images, for files of others: a model made for more would fill the memory


def current_name(name):
    """timm's name of a model: `name`, or of a deprecated one what timm calls it now; a pretrained tag after a dot is allowed.

    InputError with suggestions where there is no such model.
    """
    old, name = name, timm.models.get_deprecated_models().get(name, name)
    if name is None or not timm.is_model(name):
        raise InputError(f"--model {old}: timm {timm.__version__} has no such model.{did_you_mean(old, timm.list_models())}")
    base, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_models(f"{base}.*", pretrained=True)]
    if tag and tag not in tags and old != name:  # timm's own list has some that it has renamed since
        tag = next((known for known in tags if known.startswith(tag)), "")
        name = f"{base}.{tag}".rstrip(".")
    if tag and tag not in tags:
        raise InputError(f"--model {old}: {base} has no weights {tag!r}, but {', '.join(tags) or 'none at all'}")
    return name


def told_name(name):
    """`current_name`, told on stderr where it is another one."""
    current = current_name(name)
    if current != name:
        say(f"--model {name}: an old name; timm calls it {current} now")
    return current


def native_size(name):
    """[height, width] that the model was made for."""
    return list(timm.get_pretrained_cfg(name).input_size[1:])


def create(name, target, img_size, pretrained=False, weights=None, try_size=True, dropout=None, drop_path=None):
    """A timm model for float images [B, 3, H, W] that returns logits [B, num_outputs(target)].

    `weights`: a local backbone file (timm-style state dict; its own head is dropped). `pretrained`: timm's weights, by its
    hub or its local cache. InputError when the name is unknown, the weights can't be had or don't fit, or the model can't
    take images of `img_size` (height, width); a forward finds that out, unless `try_size` is False because the model was
    trained at that size. The head is initialised from torch's global random state. `dropout` (of what the head sees; Srivastava
    et al., 2014) and `drop_path` (of whole blocks, the later the likelier; Huang et al., 2016) are probabilities in training;
    None: the model's own, as a rule 0. InputError where it has no such thing.
    """
    name = current_name(name)
    outputs = num_outputs(target)
    config = timm.get_pretrained_cfg(name)
    options = {"num_classes": outputs, "drop_rate": dropout, "drop_path_rate": drop_path}
    if config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != tuple(img_size):
        options["img_size"] = tuple(img_size)
    height, width = img_size
    try:
        model = timm.create_model(name, pretrained=False, **options)
        if not hasattr(model, "get_classifier"):
            raise InputError(f"--model {name}: has no classifier to train; take one that tells classes")
        if try_size:
            _try(model, height, width)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, AssertionError, IndexError, ZeroDivisionError) as error:
        for option, key in (("dropout", "drop_rate"), ("drop-path", "drop_path_rate")):
            if isinstance(error, TypeError) and f"'{key}'" in str(error):
                raise InputError(f"--{option} {options[key]:g}: {name} has no such thing; leave it out") from error
        native = f" it was made for {config.input_size[1]} x {config.input_size[2]}" if config else ""
        raise InputError(f"--img-size {height} {width}: {name} can't take images of that size ({error});{native}") from error
    if weights is not None:
        load_backbone(model, weights)
    elif pretrained:
        model = _pretrained(name, options)
    return model.train()


def _try(model, height, width):
    """One image through a model."""
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, height, width))


def _pretrained(name, options):
    """The model with timm's weights: from the local cache of the hub where they are, else fetched, which is told."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries would bury our one line
    config, waited = timm.get_pretrained_cfg(name), socket.getdefaulttimeout()
    overlay, place = None, config.url
    if config.hf_hub_id:
        repo, _, revision = config.hf_hub_id.partition("@")
        place = f"{huggingface_hub.constants.ENDPOINT}/{repo}"
        file = huggingface_hub.try_to_load_from_cache(
            repo, config.hf_hub_filename or "model.safetensors", revision=revision or None
        )
        overlay = {"file": file} if isinstance(file, str) else None
    try:
        socket.setdefaulttimeout(CONNECT_SECONDS)  # torch's own downloads have no other bound
        if place and not overlay:
            say(f"pretrained weights of {name}: fetching them from {place}")
            _reach(place)
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except Exception as error:  # hub, proxy, disk and format errors have no common base; each one ends the run
        raise InputError(
            f"pretrained weights of {name} can't be had ({type(error).__name__}: {first_line(error)}); pass --weights FILE "
            f"(a timm state dict, .safetensors or .pth) or --no-pretrained to train from scratch"
        ) from error
    finally:
        socket.setdefaulttimeout(waited)


def _reach(url):
    """An OSError where nobody answers there, for which the hub's own client would wait a minute or more by its retries."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # an answer; what it means is the client's to say
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # the client has certificates of its own
            raise OSError(f"{url}: {error.reason}") from error


def read_state_dict(path):
    """Tensors of a safetensors file or of one of torch.save read with weights_only=True: nothing in the file can run code.

    Of a training's checkpoint those of the model, without what stands beside them.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--weights {path}: {'is a folder; name the file in it' if path.is_dir() else 'no such file'}")
    try:
        with open(path, "rb") as file:  # opened, as torch.load goes by a path's suffix
            begin, _start = file.read(9), file.seek(0)
            if begin[8:] == b"{" or (path.suffix == ".safetensors" and begin[:2] != b"PK"):
                state = safetensors.torch.load(file.read())  # a format without code
            else:
                state = torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # unpickling a damaged or hostile file can raise anything; nothing of it is used
        if passing := errors.unreadable(f"--weights {path}", error):
            raise passing from error
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(_tensors_alone(path, found[1])) from error
        said = first_line(str(error).rpartition("WeightsUnpickler error:")[2])
        raise InputError(f"--weights {path}: not a readable weights file ({type(error).__name__}: {said})") from error
    while isinstance(state, dict) and (inner := [state[key] for key in CONTAINERS if isinstance(state.get(key), dict)]):
        state = inner[0]
    items = state.items() if isinstance(state, dict) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise InputError(f"--weights {path}: holds no state dict (names to tensors)")
    return {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}  # torch.compile's, at any depth


def _tensors_alone(path, kind):
    """What to say of a file that holds an object of this kind."""
    take = (
        f"import torch; c = torch.load({str(path)!r}, 'cpu', weights_only=False); "
        f"c = next((c[k] for k in {CONTAINERS} if c.get(k)), c) if isinstance(c, dict) else c; "
        "c = c.state_dict() if hasattr(c, 'state_dict') else c; "
        f"torch.save({{k: v for k, v in c.items() if torch.is_tensor(v)}}, {str(path.with_suffix('.tensors.pth'))!r})"
    )
    return (
        f"--weights {path}: holds an object ({kind}) beside tensors, and to load one can run code; where you trust the file, "
        f'save its tensors alone: python -c "{take}"'
    )


def _head_names(model):
    """Prefixes of the parameters that belong to the classifier."""
    heads = model.pretrained_cfg.get("classifier") or ()
    return tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))


def head_parameters(model):
    """The parameters of a timm model's classifier (of both, where it has a distilled one too)."""
    heads = model.get_classifier()
    return [parameter for head in (heads if isinstance(heads, tuple) else (heads,)) for parameter in head.parameters()]


def load_backbone(model, path):
    """Load a backbone file into `model`, all but the head. InputError names the first tensors that don't fit."""
    state = read_state_dict(path)
    heads = _head_names(model)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(heads)}
    state = _without_prefix(state, own, path)
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:  # timm's own: old names, position embeddings resampled to another image size
        try:
            state = adapt(state, model)
        except Exception as error:  # it takes a file of its model for granted
            raise InputError(f"--weights {path}: not a backbone of this --model ({type(error).__name__}: {error})") from error
    state = {name: value for name, value in state.items() if not name.startswith(heads)}
    missing = sorted(name for name in own.keys() - state.keys() if not name.endswith("num_batches_tracked"))
    unexpected = sorted(name for name in state.keys() - own.keys() if state[name].dim())  # a number, as of the epoch, is none
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    for problem, names in (("lacks", missing), ("has the unknown", unexpected), ("has another shape for", sorted(shapes))):
        if names:
            raise InputError(
                f"--weights {path}: {problem} {names[0]}{_more(names)}, so it is not a backbone of this --model and --img-size"
            )
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise InputError(f"--weights {path}: NaN or infinite numbers in {broken[0]}{_more(broken)}; take another checkpoint")
    model.load_state_dict(state, strict=False)


def _more(names):
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _without_prefix(state, own, path):
    """The tensors of `state` that stand under the one prefix with most of the names `own`, as "module." or "model.backbone.".

    InputError where there are two such. Where names are others, as older ones, only what all have in common goes.
    """
    found = Counter()
    for name in state:
        found.update(name[:at] for at in [0, *(dot.end() for dot in re.finditer(r"\.", name))] if name[at:] in own)
    most = max(found.values(), default=0)
    if 2 * most > len(own):
        prefix, *others = (prefix for prefix in found if found[prefix] == most)
        if others:
            raise InputError(
                f"--weights {path}: holds the backbone twice, under {prefix!r} and {others[0]!r}; keep one of them"
            )
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    while len(first := {name.partition(".")[0] for name in state}) == 1 and not any(
        name.split(".")[0] in first for name in own
    ):
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def mean_std(model):
    """((r, g, b), (r, g, b)): the mean and standard deviation, in 0..1, of the inputs the model was made for."""
    config = timm.data.resolve_model_data_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def weights(model):
    """A copy of a model's weights as they are now: names to contiguous tensors on the CPU."""
    own = {"device": "cpu", "memory_format": torch.contiguous_format, "copy": True}
    return {name: value.detach().to(**own) for name, value in model.state_dict().items()}


def save_weights(state, facts, path):
    """Write a safetensors file of the `weights` of a model whose metadata `facts` (JSON-able dict) rebuild it with `load`.

    Whole or not at all. safetensors' `save_file` would leave a part when it is killed, and a file for its owner's eyes only.
    """
    metadata = {"experiment": json.dumps(facts), "sha256": tensors_digest(state)}
    files.write_bytes(path, safetensors.torch.save(state, metadata))


def tensors_digest(state):
    """The sha256 of tensors: a dict of names to contiguous ones on the CPU, in whatever order."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_bits(path, state):
    """InputError unless tensors read from a file of `save_weights` are those that were written; safetensors does not look."""
    written = _metadata(path).get("sha256")
    if written not in (None, tensors_digest(state)):  # None: of a version that wrote no digest
        raise InputError(f"{path}: damaged since it was written (its weights are not those of its sha256); copy it again")


def is_trained(path):
    """Whether a file of weights is one of `save_weights`, that is, from train.py; False for what is none at all, too."""
    try:
        return "experiment" in _metadata(path)
    except (ValueError, TypeError, LookupError, RecursionError, OSError) as error:
        if passing := errors.unreadable(path, error):
            raise passing from error
        return False


def _metadata(path):
    """The metadata of a safetensors file: a dict of texts; an error of many kinds where it is none.

    safetensors itself takes a system that can't read now for a file that is damaged.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > os.fstat(file.fileno()).st_size:
            raise ValueError("its header is cut short")
        return json.loads(file.read(size))["__metadata__"]


def read_facts(path):
    """The `facts` that `save_weights` put into a file: model, target, img_size, crop, mean, std, age_bounds, ...

    InputError where they are not what a prediction can go by; a model that is not timm's own (of a hub or a folder) is none.
    """
    try:
        facts = json.loads(_metadata(path)["experiment"])
    except (ValueError, TypeError, LookupError, RecursionError, OSError) as error:
        raise _not_ours(path, error) from error
    facts = facts if isinstance(facts, dict) else {}
    name, options, crop, margin = (facts.get(key) for key in ("model", "options", "crop", "face_crop"))
    fine = {
        "model": isinstance(name, str) and timm.is_model(name),
        "target": facts.get("target") in list(HEADS),
        "img_size": _are_numbers(facts.get("img_size"), 2, int, 1, MAX_SIDE),
        "crop": crop is None or _are_numbers(crop, 2, int, 1, math.inf),
        "face_crop": margin is None or _are_numbers([margin], 1, (int, float), 0, math.inf),
        "mean": _are_numbers(facts.get("mean"), 3, (int, float), 0, 1),
        "std": _are_numbers(facts.get("std"), 3, (int, float), 1e-3, 1),
        "options": isinstance(options, dict) and options.get("memory_format") in list(FORMATS),
    }
    for key, good in fine.items():
        if not good:
            found = f"its {key} is {facts.get(key)!r:.100}"
            raise InputError(f"{path}: damaged, or not weights written by train.py ({found}); {ANEW}")
    return facts


def _not_ours(path, error):
    """The InputError of a file that is none of `save_weights`, as an error over it tells; Unreadable where that may pass."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file")
    return errors.unreadable(path, error) or InputError(f"{path}: not weights written by train.py ({error}); {ANEW}")


def _are_numbers(value, count, kinds, low, high):
    """Whether `value` is a list of so many numbers of these kinds from `low` to `high`."""
    numbers = value if isinstance(value, list) else []
    return len(numbers) == count and all(isinstance(n, kinds) and low <= n <= high and n is not True for n in numbers)


def load(path, like=None):
    """(model in eval mode, facts) from a file of `save_weights`; nothing needs to be typed again.

    like: None or the (model, facts) of another such file, as of another fold: where it is of the same kind its model is copied,
    which takes a third of the time that building one does.
    """
    try:
        state = safetensors.torch.load(Path(path).read_bytes())
    except Exception as error:  # a damaged file fails in as many ways as it has parts
        if errors.is_out_of_memory(error):
            raise
        raise _not_ours(path, error) from error
    facts = read_facts(path)
    try:
        if like is not None and all(like[1][name] == facts[name] for name in ("model", "target", "img_size")):
            model = copy.deepcopy(like[0])
        else:
            model = create(facts["model"], facts["target"], facts["img_size"], try_size=False)
        model.load_state_dict(state)
    except Exception as error:
        if errors.is_out_of_memory(error):
            raise
        raise InputError(f"{path}: weights don't fit {facts['model']} ({first_line(error)})") from error
    other = [name for name, value in model.state_dict().items() if value.is_floating_point() != state[name].is_floating_point()]
    if other:
        raise InputError(f"{path}: weights don't fit {facts['model']} ({other[0]} is {state[other[0]].dtype})")
    check_bits(path, state)
    return model.eval(), facts


def predict(model, batches, mean, std, amp_dtype=None, tta="none"):
    """Logits float32 [N, num_outputs] of uint8 image batches [B, H, W, 3]; the mean over the views of `tta`.

    Serves validation, eval and TTA alike. The model is put in eval mode for the time and back as it was.
    """
    return predict_together([(model, mean, std)], batches, amp_dtype, tta)[0]


@torch.inference_mode()
def predict_together(models, batches, amp_dtype=None, tta="none"):
    """`predict` for several models, a list of (model, mean, std): a list of their logits.

    Each batch is read and normalised once for all models, and so is each of its views made; the logits are the same bits as
    of each alone.
    """
    training = [net.training for net, _mean, _std in models]
    kinds = [(tuple(mean), tuple(std), layout(net.eval())) for net, mean, std in models]
    constants = {kind: (mean, std) for kind, (_net, mean, std) in zip(kinds, models)}
    logits = [[] for _ in models]
    for batch in batches:
        images = {kind: augment.normalise(batch, *constants[kind]).contiguous(memory_format=kind[2]) for kind in constants}
        sums = [0.0] * len(models)
        for view in TTAS[tta]:
            seen = {kind: augment.view(normalised, *view) for kind, normalised in images.items()}
            with torch.autocast(batch.device.type, amp_dtype, enabled=amp_dtype is not None):
                sums = [total + net(seen[kind]).float() for total, (net, *_), kind in zip(sums, models, kinds)]
        for mine, total in zip(logits, sums):
            mine.append(total / len(TTAS[tta]))
    for (net, _mean, _std), was in zip(models, training):
        net.train(was)
    return [torch.cat(mine).cpu().numpy() if mine else np.zeros((0, 0), dtype=np.float32) for mine in logits]


def build_model(args, fold, device, try_size=False, empty=False):
    """A new model for a fold: its initial weights are a function of (seed, fold). Memory format auto: as timm makes it.

    empty: other weights will take their place, so pretrained ones are not looked for.
    """
    torch.manual_seed(files.draw_seed("init", args.seed, fold))
    pretrained, weights = (False, None) if empty else (args.pretrained, args.weights)
    net = create(args.model, args.target, args.img_size, pretrained, weights, try_size, args.dropout, args.drop_path)
    return net.to(device, memory_format=FORMATS.get(args.memory_format))
