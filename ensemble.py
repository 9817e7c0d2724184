"""Combine runs into one submission: any mix of targets that together decide mask, gender and age group.

    python ensemble.py --models runs/*age* runs/*gender* runs/*mask*
    python ensemble.py --models "runs/*" --search greedy --decode f1

Reads each run's eval.csv (made first where it is missing) and oof.csv. Writes submissions/NAME/: submission.csv, eval.csv
(18 probabilities), recipe.yaml, score.json, oof.csv when every member has one, bounds.png with --tune-bounds, persons.csv with
--persons. What is fitted on out-of-fold predictions is scored on people that it was not fitted to; oof.csv then holds those
probabilities.
"""

import shlex
import sys
import textwrap
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import yaml

import advice
import blend
import bounds
import contributions
import dataset
import distributed
import engine
import errors
import evaluation
import experiment
import members
import metrics
import options
import persons
import pipeline
import predictions
from errors import InputError
from labels import AGE_GROUPS, GENDERS, LABELS, MASK_PRIOR, MASKS, OFFICIAL_BOUNDS, decode

PRIOR_TOLERANCE = 0.01
YAML = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": errors.WIDTH}


def parse_args(argv):
    parser = options.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", required=True, metavar="RUN",
                        help="run or ensemble folders, RUN:foldN, RUN:best, or patterns in quotes")  # fmt: skip
    parser.add_argument("--method", choices=pipeline.METHODS, default="soft",
                        help="average probabilities, vote, or learn from them (multinomial logistic regression)")  # fmt: skip
    parser.add_argument("--search", choices=pipeline.SEARCHES, default="none",
                        help="greedy: choose members, with replacement; weights: weigh each member and part")  # fmt: skip
    parser.add_argument("--decode", choices=pipeline.DECODES, default="argmax",
                        help="before the highest probability is taken: f1: a factor for each class, for macro F1; prior: one "
                        "for each mask state, so that the predictions are 5:1:1 by mask as the eval images are")  # fmt: skip
    parser.add_argument("--temperature", action="store_true",
                        help="scale each member to be as sure as it is right, before members are averaged")  # fmt: skip
    parser.add_argument("--persons", action="store_true",
                        help="images that look like one person share gender and age; the contest's rules decide")  # fmt: skip
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--age-bounds", type=int, nargs=2, default=list(OFFICIAL_BOUNDS), metavar=("LO", "HI"),
                     help="where the distributions of target age runs are cut")  # fmt: skip
    cut.add_argument("--tune-bounds", action="store_true", help="find that cut on out-of-fold predictions, and draw bounds.png")
    options.add_folds(parser, numbers=False)
    options.add_tta(parser)
    parser.add_argument("--seed", type=options.natural_int, default=0, help="of the search and of the parts that are scored")
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
        parser.error(f"{bounds_option(args)}: --method stack learns from single ages where to cut; leave one of the two out")
    return args


def bounds_option(args):
    """The option that says where ages are cut, as it stands in the command line."""
    return "--tune-bounds" if args.tune_bounds else "--age-bounds {} {}".format(*args.age_bounds)


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
class Result:
    """All there is to write and to tell; `images` and `scored` are None where a member has no oof.csv. `mask_factors`: those
    of pipeline.finish on the eval images, `grouping`: persons.Grouping with --persons."""

    plan: pipeline.Plan
    members: list
    names: list
    images: OofImages | None
    fitted: pipeline.Fitted
    scored: pipeline.OutOfFold | None
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
    plan, data_dir = make_plan(args), dataset.find(args.data_dir)
    found = read_members(args, plan)
    result = combine(args, plan, found)
    folder = write_result(args, result)
    say_members(result)
    say_fit(result)
    say_persons(result.grouping)
    say_scores(result)
    say_plain_oof(args.tta, found)
    evaluation.say_score(data_dir, result.names, result.eval_probs, folder.name)
    print(f"{folder / 'submission.csv'}: {len(result.names)} images")
    say(predicted_shares(result.eval_probs), indent="  ")
    warn_of_prior(result.eval_probs)
    say_next(args, result, folder)
    return 0


def make_plan(args):
    """The pipeline.Plan of the options."""
    cut = None if args.tune_bounds else tuple(args.age_bounds)
    return pipeline.Plan(args.method, args.search, args.decode, cut, args.seed, args.temperature)


def read_members(args, plan):
    """The members that --models names; eval predictions that are missing are made first."""
    sources = members.find_sources(args.models, args.folds)
    blend.check_decided([source.target for source in sources])
    if "age" not in {source.target for source in sources} and plan.bounds != OFFICIAL_BOUNDS:
        raise InputError(f"{bounds_option(args)}: only runs of target age can be cut anew, and none is given")
    for source in sources if plan.fitted_options else ():
        if not (source.folder / "oof.csv").is_file():
            raise InputError(
                f"{plan.fitted_options[0]}: needs out-of-fold predictions, and {source.name} has no oof.csv; leave out that "
                "member or the option"
            )

    def predict(jobs):
        images = evaluation.read_eval_images(dataset.locate(args.data_dir)[0])
        evaluation.predict_folds(jobs, images, args, distributed.pick_device(args.device))

    return members.read(sources, args.tta, predict)


def read_oof_images(found):
    """The OofImages of members, or None where one of them has no oof.csv."""
    if any(member.oof is None for member in found):
        return None
    table, truth = members.oof_truth(found)
    return OofImages(table, truth, [(member.target, member.oof_probs(table["image"])) for member in found])


def combine(args, plan, found):
    """The Result of a plan: fitted and scored on out-of-fold predictions, applied to the eval images."""
    names, images = found[0].eval["ImageID"].tolist(), read_oof_images(found)
    given, plain = [(member.target, member.eval_probs(names)) for member in found], images and blend.blend(images.members)
    fitted, scored, grouping = pipeline.Fitted(plan.bounds), None, None
    if args.persons:
        grouping = persons.find_all(names, images and images.table, args)
        given = persons.share_members(given, grouping.eval)
        images = images and replace(images, members=persons.share_members(images.members, grouping.oof))
    if images:
        fitted = pipeline.fit(plan, images.members, images.truth)
        scored = pipeline.evaluate(plan, fitted, images.members, images.truth, images.persons, args.quiet, plain)
    finished = pipeline.finish(plan, pipeline.apply(plan, fitted, given))
    return Result(plan, found, names, images, fitted, scored, *finished, grouping)


def make_recipe(args, result):
    """recipe.yaml (a dict): with the members' eval.csv (and stack.csv) all that eval.csv and submission.csv are made of."""
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
    kind = f"{plan.method}-{len(result.members)}runs"
    with experiment.new_folder(args.output_dir, args.name, kind) as (folder, inside):
        eval_table = predictions.eval_table(result.names, "label", result.eval_probs)
        experiment.write_csv(inside / "submission.csv", predictions.submission_table(result.names, result.eval_probs))
        experiment.write_csv(inside / "eval.csv", eval_table, predictions.FORMAT)
        if scored:
            fold = images.table["fold"].to_numpy()
            oof = predictions.oof_table(images.table, fold, "label", images.truth[:, None], scored.probs)
            experiment.write_csv(inside / "oof.csv", oof, predictions.FORMAT)
        experiment.write_text(inside / "recipe.yaml", yaml.safe_dump(make_recipe(args, result), **YAML))
        scores = scored.scores if scored else pipeline.UNSCORED
        experiment.write_json(inside / "score.json", scores | (result.grouping.scores if result.grouping else {}))
        if result.grouping:
            result.grouping.write(inside)
        if plan.method == "stack":
            table = pipeline.stack_table(fitted.stack, [(member.name, member.target) for member in result.members])
            experiment.write_csv(inside / "stack.csv", table)
        if args.tune_bounds:
            fitted, given = pipeline.scale(fitted, images.members)
            study = bounds.study(given, images.truth, images.persons, fitted.bounds, plan.method, fitted.weights)
            bounds.draw(study, [part.bounds for part in scored.parts], inside / "bounds.png", f"age bounds of {folder.name}")
    return folder


# ---- what the user is told -----------------------------------------------------------------------------------------


def say(text, indent="", hang="  ", out=print):
    """Print text in lines of the console's width, the first after `indent`, the others after `hang`."""
    for line in textwrap.wrap(text, errors.WIDTH, initial_indent=indent, subsequent_indent=hang, break_on_hyphens=False):
        out(line)


def say_members(result):
    """The table of members: own scores, weights, what each adds; and why others are left out."""
    plan, fitted, images = result.plan, result.fitted, result.images
    adds = [np.nan] * len(result.members)
    if images:
        adds = contributions.added(plan, fitted, images.members, images.truth)
    for line in contributions.table(result.members, result.weights, adds):
        print(line)
    unused = sum(contributions.total_weight(weight) == 0 for weight in fitted.weights or [])
    if unused:
        left = contributions.left_out(plan, fitted, images.members, images.truth)
        for out in left:
            say(f"{out.index + 1} is left out: {contributions.reason(out)}")
        if unused > len(left):
            print(f"{unused - len(left)} more are left out")


def say_fit(result):
    """What was found: the temperatures, the path of the search, the bounds, the biases and the factors of the mask states."""
    fitted = result.fitted
    if fitted.temperatures:
        told = [" ".join(f"{value:.2f}" for value in heads.values()) for heads in fitted.temperatures[: contributions.SHOWN]]
        rest = f" and {len(fitted.temperatures) - len(told)} more" if len(fitted.temperatures) > len(told) else ""
        say(f"temperatures: {', '.join(f'{index}: {values}' for index, values in enumerate(told, start=1))}{rest}")
    if fitted.path:
        steps = [f"{index + 1}" if np.isnan(f1) else f"{index + 1} {f1:.4f}" for index, f1 in fitted.path]
        rest = f" and {len(steps) - contributions.SHOWN} more" if len(steps) > contributions.SHOWN else ""
        say(f"greedy path (member, in-sample macro F1): {' > '.join(steps[: contributions.SHOWN])}{rest}")
    if result.plan.bounds is None:
        parts = ", ".join(" ".join(map(str, part.bounds)) for part in result.scored.parts)
        say(
            f"age bounds: {fitted.bounds[0]} {fitted.bounds[1]} (without each of {pipeline.PARTS} parts of the people: {parts})"
        )
    if fitted.biases is not None:
        strongest = np.argsort(-np.abs(np.log(fitted.biases)))[:3]
        told = "; ".join(f"{fitted.biases[index]:.2f} for class {index}, {LABELS[index]}" for index in strongest)
        say(f"strongest factors: {told}")
    if result.plan.meets_prior:
        told = ", ".join(f"{name} {factor:.3g}" for name, factor in zip(MASKS, result.mask_factors))
        say(f"factors of the mask states for 5:1:1 among the eval images: {told}")


def say_persons(grouping):
    """What --persons found, and that it needs leave; nothing without it."""
    for line in grouping.lines() if grouping else ():
        say(line.strip(), indent=" " * (len(line) - len(line.lstrip())), hang="    ")


def say_scores(result):
    """The out-of-fold score with its interval, and for what was fitted the in-sample score and whether it paid."""
    if result.scored is None:
        lacking = [member.name for member in result.members if member.oof is None]
        print(f"no out-of-fold score: {', '.join(lacking)} has no oof.csv")
        return
    scores, plan = result.scored.scores, result.plan
    low, high = scores["oof_f1_ci95"]
    print(
        f"out-of-fold macro F1 of label: {scores['oof_f1']:.4f} (95 % CI over people {low:.4f} .. {high:.4f}), "
        f"accuracy {scores['oof_acc']:.4f}"
    )
    if plan.fitted_options:
        parts = scores["crossfit_parts"]
        print(f"  cross-fitted: each of {parts} parts of the people is scored by what was fitted to the others")
        print(f"  in-sample {scores['in_sample_f1']:.4f}: fitted to and scored on the same people, optimistic as a rule")
    if plan != pipeline.Plan(seed=plan.seed) or result.grouping:
        low, high = scores["gain_ci95"]
        print(
            f"  plain average of all members {scores['plain_f1']:.4f}: gain {scores['gain']:+.4f}, "
            f"95 % CI {low:+.4f} .. {high:+.4f}: {metrics.verdict(low, high)}"
        )
    if plan.meets_prior:
        say_true_shares(result.images.truth)


def say_plain_oof(tta, found):
    """Which members' part in the out-of-fold score is without the TTA that their eval predictions have."""
    lacking = [member.name for member in found if member.oof is not None and not members.has_oof(member.source, tta)]
    if lacking:
        made = f"python inference.py --models RUN --tta {tta} --oof makes them with it"
        say(f"out of fold without --tta {tta}: {', '.join(lacking)}; {made}", indent="  ", hang="    ")


def say_true_shares(truth):
    """Where the true mask shares of labels [N] depart from 5:1:1, that the prior is not theirs."""
    shares = np.bincount(decode(truth)[0], minlength=len(MASKS)) / len(truth)
    if np.abs(shares - MASK_PRIOR).max() > PRIOR_TOLERANCE:
        told = ", ".join(f"{name} {share:.1%}" for name, share in zip(MASKS, shares))
        say(f"the out-of-fold images are not 5:1:1 by mask ({told}): the prior is a wrong one there", indent="  ", hang="    ")


def predicted_shares(eval_probs):
    """Shares of the predicted classes of each part, in a line."""
    said = []
    for classes, names in zip(decode(eval_probs.argmax(1)), (MASKS, GENDERS, AGE_GROUPS)):
        shares = [f"{name} {np.mean(classes == index):.1%}" for index, name in enumerate(names)]
        said.append(", ".join(shares if len(shares) > 2 else shares[1:]))
    return "; ".join(said)


def warn_of_prior(eval_probs):
    """A warning on stderr where a predicted mask share departs from 5:1:1 by more than a percentage point."""
    mask = decode(eval_probs.argmax(1))[0]
    counts, expected = np.bincount(mask, minlength=len(MASKS)), np.multiply(MASK_PRIOR, len(mask))
    if np.abs(counts - expected).max() > PRIOR_TOLERANCE * len(mask):
        told = ", ".join(
            f"{name} {count:,} ({count / len(mask):.1%}) for {round(prior):,} ({prior / len(mask):.1%})"
            for name, count, prior in zip(MASKS, counts, expected)
        )
        say(f"warning: eval images are 5:1:1 by mask, but the predictions are {told}", out=errors.say)


def say_next(args, result, folder):
    """What to hand in, where there is a choice, and the next command."""
    images, advised = result.images, None
    data = dataset.as_option(args.data_dir) if args.data_dir else ""
    if images:
        advised = advice.advise(folder, images.table.assign(target=images.truth), result.names)
    for line in advice.lines(advised) if advised else ():
        print(line)
    if advised and advised.second:
        told = shlex.join(["compare.py", str(advised.first.folder), str(advised.second.folder)]) + data
    elif images and not result.plan.fitted_options and len(result.members) > 1:
        told = shlex.join(["ensemble.py", "--models", *args.models, "--folds", args.folds, "--tta", args.tta])
        cut = "" if result.plan.bounds == OFFICIAL_BOUNDS else f" {bounds_option(args)}"
        kept = f"{' --decode prior' if result.plan.meets_prior else ''}{' --persons' if args.persons else ''}"
        told += f"{cut}{data}{kept} --search greedy"
    else:
        told = "leaderboard.py"
    print(f"next: python {told}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
