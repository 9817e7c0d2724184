"""Pseudo-labels: eval images that join the training with what earlier runs predicted for them as soft labels.

After Lee 2013, "Pseudo-Label", with soft labels instead of the most probable class, and without its leak through the
validation people: the labels that train fold i come only from models of fold i, which never saw the people that fold i
is validated on. So both trainings must have the same folds, and an ensemble teaches by the plain mean of its members: its
weights, factors and temperatures are fitted to the labels of everyone. A run that was trained with pseudo-labels gives the
next round's labels in the same way, as teams of the contest did in rounds.
"""

import os
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

import blend
import dataset
import evaluation
import experiment
import files
import members
from dataset import HEADS, OFFICIAL_BOUNDS, age_group_probs, columns, head_slices, marginals
from errors import InputError

PSEUDO_FORMAT = "%.9g"  # float32 as text and back, bit by bit


def find_runs(source):
    """The run folders behind --pseudo: a run, or the members of an ensemble that have any weight, each once.

    How much weight is of no use here, as it is fitted to the labels of everyone. Whether a search gave any is too; that much of
    a choice made on all people together stays in the labels.
    """
    found = members.open_source(str(source))
    if found.is_run:
        if found.choice != "all":
            raise InputError(f"--pseudo {source}: takes a whole run or an ensemble; folds go by what they have seen")
        return [found.folder]
    runs, ensembles = [], [found.folder]
    for ensemble in ensembles:  # which grows: ensembles may be members
        for member in experiment.read_recipe(ensemble).get("members", []):
            weight = member.get("weight")
            if weight is None or (any(weight.values()) if isinstance(weight, dict) else weight):
                one = open_member(ensemble, member["run"])
                places = runs if one.is_run else ensembles
                places += [] if one.folder in places else [one.folder]
    return runs


def open_member(ensemble, name):
    """The source that a recipe names, which lies where one works or beside the ensemble: InputError for one that climbs out of
    both, as what is missing would be written there.
    """
    places = Path.cwd(), Path(os.path.abspath(ensemble)).parent.parent
    if not any(Path(os.path.abspath(name)).is_relative_to(place) for place in places):
        raise InputError(
            f"{ensemble / 'recipe.yaml'}: member {name!r} lies outside of {' and '.join(map(str, dict.fromkeys(places)))}; "
            "start from the folder that holds it"
        )
    return members.open_source(name)


def check_pseudo_folds(run, people, folds, kfold):
    """InputError unless fold i of `run` held out everyone whom fold i of this training validates on."""
    if kfold == 0:
        return
    args = experiment.read_args(run)
    if args.get("kfold", 0) == 0:
        raise InputError(f"--pseudo {run}: is a nofold run, which has seen everyone that --kfold {kfold} validates on")
    if args.get("finish_on_all"):
        raise InputError(f"--pseudo {run}: its --finish-on-all has shown everyone to every fold; take a run without it")
    theirs = experiment.read_folds(run)
    held_out = dict(zip(theirs["path"], theirs["fold"]))
    for path, fold in zip(people["path"], folds.tolist()):
        if held_out.get(path, fold) != fold:
            raise InputError(
                f"--pseudo {run}: has {path} in fold {held_out[path]}, here it is in fold {fold}; train with the same "
                f"people, --kfold and --fold-seed, or its labels would leak"
            )


def teaching_folds(run, kfold):
    """The folds of a run whose models make the labels; InputError for one of `kfold` that is not complete."""
    if kfold == 0:
        return evaluation.select_folds(run, "all")
    lacking = sorted(set(range(kfold)) - set(experiment.done_folds(run)))
    if lacking:
        numbers = " ".join(map(str, lacking))
        raise InputError(
            f"--pseudo {run}: has no complete fold {numbers}, which makes the labels of fold {numbers} here; "
            f"python train.py --resume {shlex.quote(str(run))} --fold {numbers} first"
        )
    return list(range(kfold))


def check_pseudo_bounds(run, args):
    """InputError when the age groups that a run learnt are cut at other ages than those that this training learns."""
    theirs = experiment.read_args(run)
    cut = list(theirs.get("age_bounds", OFFICIAL_BOUNDS))
    groups = [target for target, parts in dataset.DECIDES.items() if "age_group" in parts and target != "age"]
    if theirs["target"] in groups and args.target in groups and cut != list(args.age_bounds):
        ours, others = ("{} {}".format(*bounds) for bounds in (args.age_bounds, cut))
        raise InputError(f"--pseudo {run}: learnt age groups of --age-bounds {others}, not of {ours}; take a run with the same")


def soft_labels(target, sources, bounds):
    """Soft targets float64 [N, num_outputs(target)] from predictions [(target, probs), ...] of the same images."""
    same = [probs for source, probs in sources if source == target]
    if len(same) == len(sources):
        return np.mean(same, axis=0)
    if target == "age":
        raise InputError("--pseudo: --target age learns single years, which only runs of target age can give")
    decided = {part for source, _probs in sources for part in dataset.DECIDES[source]}
    wanted = set(dataset.DECIDES[target])
    if not wanted <= decided:
        raise InputError(f"--pseudo: gives no {' and '.join(sorted(wanted - decided))}, which --target {target} needs")
    if decided == set(dataset.COMPONENTS):
        label = blend.blend(sources, bounds=bounds)
        return label if target == "label" else np.concatenate([marginals(label)[head] for head in HEADS[target]], axis=1)
    parts = [blend.member_parts(source, probs, bounds) for source, probs in sources]
    return np.mean([part[target] for part in parts if target in part], axis=0)


def confidence(target, probs):
    """Probability of the likeliest class [N]: of the least sure head, and for age of the age group."""
    if target == "age":
        return age_group_probs(probs).max(1)
    return np.min([probs[:, part].max(1) for part in head_slices(target).values()], axis=0)


def make_pseudo(args, people, folds, images, device):
    """The rows of pseudo.csv for every fold: fold, ImageID and probabilities, those of --pseudo-min-confidence and above.

    images: evaluation.EvalImages of the data folder. Predictions of the eval images that are missing are made first.
    """
    runs = find_runs(args.pseudo)
    for run in runs:
        check_pseudo_folds(run, people, folds, args.kfold)
        check_pseudo_bounds(run, args)
    numbers = {run: teaching_folds(run, args.kfold) for run in runs}
    options = {name: getattr(args, name) for name in ("amp", "cache_dir", "cache_device", "quiet")}
    jobs = [(run, number) for run in runs for number in numbers[run]]
    targets = {run: experiment.read_args(run)["target"] for run in runs}
    made = []
    with evaluation.predicting(runs):
        evaluation.predict_folds(jobs, images, evaluation.Settings(batch_size=128, tta="none", **options), device)
        for fold in range(max(args.kfold, 1)):
            sources = []
            for run in runs:
                table = evaluation.fold_mean(run, targets[run], [fold] if args.kfold else numbers[run], "none")
                sources.append((targets[run], table[columns(targets[run])].to_numpy()))
            probs = soft_labels(args.target, sources, tuple(args.age_bounds))
            sure = confidence(args.target, probs) >= args.pseudo_min_confidence
            table = pd.DataFrame({"fold": fold, "ImageID": np.array(images.names)[sure]})
            made.append(pd.concat([table, pd.DataFrame(probs[sure].astype(np.float32), columns=columns(args.target))], axis=1))
    if not any(map(len, made)):
        raise InputError(
            f"--pseudo-min-confidence {args.pseudo_min_confidence:g}: no eval image is predicted so surely; lower it"
        )
    return pd.concat(made, ignore_index=True)


def read_pseudo(run, target):
    """The table of `make` that a run keeps."""
    table = files.read_numbers(run / "pseudo.csv", ("ImageID",), ("fold", *columns(target)))
    table = files.to_wholes(run / "pseudo.csv", table, {"fold": files.FOLDS})
    return table.astype(dict.fromkeys(columns(target), np.float32))
