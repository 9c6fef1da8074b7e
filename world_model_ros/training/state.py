"""The state of a training on disk, from which it is resumed."""

import json
import os
import pickle
import struct
import zipfile
from dataclasses import MISSING, fields
from pathlib import Path

import torch

from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_pickled

STATE_NAME = "state.pt"
_STEPS = "settings.steps "
# What torch.load and json raise for a file that is missing, cut short, or holds something else (tried with
# 4000 damaged files).
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AssertionError,
)


def write_state(path: Path, values: dict) -> None:
    """Write ``values``; a crash leaves the previous ones."""
    temporary = path.with_suffix(".tmp")
    torch.save(values, temporary)
    os.replace(temporary, path)


def read_state(path: Path, device: torch.device, identity: dict, kinds: dict[str, type]) -> dict:
    """Return what ``write_state`` wrote for a training with this ``identity``.

    ``kinds`` are the dataclasses whose fields stand in the identity under a name: a field that came later
    counts as its default in an older state. The number of steps may be another one. Raises UserError where
    the file is damaged or belongs to another training.
    """
    remedy = "train with --restart to begin again, or choose another --run"
    try:
        state = load_pickled(path, device)
        there = _completed(json.loads(state["identity"]), kinds)
        for name in ("step", "seconds", "model", "optimiser"):
            state[name]
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): {remedy}.") from None
    differing = [d for d in _differences(there, identity) if not d.startswith(_STEPS)]
    if differing:
        raise UserError(f"{path.parent} was started differently ({'; '.join(differing)}): {remedy}.")
    return state


def recorded_settings(folder: Path) -> dict:
    """Return the TrainingSettings of the run in ``folder``, as a dict; empty where no state can be read."""
    return _recorded_identity(folder / STATE_NAME).get("settings", {})


def find_run(parent: Path, identity: dict, kinds: dict[str, type]) -> Path | None:
    """Return the first folder in ``parent`` with the state of the training of ``identity``, if any.

    ``kinds`` as for ``read_state``.
    """
    for path in sorted(parent.glob(f"*/{STATE_NAME}")):
        there = _recorded_identity(path)
        if there and not _differences(_completed(there, kinds), identity):
            return path.parent
    return None


def _recorded_identity(path: Path) -> dict:
    """Return the identity in a state file; empty where none can be read."""
    try:
        state = load_pickled(path, mmap=True)
        identity = json.loads(state["identity"])
        return (
            identity if isinstance(identity, dict) and isinstance(identity.get("settings", {}), dict) else {}
        )
    except UNREADABLE:
        return {}


def _completed(there: dict, kinds: dict[str, type]) -> dict:
    """Return an identity with the defaults of fields that came later than the state it was read from."""
    return {**there, **{name: _defaults(kind) | there.get(name, {}) for name, kind in kinds.items()}}


def _defaults(kind) -> dict:
    """Return a dataclass's defaults: what a field that came later stood for in an older state."""
    values = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    return json.loads(json.dumps(values))


def _differences(there: dict, here: dict, prefix: str = "") -> list[str]:
    differences = []
    for key in sorted(set(there) | set(here)):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            differences.append(f"{prefix}{key} {old!r} there, {new!r} now")
    return differences
