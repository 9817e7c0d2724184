"""The image cache: every image decoded, cropped and resized once into one uint8 file, and batches read from it.

A cache is a pair of files under --cache-dir, shared by every run, fold and script with the same images and geometry:
`{key}.npy` uint8 [N, H, W, 3], memory-mapped, and `{key}.json` with the names of images that could not be read. The key
is a digest of all that changes the pixels: geometry, decoder version, and each file's name, size and mtime.
With --face-crop the boxes of the faces lie beside it, `{key}.faces.npy` float32 [N, 4]; they serve every geometry, so their
key is a digest of the detector's version and the files.
"""

import errno
import functools
import hashlib
import io
import itertools
import json
import math
import os
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from tqdm import tqdm

import cores
import detector
import disk
import errors
import mappings
import workers
from decoding import DECODER, decode
from errors import InputError, Unreadable, say

PART = 16  # images that a process decodes at a time
SYNCED = 16  # such parts are written to the disk at a time
LOADED = 64  # images of a batch in which the cache goes to a device


def stat_all(files, known=()):
    """[(size in bytes, time of the last change)] of files, slow on a network's disk. InputError names one that is missing.

    known: what is known already of the first of them, as many pairs or None.
    """
    found = []
    for file, pair in itertools.zip_longest(files, known):
        if pair is not None:
            found.append(pair)
            continue
        try:
            stat = os.stat(file)
        except OSError as error:
            raise errors.unreadable(file, error) or InputError(f"{file}: {error.strerror}") from error
        found.append((stat.st_size, stat.st_mtime_ns))
    return found


def cache_key(files, geometry, stats=None):
    """Hex digest of what decides the pixels. `stats`: what `stat_all` found, if it is known already."""
    made_by = (DECODER, PIL.__version__, torch.__version__, geometry)
    if geometry.face_margin is not None:
        made_by += (detector.DETECTOR, geometry.face_margin)
    return _key(made_by, files, stats)


def _key(made_by, files, stats=None):
    here = os.path.join(os.getcwd(), "")
    lines = [
        f"{'' if str(file).startswith('/') else here}{file}\0{size}\0{time}\n"
        for file, (size, time) in zip(files, stat_all(files) if stats is None else stats)
    ]
    return hashlib.sha256("".join([repr(made_by), *lines]).encode(errors="surrogateescape")).hexdigest()[:20]


def open_cache(files, geometry, cache_dir, skip_bad=None, quiet=False, key=None):
    """The decoded images of `files`: (uint8 memory map [N, H, W, 3], indices of bad files), built if it is not there.

    Safe when several processes ask at once: one builds, the others wait. Bad files are an InputError that names the first,
    or with `skip_bad` zeros in the map and a line each on stderr; None is for callers that can't leave any out. `key` is
    their `cache_key`, if it is known already.
    """
    cache_dir = disk.make_dir(cache_dir, "--cache-dir")
    key = key or cache_key(files, geometry)
    pixels, facts = cache_dir / f"{key}.npy", cache_dir / f"{key}.json"
    faces = open_faces(files, cache_dir, quiet) if geometry.face_margin is not None else None
    _build_once(cache_dir, key, (pixels, facts), lambda: _build(files, geometry, faces, pixels, facts, skip_bad, quiet))
    bad = _read_bad(facts, len(files))
    if bad and not skip_bad:
        raise InputError(f"{bad[0]['error']}; {len(bad)} bad in all{_advice(skip_bad)}")
    for entry in bad:
        say(f"skipped: {entry['error']}")
    bad = [entry["index"] for entry in bad]
    if faces is not None:
        lost = np.delete(np.isnan(faces[:, 0]), bad).sum()
        say(f"face crop: no face found in {lost:,} of {len(files) - len(bad):,} images; those are cropped around their centre")
    return read_array(pixels, np.uint8, (len(files), geometry.height, geometry.width, 3)), bad


def open_faces(files, cache_dir, quiet=False):
    """The boxes of `detector.find`, float32 [N, 4], looked for if they are not there; safe as `open_cache` is."""
    cache_dir = disk.make_dir(cache_dir, "--cache-dir")
    key = _key((detector.DETECTOR, PIL.__version__), files)
    boxes = cache_dir / f"{key}.faces.npy"

    def build():
        found = io.BytesIO()
        np.save(found, detector.find(files, quiet))
        disk.write_bytes(boxes, found.getvalue())

    _build_once(cache_dir, key, (boxes,), build)
    return np.array(read_array(boxes, np.float32, (len(files), 4)))


def read_array(file, dtype, shape):
    """The memory map of an array of the cache; no objects are unpickled.

    InputError when it is another one, damaged, or can't be read now; a FileNotFoundError when it is gone.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy reads a header as Python's own text, which fails in many ways
        damage = InputError(f"{file}: damaged ({error}); delete it and its .json to have it built anew")
        raise errors.unreadable(file, error) or damage from error
    found = (array.dtype, array.shape) if isinstance(array, np.memmap) and array.flags.c_contiguous else None
    if found != (np.dtype(dtype), shape):
        raise InputError(f"{file}: damaged (holds another array); delete it and its .json to have it built anew")
    return array


def _read_bad(facts, count):
    """The images of a cache that could not be read: [{index, error}]."""
    bad = mappings.read_json(facts, bad=list)["bad"]
    for entry in bad:
        mappings.check_kinds(facts, entry if isinstance(entry, dict) else {}, {"index": int, "error": str})
        if not 0 <= entry["index"] < count:
            raise InputError(f"{facts}: damaged (image {entry['index']} of {count}); delete it to have it built anew")
    return bad


def _build_once(cache_dir, key, made, build):
    """Call `build`, which makes the files `made`, unless they are there or another process makes them just now."""
    if all(file.exists() for file in made):
        return
    waiting = f"waiting for another process to build {made[0]}"
    with disk.held(cache_dir / f"{key}.lock", waiting, wait=True, make=True):
        for leftover in cache_dir.glob(f".{key}.*.tmp*"):  # of a process that was killed: the lock is ours
            disk.remove(leftover)
        if not all(file.exists() for file in made):
            build()


def _advice(skip_bad):
    return "" if skip_bad is None else "; --skip-bad-images leaves such files out of training"


def bytes_to_build(files, geometry, cache_dir, key):
    """What `open_cache` of these files, whose `cache_key` is `key`, would add to --cache-dir: 0 where it is there."""
    made = Path(cache_dir) / f"{key}.json"
    if made.exists() and made.with_suffix(".npy").exists():
        return 0
    return len(files) * geometry.height * geometry.width * 3


def _build(files, geometry, faces, pixels, facts, skip_bad, quiet):
    shape, bad = (len(files), geometry.height, geometry.width, 3), []
    size = math.prod(shape)
    disk.check_room([("--cache-dir", pixels.parent, "decoded images", size)])

    def write(temporary):
        start = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape).offset
        bad.extend(_decode_all(files, geometry, faces, (temporary, start), skip_bad, quiet))

    disk.write_atomic(pixels, write, size)
    try:  # from here on the cache counts as built
        disk.write_bytes(facts, json.dumps({"geometry": str(geometry), "images": len(files), "bad": bad}).encode())
    except BaseException:
        pixels.unlink()
        raise


def _decode_all(files, geometry, faces, place, skip_bad, quiet):
    """Write the pixels of `files` to `place` (a file, its offset) on all cores; returns the bad ones."""
    parts = [range(start, min(start + PART, len(files))) for start in range(0, len(files), PART)]
    work = functools.partial(_decode_part, files, geometry, faces, place, skip_bad)
    what, bad = f"decoding {geometry.height}x{geometry.width}", []
    with (
        workers.results(what, min(cores.usable(), len(parts) // 2), work, parts) as found,
        tqdm(total=len(files), desc=what, unit="img", disable=quiet or None) as bar,
        open(place[0], "rb") as file,
    ):
        for number, (part, bad_ones) in enumerate(zip(parts, found), 1):
            bar.update(len(part))
            if number % SYNCED == 0:
                os.fsync(file.fileno())  # while others decode: the disk would be waited for at the end
            bad += bad_ones
            if bad and not skip_bad:
                raise InputError(f"{bad[0]['error']}{_advice(skip_bad)}")
    return bad


def _decode_part(files, geometry, faces, place, skip_bad, part):
    """Write the pixels of `part`, a range of `files`; returns the bad ones, which are zeros; without `skip_bad` the first."""
    images, threads, bad = np.zeros((len(part), geometry.height, geometry.width, 3), np.uint8), torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for image, index in zip(images, part):
            face = None if faces is None or np.isnan(faces[index, 0]) else faces[index].tolist()
            try:
                image[:] = decode(files[index], geometry, face)
            except Unreadable:  # it may pass, but a cache that called the image bad would stay
                raise
            except InputError as error:
                bad.append({"index": index, "error": str(error)})
                if not skip_bad:
                    return bad
    finally:
        torch.set_num_threads(threads)
    with open(place[0], "r+b") as file:  # not by a memory map, whose every page would cost a fault, and a full disk a crash
        file.seek(place[1] + part.start * images[0].nbytes)
        file.write(images)
    return bad


def choose_place(place, device, size):
    """'device' or 'host', where batches are read from; auto: the device where it is a GPU with twice `size` bytes free."""
    if place != "auto":
        return place
    return "device" if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > 2 * size else "host"


class ImageStore:
    """Cached images as a source of uint8 batches [B, H, W, 3] on a device.

    `images`: an array, or a memory map of `open_cache`, from whose file single images are then read: its pages would count as
    this process's memory. `place` device: the whole cache lies on the device. host: batches are gathered by a thread, two
    ahead, and copied. auto: as `choose_place` says.
    """

    def __init__(self, images, device, place="auto"):
        self.images, self.device = images, torch.device(device)
        self.file = open(images.filename, "rb") if isinstance(images, np.memmap) else None  # noqa: SIM115 (as long as the store)
        if self.file:
            weakref.finalize(self, self.file.close)
        place = choose_place(place, self.device, images.nbytes)
        self.place, self.resident = "host", None
        if place == "device":
            resident, start = torch.empty(images.shape, dtype=torch.uint8, device=self.device), 0
            for batch in self.batches(np.arange(len(images))[at : at + LOADED] for at in range(0, len(images), LOADED)):
                resident[start : start + len(batch)] = batch
                start += len(batch)
            self.place, self.resident = "device", resident

    def _gather(self, rows):
        batch = torch.empty((len(rows), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        if self.file is None:
            np.take(self.images, rows, axis=0, out=batch.numpy())
            return batch
        size, name = self.images[0].nbytes, self.images.filename
        with errors.reading(name):
            for image, row in zip(batch.numpy().reshape(len(rows), size), rows.tolist()):
                start = self.images.offset + row * size
                if os.preadv(self.file.fileno(), [image], start) == size:
                    continue
                if os.fstat(self.file.fileno()).st_size < start + size:
                    raise InputError(f"{name}: cut short at image {row}; delete it to have it built anew")
                raise OSError(errno.EIO, "a part of it alone")
        return batch

    def leave_device(self):
        """Read batches from the host from now on; the device's memory is free for others."""
        self.place, self.resident = "host", None

    def gather(self, rows):
        """The images of `rows` (int64 array): on the device if the cache lies there, else in host memory."""
        if self.place == "host":
            return self._gather(rows)
        return self.resident.index_select(0, torch.from_numpy(rows).to(self.device, non_blocking=True))

    def batches(self, row_groups):
        """Yield the images of each group of rows (int64 arrays) in turn."""
        if self.place == "device":
            for rows in row_groups:
                yield self.gather(rows)
            return
        groups = iter(row_groups)
        with ThreadPoolExecutor(1) as pool:
            ahead = deque(pool.submit(self._gather, rows) for _, rows in zip(range(2), groups))
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(pool.submit(self._gather, rows) for _, rows in zip(range(1), groups))
                yield batch.to(self.device, non_blocking=True)


def draw_seed(*key):
    """A 63-bit seed that is a pure function of a name and integers, such as ("order", seed, fold, epoch)."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1
