"""Stop, reset, stop again: by whoever comes, each time.

WORLD_MODEL_ROS_STOP_ROUNDS is the number of rounds that each of the tests makes; the bar is 20.
"""

import os
import time

import pytest

from test.processes import without_processor

pytestmark = [pytest.mark.ros, pytest.mark.fault]
ROUNDS = int(os.environ.get("WORLD_MODEL_ROS_STOP_ROUNDS", "3"))
LIMIT = 0.15  # seconds from a stop to the last command that moves the robot
TRIES, AGAIN = 3, 5.0  # of one stop by topic, and seconds between two
KEEP_ALIVE = 0.1  # seconds for which `ros2 topic pub --once` stays after it has published


class Arm:
    """A robot under way, of any interface: publishes what keeps it moving, collects what is sent."""

    def __init__(self, robot, observer, interface):
        from geometry_msgs.msg import TwistStamped
        from std_msgs.msg import Float64MultiArray
        from trajectory_msgs.msg import JointTrajectory

        kinds = {"twist": TwistStamped, "velocities": Float64MultiArray, "joint_trajectory": JointTrajectory}
        self.robot, self.observer, self.interface = robot, observer, interface
        self.sent = []  # (when, whether it moves the robot)
        self.names = ("linear_x", "linear_y") if interface == "twist" else ("joint1", "joint2")
        self.positions = [0.0, 0.0]

        def heard(message, info):
            self.sent.append((info["source_timestamp"], self.moves(message)))

        observer.node.create_subscription(kinds[interface], f"command/{interface}", heard, 1000)

    def moves(self, message):
        if self.interface == "velocities":
            return any(message.data)
        if self.interface == "twist":
            return self.robot.moves(message)
        return any(velocity for point in message.points for velocity in point.velocities)

    def drive(self):
        self.robot.publish_joints(name=["joint1", "joint2"], position=self.positions)
        self.robot.publish_latent()
        self.robot.publish_plan(names=self.names)

    def get_moving(self):
        count = len(self.sent)
        self.observer.until(lambda: any(moves for _, moves in self.sent[count:]), again=self.drive)

    def last_motion(self):
        """Drive on until nothing has moved for a while; return when the last moving command was sent."""
        count = len(self.sent)
        self.observer.until(
            lambda: len(self.sent) > count + 20 and not any(moves for _, moves in self.sent[-15:]),
            again=self.drive,
        )
        return max(when for when, moves in self.sent if moves)


# What `ros2 topic pub --once` does: it waits for a subscriber, publishes, and is gone a moment later. Its
# defaults: reliable, transient local where the reader is, else volatile.
# The last word of its command line is a file to wait for.
ONCE = f"""
import os, sys, time, rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool
rclpy.init()
node = rclpy.create_node("button")
profile = QoSProfile(depth=1, durability=DurabilityPolicy.VOLATILE)
button = node.create_publisher(Bool, "command/emergency_stop", profile)
while not button.get_subscription_count():
    rclpy.spin_once(node, timeout_sec=0.02)
print("ready", flush=True)
while not os.path.exists(sys.argv[-1]):
    time.sleep(0.002)
print("published", time.time_ns(), flush=True)
button.publish(Bool(data=True))
time.sleep({KEEP_ALIVE})
node.destroy_node()
rclpy.try_shutdown()
"""


def publish_once(processes, arm, node):
    """Publish a stop from a program of its own; return when, and how long ``node`` had waited until then.

    A second context of this process would get, round after round, the identity of the one before, which no
    program has.
    """
    go = processes.folder / f"go{len(processes.started)}"
    program = processes.start("-c", ONCE, str(go))
    arm.observer.until(lambda: "ready" in program.log.read_text(), again=arm.drive)
    before = without_processor(node.pid)
    go.touch()
    arm.observer.until(lambda: program.poll() is not None, again=arm.drive)
    return int(program.log.read_text().rpartition("published ")[2].split()[0]), before


@pytest.mark.timeout(120 + 20 * ROUNDS)
@pytest.mark.parametrize("how", ["topic", "service"])
@pytest.mark.parametrize("interface", ["twist", "velocities", "joint_trajectory"])
def test_fault_41_every_stop_stops_whoever_sends_it(
    processes, checkpoint, arm_checkpoint, robot, observer, ask, interface, how
):
    ends = {f"limits.position_{end}": [sign * 3.0] * 2 for end, sign in (("low", -1), ("high", 1))}
    node = processes.node(
        "command_node",
        config=False,
        checkpoint=checkpoint if interface == "twist" else arm_checkpoint,
        **{"command.interface": interface} | (ends if interface == "joint_trajectory" else {}),
    )
    arm = Arm(robot, observer, interface)
    for service in ("emergency_stop", "reset"):  # the first call of a client may wait until it is known
        assert ask.trigger(f"command/{service}").success
    delays, lost, tries = [], [], 0
    for _ in range(ROUNDS):
        arm.get_moving()
        if how == "topic":
            # A program that is gone a moment after it published may not have been discovered by a busy one.
            for _ in range(TRIES):
                sent, before = publish_once(processes, arm, node)
                published = time.monotonic()
                tries += 1
                observer.until(
                    lambda p=published: "emergency stop" in robot.reason() or time.monotonic() > p + AGAIN,
                    again=arm.drive,
                )
                if "emergency stop" in robot.reason():
                    break
        else:
            sent, before = time.time_ns(), without_processor(node.pid)
            assert ask.trigger("command/emergency_stop").success
        observer.until(lambda: "emergency stop" in robot.reason(), again=arm.drive)
        # While it waits for a processor that others use, it cannot hear of the stop.
        lost.append(without_processor(node.pid) - before)
        delays.append(1e-9 * (arm.last_motion() - sent))
        assert ask.trigger("command/reset").success
    print(
        f"{interface}, by {how}: {len(delays)} of {ROUNDS} stops, last motion at most {max(delays):.3f} s "
        f"later, without a processor for at most {max(lost):.3f} s; published {tries} times"
    )
    assert all(delay <= LIMIT + without for delay, without in zip(delays, lost, strict=True)), (delays, lost)
