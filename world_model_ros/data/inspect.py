"""The ``inspect`` verb: what an episode file or a checkpoint folder holds."""

import argparse
from pathlib import Path

import numpy as np

from world_model_ros.data.assembly import FAILURE, NO_LABEL, SUCCESS
from world_model_ros.data.curate.checks import coverage, file_warnings
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.lock import parts_of
from world_model_ros.data.recognise import hint
from world_model_ros.data.words import between, plural
from world_model_ros.errors import UserError
from world_model_ros.model.config import CARD_NAME, read_spec

LONGEST_CARD = 100_000  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("path", type=Path, help="an episode file (.h5) or a checkpoint folder")


def run(arguments: argparse.Namespace) -> int:
    """Print a summary; UserError for anything that is neither."""
    other = hint(arguments.path)
    if other:
        raise UserError(other)
    if not arguments.path.exists() and not parts_of(arguments.path).is_dir():
        raise UserError(
            f"there is nothing at {arguments.path}, neither an episode file nor a checkpoint: check the path."
        )
    print(describe_checkpoint(arguments.path) if arguments.path.is_dir() else describe_file(arguments.path))
    return 0


def describe_file(path: Path) -> str:
    """Return a summary of an episode file, a line per fact, and warnings of what may spoil a training."""
    with EpisodeFile(path) as file:
        attributes, lengths = file.attributes, file.lengths
        seconds = float((lengths - 1).sum()) * attributes["steps_per_row"] * attributes["period"]
        lines = [
            f"{path}: {plural(len(file), 'episode')} of {between(lengths.min(), lengths.max(), 'frame')}, "
            f"{lengths.sum()} in all, {seconds / 60:.1f} minutes{_assumed(file, 'period')}",
            f"frames: {'x'.join(map(str, file.frame_shape))}",
        ]
        lines += [f"{key}: {attributes[key]}{_assumed(file, key)}" for key in sorted(attributes)]
        lines += [f"note: {note}" for note in file.notes]
        labels = file.labels
        if np.any(labels != NO_LABEL):
            counts = [int((labels == value).sum()) for value in (SUCCESS, FAILURE, NO_LABEL)]
            lines.append(f"labels: {counts[0]} success, {counts[1]} failure, {counts[2]} none")
        try:
            lines += [*filter(None, [coverage(file)]), *(f"warning: {text}" for text in file_warnings(file))]
        except UserError:
            raise
        except Exception as error:  # a damaged file may hold anything anywhere
            raise UserError(f"{path} is damaged ({error}): copy or record it again.") from None
    return "\n".join(lines)


def _assumed(file: EpisodeFile, key: str) -> str:
    return " (assumed: the file does not say it)" if key in file.assumed else ""


def describe_checkpoint(folder: Path) -> str:
    """Return a summary of a checkpoint folder, a line per fact, and its card."""
    spec = read_spec(folder)
    action = spec.action
    lines = [
        f"{folder}: {spec.model.encoder} encoder, {spec.image.size} px, latent {spec.model.latent_dim}, "
        f"history {spec.history}",
        f"model step: {spec.block} control steps of {spec.period} s",
        f"action: {action.kind} in {action.unit}, {action.frame or 'no frame'}",
    ]
    for i, name in enumerate(action.names):
        lines.append(
            f"  {name}: {action.low[i]:g} to {action.high[i]:g}, "
            f"mean {action.mean[i]:.4g}, std {action.std[i]:.4g}"
        )
    lines.append(f"thresholds: {spec.thresholds}")
    if spec.robot.name or spec.robot.camera:
        lines.append(
            f"robot: {spec.robot.name}, camera {spec.robot.camera} {spec.robot.camera_topic}".rstrip()
        )
    card = folder / CARD_NAME
    if card.is_file():
        with card.open(errors="replace") as file:
            lines += ["", file.read(LONGEST_CARD).rstrip()]
    return "\n".join(lines)
