"""A picture of closed-loop episodes: time from left to right, the goal at the right end."""

from pathlib import Path

import cv2
import numpy as np

from world_model_ros.errors import UserError
from world_model_ros.evaluation.problems import Problem
from world_model_ros.evaluation.workers import Settings, Worker

_GAP = 4  # pixels between pictures
_GOAL_COLOUR = (40, 160, 60)


def save_filmstrip(
    path: Path, settings: Settings, problems: list[dict], rows: int = 3, columns: int = 7
) -> None:
    """Run the first ``rows`` problems again and draw each as a row of ``columns`` pictures and its goal.

    Raises UserError when the picture cannot be written.
    """
    worker = Worker(settings)
    strips = []
    for problem in (Problem(**values) for values in problems[:rows]):
        pictures = worker.watch(problem)
        chosen = np.linspace(0, len(pictures) - 1, columns).round().astype(int)
        goal = worker.world.goal_image(np.asarray(problem.goal))
        strips.append(_row([pictures[i] for i in chosen], goal))
    worker.world.close()
    sheet = cv2.cvtColor(np.concatenate(strips), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), sheet):
        raise UserError(f"{path} could not be written: give a name that ends with .png.")


def _row(pictures: list[np.ndarray], goal: np.ndarray) -> np.ndarray:
    """Put pictures side by side, the goal framed."""
    margin = ((_GAP, _GAP), (_GAP, _GAP), (0, 0))
    framed = [np.pad(p, margin, constant_values=255) for p in pictures]
    goal = np.pad(goal, margin)
    border = np.ones(goal.shape[:2], bool)
    border[_GAP:-_GAP, _GAP:-_GAP] = False
    goal[border] = _GOAL_COLOUR
    return np.concatenate([*framed, goal], axis=1)
