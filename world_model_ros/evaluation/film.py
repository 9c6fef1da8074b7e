"""``python -m world_model_ros.evaluation.film FILE``: films the planner beside what it imagines, as WebP.

Without ROS: the goals of ``evaluate --protocol continuous`` with the same seed, in order, none left out.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import cv2
import numpy as np

from world_model_ros.data.atomic import check_target
from world_model_ros.errors import UserError
from world_model_ros.evaluation.continuous import run_goals
from world_model_ros.evaluation.policies import PlannerPolicy
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import find_checkpoint
from world_model_ros.monitoring.imagination_picture import BACKGROUND, DIM, GOAL, TEXT, fitted
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.imagination import Imagination, actions_ahead
from world_model_ros.sim.tasks import DEFAULT_TASK, check_world, find_task, make_world

STEPS = 8  # model steps that are imagined
SKIPPED = 2  # control steps from one frame of the film to the next
PAUSE = 1200  # ms, on the last frame of a goal
PANEL, GAP, LINE, BORDER = 264, 8, 24, 3  # pixels
TILE = (3 * PANEL + 2 * GAP - (STEPS - 1) * GAP) // STEPS


class ImaginingPlanner(PlannerPolicy):
    """The planner under test, with the pictures of its newest plan (STEPS, size, size, 3)."""

    def start(self, goal_image, problem) -> None:
        """Begin, without a past."""
        super().start(goal_image, problem)
        self.imagination = Imagination(self.model, self.spec)
        self.latents, self.blocks, self.pictures = [], [], None

    def act(self, image) -> np.ndarray:
        """Plan, then imagine the running block and the plan behind it."""
        running = super().act(image)
        length = self.spec.history
        self.latents = [*self.latents, self.encode(image)][-length:]
        past = np.reshape(self.blocks[len(self.blocks) - len(self.latents) + 1 :], (-1, *running.shape))
        ahead = actions_ahead(running, self.plan.actions, STEPS)
        self.pictures = self.imagination.imagine(np.stack(self.latents), past, ahead, None).planned
        self.blocks = [*self.blocks, running][-length:]
        return running


class FilmedWorld:
    """A world that keeps a frame of the film every SKIPPED control steps."""

    def __init__(self, world, gallery, policy: ImaginingPlanner):
        self.world, self.gallery, self.policy = world, gallery, policy
        self.frames: list[np.ndarray] = []
        self.milliseconds: list[int] = []
        self.goals = self.steps = 0

    def __getattr__(self, name):
        return getattr(self.world, name)

    def goal_image(self, goal: np.ndarray) -> np.ndarray:
        """Begin with another goal."""
        if self.milliseconds:
            self.milliseconds[-1] = PAUSE
        self.goals += 1
        self.goal, self.goal_picture = goal, self.gallery.goal_image(goal)
        return self.world.goal_image(goal)

    def step(self, action: np.ndarray) -> None:
        """Move, and film."""
        self.world.step(action)
        self.steps += 1
        if self.steps % SKIPPED == 0:
            self.frames.append(self.draw())
            self.milliseconds.append(round(1000 * SKIPPED * self.world.period))

    def draw(self) -> np.ndarray:
        """Return a frame: the camera, the end of what is imagined, the goal; below, what is imagined."""
        size, self.world.image_size = self.world.image_size, self.gallery.image_size
        camera = self.world.render()
        self.world.image_size = size
        seconds = self.policy.spec.block * self.world.period
        width, height = 3 * PANEL + 4 * GAP, 3 * LINE + PANEL + TILE + GAP
        frame = np.full((height, width, 3), BACKGROUND, np.uint8)
        words = self.world.distance_words(self.world.distance(self.goal), self.world.turned(self.goal))
        panels = (
            ("camera, now", camera),
            (f"imagined, {STEPS * seconds:.0f} s from now", self.policy.pictures[-1]),
            (f"goal {self.goals}: {words.replace('°', ' deg')} off", self.goal_picture),
        )
        for column, (caption, picture) in enumerate(panels):
            left = GAP + column * (PANEL + GAP)
            _write(frame, caption, left, 0, TEXT)
            frame[LINE : LINE + PANEL, left : left + PANEL] = fitted(picture, PANEL)
        if self.world.success(self.goal):
            corner = (left + PANEL - 1, LINE + PANEL - 1)
            cv2.rectangle(frame, (left, LINE), corner, GOAL, BORDER)
        top = LINE + PANEL + GAP
        _write(frame, "what the model expects of its plan, decoded from its latents:", GAP, top, DIM)
        for k, picture in enumerate(self.policy.pictures):
            left = GAP + k * (TILE + GAP)
            frame[top + LINE : top + LINE + TILE, left : left + TILE] = fitted(picture, TILE)
            _write(frame, f"+{(k + 1) * seconds:.2f} s", left, top + LINE + TILE, TEXT)
        return frame


def film(file: Path, task: str, checkpoint: str, goals: int, seed: int, quality: int) -> None:
    """Run ``goals`` goals one after another and write the film. Raises UserError."""
    check_target("FILE", file)
    for option, value, least in (("-n", goals, 1), ("--seed", seed, 0)):
        if value < least:
            raise UserError(f"{option} must be at least {least}, it is {value}.")
    if file.suffix != ".webp":
        raise UserError(f"{file} does not end with .webp: give a name that does.")
    if not hasattr(cv2, "Animation"):
        raise UserError(f"OpenCV {cv2.__version__} writes no animated WebP: install 4.11 or a newer one.")
    folder = str(find_checkpoint(checkpoint))
    model, spec = load_checkpoint(folder)
    check_world(spec, task)
    policy = ImaginingPlanner(model, spec, PlannerConfig().for_checkpoint(spec))
    budget = find_task(task).goal_budget
    with (
        contextlib.closing(make_world(task)) as world,
        contextlib.closing(make_world(task, image_size=PANEL)) as gallery,
    ):
        filmed = FilmedWorld(world, gallery, policy)
        outcome = run_goals(filmed, policy, seed, goals, budget)
    filmed.milliseconds[-1] = PAUSE
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(frame[..., ::-1]) for frame in filmed.frames]
    animation.durations = np.array(filmed.milliseconds, np.int32)
    if not cv2.imwriteanimation(str(file), animation, [cv2.IMWRITE_WEBP_QUALITY, quality]):
        raise UserError(f"{file} cannot be written: is there room on the disk?")
    print(
        f"{file}: {outcome.reached} of {goals} goals reached, {len(filmed.frames)} frames, "
        f"{sum(filmed.milliseconds) / 1000:.0f} s, {file.stat().st_size / 1e6:.1f} MB"
    )


def _write(picture: np.ndarray, text: str, left: int, top: int, colour) -> None:
    place = (left, top + round(0.72 * LINE))
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)


def main(argv: list[str] | None = None) -> int:
    """Parse the options; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m world_model_ros.evaluation.film", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="the .webp to write")
    parser.add_argument("--task", default=DEFAULT_TASK, help="task of the simulation")
    parser.add_argument("--checkpoint", help="folder or shipped model with a decoder; named like the task")
    parser.add_argument("-n", type=int, default=3, help="number of goals")
    parser.add_argument("--seed", type=int, default=0, help="seed of the start and of the goals")
    parser.add_argument("--quality", type=int, default=75, help="of the pictures, 1 to 100")
    given = parser.parse_args(argv)
    try:
        film(given.file, given.task, given.checkpoint or given.task, given.n, given.seed, given.quality)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
