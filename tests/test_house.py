"""The layout stays small: how many files and lines lie on the top level, how long the chain of their imports is, what starts fast.

The numbers are those of today's tree; who makes one smaller lowers it here, nobody raises it.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES, LINES, LONGEST_FILE, FLOORS, ARROWS = 24, 11_600, 900, 7, 125


def imports():
    """{file: the files of the top level that it imports at its head}."""
    names = {path.stem for path in ROOT.glob("*.py")}
    found = {}
    for path in ROOT.glob("*.py"):
        found[path.stem] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            found[path.stem] |= names & set(modules)
    return found


def floor(graph, name, above=()):
    assert name not in above, f"imports go round: {' > '.join((*above, name))}"
    return 1 + max((floor(graph, other, (*above, name)) for other in graph[name]), default=0)


def test_files_lines_and_imports_do_not_grow():
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("*.py")}
    graph = imports()
    assert len(lines) <= FILES and sum(lines.values()) <= LINES and max(lines.values()) <= LONGEST_FILE
    assert max(floor(graph, name) for name in graph) <= FLOORS and sum(map(len, graph.values())) <= ARROWS


def test_only_inference_is_imported_of_the_scripts():
    used = set().union(*imports().values())
    assert not used & {"train", "ensemble", "compare", "leaderboard", "sweep"} and "inference" in used


@pytest.mark.parametrize("script", ["leaderboard", "sweep"])
def test_what_reads_tables_starts_without_torch(script):
    """Importing torch takes longer than listing 1,000 runs."""
    code = f"import sys, {script}; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
