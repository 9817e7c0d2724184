"""Writing to a disk that may be full, read-only or gone: files whole or not at all, room looked for, a folder held.

Every file that the scripts leave is written by `write_atomic` (what only grows by `append`), so that what can go wrong is
handled and told in one place: the file, the cause, how much room it takes and how much there is, on which volume.
"""

import contextlib
import errno
import fcntl
import io
import os
from pathlib import Path

from errors import InputError, say

FULL = (errno.ENOSPC, errno.EDQUOT)
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
