"""The robot file: one description of a robot that recording, conversion, training and deployment read."""

import dataclasses
import difflib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from world_model_ros.errors import UserError
from world_model_ros.model.config import (
    PERIODS,
    ActionInterface,
    CheckpointSpec,
    RobotSpec,
    interface_differences,
)
from world_model_ros.plain_yaml import NotPlainError, read
from world_model_ros.safety.limits import INTERFACES, TWIST_NAMES, UNITS

KINDS = (*INTERFACES, "joint_position")
# What a topic of recorded actions may have, and the kinds that can be read from it.
SOURCES = {
    "JointState": KINDS,
    "TwistStamped": ("twist",),
    "Twist": ("twist",),
    "JointTrajectory": ("joint_velocity", "joint_position"),
    "Float64MultiArray": KINDS,
}
JOINT_FIELDS = ("position", "velocity", "effort")
TIMES = ("header", "receive")
_LONGEST = 1 << 16  # bytes


class Policy(NamedTuple):
    """Which message of a stream stands for a step: see ``parse_policy``."""

    kind: str = "hold"
    tolerance: float = 0.0  # seconds, of as-of

    def __str__(self) -> str:
        return f"as-of:{self.tolerance:g}" if self.kind == "as-of" else self.kind


HOLD = Policy()


def parse_policy(text: str) -> Policy:
    """Return the policy that a text names; ValueError, a phrase with the remedy, for another text.

    ``hold`` takes the newest message before a step, however old. ``as-of:SECONDS`` takes it while it is at
    most that old. ``drop`` takes it while no step before had it. A step that has none ends the episode.
    """
    kind, _, tolerance = str(text).partition(":")
    if kind in ("hold", "drop") and not tolerance:
        return Policy(kind)
    try:
        seconds = float(tolerance)
    except ValueError:
        seconds = math.nan
    if kind != "as-of" or not 0 < seconds < math.inf:
        raise ValueError(f"{text!r} is no policy: write hold, drop, or as-of:SECONDS such as as-of:0.1")
    return Policy(kind, seconds)


@dataclass(frozen=True)
class Camera:
    """A camera; its topic has Image or CompressedImage, which its messages tell."""

    name: str
    topic: str
    rate: float  # Hz, as declared
    size: int | None = None  # side of the stored square frames in pixels; None stores frames as they are
    time: str = "header"
    policy: Policy = HOLD


@dataclass(frozen=True)
class Joints:
    """The joints whose states are stored, and the topics that share them among each other."""

    names: tuple[str, ...]
    topics: tuple[str, ...] = ("joint_states",)
    prefix: str = ""  # before each name in the messages
    fields: tuple[str, ...] = ("position",)
    rate: float | None = None  # Hz, as declared
    time: str = "header"
    policy: Policy = HOLD


@dataclass(frozen=True)
class Source:
    """Where the recorded actions come from."""

    topic: str = "command/executed"
    type: str = "JointState"
    rate: float | None = None  # Hz, as declared
    time: str = "header"
    policy: Policy = HOLD


@dataclass(frozen=True)
class Actions:
    """The action of one control step, in physical units; one entry per dimension."""

    names: tuple[str, ...]
    kind: str
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    frame: str = ""
    source: Source = Source()


@dataclass(frozen=True)
class Command:
    """How the robot is commanded; the limits have a number for each action name, or are empty."""

    interface: str = ""  # empty for a robot that is only recorded
    topic: str = ""  # that its controller listens to; empty: that of command_node
    max_step: tuple[float, ...] = ()  # change of an action from one control step to the next
    position_low: tuple[float, ...] = ()  # of joints, in rad
    position_high: tuple[float, ...] = ()


class Stream(NamedTuple):
    """One topic in one of its uses; ``role`` is camera, joints or actions."""

    name: str  # within the robot file, for people
    role: str
    topic: str
    rate: float | None
    time: str
    policy: Policy

    @property
    def where(self) -> str:
        """Name and topic, for people."""
        return self.name if self.topic in self.name else f"{self.name} ({self.topic})"

    @property
    def section(self) -> str:
        """The part of the robot file that has its ``time``."""
        return {"camera": f"cameras.{self.name}", "joints": "joints"}.get(self.role, "actions.source")


@dataclass(frozen=True)
class RobotFile:
    """All of a robot file; ``path`` is where it was read."""

    path: str
    name: str
    period: float  # seconds, of one control step
    block: int  # control steps in one model step
    cameras: tuple[Camera, ...]
    model_camera: str  # the name of the camera that the model sees
    actions: Actions
    joints: Joints | None = None
    command: Command = Command()

    @property
    def interface(self) -> str:
        """The interface of commands; empty for a robot that is only recorded."""
        return self.command.interface

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Every declared stream, the model's camera first."""
        cameras = sorted(self.cameras, key=lambda camera: camera.name != self.model_camera)
        streams = [Stream(c.name, "camera", c.topic, c.rate, c.time, c.policy) for c in cameras]
        if self.joints is not None:
            j = self.joints
            streams += [Stream(f"joints {t}", "joints", t, j.rate, j.time, j.policy) for t in j.topics]
        s = self.actions.source
        return (*streams, Stream("actions", "actions", s.topic, s.rate, s.time, s.policy))

    @property
    def proprio_names(self) -> list[str]:
        """Names of the stored joint values, field by field."""
        if self.joints is None:
            return []
        fields = [(field, "" if field == "position" else f"_{field}") for field in self.joints.fields]
        return [name + suffix for _, suffix in fields for name in self.joints.names]

    @property
    def action_interface(self) -> ActionInterface:
        """What a checkpoint or an episode file must have in common with this robot."""
        a = self.actions
        return ActionInterface(a.names, a.kind, a.unit, a.frame, a.low, a.high, self.period, self.block)

    @property
    def attributes(self) -> dict:
        """What an episode file of this robot says about itself."""
        a = self.actions
        return {
            "robot": self.name,
            "action_names": list(a.names),
            "action_kind": a.kind,
            "action_unit": a.unit,
            "action_frame": a.frame,
            "action_low": list(a.low),
            "action_high": list(a.high),
            "period": self.period,
            "block": self.block,
            **({"proprio_names": self.proprio_names} if self.joints else {}),
            "camera": self.model_camera,
        }

    def override(self, time: str | None = None, policies: dict[str, Policy] | None = None) -> "RobotFile":
        """Return this robot with another timeline for all streams, and other policies.

        ``policies`` is by camera, "joints" or "actions"; under "" for all others. Raises UserError for
        another name.
        """
        policies = policies or {}
        names = [*(camera.name for camera in self.cameras), *(["joints"] if self.joints else []), "actions"]
        if wrong := next((name for name in policies if name and name not in names), None):
            raise UserError(f"no stream is called {wrong!r}: name one of {', '.join(names)}.")

        def changed(name: str, part):
            policy = policies.get(name, policies.get("", part.policy))
            return dataclasses.replace(part, policy=policy, time=time or part.time)

        return dataclasses.replace(
            self,
            cameras=tuple(changed(camera.name, camera) for camera in self.cameras),
            joints=changed("joints", self.joints) if self.joints else None,
            actions=dataclasses.replace(self.actions, source=changed("actions", self.actions.source)),
        )

    @property
    def spec(self) -> RobotSpec:
        """What a checkpoint remembers of this robot, beside its actions."""
        camera = next(camera for camera in self.cameras if camera.name == self.model_camera)
        return RobotSpec(
            name=self.name,
            camera=camera.name,
            camera_topic=camera.topic,
            camera_rate=camera.rate,
            joints=self.joints.names if self.joints else (),
            joint_prefix=self.joints.prefix if self.joints else "",
            command_interface=self.interface,
        )

    def differences(self, theirs: ActionInterface, camera: str, whose: str) -> list[str]:
        """Return what contradicts this file, a phrase each with both values; ``whose`` is the other side.

        Limits narrower than theirs are no contradiction: they keep the robot to less than it was trained on.
        ``camera`` is the name of the camera that the model sees, empty where it is not known.
        """
        ours = self.action_interface
        stated = theirs.low and theirs.names == ours.names
        if stated and all(
            their_low <= low and high <= their_high
            for their_low, low, high, their_high in zip(
                theirs.low, ours.low, ours.high, theirs.high, strict=True
            )
        ):
            ours = ours._replace(low=(), high=())
        sides = f"in the {whose}", f"in {self.path}"
        differing = interface_differences(theirs, ours, sides)
        if camera and camera != self.model_camera:
            differing.append(f"model_camera {camera!r} {sides[0]} and {self.model_camera!r} {sides[1]}")
        return differing

    def check_data(self, interface: ActionInterface, attributes: dict, path: str | Path) -> None:
        """Raise UserError, both sides in it, where an episode file is not one of this robot."""
        if differing := self.differences(interface, str(attributes.get("camera", "")), "data"):
            raise UserError(
                f"{path} was not recorded with the robot of {self.path}: {'; '.join(differing)}; give other "
                "data, or correct the robot file."
            )

    def check(self, spec: CheckpointSpec, checkpoint: str) -> None:
        """Raise UserError, both sides in it, where a checkpoint is not one of this robot."""
        if differing := self.differences(spec.interface, spec.robot.camera, "checkpoint"):
            raise UserError(
                f"{checkpoint} was not made for the robot of {self.path}: {'; '.join(differing)}; choose "
                "another checkpoint, or correct the robot file."
            )


def read_robot(path: str | Path) -> RobotFile:
    """Read and check a robot file.

    Raises UserError that names the file and, phrase by phrase, every value that is wrong.
    """
    path = Path(path).expanduser()
    try:
        values = read(path, _LONGEST)
    except FileNotFoundError:
        raise UserError(f"there is no robot file {path}: give a copy of config/robot.yaml.") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a copy of config/robot.yaml."
        ) from None
    except NotPlainError as error:
        where = f" in line {error.line}" if error.line else ""
        raise UserError(
            f"{path} is not a YAML file that can be read{where} ({error.problem}): correct it."
        ) from None
    if isinstance(values, dict) and any(
        "ros__parameters" in (v or ()) for v in values.values() if _is_map(v)
    ):
        raise UserError(
            f"{path} has parameters of nodes, it describes no robot: give a copy of config/robot.yaml."
        )
    problems: list[str] = []
    robot = _robot(str(path), _Section(values, "", problems))
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}.")
    return robot


def _is_map(value) -> bool:
    return isinstance(value, dict)


_WANTED = {
    str: ("text", lambda v: isinstance(v, str)),
    int: ("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    float: (
        "a number",
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= sys.float_info.max,
    ),
    dict: ("a section of its own", _is_map),
}
_MISSING = object()


class _Section:
    """A mapping of the file: hands out values of the right type and notes what is wrong with the others."""

    def __init__(self, values, where: str, problems: list[str]):
        self.values, self.where, self.problems = values, where, problems
        self._known: set[str] = set()
        if not _is_map(values):
            given = "empty" if values is None else f"{values!r}"
            problems.append(
                f"{where or 'the file'} is {given}: write names with values, as config/robot.yaml does"
            )
            self.values = {}

    def name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def wrong(self, key: str, what: str) -> None:
        self.problems.append(f"{self.name(key)} {what}")

    def take(self, key: str, kind: type, default=_MISSING):
        """Return the value of ``key``; ``default``, or the kind's empty value, where missing or wrong."""
        self._known.add(key)
        fallback = kind() if default is _MISSING else default
        if key not in self.values:
            if default is _MISSING and not self._misspelt(key):
                self.wrong(key, f"is missing: give {_WANTED[kind][0]}")
            return fallback
        value = self.values[key]
        if not _WANTED[kind][1](value):
            self.wrong(key, f"is {value!r}: give {_WANTED[kind][0]}{_number_hint(kind, value)}")
            return fallback
        return kind(value) if kind is float else value

    def several(self, key: str, kind: type, default=_MISSING) -> tuple:
        """Return the list of ``key`` as a tuple of ``kind``."""
        self._known.add(key)
        if key not in self.values:
            if default is _MISSING and not self._misspelt(key):
                self.wrong(key, f"is missing: give a list, each {_WANTED[kind][0]}")
            return () if default is _MISSING else default
        value = self.values[key]
        if not isinstance(value, list) or not value:
            self.wrong(key, f"is {value!r}: give a list such as [{'a, b' if kind is str else '1.0, 2.0'}]")
            return ()
        odd = next((v for v in value if not _WANTED[kind][1](v)), None)
        if odd is not None:
            self.wrong(key, f"has {odd!r}: each must be {_WANTED[kind][0]}{_number_hint(kind, odd)}")
            return ()
        if kind is str and len(set(value)) < len(value):
            self.wrong(key, f"has {next(v for v in value if value.count(v) > 1)} twice: each once")
        return tuple(map(kind, value))

    def choice(self, key: str, choices, default=_MISSING) -> str:
        """Return the value of ``key``, which must be one of ``choices``."""
        before = len(self.problems)
        value = self.take(key, str, default)
        if key in self.values and len(self.problems) == before and value not in choices:
            self.wrong(key, f"is {value!r}{_nearest(value, choices)}: give one of {', '.join(choices)}")
        return value

    def positive(self, key: str, kind: type, default=_MISSING):
        """Return the number of ``key``, which must be above 0."""
        before = len(self.problems)
        value = self.take(key, kind, default)
        if key in self.values and len(self.problems) == before and value <= 0:
            self.wrong(key, f"is {value}: give a number above 0")
        return value

    def section(self, key: str, required: bool = True) -> "_Section | None":
        """Return the section ``key``; None where it is missing, or wrong as a whole."""
        if key not in self.values:
            self._known.add(key)
            if required and not self._misspelt(key):
                self.wrong(key, "is missing: add this section, as config/robot.yaml has it")
            return None
        self._known.add(key)
        section = _Section(self.values[key], self.name(key), self.problems)
        return section if _is_map(self.values[key]) else None

    def policy(self) -> Policy:
        """Return the section's policy."""
        text = self.take("policy", str, "hold")
        try:
            return parse_policy(text)
        except ValueError as error:
            self.problems.append(f"{self.name('policy')}: {error}")
            return HOLD

    def end(self) -> None:
        """Note every key that nobody has asked for."""
        for key in self.values:
            if key not in self._known:
                free = self._known - set(self.values)  # those that a wrong spelling may stand for
                likely = free if difflib.get_close_matches(str(key), free, 1) else self._known
                self.wrong(key, f"is unknown{_nearest(str(key), likely)}")

    def _misspelt(self, key: str) -> bool:
        """Whether some other key is nearly this one: then that is the error, said once."""
        return bool(difflib.get_close_matches(key, set(map(str, self.values)) - self._known, 1))


def _nearest(word: str, known) -> str:
    near = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f" (did you mean {near[0]}?)" if near else f", known are {', '.join(sorted(known))}"


def _number_hint(kind: type, value) -> str:
    try:
        return f", such as {float(value)!r}" if kind is float and isinstance(value, str) else ""
    except ValueError:
        return ""


def _robot(path: str, top: _Section) -> RobotFile:
    name = top.take("name", str, Path(path).stem)
    period, block = top.positive("period", float), top.positive("block", int)
    if period > 0 and not PERIODS[0] <= period <= PERIODS[1]:
        top.wrong("period", f"is {period:g}: give {PERIODS[0]:g} to {PERIODS[1]:g} seconds")
    cameras = _cameras(top)
    model_camera = top.take("model_camera", str, cameras[0].name if len(cameras) == 1 else "")
    names = [camera.name for camera in cameras]
    if cameras and model_camera not in names:
        top.wrong(
            "model_camera", f"is {model_camera!r}: name the camera that the model sees, {' or '.join(names)}"
        )
    joints = _joints(top.section("joints", required=False))
    actions = _actions(top.section("actions"), joints)
    command = _command(top, actions)
    top.end()
    return RobotFile(path, name, period, block, cameras, model_camera, actions, joints, command)


def _cameras(top: _Section) -> tuple[Camera, ...]:
    section, cameras = top.section("cameras"), []
    if section is None:
        return ()
    for name in section.values:
        if name in ("joints", "actions"):
            section.wrong(name, "is the name of other streams: give the camera another one")
            continue
        if not isinstance(name, str) or not name.replace("_", "").isalnum():
            section.wrong(str(name), "is no name of a camera: use letters, digits and _")
            continue
        c = section.section(name)
        if c is None:
            continue
        size = c.positive("size", int, None)
        cameras.append(
            Camera(
                name,
                c.take("topic", str),
                c.positive("rate", float),
                size,
                c.choice("time", TIMES, "header"),
                c.policy(),
            )
        )
        c.end()
    if not section.values:
        top.wrong("cameras", "is empty: describe at least one camera")
    return tuple(cameras)


def _joints(section: _Section | None) -> Joints | None:
    if section is None:
        return None
    fields = section.several("fields", str, ("position",))
    if odd := [field for field in fields if field not in JOINT_FIELDS]:
        section.wrong("fields", f"has {odd[0]!r}: each must be one of {', '.join(JOINT_FIELDS)}")
    joints = Joints(
        section.several("names", str),
        section.several("topics", str, ("joint_states",)),
        section.take("prefix", str, ""),
        fields,
        section.positive("rate", float, None),
        section.choice("time", TIMES, "header"),
        section.policy(),
    )
    section.end()
    return joints


def _actions(section: _Section | None, joints: Joints | None) -> Actions:
    if section is None:
        return Actions((), "", "", (), ())
    names, low, high = (
        section.several("names", str),
        section.several("low", float),
        section.several("high", float),
    )
    for key, values in (("low", low), ("high", high)):
        if names and values and len(values) != len(names):
            section.wrong(key, f"has {len(values)} numbers for {len(names)} names: give one for each")
    if len(low) == len(high) == len(names):
        for name, least, most in zip(names, low, high, strict=True):
            if least >= most:
                section.wrong(
                    "low", f"of {name} is {least:g}, not below high {most:g}: exchange or correct them"
                )
    kind = section.choice("kind", KINDS)
    frame = section.take("frame", str, "")
    if kind == "twist":
        for name in (name for name in names if name not in TWIST_NAMES):
            section.wrong(
                "names", f"has {name!r}{_nearest(name, TWIST_NAMES)}: a twist has {', '.join(TWIST_NAMES)}"
            )
    if kind.startswith("joint") and joints is not None and joints.names:
        for name in (name for name in names if name not in joints.names):
            near = difflib.get_close_matches(name, [n for n in joints.names if n not in names], 1, 0.5)
            have = f"joints.names have {near[0] if near else ', '.join(joints.names)}"
            section.wrong(
                "names",
                f"has {name!r}, which joints.names lack ({have}): correct actions.names or joints.names",
            )
    s = section.section("source", required=False)
    source = Source()
    if s is not None:
        source = Source(
            s.take("topic", str, source.topic),
            s.choice("type", SOURCES, source.type),
            s.positive("rate", float, None),
            s.choice("time", TIMES, "header"),
            s.policy(),
        )
        s.end()
    if kind in KINDS and kind not in SOURCES.get(source.type, KINDS):
        section.wrong(
            "source.type", f"is {source.type}, which has no {kind}: give one of {', '.join(_types_of(kind))}"
        )
    actions = Actions(names, kind, section.take("unit", str), low, high, frame, source)
    section.end()
    return actions


def _types_of(kind: str) -> list[str]:
    return [type_ for type_, kinds in SOURCES.items() if kind in kinds]


def _command(top: _Section, actions: Actions) -> Command:
    section = top.section("command", required=False)
    if section is None:
        return Command()
    interface = section.choice("interface", [i for fitting in INTERFACES.values() for i in fitting])
    lists = {key: section.several(key, float, ()) for key in ("max_step", "position_low", "position_high")}
    for key, values in lists.items():
        if values and actions.names and len(values) != len(actions.names):
            section.wrong(
                key, f"has {len(values)} numbers for {len(actions.names)} action names: give one for each"
            )
    if odd := [step for step in lists["max_step"] if step <= 0]:
        section.wrong("max_step", f"has {odd[0]:g}: give numbers above 0")
    low, high = lists["position_low"], lists["position_high"]
    if bool(low) != bool(high):
        section.wrong("position_low" if low else "position_high", "stands alone: give both ends, or neither")
    for name, least, most in zip(actions.names, low, high, strict=False):
        if least >= most:
            section.wrong(
                "position_low", f"of {name} is {least:g}, not below position_high {most:g}: correct it"
            )
    command = Command(interface, section.take("topic", str, ""), **lists)
    section.end()
    _check_interface(top, actions, interface)
    return command


def _check_interface(top: _Section, actions: Actions, interface: str) -> None:
    """Note a kind or a unit that the command interface cannot carry."""
    fitting = INTERFACES.get(actions.kind, ())
    known = {i for several in INTERFACES.values() for i in several}
    if actions.kind in KINDS and interface in known - set(fitting):
        remedy = f"set it to {' or '.join(fitting)}" if fitting else "leave the section command out"
        top.wrong("command.interface", f"is {interface}, which cannot carry {actions.kind} actions: {remedy}")
    units = actions.unit.replace(",", " ").replace(" and ", " ").split()
    if fitting and actions.unit and not set(units) <= UNITS:
        top.wrong("actions.unit", f"is {actions.unit!r}: commands are in {' and '.join(sorted(UNITS))}")
