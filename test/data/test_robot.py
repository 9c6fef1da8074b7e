"""The robot file: what it holds, and one clear sentence for each value that is wrong."""

from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase as letters

import pytest
import yaml

from world_model_ros.data.robot import Policy, parse_policy, read_robot
from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig, RobotSpec

ROOT = Path(__file__).resolve().parents[2]
ARM = {
    "name": "arm",
    "period": 0.05,
    "block": 5,
    "cameras": {"front": {"topic": "/camera/image_raw", "rate": 30}},
    "joints": {"names": ["a", "b"], "prefix": "left_"},
    "actions": {
        "names": ["a", "b"],
        "kind": "joint_velocity",
        "unit": "rad/s",
        "low": [-1, -1],
        "high": [1, 1.5],
    },
    "command": {"interface": "velocities"},
}


@pytest.fixture
def read(tmp_path):
    def function(changes=(), without=()):
        """Read ARM with the values of dotted ``changes`` put in, and those of ``without`` left out."""
        values = yaml.safe_load(yaml.safe_dump(ARM))
        for dotted, value in [*dict(changes).items(), *((name, None) for name in without)]:
            *sections, key = dotted.split("/")
            place = values
            for section in sections:
                place = place.setdefault(section, {})
            if dotted in without:
                del place[key]
            else:
                place[key] = value
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(values))
        return read_robot(path)

    return function


def refused(read, changes=(), without=()):
    with pytest.raises(UserError) as error:
        read(changes, without)
    return str(error.value).split("arm.yaml: ", 1)[1]


def test_what_the_file_says_is_read(read):
    robot = read()
    assert (robot.name, robot.period, robot.block, robot.interface) == ("arm", 0.05, 5, "velocities")
    assert robot.model_camera == "front"
    assert robot.actions.high == (1.0, 1.5)
    assert robot.actions.source.topic == "command/executed"
    assert [(s.name, s.role, s.topic) for s in robot.streams] == [
        ("front", "camera", "/camera/image_raw"),
        ("joints joint_states", "joints", "joint_states"),
        ("actions", "actions", "command/executed"),
    ]
    assert robot.proprio_names == ["a", "b"]
    assert read({"joints/fields": ["position", "velocity"]}).proprio_names == [
        *("a", "b", "a_velocity", "b_velocity")
    ]


def test_the_example_is_a_robot_file_and_each_of_its_options_is_known():
    robot = read_robot(ROOT / "config" / "robot.yaml")
    assert robot.name == "panda"
    assert len(robot.actions.names) == len(robot.joints.names) == 7
    text = (ROOT / "config" / "robot.yaml").read_text()
    # What is commented out is right, too.
    full = text.replace("    # time: header # h", "    time: header # h")
    full = full.replace("    # policy: hold # f", "    policy: hold # f")
    full = full.replace("  # wrist:", "  wrist:").replace("  #   ", "    ")
    assert set(yaml.safe_load(full)["cameras"]) == {"front", "wrist"}
    assert yaml.safe_load(full)["cameras"]["front"]["policy"] == "hold"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cameras/front/rat": 30}, "cameras.front.rat is unknown (did you mean rate?)."),
        ({"command/max_step": [1.0]}, "command.max_step has 1 numbers for 2 action names: give one for each"),
        ({"command/max_step": [1.0, 0.0]}, "command.max_step has 0: give numbers above 0."),
        ({"command/position_low": [0, 0]}, "command.position_low stands alone: give both ends, or neither."),
        (
            {"command/position_low": [0, 2], "command/position_high": [1, 1]},
            "command.position_low of b is 2, not below position_high 1: correct it.",
        ),
        ({"perod": 0.05}, "perod is unknown (did you mean period?)."),
        ({"joints/topcs": ["x"]}, "joints.topcs is unknown (did you mean topics?)."),
        ({"actions/source": {"topik": "x"}}, "actions.source.topik is unknown (did you mean topic?)."),
        ({"period": "fast"}, "period is 'fast': give a number."),
        ({"period": "1e-2"}, "period is '1e-2': give a number, such as 0.01."),
        ({"period": True}, "period is True: give a number."),
        ({"period": 0}, "period is 0.0: give a number above 0."),
        ({"period": 1e-11}, "period is 1e-11: give 0.001 to 60 seconds."),
        ({"period": 10**309}, f"period is {10**309}: give a number."),
        ({"block": 2.5}, "block is 2.5: give a whole number."),
        ({"cameras/front/rate": -5}, "cameras.front.rate is -5.0: give a number above 0."),
        ({"cameras/front/rate": float("nan")}, "cameras.front.rate is nan: give a number."),
        ({"cameras/front": "x"}, "cameras.front is 'x': write names with values"),
        ({"cameras": {}}, "cameras is empty: describe at least one camera."),
        ({"cameras/front/time": "stamp"}, "cameras.front.time is 'stamp', known are header, receive"),
        ({"cameras/front/policy": "as-of"}, "cameras.front.policy: 'as-of' is no policy: write hold, drop,"),
        ({"model_camera": "wrist"}, "model_camera is 'wrist': name the camera that the model sees, front."),
        ({"joints/fields": ["speed"]}, "joints.fields has 'speed': each must be one of position, velocity"),
        ({"joints/names": ["a", "b", "b"]}, "joints.names has b twice: each once."),
        ({"joints/names": "a"}, "joints.names is 'a': give a list such as [a, b]."),
        ({"joints/names": ["a", 1]}, "joints.names has 1: each must be text."),
        (
            {"joints/names": ["a", "bb"]},
            "actions.names has 'b', which joints.names lack (joints.names have bb): correct actions.names or "
            "joints.names.",
        ),
        (
            {"joints/names": ["a", "x"]},
            "lack (joints.names have a, x): correct actions.names or joints.names.",
        ),
        ({"actions/low": [-1]}, "actions.low has 1 numbers for 2 names: give one for each."),
        ({"actions/high": [1, 1, 1]}, "actions.high has 3 numbers for 2 names: give one for each."),
        ({"actions/low": [-1, 2]}, "actions.low of b is 2, not below high 1.5: exchange or correct them."),
        ({"actions/kind": "joint_speed"}, "actions.kind is 'joint_speed' (did you mean joint_velocity?)"),
        ({"actions/unit": "deg/s"}, "actions.unit is 'deg/s': commands are in m/s and rad/s."),
        ({"actions/source": {"type": "Twist"}}, "actions.source.type is Twist, which has no joint_velocity"),
        ({"command/interface": "twist"}, "command.interface is twist, which cannot carry joint_velocity"),
        ({"command/interface": "velocity"}, "command.interface is 'velocity' (did you mean velocities?)"),
        (
            {"actions/kind": "joint_position"},
            "cannot carry joint_position actions: leave the section command",
        ),
    ],
)
def test_each_wrong_value_has_one_sentence(read, changes, sentence):
    said = refused(read, changes)
    assert sentence in said
    assert said.count(";") == 0


@pytest.mark.parametrize(
    ("left_out", "sentence"),
    [
        ("period", "period is missing: give a number."),
        ("cameras", "cameras is missing: add this section, as config/robot.yaml has it."),
        ("cameras/front/topic", "cameras.front.topic is missing: give text."),
        ("actions/names", "actions.names is missing: give a list, each text."),
        ("actions/unit", "actions.unit is missing: give text."),
        ("command/interface", "command.interface is missing: give text."),
    ],
)
def test_what_is_missing_is_named(read, left_out, sentence):
    assert refused(read, without=[left_out]) == sentence


def test_a_misspelt_required_name_is_one_error_and_several_errors_are_all_told(read):
    said = refused(read, {"perod": 0.05}, without=["period"])
    assert said == "perod is unknown (did you mean period?)."
    said = refused(read, {"period": 0, "block": 0})
    assert said == "period is 0.0: give a number above 0; block is 0: give a number above 0."


def test_a_twist_has_the_names_of_a_twist(read):
    twist = {"actions/kind": "twist", "command/interface": "twist", "actions/unit": "m/s, rad/s"}
    assert read(twist | {"actions/names": ["linear_x", "angular_z"]}).actions.kind == "twist"
    said = refused(read, twist | {"actions/names": ["linear_x", "angularz"]})
    assert "actions.names has 'angularz' (did you mean angular_z?)" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("period: [", "is not a YAML file that can be read in line"),
        ("period: 1\nperiod: 2\n", "'period' stands twice"),
        ("", "the file is empty"),
        ("- 1\n", "the file is [1]"),
        ("/**:\n  ros__parameters:\n    lease: 1.0\n", "has parameters of nodes, it describes no robot"),
        ("a: " + "[" * 5000, "it is nested too deeply"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("period: 0x" + "f" * 5000, "in line 1 (a number of 5002 characters is too long)"),
        ("? [1]\n: 2", "is not a YAML file that can be read"),
        ("a: '" + "x" * (1 << 16) + "'", "it has more than 65536 bytes"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not a YAML file that can be read"),
        (
            "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(letters)),
            "*a stands for another part, write that out",
        ),
    ],
)
def test_another_file_is_refused_as_what_it_is(tmp_path, text, sentence):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="x.yaml") as error:
        read_robot(path)
    assert sentence in str(error.value)
    with pytest.raises(UserError, match=r"there is no robot file .*: give a copy of config/robot.yaml"):
        read_robot(tmp_path / "none.yaml")


def test_policies():
    assert parse_policy("hold") == Policy("hold")
    assert parse_policy("as-of:0.25") == Policy("as-of", 0.25)
    assert str(parse_policy("as-of:0.25")) == "as-of:0.25"
    for text in ("", "zero", "as-of", "as-of:0", "as-of:x", "as-of:inf", "hold:1"):
        with pytest.raises(ValueError, match="is no policy"):
            parse_policy(text)


def checkpoint(**changes):
    action = {
        "names": ("a", "b"),
        "kind": "joint_velocity",
        "unit": "rad/s",
        "mean": (0, 0),
        "std": (1, 1),
        "low": (-1, -1),
        "high": (1, 1.5),
    }
    timing = {"period": 0.05, "block": 5, "robot": RobotSpec()}
    timing |= {key: changes.pop(key) for key in list(changes) if key in timing}
    return CheckpointSpec(
        ModelConfig.small(timing["block"] * 2), ImageSpec(64), ActionSpec(**action | changes), **timing
    )


def test_a_checkpoint_of_the_same_robot_fits_and_differences_show_both_sides(read):
    robot = read()

    def differences(spec):
        return robot.differences(spec.interface, spec.robot.camera, "checkpoint")

    assert differences(checkpoint()) == []
    assert differences(checkpoint(low=(-2, -2), high=(2, 2))) == []  # narrower limits are safe
    for changes, words in (
        ({"names": ("b", "a")}, ("action names b, a in the checkpoint", "a, b in ")),
        ({"kind": "twist"}, ("kind 'twist' in the checkpoint", "'joint_velocity' in ")),
        ({"unit": "deg/s"}, ("'deg/s' in the checkpoint", "'rad/s' in ")),
        ({"frame": "base"}, ("'base' in the checkpoint",)),
        ({"period": 0.1}, ("period 0.1 in the checkpoint and 0.05 in ",)),
        ({"robot": RobotSpec(camera="wrist")}, ("model_camera 'wrist' in the checkpoint and 'front' in ",)),
        ({"robot": robot.spec, "block": 4}, ("block 4 in the checkpoint and 5 in ",)),
        ({"high": (0.5, 0.5)}, ("limits [-1, 0.5], [-1, 0.5] in the checkpoint", "[-1, 1], [-1, 1.5] in ")),
    ):
        (difference,) = differences(checkpoint(**changes))
        assert all(word in difference for word in words), difference
        with pytest.raises(UserError, match="models/x was not made for the robot of .*arm.yaml"):
            robot.check(checkpoint(**changes), "models/x")
    robot.check(checkpoint(), "models/x")
