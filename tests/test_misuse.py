"""Misuse of every script: exit code 2, one line that names the option or file with its value and says what would do, no more.

Nothing is trained and no image is decoded here: what these commands ask for is refused before.
"""

import importlib
import json
import shlex

import pandas as pd
import pytest
import yaml
from helpers import People, eval_names, write_run

import demo
import errors
import experiment
import options
import sweep

TRAIN = "--data-dir data --model test_resnet --no-pretrained --img-size 32 24 --device cpu --kfold 2 --quiet "
BENCHMARK = "--data-dir data --model test_resnet --img-size 32 24 --device cpu "
# (key, its value in KEY.yaml, what the line says after that name)
CONFIGS = [
    ("lr", "fast", "lr: fast is not a number"), ("img-size", "[64, wide]", "img-size: wide is not a whole number"),
    ("target", "agegroup", "target: invalid choice: 'agegroup' (choose from…). Did you mean age_group"),
    ("name", "[a, b]", "name: b: belongs to no option"), ("compile", "maybe", "compile: maybe is neither true nor false"),
    ("bath_size", "8", "bath_size: no such option in a file. Did you mean batch_size"), ("resume", "x", "resume: no such option in a file"),
]  # fmt: skip
# (script, its command line, what the line says, with … for what is left out)
CASES = [
    ("train", TRAIN + "--optimiser SGD", "--optimiser: no such option. Did you mean --optimizer…--help lists them"),
    ("train", TRAIN + "stray", "stray: belongs to no option; quote names with spaces"),
    ("train", TRAIN + "--lr", "argument --lr: expected one argument"),
    ("train", TRAIN + "--lr -1", "argument --lr: -1 is not a number above 0"),
    ("train", TRAIN + "--epochs 1.5", "argument --epochs: 1.5 is not a whole number"),
    ("train", TRAIN + "--epochs 0", "argument --epochs: 0 is not above 0"),
    ("train", TRAIN + "--layer-decay 1.5", "argument --layer-decay: 1.5 is not a number above 0 and up to 1"),
    ("train", TRAIN + "--face-crop -0.1", "argument --face-crop: -0.1 is not a number from 0 on"),
    ("train", TRAIN + "--mix halves --mix-prob 1.1", "argument --mix-prob: 1.1 is not a number from 0 to 1"),
    ("train", TRAIN + "--label-fixes x --fix-confidence nan", "argument --fix-confidence: nan is not a number from 0 to 1"),
    ("train", TRAIN + "--target agegroup", "argument --target: invalid choice: 'agegroup' (choose from…). Did you mean age_group"),
    ("train", TRAIN + "--model resnet81", "--model resnet81: timm…has no such model. Did you mean resnet"),
    ("train", TRAIN + "--model hf-hub:someone/resnet18", "--model hf-hub:someone/resnet18: timm…has no such model"),
    ("train", TRAIN + "--loss focl", '--loss focl: unknown loss "focl"; allowed: ce,…Did you mean focal?'),
    ("train", TRAIN + "--loss ce+ordinal", "--loss ce+ordinal: ordinal needs classes with an order; --target label has none, age and age_group"),
    ("train", TRAIN + "--optimizer AdamPP", "--optimizer AdamPP: timm has no such optimizer. Did you mean AdamP"),
    ("train", TRAIN + "--scheduler StepL", "--scheduler StepL: none of StepLR, Cosine,…Did you mean StepLR?"),
    ("train", TRAIN + "--img-size 1 2 3", "--img-size 1 2 3: takes one number, or height and width"),
    ("train", TRAIN + "--kfold 1", "--kfold 1: a single fold has nobody to train on; 0 is nofold, 2 and more are folds"),
    ("train", TRAIN + "--fold 7", "--fold 7: --kfold 2 has the folds 0 to 1"),
    ("train", TRAIN + "--age-bounds 60 30", "--age-bounds 60 30: must be LO HI with 18 < LO < HI <= 60"),
    ("train", TRAIN + "--target age --age-bounds 29 59", "--age-bounds: --target age learns single years; cut them anywhere with ensemble.py"),
    ("train", TRAIN + "--kfold 0 --scheduler Plateau", "--scheduler Plateau: follows the validation F1, and --kfold 0 has none"),
    ("train", TRAIN + "--target age --top-age-spread 0", "--top-age-spread: 0"),
    ("train", TRAIN + "--target gender --aux-age 1", "--aux-age 1: helps to tell age groups; --target gender has none"),
    ("train", TRAIN + "--top-age-spread 5", "--top-age-spread: belongs to --target age"),
    ("train", TRAIN + "--dry-run --pseudo runs/label", "--dry-run: --pseudo would have to predict the eval images first; leave one"),
    ("train", "--resume runs/label --dry-run", "--dry-run: can't be given with --resume; the run goes on with its own options"),
    ("train", TRAIN + "--ema 0.9 --average-last 2", "--average-last: and --ema both average weights; take one of them"),
    ("train", TRAIN + "--freeze-epochs 2 --epochs 2", "--freeze-epochs 2: leaves none of 2 epochs"),
    ("train", TRAIN + "--kfold 0 --finish-on-all 1", "--finish-on-all 1: --kfold 0 trains everyone from the start; leave one of the two out"),
    ("train", TRAIN + "--scheduler Plateau --finish-on-all 1", "--finish-on-all 1: --scheduler Plateau follows the validation F1; leave one"),
    ("train", TRAIN + "--parallel-folds 2 --auto-batch", "--parallel-folds 2: --auto-batch measures one fold alone"),
    ("train", TRAIN + "--mix-rare", "--mix-rare: does nothing without --mix mixup, cutmix or halves; add that, or leave this out"),
    ("train", TRAIN + "--mix-alpha 0.4", "--mix-alpha 0.4: does nothing without --mix mixup or cutmix; add that"),
    ("train", TRAIN + "--min-lr 1e-6", "--min-lr 1e-06: does nothing without --scheduler Cosine or CAWR; add that, or leave this out"),
    ("train", TRAIN + "--scheduler Cosine --min-lr 1", "--min-lr 1: is above --lr 0.0001, from which the learning rate goes down"),
    ("train", TRAIN + "--fix-confidence 0.5", "--fix-confidence 0.5: does nothing without --label-fixes FILE; add that"),
    ("train", TRAIN + "--pseudo-min-confidence 0.5", "--pseudo-min-confidence 0.5: does nothing without --pseudo RUN; add that"),
    ("train", TRAIN + "--pretrained --weights w.pth", "--weights w.pth: and --pretrained both give the backbone's weights; leave one of the two out"),
    ("train", TRAIN + "--weights none.pth", "--weights none.pth: no such file"),
    ("train", TRAIN + "--weights text.pth", "--weights text.pth: not a readable weights file"),
    ("train", TRAIN + "--label-fixes data", "data: not readable (Is a directory); a csv with the columns path,column,value"),
    ("train", "--data-dir data/train --model resnet18", "--data-dir data/train: holds neither; it must hold train/train.csv…Did you mean data?"),
    ("train", "--data-dir . --model resnet18", "--data-dir .: holds neither; it must hold…Did you mean data?"),
    ("train", "--data-dir data/train/train.csv --model resnet18", "train.csv: is a file; it must hold…Did you mean data?"),
    ("train", "--data-dir dta --model resnet18", "--data-dir dta: no such folder; it must hold…Did you mean data?"),
    ("train", "--data-dir other --model resnet18", "other/train/train.csv: no such file; a csv with the columns id,gender,age,path is needed"),
    ("train", "--data-dir pixels --model resnet18 --kfold 2", "pixels/train/images: no such folder; it holds a folder of images for each person"),
    ("inference", "--models runs/label --data-dir data/train/images", "--data-dir data/train/images: holds neither;…Did you mean data?"),
    ("train", TRAIN + "--data-dir empty", "--data-dir empty: holds neither; it must hold train/train.csv and eval/info.csv\n"),
    ("train", TRAIN + "--name a/b", "--name 'a/b': must be a plain folder name; the place goes into --output-dir"),
    ("train", TRAIN + "--name ''", "--name '': must be a plain folder name"),
    ("train", TRAIN + "--name x:best", "--name x:best: reads as a fold of a run x; take another one"),
    ("train", TRAIN + "--name $'a\\nb'".replace("$'a\\nb'", "'a\nb'"), "--name 'a\\nb': must be a plain folder name"),
    ("train", TRAIN + "--name label", "runs/label: exists and is never overwritten; choose another --name or --resume runs/label"),
    ("train", TRAIN + "--pseudo runs/none", "runs/none: no such run. python train.py makes one"),
    ("train", "--resume runs/lable", "runs/lable: no such run. Did you mean label"),
    ("train", "--resume empty", "empty: not a run of train.py (it holds no args.yaml); python leaderboard.py lists runs"),
    ("train", "--resume ''", "not a run of train.py (it holds no args.yaml)"),
    ("train", "--resume runs/label --lr 0.1", "--lr: can't be given with --resume; the run goes on with its own options (runs/label/args.yaml)"),
    *(("train", f"{TRAIN}{option} {'a' * 300}", f"{'a' * 300}…: File name too long")
      for option in ("--name", "--data-dir", "--weights", "--output-dir", "--cache-dir", "--pseudo")),
    ("train", f"--resume {'a' * 300}", f"{'a' * 300}/args.yaml: File name too long"),
    ("train", TRAIN + "--config none.yaml", "none.yaml: no such file"),
    ("train", TRAIN + "--config data", "data: not readable (Is a directory); it takes lines such as lr: 0.001"),
    ("train", TRAIN + "--config mine.csv", "mine.csv: damaged (holds no mapping); it takes lines such as lr: 0.001"),
    *(("train", f"{TRAIN}--config {key}.yaml", f"{key}.yaml: {said}") for key, _text, said in CONFIGS),
    ("train", "--resume runs/label --config lr.yaml", "--config: can't be given with --resume"),
    ("train", "--resume edited", "edited/args.yaml: lr: fast is not a number"),
    ("train", TRAIN + "--data-dir d\udce9", "d\\udce9: is not UTF-8; rename what it names, or give it by a link with another name"),
    ("inference", "", "the following arguments are required: --models"),
    ("inference", "--models runs/lable", "runs/lable: no such run. Did you mean label"),
    ("inference", f"--models {'a' * 300}", f"{'a' * 300}/args.yaml: File name too long"),
    ("inference", "--models submissions/mix", "submissions/mix: not a run of train.py"),
    ("inference", "--models runs/mask", "runs/mask: no fold is complete; python train.py --resume runs/mask goes on with it"),
    ("inference", "--models runs/label --folds 5", "--folds 5: runs/label has the complete folds 0 1"),
    ("inference", "--models runs/label --folds all 1", "--folds all 1: takes all, best, or fold numbers"),
    ("inference", "--models runs/label --oof", "--oof: compares a --tta with none, on all folds; add one, such as --tta hflip"),
    ("inference", "--models runs/label --oof --tta hflip --folds best", "--oof: compares a --tta with none, on all folds"),
    ("inference", "--models runs/label --data-dir data --device cpu", "runs/label/fold0/best.safetensors: no such file"),
    ("ensemble", "", "the following arguments are required: --models"),
    ("ensemble", "--models runs/gender", "--models: no run decides mask or age_group; add such runs, or one of target label or multi"),
    ("ensemble", "--models nothing*", "--models nothing*: matches no run; python leaderboard.py lists what there is"),
    ("ensemble", "--models runs/label --folds 7", "argument --folds: invalid choice: '7' (choose from"),
    ("ensemble", "--models runs/label --name ../x", "--name '../x': must be a plain folder name; the place goes into --output-dir"),
    ("ensemble", "--models runs/lable --name mix", "submissions/mix: exists and is never overwritten; choose another --name"),
    ("ensemble", "--models runs/label --age-bounds 60 30", "--age-bounds 60 30: must be LO HI"),
    ("ensemble", "--models runs/label --age-bounds 29 59", "--age-bounds 29 59: only runs of target age can be cut anew, and none is given"),
    ("ensemble", "--models runs/label --tune-bounds", "--tune-bounds: only runs of target age can be cut anew"),
    ("ensemble", "--models runs/age --tune-bounds --age-bounds 29 59", "--age-bounds: not allowed with argument --tune-bounds"),
    ("ensemble", "--models runs/age --tune-bounds --method stack", "--tune-bounds: --method stack learns from single ages where to cut; leave one"),
    ("ensemble", "--models runs/age --age-bounds 29 59 --method stack", "--age-bounds 29 59: --method stack learns from single ages"),
    ("ensemble", "--models runs/label --search greedy --method hard", "--search greedy: finds weights for --method soft; with --method hard leave it out"),
    ("ensemble", "--models runs/label --temperature --method stack", "--temperature: is for averages; leave it out with --method stack"),
    *(("ensemble", f"--models runs/nofold {option}", f"{option}: needs out-of-fold predictions, and runs/nofold has no oof.csv; leave out that member or the option")
      for option in ("--search greedy", "--search weights", "--decode f1", "--decode f1+prior", "--method stack", "--temperature")),
    ("ensemble", "--models runs/nofold runs/age --tune-bounds", "--tune-bounds: needs out-of-fold predictions, and runs/nofold has no oof.csv"),
    ("ensemble", "--models runs/nofold runs/other", "runs/other/eval.csv: lacks 1 of the 14 images of data/eval/info.csv, such as"),
    ("ensemble", "--models runs/mask runs/gender runs/age", "runs/mask/oof.csv: holds none of the people of data/train/train.csv; give the --data-dir"),
    ("compare", "runs/label", "the following arguments are required: A B"),
    ("compare", "runs/mask runs/gender", "runs/mask and runs/gender: mask against gender have no answer in common; compare two that are scored on the same"),
    ("compare", "runs/mask runs/maks", "runs/maks: no such run. Did you mean mask?"),
    ("compare", "runs/label mime.csv", "mime.csv: no such file. Did you mean mine.csv"),
    ("compare", "runs/nofold few.csv", "few.csv lacks 13 of the 14 images of data/eval/info.csv, such as…; make it anew. Without them: no out-of-fold verdict"),
    ("compare", "mine.csv mine.csv --out x.csv", "argument --out: x.csv is not the name of a page, FILE.html"),
    ("compare", "mine.csv mine.csv --labels foreign.csv", "--labels foreign.csv: holds none of the 14 images, such as"),
    ("leaderboard", "runs --html .", "argument --html: . is not the name of a page, FILE.html"),
    ("leaderboard", "runs --html '' --lb label=0.5", "argument --html: is not the name of a page, FILE.html"),
    ("leaderboard", "nowhere", "runs nowhere: is no folder that holds runs or ensembles; give one that does"),
    ("leaderboard", "a" * 300, f"{'a' * 300}…: File name too long"),
    ("leaderboard", "--submissions x", "--submissions x: is no folder that holds"),
    ("leaderboard", "--sort naem", "--sort naem: no such column. Did you mean name…There are name, target"),
    ("leaderboard", "--diff label lable", "--diff lable: no such run or ensemble. Did you mean label"),
    ("leaderboard", "--diff label mix", "--diff label mix: a run and an ensemble; give two of a kind"),
    ("leaderboard", "--diff label mask --markdown", "not allowed with argument"),
    ("leaderboard", "--lb 0.7478", "0.7478 takes NAME=SCORE, such as"),
    ("leaderboard", "--lb =0.7478", "=0.7478 takes NAME=SCORE"),
    *(("leaderboard", f"--lb label={number}", f"'{number}' is no score from 0 to 1") for number in ("74.78", "0,7478", "high", "nan", "inf", "-0.1", "")),
    ("leaderboard", "--lb lable=0.7", "--lb lable: no such run or ensemble. Did you mean label"),
    ("leaderboard", "--lb label=0.7 --note lable why", "--note lable: no such run or ensemble. Did you mean label"),
    ("leaderboard", "--lb mask=0.7", "--lb mask: target mask has no leaderboard score; record it for its ensemble"),
    ("leaderboard", "--lb label=0.7 --lb no=0.8", "--lb no: no such run"),
    ("benchmark", BENCHMARK + "--seconds 0", "argument --seconds: 0 is not a number above 0"),
    ("benchmark", BENCHMARK + "--out nowhere/out.json", "--out nowhere/out.json: there is no folder nowhere"),
    ("sweep", "none.txt", "none.txt: no such file"),
    ("sweep", "empty.txt", "empty.txt: names no experiment; it takes lines such as baseline: and focal: --loss focal"),
    ("sweep", "config.txt", "config.txt line 1: lr.yaml: lr: fast is not a number"),
    ("sweep", "idle.txt", "idle.txt line 3: --mix-prob 0.3: does nothing without --mix mixup, cutmix or halves"),
    ("sweep", "sweep.txt --seeds 1 1", "--seeds 1 1: holds one twice"),
    ("sweep", "sweep.txt --table --dry-run", "argument --dry-run: not allowed with argument --table"),
    ("sweep", "sweep.txt --output-dir mine.csv", "--output-dir mine.csv: is a file; name a folder"),
    ("sweep", "sweep.txt --output-dir taken", "taken/base-s42: not a run of train.py (it holds no args.yaml)"),
    ("report", "", "nothing to do: give RUN ..., --label-noise RUN ... or --merge FILE ...; --help"),
    ("report", "--label-noise runs/label --merge a.csv", "argument --merge: not allowed with argument --label-noise"),
    ("report", "--merge a.csv --top 3", "--top: does nothing without --label-noise RUN; add that, or leave this out"),
    ("report", "--label-noise runs/label --noise-rate 0.5", "--noise-rate 0.5: must lie between 0 and 0.5, such as 0.01"),
    ("report", "--label-noise runs/nofold", "runs/nofold: has no oof.csv, and label noise is found by it; give runs with --kfold 2 or more"),
    ("report", "--label-noise runs/label --data-dir data", "data/train/train.csv: lacks '000000_x_Asian_"),
    ("demo", "--out data", "data: exists and is no demo set (it holds no demo.json); move it away or name another folder"),
    ("losses_picture", "--out nowhere/losses.png", "--out nowhere/losses.png: there is no folder nowhere"),
]  # fmt: skip
FILES = {
    **{f"{key}.yaml": f"{key}: {text}" for key, text, _said in CONFIGS},
    "config.txt": "a: --config lr.yaml",
    "edited/args.yaml": "target: label\nlr: fast\n",
    "empty.txt": "# nothing\n",
    "idle.txt": "base: --mix mixup --mix-prob 0.3\n# no such thing\nplain: --mix-prob 0.3\n",
    "sweep.txt": "base:\n",
    "text.pth": "no weights",
    "other/eval/info.csv": "",
    "runs/label/args.yaml": "target: label\nkfold: 2\n",
    "submissions/mix/recipe.yaml": yaml.safe_dump({"members": [{"run": "runs/label", "weight": 1}]}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder: data without pixels, runs and an ensemble with predictions, csv files, sweeps."""
    place, train, held = tmp_path_factory.mktemp("misuse"), People(20, seed=0), People(2, seed=1)
    for name in ("label", "mask", "gender", "age", "nofold", "other"):
        write_run(place / "runs" / name, "label" if name in ("nofold", "other") else name, train, held)
    for name in ("nofold", "other"):
        (place / "runs" / name / "oof.csv").unlink()
    table = place / "runs" / "other" / "eval.csv"
    table.write_text(table.read_text().replace(f"{0:040x}", "x", 1))
    answers = pd.DataFrame({"ImageID": eval_names(held), "ans": 0})
    answers.to_csv(place / "mine.csv", index=False)
    answers[:1].to_csv(place / "few.csv", index=False)
    answers.assign(ImageID="x" + answers["ImageID"]).to_csv(place / "foreign.csv", index=False)
    people = [f"{number:06d},{('male', 'female')[number % 2]},Asian,{(22, 45, 60)[number // 2 % 3]}" for number in range(12)]
    rows = "\n".join(["id,gender,race,age,path", *(f"{person},{person.replace(',', '_')}" for person in people)])
    texts = FILES | dict.fromkeys(("data/train/train.csv", "pixels/train/train.csv"), rows)
    texts["data/eval/info.csv"] = answers.to_csv(index=False)
    texts |= {f"data/eval/images/{name}": "" for name in answers["ImageID"]}
    texts |= {f"data/train/images/{person.replace(',', '_')}/{kind}.jpg": "" for person in people for kind in demo.IMAGE_KINDS}
    for fold in (0, 1):
        facts = dict.fromkeys(experiment.FOLD, fold) | {"weights_sha256": "0"}
        texts[f"runs/label/fold{fold}/fold.json"] = json.dumps(facts)
    for name, text in texts.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    for folder in ("empty", "taken/base-s42"):
        (place / folder).mkdir(parents=True)
    return place


def listing(place):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in place.rglob("*")}


@pytest.mark.parametrize(("script", "line", "said"), CASES, ids=[f"{script} {line[-50:]}" for script, line, _said in CASES])
def test_misuse_is_one_line_and_changes_nothing(place, handlers, monkeypatch, capsys, script, line, said):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sweep, "refusals", lambda experiments: options.refusals([one.words for one in experiments]))
    before = listing(place)
    main = importlib.import_module(script).main
    assert errors.run(lambda: main(shlex.split(line))) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and len(told) < 400 + len(str(place)), told
    at = 0
    for piece in said.split("…"):
        assert piece in told[at:], told
        at = told.index(piece, at) + len(piece)
    assert listing(place) == before


def test_there_are_enough_and_of_every_script():
    assert len(CASES) == len({case[:2] for case in CASES}) > 100
    scripts = "train inference ensemble compare leaderboard benchmark sweep report demo losses_picture"
    assert {case[0] for case in CASES} == set(scripts.split())
