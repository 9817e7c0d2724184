"""Counts what a GPU would begin, on fake CUDA tensors."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Kernels(TorchDispatchMode):
    """`count` of calls that make a tensor on a GPU which is no view and not merely empty, or change a list of tensors at once."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        new = not func.is_view and name not in ("empty", "_unsafe_view") and isinstance(made, torch.Tensor) and made.is_cuda
        self.count += new or name.startswith("_foreach")
        return made
