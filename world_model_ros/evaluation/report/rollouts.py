"""Films of the planner at work, each with its goal."""

import contextlib
import io
import math
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from world_model_ros.evaluation.closed_loop import Outcome, run_problem
from world_model_ros.evaluation.problems import BUDGETS, WAITING, Problem, make_problems
from world_model_ros.evaluation.report.inputs import Result
from world_model_ros.evaluation.report.shapes import check_filmed, planner_of, problem_of
from world_model_ros.evaluation.workers import Settings, Worker
from world_model_ros.planning.settings import PlannerConfig
from world_model_ros.sim.worlds import check_world, make_world, protocols_of, yaw_difference

FILMS = 6
OTHERS = 2  # shown beside the first ones where all of these end alike
SIZE = 240  # pixels; the model sees its own size
_EVERY = 2  # control steps a picture
_LONG = 5.0  # seconds from which a film runs at twice the speed
_HOLD = 1500  # ms that the last picture stays
_QUALITY = 78
_TRACK = 7  # pixels, of the line of time at the bottom
_PASSED, _REACHED, _AHEAD = (120, 128, 140), (47, 170, 96), (225, 228, 233)


@dataclass(frozen=True)
class Film:
    """What happened in a problem, as pictures that a browser shows."""

    outcome: Outcome
    moving: bytes  # WebP, animated
    still: bytes  # WebP, the last picture
    goal: bytes  # WebP
    speed: float  # of the film, in real time
    seconds: float | None  # until the goal was reached
    turned: tuple[float, float] | None  # degrees from the goal's yaw, first and last; None without one
    extra: bool  # shown because the first ones all end otherwise


@dataclass(frozen=True)
class Script:
    """Which problems are filmed, and how they are run."""

    settings: Settings
    first: list[Problem] | None  # None for those that `evaluate` would begin with
    count: int
    others: dict[bool, list[Problem]]  # a few more, by whether they were reached when measured


def read_script(task: str, checkpoint: str, measured: Result | None, count: int = FILMS) -> Script:
    """Return the first ``count`` problems and the settings of ``measured``, or the defaults of `evaluate`.

    Raises UserError where ``measured`` does not say which they were.
    """
    own = protocols_of(task)[0]
    budget, moving = BUDGETS[own], own not in WAITING
    if measured is None:
        return Script(Settings(task, checkpoint, budget, moving, PlannerConfig()), None, count, {})
    check_filmed(measured)
    values = measured.values
    problems = [problem_of(found) for found in values["problems"]]
    reached = {outcome["index"]: bool(outcome["success"]) for outcome in values["outcomes"]}
    others = {
        wanted: [p for p in problems[count:] if reached.get(p.index) is wanted][:OTHERS]
        for wanted in (False, True)
    }
    settings = Settings(
        task=task,
        checkpoint=checkpoint,
        budget=values.get("budget", budget),
        pipelined=values.get("pipelined", True),
        planner=planner_of(measured),
    )
    return Script(settings, problems[:count], count, others)


def film_rollouts(script: Script) -> list[Film]:
    """Run the first problems and film them; where all end alike, also a few that ended otherwise.

    Raises UserError where the checkpoint does not fit the task.
    """
    settings = script.settings
    worker = Worker(settings)
    with (
        contextlib.closing(worker.world) as world,
        contextlib.closing(make_world(settings.task, image_size=SIZE)) as studio,
    ):
        check_world(worker.planner.spec, settings.task)
        problems = script.first or make_problems(world, script.count, seed=0)
        films = []
        with tqdm(total=len(problems), desc="film", unit="problem", leave=False, disable=None) as bar:
            for problem in problems:
                films.append(_film(worker, studio, problem, settings, extra=False))
                bar.update()
        reached = {film.outcome.success for film in films}
        if len(reached) == 1:
            for problem in script.others.get(not reached.pop(), []):
                films.append(_film(worker, studio, problem, settings, extra=True))
    return films


class _Filmed:
    """A world that takes pictures of its own while a policy acts in it."""

    def __init__(self, world, goal: np.ndarray):
        self._world, self._goal = world, goal
        self.pictures: list[np.ndarray] = []
        self.reached: list[bool] = []

    def __getattr__(self, name: str):
        return getattr(self._world, name)

    def reset(self, **options) -> None:
        self._world.reset(**options)
        self.shoot()

    def step(self, action: np.ndarray) -> None:
        self._world.step(action)
        self.reached.append(bool(self._world.success(self._goal)))
        if len(self.reached) % _EVERY == 0:
            self.shoot()

    def shoot(self) -> None:
        size, self._world.image_size = self._world.image_size, SIZE
        try:
            self.pictures.append(self._world.render())
        finally:
            self._world.image_size = size


def _film(worker: Worker, studio, problem: Problem, settings: Settings, extra: bool) -> Film:
    goal = np.asarray(problem.goal)
    filmed = _Filmed(worker.world, goal)
    outcome = run_problem(filmed, worker.planner, problem, settings.budget)
    if len(filmed.reached) % _EVERY:
        filmed.shoot()
    period = worker.world.period
    speed = 2.0 if settings.budget * period > _LONG else 1.0
    frames = _with_track(filmed.pictures, filmed.reached)
    return Film(
        outcome=outcome,
        moving=_animation(frames, round(1000 * period * _EVERY / speed)),
        still=encode_picture(frames[-1], _QUALITY),
        goal=encode_picture(studio.goal_image(goal), _QUALITY),
        speed=speed,
        seconds=None if outcome.first_success is None else outcome.first_success * period,
        turned=_turned(worker.world, problem),
        extra=extra,
    )


def _turned(world, problem: Problem) -> tuple[float, float] | None:
    yaws = [i for i, name in enumerate(world.state_names) if "yaw" in name]
    if not yaws:
        return None
    ends = (yaw_difference(state[yaws[0]], problem.goal[yaws[0]]) for state in (problem.start, world.state()))
    return tuple(abs(math.degrees(end)) for end in ends)


def _with_track(pictures: list[np.ndarray], reached: list[bool]) -> list[np.ndarray]:
    """Draw the time under every picture (H, W, 3), green where the goal was reached in it."""
    width = pictures[0].shape[1]
    steps = (np.arange(width) * len(reached) / width).astype(int)
    colours = np.where(np.asarray(reached)[steps, None], _REACHED, _PASSED)
    framed = []
    for number, picture in enumerate(pictures):
        passed = steps[:, None] < number * _EVERY
        line = np.where(passed, colours, _AHEAD).astype(np.uint8)
        framed.append(np.concatenate([picture, np.broadcast_to(line, (_TRACK, width, 3))]))
    return framed


def _animation(frames: list[np.ndarray], milliseconds: int) -> bytes:
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in frames)
    durations = [*[milliseconds] * len(rest), _HOLD]
    buffer = io.BytesIO()
    first.save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=durations,
        loop=0,
        quality=_QUALITY,
        method=4,
    )
    return buffer.getvalue()


def encode_picture(picture: np.ndarray, quality: int = 88) -> bytes:
    """Return a picture (H, W, 3) uint8 as WebP."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
