"""Combine runs into one submission: any mix of targets that together decide mask, gender and age group.

    python ensemble.py --models runs/*age* runs/*gender* runs/*mask*
    python ensemble.py --models "runs/*" --search greedy --decode f1

Makes eval predictions that are missing, and writes submissions/NAME/: submission.csv, eval.csv (18 probabilities), recipe.yaml,
score.json, oof.csv when every member has one, bounds.png with --tune-bounds, persons.csv with --persons. What is fitted on
out-of-fold predictions is scored on people that it was not fitted to; oof.csv then holds those probabilities.
"""

import errors

if __name__ == "__main__":
    errors.begin()  # the modules below take a while

import contextlib
import shlex
import sys
from collections import namedtuple

import numpy as np
import pandas as pd
import yaml
from sklearn.metrics.cluster import pair_confusion_matrix

import blend
import dataset
import experiment
import figures
import files
import gallery
import hardware
import images
import inference
import options
import predictions
from dataset import AGE_GROUPS, COMPONENTS, GENDERS, LABELS, MASK_PRIOR, MASKS, OFFICIAL_BOUNDS, decode, head_slices
from errors import InputError, tr

# Tables image,group,weight of the eval images and of the out-of-fold rows (None where a member has none), and the pair scores.
Grouping = namedtuple("Grouping", "eval oof scores")
MASK_WEIGHTS = (1.0, 2.0, 5.0)  # of a person's images: the bare face says as much as the five with a mask


def find_persons(names, table, args):
    """The Grouping of eval images and of out-of-fold rows (image, path; over all folds) or None."""
    data_dir = dataset.find_data(args.data_dir)
    if data_dir is None:
        raise InputError("--persons: looks at the images, and there is no data folder here; give --data-dir")

    def grouped(names, paths):
        thumbnails, _bad = images.open_cache(paths, images.Geometry(24, 18), args.cache_dir, quiet=args.quiet)
        groups = images.group_alike(images.likeness_features(np.asarray(thumbnails)))
        return pd.DataFrame({"image": names, "group": groups})

    eval_groups = grouped(names, [f"{data_dir}/eval/images/{name}" for name in names])
    if table is None:
        return Grouping(eval_groups, None, {})
    oof = grouped(table["image"], dataset.image_files(data_dir, table["image"]))
    return Grouping(eval_groups, oof, dict(zip(("pair_precision", "pair_recall"), pair_scores(oof["group"], table["path"]))))


def _group_means(probs, groups, weights):
    """The weighted mean of the rows [N, C] of each group, for each of its rows: [N, C]."""
    sums = np.zeros((groups.max() + 1, probs.shape[1]))
    np.add.at(sums, groups, probs * weights[:, None])
    return sums[groups] / np.bincount(groups, weights)[groups, None]


def share_probs(target, probs, groups, weights):
    """A member's probabilities [N, C] with those of gender and age averaged over each group by the images' weights [N]; each
    keeps its own mask's. Of the classes of `label` the mean is that of gender and age group together; an image alone stays."""
    if target == "label":
        joint = probs.reshape(len(probs), len(MASKS), len(GENDERS) * len(AGE_GROUPS))
        product = (joint.sum(2)[:, :, None] * _group_means(joint.sum(1), groups, weights)[:, None, :]).reshape(probs.shape)
        return np.where((np.bincount(groups)[groups] > 1)[:, None], product, probs)
    shared = np.array(probs, dtype=np.float64)
    for head, columns in head_slices(target).items():
        if head != "mask":
            shared[:, columns] = _group_means(shared[:, columns], groups, weights)
    return shared


def share_members(members, table):
    """Members with the probabilities of each shared within the groups of a table of a Grouping."""
    groups, weights = table["group"].to_numpy(), table["weight"].to_numpy()
    return [(target, share_probs(target, probs, groups, weights)) for target, probs in members]


def weigh(table, members):
    """Add `weight` to a table of a Grouping: what an image of the members' mean mask probabilities says, by MASK_WEIGHTS."""
    table["weight"] = np.round(blend.components(members)[1]["mask"] @ MASK_WEIGHTS, 6)


def pair_scores(groups, persons):
    """(precision, recall) of pairs of images in one group, groups [N], against pairs of one person, persons [N]; 0 of none."""
    (_apart, wrong), (missed, right) = pair_confusion_matrix(persons, groups)
    return tuple(round(float(right / max(right + others, 1)), 6) for others in (wrong, missed))


SHOWN = 12  # steps of the greedy path

# A scored result folder: macro F1 and half the width of its interval, out-of-fold answers as of predictions.read_answers and
# answers to the eval images; `grouped`: made with --persons, so check that the rules allow grouping eval images.
Candidate = namedtuple("Candidate", "folder f1 half oof answers grouped")


def read_candidates(folder, oof, names):
    """The Candidates, of the 20 highest scores, in and beside a result folder that are of its `oof` images and eval `names`."""
    candidates = []
    for record in experiment.scored_records(folder.parent)[:20]:
        (low, high), grouped = record.oof_f1_ci95, bool(record.options.get("persons"))
        with contextlib.suppress(InputError):
            table = predictions.read_table(record.folder / "oof.csv", "label", ("image",)).set_index("image")
            answers = pd.Series(dict(zip(*dataset.read_submission(record.folder / "submission.csv"))))
            if set(table.index) == set(oof["image"]) and set(answers.index) == set(names):
                pred = table.loc[oof["image"], dataset.columns("label")].to_numpy().argmax(1)
                both = oof.assign(answer=pred), answers[names].to_numpy()
                candidates.append(Candidate(record.folder, record.oof_f1, (high - low) / 2, *both, grouped))
    return candidates


def choose_pair(candidates):
    """(first, second, lines of text), the two to hand in: that of the highest score and, within noise of it, that whose
    errors are least like its errors; None where there is no such, or only the first's answers again."""
    first, *others = candidates
    names = {one.folder: f"{one.folder}{' (--persons)' * one.grouped}" for one in candidates}
    lines = [tr(f"  1  {names[first.folder]}: macro F1 {first.f1:.4f}, the highest")]
    others = [one for one in others if (one.answers != first.answers).any()]
    near = [other for other in others if first.f1 - other.f1 <= first.half + other.half]
    alike = {other.folder: np.nan_to_num(predictions.error_correlation(first.oof, other.oof)) for other in near}
    for other in sorted(near, key=lambda other: alike[other.folder]):
        lead = predictions.difference("label", [first.oof], [other.oof])
        if lead.verdict == "noise":
            gap = f"lower by {first.f1 - other.f1:.4f} (95 % CI {lead.low:+.4f} .. {lead.high:+.4f}: noise)"
            like = f"correlation {alike[other.folder]:.2f}, {(first.answers != other.answers).mean():.1%} of answers differ"
            lines.append(tr(f"  2  {names[other.folder]}: macro F1 {other.f1:.4f}, {gap};"))
            lines.append(tr(f"     its errors are least like those of 1: {like}"))
            return first, other, lines
    lines.append(tr("  2  none: all else is worse by more than noise, or the same again; combine other members for one"))
    return first, None, lines


def advise(folder, oof, names):
    """(first, second, lines of text) of the two to hand in, of a result folder and those beside it; no lines of fewer than two.
    oof: its image, path and truth, names: its eval images. Where one was made with --persons, two without are named too."""
    candidates = read_candidates(folder, oof, names)
    if len(candidates) < 2:
        return None, None, []
    first, second, lines = choose_pair(candidates)
    if first.grouped or (second and second.grouped):
        allowed = [candidate for candidate in candidates if not candidate.grouped]
        lines.append(tr("  --persons joins images, which the contest's rules must allow; without it:"))
        lines += choose_pair(allowed)[2] if allowed else [tr("  none: combine members without --persons")]
    return first, second, [tr("the two to hand in at the end:"), *lines]


def total_weight(weight):
    """The weight of a member as one number: the sum over its components."""
    return sum(weight.values()) if isinstance(weight, dict) else weight


def added(pipeline, fitted, members, truth):
    """In-sample macro F1 with each member minus that without it, nothing fitted anew [len(members)].
    One without weight enters at the mean weight of the others. inf where these leave a component undecided; NaN of a stack."""
    if pipeline.method == "stack":
        return np.full(len(members), np.nan)
    members = blend.scale_members(members, fitted.temperatures)
    weights = fitted.weights or [1] * len(members)
    totals = np.array([total_weight(weight) for weight in weights])

    def f1(weights):
        try:
            probs = blend.apply_pipeline(pipeline, fitted._replace(weights=weights), members)
        except InputError:
            return -np.inf
        return predictions.macro_f1(truth, blend.finish_pipeline(pipeline, probs)[0])

    whole, adds = f1(weights), []
    for index, total in enumerate(totals):
        other = f1([*weights[:index], 0 if total else totals[totals > 0].mean(), *weights[index + 1 :]])
        adds.append(whole - other if total else other - whole)
    return np.array(adds)


def _weight_text(weight):
    if isinstance(weight, dict):
        return "/".join(f"{value:.2f}" for value in weight.values())
    return "–" if weight is None else f"{weight:g}" if weight == int(weight) else f"{weight:.3f}"


def contributions_table(members, weights, adds):
    """Lines of a table of predictions.Members with their weights (None: there is none) and what each adds or would add."""
    rows = []
    for number, (member, weight, add) in enumerate(zip(members, weights, adds), start=1):
        own = "–"
        if member.oof is not None:
            truth, probs = predictions.scored(member.oof, member.target)
            own = f"{predictions.macro_f1(truth, probs):.4f}"
        more = "–" if np.isnan(add) else tr("needed") if np.isinf(add) else f"{add:+.4f}"
        more = more if weight is None or total_weight(weight) > 0 else f"({more})"
        folds, scored_as = " ".join(map(str, member.folds)) or "–", member.scored_as
        rows.append((member.name, str(number), member.target, folds, scored_as, own, _weight_text(weight), more))
    head = ("member", "#", "target", "folds", "scored on", "own F1", "weight", "adds")
    return files.aligned(head, rows, left=(0, 2, 3, 4), width=errors.WIDTH)


def say(text, indent="", hang="  ", out=print):
    """Print text in lines of the console's width, the first after `indent`, the others after `hang`."""
    for line in errors.wrap(tr(text), initial_indent=indent, subsequent_indent=hang, break_on_hyphens=False):
        out(line)


def say_members(result, explain):
    """Print the table of members."""
    pipeline, fitted, images = result.pipeline, result.fitted, result.images
    adds = added(pipeline, fitted, images.members, images.truth) if images else [np.nan] * len(result.members)
    for line in contributions_table(result.members, result.weights, adds):
        print(line)
    if any(total_weight(weight) == 0 for weight in fitted.weights or ()):
        errors.say("(in brackets: left out", ", and what it would add at the mean weight of the others" * explain, ")")


def say_fit(result):
    """Print the temperatures, the path of the search, the bounds, the class factors and the factors of the mask states."""
    fitted = result.fitted
    if fitted.temperatures:
        of_members = [" ".join(f"{value:.2f}" for value in heads.values()) for heads in fitted.temperatures]
        say(f"temperatures: {', '.join(f'{index}: {text}' for index, text in enumerate(of_members, start=1))}")
    if fitted.path:
        steps = [f"{index + 1}" if np.isnan(f1) else f"{index + 1} {f1:.4f}" for index, f1 in fitted.path]
        rest = tr(f" and {len(steps) - SHOWN} more, to {fitted.path[-1][1]:.4f}") if len(steps) > SHOWN else ""
        say(f"greedy path (member, in-sample macro F1): {' > '.join(steps[:SHOWN])}{rest}")
    if result.pipeline.bounds is None:
        (low, high), count = fitted.bounds, blend.CROSSFIT_FOLDS
        folds = ", ".join(" ".join(map(str, fold.bounds)) for fold in result.scored.fitted_folds)
        say(f"age bounds: {low} {high} (without each of {count} parts of the people: {folds})")
    if fitted.class_factors is not None:
        strongest = np.argsort(-np.abs(np.log(fitted.class_factors)))[:3]
        factors = [tr(f"{fitted.class_factors[index]:.2f} for class {index}, {LABELS[index]}") for index in strongest]
        say(f"strongest factors: {'; '.join(factors)}")
    if "prior" in result.pipeline.decode:
        factors = ", ".join(f"{name} {factor:.3g}" for name, factor in zip(MASKS, result.mask_factors))
        say(f"factors of the mask states for 5:1:1 among the eval images: {factors}")


def say_persons(grouping):
    """Print the groups that --persons made, and that the rules decide."""
    count = "{:,} eval images in {:,} groups".format(*grouping.eval.nunique())
    say(f"persons: {count} of {images.SIZE} at most", hang="    ")
    if grouping.oof is not None:
        pairs = "of the pairs in a group {:.1%} are of one person, of the pairs of a person {:.1%} are in a group"
        count = "{:,} images in {:,}".format(*grouping.oof.nunique())
        say(f"out of fold, all people at once, {count}: {pairs.format(*grouping.scores.values())}", "  ", "    ")
    say("whether images may be answered together is for the contest's rules to say: ask before you hand it in", "  ", "    ")


def say_scores(result, explain=False):
    """Print the out-of-fold score with its interval and, of what was fitted, the in-sample score and the gain."""
    if result.scored is None:
        missing = [member.name for member in result.members if member.oof is None]
        errors.say(f"no out-of-fold score: {', '.join(missing)} has no oof.csv")
        return
    scores, pipeline = result.scored.scores, result.pipeline
    low, high = scores["oof_f1_ci95"]
    errors.say(f"out-of-fold macro F1 of label: {scores['oof_f1']:.4f} (95 % CI over people {low:.4f} .. {high:.4f}), "
               f"accuracy {scores['oof_acc']:.4f}")  # fmt: skip
    if pipeline.fitted_options and not explain:
        errors.say(f"  cross-fitted; in-sample {scores['in_sample_f1']:.4f} (--explain)")
    elif pipeline.fitted_options:
        folds = scores["crossfit_parts"]
        errors.say(f"  cross-fitted: each of {folds} parts of the people is scored by what was fitted to the others")
        errors.say(f"  in-sample {scores['in_sample_f1']:.4f}: fitted to and scored on the same people, optimistic as a rule")
    if pipeline != blend.Pipeline(seed=pipeline.seed) or result.grouping:
        gain = predictions.Difference(scores["gain"], *scores["gain_ci95"])
        text = f"gain {gain.value:+.4f}, 95 % CI {gain.low:+.4f} .. {gain.high:+.4f}: {tr(gain.verdict)}"
        errors.say(f"  plain average of all members {scores['plain_f1']:.4f}: {text}")


def say_plain_oof(tta, members):
    """Print the members whose out-of-fold predictions are without the TTA that their eval predictions have."""
    missing = [member.name for member in members if member.oof is not None and not predictions.has_oof(member, tta)]
    if missing:
        made = f"python inference.py --models RUN --tta {tta} --oof makes them with it"
        say(f"out of fold without --tta {tta}: {', '.join(missing)}; {made}", indent="  ", hang="    ")


def warn_of_prior(eval_probs):
    """Warn on stderr where a predicted mask share departs from 5:1:1 by more than a percentage point."""
    N = len(eval_probs)
    counts, expected = blend.predicted_counts(eval_probs), np.multiply(MASK_PRIOR, N)
    if np.abs(counts - expected).max() > 0.01 * N:
        text = "{} {:,} ({:.1%}) for {} ({:.1%})"
        shares = [text.format(*row) for row in zip(MASKS, counts, counts / N, map("{:,.0f}".format, expected), expected / N)]
        say(f"warning: eval images are 5:1:1 by mask, but the predictions are {', '.join(shares)}", out=errors.log)


def say_forecast(folder):
    """Print the forecast of a result's public leaderboard score, from the results beside it whose own is known."""
    known = {one.folder: one.lb for one in experiment.scored_records(folder.parent) if one.lb is not None}
    best = max(known.values(), default=None)
    forecast = predictions.forecast_lb(dict([*known.items()][:20]) | {folder: None}, best).get(folder)
    if forecast:
        low, high = forecast.score - forecast.half, forecast.score + forecast.half
        beats = "" if best is None else f"; chance of beating {best:.4f}, the best beside it: {forecast.beats:.0%}"
        errors.say(f"forecast of the public LB: {forecast.score:.3f} (80 % interval {low:.3f} .. {high:.3f})", beats)


def predicted_shares(eval_probs):
    """Shares of the predicted classes of each component, in a line."""
    said = []
    for classes, names in zip(decode(eval_probs.argmax(1)), (MASKS, GENDERS, AGE_GROUPS)):
        shares = [f"{name} {np.mean(classes == index):.1%}" for index, name in enumerate(names)]
        said.append(", ".join(shares if len(shares) > 2 else shares[1:]))
    return "; ".join(said)


def print_next(args, result, folder):
    """Print the two to hand in, where there is a choice, and the next command."""
    images, data = result.images, dataset.data_option(args.data_dir) if args.data_dir else ""
    oof = images and images.table.assign(truth=images.truth)
    first, second, lines = advise(folder, oof, result.names) if images else (None, None, [])
    for line in lines:
        print(line)
    has_choice = sum(len(dataset.DECIDES[member.target]) for member in result.members) > len(COMPONENTS)  # else all are needed
    if second:
        command = shlex.join(["compare.py", str(first.folder), str(second.folder)]) + data
    elif images and not result.pipeline.fitted_options and has_choice:
        command = shlex.join(["ensemble.py", "--models", *args.models, "--folds", args.folds, "--tta", args.tta])
        command += "" if result.pipeline.bounds == OFFICIAL_BOUNDS else f" {bounds_option(args)}"
        command += data + " --decode prior" * ("prior" in args.decode) + " --persons" * args.persons + " --search greedy"
    else:
        command = "leaderboard.py"
    errors.say(f"next: python {command}")


def bounds_option(args):
    """The option that says where ages are cut, as in the command line."""
    return "--tune-bounds" if args.tune_bounds else "--age-bounds {} {}".format(*args.age_bounds)


def parse_args(argv):
    parser = errors.Parser("Combine runs into one submission: any mix of targets that decide mask, gender and age group.")
    parser.add_argument("--models", nargs="+", required=True, metavar="RUN",
                        help="run or ensemble folders, RUN:foldN, RUN:best, or patterns in quotes")  # fmt: skip
    parser.add_argument("--method", choices=("soft", "hard", "stack"), default="soft",
                        help="average probabilities, vote, or learn from them (multinomial logistic regression)")  # fmt: skip
    parser.add_argument("--search", choices=("none", "greedy", "weights"), default="none",
                        help="greedy: choose members, with replacement; weights: weigh each member and part")  # fmt: skip
    parser.add_argument("--decode", choices=("argmax", "f1", "prior", "f1+prior"), default="argmax",
                        help="before the highest probability is taken: f1: a factor for each class, for macro F1; prior: one "
                        "for each mask state, so that the predictions are 5:1:1 by mask as the eval images are")  # fmt: skip
    parser.add_argument("--temperature", action="store_true",
                        help="scale each member to be as sure as it is right, before members are averaged")  # fmt: skip
    parser.add_argument("--persons", action="store_true",
                        help="images that look like one person share gender and age; the contest's rules decide")  # fmt: skip
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--age-bounds", type=errors.whole_int, nargs=2, default=list(OFFICIAL_BOUNDS), metavar=("LO", "HI"),
                     help="where the distributions of target age runs are cut")  # fmt: skip
    cut.add_argument("--tune-bounds", action="store_true", help="find that cut on out-of-fold predictions, and draw bounds.png")
    options.add_folds(parser, numbers=False)
    options.add_tta(parser)
    parser.add_argument("--seed", type=errors.natural_int, default=0, help="of the parts of the people that are scored")
    parser.add_argument("--explain", action="store_true", help="say how the table and the scores are to be read")
    parser.add_argument("--name", help="folder of the result; without it the next NN-METHOD-COUNTruns")
    parser.add_argument("--note", metavar="TEXT", help="why this is tried; leaderboard.py shows it, and its --note replaces it")
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


# The images that every member predicts out of fold: rows of oof.csv, official labels [N], members' (target, probabilities).
OofImages = namedtuple("OofImages", "table truth members")

# The result to write and print; `images` and `scored` are None where a member has no oof.csv. `weights`: of each member, None
# in a stack; `mask_factors`: of the eval images with --decode prior; `grouping`: with --persons.
Submission = namedtuple("Submission", "pipeline members weights names images fitted scored eval_probs mask_factors grouping")


def main(argv=None):
    hardware.tune_malloc()
    args = parse_args(argv)
    experiment.check_free(args.output_dir, args.name)
    cut = None if args.tune_bounds else tuple(args.age_bounds)
    pipeline = blend.Pipeline(args.method, args.search, args.decode, cut, args.seed, args.temperature)
    data_dir = dataset.find_data(args.data_dir)
    result = combine(args, pipeline, read_members(args, pipeline))
    folder = write_result(args, result)
    say_members(result, args.explain)
    say_fit(result)
    if result.grouping:
        say_persons(result.grouping)
    say_scores(result, args.explain)
    say_plain_oof(args.tta, result.members)
    inference.print_score(data_dir, result.names, result.eval_probs, folder.name)
    errors.say(f"{folder / 'submission.csv'}: {len(result.names)} images")
    say(predicted_shares(result.eval_probs), indent="  ")
    warn_of_prior(result.eval_probs)
    if result.images:
        gallery.write_report(folder, args.data_dir, args.device, args.quiet)
        errors.say(f"{folder / 'report.html'}: scores by class, age, person and fold; the wrong images")
        say_forecast(folder)
    print_next(args, result, folder)
    return 0


def read_members(args, pipeline):
    """The members that --models names; eval predictions that are missing are made first."""
    sources = predictions.find_members(args.models, args.folds)
    blend.check_decided([source.target for source in sources])
    if "age" not in {source.target for source in sources} and pipeline.bounds != OFFICIAL_BOUNDS:
        raise InputError(f"{bounds_option(args)}: only runs of target age can be cut anew, and none is given")
    for source in sources if pipeline.fitted_options else ():
        if not source.matched and not (source.folder / "oof.csv").is_file():
            needs = f"{pipeline.fitted_options[0]}: needs out-of-fold predictions, and {source.name} has no oof.csv"
            raise InputError(f"{needs}; leave out that member or the option")

    def predict(jobs):
        device = hardware.pick_device(args.device)  # before the demo set is drawn
        inference.predict_folds(jobs, dataset.read_eval(options.data_dir(args)), args, device)

    needs_oof = bool(pipeline.fitted_options)
    with predictions.predicting(source.folder for source in sources if source.is_run):
        return predictions.read_members(sources, args.tta, predict, pipeline.temperature, needs_oof, args.data_dir)


def combine(args, pipeline, members):
    """The Submission of a pipeline: fitted and scored on out-of-fold predictions, applied to the eval images."""
    names, images = members[0].eval["ImageID"].tolist(), None
    if all(member.oof is not None for member in members):
        table, truth = predictions.oof_truth(members)
        images = OofImages(table, truth, [(member.target, member.oof_probs(table["image"])) for member in members])
    folds = [[(member.target, probs) for probs in member.fold_probs(names)] for member in members]
    plain = images and blend.blend(images.members)
    fitted, scored, grouping = blend.Fitted(pipeline.bounds), None, None
    if args.persons:
        grouping = find_persons(names, images and images.table, args)
        weigh(grouping.eval, blend.average_folds(fitted, folds))
        folds = [share_members(models, grouping.eval) for models in folds]
        if images:
            weigh(grouping.oof, images.members)
            images = images._replace(members=share_members(images.members, grouping.oof))
    if images:
        fitted = blend.fit_pipeline(pipeline, images.members, images.truth)
        persons = images.table["path"].to_numpy()
        scored = blend.score_pipeline(pipeline, fitted, images.members, images.truth, persons, args.quiet, plain)
    finished = blend.finish_pipeline(pipeline, blend.apply_pipeline(pipeline, fitted, blend.average_folds(fitted, folds)))
    weights = [None] * len(members) if pipeline.method == "stack" else fitted.weights or [1] * len(members)
    return Submission(pipeline, members, weights, names, images, fitted, scored, *finished, grouping)


def make_recipe(args, result):
    """recipe.yaml (a dict): with the eval.csv of the members' folds (and stack.csv) all that the answers are made of."""
    fitted = result.fitted
    names = ("method", "search", "decode", "age_bounds", "tune_bounds", "temperature", "persons", "tta", "seed", "note")
    recipe = {name: getattr(args, name) for name in names} | {"age_bounds": list(fitted.bounds), "members": []}
    for member, weight in zip(result.members, result.weights):
        recipe["members"].append({"run": member.name, "target": member.target, "folds": member.folds, "weight": weight})
    for member, temperature in zip(recipe["members"], fitted.temperatures or ()):
        member["temperature"] = temperature
    if fitted.path:
        scores = [(index, None if np.isnan(f1) else round(float(f1), 6)) for index, f1 in fitted.path]
        recipe["path"] = [{"run": result.members[index].name, "in_sample_f1": f1} for index, f1 in scores]
    if fitted.class_factors is not None:
        recipe["biases"] = fitted.class_factors.tolist()
    if "prior" in args.decode:
        recipe["mask_factors"] = result.mask_factors.tolist()
        if result.scored:
            recipe["oof_mask_factors"] = result.scored.mask_factors.tolist()
    if args.tune_bounds:
        recipe["crossfit_bounds"] = [list(fold.bounds) for fold in result.scored.fitted_folds]
    return recipe


def write_result(args, result):
    """Write the result folder, complete or not at all, and return it."""
    images, scored, pipeline, fitted = result.images, result.scored, result.pipeline, result.fitted

    def fill(inside, name):
        eval_table = predictions.eval_table(result.names, "label", result.eval_probs)
        files.write_csv(inside / "submission.csv", eval_table[["ImageID"]].assign(ans=result.eval_probs.argmax(1)))
        files.write_csv(inside / "eval.csv", eval_table, predictions.FORMAT)
        if scored:
            fold = images.table["fold"].to_numpy()
            oof = predictions.oof_table(images.table, fold, "label", images.truth[:, None], scored.probs)
            files.write_csv(inside / "oof.csv", oof, predictions.FORMAT)
        layout = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": errors.WIDTH}
        files.write_text(inside / "recipe.yaml", yaml.safe_dump(make_recipe(args, result), **layout))
        scores = scored.scores if scored else dict.fromkeys(blend.SCORES)
        files.write_json(inside / "score.json", scores | (result.grouping.scores if result.grouping else {}))
        if result.grouping:
            files.write_csv(inside / "persons.csv", result.grouping.eval)
            if scored:
                files.write_csv(inside / "oof_persons.csv", result.grouping.oof)
        if pipeline.method == "stack":
            table = blend.stack_table(fitted.stack, [(member.name, member.target) for member in result.members])
            files.write_csv(inside / "stack.csv", table)
        if args.tune_bounds:
            given, persons = blend.scale_members(images.members, fitted.temperatures), images.table["path"].to_numpy()
            study = blend.study_bounds(given, images.truth, persons, fitted.bounds, pipeline.method, fitted.weights)
            title, fold_bounds = figures.caption(f"age bounds of {name}"), [fold.bounds for fold in scored.fitted_folds]
            files.write_figure(inside / "bounds.png", figures.bounds(study, fold_bounds, title))

    kind = f"{pipeline.method}-{len(result.members)}runs"
    return experiment.make_folder(args.output_dir, args.name, lambda: experiment.next_number(args.output_dir, kind), fill)


if __name__ == "__main__":
    sys.exit(errors.run(main))
