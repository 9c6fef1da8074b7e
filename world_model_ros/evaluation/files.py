"""Where results go: looked at before the long work, replaced at once after it."""

import os
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
    if not os.access(folder, os.W_OK):
        raise UserError(f"{option} {path}: nothing can be written in {folder}, choose another folder.")


def write_json(path: Path, values: dict) -> None:
    """Write ``values`` so that whoever reads ``path`` finds the old file or the new one, never a half.

    Infinite numbers and NaN, which JSON does not know, become null. Raises UserError where the disk refuses.
    """
    write_text(path, json_text(values, indent=2) + "\n")
