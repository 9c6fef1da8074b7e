"""Training that begins with the weights of a checkpoint instead of random ones."""

import dataclasses
import hashlib
from pathlib import Path

from torch import Tensor

from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import ActionInterface, CheckpointSpec, interface_differences

HEADS = ("temporal", "inverse")  # which learn anew, from the latents that come out


def start_from(
    checkpoint: Path, spec: CheckpointSpec, data: ActionInterface
) -> tuple[CheckpointSpec, dict[str, Tensor], dict]:
    """Return ``spec`` with the model of ``checkpoint``, heads left out, its weights and what it notes.

    Raises UserError where that one's actions mean something else than those of ``data``.
    """
    model, there = load_checkpoint(checkpoint)
    differing = interface_differences(there.interface, data, ("in the checkpoint", "in the data"))
    if differing:
        raise UserError(
            f"{checkpoint} was trained for other actions than the data's: {'; '.join(differing)}. Start from "
            "a checkpoint of the same robot, or without --start."
        )
    bare = dataclasses.replace(there.model, temporal_hidden=0, inverse_hidden=0)
    weights = {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in HEADS}
    return dataclasses.replace(spec, model=bare, image=there.image), weights, there.training


def fingerprint(weights: dict[str, Tensor]) -> str:
    """Return a few digits that other weights would not have."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
