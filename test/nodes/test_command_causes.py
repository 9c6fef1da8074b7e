"""What the command side reads from the other nodes, and the causes that its status names."""

import signal
import time

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.fault]


def holds(robot, *words, again=None):
    robot.observer.until(
        lambda: robot.state() == "HOLD" and all(word in robot.reason() for word in words),
        again=again or robot.drive,
    )


@pytest.fixture
def arm(observer):
    from test.nodes.conftest import Robot

    return Robot(observer, "joint_trajectory")


def test_fault_09_a_frozen_camera_stays_the_cause_when_its_frames_are_missed(
    any_robot, observer, start_command
):
    start_command(any_robot)
    any_robot.report("encoder_node")
    any_robot.get_moving()
    any_robot.report("encoder_node", "hold", "camera/image_raw: frozen for 1.2 s")

    def without_frames():
        any_robot.beat()
        any_robot.publish_joints()
        any_robot.publish_plan()

    holds(any_robot, "frozen", again=without_frames)
    any_robot.status.clear()  # a busy machine may have delayed a frame before
    any_robot.stands(again=without_frames, steps=20)  # longer than image_timeout
    assert not [m.data for m in any_robot.status if "camera/image_raw stopped" in m.data]


def test_fault_43_a_second_command_node_stops_both_until_one_is_gone(any_robot, observer, start_command, ask):
    node = start_command(any_robot)
    any_robot.get_moving()
    second = start_command(any_robot)
    for process in (node, second):
        observer.until(
            lambda p=process: "HOLD: another command_node" in p.log.read_text(), again=any_robot.drive
        )
    observer.until(lambda: not any_robot.moving(), again=any_robot.drive)
    any_robot.stands(again=any_robot.drive, steps=40)
    second.send_signal(signal.SIGKILL)  # its endpoints stay in the graph, its heartbeat does not
    second.wait()

    def goes_on():
        if "did not run" in any_robot.reason():  # on a busy machine; then a person has to look
            ask.trigger("command/reset")
        any_robot.drive()

    observer.until(any_robot.moving, again=goes_on)


@pytest.mark.parametrize("name", ["encoder_node", "planner_node", "monitor_node"])
def test_fault_54_a_node_that_hangs_without_dying_is_missed(any_robot, observer, start_command, name):
    start_command(any_robot)
    any_robot.report(name)
    any_robot.get_moving()
    hung = any_robot.health_of.pop(name)
    any_robot.be_read(again=any_robot.drive)
    holds(any_robot, f"{name} does not respond")
    any_robot.stands(again=any_robot.drive)
    any_robot.health_of[name] = hung
    any_robot.get_moving()


def test_fault_54_a_real_node_that_hangs_is_missed_and_one_that_was_ended_is_named(
    robot, observer, start_command, processes, checkpoint
):
    from diagnostic_msgs.msg import DiagnosticStatus

    start_command(robot)
    monitor = processes.node("monitor_node", config=False, checkpoint=checkpoint)
    health = observer.collect(DiagnosticStatus, "monitor_node/health")
    observer.until(
        lambda: any(v.key == "state" and v.value == "active" for m in health[-1:] for v in m.values),
        again=robot.drive,
    )
    robot.get_moving()
    observer.repeat(robot.drive, 10)  # so that command_node has heard it too
    monitor.send_signal(signal.SIGSTOP)
    holds(robot, "monitor_node does not respond")
    monitor.send_signal(signal.SIGCONT)
    robot.get_moving()
    monitor.send_signal(signal.SIGINT)
    holds(robot, "monitor_node was ended")


def test_fault_46_a_reset_overrides_a_hold_of_the_monitor_slowly_and_for_a_while(
    any_robot, observer, start_command, ask
):
    start_command(any_robot, override_time=2.0)
    any_robot.report("monitor_node")
    any_robot.get_moving()
    any_robot.report("monitor_node", "hold", "the picture is like none seen in training")
    holds(any_robot, "like none seen in training", "command/reset goes on for 2 s at 0.25")
    any_robot.stands(again=any_robot.drive)  # what was sent before the hold has arrived
    any_robot.executed.clear()
    # Heartbeats go on: a monitor that is missed asks for nothing.
    answer = ask.trigger("command/reset", again=any_robot.supply)
    assert "0.25" in answer.message
    any_robot.get_moving()
    observer.until(lambda: "in spite of monitor_node" in any_robot.reason(), again=any_robot.drive)
    holds(any_robot, "like none seen in training")
    speeds = {m.velocity[0] for m in any_robot.executed if m.velocity[0]}
    assert speeds == {0.05}
    any_robot.stands(again=any_robot.drive)
    # Only the monitor's: a planner's hold stays.
    any_robot.report("monitor_node")
    any_robot.report("planner_node", "hold", "no progress")
    holds(any_robot, "no progress")
    assert ask.trigger("command/reset").success
    any_robot.stands(again=any_robot.drive, steps=30)


def test_fault_47_a_hold_that_returns_whenever_the_robot_moves_is_a_fault(any_robot, observer, start_command):
    start_command(any_robot, repeated_holds_window=60.0)
    for _ in range(10):  # more than 3 where a busy machine lets the camera's HOLD come first
        any_robot.report("monitor_node")
        observer.until(
            lambda: any_robot.state() == "FAULT" or (any_robot.moving() and any_robot.state() == "RUNNING"),
            again=any_robot.drive,
        )
        any_robot.report("monitor_node", "hold", "surprised by 3 model steps in a row")
        observer.until(
            lambda: "surprised" in any_robot.reason() and any_robot.state() in ("HOLD", "FAULT"),
            again=any_robot.drive,
        )
        if any_robot.state() == "FAULT":
            break
    assert any_robot.state() == "FAULT"
    assert "3 times within 60 s" in any_robot.reason()
    any_robot.report("monitor_node")
    any_robot.stands(again=any_robot.drive, steps=20)


@pytest.mark.parametrize("interface", ["velocities", "joint_trajectory"])
def test_fault_50_two_publishers_of_joint_states_that_contradict_each_other_are_named(
    observer, start_command, interface
):
    import rclpy
    from sensor_msgs.msg import JointState

    from test.nodes.conftest import Robot

    robot = Robot(observer, interface)
    start_command(robot)
    robot.get_moving()
    other = rclpy.create_node("simulator", context=observer.context)
    joints = other.create_publisher(JointState, "joint_states", 10)

    times = []

    def contradict():
        times.append(time.monotonic())
        robot.drive()
        joints.publish(JointState(name=robot.joint_names, position=[0.5, 0.0]))

    holds(robot, "/observer", "/simulator", "contradict each other", again=contradict)
    stalls = 0
    while stalls < 5:
        times.clear()
        try:
            robot.stands(again=contradict, steps=20)
            break
        except AssertionError:  # a second without a contradiction ends it: was it this test that stalled?
            if max(np.diff(times), default=0.0) < 0.5:
                raise
            stalls += 1
            observer.until(lambda: robot.state() == "HOLD", again=contradict)
    assert stalls < 5
    other.destroy_node()
    robot.get_moving()


def test_fault_51_joints_that_several_publishers_share_are_collected_without_a_word(
    any_robot, observer, start_command
):
    node = start_command(any_robot)
    parts = [{"name": [name], "position": [0.0]} for name in any_robot.joint_names]

    def in_parts():
        any_robot.publish_latent()
        any_robot.publish_plan()
        for part in parts:
            any_robot.publish_joints(**part)
            if not any_robot.interface.startswith("twist"):
                any_robot.publish_joints(name=["finger"], position=[float("nan")])

    observer.until(any_robot.moving, again=in_parts)
    any_robot.status.clear()
    observer.repeat(in_parts, 40)
    # Of single joints; a busy machine may delay the latents, or all of the joints.
    named = () if any_robot.interface.startswith("twist") else any_robot.joint_names
    all_stopped = f"HOLD: joint_states stopped{' (' + ', '.join(named) + ')' if named else ''}: "
    assert not [m.data for m in any_robot.status if "HOLD: joint" in m.data and all_stopped not in m.data]
    assert "rejected" not in node.log.read_text()
    if len(parts) > 1:  # each has an age of its own
        parts.pop()
        any_robot.be_read(again=in_parts)
        holds(any_robot, "joint_states stopped (joint2)", again=in_parts)
        any_robot.stands(again=in_parts)


def test_fault_52_a_continuous_joint_wraps_without_a_step_of_a_turn(arm, observer, start_command):
    limits = {"limits.position_low": "[-50.0, -50.0]", "limits.position_high": "[50.0, 50.0]"}
    start_command(arm, continuous_joints="joint1", **limits)
    arm.pose = [3.13, 0.0]
    arm.get_moving()
    arm.commands.clear()
    arm.pose = [-3.13, 0.0]
    count = len(arm.status)
    observer.repeat(arm.drive, 20)
    observer.until(lambda: len(arm.commands) > 5 and arm.state() == "RUNNING", again=arm.drive)
    # It goes on, or stops because this test was too busy to drive it.
    said = [message.data for message in arm.status[count:]]
    assert all("RUNNING" in text or " stopped (" in text for text in said), said
    places = [p.positions[0] for c in arm.commands for p in c.points]
    assert min(places) > 3.0


def test_fault_52_a_joint_that_wraps_unnamed_stops_the_robot_and_names_the_parameter(
    arm, observer, start_command
):
    start_command(arm)
    arm.pose = [3.13, 0.0]
    arm.get_moving()
    arm.pose = [-3.13, 0.0]
    arm.publish_joints()
    holds(arm, "continuous_joints", "joint1")


def test_joints_have_a_prefix_on_both_sides(arm, observer, start_command, processes):
    wrong = start_command(arm)
    arm.joint_names = ["left_joint1", "left_joint2"]
    observer.until(lambda: "joint_prefix to 'left_'" in arm.reason(), again=arm.drive)
    assert arm.state() == "WAITING"
    wrong.send_signal(signal.SIGINT)
    observer.until(lambda: wrong.poll() is not None)
    start_command(arm, joint_prefix="left_")
    arm.get_moving()
    assert arm.commands[-1].joint_names == arm.joint_names
    assert arm.executed[-1].name == ["joint1", "joint2"]


def test_fault_57_a_camera_that_is_too_slow_is_named_with_both_rates(any_robot, observer, start_command):
    start_command(any_robot)
    any_robot.get_moving()
    turn, began = [0], any_robot.clock()

    def slow():  # 5 Hz by its stamps; by load the frames may come as far apart as model steps, which will do
        any_robot.publish_joints()
        any_robot.publish_plan()
        turn[0] += 1
        if turn[0] % 4 == 0:
            any_robot.publish_latent(began + turn[0] * 50_000_000)

    holds(any_robot, "camera/image_raw is too slow: 5.0 Hz seen, 10 Hz needed", again=slow)
    any_robot.stands(again=slow)
    any_robot.get_moving()


def test_fault_60_and_44_the_interface_and_the_limits_are_said_at_configure(
    any_robot, observer, start_command
):
    node = start_command(any_robot, **{"limits.max_step": "[0.05, 0.1]", "limits.high": "[0.3, 0.4]"})
    any_robot.get_moving()
    log = node.log.read_text()
    first = any_robot.action_names[0]
    assert f"limits in force ({'m/s' if first == 'linear_x' else 'rad/s'}): {first} -0.4 to 0.3" in log
    assert "in steps of at most 0.05" in log
    warned = [line for line in log.splitlines() if "keeps the last velocity" in line]
    assert len(warned) == (any_robot.interface in ("velocities", "twist_unstamped"))
    assert all("WARN" in line for line in warned)


def test_a_fault_is_logged_as_an_error_and_a_hold_as_a_warning(robot, observer, start_command, ask):
    node = start_command(robot)
    robot.get_moving()
    holds(robot, "no plan", again=robot.supply)
    assert ask.trigger("command/emergency_stop").success
    observer.until(lambda: "FAULT: emergency stop" in node.log.read_text(), again=robot.drive)
    lines = node.log.read_text().splitlines()
    assert all("WARN" in line for line in lines if " HOLD: " in line)
    assert all("ERROR" in line for line in lines if " FAULT: " in line)


def test_status_says_what_the_planner_needs(robot, observer, start_command):
    start_command(robot)
    robot.report("planner_node", enabled="false", enable_calls="0", goal="false")
    words = ("waiting for the first plan", "has no goal", "goal/image", "not enabled", "planner/enable")
    observer.until(lambda: all(word in robot.reason() for word in words), again=robot.supply)
    assert robot.state() == "READY"
    robot.report("planner_node", enabled="true", enable_calls="1", goal="true")
    observer.until(lambda: robot.reason() == "waiting for the first plan", again=robot.supply)


def test_status_says_that_commands_are_cut_and_by_which_limit(any_robot, observer, start_command):
    start_command(any_robot)

    def wild():
        any_robot.supply()
        any_robot.publish_plan(action=(9.0, -0.1))

    observer.until(lambda: "cut to stay within the limits (limits.high)" in any_robot.reason(), again=wild)
    assert any_robot.state() == "RUNNING"
