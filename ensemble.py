"""Combine runs into one submission: any mix of targets that together decide mask, gender and age group.

    python ensemble.py --models runs/*age* runs/*gender* runs/*mask*

Reads each run's eval.csv (made first where it is missing) and oof.csv. Writes submissions/NAME/: submission.csv, eval.csv
(18 probabilities), recipe.yaml, score.json, and oof.csv when every member has one.
"""

import sys

import yaml

import blend
import dataset
import distributed
import engine
import errors
import evaluation
import experiment
import members
import metrics
import options
import predictions
from errors import InputError
from labels import LABELS, OFFICIAL_BOUNDS


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


def read_members(args):
    """The members that --models names; eval predictions that are missing are made first."""
    sources = members.find_sources(args.models, args.folds)
    blend.check_decided([source.target for source in sources])
    if "age" not in {source.target for source in sources} and tuple(args.age_bounds) != OFFICIAL_BOUNDS:
        low, high = args.age_bounds
        raise InputError(f"--age-bounds {low} {high}: only runs of target age can be cut anew, and none is given")

    def predict(jobs):
        images = evaluation.read_eval_images(dataset.locate(args.data_dir)[0])
        evaluation.predict_folds(jobs, images, args, distributed.pick_device(args.device))

    return members.read(sources, args.tta, predict)


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
    found = read_members(args)
    names = found[0].eval["ImageID"].tolist()
    bounds = tuple(args.age_bounds)
    eval_probs = blend.blend([(member.target, member.eval_probs(names)) for member in found], args.method, bounds)
    scores = {"oof_f1": None, "oof_acc": None, "oof_f1_ci95": None}
    oof = None
    if all(member.oof is not None for member in found):
        table, truth = members.oof_truth(found)
        oof_probs = blend.blend([(m.target, m.oof_probs(table["image"])) for m in found], args.method, bounds)
        oof = predictions.oof_table(table, table["fold"].to_numpy(), "label", truth[:, None], oof_probs)
        scores = score(table, truth, oof_probs)
    folder = write_result(args, found, names, eval_probs, oof, scores)
    closing(args, found, names, folder, eval_probs, scores)
    return 0


def write_result(args, found, names, eval_probs, oof, scores):
    """Write the result folder, complete or not at all, and return it."""
    recipe = {
        "method": args.method,
        "decode": "argmax",
        "age_bounds": list(args.age_bounds),
        "tta": args.tta,
        "members": [{"run": member.name, "target": member.target, "folds": member.folds, "weight": 1} for member in found],
    }
    with experiment.new_folder(args.output_dir, args.name, f"{args.method}-{len(found)}runs") as (folder, inside):
        experiment.write_csv(inside / "submission.csv", predictions.submission_table(names, eval_probs))
        experiment.write_csv(inside / "eval.csv", predictions.eval_table(names, "label", eval_probs), predictions.FORMAT)
        if oof is not None:
            experiment.write_csv(inside / "oof.csv", oof, predictions.FORMAT)
        experiment.write_text(inside / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
        experiment.write_json(inside / "score.json", scores)
    return folder


def closing(args, found, names, folder, eval_probs, scores):
    """Members, score and place of the result, for the user."""
    for member in found:
        print(f"{member.name}  {member.target}, folds {' '.join(map(str, member.folds)) or '?'}")
    if scores["oof_f1"] is None:
        lacking = [member.name for member in found if member.oof is None]
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
