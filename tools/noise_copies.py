"""What fitting to out-of-fold predictions gains on noise: copies of one run that differ by nothing else.

    python tools/noise_copies.py runs/01-AdamP-Cosine-FL-v0-label_5fold

Each copy has the run's log-probabilities plus normal noise of its own, so no copy is better than another and whatever a
fit gains over equal weights is noise. Prints, for each seed and fit, macro F1 minus that of equal weights: in-sample, and
cross-fitted over people.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts lie above

import blend
import dataset
import metrics
import predictions
from dataset import LABELS, OFFICIAL_BOUNDS


def weighted(weights, copies):
    return blend.blend(copies, weights=weights)


FITS = {
    "greedy": (lambda copies, truth: blend.greedy(copies, truth, OFFICIAL_BOUNDS)[0], weighted),
    "weights": (lambda copies, truth: blend.tune_weights(copies, truth, OFFICIAL_BOUNDS), weighted),
    "f1 decoding": (
        lambda copies, truth: metrics.fit_class_factors(blend.blend(copies), truth, len(LABELS)),
        lambda factors, copies: metrics.apply_class_factors(blend.blend(copies), factors),
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", help="a run of target label")
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--noise", type=float, default=1.0, help="standard deviation added to log-probabilities")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fits", nargs="+", choices=FITS, default=list(FITS))
    args = parser.parse_args()
    oof = predictions.read_oof(predictions.open_member(args.run))
    truth, persons = oof["target"].to_numpy(), oof["path"].to_numpy()
    logs = np.log(oof[dataset.columns("label")].to_numpy() + 1e-6)

    def f1(probs):
        return metrics.macro_f1(truth, probs.argmax(1), len(LABELS))

    print(f"{args.copies} copies of {args.run}: macro F1 minus that of equal weights")
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        copies = [("label", dataset.softmax(logs + rng.normal(0, args.noise, logs.shape))) for _ in range(args.copies)]
        equal = f1(blend.blend(copies))
        for name in args.fits:
            fit, apply = FITS[name]
            in_sample = f1(apply(fit(copies, truth), copies)) - equal
            honest = f1(blend.crossfit(fit, apply, copies, truth, persons)) - equal
            scores = f"in-sample {in_sample:+.4f}  cross-fitted {honest:+.4f}  (equal {equal:.4f})"
            print(f"seed {seed}  {name:<12} {scores}", flush=True)


if __name__ == "__main__":
    main()
