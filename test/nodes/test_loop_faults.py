"""What is killed, dropped or broken while the whole loop runs; the values are of the simulation's clock."""

import os
import signal

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.fault]
# How often each death is tried: the bar is 20 of 20, which takes minutes.
TIMES = int(os.environ.get("WORLD_MODEL_ROS_DEATHS", "2"))
SOON = 250_000_000  # ns between a death and the last command that moves the robot
STEP = 50_000_000  # ns of a control step
# ns after the planner's death: the plan for the next model step is there, and played for plan_timeout.
PLAYED = 250_000_000 + 500_000_000 + 50_000_000


def nanoseconds(stamp):
    return stamp.sec * 1_000_000_000 + stamp.nanosec


class Loop:
    """The simulation and its nodes as processes of their own, watched."""

    def __init__(self, processes, observer, checkpoint, **sim):
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import String

        self.processes, self.observer, self.checkpoint = processes, observer, checkpoint
        self.executed_sent, self.latents_sent = [], []  # ns of the wall clock
        self.executed = observer.collect(JointState, "command/executed", 1000, self.executed_sent)
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.status = observer.collect(String, "status", latched)
        self.latents = observer.collect(Image, "latent", 1000, self.latents_sent)
        self.now = 0
        observer.node.create_subscription(Clock, "/clock", self.tell, 10)
        self.nodes = {"sim_node": processes.node("sim_node", **sim)}
        for name in ("encoder_node", "command_node", "monitor_node", "planner_node"):
            self.start(name)

    def tell(self, message):
        self.now = nanoseconds(message.clock)

    def start(self, name):
        own = {"lease": 0.25} if name == "command_node" else {}  # as on a robot
        self.nodes[name] = self.processes.node(name, checkpoint=self.checkpoint, **own)

    def messages(self, name):
        return self.nodes[name].log.read_text()

    def moves(self):
        return [nanoseconds(m.header.stamp) for m in self.executed if any(m.velocity)]

    def get_moving(self):
        self.executed.clear()
        self.executed_sent.clear()
        self.observer.until(lambda: len(self.moves()) > 10)

    def moment(self):
        """Return the simulation's time now: of a tick that is heard from now on."""
        before = self.now
        self.observer.until(lambda: self.now > before)
        return self.now

    def newest_latent(self):
        """Return the simulation's time when the newest latent was sent, to a control step."""
        sent = self.latents_sent[-1]
        stamps = (nanoseconds(message.header.stamp) for message in self.executed)
        return max((s for s, when in zip(stamps, self.executed_sent, strict=True) if when <= sent), default=0)

    def rest(self):
        """Wait until the robot stands still, and for 20 control steps more; return the last that moved it."""
        self.observer.until(
            lambda: len(self.executed) > 20 and not any(any(m.velocity) for m in self.executed[-20:])
        )
        return max(self.moves())


@pytest.fixture
def loop(processes, observer):
    return Loop(
        processes, observer, "reach"
    )  # it never comes to rest: a goal that is reached is followed by one


@pytest.mark.parametrize("node", ["planner_node", "encoder_node"])
@pytest.mark.timeout(60 + 40 * TIMES)
def test_fault_21_the_robot_stops_soon_after_a_node_is_killed_and_goes_on_with_a_new_one(loop, node):
    delays = []
    for _ in range(TIMES):
        loop.get_moving()
        died = loop.moment()
        loop.nodes[node].send_signal(signal.SIGKILL)
        loop.nodes[node].wait()
        rest = loop.rest()
        if node == "encoder_node":  # what it did until the signal came to it on a busy machine
            died = max(died, nanoseconds(loop.latents[-1].header.stamp))
        delays.append((rest - died) / 1e9)
        assert loop.status[-1].data.startswith("HOLD")
        loop.start(node)
    loop.get_moving()
    print(f"{node}: last moving command {sorted(delays)} s after the death")
    assert max(delays) <= (PLAYED if node == "planner_node" else SOON) / 1e9
    assert loop.nodes["command_node"].poll() is None


@pytest.mark.timeout(60 + 40 * TIMES)
def test_fault_02_the_robot_stops_soon_after_the_camera_died(loop, ask, observer):
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    frames = observer.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    delays = []
    for _ in range(TIMES):
        loop.get_moving()
        assert ask.set_parameter("sim_node", "faults", "drop")[0].successful
        rest = loop.rest()
        # Dead it is from its last frame on, whenever that is noticed. The clock of a simulation goes on while
        # that one is encoded, and commands count from when they have it.
        died = max(nanoseconds(frames[-1].header.stamp), loop.newest_latent())
        delays.append((rest - died) / 1e9)
        assert "camera/image_raw stopped" in loop.status[-1].data
        assert ask.set_parameter("sim_node", "faults", "")[0].successful
    loop.get_moving()
    print(f"camera: last moving command {sorted(delays)} s after the last frame")
    assert max(delays) <= (SOON + STEP) / 1e9


FAULTS = {
    "encoding": ("encoder_node", "16UC1"),
    "size": ("encoder_node", "the camera began with"),
    "delay": ("command_node", "camera/image_raw stopped"),
    "nan_joints": ("command_node", "not finite"),
}


@pytest.mark.timeout(300)
def test_faults_of_the_simulation_stop_the_robot_and_are_named(loop, ask):
    for fault, (node, words) in FAULTS.items():
        loop.get_moving()
        before = len(loop.messages(node))
        assert ask.set_parameter("sim_node", "faults", fault)[0].successful
        loop.rest()
        # Of this fault, not of one before: the same sentence may have been logged then.
        loop.observer.until(lambda: words in loop.messages(node)[before:])  # noqa: B023
        assert ask.set_parameter("sim_node", "faults", "")[0].successful
    loop.get_moving()
    # Joints go by name: another order changes nothing.
    assert ask.set_parameter("sim_node", "faults", "permute_joints")[0].successful
    loop.executed.clear()
    loop.observer.until(lambda: len(loop.moves()) > 40)  # for longer than joint_timeout
    # A black picture is a warning for the encoder; the monitor has never seen the like.
    assert ask.set_parameter("sim_node", "faults", "black")[0].successful
    loop.observer.until(lambda: ask.diagnosed("encoder_node", "black"))
    loop.rest()
    loop.observer.until(lambda: "monitor_node" in loop.status[-1].data)
    result, kept = ask.set_parameter("sim_node", "faults", "gremlins")
    assert not result.successful
    assert "gremlins" in result.reason
    assert kept == "black"


@pytest.mark.timeout(300)
def test_pictures_that_are_older_than_their_stamps_are_noticed_and_allowed_for(processes, observer, ask):
    def latency(node):
        return float(ask.diagnosis(node)[2].get("camera_latency", -1.0))

    loop = Loop(processes, observer, "reach", camera_rate=20.0)
    loop.get_moving()
    loop.observer.until(lambda: latency("monitor_node") == latency("planner_node") == 0.0)
    assert ask.set_parameter("sim_node", "fault_delay", 0.1)[0].successful
    assert ask.set_parameter("sim_node", "faults", "latency")[0].successful
    loop.observer.until(lambda: latency("monitor_node") == latency("planner_node") == 0.1)
    assert "pictures are 0.10 s older than their stamps say" in loop.messages("monitor_node")
    loop.get_moving()
    assert ask.set_parameter("sim_node", "faults", "")[0].successful
    # Pictures that are suddenly newer surprise for a moment, more often beside busy processes.
    loop.observer.until(lambda: latency("monitor_node") == latency("planner_node") == 0.0)
    if "FAULT" in loop.status[-1].data:
        assert ask.trigger("command/reset").success
    loop.get_moving()


@pytest.mark.timeout(60 + 20 * TIMES)
def test_fault_22_interrupted_mid_plan_the_safe_command_is_the_last(loop, observer):
    from geometry_msgs.msg import TwistStamped

    def moving(message):
        return message.twist.linear.x != 0 or message.twist.linear.y != 0

    twists = observer.collect(TwistStamped, "command/twist", 1000)
    for number in (signal.SIGINT, signal.SIGTERM) * max(1, TIMES // 2):
        loop.get_moving()
        loop.nodes["command_node"].send_signal(number)
        loop.processes.ends_within(loop.nodes["command_node"], 2.0, observer.spin)
        assert loop.nodes["command_node"].returncode == 0
        observer.until(lambda: twists and not moving(twists[-1]))
        loop.start("command_node")
