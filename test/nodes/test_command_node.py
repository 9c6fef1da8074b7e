"""What command_node sends, and the last that it sends."""

import signal

import pytest

pytestmark = pytest.mark.ros


def test_plays_plans_clamps_them_and_stops_in_the_end(robot, observer, command):
    observer.until(lambda: len(robot.twists) > 5, again=lambda: robot.drive(action=(9.0, -0.1)))
    assert {(m.twist.linear.x, m.twist.linear.y) for m in robot.twists} == {(0.4, -0.1)}
    assert robot.twists[-1].header.frame_id == "panda_link0"
    command.send_signal(signal.SIGINT)
    observer.until(lambda: command.poll() is not None, seconds=3)
    assert command.returncode == 0
    observer.until(lambda: not robot.moving(), seconds=3)
