"""Damaged and odd inputs, made by code: images and csv files as disks, spreadsheets and cameras leave them, and worse.

    python tests/damaged.py DIR

writes them all into a folder, to try a command on them by hand. `IMAGES` and `TABLES` say what is to be read or said of each.
"""

import csv
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
# Where the bright half of a picture is to be seen, of those that are read.
LEFT, TOP, RIGHT, BOTTOM = "left", "top", "right", "bottom"


# ---- images --------------------------------------------------------------------------------------------------------


def half(mode="L"):
    """A picture whose left half is bright."""
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    pixels[:, : SIDE // 2] = 200
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind, **options):
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def whole(kind):
    """The bytes of a picture in a format, as it should be."""
    return encoded(half("RGB"), kind, **({"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}))


def turned(orientation):
    """A JPEG that a camera says to show turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(half("RGB"), "JPEG", quality=95, exif=exif)


def with_alpha(mode):
    image = half(mode)
    image.putalpha(255)
    return encoded(image, "PNG")


def transparent_palette():
    image = half("P")
    image.info["transparency"] = bytes([255] * 256)
    return encoded(image, "PNG", transparency=bytes([255] * 256))


def animated(kind, **options):
    """The picture, then two that are dark all over."""
    dark = Image.new("RGB", (SIDE, SIDE))
    return encoded(half("RGB"), kind, save_all=True, append_images=[dark, dark.point(lambda value: 9)], **options)


def chunk(kind, content):
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, color, rows):
    """The bytes of a PNG of any header, also of one that lies; `rows` are its pixels as stored."""

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def deep_rgb():
    """16 bits a colour, which Pillow can't write."""
    row = struct.pack(">H", 200 * 257) * 3 * (SIDE // 2) + bytes(6 * (SIDE // 2))
    return png(SIDE, SIDE, 16, 2, [row] * SIDE)


def huge_jpeg():
    """A JPEG whose header claims 60,000 x 60,000 pixels."""
    content = bytearray(whole("JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(content)


def broken_exif():
    """A JPEG whose EXIF block points outside of itself."""
    content = turned(6)
    start = content.index(b"Exif\0\0") + 6
    return content[: start + 4] + b"\xff\xff\xff\x0f" + content[start + 8 :]


def beside_png(*chunks, end=b""):
    """A PNG with chunks before its pixels, and one after them."""
    content = whole("PNG")
    return content[:33] + b"".join(chunks) + content[33:-12] + end + content[-12:]


def beside_jpeg(code, block):
    """A JPEG with an application segment before all others."""
    content = whole("JPEG")
    return content[:2] + bytes((0xFF, code)) + struct.pack(">H", len(block) + 2) + block + content[2:]


def exif_beside(tag, kind, count, value, end=b""):
    """An EXIF block that says to show a picture turned (6), with another tag before or after that; `end` are its last bytes."""
    entries = sorted([(0x112, 3, 1, struct.pack("<HH", 6, 0)), (tag, kind, count, value)])
    content = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + content + end


ODD = (0x11A, 10, 1, struct.pack("<I", 38))  # the resolution -1 / 0, which Pillow can't write again
HUGE_TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))
HUGE_PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**21)))
ON_ITS_SIDE = exif_beside(*ODD, bytes(4) + struct.pack("<ii", -1, 0))
PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(/tmp/owned) (w) file closefile\nshowpage\n"
# {file name: (its content, where the bright half is seen or what is said)}
IMAGES = {
    "good.jpg": (whole("JPEG"), LEFT),
    "no_bytes.jpg": (b"", "not a readable image (0 bytes"),
    "text.jpg": (b"not a picture", "not a readable image (13 bytes"),
    "page.jpg": (b"<!doctype html><title>404</title>", "not a readable image (33 bytes"),
    "apple_double.jpg": (b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(64), "not a readable image"),
    "program.jpg": (PROGRAM, "cannot identify image file"),
    "half.jpg": (whole("JPEG")[:400], "not a readable image"),
    "half.png": (whole("PNG")[:60], "not a readable image"),
    "half.webp": (whole("WEBP")[:40], "not a readable image"),
    "half.bmp": (whole("BMP")[:900], "not a readable image"),
    "junk_after.jpg": (whole("JPEG") + b"\0junk" * 100, LEFT),
    "zeroed.png": (whole("PNG")[:40] + bytes(len(whole("PNG")) - 40), "not a readable image"),
    "png_inside.jpg": (whole("PNG"), LEFT),
    "jpeg_inside.png": (whole("JPEG"), LEFT),
    "webp_inside.jpeg": (whole("WEBP"), LEFT),
    "bmp_inside.jpg": (whole("BMP"), LEFT),
    "tiff_inside.jpg": (encoded(half("RGB"), "TIFF"), LEFT),
    "upper.JPG": (whole("JPEG"), LEFT),
    "progressive.jpg": (encoded(half("RGB"), "JPEG", quality=95, progressive=True), LEFT),
    "grey.jpg": (encoded(half(), "JPEG", quality=95), LEFT),
    "cmyk.jpg": (encoded(half("CMYK"), "JPEG", quality=95), LEFT),
    "bits.png": (encoded(half("1"), "PNG"), LEFT),
    "palette.png": (encoded(half("P"), "PNG"), LEFT),
    "transparent_palette.png": (transparent_palette(), LEFT),
    "alpha.png": (with_alpha("RGBA"), LEFT),
    "grey_alpha.png": (with_alpha("LA"), LEFT),
    "deep_grey.png": (encoded(Image.fromarray(np.asarray(half()).astype(np.uint16) * 257), "PNG"), LEFT),
    "deep_rgb.png": (deep_rgb(), LEFT),
    "animated_gif.jpg": (animated("GIF"), LEFT),
    "animated_png.jpg": (animated("PNG"), LEFT),
    "animated_webp.jpg": (animated("WEBP", lossless=True), LEFT),
    "two_in_one.jpg": (animated("MPO", quality=95), LEFT),
    "huge.png": (png(60_000, 60_000, 8, 2, [b""]), "Image size (3600000000 pixels) exceeds limit"),
    "huge.jpg": (huge_jpeg(), "Image size (3600000000 pixels) exceeds limit"),
    "no_width.png": (png(0, 10, 8, 2, [b""]), "not a readable image"),
    "mirrored.jpg": (turned(2), RIGHT),
    "upside_down.jpg": (turned(3), RIGHT),
    "on_its_side.jpg": (turned(6), TOP),
    "on_its_other_side.jpg": (turned(8), BOTTOM),
    "no_such_turn.jpg": (turned(9), LEFT),
    "broken_exif.jpg": (broken_exif(), LEFT),
    "broken_exif.png": (beside_png(chunk(b"eXIf", b"junk")), LEFT),
    "broken_exif.webp": (encoded(half("RGB"), "WEBP", lossless=True, exif=b"junk"), LEFT),
    "odd_exif.jpg": (beside_jpeg(0xE1, ON_ITS_SIDE), TOP),
    "odd_exif.webp": (encoded(half("RGB"), "WEBP", lossless=True, exif=ON_ITS_SIDE), TOP),
    "huge_profile.png": (beside_png(HUGE_PROFILE, chunk(b"eXIf", ON_ITS_SIDE[6:])), TOP),
    "huge_text_at_the_end.png": (beside_png(chunk(b"eXIf", ON_ITS_SIDE[6:]), end=HUGE_TEXT), TOP),
    "사진 1 (복사본).jpg": (whole("JPEG"), LEFT),
    "a 'quoted' \"name\" <b>.jpg": (whole("JPEG"), LEFT),
    "-n.jpg": (whole("JPEG"), LEFT),
}


# ---- tables --------------------------------------------------------------------------------------------------------


def text_of(rows):
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


PEOPLE = [("id", "gender", "race", "age", "path")]
PEOPLE += [
    (f"{number:06d}", gender, "Asian", age, f"{number:06d}_{gender}_Asian_{age}")
    for number, (gender, age) in enumerate([("male", 22), ("female", 29), ("male", 45), ("female", 60), ("male", 60)], start=1)
]
NAMES = [f"{number:040x}.jpg" for number in range(1, 5)]
OOF = [("image", "path", "fold", "target", "p0", "p1")]
OOF += [(f"{row[4]}/normal.jpg", row[4], number % 2, number % 2, 0.25, 0.75) for number, row in enumerate(PEOPLE[1:])]
LOG = [("fold", "epoch", "lr", "train_loss", "val_loss", "val_f1", "val_acc", "seconds", "images_per_second")]
WHOLE = {
    "train.csv": text_of(PEOPLE),
    "info.csv": text_of([("ImageID", "ans"), *((name, 0) for name in NAMES)]),
    "submission.csv": text_of([("ImageID", "ans"), *zip(NAMES, (0, 7, 13, 17))]),
    "oof.csv": text_of(OOF),
    "eval.csv": text_of([("ImageID", "p0", "p1"), *((name, 0.5, 0.5) for name in NAMES)]),
    "folds.csv": text_of([("path", "fold"), *((row[4], number % 2) for number, row in enumerate(PEOPLE[1:]))]),
    "log.csv": text_of([*LOG, (0, 1, 0.001, 1.5, 1.25, 0.5, 0.5, 3.25, 100.0), (0, 2, 0.001, 1.25, 1.0, 0.75, 0.5, 3.0, 99.5)]),
    "fixes.csv": "path,column,value,confidence\n000001,gender,female,1\n000002_female_Asian_29,age,31,0.95\n",
}


def changed(old, new, count=1):
    """A change of a text: `old` becomes `new`, the first `count` times (-1: always)."""

    def change(text):
        assert old in text
        return text.replace(old, new, count)

    return change


def lines(*picked):
    """A change of a text: only these of its lines, in this order."""
    return lambda text: "".join(text.splitlines(keepends=True)[number] for number in picked)


def below(change):
    """A change of what stands under the header."""
    return lambda text: text.partition("\n")[0] + "\n" + change(text.partition("\n")[2])


def columns(change):
    """A change of a csv's rows, a function of a row."""
    return lambda text: text_of(map(change, csv.reader(io.StringIO(text))))


def separated(sign):
    return changed(",", sign, -1)


def in_encoding(name, korean="홍길동"):
    """A csv with a Korean or accented name in a column of its own, in an encoding."""

    def change(text):
        rows = [[*row, korean if number else "name"] for number, row in enumerate(csv.reader(io.StringIO(text)))]
        return text_of(rows).encode(name)

    return change


def quoted(text):
    return "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()) + "\n"


SAME = object()  # what is read is what the whole file says
# (file, what is done, change of its text (to text or bytes), SAME, how many rows are read, or what is said: with the file, and the
# line if there is one)
TABLES = [
    # every reader alike
    *((file, "byte order mark and Windows line ends", lambda text: ("\ufeff" + text.replace("\n", "\r\n")), SAME) for file in WHOLE),
    *((file, "semicolons", separated(";"), "line 1: semicolons between the fields; save it with commas") for file in WHOLE),
    *((file, "cut to nothing", lambda text: "", "is empty; a csv with the columns") for file in WHOLE),
    *((file, "UTF-16", lambda text: text.encode("utf-16"), "line 1: not in UTF-8 (byte 0xff); save it as CSV UTF-8") for file in WHOLE),
    *((file, "header alone", lines(0), "no rows under the header") for file in WHOLE),
    *((file, "spaces around the fields", columns(lambda row: [f" {cell}  " for cell in row]), SAME) for file in WHOLE),
    # how it is written
    ("train.csv", "tabs", separated("\t"), "line 1: tabs between the fields"),
    ("train.csv", "every field in quotes", quoted, SAME),
    ("oof.csv", "every field in quotes", quoted, SAME),
    ("train.csv", "line ends of old Macs", changed("\n", "\r", -1), SAME),
    ("train.csv", "blank lines", changed("\n", "\n\n  \n", -1), SAME),
    ("oof.csv", "blank lines", changed("\n", "\n\n  \n", -1), SAME),
    ("train.csv", "a blank line before the bad one", changed("\n000003,male", "\n\n000003,mal"), "line 5: gender 'mal'"),
    ("oof.csv", "a blank line before the bad one", changed("0.75\n", "0.75\n\n", 2), SAME),
    ("train.csv", "no line end at the end", str.rstrip, SAME),
    ("train.csv", "columns in another order", columns(lambda row: row[::-1]), SAME),
    ("train.csv", "an index column", columns(lambda row: ["", *row]), SAME),
    ("oof.csv", "NUL bytes", changed("0.25", "0.2\0", 2), "line 2: p0 '0.2\\x00' is not a number from 0 on"),
    ("train.csv", "UTF-16 without its mark", lambda text: text.encode("utf-16-le"), "column 'id' is missing"),
    ("train.csv", "a Korean name in cp949", in_encoding("cp949"), "line 2: not in UTF-8 (byte 0xb1); save it as CSV UTF-8"),
    ("train.csv", "an accent in latin-1", in_encoding("latin-1", "né"), "line 2: not in UTF-8 (byte 0xe9)"),
    ("train.csv", "a Korean name in UTF-8", in_encoding("utf-8"), SAME),
    ("train.csv", "a quote that never ends", changed("male", '"male'), "not a readable csv (unexpected end of data)"),
    ("train.csv", "a line break in a name", changed("Asian,45", '"As\nian",4x'), "line 4: age '4x'"),
    ("train.csv", "a line break in a name above the bad one", lambda text: text.replace("Asian,22", '"As\nian",22').replace(",45,", ",4x,"), "line 4: age '4x'"),
    ("train.csv", "a line break in a name above", changed("Asian,22", '"As\nian",22'), SAME),
    ("train.csv", "a comma at the end of every row", changed("\n", ",\n", -1), SAME),
    ("train.csv", "a comma at the end of all rows but the header", below(changed("\n", ",\n", -1)), "line 2: 6 fields under a header of 5"),
    ("oof.csv", "a comma at the end of all rows but the header", below(changed("\n", ",\n", -1)), "line 2: 7 fields under a header of 6"),
    ("oof.csv", "one field too many", changed("0.75\n", "0.75,1\n"), "line 2: 7 fields under a header of 6"),
    ("train.csv", "cut within the last row", lambda text: text[:-30], "line 6: 3 fields under a header of 5; a comma too many, or cut short?"),
    ("oof.csv", "cut within the last row", lambda text: text[:-12], "line 6: 4 fields under a header of 6"),
    ("info.csv", "is a folder", None, "not readable (Is a directory)"),
    # train.csv
    ("train.csv", "a column renamed", changed("gender", "sex"), "column 'gender' is missing, found id,sex,race,age,path"),
    ("train.csv", "capitals in the header", changed("gender", "Gender"), "column 'gender' is missing, found id,Gender,race,age,path. Did you mean Gender?"),
    ("train.csv", "a column twice", changed("race", "age"), "line 1: column 'age' stands twice"),
    ("train.csv", "no header", lambda text: text.partition("\n")[2], "column 'id' is missing, found 000001,male"),
    ("train.csv", "a row twice", changed("000002,female,Asian,29,000002_female_Asian_29\n", "000002,female,Asian,29,000002_female_Asian_29\n" * 2), "line 4: path '000002_female_Asian_29' stands twice"),
    ("train.csv", "fewer rows", lines(0, 1, 2, 4, 5), 4),
    ("train.csv", "a decimal point from an empty cell elsewhere", columns(lambda row: [*row[:3], row[3] + ".0" * row[3].isdigit(), row[4]]), SAME),
    ("train.csv", "a decimal age", changed(",45,", ",45.5,"), "line 4: age '45.5' is not a whole number from 0 to 120"),
    ("train.csv", "a negative age", changed(",45,", ",-45,"), "line 4: age '-45' is not"),
    ("train.csv", "an age that is no number", changed(",45,", ",NaN,"), "line 4: age 'NaN' is not"),
    ("train.csv", "no age", changed(",45,", ",,"), "line 4: age '' is not"),
    ("train.csv", "an age with an exponent", changed(",45,", ",4.5E+01,"), "line 4: age '4.5E+01' is not"),
    ("train.csv", "an age in another script", changed(",45,", ",²,"), "line 4: age '²' is not"),
    ("train.csv", "an age of thousands of digits", changed(",45,", f",{'9' * 5000},"), "line 4: age '999"),
    ("train.csv", "an age of 121", changed(",45,", ",121,"), "line 4: age '121' is not"),
    ("train.csv", "an unknown gender", changed("3,male", "3,unknown"), "line 4: gender 'unknown' is neither male nor female"),
    ("train.csv", "a gender with a space", changed("3,male", "3,male "), SAME),
    ("train.csv", "a row of commas", lambda text: text + ",,,,\n", "line 7: id is empty; fill it in, or delete the row"),
    ("train.csv", "no id", changed("\n000003,", "\n,"), "line 4: id is empty; fill it in, or delete the row"),
    ("train.csv", "an id as a spreadsheet's number", changed("\n000003,", "\n1E+05,"), "line 4: id '1E+05' was made a number, as in a spreadsheet; take the original"),
    ("train.csv", "an id as a program's number", changed("\n000003,", "\n1.23457e+17,"), "line 4: id '1.23457e+17' was made a number"),
    ("train.csv", "an id of hexadecimal digits", changed("\n000003,", "\n1e05,"), 5),
    ("train.csv", "a path that is the folder above", changed(",000003_male_Asian_45", ",.."), "line 4: path '..' is not the name of a folder in train/images"),
    ("train.csv", "a path that climbs out", changed(",000003_male", ",../000003_male"), "line 4: path '../000003_male_Asian_45' is not the name of a folder in train/images"),
    ("train.csv", "a path from the root", changed(",000003_male", ",/etc/000003_male"), "line 4: path '/etc/000003_male_Asian_45' is not the name"),
    ("train.csv", "a person twice, as a/", lambda text: f"{text}999999,male,Asian,45,{PEOPLE[3][4]}/\n", f"line 7: path '{PEOPLE[3][4]}/' is not the name of"),
    ("train.csv", "paths that differ by a space within", lambda text: text + "7,male,Asian,45,a b\n8,male,Asian,45,a  b\n", 7),
    ("train.csv", "no path", changed(",000003_male_Asian_45", ","), "line 4: path is empty"),
    # info.csv
    ("info.csv", "a row twice", lines(0, 1, 2, 1), f"line 4: ImageID '{NAMES[0]}' stands twice"),
    ("info.csv", "a name with a path", changed(NAMES[1], f"../images/{NAMES[1]}"), f"line 3: image '../images/{NAMES[1]}' is no file in"),
    ("info.csv", "a name that is not there", changed(NAMES[1], "x.jpg"), "line 3: image 'x.jpg' is no file in"),
    ("info.csv", "an empty name", changed(NAMES[1], ""), "line 3: ImageID is empty; fill it in, or delete the row"),
    ("info.csv", "only the names", columns(lambda row: row[:1]), SAME),
    # submissions
    ("submission.csv", "an index column", columns(lambda row: ["", *row]), SAME),
    ("submission.csv", "answers as decimals", changed("\n", ".0\n", -1), "column 'ans' is missing, found ImageID,ans.0. Did you mean ans.0?"),
    ("submission.csv", "answers as decimals, with its header", columns(lambda row: [row[0], row[1] + ".0" * row[1].isdigit()]), SAME),
    ("submission.csv", "another order", lines(0, 4, 3, 2, 1), "reordered"),
    ("submission.csv", "a row twice", lines(0, 1, 2, 3, 3), f"line 5: ImageID '{NAMES[2]}' stands twice"),
    ("submission.csv", "an answer lost", changed(",13", ","), "line 4: ans '' is not a label; allowed: 0 to 17"),
    ("submission.csv", "an answer of 18", changed(",13", ",18"), "line 4: ans '18' is not a label"),
    ("submission.csv", "a negative answer", changed(",13", ",-1"), "line 4: ans '-1' is not a label"),
    ("submission.csv", "half an answer", changed(",13", ",12.5"), "line 4: ans '12.5' is not a label"),
    ("submission.csv", "words for answers", changed(",13", ",male"), "line 4: ans 'male' is not a label"),
    ("submission.csv", "the column of info.csv renamed", changed("ImageID", "ImageId"), "column 'ImageID' is missing, found ImageId,ans. Did you mean ImageId?"),
    ("submission.csv", "rows of commas", lambda text: text + ",\n,\n", "line 6: ImageID is empty; fill it in, or delete the row"),
    ("submission.csv", "a row twice, once with a space", lambda text: f"{text}{NAMES[2]} ,1\n", f"line 6: ImageID '{NAMES[2]}' stands twice"),
    ("submission.csv", "a space within a name", changed(NAMES[1], f"{NAMES[1][:9]} {NAMES[1][9:]}"), 4),
    # predictions
    ("oof.csv", "extra columns", columns(lambda row: [*row, "x"]), SAME),
    ("oof.csv", "fewer rows", lines(0, 1, 2, 4), 3),
    ("oof.csv", "a probability lost", changed("0.25", "", 1), "line 2: p0 '' is not a number from 0 on"),
    ("oof.csv", "a probability that is no number", changed("0.25", "nan"), "line 2: p0 'nan' is not a number from 0 on"),
    ("oof.csv", "an infinite probability", changed("0.75", "inf"), "line 2: p1 'inf' is not"),
    ("oof.csv", "a negative probability", changed("0.75\n00", "-0.75\n00"), "line 2: p1 '-0.75' is not"),
    ("oof.csv", "a decimal comma", changed("0.75", '"0,75"'), "line 2: p1 '0,75' is not"),
    ("oof.csv", "a word for a probability", changed("0.75", "high"), "line 2: p1 'high' is not"),
    ("oof.csv", "a row of zeros", changed("0.25,0.75", "0,0"), "line 2: p0 to p1 sum to 0, not to 1; of logits take the softmax"),
    ("oof.csv", "logits", changed("1,1,0.25,0.75", "1,1,3,0.2"), "line 3: p0 to p1 sum to 3.2, not to 1; of logits take the softmax"),
    ("oof.csv", "probabilities of three digits", changed("0.25,0.75", "0.25,0.751", -1), 5),
    ("oof.csv", "a class that is not there", changed(",0,0,0.25", ",0,2,0.25"), "line 2: target 2 is none of 0 to 1"),
    ("oof.csv", "half a class", changed(",0,0,0.25", ",0,0.5,0.25"), "line 2: target 0.5 is none of 0 to 1"),
    ("oof.csv", "a fold that is none", changed(",0,0,0.25", ",a,0,0.25"), "line 2: fold 'a' is not a number from 0 on"),
    ("oof.csv", "no column of classes", changed("target", "truth"), "column 'target' is missing"),
    ("oof.csv", "of another target", changed("p1", "p2"), "column 'p1' is missing, found image,path,fold,target,p0,p2. Did you mean p2 or p0?"),
    ("oof.csv", "a row twice", lines(0, 1, 2, 2), "line 4: image '000002_female_Asian_29/normal.jpg' stands twice"),
    ("eval.csv", "a row twice", lines(0, 1, 2, 2), f"line 4: ImageID '{NAMES[1]}' stands twice"),
    ("eval.csv", "a negative probability", changed("0.5,0.5", "-0.5,1.5"), "line 2: p0 '-0.5' is not"),
    ("eval.csv", "percent", changed("0.5,0.5", "50,50", -1), "line 2: p0 to p1 sum to 100, not to 1"),
    ("eval.csv", "what overflows", changed("0.5,0.5", "1e308,1e308"), "line 2: p0 to p1 sum to inf, not to 1"),
    ("eval.csv", "another order", lines(0, 4, 3, 2, 1), "reordered"),
    # what train.py keeps
    ("folds.csv", "a fold that is none", changed(",1\n", ",x\n"), "folds.csv: damaged (invalid literal for int() with base 10: 'x')"),
    ("folds.csv", "a row twice", lines(0, 1, 2, 2), "line 4: path '000002_female_Asian_29' stands twice"),
    ("log.csv", "a word for a loss", changed("1.25,0.5", "low,0.5"), "log.csv: damaged ("),
    ("log.csv", "an epoch of 20 digits", changed("0,2,", f"0,{10**20},"), "log.csv: damaged ("),
    ("log.csv", "a column renamed", changed("val_f1", "f1"), "column 'val_f1' is missing"),
    # label fixes
    ("fixes.csv", "an id that is not there", changed("\n000001", "\n999999"), "line 2: '999999' is neither a path nor an id"),
    ("fixes.csv", "an unknown column", changed("gender", "race"), "line 2: column 'race' is none of gender, age, mask"),
    ("fixes.csv", "an unknown gender", changed(",female,1", ",woman,1"), "line 2: value 'woman' does not fit gender"),
    ("fixes.csv", "an age as a decimal", changed(",31,", ",31.0,"), SAME),
    ("fixes.csv", "an age that is none", changed(",31,", ",old,"), "line 3: value 'old' does not fit age"),
    ("fixes.csv", "a mask that is not swapped", changed("gender,female", "mask,normal"), "line 2: value 'normal' does not fit mask"),
    ("fixes.csv", "a confidence that is no number", changed("0.95", "nan"), "line 3: confidence 'nan' is not a number from 0 to 1"),
    ("fixes.csv", "a confidence in words", changed("0.95", "sure"), "line 3: confidence 'sure' is not"),
    ("fixes.csv", "a confidence of 7", changed("0.95", "7"), "line 3: confidence '7' is not"),
    ("fixes.csv", "no confidence", changed(",0.95", ","), SAME),
]  # fmt: skip


def write_table(folder, file, change=lambda text: text):
    """Write a table of WHOLE, changed, into a folder (None: a folder takes its place), and return its path."""
    path = Path(folder) / file
    if change is None:
        path.mkdir()
        return path
    content = change(WHOLE[file])
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def main(out):
    """Write all of it."""
    out = Path(out)
    (out / "images").mkdir(parents=True)
    for name, (content, _expected) in IMAGES.items():
        (out / "images" / name).write_bytes(content)
    for number, (file, done, change, _expected) in enumerate(TABLES):
        folder = out / f"{number:03d} {file} {done}"
        folder.mkdir()
        write_table(folder, file, change)


if __name__ == "__main__":
    main(*sys.argv[1:])
