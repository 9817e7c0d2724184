"""Files: written whole or not at all, room and locks, JSON, YAML and CSV read with one-line errors, HTML pages.

Every file that the scripts leave is written by `write_atomic` (what only grows by `append`), so that a full, read-only or
missing disk is handled and told in one place: the file, the cause, how much room it takes and how much there is.
"""

import contextlib
import csv
import errno
import fcntl
import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import textwrap
import unicodedata
from itertools import islice
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

import errors
from errors import InputError, did_you_mean, say

FULL = (errno.ENOSPC, errno.EDQUOT)
CONVERT = "convert it to JPEG, as with heif-convert or a Mac's sips -s format jpeg"
PNG = {"compress_level": 4}  # half the time of zlib's usual 6 for pictures of photographs, and 3 % larger


class DiskError(InputError):
    """A file or folder can't be written; what stood under its name before still does."""


def write_atomic(path, write, size=None):
    """Write a file so that its name holds the old bytes or the new ones, never a part: beside it, fsync, rename.

    `write(temporary_path)` does the writing, of about `size` bytes. DiskError when it can't be; whatever ends it, a signal
    too, the old file stays and nothing is left beside it. A link's file is written; a device or pipe is no place for one.
    """
    path = Path(path)
    try:
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
    except OSError as error:
        raise failure(path, error, size) from error


def write_bytes(path, content):
    """`write_atomic` of bytes."""
    write_atomic(path, lambda temporary: temporary.write_bytes(content), len(content))


def write_figure(path, figure):
    """`write_atomic` of a matplotlib figure, in the format of the file's suffix."""
    drawn, kind = io.BytesIO(), Path(path).suffix[1:] or None
    figure.savefig(drawn, format=kind, pil_kwargs=PNG if kind == "png" else None)
    write_bytes(path, drawn.getvalue())


def append(path, content):
    """Add bytes to the end of a file, which is made where it is not there: all of them, or none and DiskError."""
    before = os.path.getsize(path) if os.path.exists(path) else 0
    try:
        with open(path, "ab", buffering=0) as file:  # a buffer would try again when the file is closed
            try:
                left = content
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(before)
                if not before:
                    os.unlink(path)
                raise
    except OSError as error:
        raise failure(path, error, len(content)) from error


def remove(path):
    """Remove a file, which need not be there; DiskError when it can't be."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise failure(path, error) from error


def failure(path, error, size=None):
    """The DiskError of a file or folder that OSError `error` kept from being written, of `size` bytes if that is known."""
    path = Path(path)
    cause = error.strerror or str(error)
    needed = "" if size is None else f"{in_units(size)} are needed, and "
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        cause, advice = f"there is no folder {path.parent}", "was it moved or deleted?"
    else:
        advice = "make room there" if error.errno in FULL else "give it a place that can be written"
    return DiskError(f"{path}: can't be written ({cause}): {needed}{describe_room(path)}; {advice}")


def describe_room(path):
    """How much room there is for a file or folder, and on which volume."""
    place = _nearest(path)
    facts = os.statvfs(place)
    room = "not one more file fits" if facts.f_files and not facts.f_favail else f"{in_units(free(path))} are free"
    while not os.path.ismount(place):
        place = place.parent
    return f"{room} on volume {place}"


def free(path):
    """The bytes that may be written on the volume of a file or folder, which need not be there yet."""
    facts = os.statvfs(_nearest(path))
    return facts.f_bavail * facts.f_frsize


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
    """InputError unless each volume has room for what it shall hold: needs = [(option, folder, what, bytes), ...].

    Folders need not be there yet. The message names the options that put the files elsewhere; "" where there is none.
    """
    volumes = {}
    for need in needs:
        volumes.setdefault(os.stat(_nearest(need[1])).st_dev, []).append(need)
    for together in volumes.values():
        needed = sum(size for *_, size in together)
        if needed > free(together[0][1]):
            places = " and ".join(f"{option} {folder}".strip() for option, folder, _what, _size in together)
            parts = " and ".join(f"{in_units(size)} ({what})" for _option, _folder, what, size in together)
            options = " or ".join(option for option, *_ in together if option)
            advice = f"make room there, or give another {options}" if options else "make room there"
            raise InputError(f"{places}: {parts} are needed, and {describe_room(together[0][1])}; {advice}")


def make_dir(folder, option):
    """The Path of a folder that an option names, made where it is not there."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{option} {folder}: can't be made ({error.strerror}); give another {option}") from error
    return folder


@contextlib.contextmanager
def held(path, busy, wait=False, make=False):
    """Hold a folder or a file for this process alone; `make`: a file is made where it is not there.

    The kernel frees it when the process dies. While another has it: InputError `busy`, or with `wait` that on stderr ("":
    nothing), and then its turn.
    """
    try:
        handle = _opened_to_lock(path, os.O_CREAT if make and not os.path.exists(path) else 0)
    except OSError as error:
        raise DiskError(f"{path}: can't be locked ({error.strerror})") from error
    try:
        _lock(handle, path, busy, wait)
        yield
    finally:
        os.close(handle)


def _opened_to_lock(path, create):
    """A handle of a folder or file, for writing where that may be: NFS locks no other files (flock(2))."""
    try:
        return os.open(path, os.O_RDWR | create, 0o666)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EACCES, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY)


def _lock(handle, path, busy, wait):
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise InputError(busy) from None
            if busy:
                say(busy)
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        raise DiskError(f"{path}: can't be locked ({error.strerror}); take a folder on a disk that knows locks") from error


# ---- text and tables --------------------------------------------------------------------------------------------------


# ---- writing -------------------------------------------------------------------------------------------------------


def write_text(path, text):
    """`write_atomic` of a string."""
    write_bytes(path, text.encode())


def write_json(path, value):
    """`write_atomic` of a JSON-able value, indented."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path, table, float_format=None):
    """`write_atomic` of a DataFrame, without its index."""
    write_text(path, csv_text(table, float_format))


def csv_text(table, float_format=None):
    """A DataFrame as the text of a csv, without its index."""
    return table.to_csv(index=False, float_format=float_format, lineterminator="\n")


def locked(folder, wait=False):
    """Hold a folder for this process alone; the kernel frees it when the process dies. InputError when it is held."""
    return held(folder, "" if wait else f"{folder}: another process is training it; wait for it or stop it", wait)


def file_digest(path):
    """The sha256 of a file; InputError when it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise errors.unreadable(path, error) or InputError(f"{path}: not readable ({error.strerror})") from error


def draw_seed(*key):
    """A 63-bit seed that is a pure function of a name and integers, such as ("order", seed, fold, epoch)."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


# ---- json and yaml ----------------------------------------------------------------------------------------------------

NUMBER = (int, float)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST = 1e300  # a number beyond it, or not a number, is no fact of a run
MAX_DEPTH = 100  # of YAML; libyaml's own loader runs off its stack some thousands deep


def read_json(path, **kinds):
    """The object in a JSON file, which holds the keys of `kinds`, each of its type or types; InputError when it does not."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise errors.unreadable(path, error) or InputError(f"{path}: not readable ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object")
    check_kinds(path, value, kinds)
    return value


def check_kinds(path, found, kinds):
    """InputError unless a mapping read from `path` holds the keys of `kinds`, {key: type or types}; bool is no int here, and
    numbers are finite."""
    for key, kind in kinds.items():
        if key not in found:
            raise InputError(f"{path}: lacks {key}; damaged, or not written by this version")
        value = found[key]
        vast = isinstance(value, NUMBER) and not abs(value) <= LARGEST
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or vast:
            raise InputError(f"{path}: {key} is {value!r:.100}; damaged, or not written by this version")


def read_yaml(path, remedy):
    """The mapping in a YAML file; InputError when it is missing, damaged, or holds none, which then names the `remedy`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        _check_shape(text)
        value = yaml.load(text, Loader=LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise errors.unreadable(path, error) or InputError(f"{path}: not readable ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no options (it is no mapping); {remedy}")
    return value


def _check_shape(text):
    """ValueError for YAML that is nested deeper than MAX_DEPTH, or that holds an alias, as a few lines of them stand for more
    than any memory holds; only what could be so is looked at."""
    deep, aliased = sum(map(text.count, ("[", "{", "- ", "? "))) >= MAX_DEPTH, "&" in text and "*" in text
    if not deep and not aliased:
        return
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {event.start_mark.line + 1} repeats another place (*{event.anchor}); write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")


# ---- csv --------------------------------------------------------------------------------------------------------------

LINE = "#"  # the column that `read` adds: the line of the file at which a row begins
SEPARATORS = {";": "semicolons", "\t": "tabs"}
FOLDS = 10**6  # more than anybody has
WHOLE = re.compile(r"(\d{1,18})(\.0*)?", re.ASCII)
EXPONENT = re.compile(r"\d(\.\d*)?E[+-]\d+", re.ASCII | re.IGNORECASE)  # of a spreadsheet, for a long number


def read_csv(path, columns):
    """A csv as strings, without the spaces around them, with at least `columns`, and LINE (int). InputError when it is none."""
    records = _records(path, read_text(path, columns))
    head, rows, lines = read_head(path, records, columns), [], []
    for line, cells in records:
        if len(cells) != len(head):
            raise InputError(
                f"{path}, line {line}: {len(cells)} fields under a header of {len(head)}; a comma too many, or cut short?"
            )
        rows.append(cells)
        lines.append(line)
    if not rows:
        raise InputError(f"{path}: no rows under the header")
    return pd.DataFrame(rows, columns=head, dtype=str).assign(**{LINE: lines})


def read_numbers(path, texts, numbers):
    """A csv with at least the columns `texts`, as strings, and `numbers`, finite float64 from 0 on: long tables, read fast.

    InputError names the line that has no such number.
    """
    text, columns = read_text(path, (*texts, *numbers)), [*texts, *numbers]
    head = read_head(path, _records(path, text), columns)
    kinds = {head.index(name): float if name in numbers else str for name in columns}
    try:
        table = pd.read_csv(io.StringIO(text), header=0, names=range(len(head)), dtype=kinds, keep_default_na=False)
    except ValueError as error:
        _name_number(path, columns, numbers)
        raise InputError(f"{path}: not a readable csv ({error})") from error
    table.columns = head
    values = table[[*numbers]].to_numpy()
    # Without a RangeIndex rows have more fields than the header, and pandas took the first for their names.
    if table.empty or not isinstance(table.index, pd.RangeIndex) or not (np.isfinite(values) & (values >= 0)).all():
        _name_number(path, columns, numbers)
    return table.assign(**{name: table[name].str.strip() for name in texts})


def _name_number(path, columns, numbers):
    """InputError that names the first line with other fields than the header, or with what is no number from 0 on."""
    table = read_csv(path, columns)
    for line, *texts in table[[LINE, *numbers]].itertuples(index=False):
        for column, text in zip(numbers, texts):
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not 0 <= value < math.inf:
                raise InputError(f"{path}, line {line}: {column} {text!r} is not a number from 0 on")


def read_text(path, columns=()):
    """The text of a csv; InputError when it is not there, empty, or no UTF-8 (`columns` are named in its advice)."""
    wanted = f"a csv with the columns {','.join(columns)} is needed"
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {wanted}") from error
    except OSError as error:
        raise errors.unreadable(path, error) or InputError(f"{path}: not readable ({error.strerror}); {wanted}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not in UTF-8 (byte {content[error.start]:#x}); save it as CSV UTF-8") from error
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{path}: no such file; {wanted}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: holds a NUL character: damaged, or not in UTF-8; save it as CSV UTF-8")
    if not text.strip():
        raise InputError(f"{path}: is empty; {wanted}")
    return text


def _records(path, text):
    """(line it begins at, cells without the spaces around them) of each record of a csv; blank lines are none."""
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield line, [cell.strip() for cell in cells]
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: not a readable csv ({error})") from error


def read_head(path, records, columns):
    """The names of the columns, the first of `records`. InputError when one of `columns` is missing or stands twice."""
    line, head = next(records, (1, []))
    separators = [name for sign, name in SEPARATORS.items() if any(sign in cell for cell in head)]
    for column in columns:
        if column not in head and separators:
            raise InputError(f"{path}, line {line}: {separators[0]} between the fields; save it with commas, as CSV UTF-8")
        if column not in head:
            found = ",".join(head)
            found = found if len(found) <= 200 else f"{found[:200]}..."
            raise InputError(f"{path}: column {column!r} is missing, found {found}.{did_you_mean(column, head)}")
        if head.count(column) > 1:
            raise InputError(f"{path}, line {line}: column {column!r} stands twice; keep one of them")
    return head


def column_place(path, row):
    """'FILE, line N' of a row, counted from 0, of a csv; only for errors, as it reads the file again."""
    records = _records(path, read_text(path))
    return f"{path}, line {next(islice(records, row + 1, None))[0]}"


def whole(text):
    """The whole number from 0 on in a text, which a spreadsheet may have given a point and zeros ('29.0'), or None."""
    found = WHOLE.fullmatch(text)
    return int(found[1]) if found else None


def to_wholes(path, table, counts):
    """A table of `read_numbers` with int64 columns, {column: how many values it can take, from 0 on}; InputError as there."""
    for column, count in counts.items():
        wrong = (table[column] >= count) | (table[column] % 1 > 0)
        if wrong.any():
            row = int(wrong.argmax())
            value = f"{table[column].iloc[row]:g}"
            raise InputError(f"{column_place(path, row)}: {column} {value} is none of 0 to {count - 1}")
    return table.astype(dict.fromkeys(counts, np.int64))


def check_inside(path, table, column):
    """InputError that names the first row of a table whose file name in `column` is none, or climbs out of its folder."""
    for row, name in enumerate(table[column]):
        if not name or name[0] == "/" or ".." in name.split("/"):
            raise InputError(f"{column_place(path, row)}: {column} {name!r} is not the name of an image below its folder")


def check_filled(path, table, column):
    """InputError that names the first line of a table of `read` which has nothing in a column, as spreadsheets leave rows."""
    empty = table[column] == ""
    if empty.any():
        raise InputError(f"{path}, line {table[LINE][empty.argmax()]}: {column} is empty; fill it in, or delete the row")


def check_once(path, table, column):
    """InputError that names the line which has nothing in a column of a table of `read`, or the same as a line above."""
    check_filled(path, table, column)
    twice = table[column].duplicated()
    if twice.any():
        row = int(twice.argmax())
        raise InputError(f"{path}, line {table[LINE].iloc[row]}: {column} {table[column].iloc[row]!r} stands twice")


# ---- pages ------------------------------------------------------------------------------------------------------------

NO_VALUE = ""  # sort key of a cell without a value


@functools.cache
def _templates():
    import jinja2  # not at the top: scripts that write no page do without

    return jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                              undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              keep_trailing_newline=True)  # fmt: skip


def page(template, **context):
    """One self-contained HTML document from templates/`template`; all text in `context` is escaped."""
    return _templates().get_template(template).render(context)


def page_table(head, rows):
    """The head and cells of a table for macros.table of the templates, which sorts by click or key.

    A cell is text, a number (right-aligned; floats with 4 decimals), a pair (text shown, number sorted by), a list of links
    (address, text), or None for nothing; nan counts as nothing. A column is one of numbers when it holds any and no text.
    """
    cells = [[_page_cell(value) for value in row] for row in rows]
    columns = [[key for _text, key, _links in column if key != NO_VALUE] for column in zip(*cells)] or [[]] * len(head)
    numeric = [bool(keys) and all(key is not None for key in keys) for keys in columns]
    return {"head": list(zip(head, numeric)), "rows": cells}


def _page_cell(value):
    """(text shown, its sort key: a number, NOTHING, or None for the text itself; links) of a cell of `table`."""
    if isinstance(value, list):
        return "", None, value
    text, value = value if isinstance(value, tuple) else (None, value)
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return text or "", NO_VALUE, ()
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value), None, ()
    if isinstance(value, Integral):
        return text or f"{int(value):,}", int(value), ()
    return text or f"{float(value):.4f}", float(value), ()


# ---- tables in a terminal ---------------------------------------------------------------------------------------------


def time_text(seconds):
    """A duration in s, min or h."""
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---- text ----------------------------------------------------------------------------------------------------------


def display_width(text):
    """Columns that a text takes in a terminal; Hangul and other wide letters take two."""
    return len(text) if text.isascii() else sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _cut(text, width, head):
    """`text` in at most `width` columns: `head` columns of its beginning, '...', and the end."""
    if display_width(text) <= width:
        return text
    left, right = text[:head], text[len(text) - (width - head - 3) :]
    while display_width(left) > head:
        left = left[:-1]
    while display_width(right) > width - head - 3:
        right = right[1:]
    return f"{left}...{right}"


def shorten(names, width):
    """Names cut in the middle to `width` columns (12 or more), at the place nearest to it that keeps all of them distinct."""
    middle = (width - 3) // 2
    for head in sorted(range(4, width - 6), key=lambda head: abs(head - middle)):
        cut = [_cut(name, width, head) for name in names]
        if len(set(cut)) == len(set(names)):
            return cut
    return [_cut(name, width, middle) for name in names]


def aligned(head, rows, left=(0,)):
    """Lines of a table in columns; those of the numbers `left` are aligned to the left, others to the right."""
    widths = [max(map(display_width, column)) for column in zip(head, *rows)]
    lines = []
    for row in (head, *rows):
        cells = []
        for index, (text, width) in enumerate(zip(row, widths)):
            gap = " " * (width - display_width(text))
            cells.append(text + gap if index in left else gap + text)
        lines.append("  ".join(cells).rstrip())
    return lines


def wrapped(rows, width):
    """Rows of a name and two values for a table of `width` columns; long values go on in rows of their own without a name."""
    room = max(20, (width - 4 - max((display_width(row[0]) for row in rows), default=0)) // 2)
    lines = []
    for name, *values in rows:
        parts = [textwrap.wrap(value, room) or [""] for value in values]
        lines += [[label, *cells] for label, *cells in itertools.zip_longest([name], *parts, fillvalue="")]
    return lines
