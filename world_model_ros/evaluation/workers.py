"""Problems spread over processes; no outcome depends on how many there are."""

import multiprocessing
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from world_model_ros.errors import UserError
from world_model_ros.evaluation.closed_loop import Outcome, Problem, run_problem
from world_model_ros.evaluation.policies import PlannerPolicy, RandomPolicy
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.planning.receding import PlannerConfig
from world_model_ros.sim.collect import end_with_parent
from world_model_ros.sim.worlds import make_world


@dataclass(frozen=True)
class Settings:
    """Everything that decides an outcome, apart from the problem."""

    task: str
    checkpoint: str
    budget: int  # control steps
    pipelined: bool
    planner: PlannerConfig


class Worker:
    """The world and the policies of one process."""

    def __init__(self, settings: Settings):
        torch.set_num_threads(1)
        model, spec = load_checkpoint(settings.checkpoint)
        self.budget = settings.budget
        self.world = make_world(settings.task)
        self.planner = PlannerPolicy(model, spec, settings.planner, settings.pipelined)
        self.random = RandomPolicy(spec.action.low, spec.action.high, spec.block)

    def watch(self, problem: Problem) -> list[np.ndarray]:
        """Return the pictures the planner acts on, the last one after its last action."""
        pictures: list[np.ndarray] = []
        run_problem(self.world, self.planner, problem, self.budget, pictures.append)
        return [*pictures, self.world.render()]

    def run(self, problem: Problem) -> tuple[dict[str, Outcome], list[float]]:
        """Return the outcomes of planner and random policy, and the planning times in ms."""
        self.planner.planning_ms.clear()
        outcomes = {
            name: run_problem(self.world, policy, problem, self.budget)
            for name, policy in (("planner", self.planner), ("random", self.random))
        }
        return outcomes, list(self.planner.planning_ms)


_worker: Worker


def _start(settings: Settings) -> None:
    global _worker
    threading.Thread(target=end_with_parent, daemon=True).start()
    _worker = Worker(settings)


def _run(problem: Problem) -> tuple[dict[str, Outcome], list[float]]:
    return _worker.run(problem)


def run_in_workers(
    settings: Settings, problems: list[Problem], workers: int
) -> tuple[dict[str, list[Outcome]], list[float]]:
    """Run every problem under the planner and under the random policy.

    Returns the outcomes by policy, in the order of the problems, and all planning times in ms.
    Raises UserError when a worker dies.
    """
    workers = min(workers, len(problems))
    outcomes: dict[str, list[Outcome]] = {"planner": [], "random": []}
    milliseconds: list[float] = []
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (settings,))
    try:
        futures = _submit(pool, problems)
        with tqdm(total=len(problems), desc=f"evaluate {settings.task}", unit="problem") as bar:
            for future in as_completed(futures):
                by_policy, spent = future.result()
                for name, outcome in by_policy.items():
                    outcomes[name].append(outcome)
                milliseconds += spent
                bar.update()
                done = outcomes["planner"]
                bar.set_postfix_str(f"success {sum(o.success for o in done)}/{len(done)}")
    except BrokenProcessPool:
        raise UserError(
            "a worker process died, perhaps out of memory: try again with fewer --workers."
        ) from None
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
    return {name: sorted(found, key=lambda o: o.index) for name, found in outcomes.items()}, milliseconds


def _submit(pool: ProcessPoolExecutor, problems: list[Problem]) -> list:
    """Submit with SIGINT blocked, which the new processes inherit: Ctrl-C is for their parent alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return [pool.submit(_run, problem) for problem in problems]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
