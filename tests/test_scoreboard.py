import json
import re

import pytest
from test_records import SCORES, make_ensemble, make_run

import files
import leaderboard
from errors import InputError
from leaderboard import Record


def run(name, target="label", f1=0.5, **facts):
    facts = {"kfold": 5, "folds": [0, 1, 2, 3, 4], "oof_f1": f1, **facts}
    return Record(f"runs/{name}", "run", target, **facts)


def names(groups):
    return {part: [record.name for record in group] for part, group in groups.items()}


def test_sections_put_what_compares_together_best_first_and_unscored_last():
    found = [run("m", "mask", 0.9), run("b", f1=0.5), run("n", f1=None), run("g", "gender", 0.8), run("a", "age", 0.6),
             run("ag", "age_group", 0.7), run("mu", "multi", 0.55), Record("submissions/e", "ensemble", "label", oof_f1=0.6)]  # fmt: skip
    ordered = leaderboard.sections(found)
    assert list(ordered) == ["label", "age_group", "gender", "mask"]
    assert names(ordered) == {"label": ["e", "mu", "b", "n"], "age_group": ["ag", "a"], "gender": ["g"], "mask": ["m"]}


@pytest.mark.parametrize(("column", "order"), [
    ("name", "abc"), ("oof_f1", "bca"), ("lb", "cab"), ("time", "bac"), ("accuracy", "cab"), ("interval", "acb"), ("folds", "bac"),
    ("target", "bca"),
])  # fmt: skip
def test_every_column_sorts(column, order):
    """Scores and folds begin with the highest, words and times with the lowest; what has no value stands last."""
    found = [run("a", f1=0.51, lb=0.6, seconds=50.0, oof_acc=0.5, oof_f1_ci95=[0.5, 0.6], folds=[0, 1]),
             run("b", f1=0.53, lb=None, seconds=10.0, oof_acc=None, oof_f1_ci95=[0.3, 0.9], folds=[0, 1, 2]),
             run("c", f1=0.52, lb=0.7, seconds=None, oof_acc=0.6, oof_f1_ci95=[0.4, 0.7], folds=[0])]  # fmt: skip
    assert "".join(names(leaderboard.sections(found, column))["label"]) == order


@pytest.mark.parametrize(
    ("word", "key"), [("OOF F1", "oof_f1"), ("f1", "oof_f1"), ("LB", "lb"), ("seconds", "time"), ("acc", "accuracy")]
)
def test_words_for_columns(word, key):
    assert leaderboard.column_of(word) == key


def test_a_misspelt_column():
    with pytest.raises(InputError, match=r"--sort acuracy: no such column\. Did you mean accuracy\? There are name, target"):
        leaderboard.column_of("acuracy")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (45.4, "45 s"), (600, "10 min"), (5400, "1.5 h"), (90000, "25.0 h")]
)
def test_times(seconds, text):
    assert files.time_text(seconds) == text


def test_folds():
    found = [run("a", folds=[0, 3]), run("b", kfold=0, folds=[0]), run("c", kfold=0, folds=[]), run("d", kfold=2, folds=[])]
    found.append(
        Record("e", "ensemble", "label", options={"members": [{}, {"weight": 2}, {"weight": None}, {"weight": {"mask": 0.5}}]})
    )
    found.append(
        Record("f", "ensemble", "label", options={"members": [{"weight": 0}, {"weight": {"mask": 0.0}}, {"weight": 1}]})
    )
    assert [leaderboard.folds_text(record) for record in found] == ["2/5", "nofold", "0/1", "0/2", "of 4", "of 1"]


def test_long_names_are_cut_in_the_middle():
    """20 columns: 8 letters, three dots, 9 letters."""
    assert files.shorten(["10-AdamP-StepLR-FL-v0-age_group_5fold", "short"], 20) == ["10-AdamP...oup_5fold", "short"]


def test_the_cut_moves_where_it_would_make_names_alike():
    long = [f"10-AdamP-StepLR-FL-v{number}-age_group_5fold_and_more" for number in range(3)]
    cut = files.shorten(long, 30)
    assert len(set(cut)) == 3 and all(len(name) <= 30 and "..." in name for name in cut)


def test_names_that_no_cut_keeps_apart_are_cut_all_the_same():
    alike = ["a" * 50 + letter + "a" * 50 for letter in "xy"]
    assert files.shorten(alike, 20) == ["aaaaaaaa...aaaaaaaaa"] * 2


def test_wide_letters_count_twice():
    assert files.display_width("실험-1") == 6
    (cut,) = files.shorten(["실험" * 20], 21)
    assert files.display_width(cut) <= 21 and cut.startswith("실험")
    assert files.aligned(["name", "F1"], [["실험", "0.5"], ["abc", "0.25"]]) == ["name    F1", "실험   0.5", "abc   0.25"]


@pytest.mark.parametrize("width", [100, 80])
def test_the_table_fits_the_terminal(width):
    found = [run(f"{number:02d}-AdamP-CosineAnnealing-0.6*focal+0.4*f1-v{number}-age_group_5fold", "age_group", 0.6 + number / 100,
                 oof_acc=0.6, oof_f1_ci95=[0.58, 0.62], seconds=4000.0, lb=0.7) for number in range(12)]  # fmt: skip
    lines = leaderboard.text_table(found, "oof_f1", width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[2] == "age_group: macro F1 of 3 classes, 12 runs"
    assert lines[3].startswith("11-Ad") and lines[3].endswith("0.7100  0.580 .. 0.620  0.6000  67 min  0.7000")


def test_different_people_in_a_section_are_told():
    found = [run("a", people=[700, "x"]), run("b", people=[100, "y"]), run("c", people=[700, "x"])]
    assert "of 2 different sets of people: their scores do not compare" in leaderboard.section_title("label", found)
    assert "people" not in leaderboard.section_title("label", [found[0], found[2]])


def test_names_are_shown_in_one_line():
    assert leaderboard.shown("a\nb\x1b[31m\udcffc") == "a\ufffdb\ufffd[31m\ufffdc"


def test_markdown_escapes_what_would_break_the_table():
    text = leaderboard.markdown([run("a|b<i>_c_", f1=0.51), run("m", "mask", 0.9)], "oof_f1")
    assert r"| a\|b\<i>_c_ | label | 5/5 | 0.5100 | - | - | - | - |" in text.splitlines()
    assert "**mask: macro F1 of 3 classes, 1 run**" in text
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert set(cells) == {9}


# ---- the page


@pytest.fixture
def found(tmp_path):
    folder = make_run(tmp_path / "runs", "<script>alert(1)")
    (folder / "curves.png").write_bytes(b"")
    leaderboard.record_lb(folder, 0.5)
    make_run(tmp_path / "runs", "b", target="mask")
    ensemble = make_ensemble(tmp_path / "submissions", "e", {"runs/b": 1}, scores={**SCORES, "oof_f1": 0.54})
    leaderboard.record_lb(ensemble, 0.61)
    return [*leaderboard.read_all(tmp_path / "runs")[0], *leaderboard.read_all(tmp_path / "submissions")[0]]


def test_the_page_escapes_names_and_links_relatively(found, tmp_path):
    effects = [("effects", ["factor", "effect"], [["<b>", ("+0.0100", 0.01)]], "a < b")]
    text = leaderboard.page(found, "oof_f1", tmp_path / "out" / "page.html", effects, "r < 1")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert 'href="../runs/%3Cscript%3Ealert%281%29/curves.png"' in text and "confusion.png" not in text
    assert "&lt;b&gt;" in text and "a &lt; b" in text and "r &lt; 1" in text
    assert text.index("label: macro F1") < text.index("mask: macro F1") < text.index("<h2>OOF against LB")
    assert not re.search(r"(src|href)=\"(https?:)?//", text)


def test_the_row_of_a_run_holds_its_own_links(found, tmp_path):
    text = leaderboard.page(found, "oof_f1", tmp_path / "page.html", [], "")
    rows = dict(re.findall(r"<tr><td>([^<]*)</td>(.*?)</tr>", text))
    assert "curves" in rows["&lt;script&gt;alert(1)"] and "href" not in rows["e"] + rows["b"]


MEASURE = """<script>
const said = [], scroll = document.querySelector(".scroll"), heads = [...scroll.querySelectorAll("th")];
for (const width of [1280, 400]) {
  document.body.style.width = width + "px";
  const end = scroll.getBoundingClientRect().right;
  scroll.scrollLeft = 10000;
  const cell = scroll.querySelector("td").getBoundingClientRect(), moved = scroll.scrollLeft;
  scroll.scrollLeft = 0;
  said.push({seen: heads.filter(head => head.getBoundingClientRect().right <= end + 1).map(head => head.textContent), moved,
             name: cell.width, stays: Math.abs(cell.left - scroll.getBoundingClientRect().left) < 2});
}
document.body.dataset.said = JSON.stringify(said);
</script></body>"""


def test_long_names_leave_room_for_the_scores(tmp_path, browser):
    """At 1280 px all columns are seen; at 400 px the name and OOF F1, and the name stays while the rest is scrolled."""
    found = [run("01-AdamW_Cosine-" * 12, lb=0.5), run("실험최종" * 30, lb=0.4), run("n_" * 90, f1=0.3), run("short", f1=0.1)]
    text = leaderboard.page(found, "oof_f1", tmp_path / "page.html", [], "")
    assert re.findall(r"<button>([^<]*)", text)[:4] == ["name", "OOF F1", "target", "folds"]
    dom, _console = browser(text.replace("</body>", MEASURE), "--dump-dom", "--window-size=1280,900")
    wide, narrow = json.loads(re.search(r'data-said="([^"]*)"', dom).group(1).replace("&quot;", '"'))
    assert len(wide["seen"]) == 9 and wide["moved"] == 0 and wide["name"] > 250
    assert narrow["seen"][:2] == ["name", "OOF F1"] and narrow["moved"] > 0 and narrow["stays"] and 120 < narrow["name"] < 200


def test_a_long_name_beside_the_scatter_is_shortened(tmp_path):
    text = leaderboard.page([run("한글이름" * 40, lb=0.5)], "oof_f1", tmp_path / "page.html", [], "")
    label, beside = re.search(r'aria-label="([^"]*)".*class="name"[^>]*>([^<]*)', text).groups()
    assert label.startswith("한글이름" * 40) and "..." in beside and "LB 0.5000" in beside
    assert files.display_width(beside) < 60


def test_the_scatter_places_points_on_equal_axes(found, tmp_path):
    """Values 0.5 .. 0.61 take steps of 0.02: axes 0.50 .. 0.62 on 400 units from (66, 28); OOF 0.54 is a third of the way."""
    text = leaderboard.page(found, "oof_f1", tmp_path / "page.html", [], "")
    points = dict(re.findall(r'aria-label="([^:]*):[^"]*"><circle cx="([\d.]+)"', text))
    assert float(points["e"]) == pytest.approx(66 + 400 / 3, abs=0.1)
    assert text.count('class="point" tabindex="0"') == 2 and "e: OOF 0.5400, LB 0.6100" in text
    heights = re.findall(r'cy="([\d.]+)"', text)
    assert float(heights[1]) == pytest.approx(28 + 400 / 12, abs=0.1)  # 0.61 is one twelfth below the top


@pytest.mark.parametrize(("values", "place"), [((0.0, 1.0), (66, 94.7)), ((1.0, 1.0), (66, 428)), ((0.0, 0.0), (66, 428))])
def test_the_scatter_at_the_ends_of_the_scale(values, place):
    """0 .. 1 takes steps of 0.2 up to 1.2, of which 1 is a sixth below the top: 28 + 400 / 6; one value is the lower corner."""
    ((_name, _short, *found),) = leaderboard.scatter([run("a", f1=values[0], lb=values[1])])["points"]
    assert found == pytest.approx(place, abs=0.1)


def test_an_empty_page(tmp_path):
    assert "nothing here yet" in leaderboard.page([], "oof_f1", tmp_path / "page.html", [], "no scores")
