"""The inputs of a report: results of ``evaluate --json`` and the metrics of a training run."""

import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from world_model_ros.errors import UserError
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.sim.tasks import find_task
from world_model_ros.training.loop import METRICS_NAME
from world_model_ros.training.state import recorded_settings

OTHER_PROTOCOLS = ("robustness", "probing", "surprise")  # than the task's own, which are closed-loop
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
