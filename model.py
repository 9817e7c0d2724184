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
import images
from augment import TTAS
from dataset import COMPONENTS, FIRST_AGE, HEADS, LAST_AUX_AGE, decode, head_slices, num_outputs, to_age_group
from errors import InputError, did_you_mean, first_line, log

AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
CONNECT_SECONDS = 10  # until somebody answers where weights are fetched from
ANEW = "not weights written by train.py, or changed since: copy it again, or delete its folder and --resume the run"
# Under which of its names a checkpoint holds its tensors, the best first.
CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model_state", "model", "net")
SHORTEST = 3  # places of a side of the grid that a Grad-CAM is taken from, if there is one
LOOKS = 16  # images whose Grad-CAMs are computed together
MAX_SIDE = 4096  # of a model's images, for files of others: a model made for more would fill the memory


def layout(net):
    """The torch memory format of a model's kernels, which its images should have too."""
    strided = [p for p in net.parameters() if p.ndim == 4 and not p.is_contiguous()]
    channels_last = any(p.is_contiguous(memory_format=torch.channels_last) for p in strided)
    return torch.channels_last if channels_last else torch.contiguous_format


def current_name(name, tell=False):
    """timm's current name of a model, with its pretrained tag; `tell`: log a change. InputError with suggestions."""
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
    if tell and name != old:
        log(f"--model {old}: an old name; timm calls it {name} now")
    return name


def native_size(name):
    """[height, width] that the model was made for."""
    return list(timm.get_pretrained_cfg(name).input_size[1:])


def create(name, target, img_size, pretrained=False, weights=None, try_size=True, dropout=None, drop_path=None, aux_age=0.0):
    """A timm model for float images [B, 3, H, W] that returns logits [B, num_outputs(target)], then [B, 63] of single ages
    where there is an `aux_age`; its head is random.

    `weights`: a local backbone file. `dropout` (Srivastava et al., 2014) and `drop_path` (stochastic depth; Huang et al., 2016)
    are probabilities; None: the model's own. InputError for all that is unknown or does not fit; `try_size` runs a forward."""
    name = current_name(name)
    config = timm.get_pretrained_cfg(name)
    outputs = num_outputs(target) + (LAST_AUX_AGE + 1 - FIRST_AGE if aux_age else 0)
    options = {"num_classes": outputs, "drop_rate": dropout, "drop_path_rate": drop_path}
    if config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != tuple(img_size):
        options["img_size"] = tuple(img_size)
    height, width = img_size
    try:
        model = timm.create_model(name, pretrained=False, **options)
        if try_size and hasattr(model, "get_classifier"):
            with torch.inference_mode():
                model.eval()(torch.zeros(1, 3, height, width))
    except (TypeError, ValueError, RuntimeError, AssertionError, IndexError, ZeroDivisionError) as error:
        for option, key in (("dropout", "drop_rate"), ("drop-path", "drop_path_rate")):
            if isinstance(error, TypeError) and f"'{key}'" in str(error):
                raise InputError(f"--{option} {options[key]:g}: {name} has no such thing; leave it out") from error
        native = f" it was made for {config.input_size[1]} x {config.input_size[2]}" if config else ""
        raise InputError(f"--img-size {height} {width}: {name} can't take images of that size ({error});{native}") from error
    if not hasattr(model, "get_classifier"):
        raise InputError(f"--model {name}: has no classifier to train; take one that tells classes")
    if weights is not None:
        load_backbone(model, weights)
    elif pretrained:
        model = _pretrained(name, options)
    return model.train()


def _pretrained(name, options):
    """The model with timm's weights, from the local cache of the hub where they are, else fetched."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries would bury our one line
    config, overlay = timm.get_pretrained_cfg(name), None
    place = config.url
    if config.hf_hub_id:
        repo, _, revision = config.hf_hub_id.partition("@")
        place, file = f"{huggingface_hub.constants.ENDPOINT}/{repo}", config.hf_hub_filename or "model.safetensors"
        cached = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision or None)
        overlay = {"file": cached} if isinstance(cached, str) else None
    try:
        if place and not overlay:
            log(f"pretrained weights of {name}: fetching them from {place}")
            socket.setdefaulttimeout(CONNECT_SECONDS)  # torch's own downloads have no other bound
            _reach(place)
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except Exception as error:  # hub, proxy, disk and format errors have no common base; each one ends the run
        remedy = "pass --weights FILE (a timm state dict, .safetensors or .pth) or --no-pretrained to train from scratch"
        said = f"({type(error).__name__}: {first_line(error)})"
        raise InputError(f"pretrained weights of {name} can't be loaded {said}; {remedy}") from error
    finally:
        socket.setdefaulttimeout(None)


def _reach(url):
    """OSError where nobody answers, for which the hub's own client would wait a minute or more by its retries."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_SECONDS).close()
    except urllib.error.URLError as error:
        if not isinstance(error, urllib.error.HTTPError) and not isinstance(error.reason, ssl.SSLError):  # are answers
            raise OSError(f"{url}: {error.reason}") from error


def build_model(args, fold, device, try_size=False, empty=False):
    """A new model for a fold, its initial weights a function of (seed, fold); `empty`: others will take their place."""
    torch.manual_seed(files.draw_seed("init", args.seed, fold))
    pretrained, weights = (False, None) if empty else (args.pretrained, args.weights)
    options = {name: getattr(args, name) for name in ("dropout", "drop_path", "aux_age")}
    net = create(args.model, args.target, args.img_size, pretrained, weights, try_size, **options)
    try:
        net.set_grad_checkpointing(args.grad_checkpointing)
    except AssertionError as error:
        raise InputError(f"--grad-checkpointing: timm has none for {args.model}; leave it out, or try --accum 2") from error
    return net.to(device, memory_format=FORMATS.get(args.memory_format))


def head_parameters(model):
    """The parameters of a timm model's classifier (of both, where it has a distilled one too)."""
    heads = model.get_classifier()
    return [parameter for head in (heads if isinstance(heads, tuple) else (heads,)) for parameter in head.parameters()]


def mean_std(model):
    """((r, g, b), (r, g, b)): mean and standard deviation, in 0..1, of the inputs the model was made for."""
    config = timm.data.resolve_model_data_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def read_state_dict(path):
    """The model's tensors in a safetensors file or one of torch.save (weights_only=True: nothing in it can run code)."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--weights {path}: {'is a folder; name the file in it' if path.is_dir() else 'no such file'}")
    try:
        with open(path, "rb") as file:  # opened, as torch.load goes by a path's suffix
            is_safetensors, _start = file.read(9)[8:] == b"{", file.seek(0)
            state = safetensors.torch.load(file.read()) if is_safetensors else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # unpickling a damaged or hostile file can raise anything; nothing of it is used
        if match := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(_tensors_alone(path, match[1])) from error
        said = first_line(str(error).rpartition("WeightsUnpickler error:")[2])
        damage = InputError(f"--weights {path}: not a readable weights file ({type(error).__name__}: {said})")
        raise errors.unreadable(f"--weights {path}", error) or damage from error
    while isinstance(state, dict) and (inner := [state[key] for key in CONTAINERS if isinstance(state.get(key), dict)]):
        state = inner[0]
    items = state.items() if isinstance(state, dict) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise InputError(f"--weights {path}: holds no state dict (names to tensors)")
    return {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}  # torch.compile's, at any depth


def _tensors_alone(path, kind):
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


def load_backbone(model, path):
    """Load a backbone file into `model`, all but the head. InputError names a tensor that doesn't fit."""
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(heads)}
    state = _without_prefix(read_state_dict(path), own, path)
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:  # timm's own: old names, position embeddings resampled to another image size
        try:
            state = adapt(state, model)
        except Exception as error:  # it takes a file of its model for granted
            raise InputError(f"--weights {path}: not a backbone of this --model ({type(error).__name__}: {error})") from error
    state = {name: value for name, value in state.items() if not name.startswith(heads)}
    fault = ", so it is not a backbone of this --model and --img-size"
    problems = (
        ("lacks", own.keys() - state.keys() - {name for name in own if name.endswith("num_batches_tracked")}, fault),
        ("has the unknown", {name for name in state.keys() - own.keys() if state[name].dim()}, fault),  # an epoch has no dim
        ("has another shape for", {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}, fault),
        ("NaN or infinite numbers in", {n for n, v in state.items() if not v.isfinite().all()}, "; take another checkpoint"),
    )
    for problem, names, remedy in problems:
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"--weights {path}: {problem} {min(names)}{more}{remedy}")
    model.load_state_dict(state, strict=False)


def _without_prefix(state, own, path):
    """The tensors of `state` under the one prefix ("module.", "model.backbone.") with most of the names `own`. Where names are
    others, as older ones, only the prefix that all have in common goes."""
    prefixes = Counter()
    for name in state:
        prefixes.update(name[:at] for at in [0, *(dot.end() for dot in re.finditer(r"\.", name))] if name[at:] in own)
    (prefix, most), *others = prefixes.most_common() or [("", 0)]
    if 2 * most > len(own):
        if others and others[0][1] == most:
            both = f"under {prefix!r} and {others[0][0]!r}"
            raise InputError(f"--weights {path}: holds the backbone twice, {both}; keep one of them")
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    tops = {name.partition(".")[0] for name in own}
    while len(first := {name.partition(".")[0] for name in state}) == 1 and not first & tops:
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def weights(model):
    """A copy of a model's weights: names to contiguous tensors on the CPU."""
    as_own = {"device": "cpu", "memory_format": torch.contiguous_format, "copy": True}
    return {name: value.detach().to(**as_own) for name, value in model.state_dict().items()}


def save_weights(state, metadata, path):
    """Write the `weights` of a model as a safetensors file; its `metadata` (JSON-able dict) let `load` rebuild the model."""
    header = {"experiment": json.dumps(metadata), "sha256": tensors_digest(state)}
    files.write_bytes(path, safetensors.torch.save(state, header))  # save_file would leave a part when it is killed


def tensors_digest(state):
    """The sha256 of tensors: a dict of names to contiguous ones on the CPU, in any order."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _header(path):
    """The metadata in the header of a safetensors file, a dict of texts; InputError where there is none."""
    with errors.reading(path, ANEW), open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return dict(json.loads(file.read(min(size, os.fstat(file.fileno()).st_size)))["__metadata__"])


def is_trained(path):
    """True for a file of weights that `save_weights` wrote."""
    try:
        return "experiment" in _header(path)
    except errors.Unreadable:
        raise
    except InputError:
        return False


def read_metadata(path):
    """The metadata of a file of `save_weights`; InputError where they are damaged, or name a model that is not timm's own."""
    with errors.reading(path, ANEW):
        metadata = json.loads(_header(path)["experiment"])
        size, crop, colours = metadata["img_size"], metadata.get("crop") or [], [*metadata["mean"], *metadata["std"]]
        fine = {
            "model": timm.is_model(str(metadata["model"])),
            "target": metadata["target"] in HEADS,
            "img_size": len(size) == 2 and all(type(side) is int and 0 < side <= MAX_SIDE for side in (*size, *crop)),
            "mean": len(colours) == 6 and all(0 <= value <= 1 for value in colours) and min(metadata["std"]) > 0,
        }
        for name in [name for name in fine if not fine[name]]:
            raise ValueError(f"its {name} is {metadata[name]!r:.100}")
        return metadata


def geometry(path):
    """The images.Geometry that a file of `save_weights` was trained on."""
    metadata = read_metadata(path)
    return images.Geometry.of(metadata["img_size"], metadata["crop"], metadata.get("face_crop"))


def _kind(metadata):
    """The arguments of `create` for a model of the same shape; runs of older versions have no --aux-age."""
    kind = {"name": metadata["model"], "target": metadata["target"], "img_size": metadata["img_size"]}
    return kind | {"aux_age": metadata["options"].get("aux_age", 0.0)}


def load(path, like=None):
    """(model in eval mode, metadata) from a file of `save_weights`. like: the (model, metadata) of another fold: a model of the
    same kind is copied, as to build one takes seconds."""
    metadata = read_metadata(path)
    with errors.reading(path, ANEW):
        state = safetensors.torch.load(Path(path).read_bytes())
        digest = tensors_digest(state)
        if _header(path).get("sha256", digest) != digest:  # safetensors does not look
            raise ValueError("its weights are not those of its sha256")
    with errors.reading(path, f"its weights don't fit {metadata['model']}"):
        kind = _kind(metadata)
        model = copy.deepcopy(like[0]) if like and _kind(like[1]) == kind else create(**kind, try_size=False)
        model.load_state_dict(state)
    return model.eval(), metadata


def predict(model, batches, mean, std, amp_dtype=None, tta="none"):
    """Logits float32 [N, num_outputs] of uint8 image batches [B, H, W, 3], in eval mode; the mean over the views of `tta`."""
    return predict_together([(model, mean, std)], batches, amp_dtype, tta)[0]


@torch.inference_mode()
def predict_together(models, batches, amp_dtype=None, tta="none"):
    """`predict` for several models, a list of (model, mean, std), with the same bits; each batch is normalised once."""
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
        for outputs, total in zip(logits, sums):
            outputs.append(total / len(TTAS[tta]))
    for (net, _mean, _std), was in zip(models, training):
        net.train(was)
    return [torch.cat(outputs).cpu().numpy() if outputs else np.zeros((0, 0), dtype=np.float32) for outputs in logits]


def predicted_score(target, pred, component=None):
    """The `scores` for `grad_cam` of classes `pred` int [B] of what `target` is scored on, or of one component of it: logits ->
    those of the classes [B], as in the paper, for multi the sum over its heads. Of several classes, such as the years of an age
    group, the log of the sum of their exponentials, as if they were one."""
    heads = head_slices(target)
    classes = dict(zip(heads, decode(pred) if target == "multi" else (pred,)))
    if target == "multi" and component:
        classes = {component: pred}

    def scores(logits):
        total = 0
        for head, wanted in classes.items():
            outputs = np.arange(heads[head].stop - heads[head].start)
            if head == "age":
                outputs = to_age_group(outputs + FIRST_AGE)
            elif head == "label" and component:
                outputs = decode(outputs)[COMPONENTS.index(component)]
            others = torch.from_numpy(outputs != np.asarray(wanted)[:, None]).to(logits.device)
            total = total + logits[:, heads[head]].masked_fill(others, -torch.inf).logsumexp(1)
        return total

    return scores


def grad_cam(model, images, scores):
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), a numpy array float32 [B, h, w] in 0..1: where normalised images
    [B, 3, H, W] speak for `scores(logits)` [B]; a map's maximum is 1, or it is all 0. The layer is the last one with a grid
    whose places reach the score, if possible of SHORTEST places a side and with the classifier's number of channels: after the
    last block of a CNN; where a transformer goes by its class token, the input of the last attention."""
    outputs, was = [], model.training
    hooks = [module.register_forward_hook(lambda *call: outputs.append(call[-1])) for module in model.modules()]
    try:
        with torch.enable_grad():
            score = scores(model.eval()(images.detach().clone().requires_grad_()).float()).sum()
        maps = [(output, grid) for output in outputs if (grid := _to_grid(model, output, images.shape)) is not None]
        wanted = getattr(model, "num_features", None)
        maps.sort(key=lambda pair: (min(pair[1].shape[2:]) >= SHORTEST, pair[1].shape[1] == wanted))
        for output, grid in reversed(maps):
            (slope,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
            slope = None if slope is None else _to_grid(model, slope, images.shape)
            if slope is not None and slope.any():
                cam = (grid * slope.mean((2, 3), keepdim=True)).sum(1).relu().float()
                return (cam / cam.amax((1, 2), keepdim=True).clamp_min(1e-30)).detach().cpu().numpy()
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was)
    return np.zeros((len(images), 1, 1), dtype=np.float32)  # nothing in the image reaches the score


def _to_grid(model, output, shape):
    """A layer's output as a map [B, C, h, w] of images [B, 3, H, W], of NCHW, NHWC or tokens [B, N, C] without the class token;
    None where it is none, or has one place alone."""
    if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4) or len(output) != shape[0]:
        return None

    def skew(size):
        return abs(math.log(size[0] * shape[3] / (size[1] * shape[2])))

    if output.ndim == 3:
        firsts, N = (model.num_prefix_tokens,) if hasattr(model, "num_prefix_tokens") else (0, 1, 2), output.shape[1]
        sizes = [(h, (N - first) // h, first) for first in firsts for h in range(1, N - first + 1) if (N - first) % h == 0]
        h, w, first = min(sizes, key=skew, default=(1, 1, N - 1))
        output = output[:, first:].unflatten(1, (h, w)).permute(0, 3, 1, 2)
    elif skew(output.shape[1:3]) < skew(output.shape[2:]):
        output = output.permute(0, 3, 1, 2)
    return output if math.prod(output.shape[2:]) > 1 else None


def look(weights, paths, classes, device, component=None, like=None):
    """([(Grad-CAM float32 [h, w], its rectangle in the upright image)] of image files, the `load` of a file of weights): where
    it looks for `classes` int [N] of what it is scored on, or of a component of it. like: as in `load`."""
    loaded, looks = load(weights, like), []
    (net, metadata), view = loaded, geometry(weights)
    faces = [] if view.face_margin is None else images.find_faces(paths, quiet=True).tolist()
    faces = [None if np.isnan(face[0]) else face for face in faces] or [None] * len(paths)
    for start in range(0, len(paths), LOOKS):
        some = list(zip(paths, faces))[start : start + LOOKS]
        pixels = torch.from_numpy(np.stack([images.decode(path, view, face) for path, face in some])).to(device)
        batch = augment.normalise(pixels, metadata["mean"], metadata["std"])
        score = predicted_score(metadata["target"], classes[start : start + LOOKS], component)
        boxes = [view.box(*images.upright_size(path), face) for path, face in some]
        looks += zip(grad_cam(net.to(device), batch, score), boxes)
    return looks, loaded
