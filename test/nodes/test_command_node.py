"""What command_node sends, and the last that it sends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]


def test_plays_plans_clamps_them_and_stops_in_the_end(robot, observer, command):
    observer.until(lambda: len(robot.twists) > 5, again=lambda: robot.drive(action=(9.0, -0.1)))
    assert {(m.twist.linear.x, m.twist.linear.y) for m in robot.twists if robot.moves(m)} == {(0.4, -0.1)}
    assert robot.twists[-1].header.frame_id == "panda_link0"
    command.send_signal(signal.SIGINT)
    observer.until(lambda: command.poll() is not None)
    assert command.returncode == 0
    observer.until(lambda: not robot.moving())


def test_says_that_nothing_went_out_while_nothing_is_sent(robot, observer, command, ask):
    def show():
        robot.publish_joints()
        robot.publish_latent()

    observer.until(lambda: robot.state() == "READY", again=show)
    observer.until(lambda: len(robot.executed) > 5, again=show)
    assert {tuple(m.velocity) for m in robot.executed} == {(0.0, 0.0)}
    assert not robot.twists


def test_the_status_tells_an_inactive_node_from_one_that_moves_the_robot(robot, observer, command, ask):
    robot.get_moving()
    assert ask.change_state("command_node", "deactivate")
    observer.until(lambda: robot.status[-1].data == "WAITING: command_node is not active")
    assert ask.change_state("command_node", "activate")
    observer.until(lambda: robot.state() == "RUNNING", again=robot.drive)


def test_the_node_that_stops_the_robot_imports_no_torch():
    code = "import sys, world_model_ros.nodes.command_node; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
