"""Where checkpoints are found: a folder, or the name of one that comes with the package."""

import os
import sys
from pathlib import Path

from world_model_ros.errors import UserError


def _shares() -> list[Path]:
    """Folders that may hold shipped models: the source tree, then every installed prefix."""
    ament = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes = [*Path(__file__).resolve().parents, *ament, sys.prefix]
    shares = [Path(prefix, "share", "world_model_ros", "models") for prefix in prefixes if prefix]
    return [Path(__file__).resolve().parents[2] / "models", *shares]


def find_checkpoint(name: str | Path) -> Path:
    """Return the folder of a checkpoint given as a path or as the name of a shipped one.

    Raises UserError that lists the shipped names when there is neither.
    """
    if not str(name):
        raise UserError("no checkpoint is given: name a checkpoint folder or a shipped model such as reach.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    shipped = {}
    for share in _shares():
        if share.is_dir():
            for model in sorted(share.iterdir()):
                shipped.setdefault(model.name, model)
    if str(name) in shipped:
        return shipped[str(name)]
    raise UserError(
        f"no checkpoint at {str(name)!r}: give a checkpoint folder, or one of the shipped models "
        f"({', '.join(sorted(shipped)) or 'none is installed'})."
    )
