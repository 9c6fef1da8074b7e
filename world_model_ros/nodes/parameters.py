"""Every parameter of every node, declared once: the nodes read it, and so does the README's table.

No ROS in here: ``python -m world_model_ros.nodes.parameters`` prints the table.
"""

import array
import math
import reprlib
from dataclasses import dataclass
from typing import Any

from world_model_ros.sim.tasks import DEFAULT_TASK

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a decimal point",
    str: "a text",
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

    def problem(self, value) -> str:
        """Return why ``value`` is refused, or "". A list that is not given is None."""
        kind = type(self.default)
        if kind is tuple:
            if value is None:
                return ""
            numbers = list(value) if isinstance(value, list | tuple | array.array) else [value]
            fits = all(type(number) is float for number in numbers) and numbers != [value]
        else:
            numbers, fits = [value], type(value) is kind
        if not fits:
            return f"{self.name} is {_short(value)}: give {_KINDS[kind]}"
        for number in numbers:
            if type(number) is float and not math.isfinite(number):
                return f"{self.name} is {number}: give a finite number"
        if self.choices and value not in self.choices:
            return f"{self.name} is {_short(value)}: choose one of {', '.join(self.choices)}"
        if self.low is not None and not self.low <= value <= self.high:
            return f"{self.name} is {_short(value)}: give a number from {self.low} to {self.high}"
        return ""


def _short(value) -> str:
    """Return a value as people may read it, however long it is."""
    if type(value) is int and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    return reprlib.repr(value)


def _suited(name: str, description: str, high: int | float) -> Parameter:
    """Return a planner setting that may be left open, as zero: ROS parameters know no None."""
    zero = type(high)(0)
    return Parameter(name, zero, f"{description}; 0 for what suits the objective.", low=zero, high=high)


CHECKPOINT = Parameter("checkpoint", "", "Checkpoint folder, or the name of a shipped one such as reach.")
DEVICE = Parameter(
    "device",
    "auto",
    "Where torch computes: auto is the GPU where there is one.",
    choices=("auto", "cpu", "cuda"),
)
THREADS = Parameter("torch_threads", 1, "CPU threads of torch.", low=1, high=256)
PLAN_TIMEOUT = Parameter(
    "plan_timeout",
    0.5,
    "How long one plan is played without a newer one, in seconds; the same in planner_node and command_node.",
    low=0.01,
    high=60.0,
)
LIMITS = (
    Parameter(
        "limits.low",
        NUMBERS,
        "Lowest actions, a number each, where the robot allows less than the checkpoint's; the same in "
        "planner_node and command_node.",
    ),
    Parameter("limits.high", NUMBERS, "Highest actions, a number each."),
)
JOINT_PREFIX = Parameter(
    "joint_prefix",
    "",
    "What precedes the action names in the names of joint_states and of the trajectories that are sent; the "
    "same in planner_node and command_node.",
)
MANAGED = (
    Parameter("autostart", True, "Configure and activate at start; else a lifecycle manager does it."),
)

PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "encoder_node": (
        *MANAGED,
        CHECKPOINT,
        DEVICE,
        THREADS,
        Parameter("compressed", False, "Read camera/image_raw/compressed (JPEG or PNG) instead."),
        Parameter(
            "max_age",
            1.0,
            "Frames with an older stamp on arrival are dropped, in seconds; 0 takes all.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "frozen_after",
            1.0,
            "Seconds of identical pictures under new stamps after which the camera counts as frozen; "
            "0 for cameras without noise.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "max_rate",
            100.0,
            "Frames a second that are perceived; the others are dropped.",
            low=1.0,
            high=1000.0,
            changeable=True,
        ),
    ),
    "planner_node": (
        *MANAGED,
        CHECKPOINT,
        DEVICE,
        THREADS,
        Parameter("enabled", True, "Plan from the start; else planner/enable does it."),
        PLAN_TIMEOUT,
        *LIMITS,
        JOINT_PREFIX,
        _suited("horizon", "Model steps that a plan looks ahead", 50),
        Parameter(
            "solver",
            "auto",
            "How candidates are searched; auto is what suits the objective.",
            choices=("auto", "cem", "icem", "mppi", "gradient"),
        ),
        _suited("samples", "Candidates in an iteration of the solver", 10000),
        _suited("elites", "Best candidates that the next draw follows", 1000),
        _suited("iterations", "Iterations of the solver", 100),
        _suited("initial_std", "Of the first draw, in z-scores", 10.0),
        _suited("correlation", "Of the noise between neighbouring control steps", 0.999),
        Parameter(
            "objective",
            "auto",
            "What candidates are judged by: squared latent distance, temporal distance (model steps to the "
            "goal), or auto: temporal where the checkpoint can.",
            choices=("auto", "squared", "temporal"),
        ),
        Parameter(
            "proposal",
            "auto",
            "What planning begins with; auto is inverse_dynamics where the checkpoint can.",
            choices=("auto", "none", "inverse_dynamics"),
        ),
        Parameter(
            "precision", "fp32", "Of the imagination; bf16 where that is faster.", choices=("fp32", "bf16")
        ),
        Parameter(
            "deadline",
            0.0,
            "Milliseconds that a plan may take: it stops at its last finished iteration; 0 for no end.",
            low=0.0,
            high=60000.0,
        ),
        Parameter(
            "hang_timeout",
            5.0,
            "Seconds of real time after which a plan that does not end is a fault.",
            low=0.1,
            high=600.0,
            changeable=True,
        ),
        Parameter(
            "progress_timeout",
            0.0,
            "Seconds without coming nearer to the goal after which planning ends; 0 goes on for ever.",
            low=0.0,
            high=3600.0,
            changeable=True,
        ),
        Parameter("seed", 0, "Seed of the draws.", low=0, high=2**31 - 1),
    ),
    "command_node": (
        *MANAGED,
        CHECKPOINT,
        Parameter(
            "command.interface",
            "twist",
            "What the robot takes: a TwistStamped, a Float64MultiArray or a JointTrajectory.",
            choices=("twist", "velocities", "joint_trajectory"),
        ),
        Parameter(
            "lease",
            0.25,
            "Seconds without a health message after which a node is missed; longer, up to 2, for 10 s after "
            "its messages came late.",
            low=0.15,
            high=10.0,
        ),
        PLAN_TIMEOUT,
        Parameter(
            "image_timeout",
            0.0,
            "Seconds since the newest perceived frame after which the robot stands still; 0 for a tenth more "
            "than a model step.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "joint_timeout",
            0.5,
            "Seconds since the newest joint_states after which the robot stands still.",
            low=0.01,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "clock_timeout",
            0.5,
            "Seconds of real time that the clock may stand (use_sim_time) before the robot is stopped.",
            low=0.1,
            high=600.0,
            changeable=True,
        ),
        Parameter(
            "fresh_frames",
            3,
            "Frames in a row that end a standstill for missing ones.",
            low=1,
            high=1000,
            changeable=True,
        ),
        Parameter(
            "clamped_steps",
            40,
            "Actions in a row outside the limits that are a fault.",
            low=1,
            high=100000,
            changeable=True,
        ),
        JOINT_PREFIX,
        Parameter(
            "continuous_joints",
            "",
            "Joints without an end, separated by commas: their positions are unwrapped, while a jump of a "
            "turn of another joint stops the robot.",
        ),
        Parameter(
            "release_after",
            0.5,
            "Seconds of standing still after command/release, or after planning was disabled, until nothing "
            "is sent any more.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "ramp",
            0.5,
            "Seconds in which the actions grow to their planned size once the robot is taken over again.",
            low=0.0,
            high=60.0,
            changeable=True,
        ),
        Parameter(
            "override_time",
            5.0,
            "Seconds for which command/reset overrides a standstill that monitor_node asks for.",
            low=0.0,
            high=600.0,
            changeable=True,
        ),
        Parameter(
            "override_speed",
            0.25,
            "Share of the planned action that is sent meanwhile.",
            low=0.0,
            high=1.0,
            changeable=True,
        ),
        Parameter(
            "repeated_holds_window",
            20.0,
            "Seconds within which the third standstill that monitor_node asks for while the robot moves is a "
            "fault.",
            low=0.0,
            high=3600.0,
            changeable=True,
        ),
        Parameter(
            "remember_stop",
            True,
            "Keep an emergency stop in a file under ROS_HOME (~/.ros), so that it outlives this process.",
        ),
        *LIMITS,
        Parameter(
            "limits.max_step",
            NUMBERS,
            "How much an action may differ from the one a control step before; empty for no limit.",
        ),
        Parameter(
            "limits.position_low",
            NUMBERS,
            "Lowest joint positions, in rad; needed for the joint_trajectory interface.",
        ),
        Parameter("limits.position_high", NUMBERS, "Highest joint positions, in rad."),
    ),
    "monitor_node": (
        *MANAGED,
        CHECKPOINT,
        THREADS,
        PLAN_TIMEOUT,
        Parameter(
            "hold",
            True,
            "Whether doubt keeps the robot still; else it is only said.",
            changeable=True,
        ),
        Parameter(
            "trigger_steps",
            3,
            "Model steps in a row that must surprise, or look like nothing in training, for a doubt.",
            low=1,
            high=1000,
            changeable=True,
        ),
        Parameter(
            "clear_steps",
            3,
            "Model steps in a row as expected that end a doubt.",
            low=1,
            high=1000,
            changeable=True,
        ),
    ),
    "sim_node": (
        Parameter("task", DEFAULT_TASK, "Task of the simulation: its name, or module:Class."),
        Parameter("gui", False, "Open a window."),
        Parameter(
            "camera_rate",
            0.0,
            "Frames a second of the camera, on a clock of its own; 0 for one a model step, at its start.",
            low=0.0,
            high=60.0,
        ),
        Parameter(
            "camera_jitter",
            0.0,
            "How much earlier or later than that a frame may be taken, in seconds, at random; its stamp says "
            "when it was. Not with a camera_rate of 0.",
            low=0.0,
            high=0.1,
        ),
        Parameter("seed", 0, "Seed of the start and of the goals.", low=0, high=2**31 - 1),
        Parameter(
            "goals", 0, "How many goals to try before ending; 0 goes on for ever.", low=0, high=2**31 - 1
        ),
        Parameter(
            "budget",
            0,
            "Control steps a goal may take, from its first plan; 0 for what the task needs.",
            low=0,
            high=100000,
        ),
        Parameter(
            "real_time_factor",
            1.0,
            "Speed of the clock against real time; 0: as fast as the nodes keep up.",
            low=0.0,
            high=1000.0,
        ),
        Parameter(
            "patience",
            1.0,
            "How long to wait for a command or plan that is due, in seconds, before going on without.",
            low=0.0,
            high=60.0,
        ),
        Parameter(
            "faults",
            "",
            "What goes wrong, separated by commas: drop, freeze, delay, encoding, size, black, nan_joints, "
            "permute_joints, flood.",
            changeable=True,
        ),
        Parameter(
            "fault_delay",
            0.5,
            "How late pictures are under the fault delay, in seconds.",
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
        lines += [f"**{node}**", "", "| parameter | default | range | meaning |", "|---|---|---|---|"]
        for p in parameters:
            default = str(p.default).lower() if isinstance(p.default, bool) else p.default
            shown = f"`{default}`" if default not in ("", ()) else ""
            span = ", ".join(p.choices) if p.choices else "" if p.low is None else f"{p.low:g} to {p.high:g}"
            mark = " *" if p.changeable else ""
            lines.append(f"| `{p.name}`{mark} | {shown} | {span} | {p.description} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
