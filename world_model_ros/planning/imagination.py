"""The latents and pictures that the model imagines to follow from a plan, and from standing still.

Shapes: T model steps of context, N model steps ahead, D latent, A one action block (z-scored).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.normalisation import normalise
from world_model_ros.errors import UserError
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.objective import squared_distance
from world_model_ros.planning.timeline import ModelStep


@dataclass(frozen=True)
class Imagined:
    """Pictures are RGB, uint8 (size, size, 3); distances are squared L2 between latents."""

    now: np.ndarray
    planned: np.ndarray  # (N, size, size, 3)
    still: np.ndarray  # (N, size, size, 3)
    goal: np.ndarray | None
    # To the goal, of now and of each step, (N + 1,); None without a goal.
    planned_distances: np.ndarray | None
    still_distances: np.ndarray | None


class Imagination:
    """Rolls out two futures of one situation and decodes them. UserError where there is no decoder."""

    def __init__(self, model: LeWorldModel, spec: CheckpointSpec):
        if model.decoder is None:
            raise UserError("the checkpoint has no decoder: add one with train-heads --decoder.")
        self.model, self.spec = model, spec
        # Twice as fast on a CPU.
        model.decoder.to(memory_format=torch.channels_last)
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def imagine(
        self, latents: np.ndarray, past: np.ndarray, ahead: np.ndarray, goal: np.ndarray | None
    ) -> Imagined:
        """Imagine ``ahead`` (N, block, dim), physical units, and as many blocks of standing still.

        latents (T, D) are the context, past (T - 1, block, dim) what was done between them; goal (D,).
        """
        both = torch.stack([self._blocks(ahead), self._blocks(np.zeros_like(ahead))])[None]
        context = torch.as_tensor(latents, dtype=torch.float32, device=self.device)[None]
        futures = self.model.rollout(context, self._blocks(past)[None], both)[0]
        shown = [context[0, -1:], *futures]
        distances = [None, None]
        if goal is not None:
            target = torch.as_tensor(goal, dtype=torch.float32, device=self.device)[None]
            distances = [squared_distance(torch.cat([shown[0], f]), target).cpu().numpy() for f in futures]
            shown.append(target)
        # One call of the decoder for all of them.
        pictures = self.model.decoder.pictures(torch.cat(shown))
        count = len(ahead)
        return Imagined(
            now=pictures[0],
            planned=pictures[1 : 1 + count],
            still=pictures[1 + count : 1 + 2 * count],
            goal=None if goal is None else pictures[-1],
            planned_distances=distances[0],
            still_distances=distances[1],
        )

    def _blocks(self, actions: np.ndarray) -> Tensor:
        rows = np.asarray(actions, np.float32).reshape(-1, self.spec.block * self.spec.action.dim)
        return torch.from_numpy(normalise(rows, self.spec.action)).to(self.device)


def connected(steps: Sequence[ModelStep], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last latents (T, D) and the actions between them (T - 1, block, dim), T <= ``length``.

    ``steps`` are in the order of time, one at least. The context begins after the last gap.
    """
    first = len(steps) - 1
    while (
        first > 0
        and len(steps) - first < length
        and steps[first].previous == steps[first - 1].stamp
        and steps[first].executed is not None
    ):
        first -= 1
    latents = np.stack([step.latent for step in steps[first:]])
    between = [step.executed for step in steps[first + 1 :]]
    return latents, np.stack(between) if between else np.zeros((0, *steps[-1].running.shape))


def actions_ahead(running: np.ndarray, plan: np.ndarray | None, count: int) -> np.ndarray:
    """Return the next ``count`` blocks (count, block, dim): the running one, the plan, then standing still.

    running (block, dim); plan (rows, dim), one row a control step, or None.
    """
    ahead = np.zeros((count, *running.shape)).reshape(-1, running.shape[1])
    rows = np.concatenate([running, *([] if plan is None else [plan])])[: len(ahead)]
    ahead[: len(rows)] = rows
    return ahead.reshape(count, *running.shape)
