"""Combine runs into one submission: any mix of targets that together decide mask, gender and age group.

    python ensemble.py --models runs/*age* runs/*gender* runs/*mask*
    python ensemble.py --models "runs/*" --search greedy --decode f1

Reads the eval predictions of each run's folds (made first where they are missing or lack images of info.csv) and its oof.csv,
and changes nothing in a run that has them. Writes submissions/NAME/: submission.csv, eval.csv (18 probabilities), recipe.yaml,
score.json, oof.csv when every member has one, bounds.png with --tune-bounds, persons.csv with --persons. What is fitted on
out-of-fold predictions is scored on people that it was not fitted to; oof.csv then holds those probabilities.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import sys
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import yaml

import blend
import bounds
import dataset
import demo
import distributed
import engine
import experiment
import files
import inference
import options
import persons
import predictions
import telling
from dataset import OFFICIAL_BOUNDS
from errors import InputError

YAML = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": errors.WIDTH}


def parse_args(argv):
    parser = options.Parser("Combine runs into one submission: any mix of targets that decide mask, gender and age group.")
    parser.add_argument("--models", nargs="+", required=True, metavar="RUN",
                        help="run or ensemble folders, RUN:foldN, RUN:best, or patterns in quotes")  # fmt: skip
    parser.add_argument("--method", choices=blend.METHODS, default="soft",
                        help="average probabilities, vote, or learn from them (multinomial logistic regression)")  # fmt: skip
    parser.add_argument("--search", choices=blend.SEARCHES, default="none",
                        help="greedy: choose members, with replacement; weights: weigh each member and part")  # fmt: skip
    parser.add_argument("--decode", choices=blend.DECODES, default="argmax",
                        help="before the highest probability is taken: f1: a factor for each class, for macro F1; prior: one "
                        "for each mask state, so that the predictions are 5:1:1 by mask as the eval images are")  # fmt: skip
    parser.add_argument("--temperature", action="store_true",
                        help="scale each member to be as sure as it is right, before members are averaged")  # fmt: skip
    parser.add_argument("--persons", action="store_true",
                        help="images that look like one person share gender and age; the contest's rules decide")  # fmt: skip
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--age-bounds", type=options.whole_int, nargs=2, default=list(OFFICIAL_BOUNDS), metavar=("LO", "HI"),
                     help="where the distributions of target age runs are cut")  # fmt: skip
    cut.add_argument("--tune-bounds", action="store_true", help="find that cut on out-of-fold predictions, and draw bounds.png")
    options.add_folds(parser, numbers=False)
    options.add_tta(parser)
    parser.add_argument("--seed", type=options.natural_int, default=0, help="of the parts of the people that are scored")
    parser.add_argument("--name", help="folder of the result; without it the next NN-METHOD-COUNTruns")
    parser.add_argument("--output-dir", default="submissions", metavar="DIR", help="where result folders are made")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options.add_data(parser)
    options.add_compute(parser, batch_size=128)
    args = parser.parse_args(argv)
    options.check_bounds(parser, args.age_bounds)
    if args.search != "none" and args.method != "soft":
        parser.error(f"--search {args.search}: finds weights for --method soft; with --method {args.method} leave it out")
    if args.temperature and args.method != "soft":
        parser.error(f"--temperature: is for averages; leave it out with --method {args.method}, which goes by no scale")
    if args.method == "stack" and (args.tune_bounds or tuple(args.age_bounds) != OFFICIAL_BOUNDS):
        parser.error(
            f"{telling.bounds_option(args)}: --method stack learns from single ages where to cut; leave one of the two out"
        )
    return args


@dataclass(frozen=True)
class OofImages:
    """The train images that every member predicts out of fold: rows of oof.csv (image, path, fold), official labels [N],
    and the members' (target, probabilities)."""

    table: pd.DataFrame
    truth: np.ndarray
    members: list

    @property
    def persons(self):
        return self.table["path"].to_numpy()


@dataclass(frozen=True)
class Submission:
    """All there is to write and to tell; `images` and `scored` are None where a member has no oof.csv. `mask_factors`: those
    of pipeline.finish on the eval images, `grouping`: persons.Grouping with --persons."""

    plan: blend.Plan
    members: list
    names: list
    images: OofImages | None
    fitted: blend.Fitted
    scored: blend.OutOfFold | None
    eval_probs: np.ndarray
    mask_factors: np.ndarray | None = None
    grouping: persons.Grouping | None = None

    @property
    def weights(self):
        """A weight for each member, or None for each where a stacker takes their place."""
        if self.plan.method == "stack":
            return [None] * len(self.members)
        return self.fitted.weights or [1] * len(self.members)


def main(argv=None):
    engine.keep_freed_memory()
    args = parse_args(argv)
    experiment.check_free(args.output_dir, args.name)
    plan, data_dir = make_plan(args), demo.find(args.data_dir)
    found = read_members(args, plan)
    result = combine(args, plan, found)
    folder = write_result(args, result)
    telling.say_members(result)
    telling.say_fit(result)
    telling.say_persons(result.grouping)
    telling.say_scores(result)
    telling.say_plain_oof(args.tta, found)
    inference.say_score(data_dir, result.names, result.eval_probs, folder.name)
    print(f"{folder / 'submission.csv'}: {len(result.names)} images")
    telling.say(telling.predicted_shares(result.eval_probs), indent="  ")
    telling.warn_of_prior(result.eval_probs)
    telling.say_next(args, result, folder)
    return 0


def make_plan(args):
    """The pipeline.Plan of the options."""
    cut = None if args.tune_bounds else tuple(args.age_bounds)
    return blend.Plan(args.method, args.search, args.decode, cut, args.seed, args.temperature)


def read_members(args, plan):
    """The members that --models names; eval predictions that are missing are made first."""
    sources = predictions.find_sources(args.models, args.folds)
    blend.check_decided([source.target for source in sources])
    if "age" not in {source.target for source in sources} and plan.bounds != OFFICIAL_BOUNDS:
        raise InputError(f"{telling.bounds_option(args)}: only runs of target age can be cut anew, and none is given")
    for source in sources if plan.fitted_options else ():
        if not source.matched and not (source.folder / "oof.csv").is_file():
            raise InputError(
                f"{plan.fitted_options[0]}: needs out-of-fold predictions, and {source.name} has no oof.csv; leave out that "
                "member or the option"
            )

    def predict(jobs):
        images = dataset.read_eval_images(demo.locate(args.data_dir)[0])
        inference.predict_folds(jobs, images, args, distributed.pick_device(args.device))

    with predictions.predicting(source.folder for source in sources if source.is_run):
        return predictions.read_members(sources, args.tta, predict, plan.temperature, bool(plan.fitted_options), args.data_dir)


def read_oof_images(found):
    """The OofImages of members, or None where one of them has no oof.csv."""
    if any(member.oof is None for member in found):
        return None
    table, truth = predictions.oof_truth(found)
    return OofImages(table, truth, [(member.target, member.oof_probs(table["image"])) for member in found])


def combine(args, plan, found):
    """The Result of a plan: fitted and scored on out-of-fold predictions, applied to the eval images."""
    names, images = found[0].eval["ImageID"].tolist(), read_oof_images(found)
    folds = [[(member.target, probs) for probs in member.fold_probs(names)] for member in found]
    plain = images and blend.blend(images.members)
    fitted, scored, grouping = blend.Fitted(plan.bounds), None, None
    if args.persons:
        grouping = persons.find_persons(names, images and images.table, args)
        folds = [persons.share_members(models, grouping.eval) for models in folds]
        images = images and replace(images, members=persons.share_members(images.members, grouping.oof))
    if images:
        fitted = blend.fit_plan(plan, images.members, images.truth)
        scored = blend.score_plan(plan, fitted, images.members, images.truth, images.persons, args.quiet, plain)
    finished = blend.finish_plan(plan, blend.apply_plan(plan, *blend.average_folds(fitted, folds)))
    return Submission(plan, found, names, images, fitted, scored, *finished, grouping)


def make_recipe(args, result):
    """recipe.yaml (a dict): with the eval.csv of the members' folds (and stack.csv) all that eval.csv and submission.csv are
    made of."""
    plan, fitted = result.plan, result.fitted
    recipe = {
        "method": plan.method,
        "search": plan.search,
        "decode": plan.decode,
        "age_bounds": list(fitted.bounds),
        "tune_bounds": args.tune_bounds,
        "temperature": plan.temperature,
        "persons": args.persons,
        "tta": args.tta,
        "seed": plan.seed,
        "members": [
            {"run": member.name, "target": member.target, "folds": member.folds, "weight": weight}
            for member, weight in zip(result.members, result.weights)
        ],
    }
    for member, temperature in zip(recipe["members"], fitted.temperatures or ()):
        member["temperature"] = temperature
    if fitted.path:
        scores = [(index, None if np.isnan(f1) else round(float(f1), 6)) for index, f1 in fitted.path]
        recipe["path"] = [{"run": result.members[index].name, "in_sample_f1": f1} for index, f1 in scores]
    if fitted.biases is not None:
        recipe["biases"] = fitted.biases.tolist()
    if plan.meets_prior:
        recipe["mask_factors"] = result.mask_factors.tolist()
        if result.scored:
            recipe["oof_mask_factors"] = result.scored.mask_factors.tolist()
    if args.tune_bounds:
        recipe["crossfit_bounds"] = [list(part.bounds) for part in result.scored.parts]
    return recipe


def write_result(args, result):
    """Write the result folder, complete or not at all, and return it."""
    images, scored, plan, fitted = result.images, result.scored, result.plan, result.fitted

    def fill(inside, name):
        eval_table = predictions.eval_table(result.names, "label", result.eval_probs)
        files.write_csv(inside / "submission.csv", predictions.submission_table(result.names, result.eval_probs))
        files.write_csv(inside / "eval.csv", eval_table, predictions.FORMAT)
        if scored:
            fold = images.table["fold"].to_numpy()
            oof = predictions.oof_table(images.table, fold, "label", images.truth[:, None], scored.probs)
            files.write_csv(inside / "oof.csv", oof, predictions.FORMAT)
        files.write_text(inside / "recipe.yaml", yaml.safe_dump(make_recipe(args, result), **YAML))
        scores = scored.scores if scored else blend.UNSCORED
        files.write_json(inside / "score.json", scores | (result.grouping.scores if result.grouping else {}))
        if result.grouping:
            result.grouping.write(inside)
        if plan.method == "stack":
            table = blend.stack_table(fitted.stack, [(member.name, member.target) for member in result.members])
            files.write_csv(inside / "stack.csv", table)
        if args.tune_bounds:
            scaled, given = blend.scale_by_temperatures(fitted, images.members)
            study = blend.study_bounds(given, images.truth, images.persons, scaled.bounds, plan.method, scaled.weights)
            bounds.draw_bounds(study, [part.bounds for part in scored.parts], inside / "bounds.png", f"age bounds of {name}")

    kind = f"{plan.method}-{len(result.members)}runs"
    return experiment.make_folder(args.output_dir, args.name, lambda: experiment.next_number(args.output_dir, kind), fill)


if __name__ == "__main__":
    sys.exit(errors.run(main))
