"""The parameters of every node, declared once, for the nodes and for the table in docs/reference.md.

Those of the planner come from ``PlannerConfig``. This module needs no ROS. ``make reference`` writes the
table.
"""

import array
import math
import reprlib
from dataclasses import dataclass, fields, replace
from typing import Any

from world_model_ros.data.robot import RobotFile
from world_model_ros.planning.config import OPTIONS, Option, PlannerConfig
from world_model_ros.sim.tasks import DEFAULT_TASK

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a decimal point",
    str: "a string",
    tuple: "a list of numbers with decimal points",
}
NUMBERS: tuple[float, ...] = ()  # a list of numbers that is empty unless given


@dataclass(frozen=True)
class Parameter:
    """Type, range and prose of one parameter; the type is that of the default."""

    name: str
    default: Any
    description: str  # a sentence; says the unit
    low: float | None = None  # inclusive, as is ``high``
    high: float | None = None
    choices: tuple[str, ...] = ()
    changeable: bool = False  # while the node runs

    @property
    def wanted(self) -> str:
        """What to give, for people."""
        return f"give {_KINDS[type(self.default)]}"

    def problem(self, value) -> str:
        """Return why ``value`` is refused, or ""; None stands for a list that is not given."""
        kind = type(self.default)
        if kind is tuple:
            if value is None:
                return ""
            numbers = list(value) if isinstance(value, list | tuple | array.array) else [value]
            fits = all(type(number) is float for number in numbers) and numbers != [value]
        else:
            numbers, fits = [value], type(value) is kind
        if not fits:
            return f"{self.name} is {_short(value)}: {self.wanted if kind is not float else _decimal(value)}"
        for number in numbers:
            endless = number == self.high == math.inf
            if type(number) is float and not math.isfinite(number) and not endless:
                return f"{self.name} is {number}: give a finite number"
        if self.choices and value not in self.choices:
            return f"{self.name} is {_short(value)}: choose one of {', '.join(self.choices)}"
        if self.low is not None and not self.low <= value <= self.high:
            return f"{self.name} is {_short(value)}: give a number from {self.low} to {self.high}"
        return ""


def _short(value) -> str:
    """Return a value as a short text."""
    if type(value) is int and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    return reprlib.repr(value)


def _decimal(value) -> str:
    """Return what to give for a float: ROS distinguishes 1 and 1.0."""
    whole = type(value) is int and abs(value) < 2**53
    return f"write {float(value)}" if whole else f"give {_KINDS[float]}"


def _unset(option: Option) -> int | float:
    """Return the value below the range that stands for None: a ROS parameter cannot be None."""
    return option.kind(0 if option.low > 0 else -1)


def _planner_parameters() -> tuple[Parameter, ...]:
    """Return the options of the planner as parameters."""
    parameters = []
    for field in fields(PlannerConfig):
        option = OPTIONS[field.name]
        default, low, description = field.default, option.low, option.description
        if default is None:
            default = low = _unset(option)
            description += f" {default:g}: {option.unset}."
        parameters.append(Parameter(field.name, default, description, low, option.high, option.choices))
    return tuple(parameters)


def planner_config(values: dict) -> PlannerConfig:
    """Return the planner's options from the parameters of planner_node. UserError for values out of range."""
    given = {name: values[name] for name in OPTIONS}
    for field in fields(PlannerConfig):
        if field.default is None and given[field.name] == _unset(OPTIONS[field.name]):
            given[field.name] = None
    return PlannerConfig(**given)


# On a robot, unlike in a simulation, a person starts the planning, and a stuck robot stops.
_ON_A_ROBOT = {"enabled": False, "progress_timeout": 30.0, "max_age": 0.5}
_PLANNING = 0.8  # of a model step: the rest is for the encoder, the topics and command_node


def robot_defaults(robot: RobotFile) -> dict[str, Any]:
    """Return the defaults, by name, of the parameters that a robot file gives."""
    camera = next(camera for camera in robot.cameras if camera.name == robot.model_camera)
    command = robot.command
    return _ON_A_ROBOT | {
        "compressed": camera.topic.endswith("/compressed"),
        "image_stamp": "received" if camera.time == "receive" else "header",
        "joint_prefix": robot.joints.prefix if robot.joints else "",
        "deadline": min(1e3 * _PLANNING * robot.period * robot.block, OPTIONS["deadline"].high),
        "limits.low": robot.actions.low,
        "limits.high": robot.actions.high,
        "limits.max_step": command.max_step,
        "limits.position_low": command.position_low,
        "limits.position_high": command.position_high,
        **({"command.interface": command.interface} if command.interface else {}),
    }


CHECKPOINT = Parameter("checkpoint", "", "Checkpoint folder, or the name of a shipped one such as reach.")
ROBOT = Parameter(
    "robot",
    "",
    "Robot file, which is compared with the checkpoint. It gives the defaults of command.interface, "
    "joint_prefix, the limits, image_stamp and compressed; those of enabled, progress_timeout and max_age "
    "become false, 30.0 and 0.5, and that of deadline 80 % of a model step.",
)
DEVICE = Parameter(
    "device",
    "auto",
    "Device of torch; auto: the GPU if there is one.",
    choices=("auto", "cpu", "cuda"),
)
THREADS = Parameter("torch_threads", 1, "CPU threads of torch.", low=1, high=256)
PLAN_TIMEOUT = Parameter(
    "plan_timeout",
    0.5,
    "Time for which a plan is executed when no newer one arrives, in seconds; the same in "
    "planner_node and command_node.",
    low=0.01,
    high=60.0,
)
LIMITS = (
    Parameter(
        "limits.low",
        NUMBERS,
        "Lowest action of each joint or axis, where the robot allows less than the checkpoint; "
        "the same in planner_node and command_node.",
    ),
    Parameter("limits.high", NUMBERS, "Highest action of each joint or axis."),
)
JOINT_PREFIX = Parameter(
    "joint_prefix",
    "",
    "Prefix of the action names in joint_states and in the trajectories that are sent; the "
    "same in planner_node and command_node.",
)
MANAGED = (
    Parameter(
        "autostart", True, "Configure and activate the node at start; otherwise a lifecycle manager does it."
    ),
)

PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "encoder_node": (
        *MANAGED,
        CHECKPOINT,
        ROBOT,
        DEVICE,
        THREADS,
        Parameter(
            "compressed",
            False,
            "Subscribe to camera/image_raw/compressed (JPEG or PNG) instead of camera/image_raw.",
        ),
        Parameter(
            "image_stamp",
            "header",
            "Time of a frame: that of its header, or received, the time of its arrival, for cameras that do "
            "not stamp or have another clock.",
            choices=("header", "received"),
        ),
        Parameter(
            "max_age",
            1.0,
            "Largest age of a frame on arrival, in seconds; older ones are dropped. 0: no limit.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "frozen_after",
            1.0,
            "Time of identical images with new stamps after which the camera counts as frozen, in "
            "seconds. 0: no check, for cameras without noise.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "max_rate",
            100.0,
            "Largest number of frames that are encoded a second; the others are dropped.",
            low=1.0,
            high=1000.0,
            changeable=True,
        ),
    ),
    "planner_node": (
        *MANAGED,
        CHECKPOINT,
        ROBOT,
        DEVICE,
        THREADS,
        Parameter(
            "enabled", True, "Plan from the start; otherwise the service planner/enable starts planning."
        ),
        PLAN_TIMEOUT,
        *LIMITS,
        JOINT_PREFIX,
        Parameter(
            "frame_moves",
            True,
            "The frame of the twist moves with the robot, as base_link does; false: it is fixed, as the base "
            "of an arm. For plan/path and plan/candidates only.",
        ),
        *_planner_parameters(),
        Parameter(
            "hang_timeout",
            5.0,
            "Real time, less waits for a processor, after which an unfinished plan is a fault, in seconds.",
            low=0.1,
            high=600.0,
            changeable=True,
        ),
        Parameter(
            "progress_timeout",
            0.0,
            "Time without progress towards the goal after which planning stops, in seconds. 0: never.",
            low=0.0,
            high=3600.0,
            changeable=True,
        ),
    ),
    "command_node": (
        *MANAGED,
        CHECKPOINT,
        ROBOT,
        Parameter(
            "command.interface",
            "twist",
            "Command message: twist (TwistStamped), twist_unstamped (Twist), velocities (Float64MultiArray) "
            "or joint_trajectory (JointTrajectory).",
            choices=("twist", "twist_unstamped", "velocities", "joint_trajectory"),
        ),
        Parameter(
            "lease",
            0.25,
            "Time without a health message after which a node counts as lost, in seconds; it is "
            "extended up to 2 s for 10 s after its messages came late.",
            low=0.15,
            high=10.0,
        ),
        PLAN_TIMEOUT,
        Parameter(
            "image_timeout",
            0.0,
            "Age of the newest encoded frame at which the robot is stopped, in seconds. 0: 1.1 model steps.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "joint_timeout",
            0.5,
            "Age of the newest joint_states at which the robot is stopped, in seconds.",
            low=0.01,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "clock_timeout",
            0.5,
            "Real time without progress of the ROS clock (use_sim_time) after which the robot is "
            "stopped, in seconds.",
            low=0.1,
            high=600.0,
            changeable=True,
        ),
        Parameter(
            "fresh_frames",
            3,
            "Consecutive frames that end a stop caused by missing frames.",
            low=1,
            high=1000,
            changeable=True,
        ),
        Parameter(
            "clamped_steps",
            40,
            "Consecutive actions outside the limits that are a fault; to be held at a joint's end is none.",
            low=1,
            high=100000,
            changeable=True,
        ),
        JOINT_PREFIX,
        Parameter(
            "continuous_joints",
            "",
            "Names of continuous joints, separated by commas; their positions are unwrapped. A jump "
            "of another joint by a full turn stops the robot.",
        ),
        Parameter(
            "release_after",
            0.5,
            "Time at standstill after command/release, or after planning was disabled, before "
            "commands are no longer sent, in seconds.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "ramp",
            0.5,
            "Time in which the actions grow to their planned size after the robot is taken over "
            "again, in seconds.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "dead_man.topic",
            "",
            "Topic of a dead-man switch, such as joy: the robot moves only while it is pressed. Empty: none.",
        ),
        Parameter(
            "dead_man.button",
            -1,
            "Button of a sensor_msgs/Joy on that topic, counted from 0; -1: the topic is a std_msgs/Bool.",
            low=-1,
            high=255,
        ),
        Parameter(
            "dead_man.timeout",
            0.5,
            "Real time without a message on that topic after which the robot is stopped, in seconds.",
            low=0.1,
            high=10.0,
            changeable=True,
        ),
        Parameter(
            "override_time",
            5.0,
            "Time for which command/reset overrides a stop that monitor_node requests, in seconds.",
            low=0.0,
            high=600.0,
            changeable=True,
        ),
        Parameter(
            "override_speed",
            0.25,
            "Factor on the planned actions during this time.",
            low=0.0,
            high=1.0,
            changeable=True,
        ),
        Parameter(
            "repeated_holds_window",
            20.0,
            "Time within which the third stop that monitor_node requests during motion is a fault, "
            "in seconds.",
            low=0.0,
            high=3600.0,
            changeable=True,
        ),
        Parameter(
            "remember_stop",
            True,
            "Keep an emergency stop in a file under ROS_HOME (~/.ros), so that it lasts when the "
            "process is restarted.",
        ),
        *LIMITS,
        Parameter(
            "limits.max_step",
            NUMBERS,
            "Largest change of an action from one control step to the next; empty: no limit.",
        ),
        Parameter(
            "limits.position_low",
            NUMBERS,
            "Lowest joint positions, in rad; required by the joint_trajectory interface.",
        ),
        Parameter("limits.position_high", NUMBERS, "Highest joint positions, in rad."),
    ),
    "monitor_node": (
        *MANAGED,
        CHECKPOINT,
        ROBOT,
        THREADS,
        PLAN_TIMEOUT,
        Parameter(
            "hold",
            True,
            "Stop the robot on an anomaly; otherwise only report it.",
            changeable=True,
        ),
        Parameter(
            "hold_on_risk",
            False,
            "Stop the robot when the planned actions are predicted to lead to the event of the checkpoint's "
            "risk head, such as a fall; otherwise only report it.",
            changeable=True,
        ),
        Parameter(
            "trigger_steps",
            3,
            "Consecutive model steps with a high surprise, or with a latent norm out of "
            "distribution, that make an anomaly.",
            low=1,
            high=1000,
            changeable=True,
        ),
        Parameter(
            "clear_steps",
            3,
            "Consecutive normal model steps that end an anomaly.",
            low=1,
            high=1000,
            changeable=True,
        ),
        Parameter(
            "camera_latency",
            True,
            "Estimate how much older the camera's pictures are than their stamps say; plans allow for it.",
        ),
    ),
    "imagination_node": (
        *MANAGED,
        CHECKPOINT,
        ROBOT,
        replace(DEVICE, default="cpu"),  # a GPU is the planner's
        PLAN_TIMEOUT,
        Parameter("steps", 8, "Model steps that are imagined.", low=1, high=20, changeable=True),
        Parameter(
            "tile", 128, "Width and height of each picture, in pixels.", low=96, high=512, changeable=True
        ),
        Parameter(
            "show_camera",
            True,
            "Show the camera's newest frame beside the decoded one; false: do not subscribe to the camera.",
            changeable=True,
        ),
        Parameter("compressed", False, "Subscribe to camera/image_raw/compressed instead, as encoder_node."),
    ),
    "view_node": (
        Parameter(
            "host",
            "localhost",
            "Name or address that the page is served on; any other than localhost needs the token that the "
            "node prints.",
        ),
        Parameter("port", 8090, "Port of the page. 0: a free one.", low=0, high=65535),
        Parameter(
            "picture_rate",
            15.0,
            "Largest number of pictures of each kind that are sent to the browsers a second.",
            low=0.1,
            high=60.0,
            changeable=True,
        ),
    ),
    "recorder_node": (
        Parameter("robot", "", "Robot file, which describes the streams to record."),
        Parameter("out", "", "Episode file (.h5) to write or continue."),
        Parameter(
            "keep_last",
            0.0,
            "Time that is kept in memory while nothing is recorded, in seconds; recorder/keep_last "
            "stores it as an episode.",
            low=0.0,
            high=3600.0,
        ),
        Parameter(
            "clock",
            "rate",
            "A row each period of the robot file (rate), or with each frame of the model's camera.",
            choices=("rate", "camera"),
        ),
        Parameter(
            "split_gap",
            1.0,
            "Silence of a stream, in seconds, after which an episode ends.",
            low=0.01,
            high=60.0,
        ),
        Parameter("keyboard", False, "Take commands from the keys of the terminal."),
    ),
    "sim_node": (
        Parameter("task", DEFAULT_TASK, "Task of the simulation: its name, or module:Class."),
        Parameter("gui", False, "Open a window that shows the simulation."),
        Parameter(
            "camera_rate",
            0.0,
            "Frame rate of the camera, in Hz, independent of the control steps. 0: one frame at the "
            "start of each model step.",
            low=0.0,
            high=60.0,
        ),
        Parameter(
            "camera_jitter",
            0.0,
            "Largest random shift of the time of a frame, in seconds; its stamp is the true time. "
            "Requires a camera_rate above 0.",
            low=0.0,
            high=0.1,
        ),
        Parameter("seed", 0, "Seed of the start and of the goals.", low=0, high=2**31 - 1),
        Parameter(
            "goals", 0, "Number of goals after which the simulation ends. 0: no end.", low=0, high=2**31 - 1
        ),
        Parameter(
            "budget",
            0,
            "Control steps allowed for a goal, from its first plan. 0: the task's default.",
            low=0,
            high=100000,
        ),
        Parameter(
            "real_time_factor",
            1.0,
            "Speed of the simulation clock relative to real time. 0: as fast as the nodes allow.",
            low=0.0,
            high=1000.0,
        ),
        Parameter(
            "lockstep_timeout",
            1.5,
            "Real time that the simulation waits for a command or plan that is due, in seconds.",
            low=0.0,
            high=60.0,
        ),
        Parameter(
            "faults",
            "",
            "Injected faults, separated by commas: drop, freeze, delay, latency, encoding, size, black, "
            "nan_joints, permute_joints, flood.",
            changeable=True,
        ),
        Parameter(
            "fault_delay",
            0.5,
            "Delay of the images under the faults delay and latency, in seconds.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
    ),
}


def table() -> str:
    """Return all parameters as Markdown."""
    lines = []
    for node, parameters in PARAMETERS.items():
        lines += [f"### {node}", "", "| parameter | default | range | meaning |", "|---|---|---|---|"]
        for p in parameters:
            default = str(p.default).lower() if isinstance(p.default, bool) else p.default
            shown = f"`{default}`" if default not in ("", ()) else ""
            span = ", ".join(p.choices) if p.low is None else f"{_plain(p.low)} to {_plain(p.high)}"
            mark = " *" if p.changeable else ""
            lines.append(f"| `{p.name}`{mark} | {shown} | {span} | {p.description} |")
        lines.append("")
    return "\n".join(lines)


def _plain(number: int | float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
