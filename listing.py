"""What lies in the folders of a folder, looked up by a process of its own while this one does other work.

Names, sizes and times of the contest's 18,900 files take 0.2 s, in which Python's lock would stop every other thread of this
process again and again. So the process is a bare interpreter that runs this file; its answer is of what was there as it began.
"""

import marshal
import operator
import os
import subprocess
import sys


def files(folder):
    """The files in a folder but for dot-files, by name: [os.DirEntry]. OSError when it can't be looked through."""
    found = (entry for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file())
    return sorted(found, key=operator.attrgetter("name"))


def look(root):
    """{folder: {name: (size in bytes, time of the last change in ns)}} of the files in each folder in `root`, names in order.

    Dot-files are passed over, and so are folders that can't be looked through: who needs one is told why when it is read.
    """
    found = {}
    for folder in os.scandir(root):
        try:
            stats = [(entry.name, entry.stat()) for entry in files(folder.path)]
        except OSError:
            continue
        found[folder.name] = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats}
    return found


class Listing:
    """`look(root)` in a process that begins at once; as a context manager, it ends with the block at the latest."""

    def __init__(self, root):
        command = [sys.executable, "-I", "-S", __file__, str(root)]
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **quiet)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()

    def result(self):
        """What was found; nothing where `root` itself can't be read."""
        found = self._process.stdout.read()
        return marshal.loads(found) if self._process.wait() == 0 else {}


if __name__ == "__main__":
    marshal.dump(look(sys.argv[1]), sys.stdout.buffer)
