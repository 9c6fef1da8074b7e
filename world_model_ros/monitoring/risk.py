"""Whether the planned actions lead to the event of a checkpoint's risk head, such as a fall."""

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.normalisation import normalise
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel

LONGEST = 8  # model steps that are imagined
CLEARED = 0.5  # an announcement ends when the probability is below this share of the threshold


class RiskForecast:
    """Imagines the planned actions, and announces the event where its probability passes the threshold.

    What has happened already is not announced.
    """

    def __init__(self, model: LeWorldModel, spec: CheckpointSpec):
        if model.risk is None:
            raise ValueError("the checkpoint has no risk head")
        self.model, self.spec = model, spec
        self.clear()

    def clear(self) -> None:
        """Announce nothing."""
        self.probabilities: list[float] = []  # after each imagined model step
        self.reason = ""  # the announcement; empty: none

    @torch.inference_mode()
    def step(self, latents: list[Tensor], blocks: list[Tensor], actions: np.ndarray) -> str:
        """Imagine ``actions`` (steps, dim), physical units, from the present on; return ``reason``.

        latents: the last ones (D,), oldest first; blocks (block * dim,): z-scores of what was done between
        them. Actions that do not fill a model step are left out.
        """
        size, threshold = self.spec.block, self.spec.risk.threshold
        count = min(len(actions) // size, LONGEST)
        if not latents or not count:
            self.clear()
            return self.reason
        wanted = np.asarray(actions[: count * size], np.float32).reshape(count, -1)
        following = torch.from_numpy(normalise(wanted, self.spec.action))
        past = torch.stack(blocks)[None] if blocks else following.new_zeros(1, 0, following.shape[1])
        seen = torch.stack(latents)[None]
        imagined = self.model.rollout(seen, past, following[None, None])[0, 0]
        now, *self.probabilities = self.model.risk(torch.cat([seen[0, -1:], imagined])).tolist()
        bound = CLEARED * threshold if self.reason else threshold
        if now >= threshold or max(self.probabilities) < bound:
            self.reason = ""
            return self.reason
        first = next(i for i, p in enumerate(self.probabilities) if p >= bound)
        after = (first + 1) * size * self.spec.period
        self.reason = (
            f"{self.spec.risk.name}: {after:.2f} s from now by the planned actions "
            f"(probability {max(self.probabilities):.2f})"
        )
        return self.reason
