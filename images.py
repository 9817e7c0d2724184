"""One image file as an upright 8-bit RGB picture, and which part of it a model sees. Without torch, unlike decoding.py."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from errors import InputError

EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Geometry:
    """From source image to model input: centre crop in source pixels (None: whole image), then resize to height x width.

    The crop is narrowed around its centre to the target's shape, so that the ratio is kept.
    """

    height: int
    width: int
    crop: tuple[int, int] | None = None  # height, width

    @classmethod
    def of(cls, img_size, crop):
        """Of the options --img-size and --crop: [height, width], and the same or None."""
        return cls(*img_size, tuple(crop) if crop else None)

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
