"""A checkpoint whose actions mean something else than the task's is refused, with both sides."""

import dataclasses
import importlib.util

import pytest

from world_model_ros import cli
from world_model_ros.errors import UserError
from world_model_ros.model.config import interface_differences, read_spec
from world_model_ros.nodes import starter
from world_model_ros.sim.tasks import check_world

# What a checkpoint may say of its actions, and both sides as the sentence prints them.
OTHERS = [
    (
        {"names": ("linear_y", "linear_x")},
        "linear_y, linear_x in the checkpoint and linear_x, ",
    ),
    ({"kind": "joint_velocity"}, "kind 'joint_velocity' in the checkpoint and 'twist' in reach"),
    ({"unit": "mm/s"}, "unit 'mm/s' in the checkpoint and 'm/s' in reach"),
    ({"unit": ""}, "unit '' in the checkpoint and 'm/s' in reach"),
    ({"frame": "tool0"}, "frame 'tool0' in the checkpoint and 'panda_link0' in reach"),
    (
        {"high": (0.4, 0.8)},
        "limits [-0.4, 0.4], [-0.4, 0.8] in the checkpoint and [-0.4, 0.4], [-0.4, 0.4] in reach",
    ),
    (
        {"low": (-0.2, -0.4)},
        "limits [-0.2, 0.4], [-0.4, 0.4] in the checkpoint and [-0.4, 0.4], [-0.4, 0.4] in reach",
    ),
]


@pytest.fixture(scope="module")
def spec():
    return read_spec("models/reach")


@pytest.mark.parametrize(("action", "both"), OTHERS)
def test_a_checkpoint_of_other_actions_does_not_fit(spec, action, both):
    other = dataclasses.replace(spec, action=dataclasses.replace(spec.action, **action))
    with pytest.raises(UserError, match="does not fit the task reach") as refused:
        check_world(other, "reach")
    assert both in str(refused.value)


@pytest.mark.parametrize(("timing", "both"), [({"period": 0.1}, "period 0.1"), ({"block": 4}, "block 4")])
def test_a_checkpoint_of_other_timing_does_not_fit(spec, timing, both):
    with pytest.raises(UserError, match=both):
        check_world(dataclasses.replace(spec, **timing), "push")


def test_the_shipped_checkpoints_fit_all_tasks():
    for name in ("reach", "push", "glass", "detour"):
        for task in ("reach", "push", "glass", "detour"):
            check_world(read_spec(f"models/{name}"), task)


def test_limits_rounded_to_single_precision_are_the_same_and_unstated_ones_are_not_compared(spec):
    ours = spec.interface
    rounded = ours._replace(low=(-0.4000000059604645,) * 2)
    assert interface_differences(ours, rounded, ("", "")) == []
    assert interface_differences(ours, ours._replace(low=(), high=()), ("", "")) == []
    assert interface_differences(ours, ours._replace(low=(-0.39, -0.4)), ("", ""))


def test_the_simulation_does_not_start_with_a_checkpoint_of_other_actions(spec, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    other = dataclasses.replace(spec, action=dataclasses.replace(spec.action, frame="tool0"))
    (folder / "config.json").write_text(other.to_json())
    (folder / "model.safetensors").touch()
    values = starter.DEFAULTS | {"checkpoint": str(folder)}
    with pytest.raises(UserError, match="frame 'tool0' in the checkpoint and 'panda_link0' in reach"):
        starter.check(values)


def test_a_checkpoint_of_another_task_gets_a_warning():
    values = starter.DEFAULTS | {"task": "push", "checkpoint": "models/reach"}
    assert "the checkpoint was trained on reach, this is push" in starter.warning(values)
    assert starter.warning(values | {"task": "reach"}) == ""


@pytest.mark.parametrize(
    ("task", "warned"),
    [("push", "warning: the checkpoint was trained on reach, this is push"), ("reach", "")],
)
def test_evaluate_and_collect_warn_too(task, warned, tmp_path, capsys):
    small = ["--samples", "8", "--elites", "2", "--iterations", "1", "-n", "1", "--budget", "2"]
    words = ["--task", task, "--checkpoint", "models/reach"]
    assert cli.main(["evaluate", *words, *small, "--no-baselines"]) == 0
    told = capsys.readouterr().err
    assert warned in told
    assert told.count("warning:") == bool(warned)
    made = ["--out", str(tmp_path / "a.h5"), "--episodes", "1", "--length", "3", "--size", "16"]
    assert cli.main(["collect", "--policy", "planner", *words, *made]) == 0
    told = capsys.readouterr().err
    assert warned in told
    assert told.count("warning:") == bool(warned)


def test_without_rclpy_the_simulation_says_what_is_missing_before_anything_starts(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "rclpy" else find(name, *a)
    )
    monkeypatch.setattr(starter, "start_processes", lambda _: pytest.fail("nodes were started"))
    assert cli.main(["sim", "--task", "reach"]) == 2
    assert "this Python has no rclpy" in capsys.readouterr().err
