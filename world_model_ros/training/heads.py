"""Heads on the frozen latents of a trained world model.

The temporal-distance head estimates how many model steps lie between two latents; the inverse-dynamics
head guesses the actions between them; the risk head tells whether an event has happened. They are small MLPs
fitted to the training episodes' latents. The decoder, which shows latents to people, is fitted in
training/decoder.py.
"""

import argparse
import copy
import dataclasses
import math
import operator
import re
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from world_model_ros.data.clips import Clips
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import round_weights
from world_model_ros.model.config import MOST_LANDMARKS, CheckpointSpec, ModelConfig, RiskSpec
from world_model_ros.model.heads import HORIZON, InverseDynamics, ObjectDistance, Risk, TemporalDistance
from world_model_ros.model.lewm import LeWorldModel, Member
from world_model_ros.training.decoder import (
    ENCODED,
    SIZE,
    STEPS,
    WIDTH,
    decoder_metrics,
    encode_rows,
    fit_decoder,
)
from world_model_ros.training.landmarks import choose_landmarks, landmark_metrics
from world_model_ros.training.progress import counted

_JOINED = 0.9  # share of the pairs of landmarks below which there is a warning
FRAMES = 250_000  # of the training episodes, encoded for the heads
STORED = "float16"  # type of the weights in the checkpoints that training writes
TEMPORAL_HIDDEN = 256
INVERSE_HIDDEN = 512
BATCH = 1024
RATE = 1e-3
LONGEST = 20  # model steps between the two latents of a pair, at most
LATENT_NOISE_STD = 0.05  # on the first latent: the ones that a planner predicts are not exact either
# Of the object-distance head: sizes; how far apart in model steps its pairs are; the noise on codes; from
# which squared error of a latent and squared change of a code on a pair hardly counts; the weight of changes;
# the pairs and rounds by which the codes' directions are weighed, and the least variance of changes there.
OBJECT_HIDDEN, OBJECT_CODE, OBJECT_LONGEST = 256, 6, 4
OBJECT_BATCH, OBJECT_RATE = 512, 2e-3
CODE_NOISE_STD, SWAP, CHANGE, SELDOM = 0.1, 0.1, 0.01, 0.04
OBJECT_PAIRS, SCATTER_ROUNDS, LEAST_CHANGE = 60_000, 30, 1e-6
# Of the risk head: its size; how many model steps ahead it learns from what the model imagines; the share of
# held-out futures of that length without the event that may be announced; the least threshold; the noise on
# imagined latents, since those of other episodes than the training's are less exact.
RISK_HIDDEN, RISK_STEPS_AHEAD, RISK_FALSE_ALARMS, LEAST_THRESHOLD = 128, 5, 0.05, 0.2
RISK_NOISE_STD = 0.2
LEAST_SPREAD = 0.05  # of a joint, as a share of the largest one: smaller ones are not scaled up
# Of the second predictor: clips in a batch, the noise on their latents, the gradient's largest norm.
MEMBER_BATCH, MEMBER_RATE, MEMBER_NOISE_STD, MEMBER_CLIP, MEMBER_WARM_UP = 256, 2e-3, 0.02, 1.0, 200
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


def _warn_of_landmarks(asked: int, kept: int, joined: float) -> None:
    if kept < asked:
        print(f"note: there are only {kept} latents for {asked} landmarks", file=sys.stderr)
    if joined < _JOINED:
        print(
            f"warning: a way over recorded steps joins {joined:.0%} of the pairs of landmarks, so often the "
            "planner will aim at the goal alone: record more episodes that lead from place to place",
            file=sys.stderr,
        )


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
        head = _rounded(fit_temporal_distance(latents, lengths, steps["temporal"], seed))
        metrics.update(temporal_metrics(head, unseen[0], unseen[2]))
        model.temporal = head.to(device)
        widths["temporal_hidden"] = TEMPORAL_HIDDEN
    if count := steps.get("landmarks") or (spec.model.landmarks if steps["temporal"] else 0):
        temporal = copy.deepcopy(model.temporal).cpu()
        model.landmarks = _rounded(choose_landmarks(temporal, latents, lengths, count, seed)).to(device)
        metrics |= landmark_metrics(model.landmarks)
        widths["landmarks"] = len(model.landmarks.latents)
        _warn_of_landmarks(count, widths["landmarks"], metrics["landmarks_joined"])
    if steps["inverse"]:
        head = _rounded(fit_inverse_dynamics(latents, blocks, lengths, steps["inverse"], seed))
        metrics.update(inverse_metrics(head, *unseen))
        model.inverse = head.to(device)
        widths["inverse_hidden"] = INVERSE_HIDDEN
    if steps["object"]:
        robot = _proprio(file, clips, len(lengths)), _proprio(file, held_out, len(unseen[2]))
        head = _rounded(fit_object_distance(latents, robot[0], lengths, steps["object"], seed))
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
        happened = _happened(file, clips, risk.event, len(lengths))
        head = fit_risk(model, spec.history, latents, blocks, happened, lengths, steps["risk"], seed)
        head = _rounded(head)
        labels = _happened(file, held_out, risk.event, len(unseen[2]))
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
    starts, lengths = _usable(lengths)
    if len(lengths) < 2:
        raise ValueError("a temporal distance needs at least two episodes of two frames")
    generator = torch.Generator().manual_seed(seed)
    longest = int(lengths.clamp(max=LONGEST + 1).max()) - 1
    negative_target = torch.tensor(1.25 * longest)

    def loss(head: TemporalDistance) -> Tensor:
        episode = _draw(len(lengths), generator)
        offset = _draw(lengths[episode].clamp(max=longest + 1), generator)
        first = _draw(lengths[episode] - offset, generator)
        negative = torch.rand(BATCH, generator=generator) < NEGATIVE_PAIRS
        # another episode for sure: 1 to E - 1 further on
        other = (episode + 1 + _draw(len(lengths) - 1, generator)) % len(lengths)
        goal = torch.where(
            negative, starts[other] + _draw(lengths[other], generator), starts[episode] + first + offset
        )
        start = _noisy(latents[starts[episode] + first], generator)
        target = torch.where(negative, negative_target, offset.float())
        return (torch.log1p(target) - torch.log1p(head(start, latents[goal]))).square().mean()

    return _fit(lambda: TemporalDistance(latents.shape[1], hidden), loss, steps, seed, "temporal distance")


def fit_inverse_dynamics(
    latents: Tensor, blocks: Tensor, lengths: np.ndarray, steps: int, seed: int = 0
) -> InverseDynamics:
    """Return a head fitted for ``steps`` steps to latents (N, D) and the z-scored blocks (N, A) leaving them.

    lengths (E,) are the episodes' numbers of frames, one after the other; the last block of an episode
    is not used. Short arrivals are drawn as often as long ones: log-uniform from 1 to ``LONGEST``.
    Raises ValueError where no episode has two frames.
    """
    starts, lengths = _usable(lengths)
    if not len(lengths):
        raise ValueError("inverse dynamics need an episode of two frames")
    generator = torch.Generator().manual_seed(seed)

    def loss(head: InverseDynamics) -> Tensor:
        episode = _draw(len(lengths), generator)
        longest = (lengths[episode] - 1).clamp(max=LONGEST)
        arrival = (longest + 1).float().pow(torch.rand(BATCH, generator=generator)).long().clamp(min=1)
        first = starts[episode] + _draw(lengths[episode] - arrival, generator)
        start = _noisy(latents[first], generator)
        ahead = torch.arange(HORIZON)
        valid = ahead < arrival[:, None]
        taken = blocks[torch.where(valid, first[:, None] + ahead, first[:, None])]
        errors = (head(start, latents[first + arrival], arrival) - taken).square().mean(-1)
        return (errors * valid).sum() / valid.sum()

    size = latents.shape[1], blocks.shape[1], INVERSE_HIDDEN
    return _fit(lambda: InverseDynamics(*size), loss, steps, seed, "inverse dynamics")


def fit_object_distance(
    latents: Tensor, robot: Tensor, lengths: np.ndarray, steps: int, seed: int = 0
) -> ObjectDistance:
    """Return a head fitted for ``steps`` steps to latents (N, D) and the robot's state (N, P) beside them.

    lengths (E,) are the episodes' numbers of frames, one after the other. Three terms teach the codes:
    from a code and the robot's state, a decoder tells the latent, so a code says what the robot's state
    leaves open; from the code of an earlier frame and the robot's present state it tells the present
    latent, wherever nothing else has moved meanwhile, so a code says nothing of the robot; and codes
    change seldom. The last two are robust: pairs between which something has moved hardly count. What the
    robot still changes in the codes makes a distance of all directions alike (``_equally_exact``). Raises
    ValueError where no episode has two frames.
    """
    starts, lengths = _usable(lengths)
    if not len(lengths):
        raise ValueError("an object distance needs an episode of two frames")
    generator = torch.Generator().manual_seed(seed)
    # A joint that hardly moves tells by its deflection what the robot touches: it must not be magnified.
    spread = robot.std(0)
    robot = (robot - robot.mean(0)) / spread.clamp_min(max(LEAST_SPREAD * float(spread.max()), 1e-6))
    width, longest = latents.shape[1], int(lengths.clamp(max=OBJECT_LONGEST + 1).max()) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ObjectDistance(width, OBJECT_HIDDEN, OBJECT_CODE)
        scaled = nn.BatchNorm1d(OBJECT_CODE, affine=False)  # the scale of codes is free otherwise
        decoder = nn.Sequential(
            nn.Linear(OBJECT_CODE + robot.shape[1], OBJECT_HIDDEN),
            nn.SiLU(),
            nn.Linear(OBJECT_HIDDEN, OBJECT_HIDDEN),
            nn.SiLU(),
            nn.Linear(OBJECT_HIDDEN, OBJECT_HIDDEN),
            nn.SiLU(),
            nn.Linear(OBJECT_HIDDEN, width),
        )

    def pairs(number: int) -> tuple[Tensor, Tensor]:
        episode = _draw(len(lengths), generator, number)
        offset = 1 + _draw((lengths[episode] - 1).clamp(max=longest), generator, number)
        earlier = starts[episode] + _draw(lengths[episode] - offset, generator, number)
        return earlier, earlier + offset

    def loss(_: nn.Module) -> Tensor:
        earlier, later = pairs(OBJECT_BATCH)
        codes = [scaled(head.encode(_noisy(latents[rows], generator))) for rows in (earlier, later)]
        blurred = codes[0] + CODE_NOISE_STD * torch.randn(codes[0].shape, generator=generator)
        told, swapped = (decoder(torch.cat([blurred, robot[rows]], 1)) for rows in (earlier, later))
        own = (told - latents[earlier]).square().mean()
        moved = (swapped - latents[later]).square().mean(1)
        changed = (codes[0] - codes[1]).square().sum(1)
        robust = SWAP * torch.log1p(moved / SWAP).mean()
        return own + robust + SELDOM * torch.log1p(changed / CHANGE).mean()

    parts = nn.ModuleList([head, scaled, decoder])
    _train(parts, loss, steps, OBJECT_RATE, "object distance")
    with torch.no_grad():  # the last layer takes the scale over
        last, std = head.net[-1], (scaled.running_var + scaled.eps).sqrt()
        last.bias.copy_((last.bias - scaled.running_mean) / std)
        last.weight.div_(std[:, None])
        first, second = (head.encode(latents[rows]) for rows in pairs(OBJECT_PAIRS))
        scale = _equally_exact(first, first - second)
        last.bias.copy_(scale @ last.bias)
        last.weight.copy_(scale @ last.weight)
    return head.eval().requires_grad_(False)


def _equally_exact(codes: Tensor, changes: Tensor) -> Tensor:
    """Return the matrix (C, C) that makes codes (N, C) as exact in each direction, their mean variance 1.

    changes (M, C) are those of pairs of frames. They are whitened: a distance then counts a direction the
    less, the more the robot alone changes the codes along it (the within-class scatter of discriminant
    analysis). The scatter is that of a Cauchy distribution, fitted by reweighting (Kent and Tyler 1991, a t
    distribution of 1 degree of freedom), so that pairs between which something has moved hardly count.
    """
    size, codes, changes = codes.shape[1], codes.double(), changes.double()
    scatter = torch.eye(size, dtype=torch.float64)
    floor = LEAST_CHANGE * scatter  # for codes that hardly change at all
    for _ in range(SCATTER_ROUNDS):
        squared = (changes @ scatter.inverse() * changes).sum(1)
        weights = (size + 1) / (1 + squared)
        scatter = (weights[:, None] * changes).T @ changes / len(changes) + floor
    variances, directions = torch.linalg.eigh(scatter)
    scale = directions @ (variances.rsqrt()[:, None] * directions.T)
    variance = (codes @ scale.T).var(0).mean()
    return (scale / variance.clamp_min(1e-12).sqrt()).float()


def fit_member(
    config: ModelConfig,
    latents: Tensor,
    blocks: Tensor,
    lengths: np.ndarray,
    steps: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Member:
    """Return a predictor of its own, trained for ``steps`` steps on latents (N, D) and blocks (N, A).

    lengths (E,) are the episodes' numbers of frames, one after the other. The loss is the model's: the mean
    square error of the next latent, for each frame of a clip of ``config.history`` (paper, 3.1, equation 1).
    Raises UserError where no episode is a frame longer than that.
    """
    history, starts, lengths = config.history, *_usable(lengths)
    starts, lengths = starts[lengths > history], lengths[lengths > history]
    if not len(lengths):
        raise UserError(f"an ensemble needs episodes of {history + 1} frames at least.")
    generator, window = torch.Generator().manual_seed(seed), torch.arange(history + 1)

    def loss(member: Member) -> Tensor:
        episode = _draw(len(lengths), generator, MEMBER_BATCH)
        first = starts[episode] + _draw(lengths[episode] - history, generator, MEMBER_BATCH)
        rows = first[:, None] + window
        seen = _noisy(latents[rows[:, :-1]], generator, MEMBER_NOISE_STD)
        told = member.predict(seen.to(device), blocks[rows[:, :-1]].to(device))
        return (told - latents[rows[:, 1:]].to(device)).square().mean()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        member = Member(config).to(device)
        _train(member, loss, steps, MEMBER_RATE, "second predictor", MEMBER_WARM_UP, MEMBER_CLIP)
    return member.eval().requires_grad_(False)


@torch.inference_mode()
def member_error(member: Member, history: int, latents: Tensor, blocks: Tensor, lengths: np.ndarray) -> float:
    """Return the mean square error of the next latent after ``history`` held-out ones; nan without any."""
    starts = np.cumsum(lengths) - lengths
    rows = [s + np.arange(n - history) for s, n in zip(starts, lengths, strict=True) if n > history]
    if not rows:
        return math.nan
    rows = torch.from_numpy(np.concatenate(rows))[:, None] + torch.arange(history)
    told = torch.cat([member.predict(latents[part], blocks[part])[:, -1] for part in rows.split(ENCODED)])
    return float((told - latents[rows[:, -1] + 1]).square().mean())


def event_in(states: np.ndarray, names: list[str], event: str) -> np.ndarray:
    """Return whether ``event``, such as "glass_z < 0.16", holds in states (..., S); bool (...).

    Raises UserError for another form and for a state that is not in ``names``.
    """
    parts = re.fullmatch(r"\s*(\w+)\s*([<>])\s*(-?\d+\.?\d*)\s*", event)
    if parts is None:
        raise UserError(f"the event {event!r} is not of the form NAME < NUMBER or NAME > NUMBER.")
    name, sign, bound = parts.groups()
    if name not in names:
        raise UserError(f"there is no stored state {name!r}, only {', '.join(names) or 'none at all'}.")
    compare = operator.lt if sign == "<" else operator.gt
    return compare(np.asarray(states)[..., list(names).index(name)], float(bound))


def check_event(file: EpisodeFiles, clips: Clips, steps: dict[str, int], risk: RiskSpec) -> None:
    """Raise UserError where a risk head is asked for and the data cannot tell its event."""
    if steps["risk"]:
        _learnable(_happened(file, clips, risk.event, len(clips.episodes)))


def _learnable(happened: Tensor) -> None:
    if happened.all() or not happened.any():
        raise UserError(
            f"the event of --risk {'always' if happened.all() else 'never'} happens in the data: there is "
            "nothing to learn."
        )


def _happened(file: EpisodeFiles, clips: Clips, event: str, episodes: int) -> Tensor:
    """Return whether the event had happened (N,) in the first ``episodes`` of ``clips``."""
    if not file.has_states:
        raise UserError(f"{file.path} has no states, in which --risk describes the event.")
    names = list(file.attributes.get("state_names") or [])
    states = [file.states(e)[:: clips.stride] for e in clips.episodes[:episodes]]
    return torch.from_numpy(np.concatenate([event_in(part, names, event) for part in states]))


@torch.inference_mode()
def imagined(
    model: LeWorldModel, history: int, latents: Tensor, blocks: Tensor, lengths: np.ndarray, ahead: int
) -> tuple[Tensor, Tensor]:
    """Return the rows (M,) from which ``ahead`` model steps follow, and the latents imagined for these.

    latents (N, D) and the blocks (N, A) leaving them are of episodes of ``lengths``. The model sees
    ``history`` latents up to the row, and the actions that were done; it imagines (M, ahead, D).
    """
    starts = np.cumsum(lengths) - lengths
    rows = [s + np.arange(history - 1, n - ahead) for s, n in zip(starts, lengths, strict=True)]
    rows = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *rows]))
    device, past = next(model.parameters()).device, torch.arange(1 - history, 1)
    futures = []
    for part in rows.split(ENCODED):
        seen, done = latents[part[:, None] + past], blocks[part[:, None] + past[:-1]]
        following = blocks[part[:, None] + torch.arange(ahead)]
        futures.append(
            model.rollout(seen.to(device), done.to(device), following[:, None].to(device))[:, 0].cpu()
        )
    return rows, torch.cat([latents.new_zeros(0, ahead, latents.shape[1]), *futures])


def fit_risk(
    model: LeWorldModel,
    history: int,
    latents: Tensor,
    blocks: Tensor,
    happened: Tensor,
    lengths: np.ndarray,
    steps: int,
    seed: int = 0,
) -> Risk:
    """Return a head fitted for ``steps`` steps to whether the event had ``happened`` (N,) at latents (N, D).

    Half of each batch are latents of frames, half are imagined ones, with what came true: where the model
    cannot tell, the probability lies between 0 and 1. blocks (N, A) leave the latents; lengths (E,) are the
    episodes' numbers of frames. Raises UserError where the event never happens, or always.
    """
    _learnable(happened)
    rows, futures = imagined(model, history, latents, blocks, lengths, RISK_STEPS_AHEAD)
    futures = futures.flatten(0, 1).clone()
    came = happened[rows[:, None] + 1 + torch.arange(RISK_STEPS_AHEAD)].flatten()
    generator = torch.Generator().manual_seed(seed)

    def loss(head: Risk) -> Tensor:
        seen = _draw(len(latents), generator, BATCH // 2)
        ahead = _draw(len(futures), generator, BATCH // 2) if len(futures) else seen[:0]
        inputs = torch.cat(
            [_noisy(latents[seen], generator), _noisy(futures[ahead], generator, RISK_NOISE_STD)]
        )
        labels = torch.cat([happened[seen], came[ahead]]).float()
        return nn.functional.binary_cross_entropy_with_logits(head.logit(inputs), labels)

    return _fit(lambda: Risk(latents.shape[1], RISK_HIDDEN), loss, steps, seed, "risk")


@torch.inference_mode()
def risk_metrics(
    head: Risk,
    model: LeWorldModel,
    history: int,
    latents: Tensor,
    blocks: Tensor,
    happened: Tensor,
    lengths: np.ndarray,
) -> tuple[float, dict[str, float]]:
    """Return the threshold of the probability, and how well held-out futures of it are told.

    Futures of ``RISK_STEPS_AHEAD`` model steps that begin before the event: of those without it,
    ``RISK_FALSE_ALARMS`` exceed the threshold.
    """
    rows, futures = imagined(model, history, latents, blocks, lengths, RISK_STEPS_AHEAD)
    before = ~happened[rows]
    comes = happened[rows[:, None] + 1 + torch.arange(RISK_STEPS_AHEAD)].any(1)[before]
    highest = head(futures[before]).amax(-1) if len(futures) else torch.zeros(0)
    if not len(comes) or comes.all():
        return 0.5, {}
    threshold = max(LEAST_THRESHOLD, float(highest[~comes].quantile(1 - RISK_FALSE_ALARMS)))
    threshold = min(threshold, 0.99)
    metrics = {"risk_false_alarms": float((highest[~comes] >= threshold).float().mean())}
    if comes.any():
        metrics["risk_foreseen"] = float((highest[comes] >= threshold).float().mean())
    return threshold, metrics


def _fit(
    make: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], steps: int, seed: int, name: str
) -> nn.Module:
    """Return the head that ``make`` makes, trained with AdamW and a cosine rate on batches of ``loss``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make()
    _train(head, loss, steps, RATE, name)
    return head.eval().requires_grad_(False)


def _train(
    module: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    steps: int,
    rate: float,
    name: str,
    warm_up: int = 0,
    clip: float = math.inf,
) -> None:
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-3)
    for step in counted(name, steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] *= min(1.0, (step + 1) / (warm_up + 1))
        optimiser.zero_grad(set_to_none=True)
        loss(module).backward()
        if clip < math.inf:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimiser.step()


def _usable(lengths: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the first rows and the lengths of the episodes that have two frames at least."""
    lengths = torch.as_tensor(np.asarray(lengths))
    starts = lengths.cumsum(0) - lengths
    return starts[lengths > 1], lengths[lengths > 1]


def _draw(high: int | Tensor, generator: torch.Generator, count: int = BATCH) -> Tensor:
    """Return ``count`` whole numbers below ``high``."""
    return (torch.rand(count, generator=generator) * high).long()


def _noisy(latents: Tensor, generator: torch.Generator, std: float = LATENT_NOISE_STD) -> Tensor:
    return latents + std * torch.randn(latents.shape, generator=generator)


def temporal_metrics(head: TemporalDistance, latents: Tensor, lengths: np.ndarray) -> dict[str, float]:
    """Return the mean estimate at offsets 0, 1, 5 and 20 of held-out latents, as for the fit."""
    metrics = {}
    for offset in (0, 1, 5, LONGEST):
        rows = _rows(lengths, offset)
        if len(rows):
            metrics[f"temporal_{offset}"] = float(head(latents[rows], latents[rows + offset]).mean())
    return metrics


@torch.inference_mode()
def object_metrics(head: ObjectDistance, latents: Tensor, lengths: np.ndarray) -> dict[str, float]:
    """Return quantiles of the distances of held-out latents one model step apart: most steps move nothing."""
    rows = _rows(lengths, 1)
    if not len(rows):
        return {}
    distances = head(latents[rows], latents[rows + 1])
    return {f"object_p{q}": float(distances.quantile(q / 100)) for q in (25, 50, 90)}


@torch.inference_mode()
def inverse_metrics(
    head: InverseDynamics, latents: Tensor, blocks: Tensor, lengths: np.ndarray
) -> dict[str, float]:
    """Return R2 of the first block at arrivals 1 and 5 on held-out latents, as for the fit."""
    metrics = {}
    for arrival in (1, 5):
        rows = _rows(lengths, arrival)
        if not len(rows):
            continue
        guess = head(latents[rows], latents[rows + arrival], torch.full((len(rows),), arrival))[:, 0]
        taken = blocks[rows]
        spread = (taken - taken.mean(0)).square().sum()
        metrics[f"inverse_{arrival}"] = float(1 - (guess - taken).square().sum() / spread)
    return metrics


def _rows(lengths: np.ndarray, offset: int) -> Tensor:
    """Return the rows of all frames that have one ``offset`` model steps later in their episode."""
    starts = np.cumsum(lengths) - lengths
    rows = [s + np.arange(n - offset) for s, n in zip(starts, lengths, strict=True) if n > offset]
    return torch.from_numpy(np.concatenate(rows) if rows else np.zeros(0, np.int64))


def _proprio(file: EpisodeFiles, clips: Clips, episodes: int) -> Tensor:
    """Return the robot's pose (N, P) beside the latents of the first ``episodes`` of ``clips``.

    Its velocities are left out: they too tell what the robot touches.
    """
    states = [file.proprio(e)[:: clips.stride] for e in clips.episodes[:episodes]]
    names = list(file.attributes.get("proprio_names") or [])
    if len(names) == states[0].shape[1]:
        kept = [i for i, name in enumerate(names) if not name.endswith("_velocity")]
        states = [rows[:, kept] for rows in states]
    if not states[0].shape[1]:
        raise UserError(
            f"{file.path} has no proprio, the robot's own state, which --object-steps needs: record the "
            "joints too, or leave it out."
        )
    return torch.from_numpy(np.nan_to_num(np.concatenate(states)))


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
