"""The object-distance head: how far apart two latents are in what the robot moves, wherever the robot is."""

import numpy as np
import torch
from torch import Tensor, nn

from world_model_ros.data.clips import Clips
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.errors import UserError
from world_model_ros.model.heads import ObjectDistance
from world_model_ros.training.fitting import draw, noisy, rows_apart, train, usable

OBJECT_HIDDEN, OBJECT_CODE = 256, 6  # sizes of the head
LONGEST = 4  # model steps between the two latents of a pair, at most
BATCH, RATE = 512, 2e-3
CODE_NOISE_STD = 0.1
SWAP, CHANGE = 0.1, 0.01  # a pair hardly counts above this squared error of a latent, change of a code
SELDOM = 0.04  # weight of the changes
PAIRS, ROUNDS = 60_000, 30  # by which the codes' directions are weighed
LEAST_CHANGE = 1e-6  # variance of the changes along a direction
LEAST_SPREAD = 0.05  # of a joint, as a share of the largest one: smaller ones are not scaled up


def fit_object_distance(
    latents: Tensor, robot: Tensor, lengths: np.ndarray, steps: int, seed: int = 0
) -> ObjectDistance:
    """Return a head fitted for ``steps`` steps to latents (N, D) and the robot's state (N, P) beside them.

    lengths (E,) are the episodes' numbers of frames, one after the other. Three terms teach the codes:
    from a code and the robot's state, a decoder tells the latent, so a code says what the robot's state
    leaves open; from the code of an earlier frame and the robot's present state it tells the present
    latent, wherever nothing else has moved meanwhile, so a code says nothing of the robot; and codes
    change seldom. The last two are robust: pairs between which something has moved hardly count. What the
    robot still changes in the codes makes a distance of all directions alike (``equally_exact``). Raises
    ValueError where no episode has two frames.
    """
    starts, lengths = usable(lengths)
    if not len(lengths):
        raise ValueError("an object distance needs an episode of two frames")
    generator = torch.Generator().manual_seed(seed)
    # A joint that hardly moves tells by its deflection what the robot touches: it must not be magnified.
    spread = robot.std(0)
    robot = (robot - robot.mean(0)) / spread.clamp_min(max(LEAST_SPREAD * float(spread.max()), 1e-6))
    width, longest = latents.shape[1], int(lengths.clamp(max=LONGEST + 1).max()) - 1
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
        episode = draw(len(lengths), generator, number)
        offset = 1 + draw((lengths[episode] - 1).clamp(max=longest), generator, number)
        earlier = starts[episode] + draw(lengths[episode] - offset, generator, number)
        return earlier, earlier + offset

    def loss(_: nn.Module) -> Tensor:
        earlier, later = pairs(BATCH)
        codes = [scaled(head.encode(noisy(latents[rows], generator))) for rows in (earlier, later)]
        blurred = codes[0] + CODE_NOISE_STD * torch.randn(codes[0].shape, generator=generator)
        told, swapped = (decoder(torch.cat([blurred, robot[rows]], 1)) for rows in (earlier, later))
        own = (told - latents[earlier]).square().mean()
        moved = (swapped - latents[later]).square().mean(1)
        changed = (codes[0] - codes[1]).square().sum(1)
        robust = SWAP * torch.log1p(moved / SWAP).mean()
        return own + robust + SELDOM * torch.log1p(changed / CHANGE).mean()

    parts = nn.ModuleList([head, scaled, decoder])
    train(parts, loss, steps, RATE, "object distance")
    with torch.no_grad():  # the last layer takes the scale over
        last, std = head.net[-1], (scaled.running_var + scaled.eps).sqrt()
        last.bias.copy_((last.bias - scaled.running_mean) / std)
        last.weight.div_(std[:, None])
        first, second = (head.encode(latents[rows]) for rows in pairs(PAIRS))
        scale = equally_exact(first, first - second)
        last.bias.copy_(scale @ last.bias)
        last.weight.copy_(scale @ last.weight)
    return head.eval().requires_grad_(False)


def equally_exact(codes: Tensor, changes: Tensor) -> Tensor:
    """Return the matrix (C, C) that makes codes (N, C) as exact in each direction, their mean variance 1.

    changes (M, C) are those of pairs of frames. They are whitened: a distance then counts a direction the
    less, the more the robot alone changes the codes along it (the within-class scatter of discriminant
    analysis). The scatter is that of a Cauchy distribution, fitted by reweighting (Kent and Tyler 1991, a t
    distribution of 1 degree of freedom), so that pairs between which something has moved hardly count.
    """
    size, codes, changes = codes.shape[1], codes.double(), changes.double()
    scatter = torch.eye(size, dtype=torch.float64)
    floor = LEAST_CHANGE * scatter  # for codes that hardly change at all
    for _ in range(ROUNDS):
        squared = (changes @ scatter.inverse() * changes).sum(1)
        weights = (size + 1) / (1 + squared)
        scatter = (weights[:, None] * changes).T @ changes / len(changes) + floor
    variances, directions = torch.linalg.eigh(scatter)
    scale = directions @ (variances.rsqrt()[:, None] * directions.T)
    variance = (codes @ scale.T).var(0).mean()
    return (scale / variance.clamp_min(1e-12).sqrt()).float()


@torch.inference_mode()
def object_metrics(head: ObjectDistance, latents: Tensor, lengths: np.ndarray) -> dict[str, float]:
    """Return quantiles of the distances of held-out latents one model step apart: most steps move nothing."""
    rows = rows_apart(lengths, 1)
    if not len(rows):
        return {}
    distances = head(latents[rows], latents[rows + 1])
    return {f"object_p{q}": float(distances.quantile(q / 100)) for q in (25, 50, 90)}


def robot_pose(file: EpisodeFiles, clips: Clips, episodes: int) -> Tensor:
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
