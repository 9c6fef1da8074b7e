"""A function of tensors as a CUDA graph: recorded once for each shape, then replayed without Python.

At the small sizes of planning, launching kernels takes longer than running them; a replay launches all of
them at once. Inputs and outputs stay where they were when it was recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_WARM_UP = 3  # calls before the recording, in which libraries choose their kernels and buffers


@dataclass(frozen=True)
class _Recording:
    inputs: dict[str, Tensor]
    outputs: Callable[[], tuple[Tensor, ...]]


class CaptureError(RuntimeError):
    """A function could not be recorded as a CUDA graph."""


class Recorded:
    """``function(**tensors) -> tuple of tensors``, which must not wait for the device nor draw numbers.

    Without ``record`` the same buffers are filled and the function is called each time: what runs where
    there is no CUDA. What is returned holds until the next call with the same shapes.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], record: bool):
        self.function, self.record = function, record
        self.replayed = False  # whether the last call found a recording
        self._recordings: dict[tuple, _Recording] = {}

    def __call__(self, **tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what the function returns. Raises CaptureError where it cannot be recorded."""
        self.replayed = True
        key = tuple((name, tensor.shape, tensor.dtype) for name, tensor in sorted(tensors.items()))
        recording = self._recordings.get(key)
        if recording is None:
            self.replayed = False
            try:
                recording = self._recordings[key] = self._begin(tensors)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # drivers, libraries and allocators each fail in their own way
                raise CaptureError(str(error)) from error
        for name, tensor in tensors.items():
            recording.inputs[name].copy_(tensor)
        return recording.outputs()

    def _begin(self, tensors: dict[str, Tensor]) -> _Recording:
        inputs = {name: tensor.clone() for name, tensor in tensors.items()}
        if not self.record:
            return _Recording(inputs, lambda: self.function(**inputs))
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                self.function(**inputs)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(**inputs)

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return outputs

        return _Recording(inputs, replay)
