"""compare_page.py: which images are shown, their words, and the page in a real browser, by its keys and its looks."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import compare
import dataset
from compare import Comparison

NASTY = """</script><img src=x onerror="document.title='owned'">'.jpg"""


def comparison(flows, probs=True, scored_as="label"):
    """A Comparison whose rows differ by `flows`, a list of (class of A, class of B, count), and one row that agrees."""
    pairs = [(0, 0)] + [(a, b) for a, b, count in flows for _ in range(count)]
    a, b = np.array(pairs, dtype=np.int64).T
    C = {"label": 18, "gender": 2}[scored_as]
    rng = np.random.default_rng(0)
    tables = [np.eye(C)[each] * rng.uniform(0.5, 0.9, (len(each), 1)) for each in (a, b)] if probs else [None, None]
    return Comparison(scored_as, [f"{row:040x}.jpg" for row in range(len(a))], a, b, *tables)


def html(both, rows=None, pictures=None, why="", verdict=("A - B = +0.004, 95 % CI -0.006 .. +0.013: noise",)):
    rows = compare.choose(both, 600) if rows is None else rows
    return compare.document(("runs/one", "runs/other"), both, rows, pictures or {}, why, list(verdict), [])


@pytest.mark.parametrize(("limit", "counts"), [(0, [0, 0, 0]), (2, [1, 1, 0]), (4, [2, 1, 1]), (5, [3, 1, 1]), (99, [6, 1, 1])])
def test_every_flow_gives_in_turn(limit, counts):
    both = comparison([(0, 1, 6), (0, 3, 1), (0, 6, 1)])
    rows = compare.choose(both, limit)
    assert [sum(both.b[row] == b for row in rows) for b in (1, 3, 6)] == counts
    mine = [row for row in rows if both.b[row] == 1]
    assert mine == [row for row in both.rows if both.b[row] == 1][: len(mine)]  # the most certain first


def test_thumbnails_are_found_by_name_alone(tmp_path):
    images = tmp_path / "eval" / "images"
    images.mkdir(parents=True)
    Image.new("RGB", (30, 40), "red").save(images / "a.jpg")
    Image.new("RGB", (30, 40), "red").save(tmp_path / "eval" / "b.jpg")
    found, why = compare.thumbnails(tmp_path, ["a.jpg", "../b.jpg"])
    assert list(found) == ["a.jpg"] and why == f"1 of 2 images are not in {images}, such as ../b.jpg"
    assert compare.thumbnails(tmp_path, ["a.jpg"])[1] == ""
    assert compare.thumbnails(None, ["a.jpg"]) == ({}, "no data folder here; --data-dir DIR names it")
    assert compare.thumbnails(tmp_path / "eval", ["a.jpg"])[0] == {}
    assert compare.thumbnails(tmp_path, []) == ({}, "")


def test_a_page_says_what_it_shows_and_what_not():
    both = comparison([(0, 1, 6), (0, 3, 1)])
    text = html(both, compare.choose(both, 3), why="no data folder here")
    assert "3 of 7 images are here, the most certain of each flow" in text and "No thumbnails: no data folder here." in text
    assert "6 images, 2 shown" in text and ">1 image<" in text
    assert text.count('<button class="card">') == 3 and "<img" not in text
    assert '<li class="verdict">A - B = +0.004, 95 % CI -0.006 .. +0.013: noise</li>' in text


def test_both_answers_stand_under_an_image_and_what_changed_is_named():
    both = comparison([(0, 14, 1)])
    card = re.search(r'<button class="card">(.*?)</button>', html(both)).group(1)
    words = " ".join(re.sub(r"<[^>]*>", " ", card).split())
    chances = [f"{probs[1, answer]:.2f}" for probs, answer in ((both.probs_a, 0), (both.probs_b, 14))]
    assert words.startswith(
        f"A worn , male , &lt;30 {chances[0]} B not worn , male , &gt;=60 {chances[1]} changed: mask , age_group"
    )
    assert card.count('<b class="word mask">') == 3 and "gender" not in card


def test_unknown_probabilities_are_left_out():
    text = html(comparison([(0, 1, 1)], probs=False, scored_as="gender"))
    assert 'class="chance"' not in text and '<span class="more">' not in text and "expected F1" not in text


def test_nothing_differs():
    text = html(comparison([]))
    assert "<b>0</b> of 1 rows differ (0.0%)" in text and '<button class="card">' not in text


KEYS = """
<script>
const press = key => (document.activeElement || document.body).dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const at = () => visible().indexOf(document.activeElement), seen = () => visible().length, said = {};
console.log("listening");
said.all = seen();
press("j"); said.first = at();
press("j"); press("ArrowRight"); said.third = at();
press("k"); press("ArrowLeft"); press("ArrowLeft"); said.back = at();
press("ArrowDown"); said.down = at();
press("Enter"); said.opened = large.open; said.large = content.querySelector(".name").textContent;
press("j"); said.next = content.querySelector(".name").textContent;
press("Escape"); said.closed = !large.open; said.after = at();
press("2"); said.second = [seen(), shown.textContent, buttons.map(b => b.getAttribute("aria-pressed")).join()];
press("j"); said.inSecond = at();
press("9"); said.noNinth = seen();
press("0"); said.again = seen();
buttons[1].click(); said.clicked = seen();
said.reached = cards.filter(card => card.tabIndex === 0).length;
buttons[0].click(); buttons[0].focus(); said.ring = getComputedStyle(buttons[0]).outlineStyle;
visible()[0].click(); said.byClick = large.open; document.getElementById("close").click(); said.byButton = !large.open;
said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const head = document.querySelector("details table.sortable"), firsts = () => [...head.tBodies[0].rows].map(r => r.cells[2].textContent);
document.querySelector("details").open = true;
const button = head.tHead.rows[0].cells[2].querySelector("button");
button.click(); said.sorted = [button.parentNode.getAttribute("aria-sort"), firsts()];
button.click(); said.turned = [button.parentNode.getAttribute("aria-sort"), firsts()];
document.body.dataset.said = JSON.stringify(said);
</script>
"""


def test_in_a_browser_keys_move_filter_and_open(browser):
    """7 images in flows of 4, 2 and 1, one of them with a hostile name: counts, focus, large view, sorting, no errors."""
    both = comparison([(0, 1, 4), (0, 3, 2), (0, 14, 1)])
    both.images[1] = NASTY
    dom, console = browser(html(both).replace("</body>", KEYS + "</body>"), "--dump-dom", "--window-size=1200,900")
    assert [line for line in console if "listening" not in line] == [] and len(console) == 1
    assert "owned" not in re.search("<title>(.*?)</title>", dom).group(1)
    attribute = re.search(r'data-said="([^"]*)"', dom).group(1)
    said = json.loads(attribute.replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    names = [both.images[row] for row in compare.choose(both, 600)]
    assert (said["all"], said["first"], said["third"], said["back"]) == (7, 0, 2, 0)
    assert said["down"] == 4  # below the first of flow 1 stands the first of flow 2
    assert (said["opened"], said["large"], said["next"], said["closed"], said["after"]) == (True, names[4], names[5], True, 5)
    assert said["second"] == [2, "2 of 7 images shown", "false,false,true,false"]
    assert (said["inSecond"], said["noNinth"], said["again"], said["clicked"], said["reached"]) == (0, 2, 7, 4, 1)
    assert (said["byClick"], said["byButton"], said["wide"]) == (True, True, 0)
    counts = ["8", "8", "8", "0", "0", "0", "0", "0"]  # A answers worn, male, <30 for all 8 images
    assert said["sorted"] == ["descending", counts] and said["turned"] == ["ascending", counts[::-1]]


def test_light_and_dark_and_narrow(browser, shared_data, tmp_path):
    """Screenshots: light ground in light, dark in dark, and nothing wider than a telephone."""
    names, _files = dataset.read_eval(shared_data)
    both = comparison([(0, 1, 4), (0, 3, 2)])
    both.images[:] = names[: len(both.images)]
    text = html(both, pictures=compare.thumbnails(shared_data, names)[0])
    shots = []
    for scheme in (1, 0):  # Chromium's numbers of light and dark
        file = tmp_path / f"{scheme}.png"
        browser(text, f"--blink-settings=preferredColorScheme={scheme}", "--window-size=400,900", f"--screenshot={file}")
        shots.append(np.asarray(Image.open(file).convert("L"), dtype=float))
    assert shots[0][0, 0] > 230 and shots[1][0, 0] < 40
    assert shots[0].std() > 20 and shots[1].std() > 20  # something stands on it
