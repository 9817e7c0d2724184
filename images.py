"""One image file as an upright 8-bit RGB picture, and which part of it a model sees. Without torch, unlike decoding.py."""

import contextlib
import io
import os
import re
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import errors
from errors import InputError, Interrupted, Unreadable

EXIF_ORIENTATION = 0x0112
EXIF_KINDS = {1: "B", 3: "H", 4: "I"}  # of whole numbers, as struct names them
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose by EXIF orientation; 1 and all else: none
# What is read, whatever a file is called. Not all that Pillow knows: PostScript is a program, which Pillow would run.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
MAX_PIXELS = 100_000_000  # of an image; a header may claim more than the memory holds
PNG = b"\x89PNG\r\n\x1a\n"
NEEDED = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}  # JPEG's application segments that tell how colours are stored
HEIF_STARTS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
CONVERT = "convert it to JPEG, as with heif-convert or a Mac's sips -s format jpeg"
HEIF = f"it is a HEIC or AVIF file, whatever its name; {CONVERT}"
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
