"""The ``import-checkpoint`` verb: a published LeWM folder becomes a checkpoint.

Action statistics and timing are not published with the weights: they come from the episodes that the model
was trained on, or from a file. With wrong ones a planner is worse than chance.
"""

import argparse
from pathlib import Path

from world_model_ros.data import unstated
from world_model_ros.data.normalisation import action_spec
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import check_place, save_checkpoint
from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig
from world_model_ros.model.import_published import CONFIG, WEIGHTS, read_action_stats, read_published
from world_model_ros.training.train import check_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("folder", type=Path, help=f"published folder with {CONFIG} and {WEIGHTS}")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--data", type=Path, nargs="+", help="episode files (.h5) that the published model was trained on"
    )
    parser.add_argument(
        "--action-stats",
        type=Path,
        help="instead of --data, a JSON file with names, kind, unit, mean, std, low, high (and frame) of one "
        "control step",
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="stored weights")
    unstated.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Import and say where the checkpoint is; UserError for anything that does not fit."""
    check_place("--out", arguments.out)
    model, config = read_published(arguments.folder)
    if arguments.data:
        action, period, block, training = _from_data(arguments, config)
    else:
        action, period, block, training = _from_statistics(arguments)
    spec = CheckpointSpec(
        model=config,
        image=ImageSpec(size=config.image_size, resize="bilinear"),
        action=action,
        period=period,
        block=block,
        training={"imported": str(arguments.folder), **training},
    )
    problems = spec.problems()
    if problems:
        raise UserError(f"{arguments.folder} and its actions do not fit together: {'; '.join(problems)}.")
    card = f"# {arguments.out.name}\n\nImported from published LeWM weights, {arguments.folder.name}.\n"
    save_checkpoint(arguments.out, model, spec, card, arguments.dtype)
    print(f"checkpoint: {arguments.out}")
    return 0


def _from_statistics(arguments: argparse.Namespace) -> tuple[ActionSpec, float, int, dict]:
    missing = [f"--{n.replace('_', '-')}" for n in ("action_stats", "period", "block")
               if getattr(arguments, n) is None]  # fmt: skip
    if missing:
        raise UserError(
            f"{', '.join(missing)} must be given, or --data: published weights come without action "
            "statistics and timing, and a planner with the wrong ones is worse than chance."
        )
    return read_action_stats(arguments.action_stats), arguments.period, arguments.block, {}


def _from_data(arguments: argparse.Namespace, config: ModelConfig) -> tuple[ActionSpec, float, int, dict]:
    """Return what the episodes say of the actions; their block follows from the model's width."""
    if arguments.action_stats:
        raise UserError("--data and --action-stats both give the action statistics: leave one out.")
    given = unstated.given(arguments)
    with EpisodeFiles(arguments.data) as file:
        block, rest = divmod(config.action_dim, len(file.attributes["action_names"]))
        if "block" in file.files[0].assumed and block and not rest:
            given.setdefault("block", block)
    with EpisodeFiles(arguments.data, given=given) as file:
        check_data(file)
        attributes = file.attributes
        noted = {"data": file.path.name, "task": attributes.get("task", "")}
        return action_spec(file), float(attributes["period"]), int(attributes["block"]), noted
