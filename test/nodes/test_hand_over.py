"""A person moves the robot by hand, or takes it over: nothing of ours pulls it back."""

import itertools
import signal
import time

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.fault]
PERIOD, SPEED = 0.05, 0.4  # s; rad/s, the checkpoint's limit
MOVED = 0.5  # rad


@pytest.fixture
def arm(observer):
    from test.nodes.conftest import Robot

    return Robot(observer, "joint_trajectory")


def reach(command):
    """Return the places (points, joints) that a trajectory asks for."""
    return np.array([point.positions for point in command.points])


def seconds(message):
    """Return a message's stamp."""
    return message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec


def in_hold(arm, observer, ask):
    arm.get_moving()
    observer.until(lambda: arm.state() == "HOLD", again=arm.supply)


def in_fault(arm, observer, ask):
    arm.get_moving()
    assert ask.trigger("command/emergency_stop").success
    observer.until(lambda: arm.state() == "FAULT", again=arm.supply)


def in_ready(arm, observer, ask):
    in_fault(arm, observer, ask)
    assert ask.trigger("command/reset").success
    observer.until(lambda: arm.state() == "READY", again=arm.supply)


def in_waiting(arm, observer, ask):
    in_fault(arm, observer, ask)
    assert ask.trigger("command/reset").success
    observer.until(lambda: arm.state() == "WAITING", again=arm.publish_joints)


def in_released(arm, observer, ask):
    arm.get_moving()
    assert ask.trigger("command/release").success
    observer.until(lambda: arm.state() == "RELEASED", again=arm.supply)


def when_inactive(arm, observer, ask):
    in_hold(arm, observer, ask)
    assert ask.change_state("command_node", "deactivate")


STATES = (in_hold, in_fault, in_ready, in_waiting, in_released, when_inactive)


@pytest.mark.parametrize("come", STATES)
def test_fault_48_no_command_asks_an_arm_that_was_moved_by_hand_back(arm, observer, start_command, ask, come):
    node = start_command(arm)
    come(arm, observer, ask)
    feed = arm.publish_joints if come is in_waiting else arm.supply
    observer.repeat(feed, 10)
    observer.drain()
    arm.commands.clear()
    arm.pose = [MOVED, -MOVED]

    def near(command):
        return np.abs(reach(command) - arm.pose).max() <= SPEED * PERIOD + 1e-9

    if come in (in_hold, in_fault):
        observer.until(lambda: arm.commands and near(arm.commands[-1]), again=feed)  # it knows the new place
    observer.repeat(feed, 30)
    if come is when_inactive:
        assert not arm.commands
        assert ask.change_state("command_node", "activate")
        observer.repeat(feed, 10)
    assert ask.trigger("command/emergency_stop").success  # asks to hold the arm, wherever that is
    observer.repeat(feed, 30)
    node.send_signal(signal.SIGINT)  # the last message too
    observer.until(lambda: node.poll() is not None, again=arm.publish_joints)
    observer.repeat(lambda: None, 5)
    # From the first command on that was made after the measured pose has come.
    later = list(itertools.dropwhile(lambda command: not near(command), arm.commands))
    assert all(map(near, later)), later
    if come is in_released:
        assert len(later) == len(arm.commands)
    else:
        assert later  # it is held where it is


def test_fault_48_an_arm_that_is_pushed_while_it_moves_is_not_led_back(arm, observer, start_command, ask):
    start_command(arm)
    arm.get_moving()
    arm.commands.clear()
    arm.pose = [MOVED, -MOVED]
    observer.until(lambda: "jumped" in arm.reason(), again=arm.drive)
    assert arm.state() == "HOLD"
    arm.commands.clear()
    arm.get_moving()
    for command in arm.commands:
        assert np.abs(reach(command) - arm.pose).max() <= SPEED * (0.5 + 1.5 * PERIOD) + 1e-9


@pytest.mark.parametrize("how", ["command/release", "planner/enable"])
def test_fault_53_a_released_topic_is_silent_and_taking_over_ramps_up(
    any_robot, observer, start_command, ask, how
):
    start_command(any_robot)
    any_robot.report("planner_node", enabled="true", enable_calls="1", goal="true")
    any_robot.get_moving()
    if how == "command/release":
        assert ask.trigger(how).success
    else:
        any_robot.report("planner_node", enabled="false", enable_calls="1", goal="true")
    observer.until(lambda: any_robot.state() == "RELEASED", again=any_robot.drive)
    observer.until(lambda: not any_robot.moving(), again=any_robot.drive)  # a stop first
    silent = []

    def quiet():
        silent.append(len(any_robot.commands))
        any_robot.drive()

    observer.until(lambda: len(silent) > 20 and silent[-1] == silent[-15], again=quiet)
    now = time.time_ns()
    observer.repeat(any_robot.drive, 30)
    assert not any_robot.since(now, "commands")
    assert not any_robot.since(now, "executed")

    # Taking over: not without joints.
    def blind():
        any_robot.beat()
        any_robot.publish_latent()
        any_robot.publish_plan((0.4, 0.4))

    observer.repeat(blind, 10)  # the last joints may be on their way
    calls = itertools.count(2)

    def without_joints():
        # A call that is in the first heartbeat heard after the release counts as one before it: again.
        if any_robot.state() == "RELEASED":
            any_robot.report("planner_node", enabled="true", enable_calls=str(next(calls)), goal="true")
        blind()

    observer.until(
        lambda: any_robot.state() == "WAITING" and "joint_states" in any_robot.reason(), again=without_joints
    )
    any_robot.executed.clear()
    observer.until(any_robot.moving, again=lambda: without_joints() or any_robot.publish_joints())
    observer.until(
        lambda: any_robot.executed and any_robot.executed[-1].velocity[0] == 0.4,
        again=lambda: without_joints() or any_robot.publish_joints(),
    )
    speeds = [m.velocity[0] for m in any_robot.executed if m.velocity[0]]
    moments = np.array([seconds(m) for m in any_robot.executed if m.velocity[0]])
    # From 0 to 0.4 in half a second, whenever the control steps come on a busy machine.
    ramp = 0.4 * (moments - moments[0] + 2 * PERIOD) / 0.5
    assert np.all(speeds <= ramp), list(zip(moments - moments[0], speeds, strict=True))


def test_fault_53_reset_takes_a_released_robot_back_and_a_release_ends_the_sending_in_a_fault(
    any_robot, observer, start_command, ask
):
    start_command(any_robot)
    any_robot.get_moving()
    assert ask.trigger("command/emergency_stop").success
    assert ask.trigger("command/release").success
    observer.until(lambda: "nothing is sent" in any_robot.reason(), again=any_robot.drive)
    assert any_robot.state() == "FAULT"
    silent = []
    observer.until(  # what was sent before may still be on its way
        lambda: len(silent) > 15 and silent[-1] == silent[-15],
        again=lambda: any_robot.drive() or silent.append(len(any_robot.commands)),
    )
    assert ask.trigger("command/reset").success
    any_robot.get_moving()


def test_fault_53_nothing_is_sent_last_where_somebody_else_commands(any_robot, observer, start_command, ask):
    node = start_command(any_robot)
    any_robot.get_moving()
    assert ask.trigger("command/release").success
    observer.until(lambda: any_robot.state() == "RELEASED", again=any_robot.drive)
    observer.repeat(any_robot.drive, 30)
    now = time.time_ns()
    node.send_signal(signal.SIGINT)
    observer.until(lambda: node.poll() is not None, again=any_robot.drive)
    observer.repeat(lambda: None, 5)
    assert not any_robot.since(now, "commands")


def test_fault_53_a_release_outlives_the_process(any_robot, observer, start_command, ask):
    node = start_command(any_robot)
    any_robot.get_moving()
    assert ask.trigger("command/release").success
    observer.until(lambda: any_robot.state() == "RELEASED", again=any_robot.drive)
    node.send_signal(signal.SIGKILL)
    node.wait()
    killed = time.time_ns()
    any_robot.status.clear()
    start_command(any_robot)
    observer.until(lambda: any_robot.state() == "RELEASED", again=any_robot.drive)
    now = time.time_ns()
    observer.repeat(any_robot.drive, 20)
    assert not any_robot.since(now, "commands")
    assert not any(map(any_robot.moves, any_robot.since(killed, "commands")))
    assert ask.trigger("command/reset").success
    any_robot.get_moving()


def test_fault_53_a_stop_is_sent_to_a_released_robot_too(any_robot, observer, start_command, ask):
    start_command(any_robot)
    any_robot.get_moving()
    assert ask.trigger("command/release").success
    observer.until(lambda: any_robot.state() == "RELEASED", again=any_robot.drive)
    observer.repeat(any_robot.drive, 30)
    now = time.time_ns()
    assert ask.trigger("command/emergency_stop").success
    observer.until(lambda: len(any_robot.since(now, "commands")) > 0, again=any_robot.drive)
    assert not any(map(any_robot.moves, any_robot.since(now, "commands")))
    observer.until(lambda: "nothing is sent" in any_robot.reason(), again=any_robot.drive)
    assert any_robot.state() == "FAULT"
