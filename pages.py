"""Pages for a browser: templates/ rendered to self-contained HTML documents, the cells of their tables, thumbnails.

Light and dark follow the reader's system. Colours are CSS variables (`--ink`, `--grey`, `--line`, `--panel`, `--accent`, and
`--mask`, `--gender`, `--age_group` for the parts of a label), so that what a page adds fits both.
"""

import base64
import functools
import io
import math
from numbers import Integral, Real
from pathlib import Path

from PIL import Image

from images import open_rgb

NOTHING = ""  # sort key of a cell without a value


@functools.cache
def _templates():
    import jinja2  # not at the top: scripts that write no page do without

    return jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                              undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # fmt: skip


def page(template, **context):
    """One self-contained HTML document from templates/`template`; all text in `context` is escaped."""
    return _templates().get_template(template).render(context)


def table(head, rows):
    """The head and cells of a table for macros.table of the templates, which sorts by click or key.

    A cell is text, a number (right-aligned; floats with 4 decimals), a pair (text shown, number sorted by), a list of links
    (address, text), or None for nothing; nan counts as nothing. A column is one of numbers when it holds any and no text.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    columns = [[key for _text, key, _links in column if key != NOTHING] for column in zip(*cells)] or [[]] * len(head)
    numeric = [bool(keys) and all(key is not None for key in keys) for keys in columns]
    return {"head": list(zip(head, numeric)), "rows": cells}


def _cell(value):
    """(text shown, its sort key: a number, NOTHING, or None for the text itself; links) of a cell of `table`."""
    if isinstance(value, list):
        return "", None, value
    text, value = value if isinstance(value, tuple) else (None, value)
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return text or "", NOTHING, ()
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value), None, ()
    if isinstance(value, Integral):
        return text or f"{int(value):,}", int(value), ()
    return text or f"{float(value):.4f}", float(value), ()


def thumbnail(file, height=160):
    """A "data:image/jpeg;base64,..." address of an image file, upright RGB, at most `height` pixels high.

    InputError names the file when it is no readable image.
    """
    image = open_rgb(file)
    if image.height > height:
        image = image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
