"""One image file: opened as an upright 8-bit RGB picture, or decoded, cropped and resized to a model's input."""

import math
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from errors import InputError

DECODER = 1  # part of the key: raise it when decode() gives other pixels
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Geometry:
    """From source image to model input: centre crop in source pixels (None: whole image), then resize to height x width.

    The crop is narrowed around its centre to the target's shape, so that the ratio is kept.
    """

    height: int
    width: int
    crop: tuple[int, int] | None = None  # height, width

    def box(self, width, height):
        """The source rectangle (left, top, right, bottom), in float pixels, that becomes the model input."""
        crop_height, crop_width = self.crop or (height, width)
        if crop_height > height or crop_width > width:
            raise InputError(f"--crop {crop_height} {crop_width} is larger than the image ({height} high, {width} wide)")
        scale = min(crop_height / self.height, crop_width / self.width)
        box_height, box_width = self.height * scale, self.width * scale
        left, top = (width - box_width) / 2, (height - box_height) / 2
        return left, top, left + box_width, top + box_height


def to_rgb(image):
    """8-bit RGB of any Pillow image: grey, palette, alpha, CMYK, 16-bit; turned upright by its EXIF orientation."""
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would clip, not scale
        image = Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def open_rgb(file):
    """A source image as an upright 8-bit RGB Pillow image, in full size."""
    with Image.open(file) as image:
        return to_rgb(image)


def decode(file, geometry):
    """One image as uint8 [H, W, 3]. InputError names the file when it is no readable image or smaller than the crop."""
    try:
        with Image.open(file) as image:
            upright = image.getexif().get(EXIF_ORIENTATION, 1) == 1
            if image.format == "JPEG" and upright and image.mode == "RGB":
                return _resize_jpeg(image, geometry)
            image = to_rgb(image)
            box = geometry.box(*image.size)
            return np.asarray(image.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC, box))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        size = f"{os.path.getsize(file)} bytes" if os.path.exists(file) else "missing"
        raise InputError(f"{file}: not a readable image ({size}; {error})") from error


def _resize_jpeg(image, geometry):
    """Resize letting the JPEG decoder itself halve the image while it stays at least twice as large as the target."""
    width, height = image.size
    left, top, right, bottom = geometry.box(width, height)
    ratio = 2 * geometry.width / (right - left)
    image.draft("RGB", (math.ceil(width * ratio), math.ceil(height * ratio)))
    x, y = image.size[0] / width, image.size[1] / height
    box = (left * x, top * y, min(right * x, image.size[0]), min(bottom * y, image.size[1]))
    return np.asarray(image.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC, box))
