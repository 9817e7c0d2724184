"""Feeds every reader with mutated files: a right reading or an InputError of one line, all else is a failure with its number.

    python tests/fuzz.py --minutes 60 --seed 0
    python tests/fuzz.py --seed 0 --case 4711

Files are changed by bytes (as disks and networks do) and by structure (as people, spreadsheets and attackers do). Each case is
a function of the seed and its number, so the second line repeats one. Cases run in processes of their own, a few hundred each:
one that crashes or hangs is found too. Prints, for each kind of file, how many were read and how many refused.
"""

import argparse
import collections
import csv
import io
import json
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import fuzz_targets
import numpy as np
import yaml

from errors import InputError, about_file, one_line

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]

BATCH = 200  # cases of a process
SECONDS = 20  # of a case, at most
MEMORY = 8 << 30  # of a process, at most
TEXTS = ["", " ", "x", "nan", "inf", "-1", "-0", "0.5", "1e999", "1_0", "0x1", "²", "9" * 500, "True", "None", "male", "../../x", "/etc/passwd", "a\0b",
         "\x1b[2J", "é", "한글", "\ud800", '"', "'", ",", ";", "\t", "\r\n", "#", "=1+1", "%s%n", "{}", "[]", "<b>", "-", "--", ".", "..", "~", "*", "&a", "!!python/name:os.system"]  # fmt: skip
VALUES = [None, True, False, 0, 1, -1, 2, 7, 0.5, 2**31, 2**63, 2**64, 10**400, 1e308, float("inf"), float("nan"), [], {}, [[]], [1, 2], {"a": 1}, [None], *TEXTS]  # fmt: skip


# ---- changes -------------------------------------------------------------------------------------------------------


def pick(rng, values):
    return values[rng.integers(len(values))]


def change_bytes(rng, content):
    """One to four changes of bytes: flipped bits, other bytes, pieces lost, doubled, moved, put in; the end lost."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        size = len(content)
        at = int(rng.integers(size + 1))
        if size and rng.random() < 0.3:
            at = int(rng.integers(min(size, 200)))  # headers are where the sense is
        end = at + int(min(size - at, 2 ** rng.integers(0, 8)))
        what = rng.integers(8)
        if what == 0 and at < size:
            content[at] ^= 1 << int(rng.integers(8))
        elif what == 1:
            content[at:end] = rng.bytes(end - at)
        elif what == 2:
            del content[at:end]
        elif what == 3:
            content[at:at] = content[at:end] * int(rng.integers(1, 4))
        elif what == 4:
            content[at:at] = pick(rng, TEXTS).encode("utf-8", "surrogatepass")
        elif what == 5:
            del content[at:]
        elif what == 6:
            piece = content[at:end]
            del content[at:end]
            to = int(rng.integers(len(content) + 1))
            content[to:to] = piece
        else:
            content[at:end] = pick(rng, [b"\0", b"\xff", b"\n", b"9"]) * (end - at)
    return bytes(content)


def change_table(rng, content):
    """A csv with other cells, rows, columns, separators or encoding."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    for _ in range(rng.integers(1, 4)):
        row, column = int(rng.integers(len(rows))), int(rng.integers(len(rows[0])))
        what = rng.integers(8)
        if what <= 2 and column < len(rows[row]):
            rows[row][column] = pick(rng, TEXTS)
        elif what == 3:
            rows.insert(row, list(pick(rng, rows)))
        elif what == 4 and len(rows) > 1:
            del rows[row]
        elif what == 5:
            rows = [[*each[:column], *each[column + 1 :]] for each in rows]
        elif what == 6:
            rows = [[*each, *each[column : column + 1]] for each in rows]
        else:
            rows[row] = [*rows[row], ""] if rng.random() < 0.5 else rows[row][:-1]
        if not rows or not rows[0]:
            break
    stream = io.StringIO()
    sign = pick(rng, [",", ",", ",", ",", ",", ";", "\t", "|"])
    csv.writer(stream, delimiter=sign, lineterminator=pick(rng, ["\n", "\r\n", "\r"])).writerows(rows)
    encoding = pick(rng, ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp949"])
    return stream.getvalue().encode(encoding, "replace")


def change_value(rng, value):
    """Nested lists and mappings with one part changed: another value, another key, a part lost, doubled or put deeper."""
    inside = rng.random() < 0.8
    if isinstance(value, dict) and value and inside:
        key = pick(rng, list(value))
        what = rng.integers(6)
        if what == 0:
            return {other: kept for other, kept in value.items() if other != key}
        if what == 1:
            return {(pick(rng, TEXTS) if other == key else other): kept for other, kept in value.items()}
        return {other: change_value(rng, kept) if other == key else kept for other, kept in value.items()}
    if isinstance(value, list) and value and inside:
        at, what = int(rng.integers(len(value))), rng.integers(5)
        if what == 0:
            return value[:at] + value[at + 1 :]
        if what == 1:
            return [*value, value[at]]
        return [change_value(rng, kept) if index == at else kept for index, kept in enumerate(value)]
    if rng.random() < 0.1:
        return [value] if rng.random() < 0.5 else {"a": value}
    return pick(rng, VALUES)


def change_json(rng, content):
    return json.dumps(change_value(rng, json.loads(content))).encode("utf-8", "replace")


def change_yaml(rng, content):
    """The comment of its first line stays where there is one."""
    first, _, rest = content.partition(b"\n") if content.startswith(b"#") else (b"", b"", content)
    text = yaml.safe_dump(change_value(rng, yaml.safe_load(rest)), sort_keys=False, allow_unicode=bool(rng.integers(2)))
    return (first + b"\n" if first else b"") + text.encode("utf-8", "replace")


def change_safetensors(rng, content):
    """Another header of the right length, in front of the same data."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    facts = header["__metadata__"].get("experiment") if rng.random() < 0.5 else None
    if facts is not None:
        header["__metadata__"]["experiment"] = json.dumps(change_value(rng, json.loads(facts)))
    else:
        header = change_value(rng, header)
    text = json.dumps(header).encode("utf-8", "replace")
    lie = int(rng.integers(-9, 9)) if rng.random() < 0.1 else 0
    return max(len(text) + lie, 0).to_bytes(8, "little") + text + data


def change_pickle(rng, content):
    """The saved mapping with parts changed, some of them by what would run; tensors count as parts."""
    import torch

    state = torch.load(io.BytesIO(content), weights_only=True)
    state = change_value(rng, state)
    if rng.random() < 0.2:
        state = {"state": state, "payload": Payload()} if rng.random() < 0.5 else Payload()
    stream = io.BytesIO()
    try:
        torch.save(state, stream, _use_new_zipfile_serialization=bool(rng.random() < 0.8))
    except Exception:  # what can't be saved is no case of its own
        return pickle.dumps(Payload())
    return stream.getvalue()


class Payload:
    """Pickles into a call that leaves a file behind, in the folder where one works."""

    def __reduce__(self):
        return open, ("owned", "w")


BY_STRUCTURE = {
    "table": change_table,
    "json": change_json,
    "yaml": change_yaml,
    "safetensors": change_safetensors,
    "pickle": change_pickle,
    "bytes": change_bytes,
}


# ---- cases ---------------------------------------------------------------------------------------------------------


def run_case(seed, number, targets, place):
    """(name of the target, 'read' or 'refused') of a case in the folder `place`; AssertionError or what else it raised.

    Refused is what errors.run tells in one line: an InputError, and an error of the system that names its file.
    """
    rng = np.random.default_rng((seed, number))
    target = targets[number % len(targets)]
    change = BY_STRUCTURE[target.kind] if rng.random() < 0.6 else change_bytes
    content = change(rng, target.content)
    os.chdir(place)
    target.file.write_bytes(content)
    try:
        target.check(target.read())
        outcome = "read"
    except (InputError, OSError) as error:
        if not isinstance(error, InputError) and not about_file(error):
            raise
        assert one_line(error).isprintable() and str(error), "an error without words"
        outcome = "refused"
    finally:
        target.file.write_bytes(target.content)
    assert not Path("owned").exists(), "what was loaded ran"
    return target.name, outcome


def _work(seed, numbers, place, only, results):
    """A process: run cases, telling of each before and after."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY + _used(), resource.RLIM_INFINITY))
    targets = fuzz_targets.make(Path(place), only)

    def hang(_number, _frame):
        raise TimeoutError(f"takes longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, hang)
    for number in numbers:
        results.send((number, None, None))
        signal.alarm(SECONDS)
        try:
            results.send((number, *run_case(seed, number, targets, place)))
        except BaseException:
            results.send((number, targets[number % len(targets)].name, traceback.format_exc()))
        signal.alarm(0)


def _used():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc").is_dir() else 0


def run(seed, numbers, place, only=None):
    """(Counter of (target, outcome), {number: (target, what it raised)}) of cases in a process of their own."""
    context = multiprocessing.get_context("fork")
    counts, failures, begun = collections.Counter(), {}, None
    results, theirs = context.Pipe(duplex=False)  # not a Queue, whose thread may lose what was sent before a kill
    process = context.Process(target=_work, args=(seed, numbers, str(place), only, theirs))
    process.start()
    theirs.close()
    while True:
        try:
            number, name, outcome = results.recv()
        except EOFError:
            break
        if outcome in ("read", "refused"):
            counts[name, outcome] += 1
        elif outcome is not None:
            failures[number] = name, outcome
        begun = number if outcome is None else None
    process.join()
    if process.exitcode:
        failures[begun] = "?", f"the process ended with exit code {process.exitcode}"
    return counts, failures


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this one alone")
    parser.add_argument("--only", help="targets whose names hold this")
    args = parser.parse_args(argv)
    ended, counts, failures = time.monotonic() + 60 * args.minutes, collections.Counter(), {}
    start = args.case or 0
    with tempfile.TemporaryDirectory() as folder:
        while True:
            numbers = [args.case] if args.case is not None else range(start, start + BATCH)
            new_counts, new_failures = run(args.seed, numbers, folder, args.only)
            counts, start = counts + new_counts, start + BATCH
            for number, (name, raised) in new_failures.items():
                only = f" --only {args.only}" if args.only else ""
                print(f"FAILURE: python tests/fuzz.py --seed {args.seed}{only} --case {number}  ({name})\n{raised}", flush=True)
                start = max(start, (number or 0) + 1) if name == "?" else start
            failures |= new_failures
            if args.case is not None or time.monotonic() > ended:
                break
    names = sorted({name for name, _outcome in counts})
    print(f"\n{'file':<28}{'read':>10}{'refused':>10}")
    for name in names:
        print(f"{name:<28}{counts[name, 'read']:>10,}{counts[name, 'refused']:>10,}")
    print(f"{sum(counts.values()):,} cases, {len(failures)} failures, seed {args.seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
