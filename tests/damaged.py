"""Damaged and odd images and csv files, made by code: as disks, spreadsheets and cameras leave them, and worse."""

import csv
import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

SIDE = 32
LEFT, TOP, RIGHT, BOTTOM = "left", "top", "right", "bottom"  # where the bright half is seen of what is read
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def half(mode):
    """A picture whose left half is bright."""
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    pixels[:, : SIDE // 2] = 200
    return Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)


def whole(kind, mode="RGB", **options):
    """The bytes of that picture in a format."""
    stream = io.BytesIO()
    half(mode).save(stream, kind, quality=95, lossless=True, **options)
    return stream.getvalue()


def animated(kind):
    """The bytes of the picture, then of two that are dark all over."""
    dark = Image.new("RGB", (SIDE, SIDE))
    return whole(kind, save_all=True, append_images=[dark, dark.point(lambda value: 9)])


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def png(width, height, depth, pixels):
    """The bytes of a PNG in RGB of any header, also of one that lies, or of 16 bits a colour, which Pillow can't write."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    made = (struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


DEEP_ROW = b"\0" + struct.pack(">H", 200 * 257) * 3 * (SIDE // 2) + bytes(6 * (SIDE // 2))
# An EXIF block that says to show the picture turned (6), and the resolution -1 / 0, which Pillow can't write again.
ON_ITS_SIDE = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + struct.pack("<HHIIIii", 0x11A, 10, 1, 38, 0, -1, 0)
ON_ITS_SIDE = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + ON_ITS_SIDE
POINTS_OUTSIDE = b"Exif\0\0II*\0\xff\xff\xff\x0f"
HUGE_TEXT = PngImagePlugin.PngInfo()
HUGE_TEXT.add(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)), after_idat=True)
PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(/tmp/owned) (w) file closefile\nshowpage\n"
# {file name: (its content, where the bright half is seen or what is said)}; test_images_cut_anywhere has those that are cut
IMAGES = {
    **{f"{kind} inside.jpg": (whole(kind), LEFT) for kind in KINDS},
    **{f"{mode}.png": (whole("PNG", mode), LEFT) for mode in ("1", "L", "P", "LA", "RGBA", "I;16")},
    **{f"{mode}.jpg": (whole("JPEG", mode), LEFT) for mode in ("L", "CMYK")},
    **{f"animated {kind}": (animated(kind), LEFT) for kind in ("GIF", "PNG", "WEBP", "MPO")},
    **{f"turned {turn}": (whole("JPEG", exif=turned(turn)), seen) for turn, seen in ((2, RIGHT), (3, RIGHT), (6, TOP), (8, BOTTOM), (9, LEFT))},
    **{f"broken EXIF {kind}": (whole(kind, exif=POINTS_OUTSIDE), LEFT) for kind in ("JPEG", "PNG", "WEBP")},
    **{f"odd EXIF {kind}": (whole(kind, exif=ON_ITS_SIDE), TOP) for kind in ("JPEG", "PNG", "WEBP")},
    "junk in its EXIF": (whole("WEBP", exif=b"junk"), LEFT),
    "huge profile": (whole("PNG", exif=ON_ITS_SIDE, icc_profile=bytes(2**21)), TOP),
    "huge text at the end": (whole("PNG", exif=ON_ITS_SIDE, pnginfo=HUGE_TEXT), TOP),
    "deep RGB": (png(SIDE, SIDE, 16, DEEP_ROW * SIDE), LEFT),
    "transparent palette": (whole("PNG", "P", transparency=bytes([255] * 256)), LEFT),
    "progressive.JPG": (whole("JPEG", progressive=True), LEFT),
    "-n 사진 (복사본) 'of' \"me\" <b>.jpg": (whole("JPEG") + b"\0junk" * 100, LEFT),
    "no bytes": (b"", "not a readable image (0 bytes"),
    "a page": (b"<!doctype html><title>404</title>", "not a readable image (33 bytes"),
    "a program": (PROGRAM, "cannot identify image file"),
    "huge.png": (png(60_000, 60_000, 8, b"\0"), "Image size (3600000000 pixels) exceeds limit"),
    "no width.png": (png(0, 10, 8, b"\0"), "not a readable image"),
}  # fmt: skip


def text_of(rows, **dialect):
    stream = io.StringIO()
    csv.writer(stream, **{"lineterminator": "\n", **dialect}).writerows(rows)
    return stream.getvalue()


def rows_of(content):
    return list(csv.reader(io.StringIO(content.decode())))


PEOPLE = [(f"{number:06d}", gender, "Asian", age, f"{number:06d}_{gender}_Asian_{age}") for number, gender, age in
          ((1, "male", 22), (2, "female", 29), (3, "male", 45), (4, "female", 60), (5, "male", 60))]  # fmt: skip
NAMES = [f"{number:040x}.jpg" for number in range(1, 5)]
OOF = [(f"{row[4]}/normal.jpg", row[4], number % 2, number % 2, 0.25, 0.75) for number, row in enumerate(PEOPLE)]
LOG = ("fold", "epoch", "lr", "train_loss", "val_loss", "val_f1", "val_acc", "seconds", "images_per_second")
WHOLE = {
    "train.csv": text_of([("id", "gender", "race", "age", "path"), *PEOPLE]),
    "info.csv": text_of([("ImageID", "ans"), *((name, 0) for name in NAMES)]),
    "submission.csv": text_of([("ImageID", "ans"), *zip(NAMES, (0, 7, 13, 17))]),
    "oof.csv": text_of([("image", "path", "fold", "target", "p0", "p1"), *OOF]),
    "eval.csv": text_of([("ImageID", "p0", "p1"), *((name, 0.5, 0.5) for name in NAMES)]),
    "age.csv": text_of([("ImageID", *(f"age_p{age}" for age in range(18, 61))), ("a.jpg", *[0.02] * 42, 0.16)]),
    "pseudo.csv": text_of([("fold", "ImageID", "p0", "p1"), (0, "a.jpg", 0.25, 0.75), (1, "a.jpg", 0.5, 0.5)]),
    "folds.csv": text_of([("path", "fold"), *((row[1], row[2]) for row in OOF)]),
    "log.csv": text_of([LOG, (0, 1, 0.001, 1.5, 1.25, 0.5, 0.5, 3.25, 100.0), (0, 2, 0.001, 1.25, 1.0, 0.75, 0.5, 3.0, 99.5)]),
    "fixes.csv": "path,column,value,confidence\n000001,gender,female,1\n000002_female_Asian_29,age,31,0.95\n",
}


def changed(old, new, count=1):
    """A change of a text: `old` becomes `new`, the first `count` times (-1: always)."""

    def change(text):
        assert old in text
        return text.replace(old, new, count)

    return change


def again(line):
    """A change of a text: one of its lines stands at its end too."""
    return lambda text: text + text.splitlines(keepends=True)[line]


SAME = "what the whole file says"
# (file, change of its text (to text or bytes), SAME, how many rows are read, or what is said with the file and its line)
TABLES = [
    ("train.csv", changed(",", "\t", -1), "line 1: tabs between the fields"),
    ("train.csv", lambda text: text.encode("utf-16"), "line 1: not in UTF-8 (byte 0xff); save it as CSV UTF-8"),
    ("train.csv", lambda text: text.replace("Asian", "한국", 1).encode("cp949"), "line 2: not in UTF-8 (byte 0xc7); save it as CSV UTF-8"),
    ("train.csv", changed("male", '"male'), "not a readable csv (unexpected end of data)"),
    ("train.csv", lambda text: text.replace("Asian,22", '"As\nian",22').replace(",45,", ",4x,"), "line 4: age '4x'"),
    ("train.csv", lambda text: text.replace("\n", ",\n").replace(",\n", "\n", 1), "line 2: 6 fields under a header of 5"),
    ("train.csv", lambda text: text[:-30], "line 6: 3 fields under a header of 5; a comma too many, or cut short?"),
    ("train.csv", changed("race", "age"), "line 1: column 'age' appears twice"),
    ("train.csv", lambda text: text.partition("\n")[2], "column 'id' is missing, found 000001,male"),
    ("train.csv", again(2), "line 7: path '000002_female_Asian_29' appears twice"),
    ("train.csv", changed(",22,", ",22.0,"), SAME),
    ("train.csv", changed(",45,", ",45.5,"), "line 4: age '45.5' is not a whole number from 0 to 120"),
    ("train.csv", changed(",45,", f",{'9' * 5000},"), "line 4: age '999"),
    ("train.csv", changed("3,male", "3,unknown"), "line 4: gender 'unknown' is neither male nor female"),
    ("train.csv", lambda text: text + ",,,,\n", "line 7: id is empty; fill it in, or delete the row"),
    ("train.csv", changed("\n000003,", "\n1.23457e+17,"), "line 4: id '1.23457e+17' was made a number, as in a spreadsheet; take the original"),
    ("train.csv", changed("\n000003,", "\n1e05,"), 5),  # of hexadecimal digits
    ("train.csv", changed(",000003_male", ",../000003_male"), "line 4: path '../000003_male_Asian_45' is not the name of a folder in train/images"),
    ("info.csv", changed(NAMES[1], f"../images/{NAMES[1]}"), f"line 3: image '../images/{NAMES[1]}' is no file in"),
    ("submission.csv", changed(",13", ",13.0"), SAME),
    ("submission.csv", lambda text: f"{text}{NAMES[2]} ,1\n", f"line 6: ImageID '{NAMES[2]}' appears twice"),
    ("submission.csv", changed(",13", ",18"), "line 4: ans '18' is not a label; allowed: 0 to 17"),
    ("submission.csv", changed(",13", ",12.5"), "line 4: ans '12.5' is not a label"),
    ("oof.csv", lambda text: text.replace("\n", ",\n").replace(",\n", "\n", 1), "line 2: 7 fields under a header of 6"),
    ("oof.csv", changed("0.25", "0.2\0", 2), "line 2: p0 "),  # pandas 2 ends a number there
    *(("oof.csv", changed("0.25", text), f"line 2: p0 {text!r} is not a number from 0 on") for text in ("", "nan", "inf", "-0.25")),
    ("oof.csv", changed("0.75", '"0,75"'), "line 2: p1 '0,75' is not a number from 0 on"),
    ("oof.csv", changed("0.25,0.75", "0,0"), "line 2: p0 to p1 sum to 0, not to 1; of logits take the softmax"),
    ("oof.csv", changed("0.25,0.75", "0.25,0.751", -1), 5),  # of three digits
    ("oof.csv", changed(",0,0,0.25", ",0,2,0.25"), "line 2: target 2 is none of 0 to 1"),
    ("oof.csv", changed(",0,0,0.25", ",0,0.5,0.25"), "line 2: target 0.5 is none of 0 to 1"),
    ("oof.csv", changed("p1", "p2"), "column 'p1' is missing, found image,path,fold,target,p0,p2. Did you mean p2 or p0?"),
    ("oof.csv", again(2), "line 7: image '000002_female_Asian_29/normal.jpg' appears twice"),
    ("eval.csv", changed("0.5,0.5", "1e308,1e308"), "line 2: p0 to p1 sum to inf, not to 1"),
    ("folds.csv", changed(",1\n", ",x\n"), "folds.csv: damaged (invalid literal for int() with base 10: 'x')"),
    ("log.csv", changed("1.25,0.5", "low,0.5"), "log.csv: damaged ("),
    ("fixes.csv", changed("\n000001", "\n999999"), "line 2: '999999' is neither a path nor an id"),
    ("fixes.csv", changed("gender", "race"), "line 2: column 'race' is none of gender, age, mask"),
    ("fixes.csv", changed(",female,1", ",woman,1"), "line 2: value 'woman' does not fit gender"),
    ("fixes.csv", changed("gender,female", "mask,normal"), "line 2: value 'normal' does not fit mask"),
    ("fixes.csv", changed(",31,", ",old,"), "line 3: value 'old' does not fit age"),
    ("fixes.csv", changed(",31,", ",31.0,"), SAME),
    ("fixes.csv", changed(",0.95", ","), SAME),
    *(("fixes.csv", changed("0.95", text), f"line 3: confidence '{text}' is not a number from 0 to 1") for text in ("nan", "sure", "7")),
]  # fmt: skip
