"""Combine runs into one submission: any mix of targets that together decide mask, gender and age group.

    python ensemble.py --models runs/*age* runs/*gender* runs/*mask*

Reads each run's eval.csv (made first where it is missing) and oof.csv. Writes submissions/NAME/: submission.csv, eval.csv
(18 probabilities), recipe.yaml, score.json, and oof.csv when every member has one.
"""

import glob
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

import blend
import dataset
import distributed
import engine
import errors
import evaluation
import experiment
import metrics
import options
import predictions
from errors import InputError
from labels import LABELS, OFFICIAL_BOUNDS, decode, encode


def parse_args(argv):
    parser = options.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", required=True, metavar="RUN", help="run folders, or patterns in quotes")
    parser.add_argument("--method", choices=blend.METHODS, default="soft", help="average probabilities, or vote")
    parser.add_argument("--age-bounds", type=int, nargs=2, default=list(OFFICIAL_BOUNDS), metavar=("LO", "HI"),
                        help="where the distributions of target age runs are cut")  # fmt: skip
    options.add_folds(parser, numbers=False)
    options.add_tta(parser)
    parser.add_argument("--name", help="folder of the result; without it the next NN-METHOD-COUNTruns")
    parser.add_argument("--output-dir", default="submissions", metavar="DIR", help="where result folders are made")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options.add_data(parser)
    options.add_compute(parser, batch_size=128)
    args = parser.parse_args(argv)
    options.check_bounds(parser, args.age_bounds)
    return args


@dataclass
class Member:
    """A run in the ensemble: its eval.csv table, and its oof.csv table where it has one."""

    run: Path
    target: str
    folds: list
    eval: pd.DataFrame
    oof: pd.DataFrame | None

    def probs(self, table, keys, column):
        """This member's probabilities in the order of `keys`; `table` is one of its two, keyed by `column`."""
        return table.set_index(column)[predictions.columns(self.target)].loc[keys].to_numpy()


def find_runs(patterns):
    """Run folders of paths and glob patterns, each once, in order. InputError for what matches nothing."""
    runs = []
    for pattern in patterns:
        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) and not Path(pattern).is_dir() else [pattern]
        if not matches:
            raise InputError(f"--models {pattern}: matches no folder")
        runs.extend(experiment.find_run(match) for match in matches)
    return list(dict.fromkeys(runs))


def read_members(args, runs):
    """The members with their tables; eval predictions that are missing are made first. InputError when images differ."""
    targets = [experiment.read_args(run)["target"] for run in runs]
    blend.check_decided(targets)
    if "age" not in targets and tuple(args.age_bounds) != OFFICIAL_BOUNDS:
        low, high = args.age_bounds
        raise InputError(f"--age-bounds {low} {high}: only runs of target age can be cut anew, and none is given")
    tables = {run: evaluation.read_run_eval(run, target, args.folds, args.tta) for run, target in zip(runs, targets)}
    missing = [run for run in runs if tables[run] is None]
    if missing:
        images = evaluation.read_eval_images(dataset.locate(args.data_dir)[0])
        jobs = [(run, number) for run in missing for number in evaluation.select_folds(run, args.folds)]
        evaluation.predict_folds(jobs, images, args, distributed.pick_device(args.device))
    members = []
    for run, target in zip(runs, targets):
        if run in missing:
            tables[run] = evaluation.write_run_eval(run, target, evaluation.select_folds(run, args.folds), args.tta)
        path = run / "oof.csv"
        oof = predictions.read(path, target, ("image", "path")) if path.is_file() else None
        members.append(Member(run, target, evaluation.used_folds(run), tables[run], oof))
    check_same_images(members)
    return members


def check_same_images(members):
    """InputError that names the two runs whose eval or oof tables hold different images, or one that holds one twice."""
    for kind, key in (("eval", "ImageID"), ("oof", "image")):
        tables = [(member.run, getattr(member, kind)) for member in members if getattr(member, kind) is not None]
        for run, table in tables:
            if table[key].duplicated().any():
                raise InputError(f"{run / kind}.csv: {table[key][table[key].duplicated()].iloc[0]} stands twice")
            first_run, first = tables[0]
            apart = set(table[key]) ^ set(first[key])
            if apart:
                raise InputError(
                    f"{run} and {first_run}: their {kind}.csv hold different images ({len(apart)} in one alone, such as "
                    f"{min(apart)}); combine runs of the same data and folds"
                )


def oof_truth(members):
    """(rows of the first oof.csv: image, path, fold; official labels int64 [N]) of members that together decide the label."""
    first = members[0].oof
    parts = {}
    for member in members:
        table = member.oof.set_index("image").loc[first["image"]]
        truth = table[predictions.truth_columns(member.target)].to_numpy(dtype=np.int64).T
        parts |= zip(blend.DECIDES[member.target], decode(truth[0]) if member.target == "label" else truth)
    return first[["image", "path", "fold"]], encode(*(parts[part] for part in blend.PARTS))


def score(table, truth, probs):
    """score.json of out-of-fold label probabilities: macro F1 with its interval over people, accuracy."""
    pred = probs.argmax(1)
    samples = metrics.bootstrap_f1(truth, pred, table["path"].to_numpy(), len(LABELS))
    return {
        "oof_f1": round(float(metrics.macro_f1(truth, pred, len(LABELS))), 6),
        "oof_acc": round(float(metrics.accuracy(truth, pred, len(LABELS))), 6),
        "oof_f1_ci95": [round(float(bound), 6) for bound in metrics.interval(samples)],
    }


def main(argv=None):
    engine.keep_freed_memory()
    args = parse_args(argv)
    members = read_members(args, find_runs(args.models))
    names = members[0].eval["ImageID"].tolist()
    bounds = tuple(args.age_bounds)
    eval_probs = blend.blend([(m.target, m.probs(m.eval, names, "ImageID")) for m in members], args.method, bounds)
    scores = {"oof_f1": None, "oof_acc": None, "oof_f1_ci95": None}
    oof = None
    if all(member.oof is not None for member in members):
        table, truth = oof_truth(members)
        oof_probs = blend.blend([(m.target, m.probs(m.oof, table["image"], "image")) for m in members], args.method, bounds)
        oof = predictions.oof_table(table, table["fold"].to_numpy(), "label", truth[:, None], oof_probs)
        scores = score(table, truth, oof_probs)
    folder = write_result(args, members, names, eval_probs, oof, scores)
    closing(args, members, names, folder, eval_probs, scores)
    return 0


def write_result(args, members, names, eval_probs, oof, scores):
    """Write the result folder, complete or not at all, and return it."""
    recipe = {
        "method": args.method,
        "decode": "argmax",
        "age_bounds": list(args.age_bounds),
        "tta": args.tta,
        "members": [
            {"run": str(member.run), "target": member.target, "folds": member.folds, "weight": 1} for member in members
        ],
    }
    with experiment.new_folder(args.output_dir, args.name, f"{args.method}-{len(members)}runs") as (folder, inside):
        experiment.write_csv(inside / "submission.csv", predictions.submission_table(names, eval_probs))
        experiment.write_csv(inside / "eval.csv", predictions.eval_table(names, "label", eval_probs), predictions.FORMAT)
        if oof is not None:
            experiment.write_csv(inside / "oof.csv", oof, predictions.FORMAT)
        experiment.write_text(inside / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
        experiment.write_json(inside / "score.json", scores)
    return folder


def closing(args, members, names, folder, eval_probs, scores):
    """Members, score and place of the result, for the user."""
    for member in members:
        print(f"{member.run}  {member.target}, folds {' '.join(map(str, member.folds)) or '?'}")
    if scores["oof_f1"] is None:
        lacking = [str(member.run) for member in members if member.oof is None]
        print(f"no out-of-fold score: {', '.join(lacking)} has no oof.csv")
    else:
        low, high = scores["oof_f1_ci95"]
        print(
            f"out-of-fold macro F1 of label: {scores['oof_f1']:.4f} (95 % CI over people {low:.4f} .. {high:.4f}), "
            f"accuracy {scores['oof_acc']:.4f}"
        )
    evaluation.say_score(dataset.find(args.data_dir), names, eval_probs, folder.name)
    print(f"{folder / 'submission.csv'}: {len(names)} images")


if __name__ == "__main__":
    sys.exit(errors.run(main))
