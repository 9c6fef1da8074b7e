"""The device on which torch computes."""

import torch

from world_model_ros.errors import UserError

DEVICES = ("auto", "cpu", "cuda")


def lost_device(error: BaseException) -> bool:
    """Return whether the GPU's context is gone with this error, so that only a new process helps."""
    accelerator = getattr(torch, "AcceleratorError", None)
    if accelerator is not None and isinstance(error, accelerator):
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def choose_device(name: str, option: str = "--device") -> torch.device:
    """Return a device by its name, ``auto`` being the GPU where torch sees one.

    Raises UserError, naming ``option``, for an unknown one and for a GPU that is not there.
    """
    if name not in DEVICES:
        raise UserError(f"{option} {name!r} is unknown: choose {', '.join(DEVICES)}.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{option} cuda: torch sees no GPU here; use {option} cpu.")
    return torch.device(name)
