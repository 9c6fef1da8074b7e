import csv
import json
import sys
import types

import pytest

from world_model_ros.training.metrics_log import MetricsLog

REPORTED = {"prediction": 0.5, "sigreg": 2.0, "lr": 1e-3, "steps_per_second": 8.0}
VALIDATED = {"prediction": 0.75, "ratio": 0.25}


@pytest.fixture
def summaries(monkeypatch):
    """Put a recorder in the place of TensorBoard's writer; return what it was given."""
    given = []

    class Writer:
        def __init__(self, folder, purge_step):
            given.append((folder, purge_step))

        def add_scalar(self, *values):
            given.append(values)

        def close(self):
            given.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return given


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_every_metric_goes_into_a_line_a_row_and_tensorboard(tmp_path, summaries):
    with MetricsLog(tmp_path, 0) as log:
        log.report(20, REPORTED)
        log.validation(20, VALIDATED)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 20, **REPORTED}, {"step": 20, "validation": VALIDATED}]
    held_out = {"held_out_prediction": 0.75, "held_out_ratio": 0.25}
    assert rows(tmp_path) == [{"step": 20, **REPORTED}, {"step": 20, **held_out}]
    assert summaries == [
        (str(tmp_path / "tensorboard"), 1),
        *((f"training/{name}", value, 20) for name, value in REPORTED.items()),
        *((f"held_out/{name}", value, 20) for name, value in VALIDATED.items()),
        "closed",
    ]


def test_what_follows_the_saved_step_is_dropped_everywhere(tmp_path, summaries):
    with MetricsLog(tmp_path, 0) as log:
        for step in (20, 40):
            log.report(step, REPORTED)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('[]\n{}\n\0\0\n{"step": 6')  # a power cut left these, a kill cut the last one short
    del summaries[:]
    with MetricsLog(tmp_path, 25) as log:
        log.report(40, {**REPORTED, "lr": 2e-3})
    assert [(row["step"], row["lr"]) for row in rows(tmp_path)] == [(20, 1e-3), (40, 2e-3)]
    assert summaries[0] == (str(tmp_path / "tensorboard"), 26)
    with MetricsLog(tmp_path, 0):
        assert rows(tmp_path) == []


def test_tensorboard_itself_reads_what_is_written(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with MetricsLog(tmp_path, 0) as log:
        log.report(20, REPORTED)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Scalars("training/sigreg")
    assert (event.step, event.value) == (20, 2.0)


def test_without_tensorboard_the_files_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with MetricsLog(tmp_path, 0) as log:
        log.report(20, REPORTED)
    assert rows(tmp_path) == [{"step": 20, **REPORTED}]
    assert not (tmp_path / "tensorboard").exists()
