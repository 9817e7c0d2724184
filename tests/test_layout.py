"""layout.py: text that fits its room and its font."""

import layout


def test_shorten():
    assert layout.shorten("short", 5) == "short"
    assert layout.shorten("abcdefghij", 5) == "ab…ij"
    assert layout.shorten("abcdefghij", 6) == "abc…ij"
    assert layout.shorten("abcdefghij", 1) == "…"
    assert layout.shorten("000003_female_Asian_40/mask1.jpg", 18) == "000003_…/mask1.jpg"
    assert layout.shorten("a/mask1_with_a_long_name.jpg", 9) == "a/ma….jpg"
    assert all(len(layout.shorten("abc/" + "d" * 30, length)) == length for length in range(1, 34))


def test_drawable_keeps_to_one_line_and_the_font():
    assert layout.drawable("a\n b\t$x$ …") == "a b $x$ …"
    assert layout.drawable("한a") == "□a"
