"""What ensemble.py tells its user: members, what was fitted, scores and whether it paid, what to hand in, what comes next."""

import shlex
import textwrap

import numpy as np

import advice
import blend
import contributions
import demo
import errors
import metrics
import predictions
from dataset import AGE_GROUPS, GENDERS, LABELS, MASK_PRIOR, MASKS, OFFICIAL_BOUNDS, decode

PRIOR_TOLERANCE = 0.01  # of a predicted mask share


def bounds_option(args):
    """The option that says where ages are cut, as it stands in the command line."""
    return "--tune-bounds" if args.tune_bounds else "--age-bounds {} {}".format(*args.age_bounds)


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
    for line in contributions.contributions_table(result.members, result.weights, adds):
        print(line)
    unused = sum(contributions.total_weight(weight) == 0 for weight in fitted.weights or [])
    if unused:
        left = contributions.left_out(plan, fitted, images.members, images.truth)
        for out in left:
            say(f"{out.index + 1} is left out: {contributions.left_out_reason(out)}")
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
        more = len(steps) - contributions.SHOWN
        rest = f" and {more} more, to {fitted.path[-1][1]:.4f}" if more > 0 else ""
        say(f"greedy path (member, in-sample macro F1): {' > '.join(steps[: contributions.SHOWN])}{rest}")
    if result.plan.bounds is None:
        parts = ", ".join(" ".join(map(str, part.bounds)) for part in result.scored.parts)
        say(
            f"age bounds: {fitted.bounds[0]} {fitted.bounds[1]} (without each of "
            f"{blend.CROSSFIT_FOLDS} parts of the people: {parts})"
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
    if plan != blend.Plan(seed=plan.seed) or result.grouping:
        low, high = scores["gain_ci95"]
        print(
            f"  plain average of all members {scores['plain_f1']:.4f}: gain {scores['gain']:+.4f}, "
            f"95 % CI {low:+.4f} .. {high:+.4f}: {metrics.verdict(low, high)}"
        )
    if plan.meets_prior:
        say_true_shares(result.images.truth)


def say_plain_oof(tta, found):
    """Which members' part in the out-of-fold score is without the TTA that their eval predictions have."""
    lacking = [member.name for member in found if member.oof is not None and not predictions.has_oof(member.source, tta)]
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
    data = demo.as_option(args.data_dir) if args.data_dir else ""
    if images:
        advised = advice.advise(folder, images.table.assign(target=images.truth), result.names)
    for line in advice.advice_lines(advised) if advised else ():
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
