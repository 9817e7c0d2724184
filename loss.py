"""Training losses, pure functions of logits float32 [B, C] and soft targets [B, C]; docs/losses.md says when to try which.

`class_weights` [C] multiplies each class's share of a loss, and a loss is always the plain mean over the batch: unlike
torch's, it is not divided by the weights in the batch, which would undo them where a batch holds one class only.
"""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from dataset import CLASS_NAMES, FIRST_AGE, HEADS, LAST_AGE, head_slices
from errors import InputError, did_you_mean

LOSS_CODES = {"ce": "CE", "label_smoothing": "LS", "focal": "FL", "f1": "F1", "logit_adjusted": "LA", "ordinal": "OR"}
CLASS_WEIGHTS = ("none", "balanced", "effective")
BETA = 0.999  # of the effective number of images


def parse_loss(spec):
    """Read 'focal', 'ce+f1' or '0.6*focal+0.4*f1' as [(weight, name), ...]; weights are 1 unless given. Names are the keys of
    LOSS_CODES, weights positive and finite; they need not sum to 1. Anything else: InputError."""
    terms = []
    for term in spec.split("+"):
        weight, star, name = (piece.strip() for piece in term.rpartition("*"))
        if name not in LOSS_CODES:
            allowed = f"{', '.join(LOSS_CODES)}, or a sum such as 0.6*focal+0.4*f1"
            raise InputError(f'--loss {spec}: unknown loss "{name}"; allowed: {allowed}.{did_you_mean(name, LOSS_CODES)}')
        try:
            value = float(weight) if star else 1.0
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise InputError(f'--loss {spec}: weight "{weight}" of {name} is not a positive number, such as 0.5*{name}')
        terms.append((value, name))
    return terms


def loss_code(spec):
    """Short name of a loss for run names: 'FL', 'CE+F1'. Weights are left out."""
    return "+".join(LOSS_CODES[name] for _, name in parse_loss(spec))


def build_loss(spec, class_counts, gamma=2.0, smoothing=0.025, class_weights=None):
    """The loss that `spec` names (see parse_loss): a function of (logits, target) -> scalar. Tensors on their device:
    class_counts [C], training images of each class, the prior of logit_adjusted; class_weights [C] belong to every term."""
    terms = parse_loss(spec)
    functions = {
        "ce": cross_entropy,
        "label_smoothing": partial(label_smoothing, smoothing=smoothing),
        "focal": partial(focal, gamma=gamma),
        "f1": soft_f1,
        "logit_adjusted": partial(logit_adjusted, class_counts=class_counts),
        "ordinal": ordinal,
    }

    def loss(logits, target):
        return sum(weight * functions[name](logits, target, class_weights=class_weights) for weight, name in terms)

    return loss


def cross_entropy(logits, target, class_weights=None):
    """Cross entropy, the mean over the batch of -sum_c w_c t_c log p_c."""
    if class_weights is not None:
        target = target * class_weights
    return -(target * logits.log_softmax(1)).sum(1).mean()


def label_smoothing(logits, target, smoothing=0.025, class_weights=None):
    """Cross entropy against (1 - smoothing) * target + smoothing / C (Szegedy et al. 2016, 1512.00567), as in torch."""
    return cross_entropy(logits, (1 - smoothing) * target + smoothing / logits.shape[1], class_weights)


def focal(logits, target, gamma=2.0, class_weights=None):
    """Focal loss over softmax, the mean of -sum_c w_c t_c (1 - p_c)^gamma log p_c (Lin et al. 2017, 1708.02002). The paper's
    sigmoid over one logit z is this with logits [z, 0]; its alpha is class_weights [alpha, 1 - alpha]."""
    if class_weights is not None:
        target = target * class_weights
    log_probs = logits.log_softmax(1)
    # 1 - p from its logarithm keeps the digits near p = 1; the clamp because x^gamma has no slope at 0 for gamma < 1.
    rest = (-torch.expm1(log_probs)).clamp(min=1e-12)
    return -(target * rest**gamma * log_probs).sum(1).mean()


def soft_f1(logits, target, class_weights=None, eps=1e-7):
    """1 - macro F1 of the batch, counted with probabilities: tp = sum p t, fp = sum p (1 - t), fn = sum (1 - p) t.

    Only classes in the batch's targets are averaged (an absent one has F1 0 with no slope, and would only scale the gradient);
    under soft targets a class with less than one whole image counts by that part. class_weights weigh the mean over classes. It
    is no mean over samples: splitting a batch changes it."""
    probs = logits.softmax(1)
    support = target.sum(0)
    f1 = 2 * (probs * target).sum(0) / (probs.sum(0) + support + eps)  # 2tp + fp + fn = sum p + sum t
    present = support.clamp(max=1)
    if class_weights is not None:
        present = present * class_weights
    return 1 - (f1 * present).sum() / present.sum()


def logit_adjusted(logits, target, class_counts, tau=1.0, class_weights=None):
    """Cross entropy of logits + tau * log prior, "balanced softmax" at tau 1 (Menon et al. 2020, 2007.07314). class_counts [C]
    are training images a class, a 0 taken as 1. Predict from the plain logits."""
    return cross_entropy(logits + tau * class_counts.clamp(min=1).to(logits.dtype).log(), target, class_weights)


def ordinal(logits, target, class_weights=None):
    """Mean binary cross entropy of the C - 1 questions "is it above class k?", for classes that have an order.

    After Niu et al. 2016, "Ordinal Regression with Multiple Output CNN for Age Estimation", who train a classifier a question;
    here each answer is the sum of the softmax above k. class_weights weigh a sample by its class."""
    log_probs = logits.log_softmax(1)
    below = log_probs.logcumsumexp(1)[:, :-1]  # log P(class <= k)
    above = log_probs.flip(1).logcumsumexp(1).flip(1)[:, 1:]  # log P(class > k)
    is_below = target.cumsum(1)[:, :-1]
    losses = -(is_below * below + (1 - is_below) * above).mean(1)
    if class_weights is not None:
        losses = losses * (target * class_weights).sum(1)
    return losses.mean()


def age_distribution(ages, sigma=2.0, top_spread=None):
    """Soft targets over the ages 18..60 (FIRST_AGE..LAST_AGE): ages [B] in years -> float32 [B, 43], rows sum to 1.

    After Gao et al. 2017, "Deep Label Distribution Learning with Label Ambiguity" (1611.01731); where the paper samples the
    normal density at each age and rescales, each class here takes the normal's mass of its year, the end classes all beyond. 18
    and 60 are censored (60 means "60 or older"), so all mass of such a person goes to the end class; ages outside are clipped.
    top_spread: years from 60 on over which the people behind a recorded 60 are spread evenly instead."""
    ages = ages.double()
    top = ages >= LAST_AGE
    ages = ages.masked_fill(ages <= FIRST_AGE, -math.inf).masked_fill(top, math.inf)
    edges = torch.arange(FIRST_AGE + 0.5, LAST_AGE, dtype=torch.float64, device=ages.device)
    below = torch.special.ndtr((edges - ages[:, None]) / sigma)
    if top_spread is not None:
        true = LAST_AGE + torch.linspace(0, top_spread, 101, dtype=torch.float64, device=ages.device)
        below[top] = torch.special.ndtr((edges - true[:, None]) / sigma).mean(0)
    return F.pad(F.pad(below, (1, 0), value=0.0), (0, 1), value=1.0).diff(dim=1).float()


def class_index(head, targets):
    """Targets int64 [N] of a head as classes from 0: years become their distance to the first age."""
    return np.clip(targets, FIRST_AGE, LAST_AGE) - FIRST_AGE if head == "age" else targets


def soft_targets(target, train_targets, age_sigma, top_age_spread=None):
    """Probabilities float32 [N, num_outputs(target)] of int64 [N, heads]: one-hot, ages as label distributions."""
    tables = []
    for column, head in enumerate(HEADS[target]):
        classes = torch.from_numpy(class_index(head, train_targets[:, column]))
        if head == "age":
            table = age_distribution(torch.arange(FIRST_AGE, LAST_AGE + 1), age_sigma, top_age_spread)
            tables.append(table[classes])
        else:
            tables.append(F.one_hot(classes, len(CLASS_NAMES[head])).float())
    return torch.cat(tables, dim=1)


def build_criterion(args, train_targets, device):
    """The training loss as (logits, soft targets [B, num_outputs]) -> scalar: the sum over the heads' losses.

    train_targets int64 [N, heads] of the training rows: their class counts give the class weights and the prior (of single
    years that of the label distributions, which reach years that nobody has)."""
    losses = []
    soft = soft_targets(args.target, train_targets, args.age_sigma, args.top_age_spread).sum(0)
    for column, (head, logits_slice) in enumerate(head_slices(args.target).items()):
        counts = np.bincount(class_index(head, train_targets[:, column]), minlength=len(CLASS_NAMES[head]))
        weights = class_weights(args.class_weights, counts)
        weights = None if weights is None else weights.to(device)
        prior = (soft[logits_slice] if head == "age" else torch.from_numpy(counts)).to(device)
        losses.append((logits_slice, build_loss(args.loss, prior, args.gamma, args.smoothing, weights)))

    def criterion(logits, targets):
        return sum(loss(logits[:, head], targets[:, head]) for head, loss in losses)

    return criterion


def class_weights(kind, counts):
    """Class weights float32 [C] of `kind`, with mean 1 over the images that `counts` [C] counts, or None for 'none'.

    balanced: in inverse proportion to the counts, as scikit-learn's. effective: to the effective number of images
    (1 - BETA^n) / (1 - BETA) (Cui et al. 2019, 1901.05555). Empty classes get 1."""
    if kind == "none":
        return None
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    size = counts[present] if kind == "balanced" else (1 - BETA ** counts[present]) / (1 - BETA)
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (counts[present] / size).sum() / size
    return torch.tensor(weights, dtype=torch.float32)
