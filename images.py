"""One image file as an upright 8-bit RGB picture, and which part of it a model sees. Without torch, unlike decoding.py."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from errors import InputError

EXIF_ORIENTATION = 0x0112


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
