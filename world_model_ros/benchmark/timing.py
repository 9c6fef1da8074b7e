"""Honest timing on a machine that is never quiet: alternate what is compared, report medians."""

import time
from collections.abc import Callable

import numpy as np
import torch


def alternate(functions: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict:
    """Time each function ``repeats`` times, in turns, after one untimed turn; return {name: ms (repeats,)}.

    In turns, so that a slow minute of the machine slows all of them. On CUDA a call ends when the
    device has done its work.
    """
    taken = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in taken.items()}
