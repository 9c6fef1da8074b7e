"""Recording of simulated episodes, one process a core; an episode depends on its recipe and index alone."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from world_model_ros.data.episodes import EpisodeWriter
from world_model_ros.errors import UserError
from world_model_ros.model.frames import resize_frame
from world_model_ros.sim.task import Task
from world_model_ros.sim.tasks import make_world

_IN_FLIGHT = 3  # episodes a worker is given ahead of those it has returned


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what an episode holds, apart from its index."""

    task: str
    seed: int
    length: int  # frames
    size: int  # pixels
    checkpoint: str = ""  # of the planner that acts; empty: the task's explorer does


# world, recipe, index -> an explorer, whose action(state) gives the action of the next control step
MakeExplorer = Callable[[Task, Recipe, int], Any]


def scripted_explorer(world: Task, recipe: Recipe, index: int):
    """Return the task's own explorer for episode `index`."""
    return world.explorer((recipe.seed, index, 1))


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
        "source": ", ".join(filter(None, (kind.engine, _policy(recipe)))),
        "task": recipe.task,
        "state_names": list(kind.state_names),
        "proprio_names": [*kind.joint_names, *(f"{name}_velocity" for name in kind.joint_names)],
        "seed": recipe.seed,
        "length": recipe.length,
        "image_size": recipe.size,
        **({"checkpoint": Path(recipe.checkpoint).name} if recipe.checkpoint else {}),
    }


def _policy(recipe: Recipe) -> str:
    return f"planner with {Path(recipe.checkpoint).name}" if recipe.checkpoint else "scripted explorer"


def record(
    world: Task, recipe: Recipe, index: int, make: MakeExplorer = scripted_explorer
) -> tuple[np.ndarray, ...]:
    """Let the explorer act for episode `index`; it is the same whatever ran before it.

    Returns pixels uint8 (T, size, size, 3), action float32 (T, block * A) with a last row of NaN, state
    float32 (T, S) and proprio float32 (T, 2 J), T frames one model step apart; None for the proprio of a
    robot without joints.
    """
    world.reset((recipe.seed, index))
    explorer = make(world, recipe, index)
    pixels, actions, states, proprio = [], [], [], []
    for frame in range(recipe.length):
        pixels.append(resize_frame(world.render(), recipe.size))
        states.append(world.state())
        proprio.append(np.concatenate(world.joints()))
        if frame == recipe.length - 1:
            break
        block = []
        for _ in range(world.block):
            # Done as it is stored: pushing against the rim would magnify what rounding leaves out.
            block.append(explorer.action(world.state()).astype(np.float32))
            world.step(block[-1].astype(np.float64))
        actions.append(np.concatenate(block))
    actions.append(np.full_like(actions[0], np.nan))
    columns = (np.array(rows, np.float32) for rows in (actions, states, proprio))
    return (np.stack(pixels), *(column if column.shape[1] else None for column in columns))


def collect(
    recipe: Recipe,
    indices: list[int],
    workers: int,
    writer: EpisodeWriter,
    make: MakeExplorer = scripted_explorer,
) -> float:
    """Record the episodes of `indices` in `workers` processes; return the seconds it took.

    An episode depends on the recipe and its index alone. Raises UserError when a worker dies.
    """
    if not indices:
        return 0.0
    workers = min(workers, len(indices))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (recipe.task, make))
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
_make: MakeExplorer


def _start(task: str, make: MakeExplorer) -> None:
    global _world, _make
    _make = make
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
    return record(_world, recipe, index, _make)
