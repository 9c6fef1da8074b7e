"""Rows of the fault table that the command side answers for, on a real node."""

import signal

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.fault]


def test_fault_01_no_image_ever_means_no_command(robot, observer, command, ask):
    def without_image():
        robot.publish_joints()
        robot.publish_plan()

    observer.until(lambda: "camera/image_raw" in robot.reason(), again=without_image)
    assert robot.state() == "WAITING"
    observer.until(lambda: ask.diagnosed("command_node", "camera/image_raw"), again=without_image)
    assert ask.diagnosis("command_node")[0] == b"\x01"
    count = len(robot.executed)
    observer.until(lambda: len(robot.executed) > count + 10, again=without_image)
    command.send_signal(signal.SIGTERM)
    observer.until(lambda: command.poll() is not None)
    assert robot.twists == []


def test_fault_02_a_camera_that_drops_holds_until_frames_are_back(robot, observer, command):
    robot.get_moving()

    def without_image():
        robot.publish_joints()
        robot.publish_plan()

    observer.until(
        lambda: robot.state() == "HOLD" and "camera/image_raw" in robot.reason(), again=without_image
    )
    observer.until(robot.at_rest, again=without_image)
    robot.publish_latent()  # one frame is not enough
    count = len(robot.twists)
    observer.until(lambda: len(robot.twists) > count + 3, again=without_image)
    assert robot.at_rest(4)
    robot.get_moving()


def test_fault_11_joints_that_stop_hold_the_robot(robot, observer, command):
    robot.get_moving()

    def without_joints():
        robot.publish_latent()
        robot.publish_plan()

    observer.until(lambda: robot.state() == "HOLD" and "joint_states" in robot.reason(), again=without_joints)
    observer.until(robot.at_rest, again=without_joints)
    robot.get_moving()


def test_fault_12_joints_that_are_not_finite_are_as_good_as_none(robot, observer, command):
    robot.get_moving()

    def broken():
        robot.publish_joints(position=[float("nan")])
        robot.publish_latent()
        robot.publish_plan()

    words = "was rejected: joint_states holds numbers that are not finite"
    observer.until(
        lambda: (
            robot.state() == "HOLD" and "joint_states" in robot.reason() and words in command.log.read_text()
        ),
        again=broken,
    )
    robot.get_moving()
    assert command.log.read_text().count(words) == 1


def test_fault_14_actions_outside_the_limits_are_clamped_and_in_the_end_a_fault(
    processes, checkpoint, robot, observer, ask
):
    processes.node("command_node", config=False, checkpoint=checkpoint, clamped_steps=20)
    observer.until(lambda: robot.state() == "FAULT", again=lambda: robot.drive(action=(9.0, 0.0)))
    assert "limits" in robot.reason()
    assert max(m.twist.linear.x for m in robot.twists) == 0.4
    observer.until(robot.at_rest, again=robot.drive)
    assert ask.trigger("command/reset").success
    robot.get_moving()


def test_fault_16_a_plan_that_is_used_up_holds(robot, observer, command):
    robot.get_moving()

    def without_plan():
        robot.publish_joints()
        robot.publish_latent()

    observer.until(lambda: robot.state() == "HOLD" and "no plan" in robot.reason(), again=without_plan)
    observer.until(robot.at_rest, again=without_plan)
    robot.get_moving()


def test_fault_22_the_safe_command_is_the_last(robot, observer, command, processes):
    robot.get_moving()
    command.send_signal(signal.SIGTERM)
    processes.ends_within(command, 2.0, observer.spin)
    assert command.returncode == 0
    observer.until(lambda: not robot.moving())


def test_fault_23_deactivating_mid_plan_stops_first(robot, observer, command, ask):
    robot.get_moving()
    assert ask.change_state("command_node", "deactivate")
    answered = robot.clock()
    observer.until(lambda: not robot.moving())
    observer.repeat(robot.drive, 10)
    # Nothing is accepted any more.
    assert all(m.header.stamp.sec * 10**9 + m.header.stamp.nanosec < answered for m in robot.twists)
    assert not robot.moving()
    assert ask.change_state("command_node", "activate")
    robot.get_moving()


def test_fault_27_a_bad_parameter_is_refused_with_a_reason_and_changes_nothing(robot, observer, command, ask):
    for name, value, expected in (
        ("joint_timeout", -1.0, "joint_timeout"),
        ("joint_timeout", float("nan"), "nan"),
        ("joint_timeout", "soon", "type"),
        ("command.interface", "velocities", "read-only"),
    ):
        result, kept = ask.set_parameter("command_node", name, value)
        assert not result.successful
        assert expected in result.reason
        assert kept == (0.5 if name == "joint_timeout" else "twist")
    result, kept = ask.set_parameter("command_node", "joint_timeout", 0.75)
    assert result.successful
    assert kept == 0.75


def test_fault_29_a_clock_that_stands_or_jumps_back_stops_the_robot(
    processes, checkpoint, robot, observer, ask
):
    from rosgraph_msgs.msg import Clock

    time = [5_000_000_000]
    robot.clock = lambda: time[0]
    clock = observer.node.create_publisher(Clock, "/clock", 10)

    def tell():
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(time[0], 1_000_000_000)
        clock.publish(message)

    def drive_all():
        time[0] += 50_000_000
        robot.drive()
        tell()

    node = processes.node("command_node", config=False, checkpoint=checkpoint, use_sim_time="true")
    # use_sim_time without /clock: nothing
    observer.until(lambda: robot.joints.get_subscription_count() > 0)
    observer.repeat(robot.drive, 10)
    assert robot.twists == []

    # a simulation that hangs before the first frame: the clock is the cause, not the camera
    def joints_only():
        time[0] += 50_000_000
        robot.publish_joints()
        tell()

    observer.until(lambda: "no camera/image_raw encoded yet" in robot.reason(), again=joints_only)
    observer.until(lambda: robot.reason().startswith("the clock stands"))
    observer.until(lambda: "no camera/image_raw encoded yet" in robot.reason(), again=joints_only)
    observer.until(robot.moving, again=drive_all)
    # a pause
    observer.until(lambda: not robot.moving())
    assert "the clock has stood" in node.log.read_text()
    observer.until(lambda: robot.reason().startswith("the clock stands"))
    assert ask.trigger("command/emergency_stop").success
    observer.until(lambda: robot.state() == "FAULT")
    assert ask.trigger("command/reset").success
    observer.until(lambda: robot.reason().startswith("the clock stands"))
    count = len(robot.twists)
    observer.until(robot.moving, again=drive_all)
    assert len(robot.twists) > count
    # back
    time[0] -= 2_000_000_000
    tell()
    observer.until(lambda: not robot.moving(), again=tell)
    observer.until(robot.moving, again=drive_all)


def test_fault_31_incompatible_quality_of_service_is_said_with_both_sides(processes, checkpoint, observer):
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from trajectory_msgs.msg import JointTrajectory

    node = processes.node("command_node", config=False, checkpoint=checkpoint)
    profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    observer.node.create_publisher(JointTrajectory, "plan", profile)
    observer.until(lambda: "plan is not heard" in node.log.read_text())
    (line,) = [line for line in node.log.read_text().splitlines() if "is not heard" in line]
    assert "reliable" in line
    assert "best_effort" in line
    assert "observer" in line


def test_fault_32_two_masters_are_named(robot, observer, command, ask):
    from geometry_msgs.msg import TwistStamped

    robot.get_moving()
    observer.node.create_publisher(TwistStamped, "command/twist", 10)
    observer.until(lambda: ask.diagnosed("command_node", "is also published by"), again=robot.drive)
    level, message, _ = ask.diagnosis("command_node")
    assert level == b"\x01"
    assert "/observer" in message


def test_fault_33_nobody_listens(processes, checkpoint, observer, ask):
    processes.node("command_node", config=False, checkpoint=checkpoint)
    observer.until(lambda: ask.diagnosed("command_node", "nobody listens"))
    assert ask.diagnosed("command_node", "command/twist")


def test_fault_33_a_base_that_takes_another_type_is_named_with_the_parameter(
    processes, checkpoint, observer, ask
):
    from geometry_msgs.msg import Twist

    processes.node("command_node", config=False, checkpoint=checkpoint)
    observer.node.create_subscription(Twist, "command/twist", lambda _: None, 10)
    words = (
        "/observer takes geometry_msgs/msg/Twist on /command/twist, command_node sends "
        "geometry_msgs/msg/TwistStamped: set command.interface to twist_unstamped"
    )
    observer.until(lambda: ask.diagnosed("command_node", words))
    assert ask.diagnosis("command_node")[0] == b"\x01"


@pytest.mark.parametrize("how", ["service", "topic"])
def test_fault_40_the_emergency_stop_is_latched(robot, observer, command, how, ask):
    from std_msgs.msg import Bool

    robot.get_moving()
    if how == "service":
        assert ask.trigger("command/emergency_stop").success
    else:
        button = observer.node.create_publisher(Bool, "command/emergency_stop", 10)
        observer.until(lambda: button.get_subscription_count() > 0, again=robot.drive)
        button.publish(Bool(data=True))
    observer.until(lambda: robot.state() == "FAULT", again=robot.drive)
    assert "emergency stop" in robot.reason()
    observer.until(robot.at_rest, again=robot.drive)
    if how == "topic":
        button.publish(Bool(data=False))  # letting go of the button is no reset
    count = len(robot.twists)
    observer.until(lambda: len(robot.twists) > count + 10, again=robot.drive)
    assert robot.at_rest(10)
    assert ask.trigger("command/reset").success
    robot.get_moving()
