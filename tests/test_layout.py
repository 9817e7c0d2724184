"""layout.py: text that fits its room and its font."""

import pytest
from matplotlib import font_manager

import report


@pytest.fixture
def forget():
    """Called once which fonts there are has changed; and afterwards."""

    def cleared():
        report.fonts.cache_clear()
        report._glyphs.cache_clear()

    yield cleared
    cleared()


def test_shorten():
    assert report.shorten("short", 5) == "short"
    assert report.shorten("abcdefghij", 5) == "ab…ij"
    assert report.shorten("abcdefghij", 6) == "abc…ij"
    assert report.shorten("abcdefghij", 1) == "…"
    assert report.shorten("000003_female_Asian_40/mask1.jpg", 18) == "000003_…/mask1.jpg"
    assert report.shorten("a/mask1_with_a_long_name.jpg", 9) == "a/ma….jpg"
    assert all(len(report.shorten("abc/" + "d" * 30, length)) == length for length in range(1, 34))


def test_drawable_keeps_to_one_line_and_the_font():
    assert report.drawable("a\n b\t$x$ …") == "a b $x$ …"


def test_letters_that_no_font_has_are_boxes(monkeypatch, forget):
    """Without a font for Hangul it is drawn as boxes; with one, whichever of the names it has, as it is."""
    fonts = font_manager.fontManager.ttflist
    own = [font for font in fonts if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    forget()
    assert report.fonts() == ["DejaVu Sans"] and report.drawable("한a") == "□a"
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    monkeypatch.setattr(report, "FONTS", ("DejaVu Sans", "No Such Font", "DejaVu Serif"))  # both come with matplotlib
    forget()
    assert report.fonts() == ["DejaVu Sans", "DejaVu Serif"]
    monkeypatch.undo()
    forget()
    assert report.drawable("한a") == ("한a" if len(report.fonts()) > 1 else "□a")
