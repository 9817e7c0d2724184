from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageFilter

from demo_faces.canvas import BASE, SCALE, Canvas, mirrored, mix, pick, spline

SKIN = ((255, 226, 202), (250, 214, 184), (240, 200, 166), (226, 180, 144), (202, 152, 116), (164, 116, 86))
HAIR = ((30, 26, 30), (44, 33, 31), (64, 44, 35), (96, 65, 44), (138, 92, 56))
WARM = ((196, 72, 78), (236, 200, 116), (132, 98, 168), (240, 236, 228), (238, 152, 162), (228, 132, 96))
COOL = ((66, 96, 156), (82, 130, 108), (64, 70, 84), (236, 238, 240), (112, 166, 200), (96, 84, 76))
MUTED = ((120, 112, 104), (92, 84, 92), (128, 118, 132), (104, 112, 104), (150, 136, 116))
BACKGROUNDS = ((206, 218, 230), (232, 222, 208), (198, 214, 204), (220, 208, 226), (234, 234, 232), (188, 202, 220),
               (240, 214, 204), (214, 224, 200))  # fmt: skip
# The lower edge of the hair over the forehead: points (share of the half width, pixels below the hairline), right to left.
FRINGES = {
    "straight": ((0.82, 22), (0.45, 31), (0, 33), (-0.45, 31), (-0.82, 22)),
    "parted": ((0.86, 26), (0.58, 8), (0.1, -20), (0, -22), (-0.1, -20), (-0.58, 8), (-0.86, 26)),
    "swept": ((0.86, 22), (0.5, 24), (0.1, 12), (-0.38, -12), (-0.6, -10), (-0.84, 8)),
    "back": ((0.9, 12), (0.74, -8), (0.4, -23), (0, -27), (-0.4, -23), (-0.74, -8), (-0.9, 12)),
    "receding": ((0.84, -2), (0.62, -24), (0.3, -12), (0, -8), (-0.3, -12), (-0.62, -24), (-0.84, -2)),
}
LONG = ("straight", "wavy", "bob")
INK = (44, 32, 32)


def draw_traits(gender, age, rng):
    """The traits of a person: each cue follows gender or apparent age with noise, none gives them away alone. Lengths are in
    pixels of the final image, colours RGB, shares from 0 to 1."""
    looks = age + rng.normal(0, 2) + (rng.exponential(7) + 6 if age >= 60 else 0)  # 60 in the csv is 60 and over
    woman = rng.random() < (0.975 if gender else 0.025)  # a few look like the other gender in every cue
    old = float(np.clip((looks - 34) / 30, 0, 1))
    dyed = looks < 64 and rng.random() < (0.25 if woman else 0.1)
    skin = mix(SKIN[rng.choice(6, p=(0.24, 0.3, 0.26, 0.12, 0.05, 0.03))],
            (206, 172, 146), float(np.clip((looks - 26) / 80, 0, 0.5)))  # fmt: skip
    hairline = float(np.clip(rng.normal((looks - 34) / (80 if woman else 34), 0.16), 0, 1))
    if woman:
        style = pick(rng, straight=38 * (1 - old), wavy=28 * (1 - 0.8 * old), bob=18, bun=7, ponytail=8 * (1 - old),
                     perm=2 + 50 * old**2, crop=1 + 7 * old)  # fmt: skip
    else:
        style = pick(rng, crop=64, quiff=24 * (1 - old), curly=7, bob=2, bald=100 * max(0, hairline - 0.72))
    if style in ("bun", "ponytail", "quiff") or hairline > 0.5:
        fringe = "receding" if hairline > 0.45 and not woman else "back"
    else:
        fringe = pick(rng, straight=2 * (1 - old) ** 2, parted=1, swept=0.8, back=0.05 + 1.6 * old)
    colors = WARM if rng.random() < (0.75 if woman else 0.3) else COOL
    clothes = mix(colors[rng.integers(len(colors))], MUTED[rng.integers(len(MUTED))],
                  float(np.clip(rng.normal(1.2 * old, 0.12), 0, 0.85)))  # fmt: skip
    return SimpleNamespace(
        skin=skin,
        hair=HAIR[rng.choice(5, p=(0.38, 0.26, 0.17, 0.12, 0.07))],
        grey=0.0 if dyed else float(np.clip((looks - 50 + rng.normal(0, 3)) / 14, 0, 1)),  # of the hair; the temples first
        style=style,
        fringe=fringe,
        volume=float(np.clip(rng.normal(13 - 4 * old, 2), 6, 18)),
        hairline=hairline,  # how far it has gone back
        background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        scene=int(rng.integers(3)),  # 0 plain, 1 window, 2 blurred lights
        clothes=clothes,
        collar=pick(rng, crew=5, vneck=4, shirt=1 + old, turtle=1 + old) if woman
        else pick(rng, crew=5, hood=2 * (1 - old), shirt=2 + 3 * old, suit=1 + 2 * old),
        head=(float(rng.normal(82 if woman else 89, 2.5)), float(rng.normal(111, 3.5))),  # half width, half height
        jaw=float(np.clip(rng.normal(0.15 if woman else 0.8, 0.18), 0, 1.2)),  # 0 round .. 1 square
        lines=float(np.clip(rng.normal((looks - 25) / 34, 0.09), 0, 1.1)),  # wrinkles, bags, sagging cheeks
        brow=float(np.clip(rng.normal(4.6 if woman else 8.4, 1), 3, 11)),
        iris=mix((40, 28, 24), (104, 70, 44), float(rng.random())),
        lips=mix(mix(skin, (190, 92, 92), 0.55), (206, 52, 76), rng.uniform(0.3, 1) if woman and looks < 66 else 0.05),
        fullness=float(np.clip(rng.normal(1.1 if woman else 0.85, 0.12) - 0.2 * old, 0.5, 1.4)),
        smile=float(np.clip(rng.normal(0.5, 0.45), -0.4, 1.3)),
        lash=float(rng.random()) if woman else 0.0,
        glasses=pick(rng, none=8 - 4 * old, round=1.6, square=1 + 2 * old),
        earrings=bool(rng.random() < (0.42 if woman else 0.03)),
        stubble=0.0 if woman else float(np.clip(rng.normal(0.4, 0.3), 0, 1)),
        beard=bool(not woman and rng.random() < 0.12),
    )  # fmt: skip


def head_outline(traits):
    """Points of the head's outline, clockwise from the top."""
    jaw, sag = traits.jaw, 0.045 * traits.lines
    half = [(0, -1), (0.5, -0.9), (0.85, -0.58), (0.985, -0.1), (0.955, 0.25), (0.79 + 0.09 * jaw + sag, 0.62),
            (0.47 + 0.12 * jaw + sag, 0.89), (0.2 + 0.07 * jaw, 0.99), (0, 1.005)]  # fmt: skip
    return mirrored(np.asarray(half) * traits.head)


def draw_person(traits, rng):
    """The person without a mask at SCALE times the size, as an RGB image of BASE."""
    canvas = Canvas(Image.new("RGB", tuple(side * SCALE for side in BASE), traits.background))
    side = -1 if rng.random() < 0.5 else 1  # where the shadow falls
    shade = mix(traits.skin, (138, 70, 60), 0.42)
    draw_scene(canvas, traits, rng)
    draw_hair_behind(canvas, traits)
    draw_body(canvas, traits, shade)
    face = canvas.cover()
    face.shape(head_outline(traits), 255)
    draw_ears(canvas, traits, shade)
    canvas.fill(face.image, traits.skin)
    draw_light(canvas, traits, shade, side, face.image)
    draw_nose_and_mouth(canvas, traits, shade, side, face.image)
    draw_age(canvas, traits, shade, face.image, rng)
    draw_eyes(canvas, traits, shade)
    draw_beard(canvas, traits, face.image)
    draw_hair(canvas, traits, side, rng)
    draw_glasses(canvas, traits)
    return canvas.image


def draw_scene(canvas, traits, rng):
    """A wall in soft light, a window or blurred lights."""
    size = canvas.image.size
    ground = Image.new("RGB", (2, 2))
    ground.putdata([mix(traits.background, other, share) for other, share in
                    (((255, 255, 255), 0.5), ((255, 255, 255), 0.2), ((90, 96, 120), 0.1), ((70, 70, 96), 0.26))])  # fmt: skip
    canvas.image.paste(ground.resize(size, Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5)))
    if traits.scene == 1:
        left = float(rng.choice([-250, 110]))
        for column in (0, 1):
            for row in (0, 1):
                canvas.soft(left + 68 * column + 30, -170 + 120 * row, 26, 50, (255, 255, 250, 120), blur=5)
    elif traits.scene == 2:
        for _ in range(9):
            tint = mix(traits.background, ((255, 236, 190), (255, 255, 255), (255, 206, 206))[rng.integers(3)], 0.8)
            radius = rng.uniform(12, 34)
            canvas.soft(rng.uniform(-210, 210), rng.uniform(-250, 120), radius, radius, (*tint, 120), blur=3.5)


def draw_body(canvas, traits, shade):
    """Neck, shoulders and clothes."""
    neck = 37 + 10 * traits.jaw
    slope = 122 + 46 * min(1, traits.jaw)
    bare = canvas.cover()
    bare.shape(mirrored([(0, 40), (neck, 50), (neck, 130), (neck + 14, 166), (neck + 30, 200), (0, 250)]), 255)
    canvas.fill(bare.image, traits.skin)
    canvas.soft(0, 108, neck + 6, 34, (*shade, 190), blur=11, clip=bare.image)
    body = canvas.cover()
    top = {"turtle": 132, "hood": 158, "vneck": 172}.get(traits.collar, 166)
    body.shape(mirrored([(0, top + 24), (neck * 0.7, top + 14), (neck + 8, top - 4), (neck + 40, 184), (slope, 206),
                         (slope + 34, 262), (slope + 44, 400), (0, 420)]), 255)  # fmt: skip
    canvas.fill(body.image, traits.clothes)
    dark, light = mix(traits.clothes, (20, 20, 34), 0.3), mix(traits.clothes, (255, 255, 255), 0.22)
    for side in (-1, 1):
        canvas.soft(side * (slope + 30), 300, 26, 80, (*dark, 150), blur=14, clip=body.image)
        canvas.soft(side * slope * 0.55, 226, 34, 18, (*light, 130), blur=12, clip=body.image)
    rim = [(-neck - 8, top - 4), (-neck * 0.7, top + 14), (0, top + 24), (neck * 0.7, top + 14), (neck + 8, top - 4)]
    if traits.collar in ("crew", "turtle"):
        canvas.curve(rim, dark, 5)
    elif traits.collar == "vneck":
        canvas.polygon([(-neck - 4, top - 2), (neck + 4, top - 2), (0, top + 84)], mix(traits.skin, shade, 0.3))
        canvas.curve([(-neck - 4, top - 2), (-neck * 0.5, top + 42), (0, top + 84)], dark, 4)
        canvas.curve([(0, top + 84), (neck * 0.5, top + 42), (neck + 4, top - 2)], dark, 4)
    elif traits.collar == "hood":
        canvas.curve(rim, dark, 17)
        canvas.curve(rim, mix(dark, light, 0.3), 9)
        for side in (-1, 1):
            canvas.curve([(side * 15, top + 26), (side * 18, top + 62), (side * 16, top + 92)], (240, 240, 240), 3)
    else:
        white = mix(traits.clothes, (255, 255, 255), 0.82)
        if traits.collar == "suit":
            canvas.polygon([(-neck + 2, 156), (neck - 2, 156), (0, 310)], white)
            canvas.polygon([(-9, 190), (9, 190), (14, 320), (-14, 320)], mix((150, 40, 60), traits.hair, 0.3))
            for side in (-1, 1):
                canvas.polygon([(side * (neck + 8), 160), (side * (neck + 44), 216), (side * 30, 252), (side * 6, 330)], dark)
        for side in (-1, 1):
            canvas.polygon([(0, 196), (side * (neck - 6), 140), (side * (neck + 14), 158), (side * 34, 222)], white)
            canvas.curve([(0, 196), (side * 34, 222), (side * (neck + 14), 158)], mix(white, dark, 0.4), 1.6)


def draw_ears(canvas, traits, shade):
    width = traits.head[0]
    for side in (-1, 1):
        ear = [(0.93, -20), (1.08, -28), (1.15, -10), (1.1, 18), (1.03, 32), (0.93, 24)]
        canvas.shape([(side * across * width, down) for across, down in ear], mix(traits.skin, shade, 0.22))
        canvas.curve([(side * across * width, down) for across, down in ((1.03, -16), (1.09, -8), (1.05, 12))],
                (*shade, 150), 3)  # fmt: skip
        if traits.earrings:
            canvas.ellipse(side * width * 1.05, 35, 4.6, 4.6, (244, 214, 130))
            canvas.ellipse(side * width * 1.05 - 1.2, 33.6, 1.4, 1.4, (255, 250, 236))


def draw_light(canvas, traits, shade, side, face):
    """Soft light and shadow over the face."""
    width, height = traits.head
    canvas.soft(side * width * 1.02, 20, width * 0.24, height * 0.85, (*shade, 165), blur=17, clip=face)
    canvas.soft(0, height * 1.1, width * 0.8, 16, (*shade, 130), blur=12, clip=face)
    canvas.soft(-side * width * 0.34, -52, width * 0.34, 20, (255, 250, 240, 105), blur=15, clip=face)
    for cheek in (-1, 1):
        canvas.soft(cheek * width * 0.53, 32, 14, 9, (240, 112, 104, 78 if traits.lash else 52), blur=9, clip=face)
        canvas.soft(cheek * 36, -8, 19, 11, (*shade, 66), blur=7, clip=face)
    canvas.soft(-side * width * 0.5, 16, 13, 8, (255, 250, 240, 80), blur=8, clip=face)


def draw_eyes(canvas, traits, shade):
    """Eyes with lids and lashes, and brows."""
    droop, lash = 3.0 * traits.lines, traits.lash
    brow = (*mix(mix(traits.hair, (216, 214, 214), 0.6 * traits.grey), (60, 44, 40), 0.25), 225)
    for side in (-1, 1):
        upper = spline([(-18, 3), (-8, -7.5 + droop * 0.5), (3, -9.5 + droop * 0.7), (12, -6.5 + droop),
                (19, 0.5 + droop * 0.6)])  # fmt: skip
        lower = spline([(19, 0.5 + droop * 0.6), (10, 7), (-3, 8), (-12, 6), (-18, 3)])
        place = np.array((side * 36.0, -5.0))
        upper, lower = upper * (side, 1) + place, lower * (side, 1) + place
        x, y = place[0] + 0.5 * side, place[1] - 0.4
        eye, corner = canvas.part(x - 24, y - 16, x + 24, y + 16)
        opening = eye.cover()
        opening.polygon(np.concatenate([upper, lower]), 255)
        eye.image.paste((250, 248, 246), (0, 0, *eye.image.size))
        eye.ellipse(x, y, 9.2, 9.2, mix(traits.iris, (10, 8, 8), 0.5))
        eye.ellipse(x, y, 7.8, 7.8, traits.iris)
        eye.ellipse(x, y, 4, 4, (18, 14, 14))
        eye.ellipse(x + 3, y - 3.2, 2.4, 2.4, (255, 255, 255))
        eye.ellipse(x, y - 11.5 + droop, 19, 5, (120, 96, 96, 90))
        canvas.image.paste(eye.image, corner, opening.image)
        canvas.curve(upper[::5], INK, 2.4 + 1.6 * lash)
        canvas.curve(lower[::5], (*shade, 150), 1.2)
        canvas.curve(np.add(upper[::5], (0, -5.5)), (*shade, 190), 1.4)
        if lash > 0.3:
            for reach in (0, 4):
                corner = upper[-1 - reach]
                canvas.curve(np.array([(0, 0), (side * 4, -2.5), (side * 6, -6)]) + corner, INK, 1.5)
        arch, thick = (2.5 if lash else 0) - 2 * traits.lines, traits.brow
        line = np.array([(-20, -20), (-6, -25.5 - arch), (10, -26 - arch), (25, -19)])
        line = np.concatenate([line - np.array((0, 0.35 * thick)), (line + np.array((0, 0.65 * thick)))[::-1]])
        line[3] = line[4] = (26, -17.5)
        canvas.shape(line * (side, 1) + place, brow)


def draw_nose_and_mouth(canvas, traits, shade, side, face):
    canvas.soft(side * 9, 12, 3.5, 22, (*shade, 105), blur=5, clip=face)
    canvas.soft(0, 33, 13, 5, (*shade, 105), blur=4, clip=face)
    canvas.soft(-2 * side, 22, 4.5, 7, (255, 250, 240, 120), blur=4, clip=face)
    for nostril in (-1, 1):
        canvas.curve([(nostril * 15, 22), (nostril * 18, 30), (nostril * 12, 34)], (*shade, 200), 1.8)
        canvas.ellipse(nostril * 7.5, 33.5, 3.4, 1.7, (*mix(shade, INK, 0.4), 190))
    up, full, wide = 5 * traits.smile, traits.fullness, 25 + 3 * traits.smile
    corners = [(-wide, 66 - up), (wide, 66 - up)]
    middle = [(-12, 67), (0, 68.5), (12, 67)]
    top = [(wide * 0.5, 62 - 2.5 * full), (5, 62 - 4 * full), (0, 63 - 2.5 * full), (-5, 62 - 4 * full),
           (-wide * 0.5, 62 - 2.5 * full)]  # fmt: skip
    low = [(wide * 0.55, 70 + 4 * full), (0, 70 + 9 * full), (-wide * 0.55, 70 + 4 * full)]
    canvas.soft(0, 84 + 3 * full, 18, 4, (*shade, 120), blur=4, clip=face)
    line = spline([corners[0], *middle, corners[1]])
    canvas.polygon(np.concatenate([line, spline([corners[1], *top, corners[0]])]), mix(traits.lips, (110, 40, 50), 0.2))
    canvas.polygon(np.concatenate([line, spline([corners[1], *low, corners[0]])]), traits.lips)
    canvas.soft(-side * 5, 74, 7, 1.2, (255, 255, 255, 84), blur=2.4)
    canvas.curve([corners[0], *middle, corners[1]], mix(traits.lips, (70, 20, 26), 0.65), 1.7)


def draw_age(canvas, traits, shade, face, rng):
    """Lines of the forehead, round eyes and mouth, bags under the eyes, spots: by how old the person looks."""
    lines = traits.lines
    color = (*mix(shade, (104, 60, 50), 0.45), min(255, round(185 * lines**1.3)))
    for number in range(round(4 * lines)):
        y = -44 - 11 * number
        canvas.curve([(-44 + 3 * number, y + 3), (-18, y - 2), (6, y + rng.uniform(-2, 2)),
                (44 - 3 * number, y + 3)], color, 1.7)  # fmt: skip
    canvas.soft(0, -62, 44, 12, (*shade, round(90 * min(1, lines))), blur=8, clip=face)
    for side in (-1, 1):
        canvas.soft(side * 37, 11, 18, 6, (*mix(shade, (112, 82, 100), 0.5), round(190 * min(1, lines))), blur=5, clip=face)
        canvas.curve([(side * 20, 8), (side * 34, 15), (side * 51, 9)], color, 2)
        canvas.soft(side * 36, 52, 5, 20, (*shade, round(150 * min(1, lines))), blur=6, clip=face)
        canvas.curve([(side * 20, 32), (side * 32, 46), (side * 36, 64)], color, 2.3)
        canvas.curve([(side * 34, 80), (side * 36, 90), (side * 33, 98)], (*color[:3], color[3] // 2), 1.8)
        for number in range(round(3 * lines)):
            canvas.curve([(side * 58, -6 + 4 * number), (side * 65, -8 + 6 * number),
                    (side * 72, -10 + 10 * number)], color, 1.5)  # fmt: skip
    for _ in range(round(9 * max(0, lines - 0.6))):
        canvas.soft(rng.uniform(-66, 66), rng.uniform(-70, 40), 3, 2.4, (*shade, 130), blur=2.4, clip=face)


def draw_beard(canvas, traits, face):
    """Stubble or a beard over chin and upper lip."""
    strength = 235 if traits.beard else round(95 * traits.stubble)
    if strength < 12:
        return
    w, h = traits.head
    beard = canvas.cover()
    beard.shape([(-w, 20), (-w * 0.86, 40), (-46, 56), (-30, 50), (0, 49), (30, 50), (46, 56), (w * 0.86, 40), (w, 20),
                 (w * 1.1, h), (0, h * 1.25), (-w * 1.1, h)], strength)  # fmt: skip
    beard.shape([(-28, 64), (-14, 57), (0, 59), (14, 57), (28, 64), (16, 82), (0, 86), (-16, 82)], 0)
    soft = beard.image.reduce(4).filter(ImageFilter.GaussianBlur(1.5)).resize(face.size, Image.Resampling.BILINEAR)
    canvas.stamp(soft, (0, 0), mix(traits.hair, (214, 212, 212), 0.9 * traits.grey), face)


def hair_color(traits, more=0.0):
    return mix(traits.hair, (218, 217, 219), 0.93 * min(1, traits.grey + more * (traits.grey > 0.08)))


def draw_hair_behind(canvas, traits):
    """Hair behind head and shoulders."""
    (w, h), v = traits.head, traits.volume
    dark = mix(hair_color(traits), (10, 8, 14), 0.13 if traits.style == "perm" else 0.22)
    if traits.style in LONG:
        length = {"straight": 196, "wavy": 184, "bob": 92}[traits.style]
        wave = 9 if traits.style == "wavy" else 0
        flow = [(w + 8 + v, -30), (w + 14 + v + wave, 30), (w + 16 + v - wave, 80)]
        if traits.style != "bob":
            flow += [(w + 18 + v + wave, 130), (w + 10 + v, length - 12)]
        canvas.shape(mirrored([(0, -h - v), (w * 0.72, -h * 0.84 - v), *flow, (w * 0.6, length), (0, length - 8)]), dark)
    elif traits.style == "ponytail":
        canvas.shape([(30, -90), (w + 26, -70), (w + 44, 20), (w + 38, 120), (w + 20, 168), (w + 8, 90), (60, 0)], dark)
    elif traits.style == "bun":
        canvas.ellipse(0, -h - v - 16, 34, 28, dark)
    elif traits.style == "perm":
        for angle in np.radians(np.arange(-205, 30, 15)):
            canvas.ellipse((w + v) * np.cos(angle), (h + v - 6) * np.sin(angle) * 0.94 - 6, 21 + v * 0.4, 21 + v * 0.4, dark)


def draw_hair(canvas, traits, side, rng):
    """Hair over the forehead and at the sides; grey shows first at the temples."""
    (w, h), v = traits.head, traits.volume
    color, temple = hair_color(traits), hair_color(traits, 0.16)
    if traits.style == "bald":
        canvas.soft(-side * 20, -84, 22, 8, (255, 255, 250, 130), blur=9)
        for ear in (-1, 1):
            fuzz = [(0.88, -62), (1.03, -56), (1.09, -26), (1.05, 2), (0.97, 6), (0.95, -24)]
            canvas.shape([(ear * across * w, down) for across, down in fuzz], temple)
        return
    tall = v * (1.8 if traits.style == "quiff" else 1)
    low = {"crop": -6, "quiff": -14}.get(traits.style, -18)
    outer = mirrored([(0, -h - tall), (w * 0.5, -h * 0.94 - tall * 0.95), (w * 0.9, -h * 0.66 - tall * 0.7),
            (w + v * 0.5, -36), (0, low)])  # fmt: skip
    outer = np.concatenate([outer[5:], outer[:4]])  # left to right over the top
    line = -62 - 30 * traits.hairline
    lower = [(across * w, line + down * (1 - 0.5 * traits.hairline)) for across, down in FRINGES[traits.fringe]]
    ends = [(w * 1.03, low), (w * 0.95, low + 2), (w * 0.92, -34)]
    hair = canvas.cover()
    hair.shape([(-w * 1.03, low), *outer, *ends, *lower, *[(-x, y) for x, y in ends[:0:-1]]], 255)
    if traits.style in ("curly", "perm"):
        for angle in np.radians(np.arange(-170, 0, 17)):
            hair.ellipse(w * 0.88 * np.cos(angle), (h - 4) * np.sin(angle) - 4, 19, 17, 255)
    if traits.style in LONG:
        length = {"straight": 178, "wavy": 166, "bob": 86}[traits.style]
        wave = 7 if traits.style == "wavy" else 0
        for ear in (-1, 1):
            lock = [(0.8 * w, -66), (w + v * 0.6, -50), (w + v + 2 + wave, 20), (w + v + 8 - wave, 84), (w + v + 4, length),
                    (w - 8, length - 8), (w + wave, 84), (w * 0.95 - wave * 0.6, 20), (w * 0.9, -30)]  # fmt: skip
            hair.shape([(ear * px, min(py, length)) for px, py in lock], 255)
    canvas.fill(hair.image, color)
    for ear in (-1, 1):
        canvas.soft(ear * w, -26, 9, 24, (*temple, 230), blur=5, clip=hair.image)
    canvas.soft(-side * w * 0.36, -h * 0.9, w * 0.34, 8, (*mix(color, (255, 255, 255), 0.4), 150), blur=8, clip=hair.image)
    canvas.soft(side * w * 0.95, -40, 18, 60, (*mix(color, (0, 0, 10), 0.5), 110), blur=12, clip=hair.image)

    def strands(paint):
        arc = np.array(outer[2:] if traits.fringe == "swept" else outer)
        for _ in range(34):
            share = rng.uniform(0.62, 1.02)
            tone = (250, 250, 250) if rng.random() < 0.35 + 0.4 * traits.grey else (0, 0, 0)
            strand = arc * (share, share * 0.98) + (rng.uniform(-8, 8), 0)
            paint.curve(strand, (*mix(color, tone, rng.uniform(0.12, 0.3)), 120), 1.3)

    canvas.through(hair.image, strands)


def draw_glasses(canvas, traits):
    """Round or square frames."""
    if traits.glasses == "none":
        return
    color = (46, 40, 46) if traits.glasses == "round" else (88, 58, 46)
    if traits.glasses == "round":
        frame = [(27 * np.cos(angle), 24 * np.sin(angle)) for angle in np.linspace(0, 2 * np.pi, 13)]
    else:
        frame = [(-26, -14), (0, -17), (26, -15), (27, 0), (21, 17), (0, 19), (-21, 17), (-27, 0), (-26, -14)]
    for side in (-1, 1):
        rim = np.array(frame) * (side, 1) + (side * 37, -3)
        canvas.polygon(spline(rim), (235, 246, 255, 34))
        canvas.polygon([(side * 37 - 12, -18), (side * 37 - 2, -20), (side * 37 - 14, 12), (side * 37 - 20, 8)],
                (255, 255, 255, 50))  # fmt: skip
        canvas.curve(rim, color, 3)
        canvas.curve([(side * 63, -8), (side * 76, -11), (side * traits.head[0] * 1.02, -13)], color, 3)
    canvas.curve([(-11, -8), (0, -12), (11, -8)], color, 3)
