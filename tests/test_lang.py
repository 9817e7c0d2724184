"""--lang ko: each text that is looked up has its Korean in templates/ko.yaml, and scripts, pages and pictures use it."""

import ast
import re
from pathlib import Path

import numpy as np
import yaml

import diary
import errors
import figures
import files
import inference
import leaderboard
import options
import report
import sweep

ROOT = Path(__file__).resolve().parents[1]
TABLE = yaml.safe_load((ROOT / "templates" / "ko.yaml").read_text(encoding="utf-8"))
CALLS = ("say", "tr", "caption", "message_page", "print_table", "page_table")
NAMES = ("head", "subtitle", "fine", "notes", "lower", "upper")  # of what is assigned before it is looked up
OTHERS = [*leaderboard.COLUMNS.values(), *leaderboard.EFFECT_HEAD, *sweep.HEAD, *report.TITLES.values(), sweep.NOTE,
          leaderboard.EFFECTS_ARE, leaderboard.FORECAST_IS, *(why for *_row, why in diary.ADVICE), *(text.replace("{tta}", "{}") for text in inference.ADVICE.values())]  # fmt: skip
PARTS = {
    ast.IfExp: ("body", "orelse"),
    ast.BinOp: ("left",),
    ast.Call: ("func",),
    ast.Attribute: ("value",),
    ast.ListComp: ("elt",),
}


def literals(node):
    """Texts of an expression, with {} for what varies."""
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [re.sub(r"\{\w+(:.*?)?\}", "{}", node.value)]
    children = getattr(node, "elts", None) or [getattr(node, name) for name in PARTS.get(type(node), ())]
    return [text for child in children for text in literals(child)]


def looked_up():
    """All texts that scripts and templates look up."""
    found = [*OTHERS]
    for node in (node for path in ROOT.glob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in NAMES:
            found += literals(node.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in CALLS:
            found += [text for arg in node.args for text in literals(arg)]
    for text in (path.read_text(encoding="utf-8") for path in (ROOT / "templates").glob("*.[hjm]*")):
        found += re.findall(r'_\("(.*?)"\)', text)
    return {text.strip() for text in found if re.search(r"[A-Za-z.]{2}|\{:", text)}


def test_every_text_has_its_korean_and_what_varies():
    """Exactly, or as a pattern with {}; what f-strings leave open may be spelt out in the table. Korean keeps what varies,
    but for the s of a plural, and the JavaScript in a text."""

    def fits(text, key):
        return re.fullmatch("(?s:.*?)".join(map(re.escape, text.split("{}"))), key)

    texts = looked_up()
    assert {text for text in texts if not any(fits(text, key) or fits(key, text) for key in TABLE)} == set()
    for text, korean in TABLE.items():
        fields, theirs = (sorted(re.findall(r"\{.*?\}", each)) for each in (re.sub(r"(?<=[a-z])\{\}", "", text), korean))
        assert "{}{}" not in text and len(fields) == len(theirs) and ("${" not in text or fields == theirs), text
        assert "${" in text or re.sub(r"\{(\d?):.*?\}", r"{\1}", korean).format(*"abcdefgh"), text


def test_the_language_is_that_of_the_option_or_the_locale(monkeypatch, capsys):
    """--lang is no option of a run: it is not recorded, and a resumed run takes it."""
    for environment, argv, words in (
        ({"LC_ALL": "ko_KR.UTF-8", "LANG": "C"}, [], "다음: x"), ({"LC_ALL": "", "LANG": "ko_KR"}, [], "다음: x"),
        ({"LC_ALL": "C", "LANG": "ko_KR"}, [], "next: x"), ({"LC_ALL": "ko"}, ["--lang", "en"], "next: x"),
        ({"LC_ALL": "en_US"}, ["--lang", "ko"], "다음: x"),
    ):  # fmt: skip
        for name, value in {"FACES_LANG": "", "LC_MESSAGES": "", **environment}.items():
            monkeypatch.setenv(name, value)
        parser = options.make_parser()
        assert "lang" not in vars(parser.parse_args(argv)) and parser.given([*argv, "--resume", "x"]) == {"resume"}
        errors.say("\n  next: x")
        assert capsys.readouterr().out == f"\n  {words}\n"


def test_lines_tables_pages_and_pictures(monkeypatch):
    """What varies may change its place; columns align by Hangul's double width; pictures stay English without a font."""
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    assert errors.tr("  0.50 for class 3, worn") == "  클래스 3(worn) 0.50" and errors.tr("2  unknown: x") == "2  unknown: x"
    assert errors.tr("x: macro F1 0.5, accuracy 0.4, 7 images") == "x: macro F1 0.5, 정확도 0.4, 이미지 7장"  # no x: 7 images
    aligned = files.aligned(["member", "folds"], [["a", "1"], ["b", "22"]])
    assert aligned == ["멤버  fold", "a        1", "b       22"] and errors.wrap("가나다라 " * 3, 10) == ["가나다라"] * 3
    page = leaderboard.page([], "oof_f1", "x.html", [])
    assert '<html lang="ko">' in page and "아직 아무것도 없습니다. F1은" in page and "<h2>OOF와 LB</h2>" in page
    for fonts, words in ((["DejaVu Sans", "NanumGothic"], "검증 이미지 없음"), (["DejaVu Sans"], "no validation images")):
        monkeypatch.setitem(figures.STYLE, "font.family", fonts)
        figure = figures.confusion(np.zeros(0, int), np.zeros(0, int), "mask", "a run")
        assert words in {text.get_text() for text in figure.texts}
