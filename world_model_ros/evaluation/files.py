"""Where results go: looked at before the long work, replaced at once after it."""

import json
import os
from pathlib import Path

from world_model_ros.errors import UserError


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
    """Write ``values`` as ``write_text`` does."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that whoever reads ``path`` finds the old file or the new one, never a half.

    Raises UserError where the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error}): choose another place.") from None
    finally:
        temporary.unlink(missing_ok=True)
