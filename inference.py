"""Predict the eval images with trained runs: probabilities for each run, and a submission where it decides all 18 classes.

    python inference.py --models runs/10-AdamP-StepLR-FL-v0-label_5fold

Reads eval/info.csv and eval/images of the data folder and the weights of the runs (they hold model, size and
normalisation). Writes RUN/eval.csv (ImageID and probabilities, the mean over folds) and, for the targets label and multi,
RUN/submission.csv (ImageID,ans in the order of info.csv). With --oof it reads train/images instead and writes RUN/oof_TTA.csv,
each fold's validation images with the --tta, which says whether that is worth having.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take seconds

import shlex
import sys

import dataset
import demo
import distributed
import engine
import evaluation
import experiment
import metrics
import options
import validation


def parse_args(argv):
    parser = options.Parser("Predict the eval images with trained runs; write a submission where a run decides all 18 classes.")
    parser.add_argument("--models", nargs="+", required=True, metavar="RUN", help="run folders of train.py")
    options.add_folds(parser, numbers=True)
    options.add_tta(parser)
    parser.add_argument("--oof", action="store_true", help="predict each fold's own validation images instead, to score --tta")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options.add_data(parser)
    options.add_compute(parser, batch_size=128)
    args = parser.parse_args(argv)
    args.folds = options.chosen_folds(parser, args.folds)
    if args.oof and (args.tta == "none" or args.folds != "all"):
        parser.error("--oof: compares a --tta with none, on all folds; add one, such as --tta hflip, and leave out --folds")
    return args


def main(argv=None):
    engine.keep_freed_memory()
    args = parse_args(argv)
    runs = list(dict.fromkeys(experiment.find_run(run) for run in args.models))
    folds = [evaluation.select_folds(run, args.folds) for run in runs]
    device = distributed.pick_device(args.device)
    with evaluation.predicting(runs):
        return score_tta(args, runs, device) if args.oof else predict_runs(args, runs, folds, device)


def predict_runs(args, runs, folds, device):
    """Predictions of the eval images with these folds of each run, a submission where they decide it, and what is next."""
    images = dataset.read_eval_images(demo.locate(args.data_dir)[0])
    jobs = [(run, number) for run, numbers in zip(runs, folds) for number in numbers]
    evaluation.predict_folds(jobs, images, args, device)
    targets = [experiment.read_args(run)["target"] for run in runs]
    for run, target, numbers in zip(runs, targets, folds):
        table, probs = evaluation.write_run_eval(run, target, numbers, args.tta)
        print(f"{run / 'eval.csv'}: {len(table)} images, mean of folds {' '.join(map(str, numbers))}, tta {args.tta}")
        if probs is not None:
            print(f"{run / 'submission.csv'}: ImageID,ans")
            evaluation.say_score(images.data_dir, images.names, probs, run.name)
    say_next(images.data_dir, runs, targets, args.tta)
    return 0


def score_tta(args, runs, device):
    """--oof: what the TTA is worth for each run, and the command that predicts the eval images with it, or without."""
    data_dir, verdicts = demo.locate(args.data_dir)[0], set()
    for run in runs:
        found = validation.predict_oof(run, data_dir, args, device)
        verdicts.add(metrics.verdict(*found["gain_ci95"]))
        for line in validation.tta_lines(run, args.tta, found):
            print(line)
    tta = args.tta if "better" in verdicts and "worse" not in verdicts else "none"
    print(f"next: python inference.py --models {shlex.join(map(str, runs))} --tta {tta}{demo.as_option(data_dir)}")
    return 0


def say_next(data_dir, runs, targets, tta):
    """The command that makes a submission of these runs, or what is missing for one."""
    decided = {part for target in targets for part in dataset.DECIDES[target]}
    lacking = [part for part in dataset.COMPONENTS if part not in decided]
    if lacking:
        print(f"next: these runs leave {' and '.join(lacking)} open; train them, then python ensemble.py --models RUN ...")
    else:
        views = "" if tta == "none" else f" --tta {tta}"
        print(f"next: python ensemble.py --models {shlex.join(map(str, runs))}{views}{demo.as_option(data_dir)}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
