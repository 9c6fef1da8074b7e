"""Where results go: looked at before the long work, replaced at once after it."""

import os
import tempfile
from pathlib import Path

from world_model_ros.data.atomic import write_text
from world_model_ros.errors import UserError
from world_model_ros.jsonable import json_text


def check_target(option: str, path: Path) -> None:
    """Raise UserError where no file can be written at ``path``, given by ``option``."""
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{option} {path}: there is no folder {folder}, make it first.")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: name a file.")
    try:  # permissions alone do not tell: root has them all, a read-only disk has them too
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}-", dir=folder))
    except OSError as error:
        raise UserError(
            f"{option} {path}: nothing can be written in {folder} ({error.strerror}): choose another folder."
        ) from None


def write_json(path: Path, values: dict) -> None:
    """Write ``values`` so that whoever reads ``path`` finds the old file or the new one, never a half.

    Infinite numbers and NaN, which JSON does not know, become null. Raises UserError where the disk refuses.
    """
    write_text(path, json_text(values, indent=2) + "\n")
