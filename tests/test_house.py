"""The layout stays small: top-level files, their lines, their functions, the import floors and what the scripts reach."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES, LINES, LINES_OF_A_FILE, LINES_OF_A_FUNCTION, LINES_OF_TESTS = 26, 11_000, 700, 50, 11_500
LINES_OF_TOOLS, LINES_OF_DEMO_FACES = 1_150, 650
FLOORS, ARROWS, REACH = 7, 125, 20
OPTIONS = {"make_parser"}  # lists of options may be longer
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.glob("*.py")}


def imports():
    """{file: the top-level files that it imports, at its head or inside functions}."""
    found = {}
    for name, tree in TREES.items():
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        found[name] = TREES.keys() & (modules | {node.module for node in nodes if isinstance(node, ast.ImportFrom)})
    return found


GRAPH = imports()


def floor(name, above=()):
    assert name not in above, f"imports go round: {' > '.join((*above, name))}"
    return 1 + max((floor(other, (*above, name)) for other in GRAPH[name]), default=0)


def reach(name):
    return GRAPH[name].union(*map(reach, GRAPH[name]))


def test_files_and_their_lines():
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("*.py")}
    assert len(lines) <= FILES and sum(lines.values()) <= LINES and max(lines.values()) <= LINES_OF_A_FILE
    for folder, most in (("tests", LINES_OF_TESTS), ("tools", LINES_OF_TOOLS), ("demo_faces", LINES_OF_DEMO_FACES)):
        assert sum(path.read_text(encoding="utf-8").count("\n") for path in ROOT.glob(f"{folder}/*.py")) <= most, folder


def test_functions_fit_a_screen_and_docstrings_say_what_is_done():
    functions = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in functions:
        long = isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LINES_OF_A_FUNCTION
        assert not long or node.name in OPTIONS, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        assert (ast.get_docstring(node) or "").partition(" ")[0] not in ("What", "Whether", "How", "Which"), node.name


def test_imports_go_one_way():
    assert max(map(floor, GRAPH)) <= FLOORS and sum(map(len, GRAPH.values())) <= ARROWS
    assert len(reach("train")) <= REACH and len(reach("ensemble")) <= REACH
    used = set().union(*GRAPH.values())
    assert not used & {"train", "ensemble", "compare", "diary", "eda", "leaderboard", "report", "sweep"} and "inference" in used


def test_what_reads_tables_starts_without_torch():
    """Importing torch takes longer than listing 1,000 runs."""
    code = "import sys, diary, leaderboard, sweep; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
