import numpy as np
from PIL import Image, ImageChops

from demo_faces.canvas import CENTRE, SCALE, Canvas, mirrored, mix, pick, spline
from demo_faces.faces import draw_person, draw_traits

WIDTH, HEIGHT = 384, 512
KINDS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
MASK_COLORS = {
    "surgical": ((178, 212, 232), (240, 243, 245), (190, 222, 206), (246, 208, 216)),
    "folded": ((250, 250, 250), (48, 50, 58), (206, 212, 220)),
    "cloth": ((74, 100, 156), (200, 116, 124), (96, 140, 112), (222, 190, 130), (60, 62, 74)),
}


def draw_mask(person, traits, wearing, rng):
    """A mask on the person: (patch of the image `person`, its corner), both at SCALE times the size.

    wearing: 'worn', 'nose' (it shows), 'chin' or 'ear' (it hangs from one).
    """
    kind = pick(rng, surgical=5, folded=4, cloth=3)
    colors = MASK_COLORS[kind]
    color = mix(colors[rng.integers(len(colors))], tuple(int(value) for value in rng.integers(0, 256, 3)), 0.05)
    canvas, corner = Canvas(person).part(-144, -32, 144, 144)
    (w, h), ear = traits.head, -1 if rng.random() < 0.5 else 1
    loop = mix(color, (255, 255, 255), 0.5)
    if wearing == "ear":
        middle, top, bottom, half = ear * w * 0.98, 22.0, 132.0, 46.0
        canvas.curve([(ear * w * 1.05, -12), (ear * w * 1.13, 14), (middle + ear * 20, top + 6)], loop, 2.6)
        canvas.curve([(ear * w * 1.0, -12), (ear * w * 0.86, 16), (middle - ear * 20, top + 6)], loop, 2.6)
        half_edge = [(0, top), (half * 0.8, top + 2), (half, top + 30), (half * 0.8, bottom - 6), (0, bottom)]
        edge = mirrored(half_edge) + np.array((middle, 0))
    else:
        middle, bottom = 0.0, h + (10 if wearing == "chin" else 4)
        top = {"worn": rng.uniform(2, 10), "nose": rng.uniform(42, 47), "chin": rng.uniform(78, 83)}[wearing]
        half = w * (0.93 if wearing == "worn" else 0.9 if wearing == "nose" else 0.76)
        peak = 12 if wearing == "worn" else 3
        for side in (-1, 1):
            canvas.curve([(side * half * 0.96, top + 8), (side * w * 0.99, top * 0.4), (side * w * 1.06, -14)], loop, 2.6)
            if wearing != "chin":
                canvas.curve([(side * half * 0.84, 78), (side * w * 0.97, 46), (side * w * 1.06, 10)], loop, 2.6)
        chin = [(w * 0.86, 62), (w * 0.62, 94)] if wearing != "chin" else [(w * 0.62, 96)]
        edge = mirrored([(0, top - peak), (half * 0.3, top - peak * 0.8), (half * 0.66, top), (half, top + 8), *chin,
                         (w * 0.32, bottom), (0, bottom + 3)])  # fmt: skip
    cover = canvas.cover()
    cover.shape(edge, 255)
    canvas.fill(cover.image, color)
    dark, light = mix(color, (40, 44, 70), 0.34), mix(color, (255, 255, 255), 0.38)
    place = (middle, top, bottom, half)
    canvas.through(cover.image, lambda paint: decorate_mask(paint, kind, place, dark, light, rng))
    for side in (-1, 1):
        canvas.soft(middle + side * half, (top + bottom) / 2, 8, 44, (*dark, 150), blur=10, clip=cover.image)
    canvas.soft(middle, bottom + 2, half * 0.6, 8, (*dark, 130), blur=8, clip=cover.image)
    outline = spline(edge, closed=True)
    canvas.curve(np.concatenate([outline, outline[:1]])[::3], (*dark, 150), 1.3)
    return canvas.image, corner


def decorate_mask(canvas, kind, place, dark, light, rng):
    """Pleats of a surgical mask, seams of a folded one, the pattern of a cloth one."""
    middle, top, bottom, half = place
    if kind == "surgical":
        for share in (0.3, 0.5, 0.7):
            y = top + (bottom - top) * share
            pleat = np.array([(middle - half, y - 6), (middle, y + 3), (middle + half, y - 6)])
            canvas.curve(pleat, (*dark, 190), 2)
            canvas.curve(np.add(pleat, (0, 2.4)), (*light, 170), 1.8)
        canvas.curve([(middle - half * 0.4, top + 1), (middle, top - 4), (middle + half * 0.4, top + 1)], (*dark, 110), 2.4)
    elif kind == "folded":
        for share, bend in ((0.34, -12), (0.7, 12)):
            y = top + (bottom - top) * share
            canvas.curve([(middle - half, y + bend), (middle, y - bend * 0.4), (middle + half, y + bend)], (*dark, 190), 2)
        canvas.soft(middle, top + (bottom - top) * 0.45, half * 0.34, (bottom - top) * 0.12, (*light, 70), blur=12)
    else:
        pattern = pick(rng, dots=2, stripes=1, check=1, plain=1)
        for x in np.arange(-half, half + 1, 13):
            for y in np.arange(top - 10, bottom + 8, 13) if pattern == "dots" else ():
                canvas.ellipse(middle + x, y, 2.4, 2.4, (*light, 220))
            if pattern == "check":
                canvas.curve([(middle + x, top - 20), (middle + x, bottom + 10)], (*light, 110), 3.4)
        for y in np.arange(top - 10, bottom + 8, 13) if pattern in ("stripes", "check") else ():
            canvas.curve([(middle - half, y - 4), (middle, y + 2), (middle + half, y - 4)], (*light, 150), 3.4)
        canvas.curve([(middle, top - 12), (middle + 3, (top + bottom) / 2), (middle, bottom + 4)], (*dark, 150), 1.8)


def photograph(image, rng):
    """A small change of place, size, tilt, light and tint, as between two photos of one person: RGB, WIDTH x HEIGHT.

    The image is SCALE times as large: nearest pixels of it, reduced afterwards, are smooth and cost a third of bilinear ones.
    """
    scale, angle = rng.uniform(1.02, 1.18), np.radians(rng.normal(0, 2.2))
    dx, dy = np.clip(rng.normal(0, 7, 2), -16, 16)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    cx, cy = CENTRE[0] * SCALE, (CENTRE[1] + 14) * SCALE  # what comes to the middle of the photo
    x, y = (WIDTH / 2 + dx) * SCALE, (HEIGHT / 2 + dy) * SCALE
    matrix = (cos, sin, cx - cos * x - sin * y, -sin, cos, cy + sin * x - cos * y)
    size = (WIDTH * SCALE, HEIGHT * SCALE)
    image = image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST).reduce(SCALE)
    tint = rng.normal(0.96, 0.012, 3) * np.clip(rng.normal(1, 0.035), 0.9, 1.02)
    corners = np.clip(tint * rng.uniform(0.93, 1.03, (4, 1)) * 255, 0, 255).astype(np.uint8).reshape(2, 2, 3)
    light = Image.fromarray(corners).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))
    return ImageChops.multiply(image, light)


def person_images(gender, age, seed, *key):
    """{kind: RGB image} of the seven images of a person, a pure function of its arguments (`key`: ints)."""
    rng = np.random.default_rng((seed, *key))
    traits = draw_traits(gender, age, rng)
    bare = draw_person(traits, rng)
    images = {}
    for kind in KINDS:
        shown = bare
        if kind != "normal":
            wearing = pick(rng, nose=80, chin=14, ear=6) if kind == "incorrect_mask" else "worn"
            shown = bare.copy()
            shown.paste(*draw_mask(bare, traits, wearing, rng))
        images[kind] = photograph(shown, rng)
    return images
