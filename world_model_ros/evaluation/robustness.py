"""Success and latent drift under noisy and partial pictures; the goal picture stays clean."""

import dataclasses

import numpy as np

from world_model_ros.evaluation.perturbations import PERTURBATIONS
from world_model_ros.evaluation.problems import Problem
from world_model_ros.evaluation.results import percent, rates
from world_model_ros.evaluation.workers import Done, Job, Settings, run_in_workers


def measure(settings: Settings, problems: list[Problem], workers: int) -> dict:
    """Return the planner's success on ``problems`` under each perturbation, as plain data.

    of_clean: success over that of clean pictures. drift: the median squared distance between the latents
    of a picture perturbed and as it was, over the median between two pictures of different moments;
    None where all moments look the same.
    """
    jobs = [Job(problem, perturbation=name) for name in PERTURBATIONS for problem in problems]
    done = run_in_workers(settings, jobs, workers)
    by_name = {
        name: done[i * len(problems) : (i + 1) * len(problems)] for i, name in enumerate(PERTURBATIONS)
    }
    typical = _typical_distance(by_name["clean"])
    clean = sum(d.outcome.success for d in by_name["clean"])
    found = {}
    for name, results in by_name.items():
        outcomes = [d.outcome for d in results]
        summed = rates(outcomes)
        found[name] = {
            "level": PERTURBATIONS[name].level,
            "n": len(outcomes),
            **summed,
            "of_clean": summed["successes"] / clean if clean else None,
            "drift": typical and float(np.median(np.concatenate([d.drift for d in results]))) / typical,
            "outcomes": [dataclasses.asdict(o) for o in outcomes],
        }
    return {"n": len(problems), "perturbations": found}


def summary(results: dict) -> str:
    """Return robustness results as a table."""
    lines = [
        f"{results['task']}, robustness on protocol {results['problems_protocol']}, n = {results['n']} each, "
        f"seed {results['seed']}",
        f"  {'perturbation':<15}{'success':<26}{'at end':<10}{'of clean':<10}drift",
    ]
    for name, values in results["perturbations"].items():
        of_clean = "-" if values["of_clean"] is None else percent(values["of_clean"])
        drift = "-" if values["drift"] is None else f"{values['drift']:.3f}"
        lines.append(
            f"  {name:<15}{percent(values['success_rate'], values['interval']):<26}"
            f"{percent(values['success_at_end']):<10}{of_clean:<10}{drift:<8}{values['level']}"
        )
    return "\n".join(lines)


def _typical_distance(done: list[Done]) -> float | None:
    """Median squared distance of latents of two random moments; None where all moments look the same."""
    latents = np.concatenate([d.latents for d in done])
    order = np.random.default_rng(0).permutation(len(latents))
    pairs = ((latents[order] - latents[np.roll(order, 1)]) ** 2).sum(-1)
    return float(np.median(pairs)) or None
