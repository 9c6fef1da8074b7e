"""A version that is too old is refused before anything is imported. Needs no ROS."""

import importlib.metadata

import pytest

from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.nodes.environment import check_versions

NEW = {"rclpy": "7.1.6", "torch": "2.1.0"}


def versions(**given):
    def version(name):
        if (NEW | given)[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return (NEW | given)[name]

    return version


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rclpy": "3.3.11"}, "rclpy 3.3.11 is too old, 7.1 or newer is needed: install ROS 2 Jazzy"),
        ({"rclpy": "4.1.3"}, "rclpy 4.1.3 is too old"),
        ({"torch": "2.0.1+cu118"}, "torch 2.0.1+cu118 is too old, 2.1 or newer is needed"),
        ({"torch": "1.13.1"}, "torch 1.13.1 is too old"),
    ],
)
def test_what_is_too_old_is_a_sentence_with_the_version_that_is_needed(given, expected):
    with pytest.raises(UserError, match="too old") as caught:
        check_versions(versions(**given))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{}, {"rclpy": "9.1.2"}, {"torch": "2.13.0+cpu"}, {"torch": "10.0"}, {"torch": None}, {"rclpy": ""}],
)
def test_what_is_new_enough_or_does_not_say_is_taken(given):
    check_versions(versions(**given))


OLD = """
import importlib.metadata, sys
from world_model_ros.nodes import environment
real = importlib.metadata.version
fake = lambda name: "3.3.11" if name == "rclpy" else real(name)
environment.check_versions.__defaults__ = (fake,)
sys.argv = ["command_node"]
from world_model_ros.nodes.__main__ import start
sys.exit(start("command_node"))
"""


@pytest.mark.ros
def test_a_node_on_an_old_distribution_ends_with_a_sentence_and_exit_code_2(processes, observer):
    node = processes.start("-c", OLD)
    observer.until(lambda: node.poll() is not None)
    assert node.returncode == 2
    (line,) = node.log.read_text().splitlines()
    assert line == (
        "command_node: error: rclpy 3.3.11 is too old, 7.1 or newer is needed: install ROS 2 Jazzy or newer."
    )


@pytest.mark.parametrize("name", ["bad-name!", "two words", "9", "/left//arm", "/left/"])
def test_a_namespace_that_ros_does_not_know_is_one_sentence(name, tmp_path, capsys):
    out = ["--out", str(tmp_path / "mine.h5"), "--robot", "config/robot.yaml"]
    for verb in (["goal", "camera"], ["record", *out]):
        assert main([*verb, "--namespace", name]) == 2
        assert f"--namespace is '{name}'" in capsys.readouterr().err
