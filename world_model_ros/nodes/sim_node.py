"""sim_node: the simulated robot: camera, joints, controller, clock, and goals to reach."""

import array
import time
from dataclasses import replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from world_model_ros.errors import UserError
from world_model_ros.nodes.declaring import declare
from world_model_ros.nodes.messages import nanoseconds, set_stamp
from world_model_ros.nodes.qos import HISTORY, LATCHED, RELIABLE, endpoint_name
from world_model_ros.nodes.running import ExecutorLoop
from world_model_ros.sim.faults import Faults, Frame, parse
from world_model_ros.sim.lockstep import (
    CameraClock,
    ClockGuard,
    GoalCounter,
    GoalResult,
    Source,
    goal_line,
    missed_because,
    summary_line,
)
from world_model_ros.sim.tasks import make_world

LISTEN = 1.0  # seconds before the first /clock message, in which another publisher is noticed
FIRST_PLANS = 3  # model steps of a goal at which its first plan is waited for, where somebody plans
CLOCK_AGAIN = 0.1  # seconds of waiting after which the time is published again: /clock is best effort


class SimNode(Node):
    """Steps a world at the pace of the nodes that command it; see sim/lockstep.py."""

    def __init__(self):
        super().__init__("sim_node")
        values = declare(self, "sim_node", self.refuse, self.changed)
        self.values, seed = values, values["seed"]
        self.goals, self.budget = values["goals"], values["budget"]
        self.factor, self.lockstep_timeout = values["real_time_factor"], values["lockstep_timeout"]
        self.faults = Faults()
        self.changed()
        self.world = make_world(values["task"], seed=seed, gui=values["gui"])
        self.rng = np.random.default_rng((seed, 1))
        self.period = round(self.world.period * 1e9)
        self.length = self.period * self.world.block
        self.time = self.length  # the start of the control step to come; zero would mean no clock
        self.camera: CameraClock | None = None  # None shows one frame at the start of each model step
        self.substep = self.period // self.world.substeps
        if values["camera_rate"]:
            self.camera = CameraClock(values["camera_rate"], values["camera_jitter"], self.substep, seed)
        self.taken: list[Frame] = []  # that are not published yet
        self.guard = ClockGuard()
        self.plans = Source()
        self.commands = Source()
        self.latents = Source()
        self.goal_encoded = Source()
        self.actions: dict[int, np.ndarray] = {}  # commands by the step they are for
        self.due: int | None = None  # of the newest plan, until command_node has it for sure
        self.first_due: int | None = None  # when the goal's first plan is due
        self.planning_ms: float | None = None
        self.goal: np.ndarray | None = None
        self.tries = 0  # how often the goal's first plan is still waited for
        self.results: list[GoalResult] = []
        self.asked: set[str] = set()  # what services ask for at the next model step
        self.status = ""  # of our command_node
        self.held: dict[str, int] = {}  # control steps of this goal by the status that held the robot

        self.surprise = ""  # on how many model steps our monitor_node has judged it
        self.create_subscription(Clock, "/clock", lambda m: self.guard.heard(nanoseconds(m.clock)), HISTORY)
        self.clock_out = self.create_publisher(Clock, "/clock", RELIABLE)
        self.images = self.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
        self.goal_images = self.create_publisher(Image, "goal/image", LATCHED)
        self.joint_states = self.create_publisher(JointState, "joint_states", RELIABLE)
        self.tool_pose = self.create_publisher(PoseStamped, "tool_pose", RELIABLE)
        self.command_in = self.create_subscription(TwistStamped, "command/twist", self.on_command, HISTORY)
        self.plan_in = self.create_subscription(JointTrajectory, "plan", self.on_plan, RELIABLE)
        self.create_subscription(Float32, "goal/distance", self.on_distance, RELIABLE)
        self.create_subscription(Image, "latent", self.on_latent, RELIABLE)
        self.create_subscription(Image, "goal/latent", self.on_goal_latent, RELIABLE)
        self.create_subscription(String, "status", self.on_status, LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, 10)
        self.create_service(Trigger, "sim/reset", lambda _, answer: self.ask("reset", answer))
        self.create_service(Trigger, "sim/new_goal", lambda _, answer: self.ask("new goal", answer))

    def refuse(self, changes: dict) -> str:
        """Return why these parameters cannot be, or ""."""
        try:
            parse(changes.get("faults", ""))
        except UserError as error:
            return str(error)
        return ""

    def changed(self) -> None:
        """Let the faults that the parameters name happen from now on."""
        self.faults.set(self.values["faults"], round(self.values["fault_delay"] * 1e9))

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
        # Not by goal/latent: the encoder may have published it before it knew of this node.
        if self.first_due is None and self.goal is not None:
            self.first_due = due

    def on_latent(self, message: Image) -> None:
        """Note that the camera's frame was perceived."""
        self.latents.heard(nanoseconds(message.header.stamp))

    def on_goal_latent(self, message: Image) -> None:
        """Note that the goal was perceived."""
        self.goal_encoded.heard(nanoseconds(message.header.stamp))

    def on_status(self, message: String) -> None:
        """Keep what command_node is doing."""
        self.status = message.data

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        """Read how long our planner_node plans."""
        here = self.get_namespace().rstrip("/")
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if status.name == f"{here}/planner_node" and "planning_ms_p50" in values:
                self.planning_ms = float(values["planning_ms_p50"])
            if status.name == f"{here}/monitor_node" and "steps_judged" in values:
                judged, missed = int(values["steps_judged"]), int(values["steps_not_judged"])
                why = f" ({values['not_judged_why']})" if missed else ""
                self.surprise = f"surprise judged on {judged} of {judged + missed} model steps{why}"

    def ask(self, what: str, answer: Trigger.Response) -> Trigger.Response:
        """Remember what a service asked for."""
        self.asked.add(what)
        answer.success, answer.message = True, f"{what} at the next model step"
        return answer

    def main_loop(self, loop: ExecutorLoop) -> int:
        """Run until the goals are tried or a signal comes; return the exit code."""
        self.listen(loop)
        began = time.monotonic()
        next_step = time.monotonic()
        while not loop.stopping:
            self.check_clock()
            if self.camera is None and self.time % self.length == 0:
                self.begin_model_step(loop)
            elif self.camera is not None:
                self.begin_control_step(loop)
            self.publish_state()
            self.wait(loop, self.commands, self.time, self.publish_clock)
            action = self.actions.pop(self.time, None)
            self.actions = {stamp: kept for stamp, kept in self.actions.items() if stamp > self.time}
            self.step(np.zeros(len(self.world.action_names)) if action is None else action)
            if self.judge():
                self.tell_end(loop, time.monotonic() - began)
                return 0
            self.time += self.period
            # A clock that runs fast is of no use while nobody plans.
            planned = self.plans.waited_for and self.plans.newest is not None
            factor = self.factor if self.factor > 0 or planned else 1.0
            next_step = max(next_step + self.world.period / factor if factor else 0.0, time.monotonic())
            self.serve(loop, next_step)
        return 0

    def listen(self, loop: ExecutorLoop) -> None:
        """Refuse to start where /clock is published already: nodes cannot follow two clocks."""
        self.serve(loop, time.monotonic() + LISTEN)
        self.check_clock()

    def check_clock(self) -> None:
        """Raise UserError where somebody else publishes /clock."""
        if not self.guard.foreign:
            return
        publishers = self.get_publishers_info_by_topic("/clock")
        names = [endpoint_name(info) for info in publishers]
        if self.get_fully_qualified_name() in names:
            names.remove(self.get_fully_qualified_name())  # ourselves; another one may have the same name
        known = sorted(set(filter(None, names)))
        raise UserError(
            f"/clock is also published by {', '.join(known) or 'another node'}: end that, or run this "
            "simulation in another ROS_DOMAIN_ID."
        )

    def step(self, action: np.ndarray) -> None:
        """Let the world move for a control step, and the camera take its frames on the way."""
        moments = []
        if self.camera is not None:
            moments = self.camera.taken(self.time, self.time + self.period)
        if not moments:
            self.world.step(action)
            return

        def take(substep: int) -> None:
            stamp = self.time + substep * self.substep
            if stamp in moments:
                self.taken.append(self.frame(stamp, self.world.render()))

        self.world.step(action, take)

    def begin_model_step(self, loop: ExecutorLoop) -> None:
        """Wait for the plan that is due, do what was asked for, show the camera's frame."""
        self.wait(loop, self.plans, self.time)
        self.do_what_is_asked(loop)
        self.show(loop, self.frame(self.time, self.world.render()), self.time + self.length)
        seen = self.latents.waited_for and self.goal_encoded.waited_for
        if (
            seen
            and self.tries
            and not self.plans.waited_for
            and self.count_publishers(self.plan_in.topic_name)
        ):
            self.tries -= 1
            self.plans.expect()  # else the first plan would come in time on a fast machine only

    def begin_control_step(self, loop: ExecutorLoop) -> None:
        """Show the frames taken since the last one, wait for the plan that is due, do what was asked for.

        The planner has chosen its model steps by these frames, so what is due goes by its plans.
        """
        for frame in self.taken:
            self.show(loop, frame, self.time)
        self.taken.clear()
        due = self.plans.newest
        if due is None or not self.plans.waited_for:
            if self.time % self.length == 0:
                self.do_what_is_asked(loop)
            return
        changes = self.goal is None or self.asked
        # A quarter of a model step after its start the frame that shows it is there, and it is planned for:
        # then a new goal discards no plan, and finds none in the making. Where planning is fast, the newest
        # plan is not due yet.
        begun = (self.time - due) % self.length  # ns ago, the present model step
        ready = self.length // 4 <= begun < self.length // 2
        if changes and ready:
            self.wait(loop, self.plans, self.time - begun + self.length)
        # command_node plays a plan from the control step nearest to its due time on.
        elif self.time + self.period // 2 >= due + self.length:
            self.wait(loop, self.plans, due + self.length)
        if changes and ready:
            self.do_what_is_asked(loop)

    def do_what_is_asked(self, loop: ExecutorLoop) -> None:
        """Start over or draw a goal, where a service asked for it or the last goal has ended."""
        if "reset" in self.asked:
            self.world.reset()
            self.time += 2 * self.length  # a gap: the new start is no effect of an action
            self.publish_state()  # before the picture, which would be one of the future
            if self.camera is not None:
                self.camera.taken(self.time, self.time)
                self.plans.missed()  # the grid of model steps goes on, but the planner decides where
        if self.goal is None or self.asked:
            self.asked.clear()
            self.new_goal(loop)

    def show(self, loop: ExecutorLoop, frame: Frame, until: int) -> None:
        """Publish a frame, the next one being taken at ``until``, and wait until it was perceived.

        Under a fault another frame may leave the camera, or none.
        """
        frames = self.faults.frames(frame, until)
        for shown in frames:
            self.images.publish(self.image(shown))
        if frames:
            self.wait(loop, self.latents, min(frame.stamp, frames[-1].stamp))

    @staticmethod
    def frame(stamp: int, pixels: np.ndarray) -> Frame:
        """Return pixels (H, W, 3) as a frame."""
        return Frame(stamp, *pixels.shape[:2], "rgb8", pixels.tobytes())

    def tell_end(self, loop: ExecutorLoop, seconds: float) -> None:
        """Print the last lines of a run."""
        print(summary_line(self.results, seconds), flush=True)
        if self.camera is not None and self.surprise:
            self.serve(loop, time.monotonic() + 1.1)  # the monitor reports once a second
            print(self.surprise, flush=True)

    def new_goal(self, loop: ExecutorLoop) -> None:
        """Draw and publish a goal, and let the nodes take it before time goes on."""
        self.world.tidy()
        self.goal = self.world.sample_goal(self.rng)
        self.counter = GoalCounter(self.budget or self.world.goal_budget)
        self.held.clear()
        self.first_due = None
        self.tries = FIRST_PLANS
        self.goal_images.publish(self.image(self.frame(self.time, self.world.goal_image(self.goal))))
        self.wait(loop, self.goal_encoded, self.time)

    def judge(self) -> bool:
        """Judge the control step just made; return whether all goals were tried."""
        if self.first_due is not None and self.time >= self.first_due:
            self.counter.first_plan()
        result = None
        if self.goal is not None:
            if self.status.startswith(("HOLD", "FAULT")):
                self.held[self.status] = self.held.get(self.status, 0) + 1
            result = self.counter.step(self.world.success(self.goal), self.world.distance(self.goal))
        if result is None:
            return False
        result = replace(result, angle=self.world.turned(self.goal), reason=self.why_missed(result))
        self.goal = None
        self.results.append(result)
        line = goal_line(len(self.results), self.goals, result, self.world, self.planning_ms)
        print(line, flush=True)
        return len(self.results) == self.goals

    def why_missed(self, result: GoalResult) -> str:
        """Return in a few words why the goal was missed, or ""."""
        if result.reached:
            return ""
        if self.held and sum(self.held.values()) > result.steps / 3:
            status, steps = max(self.held.items(), key=lambda pair: pair[1])
            return f"held for {steps * self.world.period:.1f} s ({status})"
        return missed_because(self.world, self.goal)

    def wait(self, loop: ExecutorLoop, source: Source, moment: int, remind=None) -> None:
        """Serve callbacks until ``source`` lets time go on past ``moment``, or the timeout is over."""
        end = time.monotonic() + self.lockstep_timeout
        again = time.monotonic() + CLOCK_AGAIN
        while not source.ready(moment) and not loop.stopping:
            now = time.monotonic()
            if now >= end:
                source.missed()
            if remind and now >= again:
                remind()
                again = now + CLOCK_AGAIN
            loop.spin(end - now)

    def serve(self, loop: ExecutorLoop, until: float) -> None:
        """Serve callbacks, at least one, until a moment of the monotonic clock."""
        loop.spin(0.0)
        while not loop.stopping and (left := until - time.monotonic()) > 0:
            loop.spin(left)

    def publish_state(self) -> None:
        """Publish joints, then the time: a node that steps on the time has the joints already."""
        positions, velocities = self.world.joints()
        names, reported = self.faults.joints(list(self.world.joint_names), positions.tolist())
        message = JointState(name=names, position=reported, velocity=velocities.tolist())
        set_stamp(message.header.stamp, self.time)
        self.joint_states.publish(message)
        place = self.world.tool() if self.tool_pose.get_subscription_count() else None
        if place is not None:
            tool = PoseStamped()
            set_stamp(tool.header.stamp, self.time)
            tool.header.frame_id = self.world.action_frame
            tool.pose.position.x, tool.pose.position.y, tool.pose.position.z = place.tolist()
            tool.pose.orientation.w = 1.0
            self.tool_pose.publish(tool)
        self.publish_clock()

    def publish_clock(self) -> None:
        """Publish the time."""
        message = Clock()
        self.guard.published(self.time)
        set_stamp(message.clock, self.time)
        self.clock_out.publish(message)

    @staticmethod
    def image(frame: Frame) -> Image:
        """Return a frame as a message."""
        step = len(frame.data) // frame.height
        message = Image(height=frame.height, width=frame.width, encoding=frame.encoding, step=step)
        message.header.frame_id = "camera"
        set_stamp(message.header.stamp, frame.stamp)
        message.data = array.array("B", frame.data)
        return message

    def close(self) -> None:
        """Free the physics engine."""
        self.world.close()


def make_node() -> SimNode:
    """Return the node, ready to main_loop."""
    return SimNode()
