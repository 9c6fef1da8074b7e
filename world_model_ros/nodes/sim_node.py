"""sim_node: the simulated robot: camera, joints, controller, clock, and goals to reach."""

import array
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from world_model_ros.control.pacing import GoalCounter, GoalResult, Source, goal_line, summary_line
from world_model_ros.nodes.running import (
    HISTORY,
    LATCHED,
    RELIABLE,
    Life,
    nanoseconds,
    parameter,
    set_stamp,
)
from world_model_ros.sim.worlds import make_world

CLOCK_AGAIN = 0.1  # seconds of waiting after which the time is said once more: /clock is best effort


class SimNode(Node):
    """Steps a World at the pace of the nodes that command it; see control/pacing.py."""

    def __init__(self):
        super().__init__("sim_node")
        task = parameter(self, "task", "reach", "Task of the simulation: reach or push.")
        gui = parameter(self, "gui", False, "Open a window.")
        seed = parameter(self, "seed", 0, "Seed of the start and of the goals.", low=0, high=2**31 - 1)
        self.goals = parameter(
            self,
            "goals",
            0,
            "How many goals to try before ending; 0 goes on for ever.",
            low=0,
            high=2**31 - 1,
        )
        self.budget = parameter(
            self,
            "budget",
            0,
            "Control steps a goal may take, from its first plan; 0 for what the task needs.",
            low=0,
            high=100000,
        )
        self.factor = parameter(
            self,
            "real_time_factor",
            1.0,
            "Speed of the clock against real time; 0: as fast as the nodes keep up.",
            low=0.0,
            high=1000.0,
        )
        self.patience = parameter(
            self,
            "patience",
            1.0,
            "How long to wait for a command or plan that is due, in seconds, before going on without.",
            low=0.0,
            high=60.0,
        )
        self.world = make_world(task, seed=seed, gui=gui)
        self.rng = np.random.default_rng((seed, 1))
        self.period = round(self.world.period * 1e9)
        self.length = self.period * self.world.block
        self.time = self.length  # the start of the control step to come; zero would mean no clock
        self.plans = Source()
        self.commands = Source()
        self.goal_encoded = Source()
        self.actions: dict[int, np.ndarray] = {}  # commands by the step they are for
        self.due: int | None = None  # of the newest plan, until command_node has it for sure
        self.first_due: int | None = None  # when the goal's first plan is due
        self.planning_ms: float | None = None
        self.goal: np.ndarray | None = None
        self.results: list[GoalResult] = []
        self.asked: set[str] = set()  # what services ask for at the next model step

        self.clock_out = self.create_publisher(Clock, "/clock", RELIABLE)
        self.images = self.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
        self.goal_images = self.create_publisher(Image, "goal/image", LATCHED)
        self.joint_states = self.create_publisher(JointState, "joint_states", RELIABLE)
        self.command_in = self.create_subscription(TwistStamped, "command/twist", self.on_command, HISTORY)
        self.create_subscription(JointTrajectory, "plan", self.on_plan, RELIABLE)
        self.create_subscription(Float32, "goal/distance", self.on_distance, RELIABLE)
        self.create_subscription(Image, "goal/latent", self.on_goal_latent, RELIABLE)
        self.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, 10)
        self.create_service(Trigger, "sim/reset", lambda _, answer: self.ask("reset", answer))
        self.create_service(Trigger, "sim/new_goal", lambda _, answer: self.ask("new goal", answer))

    def on_command(self, message: TwistStamped) -> None:
        """Keep the command for the step it is stamped for."""
        stamp = nanoseconds(message.header.stamp)
        parts = (name.split("_") for name in self.world.action_names)
        action = np.array([getattr(getattr(message.twist, part), axis) for part, axis in parts])
        if np.isfinite(action).all():
            self.actions[stamp] = action
        self.commands.heard(stamp)

    def on_plan(self, message: JointTrajectory) -> None:
        """Remember for which moment there is a plan."""
        self.due = nanoseconds(message.header.stamp)

    def on_distance(self, _message: Float32) -> None:
        """Note the plan: by now command_node has it too, which the plan's own arrival here does not tell.

        From the first one on, commands are due as well.
        """
        due, self.due = self.due, None
        if due is None:
            return
        if not self.plans.waited_for and self.count_publishers(self.command_in.topic_name):
            self.commands.expect()
        self.plans.heard(due)
        if self.first_due is None and self.goal_encoded.newest is not None:
            self.first_due = due

    def on_goal_latent(self, message: Image) -> None:
        """Note that the goal was perceived."""
        self.goal_encoded.heard(nanoseconds(message.header.stamp))

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        """Read how long our planner_node plans."""
        name = f"{self.get_namespace().rstrip('/')}/planner_node: planning"
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if status.name == name and "planning_ms_p50" in values:
                self.planning_ms = float(values["planning_ms_p50"])

    def ask(self, what: str, answer: Trigger.Response) -> Trigger.Response:
        """Remember what a service asked for."""
        self.asked.add(what)
        answer.success, answer.message = True, f"{what} at the next model step"
        return answer

    def live(self, life: Life) -> int:
        """Run until the goals are tried or a signal comes; return the exit code."""
        began = time.monotonic()
        next_step = time.monotonic()
        while not life.ending:
            if self.time % self.length == 0:
                self.begin_model_step(life)
            self.publish_state()
            self.wait(life, self.commands, self.time, self.publish_clock)
            action = self.actions.pop(self.time, None)
            self.actions = {stamp: kept for stamp, kept in self.actions.items() if stamp > self.time}
            self.world.step(np.zeros(len(self.world.action_names)) if action is None else action)
            if self.judge():
                print(summary_line(self.results, time.monotonic() - began), flush=True)
                return 0
            self.time += self.period
            # Nobody gains from a clock that races while nobody plans.
            factor = self.factor if self.factor > 0 or self.plans.waited_for else 1.0
            next_step = max(next_step + self.world.period / factor if factor else 0.0, time.monotonic())
            self.serve(life, next_step)
        return 0

    def begin_model_step(self, life: Life) -> None:
        """Wait for the plan that is due, do what was asked for, show the camera's frame."""
        self.wait(life, self.plans, self.time)
        if "reset" in self.asked:
            self.world.reset()
            self.time += 2 * self.length  # a gap: nobody takes the new start for a consequence
        if self.goal is None or self.asked:
            self.asked.clear()
            self.new_goal(life)
        self.images.publish(self.image(self.world.render()))

    def new_goal(self, life: Life) -> None:
        """Draw and publish a goal, and let the nodes take it before time goes on."""
        self.goal = self.world.sample_goal(self.rng)
        self.counter = GoalCounter(self.budget or self.world.patience)
        self.first_due = None
        self.goal_images.publish(self.image(self.world.goal_image(self.goal)))
        self.wait(life, self.goal_encoded, self.time)

    def judge(self) -> bool:
        """Judge the control step just made; return whether all goals were tried."""
        if self.first_due is not None and self.time >= self.first_due:
            self.counter.first_plan()
        result = None
        if self.goal is not None:
            result = self.counter.step(self.world.success(self.goal), self.world.distance(self.goal))
        if result is None:
            return False
        self.goal = None
        self.results.append(result)
        line = goal_line(len(self.results), self.goals, result, self.world.period, self.planning_ms)
        print(line, flush=True)
        return len(self.results) == self.goals

    def wait(self, life: Life, source: Source, moment: int, remind=None) -> None:
        """Serve callbacks until ``source`` lets time go on past ``moment``, or patience ends."""
        end = time.monotonic() + self.patience
        again = time.monotonic() + CLOCK_AGAIN
        while not source.ready(moment) and not life.ending:
            now = time.monotonic()
            if now >= end:
                source.missed()
            if remind and now >= again:
                remind()
                again = now + CLOCK_AGAIN
            life.spin(end - now)

    def serve(self, life: Life, until: float) -> None:
        """Serve callbacks, at least one, until a moment of the monotonic clock."""
        life.spin(0.0)
        while not life.ending and (left := until - time.monotonic()) > 0:
            life.spin(left)

    def publish_state(self) -> None:
        """Publish joints, then the time: who ticks on it has the rest already."""
        positions, velocities = self.world.joints()
        message = JointState(name=list(self.world.joint_names))
        message.position, message.velocity = positions.tolist(), velocities.tolist()
        set_stamp(message.header.stamp, self.time)
        self.joint_states.publish(message)
        self.publish_clock()

    def publish_clock(self) -> None:
        """Say what time it is."""
        message = Clock()
        set_stamp(message.clock, self.time)
        self.clock_out.publish(message)

    def image(self, pixels: np.ndarray) -> Image:
        """Return pixels, uint8 (H, W, 3) RGB, as a message of this moment."""
        height, width, _ = pixels.shape
        message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
        message.header.frame_id = "camera"
        set_stamp(message.header.stamp, self.time)
        message.data = array.array("B", pixels.tobytes())
        return message

    def close(self) -> None:
        """Free the physics engine."""
        self.world.close()


def make_node() -> SimNode:
    """Return the node, ready to live."""
    return SimNode()
