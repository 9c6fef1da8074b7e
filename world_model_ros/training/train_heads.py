"""The ``train-heads`` verb: what a checkpoint lacks, fitted or measured on episodes while its model stays.

Heads (training/heads.py), and where there are none yet thresholds and the range of light
(training/calibrate.py): for a checkpoint that was imported, or trained before these existed.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from world_model_ros.data.clips import Clips, split_episodes
from world_model_ros.data.frame_cache import cache_where_needed
from world_model_ros.data.normalisation import action_spec, interface_of
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import check_place, choose_device, load_checkpoint, save_checkpoint
from world_model_ros.model.config import (
    CARD_NAME,
    CheckpointSpec,
    Thresholds,
    find_checkpoint,
    interface_differences,
)
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.provenance import command_line, source_commit
from world_model_ros.training.calibrate import calibrate, calibrate_object, measure_light
from world_model_ros.training.card import with_heads
from world_model_ros.training.heads import (
    STORED,
    add_heads,
    add_step_arguments,
    check_landmarks,
    risk_of,
    steps_of,
)
from world_model_ros.training.risk import check_event

HELD_OUT_SHARE, SEED = 0.1, 0  # of a checkpoint that does not say which episodes it held out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--checkpoint", required=True, help="folder or shipped model that gets the heads")
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="episode files (.h5) that it was trained on"
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    add_step_arguments(parser)
    parser.set_defaults(temporal_steps=None, inverse_steps=None)  # 0 where something else is asked for
    for name, kind, value, what in (
        ("--val", float, HELD_OUT_SHARE, "share of the episodes held out"),
        ("--seed", int, SEED, "seed of the heads and of the choice of held-out episodes"),
    ):
        parser.add_argument(
            name,
            type=kind,
            help=f"{what}, for a checkpoint that notes none, such as an imported one: {value}",
        )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 for torch's own choice")


def run(arguments: argparse.Namespace) -> int:
    """Write the checkpoint with heads or a decoder fitted to its data or, if imported, to other data.

    All other weights and the card's text stay as they are; a head with 0 steps stays too. Thresholds and
    the range of light stay where the checkpoint has them, and are measured where it has none. Raises
    UserError where the data is not that of the training.
    """
    if arguments.threads < 0:
        raise UserError("--threads must not be negative.")
    steps = steps_of(arguments)
    check_place("--out", arguments.out)
    source_commit()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    checkpoint = find_checkpoint(arguments.checkpoint)
    model, spec = load_checkpoint(checkpoint, choose_device(arguments.device).type)
    check_landmarks(steps, model.temporal is not None)
    path = checkpoint / CARD_NAME
    card = path.read_text(errors="replace") if path.is_file() else None
    noted = spec.training
    share, seed = _split(arguments, checkpoint, noted)
    try:
        with EpisodeFiles(arguments.data, noted.get("episodes"), noted.get("dropped_actions", ())) as file:
            training, held_out = split_episodes(len(file), share, seed)
            _check_data(file, training, spec, checkpoint)
            frames, size = spec.history + 1, _frame_size(file, spec)
            cache = cache_where_needed(file, size) if size else None
            clips, unseen = (
                Clips(file, spec.action, spec.block, frames, episodes, size, cache)
                for episodes in (training, held_out)
            )
            check_event(file, clips, steps, risk_of(arguments))
            completed, metrics = _completed(model, spec, file, clips, unseen, seed)
            with_all, judged = add_heads(
                model, completed, file, clips, unseen, steps, seed, risk_of(arguments)
            )
            if steps["object"]:
                reached, where = calibrate_object(model, file, unseen, with_all, seed)
                thresholds = dataclasses.replace(with_all.thresholds, object_reached=reached)
                with_all = dataclasses.replace(with_all, thresholds=thresholds)
                judged |= where
    except KeyboardInterrupt:
        print("stopped: nothing is written, and the same command begins again", file=sys.stderr)
        return 130
    command = command_line("train-heads", arguments, add_arguments, leave_out=("threads",))
    made = {"command": command, "commit": source_commit()}
    noted = {**noted, "validation": {**noted.get("validation", {}), **metrics, **judged}}
    if completed is not spec:
        noted["measured"] = made
    if asked := [name for name, count in steps.items() if count]:
        part = asked[0] if asked in (["decoder"], ["ensemble"], ["landmarks"]) else "heads"
        noted[part] = made
        card = None if card is None else with_heads(card, part, made, judged)
    save_checkpoint(arguments.out, model, dataclasses.replace(with_all, training=noted), card, dtype=STORED)
    numbers = {name: value for name, value in judged.items() if isinstance(value, float)}
    words = ", ".join(f"{name} {value:.2f}" for name, value in numbers.items())
    more = "" if completed is spec else "; what was missing of thresholds and light is measured"
    print(f"{words or 'no head was asked for'}{more}; checkpoint: {arguments.out}")
    return 0


def _split(arguments: argparse.Namespace, checkpoint: Path, noted: dict) -> tuple[float, int]:
    """Return the share of held-out episodes and the seed: of the training, or else of the options."""
    if {"held_out_share", "seed"} <= noted.keys():
        if (arguments.val, arguments.seed) != (None, None):
            raise UserError(f"{checkpoint} notes which episodes it held out: leave out --val and --seed.")
        return noted["held_out_share"], noted["seed"]
    share = HELD_OUT_SHARE if arguments.val is None else arguments.val
    seed = SEED if arguments.seed is None else arguments.seed
    if not 0 < share < 1 or seed < 0:
        raise UserError("--val is a share between 0 and 1, --seed is not negative.")
    print(
        f"note: {checkpoint} does not say which episodes it was trained on: {share:g} of those given (--val) "
        "are held out of the heads only, so what is measured on them may be too good",
        file=sys.stderr,
    )
    return share, seed


def _check_data(file: EpisodeFiles, training: list[int], spec: CheckpointSpec, checkpoint: Path) -> None:
    file.assume(spec.interface)
    differing = interface_differences(
        spec.interface, interface_of(file), ("in the checkpoint", "in the data")
    )
    if differing:
        raise UserError(
            f"{file.path} does not fit {checkpoint}: its actions differ: {'; '.join(differing)}. Give the "
            f"data it was trained on ({spec.training.get('data', 'unknown')})."
        )
    if "held_out_share" not in spec.training:
        return  # an imported one: its statistics are those of other data
    action = action_spec(file, training)
    if not all(
        np.allclose(getattr(action, name), getattr(spec.action, name), rtol=1e-4, atol=1e-5)
        for name in ("mean", "std", "low", "high")
    ):
        raise UserError(
            f"{file.path} is not the data of {checkpoint}: its actions differ. Give the file it was trained "
            f"on ({spec.training.get('data', 'unknown')})."
        )


def _frame_size(file: EpisodeFiles, spec: CheckpointSpec) -> int | None:
    """Return the size that frames are read at; None: as they are, the published order resizes later."""
    size = spec.image.size
    return None if spec.image.resize == "bilinear" and file.frame_shape[:2] != (size, size) else size


def _completed(
    model: LeWorldModel, spec: CheckpointSpec, file: EpisodeFiles, clips: Clips, held_out: Clips, seed: int
) -> tuple[CheckpointSpec, dict]:
    """Return ``spec`` with the thresholds and the light that it lacks, and metrics of these thresholds."""
    metrics = {}
    if spec.thresholds == Thresholds():
        thresholds, metrics = calibrate(model, file, held_out, spec, seed)
        spec = dataclasses.replace(spec, thresholds=thresholds)
    if not spec.light.low:
        spec = dataclasses.replace(spec, light=measure_light(clips, seed))
    return spec, metrics
