"""A csv as contestants have it: read as it is written, or refused in one line that names the file, the line and a remedy.

Windows line ends, blank lines, quotes, spaces around fields and the byte order mark of a spreadsheet are read. Semicolons, tabs
and other encodings than UTF-8 are refused: who saves those may have other signs in numbers and names too.
"""

import csv
import io
import math
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

import errors
from errors import InputError, did_you_mean

LINE = "#"  # the column that `read` adds: the line of the file at which a row begins
SEPARATORS = {";": "semicolons", "\t": "tabs"}
FOLDS = 10**6  # more than anybody has
WHOLE = re.compile(r"(\d{1,18})(\.0*)?", re.ASCII)
EXPONENT = re.compile(r"\d(\.\d*)?E[+-]\d+", re.ASCII | re.IGNORECASE)  # of a spreadsheet, for a long number


def read(path, columns):
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
    table = read(path, columns)
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


def place(path, row):
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
            raise InputError(f"{place(path, row)}: {column} {value} is none of 0 to {count - 1}")
    return table.astype(dict.fromkeys(counts, np.int64))


def check_inside(path, table, column):
    """InputError that names the first row of a table whose file name in `column` is none, or climbs out of its folder."""
    for row, name in enumerate(table[column]):
        if not name or name[0] == "/" or ".." in name.split("/"):
            raise InputError(f"{place(path, row)}: {column} {name!r} is not the name of an image below its folder")


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
