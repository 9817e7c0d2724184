"""pages.py: escaping, cells, thumbnails, and a document that asks for nothing."""

import base64
import io
import re
from html.parser import HTMLParser

import jinja2
import numpy as np
import pytest
from PIL import Image

import files
import images
from errors import InputError

NASTY = """</script><script>alert(1)</script> "'&<b>"""


class Reader(HTMLParser):
    """What a browser would see: start tags with attributes, and all text."""

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
    return files.page("leaderboard.html", title=title, counts="", sections=[(title, data)], effects=[], agreement="", plot=None)


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
        files.page("leaderboard.html", title="", counts="", sections=[], effects=[], plot=None)


def test_cells_show_text_and_sort_by_value():
    rows = [["a", 1234, 0.5, ("12 %", 0.12), None], ["b", np.int64(7), np.float32(0.25), ("–", None), float("nan")]]
    text = page(["name", "n", "f1", "share", "none"], rows)
    cells = re.findall(r"<td(.*?)>\s*(.*?)</td>", text, re.DOTALL)
    number, nothing = ' class="number"', ' data-value=""'
    assert cells == [
        ("", "a"), (f'{number} data-value="1234"', "1,234"), (f'{number} data-value="0.5"', "0.5000"),
        (f'{number} data-value="0.12"', "12 %"), (nothing, ""),
        ("", "b"), (f'{number} data-value="7"', "7"), (f'{number} data-value="0.25"', "0.2500"),
        (number + nothing, "–"), (nothing, ""),
    ]  # fmt: skip
    assert [attrs.get("class") for attrs in Reader(text).all("th")] == [None, "number", "number", "number", None]
    assert text.count("<button>") == 5 and 'class="sortable"' in text
    assert Reader(page(["a", "b"], [])).all("td") == []


@pytest.mark.parametrize(("mode", "size", "shown"), [
    ("RGB", (384, 512), (120, 160)), ("L", (512, 384), (213, 160)), ("P", (30, 40), (30, 40)), ("RGBA", (1, 1000), (1, 160)),
])  # fmt: skip
def test_thumbnails_are_small_jpegs(tmp_path, mode, size, shown):
    Image.new(mode, size, 128 if mode in "LP" else None).save(tmp_path / "x.png")
    head, data = images.thumbnail(tmp_path / "x.png").split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/jpeg;base64" and (image.format, image.mode, image.size) == ("JPEG", "RGB", shown)


def test_thumbnails_are_upright(tmp_path):
    """A picture saved on its side (EXIF orientation 6) is turned: 20 wide, 10 high becomes 10 wide, 20 high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10), "red").save(tmp_path / "x.jpg", exif=exif)
    data = images.thumbnail(tmp_path / "x.jpg").split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (10, 20)


def test_a_bad_image_is_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"x\.jpg: not a readable image"):
        images.thumbnail(tmp_path / "x.jpg")
