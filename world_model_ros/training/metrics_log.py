"""The metrics of a training on disk: metrics.jsonl, metrics.csv, and TensorBoard where it is installed."""

import contextlib
import csv
import json
import os
import shutil
from pathlib import Path

from world_model_ros.model.strict import json_text

METRICS_NAME = "metrics.jsonl"
CSV_NAME = "metrics.csv"
TENSORBOARD_NAME = "tensorboard"
_VALIDATED = ("prediction", "copy", "ratio", "latent_std", "effective_rank")
_REPORTED = (*_VALIDATED, "sigreg", "lr", "steps_per_second")
_COLUMNS = ("step", *_REPORTED, *(f"held_out_{name}" for name in _VALIDATED))


class MetricsLog:
    """Writes metrics into the folder of a training that goes on after ``step``.

    What an earlier process wrote about later steps is dropped: their state was not saved. metrics.csv has the
    content of metrics.jsonl, a column for each metric; those of held-out clips begin with "held_out".
    """

    def __init__(self, folder: Path, step: int):
        if step == 0:
            delete_metrics(folder)
        lines = _earlier_lines(folder / METRICS_NAME, step)
        self._files = contextlib.ExitStack()
        self._lines = self._files.enter_context((folder / METRICS_NAME).open("a"))
        rows = self._files.enter_context((folder / CSV_NAME).open("w", newline=""))
        self._rows, self._csv = rows, csv.DictWriter(rows, _COLUMNS, restval="", extrasaction="ignore")
        self._csv.writeheader()
        self._csv.writerows(_row(line) for line in lines)
        rows.flush()
        self._tensorboard = _summary_writer(folder / TENSORBOARD_NAME, step)
        if self._tensorboard:
            self._files.callback(self._tensorboard.close)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._files.close()

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of the steps since the last report."""
        self._write({"step": step, **metrics})

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of held-out clips."""
        self._write({"step": step, "validation": metrics})

    def _write(self, line: dict) -> None:
        self._lines.write(json_text(line) + "\n")
        self._lines.flush()
        self._csv.writerow(_row(line))
        self._rows.flush()
        if self._tensorboard:
            group, metrics = ("held_out", line["validation"]) if "validation" in line else ("training", line)
            for name, value in metrics.items():
                if name != "step":
                    self._tensorboard.add_scalar(f"{group}/{name}", value, line["step"])


def delete_metrics(folder: Path) -> None:
    """Delete the metrics of a training that begins again."""
    for name in (METRICS_NAME, CSV_NAME):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TENSORBOARD_NAME, ignore_errors=True)


def _row(line: dict) -> dict:
    return {
        **{name: value for name, value in line.items() if name != "validation"},
        **{f"held_out_{name}": value for name, value in line.get("validation", {}).items()},
    }


def _earlier_lines(path: Path, step: int) -> list[dict]:
    """Return the lines of a metrics file up to ``step``, and leave only these in it."""
    if not path.exists():
        return []
    kept = []
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
            if line["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # the line that a kill cut short, or what a power cut left
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json_text(line) + "\n" for line in kept))
    os.replace(temporary, path)
    return kept


def _summary_writer(folder: Path, step: int):
    """Return TensorBoard's writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
