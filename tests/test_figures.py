"""The pictures of figures.py: their numbers and words, and that nothing overlaps; HTML pages, their cells and thumbnails."""

import re
import sys
from html.parser import HTMLParser

import jinja2
import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import white_box
from matplotlib.offsetbox import TextArea
from PIL import Image
from sklearn.metrics import f1_score

import figures
import files
from dataset import CLASS_NAMES, LABELS, encode
from images import Geometry

LONG_TITLE = "run $x_1$ of $\\nope{$ " + "a_very_long_name_" * 12 + "\nend 한글"
NASTY = """</script><script>alert(1)</script> "'&<b>"""


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
    """All texts on a figure but tick labels, in the order of drawing."""
    found = [text for owner in (figure, *figure.axes) for text in owner.texts]
    found += [text for legend in figure.findobj(matplotlib.legend.Legend) for text in legend.get_texts()]
    return found + [area._text for area in figure.findobj(TextArea) if area._text not in found]


def words(figure):
    return [text.get_text() for text in texts(figure)]


def assert_readable(figure):
    """Nothing reaches over the figure's edge, and no two texts cover each other."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    shown = [text for text in texts(figure) if text.get_text()]
    x0, y0, x1, y1 = np.array([text.get_window_extent().extents for text in shown]).T
    across = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    up = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    overlaps = np.argwhere(np.triu((across > 2) & (up > 4), 1))  # pixels; boxes include the room of descenders
    assert not [(shown[a].get_text(), shown[b].get_text()) for a, b in overlaps]


def test_best_epoch_is_the_first_highest():
    """Fold 0 reaches 0.7 at epochs 2 and 3: 2 counts. Fold 2 has no validation yet. The order of rows plays no part."""
    rows = [(1, 1, 0.9), (1, 2, 0.4), (0, 3, 0.7), (0, 1, 0.5), (0, 2, 0.7), (2, 1, np.nan)]
    log = pd.DataFrame(rows, columns=["fold", "epoch", "val_f1"])
    assert figures.best_epochs(log) == {0: (2, 0.7), 1: (1, 0.9)}


def test_subtitle_of_curves():
    """(0.70 + 0.75 + 0.71) / 3 = 0.72."""
    log = pd.DataFrame(
        {"fold": [0, 1, 2], "epoch": 1, "lr": 1e-3, "train_loss": 1.0, "val_loss": 1.0, "val_f1": [0.7, 0.75, 0.71]}
    )
    mean = "best validation macro F1 0.7200: mean of 3 folds (dotted), 0.7000 .. 0.7500"
    assert words(figures.curves(log, "a run"))[1] == mean
    assert words(figures.curves(log[:1], "a run"))[1] == "best validation macro F1 0.7000"
    assert words(figures.curves(log[:1].assign(val_f1=np.nan), "a run"))[1] == "no validation: everyone trains"


@pytest.mark.parametrize(("folds", "epochs", "validated"), [(1, 1, True), (12, 10, True), (1, 4, False)])
def test_curves_name_every_fold_and_its_best_epoch(folds, epochs, validated):
    log = make_log(folds, epochs, validated)
    figure = figures.curves(log, "a run")
    assert_readable(figure)
    assert ("no validation" in words(figure)) == (not validated) == ("everyone" in words(figure))
    for fold, (epoch, f1) in figures.best_epochs(log).items():
        assert f"fold {fold}: {f1:.4f} at epoch {epoch}" in words(figure)


def test_epochs_on_everyone_are_lines_of_their_own():
    """Two folds of 2 and 2 epochs, one of which went on for 2 on everyone: no line joins its epochs 2 and 3."""
    log = pd.DataFrame({
        "fold": [0, 0, 0, 0, 1, 1], "epoch": [1, 2, 3, 4, 1, 2], "lr": 1e-3, "train_loss": [3.0, 2, 2.5, 1, 3, 2],
        "val_loss": [1.0, 1, np.nan, np.nan, 1, 1], "val_f1": [0.1, 0.2, np.nan, np.nan, 0.3, 0.2],
    })  # fmt: skip
    figure = figures.curves(log, "a run")
    drawn = [line.get_xdata().tolist() for line in figure.axes[0].get_lines() if line.get_linestyle() == "--"]
    assert drawn == [[1, 2], [3, 4], [1, 2]]
    assert "train on everyone" in words(figure)
    assert "train on everyone" not in words(figures.curves(log[log["val_f1"].notna()], "a run"))


@pytest.mark.parametrize(("scored_as", "n"), [("label", 18_900), ("mask", 18_900), ("gender", 10)])
def test_confusion_counts_every_image(scored_as, n):
    truth, pred = make_classes(n, len(CLASS_NAMES[scored_as]))
    figure = figures.confusion(truth, pred, scored_as, "a run")
    assert_readable(figure)
    cells = [text.get_text().split("\n")[0].replace(",", "") for text in figure.axes[0].texts]
    assert sum(int(cell) for cell in cells if cell.isdigit()) == n
    f1 = f1_score(truth, pred, average="macro")
    assert f"{scored_as}: macro F1 {f1:.4f}, accuracy {np.mean(truth == pred):.4f}, {n:,} images" in words(figure)


def test_label_confusion_shows_its_marginals():
    """Two of three images have the right mask, one of three the right gender, all the right age group."""
    truth = np.array([encode(0, 0, 1), encode(0, 0, 1), encode(0, 1, 1)])
    pred = np.array([encode(0, 1, 1), encode(2, 1, 1), encode(0, 1, 1)])
    axes = figures.confusion(truth, pred, "label", "a run").axes
    mask, gender, age_group = ([text.get_text() for text in axes[index].texts if "%" in text.get_text()] for index in (2, 4, 6))
    assert mask == ["2\n66.7%", "1\n33.3%"]
    assert gender == ["2\n100.0%", "1\n100.0%"]
    assert age_group == ["3\n100.0%"]


def test_classes_without_images_or_hits_are_marked():
    """Of age groups 0, 0, 1 all are called 0: class 1 has F1 0, class 2 none at all."""
    figure = figures.confusion(np.array([0, 0, 1]), np.array([0, 0, 0]), "age_group", "a run")
    assert [text.get_text() for text in figure.axes[1].texts] == ["F1", "0.800", "0.000", "–", "images", "2", "1", "0"]


def test_the_most_confident_mistakes_and_few_of_a_person_are_shown():
    """The fifth row is a's fourth mistake, the sixth is right."""
    rows = pd.DataFrame({"path": list("aaaabbc"), "truth": [0, 0, 0, 0, 0, 1, 0], "pred": [1, 1, 1, 1, 1, 1, 2],
                         "confidence": [0.9, 0.6, 0.8, 0.7, 0.5, 1.0, 0.65], "image": list("0123456")})  # fmt: skip
    for limit, wanted in ((10, "02364"), (2, "02")):
        figure = figures.mistakes(rows, grey_image, "mask", "a run", limit)
        assert "".join(word for word in words(figure) if word in rows["image"].tolist()) == wanted


def test_mistakes_say_what_is_wrong_and_load_what_they_show():
    """Three of four are wrong: the mask once, the gender once, the age group twice; two are shown."""
    truth = [encode(0, 1, 2), encode(0, 0, 0), encode(2, 0, 0), encode(1, 1, 1)]
    pred = [encode(0, 1, 1), encode(1, 0, 2), encode(2, 1, 0), encode(1, 1, 1)]
    rows = make_rows(4).assign(truth=truth, pred=pred, confidence=[0.93, 0.92, 0.91, 0.9])
    asked = []
    looks = {rows["image"][0]: (np.float32([[0, 0], [0, 1]]), (12, 0, 36, 64))}  # right half, lower part: 24 to 36, 32 to 64
    load = lambda name: asked.append(name) or grey_image(name)  # noqa: E731
    figure = figures.mistakes(rows, load, "label", "a run", 2, lambda _rows: looks)
    (line,) = (path for path in figure.axes[0].collections[0].get_paths())
    assert figure.axes[0].get_xlim() == (0, 205) and figure.axes[0].get_ylim() == (273, 0)  # of the thumbnail, as without it
    np.testing.assert_allclose(line.get_extents().extents / (273 / 64), [24, 32, 36, 64], atol=3)
    assert_readable(figure)
    shown = words(figure)
    assert asked == rows["image"].tolist()[:2] and shown[1].startswith("3 of 4 images wrong (75.0%). Shown: 2")
    for note in ("mask wrong in 1", "gender wrong in 1", "age_group wrong in 2"):
        assert note in shown
    first = shown.index("worn,")
    assert shown[first : first + 6] == ["worn,", "female,", ">=60", "→", "30-59", "(0.93)"]
    assert shown[first + 6].startswith("000000_") and shown[first + 6].endswith("…/incorrect_mask.jpg")


def test_widest_captions_fit():
    """All three parts wrong, in their longest words, in every place of a row; thumbnails of any shape."""
    rows = make_rows(7).assign(truth=encode(2, 0, 2), pred=encode(1, 1, 1), path=list("abcdefg"))
    for size in ((200, 20), (20, 200), (1, 1)):
        assert_readable(figures.mistakes(rows, lambda _name, size=size: Image.new("RGB", size), "label", "a run"))


def test_nothing_wrong_and_nothing_validated():
    rows = make_rows(7).assign(pred=lambda table: table["truth"])
    assert any("all 7 images are right" in text for text in words(figures.mistakes(rows, None, "label", "a run")))
    assert "no validation images" in words(figures.mistakes(rows[:0], None, "label", "a run"))
    nobody = np.array([], dtype=np.int64)
    assert "no validation images" in words(figures.confusion(nobody, nobody, "label", "a run"))


def boxes_table(boxes):
    table = pd.DataFrame(boxes, columns=["left", "top", "right", "bottom"], dtype=float)
    return table.assign(image=[f"{n:06d}_female_Asian_59/incorrect_mask.jpg" for n in range(len(boxes))])


NONE = (np.nan,) * 4


def sized(side):
    return (0, 0, side, side)


@pytest.mark.parametrize(("boxes", "limit", "wanted"), [
    # a third without a face, a third of the smallest faces, the rest evenly: 2, 4 and 7 lack one; 1 and 5 are small
    ([sized(50), sized(3), NONE, sized(60), NONE, sized(2), sized(70), NONE, sized(80), sized(90)], 6, [2, 4, 5, 1, 0, 7]),
    ([sized(50), sized(40), sized(60), sized(30)], 3, [3, 0, 1]),  # all have a face
    ([sized(50), NONE, NONE, NONE, NONE], 4, [1, 0, 2, 3]),  # few have one
    ([NONE, NONE], 6, [0, 1]),
])  # fmt: skip
def test_pick_takes_faceless_images_then_small_faces_then_others(boxes, limit, wanted):
    assert figures.pick_crops(boxes_table(boxes), limit).index.tolist() == wanted


def test_crops_frame_the_face_and_the_crop_and_count_those_without_a_face():
    """The thumbnail of 96 x 128 is 205 x 273 pixels, 2.13 as large: the frames' widths are those of crop and face."""
    rows = boxes_table([(20, 30, 40, 50), NONE, (50, 60, 70, 100)])
    figure = figures.crops(rows, lambda _name: white_box((96, 128), None), Geometry(16, 16, None, 0.25), "a run")
    assert_readable(figure)
    shown = words(figure)
    assert "--face-crop 0.25: no face found in 1 of 3 images" in shown[1]
    assert shown.count("no face: centre crop") == 1 and "face 20 x 40" in shown
    assert [patch.get_width() for patch in figure.axes[1].patches] == pytest.approx([30 * 205 / 96, 20 * 205 / 96])


def test_any_title_is_drawn_as_it_is_without_pyplot_or_changed_settings(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is an error now
    settings, (truth, pred) = matplotlib.rcParams.copy(), make_classes(20)
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 48, 3), dtype=np.uint8)
    for name, figure in {
        "curves": figures.curves(make_log(2, 3), LONG_TITLE),
        "confusion": figures.confusion(truth % 2, pred % 2, "gender", LONG_TITLE),
        "mistakes": figures.mistakes(make_rows(20), grey_image, "label", LONG_TITLE),
        "batch": figures.batch(*2 * [noise], [{LABELS[9]: 0.98, LABELS[10]: 0.02}] * 9, "--aug none", LONG_TITLE),
        "message": figures.mistakes(make_rows(0), grey_image, "label", LONG_TITLE),
    }.items():
        assert_readable(figure)
        assert "".join(words(figure)[0].split()) == "".join(LONG_TITLE.split())
        files.write_figure(tmp_path / f"{name}.png", figure)
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size == tuple(np.floor(figure.get_size_inches() * figures.DPI + 1e-6))
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255) and len(image.convert("L").getcolors()) > 9
    assert matplotlib.rcParams.copy() == settings


class Reader(HTMLParser):
    """The start tags with attributes, and all text, of a page as a browser reads it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page(head, rows, title="Leaderboard"):
    data = files.page_table(head, rows)
    rest = {"counts": "", "effects": [], "agreement": "", "plot": None, "forecast": []}
    return files.page("leaderboard.html", title=title, sections=[(title, data, ())], **rest)


def test_names_are_text_everywhere():
    """In a title, a heading, a cell, a link and an attribute a name stays a name: the only scripts are the page's own."""
    reader = Reader(page([NASTY, "links"], [[NASTY, [(NASTY, NASTY)]]], NASTY))
    assert [tag for tag, _attrs in reader.tags if tag in ("script", "b")] == ["script"]
    assert reader.all("a") == [{"href": NASTY}]
    assert [text.strip() for text in reader.text].count(NASTY) == 5  # title, heading, head, cell, link


def test_a_page_is_whole_and_asks_for_nothing():
    text = page(["a"], [[1]])
    reader = Reader(text)
    assert text.startswith("<!doctype html>") and reader.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.all("meta")
    assert "table.sortable" in text and ".scatter {" in text and "prefers-color-scheme: dark" in text
    assert any("default-src 'none'" in attrs.get("content", "") for attrs in reader.all("meta"))
    assert not re.findall(r"https?://|[\"'(]//", text)
    addresses = [attrs.get("src") or attrs.get("href") for _tag, attrs in reader.tags]
    assert set(addresses) == {None, "data:,"}


def test_templates_are_found_from_anywhere_and_lack_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nothing here yet" in page(["a"], [])
    with pytest.raises(jinja2.UndefinedError, match="'agreement' is undefined"):
        files.page("leaderboard.html", title="", counts="", sections=[], effects=[], plot=None, forecast=[])


def test_cells_show_text_and_sort_by_value():
    rows = [["a", 1234, 0.5, ("12 %", 0.12), None], ["b", np.int64(7), np.float32(0.25), ("–", None), float("nan")]]
    text = page(["name", "n", "f1", "share", "none"], rows)
    cells = re.findall(r"<td(.*?)>\s*(.*?)</td>", text, re.DOTALL)
    number, nothing = ' class="number"', ' data-value=""'
    assert cells == [
        ("", "a"), (f'{number} data-value="1234"', "1,234"), (f'{number} data-value="0.5"', "0.5000"),
        (f'{number} data-value="0.12"', "12 %"), (number + nothing, ""),
        ("", "b"), (f'{number} data-value="7"', "7"), (f'{number} data-value="0.25"', "0.2500"),
        (number + nothing, "–"), (number + nothing, ""),
    ]  # fmt: skip
    assert [attrs.get("class") for attrs in Reader(text).all("th")] == [None, *["number"] * 4]  # nothing is no text
    assert text.count("<button>") == 5 and 'class="sortable"' in text
    assert Reader(page(["a", "b"], [])).all("td") == []
