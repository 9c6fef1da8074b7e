"""The ``train`` verb: episode files in, a checkpoint folder out."""

import argparse
import dataclasses
import hashlib
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from world_model_ros.data import unstated
from world_model_ros.data.clips import Clips, split_episodes
from world_model_ros.data.frame_cache import SHARE, cache_where_needed
from world_model_ros.data.normalisation import action_spec, interface_of
from world_model_ros.data.robot import read_robot
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import (
    build_model,
    check_place,
    choose_device,
    load_checkpoint,
    multiplies_in_bf16,
    round_weights,
    save_checkpoint,
)
from world_model_ros.model.config import (
    CONFIG_NAME,
    ActionInterface,
    CheckpointSpec,
    ImageSpec,
    ModelConfig,
    RobotSpec,
    find_checkpoint,
    interface_differences,
    read_spec,
)
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.provenance import command_line, source_commit
from world_model_ros.training import readiness
from world_model_ros.training.calibrate import calibrate, measure_light
from world_model_ros.training.card import collect_command, write_card
from world_model_ros.training.heads import (
    STORED,
    add_heads,
    add_step_arguments,
    check_landmarks,
    risk_of,
    steps_of,
)
from world_model_ros.training.loop import (
    IDENTITY_KINDS,
    TrainingInterruptedError,
    TrainingRun,
    TrainingSettings,
    identity_of,
)
from world_model_ros.training.metrics import overfits, validate
from world_model_ros.training.metrics_log import delete_metrics
from world_model_ros.training.ranks import Ranks, joined
from world_model_ros.training.risk import check_event
from world_model_ros.training.state import STATE_NAME, find_run

_SIZES = {"small": ModelConfig.small, "medium": ModelConfig.medium, "full": ModelConfig.full}
SEEN_CLIPS = 4000  # of the training episodes, to compare their error with the held-out one
HEADS = (
    "temporal",
    "inverse",
    "object",
    "ensemble",
    "risk",
    "decoder",
    "landmarks",
)  # a training that starts from a checkpoint fits them anew


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    defaults = TrainingSettings()
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="episode files (.h5) that fit together"
    )
    parser.add_argument("--episodes", type=int, help="use the first so many episodes (default: all)")
    parser.add_argument(
        "--drop-actions",
        nargs="+",
        default=[],
        metavar="NAME",
        help="leave out these action dimensions, such as one that never moves",
    )
    parser.add_argument(
        "--memory", type=float, help="gigabytes that frames may take (default: half of what is available)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="where frames that do not fit into memory are written (default: beside the data)",
    )
    parser.add_argument(
        "--robot", type=Path, help="robot file that the data must agree with; the checkpoint remembers it"
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--run",
        type=Path,
        help="folder of the state and the metrics (default: runs/<name of out>, or the folder in runs/ that "
        "has this training already)",
    )
    parser.add_argument(
        "--start",
        metavar="CHECKPOINT",
        help="begin with the weights of this folder or shipped model, and with its size and history",
    )
    parser.add_argument(
        "--restart", action="store_true", help="delete the state of an earlier run instead of resuming it"
    )
    parser.add_argument(
        "--size", choices=_SIZES, default="small", help="small and medium for CPUs, full as published"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of the pictures that the model sees (default: 64, full 224)",
    )
    parser.add_argument("--history", type=int, default=3, help="number of frames that the predictor sees")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="optimiser steps")
    parser.add_argument("--batch", type=int, default=defaults.batch, help="clips of one step")
    parser.add_argument("--lr", type=float, default=defaults.lr, help="peak learning rate")
    parser.add_argument(
        "--sigreg", type=float, default=defaults.sigreg, help="weight of the regulariser SIGReg"
    )
    parser.add_argument(
        "--projections", type=int, default=defaults.projections, help="number of random directions of SIGReg"
    )
    parser.add_argument(
        "--motion",
        type=float,
        default=defaults.motion,
        help="weight of a linear map from latents' change to actions, 0: the published loss",
    )
    parser.add_argument(
        "--augment", type=float, default=defaults.augment, help="probability of each disturbance of a frame"
    )
    add_step_arguments(parser)
    parser.add_argument("--seed", type=int, default=defaults.seed, help="seed of weights, split and batches")
    parser.add_argument("--val", type=float, default=0.1, help="share of the episodes held out")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="number format of the layers"
    )
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 for torch's own choice")
    parser.add_argument("--commit", help="commit to store in the checkpoint (default: from git)")
    unstated.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, or go on with an interrupted training; 130 after Ctrl-C, UserError for bad input."""
    _check(arguments)
    source_commit()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device).type
    given = unstated.given(arguments)
    with (
        joined(device) as ranks,
        EpisodeFiles(arguments.data, arguments.episodes, arguments.drop_actions, given) as file,
    ):
        check_data(file)
        code = _train(arguments, file, device, ranks)
    ranks.leave(code)
    return code


def check_data(file: EpisodeFiles) -> None:
    """Print how the file's numbers are read to stderr; UserError where a model cannot learn from them."""
    for part in file.files:
        known = {name: part.attributes[name] for name in unstated.NEEDED if name not in part.assumed}
        unstated.require(known, str(part.path))
        if part.whole_number_actions:
            raise UserError(
                f"{part.path}: its actions are whole numbers, such as the numbers of discrete choices: a "
                "model plans with continuous ones, so store them as float32 in their unit."
            )
        for note in part.notes:
            print(f"note: {part.path}: {note}", file=sys.stderr)


def _train(arguments: argparse.Namespace, file: EpisodeFiles, device: str, ranks: Ranks) -> int:
    training_episodes, held_out = split_episodes(len(file), arguments.val, arguments.seed)
    spec, weights, before = _spec(arguments, file, training_episodes), None, {}
    if arguments.start:
        spec, weights, before = start_from(find_checkpoint(arguments.start), spec, interface_of(file))
        if arguments.image_size not in (None, spec.image.size):
            raise UserError(
                f"{arguments.start} sees pictures of {spec.image.size} pixels: leave out --image-size, or "
                "--start."
            )
    settings = TrainingSettings(
        steps=arguments.steps,
        batch=arguments.batch,
        lr=arguments.lr,
        sigreg=arguments.sigreg,
        projections=arguments.projections,
        motion=arguments.motion,
        augment=arguments.augment,
        seed=arguments.seed,
        bf16=_bf16(arguments.precision, device, spec.model),
    )
    data = {
        "episodes": len(file),
        "frames": int(file.lengths.sum()),
        "action": dataclasses.asdict(spec.action),
    }
    identity = {"data": data, "val": arguments.val}
    if weights:
        identity["start"] = fingerprint(weights)
    folder = _run_folder(arguments, spec.model, settings, identity)
    if arguments.restart and ranks.rank == 0:
        (folder / STATE_NAME).unlink(missing_ok=True)
        delete_metrics(folder)
    trainer = TrainingRun(folder, spec.model, settings, device, identity, spec.block, weights, ranks)
    if trainer.finished and _exported(arguments, settings, file):
        print(f"{folder} has all {settings.steps} steps done: {arguments.out} (--restart trains again)")
        return 0
    frames, size = spec.history + 1, spec.image.size
    for turn in ranks.turns():  # the first of a machine writes what the others read, too
        if turn == ranks.local_rank:
            memory = None if arguments.memory is None else arguments.memory / ranks.local_size
            cache = cache_where_needed(file, size, memory, arguments.cache, SHARE / ranks.local_size)
    clips = Clips(file, spec.action, spec.block, frames, training_episodes, size, cache)
    validation = Clips(file, spec.action, spec.block, frames, held_out, size, cache)
    check_event(file, clips, steps_of(arguments), risk_of(arguments))
    if len(clips) < settings.batch:
        print(f"note: only {len(clips)} clips, so a step sees all of them", file=sys.stderr)
    if trainer.step and not trainer.finished:
        print(f"going on at step {trainer.step} of {settings.steps}", file=sys.stderr)
        if len(trainer.schedule) > 1 and trainer.schedule[-1][0] == trainer.step:
            print(
                f"note: until now the learning rate was that of {trainer.schedule[-2][1]} steps, from here "
                f"on it is that of {settings.steps}",
                file=sys.stderr,
            )
    try:
        trainer.train(clips, validation, spec.image)
    except TrainingInterruptedError:
        print(
            f"stopped after step {trainer.step}; the same command goes on from there, and with --steps "
            f"{trainer.step} it makes a checkpoint of what is learned so far",
            file=sys.stderr,
        )
        return 130
    if ranks.rank:
        return 0
    spec = dataclasses.replace(spec, training=_provenance(arguments, trainer, file, before))
    try:
        _export(arguments, trainer, spec, file, clips, validation)
    except KeyboardInterrupt:
        print(
            f"stopped before the checkpoint was complete: all {trainer.step} steps are kept in {folder}; the "
            "same command fits the heads from the beginning and writes it",
            file=sys.stderr,
        )
        return 130
    return 0


def start_from(
    checkpoint: Path, spec: CheckpointSpec, data: ActionInterface
) -> tuple[CheckpointSpec, dict[str, Tensor], dict]:
    """Return ``spec`` with the model of ``checkpoint``, without heads, its weights and its notes.

    Raises UserError where its actions mean something else than those of ``data``.
    """
    model, there = load_checkpoint(checkpoint)
    differing = interface_differences(there.interface, data, ("in the checkpoint", "in the data"))
    if differing:
        raise UserError(
            f"{checkpoint} was trained for other actions than the data's: {'; '.join(differing)}. Start from "
            "a checkpoint of the same robot, or without --start."
        )
    bare = dataclasses.replace(
        there.model,
        temporal_hidden=0,
        inverse_hidden=0,
        object_hidden=0,
        object_code=0,
        decoder_width=0,
        decoder_size=0,
        risk_hidden=0,
        ensemble=0,
        landmarks=0,
    )
    weights = {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in HEADS}
    return dataclasses.replace(spec, model=bare, image=there.image), weights, there.training


def fingerprint(weights: dict[str, Tensor]) -> str:
    """Return a short hash of the weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _run_folder(
    arguments: argparse.Namespace, model: ModelConfig, settings: TrainingSettings, identity: dict
) -> Path:
    """Return where the state of the training is or goes.

    By default runs/<name of out>, and where that holds none, the folder in runs/ of the same training:
    another --out does not make it another training.
    """
    if arguments.run:
        return arguments.run
    folder = Path("runs") / arguments.out.resolve().name
    if arguments.restart or (folder / STATE_NAME).exists():
        return folder
    same = find_run(folder.parent, identity_of(model, settings, identity), IDENTITY_KINDS)
    if same is not None:
        print(f"{same} holds the state of this training and is used; --restart trains again", file=sys.stderr)
    return same or folder


def _exported(arguments: argparse.Namespace, settings: TrainingSettings, file: EpisodeFiles) -> bool:
    """Return whether --out is a checkpoint of this training, by what it notes."""
    if not (arguments.out / CONFIG_NAME).is_file():
        return False
    noted = read_spec(arguments.out).training
    ours = {"data": file.path.name, "steps": settings.steps, "batch": settings.batch, "seed": settings.seed}
    return all(noted.get(name) == value for name, value in ours.items())


def _export(
    arguments: argparse.Namespace,
    trainer: TrainingRun,
    spec: CheckpointSpec,
    file: EpisodeFiles,
    clips: Clips,
    held_out: Clips,
) -> None:
    """Add the heads, measure and calibrate the weights as stored, write the checkpoint."""
    state = round_weights(trainer.model.state_dict(), STORED)
    model = build_model(spec.model, state, arguments.out).to(trainer.device).eval()
    metrics = validate(model, held_out, spec.image)
    seen = validate(model, clips, spec.image, clips.some(SEEN_CLIPS, arguments.seed))
    metrics["prediction_seen"] = seen["prediction"]
    steps, risk = steps_of(arguments), risk_of(arguments)
    spec, judged = add_heads(model, spec, file, clips, held_out, steps, arguments.seed, risk)
    metrics.update(judged)
    thresholds, judged = calibrate(model, file, held_out, spec, arguments.seed)
    metrics.update(judged)
    ready = _readiness(arguments, model, spec, file, held_out)
    noted = {**spec.training, "validation": metrics, "readiness": ready}
    light = measure_light(clips, arguments.seed)
    spec = dataclasses.replace(spec, thresholds=thresholds, light=light, training=noted)
    card = write_card(
        arguments.out.resolve().name, spec, file, _commands(spec, file), len(held_out.episodes), metrics
    )
    save_checkpoint(arguments.out, model, spec, card, dtype=STORED)
    print(
        f"{ready['verdict']}\n"
        f"held-out error {metrics['prediction']:.4f}, {metrics['ratio']:.3f} of copying; "
        f"checkpoint: {arguments.out}"
    )
    if overfits(metrics):
        print(
            f"note: the model overfits: its error on training episodes is {metrics['prediction_seen']:.4f}; "
            "more episodes would help",
            file=sys.stderr,
        )


def _readiness(
    arguments: argparse.Namespace,
    model: LeWorldModel,
    spec: CheckpointSpec,
    file: EpisodeFiles,
    held_out: Clips,
) -> dict:
    frames = spec.history + readiness.HORIZON
    try:
        windows = Clips(
            file, spec.action, spec.block, frames, held_out.episodes, spec.image.size, held_out.cache
        )
    except UserError:
        return {"verdict": f"readiness to plan with not judged: no held-out episode has {frames} model steps"}
    return readiness.measure(model, spec, windows, arguments.seed)


def _check(arguments: argparse.Namespace) -> None:
    for name in ("steps", "batch", "projections", "history"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} must be positive, it is {getattr(arguments, name)}.")
    if arguments.batch < 2:
        raise UserError("--batch must be at least 2: SIGReg compares the clips of a batch.")
    if not arguments.lr > 0 or not min(arguments.sigreg, arguments.motion) >= 0:
        raise UserError("--lr must be positive, --sigreg and --motion not negative.")
    if not 0 <= arguments.augment <= 1:
        raise UserError(f"--augment is a probability between 0 and 1, it is {arguments.augment}.")
    if not 0 < arguments.val < 1:
        raise UserError(f"--val is a share between 0 and 1, it is {arguments.val}.")
    if min(arguments.threads, arguments.seed) < 0:
        raise UserError("--threads and --seed must not be negative.")
    check_landmarks(steps_of(arguments), temporal=False)
    if arguments.memory is not None and not arguments.memory >= 0:
        raise UserError(f"--memory is a number of gigabytes, it is {arguments.memory}.")
    if arguments.cache and not arguments.cache.is_dir():
        raise UserError(f"--cache {arguments.cache} is not a folder: make it, or choose another one.")
    if int(os.environ.get("RANK", 0)) == 0:  # of torchrun: the others write nothing
        check_place("--out", arguments.out)
    if arguments.run and arguments.run.exists() and not arguments.run.is_dir():
        raise UserError(f"--run {arguments.run} is not a folder: choose another one.")


def _bf16(precision: str, device: str, model: ModelConfig) -> bool:
    """Return whether bf16 is faster: on GPUs, on CPUs with AMX, and with AVX-512's bf16 where BatchNorm is.

    There the small model's steps took 0.95 to 1.4 times as long in bf16, the medium one's 0.65; without such
    instructions they took 9 times as long.
    """
    if precision != "auto":
        if precision == "bf16" and device == "cpu" and not multiplies_in_bf16():
            print(
                "warning: this processor has no instructions for bf16, so that a step may take several times "
                "as long: leave out --precision, or give --precision fp32.",
                file=sys.stderr,
            )
        return precision == "bf16"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    amx, avx512 = (bool(capabilities.get(name, False)) for name in ("amx_bf16", "avx512_bf16"))
    batched = model.encoder == "conv" and model.encoder_norm == "batch"
    return device == "cuda" or amx or (avx512 and batched)


def _spec(arguments: argparse.Namespace, file: EpisodeFiles, episodes: list[int]) -> CheckpointSpec:
    action = action_spec(file, episodes)
    block = int(file.attributes["block"])
    model = dataclasses.replace(_SIZES[arguments.size](block * action.dim), history=arguments.history)
    if arguments.image_size is not None:
        model = dataclasses.replace(model, image_size=arguments.image_size)
        if model.problems():
            raise UserError(f"--image-size {arguments.image_size}: {'; '.join(model.problems())}.")
    image = ImageSpec(size=model.image_size)
    spec = CheckpointSpec(
        model,
        image,
        action,
        period=float(file.attributes["period"]),
        block=block,
        robot=_robot_spec(arguments.robot, file),
    )
    problems = spec.problems()
    if problems:
        raise UserError(f"{file.path} cannot be trained on: {'; '.join(problems)}.")
    return spec


def _robot_spec(robot_file: Path | None, file: EpisodeFiles) -> RobotSpec:
    """Return the robot of the data. Raises UserError where it is not the one of the robot file."""
    if robot_file is None:
        known = {key: str(file.attributes.get(key, "")) for key in ("robot", "camera")}
        return RobotSpec(name=known["robot"], camera=known["camera"])
    robot = read_robot(robot_file)
    robot.check_data(interface_of(file), file.attributes, file.path)
    return robot.spec


def _provenance(arguments, trainer: TrainingRun, file: EpisodeFiles, before: dict) -> dict:
    """Return the notes on a training for config.json; ``before`` are those of the one it started from."""
    settings = trainer.settings
    earlier = [*before.get("earlier", []), before["command"]] if before.get("command") else []
    noted = ("steps", "batch", "lr", "sigreg", "projections", "motion", "augment", "seed")
    return {
        "task": file.attributes.get("task", ""),
        "data": file.path.name,
        "episodes": len(file),
        "first_episodes": arguments.episodes,
        "dropped_actions": arguments.drop_actions,
        "held_out_share": arguments.val,
        "command": _command(arguments),
        "earlier": earlier,
        "commit": arguments.commit or source_commit(),
        "torch": torch.__version__,
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
        "precision": "bf16" if settings.bf16 else "fp32",
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "minutes": trainer.seconds / 60 + before.get("minutes", 0.0),
        **{name: getattr(settings, name) for name in noted},
        **({"schedule": trainer.schedule} if len(trainer.schedule) > 1 else {}),
        **({"processes": trainer.ranks.size} if trainer.ranks.size > 1 else {}),
    }


def _commands(spec: CheckpointSpec, file: EpisodeFiles) -> list[str]:
    """Return the commands that make the checkpoint, with the collection if `collect` made the data."""
    collected = [command for part in file.files for command in collect_command(part)]
    return [*collected, *spec.training["earlier"], spec.training["command"]]


def _command(arguments: argparse.Namespace) -> str:
    return command_line(
        "train",
        arguments,
        add_arguments,
        leave_out=("restart", "run", "commit", "threads", "memory", "cache"),
    )
