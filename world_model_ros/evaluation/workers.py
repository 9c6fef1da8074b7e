"""Problems run in several processes; the outcomes do not depend on their number."""

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
from world_model_ros.evaluation.closed_loop import Outcome, run_problem
from world_model_ros.evaluation.continuous import RunOutcome, run_goals
from world_model_ros.evaluation.policies import PlannerPolicy, RandomPolicy, RepeatPolicy
from world_model_ros.evaluation.problems import Problem
from world_model_ros.evaluation.robustness import PerturbedCamera
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.sim.collect import end_with_parent, end_workers
from world_model_ros.sim.tasks import make_world


@dataclass(frozen=True)
class Settings:
    """All settings of an evaluation that decide an outcome."""

    task: str
    checkpoint: str
    budget: int  # control steps
    pipelined: bool
    planner: PlannerConfig


@dataclass(frozen=True)
class Job:
    """One problem for one policy (planner, random or repeat), optionally with a perturbed camera."""

    problem: Problem
    policy: str = "planner"
    perturbation: str | None = None


@dataclass(frozen=True)
class RunJob:
    """Goals one after another for one policy, without a reset."""

    seed: int
    goals: int
    policy: str = "planner"


@dataclass(frozen=True)
class Done:
    """Result of a job."""

    outcome: Outcome | RunOutcome
    milliseconds: list[float]  # of each plan
    candidates: list[int]  # of each plan
    latents: np.ndarray | None = None  # (T, D) of the unperturbed images; only with a perturbation
    drift: np.ndarray | None = None  # (T,) squared distances of the perturbed latents from these

    @property
    def tries(self) -> tuple[int, int]:
        """Return successes and attempts."""
        if isinstance(self.outcome, RunOutcome):
            return self.outcome.reached, len(self.outcome.goals)
        return int(self.outcome.success), 1


class Worker:
    """The world and the policies of one process."""

    def __init__(self, settings: Settings):
        torch.set_num_threads(1)
        model, spec = load_checkpoint(settings.checkpoint)
        self.budget = settings.budget
        self.world = make_world(settings.task)
        self.planner = PlannerPolicy(model, spec, settings.planner, settings.pipelined)
        action = spec.action
        self.policies = {
            "planner": self.planner,
            "random": RandomPolicy(action.low, action.high, spec.block),
            "repeat": RepeatPolicy(action.low, action.high, spec.block),
        }

    def watch(self, problem: Problem) -> list[np.ndarray]:
        """Return the images the planner acts on, and the one after its last action."""
        pictures: list[np.ndarray] = []
        run_problem(self.world, self.planner, problem, self.budget, pictures.append)
        return [*pictures, self.world.render()]

    def run(self, job: Job | RunJob) -> Done:
        """Run one job."""
        policy = self.policies[job.policy]
        policy.planning_ms.clear()
        self.planner.candidates.clear()
        self.planner.estimates_latency = isinstance(job, Job) and job.perturbation is not None
        if isinstance(job, RunJob):
            outcome = run_goals(self.world, policy, job.seed, job.goals, self.budget)
            return Done(outcome, list(policy.planning_ms), list(self.planner.candidates))
        if job.perturbation is None:
            outcome = run_problem(self.world, policy, job.problem, self.budget)
            return Done(outcome, list(policy.planning_ms), list(self.planner.candidates))
        pictures: list[np.ndarray] = []
        camera = PerturbedCamera(job.perturbation)
        outcome = run_problem(self.world, policy, job.problem, self.budget, pictures.append, camera)
        latents = np.stack([self.planner.encode(picture) for picture in pictures])
        pairs = zip(camera.shown, latents, strict=True)
        drift = [((self.planner.encode(got) - was) ** 2).sum() for got, was in pairs if got is not None]
        return Done(
            outcome, list(policy.planning_ms), list(self.planner.candidates), latents, np.array(drift)
        )


_worker: Worker | UserError


def _start(settings: Settings) -> None:
    global _worker
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        _worker = Worker(settings)
    except UserError as error:  # raised here, it would break the pool, which does not say why
        _worker = error


def _run(job: Job | RunJob) -> Done:
    if isinstance(_worker, UserError):
        raise _worker
    return _worker.run(job)


def run_in_workers(settings: Settings, jobs: list[Job] | list[RunJob], workers: int) -> list[Done]:
    """Run every job and return the results in the same order; they do not depend on ``workers``.

    Raises UserError for settings that do not fit the checkpoint, and when a worker dies.
    """
    workers = min(workers, len(jobs))
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (settings,))
    reached = planned = 0
    try:
        futures = _submit(pool, jobs)
        with tqdm(total=len(jobs), desc=f"evaluate {settings.task}", unit="run") as bar:
            for future in as_completed(futures):
                done = future.result()
                if jobs[futures[future]].policy == "planner":
                    successes, tries = done.tries
                    planned += tries
                    reached += successes
                bar.set_postfix_str(f"success {reached}/{planned}", refresh=False)
                bar.update()
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise UserError(
            "a worker process died, perhaps out of memory: try again with fewer --workers."
        ) from None
    finally:
        end_workers(pool)


def _submit(pool: ProcessPoolExecutor, jobs: list[Job] | list[RunJob]) -> dict:
    """Submit with SIGINT blocked, which the new processes inherit: only their parent handles Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {pool.submit(_run, job): number for number, job in enumerate(jobs)}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
