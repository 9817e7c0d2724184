import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SCALE = 2  # drawn larger and reduced: that smooths the edges
BASE = (448, 576)  # a person is drawn on a larger ground, so that a shifted photo shows no border
CENTRE = (224, 262)  # of the face there; coordinates count from it, in pixels of the final image


def mix(one, other, share):
    """The colour `share` of the way from one to the other."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other))


def pick(rng, **weights):
    """One of the names, as likely as its weight."""
    share = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(share, rng.random() * share[-1], side="right"))]


def spline(points, closed=False):
    """A smooth curve (Catmull-Rom) through points [N, 2]."""
    p = np.asarray(points, float)
    ends = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    p = np.concatenate([ends[0], p, ends[1]])
    t = np.linspace(0, 1, 6, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def mirrored(half):
    """A closed outline from its right half, given from top to bottom; its ends lie on the middle line."""
    half = np.asarray(half, float)
    return np.concatenate([half, half[-2:0:-1] * (-1, 1)])


class Canvas:
    """A drawing area whose coordinates count from the middle of the face, in pixels of the final image."""

    def __init__(self, image, origin=CENTRE):
        self.image, self.origin = image, np.asarray(origin, float)
        self.draw = ImageDraw.Draw(image, "RGBA" if image.mode == "RGB" else image.mode)

    def at(self, points):
        return [tuple(point) for point in ((np.asarray(points, float) + self.origin) * SCALE).tolist()]

    def polygon(self, points, color):
        self.draw.polygon(self.at(points), fill=color)

    def shape(self, points, color):
        """A filled smooth outline."""
        self.polygon(spline(points, closed=True), color)

    def curve(self, points, color, width):
        """A smooth line."""
        self.draw.line(self.at(spline(points)), fill=color, width=max(1, round(width * SCALE)), joint="curve")

    def ellipse(self, x, y, half_width, half_height, color):
        self.draw.ellipse([v for p in self.at([(x - half_width, y - half_height), (x + half_width, y + half_height)])
                           for v in p], fill=color)  # fmt: skip

    def soft(self, x, y, half_width, half_height, color, blur=8, clip=None):
        """An ellipse with soft edges; the fourth value of its RGBA colour is its opacity. `clip` bounds it (mode L)."""
        coarse = 8 if blur > 3 else 2
        reach = (half_width + 2.4 * blur, half_height + 2.4 * blur)
        (left, top), (right, bottom) = self.at([(x - reach[0], y - reach[1]), (x + reach[0], y + reach[1])])
        size = (max(2, round((right - left) / coarse)), max(2, round((bottom - top) / coarse)))
        small = Image.new("L", size, 0)
        inner = 2.4 * blur * SCALE / coarse
        ImageDraw.Draw(small).ellipse((inner, inner, size[0] - 1 - inner, size[1] - 1 - inner), fill=color[3])
        small = small.filter(ImageFilter.GaussianBlur(blur * SCALE / coarse))
        self.stamp(small.resize((size[0] * coarse, size[1] * coarse), Image.Resampling.BILINEAR), (left, top), color, clip)

    def stamp(self, cover, corner, color, clip=None):
        """Paint a colour through the L mask `cover`, whose corner lies at these pixels of the image."""
        left, top = (round(value) for value in corner)
        if clip is not None:
            cover = ImageChops.multiply(cover, clip.crop((left, top, left + cover.width, top + cover.height)))
        self.image.paste(color[:3], (left, top), cover)

    def cover(self):
        """A blank L mask of this canvas' size, to draw a clip on."""
        return Canvas(Image.new("L", self.image.size, 0), self.origin)

    def fill(self, cover, paint):
        """Paste a colour, or an image of this one's size, where the L mask `cover` is set."""
        box = cover.getbbox()
        if box:
            self.image.paste(paint if isinstance(paint, tuple) else paint.crop(box), box, cover.crop(box))

    def part(self, left, top, right, bottom):
        """(canvas of a copy of this area, its corner in pixels of the image)."""
        corner = [round(value) for value in self.at([(left, top)])[0]]
        size = (round((right - left) * SCALE), round((bottom - top) * SCALE))
        image = self.image.crop((*corner, corner[0] + size[0], corner[1] + size[1]))
        return Canvas(image, self.origin - np.array(corner) / SCALE), tuple(corner)

    def through(self, cover, paint):
        """Let paint(canvas) draw on this canvas only where the L mask `cover` is set."""
        copy = Canvas(self.image.copy(), self.origin)
        paint(copy)
        self.fill(cover, copy.image)
