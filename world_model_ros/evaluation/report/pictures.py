"""Pictures for the page: films of closed-loop problems, and open-loop rollouts, decoded."""

import base64
import contextlib
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from world_model_ros.errors import UserError
from world_model_ros.evaluation.closed_loop import Outcome, run_problem
from world_model_ros.evaluation.problems import Problem, make_problems
from world_model_ros.evaluation.recordings import (
    LENGTH,
    Recording,
    all_frames,
    fresh_recordings,
    held_out_split,
    open_data,
    read_recordings,
)
from world_model_ros.evaluation.report.inputs import Result, check_filmed, planner_of, problem_of
from world_model_ros.evaluation.workers import Settings, Worker
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.sim.tasks import check_world, find_task, make_world

FILMS = 6
OTHERS = 2  # shown beside the first ones where all of these end alike
SIZE = 240  # pixels; the model sees its own size
_EVERY = 2  # control steps a picture
_LONG = 5.0  # seconds from which a film runs at twice the speed
_HOLD = 1500  # ms that the last picture stays
_QUALITY = 78
_TRACK = 7  # pixels, of the line of time at the bottom
_PASSED, _REACHED, _AHEAD = (120, 128, 140), (47, 170, 96), (225, 228, 233)
STEPS = 8  # model steps of an open-loop rollout
SHOWN = 3  # episodes
BANK = 2000  # frames among which neighbours are found
_SEED = 750_000_000  # of fresh episodes: none that `collect` or another evaluation records


@dataclass(frozen=True)
class Film:
    """What happened in a problem, as pictures that a browser shows."""

    outcome: Outcome
    moving: bytes  # WebP, animated
    still: bytes  # WebP, the last picture
    goal: bytes  # WebP
    speed: float  # of the film, in real time
    seconds: float | None  # until the goal was reached
    away: tuple[str, str]  # from the goal, first and last
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
    own = next(iter(find_task(task).protocols.values()))
    budget, moving = own.budget, not own.waits
    if measured is None:
        return Script(Settings(task, checkpoint, budget, moving, PlannerConfig()), None, count, {})
    check_filmed(measured)
    values = measured.values
    problems = [problem_of(noted) for noted in values["problems"]]
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
        contextlib.closing(make_world(settings.task, image_size=SIZE)) as large,
    ):
        check_world(worker.planner.spec, settings.task)
        problems = script.first or make_problems(world, script.count, seed=0)
        bar = tqdm(problems, desc="film", unit="problem", leave=False, disable=None)
        films = [_film(worker, large, problem, settings, extra=False) for problem in bar]
        reached = {film.outcome.success for film in films}
        if len(reached) == 1:
            for problem in script.others.get(not reached.pop(), []):
                films.append(_film(worker, large, problem, settings, extra=True))
    return films


class _FilmedWorld:
    """A world that takes pictures of its own while a policy acts in it."""

    def __init__(self, world, goal: np.ndarray):
        self._world, self._goal = world, goal
        self.pictures: list[np.ndarray] = []
        self.reached: list[bool] = []

    def __getattr__(self, name: str):
        return getattr(self._world, name)

    def reset(self, **options) -> None:
        self._world.reset(**options)
        self.take_picture()

    def step(self, action: np.ndarray) -> None:
        self._world.step(action)
        self.reached.append(bool(self._world.success(self._goal)))
        if len(self.reached) % _EVERY == 0:
            self.take_picture()

    def take_picture(self) -> None:
        size, self._world.image_size = self._world.image_size, SIZE
        try:
            self.pictures.append(self._world.render())
        finally:
            self._world.image_size = size


def _film(worker: Worker, large, problem: Problem, settings: Settings, extra: bool) -> Film:
    world, goal = worker.world, np.asarray(problem.goal)
    filmed = _FilmedWorld(world, goal)
    outcome = run_problem(filmed, worker.planner, problem, settings.budget)
    if len(filmed.reached) % _EVERY:
        filmed.take_picture()
    speed = 2.0 if settings.budget * world.period > _LONG else 1.0
    frames = _with_track(filmed.pictures, filmed.reached)
    milliseconds = round(1000 * world.period * _EVERY / speed)
    return Film(
        outcome=outcome,
        moving=encode_webp(frames, _QUALITY, duration=[*[milliseconds] * (len(frames) - 1), _HOLD], loop=0),
        still=encode_webp(frames[-1:], _QUALITY),
        goal=encode_webp([large.goal_image(goal)], _QUALITY),
        speed=speed,
        seconds=None if outcome.first_success is None else outcome.first_success * world.period,
        away=(
            world.distance_words(outcome.start_distance, outcome.start_angle),
            world.distance_words(outcome.final_distance, outcome.final_angle),
        ),
        extra=extra,
    )


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


def encode_webp(frames: list[np.ndarray], quality: int = 88, **options) -> bytes:
    """Return frames (H, W, 3) uint8 as WebP, animated where there are several; Pillow's ``options``."""
    from PIL import Image

    first, *rest = (Image.fromarray(np.ascontiguousarray(frame)) for frame in frames)
    if rest:
        options |= {"save_all": True, "append_images": rest}
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", quality=quality, method=4, **options)
    return buffer.getvalue()


def data_uri(picture: bytes | np.ndarray) -> str:
    """Return a picture, WebP or (H, W, 3) uint8, as a URI that needs no network."""
    data = picture if isinstance(picture, bytes) else encode_webp([picture])
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class OpenLoopRollout:
    """An episode as it was and as it was predicted open-loop; frames uint8 (H, W, 3)."""

    real: list[np.ndarray]  # K + 1, the last frame the model saw first
    seen: list[np.ndarray]  # K + 1, pictures of the latents of these
    imagined: list[np.ndarray]  # K, pictures of the predicted latents
    ratio: list[float]  # K, squared error of the predicted latent over that of copying


def episodes_to_imagine(spec: CheckpointSpec, task: str, data: Path | None) -> tuple[list[Recording], str]:
    """Return episodes the model was not trained on, and what they are.

    Held-out ones of ``data``, the file of the training, or fresh ones. UserError where the file cannot be
    that of the training or holds out too few.
    """
    wanted = SHOWN + -(-BANK // LENGTH)
    if data is None:
        return fresh_recordings(task, spec, wanted, _SEED), "fresh episodes of the scripted explorer"
    with open_data(data, spec) as file:
        _, held_out = held_out_split(spec, file)
        if len(held_out) < 2 * SHOWN:
            raise UserError(
                f"{data} holds out only {len(held_out)} episodes: leave out --data for fresh ones."
            )
        return read_recordings(file, held_out[:wanted], spec, task), f"held-out episodes of {data.name}"


def imagine(
    model: LeWorldModel,
    spec: CheckpointSpec,
    recordings: list[Recording],
    latents: list[Tensor],
    shown: int = SHOWN,
    steps: int = STEPS,
) -> list[OpenLoopRollout]:
    """Predict the first ``shown`` recordings open-loop, and make pictures of the latents.

    Pictures are the decoder's; where the model has none, the frames of the other recordings whose latents
    are nearest. Each begins where the real latents of the ``steps`` that follow are farthest from the last
    one seen.
    ``latents`` (T, D) of every recording. Recordings that are too short are left out.
    """
    frames, bank = all_frames(recordings[shown:])[:BANK], torch.cat(latents[shown:])[:BANK]
    show = model.decoder.pictures if model.decoder else partial(nearest, frames=frames, bank=bank)
    rollouts = []
    for recording, z in zip(recordings[:shown], latents[:shown], strict=True):
        starts = range(len(z) - spec.history - steps + 1)
        if not starts:
            continue
        moved = [(z[s + spec.history :][:steps] - z[s + spec.history - 1]).square().sum() for s in starts]
        start = int(np.argmax(moved))
        now = start + spec.history - 1  # the last frame that the model sees
        blocks = torch.from_numpy(recording.blocks[start : now + steps])[None]
        with torch.inference_mode():
            imagined = model.rollout(
                z[None, start : now + 1], blocks[:, : spec.history - 1], blocks[:, None, spec.history - 1 :]
            )[0, 0]
        future = z[now + 1 : now + 1 + steps]
        error, copy = (imagined - future).square().sum(-1), (z[now] - future).square().sum(-1)
        rollouts.append(
            OpenLoopRollout(
                real=list(recording.pixels[now : now + 1 + steps]),
                seen=list(show(z[now : now + 1 + steps])),
                imagined=list(show(imagined)),
                ratio=(error / copy.clamp_min(1e-12)).tolist(),
            )
        )
    return rollouts


def nearest(latents: Tensor, frames: np.ndarray, bank: Tensor) -> list[np.ndarray]:
    """Return for each of ``latents`` (K, D) the frame whose latent in ``bank`` (N, D) is nearest to it."""
    return [frames[i] for i in torch.cdist(latents, bank).argmin(1).tolist()]
