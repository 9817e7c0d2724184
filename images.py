"""One image file as an upright 8-bit RGB picture, and which part of it a model sees. Without torch, unlike decoding.py."""

import contextlib
import errno
import os
import warnings
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from errors import InputError, Interrupted

EXIF_ORIENTATION = 0x0112
# What is read, whatever a file is called. Not all that Pillow knows: PostScript is a program, which Pillow would run.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
MAX_PIXELS = 100_000_000  # of an image; a header may claim more than the memory holds
OF_CONTENT = (None, errno.EINVAL)  # errno of what damaged content raises: decoders' own errors, a seek to a place that none is
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, of which half is a warning
warnings.filterwarnings("ignore", module="PIL")  # what it warns of is read right, or an error that follows


class Unreadable(InputError):
    """The system can't read an image file just now, which says nothing about what it holds."""


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
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(f"{width} x {height} pixels; images of {MAX_PIXELS // 10**6} million and less are read")
            yield image
    except Interrupted:
        raise
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except Exception as error:  # decoders raise anything over a damaged file; nothing of it is used
        if isinstance(error, FileNotFoundError):
            raise Unreadable(f"{file}: not a readable image (missing; {error})") from error
        if isinstance(error, OSError) and error.errno not in OF_CONTENT:
            raise Unreadable(f"{file}: can't be read ({error.strerror}); make it readable and run this again") from error
        size = f"{os.path.getsize(file)} bytes" if os.path.exists(file) else "missing"
        raise InputError(f"{file}: not a readable image ({size}; {error})") from error


def to_rgb(image):
    """8-bit RGB of any Pillow image: grey, palette, alpha, CMYK, 16-bit; turned upright by its EXIF orientation."""
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would clip, not scale
        image = Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def open_rgb(file):
    """A source image as an upright 8-bit RGB Pillow image, in full size; InputError as `opened`."""
    with opened(file) as image:
        return to_rgb(image)
