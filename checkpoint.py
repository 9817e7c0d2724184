"""The saved state of a fold, last.pt: what --resume needs to go on in the same bits as if nothing had happened.

A `Writer` writes it while the next steps are trained, as torch.distributed.checkpoint's `async_save` does.
"""

import zipfile
from concurrent.futures import ThreadPoolExecutor

import torch

import errors
import experiment
import files
import space
from errors import InputError


class Writer:
    """Files written in a thread while training goes on, those of one `put` after those of the one before.

    What goes wrong is raised where it is waited for: by `wait`, the next `put`, or leaving the context.
    """

    def __init__(self):
        self._thread, self._writing, self._then = ThreadPoolExecutor(1), None, None

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def put(self, write, then=lambda: None):
        """Begin with `write()`, once what was put before is written; `then()` is called by who waits for it."""
        self.wait()
        self._writing, self._then = self._thread.submit(write), then

    @property
    def done(self):
        """Whether something is written that nobody has waited for."""
        return self._writing is not None and self._writing.done()

    def wait(self):
        """Until all is written, and told."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
            self._then()


def copied(state):
    """A state (dicts, lists, tensors and plain values) whose tensors are its own, on the CPU: training does not change them."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


def save_state(run, fold, state):
    """last.pt: what --resume needs (tensors and plain values)."""

    def write(temporary):
        with open(temporary, "wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides the disk's error behind one of its own
                    raise error.__context__ from None
                raise

    files.write_atomic(experiment.fold_dir(run, fold) / "last.pt", write, space.tensor_bytes(state))


def load_state(run, fold):
    """The state of `save`, or None; nothing in the file can run code."""
    path = experiment.fold_dir(run, fold) / "last.pt"
    try:
        with open(path, "rb") as file:  # torch would hide the system's error behind one of its own
            with zipfile.ZipFile(file) as archive:  # torch.load does not look at its checksums
                changed = archive.testzip()
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged pickle can raise anything; nothing of it is used
        if errors.is_out_of_memory(error):
            raise
        raise errors.unreadable(path, error) or damaged_state(path, error) from error
    if changed is not None:
        raise damaged_state(path, f"{changed} in it is not what was written")
    if not isinstance(state, dict):
        raise damaged_state(path, f"holds a {type(state).__name__}")
    return state


def damaged_state(path, error):
    """The InputError of a saved state that can't be gone on from, for the reason `error`."""
    return InputError(f"{path}: damaged ({errors.first_line(error)}); delete it to train this fold anew")


def check_state(state):
    """ValueError unless `state` has the parts of fits.Fit.state_dict, as far as the loop goes by them."""
    kinds = {"model": dict, "optimizer": dict, "scaler": dict, "loss_sum": torch.Tensor, "tail": list, "history": list}
    kinds |= {"epoch": int, "step": int, "seconds": (int, float)}
    for name, kind in kinds.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"its {name} is a {type(state.get(name)).__name__}")
    for row in state["history"]:
        if not isinstance(row, dict) or not set(experiment.LOG_COLUMNS) <= set(row):
            raise ValueError("its history lacks columns of log.csv")


def restore_state(fit, state, path):
    """`fit` goes on from a state that was read from `path`; InputError when it is of another model, or damaged."""
    try:
        check_state(state)
        fit.load_state_dict(state)
    except Exception as error:  # torch says what does not fit in many ways
        if errors.is_out_of_memory(error) or "CUDA error" in str(error):  # of the device, not of the file
            raise
        raise damaged_state(path, error) from error


def epochs_begun(run, fold):
    """The last epoch of which a saved state holds a step; 0 without one, as when another process just ended the fold."""
    state = load_state(run, fold)
    if state is None:
        return 0
    try:
        check_state(state)
    except ValueError as error:
        raise damaged_state(experiment.fold_dir(run, fold) / "last.pt", error) from error
    return state["epoch"] - (state["step"] == 0)
