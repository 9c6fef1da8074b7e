"""What the planner aims at on the way to a goal that is farther away than it can plan.

Where something is in the way, the estimated number of steps to a far goal is flat or misleading, and no plan
of a few model steps makes it smaller. A checkpoint can hold landmarks: recorded latents, and which of them
the robot has moved between (training/landmarks.py). The shortest way over them leads to the goal, and the
planner aims at one landmark after another (as search on the replay buffer does, Eysenbach et al. 2019,
arXiv 1906.05253).

Shapes: N landmarks, D latent. Distances are in the temporal-distance head's unit, which is not quite a model
step: an explorer goes to and fro, so the head of models/detour says 5 for one recorded step.
"""

import torch
from torch import Tensor

from world_model_ros.model.heads import Landmarks, TemporalDistance

REACH = 1.4  # times the longest edge, up to which a distance of the head is relied on
# As a share of that: nearer landmarks are passed over, or the robot would stand still at one that is reached.
NEAR = 0.75
# Model steps in a row in which the robot moved and a landmark has come no nearer, after which it is given up
# for this goal: what the head takes for near may be behind a wall. One within reach is about three away.
PATIENCE = 8


class Waypoints:
    """Chooses what to aim at: a landmark, or the goal itself once that is within reach."""

    def __init__(self, landmarks: Landmarks, head: TemporalDistance):
        self.landmarks, self.head = landmarks, head
        self.reach = REACH * float(landmarks.edges.max())
        self.set_goal(None)

    @torch.inference_mode()
    def set_goal(self, goal: Tensor | None) -> None:
        """Take the goal's latent (D,), and compute the way to it from every landmark."""
        self.goal, self.ways, self.aimed = goal, None, None
        self._nearest, self._in_vain = torch.inf, 0  # of the landmark that is aimed at
        if goal is None:
            return
        last = self.head(self.landmarks.latents, goal)
        self.ways = shortest_ways(self.landmarks.edges, torch.where(last <= self.reach, last, torch.inf))

    @torch.inference_mode()
    def target(self, latent: Tensor, moved: bool = True) -> Tensor:
        """Return the latent (D,) to aim at from ``latent`` (D,).

        It is the goal where that is within reach, or where no landmark within reach has a way to it. A
        landmark stays the target until it is near: a plan that goes on is quicker to find than a new one.
        To be called once a model step; one that comes no nearer for ``PATIENCE`` of those in which the robot
        ``moved`` is given up.
        """
        if float(self.head(latent, self.goal)) <= self.reach:
            return self.goal
        first = self.head(latent, self.landmarks.latents)
        if self.aimed is not None and self._comes_no_nearer(float(first[self.aimed]), moved):
            self.ways[self.aimed] = torch.inf
        ahead = (first >= NEAR * self.reach) & (first <= self.reach)
        lengths = torch.where(ahead, first + self.ways, torch.inf)
        if self.aimed is None or not lengths[self.aimed].isfinite():
            best = int(lengths.argmin())
            self.aimed = best if lengths[best].isfinite() else None
            self._nearest, self._in_vain = torch.inf, 0
        return self.goal if self.aimed is None else self.landmarks.latents[self.aimed]

    def _comes_no_nearer(self, distance: float, moved: bool) -> bool:
        self._in_vain = 0 if distance < self._nearest else self._in_vain + moved
        self._nearest = min(distance, self._nearest)
        return self._in_vain >= PATIENCE


def shortest_ways(edges: Tensor, last: Tensor) -> Tensor:
    """Return the length (N,) of the shortest way from every landmark to the goal; infinite where none is.

    edges (N, N) are the lengths from row to column, 0 for no edge; last (N,) those from each landmark
    straight to the goal, infinite for none. By Bellman and Ford: each round allows ways of one edge more.
    """
    lengths = torch.where(edges > 0, edges, torch.inf)
    ways = last
    for _ in range(len(edges)):
        longer = torch.minimum(ways, (lengths + ways).amin(1))
        if torch.equal(longer, ways):
            break
        ways = longer
    return ways
