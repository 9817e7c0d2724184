"""The JSON and YAML files of runs and ensembles, which hold mappings: read without running code, and checked."""

import json
from pathlib import Path

import yaml

import errors
from errors import InputError

NUMBER = (int, float)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST = 1e300  # a number beyond it, or not a number, is no fact of a run
MAX_DEPTH = 100  # of YAML; libyaml's own loader runs off its stack some thousands deep


def read_json(path, **kinds):
    """The object in a JSON file, which holds the keys of `kinds`, each of its type or types; InputError when it does not."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise errors.unreadable(path, error) or InputError(f"{path}: not readable ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object")
    check_kinds(path, value, kinds)
    return value


def check_kinds(path, found, kinds):
    """InputError unless a mapping read from `path` holds the keys of `kinds`, {key: type or types}; bool is no int here, and
    numbers are finite."""
    for key, kind in kinds.items():
        if key not in found:
            raise InputError(f"{path}: lacks {key}; damaged, or not written by this version")
        value = found[key]
        vast = isinstance(value, NUMBER) and not abs(value) <= LARGEST
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or vast:
            raise InputError(f"{path}: {key} is {value!r:.100}; damaged, or not written by this version")


def read_yaml(path, remedy):
    """The mapping in a YAML file; InputError when it is missing, damaged, or holds none, which then names the `remedy`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        _check_shape(text)
        value = yaml.load(text, Loader=LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise errors.unreadable(path, error) or InputError(f"{path}: not readable ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no options (it is no mapping); {remedy}")
    return value


def _check_shape(text):
    """ValueError for YAML that is nested deeper than MAX_DEPTH, or that holds an alias, as a few lines of them stand for more
    than any memory holds; only what could be so is looked at."""
    deep, aliased = sum(map(text.count, ("[", "{", "- ", "? "))) >= MAX_DEPTH, "&" in text and "*" in text
    if not deep and not aliased:
        return
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {event.start_mark.line + 1} repeats another place (*{event.anchor}); write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
