"""The values of each section of the page, for the template. Results are checked before."""

from typing import NamedTuple

import numpy as np

from world_model_ros.evaluation.report import plots
from world_model_ros.evaluation.report.inputs import Result, finite
from world_model_ros.evaluation.report.pictures import Film, OpenLoopRollout
from world_model_ros.evaluation.surprise import example_pictures
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.sim.lockstep import wilson_interval
from world_model_ros.sim.tasks import find_task

_IN_THE_HEADLINE = ("teleport", "pass_through", "stuck")  # violations
_AHEAD = 5  # model steps, of the open-loop error in the headline
_AROUND = 4  # frames shown before and after a violation


class Rate(NamedTuple):
    """How often a criterion was met."""

    rate: float
    interval: tuple[float, float] | None
    baselines: dict[str, float] = {}
    criterion: str = ""  # "" for the task's own
    when: str = "any"  # or end


def success(results: list[Result]) -> list[dict]:
    """Return every closed-loop result with all of its rates, the task's own criterion first."""
    return [_success(result) for result in results]


def _success(result: Result) -> dict:
    values = result.values
    own = [
        _rate(values, "success_rate", "interval"),
        _rate(values, "success_at_end", "interval_at_end")._replace(when="end"),
    ]
    named = [
        _rate(values, when, f"{when}_interval", ("criteria", name))._replace(criterion=name, when=when)
        for name, criterion in values.get("criteria", {}).items()
        for when in ("any", "end")
        if finite(criterion.get(when)) is not None
    ]
    # A named criterion that is the task's own says it better.
    same = {(r.when, r.rate, r.interval) for r in named}
    return {
        "protocol": result.protocol,
        "pipelined": values.get("pipelined", True),
        "n": values["n"],
        "seed": values.get("seed", "–"),
        "any": own[0],
        "end": own[1],
        "rates": [*(r for r in own if (r.when, r.rate, r.interval) not in same), *named],
        "plan_ms": values.get("planning_ms", {}).get("p50"),
    }


def _rate(values: dict, rate: str, interval: str, under: tuple[str, ...] = ()) -> Rate:
    """Return the rate in ``values`` at the keys ``under``, and the same rate of the baselines."""

    def at(rates: dict) -> dict:
        for key in under:
            rates = rates.get(key, {})
        return rates

    baselines = {name: finite(at(rates).get(rate)) for name, rates in values.get("baselines", {}).items()}
    return Rate(
        float(at(values)[rate]),
        _pair(at(values).get(interval)),
        {name: value for name, value in baselines.items() if value is not None},
    )


def _pair(interval) -> tuple[float, float] | None:
    if interval is None:
        return None
    low, high = interval
    return float(low), float(high)


def robustness(result: Result) -> list[dict]:
    """Return the success under every perturbation and with clean images."""
    rows = []
    for name, levels in result.values["perturbations"].items():
        for level in levels if isinstance(levels, list) else [levels]:
            rate, n = finite(level.get("success_rate")), level.get("n")
            if rate is None:
                continue
            interval = _pair(level.get("interval"))
            if interval is None and isinstance(n, int) and n > 0:
                interval = wilson_interval(round(rate * n), n)
            strength = level.get("level")
            rows.append(
                {
                    "name": name,
                    "level": f"{strength:g}" if finite(strength) is not None else strength or "",
                    "n": "–" if n is None else n,
                    "rate": Rate(rate, interval),
                    "of_clean": level.get("of_clean"),
                    "at_end": level.get("success_at_end"),
                    "drift": level.get("drift"),
                }
            )
    return rows


def rollouts(films: list[Film], task: str, measured: bool) -> dict | None:
    """Return the films, and what reached means; None without films."""
    if not films:
        return None
    first = sum(not film.extra for film in films)
    return {
        "films": films,
        "first": first,
        "speed": films[0].speed,
        "goal": find_task(task).goal_words,
        "measured": measured,
    }


def learning(metrics: list[dict]) -> dict | None:
    """Return the learning curves; None where nothing is noted yet."""
    training = [row for row in metrics if finite(row.get("prediction")) is not None]
    validation = [{"step": row["step"], **row["validation"]} for row in metrics if "validation" in row]
    if not training:
        return None
    return {
        "plot": plots.learning_curves(training, validation),
        "steps": training[-1]["step"],
        "ratio": finite(validation[-1].get("ratio")) if validation else None,
    }


def probing(result: Result) -> dict:
    """Return probes as bars, and true against predicted."""
    values = result.values
    probes, ahead = values["probes"], values["open_loop"]
    nearest = sorted(zip(ahead["steps"], ahead["ratio"], strict=True), key=lambda pair: abs(pair[0] - _AHEAD))
    return {
        "bars": plots.probe_bars(probes),
        "scatter": plots.scatter(values["scatter"]) if values.get("scatter") else None,
        "episodes": values.get("episodes") or {},
        "latent_mlp": probes.get("mlp", {}).get("latent"),
        "ahead": {"steps": nearest[0][0], "ratio": nearest[0][1]} if nearest else None,
    }


def imagination(
    episodes: list[OpenLoopRollout], source: str, decoded: bool, result: Result | None
) -> dict | None:
    """Return the rollouts, and what ``result`` says of the decoder's pictures; None without rollouts."""
    if not episodes:
        return None
    rows = []
    if result is not None:
        moments = {"seen": result.values["block_cm"]}
        moments |= {
            f"{steps} steps ahead": a["all"]["block_cm"] for steps, a in result.values["ahead"].items()
        }
        rows = [{"name": name, "errors": errors} for name, errors in moments.items() if errors]
    return {
        "episodes": episodes,
        "source": source,
        "decoded": decoded,
        "measured": result and result.values,
        "rows": rows,
    }


def open_loop(errors: dict, spec: CheckpointSpec, source: str) -> dict | None:
    """Return the plot of the errors that ``evaluation.probing.open_loop`` returns; None without any."""
    if not errors["steps"]:
        return None
    plot = plots.open_loop(errors["steps"], errors["error"], errors["copy"], spec.period * spec.block)
    return {"plot": plot, "source": source}


def surprise(result: Result, task: str, spec: CheckpointSpec) -> dict:
    """Return scores by kind of violation, a table, and one episode over time with its pictures."""
    values = result.values
    threshold = finite(values.get("threshold"))
    scores = {"normal": values["scores"]["normal"], **values["scores"]}
    detected, medians, counts = (values.get(key) or {} for key in ("detected", "medians", "counts"))
    normal = finite(medians.get("normal"))
    areas, alarms, example = values["auroc"], values.get("false_alarms"), values.get("example")
    return {
        "scores": plots.surprise_scores({k: v for k, v in scores.items() if len(v)}, threshold),
        "threshold": threshold,
        "rows": [
            {
                "kind": kind,
                "n": counts.get(kind, "–"),
                "auroc": area,
                "detected": detected.get(kind),
                "times": medians[kind] / normal if normal and finite(medians.get(kind)) is not None else None,
            }
            for kind, area in areas.items()
        ],
        "headline": {k: areas[k] for k in _IN_THE_HEADLINE if finite(areas.get(k)) is not None},
        "alarms": alarms,
        "holds": values.get("holds"),
        "example": _example(example, task, spec, threshold) if isinstance(example, dict) else None,
    }


def _example(example: dict, task: str, spec: CheckpointSpec, threshold: float | None) -> dict:
    seen = int(example["step"]) + 1  # the first frame that shows it
    frames = list(enumerate(example_pictures(task, example)))
    scores = np.asarray(example["scores"], float)
    return {
        "kind": str(example.get("kind", "violation")),
        "seen": seen,
        "frames": frames[max(0, seen - _AROUND) : seen + _AROUND],
        "plot": plots.surprise_over_time(
            int(example["first_frame"]), scores, seen, threshold, spec.period * spec.block
        ),
    }
