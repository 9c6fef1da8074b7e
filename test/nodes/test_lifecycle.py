"""Managed nodes through their transitions, and back."""

import pytest

pytestmark = pytest.mark.ros
NODES = ("encoder_node", "planner_node", "command_node", "monitor_node", "imagination_node")
BROKEN = """
import sys
sys.argv = ["monitor_node", "--ros-args", "-p", "checkpoint:=%s", "-p", "autostart:=false"]
from world_model_ros.nodes import environment
environment.prepare()
from world_model_ros.nodes import monitor_node, running
def broken(*_):
    raise RuntimeError("nobody expected this")
monitor_node.load_checkpoint = broken
running.run(monitor_node.make_node)
"""


def state(observer, node):
    from lifecycle_msgs.srv import GetState

    return observer.call(GetState, f"{node}/get_state").current_state.label


@pytest.mark.parametrize("node", NODES)
def test_there_and_back_twice(processes, checkpoint, observer, ask, node):
    process = processes.node(node, config=False, checkpoint=checkpoint, autostart="false")
    assert state(observer, node) == "unconfigured"
    for _ in range(2):
        for transition, after in (
            ("configure", "inactive"),
            ("activate", "active"),
            ("deactivate", "inactive"),
            ("activate", "active"),
            ("deactivate", "inactive"),
            ("cleanup", "unconfigured"),
        ):
            assert ask.change_state(node, transition), process.log.read_text()
            assert state(observer, node) == after
    assert ask.change_state(node, "configure")
    assert ask.change_state(node, "activate")
    ask.change_state(node, "shutdown")
    observer.until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert "Traceback" not in process.log.read_text()


def test_a_configuration_that_cannot_be_is_one_sentence_and_leaves_the_node_there(processes, observer, ask):
    node = processes.node("encoder_node", config=False, checkpoint="/nowhere", autostart="false")
    assert not ask.change_state("encoder_node", "configure")
    assert state(observer, "encoder_node") == "unconfigured"
    observer.until(lambda: "cannot configure: no checkpoint at '/nowhere'" in node.log.read_text())
    assert "Traceback" not in node.log.read_text()


def test_the_traceback_of_a_failed_transition_is_logged(processes, checkpoint, observer, ask):
    node = processes.start("-c", BROKEN % checkpoint)
    assert not ask.change_state("monitor_node", "configure")
    assert state(observer, "monitor_node") == "unconfigured"
    observer.until(lambda: "nobody expected this" in node.log.read_text())
    assert "Traceback" in node.log.read_text()


def test_an_inactive_node_hears_nothing_and_says_so(processes, checkpoint, observer, ask):
    from std_srvs.srv import SetBool

    processes.node("planner_node", config=False, checkpoint=checkpoint, autostart="false")
    assert ask.change_state("planner_node", "configure")
    answer = observer.call(SetBool, "planner/enable", SetBool.Request(data=True))
    assert not answer.success
    assert "not active" in answer.message
    observer.until(lambda: ask.diagnosis("planner_node")[2].get("state") == "not active")
