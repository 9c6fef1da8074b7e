"""record.launch.py: its arguments are those of recorder_node, and what cannot be is refused in a sentence."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from world_model_ros.nodes.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "launch" / "record.launch.py").read_text()
needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None, reason="launch_ros is not installed here"
)


def test_every_argument_that_becomes_a_parameter_is_one():
    types = re.search(r"TYPES = \{(.*?)\}", TEXT, re.S)[1]
    names = set(re.findall(r'"(\w+)":', types))
    known = {p.name for p in PARAMETERS["recorder_node"]} | {"use_sim_time"}
    assert {"robot", "out", "keep_last"} <= names <= known
    assert names <= set(re.findall(r'^    \(\s*"(\w+)",', TEXT, re.M))


def described(**given):
    """Return the node's parameters under these arguments."""
    from launch.actions import DeclareLaunchArgument

    from launch import LaunchContext

    spec = importlib.util.spec_from_file_location("record_launch", ROOT / "launch" / "record.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    context.launch_configurations.update(given)
    for entity in module.generate_launch_description().entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    (node,) = module.nodes(context)
    node._perform_substitutions(context)
    path, wins = node._Node__expanded_parameter_arguments
    (values,) = yaml.safe_load(Path(wins[0]).read_text()).values()
    return path[0], values["ros__parameters"]


@needs_launch
def test_only_what_is_given_wins_over_the_file():
    robot = str(ROOT / "config" / "robot.yaml")
    path, values = described(robot=robot, out="a.h5")
    assert path == str(ROOT / "config" / "record.yaml")
    assert values == {"robot": robot, "out": "a.h5"}
    _, values = described(robot=robot, out="a.h5", keep_last="20.0", use_sim_time="true")
    assert (values["keep_last"], values["use_sim_time"]) == (20.0, True)


@needs_launch
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "robot is missing: add robot:="),
        ({"robot": "r.yaml"}, "out is missing"),
        ({"robot": "/no.yaml", "out": "a.h5"}, "there is no robot file /no.yaml"),
    ],
)
def test_what_the_node_would_refuse_is_said_in_a_sentence(given, words):
    from world_model_ros.errors import UserError

    with pytest.raises(UserError, match=words):
        described(**given)
