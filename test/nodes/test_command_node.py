"""The command side is a process of its own: it stops the robot when the planner dies."""

import signal

import pytest

pytestmark = pytest.mark.ros


def nanoseconds(stamp):
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def moving(message):
    return message.twist.linear.x != 0 or message.twist.linear.y != 0


def latched():
    from rclpy.qos import DurabilityPolicy, QoSProfile

    return QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_stops_by_itself_when_the_planner_is_killed(processes, observer, checkpoint):
    from geometry_msgs.msg import TwistStamped
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    twists = observer.collect(TwistStamped, "command/twist", 1000)
    plans = observer.collect(JointTrajectory, "plan")
    status = observer.collect(String, "status", latched())
    sim = processes.node("sim_node")
    processes.node("encoder_node", checkpoint=checkpoint)
    command = processes.node("command_node", checkpoint=checkpoint)
    planner = processes.node("planner_node", checkpoint=checkpoint)
    observer.until(lambda: len(plans) > 4 and twists and moving(twists[-1]))
    planner.send_signal(signal.SIGKILL)
    planner.wait()
    observer.until(lambda: status and status[-1].data.startswith("HOLD"), seconds=20)
    observer.until(lambda: len(twists) > 40 and not any(moving(m) for m in twists[-20:]), seconds=20)
    last_plan = nanoseconds(plans[-1].header.stamp)
    last_move = max(nanoseconds(m.header.stamp) for m in twists if moving(m))
    assert last_move - last_plan < 500_000_000
    assert sim.poll() is None

    # The respawned planner moves the robot again.
    count = len(plans)
    processes.node("planner_node", checkpoint=checkpoint)
    observer.until(lambda: len(plans) > count + 3 and moving(twists[-1]))
    command.send_signal(signal.SIGTERM)
    observer.until(lambda: command.poll() is not None, seconds=3)
    assert command.returncode == 0
    observer.until(lambda: not moving(twists[-1]), seconds=3)
    assert "Traceback" not in command.log.read_text()


def test_plays_plans_clamps_them_and_stops_in_the_end(robot, observer, command):
    observer.until(lambda: len(robot.twists) > 5, again=lambda: robot.drive(action=(9.0, -0.1)))
    assert {(m.twist.linear.x, m.twist.linear.y) for m in robot.twists} == {(0.4, -0.1)}
    assert robot.twists[-1].header.frame_id == "panda_link0"
    command.send_signal(signal.SIGINT)
    observer.until(lambda: command.poll() is not None, seconds=3)
    assert command.returncode == 0
    observer.until(lambda: not robot.moving(), seconds=3)


def test_says_that_nothing_went_out_while_nothing_is_sent(robot, observer, command, ask):
    def show():
        robot.say_joints()
        robot.say_latent()

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
