"""docs/start.ipynb runs from its first cell to its last, on the tiny competition."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "start.ipynb"


def shell(line):
    """A line behind `!`: our scripts by their main, without waiting for imports; what else there is by a shell."""
    words = shlex.split(line)
    if words[0] == "python":
        assert importlib.import_module(Path(words[1]).stem).main(words[2:]) == 0, line
    else:
        subprocess.run(line, shell=True, check=True)


def test_the_cells_run(tmp_path, monkeypatch, capsys, shared_data):
    (tmp_path / "data").symlink_to(shared_data)
    (tmp_path / "train.py").touch()  # as in a folder that holds the repository
    (tmp_path / "requirements.txt").write_text((NOTEBOOK.parents[1] / "requirements.txt").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "QUICK", "--kfold 2 --epochs 1 --lr 3e-3 --threads 1 --quiet --model test_resnet --no-pretrained --img-size 32 24"
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing is fetched
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    shown, names = [], {"shell": shell}
    module = SimpleNamespace(Image=lambda path: Path(path).stat().st_size, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            code = re.sub(r"^( *)[!%](.*)$", r"\1shell(f'''\2''')", "".join(cell["source"]), flags=re.MULTILINE)
            exec(code, names)
    assert len(shown) == 3 and (tmp_path / "submissions" / "both" / "submission.csv").exists()
    table = capsys.readouterr().out.rpartition("next:")[2]
    assert all(f"\n{name} " in table for name in ("focal", "ce", "both"))
