"""The `collect` verb: the task's scripted explorer or the planner fills an episode file.

A planner goes where a model's predictions lead, right or wrong: what happens there is what the model needs to
see. Its goals lie far away, and its actions are disturbed.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

import numpy as np
import torch

from world_model_ros.data.episodes import EpisodeWriter
from world_model_ros.data.lock import WriteLock
from world_model_ros.data.words import plural
from world_model_ros.errors import UserError
from world_model_ros.evaluation.policies import PlannerPolicy
from world_model_ros.evaluation.problems import Problem
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import find_checkpoint, read_spec
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.sim.collect import Recipe, attributes_of, collect, scripted_explorer
from world_model_ros.sim.task import Task
from world_model_ros.sim.tasks import check_world, other_task, task_names

POLICIES = ("explorer", "planner")
# A quick search: what matters is where it leads, not that it is the best one.
_SEARCH = PlannerConfig(samples=24, elites=4, iterations=2, first_solve_multiplier=2)
_MEMORY = 0.9  # of the noise, per control step
_LARGEST_NOISE = 0.5  # standard deviation of an episode's noise at most, as a share of the action limits
_RANDOM_BLOCKS = 0.1  # share of blocks at random
_GOAL_STEPS = (8, 24)  # model steps after which another goal is drawn, from and to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    names = ", ".join(task_names())
    parser.add_argument("--task", required=True, help=f"the world to explore: {names}, or module:Class")
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="explorer",
        help="who acts: the task's scripted explorer, or the planner, towards goals far away and with noise",
    )
    parser.add_argument(
        "--checkpoint", help="of --policy planner (default: the shipped model named like the task)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the HDF5 file to write or to go on with")
    parser.add_argument("--episodes", type=int, default=1000, help="how many the file shall hold")
    parser.add_argument("--length", type=int, default=21, help="frames in an episode, one per model step")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--seed", type=int, default=0, help="start of all chances")
    parser.add_argument("--size", type=int, default=64, help="side of the stored frames in pixels")


def run(arguments: argparse.Namespace) -> int:
    """Collect, and say in one line what there is; 130 after Ctrl-C."""
    workers = len(os.sched_getaffinity(0)) if arguments.workers is None else arguments.workers
    for option, value, least in (
        ("--episodes", arguments.episodes, 1),
        ("--length", arguments.length, 2),
        ("--workers", workers, 1),
        ("--seed", arguments.seed, 0),
        ("--size", arguments.size, 8),
    ):
        if value < least:
            raise UserError(f"{option} {value} is too small: give at least {least}.")
    if arguments.out.is_dir():
        raise UserError(f"{arguments.out} is a folder: give --out the name of a file in it, such as push.h5.")
    planned = arguments.policy == "planner"
    if arguments.checkpoint and not planned:
        raise UserError("--checkpoint is for --policy planner: add that, or leave it out.")
    checkpoint = str(find_checkpoint(arguments.checkpoint or arguments.task)) if planned else ""
    if planned:
        spec = read_spec(checkpoint)
        check_world(spec, arguments.task)
        if warning := other_task(spec, arguments.task):
            print(f"{warning}: expect movements without a purpose.", file=sys.stderr)
    recipe = Recipe(arguments.task, arguments.seed, arguments.length, arguments.size, checkpoint)
    with WriteLock(arguments.out, "`collect`"):
        return _write(arguments, recipe, workers)


def _write(arguments: argparse.Namespace, recipe: Recipe, workers: int) -> int:
    try:
        writer = EpisodeWriter(arguments.out, attributes_of(recipe))
        missing = sorted(set(range(arguments.episodes)) - writer.done)
        make = planning_explorer if recipe.checkpoint else scripted_explorer
        seconds = collect(recipe, missing, workers, writer, make)
        writer.finish()
    except KeyboardInterrupt:
        print(
            f"interrupted: {writer.episodes} of {arguments.episodes} episodes are safe beside "
            f"{arguments.out}; the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    except OSError as error:
        raise UserError(
            f"{arguments.out} cannot be written ({error}): make room or choose another place; "
            "the same command goes on where it stopped."
        ) from None
    frames = writer.episodes * recipe.length
    speed = (
        f"{len(missing) * recipe.length / seconds / workers:.0f} frames/s per core"
        if missing
        else "all there"
    )
    print(f"{arguments.out}: {plural(writer.episodes, 'episode')}, {frames:,} frames, {speed}")
    return 0


class PlanningExplorer:
    """Acts for an episode: the planner's blocks with noise, towards one goal after another."""

    def __init__(self, world: Task, policy: PlannerPolicy, recipe: Recipe, index: int):
        self.world, self.policy, self.index = world, policy, index
        self.rng = np.random.default_rng((recipe.seed, index, 2))
        self.low, self.high = np.asarray(world.action_low), np.asarray(world.action_high)
        self.scale = self.rng.uniform(0.0, _LARGEST_NOISE) * (self.high - self.low) / 2
        self.noise = np.zeros(len(self.low))
        self.block: list[np.ndarray] = []
        self.left = 0  # model steps for the present goal
        self.goals = 0

    def action(self, state: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Return the action (A,) of the next control step."""
        if not self.block:
            self.block = list(self._next_block())
        return self.block.pop(0)

    def _next_block(self) -> np.ndarray:
        if self.left <= 0 or self.world.success(self.goal):
            self._draw_goal()
        self.left -= 1
        planned = self.policy.act(self.world.render())
        if self.rng.random() < _RANDOM_BLOCKS:
            planned = np.tile(self.rng.uniform(self.low, self.high), (len(planned), 1))
        noise = [self._disturbance() for _ in planned]
        block = np.clip(planned + np.array(noise), self.low, self.high)
        self.policy.did(block)
        return block

    def _draw_goal(self) -> None:
        self.goal = self.world.random_state(self.rng)
        picture = self.world.goal_image(self.goal)
        if self.goals:
            self.policy.change_goal(picture)
        else:
            self.policy.start(picture, Problem(self.index, self.index, (), tuple(self.goal)))
        self.goals += 1
        self.left = int(self.rng.integers(*_GOAL_STEPS))

    def _disturbance(self) -> np.ndarray:
        """First-order autoregressive noise (A,)."""
        fresh = self.rng.normal(0.0, np.sqrt(1 - _MEMORY**2), len(self.low))
        self.noise = _MEMORY * self.noise + fresh
        return self.scale * self.noise


def planning_explorer(world: Task, recipe: Recipe, index: int) -> PlanningExplorer:
    """Return who acts in episode `index` of a recipe with a checkpoint."""
    return PlanningExplorer(world, _policy(recipe.checkpoint), recipe, index)


@functools.cache
def _policy(checkpoint: str) -> PlannerPolicy:
    torch.set_num_threads(1)
    return PlannerPolicy(*load_checkpoint(checkpoint), _SEARCH, pipelined=False)
