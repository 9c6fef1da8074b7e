"""The heads of a trained world model: which ones a training gives it, and the two that each planner uses.

The temporal-distance head estimates how many model steps lie between two latents; the inverse-dynamics head
guesses the actions between them. They are small MLPs fitted to the frozen latents of the training episodes.
So are the object distance, the risk and the ensemble's second predictor, which have files of their own.
"""

import argparse
import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from world_model_ros.data.clips import Clips
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import round_weights
from world_model_ros.model.config import MOST_LANDMARKS, CheckpointSpec, RiskSpec
from world_model_ros.model.heads import HORIZON, InverseDynamics, TemporalDistance
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.training.decoder import SIZE, STEPS, WIDTH, decoder_metrics, encode_rows, fit_decoder
from world_model_ros.training.fitting import BATCH, draw, fit, noisy, rows_apart, usable
from world_model_ros.training.landmarks import choose_landmarks, landmark_metrics, warn_of_landmarks
from world_model_ros.training.object_distance import (
    OBJECT_CODE,
    OBJECT_HIDDEN,
    fit_object_distance,
    object_metrics,
    robot_pose,
)
from world_model_ros.training.risk import RISK_HIDDEN, fit_risk, happened_in, risk_metrics
from world_model_ros.training.second_predictor import fit_member, member_error

FRAMES = 250_000  # of the training episodes, encoded for the heads
STORED = "float16"  # type of the weights in the checkpoints that training writes
TEMPORAL_HIDDEN = 256
INVERSE_HIDDEN = 512
LONGEST = 20  # model steps between the two latents of a pair, at most
NEGATIVE_PAIRS = 0.15  # share of pairs whose latents come from two episodes
TEMPORAL_STEPS, INVERSE_STEPS = 3000, 4000  # by default


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how long each head is trained, for ``train`` and ``train-heads``."""
    for name, head, steps in (
        ("temporal", "temporal-distance", TEMPORAL_STEPS),
        ("inverse", "inverse-dynamics", INVERSE_STEPS),
    ):
        parser.add_argument(
            f"--{name}-steps",
            type=int,
            default=steps,
            help=f"steps of the {head} head, 0: no head (default: {steps})",
        )
    parser.add_argument(
        "--object-steps",
        type=int,
        default=0,
        help="steps of the object-distance head, for a robot that moves things; 0: no head",
    )
    parser.add_argument(
        "--ensemble-steps",
        type=int,
        default=0,
        help="steps of a second predictor, which judges plans beside the first one; 0: none",
    )
    parser.add_argument(
        "--decoder-steps",
        "--decoder",
        type=int,
        nargs="?",
        default=0,
        const=STEPS,
        metavar="STEPS",
        help=f"fit a decoder, which shows latents as pictures, for so many steps ({STEPS} where no number is "
        "given)",
    )
    parser.add_argument(
        "--landmarks",
        type=int,
        default=0,
        metavar="NUMBER",
        help="keep so many latents of the data, some hundred, as landmarks on the way to far goals, 0: none",
    )
    parser.add_argument(
        "--risk-steps", type=int, default=0, help="steps of the risk head, which --risk describes; 0: no head"
    )
    parser.add_argument(
        "--risk",
        metavar="EVENT",
        help="an event that must not happen, in terms of a stored state, such as 'glass_z < 0.16'",
    )
    parser.add_argument(
        "--risk-name",
        metavar="SENTENCE",
        help="what monitor_node says when it is imagined, such as 'the glass will fall'",
    )


def steps_of(arguments: argparse.Namespace) -> dict[str, int]:
    """Return the steps of each head; UserError for negative ones, and where an event is not described."""
    steps = {
        name: getattr(arguments, f"{name}_steps")
        for name in ("temporal", "inverse", "object", "ensemble", "risk", "decoder")
    }
    other = arguments.landmarks or any(steps[name] for name in ("object", "ensemble", "risk", "decoder"))
    for name, usual in (("temporal", TEMPORAL_STEPS), ("inverse", INVERSE_STEPS)):
        if steps[name] is None:  # of train-heads, which adds what it is asked for
            steps[name] = 0 if other else usual
    if min(steps.values()) < 0:
        raise UserError(f"{', '.join(f'--{name}-steps' for name in steps)} must not be negative.")
    described = (bool(arguments.risk), bool(arguments.risk_name))
    if described != (steps["risk"] > 0,) * 2:
        raise UserError("give --risk-steps, --risk and --risk-name together, or none of them.")
    if not 0 <= arguments.landmarks <= MOST_LANDMARKS:
        raise UserError(f"--landmarks must be from 0 to {MOST_LANDMARKS}, it is {arguments.landmarks}.")
    return steps | {"landmarks": arguments.landmarks}


def check_landmarks(steps: dict[str, int], temporal: bool) -> None:
    """Raise UserError where landmarks are asked for without a temporal-distance head, given or there."""
    if steps["landmarks"] and not (steps["temporal"] or temporal):
        raise UserError("--landmarks needs the temporal-distance head: give --temporal-steps too.")


def risk_of(arguments: argparse.Namespace) -> RiskSpec:
    """Return the event that the options describe, still without a threshold."""
    return RiskSpec(arguments.risk_name or "", arguments.risk or "")


def add_heads(
    model: LeWorldModel,
    spec: CheckpointSpec,
    file: EpisodeFiles,
    clips: Clips,
    held_out: Clips,
    steps: dict[str, int],
    seed: int,
    risk: RiskSpec | None = None,
) -> tuple[CheckpointSpec, dict[str, float]]:
    """Give ``model`` its heads, rounded as they are stored; return the spec with them and held-out metrics.

    ``steps`` has the steps of the "temporal", "inverse", "object" and "risk" head, of the "ensemble" and of
    the "decoder", 0 for no such head, and the number of "landmarks"; those that are there are chosen anew
    for a new temporal head. ``risk`` is the event of the risk head. ``file`` is where ``clips`` and
    ``held_out`` are from. Raises UserError where it lacks what a head needs: proprio for the object distance,
    states for the risk.
    """
    if not any(steps.values()):
        return spec, {}
    metrics, widths, device = {}, {}, next(model.parameters()).device
    if steps["decoder"]:
        decoder = _rounded(fit_decoder(model, clips, spec.image, steps["decoder"], seed))
        metrics.update(decoder_metrics(model, decoder, held_out, spec.image, seed))
        model.decoder = decoder.to(device)
        widths |= {"decoder_width": WIDTH, "decoder_size": SIZE}
    if any(count for name, count in steps.items() if name != "decoder"):
        latents, blocks, lengths = _by_episode(model, clips, spec)
        unseen = _by_episode(model, held_out, spec)
    if steps["temporal"]:
        head = fit_temporal_distance(latents, lengths, steps["temporal"], seed, TEMPORAL_HIDDEN)
        head = _rounded(head)
        metrics.update(temporal_metrics(head, unseen[0], unseen[2]))
        model.temporal = head.to(device)
        widths["temporal_hidden"] = TEMPORAL_HIDDEN
    if count := steps.get("landmarks") or (spec.model.landmarks if steps["temporal"] else 0):
        temporal = copy.deepcopy(model.temporal).cpu()
        model.landmarks = _rounded(choose_landmarks(temporal, latents, lengths, count, seed)).to(device)
        metrics |= landmark_metrics(model.landmarks)
        widths["landmarks"] = len(model.landmarks.latents)
        warn_of_landmarks(count, widths["landmarks"], metrics["landmarks_joined"])
    if steps["inverse"]:
        head = _rounded(fit_inverse_dynamics(latents, blocks, lengths, steps["inverse"], seed))
        metrics.update(inverse_metrics(head, *unseen))
        model.inverse = head.to(device)
        widths["inverse_hidden"] = INVERSE_HIDDEN
    if steps["object"]:
        robot = robot_pose(file, clips, len(lengths))
        head = _rounded(fit_object_distance(latents, robot, lengths, steps["object"], seed))
        metrics.update(object_metrics(head, unseen[0], unseen[2]))
        model.object = head.to(device)
        widths |= {"object_hidden": OBJECT_HIDDEN, "object_code": OBJECT_CODE}
    if steps.get("ensemble"):
        member = fit_member(model.config, latents, blocks, lengths, steps["ensemble"], seed + 1, device)
        member = _rounded(member.cpu())
        metrics["ensemble_prediction"] = member_error(member, spec.history, *unseen)
        model.ensemble = nn.ModuleList([member]).to(device)
        widths["ensemble"] = 1
    if steps.get("risk"):
        happened = happened_in(file, clips, risk.event, len(lengths))
        head = _rounded(
            fit_risk(model, spec.history, latents, blocks, happened, lengths, steps["risk"], seed)
        )
        labels = happened_in(file, held_out, risk.event, len(unseen[2]))
        threshold, judged = risk_metrics(head, model, spec.history, *unseen[:2], labels, unseen[2])
        metrics.update(judged)
        model.risk = head.to(device)
        widths["risk_hidden"] = RISK_HIDDEN
        spec = dataclasses.replace(spec, risk=dataclasses.replace(risk, threshold=threshold))
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, **widths)), metrics


def fit_temporal_distance(
    latents: Tensor, lengths: np.ndarray, steps: int, seed: int = 0, hidden: int = TEMPORAL_HIDDEN
) -> TemporalDistance:
    """Return a head fitted for ``steps`` steps to latents (N, D), one model step apart, of episodes.

    lengths (E,) are the episodes' numbers of frames, one after the other. The target is the offset
    between two frames of an episode, up to ``LONGEST``; a negative pair, of two episodes, counts as a
    quarter more than that. The error is taken in log(1 + steps): one step matters more among near frames
    than among far ones. Raises ValueError for fewer than two episodes of two frames.
    """
    starts, lengths = usable(lengths)
    if len(lengths) < 2:
        raise ValueError("a temporal distance needs at least two episodes of two frames")
    generator = torch.Generator().manual_seed(seed)
    longest = int(lengths.clamp(max=LONGEST + 1).max()) - 1
    negative_target = torch.tensor(1.25 * longest)

    def loss(head: TemporalDistance) -> Tensor:
        episode = draw(len(lengths), generator)
        offset = draw(lengths[episode].clamp(max=longest + 1), generator)
        first = draw(lengths[episode] - offset, generator)
        negative = torch.rand(BATCH, generator=generator) < NEGATIVE_PAIRS
        # another episode for sure: 1 to E - 1 further on
        other = (episode + 1 + draw(len(lengths) - 1, generator)) % len(lengths)
        goal = torch.where(
            negative, starts[other] + draw(lengths[other], generator), starts[episode] + first + offset
        )
        start = noisy(latents[starts[episode] + first], generator)
        target = torch.where(negative, negative_target, offset.float())
        return (torch.log1p(target) - torch.log1p(head(start, latents[goal]))).square().mean()

    return fit(lambda: TemporalDistance(latents.shape[1], hidden), loss, steps, seed, "temporal distance")


def fit_inverse_dynamics(
    latents: Tensor, blocks: Tensor, lengths: np.ndarray, steps: int, seed: int = 0
) -> InverseDynamics:
    """Return a head fitted for ``steps`` steps to latents (N, D) and the z-scored blocks (N, A) leaving them.

    lengths (E,) are the episodes' numbers of frames, one after the other; the last block of an episode
    is not used. Short arrivals are drawn as often as long ones: log-uniform from 1 to ``LONGEST``.
    Raises ValueError where no episode has two frames.
    """
    starts, lengths = usable(lengths)
    if not len(lengths):
        raise ValueError("inverse dynamics need an episode of two frames")
    generator = torch.Generator().manual_seed(seed)

    def loss(head: InverseDynamics) -> Tensor:
        episode = draw(len(lengths), generator)
        longest = (lengths[episode] - 1).clamp(max=LONGEST)
        arrival = (longest + 1).float().pow(torch.rand(BATCH, generator=generator)).long().clamp(min=1)
        first = starts[episode] + draw(lengths[episode] - arrival, generator)
        start = noisy(latents[first], generator)
        ahead = torch.arange(HORIZON)
        valid = ahead < arrival[:, None]
        taken = blocks[torch.where(valid, first[:, None] + ahead, first[:, None])]
        errors = (head(start, latents[first + arrival], arrival) - taken).square().mean(-1)
        return (errors * valid).sum() / valid.sum()

    size = latents.shape[1], blocks.shape[1], INVERSE_HIDDEN
    return fit(lambda: InverseDynamics(*size), loss, steps, seed, "inverse dynamics")


def temporal_metrics(head: TemporalDistance, latents: Tensor, lengths: np.ndarray) -> dict[str, float]:
    """Return the mean estimate at offsets 0, 1, 5 and 20 of held-out latents, as for the fit."""
    metrics = {}
    for offset in (0, 1, 5, LONGEST):
        rows = rows_apart(lengths, offset)
        if len(rows):
            metrics[f"temporal_{offset}"] = float(head(latents[rows], latents[rows + offset]).mean())
    return metrics


@torch.inference_mode()
def inverse_metrics(
    head: InverseDynamics, latents: Tensor, blocks: Tensor, lengths: np.ndarray
) -> dict[str, float]:
    """Return R2 of the first block at arrivals 1 and 5 on held-out latents, as for the fit."""
    metrics = {}
    for arrival in (1, 5):
        rows = rows_apart(lengths, arrival)
        if not len(rows):
            continue
        guess = head(latents[rows], latents[rows + arrival], torch.full((len(rows),), arrival))[:, 0]
        taken = blocks[rows]
        spread = (taken - taken.mean(0)).square().sum()
        metrics[f"inverse_{arrival}"] = float(1 - (guess - taken).square().sum() / spread)
    return metrics


def _rounded(head: nn.Module) -> nn.Module:
    head.load_state_dict(round_weights(head.state_dict(), STORED))
    return head


def _by_episode(model: LeWorldModel, clips: Clips, spec: CheckpointSpec) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return latents (N, D), the blocks (N, A) leaving them and the episodes' lengths, in model steps.

    Of the first episodes, as many as have ``FRAMES`` frames, at least two.
    """
    rows, lengths = clips.model_steps()
    kept = np.cumsum(lengths) <= FRAMES
    kept[:2] = True
    rows = rows[: lengths[kept].sum()]
    # the last block of an episode may reach past its end: it is not used
    blocks = torch.from_numpy(np.nan_to_num(clips.blocks[rows]))
    return encode_rows(model, clips, spec.image, rows), blocks, lengths[kept]
