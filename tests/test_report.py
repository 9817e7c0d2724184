"""report.py: the numbers and words in the figures, and that every figure is whole, readable and leaves nothing behind."""

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageStat
from sklearn.metrics import f1_score

import metrics
import report
from dataset import CLASS_NAMES, encode
from errors import InputError

LONG_TITLE = "run $x_1$ of $\\nope{$ " + "a_very_long_name_" * 20 + "\nend 한글"


def make_log(folds, epochs, validated=True):
    """The rows of log.csv, as pd.concat of folds gives them: the index starts again with every fold."""
    rng = np.random.default_rng(folds)
    tables = []
    for fold in range(folds):
        n = max(1, epochs - fold % 3)  # some folds stopped early
        table = pd.DataFrame({"fold": fold, "epoch": range(1, n + 1), "lr": 1e-4, "train_loss": rng.random(n)})
        for column in ("val_loss", "val_f1", "val_acc"):
            table[column] = rng.random(n) if validated else np.nan
        tables.append(table.assign(seconds=60.0, images_per_second=250.0))
    return pd.concat(tables)


def make_classes(n, classes=18, seed=0):
    """(truth, pred) [n] of which about four in five are right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=n)
    return truth, np.where(rng.random(n) < 0.8, truth, rng.integers(classes, size=n))


def make_rows(n, seed=0):
    truth, pred = make_classes(n, seed=seed)
    people = [f"{index // 7:06d}_female_Asian_59" for index in range(n)]
    names = [f"{path}/incorrect_mask.jpg" for path in people]
    confidence = np.random.default_rng(seed).random(n)
    return pd.DataFrame({"image": names, "path": people, "truth": truth, "pred": pred, "confidence": confidence})


def grey_image(_name):
    return Image.new("RGB", (48, 64), (120, 130, 140))


def texts(figure):
    """All words on a figure outside of tick labels and legends."""
    return [text for owner in (figure, *figure.axes) for text in owner.texts if text.get_text()]


def words(figure):
    return [text.get_text() for text in texts(figure)]


def assert_readable(figure):
    """Nothing reaches over the figure's edge, and no two texts cover each other."""
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    shown = texts(figure)
    x0, y0, x1, y1 = np.array([text.get_window_extent().extents for text in shown]).T
    across = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    up = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    overlaps = np.argwhere(np.triu((across > 2) & (up > 4), 1))  # pixels; boxes include the room of descenders
    assert not [(shown[a].get_text(), shown[b].get_text()) for a, b in overlaps]


def assert_only_png(path):
    """`path` is a picture that is not blank, and alone in its folder."""
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert 700 <= image.width <= 1800 and 300 <= image.height <= 1800
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert max(ImageStat.Stat(image.convert("L")).stddev) > 2


# ---- curves --------------------------------------------------------------------------------------------------------


def test_best_epoch_is_the_first_highest():
    """Fold 0 reaches 0.7 at epochs 2 and 3: 2 counts. Fold 2 has no validation yet. The order of rows plays no part."""
    log = pd.DataFrame(
        [(1, 1, 0.9), (1, 2, 0.4), (0, 3, 0.7), (0, 1, 0.5), (0, 2, 0.7), (2, 1, np.nan)], columns=["fold", "epoch", "val_f1"]
    )
    assert report.best_epochs(log) == {0: (2, 0.7), 1: (1, 0.9)}


def test_subtitle_of_curves():
    """(0.70 + 0.75 + 0.71) / 3 = 0.72."""
    best = {0: (4, 0.70), 1: (9, 0.75), 2: (1, 0.71)}
    assert report.curves_subtitle(best) == "best validation macro F1 0.7200: mean of 3 folds (dotted), 0.7000 .. 0.7500"
    assert report.curves_subtitle({3: (4, 0.7)}) == "best validation macro F1 0.7000"
    assert report.curves_subtitle({}) == "no validation: everyone trains"


@pytest.mark.parametrize(("folds", "epochs", "validated"), [(1, 1, True), (5, 10, True), (12, 3, True), (1, 4, False)])
def test_curves(folds, epochs, validated):
    log = make_log(folds, epochs, validated)
    figure = report.curves_figure(log, "a run")
    assert_readable(figure)
    assert ("no validation" in words(figure)) == (not validated)
    for fold, (epoch, f1) in report.best_epochs(log).items():
        assert f"fold {fold}: {f1:.4f} at epoch {epoch}" in words(figure)


def test_curves_draw_the_logged_values_and_skip_what_is_not_finite():
    log = make_log(1, 3).assign(train_loss=[2.0, np.inf, 1.0], val_f1=[0.1, 0.3, 0.2])
    loss, _lr, f1 = report.curves_figure(log, "a run").axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [2.0, np.nan, 1.0])
    line, ring = f1.lines
    assert line.get_xydata().tolist() == [[1, 0.1], [2, 0.3], [3, 0.2]]
    assert ring.get_xydata().tolist() == [[2, 0.3]]


def test_log_with_none_is_a_log_without_validation():
    """The loop's own rows hold None before they have been through a csv."""
    log = make_log(1, 2, validated=False).astype({"val_loss": object, "val_f1": object}).replace({np.nan: None})
    assert "no validation" in words(report.curves_figure(log, "a run"))


# ---- confusion -----------------------------------------------------------------------------------------------------


def test_row_shares_of_an_empty_row_are_zero():
    shares = report.row_shares(np.array([[1, 3], [0, 0]]))
    assert shares.tolist() == [[0.25, 0.75], [0, 0]]


def test_class_f1():
    """Class 0: tp 3 of 3 + 4 true and predicted = 6/7. Class 1: tp 0 of 1 + 0 = 0. Class 2 occurs nowhere."""
    f1 = report.class_f1(np.array([[3, 0, 0], [1, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(f1, [6 / 7, 0, np.nan])
    truth, pred = make_classes(200, 3)
    counts = metrics.confusion(truth, pred, 3)
    np.testing.assert_allclose(report.class_f1(counts), f1_score(truth, pred, average=None))


def test_cell_notes():
    assert report.cell_note(0, 0.0, percent=True) == ""
    assert report.cell_note(1234, 0.4567, percent=True) == "1,234\n45.7%"
    assert report.cell_note(1234, 0.4567, percent=False) == "1234"


def test_cells_are_blue_where_right_orange_where_wrong_and_dim_where_empty():
    red, _green, blue = np.moveaxis(report.cell_colors(np.array([[0.6, 0.4], [0.0, 1.0]])), -1, 0)
    assert blue[0, 0] > red[0, 0] and blue[1, 1] > red[1, 1]
    assert red[0, 1] > blue[0, 1]
    assert abs(red[1, 0] - blue[1, 0]) < 0.02 and red[1, 0] > 0.9
    assert blue[1, 1] < blue[0, 0]  # a larger share is darker


def test_text_stands_out_from_every_cell():
    """Contrast by WCAG: at least 3.9 to 1 on every shade that a cell can have."""

    def luminance(color):
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in color]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    for share in np.linspace(0, 1, 101):
        for color in report.cell_colors(np.full((2, 2), share))[0]:
            low, high = sorted([luminance(color), luminance(matplotlib.colors.to_rgb(report.text_color(color)))])
            assert (high + 0.05) / (low + 0.05) > 3.9, share


@pytest.mark.parametrize(("scored_as", "n"), [("label", 18_900), ("mask", 18_900), ("gender", 10), ("age_group", 1)])
def test_confusion_counts_every_image(scored_as, n):
    truth, pred = make_classes(n, len(CLASS_NAMES[scored_as]))
    figure = report.confusion_figure(truth, pred, scored_as, "a run")
    assert_readable(figure)
    cells = [text.get_text().split("\n")[0].replace(",", "") for text in figure.axes[0].texts]
    assert sum(int(cell) for cell in cells if cell.isdigit()) == n
    f1 = f1_score(truth, pred, average="macro")
    assert f"{scored_as}: macro F1 {f1:.4f}, accuracy {np.mean(truth == pred):.4f}, {n:,} images" in words(figure)


def test_label_confusion_shows_its_marginals():
    """Two of three images have the right mask, one of three the right gender, all the right age group."""
    truth = np.array([encode(0, 0, 1), encode(0, 0, 1), encode(0, 1, 1)])
    pred = np.array([encode(0, 1, 1), encode(2, 1, 1), encode(0, 1, 1)])
    axes = report.confusion_figure(truth, pred, "label", "a run").axes
    mask, gender, age_group = ([text.get_text() for text in axes[index].texts if "%" in text.get_text()] for index in (2, 4, 6))
    assert mask == ["2\n66.7%", "1\n33.3%"]
    assert gender == ["2\n100.0%", "1\n100.0%"]
    assert age_group == ["3\n100.0%"]


def test_classes_without_images_or_hits_are_marked():
    """Of age groups 0, 0, 1 all are called 0: class 1 has F1 0, class 2 none at all."""
    figure = report.confusion_figure(np.array([0, 0, 1]), np.array([0, 0, 0]), "age_group", "a run")
    column = [text.get_text() for text in figure.axes[1].texts]
    assert column == ["F1", "0.800", "0.000", "–", "images", "2", "1", "0"]


# ---- mistakes ------------------------------------------------------------------------------------------------------


def test_caption_names_the_differing_parts_only():
    truth, wrong = report.caption(encode(0, 1, 2), encode(0, 1, 1), "label")
    assert truth == {"mask": "worn", "gender": "female", "age_group": ">=60"}
    assert wrong == {"age_group": "30-59"}
    assert report.caption(encode(2, 0, 0), encode(1, 1, 0), "label")[1] == {"mask": "incorrect", "gender": "female"}
    assert report.caption(1, 0, "mask") == ({"mask": "incorrect"}, {"mask": "worn"})


def test_pick_mistakes_takes_the_surest_and_few_of_a_person():
    rows = pd.DataFrame(
        {
            "path": ["a", "a", "a", "a", "b", "b", "c"],
            "truth": [0, 0, 0, 0, 0, 1, 0],
            "pred": [1, 1, 1, 1, 1, 1, 2],
            "confidence": [0.9, 0.6, 0.8, 0.7, 0.5, 1.0, 0.65],
        }
    )
    assert report.pick_mistakes(rows, 10).index.tolist() == [0, 2, 3, 6, 4]  # 1 is a's fourth, 5 is right
    assert report.pick_mistakes(rows, 2).index.tolist() == [0, 2]
    assert report.pick_mistakes(rows, 10, per_person=1).index.tolist() == [0, 6, 4]


def test_only_the_shown_images_are_loaded():
    rows, asked = make_rows(300), []

    def load_image(name):
        asked.append(name)
        return grey_image(name)

    report.mistakes_figure(rows, load_image, "label", "a run", limit=4)
    assert asked == report.pick_mistakes(rows, 4)["image"].tolist()


def test_mistakes_say_what_is_wrong():
    """Three of four are wrong: the mask once, the gender once, the age group twice."""
    truth = [encode(0, 1, 2), encode(0, 0, 0), encode(2, 0, 0), encode(1, 1, 1)]
    pred = [encode(0, 1, 1), encode(1, 0, 2), encode(2, 1, 0), encode(1, 1, 1)]
    rows = make_rows(4).assign(truth=truth, pred=pred, confidence=[0.93, 0.92, 0.91, 0.9])
    figure = report.mistakes_figure(rows, grey_image, "label", "a run")
    assert_readable(figure)
    shown = words(figure)
    assert shown[1].startswith("3 of 4 images wrong (75.0%)")
    for note in ("mask wrong in 1", "gender wrong in 1", "age_group wrong in 2"):
        assert note in shown
    first = shown.index("worn,")
    assert shown[first : first + 6] == ["worn,", "female,", ">=60", "→", "30-59", "(0.93)"]
    colors = [text.get_color() for text in texts(figure)][first : first + 6]
    age = report.PART_COLORS["age_group"]
    assert colors == [report.INK, report.INK, age, report.GREY, age, report.GREY]
    assert shown[first + 6].startswith("000000_") and shown[first + 6].endswith("…/incorrect_mask.jpg")


def test_widest_captions_fit():
    """All three parts wrong, in their longest words, in every place of a row; thumbnails of any shape."""
    rows = make_rows(7).assign(truth=encode(2, 0, 2), pred=encode(1, 1, 1), path=list("abcdefg"))
    for size in ((200, 20), (20, 200), (1, 1)):
        assert_readable(report.mistakes_figure(rows, lambda _name, size=size: Image.new("RGB", size), "label", "a run"))


@pytest.mark.parametrize("scored_as", ["mask", "gender", "age_group"])
def test_mistakes_of_one_part(scored_as):
    rows = make_rows(14).assign(truth=0, pred=1)
    figure = report.mistakes_figure(rows, grey_image, scored_as, "a run")
    assert_readable(figure)
    assert f"{scored_as} wrong in 14" in words(figure)
    assert words(figure).count(CLASS_NAMES[scored_as][1]) == 6  # two persons, three images each


def test_nothing_wrong_and_nothing_validated():
    rows = make_rows(7).assign(pred=lambda table: table["truth"])
    assert any("all 7 images are right" in text for text in words(report.mistakes_figure(rows, None, "label", "a run")))
    assert "no validation images" in words(report.mistakes_figure(rows[:0], None, "label", "a run"))
    nobody = np.array([], dtype=np.int64)
    assert "no validation images" in words(report.confusion_figure(nobody, nobody, "label", "a run"))


# ---- words and files -----------------------------------------------------------------------------------------------


def test_epochs_on_everyone_are_lines_of_their_own():
    """Two folds of 2 and 2 epochs, one of which went on for 2 on everyone: no line joins its epochs 2 and 3."""
    log = pd.DataFrame({
        "fold": [0, 0, 0, 0, 1, 1], "epoch": [1, 2, 3, 4, 1, 2], "lr": 1e-3, "train_loss": [3.0, 2, 2.5, 1, 3, 2],
        "val_loss": [1.0, 1, np.nan, np.nan, 1, 1], "val_f1": [0.1, 0.2, np.nan, np.nan, 0.3, 0.2],
    })  # fmt: skip
    loss, *_others = report.curves_figure(log, "a run").axes
    drawn = [line.get_xdata().tolist() for line in loss.get_lines() if line.get_linestyle() == "--"]
    assert drawn == [[1, 2], [3, 4], [1, 2]]
    assert "train on everyone" in [text.get_text() for text in loss.get_legend().get_texts()]
    loss, *_others = report.curves_figure(log[log["val_f1"].notna()], "a run").axes
    assert "train on everyone" not in [text.get_text() for text in loss.get_legend().get_texts()]


@pytest.mark.filterwarnings("error")
def test_any_title_is_drawn_as_it_is():
    truth, pred = make_classes(20)
    for figure in (
        report.curves_figure(make_log(2, 3), LONG_TITLE),
        report.confusion_figure(truth, pred, "label", LONG_TITLE),
        report.confusion_figure(truth % 2, pred % 2, "gender", LONG_TITLE),
        report.mistakes_figure(make_rows(20), grey_image, "label", LONG_TITLE),
        report.mistakes_figure(make_rows(0), grey_image, "label", LONG_TITLE),
    ):
        figure.canvas.draw()
        assert_readable(figure)
        title = words(figure)[0]
        assert title.startswith("run $x_1$ of $\\nope{$") and "…" in title and title.endswith(("end □□", "end 한글"))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: report.curves(make_log(2, 3), path, "a run"),
        lambda path: report.confusion(*make_classes(50), "label", path, "a run"),
        lambda path: report.confusion(*make_classes(50, 2), "gender", path, "a run"),
        lambda path: report.mistakes(make_rows(30), grey_image, "label", path, "a run"),
        lambda path: report.mistakes(make_rows(0), grey_image, "label", path, "a run"),
    ],
)
def test_files_replace_older_ones_and_stand_alone(tmp_path, write):
    path = tmp_path / "figure.png"
    path.write_text("older")
    write(path)
    assert_only_png(path)


def test_unwritable_path_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"nowhere/curves\.png"):
        report.curves(make_log(1, 1), tmp_path / "nowhere" / "curves.png", "a run")
    assert not list(tmp_path.iterdir())


def test_figures_need_no_pyplot_and_change_no_settings(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is an error now
    settings = matplotlib.rcParams.copy()
    truth, pred = make_classes(20)
    for figure in (
        report.curves_figure(make_log(1, 2), "a run"),
        report.confusion_figure(truth, pred, "label", "a run"),
        report.mistakes_figure(make_rows(20), grey_image, "label", "a run"),
    ):
        figure.canvas.draw()
    assert matplotlib.rcParams.copy() == settings
