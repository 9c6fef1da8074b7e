"""The state of a training on disk: what it belongs to, and all that it takes to go on."""

import json
import os
from dataclasses import MISSING, fields
from pathlib import Path

import torch

from world_model_ros.errors import UserError

STATE_NAME = "state.pt"


def write_state(path: Path, values: dict) -> None:
    """Write ``values``; a crash leaves the previous ones."""
    temporary = path.with_suffix(".tmp")
    torch.save(values, temporary)
    os.replace(temporary, path)


def read_state(path: Path, device: torch.device, identity: dict, kinds: dict[str, type]) -> dict:
    """Return what ``write_state`` wrote for a training with this ``identity``.

    ``kinds`` are the dataclasses whose fields stand in the identity under a name: a field that came later
    counts as its default in an older state. Raises UserError where the file is damaged or belongs to
    another training.
    """
    remedy = "train with --restart to begin again, or choose another --run"
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        there = json.loads(state["identity"])
        for name in ("step", "seconds", "model", "optimiser"):
            state[name]
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise UserError(f"{path} cannot be read ({type(error).__name__}): {remedy}.") from None
    for name, kind in kinds.items():
        there[name] = _defaults(kind) | there.get(name, {})
    differing = _differences(there, identity)
    if differing:
        raise UserError(f"{path.parent} was started differently ({'; '.join(differing)}): {remedy}.")
    return state


def recorded_settings(folder: Path) -> dict:
    """Return the TrainingSettings of the run in ``folder``, as a dict; empty where no state can be read."""
    try:
        state = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True, mmap=True)
        return dict(json.loads(state["identity"])["settings"])
    except Exception:  # whatever a missing or damaged file makes the reader raise
        return {}


def _defaults(kind) -> dict:
    """Return a dataclass's defaults: what a field that came later stood for in an older state."""
    values = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    return json.loads(json.dumps(values))


def _differences(there: dict, here: dict, prefix: str = "") -> list[str]:
    found = []
    for key in sorted(set(there) | set(here)):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} {old!r} there, {new!r} now")
    return found
