"""The inputs of a report: results of ``evaluate --json`` and the metrics of a training run.

The required contents of a file of results are checked before the page is made. An error after this check is a
bug of the code, not of the file.
"""

import json
import math
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path

from world_model_ros.errors import UserError
from world_model_ros.evaluation.problems import Problem
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.sim.tasks import find_task
from world_model_ros.training.metrics_log import METRICS_NAME
from world_model_ros.training.state import recorded_settings

# Other than the task's own, which are closed-loop.
OTHER_PROTOCOLS = ("imagination", "robustness", "probing", "surprise", "risk")
# Names in results of earlier versions: of protocols, of what is measured, of the planner's options.
_RENAMED = {
    "knowledge": "probing",
    "floors": "baselines",
    "widening": "first_solve_multiplier",
    "worth_moving": "stand_still_margin",
    "haste": "time_cost",
    "tolerance": "replan_tolerance",
    "doubt": "ood_penalty",
    "sharpness": "squared_distance_weight",
}
_IDENTITY = ("data", "commit", "seed", "steps", "minutes")  # of a training, as results note it


@dataclass(frozen=True)
class Result:
    """One file of results."""

    path: Path
    values: dict
    written: datetime

    @property
    def protocol(self) -> str:
        """The protocol that was measured."""
        return self.values["protocol"]

    @property
    def n(self) -> int:
        """Problems behind it; 0 where the file says none."""
        n = self.values.get("n")
        return n if isinstance(n, int) else 0

    def of(self, spec: CheckpointSpec) -> bool:
        """Whether the file can be about this checkpoint: nothing in it contradicts that."""
        noted = self.values.get("checkpoint")
        if not isinstance(noted, dict):
            return True
        known = [k for k in _IDENTITY if k in noted and k in spec.training]
        return all(noted[k] == spec.training[k] for k in known)


@dataclass
class Inputs:
    """All there is for a report; ``ignored`` says in sentences what was left out."""

    results: list[Result] = field(default_factory=list)
    metrics: list[dict] = field(default_factory=list)
    metrics_path: Path | None = None
    ignored: list[str] = field(default_factory=list)

    def all(self, *protocols: str) -> list[Result]:
        """Return the results of some protocols, in the order of ``protocols``.

        Of a protocol, the result with the most problems comes first; among equals the newest.
        """
        ordered = sorted(self.results, key=lambda r: (r.n, r.written), reverse=True)
        return [r for p in protocols for r in ordered if r.protocol == p]

    def best(self, protocol: str) -> Result | None:
        """Return the first result of a protocol by this order; None without one."""
        return next(iter(self.all(protocol)), None)


def read_inputs(folder: Path | None, run: Path | None, task: str, spec: CheckpointSpec) -> Inputs:
    """Read the results in ``folder`` and the metrics of ``run``, each where given.

    Results of other tasks and checkpoints, the curves of another training, and files that are no results
    are noted and left out.
    Raises UserError for a missing folder or a damaged file.
    """
    inputs = Inputs()
    if folder is not None:
        _read_results(folder, task, spec, inputs)
    if run is not None:
        inputs.metrics_path = run / METRICS_NAME
        inputs.metrics = _read_metrics(run)
        differing = _differing(recorded_settings(run), spec.training)
        if differing:
            inputs.metrics = []
            inputs.ignored.append(f"{run} is the run of another training: {differing}.")
    return inputs


def _read_results(folder: Path, task: str, spec: CheckpointSpec, inputs: Inputs) -> None:
    if not folder.is_dir():
        raise UserError(
            f"no folder of results at {folder}: fill one with `evaluate --json {folder}/NAME.json`."
        )
    for path in sorted(folder.glob("*.json")):
        try:
            values = json.loads(path.read_text())
            written = datetime.fromtimestamp(path.stat().st_mtime)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}): write it again with `evaluate --json`, or move it away."
            ) from None
        values = _renamed(values)
        if not isinstance(values, dict) or not isinstance(values.get("protocol"), str):
            inputs.ignored.append(f"{path.name} holds no results of a protocol that this page knows.")
            continue
        result = Result(path, values, written)
        if values.get("task", task) != task:
            inputs.ignored.append(f"{path.name} is about the task {values['task']}.")
        elif result.protocol not in (*(find_task(task).protocols if task else ()), *OTHER_PROTOCOLS):
            inputs.ignored.append(f"{path.name} holds no results of a protocol that this page knows.")
        elif not result.of(spec):
            inputs.ignored.append(f"{path.name} was measured on another checkpoint.")
        else:
            inputs.results.append(result)
    inputs.results.sort(key=lambda r: r.written)


def _renamed(values):
    """Return results with the names of today."""
    if not isinstance(values, dict):
        return values
    values = {_RENAMED.get(key, key): value for key, value in values.items()}
    if isinstance(values.get("protocol"), str):
        values["protocol"] = _RENAMED.get(values["protocol"], values["protocol"])
    if isinstance(values.get("planner"), dict):
        values["planner"] = {_RENAMED.get(key, key): value for key, value in values["planner"].items()}
    return values


def _differing(run: dict, training: dict) -> str:
    """Return in words where the settings of a run contradict what the checkpoint says of its training."""
    common = sorted(run.keys() & training.keys())
    return ", ".join(f"{k} {run[k]}, not {training[k]}" for k in common if run[k] != training[k])


def _read_metrics(run: Path) -> list[dict]:
    path = run / METRICS_NAME
    try:
        lines = path.read_text().splitlines()
    except OSError:
        raise UserError(
            f"no {METRICS_NAME} in {run}: give --run the folder that `train --run` wrote, or leave it out."
        ) from None
    metrics = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            metrics.append({**values, "step": int(values["step"])})
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                continue  # the line a kill cut short
            raise UserError(
                f"{path} is damaged in line {number}: remove that line, or leave out --run."
            ) from None
    return metrics


def finite(value) -> float | None:
    """Return a number that can be shown as a float; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


class Each:
    """A dict with any keys whose values all have one shape."""

    def __init__(self, shape):
        self.shape = shape


class Pair:
    """A list of two values of a shape."""

    def __init__(self, shape):
        self.shape = shape


# A shape is a type, "number" (or null, which is how JSON writes NaN), a dict of keys and shapes ("key?" may
# be absent or null), a list of one shape for all items, Each, Pair, or a tuple of shapes of which one fits.
NUMBER = "number"
_ANY = object
_RATES = {
    "success_rate": float,
    "success_at_end": float,
    "interval?": Pair(float),
    "interval_at_end?": Pair(float),
}
_CRITERION = {"any?": NUMBER, "end?": NUMBER, "any_interval?": Pair(float), "end_interval?": Pair(float)}
_BASELINE = {"success_rate?": NUMBER, "success_at_end?": NUMBER, "criteria?": Each(Each(_ANY))}
_LEVEL = {
    "success_rate?": NUMBER,
    "interval?": Pair(float),
    "of_clean?": NUMBER,
    "success_at_end?": NUMBER,
    "drift?": NUMBER,
}
_POINTS = [[NUMBER]]
CLOSED_LOOP = {
    **_RATES,
    "n": int,
    "criteria?": Each(_CRITERION),
    "baselines?": Each(_BASELINE),
    "planning_ms?": Each(NUMBER),
}
_MEAN = {"mean": float, "interval": Pair(float)}
SHAPES = {  # of the protocols that are not closed-loop
    "imagination": {
        "psnr": _MEAN,
        "ssim": _MEAN,
        "pictured": str,
        "block_cm": Each(_MEAN),
        "ahead": Each({"all": {"windows": int, "block_cm": Each(_MEAN)}}),
        "episodes": {"judged_frames": int, "judged_episodes": int},
    },
    "robustness": {"perturbations": Each((_LEVEL, [_LEVEL]))},
    "probing": {
        "probes": Each(Each(Each(NUMBER))),
        "open_loop": {"steps": [int], "error": [NUMBER], "copy": [NUMBER], "ratio": [float]},
        "scatter?": Each({"true": _POINTS, "predicted": _POINTS}),
        "episodes?": Each(_ANY),
    },
    "surprise": {
        "scores": Each([NUMBER]),
        "auroc": Each(NUMBER),
        "threshold?": NUMBER,
        "detected?": Each(NUMBER),
        "medians?": Each(NUMBER),
        "counts?": Each(int),
        "false_alarms?": {"alarms": int, "steps": int},
        "holds?": {"holds": int, "steps": int},
        "example?": {"step": int, "first_frame": int, "scores": [NUMBER], "seed": [int]},
    },
    "risk": {"events": int},
}
_FILMED = {
    "problems": [{"index": int, "seed": int, "start": [float], "goal": [float], "last_action?": [float]}],
    "outcomes": [{"index": int, "success": (bool, int)}],
    "budget?": int,
    "pipelined?": bool,
    "planner?": Each((NUMBER, str)),
}


def check_results(*results: Result | None) -> None:
    """Raise UserError naming the first of ``results`` that lacks what its section needs."""
    for result in results:
        if result is not None:
            _check(result, SHAPES.get(result.protocol, CLOSED_LOOP))
            problem = _inconsistent(result.values)
            if problem:
                _refuse(result, problem)


def check_filmed(result: Result) -> None:
    """Raise UserError where closed-loop results do not say which problems were run, and how."""
    _check(result, _FILMED)


def problem_of(values: dict) -> Problem:
    """Return a Problem of checked results."""
    return Problem(**_known(Problem, values))


def planner_of(result: Result) -> PlannerConfig:
    """Return the planner's settings of checked results. Raises UserError where they are none."""
    try:
        return PlannerConfig(**_known(PlannerConfig, result.values.get("planner") or {}))
    except TypeError as error:  # a word where a number belongs
        _refuse(result, f"planner: {error}")


def _known(cls, values: dict) -> dict:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def _check(result: Result, shape) -> None:
    problem = _problem(result.values, shape, "")
    if problem:
        _refuse(result, problem)


def _inconsistent(values: dict) -> str:
    """Return where parts of results that belong together do not fit, "" where they do."""
    if "normal" not in values.get("scores", {"normal": []}):
        return "scores.normal is missing"
    for kind, inputs in values.get("probes", {}).items():
        if not inputs or any(
            scores.keys() != next(iter(inputs.values())).keys() for scores in inputs.values()
        ):
            return f"probes.{kind} has no inputs, or other quantities for each"
    lengths = {len(column) for column in values.get("open_loop", {}).values() if isinstance(column, list)}
    if len(lengths) > 1:
        return "the lists in open_loop differ in length"
    for name, points in (values.get("scatter") or {}).items():
        shapes = {tuple(map(len, points[side])) for side in ("true", "predicted")}
        if len(shapes) > 1 or len(set(*shapes)) != 1:
            return f"scatter.{name} has true and predicted points that do not fit"
    return ""


def _refuse(result: Result, problem: str):
    raise UserError(
        f"{result.path} does not hold what a report needs ({problem}): write it again with "
        "`evaluate --json`, or move it away."
    )


def _problem(value, shape, name: str) -> str:
    """Return what is wrong with a value, in words; "" where it has the shape."""
    if isinstance(shape, tuple):
        problems = [_problem(value, one, name) for one in shape]
        return "" if "" in problems else problems[-1]
    if isinstance(shape, Each | dict):
        if not isinstance(value, dict):
            return _wrong(value, name, "named values")
        if isinstance(shape, Each):
            problems = (_problem(v, shape.shape, _inside(name, key)) for key, v in value.items())
        else:
            problems = (_member(value, key, one, name) for key, one in shape.items())
        return next(filter(None, problems), "")
    if isinstance(shape, list | Pair):
        one = shape[0] if isinstance(shape, list) else shape.shape
        if not isinstance(value, list) or (isinstance(shape, Pair) and len(value) != 2):
            return _wrong(value, name, "a list" if isinstance(shape, list) else "two numbers")
        return next(filter(None, (_problem(v, one, f"{name}[{i}]") for i, v in enumerate(value))), "")
    if shape == NUMBER:
        fits = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        return "" if fits else _wrong(value, name, "a number")
    fits = isinstance(value, (int, float) if shape is float else shape)
    return "" if fits else _wrong(value, name, getattr(shape, "__name__", str(shape)))


def _member(values: dict, key: str, shape, name: str) -> str:
    optional, key = key.endswith("?"), key.rstrip("?")
    if values.get(key) is None and (optional or key not in values):
        return "" if optional else f"{_inside(name, key)} is missing"
    return _problem(values[key], shape, _inside(name, key))


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _wrong(value, name: str, wanted: str) -> str:
    shown = repr(value)
    return f"{name} is {shown if len(shown) < 30 else type(value).__name__}, not {wanted}"
