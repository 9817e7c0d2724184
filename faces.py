"""Draws faces of the demo set: a person is a bundle of traits drawn from (seed, index) alone, shown in seven images.

The mask is plain to see; gender and age speak through many overlapping, noisy cues (hair, hairline, grey, wrinkles,
glasses, lips, clothes), so that mask is easy, gender good and age hard, as in the real set.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 384, 512
SCALE = 2  # drawn larger and reduced: that smooths the edges
KINDS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
SKIN = ((255, 224, 196), (246, 208, 175), (236, 193, 157), (222, 174, 136), (198, 146, 108), (160, 110, 78))
HAIR = ((26, 22, 24), (38, 28, 26), (56, 38, 30), (84, 56, 38), (120, 78, 46))
CLOTHES = ((58, 84, 138), (172, 60, 66), (74, 122, 92), (226, 196, 120), (120, 88, 150), (66, 70, 78), (236, 236, 232),
           (232, 148, 158), (112, 166, 196))  # fmt: skip
BACKGROUNDS = ((208, 216, 224), (226, 220, 210), (196, 208, 200), (214, 204, 220), (232, 232, 230), (186, 196, 210))
MASKS = (
    *(("surgical", color) for color in ((186, 214, 232), (238, 240, 242), (206, 190, 222))),
    *(("fold", color) for color in ((250, 250, 250), (44, 46, 52))),
    *(("cloth", color) for color in ((70, 96, 150), (196, 120, 130), (98, 138, 110))),
)
# The lower edge of each fringe: points (share of the half width, pixels below the hairline) from right to left.
FRINGES = (
    ((0.86, -18), (0.62, 8), (0, -6), (-0.62, 8), (-0.86, -18)),
    ((0.9, 26), (0.5, 30), (0, 32), (-0.5, 30), (-0.9, 26)),
    ((0.9, 22), (0.5, 14), (0.08, -16), (-0.5, 14), (-0.9, 22)),
    ((0.92, 24), (0.4, 26), (-0.1, 18), (-0.5, -2), (-0.9, -6)),
)


@dataclass(frozen=True)
class Traits:
    """What is drawn of a person. Lengths are in pixels of the final image, colours RGB, shares from 0 to 1."""

    gender: int
    skin: tuple
    hair: tuple
    background: tuple
    clothes: tuple
    head: tuple  # half width, half height
    jaw: float  # 0 round .. 1 square
    long_hair: bool
    fringe: int  # 0 none, 1 straight, 2 parted, 3 swept
    volume: float
    hairline: float  # how far it has gone back
    grey: float
    lines: float  # wrinkles and bags
    brow: float
    lips: tuple
    lash: float
    glasses: int  # 0 none, 1 round, 2 square
    earrings: bool
    stubble: float
    beard: bool
    collar: int
    smile: float


def mix(one, other, share):
    """The colour `share` of the way from one to the other."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other))


def draw_traits(gender, age, rng):
    """The traits of a person: each cue follows gender or apparent age with noise, none gives them away alone."""
    looks = age + rng.normal(0, 1.8) + (rng.exponential(7) + 3 if age >= 60 else 0)  # 60 in the csv is 60 and over
    woman = rng.random() < (0.96 if gender else 0.04)  # a few look like the other gender in every cue
    skin = mix(SKIN[rng.choice(6, p=(0.26, 0.3, 0.24, 0.12, 0.05, 0.03))], (214, 178, 150), max(0, looks - 45) / 90)
    dyed = rng.random() < (0.18 if woman else 0.08)
    grey = 0.0 if dyed and looks < 66 else float(np.clip((looks - 47 + rng.normal(0, 4)) / 18, 0, 1))
    base = HAIR[rng.choice(5, p=(0.42, 0.26, 0.16, 0.1, 0.06))]
    return Traits(
        gender=gender,
        skin=skin,
        hair=mix(base, (222, 222, 224), 0.92 * grey),
        background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        clothes=mix(CLOTHES[rng.integers(len(CLOTHES))], (120, 112, 104), float(np.clip((looks - 34) / 45, 0, 0.75))),
        head=(float(rng.normal(84 if woman else 89, 3)), float(rng.normal(112, 4))),
        jaw=float(np.clip(rng.normal(0.25 if woman else 0.7, 0.18), 0, 1)),
        long_hair=bool(rng.random() < ((0.9 if looks < 45 else 0.62 if looks < 60 else 0.3) if woman else 0.06)),
        fringe=int(rng.choice(4, p=(0.15, 0.35, 0.3, 0.2) if looks < 40 else (0.5, 0.08, 0.22, 0.2))),
        volume=float(np.clip(rng.normal(1.0 - max(0, looks - 45) / 90, 0.12), 0.5, 1.3)),
        hairline=float(np.clip(rng.normal((looks - 34) / (80 if woman else 34), 0.16), 0, 1)),
        grey=grey,
        lines=float(np.clip(rng.normal((looks - 28) / 34, 0.12), 0, 1)),
        brow=float(np.clip(rng.normal(3.4 if woman else 6.2, 0.9), 2, 9)),
        lips=mix(mix(skin, (178, 84, 84), 0.5), (206, 54, 74), float(rng.random()) if woman and looks < 62 else 0.1),
        lash=float(rng.random()) if woman else 0.0,
        glasses=int(rng.choice(3, p=(0.74, 0.16, 0.1) if looks < 45 else (0.5, 0.2, 0.3))),
        earrings=bool(rng.random() < (0.42 if woman else 0.03)),
        stubble=0.0 if woman else float(np.clip(rng.normal(0.3, 0.3), 0, 1)),
        beard=bool(not woman and rng.random() < 0.12),
        collar=int(rng.choice(3, p=(0.55, 0.35, 0.1) if woman else (0.4, 0.15, 0.45))),
        smile=float(rng.normal(0.4, 0.5)),
    )


class Canvas:
    """A drawing area in pixels of the final image, with lengths scaled up to be reduced later."""

    def __init__(self, size, color):
        self.image = Image.new("RGB", tuple(round(side * SCALE) for side in size), color)
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def ellipse(self, x, y, half_width, half_height, color):
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        self.draw.ellipse([side * SCALE for side in box], fill=color)

    def polygon(self, points, color):
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=color)

    def line(self, points, color, width):
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, fill=color, width=max(1, round(width * SCALE)), joint="curve")

    def arc(self, x, y, half_width, half_height, start, end, color, width):
        angles = np.radians(np.linspace(start, end, 14))
        self.line(list(zip(x + half_width * np.cos(angles), y + half_height * np.sin(angles))), color, width)


def outline(traits, x, y, grow=0.0):
    """Points of the head's outline: an ellipse whose lower half is squared by the jaw."""
    width, height = traits.head[0] + grow, traits.head[1] + grow
    angles = np.linspace(0, 2 * np.pi, 72)
    power = np.where(np.sin(angles) > 0, 1 - 0.32 * traits.jaw, 1.0)
    across = np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** power
    return list(zip(x + width * across, y + height * np.sin(angles)))


CENTRE = (192.0, 236.0)


def draw_person(traits, rng):
    """The person without a mask, in final size, as an RGB image."""
    canvas = Canvas((WIDTH, HEIGHT), traits.background)
    x, y = CENTRE
    draw_behind(canvas, traits, x, y)
    shade = mix(traits.skin, (120, 70, 50), 0.28)
    for side in (-1, 1):
        canvas.ellipse(x + side * traits.head[0], y + 8, 12, 22, mix(traits.skin, shade, 0.4))
        if traits.earrings:
            canvas.ellipse(x + side * (traits.head[0] + 3), y + 33, 4.5, 4.5, (236, 206, 120))
    canvas.polygon(outline(traits, x, y), traits.skin)
    draw_light(canvas, traits, x, y, shade, -1 if rng.random() < 0.5 else 1)
    draw_age(canvas, traits, x, y, shade)
    draw_features(canvas, traits, x, y, shade)
    draw_beard(canvas, traits, x, y)
    draw_hair(canvas, traits, x, y, rng)
    draw_glasses(canvas, traits, x, y)
    return canvas.image.reduce(SCALE)


def draw_behind(canvas, traits, x, y):
    """Background light, hair behind the head, neck and clothes."""
    for step in range(8):
        radius = 300 - 28 * step
        canvas.ellipse(x, y - 10, radius, radius, mix(traits.background, (255, 255, 255), 0.05 * step))
    width, height = traits.head
    if traits.long_hair:
        canvas.ellipse(x, y - 10, width + 26 * traits.volume, height + 16, traits.hair)
        length = 150 + 60 * traits.volume
        side = width + 22 * traits.volume
        canvas.polygon(
            [(x - side, y - 10), (x + side, y - 10), (x + side + 6, y + length), (x - side - 6, y + length)], traits.hair
        )
    neck = 36 + 10 * traits.jaw
    shadow = mix(traits.skin, (110, 66, 50), 0.3)
    canvas.polygon([(x - neck, y + 70), (x + neck, y + 70), (x + neck + 6, y + 190), (x - neck - 6, y + 190)], shadow)
    shoulder = 132 + 34 * traits.jaw
    canvas.ellipse(x, y + 292, shoulder, 132, traits.clothes)
    canvas.ellipse(x, y + 172, neck + 10, 22, mix(traits.skin, shadow, 0.6))
    if traits.collar == 1:
        canvas.polygon([(x - neck - 12, y + 172), (x + neck + 12, y + 172), (x, y + 250)], mix(traits.skin, shadow, 0.4))
    if traits.collar == 2:
        light = mix(traits.clothes, (255, 255, 255), 0.75)
        for side in (-1, 1):
            canvas.polygon([(x, y + 214), (x + side * (neck + 16), y + 158), (x + side * (neck + 4), y + 232)], light)


def draw_light(canvas, traits, x, y, shade, side):
    """Soft light and shadow over the face."""
    glow = Image.new("RGBA", canvas.image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(glow)
    width, height = traits.head

    def soft(cx, cy, rx, ry, color):
        draw.ellipse([SCALE * value for value in (cx - rx, cy - ry, cx + rx, cy + ry)], fill=color)

    soft(x + side * width * 0.85, y + 16, width * 0.34, height * 0.72, (*shade, 110))
    soft(x - side * width * 0.3, y - 46, width * 0.42, height * 0.26, (255, 255, 255, 60))
    for cheek in (-1, 1):
        soft(x + cheek * width * 0.52, y + 34, 20, 13, (232, 120, 110, 34))
    small = glow.reduce(4).filter(ImageFilter.GaussianBlur(9)).resize(glow.size, Image.Resampling.BILINEAR)
    face = Image.new("L", canvas.image.size, 0)
    ImageDraw.Draw(face).polygon([(SCALE * px, SCALE * py) for px, py in outline(traits, x, y)], fill=255)
    canvas.image.paste(small, (0, 0), Image.composite(small.getchannel("A"), face.point(lambda value: 0), face))
    canvas.draw = ImageDraw.Draw(canvas.image, "RGBA")


def draw_age(canvas, traits, x, y, shade):
    """Lines of the forehead, around eyes and mouth, and bags under the eyes, by how old the person looks."""
    strength = round(190 * traits.lines**1.2)
    color = (*mix(shade, (110, 70, 56), 0.5), strength)
    for number in range(round(4 * traits.lines)):
        canvas.arc(x, y - 50 - 12 * number + 40, 46, 40, 232, 308, color, 1.8)
    for side in (-1, 1):
        canvas.arc(x + side * 36, y + 4, 19, 14, 25, 155, color, 2.4)
        canvas.arc(x + side * 20, y + 58, 26, 34, *((-60, 40) if side > 0 else (140, 240)), color, 2.6)
        for number in range(round(3 * traits.lines)):
            far = x + side * 62
            canvas.line([(far, y - 10 + 5 * number), (far + side * 13, y - 15 + 8 * number)], color, 1.6)


def draw_features(canvas, traits, x, y, shade):
    """Eyes, brows, nose and mouth."""
    dark = mix(traits.hair, (40, 28, 26), 0.45)
    for side in (-1, 1):
        ex, ey = x + side * 36, y - 8
        canvas.ellipse(ex, ey, 17, 8.5 - 1.5 * traits.lines, (250, 250, 248))
        canvas.ellipse(ex, ey, 7.2, 7.4, (58, 40, 32))
        canvas.ellipse(ex + 2, ey - 2, 2, 2, (255, 255, 255))
        canvas.arc(ex, ey, 18, 9, 190, 350, (40, 30, 30), 2.2 + 2.2 * traits.lash)
        if traits.lash > 0.4:
            canvas.line([(ex + side * 16, ey - 4), (ex + side * 23, ey - 9)], (40, 30, 30), 2)
        canvas.arc(ex, ey - 8 + traits.lines * 2, 23, 15, 205, 335, dark, traits.brow)
    canvas.arc(x, y + 28, 13, 9, 20, 160, shade, 3)
    canvas.line([(x + 7, y + 4), (x + 10, y + 24)], (*shade, 120), 2.4)
    canvas.ellipse(x, y + 68, 25, 6 + 2.5 * max(0, traits.smile), traits.lips)
    canvas.arc(x, y + 66 - 4 * traits.smile, 26, 3 + 5 * abs(traits.smile), *((15, 165) if traits.smile > 0 else (195, 345)),
               mix(traits.lips, (80, 30, 30), 0.6), 2.2)  # fmt: skip


def draw_beard(canvas, traits, x, y):
    """Stubble or a beard over chin and upper lip."""
    strength = 235 if traits.beard else round(80 * traits.stubble)
    if strength > 12:
        color = (*traits.hair, strength)
        lower = [(px, py) for px, py in outline(traits, x, y, -1) if py > y + 36]
        canvas.polygon([*lower, (x - 50, y + 52), (x - 28, y + 84), (x + 28, y + 84), (x + 50, y + 52)], color)
        canvas.ellipse(x, y + 54, 27, 5, color)


def draw_hair(canvas, traits, x, y, rng):
    """Hair over the forehead and at the sides; grey shows first at the temples."""
    width, height = traits.head
    top = y - height - 14 * traits.volume
    bare = 1.0 if traits.hairline > 0.85 and traits.gender == 0 else traits.hairline
    if bare >= 1.0:  # a bald crown with hair at the sides
        for side in (-1, 1):
            canvas.ellipse(x + side * (width - 3), y - 24, 10, 38, traits.hair)
        return
    line = y - 62 - 34 * traits.hairline
    cap = [(px, py) for px, py in outline(traits, x, y - 6 * traits.volume, 12 * traits.volume) if py < y - 22]
    cap.sort(key=lambda point: point[0])
    canvas.polygon(
        [*cap, *((x + across * width, line + down * (1 - 0.6 * traits.hairline)) for across, down in FRINGES[traits.fringe])],
        traits.hair,
    )
    canvas.ellipse(x, (top + line) / 2 + 4, width * 0.7, (line - top) / 2, traits.hair)
    temple = mix(traits.hair, (226, 226, 228), min(1, traits.grey * 0.9 + max(0, traits.lines - 0.55)))
    for side in (-1, 1):
        canvas.ellipse(x + side * (width - 1), y - 28, 8 * traits.volume, 34, temple)
        if traits.long_hair:
            px = x + side * (width + 4)
            canvas.polygon([(px - 13, y - 60), (px + 13, y - 60), (px + 16, y + 150), (px - 9, y + 150)], traits.hair)
    gleam = (*mix(traits.hair, (255, 255, 255), 0.3), 120)
    for _ in range(5):
        start = rng.uniform(-60, 60)
        canvas.arc(x + start * 0.4, line + 6, width * 0.75, line - top + 2, 235 + start * 0.3, 265 + start * 0.3, gleam, 1.6)


def draw_glasses(canvas, traits, x, y):
    """Round or square frames."""
    if traits.glasses:
        color = (44, 40, 44) if traits.glasses == 1 else (92, 60, 44)
        for side in (-1, 1):
            ex, ey = x + side * 37, y - 6
            if traits.glasses == 1:
                canvas.arc(ex, ey, 26, 23, 0, 360, color, 2.8)
            else:
                canvas.line(
                    [(ex - 27, ey - 16), (ex + 27, ey - 16), (ex + 24, ey + 18), (ex - 24, ey + 18), (ex - 27, ey - 16)],
                    color,
                    3.2,
                )
            canvas.line([(x + side * 62, y - 8), (x + side * traits.head[0], y - 12)], color, 2.8)
        canvas.line([(x - 12, y - 9), (x + 12, y - 9)], color, 2.8)


def draw_mask(image, traits, kind, rng):
    """The person with a mask: `kind` worn or incorrect (under the nose, or on the chin)."""
    style, color = MASKS[rng.integers(len(MASKS))]
    color = mix(color, tuple(int(value) for value in rng.integers(0, 256, 3)), 0.08)
    top = rng.uniform(4, 14) if kind == "worn" else (rng.uniform(42, 50) if rng.random() < 0.6 else rng.uniform(80, 88))
    left, upper = round(CENTRE[0] - 116), round(CENTRE[1] - 20)
    size = (232, 170)
    patch = image.crop((left, upper, left + size[0], upper + size[1]))
    canvas = Canvas(size, (0, 0, 0))
    canvas.image.paste(patch.resize(canvas.image.size, Image.Resampling.BILINEAR))
    x, y = CENTRE[0] - left, CENTRE[1] - upper
    width, height = traits.head
    edge = mix(color, (90, 90, 100), 0.4)
    at = width * np.sqrt(max(0.0, 1 - min(0.98, top / height) ** 2)) * 0.97
    for side in (-1, 1):
        canvas.line([(x + side * at, y + top + 8), (x + side * (width + 4), y - 6)], mix(color, (255, 255, 255), 0.3), 2.4)
    chin = [(px, py) for px, py in outline(traits, x, y, 3) if py > y + top + 4]
    chin.sort(key=lambda point: -point[0])
    nose = 12 if kind == "worn" else 0
    bridge = [(-at, 5), (-at * 0.45, -3), (0, -nose), (at * 0.45, -3), (at, 5)]
    bridge = [(x + across, y + top + down) for across, down in bridge]
    canvas.polygon([*bridge, *chin], color)
    canvas.line([*bridge, *chin, bridge[0]], edge, 1.6)
    if style == "surgical":
        for down in (0.3, 0.5, 0.7):
            row = y + top + (height - top) * down
            reach = at * (1 - 0.45 * down)
            canvas.arc(x, row - 6, reach, 8, 15, 165, (*edge, 170), 2)
    elif style == "fold":
        canvas.line([(x, y + top - 6), (x, y + height)], (*edge, 200), 2.4)
        canvas.arc(x, y + top + 12, at * 0.9, 10, 200, 340, (*edge, 150), 1.6)
    else:
        for px in np.arange(-at, at, 14):
            for py in np.arange(top + 14, height - 10, 14):
                if abs(px) < at * (1.05 - 0.55 * (py - top) / (height - top)):
                    canvas.ellipse(x + px, y + py, 2.2, 2.2, (*mix(color, (255, 255, 255), 0.6), 200))
    image = image.copy()
    image.paste(canvas.image.reduce(SCALE), (left, upper))
    return image


def photograph(image, rng):
    """A small change of place, size, tilt, light and tint, as between two photos of one person."""
    scale, angle = rng.uniform(1.06, 1.2), np.radians(rng.normal(0, 2.5))
    dx, dy = rng.normal(0, 7, 2)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    cx, cy = WIDTH / 2, HEIGHT / 2
    matrix = (cos, sin, cx - cos * (cx + dx) - sin * (cy + dy), -sin, cos, cy + sin * (cx + dx) - cos * (cy + dy))
    corner = image.getpixel((2, 2))
    image = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=corner)
    gains = rng.normal(1, 0.05) * rng.normal(1, 0.02, 3)
    table = np.concatenate([np.clip(np.arange(256) * gain, 0, 255) for gain in gains]).astype(int).tolist()
    return image.point(table)


def person_images(gender, age, seed, index):
    """{kind: RGB image} of the seven images of a person, a pure function of its arguments."""
    rng = np.random.default_rng((seed, index))
    traits = draw_traits(gender, age, rng)
    bare = draw_person(traits, rng)
    images = {}
    for kind in KINDS:
        shown = bare if kind == "normal" else draw_mask(bare, traits, "incorrect" if kind == "incorrect_mask" else "worn", rng)
        images[kind] = photograph(shown, rng)
    return images
