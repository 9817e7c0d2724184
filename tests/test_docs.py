"""The pages for readers: links lead somewhere, printed commands parse, the README stays short, and Korean keeps step with English."""

import argparse
import contextlib
import functools
import importlib
import inspect
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

import errors
import options

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md"))]
WORDS, LINES = 700, 110  # of README.md, the most
TO_BE_DRAWN = set()
# of argparse, torchrun and pip
ELSEWHERE = {"--help", "--no-pretrained", "--no-usual", "--node_rank", "--rdzv_backend", "--extra-index-url", "--logdir"}
FENCE = re.compile(r"^```.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOOLS_THAT_TRAIN = {"gap", "start"}  # tools/NAME.py NUMBER [options of train.py]


class ParsedError(Exception):
    """A command line was parsed, and its script should do no more."""


def text(path):
    return path.read_text(encoding="utf-8")


def headings(path):
    """Titles of a page, without what looks like one in its code blocks."""
    return re.findall(r"^#+ (.*)$", FENCE.sub("", text(path)), re.MULTILINE)


def anchor(title):
    """A heading as GitHub links to it."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text(page))):
        if link.startswith("http"):
            continue
        name, _, part = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() or target.name in TO_BE_DRAWN, f"{page.name}: {link} leads to no file"
        assert not part or part in map(anchor, headings(target)), f"{page.name}: {link} leads to no heading"


def commands(page):
    """[script, word, ...] of each command line of our scripts in code blocks and in `...`, as far as it can be parsed."""
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text(page)))
    blocks = "\n".join(FENCE.findall(text(page))).replace("\\\n", " ")
    for line in [*blocks.splitlines(), *inline]:
        line = re.sub(r"^.*?=\S* +(?=python )", "", line.strip()).replace("!python", "python")
        line = re.sub(r"\$(COMMON|DATA)\b|(?<= )\.\.\.(?= |$)", "", line)
        for piece in line.split("&&"):
            words = shlex.split(re.sub(r"\$\w+", "0", piece), comments=True)
            at = next((index for index, word in enumerate(words) if word.endswith(".py")), None)
            if at and words[0] in ("python", "srun", "torchrun") and "-m" not in words[:at] and words[at + 1 :]:
                yield words[at:]


def experiments(page):
    """Options of train.py in the lines NAME: OPTIONS of the files for sweep.py."""
    for block in FENCE.findall(text(page)):
        if "common:" in block:
            for line in re.findall(r"^[\w-]+:(.*)$", block, re.MULTILINE):
                yield shlex.split(re.sub(r"\$\w+", "0", line), comments=True)


def stop_after(parse, argv):
    """`parse_args`, but after `argv` itself (not the [] by which defaults are asked for) nothing else is done."""

    def parsed(self, args=None, namespace=None):
        found = parse(self, args, namespace)
        if args is None or list(args) == argv:
            raise ParsedError
        return found

    return parsed


@functools.cache
def why_refused(words):
    """What the script's own parser says against a command line, or None; nothing is run."""
    script, argv = words[0], list(words[1:])
    name = Path(script).stem
    if not (ROOT / script).exists():
        return f"{script} does not exist"
    if name in ("big", "halves", "plant"):
        return None if len(argv) == 2 or (len(argv) == 3 and name != "big") else "takes two folders"
    if name in TOOLS_THAT_TRAIN:
        float(argv.pop(0))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        for parser in (argparse.ArgumentParser, errors.Parser):
            patch.setattr(parser, "parse_args", stop_after(parser.parse_args, argv))
        patch.setattr(sys, "argv", [script, *argv])
        patch.setenv("FACES_LANG", "")  # which --lang changes
        try:
            if name == "train" or name in TOOLS_THAT_TRAIN:
                options.make_parser().parse_args(argv)
            else:
                module = importlib.import_module(name)
                parse = getattr(module, "parse_args", module.main)
                parse(argv) if inspect.signature(parse).parameters else parse()
        except ParsedError:
            return None
        except errors.InputError as error:
            return str(error)
        except SystemExit as stopped:
            return None if stopped.code in (0, None) else f"refused with exit code {stopped.code}"
    return "was not parsed"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_printed_commands_parse(page):
    lines = [*map(tuple, commands(page)), *(("train.py", *words) for words in experiments(page))]
    refused = {shlex.join(words): why_refused(words) for words in lines}
    assert {line: why for line, why in refused.items() if why} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_files_that_are_named_exist(page):
    """Of `--option` and `file.py` within a line, which need no whole command."""
    sources = "".join(map(text, [*ROOT.glob("*.py"), *ROOT.glob("tools/*.py")]))
    options_known = {*re.findall(r'"(--[a-z][\w-]*)"', sources), *ELSEWHERE}
    named = " ".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", text(page))))
    assert {name for name in re.findall(r"(?<!\S)--[a-z][\w-]*", named) if name not in options_known} == set()
    assert {name for name in re.findall(r"[\w/]+\.py\b", named) if not (ROOT / name).exists()} == set()


def test_a_wrong_option_is_seen():
    """The check itself: a misspelt option and a script that is not there are refused, a right line is not."""
    assert "no such option" in why_refused(("train.py", "--los", "focal"))
    assert "no such option" in why_refused(("ensemble.py", "--models", "RUN", "--serach", "greedy"))
    assert why_refused(("training.py",)) == "training.py does not exist"
    assert why_refused(("compare.py", "A", "B", "--images")) is None


def test_every_option_of_train_has_its_line():
    """docs/options.md has the groups of --help with their options, in that order."""
    page = text(ROOT / "docs" / "options.md")
    printed = re.findall(r"^## (.+)$|^\| `(--[\w-]+)(?:.*?`, `(--[\w-]+))?", page.partition("## Data\n")[2], re.MULTILINE)
    told, group = {"data": []}, "data"
    for title, *names in printed:
        if title:
            group = title.lower()
            told[group] = []
        else:
            told[group] += [name for name in names if name]
    groups = [group for group in options.make_parser()._action_groups if group.title not in ("options", "positional arguments")]
    assert told == {
        group.title: [name for action in group._group_actions for name in action.option_strings] for group in groups
    }


def test_the_readme_stays_short():
    readme = text(ROOT / "README.md")
    assert len(readme.split()) <= WORDS and len(readme.splitlines()) <= LINES


@pytest.mark.parametrize("korean", [page for page in PAGES if page.name.endswith(".ko.md")], ids=lambda page: page.name)
def test_korean_keeps_step(korean):
    """As many headings and pictures as the English page, and the same code blocks."""
    english = korean.with_name(korean.name.replace(".ko.md", ".md"))
    assert len(headings(korean)) == len(headings(english))
    assert FENCE.findall(text(korean)) == FENCE.findall(text(english))
    assert re.findall(r"!\[.*?\]\((.*?)\)", text(korean)) == re.findall(r"!\[.*?\]\((.*?)\)", text(english))
