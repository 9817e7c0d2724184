"""Files: written whole or not at all, room, locks; JSON, YAML and CSV read with one-line errors; tables and HTML pages."""

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import itertools
import json
import math
import os
import shutil
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
import tabulate
import wcwidth
import yaml

import errors
from errors import InputError, did_you_mean, log

PNG = {"compress_level": 4}  # half the time of zlib's usual 6 for pictures of photographs, and 3 % larger
LINE = "#"  # the column that read_csv adds: the line of the file in which a row stands
SEPARATORS = {";": "semicolons", "\t": "tabs"}
FOLDS = 10**6  # more than anybody has
display_width = wcwidth.wcswidth  # of a text, in columns of a terminal; Hangul and other wide letters take two


class DiskError(InputError):
    """A file or folder can't be written; what stood under its name before still does."""


@contextlib.contextmanager
def writing(path, size=None):
    """An OSError that keeps a file or folder, of `size` bytes if that is known, from being written becomes its DiskError."""
    try:
        yield
    except OSError as error:
        path, cause = Path(path), error.strerror or str(error)
        needed = "" if size is None else f"{in_units(size)} are needed, and "
        advice = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "give it a place that can be written"
        if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
            cause, advice = f"there is no folder {path.parent}", "was it moved or deleted?"
        raise DiskError(f"{path}: can't be written ({cause}): {needed}{describe_room(path)}; {advice}") from error


def write_atomic(path, write, size=None):
    """Let `write(temporary_path)` write a file of about `size` bytes so that its name holds the old bytes or the new ones."""
    path = Path(path)
    with writing(path, size):
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if target.exists() and not target.is_file() and not target.is_dir():
            raise DiskError(f"{path}: is a device or a pipe, whose place a file would take; give the name of a file")
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp{target.suffix}")
        try:
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_bytes(path, content):
    """`write_atomic` of bytes."""
    write_atomic(path, lambda temporary: temporary.write_bytes(content), len(content))


def write_text(path, text):
    """`write_atomic` of a string."""
    write_bytes(path, text.encode())


def write_json(path, value):
    """`write_atomic` of a JSON-able value."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path, table, float_format=None):
    """`write_atomic` of a DataFrame, without its index."""
    write_text(path, table.to_csv(index=False, float_format=float_format, lineterminator="\n"))


def write_figure(path, figure):
    """`write_atomic` of a matplotlib figure, in the format of the file's suffix."""
    drawn, kind = io.BytesIO(), Path(path).suffix[1:] or None
    figure.savefig(drawn, format=kind, pil_kwargs=PNG if kind == "png" else None)
    write_bytes(path, drawn.getvalue())


def remove(path):
    """Remove a file, which need not be there."""
    with writing(path):
        Path(path).unlink(missing_ok=True)


def remove_leftovers(folder, name="*"):
    """Remove what killed processes left of files `name` (a pattern) that they wrote; only for the holder of the lock."""
    for leftover in Path(folder).glob(f".{name}.*.tmp*"):
        remove(leftover)


def make_dir(folder, option):
    """The Path of a folder that an option names, made where it is not there."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{option} {folder}: can't be made ({error.strerror}); give another {option}") from error
    return folder


def describe_room(path):
    """'3.0 GiB are free on volume /data' for the place of a file or folder."""
    place = _nearest(path)
    volume = next(folder for folder in (place, *place.parents) if os.path.ismount(folder))
    return f"{in_units(shutil.disk_usage(place).free)} are free on volume {volume}"


def _nearest(path):
    """The path, or the first of the folders that it lies in that is there."""
    path = Path(os.path.realpath(path))
    return next(place for place in (path, *path.parents) if place.exists())


def in_units(size):
    """A number of bytes in words: 12.5 MiB."""
    for unit, least in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= least:
            return f"{size / least:,.1f} {unit}"
    return f"{size} bytes"


def check_room(needs):
    """InputError, which names options ("": none), unless volumes have room for needs = [(option, folder, what, bytes), ...]."""
    volumes = {}
    for need in needs:
        volumes.setdefault(os.stat(_nearest(need[1])).st_dev, []).append(need)
    for together in volumes.values():
        if sum(size for *_, size in together) > shutil.disk_usage(_nearest(together[0][1])).free:
            places = " and ".join(f"{option} {folder}".strip() for option, folder, _what, _size in together)
            sizes = " and ".join(f"{in_units(size)} ({what})" for _option, _folder, what, size in together)
            options = " or ".join(option for option, *_ in together if option)
            advice = f"make room there, or give another {options}" if options else "make room there"
            raise InputError(f"{places}: {sizes} are needed, and {describe_room(together[0][1])}; {advice}")


@contextlib.contextmanager
def lock(path, message=None, wait=False, make=False):
    """Hold a folder or a file (with `make` made where it is not there) for this process alone, until it ends or dies. While
    another has it: InputError, or with `wait` its turn; `message` is that error, or the line while it waits."""
    with contextlib.ExitStack() as stack:
        try:
            if make and not os.path.exists(path):
                Path(path).touch()
            writable = not os.path.isdir(path) and os.access(path, os.W_OK)  # NFS locks only files that are open for writing
            handle = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise InputError(message or f"{path}: another process is training it; wait for it or stop it") from None
                if message:
                    log(message)
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise DiskError(f"{path}: can't be locked ({error.strerror})") from error
        yield


def file_digest(path):
    """The sha256 of a file; InputError when it can't be read."""
    with errors.reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def draw_seed(*key):
    """A 63-bit seed that is a pure function of a name and integers, such as ("order", seed, fold, epoch)."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def read_json(path, parse=json.loads, kind="JSON object", remedy="copy it again, or make it anew"):
    """The object in a JSON file (a dict); InputError, which names the `remedy`, when there is none."""
    with errors.reading(path, remedy):
        value = parse(Path(path).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"holds no {kind}")
        return value


def read_yaml(path, remedy):
    """The mapping in a YAML file (a dict), as `read_json`."""
    return read_json(path, yaml.safe_load, "mapping", remedy)


def read_csv(path, columns, needs_rows=True):
    """A csv as stripped strings: a DataFrame with at least `columns`, and LINE (int, too low below a newline in quotes)."""
    reader = csv.reader(io.StringIO(_read_text(path, columns), newline=""), strict=True)
    try:
        records = [(line, [cell.strip() for cell in cells]) for line, cells in enumerate(reader, start=1)]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not a readable csv ({error})") from error
    (_line, head), *rows = [(line, cells) for line, cells in records if any(cells) or len(cells) > 1]
    _check_head(path, head, columns)
    if needs_rows and not rows:
        raise InputError(f"{path}: no rows under the header")
    for line, cells in rows:
        if len(cells) != len(head):
            problem = f"{len(cells)} fields under a header of {len(head)}"
            raise InputError(f"{path}, line {line}: {problem}; a comma too many, or cut short?")
    table = pd.DataFrame([cells for _line, cells in rows], columns=head, dtype=str)
    table = table.loc[:, ~table.columns.duplicated()]  # such as those without a name that trailing commas make
    return table.assign(**{LINE: [line for line, _cells in rows]})


def _read_text(path, columns):
    """The text of a csv; InputError when it is not there, empty, or no UTF-8 (`columns` are named in its advice)."""
    wanted = f"a csv with the columns {','.join(columns)} is needed"
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; {wanted}")
    with errors.reading(path, wanted):
        content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not in UTF-8 (byte {content[error.start]:#x}); save it as CSV UTF-8") from error
    if not text.strip():
        raise InputError(f"{path}: is empty; {wanted}")
    return text


def _check_head(path, head, columns):
    """InputError when one of `columns` is missing from the head of a csv, or appears twice."""
    separators = [name for sign, name in SEPARATORS.items() if any(sign in cell for cell in head)]
    for column in columns:
        if column not in head and separators:
            raise InputError(f"{path}, line 1: {separators[0]} between the fields; save it with commas, as CSV UTF-8")
        if column not in head:
            raise InputError(f"{path}: column {column!r} is missing, found {','.join(head):.200}.{did_you_mean(column, head)}")
        if head.count(column) > 1:
            raise InputError(f"{path}, line 1: column {column!r} appears twice; keep one of them")


def read_numbers(path, texts, numbers, counts=None):
    """A csv with the columns `texts`, as strings, `numbers`, finite float64 from 0 on, and those of `counts`, {column: how many
    values it can take}, int64 from 0 on; InputError names the line that has no such number."""
    counts = counts or {}
    numbers = [*counts, *numbers]
    table = _read_fast(path, texts, numbers)
    if table is None:
        table = read_csv(path, [*texts, *numbers])  # which names the line of what is wrong
        for column in numbers:
            right = pd.to_numeric(table[column], errors="coerce").between(0, math.inf, inclusive="left")
            check_rows(path, table, table[column], right, f"{column} {{!r}} is not a number from 0 on")
        table = table.drop(columns=LINE).astype(dict.fromkeys(numbers, np.float64))
    for column, count in counts.items():
        right = (table[column] < count) & (table[column] % 1 == 0)
        check_rows(path, table, table[column], right, f"{column} {{:g}} is none of 0 to {count - 1}")
    return table.astype(dict.fromkeys(counts, np.int64))


def _read_fast(path, texts, numbers):
    """The table of `read_numbers` by pandas, with float64 columns; None where it is not so plain."""
    kinds = dict.fromkeys(texts, str) | dict.fromkeys(numbers, np.float64)
    with contextlib.suppress(OSError, ValueError, KeyError), open(path, encoding="utf-8-sig", newline="") as file:
        table = pd.read_csv(file, dtype=kinds, keep_default_na=False)
        values = table[[*kinds]][numbers].to_numpy()
        # Without a RangeIndex rows have more fields than the header, and pandas took the first for their names.
        if len(table) and isinstance(table.index, pd.RangeIndex) and (np.isfinite(values) & (values >= 0)).all():
            return table.assign(**{name: table[name].str.strip() for name in texts})


def check_rows(path, table, values, right, problem):
    """InputError about the first row of a csv's table where `right` [N] is False: its line and `problem`, with its value."""
    wrong = np.flatnonzero(~np.asarray(right, dtype=bool))
    if len(wrong):
        line = table[LINE].iloc[wrong[0]] if LINE in table else wrong[0] + 2
        raise InputError(f"{path}, line {line}: {problem.format(list(values)[wrong[0]])}")


def check_filled(path, table, column):
    """InputError about a row with nothing in a column, as spreadsheets leave rows."""
    check_rows(path, table, table[column], table[column] != "", f"{column} is empty; fill it in, or delete the row")


def check_once(path, table, column):
    """InputError about a row with nothing in a column, or the same as a row above."""
    check_filled(path, table, column)
    check_rows(path, table, table[column], ~table[column].duplicated(), f"{column} {{!r}} appears twice")


def page(template, **context):
    """One self-contained document from templates/`template`; all text in `context` is escaped but in Markdown."""
    import jinja2  # not at the top: scripts that write no page do without

    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
                                   autoescape=not template.endswith(".md"), undefined=jinja2.StrictUndefined, trim_blocks=True,
                                   lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    templates.globals |= {"_": errors.tr, "lang": errors.language()}
    return templates.get_template(template).render(context)


def page_table(head, rows):
    """The head and cells of a table for macros.table of the templates, which sorts by click or key. A cell is text, a number
    (floats with 4 decimals), a pair (text shown, number sorted by), a list of links (address, text), or None or nan for
    nothing. A column is one of numbers when it holds no text."""
    cells = [[_page_cell(value) for value in row] for row in rows]
    columns = [[key for _text, key, _links in column if key != ""] for column in zip(*cells)] or [[]] * len(head)
    numeric = [all(key is not None for key in keys) for keys in columns]
    return {"head": list(zip(head, numeric)), "rows": cells}


def _page_cell(value):
    """(text shown; its sort key: a number, "" for no value, None for the text itself; links) of a cell of `page_table`."""
    if isinstance(value, list):
        return "", None, value
    text, value = value if isinstance(value, tuple) else (None, value)
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return text or "", "", ()
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value), None, ()
    value = int(value) if isinstance(value, Integral) else float(value)
    return text or (f"{value:,}" if isinstance(value, int) else f"{value:.4f}"), value, ()


def time_text(seconds):
    """A duration in s, min or h."""
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def aligned(head, rows, left=(0,), widths=None, width=None):
    """Lines of a table; columns `left` are aligned to the left, others to the right. Texts longer than their column's number in
    `widths` go on in a row of their own; those of the first are cut to lines of `width` columns, but stay distinct."""
    head = [*map(errors.tr, head)]
    if width:
        others = sum(2 + max(map(display_width, column)) for column in list(zip(head, *rows))[1:])
        cuts = (shorten([row[0] for row in rows], size) for size in itertools.count(max(width - others, 14)))
        names = next(cut for cut in cuts if len(set(cut)) == len({row[0] for row in rows}))
        rows = [[name, *row[1:]] for name, row in zip(names, rows)]
    sides = ["left" if index in left else "right" for index in range(len(head))]
    lines = tabulate.tabulate([head, *rows], (), "plain", disable_numparse=True, colalign=sides, maxcolwidths=widths)
    return lines.splitlines()


def shorten(names, width):
    """Names cut in the middle to `width` columns (12 or more), at the place nearest to it that keeps all of them distinct."""

    def cut(name, head):
        whole, tail = display_width(name), width - head - 3
        ends = wcwidth.clip(name, 0, head, fillchar=""), wcwidth.clip(name, whole - tail, whole, fillchar="")
        return name if whole <= width else "...".join(ends)

    middle = (width - 3) // 2
    places = sorted(range(4, width - 6), key=lambda head: abs(head - middle))
    cuts = ([cut(name, head) for name in names] for head in places)
    return next((each for each in cuts if len(set(each)) == len(set(names))), [cut(name, middle) for name in names])
