"""Runs that never were trained: people, their official labels and noisy probabilities, written as run folders."""

import numpy as np
import pandas as pd
import yaml

import predictions
from dataset import FIRST_AGE, GENDERS, LAST_AGE, age_group_probs, combine, encode, to_age_group

KINDS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")


class People:
    """`count` people with seven images each; ages are guessed 2 years too low, alike by all models."""

    def __init__(self, count, seed):
        self.rng = np.random.default_rng(seed)
        ages = np.where(np.arange(count) % 4 == 3, 60, self.rng.integers(18, 60, count))
        self.age, self.gender = np.repeat(ages, 7), np.repeat(np.arange(count) // 4 % 2, 7)
        self.mask = np.tile([0, 0, 0, 0, 0, 1, 2], count)
        self.path = np.repeat([f"{number:06d}_x_Asian_{age}" for number, age in enumerate(ages)], 7)
        self.guess = self.age - 2 + np.repeat(self.rng.normal(0, 2, count), 7)
        self.label = encode(self.mask, self.gender, to_age_group(self.age))

    def noisy(self, classes, C, noise):
        logits = 4 * np.eye(C)[classes] + self.rng.normal(0, noise, (len(classes), C))
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def probs(self, target, noise=1.5):
        """Probabilities [N, num_outputs(target)] of a new model."""
        guess = np.clip(self.guess + self.rng.normal(0, noise, len(self.guess)), FIRST_AGE, LAST_AGE)
        age = np.exp(-np.abs(np.arange(FIRST_AGE, LAST_AGE + 1) - guess[:, None]))
        age /= age.sum(1, keepdims=True)
        parts = self.noisy(self.mask, 3, noise), self.noisy(self.gender, 2, noise), age_group_probs(age)
        made = dict(zip(("mask", "gender", "age_group"), parts))
        return {**made, "age": age, "multi": np.hstack(parts), "label": combine(*parts)}[target]

    def truth(self, target):
        age_group = to_age_group(self.age)
        if target == "multi":
            return np.stack([self.mask, self.gender, age_group], axis=1)
        return {"mask": self.mask, "gender": self.gender, "label": self.label}.get(target, age_group)[:, None]


def write_data(folder, train, names):
    """A data folder without images: train.csv of the People `train`, info.csv of the eval images `names`; returns it."""
    for part in ("train", "eval"):
        (folder / part).mkdir(parents=True)
    ages = dict(zip(train.path, zip(train.gender, train.age)))
    rows = [f"{path.partition('_')[0]},{GENDERS[gender]},Asian,{age},{path}" for path, (gender, age) in ages.items()]
    (folder / "train" / "train.csv").write_text("\n".join(["id,gender,race,age,path", *rows]))
    (folder / "eval" / "info.csv").write_text("\n".join(["ImageID,ans", *(f"{name},0" for name in names)]))
    return folder


def eval_names(held):
    """The names of the eval images of the People `held`."""
    return [f"{index:040x}.jpg" for index in range(len(held.path))]


def write_run(folder, target, train, held, noise=1.5):
    """A run folder of `target` with oof.csv of the People `train` and eval.csv of the People `held`; returns it."""
    folder.mkdir(parents=True)
    names = [f"{path}/{KINDS[index % 7]}.jpg" for index, path in enumerate(train.path)]
    images = pd.DataFrame({"image": names, "path": train.path})
    fold = np.arange(len(images)) // 7 % 5
    oof = predictions.oof_table(images, fold, target, train.truth(target), train.probs(target, noise))
    oof.to_csv(folder / "oof.csv", index=False, float_format=predictions.FORMAT)
    held_table = predictions.eval_table(eval_names(held), target, held.probs(target, noise))
    held_table.to_csv(folder / "eval.csv", index=False, float_format=predictions.FORMAT)
    (folder / "args.yaml").write_text(yaml.safe_dump({"target": target, "kfold": 5}))
    return folder
