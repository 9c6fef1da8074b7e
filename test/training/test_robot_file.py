"""``train --robot``: the data must be the robot's, and the checkpoint remembers which robot that is."""

import json

import h5py
import pytest
import yaml

from world_model_ros.cli import main
from world_model_ros.data.inspect import describe_checkpoint
from world_model_ros.data.robot import read_robot
from world_model_ros.model.config import RobotSpec, read_spec

ROBOT = {
    "name": "spot",
    "period": 0.05,
    "block": 2,
    "cameras": {"front": {"topic": "/front", "rate": 30}, "wrist": {"topic": "/wrist", "rate": 15}},
    "model_camera": "front",
    "joints": {"names": ["wheel"], "prefix": "left_"},
    "actions": {
        "names": ["linear_x", "linear_y"],
        "kind": "twist",
        "unit": "m/s",
        "frame": "base",
        "low": [-1.0, -1.0],
        "high": [1.0, 1.0],
    },
    "command": {"interface": "twist"},
}


@pytest.fixture
def robot(tmp_path):
    def write(**changes):
        values = ROBOT | changes
        values["actions"] = ROBOT["actions"] | changes.get("actions", {})
        path = tmp_path / "spot.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def data(tmp_path, write_episodes):
    path = write_episodes(tmp_path / "spot.h5", episodes=8)
    with h5py.File(path, "r+") as file:
        file.attrs["camera"], file.attrs["robot"] = "front", "recorded"
    return path


def test_the_checkpoint_remembers_the_robot(tmp_path, tiny, data, robot, command):
    none = {"temporal-steps": 0, "inverse-steps": 0}
    assert main(command(data, tmp_path, robot=robot(), steps=1, **none)) == 0
    spec = read_spec(tmp_path / "out")
    assert spec.robot == read_robot(robot()).spec
    assert spec.robot == RobotSpec("spot", "front", "/front", 30.0, ("wheel",), "left_", "twist")
    assert "--robot" in spec.training["command"]
    assert "robot: spot, camera front /front\n" in describe_checkpoint(tmp_path / "out")
    read_robot(robot()).check(spec, "out")
    # One that was made before knows no robot.
    path = tmp_path / "out" / "config.json"
    values = json.loads(path.read_text())
    del values["robot"]
    path.write_text(json.dumps(values))
    assert read_spec(tmp_path / "out").robot == RobotSpec()
    read_robot(robot()).check(read_spec(tmp_path / "out"), "out")


def test_without_a_robot_file_the_data_says_which_robot_it_was(tmp_path, tiny, data, command):
    none = {"temporal-steps": 0, "inverse-steps": 0}
    assert main(command(data, tmp_path, steps=1, **none)) == 0
    assert read_spec(tmp_path / "out").robot == RobotSpec(name="recorded", camera="front")


@pytest.mark.parametrize(
    ("changes", "theirs", "ours"),
    [
        (
            {"actions": {"names": ["linear_y", "linear_x"]}},
            "action names linear_x, linear_y",
            "linear_y, linear_x",
        ),
        ({"actions": {"unit": "rad/s"}}, "unit 'm/s'", "'rad/s'"),
        ({"actions": {"frame": "map"}}, "frame 'base'", "'map'"),
        ({"actions": {"high": [1.0, 2.0]}}, "limits [-1, 1], [-1, 1]", "[-1, 1], [-1, 2]"),
        ({"period": 0.1}, "period 0.05", "0.1"),
        ({"block": 5}, "block 2", "5"),
        ({"model_camera": "wrist"}, "model_camera 'front'", "'wrist'"),
    ],
)
def test_data_of_another_robot_is_refused_with_both_sides(
    tmp_path, capsys, data, robot, command, changes, theirs, ours
):
    assert main(command(data, tmp_path, robot=robot(**changes))) == 2
    error = capsys.readouterr().err
    assert f"{data} was not recorded with the robot of {tmp_path / 'spot.yaml'}: " in error
    assert f"{theirs} in the data and {ours} in {tmp_path / 'spot.yaml'}" in error
    assert not (tmp_path / "out").exists()


def test_data_that_states_no_limits_fits_the_robot(tmp_path, tiny, data, robot, command):
    with h5py.File(data, "r+") as file:
        del file.attrs["action_low"], file.attrs["action_high"]
    none = {"temporal-steps": 0, "inverse-steps": 0}
    assert main(command(data, tmp_path, robot=robot(), steps=1, **none)) == 0


def test_limits_that_are_not_one_for_each_action_are_refused(tmp_path, capsys, data, robot, command):
    with h5py.File(data, "r+") as file:
        file.attrs["action_low"] = [-1.0]
    assert main(command(data, tmp_path, robot=robot())) == 2
    assert "action_low must have a number for each of ['linear_x', 'linear_y']" in capsys.readouterr().err
