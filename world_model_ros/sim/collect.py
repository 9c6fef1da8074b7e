"""The `collect` verb: scripted explorers fill an episode file, one process a core."""

import argparse
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import numpy as np
from tqdm import tqdm

from world_model_ros.data.episodes import EpisodeWriter
from world_model_ros.errors import UserError
from world_model_ros.model.frames import resize_frame
from world_model_ros.sim.task import Task
from world_model_ros.sim.tasks import make_world, task_names

_IN_FLIGHT = 3  # episodes a worker is given ahead of those it has returned


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what an episode holds, apart from its index."""

    task: str
    seed: int
    length: int  # frames
    size: int  # pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    names = ", ".join(task_names())
    parser.add_argument("--task", required=True, help=f"the world to explore: {names}, or module:Class")
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
    recipe = Recipe(arguments.task, arguments.seed, arguments.length, arguments.size)
    try:
        writer = EpisodeWriter(arguments.out, attributes_of(recipe))
        missing = sorted(set(range(arguments.episodes)) - writer.done)
        seconds = collect(recipe, missing, workers, writer)
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
    print(f"{arguments.out}: {writer.episodes:,} episodes, {frames:,} frames, {speed}")
    return 0


def attributes_of(recipe: Recipe) -> dict:
    """Return what the episode file says about itself."""
    kind = make_world(recipe.task)
    kind.close()
    return {
        "action_names": list(kind.action_names),
        "action_kind": kind.action_kind,
        "action_unit": kind.action_unit,
        "action_frame": kind.action_frame,
        "action_low": list(kind.action_low),
        "action_high": list(kind.action_high),
        "period": kind.period,
        "block": kind.block,
        "steps_per_row": kind.block,
        "source": ", ".join(filter(None, (kind.engine, "scripted explorer"))),
        "task": recipe.task,
        "state_names": list(kind.state_names),
        "proprio_names": [*kind.joint_names, *(f"{name}_velocity" for name in kind.joint_names)],
        "seed": recipe.seed,
        "length": recipe.length,
        "image_size": recipe.size,
    }


def record(world: Task, recipe: Recipe, index: int) -> tuple[np.ndarray, ...]:
    """Let the explorer act for episode `index`; it is the same whatever ran before it.

    Returns pixels uint8 (T, size, size, 3), action float32 (T, block * A) with a last row of NaN, state
    float32 (T, S) and proprio float32 (T, 2 J), T frames one model step apart; None for the proprio of a
    robot without joints.
    """
    world.reset((recipe.seed, index))
    explorer = world.explorer((recipe.seed, index, 1))
    pixels, actions, states, proprio = [], [], [], []
    for frame in range(recipe.length):
        pixels.append(resize_frame(world.render(), recipe.size))
        states.append(world.state())
        proprio.append(np.concatenate(world.joints()))
        if frame == recipe.length - 1:
            break
        block = []
        for _ in range(world.block):
            block.append(explorer.action(world.state()))
            world.step(block[-1])
        actions.append(np.concatenate(block))
    actions.append(np.full_like(actions[0], np.nan))
    columns = (np.array(rows, np.float32) for rows in (actions, states, proprio))
    return (np.stack(pixels), *(column if column.shape[1] else None for column in columns))


def collect(recipe: Recipe, indices: list[int], workers: int, writer: EpisodeWriter) -> float:
    """Record the episodes of `indices` in `workers` processes; return the seconds it took.

    An episode depends on the recipe and its index alone. Raises UserError when a worker dies.
    """
    if not indices:
        return 0.0
    workers = min(workers, len(indices))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (recipe.task,))
    waiting = iter(indices)
    flying = {}
    bar = tqdm(total=len(indices) * recipe.length, desc=f"collect {recipe.task}", unit="frame")
    start = time.perf_counter()

    def launch(count: int) -> None:
        # With SIGINT blocked, which new processes inherit: Ctrl-C is for their parent alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for index in islice(waiting, count):
                flying[pool.submit(_record, recipe, index)] = index
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        launch(_IN_FLIGHT * workers)
        while flying:
            finished, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in finished:
                writer.append(*future.result(), index=flying.pop(future))
                bar.update(recipe.length)
            launch(len(finished))
    except BrokenProcessPool:
        raise UserError(
            f"a worker process died, perhaps out of memory; {writer.episodes} episodes are safe: "
            "run the same command again, with fewer --workers."
        ) from None
    finally:
        bar.close()
        end_workers(pool)
    return time.perf_counter() - start


_world: Task


def _start(task: str) -> None:
    global _world
    threading.Thread(target=end_with_parent, daemon=True).start()
    _world = make_world(task)


def end_workers(pool: ProcessPoolExecutor) -> None:
    """End a pool's processes, whatever they are doing, and wait until they have ended."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    # One that dies while it sends a result leaves a part of it, and the pool would wait for the rest as long
    # as anybody, this process too, may still write it.
    pool._result_queue._writer.close()
    pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """Wait for the parent of this worker process to die, then end the worker."""
    # A killed parent tells nobody, and the executor's workers would wait for work for ever.
    wait_for([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _record(recipe: Recipe, index: int) -> tuple[np.ndarray, ...]:
    return record(_world, recipe, index)
